//! One suite for the three drivers: what `driver.rs` promises as D1 to D4, on each of them.
//!
//! Owns: the tests, written once against `Bed`, and a bed per driver.
//! The real drivers use loopback sockets and a second thread; without io_uring they print
//! `skipped: why`. The simulated one runs every test under several seeds.

// Set-up that fails ends the test.
#![allow(clippy::unwrap_used)]

use heronry_engine::{Nanos, ShardId};
use heronry_numa::Clock;
use heronry_shards::driver::{Completion, Done, Doorbells, Driver, Handle, Op, Token};
use heronry_shards::glommio::{Glommio, run_on_glommio};
use heronry_shards::sim::{ShardFuture, SimClient, SimDriver, Step, World, WorldConfig};
use heronry_shards::uring::{self, Uring, UringConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

/// Longest wait for anything, in the driver's time: past it the test fails instead of hanging.
const HANG: Nanos = Nanos::from_ms(30_000);
const ME: ShardId = ShardId(0);

// ---- what a test needs around a driver ----------------------------------------------------------

/// A client's end of a connection. Never blocks.
trait Peer {
    /// Returns how many bytes were taken.
    fn send(&mut self, bytes: &[u8]) -> usize;
    fn recv(&mut self) -> Vec<u8>;
    fn close(&mut self);
    fn is_closed(&mut self) -> bool;
}

/// A driver and the world around it.
trait Bed {
    type Driver: Driver;
    type Peer: Peer;
    fn driver(&mut self) -> &mut Self::Driver;
    fn listen(&mut self) -> Handle;
    /// Connects to the listener made last.
    fn connect(&mut self) -> Self::Peer;
    /// A fresh file; `direct`: past the page cache, where the file system can.
    fn file(&mut self, direct: bool) -> Handle;
    /// Another shard rings our doorbell soon, then `rung_count` is higher by one.
    fn ring_soon(&mut self);
    fn rung_count(&self) -> u64;
}

/// A completion, kept.
#[derive(Debug, PartialEq)]
enum Seen {
    Accepted(Handle),
    Received(Vec<u8>),
    EndOfStream,
    Sent(Vec<u8>),
    Read(Vec<u8>),
    Written(Vec<u8>),
    Expired,
    Cancelled,
    Failed(i32),
}

impl Seen {
    fn of(done: Done<'_>) -> Seen {
        match done {
            Done::Accepted(handle) => Seen::Accepted(handle),
            Done::Received(bytes) => {
                assert!(!bytes.is_empty(), "received nothing");
                Seen::Received(bytes.to_vec())
            }
            Done::EndOfStream => Seen::EndOfStream,
            Done::Sent(bytes) => Seen::Sent(bytes),
            Done::Read(bytes) => Seen::Read(bytes),
            Done::Written(bytes) => Seen::Written(bytes),
            Done::Expired => Seen::Expired,
            Done::Cancelled => Seen::Cancelled,
            Done::Failed { errno } => Seen::Failed(errno),
        }
    }
}

/// A small shard loop that checks D1 on everything it sees.
struct Watch<'b, B: Bed> {
    bed: &'b mut B,
    token_count: u64,
    open: BTreeSet<Token>,
    seen: Vec<(Token, Seen)>,
}

impl<'b, B: Bed> Watch<'b, B> {
    fn new(bed: &'b mut B) -> Watch<'b, B> {
        Watch { bed, token_count: 0, open: BTreeSet::new(), seen: Vec::new() }
    }

    fn now(&mut self) -> Nanos {
        self.bed.driver().now()
    }

    fn submit(&mut self, op: Op) -> Token {
        self.token_count += 1;
        let token = Token(self.token_count << 20);
        self.open.insert(token);
        self.bed.driver().submit(token, op);
        token
    }

    fn cancel(&mut self, token: Token) {
        self.bed.driver().submit(Token(0), Op::Cancel(token));
    }

    fn close(&mut self, handle: Handle) {
        self.bed.driver().submit(Token(0), Op::Close(handle));
    }

    fn poll(&mut self) {
        let (open, seen) = (&mut self.open, &mut self.seen);
        let before = seen.len();
        let count = self.bed.driver().poll(&mut |completion: Completion<'_>| {
            let Completion { token, last, done } = completion;
            assert!(open.contains(&token), "D1: {token:?} ended before {done:?}");
            let multishot = matches!(done, Done::Accepted(_) | Done::Received(_));
            assert_eq!(last, !multishot, "D1: last of {done:?}");
            if last {
                open.remove(&token);
            }
            seen.push((token, Seen::of(done)));
        });
        assert_eq!(count, seen.len() - before);
    }

    /// One pass: sees what is there, then waits a little.
    async fn pass(&mut self) {
        self.poll();
        let until = self.now().after(Nanos::from_ms(1));
        self.bed.driver().park(until).await;
    }

    /// Passes until `done` is.
    async fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let hang = self.now().after(HANG);
        loop {
            self.poll();
            if done(self) {
                return;
            }
            assert!(self.now() < hang, "{what} does not happen; seen: {:?}", self.brief());
            let until = self.now().after(Nanos::from_ms(1));
            self.bed.driver().park(until).await;
        }
    }

    fn brief(&self) -> Vec<String> {
        let tail = self.seen.iter().rev().take(5);
        tail.map(|seen| format!("{seen:.0?}").chars().take(60).collect()).collect()
    }

    /// How the operation ended, if it did.
    fn end(&self, token: Token) -> Option<&Seen> {
        let ended = |(of, seen): &&(Token, Seen)| {
            *of == token && !matches!(seen, Seen::Accepted(_) | Seen::Received(_))
        };
        self.seen.iter().find(ended).map(|(_, seen)| seen)
    }

    async fn ended(&mut self, token: Token) -> &Seen {
        self.until("the end of an operation", |watch| watch.end(token).is_some()).await;
        self.end(token).expect("it ended")
    }

    fn received(&self, token: Token) -> Vec<u8> {
        let mut all = Vec::new();
        for (of, seen) in &self.seen {
            if let (true, Seen::Received(bytes)) = (*of == token, seen) {
                all.extend_from_slice(bytes);
            }
        }
        all
    }

    fn accepted(&self, token: Token) -> Vec<Handle> {
        let mut all = Vec::new();
        for (of, seen) in &self.seen {
            if let (true, Seen::Accepted(handle)) = (*of == token, seen) {
                all.push(*handle);
            }
        }
        all
    }

    /// A listener, its accept, and one connection over it.
    async fn pair(&mut self) -> (Token, Handle, B::Peer) {
        let listener = self.bed.listen();
        let accept = self.submit(Op::Accept(listener));
        let peer = self.bed.connect();
        self.until("accept", |watch| watch.accepted(accept).len() == 1).await;
        let socket = self.accepted(accept)[0];
        (accept, socket, peer)
    }
}

fn pattern(len_bytes: usize, salt: u64) -> Vec<u8> {
    let mut state = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len_bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        })
        .collect()
}

// ---- the tests ----------------------------------------------------------------------------------

async fn d1_accept_hands_on_every_connection<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let listener = watch.bed.listen();
    let accept = watch.submit(Op::Accept(listener));
    let peers: Vec<B::Peer> = (0..50).map(|_| watch.bed.connect()).collect();
    watch.until("50 connections", |watch| watch.accepted(accept).len() == 50).await;
    let distinct: BTreeSet<Handle> = watch.accepted(accept).into_iter().collect();
    assert_eq!(distinct.len(), 50);
    watch.cancel(accept);
    assert_eq!(watch.ended(accept).await, &Seen::Cancelled);
    // Cancelled is not closed: who connects now is accepted by the next one.
    let late = watch.bed.connect();
    watch.pass().await;
    let again = watch.submit(Op::Accept(listener));
    watch.until("the late one", |watch| watch.accepted(again).len() == 1).await;
    drop((peers, late));
}

async fn d1_receive_ends_with_the_stream<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let (_, socket, mut peer) = watch.pair().await;
    let receive = watch.submit(Op::Receive(socket));
    let data = pattern(200_000, 1);
    let mut sent_bytes = 0;
    while sent_bytes < data.len() {
        let rest = &data[sent_bytes..];
        sent_bytes += peer.send(&rest[..rest.len().min(7_000)]);
        watch.pass().await;
    }
    peer.close();
    assert_eq!(watch.ended(receive).await, &Seen::EndOfStream);
    assert!(watch.received(receive) == data, "bytes were lost, doubled or swapped");
}

async fn d2_d3_a_large_send_to_a_slow_reader_arrives_whole<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let (_, socket, mut peer) = watch.pair().await;
    // More than the largest socket buffers take.
    let data = pattern(16_000_000, 2);
    let send = watch.submit(Op::Send(socket, data.clone()));
    for _ in 0..20 {
        watch.pass().await;
    }
    assert!(watch.end(send).is_none(), "the reader has not read");
    let mut arrived = Vec::new();
    let hang = watch.now().after(HANG);
    while arrived.len() < data.len() {
        arrived.extend(peer.recv());
        watch.pass().await;
        assert!(watch.now() < hang, "{} bytes arrived", arrived.len());
    }
    assert!(arrived == data, "bytes were lost, doubled or swapped");
    assert!(watch.ended(send).await == &Seen::Sent(data), "D2: the buffer comes back");
}

async fn d2_the_sent_vector_itself_comes_back<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let (_, socket, mut peer) = watch.pair().await;
    let mut bytes = Vec::with_capacity(4096);
    bytes.extend_from_slice(b"hello");
    let address = bytes.as_ptr();
    let send = watch.submit(Op::Send(socket, bytes));
    match watch.ended(send).await {
        Seen::Sent(back) => assert_eq!((back.as_ptr(), back.capacity()), (address, 4096)),
        other => panic!("{other:?}"),
    }
    let nothing = watch.submit(Op::Send(socket, Vec::new()));
    assert_eq!(watch.ended(nothing).await, &Seen::Sent(Vec::new()));
    let mut arrived = Vec::new();
    watch
        .until("arrival", |_| {
            arrived.extend(peer.recv());
            arrived == b"hello"
        })
        .await;
}

async fn d3_sends_one_after_another_arrive_in_order<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let (_, socket, mut peer) = watch.pair().await;
    let (mut arrived, mut wanted) = (Vec::new(), Vec::new());
    for round in 0..200 {
        let part = pattern(1 + (round as usize * 37) % 900, round);
        wanted.extend_from_slice(&part);
        let send = watch.submit(Op::Send(socket, part));
        let hang = watch.now().after(HANG);
        while watch.end(send).is_none() {
            arrived.extend(peer.recv());
            watch.pass().await;
            assert!(watch.now() < hang);
        }
    }
    watch
        .until("all bytes", |_| {
            arrived.extend(peer.recv());
            arrived.len() == wanted.len()
        })
        .await;
    assert!(arrived == wanted);
}

async fn d3_after_a_shutdown_all_that_was_sent_arrives_and_receiving_goes_on<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let (_, socket, mut peer) = watch.pair().await;
    let receive = watch.submit(Op::Receive(socket));
    let (data, meanwhile) = (pattern(20_000, 3), pattern(100_000, 4));
    let send = watch.submit(Op::Send(socket, data.clone()));
    watch.ended(send).await;
    watch.bed.driver().submit(Token(0), Op::Shutdown(socket));
    // The peer notices only after it has said all it had to say.
    let mut said_bytes = 0;
    while said_bytes < meanwhile.len() {
        let rest = &meanwhile[said_bytes..];
        said_bytes += peer.send(&rest[..rest.len().min(7_000)]);
        watch.pass().await;
    }
    let mut arrived = Vec::new();
    watch
        .until("the end of the stream", |_| {
            arrived.extend(peer.recv());
            peer.is_closed()
        })
        .await;
    assert!(arrived == data, "{} bytes arrived", arrived.len());
    peer.close();
    assert_eq!(watch.ended(receive).await, &Seen::EndOfStream);
    assert!(watch.received(receive) == meanwhile, "bytes were lost, doubled or swapped");
    watch.close(socket);
    watch.bed.driver().submit(Token(0), Op::Shutdown(socket));
    watch.pass().await;
}

async fn d1_a_send_to_a_closed_peer_fails<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let (_, socket, mut peer) = watch.pair().await;
    peer.close();
    let hang = watch.now().after(HANG);
    loop {
        let send = watch.submit(Op::Send(socket, vec![7; 10_000]));
        match watch.ended(send).await {
            Seen::Sent(_) => assert!(watch.now() < hang, "sends to nobody keep succeeding"),
            Seen::Failed(errno) => {
                assert!([libc::EPIPE, libc::ECONNRESET].contains(errno), "errno {errno}");
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn d1_cancel_ends_a_receive_and_loses_nothing<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let (_, socket, mut peer) = watch.pair().await;
    let mut received = Vec::new();
    let mut wanted = Vec::new();
    for round in 0..50u64 {
        let receive = watch.submit(Op::Receive(socket));
        let part = pattern(300, round);
        assert_eq!(peer.send(&part), part.len());
        wanted.extend_from_slice(&part);
        for _ in 0..round % 4 {
            watch.pass().await;
        }
        watch.cancel(receive);
        watch.cancel(receive);
        assert_eq!(watch.ended(receive).await, &Seen::Cancelled);
        received.extend(watch.received(receive));
    }
    let rest = watch.submit(Op::Receive(socket));
    peer.close();
    assert_eq!(watch.ended(rest).await, &Seen::EndOfStream);
    received.extend(watch.received(rest));
    assert!(received == wanted, "{} of {} bytes", received.len(), wanted.len());
}

async fn d1_cancel_ends_timers_and_ignores_strangers<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let far = watch.now().after(Nanos::from_ms(1_000_000));
    let timer = watch.submit(Op::Timer(far));
    watch.cancel(Token(u64::MAX));
    watch.pass().await;
    assert_eq!(watch.end(timer), None);
    watch.cancel(timer);
    assert_eq!(watch.ended(timer).await, &Seen::Cancelled);
    watch.cancel(timer);
    watch.pass().await;
    watch.pass().await;
    assert_eq!(watch.seen.len(), 1);
}

async fn d1_close_ends_what_is_open_on_the_handle<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let (accept, socket, mut peer) = watch.pair().await;
    let receive = watch.submit(Op::Receive(socket));
    let send = watch.submit(Op::Send(socket, vec![1; 8_000_000]));
    for _ in 0..5 {
        watch.pass().await;
    }
    watch.close(socket);
    watch.close(socket);
    assert_eq!(watch.ended(receive).await, &Seen::Cancelled);
    assert_eq!(watch.ended(send).await, &Seen::Cancelled);
    watch
        .until("the peer sees it", |_| {
            peer.recv();
            peer.is_closed()
        })
        .await;
    let late = watch.submit(Op::Receive(socket));
    assert_eq!(watch.ended(late).await, &Seen::Failed(libc::EBADF));
    let late = watch.submit(Op::Send(socket, vec![1]));
    assert_eq!(watch.ended(late).await, &Seen::Failed(libc::EBADF));
    assert_eq!(watch.end(accept), None);
}

async fn a_closed_handle_never_reaches_its_successor<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let listener = watch.bed.listen();
    let accept = watch.submit(Op::Accept(listener));
    let mut handles: Vec<Handle> = Vec::new();
    let mut receives: BTreeMap<Token, u8> = BTreeMap::new();
    for round in 0..150u8 {
        let mut peer = watch.bed.connect();
        watch.until("accept", |watch| watch.accepted(accept).len() == usize::from(round) + 1).await;
        let socket = watch.accepted(accept)[usize::from(round)];
        assert!(!handles.contains(&socket), "{socket:?} is used again at once");
        if let Some(old) = handles.last().copied() {
            // What is done to the old handle does not touch the new one.
            watch.close(old);
            let late = watch.submit(Op::Receive(old));
            assert_eq!(watch.ended(late).await, &Seen::Failed(libc::EBADF));
        }
        let receive = watch.submit(Op::Receive(socket));
        receives.insert(receive, round);
        assert_eq!(peer.send(&[round; 100]), 100);
        if round % 3 == 0 {
            watch.until("bytes", |watch| watch.received(receive).len() == 100).await;
        }
        watch.close(socket);
        handles.push(socket);
        if round % 5 == 0 {
            assert_eq!(watch.ended(receive).await, &Seen::Cancelled);
        }
    }
    watch.until("all ends", |watch| receives.keys().all(|token| watch.end(*token).is_some())).await;
    for (token, round) in &receives {
        assert!(watch.received(*token).iter().all(|byte| byte == round), "round {round}");
    }
}

async fn timers_expire_in_order_and_not_early<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    let start = watch.now();
    let mut due: BTreeMap<Token, Nanos> = BTreeMap::new();
    for idx in 0..40u64 {
        let at = start.after(Nanos::from_us(500 + (idx * 7919) % 9_000));
        due.insert(watch.submit(Op::Timer(at)), at);
    }
    let past = watch.submit(Op::Timer(Nanos(0)));
    let mut looked = 0;
    while looked < 41 {
        let now = watch.now();
        assert!(now < start.after(HANG), "{looked} timers came");
        watch.poll();
        let polled = watch.now();
        for (token, seen) in &watch.seen[looked..] {
            assert_eq!(seen, &Seen::Expired);
            assert!(*token == past || due[token] <= polled, "a timer came early");
        }
        looked = watch.seen.len();
        if looked < 41 {
            // The timers bound the park, not this.
            watch.bed.driver().park(Nanos(u64::MAX)).await;
        }
    }
    let order: Vec<Nanos> = watch
        .seen
        .iter()
        .filter(|(token, _)| *token != past)
        .map(|(token, _)| due[token])
        .collect();
    assert!(order.is_sorted(), "timers came out of order");
}

async fn d4_a_past_until_does_not_wait<B: Bed>(bed: &mut B) {
    let mut watch = Watch::new(bed);
    for _ in 0..100 {
        watch.bed.driver().park(Nanos(0)).await;
        watch.poll();
    }
    let now = watch.now();
    watch.bed.driver().park(now).await;
}

async fn d4_no_doorbell_is_lost<B: Bed>(bed: &mut B) {
    for round in 1..=2_000 {
        bed.ring_soon();
        loop {
            bed.driver().poll(&mut |completion| panic!("{completion:?}"));
            // What was rung before the poll is looked for after it, as the shard loop does.
            if bed.rung_count() >= round {
                break;
            }
            if round % 3 == 0 {
                std::hint::spin_loop();
            }
            let until = bed.driver().now().after(HANG);
            bed.driver().park(until).await;
            assert!(bed.driver().now() < until, "D4: the doorbell of round {round} was lost");
        }
    }
}

async fn files_written_are_read_back<B: Bed>(bed: &mut B, direct: bool) {
    let mut watch = Watch::new(bed);
    let file = watch.bed.file(direct);
    let blocks: Vec<Vec<u8>> = (0..8).map(|block| pattern(4096, block)).collect();
    let mut writes = Vec::new();
    for (idx, block) in blocks.iter().enumerate().rev() {
        let offset = idx as u64 * 4096;
        writes.push(watch.submit(Op::WriteDurable { file, offset, bytes: block.clone() }));
    }
    for (write, block) in writes.into_iter().zip(blocks.iter().rev()) {
        assert!(watch.ended(write).await == &Seen::Written(block.clone()), "D2: the buffer");
    }
    let all = watch.submit(Op::Read { file, offset: 0, len_bytes: 8 * 4096 });
    assert!(watch.ended(all).await == &Seen::Read(blocks.concat()));
    let past = watch.submit(Op::Read { file, offset: 7 * 4096, len_bytes: 3 * 4096 });
    assert!(watch.ended(past).await == &Seen::Read(blocks[7].clone()), "short at the end");
    let beyond = watch.submit(Op::Read { file, offset: 100 * 4096, len_bytes: 4096 });
    assert_eq!(watch.ended(beyond).await, &Seen::Read(Vec::new()));
    let nothing = watch.submit(Op::WriteDurable { file, offset: 0, bytes: Vec::new() });
    assert_eq!(watch.ended(nothing).await, &Seen::Written(Vec::new()));
    watch.close(file);
    let closed = watch.submit(Op::Read { file, offset: 0, len_bytes: 4096 });
    assert_eq!(watch.ended(closed).await, &Seen::Failed(libc::EBADF));
}

async fn written_is_read_back<B: Bed>(bed: &mut B) {
    files_written_are_read_back(bed, false).await;
}

async fn written_past_the_page_cache_is_read_back<B: Bed>(bed: &mut B) {
    files_written_are_read_back(bed, true).await;
}

async fn a_thousand_connections_are_answered<B: Bed>(bed: &mut B) {
    const COUNT: usize = 1_000;
    let mut watch = Watch::new(bed);
    let listener = watch.bed.listen();
    let accept = watch.submit(Op::Accept(listener));
    let mut peers = Vec::new();
    while peers.len() < COUNT {
        // In batches below the listener's backlog.
        peers.extend((0..50).map(|_| watch.bed.connect()));
        let count = peers.len();
        watch.until("accepts", |watch| watch.accepted(accept).len() == count).await;
    }
    let sockets = watch.accepted(accept);
    let receives: BTreeMap<Token, Handle> =
        sockets.iter().map(|socket| (watch.submit(Op::Receive(*socket)), *socket)).collect();
    for (idx, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.send(&(idx as u64).to_le_bytes()), 8);
    }
    // Echo whatever arrives, one send per socket in flight.
    let mut echoed: BTreeMap<Token, Token> = BTreeMap::new();
    let mut answers: Vec<Vec<u8>> = vec![Vec::new(); COUNT];
    let hang = watch.now().after(HANG);
    while answers.iter().any(|answer| answer.len() < 8) {
        watch.pass().await;
        for (receive, socket) in &receives {
            if !echoed.contains_key(receive) {
                let bytes = watch.received(*receive);
                if bytes.len() == 8 {
                    echoed.insert(*receive, watch.submit(Op::Send(*socket, bytes)));
                }
            }
        }
        for (peer, answer) in peers.iter_mut().zip(&mut answers) {
            answer.extend(peer.recv());
        }
        assert!(watch.now() < hang, "{} answered", echoed.len());
    }
    for (idx, answer) in answers.iter().enumerate() {
        assert_eq!(answer, &(idx as u64).to_le_bytes());
    }
    for socket in sockets {
        watch.close(socket);
    }
    watch.until("all ends", |watch| receives.keys().all(|token| watch.end(*token).is_some())).await;
}

// ---- real sockets, files and a second thread ----------------------------------------------------

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

struct RealPeer {
    stream: Option<Stream>,
    closed: bool,
}

impl Peer for RealPeer {
    fn send(&mut self, bytes: &[u8]) -> usize {
        let sent = match &mut self.stream {
            Some(Stream::Tcp(stream)) => stream.write(bytes),
            Some(Stream::Unix(stream)) => stream.write(bytes),
            None => return 0,
        };
        match sent {
            Ok(sent_bytes) => sent_bytes,
            Err(error) => {
                self.closed |= error.kind() != ErrorKind::WouldBlock;
                0
            }
        }
    }

    fn recv(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 256 << 10];
        let read = match &mut self.stream {
            Some(Stream::Tcp(stream)) => stream.read(&mut bytes),
            Some(Stream::Unix(stream)) => stream.read(&mut bytes),
            None => return Vec::new(),
        };
        match read {
            Ok(0) => {
                self.closed = true;
                Vec::new()
            }
            Ok(read_bytes) => {
                bytes.truncate(read_bytes);
                bytes
            }
            Err(error) => {
                self.closed |= error.kind() != ErrorKind::WouldBlock;
                Vec::new()
            }
        }
    }

    fn close(&mut self) {
        self.stream = None;
    }

    fn is_closed(&mut self) -> bool {
        self.closed
    }
}

#[derive(Clone)]
enum Address {
    None,
    Tcp(SocketAddr),
    Unix(PathBuf),
}

struct Real<D> {
    driver: D,
    unix: bool,
    address: Address,
    folder: tempfile::TempDir,
    file_count: u32,
    rounds: mpsc::Sender<()>,
    rung_count: Arc<AtomicU64>,
}

#[allow(unsafe_code)]
fn eventfd() -> OwnedFd {
    // SAFETY: makes a new descriptor or returns -1.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: just made, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl<D: Driver> Real<D> {
    fn new(unix: bool, make: impl FnOnce(Doorbells, Clock) -> D) -> Real<D> {
        let bell = eventfd();
        let other_bell = bell.try_clone().unwrap();
        let rung_count = Arc::new(AtomicU64::new(0));
        let (rounds, asked) = mpsc::channel::<()>();
        let count = rung_count.clone();
        std::thread::spawn(move || {
            let mut bell = std::fs::File::from(other_bell);
            for ring in 0u32.. {
                if asked.recv().is_err() {
                    return;
                }
                // Sometimes at once, sometimes when the shard is likely to be asleep.
                for _ in 0..(ring % 7) * 200 {
                    std::hint::spin_loop();
                }
                count.fetch_add(1, Ordering::SeqCst);
                bell.write_all(&1u64.to_ne_bytes()).unwrap();
            }
        });
        let doorbells = Doorbells { me: ME, eventfds: vec![bell] };
        let driver = make(doorbells, Clock::calibrate());
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Real { driver, unix, address: Address::None, folder, file_count: 0, rounds, rung_count }
    }
}

impl<D: Driver> Bed for Real<D> {
    type Driver = D;
    type Peer = RealPeer;

    fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    fn listen(&mut self) -> Handle {
        if self.unix {
            let path = self.folder.path().join(format!("listener-{}", self.file_count));
            self.file_count += 1;
            let listener = UnixListener::bind(&path).unwrap();
            self.address = Address::Unix(path);
            return self.driver.adopt(listener.into());
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.address = Address::Tcp(listener.local_addr().unwrap());
        // A driver takes it as it comes, blocking or not.
        listener.set_nonblocking(true).unwrap();
        self.driver.adopt(listener.into())
    }

    fn connect(&mut self) -> RealPeer {
        let stream = match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_nodelay(true).unwrap();
                stream.set_nonblocking(true).unwrap();
                Stream::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_nonblocking(true).unwrap();
                Stream::Unix(stream)
            }
            Address::None => panic!("nobody listens"),
        };
        RealPeer { stream: Some(stream), closed: false }
    }

    fn file(&mut self, direct: bool) -> Handle {
        let path = self.folder.path().join(format!("file-{}", self.file_count));
        self.file_count += 1;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let direct_open = options.clone().custom_flags(libc::O_DIRECT).open(&path);
        let file = match direct_open {
            Ok(file) if direct => file,
            Err(error) if direct => {
                println!("skipped: O_DIRECT here: {error}");
                options.create_new(false).create(true).open(&path).unwrap()
            }
            _ => options.create_new(false).create(true).open(&path).unwrap(),
        };
        self.driver.adopt(file.into())
    }

    fn ring_soon(&mut self) {
        self.rounds.send(()).unwrap();
    }

    fn rung_count(&self) -> u64 {
        self.rung_count.load(Ordering::SeqCst)
    }
}

fn uring_driver(doorbells: Doorbells, clock: Clock) -> Uring {
    Uring::new(UringConfig::new(doorbells), clock).unwrap()
}

/// Every wait tight: two submission entries, sixteen completions, two small buffers.
fn tiny_uring_driver(doorbells: Doorbells, clock: Clock) -> Uring {
    let config = UringConfig {
        entries: 2,
        buffer_count: 2,
        buffer_bytes: 64,
        ..UringConfig::new(doorbells)
    };
    Uring::new(config, clock).unwrap()
}

fn spinning_uring_driver(doorbells: Doorbells, clock: Clock) -> Uring {
    let config = UringConfig { spin: true, ..UringConfig::new(doorbells) };
    Uring::new(config, clock).unwrap()
}

fn on_uring(
    unix: bool,
    make: fn(Doorbells, Clock) -> Uring,
    test: impl AsyncFnOnce(&mut Real<Uring>),
) {
    if let Err(why) = uring::check() {
        println!("skipped: {why}");
        return;
    }
    uring::block_on(test(&mut Real::new(unix, make)));
}

fn on_glommio(unix: bool, test: impl AsyncFnOnce(&mut Real<Glommio>)) {
    let ran = run_on_glommio(None, || async {
        let make = |doorbells, clock| Glommio::new(doorbells, clock).unwrap();
        test(&mut Real::new(unix, make)).await;
    });
    if let Err(why) = ran {
        println!("skipped: {why}");
    }
}

// ---- the simulated world ------------------------------------------------------------------------

impl Peer for SimClient {
    fn send(&mut self, bytes: &[u8]) -> usize {
        SimClient::send(self, bytes);
        bytes.len()
    }
    fn recv(&mut self) -> Vec<u8> {
        SimClient::recv(self)
    }
    fn close(&mut self) {
        SimClient::close(self);
    }
    fn is_closed(&mut self) -> bool {
        SimClient::is_closed(self)
    }
}

struct Simulated {
    world: World,
    driver: SimDriver,
    other: SimDriver,
    listener: Option<Handle>,
    file_count: u32,
    rung_count: u64,
}

impl Bed for Simulated {
    type Driver = SimDriver;
    type Peer = SimClient;

    fn driver(&mut self) -> &mut SimDriver {
        &mut self.driver
    }

    fn listen(&mut self) -> Handle {
        *self.listener.insert(self.world.listen(ME))
    }

    fn connect(&mut self) -> SimClient {
        self.world.connect_to(ME, self.listener.unwrap())
    }

    fn file(&mut self, _direct: bool) -> Handle {
        self.file_count += 1;
        self.world.open_file(ME, &format!("file-{}", self.file_count))
    }

    fn ring_soon(&mut self) {
        self.rung_count += 1;
        self.other.doorbell(ME);
    }

    fn rung_count(&self) -> u64 {
        self.rung_count
    }
}

fn on_sim(test: impl AsyncFn(&mut Simulated)) {
    for seed in 0..8 {
        // Rough in all but what would fail the tests' own expectations.
        let rough = WorldConfig {
            resets_per_million: 0,
            disk_errors_per_million: 0,
            window_bytes: 32 << 10,
            chunk_bytes_max: 2_000,
            network_delay_max: Nanos::from_us(300),
            ..WorldConfig::rough(seed)
        };
        let config = if seed % 2 == 0 { WorldConfig::calm(seed) } else { rough };
        let world = World::with(config, 2);
        let mut bed = Simulated {
            driver: world.driver(ME),
            other: world.driver(ShardId(1)),
            world: world.clone(),
            listener: None,
            file_count: 0,
            rung_count: 0,
        };
        let mut shards: Vec<ShardFuture<'_>> = vec![Some(Box::pin(test(&mut bed)))];
        loop {
            match world.step(&mut shards) {
                Step::Ended(_) => break,
                Step::Still => panic!("seed {seed}: the world stands still"),
                Step::Ran(_) | Step::Advanced(_) => {}
            }
        }
    }
}

// ---- which test runs where ----------------------------------------------------------------------

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod uring_tcp {
            $(#[test] fn $test() {
                super::on_uring(false, super::uring_driver, super::$test);
            })*
        }
        mod uring_unix {
            $(#[test] fn $test() {
                super::on_uring(true, super::uring_driver, super::$test);
            })*
        }
        mod uring_tiny {
            $(#[test] fn $test() {
                super::on_uring(false, super::tiny_uring_driver, super::$test);
            })*
        }
        mod uring_spinning {
            $(#[test] fn $test() {
                super::on_uring(true, super::spinning_uring_driver, super::$test);
            })*
        }
        mod glommio_tcp {
            $(#[test] fn $test() { super::on_glommio(false, super::$test); })*
        }
        mod glommio_unix {
            $(#[test] fn $test() { super::on_glommio(true, super::$test); })*
        }
        mod simulated {
            $(#[test] fn $test() { super::on_sim(super::$test); })*
        }
    };
}

suite! {
    d1_accept_hands_on_every_connection,
    d1_receive_ends_with_the_stream,
    d2_d3_a_large_send_to_a_slow_reader_arrives_whole,
    d2_the_sent_vector_itself_comes_back,
    d3_sends_one_after_another_arrive_in_order,
    d3_after_a_shutdown_all_that_was_sent_arrives_and_receiving_goes_on,
    d1_a_send_to_a_closed_peer_fails,
    d1_cancel_ends_a_receive_and_loses_nothing,
    d1_cancel_ends_timers_and_ignores_strangers,
    d1_close_ends_what_is_open_on_the_handle,
    a_closed_handle_never_reaches_its_successor,
    timers_expire_in_order_and_not_early,
    d4_a_past_until_does_not_wait,
    d4_no_doorbell_is_lost,
    written_is_read_back,
    written_past_the_page_cache_is_read_back,
    a_thousand_connections_are_answered,
}
