//! A shard's log on the virtual disk.
//!
//! Owns: the names of its files there.  Not: their bytes, which reads and writes of the driver see.
//! F1  that a file is there, and which is the first to read, outlives a loss of power: real folders
//!     are synced for that.

use super::World;
use crate::log::{LogFile, LogFiles};
use heronry_engine::ShardId;
use std::io;
use std::path::Path;

/// The log's files of one shard.
#[derive(Debug)]
pub struct SimFiles {
    world: World,
    shard: ShardId,
}

impl World {
    /// The files of a shard's log; they outlive the shard.
    pub fn log_files(&self, shard: ShardId) -> SimFiles {
        SimFiles { world: self.clone(), shard }
    }
}

impl SimFiles {
    fn prefix(&self) -> String {
        format!("log-{}/", self.shard.0)
    }

    fn name(&self, number: u32) -> String {
        format!("{}{number:010}", self.prefix())
    }
}

impl LogFiles for SimFiles {
    fn list(&mut self) -> io::Result<(Vec<u32>, Option<u32>)> {
        let prefix = self.prefix();
        let inner = self.world.inner.borrow();
        let names = inner.disk.names().filter_map(|name| name.strip_prefix(&prefix));
        let numbers: Vec<u32> = names.filter_map(|name| name.parse().ok()).collect();
        Ok((numbers, inner.disk.note(&prefix)))
    }

    fn written_bytes(&mut self, number: u32) -> io::Result<u64> {
        Ok(self.world.inner.borrow().disk.written_bytes(&self.name(number)))
    }

    fn create(&mut self, number: u32, _len_bytes: u64) -> io::Result<LogFile> {
        let full = {
            let mut inner = self.world.inner.borrow_mut();
            let per_million = inner.config.disk_errors_per_million;
            inner.chance(per_million)
        };
        if full {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(LogFile::Handle(self.world.open_file(self.shard, &self.name(number))))
    }

    fn trim(&mut self, number: u32) -> io::Result<u64> {
        self.written_bytes(number)
    }

    fn open(&mut self, number: u32) -> io::Result<LogFile> {
        Ok(LogFile::Handle(self.world.open_file(self.shard, &self.name(number))))
    }

    fn set_first(&mut self, number: u32) -> io::Result<()> {
        let prefix = self.prefix();
        self.world.inner.borrow_mut().disk.set_note(prefix, number);
        Ok(())
    }

    fn remove(&mut self, number: u32) -> io::Result<()> {
        let name = self.name(number);
        self.world.inner.borrow_mut().disk.remove(&name);
        Ok(())
    }

    fn link_into(&mut self, _folder: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
