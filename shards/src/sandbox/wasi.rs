//! WASI preview 1 over plain data: what a C library in the guest expects of its system.
//!
//! Owns: the table of all functions of preview 1, arguments, environment, clocks, randomness, exit.
//! Not: files (`wasi/files.rs`, `wasi/paths.rs`), polling (`wasi/poll.rs`).
//! W1  every function of preview 1 can be imported; one without a meaning here gives the errno that
//!     says so, and changes nothing.
//! W2  no argument of any function makes the host panic, allocate without bound or reach outside
//!     the guest's memory.
//! W3  nothing of the machine is reached: files are the template's tree, which nothing can change;
//!     there are no sockets.
//!
//! Source: <https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md>.

#![allow(clippy::too_many_arguments, reason = "the functions of preview 1 have theirs")]

mod errno;
mod files;
mod paths;
mod poll;

use super::host::link::{Outcome, host_functions};
use super::host::{Exit, GuestMemory, Host, OutOfBounds};
pub use errno::Errno;

/// The module's name.
pub const MODULE: &str = "wasi_snapshot_preview1";
/// Most bytes that one `random_get` gives: about 1 ms of work.
pub const RANDOM_BYTES_MAX: usize = 1 << 20;

const CLOCK_REALTIME: i32 = 0;
const CLOCK_ID_MAX: i32 = 3;

host_functions! { MODULE;
    args_get(argv: i32, buf: i32) -> i32 = args_get;
    args_sizes_get(count: i32, bytes: i32) -> i32 = args_sizes_get;
    environ_get(environ: i32, buf: i32) -> i32 = environ_get;
    environ_sizes_get(count: i32, bytes: i32) -> i32 = environ_sizes_get;
    clock_res_get(id: i32, out: i32) -> i32 = clock_res_get;
    clock_time_get(id: i32, precision: i64, out: i32) -> i32 = clock_time_get;
    fd_advise(fd: i32, offset: i64, len: i64, advice: i32) -> i32 = files::fd_advise;
    fd_allocate(fd: i32, offset: i64, len: i64) -> i32 = files::fd_allocate;
    fd_close(fd: i32) -> i32 = files::fd_close;
    fd_datasync(fd: i32) -> i32 = files::fd_sync;
    fd_fdstat_get(fd: i32, out: i32) -> i32 = files::fd_fdstat_get;
    fd_fdstat_set_flags(fd: i32, flags: i32) -> i32 = files::fd_fdstat_set_flags;
    fd_fdstat_set_rights(fd: i32, base: i64, inheriting: i64) -> i32 = files::fd_fdstat_set_rights;
    fd_filestat_get(fd: i32, out: i32) -> i32 = files::fd_filestat_get;
    fd_filestat_set_size(fd: i32, size: i64) -> i32 = files::fd_filestat_set_size;
    fd_filestat_set_times(fd: i32, atim: i64, mtim: i64, flags: i32) -> i32
        = files::fd_filestat_set_times;
    fd_pread(fd: i32, iovs: i32, count: i32, offset: i64, out: i32) -> i32 = files::fd_pread;
    fd_prestat_get(fd: i32, out: i32) -> i32 = files::fd_prestat_get;
    fd_prestat_dir_name(fd: i32, path: i32, len: i32) -> i32 = files::fd_prestat_dir_name;
    fd_pwrite(fd: i32, iovs: i32, count: i32, offset: i64, out: i32) -> i32 = files::fd_pwrite;
    fd_read(fd: i32, iovs: i32, count: i32, out: i32) -> i32 = files::fd_read;
    fd_readdir(fd: i32, buf: i32, len: i32, cookie: i64, out: i32) -> i32 = files::fd_readdir;
    fd_renumber(fd: i32, to: i32) -> i32 = files::fd_renumber;
    fd_seek(fd: i32, offset: i64, whence: i32, out: i32) -> i32 = files::fd_seek;
    fd_sync(fd: i32) -> i32 = files::fd_sync;
    fd_tell(fd: i32, out: i32) -> i32 = files::fd_tell;
    fd_write(fd: i32, iovs: i32, count: i32, out: i32) -> i32 = files::fd_write;
    path_create_directory(fd: i32, path: i32, len: i32) -> i32 = paths::path_create_directory;
    path_filestat_get(fd: i32, flags: i32, path: i32, len: i32, out: i32) -> i32
        = paths::path_filestat_get;
    path_filestat_set_times(
        fd: i32, flags: i32, path: i32, len: i32, atim: i64, mtim: i64, which: i32
    ) -> i32 = paths::path_filestat_set_times;
    path_link(
        fd: i32, flags: i32, path: i32, len: i32, to_fd: i32, to_path: i32, to_len: i32
    ) -> i32 = paths::path_link;
    path_open(
        fd: i32, lookup: i32, path: i32, len: i32, oflags: i32, base: i64, inheriting: i64,
        flags: i32, out: i32
    ) -> i32 = paths::path_open;
    path_readlink(fd: i32, path: i32, len: i32, buf: i32, buf_len: i32, out: i32) -> i32
        = paths::path_readlink;
    path_remove_directory(fd: i32, path: i32, len: i32) -> i32 = paths::path_remove;
    path_rename(fd: i32, path: i32, len: i32, to_fd: i32, to_path: i32, to_len: i32) -> i32
        = paths::path_rename;
    path_symlink(target: i32, target_len: i32, fd: i32, path: i32, len: i32) -> i32
        = paths::path_symlink;
    path_unlink_file(fd: i32, path: i32, len: i32) -> i32 = paths::path_remove;
    poll_oneoff(subscriptions: i32, events: i32, count: i32, out: i32) -> i32 = poll::poll_oneoff;
    proc_exit(code: i32) = proc_exit;
    proc_raise(signal: i32) -> i32 = proc_raise;
    sched_yield() -> i32 = sched_yield;
    random_get(buf: i32, len: i32) -> i32 = random_get;
    sock_accept(fd: i32, flags: i32, out: i32) -> i32 = sock_accept;
    sock_recv(fd: i32, iovs: i32, count: i32, flags: i32, out: i32, out_flags: i32) -> i32
        = sock_recv;
    sock_send(fd: i32, iovs: i32, count: i32, flags: i32, out: i32) -> i32 = sock_send;
    sock_shutdown(fd: i32, how: i32) -> i32 = sock_shutdown;
}

/// What a function that gives an errno gives.
pub(crate) type Answer = Result<(), Errno>;

impl Outcome for Answer {
    type Value = i32;

    fn value(self) -> wasmtime::Result<i32> {
        Ok(self.map_or_else(|errno| errno as i32, |()| 0))
    }
}

impl Outcome for Result<(), Exit> {
    type Value = ();

    fn value(self) -> wasmtime::Result<()> {
        Ok(self?)
    }
}

fn args_get(memory: GuestMemory<'_>, host: &mut Host, argv: i32, buf: i32) -> Answer {
    put_strings(memory, &host.config.args, argv, buf)
}

fn args_sizes_get(memory: GuestMemory<'_>, host: &mut Host, count: i32, bytes: i32) -> Answer {
    put_sizes(memory, &host.config.args, count, bytes)
}

fn environ_get(memory: GuestMemory<'_>, host: &mut Host, environ: i32, buf: i32) -> Answer {
    put_strings(memory, &host.config.env, environ, buf)
}

fn environ_sizes_get(memory: GuestMemory<'_>, host: &mut Host, count: i32, bytes: i32) -> Answer {
    put_sizes(memory, &host.config.env, count, bytes)
}

fn put_sizes(mut memory: GuestMemory<'_>, strings: &[String], count: i32, bytes: i32) -> Answer {
    let total: usize = strings.iter().map(|string| string.len() + 1).sum();
    memory.put_u32(count, strings.len() as u32)?;
    Ok(memory.put_u32(bytes, total as u32)?)
}

/// A pointer to each string at `ptrs`, the strings, each ended by 0, at `buf`.
fn put_strings(mut memory: GuestMemory<'_>, strings: &[String], ptrs: i32, buf: i32) -> Answer {
    let mut at = buf;
    for (idx, string) in strings.iter().enumerate() {
        memory.put_entry(ptrs, idx as u32, &at.to_le_bytes())?;
        memory.put(at, string.as_bytes())?;
        let end = at.wrapping_add(string.len() as i32);
        memory.put(end, &[0])?;
        at = end.wrapping_add(1);
    }
    Ok(())
}

fn clock_res_get(mut memory: GuestMemory<'_>, _: &mut Host, id: i32, out: i32) -> Answer {
    check_clock(id)?;
    Ok(memory.put_u64(out, 1)?)
}

/// All clocks but the date are the agent's monotonic one.
fn clock_time_get(
    mut memory: GuestMemory<'_>,
    host: &mut Host,
    id: i32,
    _precision: i64,
    out: i32,
) -> Answer {
    check_clock(id)?;
    memory.bytes(out, 8)?;
    let time_ns = host.read_clock(id == CLOCK_REALTIME);
    Ok(memory.put_u64(out, time_ns)?)
}

fn check_clock(id: i32) -> Answer {
    if (0..=CLOCK_ID_MAX).contains(&id) { Ok(()) } else { Err(Errno::Inval) }
}

/// `EINVAL` past [`RANDOM_BYTES_MAX`]; C libraries ask for 256 bytes at a time.
fn random_get(mut memory: GuestMemory<'_>, host: &mut Host, buf: i32, len: i32) -> Answer {
    let out = memory.bytes_mut(buf, len)?;
    if out.len() > RANDOM_BYTES_MAX {
        return Err(Errno::Inval);
    }
    host.state.random.fill(out);
    Ok(())
}

fn proc_exit(_: GuestMemory<'_>, _: &mut Host, code: i32) -> Result<(), Exit> {
    Err(Exit(code))
}

fn proc_raise(_: GuestMemory<'_>, _: &mut Host, _signal: i32) -> Answer {
    Err(Errno::Nosys)
}

fn sched_yield(_: GuestMemory<'_>, _: &mut Host) -> Answer {
    Ok(())
}

fn sock_accept(_: GuestMemory<'_>, host: &mut Host, fd: i32, _: i32, _: i32) -> Answer {
    no_socket(host, fd)
}

fn sock_recv(
    _: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _: i32,
    _: i32,
    _: i32,
    _: i32,
    _: i32,
) -> Answer {
    no_socket(host, fd)
}

fn sock_send(
    _: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _: i32,
    _: i32,
    _: i32,
    _: i32,
) -> Answer {
    no_socket(host, fd)
}

fn sock_shutdown(_: GuestMemory<'_>, host: &mut Host, fd: i32, _: i32) -> Answer {
    no_socket(host, fd)
}

fn no_socket(host: &Host, fd: i32) -> Answer {
    files::open_file(host, fd)?;
    Err(Errno::Notsup)
}

impl From<OutOfBounds> for Errno {
    fn from(_: OutOfBounds) -> Errno {
        Errno::Fault
    }
}

#[cfg(test)]
mod tests;
