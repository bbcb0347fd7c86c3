//! Signals: what tells a supervisor to look again, or to stop.
//!
//! Owns: which signals, the thread that waits for them.  Not: what is done then (`supervisor.rs`).
//! N1  a signal is on the channel, or as many others that ask for the same look.

use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use std::io;

/// Signals arrive on a channel; the handle ends the thread that waits for them.
pub(super) fn listen() -> io::Result<(Receiver<i32>, signal_hook::iterator::Handle)> {
    let mut waiting = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])?;
    let handle = waiting.handle();
    let (sender, receiver): (Sender<i32>, Receiver<i32>) = bounded(64);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in waiting.forever() {
            // A full channel already holds enough reasons to look again.
            let _ = sender.try_send(signal);
        }
    })?;
    Ok((receiver, handle))
}

/// What a signal that ends the node is called.
pub(super) fn stop_name(signal: i32) -> Option<&'static str> {
    match signal {
        SIGINT => Some("SIGINT"),
        SIGTERM => Some("SIGTERM"),
        SIGHUP => Some("SIGHUP"),
        _ => None,
    }
}
