//! Bad input and faults: the sender gets an error that names what happened, the agent is what it
//! was before the turn, its neighbours work, and its memory comes back.
//!
//! Owns: Python and JavaScript agents and small modules that misbehave.  Not: what the wire refuses
//! before it gets here, how modules are refused in detail (`sandbox_modules.rs`).

#[allow(dead_code, reason = "other tests use other parts of it")]
#[path = "sandbox/world.rs"]
mod world;

use heronry_engine::verb::Language;
use heronry_engine::*;
use std::time::Duration;
use world::*;

/// An agent that does what it should not, having counted the message before that.
const AGENT: &str = r#"
import asyncio, os, sys
count = 0

def deeper(n):
    return deeper(n + 1)

async def on_message(ctx, message):
    global count
    count += 1
    if isinstance(message, bytes):
        return f"{len(message)} bytes: {message!r}"
    match message.split():
        case ["loop"]:
            while True:
                pass
        case ["recurse"]:
            deeper(0)
        case ["bomb"]:
            bomb = []
            while True:
                bomb.append(bytearray(b"x") * (1 << 20))
        case ["keep", mib]:
            ctx.state.kept = b"x" * (int(mib) << 20)
        case ["exit", code]:
            sys.exit(int(code))
        case ["_exit", code]:
            os._exit(int(code))
        case ["abort"]:
            os.abort()
        case ["raise"]:
            raise ValueError("told so")
        case ["raise", "later"]:
            await ctx.sleep(1)
            count += 100
            raise ValueError("told so later")
        case ["stuck"]:
            await asyncio.get_running_loop().create_future()
        case ["stuck", "later"]:
            await ctx.sleep(1)
            await asyncio.get_running_loop().create_future()
        case ["print", count_of]:
            sys.stdout.write("x" * int(count_of))
        case ["reply", count_of]:
            return "x" * int(count_of)
        case ["send", count_of]:
            ctx.send("py/neighbour", "x" * int(count_of))
        case ["call", key]:
            return await ctx.call(key, "hi")
    return str(count)
"#;

const JAVASCRIPT: &str = r#"
let count = 0;
const deeper = (n) => 1 + deeper(n + 1);
export async function onMessage(ctx, message) {
  count += 1;
  if (message instanceof Uint8Array) return `${message.length} bytes`;
  switch (message) {
    case "loop": for (;;);
    case "recurse": return deeper(0);
    case "bomb": for (const bomb = [];;) bomb.push(new Uint8Array(1 << 20).fill(1));
    case "raise": throw new RangeError("told so");
    case "stuck": await new Promise(() => {});
  }
  return String(count);
}
"#;

/// The agents above as `py` and `js`, with little time and memory.
fn world() -> Option<World> {
    world_with(1 << 14)
}

fn world_with(frame_count: usize) -> Option<World> {
    has_guests().then(|| {
        let mut world = World::with(Settings {
            live_max: 3,
            frame_count,
            memory_bytes_max: 48 << 20,
            turn_cpu_max: Duration::from_millis(400),
            payload_bytes_max: 1 << 20,
            ..Settings::default()
        });
        world.deploy("py", Language::Python, Some(AGENT));
        world.deploy("js", Language::JavaScript, Some(JAVASCRIPT));
        world
    })
}

/// Sends a message whose turn must fail: the words of the failure. The agent is then what it was,
/// and another one works.
fn fails(world: &mut World, key: &str, message: &str) -> String {
    assert!(!world.says(key, "count").contains(' '));
    let before = (blake3::hash(&world.image(key)), world.info(key).head);
    let said = world.says(key, message);
    unharmed(world, key, before);
    said
}

fn unharmed(world: &mut World, key: &str, before: (blake3::Hash, VersionId)) {
    let after = (blake3::hash(&world.image(key)), world.info(key).head);
    assert_eq!(after, before, "{key} is not what it was");
    let neighbour: u64 = world.says("py/neighbour", "count").parse().expect("a count");
    let count: u64 = world.says(key, "count").parse().expect("a count");
    assert!(neighbour > 0 && count > 1);
}

#[test]
fn g1_an_endless_loop_ends_with_its_budget_and_lets_others_work_meanwhile() {
    let Some(mut world) = world() else { return };
    for key in ["py/a", "js/a"] {
        world.says("py/neighbour", "count");
        world.says(key, "count");
        let before = (blake3::hash(&world.image(key)), world.info(key).head);
        let endless = world.ask(key, send("loop"));
        let waits = world.ask(key, send("count"));
        let other = world.ask("py/neighbour", send("count"));
        while world.is_open(other) {
            world.step().expect("the loop goes on");
        }
        assert!(world.is_open(endless) && world.is_open(waits), "{key}");
        world.run();
        let said = world.answered(endless);
        assert!(said.starts_with("FAULT ") && said.contains("turn_ms_max"), "{said}");
        assert_eq!(world.answered(waits), "2");
        // The message after it came, so the image is the version after that one.
        assert!(world.info(key).head > before.1);
        let again = fails(&mut world, key, "loop");
        assert!(again.contains("ms of CPU"), "{again}");
    }
    world.end();
}

#[test]
fn g2_a_recursion_without_end_is_an_error_of_its_language() {
    let Some(mut world) = world() else { return };
    let said = fails(&mut world, "py/a", "recurse");
    assert!(said.starts_with("FAULT ") && said.contains("RecursionError"), "{said}");
    assert!(said.contains("in deeper"), "{said}");
    let said = fails(&mut world, "js/a", "recurse");
    assert!(said.starts_with("FAULT ") && said.contains("RangeError"), "{said}");
    world.end();
}

#[test]
fn g3_a_memory_bomb_is_an_error_and_gives_its_memory_back() {
    let Some(mut world) = world() else { return };
    let said = fails(&mut world, "py/a", "bomb");
    assert!(said.starts_with("FAULT ") && said.contains("MemoryError"), "{said}");
    let said = fails(&mut world, "js/a", "bomb");
    assert!(said.starts_with("FAULT ") && said.contains("memory"), "{said}");
    let used = world.partition.counters().frames_used;
    assert!(used < 4_000, "{used} frames for three agents");
    world.end();
}

#[test]
fn g3_what_the_arena_has_no_room_for_is_undone() {
    let Some(mut world) = world_with(6_000) else { return };
    let said = fails(&mut world, "py/a", "keep 30");
    assert!(said.starts_with("FULL "), "{said}");
    assert_eq!(world.exec("py/a", "ctx.state"), "{}");
    world.says("py/a", "keep 4");
    assert_eq!(world.exec("py/a", "len(ctx.state.kept) >> 20"), "4");
    world.end();
}

#[test]
fn g4_an_agent_that_exits_or_aborts_is_undone() {
    let Some(mut world) = world() else { return };
    for (message, names) in
        [("exit 3", "SystemExit: 3"), ("_exit 4", "exited with code 4"), ("abort", "unreachable")]
    {
        let said = fails(&mut world, "py/a", message);
        assert!(said.starts_with("FAULT ") && said.contains(names), "{message}: {said}");
    }
    world.end();
}

#[test]
fn g5_an_exception_comes_with_its_traceback_and_undoes_its_turn() {
    let Some(mut world) = world() else { return };
    let said = fails(&mut world, "py/a", "raise");
    assert!(said.starts_with("FAULT ") && said.contains("ValueError: told so"), "{said}");
    assert!(said.contains(r#"File "agent.py", line"#), "{said}");
    let said = fails(&mut world, "js/a", "raise");
    assert!(said.starts_with("FAULT ") && said.contains("RangeError: told so"), "{said}");
    assert!(said.contains("at onMessage"), "{said}");
    world.end();
}

#[test]
fn g5_an_exception_after_an_await_refuses_its_request_and_keeps_what_others_did() {
    let Some(mut world) = world() else { return };
    let raised = world.ask("py/a", send("raise later"));
    world.run();
    assert_eq!(world.says("py/a", "count"), "2");
    world.wait(1_000);
    let said = world.answered(raised);
    assert!(said.starts_with("RAISED ") && said.contains("told so later"), "{said}");
    assert_eq!(world.says("py/a", "count"), "103");
    world.end();
}

#[test]
fn g5_an_exception_in_exec_keeps_what_was_done_before_it() {
    let Some(mut world) = world() else { return };
    let said = world.exec("py/a", "x = 7\nprint('so far')\nx / 0");
    assert!(said.starts_with("RAISED ") && said.contains("ZeroDivisionError"), "{said}");
    assert!(said.contains("so far") && said.contains("x / 0"), "{said}");
    assert_eq!(world.exec("py/a", "x"), "7");
    let said = world.exec("py/a", "x = = 1");
    assert!(said.contains("SyntaxError"), "{said}");
    world.end();
}

#[test]
fn g6_a_handler_that_awaits_what_cannot_come_is_told() {
    let Some(mut world) = world() else { return };
    for key in ["py/a", "js/a"] {
        let said = world.says(key, "stuck");
        assert!(said.starts_with("FAULT ") && said.contains("awaits something"), "{said}");
        assert_eq!(world.says(key, "count"), "2");
    }
    let stuck = world.ask("py/a", send("stuck later"));
    world.run();
    assert!(world.is_open(stuck));
    world.wait(1_000);
    let said = world.answered(stuck);
    assert!(said.starts_with("FAULT ") && said.contains("awaits something"), "{said}");
    world.end();
}

#[test]
fn g6_a_call_to_an_agent_that_fails_is_refused_with_its_words() {
    let Some(mut world) = world() else { return };
    let said = world.exec("py/a", "await ctx.call('py/b', 'raise')");
    assert!(said.starts_with("RAISED ") && said.contains("ValueError: told so"), "{said}");
    let said = world.exec("py/a", "await ctx.call('py/b', 'loop')");
    assert!(said.contains("Refused: FAULT") && said.contains("turn_ms_max"), "{said}");
    let said = world.exec("py/a", "await ctx.call('no key', 'x')");
    assert!(said.contains("Refused: BADKEY"), "{said}");
    let said = world.exec("py/a", "await ctx.call('nothing/x', 'x')");
    assert!(said.contains("Refused: NOTEMPLATE"), "{said}");
    world.end();
}

#[test]
fn g7_a_huge_output_is_cut_and_harms_nobody() {
    let Some(mut world) = world() else { return };
    assert_eq!(world.says("py/a", "print 3000000"), "1");
    assert_eq!(world.says("py/neighbour", "count"), "1");
    assert_eq!(world.says("py/a", "count"), "2");
    let said = world.exec("py/a", "print('x' * 3_000_000)");
    let (start, end) = (&said[..80], &said[said.len() - 80..]);
    let names = start.starts_with("RAISED ") && start.contains("LIMIT the reply has");
    assert!(names, "{start} ... {end}");
    assert_eq!(world.says("py/a", "count"), "3");
    world.end();
}

#[test]
fn g8_a_payload_that_is_no_text_comes_as_bytes() {
    let Some(mut world) = world() else { return };
    let bytes = [0xff, 0, 0xfe];
    let said = text(world.does("py/a", send_bytes(&bytes)));
    assert_eq!(said, r"3 bytes: b'\xff\x00\xfe'");
    assert_eq!(text(world.does("js/a", send_bytes(&bytes))), "3 bytes");
    for key in ["py/a", "js/a"] {
        let code = Verb::Exec { code: bytes::Bytes::from_static(&[0xff, 0xfe]) };
        let said = text(world.does(key, code));
        assert!(said.starts_with("RAISED "), "{key}: {said}");
    }
    world.end();
}

#[test]
fn g9_payloads_past_the_limit_are_refused_with_the_limit() {
    let Some(mut world) = world() else { return };
    world.says("py/a", "count");
    let huge = vec![b'x'; 100 << 20];
    let said = text(world.does("py/a", send_bytes(&huge)));
    assert!(said.starts_with("LIMIT ") && said.contains("payload_bytes_max"), "{said}");
    let said = world.says("py/a", "reply 2000000");
    assert!(said.starts_with("RAISED ") && said.contains("payload_bytes_max is 1048576"), "{said}");
    let said = fails(&mut world, "py/a", "send 2000000");
    assert!(said.starts_with("FAULT ") && said.contains("was not taken"), "{said}");
    world.end();
}

#[test]
fn g12_a_turn_waits_while_no_instance_can_be_given_up() {
    if !has_guests() {
        return;
    }
    let turn_cpu_max = Duration::from_millis(100);
    let mut world = World::with(Settings { live_max: 1, turn_cpu_max, ..Settings::default() });
    world.deploy("py", Language::Python, Some(AGENT));
    let slept = world.ask("py/b", exec("await ctx.sleep(1)\nctx.key"));
    world.run();
    world.says("py/a", "count");
    let endless = world.ask("py/a", send("loop"));
    world.step().expect("a slice of the loop");
    let other = world.ask("py/neighbour", send("count"));
    world.wait(1_000);
    assert_eq!(world.answered(other), "1");
    assert_eq!(world.answered(slept), "'py/b'");
    assert!(world.answered(endless).contains("turn_ms_max"));
    // An agent that ends while its turn waits for room leaves nothing.
    let endless = world.ask("py/a", send("loop"));
    world.step().expect("a slice of the loop");
    let waits = world.ask("py/b", send("count"));
    world.step().expect("no room");
    world.ask("py/b", Verb::Terminate);
    world.run();
    assert!(world.answered(endless).contains("turn_ms_max"));
    assert_eq!(world.answered(waits), "1");
    world.end();
}

/// A module that counts its messages in a global, a table apart, and then does `body`.
fn module(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
          (import "heronry" "reply" (func $reply (param i64 i32 i32)))
          (import "heronry" "send" (func $send (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 2)
          (global $count (mut i32) (i32.const 0))
          (data (i32.const 0) "notebook/log")
          (func $deeper (param i64) (result i64)
            (i64.add (i64.const 1) (call $deeper (i64.add (local.get 0) (i64.const 1)))))
          (func (export "heronry_alloc") (param i32) (result i32) (i32.const 65536))
          (func (export "heronry_message") (param $r i64) (param $p i32) (param $n i32) (result i32)
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (i32.store (i32.const 64) (i32.add (i32.const 0x30) (global.get $count)))
            (if (i32.eq (i32.load8_u (local.get $p)) (i32.const 0x21))
              (then
                (drop (call $send (i32.const 0) (i32.const 12) (local.get $p) (local.get $n)))
                {body}))
            (call $reply (local.get $r) (i32.const 64) (i32.const 1))
            (i32.const 0)))"#
    );
    wat::parse_str(text).expect("text of a module")
}

#[test]
fn g10_a_trap_of_any_kind_undoes_its_turn_and_its_effects() {
    let mut world = World::with(Settings {
        turn_cpu_max: Duration::from_millis(50),
        frame_count: 1 << 10,
        ..Settings::default()
    });
    let grow = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable";
    for (name, body, names) in [
        ("unreachable", "unreachable", "unreachable"),
        ("bounds", "(i32.store (i32.const -4) (i32.const 1))", "out of bounds"),
        ("zero", "(drop (i32.div_u (i32.const 1) (i32.const 0)))", "divide by zero"),
        ("stack", "(drop (call $deeper (i64.const 0)))", "recursion too deep"),
        ("loop", "(loop (br 0))", "ms of CPU"),
        ("grow", grow, "out of memory"),
        ("fails", "(return (i32.const 1))", "did not say why"),
    ] {
        let module = module(body);
        world.try_deploy(name, 1, Language::Wasm, Some(&module), None).expect("deployed");
        let key = &format!("{name}/a");
        assert_eq!(world.says(key, "?"), "1");
        let before = (blake3::hash(&world.image(key)), world.info(key));
        let said = world.says(key, "!");
        assert!(said.starts_with("FAULT ") && said.contains(names), "{name}: {said}");
        let after = (blake3::hash(&world.image(key)), world.info(key));
        assert_eq!((before.0, before.1.head), (after.0, after.1.head), "{name}");
        assert_eq!(world.says(key, "?"), "2", "{name}");
    }
    let absent = text(world.does("notebook/log", Verb::Info));
    assert!(absent.starts_with("NOAGENT "), "an effect of an undone turn: {absent}");
    world.end();
}

#[test]
fn g11_what_is_no_agent_is_refused_when_it_is_deployed() {
    let mut world = World::new(2);
    let wat = |text: &str| wat::parse_str(text).expect("text of a module");
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("garbage", b"not wasm at all".to_vec(), "not a valid Wasm module"),
        ("cut", module("nop")[..200].to_vec(), "not a valid Wasm module"),
        (
            "import",
            wat(r#"(module (import "env" "system" (func (param i32))) (memory 1))"#),
            r#"imports "env" "system""#,
        ),
        ("empty", wat("(module)"), "has 0 memories"),
        ("mute", wat("(module (memory 1))"), "heronry_alloc"),
        (
            "start",
            wat(r#"(module (memory 1)
                (func (export "heronry_alloc") (param i32) (result i32) unreachable)
                (func (export "heronry_message") (param i64 i32 i32) (result i32) unreachable)
                (func $start unreachable) (start $start))"#),
            "start function failed",
        ),
    ];
    for (name, module, names) in cases {
        let refused = world.try_deploy(name, 1, Language::Wasm, Some(&module), None);
        let refused = refused.expect_err("refused");
        assert!(refused.contains(names), "{name}: {refused}");
        assert!(!world.folder.path().join(format!("{name}-1.template")).exists(), "{name}");
        let said = world.says(&format!("{name}/a"), "?");
        assert!(said.starts_with("NOTEMPLATE "), "{said}");
    }
}

#[test]
fn g11_a_source_that_fails_is_refused_with_its_traceback() {
    if !has_guests() {
        return;
    }
    let mut world = World::new(2);
    let cases = [
        (Language::Python, "def on_message(ctx, m)\n    return 1\n", None, "SyntaxError"),
        (Language::Python, "x = 1\ny = x / 0\n", None, "ZeroDivisionError"),
        (Language::Python, "x = 1\n", Some("later = x.missing\n"), "AttributeError"),
        (Language::Python, "import sys\nsys.exit(2)\n", None, "SystemExit"),
        (Language::Python, "from heronry import ctx\nctx.send('a/b', '')\n", None, "in a handler"),
        (Language::JavaScript, "export function onMessage( {", None, "SyntaxError"),
        (Language::JavaScript, "throw new Error('at once')", None, "at once"),
    ];
    for (index, (language, source, warm, names)) in cases.into_iter().enumerate() {
        let name = format!("bad{index}");
        let refused = world.try_deploy(&name, 1, language, Some(source.as_bytes()), warm);
        let refused = refused.expect_err("refused");
        assert!(refused.contains(names), "{source}: {refused}");
    }
}
