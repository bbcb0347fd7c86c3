//! What a kill cycle can find wrong.
//!
//! Owns: the words in which it is told.  Not: the seed and the node's log, which whoever runs the
//! cycles adds.

use std::io;

/// Why a run ends: each is a fault of the node, but for [`Failure::Io`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The harness itself cannot go on.
    #[error("{what}: {source}")]
    Io {
        /// What it was doing.
        what: &'static str,
        /// Why that failed.
        source: io::Error,
    },
    /// The node did not come up.
    #[error("the node is not up after {waited_ms} ms; it said {said:#?}")]
    NotUp {
        /// How long it had.
        waited_ms: u128,
        /// Its log.
        said: Vec<String>,
    },
    /// A process of the node, or the node, goes on after its end was due.
    #[error("process {pid} is still there {waited_ms} ms after its end was due")]
    NotGone {
        /// Which.
        pid: u32,
        /// How long it had.
        waited_ms: u128,
    },
    /// A node that was asked to stop did not end well.
    #[error("the node was asked to stop and ended with {status}")]
    BadEnd {
        /// As the system shows it.
        status: String,
    },
    /// The node's log says something that only a fault makes it say.
    #[error("the node said {line:?}")]
    Said {
        /// The line.
        line: String,
    },
    /// No answer came, and no end of the connection either.
    #[error("{request} had no answer for {waited_ms} ms")]
    Silent {
        /// What was asked.
        request: String,
        /// How long it had.
        waited_ms: u128,
    },
    /// An answer that is not the one that follows from the writer's requests.
    #[error(
        "{request} was answered {got}, which no state of {key} that is possible gives: {known}"
    )]
    Answer {
        /// The family.
        key: String,
        /// What was asked.
        request: String,
        /// The answer, cut.
        got: String,
        /// What is possible.
        known: String,
    },
    /// A family is as after none of the beginnings of its writer's requests that are allowed.
    #[error(
        "{key} is as after none of the {count} requests that may be lost, from number {first} on:\
         \n{detail}"
    )]
    State {
        /// The family.
        key: String,
        /// Beginnings that are allowed.
        count: usize,
        /// The shortest.
        first: usize,
        /// Agent by agent: what is there, and which beginnings that fits.
        detail: String,
    },
    /// Agents are listed that nobody made, or not listed although they live.
    #[error("AGENT.LIST of {pattern} has {extra:?} too many and {missing:?} too few")]
    Listed {
        /// What was listed.
        pattern: String,
        /// Unknown agents.
        extra: Vec<String>,
        /// Missing agents.
        missing: Vec<String>,
    },
    /// A counter that relays add to has not what they were told to add.
    #[error("{key} is {value}, {why}; asked of relays: {asked}")]
    Count {
        /// The counter.
        key: String,
        /// What it is.
        value: i64,
        /// What it should be.
        why: String,
        /// The last requests that concern it.
        asked: String,
    },
}
