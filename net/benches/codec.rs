//! Micro-benchmarks of the hot path: bytes to ask, reply to bytes, and the codec alone.
//!
//! Owns: the cases. Each iteration is a pipeline of 16 commands, its throughput counts commands.
//! Not: sockets; `heronry bench` measures those.

#[path = "../tests/fake/node.rs"]
mod node;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use heronry_engine::Reply;
use heronry_net::resp::encode::encode_request;
use heronry_net::resp::{ReplyDecoder, RequestDecoder, RequestLimits};
use heronry_net::{Resp, RespConfig};
use heronry_shards::gateway::{Ask, Gateway};
use node::{FakeNode, key};
use std::hint::black_box;

const DEPTH: usize = 16;

fn sends(payload_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..DEPTH {
        let key = format!("counter/{n:012}");
        encode_request(&mut bytes, &[b"AGENT.SEND", key.as_bytes(), &vec![b'1'; payload_bytes]]);
    }
    bytes
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(DEPTH as u64));
    let limits = RequestLimits::for_payload(8 << 20);
    for payload_bytes in [1, 100, 4096] {
        let bytes = sends(payload_bytes);
        let mut decoder = RequestDecoder::default();
        group.bench_function(format!("request/{payload_bytes}"), |bencher| {
            bencher.iter(|| {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let step = decoder.decode(black_box(rest), &limits).expect("well formed");
                    black_box(decoder.args(rest).count());
                    rest = &rest[step.consumed..];
                }
            });
        });
    }
    let replies = b"$3\r\n123\r\n".repeat(DEPTH);
    let mut decoder = ReplyDecoder::default();
    group.bench_function("reply/3", |bencher| {
        bencher.iter(|| {
            decoder.push(black_box(&replies));
            while let Some(value) = decoder.next_reply().expect("well formed") {
                black_box(value);
            }
        });
    });
    group.finish();
}

fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Elements(DEPTH as u64));
    let node = FakeNode { shard_count: 2 };
    for payload_bytes in [1, 100] {
        let bytes = sends(payload_bytes);
        let mut gateway = Resp::new(RespConfig::default());
        let mut session = gateway.open();
        let mut asks: Vec<Ask> = Vec::with_capacity(DEPTH);
        let reply = Reply::Payload(Some(Bytes::from(vec![b'2'; payload_bytes])));
        group.bench_function(format!("send_to_ask_to_output/{payload_bytes}"), |bencher| {
            bencher.iter(|| {
                gateway.receive(&mut session, black_box(&bytes), &node, &mut asks);
                for ask in asks.drain(..) {
                    gateway.answer(&mut session, ask.seq, Ok(reply.clone()));
                }
                black_box(gateway.output(&mut session)).clear();
            });
        });
    }
    group.finish();
}

/// Replies alone: the asks are made outside the measured part.
fn answers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("answer");
    group.throughput(Throughput::Elements(DEPTH as u64));
    let node = FakeNode { shard_count: 2 };
    let bytes = sends(1);
    for (name, reversed) in [("in_order", false), ("reversed", true)] {
        let gateway = std::cell::RefCell::new(Resp::new(RespConfig::default()));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    let mut gateway = gateway.borrow_mut();
                    let mut session = gateway.open();
                    gateway.output(&mut session).reserve(4096);
                    let mut asks = Vec::new();
                    gateway.receive(&mut session, &bytes, &node, &mut asks);
                    let mut seqs: Vec<u64> = asks.iter().map(|ask| ask.seq).collect();
                    if reversed {
                        seqs.reverse();
                    }
                    let reply = || Ok(Reply::Payload(Some(Bytes::from_static(b"12"))));
                    (session, seqs.into_iter().map(|seq| (seq, reply())).collect::<Vec<_>>())
                },
                |(mut session, answers)| {
                    let mut gateway = gateway.borrow_mut();
                    for (seq, reply) in answers {
                        gateway.answer(&mut session, seq, reply);
                    }
                    session
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// What of the way to an ask is the hash of the key.
fn hash(criterion: &mut Criterion) {
    let key = key("counter/000000000007");
    criterion.bench_function("key_id", |bencher| {
        bencher.iter(|| black_box(&key).id(heronry_engine::TenantId(0)));
    });
}

criterion_group!(benches, decode, session, answers, hash);
criterion_main!(benches);
