//! A simulated node: real shards (mesh, partition, gateway, loop) in a world of virtual time.
//!
//! Owns: how the parts of a shard are put together, its deaths and restarts as a supervisor does
//! them, arenas that worlds use again.
//! Not: what clients do (`workload`), what is right (`oracle`).
//! N1  every partition is checked whole, every so many passes and at its end.
//! N2  a node is a pure function of its plan and of what its clients do.

use crate::mischief::templates;
use heronry_engine::log::LogKey;
use heronry_engine::{Counters, Nanos, PAGE_BYTES, PageStore, Partition, PartitionConfig, ShardId};
use heronry_net::{Resp, RespConfig};
use heronry_shards::control::ShardState;
use heronry_shards::driver::Driver;
use heronry_shards::errand::NoWorkshop;
use heronry_shards::log::LogPlan;
use heronry_shards::roster::Roster;
use heronry_shards::shared::{ShardPlan, Shared};
use heronry_shards::sim::{ShardFuture, SimDriver, Step, World, WorldConfig};
use heronry_shards::turn::{LoopPlan, Parts, Shard};
use heronry_shards::view::NodeFacts;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Everything that makes one node unlike another.
#[derive(Clone, Debug)]
pub struct SimPlan {
    /// Delays, pieces and faults.
    pub world: WorldConfig,
    /// Shards, 1 or more.
    pub shard_count: u16,
    /// The first shard starts at once, the others within this time.
    pub start_max: Nanos,
    /// Bytes of each ring of the mesh.
    pub ring_bytes: usize,
    /// Pages of each shard's arena.
    pub frame_count: usize,
    /// Settings of every partition, but for its place.
    pub partition: PartitionConfig,
    /// Settings of every gateway, but for its place.
    pub gateway: RespConfig,
    /// Passes of a loop between two whole checks.
    pub check_passes: u32,
    /// Bytes of a segment of each shard's log, if they have one; an index comes eight times as
    /// often.
    pub segment_bytes: Option<u32>,
}

/// What each shard's partition counted, as of its last pass.
type Counted = Rc<RefCell<BTreeMap<ShardId, Counters>>>;

/// What the supervisor does, and when.
#[derive(Clone, Copy, Debug)]
enum Act {
    Notice(ShardId),
    Start(ShardId),
}

/// A node of simulated shards.
pub struct SimNode {
    /// Where it is.
    pub world: World,
    plan: SimPlan,
    shared: Arc<Shared>,
    rosters: Vec<Roster>,
    futures: Vec<ShardFuture<'static>>,
    acts: BTreeMap<(Nanos, u32), Act>,
    act_count: u32,
    counted: Counted,
    stopping: bool,
}

impl SimNode {
    /// A node whose shards have not made a pass yet.
    pub fn new(plan: SimPlan) -> SimNode {
        let world = World::with(plan.world.clone(), plan.shard_count);
        let shared = ShardPlan { shard_count: plan.shard_count, ring_bytes: plan.ring_bytes };
        let shared = Arc::new(Shared::create(shared).expect("N2: a plan within its bounds"));
        let rosters = shared.shards().map(|shard| {
            Roster::create(&format!("sim-roster-{}", shard.0)).expect("N2: a memfd can be had")
        });
        let mut node = SimNode {
            rosters: rosters.collect(),
            futures: shared.shards().map(|_| None).collect(),
            world,
            shared,
            plan,
            acts: BTreeMap::new(),
            act_count: 0,
            counted: Counted::default(),
            stopping: false,
        };
        for shard in node.shared.shards() {
            node.shared.set_state(shard, ShardState::Starting);
            match node.plan.start_max {
                Nanos(0) => node.start(shard),
                _ if shard == ShardId(0) => node.start(shard),
                Nanos(ns) => node.schedule(Nanos(1 + node.world.random(ns)), Act::Start(shard)),
            }
        }
        node
    }

    /// The node's plan.
    pub fn plan(&self) -> &SimPlan {
        &self.plan
    }

    /// The node's shared memory.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Lets one shard make one pass, or time go on; does what the supervisor has to do by then.
    pub fn step(&mut self) -> Step {
        let now = self.world.now();
        while let Some(first) = self.acts.first_entry()
            && first.key().0 <= now
        {
            match first.remove() {
                Act::Notice(shard) => self.notice(shard),
                Act::Start(shard) => self.start(shard),
            }
        }
        let step = self.world.step(&mut self.futures);
        if let Step::Ended(shard) = step
            && !self.stopping
        {
            // Its log failed: it begins again from what is on disk.
            self.buried(shard, Nanos::from_ms(20));
        }
        step
    }

    /// Ends a shard as `kill -9` does. Its death is noticed and it starts again within `within`.
    /// False: it is dead already.
    pub fn kill(&mut self, shard: ShardId, within: Nanos) -> bool {
        if self.futures[usize::from(shard.0)].take().is_none() {
            return false;
        }
        self.buried(shard, within);
        true
    }

    /// Cuts the power: all shards end, and what was not on disk is gone.
    pub fn cut_power(&mut self, within: Nanos) {
        self.futures.iter_mut().for_each(|future| *future = None);
        self.world.power_loss();
        self.acts.clear();
        for shard in self.shared.shards().collect::<Vec<_>>() {
            let roster = Roster::create(&format!("sim-roster-{}", shard.0));
            self.rosters[usize::from(shard.0)] = roster.expect("N2: a memfd can be had");
            self.buried(shard, within);
        }
    }

    /// A shard has ended: its death is noticed, and it starts again.
    fn buried(&mut self, shard: ShardId, within: Nanos) {
        self.world.kill(shard);
        self.counted.borrow_mut().remove(&shard);
        let noticed = self.world.now().after(Nanos(self.world.random(within.0 / 2)));
        let started = noticed.after(Nanos(1 + self.world.random(within.0 / 2)));
        self.schedule(noticed, Act::Notice(shard));
        self.schedule(started, Act::Start(shard));
    }

    /// Items in the mailboxes of all shards: what waits for an agent that is held, or for its turn.
    pub fn mail_count(&self) -> u64 {
        self.counted.borrow().values().map(|counters| counters.mail).sum()
    }

    /// Asks all shards to stop and steps until they have; what each left.
    pub fn stop(mut self) -> BTreeMap<ShardId, Counters> {
        self.stopping = true;
        self.shared.shards().for_each(|shard| self.shared.block(shard).request_stop(true));
        self.ring_all();
        for _ in 0..1_000_000 {
            if self.futures.iter().all(Option::is_none) {
                return std::mem::take(&mut *self.counted.borrow_mut());
            }
            self.step();
        }
        panic!("a shard does not stop");
    }

    fn schedule(&mut self, at: Nanos, act: Act) {
        self.act_count += 1;
        self.world.alarm(at);
        self.acts.insert((at, self.act_count), act);
    }

    fn notice(&mut self, shard: ShardId) {
        self.shared.set_state(shard, ShardState::Down);
        self.shared.block(shard).count_restart();
        self.ring_all();
    }

    fn ring_all(&self) {
        for shard in self.shared.shards() {
            self.world.driver(shard).doorbell(shard);
        }
    }

    /// Puts a shard together and lets it run: what `heronry shard` does on a seat.
    fn start(&mut self, shard: ShardId) {
        self.shared.set_state(shard, ShardState::Starting);
        let driver = self.world.driver(shard);
        let fd = self.rosters[usize::from(shard.0)].fd().try_clone_to_owned();
        let (roster, reading) =
            Roster::attach(fd.expect("N2: a descriptor")).expect("N2: a roster reads back");
        assert_eq!(reading.damaged_bytes, 0, "a roster was cut");
        let config = PartitionConfig {
            shard,
            shard_count: self.plan.shard_count,
            ..self.plan.partition.clone()
        };
        let store = PageStore::new(arena(self.plan.frame_count));
        let partition = Partition::new(config, store, templates());
        let parts = Parts {
            gateway: Resp::new(RespConfig { shard, ..self.plan.gateway.clone() }),
            driver,
            partition,
            shared: Arc::clone(&self.shared),
            log: self.plan.segment_bytes.map(|segment_bytes| LogPlan {
                files: Box::new(self.world.log_files(shard)),
                key: LogKey([0x5E; 32]),
                segment_bytes,
                delay: Nanos::from_us(300),
                index_bytes: u64::from(segment_bytes) / 8,
            }),
            past: reading.living,
            roster,
            listeners: vec![self.world.listen(shard)],
            link: None,
            workshop: Box::new(NoWorkshop),
            facts: NodeFacts::default(),
            plan: LoopPlan {
                spin: Nanos(0),
                stall: Nanos::from_ms(1_000_000),
                connections_max: 1_000,
                report,
            },
        };
        let body = Body { shard: Some(Shard::new(shard, parts)) };
        let future = live(body, shard, self.plan.check_passes, Rc::clone(&self.counted));
        self.futures[usize::from(shard.0)] = Some(Box::pin(future));
    }
}

/// One life of a shard.
async fn live(mut body: Body, me: ShardId, check_passes: u32, counted: Counted) {
    let mut passes = 0;
    let shard = body.shard.as_mut().expect("N1: a body is born with its shard");
    shard
        .run_watched(|partition| {
            passes += 1;
            counted.borrow_mut().insert(me, *partition.counters());
            if passes % check_passes == 0 {
                partition.debug_check();
            }
        })
        .await
        .unwrap_or_else(|error| report(format_args!("shard {}: {error}", me.0)));
    let partition = body.shard.take().expect("N1: it ran until here").into_partition();
    partition.debug_check();
    counted.borrow_mut().insert(me, *partition.counters());
    keep_arena(partition.into_store());
}

/// A shard whose arena is used again, also when it is killed between two passes.
struct Body {
    shard: Option<Shard<SimDriver, Resp>>,
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(shard) = self.shard.take() {
            keep_arena(shard.into_partition().into_store());
        }
    }
}

thread_local! {
    /// Arenas that no world uses, by length.
    static ARENAS: RefCell<BTreeMap<usize, Vec<&'static mut [u8]>>> = RefCell::default();
}

/// An arena, with whatever bytes the last world left in it.
fn arena(frame_count: usize) -> &'static mut [u8] {
    let bytes = frame_count * PAGE_BYTES;
    let kept = ARENAS.with_borrow_mut(|arenas| arenas.entry(bytes).or_default().pop());
    kept.unwrap_or_else(|| Vec::leak(vec![0; bytes]))
}

fn keep_arena(store: PageStore) {
    let frames = store.into_frames();
    ARENAS.with_borrow_mut(|arenas| arenas.entry(frames.len()).or_default().push(frames));
}

/// Words of a shard to its operator; shown when a person looks at one seed.
fn report(line: std::fmt::Arguments<'_>) {
    if std::env::var_os("HERONRY_SIM_LOG").is_some() {
        eprintln!("{line}");
    }
}
