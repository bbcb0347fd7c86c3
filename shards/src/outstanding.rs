//! Requests this shard sent to its peers and whose answers it awaits.
//!
//! Owns: the tokens on the mesh and the true origins behind them.
//! O1  a token is answered once; a late or repeated answer finds nothing, also when it was meant
//!     for an earlier life of this shard.
//! O2  when a peer goes down, every origin that waits for it is handed back.

use heronry_engine::{Origin, ShardId};

/// Requests out at peers. Cost of each call: a slab access.
#[derive(Debug)]
pub struct Outstanding {
    waiting: slab::Slab<Waiting>,
    /// Counts up per insertion; the token's upper half, so that a reused slot has a new token.
    serial: u32,
}

#[derive(Debug)]
struct Waiting {
    serial: u32,
    peer: ShardId,
    origin: Origin,
}

impl Outstanding {
    /// Nothing out yet. `generation` is this life's: its tokens start far from other lives' (O1).
    pub fn new(generation: u64) -> Outstanding {
        let serial = (generation as u32).wrapping_mul(0x9e37_79b9);
        Outstanding { waiting: slab::Slab::new(), serial }
    }

    /// Remembers that `origin` awaits `peer`; the token goes along with the request.
    pub fn insert(&mut self, peer: ShardId, origin: Origin) -> u64 {
        self.serial = self.serial.wrapping_add(1);
        let slot = self.waiting.insert(Waiting { serial: self.serial, peer, origin });
        let slot = u32::try_from(slot).expect("O1: bounded by the pipelines of all connections");
        u64::from(self.serial) << 32 | u64::from(slot)
    }

    /// The origin behind a token, if it still waits (O1).
    pub fn take(&mut self, token: u64) -> Option<Origin> {
        let slot = (token & u64::from(u32::MAX)) as usize;
        let waiting = self.waiting.get(slot)?;
        if u64::from(waiting.serial) != token >> 32 {
            return None;
        }
        Some(self.waiting.remove(slot).origin)
    }

    /// All origins that wait for `peer`, in the order of their slots (O2).
    pub fn take_all(&mut self, peer: ShardId) -> Vec<Origin> {
        let slots: Vec<usize> =
            self.waiting.iter().filter(|(_, w)| w.peer == peer).map(|(slot, _)| slot).collect();
        slots.into_iter().map(|slot| self.waiting.remove(slot).origin).collect()
    }

    /// How many wait.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heronry_engine::Ack;

    fn origin(seq: u64) -> Origin {
        Origin::Connection { conn: 0, generation: 0, seq, ack: Ack::Sealed }
    }

    #[test]
    fn o1_a_token_is_good_once_also_when_its_slot_is_reused() {
        let mut out = Outstanding::new(1);
        let first = out.insert(ShardId(1), origin(1));
        assert_eq!(out.take(first), Some(origin(1)));
        assert_eq!(out.take(first), None);
        let second = out.insert(ShardId(1), origin(2));
        assert_eq!(out.take(first), None);
        assert_eq!(out.take(second), Some(origin(2)));
        assert_eq!(out.take(u64::MAX), None);
    }

    #[test]
    fn o1_an_answer_meant_for_an_earlier_life_finds_nothing() {
        let late = Outstanding::new(1).insert(ShardId(1), origin(1));
        let mut next = Outstanding::new(2);
        next.insert(ShardId(1), origin(2));
        assert_eq!(next.take(late), None);
    }

    #[test]
    fn o2_a_lost_peer_hands_back_its_origins_only() {
        let mut out = Outstanding::new(1);
        out.insert(ShardId(1), origin(1));
        let kept = out.insert(ShardId(2), origin(2));
        out.insert(ShardId(1), origin(3));
        assert_eq!(out.take_all(ShardId(1)), vec![origin(1), origin(3)]);
        assert_eq!(out.take(kept), Some(origin(2)));
        assert_eq!(out.count(), 0);
    }
}
