//! The busiest agents of late: a Space-Saving counter of fixed size.
//!
//! Owns: counts of the keys it follows.  Not: when they age (the caller halves them).
//! Source: Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in
//! data streams", ICDT 2005.
//! H1  true count <= estimate <= true count + error, for each key followed, between two halvings.
//! H2  a key with more than total / capacity touches is followed.
//! H3  the order of slots ascends by count; the same touches give the same state.

use hashbrown::HashTable;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

/// Estimated touches of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Estimate<K> {
    /// The key.
    pub key: K,
    /// Upper bound of its touches (H1).
    pub count: u64,
    /// How much too high `count` may be.
    pub error: u64,
}

/// Counts touches of the most touched keys. Cost of a touch: one or two hash look-ups and a binary
/// search over the capacity; no allocation.
pub struct SpaceSaving<K> {
    slots: Vec<Slot<K>>,
    /// Places by ascending count (H3).
    order: Vec<Place>,
    index: HashTable<u32>,
}

struct Slot<K> {
    key: Option<K>,
    error: u64,
    /// Where `order` has this slot.
    place: u32,
}

#[derive(Clone, Copy)]
struct Place {
    count: u64,
    slot: u32,
}

impl<K: Copy + Eq + Hash> SpaceSaving<K> {
    /// Follows up to `capacity` keys, at least one.
    pub fn new(capacity: u32) -> SpaceSaving<K> {
        let capacity = capacity.max(1);
        SpaceSaving {
            slots: (0..capacity).map(|place| Slot { key: None, error: 0, place }).collect(),
            order: (0..capacity).map(|slot| Place { count: 0, slot }).collect(),
            index: HashTable::with_capacity(capacity as usize),
        }
    }

    /// Counts one touch of `key`.
    pub fn touch(&mut self, key: K) {
        let hash = hash_of(&key);
        let found = self.index.find(hash, |at| self.slots[*at as usize].key == Some(key)).copied();
        let at = found.unwrap_or_else(|| self.follow(key, hash));
        self.count(at);
    }

    /// Stops following `key`; its slot is the next one to be reused.
    pub fn forget(&mut self, key: K) {
        let Some(at) = self.remove(key) else { return };
        let slot = &mut self.slots[at as usize];
        (slot.key, slot.error) = (None, 0);
        let place = slot.place as usize;
        self.order[place].count = 0;
        self.order[..=place].rotate_right(1);
        for (at, place) in self.order[..=place].iter().enumerate() {
            self.slots[place.slot as usize].place = at as u32;
        }
    }

    /// Halves all counts, so that old touches weigh less.
    pub fn halve(&mut self) {
        self.order.iter_mut().for_each(|place| place.count /= 2);
        self.slots.iter_mut().for_each(|slot| slot.error /= 2);
    }

    /// The `count_max` busiest keys, busiest first.
    pub fn top(&self, count_max: usize) -> Vec<Estimate<K>> {
        let estimate = |place: &Place| {
            let slot = &self.slots[place.slot as usize];
            slot.key.map(|key| Estimate { key, count: place.count, error: slot.error })
        };
        self.order.iter().rev().filter_map(estimate).take(count_max).collect()
    }

    /// Gives the slot with the lowest count to `key`, which inherits the count as its error.
    fn follow(&mut self, key: K, hash: u64) -> u32 {
        let Place { count, slot: at } = self.order[0];
        if let Some(old) = self.slots[at as usize].key {
            self.remove(old);
        }
        let slot = &mut self.slots[at as usize];
        (slot.key, slot.error) = (Some(key), count);
        let rehash = |at: &u32| self.slots[*at as usize].key.map_or(0, |key| hash_of(&key));
        self.index.insert_unique(hash, at, rehash);
        at
    }

    /// Adds one to a slot's count and moves it past its equals (H3).
    fn count(&mut self, at: u32) {
        let place = self.slots[at as usize].place as usize;
        let count = self.order[place].count;
        // Most often there are no equals: look at the neighbour before searching.
        let last = match self.order.get(place + 1) {
            Some(next) if next.count == count => {
                place + self.order[place..].partition_point(|p| p.count == count) - 1
            }
            _ => place,
        };
        self.order.swap(place, last);
        self.order[last].count += 1;
        self.slots[self.order[place].slot as usize].place = place as u32;
        self.slots[at as usize].place = last as u32;
    }

    fn remove(&mut self, key: K) -> Option<u32> {
        let is_key = |at: &u32| self.slots[*at as usize].key == Some(key);
        let entry = self.index.find_entry(hash_of(&key), is_key).ok()?;
        Some(entry.remove().0)
    }
}

fn hash_of<K: Hash>(key: &K) -> u64 {
    BuildHasherDefault::<Mix>::default().hash_one(key)
}

/// A fixed hasher for ids, which are hashes or small numbers. Not for keys that a client chooses
/// freely: it resists no attack.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // Multiply by 2^64 / golden ratio and fold the upper half in, as hash tables use both ends.
        let product = u128::from(self.0 ^ word) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }

    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A skewed stream: a generator of the kind that Knuth describes, folded towards small keys.
    fn skewed(seed: u64, count: usize) -> Vec<u64> {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % 1000
        };
        (0..count).map(|_| next() * next() * next() / 1_000_000).collect()
    }

    fn check(hot: &SpaceSaving<u64>) {
        let counts: Vec<u64> = hot.order.iter().map(|place| place.count).collect();
        assert!(counts.is_sorted(), "H3: {counts:?}");
        for (at, place) in hot.order.iter().enumerate() {
            assert_eq!(hot.slots[place.slot as usize].place as usize, at);
        }
        assert_eq!(hot.index.len(), hot.slots.iter().filter(|s| s.key.is_some()).count());
    }

    #[test]
    fn h1_estimates_bound_the_true_counts_and_h2_frequent_keys_are_followed() {
        for seed in 0..20 {
            let mut hot = SpaceSaving::new(32);
            let mut truth = BTreeMap::new();
            let stream = skewed(seed, 5000);
            for key in &stream {
                hot.touch(*key);
                *truth.entry(*key).or_insert(0u64) += 1;
            }
            check(&hot);
            let top = hot.top(32);
            for e in &top {
                let count = truth.get(&e.key).copied().unwrap_or(0);
                assert!(count <= e.count && e.count <= count + e.error, "H1: {e:?} {count}");
            }
            for (key, count) in truth {
                let followed = top.iter().any(|e| e.key == key);
                assert!(followed || count <= stream.len() as u64 / 32, "H2: {key} {count}");
            }
        }
    }

    #[test]
    fn h3_the_same_touches_give_the_same_state() {
        let run = || {
            let mut hot = SpaceSaving::new(16);
            for (n, key) in skewed(7, 3000).into_iter().enumerate() {
                hot.touch(key);
                match n % 500 {
                    100 => hot.forget(key),
                    200 => hot.halve(),
                    _ => {}
                }
                check(&hot);
            }
            hot.top(16)
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn h2_a_forgotten_key_is_gone_and_its_slot_is_reused_first() {
        let mut hot = SpaceSaving::new(2);
        for key in [1, 1, 1, 2, 2] {
            hot.touch(key);
        }
        hot.forget(1);
        hot.forget(9);
        hot.touch(3);
        let keys: Vec<u64> = hot.top(9).iter().map(|e| e.key).collect();
        assert_eq!(keys, [2, 3]);
        assert_eq!(hot.top(9)[1], Estimate { key: 3, count: 1, error: 0 });
        check(&hot);
    }
}
