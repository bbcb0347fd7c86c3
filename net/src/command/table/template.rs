//! Rows of the table: the templates that agents are made from.
//!
//! Owns: TEMPLATE.DEPLOY, TEMPLATE.ACTIVATE, TEMPLATE.LIST, their arguments and examples.
//! Not: their meaning (the control thread's, and the engine's) or parsing (`parse.rs`).

use super::{integer, same, text};
use crate::command::parse::ErrandVerb;
use crate::command::{Action, Arg, ArgKind, Command, Group, Replies};

const fn row(name: &'static str, action: Action, summary: &'static str) -> Command {
    Command {
        name,
        action,
        group: Group::Template,
        flags: &["write"],
        since: "0.1.0",
        complexity: "O(1)",
        summary,
        args: &[],
        reply: NUMBER,
        errors: &["BADVALUE", "NOTEMPLATE", "BADTEMPLATE", "BUSY", "LIMIT", "TRYAGAIN"],
        example: "",
        subcommands: &[],
    }
}

const NAME: Arg = text("name", "1 to 63 of `a-z`, `A-Z`, `0-9`, `-` and `_`; no native one's.");
const NUMBER: Replies = same("integer: the template's number.");

/// The rows.
pub const COMMANDS: &[Command] = &[
    Command {
        flags: &["write", "denyoom"],
        args: &[
            NAME,
            super::one_of("language", &["python", "javascript", "wasm"], "What the source is.")
                .following("LANGUAGE"),
            text(
                "source",
                "The agent's file, or a WebAssembly module: 0 to `net.payload_bytes_max` bytes.",
            )
            .following("SOURCE"),
            text(
                "script",
                "Code to run once, before the template is sealed: what it imports and makes, every \
                 agent begins with.",
            )
            .after("WARM"),
            Arg::new(
                "inactive",
                ArgKind::Token,
                "New agents get this number only after TEMPLATE.ACTIVATE; a first number is active \
                 in any case.",
            )
            .after("INACTIVE"),
        ],
        complexity: "O(1) and what the source does when it is run; seconds for a new module",
        example: "> TEMPLATE.DEPLOY greeter LANGUAGE python SOURCE \"async def on_message(ctx, m): \
                  return 'hello ' + m\"\n(integer) 1",
        ..row(
            "TEMPLATE.DEPLOY",
            Action::Errand(ErrandVerb::Deploy),
            "Makes a template, or the next number of one: its code is run once, and every agent \
             begins where that ended. Replies when all shards have it.",
        )
    },
    Command {
        args: &[NAME, integer("number", "1 to 4294967295. One that TEMPLATE.LIST shows.")],
        example: "> TEMPLATE.ACTIVATE greeter 1\n(integer) 1",
        ..row(
            "TEMPLATE.ACTIVATE",
            Action::Errand(ErrandVerb::Activate),
            "Makes new agents of a template begin from this number of it; agents that live keep \
             theirs.",
        )
    },
    Command {
        flags: &["loading", "stale"],
        since: "0.1.0",
        complexity: "O(T) for T templates",
        reply: Replies {
            resp3: "array of maps, one for each number of each template: `name`, `number`, \
                    `active` (whether new agents begin from it), `language` (python, javascript, \
                    wasm, or native for the built-in ones), `summary`.",
            resp2: "array of flat arrays of names and values; booleans are 1 and 0.",
        },
        errors: &[],
        example: "> TEMPLATE.LIST\n1)  1) \"name\"\n    2) \"echo\"\n    3) \"number\"\n    \
                  4) (integer) 1\n...",
        ..row("TEMPLATE.LIST", Action::TemplateList, "The templates that agents are made from.")
    },
];
