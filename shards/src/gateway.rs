//! What the shard loop needs of a client protocol.
//!
//! Owns: the boundary between connections (loop) and their bytes (protocol).
//! G1  every `Ask` is answered by exactly one `answer` with its `seq`, in any order; the protocol
//!     puts replies in the order its clients expect.
//! G2  a session never blocks the loop: it decodes what it has, and pauses by decoding no more.

use heronry_engine::verb::Target;
use heronry_engine::{Ack, Behaviour, Nanos, Refusal, Reply, Verb};

/// One request decoded from a connection.
#[derive(Debug)]
pub struct Ask {
    /// Position in the connection's pipeline, chosen by the session, increasing.
    pub seq: u64,
    /// Whom it is for.
    pub target: Target,
    /// What is asked.
    pub verb: Verb,
    /// The promise wanted of the answer.
    pub ack: Ack,
    /// When to give up.
    pub deadline: Option<Nanos>,
}

/// What a protocol may know of its node while it decodes.
pub trait NodeView {
    /// Current time.
    fn now(&self) -> Nanos;
    /// This shard and the number of shards.
    fn place(&self) -> (heronry_engine::ShardId, u16);
    /// One row per shard, for SHARD.LIST and INFO.
    fn shards(&self) -> Vec<ShardRow>;
    /// The templates of this shard, each number of each.
    fn templates(&self) -> Vec<TemplateRow>;
    /// (name, value) pairs about the node: version, runtime, isolation, config hash, uptime...
    fn facts(&self) -> Vec<(&'static str, String)>;
}

/// A template, or one number of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TemplateRow {
    /// Its name, as in `name/agent`.
    pub name: String,
    /// Which deployment of it, from 1.
    pub number: u32,
    /// Whether new agents are made from it.
    pub active: bool,
    /// What its source is; `native` for those that are part of the program.
    pub language: &'static str,
    /// One line for people.
    pub summary: String,
}

impl TemplateRow {
    /// The row of a native template.
    pub fn native(behaviour: &dyn Behaviour) -> TemplateRow {
        TemplateRow {
            name: behaviour.name().to_owned(),
            number: behaviour.number(),
            active: true,
            language: "native",
            summary: behaviour.summary().to_owned(),
        }
    }
}

/// A shard as its peers see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardRow {
    /// Its number.
    pub shard: heronry_engine::ShardId,
    /// `starting`, `up` or `down`.
    pub state: &'static str,
    /// CPU it is pinned to, if pinned.
    pub cpu: Option<u32>,
    /// Process id.
    pub pid: u32,
    /// Times it was restarted.
    pub restart_count: u64,
    /// Published counters by name, in a fixed order (`turns`, `agents`, `frames_used`, ...), and
    /// percentiles of the turn latency in nanoseconds (`turn_ns_p50`, `turn_ns_p99`, ...).
    pub counters: Vec<(&'static str, u64)>,
}

/// A client protocol. One value per shard; one `Session` per connection.
pub trait Gateway {
    /// State of one connection.
    type Session;

    /// A connection opened.
    fn open(&mut self) -> Self::Session;

    /// A connection past the limit opened: a session that says so and is closing.
    fn refuse(&mut self, connections_max: u32) -> Self::Session;

    /// Bytes arrived. Appends decoded requests to `asks`, replies it can give itself to the output.
    fn receive(
        &mut self,
        session: &mut Self::Session,
        bytes: &[u8],
        node: &dyn NodeView,
        asks: &mut Vec<Ask>,
    );

    /// The answer to an ask of this session (G1).
    fn answer(&mut self, session: &mut Self::Session, seq: u64, result: Result<Reply, Refusal>);

    /// Decodes what a pause left over, if anything. Called after events of the session whenever it
    /// is not `paused`.
    fn resume(&mut self, session: &mut Self::Session, node: &dyn NodeView, asks: &mut Vec<Ask>);

    /// Bytes to send, in order; the loop swaps the vector out when it can send.
    fn output<'s>(&self, session: &'s mut Self::Session) -> &'s mut Vec<u8>;

    /// Whether too much is unanswered or unsent: the loop stops receiving until this is false.
    fn paused(&self, session: &Self::Session) -> bool;

    /// Whether to close once the output is sent (QUIT, protocol error).
    fn closing(&self, session: &Self::Session) -> bool;
}
