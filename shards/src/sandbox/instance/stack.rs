//! Stacks: what calls into guests run on, made in bulk and used again.
//!
//! Owns: their memory and guard pages.  Not: how deep a guest may call (`engine_config`).
//! N1  below each stack lies a page that nothing can touch.
//! N2  a stack is handed out once at a time; a used one keeps only its top in memory.
//!
//! Guard pages are made in the page tables where the kernel can (Linux 6.13, MADV_GUARD_INSTALL),
//! so that all stacks are one mapping and do not count against the process's limit.
#![allow(unsafe_code)]

use super::super::slot::PAGE;
use std::io;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, PoisonError};
use wasmtime::{StackCreator, StackMemory};

/// Stacks mapped at once.
const STACKS_PER_CHUNK: usize = 64;
/// What an idle stack keeps in memory: as much as a short call uses.
const KEEP_BYTES: usize = 4 * PAGE;
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// Stacks not in use, by the address of their lowest byte.
#[derive(Debug, Default)]
pub(super) struct Stacks {
    idle: Mutex<Vec<usize>>,
}

/// One stack in use.
struct Stack {
    start: usize,
    len_bytes: usize,
    home: Arc<Stacks>,
}

/// What the engine asks for stacks.
pub(super) struct Creator(pub(super) Arc<Stacks>);

// SAFETY: each stack is a range of whole pages of an anonymous mapping that is never unmapped,
// handed out once at a time (N2) with a guard page below it (N1), and zeroed when asked to be.
unsafe impl StackCreator for Creator {
    fn new_stack(
        &self,
        len_bytes: usize,
        zeroed: bool,
    ) -> Result<Box<dyn StackMemory>, wasmtime::Error> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.is_empty() {
            idle.extend(new_chunk(len_bytes).map_err(wasmtime::Error::new)?);
        }
        let start = idle.pop().expect("N2: a chunk has stacks");
        if zeroed {
            discard(start..start + len_bytes);
        }
        Ok(Box::new(Stack { start, len_bytes, home: Arc::clone(&self.0) }))
    }
}

// SAFETY: the range is whole pages, mapped and writable for ever; the page below it is a guard.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.start + self.len_bytes)
    }

    fn range(&self) -> Range<usize> {
        self.start..self.start + self.len_bytes
    }

    fn guard_range(&self) -> Range<*mut u8> {
        std::ptr::with_exposed_provenance_mut(self.start - PAGE)
            ..std::ptr::with_exposed_provenance_mut(self.start)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        discard(self.start..self.start + self.len_bytes - KEEP_BYTES);
        self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.start);
    }
}

/// Maps [`STACKS_PER_CHUNK`] stacks, for good; their lowest addresses.
fn new_chunk(len_bytes: usize) -> io::Result<impl Iterator<Item = usize>> {
    let stride_bytes = PAGE + len_bytes;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let chunk_bytes = STACKS_PER_CHUNK * stride_bytes;
    // SAFETY: a new anonymous mapping where the kernel likes; no memory of ours is named.
    let chunk = unsafe { libc::mmap(null_mut(), chunk_bytes, protection, flags, -1, 0) };
    if chunk == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the new mapping. Advice that a few written bytes shall not cost two megabytes; a
    // kernel without huge pages refuses it, which is as good.
    unsafe { libc::madvise(chunk, chunk_bytes, libc::MADV_NOHUGEPAGE) };
    let first = chunk.expose_provenance();
    for guard in (0..STACKS_PER_CHUNK).map(|nth| first + nth * stride_bytes) {
        close_page(guard)?;
    }
    Ok((0..STACKS_PER_CHUNK).map(move |nth| first + nth * stride_bytes + PAGE))
}

/// Makes the page at an address of a fresh chunk a guard.
fn close_page(address: usize) -> io::Result<()> {
    let page = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: a page of a chunk that nobody uses yet.
    if unsafe { libc::madvise(page, PAGE, MADV_GUARD_INSTALL) } == 0 {
        return Ok(());
    }
    // SAFETY: as above; a kernel without such guards splits the mapping instead.
    let rc = unsafe { libc::mprotect(page, PAGE, libc::PROT_NONE) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the memory of a part of an idle stack back; it reads as zeros from then on.
fn discard(bytes: Range<usize>) {
    let at = std::ptr::with_exposed_provenance_mut(bytes.start);
    // SAFETY: a part of a stack that nothing runs on. A refusal costs memory only.
    unsafe { libc::madvise(at, bytes.len(), libc::MADV_DONTNEED) };
}
