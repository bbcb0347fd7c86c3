//! What the templates do, in the plainest way: a message and an image in, a reply out.
//!
//! Owns: the replies of notebook, counter, echo and mischief, written from their descriptions.
//! Not: undo, sealing, relays, which `oracle.rs` has.

use super::Rules;
use super::answer::Answer;
use super::memory::Memory;

const TEXT_START: u64 = 64 << 10;
const SLOT_BYTES: u64 = 128;

/// A panic, which is a FAULT to its sender and counts towards the agent's quarantine.
pub(super) const PANIC: &str = "PANIC";

/// The code of the refusal.
type Failed = &'static str;
type Replied = Result<Vec<u8>, Failed>;

/// Handles `payload` for an agent of `template`; whatever a failed turn wrote is to be dropped.
pub(super) fn handle(
    template: &str,
    rules: &Rules,
    memory: &mut Memory,
    payload: &[u8],
    root: u64,
) -> Replied {
    let mut turn = Turn { rules, memory, root };
    match template {
        "echo" => Ok(payload.to_vec()),
        "counter" => counter(&mut turn, payload),
        "notebook" => notebook(&mut turn, payload),
        "mischief" => mischief(&mut turn, payload),
        other => panic!("the oracle knows no {other}"),
    }
}

/// The answer of a turn.
pub(super) fn answer(replied: Replied) -> Answer {
    match replied {
        Ok(bytes) => Answer::Bytes(bytes),
        Err(PANIC) => Answer::Refused("FAULT"),
        Err(code) => Answer::Refused(code),
    }
}

struct Turn<'a> {
    rules: &'a Rules,
    memory: &'a mut Memory,
    root: u64,
}

impl Turn<'_> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failed> {
        if offset + bytes.len() as u64 > self.rules.image_bytes_max {
            return Err("LIMIT");
        }
        self.memory.write(offset, bytes, self.root);
        Ok(())
    }

    fn resize(&mut self, len: u64) -> Result<(), Failed> {
        if len > self.rules.image_bytes_max {
            return Err("LIMIT");
        }
        self.memory.resize(len as usize, self.root);
        Ok(())
    }

    fn text_len(&self) -> u64 {
        let room = (self.memory.len() as u64).saturating_sub(TEXT_START);
        u64::from_le_bytes(self.memory.array(0)).min(room)
    }
}

fn counter(turn: &mut Turn<'_>, payload: &[u8]) -> Replied {
    let value = i64::from_le_bytes(turn.memory.array(0));
    if payload == b"get" {
        return Ok(value.to_string().into());
    }
    let text = std::str::from_utf8(payload).map_err(|_| "FAULT")?;
    let add: i64 = text.parse().map_err(|_| "FAULT")?;
    let sum = value.checked_add(add).ok_or("FAULT")?;
    turn.write(0, &sum.to_le_bytes())?;
    Ok(sum.to_string().into())
}

fn mischief(turn: &mut Turn<'_>, payload: &[u8]) -> Replied {
    let before: [u8; 1] = turn.memory.array(0);
    turn.write(0, &[before[0].wrapping_add(101)])?;
    turn.write(9_000, b"half done")?;
    match payload.strip_prefix(b"mark ") {
        Some(rest) => {
            turn.resize(1)?;
            turn.write(0, rest.get(..1).unwrap_or(b"?"))?;
            Ok(before.to_vec())
        }
        None if payload == b"panic" => Err(PANIC),
        None if payload == b"huge" || payload.starts_with(b"spray") => Err("LIMIT"),
        None => Err("FAULT"),
    }
}

fn notebook(turn: &mut Turn<'_>, payload: &[u8]) -> Replied {
    let (verb, rest) = split(payload);
    match verb {
        b"append" => {
            let len = turn.text_len();
            let grown = len + rest.len() as u64;
            turn.write(TEXT_START + len, rest)?;
            turn.write(0, &grown.to_le_bytes())?;
            Ok(grown.to_string().into())
        }
        b"set" => {
            let (slot, text) = split(rest);
            let start = slot_start(slot)?;
            if text.len() >= SLOT_BYTES as usize {
                return Err("FAULT");
            }
            let previous = slot_text(turn.memory, start);
            let mut bytes = [0; SLOT_BYTES as usize];
            bytes[0] = text.len() as u8;
            bytes[1..=text.len()].copy_from_slice(text);
            turn.write(start, &bytes)?;
            Ok(previous)
        }
        b"get" => Ok(slot_text(turn.memory, slot_start(rest)?)),
        b"read" => {
            let len = turn.text_len();
            let (offset, wanted) = match split(rest) {
                (b"", b"") => (0, len),
                (offset, wanted) => (number(offset)?, number(wanted)?),
            };
            let offset = offset.min(len);
            let wanted = wanted.min(len - offset);
            if wanted > turn.rules.payload_bytes_max {
                return Err("LIMIT");
            }
            Ok(turn.memory.read(TEXT_START + offset, wanted).to_vec())
        }
        b"len" if rest.is_empty() => Ok(turn.text_len().to_string().into()),
        b"resize" => {
            let len = number(rest)?;
            turn.resize(len)?;
            let room = len.saturating_sub(TEXT_START);
            if u64::from_le_bytes(turn.memory.array(0)) > room && len >= 8 {
                turn.write(0, &room.to_le_bytes())?;
            }
            Ok(len.to_string().into())
        }
        _ => Err("FAULT"),
    }
}

fn slot_text(memory: &Memory, start: u64) -> Vec<u8> {
    let bytes: [u8; SLOT_BYTES as usize] = memory.array(start);
    let len = usize::from(bytes[0]).min(SLOT_BYTES as usize - 1);
    bytes[1..=len].to_vec()
}

fn slot_start(text: &[u8]) -> Result<u64, Failed> {
    let slot = number(text)?;
    if slot > 510 { Err("FAULT") } else { Ok((slot + 1) * SLOT_BYTES) }
}

fn number(text: &[u8]) -> Result<u64, Failed> {
    let text = std::str::from_utf8(text).map_err(|_| "FAULT")?;
    text.parse().map_err(|_| "FAULT")
}

fn split(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == b' ') {
        Some(space) => (&text[..space], &text[space + 1..]),
        None => (text, b""),
    }
}
