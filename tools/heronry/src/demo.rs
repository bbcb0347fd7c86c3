//! `heronry up --demo`: 850 agents created, driven, checkpointed, forked and rolled back.
//!
//! Owns: the steps of the demo, what each must leave behind, and the table at its end. It is a
//! client like any other: all it knows of the node comes over the wire.
//! Not: benchmarks; one connection asks one thing at a time, so each latency is a round trip.
//! M1  every agent's and every branch's content is compared with what it must be.

use crate::cli::Global;
use crate::link::{Link, Words};
use crate::output::{Output, table};
use anyhow::{Context, Result, ensure};
use heronry_net::resp::Value;
use serde_json::json;
use std::time::{Duration, Instant};

/// Agents that the demo makes; each is forked once.
const AGENT_COUNT: usize = 850;
/// Messages to each agent before its checkpoint.
const STEPS: usize = 3;
/// Label of the checkpoint.
const LABEL: &str = "planned";

/// One kind of operation and how long each took.
struct Lap {
    name: &'static str,
    nanos: Vec<u64>,
}

/// The demo's connection and its clock.
struct Demo {
    link: Link,
    laps: Vec<Lap>,
}

/// Runs the demo on the node that `global` names and prints its table.
pub fn run(global: &Global, output: Output) -> Result<()> {
    let mut demo = Demo { link: Link::open(global)?, laps: Vec::new() };
    let keys: Vec<String> = (0..AGENT_COUNT).map(|n| format!("notebook/demo-{n:03}")).collect();
    let started = Instant::now();
    demo.create_and_drive(&keys)?;
    let branches = demo.branch(&keys)?;
    demo.roll_back(&keys, &branches)?;
    let memory = demo.memory()?;
    demo.end(&keys, &branches)?;
    let elapsed = started.elapsed();
    if output.json {
        return Ok(output.json(&demo.json(elapsed, memory))?);
    }
    Ok(output.text(&demo.text(elapsed, memory))?)
}

impl Demo {
    fn create_and_drive(&mut self, keys: &[String]) -> Result<()> {
        for key in keys {
            self.timed("create", &Words::new("AGENT.CREATE").arg(key))?;
        }
        for step in 0..STEPS {
            for key in keys {
                self.append(key, &step_text(key, step))?;
            }
        }
        for key in keys {
            let words = Words::new("AGENT.CHECKPOINT").arg(key).option("LABEL", Some(LABEL));
            self.timed("checkpoint", &words)?;
        }
        for key in keys {
            self.expect(key, &planned(key))?;
        }
        Ok(())
    }

    /// Forks each agent, lets the branch and the parent go different ways.
    fn branch(&mut self, keys: &[String]) -> Result<Vec<String>> {
        let mut branches = Vec::new();
        for key in keys {
            let reply = self.timed("fork", &Words::new("AGENT.FORK").arg(key))?;
            let first = reply.as_slice().and_then(<[Value]>::first).and_then(Value::as_str);
            branches.push(first.context("FORK gave no key")?.to_owned());
        }
        for branch in &branches {
            self.append(branch, "a branch's way;")?;
        }
        for key in keys {
            self.append(key, "the parent's way;")?;
        }
        for (key, branch) in keys.iter().zip(&branches) {
            self.expect(branch, &(planned(key) + "a branch's way;"))?;
            self.expect(key, &(planned(key) + "the parent's way;"))?;
        }
        Ok(branches)
    }

    /// Rolls agents back to their checkpoint; the branches must not notice.
    fn roll_back(&mut self, keys: &[String], branches: &[String]) -> Result<()> {
        for key in keys {
            let to = format!("@{LABEL}");
            let words = Words::new("AGENT.ROLLBACK").arg(key).option("TO", Some(to));
            self.timed("rollback", &words)?;
        }
        for (key, branch) in keys.iter().zip(branches) {
            self.expect(key, &planned(key))?;
            self.expect(branch, &(planned(key) + "a branch's way;"))?;
        }
        Ok(())
    }

    fn end(&mut self, keys: &[String], branches: &[String]) -> Result<()> {
        for key in branches.iter().chain(keys) {
            self.timed("terminate", &Words::new("AGENT.TERMINATE").arg(key))?;
        }
        Ok(())
    }

    fn append(&mut self, key: &str, text: &str) -> Result<()> {
        let words = Words::new("AGENT.SEND").arg(key).arg(format!("append {text}"));
        self.timed("message", &words).map(drop)
    }

    /// Fails unless the notebook of `key` holds `text` (M1).
    fn expect(&mut self, key: &str, text: &str) -> Result<()> {
        let reply = self.timed("read", &Words::new("AGENT.SEND").arg(key).arg("read"))?;
        let found = reply.as_str().unwrap_or_default();
        ensure!(found == text, "M1: {key} holds {found:?}, expected {text:?}");
        Ok(())
    }

    fn timed(&mut self, name: &'static str, words: &Words) -> Result<Value> {
        let started = Instant::now();
        let reply = self.link.ask(words)?;
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match self.laps.iter_mut().find(|lap| lap.name == name) {
            Some(lap) => lap.nanos.push(nanos),
            None => self.laps.push(Lap { name, nanos: vec![nanos] }),
        }
        Ok(reply)
    }

    /// Page frames in use on all shards, in bytes.
    fn memory(&mut self) -> Result<u64> {
        let shards = crate::top::sample::Sample::take(&mut self.link)?.shards;
        let frames: u64 = shards.iter().map(|shard| shard.counter("frames_used")).sum();
        Ok(frames * heronry_engine::page::PAGE_BYTES as u64)
    }

    fn text(&mut self, elapsed: Duration, memory_bytes: u64) -> String {
        let head = ["operation", "count", "p50 us", "p99 us", "longest us"].map(str::to_owned);
        let row = |lap: &mut Lap| {
            let times = [0.5, 0.99, 1.0].map(|q| format!("{:.1}", lap.us(q)));
            [vec![lap.name.to_owned(), lap.nanos.len().to_string()], times.to_vec()].concat()
        };
        let rows: Vec<Vec<String>> = self.laps.iter_mut().map(row).collect();
        let total: usize = self.laps.iter().map(|lap| lap.nanos.len()).sum();
        format!(
            "{}\n{AGENT_COUNT} agents and {AGENT_COUNT} branches, {total} operations one after \
             the other in {:.2} s;\nall contents verified; {} KiB of pages in use at the end of \
             the work\n",
            table(&head, &rows),
            elapsed.as_secs_f64(),
            memory_bytes >> 10,
        )
    }

    fn json(&mut self, elapsed: Duration, memory_bytes: u64) -> serde_json::Value {
        let row = |lap: &mut Lap| {
            json!({"operation": lap.name, "count": lap.nanos.len(), "p50_us": lap.us(0.5),
                   "p99_us": lap.us(0.99), "max_us": lap.us(1.0)})
        };
        let rows: Vec<serde_json::Value> = self.laps.iter_mut().map(row).collect();
        json!({"agents": AGENT_COUNT, "branches": AGENT_COUNT, "verified": true,
               "elapsed_s": elapsed.as_secs_f64(), "page_bytes": memory_bytes,
               "operations": rows})
    }
}

impl Lap {
    /// The latency that the share `q` of operations did not exceed, in microseconds.
    fn us(&mut self, q: f64) -> f64 {
        self.nanos.sort_unstable();
        let rank = (q * self.nanos.len() as f64).ceil() as usize;
        let nanos = self.nanos.get(rank.max(1) - 1).copied().unwrap_or(0);
        (nanos as f64 / 100.0).round() / 10.0
    }
}

fn step_text(key: &str, step: usize) -> String {
    format!("step {step} of {key};")
}

/// What an agent holds at its checkpoint.
fn planned(key: &str) -> String {
    (0..STEPS).map(|step| step_text(key, step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut lap = Lap { name: "x", nanos: (1..=100).rev().map(|n| n * 1000).collect() };
        assert_eq!([lap.us(0.5), lap.us(0.99), lap.us(1.0)], [50.0, 99.0, 100.0]);
        let mut one = Lap { name: "x", nanos: vec![1500] };
        assert_eq!([one.us(0.5), one.us(1.0)], [1.5, 1.5]);
    }
}
