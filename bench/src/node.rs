//! A real node as a scenario's child: started, waited for, pinned, stopped or killed, reaped.
//!
//! Owns: the process and its temporary folder.  Not: what is sent to it, data folders that callers
//! keep.
//! Q1  the node is stopped and reaped when the value is dropped, also by a panic.
//! Q2  a node that does not say `ready:` in time fails with what it printed last.
//! Q3  a killed node leaves no process and no listener behind, so the next one may have its data
//!     folder at once.

use crate::context::{self, Context};
use crate::link::{Addr, Link};
use crate::{machine, sys};
use anyhow::{Context as _, bail};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Longest wait for the readiness line.
const READY_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest wait for a clean stop before the node is killed.
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);
/// Pause between two looks at what a killed node leaves behind.
const KILL_LOOK_EVERY: Duration = Duration::from_millis(1);
/// Lines of the node's own words shown when it fails.
const TAIL_LINES: usize = 15;

/// How to start a node.
#[derive(Clone, Debug, Default)]
pub struct NodePlan {
    /// Shards.
    pub shards: u16,
    /// CPUs it may use; empty leaves the choice to the node.
    pub cpus: Vec<usize>,
    /// `key=value` pairs of the config.
    pub set: Vec<String>,
}

impl NodePlan {
    /// One shard on the server's CPU.
    pub fn single(context: &Context) -> NodePlan {
        NodePlan { shards: 1, cpus: vec![context.cores.server], set: Vec::new() }
    }

    /// The same with one more setting.
    pub fn with(mut self, setting: &str) -> NodePlan {
        self.set.push(setting.into());
        self
    }
}

/// What the readiness line says.
#[derive(Clone, Debug, PartialEq)]
pub struct Ready {
    /// TCP address.
    pub tcp: Addr,
    /// Unix socket.
    pub unix: Addr,
    /// Shards.
    pub shards: u16,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    child: Child,
    ready: Ready,
    started_at: Instant,
    // Removed after the process has ended: fields drop in order, and `Drop` reaps first.
    _dir: tempfile::TempDir,
}

impl Node {
    /// Starts `plan` with a data folder that is gone after it, and waits until it is ready (Q2).
    pub fn start(context: &Context, plan: &NodePlan) -> anyhow::Result<Node> {
        let dir = scratch()?;
        let data = dir.path().join("data");
        Node::launch(context, plan, &data, dir)
    }

    /// Starts `plan` on a data folder of the caller's, made if there is none, which stays as the
    /// node leaves it; waits until it is ready (Q2).
    pub fn start_on(context: &Context, plan: &NodePlan, data: &Path) -> anyhow::Result<Node> {
        Node::launch(context, plan, data, scratch()?)
    }

    fn launch(
        context: &Context,
        plan: &NodePlan,
        data: &Path,
        dir: tempfile::TempDir,
    ) -> anyhow::Result<Node> {
        context::check_interrupt()?;
        let errors_path = dir.path().join("stderr.txt");
        let mut command = Command::new(&context.node_exe);
        command.arg("up").args(["--port", "0", "--shards"]).arg(plan.shards.to_string());
        command.arg("--data").arg(data);
        // Scenarios measure memory unless they say that they measure the disk.
        if !plan.set.iter().any(|setting| setting.starts_with("log.")) {
            command.args(["--set", "log.enabled=false"]);
        }
        for setting in &plan.set {
            command.arg("--set").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&errors_path)?);
        sys::confine(&mut command, &plan.cpus, libc::SIGTERM);
        let named = || format!("cannot start {} up", context.node_exe.display());
        let started_at = Instant::now();
        let mut child = command.spawn().with_context(named)?;
        let lines = child.stdout.take().map(read_lines);
        let mut starting = Starting { child: Some(child), said: Vec::new(), errors_path };
        let ready = starting.wait_ready(&lines.context("the node's output is not piped")?)?;
        let child = starting.child.take().context("the node is gone")?;
        Ok(Node { child, ready, started_at, _dir: dir })
    }

    /// Its TCP address.
    pub fn addr(&self) -> Addr {
        self.ready.tcp.clone()
    }

    /// Its Unix socket.
    pub fn unix(&self) -> Addr {
        self.ready.unix.clone()
    }

    /// When its process was made.
    pub fn started_at(&self) -> Instant {
        self.started_at
    }

    /// Shards it has.
    pub fn shard_count(&self) -> u16 {
        self.ready.shards
    }

    /// Its process and those it started.
    pub fn pids(&self) -> Vec<u32> {
        machine::family(self.child.id())
    }

    /// Resident bytes of all its processes. Shared pages count once per process that touched them.
    pub fn resident_bytes(&self) -> u64 {
        self.pids().into_iter().map(machine::resident_bytes).sum()
    }

    /// CPU seconds of all its processes.
    pub fn cpu_seconds(&self) -> f64 {
        self.pids().into_iter().map(machine::cpu_seconds).sum()
    }

    /// Stops it. Error: it did not end with status 0.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let status = stop(&mut self.child).context("the node did not stop")?;
        anyhow::ensure!(status.success(), "the node ended with {status}");
        Ok(())
    }

    /// Kills all its processes with SIGKILL, as a crash would, and waits until they are gone (Q3).
    pub fn kill(mut self) -> anyhow::Result<()> {
        let pids = self.pids();
        // The first is the supervisor, so that nobody restarts the others.
        for pid in &pids {
            // One that has ended with the supervisor is as good as killed.
            let _ = sys::signal(*pid, libc::SIGKILL);
        }
        self.child.wait()?;
        let give_up_at = Instant::now() + STOP_WAIT_MAX;
        while let Some(pid) = pids.iter().find(|pid| machine::is_running(**pid)) {
            anyhow::ensure!(Instant::now() < give_up_at, "process {pid} of the node is not gone");
            std::thread::sleep(KILL_LOOK_EVERY);
        }
        // The kernel ends an io_uring, and with it a listener, a while after its process.
        while Link::connect(&self.ready.unix).is_ok() {
            anyhow::ensure!(Instant::now() < give_up_at, "the killed node's socket still listens");
            std::thread::sleep(KILL_LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// A node that has not said `ready:` yet; killed when given up.
struct Starting {
    child: Option<Child>,
    said: Vec<String>,
    errors_path: PathBuf,
}

impl Starting {
    fn wait_ready(&mut self, lines: &mpsc::Receiver<String>) -> anyhow::Result<Ready> {
        let give_up_at = Instant::now() + READY_WAIT_MAX;
        loop {
            context::check_interrupt()?;
            match lines.recv_timeout(Duration::from_millis(200)) {
                Ok(line) => match parse_ready(&line) {
                    Some(ready) => return Ok(ready),
                    None => self.said.push(line),
                },
                Err(RecvTimeoutError::Timeout) if Instant::now() < give_up_at => {}
                Err(RecvTimeoutError::Timeout) => {
                    let waited = READY_WAIT_MAX.as_secs();
                    bail!("the node was not ready within {waited} s; {}", self.last_words())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the node ended before it was ready; {}", self.last_words())
                }
            }
        }
    }

    fn last_words(&self) -> String {
        let errors = std::fs::read_to_string(&self.errors_path).unwrap_or_default();
        let all: Vec<&str> = self.said.iter().map(String::as_str).chain(errors.lines()).collect();
        let from = all.len().saturating_sub(TAIL_LINES);
        format!("it said:\n{}", all[from..].join("\n"))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            stop(child);
        }
    }
}

fn scratch() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("heronry-bench-").tempdir()
}

/// Interrupts, waits, kills if it must, reaps (Q1). Public to the crate for other children.
pub(crate) fn stop(child: &mut Child) -> Option<std::process::ExitStatus> {
    if let Ok(Some(status)) = child.try_wait() {
        return Some(status);
    }
    // The child is not reaped yet, so its process id cannot be another's.
    let _ = sys::signal(child.id(), libc::SIGINT);
    let give_up_at = Instant::now() + STOP_WAIT_MAX;
    while Instant::now() < give_up_at {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    child.wait().ok()
}

/// Lines of a pipe, read by a thread that ends with the pipe, so that the child never blocks.
fn read_lines(pipe: std::process::ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { break };
            // Nobody listens after the readiness line; the pipe must still be emptied.
            let _ = sender.send(line);
        }
    });
    lines
}

/// `ready: tcp 127.0.0.1:PORT unix PATH shards N`.
fn parse_ready(line: &str) -> Option<Ready> {
    let rest = line.trim().strip_prefix("ready:")?.trim();
    let rest = rest.strip_prefix("tcp ")?;
    let (tcp, rest) = rest.split_once(' ')?;
    let (unix, shards) = rest.strip_prefix("unix ")?.rsplit_once(" shards ")?;
    Some(Ready {
        tcp: Addr::Tcp(tcp.parse().ok()?),
        unix: Addr::Unix(PathBuf::from(unix)),
        shards: shards.trim().parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q2_the_readiness_line_is_read_and_nothing_else_is_taken_for_it() {
        let ready = parse_ready("ready: tcp 127.0.0.1:7373 unix /run/a b.sock shards 2\n");
        let ready = ready.expect("a readiness line");
        assert_eq!(ready.tcp, Addr::Tcp("127.0.0.1:7373".parse().expect("an address")));
        assert_eq!(ready.unix, Addr::Unix("/run/a b.sock".into()));
        assert_eq!(ready.shards, 2);
        assert_eq!(parse_ready("ready: soon"), None);
        assert_eq!(parse_ready("tcp 127.0.0.1:1 unix x shards 1"), None);
    }

    #[test]
    fn q1_a_stopped_child_is_reaped() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let status = stop(&mut child).expect("it ends");
        assert!(!status.success());
        assert!(sys::signal(child.id(), 0).is_err());
    }
}
