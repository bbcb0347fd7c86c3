//! Batches: the records of one write, behind a head that proves them all.
//!
//! Owns: the head, the padding.  Not: the records' meaning.
//!
//! | bytes   | what                                                                      |
//! |---------|---------------------------------------------------------------------------|
//! | 0..8    | `HERONLOG`                                                                |
//! | 8..10   | format: 3; in 1 no record says until when its agent sleeps, in 1 and 2    |
//! |         | none holds pages apart                                                    |
//! | 10..12  | shard                                                                     |
//! | 12..16  | epoch: which life of the shard wrote it                                   |
//! | 16..24  | sequence: counts up by one from batch to batch, across epochs             |
//! | 24..32  | time of the write, nanoseconds                                            |
//! | 32..40  | the highest number of a call in the shard's lives                         |
//! | 40..48  | the highest number of a request                                           |
//! | 48..52  | length of the records                                                     |
//! | 52..56  | number of records                                                         |
//! | 56      | 1: a flush is whole with it; what is written after the last such one is void |
//! | 57..64  | zero                                                                      |
//! | 64..96  | BLAKE3 of bytes 0..64 and of the records, keyed with the log's own key    |
//! | 96...   | the records, then zeros up to a multiple of [`BATCH_ALIGN_BYTES`]         |
//!
//! All numbers are little-endian. The key makes sure that nothing an agent keeps in its memory is
//! ever taken for a batch.

use super::record::Record;
use crate::id::{Nanos, ShardId};

/// Batches begin and end at multiples of this: what a disk writes as one.
pub const BATCH_ALIGN_BYTES: usize = 4096;
/// Longest batch.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Bytes before the records.
pub const HEAD_BYTES: usize = 96;

const MAGIC: &[u8; 8] = b"HERONLOG";
const FORMAT: u16 = 3;
const FORMAT_FIRST: u16 = 1;
const HASHED_BYTES: usize = 64;

const _: () = assert!(BATCH_BYTES_MAX.is_multiple_of(BATCH_ALIGN_BYTES));
const _: () = assert!(super::record::RECORD_BYTES_MAX * 2 < BATCH_BYTES_MAX);

/// The key of a log's hashes: random, made with the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LogKey(pub [u8; 32]);

impl std::fmt::Debug for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogKey(..)")
    }
}

/// What a batch says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHead {
    /// Whose log.
    pub shard: ShardId,
    /// Which life of the shard.
    pub epoch: u32,
    /// Its place in the order of all batches.
    pub sequence: u64,
    /// When it was written.
    pub written_at: Nanos,
    /// The highest number of a call so far.
    pub call_last: u64,
    /// The highest number of a request so far.
    pub request_last: u64,
    /// Whether a flush is whole with it: the batches after the last such one are void.
    pub whole: bool,
}

/// Why bytes are no batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchError {
    /// Not the beginning of one.
    #[error("no batch begins here")]
    NoBatch,
    /// Of a format that this program does not know.
    #[error("a batch of format {format}; this program reads {FORMAT_FIRST} to {FORMAT}")]
    Format {
        /// The format it names.
        format: u16,
    },
    /// The beginning of one, of which the rest is missing or another.
    #[error("batch {sequence} is torn or damaged")]
    Damaged {
        /// The number it names, which may be damaged too.
        sequence: u64,
    },
}

/// Collects the records of one batch.
#[derive(Debug, Default)]
pub struct Packer {
    bytes: Vec<u8>,
    record_count: u32,
}

impl Packer {
    /// Bytes that the batch takes so far, without padding.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len().max(HEAD_BYTES)
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Whether a record of this length still fits.
    pub fn fits(&self, record_bytes: usize) -> bool {
        self.len_bytes() + record_bytes <= BATCH_BYTES_MAX
    }

    /// Adds a whole record; where it begins in the batch.
    pub fn push(&mut self, record: &[u8]) -> usize {
        assert!(self.fits(record.len()), "B1: a batch of {} bytes is full", self.len_bytes());
        if self.bytes.is_empty() {
            self.bytes.resize(HEAD_BYTES, 0);
        }
        let at = self.bytes.len();
        self.bytes.extend_from_slice(record);
        self.record_count += 1;
        at
    }

    /// The batch, padded; the packer is empty after it and keeps `spare` for the next one.
    pub fn finish(&mut self, key: &LogKey, head: BatchHead, spare: Vec<u8>) -> Vec<u8> {
        let mut bytes = std::mem::replace(&mut self.bytes, spare);
        self.bytes.clear();
        let record_count = std::mem::take(&mut self.record_count);
        if bytes.is_empty() {
            bytes.resize(HEAD_BYTES, 0);
        }
        let len = (bytes.len() - HEAD_BYTES) as u32;
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[10..12].copy_from_slice(&head.shard.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&head.epoch.to_le_bytes());
        bytes[16..24].copy_from_slice(&head.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&head.written_at.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&head.call_last.to_le_bytes());
        bytes[40..48].copy_from_slice(&head.request_last.to_le_bytes());
        bytes[48..52].copy_from_slice(&len.to_le_bytes());
        bytes[52..56].copy_from_slice(&record_count.to_le_bytes());
        bytes[56] = head.whole.into();
        let hash = hash(key, &bytes[..HASHED_BYTES], &bytes[HEAD_BYTES..]);
        bytes[HASHED_BYTES..HEAD_BYTES].copy_from_slice(&hash);
        bytes.resize(bytes.len().next_multiple_of(BATCH_ALIGN_BYTES), 0);
        bytes
    }
}

/// A batch that was read.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// What it says of itself.
    pub head: BatchHead,
    /// Its records, one after the other.
    pub records: &'a [u8],
    /// How many there are.
    pub record_count: u32,
    /// Its length with padding.
    pub len_bytes: usize,
}

/// The length that a batch at the start of `bytes` says it has, if one seems to begin there: so
/// much must be read to judge it.
pub fn promised_bytes(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < HEAD_BYTES || bytes[..8] != *MAGIC {
        return None;
    }
    let len = u32::from_le_bytes(field(bytes, 48)) as usize + HEAD_BYTES;
    (len <= BATCH_BYTES_MAX).then(|| len.next_multiple_of(BATCH_ALIGN_BYTES))
}

impl<'a> Batch<'a> {
    /// The batch at the start of `bytes`, if it is whole (B1).
    pub fn read(key: &LogKey, bytes: &'a [u8]) -> Result<Batch<'a>, BatchError> {
        if bytes.len() < HEAD_BYTES || bytes[..8] != *MAGIC {
            return Err(BatchError::NoBatch);
        }
        let head = BatchHead {
            shard: ShardId(u16::from_le_bytes(field(bytes, 10))),
            epoch: u32::from_le_bytes(field(bytes, 12)),
            sequence: u64::from_le_bytes(field(bytes, 16)),
            written_at: Nanos(u64::from_le_bytes(field(bytes, 24))),
            call_last: u64::from_le_bytes(field(bytes, 32)),
            request_last: u64::from_le_bytes(field(bytes, 40)),
            whole: bytes[56] == 1,
        };
        let damaged = BatchError::Damaged { sequence: head.sequence };
        let len_bytes = promised_bytes(bytes).ok_or(damaged)?;
        let len = u32::from_le_bytes(field(bytes, 48)) as usize;
        let records = bytes.get(HEAD_BYTES..HEAD_BYTES + len).ok_or(damaged)?;
        if hash(key, &bytes[..HASHED_BYTES], records) != bytes[HASHED_BYTES..HEAD_BYTES] {
            return Err(damaged);
        }
        let format = u16::from_le_bytes(field(bytes, 8));
        if !(FORMAT_FIRST..=FORMAT).contains(&format) {
            return Err(BatchError::Format { format });
        }
        let record_count = u32::from_le_bytes(field(bytes, 52));
        Ok(Batch { head, records, record_count, len_bytes })
    }

    /// Its records, each with where it begins in the batch.
    pub fn iter(self) -> impl Iterator<Item = (usize, Result<Record<'a>, super::RecordError>)> {
        records(self.records)
    }
}

/// The records of a whole batch, each with where it begins in it. The batch has proven them.
pub fn records(
    bytes: &[u8],
) -> impl Iterator<Item = (usize, Result<Record<'_>, super::RecordError>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= bytes.len() {
            return None;
        }
        let record = Record::proven(&bytes[at..]);
        let begins = HEAD_BYTES + at;
        at = record.as_ref().map_or(bytes.len(), |record| at + record.len_bytes);
        Some((begins, record))
    })
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("B1: the head's length was checked")
}

fn hash(key: &LogKey, head: &[u8], records: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    hasher.update(head);
    hasher.update(records);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::record::{Kind, put};
    use super::*;
    use crate::id::AgentId;

    const KEY: LogKey = LogKey([7; 32]);

    fn head(sequence: u64) -> BatchHead {
        BatchHead {
            shard: ShardId(1),
            epoch: 2,
            sequence,
            written_at: Nanos(3),
            call_last: 4,
            request_last: 5,
            whole: true,
        }
    }

    fn sample() -> Vec<u8> {
        let mut packer = Packer::default();
        for n in 0..3 {
            let mut record = Vec::new();
            put(&mut record, Kind::End, AgentId(n), |out| out.extend_from_slice(&[n as u8; 9]));
            packer.push(&record);
        }
        packer.finish(&KEY, head(77), Vec::new())
    }

    #[test]
    fn b1_a_batch_reads_back_and_no_changed_or_cut_one_does() {
        let bytes = sample();
        assert_eq!(bytes.len() % BATCH_ALIGN_BYTES, 0);
        let batch = Batch::read(&KEY, &bytes).expect("its own bytes");
        assert_eq!((batch.head, batch.record_count), (head(77), 3));
        assert_eq!(batch.len_bytes, bytes.len());
        let ids: Vec<u128> = batch.iter().map(|(_, record)| record.expect("good").id.0).collect();
        assert_eq!(ids, [0, 1, 2]);
        let used = HEAD_BYTES + batch.records.len();
        for at in 0..used {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Batch::read(&KEY, &bad).is_err(), "byte {at} changed");
            assert!(Batch::read(&KEY, &bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn b1_a_torn_batch_is_told_from_none() {
        let bytes = sample();
        assert_eq!(
            Batch::read(&KEY, &bytes[..200]).err(),
            Some(BatchError::Damaged { sequence: 77 })
        );
        assert_eq!(Batch::read(&KEY, &[0; 4096]).err(), Some(BatchError::NoBatch));
        assert_eq!(promised_bytes(&bytes), Some(bytes.len()));
    }
}
