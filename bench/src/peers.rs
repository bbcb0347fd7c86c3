//! `peers`: the same work on our node and on Redis, one core for the server, one for the client.
//!
//! Owns: who takes part, the order of runs, the ratios.  Not: the work itself (`messages.rs`).
//! F1  runs interleave: ours, theirs, ours, theirs; a ratio is taken inside one round.
//! F2  the peer that does the same work is the script, which is atomic as a turn is; pair (not
//!     atomic) and overwrite (reads nothing) do less and stand beside it as stricter lines.

use crate::context::{self, Context};
use crate::link::Addr;
use crate::load::{self, Plan};
use crate::messages::{self, MessagesArgs, Work};
use crate::node::{Node, NodePlan};
use crate::redis::{self, Redis};
use crate::report::{Better, Latency, Report, ratios};
use crate::{machine, pipeline, sys};

/// Connections and unanswered requests per connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Connections.
    pub connections: usize,
    /// Depth of each one's pipeline.
    pub depth: usize,
}

impl Shape {
    /// The part of a figure's name that says the shape.
    pub fn name(&self) -> String {
        format!("{}x{}", self.connections, self.depth)
    }
}

/// One side of the comparison, ready to be measured.
pub struct Contestant {
    /// Its name in figures.
    pub name: &'static str,
    /// Its server.
    pub addr: Addr,
    /// Its words for the work.
    pub work: Work,
    /// Processes of the server.
    pub pids: Vec<u32>,
    /// Rounds that it has run, over all shapes.
    pub round_count: usize,
}

/// What one contestant gave, round by round.
#[derive(Default)]
struct Rounds {
    per_second: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    /// CPU time of the server per request, which a busy machine blurs less than rates.
    server_us: Vec<f64>,
    latency: Latency,
}

/// Runs `peers`: the shapes of `messages` and of `pipeline`, with Redis.
pub fn run(context: &Context, args: &MessagesArgs) -> anyhow::Result<Report> {
    let one = Shape { connections: 1, depth: 1 };
    let many = Shape { connections: 32, depth: 1 };
    measure(context, args, "peers", &[one, many, pipeline::SHAPE], true)
}

/// Measures `shapes`, each in `context.repeat` interleaved rounds (F1).
pub fn measure(
    context: &Context,
    args: &MessagesArgs,
    scenario: &str,
    shapes: &[Shape],
    with_redis: bool,
) -> anyhow::Result<Report> {
    let mut report = Report::new(scenario);
    report.note(context.pinning());
    let parked = Node::start(context, &NodePlan::single(context).with("shards.spin_us=0"))?;
    let spin = format!("shards.spin_us={}", args.spin_us);
    let spinning = Node::start(context, &NodePlan::single(context).with(&spin))?;
    let redis = if with_redis { Redis::start(context, context.cores.server)? } else { None };
    let mut contestants = Vec::new();
    for (name, node) in [("heronry", &parked), ("heronry-spin", &spinning)] {
        messages::prepare_node(&node.addr(), args.agents)?;
        let addr = if args.unix && !with_redis { node.unix() } else { node.addr() };
        let pids = node.pids();
        contestants.push(Contestant { name, addr, work: Work::Send, pids, round_count: 0 });
    }
    match &redis {
        Some(redis) => {
            let theirs = redis_contestants(redis, args.agents, "no persistence", &mut report)?;
            contestants.extend(theirs);
        }
        None if with_redis => report.note(redis::ABSENT),
        None => {}
    }
    interleave(context, args.agents, shapes, &mut contestants, &mut report)?;
    drop(redis);
    parked.stop()?;
    spinning.stop()?;
    Ok(report)
}

/// Runs `shapes` on `agents` agents of every contestant in turn (F1) and publishes what they gave.
pub fn interleave(
    context: &Context,
    agents: u32,
    shapes: &[Shape],
    contestants: &mut [Contestant],
    report: &mut Report,
) -> anyhow::Result<()> {
    let _pinned = sys::Pinned::to(context.cores.client)?;
    let steps = shapes.len() * contestants.len() * context.repeat;
    let bar = context.progress(&report.scenario, steps as u64);
    for shape in shapes {
        let mut rounds: Vec<Rounds> = contestants.iter().map(|_| Rounds::default()).collect();
        for _ in 0..context.repeat {
            for (contestant, rounds) in contestants.iter_mut().zip(&mut rounds) {
                context::check_interrupt()?;
                bar.set_message(format!("{} {}", contestant.name, shape.name()));
                one_round(context, agents, contestant, *shape, rounds)?;
                bar.inc(1);
            }
        }
        publish(report, *shape, contestants, &rounds);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Makes the values on Redis, which keeps what `kept` says; the three ways it can do the work (F2).
pub fn redis_contestants(
    redis: &Redis,
    agents: u32,
    kept: &str,
    report: &mut Report,
) -> anyhow::Result<Vec<Contestant>> {
    messages::prepare_redis(&redis.addr(), agents)?;
    report.note(format!(
        "redis {}, {kept}. script: EVALSHA of GETRANGE + SETRANGE; pair: both in one \
         pipeline, not atomic; overwrite: SETRANGE alone, reads nothing",
        redis.version()
    ));
    let script = Work::Script { digest: redis.load_script()? };
    let contestant = |name, work| {
        let (addr, pids) = (redis.addr(), vec![redis.pid()]);
        Contestant { name, addr, work, pids, round_count: 0 }
    };
    Ok(vec![
        contestant("redis-script", script),
        contestant("redis-pair", Work::Pair),
        contestant("redis-overwrite", Work::Overwrite),
    ])
}

fn one_round(
    context: &Context,
    agents: u32,
    contestant: &mut Contestant,
    shape: Shape,
    rounds: &mut Rounds,
) -> anyhow::Result<()> {
    let addr = contestant.addr.clone();
    let mut plan = Plan::closed(addr, shape.connections, shape.depth, context.seconds);
    plan.replies_per_request = contestant.work.replies_per_request();
    let mut requests = contestant.work.encode(agents, contestant.round_count);
    contestant.round_count += 1;
    let cpu_seconds = || contestant.pids.iter().map(|pid| machine::cpu_seconds(*pid)).sum::<f64>();
    let cpu_before = cpu_seconds();
    let outcome = load::run(&plan, &mut requests)?.flawless()?;
    context::check_interrupt()?;
    // The warm-up's share of CPU time belongs to requests that are not counted.
    let counted = plan.seconds / (plan.seconds + plan.warmup_seconds);
    let server_s = (cpu_seconds() - cpu_before) * counted;
    rounds.server_us.push(server_s * 1e6 / outcome.request_count.max(1) as f64);
    rounds.per_second.push(outcome.per_second());
    rounds.p50_us.push(outcome.latency.us_at(50.0));
    rounds.p99_us.push(outcome.latency.us_at(99.0));
    rounds.latency.add(&outcome.latency);
    Ok(())
}

fn publish(report: &mut Report, shape: Shape, contestants: &[Contestant], rounds: &[Rounds]) {
    let shape_name = shape.name();
    for (contestant, rounds) in contestants.iter().zip(rounds) {
        let name = |what: &str| format!("{shape_name}/{}/{what}", contestant.name);
        report.figure(&name("rate"), "ops/s", Better::Higher, rounds.per_second.clone());
        report.figure(&name("p50"), "us", Better::Lower, rounds.p50_us.clone());
        report.figure(&name("p99"), "us", Better::Lower, rounds.p99_us.clone());
        report.figure(&name("server-cpu"), "us/op", Better::Lower, rounds.server_us.clone());
        report.curves.push(rounds.latency.curve(format!("{shape_name}/{}", contestant.name)));
    }
    let sides = || contestants.iter().zip(rounds);
    for (ours, our_rounds) in sides().filter(|(side, _)| side.work.is_ours()) {
        for (peer, peer_rounds) in sides().filter(|(side, _)| !side.work.is_ours()) {
            let name = |what: &str| format!("{shape_name}/{}:{}/{what}", ours.name, peer.name);
            let rate = ratios(&our_rounds.per_second, &peer_rounds.per_second);
            report.figure(&name("rate"), "x", Better::Higher, rate);
            let p50 = ratios(&our_rounds.p50_us, &peer_rounds.p50_us);
            report.figure(&name("p50"), "x", Better::Lower, p50);
        }
    }
}
