//! What a client can ask of an agent or a shard, and what comes back.
//!
//! Owns: the verbs of DESIGN's interfaces as data, shared by every protocol and by the mesh.
//! Not: their wire forms (RESP lives in `net`, the mesh envelope in `shards`).
//! V1  every request is answered exactly once, to its origin, unless the origin is `Nobody`.

use crate::id::{AgentId, CallId, Nanos, ShardId, TenantId, VersionId};
use crate::key::AgentKey;
use crate::log::Place;
use crate::refusal::Refusal;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Which promise an acknowledgement makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Ack {
    /// Captured in memory: survives a failed turn, not a dead shard.
    Sealed,
    /// On disk. Refused where the node has no log.
    Durable,
    /// Which of these the agent's template promises where the client does not say.
    #[default]
    Template,
}

/// A version, named by its number or by its label.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VersionRef {
    /// By number, unique within the agent.
    Id(VersionId),
    /// By label, given at a checkpoint.
    Label(Bytes),
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Verb {
    /// Make the agent from its template. Existing: [`Refusal::Exists`].
    Create {
        /// Initial image length in bytes, zero-filled past the template's own; 0 keeps it.
        image_bytes: u64,
    },
    /// One message, handled in one turn; creates the agent if absent.
    Send {
        /// The message.
        payload: Bytes,
        /// A retry with the same id gets the first reply; the turn runs once.
        request_id: Option<Bytes>,
    },
    /// Code for the agent's live interpreter, run in one turn.
    Exec {
        /// The code.
        code: Bytes,
    },
    /// Bytes of the image, in mailbox order. Short at the image's end.
    Read {
        /// First byte.
        offset: u64,
        /// Most bytes wanted.
        len_bytes: u32,
    },
    /// Overwrite bytes of the image as one turn; grows it when past its end.
    Write {
        /// First byte.
        offset: u64,
        /// New bytes.
        bytes: Bytes,
    },
    /// Seal a version that retention keeps.
    Checkpoint {
        /// Optional name, unique within the agent; a reused label moves to the new version.
        label: Option<Bytes>,
    },
    /// Make `count` branches of one coherent point.
    Fork {
        /// Number of branches, 1 to `FORK_COUNT_MAX`.
        count: u32,
        /// The version to fork; the sealed present when absent.
        at: Option<VersionRef>,
        /// Suffix of the branch's name, only with `count` 1; numbered when absent.
        suffix: Option<Bytes>,
        /// Whether the branches' sleeps go on; else they end as forked away.
        keep_timers: bool,
    },
    /// Make an earlier version the present.
    Rollback {
        /// The version; the newest checkpoint when absent.
        to: Option<VersionRef>,
    },
    /// List the retained versions.
    Versions,
    /// All that the agent is, as bytes for Import.
    Export,
    /// Make the agent from such bytes. Existing: [`Refusal::Exists`].
    Import {
        /// What Export gave.
        bytes: Bytes,
    },
    /// The BLAKE3 of a version: equal where its image is.
    Digest {
        /// The version; the present when absent.
        at: Option<VersionRef>,
    },
    /// Byte ranges in which two versions differ, at page grain refined to bytes.
    Diff {
        /// The older side.
        from: VersionRef,
        /// The newer side; the present when absent.
        to: Option<VersionRef>,
    },
    /// Replace the parent by this branch; the parent's other branches end.
    Commit,
    /// Stop taking turns; messages wait in the mailbox.
    Suspend,
    /// Take turns again, also after quarantine.
    Resume,
    /// End the agent and free its pages.
    Terminate,
    /// Describe the agent.
    Info,
    /// Page through the agents of one shard.
    List {
        /// 0 to begin, then the last reply's cursor.
        cursor: u64,
        /// About how many keys to return.
        count: u32,
        /// Glob over keys.
        pattern: Option<Bytes>,
        /// List agents that the shard lost at its last restart instead of living ones.
        lost: bool,
    },
    /// The shard's busiest agents of late.
    Hottest,
    /// Work that the control thread does for the asking shard.
    Errand(Errand),
}

impl Verb {
    /// Whether it may change something, so that a durable answer has something to wait for.
    pub fn changes(&self) -> bool {
        !matches!(
            self,
            Verb::Read { .. }
                | Verb::Versions
                | Verb::Export
                | Verb::Digest { .. }
                | Verb::Diff { .. }
                | Verb::Info
                | Verb::List { .. }
                | Verb::Hottest
        )
    }
}

/// What a shard cannot do itself, as it has one thread and no network of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Errand {
    /// Make a template, or the next number of one.
    Deploy {
        /// The template's name.
        name: String,
        /// What the source is.
        language: Language,
        /// Source text, or a module.
        source: Bytes,
        /// Code to run before the template is sealed.
        warm: Option<Bytes>,
        /// Whether new agents get it at once.
        activate: bool,
    },
    /// Make new agents of a template from this number of it.
    Activate {
        /// The template's name.
        name: String,
        /// Which of its numbers.
        number: u32,
    },
    /// Give the node's data, as of one moment, a second name in its data folder.
    Snapshot {
        /// The snapshot's name.
        name: String,
    },
    /// An HTTP request of an agent, as JSON (docs/guest-abi.md).
    Http {
        /// Who asks.
        agent: AgentKey,
        /// What is asked.
        request: Bytes,
        /// Unique per request of an agent's life: what the server gets as its idempotency key.
        idempotency: String,
    },
}

/// What a template's source is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Language {
    /// A Python file.
    Python,
    /// An ES module.
    JavaScript,
    /// A WebAssembly module that speaks the guest ABI.
    Wasm,
}

impl Language {
    /// Its name on every interface.
    pub fn name(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::JavaScript => "javascript",
            Language::Wasm => "wasm",
        }
    }
}

/// Who asked, as the partition that answers sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A client connection of this shard; `seq` orders its replies.
    Connection {
        /// Slot of the connection.
        conn: u32,
        /// Slot generation, so that a reply never reaches the slot's next user.
        generation: u32,
        /// Position in the connection's pipeline.
        seq: u64,
        /// The promise that the answer must make.
        ack: Ack,
    },
    /// An agent of this shard that awaits the reply as `call`.
    Agent {
        /// The awaiting agent.
        id: AgentId,
        /// Its call.
        call: CallId,
    },
    /// Another shard, which keeps the true origin under `token`.
    Peer {
        /// The asking shard.
        shard: ShardId,
        /// Its own reference.
        token: u64,
        /// The promise that the answer must make.
        ack: Ack,
    },
    /// Nobody waits.
    Nobody,
}

impl Origin {
    /// The same, with an answer that makes this promise.
    pub fn with(self, promise: Ack) -> Origin {
        match self {
            Origin::Connection { conn, generation, seq, .. } => {
                Origin::Connection { conn, generation, seq, ack: promise }
            }
            Origin::Peer { shard, token, .. } => Origin::Peer { shard, token, ack: promise },
            Origin::Agent { .. } | Origin::Nobody => self,
        }
    }
}

/// Whom a request is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Target {
    /// An agent, wherever it is.
    Agent {
        /// Hash of tenant and key; the receiver checks it when it creates the agent.
        id: AgentId,
        /// The tenant.
        tenant: TenantId,
        /// The key.
        key: AgentKey,
    },
    /// A shard itself (`List`, `Hottest`).
    Shard(ShardId),
}

impl Target {
    /// The agent `key` of `tenant`.
    pub fn agent(tenant: TenantId, key: AgentKey) -> Target {
        Target::Agent { id: key.id(tenant), tenant, key }
    }
}

/// One request, as it enters a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whom it is for.
    pub target: Target,
    /// What is asked.
    pub verb: Verb,
    /// The promise that the answer must make.
    pub ack: Ack,
    /// Past this time the request is dropped at dequeue and answered `TIMEOUT`.
    pub deadline: Option<Nanos>,
    /// Where the answer goes.
    pub origin: Origin,
}

/// The good answer to a verb.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Suspend, Resume, Terminate.
    Done,
    /// Send (the handler's reply; `None` when it gave none), Read, Export, Digest.
    Payload(Option<Bytes>),
    /// Create, Import, Write, Checkpoint, Rollback, Commit: the version that is now the present.
    Version(VersionId),
    /// Fork: the keys of the branches.
    Forked(Vec<AgentKey>),
    /// Versions, oldest first.
    Versions(Vec<VersionInfo>),
    /// Diff: ranges that differ, in ascending order, merged.
    Diff(Vec<DiffRange>),
    /// Info.
    Info(Box<AgentInfo>),
    /// List.
    List {
        /// Cursor of the next page on this shard; 0 at the end.
        cursor: u64,
        /// Keys, in no particular order.
        keys: Vec<AgentKey>,
    },
    /// Hottest: keys with their estimated turns, most first.
    Hottest(Vec<(AgentKey, u64)>),
    /// Deploy and Activate: the template's number.
    Template {
        /// Counts up from 1 for each name. As wide as what other answers hold: beside a narrower
        /// one all of them lie askew, and copying one took 6 % of a shard's time in `pipeline`.
        number: u64,
    },
}

/// One retained version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Its number.
    pub id: VersionId,
    /// The version it was sealed upon; `None` for the first.
    pub parent: Option<VersionId>,
    /// Its label.
    pub label: Option<Bytes>,
    /// Whether a client asked for it (automatic ones are pruned first).
    pub checkpoint: bool,
    /// Whether it is the present.
    pub head: bool,
    /// When it was sealed, on the shard's clock.
    pub sealed_at: Nanos,
    /// Image length in bytes.
    pub image_bytes: u64,
}

/// Bytes `start..start + len_bytes` differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiffRange {
    /// First differing byte.
    pub start: u64,
    /// Number of bytes.
    pub len_bytes: u64,
}

/// What Info says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Key.
    pub key: AgentKey,
    /// Id.
    pub id: AgentId,
    /// Shard that answered, the owner.
    pub shard: ShardId,
    /// Lifecycle state, by name.
    pub state: String,
    /// Present version.
    pub head: VersionId,
    /// Retained versions.
    pub version_count: u32,
    /// Image length in bytes.
    pub image_bytes: u64,
    /// Pages of the present that nothing but it and its head version holds, in bytes.
    pub unique_bytes: u64,
    /// Pages of the present that older versions, parent or branches hold too, in bytes.
    pub shared_bytes: u64,
    /// Messages waiting.
    pub mailbox_count: u32,
    /// Turns taken.
    pub turn_count: u64,
    /// Turns that failed.
    pub failure_count: u32,
    /// The agent this one was forked from, while the link lasts.
    pub parent: Option<AgentKey>,
    /// Living branches.
    pub branch_count: u32,
}

/// What a partition wants done after a step.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Tell the origin.
    Answer {
        /// Whom.
        to: Origin,
        /// What.
        result: Result<Reply, Refusal>,
    },
    /// Deliver an effect, released because its version is sealed. May be for this shard.
    Deliver(Request),
    /// Read these records of the log, for [`crate::Partition::loaded`].
    Load {
        /// Whose they are.
        agent: AgentId,
        /// Where they lie, in order.
        places: Rc<Vec<Place>>,
    },
    /// Have the control thread do it and tell the origin.
    Errand {
        /// Whom to tell.
        to: Origin,
        /// What to do.
        errand: Errand,
    },
}
