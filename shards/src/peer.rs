//! The other shards, as this one deals with them: requests out, requests in, answers both ways.
//!
//! Owns: this shard's end of the mesh, the requests it has out.
//! Not: what the requests do.
//! H1  every request that was forwarded is answered once: by the peer, or here when it is down.
//! H2  an envelope that cannot be read is counted and dropped; it never stops the shard.

use crate::counters::Counter;
use crate::driver::Driver;
use crate::envelope::Envelope;
use crate::mesh::{MESSAGE_BYTES_MAX, Mesh, MeshError, Urgency};
use crate::outstanding::Outstanding;
use heronry_engine::{Origin, Refusal, Reply, Request, ShardId};
use std::borrow::Cow;

/// An answer for one of this shard's own origins.
pub type Answered = (Origin, Result<Reply, Refusal>);

/// What came from the peers in one pass.
#[derive(Default)]
pub struct Inbox {
    /// Requests for this shard, with their origin set.
    pub requests: Vec<Request>,
    /// Answers to what this shard had out.
    pub answers: Vec<Answered>,
}

/// This shard's end of the mesh.
pub struct Peers {
    me: ShardId,
    shard_count: u16,
    mesh: Mesh,
    outstanding: Outstanding,
    /// Each peer's generation that the requests out at it were sent to.
    generations: Vec<u64>,
    bytes: Vec<u8>,
}

impl Peers {
    /// Nothing out yet.
    pub fn new(me: ShardId, shard_count: u16, mesh: Mesh) -> Peers {
        Peers {
            me,
            shard_count,
            generations: (0..shard_count).map(|s| mesh.peer(ShardId(s)).generation).collect(),
            outstanding: Outstanding::new(mesh.generation()),
            mesh,
            bytes: Vec::new(),
        }
    }

    /// Sends `request` to shard `to`; a refusal is for the request's own origin, at once.
    pub fn forward(&mut self, to: ShardId, request: Request) -> Result<(), Answered> {
        let origin = request.origin;
        if !self.mesh.peer(to).state.reachable() {
            return Err((origin, Err(Refusal::TryAgain { shard: to })));
        }
        let asker = match origin {
            Origin::Nobody => None,
            Origin::Peer { shard, token } => Some((shard, token)),
            own => Some((self.me, self.outstanding.insert(to, own))),
        };
        let Request { target, verb, ack, deadline, .. } = request;
        Envelope::Request { asker, target, verb, ack, deadline }.encode(&mut self.bytes);
        let Err(error) = self.mesh.send(to, &self.bytes, Urgency::Request) else { return Ok(()) };
        if let Some((shard, token)) = asker
            && shard == self.me
        {
            self.outstanding.take(token);
        }
        Err((origin, Err(refusal(to, error))))
    }

    /// Sends an answer to the shard that asked. Nothing to do when it is gone: it has answered
    /// its origin itself, or its connections went with it (H1).
    pub fn answer(&mut self, to: ShardId, token: u64, result: Result<Reply, Refusal>) {
        Envelope::Answer { token, result }.encode(&mut self.bytes);
        let sent = self.mesh.send(to, &self.bytes, Urgency::Answer);
        if let Err(error @ MeshError::TooLong { .. }) = sent {
            let result = Err(refusal(to, error));
            Envelope::Answer { token, result }.encode(&mut self.bytes);
            // Short, so it can only fail because the peer is gone.
            let _ = self.mesh.send(to, &self.bytes, Urgency::Answer);
        }
    }

    /// Takes in what has arrived, a bounded number of messages. Returns how many.
    pub fn receive(&mut self, inbox: &mut Inbox) -> usize {
        let Peers { mesh, outstanding, shard_count, .. } = self;
        let mut garbled_count = 0;
        let count = mesh.receive(&mut |_from, bytes| match Envelope::decode(bytes, *shard_count) {
            Ok(Envelope::Request { asker, target, verb, ack, deadline }) => {
                let origin =
                    asker.map_or(Origin::Nobody, |(shard, token)| Origin::Peer { shard, token });
                inbox.requests.push(Request { target, verb, ack, deadline, origin });
            }
            Ok(Envelope::Answer { token, result }) => {
                inbox.answers.extend(outstanding.take(token).map(|origin| (origin, result)));
            }
            Err(_) => garbled_count += 1,
        });
        if garbled_count > 0 {
            mesh.shared().counters(self.me).add(Counter::MeshDrops, garbled_count);
        }
        count
    }

    /// Answers, with TRYAGAIN, what was out at peers that have gone down since (H1).
    pub fn lose_downed(&mut self, inbox: &mut Inbox) {
        let Peers { mesh, outstanding, generations, .. } = self;
        for (shard, peer) in mesh.changed_peers() {
            let known = &mut generations[usize::from(shard.0)];
            if std::mem::replace(known, peer.generation) != peer.generation
                || !peer.state.reachable()
            {
                let lost = outstanding.take_all(shard).into_iter();
                inbox.answers.extend(lost.map(|o| (o, Err(Refusal::TryAgain { shard }))));
            }
        }
    }

    /// Makes what was sent visible and wakes the peers that sleep.
    pub fn publish<D: Driver>(&mut self, driver: &mut D) {
        self.mesh.publish(&mut |peer| driver.doorbell(peer));
    }

    /// Says that this shard is about to sleep; false when something has arrived.
    pub fn announce_park(&mut self) -> bool {
        self.mesh.announce_park()
    }

    /// Says that this shard is awake.
    pub fn unpark(&mut self) {
        self.mesh.unpark();
    }
}

fn refusal(to: ShardId, error: MeshError) -> Refusal {
    match error {
        MeshError::Down { .. } => Refusal::TryAgain { shard: to },
        MeshError::Full { backlog_bytes, backlog_bytes_max, .. } => Refusal::Busy {
            what: Cow::Owned(format!("the way to shard {}", to.0)),
            count: backlog_bytes as u64,
            count_max: backlog_bytes_max as u64,
        },
        MeshError::TooLong { len_bytes } => Refusal::Limit {
            what: Cow::Borrowed("a message between shards, in bytes,"),
            value: len_bytes as u64,
            limit: MESSAGE_BYTES_MAX as u64,
            remedy: Cow::Borrowed("split the payload"),
        },
    }
}
