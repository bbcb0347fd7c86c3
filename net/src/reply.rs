//! Replies and refusals of the engine, in RESP.
//!
//! Owns: the shape of each reply in both protocols; docs/commands.md describes it.
//! Not: in which order replies leave (`session/order.rs`).
//! Y1  a refusal is `-CODE text` with the code of [`Refusal::code`].
//! Y2  an error is one line, so the words of an agent's code stand in it with their line ends as
//!     `\n` and each backslash as `\\`; [`whole_text`] gives them back.

use crate::command::BadCommand;
use crate::command::parse::client_cursor;
use crate::resp::{Encoder, ProtocolError};
use heronry_engine::verb::{AgentInfo, DiffRange, VersionInfo};
use heronry_engine::{AgentKey, Refusal, Reply, ShardId};

/// What LIST needs beside the shard's answer to make the client's cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListPlace {
    /// The shard that was asked.
    pub shard: ShardId,
    /// How many there are.
    pub shard_count: u16,
}

/// Writes the answer to a verb. `list` matters to [`Reply::List`] only.
#[inline]
pub fn encode_answer(
    encoder: &mut Encoder<'_>,
    result: &Result<Reply, Refusal>,
    list: Option<ListPlace>,
) {
    match result {
        Ok(Reply::Payload(Some(bytes))) => encoder.bulk(bytes),
        Ok(reply) => encode_reply(encoder, reply, list),
        Err(refusal) => encode_refusal(encoder, refusal),
    }
}

/// Codes of errors that hold words of an agent's code, a traceback perhaps (Y2).
const QUOTING: [&str; 3] = ["BADTEMPLATE", "FAULT", "RAISED"];

/// Writes a refusal (Y1, Y2).
pub fn encode_refusal(encoder: &mut Encoder<'_>, refusal: &Refusal) {
    let text = refusal.to_string();
    match QUOTING.contains(&refusal.code()) {
        true => {
            let text = text.trim_end().replace('\\', "\\\\").replace('\n', "\\n");
            encoder.error(refusal.code(), &text);
        }
        false => encoder.error(refusal.code(), &text),
    }
}

/// The text of an error as it was before it became one line (Y2).
pub fn whole_text(code: &str, text: String) -> String {
    if !QUOTING.contains(&code) {
        return text;
    }
    let (mut whole, mut letters) = (String::with_capacity(text.len()), text.chars());
    while let Some(letter) = letters.next() {
        whole.push(match letter {
            '\\' => match letters.next() {
                Some('n') => '\n',
                other => other.unwrap_or('\\'),
            },
            other => other,
        });
    }
    whole
}

/// Writes why a command cannot be executed.
pub fn encode_bad_command(encoder: &mut Encoder<'_>, bad: &BadCommand) {
    encoder.error(bad.code(), &bad.to_string());
}

/// Writes why a stream cannot be decoded.
pub fn encode_protocol_error(encoder: &mut Encoder<'_>, error: &ProtocolError) {
    encoder.error("ERR", &format!("Protocol error: {error}"));
}

fn encode_reply(encoder: &mut Encoder<'_>, reply: &Reply, list: Option<ListPlace>) {
    match reply {
        Reply::Done => encoder.simple("OK"),
        Reply::Payload(Some(bytes)) => encoder.bulk(bytes),
        Reply::Payload(None) => encoder.null(),
        Reply::Template { number } => encoder.unsigned(*number),
        Reply::Version(version) => encoder.unsigned(version.0),
        Reply::Forked(keys) => encode_keys(encoder, keys),
        Reply::Versions(versions) => {
            encoder.array(versions.len());
            versions.iter().for_each(|version| encode_version(encoder, version));
        }
        Reply::Diff(ranges) => {
            encoder.array(ranges.len());
            for DiffRange { start, len_bytes } in ranges {
                encoder.array(2);
                encoder.unsigned(*start);
                encoder.unsigned(*len_bytes);
            }
        }
        Reply::Info(info) => encode_info(encoder, info),
        Reply::List { cursor, keys } => {
            encoder.array(2);
            encoder.text(&next_cursor(*cursor, list).to_string());
            encode_keys(encoder, keys);
        }
        Reply::Hottest(rows) => {
            encoder.array(rows.len());
            for (key, turn_count) in rows {
                encoder.array(2);
                encoder.text(key.as_str());
                encoder.unsigned(*turn_count);
            }
        }
    }
}

/// The cursor for the client: on this shard, at the next one's start, or 0 after the last.
fn next_cursor(shard_cursor: u64, list: Option<ListPlace>) -> u128 {
    let Some(ListPlace { shard, shard_count }) = list else { return u128::from(shard_cursor) };
    if shard_cursor != 0 {
        return client_cursor(shard.0, shard_cursor);
    }
    let next = shard.0 + 1;
    if next < shard_count { client_cursor(next, 0) } else { 0 }
}

fn encode_keys(encoder: &mut Encoder<'_>, keys: &[AgentKey]) {
    encoder.array(keys.len());
    for key in keys {
        encoder.bulk(key.as_bytes());
    }
}

fn encode_version(encoder: &mut Encoder<'_>, version: &VersionInfo) {
    encoder.map(7);
    encoder.text("version");
    encoder.unsigned(version.id.0);
    encoder.text("parent");
    match version.parent {
        Some(parent) => encoder.unsigned(parent.0),
        None => encoder.null(),
    }
    encoder.text("label");
    match &version.label {
        Some(label) => encoder.bulk(label),
        None => encoder.null(),
    }
    encoder.text("checkpoint");
    encoder.boolean(version.checkpoint);
    encoder.text("head");
    encoder.boolean(version.head);
    encoder.text("sealed_ns");
    encoder.unsigned(version.sealed_at.0);
    encoder.text("image_bytes");
    encoder.unsigned(version.image_bytes);
}

fn encode_info(encoder: &mut Encoder<'_>, info: &AgentInfo) {
    encoder.map(14);
    encoder.text("key");
    encoder.text(info.key.as_str());
    encoder.text("id");
    encoder.text(&format!("{:032x}", info.id.0));
    encoder.text("shard");
    encoder.unsigned(u64::from(info.shard.0));
    encoder.text("state");
    encoder.text(&info.state);
    for (name, number) in [
        ("version", info.head.0),
        ("version_count", u64::from(info.version_count)),
        ("image_bytes", info.image_bytes),
        ("unique_bytes", info.unique_bytes),
        ("shared_bytes", info.shared_bytes),
        ("mailbox_count", u64::from(info.mailbox_count)),
        ("turn_count", info.turn_count),
        ("failure_count", u64::from(info.failure_count)),
    ] {
        encoder.text(name);
        encoder.unsigned(number);
    }
    encoder.text("parent");
    match &info.parent {
        Some(parent) => encoder.text(parent.as_str()),
        None => encoder.null(),
    }
    encoder.text("branch_count");
    encoder.unsigned(u64::from(info.branch_count));
}
