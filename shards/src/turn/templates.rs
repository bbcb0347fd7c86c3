//! The part of the loop that serves the link to the control thread.
//!
//! Owns: when a starting shard begins to serve.  Not: the link's own state (`errand`), templates.
//! L1  a shard is up once it has the node's templates, or has waited long enough.
//! L2  a node takes its first clients once all shards are up: none of them is told to try again.

use super::Shard;
use crate::connection::Mark;
use crate::driver::{Driver, Op};
use crate::gateway::Gateway;
use heronry_engine::Nanos;

/// How long a starting shard waits for the node's templates before it serves without them.
const TEMPLATES_WAIT_MAX: Nanos = Nanos::from_ms(60_000);

impl<D: Driver, G: Gateway> Shard<D, G> {
    /// Loads the templates that the node has, so that the first client finds them.
    pub(super) async fn await_templates(&mut self) {
        let deadline = self.driver.now().after(TEMPLATES_WAIT_MAX);
        self.link.begin(&mut self.todo);
        while self.link.expecting() && !self.block().stop_requested() {
            let now = self.driver.now();
            self.block().beat(now);
            self.take_completions(now);
            self.serve_link(now);
            self.settle(now);
            if now > deadline {
                let (me, waited_ms) = (self.me.0, TEMPLATES_WAIT_MAX.0 / 1_000_000);
                (self.plan.report)(format_args!(
                    "shard {me} has not got the node's templates within {waited_ms} ms and serves \
                     without those that are missing"
                ));
                break;
            }
            self.driver.park(now.after(Nanos::from_ms(10))).await;
        }
    }

    /// Takes clients from now on, if it is time (L2). Returns whether it is.
    pub(super) fn listen(&mut self) -> bool {
        let begun = self.peers.have_begun();
        if begun {
            for (idx, listener) in (0u32..).zip(&self.listeners) {
                self.driver.submit(Mark::Accept(idx).token(), Op::Accept(*listener));
            }
        }
        begun
    }

    /// Does what the control thread asks, and passes on what it answers.
    pub(super) fn serve_link(&mut self, now: Nanos) {
        if !self.link.unserved() {
            return;
        }
        for (origin, result) in self.link.serve(&mut self.partition, &mut self.facts) {
            self.give(now, origin, result);
        }
        self.take_snapshot_steps(now);
    }
}
