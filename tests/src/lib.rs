//! What the suites under `tests/` share: real nodes, simulated nodes, oracles.
//!
//! Owns: starting and ending nodes for tests, and what is expected of them.  Not: any test.

pub mod node;
pub mod rows;
