//! Tests of the mesh between shards on one thread.
//!
//! Owns: the properties M1 to M5 and damage.  Not: real threads and sleeps (`tests/torture.rs`).
//! M1  any sequence of messages arrives whole and in order, whatever their lengths.

use super::{MESSAGE_BYTES_MAX, Mesh, MeshError, Urgency};
use crate::control::ShardState;
use crate::counters::Counter;
use crate::shared::{ShardPlan, Shared};
use heronry_engine::ShardId;
use proptest::prelude::*;
use std::sync::Arc;

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

fn shared(shard_count: u16) -> Arc<Shared> {
    Arc::new(Shared::create(ShardPlan { shard_count, ring_bytes: 4096 }).unwrap())
}

fn attach(shared: &Arc<Shared>, me: ShardId) -> Mesh {
    let mesh = Mesh::attach(Arc::clone(shared), me);
    shared.set_state(me, ShardState::Up);
    mesh
}

fn pair() -> (Mesh, Mesh) {
    let shared = shared(2);
    (attach(&shared, A), attach(&shared, B))
}

/// One loop pass; what arrived.
fn pass(mesh: &mut Mesh) -> Vec<(ShardId, Vec<u8>)> {
    let mut arrived = Vec::new();
    mesh.changed_peers().for_each(drop);
    mesh.receive(&mut |from, bytes| arrived.push((from, bytes.to_vec())));
    mesh.publish(&mut |_| {});
    arrived
}

/// Passes of both until nothing moves; what arrived at `to`.
fn settle(from: &mut Mesh, to: &mut Mesh) -> Vec<Vec<u8>> {
    let mut arrived = Vec::new();
    loop {
        pass(from);
        let news = pass(to);
        let done = news.is_empty() && from.backlog_bytes(to.me()) == 0;
        arrived.extend(news.into_iter().map(|(_, bytes)| bytes));
        if done {
            return arrived;
        }
    }
}

fn message(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len_bytes).map(step).collect()
}

fn resets(mesh: &Mesh) -> u64 {
    mesh.shared().counters(mesh.me()).get(Counter::MeshResets)
}

proptest! {
    #[test]
    fn m1_any_sequence_arrives_whole_and_in_order(
        lens in prop::collection::vec(
            prop_oneof![0usize..200, 900usize..1100, 0usize..20_000, Just(70_000)], 1..40),
        passes in prop::collection::vec(0u8..3, 40),
    ) {
        let (mut a, mut b) = pair();
        let (mut sent, mut arrived) = (Vec::new(), Vec::new());
        for (seed, (len, passes)) in lens.into_iter().zip(passes).enumerate() {
            let bytes = message(seed as u64, len);
            pass(&mut a);
            if a.send(B, &bytes, Urgency::Answer).is_ok() {
                sent.push(bytes);
            }
            if passes > 0 {
                a.publish(&mut |_| {});
            }
            if passes > 1 {
                arrived.extend(pass(&mut b).into_iter().map(|(_, bytes)| bytes));
            }
        }
        arrived.extend(settle(&mut a, &mut b));
        prop_assert!(sent == arrived);
        prop_assert_eq!(resets(&a) + resets(&b), 0);
        prop_assert!(a.announce_park() && b.announce_park());
    }

    #[test]
    fn r3_damaged_rings_cost_messages_but_no_panic_and_heal(
        sizes in prop::collection::vec(0usize..6_000, 0..12),
        damage in prop::collection::vec((0usize..100, any::<u64>()), 1..60),
        wide in any::<bool>(),
    ) {
        let (mut a, mut b) = pair();
        pass(&mut a);
        for (seed, len) in sizes.iter().enumerate() {
            a.send(B, &message(seed as u64, *len), Urgency::Answer).unwrap();
            if seed % 3 == 1 {
                a.publish(&mut |_| {});
            }
        }
        a.publish(&mut |_| {});
        let shared = Arc::clone(a.shared());
        let ring = shared.ring(A, B);
        let mut state = 1;
        for (place, bits) in damage {
            state ^= bits;
            let (place, bits) = if wide { (place * 7, state) } else { (place % 8, bits) };
            ring.scribble(place, bits);
        }
        for _ in 0..6 {
            pass(&mut a);
            pass(&mut b);
            // What a sleepless loop does before it would sleep.
            let _ = (a.announce_park(), b.announce_park());
            a.unpark();
            b.unpark();
        }
        settle(&mut a, &mut b);
        for (seed, len) in [0, 10, 3_000, 9_000].into_iter().enumerate() {
            let bytes = message(seed as u64, len);
            a.send(B, &bytes, Urgency::Request).unwrap();
            prop_assert_eq!(settle(&mut a, &mut b), vec![bytes]);
        }
        prop_assert!(a.announce_park() && b.announce_park());
    }
}

#[test]
fn m1_the_longest_message_passes_and_a_longer_one_is_refused() {
    let shared =
        Arc::new(Shared::create(ShardPlan { shard_count: 2, ring_bytes: 1 << 20 }).unwrap());
    let (mut a, mut b) = (attach(&shared, A), attach(&shared, B));
    pass(&mut a);
    let longest = vec![7; MESSAGE_BYTES_MAX];
    a.send(B, &longest, Urgency::Request).unwrap();
    assert_eq!(settle(&mut a, &mut b), [longest]);
    let longer = vec![7; MESSAGE_BYTES_MAX + 1];
    let refused = a.send(B, &longer, Urgency::Request);
    assert_eq!(refused, Err(MeshError::TooLong { len_bytes: MESSAGE_BYTES_MAX + 1 }));
}

#[test]
fn m1_a_shard_reaches_itself_and_every_peer() {
    let shared = shared(5);
    let mut meshes: Vec<Mesh> = shared.shards().map(|me| attach(&shared, me)).collect();
    meshes.iter_mut().for_each(|mesh| drop(pass(mesh)));
    for mesh in &mut meshes {
        for to in shared.shards() {
            mesh.send(to, &[mesh.me().0 as u8, to.0 as u8], Urgency::Request).unwrap();
        }
        mesh.publish(&mut |to| panic!("nobody sleeps, but {to:?} was rung"));
    }
    for mesh in &mut meshes {
        let expected: Vec<_> =
            shared.shards().map(|from| (from, vec![from.0 as u8, mesh.me().0 as u8])).collect();
        assert_eq!(pass(mesh), expected);
    }
}

#[test]
fn m2_a_restarted_shard_discards_what_was_queued_to_it() {
    let (mut a, mut b) = pair();
    pass(&mut a);
    a.send(B, &message(1, 9_000), Urgency::Request).unwrap();
    a.publish(&mut |_| {});
    assert_eq!(pass(&mut b), [], "half a message is none");
    let shared = Arc::clone(b.shared());
    drop(b);
    shared.set_state(B, ShardState::Down);
    let mut b = attach(&shared, B);
    assert_eq!(b.generation(), 2);
    // The writer does not know yet: what it sends is for the old generation.
    pass(&mut b);
    let changes: Vec<_> = a.changed_peers().map(|(peer, now)| (peer, now.generation)).collect();
    assert_eq!(changes, [(B, 2)]);
    assert_eq!(a.backlog_bytes(B), 0, "the backlog for the old generation is gone");
    a.send(B, b"new", Urgency::Request).unwrap();
    assert_eq!(settle(&mut a, &mut b), [b"new"]);
    assert_eq!(resets(&a) + resets(&b), 0);
}

#[test]
fn m3_a_new_generation_is_told_before_its_messages_and_ends_the_old_ones() {
    let (mut a, mut b) = pair();
    pass(&mut a);
    pass(&mut b);
    a.send(B, b"old, whole", Urgency::Request).unwrap();
    a.send(B, &message(1, 9_000), Urgency::Request).unwrap();
    a.publish(&mut |_| {});
    let shared = Arc::clone(a.shared());
    drop(a);
    let mut arrived = Vec::new();
    b.receive(&mut |_, bytes| arrived.push(bytes.to_vec()));
    assert_eq!(arrived, [b"old, whole"], "what was whole arrives while the old life lasts");
    let mut a = attach(&shared, A);
    a.changed_peers().for_each(drop);
    a.send(B, b"new", Urgency::Request).unwrap();
    a.publish(&mut |_| {});
    assert_eq!(b.receive(&mut |_, _| panic!("M3: before the change was told")), 0);
    assert!(!b.announce_park(), "an untold change keeps a shard awake");
    assert_eq!(b.changed_peers().count(), 1);
    assert_eq!(pass(&mut b), [(A, b"new".to_vec())]);
}

#[test]
fn m4_requests_are_refused_when_a_peer_is_behind_and_answers_are_not() {
    let (mut a, mut b) = pair();
    pass(&mut a);
    let bytes = message(1, 500);
    let mut taken = 0;
    let refusal = loop {
        match a.send(B, &bytes, Urgency::Request) {
            Ok(()) => taken += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refusal, MeshError::Full { to: B, backlog_bytes_max: 4096, .. }));
    assert!((14..=17).contains(&taken), "a ring and a backlog of its length took {taken}");
    for _ in 0..100 {
        a.send(B, &bytes, Urgency::Answer).unwrap();
    }
    assert_eq!(settle(&mut a, &mut b).len(), taken + 100);
    assert_eq!(a.send(B, &bytes, Urgency::Request), Ok(()));
}

#[test]
fn m4_a_peer_that_does_not_serve_is_refused() {
    let shared = shared(2);
    let mut a = attach(&shared, A);
    for state in [ShardState::Empty, ShardState::Starting, ShardState::Down] {
        shared.set_state(B, state);
        assert_eq!(a.send(B, b"x", Urgency::Answer), Err(MeshError::Down { to: B, state }));
    }
}

#[test]
fn m5_bells_ring_once_and_only_for_sleepers() {
    let (mut a, mut b) = pair();
    pass(&mut a);
    pass(&mut b);
    let mut rung = Vec::new();
    a.send(B, b"1", Urgency::Request).unwrap();
    assert!(!a.announce_park(), "M5: unpublished messages keep a shard awake");
    a.publish(&mut |to| rung.push(to));
    assert!(!b.announce_park(), "M5: unread messages keep a shard awake");
    assert_eq!(pass(&mut b).len(), 1);
    assert!(b.announce_park());
    for text in [b"2", b"3"] {
        a.send(B, text, Urgency::Request).unwrap();
        a.publish(&mut |to| rung.push(to));
    }
    assert_eq!(rung, [B], "one bell for a sleeper, none for a waking one");
    b.unpark();
    assert_eq!(pass(&mut b).len(), 2);
}

#[test]
fn m5_a_sleeping_writer_is_rung_for_room_and_not_for_every_read() {
    let (mut a, mut b) = pair();
    pass(&mut a);
    pass(&mut b);
    a.send(B, b"fits", Urgency::Request).unwrap();
    a.publish(&mut |_| {});
    assert!(a.announce_park());
    b.receive(&mut |_, _| {});
    b.publish(&mut |to| panic!("{to:?} waits for nothing"));
    a.unpark();
    a.send(B, &message(1, 9_000), Urgency::Request).unwrap();
    a.publish(&mut |_| {});
    assert!(a.announce_park(), "no room: sleep until there is");
    b.receive(&mut |_, _| {});
    assert!(!b.announce_park(), "M5: room that was not given back yet");
    let mut rung = Vec::new();
    b.publish(&mut |to| rung.push(to));
    assert_eq!(rung, [A]);
    a.unpark();
    assert!(!a.announce_park() || a.backlog_bytes(B) == 0);
    a.unpark();
    assert_eq!(settle(&mut a, &mut b), [message(1, 9_000)]);
}

#[test]
fn m5_a_change_of_state_keeps_a_shard_awake_until_it_is_told() {
    let (mut a, mut b) = pair();
    pass(&mut a);
    pass(&mut b);
    assert!(a.announce_park());
    a.unpark();
    b.shared().set_state(B, ShardState::Stopping);
    assert!(!a.announce_park());
    let told: Vec<_> = a.changed_peers().map(|(peer, now)| (peer, now.state)).collect();
    assert_eq!(told, [(B, ShardState::Stopping)]);
    assert!(a.announce_park());
}

#[test]
fn r3_a_ring_whose_writer_died_damaged_does_not_keep_its_reader_awake() {
    let (mut a, mut b) = pair();
    pass(&mut a);
    pass(&mut b);
    let shared = Arc::clone(a.shared());
    drop(a);
    shared.ring(A, B).scribble(0, u64::MAX / 3);
    pass(&mut b);
    assert_eq!(resets(&b), 1);
    assert!(b.announce_park(), "the damage is known and told once");
    b.unpark();
    pass(&mut b);
    assert_eq!(resets(&b), 1);
    let mut a = attach(&shared, A);
    a.changed_peers().for_each(drop);
    a.send(B, b"after", Urgency::Request).unwrap();
    pass(&mut b);
    assert_eq!(settle(&mut a, &mut b), [b"after"]);
}
