//! The command line's connection to a node.
//!
//! Owns: finding the node, building commands word by word, turning refusals into errors.
//! Not: the protocol (`heronry_net::client`).
//! K1  an error names the place that was tried and says what to do.

use crate::address::Address;
use crate::cli::Global;
use anyhow::{Context, Result};
use heronry_net::client::{Client, ClientError};
use heronry_net::reply::whole_text;
use heronry_net::resp::Value;
use std::time::Duration;

/// Longest wait for a connection, and for one reply.
const REPLY_WAIT_MAX: Duration = Duration::from_secs(60);

/// A refusal as the node gave it.
#[derive(Debug, thiserror::Error)]
#[error("{code} {text}")]
pub struct Refused {
    /// What clients match on.
    pub code: String,
    /// What people read.
    pub text: String,
}

/// What an agent's own code raised: its output and its traceback.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Raised(pub String);

/// One command: its name and arguments.
#[derive(Clone, Debug)]
pub struct Words(Vec<Vec<u8>>);

impl Words {
    /// A command without arguments yet.
    pub fn new(name: &str) -> Words {
        Words(vec![name.as_bytes().to_vec()])
    }

    /// With one more argument.
    pub fn arg(mut self, word: impl AsRef<[u8]>) -> Words {
        self.0.push(word.as_ref().to_vec());
        self
    }

    /// With a number.
    pub fn number(self, number: u64) -> Words {
        self.arg(number.to_string())
    }

    /// With `name value` if there is a value.
    pub fn option(self, name: &str, value: Option<impl AsRef<[u8]>>) -> Words {
        match value {
            Some(value) => self.arg(name).arg(value),
            None => self,
        }
    }

    /// With a word if `set`.
    pub fn flag(self, name: &str, set: bool) -> Words {
        if set { self.arg(name) } else { self }
    }
}

/// An open connection.
pub struct Link {
    client: Client,
    address: Address,
}

impl Link {
    /// Connects to where the options say, or to the default places in their order (K1).
    pub fn open(global: &Global) -> Result<Link> {
        Link::open_for(global, REPLY_WAIT_MAX)
    }

    /// As [`Link::open`], for commands whose reply may take as long as `reply_wait_max`.
    pub fn open_for(global: &Global, reply_wait_max: Duration) -> Result<Link> {
        let places = match &global.connect {
            Some(address) => vec![address.clone()],
            None => Address::defaults(),
        };
        let mut tried = Vec::new();
        for address in places {
            match connect(&address, reply_wait_max) {
                Ok(client) => {
                    let mut link = Link { client, address };
                    link.greet(global.password.as_deref())?;
                    return Ok(link);
                }
                Err(error) => tried.push(error.to_string()),
            }
        }
        anyhow::bail!(
            "no node there: {}; start one with `heronry up`, or say where it is with \
             --connect HOST:PORT or a socket's path",
            tried.join("; ")
        )
    }

    /// Sends one command and waits for its reply. Error: [`Refused`], or the connection's.
    pub fn ask(&mut self, words: &Words) -> Result<Value> {
        let args: Vec<&[u8]> = words.0.iter().map(Vec::as_slice).collect();
        let place = || format!("the connection to {} failed", self.address);
        match self.client.call(&args).with_context(place)? {
            Value::Error { code, text } if code == "NOAUTH" => {
                let text = format!("{text}; give --password or set HERONRY_PASSWORD");
                Err(Refused { code, text }.into())
            }
            Value::Error { code, text } => {
                let text = whole_text(&code, text);
                Err(Refused { code, text }.into())
            }
            reply => Ok(reply),
        }
    }

    /// Asks for RESP3, whose maps carry the names of fields.
    fn greet(&mut self, password: Option<&str>) -> Result<()> {
        let mut hello = Words::new("HELLO").number(3);
        if let Some(password) = password {
            hello = hello.arg("AUTH").arg("default").arg(password);
        }
        self.ask(&hello).map(drop)
    }
}

fn connect(address: &Address, reply_wait_max: Duration) -> Result<Client, ClientError> {
    match address {
        Address::Tcp(place) => Client::tcp(place, reply_wait_max),
        Address::Unix(path) => Client::unix(path, reply_wait_max),
    }
}
