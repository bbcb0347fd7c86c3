//! What a fork, a rollback and a commit do to each part of a live interpreter: one test for each
//! row of `docs/forks.md`.
//!
//! Owns: Python agents, and JavaScript ones where they differ, on one partition.  Not: the rules as
//! a function of the state (`host/restore.rs`), Wasm itself (`sandbox_generated.rs`).

#[allow(dead_code, reason = "other tests use other parts of it")]
#[path = "sandbox/world.rs"]
mod world;

use bytes::Bytes;
use heronry_engine::behaviour::{Behaviour, Fault, Turn};
use heronry_engine::verb::{Errand, Language};
use heronry_engine::*;
use heronry_shards::sandbox::seen::Seen;
use heronry_shards::sandbox::template::TemplateFile;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use world::*;

/// An agent whose handlers await what the message says, and note how that ended in `log`.
const AGENT: &str = r#"
log = []

async def sleep(ctx, seconds):
    await ctx.sleep(float(seconds))
    return "woke"

async def call(ctx, rest):
    key, _, message = rest.partition(" ")
    return await ctx.call(key, message)

async def pings(ctx, rest):
    key, count = rest.split()
    replies = [await ctx.call(key, f"slow {i}") for i in range(int(count))]
    return ",".join(replies)

async def slow(ctx, rest):
    await ctx.sleep(0.01)
    return rest

async def fork(ctx, count):
    fork = await ctx.fork(int(count))
    return " ".join([str(fork.index), ctx.key, *fork.keys])

async def travel(ctx, rest):
    tried = []
    point = await ctx.checkpoint("here")
    tried.append(1)
    if not point.restored:
        log.append("forgotten")
        ctx.send("notebook/remembers", "append left;")
        await ctx.rollback("here")
        log.append("never")
    return f"restored={point.restored} tried={tried}"

async def lost(ctx, rest):
    await ctx.rollback("nowhere")

async def on_message(ctx, message):
    verb, _, rest = message.partition(" ")
    try:
        result = await globals()[verb](ctx, rest)
    except Exception as error:
        log.append(f"{verb} {type(error).__name__} {getattr(error, 'code', '')}".strip())
        raise
    log.append(f"{verb} {result}")
    return f"{ctx.key} {result}"
"#;

/// A world with the agent above as `py`, and room for so many live instances; `None` without
/// guests.
fn python(live_max: u32) -> Option<World> {
    has_guests().then(|| {
        let mut world = World::new(live_max);
        world.deploy("py", Language::Python, Some(AGENT));
        world
    })
}

fn javascript() -> Option<World> {
    has_guests().then(|| {
        let mut world = World::new(8);
        world.deploy("js", Language::JavaScript, None);
        world
    })
}

fn log(world: &mut World, key: &str) -> String {
    world.exec(key, "'; '.join(log)").trim_matches('\'').to_owned()
}

fn same_everywhere(world: &mut World, keys: &[&str], code: &str) -> bool {
    let values: BTreeSet<String> = keys.iter().map(|key| world.exec(key, code)).collect();
    assert!(values.len() == 1 || values.len() == keys.len(), "{code}: {values:?}");
    values.len() == 1
}

const FAMILY: [&str; 3] = ["py/a", "py/a~1", "py/a~2"];

#[test]
fn f1_variables_are_the_branchs_own_copies() {
    let Some(mut world) = python(8) else { return };
    world.exec("py/a", "x = [1]; y = x");
    world.fork("py/a", 2, false);
    world.exec("py/a", "x.append(2)");
    world.exec("py/a~1", "x.append(3)");
    assert_eq!(world.exec("py/a", "y"), "[1, 2]");
    assert_eq!(world.exec("py/a~1", "y"), "[1, 3]");
    assert_eq!(world.exec("py/a~2", "y, x is y"), "([1], True)");
    world.does("py/a~1", Verb::Commit).expect("committed");
    assert_eq!(world.exec("py/a", "y, x is y"), "([1, 3], True)");
    world.end();
}

/// What `random` gives first after `random.seed(7)`.
const SEVENTH: &str = "0.32383276483316237";

#[test]
fn f2_python_randomness_is_fresh_after_fork_rollback_and_commit() {
    let Some(mut world) = python(8) else { return };
    world.exec("py/a", "import random, secrets, uuid, os\nrandom.seed(7)");
    world.does("py/a", checkpoint("seeded")).expect("a checkpoint");
    world.fork("py/a", 2, false);
    for code in ["secrets.token_hex(8)", "str(uuid.uuid4())", "os.urandom(8)"] {
        assert!(!same_everywhere(&mut world, &FAMILY, code), "{code}");
    }
    assert_eq!(world.exec("py/a", "random.random()"), SEVENTH);
    assert!(!same_everywhere(&mut world, &FAMILY, "random.random()"));
    world.does("py/a", rollback("seeded")).expect("rolled back");
    assert_ne!(world.exec("py/a", "random.random()"), SEVENTH);
    world.exec("py/a~1", "random.seed(7)");
    world.does("py/a~1", Verb::Commit).expect("committed");
    assert_ne!(world.exec("py/a", "random.random()"), SEVENTH);
    world.end();
}

#[test]
fn f2_two_agents_of_one_template_have_their_own_randomness() {
    let Some(mut world) = python(8) else { return };
    let code = "import random, uuid; (random.random(), uuid.uuid4())";
    assert!(!same_everywhere(&mut world, &["py/a", "py/b", "py/c"], code));
    world.end();
}

#[test]
fn f2_javascript_randomness_is_fresh_after_fork_and_rollback() {
    let Some(mut world) = javascript() else { return };
    world.exec("js/a", "Math.random()");
    world.does("js/a", checkpoint("used")).expect("a checkpoint");
    world.fork("js/a", 2, false);
    let family = ["js/a", "js/a~1", "js/a~2"];
    for code in ["Math.random()", "crypto.randomUUID()"] {
        assert!(!same_everywhere(&mut world, &family, code), "{code}");
    }
    world.does("js/a", rollback("used")).expect("rolled back");
    let first = world.exec("js/a", "Math.random()");
    world.does("js/a", rollback("used")).expect("rolled back");
    assert_ne!(world.exec("js/a", "Math.random()"), first);
    world.end();
}

#[test]
fn f3_a_generator_object_and_the_hash_seed_are_copied() {
    let Some(mut world) = python(8) else { return };
    world.exec("py/a", "import random\nown = random.Random(7)\nnames = {'a', 'b', 'c', 'd'}");
    world.fork("py/a", 2, false);
    for code in ["own.random()", "hash('a')", "list(names)", "'d' in names"] {
        assert!(same_everywhere(&mut world, &FAMILY, code), "{code}");
    }
    world.end();
}

#[test]
fn f4_a_branch_has_its_own_key_and_id() {
    let Some(mut world) = python(8) else { return };
    assert_eq!(world.exec("py/a", "ctx.key"), "'py/a'");
    let keys = world.fork("py/a", 2, false);
    assert_eq!(keys, ["py/a~1", "py/a~2"]);
    for key in FAMILY {
        assert_eq!(world.exec(key, "ctx.key"), format!("'{key}'"));
    }
    let ids: BTreeSet<_> = FAMILY.iter().map(|key| world.info(key).id).collect();
    assert_eq!(ids.len(), 3);
    world.does("py/a~2", Verb::Commit).expect("committed");
    assert_eq!(world.exec("py/a", "ctx.key"), "'py/a'");
    world.end();
}

#[test]
fn f5_the_clock_never_goes_back() {
    let Some(mut world) = python(8) else { return };
    let read = |world: &mut World, key: &str| -> u64 {
        let text = world.exec(key, "import time; time.monotonic_ns()");
        text.parse().expect("a number")
    };
    let mut last = read(&mut world, "py/a");
    world.does("py/a", checkpoint("then")).expect("a checkpoint");
    world.wait(1_000);
    let mut later = |world: &mut World, key: &str| {
        let now = read(world, key);
        assert!(now > last, "{key} read {now} after {last}");
        last = now;
    };
    later(&mut world, "py/a");
    world.does("py/a", rollback("then")).expect("rolled back");
    later(&mut world, "py/a");
    world.fork("py/a", 1, false);
    later(&mut world, "py/a~1");
    world.does("py/a~1", Verb::Commit).expect("committed");
    later(&mut world, "py/a");
    world.end();
}

#[test]
fn f6_there_are_no_sockets_to_inherit() {
    let Some(mut world) = python(8) else { return };
    let said = world.exec("py/a", "import socket; socket.socket()");
    assert!(said.contains("no sockets in the sandbox"), "{said}");
    let said = world.exec("py/a", "open('/made', 'w')");
    assert!(said.contains("OSError: [Errno"), "{said}");
    world.end();
}

#[test]
fn f7_a_sleep_belongs_to_the_parent_unless_timers_are_kept() {
    let Some(mut world) = python(8) else { return };
    let slept = world.ask("py/a", send("sleep 5"));
    world.run();
    world.fork("py/a", 1, false);
    world.wait(2_000);
    world.fork("py/a", 1, true);
    assert_eq!(log(&mut world, "py/a~1"), "sleep Forked");
    assert_eq!(log(&mut world, "py/a~2"), "");
    world.wait(2_900);
    assert_eq!((log(&mut world, "py/a~2").as_str(), world.is_open(slept)), ("", true));
    world.wait(200);
    assert_eq!(world.answered(slept), "py/a woke");
    for (key, ends) in [("py/a", "sleep woke"), ("py/a~2", "sleep woke")] {
        assert_eq!(log(&mut world, key), ends, "{key}");
    }
    world.wait(10_000);
    assert_eq!(log(&mut world, "py/a~1"), "sleep Forked");
    world.end();
}

#[test]
fn f7_timers_of_asyncio_belong_to_the_parent_unless_they_are_kept() {
    let Some(mut world) = python(8) else { return };
    world.exec(
        "py/a",
        "import asyncio\nloop = asyncio.get_running_loop()\nfor s in (1, 2, 3):\n    \
         loop.call_later(s, log.append, str(s))",
    );
    world.fork("py/a", 1, false);
    world.fork("py/a", 1, true);
    world.exec("py/a~1", "loop.call_later(2, log.append, 'own')");
    for _ in 0..4 {
        world.wait(1_000);
    }
    assert_eq!(log(&mut world, "py/a"), "1; 2; 3");
    assert_eq!(log(&mut world, "py/a~2"), "1; 2; 3");
    assert_eq!(log(&mut world, "py/a~1"), "own");
    world.end();
}

#[test]
fn f7_timers_of_javascript_belong_to_the_parent_unless_they_are_kept() {
    let Some(mut world) = javascript() else { return };
    world.exec(
        "js/a",
        "globalThis.log = []; for (const s of [1, 2, 3]) setTimeout(() => log.push(s), s * 1000)",
    );
    world.fork("js/a", 1, false);
    world.fork("js/a", 1, true);
    for _ in 0..4 {
        world.wait(1_000);
    }
    assert_eq!(world.exec("js/a", "log.join()"), "\"1,2,3\"");
    assert_eq!(world.exec("js/a~2", "log.join()"), "\"1,2,3\"");
    assert_eq!(world.exec("js/a~1", "log.join()"), "\"\"");
    world.end();
}

#[test]
fn f8_an_open_call_belongs_to_the_parent() {
    let Some(mut world) = python(8) else { return };
    let called = world.ask("py/a", send("call py/b sleep 5"));
    world.run();
    world.fork("py/a", 1, true);
    assert_eq!(log(&mut world, "py/a~1"), "call Forked");
    world.wait(5_000);
    assert_eq!(world.answered(called), "py/a py/b woke");
    assert_eq!(log(&mut world, "py/a"), "call py/b woke");
    assert_eq!(log(&mut world, "py/a~1"), "call Forked");
    assert_eq!(log(&mut world, "py/b"), "sleep woke");
    world.end();
}

#[test]
fn f9_a_rollback_drops_open_calls_and_keeps_sleeps_with_their_due_time() {
    let Some(mut world) = python(8) else { return };
    let slept = world.ask("py/a", send("sleep 5"));
    let called = world.ask("py/a", send("call py/b sleep 20"));
    world.run();
    world.does("py/a", checkpoint("both")).expect("a checkpoint");
    world.wait(1_000);
    world.exec("py/a", "log.append('forgotten')");
    world.does("py/a", rollback("both")).expect("rolled back");
    for open in [slept, called] {
        assert!(world.answered(open).starts_with("DROPPED "));
    }
    assert_eq!(log(&mut world, "py/a"), "call Refused DROPPED");
    world.wait(3_900);
    assert_eq!(log(&mut world, "py/a"), "call Refused DROPPED");
    world.wait(200);
    assert_eq!(log(&mut world, "py/a"), "call Refused DROPPED; sleep woke");
    let late = world.partition.counters().late_replies;
    world.wait(20_000);
    assert_eq!(log(&mut world, "py/b"), "sleep woke");
    assert_eq!(world.partition.counters().late_replies, late + 1);
    assert_eq!(log(&mut world, "py/a"), "call Refused DROPPED; sleep woke");
    world.end();
}

#[test]
fn f9_a_commit_drops_open_calls_and_keeps_the_branchs_sleeps() {
    let Some(mut world) = python(8) else { return };
    let slept = world.ask("py/a", send("sleep 5"));
    world.run();
    world.fork("py/a", 1, true);
    let called = world.ask("py/a~1", send("call py/b sleep 20"));
    world.run();
    world.does("py/a~1", Verb::Commit).expect("committed");
    assert!(world.answered(slept).starts_with("DROPPED "));
    assert!(world.answered(called).starts_with("DROPPED "));
    assert_eq!(log(&mut world, "py/a"), "call Refused DROPPED");
    world.wait(5_000);
    assert_eq!(log(&mut world, "py/a"), "call Refused DROPPED; sleep woke");
    world.end();
}

#[test]
fn f10_an_own_fork_is_answered_in_each_branch_with_its_index() {
    let Some(mut world) = python(8) else { return };
    let said = world.says("py/a", "fork 3");
    assert_eq!(said, "py/a 0 py/a py/a~1 py/a~2 py/a~3");
    assert_eq!(log(&mut world, "py/a"), "fork 0 py/a py/a~1 py/a~2 py/a~3");
    for index in 1..=3 {
        let key = format!("py/a~{index}");
        assert_eq!(log(&mut world, &key), format!("fork {index} {key}"));
    }
    assert_eq!(world.says("py/a~2", "fork 1"), "py/a~2 0 py/a~2 py/a~2~1");
    assert_eq!(log(&mut world, "py/a~2~1"), "fork 2 py/a~2; fork 1 py/a~2~1");
    world.end();
}

#[test]
fn f10_a_fork_by_a_client_in_the_middle_of_an_own_one_answers_it_nowhere_else() {
    let Some(mut world) = python(8) else { return };
    let (own, called) = (world.ask("py/a", send("fork 1")), world.ask("py/b", send("sleep 1")));
    world.run();
    assert_eq!(world.answered(own), "py/a 0 py/a py/a~1");
    assert!(world.is_open(called));
    world.fork("py/a~1", 1, false);
    assert_eq!(log(&mut world, "py/a~1~1"), "fork 1 py/a~1");
    world.end();
}

#[test]
fn f11_an_own_checkpoint_is_answered_once_more_after_the_rollback_to_it() {
    let Some(mut world) = python(8) else { return };
    assert_eq!(world.says("py/a", "travel"), "py/a restored=True tried=[1]");
    assert_eq!(log(&mut world, "py/a"), "travel restored=True tried=[1]");
    assert_eq!(world.says("notebook/remembers", "read"), "left;");
    assert_eq!(world.exec("py/a", "ctx.key"), "'py/a'");
    world.end();
}

#[test]
fn f11_a_rollback_to_nowhere_is_refused_and_changes_nothing() {
    let Some(mut world) = python(8) else { return };
    let said = world.says("py/a", "lost");
    assert!(said.contains("NOVERSION"), "{said}");
    assert_eq!(log(&mut world, "py/a"), "lost Refused NOVERSION");
    world.end();
}

#[test]
fn f12_a_branch_cannot_answer_its_parents_requests() {
    let Some(mut world) = python(8) else { return };
    let slept = world.ask("py/a", send("sleep 5"));
    world.run();
    world.fork("py/a", 1, true);
    world.does("py/a", Verb::Suspend).expect("suspended");
    world.wait(6_000);
    assert_eq!(log(&mut world, "py/a~1"), "sleep woke");
    assert!(world.is_open(slept));
    world.does("py/a", Verb::Resume).expect("resumed");
    world.run();
    assert_eq!(world.answered(slept), "py/a woke");
    world.end();
}

const FETCH: &str = r#"
secret = await ctx.http("GET", "https://api.example/", secrets=["TOKEN"],
                        headers={"authorization": "Bearer {{secret:TOKEN}}"})
(secret.status, secret.text)
"#;

#[test]
fn f13_a_secret_goes_by_name_and_is_in_no_image() {
    let Some(mut world) = python(8) else { return };
    let fetched = world.ask("py/a", exec(FETCH));
    world.run();
    world.fork("py/a", 1, true);
    let [(_, Errand::Http { agent, request, idempotency })] = &world.errands[..] else {
        panic!("{:?}", world.errands);
    };
    assert_eq!(agent.as_str(), "py/a");
    let request = String::from_utf8_lossy(request).into_owned();
    assert!(request.contains("Bearer {{secret:TOKEN}}"), "{request}");
    let idempotency = idempotency.clone();
    let response = r#"{"status":200,"headers":{},"body":"hello"}"#;
    world.answer_errand(Ok(Reply::Payload(Some(Bytes::from_static(response.as_bytes())))));
    assert_eq!(world.answered(fetched), "(200, 'hello')");
    world.ask("py/a", exec(FETCH));
    world.run();
    let [(_, Errand::Http { idempotency: second, .. })] = &world.errands[..] else {
        panic!("{:?}", world.errands);
    };
    assert_ne!(*second, idempotency);
    // The host knows the value, no image does; the name is in both.
    for key in ["py/a", "py/a~1"] {
        let image = world.image(key);
        assert!(image.windows(12).any(|at| at == b"secret:TOKEN"), "{key}");
    }
    world.end();
}

#[test]
fn f14_branches_made_at_once_share_one_point() {
    let Some(mut world) = python(8) else { return };
    world.exec("py/a", "x = 0");
    let before = world.ask("py/a", exec("x += 1"));
    let fork = Verb::Fork { count: 3, at: None, suffix: None, keep_timers: false };
    world.ask("py/a", fork);
    let after = world.ask("py/a", exec("x += 1"));
    world.run();
    assert_eq!((world.answered(before), world.answered(after)), (String::new(), String::new()));
    let images: BTreeSet<_> = (1..=3)
        .map(|index| blake3::hash(&world.image(&format!("py/a~{index}"))).to_hex())
        .collect();
    assert_eq!(images.len(), 1);
    for index in 1..=3 {
        assert_eq!(world.exec(&format!("py/a~{index}"), "x"), "1");
    }
    assert_eq!(world.exec("py/a", "x"), "2");
    world.end();
}

#[test]
fn f15_memory_is_accounted_over_the_life_of_a_branch() {
    let Some(mut world) = python(8) else { return };
    world.exec("py/a", "x = bytes(range(256)) * 4096");
    let alone = world.info("py/a");
    assert!(alone.unique_bytes > 1 << 20, "{alone:?}");
    world.fork("py/a", 1, false);
    let (parent, branch) = (world.info("py/a"), world.info("py/a~1"));
    assert_eq!((parent.unique_bytes, branch.unique_bytes), (0, 0));
    assert!(branch.shared_bytes > 1 << 20);
    world.exec("py/a~1", "y = bytes(range(256)) * 8192");
    let (parent, branch) = (world.info("py/a"), world.info("py/a~1"));
    assert!(branch.unique_bytes > 2 << 20, "{branch:?}");
    assert_eq!(parent.unique_bytes, 0);
    world.does("py/a~1", Verb::Terminate).expect("ended");
    assert!(world.info("py/a").unique_bytes > 1 << 20);
    world.end();
}

#[test]
fn f15_what_the_branches_of_a_large_image_map_together_goes_with_the_last_of_them() {
    let Some(mut world) = python(2) else { return };
    world.exec("py/a", "x = bytes(range(256)) * (10 << 12)");
    world.fork("py/a", 3, false);
    let alone = world.partition.counters().frames_used;
    for branch in ["py/a~1", "py/a~2", "py/a~3"] {
        assert_eq!(world.exec(branch, "len(x) >> 20"), "10");
        assert!(world.info(branch).unique_bytes < 2 << 20);
    }
    assert!(world.partition.counters().frames_used < alone + 1_000);
    world.does("py/a", Verb::Terminate).expect("ended");
    assert_eq!(world.exec("py/a~3", "sum(x) // len(x)"), "127");
    world.end();
}

/// Runs agents under one behaviour first and under another one later.
struct Swapped {
    first: Rc<dyn Behaviour>,
    second: Rc<dyn Behaviour>,
    swapped: Rc<Cell<bool>>,
}

impl Swapped {
    fn now(&self) -> &dyn Behaviour {
        if self.swapped.get() { &*self.second } else { &*self.first }
    }
}

impl Behaviour for Swapped {
    fn name(&self) -> &str {
        "swapped"
    }
    fn summary(&self) -> &str {
        "another build of its module comes in the middle of its life"
    }
    fn start(&self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        self.now().start(turn)
    }
    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        self.now().on_message(turn, message)
    }
    fn on_exec(&self, turn: &mut Turn<'_>, code: &Bytes) -> Result<(), Fault> {
        self.now().on_exec(turn, code)
    }
    fn resume(&self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        self.now().resume(turn)
    }
    fn base_page(&self, page_idx: u32) -> Option<&[u8; PAGE_BYTES]> {
        self.now().base_page(page_idx)
    }
    fn forget(&self, agent: AgentId, store: &mut PageStore) {
        self.first.forget(agent, store);
    }
}

#[test]
fn f16_an_image_is_refused_under_another_build_of_its_module() {
    if !has_guests() {
        return;
    }
    let mut world = World::new(1);
    let mut load = |name: &str, language| {
        let file = world.build(name, 1, language, None, None).expect("built");
        (world.load(name, 1, &file).expect("loaded"), file)
    };
    let (first, python) = load("one", Language::Python);
    let (second, _) = load("other", Language::JavaScript);
    let swapped = Rc::new(Cell::new(false));
    let flag = Rc::clone(&swapped);
    world.partition.deploy(Rc::new(Swapped { first, second, swapped: flag }), true).expect("new");
    assert_eq!(world.exec("swapped/a", "x = 41"), "");
    assert_eq!(world.exec("swapped/b", "x = 1"), "");
    swapped.set(true);
    let said = world.exec("swapped/a", "x");
    assert!(said.starts_with("FAULT ") && said.contains("another build of the module"), "{said}");
    swapped.set(false);
    assert_eq!(world.exec("swapped/a", "x + 1"), "42");
    // A template whose state is of another module than its header names is no template.
    let whole = TemplateFile::open(&python, &Seen::nothing()).expect("a template");
    let mut header = whole.header.clone();
    let other = world.folder.path().join("other-1.template");
    let other = TemplateFile::open(&other, &Seen::nothing()).expect("a template");
    header.module = other.header.module;
    let mixed = world.folder.path().join("mixed.template");
    TemplateFile::write(&mixed, &header, whole.memory()).expect("written");
    let refused = world.load("mixed", 1, &mixed).err();
    assert!(refused.is_some_and(|text| text.contains("deploy it again")));
    world.end();
}

#[test]
fn f17_agents_and_their_branches_keep_the_number_of_their_template() {
    if !has_guests() {
        return;
    }
    let mut world = World::new(1);
    for number in 1..=2 {
        let source = format!("number = {number}\ndef on_message(ctx, m): return str(number)\n");
        let source = Some(source.as_bytes());
        world.try_deploy("py", number, Language::Python, source, None).expect("deployed");
        assert_eq!(world.says(&format!("py/{number}"), ""), number.to_string());
    }
    let js = "export function onMessage(ctx, m) { return 'js' }";
    world.deploy("other", Language::JavaScript, Some(js));
    world.fork("py/1", 1, false);
    world.fork("py/2", 1, false);
    for (key, says) in
        [("py/1", "1"), ("py/1~1", "1"), ("other/a", "js"), ("py/2~1", "2"), ("py/3", "2")]
    {
        assert_eq!(world.says(key, "?"), says, "{key}");
    }
    assert!(world.live().evictions >= 6, "{:?}", world.live());
    world.end();
}

#[test]
fn f18_an_evicted_agent_is_told_once_what_it_awaited() {
    let Some(mut world) = python(1) else { return };
    let slept = world.ask("py/a", send("sleep 5"));
    let called = world.ask("py/a", send("call py/b sleep 2"));
    world.run();
    world.fork("py/a", 1, true);
    assert_eq!(world.live().live, 1);
    world.wait(2_000);
    assert_eq!(world.answered(called), "py/a py/b woke");
    world.exec("py/c", "x = 1");
    world.wait(3_000);
    assert_eq!(world.answered(slept), "py/a woke");
    assert_eq!(log(&mut world, "py/a"), "call py/b woke; sleep woke");
    assert_eq!(log(&mut world, "py/a~1"), "call Forked; sleep woke");
    assert!(world.live().evictions > 5, "{:?}", world.live());
    world.end();
}

#[test]
fn f18_calls_between_two_agents_that_evict_each_other_come_in_order_and_once() {
    let Some(mut world) = python(1) else { return };
    let asked = world.ask("py/a", send("pings py/b 12"));
    while world.is_open(asked) {
        world.wait(10);
    }
    let replies: Vec<String> = (0..12).map(|i| format!("py/b {i}")).collect();
    assert_eq!(world.answered(asked), format!("py/a {}", replies.join(",")));
    let handled: Vec<String> = (0..12).map(|i| format!("slow {i}")).collect();
    assert_eq!(log(&mut world, "py/b"), handled.join("; "));
    assert!(world.live().evictions > 12, "{:?}", world.live());
    world.end();
}

#[test]
fn f18_many_handlers_of_one_agent_await_at_once_and_each_ends_once() {
    let Some(mut world) = python(1) else { return };
    const COUNT: u64 = 120;
    let asked: Vec<u64> = (0..COUNT)
        .map(|i| match i % 3 {
            0 => world.ask("py/a", send(&format!("sleep {}", (COUNT - i) as f64 / 100.0))),
            1 => world.ask("py/a", send(&format!("call py/b slow {i}"))),
            _ => world.ask("py/a", send(&format!("slow {i}"))),
        })
        .collect();
    world.run();
    world.fork("py/a", 1, true);
    for _ in 0..130 {
        world.wait(10);
    }
    for (i, asked) in (0..COUNT).zip(asked) {
        let expected = match i % 3 {
            0 => "py/a woke".to_owned(),
            1 => format!("py/a py/b {i}"),
            _ => format!("py/a {i}"),
        };
        assert_eq!(world.answered(asked), expected);
    }
    assert_eq!(world.exec("py/a", "len(log)"), COUNT.to_string());
    let branch = "sum(line.endswith('Forked') for line in log), len(log)";
    assert_eq!(world.exec("py/a~1", branch), format!("({}, {COUNT})", COUNT / 3));
    world.end();
}

#[test]
fn f19_a_fork_that_cannot_be_made_makes_no_branch() {
    let Some(mut world) = python(8) else { return };
    for count in ["0", "100000"] {
        let said = world.says("py/a", &format!("fork {count}"));
        assert!(said.starts_with("RAISED ") || said.starts_with("FAULT "), "{said}");
    }
    assert_eq!(world.info("py/a").branch_count, 0);
    assert_eq!(world.says("py/a", "fork 1"), "py/a 0 py/a py/a~1");
    world.end();
}
