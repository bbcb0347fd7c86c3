//! The live agents of a shard: tier L1, a bounded cache of images.
//!
//! Owns: which agents have an instance, and which of them loses it when another one needs the room.
//! Not: what an instance does (`behaviour.rs`), nor agents (the engine has them).
//! V1  there are at most `live_max` instances.
//! V2  between turns the memory of an instance equals the image that it holds, so losing one loses
//!     nothing.
//! V3  an instance in the middle of a turn is not evicted; a turn that finds no room for its own
//!     waits here until it is taken up again.
//! V4  an image is kept as a base of its own no longer than instances of it live.

use super::host::{Host, HostEffect, HostReply};
use super::instance::{GuestCall, Instance, SandboxPlan, Sandboxes};
use super::slot::{BaseImage, PoolPlan};
use bytes::Bytes;
use heronry_engine::{AgentId, CallId, Image, PageStore, Refusal};
use lru::LruCache;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Bounds of a shard's sandboxes.
#[derive(Clone, Copy, Debug)]
pub struct LiveLimits {
    /// Most live instances; `None`: as many as the process may map and `live_bytes` have room for.
    pub live_max: Option<u32>,
    /// Memory for live instances; `None`: it does not bound their number.
    pub live_bytes: Option<u64>,
    /// Largest linear memory of an agent in bytes; rounded down to whole Wasm pages.
    pub memory_bytes_max: u64,
    /// Most CPU time of one call into a guest.
    pub turn_cpu_max: Duration,
}

/// What sandboxes need of the world around their shard.
#[derive(Clone, Copy)]
pub struct World {
    /// Nanoseconds since 1970.
    pub unix_ns: fn() -> u64,
    /// Fresh random bytes.
    pub entropy: fn() -> [u8; 32],
    /// Where lines for the operator go.
    pub report: fn(std::fmt::Arguments<'_>),
}

/// How often the cache did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveCounts {
    /// Instances now.
    pub live: u64,
    /// Turns that found their agent live.
    pub hits: u64,
    /// Instances made from an image.
    pub revives: u64,
    /// Instances given up for another agent's.
    pub evictions: u64,
}

/// Where the time of the last turn that ended went, and what it changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastTurn {
    /// Bringing the instance to the agent's image: reviving it, or following a rollback.
    pub bring_ns: u64,
    /// Finding what the turn changed and keeping it: the seal's part of a turn.
    pub capture_ns: u64,
    /// Pages that were looked at.
    pub compared_count: u32,
    /// Pages that had changed.
    pub changed_count: u32,
}

/// What a turn begins with.
#[derive(Clone)]
pub(super) enum Start {
    /// A message.
    Message(Bytes),
    /// Code for the interpreter.
    Exec(Bytes),
    /// What became of a call.
    Reply { call: CallId, result: Result<Option<Bytes>, Refusal> },
    /// The word that the image was restored.
    Restored,
}

/// The live agents of one shard. Stays on its thread.
pub struct Live {
    pub(super) sandboxes: Sandboxes,
    pub(super) limits: LiveLimits,
    pub(super) world: World,
    agents: RefCell<LruCache<AgentId, LiveAgent>>,
    live_max: usize,
    /// Turns that wait for room (V3).
    waiting: RefCell<HashMap<AgentId, Start>>,
    /// Popular images made into bases of their own, the one used last at the end.
    pub(super) flats: RefCell<Vec<Flat>>,
    counts: Cell<LiveCounts>,
    pub(super) last: Cell<LastTurn>,
}

/// An image that many agents start from, as a base: they map it instead of copying its pages.
pub(super) struct Flat {
    /// What the base holds, over the template's.
    pub(super) image: Image,
    /// The image's memory, whole.
    pub(super) base: Arc<BaseImage>,
    /// The base of the template that it belongs to.
    pub(super) template: Arc<BaseImage>,
}

/// An agent's instance, and its turn if one is under way.
pub(super) struct LiveAgent {
    pub(super) instance: Instance<Host>,
    /// What the memory equals (V2).
    pub(super) held: Image,
    /// Calls into the guest that the turn still has to make; the first one is under way if
    /// `calling`.
    pub(super) todo: VecDeque<GuestCall>,
    pub(super) calling: bool,
    /// The turn has paused: it goes on, or ends when its image has room, and never begins again.
    pub(super) paused: bool,
    /// What the turn's calls have asked for so far.
    pub(super) effects: Vec<HostEffect>,
    pub(super) replies: Vec<HostReply>,
}

impl LiveAgent {
    pub(super) fn new(instance: Instance<Host>, held: Image) -> LiveAgent {
        LiveAgent {
            instance,
            held,
            todo: VecDeque::new(),
            calling: false,
            paused: false,
            effects: Vec::new(),
            replies: Vec::new(),
        }
    }

    fn is_in_turn(&self) -> bool {
        self.calling || self.paused || !self.todo.is_empty()
    }
}

impl Live {
    /// An empty cache for the shard of this thread.
    /// Errors: what the host lacks for sandboxes; `heronry doctor` says more.
    pub fn new(limits: LiveLimits, world: World) -> Result<Rc<Live>, super::InstanceError> {
        let LiveLimits { live_max: slots_max, live_bytes: memory_bytes, .. } = limits;
        let pool = PoolPlan { slots_max, memory_bytes, tracking: None };
        Live::with(SandboxPlan { pool, compiles: true }, limits, world)
    }

    pub(super) fn with(
        plan: SandboxPlan,
        limits: LiveLimits,
        world: World,
    ) -> Result<Rc<Live>, super::InstanceError> {
        let sandboxes = Sandboxes::new(plan)?;
        let live_max = sandboxes.pool().slots_max() as usize;
        Ok(Rc::new(Live {
            sandboxes,
            limits,
            world,
            agents: RefCell::new(LruCache::unbounded()),
            live_max: live_max.max(1),
            waiting: RefCell::default(),
            flats: RefCell::default(),
            counts: Cell::default(),
            last: Cell::default(),
        }))
    }

    /// The engine and the slots.
    pub fn sandboxes(&self) -> &Sandboxes {
        &self.sandboxes
    }

    /// Counts since the start, and present sizes.
    pub fn counts(&self) -> LiveCounts {
        LiveCounts { live: self.agents.borrow().len() as u64, ..self.counts.get() }
    }

    /// The last turn that ended.
    pub fn last_turn(&self) -> LastTurn {
        self.last.get()
    }

    /// Takes an agent's instance out, for a turn.
    pub(super) fn take(&self, agent: AgentId) -> Option<LiveAgent> {
        let taken = self.agents.borrow_mut().pop(&agent);
        if taken.is_some() {
            self.count(|counts| counts.hits += 1);
        }
        taken
    }

    /// Puts an instance back; it was used last.
    pub(super) fn put(&self, agent: AgentId, live: LiveAgent) {
        self.agents.borrow_mut().put(agent, live);
    }

    /// Makes room for one more instance (V1): the images of those that lose theirs. `None`: all of
    /// them are in the middle of a turn (V3).
    pub(super) fn make_room(&self) -> Option<Vec<Image>> {
        let mut agents = self.agents.borrow_mut();
        let mut freed = Vec::new();
        let mut looked_at = 0;
        while agents.len() >= self.live_max {
            let Some((agent, live)) = agents.pop_lru() else { break };
            if live.is_in_turn() {
                agents.put(agent, live);
                looked_at += 1;
                if looked_at > agents.len() {
                    return None;
                }
                continue;
            }
            freed.push(live.held);
            self.count(|counts| counts.evictions += 1);
        }
        self.count(|counts| counts.revives += 1);
        Some(freed)
    }

    /// Keeps what a turn begins with until there is room for it.
    pub(super) fn wait(&self, agent: AgentId, start: Start) {
        self.waiting.borrow_mut().insert(agent, start);
    }

    /// What an agent's turn waits with, if it does.
    pub(super) fn waited(&self, agent: AgentId) -> Option<Start> {
        self.waiting.borrow_mut().remove(&agent)
    }

    /// References to the root of `image`, the agent's, that are kept here.
    pub(super) fn copies(&self, agent: AgentId, image: &Image) -> u32 {
        let held = self.agents.borrow().peek(&agent).is_some_and(|live| live.held.same(image));
        let flat = self.flats.borrow().iter().filter(|flat| flat.image.same(image)).count();
        u32::from(held) + flat as u32
    }

    /// Drops an agent's instance, if it has one, and bases that nobody uses then (V4).
    pub(super) fn forget(&self, agent: AgentId, store: &mut PageStore) {
        self.waiting.borrow_mut().remove(&agent);
        if let Some(live) = self.agents.borrow_mut().pop(&agent) {
            live.held.release(store);
        }
        let unused = |flat: &mut Flat| Arc::strong_count(&flat.base) == 1;
        for flat in self.flats.borrow_mut().extract_if(.., unused) {
            flat.image.release(store);
        }
    }

    fn count(&self, change: impl FnOnce(&mut LiveCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}
