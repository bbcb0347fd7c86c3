//! The virtual disk: files with what was written and what is durable of it.
//!
//! Owns: file contents, operations in flight, their faults.  Not: when they end (the world's).
//! K1  bytes of a `WriteDurable` that ended as `Written` survive every loss of power.
//! K2  a write in flight at a loss of power leaves any of its sectors behind, whole.

use super::{Event, Inner, Open, Outcome, Place};
use crate::driver::{Handle, Token};
use fastrand::Rng;
use heronry_engine::ShardId;
use std::collections::BTreeMap;

/// What the disk writes as one.
const SECTOR_BYTES: usize = 512;

#[derive(Debug)]
pub(super) enum Work {
    Read { offset: u64, len_bytes: u32 },
    Write { offset: u64, bytes: Vec<u8> },
}

#[derive(Debug)]
struct DiskOp {
    shard: ShardId,
    life: u32,
    token: Token,
    handle: Handle,
    file: String,
    work: Work,
}

#[derive(Debug, Default)]
struct File {
    /// What reads see.
    written: Vec<u8>,
    /// What a loss of power leaves.
    durable: Vec<u8>,
}

/// All files of the node, and what is being done to them.
#[derive(Debug, Default)]
pub(super) struct Disk {
    files: BTreeMap<String, File>,
    ops: BTreeMap<u64, DiskOp>,
    op_count: u64,
    /// Small facts that are durable at once.
    notes: BTreeMap<String, u32>,
}

fn put(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    if bytes.len() < offset + new.len() {
        bytes.resize(offset + new.len(), 0);
    }
    bytes[offset..offset + new.len()].copy_from_slice(new);
}

impl File {
    fn write(&mut self, offset: u64, new: &[u8]) {
        put(&mut self.written, offset as usize, new);
    }

    fn sync(&mut self, offset: u64, len_bytes: usize) {
        let start = offset as usize;
        put(&mut self.durable, start, &self.written[start..start + len_bytes]);
    }

    fn read(&self, offset: u64, len_bytes: u32) -> Vec<u8> {
        let start = (offset as usize).min(self.written.len());
        let end = start.saturating_add(len_bytes as usize).min(self.written.len());
        self.written[start..end].to_vec()
    }

    /// Each sector that is not durable yet becomes so, or is forgotten (K2).
    fn power_loss(&mut self, rng: &mut Rng) {
        let mut offset = 0;
        while offset < self.written.len() {
            let end = (offset + SECTOR_BYTES).min(self.written.len());
            let sector = &self.written[offset..end];
            if self.durable.get(offset..end) != Some(sector) && rng.bool() {
                put(&mut self.durable, offset, sector);
            }
            offset = end;
        }
        self.written.clone_from(&self.durable);
    }
}

impl Disk {
    pub(super) fn create(&mut self, name: &str) {
        self.files.entry(name.into()).or_default();
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    pub(super) fn written_bytes(&self, name: &str) -> u64 {
        self.files.get(name).map_or(0, |file| file.written.len() as u64)
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.files.remove(name);
    }

    pub(super) fn note(&self, name: &str) -> Option<u32> {
        self.notes.get(name).copied()
    }

    pub(super) fn set_note(&mut self, name: String, value: u32) {
        self.notes.insert(name, value);
    }

    pub(super) fn durable(&self, name: &str) -> Vec<u8> {
        self.files.get(name).map(|file| file.durable.clone()).unwrap_or_default()
    }

    /// A shard died: what it asked for happens, or not, and nobody hears of it.
    pub(super) fn abandon(&mut self, shard: ShardId, rng: &mut Rng) {
        self.ops.retain(|_, op| {
            if op.shard != shard {
                return true;
            }
            if let (Work::Write { offset, bytes }, Some(file)) =
                (&op.work, self.files.get_mut(&op.file))
                && rng.bool()
            {
                file.write(*offset, bytes);
            }
            false
        });
    }

    pub(super) fn power_loss(&mut self, rng: &mut Rng) {
        for op in std::mem::take(&mut self.ops).into_values() {
            if let (Work::Write { offset, bytes }, Some(file)) =
                (&op.work, self.files.get_mut(&op.file))
            {
                file.write(*offset, bytes);
            }
        }
        for file in self.files.values_mut() {
            file.power_loss(rng);
        }
    }
}

impl Inner {
    pub(super) fn disk_starts(&mut self, shard: ShardId, token: Token, handle: Handle, work: Work) {
        let seat = self.seat(shard);
        let life = seat.life;
        let Some(Open::File(file)) = seat.handles.get(handle) else {
            seat.finish(token, None, Outcome::Failed(libc::EBADF));
            return;
        };
        let file = file.clone();
        let id = self.disk.op_count;
        self.disk.op_count += 1;
        self.seat(shard).places.insert(token, Place::Disk);
        self.disk.ops.insert(id, DiskOp { shard, life, token, handle, file, work });
        let delay = self.random_span(self.config.disk_delay_max);
        self.schedule(self.now.after(delay), Event::Disk(id));
    }

    pub(super) fn disk_ends(&mut self, id: u64) {
        let Some(op) = self.disk.ops.remove(&id) else {
            return;
        };
        let fails = self.chance(self.config.disk_errors_per_million);
        let tears = matches!(op.work, Work::Write { .. })
            && self.chance(self.config.torn_writes_per_million);
        let file = self.disk.files.entry(op.file).or_default();
        let outcome = match op.work {
            Work::Read { .. } if fails => Outcome::Failed(libc::EIO),
            Work::Read { offset, len_bytes } => Outcome::Read(file.read(offset, len_bytes)),
            Work::Write { .. } if fails && self.rng.bool() => Outcome::Failed(libc::ENOSPC),
            Work::Write { offset, bytes } if fails || tears => {
                // Some of it was written; nobody knows what, and none of it is promised.
                let kept = self.rng.usize(..=bytes.len());
                file.write(offset, &bytes[..kept]);
                Outcome::Failed(libc::EIO)
            }
            Work::Write { offset, bytes } => {
                file.write(offset, &bytes);
                file.sync(offset, bytes.len());
                Outcome::Written(bytes)
            }
        };
        if let Some(seat) = self.seat_of_life(op.shard, op.life) {
            seat.finish(op.token, Some(op.handle), outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k1_k2_power_loss_keeps_the_durable_and_any_whole_sectors_of_the_rest() {
        let mut kept_some = false;
        for seed in 0..50 {
            let mut rng = Rng::with_seed(seed);
            let mut file = File::default();
            file.write(0, &[1; 2 * SECTOR_BYTES]);
            file.sync(0, 2 * SECTOR_BYTES);
            file.write(SECTOR_BYTES as u64, &[2; 3 * SECTOR_BYTES]);
            file.power_loss(&mut rng);
            assert_eq!(file.durable[..SECTOR_BYTES], [1; SECTOR_BYTES]);
            for sector in file.durable.chunks(SECTOR_BYTES) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "K2: a torn sector");
            }
            assert_eq!(file.read(0, u32::MAX), file.durable);
            kept_some |= file.durable.len() == 4 * SECTOR_BYTES;
        }
        assert!(kept_some);
    }
}
