//! Recovery: what a log says at a start, before any agent is wanted.
//!
//! Owns: which agents there are, where their chains lie, who is whose branch.  Not: reading files
//! (`shards`), bringing an agent back (`replay.rs`).
//! R1  only the heads of records are looked at: agents stay in the log until they are wanted.
//! R2  a record that rests on what is not there is left out.

use super::Partition;
use super::chain::read_origin;
use super::journal::Parts;
use super::survey::{read_page_count, read_stub};
use super::wakes::Awaits;
use crate::agent::{Agent, Birth, Residence};
use crate::id::{AgentId, Nanos};
use crate::image::Image;
use crate::log::record::Identity;
use crate::log::wire::Reader;
use crate::log::{Kind, Place, Record, RecordError};
use crate::version::VersionTree;
use std::collections::BTreeMap;

/// The last numbers that earlier lives of the shard gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Last {
    /// To a call.
    pub call: u64,
    /// To a request that an agent keeps open.
    pub request: u64,
}

/// What a recovery has found so far, beside the agents.
#[derive(Debug, Default)]
pub struct Recovery {
    parts: BTreeMap<AgentId, Parts>,
    parents: BTreeMap<AgentId, AgentId>,
    indexing: bool,
}

impl Recovery {
    /// Forgets parts of a record of which the rest does not come: where a life of the shard ends,
    /// and where batches are missing.
    pub fn forget_parts(&mut self) {
        self.parts.clear();
    }

    /// Forgets the parts of an agent's record that is left out.
    pub fn forget_parts_of(&mut self, id: AgentId) {
        self.parts.remove(&id);
    }

    pub(super) fn note_parent(&mut self, id: AgentId, parent: Option<AgentId>) {
        match parent {
            Some(parent) => self.parents.insert(id, parent),
            None => self.parents.remove(&id),
        };
    }
}

/// Reading a log at a start.
impl Partition {
    /// Takes in a record of the log, in their order. Only heads are looked at: agents stay in the
    /// log until they are wanted. An error leaves the record out.
    pub fn recover(
        &mut self,
        recovery: &mut Recovery,
        record: Record<'_>,
        place: Place,
    ) -> Result<(), RecordError> {
        let id = record.id;
        let mut reader = Reader::new(record.body);
        if record.kind.is_part() {
            recovery.parts.entry(id).or_default().push(record.kind, place);
            return Ok(());
        }
        let mut parts = recovery.parts.remove(&id).unwrap_or_default();
        let (count, found) = match record.kind {
            Kind::Split => (read_page_count(&mut reader)?, parts.page_count),
            _ => (0, parts.page_count),
        };
        if count != found {
            return Err(RecordError::NoPages { count, found });
        }
        parts.push(record.kind, place);
        match record.kind {
            Kind::Whole | Kind::Split | Kind::Fork => {
                let identity = Identity::read(&mut reader)?;
                let from = match record.kind {
                    Kind::Fork => Some(read_origin(&mut reader)?.0),
                    _ => None,
                };
                let awaits = Awaits::read(&mut reader)?;
                if let Some(from) = from.filter(|from| self.chain_places(*from).is_none()) {
                    return Err(RecordError::NoBase(from));
                }
                recovery.note_parent(id, identity.parent);
                let slot = match self.agents.find(id) {
                    Some(slot) => slot,
                    None => self.insert_cold(id, identity),
                };
                self.extend_chain(slot, record.kind, from, &parts, awaits);
            }
            Kind::Change => {
                // One that the index has not come to is in its chain when it does.
                let Some(slot) = self.agents.find(id) else {
                    return if recovery.indexing { Ok(()) } else { Err(RecordError::NoBase(id)) };
                };
                let awaits = Awaits::read(&mut reader)?;
                self.extend_chain(slot, Kind::Change, None, &parts, awaits);
            }
            Kind::End => {
                if let Some(slot) = self.agents.find(id) {
                    self.remove_cold(slot);
                }
                recovery.parents.remove(&id);
            }
            Kind::Orphan => _ = recovery.parents.remove(&id),
            Kind::Stub => self.recover_stub(recovery, id, &mut reader)?,
            Kind::IndexBegin => recovery.indexing = true,
            Kind::IndexEnd => recovery.indexing = false,
            Kind::Part | Kind::Pages => {}
        }
        Ok(())
    }

    fn recover_stub(
        &mut self,
        recovery: &mut Recovery,
        id: AgentId,
        reader: &mut Reader<'_>,
    ) -> Result<(), RecordError> {
        let identity = Identity::read(reader)?;
        recovery.note_parent(id, identity.parent);
        let chain = read_stub(reader)?;
        let slot = match self.agents.find(id) {
            Some(slot) => slot,
            None => self.insert_cold(id, identity),
        };
        self.set_chain(slot, chain);
        Ok(())
    }

    /// Ends a recovery: branches find their parents. Returns how many agents there are, all in the
    /// log; those that await an answer are asked for, those that sleep when it is time.
    pub fn recovered(&mut self, recovery: Recovery, last: Last) -> u32 {
        for (branch, parent) in recovery.parents {
            if let (Some(branch), Some(parent)) =
                (self.agents.find(branch), self.agents.find(parent))
            {
                self.join_parent(parent, branch);
            }
        }
        self.call_numbers.pass(last.call);
        self.request_numbers.pass(last.request);
        for slot in 0..self.agents.end() {
            let chain = self.agents.get(slot).and_then(|agent| agent.logged.as_deref());
            match chain.map(|chain| chain.awaits) {
                Some(Awaits::Answers) => self.load(slot),
                Some(Awaits::Time(_)) => self.list_wake(slot),
                Some(Awaits::Nothing) | None => {}
            }
        }
        self.agents.count()
    }

    /// Adds an agent whose id is that of its tenant and key, as its record says.
    pub(super) fn insert_cold(&mut self, id: AgentId, identity: Identity) -> u32 {
        let Identity { tenant, key, .. } = identity;
        debug_assert!(id == key.id(tenant), "R2: {key} has another id");
        let image = Image::EMPTY;
        let versions = VersionTree::new(&image, &mut self.store, Nanos(0));
        let birth = Birth { id, tenant, key, template: 0, image, versions };
        let slot = self.agents.insert(Agent::new(birth));
        self.agents[slot].residence = Residence::Cold;
        self.counters.agents += 1;
        self.counters.cold += 1;
        slot
    }

    pub(super) fn remove_cold(&mut self, slot: u32) {
        if let Some(chain) = self.agents[slot].logged.take() {
            self.journal.drop_live(&chain.places);
        }
        let agent = self.agents.remove(slot);
        self.counters.agents -= 1;
        self.counters.cold -= 1;
        agent.image.release(&mut self.store);
        agent.versions.release(&mut self.store);
    }
}
