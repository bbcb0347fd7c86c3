//! What one shard's agents cost without sockets: messages, creates, forks.
//!
//! Owns: engine time per request, from `accept` to its answer, sealed.  Not: the shard's loop,
//! codecs, hops.  One agent's pages stay in the cache; those of 850 do not, and copying dominates.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use heronry_engine::behaviour::notebook::SLOT_COUNT;
use heronry_engine::template::built_in;
use heronry_engine::verb::Target;
use heronry_engine::*;
use std::cell::RefCell;
use std::hint::black_box;

/// Agents that messages go to, in turn.
const AGENT_COUNT: u64 = 850;
const ORIGIN: Origin = Origin::Connection { conn: 0, generation: 0, seq: 0, ack: Ack::Sealed };

fn partition(arena_bytes: usize) -> Partition {
    let config = PartitionConfig { agents_max: u32::MAX, ..PartitionConfig::default() };
    let frames = Box::leak(vec![0u8; arena_bytes].into_boxed_slice());
    Partition::new(config, PageStore::new(frames), built_in())
}

fn request(target: &Target, verb: Verb) -> Request {
    Request { target: target.clone(), verb, ack: Ack::Sealed, deadline: None, origin: ORIGIN }
}

fn send(target: &Target, message: &Bytes) -> Request {
    request(target, Verb::Send { payload: message.clone(), request_id: None })
}

fn target(template: &str, n: u64) -> Target {
    let key: AgentKey = format!("{template}/{n}").parse().expect("a good key");
    Target::agent(TenantId(0), key)
}

/// Serves a request and returns the number of events, which must be good answers.
fn serve(partition: &mut Partition, request: Request) -> usize {
    partition.accept(Nanos(1), request);
    while partition.run_turn(Nanos(1)).is_some() {}
    let events = partition.events();
    for event in events.iter() {
        assert!(matches!(event, Event::Answer { result: Ok(_), .. }), "{event:?}");
    }
    let count = events.len();
    events.clear();
    count
}

/// Agents of 64 KiB, all pages written.
fn full_agents(partition: &mut Partition, template: &str) -> Vec<Target> {
    let targets: Vec<Target> = (0..AGENT_COUNT).map(|n| target(template, n)).collect();
    for target in &targets {
        serve(partition, request(target, Verb::Create { image_bytes: 65_536 }));
        let bytes = Bytes::from(vec![1; 65_536]);
        serve(partition, request(target, Verb::Write { offset: 0, bytes }));
        serve(
            partition,
            request(target, Verb::Write { offset: 0, bytes: Bytes::from_static(&[0; 8]) }),
        );
    }
    targets
}

/// Messages to one agent, whose pages stay in the cache, and to many, whose pages do not.
fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("send");
    group.throughput(Throughput::Elements(1));
    let mut partition = partition(1 << 30);
    let adds = vec![Bytes::from_static(b"1")];
    // The texts of a slot differ from pass to pass, as an equal write changes nothing.
    let set = |n: u64| {
        let text = if (n / SLOT_COUNT).is_multiple_of(2) { "x" } else { "y" };
        Bytes::from(format!("set {} {}", n * 11 % SLOT_COUNT, text.repeat(100)))
    };
    let sets: Vec<Bytes> = (0..2 * SLOT_COUNT).map(set).collect();
    for (template, texts) in [("echo", &adds), ("counter", &adds), ("notebook", &sets)] {
        let targets = full_agents(&mut partition, template);
        for count in [1, AGENT_COUNT as usize] {
            let mut turns = 0;
            group.bench_function(format!("{template}, {count} agents"), |bencher| {
                bencher.iter(|| {
                    turns += 1;
                    let message = &texts[turns / count % texts.len()];
                    let request = send(&targets[turns % count], message);
                    black_box(serve(&mut partition, request))
                });
            });
        }
    }
    group.finish();
}

/// Births per measured batch.
const BIRTH_COUNT: u64 = 1_000;

fn births(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("births");
    group.throughput(Throughput::Elements(BIRTH_COUNT));
    let shared = RefCell::new(partition(1 << 28));
    // The branches of the batch before, and what agents are forked from.
    let origin = full_agents(&mut shared.borrow_mut(), "notebook")[0].clone();
    let before = RefCell::new(Vec::new());
    let forget = |targets: Vec<Target>| {
        let mut partition = shared.borrow_mut();
        for target in before.replace(targets) {
            serve(&mut partition, request(&target, Verb::Terminate));
        }
        partition.roster_changes();
    };
    group.bench_function("create", |bencher| {
        let make = || {
            let targets: Vec<Target> = (0..BIRTH_COUNT).map(|n| target("counter", n)).collect();
            let create = |target| request(target, Verb::Create { image_bytes: 4096 });
            let requests: Vec<Request> = targets.iter().map(create).collect();
            forget(targets);
            requests
        };
        bencher.iter_batched(
            make,
            |requests| serve_all(&shared, requests),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("fork", |bencher| {
        let make = || {
            forget(branches(&origin));
            (0..BIRTH_COUNT).map(|n| named_fork(&origin, n)).collect()
        };
        forget(Vec::new());
        // The first batch ends branches that are not there yet, so they are made here.
        serve_all(&shared, (0..BIRTH_COUNT).map(|n| named_fork(&origin, n)).collect());
        before.replace(branches(&origin));
        bencher.iter_batched(
            make,
            |requests| serve_all(&shared, requests),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn serve_all(partition: &RefCell<Partition>, requests: Vec<Request>) {
    let mut partition = partition.borrow_mut();
    for request in requests {
        serve(&mut partition, request);
    }
}

fn named_fork(parent: &Target, n: u64) -> Request {
    let suffix = Some(Bytes::from(n.to_string()));
    request(parent, Verb::Fork { count: 1, at: None, suffix, keep_timers: false })
}

fn branches(parent: &Target) -> Vec<Target> {
    let Target::Agent { key, tenant, .. } = parent else { return Vec::new() };
    let branch = |n: u64| key.branch(&n.to_string()).expect("a good key");
    (0..BIRTH_COUNT).map(|n| Target::agent(*tenant, branch(n))).collect()
}

criterion_group!(benches, messages, births);
criterion_main!(benches);
