//! The shard's loop: completions, peers, turns, answers, sends, sleep. A plain state machine.
//!
//! Owns: the order of a pass and its budgets.  Not: what any step does (partition, connections,
//! peers, driver do).
//! T1  the loop awaits in one place, `Driver::park`, and holds no borrow across it.
//! T2  rings and completions are polled at least every `PASS_NS_MAX` of turns.
//! T3  it sleeps only when nothing is left to do and no peer has sent anything.
//! T4  replies and effects leave after the turn that made them is sealed.

mod disk;
mod publish;
mod snapshot;
mod templates;

use crate::connection::{Connections, Mark, Todo};
use crate::control::{ControlBlock, ShardState};
use crate::driver::{Completion, Done, Driver, Handle, Op};
use crate::errand::{Link, Workshop};
use crate::gateway::Gateway;
use crate::histogram::{HistBlock, Latency};
use crate::log::{Log, LogPlan};
use crate::peer::{Inbox, Peers};
use crate::roster::Roster;
use crate::shared::Shared;
use crate::view::{NodeFacts, View};
use heronry_engine::verb::Target;
use heronry_engine::{
    AgentKey, Event, Nanos, Origin, Partition, Refusal, Reply, Request, RosterChange, ShardId,
    TenantId, TurnReport,
};
use std::sync::Arc;

pub use disk::LoopError;

/// Longest stretch of turns between two polls (T2).
const PASS_NS_MAX: u64 = 100_000;
/// Longest sleep: heartbeats and stop requests are seen at least this often.
const SLEEP_MAX: Nanos = Nanos::from_ms(100);
/// Shortest sleep: a driver's timer takes about as long.
const SLEEP_MIN: Nanos = Nanos::from_us(20);
/// Pause before accepting again when descriptors or memory ran out.
const ACCEPT_PAUSE: Nanos = Nanos::from_ms(100);
/// How long a stopping shard waits for its answers to leave and its clients to finish.
const DRAIN_MAX: Nanos = Nanos::from_ms(1_000);
/// Counters are published at least once in this many passes, and before every sleep.
const PUBLISH_PASSES: u32 = 64;

/// The loop's settings.
pub struct LoopPlan {
    /// How long to poll after the last work before sleeping.
    pub spin: Nanos,
    /// A turn longer than this is reported.
    pub stall: Nanos,
    /// Most open connections.
    pub connections_max: u32,
    /// Where reports for the operator go.
    pub report: fn(std::fmt::Arguments<'_>),
}

/// What a shard is made of.
pub struct Parts<D: Driver, G: Gateway> {
    /// The reactor.
    pub driver: D,
    /// The client protocol.
    pub gateway: G,
    /// The agents.
    pub partition: Partition,
    /// The node's shared memory.
    pub shared: Arc<Shared>,
    /// The shard's log, if it has one.
    pub log: Option<LogPlan>,
    /// Agents that an earlier life had, as its roster says; those that the log does not have are
    /// lost.
    pub past: Vec<(TenantId, AgentKey)>,
    /// Where births and ends are noted for the next life.
    pub roster: Roster,
    /// Listening sockets, adopted by the driver.
    pub listeners: Vec<Handle>,
    /// The link to the control thread, adopted by the driver, if there is one.
    pub link: Option<Handle>,
    /// Makes behaviours of the templates that come over the link.
    pub workshop: Box<dyn Workshop>,
    /// What the node says of itself.
    pub facts: NodeFacts,
    /// Settings.
    pub plan: LoopPlan,
}

/// One shard, ready to run.
pub struct Shard<D: Driver, G: Gateway> {
    driver: D,
    me: ShardId,
    partition: Partition,
    connections: Connections<G>,
    peers: Peers,
    shared: Arc<Shared>,
    log_plan: Option<LogPlan>,
    log: Option<Log>,
    past: Vec<(TenantId, AgentKey)>,
    roster: Roster,
    listeners: Vec<Handle>,
    link: Link,
    facts: NodeFacts,
    plan: LoopPlan,
    todo: Todo,
    inbox: Inbox,
    events: Vec<Event>,
    worked_at: Nanos,
    pass_count: u32,
    totals: Totals,
    /// When the log has something to do.
    log_due: Nanos,
    snapshot: snapshot::Snapshot,
}

#[derive(Default)]
struct Totals {
    loops: u64,
    parks: u64,
    stalls: u64,
    busy_ns: u64,
}

impl<D: Driver, G: Gateway> Shard<D, G> {
    /// Takes its place in the mesh: what was queued to the shard's earlier life is discarded.
    pub fn new(me: ShardId, parts: Parts<D, G>) -> Shard<D, G> {
        let shard_count = parts.shared.shard_count();
        let mesh = crate::mesh::Mesh::attach(Arc::clone(&parts.shared), me);
        Shard {
            me,
            connections: Connections::new(parts.gateway, parts.plan.connections_max),
            peers: Peers::new(me, shard_count, mesh),
            driver: parts.driver,
            partition: parts.partition,
            shared: parts.shared,
            log_plan: parts.log,
            log: None,
            past: parts.past,
            roster: parts.roster,
            listeners: parts.listeners,
            link: Link::new(me, parts.link, parts.workshop, parts.plan.report),
            facts: parts.facts,
            plan: parts.plan,
            todo: Todo::default(),
            inbox: Inbox::default(),
            events: Vec::new(),
            worked_at: Nanos(0),
            pass_count: 0,
            totals: Totals::default(),
            log_due: Nanos(u64::MAX),
            snapshot: snapshot::Snapshot::default(),
        }
    }

    /// Serves until asked to stop, then sends what is answered and closes.
    pub async fn run(&mut self) -> Result<(), LoopError> {
        self.run_watched(|_| {}).await
    }

    /// As [`Shard::run`], and shows the partition to `watch` after each pass: for tests.
    pub async fn run_watched(
        &mut self,
        mut watch: impl FnMut(&Partition),
    ) -> Result<(), LoopError> {
        // While the log is read nothing else is in flight whose completion could be missed.
        self.recover().await?;
        self.await_templates().await;
        self.publish();
        // What an earlier life left here would make this one look hung, or stuck in a turn.
        self.block().beat(self.driver.now());
        self.block().end_turn();
        self.set_state(ShardState::Up);
        let mut listening = false;
        while !self.block().stop_requested() {
            let (now, until) = self.pass();
            watch(&self.partition);
            listening = listening || self.listen();
            self.check_log()?;
            self.sleep(now, until).await;
        }
        self.stop().await;
        self.check_log()
    }

    /// Ends the shard and keeps its agents: for tests.
    pub fn into_partition(self) -> Partition {
        self.partition
    }

    fn block(&self) -> &ControlBlock {
        self.shared.block(self.me)
    }

    fn set_state(&mut self, state: ShardState) {
        self.shared.set_state(self.me, state);
        for peer in self.shared.shards() {
            self.driver.doorbell(peer);
        }
    }

    /// Does all that there is to do. Returns the time and until when to sleep.
    fn pass(&mut self) -> (Nanos, Nanos) {
        let now = self.driver.now();
        self.block().beat(now);
        self.totals.loops += 1;
        let worked = self.work(now);
        (now, self.rest(now, worked))
    }

    async fn sleep(&mut self, now: Nanos, until: Nanos) {
        self.driver.park(until).await;
        if until > now {
            self.peers.unpark();
        }
    }

    /// One pass up to the sleep. Returns whether anything happened.
    fn work(&mut self, now: Nanos) -> bool {
        let mut count = self.take_completions(now);
        self.serve_link(now);
        if !self.snapshot.holds() {
            count += self.peers.receive(&mut self.inbox);
            count += self.peers.lose_downed(&mut self.inbox);
        }
        self.route(now);
        let turn_count = self.run_turns();
        self.take_events(now);
        self.pump_log(now, self.partition.waits_for_room(now));
        self.take_events(now);
        self.watch_snapshot(now);
        // Before any answer leaves: who was told of an agent must hear of its loss.
        self.note_births();
        self.settle(now);
        if count + turn_count > 0 {
            self.totals.busy_ns += self.driver.now().since(now).0;
            return true;
        }
        false
    }

    /// Until when to sleep; a past time means not at all (T3).
    fn rest(&mut self, now: Nanos, worked: bool) -> Nanos {
        self.pass_count += 1;
        if self.pass_count >= PUBLISH_PASSES {
            self.publish();
        }
        let due = self.partition.due_next().unwrap_or(Nanos(u64::MAX)).min(self.log_due);
        if self.partition.due_next().is_some_and(|due| due <= now) {
            self.partition.expire(now);
        }
        let left = self.partition.runnable() && !self.partition.waits_for_room(now)
            || !self.partition.events().is_empty()
            || !self.todo.requests.is_empty()
            || self.connections.unsettled();
        if left {
            return Nanos(0);
        }
        if worked {
            self.worked_at = now;
        }
        if self.plan.spin > Nanos(0) && now.since(self.worked_at) < self.plan.spin {
            return Nanos(0);
        }
        self.publish();
        if !self.peers.announce_park() {
            self.peers.unpark();
            return Nanos(0);
        }
        self.totals.parks += 1;
        due.clamp(now.after(SLEEP_MIN), now.after(SLEEP_MAX))
    }

    fn take_completions(&mut self, now: Nanos) -> usize {
        let Shard { driver, connections, todo, shared, facts, me, listeners, plan, link, .. } =
            self;
        let (log, partition) = (&mut self.log, &mut self.partition);
        let view = View { now, me: *me, shared, facts };
        driver.poll(&mut |completion: Completion<'_>| match Mark::of(completion.token) {
            Mark::Accept(idx) => {
                let stopped = matches!(completion.done, Done::Cancelled);
                if let Done::Accepted(handle) = completion.done {
                    connections.accepted(handle, todo);
                } else if let Done::Failed { errno } = completion.done {
                    (plan.report)(format_args!(
                        "cannot accept connections ({}); trying again in {} ms",
                        std::io::Error::from_raw_os_error(errno),
                        ACCEPT_PAUSE.0 / 1_000_000,
                    ));
                }
                if completion.last && !stopped {
                    let again = Op::Timer(now.after(ACCEPT_PAUSE));
                    todo.ops.push((Mark::AcceptAgain(idx).token(), again));
                }
            }
            Mark::AcceptAgain(idx) => {
                let listener = listeners[idx as usize];
                todo.ops.push((Mark::Accept(idx).token(), Op::Accept(listener)));
            }
            Mark::Receive(idx) => connections.received(idx, completion.done, &view, todo),
            Mark::Send(idx) => connections.sent(idx, completion.done),
            Mark::LinkReceive => link.received(completion.done),
            Mark::LinkSend => link.sent(completion.done),
            mark @ (Mark::LogWrite | Mark::LogAhead | Mark::LogRead(_) | Mark::LogScan(_)) => {
                if let Some(log) = log {
                    log.completed(now, mark, completion.done, partition);
                }
            }
        })
    }

    /// Brings requests to where they are handled, and answers to where they are awaited.
    fn route(&mut self, now: Nanos) {
        let mut requests = std::mem::take(&mut self.todo.requests);
        for request in requests.drain(..) {
            self.send_on(now, request);
        }
        self.todo.requests = requests;
        let mut inbox = std::mem::take(&mut self.inbox);
        for request in inbox.requests.drain(..) {
            self.partition.accept(now, request);
        }
        for (origin, result) in inbox.answers.drain(..) {
            self.give(now, origin, result);
        }
        self.inbox = inbox;
    }

    /// Hands a request to this shard's partition or to the shard that it is for.
    fn send_on(&mut self, now: Nanos, request: Request) {
        let to = match &request.target {
            Target::Agent { id, .. } => self.partition.directory().owner(*id),
            Target::Shard(shard) => *shard,
        };
        if to == self.me {
            self.partition.accept(now, request);
        } else if let Err((origin, result)) = self.peers.forward(to, request) {
            self.give(now, origin, result);
        }
    }

    /// Brings an answer to its origin.
    fn give(&mut self, now: Nanos, origin: Origin, result: Result<Reply, Refusal>) {
        match origin {
            Origin::Connection { conn, generation, seq, .. } => {
                self.connections.answer((conn, generation, seq), result);
            }
            Origin::Agent { id, call } => self.partition.answer(now, id, call, result),
            Origin::Peer { shard, token, .. } => self.peers.answer(shard, token, result),
            Origin::Nobody => {}
        }
    }

    /// Runs turns until none is left or the pass has lasted long enough (T2).
    fn run_turns(&mut self) -> usize {
        let started = self.driver.now();
        let mut before = started;
        let (mut count, mut began) = (0, false);
        while self.partition.has_room(before)
            && let Some(key) = self.partition.running_key()
        {
            self.shared.block(self.me).begin_turn(before, key.as_bytes());
            began = true;
            // None: all that were next wait for pages.
            let Some(report) = self.partition.run_turn(before) else { break };
            let after = self.driver.now();
            let spent = after.since(before);
            self.turn_hist().record(spent.0);
            if let Some(accepted_at) = report.accepted_at {
                let message = self.shared.hist(self.me, Latency::Message);
                message.record(after.since(accepted_at).0);
            }
            if spent > self.plan.stall {
                self.report_stall(report, spent);
            }
            before = after;
            count += 1;
            if after.since(started).0 > PASS_NS_MAX {
                break;
            }
        }
        if began {
            self.block().end_turn();
        }
        count
    }

    fn turn_hist(&self) -> &HistBlock {
        self.shared.turn_hist(self.me)
    }

    #[cold]
    fn report_stall(&mut self, report: TurnReport, spent: Nanos) {
        self.totals.stalls += 1;
        let key = self.partition.key_of(report.agent).map_or("(ended)", |key| key.as_str());
        (self.plan.report)(format_args!(
            "shard {}: a turn of {key} took {} ms, more than shards.stall_ms = {}",
            self.me.0,
            spent.0 / 1_000_000,
            self.plan.stall.0 / 1_000_000,
        ));
    }

    /// Carries out what the turns asked for (T4).
    fn take_events(&mut self, now: Nanos) {
        // Carrying one out may add others, for instance a refusal to a local caller.
        while !self.partition.events().is_empty() {
            std::mem::swap(self.partition.events(), &mut self.events);
            let mut events = std::mem::take(&mut self.events);
            for event in events.drain(..) {
                match event {
                    Event::Answer { to, result } => self.give(now, to, result),
                    Event::Deliver(request) => self.send_on(now, request),
                    Event::Load { agent, places } => self.load(now, agent, places),
                    Event::Errand { to, errand } => {
                        if let Err((to, refusal)) = self.link.ask(to, errand) {
                            self.give(now, to, Err(refusal));
                        }
                    }
                }
            }
            self.events = events;
        }
    }

    /// Sends, closes, submits and publishes what the pass has made.
    fn settle(&mut self, now: Nanos) {
        let view = View { now, me: self.me, shared: &self.shared, facts: &self.facts };
        self.connections.settle(&view, &mut self.todo);
        self.link.settle(&mut self.todo);
        for (token, op) in self.todo.ops.drain(..) {
            self.driver.submit(token, op);
        }
        self.peers.publish(&mut self.driver);
    }

    fn note_births(&mut self) {
        let Shard { partition, roster, plan, me, .. } = self;
        let mut failed = None;
        for change in partition.roster_changes() {
            let noted = match &change {
                RosterChange::Born(tenant, key) => roster.born(*tenant, key),
                RosterChange::Ended(tenant, key) => roster.ended(*tenant, key),
            };
            failed = noted.err().or(failed);
        }
        if roster.wants_compaction() {
            failed = roster.compact(partition.known()).err().or(failed);
        }
        if let Some(error) = failed {
            (plan.report)(format_args!(
                "shard {}: cannot note births and ends: {error}; if this shard dies, it cannot \
                 name every agent it lost",
                me.0
            ));
        }
    }

    /// Takes nothing new from clients, answers what has arrived, sends it, closes everything. Peers
    /// are served until then; what they send later is refused on their side.
    async fn stop(&mut self) {
        self.set_state(ShardState::Stopping);
        let started = self.driver.now();
        for idx in 0..self.listeners.len() {
            let accept = Mark::Accept(idx as u32).token();
            self.driver.submit(accept, Op::Cancel(accept));
        }
        self.connections.finish();
        loop {
            let now = self.driver.now();
            self.block().beat(now);
            let worked = self.work(now);
            self.pump_log(now, true);
            let idle = !worked && !self.partition.runnable() && !self.is_log_behind();
            if (idle && self.connections.open_count() == 0) || now.since(started) > DRAIN_MAX {
                break;
            }
            self.driver.park(now.after(Nanos::from_ms(10))).await;
        }
        self.connections.close_all(&mut self.todo);
        self.link.close(&mut self.todo);
        if let Some(log) = &mut self.log {
            log.close(&mut self.todo);
        }
        for listener in self.listeners.drain(..) {
            self.driver.submit(crate::driver::Token(0), Op::Close(listener));
        }
        let now = self.driver.now();
        self.settle(now);
        self.set_state(ShardState::Down);
        self.driver.park(Nanos(0)).await;
        self.publish();
    }
}
