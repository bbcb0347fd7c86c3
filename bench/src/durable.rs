//! `durable`: the work of `messages` with every reply on disk, beside Redis that syncs every write.
//!
//! Owns: who takes part, the disk's own latency, bytes logged per step.  Not: the work
//! (`messages.rs`), its rounds (`peers.rs`).
//! U1  both servers and the probe of the disk write into one folder, so to one file system.
//! U2  bytes per step are a counter's growth over the growth of turns in the same time.
//! U3  a node that sleeps while it waits and one that looks for what comes take part, each on the
//!     server's core; which one is idle sleeps.

use crate::context::{self, Context};
use crate::disk::Disk;
use crate::link::Link;
use crate::load::{self, Encoded, Pace, Plan};
use crate::messages::{self, Work};
use crate::node::{Node, NodePlan};
use crate::peers::{self, Contestant, Shape};
use crate::redis::{self, Redis};
use crate::report::{Better, Latency, Report, ratios};
use crate::sandbox::world::Folders;
use crate::{create, sys, wire};
use clap::Args;
use std::time::Duration;

/// Shapes of the load.
const SHAPES: [Shape; 2] =
    [Shape { connections: 32, depth: 1 }, Shape { connections: 1, depth: 1 }];
/// The nodes that take part.
const NAMES: [&str; 2] = ["heronry", "heronry-spin"];
/// One step of the Python agent.
const STEP: &[u8] = b"x = x + 1";
/// Sealed steps a second that are as far apart as durable ones are on a common disk.
const SPACED_PER_SECOND: f64 = 2_000.0;
/// How long a shard may take to publish its counters after its last reply.
const SETTLE: Duration = Duration::from_millis(50);

/// Arguments of `durable`.
#[derive(Clone, Debug, Args)]
pub struct DurableArgs {
    /// Number of agents of 64 KiB
    #[arg(long, default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub agents: u32,
    /// How long the node that does not sleep looks for what comes, in microseconds
    #[arg(long, default_value_t = 1_000, value_name = "US",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub spin_us: u32,
    /// More settings of the nodes, key=value
    #[arg(long)]
    pub set: Vec<String>,
}

/// What a node has logged, and in how many turns.
#[derive(Clone, Copy)]
struct Logged {
    turns: u64,
    record_bytes: u64,
    bytes: u64,
    batches: u64,
}

/// Runs `durable`.
pub fn run(context: &Context, args: &DurableArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("durable");
    report.note(context.pinning());
    let home = tempfile::Builder::new().prefix("heronry-bench-").tempdir()?;
    probe_disk(context, &home, &mut report)?;
    let (parked, spinning) = (node(context, args, &home, 0)?, node(context, args, &home, 1)?);
    let mut contestants = Vec::new();
    for (name, node) in [(NAMES[0], &parked), (NAMES[1], &spinning)] {
        messages::prepare_node(&node.addr(), args.agents)?;
        let (addr, pids) = (node.addr(), node.pids());
        contestants.push(Contestant { name, addr, work: Work::SendDurable, pids, round_count: 0 });
    }
    let folder = home.path().join("redis");
    std::fs::create_dir(&folder)?;
    let redis = Redis::start_on(context.cores.server, &folder)?;
    match &redis {
        Some(redis) => {
            let kept = "appendonly with appendfsync always, no rewriting";
            let theirs = peers::redis_contestants(redis, args.agents, kept, &mut report)?;
            contestants.extend(theirs);
        }
        None => report.note(redis::ABSENT),
    }
    for shape in SHAPES {
        let before = logged(&parked)?;
        peers::interleave(context, args.agents, &[shape], &mut contestants, &mut report)?;
        tell_logged(&shape.name(), before, logged(&parked)?, &mut report);
    }
    drop(redis);
    for (name, node) in [("", parked), ("-spin", spinning)] {
        disk_ratio(&format!("1x1/heronry{name}"), &mut report);
        python(context, &node, name, &mut report)?;
        disk_ratio(&format!("python{name}"), &mut report);
        node.stop()?;
    }
    Ok(report)
}

/// One of the two nodes (U3), on data of its own.
fn node(
    context: &Context,
    args: &DurableArgs,
    home: &tempfile::TempDir,
    which: usize,
) -> anyhow::Result<Node> {
    let spin = format!("shards.spin_us={}", [0, args.spin_us][which]);
    let mut plan = NodePlan::single(context).with("log.enabled=true").with(&spin);
    plan.set.extend(args.set.iter().cloned());
    Node::start_on(context, &plan, &home.path().join(NAMES[which]))
}

/// Adds the disk's own latency; on the server's CPU, as the server would write.
fn probe_disk(
    context: &Context,
    home: &tempfile::TempDir,
    report: &mut Report,
) -> anyhow::Result<()> {
    let _pinned = sys::Pinned::to(context.cores.server)?;
    let mut disk = match Disk::new(home.path()) {
        Ok(disk) => disk,
        Err(error) => {
            report.note(format!(
                "skipped: disk: {} takes no O_DIRECT: {error}",
                home.path().display()
            ));
            return Ok(());
        }
    };
    let mut rounds = Rounds::default();
    for _ in 0..context.repeat {
        context::check_interrupt()?;
        rounds.add(&disk.overwrite(context.seconds)?);
    }
    rounds.tell("disk", report);
    report.note("disk: 4 KiB overwrites, O_DIRECT and O_DSYNC, in the folder of both servers");
    Ok(())
}

/// Latency of one thing, round by round.
#[derive(Default)]
struct Rounds {
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    all: Latency,
}

impl Rounds {
    fn add(&mut self, latency: &Latency) {
        self.p50_us.push(latency.us_at(50.0));
        self.p99_us.push(latency.us_at(99.0));
        self.all.add(latency);
    }

    fn tell(self, name: &str, report: &mut Report) {
        report.figure(&format!("{name}/p50"), "us", Better::Lower, self.p50_us);
        report.figure(&format!("{name}/p99"), "us", Better::Lower, self.p99_us);
        report.curves.push(self.all.curve(name));
    }
}

/// A Python agent that counts: durable, and beside it sealed, as fast as it goes and as far apart
/// as durable steps are, when caches may have been others' between two. Those count from when they
/// were due, so with the client's waking up.
fn python(context: &Context, node: &Node, suffix: &str, report: &mut Report) -> anyhow::Result<()> {
    if Folders::of_user().is_none() {
        report.note("skipped: python: no guests were built; tools/guests/build makes them");
        return Ok(());
    }
    let _pinned = sys::Pinned::to(context.cores.client)?;
    Link::connect(&node.addr())?.ask(&[b"AGENT.EXEC", b"python/a", b"x = 0"])?;
    let spaced = Pace::Open { per_second: SPACED_PER_SECOND };
    for (name, ack, pace) in [
        ("python-sealed", &b"sealed"[..], Pace::Closed),
        ("python-sealed-spaced", b"sealed", spaced),
        ("python", b"durable", Pace::Closed),
    ] {
        let name = &format!("{name}{suffix}");
        let before = logged(node)?;
        let mut rounds = Rounds::default();
        for _ in 0..context.repeat {
            let mut step = Encoded::new(1, |_, out| {
                wire::command(out, &[b"AGENT.EXEC", b"python/a", STEP, b"ACK", ack]);
            });
            let plan = Plan { pace, ..Plan::closed(node.addr(), 1, 1, context.seconds) };
            let outcome = load::run(&plan, &mut step)?.flawless()?;
            context::check_interrupt()?;
            let left = outcome.unanswered_count;
            anyhow::ensure!(left == 0, "{left} steps of {name} were not answered");
            rounds.add(&outcome.latency);
        }
        rounds.tell(name, report);
        tell_logged(name, before, logged(node)?, report);
    }
    Ok(())
}

/// Adds `name`'s p50 over the disk's.
fn disk_ratio(name: &str, report: &mut Report) {
    let repeats = |report: &Report, name: &str| {
        let figure = report.figures.iter().find(|figure| figure.name == name);
        figure.map(|figure| figure.repeats.clone()).unwrap_or_default()
    };
    let ours = repeats(report, &format!("{name}/p50"));
    let disk = repeats(report, "disk/p50");
    report.figure(&format!("{name}:disk/p50"), "x", Better::Lower, ratios(&ours, &disk));
}

fn logged(node: &Node) -> anyhow::Result<Logged> {
    std::thread::sleep(SETTLE);
    let sum = |name| create::counter_sum(&node.addr(), name);
    Ok(Logged {
        turns: sum("turns")?,
        record_bytes: sum("log_record_bytes")?,
        bytes: sum("log_bytes")?,
        batches: sum("log_batches")?,
    })
}

/// Adds bytes and batches per turn (U2).
fn tell_logged(name: &str, before: Logged, after: Logged, report: &mut Report) {
    let turns = (after.turns - before.turns).max(1) as f64;
    let each = |before: u64, after: u64| (after - before) as f64 / turns;
    let record_bytes = each(before.record_bytes, after.record_bytes);
    let bytes = each(before.bytes, after.bytes);
    report.single(&format!("{name}/log-records"), "bytes/step", Better::Lower, record_bytes);
    report.single(&format!("{name}/log-written"), "bytes/step", Better::Lower, bytes);
    let batches = each(before.batches, after.batches);
    report.single(&format!("{name}/log-batches"), "per step", Better::Neither, batches);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u2_bytes_per_step_are_growth_over_growth() {
        let before = Logged { turns: 10, record_bytes: 1000, bytes: 4096, batches: 1 };
        let after = Logged { turns: 14, record_bytes: 1400, bytes: 12288, batches: 3 };
        let mut report = Report::new("durable");
        tell_logged("s", before, after, &mut report);
        assert_eq!(report.value("s/log-records"), Some(100.0));
        assert_eq!(report.value("s/log-written"), Some(2048.0));
        assert_eq!(report.value("s/log-batches"), Some(0.5));
    }

    #[test]
    fn a_ratio_to_the_disk_needs_both_figures() {
        let mut report = Report::new("durable");
        report.figure("disk/p50", "us", Better::Lower, vec![50.0, 100.0]);
        disk_ratio("python", &mut report);
        assert_eq!(report.value("python:disk/p50"), None);
        report.figure("python/p50", "us", Better::Lower, vec![100.0, 300.0]);
        disk_ratio("python", &mut report);
        assert_eq!(report.value("python:disk/p50"), Some(2.5));
    }
}
