//! Rows of the table: agents as bytes.
//!
//! Owns: AGENT.DIGEST, AGENT.EXPORT, AGENT.IMPORT, their arguments and examples.
//! Not: their meaning (the engine's verbs) or parsing (`parse.rs`).

use super::agent::{ACK, KEY, VERSION, VERSION_REPLY, row};
use super::{same, text};
use crate::command::Command;
use crate::command::parse::AgentVerb;

/// The rows.
pub const COMMANDS: &[Command] = &[
    Command {
        flags: &["readonly"],
        args: &[KEY, text("at", VERSION).optional()],
        complexity: "O(P) for P pages of the image that differ from the template's",
        reply: same("bulk string: 64 hexadecimal digits."),
        errors: &[
            "BADKEY",
            "BADVALUE",
            "NOAGENT",
            "LOST",
            "NOVERSION",
            "BUSY",
            "TRYAGAIN",
            "UNREADABLE",
        ],
        example: "> AGENT.DIGEST notebook/a\n\"c1b2c2d8...\"",
        ..row(
            "AGENT.DIGEST",
            AgentVerb::Digest,
            "The BLAKE3 of a version, or of the present: equal where the image is, on every node.",
        )
    },
    Command {
        flags: &["write"],
        complexity: "O(B) for B bytes of the agent's versions",
        reply: same("bulk string: at most `net.payload_bytes_max` bytes."),
        errors: &["BADKEY", "NOAGENT", "LOST", "BUSY", "LIMIT", "TRYAGAIN", "UNREADABLE"],
        example: "> AGENT.EXPORT counter/a\n\"HERONAGT\\x01\\x00...\"",
        ..row(
            "AGENT.EXPORT",
            AgentVerb::Export,
            "All that the agent is: its versions with labels and digests, its request ids with \
             their replies, its sleeps, and which template it began from. The present is sealed \
             for it.",
        )
    },
    Command {
        flags: &["write", "denyoom"],
        args: &[KEY, text("agent", "What AGENT.EXPORT gave, here or on another node."), ACK],
        complexity: "O(B) for B bytes",
        reply: VERSION_REPLY,
        errors: &[
            "BADKEY",
            "BADVALUE",
            "NOTEMPLATE",
            "BADTEMPLATE",
            "EXISTS",
            "NOAGENT",
            "LIMIT",
            "FULL",
            "NOLOG",
            "DISKFULL",
            "TRYAGAIN",
        ],
        example: "> AGENT.IMPORT counter/b \"HERONAGT\\x01\\x00...\"\n(integer) 4",
        ..row(
            "AGENT.IMPORT",
            AgentVerb::Import,
            "Makes an agent of what another one was, under this key of the same template. It is to \
             it what a branch is: sleeps go on, calls to others end as forked away. The versions' \
             digests are checked, and the template must begin with the same memory.",
        )
    },
];
