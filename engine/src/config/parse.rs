//! TOML text to a checked `Config`.
//!
//! Owns: finding every error of a text and its place, numbers with suffixes, the nearest key.
//! Not: the table of keys, rules between keys, reading files.
//! A1  the result depends on the text only; every text gives a config or errors, never a panic.
//! A2  as many errors are reported as can be told from one pass, not only the first.

use super::Config;
use super::check::check;
use super::error::{ConfigError, ConfigErrors, Place, Problem};
use super::keys::{KEYS, Key, key};
use super::kind::{Kind, Unit, Value};
use std::collections::BTreeMap;
use std::ops::Range;
use toml_edit::{Document, Item, TableLike, TomlError};

/// Longest text that is read.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Most lines that are left out to find errors behind them.
const SYNTAX_ERROR_COUNT_MAX: usize = 16;
/// Deepest table that is looked into; the config itself has two levels.
const DEPTH_MAX: usize = 8;
/// Longest value that an error quotes, in characters.
const QUOTE_CHARS_MAX: usize = 60;

/// Reads a config (F1). Errors: all that were found; nothing of the text is used.
pub fn parse(text: &str) -> Result<Config, ConfigErrors> {
    if text.len() > TEXT_BYTES_MAX {
        let problem = Problem::TooLong { len_bytes: text.len(), len_bytes_max: TEXT_BYTES_MAX };
        return Err(ConfigErrors(vec![ConfigError { place: None, key: String::new(), problem }]));
    }
    let mut reading = Reading { text, set: BTreeMap::new(), again: Vec::new(), errors: Vec::new() };
    let mut config = Config::default();
    if let Some(document) = reading.document() {
        reading.table(document.as_table(), "", 1, &mut config);
    }
    reading.duplicates();
    if reading.errors.is_empty() {
        reading.together(&config);
    }
    let mut errors = reading.errors;
    if errors.is_empty() {
        return Ok(config);
    }
    errors.sort_by_key(|error| error.place);
    Err(ConfigErrors(errors))
}

/// A text being read.
struct Reading<'t> {
    text: &'t str,
    /// Where each known key was set.
    set: BTreeMap<&'static str, Range<usize>>,
    /// Keys that were set again, and where.
    again: Vec<(String, Range<usize>)>,
    errors: Vec<ConfigError>,
}

impl<'t> Reading<'t> {
    /// The text as TOML. A bad line is reported and left out, so that the rest can be looked at;
    /// no document where that would make up errors.
    fn document(&mut self) -> Option<Document<String>> {
        let mut text = self.text.to_owned();
        for _ in 0..SYNTAX_ERROR_COUNT_MAX {
            let error = match Document::parse(text.clone()) {
                Ok(document) => return Some(document),
                Err(error) => error,
            };
            let span = error.span().unwrap_or(0..0);
            let line = line_of(&text, span.start);
            let content = text[line.clone()].trim_start();
            let is_entry = content.contains('=') && !content.starts_with(['[', '#']);
            if is_entry && error.message().starts_with("duplicate key") {
                self.again.push((full_key(&text, &span), span));
            } else {
                self.syntax(&error, span, is_entry);
            }
            if !is_entry {
                break;
            }
            text.replace_range(line.clone(), &" ".repeat(line.len()));
        }
        None
    }

    fn syntax(&mut self, error: &TomlError, span: Range<usize>, is_entry: bool) {
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        let key = if is_entry { full_key(self.text, &span) } else { String::new() };
        self.report(Some(span), key, Problem::Syntax { message });
    }

    fn duplicates(&mut self) {
        for (path, span) in std::mem::take(&mut self.again) {
            let first = key(&path).and_then(|key| self.set.get(key.path));
            let first_line = first.map(|span| place(self.text, span.start).line);
            self.report(Some(span), path, Problem::Duplicate { first_line });
        }
    }

    /// One table and those in it.
    fn table(&mut self, table: &dyn TableLike, prefix: &str, depth: usize, config: &mut Config) {
        for (name, item) in table.iter() {
            let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            let name_span = table.get_key_value(name).and_then(|(key, _)| key.span());
            let value_span = item.span().or_else(|| name_span.clone());
            if let Some(known) = key(&path) {
                match self.value(known, item, value_span.clone()) {
                    Ok(value) => (known.set)(config, &value),
                    Err(problem) => self.report(value_span.clone(), path, problem),
                }
                self.set.insert(known.path, value_span.or(name_span).unwrap_or(0..0));
                continue;
            }
            match item.as_table_like() {
                Some(inner) if depth < DEPTH_MAX && (!inner.is_empty() || is_section(&path)) => {
                    self.table(inner, &path, depth + 1, config);
                }
                Some(_) => {
                    let nearest = nearest(&path, sections());
                    self.report(name_span.or(value_span), path, Problem::Unknown { nearest });
                }
                None if is_section(&path) => {
                    let problem = Problem::Type {
                        value: self.quote(value_span.clone()),
                        found: item.type_name(),
                        allowed: format!("a table of keys, [{path}]"),
                    };
                    self.report(value_span, path, problem);
                }
                None => {
                    let nearest = nearest(&path, KEYS.iter().map(|key| key.path));
                    self.report(name_span.or(value_span), path, Problem::Unknown { nearest });
                }
            }
        }
    }

    fn value(
        &self,
        key: &'static Key,
        item: &Item,
        span: Option<Range<usize>>,
    ) -> Result<Value, Problem> {
        let quoted = || match key.kind.is_secret() {
            true => "(not shown)".to_owned(),
            false => self.quote(span.clone()),
        };
        let allowed = || key.kind.to_string();
        let value = match (key.kind, item.as_integer(), item.as_bool(), item.as_str()) {
            (Kind::Integer { .. }, Some(number), ..) => match u64::try_from(number) {
                Ok(number) => Value::Integer(number),
                Err(_) => return Err(Problem::Range { value: quoted(), allowed: allowed() }),
            },
            (Kind::Integer { unit, .. }, _, _, Some(text)) if unit != Unit::Count => {
                Value::Integer(suffixed(text, unit).map_err(|why| Problem::Suffix {
                    value: quoted(),
                    why,
                    allowed: allowed(),
                    example: example(key, unit),
                })?)
            }
            (Kind::Bool, _, Some(on), _) => Value::Bool(on),
            (Kind::Choice(_) | Kind::Text { .. }, _, _, Some(text)) => {
                Value::Text(text.to_owned().into())
            }
            _ => {
                let found = type_words(item);
                return Err(Problem::Type { value: quoted(), found, allowed: allowed() });
            }
        };
        if key.kind.allows(&value) {
            Ok(value)
        } else {
            Err(Problem::Range { value: quoted(), allowed: allowed() })
        }
    }

    /// Rules between keys, reported at the place of a key that the text sets.
    fn together(&mut self, config: &Config) {
        for broken in check(config) {
            let set = |path: &&str| self.set.get(*path).cloned();
            let span = set(&broken.path).or_else(|| broken.others.iter().find_map(set));
            let value = key(broken.path).map(|key| (key.get)(config).to_string());
            let problem = Problem::Together { value: value.unwrap_or_default(), rule: broken.rule };
            self.report(span, broken.path.to_owned(), problem);
        }
    }

    fn report(&mut self, span: Option<Range<usize>>, key: String, problem: Problem) {
        let place = span.map(|span| place(self.text, span.start));
        self.errors.push(ConfigError { place, key: key.chars().take(200).collect(), problem });
    }

    /// What the text says there, on one line and not too long.
    fn quote(&self, span: Option<Range<usize>>) -> String {
        let written = span.and_then(|span| self.text.get(span)).unwrap_or("").trim();
        let mut quote: String = written
            .chars()
            .take(QUOTE_CHARS_MAX)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if written.chars().nth(QUOTE_CHARS_MAX).is_some() {
            quote.push_str("...");
        }
        quote
    }
}

/// Reads `64MiB`, `1.5 GiB`, `10s`, `250us`; without a suffix the number counts units.
pub(crate) fn suffixed(text: &str, unit: Unit) -> Result<u64, &'static str> {
    const FRACTION_DIGITS_MAX: usize = 9;
    let text = text.trim();
    let end =
        text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, suffix) = (text[..end].replace('_', ""), text[end..].trim_start());
    let (suffixes, parts_per_unit) = unit.suffixes();
    let parts_per_suffix = if suffix.is_empty() {
        parts_per_unit
    } else {
        suffixes.iter().find(|(name, _)| *name == suffix).map(|(_, parts)| *parts).ok_or(
            if unit == Unit::Bytes {
                "its suffix is none of B, KiB, MiB, GiB, TiB, kB, MB, GB, TB"
            } else {
                "its suffix is none of ns, us, ms, s, min, h"
            },
        )?
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it does not begin with a number");
    }
    if fraction.len() > FRACTION_DIGITS_MAX {
        return Err("it has more than 9 digits after the point");
    }
    let scale = 10u128.pow(fraction.len() as u32);
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| "it is too large")?;
    let parts = digits.checked_mul(u128::from(parts_per_suffix)).ok_or("it is too large")?;
    let divisor = scale * u128::from(parts_per_unit);
    if !parts.is_multiple_of(divisor) {
        return Err(match unit {
            Unit::Bytes => "it is no whole number of bytes",
            Unit::Microseconds => "it is no whole number of microseconds",
            Unit::Milliseconds => "it is no whole number of milliseconds",
            Unit::Count => "it is no whole number",
        });
    }
    u64::try_from(parts / divisor).map_err(|_| "it is too large")
}

/// A good value with a suffix: the default, or the least where the default is 0.
fn example(key: &Key, unit: Unit) -> String {
    let number = match (&key.default, key.kind) {
        (Value::Integer(0), Kind::Integer { least, .. }) => least,
        (Value::Integer(number), _) => *number,
        _ => 0,
    };
    format!("\"{}\"", unit.humane(number))
}

fn type_words(item: &Item) -> &'static str {
    match item.type_name() {
        "integer" => "a number",
        "float" => "a number with a point",
        "boolean" => "true or false",
        "string" => "text",
        "array" => "a list",
        "array of tables" => "a list of tables",
        "inline table" | "table" => "a table",
        "datetime" => "a date or time",
        other => other,
    }
}

/// The names of the sections.
fn sections() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(|key| key.path.split_once('.').map(|(section, _)| section))
}

fn is_section(path: &str) -> bool {
    sections().any(|section| section == path)
}

/// What was probably meant: few edits away, the same name in another section, or a beginning.
fn nearest(path: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    if path.len() > 100 {
        return None;
    }
    let name = path.rsplit('.').next().unwrap_or(path);
    let distance = |candidate: &'static str| {
        let whole = strsim::damerau_levenshtein(path, candidate);
        let own_name = candidate.rsplit('.').next().unwrap_or(candidate);
        let elsewhere = 1 + strsim::damerau_levenshtein(name, own_name);
        let beginning = if candidate.starts_with(path) { 1 } else { usize::MAX };
        whole.min(elsewhere).min(beginning)
    };
    let (distance, candidate) =
        candidates.map(|candidate| (distance(candidate), candidate)).min_by_key(|pair| pair.0)?;
    (distance <= (name.len() / 3).max(2)).then_some(candidate)
}

/// The key at `span` with the section of the nearest header above it.
fn full_key(text: &str, span: &Range<usize>) -> String {
    let line = line_of(text, span.start);
    let left = text[line.clone()].split('=').next().unwrap_or("").trim();
    let header = text[..line.start]
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix('[')?.split(']').next())
        .unwrap_or("");
    let path = if header.is_empty() { left.to_owned() } else { format!("{header}.{left}") };
    path.chars().filter(|c| !c.is_whitespace() && *c != '"' && *c != '\'').collect()
}

/// The line around a byte offset, without its newline.
fn line_of(text: &str, offset: usize) -> Range<usize> {
    let offset = floor_boundary(text, offset);
    let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[offset..].find('\n').map_or(text.len(), |newline| offset + newline);
    start..end
}

fn place(text: &str, offset: usize) -> Place {
    let offset = floor_boundary(text, offset);
    let line = line_of(text, offset);
    Place {
        line: text[..line.start].matches('\n').count() as u32 + 1,
        column: text[line.start..offset].chars().count() as u32 + 1,
    }
}

/// The offset, or the last one before it at which a character begins.
fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}
