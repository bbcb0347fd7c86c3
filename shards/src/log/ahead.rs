//! Room ahead of the writes: zeros that are on disk before the batches that take their place.
//!
//! Owns: how far a segment is ready, the write that goes on.  Not: batches (`log.rs`).
//! A file system notes for room that was reserved, and never written, that it is so, and has to
//! note otherwise with the first write to it: a synced write into such room takes a fifth longer
//! than one over zeros (docs/decisions.md). Large batches are written as they come: of theirs the
//! note is a small part.
//! Z1  zeros go where no batch was written or is on its way; a batch that would meet zeros on their
//!     way waits for them.
//! Z2  what becomes of them changes nothing but time: if they cannot be written, none are any more
//!     in that segment.

use super::BATCH_ALIGN_BYTES;
use crate::connection::Mark;
use crate::driver::{Done, Driver, Handle, Op};

/// Zeros of one write.
const ZEROS_BYTES: u32 = 256 << 10;
/// With less room ready than this, zeros are written.
const READY_BYTES_MIN: u32 = 64 << 10;
/// A batch longer than this takes its room as it is.
const SMALL_BYTES_MAX: u32 = 64 << 10;

const _: () = assert!((ZEROS_BYTES as usize).is_multiple_of(BATCH_ALIGN_BYTES));

/// How far the segment that is written is ready.
#[derive(Default)]
pub(super) struct Ahead {
    segment: u32,
    /// Up to here the segment was written, or is to be by a batch.
    ready: u32,
    /// The segment and the end of the zeros on their way.
    zeroing: Option<(u32, u32)>,
    zeros: Vec<u8>,
    off: bool,
}

impl Ahead {
    /// Whether a batch must wait for zeros (Z1).
    pub(super) fn blocks(&self, segment: u32, end: u32) -> bool {
        end > self.ready && self.zeroing.is_some_and(|(of, _)| of == segment)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.zeroing.is_some()
    }

    /// A batch is being written: makes room ready behind it, if that pays.
    pub(super) fn follow<D: Driver>(
        &mut self,
        (segment, offset, len_bytes): (u32, u32, u32),
        segment_bytes: u32,
        file: Handle,
        driver: &mut D,
    ) {
        let end = offset + len_bytes;
        let segment_bytes = segment_bytes - segment_bytes % BATCH_ALIGN_BYTES as u32;
        if self.segment != segment {
            (self.segment, self.ready, self.off) = (segment, end, false);
        }
        self.ready = self.ready.max(end);
        let enough = self.ready - end >= READY_BYTES_MIN || self.ready >= segment_bytes;
        if self.off || enough || self.zeroing.is_some() || len_bytes > SMALL_BYTES_MAX {
            return;
        }
        let to = segment_bytes.min(self.ready + ZEROS_BYTES);
        let mut bytes = std::mem::take(&mut self.zeros);
        bytes.resize((to - self.ready) as usize, 0);
        let offset = u64::from(self.ready);
        self.zeroing = Some((segment, to));
        driver.submit(Mark::LogAhead.token(), Op::WriteDurable { file, offset, bytes });
    }

    /// The zeros' completion (Z2).
    pub(super) fn done(&mut self, done: Done<'_>) {
        let Some((segment, to)) = self.zeroing.take() else { return };
        match done {
            Done::Written(bytes) => {
                self.zeros = bytes;
                if segment == self.segment {
                    self.ready = self.ready.max(to);
                }
            }
            Done::Failed { .. } => self.off = true,
            _ => {}
        }
    }
}
