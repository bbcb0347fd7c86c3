//! The node of a run: started on the run's folder, killed, waited for.
//!
//! Owns: its processes and what they say.  Not: what is asked of it.
//! H1  only processes of this node are ended, by their numbers.
//! H2  a node that was started ends with the run, also when the run fails.
//! H3  some lines of a node's log are failures of the run.

use super::failure::Failure;
use super::link::{Link, words};
use super::{CrashPlan, Kill, SHARD_COUNT};
use crate::node::PATIENCE;
use crate::rows::column;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Small segments and indexes, so that logs roll, and as many restarts as there are kills.
const SETTINGS: [&str; 5] = [
    "shards.arena_bytes=64MiB",
    "shards.restart_max=1000",
    "shards.restart_window_ms=1000",
    "log.segment_bytes=4194304",
    "log.index_bytes=1048576",
];
/// Parts of lines that only a fault makes a node say (H3).
const FAULTS: [&str; 9] = [
    "panicked",
    "no sense",
    "damaged",
    "cannot be read",
    "cannot be written",
    "exit status",
    "killed by signal 6",
    "stays down",
    "silent for",
];
/// Part of the line of a node whose socket a node before it still seems to have.
const REFUSED: &str = "another node answers at";
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// A running node.
pub struct Host {
    child: Child,
    socket: PathBuf,
    link: Link,
    said: Arc<Mutex<Vec<String>>>,
    /// Lines that were looked at.
    checked_count: usize,
}

impl Host {
    /// Starts the node and waits until it is ready; also how often it was refused its socket first.
    /// The kernel may end an io_uring, and with it a listener, a while after its process.
    pub fn start(plan: &CrashPlan) -> Result<(Host, u64), Failure> {
        let began = Instant::now();
        let mut refused_count = 0;
        loop {
            let (host, is_ready) = Host::try_start(plan)?;
            if is_ready {
                return Ok((host, refused_count));
            }
            let said = host.said();
            let waited_ms = began.elapsed().as_millis();
            if began.elapsed() > PATIENCE || !said.iter().any(|line| line.contains(REFUSED)) {
                return Err(Failure::NotUp { waited_ms, said });
            }
            refused_count += 1;
            thread::sleep(PAUSE);
        }
    }

    fn try_start(plan: &CrashPlan) -> Result<(Host, bool), Failure> {
        let mut command = Command::new(&plan.binary);
        command.args(["up", "--port", "0", "--shards"]).arg(SHARD_COUNT.to_string());
        command.arg("--data").arg(plan.folder.join("data"));
        let own = SETTINGS.iter().copied().chain(plan.settings.iter().map(String::as_str));
        own.for_each(|setting| _ = command.args(["--set", setting]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |source| Failure::Io { what: "starting the node", source };
        let mut child = command.spawn().map_err(failed)?;
        let said = Arc::default();
        let followed = child.stderr.take().map(|stderr| follow(stderr, Arc::clone(&said)));
        let ready = child.stdout.take().map(first_line);
        let socket = plan.folder.join("data.sock");
        let link = Link::new(&socket);
        let host = Host { child, socket, link, said, checked_count: 0 };
        let line = ready.and_then(|ready| ready.recv_timeout(PATIENCE).ok()).unwrap_or_default();
        if let (true, Some(followed)) = (line.is_empty(), followed) {
            // It has ended, so all that it said is soon there.
            let _ = followed.join();
        }
        Ok((host, line.starts_with("ready:")))
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has said.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the lines that are new (H3).
    pub fn check_words(&mut self) -> Result<(), Failure> {
        let lines = self.said();
        let new = &lines[self.checked_count..];
        self.checked_count = lines.len();
        match new.iter().find(|line| FAULTS.iter().any(|fault| line.contains(fault))) {
            Some(line) => Err(Failure::Said { line: line.clone() }),
            None => Ok(()),
        }
    }

    /// Process numbers of its shards.
    pub fn shard_pids(&mut self) -> Result<Vec<u32>, Failure> {
        let rows = self.link.insist(&words(&["SHARD.LIST"]))?;
        Ok(column(&rows, "pid").iter().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// Ends it, or one of its shards; does not wait.
    pub fn end(&mut self, kill: Kill, pids: &[u32]) -> Result<(), Failure> {
        let (pid, signal) = match kill {
            Kill::Node => (self.child.id(), Signal::KILL),
            Kill::Stop => (self.child.id(), Signal::TERM),
            Kill::Shard(shard) => (pids[shard], Signal::KILL),
        };
        let failed = |source: std::io::Error| Failure::Io { what: "killing", source };
        let pid = Pid::from_raw(pid as i32)
            .ok_or_else(|| failed(std::io::Error::other("no process has number 0")))?;
        kill_process(pid, signal).map_err(|errno| failed(errno.into()))
    }

    /// Waits until a shard that was killed is up again, and all others are.
    pub fn await_shard(&mut self, shard: usize, before: u32) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            let rows = self.link.insist(&words(&["SHARD.LIST"]))?;
            let up = column(&rows, "state").iter().all(|state| state == "up");
            let is_new = column(&rows, "pid").get(shard) != Some(&before.to_string());
            if up && is_new {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                let waited_ms = began.elapsed().as_millis();
                return Err(Failure::NotUp { waited_ms, said: self.said() });
            }
            thread::sleep(PAUSE);
        }
    }

    /// Waits until it and its shards are gone.
    pub fn await_end(&mut self, pids: &[u32]) -> Result<(), Failure> {
        let began = Instant::now();
        let mut left: Vec<u32> = pids.to_vec();
        let mut status = None;
        loop {
            if status.is_none() {
                let failed = |source| Failure::Io { what: "waiting for the node", source };
                status = self.child.try_wait().map_err(failed)?;
            }
            left.retain(|pid| is_running(*pid));
            match (status, left.first()) {
                (Some(status), None) if status.code().is_none_or(|code| code == 0) => {
                    return Ok(());
                }
                (Some(status), None) => {
                    return Err(Failure::BadEnd { status: status.to_string() });
                }
                (_, pid) if began.elapsed() > PATIENCE => {
                    let pid = pid.copied().unwrap_or(self.child.id());
                    return Err(Failure::NotGone { pid, waited_ms: began.elapsed().as_millis() });
                }
                _ => thread::sleep(PAUSE),
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // H2: its shards end with it, by the kernel. It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process is there and has not ended; one that nobody waits for stays in the list.
fn is_running(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = status.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

/// Collects lines on a thread, so that the node never waits for its reader.
fn follow(stderr: ChildStderr, said: Arc<Mutex<Vec<String>>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            said.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    })
}

/// The first line, from a thread that may wait for it.
fn first_line(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(from).read_line(&mut line);
        // The run may have given up waiting.
        let _ = read.map(|_| send.send(line));
    });
    receive
}
