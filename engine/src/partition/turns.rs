//! Turns: one message, or the result of one call, handled to completion.
//!
//! Owns: undo, sealing by policy.  Not: what a behaviour does, failures (`failures.rs`), control
//! verbs (`verbs.rs`), answers (`answers.rs`), effects (`effects.rs`).
//! W1  a turn that fails leaves the image as it was and no effect.
//! W2  an effect leaves after its turn was sealed.
//! W3  a request whose turn called and did not reply is answered when its calls have returned.

use super::Partition;
use super::admit::check_deadline;
use super::calls::{Held, OpenRequest};
use super::effects::is_effect_id;
use super::serving::Serving;
use crate::behaviour::{Allowance, Behaviour, Fault, RequestId, Turn};
use crate::id::{CallId, Nanos};
use crate::limits::CALL_COUNT_MAX;
use crate::mailbox::Waiting;
use crate::refusal::Refusal;
use crate::verb::{Origin, Reply, Verb};
use crate::version::SealKind;
use bytes::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What serving one item came to.
#[derive(Clone, Copy, Default)]
pub(super) struct Ran {
    /// Whether a turn was taken, not only a control verb.
    pub(super) turn: bool,
    pub(super) sealed: bool,
    pub(super) failed: bool,
    /// When the message that the turn handled came in.
    pub(super) accepted_at: Option<Nanos>,
}

/// How one slice of a turn ended.
pub(super) enum Slice {
    /// The turn is not over; nothing has changed.
    Paused,
    /// The turn is over, and has changed the image or not.
    Over { changed: bool },
    /// It came upon away pages and was undone: it is to be taken again (N3 of `turn.rs`).
    Missed,
}

/// How a turn, or a slice of it, ended.
enum Turned {
    Paused,
    Over {
        sealed: bool,
    },
    /// It was undone (W1).
    Failed(Refusal),
}

impl Ran {
    fn of(turned: &Turned) -> Ran {
        let sealed = matches!(turned, Turned::Over { sealed: true });
        let failed = matches!(turned, Turned::Failed(_));
        Ran { turn: true, sealed, failed, accepted_at: None }
    }
}

/// What a turn is taken for.
impl Partition {
    /// Serves one request whose time has come.
    pub(super) fn serve(&mut self, now: Nanos, slot: u32, waiting: Waiting) -> Ran {
        if let Err(refusal) = check_deadline(now, &waiting) {
            self.reply(waiting.origin, Err(refusal));
            return Ran::default();
        }
        let Waiting { verb, origin, accepted_at, .. } = waiting;
        match verb {
            Verb::Send { payload, request_id } => {
                let serving = Serving::Message { origin, request_id, held: None, accepted_at };
                self.message_turn(now, slot, &payload, serving)
            }
            Verb::Exec { code } => {
                self.counters.messages += 1;
                let request_id = None;
                let serving = Serving::Message { origin, request_id, held: None, accepted_at };
                self.new_turn(now, slot, serving, |code_of, turn| code_of.on_exec(turn, &code))
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
        payload: &Bytes,
        mut serving: Serving,
    ) -> Ran {
        self.counters.messages += 1;
        if let Serving::Message { origin, request_id, .. } = &mut serving {
            let kept = |id: &Bytes| self.config.dedupe_max > 0 || is_effect_id(id);
            *request_id = request_id.take().filter(kept);
            if let Some(id) = request_id
                && self.is_retry(slot, id, *origin)
            {
                return Ran::default();
            }
        }
        self.new_turn(now, slot, serving, |behaviour, turn| behaviour.on_message(turn, payload))
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
        let written = match self.templates.behaviour(agent.template).sealed_off() {
            Some(why) => Err(Fault::refused(why)),
            None => self.in_room(now, Fault::is_full, |this| {
                let image = &mut this.agents[slot].image;
                image.write(&mut this.store, offset, bytes).map_err(Fault::from)
            }),
        };
        let durable = self.waits(origin);
        let turned = match written {
            Ok(changed) => {
                Turned::Over { sealed: self.seal_by_policy(now, slot, changed, durable) }
            }
            Err(fault) => Turned::Failed(self.refusal(slot, fault)),
        };
        let ran = Ran { failed: false, ..Ran::of(&turned) };
        let version = self.agents[slot].versions.head();
        let result = match turned {
            Turned::Failed(refusal) => Err(refusal),
            Turned::Over { .. } | Turned::Paused => Ok(Reply::Version(version)),
        };
        self.reply(origin, result);
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
        let serving = Serving::Returned { request };
        let act =
            |behaviour: &dyn Behaviour, turn: &mut Turn<'_>| behaviour.on_reply(turn, call, result);
        self.new_turn(now, slot, serving, act)
    }

    /// Tells the agent that its image was restored, unless a turn has seen that meanwhile.
    pub(super) fn restored_turn(&mut self, now: Nanos, slot: u32) -> Ran {
        if self.agents[slot].restored().is_none() {
            return Ran::default();
        }
        self.new_turn(now, slot, Serving::Restored, |behaviour, turn| behaviour.on_restored(turn))
    }

    /// Goes on with a turn that paused.
    pub(super) fn resume_turn(&mut self, now: Nanos, slot: u32, serving: Serving) -> Ran {
        let durable = self.is_durable(&serving);
        let held = serving.held();
        let outcome = self.in_room(now, Fault::is_full, |this| {
            this.attempt(now, slot, held, |behaviour, turn| behaviour.resume(turn))
        });
        let turned = self.slice(now, slot, durable, outcome);
        self.finish(now, slot, serving, turned)
    }

    fn new_turn(
        &mut self,
        now: Nanos,
        slot: u32,
        serving: Serving,
        act: impl Fn(&dyn Behaviour, &mut Turn<'_>) -> Result<(), Fault>,
    ) -> Ran {
        self.counters.turns += 1;
        self.agents[slot].turn_count += 1;
        let durable = self.is_durable(&serving);
        let outcome = self.in_room(now, Fault::is_full, |this| this.attempt(now, slot, None, &act));
        if matches!(outcome, Ok(Slice::Missed)) {
            self.counters.turns -= 1;
            self.counters.messages -= 1;
            self.agents[slot].turn_count -= 1;
            return Ran::default();
        }
        let turned = self.slice(now, slot, durable, outcome);
        self.finish(now, slot, serving, turned)
    }
}

/// How a turn goes.
impl Partition {
    /// Whether what a turn does is to be on disk before it is answered.
    fn is_durable(&self, serving: &Serving) -> bool {
        match serving {
            Serving::Message { origin, .. } => self.waits(*origin),
            Serving::Returned { request } => self.waits(self.calls.seen_request(*request).origin),
            Serving::Restored => false,
        }
    }

    /// Seals what a turn, or a slice of one, did.
    fn slice(
        &mut self,
        now: Nanos,
        slot: u32,
        durable: bool,
        outcome: Result<Slice, Fault>,
    ) -> Turned {
        match outcome {
            Ok(Slice::Paused) => Turned::Paused,
            Ok(Slice::Over { changed }) => {
                Turned::Over { sealed: self.seal_by_policy(now, slot, changed, durable) }
            }
            Ok(Slice::Missed) => unreachable!("O1: only a new message comes upon away pages"),
            Err(fault) => {
                if fault.is_full() {
                    // It may have kept the turn for when there would be room.
                    let agent = &self.agents[slot];
                    self.templates.behaviour(agent.template).forget(agent.id, &mut self.store);
                }
                Turned::Failed(self.note_failure(now, slot, fault))
            }
        }
    }

    /// Tells whom it concerns how a turn ended, and releases its effects (W2).
    fn finish(&mut self, now: Nanos, slot: u32, serving: Serving, turned: Turned) -> Ran {
        let mut ran = Ran::of(&turned);
        if let Serving::Message { accepted_at, .. } = &serving {
            ran.accepted_at = Some(*accepted_at);
        }
        match turned {
            Turned::Paused => {
                let mut serving = serving;
                if let Serving::Message { held, .. } = &mut serving {
                    *held = self.draft.held;
                }
                ran.accepted_at = None;
                self.agents[slot].rare().paused = Some(serving);
                return ran;
            }
            Turned::Over { .. } => self.finish_good(now, slot, serving),
            Turned::Failed(refusal) => self.finish_failed(slot, serving, refusal),
        }
        self.answer_stuck(slot);
        ran
    }

    fn finish_good(&mut self, now: Nanos, slot: u32, serving: Serving) {
        let returned = match &serving {
            Serving::Returned { request } => Some(*request),
            Serving::Message { .. } | Serving::Restored => None,
        };
        let request = match serving {
            Serving::Message { origin, request_id, .. } => {
                self.finish_message(slot, origin, request_id)
            }
            Serving::Returned { request } => {
                if let Some(reply) = self.draft.reply.take() {
                    self.answer_open(slot, request, reply.map(Some));
                }
                Some(request)
            }
            Serving::Restored => self.open_answered(),
        };
        for (id, result) in std::mem::take(&mut self.draft.replies) {
            self.answer_held(slot, id, result);
        }
        self.release_effects(now, slot, request);
        if let Some(request) = returned {
            self.close_call(slot, request);
        }
    }

    /// The request to which the turn's calls belong.
    fn finish_message(
        &mut self,
        slot: u32,
        origin: Origin,
        request_id: Option<Bytes>,
    ) -> Option<u32> {
        let count_max = self.config.dedupe_count_max();
        if let Some(id) = self.draft.held {
            let agent = &mut self.agents[slot];
            if let Some(id) = &request_id {
                agent.rare().dedupe.open(id, count_max);
            }
            agent.rare().held.push(id);
            self.calls.hold(id, Held { agent: agent.id, origin, request_id });
            return self.open_answered();
        }
        let reply = self.draft.reply.take();
        if reply.is_none() && self.draft.call_count > 0 {
            if let Some(id) = &request_id {
                self.agents[slot].rare().dedupe.open(id, count_max);
            }
            let (answered, call_count) = (false, 0);
            let open = OpenRequest { origin, request_id, answered, call_count };
            return Some(self.calls.open_request(open));
        }
        let reply = reply.map_or(Ok(None), |reply| reply.map(Some));
        self.settle(slot, origin, request_id, reply);
        self.open_answered()
    }

    pub(super) fn finish_failed(&mut self, slot: u32, serving: Serving, refusal: Refusal) {
        match serving {
            Serving::Message { origin, request_id, .. } => {
                self.settle(slot, origin, request_id, Err(refusal));
            }
            Serving::Returned { request } => {
                self.answer_open(slot, request, Err(refusal.clone()));
                self.close_call(slot, request);
                // What the lost result was for cannot come any more.
                if self.agents[slot].call_count() == 0 {
                    self.answer_all_held(slot, &refusal);
                }
            }
            Serving::Restored => self.answer_all_held(slot, &refusal),
        }
    }

    /// Runs a behaviour into a fresh draft. On a fault the image is as it was and the draft is
    /// empty (W1).
    pub(super) fn attempt(
        &mut self,
        now: Nanos,
        slot: u32,
        held: Option<RequestId>,
        act: impl FnOnce(&dyn Behaviour, &mut Turn<'_>) -> Result<(), Fault>,
    ) -> Result<Slice, Fault> {
        self.draft.clear();
        self.draft.held = held;
        let agent = &mut self.agents[slot];
        let restored = agent.restored();
        let before = agent.image.share(&mut self.store);
        let behaviour = self.templates.behaviour(agent.template);
        let allowance = Allowance {
            payload_bytes_max: self.config.payload_bytes_max,
            image_bytes_max: self.config.image_bytes_max,
            call_count_max: CALL_COUNT_MAX - agent.call_count(),
        };
        let mut turn = Turn {
            id: agent.id,
            key: &agent.key,
            restored,
            now,
            image: &mut agent.image,
            store: &mut self.store,
            draft: &mut self.draft,
            call_numbers: &mut self.call_numbers,
            request_numbers: &mut self.request_numbers,
            allowance,
            partly: agent.partly,
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| act(behaviour, &mut turn)));
        let outcome = match outcome {
            Ok(outcome) => outcome.and_then(|()| self.draft.broken.take().map_or(Ok(()), Err)),
            // A broken invariant of the store must not pass for a behaviour's failure.
            Err(panic) if self.draft.in_store => resume_unwind(panic),
            Err(panic) => Err(Fault::of_panic(panic.as_ref())),
        };
        if !self.draft.missed.is_empty() {
            std::mem::replace(&mut agent.image, before).release(&mut self.store);
            let missed = std::mem::take(&mut self.draft.missed);
            self.draft.clear();
            self.draft.missed = missed;
            return Ok(Slice::Missed);
        }
        if let Err(fault) = outcome {
            std::mem::replace(&mut agent.image, before).release(&mut self.store);
            self.draft.clear();
            return Err(fault);
        }
        let changed = !agent.image.same(&before);
        before.release(&mut self.store);
        if self.draft.paused {
            assert!(
                !changed && self.draft.effects.is_empty(),
                "N2: a paused turn changed something"
            );
            return Ok(Slice::Paused);
        }
        if restored.is_some() {
            agent.rare().restored = None;
        }
        Ok(Slice::Over { changed })
    }

    /// Seals after a turn, if the policy, the turn's effects (W2) or the promise of its answer ask
    /// for it; whether there is a new version.
    fn seal_by_policy(&mut self, now: Nanos, slot: u32, changed: bool, durable: bool) -> bool {
        let agent = &mut self.agents[slot];
        agent.unsealed_count += u32::from(changed);
        let every = self.config.seal_every;
        let by_count = every > 0 && agent.unsealed_count >= every;
        let due = by_count || durable || !self.draft.effects.is_empty();
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
}
