//! Agent keys: `template/name`, and for branches `template/name~branch`.
//!
//! Owns: the grammar of a key and its hash.  Not: whether the template exists.
//! K1  a key holds visible ASCII only, one `/` ends the template, `~` starts a branch suffix.
//! K2  equal (tenant, key) pairs have equal ids on every node and in every run.

use crate::id::{AgentId, TenantId};
use crate::limits::{KEY_BYTES_MAX, TEMPLATE_BYTES_MAX};
use crate::refusal::Refusal;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A checked key (K1). Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct AgentKey(Bytes);

impl AgentKey {
    /// Checks the grammar; shares `bytes`, copies nothing. Error: [`Refusal::BadKey`].
    pub fn new(bytes: Bytes) -> Result<AgentKey, Refusal> {
        match check(&bytes) {
            None => Ok(AgentKey(bytes)),
            Some(rule) => Err(Refusal::BadKey {
                key: String::from_utf8_lossy(&bytes[..bytes.len().min(KEY_BYTES_MAX)]).into(),
                rule: rule.into(),
            }),
        }
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("K1: keys are ASCII")
    }

    /// The whole key as bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The template's name: what stands before the first `/`.
    pub fn template(&self) -> &str {
        let text = self.as_str();
        &text[..text.find('/').expect("K1: a key has a /")]
    }

    /// The key up to its first `~`: the agent that this branch, or this branch's parent, left.
    pub fn family(&self) -> &str {
        let text = self.as_str();
        text.split_once('~').map_or(text, |(family, _)| family)
    }

    /// Whether FORK made this name (it has a `~`).
    pub fn is_branch(&self) -> bool {
        self.0.contains(&b'~')
    }

    /// The key of a branch of this agent: `self~suffix`. Error: [`Refusal::BadKey`].
    pub fn branch(&self, suffix: &str) -> Result<AgentKey, Refusal> {
        AgentKey::new(Bytes::from(format!("{}~{suffix}", self.as_str())))
    }

    /// A copy in memory of its own, for keeping: a key that was decoded from a receive buffer
    /// holds the whole buffer.
    pub fn detached(&self) -> AgentKey {
        AgentKey(Bytes::copy_from_slice(&self.0))
    }

    /// The id of this key under `tenant` (K2). Cost: one BLAKE3 block, two for a branch.
    pub fn id(&self, tenant: TenantId) -> AgentId {
        let whole = hash(tenant, &self.0);
        let id = if self.is_branch() {
            let family = hash(tenant, self.family().as_bytes());
            (family >> 64 << 64) | (whole & u128::from(u64::MAX))
        } else {
            whole
        };
        AgentId(id)
    }
}

impl std::fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AgentKey({})", self.as_str())
    }
}

impl std::fmt::Display for AgentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<Bytes> for AgentKey {
    type Error = Refusal;
    fn try_from(bytes: Bytes) -> Result<AgentKey, Refusal> {
        AgentKey::new(bytes)
    }
}

impl From<AgentKey> for Bytes {
    fn from(key: AgentKey) -> Bytes {
        key.0
    }
}

impl std::str::FromStr for AgentKey {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<AgentKey, Refusal> {
        AgentKey::new(Bytes::copy_from_slice(text.as_bytes()))
    }
}

/// The broken rule, if any.
fn check(bytes: &[u8]) -> Option<&'static str> {
    if bytes.len() > KEY_BYTES_MAX {
        return Some("a key has at most 255 bytes");
    }
    // Every command has a key to check. Without an early end the compiler looks at 16 at a time.
    if !bytes.iter().fold(true, |all, byte| all & byte.is_ascii_graphic()) {
        return Some("a key holds visible ASCII only, no spaces");
    }
    let Some(slash) = memchr::memchr(b'/', bytes) else {
        return Some("a key is template/name");
    };
    if slash == 0 || slash > TEMPLATE_BYTES_MAX {
        return Some("a template name has 1 to 63 bytes");
    }
    let branch = memchr::memchr(b'~', bytes);
    if branch.is_some_and(|tilde| tilde < slash) {
        return Some("a template name has no ~");
    }
    let part_empty = match branch {
        Some(_) => bytes[slash + 1..].split(|b| *b == b'~').any(<[u8]>::is_empty),
        None => slash + 1 == bytes.len(),
    };
    if part_empty {
        return Some("the name, and each branch suffix after a ~, has at least one byte");
    }
    None
}

fn hash(tenant: TenantId, key: &[u8]) -> u128 {
    let mut block = [0u8; KEY_BYTES_MAX + 4];
    block[..4].copy_from_slice(&tenant.0.to_le_bytes());
    block[4..4 + key.len()].copy_from_slice(key);
    let digest = blake3::hash(&block[..4 + key.len()]);
    u128::from_le_bytes(digest.as_bytes()[..16].try_into().expect("K2: a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k1_grammar_is_enforced() {
        for good in ["a/b", "counter/000", "n/x~1", "n/x~1~a", "t/a/b/c"] {
            assert!(good.parse::<AgentKey>().is_ok(), "{good}");
        }
        for bad in ["", "a", "/b", "a/", "a/b c", "a/b~", "a/~x", "a~b/c", "a/\u{e9}"] {
            assert!(bad.parse::<AgentKey>().is_err(), "{bad}");
        }
        let long = format!("t/{}", "x".repeat(254));
        assert!(matches!(long.parse::<AgentKey>(), Err(Refusal::BadKey { .. })));
    }

    #[test]
    fn i1_branches_live_at_their_familys_home() {
        for n in 0..200 {
            let key: AgentKey = format!("notebook/{n}").parse().expect("a good key");
            let branch = key.branch("1").and_then(|b| b.branch("x")).expect("a good branch");
            for shards in [1, 2, 3, 64] {
                let home = key.id(TenantId(0)).home(shards);
                assert_eq!(home, branch.id(TenantId(0)).home(shards));
                assert!(home.0 < shards);
            }
            assert_ne!(key.id(TenantId(0)), branch.id(TenantId(0)));
            assert_ne!(key.id(TenantId(0)), key.id(TenantId(1)));
        }
    }
}
