//! Turns: one message, or the result of one call, handled to completion.
//!
//! Owns: undo, sealing by policy, the release of effects, failures and quarantine.  Not: what a
//! behaviour does, nor control verbs (`verbs.rs`).
//! W1  a turn that fails leaves the image as it was and no effect.
//! W2  an effect leaves after its turn was sealed.
//! W3  a request whose turn called and did not reply is answered when its calls have returned.

use super::calls::OpenRequest;
use super::dedupe::Seen;
use super::{Partition, check_deadline};
use crate::agent::{Edge, State};
use crate::behaviour::{Allowance, Behaviour, Fault, Turn};
use crate::id::{CallId, Nanos};
use crate::limits::CALL_COUNT_MAX;
use crate::mailbox::{Item, Waiting, runs_turn};
use crate::refusal::Refusal;
use crate::slots::NIL;
use crate::verb::{Ack, Event, Origin, Reply, Request, Target, Verb};
use crate::version::SealKind;
use bytes::Bytes;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What serving one item came to.
#[derive(Clone, Copy, Default)]
pub(super) struct Ran {
    /// Whether a turn was taken, not only a control verb.
    pub(super) turn: bool,
    pub(super) sealed: bool,
    pub(super) failed: bool,
}

impl Ran {
    fn of(turn: &Result<bool, Refusal>) -> Ran {
        Ran { turn: true, sealed: *turn == Ok(true), failed: turn.is_err() }
    }
}

impl Partition {
    /// Serves one request whose time has come.
    pub(super) fn serve(&mut self, now: Nanos, slot: u32, waiting: Waiting) -> Ran {
        if let Err(refusal) = check_deadline(now, &waiting) {
            self.reply(waiting.origin, Err(refusal));
            return Ran::default();
        }
        let Waiting { verb, origin, .. } = waiting;
        match verb {
            Verb::Send { payload, request_id } => {
                self.message_turn(now, slot, origin, &payload, request_id)
            }
            Verb::Write { offset, bytes } => self.write_turn(now, slot, origin, offset, &bytes),
            verb => {
                self.control(now, slot, verb, origin);
                Ran::default()
            }
        }
    }

    fn message_turn(
        &mut self,
        now: Nanos,
        slot: u32,
        origin: Origin,
        payload: &Bytes,
        request_id: Option<Bytes>,
    ) -> Ran {
        self.counters.messages += 1;
        let request_id = request_id.filter(|_| self.config.dedupe_max > 0);
        if let Some(id) = &request_id
            && self.is_retry(slot, id, origin)
        {
            return Ran::default();
        }
        let turn = self.turn(now, slot, |behaviour, turn| behaviour.on_message(turn, payload));
        let ran = Ran::of(&turn);
        if let Err(refusal) = turn {
            self.settle(slot, origin, request_id, Err(refusal));
            return ran;
        }
        let reply = self.draft.reply.take();
        let request = if reply.is_none() && self.draft.call_count > 0 {
            if let Some(id) = &request_id {
                let count_max = self.config.dedupe_max as usize;
                self.agents[slot].rare().dedupe.open(id, count_max);
            }
            let (answered, call_count) = (false, 0);
            let open = OpenRequest { origin, request_id, answered, call_count };
            Some(self.calls.open_request(open))
        } else {
            let reply = reply.map_or(Ok(None), |reply| reply.map(Some));
            self.settle(slot, origin, request_id, reply);
            self.open_answered()
        };
        self.release_effects(now, slot, request);
        ran
    }

    fn write_turn(
        &mut self,
        now: Nanos,
        slot: u32,
        origin: Origin,
        offset: u64,
        bytes: &[u8],
    ) -> Ran {
        self.counters.messages += 1;
        self.counters.turns += 1;
        self.draft.clear();
        let agent = &mut self.agents[slot];
        agent.turn_count += 1;
        let turn = match agent.image.write(&mut self.store, offset, bytes) {
            Ok(changed) => Ok(self.seal_by_policy(now, slot, changed)),
            Err(error) => Err(self.refusal(slot, error.into())),
        };
        let ran = Ran { failed: false, ..Ran::of(&turn) };
        let version = self.agents[slot].versions.head();
        self.reply(origin, turn.map(|_| Reply::Version(version)));
        ran
    }

    /// Takes the turn of a call's result, unless the call was dropped while it waited.
    pub(super) fn return_turn(
        &mut self,
        now: Nanos,
        slot: u32,
        call: CallId,
        result: &Result<Option<Bytes>, Refusal>,
    ) -> Ran {
        let agent = &mut self.agents[slot];
        let Some(request) = self.calls.take_returned(agent.id, call) else {
            return Ran::default();
        };
        agent.rare().calls.retain(|open| *open != call);
        let turn = self.turn(now, slot, |behaviour, turn| behaviour.on_reply(turn, call, result));
        let ran = Ran::of(&turn);
        let reply = match turn {
            Ok(_) => self.draft.reply.take().map(|reply| reply.map(Some)),
            Err(refusal) => Some(Err(refusal)),
        };
        if let Some(reply) = reply {
            self.answer_open(slot, request, reply);
        }
        self.release_effects(now, slot, Some(request));
        self.close_call(slot, request);
        ran
    }

    /// Takes a turn and seals what it did; whether there is a new version. On a refusal the turn
    /// was undone (W1).
    fn turn(
        &mut self,
        now: Nanos,
        slot: u32,
        act: impl FnOnce(&dyn Behaviour, &mut Turn<'_>) -> Result<(), Fault>,
    ) -> Result<bool, Refusal> {
        self.counters.turns += 1;
        self.agents[slot].turn_count += 1;
        match self.attempt(now, slot, act) {
            Ok(changed) => Ok(self.seal_by_policy(now, slot, changed)),
            Err(fault) => Err(self.note_failure(now, slot, fault)),
        }
    }

    /// Runs a behaviour into a fresh draft; whether the image changed. On a fault the image is as
    /// it was and the draft is empty (W1).
    pub(super) fn attempt(
        &mut self,
        now: Nanos,
        slot: u32,
        act: impl FnOnce(&dyn Behaviour, &mut Turn<'_>) -> Result<(), Fault>,
    ) -> Result<bool, Fault> {
        self.draft.clear();
        let agent = &mut self.agents[slot];
        let before = agent.image.share(&mut self.store);
        let behaviour = self.templates.behaviour(agent.template);
        let allowance = Allowance {
            payload_bytes_max: self.config.payload_bytes_max,
            image_bytes_max: self.config.image_bytes_max,
            call_count_max: CALL_COUNT_MAX - agent.call_count(),
        };
        let mut turn = Turn {
            key: &agent.key,
            now,
            image: &mut agent.image,
            store: &mut self.store,
            draft: &mut self.draft,
            call_next: &mut self.call_next,
            allowance,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| act(behaviour, &mut turn)));
        let outcome = match outcome {
            Ok(outcome) => outcome.and_then(|()| self.draft.broken.take().map_or(Ok(()), Err)),
            // A broken invariant of the store must not pass for a behaviour's failure.
            Err(panic) if self.draft.in_store => resume_unwind(panic),
            Err(panic) => Err(Fault::Panicked { reason: panic_text(panic.as_ref()) }),
        };
        if let Err(fault) = outcome {
            std::mem::replace(&mut agent.image, before).release(&mut self.store);
            self.draft.clear();
            return Err(fault);
        }
        let changed = !agent.image.same(&before);
        before.release(&mut self.store);
        Ok(changed)
    }

    /// Seals after a turn, if the policy or the turn's effects (W2) ask for it; whether there is a
    /// new version.
    fn seal_by_policy(&mut self, now: Nanos, slot: u32, changed: bool) -> bool {
        let agent = &mut self.agents[slot];
        agent.unsealed_count += u32::from(changed);
        let every = self.config.seal_every;
        let by_count = every > 0 && agent.unsealed_count >= every;
        let due = by_count || !self.draft.effects.is_empty();
        agent.unsealed_count > 0 && due && self.seal(now, slot)
    }

    /// Seals the present as an automatic version; whether it is a new one.
    pub(super) fn seal(&mut self, now: Nanos, slot: u32) -> bool {
        let agent = &mut self.agents[slot];
        let head = agent.versions.head();
        let kind = SealKind::Auto { history_max: self.config.history_max };
        let sealed = agent.versions.seal(&agent.image, &mut self.store, now, kind);
        let sealed = sealed.expect("T4: only checkpoints are refused");
        agent.unsealed_count = 0;
        self.counters.seals += u64::from(sealed != head);
        sealed != head
    }

    /// Turns the draft's effects into events; its calls belong to `request`.
    pub(super) fn release_effects(&mut self, now: Nanos, slot: u32, request: Option<u32>) {
        let agent = &mut self.agents[slot];
        let deadline = now.after(self.config.call_timeout);
        for effect in self.draft.effects.drain(..) {
            let origin = match effect.call {
                None => Origin::Nobody,
                Some(call) => {
                    let request = request.expect("W3: a turn with calls has a request");
                    self.calls.open(call, agent.id, request, deadline);
                    agent.rare().calls.push(call);
                    Origin::Agent { id: agent.id, call }
                }
            };
            self.events.push(Event::Deliver(Request {
                target: Target::agent(agent.tenant, effect.to),
                verb: Verb::Send { payload: effect.payload, request_id: None },
                ack: Ack::Sealed,
                deadline: effect.call.map(|_| deadline),
                origin,
            }));
        }
    }
}

/// Answers, and requests that stay open (W3).
impl Partition {
    /// Answers a message, and the retries that waited with it.
    fn settle(
        &mut self,
        slot: u32,
        origin: Origin,
        request_id: Option<Bytes>,
        result: Result<Option<Bytes>, Refusal>,
    ) {
        if let Some(id) = request_id {
            let count_max = self.config.dedupe_max as usize;
            let dedupe = &mut self.agents[slot].rare().dedupe;
            for waiter in dedupe.close(&id, result.as_ref().ok(), count_max) {
                self.reply(waiter, result.clone().map(Reply::Payload));
            }
        }
        self.reply(origin, result.map(Reply::Payload));
    }

    /// Whether `id` was seen before; then `origin` has its answer, or waits for it.
    fn is_retry(&mut self, slot: u32, id: &[u8], origin: Origin) -> bool {
        let waiters_max = self.config.mailbox_max;
        let dedupe = &mut self.agents[slot].rare().dedupe;
        match dedupe.seen(id) {
            Seen::Never => return false,
            Seen::Replied(reply) => self.reply(origin, Ok(Reply::Payload(reply))),
            Seen::Open(count) if count < waiters_max as usize => dedupe.wait(id, origin),
            Seen::Open(count) => {
                let what = Cow::from("the list of retries that wait for one reply");
                let (count, count_max) = (count as u64, u64::from(waiters_max));
                self.reply(origin, Err(Refusal::Busy { what, count, count_max }));
            }
        }
        self.counters.duplicates += 1;
        true
    }

    /// For the draft's calls, if there are any, a request that has its answer.
    pub(super) fn open_answered(&mut self) -> Option<u32> {
        (self.draft.call_count > 0).then(|| {
            let (origin, request_id) = (Origin::Nobody, None);
            self.calls.open_request(OpenRequest {
                origin,
                request_id,
                answered: true,
                call_count: 0,
            })
        })
    }

    fn answer_open(&mut self, slot: u32, request: u32, result: Result<Option<Bytes>, Refusal>) {
        let open = self.calls.request(request);
        if !std::mem::replace(&mut open.answered, true) {
            let (origin, request_id) = (open.origin, open.request_id.take());
            self.settle(slot, origin, request_id, result);
        }
    }

    /// One call of a request is gone. With the last one goes the request, which nobody can answer
    /// any more: if it has no answer yet, it gets the empty one.
    fn close_call(&mut self, slot: u32, request: u32) {
        if let Some(open) = self.calls.close(request)
            && !open.answered
        {
            self.settle(slot, open.origin, open.request_id, Ok(None));
        }
    }

    /// Ends all calls of an agent; the requests that they kept open are answered as dropped.
    pub(super) fn drop_calls(&mut self, slot: u32, why: &'static str) {
        let agent = &mut self.agents[slot];
        let Some(rare) = agent.rare.as_mut() else { return };
        for call in std::mem::take(&mut rare.calls) {
            let request = self.calls.drop_call(call);
            let key = self.agents[slot].key.as_str().into();
            self.answer_open(slot, request, Err(Refusal::Dropped { key, why: why.into() }));
            self.close_call(slot, request);
        }
    }
}

/// Failures.
impl Partition {
    /// Counts a failed turn; the refusal that its sender gets. Only panics count towards the
    /// agent's quarantine: a full arena is not its fault, and a message that it refuses is its
    /// sender's, who could else quarantine it at will.
    fn note_failure(&mut self, now: Nanos, slot: u32, fault: Fault) -> Refusal {
        self.counters.faults += 1;
        let agent = &mut self.agents[slot];
        agent.failure_count = agent.failure_count.saturating_add(1);
        let count_max = self.config.quarantine_failures as usize;
        if count_max > 0 && matches!(fault, Fault::Panicked { .. }) {
            let window = self.config.quarantine_window;
            let failures = &mut agent.rare().failures;
            failures.push_back(now);
            while failures.len() > count_max || now.since(failures[0]) > window {
                failures.pop_front();
            }
        }
        self.refusal(slot, fault)
    }

    pub(super) fn refusal(&self, slot: u32, fault: Fault) -> Refusal {
        let agent = &self.agents[slot];
        match fault {
            Fault::Full { used_bytes, arena_bytes } => {
                Refusal::Full { shard: self.config.shard, used_bytes, arena_bytes }
            }
            Fault::Limit { what, value, limit, remedy } => {
                Refusal::Limit { what: what.into(), value, limit, remedy: remedy.into() }
            }
            Fault::Refused { .. } | Fault::Panicked { .. } => Refusal::Fault {
                key: agent.key.as_str().into(),
                version: agent.versions.head(),
                reason: fault.to_string(),
            },
        }
    }

    /// Quarantines an agent whose latest failure was one too many; its calls are dropped.
    pub(super) fn quarantine_if_due(&mut self, slot: u32) {
        let agent = &mut self.agents[slot];
        let failures = self.config.quarantine_failures;
        if failures == 0 || agent.recent_failure_count() < failures {
            return;
        }
        agent.follow(Edge::Quarantine);
        self.counters.quarantines += 1;
        self.drop_calls(slot, "was quarantined");
    }

    pub(super) fn quarantined(&self, slot: u32) -> Refusal {
        let agent = &self.agents[slot];
        let failures = agent.recent_failure_count();
        Refusal::Quarantined { key: agent.key.as_str().into(), failures }
    }

    /// Serves what a held agent's mailbox may not hold (A2): control verbs at once, in order, and
    /// messages of a quarantined agent by refusing them. Stops when one of them ends the holding.
    pub(super) fn settle_held(&mut self, now: Nanos, slot: u32) {
        let id = self.agents[slot].id;
        let mut kept = NIL;
        while self.agents.get(slot).is_some_and(|agent| agent.id == id) {
            let agent = &mut self.agents[slot];
            let item = match agent.state() {
                State::Active => None,
                State::Suspended => agent.mailbox.pop_control(&mut self.mail, &mut kept),
                State::Quarantined => agent.mailbox.pop(&mut self.mail),
            };
            match item {
                None => return,
                Some(Item::Request(waiting)) if runs_turn(&waiting.verb) => {
                    let refusal = self.quarantined(slot);
                    self.reply(waiting.origin, Err(refusal));
                }
                Some(Item::Request(waiting)) => _ = self.serve(now, slot, waiting),
                // Its call was dropped with the quarantine.
                Some(Item::Returned { .. }) => {}
            }
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> Cow<'static, str> {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        Cow::Borrowed(text)
    } else if let Some(text) = panic.downcast_ref::<String>() {
        Cow::Owned(text.clone())
    } else {
        Cow::Borrowed("with a value that is no text")
    }
}
