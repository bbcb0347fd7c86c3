//! From arguments to a command, and from its outcome to an exit status.
//!
//! Owns: exit statuses and how an error is printed.  Not: what a command does.
//! D1  errors go to standard error, as JSON with `--json`, so that standard output holds data only.
//! D2  the role of a shard process is taken before anything else: it inherits descriptors. Only
//!     the supervisor asks for it, by a variable in the environment.

use crate::cli::{Cli, Command, ShardCommand};
use crate::link::{Raised, Refused};
use crate::output::{Output, read_or_unread};
use crate::{
    agent, backup, bench, config, doctor, log, manual, node, shard, template, template_build, top,
};
use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use heronry_shards::supervisor::SEAT_VARIABLE;
use std::ffi::OsString;
use std::process::ExitCode;

/// The command ran and its answer is no: errors found, a host unfit. Already printed.
#[derive(Debug, thiserror::Error)]
#[error("the answer is no")]
pub struct AnswerIsNo;

/// Runs the command that `args` ask for; the first is the program's own name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    // D2: what the supervisor starts has exactly this one argument, and the variable.
    if args.len() == 2 && args[1] == "shard" && std::env::var_os(SEAT_VARIABLE).is_some() {
        return status(node::shard(), Output { json: false });
    }
    // Of the whole line, for a line that does not parse.
    let output = Output { json: args.iter().any(|arg| arg == "--json") };
    match parse(args) {
        Ok(cli) => {
            let output = Output { json: cli.global.json };
            status(perform(cli), output)
        }
        // Help and version, asked for.
        Err(shown) if !shown.use_stderr() => {
            status(read_or_unread(shown.print()).map_err(Into::into), output)
        }
        Err(wrong) => {
            if output.json {
                let text = wrong.render().to_string();
                output.error(None, text.trim_end().trim_start_matches("error: "));
            } else {
                // Printing can fail only when nobody reads; the status still tells.
                let _ = wrong.print();
            }
            ExitCode::from(2)
        }
    }
}

/// The command line with what the environment adds to it.
fn parse(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut cli = Cli::try_parse_from(args)?;
    let filled = cli.global.fill(|name| std::env::var(name).ok());
    let wrong =
        |error| Cli::command().error(ErrorKind::ValueValidation, format!("HERONRY_ADDR: {error}"));
    filled.map_err(wrong).map(|()| cli)
}

fn perform(cli: Cli) -> Result<()> {
    let global = &cli.global;
    let output = Output { json: global.json };
    match cli.command {
        Command::Up(options) => node::up(options, global, output),
        Command::Agent(command) => agent::run(global, &command, output),
        Command::Template(command) => template::run(global, &command, output),
        Command::Shard(ShardCommand::List) => shard::list(global, output),
        Command::Log(command) => log::run(&command, output),
        Command::Backup { to, data } => backup::backup(global, &data, &to, output),
        Command::Restore { from, data } => backup::restore(&from, &data, output),
        Command::Doctor => doctor::run(output),
        Command::Config(command) => config::run(&command, output),
        Command::Bench(args) => bench::run(args, output),
        Command::Top(options) => top::run(global, &options, output),
        Command::Completions { shell } => Ok(output.bytes(&manual::completions(shell))?),
        Command::Man { dir: None } => Ok(output.bytes(&manual::page()?)?),
        Command::Man { dir: Some(dir) } => manual::write_pages(&dir),
        Command::TemplateBuild(options) => template_build::run(options),
        Command::Docs { dir } => manual::write_docs(&dir),
    }
}

/// R1 and D1.
fn status(outcome: Result<()>, output: Output) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    if error.downcast_ref::<AnswerIsNo>().is_none() {
        if let Some(Raised(text)) = error.downcast_ref() {
            output.raised(text);
        } else if let Some(refused) = error.downcast_ref::<Refused>() {
            output.error(Some(&refused.code), &refused.text);
        } else {
            output.error(None, &format!("{error:#}"));
        }
    }
    ExitCode::FAILURE
}
