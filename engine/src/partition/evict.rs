//! Eviction: agents that nobody has asked for in a while go to the log only, and their pages free.
//!
//! Owns: the choice (SIEVE: a hand goes round the slots and spares, once, what was used since it
//! last came by), what may go.  Not: when (`shards`), bringing back (`replay.rs`).
//! E1  only what is on disk as it is goes: nothing changed since, nothing awaited, no mail.
//! E2  a chain of many records is written whole before its agent goes, so that few reads bring it
//!     back.

use super::Partition;
use super::journal::{Dirty, Known};
use crate::Nanos;
use crate::agent::{Agent, Residence};
use crate::image::Image;
use crate::version::VersionTree;

/// Records of a chain that are still read in one go.
const FEW_RECORDS: usize = 8;

impl Partition {
    /// Sends agents to the log only until the store uses at most `used_bytes_max`, or `steps_max`
    /// were looked at; how many went.
    pub fn make_room(&mut self, used_bytes_max: u64, steps_max: u32) -> u32 {
        let mut count = 0;
        for _ in 0..steps_max.min(self.agents.end().saturating_mul(2)) {
            if self.store.used_bytes() <= used_bytes_max {
                break;
            }
            let slot = self.hand;
            self.hand = if slot + 1 >= self.agents.end() { 0 } else { slot + 1 };
            if self.agents.get(slot).is_none() {
                continue;
            }
            let agent = &mut self.agents[slot];
            let flush = agent.logged.as_deref().map(|chain| chain.flush);
            let on_disk = flush.is_some_and(|flush| self.journal.is_durable(flush));
            if std::mem::take(&mut agent.used) || !on_disk || !is_idle(agent) {
                continue;
            }
            if agent.logged.as_deref().is_some_and(|chain| chain.places.len() > FEW_RECORDS) {
                self.touch_whole(slot);
                continue;
            }
            self.evict(slot);
            count += 1;
        }
        self.publish();
        count
    }

    /// Bytes of pages in memory.
    pub fn used_bytes(&self) -> u64 {
        self.store.used_bytes()
    }

    /// Bytes of pages that there is room for.
    pub fn arena_bytes(&self) -> u64 {
        self.store.arena_bytes()
    }

    /// Has an agent written whole with the next flush, although it has not changed.
    pub(super) fn touch_whole(&mut self, slot: u32) {
        let agent = &mut self.agents[slot];
        assert!(agent.dirty == 0, "J1: {} is in the list", agent.key);
        let dirty = Dirty { slot, known: Known::Nothing };
        agent.dirty = self.journal.push(dirty);
    }

    fn evict(&mut self, slot: u32) {
        let agent = &mut self.agents[slot];
        self.templates.behaviour(agent.template).forget(agent.id, &mut self.store);
        let none = VersionTree::new(&Image::EMPTY, &mut self.store, Nanos(0));
        std::mem::replace(&mut agent.versions, none).release(&mut self.store);
        std::mem::replace(&mut agent.image, Image::EMPTY).release(&mut self.store);
        agent.rare = None;
        agent.residence = Residence::Cold;
        self.counters.cold += 1;
        self.counters.evictions += 1;
    }
}

/// Whether an agent can be brought back from the log as it is (E1).
fn is_idle(agent: &Agent) -> bool {
    let rare = agent.rare.as_deref();
    agent.residence == Residence::Warm
        && agent.dirty == 0
        && agent.logged.is_some()
        && agent.unsealed_count == 0
        && agent.image.same(agent.versions.head_image())
        && agent.mailbox.is_empty()
        && rare.is_none_or(|rare| {
            rare.calls.is_empty()
                && rare.sends.is_empty()
                && rare.held.is_empty()
                && rare.paused.is_none()
                && rare.failures.is_empty()
        })
}
