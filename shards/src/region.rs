//! A memfd mapped into several processes, seen as atomic words only.
//!
//! Owns: creating, growing and mapping such files, and the only casts from mapped bytes to types.
//! Not: what the words mean.
//! E1  the file is sealed against shrinking before it is mapped, so no mapped page can vanish.
//! E2  shared bytes are reached through atomics only; every bit pattern is a valid atomic.

#![allow(unsafe_code)]

use crate::control::{ControlBlock, NodeLine};
use crate::counters::CounterBlock;
use crate::histogram::HistBlock;
use crate::ring::RingHead;
use crate::sync::AtomicU64;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A type that mapped words can be seen as.
///
/// # Safety
/// It is `repr(C)` or `repr(transparent)`, holds only `AtomicU64`s and padding, and all zero is a
/// valid value.
pub unsafe trait Words {}

// SAFETY: it is the atomic word itself.
unsafe impl Words for AtomicU64 {}
// SAFETY: repr(C), lines of atomic words only, zero is an empty ring.
unsafe impl Words for RingHead {}
// SAFETY: repr(C), atomic words only, zero is a node without changes.
unsafe impl Words for NodeLine {}
// SAFETY: repr(C), lines of atomic words only, zero is an empty seat.
unsafe impl Words for ControlBlock {}
// SAFETY: repr(C), one array of atomic words, zero is a fresh block.
unsafe impl Words for CounterBlock {}
// SAFETY: repr(C), atomic words and an array of them, zero is an empty histogram.
unsafe impl Words for HistBlock {}

/// A mapped memfd. The mapping covers the whole file as it was when mapped.
#[derive(Debug)]
pub struct Region {
    file: File,
    map: MmapRaw,
}

impl Region {
    /// A new zeroed region of `len_bytes`, closed on exec. `fixed` also forbids growing.
    pub fn create(name: &str, len_bytes: u64, fixed: bool) -> io::Result<Region> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create(name, flags)?);
        file.set_len(len_bytes)?;
        let mut seals = SealFlags::SHRINK;
        if fixed {
            seals |= SealFlags::GROW | SealFlags::SEAL;
        }
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Region::map(file)
    }

    /// Maps a region that another process created.
    /// Errors: not a memfd of [`Region::create`], empty, or not mappable.
    pub fn attach(fd: OwnedFd) -> io::Result<Region> {
        Region::map(File::from(fd))
    }

    /// Makes the file `len_bytes` long, if it is shorter, and maps it anew. Fails: nothing changed.
    pub fn grow(&mut self, len_bytes: u64) -> io::Result<()> {
        if len_bytes > self.file.metadata()?.len() {
            self.file.set_len(len_bytes)?;
        }
        self.map = map_checked(&self.file)?;
        Ok(())
    }

    /// The file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Mapped bytes.
    pub fn len_bytes(&self) -> usize {
        self.map.len()
    }

    /// `count` values of `T` that begin `offset_bytes` into the region.
    #[inline]
    pub fn view<T: Words>(&self, offset_bytes: usize, count: usize) -> &[T] {
        let room_bytes = self.map.len().checked_sub(offset_bytes);
        let fits = room_bytes.is_some_and(|room_bytes| count <= room_bytes / size_of::<T>());
        assert!(fits, "E2: view past the region's end");
        assert!(offset_bytes.is_multiple_of(align_of::<T>()), "E2: view out of line");
        // SAFETY: the offset is within the mapping or at its end, as was just checked.
        let start = unsafe { self.map.as_ptr().add(offset_bytes) };
        // SAFETY: `count` values fit the mapping (checked above), which is page-aligned, readable
        // and writable, stays mapped while `self` is borrowed, and cannot lose pages (E1). `T`
        // holds only atomics for which any bits are valid (trait contract), so that writes of
        // other processes through the same pages are atomic accesses to interior-mutable cells.
        unsafe { std::slice::from_raw_parts(start.cast::<T>(), count) }
    }

    /// Gives the memory of a range back; it reads as zeros from then on. Advice: may do nothing.
    pub fn discard(&self, offset_bytes: u64, len_bytes: u64) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // A refusal costs memory only, and the range is written again before it is read.
        let _ = rustix::fs::fallocate(&self.file, flags, offset_bytes, len_bytes);
    }

    fn map(file: File) -> io::Result<Region> {
        let map = map_checked(&file)?;
        Ok(Region { file, map })
    }
}

fn map_checked(file: &File) -> io::Result<MmapRaw> {
    let seals = rustix::fs::fcntl_get_seals(file)?;
    if !seals.contains(SealFlags::SHRINK) {
        let reason = "E1: not sealed against shrinking";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let len_bytes = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    MmapOptions::new().len(len_bytes).map_raw(file)
}
