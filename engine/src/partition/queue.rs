//! The run queue: agents that have something to do, each once, served round robin.
//!
//! Owns: the order.  Not: who belongs in it (`partition/turns.rs`).  A list through the agents, so
//! that one that ends leaves it in constant time and the queue never allocates.
//! U1  an agent is in the queue exactly when its `queued` is `Yes`.

use super::table::Table;
use crate::agent::Queued;
use crate::slots::NIL;

/// Ends of the list.
pub(super) struct RunQueue {
    first: u32,
    last: u32,
}

impl RunQueue {
    pub(super) const EMPTY: RunQueue = RunQueue { first: NIL, last: NIL };

    /// The agent that is served next.
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NIL).then_some(self.first)
    }

    /// Adds an agent at the end, unless it is in the queue.
    pub(super) fn push(&mut self, agents: &mut Table, slot: u32) {
        let agent = &mut agents[slot];
        if agent.queued != Queued::No {
            return;
        }
        agent.queued = Queued::Yes { before: self.last, after: NIL };
        match self.last {
            NIL => self.first = slot,
            last => *links(agents, last).1 = slot,
        }
        self.last = slot;
    }

    /// Takes the agent that has waited longest.
    pub(super) fn pop(&mut self, agents: &mut Table) -> Option<u32> {
        let slot = self.first()?;
        self.remove(agents, slot);
        Some(slot)
    }

    /// Takes an agent out, wherever it stands, if it is in the queue.
    pub(super) fn remove(&mut self, agents: &mut Table, slot: u32) {
        let queued = std::mem::replace(&mut agents[slot].queued, Queued::No);
        let Queued::Yes { before, after } = queued else { return };
        match before {
            NIL => self.first = after,
            before => *links(agents, before).1 = after,
        }
        match after {
            NIL => self.last = before,
            after => *links(agents, after).0 = before,
        }
    }
}

fn links(agents: &mut Table, slot: u32) -> (&mut u32, &mut u32) {
    match &mut agents[slot].queued {
        Queued::Yes { before, after } => (before, after),
        Queued::No => unreachable!("U1: agent {slot} is linked but not queued"),
    }
}
