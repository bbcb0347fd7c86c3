//! `messages`: N agents of 64 KiB, each message reads and overwrites 100 bytes of one.
//!
//! Owns: the work, in our words and in Redis's, and its preparation.  Not: running it (`peers.rs`).
//! G1  every contestant does the same bytes of work per request: 100 read, 100 written, on a
//!     random one of the same number of 64 KiB values; `overwrite` reads nothing and is stricter.
//! G2  requests are encoded before the clock starts.
//! G3  every request changes its 100 bytes: none repeats what the slot holds, so that no contestant
//!     is spared the work of a change.

use crate::context::Context;
use crate::link::{Addr, Link};
use crate::load::Encoded;
use crate::peers::{self, Shape};
use crate::report::Report;
use crate::wire;
use clap::Args;

/// Size of one agent's image.
pub const IMAGE_BYTES: u64 = 64 << 10;
/// Bytes read and written by one message.
const TEXT_BYTES: usize = 100;
/// Slots of a notebook that the messages touch; they lie well inside 64 KiB.
const SLOT_COUNT: usize = 256;
/// Bytes between two slots.
const SLOT_BYTES: usize = 128;
/// Agent and slot pairs that are encoded beforehand, each with two texts in turn.
const PAIR_COUNT: usize = 8192;
/// Commands in flight while agents are made.
const PREPARE_DEPTH: usize = 64;

/// Arguments of `messages`, `pipeline` and `peers`.
#[derive(Clone, Debug, Args)]
pub struct MessagesArgs {
    /// Number of agents
    #[arg(long, default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub agents: u32,
    /// Microseconds that the spinning node polls before it sleeps
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub spin_us: u32,
    /// Use the Unix socket instead of TCP (both contestants use TCP in `peers`)
    #[arg(long)]
    pub unix: bool,
}

/// Who does the work, in which words.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// `AGENT.SEND notebook/N "set SLOT TEXT"`, which replies the slot's previous text.
    Send,
    /// The same with `ACK durable`.
    SendDurable,
    /// Redis: one `EVALSHA` of a script with GETRANGE and SETRANGE.
    Script {
        /// Digest of the script.
        digest: Vec<u8>,
    },
    /// Redis: GETRANGE and SETRANGE in one pipeline; one round trip, not atomic.
    Pair,
    /// Redis: SETRANGE alone; reads nothing.
    Overwrite,
}

impl Work {
    /// Whether a node of ours does it.
    pub fn is_ours(&self) -> bool {
        matches!(self, Work::Send | Work::SendDurable)
    }

    /// Replies that one request brings.
    pub fn replies_per_request(&self) -> u32 {
        if *self == Work::Pair { 2 } else { 1 }
    }

    /// Requests in random order over `agents` agents (G2); the same seed for every contestant.
    /// Each round on one server has a number of its own (G3).
    pub fn encode(&self, agents: u32, round: usize) -> Encoded {
        let mut random = fastrand::Rng::with_seed(2);
        Encoded::new(2 * PAIR_COUNT, |n, out| {
            if n == PAIR_COUNT {
                random.seed(2);
            }
            let agent = random.u32(0..agents);
            let slot = random.usize(0..SLOT_COUNT);
            let text = text_of(n, round);
            let offset = (slot * SLOT_BYTES).to_string();
            let key = format!("value:{agent}");
            let (key, offset) = (key.as_bytes(), offset.as_bytes());
            match self {
                Work::Send | Work::SendDurable => {
                    let key = format!("notebook/{agent}");
                    let mut payload = format!("set {slot} ").into_bytes();
                    payload.extend_from_slice(&text);
                    let parts: [&[u8]; 5] =
                        [b"AGENT.SEND", key.as_bytes(), &payload, b"ACK", b"durable"];
                    let part_count = if *self == Work::SendDurable { 5 } else { 3 };
                    wire::command(out, &parts[..part_count]);
                }
                Work::Script { digest } => {
                    wire::command(out, &[b"EVALSHA", digest, b"1", key, offset, &text]);
                }
                Work::Pair => {
                    let end = (slot * SLOT_BYTES + TEXT_BYTES - 1).to_string();
                    wire::command(out, &[b"GETRANGE", key, offset, end.as_bytes()]);
                    wire::command(out, &[b"SETRANGE", key, offset, &text]);
                }
                Work::Overwrite => wire::command(out, &[b"SETRANGE", key, offset, &text]),
            }
        })
    }
}

/// The text of request `n` of a round: letters that are random, but the same in every run. When a
/// round comes round again, the other half of it has been there in between (G3).
fn text_of(n: usize, round: usize) -> [u8; TEXT_BYTES] {
    let mut random = fastrand::Rng::with_seed((2 * PAIR_COUNT * round + n) as u64);
    std::array::from_fn(|_| random.alphanumeric() as u8)
}

/// Makes the agents on a node.
pub fn prepare_node(addr: &Addr, agents: u32) -> anyhow::Result<()> {
    let size = IMAGE_BYTES.to_string();
    prepare(addr, agents, |n, out| {
        let key = format!("notebook/{n}");
        wire::command(out, &[b"AGENT.CREATE", key.as_bytes(), b"SIZE", size.as_bytes()]);
    })
}

/// Makes the values on Redis.
pub fn prepare_redis(addr: &Addr, agents: u32) -> anyhow::Result<()> {
    let last = (IMAGE_BYTES - 1).to_string();
    prepare(addr, agents, |n, out| {
        let key = format!("value:{n}");
        wire::command(out, &[b"SETRANGE", key.as_bytes(), last.as_bytes(), b"."]);
    })
}

fn prepare(
    addr: &Addr,
    count: u32,
    mut encode: impl FnMut(u32, &mut Vec<u8>),
) -> anyhow::Result<()> {
    let mut link = Link::connect(addr)?;
    let mut made = 0;
    while made < count {
        let batch = (count - made).min(PREPARE_DEPTH as u32);
        (made..made + batch).for_each(|n| encode(n, link.output()));
        for _ in 0..batch {
            link.wait_reply()?;
        }
        made += batch;
    }
    Ok(())
}

/// Runs `messages`: 1 and 32 connections, parked and spinning.
pub fn run(context: &Context, args: &MessagesArgs) -> anyhow::Result<Report> {
    let shapes = [Shape { connections: 1, depth: 1 }, Shape { connections: 32, depth: 1 }];
    peers::measure(context, args, "messages", &shapes, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Requests;

    #[test]
    fn g3_no_two_requests_of_any_rounds_write_the_same() {
        let rounds = 0..3;
        let all = rounds.flat_map(|round| (0..2 * PAIR_COUNT).map(move |n| text_of(n, round)));
        let mut texts: Vec<_> = all.collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), 3 * 2 * PAIR_COUNT);
    }

    #[test]
    fn g1_every_contestant_encodes_whole_commands_of_the_same_payload() {
        let digest = vec![b'd'; 40];
        let theirs = [Work::Script { digest }, Work::Pair, Work::Overwrite];
        for work in [Work::Send, Work::SendDurable].into_iter().chain(theirs) {
            let mut requests = work.encode(10, 0);
            let mut out = Vec::new();
            for n in 0..2 * PAIR_COUNT + 1 {
                out.clear();
                requests.append(0, &mut out);
                let mut commands = 0;
                let mut at = 0;
                while at < out.len() {
                    let extent = wire::extent(&out[at..]).expect("RESP").expect("whole");
                    at += extent.len_bytes;
                    commands += 1;
                }
                assert_eq!(commands, work.replies_per_request());
                let text = text_of(n % (2 * PAIR_COUNT), 0);
                assert!(out.windows(TEXT_BYTES).any(|window| window == text));
            }
        }
    }
}
