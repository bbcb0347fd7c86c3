//! `relay`: passes a message on to the agent that it names.
//!
//! Owns: the text form `KEY PAYLOAD`.  Not: any image.  A relay that calls itself, directly or in
//! a circle, takes one turn per pass: calls go through mailboxes, never through the stack.

use super::{Behaviour, Fault, Turn};
use crate::id::CallId;
use crate::key::AgentKey;
use crate::refusal::Refusal;
use bytes::Bytes;

/// The behaviour of `relay` agents.
#[derive(Debug)]
pub struct Relay;

impl Behaviour for Relay {
    fn name(&self) -> &str {
        "relay"
    }

    fn summary(&self) -> &str {
        "KEY PAYLOAD calls the agent KEY and replies its reply; !KEY PAYLOAD only sends"
    }

    fn reads_by_page(&self) -> bool {
        true
    }

    fn on_message(&self, turn: &mut Turn<'_>, message: &Bytes) -> Result<(), Fault> {
        let start = usize::from(message.first() == Some(&b'!'));
        let end = memchr::memchr(b' ', message).unwrap_or(message.len());
        let key = AgentKey::new(message.slice(start.min(end)..end)).map_err(|bad| {
            Fault::refused(format!("{bad}; allowed: KEY PAYLOAD, or !KEY PAYLOAD to only send"))
        })?;
        let payload = message.slice((end + 1).min(message.len())..);
        if start == 1 {
            turn.send(key, payload);
            turn.reply("sent");
        } else {
            turn.call(key, payload);
        }
        Ok(())
    }

    fn on_reply(
        &self,
        turn: &mut Turn<'_>,
        _call: CallId,
        result: &Result<Option<Bytes>, Refusal>,
    ) -> Result<(), Fault> {
        match result {
            Ok(Some(reply)) => turn.reply(reply.clone()),
            Ok(None) => {}
            Err(refusal) => turn.refuse(refusal.clone()),
        }
        Ok(())
    }
}
