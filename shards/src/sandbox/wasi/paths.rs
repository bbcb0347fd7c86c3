//! Functions of WASI on paths.
//!
//! Owns: finding a path in the tree, opening.  Not: what an open file does.
//! X1  a path leads nowhere but into the tree: `..` at its root stays there.
//! X2  nothing that would change the tree is done; it is answered `EROFS`.

use super::files::{directory, filestat};
use super::{Answer, Errno};
use crate::sandbox::host::{FileKind, GuestMemory, Host, OpenFile};
use crate::sandbox::tree::Tree;

/// Longest path in bytes, as in Linux.
pub const PATH_BYTES_MAX: usize = 4_096;

const OFLAGS_CREAT: i32 = 1;
const OFLAGS_DIRECTORY: i32 = 2;
const OFLAGS_EXCL: i32 = 4;
const OFLAGS_TRUNC: i32 = 8;
const RIGHTS_FD_WRITE: i64 = 1 << 6;

/// What a path names, from the directory behind `fd`.
fn find(memory: &GuestMemory<'_>, host: &Host, fd: i32, path: i32, len: i32) -> Result<u32, Errno> {
    let from = directory(host, fd)?;
    let path = memory.bytes(path, len)?;
    if path.len() > PATH_BYTES_MAX {
        return Err(Errno::Nametoolong);
    }
    walk(&host.tree, from, path)
}

fn walk(tree: &Tree, from: u32, path: &[u8]) -> Result<u32, Errno> {
    if path.is_empty() {
        return Err(Errno::Noent);
    }
    let mut at = if path[0] == b'/' { 0 } else { from };
    let part_count = path.split(|byte| *byte == b'/').count();
    for (idx, part) in path.split(|byte| *byte == b'/').enumerate() {
        // An empty last part is a slash at the end, which only a directory may have.
        if part.is_empty() && idx + 1 < part_count {
            continue;
        }
        if !tree.is_directory(at) {
            return Err(Errno::Notdir);
        }
        at = match part {
            b"" | b"." => at,
            b".." => tree.parent(at),
            name => tree.child(at, name).ok_or(Errno::Noent)?,
        };
    }
    Ok(at)
}

pub(super) fn path_open(
    mut memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _lookup: i32,
    path: i32,
    len: i32,
    oflags: i32,
    base: i64,
    _inheriting: i64,
    _flags: i32,
    out: i32,
) -> Answer {
    memory.bytes(out, 4)?;
    let node = match find(&memory, host, fd, path, len) {
        Err(Errno::Noent) if oflags & OFLAGS_CREAT != 0 => return Err(Errno::Rofs),
        found => found?,
    };
    let is_directory = host.tree.is_directory(node);
    if oflags & OFLAGS_CREAT != 0 && oflags & OFLAGS_EXCL != 0 {
        return Err(Errno::Exist);
    }
    if oflags & OFLAGS_DIRECTORY != 0 && !is_directory {
        return Err(Errno::Notdir);
    }
    if oflags & OFLAGS_TRUNC != 0 || base & RIGHTS_FD_WRITE != 0 && !is_directory {
        return Err(if is_directory { Errno::Isdir } else { Errno::Rofs });
    }
    let opened = host.state.free_fd().ok_or(Errno::Mfile)?;
    host.state.files.insert(opened, OpenFile { what: FileKind::Node(node), position: 0 });
    Ok(memory.put_u32(out, opened)?)
}

pub(super) fn path_filestat_get(
    mut memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _flags: i32,
    path: i32,
    len: i32,
    out: i32,
) -> Answer {
    let node = find(&memory, host, fd, path, len)?;
    Ok(memory.put(out, &filestat(&host.tree, node))?)
}

/// A tree has no links: `EINVAL`, as `readlink` gives for what is none.
pub(super) fn path_readlink(
    memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    path: i32,
    len: i32,
    _buf: i32,
    _buf_len: i32,
    _out: i32,
) -> Answer {
    find(&memory, host, fd, path, len)?;
    Err(Errno::Inval)
}

pub(super) fn path_create_directory(
    memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    path: i32,
    len: i32,
) -> Answer {
    made(&memory, host, fd, path, len)
}

pub(super) fn path_symlink(
    memory: GuestMemory<'_>,
    host: &mut Host,
    target: i32,
    target_len: i32,
    fd: i32,
    path: i32,
    len: i32,
) -> Answer {
    memory.bytes(target, target_len)?;
    made(&memory, host, fd, path, len)
}

pub(super) fn path_link(
    memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _flags: i32,
    path: i32,
    len: i32,
    to_fd: i32,
    to_path: i32,
    to_len: i32,
) -> Answer {
    find(&memory, host, fd, path, len)?;
    made(&memory, host, to_fd, to_path, to_len)
}

/// Removing a file or a directory.
pub(super) fn path_remove(
    memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    path: i32,
    len: i32,
) -> Answer {
    find(&memory, host, fd, path, len)?;
    Err(Errno::Rofs)
}

pub(super) fn path_rename(
    memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    path: i32,
    len: i32,
    to_fd: i32,
    to_path: i32,
    to_len: i32,
) -> Answer {
    directory(host, to_fd)?;
    memory.bytes(to_path, to_len)?;
    path_remove(memory, host, fd, path, len)
}

pub(super) fn path_filestat_set_times(
    memory: GuestMemory<'_>,
    host: &mut Host,
    fd: i32,
    _flags: i32,
    path: i32,
    len: i32,
    _atim: i64,
    _mtim: i64,
    _which: i32,
) -> Answer {
    path_remove(memory, host, fd, path, len)
}

/// Making something: `EEXIST` where there is something, else it cannot be (X2).
fn made(memory: &GuestMemory<'_>, host: &Host, fd: i32, path: i32, len: i32) -> Answer {
    match find(memory, host, fd, path, len) {
        Ok(_) => Err(Errno::Exist),
        Err(Errno::Noent) => Err(Errno::Rofs),
        Err(other) => Err(other),
    }
}
