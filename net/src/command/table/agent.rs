//! Rows of the table: what is asked of agents.
//!
//! Owns: the AGENT commands but those of `portable.rs`, their arguments with ranges, and examples.
//! Not: their meaning (the engine's verbs) or parsing (`parse.rs`).

use super::{OK, integer, one_of, same, text};
use crate::command::parse::AgentVerb;
use crate::command::{Action, Arg, ArgKind, Command, Group, Replies};

pub(super) const fn row(name: &'static str, verb: AgentVerb, summary: &'static str) -> Command {
    Command {
        name,
        action: Action::Agent(verb),
        group: Group::Agent,
        flags: &["write"],
        since: "0.1.0",
        complexity: "O(1)",
        summary,
        args: &[KEY],
        reply: OK,
        errors: &[],
        example: "",
        subcommands: &[],
    }
}

pub(super) const KEY: Arg = Arg::new(
    "key",
    ArgKind::Key,
    "`template/name`, or `template/name~branch`: 3 to 255 bytes of visible ASCII, the template \
     1 to 63.",
);
pub(super) const ACK: Arg = one_of(
    "ack",
    &["sealed", "durable"],
    "The promise of the reply: `sealed` is captured in memory, `durable` is on disk; the node's \
     `log.ack_by_template` and `log.ack` where none is asked for.",
)
.after("ACK");
const TIMEOUT: Arg = integer(
    "ms",
    "1 to 86400000. A message not begun by then is dropped and answered TIMEOUT; while the agent \
     is suspended, not before it resumes.",
)
.after("TIMEOUT");
pub(super) const VERSION: &str = "A number from 1, or `@label` (label of 1 to 63 bytes).";
const RANGE: Replies = Replies { resp3: "bulk string.", resp2: "" };
pub(super) const VERSION_REPLY: Replies = same("integer: the version that is now the present.");

/// The rows.
pub const COMMANDS: &[Command] = &[
    Command {
        flags: &["write", "denyoom", "fast"],
        args: &[
            KEY,
            integer(
                "bytes",
                "0 to 4294967296. Image length, zero-filled past the template's own; 0 keeps that.",
            )
            .after("SIZE"),
            ACK,
        ],
        reply: VERSION_REPLY,
        errors: &[
            "BADKEY",
            "BADVALUE",
            "NOTEMPLATE",
            "EXISTS",
            "NOAGENT",
            "LIMIT",
            "FULL",
            "TRYAGAIN",
            "UNREADABLE",
            "DISKFULL",
            "NOLOG",
        ],
        example: "> AGENT.CREATE notebook/a SIZE 65536\n(integer) 1",
        ..row("AGENT.CREATE", AgentVerb::Create, "Makes an agent from its template.")
    },
    Command {
        flags: &["write", "denyoom", "fast"],
        args: &[
            KEY,
            text("payload", "The message: 0 to `net.payload_bytes_max` bytes."),
            text(
                "id",
                "1 to 64 bytes. A retry with the same id gets the first reply and runs no second \
                 turn.",
            )
            .after("ID"),
            TIMEOUT,
            ACK,
        ],
        complexity: "O(1) and the handler's work",
        reply: Replies {
            resp3: "bulk string: the handler's reply; null if it gave none.",
            resp2: "the same; nil.",
        },
        errors: &[
            "BADKEY",
            "BADVALUE",
            "NOTEMPLATE",
            "NOAGENT",
            "LOST",
            "QUARANTINED",
            "BUSY",
            "FULL",
            "LIMIT",
            "TIMEOUT",
            "TRYAGAIN",
            "FAULT",
            "RAISED",
            "DROPPED",
            "UNREADABLE",
            "DISKFULL",
            "NOLOG",
        ],
        example: "> AGENT.SEND counter/hits 5\n\"5\"\n> AGENT.SEND counter/hits 1 ID req-1 \
                  TIMEOUT 1000 ACK sealed\n\"6\"",
        ..row(
            "AGENT.SEND",
            AgentVerb::Send,
            "Sends a message; the agent handles it in one turn. Makes the agent if there is none.",
        )
    },
    Command {
        flags: &["write", "denyoom"],
        args: &[
            KEY,
            text(
                "code",
                "What to run: 0 to `net.payload_bytes_max` bytes of the agent's language.",
            ),
            TIMEOUT,
            ACK,
        ],
        complexity: "O(1) and the code's work",
        reply: same("bulk string: what the code printed, then the value of a last expression."),
        errors: &[
            "BADKEY",
            "BADVALUE",
            "NOTEMPLATE",
            "NOAGENT",
            "LOST",
            "QUARANTINED",
            "BUSY",
            "FULL",
            "LIMIT",
            "TIMEOUT",
            "TRYAGAIN",
            "FAULT",
            "RAISED",
            "DROPPED",
            "UNREADABLE",
            "DISKFULL",
            "NOLOG",
        ],
        example: "> AGENT.EXEC python/a \"x = 20\"\n\"\"\n> AGENT.EXEC python/a \"x + 1\"\n\
                  \"21\\n\"",
        ..row(
            "AGENT.EXEC",
            AgentVerb::Exec,
            "Runs code in the agent's live interpreter, in one turn; what it defines stays. Makes \
             the agent if there is none. Code that raises is answered RAISED, with what it had \
             printed and its traceback.",
        )
    },
    Command {
        flags: &["readonly", "fast"],
        args: &[
            KEY,
            integer("offset", "0 to 4294967296. First byte."),
            integer("length", "0 to `net.payload_bytes_max`. Bytes wanted."),
        ],
        complexity: "O(L) for L bytes",
        reply: Replies { resp3: "bulk string, shorter at the image's end.", ..RANGE },
        errors: &["BADKEY", "BADVALUE", "NOAGENT", "LOST", "BUSY", "TRYAGAIN", "UNREADABLE"],
        example: "> AGENT.READ notebook/a 0 5\n\"\\x00\\x00\\x00\\x00\\x00\"",
        ..row("AGENT.READ", AgentVerb::Read, "Reads bytes of an agent's image.")
    },
    Command {
        flags: &["write", "denyoom"],
        args: &[
            KEY,
            integer("offset", "First byte; offset and length together at most 4294967296."),
            text("bytes", "What to write: 0 to `net.payload_bytes_max` bytes."),
            ACK,
        ],
        complexity: "O(L) for L bytes",
        reply: VERSION_REPLY,
        errors: &[
            "BADKEY",
            "BADVALUE",
            "NOAGENT",
            "LOST",
            "QUARANTINED",
            "BUSY",
            "FULL",
            "LIMIT",
            "TRYAGAIN",
            "UNREADABLE",
            "DISKFULL",
            "NOLOG",
        ],
        example: "> AGENT.WRITE notebook/a 0 hello\n(integer) 2",
        ..row(
            "AGENT.WRITE",
            AgentVerb::Write,
            "Overwrites bytes of an agent's image in one turn; grows it past its end.",
        )
    },
    Command {
        flags: &["write", "fast"],
        args: &[
            KEY,
            text(
                "label",
                "1 to 63 bytes of visible ASCII. A label used before moves to the new version.",
            )
            .after("LABEL"),
            ACK,
        ],
        reply: VERSION_REPLY,
        errors: &[
            "BADKEY",
            "BADVALUE",
            "NOAGENT",
            "LOST",
            "BUSY",
            "LIMIT",
            "TRYAGAIN",
            "UNREADABLE",
            "DISKFULL",
            "NOLOG",
        ],
        example: "> AGENT.CHECKPOINT notebook/a LABEL before\n(integer) 2",
        ..row(
            "AGENT.CHECKPOINT",
            AgentVerb::Checkpoint,
            "Seals the agent's present as a version that is kept.",
        )
    },
    Command {
        flags: &["write", "denyoom"],
        args: &[
            KEY,
            Arg::new(
                "branches",
                ArgKind::Either(&[
                    integer("n", "1 to 10000. Number of branches, default 1.").after("COUNT"),
                    text(
                        "suffix",
                        "1 to 63 bytes of visible ASCII without `~`: the branch is \
                                    `key~suffix`. Numbered when absent.",
                    )
                    .after("AS"),
                ]),
                "How many, or the name of the one.",
            )
            .optional(),
            text("version", VERSION).after("AT"),
            Arg::new(
                "keep-timers",
                ArgKind::Token,
                "The sleeps that the agent awaits go on in the branches too; otherwise they end \
                 there at once, as forked away.",
            )
            .after("KEEP-TIMERS"),
            ACK,
        ],
        complexity: "O(N) for N branches, whatever the image's size",
        reply: same("array of the branches' keys."),
        errors: &[
            "BADKEY",
            "BADVALUE",
            "NOAGENT",
            "LOST",
            "NOVERSION",
            "EXISTS",
            "BUSY",
            "LIMIT",
            "FULL",
            "TRYAGAIN",
            "UNREADABLE",
            "DISKFULL",
            "NOLOG",
        ],
        example: "> AGENT.FORK notebook/a COUNT 2 AT @before\n1) \"notebook/a~1\"\n\
                  2) \"notebook/a~2\"\n> AGENT.FORK notebook/a AS risky\n1) \"notebook/a~risky\"",
        ..row("AGENT.FORK", AgentVerb::Fork, "Makes branches of an agent that share its image.")
    },
    Command {
        args: &[KEY, text("version", VERSION).after("TO"), ACK],
        complexity: "O(D) for D pages that differ",
        reply: VERSION_REPLY,
        errors: &[
            "BADKEY",
            "BADVALUE",
            "NOAGENT",
            "LOST",
            "NOVERSION",
            "BUSY",
            "TRYAGAIN",
            "UNREADABLE",
            "DISKFULL",
            "NOLOG",
        ],
        example: "> AGENT.ROLLBACK notebook/a TO @before\n(integer) 2",
        ..row(
            "AGENT.ROLLBACK",
            AgentVerb::Rollback,
            "Goes back to an earlier version: the newest checkpoint, or version 1, unless said.",
        )
    },
    Command {
        flags: &["readonly"],
        complexity: "O(V) for V kept versions",
        reply: Replies {
            resp3: "array of maps, oldest first: `version`, `parent` (null for the first), \
                    `label` (or null), `checkpoint`, `head`, `sealed_ns` (the node's clock), \
                    `image_bytes`.",
            resp2: "array of flat arrays of names and values; booleans are 1 and 0.",
        },
        errors: &["BADKEY", "NOAGENT", "LOST", "BUSY", "TRYAGAIN", "UNREADABLE"],
        example: "> AGENT.VERSIONS notebook/a\n1)  1) \"version\"\n    2) (integer) 1\n...",
        ..row("AGENT.VERSIONS", AgentVerb::Versions, "Lists the versions that are kept.")
    },
    Command {
        flags: &["readonly"],
        args: &[
            KEY,
            text("from", VERSION),
            text("to", "The same; the present when absent.").optional(),
        ],
        complexity: "O(D) for D pages that differ",
        reply: same("array of `[start, length]` pairs of integers, in bytes, ascending, merged."),
        errors: &[
            "BADKEY",
            "BADVALUE",
            "NOAGENT",
            "LOST",
            "NOVERSION",
            "BUSY",
            "LIMIT",
            "TRYAGAIN",
            "UNREADABLE",
        ],
        example: "> AGENT.DIFF notebook/a 1 @before\n1) 1) (integer) 0\n   2) (integer) 5",
        ..row("AGENT.DIFF", AgentVerb::Diff, "The byte ranges in which two versions differ.")
    },
    Command {
        args: &[KEY, ACK],
        complexity: "O(B) for B branches of the parent",
        reply: same("integer: the version that is now the parent's present."),
        errors: &[
            "BADKEY",
            "NOAGENT",
            "LOST",
            "WRONGSTATE",
            "BUSY",
            "FULL",
            "LIMIT",
            "TRYAGAIN",
            "UNREADABLE",
            "BADVALUE",
            "DISKFULL",
            "NOLOG",
        ],
        example: "> AGENT.WRITE notebook/a~risky 0 bye\n(integer) 2\n\
                  > AGENT.COMMIT notebook/a~risky\n(integer) 3",
        ..row(
            "AGENT.COMMIT",
            AgentVerb::Commit,
            "Replaces the parent by this branch, at once and whole; the branches beside it end.",
        )
    },
    Command {
        flags: &["write", "fast"],
        args: &[KEY, ACK],
        errors: &[
            "BADKEY",
            "NOAGENT",
            "LOST",
            "WRONGSTATE",
            "BUSY",
            "TRYAGAIN",
            "UNREADABLE",
            "BADVALUE",
            "DISKFULL",
            "NOLOG",
        ],
        example: "> AGENT.SUSPEND notebook/a\nOK",
        ..row(
            "AGENT.SUSPEND",
            AgentVerb::Suspend,
            "Stops an agent's turns; its messages wait, also those past their TIMEOUT: they are \
             answered when it resumes. OK if it is suspended already; WRONGSTATE if it is \
             quarantined.",
        )
    },
    Command {
        flags: &["write", "fast"],
        args: &[KEY, ACK],
        errors: &[
            "BADKEY",
            "NOAGENT",
            "LOST",
            "TRYAGAIN",
            "UNREADABLE",
            "BADVALUE",
            "DISKFULL",
            "NOLOG",
        ],
        example: "> AGENT.RESUME notebook/a\nOK",
        ..row(
            "AGENT.RESUME",
            AgentVerb::Resume,
            "Lets a suspended or quarantined agent take turns again. OK if it takes them already.",
        )
    },
    Command {
        args: &[KEY, ACK],
        complexity: "O(P) for P pages that nothing else uses",
        errors: &[
            "BADKEY",
            "NOAGENT",
            "LOST",
            "BUSY",
            "TRYAGAIN",
            "UNREADABLE",
            "BADVALUE",
            "DISKFULL",
            "NOLOG",
        ],
        example: "> AGENT.TERMINATE notebook/a\nOK",
        ..row("AGENT.TERMINATE", AgentVerb::Terminate, "Ends an agent and frees its memory.")
    },
    Command {
        flags: &["readonly"],
        complexity: "O(P) for P pages of the image",
        reply: Replies {
            resp3: "map: `key`, `id` (32 hex digits), `shard`, `state`, `version`, \
                    `version_count`, `image_bytes`, `unique_bytes` (pages that nothing but \
                    the present and its head version holds), `shared_bytes` (pages that older \
                    versions, parent or branches hold too; one that they changed since counts by \
                    the lines that differ), `mailbox_count`, `turn_count`, `failure_count`, \
                    `parent` (or null), `branch_count`.",
            resp2: "flat array of names and values.",
        },
        errors: &["BADKEY", "NOAGENT", "LOST", "BUSY", "TRYAGAIN", "UNREADABLE"],
        example: "> AGENT.INFO counter/hits\n 1) \"key\"\n 2) \"counter/hits\"\n...",
        ..row("AGENT.INFO", AgentVerb::Info, "Describes an agent.")
    },
    Command {
        flags: &["readonly"],
        args: &[
            text("cursor", "0 to begin, then the last reply's cursor.").after("CURSOR"),
            integer("count", "1 to 10000, default 100. About how many keys to return.")
                .after("COUNT"),
            Arg::new("pattern", ArgKind::Pattern, "1 to 255 bytes: a glob over keys.")
                .after("MATCH"),
            Arg::new(
                "lost",
                ArgKind::Token,
                "The agents that shards lost when they last restarted, instead of living ones.",
            )
            .after("LOST"),
        ],
        complexity: "O(C) for COUNT C per call",
        reply: same(
            "array of two: the next cursor as a bulk string (`0` at the end), and an array of \
             keys, which may be empty before the end. As with SCAN, an agent that lives throughout \
             is listed at least once.",
        ),
        errors: &["BADVALUE", "TRYAGAIN"],
        example: "> AGENT.LIST MATCH counter/* COUNT 10\n1) \"0\"\n2) 1) \"counter/hits\"",
        ..row("AGENT.LIST", AgentVerb::List, "Pages through the agents of all shards.")
    },
    Command {
        flags: &["readonly"],
        args: &[integer("count", "1 to 1000, default 10. How many.").after("COUNT")],
        complexity: "O(S) for S shards",
        reply: same(
            "array of `[key, turns]` pairs, busiest first. One turn in 16 is looked at; `turns` is \
             16 for each that is surely the agent's, halved every 10 s, and agents \
             without one are left out, as are shards that are restarting.",
        ),
        errors: &["BADVALUE", "TRYAGAIN"],
        example: "> AGENT.HOTTEST COUNT 1\n1) 1) \"counter/hits\"\n   2) (integer) 16",
        ..row("AGENT.HOTTEST", AgentVerb::Hottest, "The busiest agents of late, of all shards.")
    },
];
