//! Export and import: an agent as one piece of bytes, for another key or another node.
//!
//! Owns: the bytes, and digests of versions.  Not: what a record says (`record.rs`, `chain.rs`).
//!
//! | bytes   | what                                                                     |
//! |---------|--------------------------------------------------------------------------|
//! | 0..8    | `HERONAGT`                                                               |
//! | 8..10   | format, 1, little-endian                                                 |
//! | 10..42  | BLAKE3 of the rest                                                       |
//! | 42...   | template: name, number, digest of its memory or none; then its versions: |
//! |         | count; each: number, digest; then a whole record's bytes after its       |
//! |         | identity. Numbers as in `log/wire.rs`                                    |
//!
//! X1  what is imported is what was exported: every version has the digest that it had there.
//! X2  an imported agent is to its image what a branch is: it knows its new key, what it awaited
//!     from others is told as gone, its sleeps go on, nothing is done twice.
//! X3  an import that is refused leaves nothing behind.

use super::apart::Told;
use super::chain::Replay;
use super::wakes::Awaits;
use super::{Address, Partition};
use crate::agent::Residence;
use crate::behaviour::{Behaviour, Fault, Restored};
use crate::id::Nanos;
use crate::image::{Image, Pages};
use crate::limits::LABEL_BYTES_MAX;
use crate::log::RecordError;
use crate::log::wire::{Reader, put_bytes, put_number, put_option};
use crate::page::PageStore;
use crate::refusal::Refusal;
use crate::verb::{Reply, VersionRef};
use bytes::Bytes;

const MAGIC: &[u8; 8] = b"HERONAGT";
const FORMAT: u16 = 1;
/// Bytes before those that the hash is of.
const HEAD_BYTES: usize = 42;
/// Highest number that a version or a count of turns comes with, so that it can go on counting.
const NUMBER_MAX: u64 = 1 << 62;
/// The same for branches.
const BRANCH_MAX: u64 = 1 << 31;

/// What is in an agent's bytes.
struct Portable<'a> {
    template: &'a [u8],
    template_number: u32,
    template_digest: Option<[u8; 32]>,
    versions: Vec<(u64, [u8; 32])>,
    record: Reader<'a>,
}

impl Partition {
    /// The bytes of an agent, with the present sealed.
    pub(super) fn export(&mut self, now: Nanos, slot: u32) -> Result<Reply, Refusal> {
        self.seal(now, slot);
        let agent = &self.agents[slot];
        let behaviour = self.templates.behaviour(agent.template);
        let mut out = vec![0; HEAD_BYTES];
        put_bytes(&mut out, behaviour.name().as_bytes());
        put_number(&mut out, behaviour.number().into());
        put_option(&mut out, behaviour.digest().as_ref().map(|digest| &digest[..]));
        let versions = agent.versions.sealed();
        put_number(&mut out, versions.len() as u64);
        for version in &versions {
            put_number(&mut out, version.id);
            out.extend_from_slice(&digest_of(version.image, &self.store, behaviour));
        }
        // X2: what it awaits stays here.
        self.put_body(slot, Awaits::Nothing, None, Told::Nothing, &mut out);
        let (value, limit) = (out.len() as u64, self.config.payload_bytes_max as u64);
        if value > limit {
            return Err(Refusal::Limit {
                what: format!("{} as exported, in bytes,", agent.key).into(),
                value,
                limit,
                remedy: "raise net.payload_bytes_max, or have `heronry backup` copy all agents"
                    .into(),
            });
        }
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        let hash = blake3::hash(&out[HEAD_BYTES..]);
        out[10..HEAD_BYTES].copy_from_slice(hash.as_bytes());
        Ok(Reply::Payload(Some(Bytes::from(out))))
    }

    /// Makes an agent of such bytes; its slot (X3).
    pub(super) fn import(
        &mut self,
        now: Nanos,
        to: &Address,
        bytes: &[u8],
    ) -> Result<u32, Refusal> {
        self.check_agents_max(1)?;
        let Portable { template, template_number, template_digest, versions, mut record } =
            Portable::read(bytes).map_err(unusable)?;
        let name = to.key.template();
        if template != name.as_bytes() {
            return Err(Refusal::BadValue {
                what: "the key".into(),
                value: to.key.as_str().into(),
                allowed: format!(
                    "{}/NAME, as the exported agent is of that template",
                    String::from_utf8_lossy(template)
                )
                .into(),
            });
        }
        let found = self.templates.alike(name, template_number, template_digest);
        let Some(template) = found else {
            self.templates.find(&to.key)?;
            return Err(Refusal::BadTemplate {
                name: name.into(),
                reason: format!(
                    "the exported agent began from number {template_number}, whose memory was \
                     another than that of any number here; copy the folder \
                     templates/{name}/{template_number} of its data folder and start the node anew"
                ),
            });
        };
        let mut replay = Replay { template, ..Replay::default() };
        if let Err(error) = self.read_portable(&mut record, &mut replay, &versions) {
            replay.release(&mut self.store);
            return Err(match error {
                RecordError::Full(full) => match full.into() {
                    Fault::Full { used_bytes, arena_bytes } => {
                        Refusal::Full { shard: self.config.shard, used_bytes, arena_bytes }
                    }
                    fault => unusable(fault.to_string()),
                },
                other => unusable(other.to_string()),
            });
        }
        // X2: nobody here has asked it or is asked by it.
        (replay.requests, replay.calls, replay.held) = Default::default();
        replay.restored = None;
        let slot = match self.make(now, to, template) {
            Ok(slot) => slot,
            Err(refusal) => {
                replay.release(&mut self.store);
                return Err(refusal);
            }
        };
        self.agents[slot].residence = Residence::Warm;
        if let Err(error) = self.put_in_place(now, slot, replay) {
            self.remove(slot);
            return Err(unusable(error.to_string()));
        }
        self.counters.creates += 1;
        self.born(slot, to.key.clone());
        self.note_restored(slot, Restored::Forked { index: 0, keep_timers: true, call: None });
        Ok(slot)
    }

    /// Takes in the versions, and checks that they are what they were (X1).
    fn read_portable(
        &mut self,
        record: &mut Reader<'_>,
        replay: &mut Replay,
        versions: &[(u64, [u8; 32])],
    ) -> Result<(), RecordError> {
        let behaviour = self.templates.behaviour(replay.template);
        let under = |page| behaviour.base_page(page);
        let dedupe_max = self.config.dedupe_count_max();
        replay.take(record, &mut self.store, &under, Pages::NONE, dedupe_max)?;
        let same = replay.versions.len() == versions.len()
            && replay.versions.iter().zip(versions).all(|(version, (id, digest))| {
                version.id == *id && digest_of(&version.image, &self.store, behaviour) == *digest
            });
        if !same {
            return Err(RecordError::Digest);
        }
        self.check_portable(replay)
    }

    /// What a log never holds, and whoever makes such bytes may put in them.
    fn check_portable(&self, replay: &Replay) -> Result<(), RecordError> {
        let kept = |id: u64| replay.versions.iter().any(|version| version.id == id);
        let at_most = |what, value: u64, most: u64| match value <= most {
            true => Ok(()),
            false => Err(RecordError::BadField { what, value }),
        };
        let checkpoints =
            replay.versions.iter().filter(|version| version.checkpoint).count() as u64;
        at_most("its checkpoints", checkpoints, self.config.checkpoints_max.into())?;
        at_most("its turns", replay.turn_count, NUMBER_MAX)?;
        at_most("its next version", replay.next, NUMBER_MAX)?;
        at_most("its last branch", replay.suffix_last.into(), BRANCH_MAX)?;
        for version in &replay.versions {
            let (id, len_bytes) = (version.id, version.image.len_bytes());
            at_most("a version", id, NUMBER_MAX)?;
            at_most("a version", u64::from(id == 0), 0)?;
            at_most("an image's length", len_bytes, self.config.image_bytes_max)?;
        }
        for (name, version) in &replay.labels {
            at_most("a label's length", name.len() as u64, LABEL_BYTES_MAX as u64)?;
            if !kept(*version) {
                return Err(RecordError::NoVersion(*version));
            }
        }
        Ok(())
    }

    /// The digest of a version, in hexadecimal.
    pub(super) fn digest(&self, slot: u32, at: Option<&VersionRef>) -> Result<Reply, Refusal> {
        let agent = &self.agents[slot];
        let found = at.map(|wanted| self.find_version(slot, wanted)).transpose()?;
        let image = found.and_then(|version| agent.versions.image_of(version));
        let behaviour = self.templates.behaviour(agent.template);
        let digest = digest_of(image.unwrap_or(&agent.image), &self.store, behaviour);
        let hex = blake3::Hash::from(digest).to_hex();
        Ok(Reply::Payload(Some(Bytes::copy_from_slice(hex.as_bytes()))))
    }
}

/// BLAKE3 of the digest of the template's memory, if it has one, and of the bytes in which the
/// image differs from that: equal for equal images, however they came about.
fn digest_of(image: &Image, store: &PageStore, behaviour: &dyn Behaviour) -> [u8; 32] {
    let mut bytes = Vec::new();
    put_option(&mut bytes, behaviour.digest().as_ref().map(|digest| &digest[..]));
    image.put_bytes_over(store, &|page| behaviour.base_page(page), &mut bytes);
    *blake3::hash(&bytes).as_bytes()
}

fn unusable(reason: impl Into<String>) -> Refusal {
    Refusal::BadValue {
        what: "the exported agent".into(),
        value: format!("damaged ({})", reason.into()),
        allowed: "the bytes that AGENT.EXPORT gave, unchanged".into(),
    }
}

impl<'a> Portable<'a> {
    fn read(bytes: &'a [u8]) -> Result<Portable<'a>, String> {
        let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) else {
            return Err(format!("{} bytes", bytes.len()));
        };
        if head[..8] != *MAGIC {
            return Err("bytes that are no agent".into());
        }
        let format = u16::from_le_bytes([head[8], head[9]]);
        if format != FORMAT {
            return Err(format!("bytes of format {format}, and this program reads {FORMAT},"));
        }
        if blake3::hash(rest).as_bytes() != &head[10..] {
            return Err("bytes that were cut or changed".into());
        }
        Portable::read_body(&mut Reader::new(rest)).map_err(|error| error.to_string())
    }

    fn read_body(reader: &mut Reader<'a>) -> Result<Portable<'a>, RecordError> {
        let digest = |bytes: &[u8]| {
            let wrong =
                RecordError::BadField { what: "a digest's length", value: bytes.len() as u64 };
            bytes.try_into().map_err(|_| wrong)
        };
        let template = reader.bytes()?;
        let template_number = reader.small("a template's number")?;
        let template_digest = reader.option()?.map(digest).transpose()?;
        let mut versions = Vec::new();
        for _ in 0..reader.count()? {
            versions.push((reader.number()?, digest(reader.take(32)?)?));
        }
        let record = std::mem::replace(reader, Reader::new(&[]));
        Ok(Portable { template, template_number, template_digest, versions, record })
    }
}
