//! Where a node is: a TCP address or the path of a Unix socket.
//!
//! Owns: the default places, for the node and for its clients.  Not: connecting.
//! N1  a node started without options and a client started without options, in one folder, meet.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Port of a node that was given none.
pub const DEFAULT_PORT: u16 = 7373;
/// Data folder of a node that was given none, in the folder where it starts.
pub const DEFAULT_DATA_DIR: &str = "heronry-data";

/// Where a node listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Places to try, in order, for a client that was told none (N1).
    pub fn defaults() -> Vec<Address> {
        let socket = socket_beside(Path::new(DEFAULT_DATA_DIR));
        let tcp = Address::Tcp(format!("127.0.0.1:{DEFAULT_PORT}"));
        if socket.exists() { vec![Address::Unix(socket), tcp] } else { vec![tcp] }
    }
}

/// The Unix socket that belongs to a data folder: its path with `.sock` added.
pub fn socket_beside(data_dir: &Path) -> PathBuf {
    let mut path = data_dir.as_os_str().to_owned();
    path.push(".sock");
    PathBuf::from(path)
}

/// Why a text is not an address.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text:?} is neither HOST:PORT nor the path of a Unix socket (a path has a /)")]
pub struct BadAddress {
    text: String,
}

impl FromStr for Address {
    type Err = BadAddress;
    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let bare = text.strip_prefix("unix:").unwrap_or(text);
        if bare != text || text.contains('/') || text.ends_with(".sock") {
            return Ok(Address::Unix(PathBuf::from(bare)));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Address::Tcp(text.to_owned()))
            }
            _ => Err(BadAddress { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(text) => f.write_str(text),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n1_addresses_are_told_apart() {
        let tcp = |text: &str| Address::Tcp(text.to_owned());
        let unix = |text: &str| Address::Unix(PathBuf::from(text));
        for (text, expected) in [
            ("127.0.0.1:7373", tcp("127.0.0.1:7373")),
            ("[::1]:1", tcp("[::1]:1")),
            ("./x.sock", unix("./x.sock")),
            ("x.sock", unix("x.sock")),
            ("unix:x", unix("x")),
            ("/run/h", unix("/run/h")),
        ] {
            assert_eq!(text.parse::<Address>().expect(text), expected);
        }
        for text in ["", "host", "host:", ":1", "host:99999", "host:x"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        assert_eq!(socket_beside(Path::new("/a/data")), Path::new("/a/data.sock"));
    }
}
