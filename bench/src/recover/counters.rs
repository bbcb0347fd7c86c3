//! Small agents, one page each, by the hundred thousand: how soon a node with them is up.
//!
//! Owns: making them, the sample that is read back.  Not: the timeline of a restart (`recover.rs`).
//! C1  after a restart all are on disk only until somebody asks; the sample is spread over the
//!     whole log, and the count of all is compared.

use super::{RecoverArgs, Restarts, Server};
use crate::context::{self, Context};
use crate::report::{Better, Report};
use crate::{create, sweep, wire};
use std::path::Path;
use std::time::Instant;

/// Commands in flight while they are made.
const MAKE_FLYING: usize = 1024;
/// Agents read back after a restart.
const SAMPLE_COUNT: u32 = 1000;

/// Makes `args.agents` counters, kills the node, and starts it again and again.
pub fn run(
    context: &Context,
    args: &RecoverArgs,
    home: &Path,
    report: &mut Report,
) -> anyhow::Result<String> {
    let data = home.join("counters");
    let name = format!("counters-{}", args.agents);
    let server = Server::node(context, args, &data)?;
    let began = Instant::now();
    let swept = sweep::sweep(&server.addr(), args.agents, MAKE_FLYING, 1, add, |_, _| true)?;
    let seconds = began.elapsed().as_secs_f64();
    let rate = swept.driven.turn_count as f64 / seconds;
    report.single(&format!("{name}/made"), "durable/s", Better::Higher, rate);
    let resident_mb = server.resident_bytes() as f64 / 1e6;
    report.single(&format!("{name}/made-resident"), "MB", Better::Neither, resident_mb);
    server.kill()?;
    let mut restarts = Restarts::default();
    let mut line = String::new();
    for repeat in 0..context.repeat {
        context::check_interrupt()?;
        let server = Server::node(context, args, &data)?;
        restarts.first(&server, &[b"AGENT.SEND", b"counter/0", b"get"])?;
        line = read_sample(&server, args.agents, repeat as u64)?;
        server.kill()?;
    }
    restarts.tell(&name, report);
    Ok(line)
}

fn read_sample(server: &Server, agents: u32, seed: u64) -> anyhow::Result<String> {
    let count = create::counter_sum(&server.addr(), "agents")?;
    if count != u64::from(agents) {
        return Ok(format!("MISMATCH: counters: {count} of {agents} came back"));
    }
    let sample = agents.min(SAMPLE_COUNT);
    let spread = |n: u32| (u64::from(n) * u64::from(agents) / u64::from(sample)) as u32;
    let get = |n: u32, out: &mut Vec<u8>| {
        let key = format!("counter/{}", spread(n));
        wire::command(out, &[b"AGENT.SEND", key.as_bytes(), b"get"]);
        1
    };
    let is_right =
        |n: u32, reply: &[u8]| wire::number(reply) == Some(i64::from(amount_of(spread(n))));
    let swept = sweep::sweep(&server.addr(), sample, sweep::CONNECTIONS, seed, get, is_right)?;
    Ok(swept.line(&format!("counters: count of {agents}, and a sample")))
}

fn add(agent: u32, out: &mut Vec<u8>) -> u32 {
    let (key, amount) = (format!("counter/{agent}"), amount_of(agent).to_string());
    let parts: [&[u8]; 5] = [b"AGENT.SEND", key.as_bytes(), amount.as_bytes(), b"ACK", b"durable"];
    wire::command(out, &parts);
    1
}

/// What an agent counts to; no two neighbours the same.
fn amount_of(agent: u32) -> u32 {
    agent % 9973 + 1
}
