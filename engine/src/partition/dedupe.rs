//! Request ids: a retry gets the first reply, and the turn runs once.
//!
//! Owns: one agent's window of ids.  Not: which turns have one.
//! E1  an id in the window never runs a second turn.
//! E2  only good replies are remembered: a turn that failed changed nothing, so a retry runs.
//! E3  an id whose request is open is never forgotten; its waiters are answered with it.

use crate::limits::DEDUPE_BYTES_MAX;
use crate::verb::Origin;
use bytes::Bytes;
use std::collections::VecDeque;

#[derive(Debug)]
struct Entry {
    id: Bytes,
    outcome: Outcome,
    /// Counts up; what the log knows is told by it.
    number: u64,
}

#[derive(Debug)]
enum Outcome {
    Open { waiters: Vec<Origin> },
    Replied(Option<Bytes>),
}

/// What the window knows of an id.
pub(super) enum Seen {
    /// Nothing: run the turn.
    Never,
    /// Its request is open; so many retries wait with it.
    Open(usize),
    /// It was answered so.
    Replied(Option<Bytes>),
}

/// The latest request ids of one agent, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Dedupe {
    entries: VecDeque<Entry>,
    /// Of the entries' ids, side by side, so that a miss reads numbers only.
    hashes: VecDeque<u64>,
    reply_bytes: usize,
    number_next: u64,
}

impl Dedupe {
    pub(super) fn seen(&self, id: &[u8]) -> Seen {
        match self.find(id).map(|at| &self.entries[at].outcome) {
            None => Seen::Never,
            Some(Outcome::Open { waiters }) => Seen::Open(waiters.len()),
            Some(Outcome::Replied(reply)) => Seen::Replied(reply.clone()),
        }
    }

    /// Lets `origin` wait for the answer to an open id.
    pub(super) fn wait(&mut self, id: &[u8], origin: Origin) {
        let at = self.find(id).expect("E3: an open id is in the window");
        match &mut self.entries[at].outcome {
            Outcome::Open { waiters } => waiters.push(origin),
            Outcome::Replied(_) => unreachable!("E3: waits for an answered id"),
        }
    }

    /// Notes that the request of `id` stays open.
    pub(super) fn open(&mut self, id: &[u8], count_max: usize) {
        self.push(id, Outcome::Open { waiters: Vec::new() }, count_max);
    }

    /// Notes how `id` was answered: `None` when it failed (E2). Returns who waited.
    pub(super) fn close(
        &mut self,
        id: &[u8],
        reply: Option<&Option<Bytes>>,
        count_max: usize,
    ) -> Vec<Origin> {
        let mut waited = Vec::new();
        if let Some(at) = self.find(id) {
            match self.remove(at).outcome {
                Outcome::Open { waiters } => waited = waiters,
                Outcome::Replied(_) => unreachable!("E1: {id:?} was answered before"),
            }
        }
        if let Some(reply) = reply {
            // A copy: the reply may be a slice of a receive buffer.
            let reply = reply.as_ref().map(|reply| Bytes::copy_from_slice(reply));
            self.push(id, Outcome::Replied(reply), count_max);
        }
        waited
    }

    /// Notes an answer that an earlier life gave, in the place of one under the same id.
    pub(super) fn restore(&mut self, id: &[u8], reply: Option<Bytes>, count_max: usize) {
        if let Some(at) = self.find(id) {
            self.remove(at);
        }
        self.push(id, Outcome::Replied(reply), count_max);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of the next id that is noted.
    pub(super) fn number_next(&self) -> u64 {
        self.number_next
    }

    /// Ids that were answered, with their replies, from number `first` on, oldest first.
    pub(super) fn replied(&self, first: u64) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.entries.iter().filter(move |entry| entry.number >= first).filter_map(|entry| {
            match &entry.outcome {
                Outcome::Open { .. } => None,
                Outcome::Replied(reply) => Some((&entry.id[..], reply.as_deref())),
            }
        })
    }

    fn push(&mut self, id: &[u8], outcome: Outcome, count_max: usize) {
        self.reply_bytes += outcome.reply_bytes();
        let number = self.number_next;
        self.number_next += 1;
        self.entries.push_back(Entry { id: Bytes::copy_from_slice(id), outcome, number });
        self.hashes.push_back(hash(id));
        while self.entries.len() > count_max || self.reply_bytes > DEDUPE_BYTES_MAX {
            let newest = self.entries.len() - 1;
            let old = |entry: &Entry| matches!(entry.outcome, Outcome::Replied(_));
            let Some(at) = self.entries.iter().take(newest).position(old) else { break };
            self.remove(at);
        }
    }

    fn remove(&mut self, at: usize) -> Entry {
        self.hashes.remove(at);
        let entry = self.entries.remove(at).expect("E3: an entry that was found");
        self.reply_bytes -= entry.outcome.reply_bytes();
        entry
    }

    fn find(&self, id: &[u8]) -> Option<usize> {
        let wanted = hash(id);
        let mut hashes = self.hashes.iter().enumerate();
        let found = hashes.find(|(at, hash)| **hash == wanted && self.entries[*at].id == id);
        found.map(|(at, _)| at)
    }
}

impl Outcome {
    fn reply_bytes(&self) -> usize {
        match self {
            Outcome::Open { .. } => 0,
            Outcome::Replied(reply) => reply.as_ref().map_or(0, Bytes::len),
        }
    }
}

/// FNV-1a. A client that seeks collisions slows down its own agent's comparisons only.
fn hash(id: &[u8]) -> u64 {
    id.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e1_the_window_keeps_the_newest_ids() {
        let mut dedupe = Dedupe::default();
        for n in 0..10u8 {
            dedupe.close(&[n], Some(&Some(Bytes::copy_from_slice(&[n]))), 4);
        }
        assert!(matches!(dedupe.seen(&[5]), Seen::Never));
        for n in 6..10u8 {
            assert!(matches!(dedupe.seen(&[n]), Seen::Replied(Some(reply)) if reply[..] == [n]));
        }
    }

    #[test]
    fn e1_large_replies_shorten_the_window() {
        let mut dedupe = Dedupe::default();
        let large = Some(Bytes::from(vec![0; DEDUPE_BYTES_MAX / 2 + 1]));
        dedupe.close(b"a", Some(&large), 64);
        dedupe.close(b"b", Some(&large), 64);
        assert!(matches!(dedupe.seen(b"a"), Seen::Never));
        assert!(matches!(dedupe.seen(b"b"), Seen::Replied(Some(_))));
        assert_eq!(dedupe.reply_bytes, DEDUPE_BYTES_MAX / 2 + 1);
    }

    #[test]
    fn e3_an_open_id_outlives_the_window() {
        let mut dedupe = Dedupe::default();
        dedupe.open(b"open", 2);
        for n in 0..10u8 {
            dedupe.close(&[n], Some(&None), 2);
        }
        assert!(matches!(dedupe.seen(b"open"), Seen::Open(0)));
        dedupe.wait(b"open", Origin::Nobody);
        assert_eq!(dedupe.close(b"open", None, 2), vec![Origin::Nobody]);
        assert!(matches!(dedupe.seen(b"open"), Seen::Never));
    }
}
