//! Showing a config, comparing two, writing one as TOML, and the manual of all keys.
//!
//! Owns: those texts and rows.  Not: where they are printed.
//! W1  `parse(to_toml(c))` is `c`.
//! W2  a secret is shown only by `to_toml`, which exists to be read back.

use super::Config;
use super::keys::{KEYS, Key};
use super::kind::Value;
use serde::Serialize;
use std::fmt::Write;

/// What stands for a secret that is set.
const HIDDEN: &str = "(set, not shown)";

/// One key of a shown config.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// `section.name`.
    pub key: &'static str,
    /// Its value, as TOML.
    pub value: String,
    /// The value as people write it, where it has a unit: `1MiB`.
    pub humane: String,
    /// Its unit; empty for none.
    pub unit: &'static str,
    /// Whether the value is the default.
    pub is_default: bool,
    /// The default, as TOML.
    pub default: String,
    /// What is allowed.
    pub allowed: String,
    /// What it does.
    pub doc: &'static str,
}

/// One key in which two configs differ.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// `section.name`.
    pub key: &'static str,
    /// The first config's value, as TOML.
    pub from: String,
    /// The second config's value, as TOML.
    pub to: String,
    /// The unit; empty for none.
    pub unit: &'static str,
}

/// Every key with its value, in the manual's order.
pub fn show(config: &Config) -> Vec<Row> {
    let row = |key: &'static Key| {
        let value = (key.get)(config);
        Row {
            key: key.path,
            value: shown(key, &value),
            humane: humane(key, &value),
            unit: key.kind.unit().name(),
            is_default: value == key.default,
            default: key.default.to_string(),
            allowed: key.kind.to_string(),
            doc: key.doc,
        }
    };
    KEYS.iter().map(row).collect()
}

/// The keys in which `from` and `to` differ.
pub fn diff(from: &Config, to: &Config) -> Vec<Difference> {
    let difference = |key: &'static Key| {
        let (old, new) = ((key.get)(from), (key.get)(to));
        (old != new).then(|| Difference {
            key: key.path,
            from: shown(key, &old),
            to: shown(key, &new),
            unit: key.kind.unit().name(),
        })
    };
    KEYS.iter().filter_map(difference).collect()
}

/// The config as TOML (W1): keys that differ from their default, others as comments.
pub fn to_toml(config: &Config) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (own_section, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if own_section != section {
            section = own_section;
            let gap = if text.is_empty() { "" } else { "\n" };
            append(&mut text, format_args!("{gap}[{section}]\n"));
        }
        let value = (key.get)(config);
        let mark = if value == key.default { "# " } else { "" };
        let note = match humane(key, &value) {
            humane if humane.is_empty() || humane == value.to_string() => String::new(),
            humane => format!("  # {humane}"),
        };
        append(&mut text, format_args!("{mark}{name} = {value}{note}\n"));
    }
    text
}

/// docs/config.md.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Config\n\n\
         `heronry up` needs no config: every key has a default. A config is TOML text; \
         `heronry config check FILE` names everything that is wrong with one, and `heronry config \
         compile FILE` turns it into the one binary file that a node maps at start. Numbers with a \
         unit may be text with a suffix: `\"64MiB\"`, `\"1.5GiB\"`, `\"10s\"`, `\"250us\"` \
         (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB; ns, us, ms, s, min, h).\n\n\
         This page is generated from the table of keys in `engine/src/config/keys.rs`:\n\
         `cargo run -q -p heronry-engine --example config_md > docs/config.md`\n",
    );
    let mut section = "";
    for key in KEYS {
        let (own_section, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if own_section != section {
            section = own_section;
            append(
                &mut text,
                format_args!(
                    "\n## [{section}]\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n"
                ),
            );
        }
        let default = match humane(key, &key.default) {
            humane if humane.is_empty() => key.default.to_string(),
            humane if humane.bytes().all(|b| b.is_ascii_digit()) => humane,
            humane => format!("\"{humane}\""),
        };
        append(
            &mut text,
            format_args!("| `{name}` | `{default}` | {} | {} |\n", key.kind, key.doc),
        );
    }
    text
}

fn append(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("W1: writing into a String cannot fail");
}

fn shown(key: &Key, value: &Value) -> String {
    match value {
        Value::Text(text) if key.kind.is_secret() && !text.is_empty() => HIDDEN.to_owned(),
        value => value.to_string(),
    }
}

fn humane(key: &Key, value: &Value) -> String {
    match (value, key.kind.unit().name()) {
        (Value::Integer(number), unit) if !unit.is_empty() => key.kind.unit().humane(*number),
        _ => String::new(),
    }
}
