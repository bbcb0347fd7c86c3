//! Records of agents: what the log is told of one that has changed.
//!
//! Owns: the bytes of whole, change and fork records; `chain.rs` is their reader.  Not: when
//! (`journal.rs`), where they go (`shards`).
//!
//! A record's own bytes, all numbers as in `log/wire.rs`:
//!
//! | what        | as                                                                             |
//! |-------------|--------------------------------------------------------------------------------|
//! | pages       | split: how many records of pages are before it                                 |
//! | identity    | whole, split, fork: tenant, key, template number, parent                       |
//! | origin      | fork: id, version, time                                                        |
//! | awaits      | 0 nothing; 1 answers, so it is wanted at a start; 2 a time: which              |
//! | state       | 0 active, 1 suspended, 2 quarantined; turns; failures; last branch number      |
//! | restored    | 0 no, 1 forked: index, keep timers, call; 2 rolled back: version; 3 committed  |
//! | new versions| count; each: number, parent, time, checkpoint, base version or 0, delta        |
//! | checkpoints | count; numbers of versions that became checkpoints                             |
//! | dropped     | count; numbers of versions that are kept no more                               |
//! | head, next  | number of the present version, of the next one                                 |
//! | labels      | 0 unchanged; 1: count; each: name, version                                     |
//! | request ids | count; each: id, reply; those answered since                                   |
//! | requests    | count; each: number, answered, request id; all that calls belong to            |
//! | calls       | count; each: number, request + 1 or 0, deadline, kind; all of them             |
//! | held        | count; each: number, request id; all of them                                   |
//!
//! A call's kind is 1 message, 2 HTTP, 3 sleep, 4 own, with 128 added and what it asks after it
//! where the chain does not have that yet; of an own call that has returned, always its result.

use super::Partition;
use super::apart::Told;
use super::calls::Asked;
use super::journal::{Before, Chain, Dirty, Flush, From, Known, Made};
use super::wakes::Awaits;
use crate::agent::{Agent, State};
use crate::behaviour::Restored;
use crate::id::AgentId;
use crate::image::Image;
use crate::log::record::{self, Identity};
use crate::log::wire::{put_bytes, put_number, put_option};
use crate::log::{Kind, Record};
use crate::slots::NIL;
use crate::verb::Origin;

/// Changes of one chain at most: so many reads more bring an agent back.
const CHAIN_COUNT_MAX: usize = 256;
/// Changes of a chain may take as many bytes as its whole record, or these.
const CHANGE_BYTES_MIN: u64 = 64 << 10;

pub(super) const MESSAGE: u8 = 1;
pub(super) const HTTP: u8 = 2;
pub(super) const SLEEP: u8 = 3;
pub(super) const OWN: u8 = 4;
pub(super) const TOLD: u8 = 0x80;

impl Partition {
    /// Makes records of what has changed, up to about `bytes_max`. Returns the number of a flush
    /// when all of it is made: once it is on disk, [`Partition::flushed`] wants to know.
    pub fn flush(&mut self, bytes_max: usize, flush: &mut Flush) -> Option<u64> {
        // Before what has changed: a chain in the index is one that has its places.
        self.put_index(bytes_max, flush);
        self.journal.begin();
        while flush.bytes.len() < bytes_max {
            let Some(dirty) = self.journal.pop() else {
                self.put_ends(flush);
                return Some(self.journal.begun());
            };
            self.put_agent(dirty, flush);
        }
        None
    }

    /// Goes on with the index, if one is being written; whether it ended.
    fn put_index(&mut self, bytes_max: usize, flush: &mut Flush) {
        let Some(mut at) = self.journal.index_at else { return };
        if at == 0 {
            put(flush, Kind::IndexBegin, AgentId(0), None, |_| {});
        }
        while flush.bytes.len() < bytes_max && at < self.agents.end() {
            if self.agents.get(at).is_some_and(|agent| agent.logged.is_some()) {
                self.put_stub(at, flush);
            }
            at += 1;
        }
        let ended = at >= self.agents.end();
        if ended {
            put(flush, Kind::IndexEnd, AgentId(0), None, |_| {});
        }
        self.journal.index_at = (!ended).then_some(at);
    }

    fn put_stub(&self, slot: u32, flush: &mut Flush) {
        let agent = &self.agents[slot];
        let chain = agent.logged.as_deref().expect("J4: a stub is of what the log has");
        put(flush, Kind::Stub, agent.id, None, |out| {
            self.identity(slot).put(out);
            chain.awaits.put(out);
            put_number(out, chain.whole_bytes);
            put_number(out, chain.change_bytes);
            put_number(out, chain.places.len() as u64);
            for place in chain.places.iter() {
                put_number(out, place.segment.into());
                put_number(out, place.offset.into());
                put_number(out, place.len_bytes.into());
            }
            put_number(out, chain.page_count.into());
        });
    }

    fn put_ends(&mut self, flush: &mut Flush) {
        let (ended, orphans) = self.journal.finish();
        for id in orphans {
            if self.agents.find(id).is_some() {
                put(flush, Kind::Orphan, id, None, |_| {});
            }
        }
        for id in ended {
            // One that was made again is in the flush, whole.
            if self.agents.find(id).is_none() {
                put(flush, Kind::End, id, None, |_| {});
            }
        }
    }

    fn put_agent(&mut self, dirty: Dirty, flush: &mut Flush) {
        let Dirty { slot, known } = dirty;
        if slot == NIL {
            return;
        }
        self.agents[slot].dirty = 0;
        let long = self.is_long(slot, 0);
        let agent = &mut self.agents[slot];
        // Where pages are away, that waits until they are here (O2).
        agent.rewrite |= long && agent.partly;
        let partly = agent.partly;
        let agent = &self.agents[slot];
        match &known {
            Known::Earlier(before) if partly || !long => {
                if self.differs(agent, before) {
                    self.put_change(slot, before, flush);
                }
            }
            Known::Branch(from, before) if self.is_in_log(from.parent, from.version) => {
                self.put_fork(slot, *from, before, flush);
            }
            Known::Nothing | Known::Earlier(_) | Known::Branch(..) => self.put_whole(slot, flush),
        }
        match known {
            Known::Nothing => {}
            Known::Branch(_, before) | Known::Earlier(before) => {
                before.image.release(&mut self.store);
            }
        }
    }

    fn put_whole(&self, slot: u32, flush: &mut Flush) {
        let agent = &self.agents[slot];
        let apart = self.put_apart(slot, flush);
        let kind = if apart.record_count == 0 { Kind::Whole } else { Kind::Split };
        put(flush, kind, agent.id, None, |out| {
            if kind == Kind::Split {
                put_number(out, apart.record_count.into());
            }
            self.identity(slot).put(out);
            self.put_body(slot, self.awaits(agent), None, Told::Apart(&apart), out);
        });
    }

    fn put_fork(&self, slot: u32, from: From, before: &Before, flush: &mut Flush) {
        let From { parent, version, at } = from;
        put(flush, Kind::Fork, self.agents[slot].id, Some(parent), |out| {
            self.identity(slot).put(out);
            out.extend_from_slice(&parent.0.to_le_bytes());
            put_number(out, version);
            put_number(out, at.0);
            self.put_body(slot, self.awaits(&self.agents[slot]), Some(before), Told::Nothing, out);
        });
    }

    /// Puts what has changed, or all, where that is not much more.
    fn put_change(&self, slot: u32, before: &Before, flush: &mut Flush) {
        let agent = &self.agents[slot];
        let (bytes, made) = (flush.bytes.len(), flush.made.len());
        let pages = agent.logged.as_deref().map_or(&[][..], Chain::pages);
        put(flush, Kind::Change, agent.id, None, |out| {
            self.put_body(slot, self.awaits(agent), Some(before), Told::Away(pages), out);
        });
        if !agent.partly && self.is_long(slot, (flush.bytes.len() - bytes) as u64) {
            flush.bytes.truncate(bytes);
            flush.made.truncate(made);
            self.put_whole(slot, flush);
        }
    }

    /// Whether a chain, with so many bytes of changes more, had better begin anew.
    fn is_long(&self, slot: u32, more_bytes: u64) -> bool {
        let Some(chain) = &self.agents[slot].logged else { return true };
        chain.change_record_count() >= CHAIN_COUNT_MAX
            || chain.change_bytes + more_bytes > chain.whole_bytes.max(CHANGE_BYTES_MIN)
    }

    /// Whether a version of an agent is in its chain now.
    fn is_in_log(&self, parent: AgentId, version: u64) -> bool {
        let Some(slot) = self.agents.find(parent) else { return false };
        let agent = &self.agents[slot];
        // While an index is written a reader may not know the parent yet.
        self.journal.index_at.is_none()
            && agent.dirty == 0
            && agent.logged.is_some()
            && !self.is_long(slot, 0)
            && agent.versions.image_of(crate::VersionId(version)).is_some()
    }

    fn differs(&self, agent: &Agent, before: &Before) -> bool {
        let versions = agent.versions.sealed();
        let kept = versions.iter().map(|version| (version.id, version.checkpoint));
        let rare = agent.rare.as_deref();
        let held = rare.map_or(&[][..], |rare| &rare.held);
        let dedupe_next = rare.map_or(0, |rare| rare.dedupe.number_next());
        let in_turn = agent.call_count() > 0 || !held.is_empty();
        !kept.eq(before.versions.iter().copied())
            || agent.versions.head().0 != before.head
            || !agent.all_calls().eq(before.calls.iter().copied())
            || held != before.held
            || dedupe_next != before.dedupe_next
            || (in_turn && agent.turn_count != before.turn_count)
            || agent.state() != before.state
            || agent.restored() != before.restored
            || agent.kin.suffix_last != before.suffix_last
            || !self.same_labels(agent, before)
    }

    fn same_labels(&self, agent: &Agent, before: &Before) -> bool {
        let labels = before.labels.iter().map(|(name, id)| (&**name, *id));
        agent.versions.labels().eq(labels)
    }

    pub(super) fn identity(&self, slot: u32) -> Identity {
        let agent = &self.agents[slot];
        let parent = (agent.kin.parent != NIL).then(|| self.agents[agent.kin.parent].id);
        Identity {
            tenant: agent.tenant,
            key: agent.key.clone(),
            template_number: self.templates.number(agent.template),
            parent,
        }
    }

    pub(super) fn put_body(
        &self,
        slot: u32,
        awaits: Awaits,
        before: Option<&Before>,
        told: Told<'_>,
        out: &mut Vec<u8>,
    ) {
        let agent = &self.agents[slot];
        awaits.put(out);
        out.push(match agent.state() {
            State::Active => 0,
            State::Suspended => 1,
            State::Quarantined => 2,
        });
        put_number(out, agent.turn_count);
        put_number(out, agent.failure_count.into());
        put_number(out, agent.kin.suffix_last.into());
        put_restored(agent.restored(), out);
        self.put_versions(agent, before, told, out);
        let unchanged = before.is_some_and(|before| self.same_labels(agent, before));
        out.push(u8::from(!unchanged));
        if !unchanged {
            let labels: Vec<(&[u8], u64)> = agent.versions.labels().collect();
            put_number(out, labels.len() as u64);
            for (name, version) in labels {
                put_bytes(out, name);
                put_number(out, version);
            }
        }
        self.put_requests(agent, before, out);
    }

    fn put_versions(
        &self,
        agent: &Agent,
        before: Option<&Before>,
        told: Told<'_>,
        out: &mut Vec<u8>,
    ) {
        let behaviour = self.templates.behaviour(agent.template);
        let under = |page| behaviour.base_page(page);
        let known = before.map_or(&[][..], |before| &before.versions);
        let find = |id: u64| known.binary_search_by_key(&id, |(id, _)| *id).ok();
        let versions = agent.versions.sealed();
        let count = versions.iter().filter(|version| find(version.id).is_none()).count();
        put_number(out, count as u64);
        let empty = (&Image::EMPTY, 0);
        let mut base = before.map_or(empty, |before| (&before.image, before.head));
        for version in versions.iter().filter(|version| find(version.id).is_none()) {
            put_number(out, version.id);
            put_number(out, version.parent);
            put_number(out, version.sealed_at.0);
            out.push(version.checkpoint.into());
            put_number(out, base.1);
            let elsewhere = told.of(version.id);
            version.image.put_delta(base.0, &self.store, &under, elsewhere, out);
            base = (version.image, version.id);
        }
        let turned = |version: &&crate::version::Sealed<'_>| {
            version.checkpoint && find(version.id).is_some_and(|at| !known[at].1)
        };
        let turned: Vec<u64> = versions.iter().filter(turned).map(|version| version.id).collect();
        put_list(&turned, out);
        let kept = |id: &u64| versions.iter().any(|version| version.id == *id);
        let dropped: Vec<u64> = known.iter().map(|(id, _)| *id).filter(|id| !kept(id)).collect();
        put_list(&dropped, out);
        put_number(out, agent.versions.head().0);
        put_number(out, agent.versions.next());
    }

    fn put_requests(&self, agent: &Agent, before: Option<&Before>, out: &mut Vec<u8>) {
        let Some(rare) = agent.rare.as_deref() else {
            return out.extend_from_slice(&[0; 4]);
        };
        let replied = rare.dedupe.replied(before.map_or(0, |before| before.dedupe_next));
        let replied: Vec<_> = replied.collect();
        put_number(out, replied.len() as u64);
        for (id, reply) in replied {
            put_bytes(out, id);
            put_option(out, reply);
        }
        let request = |call| self.calls.find(call).expect("Y1: a call that counts").request;
        let mut requests: Vec<u32> = rare.calls.iter().map(|call| request(*call)).collect();
        requests.sort_unstable();
        requests.dedup();
        put_number(out, requests.len() as u64);
        for number in requests {
            let open = self.calls.seen_request(number);
            put_number(out, number.into());
            out.push(open.answered.into());
            put_option(out, open.request_id.as_deref());
        }
        put_number(out, (rare.calls.len() + rare.sends.len()) as u64);
        for call in agent.all_calls() {
            let open = self.calls.find(call).expect("Y1: a call that counts");
            put_number(out, call.0);
            put_number(out, u64::from(open.request.wrapping_add(1)));
            put_number(out, open.deadline.0);
            let told = before.is_some_and(|before| before.calls.contains(&call));
            self.put_asked(agent, call, &open.asked, !told, out);
        }
        put_number(out, rare.held.len() as u64);
        for id in &rare.held {
            let held = self.calls.held(*id).expect("Y4: a held request is there");
            put_number(out, id.0);
            put_option(out, held.request_id.as_deref());
        }
    }

    fn put_asked(
        &self,
        agent: &Agent,
        call: crate::CallId,
        asked: &Asked,
        tell: bool,
        out: &mut Vec<u8>,
    ) {
        let told = if tell { TOLD } else { 0 };
        match asked {
            Asked::Message { to, payload } => {
                out.push(MESSAGE | told);
                if tell {
                    put_bytes(out, to.as_bytes());
                    put_bytes(out, payload);
                }
            }
            Asked::Http { request, idempotency } => {
                out.push(HTTP | told);
                if tell {
                    put_bytes(out, request);
                    put_bytes(out, idempotency.as_bytes());
                }
            }
            Asked::Sleep | Asked::Unkept => out.push(SLEEP),
            Asked::Own => {
                out.push(OWN);
                let result = agent.mailbox.returned(&self.mail, call);
                let reply = result.and_then(|result| result.as_ref().ok());
                out.push(reply.is_some().into());
                put_option(out, reply.and_then(|reply| reply.as_deref()));
            }
        }
    }
}

pub(super) fn put(
    flush: &mut Flush,
    kind: Kind,
    id: AgentId,
    parent: Option<AgentId>,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let mut at = flush.bytes.len();
    let count = record::put(&mut flush.bytes, kind, id, fill);
    for left in (0..count).rev() {
        let record = Record::proven(&flush.bytes[at..]).expect("R1: it was just made");
        let kind = if left == 0 { kind } else { Kind::Part };
        flush.made.push(Made { id, kind, len_bytes: record.len_bytes, parent });
        at += record.len_bytes;
    }
}

fn put_list(numbers: &[u64], out: &mut Vec<u8>) {
    put_number(out, numbers.len() as u64);
    for number in numbers {
        put_number(out, *number);
    }
}

fn put_restored(restored: Option<Restored>, out: &mut Vec<u8>) {
    match restored {
        None => out.push(0),
        Some(Restored::Forked { index, keep_timers, call }) => {
            out.push(1);
            put_number(out, index.into());
            out.push(keep_timers.into());
            put_number(out, call.map_or(0, |call| call.0));
        }
        Some(Restored::RolledBack { version }) => {
            out.push(2);
            put_number(out, version.0);
        }
        Some(Restored::Committed) => out.push(3),
    }
}

/// The origin of what a life of the shard that is over was asked for.
pub(super) const PAST: Origin = Origin::Nobody;
