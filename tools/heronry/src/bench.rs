//! `heronry bench`: hands over to the bench crate.
//!
//! Owns: nothing but the call.  Not: the scenarios, their arguments, their reports.
//! Reports go to standard output, progress to standard error.

use crate::output::Output;
use anyhow::Result;
use heronry_bench::BenchArgs;

/// Runs one scenario.
pub fn run(args: BenchArgs, output: Output) -> Result<()> {
    heronry_bench::run(args, output.json)
}
