//! Answers, and requests that stay open until their agent gives one.
//!
//! Owns: who is told what, also the retries that wait with a request, and what becomes of open
//! requests when their agent changes under them.  Not: turns.
//! Z1  a request that stays open is answered once: by its agent, or when that cannot come any more.

use super::Partition;
use super::calls::OpenRequest;
use super::dedupe::Seen;
use super::verbs::Requests;
use crate::behaviour::RequestId;
use crate::refusal::Refusal;
use crate::verb::{Origin, Reply};
use bytes::Bytes;
use std::borrow::Cow;

impl Partition {
    /// Answers a message, and the retries that waited with it.
    pub(super) fn settle(
        &mut self,
        slot: u32,
        origin: Origin,
        request_id: Option<Bytes>,
        result: Result<Option<Bytes>, Refusal>,
    ) {
        if let Some(id) = request_id {
            let count_max = self.config.dedupe_count_max();
            let dedupe = &mut self.agents[slot].rare().dedupe;
            for waiter in dedupe.close(&id, result.as_ref().ok(), count_max) {
                self.reply(waiter, result.clone().map(Reply::Payload));
            }
        }
        self.reply(origin, result.map(Reply::Payload));
    }

    /// Whether `id` was seen before; then `origin` has its answer, or waits for it.
    pub(super) fn is_retry(&mut self, slot: u32, id: &[u8], origin: Origin) -> bool {
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

    pub(super) fn answer_open(
        &mut self,
        slot: u32,
        request: u32,
        result: Result<Option<Bytes>, Refusal>,
    ) {
        let open = self.calls.request(request);
        if !std::mem::replace(&mut open.answered, true) {
            let (origin, request_id) = (open.origin, open.request_id.take());
            self.settle(slot, origin, request_id, result);
        }
    }

    /// One call of a request is gone. With the last one goes the request, which nobody can answer
    /// any more: if it has no answer yet, it gets the empty one.
    pub(super) fn close_call(&mut self, slot: u32, request: u32) {
        if let Some(open) = self.calls.close(request)
            && !open.answered
        {
            self.settle(slot, open.origin, open.request_id, Ok(None));
        }
    }

    /// Answers a request that the agent kept open, and the retries that wait with it.
    pub(super) fn answer_held(
        &mut self,
        slot: u32,
        id: RequestId,
        result: Result<Option<Bytes>, Refusal>,
    ) {
        let agent = &mut self.agents[slot];
        let Some(held) = self.calls.take_held(agent.id, id) else {
            self.counters.late_replies += 1;
            return;
        };
        agent.rare().held.retain(|open| *open != id);
        self.settle(slot, held.origin, held.request_id, result);
    }

    pub(super) fn answer_all_held(&mut self, slot: u32, refusal: &Refusal) {
        let Some(rare) = self.agents[slot].rare.as_mut() else { return };
        for id in std::mem::take(&mut rare.held) {
            self.answer_held(slot, id, Err(refusal.clone()));
        }
    }

    /// An agent that keeps requests open and awaits nothing will never answer them.
    pub(super) fn answer_stuck(&mut self, slot: u32) {
        let agent = &self.agents[slot];
        let Some(rare) = &agent.rare else { return };
        if rare.held.is_empty() || !rare.calls.is_empty() || rare.restored.is_some() {
            return;
        }
        let refusal = Refusal::Fault {
            key: agent.key.as_str().into(),
            version: agent.versions.head(),
            reason: "the handler awaits something that cannot come: it has no call, sleep or \
                     request open"
                .into(),
        };
        self.answer_all_held(slot, &refusal);
    }

    /// Gives up a turn that has paused; its request is answered as dropped.
    pub(super) fn abandon(&mut self, slot: u32, why: &'static str) {
        let agent = &mut self.agents[slot];
        let Some(serving) = agent.rare.as_mut().and_then(|rare| rare.paused.take()) else { return };
        self.templates.behaviour(agent.template).forget(agent.id, &mut self.store);
        let key = agent.key.as_str().into();
        let dropped = Refusal::Dropped { key, why: why.into() };
        self.finish_failed(slot, serving, dropped);
    }

    /// Ends all sends of an agent that ends: they are out, and nobody asks for them again.
    pub(super) fn drop_sends(&mut self, slot: u32) {
        let Some(rare) = self.agents[slot].rare.as_mut() else { return };
        for call in std::mem::take(&mut rare.sends) {
            self.calls.end_send(call);
        }
    }

    /// Ends all calls of an agent; the requests that they kept open are answered as dropped.
    pub(super) fn drop_calls(&mut self, slot: u32, why: &'static str, requests: Requests) {
        if requests == Requests::Drop {
            let key = self.agents[slot].key.as_str().into();
            self.answer_all_held(slot, &Refusal::Dropped { key, why: why.into() });
        }
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
