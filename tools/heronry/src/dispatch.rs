//! From arguments to a command, and from its outcome to an exit status.
//!
//! Owns: exit statuses and how an error is printed.  Not: what a command does.
//! D1  errors go to standard error, also with `--json`, so that standard output holds data only.
//! D2  the role of a shard process is taken before anything else: it inherits descriptors.

use crate::cli::{Cli, Command, ShardCommand};
use crate::link::Refused;
use crate::output::Output;
use crate::{agent, bench, config, doctor, manual, node, shard, template, top};
use anyhow::Result;
use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// The command ran and its answer is no: errors found, a host unfit. Already printed.
#[derive(Debug, thiserror::Error)]
#[error("the answer is no")]
pub struct AnswerIsNo;

/// Runs the command that `args` ask for; the first is the program's own name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    // D2: what the supervisor starts has exactly this one argument.
    if args.len() == 2 && args[1] == "shard" {
        return status(node::shard());
    }
    match Cli::try_parse_from(args) {
        Ok(cli) => status(perform(cli)),
        Err(error) => {
            // Printing can fail only when nobody reads; the status still tells.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { 2 } else { 0 })
        }
    }
}

fn perform(cli: Cli) -> Result<()> {
    let global = &cli.global;
    let output = Output { json: global.json };
    match cli.command {
        Command::Up(options) => node::up(options, global, output),
        Command::Agent(command) => agent::run(global, &command, output),
        Command::Template(command) => template::run(global, &command, output),
        Command::Shard(args) => match args.command {
            Some(ShardCommand::List) => shard::list(global, output),
            None => node::shard(),
        },
        Command::Doctor => doctor::run(output),
        Command::Config(command) => config::run(&command, output),
        Command::Bench(args) => bench::run(args, output),
        Command::Top(options) => top::run(global, &options, output),
        Command::Completions { shell } => Ok(output.bytes(&manual::completions(shell))?),
        Command::Man { dir: None } => Ok(output.bytes(&manual::page()?)?),
        Command::Man { dir: Some(dir) } => manual::write_pages(&dir),
        Command::Docs { dir } => manual::write_docs(&dir),
    }
}

/// R1 and D1.
fn status(outcome: Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    if error.downcast_ref::<AnswerIsNo>().is_none() {
        match error.downcast_ref::<Refused>() {
            Some(refused) => eprintln!("{refused}"),
            None => eprintln!("error: {error:#}"),
        }
    }
    ExitCode::FAILURE
}
