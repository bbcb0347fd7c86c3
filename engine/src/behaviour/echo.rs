//! `echo`: replies what it gets, keeps nothing.
//!
//! Owns: the shortest turn there is, for measuring all that surrounds a turn.  Not: any image; an
//! echo agent's stays as long as it was created.

use super::{Behaviour, Fault, Turn};
use bytes::Bytes;

/// The behaviour of `echo` agents.
#[derive(Debug)]
pub struct Echo;

impl Behaviour for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    fn summary(&self) -> &str {
        "replies the message"
    }

    fn reads_by_page(&self) -> bool {
        true
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        turn.reply(message.clone());
        Ok(())
    }
}
