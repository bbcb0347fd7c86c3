//! Per-shard counters: one table of names, one block of words per shard.
//!
//! Owns: the table and the relaxed reads and writes.  Not: when a counter moves.
//! N1  a block has one writer, its shard, so adding is a plain load and store without a lock.
//! N2  a counter's place in the block is its place in the table; blocks have spare places.

use crate::sync::{AtomicU64, Ordering};

/// Places in a block; more than there are counters, so that the layout rarely changes.
pub const COUNTER_SLOTS: usize = 64;

macro_rules! counters {
    ($($variant:ident $name:literal $doc:literal)*) => {
        /// What a shard counts. Gauges (`agents`, `frames_*`, `connections`) are set, others grow.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Counter { $(#[doc = $doc] $variant),* }

        impl Counter {
            /// All of them, in the order of their places (N2).
            pub const ALL: &[Counter] = &[$(Counter::$variant),*];

            /// Name as shown to users.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name),* }
            }

            /// One sentence for users.
            pub const fn summary(self) -> &'static str {
                match self { $(Counter::$variant => $doc),* }
            }
        }
    };
}

counters! {
    Turns "turns" "Turns run."
    Messages "messages" "Messages taken into mailboxes."
    Replies "replies" "Replies given."
    Refusals "refusals" "Requests refused."
    Seals "seals" "Versions sealed."
    Checkpoints "checkpoints" "Versions sealed because a client asked."
    Forks "forks" "Branches made."
    Rollbacks "rollbacks" "Images put back to an earlier version."
    Creates "creates" "Agents created."
    Terminates "terminates" "Agents ended."
    Faults "faults" "Turns that failed."
    Stalls "stalls" "Turns that took longer than the stall limit."
    Agents "agents" "Agents here now."
    LostAgents "lost_agents" "Agents lost in a restart and not created again."
    FramesUsed "frames_used" "Page frames in use now."
    PatchBytes "patch_bytes" "Bytes of older versions beside frames."
    ColdAgents "cold_agents" "Agents that are on disk only, now."
    Loads "loads" "Agents brought back from disk."
    Pagings "pagings" "Times that pages followed an agent from disk."
    Evictions "evictions" "Agents sent to disk only."
    Wakes "wakes" "Agents brought back from disk because they would soon wake."
    HeldAnswers "held_answers" "Answers and effects that wait for the disk now."
    LogBatches "log_batches" "Batches on disk."
    LogBytes "log_bytes" "Bytes written to disk."
    LogRecordBytes "log_record_bytes" "Bytes of records in them."
    LogCompactions "log_compactions" "Segments of the log emptied."
    LogIndexes "log_indexes" "Indexes written."
    FramesTotal "frames_total" "Page frames of the arena."
    Connections "connections" "Client connections open now."
    Accepted "accepted" "Client connections accepted."
    BytesIn "bytes_in" "Bytes received from clients."
    BytesOut "bytes_out" "Bytes sent to clients."
    HopsOut "hops_out" "Messages sent to other shards."
    HopsIn "hops_in" "Messages received from other shards."
    BusyNs "busy_ns" "Nanoseconds spent working."
    Loops "loops" "Passes of the shard loop."
    Parks "parks" "Times the shard slept."
    MeshResets "mesh_resets" "Rings found damaged and put in order."
    MeshDrops "mesh_drops" "Mesh messages dropped: their shard restarted, or they were unreadable."
}

const _: () = assert!(Counter::ALL.len() <= COUNTER_SLOTS);

/// The counters of one shard. All zero is a fresh block.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct CounterBlock {
    cells: [AtomicU64; COUNTER_SLOTS],
}

const _: () = assert!(size_of::<CounterBlock>() == COUNTER_SLOTS * 8);

impl CounterBlock {
    /// Adds to a counter. Only the block's shard may call it (N1).
    #[inline]
    pub fn add(&self, counter: Counter, count: u64) {
        let cell = self.cell(counter);
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Sets a gauge, or a counter kept elsewhere. Only the block's shard may call it (N1).
    #[inline]
    pub fn set(&self, counter: Counter, value: u64) {
        self.cell(counter).store(value, Ordering::Relaxed);
    }

    /// Present value. Any thread or process.
    #[inline]
    pub fn get(&self, counter: Counter) -> u64 {
        self.cell(counter).load(Ordering::Relaxed)
    }

    /// (name, value) of all counters, in the table's order.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Counter::ALL.iter().map(|counter| (counter.name(), self.get(*counter)))
    }

    fn cell(&self, counter: Counter) -> &AtomicU64 {
        &self.cells[counter as usize]
    }
}
