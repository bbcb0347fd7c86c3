//! The roster: which agents a shard has, in a memfd that outlives the shard's process.
//!
//! Owns: the append log of births and ends, reading it back, compacting it.  Not: agents; what
//! to do about those that were lost; who holds the descriptor (the supervisor).
//! O1  an entry counts once the length that covers it is stored, after its bytes: a process
//!     killed at any instruction leaves a roster that reads back without that entry or with it.
//! O2  what is read back is checked; the log ends at the first entry that is not one.
//! O3  compaction writes the living elsewhere and switches with one store, so (O1) holds for it.

use crate::region::Region;
use crate::ring::{load_words, word_of};
use crate::sync::{AtomicU64, Ordering};
use bytes::Bytes;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use heronry_engine::limits::KEY_BYTES_MAX;
use heronry_engine::{AgentKey, TenantId};
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Below this length a roster is not worth compacting.
pub const COMPACT_BYTES_MIN: u64 = 1 << 20;
/// Largest file of one roster, on both sides of a compaction.
pub const ROSTER_BYTES_MAX: u64 = 16 << 30;

/// The file:
///
/// | words     | what                                                              |
/// |-----------|-------------------------------------------------------------------|
/// | 0, 1      | magic, format                                                     |
/// | 2         | which span is in force: 0 or 1                                    |
/// | 4, 5      | span 0: first word, word count                                    |
/// | 6, 7      | span 1: first word, word count                                    |
/// | 512...    | entries, anywhere after the first page                            |
const MAGIC: u64 = u64::from_le_bytes(*b"HERONROS");
const FORMAT: u64 = 1;
const PAGE_WORDS: u64 = 512;
const WORD_BYTES: u64 = 8;
const ACTIVE_IDX: usize = 2;
const SPANS_IDX: usize = 4;
/// Largest entry: its head and the longest key.
const ENTRY_WORDS_MAX: usize = 1 + KEY_BYTES_MAX.div_ceil(8);
const KIND: u64 = 0xff;
const CHECK: u64 = 0xffff << 16;
/// The file grows by this, or by an eighth of its length if that is more.
const STEP_BYTES: u64 = 1 << 20;
const BORN: u64 = 1;
const ENDED: u64 = 2;

/// Why a roster could not be used. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// The kernel refused.
    #[error("roster: {0}")]
    Io(#[from] io::Error),
    /// Not a roster, or of another format.
    #[error("roster begins with {magic:#018x}, format {format}; expected {MAGIC:#018x}, {FORMAT}")]
    Header {
        /// First word.
        magic: u64,
        /// Second word.
        format: u64,
    },
    /// `compact` was given more than the log's births.
    #[error("roster compaction was given more agents than were born: over {room_bytes} B")]
    Overrun {
        /// Room in front of the log.
        room_bytes: u64,
    },
    /// The log cannot grow further; compact it.
    #[error("roster has {len_bytes} B; allowed: {ROSTER_BYTES_MAX} B")]
    Full {
        /// Present length of the file.
        len_bytes: u64,
    },
}

/// One shard's roster. One writer at a time: the shard.
#[derive(Debug)]
pub struct Roster {
    region: Region,
    span: Span,
    births: u64,
    ends: u64,
}

/// What a roster says.
#[derive(Debug, Default)]
pub struct Reading {
    /// Agents born and not ended, in the order of their births. The keys share one buffer, which
    /// lives as long as any of them.
    pub living: Vec<(TenantId, AgentKey)>,
    /// Bytes at the log's end that were not entries; 0 unless the memory was damaged.
    pub damaged_bytes: u64,
}

/// Where the log lies, in words of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    /// Which of the two spans in the header.
    slot: u64,
    start: u64,
    count: u64,
}

/// A checked entry, read back. In the file:
///
/// | entry bits | what                                                             |
/// |------------|------------------------------------------------------------------|
/// | 0..8       | 1 birth, 2 end                                                   |
/// | 8..16      | key length in bytes, then the key follows, zero-padded to words  |
/// | 16..32     | check: hash of the other bits and of the key                     |
/// | 32..64     | tenant                                                           |
#[derive(Debug)]
struct Entry {
    kind: u64,
    tenant: TenantId,
    /// Hash of tenant and key.
    hash: u64,
    /// Where the key lies in the log's bytes.
    key: Range<usize>,
}

/// All that one pass over the log finds.
#[derive(Debug)]
struct Scan {
    reading: Reading,
    whole_words: u64,
    births: u64,
    ends: u64,
}

impl Roster {
    /// A new, empty roster in a memfd of its own. `name` is for `/proc`.
    pub fn create(name: &str) -> Result<Roster, RosterError> {
        let region = Region::create(name, PAGE_WORDS * WORD_BYTES, false)?;
        let words = region.view::<AtomicU64>(0, PAGE_WORDS as usize);
        words[1].store(FORMAT, Ordering::Relaxed);
        words[SPANS_IDX].store(PAGE_WORDS, Ordering::Relaxed);
        words[0].store(MAGIC, Ordering::Release);
        let span = Span { slot: 0, start: PAGE_WORDS, count: 0 };
        Ok(Roster { region, span, births: 0, ends: 0 })
    }

    /// Opens the roster behind `fd`, to append after its last whole entry (O2), and reads it.
    /// Cost: about 0.1 us per entry.
    pub fn attach(fd: OwnedFd) -> Result<(Roster, Reading), RosterError> {
        let mut region = Region::attach(fd)?;
        // A file shorter than a header grows to zeros, which are no magic.
        region.grow(PAGE_WORDS * WORD_BYTES)?;
        let words = region.view::<AtomicU64>(0, PAGE_WORDS as usize);
        let magic = words[0].load(Ordering::Acquire);
        let format = words[1].load(Ordering::Relaxed);
        if magic != MAGIC || format != FORMAT {
            return Err(RosterError::Header { magic, format });
        }
        let mut span = read_span(&region);
        let Scan { reading, whole_words, births, ends } = scan(&region, span);
        span.count = whole_words;
        let roster = Roster { region, span, births, ends };
        roster.switch(span);
        Ok((roster, reading))
    }

    /// The memfd, for keeping and passing on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.region.fd()
    }

    /// An agent was born. Cost: one store per 8 key bytes, two for the rest; now and then the
    /// file grows.
    #[inline]
    pub fn born(&mut self, tenant: TenantId, key: &AgentKey) -> Result<(), RosterError> {
        self.append(BORN, tenant, key.as_bytes())?;
        self.births += 1;
        Ok(())
    }

    /// An agent ended.
    #[inline]
    pub fn ended(&mut self, tenant: TenantId, key: &AgentKey) -> Result<(), RosterError> {
        self.append(ENDED, tenant, key.as_bytes())?;
        self.ends += 1;
        Ok(())
    }

    /// Bytes of the log.
    pub fn len_bytes(&self) -> u64 {
        self.span.count * WORD_BYTES
    }

    /// Whether `compact` would pay: the log is long and more than half of its births ended.
    pub fn wants_compaction(&self) -> bool {
        self.len_bytes() > COMPACT_BYTES_MIN && self.ends > self.births / 2
    }

    /// Replaces the log by births of the `living`: all agents that are to be known after a
    /// restart, lost ones too, and none that was not born. Cost: one append each.
    /// Fails: the old log stands (O3).
    pub fn compact<'k>(
        &mut self,
        living: impl Iterator<Item = (TenantId, &'k AgentKey)>,
    ) -> Result<(), RosterError> {
        let old = self.span;
        // The living are a part of the births, so the new log is no longer than the old one.
        let in_front = old.start - PAGE_WORDS >= old.count + ENTRY_WORDS_MAX as u64;
        let start = if in_front { PAGE_WORDS } else { old.start + old.count };
        let end = if in_front { old.start } else { ROSTER_BYTES_MAX / WORD_BYTES };
        let mut next = Span { slot: old.slot ^ 1, start, count: 0 };
        let mut births = 0;
        for (tenant, key) in living {
            if next.start + next.count + ENTRY_WORDS_MAX as u64 > end {
                return Err(RosterError::Overrun { room_bytes: (end - start) * WORD_BYTES });
            }
            next.count += self.write(next, BORN, tenant, key.as_bytes())?;
            births += 1;
        }
        self.switch(next);
        (self.span, self.births, self.ends) = (next, births, 0);
        self.region.discard(old.start * WORD_BYTES, old.count * WORD_BYTES);
        Ok(())
    }

    /// Reads the whole log back (O2).
    pub fn read(&self) -> Reading {
        scan(&self.region, self.span).reading
    }

    #[inline]
    fn append(&mut self, kind: u64, tenant: TenantId, key: &[u8]) -> Result<(), RosterError> {
        self.span.count += self.write(self.span, kind, tenant, key)?;
        let words = self.region.view::<AtomicU64>(0, PAGE_WORDS as usize);
        words[SPANS_IDX + 2 * self.span.slot as usize + 1]
            .store(self.span.count, Ordering::Release);
        Ok(())
    }

    /// Writes an entry behind `span` without counting it; returns its words.
    #[inline]
    fn write(
        &mut self,
        span: Span,
        kind: u64,
        tenant: TenantId,
        key: &[u8],
    ) -> Result<u64, RosterError> {
        let offset = (span.start + span.count) * WORD_BYTES;
        let end = offset + ENTRY_WORDS_MAX as u64 * WORD_BYTES;
        if end > self.region.len_bytes() as u64 {
            self.grow(end)?;
        }
        let cells = self.region.view::<AtomicU64>(offset as usize, ENTRY_WORDS_MAX);
        let head = (key.len() as u64) << 8 | u64::from(tenant.0) << 32;
        let mut hash = head;
        for (cell, word) in cells[1..].iter().zip(words_of(key)) {
            hash = mix(hash, word);
            cell.store(word, Ordering::Relaxed);
        }
        cells[0].store(head | kind | seal(hash, kind), Ordering::Relaxed);
        Ok(1 + key.len().div_ceil(8) as u64)
    }

    #[cold]
    fn grow(&mut self, end_bytes: u64) -> Result<(), RosterError> {
        let len_bytes = self.region.len_bytes() as u64;
        if end_bytes > ROSTER_BYTES_MAX {
            return Err(RosterError::Full { len_bytes });
        }
        let step = STEP_BYTES.max(len_bytes / 8).next_multiple_of(PAGE_WORDS * WORD_BYTES);
        Ok(self.region.grow(end_bytes.max(len_bytes + step))?)
    }

    /// Puts a span in force with one store (O3).
    fn switch(&self, span: Span) {
        let words = self.region.view::<AtomicU64>(0, PAGE_WORDS as usize);
        let place = SPANS_IDX + 2 * span.slot as usize;
        words[place].store(span.start, Ordering::Relaxed);
        words[place + 1].store(span.count, Ordering::Release);
        words[ACTIVE_IDX].store(span.slot, Ordering::Release);
    }
}

/// The span in force, cut to the file.
fn read_span(region: &Region) -> Span {
    let words = region.view::<AtomicU64>(0, PAGE_WORDS as usize);
    let slot = words[ACTIVE_IDX].load(Ordering::Acquire) & 1;
    let place = SPANS_IDX + 2 * slot as usize;
    let count = words[place + 1].load(Ordering::Acquire);
    let end = region.len_bytes() as u64 / WORD_BYTES;
    let start = words[place].load(Ordering::Relaxed);
    if !(PAGE_WORDS..=end).contains(&start) {
        return Span { slot, start: PAGE_WORDS, count: 0 };
    }
    Span { slot, start, count: count.min(end - start) }
}

/// Reads a span entry by entry, up to the first that is not one (O2).
fn scan(region: &Region, span: Span) -> Scan {
    let offset = (span.start * WORD_BYTES) as usize;
    let mut log = vec![0; (span.count * WORD_BYTES) as usize];
    load_words(region.view(offset, span.count as usize), &mut log);
    let (mut births, mut ends, mut whole_words) = (0, 0, 0u64);
    let mut born: Vec<Option<Entry>> = Vec::new();
    // Places in `born`, found by tenant and key.
    let mut places: HashTable<u32> = HashTable::new();
    while let Some(entry) = parse(&log, (whole_words * WORD_BYTES) as usize) {
        whole_words += 1 + entry.key.len().div_ceil(8) as u64;
        let at = |place: u32| born[place as usize].as_ref().expect("O2: places are of the living");
        let same = |place: &u32| {
            let other = at(*place);
            other.tenant == entry.tenant && log[other.key.clone()] == log[entry.key.clone()]
        };
        let slot = places.entry(entry.hash, same, |place| at(*place).hash);
        match (entry.kind, slot) {
            (BORN, Slot::Vacant(slot)) => {
                slot.insert(born.len() as u32);
                births += 1;
                born.push(Some(entry));
            }
            (BORN, Slot::Occupied(_)) => births += 1,
            (_, Slot::Vacant(_)) => ends += 1,
            (_, Slot::Occupied(slot)) => {
                ends += 1;
                born[slot.remove().0 as usize] = None;
            }
        }
    }
    let damaged_bytes = (span.count - whole_words) * WORD_BYTES;
    let log = Bytes::from(log);
    let key_of = |entry: Entry| Some((entry.tenant, AgentKey::new(log.slice(entry.key)).ok()?));
    let living = born.into_iter().flatten().filter_map(key_of).collect();
    Scan { reading: Reading { living, damaged_bytes }, whole_words, births, ends }
}

/// The entry at `offset` of the log, if it is one.
fn parse(log: &[u8], offset: usize) -> Option<Entry> {
    let head = word_of(log.get(offset..offset + 8)?);
    let kind = head & KIND;
    let key = offset + 8..offset + 8 + (head >> 8 & 0xff) as usize;
    let hash = words_of(log.get(key.clone())?).fold(head & !(KIND | CHECK), mix);
    if !(BORN..=ENDED).contains(&kind) || head & CHECK != seal(hash, kind) {
        return None;
    }
    Some(Entry { kind, tenant: TenantId((head >> 32) as u32), hash, key })
}

/// A key as it stands in the log.
fn words_of(key: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (whole, rest) = key.split_at(key.len() / 8 * 8);
    whole.chunks_exact(8).chain((!rest.is_empty()).then_some(rest)).map(word_of)
}

fn mix(check: u64, word: u64) -> u64 {
    (check.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The check bits, in their place.
fn seal(hash: u64, kind: u64) -> u64 {
    mix(hash, kind) >> 48 << 16
}

#[cfg(test)]
mod tests;
