//! Control blocks: what a shard, its peers and the supervisor tell each other in words.
//!
//! Owns: state, generation, heartbeat, requests to stop, the running turn's key; which side
//! writes what.  Not: who starts or restarts a shard.
//! C1  each word has one writer at a time: lines are grouped by writer, so that a heartbeat does
//!     not disturb the peers who read the state.
//! C2  any bits are valid: a damaged or torn word gives a wrong number or a garbled key, no more.

use crate::ring::{ParkFlag, store_words};
use crate::sync::{AtomicU64, Ordering};
use heronry_engine::Nanos;
use heronry_engine::limits::KEY_BYTES_MAX;

/// Words that hold a key.
const KEY_WORDS: usize = (KEY_BYTES_MAX + 1) / 8;

/// Life of a shard as its block says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShardState {
    /// Never started.
    Empty = 0,
    /// Started, not serving yet.
    Starting = 1,
    /// Serving.
    Up = 2,
    /// Asked to stop; still answers.
    Stopping = 3,
    /// Ended or being restarted.
    Down = 4,
}

impl ShardState {
    /// Name as shown to users.
    pub const fn name(self) -> &'static str {
        match self {
            ShardState::Empty => "empty",
            ShardState::Starting => "starting",
            ShardState::Up => "up",
            ShardState::Stopping => "stopping",
            ShardState::Down => "down",
        }
    }

    /// Whether messages reach it.
    pub const fn reachable(self) -> bool {
        matches!(self, ShardState::Up | ShardState::Stopping)
    }

    fn of(word: u64) -> ShardState {
        match word {
            0 => ShardState::Empty,
            1 => ShardState::Starting,
            2 => ShardState::Up,
            3 => ShardState::Stopping,
            _ => ShardState::Down,
        }
    }
}

/// The node-wide line: one word that moves when any shard's state or generation does.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct NodeLine {
    change_count: AtomicU64,
}

impl NodeLine {
    /// How often any shard changed; compare with what was seen before.
    pub(crate) fn change_count(&self) -> u64 {
        self.change_count.load(Ordering::Acquire)
    }

    pub(crate) fn changed(&self) {
        self.change_count.fetch_add(1, Ordering::AcqRel);
    }
}

/// Rarely written: by the supervisor, or by the shard at its start.
#[derive(Debug)]
#[repr(C, align(128))]
struct StateLine {
    state: AtomicU64,
    generation: AtomicU64,
    pid: AtomicU64,
    /// CPU number + 1; 0: not pinned.
    cpu: AtomicU64,
    restart_count: AtomicU64,
    stop: AtomicU64,
}

/// Written by the shard when it sleeps and by peers that wake it or found its ring damaged.
#[derive(Debug)]
#[repr(C, align(128))]
struct WakeLine {
    parked: ParkFlag,
    alarm: AtomicU64,
}

/// Written by the shard in every pass and turn; read by the supervisor.
#[derive(Debug)]
#[repr(C, align(128))]
struct PulseLine {
    heartbeat_ns: AtomicU64,
    /// Start of the running turn; 0: none runs.
    turn_start_ns: AtomicU64,
    key_len_bytes: AtomicU64,
    key: [AtomicU64; KEY_WORDS],
}

/// One shard's control block. All zero is an empty seat.
#[derive(Debug)]
#[repr(C)]
pub struct ControlBlock {
    state: StateLine,
    wake: WakeLine,
    pulse: PulseLine,
}

impl ControlBlock {
    /// Its state.
    pub fn state(&self) -> ShardState {
        ShardState::of(self.state.state.load(Ordering::Acquire))
    }

    /// Times that a life of this shard began; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.state.generation.load(Ordering::Acquire)
    }

    /// Process id of the shard, 0 before it is set.
    pub fn pid(&self) -> u32 {
        self.state.pid.load(Ordering::Relaxed) as u32
    }

    /// Sets the process id.
    pub fn set_pid(&self, pid: u32) {
        self.state.pid.store(u64::from(pid), Ordering::Relaxed);
    }

    /// CPU the shard is pinned to.
    pub fn cpu(&self) -> Option<u32> {
        (self.state.cpu.load(Ordering::Relaxed) as u32).checked_sub(1)
    }

    /// Sets the CPU the shard is pinned to.
    pub fn set_cpu(&self, cpu: Option<u32>) {
        let word = cpu.map_or(0, |cpu| u64::from(cpu) + 1);
        self.state.cpu.store(word, Ordering::Relaxed);
    }

    /// Times the supervisor restarted the shard.
    pub fn restart_count(&self) -> u64 {
        self.state.restart_count.load(Ordering::Relaxed)
    }

    /// The supervisor counts a restart.
    pub fn count_restart(&self) {
        self.state.restart_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the shard is asked to stop.
    pub fn stop_requested(&self) -> bool {
        self.state.stop.load(Ordering::Relaxed) != 0
    }

    /// Asks the shard to stop, or takes that back before a restart. Ring its doorbell after it.
    pub fn request_stop(&self, stop: bool) {
        self.state.stop.store(u64::from(stop), Ordering::Relaxed);
    }

    /// Whether the shard says that it sleeps. For reports.
    pub fn parked(&self) -> bool {
        self.wake.parked.is_set()
    }

    /// The shard is alive at `now`. Cost: one relaxed store.
    #[inline]
    pub fn beat(&self, now: Nanos) {
        self.pulse.heartbeat_ns.store(now.0, Ordering::Relaxed);
    }

    /// When the shard last said that it is alive.
    pub fn heartbeat(&self) -> Nanos {
        Nanos(self.pulse.heartbeat_ns.load(Ordering::Relaxed))
    }

    /// A turn of the agent `key` starts. Cost: a relaxed store per 8 key bytes.
    #[inline]
    pub fn begin_turn(&self, now: Nanos, key: &[u8]) {
        let key = &key[..key.len().min(KEY_BYTES_MAX)];
        store_words(&self.pulse.key, key);
        self.pulse.key_len_bytes.store(key.len() as u64, Ordering::Relaxed);
        self.pulse.turn_start_ns.store(now.0.max(1), Ordering::Release);
    }

    /// The running turn ended.
    #[inline]
    pub fn end_turn(&self) {
        self.pulse.turn_start_ns.store(0, Ordering::Release);
    }

    /// The running turn: its start and its agent's key. Any thread or process. A key read while
    /// the shard goes to its next turn may be garbled (C2).
    pub fn running(&self) -> Option<(Nanos, String)> {
        let start = self.pulse.turn_start_ns.load(Ordering::Acquire);
        if start == 0 {
            return None;
        }
        let len = (self.pulse.key_len_bytes.load(Ordering::Relaxed) as usize).min(KEY_BYTES_MAX);
        let words = self.pulse.key.iter().map(|cell| cell.load(Ordering::Relaxed).to_le_bytes());
        let mut bytes: Vec<u8> = words.take(len.div_ceil(8)).flatten().collect();
        bytes.truncate(len);
        Some((Nanos(start), String::from_utf8_lossy(&bytes).into_owned()))
    }

    pub(crate) fn store_state(&self, state: ShardState) {
        self.state.state.store(state as u64, Ordering::Release);
    }

    pub(crate) fn next_generation(&self) -> u64 {
        self.state.generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1)
    }

    pub(crate) fn park_flag(&self) -> &ParkFlag {
        &self.wake.parked
    }

    /// A peer found a ring that this shard writes damaged.
    pub(crate) fn raise_alarm(&self) {
        self.wake.alarm.store(1, Ordering::Release);
    }

    pub(crate) fn alarmed(&self) -> bool {
        self.wake.alarm.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn take_alarm(&self) -> bool {
        self.alarmed() && self.wake.alarm.swap(0, Ordering::AcqRel) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{ShardPlan, Shared};
    use heronry_engine::ShardId;

    #[test]
    fn c2_any_bits_are_valid() {
        let shared = Shared::create(ShardPlan { shard_count: 1, ring_bytes: 4096 }).unwrap();
        let block = shared.block(ShardId(0));
        for bits in [0, 1, 5, 255, 256, u64::MAX] {
            block.state.state.store(bits, Ordering::Relaxed);
            block.state.cpu.store(bits, Ordering::Relaxed);
            block.pulse.key_len_bytes.store(bits, Ordering::Relaxed);
            block.pulse.turn_start_ns.store(bits, Ordering::Relaxed);
            block.pulse.key.iter().for_each(|cell| cell.store(bits, Ordering::Relaxed));
            assert!(!block.state().name().is_empty());
            let _ = (block.cpu(), block.running());
        }
    }

    #[test]
    fn c1_the_running_turn_is_told_with_its_key() {
        let shared = Shared::create(ShardPlan { shard_count: 2, ring_bytes: 4096 }).unwrap();
        let block = shared.block(ShardId(1));
        assert_eq!(block.running(), None);
        for key in ["a/b".to_owned(), "notebook/12345678".to_owned(), "t/".repeat(200)] {
            block.begin_turn(Nanos(77), key.as_bytes());
            let told = key[..key.len().min(KEY_BYTES_MAX)].to_owned();
            assert_eq!(block.running(), Some((Nanos(77), told)));
            block.end_turn();
            assert_eq!(block.running(), None);
        }
        block.set_cpu(Some(0));
        assert_eq!(block.cpu(), Some(0));
        block.set_cpu(None);
        assert_eq!((block.cpu(), block.state()), (None, ShardState::Empty));
    }
}
