//! The simulated reactor: shards of one node in virtual time, on one thread, chosen by a seed.
//!
//! Owns: virtual time, who runs next, doorbells, timers, the table of virtual handles.
//! Not: the shards' code, which is the real one; their mesh, which is real memory.
//! S1  a run is a pure function of its configuration and of what its test does: no clock, no
//!     other randomness, no order of a hash map.
//! S2  whatever a real driver may do to the loop happens here too: late doorbells, spurious
//!     returns of `park`, chunks of any length, delays, and (if asked) resets and disk errors.
//! S3  the loop suspends in `park` only, always once, so that shards interleave at every pass.

mod config;
mod disk;
mod driver;
mod files;
mod socket;

pub use config::WorldConfig;
pub use driver::SimDriver;
pub use files::SimFiles;
pub use socket::SimClient;

use crate::driver::{Handle, Op, Token};
use crate::handles::Handles;
use crate::timers::Timers;
use disk::Disk;
use fastrand::Rng;
use heronry_engine::{Nanos, ShardId};
use socket::{Conn, ConnIdx};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

/// A shard's running loop; `None` once it ended or was killed. Indexed by `ShardId`.
pub type ShardFuture<'a> = Option<Pin<Box<dyn Future<Output = ()> + 'a>>>;

/// What a step of the world did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// This shard ran one pass of its loop.
    Ran(ShardId),
    /// This shard's loop ended.
    Ended(ShardId),
    /// Nobody could run; time went on to the next event.
    Advanced(Nanos),
    /// Nobody can ever run again unless the test does something.
    Still,
}

/// What is bound to happen at a time.
#[derive(Debug)]
enum Event {
    Arrive(ConnIdx),
    ToShard(ConnIdx, Vec<u8>),
    ToClient(ConnIdx, Vec<u8>),
    FinToShard(ConnIdx),
    FinToClient(ConnIdx),
    Reset(ConnIdx),
    SendEnds(ConnIdx),
    Bell(ShardId),
    Disk(u64),
    Alarm,
}

/// What stands behind a handle of a shard.
#[derive(Debug)]
enum Open {
    Listener { accept: Option<Token>, waiting: VecDeque<ConnIdx> },
    Socket(ConnIdx),
    File(String),
}

/// Where an operation in flight is to be found.
#[derive(Clone, Copy, Debug)]
enum Place {
    Accept(Handle),
    Receive(ConnIdx),
    Send(ConnIdx),
    Disk,
}

/// `Done`, owned.
#[derive(Debug)]
enum Outcome {
    Accepted(Handle),
    Received(Vec<u8>),
    EndOfStream,
    Sent(Vec<u8>),
    Read(Vec<u8>),
    Written(Vec<u8>),
    Expired,
    Cancelled,
    Failed(i32),
}

#[derive(Debug)]
struct Finished {
    token: Token,
    /// The handle whose close takes back what is not `last`.
    handle: Option<Handle>,
    outcome: Outcome,
}

impl Outcome {
    fn is_last(&self) -> bool {
        !matches!(self, Outcome::Accepted(_) | Outcome::Received(_))
    }
}

/// One shard, as the world sees it.
#[derive(Debug)]
struct Seat {
    /// Counts the lives of the shard; a driver of an earlier life does nothing any more.
    life: u32,
    handles: Handles<Open>,
    /// Handles in order of opening.
    open: Vec<Handle>,
    places: BTreeMap<Token, Place>,
    finished: VecDeque<Finished>,
    timers: Timers,
    rung: bool,
    /// `until` of the park it is in.
    parked: Option<Nanos>,
    woken: bool,
    started: bool,
}

impl Seat {
    fn new(life: u32) -> Seat {
        Seat {
            life,
            handles: Handles::new(),
            open: Vec::new(),
            places: BTreeMap::new(),
            finished: VecDeque::new(),
            timers: Timers::default(),
            rung: false,
            parked: None,
            woken: false,
            started: false,
        }
    }

    /// When the shard can run next, if it can by itself.
    fn wakes_at(&self) -> Option<Nanos> {
        if !self.started || !self.finished.is_empty() || self.rung {
            return Some(Nanos(0));
        }
        let until = self.parked.filter(|until| *until != Nanos(u64::MAX));
        match (until, self.timers.next_at()) {
            (Some(until), Some(timer)) => Some(until.min(timer)),
            (until, timer) => until.or(timer),
        }
    }

    fn finish(&mut self, token: Token, handle: Option<Handle>, outcome: Outcome) {
        if outcome.is_last() {
            self.places.remove(&token);
        }
        self.finished.push_back(Finished { token, handle, outcome });
    }

    fn insert(&mut self, open: Open) -> Handle {
        let handle = self.handles.insert(open);
        self.open.push(handle);
        handle
    }
}

#[derive(Debug)]
struct Inner {
    config: WorldConfig,
    rng: Rng,
    now: Nanos,
    event_count: u64,
    events: BTreeMap<(Nanos, u64), Event>,
    seats: Vec<Seat>,
    conns: Vec<Conn>,
    disk: Disk,
}

/// A world of shards. Cloning it makes another name for the same world.
#[derive(Clone, Debug)]
pub struct World {
    inner: Rc<RefCell<Inner>>,
}

impl World {
    /// A calm world of `shard_count` shards.
    pub fn new(seed: u64, shard_count: u16) -> World {
        World::with(WorldConfig::calm(seed), shard_count)
    }

    /// A world as configured.
    pub fn with(config: WorldConfig, shard_count: u16) -> World {
        let inner = Inner {
            rng: Rng::with_seed(config.seed),
            config,
            now: Nanos(1),
            event_count: 0,
            events: BTreeMap::new(),
            seats: (0..shard_count).map(|_| Seat::new(0)).collect(),
            conns: Vec::new(),
            disk: Disk::default(),
        };
        World { inner: Rc::new(RefCell::new(inner)) }
    }

    /// The driver of a shard: its first, or after [`World::kill`] a fresh one.
    pub fn driver(&self, shard: ShardId) -> SimDriver {
        let life = self.inner.borrow().seats[usize::from(shard.0)].life;
        SimDriver::new(self.clone(), shard, life)
    }

    /// Virtual time.
    pub fn now(&self) -> Nanos {
        self.inner.borrow().now
    }

    /// Time does not pass `at` within a step: the test has something to do then.
    pub fn alarm(&self, at: Nanos) {
        self.inner.borrow_mut().schedule(at, Event::Alarm);
    }

    /// A random number below `below`, from the world's seed: for the choices of a test.
    pub fn random(&self, below: u64) -> u64 {
        self.inner.borrow_mut().rng.u64(..below.max(1))
    }

    /// From here on no write of the disk fails.
    pub fn calm_disk(&self) {
        let config = &mut self.inner.borrow_mut().config;
        (config.disk_errors_per_million, config.torn_writes_per_million) = (0, 0);
    }

    /// A listener of a shard, for its driver to accept on.
    pub fn listen(&self, shard: ShardId) -> Handle {
        let mut inner = self.inner.borrow_mut();
        let listener = Open::Listener { accept: None, waiting: VecDeque::new() };
        inner.seats[usize::from(shard.0)].insert(listener)
    }

    /// A file of the virtual disk, made if it is not there. Files outlive their shards.
    pub fn open_file(&self, shard: ShardId, name: &str) -> Handle {
        let mut inner = self.inner.borrow_mut();
        inner.disk.create(name);
        inner.seats[usize::from(shard.0)].insert(Open::File(name.into()))
    }

    /// What of a file would survive a loss of power now.
    pub fn durable_bytes(&self, name: &str) -> Vec<u8> {
        self.inner.borrow().disk.durable(name)
    }

    /// Connects to the oldest listener of a shard. Refused connections are closed at once.
    pub fn connect(&self, shard: ShardId) -> SimClient {
        let inner = self.inner.borrow();
        let seat = &inner.seats[usize::from(shard.0)];
        let is_listener =
            |handle: &&Handle| matches!(seat.handles.get(**handle), Some(Open::Listener { .. }));
        let listener = seat.open.iter().find(is_listener).copied();
        drop(inner);
        SimClient::connect(self, shard, listener)
    }

    /// Connects to this listener of a shard.
    pub fn connect_to(&self, shard: ShardId, listener: Handle) -> SimClient {
        SimClient::connect(self, shard, Some(listener))
    }

    /// Ends a shard's life as `kill -9` would: its connections are reset, its handles gone, disk
    /// writes in flight are done or not. The caller drops its future and makes a fresh driver.
    pub fn kill(&self, shard: ShardId) {
        self.inner.borrow_mut().kill(shard);
    }

    /// Ends all lives, and forgets what was written but not durable; a write in flight leaves any
    /// of its 512-byte sectors behind.
    pub fn power_loss(&self) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        inner.disk.power_loss(&mut inner.rng);
        for shard in 0..inner.seats.len() {
            inner.kill(ShardId(shard as u16));
        }
    }

    /// Lets one shard that can run make one pass of its loop, chosen by the seed; if none can,
    /// moves time on to the next event. `shards` is indexed by `ShardId`.
    pub fn step(&self, shards: &mut [ShardFuture<'_>]) -> Step {
        let chosen = self.inner.borrow_mut().choose(shards);
        match chosen {
            Ok(shard) => self.run(shard, shards),
            Err(step) => step,
        }
    }

    /// Steps until `done` says so. False: the world stood still, or `steps_max` steps were made.
    pub fn run_until(
        &self,
        shards: &mut [ShardFuture<'_>],
        steps_max: u64,
        mut done: impl FnMut() -> bool,
    ) -> bool {
        for _ in 0..steps_max {
            if done() {
                return true;
            }
            if self.step(shards) == Step::Still {
                break;
            }
        }
        done()
    }

    fn run(&self, shard: ShardId, shards: &mut [ShardFuture<'_>]) -> Step {
        let future = &mut shards[usize::from(shard.0)];
        let running = future.as_mut().expect("S1: the chosen shard has a future");
        let mut context = Context::from_waker(Waker::noop());
        let ended = running.as_mut().poll(&mut context).is_ready();
        let inner = &mut *self.inner.borrow_mut();
        let pass = inner.random_span(inner.config.pass_max);
        inner.now = inner.now.after(pass);
        if !ended {
            return Step::Ran(shard);
        }
        *future = None;
        Step::Ended(shard)
    }
}

impl Inner {
    fn seat(&mut self, shard: ShardId) -> &mut Seat {
        &mut self.seats[usize::from(shard.0)]
    }

    /// The seat of a shard, if it still lives the life meant.
    fn seat_of_life(&mut self, shard: ShardId, life: u32) -> Option<&mut Seat> {
        Some(self.seat(shard)).filter(|seat| seat.life == life)
    }

    fn random_span(&mut self, max: Nanos) -> Nanos {
        Nanos(self.rng.u64(1..=max.0.max(1)))
    }

    fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.rng.u32(..1_000_000) < per_million
    }

    fn schedule(&mut self, at: Nanos, event: Event) {
        let key = (at.max(self.now), self.event_count);
        self.event_count += 1;
        self.events.insert(key, event);
    }

    /// The shard to run now, marked as woken; or what happened instead.
    fn choose(&mut self, shards: &[ShardFuture<'_>]) -> Result<ShardId, Step> {
        let happened = self.happen();
        let runs = |seat: usize| shards.get(seat).is_some_and(Option::is_some);
        let spurious = self.chance(self.config.spurious_per_million);
        let candidates: Vec<usize> = (0..self.seats.len())
            .filter(|seat| runs(*seat))
            .filter(|seat| {
                let wakes_at = self.seats[*seat].wakes_at();
                spurious || wakes_at.is_some_and(|at| at <= self.now)
            })
            .collect();
        if !candidates.is_empty() {
            let chosen = candidates[self.rng.usize(..candidates.len())];
            let seat = &mut self.seats[chosen];
            seat.started = true;
            seat.woken = true;
            return Ok(ShardId(chosen as u16));
        }
        if happened {
            // A client may have something to say to it before time goes on.
            return Err(Step::Advanced(self.now));
        }
        let event = self.events.first_key_value().map(|((at, _), _)| *at);
        let wake = (0..self.seats.len())
            .filter(|seat| runs(*seat))
            .filter_map(|seat| self.seats[seat].wakes_at())
            .min();
        let next = match (event, wake) {
            (Some(event), Some(wake)) => event.min(wake),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => return Err(Step::Still),
        };
        self.now = self.now.max(next);
        Err(Step::Advanced(self.now))
    }

    /// Lets all happen that is due. Returns whether anything was.
    fn happen(&mut self) -> bool {
        let mut happened = false;
        while let Some(first) = self.events.first_entry() {
            if first.key().0 > self.now {
                return happened;
            }
            happened = true;
            match first.remove() {
                Event::Bell(shard) => self.seat(shard).rung = true,
                Event::Disk(op) => self.disk_ends(op),
                Event::Alarm => {}
                event => self.socket_event(event),
            }
        }
        happened
    }

    fn kill(&mut self, shard: ShardId) {
        let life = self.seat(shard).life;
        self.reset_conns_of(shard, life);
        let Inner { disk, rng, .. } = self;
        disk.abandon(shard, rng);
        *self.seat(shard) = Seat::new(life + 1);
    }

    fn submit(&mut self, shard: ShardId, token: Token, op: Op) {
        match op {
            Op::Accept(listener) => self.accept(shard, token, listener),
            Op::Receive(socket) => self.receive(shard, token, socket),
            Op::Send(socket, bytes) => self.send(shard, token, socket, bytes),
            Op::Read { file, offset, len_bytes } => {
                self.disk_starts(shard, token, file, disk::Work::Read { offset, len_bytes });
            }
            Op::WriteDurable { file, offset, bytes } => {
                self.disk_starts(shard, token, file, disk::Work::Write { offset, bytes });
            }
            Op::Timer(at) => self.seat(shard).timers.insert(at, token),
            Op::Cancel(token) => self.cancel(shard, token),
            Op::Shutdown(socket) => self.shutdown(shard, socket),
            Op::Close(handle) => self.close(shard, handle),
        }
    }

    fn cancel(&mut self, shard: ShardId, token: Token) {
        let seat = self.seat(shard);
        if seat.timers.cancel(token) {
            seat.finish(token, None, Outcome::Cancelled);
            return;
        }
        match seat.places.get(&token).copied() {
            Some(Place::Accept(listener)) => {
                if let Some(Open::Listener { accept, .. }) = seat.handles.get_mut(listener) {
                    *accept = None;
                }
                seat.finish(token, Some(listener), Outcome::Cancelled);
            }
            Some(Place::Receive(conn)) => self.stop_receive(conn),
            Some(Place::Send(conn)) => self.stop_send(conn),
            // The disk has it: it ends by itself, as it does on most kernels.
            Some(Place::Disk) | None => {}
        }
    }

    fn close(&mut self, shard: ShardId, handle: Handle) {
        let seat = self.seat(shard);
        let Some(open) = seat.handles.remove(handle) else {
            return;
        };
        seat.open.retain(|other| *other != handle);
        // Data of a closed handle is not handed on; endings are.
        let mut accepted = Vec::new();
        seat.finished.retain(|done| {
            let keep = done.handle != Some(handle) || done.outcome.is_last();
            if let (false, Outcome::Accepted(socket)) = (keep, &done.outcome) {
                accepted.push(*socket);
            }
            keep
        });
        match open {
            Open::Listener { accept, waiting } => {
                if let Some(token) = accept {
                    seat.finish(token, Some(handle), Outcome::Cancelled);
                }
                for conn in waiting {
                    self.refuse(conn);
                }
            }
            Open::Socket(conn) => self.close_socket(conn),
            Open::File(_) => {}
        }
        for socket in accepted {
            self.close(shard, socket);
        }
    }
}
