//! A partition: the agents of one shard, and everything that is done to them.
//!
//! Owns: the way of a request (checked, routed, queued, served, answered) and the partition's
//! parts.  Not: time, sockets, the mesh; results are [`Event`]s for the shard's loop.
//! V1  every request is answered exactly once, also when its agent ends first.
//! V2  a request is served after those that came before it to the same agent, except that a held
//!     agent (suspended, quarantined) serves control verbs at once.
//! V3  an agent is in the run queue exactly when it is active and has mail or a paused turn.
//! V4  nothing recurses from agent to agent: effects are events, and come back as requests.

mod admit;
mod answers;
mod apart;
mod branches;
mod calls;
mod chain;
mod compact;
mod config;
pub(crate) mod dedupe;
mod effects;
mod evict;
mod export;
mod failures;
pub(crate) mod journal;
mod lifecycle;
mod listing;
mod lost;
mod paging;
mod queue;
mod record;
mod recovery;
mod replay;
pub(crate) mod serving;
mod survey;
pub(crate) mod table;
mod turns;
mod verbs;
mod wakes;

use crate::agent::{Residence, State};
use crate::behaviour::{Behaviour, Draft, Native};
use crate::directory::{Directory, Route};
use crate::id::{AgentId, CallId, Nanos, Series, ShardId, TenantId};
use crate::key::AgentKey;
use crate::mailbox::{Item, Mail, Waiting};
use crate::page::PageStore;
use crate::refusal::Refusal;
use crate::template::{TemplateError, Templates};
use crate::verb::{Ack, Event, Origin, Reply, Request, Target, Verb};
use bytes::Bytes;
use calls::{Calls, Overdue};
use journal::Journal;
use listing::Hot;
use lost::Lost;
use paging::Arrival;
use queue::RunQueue;
use std::collections::BTreeMap;
use std::rc::Rc;
use table::Table;
use turns::Ran;
use wakes::Wakes;

pub use config::{Counters, PartitionConfig, RosterChange, TurnReport};
pub use journal::{Flush, Live, Made};
pub use recovery::{Last, Recovery};
pub use replay::LoadError;
pub use survey::{ChainView, Heading};
pub use wakes::Awaits;

/// How long to wait before a message is sent again to a shard that was not up.
const AGAIN_AFTER: Nanos = Nanos::from_ms(20);
/// Overdue calls that one [`Partition::expire`] ends.
const EXPIRE_COUNT_MAX: usize = 1_024;

/// Agents that one [`Partition::run_turn`] lets wait for pages, at most.
const WAIT_COUNT_MAX: usize = 64;

/// One shard's agents. The shard's loop owns it alone.
pub struct Partition {
    config: PartitionConfig,
    store: PageStore,
    templates: Templates,
    agents: Table,
    mail: Mail,
    queue: RunQueue,
    calls: Calls,
    wakes: Wakes,
    call_numbers: Series,
    request_numbers: Series,
    directory: Directory,
    lost: Lost,
    hot: Hot,
    journal: Journal,
    draft: Draft,
    events: Vec<Event>,
    roster: Vec<RosterChange>,
    counters: Counters,
    disk_full: bool,
    /// Since when the arena is nearly full.
    full_since: Option<Nanos>,
    /// Agents that have found no room to come back to, and since when.
    crowded: BTreeMap<AgentId, Nanos>,
    /// Where eviction looks next.
    hand: u32,
    /// The segment that is being compacted, and the next slot to look at.
    compacting: Option<(u32, u32)>,
    /// COMMITs of branches whose parent, named first, is on its way from the log.
    commits: Vec<(AgentId, Address, Origin)>,
    /// Records that agents wait for.
    arrivals: BTreeMap<AgentId, Arrival>,
}

/// Whom a request names.
#[derive(Clone)]
struct Address {
    id: AgentId,
    tenant: TenantId,
    key: AgentKey,
}

impl Partition {
    /// An empty partition whose agents are made from `templates` and live in `store`. Panics when
    /// template names repeat or the shard is not below the shard count.
    pub fn new(config: PartitionConfig, store: PageStore, templates: Vec<Native>) -> Partition {
        let counters =
            Counters { frames_total: u64::from(store.frame_count()), ..Counters::default() };
        Partition {
            directory: Directory::new(config.shard, config.shard_count),
            journal: Journal::new(config.log),
            call_numbers: Series::new(config.shard),
            request_numbers: Series::new(config.shard),
            config,
            store,
            templates: Templates::new(templates),
            agents: Table::new(),
            mail: Mail::default(),
            queue: RunQueue::EMPTY,
            calls: Calls::default(),
            wakes: Wakes::default(),
            lost: Lost::default(),
            hot: Hot::new(),
            draft: Draft::default(),
            events: Vec::new(),
            roster: Vec::new(),
            counters,
            disk_full: false,
            full_since: None,
            crowded: BTreeMap::new(),
            hand: 0,
            compacting: None,
            commits: Vec::new(),
            arrivals: BTreeMap::new(),
        }
    }

    /// Takes a request in: answers it, queues it, or passes it on to the shard that has the agent
    /// (as [`Event::Deliver`] with its origin). What comes of it appears in [`Partition::events`],
    /// now or after some [`Partition::run_turn`].
    pub fn accept(&mut self, now: Nanos, request: Request) {
        self.counters.requests += 1;
        let ack = match request.ack {
            Ack::Template => self.config.ack_of(&request.target),
            ack => ack,
        };
        let request = Request { ack, origin: request.origin.with(ack), ..request };
        if ack == Ack::Durable
            && let Err(refusal) = self.check_durable(&request.verb)
        {
            return self.reply(request.origin, Err(refusal));
        }
        if let Err(refusal) = self.config.check(&request) {
            return self.reply(request.origin, Err(refusal));
        }
        let Request { target, verb, origin, deadline, ack } = request;
        let (id, tenant, key) = match target {
            Target::Agent { id, tenant, key } => (id, tenant, key),
            Target::Shard(_) => {
                if let Verb::Errand(errand) = verb {
                    return self.events.push(Event::Errand { to: origin, errand });
                }
                let result = self.shard_verb(verb);
                self.reply(origin, result);
                return self.publish();
            }
        };
        if let Route::Shard(_) = self.directory.route(id) {
            self.counters.forwards += 1;
            let target = Target::Agent { id, tenant, key };
            let request = Request { target, verb, ack, deadline, origin };
            return self.events.push(Event::Deliver(request));
        }
        let waiting = Waiting { verb, origin, deadline, accepted_at: now };
        self.admit(now, Address { id, tenant, key }, waiting);
        self.publish();
    }

    /// Takes in the result of a call that an agent of this partition made. One that the agent does
    /// not await any more is counted and dropped.
    pub fn answer(
        &mut self,
        now: Nanos,
        agent: AgentId,
        call: CallId,
        result: Result<Reply, Refusal>,
    ) {
        if let Err(Refusal::TryAgain { .. }) = &result
            && self.journal.on
            && self.calls.again(agent, call, now.after(AGAIN_AFTER))
        {
            return;
        }
        if self.calls.is_send(agent, call) {
            return self.end_send(agent, call);
        }
        if !self.calls.note_return(agent, call) {
            self.counters.late_replies += 1;
            return;
        }
        let slot = self.agents.find(agent).expect("Y1: an open call's agent lives");
        let result = result.map(|reply| match reply {
            Reply::Payload(payload) => payload,
            Reply::Version(version) => Some(Bytes::from(version.0.to_string())),
            Reply::Forked(keys) => {
                let keys: Vec<&str> = keys.iter().map(AgentKey::as_str).collect();
                Some(Bytes::from(keys.join("\n")))
            }
            _ => None,
        });
        // Past the mailbox's bound, if need be: the number of calls has its own.
        self.agents[slot].mailbox.push(&mut self.mail, Item::Returned { call, result });
        self.wake(slot);
        self.load(slot);
    }

    /// Serves one mailbox item of the next agent, round robin; `None` when no agent has any, or
    /// when many in turn wait for pages: [`Partition::runnable`] tells.
    pub fn run_turn(&mut self, now: Nanos) -> Option<TurnReport> {
        for _ in 0..WAIT_COUNT_MAX {
            let slot = self.queue.pop(&mut self.agents)?;
            let waits = self.agents[slot].partly && self.waits_for_pages(slot);
            if !waits && let Some(report) = self.serve_next(now, slot) {
                return Some(report);
            }
        }
        None
    }

    /// Serves an agent's next item; `None` when its turn waits for pages.
    fn serve_next(&mut self, now: Nanos, slot: u32) -> Option<TurnReport> {
        if !self.only_looks(slot) {
            self.touch(slot);
        }
        let agent = &mut self.agents[slot];
        agent.used = true;
        let id = agent.id;
        let again = if agent.partly { self.copy_of_message(slot) } else { None };
        let agent = &mut self.agents[slot];
        let paused = agent.rare.as_mut().and_then(|rare| rare.paused.take());
        let ran = if let Some(serving) = paused {
            self.resume_turn(now, slot, serving)
        } else {
            let item = agent.mailbox.pop(&mut self.mail).expect("V3: a queued agent has mail");
            match item {
                Item::Request(waiting) => self.serve(now, slot, waiting),
                Item::Returned { call, result } => self.return_turn(now, slot, call, &result),
                Item::Restored => self.restored_turn(now, slot),
            }
        };
        if self.takes_again(slot, again) {
            self.publish();
            return None;
        }
        // The agent may have ended, and its slot may have another one already.
        if let Some(agent) = self.agents.get(slot)
            && agent.id == id
        {
            if ran.failed {
                self.quarantine_if_due(slot);
            }
            if self.agents[slot].state().is_held() {
                self.settle_held(now, slot);
            }
        }
        if self.agents.get(slot).is_some() {
            self.wake(slot);
        }
        if ran.turn {
            self.hot.sample(now, id);
        }
        self.publish();
        let Ran { sealed, failed, accepted_at, .. } = ran;
        Some(TurnReport { agent: id, sealed, failed, accepted_at })
    }

    /// Whether [`Partition::run_turn`] has something to do.
    pub fn runnable(&self) -> bool {
        self.queue.first().is_some()
    }

    /// Key of the agent that the next [`Partition::run_turn`] serves: what to publish as running.
    pub fn running_key(&self) -> Option<&AgentKey> {
        self.queue.first().map(|slot| &self.agents[slot].key)
    }

    /// Key of a living agent.
    pub fn key_of(&self, id: AgentId) -> Option<&AgentKey> {
        self.agents.find(id).map(|slot| &self.agents[slot].key)
    }

    /// Ends sleeps that are over, and calls that are overdue: their agents get
    /// [`Refusal::Timeout`]. Asks for agents whose sleep is over soon. Returns when to call it
    /// again, `None` when nothing is awaited.
    pub fn expire(&mut self, now: Nanos) -> Option<Nanos> {
        self.bring_sleepers(now);
        for _ in 0..EXPIRE_COUNT_MAX {
            let Some(overdue) = self.calls.overdue(now) else { break };
            let (agent, call, sleep) = match overdue {
                Overdue::Ended { agent, call, sleep } => (agent, call, sleep),
                Overdue::Again(call) => {
                    self.ask_again(call);
                    continue;
                }
            };
            let waited_us = self.config.call_timeout.0 / 1_000;
            let timeout = || Refusal::Timeout { waited_us };
            let result = sleep.then_some(Reply::Payload(None)).ok_or_else(timeout);
            self.answer(now, agent, call, result);
        }
        self.due_next()
    }

    /// When [`Partition::expire`] has something to do; `None` when nothing is awaited.
    pub fn due_next(&self) -> Option<Nanos> {
        self.calls.deadline_next().into_iter().chain(self.wakes.next()).min()
    }

    /// Adds a template, or a number of one. Its first number is active in any case.
    pub fn deploy(
        &mut self,
        behaviour: Rc<dyn Behaviour>,
        activate: bool,
    ) -> Result<(), TemplateError> {
        self.templates.deploy(behaviour, activate)
    }

    /// Makes new agents of a template come from this number of it.
    pub fn activate(&mut self, name: &str, number: u32) -> Result<(), TemplateError> {
        self.templates.activate(name, number)
    }

    /// Whether the log's disk is full: durable answers are refused until it is not.
    pub fn set_disk_full(&mut self, full: bool) {
        self.disk_full = full;
    }

    /// What the loop is to do, in order. The loop drains it.
    pub fn events(&mut self) -> &mut Vec<Event> {
        &mut self.events
    }

    /// Agents that were born or ended since this was last called, in order.
    pub fn roster_changes(&mut self) -> std::vec::Drain<'_, RosterChange> {
        self.roster.drain(..)
    }

    /// Counts since the start, and present sizes.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where agents are.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Where agents are, to teach it.
    pub fn directory_mut(&mut self) -> &mut Directory {
        &mut self.directory
    }

    /// Names agents that a previous life of this shard had: they are refused as lost until they
    /// are created again. Keys that live already are passed over.
    pub fn lose(&mut self, keys: impl Iterator<Item = AgentKey>, tenant: TenantId) {
        for key in keys {
            let id = key.id(tenant);
            if self.agents.find(id).is_none() {
                self.lost.insert(id, tenant, key.detached());
            }
        }
        self.counters.lost = self.lost.count() as u64;
    }

    /// Agents that a next life of this shard must be able to name: the living, and the lost.
    pub fn known(&self) -> impl Iterator<Item = (TenantId, &AgentKey)> {
        let living = self.agents.iter().map(|(_, agent)| (agent.tenant, &agent.key));
        living.chain(self.lost.iter())
    }

    /// Ends the partition and gives its store back, pages and all: for tests.
    pub fn into_store(self) -> PageStore {
        self.store
    }

    /// Checks every invariant of the partition and its store. Panics when one is broken. Cost: the
    /// whole partition, so for tests and simulation only.
    pub fn debug_check(&self) {
        let mut mail_count = 0;
        let mut call_count = 0;
        for (slot, agent) in self.agents.iter() {
            let key = &agent.key;
            assert_eq!(self.agents.find(agent.id), Some(slot), "G1: {key}");
            let queued = agent.queued != crate::agent::Queued::No;
            assert_eq!(queued, agent.is_due(), "V3: {key}");
            assert!(!agent.is_paused() || !agent.state().is_held(), "V3: {key} has paused");
            let quarantined = agent.state() == State::Quarantined;
            let served = agent.mailbox.is_empty() || agent.residence != Residence::Warm;
            assert!(!quarantined || served, "A2: {key}");
            self.check_kin(slot, agent);
            mail_count += agent.mailbox.count();
            call_count += agent.all_calls().count();
            let cold = agent.residence != Residence::Warm;
            assert!(!cold || agent.logged.is_some(), "L1: {key} is nowhere");
            self.check_away(slot, agent);
            let listed = self.journal.list().any(|dirty| dirty.slot == slot);
            assert_eq!(listed, agent.dirty != 0, "J1: {key}");
        }
        assert_eq!(mail_count, self.mail.count(), "Q2: mailboxes and mail");
        assert_eq!(call_count, self.calls.counts().0, "Y1: agents' calls and open calls");
        assert_eq!(u64::from(self.agents.count()), self.counters.agents, "agents counted");
        let images = self.agents.iter().flat_map(|(_, agent)| agent.images());
        self.store.debug_check(images.chain(self.journal.images()));
        let chains = self.agents.iter().filter_map(|(_, agent)| agent.logged.as_deref());
        self.journal.check_segments(chains);
    }
}

/// What all parts of it need.
impl Partition {
    /// Puts an agent into the run queue if it belongs there (V3).
    fn wake(&mut self, slot: u32) {
        if self.agents[slot].is_due() {
            self.queue.push(&mut self.agents, slot);
        }
    }

    /// Answers an origin (V1).
    fn reply(&mut self, to: Origin, result: Result<Reply, Refusal>) {
        match result {
            Ok(_) => self.counters.replies += 1,
            Err(_) => self.counters.refusals += 1,
        }
        if to == Origin::Nobody {
            return;
        }
        let tells = result.as_ref().err().is_none_or(Refusal::tells_state);
        let waits = tells && self.waits(to);
        let event = Event::Answer { to, result };
        if waits {
            self.gate(event);
        } else {
            self.events.push(event);
        }
    }

    fn publish(&mut self) {
        self.counters.frames_used = u64::from(self.store.used_count());
        self.counters.patch_bytes = self.store.patch_bytes();
        self.counters.mail = u64::from(self.mail.count());
        self.counters.held_events = self.journal.waiting_count() as u64;
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shard: ShardId = self.config.shard;
        f.debug_struct("Partition")
            .field("shard", &shard)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
