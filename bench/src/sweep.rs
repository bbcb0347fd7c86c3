//! A sweep: one piece of work for each of many agents, over many connections, every reply checked.
//!
//! Owns: the order of agents, the list of wrong replies.  Not: driving (`replay/drive.rs`), what is
//! asked and what is right (the caller's closures).
//! I1  every agent is asked exactly once, in an order that is a function of the seed.
//! I2  a reply that is an error ends the sweep; one that is wrong is counted and described.

use crate::link::Addr;
use crate::replay::drive::{self, Driven, Pace};
use crate::replay::script::{Script, Turn};
use crate::wire;
use std::collections::BTreeSet;

/// Connections, and requests in flight over them.
pub const CONNECTIONS: usize = 32;
/// Wrong agents described one by one.
const WRONG_MAX: usize = 10;

/// What a sweep gave.
#[derive(Debug)]
pub struct Swept {
    /// Count, seconds, latency.
    pub driven: Driven,
    /// Agents with a wrong reply.
    pub wrong: BTreeSet<u32>,
    /// The first wrong replies, described.
    pub described: Vec<String>,
}

impl Swept {
    /// `verified: ...` or `MISMATCH: ...`, about `what`.
    pub fn line(&self, what: &str) -> String {
        let all = self.driven.turn_count;
        if self.wrong.is_empty() {
            return format!("verified: {what}: {all} agents");
        }
        let (count, described) = (self.wrong.len(), self.described.join("\n"));
        format!("MISMATCH: {what}: {count} of {all} agents\n{described}")
    }
}

struct Sweep<E, C> {
    turns: Vec<Turn>,
    encode: E,
    is_right: C,
    wrong: BTreeSet<u32>,
    described: Vec<String>,
}

/// Asks agents 0 to `count - 1` once each, `flying` at a time, in the order of `seed` (I1).
/// `encode` appends an agent's commands and returns how many; `is_right` judges each reply.
pub fn sweep(
    addr: &Addr,
    count: u32,
    flying: usize,
    seed: u64,
    encode: impl FnMut(u32, &mut Vec<u8>) -> u32,
    is_right: impl FnMut(u32, &[u8]) -> bool,
) -> anyhow::Result<Swept> {
    let turns = order(count, seed).into_iter();
    let turns = turns.map(|agent| Turn { family: agent, arrival_ns: 0, stage_count: 1 }).collect();
    let (wrong, described) = (BTreeSet::new(), Vec::new());
    let mut sweep = Sweep { turns, encode, is_right, wrong, described };
    let pace = Pace::Flying { turn_count: flying };
    let driven = drive::drive(addr, CONNECTIONS, &mut sweep, pace, &mut |_| {})?;
    Ok(Swept { driven, wrong: sweep.wrong, described: sweep.described })
}

/// Numbers 0 to `count - 1` in an order of their own for each seed.
pub fn order(count: u32, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut order);
    order
}

impl<E, C> Script for Sweep<E, C>
where
    E: FnMut(u32, &mut Vec<u8>) -> u32,
    C: FnMut(u32, &[u8]) -> bool,
{
    fn turns(&self) -> &[Turn] {
        &self.turns
    }

    fn family_count(&self) -> u32 {
        self.turns.len() as u32
    }

    fn encode(&mut self, turn_idx: usize, _stage: u8, out: &mut Vec<u8>) -> u32 {
        (self.encode)(self.turns[turn_idx].family, out)
    }

    fn replied(&mut self, turn_idx: usize, _stage: u8, _nth: u32, reply: &[u8]) {
        let agent = self.turns[turn_idx].family;
        if (self.is_right)(agent, reply) {
            return;
        }
        if self.wrong.insert(agent) && self.described.len() < WRONG_MAX {
            let text = wire::text(reply).unwrap_or(reply);
            let text = String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
            self.described.push(format!("agent {agent} answered {} bytes: {text:?}", reply.len()));
        }
    }

    fn agent_count(&self) -> usize {
        self.turns.len()
    }

    fn fork_count(&self) -> usize {
        0
    }

    fn image(&self, _agent_idx: usize, _out: &mut Vec<u8>) -> String {
        // Replies are checked as they come; no caller reads images back.
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Latency;

    #[test]
    fn i1_an_order_holds_every_agent_once_and_is_the_seeds() {
        let mut order_of_one = order(100, 1);
        assert_eq!(order_of_one, order(100, 1));
        assert_ne!(order_of_one, order(100, 2));
        order_of_one.sort_unstable();
        assert_eq!(order_of_one, (0..100).collect::<Vec<u32>>());
    }

    #[test]
    fn i2_a_wrong_agent_is_counted_once_and_described() {
        let turn = Turn { family: 7, arrival_ns: 0, stage_count: 1 };
        let mut sweep = Sweep {
            turns: vec![turn],
            encode: |_: u32, _: &mut Vec<u8>| 1,
            is_right: |_: u32, reply: &[u8]| reply == b"+OK\r\n",
            wrong: BTreeSet::new(),
            described: Vec::new(),
        };
        sweep.replied(0, 0, 0, b"+OK\r\n");
        sweep.replied(0, 0, 1, b"+NO\r\n");
        sweep.replied(0, 0, 2, b"+NO\r\n");
        let driven =
            Driven { turn_count: 1, command_count: 3, seconds: 1.0, latency: Latency::new() };
        let swept = Swept { driven, wrong: sweep.wrong, described: sweep.described };
        let line = swept.line("things");
        assert!(line.starts_with("MISMATCH: things: 1 of 1"), "{line}");
        assert!(line.contains("agent 7") && line.contains("NO"), "{line}");
    }
}
