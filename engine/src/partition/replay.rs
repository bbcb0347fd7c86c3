//! Replay: agents made again from their records.
//!
//! Owns: what is noted of chains at a start, and bringing an agent back when it is wanted.
//! Not: reading files (`shards`), what is in the records of a chain (`chain.rs`).
//! L1  a chain that is read gives the agent as it was when its last record was made.
//! L2  one that does not leaves the agent as it was: in the log only, and said to be unreadable.
//! L3  what an agent was waiting for goes on: sleeps end at their time, messages are sent again
//!     under their old ids, HTTP requests with their old keys.

use super::Partition;
use super::calls::{Held, OpenRequest};
use super::chain::{Again, Replay, read_origin};
use super::journal::Chain;
use super::record::PAST;
use super::survey::read_stub;
use super::verbs::Requests;
use super::wakes::{Awaits, NO_ROOM_PAUSE, UNREADABLE_PAUSE};
use crate::agent::{Agent, Birth, Rare, Residence};
use crate::behaviour::RequestId;
use crate::id::{AgentId, CallId, Nanos};
use crate::image::Image;
use crate::log::record::Identity;
use crate::log::wire::Reader;
use crate::log::{Kind, Place, Record, RecordError};
use crate::mailbox::Item;
use crate::refusal::Refusal;
use crate::verb::Event;
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
        /// Place in the chain, from 0.
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
    fn is_full(&self) -> bool {
        matches!(self, LoadError::Record { source: RecordError::Full(_), .. })
    }
}

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
    parts: BTreeMap<AgentId, Vec<Place>>,
    parents: BTreeMap<AgentId, AgentId>,
    indexing: bool,
}

impl Recovery {
    /// Forgets parts of a record of which the rest does not come: where a life of the shard ends,
    /// and where batches are missing.
    pub fn forget_parts(&mut self) {
        self.parts.clear();
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
        let mut places = match record.kind {
            Kind::Part => {
                recovery.parts.entry(id).or_default().push(place);
                return Ok(());
            }
            _ => recovery.parts.remove(&id).unwrap_or_default(),
        };
        places.push(place);
        match record.kind {
            Kind::Whole | Kind::Fork => {
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
                    None => self.insert_cold(identity),
                };
                self.extend_chain(slot, record.kind, from, &places, awaits);
            }
            Kind::Change => {
                // One that the index has not come to is in its chain when it does.
                let Some(slot) = self.agents.find(id) else {
                    return if recovery.indexing { Ok(()) } else { Err(RecordError::NoBase(id)) };
                };
                let awaits = Awaits::read(&mut reader)?;
                self.extend_chain(slot, Kind::Change, None, &places, awaits);
            }
            Kind::End => {
                if let Some(slot) = self.agents.find(id) {
                    self.remove_cold(slot);
                }
                recovery.parents.remove(&id);
            }
            Kind::Orphan => _ = recovery.parents.remove(&id),
            Kind::Stub => self.recover_stub(recovery, &mut reader)?,
            Kind::IndexBegin => recovery.indexing = true,
            Kind::IndexEnd => recovery.indexing = false,
            Kind::Part => {}
        }
        Ok(())
    }

    fn recover_stub(
        &mut self,
        recovery: &mut Recovery,
        reader: &mut Reader<'_>,
    ) -> Result<(), RecordError> {
        let identity = Identity::read(reader)?;
        let id = identity.key.id(identity.tenant);
        recovery.note_parent(id, identity.parent);
        let chain = read_stub(reader)?;
        let slot = match self.agents.find(id) {
            Some(slot) => slot,
            None => self.insert_cold(identity),
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

    pub(super) fn insert_cold(&mut self, identity: Identity) -> u32 {
        let Identity { tenant, key, .. } = identity;
        let id = key.id(tenant);
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
        let places = Rc::clone(&chain.places);
        self.events.push(Event::Load { agent: agent.id, places });
    }

    /// Takes in what an [`Event::Load`] asked for: the bytes of each record, in order. The agent
    /// serves what has waited for it, or, when the bytes are of no use, refuses it (L2).
    pub fn loaded(
        &mut self,
        now: Nanos,
        id: AgentId,
        places: &Rc<Vec<Place>>,
        records: Result<&[Vec<u8>], i32>,
    ) {
        let Some(slot) = self.agents.find(id) else { return };
        let agent = &self.agents[slot];
        // It may have ended meanwhile, and another of its key may be here.
        let same = |chain: &Chain| Rc::ptr_eq(&chain.places, places);
        if agent.residence != Residence::Loading || !agent.logged.as_deref().is_some_and(same) {
            return;
        }
        if !self.has_room_to_load(now) {
            // All that waits for it waits on.
            return self.load_again(now, slot, NO_ROOM_PAUSE);
        }
        self.unlist_wake(slot);
        let records = records.map_err(|errno| LoadError::Read { errno });
        let replayed = records.and_then(|records| {
            self.in_room(now, LoadError::is_full, |this| this.replay(now, slot, records))
        });
        match replayed {
            Ok(()) => {
                self.crowded.remove(&id);
                self.counters.loads += 1;
                self.counters.cold -= 1;
                if self.agents[slot].state().is_held() {
                    self.settle_held(now, slot);
                }
                if self.agents.get(slot).is_some_and(|agent| agent.id == id) {
                    self.wake(slot);
                }
                self.resume_commits(now, id, None);
            }
            Err(error) if error.is_full() && self.may_load_later(now, id) => {
                self.load_again(now, slot, NO_ROOM_PAUSE);
            }
            Err(error) => {
                let refusal = self.refuse_load(now, slot, &error);
                self.resume_commits(now, id, Some(&refusal));
            }
        }
        self.publish();
    }

    fn refuse_load(&mut self, now: Nanos, slot: u32, error: &LoadError) -> Refusal {
        self.agents[slot].residence = Residence::Cold;
        let key = &self.agents[slot].key;
        let unreadable =
            Refusal::Unreadable { key: key.as_str().to_owned(), reason: error.to_string() };
        let refusal = match error {
            LoadError::Record { source: RecordError::Full(full), .. } => {
                self.refusal(slot, (*full).into())
            }
            // Where no number of the template is there, that says more.
            LoadError::NoTemplate { .. } => self.templates.find(key).err().unwrap_or(unreadable),
            _ => unreadable,
        };
        // What is damaged stays so; anything else may be well another time.
        let damaged = matches!(error, LoadError::Record { .. }) && !error.is_full();
        if damaged {
            self.drop_calls(slot, "cannot be read", Requests::Drop);
            self.agents[slot].rare = None;
        }
        let mut kept = Vec::new();
        while let Some(item) = self.agents[slot].mailbox.pop(&mut self.mail) {
            match item {
                Item::Request(waiting) => self.reply(waiting.origin, Err(refusal.clone())),
                Item::Returned { .. } | Item::Restored if damaged => {}
                Item::Returned { .. } | Item::Restored => kept.push(item),
            }
        }
        let agent = &self.agents[slot];
        let awaited = agent.rare.is_none() && self.logged_awaits(agent) != Awaits::Nothing;
        if !damaged && (awaited || !kept.is_empty()) {
            self.load_again(now, slot, UNREADABLE_PAUSE);
        }
        for item in kept {
            self.agents[slot].mailbox.push(&mut self.mail, item);
        }
        refusal
    }

    fn replay(&mut self, now: Nanos, slot: u32, records: &[Vec<u8>]) -> Result<(), LoadError> {
        let mut replay = Replay::default();
        if let Err(error) = self.read_chain(slot, records, &mut replay) {
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
        let rewrite = std::mem::take(&mut agent.rewrite);
        agent.used = !rewrite;
        agent.restore_state(replay.state);
        agent.turn_count = replay.turn_count;
        agent.failure_count = replay.failure_count;
        agent.kin.suffix_last = replay.suffix_last;
        agent.template = replay.template;
        self.resume_waits(now, slot, replay);
        if rewrite {
            self.write_whole(slot);
        }
        Ok(())
    }

    fn read_chain(
        &mut self,
        slot: u32,
        records: &[Vec<u8>],
        replay: &mut Replay,
    ) -> Result<(), LoadError> {
        let id = self.agents[slot].id;
        // Later parts of a long record, which come before the first.
        let mut parts: Vec<u8> = Vec::new();
        for (at, bytes) in records.iter().enumerate() {
            let wrong = |source| LoadError::Record { at, source };
            let record = Record::read(bytes).map_err(wrong)?;
            if record.kind == Kind::Part {
                parts.extend_from_slice(record.body);
                continue;
            }
            let joined = if parts.is_empty() { Vec::new() } else { [record.body, &parts].concat() };
            let body = if parts.is_empty() { record.body } else { &joined[..] };
            let mut reader = Reader::new(body);
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
            replay.take(&mut reader, &mut self.store, &under, dedupe_max).map_err(wrong)?;
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
