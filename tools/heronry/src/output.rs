//! What the command line prints: replies as text, tables or JSON.
//!
//! Owns: how a reply looks. A list of maps is a table, a map a list of names and values, anything
//! else a line each.  Not: which reply it is.
//! O1  with `--json` exactly one JSON value is printed, whatever the command; `log dump`, whose
//!     output has no bound, prints one a line.
//! O2  a reader that goes away (`| head`) ends the output, and is no error; any other failure to
//!     write names standard output.
//! O3  standard error is one JSON value with `--json`, text without.

use comfy_table::{CellAlignment, Table, presets};
use heronry_net::resp::Value;
use serde_json::{Map, Value as Json, json};
use std::io::{self, Write};

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct Unwritten(#[from] io::Error);

/// Where and how to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// JSON instead of text (O1).
    pub json: bool,
}

impl Output {
    /// Prints a reply.
    pub fn reply(&self, reply: &Value) -> Result<(), Unwritten> {
        if self.json { self.json(&to_json(reply)) } else { self.text(&to_text(reply)) }
    }

    /// Prints a JSON value, on one line.
    pub fn json(&self, value: &Json) -> Result<(), Unwritten> {
        self.text(&value.to_string())
    }

    /// Prints text and ends its line if it does not itself.
    pub fn text(&self, text: &str) -> Result<(), Unwritten> {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        self.bytes(format!("{text}{end}").as_bytes())
    }

    /// Writes bytes as they are (O2).
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Unwritten> {
        let mut out = io::stdout().lock();
        read_or_unread(out.write_all(bytes).and_then(|()| out.flush()))
    }

    /// Says something beside the output: what it leaves out, say (O3).
    pub fn note(&self, text: &str) {
        if self.json { said(&json!({"note": text}).to_string()) } else { said(text) }
    }

    /// Says why a command failed; `code` is a refusal's (O3).
    pub fn error(&self, code: Option<&str>, text: &str) {
        if self.json {
            return said(&json!({"error": {"code": code, "text": text}}).to_string());
        }
        match code {
            Some(code) => said(&format!("{code} {text}")),
            None => said(&format!("error: {text}")),
        }
    }

    /// Shows what an agent's code raised, as an interpreter does (O3).
    pub fn raised(&self, text: &str) {
        match self.json {
            true => self.error(Some("RAISED"), text),
            false => said(text),
        }
    }
}

/// O2 for what was written.
pub fn read_or_unread(written: io::Result<()>) -> Result<(), Unwritten> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// A line to standard error. When nobody reads that either, the exit status still tells.
fn said(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A table without lines: columns of `head` and `rows`; columns that hold numbers are to the right.
pub fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for (idx, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        let number = |row: &Vec<String>| {
            row.get(idx).is_none_or(|cell| cell.starts_with(|c: char| c.is_ascii_digit()))
        };
        if !rows.is_empty() && rows.iter().all(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The reply as JSON. Bytes that are not UTF-8 become `{"hex": "..."}`.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Integer(number) => Json::from(*number),
        Value::Boolean(value) => Json::from(*value),
        Value::Double(number) => Json::from(*number),
        Value::Error { code, text } => serde_json::json!({"error": code, "text": text}),
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            items.iter().map(to_json).collect()
        }
        Value::Map(pairs) => {
            let pairs = pairs.iter().map(|(name, value)| (plain(name), to_json(value)));
            Json::Object(pairs.collect::<Map<_, _>>())
        }
        strings => match strings.as_str() {
            Some(text) => Json::from(text),
            None => {
                let bytes = strings.as_bytes().unwrap_or_default();
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                serde_json::json!({ "hex": hex })
            }
        },
    }
}

/// The reply as a person reads it.
pub fn to_text(value: &Value) -> String {
    match value {
        Value::Map(pairs) => {
            let width = pairs.iter().map(|(name, _)| plain(name).len()).max().unwrap_or(0);
            let line = |(name, value): &(Value, Value)| {
                format!("{:width$}  {}\n", plain(name), plain(value))
            };
            pairs.iter().map(line).collect()
        }
        Value::Array(items) | Value::Set(items) | Value::Push(items) => match items.first() {
            Some(Value::Map(_)) => map_table(items),
            _ => items.iter().map(|item| plain(item) + "\n").collect(),
        },
        other => plain(other),
    }
}

/// A table of maps; a column for each name, in the order of the first map that has it.
fn map_table(items: &[Value]) -> String {
    let mut head: Vec<String> = Vec::new();
    for item in items {
        if let Value::Map(pairs) = item {
            for (name, _) in pairs {
                let name = plain(name);
                if !head.contains(&name) {
                    head.push(name);
                }
            }
        }
    }
    let row = |item: &Value| {
        head.iter().map(|name| item.field(name).map_or(String::new(), plain)).collect()
    };
    table(&head, &items.iter().map(row).collect::<Vec<Vec<String>>>())
}

/// A value in one piece of text. Control bytes and bytes that are not UTF-8 are escaped.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(value) => (if *value { "yes" } else { "no" }).to_owned(),
        Value::Double(number) => number.to_string(),
        Value::Error { code, text } => format!("{code} {text}"),
        Value::Map(pairs) => {
            let pairs = pairs.iter().map(|(k, v)| format!("{}={}", plain(k), plain(v)));
            pairs.collect::<Vec<_>>().join(" ")
        }
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            items.iter().map(plain).collect::<Vec<_>>().join(" ")
        }
        strings => match strings.as_str() {
            Some(text) if !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') => {
                text.to_owned()
            }
            _ => strings.as_bytes().unwrap_or_default().escape_ascii().to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn text(text: &'static str) -> Value {
        Value::Bulk(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn o1_every_value_has_a_json_form() {
        let map = Value::Map(vec![(text("id"), Value::Integer(7)), (text("label"), Value::Null)]);
        assert_eq!(to_json(&map).to_string(), r#"{"id":7,"label":null}"#);
        let list = Value::Array(vec![text("a"), Value::Bulk(Bytes::from_static(b"\xff\x00"))]);
        assert_eq!(to_json(&list).to_string(), r#"["a",{"hex":"ff00"}]"#);
    }

    #[test]
    fn lists_of_maps_are_tables_and_maps_are_lists() {
        let row =
            |id, label| Value::Map(vec![(text("id"), Value::Integer(id)), (text("label"), label)]);
        let versions = Value::Array(vec![row(1, Value::Null), row(12, text("planned"))]);
        assert_eq!(to_text(&versions), "id  label\n 1  -\n12  planned\n");
        assert_eq!(to_text(&row(3, text("x"))), "id     3\nlabel  x\n");
        assert_eq!(to_text(&Value::Array(vec![text("a"), text("b")])), "a\nb\n");
        assert_eq!(to_text(&Value::Bulk(Bytes::from_static(b"\xff"))), "\\xff");
    }
}
