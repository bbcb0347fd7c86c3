//! What Heronry asks of the machine: its CPUs, memory, clock, and whether it is fit for the work.
//!
//! Owns: the topology, pinning, NUMA-bound arenas, the monotonic clock, the `doctor` probes.
//! Not: agents, shards, pages or anything else of Heronry; this crate knows no other crate.
//! Unsafe code lives in `sys.rs` and in `doctor/`'s kernel probes only.

pub mod arena;
pub mod cgroup;
pub mod clock;
pub mod doctor;
pub mod pin;
mod sys;
pub mod topology;

pub use arena::{Arena, ArenaError, ArenaPlan};
pub use clock::{Calibration, Clock};
pub use pin::{PinError, Pinned, pin};
pub use topology::{Host, ShardPlace, TopologyError};
