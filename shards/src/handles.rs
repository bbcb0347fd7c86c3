//! Handles: numbers for open sockets, listeners and files, never mistaken for one another.
//!
//! Owns: what stands behind a `Handle`, and when a number may be used again.
//! Not: the operations open on it (each driver's own).
//! H1  a handle of something removed finds nothing, whatever took its place: its upper bits count
//!     the uses of its slot. (They wrap after 256 uses; free slots are reused oldest first.)

use crate::driver::Handle;
use std::collections::VecDeque;

/// Low bits of a handle: the slot. The rest counts the slot's uses.
const SLOT_BITS: u32 = 24;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

/// A table of open things. Insert, find and remove cost O(1).
#[derive(Debug)]
pub(crate) struct Handles<T> {
    slots: Vec<(u32, Option<T>)>,
    free: VecDeque<u32>,
}

impl<T> Handles<T> {
    pub(crate) fn new() -> Handles<T> {
        Handles { slots: Vec::new(), free: VecDeque::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> Handle {
        let slot = match self.free.pop_front() {
            Some(slot) => slot,
            None => {
                let slot = self.slots.len() as u32;
                assert!(slot <= SLOT_MASK, "H1: {slot} handles open at once");
                self.slots.push((0, None));
                slot
            }
        };
        let entry = &mut self.slots[slot as usize];
        entry.1 = Some(value);
        Handle((entry.0 << SLOT_BITS) | slot)
    }

    pub(crate) fn get(&self, handle: Handle) -> Option<&T> {
        let (uses, value) = self.slots.get((handle.0 & SLOT_MASK) as usize)?;
        value.as_ref().filter(|_| *uses == handle.0 >> SLOT_BITS)
    }

    pub(crate) fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let (uses, value) = self.slots.get_mut((handle.0 & SLOT_MASK) as usize)?;
        value.as_mut().filter(|_| *uses == handle.0 >> SLOT_BITS)
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<T> {
        self.get(handle)?;
        let slot = handle.0 & SLOT_MASK;
        let entry = &mut self.slots[slot as usize];
        entry.0 = (entry.0 + 1) & (u32::MAX >> SLOT_BITS);
        self.free.push_back(slot);
        entry.1.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h1_an_old_handle_finds_nothing_in_its_reused_slot() {
        let mut handles = Handles::new();
        let first = handles.insert("first");
        assert_eq!(handles.get(first), Some(&"first"));
        assert_eq!(handles.remove(first), Some("first"));
        assert_eq!(handles.remove(first), None);
        for _ in 0..200 {
            let next = handles.insert("next");
            assert_ne!(next, first);
            assert_eq!(handles.get(first), None);
            assert_eq!(handles.get_mut(first), None);
            assert_eq!(handles.remove(next), Some("next"));
        }
        assert_eq!(handles.slots.len(), 1);
    }
}
