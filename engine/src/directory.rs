//! The directory: which shard has an agent.
//!
//! Owns: exceptions to the rule that an agent is where its id's hash says.  Not: moving agents,
//! nor forwarding (the partition and its loop do that).
//! D1  a family (an agent and its branches) has one owner, because it shares pages.
//! D2  what is known of a family is replaced by news of a higher epoch only.

use crate::id::{AgentId, ShardId};
use crate::limits::DIRECTORY_COUNT_MAX;
use hashbrown::HashTable;

/// Where a request for an agent goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// This shard has the agent, or would.
    Here,
    /// Another one does.
    Shard(ShardId),
}

/// Why news about an owner was refused. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A stale owner spoke (D2).
    #[error("epoch {given} is stale, the owner is known at epoch {known}")]
    Stale {
        /// The epoch given.
        given: u64,
        /// The epoch known.
        known: u64,
    },
    /// No such shard on this node.
    #[error("there is no shard {}, only {shard_count}", shard.0)]
    NoShard {
        /// The shard named.
        shard: ShardId,
        /// How many there are.
        shard_count: u16,
    },
    /// No room for another exception; the family stays where its hash says.
    #[error("the directory is full, {count_max} families live away from home")]
    Full {
        /// The bound.
        count_max: u32,
    },
}

struct Entry {
    family: u64,
    epoch: u64,
    owner: ShardId,
}

/// Home by hash, with owners that differ. Cost of a route without exceptions: a few cycles.
pub struct Directory {
    me: ShardId,
    shard_count: u16,
    exceptions: HashTable<Entry>,
}

impl Directory {
    /// A directory without exceptions. `me` is below `shard_count`.
    pub fn new(me: ShardId, shard_count: u16) -> Directory {
        assert!(me.0 < shard_count, "D1: shard {} of {shard_count}", me.0);
        Directory { me, shard_count, exceptions: HashTable::new() }
    }

    /// The shard that has `id`, as far as this shard knows.
    pub fn owner(&self, id: AgentId) -> ShardId {
        if !self.exceptions.is_empty() {
            let family = family(id);
            if let Some(entry) = self.exceptions.find(family, |entry| entry.family == family) {
                return entry.owner;
            }
        }
        id.home(self.shard_count)
    }

    /// Where a request for `id` goes.
    pub fn route(&self, id: AgentId) -> Route {
        match self.owner(id) {
            owner if owner == self.me => Route::Here,
            owner => Route::Shard(owner),
        }
    }

    /// Learns that the family of `id` is at `owner` since `epoch`. Hearing the same again is
    /// fine; a lower epoch, or another owner of the same one, is refused (D2).
    pub fn teach(&mut self, id: AgentId, owner: ShardId, epoch: u64) -> Result<(), DirectoryError> {
        if owner.0 >= self.shard_count {
            return Err(DirectoryError::NoShard { shard: owner, shard_count: self.shard_count });
        }
        let family = family(id);
        if let Some(entry) = self.exceptions.find_mut(family, |entry| entry.family == family) {
            let same = epoch == entry.epoch && owner == entry.owner;
            if epoch <= entry.epoch && !same {
                return Err(DirectoryError::Stale { given: epoch, known: entry.epoch });
            }
            // Back at home stays listed: the epoch still has to refuse older news.
            (entry.owner, entry.epoch) = (owner, epoch);
            return Ok(());
        }
        if self.exceptions.len() >= DIRECTORY_COUNT_MAX as usize {
            return Err(DirectoryError::Full { count_max: DIRECTORY_COUNT_MAX });
        }
        let entry = Entry { family, epoch, owner };
        self.exceptions.insert_unique(family, entry, |entry| entry.family);
        Ok(())
    }

    /// Families listed with an owner of their own.
    pub fn exception_count(&self) -> usize {
        self.exceptions.len()
    }
}

/// The upper half of an id is a hash of the family, so it serves as its own hash.
fn family(id: AgentId) -> u64 {
    (id.0 >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TenantId;
    use crate::key::AgentKey;

    fn id(key: &str) -> AgentId {
        key.parse::<AgentKey>().unwrap().id(TenantId(0))
    }

    #[test]
    fn d1_a_branch_follows_its_family() {
        let mut directory = Directory::new(ShardId(0), 4);
        let (parent, branch) = (id("notebook/a"), id("notebook/a~1"));
        let away = ShardId((parent.home(4).0 + 1) % 4);
        directory.teach(parent, away, 1).unwrap();
        assert_eq!(directory.owner(branch), away);
        let other = id("notebook/b");
        assert_eq!(directory.owner(other), other.home(4));
    }

    #[test]
    fn d2_stale_epochs_are_refused() {
        let mut directory = Directory::new(ShardId(0), 4);
        let agent = id("notebook/a");
        directory.teach(agent, ShardId(2), 5).unwrap();
        directory.teach(agent, ShardId(2), 5).unwrap();
        let stale = Err(DirectoryError::Stale { given: 5, known: 5 });
        assert_eq!(directory.teach(agent, ShardId(1), 5), stale);
        let stale = Err(DirectoryError::Stale { given: 4, known: 5 });
        assert_eq!(directory.teach(agent, ShardId(2), 4), stale);
        assert_eq!(directory.route(agent), Route::Shard(ShardId(2)));
        directory.teach(agent, ShardId(0), 6).unwrap();
        assert_eq!(directory.route(agent), Route::Here);
        let bad = DirectoryError::NoShard { shard: ShardId(4), shard_count: 4 };
        assert_eq!(directory.teach(agent, ShardId(4), 7), Err(bad));
    }
}
