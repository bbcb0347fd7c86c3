//! The reactor on glommio: the same trait on one glommio executor per shard, for comparison.
//!
//! Owns: one task per operation, the queue their results meet in.  Not: the shard, which is the
//! executor's main future and awaits nothing but `park`.
//! L1  a task that read or accepted waits for the next `poll` before it goes on, so the queue
//!     stays short and no task keeps the executor from its I/O.
//! L2  `park` always lets the executor see to its I/O once: an executor whose tasks only yield
//!     does not before its preemption timer, 100 ms later.
//! L3  no task queue of our own and no latency class: with those, 0.9.0 loses wake-ups.
//! L4  a panic in a task ends its operation with `EIO`, never the executor.

mod tasks;

use crate::driver::{Completion, Done, Doorbells, Driver, Handle, Op, Token};
use crate::handles::Handles;
use crate::timers::Timers;
use crate::uring::{self, DriverError, descriptor};
use ::glommio::io::BufferedFile;
use ::glommio::net::{TcpListener, TcpStream};
use ::glommio::timer::Timer;
use ::glommio::{LocalExecutorBuilder, Placement, Task};
use futures_lite::FutureExt;
use heronry_engine::{Nanos, ShardId};
use heronry_numa::Clock;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;
use tasks::{
    Finished, Meeting, Outcome, SharedStream, accept, read, receive, send, watch_bell,
    write_durable,
};

/// Locked memory that glommio demands per executor.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// Memory of an executor for its registered buffers.
const IO_MEMORY_BYTES: usize = 1 << 20;
/// Longest single wait; a park without an end waits again.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Wait of a park that is not to wait (L2): the shortest that makes the main future sleep.
const PASS_WAIT: Duration = Duration::from_micros(1);
const ONE: [u8; 8] = 1u64.to_ne_bytes();

/// Runs a shard's future on a glommio executor on this thread, pinned to `cpu` if given, and
/// returns what it returns. `make` is called on the executor: it makes the driver and the shard.
/// Errors: io_uring not available, or too little lockable memory; then nothing was started.
pub fn run_on_glommio<F: Future>(
    cpu: Option<usize>,
    make: impl FnOnce() -> F,
) -> Result<F::Output, DriverError> {
    // glommio panics where io_uring is missing, so ask first.
    uring::check()?;
    let limit_bytes = uring::memlock_limit_bytes();
    if limit_bytes < MEMLOCK_BYTES_MIN {
        return Err(DriverError::Memlock { limit_bytes, needed_bytes: MEMLOCK_BYTES_MIN });
    }
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement).io_memory(IO_MEMORY_BYTES).make().map_err(
        |error| DriverError::Setup {
            step: "the glommio executor",
            source: io::Error::other(error.to_string()),
        },
    )?;
    Ok(executor.run(async move { make().await }))
}

/// What stands behind a handle. What a descriptor is shows at its first operation.
enum Kind {
    Adopted(Option<OwnedFd>),
    Listener(Rc<TcpListener>),
    Stream(SharedStream),
    File(Rc<BufferedFile>),
}

struct Open {
    kind: Kind,
    /// Operations in flight on it.
    tokens: Vec<Token>,
}

/// The glommio driver of one shard. See [`Driver`].
pub struct Glommio {
    meeting: Rc<Meeting>,
    handles: Handles<Open>,
    tasks: BTreeMap<Token, (Task<()>, Handle)>,
    timers: Timers,
    bells: Vec<File>,
    clock: Clock,
    /// Watches our doorbell for as long as the driver lives.
    _bell: Task<()>,
}

impl Glommio {
    /// A driver on the executor that runs on this thread (see [`run_on_glommio`]).
    pub fn new(doorbells: Doorbells, clock: Clock) -> Result<Glommio, DriverError> {
        let Doorbells { me, eventfds } = doorbells;
        let missing = DriverError::Doorbell { shard: me.0, count: eventfds.len() };
        let mine = eventfds.get(usize::from(me.0)).ok_or(missing)?;
        let mine = mine
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| DriverError::Setup { step: "dup of the doorbell", source })?;
        descriptor::clear_status_flags(&mine, libc::O_NONBLOCK);
        let meeting = Rc::new(Meeting::new());
        let bell = ::glommio::spawn_local(watch_bell(meeting.clone(), mine));
        Ok(Glommio {
            meeting,
            handles: Handles::new(),
            tasks: BTreeMap::new(),
            timers: Timers::default(),
            bells: eventfds.into_iter().map(File::from).collect(),
            clock,
            _bell: bell,
        })
    }

    /// Starts a task for an operation on a handle.
    fn start<F>(&mut self, token: Token, handle: Handle, work: impl FnOnce(Rc<Meeting>) -> F)
    where
        F: Future<Output = Outcome> + 'static,
    {
        let meeting = self.meeting.clone();
        let work = AssertUnwindSafe(work(meeting.clone())).catch_unwind();
        let task = ::glommio::spawn_local(async move {
            let outcome = work.await.unwrap_or(Outcome::Failed(libc::EIO));
            meeting.finish(token, Some(handle), outcome);
        });
        if let Some(open) = self.handles.get_mut(handle) {
            open.tokens.push(token);
        }
        self.tasks.insert(token, (task, handle));
    }

    fn fail(&self, token: Token, errno: i32) {
        self.meeting.finish(token, None, Outcome::Failed(errno));
    }

    /// What is behind a handle, made into what the operation needs at its first one.
    fn kind(&mut self, handle: Handle, make: fn(OwnedFd) -> Kind) -> Option<&Kind> {
        let open = self.handles.get_mut(handle)?;
        if let Kind::Adopted(fd) = &mut open.kind
            && let Some(fd) = fd.take()
        {
            open.kind = make(fd);
        }
        Some(&open.kind)
    }

    fn accept(&mut self, token: Token, handle: Handle) {
        match self.kind(handle, |fd| Kind::Listener(Rc::new(descriptor::hand_over(fd)))) {
            Some(Kind::Listener(listener)) => {
                let listener = listener.clone();
                self.start(token, handle, |meeting| accept(meeting, listener, token, handle));
            }
            _ => self.fail(token, libc::EBADF),
        }
    }

    fn stream(&mut self, handle: Handle) -> Option<SharedStream> {
        let make = |fd| Kind::Stream(Rc::new(RefCell::new(descriptor::hand_over::<TcpStream>(fd))));
        match self.kind(handle, make)? {
            Kind::Stream(stream) => Some(stream.clone()),
            _ => None,
        }
    }

    fn file(&mut self, handle: Handle) -> Option<Rc<BufferedFile>> {
        match self.kind(handle, |fd| Kind::File(Rc::new(descriptor::hand_over(fd))))? {
            Kind::File(file) => Some(file.clone()),
            _ => None,
        }
    }

    /// Ends an operation with `Cancelled`, unless its last completion waits already.
    fn cancel(&mut self, token: Token) {
        if self.timers.cancel(token) {
            self.meeting.finish(token, None, Outcome::Cancelled);
            return;
        }
        let ended = self
            .meeting
            .finished
            .borrow()
            .iter()
            .any(|finished| finished.token == token && finished.outcome.is_last());
        if ended {
            return;
        }
        if let Some((task, handle)) = self.tasks.remove(&token) {
            // Dropping a task cancels it; it runs no further.
            drop(task);
            self.meeting.finish(token, Some(handle), Outcome::Cancelled);
        }
    }

    fn close(&mut self, handle: Handle) {
        let Some(open) = self.handles.remove(handle) else {
            return;
        };
        for token in open.tokens {
            self.cancel(token);
        }
        // Data of a closed handle is not handed on; endings are.
        let mut finished = self.meeting.finished.borrow_mut();
        finished.retain(|done| done.handle != Some(handle) || done.outcome.is_last());
    }

    /// Forgets an operation that has ended.
    fn forget(&mut self, token: Token, handle: Option<Handle>) {
        if let Some((_, on)) = self.tasks.get(&token)
            && Some(*on) == handle
        {
            self.tasks.remove(&token);
        }
        if let Some(open) = handle.and_then(|handle| self.handles.get_mut(handle))
            && let Some(at) = open.tokens.iter().position(|other| *other == token)
        {
            open.tokens.swap_remove(at);
        }
    }
}

impl Driver for Glommio {
    fn name(&self) -> &'static str {
        "glommio"
    }

    fn adopt(&mut self, fd: OwnedFd) -> Handle {
        // glommio's buffered file does not align; the sync after each write keeps it durable.
        descriptor::clear_status_flags(&fd, libc::O_NONBLOCK | libc::O_DIRECT);
        self.handles.insert(Open { kind: Kind::Adopted(Some(fd)), tokens: Vec::new() })
    }

    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Accept(listener) => self.accept(token, listener),
            Op::Receive(socket) => match self.stream(socket) {
                Some(stream) => {
                    self.start(token, socket, |meeting| receive(meeting, stream, token, socket))
                }
                None => self.fail(token, libc::EBADF),
            },
            Op::Send(socket, bytes) => match self.stream(socket) {
                Some(stream) => self.start(token, socket, |_| send(stream, bytes)),
                None => self.fail(token, libc::EBADF),
            },
            Op::Read { file, offset, len_bytes } => match self.file(file) {
                Some(open) => self.start(token, file, |_| read(open, offset, len_bytes as usize)),
                None => self.fail(token, libc::EBADF),
            },
            Op::WriteDurable { file, offset, bytes } => match self.file(file) {
                Some(open) => self.start(token, file, |_| write_durable(open, offset, bytes)),
                None => self.fail(token, libc::EBADF),
            },
            Op::Timer(at) => self.timers.insert(at, token),
            Op::Cancel(token) => self.cancel(token),
            Op::Shutdown(socket) => {
                if let Some(stream) = self.stream(socket) {
                    tasks::shutdown(&stream);
                }
            }
            Op::Close(handle) => self.close(handle),
        }
    }

    fn poll(&mut self, each: &mut dyn FnMut(Completion<'_>)) -> usize {
        let mut finished = self.meeting.finished.take();
        let mut count = finished.len();
        for Finished { token, handle, outcome } in finished.drain(..) {
            let last = outcome.is_last();
            if last {
                self.forget(token, handle);
            }
            let done = match outcome {
                Outcome::Accepted(stream) => {
                    let kind = Kind::Stream(Rc::new(RefCell::new(stream)));
                    Done::Accepted(self.handles.insert(Open { kind, tokens: Vec::new() }))
                }
                Outcome::Received(bytes) => {
                    each(Completion { token, last, done: Done::Received(&bytes) });
                    self.meeting.recycle(bytes);
                    continue;
                }
                Outcome::EndOfStream => Done::EndOfStream,
                Outcome::Sent(bytes) => Done::Sent(bytes),
                Outcome::Read(bytes) => Done::Read(bytes),
                Outcome::Written(bytes) => Done::Written(bytes),
                Outcome::Cancelled => Done::Cancelled,
                Outcome::Failed(errno) => Done::Failed { errno },
            };
            each(Completion { token, last, done });
        }
        self.meeting.finished.replace(finished);
        self.meeting.has_polled();
        if !self.timers.is_empty() {
            let now = self.now();
            while let Some(token) = self.timers.expired(now) {
                each(Completion { token, last: true, done: Done::Expired });
                count += 1;
            }
        }
        count
    }

    async fn park(&mut self, until: Nanos) {
        let until = self.timers.next_at().map_or(until, |timer| timer.min(until));
        let span = until.since(self.now());
        if span.0 == 0 || self.meeting.has_news() {
            Timer::new(PASS_WAIT).await;
        } else {
            let wait = Duration::from_nanos(span.0).min(WAIT_MAX);
            let time_is_up = async {
                Timer::new(wait).await;
            };
            self.meeting.news().or(time_is_up).await;
        }
        self.meeting.rung.set(false);
    }

    fn doorbell(&mut self, shard: ShardId) {
        // Adds 1 to the peer's counter. It could only fail at 2^64 - 1.
        let rung = self.bells.get(usize::from(shard.0)).map(|mut bell| bell.write(&ONE));
        debug_assert!(matches!(rung, Some(Ok(8))), "no doorbell for {shard:?}: {rung:?}");
    }

    fn now(&self) -> Nanos {
        Nanos(self.clock.now_ns())
    }
}
