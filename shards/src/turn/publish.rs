//! The part of the loop that publishes what it has counted.
//!
//! Owns: which count goes into which counter of the shard.  Not: counting, nor when to publish
//! (`turn.rs`).

use super::Shard;
use crate::counters::Counter;
use crate::driver::Driver;
use crate::gateway::Gateway;
use crate::log::Log;

impl<D: Driver, G: Gateway> Shard<D, G> {
    /// Shows the node the shard's counts as of now.
    pub(super) fn publish(&mut self) {
        self.pass_count = 0;
        let counters = self.shared.counters(self.me);
        let (agents, traffic) = (self.partition.counters(), self.connections.traffic());
        let log = self.log.as_ref().map(Log::totals).unwrap_or_default();
        for (counter, value) in [
            (Counter::Turns, agents.turns),
            (Counter::Messages, agents.messages),
            (Counter::Replies, agents.replies),
            (Counter::Refusals, agents.refusals),
            (Counter::Seals, agents.seals),
            (Counter::Checkpoints, agents.checkpoints),
            (Counter::Forks, agents.forks),
            (Counter::Rollbacks, agents.rollbacks),
            (Counter::Creates, agents.creates),
            (Counter::Terminates, agents.terminates),
            (Counter::Faults, agents.faults),
            (Counter::Agents, agents.agents),
            (Counter::FramesUsed, agents.frames_used),
            (Counter::PatchBytes, agents.patch_bytes),
            (Counter::FramesTotal, agents.frames_total),
            (Counter::LostAgents, agents.lost),
            (Counter::ColdAgents, agents.cold),
            (Counter::Loads, agents.loads),
            (Counter::Pagings, agents.pagings),
            (Counter::Evictions, agents.evictions),
            (Counter::Wakes, agents.wakes),
            (Counter::HeldAnswers, agents.held_events),
            (Counter::LogBatches, log.batches),
            (Counter::LogBytes, log.bytes),
            (Counter::LogRecordBytes, log.record_bytes),
            (Counter::LogCompactions, log.compactions),
            (Counter::LogIndexes, log.indexes),
            (Counter::Connections, u64::from(self.connections.open_count())),
            (Counter::Accepted, traffic.accepted_count),
            (Counter::BytesIn, traffic.received_bytes),
            (Counter::BytesOut, traffic.sent_bytes),
            (Counter::Stalls, self.totals.stalls),
            (Counter::BusyNs, self.totals.busy_ns),
            (Counter::Loops, self.totals.loops),
            (Counter::Parks, self.totals.parks),
        ] {
            counters.set(counter, value);
        }
    }
}
