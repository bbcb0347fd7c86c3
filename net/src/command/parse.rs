//! Arguments of the agent and template commands, turned into verbs.
//!
//! Owns: ranges of numbers, version arguments, options in any order.
//! Not: the number of arguments (the table checks it first), nor anything about agents.
//! A1  what is kept of the arguments is copied out, or shared where it has its own buffer.
//! A2  a cursor of LIST holds a shard and that shard's cursor; 0 is both start and end.

mod options;

use super::{BadCommand, Command, shown};
use crate::resp::Args;
use bytes::Bytes;
use heronry_engine::limits::{
    FORK_COUNT_MAX, IMAGE_BYTES_MAX, KEY_BYTES_MAX, LABEL_BYTES_MAX, LIST_COUNT_MAX,
    REQUEST_ID_BYTES_MAX, SHARD_COUNT_MAX, TEMPLATE_BYTES_MAX,
};
use heronry_engine::verb::Errand;
use heronry_engine::{Ack, AgentKey, Refusal, Verb, VersionId, VersionRef};
use options::Options;

/// Longest TIMEOUT in milliseconds: a day.
pub const TIMEOUT_MS_MAX: u64 = 86_400_000;
/// Most agents that HOTTEST names.
pub const HOTTEST_COUNT_MAX: u64 = 1000;
/// How many it names unless asked.
pub const HOTTEST_COUNT: u64 = 10;
/// How many keys LIST aims at unless asked.
pub const LIST_COUNT: u32 = 100;

/// Bits of a cursor that hold the shard (A2).
const CURSOR_SHARD_BITS: u32 = 10;
const _: () = assert!(SHARD_COUNT_MAX as u32 <= 1 << CURSOR_SHARD_BITS);

/// Which agent command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the command of the same name")]
pub enum AgentVerb {
    Create,
    Send,
    Exec,
    Read,
    Write,
    Checkpoint,
    Fork,
    Rollback,
    Versions,
    Export,
    Import,
    Digest,
    Diff,
    Commit,
    Suspend,
    Resume,
    Terminate,
    Info,
    List,
    Hottest,
}

/// Which command of those that the control thread carries out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the command of the same name")]
pub enum ErrandVerb {
    Deploy,
    Activate,
    Snapshot,
}

/// An agent command as asked.
#[derive(Debug)]
pub enum Asked {
    /// A verb on one agent.
    Agent {
        /// Which.
        key: AgentKey,
        /// What.
        verb: Verb,
        /// The promise wanted.
        ack: Ack,
        /// Span after which to give up, in milliseconds.
        timeout_ms: Option<u64>,
    },
    /// A page of the agents of one shard.
    List {
        /// The shard.
        shard: u16,
        /// What.
        verb: Verb,
    },
    /// The busiest agents of all shards.
    Hottest {
        /// How many.
        count: usize,
    },
}

/// Turns the arguments of `command` into what is asked.
///
/// `args` has a number of words that fits the grammar. Error: the value, the allowed range, the
/// grammar.
#[inline]
pub fn parse(
    command: &'static Command,
    agent_verb: AgentVerb,
    args: &Args<'_>,
    payload_bytes_max: usize,
) -> Result<Asked, BadCommand> {
    let mut options = Options { command, args, at: 2, seen: 0 };
    let mut ack = Ack::Template;
    let mut timeout_ms = None;
    match agent_verb {
        AgentVerb::List => return list(&mut options),
        AgentVerb::Hottest => return hottest(&mut options),
        _ => {}
    }
    let key = AgentKey::new(args.take(1))?;
    let verb = match agent_verb {
        AgentVerb::Send => send(&mut options, &mut ack, &mut timeout_ms)?,
        AgentVerb::Exec => exec(&mut options, &mut ack, &mut timeout_ms)?,
        AgentVerb::Create => create(&mut options, &mut ack)?,
        AgentVerb::Read => Verb::Read {
            offset: number(args, 2, "offset", 0, IMAGE_BYTES_MAX)?,
            len_bytes: number(args, 3, "length", 0, payload_bytes_max as u64)? as u32,
        },
        AgentVerb::Write => write(&mut options, &mut ack)?,
        AgentVerb::Checkpoint => checkpoint(&mut options, &mut ack)?,
        AgentVerb::Fork => fork(&mut options, &mut ack)?,
        AgentVerb::Rollback => rollback(&mut options, &mut ack)?,
        AgentVerb::Versions => Verb::Versions,
        AgentVerb::Export => Verb::Export,
        AgentVerb::Import => import(&mut options, &mut ack)?,
        AgentVerb::Digest => {
            Verb::Digest { at: (args.count() > 2).then(|| version(args, 2)).transpose()? }
        }
        AgentVerb::Diff => Verb::Diff {
            from: version(args, 2)?,
            to: (args.count() > 3).then(|| version(args, 3)).transpose()?,
        },
        AgentVerb::Commit => plain(&mut options, &mut ack, Verb::Commit)?,
        AgentVerb::Suspend => plain(&mut options, &mut ack, Verb::Suspend)?,
        AgentVerb::Resume => plain(&mut options, &mut ack, Verb::Resume)?,
        AgentVerb::Terminate => plain(&mut options, &mut ack, Verb::Terminate)?,
        AgentVerb::Info => Verb::Info,
        AgentVerb::List | AgentVerb::Hottest => unreachable!("A2: they are of no one agent"),
    };
    Ok(Asked::Agent { key, verb, ack, timeout_ms })
}

#[inline]
fn send(
    options: &mut Options<'_>,
    ack: &mut Ack,
    timeout_ms: &mut Option<u64>,
) -> Result<Verb, BadCommand> {
    let payload = options.args.take(2);
    options.at = 3;
    let mut request_id = None;
    while let Some(token) = options.next()? {
        match token {
            "ID" => {
                let idx = options.value(token)?;
                request_id = Some(bounded(options.args, idx, "ID", 1, REQUEST_ID_BYTES_MAX)?);
            }
            "TIMEOUT" => *timeout_ms = Some(options.number(token, 1, TIMEOUT_MS_MAX)?),
            _ => *ack = options.ack(token)?,
        }
    }
    Ok(Verb::Send { payload, request_id })
}

fn import(options: &mut Options<'_>, ack: &mut Ack) -> Result<Verb, BadCommand> {
    let bytes = options.args.take(2);
    options.at = 3;
    while let Some(token) = options.next()? {
        *ack = options.ack(token)?;
    }
    Ok(Verb::Import { bytes })
}

fn exec(
    options: &mut Options<'_>,
    ack: &mut Ack,
    timeout_ms: &mut Option<u64>,
) -> Result<Verb, BadCommand> {
    let code = options.args.take(2);
    options.at = 3;
    while let Some(token) = options.next()? {
        match token {
            "TIMEOUT" => *timeout_ms = Some(options.number(token, 1, TIMEOUT_MS_MAX)?),
            _ => *ack = options.ack(token)?,
        }
    }
    Ok(Verb::Exec { code })
}

/// Turns the arguments of such a command into what is asked of the control thread; as
/// [`parse`].
pub fn parse_errand(
    command: &'static Command,
    verb: ErrandVerb,
    args: &Args<'_>,
) -> Result<Errand, BadCommand> {
    let name = template_name(args.get(1))?;
    match verb {
        ErrandVerb::Activate => {
            let number = number(args, 2, "number", 1, u64::from(u32::MAX))? as u32;
            Ok(Errand::Activate { name, number })
        }
        ErrandVerb::Snapshot => Ok(Errand::Snapshot { name }),
        ErrandVerb::Deploy => deploy(&mut Options { command, args, at: 2, seen: 0 }, name),
    }
}

fn deploy(options: &mut Options<'_>, name: String) -> Result<Errand, BadCommand> {
    let (mut language, mut source, mut warm, mut activate) = (None, None, None, true);
    while let Some(token) = options.next()? {
        match token {
            "LANGUAGE" => language = Some(options.language(token)?),
            "SOURCE" => source = Some(options.value(token)?),
            "WARM" => warm = Some(options.value(token)?),
            _ => activate = false,
        }
    }
    let Some(language) = language else { return Err(options.misused("LANGUAGE", "is missing")) };
    let Some(source) = source else { return Err(options.misused("SOURCE", "is missing")) };
    let (source, warm) = (options.args.take(source), warm.map(|idx| options.args.take(idx)));
    Ok(Errand::Deploy { name, language, source, warm, activate })
}

/// A name that fits into a key, and into a path.
fn template_name(text: &[u8]) -> Result<String, BadCommand> {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !(1..=TEMPLATE_BYTES_MAX).contains(&text.len()) || !text.iter().all(letter) {
        let allowed = format!("1 to {TEMPLATE_BYTES_MAX} of a-z, A-Z, 0-9, - and _");
        return Err(bad_value("name", text, allowed));
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// A verb that takes nothing but the promise of its reply.
fn plain(options: &mut Options<'_>, ack: &mut Ack, verb: Verb) -> Result<Verb, BadCommand> {
    while let Some(token) = options.next()? {
        *ack = options.ack(token)?;
    }
    Ok(verb)
}

fn create(options: &mut Options<'_>, ack: &mut Ack) -> Result<Verb, BadCommand> {
    let mut image_bytes = 0;
    while let Some(token) = options.next()? {
        match token {
            "SIZE" => image_bytes = options.number(token, 0, IMAGE_BYTES_MAX)?,
            _ => *ack = options.ack(token)?,
        }
    }
    Ok(Verb::Create { image_bytes })
}

fn write(options: &mut Options<'_>, ack: &mut Ack) -> Result<Verb, BadCommand> {
    let bytes = options.args.take(3);
    let offset_max = IMAGE_BYTES_MAX - bytes.len() as u64;
    let offset = number(options.args, 2, "offset", 0, offset_max)?;
    options.at = 4;
    while let Some(token) = options.next()? {
        *ack = options.ack(token)?;
    }
    Ok(Verb::Write { offset, bytes })
}

fn checkpoint(options: &mut Options<'_>, ack: &mut Ack) -> Result<Verb, BadCommand> {
    let mut label = None;
    while let Some(token) = options.next()? {
        match token {
            "LABEL" => {
                let idx = options.value(token)?;
                label = Some(word(options.args, idx, "LABEL")?);
            }
            _ => *ack = options.ack(token)?,
        }
    }
    Ok(Verb::Checkpoint { label })
}

fn fork(options: &mut Options<'_>, ack: &mut Ack) -> Result<Verb, BadCommand> {
    let (mut count, mut at, mut suffix, mut keep_timers) = (None, None, None, false);
    while let Some(token) = options.next()? {
        match token {
            "COUNT" => count = Some(options.number(token, 1, u64::from(FORK_COUNT_MAX))? as u32),
            "AS" => {
                let idx = options.value(token)?;
                let given = options.args.get(idx);
                if given.contains(&b'~') {
                    return Err(bad_value("AS", given, "a name without ~".to_owned()));
                }
                suffix = Some(word(options.args, idx, "AS")?);
            }
            "KEEP-TIMERS" => keep_timers = true,
            "AT" => {
                let idx = options.value(token)?;
                at = Some(version(options.args, idx)?);
            }
            _ => *ack = options.ack(token)?,
        }
    }
    if count.is_some() && suffix.is_some() {
        return Err(options.misused("AS", "excludes COUNT"));
    }
    Ok(Verb::Fork { count: count.unwrap_or(1), at, suffix, keep_timers })
}

fn rollback(options: &mut Options<'_>, ack: &mut Ack) -> Result<Verb, BadCommand> {
    let mut to = None;
    while let Some(token) = options.next()? {
        match token {
            "TO" => {
                let idx = options.value(token)?;
                to = Some(version(options.args, idx)?);
            }
            _ => *ack = options.ack(token)?,
        }
    }
    Ok(Verb::Rollback { to })
}

fn list(options: &mut Options<'_>) -> Result<Asked, BadCommand> {
    options.at = 1;
    let (mut shard, mut cursor, mut count) = (0, 0, LIST_COUNT);
    let (mut pattern, mut lost) = (None, false);
    while let Some(token) = options.next()? {
        match token {
            "CURSOR" => {
                let idx = options.value(token)?;
                (shard, cursor) = cursor_parts(options.args.get(idx))?;
            }
            "COUNT" => count = options.number(token, 1, u64::from(LIST_COUNT_MAX))? as u32,
            "MATCH" => {
                let idx = options.value(token)?;
                pattern = Some(bounded(options.args, idx, "MATCH", 1, KEY_BYTES_MAX)?);
            }
            _ => lost = true,
        }
    }
    Ok(Asked::List { shard, verb: Verb::List { cursor, count, pattern, lost } })
}

fn hottest(options: &mut Options<'_>) -> Result<Asked, BadCommand> {
    options.at = 1;
    let mut count = HOTTEST_COUNT;
    while let Some(token) = options.next()? {
        count = options.number(token, 1, HOTTEST_COUNT_MAX)?;
    }
    Ok(Asked::Hottest { count: count as usize })
}

/// The cursor that a client sees: `shard`'s own cursor and the shard (A2).
pub fn client_cursor(shard: u16, shard_cursor: u64) -> u128 {
    u128::from(shard_cursor) << CURSOR_SHARD_BITS | u128::from(shard)
}

fn cursor_parts(text: &[u8]) -> Result<(u16, u64), BadCommand> {
    let cursor = std::str::from_utf8(text).ok().and_then(|text| text.parse::<u128>().ok());
    let parts = cursor.and_then(|cursor| {
        let shard = (cursor & ((1 << CURSOR_SHARD_BITS) - 1)) as u16;
        u64::try_from(cursor >> CURSOR_SHARD_BITS).ok().map(|rest| (shard, rest))
    });
    parts.ok_or_else(|| {
        let allowed = "0 to begin, then the last reply's cursor";
        bad_value("CURSOR", text, allowed.to_owned())
    })
}

/// A version: a number from 1, or `@label`.
fn version(args: &Args<'_>, idx: usize) -> Result<VersionRef, BadCommand> {
    let text = args.get(idx);
    if text.first() == Some(&b'@') && (2..=LABEL_BYTES_MAX + 1).contains(&text.len()) {
        return Ok(VersionRef::Label(Bytes::copy_from_slice(&text[1..])));
    }
    match decimal(text) {
        Some(id) if id > 0 => Ok(VersionRef::Id(VersionId(id))),
        _ => {
            let allowed = format!("a number from 1, or @label of 1 to {LABEL_BYTES_MAX} bytes");
            Err(bad_value("version", text, allowed))
        }
    }
}

/// A name without spaces: label or suffix.
fn word(args: &Args<'_>, idx: usize, what: &'static str) -> Result<Bytes, BadCommand> {
    let text = args.get(idx);
    let fits = (1..=LABEL_BYTES_MAX).contains(&text.len());
    if !fits || !text.iter().all(u8::is_ascii_graphic) {
        let allowed = format!("1 to {LABEL_BYTES_MAX} bytes of visible ASCII without spaces");
        return Err(bad_value(what, text, allowed));
    }
    Ok(args.take(idx))
}

fn bounded(
    args: &Args<'_>,
    idx: usize,
    what: &'static str,
    least: usize,
    most: usize,
) -> Result<Bytes, BadCommand> {
    let text = args.get(idx);
    if !(least..=most).contains(&text.len()) {
        return Err(bad_value(what, text, format!("{least} to {most} bytes")));
    }
    Ok(args.take(idx))
}

fn number(
    args: &Args<'_>,
    idx: usize,
    what: &'static str,
    least: u64,
    most: u64,
) -> Result<u64, BadCommand> {
    let text = args.get(idx);
    match decimal(text) {
        Some(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(bad_value(what, text, format!("a whole number, {least} to {most}"))),
    }
}

/// Digits only: no sign, no space.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

fn bad_value(what: &'static str, value: &[u8], allowed: String) -> BadCommand {
    let value = format!("'{}'", shown(value));
    BadCommand::Refused(Refusal::BadValue { what: what.into(), value, allowed: allowed.into() })
}
