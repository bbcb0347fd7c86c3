//! The reader of a chain: an agent put together from its records, one after the other.
//!
//! Owns: the bytes of records as `record.rs` writes them, and what each adds to those before it.
//! Not: which records a chain has, and bringing the agent back (`replay.rs`).

use super::calls::Asked;
use super::dedupe::Dedupe;
use super::record::{HTTP, MESSAGE, OWN, SLEEP, TOLD};
use super::wakes::Awaits;
use crate::agent::State;
use crate::behaviour::Restored;
use crate::id::{AgentId, CallId, Nanos, VersionId};
use crate::image::{Image, Pages, Under};
use crate::key::AgentKey;
use crate::log::wire::Reader;
use crate::log::{Kind, RecordError};
use crate::page::PageStore;
use crate::refusal::Refusal;
use crate::version::Version;
use bytes::Bytes;
use std::collections::BTreeMap;

/// An agent while its chain is read.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) template: u16,
    pub(super) state: State,
    pub(super) turn_count: u64,
    pub(super) failure_count: u32,
    pub(super) suffix_last: u32,
    pub(super) restored: Option<Restored>,
    /// By ascending number.
    pub(super) versions: Vec<Version>,
    pub(super) head: u64,
    pub(super) next: u64,
    pub(super) labels: Vec<(Vec<u8>, u64)>,
    pub(super) dedupe: Dedupe,
    pub(super) requests: BTreeMap<u64, (bool, Option<Bytes>)>,
    pub(super) calls: BTreeMap<u64, Again>,
    pub(super) held: Vec<(u64, Option<Bytes>)>,
}

/// A call that goes on.
pub(super) struct Again {
    pub(super) request: Option<u64>,
    pub(super) deadline: Nanos,
    pub(super) asked: Asked,
    /// Of an own call, which was done when its record was made.
    pub(super) result: Option<Result<crate::verb::Reply, Refusal>>,
}

impl Replay {
    /// A chain begins, or goes over to a branch.
    pub(super) fn begin(
        &mut self,
        kind: Kind,
        reader: &mut Reader<'_>,
        store: &mut PageStore,
    ) -> Result<(), RecordError> {
        let mut from = Vec::new();
        if kind == Kind::Fork {
            let (_, wanted, sealed_at) = read_origin(reader)?;
            let checkpoint = false;
            let at = self.find(wanted).ok_or(RecordError::NoVersion(wanted))?;
            let image = self.versions[at].image.share(store);
            from.push(Version { image, id: 1, parent: 0, sealed_at, checkpoint });
        }
        for version in std::mem::replace(&mut self.versions, from) {
            version.image.release(store);
        }
        let (template, versions) = (self.template, std::mem::take(&mut self.versions));
        *self = Replay { template, versions, ..Replay::default() };
        Ok(())
    }

    /// Gives back its images.
    pub(super) fn release(self, store: &mut PageStore) {
        for version in self.versions {
            version.image.release(store);
        }
    }

    fn find(&self, version: u64) -> Option<usize> {
        self.versions.binary_search_by_key(&version, |version| version.id).ok()
    }

    /// Takes in a record from its state on.
    pub(super) fn take(
        &mut self,
        reader: &mut Reader<'_>,
        store: &mut PageStore,
        under: &Under<'_>,
        pages: Pages<'_>,
        dedupe_max: usize,
    ) -> Result<(), RecordError> {
        // For those that read heads only.
        Awaits::read(reader)?;
        self.state = match reader.byte()? {
            0 => State::Active,
            1 => State::Suspended,
            2 => State::Quarantined,
            value => return Err(RecordError::BadField { what: "its state", value: value.into() }),
        };
        self.turn_count = reader.number()?;
        self.failure_count = reader.small("its failures")?;
        self.suffix_last = reader.small("its last branch")?;
        self.restored = read_restored(reader)?;
        self.take_versions(reader, store, under, pages)?;
        if reader.flag()? {
            self.labels.clear();
            for _ in 0..reader.count()? {
                let name = reader.bytes()?.to_vec();
                self.labels.push((name, reader.number()?));
            }
        }
        for _ in 0..reader.count()? {
            let id = reader.bytes()?;
            let reply = reader.option()?.map(Bytes::copy_from_slice);
            self.dedupe.restore(id, reply, dedupe_max);
        }
        self.take_calls(reader)?;
        if reader.is_empty() {
            return Ok(());
        }
        Err(RecordError::BadField { what: "a record's end", value: 0 })
    }

    fn take_versions(
        &mut self,
        reader: &mut Reader<'_>,
        store: &mut PageStore,
        under: &Under<'_>,
        pages: Pages<'_>,
    ) -> Result<(), RecordError> {
        for _ in 0..reader.count()? {
            let id = reader.number()?;
            let parent = reader.number()?;
            let sealed_at = Nanos(reader.number()?);
            let checkpoint = reader.flag()?;
            let base = reader.number()?;
            let mut image = match base {
                0 => Image::EMPTY,
                base => {
                    let at = self.find(base).ok_or(RecordError::NoVersion(base))?;
                    self.versions[at].image.share(store)
                }
            };
            if let Err(error) = image.apply_delta(store, under, pages, reader) {
                image.release(store);
                return Err(error);
            }
            let version = Version { image, id, parent, sealed_at, checkpoint };
            match self.versions.binary_search_by_key(&id, |version| version.id) {
                Ok(at) => std::mem::replace(&mut self.versions[at], version).image.release(store),
                Err(at) => self.versions.insert(at, version),
            }
        }
        for _ in 0..reader.count()? {
            let id = reader.number()?;
            let at = self.find(id).ok_or(RecordError::NoVersion(id))?;
            self.versions[at].checkpoint = true;
        }
        for _ in 0..reader.count()? {
            let id = reader.number()?;
            let at = self.find(id).ok_or(RecordError::NoVersion(id))?;
            self.versions.remove(at).image.release(store);
        }
        self.head = reader.number()?;
        self.next = reader.number()?;
        Ok(())
    }

    fn take_calls(&mut self, reader: &mut Reader<'_>) -> Result<(), RecordError> {
        self.requests.clear();
        for _ in 0..reader.count()? {
            let number = reader.number()?;
            let answered = reader.flag()?;
            let request_id = reader.option()?.map(Bytes::copy_from_slice);
            self.requests.insert(number, (answered, request_id));
        }
        let mut before = std::mem::take(&mut self.calls);
        for _ in 0..reader.count()? {
            let call = reader.number()?;
            let request = reader.number()?.checked_sub(1);
            let deadline = Nanos(reader.number()?);
            let (asked, result) = read_asked(reader, before.remove(&call))?;
            self.calls.insert(call, Again { request, deadline, asked, result });
        }
        self.held.clear();
        for _ in 0..reader.count()? {
            let number = reader.number()?;
            self.held.push((number, reader.option()?.map(Bytes::copy_from_slice)));
        }
        Ok(())
    }
}

/// Of which agent's version a branch is, and when it was made.
pub(super) fn read_origin(reader: &mut Reader<'_>) -> Result<(AgentId, u64, Nanos), RecordError> {
    Ok((AgentId(reader.id()?), reader.number()?, Nanos(reader.number()?)))
}

type OwnResult = Option<Result<crate::verb::Reply, Refusal>>;

/// What a call asks for, here or, where the record does not repeat it, `before`.
fn read_asked(
    reader: &mut Reader<'_>,
    before: Option<Again>,
) -> Result<(Asked, OwnResult), RecordError> {
    let kind = reader.byte()?;
    let asked = match kind & !TOLD {
        SLEEP => Asked::Sleep,
        OWN => {
            let good = reader.flag()?;
            let reply = reader.option()?.map(Bytes::copy_from_slice);
            let lost = Refusal::Dropped {
                key: String::new(),
                why: "was restored from the log before it was told".into(),
            };
            let result = if good { Ok(crate::verb::Reply::Payload(reply)) } else { Err(lost) };
            return Ok((Asked::Own, Some(result)));
        }
        MESSAGE if kind & TOLD != 0 => {
            let to = Bytes::copy_from_slice(reader.bytes()?);
            let to = AgentKey::new(to).map_err(|_| RecordError::BadKey)?;
            Asked::Message { to, payload: Bytes::copy_from_slice(reader.bytes()?) }
        }
        HTTP if kind & TOLD != 0 => {
            let request = Bytes::copy_from_slice(reader.bytes()?);
            let idempotency = String::from_utf8_lossy(reader.bytes()?).into_owned();
            Asked::Http { request, idempotency }
        }
        MESSAGE | HTTP => {
            let wrong = RecordError::BadField { what: "a call's kind", value: kind.into() };
            before.ok_or(wrong)?.asked
        }
        _ => return Err(RecordError::BadField { what: "a call's kind", value: kind.into() }),
    };
    Ok((asked, None))
}

fn read_restored(reader: &mut Reader<'_>) -> Result<Option<Restored>, RecordError> {
    Ok(match reader.byte()? {
        0 => None,
        1 => {
            let index = reader.small("a branch's index")?;
            let keep_timers = reader.flag()?;
            let call = reader.number()?;
            Some(Restored::Forked { index, keep_timers, call: (call > 0).then_some(CallId(call)) })
        }
        2 => Some(Restored::RolledBack { version: VersionId(reader.number()?) }),
        3 => Some(Restored::Committed),
        value => {
            return Err(RecordError::BadField { what: "how it was restored", value: value.into() });
        }
    })
}
