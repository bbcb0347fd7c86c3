//! Calls that agents have made, and the requests that stay open until they return.
//!
//! Owns: which call belongs to which agent and request, and their deadlines.  Not: results (they
//! wait in the mailbox) and answers (`partition/turns.rs`).
//! Y1  a call returns once: by its result, its deadline, or by being dropped with its agent.
//! Y2  ids count up and every call has the same time-out, so the lowest id is the next overdue.
//! Y3  a request is open while calls of it are; when the last one goes it is closed.

use crate::id::{AgentId, CallId, Nanos};
use crate::slots::Slots;
use crate::verb::Origin;
use bytes::Bytes;
use std::collections::BTreeMap;

/// A request whose turn called and did not reply.
#[derive(Debug)]
pub(super) struct OpenRequest {
    pub(super) origin: Origin,
    pub(super) request_id: Option<Bytes>,
    /// Whether the origin has had its answer.
    pub(super) answered: bool,
    pub(super) call_count: u32,
}

#[derive(Debug)]
struct Call {
    agent: AgentId,
    request: u32,
    deadline: Nanos,
}

/// All calls of a partition's agents.
#[derive(Default)]
pub(super) struct Calls {
    /// Sent, not returned.
    open: BTreeMap<CallId, Call>,
    /// Returned; the result waits in the agent's mailbox.
    returned: BTreeMap<CallId, Call>,
    requests: Slots<OpenRequest>,
}

impl Calls {
    /// Notes a request that calls will answer; at least one [`Calls::open`] follows.
    pub(super) fn open_request(&mut self, request: OpenRequest) -> u32 {
        self.requests.insert(request)
    }

    pub(super) fn request(&mut self, request: u32) -> &mut OpenRequest {
        &mut self.requests[request]
    }

    /// Notes a call of `agent` that belongs to `request` (Y2).
    pub(super) fn open(&mut self, call: CallId, agent: AgentId, request: u32, deadline: Nanos) {
        let last = self.open.last_key_value();
        let in_order = last.is_none_or(|(id, last)| *id < call && last.deadline <= deadline);
        assert!(in_order, "Y2: call {call:?} is out of order");
        self.requests[request].call_count += 1;
        self.open.insert(call, Call { agent, request, deadline });
    }

    /// Marks an open call of `agent` as returned; whether there was one (Y1).
    pub(super) fn note_return(&mut self, agent: AgentId, call: CallId) -> bool {
        if self.open.get(&call).is_none_or(|open| open.agent != agent) {
            return false;
        }
        let open = self.open.remove(&call).expect("Y1: looked up above");
        self.returned.insert(call, open);
        true
    }

    /// Forgets a returned call of `agent`, whose turn has come; its request, if it still counts.
    pub(super) fn take_returned(&mut self, agent: AgentId, call: CallId) -> Option<u32> {
        if self.returned.get(&call)?.agent != agent {
            return None;
        }
        self.returned.remove(&call).map(|call| call.request)
    }

    /// Forgets a call, open or returned; its request.
    pub(super) fn drop_call(&mut self, call: CallId) -> u32 {
        let call = self.open.remove(&call).or_else(|| self.returned.remove(&call));
        call.expect("Y1: an agent lists only calls that count").request
    }

    /// One call of `request` is gone; the request itself when that was the last (Y3).
    pub(super) fn close(&mut self, request: u32) -> Option<OpenRequest> {
        let open = &mut self.requests[request];
        open.call_count -= 1;
        (open.call_count == 0).then(|| self.requests.remove(request))
    }

    /// When the next call is overdue.
    pub(super) fn deadline_next(&self) -> Option<Nanos> {
        self.open.first_key_value().map(|(_, call)| call.deadline)
    }

    /// A call that is overdue at `now`, and its agent.
    pub(super) fn overdue(&self, now: Nanos) -> Option<(AgentId, CallId)> {
        let (id, call) = self.open.first_key_value()?;
        (call.deadline <= now).then_some((call.agent, *id))
    }

    /// Calls open or returned, and requests open.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.open.len() + self.returned.len(), self.requests.count() as usize)
    }
}
