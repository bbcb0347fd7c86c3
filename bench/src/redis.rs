//! Redis as a peer: started on a free loopback port, pinned, in memory only or durable.
//!
//! Owns: the process, its scratch folder, and Redis's words for the work of `messages`.
//! Not: fairness of pinning and interleaving (`peers.rs`), folders that callers keep.
//! E1  absent Redis is a reason, not an error: scenarios go on and say `skipped: ...`.
//! E2  durable is its append-only file with a sync before every reply, and no rewriting of it while
//!     it is measured.

use crate::context::{self, Context};
use crate::link::{Addr, Link};
use crate::{node, sys, wire};
use anyhow::Context as _;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for the first PONG.
const READY_WAIT_MAX: Duration = Duration::from_secs(10);
/// What a report says when there is no Redis.
pub const ABSENT: &str = "skipped: redis-server is not installed (apt-get install redis-server)";
/// Settings of a Redis that keeps nothing.
const IN_MEMORY: &[&str] = &["--appendonly", "no"];
/// Settings of a durable one (E2).
const DURABLE: &[&str] =
    &["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"];
/// 100 bytes read and overwritten at an offset, in one round trip and atomically.
pub const SCRIPT: &str = "local old = redis.call('GETRANGE', KEYS[1], ARGV[1], ARGV[1] + 99) \
                          redis.call('SETRANGE', KEYS[1], ARGV[1], ARGV[2]) return old";

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    addr: Addr,
    version: String,
    started_at: Instant,
    _scratch: Option<tempfile::TempDir>,
}

impl Redis {
    /// Starts it pinned to `cpu`, in memory only; `None` when it is not installed (E1).
    pub fn start(_context: &Context, cpu: usize) -> anyhow::Result<Option<Redis>> {
        let dir = tempfile::Builder::new().prefix("heronry-bench-redis-").tempdir()?;
        let folder = dir.path().to_owned();
        Redis::launch(cpu, IN_MEMORY, &folder, Some(dir))
    }

    /// Starts it pinned to `cpu`, durable (E2), on a folder that exists and stays; `None` when it
    /// is not installed (E1). It may still be loading.
    pub fn start_on(cpu: usize, folder: &Path) -> anyhow::Result<Option<Redis>> {
        Redis::launch(cpu, DURABLE, folder, None)
    }

    fn launch(
        cpu: usize,
        settings: &[&str],
        folder: &Path,
        _scratch: Option<tempfile::TempDir>,
    ) -> anyhow::Result<Option<Redis>> {
        context::check_interrupt()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", ""]).args(settings);
        command.args(["--port", &port.to_string(), "--dir"]).arg(folder);
        command.args(["--databases", "1", "--daemonize", "no", "--io-threads", "1"]);
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
        sys::confine(&mut command, &[cpu], libc::SIGKILL);
        let started_at = Instant::now();
        let child = match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.context("cannot start redis-server")?,
        };
        let addr = Addr::Tcp(([127, 0, 0, 1], port).into());
        let mut redis = Redis { child, addr, version: String::new(), started_at, _scratch };
        redis.wait_ready()?;
        Ok(Some(redis))
    }

    /// Its address.
    pub fn addr(&self) -> Addr {
        self.addr.clone()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When its process was made.
    pub fn started_at(&self) -> Instant {
        self.started_at
    }

    /// Kills it with SIGKILL, as a crash would, and waits until it is gone.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Loads [`SCRIPT`]; returns its digest.
    pub fn load_script(&self) -> anyhow::Result<Vec<u8>> {
        let reply = Link::connect(&self.addr)?.ask(&[b"SCRIPT", b"LOAD", SCRIPT.as_bytes()])?;
        Ok(wire::text(&reply).context("SCRIPT LOAD gave no digest")?.to_vec())
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let give_up_at = Instant::now() + READY_WAIT_MAX;
        loop {
            context::check_interrupt()?;
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("redis-server ended at its start with {status}");
            }
            let info =
                Link::connect(&self.addr).and_then(|mut link| link.ask(&[b"INFO", b"server"]));
            match info {
                Ok(info) => {
                    let text = String::from_utf8_lossy(wire::text(&info).unwrap_or_default());
                    let line = text.lines().find_map(|line| line.strip_prefix("redis_version:"));
                    self.version = line.unwrap_or("unknown").trim().to_owned();
                    return Ok(());
                }
                Err(error) if Instant::now() > give_up_at => {
                    return Err(error).context("redis-server did not answer");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        node::stop(&mut self.child);
    }
}
