//! Listings: agents by pattern, and the busiest of late.
//!
//! Owns: cursors, glob patterns, sampling.  Not: one agent's description (`verbs.rs`).
//! J1  an agent that lives through a whole listing is in it once; its slot is its place.
//! J2  one reply does a bounded amount of work, whatever the pattern and however few match.

use super::Partition;
use crate::hot::SpaceSaving;
use crate::id::{AgentId, Nanos};
use crate::key::AgentKey;
use crate::limits::{HOTTEST_COUNT_MAX, LIST_SCAN_COUNT_MAX};
use crate::verb::Reply;

/// Comparisons of pattern and key bytes that one reply may take (J2).
const COMPARE_COUNT_MAX: u64 = 1 << 20;
/// Agents whose turns are counted.
const HOT_CAPACITY: u32 = 4 * HOTTEST_COUNT_MAX as u32;
/// One turn in so many is counted, on average.
const SAMPLE_EVERY: u64 = 16;
/// How long it takes for a turn to weigh half.
const HALF_LIFE: Nanos = Nanos::from_ms(10_000);

impl Partition {
    /// Keys from slot `cursor` on that match `pattern`, about `count` of them.
    pub(super) fn list(
        &self,
        cursor: u64,
        count: u32,
        pattern: Option<&[u8]>,
        lost: bool,
    ) -> Reply {
        let end = if lost { self.lost.end() } else { self.agents.end() };
        let mut keys = Vec::new();
        let mut at = u32::try_from(cursor).unwrap_or(u32::MAX).min(end);
        let stop = at.saturating_add(LIST_SCAN_COUNT_MAX.max(count)).min(end);
        let mut compared = 0;
        while at < stop && keys.len() < count as usize && compared < COMPARE_COUNT_MAX {
            let key = if lost {
                self.lost.key_at(at)
            } else {
                self.agents.get(at).map(|agent| &agent.key)
            };
            at += 1;
            let Some(key) = key else { continue };
            if pattern.is_none_or(|pattern| matches(pattern, key.as_bytes(), &mut compared)) {
                keys.push(key.detached());
            }
        }
        Reply::List { cursor: if at < end { u64::from(at) } else { 0 }, keys }
    }

    /// The agents with the most turns of late, most first, with their estimated turns.
    pub fn hottest(&self) -> Vec<(AgentKey, u64)> {
        let top = self.hot.counts.top(HOTTEST_COUNT_MAX);
        let keys = top.iter().filter_map(|estimate| {
            let key = self.key_of(estimate.key)?.detached();
            // What is certain: where all are equally busy, the bare counts say nothing.
            let certain = estimate.count - estimate.error;
            (certain > 0).then_some((key, certain * SAMPLE_EVERY))
        });
        let mut keys: Vec<(AgentKey, u64)> = keys.collect();
        keys.sort_by(|(a, a_turns), (b, b_turns)| b_turns.cmp(a_turns).then(a.cmp(b)));
        keys
    }
}

/// Counts a sample of the turns. The steps between samples vary, so that agents served in a fixed
/// rhythm are all seen.
pub(super) struct Hot {
    counts: SpaceSaving<AgentId>,
    skip: u64,
    steps: u64,
    halved_at: Nanos,
}

impl Hot {
    pub(super) fn new() -> Hot {
        let counts = SpaceSaving::new(HOT_CAPACITY);
        Hot { counts, skip: 0, steps: 0, halved_at: Nanos(0) }
    }

    pub(super) fn sample(&mut self, now: Nanos, id: AgentId) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        // A linear congruential generator (Knuth, MMIX); its top bits are random enough.
        self.steps = self.steps.wrapping_mul(6_364_136_223_846_793_005);
        self.steps = self.steps.wrapping_add(1_442_695_040_888_963_407);
        self.skip = self.steps >> 32 & (2 * SAMPLE_EVERY - 1);
        if now.since(self.halved_at) >= HALF_LIFE {
            self.counts.halve();
            self.halved_at = now;
        }
        self.counts.touch(id);
    }

    pub(super) fn forget(&mut self, id: AgentId) {
        self.counts.forget(id);
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any bytes and `?` for any one.
fn matches(pattern: &[u8], text: &[u8], compared: &mut u64) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when the bytes after the last star do not match here.
    let mut retry = None;
    while t < text.len() {
        *compared += 1;
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                None => return false,
                Some((after_star, start)) => {
                    retry = Some((after_star, start + 1));
                    (p, t) = (after_star, start + 1);
                }
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j1_patterns_match_whole_keys() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("counter/*", "counter/1", true),
            ("counter/*", "counters/1", false),
            ("*/a?c", "x/abc", true),
            ("*/a?c", "x/ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("a*a", "a", false),
            ("**", "anything", true),
            ("?", "", false),
        ] {
            let found = matches(pattern.as_bytes(), text.as_bytes(), &mut 0);
            assert_eq!(found, expected, "{pattern} {text}");
        }
    }

    #[test]
    fn j2_a_nasty_pattern_costs_no_more_than_pattern_times_text() {
        let (pattern, text) = ("*a".repeat(127) + "b", "a".repeat(255));
        let mut compared = 0;
        assert!(!matches(pattern.as_bytes(), text.as_bytes(), &mut compared));
        assert!(compared < 255 * 255 * 2, "{compared}");
    }
}
