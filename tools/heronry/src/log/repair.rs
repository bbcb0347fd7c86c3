//! `heronry log repair`: a damaged log made one that a node starts with.
//!
//! Owns: the index that is written, keeping the old segments, the order of the steps.
//! Not: which agents can be had, and as of when (`sieve.rs`).
//! R1  until the new first segment is noted, a start sees what it saw before; from then on it sees
//!     the index, which holds the chains that the sieve has left.
//! R2  every old segment is in the folder `damaged-TIME` before anything is written.
//! R3  segments that no chain needs lose their names here, as after every index.

use super::segment::ShardLog;
use super::sieve::{Sieved, sieve};
use super::verdict::Verdict;
use crate::dispatch::AnswerIsNo;
use crate::output::Output;
use anyhow::{Context, Result};
use heronry_engine::log::{BATCH_ALIGN_BYTES, BATCH_BYTES_MAX, BatchHead, LogKey, Packer, Place};
use heronry_engine::partition::{Flush, Last};
use heronry_engine::{Nanos, Partition, ShardId};
use heronry_shards::log::LogFiles;
use heronry_shards::log::folder::Folder;
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of records that are made at a time.
const FLUSH_BYTES: usize = 512 << 10;
/// Length of a new segment where no old one shows it.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Numbers of calls that are passed over when the batches that gave the last ones are lost.
const CALLS_SKIPPED: u64 = 1 << 32;

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
    let (mut folder, key) = Folder::open(&log.dir, || log.key.0)?;
    let first = log.segments.last().map_or(0, |last| last + 1);
    let lengths = log.segments.iter().map(|number| fs::metadata(log.path(*number)));
    let lengths = lengths.collect::<Result<Vec<_>, _>>()?;
    let mut writer = Writer {
        log,
        folder: &mut folder,
        key,
        segment_bytes: lengths.iter().map(fs::Metadata::len).max().unwrap_or(SEGMENT_BYTES),
        file: None,
        segment: first,
        offset: 0,
        head: BatchHead {
            shard: ShardId(log.shard),
            epoch: walked.epoch + 1,
            sequence: walked.last.map_or(0, |last| last + 1),
            written_at: Nanos(u64::try_from(now.as_nanos())?),
            call_last: 0,
            request_last: 0,
            whole: true,
        },
        packer: Packer::default(),
    };
    writer.index(&mut partition)?;
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

/// Writes batches into new segments.
struct Writer<'a> {
    log: &'a ShardLog,
    folder: &'a mut Folder,
    key: LogKey,
    segment_bytes: u64,
    file: Option<File>,
    segment: u32,
    offset: u64,
    head: BatchHead,
    packer: Packer,
}

impl Writer<'_> {
    /// Writes an index of all chains that the partition has.
    fn index(&mut self, partition: &mut Partition) -> Result<()> {
        let Last { call, request } = partition.last_numbers();
        (self.head.call_last, self.head.request_last) = (call, request);
        let mut flush = Flush::default();
        partition.begin_index();
        while partition.is_indexing() {
            flush.clear();
            partition.flush(FLUSH_BYTES, &mut flush);
            let mut at = 0;
            for made in &flush.made {
                let record = &flush.bytes[at..at + made.len_bytes];
                at += made.len_bytes;
                if !self.packer.fits(record.len()) {
                    self.write()?;
                }
                let offset = self.offset as u32 + self.packer.push(record) as u32;
                let len_bytes = record.len() as u32;
                partition.placed(*made, Place { segment: self.segment, offset, len_bytes });
            }
            self.write()?;
        }
        Ok(())
    }

    /// Writes the batch that is packed, and waits until it is on disk.
    fn write(&mut self) -> Result<()> {
        if self.packer.is_empty() {
            return Ok(());
        }
        let bytes = self.packer.finish(&self.key, self.head, Vec::new());
        if self.offset + bytes.len() as u64 > self.segment_bytes {
            (self.segment, self.offset, self.file) = (self.segment + 1, 0, None);
        }
        if self.file.is_none() {
            // Made with all its room, as a node makes it; a node writes past the page cache.
            self.folder.create(self.segment, self.segment_bytes)?;
            let path = self.log.path(self.segment);
            self.file = Some(File::options().write(true).open(path)?);
        }
        let file = self.file.as_ref().context("a segment was opened")?;
        file.write_all_at(&bytes, self.offset)?;
        file.sync_all()?;
        self.offset += bytes.len() as u64;
        self.head.sequence += 1;
        Ok(())
    }
}

const _: () = assert!(BATCH_BYTES_MAX as u64 <= SEGMENT_BYTES);
const _: () = assert!(FLUSH_BYTES.is_multiple_of(BATCH_ALIGN_BYTES));
