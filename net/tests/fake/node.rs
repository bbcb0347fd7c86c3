//! A node for tests: fixed facts, and agents that only remember what they were sent.
//!
//! Owns: a `NodeView`, and answers to asks that look like an engine's.  Not: the engine.
//! The shapes are what the engine gives; the numbers are made up.

#![allow(dead_code, reason = "each test file uses its part")]

use bytes::Bytes;
use heronry_engine::verb::{AgentInfo, DiffRange, Errand, Target, VersionInfo};
use heronry_engine::{
    AgentId, AgentKey, Nanos, Refusal, Reply, ShardId, TenantId, Verb, VersionId,
};
use heronry_net::session::Session;
use heronry_net::{Resp, RespConfig};
use heronry_shards::gateway::{Ask, Gateway, NodeView, ShardRow, TemplateRow};

/// Fixed facts.
pub struct FakeNode {
    pub shard_count: u16,
}

impl NodeView for FakeNode {
    fn now(&self) -> Nanos {
        Nanos(1_000_000_000)
    }

    fn place(&self) -> (ShardId, u16) {
        (ShardId(0), self.shard_count)
    }

    fn shards(&self) -> Vec<ShardRow> {
        let row = |shard| ShardRow {
            shard: ShardId(shard),
            state: "up",
            cpu: (shard == 0).then_some(3),
            pid: 100 + u32::from(shard),
            restart_count: 0,
            counters: vec![("turns", 10), ("agents", 2), ("turn_ns_p99", 900)],
        };
        (0..self.shard_count).map(row).collect()
    }

    fn templates(&self) -> Vec<TemplateRow> {
        vec![TemplateRow {
            name: "echo".into(),
            number: 1,
            active: true,
            language: "native",
            summary: "answers each message with itself".into(),
        }]
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![("runtime", "sim".into()), ("config_hash", "00ff".into())]
    }
}

/// A gateway with one session.
pub struct Peer {
    pub gateway: Resp,
    pub session: Session,
    pub node: FakeNode,
    pub asks: Vec<Ask>,
}

impl Peer {
    pub fn new(config: RespConfig) -> Peer {
        let mut gateway = Resp::new(config);
        let session = gateway.open();
        Peer { gateway, session, node: FakeNode { shard_count: 3 }, asks: Vec::new() }
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.gateway.receive(&mut self.session, bytes, &self.node, &mut self.asks);
    }

    pub fn resume(&mut self) {
        self.gateway.resume(&mut self.session, &self.node, &mut self.asks);
    }

    pub fn answer(&mut self, seq: u64, result: Result<Reply, Refusal>) {
        self.gateway.answer(&mut self.session, seq, result);
    }

    /// Takes the output.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(self.gateway.output(&mut self.session))
    }

    pub fn paused(&self) -> bool {
        self.gateway.paused(&self.session)
    }

    pub fn closing(&self) -> bool {
        self.gateway.closing(&self.session)
    }

    /// Sends words, answers their ask, and gives what comes out.
    pub fn say(&mut self, words: &[&str]) -> String {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut bytes = Vec::new();
        heronry_net::resp::encode::encode_request(&mut bytes, &words);
        self.receive(&bytes);
        for ask in std::mem::take(&mut self.asks) {
            let answer = answer_to(&ask);
            self.answer(ask.seq, answer);
        }
        String::from_utf8(self.output()).expect("ASCII replies")
    }
}

pub fn key(text: &str) -> AgentKey {
    text.parse().expect("a good key")
}

/// What a shard might answer.
pub fn answer_to(ask: &Ask) -> Result<Reply, Refusal> {
    let version = || Ok(Reply::Version(VersionId(7)));
    match (&ask.target, &ask.verb) {
        (Target::Shard(shard), Verb::List { cursor, .. }) => Ok(Reply::List {
            cursor: if *cursor == 0 { 5 } else { 0 },
            keys: vec![key(&format!("echo/on-{}-{cursor}", shard.0))],
        }),
        (Target::Shard(_), Verb::Errand(Errand::Deploy { .. })) => {
            Ok(Reply::Template { number: 1 })
        }
        (Target::Shard(_), Verb::Errand(Errand::Activate { number, .. })) => {
            Ok(Reply::Template { number: u64::from(*number) })
        }
        (Target::Shard(shard), _) => {
            let rows = (1..4u64)
                .map(|n| (key(&format!("echo/{}-{n}", shard.0)), n * 10 + u64::from(shard.0)));
            Ok(Reply::Hottest(rows.collect()))
        }
        (_, Verb::Send { payload, .. }) => Ok(Reply::Payload(Some(payload.clone()))),
        (_, Verb::Exec { code }) => Ok(Reply::Payload(Some(code.clone()))),
        (_, Verb::Read { len_bytes, .. }) => {
            Ok(Reply::Payload(Some(Bytes::from(vec![b'r'; *len_bytes as usize]))))
        }
        (_, Verb::Create { .. } | Verb::Write { .. } | Verb::Checkpoint { .. }) => version(),
        (_, Verb::Rollback { .. } | Verb::Commit) => version(),
        (Target::Agent { key, .. }, Verb::Fork { count, suffix, .. }) => {
            let name = |n: u32| match suffix {
                Some(suffix) => String::from_utf8_lossy(suffix).into_owned(),
                None => n.to_string(),
            };
            Ok(Reply::Forked((1..=*count).map(|n| key.branch(&name(n)).expect("good")).collect()))
        }
        (_, Verb::Versions) => Ok(Reply::Versions(versions())),
        (_, Verb::Diff { .. }) => Ok(Reply::Diff(vec![DiffRange { start: 3, len_bytes: 9 }])),
        (Target::Agent { key, .. }, Verb::Info) => Ok(Reply::Info(Box::new(info(key.clone())))),
        (_, Verb::Terminate) => Err(Refusal::NoAgent { key: "echo/a".into() }),
        _ => Ok(Reply::Done),
    }
}

pub fn versions() -> Vec<VersionInfo> {
    let first = VersionInfo {
        id: VersionId(1),
        parent: None,
        label: None,
        checkpoint: false,
        head: false,
        sealed_at: Nanos(12),
        image_bytes: 4096,
    };
    let second = VersionInfo {
        id: VersionId(2),
        parent: Some(VersionId(1)),
        label: Some(Bytes::from_static(b"x")),
        checkpoint: true,
        head: true,
        ..first.clone()
    };
    vec![first, second]
}

pub fn info(key: AgentKey) -> AgentInfo {
    AgentInfo {
        id: AgentId(key.id(TenantId(0)).0),
        key,
        shard: ShardId(1),
        state: "active".into(),
        head: VersionId(u64::MAX),
        version_count: 2,
        image_bytes: 65536,
        unique_bytes: 4096,
        shared_bytes: 0,
        mailbox_count: 1,
        turn_count: 99,
        failure_count: 0,
        parent: Some("echo/parent".parse().expect("a good key")),
        branch_count: 4,
    }
}
