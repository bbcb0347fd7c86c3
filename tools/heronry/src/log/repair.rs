//! `heronry log repair`: a damaged log made one that a node starts with.
//!
//! Owns: keeping the old segments, the order of the steps.
//! Not: which agents can be had, and as of when (`sieve.rs`), writing batches (`writer.rs`).
//! R1  until the new first segment is noted, a start sees what it saw before; from then on it sees
//!     the index, which holds the chains that the sieve has left.
//! R2  every old segment is in the folder `damaged-TIME` before anything is written.
//! R3  segments that no chain needs lose their names here, as after every index.

use super::segment::ShardLog;
use super::sieve::{Sieved, sieve};
use super::verdict::Verdict;
use super::writer::{SEGMENT_BYTES, Writer};
use crate::dispatch::AnswerIsNo;
use crate::output::Output;
use anyhow::{Context, Result};
use heronry_engine::log::BatchHead;
use heronry_engine::{Nanos, ShardId};
use heronry_shards::log::LogFiles;
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Numbers of calls that are passed over when the batches that gave the last ones are lost.
const CALLS_SKIPPED: u64 = 1 << 48;

/// Says what each damaged log would lose, and with `yes` goes on without it.
pub fn repair(logs: &[ShardLog], yes: bool, output: Output) -> Result<()> {
    let (mut shards, mut left) = (Vec::new(), false);
    for log in logs {
        let sieved = sieve(log).with_context(|| format!("the log of shard {}", log.shard))?;
        let mut verdict = Verdict::of(log, &sieved);
        if !verdict.good {
            if yes {
                let aside = rewrite(log, sieved);
                let aside = aside.with_context(|| format!("the log of shard {}", log.shard))?;
                verdict.json["kept_aside"] = json!(aside);
                verdict.text.push_str(&format!(
                    "  repaired: it begins with a new index; the old segments are in {}\n",
                    aside.display()
                ));
            }
            left |= !yes;
        }
        if output.json {
            shards.push(verdict.json);
        } else {
            output.text(&verdict.text)?;
        }
    }
    if output.json {
        output.json(&json!({"repaired": yes && !left, "shards": shards}))?;
    } else if left {
        output.text(
            "nothing was changed. `heronry log repair --yes` goes on without what is lost: agents \
             that go back are as they were before the damage, and those that are lost are gone",
        )?;
    } else if !yes {
        output.text("nothing to repair")?;
    }
    if left { Err(AnswerIsNo.into()) } else { Ok(()) }
}

/// Writes what the sieve has left as a new index; the folder that the old segments are in.
fn rewrite(log: &ShardLog, sieved: Sieved) -> Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let aside = keep_aside(log, now)?;
    let Sieved { walked, mut partition, recovery, mut last, .. } = sieved;
    if walked.damages.last().is_some_and(|damage| damage.next.is_none()) {
        last.call += CALLS_SKIPPED;
    }
    partition.recovered(recovery, last);
    // Agents that await something are wanted in memory by a node, not here.
    partition.events().clear();
    let first = log.segments.last().map_or(0, |last| last + 1);
    let lengths = log.segments.iter().map(|number| fs::metadata(log.path(*number)));
    let lengths = lengths.collect::<Result<Vec<_>, _>>()?;
    let head = BatchHead {
        shard: ShardId(log.shard),
        epoch: walked.epoch + 1,
        sequence: walked.last.map_or(0, |last| last + 1),
        written_at: Nanos(u64::try_from(now.as_nanos())?),
        call_last: 0,
        request_last: 0,
        whole: true,
    };
    // A start cuts segments off where they were not written.
    let longest = lengths.iter().map(fs::Metadata::len).max().unwrap_or(0);
    let segment_bytes = longest.max(SEGMENT_BYTES);
    let mut writer = Writer::new(&log.dir, log.key.0, first, segment_bytes, head)?;
    writer.index(&mut partition)?;
    let mut folder = writer.into_folder();
    folder.set_first(first)?;
    let live = partition.live_segments();
    for number in log.segments.iter().filter(|number| !live.contains_key(number)) {
        folder.remove(*number)?;
    }
    Ok(aside)
}

/// Gives every old segment a second name in a folder beside, or copies it where that cannot be
/// (R2). What is written later goes to new segments, so both names keep the old bytes.
fn keep_aside(log: &ShardLog, now: Duration) -> Result<PathBuf> {
    let aside = log.dir.join(format!("damaged-{}", now.as_secs()));
    fs::create_dir(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    let names = log.segments.iter().map(|number| log.path(*number));
    for path in names {
        let kept = aside.join(path.file_name().context("a segment has a name")?);
        fs::hard_link(&path, &kept)
            .or_else(|_| copy(&path, &kept))
            .with_context(|| format!("cannot keep {}", path.display()))?;
    }
    for name in ["key", "first"] {
        let path = log.dir.join(name);
        if path.exists() {
            copy(&path, &aside.join(name))?;
        }
    }
    File::open(&aside)?.sync_all()?;
    File::open(&log.dir)?.sync_all()?;
    Ok(aside)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}
