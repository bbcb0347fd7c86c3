//! Agents as bytes: what is exported comes in again, and whatever else comes in harms nothing.
//!
//! Owns: bytes that were changed by one who can make their hash right.

use heronry_engine::template::built_in;
use heronry_engine::verb::Target;
use heronry_engine::*;

/// Where the hash of the rest is, and where that begins.
const HASH: std::ops::Range<usize> = 10..42;

fn partition(pages: usize) -> Partition {
    let config = PartitionConfig { history_max: 3, ..PartitionConfig::default() };
    let store = PageStore::new(Box::leak(vec![0u8; pages * PAGE_BYTES].into_boxed_slice()));
    Partition::new(config, store, built_in())
}

fn ask(partition: &mut Partition, key: &str, verb: Verb) -> Result<Reply, Refusal> {
    let target = Target::agent(TenantId(0), key.parse().expect("a good key"));
    let origin = Origin::Connection { conn: 0, generation: 0, seq: 1, ack: Ack::Sealed };
    let request = Request { target, verb, ack: Ack::Sealed, deadline: None, origin };
    partition.accept(Nanos(7), request);
    while partition.run_turn(Nanos(7)).is_some() {}
    let events = std::mem::take(partition.events());
    let answer = |event| match event {
        Event::Answer { result, .. } => Some(result),
        _ => None,
    };
    events.into_iter().find_map(answer).expect("an answer")
}

fn send(partition: &mut Partition, key: &str, text: &'static str) -> Result<Reply, Refusal> {
    let request_id = Some(format!("{text}!").into());
    ask(partition, key, Verb::Send { payload: text.into(), request_id })
}

fn bytes_of(reply: Result<Reply, Refusal>) -> Vec<u8> {
    match reply {
        Ok(Reply::Payload(Some(bytes))) => bytes.to_vec(),
        other => panic!("no bytes but {other:?}"),
    }
}

fn label(name: &'static str) -> Option<VersionRef> {
    Some(VersionRef::Label(name.into()))
}

/// An agent with a little of everything, as bytes.
fn sample(partition: &mut Partition) -> Vec<u8> {
    send(partition, "notebook/a", "append one;").expect("good");
    ask(partition, "notebook/a", Verb::Checkpoint { label: Some("one".into()) }).expect("good");
    send(partition, "notebook/a", "append two;").expect("good");
    let fork = Verb::Fork { count: 2, suffix: None, at: None, keep_timers: false };
    ask(partition, "notebook/a", fork).expect("good");
    bytes_of(ask(partition, "notebook/a", Verb::Export))
}

#[test]
fn x1_a_page_that_was_written_and_cleared_is_as_one_that_never_was() {
    let mut here = partition(256);
    for key in ["notebook/a", "notebook/b"] {
        ask(&mut here, key, Verb::Create { image_bytes: 20_000 }).expect("there is room");
    }
    let digest = |here: &mut Partition, key| bytes_of(ask(here, key, Verb::Digest { at: None }));
    for bytes in [&b"abc"[..], &[0; 3]] {
        let equal = digest(&mut here, "notebook/a") == digest(&mut here, "notebook/b");
        assert_eq!(equal, bytes == b"abc", "before {bytes:?} is written");
        let bytes = bytes.into();
        ask(&mut here, "notebook/a", Verb::Write { offset: 8192, bytes }).expect("written");
    }
    assert_eq!(digest(&mut here, "notebook/a"), digest(&mut here, "notebook/b"));
    // Until the oldest version that is kept has that page.
    for n in 0..5u8 {
        let bytes = vec![n].into();
        ask(&mut here, "notebook/a", Verb::Write { offset: 0, bytes }).expect("written");
    }
    let bytes = bytes_of(ask(&mut here, "notebook/a", Verb::Export));
    let mut there = partition(256);
    ask(&mut there, "notebook/a", Verb::Import { bytes: bytes.into() }).expect("its own bytes");
    assert_eq!(digest(&mut there, "notebook/a"), digest(&mut here, "notebook/a"));
}

#[test]
fn x1_an_agent_comes_in_as_it_went_out() {
    let mut here = partition(256);
    let bytes = sample(&mut here);
    let mut there = partition(256);
    let import = Verb::Import { bytes: bytes.into() };
    ask(&mut there, "notebook/b", import.clone()).expect("its own bytes");
    let exists = ask(&mut there, "notebook/b", import.clone());
    assert!(matches!(exists, Err(Refusal::Exists { .. })), "{exists:?}");
    for at in [None, label("one")] {
        let [one, other] = [(&mut here, "notebook/a"), (&mut there, "notebook/b")]
            .map(|(of, key)| bytes_of(ask(of, key, Verb::Digest { at: at.clone() })));
        assert_eq!(one, other, "{at:?}");
    }
    assert_eq!(bytes_of(send(&mut there, "notebook/b", "read")), b"one;two;");
    ask(&mut there, "notebook/b", Verb::Rollback { to: label("one") }).expect("its label");
    assert_eq!(bytes_of(send(&mut there, "notebook/b", "read")), b"one;two;", "a retry");
    let read = Verb::Send { payload: "read".into(), request_id: None };
    assert_eq!(bytes_of(ask(&mut there, "notebook/b", read)), b"one;");
    let branch = ask(&mut there, "notebook/a~9", import);
    assert!(matches!(branch, Err(Refusal::NoAgent { .. })), "{branch:?}");
    there.debug_check();
}

/// Whatever comes in under a hash that is right is refused, or is an agent that can be used; pages
/// of what was refused are free again.
#[test]
fn x3_changed_bytes_under_a_right_hash_harm_nothing() {
    let bytes = sample(&mut partition(256));
    let mut there = partition(256);
    let used = there.used_bytes();
    let mut came_in = 0;
    for at in (0..10).chain(HASH.end..bytes.len()) {
        for value in [0, 1, 0x7F, 0xFF, bytes[at] ^ 1, bytes[at] ^ 0x80] {
            let mut bad = bytes.clone();
            bad[at] = value;
            let hash = blake3::hash(&bad[HASH.end..]);
            bad[HASH].copy_from_slice(hash.as_bytes());
            if ask(&mut there, "notebook/b", Verb::Import { bytes: bad.into() }).is_err() {
                continue;
            }
            came_in += 1;
            // Refused or not, no shard dies of it.
            let verbs = [
                Verb::Resume,
                Verb::Versions,
                Verb::Checkpoint { label: Some("new".into()) },
                Verb::Rollback { to: label("one") },
                Verb::Rollback { to: None },
                Verb::Fork { count: 2, suffix: None, at: None, keep_timers: true },
                Verb::Export,
            ];
            for verb in verbs {
                let _ = ask(&mut there, "notebook/b", verb);
                let _ = send(&mut there, "notebook/b", "append three;");
            }
            there.debug_check();
            for key in
                ["notebook/b~1", "notebook/b~2", "notebook/b~3", "notebook/b~4", "notebook/b"]
            {
                let _ = ask(&mut there, key, Verb::Terminate);
            }
            if there.counters().agents > 0 {
                // Branches of a number that was changed.
                there = partition(256);
            }
        }
        assert!(there.counters().agents > 0 || there.used_bytes() == used, "byte {at}");
    }
    assert!(came_in > 10, "{came_in} came in");
}
