//! Slot pools: a shard's reservations, lent to slots and taken back.
//!
//! Owns: how many slots there may be, which reservation is idle, how written pages are found.
//! Not: what is in a slot, nor which agent loses its slot when there are no more.
//! R1  reservations in use and idle together are at most `slots_max`.
//! R2  an idle reservation reads as its base: its next slot sees nothing of its last one.
//! R3  a reservation is lent again only when nothing can reach its memory any more.
//! R4  an idle reservation does not keep a base alive for long that no template and no slot has.
//!
//! A few idle reservations stay *warm*: they keep the private pages that their guest wrote, with
//! the base's bytes in them. Agents of one template write much the same pages, and filling a page
//! that is there costs a thirtieth of a first write to one that is not.

use super::base::BaseImage;
use super::kernel::{self, Reservation, Tracker};
use super::{GUARD_BYTES, MEMORY_BYTES_MAX, SlotError, Written, kernel_refused};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Addresses of one slot.
const RESERVED_BYTES: usize = MEMORY_BYTES_MAX + GUARD_BYTES;
/// Mappings of a slot: its base, the memory grown past it, the closed rest.
pub const MAPPINGS_PER_SLOT: u32 = 3;
/// Mappings left to the allocator, compiled modules, rings, the arena: all else in the process.
const MAPPINGS_RESERVED: u32 = 6_000;
/// What a process can address below the stack and the libraries: 47 bits, some left free.
const ADDRESS_BYTES: usize = 120 << 40;
/// Private pages that a slot is reckoned with: those of a Python agent after twenty steps.
const SLOT_PRIVATE_BYTES: u64 = 512 << 10;
/// The kernel's default, where the real number cannot be read.
const MAP_COUNT_DEFAULT: u32 = 65_530;
/// Idle reservations looked at for one that maps the wanted base already.
const IDLE_LOOKS_MAX: usize = 8;
/// Idle reservations that stay warm; the oldest one cools first.
const WARM_SLOTS_MAX: usize = 16;
/// Idle reservations looked at each time one comes back.
const SWEEP_MAX: usize = 2;
/// Pages of a warm reservation; with more it is cleared.
pub(super) const WARM_PAGES_MAX: usize = 256;

/// How a slot finds the pages that its guest has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// The kernel notes them (userfaultfd, PAGEMAP_SCAN).
    Userfault,
    /// Every page of the memory is compared. Works everywhere; cost grows with the memory.
    Compare,
}

/// What a pool is made by.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolPlan {
    /// Slots at most; `None`: what the process's limit of mappings and `memory_bytes` have room
    /// for. Say it where several pools live in one process.
    pub slots_max: Option<u32>,
    /// Memory for the slots' private pages, as far as it decides how many slots there are; `None`:
    /// it does not.
    pub memory_bytes: Option<u64>,
    /// Forces how written pages are found; `None`: the kernel's way where it works.
    pub tracking: Option<Tracking>,
}

/// A shard's slots. Stays on its thread.
#[derive(Debug)]
pub struct SlotPool {
    tracker: Option<Arc<Tracker>>,
    /// Why the kernel's tracking is not in use.
    fallback: Option<String>,
    slots_max: u32,
    live_count: Cell<u32>,
    idle: RefCell<Vec<Idle>>,
    warm: RefCell<Vec<Idle>>,
    /// Which idle reservation is looked at next.
    swept: Cell<usize>,
    pub(super) scratch: RefCell<super::Scratch>,
}

/// A reservation without a slot; still maps the base of its last one (R2).
#[derive(Debug)]
struct Idle {
    space: Reservation,
    /// What it maps, as long as somebody else has a use for it (R4).
    base: Weak<BaseImage>,
    /// Bytes of it that are mapped; 0: nothing is.
    base_bytes: usize,
    /// Private pages, all writable; of warm reservations only.
    written: Vec<Written>,
}

impl Idle {
    fn new(space: Reservation) -> Idle {
        Idle { space, base: Weak::new(), base_bytes: 0, written: Vec::new() }
    }

    fn maps(&self, base: &Arc<BaseImage>) -> bool {
        std::ptr::eq(self.base.as_ptr(), Arc::as_ptr(base)) && self.base_bytes > 0
    }

    /// Maps a base that nobody else uses any more.
    fn is_stale(&self) -> bool {
        self.base_bytes > 0 && self.base.strong_count() == 0
    }

    /// Maps nothing any more. Errors: the kernel refused; it still maps its base then.
    fn unmap(&mut self) -> io::Result<()> {
        if self.base_bytes > 0 {
            self.space.close(0..self.base_bytes)?;
        }
        (self.base, self.base_bytes, self.written) = (Weak::new(), 0, Vec::new());
        Ok(())
    }
}

impl SlotPool {
    /// A pool without reservations yet. Tries the kernel's tracking on a small slot.
    /// Errors: `plan` forces [`Tracking::Userfault`] where it does not work.
    pub fn new(plan: PoolPlan) -> Result<Rc<SlotPool>, SlotError> {
        let (tracker, fallback) = match plan.tracking {
            Some(Tracking::Compare) => (None, Some("asked for".to_owned())),
            forced => match kernel::probe() {
                Ok(tracker) => (Some(tracker), None),
                Err(error) if forced.is_some() => return Err(kernel_refused("userfaultfd", error)),
                Err(error) => (None, Some(error.to_string())),
            },
        };
        Ok(Rc::new(SlotPool {
            tracker,
            fallback,
            slots_max: plan.slots_max.unwrap_or_else(|| slots_that_fit(plan.memory_bytes)),
            live_count: Cell::new(0),
            idle: RefCell::default(),
            warm: RefCell::default(),
            swept: Cell::new(0),
            scratch: RefCell::default(),
        }))
    }

    /// How written pages are found.
    pub fn tracking(&self) -> Tracking {
        if self.tracker.is_some() { Tracking::Userfault } else { Tracking::Compare }
    }

    /// Why pages are compared instead of tracked by the kernel; `None` when they are not.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Slots that can live at once.
    pub fn slots_max(&self) -> u32 {
        self.slots_max
    }

    /// Slots that live now.
    pub fn live_count(&self) -> u32 {
        self.live_count.get()
    }

    /// Idle reservations.
    pub fn idle_count(&self) -> usize {
        self.idle.borrow().len() + self.warm.borrow().len()
    }

    /// Gives the idle reservations back, and with them their hold on bases no longer used.
    pub fn trim(&self) {
        self.idle.borrow_mut().clear();
        self.warm.borrow_mut().clear();
    }

    /// A reservation that reads as `base`, and the private pages it has. `Full`: nothing changed.
    pub(super) fn lend(
        &self,
        base: &Arc<BaseImage>,
        memory_bytes_max: usize,
    ) -> Result<(Extent, Vec<Written>), SlotError> {
        let mut idle = self.take_idle(base)?;
        if !idle.maps(base) {
            idle.unmap().map_err(|error| kernel_refused("mmap", error))?;
            let mapped = idle.space.overlay(base.fd(), base.len_bytes());
            mapped.map_err(|error| kernel_refused("mmap of a base", error))?;
            if let Some(tracker) = &self.tracker {
                let tracked = idle.space.track(tracker, 0..base.len_bytes());
                tracked.map_err(|error| kernel_refused("UFFDIO_REGISTER", error))?;
            }
        }
        self.live_count.set(self.live_count.get() + 1);
        let extent = Extent {
            space: idle.space,
            tracker: self.tracker.clone(),
            len_bytes: AtomicUsize::new(base.len_bytes()),
            max_bytes: memory_bytes_max,
            growth_refused: AtomicBool::new(false),
        };
        Ok((extent, idle.written))
    }

    /// Takes a slot's reservation back (R2): with the pages that it keeps, if they are the only
    /// private ones and equal the base's, else it is cleared. One that something still reaches is
    /// not lent again (R3); neither is one that the kernel does not clear.
    pub(super) fn take_back(
        &self,
        extent: Arc<Extent>,
        base: &Arc<BaseImage>,
        kept: Option<Vec<Written>>,
    ) {
        self.live_count.set(self.live_count.get() - 1);
        let Some(extent) = Arc::into_inner(extent) else {
            debug_assert!(false, "R3: a slot ended before the instance in it");
            return;
        };
        let len_bytes = extent.len_bytes();
        let space = extent.space;
        let grown = base.len_bytes()..len_bytes;
        if !grown.is_empty() && space.close(grown).is_err() {
            return;
        }
        let idle = Idle {
            space,
            base: Arc::downgrade(base),
            base_bytes: base.len_bytes(),
            written: kept.unwrap_or_default(),
        };
        if idle.written.is_empty() {
            self.clear(idle);
        } else {
            let mut warm = self.warm.borrow_mut();
            warm.push(idle);
            if warm.len() > WARM_SLOTS_MAX {
                self.clear(warm.remove(0));
            }
        }
        self.sweep();
    }

    /// Looks at some idle reservations and unmaps what nobody uses any more (R4).
    fn sweep(&self) {
        let mut warm = self.warm.borrow_mut();
        for stale in warm.extract_if(.., |idle| idle.is_stale()) {
            self.clear(stale);
        }
        let mut idle = self.idle.borrow_mut();
        for _ in 0..SWEEP_MAX.min(idle.len()) {
            let at = self.swept.get() % idle.len();
            self.swept.set(at + 1);
            // A refusal leaves it mapped: it is looked at again, and costs memory only.
            if idle[at].is_stale() && idle[at].unmap().is_err() {
                break;
            }
        }
    }

    /// Gives an idle reservation's private pages back.
    fn clear(&self, idle: Idle) {
        if idle.space.discard(0..idle.base_bytes).is_ok() {
            self.idle.borrow_mut().push(Idle { written: Vec::new(), ..idle });
        }
    }

    fn take_idle(&self, base: &Arc<BaseImage>) -> Result<Idle, SlotError> {
        let mut warm = self.warm.borrow_mut();
        if let Some(at) = warm.iter().rposition(|idle| idle.maps(base)) {
            return Ok(warm.remove(at));
        }
        let mut idle = self.idle.borrow_mut();
        let found = idle.iter().rev().take(IDLE_LOOKS_MAX).position(|idle| idle.maps(base));
        if let Some(from_end) = found {
            let at = idle.len() - 1 - from_end;
            return Ok(idle.swap_remove(at));
        }
        if let Some(other) = idle.pop() {
            return Ok(other);
        }
        if self.live_count.get() as usize + warm.len() >= self.slots_max as usize {
            let full = SlotError::Full { slots_max: self.slots_max };
            return if warm.is_empty() { Err(full) } else { Ok(warm.remove(0)) };
        }
        let space = Reservation::new(RESERVED_BYTES)
            .map_err(|error| kernel_refused("mmap of a reservation", error))?;
        Ok(Idle::new(space))
    }
}

/// The memory of a slot as the guest's runtime sees it: where it is, how long, how it grows.
#[derive(Debug)]
pub(crate) struct Extent {
    pub(super) space: Reservation,
    pub(super) tracker: Option<Arc<Tracker>>,
    len_bytes: AtomicUsize,
    max_bytes: usize,
    growth_refused: AtomicBool,
}

impl Extent {
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.space.as_ptr()
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Whether the guest asked for more than its limit since the last call of this.
    pub(crate) fn take_growth_refused(&self) -> bool {
        self.growth_refused.swap(false, Ordering::Relaxed)
    }

    /// Makes the memory longer: zeros. Errors: past the limit, or shorter. Nothing changed then.
    pub(crate) fn grow_to(&self, len_bytes: usize) -> Result<(), SlotError> {
        let old_bytes = self.len_bytes();
        if len_bytes > self.max_bytes {
            self.growth_refused.store(true, Ordering::Relaxed);
            return Err(SlotError::Length { len_bytes, max: self.max_bytes });
        }
        if len_bytes < old_bytes {
            return Err(SlotError::Shrink { len_bytes, old_bytes });
        }
        if len_bytes == old_bytes {
            return Ok(());
        }
        self.open(old_bytes..len_bytes).map_err(|error| kernel_refused("mprotect", error))?;
        self.len_bytes.store(len_bytes, Ordering::Relaxed);
        Ok(())
    }

    fn open(&self, range: std::ops::Range<usize>) -> io::Result<()> {
        self.space.open(range.clone())?;
        let Some(tracker) = &self.tracker else { return Ok(()) };
        let tracked = self.space.track(tracker, range.clone());
        if tracked.is_err() {
            self.space.close(range)?;
        }
        tracked
    }
}

/// Slots that the process's mappings and addresses, and this memory, have room for.
fn slots_that_fit(memory_bytes: Option<u64>) -> u32 {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(MAP_COUNT_DEFAULT);
    let mapped = limit.saturating_sub(MAPPINGS_RESERVED) / MAPPINGS_PER_SLOT;
    let addressed = (ADDRESS_BYTES / RESERVED_BYTES) as u64;
    let held = memory_bytes.map_or(u64::MAX, |bytes| bytes / SLOT_PRIVATE_BYTES);
    u64::from(mapped).min(addressed).min(held).max(1) as u32
}
