//! The node's shared memory: one memfd with every shard's blocks and the rings between them.
//!
//! Owns: the layout, creating it and checking it on attach.  Not: what goes through the rings.
//! S1  the layout is a function of (shard count, ring words); attach refuses a file whose header
//!     or length says otherwise.
//! S2  a fresh file is all zero, and all zero is empty: untouched rings cost no memory.

use crate::control::{ControlBlock, NodeLine, ShardState};
use crate::counters::{COUNTER_SLOTS, Counter, CounterBlock};
use crate::histogram::{HistBlock, Latency};
use crate::region::Region;
use crate::ring::{RING_WORDS_MAX, RING_WORDS_MIN, Ring, RingHead, WORD_BYTES};
use crate::sync::{AtomicU64, Ordering};
use heronry_engine::ShardId;
use heronry_engine::limits::SHARD_COUNT_MAX;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Smallest ring in bytes.
pub const RING_BYTES_MIN: usize = 4096;
/// Largest ring in bytes.
pub const RING_BYTES_MAX: usize = 256 << 20;

/// The layout:
///
/// | offset                     | what                                                   |
/// |----------------------------|--------------------------------------------------------|
/// | 0                          | header words: magic, layout, shard count, ring words   |
/// | 128                        | node line: change count                                |
/// | 4096 + s * seat            | shard s: control, counters, one histogram per latency  |
/// | after the seats            | ring from a to b at (a * shards + b) * ring stride     |
/// | in a ring                  | head (256 bytes), then the words; padded to 4096       |
const MAGIC: u64 = u64::from_le_bytes(*b"HERONMEM");
const LAYOUT: u64 = 1;
const PAGE: usize = 4096;
const NODE_OFFSET: usize = 128;
const COUNTERS_OFFSET: usize = size_of::<ControlBlock>();
const HISTS_OFFSET: usize = COUNTERS_OFFSET + size_of::<CounterBlock>();
const SEAT_BYTES: usize =
    (HISTS_OFFSET + Latency::ALL.len() * size_of::<HistBlock>()).next_multiple_of(PAGE);
const _: () = assert!(RING_BYTES_MIN / WORD_BYTES >= RING_WORDS_MIN);
const _: () = assert!(RING_BYTES_MAX / WORD_BYTES <= RING_WORDS_MAX);
const _: () = assert!(HISTS_OFFSET.is_multiple_of(128));

/// What a node needs its shared memory for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardPlan {
    /// Shards of the node, 1 to [`SHARD_COUNT_MAX`].
    pub shard_count: u16,
    /// Bytes of each ring, rounded up to a power of two and kept within its bounds.
    pub ring_bytes: usize,
}

/// Why a file is not a node's shared memory.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// The kernel refused.
    #[error("shared memory: {0}")]
    Io(#[from] io::Error),
    /// Another kind of file.
    #[error("shared memory has magic {found:#018x}; a node's has {MAGIC:#018x}")]
    Magic {
        /// What stands there.
        found: u64,
    },
    /// Made by another build, or damaged.
    #[error("shared memory has {word} {found}; this build expects {expected}")]
    Header {
        /// Which word.
        word: &'static str,
        /// What stands there.
        found: u64,
        /// What should.
        expected: u64,
    },
    /// A number out of its range.
    #[error("{what} is {value}; allowed: {least} to {most}")]
    Range {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
        /// Least allowed.
        least: u64,
        /// Most allowed.
        most: u64,
    },
}

/// The node's shared memory, mapped. Threads share it by `Arc`, processes by its descriptor.
#[derive(Debug)]
pub struct Shared {
    region: Region,
    shard_count: u16,
    ring_words: usize,
}

impl Shared {
    /// Creates the memory of a new node. Errors: a number out of range, no memory.
    pub fn create(plan: ShardPlan) -> Result<Shared, SharedError> {
        let ring_bytes = plan.ring_bytes.clamp(RING_BYTES_MIN, RING_BYTES_MAX).next_power_of_two();
        let ring_words = ring_bytes / WORD_BYTES;
        let len_bytes = checked_len(u64::from(plan.shard_count), ring_words as u64)?;
        let region = Region::create("heronry-shards", len_bytes, true)?;
        let header: &[AtomicU64] = region.view(0, HEADER.len());
        let values = header_values(plan.shard_count, ring_words);
        for (cell, value) in header.iter().zip(values) {
            cell.store(value, Ordering::Relaxed);
        }
        Ok(Shared { region, shard_count: plan.shard_count, ring_words })
    }

    /// Maps the memory that another process created, and checks it (S1).
    pub fn attach(fd: OwnedFd) -> Result<Shared, SharedError> {
        let region = Region::attach(fd)?;
        let len_bytes = region.len_bytes() as u64;
        check_range("shared memory length", len_bytes, PAGE as u64, u64::MAX)?;
        let words: &[AtomicU64] = region.view(0, HEADER.len());
        let found: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        if found[0] != MAGIC {
            return Err(SharedError::Magic { found: found[0] });
        }
        let expected = checked_len(found[SHARDS_IDX], found[RING_WORDS_IDX])?;
        let (shard_count, ring_words) = (found[SHARDS_IDX] as u16, found[RING_WORDS_IDX] as usize);
        let values = header_values(shard_count, ring_words);
        for ((word, found), expected) in HEADER.into_iter().zip(found).zip(values) {
            check_word(word, found, expected)?;
        }
        check_word("a length in bytes of", len_bytes, expected)?;
        Ok(Shared { region, shard_count, ring_words })
    }

    /// The memfd, for passing on to a shard process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.region.fd()
    }

    /// Shards of the node.
    pub fn shard_count(&self) -> u16 {
        self.shard_count
    }

    /// All shards of the node.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shard_count).map(ShardId)
    }

    /// Bytes of one ring.
    pub fn ring_bytes(&self) -> usize {
        self.ring_words * WORD_BYTES
    }

    /// A shard's control block.
    #[inline]
    pub fn block(&self, shard: ShardId) -> &ControlBlock {
        &self.region.view(self.seat_offset(shard), 1)[0]
    }

    /// A shard's counters.
    #[inline]
    pub fn counters(&self, shard: ShardId) -> &CounterBlock {
        &self.region.view(self.seat_offset(shard) + COUNTERS_OFFSET, 1)[0]
    }

    /// One of a shard's latency histograms.
    #[inline]
    pub fn hist(&self, shard: ShardId, latency: Latency) -> &HistBlock {
        let place = latency as usize * size_of::<HistBlock>();
        &self.region.view(self.seat_offset(shard) + HISTS_OFFSET + place, 1)[0]
    }

    /// A shard's histogram of turn latencies.
    #[inline]
    pub fn turn_hist(&self, shard: ShardId) -> &HistBlock {
        self.hist(shard, Latency::Turn)
    }

    /// Sets a shard's state. Ring every reachable shard's doorbell after it, so that sleeping
    /// peers learn of it at once.
    pub fn set_state(&self, shard: ShardId, state: ShardState) {
        self.block(shard).store_state(state);
        self.node().changed();
    }

    /// A new life of `shard` begins; returns its generation, counted from 1.
    pub(crate) fn begin_life(&self, shard: ShardId) -> u64 {
        let generation = self.block(shard).next_generation();
        self.node().changed();
        generation
    }

    #[inline]
    pub(crate) fn change_count(&self) -> u64 {
        self.node().change_count()
    }

    /// The ring that `from` writes and `to` reads.
    #[inline]
    pub(crate) fn ring(&self, from: ShardId, to: ShardId) -> Ring<'_> {
        assert!(
            from.0 < self.shard_count && to.0 < self.shard_count,
            "S1: no ring {from:?} {to:?}"
        );
        let idx = usize::from(from.0) * usize::from(self.shard_count) + usize::from(to.0);
        let rings = PAGE + usize::from(self.shard_count) * SEAT_BYTES;
        let offset = rings + idx * ring_stride(self.ring_words);
        let head = &self.region.view::<RingHead>(offset, 1)[0];
        Ring::new(head, self.region.view(offset + size_of::<RingHead>(), self.ring_words))
    }

    fn node(&self) -> &NodeLine {
        &self.region.view(NODE_OFFSET, 1)[0]
    }

    fn seat_offset(&self, shard: ShardId) -> usize {
        assert!(shard.0 < self.shard_count, "S1: no shard {} of {}", shard.0, self.shard_count);
        PAGE + usize::from(shard.0) * SEAT_BYTES
    }
}

const HEADER: [&str; 7] =
    ["magic", "layout", "shard count", "ring words", "seat bytes", "counter slots", "latencies"];
const SHARDS_IDX: usize = 2;
const RING_WORDS_IDX: usize = 3;

fn header_values(shard_count: u16, ring_words: usize) -> [u64; HEADER.len()] {
    // Counters of the table are part of the layout: another build's have other meanings.
    let counters = (COUNTER_SLOTS * 1000 + Counter::ALL.len()) as u64;
    [
        MAGIC,
        LAYOUT,
        u64::from(shard_count),
        ring_words as u64,
        SEAT_BYTES as u64,
        counters,
        Latency::ALL.len() as u64,
    ]
}

/// Length of the file, after checking both numbers.
fn checked_len(shard_count: u64, ring_words: u64) -> Result<u64, SharedError> {
    check_range("shard count", shard_count, 1, u64::from(SHARD_COUNT_MAX))?;
    let (least, most) = (RING_BYTES_MIN / WORD_BYTES, RING_BYTES_MAX / WORD_BYTES);
    check_range("ring words", ring_words, least as u64, most as u64)?;
    if !ring_words.is_power_of_two() {
        let expected = ring_words.next_power_of_two();
        return Err(SharedError::Header { word: "ring words", found: ring_words, expected });
    }
    let stride = ring_stride(ring_words as usize) as u64;
    Ok(PAGE as u64 + shard_count * SEAT_BYTES as u64 + shard_count * shard_count * stride)
}

fn ring_stride(ring_words: usize) -> usize {
    (size_of::<RingHead>() + ring_words * WORD_BYTES).next_multiple_of(PAGE)
}

fn check_range(what: &'static str, value: u64, least: u64, most: u64) -> Result<(), SharedError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(SharedError::Range { what, value, least, most })
}

fn check_word(word: &'static str, found: u64, expected: u64) -> Result<(), SharedError> {
    if found == expected {
        return Ok(());
    }
    Err(SharedError::Header { word, found, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(shard_count: u16) -> ShardPlan {
        ShardPlan { shard_count, ring_bytes: 4096 }
    }

    #[test]
    fn s1_an_attached_copy_sees_the_same_memory() {
        let shared = Shared::create(plan(3)).unwrap();
        let other = Shared::attach(shared.fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((other.shard_count(), other.ring_bytes()), (3, 4096));
        shared.set_state(ShardId(2), ShardState::Up);
        shared.counters(ShardId(1)).add(Counter::Turns, 7);
        shared.hist(ShardId(0), Latency::Hop).record(9);
        assert_eq!(other.block(ShardId(2)).state(), ShardState::Up);
        assert_eq!(other.counters(ShardId(1)).get(Counter::Turns), 7);
        assert_eq!(other.hist(ShardId(0), Latency::Hop).snapshot().max_ns(), 9);
        assert_eq!(other.change_count(), 1);
    }

    #[test]
    fn s1_another_file_or_layout_is_refused() {
        let fresh = || Shared::create(plan(2)).unwrap();
        for (idx, name) in HEADER.iter().enumerate() {
            for bits in [0, 1, 3, 512, 1 << 40, u64::MAX] {
                let shared = fresh();
                let cell: &AtomicU64 = &shared.region.view(idx * 8, 1)[0];
                if cell.swap(bits, Ordering::Relaxed) != bits {
                    let fd = shared.fd().try_clone_to_owned().unwrap();
                    assert!(Shared::attach(fd).is_err(), "{name} = {bits}");
                }
            }
        }
        let growing = Region::create("test", PAGE as u64, false).unwrap();
        assert!(Shared::attach(growing.fd().try_clone_to_owned().unwrap()).is_err());
        let plain = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(Shared::attach(plain).is_err());
    }

    #[test]
    fn s1_plans_out_of_range_are_refused() {
        assert!(matches!(Shared::create(plan(0)), Err(SharedError::Range { value: 0, .. })));
        assert!(Shared::create(plan(SHARD_COUNT_MAX + 1)).is_err());
        let odd = Shared::create(ShardPlan { shard_count: 1, ring_bytes: 5000 }).unwrap();
        assert_eq!(odd.ring_bytes(), 8192);
    }

    #[test]
    fn s2_blocks_and_rings_do_not_overlap() {
        let shared = Shared::create(plan(3)).unwrap();
        for shard in shared.shards() {
            shared
                .counters(shard)
                .set(Counter::ALL[Counter::ALL.len() - 1], 1 + u64::from(shard.0));
            shared.block(shard).begin_turn(heronry_engine::Nanos(9), &[b'k'; 255]);
            Latency::ALL.iter().for_each(|latency| shared.hist(shard, *latency).record(u64::MAX));
        }
        for shard in shared.shards() {
            let last = Counter::ALL[Counter::ALL.len() - 1];
            let others = shared.counters(shard).rows().filter(|(name, _)| *name != last.name());
            assert_eq!(others.map(|(_, value)| value).sum::<u64>(), 0);
            assert_eq!(shared.counters(shard).get(last), 1 + u64::from(shard.0));
            assert_eq!(shared.block(shard).generation(), 0);
            for latency in Latency::ALL {
                assert_eq!(shared.hist(shard, *latency).snapshot().count(), 1);
            }
        }
        assert_eq!(shared.change_count(), 0);
    }
}
