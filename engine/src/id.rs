//! Identifiers and units: newtypes, so that two numbers of different meaning cannot be swapped.
//!
//! Owns: the layout of [`AgentId`] and the rule that maps it to its home shard.
//! I1  `AgentId`'s upper half depends on the family only, so a branch has its family's home.
//! I2  two shards never give the same number to a call or a request, nor one shard twice.

use serde::{Deserialize, Serialize};

/// Identity of an agent: a hash of tenant and key, computed by [`crate::AgentKey::id`].
///
/// Upper 64 bits: hash of the *family* (the key up to its first `~`); lower 64 bits: hash of the
/// whole key. All branches of an agent therefore have one home, where they share its pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AgentId(pub u128);

impl AgentId {
    /// The shard that knows where this agent is (I1). `shard_count` is at least 1.
    pub fn home(self, shard_count: u16) -> ShardId {
        let family = (self.0 >> 64) as u64;
        // Multiply-shift maps a uniform 64-bit hash to 0..shard_count without a division.
        ShardId(((u128::from(family) * u128::from(shard_count)) >> 64) as u16)
    }
}

/// A shard of this node, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ShardId(pub u16);

/// An isolation and limits unit. Tenant 0 is the default one.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct TenantId(pub u32);

/// One sealed point of one agent's image; counts up from 1 within an agent, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct VersionId(pub u64);

/// One call an agent made and awaits; unique on a node (I2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct CallId(pub u64);

/// Numbers that one shard gives and no other one, so that agents may move between shards with what
/// they await (I2): a count, and the shard in the lower 16 bits.
#[derive(Debug)]
pub(crate) struct Series {
    shard: ShardId,
    last: u64,
}

impl Series {
    /// Nothing given yet.
    pub(crate) fn new(shard: ShardId) -> Series {
        Series { shard, last: 0 }
    }

    /// A number above all that were given or passed.
    pub(crate) fn give(&mut self) -> u64 {
        self.last = ((self.last >> 16) + 1) << 16 | u64::from(self.shard.0);
        self.last
    }

    /// Passes over a number, which may be of another series, and all below it.
    pub(crate) fn pass(&mut self, number: u64) {
        self.last = self.last.max(number);
    }

    /// The highest number that was given or passed.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }
}

/// A point of monotonic time, or a span of it, in nanoseconds.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Nanos(pub u64);

impl Nanos {
    /// A span of `ms` milliseconds.
    pub const fn from_ms(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }

    /// A span of `us` microseconds.
    pub const fn from_us(us: u64) -> Nanos {
        Nanos(us * 1_000)
    }

    /// This point moved later by `span`; saturates.
    pub const fn after(self, span: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(span.0))
    }

    /// The span since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i2_series_of_shards_have_no_number_in_common_and_go_up() {
        let mut all = std::collections::BTreeSet::new();
        for shard in [0, 1, 7, u16::MAX] {
            let mut series = Series::new(ShardId(shard));
            series.pass(77);
            let given: Vec<u64> = (0..100).map(|_| series.give()).collect();
            assert!(given.is_sorted() && given[0] > 77, "{given:?}");
            assert_eq!(series.last(), given[99]);
            all.extend(given);
        }
        assert_eq!(all.len(), 400);
        let mut series = Series::new(ShardId(3));
        // What another shard gave is passed as a whole.
        series.pass(9 << 16 | 8);
        assert_eq!(series.give(), 10 << 16 | 3);
    }
}
