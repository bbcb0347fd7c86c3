//! The config: every value an operator may set, typed, checked, and in two forms.
//!
//! Owns: the typed [`Config`], its text form (TOML, `parse.rs`), its compiled form (`binary.rs`),
//! the table of keys that drives both (`keys.rs`, `kind.rs`), showing and comparing (`render.rs`).
//! Not: files, and what a zero that means "choose for me" becomes; the binary decides both.
//! F1  a `Config` that `parse` or `from_bytes` gave is within every range and every cross-key rule.
//! F2  `Config::default()` is the parse of the empty text.
//! F3  a form that was not understood in full is refused in full.

pub mod binary;
mod check;
pub mod error;
pub mod keys;
pub mod kind;
pub mod parse;
pub mod render;

pub use binary::{BinaryError, view};
pub use error::{ConfigError, ConfigErrors, Problem};
pub use keys::{KEYS, Key};
pub use kind::{Kind, TextRule, Unit, Value};
pub use parse::parse;
pub use render::{Difference, Row, diff, markdown, show, to_toml};

use rkyv::{Archive, Deserialize, Serialize};

/// Every value, one section per table of the TOML text. Units are in the names.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Config {
    /// The node as a whole.
    pub node: NodeConfig,
    /// Its shards.
    pub shards: ShardsConfig,
    /// Client connections.
    pub net: NetConfig,
    /// Agents.
    pub agents: AgentsConfig,
    /// What is kept on disk.
    pub log: LogConfig,
    /// Agents that are live interpreters or modules.
    pub sandbox: SandboxConfig,
    /// HTTP requests of agents.
    pub http: HttpConfig,
}

/// Keys `node.*`.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NodeConfig {
    /// IP address to listen on.
    pub bind: String,
    /// TCP port; 0 takes a free one.
    pub port: u16,
    /// Data folder; empty leaves the choice to the binary.
    pub data_dir: String,
    /// Unix socket; empty is `<data_dir>.sock`.
    pub unix_socket: String,
    /// Password that AUTH asks for; empty asks for none.
    pub password: String,
}

/// Keys `shards.*`.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct ShardsConfig {
    /// Number of shards; 0 is one per allowed CPU.
    pub count: u16,
    /// Process or thread per shard.
    pub isolation: Isolation,
    /// Reactor.
    pub runtime: Runtime,
    /// Longest spin before a shard parks, in microseconds.
    pub spin_us: u32,
    /// Whether to pin shards to CPUs.
    pub pin: bool,
    /// Bytes of a shard's arena; 0 is 60 % of memory over the shards.
    pub arena_bytes: u64,
    /// Whether to advise huge pages for arenas.
    pub huge_pages: bool,
    /// Bytes of one ring of the mesh, a power of two.
    pub ring_bytes: u64,
    /// A turn longer than this is reported, in milliseconds.
    pub stall_ms: u32,
    /// Restarts of one shard within the window before the node gives up.
    pub restart_max: u32,
    /// That window, in milliseconds.
    pub restart_window_ms: u32,
}

/// Keys `net.*`.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NetConfig {
    /// Connections per node; 0 is what the limit on open files allows.
    pub connections_max: u32,
    /// Unanswered requests per connection.
    pub pipeline_max: u32,
    /// Longest payload in bytes.
    pub payload_bytes_max: u64,
    /// Unsent output per connection in bytes.
    pub output_bytes_max: u64,
}

/// Keys `agents.*`.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct AgentsConfig {
    /// Whether a message to an absent agent creates it.
    pub create_on_send: bool,
    /// Seal after so many turns that changed the image; 1 each, 0 only by CHECKPOINT.
    pub seal_every: u32,
    /// Automatic versions kept per agent.
    pub history: u32,
    /// Checkpoints kept per agent.
    pub checkpoints_max: u32,
    /// Messages waiting per agent.
    pub mailbox_max: u32,
    /// Agents per shard.
    pub agents_max: u32,
    /// Request ids remembered per agent.
    pub dedupe_max: u32,
    /// Longest image in bytes.
    pub image_bytes_max: u64,
    /// Deadline of an agent's call, in milliseconds.
    pub call_timeout_ms: u32,
    /// Failed turns within the window that quarantine an agent; 0 never.
    pub quarantine_failures: u32,
    /// That window, in milliseconds.
    pub quarantine_window_ms: u32,
}

/// Keys `log.*`.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct LogConfig {
    /// Whether agents are kept on disk.
    pub enabled: bool,
    /// What answers promise where a client asks for nothing.
    pub ack: Promise,
    /// Templates for whose agents they promise something else.
    pub ack_by_template: String,
    /// How long a sealed change may wait for others before it is written, in milliseconds.
    pub delay_ms: u32,
    /// Bytes of one segment.
    pub segment_bytes: u64,
    /// Bytes written between two indexes.
    pub index_bytes: u64,
}

/// Keys `sandbox.*`.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Folder of the interpreters; empty leaves the choice to the binary.
    pub guests_dir: String,
    /// Folder of compiled modules; empty leaves the choice to the binary.
    pub cache_dir: String,
    /// Live agents per shard; 0 is what mappings and memory allow.
    pub live_max: u32,
    /// Linear memory of one agent in bytes.
    pub memory_bytes_max: u64,
    /// CPU time of one turn, in milliseconds.
    pub turn_ms_max: u32,
}

/// Keys `http.*`.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct HttpConfig {
    /// Hosts that agents may ask, separated by commas; empty is none.
    pub allow: String,
    /// File of secrets; empty is none.
    pub secrets_file: String,
}

/// What keeps shards apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Isolation {
    /// A process each.
    Process,
    /// A thread each, in one process.
    Thread,
}

/// What an answer promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Promise {
    /// Captured in memory.
    Sealed,
    /// On disk.
    Durable,
}

/// Which reactor runs a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Runtime {
    /// Our own loop on io_uring.
    Uring,
    /// A glommio executor.
    Glommio,
}

impl Isolation {
    /// The name in text.
    pub const fn name(self) -> &'static str {
        match self {
            Isolation::Process => "process",
            Isolation::Thread => "thread",
        }
    }
}

/// The templates of a `log.ack_by_template` and what is promised for each; `None` when the text is
/// no such list.
pub fn promises(text: &str) -> Option<Vec<(&str, Promise)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let parts = parts.map(|part| {
        let (name, promise) = part.split_once('=')?;
        let (name, promise) = (name.trim(), promise.trim());
        let key = format!("{name}/x").parse::<crate::AgentKey>().ok()?;
        let promise =
            [Promise::Sealed, Promise::Durable].into_iter().find(|p| p.name() == promise)?;
        (key.template() == name).then_some((name, promise))
    });
    parts.collect()
}

impl Promise {
    /// The name in text.
    pub const fn name(self) -> &'static str {
        match self {
            Promise::Sealed => "sealed",
            Promise::Durable => "durable",
        }
    }
}

impl Runtime {
    /// The name in text.
    pub const fn name(self) -> &'static str {
        match self {
            Runtime::Uring => "uring",
            Runtime::Glommio => "glommio",
        }
    }
}

impl Default for Config {
    /// The defaults of [`KEYS`] (F2).
    fn default() -> Config {
        let mut config = blank();
        for key in KEYS {
            (key.set)(&mut config, &key.default);
        }
        config
    }
}

/// A place for every value; each is overwritten from the table at once.
fn blank() -> Config {
    Config {
        node: NodeConfig {
            bind: String::new(),
            port: 0,
            data_dir: String::new(),
            unix_socket: String::new(),
            password: String::new(),
        },
        shards: ShardsConfig {
            count: 0,
            isolation: Isolation::Process,
            runtime: Runtime::Uring,
            spin_us: 0,
            pin: false,
            arena_bytes: 0,
            huge_pages: false,
            ring_bytes: 0,
            stall_ms: 0,
            restart_max: 0,
            restart_window_ms: 0,
        },
        net: NetConfig {
            connections_max: 0,
            pipeline_max: 0,
            payload_bytes_max: 0,
            output_bytes_max: 0,
        },
        agents: AgentsConfig {
            create_on_send: false,
            seal_every: 0,
            history: 0,
            checkpoints_max: 0,
            mailbox_max: 0,
            agents_max: 0,
            dedupe_max: 0,
            image_bytes_max: 0,
            call_timeout_ms: 0,
            quarantine_failures: 0,
            quarantine_window_ms: 0,
        },
        log: LogConfig {
            enabled: false,
            ack: Promise::Sealed,
            ack_by_template: String::new(),
            delay_ms: 0,
            segment_bytes: 0,
            index_bytes: 0,
        },
        sandbox: SandboxConfig {
            guests_dir: String::new(),
            cache_dir: String::new(),
            live_max: 0,
            memory_bytes_max: 0,
            turn_ms_max: 0,
        },
        http: HttpConfig { allow: String::new(), secrets_file: String::new() },
    }
}
