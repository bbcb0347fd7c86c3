//! Another number of shards: the logs of a data folder, made those of a node with more or fewer.
//!
//! Owns: which records go where, the order of the steps.  Not: which agents a log has
//! (`sieve.rs`), writing batches (`writer.rs`).
//! M1  until the new logs are whole and on disk the folder is as it was; a crash in between leaves
//!     it so, and the next start begins again.
//! M2  an agent's records are copied as they are: its versions, labels, request ids, sleeps and
//!     calls are what they were.
//! M3  a damaged log is not taken: what it would lose is for `heronry log repair` to say.

use super::segment::{Segment, ShardLog, shard_folders, shards};
use super::sieve::{Sieved, sieve};
use super::writer::Writer;
use anyhow::{Context, Result, bail};
use heronry_engine::log::{BatchHead, Place};
use heronry_engine::partition::{Last, Recovery};
use heronry_engine::{AgentId, Nanos, Partition, ShardId};
use heronry_shards::log::LogFiles;
use heronry_shards::log::folder::Folder;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

/// The logs of the node.
const LOG: &str = "log";
/// New ones that are not whole yet.
const NEW: &str = "log.new";
/// The ones before, while the new ones take their place.
const OLD: &str = "log.old";
/// The file in it that says how many shards there are.
const COUNT: &str = "shards";

/// What a node's logs were made of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rehomed {
    /// Shards that the folder was written with.
    pub(crate) shards_before: u16,
    /// Agents.
    pub(crate) agents: u64,
    /// Bytes of records that were copied.
    pub(crate) bytes: u64,
}

/// Makes the logs of a data folder, which no node has, those of `shard_count` shards. `None` when
/// they are that already. `begun` is told before anything is copied.
pub(crate) fn rehome(
    data: &Path,
    shard_count: u16,
    segment_bytes: u64,
    random: fn() -> [u8; 32],
    begun: impl FnOnce(u16),
) -> Result<Option<Rehomed>> {
    finish(data)?;
    let (log, new) = (data.join(LOG), data.join(NEW));
    if !log.join(COUNT).exists() {
        begin(data, shard_count, random)?;
        return Ok(None);
    }
    let (shards_before, logs) = shards(data, None)?;
    if shards_before == shard_count {
        return Ok(None);
    }
    begun(shards_before);
    let made = make(&new, logs, shard_count, segment_bytes, random);
    let made = made.inspect_err(|_| {
        // The next start removes what is left.
        let _ = fs::remove_dir_all(&new);
    });
    let made = made.with_context(|| {
        format!(
            "its agents cannot be moved to {shard_count} shards; nothing is changed, and --shards \
             {shards_before} still starts it"
        )
    })?;
    fs::rename(&log, data.join(OLD))?;
    fs::rename(&new, &log)?;
    finish(data)?;
    Ok(Some(Rehomed { shards_before, ..made }))
}

/// Makes the logs of a data folder that has none. What is missing later was there once.
fn begin(data: &Path, shard_count: u16, random: fn() -> [u8; 32]) -> Result<()> {
    let (log, new) = (data.join(LOG), data.join(NEW));
    let found = shard_folders(&log)?;
    if !found.is_empty() {
        bail!(
            "{} is missing, and there are logs of shards beside it: write the number there that \
             the folder was written with (there are {} here)",
            log.join(COUNT).display(),
            found.len(),
        );
    }
    let made = || {
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        for shard in 0..shard_count {
            Folder::open(&new.join(format!("{shard:04}")), random)?;
        }
        Ok::<_, std::io::Error>(())
    };
    made().with_context(|| format!("cannot make {}", new.display()))?;
    note_count(&new, shard_count)?;
    match fs::remove_dir(&log) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{} is no log", log.display()));
        }
        _ => fs::rename(&new, &log)?,
    }
    Ok(File::open(data)?.sync_all()?)
}

/// Ends what a crash has interrupted: new logs without old ones beside them are whole, and others
/// are not (M1).
fn finish(data: &Path) -> Result<()> {
    let [log, new, old] = [LOG, NEW, OLD].map(|name| data.join(name));
    if !log.exists() && old.exists() && new.exists() {
        fs::rename(&new, &log)?;
    }
    File::open(data)?.sync_all()?;
    for left in [new, old].iter().filter(|left| log.exists() && left.exists()) {
        fs::remove_dir_all(left).with_context(|| format!("cannot remove {}", left.display()))?;
    }
    Ok(())
}

fn note_count(log: &Path, shard_count: u16) -> Result<()> {
    let path = log.join(COUNT);
    let noted = fs::write(&path, format!("{shard_count}\n"))
        .and_then(|()| File::open(&path)?.sync_all())
        .and_then(|()| File::open(log)?.sync_all());
    noted.with_context(|| format!("cannot write {}", path.display()))
}

/// A log that was read.
struct Source {
    log: ShardLog,
    partition: Partition,
}

fn make(
    new: &Path,
    logs: Vec<ShardLog>,
    shard_count: u16,
    segment_bytes: u64,
    random: fn() -> [u8; 32],
) -> Result<Rehomed> {
    fs::create_dir(new).with_context(|| format!("cannot make {}", new.display()))?;
    let mut sources = Vec::new();
    let mut last = Last::default();
    for log in logs {
        let shard = log.shard;
        let sieved = sieve(&log).with_context(|| format!("the log of shard {shard}"))?;
        if !sieved.is_good() {
            bail!(
                "the log of shard {shard} is damaged; `heronry log verify` shows what is affected, \
                 and `heronry log repair` goes on without it"
            );
        }
        let Sieved { mut partition, recovery, last: numbers, .. } = sieved;
        last.call = last.call.max(numbers.call);
        last.request = last.request.max(numbers.request);
        partition.recovered(recovery, numbers);
        partition.events().clear();
        sources.push(Source { log, partition });
    }
    let mut rehomed = Rehomed::default();
    for shard in 0..shard_count {
        let dir = new.join(format!("{shard:04}"));
        let mut home = Home::new(&dir, ShardId(shard), shard_count, segment_bytes, random())?;
        for source in &sources {
            home.take(source).with_context(|| format!("the log of shard {}", source.log.shard))?;
        }
        rehomed.bytes += home.bytes;
        rehomed.agents += u64::from(home.finish(last)?);
    }
    note_count(new, shard_count)?;
    Ok(rehomed)
}

/// A shard's new log.
struct Home {
    shard: ShardId,
    shard_count: u16,
    writer: Writer,
    partition: Partition,
    recovery: Recovery,
    bytes: u64,
}

impl Home {
    fn new(
        dir: &Path,
        shard: ShardId,
        shard_count: u16,
        segment_bytes: u64,
        key: [u8; 32],
    ) -> Result<Home> {
        let head = BatchHead {
            shard,
            epoch: 0,
            sequence: 0,
            written_at: Nanos(0),
            call_last: 0,
            request_last: 0,
            whole: true,
        };
        Ok(Home {
            shard,
            shard_count,
            writer: Writer::new(dir, key, 0, segment_bytes, head)?,
            partition: super::sieve::partition(shard),
            recovery: Recovery::default(),
            bytes: 0,
        })
    }

    /// Copies the records of a log's agents that have their home here, in their order (M2).
    fn take(&mut self, source: &Source) -> Result<()> {
        let mut places: BTreeMap<Place, Place> = BTreeMap::new();
        let mut agents: Vec<AgentId> = Vec::new();
        let here = |id: AgentId| id.home(self.shard_count) == self.shard;
        for chain in source.partition.chains().filter(|chain| here(chain.id)) {
            agents.push(chain.id);
            places.extend(chain.places.iter().map(|place| (*place, *place)));
        }
        let mut open: Option<(u32, Segment)> = None;
        for (old, new) in &mut places {
            let mut segment = match open.take() {
                Some((number, segment)) if number == old.segment => segment,
                _ => source.log.segment(old.segment)?,
            };
            *new = self.writer.push(segment.at(old.offset.into(), old.len_bytes as usize)?)?;
            self.bytes += u64::from(old.len_bytes);
            open = Some((old.segment, segment));
        }
        self.writer.write()?;
        for id in agents {
            let old = source.partition.chain_places(id).unwrap_or_default();
            let moved = old.iter().map(|place| places[place]).collect();
            self.partition.take_over(&mut self.recovery, &source.partition, id, moved);
        }
        Ok(())
    }

    /// Writes the index; how many agents there are.
    fn finish(mut self, last: Last) -> Result<u32> {
        let count = self.partition.recovered(self.recovery, last);
        self.partition.events().clear();
        let first = self.writer.index(&mut self.partition)?;
        self.writer.into_folder().set_first(first)?;
        Ok(count)
    }
}
