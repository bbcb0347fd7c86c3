//! The one door through which atomics enter this crate, so that loom can replace them.
//!
//! Owns: the choice between the real atomics and loom's model (`--cfg loom`).  Not: any protocol.
//! Y1  no other file of this crate names `std::sync::atomic` for memory that two shards share.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, Ordering, fence};
