//! Rows of the table: what clients say about their connection.
//!
//! Owns: HELLO to CLIENT, the commands that client libraries send on connect.
//! Not: what they do (`session/local.rs`).

use super::{OK, same, text};
use crate::command::{Action, Arg, ArgKind, Command, Group, Replies};

const SINCE: &str = "0.1.0";
const FLAGS: &[&str] = &["fast", "loading", "stale", "noscript"];
const FLAGS_NO_AUTH: &[&str] = &["fast", "loading", "stale", "noscript", "no_auth"];

const fn row(name: &'static str, action: Action, summary: &'static str) -> Command {
    Command {
        name,
        action,
        group: Group::Connection,
        flags: FLAGS,
        since: SINCE,
        complexity: "O(1)",
        summary,
        args: &[],
        reply: OK,
        errors: &[],
        example: "",
        subcommands: &[],
    }
}

const HELLO_ARGS: &[Arg] = &[
    super::one_of("protover", &["2", "3"], "Protocol of the replies from here on.").optional(),
    Arg::new(
        "auth",
        ArgKind::Block(&[
            text("username", "`default`, the only user."),
            text("password", "The node's password (`node.password`)."),
        ]),
        "Authenticate in the same step. Without a password set, any is accepted.",
    )
    .after("AUTH"),
    text("clientname", "As CLIENT SETNAME.").after("SETNAME"),
];

/// The rows.
pub const COMMANDS: &[Command] = &[
    Command {
        flags: FLAGS_NO_AUTH,
        args: HELLO_ARGS,
        reply: Replies {
            resp3: "map: `server`, `version`, `proto`, `id` (of the connection), `mode`, `role`, \
                    `modules` (empty).",
            resp2: "the same as a flat array of names and values.",
        },
        errors: &["NOPROTO", "WRONGPASS"],
        example: "> HELLO 3\n1# \"server\" => \"heronry\"\n2# \"version\" => \"0.1.0\"\n\
                  3# \"proto\" => (integer) 3\n4# \"id\" => (integer) 1024\n\
                  5# \"mode\" => \"standalone\"\n6# \"role\" => \"master\"\n\
                  7# \"modules\" => (empty array)",
        ..row(
            "HELLO",
            Action::Hello,
            "Chooses the protocol, and may authenticate and name the connection.",
        )
    },
    Command {
        flags: FLAGS_NO_AUTH,
        args: &[
            text("username", "`default`, the only user.").optional(),
            text("password", "The node's password (`node.password`)."),
        ],
        errors: &["WRONGPASS"],
        example: "> AUTH secret\nOK",
        ..row("AUTH", Action::Auth, "Authenticates the connection.")
    },
    Command {
        args: &[text("message", "Comes back instead of PONG.").optional()],
        reply: same("`+PONG`, or the message as a bulk string."),
        example: "> PING\nPONG",
        ..row("PING", Action::Ping, "Answers, in the order of the pipeline.")
    },
    Command {
        args: &[text("message", "Comes back.")],
        reply: same("the message as a bulk string."),
        example: "> ECHO hi\n\"hi\"",
        ..row("ECHO", Action::Echo, "Answers the message.")
    },
    Command {
        flags: FLAGS_NO_AUTH,
        example: "> QUIT\nOK",
        ..row("QUIT", Action::Quit, "Closes the connection after the replies before it.")
    },
    Command {
        flags: FLAGS_NO_AUTH,
        reply: same("`+RESET`."),
        example: "> RESET\nRESET",
        ..row(
            "RESET",
            Action::Reset,
            "Makes the connection as new: RESP2, no name, not authenticated, replies on.",
        )
    },
    Command {
        args: &[super::integer("index", "0, the only database.")],
        errors: &["BADVALUE"],
        example: "> SELECT 0\nOK",
        ..row("SELECT", Action::Select, "Accepts database 0, for clients that always select one.")
    },
    Command {
        subcommands: CLIENT,
        reply: same("see the subcommands."),
        ..row("CLIENT", Action::Client, "Names and describes this connection.")
    },
];

const CLIENT: &[Command] = &[
    Command {
        args: &[text("name", "Up to 255 bytes of visible ASCII; empty removes the name.")],
        errors: &["BADVALUE"],
        example: "> CLIENT SETNAME worker-1\nOK",
        ..row("CLIENT|SETNAME", Action::ClientSetName, "Names the connection.")
    },
    Command {
        reply: Replies { resp3: "the name as a bulk string, or null.", resp2: "the same; nil." },
        example: "> CLIENT GETNAME\n\"worker-1\"",
        ..row("CLIENT|GETNAME", Action::ClientGetName, "The connection's name.")
    },
    Command {
        args: &[
            super::one_of("attribute", &["LIB-NAME", "LIB-VER"], "What is said."),
            text("value", "Up to 255 bytes of visible ASCII."),
        ],
        errors: &["BADVALUE"],
        example: "> CLIENT SETINFO LIB-NAME mylib\nOK",
        ..row("CLIENT|SETINFO", Action::ClientSetInfo, "Says which client library this is.")
    },
    Command {
        reply: same("integer: unique among the connections of the node, since its start."),
        example: "> CLIENT ID\n(integer) 1024",
        ..row("CLIENT|ID", Action::ClientId, "The connection's number.")
    },
    Command {
        reply: Replies {
            resp3: "verbatim string: one line of `name=value` pairs.",
            resp2: "the same as a bulk string.",
        },
        example: "> CLIENT INFO\nid=1024 name=worker-1 resp=2 pipeline=0 lib-name=mylib lib-ver=",
        ..row("CLIENT|INFO", Action::ClientInfo, "Describes this connection.")
    },
    Command {
        reply: Replies {
            resp3: "verbatim string: the line of CLIENT INFO.",
            resp2: "the same as a bulk string.",
        },
        example: "> CLIENT LIST\nid=1024 name=worker-1 resp=2 pipeline=0 lib-name=mylib lib-ver=",
        ..row(
            "CLIENT|LIST",
            Action::ClientList,
            "Lists this connection only: shards share nothing, and no connection sees another.",
        )
    },
    Command {
        args: &[super::one_of("enabled", &["ON", "OFF"], "Has no effect here.")],
        example: "> CLIENT NO-EVICT ON\nOK",
        ..row("CLIENT|NO-EVICT", Action::ClientNoEvict, "Accepted: no connection is evicted.")
    },
    Command {
        args: &[super::one_of("enabled", &["ON", "OFF"], "Has no effect here.")],
        example: "> CLIENT NO-TOUCH ON\nOK",
        ..row("CLIENT|NO-TOUCH", Action::ClientNoTouch, "Accepted: nothing ages by being read.")
    },
    Command {
        args: &[super::one_of(
            "mode",
            &["ON", "OFF", "SKIP"],
            "OFF: no replies from here on; SKIP: none to the next command; ON: replies again.",
        )],
        reply: same("`+OK` for ON; nothing for OFF and SKIP."),
        example: "> CLIENT REPLY ON\nOK",
        ..row("CLIENT|REPLY", Action::ClientReply, "Turns replies off and on.")
    },
];
