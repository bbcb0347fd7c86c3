//! Out of file descriptors: accepting ends with `EMFILE`, nobody else notices, and it goes on
//! once there are some again. In a process of its own, since the limit is the process's.

// Set-up that fails ends the test.
#![allow(clippy::unwrap_used)]

use heronry_engine::{Nanos, ShardId};
use heronry_numa::Clock;
use heronry_shards::driver::{Done, Doorbells, Driver, Handle, Op, Token};
use heronry_shards::uring::{self, Uring, UringConfig};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const LISTENER: u64 = 1;
/// Descriptors that stay free for connections.
const FREE_COUNT: usize = 5;

#[allow(unsafe_code)]
fn eventfd() -> OwnedFd {
    // SAFETY: makes a new descriptor or returns -1.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: just made, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sets the highest descriptor number; returns the old limit.
#[allow(unsafe_code)]
fn limit_descriptors(limit: libc::rlim_t) -> libc::rlim_t {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills the struct.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut old) }, 0);
    let new = libc::rlimit { rlim_cur: limit, rlim_max: old.rlim_max };
    // SAFETY: reads the struct.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &new) }, 0);
    old.rlim_cur
}

#[derive(Default)]
struct Seen {
    accepted: Vec<Handle>,
    failed: Vec<i32>,
    received_bytes: usize,
}

fn passes(driver: &mut Uring, seen: &mut Seen, done: impl Fn(&Seen) -> bool) {
    let hang = driver.now().after(Nanos::from_ms(30_000));
    while !done(seen) {
        driver.poll(&mut |completion| match completion.done {
            Done::Accepted(handle) => seen.accepted.push(handle),
            Done::Failed { errno } => seen.failed.push(errno),
            Done::Received(bytes) => seen.received_bytes += bytes.len(),
            _ => {}
        });
        assert!(driver.now() < hang, "{:?} {:?}", seen.accepted, seen.failed);
        let until = driver.now().after(Nanos::from_ms(1));
        uring::block_on(driver.park(until));
    }
}

#[test]
fn accepting_without_descriptors_fails_and_goes_on_later() {
    if let Err(why) = uring::check() {
        println!("skipped: {why}");
        return;
    }
    let doorbells = Doorbells { me: ShardId(0), eventfds: vec![eventfd()] };
    let mut driver = Uring::new(UringConfig::new(doorbells), Clock::calibrate()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listener = driver.adopt(listener.into());
    // All of them wait in the listener's backlog before the first is accepted.
    let clients: Vec<TcpStream> =
        (0..FREE_COUNT + 5).map(|_| TcpStream::connect(address).unwrap()).collect();
    let next = eventfd().as_raw_fd();
    let old = limit_descriptors(next as libc::rlim_t + FREE_COUNT as libc::rlim_t);

    let mut seen = Seen::default();
    driver.submit(Token(LISTENER), Op::Accept(listener));
    passes(&mut driver, &mut seen, |seen| !seen.failed.is_empty());
    assert_eq!(seen.failed, [libc::EMFILE]);
    assert_eq!(seen.accepted.len(), FREE_COUNT);

    // The connections there are go on as if nothing had happened.
    for (idx, socket) in seen.accepted.clone().into_iter().enumerate() {
        driver.submit(Token(100 + idx as u64), Op::Receive(socket));
    }
    for mut client in &clients[..FREE_COUNT] {
        std::io::Write::write_all(&mut client, b"still here").unwrap();
    }
    passes(&mut driver, &mut seen, |seen| seen.received_bytes == FREE_COUNT * 10);

    for socket in std::mem::take(&mut seen.accepted) {
        driver.submit(Token(0), Op::Close(socket));
    }
    let ended = FREE_COUNT;
    let mut count = 0;
    while count < ended {
        driver.poll(&mut |completion| count += usize::from(completion.last));
        let until = driver.now().after(Nanos::from_ms(1));
        uring::block_on(driver.park(until));
    }
    driver.submit(Token(LISTENER), Op::Accept(listener));
    passes(&mut driver, &mut seen, |seen| seen.accepted.len() == 5);
    limit_descriptors(old);
}
