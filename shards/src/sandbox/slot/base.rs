//! Base images: a template's memory as it was sealed, shared by every shard of the host.
//!
//! Owns: the sealed memfd and one read-only mapping of it.  Not: who sends it to whom.
//! B1  the file is sealed against every change before it is mapped, so its bytes are a constant.
//! B2  a page of zeros takes no memory until somebody looks at it; past the end all is zeros.
#![allow(unsafe_code)]

use super::{PAGE, SlotError, kernel_refused};
use memmap2::{Mmap, MmapOptions};
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

const ZEROS: [u8; PAGE] = [0; PAGE];
/// Most bytes that are copied with one call.
const RUN_BYTES_MAX: usize = 64 << 10;
/// What B1 asks for.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A sealed memfd and a view of it.
#[derive(Debug)]
pub struct BaseImage {
    file: File,
    map: Mmap,
}

impl BaseImage {
    /// A new base of these bytes, the last page filled up with zeros. Cost: one copy.
    /// Errors: no memory or descriptors left.
    pub fn from_bytes(bytes: &[u8]) -> Result<BaseImage, SlotError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("heronry-base", flags)
            .map_err(|errno| kernel_refused("memfd_create", errno.into()))?;
        let file = File::from(fd);
        let len_bytes = bytes.len().next_multiple_of(PAGE);
        file.set_len(len_bytes as u64).map_err(|error| kernel_refused("ftruncate", error))?;
        let write = |from: usize, to: usize| {
            let written = file.write_all_at(&bytes[from..to], from as u64);
            written.map_err(|error| kernel_refused("pwrite", error))
        };
        // Neighbours that are no zeros go in one call, while the CPU still has them in its cache.
        let (mut from, mut to) = (0, 0);
        for page in bytes.chunks(PAGE) {
            let zero = page == &ZEROS[..page.len()];
            if zero || to - from >= RUN_BYTES_MAX {
                write(from, to)?;
                from = to;
            }
            to += page.len();
            if zero {
                from = to;
            }
        }
        write(from, to)?;
        rustix::fs::fcntl_add_seals(&file, SEALS)
            .map_err(|errno| kernel_refused("F_ADD_SEALS", errno.into()))?;
        BaseImage::map(file)
    }

    /// A base that another process made. Errors: not sealed (B1), empty, not whole pages.
    pub fn open(fd: OwnedFd) -> Result<BaseImage, SlotError> {
        BaseImage::map(File::from(fd))
    }

    /// The file, to map it or to send it to another process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Bytes, whole pages.
    pub fn len_bytes(&self) -> usize {
        self.map.len()
    }

    /// One page; zeros past the end (B2).
    pub fn page(&self, page_idx: u32) -> &[u8; PAGE] {
        let start = page_idx as usize * PAGE;
        self.map.get(start..).and_then(|rest| rest.first_chunk()).unwrap_or(&ZEROS)
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    fn map(file: File) -> Result<BaseImage, SlotError> {
        let seals = rustix::fs::fcntl_get_seals(&file)
            .map_err(|errno| kernel_refused("F_GET_SEALS", errno.into()))?;
        if !seals.contains(SEALS) {
            return Err(SlotError::Unsealed);
        }
        let metadata = file.metadata().map_err(|error| kernel_refused("fstat", error))?;
        let len_bytes = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        if len_bytes == 0 || !len_bytes.is_multiple_of(PAGE) || len_bytes > super::MEMORY_BYTES_MAX
        {
            return Err(SlotError::Length { len_bytes, max: super::MEMORY_BYTES_MAX });
        }
        // SAFETY: the seals forbid every write to the file and every change of its length, also
        // by other processes (B1), so the mapped bytes never change and never vanish.
        let map = unsafe { MmapOptions::new().len(len_bytes).map_copy_read_only(&file) };
        Ok(BaseImage { map: map.map_err(|error| kernel_refused("mmap", error))?, file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_only_a_sealed_file_is_a_base() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let open = |seals: SealFlags, len_bytes: u64| {
            let file = File::from(rustix::fs::memfd_create("test", flags).unwrap());
            file.set_len(len_bytes).unwrap();
            rustix::fs::fcntl_add_seals(&file, seals).unwrap();
            BaseImage::open(OwnedFd::from(file)).map(|base| base.len_bytes())
        };
        assert_eq!(open(SEALS, 8192).unwrap(), 8192);
        assert!(matches!(open(SEALS, 0), Err(SlotError::Length { .. })));
        assert!(matches!(open(SEALS, 5000), Err(SlotError::Length { .. })));
        for missing in [SealFlags::SEAL, SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE] {
            assert!(matches!(open(SEALS.difference(missing), 8192), Err(SlotError::Unsealed)));
        }
        let shared = BaseImage::from_bytes(&[5; 5000]).unwrap();
        let again = BaseImage::open(shared.fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(again.page(1), shared.page(1));
        assert!(shared.file.write_all_at(&[1], 0).is_err());
    }

    #[test]
    fn every_byte_is_copied_in_runs_of_any_length() {
        let run_pages = RUN_BYTES_MAX / PAGE;
        let lens = [1, run_pages - 1, run_pages, run_pages + 1, 3 * run_pages + 2];
        for (len, tail_bytes) in lens.into_iter().flat_map(|len| [(len, 0), (len, 100)]) {
            // Zeros, a run, zeros, a run up to the end, which may be within a page.
            let mut bytes = vec![0; (2 * len + 3) * PAGE + tail_bytes];
            for page in (1..=len).chain(len + 3..2 * len + 4) {
                let start = bytes.len().min(page * PAGE);
                let end = bytes.len().min(start + PAGE);
                bytes[start..end].fill(page as u8 | 1);
            }
            let base = BaseImage::from_bytes(&bytes).unwrap();
            assert_eq!(base.len_bytes(), bytes.len().next_multiple_of(PAGE));
            assert!(base.bytes()[..bytes.len()] == bytes[..], "{len} pages, {tail_bytes} bytes");
            assert!(base.bytes()[bytes.len()..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn b2_zero_pages_are_holes_and_past_the_end_is_zeros() {
        let mut bytes = vec![0; 64 * PAGE];
        bytes[9 * PAGE + 5] = 3;
        let base = BaseImage::from_bytes(&bytes).unwrap();
        let stat = rustix::fs::fstat(&base.file).unwrap();
        assert!(stat.st_blocks as usize * 512 <= 2 * PAGE, "{} blocks", stat.st_blocks);
        assert_eq!(base.page(9)[5], 3);
        assert_eq!(base.page(64), &ZEROS);
        assert_eq!(base.page(u32::MAX), &ZEROS);
    }
}
