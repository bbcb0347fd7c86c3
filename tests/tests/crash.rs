//! Kills of a real node: what was promised is there after each of them.

use heronry_tests::crash::{Crash, CrashPlan, SCRIBE_COUNT};

const CYCLES: u64 = 12;
const SEED: u64 = 20_260;

#[test]
fn what_was_durable_outlives_kills_and_nothing_runs_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut crash = Crash::new(CrashPlan {
        binary: env!("CARGO_BIN_EXE_test-node").into(),
        folder: folder.path().to_owned(),
        seed: SEED,
        scribe_count: SCRIBE_COUNT,
        relays: true,
        settings: Vec::new(),
    });
    for cycle in 0..CYCLES {
        if let Err(failure) = crash.cycle() {
            let said = crash.last_words(40);
            panic!(
                "cycle {cycle}: {failure}\nthe node said {said:#?}\nreplay: cargo run -p \
                 heronry-tests -- soak --cycles {CYCLES} --seed {SEED}"
            );
        }
    }
    crash.finish().expect("the node stops");
    let tally = crash.tally();
    println!("{tally:?}");
    assert!(tally.durable > 0 && tally.sealed > 0 && tally.checks > 0, "{tally:?}");
}
