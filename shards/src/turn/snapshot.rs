//! The part of the loop that takes part in a snapshot of the node.
//!
//! Owns: how long a shard holds.  Not: the cut itself (`log/cut.rs`), who takes part (the control
//! thread).
//! S1  from its hold to its cut a shard takes in nothing from others. All hold before any cuts, so
//!     nothing that one shard did after its cut is in the cut of another.

use super::Shard;
use crate::driver::Driver;
use crate::errand::SnapshotStep;
use crate::gateway::Gateway;
use heronry_engine::Nanos;

/// Longest hold: whoever asked for it may be gone.
const HOLD_MAX: Nanos = Nanos::from_ms(5_000);

/// A shard's part in a snapshot.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Until when nothing is taken in from other shards.
    until: Option<Nanos>,
    /// The step that waits for the cut.
    cutting: Option<u64>,
}

impl Snapshot {
    /// Whether what other shards have sent waits (S1).
    pub(super) fn holds(&self) -> bool {
        self.until.is_some()
    }
}

impl<D: Driver, G: Gateway> Shard<D, G> {
    /// Does the steps that have come.
    pub(super) fn take_snapshot_steps(&mut self, now: Nanos) {
        for (token, step) in self.link.snapshot_steps() {
            let outcome = match (step, &mut self.log) {
                (_, None) => Err("it keeps no log, as log.enabled=false says".to_owned()),
                (SnapshotStep::Hold, Some(_)) => {
                    self.snapshot.until = Some(now.after(HOLD_MAX));
                    Ok(())
                }
                (SnapshotStep::Cut { .. }, Some(_)) if !self.snapshot.holds() => Err(late()),
                (SnapshotStep::Cut { folder }, Some(log)) => {
                    log.begin_cut(folder, &self.partition);
                    self.snapshot.cutting = Some(token);
                    continue;
                }
                (SnapshotStep::GoOn, Some(log)) => {
                    log.drop_cut();
                    self.snapshot = Snapshot::default();
                    Ok(())
                }
            };
            self.link.stepped(token, outcome);
        }
    }

    /// Tells of a cut that was made; ends a hold that has lasted too long.
    pub(super) fn watch_snapshot(&mut self, now: Nanos) {
        if self.snapshot.until.is_some_and(|until| until <= now) {
            self.snapshot.until = None;
            if let Some(log) = &mut self.log {
                log.drop_cut();
            }
            if let Some(token) = self.snapshot.cutting.take() {
                self.link.stepped(token, Err(late()));
            }
        }
        if let Some(token) = self.snapshot.cutting
            && let Some(outcome) = self.log.as_mut().and_then(|log| log.take_cut())
        {
            self.snapshot.cutting = None;
            self.link.stepped(token, outcome);
        }
    }
}

fn late() -> String {
    format!(
        "it was not cut within {} ms, so others may have moved on; is the disk slow or full?",
        HOLD_MAX.0 / 1_000_000
    )
}
