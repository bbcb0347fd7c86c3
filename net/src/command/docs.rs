//! The table of commands, printed: COMMAND's replies, and docs/commands.md.
//!
//! Owns: the shapes that client libraries expect of COMMAND, and the layout of the document.
//! Not: the facts (`table`).
//! O1  docs/commands.md is this module's output, byte for byte; a test compares them.

use super::table::CODES;
use super::{Arg, ArgKind, COMMANDS, Command, Group};
use crate::resp::Encoder;

const PREFACE: &str = "\
# Commands

Heronry speaks RESP2 and RESP3, so redis-cli, redis-benchmark and every Redis client library can
talk to it: over TCP (port 7373 unless configured) and over a Unix socket beside the data folder.
Each command below has its grammar, its arguments with their ranges, its reply, its errors and its
cost. The node serves the same facts through COMMAND DOCS.

How to read the grammar: words in capitals are typed as they are, in any case; words in small
letters stand for values; `[...]` may be left out; `a|b` is a choice; `...` repeats. Options come
after the fixed arguments, in any order, each at most once.

**Keys.** An agent's key is `template/name`; a branch that AGENT.FORK made is
`template/name~branch`, and a branch of a branch adds another `~branch`. Keys are 3 to 255 bytes of
visible ASCII; the template has 1 to 63 of them.

**Versions.** A version argument is a number as AGENT.VERSIONS lists it, or `@label` for a label
that AGENT.CHECKPOINT gave.

**Order.** Replies come in the order of the commands of their connection, whichever shard does the
work. Messages of one connection to one agent are handled in the order sent.

**Bounds.** A request has at most 1024 arguments; an argument has at most `net.payload_bytes_max`
bytes, an inline command 64 KiB. Before AUTH it is 10 arguments of 16 KiB. A malformed or oversized
request is answered `-ERR Protocol error: ...`, naming the byte, and the connection is closed: what
follows it cannot be understood. A connection with `net.pipeline_max` unanswered commands or
`net.output_bytes_max` unread bytes is not read from until it drains; nothing is dropped. With more
than `shards.ring_bytes` on the way to another shard a command for it is refused with `BUSY`.

";

const ERRORS: &str = "
## Errors

An error is `-CODE text`. Clients match on the code, which never changes; the text is for people.
Unless it says otherwise, nothing was done. An error is one line: in the text of BADTEMPLATE, FAULT
and RAISED, which may quote a traceback, `\\n` stands for a line end and `\\\\` for a backslash.

| code | meaning |
|---|---|
";

/// docs/commands.md. Written by `cargo xtask docs`.
pub fn commands_markdown() -> String {
    let mut out = String::from(PREFACE);
    out.push_str("## Overview\n\n| command | what it does |\n|---|---|\n");
    for command in &COMMANDS {
        let anchor = command.name.to_lowercase().replace('.', "");
        let summary = command.summary;
        out.push_str(&format!("| [{}](#{anchor}) | {summary} |\n", command.name));
    }
    out.push_str(ERRORS);
    for (code, meaning) in CODES {
        out.push_str(&format!("| {code} | {meaning} |\n"));
    }
    for group in [Group::Agent, Group::Template, Group::Server, Group::Connection] {
        let title = match group {
            Group::Agent => "Agents",
            Group::Template => "Templates",
            Group::Server => "The node",
            Group::Connection => "The connection",
        };
        out.push_str(&format!("\n## {title}\n"));
        for command in COMMANDS.iter().filter(|command| command.group == group) {
            describe(&mut out, command, "###");
            for sub in command.subcommands {
                describe(&mut out, sub, "####");
            }
        }
    }
    out
}

fn describe(out: &mut String, command: &Command, heading: &str) {
    let name = command.name.replace('|', " ");
    out.push_str(&format!("\n{heading} {name}\n\n{}\n\n", command.summary));
    out.push_str(&format!("```\n{}\n```\n\n", command.usage()));
    let args: Vec<&Arg> = leaves(command.args).collect();
    if !args.is_empty() {
        out.push_str("| argument | type | range and meaning |\n|---|---|---|\n");
        for arg in args {
            let shown = match (arg.token, arg.kind) {
                (Some(token), ArgKind::Token) => token.to_owned(),
                (Some(token), _) => format!("{token} {}", arg.name),
                (None, _) => arg.name.to_owned(),
            };
            let kind = match arg.kind {
                ArgKind::OneOf(words) => words.join(", "),
                other => kind_name(other).to_owned(),
            };
            out.push_str(&format!("| `{shown}` | {kind} | {} |\n", arg.about));
        }
        out.push('\n');
    }
    if command.subcommands.is_empty() {
        let same = command.reply.resp2.is_empty();
        let label = if same { "Reply (RESP2 and RESP3)" } else { "Reply, RESP3" };
        out.push_str(&format!("- {label}: {}\n", command.reply.resp3));
        if !same {
            out.push_str(&format!("- Reply, RESP2: {}\n", command.reply.resp2));
        }
        let mut codes = vec!["ERR"];
        if !command.flags.contains(&"no_auth") {
            codes.push("NOAUTH");
        }
        codes.extend(command.errors);
        out.push_str(&format!("- Errors: {}.\n", codes.join(", ")));
    }
    out.push_str(&format!("- Cost: {}. Since {}.\n", command.complexity, command.since));
    if !command.example.is_empty() {
        out.push_str(&format!("\n```\n{}\n```\n", command.example));
    }
}

/// The arguments of a grammar, blocks and choices taken apart.
fn leaves(args: &'static [Arg]) -> impl Iterator<Item = &'static Arg> {
    args.iter().flat_map(|arg| match arg.kind {
        ArgKind::Either(inner) | ArgKind::Block(inner) => inner.iter(),
        _ => std::slice::from_ref(arg).iter(),
    })
}

fn kind_name(kind: ArgKind) -> &'static str {
    match kind {
        ArgKind::Key => "key",
        ArgKind::Text => "string",
        ArgKind::Integer => "integer",
        ArgKind::Pattern => "pattern",
        ArgKind::Token => "pure-token",
        ArgKind::OneOf(_) | ArgKind::Either(_) => "oneof",
        ArgKind::Block(_) => "block",
    }
}

/// One entry of COMMAND and COMMAND INFO.
pub fn encode_entry(encoder: &mut Encoder<'_>, command: &Command) {
    let first = command.key_position() as i64;
    encoder.array(10);
    encoder.text(&command.name.to_lowercase());
    encoder.integer(command.arity());
    encoder.set(command.flags.len());
    for flag in command.flags {
        encoder.simple(flag);
    }
    for position in [first, first, i64::from(first > 0)] {
        encoder.integer(position);
    }
    let category = format!("@{}", command.group.name());
    encoder.set(1);
    encoder.simple(&category);
    encoder.array(0);
    encode_key_specs(encoder, command, first);
    encoder.array(command.subcommands.len());
    for sub in command.subcommands {
        encode_entry(encoder, sub);
    }
}

fn encode_key_specs(encoder: &mut Encoder<'_>, command: &Command, first: i64) {
    if first == 0 {
        return encoder.array(0);
    }
    encoder.array(1);
    encoder.map(3);
    encoder.text("flags");
    let readonly = command.flags.contains(&"readonly");
    encoder.set(2);
    encoder.simple(if readonly { "RO" } else { "RW" });
    encoder.simple(if readonly { "access" } else { "update" });
    encoder.text("begin_search");
    encoder.map(2);
    encoder.text("type");
    encoder.text("index");
    encoder.text("spec");
    encoder.map(1);
    encoder.text("index");
    encoder.integer(first);
    encoder.text("find_keys");
    encoder.map(2);
    encoder.text("type");
    encoder.text("range");
    encoder.text("spec");
    encoder.map(3);
    for (name, value) in [("lastkey", 0), ("keystep", 1), ("limit", 0)] {
        encoder.text(name);
        encoder.integer(value);
    }
}

/// One name and map of COMMAND DOCS.
pub fn encode_docs(encoder: &mut Encoder<'_>, command: &Command) {
    encoder.text(&command.name.to_lowercase());
    let parts = 5 + usize::from(!command.args.is_empty());
    encoder.map(parts + usize::from(!command.subcommands.is_empty()));
    let usage = command.usage();
    for (name, value) in [
        ("summary", command.summary),
        ("since", command.since),
        ("group", command.group.name()),
        ("complexity", command.complexity),
        ("grammar", usage.as_str()),
    ] {
        encoder.text(name);
        encoder.text(value);
    }
    if !command.args.is_empty() {
        encoder.text("arguments");
        encode_args(encoder, command.args);
    }
    if !command.subcommands.is_empty() {
        encoder.text("subcommands");
        encoder.map(command.subcommands.len());
        for sub in command.subcommands {
            encode_docs(encoder, sub);
        }
    }
}

fn encode_args(encoder: &mut Encoder<'_>, args: &[Arg]) {
    encoder.array(args.len());
    for arg in args {
        encode_arg(encoder, arg);
    }
}

fn encode_arg(encoder: &mut Encoder<'_>, arg: &Arg) {
    let flags = [(arg.optional, "optional"), (arg.multiple, "multiple")];
    let flag_count = flags.iter().filter(|(set, _)| *set).count();
    let nested = matches!(arg.kind, ArgKind::Either(_) | ArgKind::Block(_) | ArgKind::OneOf(_));
    let part_count = 3
        + usize::from(arg.token.is_some())
        + usize::from(matches!(arg.kind, ArgKind::Key))
        + usize::from(flag_count > 0)
        + usize::from(nested);
    encoder.map(part_count);
    encoder.text("name");
    encoder.text(arg.name);
    encoder.text("type");
    encoder.text(kind_name(arg.kind));
    encoder.text("summary");
    encoder.text(arg.about);
    if matches!(arg.kind, ArgKind::Key) {
        encoder.text("key_spec_index");
        encoder.integer(0);
    }
    if let Some(token) = arg.token {
        encoder.text("token");
        encoder.text(token);
    }
    if flag_count > 0 {
        encoder.text("flags");
        encoder.array(flag_count);
        for (_, flag) in flags.iter().filter(|(set, _)| *set) {
            encoder.simple(flag);
        }
    }
    match arg.kind {
        ArgKind::Either(args) => {
            encoder.text("arguments");
            encoder.array(args.len());
            // The choice as a whole is optional; within it one is taken.
            for arg in args {
                encode_arg(encoder, &Arg { optional: false, ..*arg });
            }
        }
        ArgKind::Block(args) => {
            encoder.text("arguments");
            encode_args(encoder, args);
        }
        ArgKind::OneOf(words) => {
            encoder.text("arguments");
            encoder.array(words.len());
            for word in words {
                encoder.map(3);
                for (name, value) in [("name", *word), ("type", "pure-token"), ("token", word)] {
                    encoder.text(name);
                    encoder.text(value);
                }
            }
        }
        _ => {}
    }
}
