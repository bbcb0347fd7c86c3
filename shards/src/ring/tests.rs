//! Property tests of one ring: any sequence of records, and any damage.
//!
//! Owns: the properties R1, R2, R3 on one thread.  Not: interleavings (`model`).
//! R1  what a reader takes is what was written, in order, across the ring's end.
//! R3  after any damage a few rounds bring both sides together again.

use super::{Look, Next, Push, Reader, Ring, RingHead, Tag, Writer};
use crate::sync::{AtomicU64, Ordering};
use proptest::prelude::*;
use std::collections::VecDeque;

const TAG: Tag = Tag { first: true, last: true, to_generation: 3, from_generation: 200 };

struct Memory {
    head: RingHead,
    words: Vec<AtomicU64>,
}

impl Memory {
    fn new(word_count: usize) -> Memory {
        let words = (0..word_count).map(|_| AtomicU64::new(0)).collect();
        Memory { head: RingHead::default(), words }
    }

    fn ring(&self) -> Ring<'_> {
        Ring::new(&self.head, &self.words)
    }

    /// All shared words, indices first.
    fn cells(&self) -> Vec<&AtomicU64> {
        let RingHead { writer, reader } = &self.head;
        [&writer.tail, &writer.starved, &reader.head].into_iter().chain(&self.words).collect()
    }
}

/// Reads all there is; the payloads, and how often something was corrupt.
fn drain(ring: Ring<'_>, reader: &mut Reader) -> (Vec<Vec<u8>>, usize) {
    let (mut payloads, mut corrupt) = (Vec::new(), 0);
    if reader.look(ring) == Look::Corrupt {
        corrupt += 1;
    }
    loop {
        match reader.next(ring) {
            Next::End => break,
            Next::Corrupt => corrupt += 1,
            Next::Record(record) => {
                let mut out = Vec::new();
                reader.take(ring, record, &mut out);
                assert_eq!(out.len(), record.len_bytes);
                payloads.push(out);
            }
        }
    }
    reader.release(ring);
    (payloads, corrupt)
}

fn payload(seed: u8, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|i| seed.wrapping_add(i as u8)).collect()
}

proptest! {
    #[test]
    fn r1_any_sequence_arrives_whole_and_in_order(
        start in any::<u64>(),
        steps in prop::collection::vec((0usize..=120, any::<bool>(), any::<bool>()), 1..200),
    ) {
        let memory = Memory::new(64);
        let ring = memory.ring();
        // Positions begin anywhere, so that they also pass the end of u64.
        memory.head.writer.tail.store(start, Ordering::Relaxed);
        memory.head.reader.head.store(start, Ordering::Relaxed);
        let (mut writer, mut reader) = (Writer::attach(ring), Reader::attach(ring));
        let (mut expected, mut published) = (VecDeque::new(), 0);
        for (seed, (len, publish, read)) in steps.into_iter().enumerate() {
            let bytes = payload(seed as u8, len);
            match writer.push(ring, TAG, &bytes) {
                Push::Done => expected.push_back(bytes),
                Push::Full => published = expected.len(),
                Push::Reset => prop_assert!(false, "reset without damage"),
            }
            if publish {
                writer.publish(ring);
                published = expected.len();
            }
            if read {
                let (payloads, corrupt) = drain(ring, &mut reader);
                prop_assert_eq!(corrupt, 0);
                published = published.saturating_sub(payloads.len());
                for bytes in payloads {
                    prop_assert_eq!(Some(bytes), expected.pop_front());
                }
                prop_assert_eq!(published, 0, "R1: published records were not read");
            }
        }
        writer.publish(ring);
        let (payloads, corrupt) = drain(ring, &mut reader);
        prop_assert_eq!((payloads, corrupt), (Vec::from(expected), 0));
    }

    #[test]
    fn r3_any_damage_heals(
        before in 0usize..8,
        unread in 0usize..8,
        damage in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<u64>(), 0u8..3), 1..80),
        rounds_of in any::<bool>(),
    ) {
        let memory = Memory::new(64);
        let ring = memory.ring();
        let (mut writer, mut reader) = (Writer::attach(ring), Reader::attach(ring));
        for seed in 0..before {
            writer.push(ring, TAG, &payload(seed as u8, seed * 7));
            writer.publish(ring);
            drain(ring, &mut reader);
        }
        for seed in 0..unread {
            writer.push(ring, TAG, &payload(seed as u8, seed * 9));
        }
        writer.publish(ring);
        for (place, bits, how) in &damage {
            let cells = memory.cells();
            // The indices are hit as often as the many words.
            let cell = if *how == 0 { cells[place.index(3)] } else { place.get(&cells) };
            let old = cell.load(Ordering::Relaxed);
            let near = old.wrapping_add(bits % 97).wrapping_sub(48);
            cell.store(if *how == 1 { near } else { *bits }, Ordering::Relaxed);
        }
        // What the mesh does in each pass: the reader looks, alarms, heals; the writer verifies.
        for _ in 0..4 {
            if rounds_of {
                writer.push(ring, TAG, b"lost, or not");
                writer.publish(ring);
            }
            drain(ring, &mut reader);
            reader.heal(ring);
            writer.verify(ring);
        }
        drain(ring, &mut reader);
        for seed in 0..40u8 {
            let bytes = payload(seed, usize::from(seed) * 3);
            prop_assert_eq!(writer.push(ring, TAG, &bytes), Push::Done);
            writer.publish(ring);
            prop_assert_eq!(drain(ring, &mut reader), (vec![bytes], 0));
        }
    }
}

#[test]
fn r1_staged_records_are_invisible_until_published() {
    let memory = Memory::new(64);
    let ring = memory.ring();
    let (mut writer, mut reader) = (Writer::attach(ring), Reader::attach(ring));
    assert_eq!(writer.push(ring, TAG, b"one"), Push::Done);
    assert_eq!(writer.push(ring, TAG, b"two"), Push::Done);
    assert!(!reader.has_news(ring));
    assert_eq!(reader.look(ring), Look::Empty);
    assert!(writer.publish(ring));
    assert!(!writer.publish(ring));
    assert_eq!(drain(ring, &mut reader).0, [b"one", b"two"]);
}

#[test]
fn r2_a_full_ring_refuses_and_takes_again_after_reading() {
    let memory = Memory::new(8);
    let ring = memory.ring();
    let (mut writer, mut reader) = (Writer::attach(ring), Reader::attach(ring));
    for seed in 0..4u8 {
        assert_eq!(writer.push(ring, TAG, &[seed]), Push::Done);
    }
    assert_eq!(writer.push(ring, TAG, &[4]), Push::Full);
    assert!(!writer.has_room(ring, 1));
    assert_eq!(drain(ring, &mut reader).0.len(), 4, "a full ring is published at once");
    assert!(writer.has_room(ring, 1));
    assert_eq!(writer.push(ring, TAG, &[4]), Push::Done);
}

#[test]
fn r2_a_new_reader_discards_and_a_new_writer_goes_on() {
    let memory = Memory::new(64);
    let ring = memory.ring();
    let mut writer = Writer::attach(ring);
    writer.push(ring, TAG, b"to the old life");
    writer.publish(ring);
    writer.push(ring, TAG, b"staged, lost with its writer");
    let mut reader = Reader::attach(ring);
    assert_eq!(drain(ring, &mut reader), (vec![], 0));
    let mut writer = Writer::attach(ring);
    writer.push(ring, TAG, b"new");
    writer.publish(ring);
    assert_eq!(drain(ring, &mut reader), (vec![b"new".to_vec()], 0));
}
