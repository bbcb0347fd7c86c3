//! One pinned, single-threaded shard, and the supervisor that starts one per core.
//!
//! Owns: reactor drivers, the SPSC mesh in shared memory, the turn loop, published counters, the
//! roster of agents, the supervisor.  Not: any wire protocol (`net` implements [`Gateway`]).

#[cfg(not(loom))]
pub mod control;
#[cfg(not(loom))]
pub mod counters;
pub mod driver;
#[cfg(not(loom))]
pub mod errand;
pub mod gateway;
#[cfg(not(loom))]
pub mod glommio;
#[cfg(not(loom))]
mod handles;
#[cfg(not(loom))]
pub mod histogram;
#[cfg(not(loom))]
pub mod log;
#[cfg(not(loom))]
pub mod mesh;
#[cfg(not(loom))]
mod region;
pub mod ring;
#[cfg(not(loom))]
pub mod roster;
#[cfg(not(loom))]
pub mod sandbox;
#[cfg(not(loom))]
pub mod shared;
#[cfg(not(loom))]
pub mod sim;
pub mod sync;
#[cfg(not(loom))]
mod timers;
#[cfg(not(loom))]
pub mod uring;

#[cfg(not(loom))]
mod connection;
#[cfg(not(loom))]
mod envelope;
#[cfg(not(loom))]
mod outstanding;
#[cfg(not(loom))]
mod peer;
#[cfg(not(loom))]
pub mod seat;
#[cfg(not(loom))]
pub mod supervisor;
#[cfg(not(loom))]
pub mod turn;
#[cfg(not(loom))]
pub mod view;

pub use driver::{Completion, Done, Driver, Handle, Op, Token};
pub use gateway::{Ask, Gateway, NodeView};
