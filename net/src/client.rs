//! A blocking client: one connection, one command at a time or many in a pipeline.
//!
//! Owns: connecting, waiting, and what the agent commands are called in Rust.
//! Not: reconnecting; after [`ClientError::Broken`] and its like the caller opens a new client.
//! B1  a reply belongs to the oldest command without one; pushes are passed over.
//! B2  a pipeline never waits for the node to read while the node waits for it to read.

mod agent;
mod pipeline;
mod template;

pub use agent::{ForkOptions, ListPage, SendOptions};
pub use pipeline::Pipeline;
pub use template::Deployment;

use crate::reply::whole_text;
use crate::resp::encode::encode_request;
use crate::resp::{ProtocolError, ReplyDecoder, ReplyLimits, Value};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Why a call gave no good reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection was made.
    #[error("cannot connect to {place}: {source}")]
    Connect {
        /// Address or path.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// The connection failed; whether commands without reply were done is not known.
    #[error("the connection failed: {0}")]
    Broken(#[from] io::Error),
    /// The node closed the connection before it replied.
    #[error("the node closed the connection")]
    Closed,
    /// No reply within the time given to `tcp` or `unix`; it may still come, so this client is
    /// of no further use.
    #[error("no reply within {} ms", waited.as_millis())]
    TimedOut {
        /// How long the client waited.
        waited: Duration,
    },
    /// What came back is not RESP.
    #[error("the node's reply is malformed: {0}")]
    Malformed(#[from] ProtocolError),
    /// The node refused the command, and says why.
    #[error("{code} {text}")]
    Refused {
        /// What to match on; docs/commands.md lists the codes.
        code: String,
        /// What people read.
        text: String,
    },
    /// A reply of a type that the command never gives.
    #[error("the reply to {command} is not {wanted}: {got}")]
    Unexpected {
        /// The command.
        command: &'static str,
        /// What it should give.
        wanted: &'static str,
        /// What came, cut.
        got: String,
    },
}

impl ClientError {
    /// The code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// One connection to a node.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    decoder: ReplyDecoder,
    /// Encoded commands that were not sent yet.
    unsent: Vec<u8>,
    chunk: Box<[u8]>,
    reply_wait_max: Duration,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    /// Connects over TCP. `place` is `host:port`; connecting, each write and each wait for a
    /// reply take at most `wait_max`, which is above zero.
    pub fn tcp(place: &str, wait_max: Duration) -> Result<Client, ClientError> {
        let failed = |source| ClientError::Connect { place: place.to_owned(), source };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in place.to_socket_addrs().map_err(failed)? {
            match TcpStream::connect_timeout(&address, wait_max) {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(failed)?;
                    stream.set_read_timeout(Some(wait_max)).map_err(failed)?;
                    stream.set_write_timeout(Some(wait_max)).map_err(failed)?;
                    return Ok(Client::over(Stream::Tcp(stream), wait_max));
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    /// Connects to a Unix socket; as [`Client::tcp`].
    pub fn unix(path: &Path, wait_max: Duration) -> Result<Client, ClientError> {
        let failed = |source| ClientError::Connect { place: path.display().to_string(), source };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(wait_max)).map_err(failed)?;
        stream.set_write_timeout(Some(wait_max)).map_err(failed)?;
        Ok(Client::over(Stream::Unix(stream), wait_max))
    }

    fn over(stream: Stream, reply_wait_max: Duration) -> Client {
        Client {
            stream,
            decoder: ReplyDecoder::new(ReplyLimits::default()),
            unsent: Vec::new(),
            chunk: vec![0; READ_BYTES].into_boxed_slice(),
            reply_wait_max,
        }
    }

    /// Asks for RESP3, and authenticates if there is a password.
    pub fn hello(&mut self, password: Option<&str>) -> Result<Value, ClientError> {
        match password {
            None => self.ask(&[b"HELLO", b"3"]),
            Some(password) => self.ask(&[b"HELLO", b"3", b"AUTH", b"default", password.as_bytes()]),
        }
    }

    /// Sends one command and waits for its reply, which may be a [`Value::Error`].
    pub fn call(&mut self, args: &[&[u8]]) -> Result<Value, ClientError> {
        encode_request(&mut self.unsent, args);
        self.flush()?;
        self.read_reply()
    }

    /// Sends one command and waits for its good reply. Error: [`ClientError::Refused`] too.
    pub fn ask(&mut self, args: &[&[u8]]) -> Result<Value, ClientError> {
        match self.call(args)? {
            Value::Error { code, text } => {
                let text = whole_text(&code, text);
                Err(ClientError::Refused { code, text })
            }
            reply => Ok(reply),
        }
    }

    /// Begins a pipeline: many commands in few packets.
    pub fn pipeline(&mut self) -> Pipeline<'_> {
        Pipeline::new(self)
    }

    /// Sends what is encoded.
    fn flush(&mut self) -> Result<(), ClientError> {
        let written = match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(&self.unsent),
            Stream::Unix(stream) => stream.write_all(&self.unsent),
        };
        self.unsent.clear();
        if self.unsent.capacity() > READ_BYTES * 16 {
            self.unsent = Vec::new();
        }
        match written {
            Ok(()) => Ok(()),
            // The node may have said why before it closed; that is worth more than EPIPE.
            Err(error) => match self.last_words() {
                Some(refused) => Err(refused),
                None => Err(self.named(error)),
            },
        }
    }

    /// Waits for the next reply (B1).
    fn read_reply(&mut self) -> Result<Value, ClientError> {
        loop {
            match self.decoder.next_reply()? {
                Some(Value::Push(_)) => {}
                Some(reply) => return Ok(reply),
                None if !self.fill()? => return Err(ClientError::Closed),
                None => {}
            }
        }
    }

    /// Reads once; false at the end of the stream.
    fn fill(&mut self) -> Result<bool, ClientError> {
        let read = loop {
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(&mut self.chunk),
                Stream::Unix(stream) => stream.read(&mut self.chunk),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match read {
            Ok(count) => {
                self.decoder.push(&self.chunk[..count]);
                Ok(count > 0)
            }
            Err(error) => Err(self.named(error)),
        }
    }

    fn last_words(&mut self) -> Option<ClientError> {
        match self.read_reply() {
            Ok(Value::Error { code, text }) => Some(ClientError::Refused { code, text }),
            _ => None,
        }
    }

    fn named(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ClientError::TimedOut { waited: self.reply_wait_max }
            }
            _ => ClientError::Broken(error),
        }
    }
}
