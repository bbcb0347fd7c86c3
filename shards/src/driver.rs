//! The reactor's face: what a shard asks of the operating system, and how answers come back.
//!
//! Owns: the `Driver` trait and its operations; implementations are `uring`, `glommio`, `sim`, held
//! to one conformance suite.  Not: what the bytes mean.
//! D1  a submitted operation completes exactly once; `Accept` and `Receive` are multishot: they
//!     complete many times and end with one completion whose `last` is true.
//! D2  buffers passed in are owned by the driver until their completion, and come back with it.
//! D3  per handle, sends complete and bytes arrive in submission order; the loop keeps at most
//!     one `Send` per handle in flight, and submits `Shutdown` when none is.
//! D4  `park` returns at `until` at the latest, earlier on any completion or doorbell; a doorbell
//!     rung between the last `poll` and `park` is not lost.

use heronry_engine::{Nanos, ShardId};
use std::future::Future;
use std::os::fd::OwnedFd;

/// What a socket, listener or file is called between loop and driver. Never reused while open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle(pub u32);

/// The loop's own mark on an operation; comes back with its completions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// One operation.
#[derive(Debug)]
pub enum Op {
    /// Accept connections on a listener until cancelled (multishot).
    Accept(Handle),
    /// Receive bytes until end of stream, error or cancel (multishot).
    Receive(Handle),
    /// Send the whole buffer. Completes once, when all is sent or the connection failed.
    Send(Handle, Vec<u8>),
    /// Read `len_bytes` at `offset` of a file.
    Read {
        /// The file.
        file: Handle,
        /// Byte offset.
        offset: u64,
        /// Bytes wanted.
        len_bytes: u32,
    },
    /// Write the buffer at `offset`; completes when it is on disk (`RWF_DSYNC`).
    WriteDurable {
        /// The file.
        file: Handle,
        /// Byte offset.
        offset: u64,
        /// What to write.
        bytes: Vec<u8>,
    },
    /// Complete at a point of time.
    Timer(Nanos),
    /// End the multishot or pending operation submitted under this token; that operation
    /// completes with `last` and `Done::Cancelled` unless it ended first. Cancel itself
    /// has no completion.
    Cancel(Token),
    /// Close the sending side of a connected socket: the peer reads what was sent before, then the
    /// end of the stream; receiving goes on. No send may be in flight, and none follows (D3). No
    /// completion; a connection that has failed shows at its `Receive`.
    Shutdown(Handle),
    /// Close a handle after cancelling what is open on it. No completion for the close itself.
    Close(Handle),
}

/// One completion, lent to the loop for the length of a callback.
#[derive(Debug)]
pub struct Completion<'a> {
    /// The operation's token.
    pub token: Token,
    /// Whether the operation has ended (D1).
    pub last: bool,
    /// What happened.
    pub done: Done<'a>,
}

/// What happened.
#[derive(Debug)]
pub enum Done<'a> {
    /// A connection, TCP_NODELAY set where it applies.
    Accepted(Handle),
    /// Bytes arrived (never empty). Valid during the callback only.
    Received(&'a [u8]),
    /// The peer closed its side; the `Receive` has ended.
    EndOfStream,
    /// The buffer was sent whole and comes back, for reuse (D2).
    Sent(Vec<u8>),
    /// Bytes read; short only at the end of the file.
    Read(Vec<u8>),
    /// The buffer is on disk and comes back (D2).
    Written(Vec<u8>),
    /// The timer's time has come.
    Expired,
    /// Ended by `Cancel` or `Close`.
    Cancelled,
    /// Failed; `errno` as the kernel gave it. A buffer, if any, is dropped.
    Failed {
        /// The error number.
        errno: i32,
    },
}

/// A reactor for one shard. Not `Send`: it belongs to the shard's thread.
pub trait Driver {
    /// Name of the implementation, as in `shards.runtime`.
    fn name(&self) -> &'static str;

    /// Takes over a listening socket, connected socket or file.
    fn adopt(&mut self, fd: OwnedFd) -> Handle;

    /// Queues an operation; it reaches the kernel at the next `park` at the latest.
    fn submit(&mut self, token: Token, op: Op);

    /// Hands over what has completed, without blocking. Returns the number of completions.
    fn poll(&mut self, each: &mut dyn FnMut(Completion<'_>)) -> usize;

    /// Submits what is queued and waits until `until` (D4); a past `until` means: do not wait.
    /// The loop's only await point.
    fn park(&mut self, until: Nanos) -> impl Future<Output = ()>;

    /// Wakes another shard, parked or about to park. Cheap when rung once per loop pass.
    fn doorbell(&mut self, shard: ShardId);

    /// Monotonic time, the same clock for all shards of a node.
    fn now(&self) -> Nanos;
}

/// How shards wake each other: one eventfd per shard, made by the supervisor.
#[derive(Debug)]
pub struct Doorbells {
    /// This shard.
    pub me: ShardId,
    /// One eventfd per shard of the node, indexed by `ShardId`, including our own.
    pub eventfds: Vec<OwnedFd>,
}
