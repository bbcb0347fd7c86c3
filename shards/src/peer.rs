//! The other shards, as this one deals with them: requests out, requests in, answers both ways.
//!
//! Owns: this shard's end of the mesh, the requests it has out.
//! Not: what the requests do.
//! H1  every request that was forwarded is answered once: by the peer, or here when it is down.
//! H2  an envelope that cannot be read is counted and dropped; it never stops the shard.

use crate::control::ShardState;
use crate::counters::Counter;
use crate::driver::Driver;
use crate::envelope::Envelope;
use crate::mesh::{MESSAGE_BYTES_MAX, Mesh, MeshError, PeerState, Urgency};
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

    /// Whether the node is past its start: every peer has been up, or this shard is in a later
    /// life.
    pub fn have_begun(&self) -> bool {
        let begun = |to| {
            let peer = self.mesh.peer(to);
            peer.generation > 1 || !matches!(peer.state, ShardState::Empty | ShardState::Starting)
        };
        self.mesh.generation() > 1 || (0..self.shard_count).map(ShardId).all(begun)
    }

    /// Sends `request` to shard `to`; a refusal is for the request's own origin, at once.
    pub fn forward(&mut self, to: ShardId, request: Request) -> Result<(), Answered> {
        let origin = request.origin;
        if !self.mesh.peer(to).state.reachable() {
            return Err((origin, Err(Refusal::TryAgain { shard: to })));
        }
        let asker = match origin {
            Origin::Nobody => None,
            Origin::Peer { shard, token, .. } => Some((shard, token)),
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
                let peer = |(shard, token)| Origin::Peer { shard, token, ack };
                let origin = asker.map_or(Origin::Nobody, peer);
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

    /// Answers, with TRYAGAIN, what was out at peers that have gone down since (H1). What such a
    /// peer answered before it ended comes first. Returns how many messages that were.
    pub fn lose_downed(&mut self, inbox: &mut Inbox) -> usize {
        let changed: Vec<(ShardId, PeerState)> = self.mesh.changed_peers().collect();
        if changed.is_empty() {
            return 0;
        }
        let count = self.receive(inbox);
        for (shard, peer) in changed {
            let known = &mut self.generations[usize::from(shard.0)];
            if std::mem::replace(known, peer.generation) != peer.generation
                || !peer.state.reachable()
            {
                let lost = self.outstanding.take_all(shard).into_iter();
                inbox.answers.extend(lost.map(|o| (o, Err(Refusal::TryAgain { shard }))));
            }
        }
        count
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ShardState;
    use crate::shared::{ShardPlan, Shared};
    use crate::sim::World;
    use heronry_engine::verb::Target;
    use heronry_engine::{Ack, Verb};
    use std::sync::Arc;

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);

    fn request(seq: u64) -> Request {
        Request {
            target: Target::Shard(B),
            verb: Verb::Hottest,
            ack: Ack::Sealed,
            deadline: None,
            origin: Origin::Connection { conn: 0, generation: 0, seq, ack: Ack::Sealed },
        }
    }

    #[test]
    fn h1_what_a_peer_answered_before_it_ended_is_its_answer() {
        let world = World::new(1, 2);
        let shared = ShardPlan { shard_count: 2, ring_bytes: 4096 };
        let shared = Arc::new(Shared::create(shared).expect("a plan within its bounds"));
        let mut ends = [A, B].map(|me| {
            let mesh = Mesh::attach(Arc::clone(&shared), me);
            (Peers::new(me, 2, mesh), world.driver(me), Inbox::default())
        });
        [A, B].iter().for_each(|shard| shared.set_state(*shard, ShardState::Up));
        for (peers, _, inbox) in &mut ends {
            peers.lose_downed(inbox);
        }
        let [(a, a_driver, a_inbox), (b, b_driver, b_inbox)] = &mut ends;
        for seq in [1, 2] {
            assert!(a.forward(B, request(seq)).is_ok());
        }
        a.publish(a_driver);
        b.receive(b_inbox);
        let Origin::Peer { shard, token, .. } = b_inbox.requests[0].origin else {
            panic!("a request of a peer")
        };
        b.answer(shard, token, Ok(Reply::Done));
        b.publish(b_driver);
        shared.set_state(B, ShardState::Down);

        let count = a.receive(a_inbox) + a.lose_downed(a_inbox);
        assert_eq!(count, 1);
        let answer = |seq, result| (request(seq).origin, result);
        let lost = Err(Refusal::TryAgain { shard: B });
        assert_eq!(a_inbox.answers, [answer(1, Ok(Reply::Done)), answer(2, lost)]);
        assert_eq!(a.receive(a_inbox) + a.lose_downed(a_inbox), 0);
        let (origin, result) = a.forward(B, request(3)).expect_err("it is down");
        assert_eq!((origin, result), answer(3, Err(Refusal::TryAgain { shard: B })));
    }
}
