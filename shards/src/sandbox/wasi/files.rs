//! Functions of WASI on open descriptors.
//!
//! Owns: reading, seeking and listing files of the tree, capturing output.  Not: opening (paths).
//! F1  a descriptor's position is part of the host state and nothing else of it is.
//! F2  one call copies at most [`IO_BYTES_MAX`], so that it cannot hold up the shard; a shorter
//!     read or write than asked for is what POSIX allows.

use super::{Answer, Errno};
use crate::sandbox::host::{FileKind, GuestMemory, Host, OpenFile, ROOT_FD};
use crate::sandbox::tree::{Node, Tree};

/// Most bytes that one read or write moves: about 0.1 ms of copying.
pub const IO_BYTES_MAX: usize = 1 << 20;
/// Most buffers of one read or write, as in Linux.
pub const IOV_COUNT_MAX: u32 = 1_024;

const CHARACTER_DEVICE: u8 = 2;
const DIRECTORY: u8 = 3;
const REGULAR_FILE: u8 = 4;
/// Rights: reading, seeking, telling, status, polling.
const RIGHTS_FILE: u64 = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 7 | 1 << 21 | 1 << 27;
/// Rights: opening, listing, status of paths, readlink.
const RIGHTS_DIRECTORY: u64 = 1 << 13 | 1 << 14 | 1 << 15 | 1 << 18 | 1 << 21;
/// Rights: writing, status, polling.
const RIGHTS_OUTPUT: u64 = 1 << 6 | 1 << 21 | 1 << 27;
/// Rights: reading, status, polling.
const RIGHTS_INPUT: u64 = 1 << 1 | 1 << 21 | 1 << 27;
const FILESTAT_BYTES: usize = 64;
const DIRENT_BYTES: usize = 24;
const FDSTAT_BYTES: usize = 24;

/// The open file behind a descriptor.
pub(super) fn open_file(host: &Host, fd: i32) -> Result<OpenFile, Errno> {
    host.state.files.get(&fd.cast_unsigned()).copied().ok_or(Errno::Badf)
}

/// The directory behind a descriptor.
pub(super) fn directory(host: &Host, fd: i32) -> Result<u32, Errno> {
    match open_file(host, fd)?.what {
        FileKind::Node(node) if host.tree.is_directory(node) => Ok(node),
        _ => Err(Errno::Notdir),
    }
}

/// The contents of the file behind a descriptor that can be read and has a position.
fn contents<'a>(tree: &'a Tree, file: &OpenFile) -> Result<&'a [u8], Errno> {
    match file.what {
        FileKind::Node(node) => match tree.node(node) {
            Node::File(bytes) => Ok(bytes),
            Node::Directory(_) => Err(Errno::Isdir),
        },
        FileKind::Stdin => Ok(&[]),
        FileKind::Stdout | FileKind::Stderr => Err(Errno::Badf),
    }
}

/// A descriptor that can be positioned: a file of the tree.
fn seekable(host: &Host, fd: i32) -> Result<(OpenFile, u64), Errno> {
    let file = open_file(host, fd)?;
    match file.what {
        FileKind::Node(_) => Ok((file, contents(&host.tree, &file)?.len() as u64)),
        _ => Err(Errno::Spipe),
    }
}

fn put_position(host: &mut Host, fd: i32, position: u64) {
    let file = host.state.files.get_mut(&fd.cast_unsigned());
    file.expect("F1: the descriptor was found").position = position;
}

pub(super) fn fd_advise(
    _: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _offset: i64,
    _len: i64,
    _advice: i32,
) -> Answer {
    seekable(host, fd).map(|_| ())
}

pub(super) fn fd_allocate(
    _: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _offset: i64,
    _len: i64,
) -> Answer {
    read_only(host, fd)
}

pub(super) fn fd_close(_: GuestMemory<'_>, host: &mut Host, fd: i32) -> Answer {
    host.state.files.remove(&fd.cast_unsigned()).map(|_| ()).ok_or(Errno::Badf)
}

/// Nothing is ever unwritten.
pub(super) fn fd_sync(_: GuestMemory<'_>, host: &mut Host, fd: i32) -> Answer {
    open_file(host, fd).map(|_| ())
}

pub(super) fn fd_fdstat_get(
    mut memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    out: i32,
) -> Answer {
    let file = open_file(host, fd)?;
    let (kind, rights) = match file.what {
        FileKind::Stdin => (CHARACTER_DEVICE, RIGHTS_INPUT),
        FileKind::Stdout | FileKind::Stderr => (CHARACTER_DEVICE, RIGHTS_OUTPUT),
        FileKind::Node(node) if host.tree.is_directory(node) => (DIRECTORY, RIGHTS_DIRECTORY),
        FileKind::Node(_) => (REGULAR_FILE, RIGHTS_FILE),
    };
    let inheriting = if kind == DIRECTORY { RIGHTS_DIRECTORY | RIGHTS_FILE } else { 0 };
    let mut stat = [0; FDSTAT_BYTES];
    stat[0] = kind;
    stat[8..16].copy_from_slice(&rights.to_le_bytes());
    stat[16..24].copy_from_slice(&u64::to_le_bytes(inheriting));
    Ok(memory.put(out, &stat)?)
}

/// No flag changes anything: nothing blocks, nothing is written.
pub(super) fn fd_fdstat_set_flags(
    _: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _flags: i32,
) -> Answer {
    open_file(host, fd).map(|_| ())
}

/// Rights are what the descriptor is for; they cannot be given up.
pub(super) fn fd_fdstat_set_rights(
    _: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _base: i64,
    _inheriting: i64,
) -> Answer {
    open_file(host, fd)?;
    Err(Errno::Notsup)
}

pub(super) fn fd_filestat_get(
    mut memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    out: i32,
) -> Answer {
    let stat = match open_file(host, fd)?.what {
        FileKind::Node(node) => filestat(&host.tree, node),
        _ => stat_bytes(CHARACTER_DEVICE, 0, 0, 0),
    };
    Ok(memory.put(out, &stat)?)
}

/// The status of a file or directory of the tree.
pub(super) fn filestat(tree: &Tree, node: u32) -> [u8; FILESTAT_BYTES] {
    let ino = u64::from(node) + 1;
    match tree.node(node) {
        Node::File(bytes) => {
            stat_bytes(REGULAR_FILE, ino, bytes.len() as u64, tree.modified_ns(node))
        }
        Node::Directory(_) => stat_bytes(DIRECTORY, ino, 0, tree.modified_ns(node)),
    }
}

fn stat_bytes(kind: u8, ino: u64, size: u64, modified_ns: u64) -> [u8; FILESTAT_BYTES] {
    let mut stat = [0; FILESTAT_BYTES];
    stat[0] = 1;
    stat[8..16].copy_from_slice(&ino.to_le_bytes());
    stat[16] = kind;
    stat[24] = 1;
    stat[32..40].copy_from_slice(&size.to_le_bytes());
    for at in [40, 48, 56] {
        stat[at..at + 8].copy_from_slice(&modified_ns.to_le_bytes());
    }
    stat
}

pub(super) fn fd_filestat_set_size(
    _: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _size: i64,
) -> Answer {
    read_only(host, fd)
}

pub(super) fn fd_filestat_set_times(
    _: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _atim: i64,
    _mtim: i64,
    _flags: i32,
) -> Answer {
    read_only(host, fd)
}

/// What changing an open file gives: files of the tree cannot be, and the rest are no files.
fn read_only(host: &Host, fd: i32) -> Answer {
    match open_file(host, fd)?.what {
        FileKind::Node(_) => Err(Errno::Rofs),
        _ => Err(Errno::Inval),
    }
}

pub(super) fn fd_prestat_get(
    mut memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    out: i32,
) -> Answer {
    preopened(host, fd)?;
    // A directory whose name has one byte.
    Ok(memory.put(out, &[0, 0, 0, 0, 1, 0, 0, 0])?)
}

pub(super) fn fd_prestat_dir_name(
    mut memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    path: i32,
    len: i32,
) -> Answer {
    preopened(host, fd)?;
    if len == 0 {
        return Err(Errno::Nametoolong);
    }
    Ok(memory.put(path, b"/")?)
}

fn preopened(host: &Host, fd: i32) -> Answer {
    let root = fd.cast_unsigned() == ROOT_FD && open_file(host, fd)?.what == FileKind::Node(0);
    if root { Ok(()) } else { Err(Errno::Badf) }
}

pub(super) fn fd_read(
    memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    iovs: i32,
    count: i32,
    out: i32,
) -> Answer {
    let file = open_file(host, fd)?;
    let read = read_at(memory, &host.tree, &file, file.position, iovs, count, out)?;
    put_position(host, fd, file.position.saturating_add(read));
    Ok(())
}

pub(super) fn fd_pread(
    memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    iovs: i32,
    count: i32,
    offset: i64,
    out: i32,
) -> Answer {
    let (file, _) = seekable(host, fd)?;
    let offset = u64::try_from(offset).map_err(|_| Errno::Inval)?;
    read_at(memory, &host.tree, &file, offset, iovs, count, out).map(|_| ())
}

/// Reads into the buffers from `offset` on, and puts the count of bytes at `out`.
fn read_at(
    mut memory: GuestMemory<'_>,
    tree: &Tree,
    file: &OpenFile,
    offset: u64,
    iovs: i32,
    count: i32,
    out: i32,
) -> Result<u64, Errno> {
    let bytes = contents(tree, file)?;
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let mut left = &bytes[start..bytes.len().min(start + IO_BYTES_MAX)];
    memory.bytes(out, 4)?;
    let mut read = 0u32;
    for idx in 0..iov_count(count)? {
        let (ptr, len) = iov(&memory, iovs, idx)?;
        let buffer = memory.bytes_mut(ptr, len)?;
        let (now, later) = left.split_at(buffer.len().min(left.len()));
        buffer[..now.len()].copy_from_slice(now);
        read += now.len() as u32;
        left = later;
    }
    memory.put_u32(out, read)?;
    Ok(u64::from(read))
}

pub(super) fn fd_write(
    mut memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    iovs: i32,
    count: i32,
    out: i32,
) -> Answer {
    let what = open_file(host, fd)?.what;
    if !matches!(what, FileKind::Stdout | FileKind::Stderr) {
        return Err(Errno::Badf);
    }
    memory.bytes(out, 4)?;
    let mut written = 0usize;
    for idx in 0..iov_count(count)? {
        let (ptr, len) = iov(&memory, iovs, idx)?;
        let bytes = memory.bytes(ptr, len)?;
        let now = bytes.len().min(IO_BYTES_MAX - written);
        host.capture(what, &bytes[..now]);
        written += now;
    }
    Ok(memory.put_u32(out, written as u32)?)
}

pub(super) fn fd_pwrite(
    _: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _iovs: i32,
    _count: i32,
    _offset: i64,
    _out: i32,
) -> Answer {
    match open_file(host, fd)?.what {
        FileKind::Node(_) => Err(Errno::Badf),
        _ => Err(Errno::Spipe),
    }
}

fn iov_count(count: i32) -> Result<u32, Errno> {
    let count = count.cast_unsigned();
    if count > IOV_COUNT_MAX { Err(Errno::Inval) } else { Ok(count) }
}

fn iov(memory: &GuestMemory<'_>, iovs: i32, idx: u32) -> Result<(i32, i32), Errno> {
    let [p0, p1, p2, p3, l0, l1, l2, l3] = memory.entry::<8>(iovs, idx)?;
    Ok((i32::from_le_bytes([p0, p1, p2, p3]), i32::from_le_bytes([l0, l1, l2, l3])))
}

/// Entries from `cookie` on: `.`, `..`, then the directory's, by name. The last one may be cut,
/// which tells the caller to come again.
pub(super) fn fd_readdir(
    mut memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    buf: i32,
    len: i32,
    cookie: i64,
    out: i32,
) -> Answer {
    let tree = &host.tree;
    let node = directory(host, fd)?;
    let Node::Directory(entries) = tree.node(node) else { return Err(Errno::Notdir) };
    memory.bytes(out, 4)?;
    let buffer = memory.bytes_mut(buf, len)?;
    let dots = [(&b"."[..], node), (&b".."[..], tree.parent(node))];
    let all = dots.into_iter().chain(entries.iter().map(|entry| (tree.name(*entry), *entry)));
    let skipped = usize::try_from(cookie).unwrap_or(usize::MAX);
    let mut filled = 0;
    for (idx, (name, entry)) in all.enumerate().skip(skipped) {
        let mut dirent = [0; DIRENT_BYTES];
        dirent[..8].copy_from_slice(&(idx as u64 + 1).to_le_bytes());
        dirent[8..16].copy_from_slice(&(u64::from(entry) + 1).to_le_bytes());
        dirent[16..20].copy_from_slice(&(name.len() as u32).to_le_bytes());
        dirent[20] = if tree.is_directory(entry) { DIRECTORY } else { REGULAR_FILE };
        for part in [&dirent[..], name] {
            let room = &mut buffer[filled..];
            let fits = part.len().min(room.len());
            room[..fits].copy_from_slice(&part[..fits]);
            filled += fits;
        }
        if filled == buffer.len() || filled > IO_BYTES_MAX {
            break;
        }
    }
    Ok(memory.put_u32(out, filled as u32)?)
}

/// Moves a descriptor; the one at `to`, if any, is closed.
pub(super) fn fd_renumber(_: GuestMemory<'_>, host: &mut Host, fd: i32, to: i32) -> Answer {
    let file = open_file(host, fd)?;
    open_file(host, to)?;
    host.state.files.remove(&fd.cast_unsigned());
    host.state.files.insert(to.cast_unsigned(), file);
    Ok(())
}

pub(super) fn fd_seek(
    mut memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    offset: i64,
    whence: i32,
    out: i32,
) -> Answer {
    let (file, len) = seekable(host, fd)?;
    let from = match whence {
        0 => 0,
        1 => file.position,
        2 => len,
        _ => return Err(Errno::Inval),
    };
    let position = from.checked_add_signed(offset).ok_or(Errno::Inval)?;
    memory.put_u64(out, position)?;
    put_position(host, fd, position);
    Ok(())
}

pub(super) fn fd_tell(mut memory: GuestMemory<'_>, host: &mut Host, fd: i32, out: i32) -> Answer {
    let (file, _) = seekable(host, fd)?;
    Ok(memory.put_u64(out, file.position)?)
}
