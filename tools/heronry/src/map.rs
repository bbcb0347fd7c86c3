//! A compiled config as a mapped file.
//!
//! Owns: the one mapping and why it is sound.  Not: what the bytes mean.
//! M1  the mapping is private and read-only; what is used of it is checked by its hash first.

use memmap2::Mmap;
use std::fs::File;
use std::io;

/// Maps a whole file. Error: it cannot be mapped; an empty file cannot.
#[allow(unsafe_code)]
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: a mapped file must not change under its reader. Compiled configs are never written
    // in place: `heronry config compile` writes another file and renames it over this one, which
    // leaves this mapping on the old file. Whoever edits one by hand breaks its hash (M1).
    unsafe { Mmap::map(file) }
}
