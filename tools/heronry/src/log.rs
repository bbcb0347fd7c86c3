//! `heronry log ...`: the logs of a data folder, read without its node.
//!
//! Owns: which folder and shards, what is said when a node runs.  Not: files (`log/segment.rs`),
//! what is damaged (`log/walk.rs`, `log/sieve.rs`), what each verb prints.
//! L1  only `repair --yes` changes anything, and only while no node has the folder.
//! L2  a folder whose node runs can be looked at: all that was written before is as it is, and the
//!     end may move on meanwhile.

mod dump;
pub(crate) mod rehome;
mod repair;
mod segment;
mod sieve;
mod stats;
mod verdict;
mod walk;
mod writer;

use crate::cli::{LogCommand, LogOptions};
use crate::node;
use crate::output::Output;
use anyhow::{Context, Result, bail};
use segment::ShardLog;
use std::path::Path;

/// Runs one verb.
pub fn run(command: &LogCommand, output: Output) -> Result<()> {
    match command {
        LogCommand::Verify(options) => verdict::verify(&logs(options, output)?, output),
        LogCommand::Dump(options) => dump::dump(&logs(options, output)?, output),
        LogCommand::Stats(options) => stats::stats(&logs(options, output)?, output),
        LogCommand::Repair { options, yes } => {
            // For its errors: there is nothing to lock where there is no log.
            segment::shards(&options.data, options.shard)?;
            let _lock = node::lock(&options.data)?;
            repair::repair(&segment::shards(&options.data, options.shard)?.1, *yes, output)
        }
    }
}

/// Agents in the logs of a data folder that no node changes, when every batch and record of them
/// is good.
pub(crate) fn check(data: &Path) -> Result<u64> {
    let (_, logs) = segment::shards(data, None)?;
    let mut count = 0;
    for log in &logs {
        let sieved =
            sieve::sieve(log).with_context(|| format!("the log of shard {}", log.shard))?;
        if !sieved.is_good() {
            bail!("the log of shard {} is damaged; `heronry log verify` says how", log.shard);
        }
        count += sieved.partition.chains().count() as u64;
    }
    Ok(count)
}

/// The logs to look at; says so when their node runs (L2).
fn logs(options: &LogOptions, output: Output) -> Result<Vec<ShardLog>> {
    let (_, logs) = segment::shards(&options.data, options.shard)?;
    if node::is_running(&options.data) {
        output.note("the node of this data folder is running: the end of its logs may move on");
    }
    Ok(logs)
}

/// The name of a kind of record, by its number.
fn kind_name(kind: u8) -> &'static str {
    match kind {
        1 => "whole",
        2 => "change",
        3 => "fork",
        4 => "end",
        5 => "part",
        6 => "stub",
        7 => "orphan",
        8 => "index-begin",
        9 => "index-end",
        10 => "pages",
        11 => "split",
        _ => "unknown",
    }
}

/// An agent's id as everywhere: 32 hex digits.
fn id_text(id: heronry_engine::AgentId) -> String {
    format!("{:032x}", id.0)
}
