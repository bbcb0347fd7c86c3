//! What a shard's log asks of its partition: when to write, and where what was made now lies.
//!
//! Owns: placing records, letting out what waited for a flush.  Not: the list of changes
//! (`journal.rs`), bytes (`record.rs`).

use super::{Chain, Live, Made, Parts};
use crate::id::AgentId;
use crate::log::{Kind, Place};
use crate::partition::{Awaits, Last, Partition};
use std::collections::BTreeMap;
use std::rc::Rc;

/// For the shard's log.
impl Partition {
    /// Whether there is something to write: changes, an index.
    pub fn wants_flush(&self) -> bool {
        let journal = &self.journal;
        let index = journal.index_at.is_some();
        journal.is_dirty() || journal.making || journal.is_awaited() || index
    }

    /// The flush with which all that has changed until now is on disk.
    pub fn flush_target(&self) -> u64 {
        self.journal.target()
    }

    /// Whether a flush is on disk.
    pub fn is_flushed(&self, flush: u64) -> bool {
        self.journal.is_durable(flush)
    }

    /// Whether a flush has begun that is not made whole.
    pub fn is_flushing(&self) -> bool {
        self.journal.making
    }

    /// Events that wait for the disk: with any, a flush is urgent.
    pub fn waiting_count(&self) -> usize {
        self.journal.waiting_count()
    }

    /// Whether anything is not on disk yet.
    pub fn is_behind(&self) -> bool {
        self.journal.is_behind()
    }

    /// Notes where a record lies that a flush made; in the order in which it made them.
    pub fn placed(&mut self, made: Made, place: Place) {
        let Made { id, kind, parent, .. } = made;
        match kind {
            Kind::Part | Kind::Pages => self.journal.parts.push(kind, place),
            Kind::Whole | Kind::Split | Kind::Change | Kind::Fork => {
                let mut parts = std::mem::take(&mut self.journal.parts);
                parts.push(kind, place);
                let slot = self.agents.find(id).expect("J1: a record is placed before turns go on");
                let awaits = self.awaits(&self.agents[slot]);
                self.extend_chain(slot, kind, parent, &parts, awaits);
                parts.places.clear();
                self.journal.parts = Parts { page_count: 0, ..parts };
            }
            Kind::End | Kind::Stub | Kind::Orphan | Kind::IndexBegin | Kind::IndexEnd => {}
        }
    }

    /// Adds records to an agent's chain, or begins it anew.
    pub(in crate::partition) fn extend_chain(
        &mut self,
        slot: u32,
        kind: Kind,
        parent: Option<AgentId>,
        parts: &Parts,
        awaits: Awaits,
    ) {
        let places = &parts.places[..];
        let bytes: u64 = places.iter().map(|place| u64::from(place.len_bytes)).sum();
        if kind != Kind::Change
            && let Some(old) = self.agents[slot].logged.take()
        {
            let flush = self.journal.begun;
            self.journal.drop_live_after(flush, old.places);
        }
        let mut chain = match kind {
            Kind::Fork => {
                let parent = parent.and_then(|parent| self.agents.find(parent));
                let parent = parent.and_then(|slot| self.agents[slot].logged.as_deref());
                let chain = parent.expect("J1: a parent is written before its branch").clone();
                self.journal.add_live(&chain.places, 0);
                Box::new(chain)
            }
            _ => self.agents[slot].logged.take().unwrap_or_default(),
        };
        let count = chain.places.len();
        Rc::make_mut(&mut chain.places).extend_from_slice(places);
        self.journal.add_live(&chain.places, count);
        if kind.is_whole() {
            chain.whole_bytes = bytes;
            chain.page_count = parts.page_count;
        } else {
            chain.change_bytes += bytes;
        }
        chain.awaits = awaits;
        chain.flush = self.journal.begun;
        self.agents[slot].logged = Some(chain);
    }

    /// Makes this an agent's chain.
    pub(in crate::partition) fn set_chain(&mut self, slot: u32, chain: Chain) {
        self.journal.add_live(&chain.places, 0);
        if let Some(old) = self.agents[slot].logged.replace(Box::new(chain)) {
            self.journal.drop_live(&old.places);
        }
    }

    /// The last numbers given, for the head of a batch.
    pub fn last_numbers(&self) -> Last {
        Last { call: self.call_numbers.last(), request: self.request_numbers.last() }
    }

    /// All that was flushed up to flush number `flush` is on disk: what waited for it leaves.
    pub fn flushed(&mut self, flush: u64) {
        assert!(flush <= self.journal.begun, "J2: flush {flush} has not begun");
        self.journal.durable = self.journal.durable.max(flush);
        while let Some((target, _)) = self.journal.held.front()
            && *target <= self.journal.durable
        {
            let (_, event) = self.journal.held.pop_front().expect("J2: it was there");
            self.events.push(event);
        }
        let durable = self.journal.durable;
        while let Some((_, places)) = self.journal.unneeded.pop_front_if(|(at, _)| *at <= durable) {
            self.journal.drop_live(&places);
        }
    }

    /// Writes an index with the next flushes: from its first record on, the log says where all
    /// chains lie.
    pub fn begin_index(&mut self) {
        self.journal.index_at.get_or_insert(0);
    }

    /// Whether an index is being written.
    pub fn is_indexing(&self) -> bool {
        self.journal.index_at.is_some()
    }

    /// Live records per segment (J4); a segment that is not here holds none.
    pub fn live_segments(&self) -> &BTreeMap<u32, Live> {
        self.journal.segments()
    }
}
