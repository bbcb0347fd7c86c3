//! What one shard keeps about one peer: both ends of their rings and what waits for room.
//!
//! Owns: cutting messages into records and joining them, the backlog and its order.  Not: other
//! peers, doorbells.
//! M4  a backlog takes requests up to one ring's length (and always one message); answers are
//!     taken always, as they are bounded by the requests that were admitted.

use super::{MESSAGE_BYTES_MAX, PeerState};
use crate::ring::{Next, Push, Reader, Record, Ring, Tag, Writer};
use heronry_engine::ShardId;
use std::collections::VecDeque;

/// What this shard keeps about one peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) known: PeerState,
    pub(super) writer: Writer,
    pub(super) reader: Reader,
    backlog: VecDeque<Waiting>,
    backlog_bytes: usize,
    assembly: Option<Vec<u8>>,
    pub(super) due: Due,
}

/// What the next `publish` owes a peer.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// In the list of peers to look at.
    pub(super) listed: bool,
    /// Records were written: wake it.
    pub(super) written: bool,
    /// Records were read: wake it if it waits for room.
    pub(super) released: bool,
    /// Its index was impossible: wake it to verify.
    pub(super) alarmed: bool,
    /// Its state changed and `changed_peers` has not said so yet.
    pub(super) changed: bool,
}

/// A message that did not fit its ring yet.
#[derive(Debug)]
struct Waiting {
    bytes: Box<[u8]>,
    progress: Progress,
}

/// How much of a message is in its ring.
#[derive(Clone, Copy, Default, Debug)]
struct Progress {
    begun: bool,
    sent_bytes: usize,
}

/// What one go through a ring found.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Messages handed over.
    pub(super) message_count: usize,
    /// Times the ring was damaged.
    pub(super) resets: u64,
    /// The record it stopped at, not taken, because it is of another generation.
    pub(super) stale: Option<Record>,
}

impl Peer {
    /// Takes up a peer's rings; the reader was attached before this life began.
    pub(super) fn new(known: PeerState, writer: Writer, reader: Reader) -> Peer {
        Peer {
            known,
            writer,
            reader,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            assembly: None,
            due: Due::default(),
        }
    }

    /// Bytes of messages that wait for room.
    pub(super) fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// Whether messages wait for room.
    pub(super) fn is_behind(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Length of the next record that waits for room.
    pub(super) fn next_bytes(&self, record_bytes_max: usize) -> Option<usize> {
        let left = |front: &Waiting| front.bytes.len() - front.progress.sent_bytes;
        self.backlog.front().map(|front| left(front).min(record_bytes_max))
    }

    /// Stages a message, or what fits of it; the rest waits. Returns how often the ring was reset.
    pub(super) fn send(&mut self, ring: Ring<'_>, tag: Tag, bytes: &[u8]) -> u64 {
        let mut progress = Progress::default();
        let mut push = Push::Full;
        if !self.is_behind() {
            push = self.write(ring, tag, bytes, &mut progress);
            self.due.written |= push == Push::Done || progress.begun;
        }
        if push != Push::Done {
            self.backlog.push_back(Waiting { bytes: bytes.into(), progress });
            self.backlog_bytes += bytes.len();
        }
        u64::from(push == Push::Reset)
    }

    /// Drops what waits, and returns how many messages that were.
    pub(super) fn drop_backlog(&mut self) -> u64 {
        let count = self.backlog.len() as u64;
        self.backlog.clear();
        self.backlog_bytes = 0;
        count
    }

    /// Stages as much of the backlog as there is room for. Returns how often the ring was reset.
    pub(super) fn flush(&mut self, ring: Ring<'_>, tag: Tag) -> u64 {
        while let Some(mut waiting) = self.backlog.pop_front() {
            let before = waiting.progress.sent_bytes;
            let push = self.write(ring, tag, &waiting.bytes, &mut waiting.progress);
            self.due.written |= push == Push::Done || waiting.progress.sent_bytes > before;
            if push != Push::Done {
                self.backlog.push_front(waiting);
                return u64::from(push == Push::Reset);
            }
            self.backlog_bytes -= waiting.bytes.len();
        }
        0
    }

    /// After a reset the records of a half-sent message may be gone: it starts over.
    pub(super) fn restart_front(&mut self) {
        if let Some(front) = self.backlog.front_mut() {
            front.progress = Progress::default();
        }
    }

    /// Drops the part of a message that has arrived.
    pub(super) fn forget_partial(&mut self) {
        self.assembly = None;
    }

    /// Takes the records last looked at, as far as their generations are those of `tag`, and
    /// hands over the messages they complete. `scratch` is any buffer.
    pub(super) fn take_all(
        &mut self,
        ring: Ring<'_>,
        tag: Tag,
        scratch: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8]),
    ) -> Taken {
        let mut taken = Taken::default();
        loop {
            match self.reader.next(ring) {
                Next::End => return taken,
                Next::Corrupt => {
                    self.assembly = None;
                    taken.resets += 1;
                }
                Next::Record(record) => {
                    let Tag { first, last, .. } = record.tag;
                    if record.tag != (Tag { first, last, ..tag }) {
                        taken.stale = Some(record);
                        return taken;
                    }
                    if first && last {
                        self.assembly = None;
                        scratch.clear();
                        self.reader.take(ring, record, scratch);
                        each(scratch);
                        taken.message_count += 1;
                    } else {
                        self.join(ring, record, each, &mut taken);
                    }
                }
            }
        }
    }

    /// Takes a record that is part of a message.
    fn join(
        &mut self,
        ring: Ring<'_>,
        record: Record,
        each: &mut dyn FnMut(&[u8]),
        taken: &mut Taken,
    ) {
        let begun = self.assembly.take().filter(|_| !record.tag.first);
        // Without a beginning, it is the rest of a message that lost it with a reset.
        let Some(mut message) = begun.or(record.tag.first.then(Vec::new)) else {
            return self.reader.skip(ring, record);
        };
        if message.len() + record.len_bytes > MESSAGE_BYTES_MAX {
            taken.resets += 1;
            return self.reader.skip(ring, record);
        }
        self.reader.take(ring, record, &mut message);
        if record.tag.last {
            each(&message);
            taken.message_count += 1;
        } else {
            self.assembly = Some(message);
        }
    }

    /// Stages what is left of a message. Not `Done`: `progress` says how far it came.
    fn write(&mut self, ring: Ring<'_>, tag: Tag, bytes: &[u8], progress: &mut Progress) -> Push {
        loop {
            let left = &bytes[progress.sent_bytes..];
            let len = left.len().min(ring.record_bytes_max());
            let last = len == left.len();
            let tag = Tag { first: !progress.begun, last, ..tag };
            match self.writer.push(ring, tag, &left[..len]) {
                Push::Done if last => return Push::Done,
                Push::Done => {
                    *progress = Progress { begun: true, sent_bytes: progress.sent_bytes + len }
                }
                Push::Full => return Push::Full,
                Push::Reset => {
                    *progress = Progress::default();
                    return Push::Reset;
                }
            }
        }
    }
}

impl Due {
    /// Puts the peer on the list that the next `publish` goes through.
    pub(super) fn list(&mut self, peer: ShardId, due: &mut Vec<ShardId>) {
        if !self.listed {
            self.listed = true;
            due.push(peer);
        }
    }
}
