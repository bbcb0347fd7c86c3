//! A snapshot of a running node: its data as of one moment, under second names.
//!
//! Owns: who takes part and in which order, the snapshot's folder.  Not: a shard's part (`shards`),
//! copying it elsewhere (`backup.rs`).
//! N1  a snapshot is a data folder: what a node started on it has is what this node had on disk at
//!     one moment, messages between its shards among it.
//! N2  one that was not made leaves nothing behind, and every shard goes on.

use super::TEMPLATES;
use super::deploy::Templates;
use super::link::Stepped;
use heronry_shards::errand::{SnapshotStep, Step};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The folder of all snapshots in the data folder.
const SNAPSHOTS: &str = "snapshots";

impl Templates {
    /// Makes a snapshot; its path. Error: why there is none (N2).
    pub(super) async fn snapshot(
        &self,
        data: &Path,
        shard_count: u16,
        name: &str,
    ) -> Result<PathBuf, String> {
        // No shard comes and no template is made meanwhile.
        let _telling = self.telling.lock().await;
        let count = self.peers.borrow().len();
        if count != usize::from(shard_count) {
            return Err(format!("{count} of {shard_count} shards are up; try again"));
        }
        let folder = data.join(SNAPSHOTS).join(name);
        let wrong = |error: io::Error| format!("{} cannot be made: {error}", folder.display());
        fs::create_dir_all(data.join(SNAPSHOTS)).map_err(wrong)?;
        fs::create_dir(&folder).map_err(wrong)?;
        let made = self.cut(data, &folder, shard_count).await;
        let gone_on = self.step_all(|_| SnapshotStep::GoOn).await;
        made.and(gone_on).inspect_err(|_| {
            // What cannot be removed is found in the way of the next one of its name.
            let _ = fs::remove_dir_all(&folder);
        })?;
        Ok(folder)
    }

    async fn cut(&self, data: &Path, folder: &Path, shard_count: u16) -> Result<(), String> {
        self.step_all(|_| SnapshotStep::Hold).await?;
        let log = folder.join("log");
        self.step_all(|shard| SnapshotStep::Cut { folder: log.join(format!("{shard:04}")) })
            .await?;
        let linked = fs::write(log.join("shards"), format!("{shard_count}\n"))
            .and_then(|()| File::open(log.join("shards"))?.sync_all())
            .and_then(|()| link_tree(&data.join(TEMPLATES), &folder.join(TEMPLATES)))
            .and_then(|()| [&log, folder].iter().try_for_each(|made| File::open(made)?.sync_all()));
        linked.map_err(|error| format!("{} cannot be made: {error}", folder.display()))
    }

    /// Asks all shards for a step and waits for all. Error: the first that did not do it.
    async fn step_all(&self, step: impl Fn(u16) -> SnapshotStep) -> Result<(), String> {
        let peers = self.peers.borrow().clone();
        let pending: Vec<_> = peers
            .iter()
            .map(|peer| (peer.shard(), peer.step(Step::Snapshot(step(peer.shard().0)))))
            .collect();
        let mut outcome = Ok(());
        for (shard, step) in pending {
            outcome = outcome.and(match step.outcome().await {
                Stepped::Done => Ok(()),
                Stepped::Failed(error) => Err(format!("shard {}: {error}", shard.0)),
                Stepped::Gone => Err(format!("shard {} ended meanwhile; try again", shard.0)),
            });
        }
        outcome
    }
}

/// Gives all files below a folder second names below another; nothing where there is none.
fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    if !from.exists() {
        return Ok(());
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            link_tree(&entry.path(), &to)?;
        } else if kind.is_file() {
            fs::hard_link(entry.path(), to)?;
        }
    }
    File::open(to)?.sync_all()
}
