//! `replay`: recorded traces as agents on a real node, every turn sealed, every image verified.
//!
//! Owns: arguments, the phases of a replay, its report.  Not: formats and driving (`replay/`).
//! V1  a replay ends with `verified: all images` or fails; there is no third way.
//! V2  a rate is taken with a shard on every CPU, the client on one of them, and so is a recorded
//!     pace; latency at half the rate that was reached just before with the client on a CPU of its
//!     own, if there is one for it, so that no turn waits for it.
//! V3  a turn's latency is the shard's own: from the message's arrival at its agent's shard to the
//!     end of its turn.  What the client saw, kernel and waiting for its own family included,
//!     stands beside it as `client`.

pub mod azure;
pub mod drive;
pub mod mooncake;
pub mod script;
pub mod tau_bench;
pub mod verify;

use crate::context::Context;
use crate::link::Addr;
use crate::node::{Node, NodePlan};
use crate::report::{Better, Report};
use crate::{create, sys};
use azure::{Azure, Zipf};
use clap::{Args, ValueEnum};
use drive::{Driven, Pace};
use mooncake::Mooncake;
use script::{Script, TraceError};
use std::path::PathBuf;
use tau_bench::TauBench;
use verify::Verified;

/// Requests that wait for a shard are refused past a ring's length; the longest turn of a trace has
/// 750 KiB, and many are in flight.
const RING_SETTING: &str = "shards.ring_bytes=67108864";

/// Formats of traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON lines with timestamp and hash_ids
    Mooncake,
    /// CSV with TIMESTAMP, ContextTokens, GeneratedTokens
    Azure,
    /// JSON array of recorded conversations with tool calls
    TauBench,
}

/// Which CPUs the node gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placement {
    /// All, the client's too.
    Shared,
    /// All but the client's, if there are others.
    Apart,
}

/// Arguments of `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The trace file
    #[arg(long)]
    pub trace: PathBuf,
    /// Its format
    #[arg(long)]
    pub format: Format,
    /// Replay at this many times the recorded pace; 0 is as fast as possible, then at half that
    #[arg(long, default_value_t = 0.0)]
    pub speed: f64,
    /// Play the trace this many times, each pass with agents of its own; 0 chooses a few seconds
    #[arg(long, default_value_t = 0)]
    pub repeat_trace: usize,
    /// Shards of the node; 0 is one for each CPU that it gets
    #[arg(long, default_value_t = 0)]
    pub shards: u16,
    /// Connections
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Turns in flight when going as fast as possible
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub flying: u32,
    /// Azure: agents per pass
    #[arg(long, default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub agents: u32,
    /// Azure: exponent of the Zipf law
    #[arg(long, default_value_t = 1.0)]
    pub zipf: f64,
    /// Azure: seed of the choice of agents
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// More settings of the node, key=value
    #[arg(long)]
    pub set: Vec<String>,
}

/// A percentile that the shards publish of their turns: the slowest shard's.
struct TurnRow {
    what: &'static str,
    percentile: &'static str,
    ns: u64,
}

/// One phase's result.
struct Phase {
    driven: Driven,
    verified: Verified,
    agent_count: usize,
    fork_count: usize,
    arena_bytes: u64,
    turns: Vec<TurnRow>,
}

/// Runs `replay`. The error of a mismatch comes after the report has its figures.
pub fn run(context: &Context, args: &ReplayArgs) -> anyhow::Result<(Report, Vec<String>)> {
    anyhow::ensure!(args.speed >= 0.0, "--speed is {}; allowed: 0 or more", args.speed);
    let mut report = Report::new("replay");
    report.note(format!("trace {}", args.trace.display()));
    let text = std::fs::read_to_string(&args.trace)
        .map_err(|error| TraceError::Read { path: args.trace.clone(), error })?;
    let _pinned = sys::Pinned::to(context.cores.client)?;
    let lines = play(context, args, &text, &mut report)?;
    Ok((report, lines))
}

fn play(
    context: &Context,
    args: &ReplayArgs,
    text: &str,
    report: &mut Report,
) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut play = |name: &str, placement, pace| -> anyhow::Result<f64> {
        let phase = phase(context, args, text, placement, pace, report)?;
        publish(report, name, &phase);
        lines.push(phase.verified.line());
        Ok(phase.driven.turn_count as f64 / phase.driven.seconds.max(1e-9))
    };
    if args.speed > 0.0 {
        let pace = Pace::Recorded { speed: args.speed };
        play(&format!("speed-{}", args.speed), Placement::Shared, pace)?;
        return Ok(lines);
    }
    let flying = Pace::Flying { turn_count: args.flying as usize };
    let mut rate = play("fast", Placement::Shared, flying)?;
    if context.cores.apart() {
        rate = play("apart", Placement::Apart, flying)?;
    }
    play("half", Placement::Apart, Pace::Even { per_second: rate / 2.0 })?;
    lines.dedup();
    Ok(lines)
}

/// Whether a line of [`run`] tells of a mismatch (V1).
pub fn is_mismatch(line: &str) -> bool {
    !line.starts_with("verified:")
}

fn phase(
    context: &Context,
    args: &ReplayArgs,
    text: &str,
    placement: Placement,
    pace: Pace,
    report: &mut Report,
) -> anyhow::Result<Phase> {
    let (all, client) = (&context.cores.all, context.cores.client);
    let fast = matches!(pace, Pace::Flying { .. });
    let apart = placement == Placement::Apart && context.cores.apart();
    let cpus: Vec<usize> = all.iter().copied().filter(|cpu| !apart || *cpu != client).collect();
    let shards = if args.shards == 0 { cpus.len() as u16 } else { args.shards };
    let phase_name = if fast { "as fast as possible" } else { "open loop" };
    report.note(format!("{phase_name}: {shards} shards on CPUs {cpus:?}, client on CPU {client}"));
    let mut set = vec![RING_SETTING.to_owned()];
    set.extend(args.set.iter().cloned());
    let node = Node::start(context, &NodePlan { shards, cpus, set })?;
    let mut script = parse(args, text, node.shard_count())?;
    let turn_count = script.turns().len() as u64;
    let bar = context.progress("replay", turn_count);
    let connections = usize::from(args.connections);
    let driven =
        drive::drive(&node.addr(), connections, &mut *script, pace, &mut |n| bar.set_position(n))?;
    bar.finish_and_clear();
    let turns = turn_rows(&node.addr());
    let bar = context.progress("verify", script.agent_count() as u64);
    let verified = verify::verify(&node.addr(), &*script, &mut |n| bar.set_position(n))?;
    bar.finish_and_clear();
    let arena_bytes = create::arena_used_bytes(&node)?;
    let (agent_count, fork_count) = (script.agent_count(), script.fork_count());
    node.stop()?;
    Ok(Phase { driven, verified, agent_count, fork_count, arena_bytes, turns })
}

/// What the shards say of their turns (V3): `turn` from a message's arrival to the turn's end,
/// `run` from the turn's start. A node that publishes only one of them gives only that one.
fn turn_rows(addr: &Addr) -> Vec<TurnRow> {
    let mut rows = Vec::new();
    for (what, counter) in [("turn", "message_ns"), ("run", "turn_ns")] {
        for (percentile, suffix) in [("p50", "p50"), ("p99", "p99"), ("p99.9", "p999")] {
            let counter = format!("{counter}_{suffix}");
            if let Ok(values) = create::counters(addr, &counter) {
                let ns = values.into_iter().max().unwrap_or(0);
                rows.push(TurnRow { what, percentile, ns });
            }
        }
    }
    rows
}

fn parse(args: &ReplayArgs, text: &str, shards: u16) -> Result<Box<dyn Script>, TraceError> {
    let repeat = |few: usize| if args.repeat_trace == 0 { few } else { args.repeat_trace };
    Ok(match args.format {
        Format::Mooncake => Box::new(Mooncake::parse(text, repeat(10))?),
        Format::Azure => {
            let zipf =
                Zipf { agent_count: args.agents as usize, exponent: args.zipf, seed: args.seed };
            Box::new(Azure::parse(text, repeat(5), zipf)?)
        }
        Format::TauBench => Box::new(TauBench::parse(text, repeat(60), shards)?),
    })
}

fn publish(report: &mut Report, name: &str, phase: &Phase) {
    let driven = &phase.driven;
    let seconds = driven.seconds.max(1e-9);
    let count = |report: &mut Report, what: &str, unit: &str, value: f64| {
        report.single(&format!("{name}/{what}"), unit, Better::Neither, value);
    };
    let rate = driven.turn_count as f64 / seconds;
    report.single(&format!("{name}/rate"), "turns/s", Better::Higher, rate);
    count(report, "turns", "turns", driven.turn_count as f64);
    count(report, "commands", "commands/s", driven.command_count as f64 / seconds);
    for row in &phase.turns {
        let name = format!("{name}/{}/{}", row.what, row.percentile);
        report.single(&name, "us", Better::Lower, row.ns as f64 / 1e3);
    }
    report.latency(&format!("{name}/client"), &driven.latency);
    count(report, "agents", "agents", phase.agent_count as f64);
    count(report, "forks", "forks", phase.fork_count as f64);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    count(report, "images", "MB", mb(phase.verified.bytes));
    count(report, "unique", "MB", mb(phase.verified.unique_bytes));
    count(report, "shared", "MB", mb(phase.verified.shared_bytes));
    count(report, "arena", "MB", mb(phase.arena_bytes));
}
