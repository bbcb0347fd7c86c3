//! Behaviours: native code that handles an agent's messages, one turn at a time.
//!
//! Owns: what a behaviour sees of its agent (a [`Turn`]) and how it says that it failed.  Not:
//! undo, sealing and the release of effects (`partition/turns.rs`).
//! B1  a behaviour keeps nothing of an agent outside the image, so a version is the whole agent.
//! B2  sends, calls and the reply wait in the turn's draft; a failed turn leaves none of them.

pub mod counter;
pub mod echo;
pub mod notebook;
pub mod relay;

use crate::id::{CallId, Nanos};
use crate::image::Image;
use crate::key::AgentKey;
use crate::limits::EFFECT_COUNT_MAX;
use crate::page::{PageError, PageStore};
use crate::refusal::Refusal;
use bytes::Bytes;
use std::borrow::Cow;

/// Native code behind a template. It is shared by all agents of the template (B1).
pub trait Behaviour: Sync {
    /// The template's name, as in `name/agent`.
    fn name(&self) -> &'static str;

    /// One line for people: what it does and which messages it takes.
    fn summary(&self) -> &'static str;

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

/// One thing that a turn asks of another agent.
#[derive(Debug)]
pub(crate) struct Effect {
    pub(crate) to: AgentKey,
    pub(crate) payload: Bytes,
    /// The call that awaits the reply; `None` for a send.
    pub(crate) call: Option<CallId>,
}

/// What a turn has produced so far (B2). Reused from turn to turn.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) reply: Option<Result<Bytes, Refusal>>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) call_count: usize,
    /// The first limit that the turn broke; it fails for that at its end.
    pub(crate) broken: Option<Fault>,
    /// Set while the page store works: a panic then is a bug of the engine, not the behaviour's.
    pub(crate) in_store: bool,
}

impl Draft {
    pub(crate) fn clear(&mut self) {
        self.reply = None;
        self.effects.clear();
        (self.call_count, self.broken, self.in_store) = (0, None, false);
    }
}

/// What a turn may use up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    pub(crate) payload_bytes_max: usize,
    pub(crate) image_bytes_max: u64,
    /// Calls that the agent may still open.
    pub(crate) call_count_max: usize,
}

/// An agent's view of itself and the world during one turn.
pub struct Turn<'a> {
    pub(crate) key: &'a AgentKey,
    pub(crate) now: Nanos,
    pub(crate) image: &'a mut Image,
    pub(crate) store: &'a mut PageStore,
    pub(crate) draft: &'a mut Draft,
    pub(crate) call_next: &'a mut u64,
    pub(crate) allowance: Allowance,
}

impl Turn<'_> {
    /// The agent's key.
    pub fn key(&self) -> &AgentKey {
        self.key
    }

    /// The shard's time when the turn began.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Length of the image in bytes.
    pub fn image_len(&self) -> u64 {
        self.image.len_bytes()
    }

    /// Fills `out` with the image's bytes from `offset`, zeros past its end.
    pub fn read(&mut self, offset: u64, out: &mut [u8]) {
        self.draft.in_store = true;
        let filled = self.image.read_into(self.store, offset, out);
        self.draft.in_store = false;
        out[filled..].fill(0);
    }

    /// Appends up to `len` bytes of the image from `offset` to `out`; returns how many there were.
    pub fn read_to(&mut self, offset: u64, len: usize, out: &mut Vec<u8>) -> usize {
        self.draft.in_store = true;
        let count = self.image.read(self.store, offset, out, len);
        self.draft.in_store = false;
        count
    }

    /// Writes `bytes` at `offset`; the image grows when they end past its end. On a fault nothing
    /// was written.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.allowance.image_bytes_max {
            return Err(too_long(end, self.allowance.image_bytes_max));
        }
        self.draft.in_store = true;
        let written = self.image.write(self.store, offset, bytes);
        self.draft.in_store = false;
        written?;
        Ok(())
    }

    /// Makes the image `len_bytes` long: cut, or grown by zeros. On a fault nothing changed.
    pub fn resize(&mut self, len_bytes: u64) -> Result<(), Fault> {
        if len_bytes > self.allowance.image_bytes_max {
            return Err(too_long(len_bytes, self.allowance.image_bytes_max));
        }
        self.draft.in_store = true;
        let resized = self.image.resize(self.store, len_bytes);
        self.draft.in_store = false;
        Ok(resized?)
    }

    /// Answers the request. A second reply of a turn replaces the first; one past
    /// `net.payload_bytes_max` fails the turn.
    pub fn reply(&mut self, reply: impl Into<Bytes>) {
        let reply = reply.into();
        self.check_payload(&reply, "the reply in bytes");
        self.draft.reply = Some(Ok(reply));
    }

    /// Answers the request with a refusal, such as a call's, without failing the turn. Refusals
    /// are not remembered: a retry under the same request id takes another turn.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.draft.reply = Some(Err(refusal));
    }

    /// Sends a message to another agent of the tenant, once this turn is sealed. Nobody awaits the
    /// reply. More than `EFFECT_COUNT_MAX` sends and calls fail the turn.
    pub fn send(&mut self, to: AgentKey, payload: impl Into<Bytes>) {
        self.effect(to, payload.into(), None);
    }

    /// As [`Turn::send`], with the reply coming back to [`Behaviour::on_reply`], or a refusal:
    /// [`Refusal::Timeout`] after `agents.call_timeout_ms`. More than `CALL_COUNT_MAX` open calls
    /// fail the turn.
    pub fn call(&mut self, to: AgentKey, payload: impl Into<Bytes>) -> CallId {
        let call = CallId(*self.call_next);
        *self.call_next += 1;
        self.draft.call_count += 1;
        if self.draft.call_count > self.allowance.call_count_max {
            self.break_limit(Fault::Limit {
                what: "open calls of the agent, with this turn's,",
                value: crate::limits::CALL_COUNT_MAX as u64 + 1,
                limit: crate::limits::CALL_COUNT_MAX as u64,
                remedy: "await some replies first",
            });
        }
        self.effect(to, payload.into(), Some(call));
        call
    }

    fn effect(&mut self, to: AgentKey, payload: Bytes, call: Option<CallId>) {
        self.check_payload(&payload, "the payload of a message in bytes");
        if self.draft.effects.len() < EFFECT_COUNT_MAX {
            self.draft.effects.push(Effect { to, payload, call });
        } else {
            self.break_limit(Fault::Limit {
                what: "sends and calls of one turn",
                value: EFFECT_COUNT_MAX as u64 + 1,
                limit: EFFECT_COUNT_MAX as u64,
                remedy: "spread them over several turns",
            });
        }
    }

    fn check_payload(&mut self, payload: &Bytes, what: &'static str) {
        if payload.len() > self.allowance.payload_bytes_max {
            self.break_limit(Fault::Limit {
                what,
                value: payload.len() as u64,
                limit: self.allowance.payload_bytes_max as u64,
                remedy: "send it in parts or raise net.payload_bytes_max",
            });
        }
    }

    fn break_limit(&mut self, fault: Fault) {
        self.draft.broken.get_or_insert(fault);
    }
}
