//! Commands about the node that a session answers itself.
//!
//! Owns: INFO, COMMAND, TEMPLATE.LIST, SHARD.LIST.
//! Not: what connections say of themselves (`local.rs`), agents.

use super::local::{Fault, matches_glob, one_of};
use super::{Resp, Session};
use crate::command::docs::{encode_docs, encode_entry};
use crate::command::{Action, COMMANDS, Command};
use crate::reply::encode_bad_command;
use crate::resp::{Args, Encoder};
use heronry_shards::NodeView;

/// The Redis whose connection commands these follow, for clients that look.
const REDIS_VERSION: &str = "7.2.0";

impl Resp {
    /// The sections of INFO that `args` ask for.
    pub(super) fn info(&self, node: &dyn NodeView, args: &Args<'_>) -> String {
        let wanted = |section: &str| {
            let all = ["all", "default", "everything", section];
            args.count() == 1
                || args
                    .iter()
                    .skip(1)
                    .any(|arg| all.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(arg)))
        };
        let mut text = String::new();
        let line = |text: &mut String, name: &str, value: &dyn std::fmt::Display| {
            text.push_str(&format!("{name}:{value}\r\n"));
        };
        let (shard, shard_count) = node.place();
        if wanted("server") {
            text.push_str("# Server\r\n");
            line(&mut text, "redis_version", &REDIS_VERSION);
            line(&mut text, "heronry_version", &env!("CARGO_PKG_VERSION"));
            for (name, value) in node.facts() {
                line(&mut text, name, &value);
            }
            line(&mut text, "shard_count", &shard_count);
            text.push_str("\r\n");
        }
        if wanted("clients") {
            text.push_str("# Clients\r\n");
            line(&mut text, "connected_clients", &self.open_count.get());
            line(&mut text, "opened_connections", &self.opened_count);
            line(&mut text, "decoded_commands", &self.command_count);
            line(&mut text, "clients_shard", &shard.0);
            text.push_str("\r\n");
        }
        if !wanted("stats") && !wanted("shards") {
            return text;
        }
        let rows = node.shards();
        if wanted("stats") {
            text.push_str("# Stats\r\n");
            // Percentiles do not add up; they are listed per shard.
            let names = rows.first().map(|row| row.counters.as_slice()).unwrap_or_default();
            for (name, _) in names.iter().filter(|(name, _)| !name.contains("_ns_")) {
                let values = rows.iter().flat_map(|row| &row.counters);
                let sum: u64 = values.filter(|(n, _)| n == name).map(|(_, value)| value).sum();
                line(&mut text, name, &sum);
            }
            text.push_str("\r\n");
        }
        if wanted("shards") {
            text.push_str("# Shards\r\n");
            for row in &rows {
                let cpu = row.cpu.map_or("none".to_owned(), |cpu| cpu.to_string());
                text.push_str(&format!(
                    "shard{}:state={},cpu={cpu},pid={},restarts={}",
                    row.shard.0, row.state, row.pid, row.restart_count
                ));
                for (name, value) in &row.counters {
                    text.push_str(&format!(",{name}={value}"));
                }
                text.push_str("\r\n");
            }
        }
        text
    }

    /// The subcommands of COMMAND.
    pub(super) fn command(
        &self,
        session: &mut Session,
        action: Action,
        args: &Args<'_>,
    ) -> Result<(), Fault> {
        let named = || args.iter().skip(2).map(|name| self.find_any(name));
        match action {
            Action::Command => session.put(|encoder| {
                encoder.array(COMMANDS.len());
                COMMANDS.iter().for_each(|command| encode_entry(encoder, command));
            }),
            Action::CommandInfo if args.count() > 2 => session.put(|encoder| {
                encoder.array(args.count() - 2);
                named().for_each(|command| match command {
                    Some(command) => encode_entry(encoder, command),
                    None => encoder.null(),
                });
            }),
            Action::CommandInfo => session.put(|encoder| {
                encoder.array(COMMANDS.len());
                COMMANDS.iter().for_each(|command| encode_entry(encoder, command));
            }),
            Action::CommandDocs => session.put(|encoder| {
                let all: Vec<&Command> = match args.count() {
                    2 => COMMANDS.iter().collect(),
                    _ => named().flatten().collect(),
                };
                encoder.map(all.len());
                all.iter().for_each(|command| encode_docs(encoder, command));
            }),
            Action::CommandCount => {
                session.put(|encoder| encoder.integer(COMMANDS.len() as i64));
            }
            Action::CommandList => return command_list(session, args),
            Action::CommandGetKeys => return self.command_get_keys(session, args),
            _ => session.put(|encoder| {
                let command = self.lookup.find(b"COMMAND").expect("T1: the table has it");
                encoder.array(command.subcommands.len() + 1);
                encoder.simple("COMMAND <subcommand> [<arg> ...]. Subcommands are:");
                for sub in command.subcommands {
                    encoder.simple(&format!("{}: {}", sub.usage(), sub.summary));
                }
            }),
        }
        Ok(())
    }

    /// COMMAND GETKEYS command arg...
    fn command_get_keys(&self, session: &mut Session, args: &Args<'_>) -> Result<(), Fault> {
        let words = args.count() - 2;
        match self.lookup.resolve(words, |idx| args.get(idx + 2)) {
            Ok(command) if command.key_position() > 0 => {
                let key = args.get(2 + command.key_position());
                session.put(|encoder| {
                    encoder.array(1);
                    encoder.bulk(key);
                });
                Ok(())
            }
            Ok(command) => Err(("ERR", format!("{} has no key arguments", command.name))),
            Err(bad) => {
                session.put(|encoder| encode_bad_command(encoder, &bad));
                Ok(())
            }
        }
    }

    /// A command or, as `parent|child`, a subcommand.
    fn find_any(&self, name: &[u8]) -> Option<&'static Command> {
        let parent = name.split(|byte| *byte == b'|').next().unwrap_or_default();
        let command = self.lookup.find(parent)?;
        if parent.len() == name.len() {
            return Some(command);
        }
        command.subcommands.iter().find(|sub| sub.name.as_bytes().eq_ignore_ascii_case(name))
    }
}

pub(super) fn template_list(encoder: &mut Encoder<'_>, node: &dyn NodeView) {
    let templates = node.templates();
    encoder.array(templates.len());
    for row in &templates {
        encoder.map(5);
        encoder.text("name");
        encoder.text(&row.name);
        encoder.text("number");
        encoder.unsigned(u64::from(row.number));
        encoder.text("active");
        encoder.boolean(row.active);
        encoder.text("language");
        encoder.text(row.language);
        encoder.text("summary");
        encoder.text(&row.summary);
    }
}

pub(super) fn shard_list(encoder: &mut Encoder<'_>, node: &dyn NodeView) {
    let rows = node.shards();
    encoder.array(rows.len());
    for row in &rows {
        encoder.map(5 + row.counters.len());
        encoder.text("shard");
        encoder.unsigned(u64::from(row.shard.0));
        encoder.text("state");
        encoder.text(row.state);
        encoder.text("cpu");
        match row.cpu {
            Some(cpu) => encoder.unsigned(u64::from(cpu)),
            None => encoder.null(),
        }
        encoder.text("pid");
        encoder.unsigned(u64::from(row.pid));
        encoder.text("restart_count");
        encoder.unsigned(row.restart_count);
        for (name, value) in &row.counters {
            encoder.text(name);
            encoder.unsigned(*value);
        }
    }
}

/// COMMAND LIST [FILTERBY MODULE|ACLCAT|PATTERN value].
fn command_list(session: &mut Session, args: &Args<'_>) -> Result<(), Fault> {
    let mut pattern: &[u8] = b"*";
    let mut by = "PATTERN";
    if args.count() > 2 {
        one_of("option", args.get(2), &["FILTERBY"])?;
        if args.count() != 5 {
            let usage = "COMMAND LIST FILTERBY MODULE|ACLCAT|PATTERN value";
            return Err(("ERR", format!("FILTERBY takes two values; usage: {usage}")));
        }
        by = one_of("FILTERBY", args.get(3), &["MODULE", "ACLCAT", "PATTERN"])?;
        pattern = args.get(4);
    }
    let names: Vec<String> = COMMANDS
        .iter()
        .filter(|command| match by {
            "MODULE" => false,
            "ACLCAT" => command.group.name().as_bytes().eq_ignore_ascii_case(pattern),
            _ => matches_glob(pattern, command.name.as_bytes()),
        })
        .map(|command| command.name.to_lowercase())
        .collect();
    session.put(|encoder| {
        encoder.array(names.len());
        names.iter().for_each(|name| encoder.text(name));
    });
    Ok(())
}
