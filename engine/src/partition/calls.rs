//! Calls that agents have made, and the requests that stay open until they return.
//!
//! Owns: which call belongs to which agent and request, their deadlines, what they asked for, and
//! requests that agents keep open by name.  Not: results (they wait in the mailbox) and answers
//! (`partition/answers.rs`).
//! Y1  a call returns once: by its result, its deadline, or by being dropped with its agent.
//! Y2  every call that can be overdue is in the list of times, a sleep under its end.
//! Y3  a request is open while calls of it are; when the last one goes it is closed.
//! Y4  a held request is in its agent's list, and goes with one answer.
//! Y5  a send is a call that nobody awaits: it has no request, and is kept, where there is a log,
//!     until its receiver has it on disk.

use crate::behaviour::RequestId;
use crate::id::{AgentId, CallId, Nanos};
use crate::key::AgentKey;
use crate::slots::{NIL, Slots};
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

/// What a call asks for, as far as it is needed again.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// A message to another agent; kept where there is a log.
    Message { to: AgentKey, payload: Bytes },
    /// An HTTP request; kept where there is a log.
    Http { request: Bytes, idempotency: String },
    /// Nothing but to be told when it is time.
    Sleep,
    /// Something done to the agent itself, at once.
    Own,
    /// Anything else, where there is no log.
    Unkept,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) agent: AgentId,
    /// [`NIL`] for a send (Y5).
    pub(super) request: u32,
    /// When it is overdue, or a sleep over.
    pub(super) deadline: Nanos,
    pub(super) asked: Asked,
    /// When to send it once more, if that is due.
    again_at: Option<Nanos>,
}

impl Call {
    fn due_at(&self) -> Option<Nanos> {
        let deadline = (self.request != NIL).then_some(self.deadline);
        self.again_at.into_iter().chain(deadline).min()
    }
}

/// A request that its agent answers by name, in whatever turn.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) agent: AgentId,
    pub(super) origin: Origin,
    pub(super) request_id: Option<Bytes>,
}

/// A call whose time has come.
pub(super) enum Overdue {
    /// It gets no result any more; a sleep ends so, and well.
    Ended { agent: AgentId, call: CallId, sleep: bool },
    /// It is to be sent once more.
    Again(CallId),
}

/// All calls of a partition's agents.
#[derive(Default)]
pub(super) struct Calls {
    /// Asked for, not returned.
    open: BTreeMap<CallId, Call>,
    /// Those of the open ones whose time may come, by time (Y2).
    due: BTreeSet<(Nanos, CallId)>,
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

    /// The same, to look at.
    pub(super) fn seen_request(&self, request: u32) -> &OpenRequest {
        &self.requests[request]
    }

    /// Notes a call of `agent` that belongs to `request` and is overdue, or over, at `deadline`.
    pub(super) fn open(
        &mut self,
        call: CallId,
        agent: AgentId,
        request: u32,
        deadline: Nanos,
        asked: Asked,
    ) {
        self.requests[request].call_count += 1;
        self.insert(call, Call { agent, request, deadline, asked, again_at: None });
    }

    /// Notes a send (Y5).
    pub(super) fn send(&mut self, call: CallId, agent: AgentId, asked: Asked) {
        let deadline = Nanos(u64::MAX);
        self.insert(call, Call { agent, request: NIL, deadline, asked, again_at: None });
    }

    fn insert(&mut self, id: CallId, call: Call) {
        self.due.extend(call.due_at().map(|at| (at, id)));
        self.open.insert(id, call);
    }

    /// An open call, or one whose result waits.
    pub(super) fn find(&self, call: CallId) -> Option<&Call> {
        self.open.get(&call).or_else(|| self.returned.get(&call))
    }

    /// Marks an open call of `agent` as returned; whether there was one (Y1).
    pub(super) fn note_return(&mut self, agent: AgentId, call: CallId) -> bool {
        if self.open.get(&call).is_none_or(|open| open.agent != agent) {
            return false;
        }
        let open = self.take_open(call).expect("Y1: looked up above");
        self.returned.insert(call, open);
        true
    }

    /// Whether an open call is a send of `agent`.
    pub(super) fn is_send(&self, agent: AgentId, call: CallId) -> bool {
        self.open.get(&call).is_some_and(|open| open.agent == agent && open.request == NIL)
    }

    /// Ends a send.
    pub(super) fn end_send(&mut self, call: CallId) {
        self.take_open(call);
    }

    /// Lets an open call be sent once more at `at`; whether what it asked is kept.
    pub(super) fn again(&mut self, agent: AgentId, call: CallId, at: Nanos) -> bool {
        let Some(open) = self.open.get_mut(&call) else { return false };
        if open.agent != agent || !matches!(open.asked, Asked::Message { .. }) {
            return false;
        }
        if let Some(before) = open.due_at() {
            self.due.remove(&(before, call));
        }
        open.again_at = Some(at);
        self.due.extend(open.due_at().map(|at| (at, call)));
        true
    }

    /// Drops what a call asked for, but for a sleep.
    pub(super) fn forget_asked(&mut self, call: CallId) {
        if let Some(open) = self.open.get_mut(&call)
            && !matches!(open.asked, Asked::Sleep)
        {
            open.asked = Asked::Unkept;
        }
    }

    fn take_open(&mut self, call: CallId) -> Option<Call> {
        let open = self.open.remove(&call)?;
        if let Some(at) = open.due_at() {
            self.due.remove(&(at, call));
        }
        Some(open)
    }

    /// Keeps a request open under `id` (Y4).
    pub(super) fn hold(&mut self, id: RequestId, held: Held) {
        self.held.insert(id, held);
    }

    /// A request that is kept open.
    pub(super) fn held(&self, id: RequestId) -> Option<&Held> {
        self.held.get(&id)
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

    /// When the time of the next call comes.
    pub(super) fn deadline_next(&self) -> Option<Nanos> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A call whose time has come at `now`; one to be sent again is not due again for that.
    pub(super) fn overdue(&mut self, now: Nanos) -> Option<Overdue> {
        let &(at, call) = self.due.first().filter(|(at, _)| *at <= now)?;
        let open = self.open.get_mut(&call).expect("Y2: a call that may be due is open");
        if open.again_at == Some(at) && (open.request == NIL || open.deadline > now) {
            open.again_at = None;
            let next = open.due_at();
            self.due.pop_first();
            self.due.extend(next.map(|at| (at, call)));
            return Some(Overdue::Again(call));
        }
        let sleep = matches!(open.asked, Asked::Sleep);
        Some(Overdue::Ended { agent: open.agent, call, sleep })
    }

    /// Calls open or returned, and requests open.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.open.len() + self.returned.len(), self.requests.count() as usize)
    }
}
