//! The files that guests see: a read-only tree in one uncompressed tar archive.
//!
//! Owns: the archive's mapping, its index.  Not: descriptors, paths relative to them (`wasi/`).
//! T1  a file's bytes are the archive's own, mapped once a process and shared by all agents.
//! T2  an archive is accepted whole or refused: every file lies inside it, every name is a plain
//!     one, and its end is marked.
//! T3  nodes are numbered by the archive's order, so equal hashes mean equal numbers.
//!
//! Format: POSIX.1-1988 `ustar`, with the long names of GNU and of POSIX.1-2001 (crate `tar`).

use super::mapped::{FileState, Mapped, Owner, OwnerError, open_owned};
use super::seen::{Seen, Subject};
use serde::{Deserialize, Serialize};
use std::io::{self, Cursor};
use std::ops::Range;
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Most files and directories of a tree.
pub const NODE_COUNT_MAX: u32 = 200_000;
/// Longest path in an archive, in bytes.
pub const PATH_BYTES_MAX: usize = 1_024;

const BLOCK_BYTES: usize = 512;
const END_BYTES: usize = 2 * BLOCK_BYTES;

/// The tree.
#[derive(Debug)]
pub struct Tree {
    map: Option<Mapped>,
    nodes: Vec<Entry>,
    hash: [u8; 32],
}

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node<'a> {
    /// Its contents.
    File(&'a [u8]),
    /// Its entries, by name.
    Directory(&'a [u32]),
}

/// Why an archive is no tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// It cannot be trusted.
    #[error("file tree: {0}")]
    Owner(#[from] OwnerError),
    /// It cannot be mapped, or is not a tar archive.
    #[error("file tree {path}: {source}; it must be an uncompressed tar archive")]
    Archive {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ends early.
    #[error("file tree {path} is cut at {len_bytes} bytes; copy it again")]
    Cut {
        /// Which.
        path: PathBuf,
        /// What there is of it.
        len_bytes: usize,
    },
    /// An entry that a tree cannot have.
    #[error("file tree {path}: {entry:?} {why}")]
    Entry {
        /// Which archive.
        path: PathBuf,
        /// The entry's path.
        entry: String,
        /// What is wrong with it, and the remedy.
        why: &'static str,
    },
    /// Too many entries.
    #[error("file tree {path} has more than {NODE_COUNT_MAX} files and directories")]
    Full {
        /// Which.
        path: PathBuf,
    },
}

/// An archive that was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TreeState {
    file: FileState,
    hash: [u8; 32],
}

#[derive(Debug)]
struct Entry {
    parent: u32,
    name: Box<[u8]>,
    modified_s: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    File(Range<usize>),
    Directory(Vec<u32>),
}

impl Tree {
    /// A tree with nothing but its root.
    pub fn empty() -> Tree {
        let hash = *blake3::hash(&[]).as_bytes();
        Tree { map: None, nodes: vec![Entry::root()], hash }
    }

    /// Opens an archive that belongs to this user or to root.
    /// Cost: one pass of BLAKE3 over it, about 0.5 ms a MiB, unless it is still as it was when its
    /// hash was `checked`; memory only for names.
    pub fn open(path: &Path, checked: Option<TreeState>) -> Result<Tree, TreeError> {
        let fail = |source| TreeError::Archive { path: path.to_owned(), source };
        let file = open_owned(path, Owner::UserOrRoot)?;
        let state = FileState::of(&file).map_err(fail)?;
        let map = Mapped::new(&file).map_err(fail)?;
        let hash = match checked {
            Some(checked) if checked.file == state => checked.hash,
            _ => *blake3::hash(map.bytes()).as_bytes(),
        };
        let nodes = index(path, map.bytes())?;
        Ok(Tree { map: Some(map), nodes, hash })
    }

    /// What [`Tree::open`] takes for checked. Cost: one pass of BLAKE3 over a file not `seen` yet.
    pub fn check(path: &Path, seen: &Seen) -> Result<TreeState, TreeError> {
        let fail = |source| TreeError::Archive { path: path.to_owned(), source };
        let file = open_owned(path, Owner::UserOrRoot)?;
        let state = FileState::of(&file).map_err(fail)?;
        let take = || Ok(*blake3::hash(Mapped::new(&file)?.bytes()).as_bytes());
        Ok(TreeState { file: state, hash: seen.hash(Subject::Tree, state, take).map_err(fail)? })
    }

    /// BLAKE3 of the archive.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Files and directories; the root is node 0.
    pub fn node_count(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// What a node is. `idx` is below [`Tree::node_count`], as all below.
    pub fn node(&self, idx: u32) -> Node<'_> {
        match &self.entry(idx).what {
            What::File(range) => Node::File(&self.bytes()[range.clone()]),
            What::Directory(entries) => Node::Directory(entries),
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self, idx: u32) -> bool {
        matches!(self.entry(idx).what, What::Directory(_))
    }

    /// The directory that it is in; the root is in itself.
    pub fn parent(&self, idx: u32) -> u32 {
        self.entry(idx).parent
    }

    /// Its name; empty for the root.
    pub fn name(&self, idx: u32) -> &[u8] {
        &self.entry(idx).name
    }

    /// When it was changed, in nanoseconds since 1970.
    pub fn modified_ns(&self, idx: u32) -> u64 {
        self.entry(idx).modified_s.saturating_mul(1_000_000_000)
    }

    /// The entry `name` of directory `idx`; `None` when it has none, or is a file.
    pub fn child(&self, idx: u32, name: &[u8]) -> Option<u32> {
        let at = place(&self.nodes, idx, name).ok()?;
        match &self.entry(idx).what {
            What::Directory(entries) => Some(entries[at]),
            What::File(_) => None,
        }
    }

    /// The contents of a file by its path from the root.
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        let parts = path.split('/').filter(|part| !part.is_empty());
        let mut at = 0;
        for part in parts {
            at = self.child(at, part.as_bytes())?;
        }
        match self.node(at) {
            Node::File(bytes) => Some(bytes),
            Node::Directory(_) => None,
        }
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], Mapped::bytes)
    }

    fn entry(&self, idx: u32) -> &Entry {
        &self.nodes[idx as usize]
    }
}

impl Entry {
    fn root() -> Entry {
        Entry::new(0, b"", 0, What::Directory(Vec::new()))
    }

    fn new(parent: u32, name: &[u8], modified_s: u64, what: What) -> Entry {
        Entry { parent, name: name.into(), modified_s, what }
    }
}

/// Where `name` is, or would be, in directory `idx`.
fn place(nodes: &[Entry], idx: u32, name: &[u8]) -> Result<usize, usize> {
    match &nodes[idx as usize].what {
        What::Directory(entries) => {
            entries.binary_search_by(|entry| (*nodes[*entry as usize].name).cmp(name))
        }
        What::File(_) => Err(0),
    }
}

/// The nodes of an archive (T2, T3).
fn index(path: &Path, bytes: &[u8]) -> Result<Vec<Entry>, TreeError> {
    let fail = |source| TreeError::Archive { path: path.to_owned(), source };
    let mut nodes = vec![Entry::root()];
    let mut end = 0;
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    for entry in archive.entries_with_seek().map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.path_bytes();
        let wrong = |why| TreeError::Entry {
            path: path.to_owned(),
            entry: String::from_utf8_lossy(&name).into_owned(),
            why,
        };
        let start = usize::try_from(entry.raw_file_position()).unwrap_or(usize::MAX);
        let len = usize::try_from(entry.size()).unwrap_or(usize::MAX);
        end = start.saturating_add(len).checked_next_multiple_of(BLOCK_BYTES).unwrap_or(usize::MAX);
        if end > bytes.len() {
            return Err(TreeError::Cut { path: path.to_owned(), len_bytes: bytes.len() });
        }
        let what = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => What::File(start..start + len),
            EntryType::Directory => What::Directory(Vec::new()),
            EntryType::XGlobalHeader => continue,
            EntryType::Symlink | EntryType::Link => {
                return Err(wrong("is a link; pack with tar's --dereference --hard-dereference"));
            }
            _ => return Err(wrong("is neither a file nor a directory; leave it out")),
        };
        let modified_s = entry.header().mtime().map_err(fail)?;
        insert(&mut nodes, &name, modified_s, what).map_err(wrong)?;
        if nodes.len() > NODE_COUNT_MAX as usize {
            return Err(TreeError::Full { path: path.to_owned() });
        }
    }
    let marked = bytes.get(end..end.saturating_add(END_BYTES));
    if !marked.is_some_and(|mark| mark.iter().all(|byte| *byte == 0)) {
        return Err(TreeError::Cut { path: path.to_owned(), len_bytes: bytes.len() });
    }
    Ok(nodes)
}

/// Puts one entry, and the directories above it, into the nodes.
fn insert(
    nodes: &mut Vec<Entry>,
    path: &[u8],
    modified_s: u64,
    what: What,
) -> Result<(), &'static str> {
    if path.len() > PATH_BYTES_MAX {
        return Err("has a path of more than 1024 bytes; shorten it");
    }
    if path.contains(&0) {
        return Err("has a 0 in its path; rename it");
    }
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&&b".."[..]) {
        return Err("has `..` in its path; pack from inside the folder");
    }
    let Some((name, above)) = parts.split_last() else {
        let root = matches!(what, What::Directory(_));
        return if root { Ok(()) } else { Err("has no name; rename it") };
    };
    let mut at = 0;
    for part in above {
        at = match place(nodes, at, part) {
            Ok(found) => entries_of(nodes, at)?[found],
            Err(room) => add(nodes, at, room, Entry::new(at, part, 0, What::Directory(vec![])))?,
        };
    }
    match (place(nodes, at, name), what) {
        (Err(room), what) => {
            add(nodes, at, room, Entry::new(at, name, modified_s, what)).map(|_| ())
        }
        (Ok(found), What::Directory(_)) => {
            let node = entries_of(nodes, at)?[found];
            entries_of(nodes, node)?;
            nodes[node as usize].modified_s = modified_s;
            Ok(())
        }
        (Ok(_), What::File(_)) => Err("is there twice; pack it once"),
    }
}

fn add(nodes: &mut Vec<Entry>, at: u32, room: usize, entry: Entry) -> Result<u32, &'static str> {
    let idx = u32::try_from(nodes.len()).expect("T2: below NODE_COUNT_MAX and one path");
    entries_of(nodes, at)?.insert(room, idx);
    nodes.push(entry);
    Ok(idx)
}

fn entries_of(nodes: &mut [Entry], at: u32) -> Result<&mut Vec<u32>, &'static str> {
    match &mut nodes[at as usize].what {
        What::Directory(entries) => Ok(entries),
        What::File(_) => Err("has a file as its folder; pack it anew"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: EntryType, len: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(len as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header
    }

    fn archive(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, bytes) in entries {
            let mut header = header(*kind, bytes.len());
            if *kind == EntryType::Symlink {
                header.set_link_name("target").expect("short");
            }
            builder.append_data(&mut header, path, *bytes).expect("appended");
        }
        builder.into_inner().expect("ended")
    }

    fn open(bytes: &[u8]) -> Result<Tree, TreeError> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("tree.tar");
        std::fs::write(&path, bytes).expect("written");
        Tree::open(&path, None)
    }

    const FILE: EntryType = EntryType::Regular;

    #[test]
    fn t1_files_are_found_and_directories_listed_by_name() {
        let long = format!("lib/{}/x.py", "d".repeat(200));
        let bytes = archive(&[
            ("lib/json/decoder.py", FILE, b"decode"),
            ("lib/json/", EntryType::Directory, b""),
            ("lib/abc.py", FILE, b"abc"),
            ("top.txt", FILE, b""),
            (&long, FILE, b"long"),
        ]);
        let tree = open(&bytes).expect("a tree");
        assert_eq!(tree.read("lib/json/decoder.py"), Some(&b"decode"[..]));
        assert_eq!(tree.read("/lib//abc.py"), Some(&b"abc"[..]));
        assert_eq!(tree.read(&long), Some(&b"long"[..]));
        assert_eq!(tree.read("top.txt"), Some(&b""[..]));
        assert_eq!(tree.read("lib"), None);
        assert_eq!(tree.read("lib/none"), None);
        assert_eq!(tree.read("top.txt/x"), None);
        let lib = tree.child(0, b"lib").expect("a directory");
        let Node::Directory(entries) = tree.node(lib) else { panic!("a directory") };
        let names: Vec<_> = entries.iter().map(|entry| tree.name(*entry).to_vec()).collect();
        assert!(names.is_sorted());
        assert_eq!(names.len(), 3);
        let abc = tree.child(lib, b"abc.py").expect("a file");
        assert_eq!((tree.parent(abc), tree.parent(lib), tree.parent(0)), (lib, 0, 0));
        assert_eq!(tree.modified_ns(abc), 1_700_000_000_000_000_000);
        assert_eq!(tree.hash(), *blake3::hash(&bytes).as_bytes());
    }

    #[test]
    fn t2_archives_that_end_early_are_refused_wherever_they_are_cut() {
        let bytes = archive(&[("a", FILE, b"one"), ("b", FILE, &[7; 600])]);
        let whole = open(&bytes).expect("a tree");
        assert_eq!(whole.node_count(), 3);
        for len in 0..bytes.len() {
            if bytes[len..].len() < END_BYTES || len % 97 == 0 || len % BLOCK_BYTES == 0 {
                assert!(open(&bytes[..len]).is_err(), "cut at {len}");
            }
        }
    }

    #[test]
    fn t2_entries_that_are_no_plain_files_are_refused_by_name() {
        let cases: [&[(&str, EntryType, &[u8])]; 4] = [
            &[("link", EntryType::Symlink, b"")],
            &[("fifo", EntryType::Fifo, b"")],
            &[("a", FILE, b"1"), ("a", FILE, b"2")],
            &[("a", FILE, b"1"), ("a/b", FILE, b"2")],
        ];
        for entries in cases {
            let error = open(&archive(entries)).expect_err("refused");
            assert!(matches!(error, TreeError::Entry { .. }), "{error}");
        }
        let mut escaping = archive(&[("aa/x", FILE, b"1")]);
        escaping[..2].copy_from_slice(b"..");
        // The checksum of the header counts its bytes.
        let sum: u32 = escaping[..BLOCK_BYTES]
            .iter()
            .enumerate()
            .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
            .sum();
        escaping[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let error = open(&escaping).expect_err("refused");
        assert!(error.to_string().contains(".."), "{error}");
    }

    #[test]
    fn t2_what_is_no_archive_is_refused() {
        assert!(open(b"").is_err());
        assert!(open(&[b'x'; 4096]).is_err());
        assert!(open(&[0; 1024]).is_ok_and(|tree| tree.node_count() == 1));
        assert_eq!(Tree::empty().node_count(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn t2_damaged_archives_never_panic(at in 0usize..2048, byte in any::<u8>()) {
            let mut bytes = archive(&[("a/b", FILE, b"one"), ("c", FILE, b"two")]);
            bytes[at] = byte;
            if let Ok(tree) = open(&bytes) {
                for idx in 0..tree.node_count() {
                    tree.node(idx);
                }
            }
        }
    }
}
