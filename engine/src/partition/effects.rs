//! What turns ask for: messages, sleeps, HTTP requests, and changes to the agent itself.
//!
//! Owns: how the draft of a sealed turn becomes events and calls.  Not: when (`turns.rs`).
//! X1  effects leave in the order in which the turn asked for them; what it asks for itself is done
//!     after that.

use super::Partition;
use super::branches::ForkPlan;
use super::verbs::Requests;
use crate::behaviour::{Effect, EffectKind, Own};
use crate::id::{CallId, Nanos};
use crate::verb::{Ack, Errand, Event, Origin, Request, Target, Verb, VersionRef};

impl Partition {
    /// Turns the draft's effects into events; its calls belong to `request`. What the agent asks to
    /// be done to itself is done last, in order.
    pub(super) fn release_effects(&mut self, now: Nanos, slot: u32, request: Option<u32>) {
        let agent = &mut self.agents[slot];
        let id = agent.id;
        let timeout = now.after(self.config.call_timeout);
        let mut owns = Vec::new();
        for Effect { kind, call } in self.draft.effects.drain(..) {
            let origin = match call {
                None => Origin::Nobody,
                Some(call) => {
                    let request = request.expect("W3: a turn with calls has a request");
                    if let EffectKind::Sleep { until } = kind {
                        self.calls.sleep(call, id, request, until);
                    } else {
                        self.calls.open(call, id, request, timeout);
                    }
                    agent.rare().calls.push(call);
                    Origin::Agent { id, call }
                }
            };
            match kind {
                EffectKind::Message { to, payload } => self.events.push(Event::Deliver(Request {
                    target: Target::agent(agent.tenant, to),
                    verb: Verb::Send { payload, request_id: None },
                    ack: Ack::Sealed,
                    deadline: call.map(|_| timeout),
                    origin,
                })),
                EffectKind::Http { request } => {
                    let version = agent.versions.head().0;
                    let sequence = call.map_or(0, |call| call.0);
                    let idempotency = format!("{:032x}-{version}-{sequence}", id.0);
                    let agent = agent.key.clone();
                    let errand = Errand::Http { agent, request, idempotency };
                    self.events.push(Event::Errand { to: origin, errand });
                }
                EffectKind::Sleep { .. } => {}
                EffectKind::Own(own) => owns.push((own, call)),
            }
        }
        for (own, call) in owns {
            self.do_own(now, slot, own, call);
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
