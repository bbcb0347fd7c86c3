//! Memories: how the runtime gets the slot prepared for an instance.
//!
//! Owns: the two traits that the runtime asks for.  Not: the memory (`slot.rs`).
//! L1  a slot is lent to one memory; an instantiation without a prepared slot fails.
//! L2  the lent memory has the addresses and the guard that compiled code relies on.
#![allow(unsafe_code)]

use super::super::slot::{Extent, GUARD_BYTES, MEMORY_BYTES_MAX};
use std::sync::{Arc, Mutex, PoisonError};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Where the slot of the next instantiation waits.
#[derive(Debug, Default)]
pub(super) struct Lender {
    next: Mutex<Option<Arc<Extent>>>,
}

impl Lender {
    /// The next memory made is this one.
    pub(super) fn prepare(&self, extent: Arc<Extent>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(extent);
    }

    /// Takes an unused slot back.
    pub(super) fn clear(&self) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What the engine asks for memories.
pub(super) struct Creator(pub(super) Arc<Lender>);

struct Memory(Arc<Extent>);

// SAFETY: the extent reserves 4 GiB and a guard (L2, checked below), of which everything past the
// memory's length is closed; it is mapped until the last holder is gone, and lent once (L1).
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum_bytes: usize,
        _maximum_bytes: Option<usize>,
        reserved_bytes: Option<usize>,
        guard_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let next = self.0.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let extent = next.ok_or("L1: no slot was prepared for this memory")?;
        if reserved_bytes != Some(MEMORY_BYTES_MAX) || guard_bytes > GUARD_BYTES {
            return Err(format!("L2: a reservation of {reserved_bytes:?} with {guard_bytes}"));
        }
        let len_bytes = extent.len_bytes();
        if len_bytes < minimum_bytes {
            return Err(format!("a module of {minimum_bytes} bytes in a slot of {len_bytes}"));
        }
        Ok(Box::new(Memory(extent)))
    }
}

// SAFETY: as above; the address never changes, and the first `byte_size` bytes are open.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.0.len_bytes()
    }

    fn byte_capacity(&self) -> usize {
        MEMORY_BYTES_MAX
    }

    fn grow_to(&mut self, len_bytes: usize) -> wasmtime::Result<()> {
        self.0.grow_to(len_bytes).map_err(wasmtime::Error::new)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}
