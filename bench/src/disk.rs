//! The disk's own latency: what one durable write costs when nothing else is in the way.
//!
//! Owns: a preallocated file and overwrites of its blocks.  Not: what a server makes of them.
//! D1  a write goes past the page cache and is on disk when it returns (O_DIRECT, O_DSYNC); its
//!     blocks were written before, so that no file system has anything to allocate.

use crate::context;
use crate::report::Latency;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of one write.
pub const BLOCK_BYTES: usize = 4096;
/// Blocks of the file.
const BLOCK_COUNT: u64 = 4096;

/// Memory that O_DIRECT takes on any disk.
#[repr(align(4096))]
struct Block([u8; BLOCK_BYTES]);

/// A file for overwrites, made of written blocks (D1).
#[derive(Debug)]
pub struct Disk {
    file: File,
    next: u64,
}

impl Disk {
    /// Makes the file `probe` in `folder`. Error: the file system takes no O_DIRECT, or is full.
    pub fn new(folder: &Path) -> io::Result<Disk> {
        let path = folder.join("probe");
        let plain = File::create(&path)?;
        let zeros = vec![0; BLOCK_BYTES * 256];
        for at in (0..BLOCK_COUNT * BLOCK_BYTES as u64).step_by(zeros.len()) {
            plain.write_all_at(&zeros, at)?;
        }
        plain.sync_all()?;
        let flags = libc::O_DIRECT | libc::O_DSYNC;
        let file = OpenOptions::new().write(true).custom_flags(flags).open(&path)?;
        Ok(Disk { file, next: 0 })
    }

    /// Overwrites block after block for `seconds`, or until Ctrl-C.
    pub fn overwrite(&mut self, seconds: f64) -> io::Result<Latency> {
        let mut latency = Latency::new();
        let end_at = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < end_at && !context::interrupted() {
            let block = Block([self.next as u8; BLOCK_BYTES]);
            let began = Instant::now();
            self.file.write_all_at(&block.0, self.next % BLOCK_COUNT * BLOCK_BYTES as u64)?;
            latency.record(began.elapsed());
            self.next += 1;
        }
        Ok(latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_overwrites_stay_inside_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut disk = match Disk::new(dir.path()) {
            Ok(disk) => disk,
            Err(error) => return println!("skipped: no O_DIRECT here: {error}"),
        };
        disk.next = BLOCK_COUNT - 1;
        assert!(disk.overwrite(0.01).expect("writes").count() > 0);
        let len = std::fs::metadata(dir.path().join("probe")).expect("the file").len();
        assert_eq!(len, BLOCK_COUNT * BLOCK_BYTES as u64);
    }
}
