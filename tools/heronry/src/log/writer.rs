//! Batches written into new segments while no node has the folder.
//!
//! Owns: where the next batch goes, indexes.  Not: what is written (`repair.rs`, `rehome.rs`).
//! A1  what is noted as written is on disk.

use anyhow::{Context, Result};
use heronry_engine::Partition;
use heronry_engine::log::{BATCH_ALIGN_BYTES, BATCH_BYTES_MAX, BatchHead, LogKey, Packer, Place};
use heronry_engine::partition::{Flush, Last};
use heronry_shards::log::LogFiles;
use heronry_shards::log::folder::Folder;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Length of a new segment where no old one shows it.
pub(super) const SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes of records that are made at a time.
const FLUSH_BYTES: usize = 512 << 10;

/// Writes one shard's log.
pub(super) struct Writer {
    dir: PathBuf,
    folder: Folder,
    key: LogKey,
    segment_bytes: u64,
    file: Option<File>,
    segment: u32,
    offset: u64,
    /// Of the next batch.
    head: BatchHead,
    packer: Packer,
}

impl Writer {
    /// Begins with a segment that is not there yet, in a folder that is made if it is not there;
    /// `key` is the log's if it has none.
    pub(super) fn new(
        dir: &Path,
        key: [u8; 32],
        segment: u32,
        segment_bytes: u64,
        head: BatchHead,
    ) -> Result<Writer> {
        let (folder, key) = Folder::open(dir, || key)?;
        let (dir, packer) = (dir.to_owned(), Packer::default());
        Ok(Writer { dir, folder, key, segment_bytes, file: None, segment, offset: 0, head, packer })
    }

    /// Writes a record; where it is, once [`Writer::write`] has returned.
    pub(super) fn push(&mut self, record: &[u8]) -> Result<Place> {
        if !self.packer.fits(record.len()) {
            self.write()?;
        }
        let batch = self.packer.len_bytes() + record.len();
        if self.offset + batch.next_multiple_of(BATCH_ALIGN_BYTES) as u64 > self.segment_bytes {
            self.write()?;
            self.roll();
        }
        let offset = self.offset as u32 + self.packer.push(record) as u32;
        Ok(Place { segment: self.segment, offset, len_bytes: record.len() as u32 })
    }

    /// Writes an index of all chains that the partition has; the segment that it begins.
    pub(super) fn index(&mut self, partition: &mut Partition) -> Result<u32> {
        self.write()?;
        self.roll();
        let first = self.segment;
        let Last { call, request } = partition.last_numbers();
        (self.head.call_last, self.head.request_last) = (call, request);
        let mut flush = Flush::default();
        partition.begin_index();
        while partition.is_indexing() {
            flush.clear();
            partition.flush(FLUSH_BYTES, &mut flush);
            let mut at = 0;
            for made in &flush.made {
                let place = self.push(&flush.bytes[at..at + made.len_bytes])?;
                partition.placed(*made, place);
                at += made.len_bytes;
            }
            self.write()?;
        }
        Ok(first)
    }

    /// Writes the batch that is packed, if there is one, and waits until it is on disk (A1).
    pub(super) fn write(&mut self) -> Result<()> {
        if self.packer.is_empty() {
            return Ok(());
        }
        let bytes = self.packer.finish(&self.key, self.head, Vec::new());
        if self.file.is_none() {
            // Made with all its room, as a node makes it; a node writes past the page cache.
            self.folder.create(self.segment, self.segment_bytes)?;
            let path = self.dir.join(format!("{:010}.log", self.segment));
            self.file = Some(File::options().write(true).open(path)?);
        }
        let file = self.file.as_ref().context("a segment was opened")?;
        file.write_all_at(&bytes, self.offset)?;
        file.sync_data()?;
        self.offset += bytes.len() as u64;
        self.head.sequence += 1;
        Ok(())
    }

    /// The folder, when all is written.
    pub(super) fn into_folder(self) -> Folder {
        self.folder
    }

    fn roll(&mut self) {
        if self.offset > 0 {
            (self.segment, self.offset, self.file) = (self.segment + 1, 0, None);
        }
    }
}

const _: () = assert!(BATCH_BYTES_MAX as u64 <= SEGMENT_BYTES);
