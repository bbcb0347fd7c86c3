//! A partition beside an oracle: random requests, the same answers, the same agents.
//!
//! Owns: the comparison of every answer, and at the end of every image and version.  Not: several
//! shards, delays and deadlines, which the simulation has.

#[path = "partition/model.rs"]
mod model;
// The named tests use another part of it.
#[allow(dead_code)]
#[path = "partition/world.rs"]
mod world;

use bytes::Bytes;
use heronry_engine::verb::AgentInfo;
use heronry_engine::*;
use model::{Model, Refused};
use proptest::prelude::*;
use std::hash::{DefaultHasher, Hash, Hasher};
use world::*;

/// What a client does to an agent; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Act {
    Create {
        image_bytes: usize,
    },
    Add(i64),
    Write {
        at: usize,
        byte: u8,
        len: usize,
    },
    Checkpoint,
    Rollback(Option<u64>),
    Fork {
        count: u32,
        at: Option<u64>,
    },
    Commit,
    Terminate,
    Suspend,
    /// All that was done is written to the log.
    Flush,
    /// All that was done is written to the log, and an index is begun.
    Index,
    /// Old segments are emptied and dropped.
    Compact,
    /// All that can goes to the log only.
    Evict,
    /// The shard dies; what was not written is undone.
    Crash,
}

fn logged_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        10 => act(),
        2 => Just(Act::Flush),
        1 => Just(Act::Index),
        1 => Just(Act::Evict),
        1 => Just(Act::Compact),
        1 => Just(Act::Crash),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let version = || proptest::option::of(1..12u64);
    prop_oneof![
        1 => (0..3usize).prop_map(|pages| Act::Create { image_bytes: pages * 4096 }),
        5 => (-3..1000i64).prop_map(Act::Add),
        1 => any::<i64>().prop_map(Act::Add),
        4 => (0..20_000usize, 0..3u8, 0..9_000usize)
            .prop_map(|(at, byte, len)| Act::Write { at, byte, len }),
        // Enough for pages in records of their own.
        2 => (0..40_000usize, 1..4u8, 0..40_000usize)
            .prop_map(|(at, byte, len)| Act::Write { at, byte, len }),
        1 => (0..70_000usize, 0..3u8, 1..200usize)
            .prop_map(|(at, byte, len)| Act::Write { at, byte, len }),
        2 => Just(Act::Checkpoint),
        3 => version().prop_map(Act::Rollback),
        3 => (1..4u32, version()).prop_map(|(count, at)| Act::Fork { count, at }),
        2 => Just(Act::Commit),
        1 => Just(Act::Terminate),
        1 => Just(Act::Suspend),
    ]
}

/// The agent that a number means: one of two roots, or one of those that live.
fn choose(model: &Model, choice: u8) -> String {
    let roots = ["counter/a", "counter/b"];
    let count = roots.len() + model.agents.len();
    let at = usize::from(choice) % count;
    let living = || model.agents.keys().nth(at - roots.len());
    roots.get(at).map_or_else(|| living().cloned().unwrap_or_default(), ToString::to_string)
}

fn code<T>(result: Result<T, Refused>, good: impl FnOnce(T) -> Answer) -> Result<Answer, Refused> {
    result.map(good)
}

fn version(id: u64) -> Answer {
    Ok(Reply::Version(VersionId(id)))
}

/// The verb of an act, and what the model says to it.
fn expect(model: &mut Model, key: &str, act: &Act) -> (Verb, Result<Answer, Refused>) {
    let at = |to: &Option<u64>| to.map(|id| VersionRef::Id(VersionId(id)));
    match act {
        Act::Create { image_bytes } => (
            Verb::Create { image_bytes: *image_bytes as u64 },
            code(model.create(key, *image_bytes), version),
        ),
        Act::Add(number) => (
            send(&number.to_string()),
            code(model.add(key, *number), |sum| {
                Ok(Reply::Payload(Some(Bytes::from(sum.to_string()))))
            }),
        ),
        Act::Write { at, byte, len } => {
            let bytes = vec![*byte; *len];
            let expected = code(model.write(key, *at, &bytes), version);
            (Verb::Write { offset: *at as u64, bytes: Bytes::from(bytes) }, expected)
        }
        Act::Checkpoint => (checkpoint(""), code(model.checkpoint(key), version)),
        Act::Rollback(to) => (rollback(*to), code(model.rollback(key, *to), version)),
        Act::Fork { count, at: from } => (
            Verb::Fork { count: *count, at: at(from), suffix: None, keep_timers: false },
            code(model.fork(key, *count as usize, *from), |keys| {
                Ok(Reply::Forked(keys.iter().map(|key| key.parse().expect("a key")).collect()))
            }),
        ),
        Act::Commit => (Verb::Commit, code(model.commit(key), version)),
        Act::Terminate => (Verb::Terminate, code(model.terminate(key), |()| Ok(Reply::Done))),
        Act::Suspend => {
            let lives = model.agents.contains_key(key);
            let expected = if lives { Ok(Ok(Reply::Done)) } else { Err("NOAGENT") };
            (Verb::Suspend, expected)
        }
        Act::Flush | Act::Index | Act::Compact | Act::Evict | Act::Crash => {
            unreachable!("nobody asks an agent for that")
        }
    }
}

/// Compares one agent with the model's.
fn compare(world: &mut World, key: &str, agent: &model::Agent) {
    let info = world.info(key);
    let len = agent.image.bytes.len();
    assert_eq!(info.image_bytes, len as u64, "{key}");
    assert_eq!(info.head.0, agent.head, "{key}");
    assert_eq!(info.parent.map(|key| key.to_string()), agent.parent, "{key}");
    let read = world.does(key, Verb::Read { offset: 0, len_bytes: len as u32 + 1 });
    let bytes = Bytes::from(agent.image.bytes.clone());
    assert!(read == Ok(Reply::Payload(Some(bytes))), "the image of {key}");
    let versions = world.versions(key);
    let found = versions.iter().map(|version| {
        (version.id.0, version.parent.map(|id| id.0), version.checkpoint, version.image_bytes)
    });
    let expected = agent.versions.iter().map(|(id, version)| {
        (*id, version.parent, version.checkpoint, version.image.bytes.len() as u64)
    });
    assert!(found.eq(expected), "versions of {key}: {versions:?}");
}

/// Runs the acts one by one. `together` lets requests wait in the mailbox of one agent for as long
/// as the next act is for the same one.
fn run(acts: &[(u8, Act)], together: bool) {
    let config = PartitionConfig {
        history_max: 10_000,
        checkpoints_max: 10_000,
        quarantine_failures: 0,
        agents_max: 100_000,
        mailbox_max: 1_000,
        ..PartitionConfig::default()
    };
    let mut world = World::with(config, 8 * 1024, Vec::new());
    let mut model = Model::default();
    let mut open: Vec<(u64, String, Act, Result<Answer, Refused>)> = Vec::new();
    let mut last = String::new();
    for (choice, act) in acts {
        let key = choose(&model, *choice);
        if !(together && key == last) {
            settle(&mut world, &mut open);
        }
        let (verb, expected) = expect(&mut model, &key, act);
        let number = world.ask(&key, verb);
        if matches!(act, Act::Suspend) {
            // Taken back at once: requests behind it wait for that only.
            world.ask(&key, Verb::Resume);
        }
        open.push((number, key.clone(), act.clone(), expected));
        // Messages behind a commit go to the parent, which the model does not follow.
        last = if matches!(act, Act::Commit) { String::new() } else { key };
    }
    settle(&mut world, &mut open);
    world.check();
    assert_eq!(world.partition.counters().agents, model.agents.len() as u64);
    for (key, agent) in &model.agents {
        compare(&mut world, key, agent);
    }
    world.end();
}

/// Runs the acts on a partition with a log, which dies now and then.
fn run_logged(acts: &[(u8, Act)]) {
    let config = PartitionConfig {
        history_max: 10_000,
        checkpoints_max: 10_000,
        quarantine_failures: 0,
        log: true,
        ..PartitionConfig::default()
    };
    let mut world = World::with(config.clone(), 8 * 1024, Vec::new());
    let (mut model, mut durable) = (Model::default(), Model::default());
    let mut open = Vec::new();
    for (choice, act) in acts {
        match act {
            Act::Flush => {
                world.flush();
                durable = model.clone();
            }
            Act::Index => {
                world.flush();
                durable = model.clone();
                world.partition.begin_index();
                world.flush_some();
            }
            Act::Compact => {
                durable = model.clone();
                world.compact();
            }
            Act::Evict => {
                durable = model.clone();
                // What was used is spared once, and long chains are written whole first.
                for _ in 0..3 {
                    world.flush();
                    world.partition.make_room(world.now, 0, 1_000);
                }
                assert_eq!(world.partition.used_bytes(), 0, "E1: all is on disk");
            }
            Act::Crash => {
                world.restart(config.clone(), 8 * 1024, Vec::new());
                model = durable.clone();
            }
            _ => {
                let key = choose(&model, *choice);
                let (verb, expected) = expect(&mut model, &key, act);
                let number = world.ask(&key, verb);
                if matches!(act, Act::Suspend) {
                    world.ask(&key, Verb::Resume);
                }
                open.push((number, key, act.clone(), expected));
                settle(&mut world, &mut open);
                world.partition.debug_check();
            }
        }
    }
    world.flush();
    world.restart(config, 8 * 1024, Vec::new());
    world.check();
    assert_eq!(world.partition.counters().agents, model.agents.len() as u64);
    for (key, agent) in &model.agents {
        compare(&mut world, key, agent);
    }
    world.end();
}

/// With little history, everything that can be asked of an agent is the same after a restart.
fn run_pruned(acts: &[(u8, Act)], history_max: u32) {
    let config = PartitionConfig {
        history_max,
        checkpoints_max: 4,
        quarantine_failures: 0,
        log: true,
        ..PartitionConfig::default()
    };
    let mut world = World::with(config.clone(), 8 * 1024, Vec::new());
    let mut model = Model::default();
    for (choice, act) in acts {
        match act {
            Act::Flush => world.flush(),
            Act::Index => {
                world.partition.begin_index();
                world.flush_some();
            }
            Act::Compact => world.compact(),
            Act::Evict => {
                let before = portraits(&mut world);
                world.flush();
                world.partition.make_room(world.now, 0, 1_000);
                assert_eq!(portraits(&mut world), before);
            }
            Act::Crash => {
                let before = portraits(&mut world);
                world.flush();
                world.restart(config.clone(), 8 * 1024, Vec::new());
                assert_eq!(portraits(&mut world), before);
            }
            _ => {
                // The model chooses agents; it keeps all versions, so its answers are not these.
                let key = choose(&model, *choice);
                let (verb, _) = expect(&mut model, &key, act);
                world.ask(&key, verb);
                world.ask(&key, Verb::Resume);
                world.run();
            }
        }
        world.partition.debug_check();
    }
    world.flush();
    world.partition.debug_check();
    let live = world.partition.live_segments().values().map(|live| live.count).sum::<u64>();
    assert!(live > 0 || world.partition.counters().agents == 0, "J4: agents without records");
    world.end();
}

/// Stands for an answer too long to print.
fn digest(answer: &Answer) -> u64 {
    let Ok(Reply::Payload(Some(bytes))) = answer else { panic!("no bytes") };
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// All that clients can see of all agents, by key.
fn portraits(world: &mut World) -> Vec<String> {
    let list = Verb::List { cursor: 0, count: 10_000, pattern: None, lost: false };
    let Ok(Reply::List { keys, .. }) = world.shard(list) else { panic!("no listing") };
    let mut portraits = Vec::new();
    for key in keys {
        let key = key.as_str();
        let AgentInfo { head, parent, branch_count, state, image_bytes, .. } = world.info(key);
        let versions = world.versions(key);
        let read = world.does(key, Verb::Read { offset: 0, len_bytes: 1 << 20 });
        let from = |id| VersionRef::Id(id);
        let first = from(versions[0].id);
        let diffs: Vec<Answer> = versions
            .iter()
            .map(|version| {
                let (from, to) = (first.clone(), Some(from(version.id)));
                world.does(key, Verb::Diff { from, to })
            })
            .collect();
        portraits.push(format!(
            "{key} {head:?} {parent:?} {branch_count} {state} {image_bytes} {versions:?} {} \
             {diffs:?}",
            digest(&read)
        ));
    }
    portraits.sort();
    portraits
}

fn settle(world: &mut World, open: &mut Vec<(u64, String, Act, Result<Answer, Refused>)>) {
    world.run();
    for (number, key, act, expected) in open.drain(..) {
        let answer = world.take(number);
        match expected {
            Ok(expected) => assert_eq!(answer, expected, "{key} {act:?}"),
            Err(code) => {
                let refusal = answer.expect_err(code);
                assert_eq!(refusal.code(), code, "{key} {act:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn v2_served_one_by_one_it_does_what_the_model_does(
        acts in proptest::collection::vec((any::<u8>(), act()), 1..120)
    ) {
        run(&acts, false);
    }

    #[test]
    fn v2_queued_in_mailboxes_it_does_what_the_model_does(
        acts in proptest::collection::vec((0..6u8, act()), 1..120)
    ) {
        run(&acts, true);
    }
}

proptest! {
    // Each is some hundred restarts.
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn l1_a_partition_that_dies_goes_on_from_its_log(
        acts in proptest::collection::vec((any::<u8>(), logged_act()), 1..120)
    ) {
        run_logged(&acts);
    }

    #[test]
    fn l1_a_log_gives_all_that_is_kept(
        acts in proptest::collection::vec((any::<u8>(), logged_act()), 1..120),
        history_max in 1..4u32,
    ) {
        run_pruned(&acts, history_max);
    }
}
