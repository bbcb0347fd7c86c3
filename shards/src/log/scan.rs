//! Reading a log at a start: every batch from the last index on, up to the first that is not whole.
//!
//! Owns: where the log ends, and what is wrong with it there.  Not: what records mean.
//! S1  what is read is batches of one sequence without a gap, each whole.
//! S2  a log that goes on behind a batch that is not whole was damaged, not torn: it is not used,
//!     because what follows rests on what is lost.
//! S3  one write is in flight at a time, so a log that ends torn has lost one batch, which nobody
//!     was told of.
//! S4  the last batch may have been on its way when an earlier life ended: it is written once more,
//!     so that what comes to rest on it is not more durable than it is.
//! S5  a life of the shard begins in a segment of its own: what an earlier one still had on its way
//!     to the disk may land in its segments whenever it likes.

use super::{End, LogFiles, LogPlan, adopt};
use crate::connection::Mark;
use crate::driver::{Completion, Done, Driver, Op};
use heronry_engine::log::batch::{self, Batch, promised_bytes};
use heronry_engine::log::{BATCH_ALIGN_BYTES, BatchError, LogKey, Place};
use heronry_engine::partition::{Last, Recovery};
use heronry_engine::{Nanos, Partition, ShardId};
use std::io;

/// Bytes of one read.
const READ_BYTES: u64 = 1 << 20;
/// Reads in flight.
const READS_MAX: u64 = 4;

/// Why a log cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The files cannot be read.
    #[error("the log of shard {} cannot be read: {source}", shard.0)]
    Io {
        /// Whose.
        shard: ShardId,
        /// Why.
        source: io::Error,
    },
    /// Bytes in its middle are not what was written (S2).
    #[error(
        "the log of shard {} is damaged: batch {sequence} at byte {offset} of segment {segment} \
         is not whole, and batch {next} follows it; `heronry log verify` shows what is affected, \
         `heronry log repair` goes on without it", shard.0
    )]
    Damaged {
        /// Whose.
        shard: ShardId,
        /// Number of the batch that should be there.
        sequence: u64,
        /// Where.
        segment: u32,
        /// Where in it.
        offset: u32,
        /// Number of a whole batch behind it.
        next: u64,
    },
    /// The index that a start begins with is not whole, although it was.
    #[error(
        "the log of shard {} is damaged: segment {segment}, with whose index a start begins, does \
         not begin with a whole batch; `heronry log verify` shows what is affected, `heronry log \
         repair` goes on with what is left", shard.0
    )]
    NoIndex {
        /// Whose.
        shard: ShardId,
        /// Where.
        segment: u32,
    },
    /// A batch of another shard or format is in it.
    #[error("segment {segment} of the log of shard {} is {what}", shard.0)]
    Foreign {
        /// Whose.
        shard: ShardId,
        /// Where.
        segment: u32,
        /// What it is.
        what: String,
    },
}

/// What a start has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Found {
    pub(crate) batches: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Whether the log ended with a batch that was not whole (S3).
    pub(crate) torn: bool,
    /// Batches of a flush that was not whole.
    pub(crate) void: u64,
    /// Records that made no sense where they stood.
    pub(crate) bad_records: u64,
    pub(crate) agents: u32,
}

/// A reader of a log.
struct Scan<'a> {
    shard: ShardId,
    key: &'a LogKey,
    /// The number that the next batch must have; none before the first.
    sequence: Option<u64>,
    epoch: u32,
    last: Last,
    found: Found,
    /// The batches of a flush that is not whole yet, with where they lie.
    held: Vec<Held>,
    /// The number of the batch after the last whole flush.
    whole: u64,
    /// The last batch that made a flush whole, and where it lies.
    newest: Option<(u32, u32, Vec<u8>)>,
}

/// Reads the log of `plan` into `partition`; where it goes on. `beat` is called now and then.
pub(crate) async fn recover<D: Driver>(
    shard: ShardId,
    plan: &mut LogPlan,
    partition: &mut Partition,
    driver: &mut D,
    beat: &dyn Fn(Nanos),
) -> Result<(End, Found), ScanError> {
    let io_error = |source| ScanError::Io { shard, source };
    let (segments, noted) = plan.files.list().map_err(io_error)?;
    let first = noted.or(segments.first().copied()).unwrap_or(0);
    let segments: Vec<u32> = segments.into_iter().filter(|number| *number >= first).collect();
    let LogPlan { files, key, segment_bytes, .. } = plan;
    let mut scan = Scan {
        shard,
        key,
        sequence: None,
        epoch: 0,
        last: Last::default(),
        found: Found::default(),
        held: Vec::new(),
        whole: 0,
        newest: None,
    };
    let mut recovery = Recovery::default();
    let mut begins = Vec::new();
    for segment in &segments {
        let sequence = first_sequence(files.as_mut(), *segment, key, driver).await;
        begins.push((*segment, sequence.map_err(io_error)?));
    }
    if noted.is_some() && begins.first().is_none_or(|begin| begin.0 != first || begin.1.is_none()) {
        return Err(ScanError::NoIndex { shard, segment: first });
    }
    for (at, (segment, _)) in begins.iter().enumerate() {
        let bytes = read_segment(files.as_mut(), *segment, u64::MAX, driver).await;
        let bytes = bytes.map_err(io_error)?;
        beat(driver.now());
        // A later life's segment says where this one ends (S5).
        let next = begins[at + 1..].iter().find_map(|(_, sequence)| *sequence);
        let taken = scan.segment(*segment, &bytes, next, partition, &mut recovery)?;
        let rest = bytes.get(taken as usize..).unwrap_or_default();
        // What should go on and does not is damaged; where nothing follows, it is torn (S2).
        let found = match next {
            Some(next) if scan.sequence.is_some_and(|sequence| sequence >= next) => None,
            // The first batch of all is number 0.
            Some(next) => (scan.sequence.is_some() || next > 0).then_some(next),
            None => scan.behind(rest),
        };
        if let Some(next) = found {
            let (segment, offset) = (*segment, taken);
            let sequence = scan.sequence.unwrap_or(0);
            return Err(ScanError::Damaged { shard, sequence, segment, offset, next });
        }
        scan.found.torn |= next.is_none() && scan.is_torn(rest);
    }
    if noted.is_some() && scan.newest.is_none() {
        return Err(ScanError::NoIndex { shard, segment: first });
    }
    if let Some(newest) = scan.newest.take() {
        write_again(files.as_mut(), newest, *segment_bytes, driver).await.map_err(io_error)?;
    }
    let segment = segments.last().map_or(first, |last| last + 1);
    scan.found.void = scan.held.len() as u64;
    // What is void is passed over by those that read later: this life's first batch has its number.
    let sequence = scan.whole;
    let end = End { segment, offset: 0, sequence, epoch: scan.epoch + 1 };
    let found = Found { agents: partition.recovered(recovery, scan.last), ..scan.found };
    Ok((end, found))
}

/// A batch that waits for the end of its flush.
struct Held {
    segment: u32,
    at: u32,
    sequence: u64,
    records: Vec<u8>,
}

impl Scan<'_> {
    /// Takes in the batches of a segment before number `next`, as far as they go; how many bytes
    /// that is.
    fn segment(
        &mut self,
        segment: u32,
        bytes: &[u8],
        next: Option<u64>,
        partition: &mut Partition,
        recovery: &mut Recovery,
    ) -> Result<u32, ScanError> {
        let (mut at, mut newest) = (0, None);
        while at < bytes.len() {
            let batch = match Batch::read(self.key, &bytes[at..]) {
                Ok(batch) => batch,
                Err(BatchError::Format { format }) => {
                    let what = format!("of format {format}, which this program does not read");
                    return Err(ScanError::Foreign { shard: self.shard, segment, what });
                }
                Err(BatchError::NoBatch | BatchError::Damaged { .. }) => break,
            };
            if batch.head.shard != self.shard {
                let what = format!("of shard {}", batch.head.shard.0);
                return Err(ScanError::Foreign { shard: self.shard, segment, what });
            }
            let number = batch.head.sequence;
            if self.sequence.is_some_and(|sequence| sequence != number)
                || next.is_some_and(|next| number >= next)
            {
                break;
            }
            self.sequence = Some(batch.head.sequence + 1);
            self.epoch = self.epoch.max(batch.head.epoch);
            self.last.call = self.last.call.max(batch.head.call_last);
            self.last.request = self.last.request.max(batch.head.request_last);
            let records = batch.records.to_vec();
            self.held.push(Held { segment, at: at as u32, sequence: number, records });
            if batch.head.whole {
                self.take_held(partition, recovery);
                newest = Some(at);
            }
            self.found.batches += 1;
            self.found.bytes += batch.len_bytes as u64;
            at += batch.len_bytes;
        }
        if let Some(begins) = newest {
            let len_bytes = promised_bytes(&bytes[begins..]).unwrap_or(0);
            let end = bytes.len().min(begins + len_bytes);
            let mut batch = bytes[begins..end].to_vec();
            batch.resize(len_bytes, 0);
            self.newest = Some((segment, begins as u32, batch));
        }
        Ok(at as u32)
    }

    /// Takes in the batches of a flush, which is whole.
    fn take_held(&mut self, partition: &mut Partition, recovery: &mut Recovery) {
        for Held { segment, at, sequence, records } in std::mem::take(&mut self.held) {
            for (begins, record) in batch::records(&records) {
                let offset = at + begins as u32;
                let taken = record.and_then(|record| {
                    let len_bytes = record.len_bytes as u32;
                    partition.recover(recovery, record, Place { segment, offset, len_bytes })
                });
                self.found.bad_records += u64::from(taken.is_err());
                self.found.records += 1;
            }
            self.whole = sequence + 1;
        }
    }

    /// Whether a batch of this number has its place behind the end.
    fn is_behind(&self, number: u64) -> bool {
        self.sequence.is_none_or(|expected| number > expected)
    }

    /// The number of a whole batch in what is behind the end, if there is one (S2).
    fn behind(&self, bytes: &[u8]) -> Option<u64> {
        (0..bytes.len()).step_by(BATCH_ALIGN_BYTES).find_map(|at| {
            let batch = Batch::read(self.key, &bytes[at..]).ok()?;
            self.is_behind(batch.head.sequence).then_some(batch.head.sequence)
        })
    }

    /// Whether the bytes at the end are the next batch, in part.
    fn is_torn(&self, bytes: &[u8]) -> bool {
        match Batch::read(self.key, bytes) {
            Err(BatchError::Damaged { sequence }) => {
                self.sequence.is_none_or(|expected| expected == sequence)
            }
            _ => false,
        }
    }
}

/// Writes a batch where it lies (S4).
async fn write_again<D: Driver>(
    files: &mut dyn LogFiles,
    (segment, offset, bytes): (u32, u32, Vec<u8>),
    segment_bytes: u32,
    driver: &mut D,
) -> io::Result<()> {
    let file = adopt(files.create(segment, u64::from(segment_bytes))?, driver);
    let token = Mark::LogScan(0).token();
    driver.submit(token, Op::WriteDurable { file, offset: u64::from(offset), bytes });
    let mut written = None;
    while written.is_none() {
        driver.poll(&mut |completion: Completion<'_>| {
            if completion.token == token {
                written = Some(match completion.done {
                    Done::Written(_) => Ok(()),
                    Done::Failed { errno } => Err(io::Error::from_raw_os_error(errno)),
                    _ => Err(io::Error::other("the write was cancelled")),
                });
            }
        });
        if written.is_none() {
            let soon = driver.now().after(Nanos::from_ms(50));
            driver.park(soon).await;
        }
    }
    driver.submit(Mark::LogWrite.token(), Op::Close(file));
    written.unwrap_or(Ok(()))
}

/// The number of the batch that a segment begins with, if it is whole.
async fn first_sequence<D: Driver>(
    files: &mut dyn LogFiles,
    segment: u32,
    key: &LogKey,
    driver: &mut D,
) -> io::Result<Option<u64>> {
    let mut bytes = read_segment(files, segment, BATCH_ALIGN_BYTES as u64, driver).await?;
    if let Some(len) = promised_bytes(&bytes)
        && len > bytes.len()
    {
        bytes = read_segment(files, segment, len as u64, driver).await?;
    }
    Ok(Batch::read(key, &bytes).ok().map(|batch| batch.head.sequence))
}

/// The first bytes of a segment, as many as were written up to `most_bytes`.
async fn read_segment<D: Driver>(
    files: &mut dyn LogFiles,
    segment: u32,
    most_bytes: u64,
    driver: &mut D,
) -> io::Result<Vec<u8>> {
    let len_bytes = files.written_bytes(segment)?.min(most_bytes);
    let file = adopt(files.open(segment)?, driver);
    let count = len_bytes.div_ceil(READ_BYTES);
    let mut whole = vec![0; len_bytes as usize];
    let (mut asked, mut got) = (0u64, 0u64);
    let mut failed = None;
    while got < asked || (asked < count && failed.is_none()) {
        while asked < count && asked - got < READS_MAX && failed.is_none() {
            let offset = asked * READ_BYTES;
            let len_bytes = READ_BYTES.min(len_bytes - offset) as u32;
            let token = Mark::LogScan(asked as u32).token();
            driver.submit(token, Op::Read { file, offset, len_bytes });
            asked += 1;
        }
        driver.poll(&mut |completion: Completion<'_>| {
            let Mark::LogScan(idx) = Mark::of(completion.token) else { return };
            got += 1;
            match completion.done {
                Done::Read(bytes) => {
                    let from = (u64::from(idx) * READ_BYTES) as usize;
                    whole[from..from + bytes.len()].copy_from_slice(&bytes);
                }
                Done::Failed { errno } => failed = Some(io::Error::from_raw_os_error(errno)),
                _ => failed = Some(io::Error::other("the read was cancelled")),
            }
        });
        if got < asked {
            let soon = driver.now().after(Nanos::from_ms(50));
            driver.park(soon).await;
        }
    }
    driver.submit(Mark::LogWrite.token(), Op::Close(file));
    match failed {
        Some(error) => Err(error),
        None => Ok(whole),
    }
}
