//! Simulation: several shards of the real code, under a seeded schedule, beside an oracle.
//!
//! `HERONRY_SEEDS=5000 cargo test -p heronry-tests --test simulation` runs that many seeds;
//! `HERONRY_SEED=123 cargo test -p heronry-tests --test simulation -- one_seed` replays one, and
//! `HERONRY_SIM_KEY=notebook/c0-1` shows what is asked of agents whose key begins so.

use heronry_engine::{Nanos, PartitionConfig, ShardId};
use heronry_net::RespConfig;
use heronry_net::resp::encode::encode_request;
use heronry_shards::sim::WorldConfig;
use heronry_tests::mischief::ON_PURPOSE;
use heronry_tests::sim_node::{SimNode, SimPlan};
use heronry_tests::workload::{Mode, Outcome, run};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of a run without `HERONRY_SEEDS`.
const SEEDS_DEFAULT: u64 = 2_000;

/// Seeds that once failed, and what they found.
const REGRESSIONS: &[(u64, &str)] = &[
    (4, "a call was not timed out while its shard was idle"),
    (13, "a connection that paused and resumed within one pass was not decoded again"),
    (17, "the same, with a pipeline of one"),
];

fn number_from(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

/// Panics of behaviours under test are part of the plan.
fn quiet_mischief() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload_as_str() != Some(ON_PURPOSE) {
                loud(panic);
            }
        }));
    });
}

/// Runs a seed; on a failure says how to replay it.
fn run_one(seed: u64) -> Option<Outcome> {
    quiet_mischief();
    let outcome = catch_unwind(AssertUnwindSafe(|| run(seed)));
    if outcome.is_err() {
        let mode = Mode::of(seed);
        eprintln!(
            "seed {seed} ({mode:?}) failed; replay it with\n  HERONRY_SEED={seed} cargo test -p \
             heronry-tests --test simulation -- one_seed --nocapture"
        );
    }
    outcome.ok()
}

#[test]
fn w2_replies_images_and_versions_are_what_the_oracle_says() {
    let count = number_from("HERONRY_SEEDS").unwrap_or(SEEDS_DEFAULT);
    let first = number_from("HERONRY_FIRST_SEED").unwrap_or(0);
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = std::time::Instant::now();
    let (outcomes, failed) = std::thread::scope(|scope| {
        let work = || {
            let (mut outcomes, mut failed) = (Vec::new(), Vec::new());
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return (outcomes, failed);
                }
                match run_one(seed) {
                    Some(outcome) => outcomes.push(outcome),
                    None => failed.push(seed),
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let (mut outcomes, mut failed) = (Vec::new(), Vec::new());
        for worker in workers {
            let (more_outcomes, more_failed) = worker.join().expect("a worker does not panic");
            outcomes.extend(more_outcomes);
            failed.extend(more_failed);
        }
        (outcomes, failed)
    });
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let mut refusals = BTreeMap::<String, u64>::new();
    for (code, times) in outcomes.iter().flat_map(|outcome| &outcome.refusals) {
        *refusals.entry(code.clone()).or_default() += times;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{count} seeds in {seconds:.1} s ({:.1}/s): {} replies compared, {} deaths, {} evictions, \
         {} steps; refusals {refusals:?}",
        count as f64 / seconds,
        sum(|outcome| outcome.compared_count),
        sum(|outcome| u64::from(outcome.death_count)),
        sum(|outcome| outcome.eviction_count),
        sum(|outcome| outcome.step_count),
    );
    assert!(failed.is_empty(), "{} of {count} seeds failed: {failed:?}", failed.len());
}

#[test]
fn w1_a_run_is_a_pure_function_of_its_seed() {
    for seed in 0..8 {
        assert_eq!(run_one(seed).expect("it runs"), run_one(seed).expect("it runs"), "seed {seed}");
    }
}

#[test]
fn the_first_clients_of_a_node_find_every_shard() {
    for seed in 0..64 {
        let mut node = SimNode::new(SimPlan {
            world: WorldConfig::calm(seed),
            shard_count: 4,
            start_max: Nanos::from_ms(1),
            ring_bytes: 4_096,
            frame_count: 64,
            partition: PartitionConfig::default(),
            gateway: RespConfig::default(),
            check_passes: 200,
            segment_bytes: Some(512 << 10),
        });
        let client = node.world.connect(ShardId(0));
        let mut requests = Vec::new();
        for idx in 0..16 {
            let key = format!("counter/{idx}");
            encode_request(&mut requests, &[b"AGENT.SEND", key.as_bytes(), b"1"]);
        }
        client.send(&requests);
        let mut told = Vec::new();
        while told.iter().filter(|byte| **byte == b'\n').count() < 32 {
            node.step();
            told.extend(client.recv());
            assert!(!told.contains(&b'-'), "seed {seed}: {}", String::from_utf8_lossy(&told));
            assert!(node.world.now() < Nanos::from_ms(10_000), "seed {seed}: no answer");
        }
        let told = String::from_utf8_lossy(&told);
        assert_eq!(told, "$1\r\n1\r\n".repeat(16), "seed {seed}");
        node.stop();
    }
}

#[test]
fn seeds_that_failed_once_do_not_fail_again() {
    for (seed, found) in REGRESSIONS {
        assert!(run_one(*seed).is_some(), "seed {seed}, which once found: {found}");
    }
}

/// Runs `HERONRY_SEED` alone, or seed 0.
#[test]
fn one_seed() {
    let seed = number_from("HERONRY_SEED").unwrap_or(0);
    let outcome = run_one(seed).unwrap_or_else(|| panic!("seed {seed} fails"));
    println!("seed {seed}: {outcome:?}");
}
