//! `hop`: the round trip of one message between two shards' mesh ends, in two processes.
//!
//! Owns: both ends of the ping and pong, parked and spinning.  Not: the mesh itself (`shards`).
//! H1  the ends are processes pinned to different CPUs and share only the mesh memory and two
//!     eventfds.
//! H2  parked: an end sleeps in poll on its eventfd after announcing; spinning: it never sleeps.

use crate::context::{self, Context};
use crate::report::{Better, Latency, Report};
use crate::{node, sys};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use heronry_engine::ShardId;
use heronry_shards::control::ShardState;
use heronry_shards::mesh::{Mesh, Urgency};
use heronry_shards::shared::{ShardPlan, Shared};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of the message.
const MESSAGE_BYTES: usize = 64;
/// Round trips that are not counted.
const WARM_COUNT: u64 = 2000;
/// Longest sleep before an end looks again.
const SLEEP: Duration = Duration::from_millis(100);
/// Longest wait for the other end to come up, and for one reply.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How an end waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Sleep between messages
    Parked,
    /// Poll without sleeping
    Spinning,
}

/// Arguments of `hop`.
#[derive(Clone, Debug, Args)]
pub struct HopArgs {
    /// Part that this process plays
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// The mesh memory
    #[arg(long, hide = true, requires = "role")]
    fd: Option<i32>,
    /// The doorbells of shard 0 and 1
    #[arg(long, hide = true, requires = "role", num_args = 2)]
    bells: Vec<i32>,
    /// How this end waits
    #[arg(long, hide = true, requires = "role", default_value = "parked")]
    mode: Mode,
}

/// Hidden parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Sends back what it receives.
    Echo,
}

/// Runs `hop`, or the other end of one.
pub fn run(context: &Context, args: &HopArgs) -> anyhow::Result<Option<Report>> {
    if args.role == Some(Role::Echo) {
        echo(args)?;
        return Ok(None);
    }
    let mut report = Report::new("hop");
    if !context.cores.apart() {
        report.note("skipped: a hop needs two CPUs, one is allowed here");
        return Ok(Some(report));
    }
    report.note(format!(
        "{MESSAGE_BYTES} bytes there and back between processes on CPU {} and {}",
        context.cores.client, context.cores.server
    ));
    let _pinned = sys::Pinned::to(context.cores.client)?;
    for mode in [Mode::Spinning, Mode::Parked] {
        let name = if mode == Mode::Parked { "parked" } else { "spinning" };
        let bar = context.progress(name, context.repeat as u64);
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        let mut all = Latency::new();
        for _ in 0..context.repeat {
            let latency = round_trips(context, mode)?;
            p50.push(latency.us_at(50.0));
            p99.push(latency.us_at(99.0));
            all.add(&latency);
            bar.inc(1);
        }
        bar.finish_and_clear();
        report.figure(&format!("{name}/p50"), "us", Better::Lower, p50);
        report.figure(&format!("{name}/p99"), "us", Better::Lower, p99);
        report.curves.push(all.curve(name));
    }
    Ok(Some(report))
}

/// One end of the mesh with its bells.
struct End {
    mesh: Mesh,
    me: ShardId,
    peer: ShardId,
    bells: [File; 2],
    mode: Mode,
}

impl End {
    fn new(shared: Arc<Shared>, me: u16, bells: [File; 2], mode: Mode) -> End {
        let (me, peer) = (ShardId(me), ShardId(1 - me));
        let mesh = Mesh::attach(Arc::clone(&shared), me);
        let mut end = End { mesh, me, peer, bells, mode };
        shared.set_state(me, ShardState::Up);
        // The peer may sleep; it is told that we are up.
        end.ring(peer);
        end
    }

    fn ring(&mut self, shard: ShardId) {
        // A full counter means that the bell rings already.
        let _ = (&self.bells[usize::from(shard.0)]).write(&1u64.to_ne_bytes());
    }

    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.mesh.send(self.peer, bytes, Urgency::Answer)?;
        self.publish();
        Ok(())
    }

    fn publish(&mut self) {
        let End { mesh, bells, .. } = self;
        mesh.publish(&mut |shard| {
            let _ = (&bells[usize::from(shard.0)]).write(&1u64.to_ne_bytes());
        });
    }

    /// Waits for something, at most until `until`. Returns messages received.
    fn receive(
        &mut self,
        until: Instant,
        each: &mut dyn FnMut(ShardId, &[u8]),
    ) -> anyhow::Result<usize> {
        let mut spins = 0u32;
        loop {
            self.mesh.changed_peers().for_each(drop);
            let count = self.mesh.receive(each);
            if count > 0 {
                return Ok(count);
            }
            spins = spins.wrapping_add(1);
            if (self.mode == Mode::Parked || spins.is_multiple_of(1024)) && Instant::now() > until {
                return Ok(0);
            }
            if self.mode == Mode::Spinning {
                std::hint::spin_loop();
                continue;
            }
            self.publish();
            if self.mesh.announce_park() {
                let bell = &mut self.bells[usize::from(self.me.0)];
                if sys::wait_readable(bell.as_raw_fd(), SLEEP)? {
                    let _ = bell.read(&mut [0; 8]);
                }
                self.mesh.unpark();
            }
        }
    }

    fn wait_for_peer(&mut self) -> anyhow::Result<()> {
        let give_up_at = Instant::now() + WAIT_MAX;
        while self.mesh.peer(self.peer).state != ShardState::Up {
            self.mesh.changed_peers().for_each(drop);
            anyhow::ensure!(Instant::now() < give_up_at, "the other end did not come up");
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// The far end: starts, echoes until it hears nothing for long or its parent ends.
fn echo(args: &HopArgs) -> anyhow::Result<()> {
    let shared = sys::adopt(args.fd.context("--fd is missing")?)?;
    let bells = [sys::adopt(args.bells[0])?, sys::adopt(args.bells[1])?].map(File::from);
    let mut end = End::new(Arc::new(Shared::attach(shared)?), 1, bells, args.mode);
    end.wait_for_peer()?;
    let mut message = Vec::new();
    loop {
        message.clear();
        let until = Instant::now() + WAIT_MAX;
        let count = end.receive(until, &mut |_, bytes| message.extend_from_slice(bytes))?;
        if count == 0 || message.is_empty() {
            return Ok(());
        }
        end.send(&message)?;
    }
}

fn round_trips(context: &Context, mode: Mode) -> anyhow::Result<Latency> {
    context::check_interrupt()?;
    let shared = Shared::create(ShardPlan { shard_count: 2, ring_bytes: 64 << 10 })?;
    let bells: [OwnedFd; 2] = [sys::eventfd()?, sys::eventfd()?];
    let mut command = Command::new(&context.node_exe);
    command.args(["bench", "hop", "--role", "echo", "--mode"]);
    command.arg(if mode == Mode::Parked { "parked" } else { "spinning" });
    command.args(["--fd", &shared.fd().as_raw_fd().to_string(), "--bells"]);
    for bell in &bells {
        command.arg(bell.as_raw_fd().to_string());
        sys::inherit(&mut command, bell.as_raw_fd());
    }
    sys::inherit(&mut command, shared.fd().as_raw_fd());
    sys::confine(&mut command, &[context.cores.server], libc::SIGKILL);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let _far = Far(command.spawn().context("cannot start the other end")?);
    let mut end = End::new(Arc::new(shared), 0, bells.map(File::from), mode);
    end.wait_for_peer()?;
    let mut latency = Latency::new();
    let end_at = Instant::now() + Duration::from_secs_f64(context.seconds);
    for n in 0u64.. {
        let mut message = [0u8; MESSAGE_BYTES];
        message[..8].copy_from_slice(&n.to_le_bytes());
        let started_at = Instant::now();
        end.send(&message)?;
        let mut same = false;
        end.receive(started_at + WAIT_MAX, &mut |_, bytes| same = bytes == message)?;
        let took = started_at.elapsed();
        anyhow::ensure!(same, "round trip {n} came back wrong or not at all");
        if n >= WARM_COUNT {
            latency.record(took);
            if Instant::now() >= end_at || context::interrupted() {
                break;
            }
        }
    }
    // An empty message ends the far end.
    end.send(&[])?;
    Ok(latency)
}

/// The other process; ended and reaped however the measurement returns.
struct Far(Child);

impl Drop for Far {
    fn drop(&mut self) {
        let give_up_at = Instant::now() + Duration::from_millis(500);
        while Instant::now() < give_up_at {
            if let Ok(Some(_)) = self.0.try_wait() {
                return;
            }
            std::thread::yield_now();
        }
        node::stop(&mut self.0);
    }
}
