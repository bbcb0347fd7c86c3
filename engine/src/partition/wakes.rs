//! Wakes: agents that sleep in the log only come back a little before their sleep ends.
//!
//! Owns: what an agent awaits, as its records say it, and when to bring which agent back.
//! Not: the end of a sleep itself (`calls.rs`), bringing back (`replay.rs`).
//! S1  an agent in the log only whose sleep has an end is listed under it, less [`WAKE_LEAD`]. It
//!     comes back then if there is room, and at the end of its sleep in any case.
//! S2  an agent that could not be brought back is asked for again while anything waits for it.

use super::Partition;
use super::calls::Asked;
use crate::agent::{Agent, Residence};
use crate::id::{AgentId, Nanos};
use crate::log::RecordError;
use crate::log::wire::{Reader, put_number};
use std::collections::BTreeSet;

/// How long before its sleep ends an agent is asked for: the time of a load on a busy disk.
const WAKE_LEAD: Nanos = Nanos::from_ms(10);
/// How long to wait before an agent is asked for again for which there was no room.
pub(super) const NO_ROOM_PAUSE: Nanos = Nanos::from_ms(20);
/// How long to wait before one is asked for again that could not be read.
pub(super) const UNREADABLE_PAUSE: Nanos = Nanos::from_ms(1_000);
/// Agents that one [`Partition::expire`] asks for.
const WAKE_COUNT_MAX: usize = 64;

/// What an agent awaits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Awaits {
    /// Nothing.
    #[default]
    Nothing,
    /// An answer, for which something may have to be asked again: at a start it is wanted at once.
    Answers,
    /// This time, and nothing else: it is wanted in memory by then.
    Time(Nanos),
}

impl Awaits {
    /// Appends 0 for nothing, 1 for answers, 2 and the time.
    pub(super) fn put(self, out: &mut Vec<u8>) {
        match self {
            Awaits::Nothing => out.push(0),
            Awaits::Answers => out.push(1),
            Awaits::Time(at) => {
                out.push(2);
                put_number(out, at.0);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Awaits, RecordError> {
        match reader.byte()? {
            0 => Ok(Awaits::Nothing),
            1 => Ok(Awaits::Answers),
            2 => Ok(Awaits::Time(Nanos(reader.number()?))),
            value => Err(RecordError::BadField { what: "what it awaits", value: value.into() }),
        }
    }
}

/// When to bring which agent back.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    times: BTreeSet<(Nanos, AgentId)>,
}

impl Wakes {
    /// When to look at the list next.
    pub(super) fn next(&self) -> Option<Nanos> {
        self.times.first().map(|(at, _)| *at)
    }
}

impl Partition {
    /// What an agent awaits, as its next record says it.
    pub(super) fn awaits(&self, agent: &Agent) -> Awaits {
        let mut awaits = Awaits::Nothing;
        for call in agent.all_calls() {
            let call = self.calls.find(call).expect("Y1: a call that counts");
            awaits = match (awaits, &call.asked) {
                (Awaits::Nothing, Asked::Sleep) => Awaits::Time(call.deadline),
                (Awaits::Time(at), Asked::Sleep) => Awaits::Time(at.min(call.deadline)),
                _ => return Awaits::Answers,
            };
        }
        awaits
    }

    /// What its last record says that an agent awaits.
    pub(super) fn logged_awaits(&self, agent: &Agent) -> Awaits {
        agent.logged.as_deref().map_or(Awaits::Nothing, |chain| chain.awaits)
    }

    /// When the first of an agent's sleeps ends, whatever else it awaits.
    pub(super) fn sleep_end(&self, agent: &Agent) -> Option<Nanos> {
        if agent.rare.is_none() {
            return match self.logged_awaits(agent) {
                Awaits::Time(at) => Some(at),
                Awaits::Nothing | Awaits::Answers => None,
            };
        }
        let calls = agent.all_calls().filter_map(|call| self.calls.find(call));
        calls.filter(|call| matches!(call.asked, Asked::Sleep)).map(|call| call.deadline).min()
    }

    /// Whether an agent's sleep ends so soon that it had better stay.
    pub(super) fn wakes_soon(&self, now: Nanos, agent: &Agent) -> bool {
        self.sleep_end(agent).is_some_and(|at| at <= now.after(WAKE_LEAD))
    }

    /// Lists an agent that is in the log only (S1).
    pub(super) fn list_wake(&mut self, slot: u32) {
        self.wakes.times.extend(self.wake_entry(slot));
    }

    /// Takes an agent that comes back, or ends, from the list.
    pub(super) fn unlist_wake(&mut self, slot: u32) {
        if let Some(entry) = self.wake_entry(slot) {
            self.wakes.times.remove(&entry);
        }
    }

    fn wake_entry(&self, slot: u32) -> Option<(Nanos, AgentId)> {
        let agent = &self.agents[slot];
        let at = self.sleep_end(agent)?;
        Some((Nanos(at.0.saturating_sub(WAKE_LEAD.0)), agent.id))
    }

    /// Has an agent asked for again that could not be brought back (S2).
    pub(super) fn load_again(&mut self, now: Nanos, slot: u32, pause: Nanos) {
        self.agents[slot].residence = Residence::Cold;
        self.wake_at(now.after(pause), slot);
    }

    /// Has an agent looked at again at this time.
    pub(super) fn wake_at(&mut self, at: Nanos, slot: u32) {
        self.wakes.times.insert((at, self.agents[slot].id));
    }

    /// Whether an agent is to be in memory now, room or not (S1, S2).
    fn is_wanted(&self, now: Nanos, agent: &Agent) -> bool {
        // What has stayed in memory asks for its agent by itself.
        let awaited = agent.rare.is_none()
            && match self.logged_awaits(agent) {
                Awaits::Nothing => false,
                Awaits::Answers => true,
                Awaits::Time(at) => at <= now,
            };
        awaited
            || agent.rewrite
            || !agent.mailbox.is_empty()
            || self.commits.iter().any(|(parent, ..)| *parent == agent.id)
    }

    /// Asks for the agents whose time has come. Entries of agents that have come back, or ended,
    /// meanwhile stand for nothing.
    pub(super) fn bring_sleepers(&mut self, now: Nanos) {
        for _ in 0..WAKE_COUNT_MAX {
            if self.wakes.next().is_none_or(|at| at > now) {
                return;
            }
            let Some((_, id)) = self.wakes.times.pop_first() else { return };
            let Some(slot) = self.agents.find(id) else { continue };
            let agent = &self.agents[slot];
            if agent.residence == Residence::Paging {
                self.page_now(now, slot);
            }
            let agent = &self.agents[slot];
            if agent.residence != Residence::Cold {
                continue;
            }
            if self.is_wanted(now, agent) {
                self.load(slot);
            } else if let Some(at) = self.sleep_end(agent)
                && self.wakes_soon(now, agent)
            {
                if self.is_nearly_full() {
                    self.wakes.times.insert((at, id));
                } else {
                    self.counters.wakes += 1;
                    self.load(slot);
                }
            }
        }
    }
}
