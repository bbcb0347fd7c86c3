//! The default reactor: one io_uring per shard, driven by the shard's only thread.
//!
//! Owns: the ring, the handles' descriptors, the operations in flight, receive buffers, timers.
//! Not: what the bytes mean; when to spin (the loop parks with a past `until` to spin).
//! U1  a descriptor is closed only after the last completion on it: the kernel never sees a
//!     reused number, and nothing of a closed handle reaches its successor.
//! U2  a park with nothing to submit, nothing to run and a past `until` makes no system call.
//! U3  memory lent to the kernel is freed after the kernel's last completion for it, or never.
#![allow(unsafe_code)]

mod buffers;
mod completion;
pub(crate) mod descriptor;
mod ops;
mod probe;

pub(crate) use probe::memlock_limit_bytes;
pub use probe::{DriverError, check};

use crate::driver::{Completion, Done, Doorbells, Driver, Handle, Op, Token};
use crate::handles::Handles;
use crate::timers::Timers;
use buffers::{BUFFER_COUNT_MAX, Buffers, GROUP};
use completion::Ended;
use heronry_engine::{Nanos, ShardId};
use heronry_numa::Clock;
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use ops::{NONE, Ops, Pending, Window, Work};
use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};

/// `user_data` of what needs no answer: cancellations.
const IGNORED: u64 = u64::MAX;
/// `user_data` of the watch on our doorbell.
const BELL: u64 = u64::MAX - 1;
/// Bytes one send, read or write asks of the kernel at most; longer ones go on from there.
const CHUNK_BYTES_MAX: usize = 1 << 30;
/// Longest single wait: the kernel adds it to the time, which must not overflow.
const WAIT_NS_MAX: u64 = 3_600_000_000_000;
/// Longest wait of a dropped ring for its operations: rounds of `RETIRE_WAIT_NS`.
const RETIRE_ROUNDS: u32 = 40;
const RETIRE_WAIT_NS: u32 = 50_000_000;

/// What a ring is made of.
#[derive(Debug)]
pub struct UringConfig {
    /// Our own doorbell and our peers'.
    pub doorbells: Doorbells,
    /// CPU of this shard, to which the kernel's workers are bound too; `None` when unpinned.
    pub cpu: Option<usize>,
    /// Whether the loop spins before it parks: chooses how the kernel runs its deferred work.
    pub spin: bool,
    /// Submission entries, a power of two. 64 bytes each, and 128 bytes for completions.
    pub entries: u32,
    /// Receive buffers, a power of two up to 32,768. Shared by all connections of the shard.
    pub buffer_count: u16,
    /// Bytes of each; the longest `Received`.
    pub buffer_bytes: u32,
}

impl UringConfig {
    /// What suits most shards: 1,024 entries and 256 buffers of 16 KiB; unpinned, no spinning.
    pub fn new(doorbells: Doorbells) -> UringConfig {
        UringConfig {
            doorbells,
            cpu: None,
            spin: false,
            entries: 1024,
            buffer_count: 256,
            buffer_bytes: 16 << 10,
        }
    }
}

/// What stands behind a handle.
#[derive(Debug)]
struct Open {
    fd: OwnedFd,
    /// First of the operations in flight on it.
    first_op: u32,
    /// Opened with `O_DIRECT`.
    direct: bool,
    /// `Close` was asked; it happens with the last completion (U1).
    closing: bool,
}

/// The io_uring driver of one shard. See [`Driver`].
pub struct Uring {
    // Declared before the buffers: dropped before them (U3).
    ring: IoUring,
    buffers: ManuallyDrop<Buffers>,
    handles: Handles<Open>,
    ops: Ops,
    timers: Timers,
    /// Completions that did not come from the kernel.
    ready: VecDeque<(Token, Ended)>,
    /// Receives that found no free buffer (`user_data`), to be armed again, oldest first.
    starved: VecDeque<u64>,
    /// Entries that found the submission queue full.
    backlog: VecDeque<squeue::Entry>,
    /// Reused between polls.
    cqes: Vec<cqueue::Entry>,
    bells: Vec<File>,
    me: ShardId,
    clock: Clock,
    /// SINGLE_ISSUER: the ring belongs to the thread that made it.
    _not_send: PhantomData<*const ()>,
}

/// Runs a shard's future on this thread. For `uring`, whose `park` blocks inside: no executor.
pub fn block_on<F: Future>(shard: F) -> F::Output {
    futures_lite::future::block_on(shard)
}

impl Uring {
    /// Sets the ring up on the calling thread, which must be the one that uses it.
    /// Errors say what is missing and how to get it; nothing is left behind then.
    pub fn new(config: UringConfig, clock: Clock) -> Result<Uring, DriverError> {
        let Doorbells { me, eventfds } = config.doorbells;
        if usize::from(me.0) >= eventfds.len() {
            return Err(DriverError::Doorbell { shard: me.0, count: eventfds.len() });
        }
        let plan = probe::RingPlan { entries: config.entries, spin: config.spin, cpu: config.cpu };
        let ring = probe::ring(&plan)?;
        let buffer_count = config.buffer_count.clamp(1, BUFFER_COUNT_MAX);
        let buffer_count = 1 << buffer_count.ilog2();
        let buffers = Buffers::register(&ring, buffer_count, config.buffer_bytes.max(64))
            .map_err(|source| DriverError::Setup { step: "IORING_REGISTER_PBUF_RING", source })?;
        let mut uring = Uring {
            ring,
            buffers: ManuallyDrop::new(buffers),
            handles: Handles::new(),
            ops: Ops::new(),
            timers: Timers::default(),
            ready: VecDeque::new(),
            starved: VecDeque::new(),
            backlog: VecDeque::new(),
            cqes: Vec::new(),
            bells: eventfds.into_iter().map(File::from).collect(),
            me,
            clock,
            _not_send: PhantomData,
        };
        uring.watch_bell();
        Ok(uring)
    }

    /// Watches our eventfd without ever reading it: a multishot poll is edge-triggered, so each
    /// ring of the bell is one completion, and the counter may grow.
    fn watch_bell(&mut self) {
        let bell = Fd(self.bells[usize::from(self.me.0)].as_raw_fd());
        let poll = opcode::PollAdd::new(bell, libc::POLLIN as u32).multi(true);
        self.push(poll.build().user_data(BELL));
    }

    /// Queues an entry. Its pointers, if any, are into an operation in `ops` (O1).
    fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || !self.try_push(&entry) {
            self.backlog.push_back(entry);
            self.enter_now();
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        let mut queue = self.ring.submission();
        // SAFETY: descriptor and buffer of the entry stay valid until the operation's last
        // completion: `ops` and `handles` keep them (O1, U1), the eventfd lives in `self`.
        unsafe { queue.push(entry) }.is_ok()
    }

    fn fill_from_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Submits and runs deferred work without waiting; no system call without need (U2).
    fn enter_now(&mut self) {
        loop {
            self.fill_from_backlog();
            let queue = self.ring.submission();
            if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                return;
            }
            drop(queue);
            if !entered(self.ring.submit()) || self.backlog.is_empty() {
                return;
            }
        }
    }

    /// Submits and waits for a completion, for `span` at most.
    fn enter_wait(&mut self, span: Nanos) {
        let wait_ns = span.0.min(WAIT_NS_MAX);
        let time =
            Timespec::new().sec(wait_ns / 1_000_000_000).nsec((wait_ns % 1_000_000_000) as u32);
        let args = SubmitArgs::new().timespec(&time);
        entered(self.ring.submitter().submit_with_args(1, &args));
    }

    fn enter(&mut self, until: Nanos) {
        let until = self.timers.next_at().map_or(until, |timer| timer.min(until));
        let quiet =
            self.ready.is_empty() && self.starved.is_empty() && self.ring.completion().is_empty();
        let span = if quiet && until.0 > 0 { until.since(self.now()) } else { Nanos(0) };
        self.fill_from_backlog();
        if span.0 == 0 || !self.backlog.is_empty() {
            self.enter_now();
        } else {
            self.enter_wait(span);
        }
    }

    /// Starts an operation on a handle.
    fn start(&mut self, token: Token, handle: Handle, work: Work) {
        let Some(open) = self.handles.get_mut(handle).filter(|open| !open.closing) else {
            self.ready.push_back((token, Ended::Failed(libc::EBADF)));
            return;
        };
        let idx = self.ops.insert(token, handle, work, &mut open.first_op);
        self.arm(idx);
    }

    /// Queues the kernel's entry for an operation, from where it stands.
    fn arm(&mut self, idx: u32) {
        let user_data = self.ops.user_data(idx);
        let op = self.ops.at(idx);
        let open = self.handles.get(op.handle).expect("U1: open while operations are in flight");
        let fd = Fd(open.fd.as_raw_fd());
        let entry = match &mut op.work {
            Work::Accept => opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build(),
            Work::Receive => opcode::RecvMulti::new(fd, GROUP).build(),
            Work::Send { bytes, done_bytes } => {
                let rest = chunk(&bytes[*done_bytes..]);
                opcode::Send::new(fd, rest.as_ptr(), rest.len() as u32)
                    .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                    .build()
            }
            Work::Read { window, len_bytes, offset, done_bytes } => {
                let rest = &mut window.as_mut_slice()[*done_bytes..*len_bytes];
                let rest_bytes = rest.len().min(CHUNK_BYTES_MAX) as u32;
                opcode::Read::new(fd, rest.as_mut_ptr(), rest_bytes)
                    .offset(*offset + *done_bytes as u64)
                    .build()
            }
            Work::Write { bytes, window, offset, done_bytes } => {
                let source = window.as_ref().map_or(&bytes[..], Window::as_slice);
                let rest = chunk(&source[*done_bytes..bytes.len()]);
                opcode::Write::new(fd, rest.as_ptr(), rest.len() as u32)
                    .offset(*offset + *done_bytes as u64)
                    .rw_flags(libc::RWF_DSYNC)
                    .build()
            }
        };
        self.push(entry.user_data(user_data));
    }

    /// Asks the kernel to end an operation; one that it does not have ends here.
    fn stop(&mut self, idx: u32) {
        let op = self.ops.at(idx);
        if op.starved {
            let token = self.finish(idx).token;
            self.ready.push_back((token, Ended::Cancelled));
            return;
        }
        if op.stopping {
            return;
        }
        op.stopping = true;
        let target = self.ops.user_data(idx);
        let cancel = opcode::AsyncCancel::new(target).build();
        self.push(cancel.flags(squeue::Flags::SKIP_SUCCESS).user_data(IGNORED));
    }

    fn cancel(&mut self, token: Token) {
        if self.timers.cancel(token) {
            self.ready.push_back((token, Ended::Cancelled));
        } else if let Some(idx) = self.ops.find_token(token) {
            self.stop(idx);
        }
    }

    /// Sends are over (D3), so there is nothing in the ring that this could overtake.
    fn shutdown(&mut self, socket: Handle) {
        if let Some(open) = self.handles.get(socket).filter(|open| !open.closing) {
            descriptor::shutdown_writing(&open.fd);
        }
    }

    fn close(&mut self, handle: Handle) {
        let Some(open) = self.handles.get_mut(handle).filter(|open| !open.closing) else {
            return;
        };
        if open.first_op == NONE {
            self.handles.remove(handle);
            return;
        }
        open.closing = true;
        let mut idx = open.first_op;
        while idx != NONE {
            let next = self.ops.at(idx).next;
            self.stop(idx);
            idx = next;
        }
    }

    /// Takes an ended operation out; closes its handle if that was waiting for it (U1).
    fn finish(&mut self, idx: u32) -> Pending {
        let handle = self.ops.at(idx).handle;
        let open = self.handles.get_mut(handle).expect("U1: open until its last completion");
        let pending = self.ops.remove(idx, &mut open.first_op);
        if open.closing && open.first_op == NONE {
            self.handles.remove(handle);
        }
        pending
    }

    fn is_closing(&self, handle: Handle) -> bool {
        self.handles.get(handle).is_none_or(|open| open.closing)
    }

    /// Arms as many starved receives as there are buffers: more would starve again. Until none is
    /// left, parks do not wait.
    fn feed(&mut self) {
        for _ in 0..self.starved.len().min(self.buffers.count()) {
            let user_data = self.starved.pop_front();
            if let Some(idx) = user_data.and_then(|user_data| self.ops.find(user_data)) {
                self.ops.at(idx).starved = false;
                self.arm(idx);
            }
        }
    }

    /// Ends all operations and waits for the kernel's last word on each. False: some are left.
    fn retire(&mut self) -> bool {
        for user_data in std::mem::take(&mut self.starved) {
            if let Some(idx) = self.ops.find(user_data) {
                self.finish(idx);
            }
        }
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        self.push(cancel.user_data(IGNORED));
        for _ in 0..RETIRE_ROUNDS {
            if self.ops.open_count() == 0 {
                return true;
            }
            self.fill_from_backlog();
            let time = Timespec::new().nsec(RETIRE_WAIT_NS);
            let args = SubmitArgs::new().timespec(&time);
            // An error ends the round; the rounds are counted.
            let _ = self.ring.submitter().submit_with_args(1, &args);
            let mut cqes = std::mem::take(&mut self.cqes);
            cqes.extend(self.ring.completion());
            for cqe in cqes.drain(..).filter(|cqe| !cqueue::more(cqe.flags())) {
                if let Some(idx) = self.ops.find(cqe.user_data()) {
                    self.finish(idx);
                }
            }
        }
        self.ops.open_count() == 0
    }
}

/// Whether the kernel took what was queued. Panics on an error that means a bug here.
fn entered(result: io::Result<usize>) -> bool {
    match result.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => true,
        // The time was up, a signal came, or completions must be taken first.
        Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => false,
        Err((_, error)) => panic!("U2: io_uring_enter: {error}"),
    }
}

fn chunk(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(CHUNK_BYTES_MAX)]
}

impl Driver for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn adopt(&mut self, fd: OwnedFd) -> Handle {
        descriptor::clear_status_flags(&fd, libc::O_NONBLOCK);
        let direct = descriptor::is_direct(&fd);
        self.handles.insert(Open { fd, first_op: NONE, direct, closing: false })
    }

    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Accept(listener) => {
                if let Some(open) = self.handles.get(listener) {
                    descriptor::set_nodelay(&open.fd);
                }
                self.start(token, listener, Work::Accept);
            }
            Op::Receive(socket) => self.start(token, socket, Work::Receive),
            Op::Send(_, bytes) if bytes.is_empty() => {
                self.ready.push_back((token, Ended::Sent(bytes)));
            }
            Op::Send(socket, bytes) => {
                self.start(token, socket, Work::Send { bytes, done_bytes: 0 });
            }
            Op::Read { len_bytes: 0, .. } => {
                self.ready.push_back((token, Ended::Read(Vec::new())));
            }
            Op::Read { file, offset, len_bytes } => {
                let direct = self.handles.get(file).is_some_and(|open| open.direct);
                let len_bytes = len_bytes as usize;
                let window = Window::new(len_bytes, direct);
                self.start(token, file, Work::Read { window, len_bytes, offset, done_bytes: 0 });
            }
            Op::WriteDurable { bytes, .. } if bytes.is_empty() => {
                self.ready.push_back((token, Ended::Written(bytes)));
            }
            Op::WriteDurable { file, offset, bytes } => {
                let direct = self.handles.get(file).is_some_and(|open| open.direct);
                let window = (direct && !ops::is_aligned(&bytes)).then(|| Window::copy_of(&bytes));
                self.start(token, file, Work::Write { bytes, window, offset, done_bytes: 0 });
            }
            Op::Timer(at) => self.timers.insert(at, token),
            Op::Cancel(token) => self.cancel(token),
            Op::Shutdown(socket) => self.shutdown(socket),
            Op::Close(handle) => self.close(handle),
        }
    }

    fn poll(&mut self, each: &mut dyn FnMut(Completion<'_>)) -> usize {
        let mut count = 0;
        while let Some((token, ended)) = self.ready.pop_front() {
            each(Completion { token, last: true, done: ended.done() });
            count += 1;
        }
        let mut cqes = std::mem::take(&mut self.cqes);
        cqes.extend(self.ring.completion());
        for cqe in cqes.drain(..) {
            count += self.complete(&cqe, each);
        }
        self.cqes = cqes;
        self.buffers.publish();
        self.feed();
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
        self.enter(until);
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

const ONE: [u8; 8] = 1u64.to_ne_bytes();

impl Drop for Uring {
    fn drop(&mut self) {
        if self.retire() {
            // SAFETY: dropped once, here. No operation is left that could write to the buffers;
            // the ring itself is dropped after this body and holds its own pin on the rest.
            unsafe { ManuallyDrop::drop(&mut self.buffers) };
        } else {
            // A write that the disk does not finish: its memory is leaked with the operation (U3).
            std::mem::forget(self.ops.take_all());
        }
    }
}
