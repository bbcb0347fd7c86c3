//! Records: what a batch holds, each with a check of its own, so that one can be read alone.
//!
//! Owns: the head of a record, and the kinds there are.  Not: what an agent's records say
//! (`agent.rs`).
//!
//! | bytes  | what                                                        |
//! |--------|-------------------------------------------------------------|
//! | 0..4   | length of what follows the head, little-endian              |
//! | 4..20  | first half of the BLAKE3 of what follows the head           |
//! | 20     | kind: see [`Kind`]                                          |
//! | 21..37 | agent, little-endian                                        |
//! | 37...  | the kind's own bytes                                        |
//!
//! R1  a record whose check fails is an error, whatever it says.

use super::wire::{Reader, put_bytes, put_number, put_option};
use crate::id::{AgentId, TenantId};
use crate::key::AgentKey;
use bytes::Bytes;

/// Longest record, so that a batch has room for it; what is longer is written in parts.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Length and check.
const HEAD_BYTES: usize = 20;
const CHECK_BYTES: usize = 16;

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// An agent as it is: its chain begins here.
    Whole = 1,
    /// What has changed since the chain's last record.
    Change = 2,
    /// A branch: its chain is its parent's up to here, and this.
    Fork = 3,
    /// The agent ended.
    End = 4,
    /// A later part of a record that is longer than one may be. Its first part, which says what it
    /// is, comes last, so that it counts when all of it is there.
    Part = 5,
    /// Where an agent's chain lies, written for those that begin to read here.
    Stub = 6,
    /// The agent is no branch any more: its parent ended.
    Orphan = 7,
    /// An index begins: stubs of all agents that are not written anew before it ends.
    IndexBegin = 8,
    /// It has ended: reading may begin where it began.
    IndexEnd = 9,
    /// Pages of the [`Kind::Split`] that comes next, which names the records of pages before it by
    /// their numbers, from 0. Each can be read alone.
    Pages = 10,
    /// An agent as it is, as a [`Kind::Whole`], but most of its pages are in records before it.
    Split = 11,
}

impl Kind {
    const ALL: [Kind; 11] = [
        Kind::Whole,
        Kind::Change,
        Kind::Fork,
        Kind::End,
        Kind::Part,
        Kind::Stub,
        Kind::Orphan,
        Kind::IndexBegin,
        Kind::IndexEnd,
        Kind::Pages,
        Kind::Split,
    ];

    /// Whether an agent's chain begins with it, alone or with the records before it.
    pub fn is_whole(self) -> bool {
        matches!(self, Kind::Whole | Kind::Split)
    }

    /// Whether it belongs to a record of its agent that comes after it.
    pub fn is_part(self) -> bool {
        matches!(self, Kind::Part | Kind::Pages)
    }
}

/// Why bytes are no record of use. Nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// It ends before what it says.
    #[error("it is {missing_bytes} bytes short")]
    Short {
        /// Bytes that are missing.
        missing_bytes: usize,
    },
    /// Its check is another than its bytes'.
    #[error("its check does not match its bytes")]
    Check,
    /// A field has a value that it cannot have.
    #[error("{what} is {value}, which cannot be")]
    BadField {
        /// Which.
        what: &'static str,
        /// What it holds.
        value: u64,
    },
    /// It holds no key.
    #[error("it holds no key of an agent")]
    BadKey,
    /// It goes on where nothing began.
    #[error("it changes agent {:032x}, of which no whole record comes before it", .0.0)]
    NoBase(AgentId),
    /// Records of pages are not all there.
    #[error("it rests on {count} records of pages, and {found} come before it")]
    NoPages {
        /// How many it says.
        count: u32,
        /// How many there are.
        found: u32,
    },
    /// A version is not what it was.
    #[error("a version has another digest than it had")]
    Digest,
    /// It names a version that the chain has not.
    #[error("it names version {0}, which its chain does not have")]
    NoVersion(u64),
    /// The arena is full.
    #[error(transparent)]
    Full(#[from] crate::page::PageError),
}

/// A record that proved itself (R1), or was proven by its batch, in the bytes it was read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub id: AgentId,
    /// Its kind's own bytes.
    pub(crate) body: &'a [u8],
    /// All its bytes, for counting.
    pub len_bytes: usize,
}

impl<'a> Record<'a> {
    /// The record at the start of `bytes`, which must prove itself (R1).
    pub fn read(bytes: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let (check, payload) = Record::frame(bytes)?;
        if blake3::hash(payload).as_bytes()[..CHECK_BYTES] != *check {
            return Err(RecordError::Check);
        }
        Record::of(payload)
    }

    /// The record at the start of bytes that are proven, as those of a batch are by its hash.
    pub(crate) fn proven(bytes: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let (_, payload) = Record::frame(bytes)?;
        Record::of(payload)
    }

    /// The check and the payload.
    fn frame(bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), RecordError> {
        let mut reader = Reader::new(bytes);
        let len = reader.take(4)?;
        let len = u32::from_le_bytes(len.try_into().expect("R1: four bytes")) as usize;
        if len > RECORD_BYTES_MAX {
            return Err(RecordError::BadField { what: "a record's length", value: len as u64 });
        }
        Ok((reader.take(CHECK_BYTES)?, reader.take(len)?))
    }

    fn of(payload: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let mut reader = Reader::new(payload);
        let kind = reader.byte()?;
        let known = Kind::ALL.into_iter().find(|known| *known as u8 == kind);
        let kind = known.ok_or(RecordError::BadField { what: "its kind", value: kind.into() })?;
        let id = AgentId(reader.id()?);
        Ok(Record { kind, id, body: &payload[17..], len_bytes: HEAD_BYTES + payload.len() })
    }
}

/// Appends a record whose own bytes `fill` appends. What is longer than a record may be becomes
/// parts (see [`Kind::Part`]); returns the number of records.
pub(crate) fn put(
    out: &mut Vec<u8>,
    kind: Kind,
    id: AgentId,
    fill: impl FnOnce(&mut Vec<u8>),
) -> usize {
    let start = out.len();
    begin(out, kind, id);
    fill(out);
    let room = RECORD_BYTES_MAX - 17;
    let body = start + HEAD_BYTES + 17;
    if out.len() - body <= room {
        finish(out, start);
        return 1;
    }
    let first = out[body..body + room].to_vec();
    let rest = out.split_off(body + room);
    out.truncate(start);
    let parts = rest.chunks(room).map(|part| (Kind::Part, part));
    let pieces = parts.chain(std::iter::once((kind, &first[..])));
    let mut count = 0;
    for (kind, piece) in pieces {
        let start = out.len();
        begin(out, kind, id);
        out.extend_from_slice(piece);
        finish(out, start);
        count += 1;
    }
    count
}

fn begin(out: &mut Vec<u8>, kind: Kind, id: AgentId) {
    out.extend_from_slice(&[0; HEAD_BYTES]);
    out.push(kind as u8);
    out.extend_from_slice(&id.0.to_le_bytes());
}

fn finish(out: &mut [u8], start: usize) {
    let (head, payload) = out[start..].split_at_mut(HEAD_BYTES);
    head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&blake3::hash(payload).as_bytes()[..CHECK_BYTES]);
}

/// Who an agent is, in the first bytes of a Whole, Fork or Stub:
/// tenant, key, number of its template, parent (none, or its id), and for a fork the version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) tenant: TenantId,
    pub(crate) key: AgentKey,
    pub(crate) template_number: u32,
    pub(crate) parent: Option<AgentId>,
}

impl Identity {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_number(out, self.tenant.0.into());
        put_bytes(out, self.key.as_bytes());
        put_number(out, self.template_number.into());
        let parent = self.parent.map(|parent| parent.0.to_le_bytes());
        put_option(out, parent.as_ref().map(|parent| &parent[..]));
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Identity, RecordError> {
        let tenant = TenantId(reader.small("a tenant")?);
        let key = Bytes::copy_from_slice(reader.bytes()?);
        let key = AgentKey::new(key).map_err(|_| RecordError::BadKey)?;
        let template_number = reader.small("a template's number")?;
        let parent = reader.option()?.map(<[u8; 16]>::try_from);
        let parent = parent.transpose().map_err(|_| RecordError::BadKey)?;
        let parent = parent.map(|id| AgentId(u128::from_le_bytes(id)));
        Ok(Identity { tenant, key, template_number, parent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r1_a_record_reads_back_and_a_changed_one_does_not() {
        let mut out = Vec::new();
        let id = AgentId(7 << 90 | 3);
        assert_eq!(put(&mut out, Kind::Change, id, |out| out.extend_from_slice(b"body")), 1);
        let record = Record::read(&out).expect("its own bytes");
        assert_eq!((record.kind, record.id, record.body), (Kind::Change, id, &b"body"[..]));
        assert_eq!(record.len_bytes, out.len());
        for at in 0..out.len() {
            let mut bad = out.clone();
            bad[at] ^= 0x10;
            assert!(Record::read(&bad).is_err(), "byte {at} changed");
            assert!(Record::read(&out[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_long_record_goes_in_parts() {
        let mut out = Vec::new();
        let long: Vec<u8> = (0..RECORD_BYTES_MAX * 2 + 5).map(|at| at as u8).collect();
        let id = AgentId(1);
        let count = put(&mut out, Kind::Whole, id, |out| out.extend_from_slice(&long));
        assert_eq!(count, 3);
        let (mut at, mut parts, mut kinds) = (0, Vec::new(), Vec::new());
        while at < out.len() {
            let record = Record::read(&out[at..]).expect("its own bytes");
            kinds.push(record.kind);
            parts.push(record.body);
            at += record.len_bytes;
        }
        parts.rotate_right(1);
        assert!(parts.concat() == long);
        assert_eq!(kinds, [Kind::Part, Kind::Part, Kind::Whole]);
    }

    #[test]
    fn an_identity_reads_back() {
        for parent in [None, Some(AgentId(9))] {
            let key: AgentKey = "notebook/a~1".parse().expect("a key");
            let identity = Identity { tenant: TenantId(3), key, template_number: 2, parent };
            let mut out = Vec::new();
            identity.put(&mut out);
            assert_eq!(Identity::read(&mut Reader::new(&out)), Ok(identity));
        }
    }
}
