//! `promises`: every figure that the project promises, measured, beside its limit.
//!
//! Owns: the table of promises.  Not: how a figure is measured (its scenario).
//! P1  a promise is one row of `PROMISES`; a later one joins by adding a row.
//! P2  a scenario runs once, however many rows it serves, and not at all when none is wanted.
//! P3  what cannot be measured here is listed as skipped with its reason, never as holding.

use crate::context::{self, Context};
use crate::create::{self, CreateArgs};
use crate::cycle::{Operation, Shape};
use crate::hop::{self, HopArgs};
use crate::machine::{self, Machine};
use crate::messages::MessagesArgs;
use crate::replay::{self, Format, ReplayArgs};
use crate::report::{Report, short};
use crate::sandbox::density::{self, DensityArgs};
use crate::sandbox::speculate::{self, SpeculateArgs};
use crate::sandbox::{self, SandboxArgs};
use crate::scaling::{self, ScalingArgs};
use crate::{peers, pipeline, seal};
use clap::{Args, Parser};
use comfy_table::{Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Arguments of `promises`.
#[derive(Clone, Debug, Args)]
pub struct PromisesArgs {
    /// Only promises whose name matches, e.g. 'hop/*'
    #[arg(long, default_value = "*")]
    pub only: String,
    /// Folder of the recorded traces: tau_bench/, mooncake/ (replays are skipped without it)
    #[arg(long, env = "HERONRY_TRACES")]
    pub data: Option<PathBuf>,
    /// Fail when a promise does not hold
    #[arg(long)]
    pub check: bool,
}

/// Which scenario measures a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Peers,
    HalfLoad,
    Hop,
    Scaling,
    Cycles,
    Create,
    TauBench,
    Mooncake,
    Sandbox,
    Density,
    Speculate,
}

/// A limit and its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    /// Holds at or above.
    Least(f64, &'static str),
    /// Holds at or below.
    Most(f64, &'static str),
}

/// On which side of its limit a value holds, as the JSON says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Bound {
    Least,
    Most,
}

/// One promise (P1).
struct Promise {
    name: &'static str,
    source: Source,
    limit: Limit,
    value: Value,
}

/// How the value comes out of its scenario's report.
enum Value {
    /// A figure's median.
    Figure(&'static str),
    /// One figure over ten times another.
    PerTen(&'static str, &'static str),
}

use Limit::{Least, Most};
use Source::{
    Create, Cycles, Density, HalfLoad, Hop, Mooncake, Peers, Sandbox, Scaling, Speculate, TauBench,
};
use Value::{Figure, PerTen};

const fn row(name: &'static str, source: Source, limit: Limit, value: Value) -> Promise {
    Promise { name, source, limit, value }
}

/// Everything promised.
#[rustfmt::skip]
const PROMISES: &[Promise] = &[
    row("messages/32-connections-vs-redis", Peers, Least(1.5, "x"),
        Figure("32x1/heronry:redis-script/rate")),
    row("messages/1-connection-p50-vs-redis", Peers, Most(1.0, "x"),
        Figure("1x1/heronry:redis-script/p50")),
    row("messages/1-connection-p50-spinning-vs-redis", Peers, Most(0.6, "x"),
        Figure("1x1/heronry-spin:redis-script/p50")),
    row("pipeline/rate-vs-redis", Peers, Least(3.0, "x"),
        Figure("32x16/heronry:redis-script/rate")),
    row("pipeline/rate", Peers, Least(1e6, "ops/s"),
        Figure("32x16/heronry/rate")),
    row("pipeline/p99-at-half-load-spinning", HalfLoad, Most(100.0, "us"),
        Figure("half/p99")),
    row("hop/spinning-p50", Hop, Most(0.5, "us"),
        Figure("spinning/p50")),
    row("hop/parked-p50", Hop, Most(40.0, "us"),
        Figure("parked/p50")),
    row("scaling/processes-vs-cores", Scaling, Least(0.9, "x"),
        Figure("processes:ideal")),
    row("seal/p50", Cycles, Most(1.0, "us"),
        Figure("engine/seal/64KiB/1-dirty/p50")),
    row("seal/p99", Cycles, Most(100.0, "us"),
        Figure("engine/seal/64KiB/1-dirty/p99")),
    row("seal/p50-with-first-write", Cycles, Most(1.0, "us"),
        Figure("engine/write/64KiB/1-dirty/p50")),
    row("seal/p50-16MiB", Cycles, Most(1.0, "us"),
        Figure("engine/seal/16384KiB/1-dirty/p50")),
    row("fork/p50", Cycles, Most(1.0, "us"),
        Figure("engine/fork/64KiB/1-dirty/p50")),
    row("fork/p50-16MiB", Cycles, Most(1.0, "us"),
        Figure("engine/fork/16384KiB/1-dirty/p50")),
    row("rollback/cost-per-page-1000-over-100", Cycles, Most(2.0, "x"),
        PerTen("engine/rollback/16384KiB/1000-dirty/p50",
            "engine/rollback/16384KiB/100-dirty/p50")),
    row("create/1M-agents", Create, Most(10.0, "s"),
        Figure("create/seconds")),
    row("create/1M-agents-resident", Create, Most(8.0, "GB"),
        Figure("create/resident")),
    row("create/overhead-per-agent", Create, Most(1024.0, "bytes"),
        Figure("create/overhead")),
    row("idle/empty", Create, Most(1.0, "% of a core"),
        Figure("idle/empty")),
    row("idle/1M-agents", Create, Most(1.0, "% of a core"),
        Figure("idle/full")),
    row("replay/tau-bench", TauBench, Least(1e5, "turns/s"),
        Figure("fast/rate")),
    row("replay/tau-bench-turn-p99-at-half-rate", TauBench, Most(100.0, "us"),
        Figure("half/turn/p99")),
    row("replay/mooncake", Mooncake, Least(2e4, "turns/s"),
        Figure("fast/rate")),
    row("replay/mooncake-turn-p99-at-half-rate", Mooncake, Most(100.0, "us"),
        Figure("half/turn/p99")),
    row("python/create-to-first-reply-p50", Sandbox, Most(1000.0, "us"),
        Figure("python/create-to-first-reply/p50")),
    row("python/step-and-seal-p50", Sandbox, Most(60.0, "us"),
        Figure("python/step-and-seal/p50")),
    row("python/seal-p50", Sandbox, Most(30.0, "us"),
        Figure("python/seal/p50")),
    row("python/seal-p99", Sandbox, Most(100.0, "us"),
        Figure("python/seal/p99")),
    row("python/fork-p50", Sandbox, Most(10.0, "us"),
        Figure("python/fork/p50")),
    row("python/rollback-p50", Sandbox, Most(30.0, "us"),
        Figure("python/rollback/p50")),
    row("python/evict-and-revive-p50", Sandbox, Most(300.0, "us"),
        Figure("python/evict-and-revive/p50")),
    row("python/busy-neighbour-adds-to-p99", Sandbox, Most(2.0, "ms"),
        Figure("python/neighbour/p99-added")),
    row("javascript/seal-p50", Sandbox, Most(8.0, "us"),
        Figure("javascript/seal/p50")),
    row("javascript/fork-p50", Sandbox, Most(8.0, "us"),
        Figure("javascript/fork/p50")),
    row("javascript/rollback-p50", Sandbox, Most(8.0, "us"),
        Figure("javascript/rollback/p50")),
    row("density/850-python-agents-resident", Density, Most(500.0, "MB"),
        Figure("worked-850/resident")),
    row("density/python-agents-live", Density, Least(10_000.0, "agents"),
        Figure("live-10000/live")),
    row("density/python-agents-evicted", Density, Least(20_000.0, "agents"),
        Figure("evicted-20000/agents")),
    row("speculate/fork-vs-os-fork", Speculate, Least(50.0, "x"),
        Figure("os-fork:heronry/fork")),
];

/// A promise, measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Measured {
    name: &'static str,
    value: f64,
    unit: &'static str,
    limit: f64,
    bound: Bound,
    holds: bool,
}

/// A promise that could not be measured (P3).
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Skipped {
    name: &'static str,
    why: String,
}

/// The form of `--json`.
#[derive(Debug, Serialize)]
struct AllMeasured {
    machine: Machine,
    commit: String,
    promises: Vec<Measured>,
    skipped: Vec<Skipped>,
}

/// Runs `promises` and prints the table.
pub fn run(context: &Context, args: &PromisesArgs, json: bool) -> anyhow::Result<()> {
    let wanted: Vec<&Promise> =
        PROMISES.iter().filter(|promise| glob(&args.only, promise.name)).collect();
    anyhow::ensure!(
        !wanted.is_empty(),
        "no promise matches {:?}; there are: {}",
        args.only,
        PROMISES.iter().map(|promise| promise.name).collect::<Vec<_>>().join(", ")
    );
    let mut reports: BTreeMap<Source, Result<Report, String>> = BTreeMap::new();
    let (mut promises, mut skipped) = (Vec::new(), Vec::new());
    for promise in wanted {
        context::check_interrupt()?;
        let measure = || measure(context, args, promise.source).map_err(|e| format!("{e:#}"));
        let report = reports.entry(promise.source).or_insert_with(measure);
        context::check_interrupt()?;
        match judge(promise, report) {
            Ok(measured) => promises.push(measured),
            Err(why) => skipped.push(Skipped { name: promise.name, why }),
        }
    }
    let table =
        AllMeasured { machine: Machine::read(), commit: machine::commit(), promises, skipped };
    if json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        print!("{}", text(&table));
    }
    let broken: Vec<&str> =
        table.promises.iter().filter(|row| !row.holds).map(|row| row.name).collect();
    anyhow::ensure!(!args.check || broken.is_empty(), "does not hold: {}", broken.join(", "));
    Ok(())
}

/// Runs the scenario of `source` (P2).
fn measure(context: &Context, args: &PromisesArgs, source: Source) -> anyhow::Result<Report> {
    match source {
        Source::Peers => peers::run(context, &defaults::<MessagesArgs>()?),
        Source::HalfLoad => {
            let mut report = Report::new("half load");
            pipeline::half_load(context, &defaults::<MessagesArgs>()?, &mut report)?;
            Ok(report)
        }
        Source::Hop => {
            let report = hop::run(context, &defaults::<HopArgs>()?)?;
            report.ok_or_else(|| anyhow::anyhow!("hop gave no report"))
        }
        Source::Scaling => scaling::run(context, &defaults::<ScalingArgs>()?),
        Source::Cycles => cycles(context),
        Source::Create => create::run(context, &defaults::<CreateArgs>()?),
        Source::TauBench => {
            trace(context, args, "tau_bench", "json", Format::TauBench, "tau-bench")
        }
        Source::Mooncake => trace(context, args, "mooncake", "jsonl", Format::Mooncake, "mooncake"),
        Source::Sandbox => sandbox::run(context, &defaults::<SandboxArgs>()?),
        Source::Density => density::run(context, &defaults::<DensityArgs>()?),
        Source::Speculate => speculate::run(context, &defaults::<SpeculateArgs>()?),
    }
}

fn cycles(context: &Context) -> anyhow::Result<Report> {
    let mut report = Report::new("cycles");
    let one = |page_count| Shape { page_count, dirty_count: 1 };
    for shape in [one(16), one(4096)] {
        seal::engine(context, shape, Operation::Seal, &mut report)?;
        seal::engine(context, shape, Operation::Fork, &mut report)?;
    }
    for dirty_count in [100, 1000] {
        let shape = Shape { page_count: 4096, dirty_count };
        seal::engine(context, shape, Operation::Rollback, &mut report)?;
    }
    Ok(report)
}

/// Replays the one trace of a folder.
fn trace(
    context: &Context,
    args: &PromisesArgs,
    folder: &str,
    extension: &str,
    format: Format,
    format_name: &str,
) -> anyhow::Result<Report> {
    let Some(data) = &args.data else {
        anyhow::bail!("give the folder of the recorded traces with --data");
    };
    let folder = data.join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    let Some(file) = files.into_iter().next() else {
        anyhow::bail!("no .{extension} file in {}", folder.display());
    };
    let parsed = Wrapped::<ReplayArgs>::try_parse_from([
        "bench".as_ref(),
        "--trace".as_ref(),
        file.as_os_str(),
        "--format".as_ref(),
        std::ffi::OsStr::new(format_name),
    ])?;
    debug_assert_eq!(parsed.args.format, format);
    let (report, lines) = replay::run(context, &parsed.args)?;
    let wrong = lines.into_iter().find(|line| replay::is_mismatch(line));
    anyhow::ensure!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    Ok(report)
}

/// Arguments as if none were given.
fn defaults<A: Args>() -> anyhow::Result<A> {
    Ok(Wrapped::<A>::try_parse_from(["bench"])?.args)
}

#[derive(Parser)]
struct Wrapped<A: Args> {
    #[command(flatten)]
    args: A,
}

fn judge(promise: &Promise, report: &Result<Report, String>) -> Result<Measured, String> {
    let report = report.as_ref().map_err(Clone::clone)?;
    let missing = || match report.notes.iter().find(|note| note.starts_with("skipped")) {
        Some(note) => note.clone(),
        None => format!("{} did not give this figure", report.scenario),
    };
    let figure = |name| report.value(name).ok_or_else(missing);
    let value = match promise.value {
        Figure(name) => figure(name)?,
        PerTen(above, below) => figure(above)? / figure(below)?.max(1e-9) / 10.0,
    };
    let (bound, limit, unit, holds) = match promise.limit {
        Least(limit, unit) => (Bound::Least, limit, unit, value >= limit),
        Most(limit, unit) => (Bound::Most, limit, unit, value <= limit),
    };
    Ok(Measured { name: promise.name, value, unit, limit, bound, holds })
}

fn limit_text(row: &Measured) -> String {
    let sign = if row.bound == Bound::Least { "≥" } else { "≤" };
    format!("{sign} {}", short(row.limit))
}

fn text(all: &AllMeasured) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["promise", "measured", "limit", "unit", "holds"]);
    for row in &all.promises {
        let holds = if row.holds { "yes" } else { "NO" };
        let (value, limit) = (short(row.value), limit_text(row));
        table.add_row([row.name, &value, &limit, row.unit, holds]);
    }
    let mut text = format!("promises  commit {}\n{}\n{table}\n", all.commit, all.machine);
    for Skipped { name, why } in &all.skipped {
        let why = why.strip_prefix("skipped: ").unwrap_or(why);
        text.push_str(&format!("skipped: {name}: {why}\n"));
    }
    text
}

/// Whether `name` matches `pattern`, in which `*` stands for any text and `?` for one character.
fn glob(pattern: &str, name: &str) -> bool {
    fn matches(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.first(), name.first()) {
            (None, None) => true,
            (Some(b'*'), _) => {
                matches(&pattern[1..], name) || (!name.is_empty() && matches(pattern, &name[1..]))
            }
            (Some(b'?'), Some(_)) => matches(&pattern[1..], &name[1..]),
            (Some(a), Some(b)) if a == b => matches(&pattern[1..], &name[1..]),
            _ => false,
        }
    }
    matches(pattern.as_bytes(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Better;

    #[test]
    fn p1_names_are_unique_and_plain() {
        let mut names: Vec<&str> = PROMISES.iter().map(|promise| promise.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PROMISES.len());
        assert!(names.iter().all(|name| name.contains('/') && !name.contains([' ', '*', '?'])));
    }

    #[test]
    fn p3_a_promise_without_a_figure_is_skipped_with_the_reason() {
        let mut report = Report::new("hop");
        report.note("skipped: a hop needs two CPUs");
        let promise = PROMISES.iter().find(|p| p.source == Source::Hop).expect("a hop");
        let why = judge(promise, &Ok(report.clone())).expect_err("no figure");
        assert!(why.contains("two CPUs"));
        report.single("spinning/p50", "us", Better::Lower, 0.2);
        assert!(judge(promise, &Ok(report)).expect("a figure").holds);
    }

    #[test]
    fn globs_match_whole_names() {
        assert!(glob("hop/*", "hop/parked-p50"));
        assert!(glob("*", "anything"));
        assert!(glob("*p5?", "seal/p50"));
        assert!(!glob("hop", "hop/parked-p50"));
        assert!(!glob("hop/?", "hop/"));
    }

    #[test]
    fn defaults_are_those_of_the_command_line() {
        assert_eq!(defaults::<CreateArgs>().expect("defaults").count, 1_000_000);
        assert_eq!(defaults::<MessagesArgs>().expect("defaults").agents, 1000);
    }
}
