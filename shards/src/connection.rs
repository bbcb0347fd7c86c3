//! The connections of one shard: sockets on one side, sessions of the gateway on the other.
//!
//! Owns: connection slots, what is in flight on each socket, spare send buffers.
//! Not: the bytes' meaning (gateway), the sockets themselves (driver).
//! C1  at most one send and one receive are in flight per connection.
//! C2  a slot is reused only after every operation on its socket has ended, and under a new
//!     generation, so that neither a completion nor an answer reaches the slot's next user.
//! C3  a connection whose client has finished sending, or whose shard stops, is closed after its
//!     last answer is sent.

use crate::driver::{Done, Handle, Op, Token};
use crate::gateway::{Ask, Gateway, NodeView};
use heronry_engine::{Origin, Refusal, Reply, Request};

/// Send buffers above this capacity are dropped instead of kept for reuse.
const SPARE_BYTES_MAX: usize = 256 << 10;
/// Most send buffers kept for reuse.
const SPARE_COUNT_MAX: usize = 64;

/// What an operation's token says: which kind of operation, on which listener or connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Accept on the listener of this index.
    Accept(u32),
    /// Time to accept again after a failure.
    AcceptAgain(u32),
    /// Receive on the connection in this slot.
    Receive(u32),
    /// Send on the connection in this slot.
    Send(u32),
}

impl Mark {
    /// Packs the mark into a token.
    pub fn token(self) -> Token {
        let (kind, idx) = match self {
            Mark::Accept(idx) => (0u64, idx),
            Mark::AcceptAgain(idx) => (1, idx),
            Mark::Receive(idx) => (2, idx),
            Mark::Send(idx) => (3, idx),
        };
        Token(kind << 32 | u64::from(idx))
    }

    /// Unpacks a token that this shard made.
    pub fn of(token: Token) -> Mark {
        let idx = token.0 as u32;
        match token.0 >> 32 {
            0 => Mark::Accept(idx),
            1 => Mark::AcceptAgain(idx),
            2 => Mark::Receive(idx),
            3 => Mark::Send(idx),
            kind => unreachable!("C2: no operation of kind {kind} was submitted"),
        }
    }
}

/// Operations to submit and requests to route, filled by the calls below.
#[derive(Default)]
pub struct Todo {
    /// For the driver.
    pub ops: Vec<(Token, Op)>,
    /// For the partition or a peer.
    pub requests: Vec<Request>,
}

/// Totals that the shard publishes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Traffic {
    /// Connections accepted, those past the limit included.
    pub accepted_count: u64,
    /// Bytes received from clients.
    pub received_bytes: u64,
    /// Bytes sent to clients.
    pub sent_bytes: u64,
}

/// All connections of a shard.
pub struct Connections<G: Gateway> {
    gateway: G,
    slots: Vec<Slot<G::Session>>,
    free: Vec<u32>,
    open_count: u32,
    open_count_max: u32,
    /// No connection is to receive any more.
    finishing: bool,
    unsettled: Vec<u32>,
    spare: Vec<Vec<u8>>,
    asks: Vec<Ask>,
    traffic: Traffic,
}

struct Slot<S> {
    generation: u32,
    connection: Option<Connection<S>>,
}

struct Connection<S> {
    handle: Handle,
    session: S,
    unanswered_count: u32,
    receive: Receive,
    sending: bool,
    unsettled: bool,
    /// The gateway has paused: nothing is decoded until it says otherwise.
    held: bool,
    /// The client will send no more, or is not listened to any more (C3).
    finished: bool,
    /// The socket failed: nothing more can be sent.
    broken: bool,
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Receive {
    Armed,
    Cancelling,
    Ended,
}

impl<G: Gateway> Connections<G> {
    /// No connections yet; at most `open_count_max` later.
    pub fn new(gateway: G, open_count_max: u32) -> Connections<G> {
        Connections {
            gateway,
            slots: Vec::new(),
            free: Vec::new(),
            open_count: 0,
            open_count_max,
            finishing: false,
            unsettled: Vec::new(),
            spare: Vec::new(),
            asks: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    /// How many are open.
    pub fn open_count(&self) -> u32 {
        self.open_count
    }

    /// Totals since the start.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Takes a new socket in; past the limit its session only says so.
    pub fn accepted(&mut self, handle: Handle, todo: &mut Todo) {
        self.traffic.accepted_count += 1;
        let refused = self.open_count >= self.open_count_max;
        let session = match refused {
            true => self.gateway.refuse(self.open_count_max),
            false => self.gateway.open(),
        };
        let idx = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, connection: None });
            u32::try_from(self.slots.len() - 1).expect("C2: slots are bounded by open files")
        });
        let finished = refused || self.finishing;
        let receive = if finished { Receive::Ended } else { Receive::Armed };
        let slot = &mut self.slots[idx as usize];
        assert!(slot.connection.is_none(), "C2: slot {idx} was free and in use");
        slot.connection = Some(Connection {
            handle,
            session,
            unanswered_count: 0,
            receive,
            sending: false,
            unsettled: false,
            held: false,
            finished,
            broken: false,
            closed: false,
        });
        self.open_count += 1;
        if receive == Receive::Armed {
            todo.ops.push((Mark::Receive(idx).token(), Op::Receive(handle)));
        }
        self.unsettle(idx);
    }

    /// A receive's completion.
    pub fn received(&mut self, idx: u32, done: Done<'_>, node: &dyn NodeView, todo: &mut Todo) {
        let connection = open(&mut self.slots, idx);
        match done {
            Done::Received(bytes) => {
                self.traffic.received_bytes += bytes.len() as u64;
                if connection.broken || connection.closed {
                    return;
                }
                self.gateway.receive(&mut connection.session, bytes, node, &mut self.asks);
                self.queue_asks(idx, todo);
            }
            Done::EndOfStream => {
                connection.receive = Receive::Ended;
                connection.finished = true;
            }
            Done::Cancelled => connection.receive = Receive::Ended,
            Done::Failed { .. } => {
                connection.receive = Receive::Ended;
                connection.broken = true;
            }
            other => unreachable!("C1: a receive completed as {other:?}"),
        }
        self.unsettle(idx);
    }

    /// A send's completion.
    pub fn sent(&mut self, idx: u32, done: Done<'_>) {
        let connection = open(&mut self.slots, idx);
        connection.sending = false;
        match done {
            Done::Sent(buffer) => {
                self.traffic.sent_bytes += buffer.len() as u64;
                keep_spare(&mut self.spare, buffer);
            }
            Done::Cancelled | Done::Failed { .. } => connection.broken = true,
            other => unreachable!("C1: a send completed as {other:?}"),
        }
        self.unsettle(idx);
    }

    /// Hands an answer to its session; a connection that is gone has no use for it (C2).
    pub fn answer(
        &mut self,
        (idx, generation, seq): (u32, u32, u64),
        result: Result<Reply, Refusal>,
    ) {
        let slot = &mut self.slots[idx as usize];
        if slot.generation != generation {
            return;
        }
        let Some(connection) = slot.connection.as_mut() else { return };
        assert!(connection.unanswered_count > 0, "V1: an ask was answered twice");
        connection.unanswered_count -= 1;
        if !connection.broken {
            self.gateway.answer(&mut connection.session, seq, result);
        }
        self.unsettle(idx);
    }

    /// Sends, resumes and closes what the events since the last call made possible.
    pub fn settle(&mut self, node: &dyn NodeView, todo: &mut Todo) {
        let mut unsettled = std::mem::take(&mut self.unsettled);
        for idx in unsettled.drain(..) {
            let connection = open(&mut self.slots, idx);
            connection.unsettled = false;
            self.settle_hold(idx, node, todo);
            self.settle_send(idx, todo);
            self.settle_end(idx, todo);
        }
        // Resuming may have unsettled some again; they are for the next call.
        if self.unsettled.is_empty() {
            self.unsettled = unsettled;
        }
    }

    /// Whether `settle` has something to do.
    pub fn unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Receives nothing more: each connection closes after its last answer is sent (C3).
    pub fn finish(&mut self, todo: &mut Todo) {
        self.finishing = true;
        for idx in 0..self.slots.len() as u32 {
            let Some(connection) = self.slots[idx as usize].connection.as_mut() else { continue };
            connection.finished = true;
            if connection.receive == Receive::Armed {
                connection.receive = Receive::Cancelling;
                todo.ops.push((Token(0), Op::Cancel(Mark::Receive(idx).token())));
            }
            self.unsettle(idx);
        }
    }

    /// Closes everything at the end of the shard's life. Unsent output is dropped.
    pub fn close_all(&mut self, todo: &mut Todo) {
        for slot in &mut self.slots {
            if let Some(connection) = slot.connection.as_mut()
                && !connection.closed
            {
                connection.closed = true;
                todo.ops.push((Token(0), Op::Close(connection.handle)));
            }
        }
    }

    fn unsettle(&mut self, idx: u32) {
        let connection = open(&mut self.slots, idx);
        if !connection.unsettled {
            connection.unsettled = true;
            self.unsettled.push(idx);
        }
    }

    /// Turns what the gateway decoded into requests with their origin.
    fn queue_asks(&mut self, idx: u32, todo: &mut Todo) {
        let slot = &mut self.slots[idx as usize];
        let generation = slot.generation;
        let connection = slot.connection.as_mut().expect("C2: the slot is open");
        connection.unanswered_count += self.asks.len() as u32;
        todo.requests.extend(self.asks.drain(..).map(|ask| Request {
            target: ask.target,
            verb: ask.verb,
            ack: ask.ack,
            deadline: ask.deadline,
            origin: Origin::Connection { conn: idx, generation, seq: ask.seq },
        }));
    }

    fn settle_hold(&mut self, idx: u32, node: &dyn NodeView, todo: &mut Todo) {
        let connection = open(&mut self.slots, idx);
        if connection.broken || connection.closed || self.gateway.closing(&connection.session) {
            return;
        }
        // Also when the pause began and ended since the last call: something may be left over.
        if !self.gateway.paused(&connection.session) {
            self.gateway.resume(&mut connection.session, node, &mut self.asks);
            self.queue_asks(idx, todo);
        }
        let connection = open(&mut self.slots, idx);
        connection.held = self.gateway.paused(&connection.session);
        match (connection.held, connection.receive) {
            (true, Receive::Armed) => {
                connection.receive = Receive::Cancelling;
                todo.ops.push((Token(0), Op::Cancel(Mark::Receive(idx).token())));
            }
            (false, Receive::Ended) if !connection.finished => {
                connection.receive = Receive::Armed;
                todo.ops.push((Mark::Receive(idx).token(), Op::Receive(connection.handle)));
            }
            _ => {}
        }
    }

    fn settle_send(&mut self, idx: u32, todo: &mut Todo) {
        let connection = open(&mut self.slots, idx);
        if connection.sending || connection.broken || connection.closed {
            return;
        }
        let output = self.gateway.output(&mut connection.session);
        if output.is_empty() {
            return;
        }
        let bytes = std::mem::replace(output, self.spare.pop().unwrap_or_default());
        connection.sending = true;
        todo.ops.push((Mark::Send(idx).token(), Op::Send(connection.handle, bytes)));
        if connection.held {
            // The output just left the session, so the pause may be over.
            self.unsettle(idx);
        }
    }

    fn settle_end(&mut self, idx: u32, todo: &mut Todo) {
        let slot = &mut self.slots[idx as usize];
        let connection = slot.connection.as_mut().expect("C2: the slot is open");
        let idle = !connection.sending && self.gateway.output(&mut connection.session).is_empty();
        let finished = connection.finished && connection.unanswered_count == 0 && !connection.held;
        let done = finished || self.gateway.closing(&connection.session);
        if !connection.closed && (connection.broken || (done && idle)) {
            connection.closed = true;
            todo.ops.push((Token(0), Op::Close(connection.handle)));
        }
        let quiet = connection.receive == Receive::Ended && !connection.sending;
        if connection.closed && quiet && !connection.unsettled {
            slot.connection = None;
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(idx);
            self.open_count -= 1;
        }
    }
}

/// The open connection in a slot that an operation is in flight for.
fn open<S>(slots: &mut [Slot<S>], idx: u32) -> &mut Connection<S> {
    slots[idx as usize].connection.as_mut().expect("C2: a slot outlives its operations")
}

fn keep_spare(spare: &mut Vec<Vec<u8>>, mut buffer: Vec<u8>) {
    if spare.len() < SPARE_COUNT_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
        buffer.clear();
        spare.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::ShardRow;
    use heronry_engine::verb::Target;
    use heronry_engine::{Ack, Nanos, ShardId, Verb};

    struct Node;

    impl NodeView for Node {
        fn now(&self) -> Nanos {
            Nanos(0)
        }
        fn place(&self) -> (ShardId, u16) {
            (ShardId(0), 1)
        }
        fn shards(&self) -> Vec<ShardRow> {
            Vec::new()
        }
        fn templates(&self) -> Vec<(String, String)> {
            Vec::new()
        }
        fn facts(&self) -> Vec<(&'static str, String)> {
            Vec::new()
        }
    }

    /// Each byte is a request, each answer a full stop.
    struct Dots;

    impl Gateway for Dots {
        type Session = Vec<u8>;
        fn open(&mut self) -> Vec<u8> {
            Vec::new()
        }
        fn refuse(&mut self, _connections_max: u32) -> Vec<u8> {
            b"no".to_vec()
        }
        fn receive(
            &mut self,
            _: &mut Vec<u8>,
            bytes: &[u8],
            _: &dyn NodeView,
            asks: &mut Vec<Ask>,
        ) {
            asks.extend((0..).zip(bytes).map(|(seq, _)| Ask {
                seq,
                target: Target::Shard(ShardId(0)),
                verb: Verb::Hottest,
                ack: Ack::Sealed,
                deadline: None,
            }));
        }
        fn answer(&mut self, session: &mut Vec<u8>, _: u64, _: Result<Reply, Refusal>) {
            session.push(b'.');
        }
        fn resume(&mut self, _: &mut Vec<u8>, _: &dyn NodeView, _: &mut Vec<Ask>) {}
        fn output<'s>(&self, session: &'s mut Vec<u8>) -> &'s mut Vec<u8> {
            session
        }
        fn paused(&self, _: &Vec<u8>) -> bool {
            false
        }
        fn closing(&self, _: &Vec<u8>) -> bool {
            false
        }
    }

    fn ops(connections: &mut Connections<Dots>, todo: &mut Todo) -> Vec<(Token, String)> {
        connections.settle(&Node, todo);
        todo.ops.drain(..).map(|(token, op)| (token, format!("{op:?}"))).collect()
    }

    #[test]
    fn c3_a_stopping_shard_closes_a_connection_after_its_last_answer() {
        let (mut all, mut todo) = (Connections::new(Dots, 8), Todo::default());
        all.accepted(Handle(7), &mut todo);
        all.accepted(Handle(8), &mut todo);
        all.received(0, Done::Received(b"ab"), &Node, &mut todo);
        assert_eq!(ops(&mut all, &mut todo).len(), 2);
        all.finish(&mut todo);
        let cancels = [0, 1].map(|idx| format!("{:?}", Op::Cancel(Mark::Receive(idx).token())));
        let close = |handle| format!("{:?}", Op::Close(Handle(handle)));
        let done: Vec<String> = ops(&mut all, &mut todo).into_iter().map(|(_, op)| op).collect();
        assert_eq!(done, [&cancels[0], &cancels[1], &close(8)].map(String::from));
        for idx in [0, 1] {
            all.received(idx, Done::Cancelled, &Node, &mut todo);
        }
        assert_eq!((ops(&mut all, &mut todo).len(), all.open_count()), (0, 1));
        for request in std::mem::take(&mut todo.requests) {
            let Origin::Connection { conn, generation, seq } = request.origin else {
                panic!("a request of a connection")
            };
            all.answer((conn, generation, seq), Ok(Reply::Done));
        }
        let sends = ops(&mut all, &mut todo);
        assert_eq!(sends.len(), 1);
        assert_eq!(sends[0].0, Mark::Send(0).token());
        all.sent(0, Done::Sent(b"..".to_vec()));
        assert_eq!(ops(&mut all, &mut todo)[0].1, close(7));
        assert_eq!(all.open_count(), 0);
        // One that was accepted on the way is closed at once.
        all.accepted(Handle(9), &mut todo);
        assert_eq!(ops(&mut all, &mut todo)[0].1, close(9));
        assert_eq!(all.open_count(), 0);
    }
}
