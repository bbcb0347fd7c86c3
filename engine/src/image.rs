//! Images: an agent's memory as a persistent radix tree of pages, shared by versions and branches.
//!
//! Owns: how pages hang in a tree.  Not: their bytes and counts (`page.rs`), which version is which
//! (`version.rs`).  Seal and fork copy a root; a first write after them copies one path of nodes.
//! M1  a change is all or nothing: what it takes is counted first, so `Full` changes nothing.
//! M2  an absent page reads as zeros; so does every frame byte past the image's end.
//! M3  one image never changes what another one reads.
//! M4  an image of one page is its frame, without a node.
//! M5  an image may lie over a template's: an absent page then is the template's, and one that was
//!     put ([`Image::put_page`]) is read and put along with the template's page, never written.

mod away;
mod cut;
mod delta;
mod diff;
mod over;
mod usage;

use crate::limits::IMAGE_BYTES_MAX;
use crate::page::{
    Frame, Lines, NODE_FANOUT, Need, PAGE_BYTES, PageError, PageStore, Slot, ZERO_PAGE, lines_of,
};

use std::ops::RangeInclusive;

pub(crate) use delta::{Elsewhere, Pages, Under};
pub use diff::DIFF_GAP_BYTES;
pub use usage::Usage;

const PAGE: u64 = PAGE_BYTES as u64;
/// log2 of [`NODE_FANOUT`].
const DIGIT_BITS: u32 = NODE_FANOUT.trailing_zeros();
/// Nodes between the root of the longest image and a frame, both ends counted.
const HEIGHT_MAX: u8 = 5;

const _: () = assert!(1 << DIGIT_BITS == NODE_FANOUT);
const _: () = assert!(IMAGE_BYTES_MAX == PAGE << (DIGIT_BITS * HEIGHT_MAX as u32));
const _: () = assert!(size_of::<Image>() == 16);

/// A value of memory: `len_bytes` bytes in a [`PageStore`].
///
/// It holds a reference in its store and has no destructor: end it with [`Image::release`].
#[must_use = "an image that is not released leaks its pages"]
#[derive(Debug)]
pub struct Image {
    len_bytes: u64,
    root: Slot,
    height: u8,
}

impl Image {
    /// No bytes, no pages.
    pub const EMPTY: Image = Image { len_bytes: 0, root: Slot::ABSENT, height: 0 };

    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The same value once more. Cost: one count, whatever the length.
    pub fn share(&self, store: &mut PageStore) -> Image {
        store.retain(self.root, self.height);
        Image { ..*self }
    }

    /// Ends the image. Cost: the pages and nodes that no other image holds.
    pub fn release(self, store: &mut PageStore) {
        store.release(self.root, self.height);
    }

    /// Whether both have the same root, so that neither has changed since one was shared from the
    /// other. Equal bytes in different pages are not the same.
    pub fn same(&self, other: &Image) -> bool {
        (self.len_bytes, self.root, self.height) == (other.len_bytes, other.root, other.height)
    }

    /// Appends up to `len` bytes from `offset` to `out`, less at the image's end; returns how many.
    pub fn read(&self, store: &PageStore, offset: u64, out: &mut Vec<u8>, len: usize) -> usize {
        let len = self.readable(offset, len);
        out.reserve(len);
        for run in Run::split(offset, len) {
            let leaf = self.leaf(store, run.page);
            leaf.with_bytes(store, |page| out.extend_from_slice(&page[run.in_page()]));
        }
        len
    }

    /// Fills `out` from `offset`; stops at the image's end and leaves the rest of `out` as it was.
    /// Returns how many bytes it filled.
    pub fn read_into(&self, store: &PageStore, offset: u64, out: &mut [u8]) -> usize {
        let len = self.readable(offset, out.len());
        for run in Run::split(offset, len) {
            let part = &mut out[run.in_bytes()];
            let leaf = self.leaf(store, run.page);
            leaf.with_bytes(store, |page| part.copy_from_slice(&page[run.in_page()]));
        }
        len
    }

    /// Page `page_idx`, counted from 0, put together in `scratch` where it is not in one piece;
    /// `None` when never written or past the end. `under` is the template's page (M5), or zeros.
    pub fn page<'a>(
        &self,
        store: &'a PageStore,
        page_idx: u32,
        under: &[u8; PAGE_BYTES],
        scratch: &'a mut [u8; PAGE_BYTES],
    ) -> Option<&'a [u8; PAGE_BYTES]> {
        let leaf = self.leaf(store, page_idx);
        if leaf.page.is_absent() { None } else { Some(store.page(leaf.page, under, scratch)) }
    }

    /// Whether the image has page `page_idx`: it was written, and is not past the end.
    pub fn has_page(&self, store: &PageStore, page_idx: u32) -> bool {
        !self.leaf(store, page_idx).page.is_absent()
    }

    /// Writes `bytes` at `offset`, and grows the image when they end past its end; a gap reads as
    /// zeros. Returns whether the image changed; bytes that shared or absent pages hold already do
    /// not count. Cost: the bytes, and for a page that a version holds a path of nodes and the
    /// lines that change. On an error nothing changed (M1).
    pub fn write(
        &mut self,
        store: &mut PageStore,
        offset: u64,
        bytes: &[u8],
    ) -> Result<bool, PageError> {
        let end = offset.saturating_add(bytes.len() as u64);
        check_len(end)?;
        if bytes.is_empty() {
            return Ok(false);
        }
        let at = (offset % PAGE) as usize;
        let changed = if at + bytes.len() <= PAGE_BYTES {
            let run = Run { page: page_of(offset), page_start: at, start: 0, len: bytes.len() };
            let leaf = self.leaf(store, run.page);
            if leaf.unshared {
                store.ensure(leaf.change_need(store, lines_of(run.in_page())))?;
                store.write(leaf.page, run.page_start, bytes);
                true
            } else {
                leaf.changes_by(store, &run, bytes) && self.copy_one(store, run, bytes)?
            }
        } else {
            self.write_many(store, offset, bytes)?
        };
        let grows = end > self.len_bytes;
        self.len_bytes = self.len_bytes.max(end);
        Ok(changed || grows)
    }

    /// Makes the image `len_bytes` long: cut, or grown by zeros, which take no page. Cost of
    /// growing: none; of cutting: the pages dropped. On an error nothing changed (M1).
    pub fn resize(&mut self, store: &mut PageStore, len_bytes: u64) -> Result<(), PageError> {
        check_len(len_bytes)?;
        if len_bytes < self.len_bytes {
            self.cut(store, len_bytes)?;
        }
        self.len_bytes = len_bytes;
        Ok(())
    }

    pub(crate) fn root(&self) -> (Slot, u8) {
        (self.root, self.height)
    }

    fn readable(&self, offset: u64, len: usize) -> usize {
        self.len_bytes.saturating_sub(offset).min(len as u64) as usize
    }

    /// The page at `page`, and whether it and all nodes above it are this image's alone.
    fn leaf(&self, store: &PageStore, page: u32) -> Leaf {
        if page_span(self.height) <= u64::from(page) {
            return Leaf { page: Slot::ABSENT, unshared: false };
        }
        let (mut slot, mut unshared) = (self.root, true);
        for level in (1..=self.height).rev() {
            if slot.is_absent() {
                break;
            }
            unshared &= store.is_unshared(slot, level);
            slot = store.child(slot, digit(page, level));
        }
        unshared = unshared && !slot.is_absent() && store.is_unshared(slot, 0);
        Leaf { page: slot, unshared }
    }

    /// Writes `bytes` into one page that must be copied or made. Returns true.
    fn copy_one(
        &mut self,
        store: &mut PageStore,
        run: Run,
        bytes: &[u8],
    ) -> Result<bool, PageError> {
        store.ensure(self.page_need(store, run.page))?;
        let page = self.own_page(store, run.page, bytes.len() == PAGE_BYTES);
        store.write(page, run.page_start, bytes);
        Ok(true)
    }

    /// What making or copying one page takes.
    fn page_need(&self, store: &PageStore, page: u32) -> Need {
        let height = self.height.max(height_of(page + 1));
        let nodes = self.nodes_to_make(store, page, height, None) + self.nodes_to_raise(height);
        Need { frames: 1, nodes }
    }

    /// Writes `bytes` page by page. Returns whether a page changed.
    fn write_many(
        &mut self,
        store: &mut PageStore,
        offset: u64,
        bytes: &[u8],
    ) -> Result<bool, PageError> {
        let last = page_of(offset + bytes.len() as u64 - 1);
        let height = self.height.max(height_of(last + 1));
        let Some(need) = self.write_need(store, offset, bytes, height) else {
            return Ok(false);
        };
        store.ensure(need)?;
        let before = (store.used_bytes(), store.node_count());
        self.raise(store, height);
        for run in Run::split(offset, bytes.len()) {
            let part = &bytes[run.in_bytes()];
            if self.leaf(store, run.page).changes_by(store, &run, part) {
                let page = self.own_page(store, run.page, part.len() == PAGE_BYTES);
                store.write(page, run.page_start, part);
            }
        }
        let used_bytes_max = before.0 + u64::from(need.frames) * PAGE;
        assert!(store.used_bytes() <= used_bytes_max, "M1: took more than was counted");
        assert_eq!(store.node_count(), before.1 + need.nodes, "M1: took what was counted");
        Ok(true)
    }

    /// What a write takes, once the tree is `height` high; `None` when it changes no page.
    fn write_need(&self, store: &PageStore, offset: u64, bytes: &[u8], height: u8) -> Option<Need> {
        let mut need = Need::default();
        let mut last = None;
        for run in Run::split(offset, bytes.len()) {
            let leaf = self.leaf(store, run.page);
            if leaf.changes_by(store, &run, &bytes[run.in_bytes()]) {
                need.frames += leaf.change_need(store, lines_of(run.in_page())).frames;
                need.nodes += self.nodes_to_make(store, run.page, height, last);
                last = Some(run.page);
            }
        }
        need.nodes += self.nodes_to_raise(height);
        last.map(|_| need)
    }

    /// Nodes to put above the root for a tree `height` high.
    fn nodes_to_raise(&self, height: u8) -> u32 {
        if self.root.is_absent() { 0 } else { u32::from(height - self.height) }
    }

    /// Nodes to copy or make so that all nodes above `page` are this image's alone, given that the
    /// tree was raised to `height` and that those above `last` are made already.
    fn nodes_to_make(&self, store: &PageStore, page: u32, height: u8, last: Option<u32>) -> u32 {
        let prefix = |page: u32, level: u8| page >> (DIGIT_BITS * u32::from(level));
        let inside = u64::from(page) < page_span(self.height);
        let mut slot = if inside { self.root } else { Slot::ABSENT };
        let mut unshared = true;
        let mut count = 0;
        for level in (1..=height).rev() {
            let ready = if level > self.height {
                // Raising the tree makes the nodes above page 0.
                !self.root.is_absent() && prefix(page, level) == 0
            } else if slot.is_absent() {
                false
            } else {
                unshared &= store.is_unshared(slot, level);
                slot = store.child(slot, digit(page, level));
                unshared
            };
            let made = last.is_some_and(|last| prefix(last, level) == prefix(page, level));
            count += u32::from(!ready && !made);
        }
        count
    }

    /// Puts nodes above the root until the tree is `height` high.
    fn raise(&mut self, store: &mut PageStore, height: u8) {
        while self.height < height {
            if !self.root.is_absent() {
                let node = store.take_node();
                store.replace_child(node, 0, self.root);
                self.root = node;
            }
            self.height += 1;
        }
    }

    /// The page at `page`, made this image's alone with all nodes above it. The caller has ensured
    /// what that takes, and overwrites every byte when `whole`.
    fn own_page(&mut self, store: &mut PageStore, page: u32, whole: bool) -> Slot {
        let above = self.own_nodes(store, page);
        self.own(store, above, 0, !whole)
    }

    /// All nodes above `page`, made this image's alone; where the page hangs: the last node and its
    /// child's digit, or the root.
    fn own_nodes(&mut self, store: &mut PageStore, page: u32) -> Option<(Slot, usize)> {
        self.raise(store, self.height.max(height_of(page + 1)));
        let mut above = None;
        for level in (1..=self.height).rev() {
            let node = self.own(store, above, level, true);
            above = Some((node, digit(page, level)));
        }
        above
    }

    /// Hangs `slot` at `above` (the root when `None`); what was there.
    fn hang(&mut self, store: &mut PageStore, above: Option<(Slot, usize)>, slot: Slot) -> Slot {
        match above {
            Some((node, digit)) => store.replace_child(node, digit, slot),
            None => std::mem::replace(&mut self.root, slot),
        }
    }

    /// What hangs at `above` (the root when `None`), made this image's alone: itself, a copy, or a
    /// new empty one.
    fn own(
        &mut self,
        store: &mut PageStore,
        above: Option<(Slot, usize)>,
        level: u8,
        keep_bytes: bool,
    ) -> Slot {
        let slot = above.map_or(self.root, |(node, digit)| store.child(node, digit));
        let own = if slot.is_absent() {
            let made = if level > 0 { store.take_node() } else { store.take_page() };
            if level == 0 && keep_bytes {
                store.write(made, 0, &ZERO_PAGE);
            }
            made
        } else if store.is_unshared(slot, level) {
            return slot;
        } else if level > 0 {
            store.take_node_copy(slot, level)
        } else {
            store.take_page_copy(slot, keep_bytes)
        };
        self.hang(store, above, own);
        own
    }
}

/// A page as an image sees it.
struct Leaf {
    page: Slot,
    unshared: bool,
}

impl Leaf {
    /// Whether writing `part` here changes the image. An unshared page is not compared.
    fn changes_by(&self, store: &PageStore, run: &Run, part: &[u8]) -> bool {
        self.unshared || self.with_bytes(store, |page| page[run.in_page()] != *part)
    }

    /// What a change of these lines takes, beside nodes.
    fn change_need(&self, store: &PageStore, lines: Lines) -> Need {
        let frames = if self.unshared { store.change_frames(self.page, lines) } else { 1 };
        Need { frames, nodes: 0 }
    }

    /// Hands the page's bytes to `act`, zeros for an absent one.
    fn with_bytes<R>(&self, store: &PageStore, act: impl FnOnce(&Frame) -> R) -> R {
        if self.page.is_absent() {
            return act(&ZERO_PAGE);
        }
        match store.whole_page(self.page) {
            Some(page) => act(page),
            None => act(store.page(self.page, &ZERO_PAGE, &mut [0; PAGE_BYTES])),
        }
    }
}

/// The part of a byte range that lies in one page.
struct Run {
    page: u32,
    page_start: usize,
    start: usize,
    len: usize,
}

impl Run {
    /// The parts of `offset..offset + len`, page by page.
    fn split(offset: u64, len: usize) -> impl Iterator<Item = Run> {
        let mut start = 0;
        std::iter::from_fn(move || {
            if start == len {
                return None;
            }
            let at = offset + start as u64;
            let page_start = (at % PAGE) as usize;
            let run_len = (PAGE_BYTES - page_start).min(len - start);
            let run = Run { page: page_of(at), page_start, start, len: run_len };
            start += run_len;
            Some(run)
        })
    }

    fn in_page(&self) -> std::ops::Range<usize> {
        self.page_start..self.page_start + self.len
    }

    fn in_bytes(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len
    }
}

fn check_len(len_bytes: u64) -> Result<(), PageError> {
    if len_bytes > IMAGE_BYTES_MAX {
        return Err(PageError::TooLong { len_bytes, len_bytes_max: IMAGE_BYTES_MAX });
    }
    Ok(())
}

/// The pages of a range of bytes, which is not empty.
pub(crate) fn pages_of(offset: u64, len: u64) -> RangeInclusive<u32> {
    let page = |at: u64| u32::try_from(at / PAGE).unwrap_or(u32::MAX);
    page(offset)..=page(offset.saturating_add(len - 1))
}

fn page_of(offset: u64) -> u32 {
    (offset / PAGE) as u32
}

/// Pages below a root `height` high.
fn page_span(height: u8) -> u64 {
    1 << (DIGIT_BITS * u32::from(height))
}

/// Height of the lowest tree with room for `page_count` pages.
fn height_of(page_count: u32) -> u8 {
    let bits = u32::BITS - (page_count - 1).leading_zeros();
    bits.div_ceil(DIGIT_BITS) as u8
}

/// Which child of a node at `level` leads to `page`.
fn digit(page: u32, level: u8) -> usize {
    (page >> (DIGIT_BITS * (u32::from(level) - 1))) as usize % NODE_FANOUT
}
