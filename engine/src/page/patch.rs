//! Patches: some lines of a page, to be read over another page.
//!
//! Owns: the lines, and comparing pages by lines.  Not: which page is patched over which
//! (`leaves.rs`).
//! L1  a patch has as many lines as its mask has bits, in their order.

use super::{Frame, PAGE_BYTES};
use std::ops::Range;

/// Bytes that a patch keeps or leaves out as one.
pub(crate) const LINE_BYTES: usize = 64;
/// Lines that are compared in one go where some differ.
const BLOCK_LINES: usize = 8;

const _: () = assert!(PAGE_BYTES / LINE_BYTES == u64::BITS as usize);

pub(crate) type Line = [u8; LINE_BYTES];

/// Lines of a page, as bits.
pub(crate) type Lines = u64;

/// A page without a frame: these lines over those of another page.
#[derive(Default)]
pub(super) struct Patch {
    /// The page to read for all other lines; `NIL`: what is under.
    pub(super) newer: u32,
    /// Which lines are here; in this order in `lines`.
    pub(super) mask: Lines,
    pub(super) lines: Vec<Line>,
}

impl Patch {
    /// Bytes that it takes (P8).
    pub(super) fn bytes(&self) -> u64 {
        (size_of::<Patch>() + self.lines.len() * LINE_BYTES) as u64
    }

    /// Makes these lines what `from` gives for them.
    pub(super) fn put(&mut self, lines: Lines, mut from: impl FnMut(usize) -> Line) {
        each(lines & self.mask, |line| {
            let at = (self.mask & ((1 << line) - 1)).count_ones() as usize;
            self.lines[at] = from(line);
        });
        self.add(lines, from);
    }

    /// Adds those of `wanted` that are not here, from `from`.
    pub(super) fn add(&mut self, wanted: Lines, mut from: impl FnMut(usize) -> Line) {
        let missing = wanted & !self.mask;
        self.lines.reserve_exact(missing.count_ones() as usize);
        if self.mask == 0 {
            each(missing, |line| self.lines.push(from(line)));
        } else {
            each(missing, |line| {
                let at = (self.mask & ((1 << line) - 1)).count_ones() as usize;
                self.lines.insert(at, from(line));
                self.mask |= 1 << line;
            });
        }
        self.mask |= missing;
    }

    /// A line, if it is here.
    pub(super) fn line(&self, line: usize) -> Option<&Line> {
        let at = (self.mask & ((1 << line) - 1)).count_ones() as usize;
        (self.mask & (1 << line) != 0).then(|| &self.lines[at])
    }

    /// The lines here, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Line)> {
        let mut left = self.mask;
        self.lines.iter().map(move |line| {
            let at = left.trailing_zeros() as usize;
            left &= left - 1;
            (at, line)
        })
    }
}

/// Those of `wanted` lines in which two pages differ. Cost: about a comparison of the pages.
pub(crate) fn differing(a: &Frame, b: &Frame, wanted: Lines) -> Lines {
    let (a, b) = (lines(a), lines(b));
    let (mut left, mut found) = (wanted, 0);
    while left != 0 {
        let start = left.trailing_zeros() as usize;
        let end = start + (left >> start).trailing_ones() as usize;
        // Clears the run: adding its lowest bit carries past its highest.
        left &= left.wrapping_add(1 << start);
        // Mostly all of a run is equal, else most blocks of it are.
        if a[start..end] == b[start..end] {
            continue;
        }
        for block in (start..end).step_by(BLOCK_LINES) {
            let block = block..end.min(block + BLOCK_LINES);
            if a[block.clone()] != b[block.clone()] {
                for line in block {
                    found |= u64::from(a[line] != b[line]) << line;
                }
            }
        }
    }
    found
}

/// The bytes in which two lines differ, as bits.
pub(crate) fn differing_bytes(a: &Line, b: &Line) -> u64 {
    const LOW: u64 = u64::MAX / 255 * 0x7f;
    // Brings the lowest bits of eight bytes together in the highest.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    words.rev().fold(0, |found, (a, b)| {
        let differs = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        // The highest bit of each byte that is not zero: no carry leaves its byte.
        let high = (((differs & LOW) + LOW) | differs) & !LOW;
        found << 8 | (high >> 7).wrapping_mul(GATHER) >> 56
    })
}

/// The lines that a range of bytes touches.
pub(crate) fn lines_of(range: Range<usize>) -> Lines {
    if range.is_empty() {
        return 0;
    }
    let (first, last) = (range.start / LINE_BYTES, (range.end - 1) / LINE_BYTES);
    (!0 << first) & (!0 >> (u64::BITS as usize - 1 - last))
}

pub(crate) fn lines(page: &Frame) -> &[Line] {
    page.as_chunks().0
}

pub(super) fn lines_mut(page: &mut Frame) -> &mut [Line] {
    page.as_chunks_mut().0
}

pub(crate) fn each(mut mask: Lines, mut act: impl FnMut(usize)) {
    while mask != 0 {
        act(mask.trailing_zeros() as usize);
        mask &= mask - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_bytes_touch() {
        assert_eq!(lines_of(0..0), 0);
        assert_eq!(lines_of(0..1), 1);
        assert_eq!(lines_of(63..65), 3);
        assert_eq!(lines_of(0..PAGE_BYTES), !0);
        assert_eq!(lines_of(4095..4096), 1 << 63);
        let (a, mut b) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
        (b[0], b[200]) = (1, 1);
        assert_eq!(differing(&a, &b, !0), 1 | 1 << 3);
        assert_eq!(differing(&a, &b, !1), 1 << 3);
        assert_eq!(differing(&a, &a, !0), 0);
    }

    #[test]
    fn bytes_that_differ_are_bits() {
        let a = [0x55; LINE_BYTES];
        assert_eq!(differing_bytes(&a, &a), 0);
        assert_eq!(differing_bytes(&a, &[0xAA; LINE_BYTES]), !0);
        for at in 0..LINE_BYTES {
            for changed in [0x54, 0xD5, 0, 0xFF, 0x75] {
                let mut b = a;
                b[at] = changed;
                assert_eq!(differing_bytes(&a, &b), 1 << at);
                b[LINE_BYTES - 1 - at] = 1;
                assert_eq!(differing_bytes(&b, &a), 1 << at | 1 << (LINE_BYTES - 1 - at));
            }
        }
    }
}
