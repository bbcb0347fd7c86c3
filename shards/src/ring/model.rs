//! Loom models of the ring and of the park handshake: every interleaving within the bounds.
//!
//! Owns: the models.  Not: sizes and sequences beyond a few records; `tests` tries those.
//! R1  what a reader takes is what was written, in order, across the ring's end.
//! R4  a sleeper with work or room is always woken: loom reports a lost wake-up as a deadlock.

use super::{Look, Next, ParkFlag, Push, Reader, Ring, RingHead, Tag, Writer, barrier};
use crate::sync::AtomicU64;
use ::loom::sync::{Arc, Condvar, Mutex};
use ::loom::thread;

const TAG: Tag = Tag { first: true, last: true, to_generation: 1, from_generation: 1 };
const WORD_COUNT: usize = 8;

/// One ring, a flag and an eventfd per side.
struct World {
    head: RingHead,
    words: Vec<AtomicU64>,
    writer_flag: ParkFlag,
    reader_flag: ParkFlag,
    writer_bell: Bell,
    reader_bell: Bell,
}

/// An eventfd: a count that a wait takes.
struct Bell {
    count: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    fn new() -> Bell {
        Bell { count: Mutex::new(0), rung: Condvar::new() }
    }

    fn ring(&self) {
        *self.count.lock().unwrap() += 1;
        self.rung.notify_one();
    }

    fn wait(&self) {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.rung.wait(count).unwrap();
        }
        *count = 0;
    }
}

impl World {
    fn new() -> Arc<World> {
        Arc::new(World {
            head: RingHead::default(),
            words: (0..WORD_COUNT).map(|_| AtomicU64::new(0)).collect(),
            writer_flag: ParkFlag::default(),
            reader_flag: ParkFlag::default(),
            writer_bell: Bell::new(),
            reader_bell: Bell::new(),
        })
    }

    fn ring(&self) -> Ring<'_> {
        Ring::new(&self.head, &self.words)
    }

    /// Writes `count` records, asleep while there is no room.
    fn write(&self, count: u64) {
        let mut writer = Writer::attach(self.ring());
        for value in 0..count {
            while writer.push(self.ring(), TAG, &value.to_le_bytes()) == Push::Full {
                self.writer_flag.announce();
                writer.starve(self.ring());
                barrier();
                if !writer.has_room(self.ring(), 8) {
                    self.writer_bell.wait();
                }
                self.writer_flag.clear();
            }
            writer.publish(self.ring());
            barrier();
            if self.reader_flag.claim() {
                self.reader_bell.ring();
            }
        }
    }

    /// Reads `count` records, asleep while there are none.
    fn read(&self, reader: &mut Reader, count: u64) {
        let mut expected = 0;
        while expected < count {
            if reader.look(self.ring()) == Look::Ready {
                expected = self.take_all(reader, expected);
                reader.release(self.ring());
                barrier();
                if self.ring().claim_starved() && self.writer_flag.claim() {
                    self.writer_bell.ring();
                }
                continue;
            }
            self.reader_flag.announce();
            barrier();
            if !reader.has_news(self.ring()) {
                self.reader_bell.wait();
            }
            self.reader_flag.clear();
        }
    }

    fn take_all(&self, reader: &mut Reader, mut expected: u64) -> u64 {
        loop {
            match reader.next(self.ring()) {
                Next::End => return expected,
                Next::Corrupt => panic!("R1: record {expected} is not one"),
                Next::Record(record) => {
                    let mut out = Vec::new();
                    reader.take(self.ring(), record, &mut out);
                    assert_eq!(out, expected.to_le_bytes(), "R1: order and content");
                    expected += 1;
                }
            }
        }
    }
}

fn check(preemption_bound: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(preemption_bound);
    builder.max_branches = 10_000;
    builder.check(model);
}

#[test]
fn r1_records_arrive_whole_and_in_order() {
    check(4, || {
        let world = World::new();
        let mut reader = Reader::attach(world.ring());
        let other = Arc::clone(&world);
        let writer = thread::spawn(move || {
            let mut writer = Writer::attach(other.ring());
            for value in 0..3u64 {
                assert_eq!(writer.push(other.ring(), TAG, &value.to_le_bytes()), Push::Done);
                if value > 0 {
                    writer.publish(other.ring());
                }
            }
        });
        let mut expected = 0;
        while expected < 3 {
            if reader.look(world.ring()) == Look::Ready {
                expected = world.take_all(&mut reader, expected);
            } else {
                thread::yield_now();
            }
        }
        writer.join().unwrap();
    });
}

#[test]
fn r4_sleeping_reader_is_woken() {
    check(4, || {
        let world = World::new();
        let mut reader = Reader::attach(world.ring());
        let other = Arc::clone(&world);
        let writer = thread::spawn(move || other.write(2));
        world.read(&mut reader, 2);
        writer.join().unwrap();
    });
}

#[test]
fn r4_sleeping_writer_and_reader_wake_each_other_across_the_rings_end() {
    // Four records of two words fill the ring; the fifth and sixth reuse words.
    check(3, || {
        let world = World::new();
        let mut reader = Reader::attach(world.ring());
        let other = Arc::clone(&world);
        let writer = thread::spawn(move || other.write(6));
        world.read(&mut reader, 6);
        writer.join().unwrap();
    });
}

#[test]
fn r4_a_reader_of_two_rings_is_woken_by_either() {
    check(2, || {
        let (left, right) = (World::new(), World::new());
        let mut readers = [Reader::attach(left.ring()), Reader::attach(right.ring())];
        let others = [Arc::clone(&left), Arc::clone(&right)];
        // Both writers claim the flag and ring the bell of the left world.
        let writers = others.map(|other| {
            let home = Arc::clone(&left);
            thread::spawn(move || {
                let mut writer = Writer::attach(other.ring());
                assert_eq!(writer.push(other.ring(), TAG, &0u64.to_le_bytes()), Push::Done);
                writer.publish(other.ring());
                barrier();
                if home.reader_flag.claim() {
                    home.reader_bell.ring();
                }
            })
        });
        let mut count = 0;
        while count < 2 {
            let worlds = [&left, &right];
            for (world, reader) in worlds.into_iter().zip(&mut readers) {
                if reader.look(world.ring()) == Look::Ready {
                    count += world.take_all(reader, 0);
                }
            }
            if count < 2 {
                left.reader_flag.announce();
                barrier();
                let mut pairs = worlds.into_iter().zip(&readers);
                if !pairs.any(|(world, reader)| reader.has_news(world.ring())) {
                    left.reader_bell.wait();
                }
                left.reader_flag.clear();
            }
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
}
