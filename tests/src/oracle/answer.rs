//! What the oracle expects of a reply, and whether a reply is that.
//!
//! Owns: the comparison, for RESP2 and RESP3 alike; the form of a null or a map may differ, what
//! it says may not.  Not: what is right.

use heronry_net::Value;

/// A row of AGENT.VERSIONS, but for its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its number.
    pub id: u64,
    /// What it was sealed upon.
    pub parent: Option<u64>,
    /// Its label.
    pub label: Option<String>,
    /// Whether a client asked for it.
    pub checkpoint: bool,
    /// Whether it is the present.
    pub head: bool,
    /// Length of its image.
    pub image_bytes: u64,
}

/// What AGENT.INFO must say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// Texts by name; `None` is null.
    pub texts: Vec<(&'static str, Option<String>)>,
    /// Numbers by name.
    pub numbers: Vec<(&'static str, u64)>,
    /// Messages that wait, at least.
    pub waiting_count_min: u64,
    /// Fewest bytes of pages: a page of zeros that was read from a log takes none.
    pub page_bytes_min: u64,
    /// Most bytes of pages, unique and shared: what versions share may take less.
    pub page_bytes_max: u64,
}

/// A reply as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// `+OK`.
    Done,
    /// A bulk string.
    Bytes(Vec<u8>),
    /// A number.
    Number(u64),
    /// An array of keys, in this order.
    Keys(Vec<String>),
    /// AGENT.VERSIONS.
    Versions(Vec<Row>),
    /// AGENT.DIFF.
    Diff(Vec<(u64, u64)>),
    /// AGENT.INFO.
    Info(Box<About>),
    /// A refusal of this code.
    Refused(&'static str),
    /// Anything but a refusal.
    Good,
}

impl Answer {
    /// Whether a reply is this answer.
    pub fn is(&self, value: &Value) -> bool {
        match self {
            Answer::Done => matches!(value, Value::Simple(text) if text == "OK"),
            Answer::Bytes(bytes) => {
                matches!(value, Value::Bulk(_)) && value.as_bytes() == Some(bytes.as_slice())
            }
            Answer::Number(number) => {
                matches!(value, Value::Integer(_)) && value.as_u64() == Some(*number)
            }
            Answer::Keys(keys) => value.as_slice().is_some_and(|items| {
                items.len() == keys.len()
                    && items.iter().zip(keys).all(|(item, key)| item.as_str() == Some(key))
            }),
            Answer::Versions(rows) => value.as_slice().is_some_and(|items| {
                items.len() == rows.len() && items.iter().zip(rows).all(|(item, row)| row.is(item))
            }),
            Answer::Diff(ranges) => value.as_slice().is_some_and(|items| {
                items.len() == ranges.len()
                    && items.iter().zip(ranges).all(|(item, (start, len))| {
                        item.as_slice().is_some_and(|pair| {
                            pair.len() == 2
                                && pair[0].as_u64() == Some(*start)
                                && pair[1].as_u64() == Some(*len)
                        })
                    })
            }),
            Answer::Info(about) => about.is(value),
            Answer::Refused(code) => code_of(value) == Some(code),
            Answer::Good => !matches!(value, Value::Error { .. }),
        }
    }
}

impl Row {
    fn is(&self, value: &Value) -> bool {
        let number = |name| value.field(name).and_then(Value::as_u64);
        let label = value.field("label").and_then(Value::as_str);
        number("version") == Some(self.id)
            && number("parent") == self.parent
            && label == self.label.as_deref()
            && number("checkpoint") == Some(u64::from(self.checkpoint))
            && number("head") == Some(u64::from(self.head))
            && number("image_bytes") == Some(self.image_bytes)
            && number("sealed_ns").is_some()
    }
}

impl About {
    fn is(&self, value: &Value) -> bool {
        let number = |name| value.field(name).and_then(Value::as_u64);
        let text = |name| value.field(name).and_then(Value::as_str);
        let page_bytes = number("unique_bytes").zip(number("shared_bytes")).map(|(u, s)| u + s);
        self.texts.iter().all(|(name, expected)| text(name) == expected.as_deref())
            && self.numbers.iter().all(|(name, expected)| number(name) == Some(*expected))
            && number("mailbox_count").is_some_and(|count| count >= self.waiting_count_min)
            && page_bytes.is_some_and(|bytes| bytes >= self.page_bytes_min)
            && page_bytes.is_some_and(|bytes| bytes <= self.page_bytes_max)
    }
}

/// The code of a refusal.
pub fn code_of(value: &Value) -> Option<&str> {
    match value {
        Value::Error { code, .. } => Some(code),
        _ => None,
    }
}
