//! What a recorded trace becomes: turns of agent families, and the images they must leave behind.
//!
//! Owns: the boundary between trace formats and the driver.  Not: sockets, pacing, any format.
//! T1  turns of one family run one after the other, in order; families are independent.
//! T2  a stage is sent when every reply of the stage before has come.
//! T3  the images are a function of the trace (and of replies that say in which order concurrent
//!     appends landed), never of what the node says it holds.

use std::path::PathBuf;
use thiserror::Error;

/// One turn, as the driver needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// Turns of one family never overlap (T1).
    pub family: u32,
    /// Recorded arrival, from the start of the trace; 0 where the trace has no times.
    pub arrival_ns: u64,
    /// Stages, at least 1 (T2).
    pub stage_count: u8,
}

/// A trace, ready to be driven.
pub trait Script {
    /// All turns, by arrival.
    fn turns(&self) -> &[Turn];

    /// Families there are; `Turn::family` is below it.
    fn family_count(&self) -> u32;

    /// Appends the commands of one stage; returns how many, at least 1.
    fn encode(&mut self, turn_idx: usize, stage: u8, out: &mut Vec<u8>) -> u32;

    /// A good reply came: the `nth` of its stage. Most scripts need none of them.
    fn replied(&mut self, turn_idx: usize, stage: u8, nth: u32, reply: &[u8]);

    /// Agents that exist at the end.
    fn agent_count(&self) -> usize;

    /// Forks made.
    fn fork_count(&self) -> usize;

    /// Key of an agent, and its whole expected image appended to `out` (T3).
    fn image(&self, agent_idx: usize, out: &mut Vec<u8>) -> String;
}

/// A trace file that cannot be used.
#[derive(Debug, Error)]
pub enum TraceError {
    /// It cannot be read.
    #[error("cannot read the trace {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// A line or record is not what the format says.
    #[error("record {record} of the trace is not {format}: {what}")]
    Record {
        /// Its number, from 1.
        record: usize,
        /// The format expected.
        format: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// JSON that does not parse.
    #[error("record {record} of the trace is not {format}: {error}")]
    Json {
        /// Its number, from 1.
        record: usize,
        /// The format expected.
        format: &'static str,
        /// The parser's reason.
        error: serde_json::Error,
    },
    /// Nothing in it.
    #[error("the trace has no records")]
    Empty,
}
