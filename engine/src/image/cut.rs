//! Cutting an image: what lies past its new end goes, and the tree gets lower.
//!
//! Owns: which nodes and which page that changes, counted before anything does (M1 of `image.rs`).
//! Not: growing, which takes nothing.

use super::{HEIGHT_MAX, Image, Leaf, digit, height_of, page_of, page_span};
use crate::page::{
    Frame, NODE_FANOUT, Need, PAGE_BYTES, PageError, PageStore, Slot, ZERO_PAGE, lines_of,
};

impl Image {
    /// Drops what lies past `len_bytes`, less than the present length, and lowers the tree.
    pub(super) fn cut(&mut self, store: &mut PageStore, len_bytes: u64) -> Result<(), PageError> {
        if len_bytes == 0 {
            std::mem::replace(self, Image::EMPTY).release(store);
            return Ok(());
        }
        let last = page_of(len_bytes - 1);
        if u64::from(last) >= page_span(self.height) {
            return Ok(()); // The tree ends before the cut.
        }
        let tail = (len_bytes - 1) as usize % PAGE_BYTES + 1;
        let height = self.height.min(height_of(last + 1));
        let plan = self.cut_plan(store, last, tail, height);
        store.ensure(plan.need)?;
        while self.height > height {
            self.lower(store);
        }
        let mut above = None;
        for level in (1..=self.height).rev().filter(|level| plan.levels[usize::from(*level)]) {
            let node = self.own(store, above, level, true);
            let boundary = digit(last, level);
            for digit in boundary + 1..NODE_FANOUT {
                let dropped = store.replace_child(node, digit, Slot::ABSENT);
                store.release(dropped, level - 1);
            }
            above = Some((node, boundary));
        }
        if plan.levels[0] {
            let page = self.own(store, above, 0, true);
            store.write(page, tail, &ZERO_PAGE[tail..]);
        }
        Ok(())
    }

    /// Drops one page, which reads as what is under it then. On an error nothing changed (M1).
    pub(super) fn drop_page(&mut self, store: &mut PageStore, page: u32) -> Result<(), PageError> {
        if self.has_page(store, page) {
            let Need { nodes, .. } = self.page_need(store, page);
            store.ensure(Need { frames: 0, nodes })?;
            let above = self.own_nodes(store, page);
            let old = self.hang(store, above, Slot::ABSENT);
            store.release(old, 0);
        }
        Ok(())
    }

    /// Which levels above `last`, the last page to stay, a cut changes; a level that changes has
    /// all above it changed too.
    fn cut_plan(&self, store: &PageStore, last: u32, tail: usize, height: u8) -> CutPlan {
        let mut path = [(Slot::ABSENT, false); HEIGHT_MAX as usize + 1];
        let (mut slot, mut unshared) = (self.root, true);
        for level in (0..=self.height).rev() {
            if slot.is_absent() {
                break;
            }
            unshared &= store.is_unshared(slot, level);
            path[usize::from(level)] = (slot, unshared);
            if level > 0 {
                slot = store.child(slot, digit(last, level));
            }
        }
        let mut plan = CutPlan::default();
        let mut changes = false;
        for level in 0..=height {
            let (slot, unshared) = path[usize::from(level)];
            if slot.is_absent() {
                continue;
            }
            if level == 0 {
                let leaf = Leaf { page: slot, unshared };
                let is_zero = |page: &Frame| page[tail..].iter().all(|byte| *byte == 0);
                // A page that stays whole may be away.
                changes = tail < PAGE_BYTES && !leaf.with_bytes(store, is_zero);
                if changes {
                    plan.need = leaf.change_need(store, lines_of(tail..PAGE_BYTES));
                }
            } else {
                let past = digit(last, level) + 1;
                changes |= store.children(slot)[past..].iter().any(|child| !child.is_absent());
                plan.need.nodes += u32::from(changes && !unshared);
            }
            plan.levels[usize::from(level)] = changes;
        }
        plan
    }

    /// Makes the root's first child the root.
    fn lower(&mut self, store: &mut PageStore) {
        if !self.root.is_absent() {
            let child = store.child(self.root, 0);
            store.retain(child, self.height - 1);
            store.release(self.root, self.height);
            self.root = child;
        }
        self.height -= 1;
    }
}

/// What a cut changes on the path of the last page that stays.
#[derive(Default)]
struct CutPlan {
    levels: [bool; HEIGHT_MAX as usize + 1],
    need: Need,
}
