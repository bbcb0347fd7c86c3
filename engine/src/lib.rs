//! The pure core of Heronry: what one shard knows and decides.
//!
//! Owns: agents and their lifecycle, mailboxes, the page store, images, version trees, the
//! directory, native behaviours, the config schema.  Not: sockets, disks, clocks, randomness,
//! threads; all of these come in as arguments, so that a run is a function of its inputs.

#![forbid(unsafe_code)]

pub mod id;
pub mod key;
pub mod limits;
pub mod refusal;
pub mod verb;

pub use id::{AgentId, CallId, Nanos, ShardId, TenantId, VersionId};
pub use key::AgentKey;
pub use refusal::Refusal;
pub use verb::{Ack, Event, Origin, Reply, Request, Verb, VersionRef};
