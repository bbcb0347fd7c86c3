//! Lost agents: those that a previous life of the shard had and nobody has created again.
//!
//! Owns: their keys, by id and in a listing order.  Not: how the shard learned of them.
//! Z1  a key keeps its place in the listing while it is lost.

use crate::id::{AgentId, TenantId};
use crate::key::AgentKey;
use hashbrown::HashTable;

/// Keys of lost agents.
#[derive(Default)]
pub(super) struct Lost {
    /// In order of insertion; `None` where an agent was created again (Z1).
    places: Vec<Option<(AgentId, TenantId, AgentKey)>>,
    index: HashTable<u32>,
}

impl Lost {
    pub(super) fn count(&self) -> usize {
        self.index.len()
    }

    pub(super) fn contains(&self, id: AgentId) -> bool {
        !self.index.is_empty() && self.place(id).is_some()
    }

    /// Adds an agent, unless it is listed already.
    pub(super) fn insert(&mut self, id: AgentId, tenant: TenantId, key: AgentKey) {
        if self.place(id).is_some() {
            return;
        }
        let place = self.places.len() as u32;
        self.places.push(Some((id, tenant, key)));
        let places = &self.places;
        self.index.insert_unique(hash(id), place, |place| {
            let listed = places[*place as usize].as_ref();
            hash(listed.expect("Z1: indexed places are listed").0)
        });
    }

    /// Takes an agent off the list; whether it was there.
    pub(super) fn remove(&mut self, id: AgentId) -> bool {
        if self.index.is_empty() {
            return false;
        }
        let Some(place) = self.place(id) else { return false };
        let entry = self.index.find_entry(hash(id), |other| *other == place);
        entry.expect("Z1: found above").remove();
        self.places[place as usize] = None;
        if self.index.is_empty() {
            self.places = Vec::new();
        }
        true
    }

    /// Places there are, taken or not.
    pub(super) fn end(&self) -> u32 {
        self.places.len() as u32
    }

    /// The key at a place.
    pub(super) fn key_at(&self, place: u32) -> Option<&AgentKey> {
        self.places.get(place as usize)?.as_ref().map(|(_, _, key)| key)
    }

    /// Every lost agent.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TenantId, &AgentKey)> {
        self.places.iter().flatten().map(|(_, tenant, key)| (*tenant, key))
    }

    fn place(&self, id: AgentId) -> Option<u32> {
        let is_id = |place: &u32| {
            self.places[*place as usize].as_ref().is_some_and(|(listed, ..)| *listed == id)
        };
        self.index.find(hash(id), is_id).copied()
    }
}

fn hash(id: AgentId) -> u64 {
    id.0 as u64
}
