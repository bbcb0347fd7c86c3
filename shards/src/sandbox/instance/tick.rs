//! Ticks: the signal that ends a slice, on the shard's own thread.
//!
//! Owns: one timer per shard, its signal's handler, the CPU time of the thread.  Not: what a tick
//! does to a guest (the engine's epoch; `instance.rs` decides).
//! T1  the handler touches atomics and the timer only; it runs on the thread that made the timer.
//! T2  the timer is armed while a call runs, and at most one tick longer: an idle shard gets none.
//! T3  a [`Tick`] lives for ever, so that a late signal finds it; its engine is gone by then.
//! Source: timer_create(2), SIGEV_THREAD_ID.
#![allow(unsafe_code)]

use std::io;
use std::ptr::null_mut;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::time::Duration;
use wasmtime::Engine;

/// Time between two ticks.
pub(super) const TICK: Duration = Duration::from_micros(500);
/// Which real-time signal: the first few are other libraries'.
const SIGNAL_OFFSET: libc::c_int = 6;

/// What the signal carries a pointer to (T3).
#[derive(Debug)]
struct Tick {
    engine: AtomicPtr<Engine>,
    timer: AtomicPtr<libc::c_void>,
    running: AtomicBool,
    armed: AtomicBool,
}

/// A shard's timer. Stays on its thread.
#[derive(Debug)]
pub(super) struct Ticker {
    tick: &'static Tick,
    /// Only its own thread may end it: the handler must not run meanwhile (T1).
    _thread: std::marker::PhantomData<*const ()>,
}

impl Ticker {
    /// A timer whose ticks advance the engine's epoch, not armed.
    /// Errors: no timers left, or the signal is taken.
    pub(super) fn new(engine: &Engine) -> io::Result<Ticker> {
        install_handler()?;
        let tick: &'static Tick = Box::leak(Box::new(Tick {
            engine: AtomicPtr::new(Box::into_raw(Box::new(engine.clone()))),
            timer: AtomicPtr::new(null_mut()),
            running: AtomicBool::new(false),
            armed: AtomicBool::new(false),
        }));
        // SAFETY: all zeros is a valid `sigevent`, plain data whose fields are set below.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        // SAFETY: the call has no conditions.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        event.sigev_value = libc::sigval { sival_ptr: std::ptr::from_ref(tick).cast_mut().cast() };
        let mut timer: libc::timer_t = null_mut();
        // SAFETY: `event` and `timer` are alive; the value names a `Tick` that lives for ever (T3).
        let rc = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) };
        let ticker = Ticker { tick, _thread: std::marker::PhantomData };
        if rc != 0 {
            let error = io::Error::last_os_error();
            ticker.free_engine();
            std::mem::forget(ticker);
            return Err(error);
        }
        tick.timer.store(timer, Ordering::Relaxed);
        Ok(ticker)
    }

    /// A call runs until the answer is dropped. Cost: nothing while the timer is still armed.
    pub(super) fn run(&self) -> Running<'_> {
        self.tick.running.store(true, Ordering::Relaxed);
        if !self.tick.armed.swap(true, Ordering::Relaxed) {
            self.tick.arm(TICK);
        }
        Running { ticker: self }
    }

    /// Whether a signal is on its way.
    #[cfg(test)]
    pub(super) fn is_armed(&self) -> bool {
        self.tick.armed.load(Ordering::Relaxed)
    }

    fn free_engine(&self) {
        let engine = self.tick.engine.swap(null_mut(), Ordering::Relaxed);
        // SAFETY: the pointer came from a box and was just taken out, so this is its only end. The
        // handler, which borrows it, runs on this thread only and not now (T1).
        drop(unsafe { Box::from_raw(engine) });
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and ends here.
        unsafe { libc::timer_delete(self.tick.timer.load(Ordering::Relaxed)) };
        self.free_engine();
    }
}

/// A call that runs.
#[derive(Debug)]
pub(super) struct Running<'a> {
    ticker: &'a Ticker,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.ticker.tick.running.store(false, Ordering::Relaxed);
    }
}

impl Tick {
    /// One tick from now. Safe to call in a signal handler.
    fn arm(&self, after: Duration) {
        let value = libc::timespec { tv_sec: 0, tv_nsec: after.subsec_nanos() as libc::c_long };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let once = libc::itimerspec { it_interval: never, it_value: value };
        let timer = self.timer.load(Ordering::Relaxed);
        // SAFETY: the timer lives as long as its ticker; a tick without one is not armed again.
        // `once` is alive, and nothing is asked back.
        unsafe { libc::timer_settime(timer, 0, &once, null_mut()) };
    }
}

/// One tick (T1).
extern "C" fn on_tick(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel hands a valid `siginfo_t` to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    if info.si_code != libc::SI_TIMER {
        return;
    }
    // SAFETY: a signal of a timer carries the value it was made with.
    let value = unsafe { info.si_value() };
    // SAFETY: only `Ticker::new` makes timers with this signal, with a pointer to a `Tick` that
    // lives for ever (T3) and holds nothing but atomics.
    let tick = unsafe { &*value.sival_ptr.cast::<Tick>() };
    let engine = tick.engine.load(Ordering::Relaxed);
    // SAFETY: null or a box that only this thread frees, and it does not while it is here (T1).
    let Some(engine) = (unsafe { engine.as_ref() }) else { return };
    engine.increment_epoch();
    if tick.running.load(Ordering::Relaxed) {
        tick.arm(TICK);
    } else {
        tick.armed.store(false, Ordering::Relaxed);
    }
}

fn signal() -> libc::c_int {
    libc::SIGRTMIN() + SIGNAL_OFFSET
}

/// Once per process; lets the signal through on this thread.
fn install_handler() -> io::Result<()> {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: all zeros is a valid `sigaction`, plain data whose fields are set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_tick as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        // SAFETY: `action` is alive and complete; the handler keeps to what a handler may do (T1).
        unsafe { libc::sigaction(signal(), &action, null_mut()) };
    });
    // SAFETY: all zeros is a valid, empty set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is alive and the signal's number is valid.
    unsafe { libc::sigaddset(&mut set, signal()) };
    // SAFETY: `set` is alive; nothing is asked back.
    let rc = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, null_mut()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(rc)) }
}

/// CPU time of this thread. Cost: a system call.
pub(super) fn thread_cpu_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is alive, and the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t2_ticks_come_while_a_call_runs_and_stop_after_it() {
        let engine = Engine::default();
        let ticker = Ticker::new(&engine).unwrap();
        assert!(!ticker.is_armed());
        for _ in 0..3 {
            let running = ticker.run();
            assert!(ticker.is_armed());
            drop(running);
            while ticker.is_armed() {
                std::hint::spin_loop();
            }
        }
        let running = ticker.run();
        drop(running);
        drop(ticker);
    }

    #[test]
    fn t3_an_ended_ticker_frees_its_engine() {
        let engine = Engine::default();
        let weak = engine.weak();
        let ticker = Ticker::new(&engine).unwrap();
        drop(ticker.run());
        drop((ticker, engine));
        assert!(weak.upgrade().is_none());
    }
}
