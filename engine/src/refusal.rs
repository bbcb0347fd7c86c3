//! Why a request was not done: named refusals with the numbers and the remedy in them.
//!
//! Owns: the codes that clients match on.  A refusal changes nothing unless its text says so.
//! R1  the code of a refusal never changes; clients match on it.

use crate::id::{ShardId, VersionId};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A named refusal. `Display` is the text a user sees, without the code.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// The key breaks the grammar.
    #[error("bad key {key:?}: {rule}")]
    BadKey {
        /// The key, cut at the longest allowed.
        key: String,
        /// The broken rule.
        rule: Cow<'static, str>,
    },
    /// An argument is out of its range.
    #[error("{what} is {value}; allowed: {allowed}")]
    BadValue {
        /// The argument's name.
        what: Cow<'static, str>,
        /// The value given.
        value: String,
        /// The allowed range or set.
        allowed: Cow<'static, str>,
    },
    /// No such template.
    #[error("no template {name:?}; TEMPLATE.LIST shows the {count} there are")]
    NoTemplate {
        /// The name asked for.
        name: String,
        /// How many exist.
        count: u32,
    },
    /// No such agent.
    #[error("no agent {key:?}; {}", maker(key))]
    NoAgent {
        /// The key.
        key: String,
    },
    /// The shard restarted and this agent's memory went with it.
    #[error(
        "agent {key:?} was lost when shard {} restarted; AGENT.CREATE starts a new one", shard.0
    )]
    Lost {
        /// The key.
        key: String,
        /// The shard that restarted.
        shard: ShardId,
    },
    /// The agent exists already.
    #[error("agent {key:?} exists already; AGENT.TERMINATE ends it")]
    Exists {
        /// The key.
        key: String,
    },
    /// No such version, or retention dropped it.
    #[error("agent {key:?} has no version {version}; AGENT.VERSIONS lists what is kept")]
    NoVersion {
        /// The key.
        key: String,
        /// Number or label asked for.
        version: String,
    },
    /// The agent's state does not allow the verb.
    #[error("agent {key:?} is {state}; {remedy}")]
    WrongState {
        /// The key.
        key: String,
        /// Its state.
        state: Cow<'static, str>,
        /// What to do.
        remedy: Cow<'static, str>,
    },
    /// Quarantined after repeated panics.
    #[error("agent {key:?} is quarantined after {failures} panics; AGENT.RESUME lifts it")]
    Quarantined {
        /// The key.
        key: String,
        /// Panics within the window.
        failures: u32,
    },
    /// A bounded queue is full; nothing was queued.
    #[error("{what} is full ({count} of {count_max}); retry later or slow down")]
    Busy {
        /// Which queue.
        what: Cow<'static, str>,
        /// Its length.
        count: u64,
        /// Its bound.
        count_max: u64,
    },
    /// No memory left in the shard's arena; the turn was undone.
    #[error(
        "the arena of shard {} is full ({used_bytes} of {arena_bytes} bytes); terminate agents \
         or raise shards.arena_bytes", shard.0
    )]
    Full {
        /// The shard.
        shard: ShardId,
        /// Bytes used.
        used_bytes: u64,
        /// Bytes there are.
        arena_bytes: u64,
    },
    /// A count or size limit was met.
    #[error("{what} would be {value}, the limit is {limit}; {remedy}")]
    Limit {
        /// What is limited.
        what: Cow<'static, str>,
        /// The value it would have.
        value: u64,
        /// The limit.
        limit: u64,
        /// What to do.
        remedy: Cow<'static, str>,
    },
    /// The deadline passed before the message was handled; the turn did not run.
    #[error("waited {waited_us} us, past the deadline; the message was not handled")]
    Timeout {
        /// How long it waited.
        waited_us: u64,
    },
    /// The shard that has the agent is not up. The request may or may not have run.
    #[error("shard {} is restarting; retry in a moment", shard.0)]
    TryAgain {
        /// The shard.
        shard: ShardId,
    },
    /// The handler failed; the image is at the version before the turn.
    #[error("the turn of {key:?} failed and was undone to version {}: {reason}", version.0)]
    Fault {
        /// The key.
        key: String,
        /// The version the image is at.
        version: VersionId,
        /// What went wrong.
        reason: String,
    },
    /// The handler raised an error of its own; what it had changed before stays.
    #[error("the handler of {key:?} raised: {reason}")]
    Raised {
        /// The key.
        key: String,
        /// What it raised, such as a traceback.
        reason: String,
    },
    /// The call was open when its agent rolled back, committed or ended.
    #[error("the call was dropped: agent {key:?} {why}")]
    Dropped {
        /// The agent that had asked.
        key: String,
        /// What it did.
        why: Cow<'static, str>,
    },
    /// A template could not be made or changed; nothing changed.
    #[error("template {name:?}: {reason}")]
    BadTemplate {
        /// Its name.
        name: String,
        /// What is wrong: an interpreter's traceback, or why a module is refused.
        reason: String,
    },
    /// A snapshot was not made; nothing is left of it.
    #[error("snapshot {name:?}: {reason}")]
    BadSnapshot {
        /// Its name.
        name: String,
        /// What came in between.
        reason: String,
    },
    /// The operator does not allow it.
    #[error("{what} is not allowed; {remedy}")]
    NotAllowed {
        /// What was asked.
        what: Cow<'static, str>,
        /// What the operator has to do.
        remedy: Cow<'static, str>,
    },
    /// An HTTP request got no whole response. The server may have acted on it.
    #[error("the request to {host} failed: {reason}")]
    Http {
        /// Whom it was for.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// What the log has of the agent cannot be read.
    #[error("agent {key:?} cannot be brought back from the log: {reason}; `heronry log verify`")]
    Unreadable {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The disk is full; what is only sealed goes on.
    #[error(
        "the log of shard {} has no room on disk, so nothing new can be durable; free some, or \
         ask for ACK sealed", shard.0
    )]
    DiskFull {
        /// The shard.
        shard: ShardId,
    },
    /// Durable acknowledgements need a log.
    #[error("this node has no log, so nothing can be durable; ask for ACK sealed")]
    NoLog,
}

impl Refusal {
    /// Whether it says something of an agent that a shard's death might undo, so that a durable one
    /// waits for the disk.
    pub fn tells_state(&self) -> bool {
        match self {
            Refusal::NoAgent { .. }
            | Refusal::Exists { .. }
            | Refusal::NoVersion { .. }
            | Refusal::WrongState { .. }
            | Refusal::Quarantined { .. }
            | Refusal::Fault { .. }
            | Refusal::Raised { .. }
            | Refusal::Full { .. }
            | Refusal::Limit { .. }
            | Refusal::Dropped { .. } => true,
            Refusal::BadKey { .. }
            | Refusal::BadValue { .. }
            | Refusal::NoTemplate { .. }
            | Refusal::Lost { .. }
            | Refusal::Busy { .. }
            | Refusal::Timeout { .. }
            | Refusal::TryAgain { .. }
            | Refusal::BadTemplate { .. }
            | Refusal::BadSnapshot { .. }
            | Refusal::NotAllowed { .. }
            | Refusal::Http { .. }
            | Refusal::Unreadable { .. }
            | Refusal::DiskFull { .. }
            | Refusal::NoLog => false,
        }
    }

    /// The code that starts the error on every wire (R1).
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::BadKey { .. } => "BADKEY",
            Refusal::BadValue { .. } => "BADVALUE",
            Refusal::NoTemplate { .. } => "NOTEMPLATE",
            Refusal::NoAgent { .. } => "NOAGENT",
            Refusal::Lost { .. } => "LOST",
            Refusal::Exists { .. } => "EXISTS",
            Refusal::NoVersion { .. } => "NOVERSION",
            Refusal::WrongState { .. } => "WRONGSTATE",
            Refusal::Quarantined { .. } => "QUARANTINED",
            Refusal::Busy { .. } => "BUSY",
            Refusal::Full { .. } => "FULL",
            Refusal::Limit { .. } => "LIMIT",
            Refusal::Timeout { .. } => "TIMEOUT",
            Refusal::TryAgain { .. } => "TRYAGAIN",
            Refusal::Fault { .. } => "FAULT",
            Refusal::Raised { .. } => "RAISED",
            Refusal::Dropped { .. } => "DROPPED",
            Refusal::BadTemplate { .. } => "BADTEMPLATE",
            Refusal::BadSnapshot { .. } => "BADSNAPSHOT",
            Refusal::NotAllowed { .. } => "NOTALLOWED",
            Refusal::Http { .. } => "HTTP",
            Refusal::Unreadable { .. } => "UNREADABLE",
            Refusal::DiskFull { .. } => "DISKFULL",
            Refusal::NoLog => "NOLOG",
        }
    }
}

/// What makes an agent of this key.
fn maker(key: &str) -> &'static str {
    if key.contains('~') {
        "branches are made by AGENT.FORK of their parent"
    } else {
        "AGENT.CREATE or a message to it makes one"
    }
}
