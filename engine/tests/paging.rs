//! Agents that come back from the log by the page: what is read, and what is the same as ever.

// The other tests use other parts of it.
#[allow(dead_code)]
#[path = "partition/world.rs"]
mod world;

use bytes::Bytes;
use heronry_engine::*;
use world::*;

const PAGE: u64 = PAGE_BYTES as u64;
/// Pages of an agent here.
const PAGE_COUNT: u64 = 30;
const KEY: &str = "notebook/a";

fn logged() -> World {
    World::with(PartitionConfig { log: true, ..config() }, 1024, Vec::new())
}

/// What page `page` of an agent is filled with.
fn fill(page: u64) -> Vec<u8> {
    (0..PAGE).map(|at| (page * 7 + at % 251) as u8).collect()
}

fn write(offset: u64, bytes: Vec<u8>) -> Verb {
    Verb::Write { offset, bytes: bytes.into() }
}

/// Sends all agents to the log only.
fn evict(world: &mut World) {
    for _ in 0..3 {
        world.flush();
        world.partition.make_room(world.now, 0, 1_000);
    }
    assert_eq!(world.partition.counters().cold, world.partition.counters().agents);
    assert_eq!(world.partition.used_bytes(), 0);
    world.read_bytes = 0;
}

/// An agent of many pages, in the log only.
fn large() -> World {
    let mut world = logged();
    world.does(KEY, create()).expect("there is room");
    let bytes: Vec<u8> = (0..PAGE_COUNT).flat_map(fill).collect();
    world.does(KEY, write(0, bytes)).expect("there is room");
    evict(&mut world);
    world
}

fn read(world: &mut World, key: &str, offset: u64, len: u64) -> Vec<u8> {
    match world.does(key, Verb::Read { offset, len_bytes: len as u32 }) {
        Ok(Reply::Payload(Some(bytes))) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// The whole image, which must be this.
fn expect_image(world: &mut World, key: &str, expected: &[u8]) {
    assert!(read(world, key, 0, expected.len() as u64 + 1) == expected, "the image of {key}");
    world.check();
}

fn image() -> Vec<u8> {
    (0..PAGE_COUNT).flat_map(fill).collect()
}

#[test]
fn o1_a_read_brings_the_pages_it_needs_and_no_more() {
    let mut world = large();
    assert_eq!(read(&mut world, KEY, 9 * PAGE + 5, 10), fill(9)[5..15]);
    let once = world.read_bytes;
    assert!(once < 2 * PAGE_BYTES, "{once} bytes for one page");
    assert_eq!(read(&mut world, KEY, 9 * PAGE + 100, 10), fill(9)[100..110]);
    assert_eq!(world.read_bytes, once, "it is in memory now");
    assert_eq!(read(&mut world, KEY, 3 * PAGE - 1, 2), [fill(2)[4095], fill(3)[0]]);
    assert!(world.read_bytes - once < 3 * PAGE_BYTES);
    world.check();
    expect_image(&mut world, KEY, &image());
    world.end();
}

#[test]
fn o1_a_write_keeps_the_rest_of_its_page_and_what_changed_comes_back_at_once() {
    let mut world = large();
    let mut expected = image();
    expected[5 * 4096 + 7..][..3].copy_from_slice(b"new");
    world.does(KEY, write(5 * PAGE + 7, b"new".to_vec())).expect("written");
    assert!(world.read_bytes < 2 * PAGE_BYTES, "{} bytes", world.read_bytes);
    evict(&mut world);
    assert_eq!(read(&mut world, KEY, 5 * PAGE + 6, 5), expected[5 * 4096 + 6..][..5]);
    // The record of the change, and the page that it changed.
    assert!(world.read_bytes < 2 * PAGE_BYTES, "{} bytes", world.read_bytes);
    expect_image(&mut world, KEY, &expected);
    world.restart(PartitionConfig { log: true, ..config() }, 1024, Vec::new());
    expect_image(&mut world, KEY, &expected);
    world.end();
}

#[test]
fn o3_a_turn_that_comes_upon_a_page_in_the_log_is_taken_once() {
    let mut world = logged();
    world.does(KEY, create()).expect("there is room");
    world.does(KEY, write(0, vec![0; 64 << 10])).expect("there is room");
    for slot in 0..511 {
        let text = "x".repeat(127);
        assert_ne!(world.says(KEY, &format!("set {slot} {text}")), "FAULT", "slot {slot}");
    }
    evict(&mut world);
    let before = world.info(KEY);
    world.read_bytes = 0;
    evict(&mut world);
    assert_eq!(world.says(KEY, "set 300 other"), "x".repeat(127));
    assert!(world.read_bytes < 3 * PAGE_BYTES, "{} bytes", world.read_bytes);
    let after = world.info(KEY);
    assert_eq!(after.turn_count, before.turn_count + 1);
    assert_eq!(after.failure_count, before.failure_count);
    assert_eq!(world.says(KEY, "get 300"), "other");
    assert_eq!(world.says(KEY, "get 5"), "x".repeat(127));
    world.check();
    world.end();
}

#[test]
fn o1_forks_commits_and_differences_are_of_whole_agents() {
    let mut world = large();
    let fork = Verb::Fork { count: 1, at: None, suffix: Some("b".into()), keep_timers: false };
    world.does(KEY, checkpoint("start")).expect("kept");
    evict(&mut world);
    world.does(KEY, fork).expect("forked");
    world.does("notebook/a~b", write(PAGE, b"branch".to_vec())).expect("written");
    evict(&mut world);
    let mut expected = image();
    expected[4096..][..6].copy_from_slice(b"branch");
    assert_eq!(read(&mut world, "notebook/a~b", PAGE, 6), b"branch");
    let diff = Verb::Diff { from: VersionRef::Id(VersionId(1)), to: None };
    let Ok(Reply::Diff(ranges)) = world.does("notebook/a~b", diff) else { panic!("no difference") };
    assert_eq!(ranges.len(), 1, "{ranges:?}");
    evict(&mut world);
    assert_eq!(read(&mut world, KEY, 0, 1), fill(0)[..1], "partly here");
    world.does("notebook/a~b", Verb::Commit).expect("committed");
    expect_image(&mut world, KEY, &expected);
    evict(&mut world);
    world.does(KEY, rollback(Some(1))).expect("kept");
    evict(&mut world);
    expect_image(&mut world, KEY, &[]);
    world.end();
}

#[test]
fn e3_what_is_cut_off_and_written_again_is_not_what_it_was() {
    let mut world = large();
    assert_eq!(world.says(KEY, "resize 10000"), "10000");
    world.does(KEY, write(20 * PAGE, b"again".to_vec())).expect("written");
    evict(&mut world);
    let mut expected = image()[..10_000].to_vec();
    expected.resize(20 * 4096, 0);
    expected.extend_from_slice(b"again");
    // The header's length was cut with the text.
    let header = read(&mut world, KEY, 0, 8);
    expected[..8].copy_from_slice(&header);
    expect_image(&mut world, KEY, &expected);
    world.end();
}

#[test]
fn e3_a_page_that_was_rolled_back_to_is_told_by_its_record() {
    let mut world = large();
    world.does(KEY, checkpoint("start")).expect("kept");
    world.does(KEY, write(4 * PAGE, b"changed".to_vec())).expect("written");
    evict(&mut world);
    assert_eq!(read(&mut world, KEY, 4 * PAGE, 7), b"changed");
    evict(&mut world);
    let to = Some(VersionRef::Label(Bytes::from_static(b"start")));
    world.does(KEY, Verb::Rollback { to }).expect("kept");
    world.does(KEY, write(8 * PAGE, b"after".to_vec())).expect("written");
    evict(&mut world);
    let mut expected = image();
    expected[8 * 4096..][..5].copy_from_slice(b"after");
    expect_image(&mut world, KEY, &expected);
    world.restart(PartitionConfig { log: true, ..config() }, 1024, Vec::new());
    expect_image(&mut world, KEY, &expected);
    world.end();
}

#[test]
fn o2_a_long_chain_and_an_old_segment_are_written_whole_once_all_pages_are_here() {
    let mut world = large();
    let mut expected = image();
    for n in 0..300u64 {
        let at = (n * 13 % PAGE_COUNT) * PAGE + n;
        world.does(KEY, write(at, vec![n as u8; 3])).expect("written");
        expected[at as usize..][..3].fill(n as u8);
        world.flush();
        if n % 100 == 50 {
            evict(&mut world);
        }
    }
    evict(&mut world);
    assert_eq!(read(&mut world, KEY, 0, 1), expected[..1]);
    world.compact();
    expect_image(&mut world, KEY, &expected);
    world.restart(PartitionConfig { log: true, ..config() }, 1024, Vec::new());
    assert_eq!(read(&mut world, KEY, 3 * PAGE, 5), expected[3 * 4096..][..5]);
    world.compact();
    expect_image(&mut world, KEY, &expected);
    world.end();
}

#[test]
fn o1_held_agents_and_those_who_end_need_no_more_than_they_ask_for() {
    let mut world = large();
    world.does(KEY, Verb::Suspend).expect("suspended");
    evict(&mut world);
    assert_eq!(read(&mut world, KEY, 7 * PAGE, 3), fill(7)[..3]);
    let waits = world.ask(KEY, send("len"));
    world.run();
    assert!(world.peek(waits).is_none(), "a suspended agent takes no turn");
    world.does(KEY, Verb::Resume).expect("resumed");
    assert!(world.take(waits).is_ok());
    evict(&mut world);
    assert_eq!(read(&mut world, KEY, 7 * PAGE, 3), fill(7)[..3]);
    world.read_bytes = 0;
    world.does(KEY, Verb::Terminate).expect("ended");
    assert_eq!(world.read_bytes, 0);
    world.check();
    world.end();
}

/// The records that the partition asks for, and whose they are.
fn asked(world: &mut World) -> (AgentId, std::rc::Rc<Vec<log::Place>>) {
    let events = std::mem::take(world.partition.events());
    let [verb::Event::Load { agent, places }] = &events[..] else { panic!("{events:?}") };
    (*agent, places.clone())
}

#[test]
fn o1_a_page_that_cannot_be_read_is_refused_and_the_others_are_served() {
    let mut world = large();
    assert_eq!(read(&mut world, KEY, 0, 1), fill(0)[..1]);
    for damage in [Err(5), Ok(vec![vec![0; 64]])] {
        let wanted = world.ask(KEY, Verb::Read { offset: 11 * PAGE, len_bytes: 1 });
        let later = world.ask(KEY, send("get 0"));
        assert!(world.partition.run_turn(world.now).is_none());
        let (agent, places) = asked(&mut world);
        world.partition.loaded(world.now, agent, &places, damage);
        world.run();
        assert_eq!(text(world.take(wanted)), "UNREADABLE");
        assert_eq!(text(world.take(later)), "UNREADABLE");
        assert_eq!(read(&mut world, KEY, 3 * PAGE, 2), fill(3)[..2]);
        world.check();
    }
    expect_image(&mut world, KEY, &image());
    world.end();
}

#[test]
fn o1_a_branch_that_ends_while_its_pages_come_is_not_made_again() {
    let mut world = large();
    let fork = Verb::Fork { count: 2, at: None, suffix: None, keep_timers: false };
    world.does(KEY, fork).expect("forked");
    world.does("notebook/a~1", write(0, vec![1])).expect("written");
    evict(&mut world);
    // It has all its pages; its sibling has not, and asks for one.
    expect_image(&mut world, "notebook/a~1", &[&[1], &image()[1..]].concat());
    assert_eq!(read(&mut world, "notebook/a~2", 0, 1), fill(0)[..1]);
    let lost = world.ask("notebook/a~2", Verb::Read { offset: 11 * PAGE, len_bytes: 1 });
    assert!(world.partition.run_turn(world.now).is_none());
    let late = asked(&mut world);
    world.does("notebook/a~1", Verb::Commit).expect("committed");
    assert_eq!(text(world.take(lost)), "NOAGENT");
    world.partition.loaded(world.now, late.0, &late.1, Err(5));
    assert_eq!(world.refused("notebook/a~2", Verb::Info), "NOAGENT");
    expect_image(&mut world, KEY, &[&[1], &image()[1..]].concat());
    world.end();
}

#[test]
fn o1_what_others_answer_meanwhile_is_taken_in() {
    let mut world = logged();
    world.does("relay/x", create()).expect("there is room");
    let bytes: Vec<u8> = (0..PAGE_COUNT).flat_map(fill).collect();
    world.does("relay/x", write(0, bytes)).expect("there is room");
    evict(&mut world);
    assert_eq!(read(&mut world, "relay/x", 0, 1), fill(0)[..1]);
    world.ask("relay/x", send("!counter/k 1"));
    assert!(world.partition.run_turn(world.now).is_some());
    world.flush();
    let wanted = world.ask("relay/x", Verb::Read { offset: 11 * PAGE, len_bytes: 1 });
    assert!(world.partition.run_turn(world.now).is_some(), "the counter takes its turn");
    assert!(world.partition.run_turn(world.now).is_none(), "the relay waits for a page");
    let (agent, places) = asked(&mut world);
    // The counter is on disk, and says so.
    world.flush();
    world.partition.debug_check();
    world.partition.loaded(world.now, agent, &places, Err(5));
    world.pump();
    assert_eq!(text(world.take(wanted)), "UNREADABLE");
    let wanted = world.ask("relay/x", Verb::Read { offset: 11 * PAGE, len_bytes: 1 });
    world.run();
    assert_eq!(world.take(wanted), Ok(Reply::Payload(Some(fill(11)[..1].to_vec().into()))));
    world.check();
    world.end();
}

#[test]
fn o2_a_page_that_is_damaged_keeps_an_agent_from_being_written_whole_only() {
    let mut world = large();
    assert_eq!(read(&mut world, KEY, 0, 1), fill(0)[..1]);
    world.flush();
    world.partition.begin_index();
    world.flush();
    let segment = *world.partition.live_segments().keys().next().expect("a segment");
    assert!(world.partition.compact(segment, 10));
    let (agent, places) = asked(&mut world);
    assert!(places.len() > 20, "all pages but one");
    let other = world.ask(KEY, Verb::Info);
    world.partition.loaded(world.now, agent, &places, Ok(vec![vec![0; 64]; places.len()]));
    world.run();
    assert!(world.take(other).is_ok());
    assert_eq!(read(&mut world, KEY, 3 * PAGE, 2), fill(3)[..2]);
    // The same of one that is in the log only.
    evict(&mut world);
    let segment = *world.partition.live_segments().keys().next().expect("a segment");
    assert!(world.partition.compact(segment, 10));
    let (agent, places) = asked(&mut world);
    let other = world.ask(KEY, Verb::Read { offset: 5 * PAGE, len_bytes: 1 });
    world.partition.loaded(world.now, agent, &places, Ok(vec![vec![0; 64]; places.len()]));
    world.partition.expire(world.now);
    world.run();
    assert_eq!(world.take(other), Ok(Reply::Payload(Some(fill(5)[..1].to_vec().into()))));
    expect_image(&mut world, KEY, &image());
    world.end();
}

#[test]
fn o1_a_held_agent_with_a_page_that_cannot_be_read_can_be_resumed_and_ended() {
    for last in [Verb::Resume, Verb::Terminate] {
        let mut world = large();
        assert_eq!(read(&mut world, KEY, 0, 1), fill(0)[..1]);
        world.does(KEY, Verb::Suspend).expect("suspended");
        let wanted = world.ask(KEY, Verb::Read { offset: 11 * PAGE, len_bytes: 1 });
        let (agent, places) = asked(&mut world);
        world.partition.loaded(world.now, agent, &places, Err(5));
        world.run();
        assert_eq!(text(world.take(wanted)), "UNREADABLE");
        assert_eq!(world.info(KEY).state, "suspended");
        assert!(world.does(KEY, last.clone()).is_ok(), "{last:?}");
        world.check();
        world.end();
    }
}

#[test]
fn o1_a_commit_that_finds_no_room_for_its_parents_pages_is_answered() {
    let mut world = World::with(PartitionConfig { log: true, ..config() }, 96, Vec::new());
    world.does(KEY, create()).expect("there is room");
    world.does(KEY, write(0, image())).expect("there is room");
    let fork = Verb::Fork { count: 1, at: None, suffix: Some("b".into()), keep_timers: false };
    world.does(KEY, fork).expect("forked");
    world.does("notebook/a~b", write(PAGE, b"branch".to_vec())).expect("written");
    evict(&mut world);
    assert_eq!(read(&mut world, KEY, 0, 1), fill(0)[..1]);
    assert_eq!(read(&mut world, "notebook/a~b", 0, 1), fill(0)[..1]);
    // Something dirty takes the room, so that waiting makes sense.
    world.does("counter/big", Verb::Create { image_bytes: 0 }).expect("there is room");
    world.does("counter/big", write(0, vec![7; 80 * PAGE as usize])).expect("there is room");
    let commit = world.ask("notebook/a~b", Verb::Commit);
    world.run();
    for _ in 0..20 {
        world.flush();
        if let Some(due) = world.partition.due_next() {
            world.now = world.now.max(due);
            world.partition.expire(world.now);
        }
        world.run();
    }
    let answer = world.take(commit);
    assert!(answer.is_ok(), "{answer:?}");
    let mut expected = image();
    expected[4096..][..6].copy_from_slice(b"branch");
    expect_image(&mut world, KEY, &expected);
    world.end();
}
