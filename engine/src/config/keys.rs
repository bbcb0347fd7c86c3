//! The table of keys: path, kind, range, unit, default and meaning of every value.
//!
//! Owns: [`KEYS`], from which parsing, checking, showing, the manual and the schema hash follow.
//! Not: what kinds of value there are (`kind.rs`), rules between keys (`check.rs`).
//! E1  every default is allowed by its kind.
//! E2  every field of `Config` has exactly one row here.

use super::kind::{Kind, TextRule, Unit, Value};
use super::{Config, Isolation, Promise, Runtime};
use crate::limits::{IMAGE_BYTES_MAX, PAYLOAD_BYTES_MAX, SHARD_COUNT_MAX};
use std::borrow::Cow;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const HOUR_MS: u64 = 3_600_000;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// `section.name`.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its value when nobody sets it.
    pub default: Value,
    /// What it does, for the manual.
    pub doc: &'static str,
    /// Reads it from a config.
    pub get: fn(&Config) -> Value,
    /// Writes it into a config; the value is allowed by `kind`.
    pub set: fn(&mut Config, &Value),
}

/// The row of `path`.
pub fn key(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// A field's value in the table's terms, and back.
trait Field {
    fn value(&self) -> Value;
    /// Of another kind, or too large: unchanged; `Kind::allows` was asked before.
    fn take(&mut self, value: &Value);
}

macro_rules! integer_field {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn value(&self) -> Value {
                Value::Integer(u64::from(*self))
            }
            fn take(&mut self, value: &Value) {
                if let Value::Integer(number) = value
                    && let Ok(number) = <$type>::try_from(*number)
                {
                    *self = number;
                }
            }
        }
    )*};
}
integer_field!(u16, u32, u64);

impl Field for bool {
    fn value(&self) -> Value {
        Value::Bool(*self)
    }
    fn take(&mut self, value: &Value) {
        if let Value::Bool(on) = value {
            *self = *on;
        }
    }
}

impl Field for String {
    fn value(&self) -> Value {
        Value::Text(Cow::Owned(self.clone()))
    }
    fn take(&mut self, value: &Value) {
        if let Value::Text(text) = value {
            *self = text.clone().into_owned();
        }
    }
}

macro_rules! choice_field {
    ($type:ident: $($choice:ident),*) => {
        impl Field for $type {
            fn value(&self) -> Value {
                Value::Text(Cow::Borrowed(self.name()))
            }
            fn take(&mut self, value: &Value) {
                for choice in [$($type::$choice),*] {
                    if choice.value() == *value {
                        *self = choice;
                    }
                }
            }
        }
    };
}
choice_field!(Isolation: Process, Thread);
choice_field!(Runtime: Uring, Glommio);
choice_field!(Promise: Sealed, Durable);

/// One row, its path and its access made from one mention of the field.
macro_rules! row {
    ($section:ident.$name:ident, $kind:expr, $default:expr, $doc:expr) => {
        Key {
            path: concat!(stringify!($section), ".", stringify!($name)),
            kind: $kind,
            default: $default,
            doc: $doc,
            get: |config| config.$section.$name.value(),
            set: |config, value| config.$section.$name.take(value),
        }
    };
}

const fn count(least: u64, most: u64) -> Kind {
    Kind::Integer { least, most, unit: Unit::Count, zero: None }
}

const fn count_or(zero: &'static str, least: u64, most: u64) -> Kind {
    Kind::Integer { least, most, unit: Unit::Count, zero: Some(zero) }
}

const fn bytes(least: u64, most: u64) -> Kind {
    Kind::Integer { least, most, unit: Unit::Bytes, zero: None }
}

const fn milliseconds(least: u64, most: u64) -> Kind {
    Kind::Integer { least, most, unit: Unit::Milliseconds, zero: None }
}

const fn path(empty: &'static str) -> Kind {
    // The kernel's longest path, and its longest Unix socket path, are the file system's to check.
    Kind::Text { bytes_max: 4095, rule: TextRule::Path, empty }
}

const fn text(default: &'static str) -> Value {
    Value::Text(Cow::Borrowed(default))
}

/// Every key, by section, in the order of the manual.
pub static KEYS: &[Key] = &[
    row!(
        node.bind,
        Kind::Text { bytes_max: 45, rule: TextRule::Address, empty: "" },
        text("127.0.0.1"),
        "IP address to listen on. Others than loopback need node.password."
    ),
    row!(
        node.port,
        count_or("any free port", 1, 65_535),
        Value::Integer(7373),
        "TCP port to listen on."
    ),
    row!(
        node.data_dir,
        path("the binary's own choice, shown by `heronry config show`"),
        text(""),
        "Folder of this node's files."
    ),
    row!(
        node.unix_socket,
        path("the data folder's path with `.sock` appended"),
        text(""),
        "Unix socket to listen on, beside TCP."
    ),
    row!(
        node.password,
        Kind::Text { bytes_max: 512, rule: TextRule::Secret, empty: "no password is asked for" },
        text(""),
        "Password that clients give with AUTH. Never shown, but kept as it is in the compiled file."
    ),
    row!(
        shards.count,
        count_or("one per allowed CPU", 1, SHARD_COUNT_MAX as u64),
        Value::Integer(0),
        "Number of shards. Allowed CPUs are the affinity mask, less by a cgroup's quota."
    ),
    row!(
        shards.isolation,
        Kind::Choice(&["process", "thread"]),
        text("process"),
        "What keeps shards apart: a process each, or a thread each in one process (for tests, \
         embedding and comparison; slower with more than one shard)."
    ),
    row!(
        shards.runtime,
        Kind::Choice(&["uring", "glommio"]),
        text("uring"),
        "Reactor of a shard: our own loop on io_uring, or a glommio executor."
    ),
    row!(
        shards.spin_us,
        Kind::Integer {
            least: 1,
            most: 10_000,
            unit: Unit::Microseconds,
            zero: Some("never spin"),
        },
        Value::Integer(0),
        "Longest time that an idle shard looks for work before it sleeps. Shortens hops between \
         shards and costs CPU time; ignored with fewer CPUs than shards."
    ),
    row!(
        shards.pin,
        Kind::Bool,
        Value::Bool(true),
        "Pin each shard to a CPU and bind its memory to that CPU's node. Ignored with fewer CPUs \
         than shards."
    ),
    row!(
        shards.arena_bytes,
        Kind::Integer {
            least: 16 * MIB,
            most: 64 * TIB,
            unit: Unit::Bytes,
            zero: Some("60 % of memory, divided among the shards"),
        },
        Value::Integer(0),
        "Memory for the images of one shard's agents. Reserved at start, used as it fills."
    ),
    row!(
        shards.huge_pages,
        Kind::Bool,
        Value::Bool(true),
        "Ask the kernel for huge pages for arenas."
    ),
    row!(
        shards.ring_bytes,
        bytes(64 * KIB, 64 * MIB),
        Value::Integer(MIB),
        "Size of one ring of the mesh, a power of two. There is a ring for each ordered pair of \
         shards; longer messages go in parts."
    ),
    row!(
        shards.stall_ms,
        milliseconds(1, 60_000),
        Value::Integer(25),
        "A turn that takes longer is reported with its agent's key."
    ),
    row!(
        shards.restart_max,
        count(0, 1_000),
        Value::Integer(10),
        "A shard that ends more often than this within shards.restart_window_ms is left down."
    ),
    row!(
        shards.restart_window_ms,
        milliseconds(100, 24 * HOUR_MS),
        Value::Integer(60_000),
        "The window of shards.restart_max."
    ),
    row!(
        net.connections_max,
        count_or("what the limit on open files allows", 1, 1_000_000),
        Value::Integer(0),
        "Most client connections of the node; one more is refused with an error."
    ),
    row!(
        net.pipeline_max,
        count(1, 1_000_000),
        Value::Integer(4096),
        "Most unanswered requests of one connection; past it the connection is not read."
    ),
    row!(
        net.payload_bytes_max,
        bytes(KIB, PAYLOAD_BYTES_MAX as u64),
        Value::Integer(8 * MIB),
        "Longest payload of a message, and most bytes of one READ or WRITE."
    ),
    row!(
        net.output_bytes_max,
        bytes(64 * KIB, GIB),
        Value::Integer(16 * MIB),
        "Most unsent output of one connection; past it the connection is not read."
    ),
    row!(
        agents.create_on_send,
        Kind::Bool,
        Value::Bool(true),
        "Whether a message to an agent that does not exist creates it."
    ),
    row!(
        agents.seal_every,
        count_or("seal only on CHECKPOINT", 1, 1_000_000),
        Value::Integer(1),
        "Seal a version after so many turns that changed the image; 1 is every message."
    ),
    row!(
        agents.history,
        count(1, 1_000),
        Value::Integer(4),
        "Automatic versions kept per agent, the newest."
    ),
    row!(
        agents.checkpoints_max,
        count(1, 10_000),
        Value::Integer(64),
        "Checkpoints kept per agent; one more is refused."
    ),
    row!(
        agents.mailbox_max,
        count(1, 1_000_000),
        Value::Integer(1024),
        "Messages waiting per agent; one more is refused with BUSY."
    ),
    row!(
        agents.agents_max,
        count(1, 100_000_000),
        Value::Integer(10_000_000),
        "Agents per shard; one more is refused."
    ),
    row!(
        agents.dedupe_max,
        count_or("no dedupe", 1, 4096),
        Value::Integer(64),
        "Request ids remembered per agent, so that a retry gets the first reply."
    ),
    row!(
        agents.image_bytes_max,
        bytes(4 * KIB, IMAGE_BYTES_MAX),
        Value::Integer(GIB),
        "Longest image of an agent."
    ),
    row!(
        agents.call_timeout_ms,
        milliseconds(1, HOUR_MS),
        Value::Integer(30_000),
        "How long an agent waits for the reply to a call before it gets TIMEOUT."
    ),
    row!(
        agents.quarantine_failures,
        count_or("never quarantine", 1, 1_000),
        Value::Integer(5),
        "Turns that panicked within agents.quarantine_window_ms, as many as quarantine an agent."
    ),
    row!(
        agents.quarantine_window_ms,
        milliseconds(1, HOUR_MS),
        Value::Integer(10_000),
        "The window of agents.quarantine_failures."
    ),
    row!(
        log.enabled,
        Kind::Bool,
        Value::Bool(true),
        "Keep agents on disk, so that they outlive the node. Without it nothing can be durable."
    ),
    row!(
        log.ack,
        Kind::Choice(&["sealed", "durable"]),
        text("sealed"),
        "What an answer promises where the client does not say: captured in memory, or on disk."
    ),
    row!(
        log.ack_by_template,
        Kind::Text { bytes_max: 4_096, rule: TextRule::Promises, empty: "log.ack for all" },
        text(""),
        "Templates whose agents' answers promise something else than log.ack says: \
         `counter=durable, echo=sealed`."
    ),
    row!(
        log.delay_ms,
        Kind::Integer { least: 1, most: 1_000, unit: Unit::Milliseconds, zero: Some("at once") },
        Value::Integer(5),
        "How long a sealed change may wait for others before it is written, when nobody waits for \
         it: what a killed shard may lose of what was only sealed."
    ),
    row!(
        log.segment_bytes,
        bytes(4 * MIB, GIB),
        Value::Integer(64 * MIB),
        "Size of one file of the log; each has all its room on disk from its start."
    ),
    row!(
        log.index_bytes,
        bytes(MIB, TIB),
        Value::Integer(128 * MIB),
        "Bytes written to a shard's log between two indexes. A start reads from the last one on."
    ),
    row!(
        sandbox.guests_dir,
        path("`heronry/guests/current` in the user's cache folder"),
        text(""),
        "Folder of the interpreters that tools/guests/build makes."
    ),
    row!(
        sandbox.cache_dir,
        path("`heronry/modules` in the user's cache folder"),
        text(""),
        "Folder of compiled modules, by content. May be emptied while no node runs: the next start \
         compiles what stored templates need."
    ),
    row!(
        sandbox.live_max,
        count_or("what the kernel's limit on mappings and memory allow", 1, 100_000),
        Value::Integer(0),
        "Most live agents of one shard; the one used least lately makes room for the next."
    ),
    row!(
        sandbox.memory_bytes_max,
        bytes(MIB, IMAGE_BYTES_MAX),
        Value::Integer(256 * MIB),
        "Longest linear memory of one sandboxed agent; one that wants more fails its turn."
    ),
    row!(
        sandbox.turn_ms_max,
        milliseconds(1, HOUR_MS),
        Value::Integer(5_000),
        "Most CPU time of one turn of a sandboxed agent; a longer turn fails and is undone."
    ),
    row!(
        http.allow,
        Kind::Text { bytes_max: 8_192, rule: TextRule::Hosts, empty: "no host" },
        text(""),
        "Hosts that agents may send HTTP requests to, separated by commas: `api.example.com`, \
         `localhost:8080`, `*.example.com`. Without a port, the port of the scheme is meant."
    ),
    row!(
        http.secrets_file,
        path("no secrets"),
        text(""),
        "TOML file of `name = \"value\"` lines that only its owner may read (mode 0600). An HTTP \
         request's headers name them as `{{secret:NAME}}`; agents never see the values."
    ),
];
