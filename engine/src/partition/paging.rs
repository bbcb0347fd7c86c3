//! Paging: agents come back from the log without most of their pages, which follow when needed.
//!
//! Owns: which pages an agent's next request needs, asking for them, giving them to its images.
//! Not: which pages are in records of their own (`apart.rs`), the rest of a chain (`replay.rs`).
//! An agent is *partly* in memory while some of its pages are away (P9 of `page/leaves.rs`).
//! O1  whoever is partly in memory serves only what does without the pages that are away; anything
//!     else waits until they are here. It takes no part in a fork, a commit, an export.
//! O2  away pages are in records of the agent's own chain: it is written whole only when none is.
//! O3  a turn that comes upon an away page leaves nothing behind, and is taken again with it.

use super::Partition;
use super::journal::Chain;
use super::replay::LoadError;
use super::verbs::Requests;
use super::wakes::{NO_ROOM_PAUSE, UNREADABLE_PAUSE};
use crate::agent::{Agent, Residence};
use crate::id::{AgentId, Nanos};
use crate::image::pages_of;
use crate::log::wire::Reader;
use crate::log::{Kind, Place, Record, RecordError};
use crate::mailbox::{Item, Waiting, runs_turn};
use crate::page::Need;
use crate::verb::{Event, Verb};
use std::ops::RangeInclusive;
use std::rc::Rc;

/// All pages that an image can have.
const ALL: RangeInclusive<u32> = 0..=u32::MAX;

/// Records of one agent that are on their way.
pub(super) struct Arrival {
    /// Where they lie, as they were asked for.
    pub(super) places: Rc<Vec<Place>>,
    /// Whether they are the agent, or all its pages that were away.
    pub(super) all: bool,
}

/// What a request needs of an agent's pages.
enum Needs {
    /// None, or those that its turn turns out to need.
    Some,
    /// These.
    These(RangeInclusive<u32>),
    All,
}

impl Partition {
    /// Asks for records of an agent, which waits for them.
    pub(super) fn ask_for(&mut self, agent: AgentId, places: Rc<Vec<Place>>, all: bool) {
        self.arrivals.insert(agent, Arrival { places: Rc::clone(&places), all });
        self.events.push(Event::Load { agent, places });
    }

    /// Has an agent that is partly in memory wait for these pages; it leaves the run queue.
    fn page_in(&mut self, slot: u32, mut places: Vec<Place>, all: bool) {
        places.sort_unstable();
        places.dedup();
        self.queue.remove(&mut self.agents, slot);
        self.agents[slot].residence = Residence::Paging;
        self.ask_for(self.agents[slot].id, Rc::new(places), all);
    }

    /// Has an agent wait for all its pages, unless they are here or it waits already.
    pub(super) fn page_in_all(&mut self, slot: u32) {
        if self.agents[slot].residence != Residence::Warm || !self.agents[slot].partly {
            return;
        }
        let places = self.away(slot);
        if places.is_empty() {
            self.agents[slot].partly = false;
        } else {
            self.page_in(slot, places, true);
        }
    }

    /// Whether pages of an agent are away.
    pub(super) fn has_away(&self, slot: u32) -> bool {
        self.agents[slot].images().any(|image| image.has_away(&self.store))
    }

    /// Records of all pages of an agent that are away.
    fn away(&self, slot: u32) -> Vec<Place> {
        let mut places = Vec::new();
        for image in self.agents[slot].images() {
            image.away_in(&self.store, ALL, &mut places);
        }
        places
    }

    /// Before an agent that is partly in memory serves its next item: whether it must wait (O1).
    pub(super) fn waits_for_pages(&mut self, slot: u32) -> bool {
        match self.needs(slot) {
            Needs::Some => {}
            Needs::All => self.page_in_all(slot),
            Needs::These(pages) => {
                let mut places = Vec::new();
                self.agents[slot].image.away_in(&self.store, pages, &mut places);
                if !places.is_empty() {
                    self.page_in(slot, places, false);
                }
            }
        }
        self.agents[slot].residence == Residence::Paging
    }

    /// What an agent's next item needs.
    fn needs(&self, slot: u32) -> Needs {
        let agent = &self.agents[slot];
        match agent.mailbox.first(&self.mail) {
            Some(Item::Request(waiting)) if !agent.rewrite && !agent.is_paused() => {
                self.needs_of(agent, &waiting.verb)
            }
            _ => Needs::All,
        }
    }

    fn needs_of(&self, agent: &Agent, verb: &Verb) -> Needs {
        match verb {
            Verb::Read { len_bytes: 0, .. } => Needs::Some,
            Verb::Read { offset, len_bytes } => {
                Needs::These(pages_of(*offset, u64::from(*len_bytes)))
            }
            Verb::Write { bytes, .. } if bytes.is_empty() => Needs::Some,
            Verb::Write { offset, bytes } => Needs::These(pages_of(*offset, bytes.len() as u64)),
            Verb::Send { .. } if self.templates.behaviour(agent.template).reads_by_page() => {
                Needs::Some
            }
            Verb::Create { .. }
            | Verb::Import { .. }
            | Verb::Versions
            | Verb::Info
            | Verb::Checkpoint { .. }
            | Verb::Rollback { .. }
            | Verb::Suspend
            | Verb::Resume
            | Verb::Terminate => Needs::Some,
            _ => Needs::All,
        }
    }

    /// Whether a request to a held agent, which is served at once, needs pages that are away.
    pub(super) fn needs_pages(&self, slot: u32, verb: &Verb) -> bool {
        let agent = &self.agents[slot];
        agent.partly && !matches!(self.needs_of(agent, verb), Needs::Some) && self.has_away(slot)
    }

    /// Whether what waits for a held agent and is served all the same needs pages that are away.
    pub(super) fn held_mail_needs_pages(&self, slot: u32) -> bool {
        self.agents[slot].mailbox.items(&self.mail).any(|item| match item {
            Item::Request(waiting) if !runs_turn(&waiting.verb) => {
                self.needs_pages(slot, &waiting.verb)
            }
            _ => false,
        })
    }

    /// Whether the item that an agent serves next changes nothing of it.
    pub(super) fn only_looks(&self, slot: u32) -> bool {
        let agent = &self.agents[slot];
        match agent.mailbox.first(&self.mail) {
            Some(Item::Request(waiting)) if !agent.is_paused() => {
                matches!(waiting.verb, Verb::Read { .. } | Verb::Info | Verb::Versions)
            }
            _ => false,
        }
    }

    /// A message that is next, to take its turn again where that comes upon an away page (O3).
    pub(super) fn copy_of_message(&self, slot: u32) -> Option<Waiting> {
        match self.agents[slot].mailbox.first(&self.mail)? {
            Item::Request(waiting) if matches!(waiting.verb, Verb::Send { .. }) => {
                Some(waiting.clone())
            }
            _ => None,
        }
    }

    /// After a turn: if it came upon away pages, its agent waits for them, and takes it again (O3).
    pub(super) fn takes_again(&mut self, slot: u32, item: Option<Waiting>) -> bool {
        let missed = std::mem::take(&mut self.draft.missed);
        let Some(waiting) = item.filter(|_| !missed.is_empty()) else { return false };
        self.agents[slot].mailbox.push_first(&mut self.mail, Item::Request(waiting));
        self.page_in(slot, missed, false);
        true
    }

    /// Takes in records of pages that an agent waits for.
    pub(super) fn take_pages(
        &mut self,
        now: Nanos,
        slot: u32,
        arrival: &Arrival,
        records: Result<Vec<Vec<u8>>, i32>,
    ) {
        let filled = records.map_err(|errno| LoadError::Read { errno }).and_then(|records| {
            self.in_room(now, LoadError::is_full, |this| this.fill(slot, arrival, &records))
        });
        self.agents[slot].residence = Residence::Warm;
        match filled {
            Ok(()) => {
                self.counters.pagings += 1;
                self.after_load(now, slot);
            }
            Err(error) if error.is_full() && self.may_load_later(now, self.agents[slot].id) => {
                self.page_again(now.after(NO_ROOM_PAUSE), slot);
            }
            // What it was to be written whole for may be had without all of its pages.
            Err(_) if std::mem::take(&mut self.agents[slot].rewrite) => self.after_load(now, slot),
            Err(error) => self.refuse_pages(now, slot, &error),
        }
    }

    /// Fills pages of the present; of older versions, too, where all of them have come.
    fn fill(&mut self, slot: u32, arrival: &Arrival, records: &[Vec<u8>]) -> Result<(), LoadError> {
        let Arrival { places, all } = arrival;
        let (mut bodies, mut frames) = (Vec::with_capacity(records.len()), 0);
        for (at, bytes) in records.iter().enumerate() {
            let wrong = |source| LoadError::Record { at, source };
            let body = read_pages(bytes).map_err(wrong)?;
            bodies.push(body);
            frames += Reader::new(body).count().map_err(wrong)? as u32;
            // Before any has its page: one that does not fit would keep others out.
            let ensured = self.store.ensure(Need { frames, nodes: 0 });
            ensured.map_err(|full| wrong(full.into()))?;
        }
        for (at, (place, body)) in places.iter().zip(bodies).enumerate() {
            let wrong = |source| LoadError::Record { at, source };
            let agent = &self.agents[slot];
            agent.image.fill_from(&mut self.store, *place, body).map_err(wrong)?;
            for image in agent.versions.images().filter(|_| *all) {
                image.fill_from(&mut self.store, *place, body).map_err(wrong)?;
            }
        }
        Ok(())
    }

    /// Refuses what waits for pages that cannot be had. What others have answered waits on, unless
    /// the pages are damaged.
    fn refuse_pages(&mut self, now: Nanos, slot: u32, error: &LoadError) {
        let id = self.agents[slot].id;
        let refusal = self.load_refusal(slot, error);
        if error.is_damage() {
            self.touch(slot);
            self.drop_calls(slot, "cannot be read", Requests::Drop);
        }
        if self.refuse_waiting(slot, &refusal, error.is_damage()) {
            self.page_again(now.after(UNREADABLE_PAUSE), slot);
        }
        self.resume_commits(now, id, Some(&refusal));
    }

    /// Has an agent wait, and ask for its pages again at this time.
    fn page_again(&mut self, at: Nanos, slot: u32) {
        self.queue.remove(&mut self.agents, slot);
        self.agents[slot].residence = Residence::Paging;
        self.wake_at(at, slot);
    }

    /// Has an agent that waits, and has not asked for pages, go on.
    pub(super) fn page_now(&mut self, now: Nanos, slot: u32) {
        let agent = &mut self.agents[slot];
        if !self.arrivals.contains_key(&agent.id) {
            agent.residence = Residence::Warm;
            self.after_load(now, slot);
        }
    }
}

/// For tests.
impl Partition {
    /// Checks O1 and O2 for one agent.
    pub(super) fn check_away(&self, slot: u32, agent: &Agent) {
        let places = self.away(slot);
        let known = agent.logged.as_deref().map_or(&[][..], Chain::pages);
        let mine = places.iter().all(|place| known.binary_search(place).is_ok());
        assert!(mine, "O2: {} has pages of another chain", agent.key);
        assert!(places.is_empty() || agent.partly, "O1: {} misses pages", agent.key);
        let waits = agent.residence != Residence::Paging || agent.partly;
        assert!(waits, "O1: {} waits for nothing", agent.key);
    }
}

/// What a record of pages holds, in its bytes.
pub(super) fn read_pages(bytes: &[u8]) -> Result<&[u8], RecordError> {
    let record = Record::read(bytes)?;
    if record.kind != Kind::Pages {
        return Err(RecordError::BadField { what: "its kind", value: record.kind as u64 });
    }
    Ok(record.body)
}
