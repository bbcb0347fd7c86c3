//! Branches of a large image, which map it as a base of their own.
//!
//! Owns: that nothing of that can be seen by the agents.  Not: how much time it saves (bench).

#[allow(dead_code)]
#[path = "sandbox/world.rs"]
mod world;

use heronry_engine::verb::Language;
use world::*;

const BIG: &str = "big = {i: str(i) * 50 for i in range(5000)}; x = 0";

#[test]
fn b1_branches_of_a_large_image_have_its_state_and_their_own() {
    if !has_guests() {
        return;
    }
    let mut world = World::new(2);
    world.deploy("python", Language::Python, None);
    assert_eq!(world.exec("python/a", BIG), "");
    world.does("python/a", checkpoint("big")).expect("a checkpoint");
    world.fork("python/a", 4, false);
    // Two slots for five agents: each is evicted and revived on the way.
    for round in 1..=3 {
        for branch in 1..=4 {
            let key = format!("python/a~{branch}");
            assert_eq!(world.exec(&key, &format!("x += {branch}; del big[{round}]")), "");
            assert_eq!(
                world.exec(&key, "x, len(big)"),
                format!("({}, {})", round * branch, 5000 - round)
            );
        }
        assert_eq!(world.exec("python/a", "x, len(big), big[1][:2]"), "(0, 5000, '11')");
    }
    // Back in a branch and in the parent, over a base that is not the template's.
    world.does("python/a", rollback("big")).expect("rolled back");
    assert_eq!(world.exec("python/a", "x, len(big)"), "(0, 5000)");
    assert_eq!(world.exec("python/b", "'big' in globals()"), "False");
    world.fork("python/a~2", 1, false);
    assert_eq!(world.exec("python/a~2~1", "x, len(big)"), "(6, 4997)");
}
