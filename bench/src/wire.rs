//! RESP for load: requests encoded by appending, replies measured without being built.
//!
//! Owns: the cheapest correct way to find where a reply ends.  Not: a client library (`net`).
//! W1  a reply cut anywhere is asked for again, never miscounted.

use thiserror::Error;

/// Deepest nesting of a reply that is accepted.
const DEPTH_MAX: usize = 16;

/// Bytes that are no RESP reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The first byte of a reply is no type mark.
    #[error("a reply starts with byte {byte:#04x}, which is no RESP type")]
    Type {
        /// The byte.
        byte: u8,
    },
    /// A length is no number.
    #[error("a reply has a length that is no number")]
    Length,
    /// Nested deeper than 16.
    #[error("a reply is nested deeper than {DEPTH_MAX}")]
    Depth,
}

/// Where a reply ends and whether it is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of the reply, its final line end included.
    pub len_bytes: usize,
    /// `-ERR ...` or a RESP3 blob error.
    pub error: bool,
}

/// Appends one command.
pub fn command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.push(b'*');
    decimal(out, parts.len() as u64);
    out.extend_from_slice(b"\r\n");
    for part in parts {
        bulk(out, part);
    }
}

/// Appends the head of a command of `part_count` parts; the parts follow by [`bulk`].
pub fn head(out: &mut Vec<u8>, part_count: usize) {
    out.push(b'*');
    decimal(out, part_count as u64);
    out.extend_from_slice(b"\r\n");
}

/// Appends one part of a command.
pub fn bulk(out: &mut Vec<u8>, part: &[u8]) {
    bulk_with(out, part.len(), |out| out.extend_from_slice(part));
}

/// Appends one part of `len_bytes` that `fill` appends, so that it is never copied.
pub fn bulk_with(out: &mut Vec<u8>, len_bytes: usize, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'$');
    decimal(out, len_bytes as u64);
    out.extend_from_slice(b"\r\n");
    let before = out.len();
    fill(out);
    debug_assert_eq!(out.len() - before, len_bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number as decimal text.
pub fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut text = [0u8; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

/// The extent of the reply that starts at `bytes[0]`; `None` while it is incomplete (W1).
pub fn extent(bytes: &[u8]) -> Result<Option<Extent>, WireError> {
    let mut at = 0;
    let mut error = false;
    // Values still to come, one counter per open level of nesting.
    let mut pending = [0u64; DEPTH_MAX];
    let mut depth = 0;
    pending[0] = 1;
    loop {
        while pending[depth] == 0 {
            if depth == 0 {
                return Ok(Some(Extent { len_bytes: at, error }));
            }
            depth -= 1;
        }
        pending[depth] -= 1;
        let Some(mark) = bytes.get(at).copied() else { return Ok(None) };
        let Some(end) = line_end(bytes, at + 1) else { return Ok(None) };
        let line = &bytes[at + 1..end];
        at = end + 2;
        match mark {
            b'+' | b':' | b'_' | b'#' | b',' | b'(' => {}
            b'-' => error |= depth == 0,
            b'$' | b'=' | b'!' => {
                error |= mark == b'!' && depth == 0;
                if let Some(len_bytes) = length(line)? {
                    at += len_bytes as usize + 2;
                    if at > bytes.len() {
                        return Ok(None);
                    }
                }
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let count = length(line)?.unwrap_or(0);
                if mark == b'|' {
                    // An attribute goes before the value it describes.
                    pending[depth] += 1;
                }
                depth += 1;
                if depth == DEPTH_MAX {
                    return Err(WireError::Depth);
                }
                pending[depth] = if matches!(mark, b'%' | b'|') { 2 * count } else { count };
            }
            byte => return Err(WireError::Type { byte }),
        }
    }
}

/// The text of a bulk or simple reply, or of an error; `None` for anything else and for null.
pub fn text(reply: &[u8]) -> Option<&[u8]> {
    let end = line_end(reply, 1)?;
    match reply.first()? {
        b'+' | b'-' | b':' => Some(&reply[1..end]),
        b'$' | b'!' => {
            let len_bytes = length(&reply[1..end]).ok()?? as usize;
            reply.get(end + 2..end + 2 + len_bytes)
        }
        _ => None,
    }
}

/// The number that a reply is, as integer or as text.
pub fn number(reply: &[u8]) -> Option<i64> {
    std::str::from_utf8(text(reply)?).ok()?.trim().parse().ok()
}

/// The elements of an aggregate reply; empty for anything else. Maps give key, value, key, ...
pub fn elements(reply: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    if !matches!(reply.first(), Some(b'*' | b'~' | b'>' | b'%')) {
        return found;
    }
    let Some(mut at) = line_end(reply, 1).map(|end| end + 2) else { return found };
    while let Some(Ok(Some(extent))) = reply.get(at..).filter(|b| !b.is_empty()).map(extent) {
        found.push(&reply[at..at + extent.len_bytes]);
        at += extent.len_bytes;
    }
    found
}

/// The value of `name` in a map reply, or in an array of names and values in turn.
pub fn field<'r>(reply: &'r [u8], name: &str) -> Option<&'r [u8]> {
    let parts = elements(reply);
    let at = parts.chunks(2).find(|pair| text(pair[0]) == Some(name.as_bytes()))?;
    at.get(1).copied()
}

#[inline]
fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while at + 1 < bytes.len() {
        if bytes[at] == b'\r' {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// A length; `None` for -1, RESP2's null.
#[inline]
fn length(line: &[u8]) -> Result<Option<u64>, WireError> {
    if line == b"-1" {
        return Ok(None);
    }
    if line.is_empty() || line.len() > 12 {
        return Err(WireError::Length);
    }
    let mut value = 0u64;
    for byte in line {
        if !byte.is_ascii_digit() {
            return Err(WireError::Length);
        }
        value = value * 10 + u64::from(byte - b'0');
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: [&[u8]; 12] = [
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":12\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\nab\r\nc\r\n",
        b"*0\r\n",
        b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
        b"%1\r\n+a\r\n*2\r\n:1\r\n_\r\n",
        b"|1\r\n+k\r\n+v\r\n#t\r\n",
        b"!3\r\nERR\r\n",
        b"*-1\r\n",
    ];

    #[test]
    fn w1_every_cut_is_incomplete_and_the_whole_is_exact() {
        for reply in REPLIES {
            for cut in 0..reply.len() {
                assert_eq!(extent(&reply[..cut]), Ok(None), "{reply:?} cut at {cut}");
            }
            let mut longer = reply.to_vec();
            longer.extend_from_slice(b"+next\r\n");
            let found = extent(&longer).expect("valid").expect("whole");
            assert_eq!(found.len_bytes, reply.len(), "{reply:?}");
            assert_eq!(found.error, matches!(reply[0], b'-' | b'!'));
        }
    }

    #[test]
    fn what_is_no_reply_is_named() {
        assert_eq!(extent(b"hello\r\n"), Err(WireError::Type { byte: b'h' }));
        assert_eq!(extent(b"$x\r\n"), Err(WireError::Length));
        assert_eq!(extent("*1\r\n".repeat(20).as_bytes()), Err(WireError::Depth));
    }

    #[test]
    fn commands_and_values_read_back() {
        let mut out = Vec::new();
        command(&mut out, &[b"SET", b"k", b"v\r\n"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\nv\r\n\r\n");
        assert_eq!(number(b":-7\r\n"), Some(-7));
        assert_eq!(number(b"$2\r\n42\r\n"), Some(42));
        assert_eq!(
            elements(b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n"),
            vec![&b"*1\r\n:1\r\n"[..], b"$1\r\nx\r\n"]
        );
        assert_eq!(field(b"*4\r\n+a\r\n:1\r\n+b\r\n:2\r\n", "b").and_then(number), Some(2));
    }
}
