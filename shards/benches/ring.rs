//! Criterion: one ring record, one mesh message, a spinning round trip, a roster append, a
//! histogram record.
//!
//! Owns: the cost of each step of a hop on one machine.  Not: the hop between processes and its
//! sleeps, which `heronry bench hop` measures.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use heronry_engine::{AgentKey, ShardId, TenantId};
use heronry_shards::control::ShardState;
use heronry_shards::mesh::{Mesh, Urgency};
use heronry_shards::ring::{Look, Next, Reader, Ring, RingHead, Tag, Writer};
use heronry_shards::roster::Roster;
use heronry_shards::shared::{ShardPlan, Shared};
use heronry_shards::sync::AtomicU64;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

fn shared() -> Arc<Shared> {
    let plan = ShardPlan { shard_count: 2, ring_bytes: 1 << 20 };
    Arc::new(Shared::create(plan).expect("room for two shards"))
}

fn attach(shared: &Arc<Shared>, me: ShardId) -> Mesh {
    let mesh = Mesh::attach(Arc::clone(shared), me);
    shared.set_state(me, ShardState::Up);
    mesh
}

fn record(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring_push_pop");
    for len_bytes in [16usize, 100, 1024] {
        let head = RingHead::default();
        let words: Vec<AtomicU64> = (0..1 << 17).map(|_| AtomicU64::new(0)).collect();
        let ring = Ring::new(&head, &words);
        let (mut writer, mut reader) = (Writer::attach(ring), Reader::attach(ring));
        let tag = Tag { first: true, last: true, to_generation: 1, from_generation: 1 };
        let (payload, mut out) = (vec![7; len_bytes], Vec::new());
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(len_bytes), |bench| {
            bench.iter(|| {
                black_box(writer.push(ring, tag, black_box(&payload)));
                writer.publish(ring);
                assert_eq!(reader.look(ring), Look::Ready);
                if let Next::Record(record) = reader.next(ring) {
                    out.clear();
                    reader.take(ring, record, &mut out);
                }
                reader.release(ring);
                black_box(&out);
            });
        });
    }
    group.finish();
}

/// A batch of messages through the mesh, both ends on one thread.
fn batch(c: &mut Criterion) {
    let shared = shared();
    let (mut a, mut b) = (attach(&shared, A), attach(&shared, B));
    a.changed_peers().for_each(drop);
    b.changed_peers().for_each(drop);
    let mut group = c.benchmark_group("mesh_message");
    for batch in [1u64, 32] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::new("batch", batch), |bench| {
            bench.iter(|| {
                for _ in 0..batch {
                    a.send(B, black_box(&[7; 100]), Urgency::Request).expect("an empty ring");
                }
                a.publish(&mut |_| {});
                b.receive(&mut |_, bytes| {
                    black_box(bytes);
                });
                b.publish(&mut |_| {});
            });
        });
    }
    group.finish();
}

/// There and back between two threads that spin.
fn round_trip(c: &mut Criterion) {
    let shared = shared();
    let mut a = attach(&shared, A);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let mut b = attach(&shared, B);
            while !stop.load(Ordering::Relaxed) {
                b.changed_peers().for_each(drop);
                let mut count = 0;
                b.receive(&mut |_, _| count += 1);
                for _ in 0..count {
                    b.send(A, &[7; 100], Urgency::Answer).expect("a peer that is up");
                }
                b.publish(&mut |_| {});
            }
        });
        while a.peer(B).state != ShardState::Up {
            a.changed_peers().for_each(drop);
            std::thread::yield_now();
        }
        c.bench_function("mesh_round_trip_spinning", |bench| {
            bench.iter(|| {
                a.changed_peers().for_each(drop);
                a.send(B, black_box(&[7; 100]), Urgency::Request).expect("an empty ring");
                a.publish(&mut |_| {});
                let mut count = 0;
                while count == 0 {
                    a.receive(&mut |_, _| count += 1);
                    std::hint::spin_loop();
                }
            });
        });
        stop.store(true, Ordering::Relaxed);
        echo.join().expect("the echo thread ends");
    });
}

fn append(c: &mut Criterion) {
    let keys: Vec<AgentKey> =
        (0..1000).map(|n| format!("notebook/{n}").parse().expect("a good key")).collect();
    let mut roster = Roster::create("bench").expect("a memfd");
    let mut turn = 0;
    c.bench_function("roster_append", |bench| {
        bench.iter(|| {
            turn += 1;
            roster.born(TenantId(0), &keys[turn % keys.len()]).expect("room");
            if roster.len_bytes() > 64 << 20 {
                roster.compact(keys.iter().map(|key| (TenantId(0), key))).expect("room");
            }
        });
    });
}

fn latency(c: &mut Criterion) {
    let shared = shared();
    let block = shared.turn_hist(A);
    let mut value = 1u64;
    c.bench_function("histogram_record", |bench| {
        bench.iter(|| {
            value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            block.record(black_box(value >> 44));
        });
    });
}

criterion_group!(benches, record, batch, round_trip, append, latency);
criterion_main!(benches);
