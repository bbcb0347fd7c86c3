//! Read-only mappings of files that nobody else may change.
//!
//! Owns: the checks of owner and mode, and the mapping that rests on them.  Not: the contents.
//! O1  a file is mapped only if it is a regular one that belongs to this user or to root, and that
//!     neither group nor others may write; the check is of the open file, not of its path.
//! O2  Heronry never writes such a file in place: it writes another and renames it.

#![allow(unsafe_code)]

use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Write permission of group and others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why a file or folder is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// It cannot be opened or looked at.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It belongs to somebody else.
    #[error(
        "{path} belongs to user {found}, not to user {user}; `chown {user} {path}` if it is yours"
    )]
    Owner {
        /// Which.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// This process's user.
        user: u32,
    },
    /// Others may change it.
    #[error("{path} has mode {mode:03o}, so others can change it; `chmod go-w {path}`")]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not what it should be.
    #[error("{path} is not a regular {expected}")]
    Kind {
        /// Which.
        path: PathBuf,
        /// `file` or `folder`.
        expected: &'static str,
    },
}

/// Whose a file may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// This process's user only.
    User,
    /// The same or root, for what a package has installed.
    UserOrRoot,
}

/// The state of a file that was looked at: whoever writes to the file, or puts another in its
/// place, changes this, unless within the same tick of the kernel's clock (some milliseconds).
/// Stores through a mapping that may be written show when the kernel next writes them back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileState {
    device: u64,
    inode: u64,
    len_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    /// The state of an open file.
    pub(crate) fn of(file: &File) -> io::Result<FileState> {
        let found = file.metadata()?;
        Ok(FileState {
            device: found.dev(),
            inode: found.ino(),
            len_bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// Length of the file.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Whether nobody has touched the file within `span` before now, so that whoever does from now
    /// on changes its state. A host's clock that was set back says no.
    pub(crate) fn is_settled(&self, span: Duration) -> bool {
        let (Ok(s), Ok(ns)) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1)) else {
            return false;
        };
        let changed = UNIX_EPOCH + Duration::new(s, ns);
        changed.elapsed().is_ok_and(|elapsed| elapsed >= span)
    }
}

/// A whole file, mapped.
#[derive(Debug)]
pub(crate) struct Mapped(Mmap);

impl Mapped {
    /// Maps `file`, which [`open_owned`] gave.
    pub(crate) fn new(file: &File) -> io::Result<Mapped> {
        // SAFETY: a mapped file must not change under its reader. `open_owned` has made sure that
        // only this user or root can change it (O1), and O2 says that Heronry does not.
        let map = unsafe { Mmap::map(file) }?;
        Ok(Mapped(map))
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Opens a file to read after checking what was opened (O1). A link at the end of `path` is
/// refused.
pub(crate) fn open_owned(path: &Path, owner: Owner) -> Result<File, OwnerError> {
    let fail = |source| OwnerError::Io { path: path.to_owned(), source };
    // Not to wait at a FIFO that somebody put there.
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(fail)?;
    let found = file.metadata().map_err(fail)?;
    if !found.is_file() {
        return Err(OwnerError::Kind { path: path.to_owned(), expected: "file" });
    }
    check_owner(path, &found, owner)?;
    Ok(file)
}

/// Checks a folder as [`open_owned`] checks a file.
pub(crate) fn check_folder(path: &Path) -> Result<(), OwnerError> {
    let fail = |source| OwnerError::Io { path: path.to_owned(), source };
    let found = std::fs::symlink_metadata(path).map_err(fail)?;
    if !found.is_dir() {
        return Err(OwnerError::Kind { path: path.to_owned(), expected: "folder" });
    }
    check_owner(path, &found, Owner::User)
}

fn check_owner(path: &Path, found: &Metadata, owner: Owner) -> Result<(), OwnerError> {
    let user = rustix::process::geteuid().as_raw();
    let by_root = owner == Owner::UserOrRoot && found.uid() == 0;
    if found.uid() != user && !by_root {
        return Err(OwnerError::Owner { path: path.to_owned(), found: found.uid(), user });
    }
    let mode = found.mode() & 0o777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(OwnerError::Mode { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn o1_files_that_others_can_change_are_refused_with_the_remedy() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        std::fs::write(&path, b"bytes").expect("written");
        for (mode, good) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("mode");
            let opened = open_owned(&path, Owner::User);
            assert_eq!(opened.is_ok(), good, "{mode:o}");
            if let Err(error) = opened {
                assert!(error.to_string().contains("chmod go-w"), "{error}");
            }
        }
    }

    #[test]
    fn o1_links_folders_and_fifos_are_no_files() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("file");
        let link = folder.path().join("link");
        std::fs::write(&file, b"bytes").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        assert!(matches!(open_owned(&link, Owner::User), Err(OwnerError::Io { .. })));
        assert!(matches!(open_owned(folder.path(), Owner::User), Err(OwnerError::Kind { .. })));
        assert!(matches!(check_folder(&file), Err(OwnerError::Kind { .. })));
        check_folder(folder.path()).expect("a folder of its own");
    }
}
