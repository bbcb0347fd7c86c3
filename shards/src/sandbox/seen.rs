//! Hashes of files that were read in earlier starts of a node, so that a start need not read all.
//!
//! Owns: when such a hash holds, and the file of them, `seen` beside the module cache's key.
//! Not: what is hashed, and what a wrong hash means.
//! S1  a hash holds for what was hashed of a file that is to the kernel what it was before it was
//!     read, and that had not been touched for a while then; and until the machine is started
//!     again, since what a disk gives back after that may be damaged.
//! S2  the file is signed with a key made of the cache's, so that who can write the folder but not
//!     read the key cannot vouch for a file; one that is missing, damaged or unsigned says nothing.
//!
//! Format 1: 32 bytes of BLAKE3, keyed by that key, of the rest, which is [`Record`] in postcard.

use super::cache::write_new;
use super::mapped::{FileState, Owner, open_owned};
use serde::{Deserialize, Serialize};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const NAME: &str = "seen";
const FORMAT: u32 = 1;
const MAC_BYTES: usize = 32;
/// Most files that are remembered: the last ones.
const FILE_COUNT_MAX: usize = 1_024;
/// Longest file of them; an entry is below 256 bytes.
const FILE_BYTES_MAX: u64 = 256 * FILE_COUNT_MAX as u64;
/// How long a file was left alone before it is remembered: two changes within one tick of its file
/// system's clock look alike, and some tick once a second.
const SETTLED: Duration = Duration::from_secs(3);
/// What the key that signs is made for.
const KEY_CONTEXT: &str = "heronry 2026-11 hashes of files seen in earlier starts";
/// Another one each time that the machine is started.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What was hashed of a file: the same bytes have another hash for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Subject {
    /// A template's bytes after its head.
    Template,
    /// All bytes of a file tree.
    Tree,
    /// A compiled module, signed for what has this hash.
    Module([u8; 32]),
}

/// A hash that holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Known {
    subject: Subject,
    state: FileState,
    hash: [u8; 32],
}

/// What is in the file.
#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    boot_id: String,
    known: Vec<Known>,
}

/// Hashes of files, by what the files are to the kernel.
#[derive(Debug)]
pub struct Seen {
    place: Option<Place>,
    hashes: Mutex<Hashes>,
}

/// Where it is kept.
#[derive(Debug)]
struct Place {
    folder: PathBuf,
    key: [u8; 32],
    boot_id: String,
}

#[derive(Debug, Default)]
struct Hashes {
    known: Vec<Known>,
    /// Whether the file lacks one of them.
    is_new: bool,
}

impl Seen {
    /// Knows nothing, and keeps nothing.
    pub fn nothing() -> Seen {
        Seen { place: None, hashes: Mutex::default() }
    }

    /// What the file in `folder` knows (S2).
    pub(super) fn open(folder: &Path, key: [u8; 32]) -> Seen {
        let Ok(boot_id) = std::fs::read_to_string(BOOT_ID) else { return Seen::nothing() };
        let key = blake3::derive_key(KEY_CONTEXT, &key);
        let known = read(&folder.join(NAME), &key, &boot_id).unwrap_or_default();
        let place = Some(Place { folder: folder.to_owned(), key, boot_id });
        Seen { place, hashes: Mutex::new(Hashes { known, is_new: false }) }
    }

    /// The hash of `subject` in the file of this state: what is known of it (S1), or else what
    /// `take` finds.
    pub(super) fn hash(
        &self,
        subject: Subject,
        state: FileState,
        take: impl FnOnce() -> io::Result<[u8; 32]>,
    ) -> io::Result<[u8; 32]> {
        let same = |known: &&Known| known.subject == subject && known.state == state;
        if let Some(known) = self.lock().known.iter().find(same) {
            return Ok(known.hash);
        }
        let settled = state.is_settled(SETTLED);
        let hash = take()?;
        if settled {
            let mut hashes = self.lock();
            hashes.known.push(Known { subject, state, hash });
            hashes.is_new = true;
        }
        Ok(hash)
    }

    /// Writes the file, if something is to be added. One that cannot be written costs the next
    /// start its time, and nothing else.
    pub fn save(&self) {
        let (Some(place), mut hashes) = (&self.place, self.lock()) else { return };
        if std::mem::take(&mut hashes.is_new) {
            let older = hashes.known.len().saturating_sub(FILE_COUNT_MAX);
            hashes.known.drain(..older);
            let known = hashes.known.clone();
            let record = Record { format: FORMAT, boot_id: place.boot_id.clone(), known };
            let _ = write(place, &record);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Hashes> {
        // Nothing is half done when a thread panics with it.
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path, key: &[u8; 32], boot_id: &str) -> Option<Vec<Known>> {
    let file = open_owned(path, Owner::User).ok()?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let (mac, body) = bytes.split_first_chunk::<MAC_BYTES>()?;
    if blake3::keyed_hash(key, body) != *mac {
        return None;
    }
    let record: Record = postcard::from_bytes(body).ok()?;
    (record.format == FORMAT && record.boot_id == boot_id).then_some(record.known)
}

fn write(place: &Place, record: &Record) -> io::Result<()> {
    let body = postcard::to_stdvec(record).map_err(io::Error::other)?;
    let signature = blake3::keyed_hash(&place.key, &body);
    let beside = place.folder.join(format!("{NAME}.{}.part", std::process::id()));
    write_new(&beside, &[&signature.as_bytes()[..], &body].concat())?;
    std::fs::rename(&beside, place.folder.join(NAME)).inspect_err(|_| {
        // Not to be found there again at each start.
        let _ = std::fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};
    use std::time::SystemTime;

    const KEY: [u8; 32] = [7; 32];

    fn state(path: &Path) -> FileState {
        FileState::of(&File::open(path).expect("opened")).expect("its state")
    }

    /// The hash of what is at `path`, and whether it was taken again.
    fn hash(seen: &Seen, path: &Path) -> ([u8; 32], bool) {
        let mut taken = false;
        let found = seen.hash(Subject::Tree, state(path), || {
            taken = true;
            Ok(*blake3::hash(&std::fs::read(path)?).as_bytes())
        });
        (found.expect("hashed"), taken)
    }

    fn folder_with_a_settled_file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, b"what it was").expect("written");
        while !state(&path).is_settled(SETTLED) {
            std::thread::sleep(Duration::from_millis(50));
        }
        (folder, path)
    }

    #[test]
    fn s1_a_hash_holds_until_the_file_is_touched_even_if_its_time_is_put_back() {
        let (folder, path) = folder_with_a_settled_file();
        let seen = Seen::open(folder.path(), KEY);
        let (first, taken) = hash(&seen, &path);
        assert!(taken);
        assert_eq!(hash(&seen, &path), (first, false));
        seen.save();
        let next = Seen::open(folder.path(), KEY);
        assert_eq!(hash(&next, &path), (first, false));
        let modified = path.metadata().and_then(|found| found.modified()).expect("its time");
        std::fs::write(&path, b"what it is.").expect("written");
        let file = File::options().write(true).open(&path).expect("opened");
        file.set_times(FileTimes::new().set_modified(modified)).expect("put back");
        let (second, taken) = hash(&next, &path);
        assert!(taken && second != first);
    }

    #[test]
    fn s1_a_hash_is_of_what_was_hashed() {
        let (folder, path) = folder_with_a_settled_file();
        let seen = Seen::open(folder.path(), KEY);
        let subjects =
            [Subject::Template, Subject::Tree, Subject::Module([1; 32]), Subject::Module([2; 32])];
        for round in 0..2 {
            for (at, subject) in (0u8..).zip(subjects) {
                let found = seen.hash(subject, state(&path), || Ok([at; 32])).expect("hashed");
                assert_eq!(found, [at; 32], "round {round}");
            }
        }
    }

    #[test]
    fn s1_a_file_that_was_just_touched_is_not_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, b"new").expect("written");
        let seen = Seen::open(folder.path(), KEY);
        let file = File::open(&path).expect("opened");
        file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).expect("old");
        assert!(hash(&seen, &path).1);
        assert!(hash(&seen, &path).1);
    }

    #[test]
    fn s1_after_another_start_of_the_machine_nothing_is_known() {
        let (folder, path) = folder_with_a_settled_file();
        let place = Place { folder: folder.path().to_owned(), key: KEY, boot_id: "then".into() };
        let known = vec![Known { subject: Subject::Tree, state: state(&path), hash: [1; 32] }];
        let record = Record { format: FORMAT, boot_id: "then".into(), known };
        write(&place, &record).expect("written");
        assert_eq!(read(&folder.path().join(NAME), &KEY, "then").map(|known| known.len()), Some(1));
        assert!(hash(&Seen::open(folder.path(), KEY), &path).1);
    }

    #[test]
    fn s2_where_the_file_cannot_be_nothing_is_left_beside_it() {
        let (folder, path) = folder_with_a_settled_file();
        std::fs::create_dir(folder.path().join(NAME)).expect("in its place");
        let seen = Seen::open(folder.path(), KEY);
        assert!(hash(&seen, &path).1);
        seen.save();
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 2);
    }

    #[test]
    fn s2_what_another_key_signed_or_is_damaged_says_nothing() {
        let (folder, path) = folder_with_a_settled_file();
        let seen = Seen::open(folder.path(), KEY);
        hash(&seen, &path);
        seen.save();
        assert!(!hash(&Seen::open(folder.path(), KEY), &path).1);
        assert!(hash(&Seen::open(folder.path(), [8; 32]), &path).1);
        let place = folder.path().join(NAME);
        let whole = std::fs::read(&place).expect("read");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&place, &bytes).expect("written");
            assert!(hash(&Seen::open(folder.path(), KEY), &path).1, "byte {at}");
            std::fs::write(&place, &whole[..at]).expect("written");
            assert!(hash(&Seen::open(folder.path(), KEY), &path).1, "cut at {at}");
        }
    }
}
