//! A writer's connection, which a kill may break at any time.
//!
//! Owns: telling an answer from no answer, and connecting again.  Not: what answers mean.
//! K1  without an answer nobody knows whether the request ran: the connection ended, or the node
//!     said TRYAGAIN.
//! K2  silence is a failure: neither an answer nor an end of the connection within `PATIENCE`.

use super::failure::Failure;
use crate::node::PATIENCE;
use crate::oracle::answer::code_of;
use heronry_net::Value;
use heronry_net::client::{Client, ClientError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Pause before the next try.
const PAUSE: Duration = Duration::from_millis(3);
/// Longest text of a request or an answer in a failure.
const SHOWN_CHARS: usize = 300;

/// A connection to the node that has the socket.
pub struct Link {
    socket: PathBuf,
    client: Option<Client>,
}

impl Link {
    /// Not connected yet.
    pub fn new(socket: &Path) -> Link {
        Link { socket: socket.to_owned(), client: None }
    }

    /// Asks once. `None`: it may have run or not (K1).
    pub fn ask(&mut self, words: &[Vec<u8>]) -> Result<Option<Value>, Failure> {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        match self.try_once(&words) {
            Ok(value) if code_of(&value) == Some("TRYAGAIN") => Ok(None),
            Ok(value) => Ok(Some(value)),
            Err(ClientError::TimedOut { waited }) => {
                let request = shown(&words);
                Err(Failure::Silent { request, waited_ms: waited.as_millis() })
            }
            Err(_) => {
                self.client = None;
                Ok(None)
            }
        }
    }

    /// Asks until there is an answer: only what may be asked twice. A full arena is none: the
    /// shard may have to send others to its log before an agent is in memory again.
    pub fn insist(&mut self, words: &[Vec<u8>]) -> Result<Value, Failure> {
        let began = Instant::now();
        loop {
            if let Some(value) = self.ask(words)?.filter(|value| code_of(value) != Some("FULL")) {
                return Ok(value);
            }
            if began.elapsed() > PATIENCE {
                let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                let waited_ms = began.elapsed().as_millis();
                return Err(Failure::Silent { request: shown(&words), waited_ms });
            }
            thread::sleep(PAUSE);
        }
    }

    fn try_once(&mut self, words: &[&[u8]]) -> Result<Value, ClientError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let mut client = Client::unix(&self.socket, PATIENCE)?;
                client.hello(None)?;
                client
            }
        };
        self.client.insert(client).call(words)
    }
}

/// Words of a request.
pub fn words(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A request for people.
pub fn shown(words: &[&[u8]]) -> String {
    let words: Vec<String> = words
        .iter()
        .map(|word| word.escape_ascii().to_string().chars().take(60).collect())
        .collect();
    cut(&words.join(" "))
}

/// A text for people.
pub fn cut(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}
