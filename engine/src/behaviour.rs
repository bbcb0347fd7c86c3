//! Behaviours: code that handles an agent's messages, one turn at a time.
//!
//! Owns: the trait, and how a behaviour says that it failed.  Not: what it sees of its agent
//! (`behaviour/turn.rs`); undo, sealing and the release of effects (`partition/turns.rs`).
//! B1  a behaviour keeps nothing of an agent outside the image but what it can make anew from it,
//!     so a version is the whole agent.
//! B2  sends, calls and the reply wait in the turn's draft; a failed turn leaves none of them.

pub mod counter;
pub mod echo;
pub mod notebook;
pub mod relay;
mod turn;

use crate::id::{AgentId, CallId, VersionId};
use crate::image::Image;
use crate::page::{PAGE_BYTES, PageError, PageStore};
use crate::refusal::Refusal;
use bytes::Bytes;
use std::any::Any;
use std::borrow::Cow;

pub(crate) use turn::{Allowance, Draft, Effect, EffectKind};
pub use turn::{Own, RequestId, Turn};

/// A behaviour of native code: part of the program, the same for all its shards.
pub type Native = &'static (dyn Behaviour + Sync);

/// Code behind a template. It is shared by all agents of the template on a shard (B1).
pub trait Behaviour {
    /// The template's name, as in `name/agent`.
    fn name(&self) -> &str;

    /// One line for people: what it does and which messages it takes.
    fn summary(&self) -> &str;

    /// Which deployment of the template this is, from 1.
    fn number(&self) -> u32 {
        1
    }

    /// Prepares the empty image of a new agent; version 1 is sealed after it.
    fn start(&self, _turn: &mut Turn<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// Handles one message. A turn that has made calls and not replied leaves its request open:
    /// the `reply` of a later [`Behaviour::on_reply`] answers it, or the end of the last call does.
    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault>;

    /// Handles what became of a call.
    fn on_reply(
        &self,
        _turn: &mut Turn<'_>,
        _call: CallId,
        _result: &Result<Option<Bytes>, Refusal>,
    ) -> Result<(), Fault> {
        Ok(())
    }

    /// Runs code in the agent's interpreter, for EXEC; replies as a message does.
    fn on_exec(&self, _turn: &mut Turn<'_>, _code: &Bytes) -> Result<(), Fault> {
        let reason = format!("template {:?} has no interpreter to run code", self.name());
        Err(Fault::refused(reason))
    }

    /// Tells what the image awaits, as [`Behaviour::awaits`] said, that it was put in the place of
    /// another; [`Turn::restored`] says how.
    fn on_restored(&self, _turn: &mut Turn<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// Goes on with a turn that paused ([`Turn::pause`]). When it finds no room for what the turn
    /// did, it may be asked again with more; [`Behaviour::forget`] says that it will not.
    fn resume(&self, _turn: &mut Turn<'_>) -> Result<(), Fault> {
        unreachable!("B1: {:?} never pauses", self.name())
    }

    /// Whether the image awaits calls or sleeps, whose end it must be told after a fork or a
    /// rollback.
    fn awaits(&self, _image: &Image, _store: &PageStore) -> bool {
        false
    }

    /// What an absent page of an image reads as; `None` for zeros.
    fn base_page(&self, _page_idx: u32) -> Option<&[u8; PAGE_BYTES]> {
        None
    }

    /// Whether turns use the image by [`Turn::read`], [`Turn::read_to`], [`Turn::write`] and
    /// [`Turn::resize`] only, of few of its pages each, and may be taken again where they came upon
    /// one that is not in memory: until then it reads as zeros, and nothing else comes of the turn.
    fn reads_by_page(&self) -> bool {
        false
    }

    /// Proves what absent pages read as, where that is not zeros: agents move between templates of
    /// the same digest only.
    fn digest(&self) -> Option<[u8; 32]> {
        None
    }

    /// Why clients may not WRITE into the image; `None` when they may.
    fn sealed_off(&self) -> Option<&'static str> {
        None
    }

    /// How many shares of an agent's present image are kept beside it, as a cache: they are not
    /// counted as others that hold its pages.
    fn copies(&self, _agent: AgentId, _image: &Image) -> u32 {
        0
    }

    /// Drops what is kept of an agent beside its image: it ended or goes to disk, its paused turn
    /// was given up, or a turn that found no room will not be asked to go on.
    fn forget(&self, _agent: AgentId, _store: &mut PageStore) {}
}

/// How an image came into the place of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restored {
    /// The agent is a branch, the `index`th of its FORK, from 1.
    Forked {
        /// Its place among the branches made at once.
        index: u32,
        /// Whether its sleeps go on.
        keep_timers: bool,
        /// The parent's call that asked for it; `None` when a client did.
        call: Option<CallId>,
    },
    /// The agent went back to this version.
    RolledBack {
        /// Which.
        version: VersionId,
    },
    /// The image is that of a branch, which was committed.
    Committed,
}

/// Why a turn failed. The image goes back to what it was before the turn.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// The behaviour refused, in its own words: what it got, and what it takes.
    #[error("{reason}")]
    Refused {
        /// The words.
        reason: Cow<'static, str>,
    },
    /// The behaviour panicked.
    #[error("panicked: {reason}")]
    Panicked {
        /// The panic's message.
        reason: Cow<'static, str>,
    },
    /// No page was left.
    #[error("the arena is full: {used_bytes} of {arena_bytes} bytes")]
    Full {
        /// Bytes used.
        used_bytes: u64,
        /// Bytes there are.
        arena_bytes: u64,
    },
    /// The turn asked for more than is allowed.
    #[error("{what} would be {value}, the limit is {limit}; {remedy}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The value it would have.
        value: u64,
        /// The limit.
        limit: u64,
        /// What to do.
        remedy: &'static str,
    },
}

impl Fault {
    /// A refusal in the behaviour's own words.
    pub fn refused(reason: impl Into<Cow<'static, str>>) -> Fault {
        Fault::Refused { reason: reason.into() }
    }

    /// What a panic says.
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Fault {
        let reason = if let Some(text) = panic.downcast_ref::<&'static str>() {
            Cow::Borrowed(*text)
        } else if let Some(text) = panic.downcast_ref::<String>() {
            Cow::Owned(text.clone())
        } else {
            Cow::Borrowed("with a value that is no text")
        };
        Fault::Panicked { reason }
    }

    /// Whether the arena had no room.
    pub fn is_full(&self) -> bool {
        matches!(self, Fault::Full { .. })
    }
}

impl From<PageError> for Fault {
    fn from(error: PageError) -> Fault {
        match error {
            PageError::Full { used_bytes, arena_bytes } => Fault::Full { used_bytes, arena_bytes },
            PageError::TooLong { len_bytes, len_bytes_max } => too_long(len_bytes, len_bytes_max),
        }
    }
}

fn too_long(value: u64, limit: u64) -> Fault {
    Fault::Limit {
        what: "the image length in bytes",
        value,
        limit,
        remedy: "use several agents or raise agents.image_bytes_max",
    }
}
