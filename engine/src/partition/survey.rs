//! Survey: what a log says, for those that look at it without serving its agents.
//!
//! Owns: the heads of records, chains as a recovery has found them, cutting one, handing one to
//! another partition.  Not: reading files, choosing what to keep (`heronry log`).
//! U1  a chain that is cut is one that its agent had: it ends with a record of its own.

use super::Partition;
use super::chain::read_origin;
use super::journal::Chain;
use super::recovery::Recovery;
use super::wakes::Awaits;
use crate::agent::Residence;
use crate::id::{AgentId, TenantId};
use crate::key::AgentKey;
use crate::log::record::Identity;
use crate::log::wire::Reader;
use crate::log::{Kind, Place, Record, RecordError};
use std::rc::Rc;

/// What the beginning of a record says of its agent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heading {
    /// Tenant and key: in a whole record, a fork, a stub.
    pub owner: Option<(TenantId, AgentKey)>,
    /// Whose branch it is made as, in a fork.
    pub from: Option<AgentId>,
    /// What the agent awaits, in a record of a chain or a stub.
    pub awaits: Awaits,
    /// The chain that a stub holds.
    pub places: Vec<Place>,
}

impl Record<'_> {
    /// What its beginning says; empty for a kind that says nothing. The first piece of a record
    /// that is longer than one may be is enough.
    pub fn heading(&self) -> Result<Heading, RecordError> {
        let mut reader = Reader::new(self.body);
        let mut heading = Heading::default();
        if self.kind == Kind::Split {
            read_page_count(&mut reader)?;
        }
        if self.kind.is_whole() || matches!(self.kind, Kind::Fork | Kind::Stub) {
            let Identity { tenant, key, .. } = Identity::read(&mut reader)?;
            if key.id(tenant) != self.id {
                return Err(RecordError::BadKey);
            }
            heading.owner = Some((tenant, key));
        }
        match self.kind {
            Kind::Whole | Kind::Split | Kind::Change | Kind::Fork => {
                if self.kind == Kind::Fork {
                    heading.from = Some(read_origin(&mut reader)?.0);
                }
                heading.awaits = Awaits::read(&mut reader)?;
            }
            Kind::Stub => {
                let chain = read_stub(&mut reader)?;
                heading.awaits = chain.awaits;
                heading.places = Rc::unwrap_or_clone(chain.places);
            }
            _ => {}
        }
        Ok(heading)
    }
}

/// How many records of pages come before a split record.
pub(super) fn read_page_count(reader: &mut Reader<'_>) -> Result<u32, RecordError> {
    reader.small("its records of pages")
}

/// What a stub says after its identity.
pub(super) fn read_stub(reader: &mut Reader<'_>) -> Result<Chain, RecordError> {
    let awaits = Awaits::read(reader)?;
    let whole_bytes = reader.number()?;
    let change_bytes = reader.number()?;
    let mut places = Vec::new();
    for _ in 0..reader.count()? {
        places.push(Place {
            segment: reader.small("a segment")?,
            offset: reader.small("an offset")?,
            len_bytes: reader.small("a length")?,
        });
    }
    // Not in those of formats 1 and 2.
    let page_count = if reader.is_empty() { 0 } else { read_page_count(reader)? };
    if page_count as usize >= places.len().max(1) {
        return Err(RecordError::BadField {
            what: "its records of pages",
            value: page_count.into(),
        });
    }
    let places = Rc::new(places);
    Ok(Chain { places, page_count, whole_bytes, change_bytes, awaits, flush: 0 })
}

/// An agent's chain.
#[derive(Clone, Debug)]
pub struct ChainView<'a> {
    /// Whose.
    pub id: AgentId,
    /// Under whom it lives.
    pub tenant: TenantId,
    /// Its key.
    pub key: &'a AgentKey,
    /// Its records, oldest first.
    pub places: &'a [Place],
}

impl Partition {
    /// All chains there are, in no order that means something.
    pub fn chains(&self) -> impl Iterator<Item = ChainView<'_>> {
        self.agents.iter().filter_map(|(_, agent)| {
            let chain = agent.logged.as_deref()?;
            let (id, tenant, key) = (agent.id, agent.tenant, &agent.key);
            Some(ChainView { id, tenant, key, places: &chain.places })
        })
    }

    /// Places of an agent's records, oldest first.
    pub fn chain_places(&self, id: AgentId) -> Option<&[Place]> {
        let slot = self.agents.find(id)?;
        Some(&self.agents[slot].logged.as_deref()?.places)
    }

    /// Takes over an agent that another partition has found in its log, and whose records have been
    /// copied to `places`. Panics when it is not there, or is here already.
    pub fn take_over(
        &mut self,
        recovery: &mut Recovery,
        from: &Partition,
        id: AgentId,
        places: Vec<Place>,
    ) {
        let there = from.agents.find(id).expect("U1: it was found in a log");
        let old = from.agents[there].logged.as_deref().expect("U1: it was found in a log");
        let chain = Chain { places: Rc::new(places), flush: 0, ..*old };
        let identity = from.identity(there);
        recovery.note_parent(id, identity.parent);
        let slot = self.insert_cold(id, identity);
        self.set_chain(slot, chain);
    }

    /// Makes the first `count` records an agent's chain, of which the last says `awaits`; with 0
    /// there is no such agent any more. For a recovery that has not ended: the agent is in the log
    /// only, and has no branches yet. Panics when it is not there or has fewer records, or when its
    /// whole record would not be kept (U1).
    pub fn cut_chain(&mut self, id: AgentId, count: usize, awaits: Awaits) {
        let slot = self.agents.find(id).expect("U1: a chain is cut that is there");
        assert!(self.agents[slot].residence == Residence::Cold, "U1: it is in memory");
        if count == 0 {
            return self.remove_cold(slot);
        }
        let old = self.agents[slot].logged.as_deref().expect("U1: what is cold is in the log");
        let places = old.places[..count].to_vec();
        let (whole_bytes, page_count) = (old.whole_bytes, old.page_count);
        let bytes: u64 = places.iter().map(|place| u64::from(place.len_bytes)).sum();
        let change_bytes = bytes.checked_sub(whole_bytes).expect("U1: its whole record is kept");
        let places = Rc::new(places);
        let chain = Chain { places, page_count, whole_bytes, change_bytes, awaits, flush: 0 };
        self.set_chain(slot, chain);
    }
}
