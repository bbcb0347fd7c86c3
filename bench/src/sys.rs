//! The system calls that the standard library lacks: CPU masks, signals, inherited descriptors.
//!
//! Owns: every `unsafe` of this crate.  Not: which CPU is for whom (`machine.rs`).
//! Y1  what runs between fork and exec makes async-signal-safe calls only and allocates nothing.
//! Y2  a child started through `confine` dies with this process, whatever kills it.

#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// CPUs beyond this number are not used.
pub const CPU_MAX: usize = libc::CPU_SETSIZE as usize;

/// A set of CPUs in the kernel's form.
#[derive(Clone, Copy)]
pub struct CpuMask(libc::cpu_set_t);

impl CpuMask {
    /// The mask of `cpus`; numbers past [`CPU_MAX`] are left out.
    pub fn of(cpus: &[usize]) -> CpuMask {
        // SAFETY: `cpu_set_t` is an array of integers, for which all-zero bytes are a value.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for cpu in cpus.iter().filter(|cpu| **cpu < CPU_MAX) {
            // SAFETY: `cpu` is below CPU_SETSIZE, so the bit lies inside `set`.
            unsafe { libc::CPU_SET(*cpu, &mut set) };
        }
        CpuMask(set)
    }

    /// Applies the mask to the calling thread.
    pub fn apply(&self) -> io::Result<()> {
        // SAFETY: the pointer and the length describe `self.0`, which the call only reads.
        let rc = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &self.0) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// The calling thread on one CPU until this is dropped; then it has its CPUs back.
pub struct Pinned(Vec<usize>);

impl Pinned {
    /// Pins the calling thread. Error: the CPU is not allowed; nothing changed.
    pub fn to(cpu: usize) -> io::Result<Pinned> {
        let before = allowed_cpus();
        CpuMask::of(&[cpu]).apply()?;
        Ok(Pinned(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The mask was this thread's a moment ago; a thread that stays pinned still works.
        let _ = CpuMask::of(&self.0).apply();
    }
}

/// CPUs that this thread may run on, ascending.
pub fn allowed_cpus() -> Vec<usize> {
    let mut mask = CpuMask::of(&[]);
    // SAFETY: the pointer and the length describe `mask.0`, which the call fills.
    let rc = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut mask.0) };
    if rc != 0 {
        return vec![0];
    }
    // SAFETY: `cpu` is below CPU_SETSIZE, so the bit lies inside the set.
    (0..CPU_MAX).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &mask.0) }).collect()
}

/// Makes the child of `command` run on `cpus` only and get `signal` when this thread ends (Y2).
pub fn confine(command: &mut Command, cpus: &[usize], signal: i32) {
    let mask = CpuMask::of(cpus);
    let pinned = !cpus.is_empty();
    let before_exec = move || {
        if pinned {
            mask.apply()?;
        }
        // SAFETY: PR_SET_PDEATHSIG takes one number and touches no memory.
        let rc = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes two system calls and allocates nothing (Y1).
    unsafe { command.pre_exec(before_exec) };
}

/// Lets the child of `command` inherit `fd` under the same number.
pub fn inherit(command: &mut Command, fd: RawFd) {
    let before_exec = move || {
        // SAFETY: F_SETFD takes a number; a bad `fd` is reported, not undefined.
        let rc = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes one system call and allocates nothing (Y1).
    unsafe { command.pre_exec(before_exec) };
}

/// Takes over a descriptor that a parent passed by number. Error: it is not open.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes a number; a bad `fd` is reported, not undefined.
    let rc = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and the parent passed it for this one use.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `signal` to a process that this one started and has not reaped yet.
pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    // SAFETY: kill takes two numbers and touches no memory.
    let rc = unsafe { libc::kill(pid, signal) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A new non-blocking eventfd that starts at 0.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes two numbers and touches no memory.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made `fd` for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until `fd` is readable, at most `wait`, to the nanosecond where the thread asked for
/// [`exact_sleeps`]. False: the time passed first.
pub fn wait_readable(fd: RawFd, wait: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let tv_sec = libc::time_t::try_from(wait.as_secs()).unwrap_or(libc::time_t::MAX);
    let timeout = libc::timespec { tv_sec, tv_nsec: wait.subsec_nanos().into() };
    // SAFETY: one valid pollfd and the count says one; the time is only read; no mask is given.
    let rc = unsafe { libc::ppoll(&mut poll, 1, &timeout, std::ptr::null()) };
    if rc < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) };
    }
    Ok(rc > 0)
}

/// Lets the calling thread's sleeps end when they are due, not up to 50 us later, as the kernel
/// does by default to end several at once.
pub fn exact_sleeps() -> io::Result<()> {
    const SLACK_NS: libc::c_ulong = 1;
    // SAFETY: PR_SET_TIMERSLACK takes one number and touches no memory.
    let rc = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of one page of memory and clock ticks per second, as `/proc` counts them.
pub fn page_bytes_and_ticks() -> (u64, u64) {
    // SAFETY: sysconf takes a number and touches no memory.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // SAFETY: as above.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    (page.max(1) as u64, ticks.max(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_gets_its_cpus_back() {
        let before = allowed_cpus();
        let pinned = Pinned::to(before[0]).expect("an allowed CPU");
        assert_eq!(allowed_cpus(), [before[0]]);
        drop(pinned);
        assert_eq!(allowed_cpus(), before);
    }

    #[test]
    fn y2_a_confined_child_has_the_mask_it_was_given() {
        let cpu = allowed_cpus()[0];
        let mut command = Command::new("cat");
        command.arg("/proc/self/status");
        confine(&mut command, &[cpu], libc::SIGKILL);
        let text = String::from_utf8(command.output().expect("cat runs").stdout).expect("text");
        let line = text.lines().find(|l| l.starts_with("Cpus_allowed_list")).expect("a line");
        assert_eq!(line.split_whitespace().nth(1), Some(cpu.to_string().as_str()));
    }
}
