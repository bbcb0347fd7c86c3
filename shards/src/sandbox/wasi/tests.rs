//! Tests of WASI over a small tree, on a memory without an engine.
//!
//! Owns: a tree of three files, and a host over it.  Not: arguments that make no sense
//! (`host/tests.rs` tries them all).

use super::*;
use crate::sandbox::host::{FILE_COUNT_MAX, HostConfig, HostState};
use crate::sandbox::tree::Tree;
use std::sync::Arc;

const PATH: usize = 1_000;
const IOVS: usize = 2_000;
const BUF: usize = 3_000;
const OUT: usize = 8_000;
const ROOT: i32 = 3;

struct World {
    bytes: Vec<u8>,
    host: Host,
}

fn tree() -> Tree {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("tree.tar");
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in [("lib/a.py", &b"abcdefghij"[..]), ("lib/b/c.py", b"c"), ("top", b"t")] {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(5);
        builder.append_data(&mut header, name, bytes).expect("appended");
    }
    std::fs::write(&path, builder.into_inner().expect("ended")).expect("written");
    Tree::open(&path, None).expect("a tree")
}

impl World {
    fn new() -> World {
        let tree = tree();
        let state = HostState::new([0; 32], tree.hash(), [1; 32]);
        let config = HostConfig {
            args: vec!["agent".to_owned(), "-x".to_owned()],
            env: vec!["HOME=/".to_owned()],
            ..HostConfig::default()
        };
        let mut host = Host::new(state, Arc::new(tree), Arc::new(config)).expect("its own tree");
        host.begin(1_000_000, 7_000_000);
        World { bytes: vec![0; 16_384], host }
    }

    fn run(&mut self, call: impl FnOnce(GuestMemory<'_>, &mut Host) -> Answer) -> Answer {
        call(GuestMemory(&mut self.bytes), &mut self.host)
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("8 bytes"))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn path(&mut self, path: &str) -> (i32, i32) {
        self.put(PATH, path.as_bytes());
        (PATH as i32, path.len() as i32)
    }

    fn open(&mut self, fd: i32, path: &str, oflags: i32, rights: i64) -> Result<i32, Errno> {
        let (ptr, len) = self.path(path);
        self.run(|memory, host| {
            paths::path_open(memory, host, fd, 0, ptr, len, oflags, rights, 0, 0, OUT as i32)
        })?;
        Ok(self.u32(OUT) as i32)
    }

    fn stat(&mut self, path: &str) -> Result<(u8, u64), Errno> {
        let (ptr, len) = self.path(path);
        self.run(|memory, host| {
            paths::path_filestat_get(memory, host, ROOT, 0, ptr, len, BUF as i32)
        })?;
        Ok((self.bytes[BUF + 16], self.u64(BUF + 32)))
    }

    /// Reads into buffers of these lengths, one after the other at `BUF`.
    fn read(&mut self, fd: i32, lens: &[usize]) -> Result<Vec<u8>, Errno> {
        let mut at = BUF;
        for (idx, len) in lens.iter().enumerate() {
            let iov = [at as u32, *len as u32].map(u32::to_le_bytes).concat();
            self.put(IOVS + 8 * idx, &iov);
            at += len;
        }
        let count = lens.len() as i32;
        self.run(|memory, host| files::fd_read(memory, host, fd, IOVS as i32, count, OUT as i32))?;
        Ok(self.bytes[BUF..BUF + self.u32(OUT) as usize].to_vec())
    }

    fn seek(&mut self, fd: i32, offset: i64, whence: i32) -> Result<u64, Errno> {
        self.run(|memory, host| files::fd_seek(memory, host, fd, offset, whence, OUT as i32))?;
        Ok(self.u64(OUT))
    }

    /// Names in a directory, read with buffers of `len` bytes.
    fn list(&mut self, fd: i32, len: usize) -> Vec<String> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            self.run(|memory, host| {
                files::fd_readdir(memory, host, fd, BUF as i32, len as i32, cookie, OUT as i32)
            })
            .expect("listed");
            let filled = self.u32(OUT) as usize;
            let mut at = 0;
            while at + 24 <= filled {
                let name_len = self.u32(BUF + at + 16) as usize;
                if at + 24 + name_len > filled {
                    break;
                }
                cookie = self.u64(BUF + at) as i64;
                let name = &self.bytes[BUF + at + 24..BUF + at + 24 + name_len];
                names.push(String::from_utf8(name.to_vec()).expect("text"));
                at += 24 + name_len;
            }
            if filled < len {
                return names;
            }
        }
    }

    fn poll(&mut self, subscriptions: &[[u8; 48]]) -> Result<Vec<(u64, u16, u8)>, Errno> {
        self.put(BUF, &subscriptions.concat());
        let (events, count) = (BUF + 4_000, subscriptions.len() as i32);
        self.run(|memory, host| {
            poll::poll_oneoff(memory, host, BUF as i32, events as i32, count, OUT as i32)
        })?;
        let event = |idx: usize| {
            let at = events + 32 * idx;
            let errno = u16::from_le_bytes([self.bytes[at + 8], self.bytes[at + 9]]);
            (self.u64(at), errno, self.bytes[at + 10])
        };
        Ok((0..self.u32(OUT) as usize).map(event).collect())
    }

    fn clock(&mut self, id: i32) -> u64 {
        self.run(|memory, host| clock_time_get(memory, host, id, 0, OUT as i32)).expect("a clock");
        self.u64(OUT)
    }
}

fn clock_subscription(userdata: u64, id: u32, timeout_ns: u64, flags: u16) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..8].copy_from_slice(&userdata.to_le_bytes());
    bytes[16..20].copy_from_slice(&id.to_le_bytes());
    bytes[24..32].copy_from_slice(&timeout_ns.to_le_bytes());
    bytes[40..42].copy_from_slice(&flags.to_le_bytes());
    bytes
}

fn fd_subscription(userdata: u64, tag: u8, fd: u32) -> [u8; 48] {
    let mut bytes = clock_subscription(userdata, fd, 0, 0);
    bytes[8] = tag;
    bytes
}

#[test]
fn w1_files_are_opened_read_and_closed() {
    let mut world = World::new();
    let fd = world.open(ROOT, "lib/a.py", 0, 0).expect("opened");
    assert_eq!(fd, 4);
    assert_eq!(world.read(fd, &[3, 0, 4]), Ok(b"abcdefg".to_vec()));
    assert_eq!(world.read(fd, &[9]), Ok(b"hij".to_vec()));
    assert_eq!(world.read(fd, &[9]), Ok(vec![]));
    assert_eq!(world.seek(fd, -4, 2), Ok(6));
    assert_eq!(world.seek(fd, 1, 1), Ok(7));
    assert_eq!(world.read(fd, &[1]), Ok(b"h".to_vec()));
    assert_eq!(world.seek(fd, i64::MAX, 0), Ok(i64::MAX as u64));
    assert_eq!(world.read(fd, &[1]), Ok(vec![]));
    assert_eq!(world.seek(fd, -1, 0), Err(Errno::Inval));
    assert_eq!(world.seek(fd, 0, 3), Err(Errno::Inval));
    assert_eq!(world.run(|memory, host| files::fd_close(memory, host, fd)), Ok(()));
    assert_eq!(world.read(fd, &[1]), Err(Errno::Badf));
    assert_eq!(world.open(ROOT, "top", 0, 0), Ok(4), "F1: the lowest free one");
}

#[test]
fn w1_pread_leaves_the_position() {
    let mut world = World::new();
    let fd = world.open(ROOT, "lib/a.py", 0, 0).expect("opened");
    let iov = [BUF as u32, 4].map(u32::to_le_bytes).concat();
    world.put(IOVS, &iov);
    world
        .run(|memory, host| files::fd_pread(memory, host, fd, IOVS as i32, 1, 5, OUT as i32))
        .expect("read");
    assert_eq!(&world.bytes[BUF..BUF + 4], b"fghi");
    assert_eq!(world.seek(fd, 0, 1), Ok(0));
}

#[test]
fn x1_paths_lead_nowhere_but_into_the_tree() {
    let mut world = World::new();
    let (directory, file) = (3, 4);
    for (path, expected) in [
        ("lib/a.py", Ok((file, 10))),
        ("/lib//./b/../a.py", Ok((file, 10))),
        ("../../../top", Ok((file, 1))),
        ("lib/", Ok((directory, 0))),
        (".", Ok((directory, 0))),
        ("/", Ok((directory, 0))),
        ("top/", Err(Errno::Notdir)),
        ("top/..", Err(Errno::Notdir)),
        ("lib/none", Err(Errno::Noent)),
        ("lib/none/more", Err(Errno::Noent)),
        ("", Err(Errno::Noent)),
        ("lib/a.py\0", Err(Errno::Noent)),
    ] {
        assert_eq!(world.stat(path), expected, "{path:?}");
    }
    let long = "x".repeat(paths::PATH_BYTES_MAX + 1);
    world.bytes.resize(32_768, 0);
    assert_eq!(world.stat(&long), Err(Errno::Nametoolong));
    let lib = world.open(ROOT, "lib", 2, 0).expect("opened");
    assert_eq!(world.open(lib, "b/c.py", 0, 0), Ok(5));
    assert_eq!(world.open(lib, "../top", 0, 0), Ok(6));
    assert_eq!(world.open(5, "x", 0, 0), Err(Errno::Notdir));
    assert_eq!(world.open(1, "x", 0, 0), Err(Errno::Notdir));
    assert_eq!(world.open(99, "x", 0, 0), Err(Errno::Badf));
}

#[test]
fn x2_nothing_changes_the_tree() {
    let mut world = World::new();
    let write = 1 << 6;
    assert_eq!(world.open(ROOT, "lib/a.py", 0, write), Err(Errno::Rofs));
    assert_eq!(world.open(ROOT, "lib/a.py", 8, 0), Err(Errno::Rofs));
    assert_eq!(world.open(ROOT, "new", 1, 0), Err(Errno::Rofs));
    assert_eq!(world.open(ROOT, "top", 1 | 4, 0), Err(Errno::Exist));
    assert_eq!(world.open(ROOT, "top", 1, 0), Ok(4));
    assert_eq!(world.open(ROOT, "top", 2, 0), Err(Errno::Notdir));
    assert_eq!(world.open(ROOT, "lib", 8, 0), Err(Errno::Isdir));
    let (ptr, len) = world.path("top");
    let path = (ptr, len);
    let removed = world.run(|m, host| paths::path_remove(m, host, ROOT, path.0, path.1));
    assert_eq!(removed, Err(Errno::Rofs));
    let made = world.run(|m, host| paths::path_create_directory(m, host, ROOT, path.0, path.1));
    assert_eq!(made, Err(Errno::Exist));
    let (ptr, len) = world.path("new");
    let made = world.run(|m, host| paths::path_create_directory(m, host, ROOT, ptr, len));
    assert_eq!(made, Err(Errno::Rofs));
    let linked = world.run(|m, host| paths::path_symlink(m, host, 0, 1, ROOT, ptr, len));
    assert_eq!(linked, Err(Errno::Rofs));
    assert_eq!(world.run(|m, host| files::fd_filestat_set_size(m, host, 4, 0)), Err(Errno::Rofs));
    let iov = [0u32, 4].map(u32::to_le_bytes).concat();
    world.put(IOVS, &iov);
    let written = world.run(|m, host| files::fd_write(m, host, 4, IOVS as i32, 1, OUT as i32));
    assert_eq!(written, Err(Errno::Badf));
}

#[test]
fn w1_directories_are_listed_whatever_the_buffer() {
    let mut world = World::new();
    let all = [".", "..", "lib", "top"];
    for len in [28, 30, 53, 100, 1_000] {
        assert_eq!(world.list(ROOT, len), all, "{len}");
    }
    let lib = world.open(ROOT, "lib", 0, 0).expect("opened");
    assert_eq!(world.list(lib, 1_000), [".", "..", "a.py", "b"]);
    let listed = world
        .run(|m, host| files::fd_readdir(m, host, ROOT, BUF as i32, 100, i64::MIN, OUT as i32));
    assert_eq!((listed, world.u32(OUT)), (Ok(()), 0));
}

#[test]
fn w1_the_root_is_the_only_preopened_directory() {
    let mut world = World::new();
    let prestat = |world: &mut World, fd| {
        world.run(|memory, host| files::fd_prestat_get(memory, host, fd, OUT as i32))
    };
    assert_eq!(prestat(&mut world, ROOT), Ok(()));
    assert_eq!((world.u32(OUT), world.u32(OUT + 4)), (0, 1));
    let named =
        world.run(|memory, host| files::fd_prestat_dir_name(memory, host, ROOT, BUF as i32, 1));
    assert_eq!((named, world.bytes[BUF]), (Ok(()), b'/'));
    assert_eq!(prestat(&mut world, 0), Err(Errno::Badf));
    assert_eq!(world.open(ROOT, ".", 0, 0), Ok(4));
    assert_eq!(prestat(&mut world, 4), Err(Errno::Badf));
}

#[test]
fn f1_descriptors_are_bounded_and_can_be_moved() {
    let mut world = World::new();
    for fd in 4..FILE_COUNT_MAX as i32 {
        assert_eq!(world.open(ROOT, "top", 0, 0), Ok(fd));
    }
    assert_eq!(world.open(ROOT, "top", 0, 0), Err(Errno::Mfile));
    assert_eq!(world.run(|memory, host| files::fd_renumber(memory, host, 4, 0)), Ok(()));
    assert_eq!(world.read(0, &[5]), Ok(b"t".to_vec()));
    assert_eq!(world.read(4, &[5]), Err(Errno::Badf));
    assert_eq!(world.run(|memory, host| files::fd_renumber(memory, host, 5, 4)), Err(Errno::Badf));
    assert_eq!(world.run(|memory, host| files::fd_renumber(memory, host, 5, 5)), Ok(()));
    assert_eq!(world.read(5, &[5]), Ok(b"t".to_vec()));
}

#[test]
fn w1_stdio_has_an_empty_input_and_captured_outputs() {
    let mut world = World::new();
    assert_eq!(world.read(0, &[5]), Ok(vec![]));
    assert_eq!(world.read(1, &[5]), Err(Errno::Badf));
    assert_eq!(world.seek(1, 0, 0), Err(Errno::Spipe));
    world.put(BUF, b"hello world");
    let iovs = [BUF as u32, 6, BUF as u32 + 6, 5].map(u32::to_le_bytes).concat();
    world.put(IOVS, &iovs);
    for fd in [1, 2] {
        world
            .run(|memory, host| files::fd_write(memory, host, fd, IOVS as i32, 2, OUT as i32))
            .expect("written");
        assert_eq!(world.u32(OUT), 11);
    }
    let left = world.host.take();
    assert_eq!((&left.stdout[..], &left.stderr[..]), (&b"hello world"[..], &b"hello world"[..]));
}

#[test]
fn f2_too_many_buffers_are_refused() {
    let mut world = World::new();
    let count = files::IOV_COUNT_MAX as i32 + 1;
    let written = world.run(|memory, host| files::fd_write(memory, host, 1, 0, count, OUT as i32));
    assert_eq!(written, Err(Errno::Inval));
}

#[test]
fn w1_arguments_and_environment_are_the_template_s() {
    let mut world = World::new();
    world.run(|m, host| args_sizes_get(m, host, OUT as i32, OUT as i32 + 4)).expect("sizes");
    assert_eq!((world.u32(OUT), world.u32(OUT + 4)), (2, 9));
    world.run(|m, host| args_get(m, host, PATH as i32, BUF as i32)).expect("args");
    assert_eq!(&world.bytes[BUF..BUF + 9], b"agent\0-x\0");
    assert_eq!((world.u32(PATH), world.u32(PATH + 4)), (BUF as u32, BUF as u32 + 6));
    world.run(|m, host| environ_sizes_get(m, host, OUT as i32, OUT as i32 + 4)).expect("sizes");
    assert_eq!((world.u32(OUT), world.u32(OUT + 4)), (1, 7));
    world.run(|m, host| environ_get(m, host, PATH as i32, BUF as i32)).expect("environ");
    assert_eq!(&world.bytes[BUF..BUF + 7], b"HOME=/\0");
    let outside = world.run(|m, host| args_get(m, host, PATH as i32, 16_380));
    assert_eq!(outside, Err(Errno::Fault));
}

#[test]
fn y1_a_sleep_skips_the_clock_to_the_earliest_time() {
    let mut world = World::new();
    let (date, monotonic) = (0, 1);
    let (before, date_before) = (world.clock(monotonic), world.clock(date));
    assert_eq!(date_before, 7_000_000);
    let late = clock_subscription(11, 1, 9_000_000_000, 0);
    let soon = clock_subscription(12, 0, 2_000_000_000, 0);
    assert_eq!(world.poll(&[late, soon]), Ok(vec![(12, 0, 0)]));
    assert!(world.clock(monotonic) >= before + 2_000_000_000);
    assert_eq!(world.clock(date), date_before + 2_000_000_000);
    let reached = clock_subscription(13, 1, before + 5_000_000_000, 1);
    assert_eq!(world.poll(&[reached]), Ok(vec![(13, 0, 0)]));
    assert!(world.clock(monotonic) >= before + 5_000_000_000);
    let past = clock_subscription(14, 1, 0, 1);
    assert_eq!(world.poll(&[past]), Ok(vec![(14, 0, 0)]));
    world.host.begin(2_000_000, 8_000_000);
    assert!(world.clock(monotonic) >= before + 5_000_000_000, "C1");
    assert_eq!(world.clock(date), 8_000_000, "C2");
}

#[test]
fn y1_files_are_ready_and_skip_nothing() {
    let mut world = World::new();
    let before = world.clock(1);
    let sleep = clock_subscription(1, 1, 1_000_000_000, 0);
    let events = world.poll(&[sleep, fd_subscription(2, 1, 0), fd_subscription(3, 2, 99)]);
    assert_eq!(events, Ok(vec![(2, 0, 1), (3, Errno::Badf as u16, 2)]));
    assert!(world.clock(1) < before + 1_000_000_000);
    assert_eq!(world.poll(&[]), Err(Errno::Inval));
    let unknown = fd_subscription(4, 9, 0);
    assert_eq!(world.poll(&[unknown]), Ok(vec![(4, Errno::Inval as u16, 9)]));
}

#[test]
fn w1_what_has_no_meaning_says_so() {
    let mut world = World::new();
    assert_eq!(world.run(|m, host| sock_accept(m, host, 0, 0, 0)), Err(Errno::Notsup));
    assert_eq!(world.run(|m, host| sock_shutdown(m, host, 99, 0)), Err(Errno::Badf));
    assert_eq!(world.run(|m, host| proc_raise(m, host, 9)), Err(Errno::Nosys));
    assert_eq!(world.run(|m, host| clock_res_get(m, host, 4, 0)), Err(Errno::Inval));
    let (ptr, len) = world.path("top");
    let read = world.run(|m, host| paths::path_readlink(m, host, ROOT, ptr, len, 0, 0, 0));
    assert_eq!(read, Err(Errno::Inval));
}

#[test]
fn w2_randomness_comes_from_the_state_and_is_bounded() {
    let mut world = World::new();
    world.run(|m, host| random_get(m, host, BUF as i32, 64)).expect("random");
    let mut expected = [0; 64];
    crate::sandbox::host::Random::new([1; 32]).fill(&mut expected);
    assert_eq!(world.bytes[BUF..BUF + 64], expected);
    world.bytes.resize(RANDOM_BYTES_MAX + 1, 0);
    let len = RANDOM_BYTES_MAX as i32;
    assert_eq!(world.run(|m, host| random_get(m, host, 0, len + 1)), Err(Errno::Inval));
    assert_eq!(world.run(|m, host| random_get(m, host, 0, len)), Ok(()));
}
