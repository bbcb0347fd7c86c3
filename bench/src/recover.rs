//! `recover`: a node is killed and started again on its data; how soon its agents answer.
//!
//! Owns: the three fleets, the timeline of a restart.  Not: the fleets' bytes (`recover/`).
//! R1  a kill is SIGKILL to every process, right after the last durable reply. The page cache lives
//!     on: both servers find their files as warm as they left them.
//! R2  first reply: from the making of the process to the first answer about an agent's state. All
//!     answered: from there to the last of one read of every agent, each compared with what it
//!     must be.
//! R3  restarts interleave: ours, theirs, ours, theirs, never both alive in a timed part.

pub mod counters;
pub mod notebooks;
pub mod python;

use crate::context::{self, Context};
use crate::link::{Addr, Link, LinkError};
use crate::node::{Node, NodePlan};
use crate::redis::Redis;
use crate::report::{Better, Latency, Report};
use crate::sweep::Swept;
use crate::{machine, sys};
use clap::Args;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for the first reply.
const FIRST_WAIT_MAX: Duration = Duration::from_secs(120);
/// Pause between two tries for it.
const RETRY_EVERY: Duration = Duration::from_millis(1);

/// Arguments of `recover`.
#[derive(Clone, Debug, Args)]
pub struct RecoverArgs {
    /// Notebooks of 64 KiB of random bytes; 0 leaves them out
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub notebooks: u32,
    /// Python agents; 0 leaves them out
    #[arg(long, default_value_t = 850, value_name = "N")]
    pub python: u32,
    /// Small agents, one page each; 0 leaves them out
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub agents: u32,
    /// More settings of the node, key=value
    #[arg(long)]
    pub set: Vec<String>,
}

/// A server that keeps its data and can be killed.
#[derive(Debug)]
pub enum Server {
    /// Ours.
    Node(Box<Node>),
    /// The peer.
    Redis(Box<Redis>),
}

impl Server {
    /// Starts a node on `data`.
    pub fn node(context: &Context, args: &RecoverArgs, data: &Path) -> anyhow::Result<Server> {
        let mut plan = NodePlan::single(context).with("log.enabled=true");
        plan.set.extend(args.set.iter().cloned());
        Ok(Server::Node(Box::new(Node::start_on(context, &plan, data)?)))
    }

    /// Its address.
    pub fn addr(&self) -> Addr {
        match self {
            Server::Node(node) => node.addr(),
            Server::Redis(redis) => redis.addr(),
        }
    }

    /// When its process was made.
    pub fn started_at(&self) -> Instant {
        match self {
            Server::Node(node) => node.started_at(),
            Server::Redis(redis) => redis.started_at(),
        }
    }

    /// Resident bytes of all its processes.
    pub fn resident_bytes(&self) -> u64 {
        match self {
            Server::Node(node) => node.resident_bytes(),
            Server::Redis(redis) => machine::resident_bytes(redis.pid()),
        }
    }

    /// Kills it (R1).
    pub fn kill(self) -> anyhow::Result<()> {
        match self {
            Server::Node(node) => node.kill(),
            Server::Redis(redis) => redis.kill(),
        }
    }
}

/// What restarts of one server gave, one value each.
#[derive(Clone, Debug, Default)]
pub struct Restarts {
    /// Seconds from the process to its first reply.
    pub first_s: Vec<f64>,
    /// Seconds from the process to the last agent's reply.
    pub all_s: Vec<f64>,
    /// Resident bytes at the first reply.
    pub first_bytes: Vec<f64>,
    /// Resident bytes when all had answered.
    pub all_bytes: Vec<f64>,
    /// Latency of the reads.
    pub reads: Latency,
}

impl Restarts {
    /// Waits until `server`, just started, answers `probe` (R2).
    pub fn first(&mut self, server: &Server, probe: &[&[u8]]) -> anyhow::Result<()> {
        first_reply(&server.addr(), probe)?;
        self.first_s.push(server.started_at().elapsed().as_secs_f64());
        self.first_bytes.push(server.resident_bytes() as f64);
        Ok(())
    }

    /// Notes that all agents of `server` have just answered, in the sweep given (R2).
    pub fn all(&mut self, server: &Server, swept: &Swept) {
        self.all_s.push(server.started_at().elapsed().as_secs_f64());
        self.all_bytes.push(server.resident_bytes() as f64);
        self.reads.add(&swept.driven.latency);
    }

    /// Adds the figures under `name`.
    pub fn tell(&self, name: &str, report: &mut Report) {
        let name = |what: &str| format!("{name}/{what}");
        let mb = |bytes: &[f64]| bytes.iter().map(|bytes| bytes / 1e6).collect::<Vec<f64>>();
        report.figure(&name("first-reply"), "s", Better::Lower, self.first_s.clone());
        report.figure(&name("all-answered"), "s", Better::Lower, self.all_s.clone());
        report.figure(&name("first-resident"), "MB", Better::Lower, mb(&self.first_bytes));
        report.figure(&name("all-resident"), "MB", Better::Lower, mb(&self.all_bytes));
        if self.reads.count() > 0 {
            report.latency(&name("read"), &self.reads);
        }
    }
}

/// Runs `recover`; the lines say whether every agent was as it must be.
pub fn run(context: &Context, args: &RecoverArgs) -> anyhow::Result<(Report, Vec<String>)> {
    let mut report = Report::new("recover");
    report.note(context.pinning());
    report.note("killed with SIGKILL, started on the same folder; the page cache stays warm");
    let _pinned = sys::Pinned::to(context.cores.client)?;
    let home = tempfile::Builder::new().prefix("heronry-bench-").tempdir()?;
    let mut lines = Vec::new();
    if args.notebooks > 0 {
        lines.extend(notebooks::run(context, args, home.path(), &mut report)?);
    }
    if args.python > 0 {
        lines.extend(python::run(context, args, home.path(), &mut report)?);
    }
    if args.agents > 0 {
        lines.push(counters::run(context, args, home.path(), &mut report)?);
    }
    Ok((report, lines))
}

/// Asks `probe` until it is answered; a server that still loads refuses it.
fn first_reply(addr: &Addr, probe: &[&[u8]]) -> anyhow::Result<()> {
    let give_up_at = Instant::now() + FIRST_WAIT_MAX;
    loop {
        context::check_interrupt()?;
        match Link::connect(addr).and_then(|mut link| link.ask(probe)) {
            Ok(_) => return Ok(()),
            Err(error) if !is_passing(&error) || Instant::now() > give_up_at => {
                return Err(anyhow::Error::from(error).context("no first reply after a restart"));
            }
            Err(_) => std::thread::sleep(RETRY_EVERY),
        }
    }
}

/// Whether an error is one of a server that is not up yet.
fn is_passing(error: &LinkError) -> bool {
    match error {
        LinkError::Refused { text } => text.starts_with("LOADING") || text.starts_with("TRYAGAIN"),
        LinkError::Connect { .. } | LinkError::Closed => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r2_a_server_that_loads_is_asked_again_and_one_that_refuses_is_not() {
        let refused = |text: &str| LinkError::Refused { text: text.into() };
        assert!(is_passing(&refused("LOADING Redis is loading the dataset in memory")));
        assert!(is_passing(&refused("TRYAGAIN shard 0 is restarting")));
        assert!(!is_passing(&refused("NOAGENT no such agent")));
        assert!(!is_passing(&LinkError::Silent));
    }

    #[test]
    fn only_what_was_timed_is_told() {
        let mut restarts = Restarts { first_s: vec![0.5, 0.7], ..Restarts::default() };
        restarts.first_bytes.push(2e6);
        let mut report = Report::new("recover");
        restarts.tell("counters", &mut report);
        assert_eq!(report.value("counters/first-reply"), Some(0.6));
        assert_eq!(report.value("counters/first-resident"), Some(2.0));
        assert_eq!(report.figures.len(), 2);
    }
}
