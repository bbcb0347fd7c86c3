//! `tiers`: Python agents in three places (live, in memory, on disk), asked in a skewed order.
//!
//! Owns: the order of requests, which tier answered, the final check.  Not: what evicts (the node).
//! T1  L3 answered when the shard's count of loads grew by this request, read right after it.
//! T2  L1 answered when the agent is among the `live_max` used last, which is whom a shard keeps
//!     live; L2 otherwise. Requests go one at a time, so the order is the shard's own.
//! T3  every agent counts its requests itself; at the end each count is compared with ours.

use crate::context::{self, Context};
use crate::link::{Link, LinkError};
use crate::node::{Node, NodePlan};
use crate::replay::azure::{Ranks, Zipf};
use crate::replay::mooncake::Mooncake;
use crate::report::{Better, Latency, Report};
use crate::sandbox::world::Folders;
use crate::{create, sweep, sys, wire};
use anyhow::Context as _;
use clap::Args;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Agents whose memory is measured before the run, to size the arena.
const PROBE_COUNT: u32 = 32;
/// How full an arena is kept, in percent: past it a shard sends agents to the log.
const ROOM_PERCENT: u64 = 85;
/// Smallest arena there is.
const ARENA_BYTES_MIN: u64 = 16 << 20;
/// A request that is refused for want of room is asked again, so often at most.
const RETRIES_MAX: u32 = 1000;
/// Pause before that.
const RETRY_AFTER: Duration = Duration::from_millis(1);
/// What a request runs.
const STEP: &[u8] = b"n = n + 1";
/// Names of the tiers, fastest first.
const TIERS: [&str; 3] = ["live", "memory", "disk"];

/// Arguments of `tiers`.
#[derive(Clone, Debug, Args)]
pub struct TiersArgs {
    /// Python agents
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(64..))]
    pub agents: u32,
    /// Requests
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: u64,
    /// Percent of the agents that may be live
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub live_percent: u64,
    /// Percent of the agents that the arena holds
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub held_percent: u64,
    /// Exponent of the Zipf law that chooses agents
    #[arg(long, default_value_t = 1.0)]
    pub zipf: f64,
    /// Seed of the choice
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Ask in the order of this Mooncake trace instead, again and again
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// More settings of the node, key=value
    #[arg(long)]
    pub set: Vec<String>,
}

/// Runs `tiers`; the lines say whether every agent counted right.
pub fn run(context: &Context, args: &TiersArgs) -> anyhow::Result<(Report, Vec<String>)> {
    let mut report = Report::new("tiers");
    if Folders::of_user().is_none() {
        report.note("skipped: no guests were built; tools/guests/build makes them");
        return Ok((report, Vec::new()));
    }
    report.note(context.pinning());
    let order = order_of(args, &mut report)?;
    let _pinned = sys::Pinned::to(context.cores.client)?;
    let each_bytes = bytes_each(context)?;
    let live_max = (u64::from(args.agents) * args.live_percent / 100).max(1);
    let held_bytes = each_bytes * u64::from(args.agents) * args.held_percent / 100;
    let arena_bytes = (held_bytes * 100 / ROOM_PERCENT).next_multiple_of(1 << 20);
    let arena_bytes = arena_bytes.max(ARENA_BYTES_MIN);
    report.single("agent", "KB", Better::Lower, each_bytes as f64 / 1e3);
    report.single("arena", "MB", Better::Neither, arena_bytes as f64 / 1e6);
    report.single("live-max", "agents", Better::Neither, live_max as f64);
    let mut plan = NodePlan::single(context)
        .with("log.enabled=true")
        .with(&format!("shards.arena_bytes={arena_bytes}"))
        .with(&format!("sandbox.live_max={live_max}"));
    plan.set.extend(args.set.iter().cloned());
    let node = Node::start(context, &plan)?;
    let mut asked = Asked::new(&node, args.agents, live_max as usize)?;
    asked.make_all(context)?;
    let made = Moved::read(&node)?;
    asked.ask_all(context, &order)?;
    let moved = Moved::read(&node)?;
    asked.tell(&mut report);
    moved.tell(&made, order.len() as f64, &mut report);
    let line = verify(&node, &asked.counts)?;
    node.stop()?;
    Ok((report, vec![line]))
}

/// Which agent each request goes to.
fn order_of(args: &TiersArgs, report: &mut Report) -> anyhow::Result<Vec<u32>> {
    let agents = args.agents as usize;
    let count = args.requests as usize;
    // A rank or a number in a trace says nothing about when its agent was made.
    let names = sweep::order(args.agents, args.seed);
    let Some(path) = &args.trace else {
        report.note(format!("order: Zipf with exponent {}, seed {}", args.zipf, args.seed));
        let zipf = Zipf { agent_count: agents, exponent: args.zipf, seed: args.seed };
        let mut ranks = Ranks::new(&zipf);
        return Ok((0..count).map(|_| names[ranks.pick()]).collect());
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the trace {}", path.display()))?;
    let trace = Mooncake::parse(&text, 1)?;
    let numbers: Vec<u32> = trace.order().collect();
    let distinct = numbers.iter().max().map_or(0, |max| max + 1);
    report.note(format!(
        "order: {}, {} requests of {distinct} agents, folded onto {agents}, {:.1} times",
        path.display(),
        numbers.len(),
        count as f64 / numbers.len() as f64
    ));
    Ok(numbers.iter().cycle().take(count).map(|n| names[*n as usize % agents]).collect())
}

/// Bytes of arena that one agent takes after a step, measured on a node with room.
fn bytes_each(context: &Context) -> anyhow::Result<u64> {
    let node = Node::start(context, &NodePlan::single(context))?;
    let mut link = Link::connect(&node.addr())?;
    exec(&mut link, "python/first", b"n = 0")?;
    let before_bytes = create::arena_used_bytes(&node)?;
    for agent in 0..PROBE_COUNT {
        let key = key_of(agent);
        exec(&mut link, &key, b"n = 0")?;
        exec(&mut link, &key, STEP)?;
    }
    let bytes = create::arena_used_bytes(&node)?.saturating_sub(before_bytes);
    node.stop()?;
    Ok((bytes / u64::from(PROBE_COUNT)).max(1))
}

/// Runs `code` on an agent; refusals for want of room are errors of kind `Refused`.
fn exec(link: &mut Link, key: &str, code: &[u8]) -> Result<Vec<u8>, LinkError> {
    link.ask(&[b"AGENT.EXEC", key.as_bytes(), code])
}

fn key_of(agent: u32) -> String {
    format!("python/{agent}")
}

/// The agents that a shard keeps live: those used last (T2).
struct UsedLast {
    queue: VecDeque<u32>,
    live_max: usize,
}

impl UsedLast {
    /// Notes a use; whether the agent was among them.
    fn touch(&mut self, agent: u32) -> bool {
        let at = self.queue.iter().position(|known| *known == agent);
        if let Some(at) = at {
            self.queue.remove(at);
        } else if self.queue.len() == self.live_max {
            self.queue.pop_front();
        }
        self.queue.push_back(agent);
        at.is_some()
    }
}

/// Requests one at a time, each in its tier.
struct Asked<'n> {
    node: &'n Node,
    link: Link,
    used_last: UsedLast,
    /// Requests to each agent (T3).
    counts: Vec<u64>,
    latencies: [Latency; 3],
    loads: u64,
    refused_count: u64,
}

impl<'n> Asked<'n> {
    fn new(node: &'n Node, agents: u32, live_max: usize) -> anyhow::Result<Asked<'n>> {
        Ok(Asked {
            node,
            link: Link::connect(&node.addr())?,
            used_last: UsedLast { queue: VecDeque::new(), live_max },
            counts: vec![0; agents as usize],
            latencies: Default::default(),
            loads: 0,
            refused_count: 0,
        })
    }

    /// Makes every agent with a count of 0.
    fn make_all(&mut self, context: &Context) -> anyhow::Result<()> {
        let bar = context.progress("tiers make", self.counts.len() as u64);
        for agent in 0..self.counts.len() as u32 {
            context::check_interrupt()?;
            self.exec(agent, b"n = 0")?;
            self.used_last.touch(agent);
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.loads = self.loads_now()?;
        Ok(())
    }

    fn ask_all(&mut self, context: &Context, order: &[u32]) -> anyhow::Result<()> {
        let bar = context.progress("tiers", order.len() as u64);
        for agent in order {
            context::check_interrupt()?;
            let took = self.exec(*agent, STEP)?;
            let loads = self.loads_now()?;
            let was_live = self.used_last.touch(*agent);
            let tier = match (loads > self.loads, was_live) {
                (true, _) => 2,
                (false, false) => 1,
                (false, true) => 0,
            };
            self.loads = loads;
            self.latencies[tier].record(took);
            self.counts[*agent as usize] += 1;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Runs code on an agent, again when there was no room; the time of all tries.
    fn exec(&mut self, agent: u32, code: &[u8]) -> anyhow::Result<Duration> {
        let key = key_of(agent);
        let began = Instant::now();
        for _ in 0..RETRIES_MAX {
            match exec(&mut self.link, &key, code) {
                Ok(_) => return Ok(began.elapsed()),
                Err(LinkError::Refused { text }) if is_full(&text) => {
                    self.refused_count += 1;
                    std::thread::sleep(RETRY_AFTER);
                }
                Err(error) => return Err(anyhow::Error::from(error).context(key)),
            }
        }
        anyhow::bail!("{key}: no room after {RETRIES_MAX} tries")
    }

    fn loads_now(&mut self) -> anyhow::Result<u64> {
        let reply = self.link.ask(&[b"SHARD.LIST"])?;
        let rows = wire::elements(&reply);
        let value = |row: &&[u8]| wire::field(row, "loads").and_then(wire::number);
        let sum: Option<i64> = rows.iter().map(value).sum();
        Ok(sum.context("SHARD.LIST shows no counter loads")? as u64)
    }

    fn tell(&self, report: &mut Report) {
        let all: u64 = self.latencies.iter().map(Latency::count).sum();
        for ((at, tier), latency) in TIERS.iter().enumerate().zip(&self.latencies) {
            let better = if at == 0 { Better::Higher } else { Better::Neither };
            let percent = latency.count() as f64 * 100.0 / all.max(1) as f64;
            report.single(&format!("{tier}/hits"), "%", better, percent);
            if latency.count() > 0 {
                report.latency(tier, latency);
            }
        }
        report.single("refused", "requests", Better::Lower, self.refused_count as f64);
        let distinct = self.counts.iter().filter(|count| **count > 0).count();
        report.single("asked", "agents", Better::Neither, distinct as f64);
        let resident_mb = self.node.resident_bytes() as f64 / 1e6;
        report.single("resident", "MB", Better::Lower, resident_mb);
    }
}

/// Whether a refusal may pass when others have gone to disk.
fn is_full(text: &str) -> bool {
    ["FULL", "BUSY"].iter().any(|code| text.starts_with(code))
}

/// How often agents moved between tiers.
struct Moved {
    evictions: u64,
    loads: u64,
    cold: u64,
    log_bytes: u64,
}

impl Moved {
    fn read(node: &Node) -> anyhow::Result<Moved> {
        let sum = |name| create::counter_sum(&node.addr(), name);
        Ok(Moved {
            evictions: sum("evictions")?,
            loads: sum("loads")?,
            cold: sum("cold_agents")?,
            log_bytes: sum("log_bytes")?,
        })
    }

    /// Adds what moved since `made`, when all agents had been made.
    fn tell(&self, made: &Moved, requests: f64, report: &mut Report) {
        let mut count = |name: &str, unit: &str, value: f64| {
            report.single(name, unit, Better::Neither, value);
        };
        count("made/evictions", "agents", made.evictions as f64);
        count("made/on-disk-only", "agents", made.cold as f64);
        count("evictions", "agents", (self.evictions - made.evictions) as f64);
        count("loads", "agents", (self.loads - made.loads) as f64);
        count("on-disk-only", "agents", self.cold as f64);
        let written = (self.log_bytes - made.log_bytes) as f64 / requests.max(1.0);
        count("log-written", "bytes/step", written);
    }
}

/// Asks every agent for its count and compares (T3).
fn verify(node: &Node, counts: &[u64]) -> anyhow::Result<String> {
    let print = |agent: u32, out: &mut Vec<u8>| {
        wire::command(out, &[b"AGENT.EXEC", key_of(agent).as_bytes(), b"print(n)"]);
        1
    };
    let is_right =
        |agent: u32, reply: &[u8]| wire::number(reply) == Some(counts[agent as usize] as i64);
    let swept = sweep::sweep(&node.addr(), counts.len() as u32, 1, 3, print, is_right)?;
    Ok(swept.line("every agent's count"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t2_those_used_last_are_live() {
        let mut used_last = UsedLast { queue: VecDeque::new(), live_max: 2 };
        assert!(!used_last.touch(1));
        assert!(!used_last.touch(2));
        assert!(used_last.touch(1));
        assert!(!used_last.touch(3));
        assert!(!used_last.touch(2), "2 was used least lately");
        assert!(used_last.touch(3));
    }

    #[test]
    fn only_want_of_room_is_asked_again() {
        assert!(is_full("FULL the arena is full"));
        assert!(is_full("BUSY a queue is full"));
        assert!(!is_full("FAULT the handler failed"));
    }
}
