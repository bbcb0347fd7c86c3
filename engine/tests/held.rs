//! What the engine promises to sandboxes: turns in slices, held requests, sleeps, restored images.
//!
//! Owns: these, with a behaviour that does nothing but ask for them.  Not: sandboxes themselves.

// The other tests use other parts of it.
#[allow(dead_code)]
#[path = "partition/world.rs"]
mod world;

use bytes::Bytes;
use heronry_engine::behaviour::{Own, RequestId, Restored};
use heronry_engine::template::TemplateError;
use heronry_engine::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use world::*;

/// Does what its message names. Its image: whether it awaits something (byte 0), the request that
/// it keeps open (from byte 8).
struct Patient {
    number: u32,
    /// Slices left of paused turns, and the reply after them.
    paused: RefCell<BTreeMap<AgentId, (u32, RequestId)>>,
}

impl Patient {
    fn new(number: u32) -> Rc<Patient> {
        Rc::new(Patient { number, paused: RefCell::default() })
    }

    fn await_with(turn: &mut Turn<'_>) -> Result<(), Fault> {
        let request = turn.hold();
        turn.write(0, &[1])?;
        turn.write(8, &request.0.to_le_bytes())
    }

    fn reply(turn: &mut Turn<'_>, text: String) -> Result<(), Fault> {
        let mut request = [0; 8];
        turn.read(8, &mut request);
        turn.reply_to(RequestId(u64::from_le_bytes(request)), Ok(Some(text.into())));
        turn.write(0, &[0])
    }
}

impl Behaviour for Patient {
    fn name(&self) -> &str {
        "patient"
    }

    fn summary(&self) -> &str {
        "waits"
    }

    fn number(&self) -> u32 {
        self.number
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        let text = std::str::from_utf8(message).expect("tests send text");
        let (word, value) = text.split_once(' ').unwrap_or((text, ""));
        let label = (!value.is_empty()).then(|| Bytes::copy_from_slice(value.as_bytes()));
        let number = value.parse::<u64>().unwrap_or(0);
        match word {
            "sleep" => _ = turn.sleep(turn.now().after(Nanos(number))),
            "stuck" => {}
            "checkpoint" => _ = turn.own(Own::Checkpoint { label }),
            "fork" => _ = turn.own(Own::Fork { count: number as u32 }),
            "rollback" => _ = turn.own(Own::Rollback { label }),
            "http" => _ = turn.http("{}"),
            "pause" => {
                let request = turn.hold();
                self.paused.borrow_mut().insert(turn.id(), (number as u32, request));
                return self.resume(turn);
            }
            _ => {
                turn.reply(format!("{} {}", self.number, text));
                return Ok(());
            }
        }
        Patient::await_with(turn)
    }

    fn on_reply(
        &self,
        turn: &mut Turn<'_>,
        _call: CallId,
        result: &Result<Option<Bytes>, Refusal>,
    ) -> Result<(), Fault> {
        let text = match result {
            Ok(None) => "over".into(),
            Ok(Some(reply)) => String::from_utf8_lossy(reply).into_owned(),
            Err(refusal) => refusal.code().to_owned(),
        };
        Patient::reply(turn, text)
    }

    fn on_restored(&self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let text = match turn.restored().expect("a restored turn says how") {
            Restored::Forked { index, keep_timers, .. } => format!("branch {index} {keep_timers}"),
            Restored::RolledBack { version } => format!("back at {}", version.0),
            Restored::Committed => "committed".to_owned(),
        };
        turn.send("echo/told".parse().expect("a key"), text.clone());
        Patient::reply(turn, text)
    }

    fn resume(&self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let (left, request) = self.paused.borrow_mut().remove(&turn.id()).expect("it paused");
        if left > 0 {
            self.paused.borrow_mut().insert(turn.id(), (left - 1, request));
            turn.pause();
        } else {
            turn.reply_to(request, Ok(Some("at last".into())));
        }
        Ok(())
    }

    fn awaits(&self, image: &Image, store: &PageStore) -> bool {
        let mut first = [0];
        image.read_into(store, 0, &mut first);
        first[0] == 1
    }

    fn base_page(&self, page_idx: u32) -> Option<&[u8; PAGE_BYTES]> {
        (page_idx == 3).then_some(&[7; PAGE_BYTES])
    }

    fn sealed_off(&self) -> Option<&'static str> {
        Some("its memory is its own")
    }

    fn forget(&self, agent: AgentId, _store: &mut PageStore) {
        self.paused.borrow_mut().remove(&agent);
    }
}

fn world() -> World {
    let mut world = World::new();
    world.partition.deploy(Patient::new(1), true).expect("a new name");
    world
}

fn exec(code: &'static str) -> Verb {
    Verb::Exec { code: Bytes::from_static(code.as_bytes()) }
}

#[test]
fn w3_a_sleep_ends_when_its_time_has_come() {
    let mut world = world();
    let slept = world.ask("patient/a", send("sleep 1000"));
    let other = world.ask("patient/b", send("sleep 500"));
    world.run();
    assert_eq!(world.partition.due_next(), Some(Nanos(501)));
    world.now = Nanos(501);
    world.partition.expire(world.now);
    world.run();
    assert_eq!(text(world.take(other)), "over");
    assert!(world.peek(slept).is_none());
    world.now = Nanos(1_001);
    world.partition.expire(world.now);
    world.run();
    assert_eq!(text(world.take(slept)), "over");
    assert_eq!(world.partition.due_next(), None);
    world.end();
}

/// As [`world`], with a log.
fn logged() -> World {
    let mut world = World::with(logging(), 1024, Vec::new());
    world.partition.deploy(Patient::new(1), true).expect("a new name");
    world
}

fn logging() -> PartitionConfig {
    PartitionConfig { log: true, ..config() }
}

/// Writes everything and sends all agents to the log that can go.
fn evict(world: &mut World) {
    for _ in 0..3 {
        world.flush();
        world.partition.make_room(world.now, 0, 1_000);
    }
}

fn cold(world: &World) -> (u64, u64) {
    let counters = world.partition.counters();
    (counters.cold, counters.agents)
}

#[test]
fn e3_sleepers_in_the_log_come_back_before_their_sleep_ends_and_answer_who_asked() {
    let mut world = logged();
    let slept = world.ask("patient/a", send("sleep 1000000000"));
    let other = world.ask("patient/b", send("sleep 2000000000"));
    world.run();
    evict(&mut world);
    assert_eq!((cold(&world), world.partition.used_bytes()), ((2, 2), 0));
    let due = world.partition.due_next().expect("a sleep ends");
    assert!(due.0 < 1_000_000_000, "before it ends, at {}", due.0);
    world.now = due;
    world.partition.expire(world.now);
    world.run();
    assert_eq!((cold(&world), world.partition.counters().wakes), ((1, 2), 1));
    assert!(world.peek(slept).is_none(), "it sleeps still");
    // So short a time before its end it stays.
    evict(&mut world);
    assert_eq!(cold(&world), (1, 2));
    world.now = Nanos(1_000_000_001);
    world.partition.expire(world.now);
    world.run();
    assert_eq!(text(world.take(slept)), "over");
    // One that is wanted for something else before wakes in its time all the same.
    assert_eq!(world.says("patient/b", "hello"), "1 hello");
    evict(&mut world);
    assert_eq!(cold(&world), (2, 2));
    world.now = Nanos(2_000_000_001);
    world.partition.expire(world.now);
    world.run();
    assert_eq!(text(world.take(other)), "over");
    world.check();
    world.end();
}

#[test]
fn e3_an_answer_brings_its_agent_back_from_the_log() {
    let mut world = logged();
    let asked = world.ask("patient/a", send("http"));
    world.run();
    evict(&mut world);
    assert_eq!(cold(&world), (1, 1));
    let (to, _) = world.errands.pop().expect("an errand");
    let Origin::Agent { id, call } = to else { panic!("{to:?}") };
    world.partition.answer(world.now, id, call, Ok(Reply::Payload(Some("{}".into()))));
    // The disk does not give it, and a client hears so; the answer waits for another time.
    let hello = world.ask("patient/a", send("hello"));
    let events = std::mem::take(world.partition.events());
    let [Event::Load { agent, places }] = &events[..] else { panic!("{events:?}") };
    world.partition.loaded(world.now, *agent, places, Err(5));
    world.run();
    assert_eq!((text(world.take(hello)), cold(&world)), ("UNREADABLE".into(), (1, 1)));
    world.partition.debug_check();
    world.now = world.partition.due_next().expect("it is asked for again");
    world.partition.expire(world.now);
    world.run();
    assert_eq!(text(world.take(asked)), "{}");
    world.check();
    world.end();
}

#[test]
fn s1_a_start_leaves_sleepers_in_the_log_until_it_is_time() {
    let mut world = logged();
    let sleep = |id| send_once("sleep 1000000000", id);
    let first = world.ask("patient/a", sleep("one"));
    world.run();
    assert!(world.peek(first).is_none());
    world.flush();
    world.restart(logging(), 1024, Vec::new());
    world.partition.deploy(Patient::new(1), true).expect("a new name");
    assert_eq!(cold(&world), (1, 1));
    // It is indexed as it is.
    world.partition.begin_index();
    world.flush();
    world.restart(logging(), 1024, Vec::new());
    world.partition.deploy(Patient::new(1), true).expect("a new name");
    assert_eq!(cold(&world), (1, 1));
    for _ in 0..2 {
        world.now = world.partition.due_next().expect("a sleep ends");
        world.partition.expire(world.now);
        world.run();
        assert_eq!(cold(&world), (0, 1));
    }
    assert_eq!(world.now, Nanos(1_000_000_001));
    let again = world.ask("patient/a", sleep("one"));
    world.run();
    assert_eq!(text(world.take(again)), "over", "the first asking's answer");
    world.check();
    world.end();
}

#[test]
fn s1_a_sleeper_that_finds_no_room_comes_back_when_there_is_some() {
    const PAGES: usize = 64;
    let mut world = logged();
    world.ask("patient/a", send("sleep 1000000000"));
    world.run();
    world.flush();
    world.restart(logging(), PAGES, Vec::new());
    world.partition.deploy(Patient::new(1), true).expect("a new name");
    // What is not on disk cannot go, and it takes nearly all there is.
    world.does("notebook/b", create()).expect("there is room");
    let bytes = vec![7; 61 * PAGE_BYTES];
    world.does("notebook/b", Verb::Write { offset: 0, bytes: bytes.into() }).expect("written");
    world.now = world.partition.due_next().expect("a sleep ends");
    assert_eq!(world.partition.expire(world.now), Some(Nanos(1_000_000_001)));
    world.now = Nanos(1_000_000_001);
    world.partition.expire(world.now);
    world.pump();
    assert_eq!(cold(&world), (1, 2), "there is no room for it");
    for _ in 0..3 {
        world.flush();
        world.now = world.partition.due_next().unwrap_or(world.now);
        world.partition.expire(world.now);
        world.run();
    }
    let counters = world.partition.counters();
    assert_eq!((counters.loads, counters.turns), (1, 2), "it came back and woke: {counters:?}");
    world.check();
}

#[test]
fn e3_one_that_cannot_be_read_gives_up_what_it_awaits() {
    let mut world = logged();
    let slept = world.ask("patient/a", send("sleep 1000000000"));
    world.run();
    evict(&mut world);
    world.now = Nanos(2_000_000_000);
    world.partition.expire(world.now);
    let events = std::mem::take(world.partition.events());
    let [Event::Load { agent, places }] = &events[..] else { panic!("{events:?}") };
    let damaged: Vec<Vec<u8>> = places.iter().map(|_| vec![0; 64]).collect();
    world.partition.loaded(world.now, *agent, places, Ok(damaged));
    world.run();
    assert_eq!(text(world.take(slept)), "DROPPED");
    assert_eq!((cold(&world), world.partition.due_next()), ((1, 1), None));
    world.partition.debug_check();
    assert_eq!(world.does("patient/a", Verb::Terminate), Ok(Reply::Done));
    world.check();
}

#[test]
fn z1_a_request_that_nothing_can_answer_fails() {
    let mut world = world();
    assert_eq!(world.says("patient/a", "stuck"), "FAULT");
    world.end();
}

#[test]
fn v3_others_are_served_between_the_slices_of_a_turn() {
    let mut world = world();
    let long = world.ask("patient/a", send("pause 3"));
    let next = world.ask("patient/a", send("hello"));
    world.step();
    assert_eq!(world.says("patient/b", "hello"), "1 hello");
    assert_eq!(text(world.take(long)), "at last");
    assert_eq!(text(world.take(next)), "1 hello");
    assert_eq!(world.info("patient/a").turn_count, 2);
    world.end();
}

#[test]
fn z1_a_paused_turn_ends_with_its_agent() {
    let mut world = world();
    world.says("patient/a", "hello");
    let branch = world.fork("patient/a", 2, None);
    let long = world.ask(&branch[1], send("pause 100"));
    world.step();
    let commit = world.ask(&branch[0], Verb::Commit);
    world.step();
    world.step();
    assert!(matches!(world.take(commit), Ok(Reply::Version(_))));
    assert_eq!(text(world.take(long)), "DROPPED");
    let long = world.ask("patient/a", send("pause 100"));
    world.step();
    let branch = world.ask("patient/a", Verb::Terminate);
    assert!(world.peek(branch).is_none(), "it waits for the turn");
    world.run();
    assert_eq!(
        (text(world.take(long)), text(world.take(branch))),
        ("at last".into(), "done".into())
    );
    world.end();
}

#[test]
fn w2_a_fork_of_a_sleeper_is_told_at_once_and_its_parent_wakes() {
    let mut world = world();
    let slept = world.ask("patient/a", send("sleep 1000"));
    world.run();
    let fork = Verb::Fork { count: 2, at: None, suffix: None, keep_timers: true };
    world.does("patient/a", fork).expect("forked");
    let told = world.info("echo/told");
    assert_eq!(told.turn_count, 2, "each branch was told");
    assert_eq!(world.says("patient/a~1", "hello"), "1 hello");
    assert!(world.peek(slept).is_none(), "a branch cannot answer for its parent");
    world.now = Nanos(2_000);
    world.partition.expire(world.now);
    world.run();
    assert_eq!(text(world.take(slept)), "over");
    world.end();
}

#[test]
fn w3_an_agent_changes_itself_after_its_turn() {
    let mut world = world();
    assert_eq!(world.says("patient/a", "checkpoint here"), "2");
    assert_eq!(world.says("patient/a", "fork 2"), "patient/a~1\npatient/a~2");
    assert_eq!(world.says("patient/a", "fork 0"), "BADVALUE");
    assert_eq!(world.says("patient/a", "rollback nowhere"), "NOVERSION");
    // Its past was awaiting the checkpoint, of a request that was answered long ago; the request
    // that asked to go back can never be answered then.
    assert_eq!(world.says("patient/a", "rollback here"), "FAULT");
    world.end();
}

#[test]
fn z1_a_rollback_by_a_client_drops_what_was_open() {
    let mut world = world();
    world.does("patient/a", checkpoint("")).expect_err("no such agent");
    world.says("patient/a", "hello");
    let slept = world.ask("patient/a", send("sleep 1000"));
    world.run();
    world.does("patient/a", rollback(Some(1))).expect("version 1 is kept");
    assert_eq!(text(world.take(slept)), "DROPPED");
    assert_eq!(world.partition.due_next(), None);
    world.end();
}

#[test]
fn a2_a_suspended_agent_is_told_when_it_is_resumed() {
    let mut world = world();
    let slept = world.ask("patient/a", send("sleep 1000"));
    world.run();
    let version = world.info("patient/a").head;
    world.does("patient/a", Verb::Suspend).expect("active");
    world.does("patient/a", rollback(Some(version.0))).expect("kept");
    assert_eq!(text(world.take(slept)), "DROPPED");
    assert_eq!(world.refused("echo/told", Verb::Info), "NOAGENT");
    world.does("patient/a", Verb::Resume).expect("suspended");
    assert_eq!(world.info("echo/told").turn_count, 1);
    world.end();
}

#[test]
fn x1_an_http_request_leaves_as_an_errand_with_its_own_key() {
    let mut world = world();
    let asked = world.ask("patient/a", send("http"));
    world.run();
    let (to, errand) = world.errands.pop().expect("an errand");
    let verb::Errand::Http { agent, idempotency, .. } = errand else { panic!("{errand:?}") };
    assert_eq!(agent.as_str(), "patient/a");
    assert!(idempotency.starts_with(&format!("{:032x}-", world.info("patient/a").id.0)));
    let Origin::Agent { id, call } = to else { panic!("{to:?}") };
    world.partition.answer(world.now, id, call, Ok(Reply::Payload(Some("{}".into()))));
    world.run();
    assert_eq!(text(world.take(asked)), "{}");
    world.end();
}

#[test]
fn l2_agents_keep_the_number_they_were_made_from() {
    let mut world = world();
    assert_eq!(world.says("patient/a", "x"), "1 x");
    world.partition.deploy(Patient::new(2), false).expect("a new number");
    assert_eq!(world.says("patient/b", "x"), "1 x");
    world.partition.activate("patient", 2).expect("it is there");
    assert_eq!(world.says("patient/c", "x"), "2 x");
    assert_eq!(world.says("patient/a", "x"), "1 x");
    let again = world.partition.deploy(Patient::new(2), true);
    assert!(matches!(again, Err(TemplateError::Exists { number: 2, .. })));
    let none = world.partition.activate("patient", 9);
    assert!(matches!(none, Err(TemplateError::NoNumber { number: 9, .. })));
    let built_in = world.partition.activate("nothing", 1);
    assert!(built_in.is_err());
    world.end();
}

#[test]
fn r2_a_sealed_off_image_is_read_over_its_base_and_not_written() {
    let mut world = world();
    world.says("patient/a", "stuck");
    assert_eq!(world.refused("patient/a", Verb::Write { offset: 0, bytes: "x".into() }), "FAULT");
    assert_eq!(world.refused("patient/z", Verb::Create { image_bytes: 1 << 16 }), "FAULT");
    assert_eq!(world.refused("counter/a", exec("1")), "FAULT");
    world.end();
}
