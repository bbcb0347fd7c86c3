//! Failures: turns that were undone, and agents that are held.
//!
//! Owns: what a fault is to whoever hears of it, quarantine, serving what a held agent serves.
//! Not: undoing a turn (`turns.rs`), control verbs themselves (`verbs.rs`).
//! I1  only panics count towards a quarantine.
//! I2  a held agent's mailbox holds what waits for RESUME, or for pages, and nothing else.

use super::Partition;
use super::verbs::Requests;
use crate::agent::{Edge, State};
use crate::behaviour::Fault;
use crate::id::Nanos;
use crate::mailbox::{Item, runs_turn};
use crate::refusal::Refusal;
use crate::slots::NIL;

impl Partition {
    /// Counts a failed turn; the refusal that its sender gets. Only panics count towards the
    /// agent's quarantine: a full arena is not its fault, and a message that it refuses is its
    /// sender's, who could else quarantine it at will.
    pub(super) fn note_failure(&mut self, now: Nanos, slot: u32, fault: Fault) -> Refusal {
        self.counters.faults += 1;
        let agent = &mut self.agents[slot];
        agent.failure_count = agent.failure_count.saturating_add(1);
        let count_max = self.config.quarantine_failures as usize;
        if count_max > 0 && matches!(fault, Fault::Panicked { .. }) {
            let window = self.config.quarantine_window;
            let failures = &mut agent.rare().failures;
            failures.push_back(now);
            while failures.len() > count_max || now.since(failures[0]) > window {
                failures.pop_front();
            }
        }
        self.refusal(slot, fault)
    }

    pub(super) fn refusal(&self, slot: u32, fault: Fault) -> Refusal {
        let agent = &self.agents[slot];
        match fault {
            Fault::Full { used_bytes, arena_bytes } => {
                Refusal::Full { shard: self.config.shard, used_bytes, arena_bytes }
            }
            Fault::Limit { what, value, limit, remedy } => {
                Refusal::Limit { what: what.into(), value, limit, remedy: remedy.into() }
            }
            Fault::Refused { .. } | Fault::Panicked { .. } => Refusal::Fault {
                key: agent.key.as_str().into(),
                version: agent.versions.head(),
                reason: fault.to_string(),
            },
        }
    }

    /// Quarantines an agent whose latest failure was one too many; its calls are dropped.
    pub(super) fn quarantine_if_due(&mut self, slot: u32) {
        let agent = &mut self.agents[slot];
        let failures = self.config.quarantine_failures;
        if failures == 0 || agent.recent_failure_count() < failures {
            return;
        }
        agent.follow(Edge::Quarantine);
        self.counters.quarantines += 1;
        self.drop_calls(slot, "was quarantined", Requests::Drop);
    }

    pub(super) fn quarantined(&self, slot: u32) -> Refusal {
        let agent = &self.agents[slot];
        let failures = agent.recent_failure_count();
        Refusal::Quarantined { key: agent.key.as_str().into(), failures }
    }

    /// Serves what a held agent's mailbox may not hold (A2): control verbs at once, in order, and
    /// messages of a quarantined agent by refusing them. Stops when one of them ends the holding.
    pub(super) fn settle_held(&mut self, now: Nanos, slot: u32) {
        if self.held_mail_needs_pages(slot) {
            return self.page_in_all(slot);
        }
        self.touch(slot);
        let id = self.agents[slot].id;
        let mut kept = NIL;
        while self.agents.get(slot).is_some_and(|agent| agent.id == id) {
            let agent = &mut self.agents[slot];
            let item = match agent.state() {
                State::Active => None,
                State::Suspended => agent.mailbox.pop_control(&mut self.mail, &mut kept),
                State::Quarantined => agent.mailbox.pop(&mut self.mail),
            };
            match item {
                None => return,
                Some(Item::Request(waiting)) if runs_turn(&waiting.verb) => {
                    let refusal = self.quarantined(slot);
                    self.reply(waiting.origin, Err(refusal));
                }
                Some(Item::Request(waiting)) => _ = self.serve(now, slot, waiting),
                // Its call was dropped with the quarantine; RESUME tells of restoring again.
                Some(Item::Returned { .. } | Item::Restored) => {}
            }
        }
    }
}
