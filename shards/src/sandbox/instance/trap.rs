//! Traps: how a call into a guest ends when it does not return.
//!
//! Owns: the mapping from the runtime's errors.  Not: what becomes of the agent.
//! H1  a cause that the host raised itself is found by its type, never by its text.

use wasmtime::Trap as Code;

/// Raised by `proc_exit`: the guest asks to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest exited with code {0}")]
pub struct Exit(pub i32);

/// Raised when a call has run for longer than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ran for {ms} ms")]
pub(super) struct OverBudget {
    pub(super) ms: u64,
}

/// Raised when the guest has no room for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory for {len_bytes} bytes")]
pub(super) struct NoRoom {
    pub(super) len_bytes: usize,
}

/// Raised when a call names an export that the module lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no function {name}")]
pub(super) struct NoExport {
    pub(super) name: String,
}

/// Why a call into a guest did not return. The memory is in any state: go back to a version.
#[derive(Debug, thiserror::Error)]
pub enum Trap {
    /// It ran for too long.
    #[error("the turn used {ms} ms of CPU, more than sandbox.turn_ms_max allows")]
    Budget {
        /// For how long.
        ms: u64,
    },
    /// It called too deep.
    #[error("call stack exhausted: recursion too deep")]
    Stack,
    /// It ran out of memory.
    #[error("out of memory: {pages} pages of 64 KiB in use, no more allowed")]
    Memory {
        /// What it has, in Wasm pages.
        pages: u64,
    },
    /// It ended itself.
    #[error("the guest exited with code {code}")]
    Exit {
        /// The code it gave.
        code: i32,
    },
    /// An instruction that cannot go on: unreachable, out of bounds, division by zero and so on.
    #[error("{0}")]
    Code(Code),
    /// The module has no such export.
    #[error("the module exports no function {name:?}")]
    Missing {
        /// Asked for.
        name: String,
    },
    /// A host function failed, or a type did not fit.
    #[error("{0:#}")]
    Host(wasmtime::Error),
}

impl Trap {
    /// `pages`: of the memory; `refused`: whether the call was refused more.
    pub(super) fn from_error(error: wasmtime::Error, pages: u64, refused: bool) -> Trap {
        if let Some(OverBudget { ms }) = error.downcast_ref() {
            return Trap::Budget { ms: *ms };
        }
        if let Some(Exit(code)) = error.downcast_ref() {
            return Trap::Exit { code: *code };
        }
        if error.downcast_ref::<NoRoom>().is_some() {
            return Trap::Memory { pages };
        }
        if let Some(NoExport { name }) = error.downcast_ref() {
            return Trap::Missing { name: name.clone() };
        }
        match error.downcast_ref::<Code>() {
            Some(Code::StackOverflow) => Trap::Stack,
            // How C and Rust give up when an allocation fails.
            Some(Code::UnreachableCodeReached) if refused => Trap::Memory { pages },
            Some(code) => Trap::Code(*code),
            None => Trap::Host(error),
        }
    }
}
