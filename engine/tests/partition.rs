//! What a partition promises, asked as clients and other agents would ask.
//!
//! Owns: the invariants of `partition.rs` and its parts, by name.  Not: several shards at once,
//! which the simulation runs.

// The model test uses another part of it.
#[allow(dead_code)]
#[path = "partition/world.rs"]
mod world;

use bytes::Bytes;
use heronry_engine::behaviour::notebook::{SLOT_COUNT, TEXT_START};
use heronry_engine::verb::{DiffRange, Target};
use heronry_engine::*;
use world::*;

/// Writes, sends and calls, and then fails in the way that the message names.
struct Fails;

impl Behaviour for Fails {
    fn name(&self) -> &str {
        "fails"
    }

    fn summary(&self) -> &str {
        "fails after it has written, sent and called"
    }

    fn start(&self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        if turn.key().as_str().ends_with("stillborn") {
            panic!("cannot start");
        }
        turn.write(0, b"started")
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        turn.write(0, message)?;
        turn.write(20_000, message)?;
        if message != "ask" {
            turn.reply(message.clone());
        }
        turn.send(seen(), "1");
        turn.call(seen(), "1");
        match message.as_ref() {
            b"panic" => panic!("on {}", "purpose"),
            b"refuse" => Err(Fault::refused("as asked")),
            b"sends" => {
                for _ in 0..2_000 {
                    turn.send(seen(), "1");
                }
                Ok(())
            }
            b"calls" => {
                for _ in 0..1_024 {
                    turn.call(seen(), "1");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_reply(
        &self,
        _turn: &mut Turn<'_>,
        _call: CallId,
        _result: &Result<Option<Bytes>, Refusal>,
    ) -> Result<(), Fault> {
        Ok(())
    }
}

/// Calls every agent that its message names, and replies when the last call has returned.
struct Gather;

impl Behaviour for Gather {
    fn name(&self) -> &str {
        "gather"
    }

    fn summary(&self) -> &str {
        "calls several agents with 1 and counts the replies in its image"
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        let text = String::from_utf8_lossy(message);
        let keys: Vec<AgentKey> =
            text.split(' ').map(|key| key.parse().expect("a good key")).collect();
        turn.write(0, &[keys.len() as u8])?;
        for key in keys {
            turn.call(key, "1");
        }
        Ok(())
    }

    fn on_reply(
        &self,
        turn: &mut Turn<'_>,
        _call: CallId,
        result: &Result<Option<Bytes>, Refusal>,
    ) -> Result<(), Fault> {
        let mut left = [0];
        turn.read(0, &mut left);
        turn.write(0, &[left[0] - 1])?;
        if result.is_err() {
            return Err(Fault::refused("a call failed"));
        }
        if left[0] == 1 {
            turn.reply("all");
        }
        Ok(())
    }
}

fn seen() -> AgentKey {
    "counter/seen".parse().expect("a good key")
}

fn at(version: u64) -> Option<VersionRef> {
    Some(VersionRef::Id(VersionId(version)))
}

fn write(offset: u64, bytes: &'static [u8]) -> Verb {
    Verb::Write { offset, bytes: Bytes::from_static(bytes) }
}

fn read(offset: u64, len_bytes: u32) -> Verb {
    Verb::Read { offset, len_bytes }
}

#[test]
fn built_ins_do_what_they_say() {
    let mut world = World::new();
    assert_eq!(world.says("echo/a", "hello"), "hello");
    for (message, reply) in [("get", "0"), ("5", "5"), ("-7", "-2"), ("+3", "1"), ("get", "1")] {
        assert_eq!(world.says("counter/a", message), reply);
    }
    for bad in ["", "x", "1 ", "9223372036854775808"] {
        assert_eq!(world.says("counter/a", bad), "FAULT", "{bad:?}");
    }
    let last = (SLOT_COUNT - 1).to_string();
    for (message, reply) in [
        ("len", "0"),
        ("read", ""),
        ("append one", "3"),
        ("append  two", "7"),
        ("read", "one two"),
        ("read 4 100", "two"),
        ("read 100 1", ""),
        ("set 0 first", ""),
        ("set 0 second", "first"),
        ("get 0", "second"),
        ("set 0", "second"),
        ("get 0", ""),
        ("len", "7"),
    ] {
        assert_eq!(world.says("notebook/a", message), reply, "{message}");
    }
    assert_eq!(world.says("notebook/a", &format!("set {last} end")), "");
    assert_eq!(world.says("notebook/a", &format!("get {last}")), "end");
    let short = (TEXT_START + 3).to_string();
    assert_eq!(world.says("notebook/a", &format!("resize {short}")), short);
    assert_eq!(world.says("notebook/a", "read"), "one");
    assert_eq!(world.says("notebook/a", "append !"), "4");
    assert_eq!(world.says("notebook/a", "resize 0"), "0");
    assert_eq!(world.says("notebook/a", "len"), "0");
    world.end();
}

#[test]
fn a_bad_message_is_told_what_is_allowed() {
    let mut world = World::new();
    let long = format!("set 1 {}", "x".repeat(128));
    for (key, message, allowed) in [
        ("counter/a", "one", "allowed: get, or a decimal number"),
        ("notebook/a", "sing", "allowed: append TEXT, set SLOT TEXT"),
        ("notebook/b", "set 511 x", "SLOT is 511; allowed: 0 to 510"),
        ("notebook/b", "get x", "allowed: a whole decimal number"),
        ("notebook/b", &long, "allowed in a slot: 0 to 127"),
        ("relay/a", "nonsense", "allowed: KEY PAYLOAD"),
        ("relay/a", "!", "allowed: KEY PAYLOAD"),
        ("relay/b", "", "allowed: KEY PAYLOAD"),
    ] {
        let refusal = world.does(key, send(message)).expect_err(message);
        assert_eq!(refusal.code(), "FAULT");
        assert!(refusal.to_string().contains(allowed), "{refusal}");
    }
    world.end();
}

#[test]
fn a_counter_never_wraps() {
    let mut world = World::new();
    let max = i64::MAX.to_string();
    assert_eq!(world.says("counter/a", &max), max);
    assert_eq!(world.says("counter/a", "1"), "FAULT");
    assert_eq!(world.says("counter/a", "get"), max);
}

#[test]
fn v1_refusals_before_the_mailbox_name_what_was_wrong() {
    let config = PartitionConfig {
        payload_bytes_max: 100,
        image_bytes_max: 1 << 20,
        agents_max: 2,
        ..config()
    };
    let mut world = World::with(config, 64, Vec::new());
    let long = "x".repeat(101);
    let fork = |count, suffix: Option<&'static str>| Verb::Fork {
        count,
        at: None,
        suffix: suffix.map(Bytes::from),
        keep_timers: false,
    };
    assert_eq!(world.says("counter/a", "1"), "1");
    for (verb, code) in [
        (send(&long), "LIMIT"),
        (write(1 << 20, b"x"), "LIMIT"),
        (write(u64::MAX, b"x"), "LIMIT"),
        (read(0, 101), "LIMIT"),
        (Verb::Create { image_bytes: (1 << 20) + 1 }, "LIMIT"),
        (checkpoint(&long), "BADVALUE"),
        (Verb::Checkpoint { label: Some(Bytes::new()) }, "BADVALUE"),
        (send_once("1", ""), "BADVALUE"),
        (send_once("1", &long), "BADVALUE"),
        (fork(0, None), "BADVALUE"),
        (fork(10_001, None), "BADVALUE"),
        (fork(2, Some("x")), "BADVALUE"),
        (fork(1, Some("a b")), "BADKEY"),
        (fork(1, Some("a~")), "BADKEY"),
        (fork(2, None), "LIMIT"),
        (Verb::Hottest, "BADVALUE"),
        (create(), "EXISTS"),
        (rollback(Some(9)), "NOVERSION"),
        (Verb::Commit, "WRONGSTATE"),
        (Verb::Fork { count: 1, at: at(7), suffix: None, keep_timers: false }, "NOVERSION"),
        (Verb::Diff { from: VersionRef::Label("x".into()), to: None }, "NOVERSION"),
    ] {
        assert_eq!(world.refused("counter/a", verb.clone()), code, "{verb:?}");
    }
    assert_eq!(world.refused("nothing/a", create()), "NOTEMPLATE");
    assert_eq!(world.refused("nothing/a", send("1")), "NOTEMPLATE");
    assert_eq!(world.refused("counter/b", Verb::Info), "NOAGENT");
    assert_eq!(world.refused("counter/a~1", create()), "NOAGENT");
    assert_eq!(world.refused("counter/a~1", send("1")), "NOAGENT");
    assert_eq!(world.says("counter/b", "1"), "1");
    assert_eq!(world.refused("counter/c", create()), "LIMIT");
    assert_eq!(world.refused("counter/c", send("1")), "LIMIT");
    assert_eq!(world.shard(Verb::Info).expect_err("no agent named").code(), "BADVALUE");
    let none = Verb::List { cursor: 0, count: 0, pattern: None, lost: false };
    assert_eq!(world.shard(none).expect_err("COUNT 0").code(), "BADVALUE");
    let durable = world.ask_with("counter/a", send("1"), None, Ack::Durable);
    world.run();
    assert_eq!(world.take(durable), Err(Refusal::NoLog));
    assert_eq!(world.says("counter/a", "get"), "1");
    world.end();
}

#[test]
fn v1_an_id_that_is_not_the_keys_hash_creates_nothing() {
    let mut world = World::new();
    let key: AgentKey = "counter/a".parse().unwrap();
    let target = Target::Agent { id: AgentId(5), tenant: TenantId(0), key };
    let origin = Origin::Connection { conn: 0, generation: 0, seq: 77, ack: Ack::Sealed };
    let (verb, ack) = (create(), Ack::Sealed);
    world.partition.accept(world.now, Request { target, verb, ack, deadline: None, origin });
    world.pump();
    assert_eq!(world.take(77).expect_err("a wrong id").code(), "BADVALUE");
    assert_eq!(world.partition.counters().agents, 0);
}

#[test]
fn v2_one_senders_requests_are_served_in_order() {
    let mut world = World::new();
    let numbers: Vec<u64> = (0..50).map(|_| world.ask("counter/a", send("1"))).collect();
    let info = world.ask("counter/a", Verb::Info);
    world.run();
    for (before, number) in numbers.into_iter().enumerate() {
        assert_eq!(text(world.take(number)), (before + 1).to_string());
    }
    let Ok(Reply::Info(info)) = world.take(info) else { panic!("no info") };
    assert_eq!((info.turn_count, info.head), (50, VersionId(51)));
    world.end();
}

#[test]
fn v3_turns_go_round_robin() {
    let mut world = World::new();
    for _ in 0..3 {
        for key in ["counter/a", "counter/b", "counter/c"] {
            world.ask(key, send("1"));
        }
    }
    let mut order = Vec::new();
    while let Some(key) = world.partition.running_key().map(ToString::to_string) {
        assert!(world.partition.runnable());
        let report = world.step().expect("V3: runnable");
        assert_eq!(world.partition.key_of(report.agent).unwrap().as_str(), key);
        assert!(report.sealed && !report.failed);
        order.push(key);
    }
    assert_eq!(order, ["counter/a", "counter/b", "counter/c"].repeat(3));
    world.end();
}

#[test]
fn q_a_full_mailbox_is_busy_and_loses_nothing() {
    let mut world = World::new();
    let taken: Vec<u64> = (0..64).map(|_| world.ask("counter/a", send("1"))).collect();
    let over = world.ask("counter/a", send("1"));
    world.pump();
    let refusal = world.take(over).expect_err("a full mailbox");
    assert_eq!(refusal.code(), "BUSY");
    assert!(refusal.to_string().contains("64 of 64"), "{refusal}");
    assert_eq!(world.says("counter/b", "1"), "1");
    for number in taken {
        assert!(world.take(number).is_ok());
    }
    world.end();
}

#[test]
fn q_a_message_past_its_deadline_runs_no_turn() {
    let mut world = World::new();
    world.ask("counter/a", send("1"));
    let late = world.ask_with("counter/a", send("1"), Some(Nanos(5_000)), Ack::Sealed);
    let early = world.ask_with("counter/a", send("1"), Some(Nanos(9_001)), Ack::Sealed);
    world.now = Nanos(9_000);
    world.run();
    assert_eq!(world.take(late), Err(Refusal::Timeout { waited_us: 8 }));
    assert_eq!(text(world.take(early)), "2");
    let past = world.ask_with("counter/new", send("1"), Some(Nanos(9_000)), Ack::Sealed);
    world.run();
    assert_eq!(text(world.take(past)), "TIMEOUT");
    assert_eq!(world.refused("counter/new", Verb::Info), "NOAGENT");
    world.end();
}

#[test]
fn e1_a_retry_gets_the_first_reply_and_runs_no_turn() {
    let mut world = World::new();
    for _ in 0..3 {
        assert_eq!(text(world.does("counter/a", send_once("1", "x"))), "1");
    }
    assert_eq!(text(world.does("counter/a", send_once("1", "y"))), "2");
    assert_eq!(world.info("counter/a").turn_count, 2);
    assert_eq!(world.partition.counters().duplicates, 2);
    // A turn that failed changed nothing, so its retry runs.
    assert_eq!(text(world.does("counter/a", send_once("bad", "z"))), "FAULT");
    assert_eq!(text(world.does("counter/a", send_once("1", "z"))), "3");
    // Far beyond the window, an id is new again.
    for n in 0..64 {
        world.does("counter/a", send_once("1", &n.to_string())).unwrap();
    }
    assert_eq!(text(world.does("counter/a", send_once("1", "x"))), "68");
    world.end();
}

#[test]
fn e3_a_retry_of_an_open_request_waits_for_its_reply() {
    let mut world = World::new();
    world.does("counter/slow", create()).unwrap();
    world.does("counter/slow", Verb::Suspend).unwrap();
    let first = world.ask("relay/a", send_once("counter/slow 5", "x"));
    let second = world.ask("relay/a", send_once("counter/slow 5", "x"));
    world.run();
    assert!(world.peek(first).is_none() && world.peek(second).is_none());
    world.does("counter/slow", Verb::Resume).unwrap();
    assert_eq!(text(world.take(first)), "5");
    assert_eq!(text(world.take(second)), "5");
    assert_eq!(text(world.does("relay/a", send_once("counter/slow 5", "x"))), "5");
    assert_eq!(world.says("counter/slow", "get"), "5");
    world.end();
}

#[test]
fn w1_a_failed_turn_leaves_no_trace() {
    let config = PartitionConfig { quarantine_failures: 0, ..config() };
    let mut world = World::with(config, 64, vec![&Fails]);
    assert_eq!(world.version("fails/a", create()), 1);
    let frames = world.partition.counters().frames_used;
    for (message, code, said) in [
        ("panic", "FAULT", "panicked: on purpose"),
        ("refuse", "FAULT", "as asked"),
        ("sends", "LIMIT", "sends and calls of one turn would be 1025"),
        ("calls", "LIMIT", "sends and calls of one turn would be 1025"),
    ] {
        let number = world.ask("fails/a", send(message));
        let report = world.step().unwrap();
        assert!(report.failed && !report.sealed);
        world.run();
        let refusal = world.take(number).expect_err(message);
        assert_eq!(refusal.code(), code);
        assert!(refusal.to_string().contains(said), "{refusal}");
        assert!(code != "FAULT" || refusal.to_string().contains("undone to version 1"));
        assert_eq!(text(world.does("fails/a", read(0, 100))), "started");
        assert_eq!(world.partition.counters().frames_used, frames);
    }
    let info = world.info("fails/a");
    assert_eq!((info.failure_count, info.head, info.state.as_str()), (4, VersionId(1), "active"));
    assert_eq!(world.refused("counter/seen", Verb::Info), "NOAGENT");
    // The same turn without a failure: everything happens.
    assert_eq!(world.says("fails/a", "works"), "works");
    assert_eq!(world.says("counter/seen", "get"), "2");
    world.end();
}

#[test]
fn f1_an_agent_that_cannot_start_was_never_there() {
    let mut world = World::with(config(), 64, vec![&Fails]);
    assert_eq!(world.refused("fails/stillborn", create()), "FAULT");
    assert_eq!(world.refused("fails/stillborn", send("x")), "FAULT");
    assert_eq!(world.refused("fails/stillborn", Verb::Info), "NOAGENT");
    assert_eq!(world.partition.roster_changes().count(), 0);
    world.end();
}

#[test]
fn w1_a_full_arena_undoes_the_turn_and_harms_nobody_else() {
    let mut world = World::with(config(), 8, Vec::new());
    assert_eq!(world.says("counter/a", "1"), "1");
    world.does("notebook/big", create()).unwrap();
    world.version("notebook/big", write(0, &[1; 4 * PAGE_BYTES]));
    let refusal = world.does("notebook/big", write(100, &[2; 4 * PAGE_BYTES])).expect_err("full");
    let (used_bytes, arena_bytes) = (5 * 4096, 8 * 4096);
    assert_eq!(refusal, Refusal::Full { shard: ShardId(0), used_bytes, arena_bytes });
    let expected = Reply::Payload(Some(Bytes::from_static(&[1; 4 * PAGE_BYTES])));
    assert_eq!(world.does("notebook/big", read(0, 16_384)), Ok(expected));
    assert_eq!(world.says("counter/a", "1"), "2");
    // A behaviour's write that finds no page is refused the same way, and is no failure of its own.
    world.does("notebook/more", create()).unwrap();
    world.does("notebook/more", write(0, &[1; 2 * PAGE_BYTES])).unwrap();
    assert_eq!(world.partition.counters().frames_used, 7, "and patches, which take the last one");
    for _ in 0..10 {
        assert_eq!(world.says("notebook/c", "append x"), "FULL");
    }
    assert_eq!(world.info("notebook/c").state, "active");
    world.does("notebook/big", Verb::Terminate).unwrap();
    assert_eq!(world.says("notebook/c", "append x"), "1");
    world.end();
}

#[test]
fn w2_seals_follow_the_policy() {
    for (seal_every, heads) in [(1, [2, 3, 4, 5]), (3, [1, 1, 2, 2]), (0, [1, 1, 1, 1])] {
        let config = PartitionConfig { seal_every, ..config() };
        let mut world = World::with(config, 64, Vec::new());
        for head in heads {
            world.says("counter/a", "1");
            assert_eq!(world.info("counter/a").head, VersionId(head), "every {seal_every}");
        }
        assert_eq!(world.says("counter/a", "get"), "4", "no turn without a change seals");
        assert_eq!(world.says("counter/a", "bad"), "FAULT");
        assert_eq!(world.says("counter/a", "get"), "4", "undo does not need a seal");
        let sealed = world.version("counter/a", checkpoint(""));
        assert_eq!(sealed, world.version("counter/a", checkpoint("")), "unchanged: no new version");
        world.end();
    }
}

#[test]
fn w2_a_turn_with_effects_is_sealed_whatever_the_policy() {
    let config = PartitionConfig { seal_every: 0, ..config() };
    let mut world = World::with(config, 64, vec![&Fails]);
    assert_eq!(world.says("fails/a", "works"), "works");
    assert_eq!(world.info("fails/a").head, VersionId(2));
    world.end();
}

#[test]
fn w3_calls_keep_their_request_open_until_one_replies() {
    let mut world = World::with(config(), 64, vec![&Gather]);
    assert_eq!(world.says("relay/a", "counter/x 5"), "5");
    assert_eq!(world.says("relay/a", "relay/b relay/a counter/x 5"), "10");
    assert_eq!(world.says("relay/a", "!counter/x 5"), "sent");
    assert_eq!(world.says("relay/a", "counter/x get"), "15");
    assert_eq!(world.says("relay/a", "echo/x"), "");
    assert_eq!(world.says("relay/a", "counter/x bad"), "FAULT");
    assert_eq!(world.says("relay/a", "nothing/x 1"), "NOTEMPLATE");
    assert_eq!(world.info("relay/a").failure_count, 0, "what it called failed, not the relay");
    assert_eq!(world.says("gather/a", "counter/x counter/y echo/z"), "all");
    // The second result fails its turn: that is the answer, and the third is not another one.
    assert_eq!(world.says("gather/a", "echo/x nothing/y echo/z"), "FAULT");
    assert_eq!(world.info("gather/a").failure_count, 1);
    world.end();
}

#[test]
fn v4_a_circle_of_relays_takes_turns_and_no_stack() {
    let mut world = World::new();
    let message = format!("{}counter/end 1", "relay/a relay/b ".repeat(1_000));
    assert_eq!(world.says("relay/b", &message), "1");
    let message = format!("{}counter/end 1", "!relay/a ".repeat(20_000));
    assert_eq!(world.says("relay/a", &message), "sent");
    assert_eq!(world.says("counter/end", "get"), "2");
    assert_eq!(world.info("relay/a").mailbox_count, 0);
    world.end();
}

#[test]
fn y1_an_agent_awaits_so_many_calls_and_no_more() {
    let mut world = World::new();
    let slow: Vec<String> = (0..20).map(|n| format!("counter/slow{n}")).collect();
    for key in &slow {
        world.does(key, create()).unwrap();
        world.does(key, Verb::Suspend).unwrap();
    }
    let mut open = Vec::new();
    for n in 0..1_024 {
        open.push(world.ask("relay/a", send(&format!("{} 1", slow[n % slow.len()]))));
        world.run();
    }
    let refusal = world.does("relay/a", send("counter/x 1")).expect_err("one too many");
    assert_eq!(refusal.code(), "LIMIT");
    assert!(refusal.to_string().contains("would be 1025, the limit is 1024"), "{refusal}");
    for key in &slow {
        world.does(key, Verb::Resume).unwrap();
    }
    for number in open {
        assert!(world.take(number).is_ok());
    }
    assert_eq!(world.says("relay/a", "counter/x 1"), "1");
    world.end();
}

#[test]
fn y1_a_call_past_its_deadline_is_answered_once() {
    let mut world = World::new();
    world.does("counter/slow", create()).unwrap();
    world.does("counter/slow", Verb::Suspend).unwrap();
    let number = world.ask("relay/a", send("counter/slow 1"));
    world.run();
    let due = world.partition.expire(world.now).expect("a call is open");
    assert_eq!(due, Nanos::from_ms(30_000).after(Nanos(1)));
    world.now = due;
    assert_eq!(world.partition.expire(world.now), None);
    world.run();
    assert_eq!(text(world.take(number)), "TIMEOUT");
    // The called agent drops the message at dequeue, and its late answer is nobody's.
    world.does("counter/slow", Verb::Resume).unwrap();
    assert_eq!(world.says("counter/slow", "get"), "0");
    assert_eq!(world.partition.counters().late_replies, 1);
    world.end();
}

#[test]
fn a2_a_suspended_agent_keeps_messages_and_serves_controls() {
    let mut world = World::new();
    assert_eq!(world.says("counter/a", "1"), "1");
    assert_eq!(world.does("counter/a", Verb::Suspend), Ok(Reply::Done));
    assert_eq!(world.does("counter/a", Verb::Suspend), Ok(Reply::Done));
    let waiting = world.ask("counter/a", send("1"));
    let write = world.ask("counter/a", write(100, b"x"));
    assert_eq!(world.run(), 0);
    let info = world.info("counter/a");
    assert_eq!((info.state.as_str(), info.mailbox_count), ("suspended", 2));
    assert_eq!(world.version("counter/a", checkpoint("held")), 2);
    assert_eq!(world.fork("counter/a", 1, None), ["counter/a~1"]);
    assert_eq!(world.says("counter/a~1", "get"), "1");
    assert_eq!(world.version("counter/a", rollback(Some(1))), 1);
    assert!(world.peek(waiting).is_none());
    assert_eq!(world.does("counter/a", Verb::Resume), Ok(Reply::Done));
    assert_eq!(text(world.take(waiting)), "1");
    assert!(world.take(write).is_ok());
    // Up to the mailbox's bound.
    world.does("counter/a", Verb::Suspend).unwrap();
    let taken: Vec<u64> = (0..64).map(|_| world.ask("counter/a", send("1"))).collect();
    assert_eq!(world.refused("counter/a", send("1")), "BUSY");
    assert_eq!(world.does("counter/a", Verb::Terminate), Ok(Reply::Done));
    // What waited came after the end, and so made a new agent.
    assert_eq!(text(world.take(taken[63])), "64");
    world.end();
}

#[test]
fn a2_controls_queued_behind_a_suspend_are_served() {
    let mut world = World::new();
    world.says("counter/a", "1");
    let verbs = [
        Verb::Suspend,
        send("1"),
        Verb::Info,
        send("1"),
        checkpoint("x"),
        Verb::Resume,
        Verb::Info,
        send("1"),
    ];
    let numbers: Vec<u64> = verbs.map(|verb| world.ask("counter/a", verb)).into();
    world.run();
    let answers: Vec<Answer> = numbers.into_iter().map(|number| world.take(number)).collect();
    let Ok(Reply::Info(held)) = &answers[2] else { panic!("{:?}", answers[2]) };
    assert_eq!((held.state.as_str(), held.mailbox_count), ("suspended", 6));
    let Ok(Reply::Info(active)) = &answers[6] else { panic!("{:?}", answers[6]) };
    assert_eq!((active.state.as_str(), active.turn_count), ("active", 3));
    assert_eq!(text(answers[7].clone()), "4");
    world.end();
}

#[test]
fn a1_repeated_panics_quarantine_and_resume_lifts() {
    let mut world = World::with(config(), 64, vec![&Fails]);
    for n in 0..4 {
        world.now = Nanos::from_ms(n * 3_000);
        assert_eq!(world.says("fails/a", "panic"), "FAULT");
    }
    // The first has left the window of 10 s, so this one is the fourth in it.
    world.now = Nanos::from_ms(10_500);
    assert_eq!(world.says("fails/a", "panic"), "FAULT");
    // A message that the agent refuses is its sender's failure, not the agent's.
    for _ in 0..5 {
        assert_eq!(world.says("fails/a", "refuse"), "FAULT");
    }
    assert_eq!(world.info("fails/a").state, "active");
    // The fifth, with requests behind it and a call open.
    world.says("counter/seen", "get");
    world.does("counter/seen", Verb::Suspend).unwrap();
    let open = world.ask("fails/a", send("ask"));
    let fifth = world.ask("fails/a", send("panic"));
    let behind = world.ask("fails/a", send("x"));
    let info = world.ask("fails/a", Verb::Info);
    world.run();
    assert_eq!(text(world.take(fifth)), "FAULT");
    assert_eq!(text(world.take(open)), "DROPPED");
    let refusal = world.take(behind).expect_err("quarantined");
    assert_eq!(refusal, Refusal::Quarantined { key: "fails/a".into(), failures: 5 });
    let Ok(Reply::Info(info)) = world.take(info) else { panic!("no info") };
    assert_eq!(info.state, "quarantined");
    assert_eq!(world.refused("fails/a", send("x")), "QUARANTINED");
    assert_eq!(world.refused("fails/a", Verb::Suspend), "WRONGSTATE");
    assert!(world.does("fails/a", checkpoint("")).is_ok());
    assert_eq!(world.does("fails/a", Verb::Resume), Ok(Reply::Done));
    assert_eq!(world.says("fails/a", "panic"), "FAULT");
    assert_eq!(world.says("fails/a", "x"), "x");
    world.does("counter/seen", Verb::Resume).unwrap();
    world.end();
}

#[test]
fn k2_all_branches_of_a_fork_are_one_point() {
    for seal_every in [1, 0] {
        let mut world = World::with(PartitionConfig { seal_every, ..config() }, 1024, Vec::new());
        world.says("counter/a", "5");
        let fork = world
            .ask("counter/a", Verb::Fork { count: 3, at: None, suffix: None, keep_timers: false });
        world.ask("counter/a", send("1"));
        world.run();
        let Ok(Reply::Forked(keys)) = world.take(fork) else { panic!("no branches") };
        assert_eq!(keys.len(), 3);
        for (number, key) in (1..).zip(&keys) {
            assert_eq!(key.as_str(), format!("counter/a~{number}"));
            assert_eq!(world.says(key.as_str(), "get"), "5");
            let info = world.info(key.as_str());
            assert_eq!(info.parent.unwrap().as_str(), "counter/a");
            assert_eq!((info.head, info.version_count), (VersionId(1), 1));
            // All but the parent's newest line, which it has instead of its own.
            assert!(info.unique_bytes == 0 && (1..=4096).contains(&info.shared_bytes));
        }
        assert_eq!(world.says("counter/a", "get"), "6");
        assert_eq!(world.says("counter/a~2", "10"), "15");
        assert_eq!(world.says("counter/a~1", "get"), "5");
        assert_eq!(world.info("counter/a").branch_count, 3);
        world.end();
    }
}

#[test]
fn k3_forks_take_versions_names_and_free_numbers() {
    let mut world = World::new();
    world.says("counter/a", "5");
    world.does("counter/a", checkpoint("five")).unwrap();
    world.says("counter/a", "1");
    assert_eq!(world.fork("counter/a", 1, at(1)), ["counter/a~1"]);
    let five = Some(VersionRef::Label("five".into()));
    assert_eq!(world.fork("counter/a", 1, five), ["counter/a~2"]);
    let named = |name: &'static str| Verb::Fork {
        count: 1,
        at: None,
        suffix: Some(name.into()),
        keep_timers: false,
    };
    assert!(world.does("counter/a", named("3")).is_ok());
    assert_eq!(world.refused("counter/a", named("3")), "EXISTS");
    assert_eq!(world.fork("counter/a", 2, None), ["counter/a~4", "counter/a~5"]);
    assert_eq!(world.fork("counter/a~4", 1, None), ["counter/a~4~1"]);
    for (key, value) in [("a~1", "0"), ("a~2", "5"), ("a~3", "6"), ("a~4~1", "6")] {
        assert_eq!(world.says(&format!("counter/{key}"), "get"), value);
    }
    let long = format!("counter/{}", "x".repeat(246));
    world.does(&long, create()).unwrap();
    let before = world.partition.counters().agents;
    assert_eq!(
        world.refused(&long, Verb::Fork { count: 9, at: None, suffix: None, keep_timers: false }),
        "BADKEY"
    );
    assert_eq!(world.partition.counters().agents, before);
    world.end();
}

#[test]
fn t_rollback_goes_to_the_newest_checkpoint_or_any_kept_version() {
    let mut world = World::new();
    assert_eq!(world.says("counter/a", "1"), "1");
    assert_eq!(world.version("counter/a", rollback(None)), 1);
    assert_eq!(world.says("counter/a", "10"), "10");
    assert_eq!(world.version("counter/a", checkpoint("ten")), 3);
    assert_eq!(world.says("counter/a", "1"), "11");
    assert_eq!(world.version("counter/a", rollback(None)), 3);
    assert_eq!(world.says("counter/a", "get"), "10");
    assert_eq!(world.says("counter/a", "5"), "15");
    let versions = world.versions("counter/a");
    let tree: Vec<(u64, u64)> =
        versions.iter().map(|v| (v.id.0, v.parent.map_or(0, |p| p.0))).collect();
    assert_eq!(tree, [(1, 0), (2, 1), (3, 1), (4, 3), (5, 3)]);
    assert_eq!(world.version("counter/a", rollback(Some(4))), 4);
    assert_eq!(world.says("counter/a", "get"), "11");
    let label = Some(VersionRef::Label("ten".into()));
    assert_eq!(world.version("counter/a", Verb::Rollback { to: label }), 3);
    world.end();
}

#[test]
fn t_checkpoints_have_a_limit_and_automatic_versions_a_history() {
    let config = PartitionConfig { checkpoints_max: 3, history_max: 2, ..config() };
    let mut world = World::with(config, 64, Vec::new());
    for _ in 0..3 {
        world.says("counter/a", "1");
        world.does("counter/a", checkpoint("")).unwrap();
    }
    world.says("counter/a", "1");
    let refusal = world.does("counter/a", checkpoint("")).expect_err("a fourth");
    assert_eq!(refusal.code(), "LIMIT");
    assert!(refusal.to_string().contains("would be 4, the limit is 3"), "{refusal}");
    for _ in 0..9 {
        world.says("counter/a", "1");
    }
    let versions = world.versions("counter/a");
    assert_eq!(versions.iter().filter(|v| v.checkpoint).count(), 3);
    assert_eq!(versions.iter().filter(|v| !v.checkpoint).count(), 2);
    world.end();
}

#[test]
fn y1_rollback_drops_what_the_agent_awaited() {
    let mut world = World::new();
    world.does("counter/slow", create()).unwrap();
    world.does("counter/slow", Verb::Suspend).unwrap();
    world.does("relay/a", create()).unwrap();
    let open = world.ask("relay/a", send_once("counter/slow 1", "x"));
    let retry = world.ask("relay/a", send_once("counter/slow 1", "x"));
    world.run();
    assert_eq!(world.version("relay/a", rollback(None)), 1);
    assert_eq!(text(world.take(open)), "DROPPED");
    assert_eq!(text(world.take(retry)), "DROPPED");
    // The reply that comes later is nobody's.
    world.does("counter/slow", Verb::Resume).unwrap();
    assert_eq!(world.partition.counters().late_replies, 1);
    assert_eq!(world.says("counter/slow", "get"), "1");
    world.end();
}

#[test]
fn y1_a_reply_that_waits_when_its_call_is_dropped_runs_no_turn() {
    let mut world = World::new();
    world.does("relay/a", create()).unwrap();
    let open = world.ask("relay/a", send("counter/x 1"));
    world.step();
    let rolled = world.ask("relay/a", rollback(None));
    // The counter's turn: its reply enters the relay's mailbox, behind the rollback.
    world.step();
    assert!(world.peek(rolled).is_none());
    assert_eq!(world.partition.counters().late_replies, 0);
    world.run();
    assert!(world.take(rolled).is_ok());
    assert_eq!(text(world.take(open)), "DROPPED");
    assert_eq!(world.info("relay/a").turn_count, 1);
    assert_eq!(world.says("counter/x", "get"), "1");
    world.end();
}

#[test]
fn k1_commit_makes_the_branch_the_parent() {
    let mut world = World::new();
    world.says("counter/a", "1");
    world.does("counter/slow", create()).unwrap();
    world.fork("counter/a", 3, None);
    world.fork("counter/a~1", 1, None);
    world.fork("counter/a~2", 1, None);
    world.says("counter/a~2", "10");
    world.says("counter/a", "100");
    // Mail of the parent, then of the branch; of a sibling; and controls behind the commit.
    let verbs = [
        ("counter/a", Verb::Suspend),
        ("counter/a", send("1000")),
        ("counter/a~2", Verb::Suspend),
        ("counter/a~2", send("1")),
        ("counter/a~3", Verb::Suspend),
        ("counter/a~3", send("1")),
    ];
    let numbers: Vec<u64> = verbs.into_iter().map(|(key, verb)| world.ask(key, verb)).collect();
    world.run();
    assert_eq!(world.version("counter/a~2", Verb::Commit), 4);
    assert_eq!(text(world.take(numbers[5])), "NOAGENT");
    assert!(world.peek(numbers[1]).is_none() && world.peek(numbers[3]).is_none());
    world.does("counter/a", Verb::Resume).unwrap();
    assert_eq!(text(world.take(numbers[1])), "1011");
    assert_eq!(text(world.take(numbers[3])), "1012");
    for gone in ["counter/a~1", "counter/a~2", "counter/a~3"] {
        assert_eq!(world.refused(gone, Verb::Info), "NOAGENT");
    }
    for orphan in ["counter/a~1~1", "counter/a~2~1"] {
        assert_eq!(world.info(orphan).parent, None);
        assert_eq!(world.refused(orphan, Verb::Commit), "WRONGSTATE");
    }
    assert_eq!(world.info("counter/a").branch_count, 0);
    assert_eq!(world.fork("counter/a", 1, None), ["counter/a~4"]);
    world.end();
}

#[test]
fn k1_controls_queued_behind_a_commit_do_not_reach_the_parent() {
    let mut world = World::new();
    world.says("counter/a", "1");
    world.fork("counter/a", 1, None);
    let commit = world.ask("counter/a~1", Verb::Commit);
    let more = world.ask("counter/a~1", send("1"));
    let end = world.ask("counter/a~1", Verb::Terminate);
    let write = world.ask("counter/a~1", write(100, b"x"));
    world.run();
    assert!(world.take(commit).is_ok() && world.take(write).is_ok());
    assert_eq!(text(world.take(more)), "2");
    assert_eq!(text(world.take(end)), "NOAGENT");
    assert_eq!(world.says("counter/a", "get"), "2");
    world.end();
}

#[test]
fn y1_commit_drops_the_calls_of_parent_branch_and_siblings() {
    let mut world = World::new();
    world.does("counter/slow", create()).unwrap();
    world.does("counter/slow", Verb::Suspend).unwrap();
    world.does("relay/a", create()).unwrap();
    let keys = world.fork("relay/a", 2, None);
    let mut open = vec![world.ask("relay/a", send("counter/slow 1"))];
    open.extend(keys.iter().map(|key| world.ask(key, send("counter/slow 1"))));
    world.run();
    world.does(&keys[0], Verb::Commit).unwrap();
    for number in open {
        assert_eq!(text(world.take(number)), "DROPPED");
    }
    world.end();
}

#[test]
fn f2_what_follows_a_terminate_meets_a_new_agent() {
    let mut world = World::new();
    world.says("counter/a", "5");
    let verbs = [Verb::Terminate, Verb::Info, create(), send("1"), create(), Verb::Terminate];
    let numbers: Vec<u64> = verbs.map(|verb| world.ask("counter/a", verb)).into();
    let last = world.ask("counter/a", send("7"));
    world.run();
    let texts: Vec<String> = numbers.into_iter().map(|number| text(world.take(number))).collect();
    assert_eq!(texts, ["done", "NOAGENT", "Version(VersionId(1))", "1", "EXISTS", "done"]);
    assert_eq!(text(world.take(last)), "7");
    let roster: Vec<RosterChange> = world.partition.roster_changes().collect();
    let key: AgentKey = "counter/a".parse().unwrap();
    let born = RosterChange::Born(TenantId(0), key.clone());
    let ended = RosterChange::Ended(TenantId(0), key);
    assert_eq!(roster, [born.clone(), ended.clone(), born.clone(), ended, born]);
    world.end();
}

#[test]
fn f2_without_create_on_send_only_create_creates() {
    let config = PartitionConfig { create_on_send: false, ..config() };
    let mut world = World::with(config, 64, Vec::new());
    assert_eq!(world.refused("counter/a", send("1")), "NOAGENT");
    world.does("counter/a", create()).unwrap();
    assert_eq!(world.says("counter/a", "1"), "1");
    world.end();
}

#[test]
fn a_sealed_present_is_the_agents_own_until_others_hold_it() {
    for seal_every in [1, 0] {
        let mut world = World::with(PartitionConfig { seal_every, ..config() }, 64, Vec::new());
        let own = |world: &mut World, key: &str| {
            let info = world.info(key);
            (info.unique_bytes, info.shared_bytes)
        };
        world.says("counter/a", "1");
        assert_eq!(own(&mut world, "counter/a"), (4096, 0));
        world.version("counter/a", Verb::Checkpoint { label: None });
        assert_eq!(own(&mut world, "counter/a"), (4096, 0));
        world
            .does("counter/a", Verb::Fork { count: 1, at: None, suffix: None, keep_timers: false })
            .unwrap();
        assert_eq!(own(&mut world, "counter/a"), (0, 4096));
        assert_eq!(own(&mut world, "counter/a~1"), (0, 4096));
        world.says("counter/a~1", "1");
        assert_eq!(own(&mut world, "counter/a~1"), (4096, 0));
        world.does("counter/a~1", Verb::Terminate).unwrap();
        assert_eq!(own(&mut world, "counter/a"), (4096, 0));
        world.end();
    }
}

#[test]
fn created_images_are_as_long_as_asked() {
    let mut world = World::new();
    assert_eq!(world.version("notebook/a", Verb::Create { image_bytes: 65_536 }), 1);
    let info = world.info("notebook/a");
    assert_eq!((info.image_bytes, info.unique_bytes, info.version_count), (65_536, 0, 1));
    assert_eq!(text(world.does("notebook/a", read(65_530, 100))), "\0".repeat(6));
    assert_eq!(text(world.does("notebook/a", read(70_000, 100))), "");
    world.end();
}

#[test]
fn diff_names_the_bytes_that_differ() {
    let mut world = World::new();
    world.does("echo/a", create()).unwrap();
    world.version("echo/a", write(0, &[1; 10_000]));
    world.version("echo/a", write(5_000, b"xyz"));
    let from = VersionRef::Id(VersionId(2));
    let differs = vec![DiffRange { start: 5_000, len_bytes: 3 }];
    for to in [None, at(3)] {
        let diff = world.does("echo/a", Verb::Diff { from: from.clone(), to });
        assert_eq!(diff, Ok(Reply::Diff(differs.clone())));
    }
    world.end();
}

#[test]
fn lost_agents_are_refused_until_they_are_created() {
    let mut world = World::new();
    world.does("counter/lives", create()).unwrap();
    let keys = ["counter/a", "counter/b", "counter/a~1", "counter/lives"];
    world.partition.lose(keys.iter().map(|key| key.parse().unwrap()), TenantId(0));
    assert_eq!(world.partition.counters().lost, 3);
    let list = |pattern: Option<&'static str>| Verb::List {
        cursor: 0,
        count: 10,
        pattern: pattern.map(Bytes::from),
        lost: true,
    };
    let Ok(Reply::List { cursor: 0, keys }) = world.shard(list(None)) else { panic!("no list") };
    assert_eq!(keys.len(), 3);
    for verb in [send("1"), Verb::Info, read(0, 1), Verb::Terminate] {
        assert_eq!(world.refused("counter/a", verb), "LOST");
    }
    assert_eq!(world.refused("counter/a~1", Verb::Info), "LOST");
    assert_eq!(world.version("counter/a", create()), 1);
    assert_eq!(world.says("counter/a", "1"), "1");
    // A branch comes back by a fork of its parent.
    assert_eq!(world.fork("counter/a", 1, None), ["counter/a~1"]);
    assert_eq!(world.says("counter/a~1", "get"), "1");
    let Ok(Reply::List { keys, .. }) = world.shard(list(Some("*/b"))) else { panic!("no list") };
    assert_eq!(keys, ["counter/b".parse().unwrap()]);
    assert_eq!(world.partition.counters().lost, 1);
    world.end();
}

#[test]
fn j1_a_listing_has_every_lasting_agent_once() {
    let mut world = World::new();
    for n in 0..500 {
        world.does(&format!("counter/{n:03}"), create()).unwrap();
        world.does(&format!("echo/{n:03}"), create()).unwrap();
    }
    let mut seen = Vec::new();
    let (mut cursor, mut round) = (0, 0);
    loop {
        let pattern = Some(Bytes::from_static(b"counter/*"));
        let answer = world.shard(Verb::List { cursor, count: 37, pattern, lost: false });
        let Ok(Reply::List { cursor: next, keys }) = answer else { panic!("{answer:?}") };
        assert!(keys.len() <= 37);
        seen.extend(keys.iter().map(ToString::to_string));
        // Others come and go meanwhile.
        world.does(&format!("echo/{round:03}"), Verb::Terminate).unwrap();
        world.does(&format!("echo/new{round}"), create()).unwrap();
        (cursor, round) = (next, round + 1);
        if cursor == 0 {
            break;
        }
    }
    seen.sort();
    let all: Vec<String> = (0..500).map(|n| format!("counter/{n:03}")).collect();
    assert_eq!(seen, all);
    world.end();
}

#[test]
fn j2_the_busiest_agents_are_named() {
    let mut world = World::new();
    for round in 0..2_000 {
        world.says("counter/hot", "1");
        if round % 4 == 0 {
            world.says("counter/warm", "1");
        }
        if round % 100 == 0 {
            world.says(&format!("counter/cold{round}"), "1");
        }
    }
    let Ok(Reply::Hottest(hottest)) = world.shard(Verb::Hottest) else { panic!("no hottest") };
    assert_eq!(hottest[0].0.as_str(), "counter/hot");
    assert_eq!(hottest[1].0.as_str(), "counter/warm");
    assert!((1_000..4_000).contains(&hottest[0].1), "{}", hottest[0].1);
    world.does("counter/hot", Verb::Terminate).unwrap();
    assert_eq!(world.partition.hottest()[0].0.as_str(), "counter/warm");
    world.end();
}

#[test]
fn d1_requests_for_agents_elsewhere_are_passed_on_with_their_origin() {
    let config = PartitionConfig { shard_count: 4, shard: ShardId(2), ..config() };
    let mut world = World::with(config, 64, Vec::new());
    let keys = (0..100).map(|n| format!("counter/{n}"));
    let home = |key: &str| key.parse::<AgentKey>().unwrap().id(TenantId(0)).home(4);
    let (here, away): (Vec<String>, Vec<String>) = keys.partition(|key| home(key) == ShardId(2));
    assert_eq!(world.says(&here[0], "1"), "1");
    world.ask(&away[0], send("1"));
    world.run();
    assert_eq!(world.forwarded.len(), 1);
    assert!(matches!(world.forwarded[0].origin, Origin::Connection { seq: 2, .. }));
    // An effect for elsewhere leaves the same way, and its answer comes back as a call's.
    let relay = (0..).map(|n| format!("relay/{n}")).find(|key| home(key) == ShardId(2)).unwrap();
    let number = world.ask(&relay, send(&format!("{} 1", away[1])));
    world.run();
    let Origin::Agent { id, call } = world.forwarded[1].origin else { panic!("not a call") };
    let reply = Ok(Reply::Payload(Some("9".into())));
    world.partition.answer(world.now, id, call, reply.clone());
    world.partition.answer(world.now, id, call, reply);
    world.run();
    assert_eq!(text(world.take(number)), "9");
    // A family that moved here is served here, with its branches.
    let id = away[0].parse::<AgentKey>().unwrap().id(TenantId(0));
    world.partition.directory_mut().teach(id, ShardId(2), 1).unwrap();
    assert_eq!(world.says(&away[0], "1"), "1");
    let branch = world.fork(&away[0], 1, None);
    assert_eq!(world.says(&branch[0], "get"), "1");
    world.check();
}

#[test]
fn tenants_do_not_share_agents() {
    let mut world = World::new();
    world.says("counter/a", "1");
    let key: AgentKey = "counter/a".parse().unwrap();
    let target = Target::agent(TenantId(7), key);
    let origin = Origin::Connection { conn: 0, generation: 0, seq: 99, ack: Ack::Sealed };
    let (verb, ack) = (send("5"), Ack::Sealed);
    world.partition.accept(world.now, Request { target, verb, ack, deadline: None, origin });
    world.run();
    assert_eq!(text(world.take(99)), "5");
    assert_eq!(world.says("counter/a", "get"), "1");
}

#[test]
fn a_difference_in_too_many_places_is_refused_not_listed() {
    let mut world = World::with(config(), 4096, Vec::new());
    world.does("notebook/a", Verb::Create { image_bytes: 3 << 20 }).unwrap();
    world.does("notebook/a", checkpoint("")).unwrap();
    // Every 32nd byte differs, far enough apart to be a range each.
    let mut stripes = vec![0u8; 3 << 20];
    stripes.iter_mut().step_by(32).for_each(|byte| *byte = 1);
    let write = Verb::Write { offset: 0, bytes: stripes.into() };
    world.does("notebook/a", write).unwrap();
    let diff = Verb::Diff { from: VersionRef::Id(VersionId(1)), to: None };
    let refused = world.does("notebook/a", diff);
    let Err(Refusal::Limit { limit, .. }) = refused else {
        panic!("{:.200}", format!("{refused:?}"))
    };
    assert_eq!(limit, 65_536);
    world.end();
}
