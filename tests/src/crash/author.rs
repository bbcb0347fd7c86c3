//! What a scribe asks next of a family.
//!
//! Owns: the choice of operations and their arguments.  Not: sending them, what they do (`oracle`).
//! A1  every request that can be refused for its id, its label or its state is one that is not.
//! A2  every message and write has content of its own, so that two states of an agent look alike
//!     only where they are.
//! A3  a branch is committed only where it differs from its parent: whether equal bytes are a new
//!     version is for the engine's pages to say.

use crate::op::{At, Command, Op};
use crate::oracle::agent::{Agent, State};
use crate::oracle::{Oracle, template};
use fastrand::Rng;

/// Branches of a family at most, but for one fork more.
const BRANCHES_MAX: usize = 4;
/// Longest appended text and longest write.
const TEXT_BYTES_MAX: usize = 3000;
/// Where writes begin: in the slots and the text, not in the header.
const WRITE_OFFSETS: std::ops::Range<u64> = 128..96 << 10;
/// An image longer than this is rolled back or ended.
const IMAGE_BYTES_MAX: usize = 192 << 10;
/// What is added to counters: sums of some of them do not meet by chance.
const AMOUNTS: std::ops::Range<i64> = 1..1 << 40;
const LABELS: [&str; 4] = ["a", "b", "c", "d"];

/// The author of one scribe's requests.
pub struct Author {
    rng: Rng,
    id_last: u64,
    name: String,
}

impl Author {
    /// An author whose request ids bear `name`.
    pub fn new(name: String, seed: u64) -> Author {
        Author { rng: Rng::with_seed(seed), id_last: 0, name }
    }

    /// Random numbers for the scribe's other choices.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// A request id that was not given before.
    pub fn id(&mut self) -> String {
        self.id_last += 1;
        format!("{}-{}", self.name, self.id_last)
    }

    /// The next request to a family.
    pub fn next(&mut self, oracle: &Oracle, family: &str) -> Command {
        let agents: Vec<(&str, &Agent)> = oracle.family(family).collect();
        if let Some((key, _)) = agents.iter().find(|(_, agent)| agent.state() == State::Suspended) {
            return Command::new(*key, Op::Resume);
        }
        if oracle.agent(family).is_none() {
            return self.birth(oracle, family);
        }
        let (key, agent) = match self.rng.bool() {
            true => (family, oracle.agent(family).expect("it lives, as seen above")),
            false => agents[self.rng.usize(..agents.len())],
        };
        let op = match self.rng.u16(..1000) {
            0..=49 => self.checkpoint(),
            50..=94 if agents.len() <= BRANCHES_MAX => self.fork(key, agent, oracle),
            95..=144 => self.rollback(agent),
            145..=194 => return self.commit(oracle, &agents).unwrap_or(self.content(key)),
            195..=224 if key != family => Op::Terminate,
            225..=227 => Op::Terminate,
            228..=239 => Op::Suspend,
            _ if agent.memory().len() > IMAGE_BYTES_MAX => Op::Terminate,
            _ => return self.content(key),
        };
        Command::new(key, op)
    }

    /// A message or a write that changes an agent, which lives or is made by it.
    pub fn content(&mut self, key: &str) -> Command {
        let id = Some(self.id());
        let payload = match template(key) {
            "counter" => self.rng.i64(AMOUNTS).to_string().into_bytes(),
            _ => match self.rng.u8(..10) {
                0..=3 => [b"append ".as_slice(), &self.text(TEXT_BYTES_MAX)].concat(),
                4..=6 => {
                    let slot = self.rng.u16(..511);
                    [format!("set {slot} ").as_bytes(), &self.text(127)].concat()
                }
                _ => {
                    let offset = self.rng.u64(WRITE_OFFSETS);
                    let bytes = self.text(TEXT_BYTES_MAX);
                    return Command::new(key, Op::Write { offset, bytes });
                }
            },
        };
        Command::new(key, Op::Send { payload, id, timeout_ms: None })
    }

    /// A message that changes an agent, and may be tried again.
    pub fn message(&mut self, key: &str) -> Command {
        let id = Some(self.id());
        let payload = match template(key) {
            "counter" => self.rng.i64(AMOUNTS).to_string().into_bytes(),
            _ => [b"append ".as_slice(), &self.text(100)].concat(),
        };
        Command::new(key, Op::Send { payload, id, timeout_ms: None })
    }

    /// 16 bytes or more, which no other text begins with (A2).
    fn text(&mut self, len_max: usize) -> Vec<u8> {
        let mut text = format!("{:016x}", self.rng.u64(..)).into_bytes();
        let len = self.rng.usize(16..=len_max);
        text.resize_with(len, || self.rng.u8(..));
        text
    }

    fn birth(&mut self, oracle: &Oracle, family: &str) -> Command {
        let lost = oracle.lost().any(|key| key == family);
        if lost || self.rng.u8(..3) == 0 {
            return Command::new(family, Op::Create { image_bytes: 0 });
        }
        self.content(family)
    }

    fn checkpoint(&mut self) -> Op {
        let label = (self.rng.u8(..4) > 0).then(|| self.rng.choice(LABELS).map(str::to_owned));
        Op::Checkpoint { label: label.flatten() }
    }

    fn fork(&mut self, key: &str, agent: &Agent, oracle: &Oracle) -> Op {
        let at = (self.rng.u8(..3) == 0).then(|| self.version(agent)).flatten();
        let suffix = format!("s{}", self.rng.u8(..6));
        let is_free = oracle.agent(&format!("{key}~{suffix}")).is_none();
        let suffix = (is_free && self.rng.bool()).then_some(suffix);
        let count = suffix.is_none().then(|| self.rng.u32(1..=2));
        Op::Fork { count, suffix, at }
    }

    fn rollback(&mut self, agent: &Agent) -> Op {
        let to = (self.rng.u8(..4) > 0).then(|| self.version(agent)).flatten();
        Op::Rollback { to }
    }

    /// A version that is kept.
    fn version(&mut self, agent: &Agent) -> Option<At> {
        let labels = agent.labels();
        match labels.is_empty() || self.rng.bool() {
            true => self.rng.choice(agent.version_ids()).map(At::Id),
            false => self.rng.choice(labels).map(At::Label),
        }
    }

    /// A branch takes its parent's place (A3).
    fn commit(&mut self, oracle: &Oracle, agents: &[(&str, &Agent)]) -> Option<Command> {
        let differs = |agent: &Agent| {
            let parent = agent.parent().and_then(|parent| oracle.agent(parent));
            parent.is_some_and(|parent| !parent.memory().looks_like(agent.memory()))
        };
        let fit = agents.iter().filter(|(_, agent)| differs(agent)).map(|(key, _)| *key);
        self.rng.choice(fit.collect::<Vec<_>>()).map(|key| Command::new(key, Op::Commit))
    }
}
