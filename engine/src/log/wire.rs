//! Numbers and byte strings as records hold them.
//!
//! Owns: the encoding of integers (LEB128) and of lengths.  Not: what they mean.
//! W1  reading never goes past the end, and never takes a number that does not fit.

use super::record::RecordError;

/// Appends a number: 7 bits a byte, lowest first, the top bit set on all but the last.
pub(crate) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends bytes after their count.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends 0 for none, or 1 and the bytes.
pub(crate) fn put_option(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.push(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        put_bytes(out, bytes);
    }
}

/// Reads a record from its start (W1).
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let short = RecordError::Short { missing_bytes: len.saturating_sub(self.bytes.len()) };
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(short)?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, RecordError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn flag(&mut self) -> Result<bool, RecordError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(RecordError::BadField { what: "a flag", value: value.into() }),
        }
    }

    pub(crate) fn number(&mut self) -> Result<u64, RecordError> {
        let mut value = 0u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return Err(RecordError::BadField { what: "a number's last byte", value: bits });
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RecordError::BadField { what: "a number's length", value: 11 })
    }

    /// A number that fits the type that `what` has.
    pub(crate) fn small<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, RecordError> {
        let value = self.number()?;
        T::try_from(value).map_err(|_| RecordError::BadField { what, value })
    }

    /// How many items follow, each of at least one byte, so that no count asks for more memory
    /// than the record has bytes.
    pub(crate) fn count(&mut self) -> Result<usize, RecordError> {
        let value = self.number()?;
        if value > self.bytes.len() as u64 {
            return Err(RecordError::BadField { what: "a count", value });
        }
        Ok(value as usize)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let len = self.count()?;
        self.take(len)
    }

    pub(crate) fn option(&mut self) -> Result<Option<&'a [u8]>, RecordError> {
        self.flag()?.then(|| self.bytes()).transpose()
    }

    pub(crate) fn id(&mut self) -> Result<u128, RecordError> {
        let bytes = self.take(16)?;
        Ok(u128::from_le_bytes(bytes.try_into().expect("W1: sixteen bytes were taken")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w1_numbers_read_back_and_cut_ones_do_not() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, value);
            assert_eq!(Reader::new(&out).number(), Ok(value));
            for cut in 0..out.len() {
                assert!(Reader::new(&out[..cut]).number().is_err(), "{value} cut at {cut}");
            }
        }
        assert!(Reader::new(&[0xFF; 11]).number().is_err());
        assert!(
            Reader::new(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2])
                .number()
                .is_err()
        );
    }

    #[test]
    fn w1_a_length_past_the_end_is_an_error() {
        let mut out = Vec::new();
        put_bytes(&mut out, b"abc");
        put_option(&mut out, None);
        put_option(&mut out, Some(b"x"));
        let mut reader = Reader::new(&out);
        assert_eq!(reader.bytes(), Ok(&b"abc"[..]));
        assert_eq!(reader.option(), Ok(None));
        assert_eq!(reader.option(), Ok(Some(&b"x"[..])));
        assert!(reader.is_empty());
        assert!(Reader::new(&[200, 1, 0]).bytes().is_err());
    }
}
