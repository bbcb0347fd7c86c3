//! The journal: which agents have changed since the log last heard of them, and what waits for it.
//!
//! Owns: the list of changed agents, flushes, events held back until what they rest on is on disk,
//! where agents' chains lie.  Not: bytes (`record.rs`), writes and syncs (`shards`).
//! J1  an agent is in the list before it changes; what it was then is what its record tells from.
//! J2  an event that rests on changes leaves when every change made before it is on disk; such
//!     events leave in order.
//! J3  a flush covers every change made before it was made whole, and no later one: what a crash
//!     leaves is the partition as it was at one moment.
//! J4  a segment's count of live bytes is that of the records in agents' chains, those in memory
//!     and those that a crash would bring back.

mod flushes;

use super::Partition;
use super::wakes::Awaits;
use crate::agent::{Agent, State};
use crate::behaviour::{RequestId, Restored};
use crate::id::{AgentId, CallId, Nanos};
use crate::image::Image;
use crate::log::{Kind, Place, RECORD_BYTES_MAX};
use crate::page::PageStore;
use crate::slots::NIL;
use crate::verb::{Ack, Event, Origin};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// What the log has of an agent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    /// Its records, oldest first. Shared with the agent that it was forked from.
    pub(crate) places: Rc<Vec<Place>>,
    /// How many of the first hold pages only, which can be read alone.
    pub(crate) page_count: u32,
    /// Bytes of the whole record that it begins with.
    pub(crate) whole_bytes: u64,
    /// Bytes of the changes after it.
    pub(crate) change_bytes: u64,
    /// What the agent awaits.
    pub(crate) awaits: Awaits,
    /// The flush that its last record was in.
    pub(crate) flush: u64,
}

impl Chain {
    /// Records of changes, after those of the whole record: a large one is in many.
    pub(crate) fn change_record_count(&self) -> usize {
        let apart_bytes: u64 = self.pages().iter().map(|place| u64::from(place.len_bytes)).sum();
        let rest_bytes = self.whole_bytes.saturating_sub(apart_bytes) as usize;
        let whole_count = rest_bytes / RECORD_BYTES_MAX + 1;
        self.rest().len().saturating_sub(whole_count)
    }

    /// Its records of pages.
    pub(crate) fn pages(&self) -> &[Place] {
        &self.places[..self.page_count as usize]
    }

    /// The records after them, without which there is no agent.
    pub(crate) fn rest(&self) -> &[Place] {
        &self.places[self.page_count as usize..]
    }
}

/// An agent as it was when it came into the list (J1).
pub(super) struct Before {
    pub(super) image: Image,
    pub(super) head: u64,
    /// Kept versions, and whether each was a checkpoint.
    pub(super) versions: Vec<(u64, bool)>,
    pub(super) labels: Vec<(Box<[u8]>, u64)>,
    pub(super) calls: Vec<CallId>,
    pub(super) held: Vec<RequestId>,
    pub(super) dedupe_next: u64,
    pub(super) turn_count: u64,
    pub(super) state: State,
    pub(super) restored: Option<Restored>,
    pub(super) suffix_last: u32,
}

/// Which version a branch is of, and when it was made.
#[derive(Clone, Copy)]
pub(super) struct From {
    pub(super) parent: AgentId,
    pub(super) version: u64,
    pub(super) at: Nanos,
}

/// Records that belong to one that comes after them, oldest first.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) places: Vec<Place>,
    /// How many of the first hold pages.
    pub(super) page_count: u32,
}

impl Parts {
    pub(super) fn push(&mut self, kind: Kind, place: Place) {
        self.places.push(place);
        self.page_count += u32::from(kind == Kind::Pages);
    }
}

/// What the log knows of an agent in the list.
pub(super) enum Known {
    Nothing,
    /// It is a branch, and as it was when it was made.
    Branch(From, Before),
    Earlier(Before),
}

/// An agent in the list; the slot is [`NIL`] when it has ended.
pub(super) struct Dirty {
    pub(super) slot: u32,
    pub(super) known: Known,
}

/// A record that a flush has made, in the order of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    /// Whose.
    pub id: AgentId,
    /// What it is.
    pub kind: Kind,
    /// Bytes of it.
    pub len_bytes: usize,
    /// Whose branch, for a fork.
    pub(super) parent: Option<AgentId>,
}

/// What a flush has made so far, for the log.
#[derive(Debug, Default)]
pub struct Flush {
    /// The records, one after the other.
    pub bytes: Vec<u8>,
    /// What they are.
    pub made: Vec<Made>,
}

impl Flush {
    /// Empties it and keeps its room.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.made.clear();
    }
}

/// Records of chains in one segment (J4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Live {
    /// Their bytes.
    pub bytes: u64,
    /// Their number.
    pub count: u64,
    /// How often a chain comes into the segment: about as many agents have records in it.
    pub chains: u64,
}

/// The list of one partition.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) on: bool,
    /// Changed agents, in the order in which they first did.
    list: VecDeque<Dirty>,
    /// Entries that have left the list: where its indices begin.
    popped: u64,
    /// Whether a flush has begun that is not made whole.
    making: bool,
    /// Agents that ended, and branches that lost their parent, which the log knows.
    ended: Vec<AgentId>,
    orphans: Vec<AgentId>,
    /// Records that no chain needs any more once a flush is on disk.
    unneeded: VecDeque<(u64, Rc<Vec<Place>>)>,
    begun: u64,
    durable: u64,
    held: VecDeque<(u64, Event)>,
    /// Parts of a record whose rest has no place yet.
    parts: Parts,
    segments: BTreeMap<u32, Live>,
    /// Where the index stands that is being written: the next slot, and whether it has begun.
    pub(super) index_at: Option<u32>,
}

impl Before {
    pub(super) fn of(agent: &Agent, store: &mut PageStore) -> Before {
        let rare = agent.rare.as_deref();
        let versions = agent.versions.sealed();
        Before {
            head: agent.versions.head().0,
            versions: versions.iter().map(|version| (version.id, version.checkpoint)).collect(),
            labels: agent.versions.labels().map(|(name, id)| (name.into(), id)).collect(),
            calls: agent.all_calls().collect(),
            held: rare.map_or_else(Vec::new, |rare| rare.held.clone()),
            dedupe_next: rare.map_or(0, |rare| rare.dedupe.number_next()),
            turn_count: agent.turn_count,
            state: agent.state(),
            restored: agent.restored(),
            suffix_last: agent.kin.suffix_last,
            image: agent.versions.head_image().share(store),
        }
    }
}

impl Known {
    pub(super) fn release(self, store: &mut PageStore) {
        match self {
            Known::Nothing => {}
            Known::Branch(_, before) | Known::Earlier(before) => before.image.release(store),
        }
    }
}

impl Journal {
    /// Empty, and with `on` false always so.
    pub(super) fn new(on: bool) -> Journal {
        Journal { on, ..Journal::default() }
    }

    /// Adds an entry; its index, which is never 0.
    pub(super) fn push(&mut self, dirty: Dirty) -> u64 {
        self.list.push_back(dirty);
        self.popped + self.list.len() as u64
    }

    pub(super) fn entry(&mut self, idx: u64) -> &mut Dirty {
        &mut self.list[(idx - self.popped - 1) as usize]
    }

    /// The flush's next entry.
    pub(super) fn pop(&mut self) -> Option<Dirty> {
        let next = self.list.pop_front()?;
        self.popped += 1;
        Some(next)
    }

    /// Whether something is not in the log yet.
    pub(super) fn is_behind(&self) -> bool {
        self.begun > self.durable || self.is_dirty()
    }

    /// Whether a flush is on disk.
    pub(super) fn is_durable(&self, flush: u64) -> bool {
        flush <= self.durable
    }

    pub(super) fn is_dirty(&self) -> bool {
        !(self.list.is_empty() && self.ended.is_empty() && self.orphans.is_empty())
    }

    pub(super) fn list(&self) -> impl Iterator<Item = &Dirty> {
        self.list.iter()
    }

    /// Begins a flush of all that has changed, unless one has begun that is not written whole.
    pub(super) fn begin(&mut self) {
        self.begun += u64::from(!std::mem::replace(&mut self.making, true));
    }

    /// Ends the flush, of which only these ends and orphans are left.
    pub(super) fn finish(&mut self) -> (Vec<AgentId>, Vec<AgentId>) {
        self.making = false;
        (std::mem::take(&mut self.ended), std::mem::take(&mut self.orphans))
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    /// The flush after which all that has changed until now is on disk.
    fn target(&self) -> u64 {
        let target = self.begun + u64::from(self.is_dirty() && !self.making);
        self.held.back().map_or(target, |(last, _)| target.max(*last))
    }

    /// Whether an event waits for a flush that has not begun.
    fn is_awaited(&self) -> bool {
        self.held.back().is_some_and(|(target, _)| *target > self.begun)
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.held.len()
    }

    /// Images that it holds.
    pub(super) fn images(&self) -> impl Iterator<Item = &Image> {
        self.list.iter().filter_map(|dirty| match &dirty.known {
            Known::Nothing => None,
            Known::Branch(_, before) | Known::Earlier(before) => Some(&before.image),
        })
    }

    /// Counts the records of a chain from its record `from` on.
    fn add_live(&mut self, chain: &[Place], from: usize) {
        let mut before = from.checked_sub(1).map(|at| chain[at].segment);
        for place in &chain[from..] {
            let live = self.segments.entry(place.segment).or_default();
            live.bytes += u64::from(place.len_bytes);
            live.count += 1;
            live.chains += u64::from(before != Some(place.segment));
            before = Some(place.segment);
        }
    }

    /// Counts records out once flush `flush` is on disk: until then a crash brings back chains that
    /// have them.
    fn drop_live_after(&mut self, flush: u64, places: Rc<Vec<Place>>) {
        if flush <= self.durable {
            self.drop_live(&places);
        } else {
            self.unneeded.push_back((flush, places));
        }
    }

    pub(super) fn drop_live(&mut self, chain: &[Place]) {
        let mut before = None;
        for place in chain {
            let live = self.segments.get_mut(&place.segment).expect("J4: its records are counted");
            live.bytes -= u64::from(place.len_bytes);
            live.count -= 1;
            live.chains -= u64::from(before != Some(place.segment));
            before = Some(place.segment);
            if live.count == 0 {
                self.segments.remove(&place.segment);
            }
        }
    }

    /// Checks J4 against all chains.
    pub(super) fn check_segments<'a>(&self, chains: impl Iterator<Item = &'a Chain>) {
        let mut other = Journal::default();
        chains.for_each(|chain| other.add_live(&chain.places, 0));
        self.unneeded.iter().for_each(|(_, places)| other.add_live(places, 0));
        assert_eq!(self.segments, other.segments, "J4: live records");
    }

    pub(super) fn segments(&self) -> &BTreeMap<u32, Live> {
        &self.segments
    }
}

impl Partition {
    /// Notes that an agent is about to change (J1). Cost: a share of its image and a short list,
    /// once between two flushes.
    #[inline]
    pub(super) fn touch(&mut self, slot: u32) {
        if self.journal.on && self.agents[slot].dirty == 0 {
            self.touch_clean(slot);
        }
    }

    fn touch_clean(&mut self, slot: u32) {
        let agent = &mut self.agents[slot];
        assert!(!agent.residence.is_cold(), "J1: {} changes while it is cold", agent.key);
        let known = match &agent.logged {
            None => Known::Nothing,
            Some(_) => Known::Earlier(Before::of(agent, &mut self.store)),
        };
        agent.dirty = self.journal.push(Dirty { slot, known });
    }

    /// As [`Partition::touch`], for a new branch.
    pub(super) fn touch_branch(&mut self, slot: u32, from: From) {
        if self.journal.on {
            let agent = &mut self.agents[slot];
            let known = Known::Branch(from, Before::of(agent, &mut self.store));
            agent.dirty = self.journal.push(Dirty { slot, known });
        }
    }

    /// Notes that an agent, which is still there, ends.
    pub(super) fn forget_changes(&mut self, slot: u32) {
        let agent = &mut self.agents[slot];
        let (id, idx) = (agent.id, std::mem::take(&mut agent.dirty));
        if idx != 0 {
            let entry = self.journal.entry(idx);
            let gone = Dirty { slot: NIL, known: Known::Nothing };
            std::mem::replace(entry, gone).known.release(&mut self.store);
        }
        if let Some(chain) = self.agents[slot].logged.take() {
            let flush = self.journal.begun + u64::from(!self.journal.making);
            self.journal.drop_live_after(flush, chain.places);
            self.journal.ended.push(id);
        }
    }

    /// Notes that a branch has no parent any more.
    pub(super) fn note_orphan(&mut self, slot: u32) {
        let agent = &self.agents[slot];
        if self.journal.on && agent.logged.is_some() {
            self.journal.orphans.push(agent.id);
        }
    }

    /// Lets an event out once all that has changed until now is on disk (J2).
    pub(super) fn gate(&mut self, event: Event) {
        if !self.journal.on {
            return self.events.push(event);
        }
        let target = self.journal.target();
        if target <= self.journal.durable && self.journal.held.is_empty() {
            self.events.push(event);
        } else {
            self.journal.held.push_back((target, event));
        }
    }

    /// Whether an answer to this origin waits for the disk.
    pub(super) fn waits(&self, origin: Origin) -> bool {
        self.journal.on
            && match origin {
                Origin::Connection { ack, .. } | Origin::Peer { ack, .. } => ack == Ack::Durable,
                Origin::Agent { .. } => true,
                Origin::Nobody => false,
            }
    }
}
