//! The agent commands as methods with types.
//!
//! Owns: how replies become the engine's types.  Not: ranges; the node checks them and refuses.
//! Replies are read in RESP3 and RESP2 alike.

use super::{Client, ClientError};
use crate::resp::Value;
use bytes::Bytes;
use heronry_engine::verb::{AgentInfo, DiffRange, VersionInfo};
use heronry_engine::{Ack, AgentId, AgentKey, Nanos, ShardId, VersionId};

/// What AGENT.SEND may be told.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendOptions<'a> {
    /// A retry with the same id gets the first reply.
    pub request_id: Option<&'a [u8]>,
    /// Give up after this many milliseconds in the mailbox.
    pub timeout_ms: Option<u64>,
    /// The promise wanted.
    pub ack: Ack,
}

/// What AGENT.FORK may be told.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForkOptions<'a> {
    /// How many branches; 0 and 1 are one.
    pub count: u32,
    /// The name of the one branch.
    pub suffix: Option<&'a str>,
    /// Number or `@label`; the present when absent.
    pub at: Option<&'a str>,
    /// Whether the sleeps that the agent awaits go on in the branches.
    pub keep_timers: bool,
}

/// One page of AGENT.LIST.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListPage {
    /// For the next page; `0` at the end.
    pub cursor: String,
    /// Keys.
    pub keys: Vec<AgentKey>,
}

impl Client {
    /// AGENT.CREATE; `image_bytes` 0 keeps the template's length.
    pub fn create(&mut self, key: &str, image_bytes: u64) -> Result<VersionId, ClientError> {
        let size = image_bytes.to_string();
        let args: [&[u8]; 4] = [b"AGENT.CREATE", key.as_bytes(), b"SIZE", size.as_bytes()];
        let words = if image_bytes == 0 { &args[..2] } else { &args[..] };
        version("AGENT.CREATE", self.ask(words)?)
    }

    /// AGENT.SEND with nothing but the message.
    pub fn send(&mut self, key: &str, payload: &[u8]) -> Result<Option<Bytes>, ClientError> {
        payload_of("AGENT.SEND", self.ask(&[b"AGENT.SEND", key.as_bytes(), payload])?)
    }

    /// AGENT.SEND.
    pub fn send_with(
        &mut self,
        key: &str,
        payload: &[u8],
        options: SendOptions<'_>,
    ) -> Result<Option<Bytes>, ClientError> {
        let timeout = options.timeout_ms.map(|ms| ms.to_string());
        let mut words: Vec<&[u8]> = vec![b"AGENT.SEND", key.as_bytes(), payload];
        if let Some(id) = options.request_id {
            words.extend([b"ID", id]);
        }
        if let Some(timeout) = &timeout {
            words.extend([b"TIMEOUT".as_slice(), timeout.as_bytes()]);
        }
        words.extend(ack_words(options.ack));
        payload_of("AGENT.SEND", self.ask(&words)?)
    }

    /// AGENT.EXEC; what the code printed, and the value of a last expression.
    pub fn exec(&mut self, key: &str, code: &[u8]) -> Result<Bytes, ClientError> {
        let reply = self.ask(&[b"AGENT.EXEC", key.as_bytes(), code])?;
        Ok(payload_of("AGENT.EXEC", reply)?.unwrap_or_default())
    }

    /// AGENT.READ; short at the image's end.
    pub fn read(&mut self, key: &str, offset: u64, len_bytes: u32) -> Result<Bytes, ClientError> {
        let (offset, length) = (offset.to_string(), len_bytes.to_string());
        let reply =
            self.ask(&[b"AGENT.READ", key.as_bytes(), offset.as_bytes(), length.as_bytes()])?;
        Ok(payload_of("AGENT.READ", reply)?.unwrap_or_default())
    }

    /// AGENT.WRITE.
    pub fn write(
        &mut self,
        key: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<VersionId, ClientError> {
        let offset = offset.to_string();
        let words: [&[u8]; 4] = [b"AGENT.WRITE", key.as_bytes(), offset.as_bytes(), bytes];
        version("AGENT.WRITE", self.ask(&words)?)
    }

    /// AGENT.CHECKPOINT.
    pub fn checkpoint(&mut self, key: &str, label: Option<&str>) -> Result<VersionId, ClientError> {
        let mut words: Vec<&[u8]> = vec![b"AGENT.CHECKPOINT", key.as_bytes()];
        if let Some(label) = label {
            words.extend([b"LABEL".as_slice(), label.as_bytes()]);
        }
        version("AGENT.CHECKPOINT", self.ask(&words)?)
    }

    /// AGENT.FORK.
    pub fn fork(
        &mut self,
        key: &str,
        options: ForkOptions<'_>,
    ) -> Result<Vec<AgentKey>, ClientError> {
        let count = options.count.to_string();
        let mut words: Vec<&[u8]> = vec![b"AGENT.FORK", key.as_bytes()];
        if options.count > 1 {
            words.extend([b"COUNT".as_slice(), count.as_bytes()]);
        }
        if let Some(suffix) = options.suffix {
            words.extend([b"AS".as_slice(), suffix.as_bytes()]);
        }
        if let Some(at) = options.at {
            words.extend([b"AT".as_slice(), at.as_bytes()]);
        }
        if options.keep_timers {
            words.push(b"KEEP-TIMERS");
        }
        let reply = self.ask(&words)?;
        keys(&reply).ok_or_else(|| unexpected("AGENT.FORK", "an array of keys", &reply))
    }

    /// AGENT.ROLLBACK; `to` is a number or `@label`, the newest checkpoint when absent.
    pub fn rollback(&mut self, key: &str, to: Option<&str>) -> Result<VersionId, ClientError> {
        let mut words: Vec<&[u8]> = vec![b"AGENT.ROLLBACK", key.as_bytes()];
        if let Some(to) = to {
            words.extend([b"TO".as_slice(), to.as_bytes()]);
        }
        version("AGENT.ROLLBACK", self.ask(&words)?)
    }

    /// AGENT.EXPORT.
    pub fn export(&mut self, key: &str) -> Result<Bytes, ClientError> {
        let reply = self.ask(&[b"AGENT.EXPORT", key.as_bytes()])?;
        Ok(payload_of("AGENT.EXPORT", reply)?.unwrap_or_default())
    }

    /// AGENT.IMPORT; the version that is the present.
    pub fn import(&mut self, key: &str, agent: &[u8]) -> Result<VersionId, ClientError> {
        version("AGENT.IMPORT", self.ask(&[b"AGENT.IMPORT", key.as_bytes(), agent])?)
    }

    /// AGENT.DIGEST of a version, or of the present.
    pub fn digest(&mut self, key: &str, at: Option<&str>) -> Result<Bytes, ClientError> {
        let mut words: Vec<&[u8]> = vec![b"AGENT.DIGEST", key.as_bytes()];
        words.extend(at.map(str::as_bytes));
        Ok(payload_of("AGENT.DIGEST", self.ask(&words)?)?.unwrap_or_default())
    }

    /// AGENT.VERSIONS, oldest first.
    pub fn versions(&mut self, key: &str) -> Result<Vec<VersionInfo>, ClientError> {
        let reply = self.ask(&[b"AGENT.VERSIONS", key.as_bytes()])?;
        let rows = reply.as_slice().and_then(|rows| rows.iter().map(version_info).collect());
        rows.ok_or_else(|| unexpected("AGENT.VERSIONS", "an array of versions", &reply))
    }

    /// AGENT.DIFF; versions are numbers or `@label`s, `to` is the present when absent.
    pub fn diff(
        &mut self,
        key: &str,
        from: &str,
        to: Option<&str>,
    ) -> Result<Vec<DiffRange>, ClientError> {
        let mut words: Vec<&[u8]> = vec![b"AGENT.DIFF", key.as_bytes(), from.as_bytes()];
        words.extend(to.map(str::as_bytes));
        let reply = self.ask(&words)?;
        let range = |pair: &Value| {
            let pair = pair.as_slice()?;
            let (start, len_bytes) = (pair.first()?.as_u64()?, pair.get(1)?.as_u64()?);
            Some(DiffRange { start, len_bytes })
        };
        let ranges = reply.as_slice().and_then(|rows| rows.iter().map(range).collect());
        ranges.ok_or_else(|| unexpected("AGENT.DIFF", "an array of ranges", &reply))
    }

    /// AGENT.COMMIT; the parent's new version.
    pub fn commit(&mut self, branch: &str) -> Result<VersionId, ClientError> {
        version("AGENT.COMMIT", self.ask(&[b"AGENT.COMMIT", branch.as_bytes()])?)
    }

    /// AGENT.SUSPEND.
    pub fn suspend(&mut self, key: &str) -> Result<(), ClientError> {
        self.ask(&[b"AGENT.SUSPEND", key.as_bytes()]).map(drop)
    }

    /// AGENT.RESUME.
    pub fn resume(&mut self, key: &str) -> Result<(), ClientError> {
        self.ask(&[b"AGENT.RESUME", key.as_bytes()]).map(drop)
    }

    /// AGENT.TERMINATE.
    pub fn terminate(&mut self, key: &str) -> Result<(), ClientError> {
        self.ask(&[b"AGENT.TERMINATE", key.as_bytes()]).map(drop)
    }

    /// AGENT.INFO.
    pub fn info(&mut self, key: &str) -> Result<AgentInfo, ClientError> {
        let reply = self.ask(&[b"AGENT.INFO", key.as_bytes()])?;
        agent_info(&reply).ok_or_else(|| unexpected("AGENT.INFO", "a description", &reply))
    }

    /// One page of AGENT.LIST; `cursor` is `0` to begin, `pattern` a glob.
    pub fn list(
        &mut self,
        cursor: &str,
        count: u32,
        pattern: Option<&str>,
        lost: bool,
    ) -> Result<ListPage, ClientError> {
        let count = count.to_string();
        let mut words: Vec<&[u8]> =
            vec![b"AGENT.LIST", b"CURSOR", cursor.as_bytes(), b"COUNT", count.as_bytes()];
        if let Some(pattern) = pattern {
            words.extend([b"MATCH".as_slice(), pattern.as_bytes()]);
        }
        if lost {
            words.push(b"LOST");
        }
        let reply = self.ask(&words)?;
        let page = reply.as_slice().and_then(|parts| {
            let cursor = parts.first()?.as_str()?.to_owned();
            Some(ListPage { cursor, keys: keys(parts.get(1)?)? })
        });
        page.ok_or_else(|| unexpected("AGENT.LIST", "a cursor and keys", &reply))
    }

    /// AGENT.HOTTEST: keys with their estimated turns, busiest first.
    pub fn hottest(&mut self, count: u32) -> Result<Vec<(AgentKey, u64)>, ClientError> {
        let count = count.to_string();
        let reply = self.ask(&[b"AGENT.HOTTEST", b"COUNT", count.as_bytes()])?;
        let row = |pair: &Value| {
            let pair = pair.as_slice()?;
            Some((key(pair.first()?)?, pair.get(1)?.as_u64()?))
        };
        let rows = reply.as_slice().and_then(|rows| rows.iter().map(row).collect());
        rows.ok_or_else(|| unexpected("AGENT.HOTTEST", "an array of keys and turns", &reply))
    }
}

fn ack_words(ack: Ack) -> Vec<&'static [u8]> {
    match ack {
        Ack::Template => Vec::new(),
        Ack::Sealed => vec![b"ACK", b"sealed"],
        Ack::Durable => vec![b"ACK", b"durable"],
    }
}

fn version(command: &'static str, reply: Value) -> Result<VersionId, ClientError> {
    let number = reply.as_u64().map(VersionId);
    number.ok_or_else(|| unexpected(command, "a version's number", &reply))
}

fn payload_of(command: &'static str, reply: Value) -> Result<Option<Bytes>, ClientError> {
    match reply {
        Value::Null => Ok(None),
        Value::Bulk(bytes) => Ok(Some(bytes)),
        other => Err(unexpected(command, "bytes or null", &other)),
    }
}

pub(super) fn unexpected(
    command: &'static str,
    wanted: &'static str,
    reply: &Value,
) -> ClientError {
    let got = format!("{reply:?}").chars().take(200).collect();
    ClientError::Unexpected { command, wanted, got }
}

fn key(value: &Value) -> Option<AgentKey> {
    AgentKey::new(Bytes::copy_from_slice(value.as_bytes()?)).ok()
}

fn keys(value: &Value) -> Option<Vec<AgentKey>> {
    value.as_slice()?.iter().map(key).collect()
}

fn version_info(row: &Value) -> Option<VersionInfo> {
    let number = |name| row.field(name)?.as_u64();
    let label = match row.field("label")? {
        Value::Null => None,
        label => Some(Bytes::copy_from_slice(label.as_bytes()?)),
    };
    Some(VersionInfo {
        id: VersionId(number("version")?),
        parent: number("parent").map(VersionId),
        label,
        checkpoint: number("checkpoint")? == 1,
        head: number("head")? == 1,
        sealed_at: Nanos(number("sealed_ns")?),
        image_bytes: number("image_bytes")?,
    })
}

fn agent_info(reply: &Value) -> Option<AgentInfo> {
    let number = |name| reply.field(name)?.as_u64();
    let small = |name| u32::try_from(number(name)?).ok();
    let id = u128::from_str_radix(reply.field("id")?.as_str()?, 16).ok()?;
    let parent = match reply.field("parent")? {
        Value::Null => None,
        parent => Some(key(parent)?),
    };
    Some(AgentInfo {
        key: key(reply.field("key")?)?,
        id: AgentId(id),
        shard: ShardId(u16::try_from(number("shard")?).ok()?),
        state: reply.field("state")?.as_str()?.to_owned(),
        head: VersionId(number("version")?),
        version_count: small("version_count")?,
        image_bytes: number("image_bytes")?,
        unique_bytes: number("unique_bytes")?,
        shared_bytes: number("shared_bytes")?,
        mailbox_count: small("mailbox_count")?,
        turn_count: number("turn_count")?,
        failure_count: small("failure_count")?,
        parent,
        branch_count: small("branch_count")?,
    })
}
