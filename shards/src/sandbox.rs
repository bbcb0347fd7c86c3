//! Live sandboxes: an agent's memory mapped into a running Wasm instance.
//!
//! Owns: the folder `sandbox/` and how its parts fit.  Not: versions (the engine's images are the
//! only truth; a sandbox is a cache of one and can be dropped at any time between turns).

pub mod behaviour;
pub mod build;
pub mod cache;
pub mod host;
pub mod instance;
pub mod live;
mod mapped;
pub mod module;
pub mod seen;
pub mod slot;
pub mod template;
pub mod tree;
pub mod wasi;
pub mod workshop;

pub use instance::InstanceError;
