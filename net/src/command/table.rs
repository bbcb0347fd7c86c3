//! The table of commands: every fact about each that is not code.
//!
//! Owns: the one list that dispatch, COMMAND and docs/commands.md read.
//! Not: what the facts are used for.  The table is split by group; [`COMMANDS`] joins it.

mod agent;
mod connection;
mod portable;
mod server;
mod template;

use super::{Arg, ArgKind, Command, Replies};

/// Every command, by group.
pub static COMMANDS: [Command; COMMAND_COUNT] = joined();

/// Every code that may start an error, with what it means and what to do. The codes of refusals are
/// here too.
pub const CODES: &[(&str, &str)] = &[
    ("ERR", "The command is unknown, malformed or misused; the text says what would be right."),
    ("NOAUTH", "This node has a password: AUTH or HELLO ... AUTH first."),
    ("WRONGPASS", "The user name or the password is wrong."),
    ("NOPROTO", "HELLO asked for a protocol other than 2 or 3."),
    ("BADKEY", "The key breaks the grammar `template/name`; the text names the rule."),
    ("BADVALUE", "An argument is out of its range; the text names the value and the range."),
    ("NOTEMPLATE", "No such template; TEMPLATE.LIST shows what there is."),
    ("NOAGENT", "No such agent, and this command does not make one."),
    (
        "LOST",
        "The agent's shard restarted and the agent was in memory only; AGENT.CREATE starts \
              a new one.",
    ),
    ("EXISTS", "The agent exists already."),
    ("NOVERSION", "No such version, or it is no longer kept; AGENT.VERSIONS lists what is."),
    ("WRONGSTATE", "The agent's state does not allow this; the text says what does."),
    ("QUARANTINED", "The agent panicked too often and takes no messages; AGENT.RESUME lifts it."),
    ("BUSY", "A bounded queue is full. Nothing was queued: retry later or slow down."),
    ("FULL", "The shard's memory is full. The turn was undone."),
    ("LIMIT", "A count or size limit would be passed; the text names both numbers."),
    ("TIMEOUT", "The deadline passed before the message was handled. It was not handled."),
    ("TRYAGAIN", "The agent's shard is restarting: retry in a moment. The request may have run."),
    ("FAULT", "The agent's handler failed. Its image is what it was before the message."),
    ("RAISED", "The agent's code raised an error of its own; the text has its traceback."),
    ("DROPPED", "The agent rolled back, committed or ended while it owed this answer."),
    ("BADTEMPLATE", "The template was not made or changed; the text is why, a traceback perhaps."),
    ("BADSNAPSHOT", "The snapshot was not made and nothing is left of it; the text says why."),
    ("NOTALLOWED", "The operator does not allow it; the text names the key to set."),
    ("HTTP", "An agent's HTTP request got no whole response. The server may have acted on it."),
    (
        "UNREADABLE",
        "What the log has of the agent cannot be read; `heronry log verify` shows what is wrong.",
    ),
    ("DISKFULL", "The log has no room on disk, so nothing new can be durable. Nothing was done."),
    ("NOLOG", "This node keeps no log, so nothing can be durable. Nothing was done."),
];

/// How many commands there are.
pub const COMMAND_COUNT: usize = connection::COMMANDS.len()
    + server::COMMANDS.len()
    + template::COMMANDS.len()
    + agent::COMMANDS.len()
    + portable::COMMANDS.len();

const fn joined() -> [Command; COMMAND_COUNT] {
    let mut all = [connection::COMMANDS[0]; COMMAND_COUNT];
    let groups = [
        connection::COMMANDS,
        server::COMMANDS,
        template::COMMANDS,
        agent::COMMANDS,
        portable::COMMANDS,
    ];
    let (mut group, mut idx) = (0, 0);
    while group < groups.len() {
        let mut row = 0;
        while row < groups[group].len() {
            all[idx] = groups[group][row];
            idx += 1;
            row += 1;
        }
        group += 1;
    }
    all
}

/// The same reply in both protocols.
const fn same(reply: &'static str) -> Replies {
    Replies { resp3: reply, resp2: "" }
}

const OK: Replies = same("`+OK`.");

const fn text(name: &'static str, about: &'static str) -> Arg {
    Arg::new(name, ArgKind::Text, about)
}

const fn integer(name: &'static str, about: &'static str) -> Arg {
    Arg::new(name, ArgKind::Integer, about)
}

const fn one_of(name: &'static str, words: &'static [&'static str], about: &'static str) -> Arg {
    Arg::new(name, ArgKind::OneOf(words), about)
}
