//! `heronry shard list`: the shards of a node with their state and counters.
//!
//! Owns: which columns a terminal shows; `--json` gives all there are.
//! Not: the counters' meaning (`heronry_shards::counters`).

use crate::cli::Global;
use crate::link::{Link, Words};
use crate::output::{Output, table};
use crate::top::sample::{Sample, Shard};
use anyhow::Result;

/// Counters that a terminal shows.
const COLUMNS: [&str; 9] = [
    "agents",
    "connections",
    "turns",
    "seals",
    "faults",
    "refusals",
    "frames_used",
    "patch_bytes",
    "frames_total",
];

/// Prints all shards.
pub fn list(global: &Global, output: Output) -> Result<()> {
    let mut link = Link::open(global)?;
    if output.json {
        return Ok(output.reply(&link.ask(&Words::new("SHARD.LIST"))?)?);
    }
    let head = ["shard", "state", "cpu", "restarts"].iter().chain(&COLUMNS);
    let head: Vec<String> = head.map(|name| (*name).to_owned()).collect();
    let row = |shard: &Shard| {
        let own = [
            shard.number.to_string(),
            shard.state.clone(),
            shard.cpu.map_or("-".to_owned(), |cpu| cpu.to_string()),
            shard.restarts.to_string(),
        ];
        let counters = COLUMNS.iter().map(|name| shard.counter(name).to_string());
        own.into_iter().chain(counters).collect()
    };
    let rows: Vec<Vec<String>> = Sample::take(&mut link)?.shards.iter().map(row).collect();
    Ok(output.text(&table(&head, &rows))?)
}
