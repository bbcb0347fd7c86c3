//! Branches: agents forked from a version of another one, linked to it until COMMIT or TERMINATE.
//!
//! Owns: FORK, COMMIT, and the links between parent and branches.  Not: pages; a fork shares a
//! root.
//! K1  a branch's links and its parent's agree, and `branch_count` counts them.
//! K2  all branches of one FORK start from one version.
//! K3  FORK makes all branches or none.

use super::journal::From;
use super::verbs::Requests;
use super::{Address, Partition};
use crate::agent::{Agent, Birth, Kin, Residence, State};
use crate::behaviour::Restored;
use crate::id::{AgentId, CallId, Nanos};
use crate::image::Image;
use crate::mailbox::{Item, Waiting, runs_turn};
use crate::refusal::Refusal;
use crate::slots::NIL;
use crate::verb::{Origin, Reply, Verb, VersionRef};
use crate::version::VersionTree;
use bytes::Bytes;

/// Which branches to make.
#[derive(Clone, Debug)]
pub(super) struct ForkPlan {
    pub(super) count: u32,
    /// The version to fork; the sealed present when absent.
    pub(super) at: Option<VersionRef>,
    /// Suffix of the one branch's name; numbered when absent.
    pub(super) suffix: Option<Bytes>,
    /// Whether sleeps go on in the branches.
    pub(super) keep_timers: bool,
    /// The agent's own call that asks for it.
    pub(super) call: Option<CallId>,
}

impl ForkPlan {
    /// So many numbered branches of the present, without its sleeps, as the agent itself asks.
    pub(super) fn own(count: u32, call: Option<CallId>) -> ForkPlan {
        ForkPlan { count, at: None, suffix: None, keep_timers: false, call }
    }
}

impl Partition {
    /// Makes branches of one version, or of the present, which is sealed for it (K2).
    pub(super) fn fork(
        &mut self,
        now: Nanos,
        slot: u32,
        plan: &ForkPlan,
    ) -> Result<Reply, Refusal> {
        let count = plan.count;
        self.touch(slot);
        self.check_agents_max(count)?;
        let at = plan.at.as_ref();
        let found = at.map(|wanted| self.find_version(slot, wanted)).transpose()?;
        let keys = match &plan.suffix {
            Some(suffix) => vec![self.named_branch(slot, suffix)?],
            None => self.numbered_branches(slot, count)?,
        };
        let version = found.unwrap_or_else(|| {
            self.seal(now, slot);
            self.agents[slot].versions.head()
        });
        for (index, address) in (1u32..).zip(&keys) {
            let branch = self.branch(now, slot, version, address);
            let ForkPlan { keep_timers, call, .. } = *plan;
            self.note_restored(branch, Restored::Forked { index, keep_timers, call });
        }
        self.counters.forks += u64::from(count);
        Ok(Reply::Forked(keys.into_iter().map(|address| address.key).collect()))
    }

    fn branch(
        &mut self,
        now: Nanos,
        parent: u32,
        version: crate::VersionId,
        address: &Address,
    ) -> u32 {
        let agent = &self.agents[parent];
        let template = agent.template;
        let image = agent.versions.image_of(version).expect("K2: the version was found");
        let image = image.share(&mut self.store);
        let versions = VersionTree::new(&image, &mut self.store, now);
        let Address { id, tenant, ref key } = *address;
        let key = key.detached();
        let birth = Birth { id, tenant, key, template, image, versions };
        let slot = self.agents.insert(Agent::new(birth));
        let from = From { parent: self.agents[parent].id, version: version.0, at: now };
        self.touch_branch(slot, from);
        self.counters.agents += 1;
        self.join_parent(parent, slot);
        self.born(slot, address.key.clone());
        slot
    }

    /// Notes that an agent's image came from elsewhere, if its behaviour cares, and wakes the agent
    /// when the image awaits something. A branch stays one until a turn has seen it.
    pub(super) fn note_restored(&mut self, slot: u32, how: Restored) {
        let agent = &mut self.agents[slot];
        if self.templates.behaviour(agent.template).sealed_off().is_none() {
            return;
        }
        let restored = &mut agent.rare().restored;
        if !matches!(
            (&*restored, how),
            (Some(Restored::Forked { .. }), Restored::RolledBack { .. })
        ) {
            *restored = Some(how);
        }
        self.tell_restored(slot);
    }

    /// Lets the word of a restored image wait for an agent's next turn, if the image awaits
    /// something. A quarantined agent is told when it is resumed (A2).
    pub(super) fn tell_restored(&mut self, slot: u32) {
        let agent = &mut self.agents[slot];
        if agent.restored().is_none() || agent.state() == State::Quarantined {
            return;
        }
        let behaviour = self.templates.behaviour(agent.template);
        if behaviour.awaits(&agent.image, &self.store) {
            agent.mailbox.push(&mut self.mail, Item::Restored);
            self.wake(slot);
        }
    }

    fn named_branch(&self, slot: u32, suffix: &Bytes) -> Result<Address, Refusal> {
        let agent = &self.agents[slot];
        let Ok(text) = std::str::from_utf8(suffix) else {
            return Err(Refusal::BadKey {
                key: format!("{}~{}", agent.key, String::from_utf8_lossy(suffix)),
                rule: "a key holds visible ASCII only, no spaces".into(),
            });
        };
        let key = agent.key.branch(text)?;
        let id = key.id(agent.tenant);
        if self.agents.find(id).is_some() {
            return Err(Refusal::Exists { key: key.as_str().into() });
        }
        Ok(Address { id, tenant: agent.tenant, key })
    }

    /// The next `count` numbers that are not taken. Numbers are not given twice while the agent
    /// lives, unless the fork is refused.
    fn numbered_branches(&mut self, slot: u32, count: u32) -> Result<Vec<Address>, Refusal> {
        let agent = &self.agents[slot];
        let tenant = agent.tenant;
        let mut number = agent.kin.suffix_last;
        let mut branches = Vec::with_capacity(count as usize);
        while branches.len() < count as usize {
            number += 1;
            let key = agent.key.branch(&number.to_string())?;
            let id = key.id(tenant);
            if self.agents.find(id).is_none() {
                branches.push(Address { id, tenant, key });
            }
        }
        self.agents[slot].kin.suffix_last = number;
        Ok(branches)
    }

    /// Makes the branch's present its parent's, as a new version. The parent keeps its mail and
    /// gets the branch's messages after it; its calls are dropped; the branch and all its siblings
    /// end. Answers `origin`, before what else is answered.
    pub(super) fn commit(&mut self, now: Nanos, slot: u32, origin: Origin) {
        let branch = &self.agents[slot];
        let parent = branch.kin.parent;
        if parent == NIL {
            let refusal = Refusal::WrongState {
                key: branch.key.as_str().into(),
                state: "not a branch of a living agent".into(),
                remedy: "AGENT.FORK makes branches".into(),
            };
            return self.reply(origin, Err(refusal));
        }
        self.page_in_all(parent);
        if self.agents[parent].residence != Residence::Warm {
            return self.commit_later(slot, parent, origin);
        }
        let image = self.agents[slot].image.share(&mut self.store);
        self.touch(parent);
        self.abandon(parent, "committed a branch");
        let image = self.same_as_head(parent, image);
        let replaced = std::mem::replace(&mut self.agents[parent].image, image);
        replaced.release(&mut self.store);
        self.seal(now, parent);
        self.counters.commits += 1;
        self.reply(origin, Ok(Reply::Version(self.agents[parent].versions.head())));
        self.drop_calls(parent, "committed a branch", Requests::Drop);
        self.note_restored(parent, Restored::Committed);

        let mut left = Vec::new();
        self.hand_over(slot, parent);
        left.push(self.end(slot, "was committed"));
        while let Some(sibling) = self.agents[parent].kin.first_branch() {
            left.push(self.end(sibling, "ended when a branch beside it was committed"));
        }
        if self.agents[parent].state().is_held() {
            self.settle_held(now, parent);
        }
        self.wake(parent);
        for left in left {
            self.readmit(now, left);
        }
    }

    /// Moves the messages that wait for a branch behind those of its parent. Control verbs stay:
    /// what was to end or change the branch must not happen to its parent.
    fn hand_over(&mut self, branch: u32, parent: u32) {
        for _ in 0..self.agents[branch].mailbox.count() {
            let item = self.agents[branch].mailbox.pop(&mut self.mail);
            let item = item.expect("Q2: counted above");
            let moves = matches!(&item, Item::Request(waiting) if runs_turn(&waiting.verb));
            let to = if moves { parent } else { branch };
            self.agents[to].mailbox.push(&mut self.mail, item);
        }
    }

    /// An image, or the head of an agent where that has the same bytes: the two come to share no
    /// pages when they were read from the log, and a commit that changes nothing makes no version.
    fn same_as_head(&mut self, slot: u32, image: Image) -> Image {
        let agent = &self.agents[slot];
        let (behaviour, head) =
            (self.templates.behaviour(agent.template), agent.versions.head_image());
        let equal = image.same(head)
            || image.len_bytes() == head.len_bytes()
                && image.diff_over(head, &self.store, &|page| behaviour.base_page(page)).is_empty();
        if !equal {
            return image;
        }
        let head = head.share(&mut self.store);
        image.release(&mut self.store);
        head
    }

    /// Lets a COMMIT wait until the parent is in memory.
    fn commit_later(&mut self, slot: u32, parent: u32, origin: Origin) {
        let branch = &self.agents[slot];
        let to = Address { id: branch.id, tenant: branch.tenant, key: branch.key.clone() };
        self.commits.push((self.agents[parent].id, to, origin));
        self.load(parent);
    }

    /// An agent is in memory, or cannot be: its branches' COMMITs go on.
    pub(super) fn resume_commits(&mut self, now: Nanos, parent: AgentId, failed: Option<&Refusal>) {
        let (due, rest) =
            std::mem::take(&mut self.commits).into_iter().partition(|(of, ..)| *of == parent);
        self.commits = rest;
        let due: Vec<(AgentId, Address, Origin)> = due;
        for (_, to, origin) in due {
            match failed {
                Some(refusal) => self.reply(origin, Err(refusal.clone())),
                None => {
                    let (verb, deadline) = (Verb::Commit, None);
                    self.admit(now, to, Waiting { verb, origin, deadline, accepted_at: now });
                }
            }
        }
    }

    pub(super) fn join_parent(&mut self, parent: u32, branch: u32) {
        let kin = &mut self.agents[parent].kin;
        let next = std::mem::replace(&mut kin.first_branch, branch);
        kin.branch_count += 1;
        if next != NIL {
            self.agents[next].kin.previous = branch;
        }
        let kin = &mut self.agents[branch].kin;
        (kin.parent, kin.previous, kin.next) = (parent, NIL, next);
    }

    /// Takes an agent out of its parent's branches, if it is one.
    pub(super) fn leave_parent(&mut self, branch: u32) {
        let kin = &mut self.agents[branch].kin;
        let Kin { parent, previous, next, .. } = *kin;
        (kin.parent, kin.previous, kin.next) = (NIL, NIL, NIL);
        if parent == NIL {
            return;
        }
        if next != NIL {
            self.agents[next].kin.previous = previous;
        }
        if previous != NIL {
            self.agents[previous].kin.next = next;
        } else {
            self.agents[parent].kin.first_branch = next;
        }
        self.agents[parent].kin.branch_count -= 1;
    }

    /// Ends the link of an agent's branches; they live on.
    pub(super) fn leave_branches(&mut self, parent: u32) {
        while let Some(branch) = self.agents[parent].kin.first_branch() {
            self.leave_parent(branch);
            self.note_orphan(branch);
        }
    }

    /// Checks K1 for one agent.
    pub(super) fn check_kin(&self, slot: u32, agent: &Agent) {
        let mut count = 0;
        let mut previous = NIL;
        let mut at = agent.kin.first_branch;
        while at != NIL {
            let kin = &self.agents[at].kin;
            assert_eq!((kin.parent, kin.previous), (slot, previous), "K1: {}", agent.key);
            count += 1;
            (previous, at) = (at, kin.next);
        }
        assert_eq!(count, agent.kin.branch_count, "K1: {}", agent.key);
    }
}
