//! Descriptors: the few flags and options of them that the drivers read and set.
//!
//! Owns: the system calls for it, for `uring` and `glommio` alike.  Not: who owns a descriptor.
//! F1  a descriptor handed to a driver blocks: the kernel answers EAGAIN to operations on a
//!     non-blocking one instead of waiting.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Status flags (`F_GETFL`); 0 when they cannot be read.
fn status_flags(fd: &OwnedFd) -> libc::c_int {
    // SAFETY: F_GETFL takes no argument and only reads the open file's flags.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    flags.max(0)
}

/// Clears those of `flags` that are set.
pub(crate) fn clear_status_flags(fd: &OwnedFd, flags: libc::c_int) {
    let old = status_flags(fd);
    if old & flags != 0 {
        // SAFETY: F_SETFL takes an integer and only changes the open file's flags.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, old & !flags) };
    }
}

/// Whether the file was opened with `O_DIRECT`.
pub(crate) fn is_direct(fd: &OwnedFd) -> bool {
    status_flags(fd) & libc::O_DIRECT != 0
}

/// Accepted sockets inherit the option from their listener. Fails on Unix sockets, harmlessly.
pub(crate) fn set_nodelay(fd: &OwnedFd) {
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer names an integer of the given length, which the kernel reads.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            length,
        )
    };
}

/// Ends what the peer can read of a socket. Fails once the connection has: its receive says so.
pub(crate) fn shutdown_writing(fd: &OwnedFd) {
    let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Write);
}

/// A type of another crate that is made of a descriptor and owns it.
pub(crate) fn hand_over<T: FromRawFd>(fd: OwnedFd) -> T {
    // SAFETY: the descriptor is open, and ours to give away.
    unsafe { T::from_raw_fd(fd.into_raw_fd()) }
}

/// Takes over a descriptor that the kernel just made for us.
///
/// # Safety
/// `fd` is open and nothing else owns it.
pub(super) unsafe fn take_over(fd: RawFd) -> OwnedFd {
    // SAFETY: as the caller promises.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
