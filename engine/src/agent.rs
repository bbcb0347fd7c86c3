//! Agents: key, template, image, versions, mailbox and lifecycle state of each.
//!
//! Owns: the lifecycle, as a table of named edges, and the layout of an agent in memory.  Not: what
//! a verb does (`partition/`).
//! A1  a state changes only along an [`Edge`] that leaves it.
//! A2  a quarantined agent's mailbox is empty; a suspended one's holds no control verb.
//! A3  what an idle agent has not used takes no memory: see [`Rare`].

use crate::behaviour::{RequestId, Restored};
use crate::id::{AgentId, CallId, Nanos, TenantId};
use crate::image::Image;
use crate::key::AgentKey;
use crate::mailbox::Mailbox;
use crate::partition::dedupe::Dedupe;
use crate::partition::journal::Chain;
use crate::partition::serving::Serving;
use crate::slots::NIL;
use crate::version::VersionTree;
use std::collections::VecDeque;

/// Lifecycle state. An agent that was terminated is gone and has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Takes turns.
    #[default]
    Active,
    /// Takes no turns; messages wait.
    Suspended,
    /// Failed too often: takes no turns, messages are refused.
    Quarantined,
}

/// What moves an agent from state to state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    /// SUSPEND.
    Suspend,
    /// RESUME.
    Resume,
    /// One failure too many.
    Quarantine,
}

impl State {
    /// The state after `edge`; `None` when it does not leave this state.
    pub fn after(self, edge: Edge) -> Option<State> {
        match (self, edge) {
            (State::Active | State::Suspended, Edge::Suspend) => Some(State::Suspended),
            (_, Edge::Resume) => Some(State::Active),
            (State::Active, Edge::Quarantine) => Some(State::Quarantined),
            (State::Quarantined, Edge::Suspend) => None,
            (State::Suspended | State::Quarantined, Edge::Quarantine) => None,
        }
    }

    /// Its name, as Info shows it.
    pub fn name(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Suspended => "suspended",
            State::Quarantined => "quarantined",
        }
    }

    /// Whether turns wait, or are refused, until RESUME.
    pub fn is_held(self) -> bool {
        self != State::Active
    }
}

/// Where an agent's image and versions are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Residence {
    /// In memory (tiers L1 and L2).
    Warm,
    /// In the log only (tier L3).
    Cold,
    /// On their way from the log.
    Loading,
    /// In memory, but for pages that are on their way from the log.
    Paging,
}

impl Residence {
    /// Whether nothing of the agent is in memory but what it awaits.
    pub(crate) fn is_cold(self) -> bool {
        matches!(self, Residence::Cold | Residence::Loading)
    }
}

/// Place in the run queue (`partition/queue.rs`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Queued {
    No,
    Yes { before: u32, after: u32 },
}

/// Links between an agent and its branches (`partition/branches.rs`).
#[derive(Debug)]
pub(crate) struct Kin {
    pub(crate) parent: u32,
    pub(crate) first_branch: u32,
    pub(crate) previous: u32,
    pub(crate) next: u32,
    pub(crate) branch_count: u32,
    /// Last number given to a branch as its suffix.
    pub(crate) suffix_last: u32,
}

impl Kin {
    pub(crate) const NONE: Kin = Kin {
        parent: NIL,
        first_branch: NIL,
        previous: NIL,
        next: NIL,
        branch_count: 0,
        suffix_last: 0,
    };

    pub(crate) fn first_branch(&self) -> Option<u32> {
        (self.first_branch != NIL).then_some(self.first_branch)
    }
}

/// What only agents in the middle of something have (A3).
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Request ids and their first replies.
    pub(crate) dedupe: Dedupe,
    /// Calls that are open or whose result waits in the mailbox.
    pub(crate) calls: Vec<CallId>,
    /// Sends that their receivers may not have on disk yet.
    pub(crate) sends: Vec<CallId>,
    /// Requests that the agent keeps open.
    pub(crate) held: Vec<RequestId>,
    /// The request whose turn has paused.
    pub(crate) paused: Option<Serving>,
    /// How the image came here, until a turn has seen it.
    pub(crate) restored: Option<Restored>,
    /// When the latest turns failed; those of the quarantine's window.
    pub(crate) failures: VecDeque<Nanos>,
}

/// One agent, as its partition keeps it.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) key: AgentKey,
    pub(crate) image: Image,
    pub(crate) versions: VersionTree,
    pub(crate) rare: Option<Box<Rare>>,
    pub(crate) turn_count: u64,
    pub(crate) tenant: TenantId,
    pub(crate) mailbox: Mailbox,
    pub(crate) queued: Queued,
    pub(crate) kin: Kin,
    pub(crate) failure_count: u32,
    /// Turns that changed the image since it was last sealed.
    pub(crate) unsealed_count: u32,
    pub(crate) template: u16,
    pub(crate) residence: Residence,
    state: State,
    /// Whether it is to be written whole once it is in memory.
    pub(crate) rewrite: bool,
    /// Whether pages of it may be in the log only (`partition/paging.rs`).
    pub(crate) partly: bool,
    /// Whether it was used since eviction last looked at it.
    pub(crate) used: bool,
    /// Its index in the list of changed agents; 0: not there.
    pub(crate) dirty: u64,
    /// What the log has of it.
    pub(crate) logged: Option<Box<Chain>>,
}

const _: () = assert!(size_of::<Agent>() <= 256);

/// What an agent is made of.
pub(crate) struct Birth {
    pub(crate) id: AgentId,
    pub(crate) tenant: TenantId,
    /// A copy of its own: it must not hold a receive buffer for the agent's life.
    pub(crate) key: AgentKey,
    pub(crate) template: u16,
    pub(crate) image: Image,
    pub(crate) versions: VersionTree,
}

impl Agent {
    pub(crate) fn new(birth: Birth) -> Agent {
        Agent {
            id: birth.id,
            key: birth.key,
            image: birth.image,
            versions: birth.versions,
            rare: None,
            turn_count: 0,
            tenant: birth.tenant,
            mailbox: Mailbox::EMPTY,
            queued: Queued::No,
            kin: Kin::NONE,
            failure_count: 0,
            unsealed_count: 0,
            template: birth.template,
            residence: Residence::Warm,
            state: State::Active,
            rewrite: false,
            partly: false,
            used: true,
            dirty: 0,
            logged: None,
        }
    }

    /// Takes the state that the log gives.
    pub(crate) fn restore_state(&mut self, state: State) {
        self.state = state;
    }

    /// Its present image, and those of its versions.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Image> {
        std::iter::once(&self.image).chain(self.versions.images())
    }

    /// Its calls, and its sends.
    pub(crate) fn all_calls(&self) -> impl Iterator<Item = CallId> {
        let rare = self.rare.as_deref();
        rare.into_iter().flat_map(|rare| rare.calls.iter().chain(&rare.sends).copied())
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Follows `edge` (A1). Panics when it does not leave the present state.
    pub(crate) fn follow(&mut self, edge: Edge) {
        let after = self.state.after(edge);
        self.state = after.unwrap_or_else(|| panic!("A1: {edge:?} from {:?}", self.state));
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Calls that the agent awaits.
    pub(crate) fn call_count(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.calls.len())
    }

    /// How the image came here, until a turn has seen it.
    pub(crate) fn restored(&self) -> Option<Restored> {
        self.rare.as_ref().and_then(|rare| rare.restored)
    }

    /// Whether a turn of the agent has paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.paused.is_some())
    }

    /// Whether the agent has something to do (V3).
    pub(crate) fn is_due(&self) -> bool {
        !self.state.is_held()
            && self.residence == Residence::Warm
            && (!self.mailbox.is_empty() || self.is_paused())
    }

    /// Failures within the quarantine's window, as of the last one.
    pub(crate) fn recent_failure_count(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.failures.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::KEY_BYTES_MAX;
    use crate::slots::Slots;

    /// Bytes of index per agent at worst: 4 of slot number and 1 of tag per bucket, of which 7 in
    /// 16 are taken just after a table has grown.
    const INDEX_BYTES_MAX: usize = 5 * 16 / 7 + 1;
    /// A frame's count of references.
    const FRAME_BYTES: usize = size_of::<u32>();

    /// What an allocator takes for `bytes`: a header, in multiples of 16.
    fn heap(bytes: usize) -> usize {
        (bytes + 8).next_multiple_of(16).max(32)
    }

    #[test]
    fn a3_an_idle_agent_takes_less_than_a_kibibyte_beside_its_page() {
        let new = Slots::<Agent>::BYTES_EACH + INDEX_BYTES_MAX + FRAME_BYTES;
        let named = new + heap("notebook/0123456789".len());
        assert!(named < 320, "{named} bytes for a new agent");
        assert!(new + heap(KEY_BYTES_MAX) < 1024, "{new} bytes and the longest key");
        // After many turns: the newest four versions and the first, in a queue grown to 8.
        let turned = named + heap(80) + heap(8 * 48) + 4 * FRAME_BYTES;
        assert!(turned < 1024, "{turned} bytes for an agent that has taken turns");
    }

    #[test]
    fn a1_every_pair_of_state_and_edge_is_decided() {
        use {Edge::*, State::*};
        for (state, edge, after) in [
            (Active, Suspend, Some(Suspended)),
            (Active, Resume, Some(Active)),
            (Active, Quarantine, Some(Quarantined)),
            (Suspended, Suspend, Some(Suspended)),
            (Suspended, Resume, Some(Active)),
            (Suspended, Quarantine, None),
            (Quarantined, Suspend, None),
            (Quarantined, Resume, Some(Active)),
            (Quarantined, Quarantine, None),
        ] {
            assert_eq!(state.after(edge), after, "{state:?} {edge:?}");
            assert!(state.is_held() != (state == Active));
        }
    }
}
