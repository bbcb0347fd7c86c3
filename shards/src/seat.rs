//! A shard's seat: everything the supervisor hands to a shard at its start.
//!
//! Owns: the file descriptors and the plan of one shard, and how they cross an exec.
//! Not: what the shard does with them.
//! S1  a process shard inherits its descriptors at fixed numbers and nothing else.
//! S2  the kernel ends a process shard with the supervisor's thread that started it.

use crate::driver::Doorbells;
use crate::shared::Shared;
use heronry_engine::ShardId;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// First inherited descriptor; the order is plan, shared, roster, eventfds, Unix listener, link.
const FIRST_FD: RawFd = 3;
/// Longest plan in bytes; a compiled config is a few KiB.
const PLAN_BYTES_MAX: u64 = 1 << 20;

/// What a shard must know at its start, as data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeatPlan {
    /// Which shard.
    pub shard: ShardId,
    /// How many there are.
    pub shard_count: u16,
    /// CPU to pin to.
    pub cpu: Option<u32>,
    /// NUMA node of its memory.
    pub numa_node: Option<u32>,
    /// Where it listens for TCP clients.
    pub tcp: Option<SocketAddr>,
    /// Whether a Unix listener comes along.
    pub unix: bool,
    /// Bytes of its arena.
    pub arena_bytes: u64,
    /// Bytes of memory for its live sandboxes.
    pub live_bytes: u64,
    /// The clock's calibration, so that all shards of a node agree on the time.
    pub calibration: heronry_numa::Calibration,
    /// The compiled config.
    pub config: Vec<u8>,
}

/// A plan with its descriptors.
pub struct Seat {
    /// The plan.
    pub plan: SeatPlan,
    /// The node's shared memory.
    pub shared: Arc<Shared>,
    /// The node's eventfds.
    pub doorbells: Doorbells,
    /// Memfd of the shard's roster.
    pub roster: OwnedFd,
    /// The node's Unix listener, shared by all shards.
    pub unix_listener: Option<OwnedFd>,
    /// The shard's end of its link to the control thread: a Unix stream socket.
    pub link: Option<OwnedFd>,
}

/// What the plan's memfd holds beside the plan.
#[derive(Serialize, Deserialize)]
struct Sheet {
    /// The supervisor's process.
    supervisor: u32,
    /// Whether a link comes along.
    link: bool,
    plan: SeatPlan,
}

impl Seat {
    /// The descriptors a process shard inherits, in the order of their numbers from 3.
    pub(crate) fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let mut fds = vec![self.plan_file()?, self.shared.fd().try_clone_to_owned()?];
        fds.push(self.roster.try_clone()?);
        for bell in &self.doorbells.eventfds {
            fds.push(bell.try_clone()?);
        }
        for socket in self.unix_listener.iter().chain(&self.link) {
            fds.push(socket.try_clone()?);
        }
        Ok(fds)
    }

    /// The supervisor's process and the plan in a memfd, as each start of the shard reads it.
    fn plan_file(&self) -> io::Result<OwnedFd> {
        let (supervisor, link) = (std::process::id(), self.link.is_some());
        let sheet = Sheet { supervisor, link, plan: self.plan.clone() };
        let bytes = postcard::to_stdvec(&sheet).map_err(io::Error::other)?;
        let mut file = File::from(memfd_create("heronry-plan", MemfdFlags::CLOEXEC)?);
        file.write_all(&bytes)?;
        Ok(file.into())
    }

    /// The number that the descriptor at `idx` of `descriptors` has in the shard (S1).
    pub(crate) fn child_fd(idx: usize) -> RawFd {
        FIRST_FD + RawFd::try_from(idx).expect("S1: a few descriptors")
    }

    /// Takes the seat that the supervisor left at the fixed numbers (S1) and ties this process to
    /// it (S2). Call once, first thing in a shard process; fails when started by hand, or when the
    /// supervisor has ended already.
    pub fn inherit() -> io::Result<Seat> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let mut next = FIRST_FD;
        let mut take = || {
            let fd = inherited(next);
            next += 1;
            fd
        };
        let mut plan_file = File::from(take()?);
        plan_file.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        plan_file.take(PLAN_BYTES_MAX).read_to_end(&mut bytes)?;
        let Sheet { supervisor, link, plan } = postcard::from_bytes(&bytes)
            .map_err(|e| io::Error::other(format!("descriptor 3 holds no seat plan: {e}")))?;
        // It may have ended before the signal was set: then none comes.
        let parent = getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
        if parent != supervisor {
            let gone =
                format!("the supervisor, process {supervisor}, ended before its shard began");
            return Err(io::Error::other(gone));
        }
        let shared = Shared::attach(take()?).map_err(io::Error::other)?;
        let roster = take()?;
        let eventfds: io::Result<Vec<OwnedFd>> = (0..plan.shard_count).map(|_| take()).collect();
        let eventfds = eventfds?;
        let unix_listener = if plan.unix { Some(take()?) } else { None };
        let link = if link { Some(take()?) } else { None };
        Ok(Seat {
            doorbells: Doorbells { me: plan.shard, eventfds },
            plan,
            shared: Arc::new(shared),
            roster,
            unix_listener,
            link,
        })
    }
}

/// Owns the inherited descriptor `fd` after checking that it is open.
#[allow(unsafe_code)]
fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed for the length of the call only; a closed number makes the call fail.
    let known = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_getfd(known.as_fd()).map_err(|e| {
        io::Error::other(format!("a shard is started by `heronry up` only: descriptor {fd}: {e}"))
    })?;
    // SAFETY: open, as just checked; S1 says nothing else in this process owns it, because
    // `inherit` runs once, before anything else opens files.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC)?;
    Ok(owned)
}
