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

use super::stream::{self, Stream};
use super::{End, LogFiles, LogPlan, adopt};
use crate::connection::Mark;
use crate::driver::{Driver, Op};
use heronry_engine::log::batch::{self, Batch, promised_bytes};
use heronry_engine::log::{BATCH_ALIGN_BYTES, BatchError, LogKey, Place};
use heronry_engine::partition::{Last, Recovery};
use heronry_engine::{Nanos, Partition, ShardId};
use std::borrow::Cow;
use std::io;

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
    held: Vec<Held<'static>>,
    /// The number of the batch after the last whole flush.
    whole: u64,
    /// The number of the last batch that made a flush whole, and where it lies.
    newest: Option<(u64, Place)>,
    beat: &'a dyn Fn(Nanos),
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
        beat,
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
        // A later life's segment says where this one ends (S5).
        let next = begins[at + 1..].iter().find_map(|(_, sequence)| *sequence);
        let mut stream = Stream::open(files.as_mut(), *segment, driver).map_err(io_error)?;
        let read = async {
            scan.segment(*segment, &mut stream, next, partition, &mut recovery, driver).await?;
            scan.end_of(*segment, &mut stream, next, driver).await
        };
        let read = read.await;
        stream.close(driver).await;
        read?;
    }
    if noted.is_some() && scan.newest.is_none() {
        return Err(ScanError::NoIndex { shard, segment: first });
    }
    if let Some(newest) = scan.newest {
        let written = write_again(files.as_mut(), key, newest, *segment_bytes, driver).await;
        written.map_err(io_error)?;
    }
    let segment = segments.last().map_or(first, |last| last + 1);
    scan.found.void = scan.held.len() as u64;
    // What is void is passed over by those that read later: this life's first batch has its number.
    let sequence = scan.whole;
    let end = End { segment, offset: 0, sequence, epoch: scan.epoch + 1 };
    let found = Found { agents: partition.recovered(recovery, scan.last), ..scan.found };
    Ok((end, found))
}

/// A batch, which may wait for the end of its flush.
struct Held<'r> {
    segment: u32,
    at: u32,
    sequence: u64,
    records: Cow<'r, [u8]>,
}

impl Scan<'_> {
    /// Takes in the batches of a segment before number `next`, as far as they go.
    async fn segment<D: Driver>(
        &mut self,
        segment: u32,
        stream: &mut Stream,
        next: Option<u64>,
        partition: &mut Partition,
        recovery: &mut Recovery,
        driver: &mut D,
    ) -> Result<(), ScanError> {
        loop {
            let (at, bytes) = self.here(stream, driver).await?;
            let batch = match Batch::read(self.key, bytes) {
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
            self.sequence = Some(number + 1);
            self.epoch = self.epoch.max(batch.head.epoch);
            self.last.call = self.last.call.max(batch.head.call_last);
            self.last.request = self.last.request.max(batch.head.request_last);
            self.found.batches += 1;
            self.found.bytes += batch.len_bytes as u64;
            let len_bytes = batch.len_bytes;
            if batch.head.whole {
                for held in std::mem::take(&mut self.held) {
                    self.take(held, partition, recovery);
                }
                let records = Cow::Borrowed(batch.records);
                self.take(Held { segment, at, sequence: number, records }, partition, recovery);
                let place = Place { segment, offset: at, len_bytes: len_bytes as u32 };
                self.newest = Some((number, place));
            } else {
                let records = Cow::Owned(batch.records.to_vec());
                self.held.push(Held { segment, at, sequence: number, records });
            }
            stream.skip(len_bytes);
        }
        Ok(())
    }

    /// Takes in a batch of a flush that is whole.
    fn take(&mut self, held: Held<'_>, partition: &mut Partition, recovery: &mut Recovery) {
        let Held { segment, at, sequence, records } = held;
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

    /// Where the stream stands, and the bytes of the batch there, if one is.
    async fn here<'s, D: Driver>(
        &self,
        stream: &'s mut Stream,
        driver: &mut D,
    ) -> Result<(u32, &'s [u8]), ScanError> {
        let shard = self.shard;
        let fail = |source| ScanError::Io { shard, source };
        (self.beat)(driver.now());
        let at = stream.at();
        let begins = stream.peek(BATCH_ALIGN_BYTES, driver).await.map_err(fail)?;
        let len_bytes = promised_bytes(begins).unwrap_or(0);
        Ok((at, stream.peek(len_bytes.max(BATCH_ALIGN_BYTES), driver).await.map_err(fail)?))
    }

    /// Judges what follows the batches of a segment: what should go on and does not is damaged;
    /// where nothing follows, it is torn (S2).
    async fn end_of<D: Driver>(
        &mut self,
        segment: u32,
        stream: &mut Stream,
        next: Option<u64>,
        driver: &mut D,
    ) -> Result<(), ScanError> {
        let (offset, bytes) = self.here(stream, driver).await?;
        let torn = self.is_torn(bytes);
        let found = match next {
            Some(next) if self.sequence.is_some_and(|sequence| sequence >= next) => None,
            // The first batch of all is number 0.
            Some(next) => (self.sequence.is_some() || next > 0).then_some(next),
            None => self.behind(stream, driver).await?,
        };
        if let Some(next) = found {
            let (shard, sequence) = (self.shard, self.sequence.unwrap_or(0));
            return Err(ScanError::Damaged { shard, sequence, segment, offset, next });
        }
        self.found.torn |= next.is_none() && torn;
        Ok(())
    }

    /// The number of a whole batch in what is behind the end, if there is one (S2).
    async fn behind<D: Driver>(
        &self,
        stream: &mut Stream,
        driver: &mut D,
    ) -> Result<Option<u64>, ScanError> {
        loop {
            let (_, bytes) = self.here(stream, driver).await?;
            if bytes.is_empty() {
                return Ok(None);
            }
            if let Ok(Batch { head, .. }) = Batch::read(self.key, bytes)
                && self.sequence.is_none_or(|expected| head.sequence > expected)
            {
                return Ok(Some(head.sequence));
            }
            stream.skip(BATCH_ALIGN_BYTES);
        }
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

/// Writes a batch where it lies (S4), if it is read as it was a moment ago.
async fn write_again<D: Driver>(
    files: &mut dyn LogFiles,
    key: &LogKey,
    (sequence, place): (u64, Place),
    segment_bytes: u32,
    driver: &mut D,
) -> io::Result<()> {
    let Place { segment, offset, len_bytes } = place;
    let (offset, len_bytes) = (u64::from(offset), len_bytes as usize);
    let mut bytes = stream::read(files, segment, offset, len_bytes, driver).await?;
    // Past its records it is zeros, which need not have been written.
    bytes.resize(len_bytes, 0);
    if !Batch::read(key, &bytes).is_ok_and(|batch| batch.head.sequence == sequence) {
        return Err(io::Error::other("the last batch is not what it was a moment ago"));
    }
    let file = adopt(files.create(segment, u64::from(segment_bytes))?, driver);
    let written = stream::perform(Op::WriteDurable { file, offset, bytes }, driver).await;
    driver.submit(Mark::LogWrite.token(), Op::Close(file));
    written.map(drop)
}

/// The number of the batch that a segment begins with, if it is whole.
async fn first_sequence<D: Driver>(
    files: &mut dyn LogFiles,
    segment: u32,
    key: &LogKey,
    driver: &mut D,
) -> io::Result<Option<u64>> {
    let mut bytes = stream::read(files, segment, 0, BATCH_ALIGN_BYTES, driver).await?;
    if let Some(len_bytes) = promised_bytes(&bytes)
        && len_bytes > bytes.len()
    {
        bytes = stream::read(files, segment, 0, len_bytes, driver).await?;
    }
    Ok(Batch::read(key, &bytes).ok().map(|batch| batch.head.sequence))
}
