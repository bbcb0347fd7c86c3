//! What the suites under `tests/` share: real nodes, simulated nodes, oracles.
//!
//! Owns: starting and ending nodes for tests, and what is expected of them.
//! Not: any test.

#[cfg(feature = "node")]
pub mod crash;
#[cfg(feature = "node")]
pub mod guests;
pub mod mischief;
#[cfg(feature = "node")]
pub mod node;
pub mod op;
pub mod oracle;
#[cfg(feature = "node")]
pub mod rows;
pub mod sim_node;
pub mod workload;
