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
