//! What a simulated world is like: delays, pieces, faults.
//!
//! Owns: the knobs and two sets of them.  Not: what they do.
//! All of it is data: with the seed it decides a run.

use heronry_engine::Nanos;

/// What the world is like. All times are virtual.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// Decides everything that is left open below.
    pub seed: u64,
    /// Longest way of bytes, connections and closes between a client and a shard.
    pub network_delay_max: Nanos,
    /// Longest piece in which bytes arrive.
    pub chunk_bytes_max: usize,
    /// Bytes a client may have unread before a shard's send waits.
    pub window_bytes: usize,
    /// Longest way of a doorbell.
    pub bell_delay_max: Nanos,
    /// Longest time one pass of a shard's loop takes.
    pub pass_max: Nanos,
    /// Of a million steps, how many wake a parked shard for nothing.
    pub spurious_per_million: u32,
    /// Of a million connections, how many are reset at some time within a second.
    pub resets_per_million: u32,
    /// Longest time of a read or write of the disk.
    pub disk_delay_max: Nanos,
    /// Of a million disk operations, how many fail (`ENOSPC`, `EIO`).
    pub disk_errors_per_million: u32,
    /// Of a million writes of the disk, how many fail beside those (`EIO`), written in part.
    pub torn_writes_per_million: u32,
    /// Open handles per shard, past which accepting fails with `EMFILE`.
    pub handles_max: usize,
}

impl WorldConfig {
    /// A world without faults: only order, pieces and delays vary.
    pub fn calm(seed: u64) -> WorldConfig {
        WorldConfig {
            seed,
            network_delay_max: Nanos::from_us(50),
            chunk_bytes_max: 4096,
            window_bytes: 64 << 10,
            bell_delay_max: Nanos::from_us(20),
            pass_max: Nanos::from_us(2),
            spurious_per_million: 10_000,
            resets_per_million: 0,
            disk_delay_max: Nanos::from_us(200),
            disk_errors_per_million: 0,
            torn_writes_per_million: 0,
            handles_max: usize::MAX,
        }
    }

    /// A world with faults: tiny pieces, long delays, resets, disk errors.
    pub fn rough(seed: u64) -> WorldConfig {
        WorldConfig {
            network_delay_max: Nanos::from_ms(2),
            chunk_bytes_max: 64,
            window_bytes: 1 << 10,
            bell_delay_max: Nanos::from_us(500),
            spurious_per_million: 100_000,
            resets_per_million: 50_000,
            disk_errors_per_million: 20_000,
            ..WorldConfig::calm(seed)
        }
    }
}
