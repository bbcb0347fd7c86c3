//! Live sandboxes: an agent's memory mapped into a running Wasm instance.
//!
//! Owns: the folder `sandbox/` and how its parts fit.  Not: versions (the engine's images are the
//! only truth; a sandbox is a cache of one and can be dropped at any time between turns).

pub mod host;
mod mapped;
pub mod module;
pub mod instance;
pub mod slot;
pub mod tree;
pub mod wasi;
