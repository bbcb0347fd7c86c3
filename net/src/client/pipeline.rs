//! Many commands in flight on one connection.
//!
//! Owns: how much may be in flight.  Not: sockets.
//! B2 of [`super`]: at most [`IN_FLIGHT_BYTES_MAX`] of unanswered commands are sent, or one command
//! that is longer, with none before it; so the node's reading never depends on ours for long.

use super::{Client, ClientError};
use crate::resp::Value;
use crate::resp::encode::encode_request;

/// Most bytes of commands sent and not answered: what socket buffers surely hold.
const IN_FLIGHT_BYTES_MAX: usize = 64 << 10;

/// Commands to send together. Dropping it unrun forgets what was not sent yet.
#[derive(Debug)]
pub struct Pipeline<'c> {
    client: &'c mut Client,
    /// Bytes of each command.
    lengths: Vec<usize>,
    bytes: Vec<u8>,
}

impl<'c> Pipeline<'c> {
    pub(super) fn new(client: &'c mut Client) -> Pipeline<'c> {
        Pipeline { client, lengths: Vec::new(), bytes: Vec::new() }
    }

    /// Adds a command. Nothing is sent yet.
    pub fn add(&mut self, args: &[&[u8]]) -> &mut Pipeline<'c> {
        let before = self.bytes.len();
        encode_request(&mut self.bytes, args);
        self.lengths.push(self.bytes.len() - before);
        self
    }

    /// How many commands were added.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// Sends everything and waits for all replies, in order; refusals are [`Value::Error`]s.
    ///
    /// Error: the connection failed; which commands after the last reply ran is not known.
    pub fn run(self) -> Result<Vec<Value>, ClientError> {
        let mut replies = Vec::with_capacity(self.lengths.len());
        self.run_with(|reply| replies.push(reply))?;
        Ok(replies)
    }

    /// The same, handing each reply to `each` as it comes.
    pub fn run_with(self, mut each: impl FnMut(Value)) -> Result<(), ClientError> {
        let Pipeline { client, lengths, bytes } = self;
        let (mut sent, mut sent_bytes, mut in_flight) = (0, 0, 0);
        for answered in 0..lengths.len() {
            // Half the window at a time: fewer, longer writes.
            if in_flight <= IN_FLIGHT_BYTES_MAX / 2 {
                let start = sent_bytes;
                while let Some(length) = lengths.get(sent)
                    && (in_flight == 0 || in_flight + length <= IN_FLIGHT_BYTES_MAX)
                {
                    in_flight += length;
                    sent_bytes += length;
                    sent += 1;
                }
                client.unsent.extend_from_slice(&bytes[start..sent_bytes]);
                client.flush()?;
            }
            each(client.read_reply()?);
            in_flight -= lengths[answered];
        }
        Ok(())
    }
}
