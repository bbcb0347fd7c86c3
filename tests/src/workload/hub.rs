//! What the clients of one run share: the world, deaths of shards, shared counters, the trace.
//!
//! Owns: what no client can know alone.  Not: any client's agents.
//! H1  every add to a shared counter that was acknowledged counts once: the replies form a chain.

use heronry_engine::{AgentKey, Nanos, ShardId, TenantId};
use heronry_shards::sim::World;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::task::Poll;

/// Adds to one shared counter.
#[derive(Default, Debug)]
pub struct Shared {
    /// Reply and amount of each acknowledged add.
    added: BTreeMap<i64, i64>,
    /// The sum of those whose fate nobody knows.
    perhaps: i64,
    /// Its shard died, so what it counts began anew.
    died: bool,
}

/// What clients know of their node.
pub struct About {
    /// Shards of the node.
    pub shard_count: u16,
    /// Whether a bounded queue may be found full.
    pub busy: bool,
    /// Whether arenas may be found full.
    pub full: bool,
    /// Whether shards die or connections break.
    pub faults: bool,
    /// How long an agent awaits a call.
    pub call_timeout: Nanos,
}

/// What one run's clients share.
pub struct Hub {
    /// The world.
    pub world: World,
    /// Shards of the node.
    pub shard_count: u16,
    /// Whether a bounded queue may be found full.
    pub busy: bool,
    /// Whether arenas may be found full.
    pub full: bool,
    /// Whether shards die or connections break.
    pub faults: bool,
    /// How long an agent awaits a call.
    pub call_timeout: Nanos,
    /// Times each shard died.
    deaths: RefCell<Vec<u32>>,
    logged: Option<String>,
    closing: Cell<bool>,
    /// Clients that wait for a reply.
    pub waiting_count: Cell<u32>,
    progress_at: Cell<Nanos>,
    hasher: RefCell<DefaultHasher>,
    shared: RefCell<BTreeMap<String, Shared>>,
    /// Replies that were compared.
    pub compared_count: Cell<u64>,
    /// Codes of refusals, and how often.
    pub refusals: RefCell<BTreeMap<String, u64>>,
}

impl Hub {
    /// A hub of a world that has just begun.
    pub fn new(world: World, about: About) -> Hub {
        let About { shard_count, busy, full, faults, call_timeout } = about;
        Hub {
            world,
            shard_count,
            busy,
            full,
            faults,
            call_timeout,
            deaths: RefCell::new(vec![0; usize::from(shard_count)]),
            logged: std::env::var("HERONRY_SIM_KEY").ok(),
            closing: Cell::default(),
            waiting_count: Cell::default(),
            progress_at: Cell::default(),
            hasher: RefCell::new(DefaultHasher::new()),
            shared: RefCell::default(),
            compared_count: Cell::default(),
            refusals: RefCell::default(),
        }
    }

    /// The shard of an agent.
    pub fn home(&self, key: &str) -> Option<ShardId> {
        let key: AgentKey = key.parse().ok()?;
        Some(key.id(TenantId(0)).home(self.shard_count))
    }

    /// Times the shard of an agent died.
    pub fn deaths(&self, key: &str) -> u32 {
        self.home(key).map_or(0, |shard| self.deaths_of(shard))
    }

    /// Times a shard died.
    pub fn deaths_of(&self, shard: ShardId) -> u32 {
        self.deaths.borrow()[usize::from(shard.0)]
    }

    /// No shard dies from here on: a client has begun its last look.
    pub fn close(&self) {
        self.closing.set(true);
        self.world.calm_disk();
    }

    /// Whether no shard may die any more.
    pub fn closing(&self) -> bool {
        self.closing.get()
    }

    /// Notes a death.
    pub fn died(&self, shard: ShardId) {
        self.deaths.borrow_mut()[usize::from(shard.0)] += 1;
        for (key, shared) in self.shared.borrow_mut().iter_mut() {
            shared.died |= self.home(key) == Some(shard);
        }
    }

    /// A client got a reply or went on.
    pub fn progress(&self) {
        self.progress_at.set(self.world.now());
    }

    /// When a client last got on.
    pub fn progress_at(&self) -> Nanos {
        self.progress_at.get()
    }

    /// Adds to the trace.
    pub fn trace(&self, bytes: &[u8]) {
        let mut hasher = self.hasher.borrow_mut();
        self.world.now().0.hash(&mut *hasher);
        bytes.hash(&mut *hasher);
    }

    /// Hash of all that clients received, and when.
    pub fn trace_hash(&self) -> u64 {
        self.hasher.borrow().finish()
    }

    /// Shows what is asked of agents whose key begins with `HERONRY_SIM_KEY`.
    pub fn log(&self, key: &str, line: impl FnOnce() -> String) {
        if self.logged.as_deref().is_some_and(|logged| key.starts_with(logged)) {
            eprintln!("{:>12} {}", self.world.now().0, line());
        }
    }

    /// Lets virtual time pass.
    pub async fn sleep(&self, span: Nanos) {
        let until = self.world.now().after(span);
        self.world.alarm(until);
        std::future::poll_fn(|_| {
            if self.world.now() < until {
                return Poll::Pending;
            }
            self.progress();
            Poll::Ready(())
        })
        .await;
    }

    /// An add was acknowledged.
    pub fn added(&self, key: &str, amount: i64, reply: i64) {
        let mut all = self.shared.borrow_mut();
        let shared = all.entry(key.to_owned()).or_default();
        shared.died |= self.deaths(key) > 0;
        let twice = shared.added.insert(reply, amount);
        assert!(twice.is_none() || shared.died, "H1: {key} was {reply} after two adds");
    }

    /// Nobody knows whether an add happened.
    pub fn perhaps_added(&self, key: &str, amount: i64) {
        self.shared.borrow_mut().entry(key.to_owned()).or_default().perhaps += amount;
    }

    /// Compares a shared counter's last value with what was acknowledged (H1).
    pub fn check_shared(&self, key: &str, value: i64) {
        let all = self.shared.borrow();
        let Some(shared) = all.get(key) else { return };
        if shared.died {
            return;
        }
        let sum: i64 = shared.added.values().sum();
        let range = sum..=sum + shared.perhaps;
        assert!(range.contains(&value), "H1: {key} is {value}, acknowledged: {range:?}");
        if shared.perhaps > 0 {
            return;
        }
        let mut before = 0;
        for (reply, amount) in &shared.added {
            assert_eq!(*reply, before + amount, "H1: {key} skipped a value");
            before = *reply;
        }
    }
}
