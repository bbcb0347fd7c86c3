//! Kill cycles: a real node on one data folder, killed at a random moment, compared with oracles.
//!
//! Owns: the order of a cycle: work, kill, start again, compare.  Not: what is asked (`author`),
//! what may be there then (`family`, `desk`).
//! C1  a change whose durable answer came is there after any kill.
//! C2  what was only sealed is there as a beginning of what its writer asked, each request whole.
//! C3  a request that is tried again under its id counts once, also through relays.
//! C4  a kill of one shard, or a stop of the node, costs no other shard's agents anything.
//! C5  the seed decides what is asked, when and whom it kills; the kernel's schedule the rest.

mod author;
mod desk;
mod failure;
mod family;
mod host;
mod link;
mod scribe;

pub use failure::Failure;

use desk::Desk;
use fastrand::Rng;
use host::Host;
use scribe::Scribe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Shards of the node.
const SHARD_COUNT: usize = 2;
/// Writers that compare whole agents, unless said.
pub const SCRIBE_COUNT: u64 = 3;
/// Shortest and longest work between two kills.
const WORK_MS: std::ops::RangeInclusive<u64> = 50..=400;
/// How long writers go on after one shard was killed.
const AFTER_SHARD_MS: std::ops::RangeInclusive<u64> = 0..=60;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct CrashPlan {
    /// The node's program.
    pub binary: PathBuf,
    /// Where its data folder and its socket are; nothing else uses it.
    pub folder: PathBuf,
    /// Decides what is asked and whom it kills (C5).
    pub seed: u64,
    /// Writers that compare whole agents; each has 11 families, of a megabyte about.
    pub scribe_count: u64,
    /// Whether there are relays: not where arenas fill, since nobody hears when a full one refuses
    /// what was only sent.
    pub relays: bool,
    /// Settings of the node beside those that small logs need, as `name=value`.
    pub settings: Vec<String>,
}

/// What a run has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Kill cycles.
    pub cycles: u64,
    /// Kills of the whole node.
    pub node_kills: u64,
    /// Kills of one shard.
    pub shard_kills: u64,
    /// Nodes that were asked to stop.
    pub stops: u64,
    /// Requests that were answered as durable.
    pub durable: u64,
    /// Requests that were answered as sealed.
    pub sealed: u64,
    /// Requests that a kill left without an answer.
    pub unanswered: u64,
    /// Sealed requests of which a kill left nothing, as it may (C2).
    pub sealed_lost: u64,
    /// Requests that were tried again under their id.
    pub retries: u64,
    /// Agents and counters that were compared.
    pub checks: u64,
    /// Starts that were refused because the socket of the killed node was still there.
    pub refused: u64,
    /// Starts that found the end of a log torn.
    pub torn: u64,
}

/// How a cycle ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kill {
    Node,
    Shard(usize),
    Stop,
}

/// One thread's work: its own agents, at most one request open.
trait Writer: Send {
    /// Asks until it is told to stop or an answer does not come.
    fn work(&mut self, socket: &Path, stop: &AtomicBool) -> Result<(), Failure>;
    /// Finds out what the kill has left, and whether it may be so.
    fn compare(&mut self, socket: &Path, kill: Kill) -> Result<(), Failure>;
    /// What it has done.
    fn tally(&self) -> Tally;
}

/// A run: a data folder, a node on it, and writers that know what must be there.
pub struct Crash {
    plan: CrashPlan,
    rng: Rng,
    host: Option<Host>,
    writers: Vec<Box<dyn Writer>>,
    own: Tally,
    /// What nodes before the present one have said.
    said: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.durable += other.durable;
        self.sealed += other.sealed;
        self.unanswered += other.unanswered;
        self.sealed_lost += other.sealed_lost;
        self.retries += other.retries;
        self.checks += other.checks;
    }
}

impl Crash {
    /// A run whose node is yet to start.
    pub fn new(plan: CrashPlan) -> Crash {
        let mut rng = Rng::with_seed(plan.seed);
        let mut writers: Vec<Box<dyn Writer>> = Vec::new();
        for number in 0..plan.scribe_count {
            writers.push(Box::new(Scribe::new(number, rng.u64(..))));
        }
        if plan.relays {
            writers.push(Box::new(Desk::new(rng.u64(..))));
        }
        let (host, own, said) = (None, Tally::default(), Vec::new());
        Crash { plan, rng, host, writers, own, said }
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        let mut sum = self.own;
        self.writers.iter().for_each(|writer| sum.add(&writer.tally()));
        sum
    }

    /// The last lines that the nodes said, at most `count_max`.
    pub fn last_words(&self, count_max: usize) -> Vec<String> {
        let mut lines = self.said.clone();
        lines.extend(self.host.iter().flat_map(Host::said));
        lines.split_off(lines.len().saturating_sub(count_max))
    }

    /// Works, kills, starts again and compares. After a failure the run is over.
    pub fn cycle(&mut self) -> Result<(), Failure> {
        let kill = match self.rng.u8(..16) {
            0 => Kill::Stop,
            1..=8 => Kill::Node,
            _ => Kill::Shard(self.rng.usize(..SHARD_COUNT)),
        };
        if self.host.is_none() {
            self.host = Some(self.start()?);
        }
        let pids = self.host_mut().shard_pids()?;
        self.work(kill, &pids)?;
        match kill {
            Kill::Shard(shard) => {
                self.own.shard_kills += 1;
                self.host_mut().await_shard(shard, pids[shard])?;
            }
            Kill::Node | Kill::Stop => {
                let is_stop = kill == Kill::Stop;
                self.own.stops += u64::from(is_stop);
                self.own.node_kills += u64::from(!is_stop);
                self.end_host(&pids)?;
                self.host = Some(self.start()?);
            }
        }
        let compared = self.compare(kill);
        self.host_mut().check_words()?;
        compared?;
        self.own.cycles += 1;
        Ok(())
    }

    /// Stops the node, which must end well.
    pub fn finish(&mut self) -> Result<(), Failure> {
        if self.host.is_none() {
            return Ok(());
        }
        let pids = self.host_mut().shard_pids()?;
        self.host_mut().end(Kill::Stop, &pids)?;
        self.end_host(&pids)
    }

    fn host_mut(&mut self) -> &mut Host {
        self.host.as_mut().expect("a cycle has a node")
    }

    fn start(&mut self) -> Result<Host, Failure> {
        let (host, refused) = Host::start(&self.plan)?;
        self.own.refused += refused;
        Ok(host)
    }

    /// Waits for the end of the node, and keeps what it has said.
    fn end_host(&mut self, pids: &[u32]) -> Result<(), Failure> {
        let Some(mut host) = self.host.take() else { return Ok(()) };
        let gone = host.await_end(pids);
        let words = host.check_words();
        let lines = host.said();
        self.own.torn += lines.iter().filter(|line| line.contains("torn")).count() as u64;
        self.said.extend(lines);
        gone.and(words)
    }

    fn work(&mut self, kill: Kill, pids: &[u32]) -> Result<(), Failure> {
        let span = Duration::from_millis(self.rng.u64(WORK_MS));
        let after = match kill {
            Kill::Shard(_) => Duration::from_millis(self.rng.u64(AFTER_SHARD_MS)),
            Kill::Node | Kill::Stop => Duration::ZERO,
        };
        let Some(host) = &mut self.host else { return Ok(()) };
        let (socket, stop) = (host.socket().to_owned(), AtomicBool::new(false));
        thread::scope(|scope| {
            let (socket, stop) = (&socket, &stop);
            let work = |writer| scope.spawn(move || Writer::work(writer, socket, stop));
            let threads: Vec<_> =
                self.writers.iter_mut().map(|writer| work(&mut **writer)).collect();
            thread::sleep(span);
            let killed = host.end(kill, pids);
            thread::sleep(after);
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().map(join).fold(killed, Result::and)
        })
    }

    fn compare(&mut self, kill: Kill) -> Result<(), Failure> {
        let Some(host) = &self.host else { return Ok(()) };
        let socket = host.socket();
        thread::scope(|scope| {
            let compare = |writer| scope.spawn(move || Writer::compare(writer, socket, kill));
            let threads: Vec<_> =
                self.writers.iter_mut().map(|writer| compare(&mut **writer)).collect();
            threads.into_iter().map(join).fold(Ok(()), Result::and)
        })
    }
}

/// The outcome of a writer's thread; its panic goes on here.
fn join(thread: thread::ScopedJoinHandle<'_, Result<(), Failure>>) -> Result<(), Failure> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
