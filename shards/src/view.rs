//! What a shard tells its gateway about the node: every shard's row, templates, facts.
//!
//! Owns: reading the shared blocks into rows.  Not: how they are shown.
//! V1  a row is read without locks: its numbers may be of slightly different moments.

use crate::gateway::{NodeView, ShardRow, TemplateRow};
use crate::histogram::Latency;
use crate::shared::Shared;
use heronry_engine::{Nanos, ShardId};

/// What changes at most when a template is deployed.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The templates.
    pub templates: Vec<TemplateRow>,
    /// Names and values: version, runtime, isolation, config hash, ...
    pub facts: Vec<(&'static str, String)>,
}

/// The node as one pass of the loop sees it.
pub struct View<'a> {
    pub(crate) now: Nanos,
    pub(crate) me: ShardId,
    pub(crate) shared: &'a Shared,
    pub(crate) facts: &'a NodeFacts,
}

impl NodeView for View<'_> {
    fn now(&self) -> Nanos {
        self.now
    }

    fn place(&self) -> (ShardId, u16) {
        (self.me, self.shared.shard_count())
    }

    fn shards(&self) -> Vec<ShardRow> {
        self.shared.shards().map(|shard| row(self.shared, shard)).collect()
    }

    fn templates(&self) -> Vec<TemplateRow> {
        self.facts.templates.clone()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        self.facts.facts.clone()
    }
}

/// One shard as its published words show it; cost: a histogram's length.
pub fn row(shared: &Shared, shard: ShardId) -> ShardRow {
    let block = shared.block(shard);
    let turns = shared.turn_hist(shard).snapshot();
    let messages = shared.hist(shard, Latency::Message).snapshot();
    let mut counters: Vec<(&'static str, u64)> = shared.counters(shard).rows().collect();
    counters.extend([
        ("turn_ns_p50", turns.percentile_ns(50.0)),
        ("turn_ns_p99", turns.percentile_ns(99.0)),
        ("turn_ns_p999", turns.percentile_ns(99.9)),
        ("turn_ns_max", turns.max_ns()),
        ("message_ns_p50", messages.percentile_ns(50.0)),
        ("message_ns_p99", messages.percentile_ns(99.0)),
        ("message_ns_p999", messages.percentile_ns(99.9)),
        ("message_ns_max", messages.max_ns()),
    ]);
    ShardRow {
        shard,
        state: block.state().name(),
        cpu: block.cpu(),
        pid: block.pid(),
        restart_count: block.restart_count(),
        counters,
    }
}
