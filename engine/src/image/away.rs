//! Pages of an image that are in the log only: put, looked for, and given their bytes.
//!
//! Owns: P9 of `page/leaves.rs`, as images see it.  Not: which record has which page (`delta.rs`),
//! when they are read (`partition/paging.rs`).
//! A1  what an image has of such a page is the same for all images that share it, so that it is
//!     filled once, for all of them.

use super::{DIGIT_BITS, Image};
use crate::log::Place;
use crate::page::{Away, Frame, NODE_FANOUT, PageError, PageStore, Slot};
use std::ops::RangeInclusive;

impl Image {
    /// Makes page `page` one whose bytes are away. On an error nothing changed (M1).
    pub(crate) fn put_away(
        &mut self,
        store: &mut PageStore,
        page: u32,
        away: Away,
    ) -> Result<(), PageError> {
        store.ensure_away(&away, self.page_need(store, page).nodes)?;
        let above = self.own_nodes(store, page);
        let away = store.take_away_page(away);
        let old = self.hang(store, above, away);
        store.release(old, 0);
        Ok(())
    }

    /// Where the bytes of page `page` are, if it is away.
    pub(crate) fn away<'a>(&self, store: &'a PageStore, page: u32) -> Option<&'a Away> {
        store.away(self.leaf(store, page).page)
    }

    /// Whether any page is away. Cost: the nodes before the first that is.
    pub(crate) fn has_away(&self, store: &PageStore) -> bool {
        any(store, (self.root, self.height))
    }

    /// Appends the records of the away pages among `pages`, ascending by page; one that has
    /// neighbours is named once. Cost: the nodes above them.
    pub(crate) fn away_in(
        &self,
        store: &PageStore,
        pages: RangeInclusive<u32>,
        records: &mut Vec<Place>,
    ) {
        collect(store, (self.root, self.height), 0, &pages, records);
    }

    /// Gives page `page`, which is away, its bytes. On an error nothing changed.
    pub(crate) fn fill(
        &self,
        store: &mut PageStore,
        page: u32,
        bytes: &Frame,
    ) -> Result<(), PageError> {
        let leaf = self.leaf(store, page).page;
        store.fill(leaf, bytes)
    }
}

fn any(store: &PageStore, (slot, level): (Slot, u8)) -> bool {
    match level {
        _ if slot.is_absent() => false,
        0 => store.away(slot).is_some(),
        _ => store.children(slot).into_iter().any(|child| any(store, (child, level - 1))),
    }
}

fn collect(
    store: &PageStore,
    (slot, level): (Slot, u8),
    page: u32,
    pages: &RangeInclusive<u32>,
    records: &mut Vec<Place>,
) {
    if slot.is_absent() {
        return;
    }
    if level == 0 {
        if let Some(away) = store.away(slot)
            && records.last() != Some(&away.record)
        {
            records.push(away.record);
        }
        return;
    }
    let step = 1u64 << (DIGIT_BITS * (u32::from(level) - 1));
    for digit in 0..NODE_FANOUT {
        let first = u64::from(page) + digit as u64 * step;
        if first > u64::from(*pages.end()) {
            return;
        }
        if first + step > u64::from(*pages.start()) {
            let child = store.child(slot, digit);
            collect(store, (child, level - 1), first as u32, pages, records);
        }
    }
}
