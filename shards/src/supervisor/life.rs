//! The life of one shard, as the supervisor holds it.
//!
//! Owns: the child process or thread, and how it ended, in words.  Not: what follows from that.
//! F1  an end is told once.

use super::ShardError;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::thread::JoinHandle;
use std::time::Instant;

/// What a shard is right now.
pub(super) enum Life {
    /// To be started.
    Due { at: Instant },
    /// Running, as a process.
    Process { child: Child },
    /// Running, as a thread.
    Thread { handle: JoinHandle<Result<(), ShardError>> },
    /// Ended, and not to be started again.
    Over,
}

impl Life {
    /// How it ended; `None` while it runs, and once that was told.
    pub(super) fn ended(&mut self) -> io::Result<Option<String>> {
        match self {
            Life::Process { child } => Ok(child.try_wait()?.map(describe)),
            Life::Thread { handle } if handle.is_finished() => {
                let Life::Thread { handle } = std::mem::replace(self, Life::Over) else {
                    unreachable!("U1: matched just above");
                };
                let how = match handle.join() {
                    Ok(Ok(())) => "its thread returned".into(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "its thread panicked".into(),
                };
                Ok(Some(how))
            }
            _ => Ok(None),
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (_, Some(signal)) => format!("killed by signal {signal}"),
        (Some(code), None) => format!("exit status {code}"),
        (None, None) => "unknown status".into(),
    }
}
