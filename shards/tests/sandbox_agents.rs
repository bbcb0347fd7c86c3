//! Python and JavaScript agents on a partition: what `docs/user.md` promises of sandboxes.
//!
//! Owns: the first things that a user tries.  Not: forks (`sandbox_forks.rs`), faults
//! (`sandbox_faults.rs`), the wire. Skips where no guests were built.

#[allow(dead_code, reason = "other tests use other parts of it")]
#[path = "sandbox/world.rs"]
mod world;

use heronry_engine::verb::Language;
use world::*;

#[test]
fn b1_a_rolled_back_interpreter_has_its_old_variables() {
    if !has_guests() {
        return;
    }
    let mut world = World::new(8);
    world.deploy("python", Language::Python, None);
    assert_eq!(world.exec("python/a", "x = 1"), "");
    world.does("python/a", checkpoint("one")).expect("a checkpoint");
    assert_eq!(world.exec("python/a", "x = 2"), "");
    assert_eq!(world.exec("python/a", "x"), "2");
    world.does("python/a", rollback("one")).expect("rolled back");
    assert_eq!(world.exec("python/a", "print(x)"), "1");
}

const SLEEPER: &str = "
async def on_message(ctx, message):
    if message == 'state':
        return ctx.state
    try:
        await ctx.sleep(5)
        return f'{ctx.key} woke'
    except Exception as error:
        ctx.send('notebook/log', f'append {ctx.key} {type(error).__name__};')
        raise
";

#[test]
fn b1_a_fork_in_the_middle_of_a_sleep_wakes_in_both() {
    if !has_guests() {
        return;
    }
    let mut world = World::new(8);
    world.deploy("sleeper", Language::Python, Some(SLEEPER));
    let slept = world.ask("sleeper/a", send("go"));
    world.run();
    world.fork("sleeper/a", 1, false);
    assert!(world.says("notebook/log", "read").starts_with("sleeper/a~1 Forked;"));
    assert!(world.is_open(slept));
    world.wait(5_000);
    assert_eq!(world.answered(slept), "sleeper/a woke");
    world.end();
}

#[test]
fn b2_what_the_host_would_not_take_is_an_error_that_names_it() {
    if !has_guests() {
        return;
    }
    let mut world = World::new(8);
    world.deploy("python", Language::Python, None);
    world.deploy("javascript", Language::JavaScript, None);
    let long = "l".repeat(64);
    let cases = [
        ("ctx.fork(0)", "0 branches asked for; allowed: 1 to 10000"),
        ("ctx.fork(-1)", "-1 branches asked for; allowed: 1 to 10000"),
        ("ctx.fork(10001)", "10001 branches asked for; allowed: 1 to 10000"),
        ("ctx.checkpoint('a b')", "allowed: 1 to 63 characters of visible ASCII without spaces"),
        (&format!("ctx.checkpoint('{long}')"), "allowed: 1 to 63 characters"),
        (&format!("ctx.rollback('{long}')"), "allowed: 1 to 63 characters"),
        ("ctx.call('', 'x')", "BADVALUE"),
    ];
    for (call, words) in cases {
        for key in ["python/a", "javascript/a"] {
            let said = world.exec(key, &format!("await {call}"));
            assert!(said.starts_with("RAISED ") && said.contains(words), "{key} {call}: {said}");
        }
    }
    // Both live on.
    assert_eq!(world.exec("python/a", "1 + 1"), "2");
    assert_eq!(world.exec("javascript/a", "1 + 1"), "2");
    world.end();
}

#[test]
fn b2_the_longest_sleeps_do_not_end_at_once() {
    if !has_guests() {
        return;
    }
    let mut world = World::new(8);
    world.deploy("python", Language::Python, None);
    world.deploy("javascript", Language::JavaScript, None);
    let sleeps = [
        ("python", "await ctx.sleep(1e10)"),
        ("python", "await ctx.sleep(float('inf'))"),
        ("javascript", "await ctx.sleep(1e10)"),
        ("javascript", "await ctx.sleep(Infinity)"),
    ];
    let asked: Vec<u64> = (0..)
        .zip(sleeps)
        .map(|(idx, (template, code))| world.ask(&format!("{template}/{idx}"), exec(code)))
        .collect();
    world.run();
    world.wait(60_000);
    for (number, (template, code)) in asked.into_iter().zip(sleeps) {
        assert!(world.is_open(number), "{template}: {code} has ended");
    }
    let timers = [
        ("python", "import asyncio\nloop = asyncio.get_running_loop()\nrang = []"),
        ("python", "_ = loop.call_later(1e10, rang.append, 1)"),
        ("python", "await asyncio.wait_for(asyncio.sleep(0), 1e300)"),
        ("javascript", "globalThis.rang = []; setTimeout(() => rang.push(1), Infinity)"),
        ("javascript", "setInterval(() => rang.push(2), 1e300)"),
    ];
    for (template, code) in timers {
        let said = world.exec(&format!("{template}/timers"), code);
        assert!(!said.starts_with("RAISED "), "{template}: {code}: {said}");
    }
    world.wait(60_000);
    assert_eq!(world.exec("python/timers", "len(rang)"), "0");
    assert_eq!(world.exec("javascript/timers", "rang.length"), "0");
    let said = world.exec("javascript/nan", "await ctx.sleep(NaN)");
    assert!(said.contains("a time that is not a number"), "{said}");
}

#[test]
fn b2_a_timer_that_the_host_has_no_room_for_is_asked_for_later() {
    if !has_guests() {
        return;
    }
    let mut world = World::new(8);
    world.deploy("python", Language::Python, None);
    // One turn may ask for 1,024 things.
    let source = "
rang = []
import asyncio
for n in range(1024): ctx.send('counter/log', '1')
_ = asyncio.get_running_loop().call_later(1, rang.append, 1)";
    assert_eq!(world.exec("python/a", source), "");
    assert_eq!(world.exec("python/a", "len(rang)"), "0");
    world.wait(2_000);
    assert_eq!(world.exec("python/a", "len(rang)"), "1");
    assert_eq!(world.says("counter/log", "0"), "1024");
    world.end();
}

#[test]
fn b3_a_warm_up_leaves_the_agents_own_handler_in_place() {
    if !has_guests() {
        return;
    }
    let mut world = World::new(8);
    let script =
        "export function onMessage(ctx, message) { return `${globalThis.word} ${message}` }";
    let source = Some(script.as_bytes());
    let warm = Some("globalThis.word = 'warm'");
    world.try_deploy("js", 1, Language::JavaScript, source, warm).expect("a template");
    assert_eq!(world.says("js/a", "day"), "warm day");
    let script = "async def on_message(ctx, message): return f'{word} {message}'";
    let source = Some(script.as_bytes());
    world.try_deploy("py", 1, Language::Python, source, Some("word = 'warm'")).expect("a template");
    assert_eq!(world.says("py/a", "day"), "warm day");
    world.end();
}

/// Pages that a step of an agent that has taken some may change. Twice that would mean that the
/// template had not settled: it writes to what it shares with all others.
const STEP_PAGES_MAX: u32 = 32;

#[test]
fn b4_a_step_writes_to_little_of_what_the_template_made() {
    if !has_guests() {
        return;
    }
    let mut world = World::new(8);
    world.deploy("python", Language::Python, None);
    world.deploy("javascript", Language::JavaScript, None);
    // What the template was exercised with ran to its end there, as it does here.
    let exercise = "import heronry.runtime\nexec(heronry.runtime.EXERCISES[-1], {})";
    assert_eq!(world.exec("python/exercised", exercise), "");
    for key in ["python/a", "javascript/a"] {
        for step in 0..20 {
            assert!(!world.exec(key, &format!("x = {step}")).starts_with("RAISED"));
        }
        let changed = world.last_turn().changed_count;
        assert!(changed <= STEP_PAGES_MAX, "{key}: a step changed {changed} pages");
    }
    world.end();
}
