//! What a client asks next: random batches whose replies can be known.
//!
//! Owns: the choice of operations and their arguments.  Not: sending them, what they do.
//! A1  within a batch no two operations race: those that touch more than one agent of a family are
//!     alone in it, but for what their own agent's mailbox keeps in order.
//! A2  a batch answers itself: whatever it lets wait on a held agent it also lets go.

use crate::op::{At, Command, Op};
use crate::oracle::agent::State;
use crate::oracle::{Fate, Oracle, family_of, template};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// Shared counters of a node.
const SHARED_COUNT: u64 = 3;
const BRANCHES_MAX: usize = 12;

/// The counters that all clients add to.
pub fn shared_keys() -> impl Iterator<Item = String> {
    (0..SHARED_COUNT).map(|number| format!("counter/shared-{number}"))
}

/// What one batch has done to a family so far (A1).
#[derive(Default)]
struct Touched {
    keys: BTreeSet<String>,
    forked: bool,
    terminated: bool,
    described: bool,
    /// A lost branch was asked for something, so none may be made that has its name.
    ghost: bool,
    closed: bool,
}

/// Writes one client's batches.
pub struct Author {
    me: usize,
    rng: Rng,
    /// Whether messages may wait on held agents: not where a short pipeline would stop the RESUME.
    held: bool,
    /// Whether the node has a log.
    log: bool,
    written: u64,
}

struct Batch {
    commands: Vec<Command>,
    touched: BTreeMap<String, Touched>,
    /// Branches that there were, or are lost, when it began.
    branches: Vec<String>,
    /// Branches that are lost when it begins.
    ghosts: BTreeSet<String>,
    /// Agents that were suspended or resumed by it.
    turned: BTreeSet<String>,
    /// Relays, and whether it rolls them back: then their calls must not matter.
    rolled: BTreeMap<String, bool>,
    /// What comes of the batch if every operation is served.
    ahead: Oracle,
}

impl Batch {
    fn push(&mut self, command: Command) {
        let touched = self.touched.entry(family_of(&command.key).to_owned()).or_default();
        touched.keys.insert(command.key.clone());
        self.ahead.tell(0, &command.key, &command.op, Fate::Served(None));
        self.commands.push(command);
    }
}

impl Author {
    /// The author of client `me`.
    pub fn new(me: usize, seed: u64, held: bool, log: bool) -> Author {
        Author { me, rng: Rng::with_seed(seed), held, log, written: 0 }
    }

    /// Random numbers for the client's other choices.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The agents that this client always has at hand.
    pub fn pool(&self) -> Vec<String> {
        let me = self.me;
        let names = |template: &str, count| {
            let template = template.to_owned();
            (0..count).map(move |n| format!("{template}/c{me}-{n}")).collect::<Vec<_>>()
        };
        [names("notebook", 3), names("counter", 2), names("mischief", 1), names("echo", 1)].concat()
    }

    /// The client's relays, and whom each may call.
    pub fn relays(&self) -> Vec<(String, Vec<String>)> {
        let me = self.me;
        let targets = |n| vec![format!("notebook/c{me}-t{n}"), format!("counter/c{me}-t{n}")];
        (0..2).map(|n| (format!("relay/c{me}-{n}"), targets(n))).collect()
    }

    /// The agent that relays call when they may lose the reply: nothing comes of that.
    pub fn echo(&self) -> String {
        format!("echo/c{}-t", self.me)
    }

    /// A message that is too late: its agent is suspended until its deadline has passed.
    pub fn late(&mut self, oracle: &Oracle) -> Vec<Command> {
        let pool = self.pool();
        let key = &pool[self.rng.usize(..pool.len())];
        let active = oracle.agent(key).is_some_and(|agent| agent.state() == State::Active);
        if !self.held || !active {
            return Vec::new();
        }
        let timeout_ms = Some(self.rng.u64(1..5));
        let message = Op::Send { payload: b"late".into(), id: None, timeout_ms };
        [Op::Suspend, message, Op::Resume].map(|op| Command::new(key, op)).into()
    }

    /// The counter that messages which nobody awaits go to.
    pub fn unawaited(&self) -> String {
        format!("counter/c{}-sent", self.me)
    }

    /// The next batch.
    pub fn batch(&mut self, oracle: &Oracle) -> Vec<Command> {
        let count = if self.rng.u8(..8) == 0 { 40 } else { self.rng.usize(1..=10) };
        let known = oracle.keys().chain(oracle.lost()).filter(|key| key.contains('~'));
        let mut batch = Batch {
            ghosts: oracle.lost().filter(|key| key.contains('~')).map(str::to_owned).collect(),
            branches: known.map(str::to_owned).collect(),
            commands: Vec::new(),
            touched: BTreeMap::new(),
            turned: BTreeSet::new(),
            rolled: BTreeMap::new(),
            ahead: oracle.clone(),
        };
        while batch.commands.len() < count {
            self.next(&mut batch);
        }
        self.let_go(&mut batch);
        batch.commands
    }

    /// A2.
    fn let_go(&mut self, batch: &mut Batch) {
        let waits = |(key, _): &(String, usize)| batch.ahead.agent(key).is_some();
        let held: Vec<(String, usize)> = batch
            .ahead
            .keys()
            .map(|key| (key.to_owned(), batch.ahead.agent(key).map_or(0, |a| a.queue_count())))
            .filter(|(_, count)| *count > 0)
            .filter(waits)
            .collect();
        for (key, _) in held {
            batch.push(Command::new(key, Op::Resume));
        }
    }

    fn next(&mut self, batch: &mut Batch) {
        match self.rng.u8(..20) {
            0 => self.raw(batch),
            1 => self.shared(batch),
            2 | 3 => self.relayed(batch),
            _ => self.own(batch),
        }
    }

    fn shared(&mut self, batch: &mut Batch) {
        let key = format!("counter/shared-{}", self.rng.u64(..SHARED_COUNT));
        self.written += 1;
        let id = Some(format!("c{}-{}", self.me, self.written));
        let payload = self.rng.u64(1..100).to_string().into_bytes();
        batch.commands.push(Command::new(key, Op::Send { payload, id, timeout_ms: None }));
    }

    fn own(&mut self, batch: &mut Batch) {
        let key = self.choose_key(batch);
        let touched = batch.touched.entry(family_of(&key).to_owned()).or_default();
        let ghost = batch.ghosts.contains(&key);
        if touched.closed || ghost && touched.forked {
            return;
        }
        touched.ghost |= ghost;
        let alone = touched.keys.iter().all(|other| *other == key);
        let calm = !touched.forked && !touched.terminated && !touched.described;
        let agent = batch.ahead.agent(&key);
        let held = agent.is_some_and(|agent| agent.state() == State::Suspended);
        let held = held || batch.turned.contains(&key);
        let branch = agent.is_some_and(|agent| agent.parent().is_some());
        let branches = batch.ahead.family(family_of(&key)).count();
        let op = match self.rng.u8(..100) {
            0..40 if held && !self.held => return,
            0..40 => self.message(template(&key), batch.ahead.rules().seal_every),
            40..50 if held && !self.held => return,
            40..50 => self.write(),
            50..58 => self.read(),
            58..64 => Op::Checkpoint { label: self.maybe_label() },
            64..70 if touched.ghost || touched.terminated || branches > BRANCHES_MAX => return,
            64..70 => {
                touched.forked = true;
                self.fork(batch.ahead.agent(&key).map(|agent| agent.labels()))
            }
            70..76 => {
                let to = self.rng.bool().then(|| self.version(batch, &key));
                Op::Rollback { to }
            }
            76..79 => Op::Versions,
            79..82 => {
                let from = self.version(batch, &key);
                let to = self.rng.bool().then(|| self.version(batch, &key));
                Op::Diff { from, to }
            }
            82..86 if touched.terminated && !alone => return,
            82..86 => {
                touched.described = true;
                Op::Info
            }
            86..94 if !self.held => {
                // Either may be refused in a full queue; what is sent after it would wait for long.
                batch.turned.insert(key.clone());
                if self.rng.u8(..8) < 3 { Op::Suspend } else { Op::Resume }
            }
            86..89 => Op::Suspend,
            89..94 => Op::Resume,
            94..96 if !alone || touched.forked || touched.described => return,
            94..96 => {
                touched.terminated = true;
                Op::Terminate
            }
            96 => Op::Create { image_bytes: self.rng.u64(..3) * self.rng.u64(..9_000) },
            _ if !alone || !calm || !(branch || self.rng.u8(..8) == 0) => return,
            _ => {
                touched.closed = true;
                Op::Commit
            }
        };
        batch.push(Command::new(key, op));
    }

    fn choose_key(&mut self, batch: &Batch) -> String {
        let mut keys = self.pool();
        keys.extend(batch.branches.iter().cloned());
        // Few agents get most of it, so that their versions grow; branches come last, and often.
        let (a, b) = (self.rng.usize(..keys.len()), self.rng.usize(..keys.len()));
        let at = if self.rng.u8(..3) == 0 { a.max(b) } else { a.min(b) };
        let key = keys.swap_remove(at);
        if self.rng.u8(..40) == 0 { format!("{key}~none") } else { key }
    }

    fn message(&mut self, template: &str, seal_every: u32) -> Op {
        let payload = match template {
            "notebook" => self.notebook(seal_every),
            "counter" => self.counter(),
            "mischief" => self.mischief(),
            _ => self.bytes(64),
        };
        let id = (self.rng.u8(..6) == 0).then(|| format!("r{}", self.rng.u8(..6)));
        let timeout_ms = match self.rng.u8(..12) {
            0 => Some(86_400_000),
            1 => Some(self.rng.u64(1..5)),
            _ => None,
        };
        Op::Send { payload, id, timeout_ms }
    }

    fn notebook(&mut self, seal_every: u32) -> Vec<u8> {
        let slot = self.rng.u16(..6) * self.rng.u16(..2) * 101;
        let slot = if self.rng.u8(..30) == 0 { 511 } else { slot };
        match self.rng.u8(..20) {
            0..2 => [b"append ".to_vec(), self.bytes(40)].concat(),
            2 => [b"append ".to_vec(), self.bytes(3_000)].concat(),
            3..9 => [format!("set {slot} ").into_bytes(), self.bytes(130)].concat(),
            9..12 => format!("get {slot}").into_bytes(),
            12 => b"read".to_vec(),
            13 => format!("read {} {}", self.rng.u16(..200), self.rng.u16(..500)).into_bytes(),
            14 => b"len".to_vec(),
            // A cut may give an image the pages of an older version back, which only matters where
            // not every change is sealed: see `Memory::same`.
            15 if seal_every == 1 => format!("resize {}", self.length()).into_bytes(),
            15 => b"resize 0".to_vec(),
            16 => format!("resize {}", 2_000_000).into_bytes(),
            17 => b"resize much".to_vec(),
            18 => self.bytes(20),
            _ => format!("set {slot} same").into_bytes(),
        }
    }

    fn counter(&mut self) -> Vec<u8> {
        match self.rng.u8(..12) {
            0 => b"get".to_vec(),
            1 => i64::MAX.to_string().into_bytes(),
            2 => b"0".to_vec(),
            3 => self.bytes(20),
            _ => self.rng.i64(-50..1_000).to_string().into_bytes(),
        }
    }

    fn mischief(&mut self) -> Vec<u8> {
        let nobody = format!("counter/c{}-nobody", self.me);
        match self.rng.u8(..10) {
            0 | 5 | 6 => b"panic".to_vec(),
            1 => b"fail".to_vec(),
            2 => b"huge".to_vec(),
            3 => format!("spray {nobody}").into_bytes(),
            4 => format!("boast {nobody}").into_bytes(),
            _ => format!("mark {}", self.rng.alphabetic()).into_bytes(),
        }
    }

    fn write(&mut self) -> Op {
        let offset = match self.rng.u8(..4) {
            0 => self.length(),
            1 => 0,
            2 => self.rng.u64(..40_000),
            _ => self.rng.u64(..9_000),
        };
        let mut bytes = match self.rng.u8(..16) {
            0 => self.bytes(9_000),
            // Enough for pages in records of their own.
            1 => self.bytes(40_000),
            2 => Vec::new(),
            _ => self.bytes(60),
        };
        // Bytes that are there already do not count as a change unless the page is unshared;
        // these never are.
        if !bytes.is_empty() {
            self.written += 1;
            bytes.extend(format!("{}.{}", self.me, self.written).bytes());
        }
        Op::Write { offset, bytes }
    }

    fn read(&mut self) -> Op {
        match self.rng.u8(..4) {
            0 => Op::Read { offset: self.length(), len: self.rng.u64(..20_000) },
            _ => Op::Read { offset: self.rng.u64(..2_000), len: self.rng.u64(..400) },
        }
    }

    fn fork(&mut self, labels: Option<Vec<String>>) -> Op {
        let at = match self.rng.u8(..3) {
            0 => None,
            1 => Some(At::Id(self.rng.u64(1..8))),
            _ => labels.and_then(|labels| labels.first().cloned()).map(At::Label),
        };
        match self.rng.u8(..4) {
            0 => Op::Fork { count: Some(self.rng.u32(1..4)), suffix: None, at },
            1 => {
                let suffix = ["a", "b", "1"][self.rng.usize(..3)];
                Op::Fork { count: None, suffix: Some(suffix.to_owned()), at }
            }
            _ => Op::Fork { count: None, suffix: None, at },
        }
    }

    fn version(&mut self, batch: &Batch, key: &str) -> At {
        let agent = batch.ahead.agent(key);
        let known = agent.map(|agent| agent.version_ids()).unwrap_or_default();
        let labels = agent.map(|agent| agent.labels()).unwrap_or_default();
        match self.rng.u8(..8) {
            0 => At::Id(self.rng.u64(1..30)),
            1 | 2 if !labels.is_empty() => {
                At::Label(labels[self.rng.usize(..labels.len())].clone())
            }
            3 => At::Label("unknown".to_owned()),
            _ if known.is_empty() => At::Id(1),
            _ => At::Id(known[self.rng.usize(..known.len())]),
        }
    }

    fn maybe_label(&mut self) -> Option<String> {
        let labels = ["x", "y", "z"];
        self.rng.bool().then(|| labels[self.rng.usize(..3)].to_owned())
    }

    /// A length around which pages and levels of the tree begin.
    fn length(&mut self) -> u64 {
        let lengths = [0, 1, 7, 100, 4_095, 4_096, 4_097, 65_535, 65_536, 66_000, 70_000];
        lengths[self.rng.usize(..lengths.len())]
    }

    fn bytes(&mut self, len_max: usize) -> Vec<u8> {
        let len = self.rng.usize(..=len_max);
        (0..len).map(|_| self.rng.u8(..)).collect()
    }

    /// A message through a relay, to its own targets only: nobody else is in their mailboxes.
    fn relayed(&mut self, batch: &mut Batch) {
        let relays = self.relays();
        let (relay, targets) = &relays[self.rng.usize(..relays.len())];
        let target = &targets[self.rng.usize(..targets.len())];
        let me = self.me;
        let chance = self.rng.u8(..4) == 0;
        let rolled = *batch.rolled.entry(relay.clone()).or_insert(chance);
        let choice = if rolled { self.rng.u8(3..8) } else { self.rng.u8(..16) };
        let inner = match choice {
            0 => b"!bad".to_vec(),
            1 => format!("nothing/c{me} hello").into_bytes(),
            2 => format!("counter/c{me}~absent 1").into_bytes(),
            3 => format!("!{} 1", self.unawaited()).into_bytes(),
            // What comes back to the relay queues up behind what was sent to it since.
            4 => format!("{relay} {} {}", self.echo(), self.rng.u64(..)).into_bytes(),
            5..8 => format!("{} {}", self.echo(), self.rng.u64(..)).into_bytes(),
            _ => {
                let message = match template(target) {
                    "counter" => self.counter(),
                    _ => self.notebook(1),
                };
                // The relay's target reads it as text, and so does the oracle.
                let message = String::from_utf8_lossy(&message).into_owned();
                format!("{target} {message}").into_bytes()
            }
        };
        // A retry waits with the first try while that is open, and then has its reply, whatever
        // came of it; only a reply that is always good is the same either way.
        let always_good = inner.starts_with(format!("{} ", self.echo()).as_bytes());
        let id = (always_good && self.rng.bool()).then(|| format!("r{}", self.rng.u8(..3)));
        let op = Op::Send { payload: inner, id, timeout_ms: None };
        batch.push(Command::new(relay.clone(), op));
        if rolled && self.rng.bool() {
            // What the relay awaits then is dropped, if it has not returned yet.
            batch.push(Command::new(relay.clone(), Op::Rollback { to: None }));
        }
    }

    /// A command that is refused, or has nothing to do with agents.
    fn raw(&mut self, batch: &mut Batch) {
        let key = format!("notebook/c{}-0", self.me);
        let raw = |words: &[&str], refused| {
            let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            Command::new("", Op::Raw { words, refused })
        };
        let long = "x".repeat(300);
        let choice = self.rng.u8(..18);
        let command = match if choice == 9 && self.log { 0 } else { choice } {
            0 => raw(&["PING"], None),
            1 => raw(&["ECHO", "hello"], None),
            2 => raw(&["AGENT.SEND", &key], Some("ERR")),
            3 => raw(&["AGENT.NONE", &key], Some("ERR")),
            4 => raw(&["AGENT.SEND", "nokey", "x"], Some("BADKEY")),
            5 => raw(&["AGENT.READ", &format!("notebook/{long}"), "0", "1"], Some("BADKEY")),
            6 => raw(&["AGENT.READ", &key, "-1", "1"], Some("BADVALUE")),
            7 => raw(&["AGENT.READ", &key, "0", "9999999999"], Some("BADVALUE")),
            8 => raw(&["AGENT.ROLLBACK", &key, "TO", "0"], Some("BADVALUE")),
            9 => raw(&["AGENT.SEND", &key, "len", "ACK", "durable"], Some("NOLOG")),
            10 => raw(&["AGENT.FORK", &key, "COUNT", "2", "AS", "x"], Some("ERR")),
            11 => raw(&["AGENT.FORK", &key, "AS", "a~b"], Some("BADVALUE")),
            12 => raw(&["AGENT.HOTTEST", "COUNT", "3"], None),
            13 => raw(&["SHARD.LIST"], None),
            14 => raw(&["TEMPLATE.LIST"], None),
            15 => raw(&["AGENT.LIST", "MATCH", "none*", "COUNT", "5"], None),
            16 => raw(&["AGENT.CREATE", &format!("nothing/c{}", self.me)], Some("NOTEMPLATE")),
            _ => raw(&["AGENT.LIST", "CURSOR", "x"], Some("BADVALUE")),
        };
        batch.commands.push(command);
    }
}
