//! `pipeline`: the work of `messages` at depth 16 over 32 connections, and at half that load.
//!
//! Owns: the shape of the load, the open loop at half of it.  Not: the work (`messages.rs`).
//! H1  the half load is half of what the same node reached in the closed loop just before.
//! H2  at half load shard and generator both poll, each on a core of its own: the figure is what
//!     the shard takes, not what the kernel takes to wake either side.

use crate::context::{self, Context};
use crate::load::{self, Pace, Plan};
use crate::messages::{self, MessagesArgs, Work};
use crate::node::{Node, NodePlan};
use crate::peers::{self, Shape};
use crate::report::{Better, Latency, Report};
use crate::sys;

/// The shape of the scenario.
pub const SHAPE: Shape = Shape { connections: 32, depth: 16 };

/// Runs `pipeline`.
pub fn run(context: &Context, args: &MessagesArgs) -> anyhow::Result<Report> {
    let mut report = peers::measure(context, args, "pipeline", &[SHAPE], false)?;
    half_load(context, args, &mut report)?;
    Ok(report)
}

/// Adds latency at half load on a spinning shard (H2): pipelines of the same depth arrive evenly
/// whatever the replies do, and each request is timed from its pipeline's intended arrival.
pub fn half_load(
    context: &Context,
    args: &MessagesArgs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let spin = format!("shards.spin_us={}", args.spin_us);
    let node = Node::start(context, &NodePlan::single(context).with(&spin))?;
    let depth = SHAPE.depth;
    report.note(format!("half load: pipelines of {depth}, evenly, shard with {spin}"));
    messages::prepare_node(&node.addr(), args.agents)?;
    let _pinned = sys::Pinned::to(context.cores.client)?;
    let mut requests = Work::Send.encode(args.agents, 0);
    let (mut rates, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new());
    let mut all = Latency::new();
    for _ in 0..context.repeat {
        let mut plan =
            Plan::closed(node.addr(), SHAPE.connections, SHAPE.depth, context.seconds / 2.0);
        let reached = load::run(&plan, &mut requests)?.flawless()?.per_second();
        plan.pace = Pace::Open { per_second: reached / 2.0 };
        plan.spin = context.cores.apart();
        plan.seconds = context.seconds;
        let outcome = load::run(&plan, &mut requests)?.flawless()?;
        context::check_interrupt()?;
        anyhow::ensure!(
            outcome.unanswered_count == 0,
            "{} requests at half load were never answered",
            outcome.unanswered_count
        );
        rates.push(outcome.per_second());
        p50.push(outcome.latency.us_at(50.0));
        p99.push(outcome.latency.us_at(99.0));
        all.add(&outcome.latency);
    }
    report.figure("half/rate", "ops/s", Better::Neither, rates);
    report.figure("half/p50", "us", Better::Lower, p50);
    report.figure("half/p99", "us", Better::Lower, p99);
    report.curves.push(all.curve("half load"));
    node.stop()
}
