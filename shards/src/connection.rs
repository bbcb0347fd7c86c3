//! The connections of one shard: sockets on one side, sessions of the gateway on the other.
//!
//! Owns: connection slots, what is in flight on each socket, spare send buffers.
//! Not: the bytes' meaning (gateway), the sockets themselves (driver).
//! C1  at most one send and one receive are in flight per connection.
//! C2  a slot is reused only after every operation on its socket has ended, and under a new
//!     generation, so that neither a completion nor an answer reaches the slot's next user.
//! C3  a connection whose client has finished sending, or whose shard stops, is closed after its
//!     last answer is sent.
//! C4  a connection is closed only when nothing of its client can be left unread, for the kernel
//!     would answer that with a reset, which takes the last replies with it. Until then it lingers:
//!     half closed, once and after its last send, and what arrives is discarded.  The exceptions
//!     bound what a client can hold: `LINGER_BYTES_MAX`, `REFUSED_COUNT_MAX`, the shard's end.

use crate::driver::{Done, Handle, Op, Token};
use crate::gateway::{Ask, Gateway, NodeView};
use heronry_engine::{Origin, Refusal, Reply, Request};

/// Send buffers above this capacity are dropped instead of kept for reuse.
const SPARE_BYTES_MAX: usize = 256 << 10;
/// Most send buffers kept for reuse.
const SPARE_COUNT_MAX: usize = 64;

/// Most bytes that a lingering connection discards: the largest payload that can be configured,
/// four times over.
const LINGER_BYTES_MAX: u64 = 256 << 20;
/// Most connections past the limit that linger at a time.
const REFUSED_COUNT_MAX: u32 = 64;

/// What an operation's token says: which kind of operation, on which listener, connection or link.
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
    /// Receive on the link to the control thread.
    LinkReceive,
    /// Send on that link.
    LinkSend,
    /// Write to the log; the closing of its files, too, which does not complete.
    LogWrite,
    /// Zeros ahead of the log's writes.
    LogAhead,
    /// Read of a record, by the number of the read.
    LogRead(u32),
    /// Read at a start, by the number of the piece.
    LogScan(u32),
}

impl Mark {
    /// Packs the mark into a token.
    pub fn token(self) -> Token {
        let (kind, idx) = match self {
            Mark::Accept(idx) => (0u64, idx),
            Mark::AcceptAgain(idx) => (1, idx),
            Mark::Receive(idx) => (2, idx),
            Mark::Send(idx) => (3, idx),
            Mark::LinkReceive => (4, 0),
            Mark::LinkSend => (5, 0),
            Mark::LogWrite => (6, 0),
            Mark::LogRead(idx) => (7, idx),
            Mark::LogScan(idx) => (8, idx),
            Mark::LogAhead => (9, 0),
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
            4 => Mark::LinkReceive,
            5 => Mark::LinkSend,
            6 => Mark::LogWrite,
            7 => Mark::LogRead(idx),
            8 => Mark::LogScan(idx),
            9 => Mark::LogAhead,
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
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Receive {
    Armed,
    Cancelling,
    /// Not in flight; the client may still be sending.
    Idle,
    /// Nothing more comes, or nobody would look at it.
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Half closed, waiting for the client to finish (C4).
    Lingering {
        discarded_bytes: u64,
    },
    Closed,
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
        let crowded = self.open_count >= self.open_count_max.saturating_add(REFUSED_COUNT_MAX);
        let slot = &mut self.slots[idx as usize];
        assert!(slot.connection.is_none(), "C2: slot {idx} was free and in use");
        slot.connection = Some(Connection {
            handle,
            session,
            unanswered_count: 0,
            receive: if crowded { Receive::Over } else { Receive::Idle },
            sending: false,
            unsettled: false,
            held: false,
            finished: refused || self.finishing,
            broken: false,
            stage: Stage::Serving,
        });
        self.open_count += 1;
        arm(&mut self.slots, idx, todo);
        self.unsettle(idx);
    }

    /// A receive's completion.
    pub fn received(&mut self, idx: u32, done: Done<'_>, node: &dyn NodeView, todo: &mut Todo) {
        let connection = open(&mut self.slots, idx);
        match done {
            Done::Received(bytes) => {
                self.traffic.received_bytes += bytes.len() as u64;
                if let Stage::Lingering { discarded_bytes } = &mut connection.stage {
                    *discarded_bytes += bytes.len() as u64;
                    if *discarded_bytes > LINGER_BYTES_MAX {
                        self.unsettle(idx);
                    }
                    return;
                }
                let closed = connection.stage == Stage::Closed;
                if connection.broken || connection.finished || closed {
                    return;
                }
                self.gateway.receive(&mut connection.session, bytes, node, &mut self.asks);
                self.queue_asks(idx, todo);
            }
            Done::EndOfStream => {
                connection.receive = Receive::Over;
                connection.finished = true;
            }
            Done::Cancelled => connection.receive = Receive::Idle,
            Done::Failed { .. } => {
                connection.receive = Receive::Over;
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

    /// Listens to nobody any more: each connection closes after its last answer is sent (C3).
    pub fn finish(&mut self) {
        self.finishing = true;
        for idx in 0..self.slots.len() as u32 {
            let Some(connection) = self.slots[idx as usize].connection.as_mut() else { continue };
            connection.finished = true;
            self.unsettle(idx);
        }
    }

    /// Closes everything at the end of the shard's life. Unsent output is dropped.
    pub fn close_all(&mut self, todo: &mut Todo) {
        for slot in &mut self.slots {
            if let Some(connection) = slot.connection.as_mut()
                && connection.stage != Stage::Closed
            {
                close(connection, todo);
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
            origin: Origin::Connection { conn: idx, generation, seq: ask.seq, ack: ask.ack },
        }));
    }

    fn settle_hold(&mut self, idx: u32, node: &dyn NodeView, todo: &mut Todo) {
        let connection = open(&mut self.slots, idx);
        let serving = connection.stage == Stage::Serving && !connection.broken;
        if !serving || self.gateway.closing(&connection.session) {
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
            (false, Receive::Idle) => arm(&mut self.slots, idx, todo),
            _ => {}
        }
    }

    fn settle_send(&mut self, idx: u32, todo: &mut Todo) {
        let connection = open(&mut self.slots, idx);
        if connection.sending || connection.broken || connection.stage != Stage::Serving {
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
        let connection = open(&mut self.slots, idx);
        let over = connection.broken || connection.receive == Receive::Over;
        match connection.stage {
            Stage::Serving => {
                let quiet =
                    !connection.sending && self.gateway.output(&mut connection.session).is_empty();
                let answered = connection.unanswered_count == 0 && !connection.held;
                let done =
                    connection.finished && answered || self.gateway.closing(&connection.session);
                if connection.broken || (done && quiet && over) {
                    close(connection, todo);
                } else if done && quiet {
                    connection.stage = Stage::Lingering { discarded_bytes: 0 };
                    todo.ops.push((Token(0), Op::Shutdown(connection.handle)));
                    arm(&mut self.slots, idx, todo);
                }
            }
            Stage::Lingering { discarded_bytes } => {
                if over || discarded_bytes > LINGER_BYTES_MAX {
                    close(connection, todo);
                } else {
                    arm(&mut self.slots, idx, todo);
                }
            }
            Stage::Closed => {}
        }
        self.free_closed(idx);
    }

    /// Gives the slot of a closed connection to the next, once nothing is in flight on it (C2).
    fn free_closed(&mut self, idx: u32) {
        let slot = &mut self.slots[idx as usize];
        let connection = slot.connection.as_ref().expect("C2: the slot is open");
        let receiving = matches!(connection.receive, Receive::Armed | Receive::Cancelling);
        let quiet = !receiving && !connection.sending && !connection.unsettled;
        if connection.stage == Stage::Closed && quiet {
            slot.connection = None;
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(idx);
            self.open_count -= 1;
        }
    }
}

/// Starts the connection's receive, unless it is in flight or over (C1).
fn arm<S>(slots: &mut [Slot<S>], idx: u32, todo: &mut Todo) {
    let connection = open(slots, idx);
    if connection.receive == Receive::Idle {
        connection.receive = Receive::Armed;
        todo.ops.push((Mark::Receive(idx).token(), Op::Receive(connection.handle)));
    }
}

fn close<S>(connection: &mut Connection<S>, todo: &mut Todo) {
    connection.stage = Stage::Closed;
    todo.ops.push((Token(0), Op::Close(connection.handle)));
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
    use crate::gateway::{ShardRow, TemplateRow};
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
        fn templates(&self) -> Vec<TemplateRow> {
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

    fn texts(ops: Vec<(Token, String)>) -> Vec<String> {
        ops.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn c3_a_stopping_shard_closes_a_connection_after_its_last_answer() {
        let (mut all, mut todo) = (Connections::new(Dots, 8), Todo::default());
        all.accepted(Handle(7), &mut todo);
        all.accepted(Handle(8), &mut todo);
        all.received(0, Done::Received(b"ab"), &Node, &mut todo);
        assert_eq!(ops(&mut all, &mut todo).len(), 2);
        all.finish();
        let close = |handle| format!("{:?}", Op::Close(Handle(handle)));
        let shutdown = |handle| format!("{:?}", Op::Shutdown(Handle(handle)));
        assert_eq!(texts(ops(&mut all, &mut todo)), [shutdown(8)]);
        all.received(1, Done::EndOfStream, &Node, &mut todo);
        assert_eq!(texts(ops(&mut all, &mut todo)), [close(8)]);
        // What comes now is too late, and there are two answers to wait for.
        all.received(0, Done::Received(b"c"), &Node, &mut todo);
        assert_eq!((ops(&mut all, &mut todo).len(), all.open_count()), (0, 1));
        for request in std::mem::take(&mut todo.requests) {
            let Origin::Connection { conn, generation, seq, .. } = request.origin else {
                panic!("a request of a connection")
            };
            all.answer((conn, generation, seq), Ok(Reply::Done));
        }
        let sends = ops(&mut all, &mut todo);
        assert_eq!(sends.len(), 1);
        assert_eq!(sends[0].0, Mark::Send(0).token());
        all.sent(0, Done::Sent(b"..".to_vec()));
        assert_eq!(texts(ops(&mut all, &mut todo)), [shutdown(7)]);
        all.received(0, Done::EndOfStream, &Node, &mut todo);
        assert_eq!(texts(ops(&mut all, &mut todo)), [close(7)]);
        assert_eq!(all.open_count(), 0);
        // One that was accepted on the way ends at once.
        all.accepted(Handle(9), &mut todo);
        let receive = format!("{:?}", Op::Receive(Handle(9)));
        assert_eq!(texts(ops(&mut all, &mut todo)), [receive, shutdown(9)]);
    }

    #[test]
    fn c4_a_done_connection_discards_until_its_client_is_done_too() {
        let (mut all, mut todo) = (Connections::new(Dots, 1), Todo::default());
        let close = |handle| format!("{:?}", Op::Close(Handle(handle)));
        let shutdown = |handle| format!("{:?}", Op::Shutdown(Handle(handle)));
        all.accepted(Handle(6), &mut todo);
        ops(&mut all, &mut todo);
        // Past the limit: told so, then half closed, once.
        let refused = |all: &mut Connections<Dots>, todo: &mut Todo, idx| {
            all.accepted(Handle(7), todo);
            let sends = ops(all, todo);
            assert_eq!(sends[0].0, Mark::Receive(idx).token());
            assert_eq!(sends[1].0, Mark::Send(idx).token());
            all.received(idx, Done::Received(b"early"), &Node, todo);
            assert!(ops(all, todo).is_empty(), "the send is still in flight");
            all.sent(idx, Done::Sent(b"no".to_vec()));
            assert_eq!(texts(ops(all, todo)), [shutdown(7)]);
        };
        let failed = || Done::Failed { errno: 104 };
        for end in [|| Done::EndOfStream, failed] {
            refused(&mut all, &mut todo, 1);
            for _ in 0..3 {
                all.received(1, Done::Received(b"late"), &Node, &mut todo);
                assert!(ops(&mut all, &mut todo).is_empty());
            }
            assert_eq!((todo.requests.len(), all.open_count()), (0, 2));
            all.received(1, end(), &Node, &mut todo);
            assert_eq!(texts(ops(&mut all, &mut todo)), [close(7)]);
            assert_eq!(all.open_count(), 1);
        }
        // A client that never ends is not heard for ever.
        refused(&mut all, &mut todo, 1);
        let chunk = vec![0; 1 << 20];
        for _ in 0..LINGER_BYTES_MAX >> 20 {
            all.received(1, Done::Received(&chunk), &Node, &mut todo);
        }
        assert!(ops(&mut all, &mut todo).is_empty());
        all.received(1, Done::Received(b"."), &Node, &mut todo);
        assert_eq!(texts(ops(&mut all, &mut todo)), [close(7)]);
        all.received(1, Done::Cancelled, &Node, &mut todo);
        assert_eq!((ops(&mut all, &mut todo).len(), all.open_count()), (0, 1));
        // Nor do those past the limit pile up.
        for _ in 0..REFUSED_COUNT_MAX {
            all.accepted(Handle(8), &mut todo);
        }
        ops(&mut all, &mut todo);
        all.accepted(Handle(9), &mut todo);
        let idx = REFUSED_COUNT_MAX + 1;
        assert_eq!(ops(&mut all, &mut todo)[0].0, Mark::Send(idx).token());
        all.sent(idx, Done::Sent(b"no".to_vec()));
        assert_eq!(texts(ops(&mut all, &mut todo)), [close(9)]);
    }
}
