//! `cargo xtask`: the repository's checks and generators, one entry for people and for CI.
//!
//! Owns: which steps make up `ci`, the tidy rules, the generated parts of docs.
//! Not: what a test tests; every step is an ordinary command that is printed before it runs.

mod docs;
mod promises;
mod scan;
mod steps;
mod tidy;
mod tree;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  ci [--quick]       check, then test; --quick leaves out loom, fuzz and the short simulation
  check              fmt, tidy, clippy and rustdoc, all of which must be clean
  test [--quick]     all tests, the loom model of the ring, some fuzzing, a short simulation
  loom               the loom model of the ring
  fuzz               the fuzz targets of codec and config, for some seconds each
  simulate [SEEDS]   the simulation over SEEDS seeds (default 2000)
  tidy               the rules that rustc and clippy do not know
  docs [--check]     write docs/commands.md and docs/config.md, and into target/share the man
                     pages and shell completions; --check only says what is out of date
  promises FILE      write the table of README from what `heronry bench promises --json` printed
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let tree = tree::Tree::load()?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["ci"] => steps::check(&tree).and_then(|()| steps::test(&tree, false)),
        ["ci", "--quick"] => steps::check(&tree).and_then(|()| steps::test(&tree, true)),
        ["check"] => steps::check(&tree),
        ["test"] => steps::test(&tree, false),
        ["test", "--quick"] => steps::test(&tree, true),
        ["loom"] => steps::loom(&tree),
        ["fuzz"] => steps::fuzz(&tree),
        ["simulate"] => steps::simulate(&tree, steps::SHORT_SIMULATION_SEEDS),
        ["simulate", seeds] => match seeds.parse() {
            Ok(count) if count > 0 => steps::simulate(&tree, count),
            _ => bail!("SEEDS is {seeds:?}; allowed: a whole number, 1 or more"),
        },
        ["tidy"] => tidy::run(&tree),
        ["docs"] => docs::write(&tree),
        ["docs", "--check"] => docs::check(&tree),
        ["promises", file] => promises::fill(&tree, file.as_ref()),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("no such command: {}\n\n{USAGE}", other.join(" ")),
    }
}
