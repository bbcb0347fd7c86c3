//! How agents begin and end.
//!
//! Owns: creation, termination, the roster.  Not: branches (`branches.rs`).
//! F1  an agent that could not be started was never there.
//! F2  requests that wait for an agent when it ends are treated as if they came just after.

use super::turns::Slice;
use super::verbs::Requests;
use super::{Address, Partition, RosterChange};
use crate::agent::{Agent, Birth};
use crate::behaviour::{Behaviour, Fault, Turn};
use crate::id::Nanos;
use crate::image::Image;
use crate::key::AgentKey;
use crate::mailbox::{Item, Waiting};
use crate::refusal::Refusal;
use crate::version::VersionTree;

impl Partition {
    /// Makes an agent from its template. The start turn sees an empty image; then the image grows
    /// to `image_bytes`, if that is longer. On a refusal nothing changed (F1).
    pub(super) fn create(
        &mut self,
        now: Nanos,
        to: &Address,
        image_bytes: u64,
    ) -> Result<u32, Refusal> {
        self.check_agents_max(1)?;
        let template = self.templates.find(&to.key)?;
        let slot = self.make(now, to, template)?;
        if let Err(fault) = self.start(now, slot, image_bytes) {
            self.counters.faults += 1;
            let refusal = self.refusal(slot, fault);
            self.remove(slot);
            return Err(refusal);
        }
        self.counters.creates += 1;
        self.born(slot, to.key.clone());
        let request = self.open_answered();
        self.release_effects(now, slot, request);
        Ok(slot)
    }

    /// A new agent whose image is empty.
    pub(super) fn make(&mut self, now: Nanos, to: &Address, template: u16) -> Result<u32, Refusal> {
        let id = to.key.id(to.tenant);
        if id != to.id {
            return Err(Refusal::BadValue {
                what: "the agent's id".into(),
                value: format!("{:032x}", to.id.0),
                allowed: format!("{:032x}, the hash of {}", id.0, to.key).into(),
            });
        }
        let versions = VersionTree::new(&Image::EMPTY, &mut self.store, now);
        let key = to.key.detached();
        let (image, tenant) = (Image::EMPTY, to.tenant);
        let birth = Birth { id, tenant, key, template, image, versions };
        let slot = self.agents.insert(Agent::new(birth));
        self.touch(slot);
        self.counters.agents += 1;
        Ok(slot)
    }

    /// Whether `count` more agents may live.
    pub(super) fn check_agents_max(&self, count: u32) -> Result<(), Refusal> {
        let value = u64::from(self.agents.count()) + u64::from(count);
        let limit = u64::from(self.config.agents_max);
        if value > limit {
            let what = format!("the agents of shard {}", self.config.shard.0).into();
            let remedy = "terminate agents or raise agents.agents_max".into();
            return Err(Refusal::Limit { what, value, limit, remedy });
        }
        Ok(())
    }

    /// Notes a birth; a lost agent of that key is not lost any more.
    pub(super) fn born(&mut self, slot: u32, key: AgentKey) {
        let agent = &self.agents[slot];
        if self.lost.remove(agent.id) {
            self.counters.lost -= 1;
        }
        self.roster.push(RosterChange::Born(agent.tenant, key));
    }

    /// Ends an agent and frees its pages. Its calls are dropped, its branches go on without a
    /// parent. The requests that waited come back, for [`Partition::readmit`].
    pub(super) fn end(&mut self, slot: u32, why: &'static str) -> Left {
        self.unlist_wake(slot);
        self.abandon(slot, why);
        self.drop_calls(slot, why, Requests::Drop);
        self.drop_sends(slot);
        self.queue.remove(&mut self.agents, slot);
        self.leave_parent(slot);
        self.leave_branches(slot);
        let mut waiting = Vec::new();
        while let Some(item) = self.agents[slot].mailbox.pop(&mut self.mail) {
            if let Item::Request(request) = item {
                waiting.push(request);
            }
        }
        let to = self.remove(slot);
        self.hot.forget(to.id);
        self.counters.terminates += 1;
        self.roster.push(RosterChange::Ended(to.tenant, to.key.clone()));
        Left { to, waiting }
    }

    /// Lets requests that an ended agent left enter again (F2).
    pub(super) fn readmit(&mut self, now: Nanos, left: Left) {
        for waiting in left.waiting {
            self.admit(now, left.to.clone(), waiting);
        }
    }

    /// Runs the start turn and makes its image the first version.
    fn start(&mut self, now: Nanos, slot: u32, image_bytes: u64) -> Result<(), Fault> {
        let begin = |behaviour: &dyn Behaviour, turn: &mut Turn<'_>| {
            behaviour.start(turn)?;
            if image_bytes > turn.image_len() {
                if let Some(why) = behaviour.sealed_off() {
                    return Err(Fault::refused(why));
                }
                turn.resize(image_bytes)?;
            }
            Ok(())
        };
        let slice =
            self.in_room(now, Fault::is_full, |this| this.attempt(now, slot, None, begin))?;
        assert!(!matches!(slice, Slice::Paused), "N2: a start turn has one slice");
        if matches!(slice, Slice::Over { changed: true }) {
            let agent = &mut self.agents[slot];
            let first = VersionTree::new(&agent.image, &mut self.store, now);
            std::mem::replace(&mut agent.versions, first).release(&mut self.store);
        }
        Ok(())
    }

    /// Takes a slot's agent out of the table and releases its pages.
    pub(super) fn remove(&mut self, slot: u32) -> Address {
        self.forget_changes(slot);
        let agent = self.agents.remove(slot);
        self.counters.agents -= 1;
        self.counters.cold -= u64::from(agent.residence.is_cold());
        self.templates.behaviour(agent.template).forget(agent.id, &mut self.store);
        agent.image.release(&mut self.store);
        agent.versions.release(&mut self.store);
        Address { id: agent.id, tenant: agent.tenant, key: agent.key }
    }
}

/// What an ended agent leaves.
pub(super) struct Left {
    to: Address,
    waiting: Vec<Waiting>,
}
