//! What one shard keeps about one peer: both ends of their rings and what waits for room.
//!
//! Owns: cutting messages into records, the backlog and its order.  Not: other peers, doorbells.
//! M4  a backlog takes requests up to one ring's length (and always one message); answers are
//!     taken always, as they are bounded by the requests that were admitted.

use super::PeerState;
use crate::ring::{Push, Reader, Ring, Tag, Writer};
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
    pub(super) assembly: Option<Vec<u8>>,
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
