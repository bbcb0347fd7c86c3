//! `heronry backup` and `heronry restore`: a node's data in another folder.
//!
//! Owns: copying and checking.  Not: which moment it is of (the node's snapshot).
//! B1  a folder that is there under the name that was asked for is whole, checked and on disk: it
//!     gets that name last.
//! B2  nothing is written over: a folder that is there already is refused.

use crate::address::{Address, socket_beside};
use crate::cli::Global;
use crate::link::{Link, Words};
use crate::output::Output;
use crate::{log, node};
use anyhow::{Context, Result, bail};
use heronry_net::resp::Value;
use rustix::fs::{SeekFrom, seek};
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Name of the snapshot that a backup copies.
const SNAPSHOT: &str = "heronry-backup";
/// What a data folder is made of.
const PARTS: [&str; 2] = ["log", "templates"];
/// Bytes that are copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Copies the data of a node, running or not, to a folder that is not there yet.
pub fn backup(global: &Global, data: &Path, to: &Path, output: Output) -> Result<()> {
    let started = Instant::now();
    refuse_existing(to)?;
    if !data.join("log").join("shards").exists() {
        bail!("{} holds no log; --data names the data folder of the node", data.display());
    }
    let (bytes, agents) = match node::is_running(data) {
        false => {
            let _lock = node::lock(data)?;
            copy_checked(data, to)?
        }
        true => {
            let snapshot = Snapshot::take(global, data)?;
            copy_checked(&snapshot.path, to)?
        }
    };
    say(output, "backed up", agents, bytes, to, started)
}

/// Makes a data folder of a backup.
pub fn restore(from: &Path, data: &Path, output: Output) -> Result<()> {
    let started = Instant::now();
    refuse_existing(data)?;
    if !from.join("log").join("shards").exists() {
        bail!("{} is no backup: it has no file log/shards", from.display());
    }
    let (bytes, agents) = copy_checked(from, data)?;
    say(output, "restored", agents, bytes, data, started)
}

fn say(
    output: Output,
    done: &str,
    agents: u64,
    bytes: u64,
    to: &Path,
    started: Instant,
) -> Result<()> {
    let ms = started.elapsed().as_millis() as u64;
    if output.json {
        let to = to.display().to_string();
        return Ok(output.json(&json!({"agents": agents, "bytes": bytes, "to": to, "ms": ms}))?);
    }
    let text = format!("{done} {agents} agents, {bytes} bytes, to {} in {ms} ms", to.display());
    Ok(output.text(&text)?)
}

/// A snapshot that a running node has made, removed when dropped.
struct Snapshot {
    path: PathBuf,
    _lock: File,
}

impl Snapshot {
    fn take(global: &Global, data: &Path) -> Result<Snapshot> {
        let snapshots = data.join("snapshots");
        fs::create_dir_all(&snapshots)?;
        let lock = File::create(snapshots.join("heronry-backup.lock"))?;
        if lock.try_lock().is_err() {
            bail!("another backup of {} is being made; wait for it to end", data.display());
        }
        let path = snapshots.join(SNAPSHOT);
        if path.exists() {
            // Of a backup that was killed.
            fs::remove_dir_all(&path)?;
        }
        let mut global = global.clone();
        if global.connect.is_none() {
            global.connect = Some(Address::Unix(socket_beside(data)));
        }
        let reply = Link::open(&global)?.ask(&Words::new("NODE.SNAPSHOT").arg(SNAPSHOT))?;
        let Value::Bulk(made) = &reply else { bail!("the node answered {reply:?}") };
        let made = PathBuf::from(String::from_utf8_lossy(made).into_owned());
        let snapshot = Snapshot { path, _lock: lock };
        if !snapshot.path.exists() {
            bail!(
                "the node has made {}, which is not in {}; --data and --connect are to name the \
                 same node, on this host",
                made.display(),
                data.display()
            );
        }
        Ok(snapshot)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // The next backup removes what is left.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn refuse_existing(to: &Path) -> Result<()> {
    match fs::read_dir(to) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => bail!("{} is there already; name a folder that is not", to.display()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot look into {}", to.display())),
    }
}

/// Copies a data folder and checks the copy (B1). Returns its bytes and agents.
fn copy_checked(from: &Path, to: &Path) -> Result<(u64, u64)> {
    let name = to.file_name().with_context(|| format!("{} has no name", to.display()))?;
    let unchecked = to.with_file_name(format!("{}.unchecked", name.to_string_lossy()));
    if unchecked.exists() {
        bail!(
            "{} is left of an earlier try, or another one is going on; remove it first",
            unchecked.display()
        );
    }
    let copied = copy_parts(from, &unchecked).and_then(|bytes| {
        let agents = log::check(&unchecked).context("the copy is not good")?;
        Ok((bytes, agents))
    });
    let copied = copied.inspect_err(|_| {
        let _ = fs::remove_dir_all(&unchecked);
    })?;
    if to.exists() {
        fs::remove_dir(to)?;
    }
    fs::rename(&unchecked, to)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(copied)
}

fn copy_parts(from: &Path, to: &Path) -> Result<u64> {
    fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut bytes = 0;
    for part in PARTS.iter().map(Path::new).filter(|part| from.join(part).exists()) {
        bytes += copy_tree(&from.join(part), &to.join(part))?;
    }
    File::open(to)?.sync_all()?;
    Ok(bytes)
}

fn copy_tree(from: &Path, to: &Path) -> Result<u64> {
    fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut bytes = 0;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (from, to, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            bytes += copy_tree(&from, &to)?;
        } else if kind.is_file() {
            let copied = copy_file(&from, &to);
            bytes += copied
                .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        }
    }
    File::open(to)?.sync_all()?;
    Ok(bytes)
}

/// Copies what is in a file and leaves out room that was never written; how many bytes that was.
fn copy_file(from: &Path, to: &Path) -> io::Result<u64> {
    let mut source = File::open(from)?;
    let mut copy = File::create_new(to)?;
    let meta = source.metadata()?;
    copy.set_permissions(meta.permissions())?;
    copy.set_len(meta.len())?;
    let (mut end, mut bytes) = (0, 0);
    let mut piece = vec![0; COPY_BYTES];
    while end < meta.len() {
        let data = match seek(&source, SeekFrom::Data(end)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that cannot tell has it all copied.
            Err(_) => end,
        };
        end = seek(&source, SeekFrom::Hole(data)).unwrap_or(meta.len());
        source.seek(io::SeekFrom::Start(data))?;
        copy.seek(io::SeekFrom::Start(data))?;
        let mut left = end - data;
        while left > 0 {
            let len = left.min(COPY_BYTES as u64) as usize;
            source.read_exact(&mut piece[..len])?;
            copy.write_all(&piece[..len])?;
            left -= len as u64;
        }
        bytes += end - data;
    }
    copy.sync_all()?;
    Ok(bytes)
}
