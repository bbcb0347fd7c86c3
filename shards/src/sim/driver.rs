//! The simulated driver: one shard's face of the world.
//!
//! Owns: nothing but the name of its shard and the life it was made for.  Not: the world.
//! V1  a driver of an earlier life does nothing and sees nothing.
//! V2  no borrow of the world is held while a callback runs.

use super::{Event, Finished, Outcome, World};
use crate::driver::{Completion, Done, Driver, Handle, Op, Token};
use heronry_engine::{Nanos, ShardId};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::task::Poll;

/// The driver of one life of one shard. See [`Driver`].
#[derive(Debug)]
pub struct SimDriver {
    world: World,
    shard: ShardId,
    life: u32,
}

impl SimDriver {
    pub(super) fn new(world: World, shard: ShardId, life: u32) -> SimDriver {
        SimDriver { world, shard, life }
    }

    fn alive(&self) -> bool {
        self.world.inner.borrow_mut().seat_of_life(self.shard, self.life).is_some()
    }

    fn take_finished(&self) -> VecDeque<Finished> {
        let mut inner = self.world.inner.borrow_mut();
        let now = inner.now;
        let Some(seat) = inner.seat_of_life(self.shard, self.life) else {
            return VecDeque::new();
        };
        seat.rung = false;
        while let Some(token) = seat.timers.expired(now) {
            seat.finish(token, None, Outcome::Expired);
        }
        std::mem::take(&mut seat.finished)
    }
}

impl Driver for SimDriver {
    fn name(&self) -> &'static str {
        "sim"
    }

    /// Any descriptor becomes a virtual listener; it is closed, for nothing real is touched.
    fn adopt(&mut self, fd: OwnedFd) -> Handle {
        drop(fd);
        self.world.listen(self.shard)
    }

    fn submit(&mut self, token: Token, op: Op) {
        if self.alive() {
            self.world.inner.borrow_mut().submit(self.shard, token, op);
        }
    }

    fn poll(&mut self, each: &mut dyn FnMut(Completion<'_>)) -> usize {
        let finished = self.take_finished();
        let count = finished.len();
        for Finished { token, outcome, .. } in finished {
            let last = outcome.is_last();
            let received;
            let done = match outcome {
                Outcome::Accepted(handle) => Done::Accepted(handle),
                Outcome::Received(bytes) => {
                    received = bytes;
                    Done::Received(&received)
                }
                Outcome::EndOfStream => Done::EndOfStream,
                Outcome::Sent(bytes) => Done::Sent(bytes),
                Outcome::Read(bytes) => Done::Read(bytes),
                Outcome::Written(bytes) => Done::Written(bytes),
                Outcome::Expired => Done::Expired,
                Outcome::Cancelled => Done::Cancelled,
                Outcome::Failed(errno) => Done::Failed { errno },
            };
            each(Completion { token, last, done });
        }
        count
    }

    async fn park(&mut self, until: Nanos) {
        if let Some(seat) = self.world.inner.borrow_mut().seat_of_life(self.shard, self.life) {
            seat.parked = Some(until);
            seat.woken = false;
        }
        std::future::poll_fn(|_| {
            let mut inner = self.world.inner.borrow_mut();
            match inner.seat_of_life(self.shard, self.life) {
                Some(seat) if seat.woken => {
                    seat.parked = None;
                    Poll::Ready(())
                }
                _ => Poll::Pending,
            }
        })
        .await;
    }

    fn doorbell(&mut self, shard: ShardId) {
        let inner = &mut *self.world.inner.borrow_mut();
        let delay = inner.random_span(inner.config.bell_delay_max);
        let at = inner.now.after(delay);
        inner.schedule(at, Event::Bell(shard));
    }

    fn now(&self) -> Nanos {
        self.world.now()
    }
}
