//! Control verbs: what a client asks of an agent beside sending messages.
//!
//! Owns: reading, versions, suspension, description.  Not: turns, branches, births and ends, which
//! it calls.
//! R1  a control verb runs no behaviour.
//! R2  a verb that is refused changed nothing.

use super::Partition;
use super::branches::ForkPlan;
use crate::agent::{Edge, State};
use crate::behaviour::Restored;
use crate::id::{Nanos, VersionId};
use crate::limits::DIFF_RANGE_COUNT_MAX;
use crate::refusal::Refusal;
use crate::slots::NIL;
use crate::verb::{AgentInfo, Origin, Reply, Verb, VersionRef};
use crate::version::{SealKind, VersionError};
use bytes::Bytes;

/// What becomes of the requests that an agent keeps open when its image goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Requests {
    /// They are answered as dropped.
    Drop,
    /// They stay: the agent changed itself, and its past may answer them.
    Stay,
}

impl Partition {
    /// Executes a control verb on a living agent and answers it. The agent may have ended then.
    pub(super) fn control(&mut self, now: Nanos, slot: u32, verb: Verb, origin: Origin) {
        let result = match verb {
            Verb::Create { .. } | Verb::Import { .. } => {
                Err(Refusal::Exists { key: self.key_text(slot) })
            }
            Verb::Read { offset, len_bytes } => Ok(self.read(slot, offset, len_bytes)),
            Verb::Checkpoint { label } => self.checkpoint(now, slot, label),
            Verb::Fork { count, at, suffix, keep_timers } => {
                self.fork(now, slot, &ForkPlan { count, at, suffix, keep_timers, call: None })
            }
            Verb::Rollback { to } => self.rollback(slot, to.as_ref(), Requests::Drop),
            Verb::Versions => Ok(Reply::Versions(self.agents[slot].versions.list())),
            Verb::Diff { from, to } => self.diff(slot, &from, to.as_ref()),
            Verb::Export => self.export(now, slot),
            Verb::Digest { at } => self.digest(slot, at.as_ref()),
            Verb::Suspend => self.suspend(slot),
            Verb::Resume => Ok(self.resume(slot)),
            Verb::Info => Ok(Reply::Info(Box::new(self.describe(slot)))),
            Verb::Commit => return self.commit(now, slot, origin),
            Verb::Terminate => {
                // The answer waits for this, also where nothing else has changed.
                self.forget_changes(slot);
                self.reply(origin, Ok(Reply::Done));
                let left = self.end(slot, "was terminated");
                return self.readmit(now, left);
            }
            Verb::Send { .. }
            | Verb::Exec { .. }
            | Verb::Write { .. }
            | Verb::List { .. }
            | Verb::Hottest
            | Verb::Errand(_) => unreachable!("R1: {verb:?} is no control verb of an agent"),
        };
        self.reply(origin, result);
    }

    fn read(&self, slot: u32, offset: u64, len_bytes: u32) -> Reply {
        let agent = &self.agents[slot];
        let behaviour = self.templates.behaviour(agent.template);
        let mut bytes = Vec::new();
        let under = |page| behaviour.base_page(page);
        agent.image.read_over(&self.store, offset, &mut bytes, len_bytes as usize, &under);
        Reply::Payload(Some(Bytes::from(bytes)))
    }

    pub(super) fn checkpoint(
        &mut self,
        now: Nanos,
        slot: u32,
        label: Option<Bytes>,
    ) -> Result<Reply, Refusal> {
        let agent = &mut self.agents[slot];
        let checkpoints_max = self.config.checkpoints_max;
        let kind = SealKind::Checkpoint { label, checkpoints_max };
        match agent.versions.seal(&agent.image, &mut self.store, now, kind) {
            Ok(version) => {
                agent.unsealed_count = 0;
                self.counters.checkpoints += 1;
                Ok(Reply::Version(version))
            }
            Err(VersionError::TooManyCheckpoints { count, count_max }) => Err(Refusal::Limit {
                what: format!("checkpoints of {}", agent.key).into(),
                value: u64::from(count) + 1,
                limit: u64::from(count_max),
                remedy: "raise agents.checkpoints_max, or go on in a fork".into(),
            }),
        }
    }

    /// Makes an earlier version the present. What the agent awaits belongs to the present that is
    /// given up, so its calls are dropped.
    pub(super) fn rollback(
        &mut self,
        slot: u32,
        to: Option<&VersionRef>,
        requests: Requests,
    ) -> Result<Reply, Refusal> {
        let version = match to {
            Some(wanted) => self.find_version(slot, wanted)?,
            None => self.agents[slot].versions.newest_checkpoint(),
        };
        let agent = &mut self.agents[slot];
        let image = agent.versions.set_head(version).expect("T3: a found version is kept");
        let image = image.share(&mut self.store);
        std::mem::replace(&mut agent.image, image).release(&mut self.store);
        agent.unsealed_count = 0;
        self.counters.rollbacks += 1;
        self.drop_calls(slot, "was rolled back", requests);
        self.note_restored(slot, Restored::RolledBack { version });
        Ok(Reply::Version(version))
    }

    fn diff(
        &self,
        slot: u32,
        from: &VersionRef,
        to: Option<&VersionRef>,
    ) -> Result<Reply, Refusal> {
        let agent = &self.agents[slot];
        let image = |wanted| {
            let version = self.find_version(slot, wanted)?;
            Ok(agent.versions.image_of(version).expect("T3: a found version is kept"))
        };
        let older = image(from)?;
        let newer = to.map(image).transpose()?.unwrap_or(&agent.image);
        let behaviour = self.templates.behaviour(agent.template);
        let ranges = older.diff_over(newer, &self.store, &|page| behaviour.base_page(page));
        if ranges.len() > DIFF_RANGE_COUNT_MAX {
            return Err(Refusal::Limit {
                what: "the ranges in which the versions differ".into(),
                value: ranges.len() as u64,
                limit: DIFF_RANGE_COUNT_MAX as u64,
                remedy: "compare versions that are closer to each other, or READ both".into(),
            });
        }
        Ok(Reply::Diff(ranges))
    }

    fn suspend(&mut self, slot: u32) -> Result<Reply, Refusal> {
        let agent = &mut self.agents[slot];
        if agent.state().after(Edge::Suspend).is_none() {
            return Err(Refusal::WrongState {
                key: agent.key.as_str().into(),
                state: agent.state().name().into(),
                remedy: "it takes no turns until AGENT.RESUME".into(),
            });
        }
        agent.follow(Edge::Suspend);
        self.queue.remove(&mut self.agents, slot);
        Ok(Reply::Done)
    }

    fn resume(&mut self, slot: u32) -> Reply {
        let agent = &mut self.agents[slot];
        if agent.state().is_held() {
            if let Some(rare) = agent.rare.as_mut() {
                rare.failures.clear();
            }
            let quarantined = agent.state() == State::Quarantined;
            agent.follow(Edge::Resume);
            if quarantined {
                self.tell_restored(slot);
            }
            self.wake(slot);
        }
        Reply::Done
    }

    fn describe(&self, slot: u32) -> AgentInfo {
        let agent = &self.agents[slot];
        let copies = self.templates.behaviour(agent.template).copies(agent.id, &agent.image);
        let head = agent.versions.head_image();
        let usage = agent.image.usage_beside(&self.store, head, copies);
        let parent =
            (agent.kin.parent != NIL).then(|| self.agents[agent.kin.parent].key.detached());
        AgentInfo {
            key: agent.key.detached(),
            id: agent.id,
            shard: self.config.shard,
            state: agent.state().name().into(),
            head: agent.versions.head(),
            version_count: agent.versions.count(),
            image_bytes: agent.image.len_bytes(),
            unique_bytes: usage.unique_bytes,
            shared_bytes: usage.shared_bytes,
            mailbox_count: agent.mailbox.count(),
            turn_count: agent.turn_count,
            failure_count: agent.failure_count,
            parent,
            branch_count: agent.kin.branch_count,
        }
    }

    pub(super) fn find_version(
        &self,
        slot: u32,
        wanted: &VersionRef,
    ) -> Result<VersionId, Refusal> {
        let found = self.agents[slot].versions.find(wanted);
        found.ok_or_else(|| Refusal::NoVersion {
            key: self.key_text(slot),
            version: match wanted {
                VersionRef::Id(id) => id.0.to_string(),
                VersionRef::Label(label) => format!("@{}", String::from_utf8_lossy(label)),
            },
        })
    }

    fn key_text(&self, slot: u32) -> String {
        self.agents[slot].key.as_str().into()
    }
}
