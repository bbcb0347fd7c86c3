//! A log's folder: its segments as files, the first one to read, the key.
//!
//! Owns: names, room on disk, syncs of the folder.  Not: what is in the files.
//! F1  a segment has all its room when it gets its name, so a full disk is met before a write.
//! F2  what is noted for the next start is there whole or as it was before: it is written beside
//!     and renamed.

use super::{LogFile, LogFiles};
use heronry_engine::log::LogKey;
use rustix::fs::{
    Advice, FallocateFlags, Mode, OFlags, SeekFrom, fadvise, fallocate, fsync, open, seek,
};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Ending of a segment's name.
const SEGMENT: &str = "log";
/// The file that names the first segment to read.
const FIRST: &str = "first";
/// The file that holds the key.
const KEY: &str = "key";
/// A segment that has not got its room yet.
const UNMADE: &str = "unmade";

/// The folder of one shard's log.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Opens the folder, made if it is not there, and its key, which `random` makes.
    pub fn open(path: &Path, random: impl FnOnce() -> [u8; 32]) -> io::Result<(Folder, LogKey)> {
        fs::create_dir_all(path)?;
        let folder = Folder { path: path.to_owned() };
        let key = match fs::read(path.join(KEY)) {
            Ok(bytes) => bytes.try_into().map_err(|bytes: Vec<u8>| {
                let (file, count) = (path.join(KEY), bytes.len());
                io::Error::other(format!("{} has {count} bytes, not 32", file.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = random();
                folder.note(KEY, &key)?;
                key
            }
            Err(error) => return Err(error),
        };
        // Left by a life that ended while it made one.
        let _ = fs::remove_file(folder.path.join(UNMADE));
        Ok((folder, LogKey(key)))
    }

    fn segment(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number:010}.{SEGMENT}"))
    }

    /// Writes a small file, whole or not at all (F2).
    fn note(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.path.join(format!("{name}.new"));
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, self.path.join(name))?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fsync(File::open(&self.path)?)?)
    }
}

impl LogFiles for Folder {
    fn list(&mut self) -> io::Result<(Vec<u32>, Option<u32>)> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let is_segment = path.extension().is_some_and(|ending| ending == SEGMENT);
            let number: Option<u32> = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            numbers.extend(number.filter(|_| is_segment));
        }
        numbers.sort_unstable();
        let first = match fs::read_to_string(self.path.join(FIRST)) {
            Ok(text) => Some(text.trim().parse().map_err(|_| {
                let file = self.path.join(FIRST);
                io::Error::other(format!("{} holds {text:?}, not a number", file.display()))
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok((numbers, first))
    }

    fn written_bytes(&mut self, number: u32) -> io::Result<u64> {
        let file = File::open(self.segment(number))?;
        let len_bytes = file.metadata()?.len();
        // Room that was never written is a hole; behind the last data there is nothing to read.
        let mut end = 0;
        while end < len_bytes {
            match seek(&file, SeekFrom::Data(end)) {
                Ok(data) => end = seek(&file, SeekFrom::Hole(data))?,
                Err(rustix::io::Errno::NXIO) => return Ok(end),
                // A file system that cannot tell has it all read.
                Err(_) => return Ok(len_bytes),
            }
        }
        Ok(end)
    }

    fn create(&mut self, number: u32, len_bytes: u64) -> io::Result<LogFile> {
        let path = self.segment(number);
        if !path.exists() {
            let unmade = self.path.join(UNMADE);
            let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR | OFlags::CLOEXEC;
            let file = open(&unmade, flags, Mode::RUSR | Mode::WUSR)?;
            if let Err(error) = fallocate(&file, FallocateFlags::empty(), 0, len_bytes) {
                // A file system that cannot reserve room meets a full disk at the write.
                if error != rustix::io::Errno::OPNOTSUPP {
                    let _ = fs::remove_file(&unmade);
                    return Err(error.into());
                }
                rustix::fs::ftruncate(&file, len_bytes)?;
            }
            fsync(&file)?;
            fs::rename(&unmade, &path)?;
            self.sync()?;
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match open(&path, flags | OFlags::DIRECT, Mode::empty()) {
            Ok(fd) => Ok(LogFile::Fd(fd)),
            // Such as tmpfs; a write is synced all the same.
            Err(rustix::io::Errno::INVAL) => Ok(LogFile::Fd(open(&path, flags, Mode::empty())?)),
            Err(error) => Err(error.into()),
        }
    }

    fn trim(&mut self, number: u32) -> io::Result<u64> {
        let written_bytes = self.written_bytes(number)?;
        let file = File::options().write(true).open(self.segment(number))?;
        if written_bytes < file.metadata()?.len() {
            file.set_len(written_bytes)?;
        }
        Ok(written_bytes)
    }

    fn open(&mut self, number: u32) -> io::Result<LogFile> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = open(self.segment(number), flags, Mode::empty())?;
        // Reading ahead would bring in room that was never written, which then passes for data.
        let _ = fadvise(&fd, 0, None, Advice::Random);
        Ok(LogFile::Fd(fd))
    }

    fn set_first(&mut self, number: u32) -> io::Result<()> {
        self.note(FIRST, number.to_string().as_bytes())
    }

    fn remove(&mut self, number: u32) -> io::Result<()> {
        fs::remove_file(self.segment(number))
    }

    fn link_into(&mut self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let (segments, _) = self.list()?;
        for path in segments.into_iter().map(|number| self.segment(number)) {
            fs::hard_link(&path, folder.join(path.file_name().unwrap_or_default()))?;
        }
        for name in [KEY, FIRST] {
            match fs::hard_link(self.path.join(name), folder.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                linked => linked?,
            }
        }
        Ok(fsync(File::open(folder)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f1_segments_are_listed_in_order_and_have_their_room() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("log");
        let (mut folder, key) = Folder::open(&path, || [3; 32]).expect("made");
        for number in [2, 0, 11] {
            folder.create(number, 8192).expect("made");
        }
        assert_eq!(folder.list().expect("read"), (vec![0, 2, 11], None));
        assert_eq!(fs::metadata(folder.segment(11)).expect("there").len(), 8192);
        assert_eq!(folder.written_bytes(11).expect("read"), 0, "nothing was written");
        let mut file = File::options().write(true).open(folder.segment(11)).expect("there");
        file.write_all(&[1; 5000]).expect("written");
        file.sync_all().expect("synced");
        assert!(folder.written_bytes(11).expect("read") >= 5000);
        let trimmed = folder.trim(11).expect("trimmed");
        assert!((5000..=8192).contains(&trimmed), "{trimmed} bytes");
        assert_eq!(fs::metadata(folder.segment(11)).expect("there").len(), trimmed);
        assert_eq!(fs::read(folder.segment(11)).expect("there")[..5000], [1; 5000]);
        folder.set_first(2).expect("noted");
        folder.remove(0).expect("removed");
        let (mut again, same) = Folder::open(&path, || [4; 32]).expect("there");
        assert_eq!(again.list().expect("read"), (vec![2, 11], Some(2)));
        assert_eq!(same, key);
    }

    #[test]
    fn f2_a_file_that_is_no_note_is_named() {
        let scratch = tempfile::tempdir().expect("a folder");
        fs::write(scratch.path().join(KEY), b"short").expect("written");
        let error = Folder::open(scratch.path(), || [3; 32]).expect_err("no key");
        assert!(error.to_string().contains("has 5 bytes"), "{error}");
        fs::write(scratch.path().join(KEY), [3; 32]).expect("written");
        fs::write(scratch.path().join(FIRST), b"x").expect("written");
        let (mut folder, _) = Folder::open(scratch.path(), || [3; 32]).expect("a key");
        assert!(folder.list().expect_err("no number").to_string().contains("first"));
    }
}
