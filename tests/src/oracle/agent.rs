//! One agent as the oracle keeps it: its image, its versions, what waits, what it remembers.
//!
//! Owns: sealing, retention, labels, the memory of request ids.
//! Not: which verb does what (`oracle.rs`), what a message does (`behaviour.rs`).

use super::answer::{Answer, Row};
use super::memory::Memory;
use super::{Fate, Rules};
use crate::op::{At, Op};
use std::collections::{BTreeMap, VecDeque};

/// Lifecycle state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Takes turns.
    Active,
    /// Its messages wait.
    Suspended,
    /// Its messages are refused.
    Quarantined,
}

/// A message or write that waits.
#[derive(Clone, Debug)]
pub struct Queued {
    pub(super) ticket: usize,
    pub(super) op: Op,
    pub(super) fate: Fate,
}

#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) memory: Memory,
    pub(super) parent: Option<u64>,
    pub(super) checkpoint: bool,
}

/// One agent.
#[derive(Clone, Debug)]
pub struct Agent {
    pub(super) memory: Memory,
    pub(super) versions: BTreeMap<u64, Version>,
    pub(super) labels: BTreeMap<String, u64>,
    pub(super) head: u64,
    pub(super) next: u64,
    pub(super) parent: Option<String>,
    pub(super) suffix_last: u32,
    pub(super) state: State,
    pub(super) queue: VecDeque<Queued>,
    pub(super) seen: VecDeque<(String, Answer)>,
    pub(super) recent_failures: u32,
    pub(super) failure_count: u64,
    pub(super) turn_count: u64,
    pub(super) unsealed: u32,
}

impl Agent {
    pub(super) fn new(memory: Memory, parent: Option<String>) -> Agent {
        let first = Version { memory: memory.clone(), parent: None, checkpoint: false };
        Agent {
            memory,
            versions: BTreeMap::from([(1, first)]),
            labels: BTreeMap::new(),
            head: 1,
            next: 2,
            parent,
            suffix_last: 0,
            state: State::Active,
            queue: VecDeque::new(),
            seen: VecDeque::new(),
            recent_failures: 0,
            failure_count: 0,
            turn_count: 0,
            unsealed: 0,
        }
    }

    /// The image.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Numbers of the kept versions.
    pub fn version_ids(&self) -> Vec<u64> {
        self.versions.keys().copied().collect()
    }

    /// The present version.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Labels in use.
    pub fn labels(&self) -> Vec<String> {
        self.labels.keys().cloned().collect()
    }

    /// Image of a kept version.
    pub fn version_memory(&self, id: u64) -> Option<&Memory> {
        self.versions.get(&id).map(|version| &version.memory)
    }

    /// State.
    pub fn state(&self) -> State {
        self.state
    }

    /// What waits.
    pub fn queue_count(&self) -> usize {
        self.queue.len()
    }

    /// The agent that it is a branch of, while the link lasts.
    pub fn parent(&self) -> Option<&str> {
        self.parent.as_deref()
    }

    /// What no reply shows, but decides later ones.
    pub(super) fn hidden(&self) -> impl PartialEq + '_ {
        let images: Vec<&[u8]> = self.versions.values().map(|v| v.memory.bytes()).collect();
        let counts = (self.next, self.suffix_last, self.recent_failures, self.unsealed);
        (images, &self.seen, counts, self.is_sealed(), self.queue.len())
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.memory.same(&self.versions[&self.head].memory)
    }

    fn push(&mut self, checkpoint: bool) {
        let (memory, parent) = (self.memory.clone(), Some(self.head));
        self.head = self.next;
        self.next += 1;
        self.versions.insert(self.head, Version { memory, parent, checkpoint });
    }

    /// An automatic version.
    pub(super) fn seal(&mut self, rules: &Rules) {
        self.unsealed = 0;
        if !self.is_sealed() {
            self.push(false);
            self.prune(rules.history_max as usize);
        }
    }

    pub(super) fn seal_by_policy(&mut self, rules: &Rules, changed: bool) {
        self.unsealed += u32::from(changed);
        let every = rules.seal_every;
        if every > 0 && self.unsealed >= every {
            self.seal(rules);
        }
    }

    fn prune(&mut self, history_max: usize) {
        let automatic = |(id, version): (&u64, &Version)| (!version.checkpoint).then_some(*id);
        let mut kept: Vec<u64> = self.versions.iter().filter_map(automatic).collect();
        let head_counts = kept.contains(&self.head);
        kept.retain(|id| *id != self.head);
        let no_checkpoint = self.versions.values().all(|version| !version.checkpoint);
        let apart = usize::from(no_checkpoint && kept.first() == Some(&1));
        while kept.len() > apart + history_max.saturating_sub(usize::from(head_counts)) {
            let oldest = kept.remove(apart);
            self.versions.remove(&oldest);
        }
    }

    pub(super) fn checkpoint(&mut self, rules: &Rules, label: Option<&str>) -> Answer {
        let present = self.label_of(self.head);
        let takes = match (label, present.as_deref()) {
            (Some(wanted), Some(present)) => wanted == present,
            _ => true,
        };
        let reuse = self.is_sealed() && takes;
        let count = self.versions.values().filter(|version| version.checkpoint).count();
        let more = !(reuse && self.versions[&self.head].checkpoint);
        if more && count >= rules.checkpoints_max as usize {
            return Answer::Refused("LIMIT");
        }
        if reuse {
            let head = self.versions.get_mut(&self.head);
            head.expect("the head is a version").checkpoint = true;
        } else {
            self.push(true);
        }
        if let Some(label) = label {
            self.labels.insert(label.to_owned(), self.head);
        }
        self.unsealed = 0;
        Answer::Number(self.head)
    }

    fn label_of(&self, id: u64) -> Option<String> {
        self.labels.iter().find(|(_, of)| **of == id).map(|(label, _)| label.clone())
    }

    pub(super) fn find(&self, at: &At) -> Option<u64> {
        let id = match at {
            At::Id(id) => *id,
            At::Label(label) => *self.labels.get(label)?,
        };
        self.versions.contains_key(&id).then_some(id)
    }

    pub(super) fn rollback(&mut self, to: Option<&At>) -> Answer {
        let newest = || {
            let mut marked = self.versions.iter().rev().filter(|(_, version)| version.checkpoint);
            marked.next().map_or(1, |(id, _)| *id)
        };
        let Some(to) = to.map_or_else(|| Some(newest()), |at| self.find(at)) else {
            return Answer::Refused("NOVERSION");
        };
        self.memory = self.versions[&to].memory.clone();
        self.head = to;
        self.unsealed = 0;
        Answer::Number(to)
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        let row = |(id, version): (&u64, &Version)| Row {
            id: *id,
            parent: version.parent,
            label: self.label_of(*id),
            checkpoint: version.checkpoint,
            head: *id == self.head,
            image_bytes: version.memory.len() as u64,
        };
        self.versions.iter().map(row).collect()
    }

    pub(super) fn diff(&self, from: &At, to: Option<&At>) -> Answer {
        let memory = |at: &At| self.find(at).map(|id| &self.versions[&id].memory);
        match (memory(from), to.map_or(Some(&self.memory), memory)) {
            (Some(from), Some(to)) => Answer::Diff(from.diff(to)),
            _ => Answer::Refused("NOVERSION"),
        }
    }

    /// The first reply to a request id, if it is remembered.
    pub(super) fn first_reply(&self, id: &str) -> Option<Answer> {
        self.seen.iter().find(|(seen, _)| seen == id).map(|(_, answer)| answer.clone())
    }

    /// Forgets the oldest ids until `count_max` are left.
    pub(super) fn make_room(&mut self, count_max: usize) {
        while self.seen.len() > count_max {
            self.seen.pop_front();
        }
    }

    pub(super) fn remember(&mut self, id: &str, answer: &Answer, rules: &Rules) {
        self.seen.push_back((id.to_owned(), answer.clone()));
        self.make_room(rules.dedupe_max as usize);
    }
}
