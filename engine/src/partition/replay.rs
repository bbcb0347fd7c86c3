//! Replay: agents made again from their records.
//!
//! Owns: bringing an agent back when it is wanted, whole or but for pages that can follow.
//! Not: reading files (`shards`), what is in the records of a chain (`chain.rs`), which chains
//! there are (`recovery.rs`), pages that follow (`paging.rs`).
//! L1  a chain that is read gives the agent as it was when its last record was made.
//! L2  one that does not leaves the agent as it was: in the log only, and said to be unreadable.
//! L3  what an agent was waiting for goes on: sleeps end at their time, messages are sent again
//!     under their old ids, HTTP requests with their old keys.

use super::Partition;
use super::calls::{Held, OpenRequest};
use super::chain::{Again, Replay};
use super::paging::read_pages;
use super::record::PAST;
use super::survey::read_page_count;
use super::verbs::Requests;
use super::wakes::{Awaits, NO_ROOM_PAUSE, UNREADABLE_PAUSE};
use crate::agent::{Rare, Residence};
use crate::behaviour::RequestId;
use crate::id::{AgentId, CallId, Nanos};
use crate::image::Pages;
use crate::log::record::Identity;
use crate::log::wire::Reader;
use crate::log::{Kind, Place, Record, RecordError};
use crate::mailbox::Item;
use crate::refusal::Refusal;
use crate::version::{Parts, VersionTree};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Why a chain did not give its agent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoadError {
    /// The disk did not give the bytes.
    #[error("the log cannot be read: error {errno}")]
    Read {
        /// As the kernel gave it.
        errno: i32,
    },
    /// The bytes are not what was written.
    #[error("record {at} of its chain: {source}")]
    Record {
        /// Its place, from 0, among those that were read.
        at: usize,
        /// What is wrong with it.
        source: RecordError,
    },
    /// Its template is not there.
    #[error("its template has no number {number} on this node")]
    NoTemplate {
        /// The number that it was made from.
        number: u32,
    },
}

impl LoadError {
    pub(super) fn is_full(&self) -> bool {
        matches!(self, LoadError::Record { source: RecordError::Full(_), .. })
    }

    /// Whether it will be so at any later time, too.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, LoadError::Record { .. }) && !self.is_full()
    }
}

/// Bringing agents back.
impl Partition {
    /// Asks for an agent's records, unless they are on their way.
    pub(super) fn load(&mut self, slot: u32) {
        let agent = &mut self.agents[slot];
        if agent.residence != Residence::Cold {
            return;
        }
        agent.residence = Residence::Loading;
        let chain = agent.logged.as_deref().expect("L1: what is cold is in the log");
        let places = match chain.page_count {
            0 => Rc::clone(&chain.places),
            _ if agent.rewrite => Rc::clone(&chain.places),
            _ => Rc::new(chain.rest().to_vec()),
        };
        let id = agent.id;
        self.ask_for(id, places, true);
    }

    /// Takes in what a [`crate::verb::Event::Load`] asked for: the bytes of each record, in order.
    /// The agent serves what has waited for it, or, when the bytes are of no use, refuses it (L2).
    pub fn loaded(
        &mut self,
        now: Nanos,
        id: AgentId,
        places: &Rc<Vec<Place>>,
        records: Result<Vec<Vec<u8>>, i32>,
    ) {
        // It may have ended meanwhile, and another of its key may be here.
        let mine = self.arrivals.get(&id).is_some_and(|of| Rc::ptr_eq(&of.places, places));
        let Some(arrival) = mine.then(|| self.arrivals.remove(&id)).flatten() else { return };
        let Some(slot) = self.agents.find(id) else { return };
        match self.agents[slot].residence {
            Residence::Loading => self.take_chain(now, slot, places, records),
            Residence::Paging => self.take_pages(now, slot, &arrival, records),
            Residence::Warm | Residence::Cold => {}
        }
        self.publish();
    }

    /// Takes in an agent's records, all of them or all but its pages.
    fn take_chain(
        &mut self,
        now: Nanos,
        slot: u32,
        places: &[Place],
        records: Result<Vec<Vec<u8>>, i32>,
    ) {
        if !self.has_room_to_load(now) {
            // All that waits for it waits on.
            return self.load_again(now, slot, NO_ROOM_PAUSE);
        }
        self.unlist_wake(slot);
        let records = records.map_err(|errno| LoadError::Read { errno });
        let replayed = records.and_then(|records| {
            self.in_room(now, LoadError::is_full, |this| this.replay(now, slot, places, &records))
        });
        let id = self.agents[slot].id;
        match replayed {
            Ok(()) => {
                self.counters.loads += 1;
                self.counters.cold -= 1;
                self.after_load(now, slot);
            }
            Err(error) if error.is_full() && self.may_load_later(now, id) => {
                self.load_again(now, slot, NO_ROOM_PAUSE);
            }
            // What it was to be written whole for may be had without all of its pages.
            Err(_) if std::mem::take(&mut self.agents[slot].rewrite) => {
                self.load_again(now, slot, Nanos(0));
            }
            Err(error) => {
                let refusal = self.refuse_load(now, slot, &error);
                self.resume_commits(now, id, Some(&refusal));
            }
        }
    }

    /// An agent, or pages of it, have come to memory: it goes on, or waits for more pages.
    pub(super) fn after_load(&mut self, now: Nanos, slot: u32) {
        let partly = self.agents[slot].partly && self.has_away(slot);
        let agent = &mut self.agents[slot];
        let id = agent.id;
        self.crowded.remove(&id);
        agent.partly = partly;
        if agent.partly && agent.rewrite {
            return self.page_in_all(slot);
        }
        if std::mem::take(&mut agent.rewrite) {
            self.write_whole(slot);
        }
        if self.agents[slot].state().is_held() {
            self.settle_held(now, slot);
        }
        if self.agents.get(slot).is_some_and(|agent| agent.id == id) {
            self.wake(slot);
        }
        self.resume_commits(now, id, None);
    }

    fn refuse_load(&mut self, now: Nanos, slot: u32, error: &LoadError) -> Refusal {
        self.agents[slot].residence = Residence::Cold;
        let refusal = self.load_refusal(slot, error);
        // What is damaged stays so; anything else may be well another time.
        let damaged = error.is_damage();
        if damaged {
            self.drop_calls(slot, "cannot be read", Requests::Drop);
            self.agents[slot].rare = None;
        }
        let kept = self.refuse_waiting(slot, &refusal, damaged);
        let agent = &self.agents[slot];
        let awaited = agent.rare.is_none() && self.logged_awaits(agent) != Awaits::Nothing;
        if !damaged && (awaited || kept) {
            self.load_again(now, slot, UNREADABLE_PAUSE);
        }
        refusal
    }

    /// What whoever waits for an agent that cannot be read is told.
    pub(super) fn load_refusal(&self, slot: u32, error: &LoadError) -> Refusal {
        let key = &self.agents[slot].key;
        let unreadable =
            Refusal::Unreadable { key: key.as_str().to_owned(), reason: error.to_string() };
        match error {
            LoadError::Record { source: RecordError::Full(full), .. } => {
                self.refusal(slot, (*full).into())
            }
            // Where no number of the template is there, that says more.
            LoadError::NoTemplate { .. } => self.templates.find(key).err().unwrap_or(unreadable),
            _ => unreadable,
        }
    }

    /// Refuses the requests that wait for an agent; whether anything else waits on. With `damaged`
    /// nothing does.
    pub(super) fn refuse_waiting(&mut self, slot: u32, refusal: &Refusal, damaged: bool) -> bool {
        let mut kept = Vec::new();
        while let Some(item) = self.agents[slot].mailbox.pop(&mut self.mail) {
            match item {
                Item::Request(waiting) => self.reply(waiting.origin, Err(refusal.clone())),
                Item::Returned { .. } | Item::Restored if damaged => {}
                Item::Returned { .. } | Item::Restored => kept.push(item),
            }
        }
        let some = !kept.is_empty();
        for item in kept {
            self.agents[slot].mailbox.push(&mut self.mail, item);
        }
        some
    }

    fn replay(
        &mut self,
        now: Nanos,
        slot: u32,
        places: &[Place],
        records: &[Vec<u8>],
    ) -> Result<(), LoadError> {
        let mut replay = Replay::default();
        if let Err(error) = self.read_chain(slot, places, records, &mut replay) {
            replay.release(&mut self.store);
            return Err(error);
        }
        let at = records.len().saturating_sub(1);
        self.put_in_place(now, slot, replay).map_err(|source| LoadError::Record { at, source })
    }

    /// Makes the agent in a slot what a replay has found.
    pub(super) fn put_in_place(
        &mut self,
        now: Nanos,
        slot: u32,
        mut replay: Replay,
    ) -> Result<(), RecordError> {
        let Replay { versions, head, next, labels, .. } = &mut replay;
        let parts = Parts {
            versions: std::mem::take(versions),
            head: *head,
            next: *next,
            labels: std::mem::take(labels),
        };
        let wrong = RecordError::NoVersion(parts.head);
        let versions = VersionTree::restore(parts, &mut self.store).ok_or(wrong)?;
        let image = versions.head_image().share(&mut self.store);
        let agent = &mut self.agents[slot];
        std::mem::replace(&mut agent.image, image).release(&mut self.store);
        std::mem::replace(&mut agent.versions, versions).release(&mut self.store);
        agent.residence = Residence::Warm;
        // Whether any is away is looked at when it has come.
        agent.partly = agent.logged.as_deref().is_some_and(|chain| chain.page_count > 0);
        agent.used = !agent.rewrite;
        agent.restore_state(replay.state);
        agent.turn_count = replay.turn_count;
        agent.failure_count = replay.failure_count;
        agent.kin.suffix_last = replay.suffix_last;
        agent.template = replay.template;
        self.resume_waits(now, slot, replay);
        Ok(())
    }

    /// Puts a chain together. Records of pages, where they are among these, come first.
    fn read_chain(
        &mut self,
        slot: u32,
        places: &[Place],
        records: &[Vec<u8>],
        replay: &mut Replay,
    ) -> Result<(), LoadError> {
        let agent = &self.agents[slot];
        let (id, chain) = (agent.id, agent.logged.as_deref());
        let chain = chain.expect("L1: what is cold is in the log").clone();
        let page_count = records.len().saturating_sub(chain.rest().len());
        let mut read = Vec::new();
        for (at, (place, bytes)) in places.iter().zip(records).take(page_count).enumerate() {
            let body = read_pages(bytes).map_err(|source| LoadError::Record { at, source })?;
            read.push((*place, body));
        }
        let pages = Pages { records: chain.pages(), read: &read };
        // Later parts of a long record, which come before the first.
        let mut parts: Vec<u8> = Vec::new();
        for (at, bytes) in records.iter().enumerate().skip(page_count) {
            let wrong = |source| LoadError::Record { at, source };
            let record = Record::read(bytes).map_err(wrong)?;
            if record.kind == Kind::Part {
                parts.extend_from_slice(record.body);
                continue;
            }
            let joined = if parts.is_empty() { Vec::new() } else { [record.body, &parts].concat() };
            let body = if parts.is_empty() { record.body } else { &joined[..] };
            let mut reader = Reader::new(body);
            if record.kind == Kind::Split {
                read_page_count(&mut reader).map_err(wrong)?;
            }
            if record.kind != Kind::Change {
                let identity = Identity::read(&mut reader).map_err(wrong)?;
                let number = identity.template_number;
                let found = self.templates.index(identity.key.template(), number);
                replay.template = found.ok_or(LoadError::NoTemplate { number })?;
                replay.begin(record.kind, &mut reader, &mut self.store).map_err(wrong)?;
            }
            let behaviour = self.templates.behaviour(replay.template);
            let under = |page| behaviour.base_page(page);
            let dedupe_max = self.config.dedupe_count_max();
            let taken = replay.take(&mut reader, &mut self.store, &under, pages, dedupe_max);
            taken.map_err(wrong)?;
            parts.clear();
            if at + 1 == records.len() && record.id != id {
                return Err(wrong(RecordError::NoBase(id)));
            }
        }
        Ok(())
    }

    /// Lets what the agent awaits go on (L3), unless that has stayed in memory.
    fn resume_waits(&mut self, now: Nanos, slot: u32, replay: Replay) {
        if self.agents[slot].rare.is_some() {
            return;
        }
        let Replay { restored, dedupe, requests, calls, held, .. } = replay;
        let plain = restored.is_none() && calls.is_empty() && held.is_empty();
        if plain && dedupe.is_empty() {
            return;
        }
        let count_max = self.config.dedupe_count_max();
        let id = self.agents[slot].id;
        *self.agents[slot].rare() = Rare { dedupe, restored, ..Rare::default() };
        let mut opened = BTreeMap::new();
        for (number, (answered, request_id)) in requests {
            if let Some(request_id) = &request_id {
                self.agents[slot].rare().dedupe.open(request_id, count_max);
            }
            let open = OpenRequest { origin: PAST, request_id, answered, call_count: 0 };
            opened.insert(number, self.calls.open_request(open));
        }
        for (call, again) in calls {
            self.call_numbers.pass(call);
            let call = CallId(call);
            let Again { request, deadline, asked, result } = again;
            let request = request.and_then(|number| opened.get(&number).copied());
            let rare = self.agents[slot].rare();
            match request {
                Some(request) => {
                    rare.calls.push(call);
                    self.calls.open(call, id, request, deadline, asked);
                }
                None => {
                    rare.sends.push(call);
                    self.calls.send(call, id, asked);
                }
            }
            match result {
                Some(result) => self.answer(now, id, call, result),
                None => self.ask_again(call),
            }
        }
        for (number, request_id) in held {
            self.request_numbers.pass(number);
            let rare = self.agents[slot].rare();
            if let Some(request_id) = &request_id {
                rare.dedupe.open(request_id, count_max);
            }
            rare.held.push(RequestId(number));
            self.calls.hold(RequestId(number), Held { agent: id, origin: PAST, request_id });
        }
        self.tell_restored(slot);
    }
}
