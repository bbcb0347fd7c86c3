//! Errands: what a shard and the control thread of its supervisor say to each other.
//!
//! Owns: the frames of their link and their bounds; the shard's end of it.  Not: what the control
//! thread does (`tools`), how a template becomes a behaviour ([`Workshop`]), reading and writing.
//! J1  bytes from the link are checked like network input: a frame that is too long or malformed
//!     breaks the link, and a broken link is reported once and never mended.
//! J2  every errand is answered exactly once: by the control thread, or with TRYAGAIN when the
//!     link is missing or breaks, or with a refusal when too much is under way.
//! J3  a step is answered once, in order; a template is loaded in one step and comes into use in
//!     another, so that one that fails on any shard is used on none.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | length of the rest in bytes, little endian |
//! | 4 | .. | postcard of [`ShardToControl`] or [`ControlToShard`] |

mod link;

pub(crate) use link::Link;

use crate::sandbox::build::Needs;
use crate::sandbox::template::TemplateHeader;
use heronry_engine::limits::PAYLOAD_BYTES_MAX;
use heronry_engine::verb::Errand;
use heronry_engine::{Behaviour, Refusal, Reply};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::rc::Rc;

/// Bytes of a frame's length.
const HEAD_BYTES: usize = 4;
/// Longest frame: a source and a warm-up script of the longest payload, and what names them.
pub const FRAME_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX + (64 << 10);
/// Most errands of one shard under way.
pub const ERRANDS_MAX: usize = 1_024;

/// From a shard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ShardToControl {
    /// Do this, and tell what came of it.
    Do {
        /// The shard's own reference.
        token: u64,
        /// What.
        errand: Errand,
    },
    /// What came of a step (J3).
    Stepped {
        /// The control thread's reference.
        token: u64,
        /// Why it was not done; nothing changed then.
        error: Option<String>,
    },
}

/// To a shard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ControlToShard {
    /// Do this and say how it went (J3).
    Step {
        /// The control thread's own reference.
        token: u64,
        /// What.
        step: Step,
    },
    /// All templates that were known when the shard came have been sent.
    Known,
    /// What came of an errand.
    Done {
        /// The shard's reference.
        token: u64,
        /// The answer for whoever asked.
        result: Result<Reply, Refusal>,
    },
}

/// What a shard does with a template.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Step {
    /// Make it ready, and do not use it yet.
    Load(Box<TemplateRef>),
    /// Use what was loaded.
    Deploy {
        /// The template's name.
        name: String,
        /// Its number.
        number: u32,
        /// Whether new agents get it.
        activate: bool,
    },
    /// Forget what was loaded.
    Withdraw {
        /// The template's name.
        name: String,
        /// Its number.
        number: u32,
    },
    /// Make new agents from this number.
    Activate {
        /// The template's name.
        name: String,
        /// Its number.
        number: u32,
    },
    /// Take part in a snapshot.
    Snapshot(SnapshotStep),
}

/// A shard's part in a snapshot of the node: all hold, then all cut, then all go on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SnapshotStep {
    /// Take in nothing from other shards for a while.
    Hold,
    /// Put all that has changed on disk, and give the log as it is then a second name.
    Cut {
        /// Its new folder.
        folder: PathBuf,
    },
    /// Go on, whether it was cut or not.
    GoOn,
}

/// A template of the node: all that a shard needs to load it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TemplateRef {
    /// Its name.
    pub name: String,
    /// Which deployment of it, from 1.
    pub number: u32,
    /// What its file says, as the supervisor has checked it.
    pub header: TemplateHeader,
    /// What it needs beside it, if the supervisor has looked at that.
    pub needs: Option<Needs>,
    /// Where its base is.
    pub base: BaseRef,
}

/// The sealed memfd of a template's base, held open by the supervisor's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BaseRef {
    /// The process.
    pub pid: u32,
    /// The descriptor's number there.
    pub fd: RawFd,
    /// Length in bytes.
    pub len_bytes: u64,
}

impl BaseRef {
    /// Opens the base, for reading. Fails when the supervisor is gone; whether what is there is
    /// sealed is the caller's to check.
    pub fn open(&self) -> io::Result<OwnedFd> {
        let file = File::open(format!("/proc/{}/fd/{}", self.pid, self.fd))?;
        let len_bytes = file.metadata()?.len();
        if len_bytes != self.len_bytes {
            let wrong = format!("the base has {len_bytes} bytes instead of {}", self.len_bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
        }
        Ok(file.into())
    }
}

/// Makes behaviours of templates. Each shard has one.
pub trait Workshop {
    /// A behaviour whose name and number are the template's. Error: why there is none, for the
    /// client that deploys it. Cost: opening files and mapping them; never compiling.
    fn load(&mut self, template: &TemplateRef) -> Result<Rc<dyn Behaviour>, String>;
}

/// For shards without sandboxes: simulation and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWorkshop;

impl Workshop for NoWorkshop {
    fn load(&mut self, template: &TemplateRef) -> Result<Rc<dyn Behaviour>, String> {
        Err(format!("this shard runs no sandboxes, so it cannot load {:?}", template.name))
    }
}

/// Why bytes are no frame (J1), or a message makes none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`FRAME_BYTES_MAX`].
    #[error("a frame of {len_bytes} bytes; at most {FRAME_BYTES_MAX} are allowed")]
    TooLong {
        /// How long.
        len_bytes: usize,
    },
    /// It names a path that is not UTF-8.
    #[error("a message names a path that is not UTF-8; choose another data folder")]
    Path,
    /// Not what is sent this way.
    #[error("a frame of {len_bytes} bytes is malformed")]
    Malformed {
        /// How long.
        len_bytes: usize,
    },
}

/// Appends a frame. On an error nothing was appended.
pub fn encode(message: &impl Serialize, out: &mut Vec<u8>) -> Result<(), FrameError> {
    // Nothing else of these messages can fail.
    let body = postcard::to_stdvec(message).map_err(|_| FrameError::Path)?;
    if body.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { len_bytes: body.len() });
    }
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

/// Bytes that arrived, until they are whole frames.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Bytes of it that were decoded.
    taken: usize,
}

impl Frames {
    /// Adds what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` until more arrives. After an error nothing of the stream can be
    /// understood any more.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let rest = &self.bytes[self.taken..];
        let Some(head) = rest.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let len_bytes = u32::from_le_bytes(*head) as usize;
        if len_bytes > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { len_bytes });
        }
        let Some(body) = rest.get(HEAD_BYTES..HEAD_BYTES + len_bytes) else { return Ok(None) };
        let (message, left) =
            postcard::take_from_bytes(body).map_err(|_| FrameError::Malformed { len_bytes })?;
        if !left.is_empty() {
            return Err(FrameError::Malformed { len_bytes });
        }
        self.taken += HEAD_BYTES + len_bytes;
        if self.taken == self.bytes.len() {
            // A long frame's room is given back.
            (self.bytes, self.taken) = (Vec::new(), 0);
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests;
