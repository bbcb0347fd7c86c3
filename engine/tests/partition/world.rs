//! A partition with everything around it that a shard's loop does, for tests.
//!
//! Owns: the loop, and the check that every request is answered exactly once (V1).  Not: what the
//! answers should be.

use bytes::Bytes;
use heronry_engine::log::{Kind, Place, Record};
use heronry_engine::partition::{Flush, Last, Recovery};
use heronry_engine::template::built_in;
use heronry_engine::verb::{AgentInfo, Errand, Target, VersionInfo};
use heronry_engine::*;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a request came to.
pub type Answer = Result<Reply, Refusal>;

/// A partition, its clients, and its loop.
pub struct World {
    /// The partition under test.
    pub partition: Partition,
    /// The time that it is told.
    pub now: Nanos,
    /// Requests that it passed on to other shards.
    pub forwarded: Vec<Request>,
    /// Bytes of records that it has read since this was last set to 0.
    pub read_bytes: usize,
    /// What it wants the control thread to do.
    pub errands: Vec<(Origin, Errand)>,
    /// What it has flushed, by where it lies, in order.
    log: BTreeMap<(u32, u32), Vec<u8>>,
    log_end: u32,
    /// Where the last whole index begins, and the last one.
    log_start: u32,
    index_begun: u32,
    asked: u64,
    answers: BTreeMap<u64, Answer>,
}

/// Bytes of a segment, about.
const SEGMENT_BYTES: u32 = 2_000;

/// Settings with small bounds.
pub fn config() -> PartitionConfig {
    PartitionConfig { mailbox_max: 64, agents_max: 10_000, ..PartitionConfig::default() }
}

/// A store with pages of its own.
pub fn store(page_count: usize) -> PageStore {
    PageStore::new(Box::leak(vec![0u8; page_count * PAGE_BYTES].into_boxed_slice()))
}

impl World {
    /// The built-in templates, 4 MiB and small bounds.
    pub fn new() -> World {
        World::with(config(), 1024, Vec::new())
    }

    /// The built-in templates and `more`.
    pub fn with(config: PartitionConfig, page_count: usize, more: Vec<Native>) -> World {
        let mut templates = built_in();
        templates.extend(more);
        let partition = Partition::new(config, store(page_count), templates);
        let (forwarded, answers) = (Vec::new(), BTreeMap::new());
        let errands = Vec::new();
        World {
            partition,
            now: Nanos(1),
            read_bytes: 0,
            forwarded,
            errands,
            log: BTreeMap::new(),
            log_end: 0,
            log_start: 0,
            index_begun: 0,
            asked: 0,
            answers,
        }
    }

    /// Writes what has changed to the log, a few records at a time.
    pub fn flush(&mut self) {
        while self.partition.wants_flush() {
            self.flush_some();
        }
    }

    /// Writes a few records.
    pub fn flush_some(&mut self) {
        let mut flush = Flush::default();
        let whole = self.partition.flush(100, &mut flush);
        let mut at = 0;
        for made in &flush.made {
            let bytes = flush.bytes[at..at + made.len_bytes].to_vec();
            let segment = self.log_end / SEGMENT_BYTES;
            let place = Place { segment, offset: self.log_end, len_bytes: made.len_bytes as u32 };
            match made.kind {
                Kind::IndexBegin => self.index_begun = place.offset,
                Kind::IndexEnd => self.log_start = self.index_begun,
                _ => {}
            }
            self.log.insert((place.segment, place.offset), bytes);
            self.partition.placed(*made, place);
            self.log_end += place.len_bytes;
            at += made.len_bytes;
        }
        if let Some(whole) = whole {
            self.partition.flushed(whole);
        }
        self.pump();
    }

    /// Brings all agents forward that lie in segments before the last index, and drops these.
    pub fn compact(&mut self) {
        self.flush();
        self.partition.begin_index();
        self.flush();
        let first = self.log_start / SEGMENT_BYTES;
        for segment in 0..first {
            while !self.partition.compact(segment, 2) {
                self.pump();
                self.flush_some();
            }
            self.pump();
            self.flush();
            let live = self.partition.live_segments();
            assert!(!live.contains_key(&segment), "C1: segment {segment} is in use");
        }
        self.log.retain(|(segment, _), _| *segment >= first);
    }

    /// The shard dies, and another begins with what the log has. Who asked is gone.
    pub fn restart(&mut self, config: PartitionConfig, page_count: usize, more: Vec<Native>) {
        let mut templates = built_in();
        templates.extend(more);
        self.partition = Partition::new(config, store(page_count), templates);
        let mut recovery = Recovery::default();
        let start = (self.log_start / SEGMENT_BYTES, self.log_start);
        for ((segment, offset), bytes) in self.log.range(start..) {
            let record = Record::read(bytes).expect("its own bytes");
            let len_bytes = bytes.len() as u32;
            let place = Place { segment: *segment, offset: *offset, len_bytes };
            self.partition.recover(&mut recovery, record, place).expect("in order");
        }
        self.partition.recovered(recovery, Last::default());
        self.answers.clear();
        self.pump();
    }

    fn load(&mut self, agent: AgentId, places: &Rc<Vec<Place>>) {
        let read = |place: &Place| self.log[&(place.segment, place.offset)].clone();
        let records: Vec<Vec<u8>> = places.iter().map(read).collect();
        self.read_bytes += records.iter().map(Vec::len).sum::<usize>();
        self.partition.loaded(self.now, agent, places, Ok(records));
    }

    /// Sends a request in without serving it; its number.
    pub fn ask(&mut self, key: &str, verb: Verb) -> u64 {
        self.ask_with(key, verb, None, Ack::Sealed)
    }

    /// As [`World::ask`], with a deadline and a promise.
    pub fn ask_with(&mut self, key: &str, verb: Verb, deadline: Option<Nanos>, ack: Ack) -> u64 {
        let target = Target::agent(TenantId(0), key.parse().expect("a good key"));
        self.ask_target(target, verb, deadline, ack)
    }

    /// Asks the shard itself and returns its answer.
    pub fn shard(&mut self, verb: Verb) -> Answer {
        let number = self.ask_target(Target::Shard(ShardId(0)), verb, None, Ack::Sealed);
        self.run();
        self.take(number)
    }

    fn ask_target(&mut self, target: Target, verb: Verb, deadline: Option<Nanos>, ack: Ack) -> u64 {
        self.asked += 1;
        let seq = self.asked;
        let origin = Origin::Connection { conn: 0, generation: 0, seq, ack };
        self.partition.accept(self.now, Request { target, verb, ack, deadline, origin });
        self.asked
    }

    /// Handles events until there are none; serves no turn.
    pub fn pump(&mut self) {
        loop {
            let events = std::mem::take(self.partition.events());
            if events.is_empty() {
                return;
            }
            for event in events {
                match event {
                    Event::Answer { to: Origin::Agent { id, call }, result } => {
                        self.partition.answer(self.now, id, call, result);
                    }
                    Event::Answer { to: Origin::Connection { seq, .. }, result } => {
                        let earlier = self.answers.insert(seq, result);
                        assert!(earlier.is_none(), "V1: request {seq} was answered twice");
                    }
                    Event::Answer { to, .. } => panic!("nobody asked as {to:?}"),
                    Event::Deliver(request) => self.deliver(request),
                    Event::Errand { to, errand } => self.errands.push((to, errand)),
                    Event::Load { agent, places } => self.load(agent, &places),
                }
            }
        }
    }

    fn deliver(&mut self, request: Request) {
        match &request.target {
            Target::Agent { id, .. } if self.partition.directory().route(*id) == Route::Here => {
                self.partition.accept(self.now, request);
            }
            _ => self.forwarded.push(request),
        }
    }

    /// One turn and its events.
    pub fn step(&mut self) -> Option<TurnReport> {
        self.pump();
        let report = self.partition.run_turn(self.now);
        self.pump();
        if report.is_none() && self.partition.waiting_count() > 0 {
            self.flush();
            return self.step();
        }
        if report.is_none() && self.partition.runnable() {
            // Pages that a turn waited for have come.
            return self.step();
        }
        report
    }

    /// Serves until nothing is left to serve; the turns it took.
    pub fn run(&mut self) -> usize {
        std::iter::from_fn(|| self.step()).count()
    }

    /// The answer to a request, which must be there.
    pub fn take(&mut self, number: u64) -> Answer {
        self.answers.remove(&number).unwrap_or_else(|| panic!("V1: request {number} is open"))
    }

    /// The answer to a request, if it is there.
    pub fn peek(&self, number: u64) -> Option<&Answer> {
        self.answers.get(&number)
    }

    /// Asks, serves, and returns the answer.
    pub fn does(&mut self, key: &str, verb: Verb) -> Answer {
        let number = self.ask(key, verb);
        self.run();
        self.take(number)
    }

    /// Sends a message and returns the reply's text, or the refusal's code.
    pub fn says(&mut self, key: &str, message: &str) -> String {
        text(self.does(key, send(message)))
    }

    /// The code of the refusal that a verb meets.
    pub fn refused(&mut self, key: &str, verb: Verb) -> &'static str {
        match self.does(key, verb.clone()) {
            Err(refusal) => refusal.code(),
            Ok(reply) => panic!("{key} {verb:?} gave {reply:?}"),
        }
    }

    /// A reply that is a version.
    pub fn version(&mut self, key: &str, verb: Verb) -> u64 {
        match self.does(key, verb.clone()) {
            Ok(Reply::Version(version)) => version.0,
            other => panic!("{key} gave {}", text(other)),
        }
    }

    /// INFO.
    pub fn info(&mut self, key: &str) -> AgentInfo {
        match self.does(key, Verb::Info) {
            Ok(Reply::Info(info)) => *info,
            other => panic!("INFO {key} gave {other:?}"),
        }
    }

    /// VERSIONS.
    pub fn versions(&mut self, key: &str) -> Vec<VersionInfo> {
        match self.does(key, Verb::Versions) {
            Ok(Reply::Versions(versions)) => versions,
            other => panic!("VERSIONS {key} gave {other:?}"),
        }
    }

    /// FORK; the branches' keys.
    pub fn fork(&mut self, key: &str, count: u32, at: Option<VersionRef>) -> Vec<String> {
        match self.does(key, Verb::Fork { count, at, suffix: None, keep_timers: false }) {
            Ok(Reply::Forked(keys)) => keys.iter().map(ToString::to_string).collect(),
            other => panic!("FORK {key} gave {other:?}"),
        }
    }

    /// Checks the partition, and that no request is open.
    pub fn check(&mut self) {
        self.run();
        self.partition.debug_check();
    }

    /// Ends all agents and checks that no page is left.
    pub fn end(mut self) {
        self.run();
        let mut cursor = 0;
        let mut keys = Vec::new();
        loop {
            let list = Verb::List { cursor, count: 100, pattern: None, lost: false };
            let Ok(Reply::List { cursor: next, keys: page }) = self.shard(list) else {
                panic!("no listing")
            };
            keys.extend(page);
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        // What waits would make new agents.
        for key in &keys {
            self.does(key.as_str(), Verb::Resume).expect("a listed agent lives");
        }
        for key in keys {
            self.does(key.as_str(), Verb::Terminate).expect("a listed agent lives");
        }
        self.check();
        let counters = *self.partition.counters();
        assert_eq!((counters.agents, counters.mail, counters.frames_used), (0, 0, 0));
    }
}

/// SEND without a request id.
pub fn send(message: &str) -> Verb {
    Verb::Send { payload: Bytes::copy_from_slice(message.as_bytes()), request_id: None }
}

/// SEND with a request id.
pub fn send_once(message: &str, id: &str) -> Verb {
    let payload = Bytes::copy_from_slice(message.as_bytes());
    Verb::Send { payload, request_id: Some(Bytes::copy_from_slice(id.as_bytes())) }
}

/// CREATE.
pub fn create() -> Verb {
    Verb::Create { image_bytes: 0 }
}

/// CHECKPOINT.
pub fn checkpoint(label: &str) -> Verb {
    let label = (!label.is_empty()).then(|| Bytes::copy_from_slice(label.as_bytes()));
    Verb::Checkpoint { label }
}

/// ROLLBACK.
pub fn rollback(to: Option<u64>) -> Verb {
    Verb::Rollback { to: to.map(|id| VersionRef::Id(VersionId(id))) }
}

/// A reply's text, `-` for none, or the refusal's code.
pub fn text(answer: Answer) -> String {
    match answer {
        Ok(Reply::Payload(Some(bytes))) => String::from_utf8_lossy(&bytes).into(),
        Ok(Reply::Payload(None)) => "-".into(),
        Ok(Reply::Done) => "done".into(),
        Ok(other) => format!("{other:?}"),
        Err(refusal) => refusal.code().into(),
    }
}
