//! What a turn serves, so that its end can be told to whom it concerns, also slices later.
//!
//! Owns: nothing but the data.  Not: how a turn ends (`partition/turns.rs`).
//! J1  a turn that paused has one of these until its last slice, so that its end is told once.

use crate::behaviour::RequestId;
use crate::id::Nanos;
use crate::verb::Origin;
use bytes::Bytes;

/// What a turn is taken for.
#[derive(Debug)]
pub(crate) enum Serving {
    /// A message, or code for the interpreter.
    Message {
        /// Who awaits the reply.
        origin: Origin,
        /// Under which id a retry would come.
        request_id: Option<Bytes>,
        /// The id under which the agent keeps it open, if it asked for one.
        held: Option<RequestId>,
        /// When it came in.
        accepted_at: Nanos,
    },
    /// The result of a call that belongs to this request.
    Returned {
        /// Index of the request.
        request: u32,
    },
    /// The word that the image was restored.
    Restored,
}

impl Serving {
    /// The held id of an earlier slice.
    pub(crate) fn held(&self) -> Option<RequestId> {
        match self {
            Serving::Message { held, .. } => *held,
            Serving::Returned { .. } | Serving::Restored => None,
        }
    }
}
