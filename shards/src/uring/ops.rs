//! Operations in the kernel's hands: what each is, whose buffer it holds, which handle it is on.
//!
//! Owns: the table that a completion's `user_data` points into, the list of operations per handle,
//! the index by token.  Not: submission, the meaning of a completion.
//! O1  an operation's entry stays, and its buffer does not move, until the kernel's last
//!     completion for it; `user_data` holds the entry's generation, so a stray one finds nothing.

use crate::driver::{Handle, Token};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// No entry: the end of a list.
pub(super) const NONE: u32 = u32::MAX;
/// Buffers of files opened with `O_DIRECT` start at a multiple of this.
const DIRECT_ALIGN_BYTES: usize = 4096;

/// What an operation does, and how far it is.
#[derive(Debug)]
pub(super) enum Work {
    Accept,
    Receive,
    Send {
        bytes: Vec<u8>,
        done_bytes: usize,
    },
    Read {
        window: Window,
        len_bytes: usize,
        offset: u64,
        done_bytes: usize,
    },
    /// `window` is a copy of `bytes`, made only where `O_DIRECT` needs an aligned one.
    Write {
        bytes: Vec<u8>,
        window: Option<Window>,
        offset: u64,
        done_bytes: usize,
    },
}

/// Bytes inside a vector, aligned for `O_DIRECT` where asked.
#[derive(Debug)]
pub(super) struct Window {
    bytes: Vec<u8>,
    start: usize,
}

impl Window {
    pub(super) fn new(len_bytes: usize, direct: bool) -> Window {
        if !direct {
            return Window { bytes: vec![0; len_bytes], start: 0 };
        }
        let bytes = vec![0u8; len_bytes + DIRECT_ALIGN_BYTES];
        let start = bytes.as_ptr().align_offset(DIRECT_ALIGN_BYTES);
        Window { bytes, start }
    }

    /// An aligned copy of `bytes`.
    pub(super) fn copy_of(bytes: &[u8]) -> Window {
        let mut window = Window::new(bytes.len(), true);
        window.bytes[window.start..][..bytes.len()].copy_from_slice(bytes);
        window
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The first `len_bytes` of it.
    pub(super) fn into_bytes(mut self, len_bytes: usize) -> Vec<u8> {
        self.bytes.copy_within(self.start..self.start + len_bytes, 0);
        self.bytes.truncate(len_bytes);
        self.bytes
    }
}

/// Whether bytes at this address can go to an `O_DIRECT` file as they are.
pub(super) fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(DIRECT_ALIGN_BYTES) == 0
}

/// One operation.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) token: Token,
    pub(super) handle: Handle,
    pub(super) work: Work,
    /// Cancelled, or its handle closed: it is not submitted again, and its data is not handed on
    /// once the handle is closed.
    pub(super) stopping: bool,
    /// Not in the kernel's hands: a receive that waits for a buffer.
    pub(super) starved: bool,
    /// Next operation on the same handle.
    pub(super) next: u32,
    prev: u32,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    pending: Option<Pending>,
    free_next: u32,
}

/// Tokens are numbers the loop chose: one multiplication spreads them well enough.
#[derive(Default)]
pub(super) struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// The table of operations. Every operation on it costs O(1).
#[derive(Debug)]
pub(super) struct Ops {
    slots: Vec<Slot>,
    free: u32,
    open_count: usize,
    by_token: HashMap<Token, u32, BuildHasherDefault<TokenHasher>>,
}

impl Ops {
    pub(super) fn new() -> Ops {
        Ops { slots: Vec::new(), free: NONE, open_count: 0, by_token: HashMap::default() }
    }

    pub(super) fn open_count(&self) -> usize {
        self.open_count
    }

    /// Adds an operation in front of the list that starts at `first`, which becomes it.
    pub(super) fn insert(
        &mut self,
        token: Token,
        handle: Handle,
        work: Work,
        first: &mut u32,
    ) -> u32 {
        let pending = Pending {
            token,
            handle,
            work,
            stopping: false,
            starved: false,
            next: *first,
            prev: NONE,
        };
        let idx = if self.free == NONE {
            self.slots.push(Slot { generation: 0, pending: Some(pending), free_next: NONE });
            (self.slots.len() - 1) as u32
        } else {
            let idx = self.free;
            let slot = &mut self.slots[idx as usize];
            self.free = slot.free_next;
            slot.pending = Some(pending);
            idx
        };
        if *first != NONE {
            self.at(*first).prev = idx;
        }
        *first = idx;
        self.open_count += 1;
        self.by_token.insert(token, idx);
        idx
    }

    /// Takes an operation out that has ended, and out of its handle's list.
    pub(super) fn remove(&mut self, idx: u32, first: &mut u32) -> Pending {
        let slot = &mut self.slots[idx as usize];
        let pending = slot.pending.take().expect("O1: an operation ends once");
        slot.generation = slot.generation.wrapping_add(1);
        slot.free_next = self.free;
        self.free = idx;
        self.open_count -= 1;
        if self.by_token.get(&pending.token) == Some(&idx) {
            self.by_token.remove(&pending.token);
        }
        if pending.next != NONE {
            self.at(pending.next).prev = pending.prev;
        }
        if pending.prev == NONE {
            *first = pending.next;
        } else {
            self.at(pending.prev).next = pending.next;
        }
        pending
    }

    pub(super) fn at(&mut self, idx: u32) -> &mut Pending {
        let slot = &mut self.slots[idx as usize];
        slot.pending.as_mut().expect("O1: an open operation has an entry")
    }

    pub(super) fn user_data(&self, idx: u32) -> u64 {
        (u64::from(self.slots[idx as usize].generation) << 32) | u64::from(idx)
    }

    /// The operation a completion belongs to, if it is still open (O1).
    pub(super) fn find(&self, user_data: u64) -> Option<u32> {
        let idx = user_data as u32;
        let slot = self.slots.get(idx as usize)?;
        (slot.pending.is_some() && u64::from(slot.generation) == user_data >> 32).then_some(idx)
    }

    /// The newest open operation of this token.
    pub(super) fn find_token(&self, token: Token) -> Option<u32> {
        self.by_token.get(&token).copied()
    }

    /// Takes every operation out.
    pub(super) fn take_all(&mut self) -> Vec<Pending> {
        self.open_count = 0;
        self.free = NONE;
        self.by_token.clear();
        self.slots.drain(..).filter_map(|slot| slot.pending).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(ops: &mut Ops, token: u64, first: &mut u32) -> u32 {
        ops.insert(Token(token), Handle(0), Work::Receive, first)
    }

    #[test]
    fn o1_a_stray_completion_finds_nothing() {
        let (mut ops, mut first) = (Ops::new(), NONE);
        let idx = insert(&mut ops, 1, &mut first);
        let old = ops.user_data(idx);
        assert_eq!(ops.find(old), Some(idx));
        ops.remove(idx, &mut first);
        assert_eq!(ops.find(old), None);
        let again = insert(&mut ops, 2, &mut first);
        assert_eq!(again, idx);
        assert_eq!(ops.find(old), None);
        assert_eq!(ops.find(ops.user_data(again)), Some(again));
        assert_eq!(ops.find_token(Token(1)), None);
    }

    #[test]
    fn the_list_of_a_handle_survives_removals_in_any_order() {
        for gone in 0..5 {
            let (mut ops, mut first) = (Ops::new(), NONE);
            let all: Vec<u32> = (0..5).map(|token| insert(&mut ops, token, &mut first)).collect();
            ops.remove(all[gone], &mut first);
            let mut seen = Vec::new();
            let mut idx = first;
            while idx != NONE {
                seen.push(ops.at(idx).token.0);
                idx = ops.at(idx).next;
            }
            let want: Vec<u64> = (0..5).rev().filter(|token| *token != gone as u64).collect();
            assert_eq!(seen, want);
            assert_eq!(ops.open_count(), 4);
        }
    }

    #[test]
    fn a_direct_window_is_aligned_and_gives_its_bytes_back() {
        let data: Vec<u8> = (0..9000u32).map(|value| value as u8).collect();
        let window = Window::copy_of(&data);
        assert!(is_aligned(window.as_slice()));
        assert_eq!(window.into_bytes(8192), data[..8192]);
    }
}
