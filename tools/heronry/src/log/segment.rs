//! Files of a log, read without the node: nothing is made, locked or changed.
//!
//! Owns: where a shard's segments, key and first segment are, reads of pieces of a segment.
//! Not: making segments (`shards`), what the bytes mean (`engine`).
//! N1  reading keeps a bounded piece of a segment in memory, whatever the segment's length.

use anyhow::{Context, Result, bail};
use heronry_engine::log::batch::{Batch, promised_bytes};
use heronry_engine::log::{BATCH_ALIGN_BYTES, BATCH_BYTES_MAX, BatchError, HEAD_BYTES, LogKey};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of one read, unless more is asked for.
const READ_BYTES: usize = 1 << 20;
/// Records are read in one piece with what is around them.
const PIECE_BYTES_MAX: usize = BATCH_BYTES_MAX + BATCH_ALIGN_BYTES;

/// The log of one shard.
pub struct ShardLog {
    /// Whose.
    pub shard: u16,
    /// Its folder.
    pub dir: PathBuf,
    /// The key of its hashes.
    pub key: LogKey,
    /// Numbers of its segments, ascending.
    pub segments: Vec<u32>,
    /// The first to read at a start.
    pub first: u32,
    /// Whether that is noted: a whole index begins there.
    pub is_noted: bool,
}

/// How many shards a data folder has, as `log/shards` says, and the logs of all of them, or of the
/// one that is asked for.
pub fn shards(data: &Path, wanted: Option<u16>) -> Result<(u16, Vec<ShardLog>)> {
    let log = data.join("log");
    let path = log.join("shards");
    let text = fs::read_to_string(&path).with_context(|| {
        let data = data.display();
        format!("{data} holds no log; --data names the data folder: cannot read {}", path.display())
    })?;
    let count: u16 = text
        .trim()
        .parse()
        .with_context(|| format!("{} holds {text:?}, not a number of shards", path.display()))?;
    let found = shard_folders(&log)?;
    if count == 0 || found != (0..count).collect() {
        let found: Vec<String> = found.iter().map(|shard| format!("{shard:04}")).collect();
        bail!(
            "{} says {count}, and there are folders of these shards: {}. Agents would be lost: put \
             back what is missing, or write the number there that the folder was written with",
            path.display(),
            if found.is_empty() { "none".to_owned() } else { found.join(", ") },
        );
    }
    if let Some(shard) = wanted.filter(|shard| *shard >= count) {
        bail!("--shard {shard}: {} has logs of shards 0 to {}", data.display(), count - 1);
    }
    let mut logs = Vec::new();
    for shard in (0..count).filter(|shard| wanted.is_none_or(|wanted| wanted == *shard)) {
        let opened = ShardLog::open(shard, log.join(format!("{shard:04}")));
        logs.push(opened.with_context(|| format!("the log of shard {shard}"))?);
    }
    Ok((count, logs))
}

/// The shards that have a folder in a log.
pub(super) fn shard_folders(log: &Path) -> Result<BTreeSet<u16>> {
    let mut found = BTreeSet::new();
    let entries = match fs::read_dir(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.with_context(|| format!("cannot read {}", log.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number =
            name.to_str().filter(|name| name.len() == 4).and_then(|name| name.parse::<u16>().ok());
        if entry.file_type()?.is_dir() {
            found.extend(number);
        }
    }
    Ok(found)
}

impl ShardLog {
    fn open(shard: u16, dir: PathBuf) -> Result<ShardLog> {
        let key = fs::read(dir.join("key")).context("cannot read its key")?;
        let Ok(key) = <[u8; 32]>::try_from(key) else {
            bail!("{} has not 32 bytes: no batch can be checked", dir.join("key").display());
        };
        let mut segments = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "log") {
                segments
                    .extend(path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok()));
            }
        }
        segments.sort_unstable();
        let noted = match fs::read_to_string(dir.join("first")) {
            Ok(text) => Some(text.trim().parse().with_context(|| {
                format!("{} holds {text:?}, not a number", dir.join("first").display())
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context("cannot read which segment is the first"),
        };
        let first = noted.or(segments.first().copied()).unwrap_or(0);
        Ok(ShardLog { shard, dir, key: LogKey(key), segments, first, is_noted: noted.is_some() })
    }

    /// The file of a segment.
    pub fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number:010}.log"))
    }

    /// Opens a segment to read.
    pub fn segment(&self, number: u32) -> Result<Segment> {
        let path = self.path(number);
        let open = || {
            let file = File::open(&path)?;
            let len_bytes = file.metadata()?.len();
            Ok::<_, io::Error>(Segment { file, len_bytes, start: 0, bytes: Vec::new() })
        };
        open().with_context(|| format!("cannot read {}", path.display()))
    }
}

/// A segment, with the piece of it that was read last (N1).
pub struct Segment {
    file: File,
    len_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Segment {
    /// Its length with all its room.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Its bytes from `offset` on, `len_bytes` of them or as many as there are.
    pub fn at(&mut self, offset: u64, len_bytes: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.len_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len_bytes.min(left).min(PIECE_BYTES_MAX);
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + len as u64 > end {
            let piece = len.max(READ_BYTES).min(left);
            self.bytes.resize(piece, 0);
            (self.start, self.bytes) = (offset, std::mem::take(&mut self.bytes));
            self.file.read_exact_at(&mut self.bytes, offset)?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..from + len])
    }

    /// The batch that begins at `offset`, if it is whole.
    pub fn batch(
        &mut self,
        key: &LogKey,
        offset: u64,
    ) -> io::Result<Result<Batch<'_>, BatchError>> {
        let promised = promised_bytes(self.at(offset, HEAD_BYTES)?).unwrap_or(HEAD_BYTES);
        Ok(Batch::read(key, self.at(offset, promised)?))
    }

    /// The bytes of a batch that is not whole, as many as it says it has.
    pub fn rest(&mut self, offset: u64) -> io::Result<&[u8]> {
        let promised = promised_bytes(self.at(offset, HEAD_BYTES)?).unwrap_or(HEAD_BYTES);
        self.at(offset, promised)
    }
}
