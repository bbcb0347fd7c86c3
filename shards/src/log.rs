//! A shard's log on disk: one write at a time, and reads of what is wanted again.
//!
//! Owns: segments, where the next batch goes, batches that wait, what the disk said.  Not: what
//! records say (the engine), reads (`read.rs`; at a start `scan.rs`), which segments go
//! (`upkeep.rs`), room made ready (`ahead.rs`), second names (`cut.rs`), files (`files.rs`).
//! G1  one batch is in flight at a time, so that only the last one can be torn.
//! G2  a flush is reported when all batches of it are on disk, and never else.
//! G3  an error of a write ends the log: nothing is reported any more, and the shard begins again
//!     from what is on disk. A segment that cannot be made, as when the disk is full, is no such
//!     error: the batch waits for it.
//! G4  a batch lies in one segment; segments are used in order.
//! G5  a segment goes only while nothing is on its way: what was brought forward out of it is on
//!     disk elsewhere.

mod ahead;
mod cut;
mod files;
pub mod folder;
mod read;
pub(crate) mod scan;
mod stream;
mod upkeep;

use crate::connection::{Mark, Todo};
use crate::driver::{Done, Driver, Handle, Op};
use ahead::Ahead;
use cut::Cut;
use heronry_engine::log::{
    BATCH_ALIGN_BYTES, BATCH_BYTES_MAX, BatchHead, HEAD_BYTES, LogKey, Packer, Place,
};
use heronry_engine::partition::Flush;
use heronry_engine::{Nanos, Partition, ShardId};
use read::{Load, Read};
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

pub use files::{LogFile, LogFiles};

/// Bytes of records that one pass makes, about: some tenths of a millisecond of work.
const FLUSH_BYTES_MAX: usize = 512 << 10;
/// Batches that wait for the disk, in bytes: past it no records are made.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// How long to wait before asking a full disk again.
const FULL_PAUSE: Nanos = Nanos::from_ms(100);
/// Segments that a start may find without having an index written at once.
const SEGMENTS_MAX: usize = 4;
/// Pause between two passes that empty a segment when there is nothing else to do.
const COMPACT_PAUSE: Nanos = Nanos::from_ms(1);

/// What a log is to be like.
pub struct LogPlan {
    /// Its files.
    pub files: Box<dyn LogFiles>,
    /// The key of its hashes.
    pub key: LogKey,
    /// Length of a segment.
    pub segment_bytes: u32,
    /// How long a change waits for others when nobody waits for it.
    pub delay: Nanos,
    /// Bytes written after which an index is.
    pub index_bytes: u64,
}

/// What the log has done, for its shard's counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogTotals {
    /// Batches on disk.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of records in them.
    pub record_bytes: u64,
    /// Indexes written.
    pub indexes: u64,
    /// Segments emptied.
    pub compactions: u64,
}

/// A batch that is ready for the disk.
struct Ready {
    segment: u32,
    offset: u32,
    bytes: Vec<u8>,
    /// The flush that is on disk with it.
    flush: Option<u64>,
    /// Where the index begins that is whole with it.
    index: Option<u32>,
}

/// Where the next batch goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct End {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) sequence: u64,
    pub(crate) epoch: u32,
}

/// The log of a running shard.
pub(crate) struct Log {
    me: ShardId,
    plan: LogPlan,
    end: End,
    packer: Packer,
    flush: Flush,
    ready: VecDeque<Ready>,
    ready_bytes: usize,
    writing: Option<Ready>,
    writer: Option<(u32, Handle)>,
    ahead: Ahead,
    spare: Vec<u8>,
    /// When what has changed is written, if nobody asks for it before.
    due: Option<Nanos>,
    /// When to ask a full disk again.
    full_until: Option<Nanos>,
    failed: Option<String>,
    readers: BTreeMap<u32, (Handle, u64)>,
    reads: Slab<Read>,
    loads: Slab<Load>,
    read_count: u64,
    /// Files that are read no more.
    closing: Vec<Handle>,
    index_begun: u32,
    /// Where the index begins that has ended, in a flush that is not whole yet.
    index_ended: Option<u32>,
    index_bytes: u64,
    /// The first segment that a start reads.
    first: u32,
    /// The segment that is being emptied, and how often all agents were looked at.
    victim: Option<(u32, u32)>,
    /// Segments that could not be emptied.
    spared: BTreeSet<u32>,
    /// Bytes of the segments that are written no more.
    lengths: BTreeMap<u32, u64>,
    /// Whether what was written last is of a flush that is not whole.
    void: bool,
    /// Whether segments may have become useless.
    untidy: bool,
    /// What is to be cut off, if anything.
    cut: Cut,
    totals: LogTotals,
    report: fn(std::fmt::Arguments<'_>),
}

impl Log {
    pub(crate) fn new(
        me: ShardId,
        mut plan: LogPlan,
        end: End,
        report: fn(std::fmt::Arguments<'_>),
    ) -> Log {
        // A list that cannot be read now was read a moment ago.
        let (segments, first) = plan.files.list().unwrap_or_default();
        let first = first.or(segments.first().copied()).unwrap_or(0);
        let mut lengths = BTreeMap::new();
        for segment in &segments {
            // One that cannot be trimmed keeps its room.
            let bytes = plan.files.trim(*segment).unwrap_or(plan.segment_bytes.into());
            lengths.insert(*segment, bytes);
        }
        // Each life begins with a new segment: after many short ones the old are soon emptied.
        let index_bytes = if segments.len() > SEGMENTS_MAX { plan.index_bytes } else { 0 };
        Log {
            me,
            plan,
            end,
            packer: Packer::default(),
            flush: Flush::default(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            writing: None,
            writer: None,
            ahead: Ahead::default(),
            spare: Vec::new(),
            due: None,
            full_until: None,
            failed: None,
            readers: BTreeMap::new(),
            reads: Slab::new(),
            loads: Slab::new(),
            read_count: 0,
            closing: Vec::new(),
            index_begun: end.segment,
            index_ended: None,
            index_bytes,
            first,
            victim: None,
            spared: BTreeSet::new(),
            lengths,
            void: false,
            untidy: false,
            cut: Cut::default(),
            totals: LogTotals::default(),
            report,
        }
    }

    pub(crate) fn totals(&self) -> LogTotals {
        self.totals
    }

    /// Why the log has ended, if it has (G3).
    pub(crate) fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Whether a write or a read is in flight.
    pub(crate) fn is_busy(&self) -> bool {
        self.writing.is_some() || self.ahead.is_busy() || !self.reads.is_empty()
    }

    /// Makes records of what has changed, where it is time for that, and writes. Returns when to
    /// call it again at the latest.
    pub(crate) fn pump<D: Driver>(
        &mut self,
        now: Nanos,
        partition: &mut Partition,
        driver: &mut D,
        hurry: bool,
    ) -> Option<Nanos> {
        if self.failed.is_some() {
            return None;
        }
        if self.writing.is_none() && self.ready.is_empty() {
            self.settled(partition);
            self.cut_off(partition);
        }
        let hurry = hurry || self.cut.is_due();
        let mut again = None;
        if partition.wants_flush() && self.ready_bytes < WAITING_BYTES_MAX {
            let urgent = hurry || partition.waiting_count() > 0 || partition.is_flushing();
            let due = *self.due.get_or_insert(now.after(self.plan.delay));
            if urgent || due <= now {
                // While a write is in flight, more changes may come that share the next one.
                let one_more = partition.is_flushing() && self.ready.len() < 2;
                if self.writing.is_none() && self.ready.is_empty() || one_more {
                    self.make(now, partition);
                }
            } else {
                again = Some(due);
            }
        }
        self.write(now, partition, driver);
        self.compact(partition);
        for handle in self.closing.drain(..) {
            driver.submit(Mark::LogWrite.token(), Op::Close(handle));
        }
        let idle = self.writing.is_none() && self.ready.is_empty();
        if partition.wants_flush() && partition.is_flushing() && idle {
            again = Some(now);
        }
        if self.victim.is_some() {
            let soon = now.after(COMPACT_PAUSE);
            again = Some(again.map_or(soon, |again| again.min(soon)));
        }
        match self.full_until {
            Some(until) => Some(again.map_or(until, |again| again.min(until))),
            None => again,
        }
    }

    fn make(&mut self, now: Nanos, partition: &mut Partition) {
        let between = !partition.is_indexing() && !partition.is_flushing();
        if self.index_bytes >= self.plan.index_bytes && between {
            self.seal(now, partition, None);
            self.roll();
            (self.index_begun, self.index_bytes) = (self.end.segment, 0);
            partition.begin_index();
        }
        let was_indexing = partition.is_indexing();
        self.flush.clear();
        let flushed = partition.flush(FLUSH_BYTES_MAX, &mut self.flush);
        let flush = std::mem::take(&mut self.flush);
        let mut at = 0;
        for made in &flush.made {
            let record = &flush.bytes[at..at + made.len_bytes];
            at += made.len_bytes;
            if !self.fits(record.len()) {
                self.seal(now, partition, None);
                if !self.fits(record.len()) {
                    self.roll();
                }
            }
            let begins = self.packer.push(record);
            let offset = self.end.offset + begins as u32;
            let len_bytes = record.len() as u32;
            partition.placed(*made, Place { segment: self.end.segment, offset, len_bytes });
        }
        self.totals.record_bytes += flush.bytes.len() as u64;
        self.flush = flush;
        self.due = None;
        if was_indexing && !partition.is_indexing() {
            self.index_ended = Some(self.index_begun);
        }
        // An index is good for a start once the flush that it is in is whole.
        let index = flushed.and_then(|_| self.index_ended.take());
        if flushed.is_some() || !self.packer.is_empty() {
            self.seal_with(now, partition, flushed, index);
        }
    }

    /// Whether a record of this length fits into the batch, and the batch into its segment (G4).
    fn fits(&self, record_bytes: usize) -> bool {
        let batch = self.packer.len_bytes() + record_bytes;
        let room = (self.plan.segment_bytes - self.end.offset) as usize;
        batch.next_multiple_of(BATCH_ALIGN_BYTES) <= room.min(BATCH_BYTES_MAX)
    }

    fn roll(&mut self) {
        let empty = self.end.offset == 0;
        assert!(!empty || self.packer.is_empty(), "G4: no segment holds such a record");
        if !empty {
            self.lengths.insert(self.end.segment, self.end.offset.into());
            (self.end.segment, self.end.offset) = (self.end.segment + 1, 0);
        }
    }

    fn seal(&mut self, now: Nanos, partition: &Partition, flush: Option<u64>) {
        if !self.packer.is_empty() {
            self.seal_with(now, partition, flush, None);
        }
    }

    /// Makes a batch of what is packed, and gives it its place. One that makes a flush whole says
    /// so; where nothing is left of the flush, it holds nothing else.
    fn seal_with(
        &mut self,
        now: Nanos,
        partition: &Partition,
        flush: Option<u64>,
        index: Option<u32>,
    ) {
        let empty = self.packer.is_empty() && !(flush.is_some() && self.void);
        if empty {
            // Nothing to write: what waits for it waits for what is written before, if anything.
            let last = self.ready.back_mut().or(self.writing.as_mut());
            if let Some(last) = last {
                last.flush = flush.or(last.flush);
                last.index = index.or(last.index);
                return;
            }
        }
        let last = partition.last_numbers();
        let head = BatchHead {
            shard: self.me,
            epoch: self.end.epoch,
            sequence: self.end.sequence,
            written_at: now,
            call_last: last.call,
            request_last: last.request,
            whole: flush.is_some(),
        };
        if !empty && !self.fits(0) {
            // Only when it holds nothing: whatever was packed fits.
            self.roll();
        }
        let (segment, offset) = (self.end.segment, self.end.offset);
        let bytes = if empty {
            Vec::new()
        } else {
            self.void = flush.is_none();
            self.end.sequence += 1;
            let spare = std::mem::take(&mut self.spare);
            self.packer.finish(&self.plan.key, head, spare)
        };
        self.end.offset += bytes.len() as u32;
        self.index_bytes += bytes.len() as u64;
        self.ready_bytes += bytes.len();
        self.ready.push_back(Ready { segment, offset, bytes, flush, index });
    }

    fn write<D: Driver>(&mut self, now: Nanos, partition: &mut Partition, driver: &mut D) {
        if self.writing.is_some() || self.full_until.is_some_and(|until| until > now) {
            return;
        }
        while let Some(next) = self.ready.front() {
            if next.bytes.is_empty() {
                let done = self.ready.pop_front().expect("G2: looked at above");
                self.done(partition, done);
                continue;
            }
            let (segment, len_bytes) = (next.segment, next.bytes.len() as u32);
            if self.ahead.blocks(segment, next.offset + len_bytes) {
                return;
            }
            let handle = match self.writer {
                Some((open, handle)) if open == segment => handle,
                _ => match self.open_writer(segment, driver) {
                    Ok(handle) => handle,
                    Err(error) => return self.trouble(now, partition, &error),
                },
            };
            if self.full_until.take().is_some() {
                (self.report)(format_args!("shard {}: the log has room on disk again", self.me.0));
            }
            partition.set_disk_full(false);
            let mut next = self.ready.pop_front().expect("G1: looked at above");
            let bytes = std::mem::take(&mut next.bytes);
            self.ready_bytes -= bytes.len();
            let offset = u64::from(next.offset);
            let batch = (segment, next.offset, len_bytes);
            self.writing = Some(next);
            driver.submit(Mark::LogWrite.token(), Op::WriteDurable { file: handle, offset, bytes });
            if let Some((from, bytes)) = self.ahead.follow(batch, self.plan.segment_bytes) {
                let op = Op::WriteDurable { file: handle, offset: from.into(), bytes };
                driver.submit(Mark::LogAhead.token(), op);
            }
            return;
        }
    }

    fn open_writer<D: Driver>(&mut self, segment: u32, driver: &mut D) -> io::Result<Handle> {
        let file = self.plan.files.create(segment, u64::from(self.plan.segment_bytes))?;
        let handle = adopt(file, driver);
        if let Some((_, old)) = self.writer.replace((segment, handle)) {
            driver.submit(Mark::LogWrite.token(), Op::Close(old));
        }
        Ok(handle)
    }

    /// The completion of one of its operations.
    pub(crate) fn completed(
        &mut self,
        now: Nanos,
        mark: Mark,
        done: Done<'_>,
        partition: &mut Partition,
    ) {
        match mark {
            Mark::LogWrite => self.written(done, partition),
            Mark::LogAhead => self.ahead.done(done),
            Mark::LogRead(idx) => self.read(now, idx, done, partition),
            // Of a start, which ended.
            _ => {}
        }
    }

    /// A write's completion (G2, G3).
    fn written(&mut self, done: Done<'_>, partition: &mut Partition) {
        let batch = self.writing.take().expect("G1: one write is in flight");
        match done {
            Done::Written(bytes) => {
                self.totals.batches += 1;
                self.totals.bytes += bytes.len() as u64;
                self.spare = bytes;
                self.done(partition, batch);
            }
            Done::Failed { errno } => {
                self.failed = Some(io::Error::from_raw_os_error(errno).to_string());
            }
            Done::Cancelled => {}
            other => unreachable!("G1: a write completed as {other:?}"),
        }
    }

    fn done(&mut self, partition: &mut Partition, batch: Ready) {
        if let Some(flush) = batch.flush {
            partition.flushed(flush);
        }
        if let Some(first) = batch.index {
            self.index_done(first);
        }
    }

    /// There is no segment to write to: nothing is lost, and it is asked for again.
    fn trouble(&mut self, now: Nanos, partition: &mut Partition, error: &io::Error) {
        if self.full_until.is_none() {
            (self.report)(format_args!(
                "shard {}: the log gets no room on disk ({error}); nothing new is durable until \
                 it does, which is tried every {} ms",
                self.me.0,
                FULL_PAUSE.0 / 1_000_000
            ));
        }
        self.full_until = Some(now.after(FULL_PAUSE));
        partition.set_disk_full(true);
    }

    /// Closes its files.
    pub(crate) fn close(&mut self, todo: &mut Todo) {
        let readers = std::mem::take(&mut self.readers).into_values().map(|(handle, _)| handle);
        for handle in readers.chain(self.writer.take().map(|(_, handle)| handle)) {
            todo.ops.push((Mark::LogWrite.token(), Op::Close(handle)));
        }
    }
}

fn adopt<D: Driver>(file: LogFile, driver: &mut D) -> Handle {
    match file {
        LogFile::Fd(fd) => driver.adopt(fd),
        LogFile::Handle(handle) => handle,
    }
}

const _: () = assert!(HEAD_BYTES < BATCH_ALIGN_BYTES);
