//! The few raw calls under this crate: time stamp counter, clock, affinity, limits.
//!
//! Owns: every `unsafe` block of the crate outside the kernel probes of `doctor`.
//! Not: what the numbers mean; the callers judge them.
//! S1  no function here keeps a pointer after it returns.
#![allow(unsafe_code)]

use std::io;

/// CPUs that one affinity mask can name.
pub(crate) const CPU_COUNT_MAX: usize = libc::CPU_SETSIZE as usize;

/// The time stamp counter; 0 where there is none. The CPU may read it some nanoseconds early or
/// late: a fence would double the cost, so callers put up with it.
#[inline]
pub(crate) fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: RDTSC reads a register and touches no memory. (A process that forbade it to
        // itself, with PR_SET_TSC, would get SIGSEGV: a stop, not undefined behaviour.)
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Whether the CPU says its counter runs at one rate in every power state.
/// (AMD APM vol. 3, Intel SDM vol. 2: CPUID 8000_0007h, EDX bit 8.)
pub(crate) fn has_invariant_tsc() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::__cpuid;
        __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// CLOCK_MONOTONIC in nanoseconds.
#[inline]
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live timespec that the call fills. CLOCK_MONOTONIC exists on every
    // Linux, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lets the current thread run on `cpus` only. Each is below `CPU_COUNT_MAX`.
pub(crate) fn set_affinity(cpus: &[u32]) -> io::Result<()> {
    let mut words = [0u64; CPU_COUNT_MAX / 64];
    for &cpu in cpus {
        words[cpu as usize / 64] |= 1 << (cpu % 64);
    }
    // SAFETY: the kernel reads `size_of_val(&words)` bytes of a live array; an affinity mask is an
    // array of longs, bit n of which is CPU n. Thread 0 is the calling one.
    let rc = unsafe { libc::sched_setaffinity(0, size_of_val(&words), words.as_ptr().cast()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The CPUs on which the current thread may run, in ascending order.
pub(crate) fn affinity() -> io::Result<Vec<u32>> {
    let mut words = [0u64; CPU_COUNT_MAX / 64];
    // SAFETY: the kernel writes at most `size_of_val(&words)` bytes into a live array.
    let rc = unsafe { libc::sched_getaffinity(0, size_of_val(&words), words.as_mut_ptr().cast()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..CPU_COUNT_MAX as u32)
        .filter(|cpu| words[*cpu as usize / 64] & (1 << (cpu % 64)) != 0)
        .collect())
}

/// The CPU that the current thread runs on at this moment.
pub(crate) fn current_cpu() -> Option<u32> {
    // SAFETY: the call takes nothing and touches no memory of ours.
    u32::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// A resource limit, soft and hard; `u64::MAX` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limit {
    /// What the process gets.
    pub(crate) soft: u64,
    /// What it may raise that to.
    pub(crate) hard: u64,
}

/// The limit on `resource`, one of libc's `RLIMIT_` constants.
pub(crate) fn limit(resource: libc::__rlimit_resource_t) -> io::Result<Limit> {
    let mut raw = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `raw` is a live rlimit that the call fills.
    let rc = unsafe { libc::getrlimit(resource, &mut raw) };
    if rc == 0 {
        Ok(Limit { soft: raw.rlim_cur, hard: raw.rlim_max })
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Bytes per page of memory.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: the call takes a plain number and touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("S1: POSIX systems have a page size")
}
