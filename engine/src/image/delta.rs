//! Images as what they differ in from another one: what the log keeps of a version.
//!
//! Owns: the encoding of changed pages.  Not: which image is compared with which.
//!
//! A delta is: the image's length, and pages. Pages are: their number, and per page, ascending: how
//! many after the last one, flags (see [`OVER`] and those after it), and without `GONE` and
//! `ELSEWHERE` the number of runs, and per run: bytes since the end of the last one, length, bytes.
//! A record of pages (`log/record.rs`) holds pages only, each told from zeros.
//! E1  a delta applied to what it was made against gives the image again, byte for byte.
//! E2  one that is applied to something else fails or gives some image; it never panics.
//! E3  a page whose bytes are not in memory is told by the record that has them, and none is told
//!     from its bytes.

use super::{Image, PAGE, page_of};
use crate::limits::IMAGE_BYTES_MAX;
use crate::log::wire::{Reader, put_bytes, put_number};
use crate::log::{Place, RecordError};
use crate::page::{
    Away, Frame, LINE_BYTES, Line, Lines, PAGE_BYTES, PageStore, ZERO_PAGE, differing,
    differing_bytes, each, lines as lines_of_page,
};

/// Equal bytes between two changed ones that are written along with them: a run's head takes about
/// as many.
const GAP_BYTES: usize = 4;
/// Flag of a page that is read over the template's (M5).
const OVER: u8 = 1;
/// Flag of a page that the image has not got, with nothing after it.
const GONE: u8 = 2;
/// Flag of a page in a record of pages; after it, which of its chain's, and the length and bytes of
/// what has changed since: lists of runs.
const ELSEWHERE: u8 = 4;
/// Flag of a page that is told from zeros, not from the base's.
const FRESH: u8 = 8;

const ZERO_LINE: Line = [0; LINE_BYTES];

/// What lies under a page: the template's, or nothing.
pub(crate) type Under<'u> = dyn Fn(u32) -> Option<&'u Frame> + 'u;

/// Which pages a delta tells by the record that has them (E3).
#[derive(Clone, Copy)]
pub(crate) enum Elsewhere<'a> {
    /// These pages, ascending, each in the record of this number.
    Told(&'a [(u32, u32)]),
    /// Pages that are away, in the records of pages that the chain has, ascending.
    Chain(&'a [Place]),
}

impl Elsewhere<'_> {
    /// No page; none is away.
    pub(crate) const NOWHERE: Elsewhere<'static> = Elsewhere::Told(&[]);

    /// The number of the record that has a page, and what has changed since.
    fn record_of<'a>(&self, page: u32, away: Option<&'a Away>) -> Option<(u32, &'a [u8])> {
        match self {
            Elsewhere::Told(pages) => {
                let at = pages.binary_search_by_key(&page, |(page, _)| *page).ok()?;
                Some((pages[at].1, &[]))
            }
            Elsewhere::Chain(records) => {
                let Away { record, changes } = away?;
                let at = records.binary_search(record).expect("P9: an away page is in its chain");
                Some((at as u32, changes))
            }
        }
    }
}

/// The records of pages that a chain has, while its images are made again.
#[derive(Clone, Copy)]
pub(crate) struct Pages<'a> {
    /// Where they lie.
    pub(crate) records: &'a [Place],
    /// The bodies of those that were read.
    pub(crate) read: &'a [(Place, &'a [u8])],
}

impl Pages<'_> {
    /// For bytes that name no record.
    pub(crate) const NONE: Pages<'static> = Pages { records: &[], read: &[] };
}

impl Image {
    /// Whether half of page `page` or more may have changed since `base`, and it can be told from
    /// zeros.
    pub(crate) fn changes_much(&self, base: &Image, store: &PageStore, page: u32) -> bool {
        let (old, new) = (base.leaf(store, page).page, self.leaf(store, page).page);
        if new.is_absent() || u64::from(page) * PAGE >= self.len_bytes || store.is_over(new) {
            return false;
        }
        if old.is_absent() || store.away(old).is_some() {
            return true;
        }
        let mut lines = store.lines_since(old, new);
        if lines == !0 {
            let (mut a, mut b) = (ZERO_PAGE, ZERO_PAGE);
            let old = store.page(old, &ZERO_PAGE, &mut a);
            lines = differing(old, store.page(new, &ZERO_PAGE, &mut b), !0);
        }
        lines.count_ones() >= Lines::BITS / 2
    }

    /// Lines of a page that are not zeros.
    pub(crate) fn line_count(&self, store: &PageStore, page: u32) -> u32 {
        let mut scratch = ZERO_PAGE;
        let bytes = self.page(store, page, &ZERO_PAGE, &mut scratch);
        bytes.map_or(0, |bytes| differing(&ZERO_PAGE, bytes, !0).count_ones())
    }

    /// Appends these pages, ascending and over no template's, as a record of pages holds them.
    pub(crate) fn put_pages(&self, store: &PageStore, pages: &[u32], out: &mut Vec<u8>) {
        put_number(out, pages.len() as u64);
        let mut next = 0;
        for page in pages {
            put_number(out, u64::from(page - next));
            next = page + 1;
            out.push(FRESH);
            let mut scratch = ZERO_PAGE;
            let bytes = self.page(store, *page, &ZERO_PAGE, &mut scratch).unwrap_or(&ZERO_PAGE);
            let bytes = lines_of_page(bytes);
            put_runs(!0, |line| (&ZERO_LINE, &bytes[line]), out);
        }
    }

    /// Appends what makes this image of `base`. Cost: the nodes that they do not share, and the
    /// lines in which their pages differ.
    pub(crate) fn put_delta(
        &self,
        base: &Image,
        store: &PageStore,
        under: &Under<'_>,
        elsewhere: Elsewhere<'_>,
        out: &mut Vec<u8>,
    ) {
        let mut pages = Vec::new();
        self.changed_pages(base, store, &mut pages);
        self.put_listed(&pages, base, store, under, elsewhere, out);
    }

    /// As [`Image::put_delta`] of what lies under the image, without pages that are as what lies
    /// under them: the same for equal images, of which one may have such pages.
    pub(crate) fn put_bytes_over(&self, store: &PageStore, under: &Under<'_>, out: &mut Vec<u8>) {
        let mut pages = Vec::new();
        self.changed_pages(&Image::EMPTY, store, &mut pages);
        pages.retain(|page| {
            let below = under(*page).unwrap_or(&ZERO_PAGE);
            self.page(store, *page, below, &mut { ZERO_PAGE }).is_some_and(|own| own != below)
        });
        self.put_listed(&pages, &Image::EMPTY, store, under, Elsewhere::NOWHERE, out);
    }

    fn put_listed(
        &self,
        pages: &[u32],
        base: &Image,
        store: &PageStore,
        under: &Under<'_>,
        elsewhere: Elsewhere<'_>,
        out: &mut Vec<u8>,
    ) {
        let inside = |page: &&u32| u64::from(**page) * PAGE < self.len_bytes;
        put_number(out, self.len_bytes);
        put_number(out, pages.iter().filter(inside).count() as u64);
        let mut next = 0;
        for &page in pages.iter().filter(inside) {
            put_number(out, u64::from(page - next));
            next = page + 1;
            let below = under(page).unwrap_or(&ZERO_PAGE);
            let (old, new) = (base.leaf(store, page).page, self.leaf(store, page).page);
            if new.is_absent() {
                out.push(GONE);
                continue;
            }
            if let Some((record, changes)) = elsewhere.record_of(page, store.away(new)) {
                out.push(ELSEWHERE);
                put_number(out, record.into());
                put_bytes(out, changes);
                continue;
            }
            let over = if store.is_over(new) { OVER } else { 0 };
            let new_line = |line| store.line(new, below, line);
            if store.away(old).is_some() {
                out.push(over | FRESH);
                put_runs(!0, |line| (&ZERO_LINE, new_line(line)), out);
                continue;
            }
            out.push(over);
            if old.is_absent() {
                let below = lines_of_page(below);
                put_runs(store.lines_over(new), |line| (&below[line], new_line(line)), out);
            } else {
                let lines = store.lines_since(old, new);
                put_runs(lines, |line| (store.line(old, below, line), new_line(line)), out);
            }
        }
    }

    /// Makes of this image, which is the delta's base, what the delta was made of (E1, E2). On an
    /// error the image is some image of the store, to be released. Pages in records that were not
    /// read are away.
    pub(crate) fn apply_delta(
        &mut self,
        store: &mut PageStore,
        under: &Under<'_>,
        pages: Pages<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<(), RecordError> {
        let len_bytes = reader.number()?;
        if len_bytes > IMAGE_BYTES_MAX {
            return Err(RecordError::BadField { what: "an image's length", value: len_bytes });
        }
        let page_count = reader.count()?;
        self.resize_away(store, len_bytes)?;
        let mut told = false;
        let mut walk = Walk { next: 0, left: page_count };
        while let Some((page, flags)) = walk.next(len_bytes, reader)? {
            if flags & GONE != 0 {
                self.drop_page(store, page)?;
                continue;
            }
            if flags & ELSEWHERE != 0 {
                let at: usize = reader.small("a record of pages")?;
                let wrong = RecordError::BadField { what: "a record of pages", value: at as u64 };
                let record = *pages.records.get(at).ok_or(wrong)?;
                let changes = reader.bytes()?;
                take_all_runs(&mut { ZERO_PAGE }, changes)?;
                self.put_away(store, page, Away { record, changes: changes.to_vec() })?;
                told = true;
                continue;
            }
            let leaf = self.leaf(store, page).page;
            if flags & FRESH == 0
                && let Some(away) = store.away(leaf)
            {
                let mut away = away.clone();
                away.changes.extend_from_slice(skip_runs(reader)?);
                self.put_away(store, page, away)?;
                continue;
            }
            let below = under(page).unwrap_or(&ZERO_PAGE);
            let (mut bytes, mut scratch) = (ZERO_PAGE, ZERO_PAGE);
            if flags & FRESH == 0 {
                bytes = *self.page(store, page, below, &mut scratch).unwrap_or(below);
            }
            take_runs(&mut bytes, reader)?;
            if store.away(leaf).is_some() {
                self.drop_page(store, page)?;
            }
            // Of a page with a frame the lines before stay as a patch, as when they were changed.
            let changes = flags == 0 && self.changes_few(store, page, &bytes);
            if (flags & OVER != 0 || changes) && u64::from(page + 1) * PAGE <= len_bytes {
                self.put_page(store, page, below, &bytes)?;
            } else {
                let len = (len_bytes - u64::from(page) * PAGE).min(PAGE) as usize;
                debug_assert_eq!(page, page_of(u64::from(page) * PAGE));
                self.write(store, u64::from(page) * PAGE, &bytes[..len])?;
            }
        }
        for (record, body) in pages.read.iter().filter(|_| told) {
            self.fill_from(store, *record, body)?;
        }
        Ok(())
    }

    /// Whether a page has a frame, and would keep one with few other bytes.
    fn changes_few(&self, store: &PageStore, page: u32, bytes: &Frame) -> bool {
        let leaf = self.leaf(store, page);
        if leaf.page.is_absent() {
            return false;
        }
        let few = |old: &Frame| differing(old, bytes, !0).count_ones() <= Lines::BITS / 2;
        store.whole_page(leaf.page).is_some_and(|old| leaf.unshared || few(old))
    }

    /// Gives the away pages that are in this record of pages their bytes. On an error some have
    /// them.
    pub(crate) fn fill_from(
        &self,
        store: &mut PageStore,
        record: Place,
        body: &[u8],
    ) -> Result<(), RecordError> {
        let mut reader = Reader::new(body);
        let mut walk = Walk { next: 0, left: reader.count()? };
        while let Some((page, _)) = walk.next(IMAGE_BYTES_MAX, &mut reader)? {
            let Some(away) = self.away(store, page).filter(|away| away.record == record) else {
                skip_runs(&mut reader)?;
                continue;
            };
            let mut bytes = ZERO_PAGE;
            take_runs(&mut bytes, &mut reader)?;
            take_all_runs(&mut bytes, &away.changes)?;
            self.fill(store, page, &bytes)?;
        }
        Ok(())
    }

    /// Resizes; where that would clear the end of an away page, that is one more change of it.
    fn resize_away(&mut self, store: &mut PageStore, len_bytes: u64) -> Result<(), RecordError> {
        let tail = (len_bytes % PAGE) as usize;
        if len_bytes < self.len_bytes && tail > 0 {
            let page = page_of(len_bytes);
            if let Some(away) = self.away(store, page) {
                let mut away = away.clone();
                put_number(&mut away.changes, 1);
                put_number(&mut away.changes, tail as u64);
                put_bytes(&mut away.changes, &ZERO_PAGE[tail..]);
                // Cut at the end of the page, and its end cleared: the cut does not read it.
                self.resize(store, (u64::from(page) + 1) * PAGE)?;
                self.put_away(store, page, away)?;
                self.len_bytes = len_bytes;
                return Ok(());
            }
        }
        Ok(self.resize(store, len_bytes)?)
    }
}

/// Goes through pages: their numbers and flags.
struct Walk {
    next: u64,
    left: usize,
}

impl Walk {
    fn next(
        &mut self,
        len_bytes: u64,
        reader: &mut Reader<'_>,
    ) -> Result<Option<(u32, u8)>, RecordError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let page = self.next.saturating_add(reader.number()?);
        if page >= len_bytes.div_ceil(PAGE) {
            return Err(RecordError::BadField { what: "a page's number", value: page });
        }
        self.next = page + 1;
        Ok(Some((page as u32, reader.byte()?)))
    }
}

/// Appends the runs in which two pages differ; only these lines may, of which `pair` gives the old
/// and the new one.
fn put_runs<'a>(lines: Lines, pair: impl Fn(usize) -> (&'a Line, &'a Line), out: &mut Vec<u8>) {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    each(lines, |line| {
        let (old, new) = pair(line);
        let mut bytes = differing_bytes(old, new);
        while bytes != 0 {
            let first = bytes.trailing_zeros();
            let len = (bytes >> first).trailing_ones();
            // Clears the run: adding its lowest bit carries past its highest.
            bytes &= bytes.wrapping_add(1 << first);
            let start = line * LINE_BYTES + first as usize;
            match runs.last_mut() {
                Some((_, end)) if start - *end < GAP_BYTES => *end = start + len as usize,
                _ => runs.push((start, start + len as usize)),
            }
        }
    });
    put_number(out, runs.len() as u64);
    let mut last = 0;
    for (start, end) in runs {
        put_number(out, (start - last) as u64);
        put_number(out, (end - start) as u64);
        for line in start / LINE_BYTES..end.div_ceil(LINE_BYTES) {
            let begins = line * LINE_BYTES;
            let part = start.saturating_sub(begins)..LINE_BYTES.min(end - begins);
            out.extend_from_slice(&pair(line).1[part]);
        }
        last = end;
    }
}

/// Changes a page by lists of runs, one after the other.
fn take_all_runs(page: &mut Frame, bytes: &[u8]) -> Result<(), RecordError> {
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        take_runs(page, &mut reader)?;
    }
    Ok(())
}

/// Passes over a list of runs, which it checks; its bytes.
fn skip_runs<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], RecordError> {
    let before = reader.rest();
    let mut end = 0usize;
    for _ in 0..reader.count()? {
        end = end.saturating_add(reader.small("a run's start")?);
        let len: usize = reader.small("a run's length")?;
        end = end.saturating_add(len);
        if end > PAGE_BYTES {
            return Err(RecordError::BadField { what: "a run's end", value: end as u64 });
        }
        reader.take(len)?;
    }
    Ok(&before[..before.len() - reader.rest().len()])
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
            image.put_delta(&Image::EMPTY, &here, &under, Elsewhere::NOWHERE, &mut out);
            copy.apply_delta(&mut there, &under, Pages::NONE, &mut Reader::new(&out))
                .expect("its own delta");
            for changes in [&first, &second] {
                for change in changes {
                    apply(&mut image, &mut here, change, &under);
                }
                let mut out = Vec::new();
                image.put_delta(&base, &here, &under, Elsewhere::NOWHERE, &mut out);
                let before = copy.share(&mut there);
                let mut reader = Reader::new(&out);
                copy.apply_delta(&mut there, &under, Pages::NONE, &mut reader)
                    .expect("its own delta");
                before.release(&mut there);
                prop_assert!(bytes_of(&image, &here, &under) == bytes_of(&copy, &there, &under));
                // What was made of a delta is changed further as the image itself is.
                let again = Change::Put(17, 99, 1);
                apply(&mut image, &mut here, &again, &under);
                apply(&mut copy, &mut there, &again, &under);
                prop_assert!(bytes_of(&image, &here, &under) == bytes_of(&copy, &there, &under));
                // The older image's pages are patches now: told from nothing, too.
                let (mut whole, mut alone) = (Vec::new(), Image::EMPTY);
                base.put_delta(&Image::EMPTY, &here, &under, Elsewhere::NOWHERE, &mut whole);
                let mut reader = Reader::new(&whole);
                let told = alone.apply_delta(&mut there, &under, Pages::NONE, &mut reader);
                told.expect("its own delta");
                prop_assert!(bytes_of(&base, &here, &under) == bytes_of(&alone, &there, &under));
                alone.release(&mut there);
                std::mem::replace(&mut base, image.share(&mut here)).release(&mut here);
                for cut in (0..out.len()).step_by(7) {
                    let mut other = copy.share(&mut there);
                    let mut reader = Reader::new(&out[..cut]);
                    let _ = other.apply_delta(&mut there, &under, Pages::NONE, &mut reader);
                    other.release(&mut there);
                }
            }
            there.debug_check([&copy]);
            here.debug_check([&image, &base]);
        }
    }

    /// As `change`, of an image that lies over nothing.
    fn plain_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            3 => (0..56_000u64, any::<u8>(), 1..30_000usize)
                .prop_map(|(at, byte, len)| Change::Write(at, byte, len)),
            4 => (0..80_000u64, any::<u8>(), 1..200usize)
                .prop_map(|(at, byte, len)| Change::Write(at, byte, len)),
            1 => (0..90_000u64).prop_map(Change::Resize),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn e3_pages_that_are_away_change_and_come_as_those_in_memory(
            first in proptest::collection::vec(plain_change(), 1..6),
            second in proptest::collection::vec(plain_change(), 0..6),
            third in proptest::collection::vec(plain_change(), 0..6),
            read in any::<u32>(),
        ) {
            let none = |_| None;
            let (mut here, mut there, mut last) = (store(), store(), store());
            let mut image = Image::EMPTY;
            first.iter().for_each(|change| apply(&mut image, &mut here, change, &none));
            // Every page in a record of its own.
            let mut pages = Vec::new();
            image.changed_pages(&Image::EMPTY, &here, &mut pages);
            pages.retain(|page| u64::from(*page) * PAGE < image.len_bytes());
            let told: Vec<(u32, u32)> = pages.iter().copied().zip(0..).collect();
            let place = |at: usize| Place { segment: 1, offset: at as u32, len_bytes: 7 };
            let places: Vec<Place> = (0..pages.len()).map(place).collect();
            let mut bodies = vec![Vec::new(); pages.len()];
            for (page, body) in pages.iter().zip(&mut bodies) {
                image.put_pages(&here, &[*page], body);
            }
            let all: Vec<(Place, &[u8])> =
                places.iter().copied().zip(bodies.iter().map(Vec::as_slice)).collect();
            let chosen = |place: &Place| read >> (place.offset % 32) & 1 > 0;
            let some: Vec<(Place, &[u8])> =
                all.iter().filter(|(place, _)| chosen(place)).copied().collect();
            let mut out = Vec::new();
            image.put_delta(&Image::EMPTY, &here, &none, Elsewhere::Told(&told), &mut out);
            let known = Pages { records: &places, read: &some };
            let mut copy = Image::EMPTY;
            copy.apply_delta(&mut there, &none, known, &mut Reader::new(&out)).expect("its own");
            // What has changed since comes to pages that are away, too.
            for changes in [&second, &third] {
                let base = image.share(&mut here);
                changes.iter().for_each(|change| apply(&mut image, &mut here, change, &none));
                let mut out = Vec::new();
                image.put_delta(&base, &here, &none, Elsewhere::NOWHERE, &mut out);
                base.release(&mut here);
                let before = copy.share(&mut there);
                let mut reader = Reader::new(&out);
                copy.apply_delta(&mut there, &none, Pages::NONE, &mut reader).expect("its own");
                before.release(&mut there);
            }
            // Told by their records they are the same elsewhere.
            let mut out = Vec::new();
            copy.put_delta(&Image::EMPTY, &there, &none, Elsewhere::Chain(&places), &mut out);
            let mut moved = Image::EMPTY;
            let known = Pages { records: &places, read: &all };
            moved.apply_delta(&mut last, &none, known, &mut Reader::new(&out)).expect("its own");
            for (place, body) in &all {
                copy.fill_from(&mut there, *place, body).expect("room");
            }
            prop_assert!(!copy.has_away(&there) && !moved.has_away(&last));
            let bytes = bytes_of(&image, &here, &none);
            prop_assert!(bytes_of(&copy, &there, &none) == bytes, "filled later");
            prop_assert!(bytes_of(&moved, &last, &none) == bytes, "told by records");
            there.debug_check([&copy]);
            last.debug_check([&moved]);
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
        image.put_delta(&base, &store, &|_| None, Elsewhere::NOWHERE, &mut out);
        assert!(out.len() < 120, "{} bytes for 100 that changed", out.len());
    }
}
