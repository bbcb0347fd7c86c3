//! `seal`, `fork`, `rollback`: one operation of a data agent, in the engine and over the wire.
//!
//! Owns: sizes and dirty counts that are shown.  Not: the cycles (`cycle.rs`).
//! S1  the engine's figure and the wire's stand side by side; the first is what the second pays for
//!     beside sockets and wake-ups.

use crate::context::{self, Context};
use crate::cycle::{Cycle, Operation, Shape};
use crate::link::{Addr, Link};
use crate::load::{self, Plan, Requests};
use crate::node::{Node, NodePlan};
use crate::report::{Better, Report};
use crate::{sys, wire};
use clap::Args;

/// Image sizes in pages, from one page to 64 MiB.
const PAGE_COUNTS: [u32; 4] = [1, 16, 256, 4096];
/// Dirty pages, at the size of 16 MiB.
const DIRTY_COUNTS: [u32; 4] = [1, 10, 100, 1000];
/// Agents of the wire part.
const AGENT_COUNT: usize = 256;

/// Arguments of `seal`, `fork` and `rollback`.
#[derive(Clone, Debug, Args)]
pub struct CycleArgs {
    /// Skip the part that goes through a real node
    #[arg(long)]
    pub engine_only: bool,
}

/// Runs one of the three scenarios.
pub fn run(context: &Context, args: &CycleArgs, operation: Operation) -> anyhow::Result<Report> {
    let name = scenario_name(operation);
    let mut report = Report::new(name);
    report
        .note("engine: one thread, means of batches of up to 32; write: first writes after a seal");
    let _pinned = sys::Pinned::to(context.cores.client)?;
    let bar = context.progress(name, (PAGE_COUNTS.len() + DIRTY_COUNTS.len()) as u64);
    for shape in shapes() {
        context::check_interrupt()?;
        engine(context, shape, operation, &mut report)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if !args.engine_only {
        report.note(context.pinning());
        over_the_wire(context, operation, &mut report)?;
    }
    Ok(report)
}

fn scenario_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Write => "write",
        Operation::Seal => "seal",
        Operation::Fork => "fork",
        Operation::Rollback => "rollback",
    }
}

fn shapes() -> Vec<Shape> {
    let by_size = PAGE_COUNTS.iter().map(|count| Shape { page_count: *count, dirty_count: 1 });
    let by_dirt = DIRTY_COUNTS[1..]
        .iter()
        .map(|dirty_count| Shape { page_count: PAGE_COUNTS[3], dirty_count: *dirty_count });
    by_size.chain(by_dirt).collect()
}

/// Adds the engine's figures of one shape: the operation, and for a seal the writes before it.
pub fn engine(
    context: &Context,
    shape: Shape,
    operation: Operation,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut cycle = Cycle::new(shape)?;
    let mut operations = vec![operation];
    if operation == Operation::Seal {
        operations.push(Operation::Write);
    }
    for operation in operations {
        cycle.run(operation, 0.05)?;
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for repeat in 0..context.repeat {
            let (latency, _) = cycle.run(operation, (context.seconds / 3.0).min(1.0))?;
            p50.push(latency.us_at(50.0));
            p99.push(latency.us_at(99.0));
            if repeat == 0 {
                let name = format!("{}/{}", scenario_name(operation), shape.name());
                report.curves.push(latency.curve(name));
            }
        }
        let name = |what| format!("engine/{}/{}/{what}", scenario_name(operation), shape.name());
        report.figure(&name("p50"), "us", Better::Lower, p50);
        report.figure(&name("p99"), "us", Better::Lower, p99);
    }
    Ok(())
}

/// The same operation as a client sees it: one connection, one request at a time.
fn over_the_wire(
    context: &Context,
    operation: Operation,
    report: &mut Report,
) -> anyhow::Result<()> {
    let node = Node::start(context, &NodePlan::single(context))?;
    prepare(&node.addr())?;
    let mut requests = WireOperation { operation, next: 0, label: 0 };
    let mut plan = Plan::closed(node.addr(), 1, 1, context.seconds);
    plan.replies_per_request = WireOperation::REPLIES;
    plan.request_count_max = 50_000;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..context.repeat {
        let outcome = load::run(&plan, &mut requests)?.flawless()?;
        context::check_interrupt()?;
        p50.push(outcome.latency.us_at(50.0));
        p99.push(outcome.latency.us_at(99.0));
    }
    let name = |what| format!("wire/{}/64KiB/1-dirty/{what}", scenario_name(operation));
    report.figure(&name("p50"), "us", Better::Lower, p50);
    report.figure(&name("p99"), "us", Better::Lower, p99);
    node.stop()
}

fn prepare(addr: &Addr) -> anyhow::Result<()> {
    let mut link = Link::connect(addr)?;
    for agent in 0..AGENT_COUNT {
        let key = format!("notebook/{agent}");
        link.ask(&[b"AGENT.CREATE", key.as_bytes(), b"SIZE", b"65536"])?;
        link.ask(&[b"AGENT.SEND", key.as_bytes(), b"set 1 first"])?;
        link.ask(&[b"AGENT.CHECKPOINT", key.as_bytes(), b"LABEL", b"base"])?;
    }
    Ok(())
}

/// A message that dirties a page, and the operation, in one round trip.
struct WireOperation {
    operation: Operation,
    next: usize,
    label: u64,
}

impl WireOperation {
    /// The message's and the operation's.
    const REPLIES: u32 = 2;
}

impl Requests for WireOperation {
    fn append(&mut self, _conn: usize, out: &mut Vec<u8>) {
        let key = format!("notebook/{}", self.next % AGENT_COUNT);
        self.next += 1;
        self.label += 1;
        let set = format!("set {} {}", self.label % 500, self.label);
        wire::command(out, &[b"AGENT.SEND", key.as_bytes(), set.as_bytes()]);
        match self.operation {
            Operation::Write | Operation::Seal => {
                let parts: [&[u8]; 4] = [b"AGENT.CHECKPOINT", key.as_bytes(), b"LABEL", b"bench"];
                wire::command(out, &parts);
            }
            Operation::Fork => {
                let suffix = format!("b{}", self.label);
                let parts: [&[u8]; 4] = [b"AGENT.FORK", key.as_bytes(), b"AS", suffix.as_bytes()];
                wire::command(out, &parts);
            }
            Operation::Rollback => {
                let parts: [&[u8]; 4] = [b"AGENT.ROLLBACK", key.as_bytes(), b"TO", b"@base"];
                wire::command(out, &parts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wire_operation_brings_as_many_replies_as_it_has_commands() {
        for operation in [Operation::Seal, Operation::Fork, Operation::Rollback] {
            let mut requests = WireOperation { operation, next: 0, label: 0 };
            let mut out = Vec::new();
            requests.append(0, &mut out);
            let mut at = 0;
            let mut count = 0;
            while at < out.len() {
                at += wire::extent(&out[at..]).expect("RESP").expect("whole").len_bytes;
                count += 1;
            }
            assert_eq!(count, WireOperation::REPLIES);
        }
    }
}
