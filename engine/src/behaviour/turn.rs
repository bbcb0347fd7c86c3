//! What a behaviour sees of its agent and the world during one turn.
//!
//! Owns: reading and changing the image, and the draft of what the turn asks for.  Not: what
//! becomes of the draft (`partition/turns.rs`).
//! N1  a limit that is broken fails the turn at its end, whatever the behaviour does then.
//! N2  a turn that pauses has changed nothing: its image and its draft are as they were.
//! N3  a turn that came upon pages that are not in memory has them noted, and is undone.

use super::{Fault, Restored, too_long};
use crate::id::{AgentId, CallId, Nanos, Series};
use crate::image::{Image, pages_of};
use crate::key::AgentKey;
use crate::limits::EFFECT_COUNT_MAX;
use crate::log::Place;
use crate::page::{PAGE_BYTES, PageStore};
use crate::refusal::Refusal;
use bytes::Bytes;

/// One request that an agent keeps open; unique within the shard's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RequestId(pub u64);

/// What an agent asks to be done to itself, at the end of its turn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Own {
    /// Seal a version that retention keeps. Result: its number, in decimal.
    Checkpoint {
        /// Optional name.
        label: Option<Bytes>,
    },
    /// Make branches. Result: their keys, one a line.
    Fork {
        /// How many.
        count: u32,
    },
    /// Go back. There is no result when it works: the present that asked is gone.
    Rollback {
        /// Label of the version; the newest checkpoint when absent.
        label: Option<Bytes>,
    },
}

/// One thing that a turn asks for.
#[derive(Debug)]
pub(crate) struct Effect {
    pub(crate) kind: EffectKind,
    /// The call that awaits the result; `None` for a send.
    pub(crate) call: Option<CallId>,
}

/// What a turn can ask for.
#[derive(Debug)]
pub(crate) enum EffectKind {
    Message { to: AgentKey, payload: Bytes },
    Sleep { until: Nanos },
    Http { request: Bytes },
    Own(Own),
}

/// What a turn has produced so far (B2). Reused from turn to turn.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) reply: Option<Result<Bytes, Refusal>>,
    /// Set when the present request stays open under this id.
    pub(crate) held: Option<RequestId>,
    /// Answers to requests that were held.
    pub(crate) replies: Vec<(RequestId, Result<Option<Bytes>, Refusal>)>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) call_count: usize,
    /// Whether the turn is not over (N2).
    pub(crate) paused: bool,
    /// The first limit that the turn broke; it fails for that at its end.
    pub(crate) broken: Option<Fault>,
    /// Set while the page store works: a panic then is a bug of the engine, not the behaviour's.
    pub(crate) in_store: bool,
    /// Records of the away pages that it came upon (N3).
    pub(crate) missed: Vec<Place>,
}

impl Draft {
    pub(crate) fn clear(&mut self) {
        self.reply = None;
        self.held = None;
        self.replies.clear();
        self.effects.clear();
        self.missed.clear();
        (self.call_count, self.paused, self.broken, self.in_store) = (0, false, None, false);
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
    pub(crate) id: AgentId,
    pub(crate) key: &'a AgentKey,
    pub(crate) restored: Option<Restored>,
    pub(crate) now: Nanos,
    pub(crate) image: &'a mut Image,
    pub(crate) store: &'a mut PageStore,
    pub(crate) draft: &'a mut Draft,
    pub(crate) call_numbers: &'a mut Series,
    pub(crate) request_numbers: &'a mut Series,
    pub(crate) allowance: Allowance,
    /// Whether pages of the image may be away.
    pub(crate) partly: bool,
}

impl Turn<'_> {
    /// The agent.
    pub fn id(&self) -> AgentId {
        self.id
    }

    /// Set from a fork, rollback or commit to the end of the first turn after it.
    pub fn restored(&self) -> Option<Restored> {
        self.restored
    }

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
        if self.misses(offset, out.len()) {
            return out.fill(0);
        }
        self.draft.in_store = true;
        let filled = self.image.read_into(self.store, offset, out);
        self.draft.in_store = false;
        out[filled..].fill(0);
    }

    /// Appends up to `len` bytes of the image from `offset` to `out`; returns how many there were.
    pub fn read_to(&mut self, offset: u64, len: usize, out: &mut Vec<u8>) -> usize {
        if self.misses(offset, len) {
            let count = self.image_len().saturating_sub(offset).min(len as u64) as usize;
            out.resize(out.len() + count, 0);
            return count;
        }
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
        if self.misses(offset, bytes.len()) {
            return Ok(());
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
        let cuts = len_bytes < self.image_len() && !len_bytes.is_multiple_of(PAGE_BYTES as u64);
        if cuts && self.misses(len_bytes, 1) {
            return Ok(());
        }
        self.draft.in_store = true;
        let resized = self.image.resize(self.store, len_bytes);
        self.draft.in_store = false;
        Ok(resized?)
    }

    /// Whether one of these bytes is in a page that is away; it is noted (N3).
    fn misses(&mut self, offset: u64, len: usize) -> bool {
        if !self.partly || len == 0 {
            return false;
        }
        let pages = pages_of(offset, len as u64);
        // The last that was noted may be the first of these: none is to pass for none.
        let mut found = Vec::new();
        self.image.away_in(self.store, pages, &mut found);
        self.draft.missed.extend_from_slice(&found);
        !found.is_empty()
    }

    /// Ends a slice of the turn, not the turn: [`super::Behaviour::resume`] goes on with it (N2).
    pub fn pause(&mut self) {
        self.draft.paused = true;
    }
}

/// The image as pages.
impl Turn<'_> {
    /// The image as it is, to compare with later. End it with [`Turn::release`].
    pub fn share_image(&mut self) -> Image {
        self.draft.in_store = true;
        let image = self.image.share(self.store);
        self.draft.in_store = false;
        image
    }

    /// Ends an image that [`Turn::share_image`] gave.
    pub fn release(&mut self, image: Image) {
        self.draft.in_store = true;
        image.release(self.store);
        self.draft.in_store = false;
    }

    /// Whether the image is still the one that was shared.
    pub fn is_image(&self, image: &Image) -> bool {
        self.image.same(image)
    }

    /// Appends the pages in which the image differs from `other` ([`Image::changed_pages`]).
    pub fn changed_pages(&self, other: &Image, pages: &mut Vec<u32>) {
        self.image.changed_pages(other, self.store, pages);
    }

    /// A page of the image over the template's page `under`, put together in `scratch` where it is
    /// not in one piece ([`Image::page`]); `None` when the image has none of its own.
    pub fn page<'a>(
        &'a self,
        page_idx: u32,
        under: &[u8; PAGE_BYTES],
        scratch: &'a mut [u8; PAGE_BYTES],
    ) -> Option<&'a [u8; PAGE_BYTES]> {
        self.image.page(self.store, page_idx, under, scratch)
    }

    /// Whether the image has a page of its own.
    pub fn has_page(&self, page_idx: u32) -> bool {
        self.image.has_page(self.store, page_idx)
    }

    /// Makes `bytes` a page of the image, over the template's ([`Image::put_page`]); whether the
    /// image changed.
    pub fn put_page(
        &mut self,
        page_idx: u32,
        under: &[u8; PAGE_BYTES],
        bytes: &[u8; PAGE_BYTES],
    ) -> Result<bool, Fault> {
        self.draft.in_store = true;
        let put = self.image.put_page(self.store, page_idx, under, bytes);
        self.draft.in_store = false;
        Ok(put?)
    }
}

/// Answers.
impl Turn<'_> {
    /// Answers the request. A second reply of a turn replaces the first; one past
    /// `net.payload_bytes_max` fails the turn.
    pub fn reply(&mut self, reply: impl Into<Bytes>) {
        let reply = reply.into();
        self.check_payload(reply.len(), "the reply in bytes");
        self.draft.reply = Some(Ok(reply));
    }

    /// Answers the request with a refusal, such as a call's, without failing the turn. Refusals
    /// are not remembered: a retry under the same request id takes another turn.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.draft.reply = Some(Err(refusal));
    }

    /// Keeps the present request open, under an id that [`Turn::reply_to`] takes, in this turn or
    /// a later one. An agent that awaits nothing at the end of a turn has its open requests
    /// answered as failed.
    pub fn hold(&mut self) -> RequestId {
        let numbers = &mut *self.request_numbers;
        *self.draft.held.get_or_insert_with(|| RequestId(numbers.give()))
    }

    /// Answers a request that was held. An id that is not open, or another agent's, is passed
    /// over: an image that went back in time may know such.
    pub fn reply_to(&mut self, request: RequestId, result: Result<Option<Bytes>, Refusal>) {
        if let Ok(Some(reply)) = &result {
            self.check_payload(reply.len(), "the reply in bytes");
        }
        self.draft.replies.push((request, result));
    }
}

/// Effects.
impl Turn<'_> {
    /// Sends a message to another agent of the tenant, once this turn is sealed. Nobody awaits the
    /// reply. More than `EFFECT_COUNT_MAX` sends and calls fail the turn.
    pub fn send(&mut self, to: AgentKey, payload: impl Into<Bytes>) {
        self.message(to, payload.into(), None);
    }

    /// As [`Turn::send`], with the reply coming back to [`super::Behaviour::on_reply`], or a
    /// refusal: [`Refusal::Timeout`] after `agents.call_timeout_ms`. More than `CALL_COUNT_MAX`
    /// open calls fail the turn.
    pub fn call(&mut self, to: AgentKey, payload: impl Into<Bytes>) -> CallId {
        let call = self.open_call();
        self.message(to, payload.into(), Some(call));
        call
    }

    /// Asks to be told when it is `until`, as the result of a call.
    pub fn sleep(&mut self, until: Nanos) -> CallId {
        self.ask(EffectKind::Sleep { until })
    }

    /// Asks the control thread for an HTTP request, described as JSON.
    pub fn http(&mut self, request: impl Into<Bytes>) -> CallId {
        let request = request.into();
        self.check_payload(request.len(), "the HTTP request in bytes");
        self.ask(EffectKind::Http { request })
    }

    /// Asks for something to be done to the agent itself.
    pub fn own(&mut self, own: Own) -> CallId {
        // A branch of the present has all of its pages.
        self.misses(0, usize::MAX);
        self.ask(EffectKind::Own(own))
    }

    fn ask(&mut self, kind: EffectKind) -> CallId {
        let call = self.open_call();
        self.effect(Effect { kind, call: Some(call) });
        call
    }

    fn open_call(&mut self) -> CallId {
        let call = CallId(self.call_numbers.give());
        self.draft.call_count += 1;
        if self.draft.call_count > self.allowance.call_count_max {
            self.break_limit(Fault::Limit {
                what: "open calls of the agent, with this turn's,",
                value: crate::limits::CALL_COUNT_MAX as u64 + 1,
                limit: crate::limits::CALL_COUNT_MAX as u64,
                remedy: "await some replies first",
            });
        }
        call
    }

    fn message(&mut self, to: AgentKey, payload: Bytes, call: Option<CallId>) {
        self.check_payload(payload.len(), "the payload of a message in bytes");
        self.effect(Effect { kind: EffectKind::Message { to, payload }, call });
    }

    fn effect(&mut self, effect: Effect) {
        if self.draft.effects.len() < EFFECT_COUNT_MAX {
            self.draft.effects.push(effect);
        } else {
            self.break_limit(Fault::Limit {
                what: "sends and calls of one turn",
                value: EFFECT_COUNT_MAX as u64 + 1,
                limit: EFFECT_COUNT_MAX as u64,
                remedy: "spread them over several turns",
            });
        }
    }

    fn check_payload(&mut self, len: usize, what: &'static str) {
        if len > self.allowance.payload_bytes_max {
            self.break_limit(Fault::Limit {
                what,
                value: len as u64,
                limit: self.allowance.payload_bytes_max as u64,
                remedy: "send it in parts or raise net.payload_bytes_max",
            });
        }
    }

    fn break_limit(&mut self, fault: Fault) {
        self.draft.broken.get_or_insert(fault);
    }
}
