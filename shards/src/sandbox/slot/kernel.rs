//! The kernel's part of a slot: reserved addresses, private overlays, write tracking, page scans.
//!
//! Owns: the system calls and the struct layouts of userfaultfd and PAGEMAP_SCAN.  Not: which page
//! is written when, nor which page has changed.
//! K1  every range handed to the kernel lies inside the reservation it is called on.
//! K2  a scan finds each private page written since it was last protected, and no other.
//! Sources: ioctl_userfaultfd(2), Documentation/admin-guide/mm/pagemap.rst.
#![allow(unsafe_code)]

use super::PAGE;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Faults of user mode only: allowed without privileges.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1;
const UFFD_FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 2;
const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
/// `_IOWR(0xaa, 0x06, struct uffdio_writeprotect)`
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;
/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// `struct uffdio_api`
#[repr(C)]
#[derive(Default)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`
#[repr(C)]
#[derive(Default)]
struct UffdioRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_writeprotect`
#[repr(C)]
struct UffdioWriteprotect {
    start: u64,
    len: u64,
    mode: u64,
}

/// `struct pm_scan_arg`
#[repr(C)]
#[derive(Default)]
struct PmScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

const _: () = assert!(size_of::<UffdioApi>() == 0x18);
const _: () = assert!(size_of::<UffdioRegister>() == 0x20);
const _: () = assert!(size_of::<UffdioWriteprotect>() == 0x18);
const _: () = assert!(size_of::<PmScanArg>() == 0x60);

/// Runs of written pages fetched per call of a scan: 6 KiB on the stack.
const REGIONS_MAX: usize = 256;

/// Finds written pages: a userfaultfd and the process's page map.
#[derive(Debug)]
pub(super) struct Tracker {
    uffd: OwnedFd,
    pagemap: File,
}

impl Tracker {
    /// Errors: no userfaultfd for this process, or one without asynchronous write protection.
    pub(super) fn open() -> io::Result<Tracker> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
        // SAFETY: the call takes plain flags and touches no memory of ours.
        let raw = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
        let uffd = unsafe { OwnedFd::from_raw_fd(raw as libc::c_int) };
        let features = UFFD_FEATURE_PAGEFAULT_FLAG_WP
            | UFFD_FEATURE_WP_HUGETLBFS_SHMEM
            | UFFD_FEATURE_WP_UNPOPULATED
            | UFFD_FEATURE_WP_ASYNC;
        let mut api = UffdioApi { api: UFFD_API, features, ioctls: 0 };
        // SAFETY: `api` is a live struct of the size that the request's number encodes.
        succeed(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_API, &mut api) })?;
        Ok(Tracker { uffd, pagemap: File::open("/proc/self/pagemap")? })
    }

    /// Tracks writes to `bytes` of the reservation from now on; nothing counts as written yet.
    fn register(&self, bytes: Range<usize>) -> io::Result<()> {
        let mut register = UffdioRegister {
            start: bytes.start as u64,
            len: bytes.len() as u64,
            mode: UFFDIO_REGISTER_MODE_WP,
            ioctls: 0,
        };
        // SAFETY: `register` is a live struct of the size that the request's number encodes; the
        // kernel lifts the protection by itself on a write (WP_ASYNC), so no access ever waits.
        succeed(unsafe { libc::ioctl(self.uffd.as_raw_fd(), UFFDIO_REGISTER, &mut register) })
    }

    fn protect(&self, bytes: Range<usize>) -> io::Result<()> {
        let mut protect = UffdioWriteprotect {
            start: bytes.start as u64,
            len: bytes.len() as u64,
            mode: UFFDIO_WRITEPROTECT_MODE_WP,
        };
        // SAFETY: `protect` is a live struct of the size that the request's number encodes; the
        // kernel lifts the protection by itself on a write (WP_ASYNC).
        succeed(unsafe { libc::ioctl(self.uffd.as_raw_fd(), UFFDIO_WRITEPROTECT, &mut protect) })
    }

    /// Runs of private pages of `bytes`, and whether each was written since it was protected; with
    /// `written_only` no others.
    fn scan(
        &self,
        bytes: Range<usize>,
        written_only: bool,
        found: &mut dyn FnMut(Range<usize>, bool),
    ) -> io::Result<()> {
        // A page of our own: not the file's, not the zero page, not absent.
        let absent = PAGE_IS_FILE | PAGE_IS_PFNZERO;
        let wanted = if written_only { PAGE_IS_WRITTEN } else { 0 };
        let mut regions = [PageRegion::default(); REGIONS_MAX];
        let mut start = bytes.start as u64;
        while start < bytes.end as u64 {
            let mut arg = PmScanArg {
                size: size_of::<PmScanArg>() as u64,
                start,
                end: bytes.end as u64,
                vec: regions.as_mut_ptr() as u64,
                vec_len: regions.len() as u64,
                category_inverted: absent,
                category_mask: wanted | absent,
                category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                return_mask: PAGE_IS_WRITTEN,
                ..PmScanArg::default()
            };
            // SAFETY: `arg` is a live struct of the size that the request's number encodes; it
            // names `regions`, alive and `vec_len` long, as the only memory the kernel writes.
            let count = unsafe { libc::ioctl(self.pagemap.as_raw_fd(), PAGEMAP_SCAN, &mut arg) };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            for region in regions.iter().take(count) {
                let written = region.categories & PAGE_IS_WRITTEN != 0;
                found(region.start as usize..region.end as usize, written);
            }
            assert!(arg.walk_end > start, "K2: a scan that does not advance");
            start = arg.walk_end;
        }
        Ok(())
    }
}

/// Addresses of ours, inaccessible until a part is mapped. Offsets count from its start.
#[derive(Debug)]
pub(super) struct Reservation {
    start: usize,
    len_bytes: usize,
}

impl Reservation {
    /// Errors: no addresses or mappings left.
    pub(super) fn new(len_bytes: usize) -> io::Result<Reservation> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let hint = std::ptr::null_mut();
        // SAFETY: a new anonymous mapping where the kernel likes; no memory of ours is named.
        let at = unsafe { libc::mmap(hint, len_bytes, libc::PROT_NONE, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Reservation { start: at.expose_provenance(), len_bytes })
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.start)
    }

    /// Maps the first `len_bytes` of `file` private and writable at the reservation's start.
    pub(super) fn overlay(&self, file: BorrowedFd<'_>, len_bytes: usize) -> io::Result<()> {
        let bytes = self.bytes(0..len_bytes);
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let at = self.as_ptr().cast();
        // SAFETY: the range is ours (K1) and no reference into it outlives a call on the slot;
        // replacing it cannot hit memory of anyone else.
        let mapped = unsafe { libc::mmap(at, bytes.len(), protection, flags, file.as_raw_fd(), 0) };
        if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Makes a closed range readable and writable: zeros, in small pages.
    pub(super) fn open(&self, range: Range<usize>) -> io::Result<()> {
        let bytes = self.bytes(range);
        let at = self.at(&bytes);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is ours (K1) and was inaccessible, so nothing relies on that.
        succeed(unsafe { libc::mprotect(at, bytes.len(), protection) })?;
        // SAFETY: as above; advice that one written page shall not cost two megabytes. A kernel
        // without huge pages refuses it, which is as good.
        unsafe { libc::madvise(at, bytes.len(), libc::MADV_NOHUGEPAGE) };
        Ok(())
    }

    /// Makes a range inaccessible; its pages are given back.
    pub(super) fn close(&self, range: Range<usize>) -> io::Result<()> {
        let bytes = self.bytes(range);
        let at = self.at(&bytes);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the range is ours (K1) and no reference into it outlives a call on the slot.
        let mapped = unsafe { libc::mmap(at, bytes.len(), libc::PROT_NONE, flags, -1, 0) };
        if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Gives private pages back: the range reads as the overlaid file again, or as zeros.
    pub(super) fn discard(&self, range: Range<usize>) -> io::Result<()> {
        let bytes = self.bytes(range);
        let at = self.at(&bytes);
        // SAFETY: the range is ours (K1); its bytes change as a write by the guest would.
        succeed(unsafe { libc::madvise(at, bytes.len(), libc::MADV_DONTNEED) })
    }

    /// Tracks writes to an open range from now on.
    pub(super) fn track(&self, tracker: &Tracker, range: Range<usize>) -> io::Result<()> {
        tracker.register(self.bytes(range))
    }

    /// The next write to each page of a tracked range counts again.
    pub(super) fn protect(&self, tracker: &Tracker, range: Range<usize>) -> io::Result<()> {
        tracker.protect(self.bytes(range))
    }

    /// Appends the written pages of the first `len_bytes`, in order (K2).
    pub(super) fn written(
        &self,
        tracker: &Tracker,
        len_bytes: usize,
        pages: &mut Vec<u32>,
    ) -> io::Result<()> {
        tracker.scan(self.bytes(0..len_bytes), true, &mut |bytes, _| {
            pages.extend(self.pages(bytes));
        })
    }

    /// Every private page of the first `len_bytes`, in order: runs, and whether they were written.
    pub(super) fn private(
        &self,
        tracker: &Tracker,
        len_bytes: usize,
        found: &mut dyn FnMut(Range<u32>, bool),
    ) -> io::Result<()> {
        tracker.scan(self.bytes(0..len_bytes), false, &mut |bytes, written| {
            found(self.pages(bytes), written);
        })
    }

    /// One page.
    ///
    /// # Safety
    /// The page is open, and nothing writes to it while the reference lives.
    pub(super) unsafe fn page(&self, page_idx: u32) -> &[u8; PAGE] {
        let start = page_idx as usize * PAGE;
        let bytes = self.bytes(start..start + PAGE);
        let page: *const [u8; PAGE] = std::ptr::with_exposed_provenance(bytes.start);
        // SAFETY: inside the reservation (K1), aligned to pages, open and unwritten as the caller
        // promises; any bytes are valid.
        unsafe { &*page }
    }

    /// Overwrites one page.
    ///
    /// # Safety
    /// The page is open, and no reference to it lives.
    pub(super) unsafe fn write_page(&self, page_idx: u32, from: &[u8; PAGE]) {
        let start = page_idx as usize * PAGE;
        let bytes = self.bytes(start..start + PAGE);
        let page: *mut [u8; PAGE] = std::ptr::with_exposed_provenance_mut(bytes.start);
        // SAFETY: inside the reservation (K1), aligned to pages, open and unreferenced as the
        // caller promises.
        unsafe { page.write(*from) };
    }

    /// Addresses of a range, checked (K1).
    fn bytes(&self, range: Range<usize>) -> Range<usize> {
        let inside = range.start <= range.end && range.end <= self.len_bytes;
        let whole = range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE);
        assert!(inside && whole, "K1: {range:?} of {} bytes", self.len_bytes);
        self.start + range.start..self.start + range.end
    }

    /// Pages of a range of addresses.
    fn pages(&self, bytes: Range<usize>) -> Range<u32> {
        let page_of = |address: usize| ((address - self.start) / PAGE) as u32;
        page_of(bytes.start)..page_of(bytes.end)
    }

    fn at(&self, bytes: &Range<usize>) -> *mut libc::c_void {
        std::ptr::with_exposed_provenance_mut(bytes.start)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let at = std::ptr::with_exposed_provenance_mut(self.start);
        // SAFETY: the mapping is ours, and its owner, who alone hands out pointers, is gone.
        unsafe { libc::munmap(at, self.len_bytes) };
    }
}

/// A tracker that finds what is written to a small slot of its own, or the reason why there is
/// none: what the choice of tracking rests on.
pub(super) fn probe() -> io::Result<Arc<Tracker>> {
    let tracker = Tracker::open()?;
    let mut base = vec![7; 4 * PAGE];
    base[PAGE] = 1;
    let base = super::base::BaseImage::from_bytes(&base).map_err(io::Error::other)?;
    let space = Reservation::new(8 * PAGE)?;
    space.overlay(base.fd(), base.len_bytes())?;
    space.open(4 * PAGE..6 * PAGE)?;
    space.track(&tracker, 0..6 * PAGE)?;
    let expect = |pages: &[u32]| {
        let mut written = Vec::new();
        space.written(&tracker, 6 * PAGE, &mut written)?;
        if written == pages {
            return Ok(());
        }
        Err(io::Error::other(format!("pages {pages:?} were written, the scan says {written:?}")))
    };
    expect(&[])?;
    for page_idx in [1, 2, 5] {
        // SAFETY: open pages of a reservation that only this function knows.
        unsafe { space.write_page(page_idx, &[9; PAGE]) };
    }
    expect(&[1, 2, 5])?;
    space.protect(&tracker, PAGE..2 * PAGE)?;
    expect(&[2, 5])?;
    // SAFETY: as above.
    unsafe { space.write_page(1, &[8; PAGE]) };
    space.discard(2 * PAGE..3 * PAGE)?;
    expect(&[1, 5])?;
    Ok(Arc::new(tracker))
}

fn succeed(rc: libc::c_int) -> io::Result<()> {
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
