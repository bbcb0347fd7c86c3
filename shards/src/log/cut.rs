//! A cut: the log as it is at one moment, under second names, while the shard goes on.
//!
//! Owns: which moment that is.  Not: names (`log/folder.rs`), other shards (`turn/snapshot.rs`).
//! K1  a cut is made between two flushes, with all that had changed when it was asked for on disk
//!     and nothing on its way; what comes later goes to a new segment, so that what was cut off
//!     never changes.

use super::Log;
use heronry_engine::Partition;
use std::path::PathBuf;

/// A cut that was asked for, and what came of the last one.
#[derive(Debug, Default)]
pub(super) struct Cut {
    /// Where to, and the flush to wait for.
    wanted: Option<(PathBuf, u64)>,
    done: Option<Result<(), String>>,
}

impl Cut {
    pub(super) fn is_due(&self) -> bool {
        self.wanted.is_some()
    }
}

impl Log {
    /// Asks for a cut; [`Log::take_cut`] says when it is made.
    pub(crate) fn begin_cut(&mut self, folder: PathBuf, partition: &Partition) {
        self.cut = Cut { wanted: Some((folder, partition.flush_target())), done: None };
    }

    /// Wants it no more.
    pub(crate) fn drop_cut(&mut self) {
        self.cut = Cut::default();
    }

    /// What came of a cut, once.
    pub(crate) fn take_cut(&mut self) -> Option<Result<(), String>> {
        self.cut.done.take()
    }

    /// Makes the cut that is wanted, if it is time for it (K1): nothing is on its way.
    pub(super) fn cut_off(&mut self, partition: &Partition) {
        let reached = |(_, flush): &(PathBuf, u64)| partition.is_flushed(*flush);
        if self.void || partition.is_flushing() || !self.cut.wanted.as_ref().is_some_and(reached) {
            return;
        }
        let Some((folder, _)) = self.cut.wanted.take() else { return };
        let linked = self.plan.files.link_into(&folder);
        let wrong = |error| format!("{} cannot be made: {error}", folder.display());
        self.cut.done = Some(linked.map_err(wrong));
        self.roll();
    }
}
