//! What `top` shows, as data: two looks at the counters and what happened between them.
//!
//! Owns: reading SHARD.LIST and the hottest agents, rates.  Not: the screen.
//! S1  a shard that restarted in between starts its counters at 0: its rates are 0, never negative.

use crate::link::{Link, Words};
use anyhow::{Context, Result};
use heronry_net::resp::Value;
use std::time::Instant;

/// One look at the node.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// All shards, by number.
    pub shards: Vec<Shard>,
    /// Busiest agents of all shards with their estimated turns, most first.
    pub hottest: Vec<(String, u64)>,
}

/// One shard at one time.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its number.
    pub number: u64,
    /// `starting`, `up` or `down`.
    pub state: String,
    /// CPU it is pinned to.
    pub cpu: Option<u64>,
    /// Times it was restarted.
    pub restarts: u64,
    /// Counters and percentiles by name.
    pub counters: Vec<(String, u64)>,
}

/// One shard over the time between two looks.
#[derive(Clone, Debug)]
pub struct Row {
    /// The shard at the later look.
    pub shard: Shard,
    /// Turns per second.
    pub turns_per_s: f64,
    /// Messages to and from other shards per second.
    pub hops_per_s: f64,
    /// Share of time spent working, 0 to 100.
    pub busy_percent: f64,
}

impl Sample {
    /// Asks the node.
    pub fn take(link: &mut Link) -> Result<Sample> {
        let reply = link.ask(&Words::new("SHARD.LIST"))?;
        let rows = reply.as_slice().context("SHARD.LIST gave no list")?;
        let shards = rows.iter().map(Shard::read).collect::<Result<_>>()?;
        Ok(Sample { at: Instant::now(), shards, hottest: Vec::new() })
    }

    /// The same with the hottest agents, at most `count`.
    pub fn take_with_hottest(link: &mut Link, count: usize) -> Result<Sample> {
        let mut sample = Sample::take(link)?;
        sample.hottest = hottest(link, count)?;
        Ok(sample)
    }
}

/// The busiest agents of all shards, most turns first, at most `count`.
pub fn hottest(link: &mut Link, count: usize) -> Result<Vec<(String, u64)>> {
    let reply = link.ask(&Words::new("AGENT.HOTTEST").arg("COUNT").number(count as u64))?;
    let mut found: Vec<(String, u64)> = pairs(&reply);
    found.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    found.truncate(count);
    Ok(found)
}

impl Shard {
    fn read(row: &Value) -> Result<Shard> {
        let number = |name: &str| row.field(name).and_then(Value::as_u64);
        let state = row.field("state").and_then(Value::as_str).context("a shard has no state")?;
        Ok(Shard {
            number: number("shard").context("a shard has no number")?,
            state: state.to_owned(),
            cpu: number("cpu"),
            restarts: number("restart_count").unwrap_or(0),
            counters: pairs(row).into_iter().filter(|(name, _)| !is_place(name)).collect(),
        })
    }

    /// A counter's value; 0 when the node has none of that name.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.iter().find(|(own, _)| own == name).map_or(0, |(_, value)| *value)
    }

    /// Growth of a counter since an earlier look (S1).
    fn grown(&self, earlier: &Shard, name: &str) -> u64 {
        if self.restarts != earlier.restarts {
            return 0;
        }
        self.counter(name).saturating_sub(earlier.counter(name))
    }
}

/// Whether a field of SHARD.LIST says where the shard is, and counts nothing.
fn is_place(name: &str) -> bool {
    matches!(name, "shard" | "cpu" | "pid" | "restart_count")
}

/// All (name, number) pairs of a map, or of a list of pairs.
fn pairs(value: &Value) -> Vec<(String, u64)> {
    let pair = |name: &Value, value: &Value| Some((name.as_str()?.to_owned(), value.as_u64()?));
    match value {
        Value::Map(entries) => entries.iter().filter_map(|(k, v)| pair(k, v)).collect(),
        other => {
            let items = other.as_slice().unwrap_or_default().iter();
            let nested = items.filter_map(|item| match item.as_slice() {
                Some([name, value, ..]) => pair(name, value),
                _ => None,
            });
            nested.collect()
        }
    }
}

/// One row per shard: what happened between two looks.
pub fn rows(earlier: &Sample, later: &Sample) -> Vec<Row> {
    let seconds = later.at.duration_since(earlier.at).as_secs_f64().max(1e-3);
    let row = |shard: &Shard| {
        let before = earlier.shards.iter().find(|before| before.number == shard.number);
        let grown = |name| before.map_or(0, |before| shard.grown(before, name)) as f64 / seconds;
        Row {
            turns_per_s: grown("turns"),
            hops_per_s: grown("hops_in") + grown("hops_out"),
            busy_percent: (grown("busy_ns") / 1e7).min(100.0),
            shard: shard.clone(),
        }
    };
    later.shards.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sample(at: Instant, restarts: u64, turns: u64) -> Sample {
        let counters = vec![("turns".to_owned(), turns), ("busy_ns".to_owned(), turns * 1000)];
        let shard = Shard { number: 0, state: "up".into(), cpu: None, restarts, counters };
        Sample { at, shards: vec![shard], hottest: Vec::new() }
    }

    #[test]
    fn s1_rates_are_per_second_and_never_negative() {
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let row = &rows(&sample(start, 0, 1000), &sample(later, 0, 201_000))[0];
        assert_eq!((row.turns_per_s, row.busy_percent), (100_000.0, 10.0));
        let row = &rows(&sample(start, 0, 1000), &sample(later, 1, 2000))[0];
        assert_eq!(row.turns_per_s, 0.0);
        let row = &rows(&sample(start, 0, 1000), &sample(later, 0, 10))[0];
        assert_eq!(row.turns_per_s, 0.0);
    }
}
