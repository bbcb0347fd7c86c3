//! What a simulated client asks of an agent, as data: sent as RESP, and told to the oracle.
//!
//! Owns: the wire form of each operation, by the grammar of docs/commands.md.
//! Not: what comes of it (`oracle`), when it is asked (`workload`).

use heronry_net::resp::encode::encode_request;

/// A version as a client names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum At {
    /// By number.
    Id(u64),
    /// By label.
    Label(String),
}

/// An operation on one agent.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the command of the same name")]
pub enum Op {
    Create {
        image_bytes: u64,
    },
    Send {
        payload: Vec<u8>,
        id: Option<String>,
        timeout_ms: Option<u64>,
    },
    Read {
        offset: u64,
        len: u64,
    },
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    Checkpoint {
        label: Option<String>,
    },
    Fork {
        count: Option<u32>,
        suffix: Option<String>,
        at: Option<At>,
    },
    Rollback {
        to: Option<At>,
    },
    Versions,
    Diff {
        from: At,
        to: Option<At>,
    },
    Commit,
    Suspend,
    Resume,
    Terminate,
    Info,
    /// Some other command, and the code of the refusal that it gets; `None`: any good reply.
    Raw {
        words: Vec<Vec<u8>>,
        refused: Option<&'static str>,
    },
}

/// An operation and its agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// The agent; empty for [`Op::Raw`].
    pub key: String,
    /// What is asked.
    pub op: Op,
}

impl Op {
    /// A message.
    pub fn send(payload: impl Into<Vec<u8>>) -> Op {
        Op::Send { payload: payload.into(), id: None, timeout_ms: None }
    }

    /// Whether it runs as a turn, which a held agent does not take.
    pub fn runs_turn(&self) -> bool {
        matches!(self, Op::Send { .. } | Op::Write { .. })
    }
}

impl At {
    fn word(&self) -> Vec<u8> {
        match self {
            At::Id(id) => id.to_string().into_bytes(),
            At::Label(label) => format!("@{label}").into_bytes(),
        }
    }
}

impl Command {
    /// `op` on `key`.
    pub fn new(key: impl Into<String>, op: Op) -> Command {
        Command { key: key.into(), op }
    }

    /// Appends the command as a client sends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let words = self.words();
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        encode_request(out, &words);
    }

    /// Its words.
    pub fn words(&self) -> Vec<Vec<u8>> {
        let mut words = Words(Vec::new());
        let mut begin = |name: &str| {
            words.text(name);
            words.text(&self.key);
        };
        match &self.op {
            Op::Create { image_bytes } => {
                begin("AGENT.CREATE");
                if *image_bytes > 0 {
                    words.option("SIZE", image_bytes.to_string());
                }
            }
            Op::Send { payload, id, timeout_ms } => {
                begin("AGENT.SEND");
                words.0.push(payload.clone());
                words.maybe("ID", id.clone());
                words.maybe("TIMEOUT", timeout_ms.map(|ms| ms.to_string()));
            }
            Op::Read { offset, len } => {
                begin("AGENT.READ");
                words.text(&offset.to_string());
                words.text(&len.to_string());
            }
            Op::Write { offset, bytes } => {
                begin("AGENT.WRITE");
                words.text(&offset.to_string());
                words.0.push(bytes.clone());
            }
            Op::Checkpoint { label } => {
                begin("AGENT.CHECKPOINT");
                words.maybe("LABEL", label.clone());
            }
            Op::Fork { count, suffix, at } => {
                begin("AGENT.FORK");
                words.maybe("COUNT", count.map(|count| count.to_string()));
                words.maybe("AS", suffix.clone());
                words.maybe("AT", at.as_ref().map(At::word));
            }
            Op::Rollback { to } => {
                begin("AGENT.ROLLBACK");
                words.maybe("TO", to.as_ref().map(At::word));
            }
            Op::Diff { from, to } => {
                begin("AGENT.DIFF");
                words.0.push(from.word());
                words.0.extend(to.as_ref().map(At::word));
            }
            Op::Versions => begin("AGENT.VERSIONS"),
            Op::Commit => begin("AGENT.COMMIT"),
            Op::Suspend => begin("AGENT.SUSPEND"),
            Op::Resume => begin("AGENT.RESUME"),
            Op::Terminate => begin("AGENT.TERMINATE"),
            Op::Info => begin("AGENT.INFO"),
            Op::Raw { words, .. } => return words.clone(),
        }
        words.0
    }
}

struct Words(Vec<Vec<u8>>);

impl Words {
    fn text(&mut self, text: &str) {
        self.0.push(text.into());
    }

    fn option(&mut self, token: &str, value: impl Into<Vec<u8>>) {
        self.text(token);
        self.0.push(value.into());
    }

    fn maybe(&mut self, token: &str, value: Option<impl Into<Vec<u8>>>) {
        if let Some(value) = value {
            self.option(token, value);
        }
    }
}
