//! What turns ask for: messages, sleeps, HTTP requests, and changes to the agent itself.
//!
//! Owns: how the draft of a sealed turn becomes events and calls.  Not: when (`turns.rs`).
//! X1  effects leave in the order in which the turn asked for them; what it asks for itself is done
//!     after that.
//! X2  an effect that is asked for again bears the id that it bore before.

use super::Partition;
use super::branches::ForkPlan;
use super::calls::Asked;
use super::verbs::Requests;
use crate::behaviour::{Effect, EffectKind, Own};
use crate::id::{AgentId, CallId, Nanos};
use crate::slots::NIL;
use crate::verb::{Ack, Errand, Event, Origin, Request, Target, Verb, VersionRef};
use bytes::Bytes;

/// First byte of the ids that agents' messages bear; no text has it.
const EFFECT_ID: u8 = 0;
const EFFECT_ID_BYTES: usize = 25;

/// The id of what a call asks for: the same each time that it is asked.
fn effect_id(agent: AgentId, call: CallId) -> Bytes {
    let mut id = [EFFECT_ID; EFFECT_ID_BYTES];
    id[1..17].copy_from_slice(&agent.0.to_le_bytes());
    id[17..].copy_from_slice(&call.0.to_le_bytes());
    Bytes::copy_from_slice(&id)
}

/// Whether a request id is one of an agent's message.
pub(super) fn is_effect_id(id: &[u8]) -> bool {
    id.len() == EFFECT_ID_BYTES && id[0] == EFFECT_ID
}

impl Partition {
    /// Turns the draft's effects into events, which leave once the turn is on disk, where there is
    /// a log; its calls belong to `request`. What the agent asks to be done to itself is done last,
    /// in order.
    pub(super) fn release_effects(&mut self, now: Nanos, slot: u32, request: Option<u32>) {
        let id = self.agents[slot].id;
        let timeout = now.after(self.config.call_timeout);
        let mut owns = Vec::new();
        for Effect { kind, call } in std::mem::take(&mut self.draft.effects) {
            let own = match &kind {
                EffectKind::Own(own) => Some(own.clone()),
                _ => None,
            };
            let (deadline, asked) = self.asked(slot, kind, call, timeout);
            let request = call.map(|_| request.expect("W3: a turn with calls has a request"));
            let call = match (call, request) {
                (Some(call), Some(request)) => {
                    self.agents[slot].rare().calls.push(call);
                    self.calls.open(call, id, request, deadline, asked.clone());
                    Some(call)
                }
                _ if self.journal.on => {
                    let call = CallId(self.call_numbers.give());
                    self.agents[slot].rare().sends.push(call);
                    self.calls.send(call, id, asked.clone());
                    Some(call)
                }
                _ => None,
            };
            match own {
                Some(own) => owns.push((own, call)),
                None => {
                    if let Some(event) = self.effect(slot, call, request.map(|_| timeout), asked) {
                        self.gate(event);
                    }
                }
            }
        }
        for (own, call) in owns {
            self.do_own(now, slot, own, call);
        }
        if !self.journal.on {
            self.forget_asked(slot);
        }
    }

    /// What an effect asks for, and until when.
    fn asked(
        &self,
        slot: u32,
        kind: EffectKind,
        call: Option<CallId>,
        timeout: Nanos,
    ) -> (Nanos, Asked) {
        match kind {
            EffectKind::Message { to, payload } => (timeout, Asked::Message { to, payload }),
            EffectKind::Http { request } => {
                let agent = &self.agents[slot];
                let version = agent.versions.head().0;
                let sequence = call.map_or(0, |call| call.0);
                let idempotency = format!("{:032x}-{version}-{sequence}", agent.id.0);
                (timeout, Asked::Http { request, idempotency })
            }
            EffectKind::Sleep { until } => (until, Asked::Sleep),
            EffectKind::Own(_) => (timeout, Asked::Own),
        }
    }

    /// What goes out for a call, or for a send without one.
    fn effect(
        &self,
        slot: u32,
        call: Option<CallId>,
        deadline: Option<Nanos>,
        asked: Asked,
    ) -> Option<Event> {
        let agent = &self.agents[slot];
        let id = agent.id;
        let origin = call.map_or(Origin::Nobody, |call| Origin::Agent { id, call });
        Some(match asked {
            Asked::Message { to, payload } => {
                let logged = self.journal.on.then_some(call).flatten();
                let ack = if self.journal.on { Ack::Durable } else { Ack::Sealed };
                Event::Deliver(Request {
                    target: Target::agent(agent.tenant, to),
                    verb: Verb::Send {
                        payload,
                        request_id: logged.map(|call| effect_id(id, call)),
                    },
                    ack,
                    deadline,
                    origin,
                })
            }
            Asked::Http { request, idempotency } => {
                let errand = Errand::Http { agent: agent.key.clone(), request, idempotency };
                Event::Errand { to: origin, errand }
            }
            Asked::Sleep | Asked::Own | Asked::Unkept => return None,
        })
    }

    /// Asks once more for what a call asked for: the shard that it was for was not up, or this one
    /// was not. Its id says that it is the same.
    pub(super) fn ask_again(&mut self, call: CallId) {
        let Some(open) = self.calls.find(call) else { return };
        let awaited = open.request != NIL;
        let deadline = awaited.then_some(open.deadline);
        let (agent, asked) = (open.agent, open.asked.clone());
        let Some(slot) = self.agents.find(agent) else { return };
        if let Some(event) = self.effect(slot, Some(call), deadline, asked) {
            self.events.push(event);
        }
    }

    /// The receiver of a send has it on disk, or has refused it, which nobody hears.
    pub(super) fn end_send(&mut self, agent: AgentId, call: CallId) {
        let slot = self.agents.find(agent).expect("Y5: a send's agent lives");
        self.touch(slot);
        self.calls.end_send(call);
        self.agents[slot].rare().sends.retain(|open| *open != call);
    }

    /// Without a log nothing is asked twice, so what calls asked for need not stay in memory.
    fn forget_asked(&mut self, slot: u32) {
        let Some(rare) = self.agents[slot].rare.as_deref() else { return };
        for call in &rare.calls {
            self.calls.forget_asked(*call);
        }
    }

    /// Does what an agent asked for itself, and lets the result wait for its next turn.
    fn do_own(&mut self, now: Nanos, slot: u32, own: Own, call: Option<CallId>) {
        let result = match own {
            Own::Checkpoint { label } => {
                let verb = Verb::Checkpoint { label: label.clone() };
                let checked = self.config.check_verb(&verb);
                checked.and_then(|()| self.checkpoint(now, slot, label))
            }
            Own::Fork { count } => {
                let plan = ForkPlan::own(count, call);
                let (at, suffix, keep_timers) = (None, None, false);
                let checked =
                    self.config.check_verb(&Verb::Fork { count, at, suffix, keep_timers });
                checked.and_then(|()| self.fork(now, slot, &plan))
            }
            Own::Rollback { label } => {
                let to = label.map(VersionRef::Label);
                self.rollback(slot, to.as_ref(), Requests::Stay)
            }
        };
        let id = self.agents[slot].id;
        if let Some(call) = call {
            self.answer(now, id, call, result);
        }
    }
}
