//! One pinned, single-threaded shard, and the supervisor that starts one per core.
//!
//! Owns: reactor drivers, the SPSC mesh in shared memory, the turn loop, published counters, the
//! roster of agents, the supervisor.  Not: any wire protocol (`net` implements [`Gateway`]).

pub mod driver;
pub mod gateway;

pub use driver::{Completion, Done, Driver, Handle, Op, Token};
pub use gateway::{Ask, Gateway, NodeView};
