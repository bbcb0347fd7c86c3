//! `heronry log stats`: what a log takes on disk, and how much of it agents still need.
//!
//! Owns: the sums.  Not: chains (the engine).
//! Z1  a record that several chains share is counted once.

use super::kind_name;
use super::segment::ShardLog;
use super::sieve::{Sieved, sieve};
use crate::output::Output;
use anyhow::{Context, Result};
use heronry_engine::log::Place;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;
use std::fs;

/// Prints the sums of each log.
pub fn stats(logs: &[ShardLog], output: Output) -> Result<()> {
    let mut shards = Vec::new();
    for log in logs {
        let sieved = sieve(log).with_context(|| format!("the log of shard {}", log.shard))?;
        if !sieved.is_good() {
            let shard = log.shard;
            output.note(&format!("the log of shard {shard} is damaged: see heronry log verify"));
        }
        let sums = Sums::of(log, &sieved)?;
        if output.json {
            shards.push(sums.json());
        } else {
            output.text(&sums.text())?;
        }
    }
    if output.json {
        output.json(&Json::Array(shards))?;
    }
    Ok(())
}

struct Sums {
    shard: u16,
    segments: usize,
    first: u32,
    file_bytes: u64,
    written_bytes: u64,
    live_bytes: u64,
    batches: u64,
    kinds: Vec<(&'static str, u64)>,
    agents: usize,
    chain_records: usize,
    longest: Option<(usize, String)>,
}

impl Sums {
    fn of(log: &ShardLog, sieved: &Sieved) -> Result<Sums> {
        let (mut agents, mut chain_records, mut longest) = (0, 0, None);
        for chain in sieved.partition.chains() {
            agents += 1;
            chain_records += chain.places.len();
            let long = (chain.places.len(), chain.key.as_str().to_owned());
            longest = longest.max(Some(long));
        }
        let chains = sieved.partition.chains();
        let places: BTreeSet<Place> = chains.flat_map(|chain| chain.places).copied().collect();
        let mut file_bytes = 0;
        let mut written_bytes = sieved.walked.bytes;
        for number in &log.segments {
            file_bytes += fs::metadata(log.path(*number))?.len();
            if *number < sieved.from {
                written_bytes += batch_bytes(log, *number)?;
            }
        }
        Ok(Sums {
            shard: log.shard,
            segments: log.segments.len(),
            first: log.first,
            file_bytes,
            written_bytes,
            live_bytes: places.iter().map(|place| u64::from(place.len_bytes)).sum(),
            batches: sieved.walked.batches,
            kinds: sieved.kinds.iter().map(|(kind, count)| (kind_name(*kind), *count)).collect(),
            agents,
            chain_records,
            longest,
        })
    }

    fn chain_mean(&self) -> f64 {
        self.chain_records as f64 / self.agents.max(1) as f64
    }

    fn dead_bytes(&self) -> u64 {
        self.written_bytes.saturating_sub(self.live_bytes)
    }

    fn text(&self) -> String {
        let (longest, key) = self.longest.clone().unwrap_or_default();
        let kinds = self.kinds.iter().map(|(kind, count)| format!("{count} {kind}"));
        let rows = [
            ("shard", self.shard.to_string()),
            ("segments", format!("{}; a start reads from {} on", self.segments, self.first)),
            (
                "bytes on disk",
                format!("{}, {} of them written", self.file_bytes, self.written_bytes),
            ),
            ("live bytes", self.live_bytes.to_string()),
            ("dead bytes", self.dead_bytes().to_string()),
            ("agents", self.agents.to_string()),
            ("longest chain", format!("{longest} records {key}").trim_end().to_owned()),
            ("mean chain", format!("{:.1} records", self.chain_mean())),
            ("batches", self.batches.to_string()),
            ("records", kinds.collect::<Vec<_>>().join(", ")),
        ];
        rows.iter().map(|(name, value)| format!("{name:13}  {value}\n")).collect()
    }

    fn json(&self) -> Json {
        let kinds = self.kinds.iter().map(|(kind, count)| ((*kind).to_owned(), (*count).into()));
        json!({
            "shard": self.shard,
            "segments": self.segments,
            "first": self.first,
            "file_bytes": self.file_bytes,
            "written_bytes": self.written_bytes,
            "live_bytes": self.live_bytes,
            "dead_bytes": self.dead_bytes(),
            "agents": self.agents,
            "chain_longest": self.longest.as_ref().map_or(0, |(count, _)| *count),
            "chain_longest_key": self.longest.as_ref().map(|(_, key)| key),
            "chain_mean": self.chain_mean(),
            "batches": self.batches,
            "records": kinds.collect::<Map<_, _>>(),
        })
    }
}

/// Bytes of whole batches in a segment that a start does not read.
fn batch_bytes(log: &ShardLog, number: u32) -> Result<u64> {
    let mut segment = log.segment(number)?;
    let mut at = 0;
    while at < segment.len_bytes() {
        match segment.batch(&log.key, at)? {
            Ok(batch) => at += batch.len_bytes as u64,
            Err(_) => break,
        }
    }
    Ok(at)
}
