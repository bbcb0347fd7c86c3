//! Receive buffers that the kernel picks from: one registered buffer ring.
//!
//! Owns: the ring of free buffers and the buffers' memory.  Not: who receives what.
//! B1  a buffer is either the kernel's (in the ring) or ours (named by a completion and not yet
//!     given back); its bytes are read only while it is ours.
//! B2  the memory outlives the io_uring instance it is registered with.
#![allow(unsafe_code)]

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use memmap2::MmapMut;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// The only buffer group of a ring.
pub(super) const GROUP: u16 = 0;
/// Most buffers a ring holds; the kernel's limit.
pub(super) const BUFFER_COUNT_MAX: u16 = 1 << 15;

/// The buffer ring of one io_uring instance.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Array of `BufRingEntry`; the unused last field of the first is the ring's tail.
    ring: MmapMut,
    bytes: MmapMut,
    buffer_count: u16,
    buffer_bytes: u32,
    /// Our tail, ahead of the shared one until `publish`.
    tail: u16,
}

impl Buffers {
    /// Allocates and registers `buffer_count` (a power of two) buffers.
    pub(super) fn register(
        uring: &IoUring,
        buffer_count: u16,
        buffer_bytes: u32,
    ) -> io::Result<Buffers> {
        assert!(
            buffer_count.is_power_of_two() && buffer_count <= BUFFER_COUNT_MAX,
            "B1: {buffer_count} buffers do not make a ring"
        );
        let ring_bytes = usize::from(buffer_count) * size_of::<BufRingEntry>();
        let ring = MmapMut::map_anon(ring_bytes)?;
        let bytes = MmapMut::map_anon(usize::from(buffer_count) * buffer_bytes as usize)?;
        let mut buffers = Buffers { ring, bytes, buffer_count, buffer_bytes, tail: 0 };
        for buffer in 0..buffer_count {
            buffers.give_back(buffer);
        }
        buffers.publish();
        // SAFETY: the ring is `buffer_count` entries of page-aligned memory, and stays mapped
        // until after the instance is gone (B2).
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                buffers.ring.as_ptr() as u64,
                buffer_count,
                GROUP,
                0,
            )?;
        }
        Ok(buffers)
    }

    pub(super) fn count(&self) -> usize {
        usize::from(self.buffer_count)
    }

    /// The received bytes. `buffer` and `len_bytes` are as a completion named them.
    pub(super) fn received(&self, buffer: u16, len_bytes: usize) -> &[u8] {
        assert!(
            buffer < self.buffer_count && len_bytes <= self.buffer_bytes as usize,
            "B1: buffer {buffer} with {len_bytes} bytes"
        );
        let offset = usize::from(buffer) * self.buffer_bytes as usize;
        // SAFETY: `offset` is inside the mapping, as `buffer` is below the count.
        let start = unsafe { self.bytes.as_ptr().add(offset) };
        // SAFETY: inside the mapping by the assertion; the buffer is ours, so the kernel does not
        // write to it (B1), and giving it back needs `&mut self`, which ends this borrow.
        unsafe { std::slice::from_raw_parts(start, len_bytes) }
    }

    /// Puts a buffer back; the kernel sees it at the next `publish`.
    pub(super) fn give_back(&mut self, buffer: u16) {
        let idx = usize::from(self.tail & (self.buffer_count - 1));
        let offset = usize::from(buffer) * self.buffer_bytes as usize;
        let address = self.bytes.as_ptr() as u64 + offset as u64;
        let entries = self.ring.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: `idx` is below the entry count of the mapping.
        let entry = unsafe { entries.add(idx) };
        // SAFETY: aligned memory of the ring, which the kernel does not read beyond the published
        // tail. The setters leave the last field alone: in entry 0 it is the tail.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was given back.
    pub(super) fn publish(&mut self) {
        // SAFETY: points at the first entry of the ring, which `give_back` wrote.
        let tail = unsafe { BufRingEntry::tail(self.ring.as_ptr().cast()) };
        // SAFETY: an aligned u16 inside the mapping; only this thread writes it, the kernel reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
