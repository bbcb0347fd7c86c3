//! `speculate`: what a tree search pays per branch: fork at a decision, step in each, keep one.
//!
//! Owns: the decision, and the same work by `os.fork` of CPython and by pickling its state.
//! Not: the partition (`world.rs`).
//! Z1  all three hold the same objects, made by the same lines of Python, and each branch changes
//!     one of them and reports a score.
//! Z2  peers run in the same scenario, right before ours, repeat by repeat.

use super::world::{Folders, World};
use crate::context::{self, Context};
use crate::report::{Better, Report};
use anyhow::Context as _;
use clap::Args;
use heronry_engine::verb::{Language, Reply, Verb};
use std::process::Command;
use std::time::{Duration, Instant};

/// Ways to go on at each decision.
const WAYS: u32 = 8;
/// What every searcher holds: some tens of thousands of objects.
const STATE: &str = "state = {'board': [[i * j % 7 for j in range(100)] for i in range(100)], \
'seen': {str(i): [i] for i in range(20000)}, 'best': None}";

/// CPython itself, for the peers: prints microseconds per branch, for fork alone, for fork and
/// step, and for pickling.
const PEER: &str = r#"
import os, pickle, sys, time
exec(sys.argv[1])
ways, rounds = int(sys.argv[2]), int(sys.argv[3])
forked = stepped = pickled = 0.0
for _ in range(rounds):
    for way in range(ways):
        read, write = os.pipe()
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            state['best'] = way
            os.write(write, str(len(state['seen']) + way).encode())
            os._exit(0)
        forked += time.perf_counter() - began
        os.read(read, 100)
        os.waitpid(child, 0)
        stepped += time.perf_counter() - began
        os.close(read)
        os.close(write)
    began = time.perf_counter()
    packed = pickle.dumps(state)
    for way in range(ways):
        branch = pickle.loads(packed)
        branch['best'] = way
        score = len(branch['seen']) + way
    pickled += time.perf_counter() - began
count = ways * rounds
print(forked / count * 1e6, stepped / count * 1e6, pickled / count * 1e6)
"#;

/// Arguments of `speculate`.
#[derive(Clone, Debug, Args)]
pub struct SpeculateArgs {
    /// Decisions per repeat
    #[arg(long, default_value_t = 100, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub decisions: u32,
}

/// Runs the scenario.
pub fn run(context: &Context, args: &SpeculateArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("speculate");
    let Some(folders) = Folders::of_user() else {
        report.note("skipped: no guests were built; tools/guests/build makes them");
        return Ok(report);
    };
    report.note(format!(
        "{WAYS} branches of one state at each of {} decisions; per branch; fork: making it; \
         step: making it, one step in it, its score back, and ending it",
        args.decisions
    ));
    let mut world = World::new(folders, 4 << 30, 0)?;
    world.deploy("python", Language::Python, None, None)?;
    world.exec("python/search", STATE)?;
    let bar = context.progress("speculate", context.repeat as u64);
    let (mut peers, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..context.repeat {
        context::check_interrupt()?;
        peers.push(peer(args.decisions)?);
        ours.push(search(&mut world, args.decisions)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let column = |rows: &[[f64; 3]], at: usize| rows.iter().map(|row| row[at]).collect::<Vec<_>>();
    let us = "us";
    report.figure("heronry/fork", us, Better::Lower, column(&ours, 0));
    report.figure("heronry/step", us, Better::Lower, column(&ours, 1));
    report.figure("heronry/commit", us, Better::Lower, column(&ours, 2));
    report.figure("os-fork/fork", us, Better::Lower, column(&peers, 0));
    report.figure("os-fork/step", us, Better::Lower, column(&peers, 1));
    report.figure("pickle/step", us, Better::Lower, column(&peers, 2));
    let ratio = |peer: usize, own: usize| {
        peers.iter().zip(&ours).map(|(p, o)| p[peer] / o[own].max(1e-3)).collect::<Vec<_>>()
    };
    report.figure("os-fork:heronry/fork", "x", Better::Higher, ratio(0, 0));
    report.figure("os-fork:heronry/step", "x", Better::Higher, ratio(1, 1));
    report.figure("pickle:heronry/step", "x", Better::Higher, ratio(2, 1));
    Ok(report)
}

/// Microseconds per branch: fork, fork and step, pickle and step.
fn peer(decisions: u32) -> anyhow::Result<[f64; 3]> {
    let output = Command::new("python3")
        .args(["-c", PEER, STATE, &WAYS.to_string(), &decisions.to_string()])
        .output()
        .context("python3 does not start; the peers need it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    <[f64; 3]>::try_from(words)
        .map_err(|_| anyhow::anyhow!("python3: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Microseconds: fork per branch, fork and step per branch, commit of the best per decision.
fn search(world: &mut World, decisions: u32) -> anyhow::Result<[f64; 3]> {
    let key = "python/search";
    let (mut forked, mut stepped, mut committed) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for _ in 0..decisions {
        let began = Instant::now();
        let verb = Verb::Fork { count: WAYS, at: None, suffix: None, keep_timers: false };
        let (reply, took) = world.ask(key, verb)?;
        forked += took;
        let Reply::Forked(branches) = reply else { anyhow::bail!("no branches") };
        let mut best = None;
        for (way, branch) in branches.iter().enumerate() {
            let code = format!("state['best'] = {way}; len(state['seen']) + {way}");
            let (score, _) = world.exec(branch.as_str(), &code)?;
            best = best.max(Some((score.parse::<u64>()?, branch.as_str().to_owned())));
        }
        stepped += began.elapsed();
        let (_, best) = best.context("Z1: there are branches")?;
        committed += world.ask(&best, Verb::Commit)?.1;
        let (chosen, _) = world.exec(key, "state['best']")?;
        anyhow::ensure!(chosen == (WAYS - 1).to_string(), "committed {best}, chose {chosen}");
    }
    let branches = f64::from(decisions * WAYS);
    let us = |span: Duration, count: f64| span.as_secs_f64() * 1e6 / count;
    Ok([us(forked, branches), us(stepped, branches), us(committed, f64::from(decisions))])
}
