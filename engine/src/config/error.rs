//! What is wrong with a config text: all of it, each with its place, value and allowed range.
//!
//! Owns: the errors and their texts.  Not: finding them (`parse.rs`, `check.rs`).
//! O1  an error names line and column where there is a text, the key, the value, what is allowed.
//! O2  a secret's value is in no text.

use std::fmt;

/// Everything that is wrong, in the order of the text; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if idx == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A place in the text, counted from 1; columns count characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Where; `None` where no text was given, or the value is a default.
    pub place: Option<Place>,
    /// The key's path, as far as there is one; empty for the text as a whole.
    pub key: String,
    /// What.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    /// Not TOML.
    #[error("not TOML: {message}")]
    Syntax {
        /// The parser's word.
        message: String,
    },
    /// The text is longer than any config.
    #[error("the text has {len_bytes} bytes; at most {len_bytes_max} are read")]
    TooLong {
        /// Its length.
        len_bytes: usize,
        /// The most.
        len_bytes_max: usize,
    },
    /// No such key.
    #[error("is no key{}", nearest_hint(*.nearest))]
    Unknown {
        /// The key that is spelled most alike.
        nearest: Option<&'static str>,
    },
    /// Set before.
    #[error("is set twice{}; remove one", first_hint(*.first_line))]
    Duplicate {
        /// The line of the first time, where it is known.
        first_line: Option<u32>,
    },
    /// Not of the key's type.
    #[error("is {value}, {found}; allowed: {allowed}")]
    Type {
        /// The value as written.
        value: String,
        /// What it is.
        found: &'static str,
        /// What is allowed.
        allowed: String,
    },
    /// Out of range, or none of the choices.
    #[error("is {value}; allowed: {allowed}")]
    Range {
        /// The value as written.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A number with a suffix that cannot be read as the key's unit.
    #[error("is {value}: {why}; allowed: {allowed}, as a number or text such as {example}")]
    Suffix {
        /// The value as written.
        value: String,
        /// What is wrong with it.
        why: &'static str,
        /// What is allowed.
        allowed: String,
        /// The default, written with a suffix.
        example: String,
    },
    /// Wrong together with another key.
    #[error("is {value}; {rule}")]
    Together {
        /// The value.
        value: String,
        /// The rule, with the other key and its value.
        rule: String,
    },
}

fn nearest_hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "; `heronry config show` lists all keys".to_owned(),
        |key| format!("; did you mean {key}?"),
    )
}

fn first_hint(first_line: Option<u32>) -> String {
    first_line.map_or_else(String::new, |line| format!(", first on line {line}"))
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, column }) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{} ", self.key)?;
        }
        write!(f, "{}", self.problem)
    }
}
