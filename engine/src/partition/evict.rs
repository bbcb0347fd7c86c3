//! Eviction: agents that nobody has asked for in a while go to the log only, and their pages free.
//!
//! Owns: the choice (SIEVE: a hand goes round the slots and spares, once, what was used since it
//! last came by), what may go, whether a turn or a load waits for that.  Not: when else (`shards`),
//! bringing back (`replay.rs`, `wakes.rs`).
//! E1  only what is on disk as it is goes: nothing changed since, no mail.
//! E2  a chain of many changes is written whole before its agent goes, so that little but the
//!     whole record is read to bring it back; not where pages would have to come for that first.
//! E3  what an agent awaits and whom it owes an answer stays in memory: what comes finds it.

use super::Partition;
use super::journal::{Dirty, Known};
use crate::agent::{Agent, Residence};
use crate::image::Image;
use crate::version::VersionTree;
use crate::{AgentId, Nanos};

/// Part of the arena, in percent, past which it is nearly full.
const NEARLY_PERCENT: u64 = 95;
/// Part of the arena that is made free at once then: one in so many.
const ROOM_PARTS: u64 = 16;
/// Agents that are looked at for that before a turn.
const ROOM_STEPS_MAX: u32 = 1_024;
/// How long turns wait for room.
const ROOM_WAIT_MAX: Nanos = Nanos::from_ms(5_000);
/// Agents that wait to come back before those that have ended are looked for among them.
const CROWDED_COUNT_MAX: usize = 1_024;
/// Changes of a chain that are still read in one go with what they change.
const FEW_CHANGES: usize = 8;

impl Partition {
    /// Sends agents to the log only until the store uses at most `used_bytes_max`, or `steps_max`
    /// were looked at; how many went.
    pub fn make_room(&mut self, now: Nanos, used_bytes_max: u64, steps_max: u32) -> u32 {
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
            let recent = self.config.quarantine_window;
            if std::mem::take(&mut agent.used) || !on_disk || !is_idle(agent, now, recent) {
                continue;
            }
            let agent = &self.agents[slot];
            if self.wakes_soon(now, agent) && !self.is_nearly_full() {
                continue;
            }
            let chain = agent.logged.as_deref();
            let long = chain.is_some_and(|chain| chain.change_record_count() > FEW_CHANGES);
            if long && !agent.partly {
                self.touch_whole(slot);
                continue;
            }
            self.evict(slot);
            count += 1;
        }
        self.publish();
        count
    }

    /// Whether a turn had better wait: the arena is nearly full, and agents may soon go from it.
    pub fn waits_for_room(&self, now: Nanos) -> bool {
        self.is_nearly_full() && self.will_have_room(now)
    }

    /// Makes room for a turn; whether it may be taken now.
    pub fn has_room(&mut self, now: Nanos) -> bool {
        self.make_some_room(now);
        !self.waits_for_room(now)
    }

    /// Makes room for an agent that comes back; whether it may now. Turns go first: what they are
    /// waited for may go after them.
    pub(super) fn has_room_to_load(&mut self, now: Nanos) -> bool {
        self.make_some_room(now);
        let coming = self.runnable() || self.will_have_room(now);
        !self.is_nearly_full() || !coming || self.has_waited(now)
    }

    /// Does what needs room; where the arena is full, again after other agents have gone: first
    /// some, then all that can.
    pub(super) fn in_room<T, E>(
        &mut self,
        now: Nanos,
        is_full: impl Fn(&E) -> bool,
        act: impl Fn(&mut Partition) -> Result<T, E>,
    ) -> Result<T, E> {
        let some_bytes = self.store.used_bytes() / 2;
        for left_bytes in [some_bytes, 0] {
            let outcome = act(self);
            let full = outcome.as_ref().is_err_and(&is_full);
            if !full || self.make_room(now, left_bytes, u32::MAX) == 0 {
                return outcome;
            }
        }
        act(self)
    }

    fn make_some_room(&mut self, now: Nanos) {
        if self.journal.on && self.is_nearly_full() {
            let part_bytes = self.store.arena_bytes() / ROOM_PARTS;
            self.make_room(now, self.store.used_bytes() - part_bytes, ROOM_STEPS_MAX);
        }
        let since = self.full_since.unwrap_or(now);
        self.full_since = self.is_nearly_full().then_some(since);
    }

    pub(super) fn is_nearly_full(&self) -> bool {
        self.store.used_bytes() > self.store.arena_bytes() / 100 * NEARLY_PERCENT
    }

    /// Whether more agents may go once what has changed is on disk; a slow disk is waited for only
    /// so long.
    pub(super) fn will_have_room(&self, now: Nanos) -> bool {
        let coming = self.journal.on && self.journal.is_behind() && !self.disk_full;
        coming && !self.has_waited(now)
    }

    /// Whether an agent that found no room to come back to is to try again later, because more may
    /// soon be there; it waits only so long.
    pub(super) fn may_load_later(&mut self, now: Nanos, id: AgentId) -> bool {
        if self.crowded.len() >= CROWDED_COUNT_MAX {
            let agents = &self.agents;
            self.crowded.retain(|id, _| agents.find(*id).is_some());
        }
        let since = *self.crowded.entry(id).or_insert(now);
        let later = self.will_have_room(now) && now.since(since) < ROOM_WAIT_MAX;
        if !later {
            self.crowded.remove(&id);
        }
        later
    }

    fn has_waited(&self, now: Nanos) -> bool {
        self.full_since.is_some_and(|since| now.since(since) >= ROOM_WAIT_MAX)
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
        agent.rare.take_if(|rare| rare.calls.is_empty() && rare.held.is_empty());
        (agent.residence, agent.partly) = (Residence::Cold, false);
        self.counters.cold += 1;
        self.counters.evictions += 1;
        self.list_wake(slot);
    }
}

/// Whether an agent can be brought back from the log as it is (E1).
fn is_idle(agent: &Agent, now: Nanos, recent: Nanos) -> bool {
    let rare = agent.rare.as_deref();
    agent.residence == Residence::Warm
        && agent.dirty == 0
        && agent.logged.is_some()
        && agent.unsealed_count == 0
        && agent.image.same(agent.versions.head_image())
        && agent.mailbox.is_empty()
        && rare.is_none_or(|rare| {
            let failed_at = rare.failures.back();
            let counts = failed_at.is_some_and(|at| now.since(*at) <= recent);
            rare.sends.is_empty() && rare.paused.is_none() && !counts
        })
}
