//! Images as what they differ in from another one: what the log keeps of a version.
//!
//! Owns: the encoding of changed pages.  Not: which image is compared with which.
//!
//! A delta is: the image's length, the number of pages, and per page, ascending: pages since the
//! last one, flags (1: read over the template's page, see M5; 2: gone, and nothing more), number of
//! runs, and per run: bytes since the end of the last one, length, bytes.
//! E1  a delta applied to what it was made against gives the image again, byte for byte.
//! E2  one that is applied to something else fails or gives some image; it never panics.

use super::{Image, PAGE, page_of};
use crate::limits::IMAGE_BYTES_MAX;
use crate::log::RecordError;
use crate::log::wire::{Reader, put_number};
use crate::page::{Frame, LINE_BYTES, Lines, PAGE_BYTES, PageStore, ZERO_PAGE};

/// Equal bytes between two changed ones that are written along with them: a run's head takes about
/// as many.
const GAP_BYTES: usize = 4;
/// Flag of a page that is read over the template's.
const OVER: u8 = 1;
/// Flag of a page that the image has not got.
const GONE: u8 = 2;

/// What lies under a page: the template's, or nothing.
pub(crate) type Under<'u> = dyn Fn(u32) -> Option<&'u Frame> + 'u;

impl Image {
    /// Appends what makes this image of `base`. Cost: the nodes that they do not share, and the
    /// lines in which their pages differ.
    pub(crate) fn put_delta(
        &self,
        base: &Image,
        store: &PageStore,
        under: &Under<'_>,
        out: &mut Vec<u8>,
    ) {
        let mut pages = Vec::new();
        self.changed_pages(base, store, &mut pages);
        pages.retain(|page| u64::from(*page) * PAGE < self.len_bytes);
        put_number(out, self.len_bytes);
        put_number(out, pages.len() as u64);
        let mut next = 0;
        let (mut old_scratch, mut new_scratch) = (ZERO_PAGE, ZERO_PAGE);
        for page in pages {
            put_number(out, u64::from(page - next));
            next = page + 1;
            let below = under(page).unwrap_or(&ZERO_PAGE);
            let (old, new) = (base.leaf(store, page).page, self.leaf(store, page).page);
            if new.is_absent() {
                out.push(GONE);
                continue;
            }
            let lines = if old.is_absent() { !0 } else { store.lines_since(old, new) };
            out.push(if store.is_over(new) { OVER } else { 0 });
            let old = base.page(store, page, below, &mut old_scratch).unwrap_or(below);
            let new = self.page(store, page, below, &mut new_scratch).unwrap_or(below);
            put_runs(old, new, lines, out);
        }
    }

    /// Makes of this image, which is the delta's base, what the delta was made of (E1, E2). On an
    /// error the image is some image of the store, to be released.
    pub(crate) fn apply_delta(
        &mut self,
        store: &mut PageStore,
        under: &Under<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<(), RecordError> {
        let len_bytes = reader.number()?;
        if len_bytes > IMAGE_BYTES_MAX {
            return Err(RecordError::BadField { what: "an image's length", value: len_bytes });
        }
        let page_count = reader.count()?;
        self.resize(store, len_bytes)?;
        let mut next = 0u64;
        let mut scratch = ZERO_PAGE;
        for _ in 0..page_count {
            let page = next.saturating_add(reader.number()?);
            if page * PAGE >= len_bytes {
                return Err(RecordError::BadField { what: "a page's number", value: page });
            }
            next = page + 1;
            let page = page as u32;
            let flags = reader.byte()?;
            if flags & GONE != 0 {
                self.drop_page(store, page)?;
                continue;
            }
            let over = flags & OVER != 0;
            let below = under(page).unwrap_or(&ZERO_PAGE);
            let mut bytes = *self.page(store, page, below, &mut scratch).unwrap_or(below);
            take_runs(&mut bytes, reader)?;
            if over && u64::from(page + 1) * PAGE <= len_bytes {
                self.put_page(store, page, below, &bytes)?;
            } else {
                let len = (len_bytes - u64::from(page) * PAGE).min(PAGE) as usize;
                debug_assert_eq!(page, page_of(u64::from(page) * PAGE));
                self.write(store, u64::from(page) * PAGE, &bytes[..len])?;
            }
        }
        Ok(())
    }
}

/// Appends the runs in which two pages differ; only these lines may.
fn put_runs(old: &Frame, new: &Frame, lines: Lines, out: &mut Vec<u8>) {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut left = lines;
    while left != 0 {
        let line = left.trailing_zeros() as usize;
        left &= left - 1;
        let range = line * LINE_BYTES..(line + 1) * LINE_BYTES;
        if old[range.clone()] == new[range.clone()] {
            continue;
        }
        for at in range.filter(|at| old[*at] != new[*at]) {
            match runs.last_mut() {
                Some((_, end)) if at - *end < GAP_BYTES => *end = at + 1,
                _ => runs.push((at, at + 1)),
            }
        }
    }
    put_number(out, runs.len() as u64);
    let mut last = 0;
    for (start, end) in runs {
        put_number(out, (start - last) as u64);
        put_number(out, (end - start) as u64);
        out.extend_from_slice(&new[start..end]);
        last = end;
    }
}

fn take_runs(page: &mut Frame, reader: &mut Reader<'_>) -> Result<(), RecordError> {
    let count = reader.count()?;
    let mut last = 0usize;
    for _ in 0..count {
        let start = last.saturating_add(reader.small("a run's start")?);
        let len: usize = reader.small("a run's length")?;
        let end = start.saturating_add(len);
        if end > PAGE_BYTES {
            return Err(RecordError::BadField { what: "a run's end", value: end as u64 });
        }
        page[start..end].copy_from_slice(reader.take(len)?);
        last = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn store() -> PageStore {
        PageStore::new(vec![0xA5; 512 * PAGE_BYTES].leak())
    }

    static UNDER: Frame = [0xEE; PAGE_BYTES];
    const LEN_BYTES: u64 = 20 * PAGE;

    fn bytes_of(image: &Image, store: &PageStore, under: &Under<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        image.read_over(store, 0, &mut out, image.len_bytes() as usize, under);
        out
    }

    /// One change of an image: where, which byte, how many.
    #[derive(Clone, Debug)]
    enum Change {
        Write(u64, u8, usize),
        Put(u32, usize, u8),
        Resize(u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            4 => (0..56_000u64, any::<u8>(), 1..9_000usize)
                .prop_map(|(at, byte, len)| Change::Write(at, byte, len)),
            2 => (0..56_000u64, any::<u8>(), 1..100usize)
                .prop_map(|(at, byte, len)| Change::Write(at, byte, len)),
            4 => (16..20u32, 0..PAGE_BYTES, any::<u8>())
                .prop_map(|(page, at, byte)| Change::Put(page, at, byte)),
            1 => (LEN_BYTES..90_000u64).prop_map(Change::Resize),
        ]
    }

    fn apply(image: &mut Image, store: &mut PageStore, change: &Change, under: &Under<'_>) {
        match *change {
            Change::Write(at, byte, len) => {
                image.write(store, at, &vec![byte; len]).expect("room");
            }
            Change::Put(page, at, byte) => {
                if u64::from(page + 1) * PAGE > image.len_bytes() {
                    return;
                }
                let below = under(page).unwrap_or(&ZERO_PAGE);
                let mut scratch = ZERO_PAGE;
                let mut bytes = *image.page(store, page, below, &mut scratch).unwrap_or(below);
                bytes[at] = byte;
                image.put_page(store, page, below, &bytes).expect("room");
            }
            Change::Resize(len) => image.resize(store, len).expect("room"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn e1_a_delta_makes_the_image_again(
            first in proptest::collection::vec(change(), 1..8),
            second in proptest::collection::vec(change(), 0..8),
        ) {
            // Pages from 16 on lie over a template's, as a sandbox's do.
            let under = |page: u32| (page >= 16).then_some(&UNDER);
            let (mut here, mut there) = (store(), store());
            let mut image = Image::EMPTY;
            image.resize(&mut here, LEN_BYTES).expect("room");
            let mut base = image.share(&mut here);
            let mut copy = Image::EMPTY;
            let mut out = Vec::new();
            image.put_delta(&Image::EMPTY, &here, &under, &mut out);
            copy.apply_delta(&mut there, &under, &mut Reader::new(&out)).expect("its own delta");
            for changes in [&first, &second] {
                for change in changes {
                    apply(&mut image, &mut here, change, &under);
                }
                let mut out = Vec::new();
                image.put_delta(&base, &here, &under, &mut out);
                let before = copy.share(&mut there);
                let mut reader = Reader::new(&out);
                copy.apply_delta(&mut there, &under, &mut reader).expect("its own delta");
                before.release(&mut there);
                prop_assert!(bytes_of(&image, &here, &under) == bytes_of(&copy, &there, &under));
                // What was made of a delta is changed further as the image itself is.
                let again = Change::Put(17, 99, 1);
                apply(&mut image, &mut here, &again, &under);
                apply(&mut copy, &mut there, &again, &under);
                prop_assert!(bytes_of(&image, &here, &under) == bytes_of(&copy, &there, &under));
                std::mem::replace(&mut base, image.share(&mut here)).release(&mut here);
                for cut in (0..out.len()).step_by(7) {
                    let mut other = copy.share(&mut there);
                    let _ = other.apply_delta(&mut there, &under, &mut Reader::new(&out[..cut]));
                    other.release(&mut there);
                }
            }
            there.debug_check([&copy]);
            here.debug_check([&image, &base]);
        }
    }

    #[test]
    fn a_small_change_takes_few_bytes() {
        let mut store = store();
        let mut image = Image::EMPTY;
        image.write(&mut store, 0, &[7; 64 << 10]).expect("room");
        let base = image.share(&mut store);
        image.write(&mut store, 30_000, &[9; 100]).expect("room");
        let mut out = Vec::new();
        image.put_delta(&base, &store, &|_| None, &mut out);
        assert!(out.len() < 120, "{} bytes for 100 that changed", out.len());
    }
}
