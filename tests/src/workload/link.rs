//! One client's connection to one shard: bytes out, replies in, in virtual time.
//!
//! Owns: decoding, the trace of what was received, who waits.
//! Not: what is asked, and what to do about a connection that is gone.

use super::hub::Hub;
use crate::op::Command;
use heronry_engine::{Nanos, ShardId};
use heronry_net::Value;
use heronry_net::resp::ReplyDecoder;
use heronry_shards::sim::SimClient;
use std::rc::Rc;
use std::task::Poll;

/// What waiting for a reply came to.
#[derive(Debug)]
pub enum Got {
    /// A reply.
    Reply(Value),
    /// The connection is gone.
    Closed,
    /// Nothing until the time given.
    Late,
}

/// A connection.
pub struct Link {
    hub: Rc<Hub>,
    client: SimClient,
    decoder: ReplyDecoder,
}

impl Link {
    /// Connects to a shard.
    pub fn connect(hub: &Rc<Hub>, shard: ShardId) -> Link {
        let client = hub.world.connect(shard);
        Link { hub: Rc::clone(hub), client, decoder: ReplyDecoder::default() }
    }

    /// Sends commands.
    pub fn send(&self, commands: &[Command]) {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| command.encode(&mut bytes));
        self.client.send(&bytes);
    }

    /// Sends bytes.
    pub fn send_bytes(&self, bytes: &[u8]) {
        self.client.send(bytes);
    }

    /// Goes away, with whatever is on its way.
    pub fn close(&self) {
        self.client.close();
    }

    /// The next reply.
    pub async fn reply(&mut self, until: Nanos) -> Got {
        let waiting = &self.hub.waiting_count;
        waiting.set(waiting.get() + 1);
        let got = self.reply_uncounted(until).await;
        let waiting = &self.hub.waiting_count;
        waiting.set(waiting.get() - 1);
        got
    }

    async fn reply_uncounted(&mut self, until: Nanos) -> Got {
        std::future::poll_fn(|_| {
            if let Some(value) = self.decoder.next_reply().expect("a shard speaks RESP") {
                self.hub.progress();
                return Poll::Ready(Got::Reply(value));
            }
            let bytes = self.client.recv();
            if !bytes.is_empty() {
                self.hub.trace(&bytes);
                self.decoder.push(&bytes);
                let value = self.decoder.next_reply().expect("a shard speaks RESP");
                return value.map_or(Poll::Pending, |value| {
                    self.hub.progress();
                    Poll::Ready(Got::Reply(value))
                });
            }
            if self.client.is_closed() {
                return Poll::Ready(Got::Closed);
            }
            if self.hub.world.now() >= until {
                return Poll::Ready(Got::Late);
            }
            Poll::Pending
        })
        .await
    }
}
