//! The role of a build's process: makes one template file, or compiles its module, and ends.
//!
//! Owns: how the process is tied to the node that asked, and its words when it fails.
//! Not: what a build does (`shards`' sandboxes), when one is wanted (the control thread).
//! B1  standard error holds nothing but why there is no template.

use crate::cli::BuildOptions;
use crate::dispatch::AnswerIsNo;
use anyhow::{Result, bail};
use heronry_shards::sandbox::build::{BuildPlan, build, compile_again};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// The hidden command of a build.
pub const COMMAND: &str = "template-build";
/// Holds the process that a build belongs to.
pub const BUILD_VARIABLE: &str = "HERONRY_BUILD";

/// Builds what `options` say.
pub fn run(options: BuildOptions) -> Result<()> {
    stay_with_parent()?;
    let plan = BuildPlan {
        language: options.language,
        source: options.source,
        warm: options.warm,
        guests_dir: options.guests,
        cache_dir: options.cache,
        memory_bytes_max: options.memory_bytes_max,
        out: options.out,
    };
    let done = match &options.only_module {
        Some(hash) => compile_again(&plan, hash.as_bytes()),
        None => build(&plan),
    };
    done.map_err(|error| {
        // B1: the client that deploys sees it as it is.
        eprintln!("{error}");
        AnswerIsNo.into()
    })
}

/// The kernel ends this process with the control thread that started it.
fn stay_with_parent() -> Result<()> {
    let Some(node) = std::env::var_os(BUILD_VARIABLE) else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before the signal was set: then none comes.
    let parent = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if node.to_str() != Some(parent.to_string().as_str()) {
        bail!("the node that asked for this build has ended");
    }
    Ok(())
}
