//! Numbered slots: values that keep a `u32` number for life and never move in memory.
//!
//! Owns: the chunks and the free list.  Not: what the values mean; links between slots are `u32`s
//! that their owners keep.
//! S1  a slot's number is reused only after its value was removed.
//! S2  growth adds one chunk and copies nothing, so no insert pays for the ones before it.

use std::ops::{Index, IndexMut};

/// "No slot", in links between slots.
pub const NIL: u32 = u32::MAX;
/// Values per chunk; a power of two.
const CHUNK_COUNT: u32 = 256;
const CHUNK_BITS: u32 = CHUNK_COUNT.trailing_zeros();

enum Slot<T> {
    Free { next: u32 },
    Used(T),
}

/// A growing table of numbered values.
pub struct Slots<T> {
    chunks: Vec<Vec<Slot<T>>>,
    free: u32,
    used_count: u32,
    /// Numbers given out so far: used and free ones.
    end: u32,
}

impl<T> Slots<T> {
    /// Bytes that one value takes here.
    #[cfg(test)]
    pub const BYTES_EACH: usize = size_of::<Slot<T>>();

    /// An empty table; allocates nothing.
    pub const fn new() -> Slots<T> {
        Slots { chunks: Vec::new(), free: NIL, used_count: 0, end: 0 }
    }

    /// Values held.
    pub fn count(&self) -> u32 {
        self.used_count
    }

    /// One past the highest number ever given out.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Stores `value`; the number most recently freed is used first.
    pub fn insert(&mut self, value: T) -> u32 {
        self.used_count += 1;
        if self.free != NIL {
            let number = self.free;
            let slot = self.slot_mut(number);
            let Slot::Free { next } = *slot else {
                unreachable!("S1: the free list leads to used slot {number}");
            };
            *slot = Slot::Used(value);
            self.free = next;
            return number;
        }
        let number = self.end;
        assert!(number < NIL, "S1: out of slot numbers");
        if number.is_multiple_of(CHUNK_COUNT) {
            self.chunks.push(Vec::with_capacity(CHUNK_COUNT as usize));
        }
        self.chunks[(number >> CHUNK_BITS) as usize].push(Slot::Used(value));
        self.end += 1;
        number
    }

    /// Takes the value out and frees its number.
    pub fn remove(&mut self, number: u32) -> T {
        let next = self.free;
        let slot = std::mem::replace(self.slot_mut(number), Slot::Free { next });
        let Slot::Used(value) = slot else { unreachable!("S1: removed free slot {number}") };
        self.free = number;
        self.used_count -= 1;
        value
    }

    /// The value at `number`, if there is one.
    pub fn get(&self, number: u32) -> Option<&T> {
        match self.chunks.get((number >> CHUNK_BITS) as usize)?.get(place(number))? {
            Slot::Used(value) => Some(value),
            Slot::Free { .. } => None,
        }
    }

    /// Every value with its number, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.end).filter_map(|number| self.get(number).map(|value| (number, value)))
    }

    fn slot_mut(&mut self, number: u32) -> &mut Slot<T> {
        &mut self.chunks[(number >> CHUNK_BITS) as usize][place(number)]
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots::new()
    }
}

impl<T> Index<u32> for Slots<T> {
    type Output = T;
    #[track_caller]
    fn index(&self, number: u32) -> &T {
        match &self.chunks[(number >> CHUNK_BITS) as usize][place(number)] {
            Slot::Used(value) => value,
            Slot::Free { .. } => unreachable!("S1: slot {number} is free"),
        }
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    #[track_caller]
    fn index_mut(&mut self, number: u32) -> &mut T {
        match self.slot_mut(number) {
            Slot::Used(value) => value,
            Slot::Free { .. } => unreachable!("S1: slot {number} is free"),
        }
    }
}

fn place(number: u32) -> usize {
    (number & (CHUNK_COUNT - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_numbers_are_reused_only_after_removal() {
        let mut slots = Slots::new();
        let numbers: Vec<u32> = (0..1000).map(|n| slots.insert(n)).collect();
        assert_eq!(numbers, (0..1000).collect::<Vec<u32>>());
        assert_eq!(slots.remove(300), 300);
        assert!(slots.get(300).is_none());
        assert_eq!(slots.insert(7), 300);
        assert_eq!(slots.insert(8), 1000);
        assert_eq!(slots.count(), 1001);
        assert_eq!(slots.iter().count(), 1001);
        assert!(slots.get(5000).is_none());
    }

    #[test]
    fn s2_a_slot_costs_no_more_than_its_value() {
        assert_eq!(size_of::<Slot<(u64, Box<u8>)>>(), size_of::<(u64, Box<u8>)>());
    }

    #[test]
    fn s2_values_stay_where_they_are() {
        let mut slots = Slots::new();
        let first = slots.insert([0u8; 64]);
        let address = std::ptr::from_ref(&slots[first]) as usize;
        for _ in 0..10_000 {
            slots.insert([1; 64]);
        }
        assert_eq!(address, std::ptr::from_ref(&slots[first]) as usize);
    }
}
