//! `heronry log verify`: whether a log is what was written, and which agents are touched if not.
//!
//! Owns: the words and the JSON of a verdict, which `repair` shows too.
//! Not: finding out (`sieve.rs`).
//! Y1  a log is good when every batch from the first that a start reads on is there and whole, but
//!     for one at the very end, and every record of every chain can be read.

use super::id_text;
use super::segment::ShardLog;
use super::sieve::{Fate, Sieved, Touched, sieve};
use super::walk::{Damage, Spot};
use crate::dispatch::AnswerIsNo;
use crate::output::{Output, table};
use anyhow::Result;
use heronry_engine::AgentId;
use serde_json::{Value as Json, json};

/// Agents that a text names; `--json` names all.
const NAMED_MAX: usize = 50;

/// Prints the verdict on each log; an error when one is not good (Y1).
pub fn verify(logs: &[ShardLog], output: Output) -> Result<()> {
    let mut shards = Vec::new();
    let mut good = true;
    for log in logs {
        let verdict = match sieve(log) {
            Ok(sieved) => Verdict::of(log, &sieved),
            Err(error) => Verdict::unreadable(log, &error),
        };
        good &= verdict.good;
        if output.json {
            shards.push(verdict.json);
        } else {
            output.text(&verdict.text)?;
        }
    }
    if output.json {
        output.json(&json!({"good": good, "shards": shards}))?;
    } else if logs.is_empty() {
        output.text("no shard has written a log yet")?;
    } else if !good {
        output.text(
            "a node does not start where a batch that it has to read is damaged, and refuses \
             agents with damaged records; `heronry log repair` shows how to go on without them, \
             and what that costs",
        )?;
    }
    if good { Ok(()) } else { Err(AnswerIsNo.into()) }
}

/// What is to be said of one log.
pub(super) struct Verdict {
    pub(super) good: bool,
    pub(super) text: String,
    pub(super) json: Json,
}

impl Verdict {
    pub(super) fn of(log: &ShardLog, sieved: &Sieved) -> Verdict {
        let good = sieved.is_good();
        Verdict { good, text: text(log, sieved), json: to_json(log, sieved) }
    }

    pub(super) fn unreadable(log: &ShardLog, error: &anyhow::Error) -> Verdict {
        let text = format!("shard {}: cannot be checked: {error:#}\n", log.shard);
        let json = json!({"shard": log.shard, "good": false, "error": format!("{error:#}")});
        Verdict { good: false, text, json }
    }
}

fn text(log: &ShardLog, sieved: &Sieved) -> String {
    let walked = &sieved.walked;
    let mut text = format!(
        "shard {}: {}: {} batches with {} records, {} bytes, {} agents\n",
        log.shard,
        if sieved.is_good() { "good" } else { "DAMAGED" },
        walked.batches,
        sieved.records,
        walked.bytes,
        sieved.partition.chains().count(),
    );
    if let Some((sequence, spot)) = walked.torn {
        text.push_str(&format!(
            "  the last batch, {sequence}, {}, is not whole: its write was cut off, and nobody was \
             told that it is on disk; a start drops it (one that was whole and whose bytes have \
             changed since looks the same)\n",
            at(spot)
        ));
    }
    for (idx, damage) in walked.damages.iter().enumerate() {
        text.push_str(&format!("  {}\n", damage_text(damage, last_after(sieved, idx))));
    }
    for bad in &sieved.bad.0 {
        let at = at(bad.at);
        text.push_str(&format!("  record in batch {}, {at}: {}\n", bad.sequence, bad.error));
    }
    if sieved.bad.1 > sieved.bad.0.len() as u64 {
        text.push_str(&format!("  records that make no sense: {} in all\n", sieved.bad.1));
    }
    if sieved.from < log.first {
        text.push_str(&format!(
            "  the index with which a start begins is damaged; older ones are read from {} on\n",
            sieved.from
        ));
    }
    text.push_str(&touched_text(sieved));
    text
}

fn at(spot: Spot) -> String {
    format!("at byte {} of segment {}", spot.offset, spot.segment)
}

/// The number of the last whole batch before the next damage.
fn last_after(sieved: &Sieved, idx: usize) -> Option<u64> {
    let next = sieved.walked.damages.get(idx + 1).and_then(|damage| damage.sequence);
    next.map(|sequence| sequence - 1).or(sieved.walked.last)
}

fn damage_text(damage: &Damage, last: Option<u64>) -> String {
    let at = at(damage.at);
    let lost = match (damage.sequence, damage.next) {
        (Some(first), Some((next, _))) if next > first + 1 => {
            format!("batches {first} to {}, from {}, are not whole", next - 1, &at[3..])
        }
        (Some(first), _) => format!("batch {first}, {at}, is not whole"),
        (None, _) => format!("the first batch, {at}, is not whole"),
    };
    match (damage.next, last) {
        (Some((next, spot)), Some(last)) if last > next => {
            let to = format!("batches {next} to {last}");
            format!("{lost}; {to} follow, from byte {} of segment {} on", spot.offset, spot.segment)
        }
        (Some((next, spot)), _) => format!("{lost}; batch {next} follows, {}", self::at(spot)),
        (None, _) => format!("{lost}, and no whole one follows"),
    }
}

fn touched_text(sieved: &Sieved) -> String {
    let mut text = String::new();
    if !sieved.touched.is_empty() {
        let head = ["agent", "without the damage", "in it", "after it", "unreadable"];
        let head = head.map(str::to_owned);
        let row = |(id, touched): (&AgentId, &Touched)| {
            let numbers = [touched.in_damage, touched.left_out, touched.unreadable];
            let names = [name(*id, touched), fate_text(touched.fate).to_owned()];
            names.into_iter().chain(numbers.map(|count| count.to_string())).collect()
        };
        let rows: Vec<Vec<String>> = sieved.touched.iter().take(NAMED_MAX).map(row).collect();
        text.extend(table(&head, &rows).lines().map(|line| format!("  {line}\n")));
        let more = sieved.touched.len().saturating_sub(NAMED_MAX);
        if more > 0 {
            text.push_str(&format!("  and {more} more agents, which --json names\n"));
        }
    }
    if sieved.doubtful > 0 {
        text.push_str(&format!(
            "  {} other agents stay as they were before the damage; what is lost may hold changes \
             of them that nothing names\n",
            sieved.doubtful
        ));
    }
    text
}

fn name(id: AgentId, touched: &Touched) -> String {
    match &touched.owner {
        Some((_, key)) => key.as_str().to_owned(),
        None => format!("(unnamed) {}", id_text(id)),
    }
}

fn fate_text(fate: Fate) -> &'static str {
    match fate {
        Fate::Back => "goes back",
        Fate::Lost => "is lost",
    }
}

fn to_json(log: &ShardLog, sieved: &Sieved) -> Json {
    let walked = &sieved.walked;
    let torn = walked.torn.map(|(batch, spot)| numbered(batch, spot));
    let damage = |(idx, damage): (usize, &Damage)| {
        json!({
            "batch": damage.sequence,
            "segment": damage.at.segment,
            "offset": damage.at.offset,
            "next": damage.next.map(|(batch, spot)| numbered(batch, spot)),
            "last": last_after(sieved, idx),
        })
    };
    let touched = |(id, touched): (&AgentId, &Touched)| {
        json!({
            "id": id_text(*id),
            "tenant": touched.owner.as_ref().map(|(tenant, _)| tenant.0),
            "key": touched.owner.as_ref().map(|(_, key)| key.as_str()),
            "fate": match touched.fate { Fate::Back => "back", Fate::Lost => "lost" },
            "in_damage": touched.in_damage,
            "left_out": touched.left_out,
            "unreadable": touched.unreadable,
        })
    };
    let bad = sieved.bad.0.iter().map(|bad| {
        let mut bad_record = numbered(bad.sequence, bad.at);
        bad_record["error"] = bad.error.to_string().into();
        bad_record
    });
    json!({
        "shard": log.shard,
        "good": sieved.is_good(),
        "from_segment": sieved.from,
        "batches": walked.batches,
        "records": sieved.records,
        "bytes": walked.bytes,
        "agents": sieved.partition.chains().count(),
        "torn": torn,
        "damage": walked.damages.iter().enumerate().map(damage).collect::<Vec<_>>(),
        "bad_records": bad.collect::<Vec<_>>(),
        "bad_record_count": sieved.bad.1,
        "touched": sieved.touched.iter().map(touched).collect::<Vec<_>>(),
        "doubtful": sieved.doubtful,
    })
}

fn numbered(batch: u64, spot: Spot) -> Json {
    json!({"batch": batch, "segment": spot.segment, "offset": spot.offset})
}
