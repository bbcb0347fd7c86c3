//! A walk through a shard's log: every whole batch in its order, and what is missing between them.
//!
//! Owns: where the log ends, where it is damaged, which records a damaged batch still names.
//! Not: what records mean (`sieve.rs`).
//! W1  what is given as a batch is whole and of a higher number than those before; where a number
//!     is missing, the damage is told before the next batch.
//! W2  batches of an earlier life of the shard behind those of a later one are not given.
//! W3  a batch that is not whole at the very end is torn: nothing tells it from a damaged one.
//! W4  a batch that a later segment begins with ends the segments before it: what an earlier life
//!     had on its way to the disk may have landed there later.

use super::segment::ShardLog;
use anyhow::{Context, Result, bail};
use heronry_engine::AgentId;
use heronry_engine::log::batch::Batch;
use heronry_engine::log::{BATCH_ALIGN_BYTES, BatchError, HEAD_BYTES, Kind, Record};
use heronry_engine::partition::Heading;

/// Bytes of a record before its own: length and check.
const RECORD_HEAD_BYTES: usize = 20;
/// Where the agent's id is in a record.
const RECORD_ID: std::ops::Range<usize> = 21..37;

/// A place in a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Spot {
    /// Number of the segment.
    pub segment: u32,
    /// Byte in it.
    pub offset: u32,
}

/// Batches that are missing.
#[derive(Clone, Debug)]
pub struct Damage {
    /// Number of the first one, where any came before it.
    pub sequence: Option<u64>,
    /// Where it should be.
    pub at: Spot,
    /// The whole batch that follows: its number and where it is.
    pub next: Option<(u64, Spot)>,
    /// Records that the bytes there still hold, each with a check that is right.
    pub named: Vec<(Kind, AgentId, Heading)>,
    /// Agents that records there name whose checks are wrong: to be believed where such an agent
    /// is known.
    pub suspects: Vec<AgentId>,
}

/// What a walk meets.
pub enum Step<'a> {
    /// A whole batch.
    Batch(Spot, Batch<'a>),
    /// Batches that are missing (W1).
    Damage(&'a Damage),
}

/// What a walk has found.
#[derive(Clone, Debug, Default)]
pub struct Walked {
    /// Whole batches.
    pub batches: u64,
    /// Their bytes, with padding.
    pub bytes: u64,
    /// What is missing, in the order of the log.
    pub damages: Vec<Damage>,
    /// The batch at the end that is not whole (W3): its number and where it is.
    pub torn: Option<(u64, Spot)>,
    /// The number of the last whole batch.
    pub last: Option<u64>,
    /// The highest epoch.
    pub epoch: u32,
}

/// Walks from the segment `from` on; `visit` is told each step.
pub fn walk(
    log: &ShardLog,
    from: u32,
    visit: &mut dyn FnMut(Step<'_>) -> Result<()>,
) -> Result<Walked> {
    let is_index = log.is_noted && from == log.first;
    // The first batch of a log is number 0.
    let start = (!log.is_noted).then_some(0);
    let mut walker = Walker {
        log,
        walked: Walked::default(),
        is_index,
        start,
        bad: None,
        heads: Vec::new(),
        is_past: false,
    };
    let segments: Vec<u32> =
        log.segments.iter().copied().filter(|number| *number >= from).collect();
    let begins = segments.iter().map(|number| first_sequence(log, *number));
    let begins = begins.collect::<Result<Vec<Option<u64>>>>()?;
    for (at, number) in segments.iter().enumerate() {
        let next = begins[at + 1..].iter().find_map(|sequence| *sequence);
        walker.segment(*number, next, visit).with_context(|| format!("segment {number}"))?;
    }
    walker.end(from, visit)
}

/// The number of the batch that a segment begins with, if it is whole.
fn first_sequence(log: &ShardLog, number: u32) -> Result<Option<u64>> {
    let batch = log.segment(number)?.batch(&log.key, 0)?.map(|batch| batch.head.sequence);
    Ok(batch.ok())
}

struct Walker<'a> {
    log: &'a ShardLog,
    walked: Walked,
    /// Whether an index was whole on disk where the walk begins.
    is_index: bool,
    /// The number of the first batch, where that is known.
    start: Option<u64>,
    /// Where the next batch should be and is not, and the number that the bytes there name.
    bad: Option<(Spot, Option<u64>)>,
    /// Where batches begin since then that are not whole.
    heads: Vec<Spot>,
    /// Whether batches of an earlier life follow that a later one should have written over.
    is_past: bool,
}

impl Walker<'_> {
    /// Walks through a segment, up to the batch `next` with which a later one begins (W4).
    fn segment(
        &mut self,
        number: u32,
        next: Option<u64>,
        visit: &mut dyn FnMut(Step<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut segment = self.log.segment(number)?;
        let mut at = 0;
        while at < segment.len_bytes() {
            let spot = Spot { segment: number, offset: u32::try_from(at)? };
            let expected = self.expected();
            let batch = segment.batch(&self.log.key, at)?;
            let is_late = |sequence| next.is_some_and(|next| sequence >= next);
            // One of a life before is an old one, whatever its number.
            let new = batch.as_ref().ok().filter(|batch| batch.head.epoch >= self.walked.epoch);
            let sequence = new.map(|batch| batch.head.sequence);
            if let Some(sequence) = sequence
                && !is_late(sequence)
                && expected.is_none_or(|expected| sequence >= expected)
            {
                if expected.is_some_and(|expected| sequence > expected) || self.is_apart(spot) {
                    self.damage(spot, Some(sequence), visit)?;
                }
                let batch = segment.batch(&self.log.key, at)?;
                at += self.take(spot, batch.context("it has changed meanwhile")?, visit)?;
                continue;
            }
            match batch {
                Ok(batch) => {
                    let (number, len_bytes) = (batch.head.sequence, batch.len_bytes as u64);
                    let past = !self.is_past && !is_late(number);
                    if past && expected.is_none_or(|expected| number > expected) {
                        self.is_past = true;
                        self.damage(spot, Some(number), visit)?;
                    }
                    at += len_bytes;
                }
                Err(BatchError::Format { format }) => {
                    bail!("byte {at}: a batch of format {format}, which this program does not read")
                }
                Err(error) => {
                    let named = match error {
                        BatchError::Damaged { sequence } => {
                            self.heads.push(spot);
                            Some(sequence)
                        }
                        _ => None,
                    };
                    // Room left at the end of a segment is not where the next batch should be.
                    let room = |(bad, known): (Spot, Option<u64>)| {
                        bad.segment < spot.segment && known.is_none() && named.is_some()
                    };
                    if self.bad.is_none_or(room) {
                        self.bad = Some((spot, named));
                    }
                    at += BATCH_ALIGN_BYTES as u64;
                }
            }
        }
        Ok(())
    }

    fn expected(&self) -> Option<u64> {
        self.walked.last.map(|last| last + 1).or(self.start)
    }

    /// Whether bytes that are no batch lie before one where none can: where an index begins, and
    /// between two batches of a segment.
    fn is_apart(&self, next: Spot) -> bool {
        let Some((bad, _)) = self.bad else { return false };
        bad.segment == next.segment || self.is_index && self.walked.last.is_none()
    }

    fn take(
        &mut self,
        spot: Spot,
        batch: Batch<'_>,
        visit: &mut dyn FnMut(Step<'_>) -> Result<()>,
    ) -> Result<u64> {
        let (head, len_bytes) = (batch.head, batch.len_bytes as u64);
        if head.shard.0 != self.log.shard {
            bail!("byte {}: a batch of shard {}", spot.offset, head.shard.0);
        }
        (self.bad, self.is_past) = (None, false);
        self.heads.clear();
        self.walked.last = Some(head.sequence);
        self.walked.epoch = self.walked.epoch.max(head.epoch);
        self.walked.batches += 1;
        self.walked.bytes += len_bytes;
        visit(Step::Batch(spot, batch))?;
        Ok(len_bytes)
    }

    fn damage(
        &mut self,
        next: Spot,
        sequence: Option<u64>,
        visit: &mut dyn FnMut(Step<'_>) -> Result<()>,
    ) -> Result<()> {
        let at = self.bad.map_or(next, |(spot, _)| spot);
        let expected = self.expected();
        let next = sequence.map(|sequence| (sequence, next));
        let (named, suspects) = (Vec::new(), Vec::new());
        let mut damage = Damage { sequence: expected, at, next, named, suspects };
        for spot in std::mem::take(&mut self.heads) {
            self.name(spot, &mut damage)?;
        }
        visit(Step::Damage(&damage))?;
        self.walked.damages.push(damage);
        Ok(())
    }

    /// Notes what the bytes of a batch that is not whole still name.
    fn name(&self, spot: Spot, damage: &mut Damage) -> Result<()> {
        let mut segment = self.log.segment(spot.segment)?;
        let bytes = segment.rest(spot.offset.into())?;
        let mut from = HEAD_BYTES;
        while let Some(rest) = bytes.get(from..).filter(|rest| rest.len() > RECORD_HEAD_BYTES) {
            if let Ok(record) = Record::read(rest) {
                let heading = record.heading().unwrap_or_default();
                damage.named.push((record.kind, record.id, heading));
                from += record.len_bytes;
                continue;
            }
            let id = rest.get(RECORD_ID).and_then(|id| id.try_into().ok());
            let id = id.map(u128::from_le_bytes).filter(|id| *id != 0);
            damage.suspects.extend(id.map(AgentId));
            // Past it, if its length still is what it was.
            let len = rest.first_chunk().map_or(0, |len| u32::from_le_bytes(*len));
            from += RECORD_HEAD_BYTES + len as usize;
        }
        Ok(())
    }

    fn end(mut self, from: u32, visit: &mut dyn FnMut(Step<'_>) -> Result<()>) -> Result<Walked> {
        let expected = self.expected();
        let names_next = |named: u64| expected.is_none_or(|expected| expected == named);
        match self.bad {
            // What a noted first segment begins with was on disk when it was noted.
            _ if self.is_index && self.walked.last.is_none() => {
                let lost = Spot { segment: from, offset: 0 };
                self.bad.get_or_insert((lost, None));
                if self.log.segments.contains(&from) {
                    self.damage(lost, None, visit)?;
                } else {
                    bail!("segment {from}, with which a start would begin, is not there");
                }
            }
            Some((spot, Some(named))) if names_next(named) => {
                self.walked.torn = Some((named, spot));
            }
            _ => {}
        }
        Ok(self.walked)
    }
}
