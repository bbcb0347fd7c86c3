//! Compaction: agents whose chains lie in an old segment are written whole, so that it can go.
//!
//! Owns: which agents that are.  Not: which segment and when (`shards`), the writing (`record.rs`).
//! C1  when all agents were looked at and what was begun is on disk, no chain lies in the segment.

use super::Partition;
use super::journal::Known;
use crate::agent::Residence;

impl Partition {
    /// Looks at some agents, and has those written whole whose chains lie in `segment`; ones that
    /// are in the log only are read for that. Whether all were looked at, from where the last call
    /// for the segment ended.
    pub fn compact(&mut self, segment: u32, agents_max: u32) -> bool {
        let mut at = match self.compacting {
            Some((of, at)) if of == segment => at,
            _ => 0,
        };
        let mut found = 0;
        while at < self.agents.end() && found < agents_max {
            found += u32::from(self.bring_forward(at, segment));
            at += 1;
        }
        let ended = at >= self.agents.end();
        self.compacting = (!ended).then_some((segment, at));
        ended
    }

    /// Has an agent written whole if its chain lies in the segment; whether it does.
    fn bring_forward(&mut self, slot: u32, segment: u32) -> bool {
        let Some(agent) = self.agents.get(slot) else { return false };
        let Some(chain) = agent.logged.as_deref() else { return false };
        if !chain.places.iter().any(|place| place.segment == segment) {
            return false;
        }
        match agent.residence {
            Residence::Warm if agent.partly => {
                self.agents[slot].rewrite = true;
                self.page_in_all(slot);
                if self.agents[slot].residence == Residence::Warm {
                    self.agents[slot].rewrite = false;
                    self.write_whole(slot);
                }
            }
            Residence::Warm => self.write_whole(slot),
            Residence::Cold => {
                self.agents[slot].rewrite = true;
                self.load(slot);
            }
            Residence::Loading | Residence::Paging => self.agents[slot].rewrite = true,
        }
        true
    }

    /// Has an agent written whole with the next flush, whether it has changed or not.
    pub(super) fn write_whole(&mut self, slot: u32) {
        let idx = self.agents[slot].dirty;
        if idx == 0 {
            return self.touch_whole(slot);
        }
        let entry = self.journal.entry(idx);
        let known = std::mem::replace(&mut entry.known, Known::Nothing);
        known.release(&mut self.store);
    }
}
