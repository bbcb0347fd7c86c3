//! Python agents that have each done a few steps: how soon their interpreters answer again.
//!
//! Owns: the steps and what they must have left.  Not: the timeline of a restart (`recover.rs`).
//! Y1  an agent's last step is durable; its number and its list are read back through its own
//!     interpreter, by code that the image, not the node, must know how to run.

use super::{RecoverArgs, Restarts, Server};
use crate::context::{self, Context};
use crate::report::Report;
use crate::sandbox::world::Folders;
use crate::{sweep, wire};
use std::path::Path;

/// Steps after the first.
const STEP_COUNT: u32 = 4;
/// What is asked of every agent after a restart.
const PRINT: &[u8] = b"print(n, len(notes), notes[-1]['n'])";

/// Makes `args.python` agents, kills the node, and starts it again and again.
pub fn run(
    context: &Context,
    args: &RecoverArgs,
    home: &Path,
    report: &mut Report,
) -> anyhow::Result<Vec<String>> {
    if Folders::of_user().is_none() {
        report.note("skipped: python: no guests were built; tools/guests/build makes them");
        return Ok(Vec::new());
    }
    let data = home.join("python");
    let (count, flying) = (args.python, sweep::CONNECTIONS);
    let server = Server::node(context, args, &data)?;
    for step in 0..=STEP_COUNT {
        let exec = |agent, out: &mut Vec<u8>| encode_step(agent, step, out);
        sweep::sweep(&server.addr(), count, flying, 1, exec, |_, _| true)?;
    }
    server.kill()?;
    let mut restarts = Restarts::default();
    let mut line = String::new();
    for repeat in 0..context.repeat {
        context::check_interrupt()?;
        let server = Server::node(context, args, &data)?;
        restarts.first(&server, &[b"AGENT.EXEC", b"python/0", PRINT])?;
        let print = |agent, out: &mut Vec<u8>| {
            wire::command(out, &[b"AGENT.EXEC", key_of(agent).as_bytes(), PRINT]);
            1
        };
        let is_right = |agent, reply: &[u8]| {
            wire::text(reply).map(<[u8]>::trim_ascii) == Some(printed(agent).as_bytes())
        };
        let addr = server.addr();
        let swept = sweep::sweep(&addr, count, flying, repeat as u64, print, is_right)?;
        restarts.all(&server, &swept);
        line = swept.line("python after kill -9");
        server.kill()?;
        if !swept.wrong.is_empty() {
            // The next restart would tell the same.
            break;
        }
    }
    restarts.tell(&format!("python-{count}"), report);
    Ok(vec![line])
}

fn encode_step(agent: u32, step: u32, out: &mut Vec<u8>) -> u32 {
    let code = match step {
        0 => format!("import json\nn = {agent}\nnotes = []"),
        _ => format!("n += {step}\nnotes.append({{'n': n, 'text': 'step {step}'}})"),
    };
    let key = key_of(agent);
    let parts: [&[u8]; 5] = [b"AGENT.EXEC", key.as_bytes(), code.as_bytes(), b"ACK", b"durable"];
    wire::command(out, &parts);
    1
}

/// What [`PRINT`] must print.
fn printed(agent: u32) -> String {
    let n = agent + (1..=STEP_COUNT).sum::<u32>();
    format!("{n} {STEP_COUNT} {n}")
}

fn key_of(agent: u32) -> String {
    format!("python/{agent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn y1_every_agent_prints_something_else() {
        assert_eq!(printed(0), "10 4 10");
        assert_ne!(printed(1), printed(2));
    }
}
