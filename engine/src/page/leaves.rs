//! Leaves: the pages at the bottom of all trees, whole or as what differs from another page.
//!
//! Owns: frames, the pages' counts, patches.  Not: nodes above, which page hangs where.
//! A page that changes while older versions hold it is not copied: its bytes go to the new page,
//! and the old one keeps a *patch*, the lines in which the two differ. A page of which few lines
//! differ from a template's is a patch too, over the page *under* it, which the reader has.
//! P5  a patched page and the page it is read over name each other; a page has one patch over it at
//!     most. The last page of such a chain, its root, has a frame or is a patch over what is under.
//! P6  a page that only a patch needs does not stay: its bytes go to that patch.
//! P7  a page's bytes change only while it has one reference, and what its patch shows does not
//!     change then: the lines about to change are saved in the patch first (P1).
//! P8  frames and patches, which are on the heap, count at most what all frames would.
//! P9  an *away* page has its bytes in the log; until it is filled it may be shared and ended only.

use super::counts::{LIST_END, RefTable};
use super::patch::{LINE_BYTES, Line, Lines, Patch, differing, each, lines, lines_mut, lines_of};
use super::{Away, Frame, PAGE_BYTES};
use crate::slots::{NIL, Slots};

/// A patch of more lines becomes a page with a frame: as a patch it would save less than half. One
/// that inherits lines (P6) may come to more.
const PATCH_LINES_MAX: usize = 32;
/// Pages for each frame there is, at most: so many may be patched.
const PAGES_PER_FRAME_MAX: u64 = 40;
/// The word of a page that says where its bytes are: a frame, with [`PATCHED`] a patch, or with
/// [`AWAY`] a record.
const HOME: usize = 1;
/// The word of a page that says which page is patched over it, plus one; 0: none.
const OLDER: usize = 2;
const PATCHED: u32 = 1 << 31;
const AWAY: u32 = 1 << 30;

/// The pages of a store.
pub(super) struct Leaves {
    frames: &'static mut [Frame],
    /// Which frames are in use; each by one page.
    frames_used: RefTable,
    pages: RefTable<3>,
    patches: Slots<Patch>,
    patch_bytes: u64,
    /// Where the bytes of away pages are (P9).
    aways: Slots<Away>,
}

impl Leaves {
    /// No pages yet. Touches no frame.
    pub(super) fn new(frames: &'static mut [Frame]) -> Leaves {
        assert!(frames.len() < AWAY as usize, "P2: more frames than a page can name");
        let page_count = (frames.len() as u64 * PAGES_PER_FRAME_MAX).min(u64::from(LIST_END));
        Leaves {
            frames_used: RefTable::new(frames.len() as u32),
            frames,
            pages: RefTable::new(page_count as u32),
            patches: Slots::new(),
            patch_bytes: 0,
            aways: Slots::new(),
        }
    }

    pub(super) fn into_frames(self) -> &'static mut [u8] {
        self.frames.as_flattened_mut()
    }

    pub(super) fn frames(&self) -> &RefTable {
        &self.frames_used
    }

    pub(super) fn pages(&self) -> &RefTable<3> {
        &self.pages
    }

    pub(super) fn patch_bytes(&self) -> u64 {
        self.patch_bytes
    }

    /// Bytes of frames and patches.
    pub(super) fn used_bytes(&self) -> u64 {
        u64::from(self.frames_used.used()) * PAGE_BYTES as u64 + self.patch_bytes
    }

    /// Frames, or as much as frames, that can be taken (P8).
    pub(super) fn room_count(&self) -> u32 {
        let all_bytes = u64::from(self.frames_used.capacity()) * PAGE_BYTES as u64;
        (all_bytes.saturating_sub(self.used_bytes()) / PAGE_BYTES as u64) as u32
    }

    /// Bytes that a page takes by itself, at most those of a frame.
    pub(super) fn bytes_of(&self, page: u32) -> u64 {
        if let Some(away) = self.away(page) {
            return away.bytes().min(PAGE_BYTES as u64);
        }
        let frame = PAGE_BYTES as u64;
        self.patch(page).map_or(frame, |number| self.patches[number].bytes().min(frame))
    }

    pub(super) fn ref_count(&self, page: u32) -> u32 {
        self.pages.count(page)
    }

    #[inline]
    pub(super) fn retain(&mut self, page: u32) {
        self.pages.retain(page);
    }

    /// Drops a reference; the last one ends the page (P6). Cost: up to the lines of two patches.
    #[inline]
    pub(super) fn release(&mut self, page: u32) {
        if self.pages.release(page) {
            self.end(page);
        }
    }

    /// A page of its own, of any bytes. The caller has ensured that there is room.
    pub(super) fn take(&mut self) -> u32 {
        let frame = self.frames_used.take().expect("P2: a frame was ensured");
        self.page_at(frame)
    }

    /// A page whose bytes are away (P9). The caller has ensured room for its changes.
    pub(super) fn take_away(&mut self, away: Away) -> u32 {
        self.patch_bytes += away.bytes();
        let number = self.aways.insert(away);
        assert!(number < AWAY, "P2: more away pages than a page can name");
        self.page_at(number | AWAY)
    }

    /// Where a page's bytes are, if it is away (P9).
    #[inline]
    pub(super) fn away(&self, page: u32) -> Option<&Away> {
        let home = self.pages.word(page, HOME);
        (home & (PATCHED | AWAY) == AWAY).then(|| &self.aways[home & !AWAY])
    }

    /// Gives an away page its bytes. The caller has ensured room for a frame.
    pub(super) fn fill(&mut self, page: u32, bytes: &Frame) {
        let home = self.pages.word(page, HOME);
        assert!(home & (PATCHED | AWAY) == AWAY, "P9: filled page {page}, which is not away");
        self.drop_away(home);
        let frame = self.frames_used.take().expect("P2: a frame was ensured");
        self.frames[frame as usize] = *bytes;
        self.pages.set_word(page, HOME, frame);
    }

    /// A page of these bytes, by what differs from `under` where that is little. The caller has
    /// ensured room for a frame.
    pub(super) fn take_over(&mut self, under: &Frame, bytes: &Frame) -> u32 {
        let mask = differing(under, bytes, !0);
        if mask.count_ones() as usize > PATCH_LINES_MAX {
            let page = self.take();
            self.frames[self.pages.word(page, HOME) as usize] = *bytes;
            return page;
        }
        let mut patch = Patch { newer: NIL, mask: 0, lines: Vec::new() };
        patch.add(mask, |line| lines(bytes)[line]);
        let home = self.keep_patch(patch);
        self.page_at(home)
    }

    /// The page that stands for `shared` where that is about to change: the same bytes, or any with
    /// `keep_bytes` false. Drops a reference to `shared`, which keeps others.
    /// Cost: none to speak of when `shared` is a root (P5), else the copy of a page.
    pub(super) fn take_copy(&mut self, shared: u32, under: &Frame, keep_bytes: bool) -> u32 {
        let last = self.pages.release(shared);
        assert!(!last, "P1: copied what needs no copy {shared}");
        if !keep_bytes {
            return self.take();
        }
        assert!(self.away(shared).is_none(), "P9: copied page {shared}, which is away");
        if !self.is_root(shared) {
            let mut bytes = [0; PAGE_BYTES];
            self.compose(shared, under, &mut bytes);
            let copy = self.take();
            self.frames[self.pages.word(copy, HOME) as usize] = bytes;
            return copy;
        }
        let copy = self.page_at(self.pages.word(shared, HOME));
        let home = self.keep_patch(Patch { newer: copy, mask: 0, lines: Vec::new() });
        self.pages.set_word(shared, HOME, home);
        self.pages.set_word(copy, OLDER, shared + 1);
        copy
    }

    /// Whether a page is the last of its chain (P5).
    pub(super) fn is_root(&self, page: u32) -> bool {
        self.patch(page).is_none_or(|number| self.patches[number].newer == NIL)
    }

    /// The bytes of a page that has a frame.
    #[inline]
    pub(super) fn whole(&self, page: u32) -> Option<&Frame> {
        let home = self.pages.word(page, HOME);
        (home & (PATCHED | AWAY) == 0).then(|| &self.frames[home as usize])
    }

    /// Bytes of a page, in its frame or put together in `scratch`.
    #[inline]
    pub(super) fn read<'a>(
        &'a self,
        page: u32,
        under: &Frame,
        scratch: &'a mut Frame,
    ) -> &'a Frame {
        match self.whole(page) {
            Some(frame) => frame,
            None => {
                self.compose(page, under, scratch);
                scratch
            }
        }
    }

    /// The lines in which a page differs from `bytes`.
    pub(super) fn differing(&self, page: u32, under: &Frame, bytes: &Frame) -> Lines {
        let (mut at, mut missing, mut found) = (page, !0, 0);
        while let Some(number) = self.patch(at) {
            let patch = &self.patches[number];
            for (line, own) in patch.iter().filter(|(line, _)| missing & (1 << line) != 0) {
                found |= u64::from(*own != lines(bytes)[line]) << line;
            }
            missing &= !patch.mask;
            if patch.newer == NIL {
                return found | differing(under, bytes, missing);
            }
            at = patch.newer;
        }
        found | differing(&self.frames[self.pages.word(at, HOME) as usize], bytes, missing)
    }

    /// Whether the root of a page's chain (P5) has no frame.
    pub(super) fn is_over(&self, page: u32) -> bool {
        let mut at = page;
        while let Some(number) = self.patch(at) {
            at = self.patches[number].newer;
            if at == NIL {
                return true;
            }
        }
        false
    }

    /// The lines in which page `new` may differ from `old`.
    pub(super) fn lines_since(&self, old: u32, new: u32) -> Lines {
        let (mut at, mut lines) = (old, 0);
        while at != new {
            let Some(number) = self.patch(at) else { return !0 };
            lines |= self.patches[number].mask;
            at = self.patches[number].newer;
            if at == NIL {
                return !0;
            }
        }
        lines
    }

    /// The lines of a page that may not be those of what is under it.
    pub(super) fn lines_over(&self, page: u32) -> Lines {
        let (mut at, mut lines) = (page, 0);
        while at != NIL {
            let Some(number) = self.patch(at) else { return !0 };
            lines |= self.patches[number].mask;
            at = self.patches[number].newer;
        }
        lines
    }

    /// A line of a page: from the first page of the chain that has it.
    pub(super) fn line<'a>(&'a self, page: u32, under: &'a Frame, line: usize) -> &'a Line {
        let mut at = page;
        while let Some(number) = self.patch(at) {
            let patch = &self.patches[number];
            if let Some(own) = patch.line(line) {
                return own;
            }
            at = patch.newer;
            if at == NIL {
                return &lines(under)[line];
            }
        }
        &lines(&self.frames[self.pages.word(at, HOME) as usize])[line]
    }

    /// Whether a change of these lines would have to save some of them first (P7).
    pub(super) fn saves(&self, page: u32, lines: Lines) -> bool {
        self.patch_over(page).is_some_and(|number| lines & !self.patches[number].mask != 0)
    }

    /// Writes into a page with one reference (P7). The caller has ensured room for a frame where
    /// the page has none, or where lines must be saved.
    pub(super) fn write(&mut self, page: u32, under: &Frame, at: usize, bytes: &[u8]) {
        let count = self.pages.count(page);
        assert!(count == 1, "P1: wrote page {page}, which has {count} references");
        self.own_frame(page, under);
        self.save(page, under, lines_of(at..at + bytes.len()));
        let frame = self.pages.word(page, HOME) as usize;
        self.frames[frame][at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// As [`Leaves::write`], of all these lines of a page, which may stay a patch.
    pub(super) fn write_lines(&mut self, page: u32, under: &Frame, lines: Lines, bytes: &Frame) {
        let count = self.pages.count(page);
        assert!(count == 1, "P1: wrote page {page}, which has {count} references");
        let root = self.patch(page).filter(|_| self.is_root(page));
        let stays = |number: &u32| {
            (self.patches[*number].mask | lines).count_ones() as usize <= PATCH_LINES_MAX
        };
        let from = self::lines(bytes);
        if let Some(number) = root.filter(stays) {
            self.save(page, under, lines);
            let patch = &mut self.patches[number];
            let before = patch.bytes();
            patch.put(lines, |line| from[line]);
            self.patch_bytes += patch.bytes() - before;
            return;
        }
        self.own_frame(page, under);
        self.save(page, under, lines);
        let frame = self.pages.word(page, HOME) as usize;
        let to = lines_mut(&mut self.frames[frame]);
        each(lines, |at| to[at] = from[at]);
    }

    /// Panics unless counts are `expected` and P5 and P8 hold.
    pub(super) fn check(&self, expected: &[u32]) {
        self.pages.check(expected);
        let mut frame_refs = vec![0; self.frames_used.fresh() as usize];
        let (mut patch_count, mut patch_bytes, mut away_count) = (0, 0, 0);
        for page in (0..self.pages.fresh()).filter(|page| self.pages.is_live(*page)) {
            match self.patch(page) {
                None if let Some(away) = self.away(page) => {
                    assert!(self.older(page).is_none(), "P9: page {page} is patched over");
                    away_count += 1;
                    patch_bytes += away.bytes();
                }
                None => frame_refs[self.pages.word(page, HOME) as usize] += 1,
                Some(number) => {
                    let patch = &self.patches[number];
                    let named = patch.newer == NIL || self.older(patch.newer) == Some(page);
                    assert!(named, "P5: of page {page}");
                    assert_eq!(patch.lines.len(), patch.mask.count_ones() as usize, "P5: lines");
                    patch_count += 1;
                    patch_bytes += patch.bytes();
                }
            }
            if let Some(older) = self.older(page) {
                let patch = self.patch(older).expect("P5: an older page is patched");
                assert_eq!(self.patches[patch].newer, page, "P5: of page {older}");
            }
        }
        self.frames_used.check(&frame_refs);
        assert_eq!((patch_count, patch_bytes), (self.patches.count(), self.patch_bytes), "P8");
        assert_eq!(away_count, self.aways.count(), "P9: away pages");
        let all_bytes = u64::from(self.frames_used.capacity()) * PAGE_BYTES as u64;
        assert!(self.used_bytes() <= all_bytes, "P8: {} of {all_bytes}", self.used_bytes());
    }

    fn page_at(&mut self, frame: u32) -> u32 {
        let page = self.pages.take().expect("P2: a page was ensured");
        self.pages.set_word(page, HOME, frame);
        self.pages.set_word(page, OLDER, 0);
        page
    }

    /// The number of a page's patch, if it has no frame.
    #[inline]
    fn patch(&self, page: u32) -> Option<u32> {
        let home = self.pages.word(page, HOME);
        (home & PATCHED != 0).then_some(home & !PATCHED)
    }

    /// The page that is patched over this one.
    #[inline]
    fn older(&self, page: u32) -> Option<u32> {
        self.pages.word(page, OLDER).checked_sub(1)
    }

    /// The number of the patch over a page.
    #[inline]
    fn patch_over(&self, page: u32) -> Option<u32> {
        self.older(page).map(|older| self.pages.word(older, HOME) & !PATCHED)
    }

    /// Puts a patched page together: each line from the first page of the chain that has it.
    fn compose(&self, page: u32, under: &Frame, out: &mut Frame) {
        let out = lines_mut(out);
        let (mut at, mut missing, mut root) = (page, !0, under);
        loop {
            let Some(number) = self.patch(at) else {
                root = &self.frames[self.pages.word(at, HOME) as usize];
                break;
            };
            let patch = &self.patches[number];
            for (line, bytes) in patch.iter().filter(|(line, _)| missing & (1 << line) != 0) {
                out[line] = *bytes;
            }
            missing &= !patch.mask;
            if patch.newer == NIL {
                break;
            }
            at = patch.newer;
        }
        each(missing, |line| out[line] = lines(root)[line]);
    }

    /// Gives a patched page a frame.
    fn own_frame(&mut self, page: u32, under: &Frame) {
        let Some(number) = self.patch(page) else { return };
        let frame = self.frames_used.take().expect("P2: a frame was ensured");
        let mut bytes = [0; PAGE_BYTES];
        self.compose(page, under, &mut bytes);
        self.frames[frame as usize] = bytes;
        let newer = self.drop_patch(number).newer;
        self.pages.set_word(page, HOME, frame);
        if newer != NIL {
            self.pages.set_word(newer, OLDER, 0);
        }
    }

    /// Saves lines that are about to change in the patch over the page, a root (P7).
    fn save(&mut self, page: u32, under: &Frame, lines: Lines) {
        let Some(number) = self.patch_over(page) else { return };
        let mask = self.patches[number].mask;
        let missing = lines & !mask;
        if missing == 0 {
            return;
        }
        let older = self.pages.word(page, OLDER) - 1;
        if (mask | lines).count_ones() as usize > PATCH_LINES_MAX {
            return self.own_frame(older, under);
        }
        let mut patch = std::mem::take(&mut self.patches[number]);
        patch.add(missing, |line| *self.line(page, under, line));
        self.patches[number] = patch;
        self.patch_bytes += u64::from(missing.count_ones()) * LINE_BYTES as u64;
    }

    /// Ends a page without references (P6).
    fn end(&mut self, page: u32) {
        let home = self.pages.word(page, HOME);
        match (self.patch(page), self.older(page)) {
            (None, None) if home & AWAY != 0 => self.drop_away(home),
            (None, None) => _ = self.frames_used.release(home),
            (None, Some(older)) => {
                let number = self.patch(older).expect("P5: an older page is patched");
                let patch = self.drop_patch(number);
                let frame = lines_mut(&mut self.frames[home as usize]);
                for (at, line) in patch.iter() {
                    frame[at] = *line;
                }
                self.pages.set_word(older, HOME, home);
            }
            (Some(number), None) => {
                let newer = self.drop_patch(number).newer;
                if newer != NIL {
                    self.pages.set_word(newer, OLDER, 0);
                }
            }
            (Some(number), Some(older)) => {
                let ended = self.drop_patch(number);
                let heir = self.patch(older).expect("P5: an older page is patched");
                let heir = &mut self.patches[heir];
                let before = heir.bytes();
                heir.newer = ended.newer;
                for (at, line) in ended.iter() {
                    heir.add(1 << at, |_| *line);
                }
                self.patch_bytes += heir.bytes() - before;
                if ended.newer != NIL {
                    self.pages.set_word(ended.newer, OLDER, older + 1);
                }
            }
        }
    }

    fn drop_away(&mut self, home: u32) {
        self.patch_bytes -= self.aways.remove(home & !AWAY).bytes();
    }

    /// The home that a patch gives a page.
    fn keep_patch(&mut self, patch: Patch) -> u32 {
        self.patch_bytes += patch.bytes();
        self.patches.insert(patch) | PATCHED
    }

    fn drop_patch(&mut self, number: u32) -> Patch {
        let patch = self.patches.remove(number);
        self.patch_bytes -= patch.bytes();
        patch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNDER: Frame = [0xEE; PAGE_BYTES];

    fn leaves(frame_count: usize) -> Leaves {
        Leaves::new(vec![[0xA5; PAGE_BYTES]; frame_count].leak())
    }

    fn byte(leaves: &Leaves, page: u32, at: usize) -> u8 {
        leaves.read(page, &UNDER, &mut [0; PAGE_BYTES])[at]
    }

    /// A page of zeros.
    fn page(leaves: &mut Leaves) -> u32 {
        let page = leaves.take();
        leaves.write(page, &UNDER, 0, &[0; PAGE_BYTES]);
        page
    }

    /// What a version does: holds `page` while a copy of it changes at `at`.
    fn change(leaves: &mut Leaves, page: u32, at: usize, value: u8) -> u32 {
        leaves.retain(page);
        let copy = leaves.take_copy(page, &UNDER, true);
        leaves.write(copy, &UNDER, at, &[value]);
        copy
    }

    #[test]
    fn p5_history_takes_lines_and_reads_as_it_was() {
        let mut all = leaves(8);
        let mut versions = vec![page(&mut all)];
        for n in 1..=5 {
            let newest = *versions.last().unwrap();
            versions.push(change(&mut all, newest, n * 100, n as u8));
        }
        assert_eq!(all.frames().used(), 1);
        assert_eq!(all.patch_bytes(), 5 * (size_of::<Patch>() + LINE_BYTES) as u64);
        for (n, version) in versions.iter().enumerate() {
            let seen: Vec<u8> = (1..=5).map(|at| byte(&all, *version, at * 100)).collect();
            let wanted: Vec<u8> = (1..=5).map(|at| if at <= n { at as u8 } else { 0 }).collect();
            assert_eq!(seen, wanted, "version {n}");
        }
        all.check(&[1; 6]);
    }

    #[test]
    fn p6_the_end_of_any_page_of_a_chain_leaves_the_others_as_they_were() {
        for ended in 0..4 {
            let mut all = leaves(8);
            let mut versions = vec![page(&mut all)];
            for n in 1..4 {
                let newest = *versions.last().unwrap();
                versions.push(change(&mut all, newest, 8, n));
            }
            all.release(versions[ended]);
            let mut counts = [1; 4];
            counts[ended] = 0;
            all.check(&counts);
            for (n, version) in versions.iter().enumerate().filter(|(n, _)| *n != ended) {
                assert_eq!(
                    byte(&all, *version, 8),
                    n as u8,
                    "version {n} after the end of {ended}"
                );
            }
            assert_eq!(all.frames().used(), 1);
            for (n, version) in versions.iter().enumerate().filter(|(n, _)| *n != ended) {
                all.release(*version);
                counts[n] = 0;
                all.check(&counts);
            }
            assert_eq!(all.used_bytes(), 0);
        }
    }

    #[test]
    fn p7_a_page_that_is_written_again_saves_each_line_once() {
        let mut all = leaves(8);
        let old = page(&mut all);
        let new = change(&mut all, old, 0, 1);
        for (at, value) in [(0, 2), (1, 3), (64, 4), (4095, 5)] {
            all.write(new, &UNDER, at, &[value]);
        }
        assert_eq!(all.patch_bytes(), (size_of::<Patch>() + 3 * LINE_BYTES) as u64);
        assert!([0, 1, 64, 4095].iter().all(|at| byte(&all, old, *at) == 0));
        assert_eq!([0, 1, 64, 4095].map(|at| byte(&all, new, at)), [2, 3, 4, 5]);
        all.check(&[1, 1]);
    }

    #[test]
    fn p8_a_patch_of_too_many_lines_becomes_a_page_with_a_frame() {
        let mut all = leaves(8);
        let old = page(&mut all);
        let new = change(&mut all, old, 0, 1);
        all.write(new, &UNDER, 0, &[7; PAGE_BYTES]);
        assert_eq!((all.frames().used(), all.patch_bytes()), (2, 0));
        assert_eq!((byte(&all, old, 4000), byte(&all, new, 4000)), (0, 7));
        all.check(&[1, 1]);
    }

    #[test]
    fn p7_a_patched_page_can_be_written_too() {
        let mut all = leaves(8);
        let oldest = page(&mut all);
        let old = change(&mut all, oldest, 0, 1);
        let new = change(&mut all, old, 0, 2);
        all.write(old, &UNDER, 64, &[9]);
        assert_eq!([oldest, old, new].map(|page| byte(&all, page, 0)), [0, 1, 2]);
        assert_eq!([oldest, old, new].map(|page| byte(&all, page, 64)), [0, 9, 0]);
        assert_eq!(all.frames().used(), 2);
        all.check(&[1; 3]);
    }

    #[test]
    fn p5_a_page_that_differs_little_from_what_is_under_takes_lines() {
        let mut all = leaves(8);
        let at = |n: usize| 100 * n;
        let with = |count: usize| {
            let mut bytes = UNDER;
            (1..=count).for_each(|n| bytes[at(n)] = n as u8);
            bytes
        };
        let mut versions = vec![all.take_over(&UNDER, &with(1))];
        for n in 2..=5 {
            let newest = *versions.last().unwrap();
            all.retain(newest);
            let copy = all.take_copy(newest, &UNDER, true);
            let lines = all.differing(copy, &UNDER, &with(n));
            assert_eq!(lines, 1 << (at(n) / LINE_BYTES));
            all.write_lines(copy, &UNDER, lines, &with(n));
            versions.push(copy);
        }
        all.check(&[1; 5]);
        assert_eq!(all.frames().used(), 0);
        for ended in [4, 1, 2] {
            all.release(versions[ended]);
            for n in (0..5).filter(|n| [0, 3].contains(n)) {
                let read = *all.read(versions[n], &UNDER, &mut [0; PAGE_BYTES]);
                assert!(read == with(n + 1), "version {n} after the end of {ended}");
                assert_eq!(all.differing(versions[n], &UNDER, &read), 0);
            }
        }
        // One that comes to differ much has a frame.
        all.write_lines(versions[3], &UNDER, !0, &[3; PAGE_BYTES]);
        assert_eq!(byte(&all, versions[3], 9), 3);
        let read = *all.read(versions[0], &UNDER, &mut [0; PAGE_BYTES]);
        assert!(read == with(1));
        all.check(&[1, 0, 0, 1, 0]);
        all.release(versions[3]);
        all.release(versions[0]);
        assert_eq!(all.used_bytes(), 0);
    }
}
