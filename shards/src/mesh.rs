//! One shard's end of the mesh: whole messages to and from every peer.
//!
//! Owns: generations, doorbells, the decision whether it is safe to sleep.  Not: the rings' words
//! (`ring`), records and what waits for room (`mesh/peer`), what messages mean.
//! M1  messages from one shard to another arrive whole, once, in the order sent, while both
//!     generations last and no ring is damaged.
//! M2  a shard has one `Mesh` at a time; attaching begins a generation, what was queued is gone.
//! M3  a peer's new state is told by `changed_peers` before anything of its new generation is
//!     handed over, and nothing of its older ones is after it.
//! M5  `announce_park` says true only when whatever comes later will ring this shard's doorbell.

mod peer;

use crate::control::{ControlBlock, ShardState};
use crate::counters::Counter;
use crate::ring::{Look, Reader, Tag, Writer, barrier};
use crate::shared::Shared;
use heronry_engine::ShardId;
use heronry_engine::limits::PAYLOAD_BYTES_MAX;
use peer::{Due, Peer};
use std::marker::PhantomData;
use std::sync::Arc;

/// Longest message: the largest payload and its envelope.
pub const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + (64 << 10);

/// Whether a message may be refused when its peer is behind (M4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// New work: refused when the backlog is full.
    Request,
    /// The answer to admitted work: always taken.
    Answer,
}

/// A peer as this shard knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerState {
    /// Its state.
    pub state: ShardState,
    /// Its generation.
    pub generation: u64,
}

/// Why a message was not taken. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MeshError {
    /// The peer is behind.
    #[error("shard {} is behind by {backlog_bytes} B; allowed: {backlog_bytes_max} B", to.0)]
    Full {
        /// The peer.
        to: ShardId,
        /// What waits for it.
        backlog_bytes: usize,
        /// What may.
        backlog_bytes_max: usize,
    },
    /// The peer does not serve.
    #[error("shard {} is {}", to.0, state.name())]
    Down {
        /// The peer.
        to: ShardId,
        /// Its state.
        state: ShardState,
    },
    /// Longer than any message may be.
    #[error("message of {len_bytes} B; allowed: 0 to {MESSAGE_BYTES_MAX} B")]
    TooLong {
        /// Its length.
        len_bytes: usize,
    },
}

/// A shard's end of the mesh. Belongs to the shard's thread.
#[derive(Debug)]
pub struct Mesh {
    shared: Arc<Shared>,
    me: ShardId,
    generation: u64,
    peers: Vec<Peer>,
    /// Peers that the next `publish` looks at.
    due: Vec<ShardId>,
    changed: Vec<ShardId>,
    change_count: u64,
    scratch: Vec<u8>,
    not_send: PhantomData<*const ()>,
}

impl Mesh {
    /// Takes `me`'s seat and begins its next generation (M2). The state stays as it is: peers
    /// reach this shard once `Shared::set_state` says `Up`.
    pub fn attach(shared: Arc<Shared>, me: ShardId) -> Mesh {
        shared.block(me).park_flag().clear();
        let readers: Vec<Reader> =
            shared.shards().map(|peer| Reader::attach(shared.ring(peer, me))).collect();
        let generation = shared.begin_life(me);
        let change_count = shared.change_count();
        let peers = shared.shards().zip(readers).map(|(peer, reader)| {
            let writer = Writer::attach(shared.ring(me, peer));
            Peer::new(state_of(shared.block(peer)), writer, reader)
        });
        let peers = peers.collect();
        Mesh {
            shared,
            me,
            generation,
            peers,
            due: Vec::new(),
            changed: Vec::new(),
            change_count,
            scratch: Vec::new(),
            not_send: PhantomData,
        }
    }

    /// This shard.
    pub fn me(&self) -> ShardId {
        self.me
    }

    /// This life of the shard, counted from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The shared memory.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A peer as last seen.
    pub fn peer(&self, peer: ShardId) -> PeerState {
        self.peers[usize::from(peer.0)].known
    }

    /// Bytes of messages that wait for room in the ring to `peer`.
    pub fn backlog_bytes(&self, peer: ShardId) -> usize {
        self.peers[usize::from(peer.0)].backlog_bytes()
    }

    /// Takes a message for `to`; it becomes visible there at the next `publish`, or when room
    /// comes. Cost: a copy into the ring. Errors: nothing was taken.
    pub fn send(&mut self, to: ShardId, bytes: &[u8], urgency: Urgency) -> Result<(), MeshError> {
        self.refresh();
        let (len_bytes, backlog_bytes_max) = (bytes.len(), self.shared.ring_bytes());
        let peer = &mut self.peers[usize::from(to.0)];
        if len_bytes > MESSAGE_BYTES_MAX {
            return Err(MeshError::TooLong { len_bytes });
        }
        if to != self.me && !peer.known.state.reachable() {
            return Err(MeshError::Down { to, state: peer.known.state });
        }
        let backlog_bytes = peer.backlog_bytes();
        let full = peer.is_behind() && backlog_bytes + len_bytes > backlog_bytes_max;
        if full && urgency == Urgency::Request {
            return Err(MeshError::Full { to, backlog_bytes, backlog_bytes_max });
        }
        let tag = tag(self.generation, peer.known.generation);
        let resets = peer.send(self.shared.ring(self.me, to), tag, bytes);
        peer.due.list(to, &mut self.due);
        let counters = self.shared.counters(self.me);
        counters.add(Counter::MeshResets, resets);
        counters.add(Counter::HopsOut, 1);
        Ok(())
    }

    /// Makes everything sent so far visible, gives back the room of what was received, and
    /// calls `bell` for each peer that must be woken. Call it once per loop pass.
    pub fn publish(&mut self, bell: &mut dyn FnMut(ShardId)) {
        self.refresh();
        if self.shared.block(self.me).take_alarm() {
            self.verify_all();
        }
        if self.due.is_empty() {
            return;
        }
        let Mesh { shared, me, generation, peers, due, .. } = self;
        for to in due.iter() {
            let peer = &mut peers[usize::from(to.0)];
            let ring = shared.ring(*me, *to);
            let resets = peer.flush(ring, tag(*generation, peer.known.generation));
            shared.counters(*me).add(Counter::MeshResets, resets);
            peer.writer.publish(ring);
        }
        barrier();
        due.retain(|to| {
            let peer = &mut peers[usize::from(to.0)];
            let wanted = peer.due.written
                || peer.due.alarmed
                || peer.due.released && shared.ring(*to, *me).claim_starved();
            let listed = peer.is_behind();
            peer.due = Due { listed, changed: peer.due.changed, ..Due::default() };
            if wanted && to != me && shared.block(*to).park_flag().claim() {
                bell(*to);
            }
            listed
        });
    }

    /// Hands over what has arrived, peer by peer, in order (M1), and returns how many messages
    /// that were. Peers whose change is not reported yet are left out (M3). The room of what
    /// was read is given back at the next `publish`.
    pub fn receive(&mut self, each: &mut dyn FnMut(ShardId, &[u8])) -> usize {
        self.refresh();
        let mut count = 0;
        for from in self.shared.shards() {
            if !self.peers[usize::from(from.0)].due.changed {
                count += self.receive_from(from, each);
            }
        }
        if count > 0 {
            self.shared.counters(self.me).add(Counter::HopsIn, count as u64);
        }
        count
    }

    /// Peers whose state or generation changed since last asked. Call it in every pass: `receive`
    /// hands over nothing of a changed peer before it (M3), and what it had published in the same
    /// generation after it. What waited for a peer that is down or new is dropped already.
    pub fn changed_peers(&mut self) -> impl Iterator<Item = (ShardId, PeerState)> + '_ {
        self.refresh();
        for peer in &self.changed {
            self.peers[usize::from(peer.0)].due.changed = false;
        }
        let peers = &self.peers;
        self.changed.drain(..).map(|peer| (peer, peers[usize::from(peer.0)].known))
    }

    /// Announces that this shard goes to sleep, then looks once more (M5). True: sleep, until a
    /// doorbell or a time of your own, then call `unpark`. False: there is work; nothing is
    /// announced any more.
    pub fn announce_park(&mut self) -> bool {
        self.refresh();
        let owes = |peer: &Peer| peer.due.written || peer.due.released || peer.due.alarmed;
        let block = self.shared.block(self.me);
        if !self.changed.is_empty() || block.alarmed() || self.peers.iter().any(owes) {
            return false;
        }
        self.verify_all();
        let Mesh { shared, me, peers, .. } = self;
        let flag = shared.block(*me).park_flag();
        flag.announce();
        for (other, peer) in shared.shards().zip(peers.iter_mut()) {
            peer.reader.heal(shared.ring(other, *me));
            if peer.is_behind() {
                peer.writer.starve(shared.ring(*me, other));
            }
        }
        barrier();
        let news = shared.shards().zip(peers.iter()).any(|(other, peer)| {
            let ring = shared.ring(*me, other);
            let next_bytes = peer.next_bytes(ring.record_bytes_max());
            peer.reader.has_news(shared.ring(other, *me))
                || next_bytes.is_some_and(|len_bytes| peer.writer.has_room(ring, len_bytes))
        });
        let changed = shared.change_count() != self.change_count || shared.block(*me).alarmed();
        if news || changed {
            flag.clear();
        }
        !news && !changed
    }

    /// This shard is awake again.
    pub fn unpark(&mut self) {
        self.shared.block(self.me).park_flag().clear();
    }

    /// Notices changes of peers' states and generations.
    fn refresh(&mut self) {
        let change_count = self.shared.change_count();
        if change_count == self.change_count {
            return;
        }
        self.change_count = change_count;
        for shard in self.shared.shards() {
            self.refresh_peer(shard);
        }
    }

    /// Notices a change of one peer. Returns whether there was one.
    fn refresh_peer(&mut self, shard: ShardId) -> bool {
        let now = state_of(self.shared.block(shard));
        let peer = &mut self.peers[usize::from(shard.0)];
        if shard == self.me {
            peer.known.state = now.state;
            return false;
        }
        if now == peer.known {
            return false;
        }
        let renewed = now.generation != peer.known.generation;
        peer.known = now;
        if renewed {
            peer.forget_partial();
        }
        if renewed || !now.state.reachable() {
            self.shared.counters(self.me).add(Counter::MeshDrops, peer.drop_backlog());
        }
        if !peer.due.changed {
            peer.due.changed = true;
            self.changed.push(shard);
        }
        true
    }

    fn receive_from(&mut self, from: ShardId, each: &mut dyn FnMut(ShardId, &[u8])) -> usize {
        let peer = &mut self.peers[usize::from(from.0)];
        let ring = self.shared.ring(from, self.me);
        let mut resets = 0;
        match peer.reader.look(ring) {
            Look::Empty => return 0,
            Look::Ready => peer.due.released = true,
            Look::Corrupt => {
                peer.forget_partial();
                peer.due.alarmed = true;
                self.shared.block(from).raise_alarm();
                resets = 1;
            }
        }
        peer.due.list(from, &mut self.due);
        let (mut count, mut drops) = (0, 0);
        loop {
            let peer = &mut self.peers[usize::from(from.0)];
            let ring = self.shared.ring(from, self.me);
            let tag = tag(peer.known.generation, self.generation);
            let taken = peer.take_all(ring, tag, &mut self.scratch, &mut |bytes| each(from, bytes));
            count += taken.message_count;
            resets += taken.resets;
            // A record of another generation: of a new life of the peer, whose messages come
            // after its change is reported, or of an old one, of it or of us.
            let Some(record) = taken.stale.filter(|_| !self.refresh_peer(from)) else { break };
            let ring = self.shared.ring(from, self.me);
            self.peers[usize::from(from.0)].reader.skip(ring, record);
            drops += u64::from(record.tag.first);
        }
        let ring = self.shared.ring(from, self.me);
        self.peers[usize::from(from.0)].reader.release(ring);
        let counters = self.shared.counters(self.me);
        counters.add(Counter::MeshResets, resets);
        counters.add(Counter::MeshDrops, drops);
        count
    }

    /// Checks all rings that this shard writes and puts their words in order.
    fn verify_all(&mut self) {
        let Mesh { shared, me, peers, .. } = self;
        for (to, peer) in shared.shards().zip(peers) {
            if peer.writer.verify(shared.ring(*me, to)) {
                peer.restart_front();
                shared.counters(*me).add(Counter::MeshResets, 1);
            }
        }
    }
}

fn state_of(block: &ControlBlock) -> PeerState {
    PeerState { state: block.state(), generation: block.generation() }
}

fn tag(from_generation: u64, to_generation: u64) -> Tag {
    Tag {
        first: true,
        last: true,
        from_generation: from_generation as u8,
        to_generation: to_generation as u8,
    }
}

#[cfg(test)]
mod tests;
