//! The client's side of RESP: values, and an incremental decoder of replies.
//!
//! Owns: the state of one unfinished reply. Finished elements of an unfinished array are kept
//! decoded, so that no byte is looked at again and again however slowly a reply arrives.
//! Not: what a reply means (`client` knows).
//! Holds P1, P2 and P3 of [`crate::resp`] for replies.

use super::{BIG_BULK_BYTES, ProtocolError, crlf, number_line};
use bytes::Bytes;

/// Read buffers above this capacity are given back once empty.
const KEPT_BYTES_MAX: usize = 256 << 10;
/// Elements that an array reserves room for before they arrive.
const RESERVED_COUNT_MAX: usize = 64;

/// One reply, or one element of it.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Nothing.
    Null,
    /// `+text`.
    Simple(String),
    /// `-CODE text`: why a command was refused.
    Error {
        /// What clients match on.
        code: String,
        /// What people read.
        text: String,
    },
    /// `:number`.
    Integer(i64),
    /// `$` bytes.
    Bulk(Bytes),
    /// `#t` or `#f`.
    Boolean(bool),
    /// `,number`.
    Double(f64),
    /// `(digits`.
    BigNumber(String),
    /// `=` text with its three-letter format.
    Verbatim {
        /// `txt` or `mkd`.
        format: [u8; 3],
        /// The text.
        text: Bytes,
    },
    /// `*`.
    Array(Vec<Value>),
    /// `~`.
    Set(Vec<Value>),
    /// `%`, in the order sent.
    Map(Vec<(Value, Value)>),
    /// `>`: not the reply to a command.
    Push(Vec<Value>),
}

impl Value {
    /// The bytes of a string of any kind.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bulk(bytes) | Value::Verbatim { text: bytes, .. } => Some(bytes),
            Value::Simple(text) | Value::BigNumber(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// The text of a string of any kind, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// A number: an integer, a boolean (RESP2 has none), or a string of digits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Integer(number) => Some(*number),
            Value::Boolean(value) => Some(i64::from(*value)),
            other => other.as_str()?.parse().ok(),
        }
    }

    /// An unsigned number, as [`Self::as_i64`], up to `u64::MAX`.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Boolean(value) => Some(u64::from(*value)),
            other => other.as_str()?.parse().ok(),
        }
    }

    /// The elements of an array, set or push.
    pub fn as_slice(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) | Value::Set(items) | Value::Push(items) => Some(items),
            _ => None,
        }
    }

    /// The value under `key` of a map, or of a flat array of pairs (a map in RESP2).
    pub fn field(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Map(pairs) => {
                pairs.iter().find(|(k, _)| k.as_str() == Some(key)).map(|(_, value)| value)
            }
            Value::Array(items) => items
                .chunks_exact(2)
                .find(|pair| pair[0].as_str() == Some(key))
                .map(|pair| &pair[1]),
            _ => None,
        }
    }
}

/// Bounds of one reply (P2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyLimits {
    /// Longest bulk.
    pub bulk_bytes_max: usize,
    /// Most elements of one array.
    pub element_count_max: u32,
    /// Deepest nesting.
    pub depth_max: usize,
    /// Longest line.
    pub line_bytes_max: usize,
    /// Longest reply, all its elements together.
    pub reply_bytes_max: usize,
}

impl Default for ReplyLimits {
    fn default() -> ReplyLimits {
        ReplyLimits {
            bulk_bytes_max: heronry_engine::limits::PAYLOAD_BYTES_MAX,
            element_count_max: 1 << 20,
            depth_max: 16,
            line_bytes_max: 64 << 10,
            reply_bytes_max: 2 * heronry_engine::limits::PAYLOAD_BYTES_MAX,
        }
    }
}

/// Decoder of the replies of one connection.
#[derive(Default, Debug)]
pub struct ReplyDecoder {
    limits: ReplyLimits,
    buffer: Vec<u8>,
    /// Bytes of `buffer` already decoded.
    at: usize,
    /// Bytes of the present reply decoded before `buffer[at]`, for error positions.
    done_bytes: usize,
    frames: Vec<Frame>,
    big: Option<Big>,
}

/// A bulk that fills a buffer of its own.
#[derive(Debug)]
struct Big {
    kind: u8,
    len: usize,
    bytes: Vec<u8>,
}

/// An array that awaits elements.
#[derive(Debug)]
struct Frame {
    kind: u8,
    missing: usize,
    items: Vec<Value>,
}

impl ReplyDecoder {
    /// A decoder with other than the default bounds.
    pub fn new(limits: ReplyLimits) -> ReplyDecoder {
        ReplyDecoder { limits, ..ReplyDecoder::default() }
    }

    /// Takes in bytes that arrived.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if let Some(big) = &mut self.big
            && self.at == self.buffer.len()
        {
            let wanted = (big.len - big.bytes.len()).min(bytes.len());
            big.bytes.extend_from_slice(&bytes[..wanted]);
            self.done_bytes += wanted;
            bytes = &bytes[wanted..];
        }
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
            if self.buffer.capacity() > KEPT_BYTES_MAX {
                self.buffer = Vec::new();
            }
        } else if self.at > self.buffer.len() / 2 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole reply, if it is there. Error: the stream is of no further use.
    pub fn next_reply(&mut self) -> Result<Option<Value>, ProtocolError> {
        loop {
            let start = self.at;
            // Positions in errors count from the reply's start.
            let item = self.element().map_err(|error| error.moved(start, self.done_bytes))?;
            self.done_bytes += self.at - start;
            if self.done_bytes > self.limits.reply_bytes_max {
                let len_bytes_max = self.limits.reply_bytes_max as u64;
                let len_bytes = self.done_bytes as u64;
                return Err(ProtocolError::TooLong { len_bytes, len_bytes_max, at: 0 });
            }
            let Some(item) = item else { return Ok(None) };
            if let Item::Value(value) = item
                && let Some(reply) = self.fold(value)
            {
                self.done_bytes = 0;
                return Ok(Some(reply));
            }
        }
    }

    /// Whether a reply has begun and not ended.
    pub fn unfinished(&self) -> bool {
        self.at < self.buffer.len() || !self.frames.is_empty() || self.big.is_some()
    }

    /// Puts a finished element into the innermost array; returns a finished reply.
    fn fold(&mut self, mut value: Value) -> Option<Value> {
        loop {
            let Some(frame) = self.frames.last_mut() else { return Some(value) };
            frame.items.push(value);
            frame.missing -= 1;
            if frame.missing > 0 {
                return None;
            }
            let frame = self.frames.pop().expect("P1: the frame is there");
            match finished(frame) {
                Some(whole) => value = whole,
                // An attribute says something about the value after it; nobody here asks.
                None => return None,
            }
        }
    }

    fn element(&mut self) -> Result<Option<Item>, ProtocolError> {
        if self.big.is_some() {
            return self.go_on_big();
        }
        let src = &self.buffer[..];
        let at = self.at;
        let Some(kind) = src.get(at).copied() else { return Ok(None) };
        match kind {
            b'$' | b'=' | b'!' => self.bulk(kind),
            b'*' | b'~' | b'%' | b'>' | b'|' => self.aggregate(kind),
            b':' => {
                let Some((number, next)) = number_line(src, at + 1)? else { return Ok(None) };
                self.at = next;
                Ok(Some(Item::Value(Value::Integer(number))))
            }
            b'+' | b'-' | b'_' | b'#' | b',' | b'(' => self.line(kind),
            got => Err(ProtocolError::UnknownType { got, at }),
        }
    }

    fn line(&mut self, kind: u8) -> Result<Option<Item>, ProtocolError> {
        let at = self.at + 1;
        let rest = &self.buffer[at..];
        let seen = &rest[..rest.len().min(self.limits.line_bytes_max + 2)];
        let Some(end) = memchr::memchr(b'\n', seen) else {
            if rest.len() > self.limits.line_bytes_max + 1 {
                let len_bytes_max = self.limits.line_bytes_max;
                return Err(ProtocolError::LineTooLong { len_bytes_max });
            }
            return Ok(None);
        };
        let bad = ProtocolError::BadLine { at };
        let line = rest[..end].strip_suffix(b"\r").ok_or(bad)?;
        let text = std::str::from_utf8(line).map_err(|_| bad)?;
        let value = match kind {
            b'+' => Value::Simple(text.to_owned()),
            b'-' => error_of(text),
            b'_' if text.is_empty() => Value::Null,
            b'#' if text == "t" || text == "f" => Value::Boolean(text == "t"),
            b',' => Value::Double(text.parse().map_err(|_| bad)?),
            b'(' if is_integer(text) => Value::BigNumber(text.to_owned()),
            _ => return Err(bad),
        };
        self.at = at + end + 1;
        Ok(Some(Item::Value(value)))
    }

    fn bulk(&mut self, kind: u8) -> Result<Option<Item>, ProtocolError> {
        let at = self.at + 1;
        let Some((len_bytes, body)) = number_line(&self.buffer, at)? else { return Ok(None) };
        if len_bytes == -1 && kind == b'$' {
            self.at = body;
            return Ok(Some(Item::Value(Value::Null)));
        }
        let least = if kind == b'=' { 4 } else { 0 };
        let len = usize::try_from(len_bytes).ok();
        let Some(len) =
            len.filter(|len| (least..=self.limits.bulk_bytes_max + least).contains(len))
        else {
            let len_bytes_max = self.limits.bulk_bytes_max as u64;
            return Err(ProtocolError::BulkTooLong { len_bytes, len_bytes_max, at });
        };
        let there = self.buffer.len() - body;
        if there < len && len > BIG_BULK_BYTES {
            // P3: exactly sized, filled once.
            let mut bytes = Vec::with_capacity(len);
            bytes.extend_from_slice(&self.buffer[body..]);
            self.at = self.buffer.len();
            self.big = Some(Big { kind, len, bytes });
            return Ok(None);
        }
        if there < len + 2 {
            if there > len {
                // P1: a wrong byte is refused as soon as it is seen, however the rest is cut.
                crlf(&self.buffer, body + len)?;
            }
            return Ok(None);
        }
        crlf(&self.buffer, body + len)?.expect("P1: the length covers CR LF");
        self.at = body + len + 2;
        let bytes = Bytes::copy_from_slice(&self.buffer[body..body + len]);
        Ok(Some(Item::Value(bulk_value(kind, bytes, at)?)))
    }

    /// Fills the big bulk, then waits for its CR LF.
    fn go_on_big(&mut self) -> Result<Option<Item>, ProtocolError> {
        let Some(mut big) = self.big.take() else { unreachable!("P3: there is a big bulk") };
        let wanted = (big.len - big.bytes.len()).min(self.buffer.len() - self.at);
        big.bytes.extend_from_slice(&self.buffer[self.at..self.at + wanted]);
        self.at += wanted;
        if big.bytes.len() < big.len || crlf(&self.buffer, self.at)?.is_none() {
            self.big = Some(big);
            return Ok(None);
        }
        self.at += 2;
        Ok(Some(Item::Value(bulk_value(big.kind, Bytes::from(big.bytes), self.at)?)))
    }

    fn aggregate(&mut self, kind: u8) -> Result<Option<Item>, ProtocolError> {
        let at = self.at + 1;
        let Some((count, next)) = number_line(&self.buffer, at)? else { return Ok(None) };
        if count == -1 && kind == b'*' {
            self.at = next;
            return Ok(Some(Item::Value(Value::Null)));
        }
        let count_max = u64::from(self.limits.element_count_max);
        let missing = usize::try_from(count).ok().filter(|count| *count as u64 <= count_max);
        let Some(mut missing) = missing else {
            return Err(ProtocolError::TooMany { count, count_max, at });
        };
        if kind == b'%' || kind == b'|' {
            missing *= 2;
        }
        self.at = next;
        if missing > 0 {
            if self.frames.len() == self.limits.depth_max {
                let depth_max = self.limits.depth_max;
                return Err(ProtocolError::TooDeep { depth_max, at: at - 1 });
            }
            let items = Vec::with_capacity(missing.min(RESERVED_COUNT_MAX));
            self.frames.push(Frame { kind, missing, items });
            return Ok(Some(Item::Header));
        }
        let empty = finished(Frame { kind, missing, items: Vec::new() });
        Ok(Some(empty.map_or(Item::Header, Item::Value)))
    }
}

/// What one step of the decoder took from the buffer.
enum Item {
    /// The head of an array, whose elements follow; or an empty attribute.
    Header,
    Value(Value),
}

fn finished(frame: Frame) -> Option<Value> {
    match frame.kind {
        b'*' => Some(Value::Array(frame.items)),
        b'~' => Some(Value::Set(frame.items)),
        b'>' => Some(Value::Push(frame.items)),
        b'%' => {
            let mut pairs = Vec::with_capacity(frame.items.len() / 2);
            let mut items = frame.items.into_iter();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                pairs.push((key, value));
            }
            Some(Value::Map(pairs))
        }
        _ => None,
    }
}

fn bulk_value(kind: u8, bytes: Bytes, at: usize) -> Result<Value, ProtocolError> {
    let bad = ProtocolError::BadLine { at };
    match kind {
        b'=' => {
            let format = bytes[..3].try_into().map_err(|_| bad)?;
            if bytes[3] != b':' {
                return Err(bad);
            }
            Ok(Value::Verbatim { format, text: bytes.slice(4..) })
        }
        b'!' => Ok(error_of(std::str::from_utf8(&bytes).map_err(|_| bad)?)),
        _ => Ok(Value::Bulk(bytes)),
    }
}

fn error_of(line: &str) -> Value {
    let (code, text) = line.split_once(' ').unwrap_or((line, ""));
    Value::Error { code: code.to_owned(), text: text.to_owned() }
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}
