//! Admission: whether a request comes into the mailbox of its agent, and what refuses it if not.
//!
//! Owns: the checks before a mailbox, agents that are made by a request, answers of the shard
//! itself.  Not: serving (`verbs.rs`, `turns.rs`), reading cold agents (`replay.rs`).

use super::{Address, Awaits, Partition};
use crate::agent::{Agent, Residence, State};
use crate::id::Nanos;
use crate::limits::{MAIL_BYTES_MAX, MAIL_COUNT_MAX, WAITING_COUNT_MAX};
use crate::mailbox::{Item, Waiting, runs_turn};
use crate::refusal::Refusal;
use crate::verb::{Reply, Verb};

impl Partition {
    /// Brings a request into its agent's mailbox; or answers it, where it cannot wait there.
    pub(super) fn admit(&mut self, now: Nanos, to: Address, waiting: Waiting) {
        let slot = match self.agents.find(to.id) {
            Some(slot) => slot,
            None => match self.admit_absent(now, &to, &waiting) {
                Ok(Some(slot)) => slot,
                Ok(None) => return,
                Err(refusal) => return self.reply(waiting.origin, Err(refusal)),
            },
        };
        if self.agents[slot].residence != Residence::Warm {
            return self.admit_cold(now, slot, waiting);
        }
        match self.agents[slot].state() {
            State::Active => {}
            State::Suspended if runs_turn(&waiting.verb) => {}
            State::Quarantined if runs_turn(&waiting.verb) => {
                let refusal = self.quarantined(slot);
                return self.reply(waiting.origin, Err(refusal));
            }
            State::Suspended | State::Quarantined if self.needs_pages(slot, &waiting.verb) => {
                self.page_in_all(slot);
                return self.admit_cold(now, slot, waiting);
            }
            State::Suspended | State::Quarantined => {
                self.touch(slot);
                self.serve(now, slot, waiting);
                return;
            }
        }
        if let Err(refusal) = self.check_room(&self.agents[slot]) {
            return self.reply(waiting.origin, Err(refusal));
        }
        self.agents[slot].mailbox.push(&mut self.mail, Item::Request(waiting));
        self.wake(slot);
    }

    /// A request for an agent that is in the log only: it waits until that is read. To end it
    /// nothing of it is needed, so that there need be no room for it.
    fn admit_cold(&mut self, now: Nanos, slot: u32, waiting: Waiting) {
        if matches!(waiting.verb, Verb::Terminate) && self.is_known_cold(slot) {
            self.serve(now, slot, waiting);
            return;
        }
        if let Err(refusal) = self.check_room(&self.agents[slot]) {
            return self.reply(waiting.origin, Err(refusal));
        }
        self.agents[slot].mailbox.push(&mut self.mail, Item::Request(waiting));
        self.load(slot);
    }

    /// Whether an agent is in the log only, what it has asked of others is in memory, and nobody
    /// waits for it.
    fn is_known_cold(&self, slot: u32) -> bool {
        let agent = &self.agents[slot];
        agent.residence == Residence::Cold
            && !agent.mailbox.has_request(&self.mail)
            && !self.commits.iter().any(|(parent, ..)| *parent == agent.id)
            && (agent.rare.is_some() || self.logged_awaits(agent) != Awaits::Answers)
    }

    /// Whether a durable answer to this can be given now.
    pub(super) fn check_durable(&self, verb: &Verb) -> Result<(), Refusal> {
        if !self.journal.on {
            return Err(Refusal::NoLog);
        }
        if self.disk_full && verb.changes() {
            return Err(Refusal::DiskFull { shard: self.config.shard });
        }
        let count = self.journal.waiting_count();
        if verb.changes() && count >= WAITING_COUNT_MAX {
            let what = format!("what waits for the disk of shard {}", self.config.shard.0);
            let (count, count_max) = (count as u64, WAITING_COUNT_MAX as u64);
            return Err(Refusal::Busy { what: what.into(), count, count_max });
        }
        Ok(())
    }

    /// A request for an agent that does not live. `Some`: it does now, and the request may enter
    /// its mailbox; `None`: the request was to create it, and is answered.
    fn admit_absent(
        &mut self,
        now: Nanos,
        to: &Address,
        waiting: &Waiting,
    ) -> Result<Option<u32>, Refusal> {
        let absent = || Refusal::NoAgent { key: to.key.as_str().into() };
        check_deadline(now, waiting)?;
        match waiting.verb {
            Verb::Create { .. } | Verb::Import { .. } | Verb::Send { .. } | Verb::Exec { .. }
                if to.key.is_branch() =>
            {
                Err(absent())
            }
            Verb::Import { ref bytes } => {
                let slot = self.import(now, to, bytes)?;
                let version = self.agents[slot].versions.head();
                self.reply(waiting.origin, Ok(Reply::Version(version)));
                Ok(None)
            }
            Verb::Create { image_bytes } => {
                let slot = self.create(now, to, image_bytes)?;
                let version = self.agents[slot].versions.head();
                self.reply(waiting.origin, Ok(Reply::Version(version)));
                Ok(None)
            }
            _ if self.lost.contains(to.id) => {
                Err(Refusal::Lost { key: to.key.as_str().into(), shard: self.config.shard })
            }
            Verb::Send { .. } | Verb::Exec { .. } if self.config.create_on_send => {
                self.create(now, to, 0).map(Some)
            }
            _ => Err(absent()),
        }
    }

    fn check_room(&self, agent: &Agent) -> Result<(), Refusal> {
        let busy = |what: String, count: u64, count_max: u64| {
            Err(Refusal::Busy { what: what.into(), count, count_max })
        };
        let (count, count_max) = (agent.mailbox.count(), self.config.mailbox_max);
        if count >= count_max {
            return busy(format!("the mailbox of {}", agent.key), count.into(), count_max.into());
        }
        let shard = self.config.shard.0;
        let (count, count_max) = (self.mail.count(), MAIL_COUNT_MAX);
        if count >= count_max {
            let what = format!("the mail of shard {shard}, in items,");
            return busy(what, count.into(), count_max.into());
        }
        let bytes = self.mail.payload_bytes();
        if bytes >= MAIL_BYTES_MAX {
            let what = format!("the mail of shard {shard}, in bytes,");
            return busy(what, bytes, MAIL_BYTES_MAX);
        }
        Ok(())
    }

    /// Answers what is asked of the shard itself.
    pub(super) fn shard_verb(&mut self, verb: Verb) -> Result<Reply, Refusal> {
        match verb {
            Verb::List { cursor, count, pattern, lost } => {
                Ok(self.list(cursor, count, pattern.as_deref(), lost))
            }
            Verb::Hottest => Ok(Reply::Hottest(self.hottest())),
            _ => unreachable!("V1: checked verbs for shards are List and Hottest"),
        }
    }
}

/// Refuses a request whose deadline is past.
pub(super) fn check_deadline(now: Nanos, waiting: &Waiting) -> Result<(), Refusal> {
    match waiting.deadline {
        Some(deadline) if deadline <= now => {
            Err(Refusal::Timeout { waited_us: now.since(waiting.accepted_at).0 / 1_000 })
        }
        _ => Ok(()),
    }
}
