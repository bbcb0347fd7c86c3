//! One non-blocking client connection: bytes queued out, replies cut out of what came in.
//!
//! Owns: the socket and both buffers.  Not: pacing and measuring (`load.rs`, `replay/drive.rs`).
//! L1  replies are handed over whole and in order.
//! L2  a read that filled less than its room has drained the socket, so edge-triggered readiness
//!     costs one read a wake-up.

use crate::sys;
use crate::wire::{self, Extent, WireError};
use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Room kept for one read.
const READ_BYTES: usize = 256 << 10;
/// How long a blocking round trip waits for its reply.
const REPLY_WAIT_MAX: Duration = Duration::from_secs(60);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq)]
pub enum Addr {
    /// TCP on loopback.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Addr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Addr::Tcp(addr) => write!(f, "tcp {addr}"),
            Addr::Unix(path) => write!(f, "unix {}", path.display()),
        }
    }
}

/// Why a connection cannot go on.
#[derive(Debug, Error)]
pub enum LinkError {
    /// Connecting failed.
    #[error("cannot connect to {addr}: {error}")]
    Connect {
        /// The address.
        addr: String,
        /// The system's reason.
        error: io::Error,
    },
    /// Reading or writing failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server closed it.
    #[error("the server closed the connection")]
    Closed,
    /// The server sent something that is no RESP.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// No reply came.
    #[error("no reply within {} s", REPLY_WAIT_MAX.as_secs())]
    Silent,
    /// The reply is an error, and the asker needs a good one.
    #[error("the server answered: {text}")]
    Refused {
        /// The error's text.
        text: String,
    },
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    output: Vec<u8>,
    output_at: usize,
    input: Vec<u8>,
    input_at: usize,
    input_end: usize,
}

impl Link {
    /// Connects, blocking, then becomes non-blocking.
    pub fn connect(addr: &Addr) -> Result<Link, LinkError> {
        let named = |error| LinkError::Connect { addr: addr.to_string(), error };
        let stream = match addr {
            Addr::Tcp(addr) => {
                let stream = std::net::TcpStream::connect(addr).map_err(named)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Stream::Tcp(TcpStream::from_std(stream))
            }
            Addr::Unix(path) => {
                let stream = std::os::unix::net::UnixStream::connect(path).map_err(named)?;
                stream.set_nonblocking(true)?;
                Stream::Unix(UnixStream::from_std(stream))
            }
        };
        let input = vec![0; READ_BYTES];
        Ok(Link { stream, output: Vec::new(), output_at: 0, input, input_at: 0, input_end: 0 })
    }

    /// Announces readiness under `token`, edge-triggered.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match &mut self.stream {
            Stream::Tcp(stream) => registry.register(stream, token, interest),
            Stream::Unix(stream) => registry.register(stream, token, interest),
        }
    }

    /// The bytes to send next; append to it, then [`Link::flush`].
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Bytes queued and not yet taken by the kernel.
    pub fn unsent_bytes(&self) -> usize {
        self.output.len() - self.output_at
    }

    /// Sends what the socket takes. What is left goes when it is writable again.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        while self.output_at < self.output.len() {
            let bytes = &self.output[self.output_at..];
            let wrote = match &mut self.stream {
                Stream::Tcp(stream) => stream.write(bytes),
                Stream::Unix(stream) => stream.write(bytes),
            };
            match wrote {
                Ok(count) => self.output_at += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.output.clear();
        self.output_at = 0;
        Ok(())
    }

    /// Reads once. `Ok(true)`: there may be more (L2).
    pub fn fill(&mut self) -> Result<bool, LinkError> {
        if self.input_at == self.input_end {
            self.input_at = 0;
            self.input_end = 0;
        } else if self.input.len() - self.input_end < READ_BYTES / 2 {
            self.input.copy_within(self.input_at..self.input_end, 0);
            self.input_end -= self.input_at;
            self.input_at = 0;
            if self.input.len() - self.input_end < READ_BYTES / 2 {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
        let room = &mut self.input[self.input_end..];
        let read = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(room),
            Stream::Unix(stream) => stream.read(room),
        };
        match read {
            Ok(0) => Err(LinkError::Closed),
            Ok(count) => {
                let more = count == room.len();
                self.input_end += count;
                Ok(more)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The next whole reply in the buffer (L1), with its extent.
    #[inline]
    pub fn reply(&mut self) -> Result<Option<(&[u8], Extent)>, LinkError> {
        let bytes = &self.input[self.input_at..self.input_end];
        let Some(extent) = wire::extent(bytes)? else { return Ok(None) };
        self.input_at += extent.len_bytes;
        let from = self.input_at - extent.len_bytes;
        Ok(Some((&self.input[from..self.input_at], extent)))
    }

    /// Sends `parts` and waits for the reply. Errors of the server become `Refused`.
    pub fn ask(&mut self, parts: &[&[u8]]) -> Result<Vec<u8>, LinkError> {
        wire::command(&mut self.output, parts);
        self.wait_reply()
    }

    /// Waits for one reply to what was queued.
    pub fn wait_reply(&mut self) -> Result<Vec<u8>, LinkError> {
        let give_up_at = Instant::now() + REPLY_WAIT_MAX;
        loop {
            self.flush()?;
            if let Some((reply, extent)) = self.reply()? {
                if extent.error {
                    let text = wire::text(reply).unwrap_or_default();
                    let text = String::from_utf8_lossy(text).into_owned();
                    return Err(LinkError::Refused { text });
                }
                return Ok(reply.to_vec());
            }
            if Instant::now() > give_up_at {
                return Err(LinkError::Silent);
            }
            if !self.fill()? && self.input_at == self.input_end {
                self.wait()?;
            }
        }
    }

    fn wait(&self) -> Result<(), LinkError> {
        let fd = match &self.stream {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        };
        let wait_ms = if self.unsent_bytes() > 0 { 1 } else { 1000 };
        sys::wait_readable(fd, Duration::from_millis(wait_ms))?;
        Ok(())
    }
}

/// Sleeps until a registered link is ready, at most `wait`, to the nanosecond: mio alone counts in
/// milliseconds, and a generator that polled instead would take the core from what it measures.
pub fn sleep(poll: &mut Poll, events: &mut Events, wait: Duration) -> io::Result<()> {
    if !wait.is_zero() {
        sys::wait_readable(poll.as_raw_fd(), wait)?;
    }
    poll_for(poll, events, Duration::ZERO)
}

/// The links that are ready, after at most `wait`, in milliseconds.
pub fn poll_for(poll: &mut Poll, events: &mut Events, wait: Duration) -> io::Result<()> {
    match poll.poll(events, Some(wait)) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        other => other,
    }
}
