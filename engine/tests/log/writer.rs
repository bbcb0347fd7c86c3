//! A log as a shard writes it, in memory: a partition that is asked, and batches of what changed.
//!
//! Owns: segments as bytes, numbers of batches, reading them back.  Not: files of a running shard
//! (`shards`), what agents should be.

use bytes::Bytes;
use heronry_engine::log::batch::Batch;
use heronry_engine::log::{BatchHead, LogKey, Packer, Place};
use heronry_engine::partition::{Flush, Last, Recovery};
use heronry_engine::template::built_in;
use heronry_engine::verb::Target;
use heronry_engine::*;
use std::collections::BTreeMap;
use std::path::Path;

/// The key of these logs.
pub const KEY: LogKey = LogKey([0x5A; 32]);

/// Sleeps until the time that it is sent, in nanoseconds, and counts in byte 0 how often it woke.
struct Sleeper;

impl Behaviour for Sleeper {
    fn name(&self) -> &str {
        "sleeper"
    }

    fn summary(&self) -> &str {
        "sleeps"
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        if let Ok(until) = String::from_utf8_lossy(message).parse() {
            turn.sleep(Nanos(until));
            turn.reply("asleep");
            return turn.resize(1);
        }
        let mut woken = [0];
        turn.read(0, &mut woken);
        turn.reply(format!("woken {}", woken[0]));
        Ok(())
    }

    fn on_reply(
        &self,
        turn: &mut Turn<'_>,
        _call: CallId,
        _result: &Result<Option<Bytes>, Refusal>,
    ) -> Result<(), Fault> {
        let mut woken = [0];
        turn.read(0, &mut woken);
        turn.write(0, &[woken[0] + 1])
    }
}

/// Where a batch is.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub segment: u32,
    pub offset: usize,
    /// Without padding.
    pub used_bytes: usize,
}

/// A partition and its log.
pub struct Writer {
    pub partition: Partition,
    /// Segments by number.
    pub segments: BTreeMap<u32, Vec<u8>>,
    /// The first to read, once an index was written.
    pub first: u32,
    /// All batches so far.
    pub written: Vec<Written>,
    /// Whether each record gets a batch of its own.
    pub singly: bool,
    /// Whether flushes are made whole.
    pub whole: bool,
    segment: u32,
    epoch: u32,
    answers: Vec<Result<Reply, Refusal>>,
}

fn partition() -> Partition {
    let config = PartitionConfig { log: true, ..PartitionConfig::default() };
    let store = PageStore::new(Box::leak(vec![0u8; 2048 * PAGE_BYTES].into_boxed_slice()));
    let sleeper: Native = &Sleeper;
    let templates = built_in().into_iter().chain([sleeper]).collect();
    Partition::new(config, store, templates)
}

impl Writer {
    pub fn new() -> Writer {
        Writer {
            partition: partition(),
            segments: BTreeMap::from([(0, Vec::new())]),
            first: 0,
            written: Vec::new(),
            singly: false,
            whole: true,
            segment: 0,
            epoch: 1,
            answers: Vec::new(),
        }
    }

    /// The log that is in a folder.
    pub fn open(folder: &Path) -> Writer {
        let mut writer = Writer::new();
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            if let Some(number) = number {
                writer.segments.insert(number, std::fs::read(path).expect("a segment"));
            }
        }
        let first = std::fs::read_to_string(folder.join("first")).expect("a number");
        writer.first = first.parse().expect("a number");
        writer
    }

    /// Writes segments, key and first to a folder, each segment with some room left.
    pub fn save(&self, folder: &Path, room_bytes: usize) {
        std::fs::create_dir_all(folder).expect("a folder");
        for (number, bytes) in &self.segments {
            let mut bytes = bytes.clone();
            bytes.resize(bytes.len() + room_bytes, 0);
            std::fs::write(folder.join(format!("{number:010}.log")), bytes).expect("written");
        }
        std::fs::write(folder.join("key"), KEY.0).expect("written");
        if self.first > 0 {
            std::fs::write(folder.join("first"), self.first.to_string()).expect("written");
        }
    }

    /// Asks an agent and gives its answer; nothing is written.
    pub fn ask(&mut self, key: &str, verb: Verb) -> Result<Reply, Refusal> {
        let target = Target::agent(TenantId(0), key.parse().expect("a good key"));
        let origin = Origin::Connection { conn: 0, generation: 0, seq: 1, ack: Ack::Sealed };
        let request = Request { target, verb, ack: Ack::Sealed, deadline: None, origin };
        self.partition.accept(Nanos(7), request);
        loop {
            self.pump();
            if self.partition.run_turn(Nanos(7)).is_none() {
                self.pump();
                if self.partition.runnable() {
                    continue;
                }
                return self.answers.pop().expect("V1: an answer");
            }
        }
    }

    /// Lets the time be `now`, and does what that asks for.
    pub fn wait_until(&mut self, now: Nanos) {
        self.partition.expire(now);
        self.pump();
        while self.partition.run_turn(now).is_some() {
            self.pump();
        }
    }

    fn pump(&mut self) {
        for event in std::mem::take(self.partition.events()) {
            match event {
                Event::Answer { result, .. } => self.answers.push(result),
                Event::Load { agent, places } => {
                    let read = |place: &Place| {
                        let from = place.offset as usize;
                        self.segments[&place.segment][from..from + place.len_bytes as usize]
                            .to_vec()
                    };
                    let records: Vec<Vec<u8>> = places.iter().map(read).collect();
                    self.partition.loaded(Nanos(7), agent, &places, Ok(records));
                }
                other => panic!("no part of these tests: {other:?}"),
            }
        }
    }

    /// Sends a message; the reply's text, or the refusal's code.
    pub fn says(&mut self, key: &str, message: &str) -> String {
        let payload = Bytes::copy_from_slice(message.as_bytes());
        match self.ask(key, Verb::Send { payload, request_id: None }) {
            Ok(Reply::Payload(payload)) => {
                String::from_utf8_lossy(&payload.unwrap_or_default()).into_owned()
            }
            Ok(other) => panic!("{key} gave {other:?}"),
            Err(refusal) => refusal.code().to_owned(),
        }
    }

    /// Writes what has changed as one batch.
    pub fn flush(&mut self) {
        let mut flush = Flush::default();
        loop {
            let whole = self.partition.flush(64 << 20, &mut flush);
            if let Some(whole) = whole {
                self.pack(&flush);
                self.partition.flushed(whole);
                break;
            }
        }
    }

    fn pack(&mut self, flush: &Flush) {
        let mut packer = Packer::default();
        let mut at = 0;
        for made in &flush.made {
            let record = &flush.bytes[at..at + made.len_bytes];
            at += made.len_bytes;
            if self.singly {
                self.seal(&mut packer);
            }
            let begins = packer.push(record) + self.segments[&self.segment].len();
            let (offset, len_bytes) = (begins as u32, record.len() as u32);
            let place = Place { segment: self.segment, offset, len_bytes };
            self.partition.placed(*made, place);
        }
        self.seal(&mut packer);
    }

    fn seal(&mut self, packer: &mut Packer) {
        if packer.is_empty() {
            return;
        }
        let last = self.partition.last_numbers();
        let head = BatchHead {
            shard: ShardId(0),
            epoch: self.epoch,
            sequence: self.written.len() as u64,
            written_at: Nanos(1_000_000 * self.written.len() as u64),
            call_last: last.call,
            request_last: last.request,
            whole: self.whole,
        };
        let used_bytes = packer.len_bytes();
        let bytes = packer.finish(&KEY, head, Vec::new());
        let segment = self.segments.get_mut(&self.segment).expect("it was begun");
        self.written.push(Written { segment: self.segment, offset: segment.len(), used_bytes });
        segment.extend_from_slice(&bytes);
    }

    /// Goes on in the next segment.
    pub fn roll(&mut self) {
        self.segment += 1;
        self.segments.insert(self.segment, Vec::new());
    }

    /// Writes an index at the start of the next segment, with what has changed.
    pub fn index(&mut self) {
        self.roll();
        self.partition.begin_index();
        self.flush();
        self.first = self.segment;
    }

    /// Takes the last batches back, as if they had not reached the disk.
    pub fn lose(&mut self, count: usize) {
        for _ in 0..count {
            let Written { segment, offset, .. } = self.written.pop().expect("a batch");
            self.segments.get_mut(&segment).expect("its segment").truncate(offset);
        }
    }

    /// The shard dies, and another life begins with the log as it is, read from a segment on.
    pub fn restart(&mut self, from: u32) {
        self.partition = partition();
        let mut recovery = Recovery::default();
        let (mut last, mut epoch, mut next) = (Last::default(), 0, None);
        for (segment, bytes) in self.segments.range(from..) {
            for (at, batch) in batches(bytes) {
                assert!(next.is_none_or(|next| next == batch.head.sequence), "B2: a gap");
                next = Some(batch.head.sequence + 1);
                if epoch != batch.head.epoch {
                    recovery.forget_parts();
                }
                epoch = batch.head.epoch;
                last = Last { call: batch.head.call_last, request: batch.head.request_last };
                for (begins, record) in batch.iter() {
                    let record = record.expect("a whole record");
                    let (offset, len_bytes) = ((at + begins) as u32, record.len_bytes as u32);
                    let place = Place { segment: *segment, offset, len_bytes };
                    self.partition.recover(&mut recovery, record, place).expect("in order");
                }
            }
        }
        self.epoch = epoch + 1;
        self.partition.recovered(recovery, last);
        self.pump();
    }
}

/// The whole batches at the start of a segment, of one sequence, and where each begins.
pub fn batches(bytes: &[u8]) -> Vec<(usize, Batch<'_>)> {
    let (mut found, mut at, mut next) = (Vec::new(), 0, None);
    while let Some(batch) = bytes.get(at..).and_then(|rest| Batch::read(&KEY, rest).ok()) {
        if next.is_some_and(|next| next != batch.head.sequence) {
            break;
        }
        next = Some(batch.head.sequence + 1);
        found.push((at, batch));
        at += batch.len_bytes;
    }
    found
}
