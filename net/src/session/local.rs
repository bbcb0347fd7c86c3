//! Commands that a session answers itself, and what those about the connection do.
//!
//! Owns: HELLO to CLIENT, CONFIG GET.  Not: those about the node (`server.rs`), agents.
//! L1  a wrong password and a wrong user name are told apart by nothing, timing included.

use super::server::{shard_list, template_list};
use super::{About, Form, Resp, Session};
use crate::command::{Action, Command, hint, shown};
use crate::resp::{Args, Encoder, Protocol};
use heronry_engine::Refusal;
use heronry_shards::NodeView;

/// Longest name or attribute of a client, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// What CONFIG GET knows: name and value.
const CONFIG: [(&str, &str); 2] = [("appendonly", "no"), ("save", "")];

/// Why a command was not done: code and text.
pub(super) type Fault = (&'static str, String);

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

    /// `AUTH [username] password`.
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

pub(super) fn one_of(
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
pub(super) fn matches_glob(glob: &[u8], text: &[u8]) -> bool {
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
