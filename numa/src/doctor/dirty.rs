//! Probes of what finds dirty pages: userfaultfd's asynchronous write protection, PAGEMAP_SCAN.
//!
//! Owns: those two findings; both calls are exercised on a small private mapping of a memfd.
//! Not: the sandboxes that use them.
//! Y1  a scan returns exactly the pages written since the scan before it.
//! Sources: ioctl_userfaultfd(2), Documentation/admin-guide/mm/pagemap.rst.
#![allow(unsafe_code)]

use super::Finding;
use crate::sys;
use memmap2::{MmapMut, MmapOptions};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const USERFAULTFD: &str = "userfaultfd";
const SCAN: &str = "pagemap_scan";

/// Faults of user mode only: allowed without privileges.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 2;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
/// Write-protect what matches again; fail where the mapping is not asynchronously protected.
const PM_SCAN_WP_MATCHING: u64 = 1;
const PM_SCAN_CHECK_WPASYNC: u64 = 2;
const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// Pages of the mapping.
const PAGE_COUNT: usize = 8;

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
const _: () = assert!(size_of::<PmScanArg>() == 0x60);

/// One finding for each.
pub(super) fn probe() -> Vec<Finding> {
    const COST: &str = "sandboxes compare their whole memory after each turn: about 28 us per MiB";
    let uffd = match open_userfaultfd() {
        Ok(uffd) => uffd,
        Err(error) => {
            let fix = "install Linux 6.7 or newer with CONFIG_USERFAULTFD; in a container allow \
                       the system call (docker run --security-opt seccomp=PROFILE)";
            return vec![
                Finding::bad(USERFAULTFD, format!("failed: {error}"), COST, fix),
                Finding::bad(SCAN, "not tried: no userfaultfd", COST, fix),
            ];
        }
    };
    let found = "user mode only, WP_ASYNC, WP_UNPOPULATED";
    let scan = match exercise(&uffd) {
        Ok(()) => Finding::good(SCAN, "finds written pages and protects them again"),
        Err(error) => Finding::bad(
            SCAN,
            format!("failed: {error}"),
            COST,
            "install Linux 6.7 or newer with CONFIG_PROC_PAGE_MONITOR",
        ),
    };
    vec![Finding::good(USERFAULTFD, found), scan]
}

/// A userfaultfd with the features that sandboxes need.
fn open_userfaultfd() -> io::Result<OwnedFd> {
    // SAFETY: the call takes plain flags and touches no memory of ours.
    let raw =
        unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | UFFD_USER_MODE_ONLY) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
    let uffd = unsafe { OwnedFd::from_raw_fd(raw as libc::c_int) };
    let features =
        UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC;
    let mut api = UffdioApi { api: UFFD_API, features, ioctls: 0 };
    // SAFETY: `api` is a live struct of the size that the request's number encodes.
    let rc = unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_API, &mut api) };
    if rc != 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EINVAL) => io::Error::other("the kernel lacks WP_ASYNC or WP_UNPOPULATED"),
            _ => error,
        });
    }
    Ok(uffd)
}

/// Writes some pages and looks whether the scans say which (Y1).
fn exercise(uffd: &OwnedFd) -> io::Result<()> {
    let mut map = private_memfd(PAGE_COUNT * sys::page_bytes())?;
    protect(uffd, &map)?;
    let pagemap = File::open("/proc/self/pagemap")?;
    let expect = |pages: &[usize], map: &MmapMut| {
        let written = scan(&pagemap, map)?;
        if written == pages {
            return Ok(());
        }
        Err(io::Error::other(format!("pages {pages:?} were written, the scan says {written:?}")))
    };
    expect(&[], &map)?;
    for page in [1, 2, 6] {
        map[page * sys::page_bytes()] = 1;
    }
    expect(&[1, 2, 6], &map)?;
    expect(&[], &map)?;
    map[2 * sys::page_bytes()] = 2;
    expect(&[2], &map)
}

/// A private mapping of a memory file: what a sandbox's image is.
fn private_memfd(len_bytes: usize) -> io::Result<MmapMut> {
    // SAFETY: the name is a C string that lives for the whole program.
    let raw = unsafe { libc::memfd_create(c"heronry-doctor".as_ptr(), libc::MFD_CLOEXEC) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
    let file = unsafe { File::from_raw_fd(raw) };
    file.set_len(len_bytes as u64)?;
    // SAFETY: the file has no name and its only descriptor is closed when this function returns,
    // so nobody can write to it or shorten it under the mapping.
    unsafe { MmapOptions::new().len(len_bytes).map_copy(&file) }
}

fn protect(uffd: &OwnedFd, map: &MmapMut) -> io::Result<()> {
    let mut register = UffdioRegister {
        start: map.as_ptr() as u64,
        len: map.len() as u64,
        mode: UFFDIO_REGISTER_MODE_WP,
        ioctls: 0,
    };
    // SAFETY: `register` is a live struct of the size that the request's number encodes; the range
    // is a mapping of ours, whose protection the kernel lifts by itself on a write (WP_ASYNC).
    let rc = unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_REGISTER, &mut register) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The private pages of `map` written since the last scan; protects them again.
fn scan(pagemap: &File, map: &MmapMut) -> io::Result<Vec<usize>> {
    let mut regions = [PageRegion::default(); PAGE_COUNT];
    let start = map.as_ptr() as u64;
    let mut arg = PmScanArg {
        size: size_of::<PmScanArg>() as u64,
        flags: PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
        start,
        end: start + map.len() as u64,
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len() as u64,
        // Written, and a page of our own: not of the file, not the zero page, not absent.
        category_inverted: PAGE_IS_FILE | PAGE_IS_PFNZERO,
        category_mask: PAGE_IS_WRITTEN | PAGE_IS_FILE | PAGE_IS_PFNZERO,
        category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        return_mask: PAGE_IS_WRITTEN,
        ..PmScanArg::default()
    };
    // SAFETY: `arg` is a live struct of the size that the request's number encodes; it names
    // `regions`, alive and `vec_len` long, as the only memory that the kernel writes.
    let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &mut arg) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let page_bytes = sys::page_bytes() as u64;
    let pages = |region: &PageRegion| {
        (region.start - start) / page_bytes..(region.end - start) / page_bytes
    };
    let written = regions.iter().take(count).flat_map(pages);
    Ok(written.map(|page| page as usize).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn y1_scans_tell_written_pages_where_the_kernel_has_them() {
        match open_userfaultfd() {
            Ok(uffd) => exercise(&uffd).expect("PAGEMAP_SCAN works with WP_ASYNC"),
            Err(error) => println!("skipped: no userfaultfd here: {error}"),
        }
    }
}
