//! The files of one shard's log, as it sees them: real ones or the simulation's.
//!
//! Owns: what may be asked of them.  Not: what is in them (`log.rs`), the real ones
//! (`log/folder.rs`), those of the simulation (`sim/files.rs`).

use crate::driver::Handle;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A file of the log.
pub enum LogFile {
    /// A real one, for the driver to adopt.
    Fd(OwnedFd),
    /// One that the driver has.
    Handle(Handle),
}

/// The files of one shard's log.
pub trait LogFiles {
    /// Numbers of the segments that are there, ascending, and the first to read at a start, where
    /// one was noted.
    fn list(&mut self) -> io::Result<(Vec<u32>, Option<u32>)>;
    /// Bytes of a segment up to the last that was ever written, or more.
    fn written_bytes(&mut self, number: u32) -> io::Result<u64>;
    /// A segment to write, made with all its room if it is not there.
    fn create(&mut self, number: u32, len_bytes: u64) -> io::Result<LogFile>;
    /// Gives back what room a segment has that was never written, and that will not be; its bytes.
    fn trim(&mut self, number: u32) -> io::Result<u64>;
    /// A segment to read.
    fn open(&mut self, number: u32) -> io::Result<LogFile>;
    /// Notes the first segment to read at a start, for good.
    fn set_first(&mut self, number: u32) -> io::Result<()>;
    /// Removes a segment that nobody reads any more.
    fn remove(&mut self, number: u32) -> io::Result<()>;
    /// Gives all that is there second names in `folder`, which is made.
    fn link_into(&mut self, folder: &Path) -> io::Result<()>;
}
