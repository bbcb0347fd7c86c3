//! The last look of a client: every image, every version, every listing; then all is ended.
//!
//! Owns: what is compared when nothing else is under way.  Not: what is right (`oracle`).
//! L1  no agent is left that the oracle does not know, and none that it knows is missing.

use super::client::{Client, PART, QUIET};
use super::link::Got;
use crate::op::{At, Command, Op};
use crate::oracle::answer::{Answer, code_of};
use heronry_engine::Nanos;
use heronry_net::Value;
use std::collections::BTreeSet;

impl Client {
    /// Reads every image and every version of every agent.
    pub(super) async fn read_back(&mut self) {
        let keys: Vec<String> = self.oracle.keys().map(str::to_owned).collect();
        for key in keys {
            let ops = [Op::Resume, Op::Info, Op::Versions];
            self.play(ops.into_iter().map(|op| Command::new(&key, op)).collect(), false).await;
            let Some(agent) = self.oracle.agent(&key) else { continue };
            let ids = agent.version_ids();
            self.read_whole(&key).await;
            for id in ids {
                let to = Some(At::Id(id));
                self.play(vec![Command::new(&key, Op::Rollback { to })], false).await;
                self.read_whole(&key).await;
            }
        }
    }

    async fn read_whole(&mut self, key: &str) {
        let Some(agent) = self.oracle.agent(key) else { return };
        let parts = (0..=agent.memory().len() as u64 / PART).map(|part| part * PART);
        let parts = parts.map(|offset| Command::new(key, Op::Read { offset, len: PART }));
        self.play(parts.collect(), false).await;
    }

    /// Walks AGENT.LIST and finds exactly what lives, and what is lost.
    pub(super) async fn check_list(&mut self) {
        let unawaited = self.author.unawaited();
        for lost in [false, true] {
            let found = self.walk(lost).await;
            let found: BTreeSet<String> = found.into_iter().filter(|k| *k != unawaited).collect();
            let expected: BTreeSet<String> = match lost {
                false => self.oracle.keys().map(str::to_owned).collect(),
                true => self.oracle.lost().map(str::to_owned).collect(),
            };
            assert_eq!(found, expected, "AGENT.LIST, lost: {lost}");
        }
    }

    async fn walk(&mut self, lost: bool) -> Vec<String> {
        let mut found = Vec::new();
        let mut cursor = "0".to_owned();
        let count = self.author.rng().u32(1..20).to_string();
        let pattern = format!("*/c{}-*", self.plan.me);
        loop {
            let words = ["AGENT.LIST", "CURSOR", &cursor, "MATCH", &pattern, "COUNT", &count];
            let mut words: Vec<Vec<u8>> = words.map(|word| word.as_bytes().to_vec()).into();
            words.extend(lost.then(|| b"LOST".to_vec()));
            let value = self.ask(&Command::new("", Op::Raw { words, refused: None })).await;
            let Some([next, keys]) = value.as_slice() else { panic!("AGENT.LIST: {value:?}") };
            let keys = keys.as_slice().unwrap_or_default();
            found.extend(keys.iter().filter_map(Value::as_str).map(str::to_owned));
            cursor = next.as_str().expect("a cursor").to_owned();
            if cursor == "0" {
                return found;
            }
        }
    }

    /// A call to an agent that takes no turns comes back at its deadline, on a node where nothing
    /// else happens too.
    pub(super) async fn check_call_timeout(&mut self) {
        let target = format!("echo/c{}-held", self.plan.me);
        for op in [Op::Create { image_bytes: 0 }, Op::Suspend] {
            self.ask(&Command::new(target.clone(), op)).await;
        }
        let (relay, _) = self.author.relays().swap_remove(0);
        let mut link = self.link().await;
        let began = self.hub.world.now();
        link.send(&[Command::new(relay, Op::send(format!("{target} hello")))]);
        match link.reply(began.after(Nanos::from_ms(10_000))).await {
            Got::Reply(value) => {
                let busy = self.hub.busy && code_of(&value) == Some("BUSY");
                assert!(busy || code_of(&value) == Some("TIMEOUT"), "a call that waits: {value:?}");
                let waited = self.hub.world.now().since(began);
                let timeout = self.hub.call_timeout;
                let range = timeout..=timeout.after(Nanos::from_ms(150));
                assert!(busy || range.contains(&waited), "{waited:?} is not in {range:?}");
                self.link = Some(link);
            }
            Got::Closed => assert!(self.hub.faults, "a connection broke by itself"),
            Got::Late => panic!("a call outlived its deadline"),
        }
        for op in [Op::Resume, Op::Terminate] {
            self.ask(&Command::new(target.clone(), op)).await;
        }
    }

    /// Ends all agents; then none is listed.
    pub(super) async fn end_all(&mut self) {
        let keys: Vec<String> = self.oracle.keys().map(str::to_owned).collect();
        for key in keys {
            let terminate = Command::new(key.clone(), Op::Terminate);
            let value = self.ask(&terminate).await;
            // A first try whose connection broke may have ended it.
            let ended = self.hub.faults && code_of(&value) == Some("NOAGENT");
            assert!(Answer::Done.is(&value) || ended, "{key} does not end: {value:?}");
        }
        self.check_unawaited().await;
        let left = self.walk(false).await;
        assert!(left.is_empty(), "all were ended, but not {left:?}");
    }

    async fn check_unawaited(&mut self) {
        self.hub.sleep(QUIET).await;
        let key = self.author.unawaited();
        let read = Command::new(key.clone(), Op::Read { offset: 0, len: 8 });
        let value = self.ask(&read).await;
        let bytes = value.as_bytes().filter(|bytes| bytes.len() == 8);
        let count = bytes.map_or(0, |b| i64::from_le_bytes(b.try_into().expect("8 bytes")));
        let strict = !self.hub.busy && !self.hub.full && !self.hub.faults;
        let least =
            if strict && self.oracle.rules().create_on_send { self.unawaited_min } else { 0 };
        let range = least..=self.unawaited_max;
        assert!(range.contains(&count), "{key} is {count}, sent: {range:?}");
        if code_of(&value).is_none() {
            self.ask(&Command::new(key, Op::Terminate)).await;
        }
    }
}
