//! An image as the oracle keeps it: bytes, which pages are there, and what it shares.
//!
//! Owns: when two images are one and the same, the differences of two.  Not: versions.
//! M1  `same` says exactly what the engine says, but for a cut that leaves an older image's bytes
//!     and happens to leave its pages too; see [`Memory::looks_like`].

use std::collections::BTreeSet;
use std::sync::Arc;

const PAGE: usize = 4096;
/// Equal bytes between two differing ones that are listed along with them when they are fewer.
const GAP: u64 = heronry_engine::image::DIFF_GAP_BYTES;

/// One image.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    bytes: Arc<Vec<u8>>,
    pages: Arc<BTreeSet<usize>>,
    /// Names the pages' present contents; 0 when there is none.
    root: u64,
}

impl Memory {
    /// `len` zeros without a page.
    pub fn zeros(len: usize) -> Memory {
        Memory { bytes: Arc::new(vec![0; len]), ..Memory::default() }
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Pages that are there.
    pub fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// Up to `len` bytes from `offset`.
    pub fn read(&self, offset: u64, len: u64) -> &[u8] {
        let start = offset.min(self.len() as u64);
        let end = (start + len).min(self.len() as u64);
        &self.bytes[start as usize..end as usize]
    }

    /// `N` bytes from `offset`, zeros past the end.
    pub fn array<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut out = [0; N];
        let there = self.read(offset, N as u64);
        out[..there.len()].copy_from_slice(there);
        out
    }

    /// Whether both have the same pages and length, as far as the engine can tell (M1).
    pub fn same(&self, other: &Memory) -> bool {
        self.root == other.root && self.len() == other.len()
    }

    /// Whether the bytes are the same.
    pub fn looks_like(&self, other: &Memory) -> bool {
        self.bytes == other.bytes
    }

    /// Writes; `root` names what it becomes if a page changes.
    pub fn write(&mut self, offset: u64, bytes: &[u8], root: u64) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if bytes.is_empty() {
            return;
        }
        let whole = Arc::make_mut(&mut self.bytes);
        if end > whole.len() {
            whole.resize(end, 0);
        }
        for page in start / PAGE..=(end - 1) / PAGE {
            let run = start.max(page * PAGE)..end.min((page + 1) * PAGE);
            if whole[run.clone()] != bytes[run.start - start..run.end - start] {
                Arc::make_mut(&mut self.pages).insert(page);
                self.root = root;
            }
        }
        whole[start..end].copy_from_slice(bytes);
    }

    /// Cuts or grows; `root` names what it becomes if a page changes.
    pub fn resize(&mut self, len: usize, root: u64) {
        let old_len = self.len();
        let whole = Arc::make_mut(&mut self.bytes);
        if len < old_len {
            let page_end = len.next_multiple_of(PAGE);
            let tail = &whole[len..page_end.min(old_len)];
            let kept = page_end / PAGE;
            let dropped = self.pages.last().is_some_and(|last| *last >= kept);
            if dropped || tail.iter().any(|byte| *byte != 0) {
                self.root = root;
            }
            if dropped {
                Arc::make_mut(&mut self.pages).retain(|page| *page < kept);
            }
            if self.pages.is_empty() {
                self.root = 0;
            }
        }
        whole.resize(len, 0);
    }

    /// Ranges `(start, length)` in which both differ.
    pub fn diff(&self, other: &Memory) -> Vec<(u64, u64)> {
        let (a, b) = (self.bytes(), other.bytes());
        let common = a.len().min(b.len());
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut add = |start: u64, end: u64| match ranges.last_mut() {
            Some(last) if start < last.0 + last.1 + GAP => last.1 = end - last.0,
            _ => ranges.push((start, end - start)),
        };
        // Whole lines first: most of two images is the same.
        for (line, (x, y)) in a[..common].chunks(256).zip(b[..common].chunks(256)).enumerate() {
            if x != y {
                for at in (0..x.len()).filter(|at| x[*at] != y[*at]) {
                    let at = (line * 256 + at) as u64;
                    add(at, at + 1);
                }
            }
        }
        if a.len() != b.len() {
            add(common as u64, a.len().max(b.len()) as u64);
        }
        ranges
    }
}
