//! Ids of keys that clients named lately: a direct-mapped cache, so that a busy key is not hashed
//! for every command.
//!
//! Owns: the slots.  Not: the hash of a key (`AgentKey::id`).
//! I1  a hit has compared the whole key, so that what it gives is what `AgentKey::id` gives.
//! I2  it holds `SLOT_COUNT` keys at most; a longer key than fits into a slot is always hashed.

use heronry_engine::{AgentId, AgentKey, TenantId};

/// Slots, 64 bytes each: one shard's cache is 256 KiB.
const SLOT_COUNT: usize = 4096;
/// Bytes of a slot's key, the last of which holds the length.
const BLOCK_BYTES: usize = 48;

/// A key, zero-filled, its length at the end. No key is empty, so all zero is none (I1).
type Block = [u8; BLOCK_BYTES];

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Slot {
    block: Block,
    id: AgentId,
}

const _: () = assert!(size_of::<Slot>() == 64);

/// Ids of keys under the default tenant.
#[derive(Debug)]
pub struct Ids {
    slots: Box<[Slot]>,
}

impl Default for Ids {
    fn default() -> Ids {
        let empty = Slot { block: [0; BLOCK_BYTES], id: AgentId(0) };
        Ids { slots: vec![empty; SLOT_COUNT].into_boxed_slice() }
    }
}

impl Ids {
    /// The id of `key` (I1).
    #[inline]
    pub fn of(&mut self, key: &AgentKey) -> AgentId {
        let tenant = TenantId::default();
        let Some(block) = block_of(key.as_bytes()) else { return key.id(tenant) };
        let slot = &mut self.slots[place(&block)];
        if slot.block != block {
            *slot = Slot { block, id: key.id(tenant) };
        }
        slot.id
    }
}

#[inline]
fn block_of(key: &[u8]) -> Option<Block> {
    let mut block = [0; BLOCK_BYTES];
    let (text, len) = block.split_at_mut(BLOCK_BYTES - 1);
    text.get_mut(..key.len())?.copy_from_slice(key);
    len[0] = key.len() as u8;
    Some(block)
}

#[inline]
fn place(block: &Block) -> usize {
    // Multiply and fold, as Fibonacci hashing does: the upper bits depend on every lower one.
    let fold = |hash: u64, word: &[u8; 8]| {
        let mixed = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    };
    block.as_chunks().0.iter().fold(0, fold) as usize % SLOT_COUNT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i1_every_id_is_the_hash_however_keys_share_slots() {
        let mut ids = Ids::default();
        let keys = (0..3 * SLOT_COUNT).map(|n| format!("notebook/{n}"));
        let odd = ["n/x~1", "n/x~1~2", "n/x"].map(String::from);
        let lengths = (1..=253).map(|len| format!("n/{}", "x".repeat(len)));
        let keys: Vec<AgentKey> =
            keys.chain(odd).chain(lengths).map(|key| key.parse().expect("a good key")).collect();
        for key in keys.iter().chain(&keys).flat_map(|key| [key, key]) {
            assert_eq!(ids.of(key), key.id(TenantId::default()), "{key}");
        }
    }

    #[test]
    fn i2_numbered_keys_spread_over_the_slots() {
        let mut taken = vec![false; SLOT_COUNT];
        for n in 0..SLOT_COUNT {
            let block = block_of(format!("counter/{n:012}").as_bytes()).expect("it fits");
            taken[place(&block)] = true;
        }
        // Chance fills 1 - 1/e of them.
        let count = taken.iter().filter(|taken| **taken).count();
        assert!(count > SLOT_COUNT / 2, "{count} of {SLOT_COUNT}");
    }
}
