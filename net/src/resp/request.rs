//! The decoder of client requests: arrays of bulk strings, and inline commands.
//!
//! Owns: the state of one unfinished request. A request that lies whole in the input is decoded
//! in place: its arguments are views of the input.  Only the bytes of an unfinished one are kept.
//! Not: commands; an empty request (`*0`, a blank line) comes out with no arguments.
//! Holds P1, P2 and P3 of [`crate::resp`] for requests.
//! Q1  bytes taken from the input are the present request's; the next one's stay with the caller.

use super::{BIG_BULK_BYTES, ProtocolError, crlf, number_line};
use bytes::Bytes;

/// Buffers of the decoder above this capacity are given back after the request.
const KEPT_BYTES_MAX: usize = 4 << 10;
/// Same, for the list of arguments.
const KEPT_ARGS_MAX: usize = 64;
/// Marks a span whose bytes have a buffer of their own.
const BIG: u32 = u32::MAX;

/// Bounds of one request (P2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestLimits {
    /// Most arguments, the command's name included.
    pub arg_count_max: u32,
    /// Longest argument.
    pub bulk_bytes_max: usize,
    /// Longest inline command.
    pub inline_bytes_max: usize,
    /// Longest request, framing included. Below 4 GiB.
    pub request_bytes_max: usize,
}

impl RequestLimits {
    /// The bounds for payloads of at most `payload_bytes_max`.
    pub fn for_payload(payload_bytes_max: usize) -> RequestLimits {
        assert!(payload_bytes_max <= u32::MAX as usize / 2, "P2: spans are 32 bits wide");
        RequestLimits {
            arg_count_max: 1024,
            bulk_bytes_max: payload_bytes_max,
            inline_bytes_max: 64 << 10,
            request_bytes_max: payload_bytes_max + (256 << 10),
        }
    }

    /// The bounds before authentication: enough for HELLO and AUTH.
    pub const UNAUTHENTICATED: RequestLimits = RequestLimits {
        arg_count_max: 10,
        bulk_bytes_max: 16 << 10,
        inline_bytes_max: 16 << 10,
        request_bytes_max: 64 << 10,
    };
}

/// What one call of [`RequestDecoder::decode`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Bytes taken from the input; all of it when no request is ready.
    pub consumed: usize,
    /// Whether [`RequestDecoder::args`] has a whole request.
    pub ready: bool,
}

/// Decoder of one connection's requests.
#[derive(Default, Debug)]
pub struct RequestDecoder {
    stage: Stage,
    /// Where decoding goes on, from the request's start.
    at: usize,
    /// Arguments still to come.
    missing: u32,
    spans: Vec<Span>,
    /// Start of an unfinished request; spans point into it.
    held: Vec<u8>,
    /// The big argument that is being filled.
    big: Vec<u8>,
    bigs: Vec<Bytes>,
    big_bytes: usize,
    /// Arguments of an inline command, unescaped.
    unquoted: Vec<u8>,
    source: Source,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Stage {
    #[default]
    Start,
    Head,
    Body {
        len: usize,
    },
    Big {
        len: usize,
    },
    BigEnd,
    Ready,
}

/// Where the bytes of the spans are.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Source {
    #[default]
    Input,
    Held,
    Unquoted,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    len: u32,
}

/// The arguments of one request, the command's name first.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
    bigs: &'a [Bytes],
}

impl<'a> Args<'a> {
    /// How many there are; 0 for an empty request.
    pub fn count(&self) -> usize {
        self.spans.len()
    }

    /// Argument `idx`. Panics past the end.
    pub fn get(&self, idx: usize) -> &'a [u8] {
        let span = self.spans[idx];
        match span.start {
            BIG => &self.bigs[span.len as usize],
            start => &self.bytes[start as usize..][..span.len as usize],
        }
    }

    /// Argument `idx`, to keep: shared if it has its own buffer, else copied, so that what is
    /// kept never holds a whole receive buffer.
    pub fn take(&self, idx: usize) -> Bytes {
        let span = self.spans[idx];
        match span.start {
            BIG => self.bigs[span.len as usize].clone(),
            start => Bytes::copy_from_slice(&self.bytes[start as usize..][..span.len as usize]),
        }
    }

    /// All arguments.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        (0..self.count()).map(|idx| self.get(idx))
    }
}

impl RequestDecoder {
    /// Goes on with `input`, up to the end of one request (Q1). Never panics, whatever the input.
    ///
    /// Cost: about 10 ns per argument when the request lies whole in the input. Error: the
    /// stream is malformed or past `limits`; decode no more of it.
    #[inline]
    pub fn decode(&mut self, input: &[u8], limits: &RequestLimits) -> Result<Step, ProtocolError> {
        if self.stage == Stage::Ready {
            self.clear();
        }
        let step = match self.source {
            Source::Held => self.go_on(input, limits),
            _ => self.begin(input, limits),
        };
        step.map_err(|error| error.moved(0, self.big_bytes))
    }

    #[inline]
    fn begin(&mut self, input: &[u8], limits: &RequestLimits) -> Result<Step, ProtocolError> {
        if self.advance(input, limits)? {
            return Ok(Step { consumed: self.at, ready: true });
        }
        if !input.is_empty() {
            let kept = if self.in_big() { self.at } else { input.len() };
            self.held.extend_from_slice(&input[..kept]);
            self.source = Source::Held;
        }
        Ok(Step { consumed: input.len(), ready: false })
    }

    /// The request that the last `decode` completed; `input` is what it was given.
    #[inline]
    pub fn args<'a>(&'a self, input: &'a [u8]) -> Args<'a> {
        assert!(self.stage == Stage::Ready, "Q1: no request is ready");
        let bytes = match self.source {
            Source::Input => input,
            Source::Held => &self.held,
            Source::Unquoted => &self.unquoted,
        };
        Args { bytes, spans: &self.spans, bigs: &self.bigs }
    }

    /// Bytes of heap that an unfinished request holds (P2).
    pub fn held_bytes(&self) -> usize {
        self.held.capacity() + self.big.capacity() + self.unquoted.capacity() + self.big_bytes
    }

    fn clear(&mut self) {
        self.stage = Stage::Start;
        self.at = 0;
        self.missing = 0;
        self.spans.clear();
        if self.source == Source::Input {
            return;
        }
        self.source = Source::Input;
        self.bigs.clear();
        self.big_bytes = 0;
        for buffer in [&mut self.held, &mut self.unquoted] {
            buffer.clear();
            if buffer.capacity() > KEPT_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
        if self.spans.capacity() > KEPT_ARGS_MAX {
            self.spans = Vec::new();
        }
    }

    fn in_big(&self) -> bool {
        matches!(self.stage, Stage::Big { .. })
    }

    /// Feeds an unfinished request, taking only what belongs to it.
    fn go_on(&mut self, input: &[u8], limits: &RequestLimits) -> Result<Step, ProtocolError> {
        let mut consumed = 0;
        loop {
            consumed += self.take_wanted(&input[consumed..], limits);
            let held = std::mem::take(&mut self.held);
            let ready = self.advance(&held, limits);
            self.held = held;
            if ready? {
                return Ok(Step { consumed, ready: true });
            }
            if consumed == input.len() {
                return Ok(Step { consumed, ready: false });
            }
        }
    }

    /// Moves the bytes that the present stage wants out of `input`; returns how many.
    fn take_wanted(&mut self, input: &[u8], limits: &RequestLimits) -> usize {
        let line = |len_max: usize| {
            let seen = &input[..input.len().min(len_max)];
            memchr::memchr(b'\n', seen).map_or(seen.len(), |end| end + 1)
        };
        let wanted = match self.stage {
            Stage::Start if self.held.first() == Some(&b'*') => line(32),
            Stage::Start => line((limits.inline_bytes_max + 2).saturating_sub(self.held.len())),
            Stage::Head => line(32),
            Stage::Body { len } => self.at + len + 2 - self.held.len(),
            Stage::BigEnd => self.at + 2 - self.held.len(),
            Stage::Big { len } => {
                let wanted = (len - self.big.len()).min(input.len());
                self.big.extend_from_slice(&input[..wanted]);
                if self.big.len() == len {
                    self.keep_big(len);
                }
                return wanted;
            }
            Stage::Ready => 0,
        };
        let wanted = wanted.min(input.len());
        self.held.extend_from_slice(&input[..wanted]);
        wanted
    }

    fn keep_big(&mut self, len: usize) {
        let idx = u32::try_from(self.bigs.len()).expect("P2: arguments are bounded");
        self.bigs.push(Bytes::from(std::mem::take(&mut self.big)));
        self.big_bytes += len;
        self.spans.push(Span { start: BIG, len: idx });
        self.stage = Stage::BigEnd;
    }

    /// Decodes `src`, which begins at the request's start, from `self.at` on. True: ready.
    fn advance(&mut self, src: &[u8], limits: &RequestLimits) -> Result<bool, ProtocolError> {
        if self.stage == Stage::Start {
            match src.first() {
                None => return Ok(false),
                Some(b'*') => {}
                Some(_) => return self.inline(src, limits),
            }
            let Some((count, next)) = number_line(src, 1)? else { return Ok(false) };
            if count > i64::from(limits.arg_count_max) {
                let count_max = u64::from(limits.arg_count_max);
                return Err(ProtocolError::TooMany { count, count_max, at: 1 });
            }
            self.missing = u32::try_from(count).unwrap_or(0);
            self.at = next;
            self.stage = if self.missing == 0 { Stage::Ready } else { Stage::Head };
        }
        while self.stage != Stage::Ready {
            let go_on = match self.stage {
                Stage::Head => self.head(src, limits)?,
                Stage::Body { len } => self.body(src, len)?,
                Stage::BigEnd => self.big_end(src)?,
                Stage::Big { .. } => false,
                Stage::Start | Stage::Ready => unreachable!("Q1: the head is past"),
            };
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    #[inline]
    fn head(&mut self, src: &[u8], limits: &RequestLimits) -> Result<bool, ProtocolError> {
        let at = self.at;
        match src.get(at) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(got) => return Err(ProtocolError::ExpectedBulk { got: *got, at }),
        }
        let Some((len_bytes, next)) = number_line(src, at + 1)? else { return Ok(false) };
        let len = usize::try_from(len_bytes).ok().filter(|len| *len <= limits.bulk_bytes_max);
        let Some(len) = len else {
            let len_bytes_max = limits.bulk_bytes_max as u64;
            return Err(ProtocolError::BulkTooLong { len_bytes, len_bytes_max, at: at + 1 });
        };
        let total = next + len + self.big_bytes;
        if total > limits.request_bytes_max {
            let len_bytes_max = limits.request_bytes_max as u64;
            return Err(ProtocolError::TooLong { len_bytes: total as u64, len_bytes_max, at });
        }
        self.at = next;
        self.stage = Stage::Body { len };
        Ok(true)
    }

    #[inline]
    fn body(&mut self, src: &[u8], len: usize) -> Result<bool, ProtocolError> {
        if src.len() < self.at + len + 2 {
            if src.len() > self.at + len {
                // P1: a wrong byte is refused as soon as it is seen, however the rest is cut.
                crlf(src, self.at + len)?;
            }
            if len > BIG_BULK_BYTES && src.len() < self.at + len {
                // P3: exactly sized, filled once.
                self.big = Vec::with_capacity(len);
                self.big.extend_from_slice(&src[self.at..]);
                self.stage = Stage::Big { len };
            }
            return Ok(false);
        }
        crlf(src, self.at + len)?.expect("P1: the length covers CR LF");
        let start = u32::try_from(self.at).expect("P2: requests are bounded");
        self.spans.push(Span { start, len: len as u32 });
        self.at += len + 2;
        self.next_arg();
        Ok(true)
    }

    fn big_end(&mut self, src: &[u8]) -> Result<bool, ProtocolError> {
        if crlf(src, self.at)?.is_none() {
            return Ok(false);
        }
        self.at += 2;
        self.next_arg();
        Ok(true)
    }

    fn next_arg(&mut self) {
        self.missing -= 1;
        self.stage = if self.missing == 0 { Stage::Ready } else { Stage::Head };
    }

    /// A line of words, as telnet sends it.
    fn inline(&mut self, src: &[u8], limits: &RequestLimits) -> Result<bool, ProtocolError> {
        let seen = &src[..src.len().min(limits.inline_bytes_max + 2)];
        let Some(end) = memchr::memchr(b'\n', seen) else {
            if src.len() > limits.inline_bytes_max + 1 {
                let len_bytes_max = limits.inline_bytes_max;
                return Err(ProtocolError::LineTooLong { len_bytes_max });
            }
            return Ok(false);
        };
        let line = src[..end].strip_suffix(b"\r").unwrap_or(&src[..end]);
        self.unquote(line)?;
        let count = self.spans.len();
        if count > limits.arg_count_max as usize {
            let count_max = u64::from(limits.arg_count_max);
            return Err(ProtocolError::TooMany { count: count as i64, count_max, at: 0 });
        }
        if let Some(first) = self.spans.first() {
            let name = &self.unquoted[..first.len as usize];
            if name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"HOST:") {
                return Err(ProtocolError::Http);
            }
        }
        self.at = end + 1;
        self.stage = Stage::Ready;
        self.source = Source::Unquoted;
        Ok(true)
    }

    /// Splits a line at spaces; `"..."` takes escapes, `'...'` only `\'`.
    fn unquote(&mut self, line: &[u8]) -> Result<(), ProtocolError> {
        let mut at = 0;
        loop {
            while line.get(at).is_some_and(u8::is_ascii_whitespace) {
                at += 1;
            }
            if at == line.len() {
                return Ok(());
            }
            let start = self.unquoted.len() as u32;
            while line.get(at).is_some_and(|byte| !byte.is_ascii_whitespace()) {
                at = match line[at] {
                    quote @ (b'"' | b'\'') => unquote_one(line, at, quote, &mut self.unquoted)?,
                    byte => {
                        self.unquoted.push(byte);
                        at + 1
                    }
                };
            }
            self.spans.push(Span { start, len: self.unquoted.len() as u32 - start });
        }
    }
}

/// Appends what the quote at `at` holds; returns where the text after it starts.
fn unquote_one(
    line: &[u8],
    at: usize,
    quote: u8,
    out: &mut Vec<u8>,
) -> Result<usize, ProtocolError> {
    let unbalanced = ProtocolError::UnbalancedQuotes { at };
    let mut idx = at + 1;
    loop {
        let byte = *line.get(idx).ok_or(unbalanced)?;
        idx += 1;
        if byte == quote {
            break;
        }
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let escaped = *line.get(idx).ok_or(unbalanced)?;
        if quote == b'\'' {
            // Only \' is an escape here; any other backslash stands for itself.
            if escaped == b'\'' {
                idx += 1;
            }
            out.push(if escaped == b'\'' { b'\'' } else { b'\\' });
            continue;
        }
        idx += 1;
        out.push(match escaped {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'a' => 7,
            b'x' => match hex_byte(line.get(idx..idx + 2)) {
                Some(byte) => {
                    idx += 2;
                    byte
                }
                None => b'x',
            },
            other => other,
        });
    }
    match line.get(idx) {
        Some(byte) if !byte.is_ascii_whitespace() => Err(unbalanced),
        _ => Ok(idx),
    }
}

fn hex_byte(digits: Option<&[u8]>) -> Option<u8> {
    let text = std::str::from_utf8(digits?).ok()?;
    // from_str_radix would take a sign.
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u8::from_str_radix(text, 16).ok())?
}
