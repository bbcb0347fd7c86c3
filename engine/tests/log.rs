//! The log's bytes over time: a log of an earlier program opens, and a cut one gives what is whole.
//!
//! Owns: the golden log, which is never written again: a new format adds one beside it.
//! Not: single batches and records (`log/batch.rs`, `log/record.rs`), files (`shards`).

#[path = "log/writer.rs"]
mod writer;

use bytes::Bytes;
use heronry_engine::log::{Kind, Place, RecordError};
use heronry_engine::partition::{Last, Recovery};
use heronry_engine::verb::{Reply, Verb};
use heronry_engine::{Nanos, Refusal, VersionRef};
use std::path::{Path, PathBuf};
use writer::{Writer, batches};

/// The format of today.
const FORMAT: u32 = 3;
/// When the sample's sleeper wakes.
const WAKES_AT: u64 = 1_000_000_000_000;
/// Length of the sample's large agent.
const LARGE_BYTES: u32 = 6 * 4096 + 100;

/// The large agent's bytes, of which pages are in records of their own.
fn large() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..LARGE_BYTES).map(|at| (at / 4096) as u8 + 1).collect();
    bytes[9_000..9_007].copy_from_slice(b"changed");
    bytes
}

fn golden_path(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/log-{format}"))
}

fn fork(suffix: &'static str) -> Verb {
    Verb::Fork { count: 1, suffix: Some(suffix.into()), at: None, keep_timers: false }
}

/// A little of everything that a log holds.
fn sample() -> Writer {
    let mut log = Writer::new();
    assert_eq!(log.says("counter/a", "1"), "1");
    log.says("notebook/n", "append one;");
    log.says("counter/gone", "3");
    log.says("counter/k", "1");
    assert_eq!(log.says("sleeper/s", &WAKES_AT.to_string()), "asleep");
    log.flush();
    let mut bytes = large();
    bytes[9_000..9_007].fill(3);
    log.ask("notebook/large", Verb::Create { image_bytes: 0 }).expect("made");
    log.ask("notebook/large", Verb::Write { offset: 0, bytes: bytes.into() }).expect("written");
    log.flush();
    let bytes = Bytes::from_static(b"changed");
    log.ask("notebook/large", Verb::Write { offset: 9_000, bytes }).expect("written");
    log.says("counter/a", "4");
    log.ask("notebook/n", Verb::Checkpoint { label: Some("start".into()) }).expect("kept");
    log.flush();
    log.ask("notebook/n", fork("x")).expect("forked");
    log.says("notebook/n~x", "append two;");
    log.ask("counter/gone", fork("left")).expect("forked");
    log.ask("counter/k", fork("won")).expect("forked");
    log.ask("counter/a", Verb::Suspend).expect("suspended");
    log.flush();
    log.ask("counter/gone", Verb::Terminate).expect("ended");
    log.says("counter/k~won", "20");
    log.ask("counter/k~won", Verb::Commit).expect("committed");
    log.flush();
    log.says("notebook/n", "append three;");
    log.index();
    log.ask("counter/a", Verb::Resume).expect("resumed");
    log.says("counter/a", "5");
    log.flush();
    log
}

/// What the sample's agents are, in a log of this format.
fn check(log: &mut Writer, format: u32) {
    if format >= 3 {
        for (offset, len_bytes) in [(20_000, 50), (8_990, 30), (0, LARGE_BYTES)] {
            let read = log.ask("notebook/large", Verb::Read { offset, len_bytes });
            let expected = large()[offset as usize..][..len_bytes as usize].to_vec();
            assert_eq!(read, Ok(Reply::Payload(Some(expected.into()))), "from {offset}");
        }
    }
    if format >= 2 {
        let cold = log.partition.counters().cold;
        log.wait_until(Nanos(WAKES_AT - 1_000_000));
        assert_eq!(log.partition.counters().cold, cold - 1, "a sleeper comes back in time");
        log.wait_until(Nanos(WAKES_AT));
        assert_eq!(log.says("sleeper/s", "how often?"), "woken 1");
    }
    assert_eq!(log.says("counter/a", "get"), "10");
    assert_eq!(log.says("notebook/n", "read"), "one;three;");
    assert_eq!(log.says("notebook/n~x", "read"), "one;two;");
    assert_eq!(log.says("counter/gone~left", "get"), "3");
    assert_eq!(log.says("counter/k", "get"), "21");
    for key in ["counter/gone", "counter/k~won"] {
        assert!(matches!(log.ask(key, Verb::Info), Err(Refusal::NoAgent { .. })), "{key}");
    }
    let at = |label: &str| Some(VersionRef::Label(Bytes::copy_from_slice(label.as_bytes())));
    log.ask("notebook/n", Verb::Rollback { to: at("start") }).expect("the label is there");
    assert_eq!(log.says("notebook/n", "read"), "one;");
    let committed = log.ask("notebook/n~x", Verb::Commit);
    assert!(matches!(committed, Ok(Reply::Version(_))), "its parent is known: {committed:?}");
    log.partition.debug_check();
}

/// Never after a change of the format: add a golden log beside this one then. Written once by
/// `HERONRY_GOLDEN=write cargo test -p heronry-engine --test log golden`.
#[test]
fn b3_the_golden_log_opens() {
    if std::env::var_os("HERONRY_GOLDEN").is_some_and(|mode| mode == "write") {
        let path = golden_path(FORMAT);
        assert!(!path.exists(), "a golden log is not written again");
        sample().save(&path, 0);
    }
    for format in 1..=FORMAT {
        let path = golden_path(format);
        let first = Writer::open(&path).first;
        assert_eq!(first, 1);
        for from in [0, first] {
            let mut log = Writer::open(&path);
            log.restart(from);
            check(&mut log, format);
        }
    }
}

#[test]
fn what_is_written_today_opens_too() {
    for from in [0, 1] {
        let mut log = sample();
        log.restart(from);
        check(&mut log, FORMAT);
    }
}

#[test]
fn b1_a_batch_that_is_cut_at_any_byte_is_not_taken() {
    let log = sample();
    let bytes = &log.segments[&0];
    let whole = batches(bytes);
    assert!(whole.len() >= 3, "{} batches", whole.len());
    let last = log.written[whole.len() - 1];
    let before = log.written[whole.len() - 2];
    for cut in 0..last.used_bytes {
        let end = last.offset + cut;
        let torn = &bytes[..end];
        assert_eq!(batches(torn).len(), whole.len() - 1, "cut at byte {cut}, the file too");
        // Room that was made before, and what an earlier file may have left there.
        let zeros = vec![0; 4096];
        let old = &bytes[before.offset..before.offset + 4096];
        for (rest, what) in [(&zeros[..], "zeros"), (old, "an old batch")] {
            let from = end % 4096;
            let rest = rest.get(from..).unwrap_or_default();
            let torn = [torn, rest].concat();
            // Equal bytes are no cut.
            if torn[last.offset..] != bytes[last.offset..torn.len()] {
                assert_eq!(batches(&torn).len(), whole.len() - 1, "cut at byte {cut}, {what}");
            }
        }
    }
}

#[test]
fn a_fork_whose_parent_is_not_there_leaves_nothing() {
    let log = sample();
    let mut empty = Writer::new();
    let mut recovery = Recovery::default();
    let (place, mut count) = (Place { segment: 0, offset: 0, len_bytes: 1 }, 0);
    for (_, batch) in batches(&log.segments[&0]) {
        let records = batch.iter().filter_map(|(_, record)| record.ok());
        for fork in records.filter(|record| record.kind == Kind::Fork) {
            let taken = empty.partition.recover(&mut recovery, fork, place);
            assert!(matches!(taken, Err(RecordError::NoBase(_))), "{taken:?}");
            count += 1;
        }
    }
    assert_eq!((count, empty.partition.recovered(recovery, Last::default())), (3, 0));
    empty.partition.debug_check();
}

#[test]
fn parts_of_a_record_that_a_life_did_not_end_are_no_part_of_the_next_lifes() {
    let mut log = Writer::new();
    log.singly = true;
    log.says("notebook/n", "append one;");
    log.flush();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|at| (at.wrapping_mul(at) >> 5) as u8).collect();
    log.ask("notebook/n", Verb::Write { offset: 5_000, bytes: bytes.into() }).expect("written");
    let batch_count = log.written.len();
    log.flush();
    assert!(log.written.len() > batch_count + 2, "it is in parts");
    // The first part, which says what it is and comes last, does not reach the disk.
    log.lose(1);
    log.restart(0);
    assert_eq!(log.says("notebook/n", "append two;"), "8");
    log.flush();
    log.restart(0);
    assert_eq!(log.says("notebook/n", "read"), "one;two;");
}
