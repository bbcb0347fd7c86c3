//! SPSC rings of records in memory shared by two shards, and the flag of a parked shard.
//!
//! Owns: the index protocol, the record format, its checks, how a damaged ring heals, the park
//! handshake.  Not: where rings lie (`shared`), messages, backlogs or peers (`mesh`).
//! R1  a record is visible whole or not at all: one release store of `tail` publishes a batch.
//! R2  indices, lengths and stamps that the other side wrote are checked before use.
//! R3  each side keeps its index privately; the shared words are copies. Damage costs records,
//!     never a panic, and both sides agree again: the reader rewrites `head`, and a writer whose
//!     `tail` cannot follow from `head` moves to `head`.
//! R4  announce, ask for room, fence, look again, sleep on one side; write, fence, claim on the
//!     other: one of the two sees the other, so no wake-up is lost.

use crate::sync::{AtomicU64, Ordering, fence};

/// Bytes of one ring word; positions and lengths inside a ring count words.
pub const WORD_BYTES: usize = 8;
/// A record takes at most one part in this many of its ring, so that a ring is never blocked by
/// one record.
pub const RECORD_SHARE: usize = 4;
/// Smallest ring: room for a few short records.
pub const RING_WORDS_MIN: usize = 8;
/// Largest ring: a record's length must fit its 28 bits.
pub const RING_WORDS_MAX: usize = (1 << 30) / WORD_BYTES;

const LEN_BITS: u64 = 28;
const LEN_MASK: u64 = (1 << LEN_BITS) - 1;
const FIRST: u64 = 1 << 28;
const LAST: u64 = 1 << 29;
const ZERO: u64 = 3 << 30;
const _: () = assert!(RING_WORDS_MAX * WORD_BYTES / RECORD_SHARE <= 1 << LEN_BITS);

/// The writer's line: nobody else writes it, but `starved` is cleared by the reader.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct TailLine {
    tail: AtomicU64,
    starved: AtomicU64,
}

/// The reader's line.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct HeadLine {
    head: AtomicU64,
}

/// Both shared indices, on lines of their own. All zero is an empty ring.
#[derive(Debug, Default)]
#[repr(C)]
pub struct RingHead {
    writer: TailLine,
    reader: HeadLine,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<RingHead>() == 256);

/// One ring, borrowed from the memory it lies in.
#[derive(Clone, Copy, Debug)]
pub struct Ring<'a> {
    head: &'a RingHead,
    words: &'a [AtomicU64],
}

/// What stands beside a record's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// Whether a message begins here.
    pub first: bool,
    /// Whether a message ends here.
    pub last: bool,
    /// Lowest 8 bits of the reader's generation, as the writer knew it.
    pub to_generation: u8,
    /// Lowest 8 bits of the writer's generation.
    pub from_generation: u8,
}

/// The writer's side of a ring: private truth, published by [`Writer::publish`].
#[derive(Debug)]
pub struct Writer {
    tail: u64,
    published: u64,
    head_seen: u64,
}

/// The reader's side of a ring.
#[derive(Debug)]
pub struct Reader {
    head: u64,
    tail_seen: u64,
    released: u64,
    fault: Option<u64>,
}

/// What became of a push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Push {
    /// Staged; visible after the next publish.
    Done,
    /// No room until the reader has read more; nothing was staged.
    Full,
    /// The shared indices were damaged: all unread records are gone, nothing was staged (R3).
    Reset,
}

/// What a look at the writer's index found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Nothing new.
    Empty,
    /// Records to read with [`Reader::next`].
    Ready,
    /// The index is impossible, told once per value: the writer must verify its side (R3).
    Corrupt,
}

/// The next record within the range last looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// All read.
    End,
    /// A record; then call [`Reader::take`] or [`Reader::skip`].
    Record(Record),
    /// Not a record: everything published up to the last look was dropped.
    Corrupt,
}

/// A checked record head. A record in its ring:
///
/// | record bits | meaning                                             |
/// |-------------|-----------------------------------------------------|
/// | 0..28       | payload length in bytes                             |
/// | 28, 29      | first, last record of its message                   |
/// | 30..32      | 0                                                   |
/// | 32..48      | stamp: hash of the record's position                |
/// | 48..56      | generation of the shard it is for, lowest 8 bits    |
/// | 56..64      | generation of the shard that wrote it, lowest 8 bits|
/// | then        | the payload, little-endian words, zero-padded       |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its tag.
    pub tag: Tag,
    /// Payload length in bytes.
    pub len_bytes: usize,
}

impl<'a> Ring<'a> {
    /// A ring over `words`, whose count is a power of two within the bounds above.
    pub fn new(head: &'a RingHead, words: &'a [AtomicU64]) -> Ring<'a> {
        assert!(words.len().is_power_of_two(), "R2: ring of {} words", words.len());
        assert!((RING_WORDS_MIN..=RING_WORDS_MAX).contains(&words.len()), "R2: ring length");
        Ring { head, words }
    }

    /// Largest payload of one record in bytes.
    pub fn record_bytes_max(&self) -> usize {
        (self.words.len() / RECORD_SHARE - 1) * WORD_BYTES
    }

    /// Whether the writer asked to be woken when there is room; clears the request. Call after
    /// [`Reader::release`] and [`barrier`] (R4).
    pub fn claim_starved(&self) -> bool {
        let starved = &self.head.writer.starved;
        starved.load(Ordering::Relaxed) != 0 && starved.swap(0, Ordering::AcqRel) != 0
    }

    /// Damages a shared word: the writer's index, `starved`, the reader's index, or a record's.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn scribble(&self, place: usize, bits: u64) {
        let RingHead { writer, reader } = self.head;
        let indices = [&writer.tail, &writer.starved, &reader.head];
        let mut cells = indices.into_iter().chain(self.words);
        let cell = cells.nth(place % (self.words.len() + 3)).expect("a place within");
        cell.store(bits, Ordering::Relaxed);
    }

    fn word_count(&self) -> u64 {
        self.words.len() as u64
    }

    /// The `count` words from `position` on, as two runs because the ring wraps.
    fn runs(&self, position: u64, count: usize) -> (&'a [AtomicU64], &'a [AtomicU64]) {
        let start = (position & (self.word_count() - 1)) as usize;
        let first = count.min(self.words.len() - start);
        (&self.words[start..start + first], &self.words[..count - first])
    }

    fn word(&self, position: u64) -> &'a AtomicU64 {
        &self.words[(position & (self.word_count() - 1)) as usize]
    }
}

impl Writer {
    /// Takes up writing where the last writer published; what it had staged is gone.
    pub fn attach(ring: Ring<'_>) -> Writer {
        let tail = ring.head.writer.tail.load(Ordering::Acquire);
        let mut writer = Writer { tail, published: tail, head_seen: tail };
        ring.head.writer.starved.store(0, Ordering::Relaxed);
        writer.verify(ring);
        writer
    }

    /// Stages one record. `payload` is at most [`Ring::record_bytes_max`].
    pub fn push(&mut self, ring: Ring<'_>, tag: Tag, payload: &[u8]) -> Push {
        assert!(payload.len() <= ring.record_bytes_max(), "R2: record of {} B", payload.len());
        let count = payload.len().div_ceil(WORD_BYTES);
        let need = count as u64 + 1;
        if self.room(ring) < need {
            self.publish(ring);
            if self.verify(ring) {
                return Push::Reset;
            }
            if self.room(ring) < need {
                return Push::Full;
            }
        }
        ring.word(self.tail).store(encode(self.tail, tag, payload.len()), Ordering::Relaxed);
        let (first, second) = ring.runs(self.tail.wrapping_add(1), count);
        let cut = payload.len().min(first.len() * WORD_BYTES);
        store_words(first, &payload[..cut]);
        store_words(second, &payload[cut..]);
        self.tail = self.tail.wrapping_add(need);
        Push::Done
    }

    /// Makes the staged records visible, with one release store (R1). Returns whether any were.
    pub fn publish(&mut self, ring: Ring<'_>) -> bool {
        if self.tail == self.published {
            return false;
        }
        ring.head.writer.tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
        true
    }

    /// Whether records wait to be published.
    pub fn staged(&self) -> bool {
        self.tail != self.published
    }

    /// Looks at the reader's index and puts both shared words in order (R3). True when the index
    /// was impossible: then everything unread, staged records too, is gone.
    pub fn verify(&mut self, ring: Ring<'_>) -> bool {
        let head = ring.head.reader.head.load(Ordering::Acquire);
        self.head_seen = head;
        let reset = self.tail.wrapping_sub(head) > ring.word_count();
        if reset {
            self.tail = head;
            self.published = head;
        }
        if ring.head.writer.tail.load(Ordering::Relaxed) != self.published {
            ring.head.writer.tail.store(self.published, Ordering::Release);
        }
        reset
    }

    /// Asks the reader to wake this side when it has read some. Call it after
    /// [`ParkFlag::announce`], so that whoever takes the request sees the announcement; then
    /// [`barrier`], look with [`Writer::has_room`], and sleep only without room (R4).
    pub fn starve(&self, ring: Ring<'_>) {
        // A swap, because it follows the reader's last claim in every thread's view.
        ring.head.writer.starved.swap(1, Ordering::AcqRel);
    }

    /// Whether a payload of `len_bytes` fits, or the reader's index changed in an impossible
    /// way; both are reasons not to sleep.
    pub fn has_room(&self, ring: Ring<'_>, len_bytes: usize) -> bool {
        let head = ring.head.reader.head.load(Ordering::Acquire);
        let used = self.tail.wrapping_sub(head);
        let need = len_bytes.div_ceil(WORD_BYTES) as u64 + 1;
        used > ring.word_count() || ring.word_count() - used >= need
    }

    fn room(&self, ring: Ring<'_>) -> u64 {
        ring.word_count().saturating_sub(self.tail.wrapping_sub(self.head_seen))
    }
}

impl Reader {
    /// Takes up reading at the writer's published end: what was queued is discarded.
    pub fn attach(ring: Ring<'_>) -> Reader {
        let tail = ring.head.writer.tail.load(Ordering::Acquire);
        ring.head.reader.head.store(tail, Ordering::Release);
        Reader { head: tail, tail_seen: tail, released: tail, fault: None }
    }

    /// Loads the writer's index and checks it (R2).
    pub fn look(&mut self, ring: Ring<'_>) -> Look {
        let tail = ring.head.writer.tail.load(Ordering::Acquire);
        if tail == self.head {
            return Look::Empty;
        }
        if tail.wrapping_sub(self.head) <= ring.word_count() {
            self.fault = None;
            self.tail_seen = tail;
            return Look::Ready;
        }
        self.tail_seen = self.head;
        if self.fault == Some(tail) {
            return Look::Empty;
        }
        self.fault = Some(tail);
        self.rewrite(ring);
        Look::Corrupt
    }

    /// Whether a look would find something new. For the second look before sleeping (R4).
    pub fn has_news(&self, ring: Ring<'_>) -> bool {
        let tail = ring.head.writer.tail.load(Ordering::Acquire);
        tail != self.head && self.fault != Some(tail)
    }

    /// The next record's head, checked (R2).
    pub fn next(&mut self, ring: Ring<'_>) -> Next {
        let available = self.tail_seen.wrapping_sub(self.head);
        if available == 0 {
            return Next::End;
        }
        let bits = ring.word(self.head).load(Ordering::Relaxed);
        let record = decode(self.head, bits).filter(|record| {
            record.len_bytes <= ring.record_bytes_max() && record.word_count() <= available
        });
        match record {
            Some(record) => Next::Record(record),
            None => {
                self.head = self.tail_seen;
                Next::Corrupt
            }
        }
    }

    /// Appends the record's payload to `out`. `record` is what `next` just returned.
    pub fn take(&mut self, ring: Ring<'_>, record: Record, out: &mut Vec<u8>) {
        let start = out.len();
        let count = record.len_bytes.div_ceil(WORD_BYTES);
        out.resize(start + count * WORD_BYTES, 0);
        let (first, second) = ring.runs(self.head.wrapping_add(1), count);
        let (left, right) = out[start..].split_at_mut(first.len() * WORD_BYTES);
        load_words(first, left);
        load_words(second, right);
        out.truncate(start + record.len_bytes);
        self.skip(ring, record);
    }

    /// Passes over the record that `next` just returned.
    pub fn skip(&mut self, ring: Ring<'_>, record: Record) {
        self.head = self.head.wrapping_add(record.word_count());
        // A long batch gives room back on its way, so that the writer can go on beside it.
        if self.head.wrapping_sub(self.released) > ring.word_count() / RECORD_SHARE as u64 {
            self.release(ring);
        }
    }

    /// Gives what was read back to the writer. Returns whether there was any.
    pub fn release(&mut self, ring: Ring<'_>) -> bool {
        if self.head == self.released {
            return false;
        }
        self.rewrite(ring);
        true
    }

    /// Puts the shared index in order if something else wrote it (R3).
    pub fn heal(&mut self, ring: Ring<'_>) {
        if ring.head.reader.head.load(Ordering::Relaxed) != self.released {
            self.rewrite(ring);
        }
    }

    fn rewrite(&mut self, ring: Ring<'_>) {
        ring.head.reader.head.store(self.head, Ordering::Release);
        self.released = self.head;
    }
}

impl Record {
    fn word_count(&self) -> u64 {
        self.len_bytes.div_ceil(WORD_BYTES) as u64 + 1
    }
}

/// The flag by which a shard says that it sleeps (R4). All zero is awake.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct ParkFlag(AtomicU64);

impl ParkFlag {
    /// The sleeper's announcement. Then [`Writer::starve`] where there is no room, then
    /// [`barrier`], then the second look. A swap, so that it follows the last claim in every
    /// thread's view.
    pub fn announce(&self) {
        self.0.swap(1, Ordering::AcqRel);
    }

    /// The sleeper is awake again.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether the shard sleeps and the caller is the one who must ring it. Call after
    /// publishing and [`barrier`].
    pub fn claim(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0 && self.0.swap(0, Ordering::AcqRel) != 0
    }

    /// Whether the shard says it sleeps. For reports.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// Stands between a side's own stores and its look at what the other side stored (R4).
/// Cost: one full fence.
#[inline]
pub fn barrier() {
    fence(Ordering::SeqCst);
}

/// Sixteen bits that differ between neighbouring records and between laps of one place.
fn stamp(position: u64) -> u64 {
    position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48
}

fn encode(position: u64, tag: Tag, len_bytes: usize) -> u64 {
    let first = if tag.first { FIRST } else { 0 };
    let last = if tag.last { LAST } else { 0 };
    len_bytes as u64
        | first
        | last
        | stamp(position) << 32
        | u64::from(tag.to_generation) << 48
        | u64::from(tag.from_generation) << 56
}

fn decode(position: u64, bits: u64) -> Option<Record> {
    if bits & ZERO != 0 || (bits >> 32) & 0xffff != stamp(position) {
        return None;
    }
    let tag = Tag {
        first: bits & FIRST != 0,
        last: bits & LAST != 0,
        to_generation: (bits >> 48) as u8,
        from_generation: (bits >> 56) as u8,
    };
    Some(Record { tag, len_bytes: (bits & LEN_MASK) as usize })
}

/// Stores `bytes` as little-endian words, the last one padded with zeros.
pub(crate) fn store_words(words: &[AtomicU64], bytes: &[u8]) {
    for (chunk, cell) in bytes.chunks_exact(WORD_BYTES).zip(words) {
        cell.store(word_of(chunk), Ordering::Relaxed);
    }
    let rest = &bytes[bytes.len() / WORD_BYTES * WORD_BYTES..];
    if !rest.is_empty() {
        words[bytes.len() / WORD_BYTES].store(word_of(rest), Ordering::Relaxed);
    }
}

/// At most 8 bytes as a little-endian word.
#[inline]
pub(crate) fn word_of(bytes: &[u8]) -> u64 {
    match bytes.try_into() {
        Ok(bytes) => u64::from_le_bytes(bytes),
        // Shorter than a copy call is.
        Err(_) => bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// Loads little-endian words; `bytes` are as many whole words.
pub(crate) fn load_words(words: &[AtomicU64], bytes: &mut [u8]) {
    for (chunk, cell) in bytes.chunks_exact_mut(WORD_BYTES).zip(words) {
        chunk.copy_from_slice(&cell.load(Ordering::Relaxed).to_le_bytes());
    }
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
