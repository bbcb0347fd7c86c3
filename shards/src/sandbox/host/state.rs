//! What the host keeps for an agent beside its memory: plain data, part of every version.
//!
//! Owns: the fields, their bounds, guest-level ids.  Not: their bytes (`codec.rs`), effects of the
//! turn at hand (`host.rs`).
//! S1  an id is given out once in the life of an image, so that what answers it cannot be mistaken
//!     after fork, rollback or a move.
//! S2  every collection is bounded, so that the bytes fit [`HOST_PAGES`].

use super::clock::Clock;
use super::random::Random;
use heronry_engine::limits::{CALL_COUNT_MAX, KEY_BYTES_MAX};
use std::collections::BTreeMap;

/// Pages at the start of an image that hold this state.
pub const HOST_PAGES: usize = 16;
/// Bytes of the same; the linear memory follows them in the image.
pub const HOST_BYTES: usize = HOST_PAGES * 4096;
/// Most mutable globals of a module.
pub const GLOBAL_COUNT_MAX: usize = 1_024;
/// Most requests that an agent keeps open.
pub const REQUEST_COUNT_MAX: usize = 1_024;
/// Most open files and directories of a guest, stdio among them.
pub const FILE_COUNT_MAX: usize = 256;
/// Largest linear memory: what an image can hold beside this state.
pub const MEMORY_BYTES_MAX: u64 = heronry_engine::limits::IMAGE_BYTES_MAX - HOST_BYTES as u64;

/// The state. Fields are public: it is data, and [`HostState::decode`] checks it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostState {
    /// `Prepared::hash` of the module that the image belongs to.
    pub module: [u8; 32],
    /// Hash of the file tree that open files are in.
    pub tree: [u8; 32],
    /// The agent's id.
    pub agent: u128,
    /// The agent's key, at most [`KEY_BYTES_MAX`] bytes.
    pub agent_key: String,
    /// Length of the linear memory.
    pub memory_bytes: u64,
    /// Bits of each mutable global, in the module's order.
    pub globals: Vec<u64>,
    /// Open files by descriptor.
    pub files: BTreeMap<u32, OpenFile>,
    /// The clock.
    pub clock: Clock,
    /// The generator.
    pub random: Random,
    /// The next request's id (S1).
    pub request_next: u64,
    /// The next call's id (S1).
    pub call_next: u64,
    /// Requests that await an answer: the caller's ticket of each.
    pub requests: BTreeMap<u64, u64>,
    /// What the guest awaits.
    pub calls: BTreeMap<u64, PendingCall>,
}

/// What a guest awaits from one import.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingCall {
    /// What was asked.
    pub kind: CallKind,
    /// When a sleep is due, in the shard's time; 0 for the others.
    pub due_ns: u64,
    /// The number by which the caller of this crate knows it; 0 until it is bound.
    pub ticket: u64,
}

/// What a pending call asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum CallKind {
    /// A message to another agent.
    Call = 1,
    /// A timer.
    Sleep = 2,
    /// A request to the outside.
    Http = 3,
    /// A version to keep.
    Checkpoint = 4,
    /// Branches.
    Fork = 5,
    /// A way back.
    Rollback = 6,
}

/// An open descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFile {
    /// What it is.
    pub what: FileKind,
    /// Where the next read begins.
    pub position: u64,
}

/// What a descriptor stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// Always at its end.
    Stdin,
    /// Captured.
    Stdout,
    /// Captured.
    Stderr,
    /// A file or directory of the tree.
    Node(u32),
}

/// The descriptor under which a guest finds the root of the tree.
pub const ROOT_FD: u32 = 3;

impl HostState {
    /// The state of a fresh agent of a module with `global_count` globals.
    /// `tree` is its file tree's hash.
    pub fn new(module: [u8; 32], tree: [u8; 32], seed: [u8; 32]) -> HostState {
        let open = |what| OpenFile { what, position: 0 };
        let files = BTreeMap::from([
            (0, open(FileKind::Stdin)),
            (1, open(FileKind::Stdout)),
            (2, open(FileKind::Stderr)),
            (ROOT_FD, open(FileKind::Node(0))),
        ]);
        HostState {
            module,
            tree,
            agent: 0,
            agent_key: String::new(),
            memory_bytes: 0,
            globals: Vec::new(),
            files,
            clock: Clock::default(),
            random: Random::new(seed),
            request_next: 1,
            call_next: 1,
            requests: BTreeMap::new(),
            calls: BTreeMap::new(),
        }
    }

    /// Gives the state to another agent: its own id, key and randomness.
    pub fn adopt(&mut self, agent: u128, key: &str, entropy: &[u8; 32]) {
        assert!(key.len() <= KEY_BYTES_MAX, "S2: a key of {} bytes", key.len());
        self.agent = agent;
        key.clone_into(&mut self.agent_key);
        self.random.reseed(entropy);
    }

    /// Opens a request; `None` when [`REQUEST_COUNT_MAX`] are open.
    pub fn open_request(&mut self, ticket: u64) -> Option<u64> {
        if self.requests.len() >= REQUEST_COUNT_MAX {
            return None;
        }
        let id = self.request_next;
        self.request_next += 1;
        self.requests.insert(id, ticket);
        Some(id)
    }

    /// Opens a call; `None` when [`CALL_COUNT_MAX`] are open.
    pub fn open_call(&mut self, kind: CallKind, due_ns: u64) -> Option<u64> {
        if self.calls.len() >= CALL_COUNT_MAX {
            return None;
        }
        let id = self.call_next;
        self.call_next += 1;
        self.calls.insert(id, PendingCall { kind, due_ns, ticket: 0 });
        Some(id)
    }

    /// Notes the caller's number for a pending call. No such call: nothing changes.
    pub fn bind_call(&mut self, id: u64, ticket: u64) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.ticket = ticket;
        }
    }

    /// The pending call that has this ticket. Cost: a walk over the pending calls.
    pub fn call_of(&self, ticket: u64) -> Option<u64> {
        self.calls.iter().find(|(_, call)| call.ticket == ticket).map(|(id, _)| *id)
    }

    /// Ends a pending call; whether there was one, so that its end is told once.
    pub fn close_call(&mut self, id: u64) -> bool {
        self.calls.remove(&id).is_some()
    }

    /// The lowest free descriptor; `None` when [`FILE_COUNT_MAX`] are open.
    pub fn free_fd(&self) -> Option<u32> {
        if self.files.len() >= FILE_COUNT_MAX {
            return None;
        }
        (0..).find(|fd| !self.files.contains_key(fd))
    }
}
