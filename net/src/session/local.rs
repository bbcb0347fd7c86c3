//! Commands that a session answers itself: the connection, the node, the table of commands.
//!
//! Owns: HELLO to CLIENT, INFO, COMMAND, CONFIG GET, TEMPLATE.LIST, SHARD.LIST.
//! Not: agents.
//! L1  a wrong password and a wrong user name are told apart by nothing, timing included.

use super::{About, Form, Resp, Session};
use crate::command::docs::{encode_docs, encode_entry};
use crate::command::{Action, COMMANDS, Command, hint, shown};
use crate::reply::encode_bad_command;
use crate::resp::{Args, Encoder, Protocol};
use heronry_engine::Refusal;
use heronry_shards::NodeView;

/// Longest name or attribute of a client, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// The Redis whose connection commands these follow, for clients that look.
const REDIS_VERSION: &str = "7.2.0";
/// What CONFIG GET knows: name and value.
const CONFIG: [(&str, &str); 2] = [("appendonly", "no"), ("save", "")];

/// Why a command was not done: code and text.
type Fault = (&'static str, String);

impl Resp {
    /// Executes a command that needs no agent. `silent` is how replies go on afterwards.
    pub(super) fn execute_local(
        &mut self,
        session: &mut Session,
        command: &'static Command,
        args: &Args<'_>,
        node: &dyn NodeView,
        silent: bool,
    ) {
        let done = match command.action {
            Action::Hello => self.hello(session, args),
            Action::Auth => self.auth(session, args),
            Action::Quit => {
                session.put(|encoder| encoder.simple("OK"));
                session.closing = true;
                Ok(())
            }
            Action::Reset => {
                session.form = Form::default();
                session.about = About::default();
                session.authenticated = self.password.is_none();
                session.put(|encoder| encoder.simple("RESET"));
                return;
            }
            Action::ClientReply => return client_reply(session, args, silent),
            Action::Info => {
                let text = self.info(node, args);
                session.put(|encoder| encoder.verbatim("txt", &text));
                Ok(())
            }
            Action::TemplateList => {
                session.put(|encoder| template_list(encoder, node));
                Ok(())
            }
            Action::ShardList => {
                session.put(|encoder| shard_list(encoder, node));
                Ok(())
            }
            Action::Ping | Action::Echo | Action::Select | Action::ConfigGet | Action::Config => {
                simple(session, command, args)
            }
            action => match self.client(session, action, args) {
                Some(done) => done,
                None => self.command(session, action, args),
            },
        };
        if let Err((code, text)) = done {
            session.put(|encoder| encoder.error(code, &text));
        }
        session.form.silent = silent;
    }

    /// HELLO [protover [AUTH user password] [SETNAME name]].
    fn hello(&mut self, session: &mut Session, args: &Args<'_>) -> Result<(), Fault> {
        let protocol = match (args.count() > 1).then(|| args.get(1)) {
            None => session.form.protocol,
            Some(b"2") => Protocol::Resp2,
            Some(b"3") => Protocol::Resp3,
            Some(other) => {
                let text = format!("unsupported protocol version '{}'; 2 and 3 are", shown(other));
                return Err(("NOPROTO", text));
            }
        };
        let (mut user_at, mut name_at, mut at) = (None, None, 2);
        while at < args.count() {
            let option = args.get(at);
            let left = args.count() - at;
            if option.eq_ignore_ascii_case(b"AUTH") && left > 2 {
                user_at = Some(at + 1);
                at += 3;
            } else if option.eq_ignore_ascii_case(b"SETNAME") && left > 1 {
                name_at = Some(at + 1);
                at += 2;
            } else {
                let near = hint(option, ["AUTH", "SETNAME"].into_iter());
                let usage = "HELLO [2|3] [AUTH username password] [SETNAME clientname]";
                let text = format!("syntax error at '{}'; {near}usage: {usage}", shown(option));
                return Err(("ERR", text));
            }
        }
        let name = name_at.map(|at| checked_name("SETNAME", args.get(at))).transpose()?;
        if let Some(at) = user_at {
            self.authenticate(session, args.get(at), args.get(at + 1))?;
        }
        if !session.authenticated {
            let text = "HELLO must be called with the client already authenticated, otherwise \
                        with AUTH: HELLO 3 AUTH default password";
            return Err(("NOAUTH", text.to_owned()));
        }
        session.about.name = name.unwrap_or_else(|| std::mem::take(&mut session.about.name));
        session.form.protocol = protocol;
        let id = session.id as i64;
        session.put(|encoder| encode_hello(encoder, protocol, id));
        Ok(())
    }

    /// AUTH [username] password.
    fn auth(&mut self, session: &mut Session, args: &Args<'_>) -> Result<(), Fault> {
        if args.count() == 2 {
            if self.password.is_none() {
                let text = "AUTH called without any password configured; none is needed";
                return Err(("ERR", text.to_owned()));
            }
            self.authenticate(session, b"default", args.get(1))?;
        } else {
            self.authenticate(session, args.get(1), args.get(2))?;
        }
        session.put(|encoder| encoder.simple("OK"));
        Ok(())
    }

    /// L1: hashes are compared, in constant time.
    fn authenticate(
        &self,
        session: &mut Session,
        user: &[u8],
        password: &[u8],
    ) -> Result<(), Fault> {
        let known = blake3::hash(user) == blake3::hash(b"default");
        let right = self.password.is_none_or(|hash| hash == blake3::hash(password));
        if !(known & right) {
            let text = "invalid username-password pair; the only user is default";
            return Err(("WRONGPASS", text.to_owned()));
        }
        session.authenticated = true;
        Ok(())
    }

    /// The sections of INFO that `args` ask for.
    fn info(&self, node: &dyn NodeView, args: &Args<'_>) -> String {
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

    /// The subcommands of CLIENT; `None` for anything else.
    fn client(
        &self,
        session: &mut Session,
        action: Action,
        args: &Args<'_>,
    ) -> Option<Result<(), Fault>> {
        let done = match action {
            Action::ClientSetName => checked_name("name", args.get(2)).map(|name| {
                session.about.name = name;
                session.put(|encoder| encoder.simple("OK"));
            }),
            Action::ClientGetName => {
                let name = session.about.name.clone();
                session.put(|encoder| match name.is_empty() {
                    true => encoder.null(),
                    false => encoder.text(&name),
                });
                Ok(())
            }
            Action::ClientSetInfo => client_set_info(session, args),
            Action::ClientId => {
                let id = session.id as i64;
                session.put(|encoder| encoder.integer(id));
                Ok(())
            }
            Action::ClientInfo | Action::ClientList => {
                let line = client_line(session);
                session.put(|encoder| encoder.verbatim("txt", &line));
                Ok(())
            }
            Action::ClientNoEvict | Action::ClientNoTouch => {
                one_of("mode", args.get(2), &["ON", "OFF"]).map(|_| {
                    session.put(|encoder| encoder.simple("OK"));
                })
            }
            _ => return None,
        };
        Some(done)
    }

    /// The subcommands of COMMAND.
    fn command(&self, session: &mut Session, action: Action, args: &Args<'_>) -> Result<(), Fault> {
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
                let command = &COMMANDS[self.lookup_idx("COMMAND")];
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

    fn lookup_idx(&self, name: &str) -> usize {
        COMMANDS.iter().position(|command| command.name == name).expect("T1: the table has it")
    }
}

/// PING, ECHO, SELECT, CONFIG GET.
fn simple(session: &mut Session, command: &'static Command, args: &Args<'_>) -> Result<(), Fault> {
    match command.action {
        Action::Ping if args.count() == 1 => session.put(|encoder| encoder.simple("PONG")),
        Action::Ping | Action::Echo => session.put(|encoder| encoder.bulk(args.get(1))),
        Action::Select if args.get(1) == b"0" => session.put(|encoder| encoder.simple("OK")),
        Action::Select => {
            return Err(out_of_range("index", args.get(1), "0, the only database"));
        }
        _ => session.put(|encoder| {
            let wanted =
                |name: &str| args.iter().skip(2).any(|glob| matches_glob(glob, name.as_bytes()));
            let found: Vec<_> = CONFIG.iter().filter(|(name, _)| wanted(name)).collect();
            encoder.map(found.len());
            for (name, value) in found {
                encoder.text(name);
                encoder.text(value);
            }
        }),
    }
    Ok(())
}

fn encode_hello(encoder: &mut Encoder<'_>, protocol: Protocol, id: i64) {
    encoder.map(7);
    encoder.text("server");
    encoder.text("heronry");
    encoder.text("version");
    encoder.text(env!("CARGO_PKG_VERSION"));
    encoder.text("proto");
    encoder.integer(protocol.number());
    encoder.text("id");
    encoder.integer(id);
    encoder.text("mode");
    encoder.text("standalone");
    encoder.text("role");
    encoder.text("master");
    encoder.text("modules");
    encoder.array(0);
}

fn template_list(encoder: &mut Encoder<'_>, node: &dyn NodeView) {
    let templates = node.templates();
    encoder.map(templates.len());
    for (name, summary) in &templates {
        encoder.text(name);
        encoder.text(summary);
    }
}

fn shard_list(encoder: &mut Encoder<'_>, node: &dyn NodeView) {
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

/// CLIENT REPLY ON|OFF|SKIP.
fn client_reply(session: &mut Session, args: &Args<'_>, silent: bool) {
    session.form.silent = silent;
    match one_of("mode", args.get(2), &["ON", "OFF", "SKIP"]) {
        Ok("ON") => {
            session.form.silent = false;
            session.put(|encoder| encoder.simple("OK"));
        }
        Ok("OFF") => session.form.silent = true,
        Ok(_) => session.skip_next = !silent,
        Err((code, text)) => session.put(|encoder| encoder.error(code, &text)),
    }
}

fn client_set_info(session: &mut Session, args: &Args<'_>) -> Result<(), Fault> {
    let attribute = one_of("attribute", args.get(2), &["LIB-NAME", "LIB-VER"])?;
    let value = checked_name(attribute, args.get(3))?;
    match attribute {
        "LIB-NAME" => session.about.lib_name = value,
        _ => session.about.lib_version = value,
    }
    session.put(|encoder| encoder.simple("OK"));
    Ok(())
}

fn client_line(session: &Session) -> String {
    format!(
        "id={} name={} resp={} pipeline={} lib-name={} lib-ver={}\n",
        session.id,
        session.about.name,
        session.form.protocol.number(),
        session.order.count(),
        session.about.lib_name,
        session.about.lib_version
    )
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

/// A name without spaces, possibly empty.
fn checked_name(what: &'static str, name: &[u8]) -> Result<Box<str>, Fault> {
    let allowed = "up to 255 bytes of visible ASCII without spaces";
    if name.len() > NAME_BYTES_MAX || !name.iter().all(u8::is_ascii_graphic) {
        return Err(out_of_range(what, name, allowed));
    }
    match std::str::from_utf8(name) {
        Ok(name) => Ok(name.into()),
        Err(_) => Err(out_of_range(what, name, allowed)),
    }
}

fn one_of(
    what: &'static str,
    given: &[u8],
    words: &'static [&'static str],
) -> Result<&'static str, Fault> {
    let word = words.iter().find(|word| word.as_bytes().eq_ignore_ascii_case(given));
    word.copied().ok_or_else(|| {
        let allowed = words.join(", ");
        out_of_range(what, given, &allowed)
    })
}

fn out_of_range(what: &'static str, given: &[u8], allowed: &str) -> Fault {
    let refusal = Refusal::BadValue {
        what: what.into(),
        value: format!("'{}'", shown(given)),
        allowed: allowed.to_owned().into(),
    };
    (refusal.code(), refusal.to_string())
}

/// `*` stands for any bytes, `?` for one; the case of letters does not matter.
fn matches_glob(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    // Where to go on after the last `*`, with one more byte given to it.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g + 1, t));
                g += 1;
            }
            Some(byte) if *byte == b'?' || byte.eq_ignore_ascii_case(&text[t]) => {
                g += 1;
                t += 1;
            }
            _ => match star {
                Some((after, given)) => {
                    star = Some((after, given + 1));
                    g = after;
                    t = given + 1;
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|byte| *byte == b'*')
}
