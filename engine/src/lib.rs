//! The pure core of Heronry: what one shard knows and decides.
//!
//! Owns: agents and their lifecycle, mailboxes, the page store, images, version trees, the
//! directory, native behaviours, the config schema.  Not: sockets, disks, clocks, randomness,
//! threads; all of these come in as arguments, so that a run is a function of its inputs.

#![forbid(unsafe_code)]

pub mod agent;
pub mod behaviour;
pub mod config;
pub mod directory;
pub mod hot;
pub mod id;
pub mod image;
pub mod key;
pub mod limits;
pub mod log;
pub mod mailbox;
pub mod page;
pub mod partition;
pub mod refusal;
mod slots;
pub mod template;
pub mod verb;
pub mod version;

pub use behaviour::{Behaviour, Fault, Native, Turn};
pub use directory::{Directory, DirectoryError, Route};
pub use hot::{Estimate, SpaceSaving};
pub use id::{AgentId, CallId, Nanos, ShardId, TenantId, VersionId};
pub use image::{Image, Usage};
pub use key::AgentKey;
pub use page::{PAGE_BYTES, PageError, PageStore};
pub use partition::{Counters, Partition, PartitionConfig, RosterChange, TurnReport};
pub use refusal::Refusal;
pub use verb::{Ack, Event, Origin, Reply, Request, Verb, VersionRef};
pub use version::{FIRST_VERSION, SealKind, VersionError, VersionTree};
