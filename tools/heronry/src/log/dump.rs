//! `heronry log dump`: every batch and every record, a line each.
//!
//! Owns: the lines.  Not: the walk (`walk.rs`).
//! P1  what is in memory does not grow with the log.

use super::segment::ShardLog;
use super::walk::{Damage, Spot, Step, walk};
use super::{id_text, kind_name};
use crate::output::{Output, read_or_unread};
use anyhow::Result;
use heronry_engine::log::batch::Batch;
use heronry_engine::log::{Kind, Record, RecordError};
use serde_json::{Map, Value as Json, json};
use std::io::{self, BufWriter, Write};

/// Prints the logs.
pub fn dump(logs: &[ShardLog], output: Output) -> Result<()> {
    let mut lines = Lines { out: BufWriter::new(io::stdout().lock()), json: output.json };
    let mut outcome = Ok(());
    for log in logs {
        let walked = walk(log, log.first, &mut |step| match step {
            Step::Batch(spot, batch) => Ok(lines.batch(log.shard, spot, batch)?),
            Step::Damage(damage) => Ok(lines.damage(log.shard, damage)?),
        });
        outcome = walked.and_then(|walked| match walked.torn {
            Some((batch, spot)) => Ok(lines.torn(log.shard, batch, spot)?),
            None => Ok(()),
        });
        if outcome.is_err() {
            break;
        }
    }
    let outcome = outcome.and_then(|()| Ok(lines.out.flush()?));
    match outcome.map_err(anyhow::Error::downcast::<io::Error>) {
        Ok(()) => Ok(()),
        // O2: a reader that has gone away.
        Err(Ok(error)) => Ok(read_or_unread(Err(error))?),
        Err(Err(other)) => Err(other),
    }
}

struct Lines<W: Write> {
    out: W,
    json: bool,
}

impl<W: Write> Lines<W> {
    fn line(&mut self, text: &str, json: impl FnOnce() -> Json) -> io::Result<()> {
        if self.json { writeln!(self.out, "{}", json()) } else { writeln!(self.out, "{text}") }
    }

    fn batch(&mut self, shard: u16, spot: Spot, batch: Batch<'_>) -> io::Result<()> {
        let (head, Spot { segment, offset }) = (batch.head, spot);
        let written_ms = head.written_at.0 / 1_000_000;
        let text = format!(
            "shard {shard} batch {} segment {segment} byte {offset} bytes {} epoch {} records {} \
             written {}.{:03}",
            head.sequence,
            batch.len_bytes,
            head.epoch,
            batch.record_count,
            written_ms / 1_000,
            written_ms % 1_000,
        );
        self.line(&text, || {
            json!({
                "shard": shard, "batch": head.sequence, "segment": segment, "offset": offset,
                "bytes": batch.len_bytes, "epoch": head.epoch, "records": batch.record_count,
                "written_at_ns": head.written_at.0, "call_last": head.call_last,
                "request_last": head.request_last,
            })
        })?;
        for (begins, record) in batch.iter() {
            let spot = Spot { segment, offset: offset + begins as u32 };
            self.record(shard, head.sequence, spot, record)?;
        }
        Ok(())
    }

    fn record(
        &mut self,
        shard: u16,
        batch: u64,
        spot: Spot,
        record: Result<Record<'_>, RecordError>,
    ) -> io::Result<()> {
        let Spot { segment, offset } = spot;
        let read = record.and_then(|record| Ok((record, record.heading()?)));
        let mut json = Map::new();
        json.insert("shard".into(), shard.into());
        json.insert("batch".into(), batch.into());
        json.insert("segment".into(), segment.into());
        json.insert("offset".into(), offset.into());
        let (record, heading) = match read {
            Ok(read) => read,
            Err(error) => {
                json.insert("error".into(), error.to_string().into());
                let text = format!("  BAD record at byte {offset}: {error}");
                return self.line(&text, || Json::Object(json));
            }
        };
        let kind = kind_name(record.kind as u8);
        json.insert("record".into(), kind.into());
        json.insert("bytes".into(), record.len_bytes.into());
        let mut text = format!("  {kind} byte {offset} bytes {}", record.len_bytes);
        if !matches!(record.kind, Kind::IndexBegin | Kind::IndexEnd) {
            text.push_str(&format!(" agent {}", id_text(record.id)));
            json.insert("id".into(), id_text(record.id).into());
        }
        if let Some((tenant, key)) = &heading.owner {
            text.push_str(&format!(" key {key}"));
            json.insert("tenant".into(), tenant.0.into());
            json.insert("key".into(), key.as_str().into());
        }
        if let Some(from) = heading.from {
            text.push_str(&format!(" of {}", id_text(from)));
            json.insert("of".into(), id_text(from).into());
        }
        if record.kind == Kind::Stub {
            text.push_str(&format!(" chain {}", heading.places.len()));
            json.insert("chain".into(), heading.places.len().into());
        }
        self.line(&text, || Json::Object(json))
    }

    fn damage(&mut self, shard: u16, damage: &Damage) -> io::Result<()> {
        let Spot { segment, offset } = damage.at;
        let number = damage.sequence.map_or("?".to_owned(), |sequence| sequence.to_string());
        let text = format!("shard {shard} DAMAGE batch {number} segment {segment} byte {offset}");
        self.line(&text, || {
            json!({
                "shard": shard, "damage": damage.sequence, "segment": segment, "offset": offset,
                "next": damage.next.map(|(sequence, _)| sequence),
            })
        })
    }

    fn torn(&mut self, shard: u16, batch: u64, spot: Spot) -> io::Result<()> {
        let Spot { segment, offset } = spot;
        let text = format!("shard {shard} torn batch {batch} segment {segment} byte {offset}");
        self.line(
            &text,
            || json!({"shard": shard, "torn": batch, "segment": segment, "offset": offset}),
        )
    }
}
