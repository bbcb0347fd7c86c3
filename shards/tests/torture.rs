//! Wake-up torture: tokens travel between shards that spin and sleep at random, on real threads
//! and in real processes, with eventfds for doorbells and no timeout on any sleep.
//!
//! Owns: M5 on the real kernel; a lost wake-up stops all tokens, and a watchdog says so.
//! Not: interleavings one by one (loom, in `ring/model.rs`); speed.
//!
//! Rings are the smallest there are, so that shards also sleep for want of room. `TORTURE_HOPS`
//! in the environment sets another number of hops.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use heronry_engine::ShardId;
use heronry_shards::control::ShardState;
use heronry_shards::counters::Counter;
use heronry_shards::mesh::{Mesh, Urgency};
use heronry_shards::shared::{ShardPlan, Shared};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Hops of all tokens together, by default.
const HOPS: u64 = 400_000;
/// Without any hop for this long, a wake-up was lost.
const STUCK: Duration = Duration::from_secs(60);
const CHILD: &str = "HERONRY_TORTURE_CHILD";
/// Longest token in bytes: several records of the smallest ring, and more than the ring.
const TOKEN_BYTES_MAX: usize = 9_000;

fn hops() -> u64 {
    std::env::var("TORTURE_HOPS").ok().and_then(|text| text.parse().ok()).unwrap_or(HOPS)
}

fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
}

/// One shard: passes tokens on until shard 0 says that all have ended.
struct Node<'b> {
    mesh: Mesh,
    bells: &'b [OwnedFd],
    random: fastrand::Rng,
    /// Tokens that are still on their way; only shard 0 knows.
    token_count: u64,
    ended: bool,
}

impl Node<'_> {
    fn run(shared: Arc<Shared>, me: ShardId, bells: &[OwnedFd], tokens: u64, hops: u64) {
        let mesh = Mesh::attach(Arc::clone(&shared), me);
        let random = fastrand::Rng::with_seed(u64::from(me.0) + 1);
        let mut node = Node { mesh, bells, random, token_count: tokens, ended: false };
        shared.set_state(me, ShardState::Up);
        (0..shared.shard_count()).for_each(|peer| node.ring(ShardId(peer)));
        while !shared.shards().all(|peer| shared.block(peer).state() == ShardState::Up) {
            node.pass();
        }
        node.mesh.changed_peers().for_each(drop);
        if me.0 == 0 {
            (0..tokens).for_each(|_| node.pass_on(hops / tokens));
        }
        while !node.ended {
            node.pass();
        }
        while shared.shards().any(|peer| node.mesh.backlog_bytes(peer) > 0) {
            node.pass();
        }
        node.publish();
    }

    /// One loop pass: what came is passed on; with nothing to do, spin or sleep.
    fn pass(&mut self) {
        self.mesh.changed_peers().for_each(drop);
        let mut arrived = Vec::new();
        self.mesh.receive(&mut |_, bytes| {
            let hops = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(bytes[8..].iter().all(|byte| *byte == hops as u8), "M1: a torn token");
            arrived.push(hops);
        });
        let idle = arrived.is_empty();
        arrived.into_iter().for_each(|hops| self.arrive(hops));
        self.publish();
        if !idle || self.ended {
            return;
        }
        match self.random.u32(0..4) {
            0 => (0..self.random.u32(0..2_000)).for_each(|_| std::hint::spin_loop()),
            1 => std::thread::yield_now(),
            _ => self.sleep(),
        }
    }

    fn arrive(&mut self, hops: u64) {
        match hops {
            // A token's end goes to shard 0, which counts; the last one ends all.
            u64::MAX => self.ended = true,
            0 if self.mesh.me().0 > 0 => self.send(ShardId(0), 0),
            0 => {
                self.token_count -= 1;
                if self.token_count == 0 {
                    self.ended = true;
                    let peers: Vec<ShardId> = self.mesh.shared().shards().skip(1).collect();
                    peers.into_iter().for_each(|peer| self.send(peer, u64::MAX));
                }
            }
            hops => self.pass_on(hops - 1),
        }
    }

    fn pass_on(&mut self, hops: u64) {
        let me = self.mesh.me().0;
        let step = self.random.u16(1..self.mesh.shared().shard_count());
        self.send(ShardId((me + step) % self.mesh.shared().shard_count()), hops);
    }

    fn send(&mut self, to: ShardId, hops: u64) {
        let long = self.random.u32(0..50) == 0;
        let padding = self.random.usize(0..if long { TOKEN_BYTES_MAX } else { 100 });
        let mut bytes = hops.to_le_bytes().to_vec();
        bytes.resize(8 + padding, hops as u8);
        self.mesh.send(to, &bytes, Urgency::Answer).unwrap();
    }

    fn publish(&mut self) {
        let bells = self.bells;
        self.mesh.publish(&mut |peer| ring(&bells[usize::from(peer.0)]));
    }

    fn sleep(&mut self) {
        if !self.mesh.announce_park() {
            return;
        }
        let mut count = [0; 8];
        rustix::io::read(&self.bells[usize::from(self.mesh.me().0)], &mut count).unwrap();
        self.mesh.unpark();
        let me = self.mesh.me();
        self.mesh.shared().counters(me).add(Counter::Parks, 1);
    }

    fn ring(&self, peer: ShardId) {
        ring(&self.bells[usize::from(peer.0)]);
    }
}

fn ring(bell: &OwnedFd) {
    rustix::io::write(bell, &1u64.to_ne_bytes()).unwrap();
}

/// Waits until `done` while hops are made; says who is stuck otherwise.
fn watch(shared: &Shared, done: impl Fn() -> bool) {
    let sum = |counter| shared.shards().map(|s| shared.counters(s).get(counter)).sum::<u64>();
    let (mut seen, mut since) = (0, Instant::now());
    while !done() {
        let now = sum(Counter::HopsIn);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        if since.elapsed() > STUCK {
            for shard in shared.shards() {
                let rows: Vec<_> =
                    shared.counters(shard).rows().filter(|(_, value)| *value > 0).collect();
                eprintln!("{shard:?}: parked {}, {rows:?}", shared.block(shard).parked());
            }
            // Sleepers cannot be joined: end them with the process.
            eprintln!("M5: no hop for {STUCK:?} after {seen}: a wake-up was lost");
            std::process::abort();
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert_eq!(sum(Counter::MeshResets), 0);
    let parks = sum(Counter::Parks);
    eprintln!("{} hops, {parks} sleeps", sum(Counter::HopsIn));
    assert!(parks > 0, "nobody slept, so nothing was tried");
}

fn shared(shard_count: u16) -> Arc<Shared> {
    Arc::new(Shared::create(ShardPlan { shard_count, ring_bytes: 4096 }).unwrap())
}

fn threads(shard_count: u16, tokens: u64) {
    let shared = shared(shard_count);
    let bells: Arc<Vec<OwnedFd>> = Arc::new(shared.shards().map(|_| eventfd()).collect());
    let nodes: Vec<_> = shared
        .shards()
        .map(|me| {
            let (shared, bells) = (Arc::clone(&shared), Arc::clone(&bells));
            std::thread::spawn(move || Node::run(shared, me, &bells, tokens, hops()))
        })
        .collect();
    watch(&shared, || nodes.iter().all(std::thread::JoinHandle::is_finished));
    nodes.into_iter().for_each(|node| node.join().unwrap());
}

#[test]
fn m5_two_threads_never_lose_a_wake_up() {
    threads(2, 1);
}

#[test]
fn m5_three_threads_with_many_tokens_never_lose_a_wake_up() {
    threads(3, 12);
}

#[test]
fn m5_two_processes_never_lose_a_wake_up() {
    let shared = shared(2);
    let bells = Arc::new(vec![eventfd(), eventfd()]);
    let (here, there) = UnixStream::pair().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_of_the_process_test", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::from(OwnedFd::from(there)))
        .spawn()
        .unwrap();
    let mut child = Reaped(child);
    send_fds(&here, &[shared.fd(), bells[0].as_fd(), bells[1].as_fd()]);
    let parent = {
        let (shared, bells) = (Arc::clone(&shared), Arc::clone(&bells));
        std::thread::spawn(move || Node::run(shared, ShardId(0), &bells, 2, hops()))
    };
    watch(&shared, || parent.is_finished());
    parent.join().unwrap();
    assert!(child.0.wait().unwrap().success());
}

/// The other process of the test above; without it, nothing.
#[test]
fn child_of_the_process_test() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut fds = receive_fds(&socket).into_iter();
    let shared = Arc::new(Shared::attach(fds.next().unwrap()).unwrap());
    Node::run(shared, ShardId(1), &fds.collect::<Vec<_>>(), 2, hops());
}

/// Ends the child with the test, however the test ends.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn send_fds(socket: &UnixStream, fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    let text = [IoSlice::new(b"fds")];
    rustix::net::sendmsg(socket, &text, &mut control, SendFlags::empty()).unwrap();
}

fn receive_fds(socket: &UnixStream) -> Vec<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 3];
    let mut parts = [IoSliceMut::new(&mut text)];
    rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    rights.flatten().collect()
}
