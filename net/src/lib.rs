//! RESP2 and RESP3: the codec, the gateway of a shard, listeners, and a client library.
//!
//! Owns: how Heronry's verbs look on a wire, and docs/commands.md.  Not: routing, agents, the
//! reactor; `shards` calls this crate through its `Gateway` trait.

pub mod client;
pub mod command;
pub mod listen;
pub mod reply;
pub mod resp;
pub mod session;

pub use command::{COMMANDS, commands_markdown};
pub use resp::{Protocol, ProtocolError, Value};
pub use session::{Resp, RespConfig, Session};
