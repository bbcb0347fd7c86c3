//! Differences of two images: the byte ranges in which they differ.
//!
//! Owns: the walk over two trees at once.  Not: anything that changes an image.
//! D1  what two images share (a subtree, a page) is skipped unread.
//! D2  every differing byte is in a range, and a range starts and ends with one; ranges ascend and
//!     are `DIFF_GAP_BYTES` or more apart.

use super::{Image, page_of};
use crate::limits::DIFF_RANGE_COUNT_MAX;
use crate::page::{Frame, LINE_BYTES, NODE_FANOUT, PAGE_BYTES, PageStore, Slot, ZERO_PAGE};
use crate::verb::DiffRange;

/// Equal bytes between two differing ones that are listed along with them when they are fewer: a
/// range takes as much room itself.
pub const DIFF_GAP_BYTES: u64 = size_of::<DiffRange>() as u64;

impl Image {
    /// The bytes in which `self` and `other` differ, both of `store`. Bytes past the end of the
    /// shorter one differ. Stops soon after `DIFF_RANGE_COUNT_MAX` ranges: a list longer than that
    /// is cut. Cost: the nodes and pages that the two do not share.
    pub fn diff(&self, other: &Image, store: &PageStore) -> Vec<DiffRange> {
        self.diff_over(other, store, &|_| None)
    }

    /// As [`Image::diff`], where what lies under page `n` is `under(n)`, zeros if nothing.
    pub fn diff_over<'a>(
        &self,
        other: &Image,
        store: &'a PageStore,
        under: &'a dyn Fn(u32) -> Option<&'a Frame>,
    ) -> Vec<DiffRange> {
        let common_bytes = self.len_bytes().min(other.len_bytes());
        let mut walk = Walk { store, under, common_bytes, ranges: Vec::new() };
        if common_bytes > 0 {
            let (a, b) = (Side::of(self), Side::of(other));
            walk.pages(a, b, a.height.max(b.height), 0);
        }
        walk.add(common_bytes, self.len_bytes().max(other.len_bytes()));
        walk.ranges
    }
}

impl Image {
    /// Appends the pages that are not the same in `self` and `other`, ascending; a page
    /// that one of them lacks is among them. Pass [`Image::EMPTY`] for all pages there are. Cost:
    /// the nodes that the two do not share (D1).
    pub fn changed_pages(&self, other: &Image, store: &PageStore, pages: &mut Vec<u32>) {
        let (a, b) = (Side::of(self), Side::of(other));
        changed(store, a, b, a.height.max(b.height), 0, pages);
    }
}

fn changed(store: &PageStore, a: Side, b: Side, level: u8, page: u32, pages: &mut Vec<u32>) {
    if a == b {
        return;
    }
    if level == 0 {
        return pages.push(page);
    }
    let step = 1u32 << (super::DIGIT_BITS * (u32::from(level) - 1));
    for digit in 0..NODE_FANOUT {
        let (a, b) = (a.child(store, level, digit), b.child(store, level, digit));
        changed(store, a, b, level - 1, page + digit as u32 * step, pages);
    }
}

/// A subtree `height` high. Standing at a level above, it is the first child of what is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Side {
    slot: Slot,
    height: u8,
}

impl Side {
    const ABSENT: Side = Side { slot: Slot::ABSENT, height: 0 };

    fn of(image: &Image) -> Side {
        let (slot, height) = image.root();
        if slot.is_absent() { Side::ABSENT } else { Side { slot, height } }
    }

    fn child(self, store: &PageStore, level: u8, digit: usize) -> Side {
        if self.height < level {
            return if digit == 0 { self } else { Side::ABSENT };
        }
        let slot = store.child(self.slot, digit);
        if slot.is_absent() { Side::ABSENT } else { Side { slot, height: level - 1 } }
    }
}

struct Walk<'a> {
    store: &'a PageStore,
    under: &'a dyn Fn(u32) -> Option<&'a Frame>,
    common_bytes: u64,
    ranges: Vec<DiffRange>,
}

impl<'a> Walk<'a> {
    fn page<'b>(&self, side: Side, page: u32, scratch: &'b mut Frame) -> &'b Frame
    where
        'a: 'b,
    {
        let under = (self.under)(page).unwrap_or(&ZERO_PAGE);
        if side.slot.is_absent() { under } else { self.store.page(side.slot, under, scratch) }
    }

    /// Compares two subtrees that stand at `level` above `page` (D1).
    fn pages(&mut self, a: Side, b: Side, level: u8, page: u32) {
        let full = self.ranges.len() > DIFF_RANGE_COUNT_MAX;
        if full || a == b || page > page_of(self.common_bytes - 1) {
            return;
        }
        if level == 0 {
            let (mut left, mut right) = (ZERO_PAGE, ZERO_PAGE);
            let (a, b) = (self.page(a, page, &mut left), self.page(b, page, &mut right));
            return self.bytes(a, b, page);
        }
        let step = 1u32 << (super::DIGIT_BITS * (u32::from(level) - 1));
        for digit in 0..NODE_FANOUT {
            let (a, b) = (a.child(self.store, level, digit), b.child(self.store, level, digit));
            self.pages(a, b, level - 1, page + digit as u32 * step);
        }
    }

    /// Compares two pages a line at a time; only lines that differ are looked at byte by byte.
    fn bytes(&mut self, a: &Frame, b: &Frame, page: u32) {
        let base = u64::from(page) * PAGE_BYTES as u64;
        let len = (self.common_bytes - base).min(PAGE_BYTES as u64) as usize;
        for start in (0..len).step_by(LINE_BYTES) {
            let line = start..(start + LINE_BYTES).min(len);
            if a[line.clone()] != b[line.clone()] {
                for at in line.filter(|at| a[*at] != b[*at]) {
                    self.add(base + at as u64, base + at as u64 + 1);
                }
            }
        }
    }

    /// Lists `start..end`, which lies past all that is listed (D2).
    fn add(&mut self, start: u64, end: u64) {
        if start == end {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if start - (last.start + last.len_bytes) < DIFF_GAP_BYTES => {
                last.len_bytes = end - last.start;
            }
            _ => self.ranges.push(DiffRange { start, len_bytes: end - start }),
        }
    }
}
