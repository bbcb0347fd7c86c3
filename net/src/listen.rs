//! Listening sockets: one TCP listener per shard on one port, one Unix socket per node.
//!
//! Owns: binding, and saying what is wrong when it fails.  Not: accepting (the shard's driver).
//! H1  several listeners of one node share a port; another program on it is found before.
//! H2  a socket file is removed only when nobody answers at it.

use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Connections that may wait to be accepted, per listener.
pub const BACKLOG: i32 = 4096;
/// Longest path of a Unix socket in bytes: the kernel's 108 with the NUL that ends it.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// Why a socket does not listen. Nothing is left bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program listens there.
    #[error(
        "{address} is in use by another program; stop it (`ss -ltnp` shows it), or choose another \
         node.port (--port)"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}; {remedy}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A node answers at the Unix socket.
    #[error(
        "another node answers at {}; stop it, or choose another node.unix_socket or node.data_dir",
        path.display()
    )]
    UnixInUse {
        /// The path.
        path: PathBuf,
    },
    /// The path is too long for the kernel.
    #[error(
        "the socket path {} has {len_bytes} bytes, at most {UNIX_PATH_BYTES_MAX} are possible; \
         choose a shorter node.unix_socket", path.display()
    )]
    UnixPathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        len_bytes: usize,
    },
    /// Something that is no socket has that name.
    #[error(
        "{} exists and is not a socket; move it away, or choose another node.unix_socket",
        path.display()
    )]
    UnixNotSocket {
        /// The path.
        path: PathBuf,
    },
    /// The path cannot be bound.
    #[error("cannot listen on {}: {source}; {remedy}", path.display())]
    UnixBind {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
}

/// Tells whether `address` is free, by binding it alone (H1); gives the port, chosen by the
/// kernel when `address` has 0. Nothing stays bound.
pub fn probe_free(address: SocketAddr) -> Result<SocketAddr, ListenError> {
    let socket = bound(address, false)?;
    let bound = socket.local_addr().and_then(|bound| {
        bound.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
    });
    bound.map_err(|source| bind_error(address, source))
}

/// A listener on `address` that shares its port with the node's other ones (H1). Call
/// [`probe_free`] once before the first.
pub fn listen_tcp(address: SocketAddr) -> Result<OwnedFd, ListenError> {
    let socket = bound(address, true)?;
    socket.listen(BACKLOG).map_err(|source| bind_error(address, source))?;
    Ok(socket.into())
}

/// A listener on a Unix socket; removes a stale file first (H2).
pub fn listen_unix(path: &Path) -> Result<OwnedFd, ListenError> {
    let named = |source: io::Error| unix_error(path, source);
    let len_bytes = path.as_os_str().len();
    if len_bytes > UNIX_PATH_BYTES_MAX {
        return Err(ListenError::UnixPathTooLong { path: path.to_owned(), len_bytes });
    }
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None).map_err(named)?;
    socket.bind(&SockAddr::unix(path).map_err(named)?).map_err(named)?;
    socket.listen(BACKLOG).map_err(named)?;
    socket.set_nonblocking(true).map_err(named)?;
    Ok(socket.into())
}

fn bound(address: SocketAddr, shared: bool) -> Result<Socket, ListenError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        // Old connections in TIME_WAIT do not count as a program that listens.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        // Without the shared flag this fails when others listen here with it.
        Ok(socket)
    };
    bind().map_err(|source| bind_error(address, source))
}

fn bind_error(address: SocketAddr, source: io::Error) -> ListenError {
    let remedy = match source.kind() {
        io::ErrorKind::AddrInUse => return ListenError::InUse { address },
        io::ErrorKind::AddrNotAvailable => "no interface has it: see `ip addr`, set node.bind",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: set node.port",
        _ => "set node.bind and node.port to an address of this machine",
    };
    ListenError::Bind { address, source, remedy }
}

fn unix_error(path: &Path, source: io::Error) -> ListenError {
    let remedy = match source.kind() {
        io::ErrorKind::NotFound => "make its folder first, or set node.unix_socket",
        io::ErrorKind::PermissionDenied => "its folder must be writable, or set node.unix_socket",
        _ => "set node.unix_socket to a path on a local file system",
    };
    ListenError::UnixBind { path: path.to_owned(), source, remedy }
}

fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(unix_error(path, source)),
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::UnixNotSocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        // Only a refusal says that nobody is there.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| unix_error(path, source))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(ListenError::UnixInUse { path: path.to_owned() }),
        // A full backlog, a socket of another kind: somebody has it.
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(unix_error(path, source))
        }
        Err(_) => Err(ListenError::UnixInUse { path: path.to_owned() }),
    }
}
