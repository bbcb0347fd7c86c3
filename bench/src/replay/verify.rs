//! Reads every agent's image back and compares it with what the trace says it must be.
//!
//! Owns: chunked reads, the list of mismatches, the sums of AGENT.INFO.  Not: the expected bytes.
//! J1  every byte of every agent is compared, and one read past the end proves the length.

use super::script::Script;
use crate::context;
use crate::link::{Addr, Link};
use crate::wire;
use std::collections::VecDeque;

/// Bytes asked for by one AGENT.READ.
const CHUNK_BYTES: usize = 256 << 10;
/// Agents whose reads are in flight together.
const AGENTS_IN_FLIGHT: usize = 16;
/// Mismatches described one by one.
const MISMATCHES_MAX: usize = 20;

/// What reading back gave.
#[derive(Debug, Default, PartialEq)]
pub struct Verified {
    /// Agents compared.
    pub agent_count: u64,
    /// Bytes compared.
    pub bytes: u64,
    /// Bytes of pages that one agent's present holds alone, over all agents.
    pub unique_bytes: u64,
    /// Bytes of pages shared with versions or relatives, as each agent sees them.
    pub shared_bytes: u64,
    /// Agents whose image differs.
    pub mismatch_count: u64,
    /// The first of them, described.
    pub mismatches: Vec<String>,
}

impl Verified {
    /// The line that ends a replay.
    pub fn line(&self) -> String {
        if self.mismatch_count == 0 {
            format!("verified: all images ({} agents, {} bytes)", self.agent_count, self.bytes)
        } else {
            let (count, all) = (self.mismatch_count, self.agent_count);
            format!("MISMATCH: {count} of {all} images\n{}", self.mismatches.join("\n"))
        }
    }
}

/// One agent whose chunks are on their way.
struct Expected {
    key: String,
    image: Vec<u8>,
    /// Next byte to compare.
    at: usize,
    read_count: usize,
    wrong: Option<String>,
}

/// Compares all images (J1). `progress` gets the number of agents done.
pub fn verify(
    addr: &Addr,
    script: &dyn Script,
    progress: &mut dyn FnMut(u64),
) -> anyhow::Result<Verified> {
    let mut link = Link::connect(addr)?;
    let mut verified = Verified::default();
    let mut flying: VecDeque<Expected> = VecDeque::new();
    let mut next = 0;
    while next < script.agent_count() || !flying.is_empty() {
        context::check_interrupt()?;
        while next < script.agent_count() && flying.len() < AGENTS_IN_FLIGHT {
            let mut image = Vec::new();
            let key = script.image(next, &mut image);
            flying.push_back(ask(&mut link, key, image));
            next += 1;
        }
        let Some(mut expected) = flying.pop_front() else { break };
        for _ in 0..expected.read_count {
            let reply = link.wait_reply().map_err(|error| named(&expected.key, error))?;
            compare(&mut expected, wire::text(&reply).unwrap_or_default());
        }
        let info = link.wait_reply().map_err(|error| named(&expected.key, error))?;
        let sum = |name| wire::field(&info, name).and_then(wire::number).unwrap_or(0) as u64;
        verified.unique_bytes += sum("unique_bytes");
        verified.shared_bytes += sum("shared_bytes");
        verified.agent_count += 1;
        verified.bytes += expected.image.len() as u64;
        if let Some(wrong) = expected.wrong {
            verified.mismatch_count += 1;
            if verified.mismatches.len() < MISMATCHES_MAX {
                verified.mismatches.push(wrong);
            }
        }
        progress(verified.agent_count);
    }
    Ok(verified)
}

fn named(key: &str, error: crate::link::LinkError) -> anyhow::Error {
    anyhow::Error::from(error).context(format!("cannot read {key} back"))
}

fn ask(link: &mut Link, key: String, image: Vec<u8>) -> Expected {
    let mut read_count = 0;
    // The last read starts at the image's end, or holds one byte more than the image has.
    for offset in (0..=image.len()).step_by(CHUNK_BYTES) {
        let len_bytes = (image.len() + 1 - offset).min(CHUNK_BYTES).to_string();
        let offset = offset.to_string();
        let parts: [&[u8]; 4] =
            [b"AGENT.READ", key.as_bytes(), offset.as_bytes(), len_bytes.as_bytes()];
        wire::command(link.output(), &parts);
        read_count += 1;
    }
    wire::command(link.output(), &[b"AGENT.INFO", key.as_bytes()]);
    Expected { key, image, at: 0, read_count, wrong: None }
}

fn compare(expected: &mut Expected, bytes: &[u8]) {
    let rest = &expected.image[expected.at..];
    let wanted = rest.len().min(CHUNK_BYTES);
    if expected.wrong.is_none() && bytes != &rest[..wanted] {
        let same = bytes.iter().zip(rest).take_while(|(a, b)| a == b).count();
        let (key, at) = (&expected.key, expected.at + same);
        let (image, got) = (expected.image.len(), bytes.len());
        expected.wrong = Some(format!(
            "{key}: byte {at} of {image} differs (a read of {wanted} gave {got} bytes)"
        ));
    }
    expected.at += wanted;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(len: usize) -> Expected {
        let image = (0..len).map(|n| n as u8).collect();
        Expected { key: "notebook/x".into(), image, at: 0, read_count: 0, wrong: None }
    }

    #[test]
    fn j1_every_chunk_and_the_length_are_compared() {
        let len = CHUNK_BYTES + 100;
        let mut right = expected(len);
        let image = right.image.clone();
        compare(&mut right, &image[..CHUNK_BYTES]);
        compare(&mut right, &image[CHUNK_BYTES..]);
        assert_eq!(right.wrong, None);
        let mut flipped = expected(len);
        let mut bytes = image[CHUNK_BYTES..].to_vec();
        bytes[7] ^= 1;
        compare(&mut flipped, &image[..CHUNK_BYTES]);
        compare(&mut flipped, &bytes);
        let wrong = flipped.wrong.expect("a difference");
        assert!(wrong.contains(&format!("byte {} of", CHUNK_BYTES + 7)), "{wrong}");
        let mut longer = expected(10);
        compare(&mut longer, &[&image[..10], &[0]].concat());
        assert!(longer.wrong.is_some(), "an image that is longer than expected");
        let mut shorter = expected(10);
        compare(&mut shorter, &image[..9]);
        assert!(shorter.wrong.is_some(), "an image that is shorter than expected");
    }
}
