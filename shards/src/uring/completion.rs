//! What a completion of the kernel means to the loop, and what goes on after it.
//!
//! Owns: the reading of results and flags, per operation.  Not: submission, descriptors.
//! M1  an operation is seen to end once: here it is either armed again or taken out with a last
//!     completion.
#![allow(unsafe_code)]

use super::descriptor;
use super::ops::{NONE, Pending, Work};
use super::{BELL, IGNORED, Open, Uring};
use crate::driver::{Completion, Done};
use io_uring::cqueue;

/// How an operation ended that the kernel never saw, or that needs a second completion.
#[derive(Debug)]
pub(super) enum Ended {
    Sent(Vec<u8>),
    Read(Vec<u8>),
    Written(Vec<u8>),
    Cancelled,
    Failed(i32),
}

impl Ended {
    pub(super) fn done(self) -> Done<'static> {
        match self {
            Ended::Sent(bytes) => Done::Sent(bytes),
            Ended::Read(bytes) => Done::Read(bytes),
            Ended::Written(bytes) => Done::Written(bytes),
            Ended::Cancelled => Done::Cancelled,
            Ended::Failed(errno) => Done::Failed { errno },
        }
    }
}

impl Uring {
    /// Hands on one completion of the kernel. Returns how many completions the loop saw.
    pub(super) fn complete(
        &mut self,
        cqe: &cqueue::Entry,
        each: &mut dyn FnMut(Completion<'_>),
    ) -> usize {
        let (result, flags) = (cqe.result(), cqe.flags());
        match cqe.user_data() {
            IGNORED => return 0,
            BELL => {
                if !cqueue::more(flags) {
                    self.watch_bell();
                }
                return 0;
            }
            _ => {}
        }
        let Some(idx) = self.ops.find(cqe.user_data()) else {
            debug_assert!(false, "O1: a completion without an operation");
            if let Some(buffer) = cqueue::buffer_select(flags) {
                self.buffers.give_back(buffer);
            }
            return 0;
        };
        match self.ops.at(idx).work {
            Work::Accept => self.accepted(idx, result, flags, each),
            Work::Receive => self.received(idx, result, flags, each),
            Work::Send { .. } | Work::Read { .. } | Work::Write { .. } => {
                self.transferred(idx, result, each)
            }
        }
    }

    fn accepted(
        &mut self,
        idx: u32,
        result: i32,
        flags: u32,
        each: &mut dyn FnMut(Completion<'_>),
    ) -> usize {
        let op = self.ops.at(idx);
        let (token, handle) = (op.token, op.handle);
        let mut count = 0;
        if result >= 0 {
            // SAFETY: the kernel made this descriptor for us just now; nothing else owns it.
            let fd = unsafe { descriptor::take_over(result) };
            if !self.is_closing(handle) {
                let open = Open { fd, first_op: NONE, direct: false, closing: false };
                let accepted = self.handles.insert(open);
                each(Completion { token, last: false, done: Done::Accepted(accepted) });
                count = 1;
            }
        }
        if cqueue::more(flags) {
            return count;
        }
        match -result {
            // The client gave up, or the queue of completions was full: accepting goes on.
            ..=0 | libc::ECONNABORTED | libc::EINTR | libc::EAGAIN => count + self.go_on(idx, each),
            libc::ECANCELED => count + self.end(idx, Done::Cancelled, each),
            errno => count + self.end(idx, Done::Failed { errno }, each),
        }
    }

    fn received(
        &mut self,
        idx: u32,
        result: i32,
        flags: u32,
        each: &mut dyn FnMut(Completion<'_>),
    ) -> usize {
        let op = self.ops.at(idx);
        let (token, handle) = (op.token, op.handle);
        let mut count = 0;
        if let Some(buffer) = cqueue::buffer_select(flags) {
            if result > 0 && !self.is_closing(handle) {
                let bytes = self.buffers.received(buffer, result as usize);
                each(Completion { token, last: false, done: Done::Received(bytes) });
                count = 1;
            }
            self.buffers.give_back(buffer);
        }
        if cqueue::more(flags) {
            return count;
        }
        match -result {
            ..0 => count + self.go_on(idx, each),
            libc::EINTR | libc::EAGAIN => count + self.go_on(idx, each),
            libc::ENOBUFS => count + self.starve(idx, each),
            0 => count + self.end(idx, Done::EndOfStream, each),
            libc::ECANCELED => count + self.end(idx, Done::Cancelled, each),
            errno => count + self.end(idx, Done::Failed { errno }, each),
        }
    }

    /// Sends, reads and writes: go on until all is done.
    fn transferred(
        &mut self,
        idx: u32,
        result: i32,
        each: &mut dyn FnMut(Completion<'_>),
    ) -> usize {
        let op = self.ops.at(idx);
        let moved_bytes = result.max(0) as usize;
        let whole = match &mut op.work {
            Work::Send { bytes, done_bytes } | Work::Write { bytes, done_bytes, .. } => {
                *done_bytes += moved_bytes;
                *done_bytes == bytes.len()
            }
            Work::Read { len_bytes, done_bytes, .. } => {
                *done_bytes += moved_bytes;
                // Nothing more to read: the end of the file.
                *done_bytes == *len_bytes || result == 0
            }
            Work::Accept | Work::Receive => unreachable!("O1: multishot operations end elsewhere"),
        };
        if whole {
            let Pending { token, work, .. } = self.finish(idx);
            let done = match work {
                Work::Send { bytes, .. } => Done::Sent(bytes),
                Work::Write { bytes, .. } => Done::Written(bytes),
                Work::Read { window, done_bytes, .. } => Done::Read(window.into_bytes(done_bytes)),
                Work::Accept | Work::Receive => Done::Cancelled,
            };
            each(Completion { token, last: true, done });
            return 1;
        }
        match -result {
            0 => self.end(idx, Done::Failed { errno: libc::EIO }, each),
            ..0 | libc::EINTR | libc::EAGAIN => self.go_on(idx, each),
            libc::ECANCELED => self.end(idx, Done::Cancelled, each),
            errno => self.end(idx, Done::Failed { errno }, each),
        }
    }

    /// Submits the operation again, unless it was to end.
    fn go_on(&mut self, idx: u32, each: &mut dyn FnMut(Completion<'_>)) -> usize {
        if self.ops.at(idx).stopping {
            return self.end(idx, Done::Cancelled, each);
        }
        self.arm(idx);
        0
    }

    /// All buffers were waiting for this poll: the receive goes on once they are back.
    fn starve(&mut self, idx: u32, each: &mut dyn FnMut(Completion<'_>)) -> usize {
        if self.ops.at(idx).stopping {
            return self.end(idx, Done::Cancelled, each);
        }
        self.ops.at(idx).starved = true;
        self.starved.push_back(self.ops.user_data(idx));
        0
    }

    fn end(&mut self, idx: u32, done: Done<'_>, each: &mut dyn FnMut(Completion<'_>)) -> usize {
        let Pending { token, .. } = self.finish(idx);
        each(Completion { token, last: true, done });
        1
    }
}
