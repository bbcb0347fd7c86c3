//! The kinds of value that keys take: numbers with units, switches, choices, text.
//!
//! Owns: what each kind allows, how it reads in errors and in the manual, the units.
//! Not: which key takes what (`keys.rs`), reading them from TOML (`parse.rs`).
//! J1  `humane` gives text that reads back as the same number.

use std::borrow::Cow;
use std::fmt;

/// What a key takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A whole number.
    Integer {
        /// Smallest, unless `zero` gives 0 a meaning.
        least: u64,
        /// Largest.
        most: u64,
        /// Of what.
        unit: Unit,
        /// What 0 means, where it is no number.
        zero: Option<&'static str>,
    },
    /// `true` or `false`.
    Bool,
    /// One of some names.
    Choice(&'static [&'static str]),
    /// Text.
    Text {
        /// Longest, in bytes.
        bytes_max: usize,
        /// What it must be beside short.
        rule: TextRule,
        /// What empty means.
        empty: &'static str,
    },
}

/// What a text must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TextRule {
    /// An IP address.
    Address,
    /// A path without NUL bytes.
    Path,
    /// Anything without control characters; never shown.
    Secret,
    /// Host names, with ports or a leading `*.` or neither, separated by commas.
    Hosts,
    /// `template=sealed` or `template=durable`, separated by commas.
    Promises,
}

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
}

impl Unit {
    /// The unit's name; empty for things.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Count => "",
            Unit::Bytes => "bytes",
            Unit::Microseconds => "us",
            Unit::Milliseconds => "ms",
        }
    }

    /// The suffixes it takes in text, with the number of smallest parts in each, and the number
    /// of those parts in one unit.
    pub(crate) const fn suffixes(self) -> (&'static [(&'static str, u64)], u64) {
        const BYTES: &[(&str, u64)] = &[
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
            ("TB", 1_000_000_000_000),
            ("GB", 1_000_000_000),
            ("MB", 1_000_000),
            ("kB", 1_000),
            ("B", 1),
        ];
        const TIMES_NS: &[(&str, u64)] = &[
            ("h", 3_600_000_000_000),
            ("min", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
            ("ns", 1),
        ];
        match self {
            Unit::Count => (&[], 1),
            Unit::Bytes => (BYTES, 1),
            Unit::Microseconds => (TIMES_NS, 1_000),
            Unit::Milliseconds => (TIMES_NS, 1_000_000),
        }
    }

    /// A number of this unit as people write it: `64MiB`, `10s`, `250us`.
    pub fn humane(self, number: u64) -> String {
        let (suffixes, parts_per_unit) = self.suffixes();
        let parts = u128::from(number) * u128::from(parts_per_unit);
        let fits = |(_, size): &&(&str, u64)| {
            parts != 0 && parts.is_multiple_of(u128::from(*size)) && !is_decimal_bytes(self, *size)
        };
        match suffixes.iter().find(fits) {
            Some((suffix, size)) => format!("{}{suffix}", parts / u128::from(*size)),
            None => number.to_string(),
        }
    }
}

/// Whether a suffix is one of the decimal ones, which are read but never written.
fn is_decimal_bytes(unit: Unit, size: u64) -> bool {
    unit == Unit::Bytes && size != 1 && !size.is_power_of_two()
}

/// A value of any key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A number in the key's unit.
    Integer(u64),
    /// A switch.
    Bool(bool),
    /// Text, or the name of a choice.
    Text(Cow<'static, str>),
}

impl fmt::Display for Value {
    /// As TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Integer(number) => write!(f, "{number}"),
            Value::Bool(on) => write!(f, "{on}"),
            Value::Text(text) => write!(f, "{}", toml_edit::Value::from(text.as_ref())),
        }
    }
}

impl Kind {
    /// Whether the kind takes this value.
    pub fn allows(self, value: &Value) -> bool {
        match (self, value) {
            (Kind::Integer { least, most, zero, .. }, Value::Integer(number)) => {
                (least..=most).contains(number) || (*number == 0 && zero.is_some())
            }
            (Kind::Bool, Value::Bool(_)) => true,
            (Kind::Choice(names), Value::Text(text)) => names.contains(&text.as_ref()),
            (Kind::Text { bytes_max, rule, .. }, Value::Text(text)) => {
                text.len() <= bytes_max && rule.allows(text)
            }
            _ => false,
        }
    }

    /// The kind in a form that changes only when its meaning does, for the schema hash.
    pub(crate) fn schema(self) -> String {
        match self {
            Kind::Integer { least, most, unit, zero } => {
                format!("integer {least} {most} {} {}", unit.name(), zero.is_some())
            }
            Kind::Bool => "bool".to_owned(),
            Kind::Choice(names) => format!("choice {}", names.join(" ")),
            Kind::Text { bytes_max, rule, .. } => format!("text {bytes_max} {rule:?}"),
        }
    }

    /// The unit of a number, none otherwise.
    pub fn unit(self) -> Unit {
        match self {
            Kind::Integer { unit, .. } => unit,
            _ => Unit::Count,
        }
    }

    /// Whether the value must not be shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Kind::Text { rule: TextRule::Secret, .. })
    }
}

impl fmt::Display for Kind {
    /// The allowed values, for errors and the manual.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Kind::Integer { least, most, unit, zero } => {
                if let Some(meaning) = zero {
                    write!(f, "0 ({meaning}) or ")?;
                }
                write!(f, "{least} to {most}")?;
                if unit == Unit::Count {
                    return Ok(());
                }
                write!(f, " {}", unit.name())?;
                let (low, high) = (unit.humane(least), unit.humane(most));
                if (&low, &high) == (&least.to_string(), &most.to_string()) {
                    return Ok(());
                }
                write!(f, " ({low} to {high})")
            }
            Kind::Bool => f.write_str("true or false"),
            Kind::Choice(names) => {
                for (idx, name) in names.iter().enumerate() {
                    write!(f, "{}\"{name}\"", if idx == 0 { "" } else { " or " })?;
                }
                Ok(())
            }
            Kind::Text { bytes_max, rule, empty } => {
                f.write_str(match rule {
                    TextRule::Address => "an IP address such as \"127.0.0.1\" or \"::1\"",
                    TextRule::Path => "a path",
                    TextRule::Secret => "text without control characters",
                    TextRule::Hosts => "host, host:port or *.domain, separated by commas",
                    TextRule::Promises => {
                        "template=sealed or template=durable, separated by commas"
                    }
                })?;
                write!(f, ", at most {bytes_max} bytes")?;
                if empty.is_empty() { Ok(()) } else { write!(f, "; empty: {empty}") }
            }
        }
    }
}

impl TextRule {
    fn allows(self, text: &str) -> bool {
        match self {
            TextRule::Address => text.parse::<std::net::IpAddr>().is_ok(),
            TextRule::Path => !text.contains('\0'),
            TextRule::Secret => !text.chars().any(char::is_control),
            TextRule::Promises => super::promises(text).is_some(),
            TextRule::Hosts => text.is_empty() || text.split(',').all(|host| is_host(host.trim())),
        }
    }
}

/// Whether this is `host`, `host:port`, `[address]:port` or one of them after `*.`.
fn is_host(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let ported = name.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    let (name, port) = ported.unwrap_or((name, "1"));
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let named = |name: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        !name.is_empty() && !name.starts_with('.') && name.chars().all(letter)
    };
    let address = |name: &str| name.parse::<std::net::Ipv6Addr>().is_ok();
    port.parse::<u16>().is_ok_and(|port| port > 0) && bracketed.map_or(named(name), address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::suffixed;

    #[test]
    fn promises_are_templates_with_what_is_promised() {
        for good in ["", "a=durable", " a = sealed , b_2-x=durable,"] {
            assert!(TextRule::Promises.allows(good), "{good}");
        }
        for bad in ["a", "a=", "a=fast", "=durable", "a/b=durable", "a b=durable", "a=durable;b=x"]
        {
            assert!(!TextRule::Promises.allows(bad), "{bad}");
        }
    }

    #[test]
    fn hosts_are_names_with_ports_or_stars() {
        let good = "api.example.com, localhost:8080,*.example.com,[::1]:80,[::1],10.0.0.1";
        assert!(TextRule::Hosts.allows(good) && TextRule::Hosts.allows(""));
        for bad in ["a,,b", "*", "*.", "http://a", "a/b", "a:0", "a:70000", "a b", "::1", ".a", ","]
        {
            assert!(!TextRule::Hosts.allows(bad), "{bad}");
        }
    }

    #[test]
    fn j1_humane_numbers_read_back() {
        for unit in [Unit::Bytes, Unit::Microseconds, Unit::Milliseconds] {
            for number in [0, 1, 999, 1000, 1024, 1 << 20, 60_000, 3_600_000, 123_456_789, 1 << 42]
            {
                let text = unit.humane(number);
                assert_eq!(suffixed(&text, unit), Ok(number), "{text}");
            }
        }
        assert_eq!(Unit::Bytes.humane(1_000_000), "1000000B");
        assert_eq!(Unit::Milliseconds.humane(90_000), "90s");
        assert_eq!(Unit::Count.humane(7), "7");
    }
}
