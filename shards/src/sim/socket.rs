//! Virtual connections: one end is a test's `SimClient`, the other a handle of a shard.
//!
//! Owns: bytes on their way, in pieces and late; closes, resets, the window of a slow reader.
//! Not: when a shard sees them (the loop polls).
//! N1  bytes of a connection arrive whole and in order until it is reset; an end of stream comes
//!     after all bytes before it.
//! N2  a send completes when the last byte has room at the client, as in a kernel's buffers.

use super::{Event, Inner, Open, Outcome, Place, World};
use crate::driver::{Handle, Token};
use heronry_engine::{Nanos, ShardId};
use std::collections::VecDeque;

/// Span within which a connection that is to be reset is reset.
const RESET_WITHIN: Nanos = Nanos::from_ms(1_000);

/// Index of a connection; never reused within a world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ConnIdx(usize);

#[derive(Debug)]
struct Sending {
    token: Token,
    bytes: Vec<u8>,
    done_bytes: usize,
    /// All bytes found room; its completion is on its way.
    ending: bool,
}

/// One connection, both ends of it.
#[derive(Debug)]
pub(super) struct Conn {
    shard: ShardId,
    life: u32,
    listener: Option<Handle>,
    /// The shard's end, while it is open.
    server: Option<Handle>,
    server_closed: bool,
    /// The end of the stream is on its way to the client, or there.
    fin_sent: bool,
    /// When the last thing on its way to the shard arrives.
    to_shard_at: Nanos,
    arrived: VecDeque<Vec<u8>>,
    fin_arrived: bool,
    receive: Option<Token>,
    to_client_at: Nanos,
    to_client_bytes: usize,
    inbox: Vec<u8>,
    send: Option<Sending>,
    client_closed: bool,
    /// The client saw the end of the stream, or a reset.
    client_ended: bool,
    reset: bool,
}

/// A client's end of a virtual connection. Dropping it closes it.
#[derive(Debug)]
pub struct SimClient {
    world: World,
    conn: ConnIdx,
}

impl SimClient {
    pub(super) fn connect(world: &World, shard: ShardId, listener: Option<Handle>) -> SimClient {
        let mut borrowed = world.inner.borrow_mut();
        let inner = &mut *borrowed;
        let now = inner.now;
        let conn = ConnIdx(inner.conns.len());
        let life = inner.seat(shard).life;
        inner.conns.push(Conn {
            shard,
            life,
            listener,
            server: None,
            server_closed: false,
            fin_sent: false,
            to_shard_at: now,
            arrived: VecDeque::new(),
            fin_arrived: false,
            receive: None,
            to_client_at: now,
            to_client_bytes: 0,
            inbox: Vec::new(),
            send: None,
            client_closed: false,
            client_ended: listener.is_none(),
            reset: false,
        });
        if listener.is_some() {
            inner.schedule_to_shard(conn, Event::Arrive(conn));
            if inner.chance(inner.config.resets_per_million) {
                let at = now.after(inner.random_span(RESET_WITHIN));
                inner.schedule(at, Event::Reset(conn));
            }
        }
        drop(borrowed);
        SimClient { world: world.clone(), conn }
    }

    /// Sends bytes; they arrive in pieces, in order. Without effect once closed.
    pub fn send(&self, bytes: &[u8]) {
        let mut inner = self.world.inner.borrow_mut();
        let mut rest = bytes;
        while !rest.is_empty() && !inner.conns[self.conn.0].client_closed {
            let (piece, after) = rest.split_at(inner.piece_bytes(rest.len()));
            inner.schedule_to_shard(self.conn, Event::ToShard(self.conn, piece.to_vec()));
            rest = after;
        }
    }

    /// Takes what has arrived.
    pub fn recv(&self) -> Vec<u8> {
        let mut inner = self.world.inner.borrow_mut();
        let bytes = std::mem::take(&mut inner.conns[self.conn.0].inbox);
        if !bytes.is_empty() {
            inner.pump(self.conn);
        }
        bytes
    }

    /// Bytes that have arrived and were not taken.
    pub fn unread_bytes(&self) -> usize {
        self.world.inner.borrow().conns[self.conn.0].inbox.len()
    }

    /// Closes the sending side: the shard sees the end of the stream, and can still answer.
    pub fn shutdown(&self) {
        let mut inner = self.world.inner.borrow_mut();
        inner.schedule_to_shard(self.conn, Event::FinToShard(self.conn));
    }

    /// Closes both sides.
    pub fn close(&self) {
        let mut inner = self.world.inner.borrow_mut();
        let conn = &mut inner.conns[self.conn.0];
        if conn.client_closed {
            return;
        }
        conn.client_closed = true;
        conn.inbox.clear();
        inner.schedule_to_shard(self.conn, Event::FinToShard(self.conn));
        inner.pump(self.conn);
    }

    /// Whether the shard closed, refused or reset it and nothing is left to take.
    pub fn is_closed(&self) -> bool {
        let inner = self.world.inner.borrow();
        let conn = &inner.conns[self.conn.0];
        conn.client_closed || (conn.client_ended && conn.inbox.is_empty())
    }
}

impl Drop for SimClient {
    fn drop(&mut self) {
        // A test that failed may unwind while the world is in use; then it does not matter.
        if let Ok(inner) = self.world.inner.try_borrow_mut() {
            drop(inner);
            self.close();
        }
    }
}

impl Inner {
    fn piece_bytes(&mut self, bytes_max: usize) -> usize {
        let longest = self.config.chunk_bytes_max.clamp(1, bytes_max);
        // Half of the pieces are as long as can be: short ones only would take too long.
        if self.rng.bool() { longest } else { self.rng.usize(1..=longest) }
    }

    /// Whatever goes to the shard arrives in order (N1).
    fn schedule_to_shard(&mut self, conn: ConnIdx, event: Event) {
        let delay = self.random_span(self.config.network_delay_max);
        let at = self.now.after(delay).max(self.conns[conn.0].to_shard_at);
        self.conns[conn.0].to_shard_at = at;
        self.schedule(at, event);
    }

    fn schedule_to_client(&mut self, conn: ConnIdx, event: Event) {
        let delay = self.random_span(self.config.network_delay_max);
        let at = self.now.after(delay).max(self.conns[conn.0].to_client_at);
        self.conns[conn.0].to_client_at = at;
        self.schedule(at, event);
    }

    /// A completion of the shard's end, unless the shard is dead.
    fn finish_conn(&mut self, conn: ConnIdx, token: Token, outcome: Outcome) {
        let Conn { shard, life, server, .. } = self.conns[conn.0];
        if let Some(seat) = self.seat_of_life(shard, life) {
            seat.finish(token, server, outcome);
        }
    }

    pub(super) fn socket_event(&mut self, event: Event) {
        match event {
            Event::Arrive(conn) => self.arrive(conn),
            Event::ToShard(conn, bytes) => {
                let state = &mut self.conns[conn.0];
                if !state.reset && !state.server_closed {
                    state.arrived.push_back(bytes);
                    self.hand_on(conn);
                }
            }
            Event::FinToShard(conn) => {
                self.conns[conn.0].fin_arrived = true;
                self.hand_on(conn);
            }
            Event::ToClient(conn, bytes) => {
                let state = &mut self.conns[conn.0];
                state.to_client_bytes -= bytes.len();
                if !state.reset && !state.client_closed {
                    state.inbox.extend_from_slice(&bytes);
                }
                self.pump(conn);
            }
            Event::FinToClient(conn) => self.conns[conn.0].client_ended = true,
            Event::Reset(conn) => self.reset(conn),
            Event::SendEnds(conn) => {
                // A later send may be in its place, after a cancel.
                let send = &mut self.conns[conn.0].send;
                if let Some(sending) = send.take_if(|sending| sending.ending) {
                    self.finish_conn(conn, sending.token, Outcome::Sent(sending.bytes));
                }
            }
            Event::Bell(_) | Event::Disk(_) | Event::Alarm => {
                unreachable!("S1: not an event of a connection")
            }
        }
    }

    fn arrive(&mut self, conn: ConnIdx) {
        let Conn { shard, life, listener, .. } = self.conns[conn.0];
        let handles_max = self.config.handles_max;
        let seat = self.seat_of_life(shard, life);
        let found = seat.zip(listener).and_then(|(seat, listener)| {
            let full = seat.open.len() >= handles_max;
            match seat.handles.get_mut(listener) {
                Some(Open::Listener { accept, waiting }) => {
                    let Some(token) = *accept else {
                        waiting.push_back(conn);
                        return Some(None);
                    };
                    if full {
                        waiting.push_back(conn);
                        *accept = None;
                        seat.finish(token, Some(listener), Outcome::Failed(libc::EMFILE));
                        return Some(None);
                    }
                    let server = seat.insert(Open::Socket(conn));
                    seat.finish(token, Some(listener), Outcome::Accepted(server));
                    Some(Some(server))
                }
                _ => None,
            }
        });
        match found {
            Some(server) => self.conns[conn.0].server = server,
            None => self.refuse(conn),
        }
    }

    pub(super) fn refuse(&mut self, conn: ConnIdx) {
        self.conns[conn.0].server_closed = true;
        self.schedule_to_client(conn, Event::FinToClient(conn));
    }

    pub(super) fn accept(&mut self, shard: ShardId, token: Token, listener: Handle) {
        let seat = self.seat(shard);
        let Some(Open::Listener { accept, waiting }) = seat.handles.get_mut(listener) else {
            seat.finish(token, None, Outcome::Failed(libc::EBADF));
            return;
        };
        *accept = Some(token);
        let waiting = std::mem::take(waiting);
        seat.places.insert(token, Place::Accept(listener));
        for conn in waiting {
            self.arrive(conn);
        }
    }

    fn socket_of(&mut self, shard: ShardId, token: Token, socket: Handle) -> Option<ConnIdx> {
        let seat = self.seat(shard);
        match seat.handles.get(socket) {
            Some(Open::Socket(conn)) => Some(*conn),
            _ => {
                seat.finish(token, None, Outcome::Failed(libc::EBADF));
                None
            }
        }
    }

    pub(super) fn receive(&mut self, shard: ShardId, token: Token, socket: Handle) {
        let Some(conn) = self.socket_of(shard, token, socket) else {
            return;
        };
        if self.conns[conn.0].reset {
            self.finish_conn(conn, token, Outcome::Failed(libc::ECONNRESET));
            return;
        }
        self.conns[conn.0].receive = Some(token);
        self.seat(shard).places.insert(token, Place::Receive(conn));
        self.hand_on(conn);
    }

    /// Completes a receive with what has arrived.
    fn hand_on(&mut self, conn: ConnIdx) {
        let state = &mut self.conns[conn.0];
        let Some(token) = state.receive else {
            return;
        };
        let arrived = std::mem::take(&mut state.arrived);
        let ended = state.fin_arrived;
        if ended {
            state.receive = None;
        }
        for bytes in arrived {
            self.finish_conn(conn, token, Outcome::Received(bytes));
        }
        if ended {
            self.finish_conn(conn, token, Outcome::EndOfStream);
        }
    }

    pub(super) fn send(&mut self, shard: ShardId, token: Token, socket: Handle, bytes: Vec<u8>) {
        let Some(conn) = self.socket_of(shard, token, socket) else {
            return;
        };
        let state = &mut self.conns[conn.0];
        assert!(state.send.is_none(), "D3: two sends in flight on {socket:?}");
        assert!(!state.fin_sent, "D3: a send after the shutdown of {socket:?}");
        if state.reset {
            self.finish_conn(conn, token, Outcome::Failed(libc::EPIPE));
            return;
        }
        state.send = Some(Sending { token, bytes, done_bytes: 0, ending: false });
        self.seat(shard).places.insert(token, Place::Send(conn));
        self.pump(conn);
    }

    /// Moves bytes of a send to the client while it has room (N2).
    fn pump(&mut self, conn: ConnIdx) {
        let window_bytes = self.config.window_bytes;
        loop {
            let state = &mut self.conns[conn.0];
            let Some(sending) = &mut state.send else {
                return;
            };
            let rest_bytes = sending.bytes.len() - sending.done_bytes;
            if state.client_closed && rest_bytes > 0 {
                return self.send_to_closed(conn);
            }
            let used_bytes = state.to_client_bytes + state.inbox.len();
            let room_bytes = window_bytes.saturating_sub(used_bytes).min(rest_bytes);
            if room_bytes == 0 {
                if rest_bytes == 0 && !sending.ending {
                    sending.ending = true;
                    let delay = self.random_span(self.config.pass_max);
                    self.schedule(self.now.after(delay), Event::SendEnds(conn));
                }
                return;
            }
            let piece_bytes = self.piece_bytes(room_bytes);
            let state = &mut self.conns[conn.0];
            let Some(sending) = &mut state.send else {
                return;
            };
            let piece = sending.bytes[sending.done_bytes..][..piece_bytes].to_vec();
            sending.done_bytes += piece_bytes;
            state.to_client_bytes += piece_bytes;
            self.schedule_to_client(conn, Event::ToClient(conn, piece));
        }
    }

    /// As a kernel does: bytes may still find room, then the peer's reset comes; or it is known.
    fn send_to_closed(&mut self, conn: ConnIdx) {
        if self.rng.bool() {
            return self.reset(conn);
        }
        if let Some(sending) = &mut self.conns[conn.0].send {
            sending.done_bytes = sending.bytes.len();
        }
        self.pump(conn);
        let at = self.now.after(self.random_span(self.config.network_delay_max));
        self.schedule(at, Event::Reset(conn));
    }

    fn reset(&mut self, conn: ConnIdx) {
        let state = &mut self.conns[conn.0];
        if state.reset || state.server_closed {
            return;
        }
        state.reset = true;
        state.client_ended = true;
        state.arrived.clear();
        if let Some(token) = state.receive.take() {
            self.finish_conn(conn, token, Outcome::Failed(libc::ECONNRESET));
        }
        if let Some(sending) = self.conns[conn.0].send.take() {
            self.finish_conn(conn, sending.token, Outcome::Failed(libc::EPIPE));
        }
    }

    pub(super) fn stop_receive(&mut self, conn: ConnIdx) {
        if let Some(token) = self.conns[conn.0].receive.take() {
            self.finish_conn(conn, token, Outcome::Cancelled);
        }
    }

    pub(super) fn stop_send(&mut self, conn: ConnIdx) {
        if let Some(sending) = self.conns[conn.0].send.take() {
            self.finish_conn(conn, sending.token, Outcome::Cancelled);
        }
    }

    /// The shard closes its end: what it sent still arrives, then the end of the stream.
    pub(super) fn close_socket(&mut self, conn: ConnIdx) {
        self.stop_receive(conn);
        self.stop_send(conn);
        let state = &mut self.conns[conn.0];
        state.server = None;
        state.server_closed = true;
        self.send_fin(conn);
    }

    /// The shard has sent all that it will: the end of the stream follows it (N1).
    pub(super) fn shutdown(&mut self, shard: ShardId, socket: Handle) {
        if let Some(Open::Socket(conn)) = self.seat(shard).handles.get(socket) {
            let conn = *conn;
            assert!(self.conns[conn.0].send.is_none(), "D3: a shutdown during a send");
            self.send_fin(conn);
        }
    }

    fn send_fin(&mut self, conn: ConnIdx) {
        if !std::mem::replace(&mut self.conns[conn.0].fin_sent, true) {
            self.schedule_to_client(conn, Event::FinToClient(conn));
        }
    }

    /// The shard died: its kernel resets what was open.
    pub(super) fn reset_conns_of(&mut self, shard: ShardId, life: u32) {
        for conn in 0..self.conns.len() {
            let state = &mut self.conns[conn];
            if state.shard == shard && state.life == life && !state.server_closed {
                state.server_closed = true;
                state.send = None;
                state.receive = None;
                let conn = ConnIdx(conn);
                let delay = self.random_span(self.config.network_delay_max);
                self.schedule(self.now.after(delay), Event::FinToClient(conn));
            }
        }
    }
}
