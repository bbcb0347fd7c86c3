//! The tasks of the glommio driver: one per operation, and where they meet the loop.
//!
//! Owns: what each operation does on glommio's types, the queue of results.
//! Not: which tasks there are (the driver's).
//! J1  no borrow of what is shared here is held across an await.

use super::ONE;
use crate::driver::{Handle, Token};
use crate::uring::descriptor;
use ::glommio::io::BufferedFile;
use ::glommio::net::{TcpListener, TcpStream};
use futures_lite::future;
use futures_lite::io::{AsyncRead, AsyncWrite};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Longest `Received`.
const RECEIVE_BYTES_MAX: usize = 16 << 10;
/// Vectors kept for the next `Received`.
const SPARE_COUNT_MAX: usize = 64;

/// What a task of the driver reports.
pub(super) enum Outcome {
    Accepted(TcpStream),
    Received(Vec<u8>),
    EndOfStream,
    Sent(Vec<u8>),
    Read(Vec<u8>),
    Written(Vec<u8>),
    Cancelled,
    Failed(i32),
}

impl Outcome {
    pub(super) fn is_last(&self) -> bool {
        !matches!(self, Outcome::Accepted(_) | Outcome::Received(_))
    }
}

pub(super) struct Finished {
    pub(super) token: Token,
    pub(super) handle: Option<Handle>,
    pub(super) outcome: Outcome,
}

/// Where tasks and loop meet. Borrows are short and never held across an await.
pub(super) struct Meeting {
    pub(super) finished: RefCell<VecDeque<Finished>>,
    /// Our doorbell rang since the last park.
    pub(super) rung: Cell<bool>,
    parked: RefCell<Option<Waker>>,
    /// Tasks that wait for the next poll (L1).
    waiting: RefCell<Vec<Waker>>,
    poll_count: Cell<u64>,
    scratch: RefCell<Vec<u8>>,
    spare: RefCell<Vec<Vec<u8>>>,
}

impl Meeting {
    pub(super) fn new() -> Meeting {
        Meeting {
            finished: RefCell::default(),
            rung: Cell::new(false),
            parked: RefCell::default(),
            waiting: RefCell::default(),
            poll_count: Cell::new(0),
            scratch: RefCell::new(vec![0; RECEIVE_BYTES_MAX]),
            spare: RefCell::default(),
        }
    }

    /// Lets the tasks that wait for it go on.
    pub(super) fn has_polled(&self) {
        self.poll_count.set(self.poll_count.get() + 1);
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Keeps a vector for the next `Received`.
    pub(super) fn recycle(&self, bytes: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_COUNT_MAX {
            spare.push(bytes);
        }
    }

    pub(super) fn finish(&self, token: Token, handle: Option<Handle>, outcome: Outcome) {
        self.finished.borrow_mut().push_back(Finished { token, handle, outcome });
        self.wake();
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.parked.take() {
            waker.wake();
        }
    }

    pub(super) fn has_news(&self) -> bool {
        self.rung.get() || !self.finished.borrow().is_empty()
    }

    /// Until something finished or the doorbell rang.
    pub(super) async fn news(&self) {
        future::poll_fn(|context| {
            if self.has_news() {
                return Poll::Ready(());
            }
            self.parked.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Until the loop has polled (L1).
    pub(super) async fn polled(&self) {
        let seen = self.poll_count.get();
        future::poll_fn(|context| {
            if self.poll_count.get() != seen {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(super) fn copy_of(&self, bytes: &[u8]) -> Vec<u8> {
        let mut copy = self.spare.borrow_mut().pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(bytes);
        copy
    }
}

pub(super) type SharedStream = Rc<RefCell<TcpStream>>;

/// Waits on our eventfd for ever.
pub(super) async fn watch_bell(meeting: Rc<Meeting>, bell: OwnedFd) {
    let bell: BufferedFile = descriptor::hand_over(bell);
    loop {
        if let Err(error) = bell.read_at(0, ONE.len()).await {
            debug_assert!(false, "the doorbell cannot be read: {error}");
            return;
        }
        meeting.rung.set(true);
        meeting.wake();
    }
}

pub(super) async fn accept(
    meeting: Rc<Meeting>,
    listener: Rc<TcpListener>,
    token: Token,
    handle: Handle,
) -> Outcome {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                // Fails on Unix sockets, which need none.
                let _ = stream.set_nodelay(true);
                meeting.finish(token, Some(handle), Outcome::Accepted(stream));
                meeting.polled().await;
            }
            Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                libc::ECONNABORTED | libc::EINTR | libc::EAGAIN => {}
                errno => return Outcome::Failed(errno),
            },
        }
    }
}

pub(super) async fn receive(
    meeting: Rc<Meeting>,
    stream: SharedStream,
    token: Token,
    handle: Handle,
) -> Outcome {
    loop {
        let received = future::poll_fn(|context| {
            let mut scratch = meeting.scratch.borrow_mut();
            let mut stream = stream.borrow_mut();
            let read = Pin::new(&mut *stream).poll_read(context, &mut scratch);
            read.map_ok(|bytes| meeting.copy_of(&scratch[..bytes]))
        })
        .await;
        match received {
            Ok(bytes) if bytes.is_empty() => return Outcome::EndOfStream,
            Ok(bytes) => {
                meeting.finish(token, Some(handle), Outcome::Received(bytes));
                meeting.polled().await;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Outcome::Failed(errno_of(&error)),
        }
    }
}

pub(super) async fn send(stream: SharedStream, bytes: Vec<u8>) -> Outcome {
    let mut done_bytes = 0;
    while done_bytes < bytes.len() {
        let sent = future::poll_fn(|context| {
            Pin::new(&mut *stream.borrow_mut()).poll_write(context, &bytes[done_bytes..])
        })
        .await;
        match sent {
            Ok(0) => return Outcome::Failed(libc::EPIPE),
            Ok(sent_bytes) => done_bytes += sent_bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Outcome::Failed(errno_of(&error)),
        }
    }
    Outcome::Sent(bytes)
}

/// Closes the sending side: `shutdown(2)` at once, as glommio does it. Sends are over by then.
pub(super) fn shutdown(stream: &SharedStream) {
    let mut context = Context::from_waker(Waker::noop());
    // Fails once the connection has: its receive says so.
    let _ = Pin::new(&mut *stream.borrow_mut()).poll_close(&mut context);
}

pub(super) async fn read(file: Rc<BufferedFile>, offset: u64, len_bytes: usize) -> Outcome {
    let mut bytes = Vec::with_capacity(len_bytes);
    while bytes.len() < len_bytes {
        match file.read_at(offset + bytes.len() as u64, len_bytes - bytes.len()).await {
            Ok(read) if read.is_empty() => break,
            Ok(read) => bytes.extend_from_slice(&read),
            Err(error) => return Outcome::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
    Outcome::Read(bytes)
}

pub(super) async fn write_durable(file: Rc<BufferedFile>, offset: u64, bytes: Vec<u8>) -> Outcome {
    let mut done_bytes = 0;
    while done_bytes < bytes.len() {
        // glommio keeps the vector it writes: it gets a copy, ours goes back to the loop.
        let rest = bytes[done_bytes..].to_vec();
        match file.write_at(rest, offset + done_bytes as u64).await {
            Ok(0) => return Outcome::Failed(libc::EIO),
            Ok(written_bytes) => done_bytes += written_bytes,
            Err(error) => return Outcome::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
    match file.fdatasync().await {
        Ok(()) => Outcome::Written(bytes),
        Err(error) => Outcome::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
