//! The version tree of one agent: its sealed images, which came from which, and what is kept.
//!
//! Owns: numbers, parents, labels, retention.  Not: the present image between seals (the agent's),
//! pages (`page.rs`).  Small, because a node has a million agents: 64 bytes with one version, and
//! 48 bytes and two vectors' slack for each further one.
//! T1  the head is always kept; the next seal's parent is the head.
//! T2  after an automatic seal the newest `history_max` automatic versions are kept.
//! T3  while no checkpoint exists the first version is kept, beside those of T2.
//! T4  checkpoints are never pruned; one too many is refused.
//! T5  numbers count up and are never reused; a label names one version.

use crate::id::{Nanos, VersionId};
use crate::image::Image;
use crate::page::PageStore;
use crate::verb::{VersionInfo, VersionRef};
use bytes::Bytes;
use std::collections::VecDeque;

/// Number of an agent's first version.
pub const FIRST_VERSION: VersionId = VersionId(1);

const _: () = assert!(size_of::<Version>() <= 48);
const _: () = assert!(size_of::<VersionTree>() <= 64);

/// Why a version was not made. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VersionError {
    /// One checkpoint more than are allowed.
    #[error("{count} checkpoints are kept, the limit is {count_max}")]
    TooManyCheckpoints {
        /// Checkpoints kept.
        count: u32,
        /// Their bound.
        count_max: u32,
    },
}

/// What a seal is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SealKind {
    /// The agent's policy asked; pruned first (T2).
    Auto {
        /// Automatic versions to keep; 0 keeps none but the head.
        history_max: u32,
    },
    /// A client asked; kept (T4).
    Checkpoint {
        /// Name to find it by; taken from the version that has it now.
        label: Option<Bytes>,
        /// Most checkpoints of this agent.
        checkpoints_max: u32,
    },
}

/// Versions of one agent. It holds references in the store and has no destructor: end it with
/// [`VersionTree::release`].
#[must_use = "a tree that is not released leaks its pages"]
#[derive(Debug)]
pub struct VersionTree {
    head: Version,
    next: u64,
    older: Option<Box<Older>>,
}

#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) image: Image,
    pub(crate) id: u64,
    /// 0 for the first.
    pub(crate) parent: u64,
    pub(crate) sealed_at: Nanos,
    pub(crate) checkpoint: bool,
}

/// A kept version, lent.
pub(crate) struct Sealed<'a> {
    pub(crate) id: u64,
    pub(crate) parent: u64,
    pub(crate) sealed_at: Nanos,
    pub(crate) checkpoint: bool,
    pub(crate) image: &'a Image,
}

/// What a tree is put together from.
pub(crate) struct Parts {
    pub(crate) versions: Vec<Version>,
    pub(crate) head: u64,
    pub(crate) next: u64,
    pub(crate) labels: Vec<(Vec<u8>, u64)>,
}

/// All versions but the head, each list by ascending number; and all labels.
#[derive(Debug, Default)]
struct Older {
    automatic: VecDeque<Version>,
    checkpoints: Vec<Version>,
    labels: Vec<Label>,
}

#[derive(Debug)]
struct Label {
    name: Box<[u8]>,
    version: u64,
}

impl VersionTree {
    /// A tree whose head and only version, [`FIRST_VERSION`], is `image`.
    pub fn new(image: &Image, store: &mut PageStore, now: Nanos) -> VersionTree {
        let image = image.share(store);
        let id = FIRST_VERSION.0;
        let head = Version { image, id, parent: 0, sealed_at: now, checkpoint: false };
        VersionTree { head, next: id + 1, older: None }
    }

    /// The present version.
    pub fn head(&self) -> VersionId {
        VersionId(self.head.id)
    }

    /// The present version's image.
    pub fn head_image(&self) -> &Image {
        &self.head.image
    }

    /// Makes `image` a new version upon the head, and the head (T1). An image that is the head's
    /// makes no version: the head is returned, now a checkpoint if one was asked for; only a second
    /// label for the same image does make one. Cost: no page. On an error nothing changed.
    pub fn seal(
        &mut self,
        image: &Image,
        store: &mut PageStore,
        now: Nanos,
        kind: SealKind,
    ) -> Result<VersionId, VersionError> {
        let unchanged = image.same(&self.head.image);
        match kind {
            SealKind::Auto { history_max } => {
                if !unchanged {
                    self.push(image.share(store), now, false);
                    self.prune(history_max, store);
                }
            }
            SealKind::Checkpoint { label, checkpoints_max } => {
                let reuse = unchanged && self.head_takes(label.as_deref());
                if !(reuse && self.head.checkpoint) {
                    self.admit_checkpoint(checkpoints_max)?;
                }
                if reuse {
                    self.head.checkpoint = true;
                } else {
                    self.push(image.share(store), now, true);
                }
                if let Some(label) = label {
                    self.move_label(&label);
                }
            }
        }
        Ok(self.head())
    }

    /// The kept version that `wanted` names.
    pub fn find(&self, wanted: &VersionRef) -> Option<VersionId> {
        match wanted {
            VersionRef::Id(id) => self.version(id.0).map(|version| VersionId(version.id)),
            VersionRef::Label(name) => {
                let mut labels = self.older.as_deref()?.labels.iter();
                let label = labels.find(|label| *label.name == **name)?;
                Some(VersionId(label.version))
            }
        }
    }

    /// The image of a kept version.
    pub fn image_of(&self, id: VersionId) -> Option<&Image> {
        self.version(id.0).map(|version| &version.image)
    }

    /// The checkpoint with the highest number; the first version when there is none (T3).
    pub fn newest_checkpoint(&self) -> VersionId {
        let older = self.older.as_deref().and_then(|older| older.checkpoints.last());
        let older = older.map(|version| version.id);
        let head = self.head.checkpoint.then_some(self.head.id);
        older.max(head).map_or(FIRST_VERSION, VersionId)
    }

    /// Makes a kept version the head: the tree's part of a rollback. All other versions stay.
    /// Returns its image, for the agent to share; `None`, and nothing changed, when it is not kept.
    pub fn set_head(&mut self, id: VersionId) -> Option<&Image> {
        if id.0 != self.head.id {
            let older = self.older.as_deref_mut()?;
            let taken = if let Ok(at) = older.automatic.binary_search_by_key(&id.0, |v| v.id) {
                older.automatic.remove(at)?
            } else {
                let at = older.checkpoints.binary_search_by_key(&id.0, |v| v.id).ok()?;
                older.checkpoints.remove(at)
            };
            let left = std::mem::replace(&mut self.head, taken);
            older.keep(left);
        }
        Some(&self.head.image)
    }

    /// All kept versions, oldest first.
    pub fn list(&self) -> Vec<VersionInfo> {
        let mut list: Vec<VersionInfo> = self.versions().map(|v| self.info(v)).collect();
        list.sort_unstable_by_key(|info| info.id);
        list
    }

    /// Kept versions.
    pub fn count(&self) -> u32 {
        self.versions().count() as u32
    }

    /// Kept checkpoints.
    pub fn checkpoint_count(&self) -> u32 {
        let older = self.older.as_deref().map_or(0, |older| older.checkpoints.len());
        older as u32 + u32::from(self.head.checkpoint)
    }

    /// Images of all kept versions, in no particular order.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.versions().map(|version| &version.image)
    }

    /// Ends all versions. Cost: the pages that no other image holds.
    pub fn release(self, store: &mut PageStore) {
        self.head.image.release(store);
        if let Some(older) = self.older {
            for version in older.automatic.into_iter().chain(older.checkpoints) {
                version.image.release(store);
            }
        }
    }

    /// Kept versions, by ascending number, as the log knows them.
    pub(crate) fn sealed(&self) -> Vec<Sealed<'_>> {
        let mut list: Vec<Sealed<'_>> = self
            .versions()
            .map(|Version { image, id, parent, sealed_at, checkpoint }| Sealed {
                id: *id,
                parent: *parent,
                sealed_at: *sealed_at,
                checkpoint: *checkpoint,
                image,
            })
            .collect();
        list.sort_unstable_by_key(|version| version.id);
        list
    }

    /// Number of the next version.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Labels, each with its version.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let labels = self.older.as_deref().map_or(&[][..], |older| &older.labels);
        labels.iter().map(|label| (&*label.name, label.version))
    }

    /// A tree of these versions, by ascending number, which it takes over; `None`, and all
    /// are released, when `head` is not among them.
    pub(crate) fn restore(parts: Parts, store: &mut PageStore) -> Option<VersionTree> {
        let Parts { versions, head, next, labels } = parts;
        let mut older = Older {
            labels: labels
                .into_iter()
                .map(|(name, version)| Label { name: name.into(), version })
                .collect(),
            ..Older::default()
        };
        let mut found = None;
        for version in versions {
            if version.id == head && found.is_none() {
                found = Some(version);
            } else {
                older.keep(version);
            }
        }
        let Some(head) = found else {
            for version in older.automatic.into_iter().chain(older.checkpoints) {
                version.image.release(store);
            }
            return None;
        };
        let bare =
            older.automatic.is_empty() && older.checkpoints.is_empty() && older.labels.is_empty();
        let older = (!bare).then(|| Box::new(older));
        Some(VersionTree { next: next.max(head.id + 1), head, older })
    }

    fn versions(&self) -> impl Iterator<Item = &Version> {
        let older = self.older.as_deref();
        let older = older.into_iter().flat_map(|o| o.automatic.iter().chain(&o.checkpoints));
        std::iter::once(&self.head).chain(older)
    }

    fn version(&self, id: u64) -> Option<&Version> {
        if id == self.head.id {
            return Some(&self.head);
        }
        let older = self.older.as_deref()?;
        if let Ok(at) = older.automatic.binary_search_by_key(&id, |v| v.id) {
            return older.automatic.get(at);
        }
        let at = older.checkpoints.binary_search_by_key(&id, |v| v.id).ok()?;
        older.checkpoints.get(at)
    }

    fn info(&self, version: &Version) -> VersionInfo {
        VersionInfo {
            id: VersionId(version.id),
            parent: (version.parent != 0).then_some(VersionId(version.parent)),
            label: self.label_of(version.id).map(Bytes::copy_from_slice),
            checkpoint: version.checkpoint,
            head: version.id == self.head.id,
            sealed_at: version.sealed_at,
            image_bytes: version.image.len_bytes(),
        }
    }

    fn label_of(&self, id: u64) -> Option<&[u8]> {
        let labels = &self.older.as_deref()?.labels;
        labels.iter().find(|label| label.version == id).map(|label| &*label.name)
    }

    /// Whether the head can bear `label` beside what it is called now (T5).
    fn head_takes(&self, label: Option<&[u8]>) -> bool {
        match (label, self.label_of(self.head.id)) {
            (Some(wanted), Some(present)) => wanted == present,
            _ => true,
        }
    }

    fn admit_checkpoint(&self, count_max: u32) -> Result<(), VersionError> {
        let count = self.checkpoint_count();
        if count >= count_max {
            return Err(VersionError::TooManyCheckpoints { count, count_max });
        }
        Ok(())
    }

    /// Names the head, and nothing else, `name`. A version of that name keeps no label.
    fn move_label(&mut self, name: &[u8]) {
        let labels = &mut self.older.get_or_insert_default().labels;
        match labels.iter_mut().find(|label| *label.name == *name) {
            Some(label) => label.version = self.head.id,
            None => labels.push(Label { name: name.into(), version: self.head.id }),
        }
    }

    /// Makes `image` the head and the old head one of the older versions.
    fn push(&mut self, image: Image, now: Nanos, checkpoint: bool) {
        let (id, parent) = (self.next, self.head.id);
        self.next += 1;
        let head = Version { image, id, parent, sealed_at: now, checkpoint };
        let left = std::mem::replace(&mut self.head, head);
        self.older.get_or_insert_default().keep(left);
    }

    /// Drops the oldest automatic versions until T2 holds; the head (T1) and the first version
    /// while it is needed (T3) are never dropped.
    fn prune(&mut self, history_max: u32, store: &mut PageStore) {
        let no_checkpoint = self.checkpoint_count() == 0;
        let Some(older) = self.older.as_deref_mut() else { return };
        let automatic = &mut older.automatic;
        let first = automatic.front().is_some_and(|version| version.id == FIRST_VERSION.0);
        let apart = usize::from(no_checkpoint && first);
        let head = usize::from(!self.head.checkpoint);
        while automatic.len() > apart + (history_max as usize).saturating_sub(head) {
            let oldest = automatic.remove(apart).expect("T2: longer than what is kept apart");
            oldest.image.release(store);
        }
    }
}

impl Older {
    /// Puts in what was the head. Cost: constant, unless a rollback made it older than others.
    fn keep(&mut self, version: Version) {
        if version.checkpoint {
            let at = self.checkpoints.partition_point(|v| v.id < version.id);
            self.checkpoints.insert(at, version);
        } else {
            // Nearly always the newest, which needs no look at the others.
            let at = match self.automatic.back() {
                Some(last) if last.id > version.id => {
                    self.automatic.partition_point(|v| v.id < version.id)
                }
                _ => self.automatic.len(),
            };
            self.automatic.insert(at, version);
        }
    }
}
