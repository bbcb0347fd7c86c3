//! The agents of a partition, by slot and by id.
//!
//! Owns: the slots and the index over ids.  Not: what happens to an agent.
//! G1  every agent is in the index under its id, once.
//! G2  growth is spread: the index is many small tables, so no insert rehashes more than a
//!     thousandth of it, and nothing ever moves an agent.

use crate::agent::Agent;
use crate::id::AgentId;
use crate::slots::Slots;
use hashbrown::HashTable;
use std::ops::{Index, IndexMut};

/// Tables of the index; a power of two.
const PART_COUNT: usize = 1024;

/// All agents of a partition.
pub(crate) struct Table {
    agents: Slots<Agent>,
    index: Box<[HashTable<u32>]>,
}

impl Table {
    pub(crate) fn new() -> Table {
        let index = (0..PART_COUNT).map(|_| HashTable::new()).collect();
        Table { agents: Slots::new(), index }
    }

    pub(crate) fn count(&self) -> u32 {
        self.agents.count()
    }

    /// One past the highest slot ever used.
    pub(crate) fn end(&self) -> u32 {
        self.agents.end()
    }

    pub(crate) fn find(&self, id: AgentId) -> Option<u32> {
        let agents = &self.agents;
        self.index[part(id)].find(hash(id), |slot| agents[*slot].id == id).copied()
    }

    /// Adds an agent whose id is new (G1).
    pub(crate) fn insert(&mut self, agent: Agent) -> u32 {
        let id = agent.id;
        assert!(self.find(id).is_none(), "G1: agent {:?} exists", agent.key);
        let slot = self.agents.insert(agent);
        let agents = &self.agents;
        self.index[part(id)].insert_unique(hash(id), slot, |slot| hash(agents[*slot].id));
        slot
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Agent {
        let agent = self.agents.remove(slot);
        let entry = self.index[part(agent.id)].find_entry(hash(agent.id), |other| *other == slot);
        entry.expect("G1: an agent is in the index").remove();
        agent
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Agent> {
        self.agents.get(slot)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Agent)> {
        self.agents.iter()
    }
}

impl Index<u32> for Table {
    type Output = Agent;
    #[track_caller]
    fn index(&self, slot: u32) -> &Agent {
        &self.agents[slot]
    }
}

impl IndexMut<u32> for Table {
    #[track_caller]
    fn index_mut(&mut self, slot: u32) -> &mut Agent {
        &mut self.agents[slot]
    }
}

/// The lower half of an id is a hash of the whole key and serves as the table's hash.
fn hash(id: AgentId) -> u64 {
    id.0 as u64
}

/// Bits that the tables use for neither bucket (lowest) nor tag (highest seven).
fn part(id: AgentId) -> usize {
    (hash(id) >> 40) as usize & (PART_COUNT - 1)
}
