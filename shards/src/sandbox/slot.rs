//! Slots: where a sandbox's memory is mapped, and which of its pages have changed.
//!
//! Owns: base images, reservations, the overlay of a base, growth, capture and restore of pages.
//! Not: versions (an image holds the pages that differ from the base; see [`Delta`]), nor what runs
//! in a slot (`instance.rs`).
//! S1  capture reports a page if and only if its bytes differ from what the image holds.
//! S2  a page not in `written` and not reported equals what the image held at the last capture, or
//!     will be found by the next scan.
//! S3  the memory only grows; an image with less of it needs a slot of its own.
//! S4  a slot's books are bounded by the pages written lately, not by its length.
//!
//! Pages once written stay writable and are compared at each capture, because a write fault costs
//! ten times a comparison; one that stays the same for [`IDLE_CAPTURES_MAX`] captures in a row is
//! protected again, or given back if it equals the base (S4).
#![allow(unsafe_code)]

mod base;
mod kernel;
mod pool;

pub use base::BaseImage;
pub(crate) use pool::Extent;
use pool::WARM_PAGES_MAX;
pub use pool::{MAPPINGS_PER_SLOT, PoolPlan, SlotPool, Tracking};

use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// What a 32-bit memory can address.
pub const MEMORY_BYTES_MAX: usize = 4 << 30;
/// Closed addresses behind it, so that compiled code needs no bounds checks.
pub const GUARD_BYTES: usize = 32 << 20;
/// A written page that stays the same for so many captures is cold: to protect it and to fault on
/// its next write costs about as much as so many comparisons.
pub const IDLE_CAPTURES_MAX: u8 = 64;
/// The same for one that equals the base: it costs memory as well.
const IDLE_CAPTURES_SHARED: u8 = 16;
/// The same while there are more than [`HOT_PAGES_MAX`] of them: a burst must not cost for long.
const IDLE_CAPTURES_BURST: u8 = 4;
/// Writable pages that a slot has without hurry to protect some.
const HOT_PAGES_MAX: usize = 256;
/// Runs of cold pages protected in one capture; more wait for the next one.
const COOL_RUNS_MAX: usize = 64;

/// Why there is no slot, base or growth.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The kernel refused a call.
    #[error("{call} failed: {source}; `heronry doctor` says what this host lacks")]
    Kernel {
        /// Which one.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// Every slot is in use.
    #[error("all {slots_max} slots of the shard are live; evict an agent first")]
    Full {
        /// As many as there are.
        slots_max: u32,
    },
    /// A length that is no multiple of pages, nothing, or past its limit.
    #[error("a memory of {len_bytes} bytes; it takes whole pages up to {max} bytes")]
    Length {
        /// Asked for.
        len_bytes: usize,
        /// Allowed.
        max: usize,
    },
    /// A memory cannot get shorter (S3).
    #[error("a memory of {old_bytes} bytes cannot become {len_bytes}; take a new slot")]
    Shrink {
        /// Asked for.
        len_bytes: usize,
        /// What there is.
        old_bytes: usize,
    },
    /// A base somebody could still write to.
    #[error("the base is not sealed against writing, growing and shrinking")]
    Unsealed,
}

fn kernel_refused(call: &'static str, source: io::Error) -> SlotError {
    SlotError::Kernel { call, source }
}

/// What an image holds over its base: the sandbox's memory as one value.
pub trait Delta {
    /// The image's page, put together in `scratch` where it is not in one piece; `None`: it is the
    /// base's, or zeros past the base's end.
    fn held<'a>(&'a self, page_idx: u32, scratch: &'a mut [u8; PAGE]) -> Option<&'a [u8; PAGE]>;
    /// Whether the image has the page.
    fn holds(&self, page_idx: u32) -> bool;
    /// From now on the image's page is `bytes`; whether it was not until now. `base` is the base's.
    fn keep(&mut self, page_idx: u32, base: &[u8; PAGE], bytes: &[u8; PAGE]) -> bool;
}

/// What one capture did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Captured {
    /// Pages looked at.
    pub compared_count: u32,
    /// Pages that differed and were kept.
    pub changed_count: u32,
    /// Pages protected again or given back.
    pub cooled_count: u32,
}

/// Length of a memory, now and at most. Whole pages.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    /// Now; at least the base's.
    pub memory_bytes: usize,
    /// What the guest may grow to.
    pub memory_bytes_max: usize,
}

/// A written page, and for how many captures it has stayed the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    page_idx: u32,
    idle: u8,
}

/// Buffers that all slots of a pool share; empty between calls.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pages: Vec<u32>,
    next: Vec<Written>,
    cold: Vec<u32>,
}

/// One mapped memory, equal to some image between the guest's turns.
#[derive(Debug)]
pub struct Slot {
    extent: Option<Arc<Extent>>,
    base: Arc<BaseImage>,
    pool: Rc<SlotPool>,
    /// Writable pages, in order (S2). Empty when pages are compared.
    written: Vec<Written>,
}

impl Slot {
    /// A slot that holds `base`, zeros behind it.
    /// Errors: lengths out of range, no slot free, or the kernel refused; nothing is lent then.
    pub fn new(
        pool: &Rc<SlotPool>,
        base: &Arc<BaseImage>,
        lengths: Lengths,
    ) -> Result<Slot, SlotError> {
        let max = lengths.memory_bytes_max;
        if max > MEMORY_BYTES_MAX || !max.is_multiple_of(PAGE) {
            return Err(SlotError::Length { len_bytes: max, max: MEMORY_BYTES_MAX });
        }
        let len_bytes = lengths.memory_bytes;
        if len_bytes < base.len_bytes() {
            return Err(SlotError::Shrink { len_bytes, old_bytes: base.len_bytes() });
        }
        if len_bytes > max || !len_bytes.is_multiple_of(PAGE) {
            return Err(SlotError::Length { len_bytes, max });
        }
        let (extent, written) = pool.lend(base, max)?;
        let slot = Slot {
            extent: Some(Arc::new(extent)),
            base: Arc::clone(base),
            pool: Rc::clone(pool),
            written,
        };
        slot.extent().grow_to(len_bytes)?;
        Ok(slot)
    }

    /// Where the memory starts.
    pub fn as_ptr(&self) -> *mut u8 {
        self.extent().as_ptr()
    }

    /// Length of the memory now.
    pub fn len_bytes(&self) -> usize {
        self.extent().len_bytes()
    }

    /// What it overlays.
    pub fn base(&self) -> &Arc<BaseImage> {
        &self.base
    }

    /// Makes the memory longer: zeros. In an instance grow through it instead, so that the guest's
    /// `memory.size` follows. Errors: past the limit, or shorter (S3); nothing changed.
    pub fn grow(&mut self, memory_bytes: usize) -> Result<(), SlotError> {
        self.extent().grow_to(memory_bytes)
    }

    /// One page as it is now.
    pub fn page(&self, page_idx: u32) -> &[u8; PAGE] {
        self.check(page_idx);
        // SAFETY: the page is open, as was just checked. Only the guest and `&mut self` write to
        // it, and the guest does not run while a method of its slot or a borrow of it lives: its
        // instance, which owns the slot, would have to be borrowed mutably.
        unsafe { self.extent().space.page(page_idx) }
    }

    /// Restores one page to `bytes`. It is no change for an image that holds them.
    /// Cost: the copy; 0.7 µs more where the page was protected.
    pub fn write_page(&mut self, page_idx: u32, bytes: &[u8; PAGE]) {
        self.check(page_idx);
        // SAFETY: the page is open, as was just checked, and `&mut self` says that no reference
        // from `page` lives.
        unsafe { self.extent().space.write_page(page_idx, bytes) };
    }

    /// Restores one page to the base's, zeros behind it. A writable page is overwritten; a
    /// protected one is given back, so that it is shared again.
    /// Errors: the kernel refused to take it; the slot is of no use then.
    pub fn reset_page(&mut self, page_idx: u32) -> Result<(), SlotError> {
        self.check(page_idx);
        let hot = self.written.binary_search_by_key(&page_idx, |page| page.page_idx).is_ok();
        if hot || self.extent().tracker.is_none() {
            let base = Arc::clone(&self.base);
            self.write_page(page_idx, base.page(page_idx));
            return Ok(());
        }
        let start = page_idx as usize * PAGE;
        let given_back = self.extent().space.discard(start..start + PAGE);
        given_back.map_err(|error| kernel_refused("madvise", error))
    }

    /// Gives every page that differs from `image` to it (S1). Afterwards `image` equals the slot.
    /// Cost: the scan (2-3 µs), 0.1 µs per written page, the copies.
    /// Errors: the kernel refused; what was kept until then is right, but not all.
    pub fn capture(&mut self, image: &mut (impl Delta + ?Sized)) -> Result<Captured, SlotError> {
        let pool = Rc::clone(&self.pool);
        let scratch = &mut *pool.scratch.borrow_mut();
        self.scan(&mut scratch.pages)?;
        let mut captured =
            Captured { compared_count: scratch.pages.len() as u32, ..Captured::default() };
        scratch.next.clear();
        scratch.cold.clear();
        let mut old = self.written.iter().peekable();
        let protects = self.extent().tracker.is_some();
        let burst = scratch.pages.len() > HOT_PAGES_MAX;
        let idle_max = |shared: bool| match (burst, shared) {
            (true, _) => IDLE_CAPTURES_BURST,
            (false, true) => IDLE_CAPTURES_SHARED,
            (false, false) => IDLE_CAPTURES_MAX,
        };
        for page_idx in scratch.pages.iter().copied() {
            while old.next_if(|page| page.page_idx < page_idx).is_some() {}
            let idle = old.next_if(|page| page.page_idx == page_idx).map_or(0, |page| page.idle);
            let changed = image.keep(page_idx, self.base.page(page_idx), self.page(page_idx));
            captured.changed_count += u32::from(changed);
            let idle = if changed { 0 } else { idle.saturating_add(1) };
            if protects && idle >= IDLE_CAPTURES_BURST && idle >= idle_max(!image.holds(page_idx)) {
                scratch.cold.push(page_idx);
            }
            if protects {
                scratch.next.push(Written { page_idx, idle });
            }
        }
        captured.cooled_count = self.cool(scratch, image)?;
        self.written.clear();
        self.written.extend_from_slice(&scratch.next);
        self.written.shrink_to(4 * scratch.next.len());
        Ok(captured)
    }

    /// Makes every page that differs from `image` equal to it again: a turn undone in place.
    /// Works while the memory is as long as the image's (S3).
    /// Errors: the kernel refused; the slot is of no use then.
    pub fn revert(&mut self, image: &(impl Delta + ?Sized)) -> Result<u32, SlotError> {
        let pool = Rc::clone(&self.pool);
        let scratch = &mut *pool.scratch.borrow_mut();
        self.scan(&mut scratch.pages)?;
        let base = Arc::clone(&self.base);
        let mut reverted_count = 0;
        let mut whole = [0; PAGE];
        for page_idx in scratch.pages.iter().copied() {
            let wanted = image.held(page_idx, &mut whole).unwrap_or(base.page(page_idx));
            if !same(self.page(page_idx), wanted) {
                self.write_page(page_idx, wanted);
                reverted_count += 1;
            }
        }
        Ok(reverted_count)
    }

    /// Pages that the next capture looks at because they were written some captures ago.
    pub fn hot_count(&self) -> usize {
        self.written.len()
    }

    /// Pages that a capture would look at now. For tests and reports; costs a scan.
    pub fn dirty_count(&self) -> Result<usize, SlotError> {
        let scratch = &mut *self.pool.scratch.borrow_mut();
        self.scan(&mut scratch.pages)?;
        Ok(scratch.pages.len())
    }

    pub(crate) fn extent(&self) -> &Arc<Extent> {
        self.extent.as_ref().expect("S2: a slot has its memory until it is dropped")
    }

    /// Pages to look at, in order.
    fn scan(&self, pages: &mut Vec<u32>) -> Result<(), SlotError> {
        let extent = self.extent();
        pages.clear();
        match &extent.tracker {
            Some(tracker) => extent
                .space
                .written(tracker, extent.len_bytes(), pages)
                .map_err(|error| kernel_refused("PAGEMAP_SCAN", error)),
            None => {
                pages.extend(0..(extent.len_bytes() / PAGE) as u32);
                Ok(())
            }
        }
    }

    /// Protects cold pages, or gives them back, and takes them out of `next`.
    fn cool(&self, scratch: &mut Scratch, image: &(impl Delta + ?Sized)) -> Result<u32, SlotError> {
        let extent = self.extent();
        let Some(tracker) = &extent.tracker else { return Ok(0) };
        let kind = |page_idx: u32| image.holds(page_idx);
        let mut runs =
            scratch.cold.chunk_by(|a, b| *b == *a + 1 && kind(*a) == kind(*b)).take(COOL_RUNS_MAX);
        let mut cooled_end = 0;
        let mut cooled_count = 0;
        runs.try_for_each(|run| {
            let end = run[0] + run.len() as u32;
            let bytes = run[0] as usize * PAGE..end as usize * PAGE;
            cooled_end = end;
            cooled_count += run.len() as u32;
            if kind(run[0]) {
                let protected = extent.space.protect(tracker, bytes);
                protected.map_err(|error| kernel_refused("UFFDIO_WRITEPROTECT", error))
            } else {
                let given_back = extent.space.discard(bytes);
                given_back.map_err(|error| kernel_refused("madvise", error))
            }
        })?;
        if cooled_count > 0 {
            let cold = scratch.cold.iter().copied();
            let mut cold = cold.take_while(|page_idx| *page_idx < cooled_end).peekable();
            scratch.next.retain(|page| cold.next_if_eq(&page.page_idx).is_none());
        }
        Ok(cooled_count)
    }

    /// Makes the memory read as its base again, with as many private pages as may be kept; they
    /// are the result. `None`: too many of them, or the kernel refused.
    fn wash(&mut self) -> Option<Vec<Written>> {
        let extent = Arc::clone(self.extent());
        let tracker = extent.tracker.as_ref()?;
        let mut written = std::mem::take(&mut self.written);
        written.clear();
        let (mut protected, mut too_many) = (Vec::new(), false);
        let base_bytes = self.base.len_bytes();
        let scanned = extent.space.private(tracker, base_bytes, &mut |pages, is_written| {
            if !is_written {
                protected.push(pages);
            } else if written.len() + pages.len() <= WARM_PAGES_MAX {
                written.extend(pages.map(|page_idx| Written { page_idx, idle: 0 }));
            } else {
                too_many = true;
            }
        });
        if scanned.is_err() || too_many {
            return None;
        }
        for pages in protected {
            let bytes = pages.start as usize * PAGE..pages.end as usize * PAGE;
            extent.space.discard(bytes).ok()?;
        }
        let base = Arc::clone(&self.base);
        for page in &written {
            self.write_page(page.page_idx, base.page(page.page_idx));
        }
        Some(written)
    }

    fn check(&self, page_idx: u32) {
        let len_bytes = self.len_bytes();
        assert!((page_idx as usize) < len_bytes / PAGE, "S3: page {page_idx} of {len_bytes} bytes");
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let kept = self.wash();
        if let Some(extent) = self.extent.take() {
            self.pool.take_back(extent, &self.base, kept);
        }
    }
}

/// Whether two pages are equal; the same page is, without a look at it.
fn same(a: &[u8; PAGE], b: &[u8; PAGE]) -> bool {
    std::ptr::eq(a, b) || a == b
}
