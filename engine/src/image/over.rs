//! Images over a template's: pages that are read and put along with the template's page.
//!
//! Owns: M5 of `image.rs`.  Not: what the template's pages are; the caller brings them along, for
//! each page the same one always.

use super::{Image, PAGE, Run};
use crate::page::{Lines, PAGE_BYTES, PageError, PageStore, ZERO_PAGE, differing};

impl Image {
    /// As [`Image::read`], where what lies under page `n` is `under(n)`, zeros if nothing (M5).
    pub fn read_over<'u>(
        &self,
        store: &PageStore,
        offset: u64,
        out: &mut Vec<u8>,
        len: usize,
        under: &dyn Fn(u32) -> Option<&'u [u8; PAGE_BYTES]>,
    ) -> usize {
        let len = self.readable(offset, len);
        out.reserve(len);
        let mut scratch = ZERO_PAGE;
        for run in Run::split(offset, len) {
            let under = under(run.page).unwrap_or(&ZERO_PAGE);
            let page = self.page(store, run.page, under, &mut scratch).unwrap_or(under);
            out.extend_from_slice(&page[run.in_page()]);
        }
        len
    }

    /// Makes `bytes` the page `page_idx`, which lies before the image's end, over the template's
    /// page `under` (M5); returns whether the image changed. Cost: a comparison, the lines that
    /// change, and a path of nodes where a version holds the page. On an error nothing changed.
    pub fn put_page(
        &mut self,
        store: &mut PageStore,
        page_idx: u32,
        under: &[u8; PAGE_BYTES],
        bytes: &[u8; PAGE_BYTES],
    ) -> Result<bool, PageError> {
        let end = (u64::from(page_idx) + 1) * PAGE;
        assert!(end <= self.len_bytes, "M2: page {page_idx} is past the image's end");
        let leaf = self.leaf(store, page_idx);
        let lines = if leaf.page.is_absent() {
            differing(under, bytes, !0)
        } else {
            store.differing(leaf.page, under, bytes)
        };
        if lines == 0 {
            return Ok(false);
        }
        if leaf.unshared {
            store.ensure(leaf.change_need(store, lines))?;
            store.write_lines(leaf.page, under, lines, bytes);
            return Ok(true);
        }
        let few = lines.count_ones() <= Lines::BITS / 2;
        let root = !leaf.page.is_absent() && store.is_root(leaf.page);
        let mut need = self.page_need(store, page_idx);
        // A root that is a patch may come to need a frame, beside the lines of the older page.
        need.frames += u32::from(root && store.whole_page(leaf.page).is_none());
        store.ensure(need)?;
        if root && few {
            let page = self.own_page(store, page_idx, false);
            store.write_lines(page, under, lines, bytes);
            return Ok(true);
        }
        let above = self.own_nodes(store, page_idx);
        let page = store.take_page_over(under, bytes);
        let old = self.hang(store, above, page);
        store.release(old, 0);
        Ok(true)
    }
}
