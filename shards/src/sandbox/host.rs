//! The host side of one sandbox: plain data that belongs to every version, and what a turn leaves.
//!
//! Owns: the state's changes by the guest, effects, replies, captured output.  Not: doing effects,
//! keeping the state's bytes (both are the caller's), compiled code.
//! D1  all that outlives a turn is in [`HostState`]; the rest is taken by the caller after a call.
//! D2  everything a guest can make grow is bounded here or in the state.
//! D3  a guest reaches nothing of the machine: time, randomness and files are given as data.

mod clock;
mod codec;
mod imports;
pub(crate) mod link;
mod memory;
mod random;
mod restore;
mod state;

use super::tree::Tree;
use super::wasi;
use bytes::Bytes;
use std::sync::Arc;
use wasmtime::Linker;

pub use clock::{Clock, HostTime};
pub use codec::StateError;
pub use imports::Denied;
pub use link::{NoMemory, Signature, Wire};
pub use memory::{GuestMemory, OutOfBounds};
pub use random::Random;
pub use restore::{Identity, Reconciled, Status, Why, reconcile};
pub use state::{
    CallKind, FILE_COUNT_MAX, FileKind, GLOBAL_COUNT_MAX, HOST_BYTES, HOST_PAGES, HostState,
    MEMORY_BYTES_MAX, OpenFile, PendingCall, REQUEST_COUNT_MAX, ROOT_FD,
};

/// Most bytes of payload that one turn may leave in replies and effects.
pub const TURN_BYTES_MAX: usize = 2 * heronry_engine::limits::PAYLOAD_BYTES_MAX;
/// Most bytes of log lines that one turn may leave.
pub const LOG_BYTES_MAX: usize = 64 << 10;
/// Most bytes kept of each of stdout and stderr between two takes.
pub const STDOUT_BYTES_MAX: usize = 256 << 10;
/// Most bytes kept of the text of a failure or refusal.
pub const TEXT_BYTES_MAX: usize = 64 << 10;

/// The guest ended itself through `proc_exit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the guest exited with code {0}; an agent answers messages and does not exit")]
pub struct Exit(pub i32);

/// What a template gives all its agents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostConfig {
    /// Arguments, the name of the program first.
    pub args: Vec<String>,
    /// Environment, each as `NAME=value`. Nothing of the machine's own.
    pub env: Vec<String>,
    /// `net.payload_bytes_max`.
    pub payload_bytes_max: usize,
}

impl Default for HostConfig {
    fn default() -> HostConfig {
        HostConfig {
            args: vec!["agent".to_owned()],
            env: Vec::new(),
            payload_bytes_max: heronry_engine::limits::PAYLOAD_BYTES_MAX,
        }
    }
}

/// One thing that a guest asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostEffect {
    /// A message whose reply nobody awaits.
    Send {
        /// To whom.
        key: String,
        /// What.
        payload: Bytes,
    },
    /// A message whose reply is awaited.
    Call {
        /// The guest's number.
        id: u64,
        /// To whom.
        key: String,
        /// What.
        payload: Bytes,
    },
    /// A timer.
    Sleep {
        /// The guest's number.
        id: u64,
        /// Due then, in the shard's time.
        until_ns: u64,
    },
    /// A request to the outside, as JSON; not checked here.
    Http {
        /// The guest's number.
        id: u64,
        /// `{method, url, headers, body, secrets}`.
        request: Bytes,
    },
    /// A version to keep.
    Checkpoint {
        /// The guest's number.
        id: u64,
        /// Its name.
        label: Option<String>,
    },
    /// Branches, from 1 to `FORK_COUNT_MAX`.
    Fork {
        /// The guest's number.
        id: u64,
        /// How many.
        count: u32,
    },
    /// A way back.
    Rollback {
        /// The guest's number.
        id: u64,
        /// To which version; the newest checkpoint without.
        label: Option<String>,
    },
}

/// An answer to one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostReply {
    /// The guest's number.
    pub request: u64,
    /// The caller's number, as given to [`HostState::open_request`].
    pub ticket: u64,
    /// The payload, or the text of a refusal.
    pub answer: Result<Vec<u8>, String>,
}

/// What a call into the guest left, to be taken by its caller.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Left {
    /// In the order asked for.
    pub effects: Vec<HostEffect>,
    /// In the order given.
    pub replies: Vec<HostReply>,
    /// Text of the failure of the call, such as a traceback.
    pub failure: Option<String>,
    /// Lines for the operator.
    pub log: Vec<String>,
    /// What the guest wrote to stdout.
    pub stdout: Vec<u8>,
    /// What the guest wrote to stderr.
    pub stderr: Vec<u8>,
}

/// The data of a wasmtime store.
#[derive(Debug)]
pub struct Host {
    /// The part that belongs to the version.
    pub state: HostState,
    pub(crate) config: Arc<HostConfig>,
    pub(crate) tree: Arc<Tree>,
    effects: Vec<HostEffect>,
    replies: Vec<HostReply>,
    failure: Option<String>,
    log: Vec<String>,
    log_bytes: usize,
    payload_bytes: usize,
    time: HostTime,
    stdout: Captured,
    stderr: Captured,
    /// The state's bytes as last given by [`Host::changed`].
    encoded: Vec<u8>,
    scratch: Vec<u8>,
}

/// A state that does not fit what it is to run with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostError {
    /// The open files are in another tree.
    #[error(
        "the image's files are in another file tree than the template's; \
         load it with the template it belongs to"
    )]
    Tree,
    /// An open file that the tree does not have.
    #[error("descriptor {fd} of the image is file {node} of a tree of {count}; it is damaged")]
    Node {
        /// The descriptor.
        fd: u32,
        /// The file.
        node: u32,
        /// Files and directories that there are.
        count: u32,
    },
}

/// Offers the functions of `heronry` and of WASI preview 1 to modules.
pub fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    imports::link(linker)?;
    wasi::link(linker)
}

/// All functions that a module may import.
pub fn signatures() -> impl Iterator<Item = &'static Signature> {
    imports::SIGNATURES.iter().chain(wasi::SIGNATURES)
}

impl Host {
    /// A host around `state`. Error: the state is not of this tree.
    pub fn new(
        state: HostState,
        tree: Arc<Tree>,
        config: Arc<HostConfig>,
    ) -> Result<Host, HostError> {
        let mut host = Host {
            state: HostState::new([0; 32], tree.hash(), [0; 32]),
            config,
            tree,
            effects: Vec::new(),
            replies: Vec::new(),
            failure: None,
            log: Vec::new(),
            log_bytes: 0,
            payload_bytes: 0,
            time: HostTime::default(),
            stdout: Captured::default(),
            stderr: Captured::default(),
            encoded: Vec::new(),
            scratch: Vec::new(),
        };
        host.put_state(state)?;
        Ok(host)
    }

    /// Takes another state, as of another version of the agent. Error: nothing changed.
    pub fn put_state(&mut self, state: HostState) -> Result<(), HostError> {
        if state.tree != self.tree.hash() {
            return Err(HostError::Tree);
        }
        let count = self.tree.node_count();
        for (fd, file) in &state.files {
            if let FileKind::Node(node) = file.what
                && node >= count
            {
                return Err(HostError::Node { fd: *fd, node, count });
            }
        }
        self.state = state;
        self.encoded.clear();
        Ok(())
    }

    /// Begins a call into the guest at the host's time. What an earlier one left is dropped.
    pub fn begin(&mut self, now_ns: u64, unix_ns: u64) {
        self.take();
        self.time = HostTime { now_ns, unix_ns, skipped_ns: 0 };
        self.state.clock.adopt(now_ns);
    }

    /// The host's time has gone on, as at the begin of another slice of the same call.
    pub fn tick(&mut self, now_ns: u64, unix_ns: u64) {
        (self.time.now_ns, self.time.unix_ns) = (now_ns, unix_ns);
    }

    /// Takes what the guest left since [`Host::begin`].
    pub fn take(&mut self) -> Left {
        (self.log_bytes, self.payload_bytes) = (0, 0);
        Left {
            effects: std::mem::take(&mut self.effects),
            replies: std::mem::take(&mut self.replies),
            failure: self.failure.take(),
            log: std::mem::take(&mut self.log),
            stdout: self.stdout.take(),
            stderr: self.stderr.take(),
        }
    }

    /// The state's bytes, if they are others than at the last call or than those of
    /// [`Host::mark`]. Cost: one encoding.
    pub fn changed(&mut self) -> Option<&[u8]> {
        self.state.encode(&mut self.scratch);
        if self.scratch == self.encoded {
            return None;
        }
        std::mem::swap(&mut self.scratch, &mut self.encoded);
        Some(&self.encoded)
    }

    /// Says that the image has not taken what [`Host::changed`] gave.
    pub fn unmark(&mut self) {
        self.encoded.clear();
    }

    /// Says that the state is already in the image as it is now.
    pub fn mark(&mut self) {
        self.state.encode(&mut self.encoded);
    }

    /// The time of the call at hand.
    pub fn time(&self) -> &HostTime {
        &self.time
    }

    /// Monotonic time and the date, for the guest.
    pub(crate) fn read_clock(&mut self, date: bool) -> u64 {
        if date { self.time.date_ns() } else { self.state.clock.monotonic_ns(&self.time) }
    }

    /// A synchronous sleep.
    pub(crate) fn skip_clock(&mut self, ns: u64) {
        self.state.clock.skip(&mut self.time, ns);
    }

    pub(crate) fn capture(&mut self, what: FileKind, bytes: &[u8]) {
        match what {
            FileKind::Stdout => self.stdout.push(bytes),
            FileKind::Stderr => self.stderr.push(bytes),
            FileKind::Stdin | FileKind::Node(_) => {}
        }
    }

    fn log(&mut self, line: &[u8]) {
        if self.log_bytes > LOG_BYTES_MAX {
            return;
        }
        self.log_bytes += line.len() + 1;
        if self.log_bytes > LOG_BYTES_MAX {
            let last = format!("[log cut: one turn may leave {LOG_BYTES_MAX} bytes]");
            self.log.push(last);
        } else {
            self.log.push(String::from_utf8_lossy(line).into_owned());
        }
    }
}

/// Output of the guest, cut at [`STDOUT_BYTES_MAX`] with a mark.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Captured {
    bytes: Vec<u8>,
    dropped_bytes: u64,
}

impl Captured {
    fn push(&mut self, bytes: &[u8]) {
        let room = STDOUT_BYTES_MAX - self.bytes.len();
        let (kept, dropped) = bytes.split_at(bytes.len().min(room));
        self.bytes.extend_from_slice(kept);
        self.dropped_bytes = self.dropped_bytes.saturating_add(dropped.len() as u64);
    }

    fn take(&mut self) -> Vec<u8> {
        let Captured { mut bytes, dropped_bytes } = std::mem::take(self);
        if dropped_bytes > 0 {
            let mark = format!(
                "\n[output cut: {dropped_bytes} bytes more than the {STDOUT_BYTES_MAX} kept]\n"
            );
            bytes.extend_from_slice(mark.as_bytes());
        }
        bytes
    }
}

/// Text that a guest gave, made UTF-8 and cut at [`TEXT_BYTES_MAX`] with a mark.
fn text_of(bytes: &[u8]) -> String {
    let kept = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    let mut text = String::from_utf8_lossy(kept).into_owned();
    let dropped_bytes = bytes.len() - kept.len();
    if dropped_bytes > 0 {
        text.push_str(&format!(" [cut: {dropped_bytes} bytes more]"));
    }
    text
}

#[cfg(test)]
mod tests;
