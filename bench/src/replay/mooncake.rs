//! Mooncake traces: requests as lists of block hashes; shared prefixes make agents and forks.
//!
//! Owns: which request is a turn of which agent, and the bytes of a block.
//! Not: driving (`drive.rs`), reading back (`verify.rs`).
//! K1  a request that extends an agent's present is that agent's next turn. Its last block may be
//!     partly filled, so a present whose blocks are shared but for the last one is extended too.
//! K2  any other request that shares a prefix is a fork, at the version that holds the prefix.
//! K3  after a turn the agent's image is exactly the blocks of its request, 2 KiB each.

use super::script::{Script, TraceError, Turn};
use crate::wire;
use serde::Deserialize;
use std::collections::HashMap;

/// Bytes that stand for one block of 512 tokens.
pub const BLOCK_BYTES: usize = 2048;

#[derive(Deserialize)]
struct Row {
    /// Milliseconds from the start.
    timestamp: u64,
    hash_ids: Vec<u64>,
}

/// One request, placed.
#[derive(Clone, Debug, PartialEq)]
struct Step {
    agent: u32,
    /// Parent agent and the turn of it that is forked (K2).
    fork: Option<(u32, u32)>,
    /// The version forked is longer than this request.
    cut: bool,
    /// First block that is written; all up to the request's end are.
    write_from: u32,
    request: u32,
    /// Turn number within the agent, from 1; its checkpoint's label.
    label: u32,
}

/// An agent of one pass over the trace.
#[derive(Clone, Debug, PartialEq)]
struct Agent {
    parent: Option<u32>,
    family: u32,
    /// Request whose blocks are its present.
    present: u32,
    turn_count: u32,
}

/// The trace as agents, forks and turns, repeated with other names.
#[derive(Debug)]
pub struct Mooncake {
    requests: Vec<Vec<u64>>,
    steps: Vec<Step>,
    agents: Vec<Agent>,
    family_count: u32,
    repeat_count: usize,
    turns: Vec<Turn>,
}

impl Mooncake {
    /// Reads the lines of a trace.
    pub fn parse(text: &str, repeat_count: usize) -> Result<Mooncake, TraceError> {
        let mut requests = Vec::new();
        let mut arrivals_ns = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let json = |error| TraceError::Json { record: at + 1, format: "mooncake", error };
            let row: Row = serde_json::from_str(line).map_err(json)?;
            if row.hash_ids.is_empty() {
                let what = "hash_ids is empty";
                return Err(TraceError::Record { record: at + 1, format: "mooncake", what });
            }
            requests.push(row.hash_ids);
            arrivals_ns.push(row.timestamp * 1_000_000);
        }
        if requests.is_empty() {
            return Err(TraceError::Empty);
        }
        let (steps, agents) = place(&requests);
        let family_count = agents.iter().filter(|agent| agent.parent.is_none()).count() as u32;
        let span_ns = arrivals_ns.last().map_or(0, |last| last + 1_000_000);
        let turns = (0..repeat_count).flat_map(|pass| {
            steps.iter().zip(&arrivals_ns).map(move |(step, arrival_ns)| (pass, step, *arrival_ns))
        });
        let turns = turns.map(|(pass, step, arrival_ns)| Turn {
            family: pass as u32 * family_count + agents[step.agent as usize].family,
            arrival_ns: arrival_ns + pass as u64 * span_ns,
            stage_count: if step.fork.is_some() { 2 } else { 1 },
        });
        let turns = turns.collect();
        Ok(Mooncake { requests, steps, agents, family_count, repeat_count, turns })
    }

    /// The agent of each request of one pass, in the order of the trace.
    pub fn order(&self) -> impl Iterator<Item = u32> + '_ {
        self.steps.iter().map(|step| step.agent)
    }

    fn key(&self, pass: usize, agent: u32) -> String {
        match self.agents[agent as usize].parent {
            Some(parent) => format!("{}~{agent}", self.key(pass, parent)),
            None => format!("notebook/m{pass}-{agent}"),
        }
    }

    fn encode_fork(
        &self,
        pass: usize,
        step: &Step,
        parent: u32,
        at: u32,
        out: &mut Vec<u8>,
    ) -> u32 {
        let (key, suffix, label) =
            (self.key(pass, parent), step.agent.to_string(), format!("@t{at}"));
        let parts: [&[u8]; 6] =
            [b"AGENT.FORK", key.as_bytes(), b"AS", suffix.as_bytes(), b"AT", label.as_bytes()];
        wire::command(out, &parts);
        1
    }

    fn encode_turn(&self, pass: usize, step: &Step, out: &mut Vec<u8>) -> u32 {
        let key = self.key(pass, step.agent);
        let blocks = &self.requests[step.request as usize];
        let mut count = 1;
        if step.label == 1 && step.fork.is_none() {
            wire::command(out, &[b"AGENT.CREATE", key.as_bytes()]);
            count += 1;
        }
        if step.cut {
            let resize = format!("resize {}", blocks.len() * BLOCK_BYTES);
            wire::command(out, &[b"AGENT.SEND", key.as_bytes(), resize.as_bytes()]);
            count += 1;
        }
        let new = &blocks[step.write_from as usize..];
        if !new.is_empty() {
            wire::head(out, 4);
            wire::bulk(out, b"AGENT.WRITE");
            wire::bulk(out, key.as_bytes());
            let offset = step.write_from as usize * BLOCK_BYTES;
            wire::bulk(out, offset.to_string().as_bytes());
            wire::bulk_with(out, new.len() * BLOCK_BYTES, |out| {
                new.iter().for_each(|hash| block(*hash, out));
            });
            count += 1;
        }
        let label = format!("t{}", step.label);
        let parts: [&[u8]; 4] = [b"AGENT.CHECKPOINT", key.as_bytes(), b"LABEL", label.as_bytes()];
        wire::command(out, &parts);
        count
    }
}

impl Script for Mooncake {
    fn turns(&self) -> &[Turn] {
        &self.turns
    }

    fn family_count(&self) -> u32 {
        self.family_count * self.repeat_count as u32
    }

    fn encode(&mut self, turn_idx: usize, stage: u8, out: &mut Vec<u8>) -> u32 {
        let pass = turn_idx / self.steps.len();
        let step = &self.steps[turn_idx % self.steps.len()];
        match (step.fork, stage) {
            (Some((parent, at)), 0) => self.encode_fork(pass, step, parent, at, out),
            _ => self.encode_turn(pass, step, out),
        }
    }

    fn replied(&mut self, _turn_idx: usize, _stage: u8, _nth: u32, _reply: &[u8]) {}

    fn agent_count(&self) -> usize {
        self.agents.len() * self.repeat_count
    }

    fn fork_count(&self) -> usize {
        self.agents.iter().filter(|agent| agent.parent.is_some()).count() * self.repeat_count
    }

    fn image(&self, agent_idx: usize, out: &mut Vec<u8>) -> String {
        let (pass, agent) = (agent_idx / self.agents.len(), agent_idx % self.agents.len());
        let present = self.agents[agent].present as usize;
        self.requests[present].iter().for_each(|hash| block(*hash, out));
        self.key(pass, agent as u32)
    }
}

/// Appends the bytes of a block: a function of its hash. The first 8 are zero, so that block 0
/// leaves a notebook's text length at 0 and its `resize` has nothing to adjust.
fn block(hash: u64, out: &mut Vec<u8>) {
    let mut word = hash.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    out.extend_from_slice(&[0; 8]);
    for _ in 1..BLOCK_BYTES / 8 {
        word = word.wrapping_add(0x2545_f491_4f6c_dd1d);
        out.extend_from_slice(&(word ^ (word >> 29)).to_le_bytes());
    }
}

/// Where a prefix is held: the agent, its turn, and how many blocks that version has.
#[derive(Clone, Copy)]
struct Held {
    agent: u32,
    label: u32,
    block_count: u32,
}

/// Decides K1 and K2 for each request in order.
fn place(requests: &[Vec<u64>]) -> (Vec<Step>, Vec<Agent>) {
    let mut agents: Vec<Agent> = Vec::new();
    let mut steps = Vec::with_capacity(requests.len());
    // By prefix: the version that held it first.
    let mut held: HashMap<u64, Held> = HashMap::new();
    // By prefix: the agent whose present is that prefix, or that prefix and one more block.
    let mut presents: HashMap<u64, u32> = HashMap::new();
    let mut family_count = 0;
    for (request, blocks) in requests.iter().enumerate() {
        let prefixes = prefixes(blocks);
        let shared = prefixes.iter().take_while(|prefix| held.contains_key(prefix)).count();
        let deepest = shared.checked_sub(1).map(|at| prefixes[at]);
        let extends = |agent: &u32| {
            let present = &requests[agents[*agent as usize].present as usize];
            let whole = present.len() == shared;
            let but_last = present.len() == shared + 1 && blocks.len() > shared;
            // The agent may have gone on since it was noted under this prefix.
            (whole || but_last) && present[..shared] == blocks[..shared]
        };
        let extended = deepest.and_then(|prefix| presents.get(&prefix)).copied().filter(extends);
        let (agent, fork, cut) = match (extended, deepest.map(|prefix| held[&prefix])) {
            (Some(agent), _) => (agent, None, false),
            (None, Some(from)) => {
                let family = agents[from.agent as usize].family;
                agents.push(Agent { parent: Some(from.agent), family, present: 0, turn_count: 0 });
                let cut = from.block_count as usize > blocks.len();
                (agents.len() as u32 - 1, Some((from.agent, from.label)), cut)
            }
            (None, None) => {
                agents.push(Agent {
                    parent: None,
                    family: family_count,
                    present: 0,
                    turn_count: 0,
                });
                family_count += 1;
                (agents.len() as u32 - 1, None, false)
            }
        };
        let state = &mut agents[agent as usize];
        state.turn_count += 1;
        state.present = request as u32;
        let (label, block_count) = (state.turn_count, blocks.len() as u32);
        for prefix in &prefixes[shared..] {
            held.insert(*prefix, Held { agent, label, block_count });
        }
        for end in [blocks.len(), blocks.len() - 1].into_iter().filter(|end| *end > 0) {
            presents.insert(prefixes[end - 1], agent);
        }
        let (write_from, request) = (shared as u32, request as u32);
        steps.push(Step { agent, fork, cut, write_from, request, label });
    }
    (steps, agents)
}

/// A hash of every prefix of `blocks`, shortest first.
fn prefixes(blocks: &[u64]) -> Vec<u64> {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    let fold = |block: &u64| {
        state = (state ^ block.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state ^= state >> 32;
        state
    };
    blocks.iter().map(fold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(requests: &[&[u64]]) -> Mooncake {
        let lines: Vec<String> = requests
            .iter()
            .enumerate()
            .map(|(at, ids)| format!(r#"{{"timestamp": {at}, "hash_ids": {ids:?}}}"#))
            .collect();
        Mooncake::parse(&lines.join("\n"), 2).expect("a trace")
    }

    #[test]
    fn k1_an_extended_present_is_a_turn_even_when_its_last_block_was_partial() {
        let script = parse(&[&[1, 2], &[1, 2, 3], &[1, 2, 4, 5]]);
        assert_eq!(script.agents.len(), 1);
        let from: Vec<u32> = script.steps.iter().map(|step| step.write_from).collect();
        assert_eq!(from, [0, 2, 2]);
        assert_eq!(script.order().collect::<Vec<u32>>(), [0, 0, 0]);
        assert_eq!(script.fork_count(), 0);
    }

    #[test]
    fn k2_a_diverging_prefix_forks_at_the_version_that_holds_it() {
        let script = parse(&[&[1, 2, 3], &[1, 2, 3, 4, 5], &[1, 9], &[7], &[1, 2, 3, 6, 8, 9]]);
        assert_eq!(script.steps[2].fork, Some((0, 1)));
        assert!(script.steps[2].cut, "the version forked has 3 blocks, the request 2");
        assert_eq!(script.steps[3].fork, None);
        assert_eq!(script.steps[4].fork, Some((0, 1)), "the version before block 4 came");
        assert_eq!(script.key(1, 1), "notebook/m1-0~1");
    }

    #[test]
    fn k3_playing_the_steps_on_byte_vectors_gives_the_expected_images() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut requests: Vec<Vec<u64>> = vec![vec![0, 1, 2]];
        for next in 1..400u64 {
            let base = &requests[random.usize(..requests.len())];
            let keep = random.usize(0..=base.len());
            let mut blocks = base[..keep].to_vec();
            let grown = random.u64(if keep == 0 { 1..4 } else { 0..4 });
            blocks.extend((0..grown).map(|n| next * 10 + n));
            requests.push(blocks);
        }
        let slices: Vec<&[u64]> = requests.iter().map(Vec::as_slice).collect();
        let script = parse(&slices);
        let mut versions: HashMap<(u32, u32), Vec<u8>> = HashMap::new();
        let mut images: HashMap<u32, Vec<u8>> = HashMap::new();
        for step in &script.steps {
            let mut image = match step.fork {
                Some(from) => versions[&from].clone(),
                None => images.remove(&step.agent).unwrap_or_default(),
            };
            let blocks = &script.requests[step.request as usize];
            if step.cut {
                image.truncate(blocks.len() * BLOCK_BYTES);
            }
            let mut new = Vec::new();
            blocks[step.write_from as usize..].iter().for_each(|hash| block(*hash, &mut new));
            let at = step.write_from as usize * BLOCK_BYTES;
            image.resize(image.len().max(at + new.len()), 0);
            image[at..at + new.len()].copy_from_slice(&new);
            versions.insert((step.agent, step.label), image.clone());
            images.insert(step.agent, image);
        }
        for (agent, image) in &images {
            let mut expected = Vec::new();
            script.image(*agent as usize, &mut expected);
            assert!(*image == expected, "agent {agent}");
        }
        assert!(script.fork_count() > 20 && script.agents.len() < requests.len());
    }

    #[test]
    fn a_bad_record_is_named() {
        let bad = "{\"timestamp\":0,\"hash_ids\":[1]}\nnonsense";
        assert!(matches!(Mooncake::parse(bad, 1), Err(TraceError::Json { record: 2, .. })));
        let empty = "{\"timestamp\":0,\"hash_ids\":[]}";
        assert!(matches!(Mooncake::parse(empty, 1), Err(TraceError::Record { record: 1, .. })));
        assert!(matches!(Mooncake::parse("", 1), Err(TraceError::Empty)));
    }
}
