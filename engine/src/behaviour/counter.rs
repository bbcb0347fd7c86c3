//! `counter`: one signed number in the image.
//!
//! Owns: image bytes 0..8, the value as a little-endian `i64`.  Not: the rest of the image.
//! C1  a sum that does not fit fails the turn; the value never wraps.

use super::{Behaviour, Fault, Turn};
use bytes::Bytes;

/// The behaviour of `counter` agents.
#[derive(Debug)]
pub struct Counter;

impl Behaviour for Counter {
    fn name(&self) -> &str {
        "counter"
    }

    fn summary(&self) -> &str {
        "keeps a number: N adds the signed decimal N, get replies the value"
    }

    fn reads_by_page(&self) -> bool {
        true
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        let mut bytes = [0; 8];
        turn.read(0, &mut bytes);
        let value = i64::from_le_bytes(bytes);
        if message.as_ref() == b"get" {
            turn.reply(value.to_string());
            return Ok(());
        }
        let sum = value.checked_add(parse(message)?).ok_or_else(|| {
            Fault::refused(format!(
                "{value} and {} add up to more than 64 bits; the value stays",
                String::from_utf8_lossy(message)
            ))
        })?;
        turn.write(0, &sum.to_le_bytes())?;
        turn.reply(sum.to_string());
        Ok(())
    }
}

fn parse(message: &[u8]) -> Result<i64, Fault> {
    let number = std::str::from_utf8(message).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        let shown = String::from_utf8_lossy(&message[..message.len().min(40)]);
        Fault::refused(format!(
            "{shown:?} is no message for a counter; allowed: get, or a decimal number, {} to {}",
            i64::MIN,
            i64::MAX
        ))
    })
}
