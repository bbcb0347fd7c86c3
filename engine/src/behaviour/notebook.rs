//! `notebook`: text slots and appended text, kept in the image.
//!
//! Owns: this layout of the image.  Not: bytes that a client writes there by AGENT.WRITE; what
//! does not make sense reads as empty.
//!
//! | bytes              | what                                                    |
//! |--------------------|---------------------------------------------------------|
//! | 0..8               | length of the appended text, little endian              |
//! | 8..128             | zero                                                    |
//! | 128 * (1 + slot).. | slot 0 to 510: one byte of length, up to 127 of text     |
//! | 65536..            | the appended text                                       |
//!
//! N1  a turn on a slot touches one page, an append the header's and the text's.

use super::{Behaviour, Fault, Turn};
use bytes::Bytes;

/// Slots of a notebook; header and slots fill 64 KiB.
pub const SLOT_COUNT: u64 = 511;
/// Bytes of one slot.
pub const SLOT_BYTES: usize = 128;
/// Longest text of a slot in bytes.
pub const SLOT_TEXT_BYTES_MAX: usize = SLOT_BYTES - 1;
/// Where the appended text begins.
pub const TEXT_START: u64 = 64 << 10;

const _: () = assert!((SLOT_COUNT + 1) * SLOT_BYTES as u64 == TEXT_START);
const _: () = assert!(SLOT_TEXT_BYTES_MAX <= u8::MAX as usize);

const ALLOWED: &str = "append TEXT, set SLOT TEXT, get SLOT, read [OFFSET LEN], len, resize BYTES";

/// The behaviour of `notebook` agents.
#[derive(Debug)]
pub struct Notebook;

impl Behaviour for Notebook {
    fn name(&self) -> &str {
        "notebook"
    }

    fn summary(&self) -> &str {
        "keeps text: append TEXT, set SLOT TEXT, get SLOT, read [OFFSET LEN], len, resize BYTES"
    }

    fn reads_by_page(&self) -> bool {
        true
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        let (verb, rest) = split(message);
        match verb {
            b"append" => append(turn, rest),
            b"set" => set(turn, rest),
            b"get" => {
                let slot = slot_start(rest)?;
                let text = slot_text(turn, slot);
                turn.reply(text);
                Ok(())
            }
            b"read" => read(turn, rest),
            b"len" if rest.is_empty() => {
                let len = text_len(turn);
                turn.reply(len.to_string());
                Ok(())
            }
            b"resize" => resize(turn, rest),
            _ => {
                let shown = String::from_utf8_lossy(&message[..message.len().min(40)]);
                let what = "is no message for a notebook";
                Err(Fault::refused(format!("{shown:?} {what}; allowed: {ALLOWED}")))
            }
        }
    }
}

fn append(turn: &mut Turn<'_>, text: &[u8]) -> Result<(), Fault> {
    let len = text_len(turn);
    let grown = len + text.len() as u64;
    turn.write(TEXT_START + len, text)?;
    turn.write(0, &grown.to_le_bytes())?;
    turn.reply(grown.to_string());
    Ok(())
}

fn set(turn: &mut Turn<'_>, rest: &[u8]) -> Result<(), Fault> {
    let (slot, text) = split(rest);
    let start = slot_start(slot)?;
    if text.len() > SLOT_TEXT_BYTES_MAX {
        return Err(Fault::refused(format!(
            "the text has {} bytes; allowed in a slot: 0 to {SLOT_TEXT_BYTES_MAX}",
            text.len()
        )));
    }
    let previous = slot_text(turn, start);
    let mut bytes = [0; SLOT_BYTES];
    bytes[0] = text.len() as u8;
    bytes[1..=text.len()].copy_from_slice(text);
    turn.write(start, &bytes)?;
    turn.reply(previous);
    Ok(())
}

fn read(turn: &mut Turn<'_>, rest: &[u8]) -> Result<(), Fault> {
    let len = text_len(turn);
    let (offset, wanted) = match split(rest) {
        (b"", b"") => (0, len),
        (offset, wanted) => (number("OFFSET", offset)?, number("LEN", wanted)?),
    };
    let offset = offset.min(len);
    let wanted = wanted.min(len - offset);
    // Check before copying, so that a huge text costs nothing.
    if wanted > turn.allowance.payload_bytes_max as u64 {
        return Err(Fault::Limit {
            what: "the reply in bytes",
            value: wanted,
            limit: turn.allowance.payload_bytes_max as u64,
            remedy: "read OFFSET LEN reads a part",
        });
    }
    let mut text = Vec::with_capacity(wanted as usize);
    turn.read_to(TEXT_START + offset, wanted as usize, &mut text);
    turn.reply(text);
    Ok(())
}

fn resize(turn: &mut Turn<'_>, rest: &[u8]) -> Result<(), Fault> {
    let len_bytes = number("BYTES", rest)?;
    turn.resize(len_bytes)?;
    let mut header = [0; 8];
    turn.read(0, &mut header);
    let room = len_bytes.saturating_sub(TEXT_START);
    if u64::from_le_bytes(header) > room && len_bytes >= header.len() as u64 {
        turn.write(0, &room.to_le_bytes())?;
    }
    turn.reply(len_bytes.to_string());
    Ok(())
}

/// Length of the appended text: what the header says, as far as the image reaches.
fn text_len(turn: &mut Turn<'_>) -> u64 {
    let mut header = [0; 8];
    turn.read(0, &mut header);
    u64::from_le_bytes(header).min(turn.image_len().saturating_sub(TEXT_START))
}

fn slot_text(turn: &mut Turn<'_>, start: u64) -> Bytes {
    let mut bytes = [0; SLOT_BYTES];
    turn.read(start, &mut bytes);
    let len = usize::from(bytes[0]).min(SLOT_TEXT_BYTES_MAX);
    Bytes::copy_from_slice(&bytes[1..=len])
}

fn slot_start(text: &[u8]) -> Result<u64, Fault> {
    let slot = number("SLOT", text)?;
    if slot >= SLOT_COUNT {
        let last = SLOT_COUNT - 1;
        return Err(Fault::refused(format!("SLOT is {slot}; allowed: 0 to {last}")));
    }
    Ok((slot + 1) * SLOT_BYTES as u64)
}

fn number(what: &str, text: &[u8]) -> Result<u64, Fault> {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| {
        let shown = String::from_utf8_lossy(&text[..text.len().min(40)]);
        Fault::refused(format!("{what} is {shown:?}; allowed: a whole decimal number, 0 or more"))
    })
}

/// The first word, and what follows the space after it.
fn split(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b' ', text) {
        Some(space) => (&text[..space], &text[space + 1..]),
        None => (text, b""),
    }
}
