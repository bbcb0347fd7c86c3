//! Rows of the table: about the node.
//!
//! Owns: INFO, COMMAND, CONFIG, SHARD.LIST, NODE.SNAPSHOT.
//! Not: what they do (`session/local.rs`).

use super::{same, text};
use crate::command::parse::ErrandVerb;
use crate::command::{Action, Arg, ArgKind, Command, Group, Replies};

const fn row(name: &'static str, action: Action, summary: &'static str) -> Command {
    Command {
        name,
        action,
        group: Group::Server,
        flags: &["loading", "stale"],
        since: "0.1.0",
        complexity: "O(1)",
        summary,
        args: &[],
        reply: super::OK,
        errors: &[],
        example: "",
        subcommands: &[],
    }
}

const NAMES: Arg = text("command-name", "In any case; `CLIENT|ID` or `CLIENT` both work.");

/// The rows.
pub const COMMANDS: &[Command] = &[
    Command {
        args: &[super::one_of(
            "section",
            &["server", "clients", "stats", "shards", "all", "default", "everything"],
            "Which part; all of it when absent.",
        )
        .optional()
        .multiple()],
        complexity: "O(S) for S shards",
        reply: Replies {
            resp3: "verbatim string: `# Section` lines, each followed by `name:value` lines. \
                    An unknown section is empty.",
            resp2: "the same as a bulk string.",
        },
        example: "> INFO clients\n# Clients\nconnected_clients:1\nopened_connections:1\n...",
        ..row(
            "INFO",
            Action::Info,
            "Facts and counters of the node, as text. `clients` counts the connections of the \
             shard that answers; `stats` sums over all shards.",
        )
    },
    Command {
        subcommands: COMMAND,
        complexity: "O(N) for N commands",
        reply: Replies {
            resp3: "array with one entry per command: name, arity (negative: at least), flags, \
                    positions of first key, last key and step, categories, tips, key \
                    specifications, subcommands.",
            resp2: "the same; flags are arrays instead of sets.",
        },
        example: "> COMMAND\n...",
        ..row("COMMAND", Action::Command, "Describes all commands to client libraries.")
    },
    Command {
        subcommands: CONFIG,
        reply: same("see the subcommand."),
        ..row("CONFIG", Action::Config, "Answers what benchmarks written for Redis ask.")
    },
    Command {
        complexity: "O(S) for S shards",
        reply: Replies {
            resp3: "array of maps: `shard`, `state` (starting, up, down), `cpu` (null when not \
                    pinned), `pid`, `restart_count`, and every published counter by name; times \
                    are nanoseconds.",
            resp2: "array of flat arrays of names and values.",
        },
        example: "> SHARD.LIST\n1)  1) \"shard\"\n    2) (integer) 0\n    3) \"state\"\n    \
                  4) \"up\"\n...",
        ..row("SHARD.LIST", Action::ShardList, "The shards of this node and their counters.")
    },
    Command {
        args: &[text("name", "1 to 63 of `a-z`, `A-Z`, `0-9`, `-` and `_`; none that is there.")],
        flags: &["admin"],
        complexity: "O(F) for F files of the log and the templates; some milliseconds, in which \
                     requests that go from one shard to another wait",
        reply: same("bulk string: the path of the snapshot on the node's host."),
        errors: &["BADVALUE", "BADSNAPSHOT", "BUSY", "TRYAGAIN"],
        example: "> NODE.SNAPSHOT monday\n\"/var/lib/heronry/data/snapshots/monday\"",
        ..row(
            "NODE.SNAPSHOT",
            Action::Errand(ErrandVerb::Snapshot),
            "Gives the logs and templates, as of one moment on all shards, second names under \
             `snapshots/` in the data folder: a data folder of its own, for a node or a copy. \
             `heronry backup` makes one, copies it and removes it. What it holds keeps its room on \
             disk until the folder is removed.",
        )
    },
];

const COMMAND: &[Command] = &[
    Command {
        reply: same("integer."),
        example: "> COMMAND COUNT\n(integer) 36",
        ..row("COMMAND|COUNT", Action::CommandCount, "How many commands there are.")
    },
    Command {
        args: &[Arg::new(
            "filter",
            ArgKind::Block(&[
                super::one_of("by", &["MODULE", "ACLCAT", "PATTERN"], "What `value` is."),
                text("value", "A module or category (none exist here), or a glob over names."),
            ]),
            "Leave out the commands that do not match.",
        )
        .after("FILTERBY")],
        complexity: "O(N) for N commands",
        reply: same("array of names, lower case."),
        example: "> COMMAND LIST FILTERBY PATTERN agent.f*\n1) \"agent.fork\"",
        ..row("COMMAND|LIST", Action::CommandList, "The names of the commands.")
    },
    Command {
        args: &[NAMES.optional().multiple()],
        complexity: "O(N) for N names",
        reply: same("array: per name an entry as in COMMAND, or null if there is no such command."),
        example: "> COMMAND INFO agent.read\n1)  1) \"agent.read\"\n    2) (integer) 4\n...",
        ..row("COMMAND|INFO", Action::CommandInfo, "Describes some commands.")
    },
    Command {
        args: &[NAMES.optional().multiple()],
        complexity: "O(N) for N names",
        reply: Replies {
            resp3: "map from name to a map: `summary`, `since`, `group`, `complexity`, `grammar`, \
                    `arguments`, `subcommands`.",
            resp2: "the same as flat arrays of names and values.",
        },
        example: "> COMMAND DOCS agent.read\n1) \"agent.read\"\n2)  1) \"summary\"\n...",
        ..row("COMMAND|DOCS", Action::CommandDocs, "The grammar and docs of commands.")
    },
    Command {
        args: &[
            text("command", "A whole command."),
            text("arg", "Its arguments.").optional().multiple(),
        ],
        reply: same("array of the keys in it."),
        example: "> COMMAND GETKEYS AGENT.SEND counter/a 1\n1) \"counter/a\"",
        ..row("COMMAND|GETKEYS", Action::CommandGetKeys, "The keys that a command names.")
    },
    Command {
        reply: same("array of lines."),
        example: "> COMMAND HELP\n1) COMMAND <subcommand> [<arg> ...]. Subcommands are:\n...",
        ..row("COMMAND|HELP", Action::CommandHelp, "The subcommands of COMMAND.")
    },
];

const CONFIG: &[Command] = &[Command {
    args: &[text("parameter", "`save` and `appendonly` are known; a glob.").multiple()],
    reply: Replies {
        resp3: "map of the parameters that match: `save` is empty, `appendonly` is `no`.",
        resp2: "flat array of names and values.",
    },
    example: "> CONFIG GET save\n1) \"save\"\n2) \"\"",
    ..row(
        "CONFIG|GET",
        Action::ConfigGet,
        "What redis-benchmark asks for. The node's own configuration: `heronry config show`.",
    )
}];
