//! `create`: a million agents of one page on a real node; seconds, bytes each, and an idle engine.
//!
//! Owns: that count and what it costs.  Not: single operations (`seal.rs`).
//! C1  every agent has one written page: its first message creates it and is one turn, sealed.
//! C2  overhead is what the node's processes hold beyond the agents' frames and the empty node.

use crate::context::{self, Context};
use crate::link::{Addr, Link};
use crate::load::{self, Plan, Requests};
use crate::node::{Node, NodePlan};
use crate::report::{Better, Report};
use crate::wire;
use anyhow::Context as _;
use clap::Args;
use std::time::{Duration, Instant};

/// Bytes of a frame.
pub const PAGE_BYTES: u64 = heronry_engine::PAGE_BYTES as u64;
/// Connections and depth that create.
const CONNECTIONS: usize = 8;
const DEPTH: usize = 128;

/// Arguments of `create`.
#[derive(Clone, Debug, Args)]
pub struct CreateArgs {
    /// Number of agents
    #[arg(long, default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub count: u64,
    /// Shards of the node; 0 is one per allowed CPU
    #[arg(long, default_value_t = 0)]
    pub shards: u16,
    /// More settings of the node, key=value
    #[arg(long)]
    pub set: Vec<String>,
}

/// Runs `create`.
pub fn run(context: &Context, args: &CreateArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("create");
    let shards = if args.shards == 0 { context.cores.all.len() as u16 } else { args.shards };
    let mut set = vec![format!("agents.agents_max={}", args.count.max(1000) * 2)];
    set.extend(args.set.iter().cloned());
    let plan = NodePlan { shards, cpus: context.cores.all.clone(), set };
    let node = Node::start(context, &plan)?;
    report.single("idle/empty", "% of a core", Better::Lower, idle_percent(context, &node));
    let before_bytes = node.resident_bytes();
    let frames_before = frames_used(&node)?;

    let bar = context.progress("create", args.count);
    let mut load = Plan::closed(node.addr(), CONNECTIONS, DEPTH, 600.0);
    load.warmup_seconds = 0.0;
    load.request_count_max = args.count;
    let mut requests = FirstMessages { next: 0, count: args.count, bar: bar.clone() };
    let started_at = Instant::now();
    load::run(&load, &mut requests)?.flawless()?;
    let seconds = started_at.elapsed().as_secs_f64();
    bar.finish_and_clear();
    context::check_interrupt()?;

    let count = args.count as f64;
    wait_for_agents(&node, args.count)?;
    let frames = frames_used(&node)? - frames_before;
    let resident = node.resident_bytes();
    let overhead = resident.saturating_sub(before_bytes).saturating_sub(frames * PAGE_BYTES) as f64;
    report.single("create/seconds", "s", Better::Lower, seconds);
    report.single("create/rate", "agents/s", Better::Higher, count / seconds);
    report.single("create/frames", "pages each", Better::Lower, frames as f64 / count);
    report.single("create/resident", "GB", Better::Lower, resident as f64 / 1e9);
    report.single("create/overhead", "bytes each", Better::Lower, overhead / count);
    report.single("idle/full", "% of a core", Better::Lower, idle_percent(context, &node));
    report.note(format!("{} agents of one page each on {shards} shards", args.count));
    node.stop()?;
    Ok(report)
}

/// Waits until the published counters show `count` agents: the last few may still be on their way.
fn wait_for_agents(node: &Node, count: u64) -> anyhow::Result<()> {
    let give_up_at = Instant::now() + Duration::from_secs(5);
    loop {
        let agents = counter_sum(&node.addr(), "agents")?;
        if agents == count {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < give_up_at, "the node has {agents} agents, not {count}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// CPU that all processes of a node use while nobody talks to them.
pub fn idle_percent(context: &Context, node: &Node) -> f64 {
    let before = node.cpu_seconds();
    let started_at = Instant::now();
    let length = Duration::from_secs_f64(context.seconds.clamp(2.0, 5.0));
    while started_at.elapsed() < length && !context::interrupted() {
        std::thread::sleep(Duration::from_millis(50));
    }
    (node.cpu_seconds() - before) / started_at.elapsed().as_secs_f64() * 100.0
}

/// Frames in use on all shards.
fn frames_used(node: &Node) -> anyhow::Result<u64> {
    counter_sum(&node.addr(), "frames_used")
}

/// Bytes in use of all arenas.
pub fn arena_used_bytes(node: &Node) -> anyhow::Result<u64> {
    Ok(frames_used(node)? * PAGE_BYTES + counter_sum(&node.addr(), "patch_bytes")?)
}

/// A counter summed over all shards.
pub fn counter_sum(addr: &Addr, name: &str) -> anyhow::Result<u64> {
    Ok(counters(addr, name)?.iter().sum())
}

/// A counter, or a percentile in nanoseconds, of each shard.
pub fn counters(addr: &Addr, name: &str) -> anyhow::Result<Vec<u64>> {
    let reply = Link::connect(addr)?.ask(&[b"SHARD.LIST"])?;
    let value = |row: &&[u8]| wire::field(row, name).and_then(wire::number).map(|n| n as u64);
    let rows = wire::elements(&reply);
    let values: Option<Vec<u64>> = rows.iter().map(value).collect();
    values.with_context(|| format!("SHARD.LIST shows no counter {name}"))
}

/// `AGENT.SEND counter/N 1` for N = 0, 1, ...: creates agent N and writes its first page (C1).
struct FirstMessages {
    next: u64,
    count: u64,
    bar: indicatif::ProgressBar,
}

impl Requests for FirstMessages {
    fn append(&mut self, _conn: usize, out: &mut Vec<u8>) {
        // The generator asks for a few more than counted; they go to an agent that exists.
        let agent = self.next.min(self.count - 1);
        self.next += 1;
        if self.next.is_multiple_of(10_000) {
            self.bar.set_position(self.next);
        }
        let mut key = *b"counter/00000000000";
        let digits = key.len();
        let mut rest = agent;
        for at in (8..digits).rev() {
            key[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        wire::command(out, &[b"AGENT.SEND", &key, b"1"]);
    }
}
