//! The log's bytes: what a shard writes so that its agents outlive it, and how it reads them back.
//!
//! Owns: the byte formats of batches and records, and their checks.  Not: files, the order of
//! writes and syncs (`shards`), which agents have changed (`partition/journal.rs`).
//! An agent's *chain* is the list of its records, oldest first: one that holds it whole, then its
//! changes. What a chain says is the agent; the rest of the log may go.
//! B1  bytes that were not written as a batch are not taken for one; a record proves itself too.
//! B2  batches are numbered without a gap; a batch of a number that was passed is an old one.
//! B3  every format has a number, and a golden file that opens forever.

pub mod batch;
pub mod record;
pub(crate) mod wire;

pub use batch::{
    BATCH_ALIGN_BYTES, BATCH_BYTES_MAX, BatchError, BatchHead, HEAD_BYTES, LogKey, Packer,
};
pub use record::{Kind, RECORD_BYTES_MAX, Record, RecordError};

/// Where a record lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Number of the segment.
    pub segment: u32,
    /// First byte of the record in it.
    pub offset: u32,
    /// Bytes of the record, its head among them.
    pub len_bytes: u32,
}
