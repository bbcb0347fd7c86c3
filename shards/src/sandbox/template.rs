//! A template's file: the memory of a sandbox as it was sealed, and what it takes to run it.
//!
//! Owns: the format.  Not: how a template is made (`build.rs`) or used (`behaviour.rs`).
//! T1  a file is written whole or not at all; every byte is checked before it is used (`seen.rs`).
//! T2  the memory starts at a page of the file and is whole Wasm pages.
//!
//! Format 1, little endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `HERONTPL` |
//! | 8 | 4 | format, 1 |
//! | 12 | 4 | bytes of the header, h |
//! | 16 | 8 | bytes of the memory, m |
//! | 24 | 32 | BLAKE3 of all that follows |
//! | 56 | h | header: [`TemplateHeader`] in postcard |
//! | | | zeros up to a whole page |
//! | | m | the linear memory |

use super::mapped::{FileState, Mapped, Owner, OwnerError, open_owned};
use super::seen::{Seen, Subject};
use super::slot::PAGE;
use heronry_engine::verb::Language;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"HERONTPL";
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 56;
/// Longest header; the state of a module with as many globals as there may be is far below it.
const HEADER_BYTES_MAX: usize = 1 << 20;

/// What a template is beside its memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TemplateHeader {
    /// What the source was.
    pub language: Language,
    /// `Prepared::hash` of the module.
    pub module: [u8; 32],
    /// Exported names of the module's mutable globals, in the order of the state's.
    pub globals: Vec<String>,
    /// The file tree that the guest sees, if any.
    pub tree: Option<PathBuf>,
    /// Arguments of the guest.
    pub args: Vec<String>,
    /// Environment of the guest.
    pub env: Vec<String>,
    /// The host state, encoded.
    pub state: Vec<u8>,
    /// One line for people.
    pub summary: String,
}

/// Why a file is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateFileError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Others could have changed it.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// It was not written by this format.
    #[error("{} is no template of format {FORMAT}: {what}; deploy it again", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// Bytes have changed since it was written.
    #[error("{} is damaged: its hash does not match; deploy it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// A template's file, mapped.
#[derive(Debug)]
pub struct TemplateFile {
    /// All but the memory.
    pub header: TemplateHeader,
    map: Mapped,
    memory_start: usize,
}

impl TemplateFile {
    /// Writes a template to `path`: beside it first, then renamed (T1).
    pub fn write(
        path: &Path,
        header: &TemplateHeader,
        memory: &[u8],
    ) -> Result<(), TemplateFileError> {
        let failed = |source| TemplateFileError::Io { path: path.to_owned(), source };
        let encoded = postcard::to_stdvec(header).map_err(|e| failed(io::Error::other(e)))?;
        let start = memory_start(encoded.len());
        let mut body = encoded.clone();
        body.resize(start - HEAD_BYTES, 0);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&body).update(memory);
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&FORMAT.to_le_bytes());
        head.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        head.extend_from_slice(&(memory.len() as u64).to_le_bytes());
        head.extend_from_slice(hasher.finalize().as_bytes());
        let beside = path.with_extension("part");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&beside).map_err(failed)?;
        for part in [&head[..], &body, memory] {
            file.write_all(part).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        std::fs::rename(&beside, path).map_err(failed)
    }

    /// Maps and checks a file (T1). Cost: one pass of BLAKE3 over one not `seen` yet.
    pub fn open(path: &Path, seen: &Seen) -> Result<TemplateFile, TemplateFileError> {
        let failed = |source| TemplateFileError::Io { path: path.to_owned(), source };
        let foreign = |what| TemplateFileError::Foreign { path: path.to_owned(), what };
        let file = open_owned(path, Owner::User)?;
        let state = FileState::of(&file).map_err(failed)?;
        let map = Mapped::new(&file).map_err(failed)?;
        let Some((head, body)) = map.bytes().split_at_checked(HEAD_BYTES) else {
            return Err(foreign("it is too short"));
        };
        if head[..8] != MAGIC {
            return Err(foreign("its magic is another"));
        }
        let word = |at: usize| head[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        if word(8) != FORMAT {
            return Err(foreign("its format is another"));
        }
        let header_bytes = word(12) as usize;
        let memory_bytes = head[16..24].try_into().map_or(0, u64::from_le_bytes);
        let start = memory_start(header_bytes.min(HEADER_BYTES_MAX));
        if header_bytes > HEADER_BYTES_MAX
            || (start as u64 + memory_bytes) != map.bytes().len() as u64
        {
            return Err(foreign("its length is another"));
        }
        let take = || Ok(*blake3::hash(body).as_bytes());
        if seen.hash(Subject::Template, state, take).map_err(failed)? != head[24..56] {
            return Err(TemplateFileError::Damaged { path: path.to_owned() });
        }
        let header = postcard::from_bytes(&body[..header_bytes])
            .map_err(|_| foreign("its header cannot be read"))?;
        Ok(TemplateFile { header, memory_start: start, map })
    }

    /// The linear memory as it was sealed.
    pub fn memory(&self) -> &[u8] {
        &self.map.bytes()[self.memory_start..]
    }
}

fn memory_start(header_bytes: usize) -> usize {
    (HEAD_BYTES + header_bytes).next_multiple_of(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> TemplateHeader {
        TemplateHeader {
            language: Language::Python,
            module: [1; 32],
            globals: vec!["__stack_pointer".to_owned()],
            tree: Some(PathBuf::from("/tree.tar")),
            args: vec!["agent".to_owned()],
            env: Vec::new(),
            state: vec![2; 300],
            summary: "a test".to_owned(),
        }
    }

    #[test]
    fn t1_what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.template");
        let memory = vec![7u8; 2 * PAGE];
        TemplateFile::write(&path, &header(), &memory).expect("written");
        let file = TemplateFile::open(&path, &Seen::nothing()).expect("opened");
        assert_eq!(file.header, header());
        assert_eq!(file.memory(), memory);
    }

    #[test]
    fn t1_a_changed_or_cut_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.template");
        TemplateFile::write(&path, &header(), &[7u8; PAGE]).expect("written");
        let whole = std::fs::read(&path).expect("read");
        for at in [0, 9, 13, 17, 30, 60, PAGE + 5, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).expect("written");
            assert!(TemplateFile::open(&path, &Seen::nothing()).is_err(), "byte {at}");
        }
        for len in [0, 10, HEAD_BYTES, PAGE, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).expect("written");
            assert!(TemplateFile::open(&path, &Seen::nothing()).is_err(), "length {len}");
        }
    }
}
