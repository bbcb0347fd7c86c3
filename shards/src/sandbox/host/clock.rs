//! The agent's clocks.
//!
//! Owns: what a guest reads as monotonic time and as the date.  Not: reading the host's clocks;
//! both times come as arguments.
//! C1  monotonic time grows with every reading, also after a move, a rollback or a restart that
//!     makes the host's clock smaller.
//! C2  a synchronous sleep does not wait: monotonic time skips forward by the time slept, for good,
//!     and the date by the same until the call into the guest ends.

/// The part of the clock that belongs to the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clock {
    /// The last monotonic time that the guest read, or skipped to.
    pub last_ns: u64,
    /// What is added to the host's time to get the guest's.
    pub offset_ns: i64,
}

/// The host's time during one call into the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostTime {
    /// The shard's time; the one that timers are due in.
    pub now_ns: u64,
    /// Nanoseconds since 1970.
    pub unix_ns: u64,
    /// What synchronous sleeps of this call have skipped (C2).
    pub skipped_ns: u64,
}

impl Clock {
    /// Takes up the host's time at the begin of a call: should it be behind what the guest has
    /// read, the guest's clock goes on from there (C1).
    pub fn adopt(&mut self, now_ns: u64) {
        if self.at(now_ns) < self.last_ns {
            let behind = self.last_ns.saturating_sub(now_ns);
            self.offset_ns = i64::try_from(behind).unwrap_or(i64::MAX);
        }
    }

    /// Monotonic time for the guest.
    pub fn monotonic_ns(&mut self, time: &HostTime) -> u64 {
        self.last_ns = self.at(time.now_ns).max(self.last_ns.saturating_add(1));
        self.last_ns
    }

    /// Skips `ns` forward (C2).
    pub fn skip(&mut self, time: &mut HostTime, ns: u64) {
        self.last_ns = self.monotonic_ns(time).saturating_add(ns);
        time.skipped_ns = time.skipped_ns.saturating_add(ns);
    }

    fn at(self, now_ns: u64) -> u64 {
        now_ns.saturating_add_signed(self.offset_ns)
    }
}

impl HostTime {
    /// The date for the guest, in nanoseconds since 1970.
    pub fn date_ns(&self) -> u64 {
        self.unix_ns.saturating_add(self.skipped_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(now_ns: u64) -> HostTime {
        HostTime { now_ns, unix_ns: 1_000, skipped_ns: 0 }
    }

    #[test]
    fn c1_a_smaller_host_clock_goes_on_from_where_the_guest_was() {
        let mut clock = Clock::default();
        assert_eq!(clock.monotonic_ns(&time(5_000)), 5_000);
        clock.adopt(100);
        assert_eq!(clock.monotonic_ns(&time(100)), 5_001);
        assert_eq!(clock.monotonic_ns(&time(1_100)), 6_000);
    }

    #[test]
    fn c2_a_sleep_skips_both_clocks_and_only_the_monotonic_one_for_good() {
        let mut clock = Clock::default();
        let mut now = time(10_000);
        clock.skip(&mut now, 1_000_000);
        assert_eq!(clock.monotonic_ns(&now), 1_010_001);
        assert_eq!(now.date_ns(), 1_001_000);
        clock.adopt(11_000);
        assert_eq!(clock.monotonic_ns(&time(12_000)), 1_011_001);
        assert_eq!(time(12_000).date_ns(), 1_000);
    }

    proptest! {
        #[test]
        fn c1_monotonic_time_grows_with_every_reading(
            steps in prop::collection::vec((any::<bool>(), any::<u32>(), any::<u64>()), 1..40),
        ) {
            let mut clock = Clock::default();
            let mut last = 0;
            for (moved, slept, now_ns) in steps {
                let mut now = time(now_ns >> 2);
                if moved {
                    clock.adopt(now.now_ns);
                }
                clock.skip(&mut now, u64::from(slept));
                let read = clock.monotonic_ns(&now);
                prop_assert!(read > last);
                last = read;
            }
        }
    }
}
