//! Probes of io_uring: a ring with the flags of the `uring` driver, and each operation it uses.
//!
//! Owns: those findings, and a small ring, socket pair and listener for the time of the probe.
//! Not: the driver; nothing here is shared with it.
//! R1  memory lent to the kernel outlives the ring that may write to it.
//! R2  no operation is waited for longer than `WAIT`.
#![allow(unsafe_code)]

use super::{Eyes, Finding};
use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use memmap2::MmapMut;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

/// Longest wait for one operation that should complete at once.
const WAIT: Duration = Duration::from_millis(500);
const RING: &str = "io_uring";
const ACCEPT: &str = "io_uring accept multishot";
const RECEIVE: &str = "io_uring receive multishot";
/// Bytes of the one buffer lent for receiving.
const BUFFER_BYTES: usize = 64;
const BUFFER_GROUP: u16 = 7;

/// An operation that is looked up in the kernel's own list.
struct Listed {
    name: &'static str,
    code: u8,
    /// Kernel that has it.
    since: &'static str,
    /// What is missing without it.
    cost: &'static str,
    /// Whether shards cannot start without it.
    needed: bool,
}

const LISTED: [Listed; 8] = [
    listed("io_uring send", opcode::Send::CODE, "5.6", "shards cannot answer clients", true),
    listed("io_uring read", opcode::Read::CODE, "5.6", "shards cannot read their log", true),
    listed("io_uring write", opcode::Write::CODE, "5.6", "shards cannot write their log", true),
    listed("io_uring timeout", opcode::Timeout::CODE, "5.4", "shards cannot sleep until", true),
    listed(
        "io_uring cancel",
        opcode::AsyncCancel::CODE,
        "5.5",
        "connections cannot be closed",
        true,
    ),
    listed("io_uring poll", opcode::PollAdd::CODE, "5.1", "shards cannot wait for doorbells", true),
    listed(
        "io_uring msg_ring",
        opcode::MsgRingData::CODE,
        "5.18",
        "threads wake each other through an eventfd: some microseconds more per hop",
        false,
    ),
    listed(
        "io_uring futex",
        opcode::FutexWait::CODE,
        "6.7",
        "shards wake each other through an eventfd instead",
        false,
    ),
];

const fn listed(
    name: &'static str,
    code: u8,
    since: &'static str,
    cost: &'static str,
    needed: bool,
) -> Listed {
    Listed { name, code, since, cost, needed }
}

/// One finding for the ring, one for each operation (D1).
pub(super) fn probe(_: &Eyes<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match driver_ring() {
        Ok(ring) => {
            findings.push(Finding::good(RING, "single issuer with deferred task work"));
            findings.push(tried(ACCEPT, "5.19", "clients cannot connect", accept()));
            findings.push(tried(RECEIVE, "6.0", "clients cannot be heard", receive()));
            findings.extend(listed_findings(&ring));
        }
        Err(error) => {
            findings.push(match IoUring::new(2) {
                Ok(_) => Finding::bad(
                    RING,
                    format!("only without DEFER_TASKRUN ({error})"),
                    "the uring driver does not start",
                    "install Linux 6.1 or newer",
                ),
                Err(error) => Finding::bad(
                    RING,
                    format!("refused: {error}"),
                    "shards cannot start: every driver of this machine needs io_uring",
                    ring_fix(&error),
                ),
            });
            let names = LISTED.iter().map(|listed| listed.name);
            for name in [ACCEPT, RECEIVE].into_iter().chain(names) {
                findings.push(Finding::bad(
                    name,
                    "not tried: there is no ring",
                    "see io_uring",
                    "see io_uring",
                ));
            }
        }
    }
    findings
}

/// A ring as the `uring` driver makes it.
fn driver_ring() -> io::Result<IoUring> {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8)
}

fn ring_fix(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "sysctl -w kernel.io_uring_disabled=0; in a container allow the io_uring system calls \
             (docker run --security-opt seccomp=PROFILE)"
        }
        Some(libc::ENOMEM) => "ulimit -l unlimited",
        Some(libc::EMFILE | libc::ENFILE) => "ulimit -n 65536",
        _ => "install Linux 6.7 or newer with CONFIG_IO_URING",
    }
}

/// The verdict on an operation that was tried.
fn tried(name: &'static str, since: &str, cost: &str, result: io::Result<()>) -> Finding {
    match result {
        Ok(()) => Finding::good(name, "works"),
        Err(error) => Finding::bad(
            name,
            format!("failed: {error}"),
            cost,
            format!("install Linux {since} or newer; see the finding io_uring"),
        ),
    }
}

fn listed_findings(ring: &IoUring) -> Vec<Finding> {
    let mut probe = Probe::new();
    let registered = ring.submitter().register_probe(&mut probe);
    let finding = |listed: &Listed| {
        let Listed { name, code, since, cost, needed } = *listed;
        if registered.is_ok() && probe.is_supported(code) {
            return Finding::good(name, "supported");
        }
        let found = match &registered {
            Ok(()) => "not supported".to_owned(),
            Err(error) => format!("the kernel does not list its operations: {error}"),
        };
        let fix = format!("install Linux {since} or newer");
        match needed {
            true => Finding::bad(name, found, cost, fix),
            false => Finding::warn(name, found, cost, fix),
        }
    };
    LISTED.iter().map(finding).collect()
}

/// Two connections through one accept, which then is cancelled.
fn accept() -> io::Result<()> {
    let name = format!("heronry-doctor-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name)?;
    let listener = UnixListener::bind_addr(&address)?;
    let mut ring = driver_ring()?;
    let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
        .flags(libc::SOCK_CLOEXEC)
        .build()
        .user_data(1);
    push(&mut ring, accept)?;
    for _ in 0..2 {
        let _client = UnixStream::connect_addr(&address)?;
        let entry = complete(&mut ring)?;
        close_accepted(result_of(&entry)?);
        if !cqueue::more(entry.flags()) {
            return Err(io::Error::other("the accept ended after one connection"));
        }
    }
    push(&mut ring, opcode::AsyncCancel::new(1).build().user_data(2))?;
    // The cancel's own completion and the accept's last one, in either order.
    for _ in 0..2 {
        complete(&mut ring)?;
    }
    Ok(())
}

/// Two messages and the end of a stream through one receive into a ring of buffers.
fn receive() -> io::Result<()> {
    let (mut near, far) = UnixStream::pair()?;
    // One page: the buffer ring's single entry at its start, the buffer behind it. Declared before
    // the ring of operations, so that it is unmapped after that is closed (R1).
    let mut page = MmapMut::map_anon(crate::sys::page_bytes())?;
    let mut ring = driver_ring()?;
    let base = page.as_mut_ptr();
    lend_buffers(&ring, base)?;
    let receive = opcode::RecvMulti::new(Fd(far.as_raw_fd()), BUFFER_GROUP).build().user_data(3);
    push(&mut ring, receive)?;
    let outcome = (|| {
        near.write_all(b"heron")?;
        let entry = complete(&mut ring)?;
        if result_of(&entry)? != 5 || cqueue::buffer_select(entry.flags()).is_none() {
            return Err(io::Error::other("the receive gave other bytes than were sent"));
        }
        near.write_all(b"ry")?;
        let entry = complete(&mut ring)?;
        if result_of(&entry)? != 2 || !cqueue::more(entry.flags()) {
            return Err(io::Error::other("the receive ended after one message"));
        }
        drop(near);
        let entry = complete(&mut ring)?;
        match result_of(&entry)? {
            0 => Ok(()),
            _ => Err(io::Error::other("the receive did not see the end of the stream")),
        }
    })();
    if outcome.is_err() {
        // The receive may still be under way in the kernel: its memory stays (R1).
        std::mem::forget(page);
    }
    outcome
}

/// Number of buffers lent; a power of two.
const BUFFER_COUNT: u16 = 4;

/// Registers a buffer ring at `base`, the start of a page, with its buffers in the same page.
fn lend_buffers(ring: &IoUring, base: *mut u8) -> io::Result<()> {
    let entries: *mut BufRingEntry = base.cast();
    // SAFETY: `base` is the start of a mapped page that is forgotten or unmapped only after `ring`
    // is closed (the caller's R1); four entries of 16 bytes fit.
    unsafe {
        ring.submitter().register_buf_ring_with_flags(base as u64, BUFFER_COUNT, BUFFER_GROUP, 0)
    }?;
    for idx in 0..BUFFER_COUNT {
        let offset = BUFFER_BYTES * (1 + usize::from(idx));
        // SAFETY: the entries lie at the page's start, and `idx` is below their count.
        let at = unsafe { entries.add(usize::from(idx)) };
        // SAFETY: the page is zeroed memory, which is a valid entry, and nobody else refers to it:
        // the kernel reads entries only below the tail, which is published after this loop.
        let entry = unsafe { &mut *at };
        entry.set_addr(base as u64 + offset as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(idx);
    }
    // SAFETY: `entries` is the address of the first entry of a registered ring.
    let tail = unsafe { BufRingEntry::tail(entries) }.cast_mut();
    // SAFETY: the tail is an aligned u16 within the first entry; the kernel only loads it.
    let tail = unsafe { std::sync::atomic::AtomicU16::from_ptr(tail) };
    tail.store(BUFFER_COUNT, std::sync::atomic::Ordering::Release);
    Ok(())
}

fn push(ring: &mut IoUring, entry: squeue::Entry) -> io::Result<()> {
    // SAFETY: the operations of this file name descriptors that their functions keep open, and no
    // memory but the buffers of `lend_buffers`, which R1 keeps.
    unsafe { ring.submission().push(&entry) }.map_err(|_| io::Error::other("the queue is full"))?;
    ring.submit()?;
    Ok(())
}

/// The next completion (R2).
fn complete(ring: &mut IoUring) -> io::Result<cqueue::Entry> {
    let wait = Timespec::from(WAIT);
    // A signal may interrupt a wait; each further one waits again, so there are few.
    for _ in 0..8 {
        if let Some(entry) = ring.completion().next() {
            return Ok(entry);
        }
        match ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&wait)) {
            Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(error),
            _ => {}
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "no completion came"))
}

fn result_of(entry: &cqueue::Entry) -> io::Result<i32> {
    match entry.result() {
        error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
        result => Ok(result),
    }
}

fn close_accepted(fd: i32) {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r1_operations_are_tried_for_real_where_there_is_a_ring() {
        if let Err(error) = driver_ring() {
            println!("skipped: no ring here: {error}");
            return;
        }
        accept().expect("multishot accept");
        receive().expect("multishot receive");
    }
}
