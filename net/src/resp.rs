//! RESP2 and RESP3 on the wire: bounds, errors, and the parts that both directions share.
//!
//! Owns: what a malformed stream is called. [`request`] decodes what clients send, [`encode`]
//! writes what they get back, [`value`] is the client's side of it.  Not: what commands mean.
//! P1  decoding a stream cut anywhere yields the same requests as decoding it whole.
//! P2  memory held for an unfinished request is bounded by its limits, however long it lasts.
//! P3  a payload that spans receives is copied once, into a buffer of exactly its size.

pub mod encode;
pub mod request;
pub mod value;

pub use encode::{Encoder, Protocol};
pub use request::{Args, RequestDecoder, RequestLimits, Step};
pub use value::{ReplyDecoder, ReplyLimits, Value};

/// A bulk longer than this that spans receives gets a buffer of its own (P3).
pub const BIG_BULK_BYTES: usize = 32 << 10;
/// Longest number line: sign, 19 digits.
const NUMBER_BYTES_MAX: usize = 20;
/// Digits of a number line that is read without looking for overflow.
const SHORT_DIGITS: usize = 9;

/// Why a stream cannot be decoded. The connection is of no use afterwards.
///
/// `at` counts bytes from 0 within the request or reply that is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    /// A `$` was due.
    #[error("expected '$', got {} at byte {at}", Shown(*got))]
    ExpectedBulk {
        /// The byte there was.
        got: u8,
        /// Where.
        at: usize,
    },
    /// A byte that starts no RESP type.
    #[error("no type starts with {} at byte {at}", Shown(*got))]
    UnknownType {
        /// The byte there was.
        got: u8,
        /// Where.
        at: usize,
    },
    /// A length or number has a byte that is not a digit.
    #[error("invalid number: got {} at byte {at}", Shown(*got))]
    BadNumber {
        /// The byte there was.
        got: u8,
        /// Where.
        at: usize,
    },
    /// A CR LF was due.
    #[error("expected CR LF, got {} at byte {at}", Shown(*got))]
    ExpectedCrlf {
        /// The byte there was.
        got: u8,
        /// Where.
        at: usize,
    },
    /// More arguments or elements than allowed.
    #[error("invalid multibulk length: {count} elements at byte {at}, at most {count_max}")]
    TooMany {
        /// The count announced.
        count: i64,
        /// The most allowed.
        count_max: u64,
        /// Where.
        at: usize,
    },
    /// A bulk longer than allowed, or negative.
    #[error("invalid bulk length: {len_bytes} at byte {at}, at most {len_bytes_max} bytes")]
    BulkTooLong {
        /// The length announced.
        len_bytes: i64,
        /// The most allowed.
        len_bytes_max: u64,
        /// Where.
        at: usize,
    },
    /// A line without end.
    #[error("too big inline request: no line end within {len_bytes_max} bytes")]
    LineTooLong {
        /// The longest line allowed.
        len_bytes_max: usize,
    },
    /// The sum of a request's or reply's parts is longer than allowed.
    #[error("too long: {len_bytes} bytes and more at byte {at}, at most {len_bytes_max}")]
    TooLong {
        /// Bytes so far.
        len_bytes: u64,
        /// The most allowed.
        len_bytes_max: u64,
        /// Where.
        at: usize,
    },
    /// An inline command's quote has no end, or text follows it directly.
    #[error("unbalanced quotes in request: the quote at byte {at}")]
    UnbalancedQuotes {
        /// Where the quote starts.
        at: usize,
    },
    /// Arrays within arrays, deeper than allowed.
    #[error("nested deeper than {depth_max} at byte {at}")]
    TooDeep {
        /// The deepest allowed.
        depth_max: usize,
        /// Where.
        at: usize,
    },
    /// A line that must be text is not UTF-8, or a boolean or double is neither.
    #[error("invalid line, at byte {at}")]
    BadLine {
        /// Where the line starts.
        at: usize,
    },
    /// An HTTP request: what a web page can make a browser send to a local port.
    #[error("this is RESP, not HTTP")]
    Http,
}

impl ProtocolError {
    /// The same error, its position counted so that `from` becomes `to`.
    pub(crate) fn moved(mut self, from: usize, to: usize) -> ProtocolError {
        use ProtocolError::*;
        match &mut self {
            ExpectedBulk { at, .. }
            | UnknownType { at, .. }
            | BadNumber { at, .. }
            | ExpectedCrlf { at, .. }
            | TooMany { at, .. }
            | BulkTooLong { at, .. }
            | TooLong { at, .. }
            | UnbalancedQuotes { at }
            | TooDeep { at, .. }
            | BadLine { at } => *at = *at + to - from,
            LineTooLong { .. } | Http => {}
        }
        self
    }
}

/// A byte as a person reads it.
struct Shown(u8);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            b @ 0x20..=0x7e => write!(f, "'{}'", char::from(b)),
            b => write!(f, "byte 0x{b:02x}"),
        }
    }
}

/// The number on the line at `at`, and where the next line starts; `None` when it is cut.
#[inline]
fn number_line(src: &[u8], at: usize) -> Result<Option<(i64, usize)>, ProtocolError> {
    // Nearly every line is a short length, which cannot overflow.
    let (mut number, mut idx) = (0, at);
    while let Some(digit @ b'0'..=b'9') = src.get(idx)
        && idx - at < SHORT_DIGITS
    {
        number = number * 10 + i64::from(digit - b'0');
        idx += 1;
    }
    if idx > at && src.get(idx..idx + 2) == Some(b"\r\n") {
        return Ok(Some((number, idx + 2)));
    }
    any_number_line(src, at)
}

/// As [`number_line`], for long and signed numbers, cut lines and wrong ones.
fn any_number_line(src: &[u8], at: usize) -> Result<Option<(i64, usize)>, ProtocolError> {
    let mut idx = at;
    let negative = src.get(idx) == Some(&b'-');
    idx += usize::from(negative);
    let first = idx;
    let mut number = 0i64;
    loop {
        match src.get(idx) {
            None => return Ok(None),
            Some(digit @ b'0'..=b'9') if idx - at < NUMBER_BYTES_MAX => {
                let digit_value = i64::from(digit - b'0');
                let signed = if negative { -digit_value } else { digit_value };
                let step = number.checked_mul(10).and_then(|n| n.checked_add(signed));
                number = step.ok_or(ProtocolError::BadNumber { got: *digit, at: idx })?;
            }
            Some(b'\r') if idx > first => break,
            Some(got) => return Err(ProtocolError::BadNumber { got: *got, at: idx }),
        }
        idx += 1;
    }
    match src.get(idx + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some((number, idx + 2))),
        Some(got) => Err(ProtocolError::ExpectedCrlf { got: *got, at: idx + 1 }),
    }
}

/// Whether CR LF stands at `at`; `None` when it is cut.
fn crlf(src: &[u8], at: usize) -> Result<Option<()>, ProtocolError> {
    for (offset, want) in [b'\r', b'\n'].into_iter().enumerate() {
        match src.get(at + offset) {
            None => return Ok(None),
            Some(got) if *got != want => {
                return Err(ProtocolError::ExpectedCrlf { got: *got, at: at + offset });
            }
            Some(_) => {}
        }
    }
    Ok(Some(()))
}
