//! Agents that together are larger than the arena: they go to the log only, and come back.

// The other tests use other parts of it.
#[allow(dead_code)]
#[path = "partition/world.rs"]
mod world;

use bytes::Bytes;
use heronry_engine::*;
use world::*;

const ARENA_PAGES: usize = 64;
const IMAGE_BYTES: u64 = 30 * PAGE_BYTES as u64;

/// Makes an agent of pages that take memory, as zeros do not.
fn fill(world: &mut World, key: &str, byte: u8) {
    world.does(key, create()).expect("there is room");
    let bytes = vec![byte; IMAGE_BYTES as usize];
    world.does(key, Verb::Write { offset: 0, bytes: bytes.into() }).expect("there is room");
}

/// Reads an agent whole: what comes by the page comes whole then.
fn whole() -> Verb {
    Verb::Read { offset: 0, len_bytes: IMAGE_BYTES as u32 }
}

fn image(byte: u8) -> Answer {
    Ok(Reply::Payload(Some(vec![byte; IMAGE_BYTES as usize].into())))
}

#[test]
fn an_agent_that_does_not_fit_comes_back_in_the_place_of_others() {
    let mut world = World::with(PartitionConfig { log: true, ..config() }, ARENA_PAGES, Vec::new());
    let keys = ["notebook/a", "notebook/b", "notebook/c", "notebook/d"];
    for (byte, key) in (1..).zip(keys) {
        fill(&mut world, key, byte);
        for _ in 0..2 {
            world.flush();
            world.partition.make_room(world.now, 0, 1_000);
        }
        assert_eq!(world.partition.used_bytes(), 0, "{key}");
    }
    for (byte, key) in (1..).zip(keys).cycle().take(12) {
        assert!(world.does(key, whole()) == image(byte), "{key}");
        world.flush();
    }
    let counters = world.partition.counters();
    assert!(counters.loads >= 12 && counters.evictions >= 12, "{counters:?}");
    // What the operator is told to do when there is no room needs none itself.
    assert!(world.partition.counters().cold > 0);
    for key in keys {
        assert_eq!(world.does(key, Verb::Terminate), Ok(Reply::Done), "{key}");
    }
    world.check();
    world.end();
}

#[test]
fn a_turn_that_needs_room_takes_that_of_idle_agents() {
    let mut world = World::with(PartitionConfig { log: true, ..config() }, ARENA_PAGES, Vec::new());
    for (byte, key) in (1..).zip(["notebook/a", "notebook/b", "notebook/c", "notebook/d"]) {
        fill(&mut world, key, byte);
        // On disk as they are, and all in memory as far as there is room.
        world.flush();
    }
    assert!(world.partition.counters().evictions >= 2, "{:?}", world.partition.counters());
    world.does("counter/e", Verb::Create { image_bytes: IMAGE_BYTES }).expect("there is room");
    for (byte, key) in (1..).zip(["notebook/a", "notebook/b", "notebook/c", "notebook/d"]) {
        assert!(world.does(key, whole()) == image(byte), "{key}");
        world.flush();
    }
    world.check();
}

/// Panics at every message.
struct Fragile;

impl Behaviour for Fragile {
    fn name(&self) -> &str {
        "fragile"
    }

    fn summary(&self) -> &str {
        "panics"
    }

    fn on_message(&self, _turn: &mut Turn<'_>, _message: &Bytes) -> Result<(), Fault> {
        panic!("on purpose")
    }
}

#[test]
fn an_agent_that_panicked_long_ago_goes_to_disk_too() {
    let config = PartitionConfig { log: true, ..config() };
    let mut world = World::with(config.clone(), ARENA_PAGES, vec![&Fragile]);
    world.does("fragile/a", create()).expect("there is room");
    assert_eq!(world.says("fragile/a", "x"), "FAULT");
    let evict = |world: &mut World| {
        for _ in 0..2 {
            world.flush();
            world.partition.make_room(world.now, 0, 1_000);
        }
        world.partition.counters().cold
    };
    // An empty image takes no room.
    let bytes = Bytes::from_static(b"x");
    world.does("fragile/a", Verb::Write { offset: 0, bytes }).expect("written");
    assert_eq!(evict(&mut world), 0, "the panic counts towards a quarantine");
    world.now = world.now.after(config.quarantine_window).after(Nanos::from_ms(1));
    assert_eq!(evict(&mut world), 1);
    world.check();
}

#[test]
fn j2_the_end_of_an_agent_on_disk_is_on_disk_before_it_is_answered() {
    let mut world = World::with(PartitionConfig { log: true, ..config() }, ARENA_PAGES, Vec::new());
    world.says("notebook/a", "append a");
    for _ in 0..2 {
        world.flush();
        world.partition.make_room(world.now, 0, 1_000);
    }
    assert_eq!(world.partition.counters().cold, 1);
    let ended = world.ask_with("notebook/a", Verb::Terminate, None, Ack::Durable);
    world.pump();
    assert!(world.peek(ended).is_none(), "it waits for the disk");
    world.flush();
    assert_eq!(world.take(ended), Ok(Reply::Done));
    world.end();
}

#[test]
fn one_that_is_larger_than_the_arena_is_refused_and_stays_on_disk() {
    let config = PartitionConfig { log: true, ..config() };
    let mut world = World::with(config.clone(), ARENA_PAGES, Vec::new());
    fill(&mut world, "notebook/a", 7);
    world.flush();
    world.restart(config.clone(), ARENA_PAGES / 4, Vec::new());
    // A part of it fits.
    let read = world.does("notebook/a", Verb::Read { offset: IMAGE_BYTES - 1, len_bytes: 1 });
    assert_eq!(read, Ok(Reply::Payload(Some(vec![7].into()))));
    assert_eq!(world.refused("notebook/a", whole()), "FULL");
    world.check();
    world.restart(config, ARENA_PAGES, Vec::new());
    assert!(world.does("notebook/a", whole()) == image(7));
    world.end();
}
