//! The parent of all shards: starts one per seat, watches, restarts, stops them.
//!
//! Owns: the shards' processes (or threads), their shared memory, eventfds and rosters.
//! Not: agents; it never touches one.
//! U1  a shard that ends without being asked to is started again, until it has done so more than
//!     `restart_max` times within `restart_window`; then it stays down and the others serve on.
//! U2  no shard process outlives the thread in `supervise`: the kernel ends it (S2 of `seat`).
//! U3  asked to stop, every shard ends by itself, or is killed after `STOP_WAIT`.

mod life;
mod signals;

use crate::control::ShardState;
use crate::driver::Doorbells;
use crate::roster::{Roster, RosterError};
use crate::seat::{Seat, SeatPlan};
use crate::shared::{ShardPlan, Shared, SharedError};
use command_fds::{CommandFdExt, FdMapping};
use crossbeam_channel::{Receiver, select};
use heronry_engine::{Nanos, ShardId};
use life::Life;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Set for shard processes: they are started by a supervisor, not by hand.
pub const SEAT_VARIABLE: &str = "HERONRY_SEAT";
/// How often the supervisor looks at heartbeats: at most, and at least while a shard starts.
const WATCH_EVERY: Duration = Duration::from_millis(50);
const START_LOOK_EVERY_MIN: Duration = Duration::from_millis(1);
/// Looks at a shard that starts, within the time that it takes.
const START_LOOKS: u32 = 32;
/// How long a shard may take to stop by itself (U3).
const STOP_WAIT: Duration = Duration::from_secs(5);
/// Pause before a restart; the first two within the window come at once.
const PAUSE: Duration = Duration::from_millis(200);

/// Whether each shard is a process of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isolation {
    /// One process per shard: the default, see DESIGN's reasons.
    Process,
    /// One thread per shard in this process: for tests, embedding and comparison.
    Thread,
}

/// What the supervisor runs.
pub struct NodePlan {
    /// One seat per shard, in the order of their numbers.
    pub seats: Vec<SeatPlan>,
    /// Processes or threads.
    pub isolation: Isolation,
    /// Bytes of each ring of the mesh.
    pub ring_bytes: usize,
    /// The node's Unix listener.
    pub unix_listener: Option<OwnedFd>,
    /// A running turn older than this is reported.
    pub stall: Duration,
    /// Restarts of one shard within the window before the node gives up (U1).
    pub restart_max: u32,
    /// That window.
    pub restart_window: Duration,
    /// A shard without a heartbeat for this long is killed and started again.
    pub hang: Duration,
    /// Makes each life of a shard a link to the control thread, if the node has one.
    pub links: Option<MakeLink>,
}

/// A new link for a shard that is about to start: the shard's end of it.
pub type MakeLink = Box<dyn Fn(ShardId) -> io::Result<OwnedFd>>;

/// Takes what the supervisor saw.
pub type Notify<'n> = dyn FnMut(&Shared, Notice) + 'n;

/// What a shard runs: the composition root's function.
pub type RunShard = fn(Seat) -> Result<(), ShardError>;

/// Why a shard ended in failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ShardError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// What the supervisor saw, for the operator's log.
#[derive(Debug)]
pub enum Notice {
    /// All shards are up.
    Ready,
    /// A shard ended; it starts again after the pause.
    Ended {
        /// Which.
        shard: ShardId,
        /// How: exit status, signal or panic.
        how: String,
        /// When it starts again.
        pause: Duration,
    },
    /// A shard ended too often and stays down; the others serve on (U1).
    GivenUp {
        /// Which.
        shard: ShardId,
        /// How often it ended.
        count: usize,
        /// Within which time.
        window: Duration,
        /// How it ended the last time.
        how: String,
    },
    /// A restarted shard is up again.
    Back {
        /// Which.
        shard: ShardId,
        /// From its end until it was up.
        after: Duration,
    },
    /// A turn has been running for too long.
    Stalled {
        /// Where.
        shard: ShardId,
        /// The agent's key.
        key: String,
        /// For how long so far.
        running: Duration,
    },
    /// A shard showed no sign of life and was killed.
    Hung {
        /// Which.
        shard: ShardId,
        /// For how long.
        silent: Duration,
    },
    /// A stop was asked for.
    Stopping {
        /// The signal's name.
        by: &'static str,
    },
}

/// Why the node ended in failure.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Eventfds, signals or a shard's process could not be had.
    #[error("cannot set up the node or start a shard: {0}; see `ulimit -n` and `ulimit -u`")]
    SetUp(#[from] io::Error),
    /// The node's shared memory could not be made.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// A roster could not be made.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// A shard failed before the node was ready; its own message is in the log.
    #[error("shard {} did not start: {how}", shard.0)]
    Start {
        /// Which.
        shard: ShardId,
        /// How it ended.
        how: String,
    },
    /// The last shard was given up (U1); the log says why each was.
    #[error("no shard is left: each ended more often than shards.restart_max allows")]
    AllDown,
    /// A shard had to be killed at the end (U3).
    #[error("shard {} did not stop within {} s and was killed", shard.0, STOP_WAIT.as_secs())]
    Stop {
        /// Which.
        shard: ShardId,
    },
}

/// Runs a node until SIGINT, SIGTERM or SIGHUP, or until `stop` says so. Returns when every
/// shard has ended. Nothing is left running on any path out.
pub fn supervise(
    plan: NodePlan,
    run: RunShard,
    stop: Receiver<()>,
    notice: &mut Notify<'_>,
) -> Result<(), SupervisorError> {
    let mut node = Node::new(plan, run)?;
    let (signals, listening) = signals::listen()?;
    let outcome = loop {
        if let Err(error) = node.reap(notice).and_then(|()| node.start_due(notice)) {
            break Err(error);
        }
        node.watch(notice);
        select! {
            recv(signals) -> signal => if let Some(by) = signal.ok().and_then(signals::stop_name) {
                notice(&node.shared, Notice::Stopping { by });
                break Ok(());
            },
            recv(stop) -> _ => break Ok(()),
            default(node.pause()) => {}
        }
    };
    let stopped = node.stop(&signals);
    listening.close();
    outcome.and(stopped)
}

struct Node {
    plan: NodePlan,
    run: RunShard,
    shared: Arc<Shared>,
    eventfds: Vec<OwnedFd>,
    rosters: Vec<Roster>,
    posts: Vec<Post>,
    ready: bool,
}

/// The supervisor's side of one shard.
struct Post {
    life: Life,
    /// When it ended, each time within the window.
    ends: Vec<Instant>,
    started_at: Instant,
    /// When it ended, until it is up again.
    ended_at: Option<Instant>,
    reported_turn: Nanos,
    /// Whether it was found silent, and killed.
    killed: bool,
}

impl Node {
    fn new(plan: NodePlan, run: RunShard) -> Result<Node, SupervisorError> {
        let shard_count = u16::try_from(plan.seats.len()).map_err(io::Error::other)?;
        let shared = Shared::create(ShardPlan { shard_count, ring_bytes: plan.ring_bytes })?;
        let bell = || Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let roster = |seat: &SeatPlan| Roster::create(&format!("heronry-roster-{}", seat.shard.0));
        let posts = plan.seats.iter().map(|_| Post {
            life: Life::Due { at: Instant::now() },
            ends: Vec::new(),
            started_at: Instant::now(),
            ended_at: None,
            reported_turn: Nanos(0),
            killed: false,
        });
        Ok(Node {
            posts: posts.collect(),
            shared: Arc::new(shared),
            eventfds: plan.seats.iter().map(|_| bell()).collect::<io::Result<_>>()?,
            rosters: plan.seats.iter().map(roster).collect::<Result<_, _>>()?,
            plan,
            run,
            ready: false,
        })
    }

    /// Starts every shard whose time has come. One that cannot be started now counts as ended.
    fn start_due(&mut self, notice: &mut Notify<'_>) -> Result<(), SupervisorError> {
        for idx in 0..self.posts.len() {
            if !matches!(self.posts[idx].life, Life::Due { at } if at <= Instant::now()) {
                continue;
            }
            self.shared.set_state(self.plan.seats[idx].shard, ShardState::Starting);
            self.posts[idx].started_at = Instant::now();
            self.posts[idx].killed = false;
            match self.seat(idx).and_then(|seat| self.start(seat)) {
                Ok(life) => self.posts[idx].life = life,
                Err(error) if self.ready => {
                    self.note_end(idx, format!("it cannot be started: {error}"), notice)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn seat(&self, idx: usize) -> io::Result<Seat> {
        let plan = self.plan.seats[idx].clone();
        let shard = plan.shard;
        let eventfds: io::Result<Vec<OwnedFd>> =
            self.eventfds.iter().map(OwnedFd::try_clone).collect();
        Ok(Seat {
            doorbells: Doorbells { me: shard, eventfds: eventfds? },
            plan,
            shared: Arc::clone(&self.shared),
            roster: self.rosters[idx].fd().try_clone_to_owned()?,
            unix_listener: self.plan.unix_listener.as_ref().map(OwnedFd::try_clone).transpose()?,
            link: self.plan.links.as_ref().map(|links| links(shard)).transpose()?,
        })
    }

    fn start(&self, seat: Seat) -> io::Result<Life> {
        let name = format!("shard-{}", seat.plan.shard.0);
        match self.plan.isolation {
            Isolation::Thread => {
                let run = self.run;
                let handle = std::thread::Builder::new().name(name).spawn(move || run(seat))?;
                Ok(Life::Thread { handle })
            }
            Isolation::Process => {
                let mappings = seat
                    .descriptors()?
                    .into_iter()
                    .enumerate()
                    .map(|(idx, fd)| FdMapping { parent_fd: fd, child_fd: Seat::child_fd(idx) });
                let mut command = Command::new("/proc/self/exe");
                // Its own group: Ctrl-C reaches the supervisor, which stops its shards in order.
                command.arg0(format!("heronry-{name}")).arg("shard").env(SEAT_VARIABLE, "1");
                command.stdin(Stdio::null()).process_group(0);
                command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
                Ok(Life::Process { child: command.spawn()? })
            }
        }
    }

    /// Notes which shards have ended.
    fn reap(&mut self, notice: &mut Notify<'_>) -> Result<(), SupervisorError> {
        for idx in 0..self.posts.len() {
            if let Some(how) = self.posts[idx].life.ended()? {
                self.note_end(idx, how, notice)?;
            }
        }
        Ok(())
    }

    /// A shard has ended: when it starts again, if it does (U1).
    fn note_end(
        &mut self,
        idx: usize,
        how: String,
        notice: &mut Notify<'_>,
    ) -> Result<(), SupervisorError> {
        let shard = self.plan.seats[idx].shard;
        let post = &mut self.posts[idx];
        post.life = Life::Over;
        self.shared.set_state(shard, ShardState::Down);
        if !self.ready {
            return Err(SupervisorError::Start { shard, how });
        }
        ring_all(&self.eventfds);
        let window = self.plan.restart_window;
        post.ends.retain(|end| end.elapsed() < window);
        post.ends.push(Instant::now());
        let count = post.ends.len();
        if count > self.plan.restart_max as usize {
            notice(&self.shared, Notice::GivenUp { shard, count, window, how });
            if self.posts.iter().all(|post| matches!(post.life, Life::Over)) {
                return Err(SupervisorError::AllDown);
            }
            return Ok(());
        }
        let pause = if count <= 2 { Duration::ZERO } else { PAUSE };
        self.shared.block(shard).count_restart();
        post.life = Life::Due { at: Instant::now() + pause };
        post.ended_at = Some(Instant::now());
        notice(&self.shared, Notice::Ended { shard, how, pause });
        Ok(())
    }

    /// How long to wait before the next look. One that starts is looked at so often that being up
    /// is noticed within a part of the time it took.
    fn pause(&self) -> Duration {
        let seats = self.plan.seats.iter().zip(&self.posts);
        let starts =
            |seat: &SeatPlan| self.shared.block(seat.shard).state() == ShardState::Starting;
        let begun = seats.filter(|(seat, _)| starts(seat)).map(|(_, post)| post.started_at).max();
        let pause = begun.map(|begun| begun.elapsed() / START_LOOKS);
        pause.map_or(WATCH_EVERY, |pause| pause.clamp(START_LOOK_EVERY_MIN, WATCH_EVERY))
    }

    /// Looks at states, heartbeats and running turns.
    fn watch(&mut self, notice: &mut Notify<'_>) {
        let now = Nanos(heronry_numa::Clock::new(self.plan.seats[0].calibration).now_ns());
        for (idx, post) in self.posts.iter_mut().enumerate() {
            let shard = self.plan.seats[idx].shard;
            let block = self.shared.block(shard);
            let hang = self.plan.hang;
            if block.state() == ShardState::Starting {
                // It beats while it reads its log, after what an earlier life has left in the
                // block.
                let beat = Duration::from_nanos(now.since(block.heartbeat()).0);
                let silent = post.started_at.elapsed().min(beat);
                kill_if_silent(post, shard, silent, hang, &mut |hung| {
                    notice(&self.shared, hung);
                });
            }
            if block.state() != ShardState::Up {
                continue;
            }
            if let Some(ended_at) = post.ended_at.take() {
                notice(&self.shared, Notice::Back { shard, after: ended_at.elapsed() });
            }
            if let Some((started, key)) = block.running() {
                let running = Duration::from_nanos(now.since(started).0);
                if running > self.plan.stall && post.reported_turn != started {
                    post.reported_turn = started;
                    notice(&self.shared, Notice::Stalled { shard, key, running });
                }
            }
            let silent = Duration::from_nanos(now.since(block.heartbeat()).0);
            kill_if_silent(post, shard, silent, hang, &mut |hung| notice(&self.shared, hung));
        }
        let up = |seat: &SeatPlan| self.shared.block(seat.shard).state() == ShardState::Up;
        if !self.ready && self.plan.seats.iter().all(up) {
            self.ready = true;
            notice(&self.shared, Notice::Ready);
        }
    }

    /// Asks all shards to stop and waits for them (U3).
    fn stop(&mut self, signals: &Receiver<i32>) -> Result<(), SupervisorError> {
        for seat in &self.plan.seats {
            self.shared.block(seat.shard).request_stop(true);
        }
        let deadline = Instant::now() + STOP_WAIT;
        let mut outcome = Ok(());
        loop {
            ring_all(&self.eventfds);
            let mut alive = None;
            for (idx, post) in self.posts.iter_mut().enumerate() {
                if matches!(post.life, Life::Due { .. }) || post.life.ended()?.is_some() {
                    post.life = Life::Over;
                } else if !matches!(post.life, Life::Over) {
                    alive = Some(self.plan.seats[idx].shard);
                }
            }
            let Some(shard) = alive else { return outcome };
            if Instant::now() >= deadline {
                outcome = Err(SupervisorError::Stop { shard });
                self.kill_all();
            }
            // A child's end is a signal, so this wakes at once when one ends.
            let _ = signals.recv_timeout(Duration::from_millis(20));
        }
    }

    fn kill_all(&mut self) {
        for post in &mut self.posts {
            match &mut post.life {
                Life::Process { child, .. } => {
                    // Fails only when it has ended already.
                    let _ = child.kill();
                }
                // A thread cannot be killed; the process is about to end and takes it along.
                Life::Thread { .. } => post.life = Life::Over,
                Life::Due { .. } | Life::Over => {}
            }
        }
    }
}

impl Drop for Node {
    /// An early way out leaves no process behind either.
    fn drop(&mut self) {
        for post in &mut self.posts {
            if let Life::Process { child, .. } = &mut post.life {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Kills a process shard that shows no sign of life; `reap` then sees it end.
fn kill_if_silent(
    post: &mut Post,
    shard: ShardId,
    silent: Duration,
    hang: Duration,
    notice: &mut dyn FnMut(Notice),
) {
    if silent > hang
        && !post.killed
        && let Life::Process { child } = &mut post.life
    {
        post.killed = true;
        notice(Notice::Hung { shard, silent });
        // Fails only when it has just ended by itself.
        let _ = child.kill();
    }
}

fn ring_all(eventfds: &[OwnedFd]) {
    for bell in eventfds {
        // Full means it is rung already.
        let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
    }
}
