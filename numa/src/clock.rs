//! The monotonic clock: nanoseconds since boot, about 10 ns a read.
//!
//! Owns: when the time stamp counter can be trusted, its calibration, the reading.
//! Not: timers, wall-clock time.
//! C1  a thread never reads less than it read before.
//! C2  clocks made of one calibration agree across threads and processes of a machine, to within
//!     the nanoseconds by which a CPU may read its counter early; the supervisor measures it once
//!     and hands it to its shards.
//! C3  at calibration the clock equals CLOCK_MONOTONIC to within some hundred nanoseconds; later
//!     they part by the calibration's error and by what NTP slews (parts per million), so kernel
//!     timers are given spans, never points of this clock.

use crate::sys;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a calibration watches both clocks: an error of 40 ns in it is 2 parts per million.
const CALIBRATION_WATCH: Duration = Duration::from_millis(20);
/// Pairs of readings of which the tightest is taken.
const BRACKET_COUNT: u32 = 64;
/// Fraction bits of `ns_per_tick`.
const FRACTION_BITS: u32 = 32;
/// Where the kernel says which clocks it has not found wanting.
const CLOCKSOURCES: &str = "/sys/devices/system/clocksource/clocksource0/available_clocksource";

thread_local! {
    /// The counter as this thread read it last; ticks, so that it serves every calibration.
    static LAST_TICKS: Cell<u64> = const { Cell::new(0) };
}

/// How ticks become nanoseconds: plain data, to be handed to other processes of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Calibration {
    /// Counter at the moment `base_ns`.
    pub base_ticks: u64,
    /// CLOCK_MONOTONIC at the moment `base_ticks`.
    pub base_ns: u64,
    /// Nanoseconds per tick, times 2^32. Zero: do not use the counter, ask the kernel.
    pub ns_per_tick: u64,
    /// What is added to every reading; 0: readings count from the machine's start.
    pub offset_ns: u64,
}

impl Calibration {
    /// Asks the kernel on every read: ~20 ns, right everywhere.
    pub const KERNEL: Calibration =
        Calibration { base_ticks: 0, base_ns: 0, ns_per_tick: 0, offset_ns: 0 };

    /// Begins to compare the counter with CLOCK_MONOTONIC. [`Watch::end`] ends it after 20 ms, in
    /// which other things can be done.
    pub fn begin() -> Watch {
        Watch(tsc_is_trusted().then(|| (Instant::now(), bracket())))
    }

    /// The same, with readings that count from 1970, as the host's clock has it now: points of time
    /// that outlive the machine's start. The clock stays monotonic when the host's is set.
    #[must_use]
    pub fn since_1970(self) -> Calibration {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        Calibration { offset_ns: wall_ns.saturating_sub(sys::monotonic_ns()), ..self }
    }

    /// The line through two (ticks, ns) points, through the later one.
    fn of(first: (u64, u64), last: (u64, u64)) -> Calibration {
        let (ticks, ns) = (last.0.saturating_sub(first.0), last.1.saturating_sub(first.1));
        if ticks == 0 || ns == 0 {
            return Calibration::KERNEL;
        }
        let rate = ((u128::from(ns) << FRACTION_BITS) + u128::from(ticks / 2)) / u128::from(ticks);
        match u64::try_from(rate) {
            Ok(ns_per_tick) => {
                Calibration { base_ticks: last.0, base_ns: last.1, ns_per_tick, offset_ns: 0 }
            }
            Err(_) => Calibration::KERNEL,
        }
    }
}

/// A calibration that has begun.
#[derive(Debug)]
pub struct Watch(Option<(Instant, (u64, u64))>);

impl Watch {
    /// Waits for what is left of the 20 ms. [`Calibration::KERNEL`] at once where the counter's
    /// rate may vary or the kernel has found it unstable.
    pub fn end(self) -> Calibration {
        let Some((begun, first)) = self.0 else { return Calibration::KERNEL };
        std::thread::sleep(CALIBRATION_WATCH.saturating_sub(begun.elapsed()));
        Calibration::of(first, bracket())
    }
}

/// Whether the counter runs at one rate (CPU) and in step on all CPUs (kernel).
pub fn tsc_is_trusted() -> bool {
    // The kernel drops `tsc` from its list when it sees the counters of two CPUs disagree.
    sys::has_invariant_tsc()
        && std::fs::read_to_string(CLOCKSOURCES)
            .is_ok_and(|list| list.split_ascii_whitespace().any(|name| name == "tsc"))
}

/// A monotonic clock. Copying it is free; copies agree (C2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock(Calibration);

impl Clock {
    /// The clock of a calibration that this machine measured since it booted.
    pub const fn new(calibration: Calibration) -> Clock {
        Clock(calibration)
    }

    /// Measures a calibration of its own. Cost: 20 ms.
    pub fn calibrate() -> Clock {
        Clock(Calibration::begin().end())
    }

    /// The calibration, to hand on.
    pub const fn calibration(self) -> Calibration {
        self.0
    }

    /// What is read: `tsc` or `clock_gettime`.
    pub const fn source(self) -> &'static str {
        if self.0.ns_per_tick == 0 { "clock_gettime" } else { "tsc" }
    }

    /// Nanoseconds on CLOCK_MONOTONIC's scale (C1-C3). Before the calibration's moment it stands
    /// still. Cost: about 10 ns, without a system call.
    #[inline]
    pub fn now_ns(self) -> u64 {
        if self.0.ns_per_tick == 0 {
            return sys::monotonic_ns() + self.0.offset_ns;
        }
        // The CPU may run two readings out of order, and a thread may move between CPUs whose
        // counters differ by a little: what was read before is the least (C1).
        let ticks = LAST_TICKS.with(|last| {
            let ticks = sys::tsc().max(last.get());
            last.set(ticks);
            ticks
        });
        self.ns_at(ticks)
    }

    #[inline]
    fn ns_at(self, ticks: u64) -> u64 {
        let past = u128::from(ticks.saturating_sub(self.0.base_ticks));
        self.0.offset_ns
            + self.0.base_ns
            + ((past * u128::from(self.0.ns_per_tick)) >> FRACTION_BITS) as u64
    }
}

/// A (ticks, ns) pair: of many, the one whose counter readings around the clock's are closest.
fn bracket() -> (u64, u64) {
    let mut best = (u64::MAX, (0, 0));
    for _ in 0..BRACKET_COUNT {
        let before = sys::tsc();
        let ns = sys::monotonic_ns();
        let width = sys::tsc().saturating_sub(before);
        if width < best.0 {
            best = (width, (before + width / 2, ns));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c1_a_thread_never_reads_less_than_before() {
        for clock in [Clock::calibrate(), Clock::new(Calibration::KERNEL)] {
            let mut last = 0;
            for _ in 0..200_000 {
                let now = clock.now_ns();
                assert!(now >= last, "{} ran back from {last} to {now}", clock.source());
                last = now;
            }
        }
    }

    #[test]
    fn c2_readings_are_ordered_across_threads_but_for_early_ones() {
        use std::sync::mpsc;
        let early_ns_max = 1_000;
        let clock = Clock::calibrate();
        let (to, from) = mpsc::channel::<u64>();
        let (back_to, back_from) = mpsc::channel::<u64>();
        let other = std::thread::spawn(move || {
            for sent in from {
                let now = clock.now_ns();
                assert!(now + early_ns_max >= sent, "the other thread read {now} after {sent}");
                if back_to.send(now).is_err() {
                    break;
                }
            }
        });
        for _ in 0..1_000 {
            to.send(clock.now_ns()).expect("the other thread lives");
            let seen = back_from.recv().expect("the other thread answers");
            assert!(clock.now_ns() + early_ns_max >= seen);
        }
        drop(to);
        other.join().expect("no reading ran back");
    }

    #[test]
    fn c3_kernel_readings_bracket_ours_up_to_the_calibrations_error() {
        // Order, not speed: a reading lies between two of the kernel's, but for the error that
        // 2 parts per million over the watch, and some more for a noisy machine, allow.
        let slack_ns = 100_000;
        let clock = Clock::calibrate();
        for _ in 0..1_000 {
            let before = sys::monotonic_ns();
            let now = clock.now_ns();
            let after = sys::monotonic_ns();
            assert!(before <= now + slack_ns, "{now} is before {before}");
            assert!(now <= after + slack_ns, "{now} is after {after}");
        }
    }

    #[test]
    fn c3_the_line_goes_through_its_points_and_never_overflows() {
        let clock = Clock::new(Calibration::of((1_000, 500), (4_000, 1_500)));
        assert_eq!(clock.ns_at(4_000), 1_500);
        assert!((1_500 + 999..=1_500 + 1_000).contains(&clock.ns_at(7_000)));
        assert_eq!(clock.ns_at(0), 1_500);
        // A century of ticks of a 3 GHz counter.
        assert!(clock.ns_at(3_000_000_000 * 3_153_600_000) > 1_500);
        assert_eq!(Calibration::of((5, 5), (5, 9)), Calibration::KERNEL);
        assert_eq!(Calibration::of((9, 5), (5, 9)), Calibration::KERNEL);
    }
}
