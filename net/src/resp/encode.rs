//! The encoder of RESP2 and RESP3: one call per element, straight into the output.
//!
//! Owns: how each type falls back in RESP2 (a map becomes a flat array, a null `$-1`, and so on).
//! Not: what a reply says.
//! E1  text from elsewhere never ends a line early: control bytes in lines become spaces.

/// The protocol of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// What clients speak that never said HELLO.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

impl Protocol {
    /// The number that HELLO takes.
    pub fn number(self) -> i64 {
        match self {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        }
    }
}

/// Writes elements to the end of `out`. The caller writes as many as a header announced.
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    resp3: bool,
}

impl<'a> Encoder<'a> {
    /// An encoder of `protocol` that appends to `out`.
    #[inline]
    pub fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Encoder<'a> {
        Encoder { out, resp3: protocol == Protocol::Resp3 }
    }

    /// `+text`.
    pub fn simple(&mut self, text: &str) {
        self.out.push(b'+');
        self.line(text);
    }

    /// `-CODE text`.
    pub fn error(&mut self, code: &str, text: &str) {
        self.out.push(b'-');
        self.out.extend_from_slice(code.as_bytes());
        self.out.push(b' ');
        self.line(text);
    }

    /// `:number`.
    #[inline]
    pub fn integer(&mut self, number: i64) {
        self.header(b':', number.unsigned_abs(), number < 0);
    }

    /// An unsigned number: an integer, or its digits as a bulk string past `i64`; redis-cli 7.0
    /// ends when it meets a big number.
    pub fn unsigned(&mut self, number: u64) {
        match i64::try_from(number) {
            Ok(number) => self.integer(number),
            Err(_) => self.bulk(number.to_string().as_bytes()),
        }
    }

    /// `$len bytes`.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() + 16);
        self.header(b'$', bytes.len() as u64, false);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Nothing: `_`, in RESP2 `$-1`.
    #[inline]
    pub fn null(&mut self) {
        self.out.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// `#t` or `#f`, in RESP2 1 or 0.
    pub fn boolean(&mut self, value: bool) {
        match (self.resp3, value) {
            (true, true) => self.out.extend_from_slice(b"#t\r\n"),
            (true, false) => self.out.extend_from_slice(b"#f\r\n"),
            (false, value) => self.integer(i64::from(value)),
        }
    }

    /// `,number`, in RESP2 a bulk string.
    pub fn double(&mut self, number: f64) {
        let text = match number {
            n if n.is_nan() => "nan".to_owned(),
            n if n.is_infinite() => (if n > 0.0 { "inf" } else { "-inf" }).to_owned(),
            // `{:?}` prints the shortest text that reads back as the same number.
            n => format!("{n:?}"),
        };
        self.typed_line(b',', &text);
    }

    /// `(digits`, in RESP2 a bulk string.
    pub fn big_number(&mut self, digits: &str) {
        self.typed_line(b'(', digits);
    }

    /// `=len fmt:text`, in RESP2 a bulk string. `format` has three letters.
    pub fn verbatim(&mut self, format: &str, text: &str) {
        if !self.resp3 {
            return self.bulk(text.as_bytes());
        }
        assert!(format.len() == 3, "E1: a verbatim format has three letters");
        self.header(b'=', text.len() as u64 + 4, false);
        self.out.extend_from_slice(format.as_bytes());
        self.out.push(b':');
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// Header of an array of `count` elements.
    pub fn array(&mut self, count: usize) {
        self.header(b'*', count as u64, false);
    }

    /// Header of a set, in RESP2 an array.
    pub fn set(&mut self, count: usize) {
        self.header(if self.resp3 { b'~' } else { b'*' }, count as u64, false);
    }

    /// Header of a map of `count` pairs, in RESP2 an array of twice as many.
    pub fn map(&mut self, count: usize) {
        match self.resp3 {
            true => self.header(b'%', count as u64, false),
            false => self.header(b'*', count as u64 * 2, false),
        }
    }

    /// Header of an out-of-band push, in RESP2 an array.
    pub fn push(&mut self, count: usize) {
        self.header(if self.resp3 { b'>' } else { b'*' }, count as u64, false);
    }

    /// A text as a bulk string: keys of maps, names.
    pub fn text(&mut self, text: &str) {
        self.bulk(text.as_bytes());
    }

    fn typed_line(&mut self, kind: u8, text: &str) {
        if self.resp3 {
            self.out.push(kind);
            self.line(text);
        } else {
            self.bulk(text.as_bytes());
        }
    }

    /// The rest of a line (E1).
    fn line(&mut self, text: &str) {
        self.out.reserve(text.len() + 2);
        self.out.extend(text.bytes().map(|b| if b < 0x20 || b == 0x7f { b' ' } else { b }));
        self.out.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn header(&mut self, kind: u8, number: u64, negative: bool) {
        // 1 kind, 1 sign, 20 digits, CR LF; filled from the end.
        let mut buffer = [0u8; 24];
        buffer[22..].copy_from_slice(b"\r\n");
        let mut at = 22;
        let mut rest = number;
        loop {
            at -= 1;
            buffer[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if negative {
            at -= 1;
            buffer[at] = b'-';
        }
        at -= 1;
        buffer[at] = kind;
        self.out.extend_from_slice(&buffer[at..]);
    }
}

/// Appends a request: an array of bulk strings.
pub fn encode_request(out: &mut Vec<u8>, args: &[&[u8]]) {
    let mut encoder = Encoder::new(out, Protocol::Resp2);
    encoder.array(args.len());
    for arg in args {
        encoder.bulk(arg);
    }
}
