//! Latency histograms in shared memory: log-linear buckets, one writer, readers at any time.
//!
//! Owns: the bucket layout, recording, snapshots and percentiles.  Not: what is measured.
//! H1  a value's bucket holds it: `lowest(bucket) <= value <= highest(bucket)`, and a bucket is
//!     at most 1/32 of its lowest value wide, so a percentile is off by 3.2 % at most.
//! H2  a block has one writer; a reader sees each bucket whole, and buckets of slightly
//!     different moments.

use crate::sync::{AtomicU64, Ordering};

const SUB_BITS: u32 = 5;
const VALUE_BITS: u32 = 36;
/// Buckets of one histogram: values below 64 have one each; above, each power of two has 32, up
/// to 2^36 ns (68 s). Longer values count in the last one, and in `max_ns` exactly.
pub const BUCKET_COUNT: usize = ((VALUE_BITS - SUB_BITS + 1) as usize) << SUB_BITS;
const _: () = assert!(BUCKET_COUNT == 1024);

macro_rules! latencies {
    ($($variant:ident $name:literal $doc:literal)*) => {
        /// Which latencies a shard publishes, in nanoseconds.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Latency { $(#[doc = $doc] $variant),* }

        impl Latency {
            /// All of them, in the order of their places.
            pub const ALL: &[Latency] = &[$(Latency::$variant),*];

            /// Name as shown to users.
            pub const fn name(self) -> &'static str {
                match self { $(Latency::$variant => $name),* }
            }
        }
    };
}

latencies! {
    Turn "turn" "One turn, from its start to its end, seal included."
    Message "message" "From a message's arrival at its agent's shard to the end of its turn."
    Request "request" "From a client's request to its reply, at the shard of the connection."
    Hop "hop" "From a message to another shard to the answer."
    Pass "pass" "One pass of the shard loop that did work."
}

/// One histogram. All zero is empty.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct HistBlock {
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
    spare: [AtomicU64; 14],
    buckets: [AtomicU64; BUCKET_COUNT],
}

const _: () = assert!(size_of::<HistBlock>() == 128 + BUCKET_COUNT * 8);

/// A copy of a histogram at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    count: u64,
    sum_ns: u64,
    max_ns: u64,
    buckets: Vec<u64>,
}

impl HistBlock {
    /// Counts one value. Only the block's shard may call it (H2). Cost: two to three relaxed
    /// stores.
    #[inline]
    pub fn record(&self, value_ns: u64) {
        let bucket = &self.buckets[bucket_of(value_ns)];
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        let sum = self.sum_ns.load(Ordering::Relaxed).wrapping_add(value_ns);
        self.sum_ns.store(sum, Ordering::Relaxed);
        if value_ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.store(value_ns, Ordering::Relaxed);
        }
    }

    /// Copies the histogram. Any thread or process.
    pub fn snapshot(&self) -> Snapshot {
        let buckets: Vec<u64> =
            self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        Snapshot {
            count: buckets.iter().fold(0, |sum, count| sum.wrapping_add(*count)),
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
            max_ns: self.max_ns.load(Ordering::Relaxed),
            buckets,
        }
    }
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        Snapshot { count: 0, sum_ns: 0, max_ns: 0, buckets: vec![0; BUCKET_COUNT] }
    }
}

impl Snapshot {
    /// Values counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Largest value in nanoseconds, exact; zero when empty.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// Mean in nanoseconds; zero when empty.
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count).unwrap_or(0)
    }

    /// The value that `percent` (0 to 100) of the values do not exceed, rounded up to the end of
    /// its bucket (H1) but never above the maximum; zero when empty.
    pub fn percentile_ns(&self, percent: f64) -> u64 {
        let share = (percent.clamp(0.0, 100.0) / 100.0 * self.count as f64).ceil() as u64;
        let rank = share.clamp(1, self.count.max(1));
        let mut seen = 0u64;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= rank && *count > 0 {
                return if bucket + 1 == BUCKET_COUNT { self.max_ns } else { highest(bucket) }
                    .min(self.max_ns);
            }
        }
        0
    }

    /// (value in ns, count) of each bucket that holds something, by the bucket's middle value:
    /// what an HDR histogram can be filled with.
    pub fn pairs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(bucket, count)| (lowest(bucket).midpoint(highest(bucket)), *count))
    }

    /// Adds another snapshot, of another shard for instance.
    pub fn merge(&mut self, other: &Snapshot) {
        self.count = self.count.wrapping_add(other.count);
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.wrapping_add(*theirs);
        }
    }

    /// What was counted after `earlier`, a snapshot of the same block. The maximum stays that of
    /// the block's whole life, cut to the highest bucket that moved.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        let buckets: Vec<u64> = pairs.map(|(now, then)| now.saturating_sub(*then)).collect();
        let top = buckets.iter().rposition(|count| *count > 0);
        Snapshot {
            count: buckets.iter().sum(),
            sum_ns: self.sum_ns.wrapping_sub(earlier.sum_ns),
            max_ns: match top {
                Some(bucket) if bucket + 1 < BUCKET_COUNT => self.max_ns.min(highest(bucket)),
                Some(_) => self.max_ns,
                None => 0,
            },
            buckets,
        }
    }
}

/// The bucket that counts `value_ns`.
fn bucket_of(value_ns: u64) -> usize {
    let value = value_ns.min((1 << VALUE_BITS) - 1);
    let octave = (u64::BITS - (value >> SUB_BITS).leading_zeros()).saturating_sub(1);
    ((octave as usize) << SUB_BITS) + (value >> octave) as usize
}

/// The smallest value that `bucket` counts.
fn lowest(bucket: usize) -> u64 {
    let octave = (bucket >> SUB_BITS).saturating_sub(1);
    ((bucket - (octave << SUB_BITS)) as u64) << octave
}

/// The largest value that `bucket` counts.
fn highest(bucket: usize) -> u64 {
    lowest(bucket + 1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::{ShardPlan, Shared};
    use heronry_engine::ShardId;

    fn values() -> impl Iterator<Item = u64> {
        let edges = (0..VALUE_BITS).flat_map(|bit| [1u64 << bit, (1 << bit) + 1, (2 << bit) - 1]);
        (0..5_000).chain(edges).chain((0..2_000).map(|n| n * 33_554_393))
    }

    #[test]
    fn h1_every_value_is_in_its_bucket_and_buckets_are_narrow() {
        for value in values() {
            let bucket = bucket_of(value);
            assert!((lowest(bucket)..=highest(bucket)).contains(&value), "{value} in {bucket}");
            let width = highest(bucket) - lowest(bucket) + 1;
            assert!(width == 1 || width * 32 <= lowest(bucket), "{value}: {width} wide");
        }
        for bucket in 1..BUCKET_COUNT {
            assert_eq!(lowest(bucket), highest(bucket - 1) + 1, "buckets leave no gap");
        }
        assert_eq!(highest(BUCKET_COUNT - 1), (1 << VALUE_BITS) - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKET_COUNT - 1);
    }

    #[test]
    fn h1_percentiles_are_close_to_those_of_the_sorted_values() {
        let shared = Shared::create(ShardPlan { shard_count: 1, ring_bytes: 4096 }).unwrap();
        let block = shared.turn_hist(ShardId(0));
        assert_eq!(block.snapshot().percentile_ns(99.0), 0);
        let mut sorted: Vec<u64> = values().collect();
        sorted.iter().for_each(|value| block.record(*value));
        sorted.sort_unstable();
        let snapshot = block.snapshot();
        assert_eq!(snapshot.count(), sorted.len() as u64);
        assert_eq!(snapshot.max_ns(), *sorted.last().unwrap());
        assert_eq!(snapshot.mean_ns(), sorted.iter().sum::<u64>() / sorted.len() as u64);
        for percent in [0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 100.0] {
            let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
            let exact = sorted[rank.max(1) - 1];
            let told = snapshot.percentile_ns(percent);
            assert!(told >= exact && told <= exact + exact / 32, "p{percent}: {told}, not {exact}");
        }
        assert_eq!(snapshot.pairs().map(|(_, count)| count).sum::<u64>(), snapshot.count());
    }

    #[test]
    fn h2_snapshots_add_and_subtract() {
        let shared = Shared::create(ShardPlan { shard_count: 2, ring_bytes: 4096 }).unwrap();
        let (left, right) = (shared.turn_hist(ShardId(0)), shared.turn_hist(ShardId(1)));
        left.record(10);
        let before = left.snapshot();
        left.record(1_000);
        left.record(20_000);
        right.record(5);
        let recent = left.snapshot().since(&before);
        assert_eq!((recent.count(), recent.percentile_ns(50.0) / 100), (2, 10));
        assert_eq!(left.snapshot().since(&left.snapshot()), Snapshot::default());
        let mut both = left.snapshot();
        both.merge(&right.snapshot());
        assert_eq!((both.count(), both.percentile_ns(0.0), both.max_ns()), (4, 5, 20_000));
    }
}
