//! `heronry agent ...`: each verb is one command to the node, and its reply printed.
//!
//! Owns: arguments into words, paging of lists.  Not: how replies look (`output`).
//! G1  `list` asks page after page until it has what was wanted, so that no reply is too long;
//!     what it leaves out, it says.

use crate::cli::{AgentCommand, Global, SendOptions};
use crate::link::{Link, Raised, Refused, Words};
use crate::output::{Output, plain, table};
use crate::top::sample;
use anyhow::{Context, Result};
use heronry_net::resp::Value;
use serde_json::json;
use std::io::{Read, Write as _};

/// Keys asked for per page.
const PAGE_COUNT: u64 = 1000;

/// Runs one verb.
pub fn run(global: &Global, command: &AgentCommand, output: Output) -> Result<()> {
    match command {
        AgentCommand::List { pattern, lost, limit } => {
            let (keys, more) = list(&mut Link::open(global)?, pattern.as_deref(), *lost, *limit)?;
            if output.json {
                output.json(&json!(keys))?;
            } else {
                output.text(&keys.iter().map(|key| format!("{key}\n")).collect::<String>())?;
            }
            if more {
                output.note(&format!("{} shown, more exist: --limit 0 lists all", keys.len()));
            }
            Ok(())
        }
        AgentCommand::Hottest { limit } => {
            let hottest = sample::hottest(&mut Link::open(global)?, *limit)?;
            if output.json {
                let row = |(key, turns): &(String, u64)| json!({"key": key, "turns": turns});
                return Ok(output.json(&hottest.iter().map(row).collect())?);
            }
            let rows: Vec<Vec<String>> =
                hottest.into_iter().map(|(key, turns)| vec![key, turns.to_string()]).collect();
            Ok(output.text(&table(&["agent".into(), "turns of late".into()], &rows))?)
        }
        AgentCommand::Diff { .. } if !output.json => {
            let reply = Link::open(global)?.ask(&words(command)?)?;
            let ranges = reply.as_slice().unwrap_or_default().iter();
            let row =
                |range: &Value| range.as_slice().unwrap_or_default().iter().map(plain).collect();
            let rows: Vec<Vec<String>> = ranges.map(row).collect();
            Ok(output.text(&table(&["start".into(), "bytes".into()], &rows))?)
        }
        AgentCommand::Export { file, .. } => {
            let reply = Link::open(global)?.ask(&words(command)?)?;
            let bytes = reply.as_bytes().unwrap_or_default();
            if file.as_os_str() == "-" {
                return Ok(output.bytes(bytes)?);
            }
            let made = std::fs::File::create_new(file).and_then(|mut made| {
                made.write_all(bytes)?;
                made.sync_all()
            });
            made.with_context(|| format!("cannot make {}", file.display()))?;
            let (file, bytes) = (file.display().to_string(), bytes.len());
            match output.json {
                true => Ok(output.json(&json!({"file": file, "bytes": bytes}))?),
                false => Ok(output.text(&format!("{bytes} bytes in {file}"))?),
            }
        }
        AgentCommand::Exec { .. } => {
            let reply = Link::open(global)?.ask(&words(command)?).map_err(as_raised)?;
            match output.json {
                true => Ok(output.reply(&reply)?),
                false => Ok(output.bytes(reply.as_bytes().unwrap_or_default())?),
            }
        }
        AgentCommand::Read { raw: true, .. } => {
            let reply = Link::open(global)?.ask(&words(command)?)?;
            Ok(output.bytes(reply.as_bytes().unwrap_or_default())?)
        }
        one => {
            let words = words(one)?;
            Ok(output.reply(&Link::open(global)?.ask(&words)?)?)
        }
    }
}

/// The command for a verb that takes one.
fn words(command: &AgentCommand) -> Result<Words> {
    let verb = |name: &str, key: &String| Words::new(name).arg(key);
    Ok(match command {
        AgentCommand::Create { key, image_bytes } => {
            let bytes = (*image_bytes > 0).then(|| image_bytes.to_string());
            verb("AGENT.CREATE", key).option("SIZE", bytes)
        }
        AgentCommand::Send(options) => send(options)?,
        AgentCommand::Exec { key, code, timeout_ms } => verb("AGENT.EXEC", key)
            .arg(given_or_input(code)?)
            .option("TIMEOUT", timeout_ms.map(|ms| ms.to_string())),
        AgentCommand::Read { key, offset, len, .. } => {
            verb("AGENT.READ", key).number(*offset).number(u64::from(*len))
        }
        AgentCommand::Write { key, offset, bytes } => {
            verb("AGENT.WRITE", key).number(*offset).arg(given_or_input(bytes)?)
        }
        AgentCommand::Checkpoint { key, label } => {
            verb("AGENT.CHECKPOINT", key).option("LABEL", label.as_ref())
        }
        AgentCommand::Fork { key, count, at, suffix, keep_timers } => {
            let count = suffix.is_none().then(|| count.to_string());
            let at = at.as_deref().map(version);
            verb("AGENT.FORK", key)
                .option("COUNT", count)
                .option("AT", at)
                .option("AS", suffix.as_ref())
                .flag("KEEP-TIMERS", *keep_timers)
        }
        AgentCommand::Rollback { key, to } => {
            verb("AGENT.ROLLBACK", key).option("TO", to.as_deref().map(version))
        }
        AgentCommand::Versions { key } => verb("AGENT.VERSIONS", key),
        AgentCommand::Export { key, .. } => verb("AGENT.EXPORT", key),
        AgentCommand::Import { key, file } => {
            let bytes = match file.to_str() {
                Some("-") => given_or_input("-"),
                _ => std::fs::read(file).with_context(|| format!("cannot read {}", file.display())),
            };
            verb("AGENT.IMPORT", key).arg(bytes?)
        }
        AgentCommand::Digest { key, at } => {
            at.iter().fold(verb("AGENT.DIGEST", key), |words, at| words.arg(version(at)))
        }
        AgentCommand::Diff { key, from, to } => {
            let words = verb("AGENT.DIFF", key).arg(version(from));
            to.iter().fold(words, |words, to| words.arg(version(to)))
        }
        AgentCommand::Commit { key } => verb("AGENT.COMMIT", key),
        AgentCommand::Suspend { key } => verb("AGENT.SUSPEND", key),
        AgentCommand::Resume { key } => verb("AGENT.RESUME", key),
        AgentCommand::Terminate { key } => verb("AGENT.TERMINATE", key),
        AgentCommand::Info { key } => verb("AGENT.INFO", key),
        AgentCommand::List { .. } | AgentCommand::Hottest { .. } => {
            unreachable!("G1: lists are asked page by page")
        }
    })
}

fn send(options: &SendOptions) -> Result<Words> {
    let payload = given_or_input(&options.payload)?;
    Ok(Words::new("AGENT.SEND")
        .arg(&options.key)
        .arg(payload)
        .option("ID", options.id.as_ref())
        .option("TIMEOUT", options.timeout_ms.map(|ms| ms.to_string()))
        .option("ACK", options.durable.then_some("durable")))
}

/// Code that raised: its traceback as it is, without what the node says around it.
fn as_raised(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Refused>() {
        Ok(Refused { code, text }) if code == "RAISED" => {
            let raised = text.split_once(" raised: ").map_or(text.as_str(), |(_, raised)| raised);
            Raised(raised.trim_end().to_owned()).into()
        }
        Ok(other) => other.into(),
        Err(other) => other,
    }
}

/// A version as the node takes it: a number, or `@label`; a label may come without its `@`.
fn version(text: &str) -> String {
    let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if number || text.starts_with('@') { text.to_owned() } else { format!("@{text}") }
}

/// The bytes given, or all of standard input for `-`.
fn given_or_input(given: &str) -> Result<Vec<u8>> {
    if given != "-" {
        return Ok(given.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    Ok(bytes)
}

/// Keys of all shards, page by page (G1), sorted; at most `limit` unless that is 0, and whether
/// more exist.
fn list(
    link: &mut Link,
    pattern: Option<&str>,
    lost: bool,
    limit: usize,
) -> Result<(Vec<String>, bool)> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut keys = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let words = Words::new("AGENT.LIST")
            .option("CURSOR", Some(&cursor))
            .option("COUNT", Some(PAGE_COUNT.to_string()))
            .option("MATCH", pattern)
            .flag("LOST", lost);
        let reply = link.ask(&words)?;
        let Some([next, page]) = reply.as_slice() else {
            anyhow::bail!("AGENT.LIST gave no cursor and keys");
        };
        let page = page.as_slice().context("AGENT.LIST gave no keys")?;
        keys.extend(page.iter().filter_map(Value::as_str).map(str::to_owned));
        cursor = next.as_str().context("AGENT.LIST gave no cursor")?.to_owned();
        if cursor == "0" || keys.len() > limit {
            break;
        }
    }
    keys.sort();
    // A key may be on two pages when agents come and go meanwhile.
    keys.dedup();
    let more = keys.len() > limit;
    keys.truncate(limit);
    Ok((keys, more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_or_labels() {
        assert_eq!(version("12"), "12");
        assert_eq!(version("planned"), "@planned");
        assert_eq!(version("@12"), "@12");
        assert_eq!(version("12a"), "@12a");
    }
}
