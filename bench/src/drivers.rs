//! `drivers`: the io_uring reactor beside the glommio one, on the same work.
//!
//! Owns: the pairing and its order.  Not: the work (`messages.rs`), the reactors (`shards`).
//! D1  runs interleave, so that a slow phase of the machine hits both.

use crate::context::{self, Context};
use crate::load::{self, Plan};
use crate::messages::{self, MessagesArgs, Work};
use crate::node::{Node, NodePlan};
use crate::peers::Shape;
use crate::report::{Better, Latency, Report, ratios};
use crate::{pipeline, sys};

const RUNTIMES: [&str; 2] = ["uring", "glommio"];
const SHAPES: [Shape; 3] =
    [Shape { connections: 1, depth: 1 }, Shape { connections: 32, depth: 1 }, pipeline::SHAPE];

/// Runs `drivers`.
pub fn run(context: &Context, args: &MessagesArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("drivers");
    report.note(context.pinning());
    let mut nodes = Vec::new();
    for runtime in RUNTIMES {
        let set = format!("shards.runtime={runtime}");
        match Node::start(context, &NodePlan::single(context).with(&set)) {
            Ok(node) => {
                messages::prepare_node(&node.addr(), args.agents)?;
                nodes.push((runtime, node));
            }
            // A host that cannot run one of them still shows the other.
            Err(error) => report.note(format!("skipped: {runtime}: {error:#}")),
        }
    }
    anyhow::ensure!(!nodes.is_empty(), "no driver starts here: {}", report.notes.join("; "));
    let _pinned = sys::Pinned::to(context.cores.client)?;
    let bar = context.progress("drivers", (SHAPES.len() * nodes.len() * context.repeat) as u64);
    let mut round = 0;
    for shape in SHAPES {
        let mut rates = vec![Vec::new(); nodes.len()];
        let mut p50s = vec![Vec::new(); nodes.len()];
        let mut p99s = vec![Vec::new(); nodes.len()];
        let mut latencies = vec![Latency::new(); nodes.len()];
        for _ in 0..context.repeat {
            for (at, (_, node)) in nodes.iter().enumerate() {
                let plan =
                    Plan::closed(node.addr(), shape.connections, shape.depth, context.seconds);
                let mut requests = Work::Send.encode(args.agents, round);
                let outcome = load::run(&plan, &mut requests)?.flawless()?;
                context::check_interrupt()?;
                rates[at].push(outcome.per_second());
                p50s[at].push(outcome.latency.us_at(50.0));
                p99s[at].push(outcome.latency.us_at(99.0));
                latencies[at].add(&outcome.latency);
                bar.inc(1);
            }
            round += 1;
        }
        for (at, (runtime, _)) in nodes.iter().enumerate() {
            let name = |what| format!("{}/{runtime}/{what}", shape.name());
            report.figure(&name("rate"), "ops/s", Better::Higher, rates[at].clone());
            report.figure(&name("p50"), "us", Better::Lower, p50s[at].clone());
            report.figure(&name("p99"), "us", Better::Lower, p99s[at].clone());
            report.curves.push(latencies[at].curve(format!("{}/{runtime}", shape.name())));
        }
        if nodes.len() == 2 {
            let name = |what| format!("{}/uring:glommio/{what}", shape.name());
            report.figure(&name("rate"), "x", Better::Higher, ratios(&rates[0], &rates[1]));
            report.figure(&name("p50"), "x", Better::Lower, ratios(&p50s[0], &p50s[1]));
        }
    }
    bar.finish_and_clear();
    for (_, node) in nodes {
        node.stop()?;
    }
    Ok(report)
}
