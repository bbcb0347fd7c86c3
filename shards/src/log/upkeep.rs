//! Upkeep of the log: indexes that are whole, segments that nobody needs, agents that make room.
//!
//! Owns: which segment is emptied next and when one goes (G5 of `log.rs`).  Not: what is live in a
//! segment, and which agents go (the engine).

use super::Log;
use heronry_engine::partition::Live;
use heronry_engine::{Nanos, Partition};

/// Part of the arena, in percent, past which agents go to the log only.
const ROOM_PERCENT: u64 = 85;
/// Agents that one pass looks at for that.
const ROOM_STEPS_MAX: u32 = 256;
/// A segment of which no more than so many percent are live may be emptied.
const LIVE_PERCENT_MAX: u64 = 50;
/// A log that is longer than so many times what is live in it is emptied at any price.
const LENGTHS_MAX: u64 = 3;
/// Agents that one pass brings forward for that.
const COMPACT_AGENTS_MAX: u32 = 4;
/// Rounds after which a segment that still has live records is left as it is.
const ROUNDS_MAX: u32 = 3;

impl Log {
    /// An index is whole: a start reads from it on.
    pub(super) fn index_done(&mut self, first: u32) {
        self.totals.indexes += 1;
        match self.plan.files.set_first(first) {
            Ok(()) => self.first = first,
            Err(error) => {
                return (self.report)(format_args!(
                    "shard {}: an index was written but cannot be noted: {error}",
                    self.me.0
                ));
            }
        }
        self.untidy = true;
    }

    /// All that was placed is on disk (G5): segments that nobody needs go, and the next is chosen.
    pub(super) fn settled(&mut self, partition: &Partition) {
        let emptied = |(segment, _): (u32, u32)| !partition.live_segments().contains_key(&segment);
        if self.victim.is_some_and(emptied) {
            self.totals.compactions += 1;
            self.victim = None;
            self.untidy = true;
        }
        if std::mem::take(&mut self.untidy) {
            self.tidy(partition);
            let next = self.victim.or_else(|| Some((self.choose_victim(partition)?, 0)));
            self.victim = next;
        }
    }

    /// Removes segments before the index that no chain needs.
    fn tidy(&mut self, partition: &Partition) {
        let live = partition.live_segments();
        let removed = self.plan.files.list().and_then(|(segments, _)| {
            for segment in segments {
                if segment < self.first && !live.contains_key(&segment) {
                    self.closing.extend(self.readers.remove(&segment).map(|(handle, _)| handle));
                    self.plan.files.remove(segment)?;
                    self.lengths.remove(&segment);
                }
            }
            Ok(())
        });
        if let Err(error) = removed {
            (self.report)(format_args!(
                "shard {}: old segments of the log were not removed: {error}",
                self.me.0
            ));
        }
    }

    /// Of the segments before the index that are mostly dead the one that gives most room for what
    /// emptying it takes: agents with records in it are written whole.
    fn choose_victim(&self, partition: &Partition) -> Option<u32> {
        let segments = partition.live_segments();
        let length = |segment: &u32| self.lengths.get(segment).copied().unwrap_or(0);
        // What branches share counts once for each: a segment holds no more than it is long.
        let of = |(segment, live): (&u32, &Live)| match length(segment) {
            0 => live.bytes,
            bytes => live.bytes.min(bytes),
        };
        let live_bytes = segments.iter().map(of).sum::<u64>();
        let agents = partition.counters().agents.max(1);
        let agent_bytes = live_bytes / agents;
        let at_any_price = self.lengths.values().sum::<u64>() > live_bytes * LENGTHS_MAX;
        let gain = |(segment, live): (&u32, &Live)| {
            let bytes = length(segment);
            let dead = live.bytes <= bytes / 100 * LIVE_PERCENT_MAX;
            let gain_bytes = bytes as i64 - live.bytes as i64;
            let price_bytes = live.chains.min(agents).saturating_mul(agent_bytes) as i64;
            let pays = dead && (at_any_price || price_bytes <= gain_bytes);
            pays.then_some((gain_bytes - price_bytes, *segment))
        };
        let old = segments.range(..self.first);
        let gains = old.filter(|(segment, _)| !self.spared.contains(segment)).filter_map(gain);
        gains.max().map(|(_, segment)| segment)
    }

    /// Goes on with emptying a segment, when nobody waits for the disk.
    pub(super) fn compact(&mut self, partition: &mut Partition) {
        let Some((segment, rounds)) = self.victim else { return };
        if !self.ready.is_empty() || !self.loads.is_empty() {
            return;
        }
        // With somebody waiting for the disk, one at a time.
        let agents_max = if partition.waiting_count() > 0 { 1 } else { COMPACT_AGENTS_MAX };
        if rounds > 0 && partition.is_behind() {
            return;
        }
        // One more round finds those that were on their way in the last one.
        if rounds < ROUNDS_MAX {
            let ended = partition.compact(segment, agents_max);
            self.victim = Some((segment, rounds + u32::from(ended)));
        } else {
            // An agent in it cannot be read, or has no template on this node: it stays.
            self.spared.insert(segment);
            (self.victim, self.untidy) = (None, true);
        }
    }

    /// Sends agents to the log only while the arena is nearly full.
    pub(crate) fn make_room(&self, now: Nanos, partition: &mut Partition) {
        let used_bytes_max = partition.arena_bytes() / 100 * ROOM_PERCENT;
        if partition.used_bytes() > used_bytes_max {
            partition.make_room(now, used_bytes_max, ROOM_STEPS_MAX);
        }
    }
}
