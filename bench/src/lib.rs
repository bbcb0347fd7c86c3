//! `heronry bench`: load, replay of recorded traces, peers side by side, and the promises table.
//!
//! Owns: the scenarios, the load generator, reports and plots.  Not: the engine it measures; a
//! scenario talks to a real node over its sockets, or drives the engine's own types in process.
//! B1  a figure is a median over repeats and always carries its lowest and highest repeat.
//! B2  latency under a fixed arrival schedule counts from the intended send time.
//! B3  every process and folder that a scenario makes is gone when it returns, panics or is
//!     interrupted.

pub mod args;
pub mod compare;
pub mod context;
pub mod create;
pub mod cycle;
pub mod disk;
pub mod drivers;
pub mod durable;
pub mod hop;
pub mod link;
pub mod load;
pub mod machine;
pub mod messages;
pub mod node;
pub mod peers;
pub mod pipeline;
pub mod plot;
pub mod promises;
pub mod recover;
pub mod redis;
pub mod replay;
pub mod report;
pub mod sandbox;
pub mod scaling;
pub mod seal;
pub mod sweep;
pub mod sys;
pub mod tiers;
pub mod wire;

pub use args::{BenchArgs, run};
