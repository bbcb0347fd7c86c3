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
use crate::driver::Done;

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

    /// A batch is being written: the zeros to write now, and where, if that pays.
    pub(super) fn follow(
        &mut self,
        (segment, offset, len_bytes): (u32, u32, u32),
        segment_bytes: u32,
    ) -> Option<(u32, Vec<u8>)> {
        let end = offset + len_bytes;
        let segment_bytes = segment_bytes - segment_bytes % BATCH_ALIGN_BYTES as u32;
        if self.segment != segment {
            (self.segment, self.ready, self.off) = (segment, end, false);
        }
        self.ready = self.ready.max(end);
        let enough = self.ready - end >= READY_BYTES_MIN || self.ready >= segment_bytes;
        if self.off || enough || self.zeroing.is_some() || len_bytes > SMALL_BYTES_MAX {
            return None;
        }
        let to = segment_bytes.min(self.ready + ZEROS_BYTES);
        let mut zeros = std::mem::take(&mut self.zeros);
        zeros.resize((to - self.ready) as usize, 0);
        self.zeroing = Some((segment, to));
        Some((self.ready, zeros))
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

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_BYTES: u32 = 4 << 20;
    const BATCH: u32 = 4096;

    #[test]
    fn z1_zeros_never_meet_a_batch() {
        let mut ahead = Ahead::default();
        let (mut at, mut zeroed) = (0, 0);
        while at < SEGMENT_BYTES {
            assert!(!ahead.blocks(3, at + BATCH), "nothing is on its way at {at}");
            if let Some((from, zeros)) = ahead.follow((3, at, BATCH), SEGMENT_BYTES) {
                let to = from + zeros.len() as u32;
                assert!(from >= at + BATCH && from >= zeroed && to <= SEGMENT_BYTES);
                let whole = |at: u32| at.is_multiple_of(BATCH_ALIGN_BYTES as u32);
                assert!(whole(from) && whole(to), "O_DIRECT takes whole blocks");
                assert!(!ahead.blocks(3, from), "up to the zeros there is room");
                assert!(ahead.blocks(3, from + BATCH) && !ahead.blocks(4, from + BATCH));
                ahead.done(Done::Written(zeros));
                zeroed = to;
            }
            at += BATCH;
        }
        assert_eq!(zeroed, SEGMENT_BYTES);
    }

    #[test]
    fn z1_a_segment_of_any_length_has_whole_blocks_of_zeros() {
        let mut ahead = Ahead::default();
        let (_, zeros) = ahead.follow((0, 0, BATCH), 3 * BATCH + 100).expect("there is room");
        assert_eq!(zeros.len(), 2 * BATCH as usize);
    }

    #[test]
    fn z2_zeros_that_cannot_be_written_change_nothing_else() {
        let mut ahead = Ahead::default();
        assert!(ahead.follow((0, 0, BATCH), SEGMENT_BYTES).is_some());
        ahead.done(Done::Failed { errno: libc::EIO });
        assert!(!ahead.is_busy() && !ahead.blocks(0, 3 * BATCH));
        assert!(ahead.follow((0, BATCH, BATCH), SEGMENT_BYTES).is_none(), "not in this segment");
        let (from, zeros) = ahead.follow((1, 0, BATCH), SEGMENT_BYTES).expect("in the next");
        // The segment was left while they were on their way: they say nothing of the one after it.
        assert!(ahead.follow((2, 0, BATCH), SEGMENT_BYTES).is_none());
        ahead.done(Done::Written(zeros));
        assert_eq!(from, BATCH);
        assert!(ahead.follow((2, BATCH, BATCH), SEGMENT_BYTES).is_some());
        assert!(ahead.follow((2, 0, SMALL_BYTES_MAX + 1), SEGMENT_BYTES).is_none());
    }
}
