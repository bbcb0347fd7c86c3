//! The suites that run for as long as one likes: `heronry-tests soak`.
//!
//! Owns: their command line and what they print.  Not: the cycles (`crash`).
//! S1  a failure names the seed, the difference, the node's last lines and the data folder, which
//!     stays.

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use heronry_tests::crash::{Crash, CrashPlan, SCRIBE_COUNT, Tally};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Lines of the node's log that a failure shows.
const LAST_WORDS_COUNT: usize = 60;
/// How often progress is printed.
const PRINT_EVERY: Duration = Duration::from_secs(10);

/// Long runs of Heronry's test suites
#[derive(Parser)]
#[command(name = "heronry-tests", version)]
struct Cli {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    /// Kill a working node again and again, and compare what is left with what was promised
    Soak(SoakArgs),
}

#[derive(Args)]
struct SoakArgs {
    /// Stop after so many minutes
    #[arg(long, value_name = "N", required_unless_present = "cycles",
          value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: Option<u64>,
    /// Stop after so many kills
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cycles: Option<u64>,
    /// What decides what is asked and when it is killed; random unless given
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Writers that compare whole agents; with 12 and an arena of 16 MiB agents are evicted
    #[arg(long, value_name = "N", default_value_t = SCRIBE_COUNT,
          value_parser = clap::value_parser!(u64).range(1..=64))]
    scribes: u64,
    /// No relays: nobody hears when a full arena refuses what was only sent
    #[arg(long)]
    no_relays: bool,
    /// The node's program; the `test-node` beside this one unless given
    #[arg(long, value_name = "FILE")]
    node: Option<PathBuf>,
    /// A setting of the node, `name=value`, but none of `agents`, which the oracle has as they are;
    /// may be given more than once
    #[arg(long = "set", value_name = "SETTING")]
    settings: Vec<String>,
}

fn main() -> ExitCode {
    let Suite::Soak(args) = Cli::parse().suite;
    match soak(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heronry-tests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak(args: SoakArgs) -> Result<()> {
    let binary = match args.node {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("test-node"),
    };
    if !binary.exists() {
        bail!("{} is not there; `cargo build -p heronry-tests` makes it", binary.display());
    }
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 48));
    let folder = tempfile::Builder::new().prefix("heronry-soak-").tempdir()?;
    let (path, settings) = (folder.path().to_owned(), args.settings);
    println!("seed {seed}, data folder {}", path.display());
    let mut crash = Crash::new(CrashPlan {
        binary,
        folder: path,
        seed,
        scribe_count: args.scribes,
        relays: !args.no_relays,
        settings,
    });
    let (began, mut printed) = (Instant::now(), Instant::now());
    let is_over = |crash: &Crash| {
        let minutes = args.minutes.map(|minutes| Duration::from_secs(minutes * 60));
        minutes.is_some_and(|limit| began.elapsed() >= limit)
            || args.cycles.is_some_and(|limit| crash.tally().cycles >= limit)
    };
    let outcome = loop {
        if is_over(&crash) {
            break crash.finish();
        }
        if let Err(failure) = crash.cycle() {
            break Err(failure);
        }
        if printed.elapsed() > PRINT_EVERY {
            printed = Instant::now();
            println!("{}", line(&crash.tally()));
        }
    };
    println!("{}", line(&crash.tally()));
    let Err(failure) = outcome else { return Ok(()) };
    for said in crash.last_words(LAST_WORDS_COUNT) {
        eprintln!("node: {said}");
    }
    drop(crash);
    let kept = folder.keep();
    Err(failure).with_context(|| format!("seed {seed}, data folder {}", kept.display()))
}

fn line(tally: &Tally) -> String {
    let Tally { cycles, node_kills, shard_kills, stops, durable, sealed, unanswered, .. } = tally;
    let Tally { sealed_lost, retries, checks, refused, torn, .. } = tally;
    format!(
        "{cycles} cycles: {node_kills} kills of the node, {shard_kills} of a shard, {stops} stops; \
         {durable} requests durable, {sealed} sealed, {unanswered} unanswered, {sealed_lost} of \
         the sealed lost; {retries} tried again, {checks} agents compared, {refused} \
         starts refused, {torn} torn logs"
    )
}
