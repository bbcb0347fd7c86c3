//! Answers that wait for the disk: which do, and how many may.
//!
//! Owns: a partition whose log is never written until the test says so.

use heronry_engine::limits::WAITING_COUNT_MAX;
use heronry_engine::partition::Flush;
use heronry_engine::template::built_in;
use heronry_engine::verb::Target;
use heronry_engine::*;

fn partition(config: PartitionConfig) -> Partition {
    let store = PageStore::new(Box::leak(vec![0u8; 64 * PAGE_BYTES].into_boxed_slice()));
    Partition::new(PartitionConfig { log: true, ..config }, store, built_in())
}

/// Asks, runs what there is to run; the answers that have left.
fn ask(partition: &mut Partition, key: &str, verb: Verb, ack: Ack) -> Vec<Result<Reply, Refusal>> {
    let target = Target::agent(TenantId(0), key.parse().expect("a good key"));
    let origin = Origin::Connection { conn: 0, generation: 0, seq: 1, ack };
    partition.accept(Nanos(7), Request { target, verb, ack, deadline: None, origin });
    while partition.run_turn(Nanos(7)).is_some() {}
    answers(partition)
}

fn answers(partition: &mut Partition) -> Vec<Result<Reply, Refusal>> {
    let events = std::mem::take(partition.events());
    let answer = |event| match event {
        Event::Answer { result, .. } => result,
        other => panic!("no part of these tests: {other:?}"),
    };
    events.into_iter().map(answer).collect()
}

fn add_one() -> Verb {
    Verb::Send { payload: "1".into(), request_id: None }
}

/// Writes everything; the answers that leave then.
fn write(partition: &mut Partition) -> Vec<Result<Reply, Refusal>> {
    let flush = partition.flush(usize::MAX, &mut Flush::default()).expect("all of it");
    partition.flushed(flush);
    answers(partition)
}

#[test]
fn a_disk_that_does_not_keep_up_is_busy_and_what_is_sealed_goes_on() {
    let mut partition = partition(PartitionConfig::default());
    for _ in 0..WAITING_COUNT_MAX {
        assert_eq!(ask(&mut partition, "counter/a", add_one(), Ack::Durable), []);
    }
    let refused = ask(&mut partition, "counter/a", add_one(), Ack::Durable);
    let [Err(refusal @ Refusal::Busy { .. })] = &refused[..] else { panic!("{refused:?}") };
    assert!(refusal.to_string().contains("65536 of 65536"), "{refusal}");
    let sealed = ask(&mut partition, "counter/a", add_one(), Ack::Sealed);
    let count = (WAITING_COUNT_MAX + 1).to_string();
    assert_eq!(sealed, [Ok(Reply::Payload(Some(count.into())))]);
    assert_eq!(write(&mut partition).len(), WAITING_COUNT_MAX);
    assert_eq!(ask(&mut partition, "counter/a", add_one(), Ack::Durable), []);
    assert_eq!(write(&mut partition).len(), 1);
}

#[test]
fn what_is_promised_without_a_word_is_the_templates() {
    let by_template = vec![("counter".to_owned(), Ack::Durable)];
    let config = PartitionConfig { ack_by_template: by_template, ..PartitionConfig::default() };
    let mut partition = partition(config);
    assert_eq!(ask(&mut partition, "echo/a", add_one(), Ack::Template).len(), 1);
    assert_eq!(ask(&mut partition, "counter/a", add_one(), Ack::Template), []);
    assert_eq!(ask(&mut partition, "counter/a", add_one(), Ack::Sealed).len(), 1);
    assert_eq!(write(&mut partition), [Ok(Reply::Payload(Some("1".into())))]);
}
