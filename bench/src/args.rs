//! The command line of `heronry bench`, and which scenario a word starts.
//!
//! Owns: arguments common to all scenarios, writing of reports.  Not: the scenarios.
//! A1  a report is printed, written and plotted before a mismatch or a regression fails it.

use crate::compare::{self, CompareArgs};
use crate::context::{self, Context};
use crate::create::{self, CreateArgs};
use crate::cycle::Operation;
use crate::durable::{self, DurableArgs};
use crate::hop::{self, HopArgs};
use crate::machine::Cores;
use crate::messages::{self, MessagesArgs};
use crate::promises::{self, PromisesArgs};
use crate::recover::{self, RecoverArgs};
use crate::replay::{self, ReplayArgs};
use crate::report::Report;
use crate::sandbox::density::{self, DensityArgs, ShardArgs};
use crate::sandbox::speculate::{self, SpeculateArgs};
use crate::sandbox::{self, SandboxArgs};
use crate::scaling::{self, ScalingArgs, WorkerArgs};
use crate::seal::{self, CycleArgs};
use crate::tiers::{self, TiersArgs};
use crate::{drivers, peers, pipeline, plot};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Arguments of `heronry bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    scenario: Scenario,
    /// Write the report as JSON to this file, for `bench compare`
    #[arg(long, global = true, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Plot latency by percentile into this file
    #[arg(long, global = true, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Seconds per measurement
    #[arg(long, global = true, default_value_t = 1.0, value_name = "S", value_parser = seconds)]
    seconds: f64,
    /// Measurements per figure; the report shows the median, lowest and highest
    #[arg(long, global = true, default_value_t = 3, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// No progress bars
    #[arg(long, global = true)]
    quiet: bool,
    /// Binary to start as a node, instead of this one
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    node_exe: Option<PathBuf>,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
enum Scenario {
    /// 100-byte read-modify-writes on agents of 64 KiB, 1 and 32 connections
    Messages(MessagesArgs),
    /// The same at depth 16 over 32 connections, and at half that load
    Pipeline(MessagesArgs),
    /// Round trip between two shard processes, parked and spinning
    Hop(HopArgs),
    /// Seal and fork cycles on one core and on all, as processes and as threads
    Scaling(ScalingArgs),
    #[command(hide = true)]
    ScalingWorker(WorkerArgs),
    /// Seal an agent's image, by size and dirty pages
    Seal(CycleArgs),
    /// Fork an agent, by size and dirty pages
    Fork(CycleArgs),
    /// Roll an agent back, by size and dirty pages
    Rollback(CycleArgs),
    /// Create a million agents of one page; memory each, and an idle engine
    Create(CreateArgs),
    /// One Python and one JavaScript agent: create, step, seal, fork, roll back, evict, revive
    Sandbox(SandboxArgs),
    /// Live and evicted Python agents, and the memory that they take
    Density(DensityArgs),
    #[command(hide = true)]
    DensityWorker(ShardArgs),
    /// Fork 8 ways, step, commit the best: beside os.fork of CPython and pickle
    Speculate(SpeculateArgs),
    /// The io_uring reactor beside the glommio one
    Drivers(MessagesArgs),
    /// The work of messages and pipeline beside Redis
    Peers(MessagesArgs),
    /// The work of messages with every reply on disk, beside Redis that syncs every write
    Durable(DurableArgs),
    /// Kill a node, start it on its data: first reply, every agent's reply; beside Redis
    Recover(RecoverArgs),
    /// Python agents live, in memory and on disk: who answers, and how soon
    Tiers(TiersArgs),
    /// Replay a recorded trace and verify every image
    Replay(ReplayArgs),
    /// Every promised figure beside its limit
    Promises(PromisesArgs),
    /// Two reports side by side; fails when something got worse beyond the noise
    Compare(CompareArgs),
}

/// Runs the scenario and prints its report, as JSON if `json`. Children are stopped on Ctrl-C.
pub fn run(args: BenchArgs, json: bool) -> anyhow::Result<()> {
    // Hidden parts run in children; they leave signals alone.
    if let Scenario::ScalingWorker(worker) = &args.scenario {
        return scaling::run_worker(worker);
    }
    if let Scenario::DensityWorker(worker) = &args.scenario {
        return density::run_worker(worker);
    }
    let node_exe = match &args.node_exe {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("cannot find this program's own file")?,
    };
    let context = Context {
        seconds: args.seconds,
        repeat: usize::from(args.repeat),
        node_exe,
        cores: Cores::read(),
        quiet: args.quiet,
    };
    context::catch_interrupts().context("cannot catch Ctrl-C")?;
    let report = match &args.scenario {
        Scenario::Messages(scenario) => messages::run(&context, scenario)?,
        Scenario::Pipeline(scenario) => pipeline::run(&context, scenario)?,
        Scenario::Hop(scenario) => match hop::run(&context, scenario)? {
            Some(report) => report,
            None => return Ok(()),
        },
        Scenario::Scaling(scenario) => scaling::run(&context, scenario)?,
        Scenario::ScalingWorker(worker) => return scaling::run_worker(worker),
        Scenario::Sandbox(scenario) => sandbox::run(&context, scenario)?,
        Scenario::Density(scenario) => density::run(&context, scenario)?,
        Scenario::DensityWorker(worker) => return density::run_worker(worker),
        Scenario::Speculate(scenario) => speculate::run(&context, scenario)?,
        Scenario::Seal(scenario) => seal::run(&context, scenario, Operation::Seal)?,
        Scenario::Fork(scenario) => seal::run(&context, scenario, Operation::Fork)?,
        Scenario::Rollback(scenario) => seal::run(&context, scenario, Operation::Rollback)?,
        Scenario::Create(scenario) => create::run(&context, scenario)?,
        Scenario::Drivers(scenario) => drivers::run(&context, scenario)?,
        Scenario::Peers(scenario) => peers::run(&context, scenario)?,
        Scenario::Durable(scenario) => durable::run(&context, scenario)?,
        Scenario::Recover(scenario) => {
            return publish_verified(&args, recover::run(&context, scenario)?, json);
        }
        Scenario::Tiers(scenario) => {
            return publish_verified(&args, tiers::run(&context, scenario)?, json);
        }
        Scenario::Replay(scenario) => {
            return publish_verified(&args, replay::run(&context, scenario)?, json);
        }
        Scenario::Promises(scenario) => return promises::run(&context, scenario, json),
        Scenario::Compare(scenario) => return compare::run(scenario, json),
    };
    publish(&args, &report, json)
}

/// Publishes a report and the lines that say what was verified, then fails if any differs (A1).
fn publish_verified(
    args: &BenchArgs,
    (mut report, lines): (Report, Vec<String>),
    json: bool,
) -> anyhow::Result<()> {
    if json {
        lines.iter().for_each(|line| report.note(line.clone()));
    }
    publish(args, &report, json)?;
    if !json {
        lines.iter().for_each(|line| println!("{line}"));
    }
    let wrong = lines.iter().any(|line| replay::is_mismatch(line));
    anyhow::ensure!(!wrong, "agents differ from what they must be");
    Ok(())
}

fn publish(args: &BenchArgs, report: &Report, json: bool) -> anyhow::Result<()> {
    let as_json = || serde_json::to_string_pretty(report);
    if let Some(path) = &args.out {
        let named = || format!("cannot write the report to {}", path.display());
        std::fs::write(path, as_json()?).with_context(named)?;
    }
    if let Some(path) = &args.svg {
        let named = || format!("cannot plot into {}", path.display());
        if !plot::write_svg(report, path).with_context(named)? {
            eprintln!("nothing to plot: {} has no latency curves", report.scenario);
        }
    }
    if json {
        println!("{}", as_json()?);
    } else {
        print!("{}", report.render());
    }
    Ok(())
}

fn seconds(text: &str) -> Result<f64, String> {
    let allowed = "allowed: 0.05 to 600 seconds";
    let value: f64 = text.parse().map_err(|_| format!("no number; {allowed}"))?;
    if (0.05..=600.0).contains(&value) { Ok(value) } else { Err(allowed.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        _args: BenchArgs,
    }

    #[test]
    fn the_command_line_is_consistent() {
        Program::command().debug_assert();
        assert!(Program::try_parse_from(["bench", "hop", "--seconds", "0.5"]).is_ok());
        assert!(Program::try_parse_from(["bench", "hop", "--seconds", "0"]).is_err());
        let replay = ["bench", "replay", "--trace", "x", "--format", "tau-bench", "--speed", "2"];
        assert!(Program::try_parse_from(replay).is_ok());
        let recover = ["bench", "recover", "--agents", "1000000", "--python", "0"];
        assert!(Program::try_parse_from(recover).is_ok());
        assert!(Program::try_parse_from(["bench", "tiers", "--agents", "2"]).is_err());
    }
}
