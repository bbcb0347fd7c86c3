//! The control thread's end of one shard's link.
//!
//! Owns: frames in and out, and which steps are unanswered.  Not: what errands and steps mean.
//! L1  a step is answered once: by its shard, or by the end of its link.
//! L2  what comes is checked like network input; a malformed frame ends the link.

use heronry_engine::{Refusal, Reply, ShardId};
use heronry_shards::errand::{ControlToShard, FrameError, Frames, ShardToControl, Step, encode};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::timeout;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// How long a shard may take for a step.
const STEP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Why a link is given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// L2.
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// What came of a step.
pub(super) enum Stepped {
    /// The shard did it.
    Done,
    /// The shard has ended; its next life gets all templates anew.
    Gone,
    /// It was not done, and why.
    Failed(String),
}

/// A step that was sent, until it is answered.
pub(super) struct Pending(Option<oneshot::Receiver<Option<String>>>);

impl Pending {
    pub(super) async fn outcome(self) -> Stepped {
        let Some(answer) = self.0 else { return Stepped::Gone };
        match timeout(STEP_WAIT_MAX, answer).await {
            Ok(Ok(None)) => Stepped::Done,
            Ok(Ok(Some(error))) => Stepped::Failed(error),
            Ok(Err(_)) => Stepped::Gone,
            Err(_) => {
                Stepped::Failed(format!("it has not answered for {} s", STEP_WAIT_MAX.as_secs()))
            }
        }
    }
}

/// One life of a shard, as the control thread talks to it.
pub(super) struct Peer {
    shard: ShardId,
    out: RefCell<Option<mpsc::UnboundedSender<Vec<u8>>>>,
    token_last: Cell<u64>,
    steps: RefCell<BTreeMap<u64, oneshot::Sender<Option<String>>>>,
}

impl Peer {
    /// Takes over our end of the link.
    pub(super) fn open(shard: ShardId, socket: StdStream) -> io::Result<(Peer, Inbound)> {
        let (read, write) = UnixStream::from_std(socket)?.into_split();
        // As long as what it answers: bounded by the shard's errands and the node's templates.
        let (out, queue) = mpsc::unbounded_channel();
        spawn_local(write_all(write, queue));
        let peer = Peer {
            shard,
            out: RefCell::new(Some(out)),
            token_last: Cell::new(0),
            steps: RefCell::default(),
        };
        let chunk = vec![0; READ_BYTES].into_boxed_slice();
        Ok((peer, Inbound { read, frames: Frames::default(), chunk }))
    }

    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    /// Asks for a step.
    pub(super) fn step(&self, step: Step) -> Pending {
        let token = self.token_last.get() + 1;
        self.token_last.set(token);
        let (sender, answer) = oneshot::channel();
        if !self.say(&ControlToShard::Step { token, step }) {
            return Pending(None);
        }
        self.steps.borrow_mut().insert(token, sender);
        Pending(Some(answer))
    }

    /// All that the shard must know at its start has been sent.
    pub(super) fn known(&self) {
        self.say(&ControlToShard::Known);
    }

    /// The answer to an errand.
    pub(super) fn done(&self, token: u64, result: Result<Reply, Refusal>) {
        self.say(&ControlToShard::Done { token, result });
    }

    /// The shard's answer to a step; an unknown token is nobody's (L1).
    pub(super) fn stepped(&self, token: u64, error: Option<String>) {
        if let Some(waiting) = self.steps.borrow_mut().remove(&token) {
            // Whoever asked may have waited long enough.
            let _ = waiting.send(error);
        }
    }

    /// The shard has ended (L1).
    pub(super) fn close(&self) {
        self.out.borrow_mut().take();
        self.steps.borrow_mut().clear();
    }

    /// Queues a frame. False: the link is gone.
    fn say(&self, message: &ControlToShard) -> bool {
        let mut frame = Vec::new();
        if let Err(error) = encode(message, &mut frame) {
            super::report(format_args!("shard {}: {error}", self.shard.0));
            return false;
        }
        self.out.borrow().as_ref().is_some_and(|out| out.send(frame).is_ok())
    }
}

/// What the shard says.
pub(super) struct Inbound {
    read: OwnedReadHalf,
    frames: Frames,
    chunk: Box<[u8]>,
}

impl Inbound {
    /// The next frame; `None` when the shard has ended.
    pub(super) async fn next(&mut self) -> Result<Option<ShardToControl>, LinkError> {
        loop {
            if let Some(message) = self.frames.take()? {
                return Ok(Some(message));
            }
            let count = match self.read.read(&mut self.chunk).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                read => read?,
            };
            if count == 0 {
                return Ok(None);
            }
            self.frames.push(&self.chunk[..count]);
        }
    }
}

/// Sends what is queued. Ends with the link; the reader sees that too.
async fn write_all(mut write: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
}
