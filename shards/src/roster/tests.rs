//! Tests of the roster: what is read back, and what a kill leaves at any point.
//!
//! Owns: the properties O1, O2, O3 against a model.  Not: who restarts a shard.
//! O1  a cut at any word, in any order of unpublished words, leaves what was published.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn key(n: u32) -> AgentKey {
    format!("notebook/{n}{}", "x".repeat(n as usize % 40)).parse().unwrap()
}

fn reopen(roster: &Roster) -> (Roster, Reading) {
    Roster::attach(roster.fd().try_clone_to_owned().unwrap()).unwrap()
}

fn names(reading: &Reading) -> BTreeSet<(TenantId, AgentKey)> {
    let names: BTreeSet<_> = reading.living.iter().cloned().collect();
    assert_eq!(names.len(), reading.living.len(), "an agent is told once");
    names
}

fn word(roster: &Roster, idx: u64) -> &AtomicU64 {
    &roster.region.view((idx * WORD_BYTES) as usize, 1)[0]
}

#[derive(Clone, Debug)]
enum Step {
    Born(u32, u32),
    Ended(u32, u32),
    Compact,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u32..3, 0u32..40).prop_map(|(tenant, n)| Step::Born(tenant, n)),
        4 => (0u32..3, 0u32..40).prop_map(|(tenant, n)| Step::Ended(tenant, n)),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #[test]
    fn o2_reads_back_what_a_set_would_hold(steps in prop::collection::vec(step(), 1..120)) {
        let mut roster = Roster::create("test").unwrap();
        let mut model = BTreeSet::new();
        for step in steps {
            match step {
                Step::Born(tenant, n) => {
                    roster.born(TenantId(tenant), &key(n)).unwrap();
                    model.insert((TenantId(tenant), key(n)));
                }
                Step::Ended(tenant, n) => {
                    roster.ended(TenantId(tenant), &key(n)).unwrap();
                    model.remove(&(TenantId(tenant), key(n)));
                }
                Step::Compact => {
                    roster.compact(model.iter().map(|(tenant, key)| (*tenant, key))).unwrap();
                }
                Step::Reopen => roster = reopen(&roster).0,
            }
            let reading = roster.read();
            prop_assert_eq!(names(&reading), model.clone());
            prop_assert_eq!(reading.damaged_bytes, 0);
        }
    }

    #[test]
    fn o2_damage_shortens_the_log_and_appends_go_on(
        damage in prop::collection::vec((0u64..700, any::<u64>()), 1..12),
    ) {
        let mut roster = Roster::create("test").unwrap();
        let all: BTreeSet<_> = (0..50).map(|n| (TenantId(0), key(n))).collect();
        for (tenant, key) in &all {
            roster.born(*tenant, key).unwrap();
        }
        for (idx, bits) in damage {
            // The first two words are the magic and the format; those are refused as a whole.
            word(&roster, 2 + idx % (PAGE_WORDS + 150)).store(bits, Ordering::Relaxed);
        }
        let (mut roster, reading) = reopen(&roster);
        prop_assert!(names(&reading).is_subset(&all));
        roster.born(TenantId(7), &key(999)).unwrap();
        let (_, reading) = reopen(&roster);
        prop_assert!(names(&reading).contains(&(TenantId(7), key(999))));
        prop_assert_eq!(reading.damaged_bytes, 0);
    }
}

#[test]
fn o1_a_cut_before_the_length_is_stored_leaves_the_old_log() {
    let mut roster = Roster::create("test").unwrap();
    roster.born(TenantId(0), &key(1)).unwrap();
    let published = word(&roster, 5).load(Ordering::Relaxed);
    roster.born(TenantId(0), &key(2)).unwrap();
    let complete = word(&roster, 5).load(Ordering::Relaxed);
    let start = word(&roster, 4).load(Ordering::Relaxed);
    // Killed before the last store: any of the new entry's words may or may not be there.
    for cut in published..complete {
        word(&roster, 5).store(published, Ordering::Relaxed);
        word(&roster, start + cut).store(0, Ordering::Relaxed);
        let reading = roster_read(&roster);
        assert_eq!((names(&reading).len(), reading.damaged_bytes), (1, 0), "cut at {cut}");
    }
}

/// What a fresh process would read, without changing the file.
fn roster_read(roster: &Roster) -> Reading {
    scan(&roster.region, read_span(&roster.region)).reading
}

#[test]
fn o3_a_cut_in_a_compaction_leaves_the_old_log_or_the_new_one() {
    let mut roster = Roster::create("test").unwrap();
    for n in 0..30 {
        roster.born(TenantId(0), &key(n)).unwrap();
    }
    for n in 0..20 {
        roster.ended(TenantId(0), &key(n)).unwrap();
    }
    let living: Vec<AgentKey> = (20..30).map(key).collect();
    let expected = names(&roster.read());
    // Each item the compaction asks for is a point where the process could be killed: what
    // another mapping of the file reads then is what is left.
    let witness = Region::attach(roster.fd().try_clone_to_owned().unwrap()).unwrap();
    for _ in 0..4 {
        let checked = living.iter().map(|key| {
            let left = scan(&witness, read_span(&witness)).reading;
            assert_eq!(names(&left), expected);
            (TenantId(0), key)
        });
        roster.compact(checked).unwrap();
        assert_eq!(names(&roster_read(&roster)), expected);
    }
}

#[test]
fn o3_a_refused_compaction_leaves_the_old_log() {
    let mut roster = Roster::create("test").unwrap();
    let keys: Vec<AgentKey> = (0..2_000).map(key).collect();
    for key in &keys {
        roster.born(TenantId(0), key).unwrap();
    }
    // Moves the log behind its old place, so that the next one would go in front.
    roster.compact(keys[..10].iter().map(|key| (TenantId(0), key))).unwrap();
    let many = keys.iter().cycle().take(20_000).map(|key| (TenantId(0), key));
    assert!(matches!(roster.compact(many), Err(RosterError::Overrun { .. })));
    assert_eq!(roster.read().living.len(), 10);
}

#[test]
fn o2_a_long_churn_stays_short_and_grows_no_file_without_end() {
    let mut roster = Roster::create("test").unwrap();
    let mut living: Vec<AgentKey> = (0..500).map(key).collect();
    for key in &living {
        roster.born(TenantId(0), key).unwrap();
    }
    let mut compactions = 0;
    for n in 500..200_000 {
        let place = n as usize % living.len();
        roster.ended(TenantId(0), &living[place]).unwrap();
        living[place] = key(n);
        roster.born(TenantId(0), &living[place]).unwrap();
        if roster.wants_compaction() {
            roster.compact(living.iter().map(|key| (TenantId(0), key))).unwrap();
            compactions += 1;
        }
    }
    assert!(compactions > 5, "{compactions} compactions");
    assert!(roster.region.len_bytes() < 8 << 20, "{} B of file", roster.region.len_bytes());
    let expected: BTreeSet<_> = living.into_iter().map(|key| (TenantId(0), key)).collect();
    assert_eq!(names(&reopen(&roster).1), expected);
}

#[test]
fn o2_other_files_are_refused() {
    let region = Region::create("test", 100, false).unwrap();
    let fd = region.fd().try_clone_to_owned().unwrap();
    assert!(matches!(Roster::attach(fd), Err(RosterError::Header { magic: 0, format: 0 })));
}
