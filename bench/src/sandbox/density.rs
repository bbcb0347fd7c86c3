//! `density`: how many Python agents one shard holds, live and evicted, and in how much memory.
//!
//! Owns: the three shapes and the work that their agents do.  Not: the partition (`world.rs`).
//! Y1  resident is the process's proportional set (PSS): a base that thousands of slots map counts
//!     once. Unique is its anonymous memory (arena, private pages of live agents), shared the rest.

use super::world::{Folders, World};
use crate::context::{self, Context};
use crate::report::{Better, Report};
use crate::sys;
use anyhow::Context as _;
use clap::Args;
use heronry_engine::verb::Language;
use serde::{Deserialize, Serialize};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A step of an agent that does something: twenty of them are what a conversation leaves.
const STEPS: [&str; 10] = [
    "import json, re, collections, dataclasses",
    "notes = []",
    "def note(text):\n    notes.append({'n': len(notes), 'text': text})",
    "note('the customer wants a refund')",
    "words = re.findall(r'[a-z]+', notes[-1]['text']); seen = collections.Counter(words)",
    "class Plan:\n    def __init__(self, goal):\n        self.goal, self.done = goal, []",
    "plan = Plan('refund'); plan.done.append('looked up the order')",
    "table = {i: i * i for i in range(100)}",
    "len(json.dumps({'notes': notes, 'table': table, 'done': plan.done}))",
    "note('checked %d squares' % len(table))",
];
/// What the template has done already: imports are shared by all.
const WARM: &str = "import json, re, collections, dataclasses, datetime, random";
/// Steps of an agent before it counts as one that has worked.
const STEP_COUNT: usize = 20;
/// Arena of a shard; only what is used becomes resident.
const ARENA_BYTES: u64 = 12 << 30;
/// Live agents of the evicting shape.
const EVICTING_LIVE: u32 = 2_000;

/// Arguments of `density`.
#[derive(Clone, Debug, Args)]
pub struct DensityArgs {
    /// Live agents that have each done 20 steps of work
    #[arg(long, default_value_t = 850, value_name = "N")]
    pub worked: u32,
    /// Live agents that have each done one step
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub live: u32,
    /// Agents created in all when only 2,000 may be live
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    pub evicted: u32,
}

/// The hidden worker's arguments: one way to fill a shard.
#[derive(Clone, Debug, Args)]
pub struct ShardArgs {
    /// Agents to make
    #[arg(long)]
    agents: u32,
    /// Most of them that may be live; 0: as many as the process has room for
    #[arg(long)]
    live_max: u32,
    /// Steps of each
    #[arg(long)]
    steps: usize,
}

/// What a filled shard takes.
#[derive(Debug, Serialize, Deserialize)]
struct Filled {
    resident_bytes: u64,
    anonymous_bytes: u64,
    /// Anonymous before the first agent.
    empty_bytes: u64,
    arena_bytes: u64,
    live_count: u64,
    eviction_count: u64,
    seconds: f64,
}

/// Runs the scenario.
pub fn run(context: &Context, args: &DensityArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("density");
    if Folders::of_user().is_none() {
        report.note("skipped: no guests were built; tools/guests/build makes them");
        return Ok(report);
    }
    report.note("one process is one shard; unique: arena and private pages; shared: files, bases");
    let shapes = [
        ("worked", ShardArgs { agents: args.worked, live_max: 0, steps: STEP_COUNT }),
        ("live", ShardArgs { agents: args.live, live_max: 0, steps: 1 }),
        ("evicted", ShardArgs { agents: args.evicted, live_max: EVICTING_LIVE, steps: 1 }),
    ];
    let bar = context.progress("density", shapes.len() as u64);
    for (name, shape) in shapes.iter().filter(|(_, shape)| shape.agents > 0) {
        context::check_interrupt()?;
        let filled = fill_child(context, shape).with_context(|| format!("density {name}"))?;
        tell(&format!("{name}-{}", shape.agents), shape, &filled, &mut report);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(report)
}

fn tell(name: &str, shape: &ShardArgs, filled: &Filled, report: &mut Report) {
    let name = |what: &str| format!("{name}/{what}");
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let shared = filled.resident_bytes - filled.anonymous_bytes;
    report.single(&name("agents"), "agents", Better::Higher, f64::from(shape.agents));
    report.single(&name("live"), "agents", Better::Higher, filled.live_count as f64);
    report.single(&name("evictions"), "", Better::Neither, filled.eviction_count as f64);
    report.single(&name("resident"), "MB", Better::Lower, mb(filled.resident_bytes));
    report.single(&name("unique"), "MB", Better::Lower, mb(filled.anonymous_bytes));
    report.single(&name("shared"), "MB", Better::Neither, mb(shared));
    report.single(&name("arena"), "MB", Better::Lower, mb(filled.arena_bytes));
    let each = filled.anonymous_bytes.saturating_sub(filled.empty_bytes) / u64::from(shape.agents);
    report.single(&name("unique-each"), "KB", Better::Lower, each as f64 / 1e3);
    report.single(&name("seconds"), "s", Better::Lower, filled.seconds);
}

/// Fills a shard in a process of its own, whose memory is nobody else's (Y1).
fn fill_child(context: &Context, shape: &ShardArgs) -> anyhow::Result<Filled> {
    let mut command = Command::new(&context.node_exe);
    command.args(["bench", "density-worker", "--agents", &shape.agents.to_string()]);
    command.args(["--live-max", &shape.live_max.to_string()]);
    command.args(["--steps", &shape.steps.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    sys::confine(&mut command, &[context.cores.server], libc::SIGKILL);
    let output = command.spawn()?.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "the shard's process ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The hidden worker: fills a shard and prints what it takes as JSON.
pub fn run_worker(shape: &ShardArgs) -> anyhow::Result<()> {
    let folders = Folders::of_user().context("no guests were built")?;
    let mut world = World::new(folders, ARENA_BYTES, shape.live_max)?;
    world.deploy("python", Language::Python, None, Some(WARM))?;
    let (_, empty_bytes) = resident_bytes()?;
    let began = Instant::now();
    for agent in 0..shape.agents {
        let key = format!("python/{agent}");
        for step in 0..shape.steps {
            world.exec(&key, STEPS[step % STEPS.len()])?;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let (resident_bytes, anonymous_bytes) = resident_bytes()?;
    let counts = world.live().counts();
    let filled = Filled {
        resident_bytes,
        anonymous_bytes,
        empty_bytes,
        arena_bytes: world.arena_used_bytes(),
        live_count: counts.live,
        eviction_count: counts.evictions,
        seconds,
    };
    // Every agent still answers, also those that had lost their slot.
    for agent in (0..shape.agents).step_by(97) {
        let (answer, _) = world.exec(&format!("python/{agent}"), "'json' in globals()")?;
        anyhow::ensure!(answer == "True", "python/{agent} has forgotten its import: {answer}");
    }
    println!("{}", serde_json::to_string(&filled)?);
    Ok(())
}

/// This process's memory in bytes: all that is resident, and the anonymous part of it.
fn resident_bytes() -> anyhow::Result<(u64, u64)> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        kib.map(|kib: u64| kib * 1024)
            .ok_or_else(|| anyhow::anyhow!("/proc/self/smaps_rollup has no {name}"))
    };
    Ok((field("Pss:")?, field("Pss_Anon:")?))
}
