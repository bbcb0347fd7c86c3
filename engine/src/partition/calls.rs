//! Calls that agents have made, and the requests that stay open until they return.
//!
//! Owns: which call belongs to which agent and request, their deadlines, and requests that agents
//! keep open by name.  Not: results (they wait in the mailbox) and answers (`partition/turns.rs`).
//! Y1  a call returns once: by its result, its deadline, or by being dropped with its agent.
//! Y2  ids count up and every call has the same time-out, so the lowest id is the next overdue;
//!     sleeps, which are calls of their own length, are ordered beside them.
//! Y3  a request is open while calls of it are; when the last one goes it is closed.
//! Y4  a held request is in its agent's list, and goes with one answer.

use crate::behaviour::RequestId;
use crate::id::{AgentId, CallId, Nanos};
use crate::slots::Slots;
use crate::verb::Origin;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

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

/// A request that its agent answers by name, in whatever turn.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) agent: AgentId,
    pub(super) origin: Origin,
    pub(super) request_id: Option<Bytes>,
}

/// A call whose time has come.
pub(super) struct Overdue {
    pub(super) agent: AgentId,
    pub(super) call: CallId,
    /// Whether that is how it ends well.
    pub(super) sleep: bool,
}

/// All calls of a partition's agents.
#[derive(Default)]
pub(super) struct Calls {
    /// Sent, not returned.
    open: BTreeMap<CallId, Call>,
    /// Sleeps that are not over, and the same by time.
    sleeping: BTreeMap<CallId, Call>,
    wakes: BTreeSet<(Nanos, CallId)>,
    /// Returned; the result waits in the agent's mailbox.
    returned: BTreeMap<CallId, Call>,
    requests: Slots<OpenRequest>,
    held: BTreeMap<RequestId, Held>,
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

    /// As [`Calls::open`], for a call that ends well at `until`.
    pub(super) fn sleep(&mut self, call: CallId, agent: AgentId, request: u32, until: Nanos) {
        self.requests[request].call_count += 1;
        self.sleeping.insert(call, Call { agent, request, deadline: until });
        self.wakes.insert((until, call));
    }

    /// Marks an open call of `agent` as returned; whether there was one (Y1).
    pub(super) fn note_return(&mut self, agent: AgentId, call: CallId) -> bool {
        let open = self.open.get(&call).or_else(|| self.sleeping.get(&call));
        if open.is_none_or(|open| open.agent != agent) {
            return false;
        }
        let open = self.take_open(call).expect("Y1: looked up above");
        self.returned.insert(call, open);
        true
    }

    fn take_open(&mut self, call: CallId) -> Option<Call> {
        if let Some(open) = self.open.remove(&call) {
            return Some(open);
        }
        let sleep = self.sleeping.remove(&call)?;
        self.wakes.remove(&(sleep.deadline, call));
        Some(sleep)
    }

    /// Keeps a request open under `id` (Y4).
    pub(super) fn hold(&mut self, id: RequestId, held: Held) {
        self.held.insert(id, held);
    }

    /// Takes a request that `agent` keeps open, to answer it.
    pub(super) fn take_held(&mut self, agent: AgentId, id: RequestId) -> Option<Held> {
        if self.held.get(&id)?.agent != agent {
            return None;
        }
        self.held.remove(&id)
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
        let call = self.take_open(call).or_else(|| self.returned.remove(&call));
        call.expect("Y1: an agent lists only calls that count").request
    }

    /// One call of `request` is gone; the request itself when that was the last (Y3).
    pub(super) fn close(&mut self, request: u32) -> Option<OpenRequest> {
        let open = &mut self.requests[request];
        open.call_count -= 1;
        (open.call_count == 0).then(|| self.requests.remove(request))
    }

    /// When the next call is overdue or the next sleep over.
    pub(super) fn deadline_next(&self) -> Option<Nanos> {
        let call = self.open.first_key_value().map(|(_, call)| call.deadline);
        let wake = self.wakes.first().map(|(until, _)| *until);
        call.into_iter().chain(wake).min()
    }

    /// A sleep that is over at `now`, or a call that is overdue.
    pub(super) fn overdue(&self, now: Nanos) -> Option<Overdue> {
        if let Some((until, call)) = self.wakes.first()
            && *until <= now
        {
            let agent = self.sleeping[call].agent;
            return Some(Overdue { agent, call: *call, sleep: true });
        }
        let (call, open) = self.open.first_key_value()?;
        let overdue = Overdue { agent: open.agent, call: *call, sleep: false };
        (open.deadline <= now).then_some(overdue)
    }

    /// Calls open or returned, and requests open.
    pub(super) fn counts(&self) -> (usize, usize) {
        let count = self.open.len() + self.sleeping.len() + self.returned.len();
        (count, self.requests.count() as usize)
    }
}
