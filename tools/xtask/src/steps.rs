//! The steps of `ci`: each is one command, printed before it runs and timed after it.
//!
//! Owns: command lines and their order.  Not: the tidy rules, the generators.
//! S1  the first step that fails ends the run; its command line can be pasted into a shell.
//! S2  tests use the dev profile and all the workspace's features, so that crates are built once.

use crate::tidy;
use crate::tree::Tree;
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::Instant;

/// Seeds that the simulation tries within `ci`.
pub const SHORT_SIMULATION_SEEDS: u32 = 2000;

/// Everything that needs no test to run. That docs/commands.md and docs/config.md are up to date is
/// a test of `net` and of `engine`.
pub fn check(tree: &Tree) -> Result<()> {
    run(tree, "fmt", &[], &["cargo", "fmt", "--all", "--check"])?;
    tidy::run(tree)?;
    let clippy = ["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run(tree, "clippy", &[], &clippy)?;
    // The docs are for readers of the code: links to private items work, and are welcome.
    let flags = [("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links")];
    let rustdoc = "cargo doc --workspace --no-deps --document-private-items";
    run(tree, "rustdoc", &flags, &words(rustdoc))
}

/// All tests. `quick` leaves out loom, longer fuzzing and the short simulation.
pub fn test(tree: &Tree, quick: bool) -> Result<()> {
    run(tree, "test", &[], &["cargo", "test", "--workspace"])?;
    if quick {
        return Ok(());
    }
    loom(tree)?;
    fuzz(tree)?;
    simulate(tree, SHORT_SIMULATION_SEEDS)
}

/// The fuzz targets of codec and config, for longer than they run among the other tests.
pub fn fuzz(tree: &Tree) -> Result<()> {
    let codec = "cargo test --workspace --test fuzz_codec";
    run(tree, "fuzz codec", &[("HERONRY_FUZZ_MS", "10000")], &words(codec))?;
    let config = "cargo test --workspace --test config fuzz";
    run(tree, "fuzz config", &[("HERONRY_FUZZ_COUNT", "30000")], &words(config))
}

/// The loom model of the ring: every interleaving within its bounds.
///
/// It has a target folder of its own, because `--cfg loom` changes every crate.
pub fn loom(tree: &Tree) -> Result<()> {
    let command = "cargo test -p heronry-shards --lib --target-dir target/loom ring";
    run(tree, "loom", &[("RUSTFLAGS", "--cfg loom")], &words(command))
}

/// The simulation over `seeds` seeds.
pub fn simulate(tree: &Tree, seeds: u32) -> Result<()> {
    let seeds = seeds.to_string();
    let env = [("HERONRY_SEEDS", seeds.as_str())];
    let command = "cargo test --workspace --test simulation";
    run(tree, "simulation", &env, &words(command))
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// Runs one step at the root of the repository (S1).
pub fn run(tree: &Tree, name: &str, env: &[(&str, &str)], line: &[&str]) -> Result<()> {
    let settings: String = env.iter().map(|(k, v)| format!("{k}={v:?} ")).collect();
    let shown = format!("{settings}{}", line.join(" "));
    eprintln!("== {name}: {shown}");
    let started = Instant::now();
    let (program, args) = line.split_first().context("S1: a step has a program")?;
    let status = Command::new(program)
        .args(args)
        .envs(env.iter().copied())
        .current_dir(&tree.root)
        .status()
        .with_context(|| format!("{name}: cannot start {program}"))?;
    if !status.success() {
        bail!("{name} failed ({status}); run it alone with: {shown}");
    }
    eprintln!("== {name}: ok, {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}
