//! One agent and its branches: what its writer asked, what was promised, what may be there.
//!
//! Owns: the states that are possible, and finding the one that came true.
//! Not: what an operation does (`oracle`), what is asked (`author`).
//! F1  `tail` is what was asked since the state `floor`, in order; all before it is on disk.
//! F2  only the last request of the tail is without an answer.
//! F3  after a kill a family is as after a beginning of its tail: its agents together, not each as
//!     after one of its own.

use super::failure::Failure;
use super::link::{Link, cut, shown, words};
use crate::op::{Command, Op};
use crate::oracle::agent::Agent;
use crate::oracle::answer::{Answer, code_of};
use crate::oracle::{Fate, Oracle, Rules};
use heronry_net::Value;
use std::collections::{BTreeSet, VecDeque};

/// States before the floor that a failure tells about.
const PAST_MAX: usize = 6;
/// Requests before the floor that a failure tells about.
const HISTORY_MAX: usize = 24;
/// Request ids that an agent remembers where there is a log, whatever fewer the config says.
const LOG_IDS: u32 = 256;
/// Bytes read beyond the longest image that is possible.
const READ_MORE: u64 = 8192;

/// A request and its answer, if it came.
#[derive(Clone)]
struct Asked {
    command: Command,
    reply: Option<Value>,
}

/// A beginning of the tail, by its length, and what the family is after it.
type Beginning = (usize, Oracle);

/// What was seen of an agent.
struct Seen {
    key: String,
    info: Value,
    versions: Value,
    bytes: Value,
}

/// One family.
pub struct Family {
    key: String,
    /// Its shard, once known.
    shard: Option<u64>,
    /// What it may be if nothing is lost; more than one only where no answer has told them apart.
    now: Vec<Oracle>,
    floor: Vec<Oracle>,
    past: VecDeque<Oracle>,
    tail: Vec<Asked>,
    /// The last requests of which the floor has come, and what promised it.
    history: VecDeque<String>,
    /// The last message that is on disk for sure.
    durable_last: Option<Command>,
}

/// What a kill has left of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// All: its shard lives.
    Memory,
    /// All, on disk: its shard was asked to stop.
    Disk,
    /// What was promised, on disk, and maybe more: its shard was killed.
    Promised,
}

/// What a comparison found.
#[derive(Clone, Copy, Default)]
pub struct Found {
    /// Agents compared.
    pub agent_count: u64,
    /// Requests of the tail of which nothing is left.
    pub lost_count: u64,
}

fn rules() -> Rules {
    Rules {
        seal_every: 1,
        history_max: 4,
        checkpoints_max: 64,
        mailbox_max: 1024,
        dedupe_max: LOG_IDS,
        quarantine_failures: 5,
        image_bytes_max: 1 << 30,
        payload_bytes_max: 8 << 20,
        create_on_send: true,
        log: true,
    }
}

impl Family {
    /// A family of which there is nothing yet.
    pub fn new(key: String) -> Family {
        let none = vec![Oracle::new(rules())];
        let (past, tail, history) = (VecDeque::new(), Vec::new(), VecDeque::new());
        let (shard, durable_last) = (None, None);
        Family { key, shard, now: none.clone(), floor: none, past, tail, history, durable_last }
    }

    /// Key of its root.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its shard, once known.
    pub fn shard(&self) -> Option<u64> {
        self.shard
    }

    /// What it is, as far as its writer can know.
    pub fn now(&self) -> &Oracle {
        &self.now[0]
    }

    /// Whether all that was asked of it is on disk.
    pub fn is_durable(&self) -> bool {
        self.tail.is_empty()
    }

    /// The request that a kill left without an answer, if it may be tried again.
    pub fn unanswered(&self) -> Option<&Command> {
        let last = self.tail.last().filter(|asked| asked.reply.is_none())?;
        matches!(last.command.op, Op::Send { id: Some(_), .. }).then_some(&last.command)
    }

    /// The last message that is on disk for sure, to be tried again.
    pub fn durable_last(&self) -> Option<&Command> {
        self.durable_last.as_ref()
    }

    /// Takes in an answer; `durable`: it promises that.
    pub fn answered(
        &mut self,
        command: Command,
        value: Value,
        durable: bool,
    ) -> Result<(), Failure> {
        let next: Vec<Oracle> =
            self.now.iter().filter_map(|now| after(now, &command, Some(&value))).collect();
        if next.is_empty() {
            let words = command.words();
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let known: Vec<String> =
                self.now.iter().map(|now| tell(now.agent(&command.key))).collect();
            return Err(Failure::Answer {
                key: self.key.clone(),
                request: shown(&words),
                got: cut(&format!("{value:?}")),
                known: known.join(" or "),
            });
        }
        self.now = next;
        let promised = durable && code_of(&value).is_none();
        let by = command.key.clone();
        if promised && matches!(command.op, Op::Send { .. }) {
            self.durable_last = Some(command.clone());
        }
        self.tail.push(Asked { command, reply: Some(value) });
        if promised {
            self.all_durable(&by);
        }
        Ok(())
    }

    /// Notes a request that had no answer (F2).
    pub fn left_open(&mut self, command: Command) {
        self.tail.push(Asked { command, reply: None });
    }

    /// All that was asked and answered is on disk: its shard has said so to a request to `by`.
    pub fn all_durable(&mut self, by: &str) {
        if self.tail.is_empty() || self.tail.last().is_some_and(|asked| asked.reply.is_none()) {
            return;
        }
        self.history.extend(self.tail.iter().map(Asked::tell));
        self.history.push_back(format!("on disk, said an answer of {by}"));
        while self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        self.past.extend(self.floor.first().cloned());
        if self.past.len() > PAST_MAX {
            self.past.pop_front();
        }
        self.floor = self.now.clone();
        self.tail.clear();
    }

    /// Looks at what is there.
    pub fn compare(&mut self, link: &mut Link, left: Left) -> Result<Found, Failure> {
        let open = self.tail.last().is_some_and(|asked| asked.reply.is_none());
        let answered_count = self.tail.len() - usize::from(open);
        let least = if left == Left::Promised { 0 } else { answered_count };
        let mut beginnings = self.beginnings();
        let seen = self.look(link, &beginnings)?;
        note_absent(&mut beginnings, &seen);
        let mut fit: Vec<Beginning> = Vec::new();
        for (count, state) in beginnings.iter().filter(|(count, _)| *count >= least) {
            let fits = seen.iter().all(|seen| seen.fits(state));
            // The longest of those that are alike.
            if fits {
                fit.retain(|(_, other)| !other.is_alike(state, &self.key));
                fit.push((*count, state.clone()));
            }
        }
        let Some(longest) = fit.iter().map(|(count, _)| *count).max() else {
            return Err(self.wrong(&beginnings, &seen, least));
        };
        self.note_shard(&seen);
        self.now = fit.into_iter().map(|(_, state)| state).collect();
        if left == Left::Memory {
            // It may be lost with the rest of the tail, if it ran.
            self.tail.truncate(longest);
        } else {
            self.floor = self.now.clone();
            self.history.extend(self.tail.drain(..longest).map(|asked| asked.tell()));
            self.history.push_back(format!("{left:?}: found so, {} lost", self.tail.len()));
            self.tail.clear();
        }
        let lost_count = answered_count.saturating_sub(longest) as u64;
        Ok(Found { agent_count: seen.len() as u64, lost_count })
    }

    /// The states after each beginning of the tail, shortest first.
    fn beginnings(&self) -> Vec<Beginning> {
        let mut states = self.floor.clone();
        let mut beginnings: Vec<Beginning> = states.iter().map(|s| (0, s.clone())).collect();
        for (count, asked) in (1..).zip(&self.tail) {
            let next = |state| after(state, &asked.command, asked.reply.as_ref());
            states = states.iter().filter_map(next).collect();
            beginnings.extend(states.iter().map(|state| (count, state.clone())));
        }
        beginnings
    }

    fn look(&self, link: &mut Link, beginnings: &[Beginning]) -> Result<Vec<Seen>, Failure> {
        let states = || beginnings.iter().map(|(_, state)| state).chain(&self.past);
        let mut keys = BTreeSet::from([self.key.as_str()]);
        keys.extend(states().flat_map(|state| state.family(&self.key).map(|(key, _)| key)));
        keys.extend(states().flat_map(Oracle::lost));
        let mut seen = Vec::new();
        for key in keys {
            let agents = states().filter_map(|state| state.agent(key));
            let len = agents.map(|agent| agent.memory().len() as u64).max().unwrap_or(0);
            let len = (len + READ_MORE).to_string();
            seen.push(Seen {
                key: key.to_owned(),
                info: link.insist(&words(&["AGENT.INFO", key]))?,
                versions: link.insist(&words(&["AGENT.VERSIONS", key]))?,
                bytes: link.insist(&words(&["AGENT.READ", key, "0", &len]))?,
            });
        }
        Ok(seen)
    }

    fn note_shard(&mut self, seen: &[Seen]) {
        let shards = seen.iter().filter_map(|seen| seen.info.field("shard"));
        self.shard = shards.filter_map(Value::as_u64).next().or(self.shard);
    }

    /// How an agent differs from what it would be if all of the tail were there, where its image is
    /// not all of the difference.
    fn apart(&self, beginnings: &[Beginning], seen: &Seen) -> String {
        let last = beginnings.last().and_then(|(_, state)| seen.differs(state));
        match last {
            None | Some((_, Answer::Bytes(_))) => String::new(),
            Some((value, answer)) => format!("\n  seen: {value:?}\n  at last: {answer:?}"),
        }
    }

    fn wrong(&self, beginnings: &[Beginning], seen: &[Seen], least: usize) -> Failure {
        let mut lines = Vec::new();
        for seen in seen {
            let fit: Vec<usize> =
                beginnings.iter().filter(|(_, s)| seen.fits(s)).map(|(count, _)| *count).collect();
            let behind = self.past.iter().rev().position(|state| seen.fits(state));
            let last = beginnings.last().map(|(_, state)| tell(state.agent(&seen.key)));
            let floor = self.floor.first().map(|state| tell(state.agent(&seen.key)));
            lines.push(format!(
                "{} is {}\n  fits after {fit:?} of the tail{}\n  on disk for sure: {}\n  \
                 at last: {}{}",
                seen.key,
                seen.tell(),
                behind.map_or_else(String::new, |n| format!(", and {} promises earlier", n + 1)),
                floor.unwrap_or_default(),
                last.unwrap_or_default(),
                self.apart(beginnings, seen),
            ));
        }
        lines.extend(self.history.iter().map(|line| format!("before: {line}")));
        let tail = (1..).zip(&self.tail);
        lines.extend(tail.map(|(number, asked)| format!("tail {number}: {}", asked.tell())));
        let (key, count) = (self.key.clone(), self.tail.len());
        Failure::State { key, count, first: least, detail: lines.join("\n") }
    }
}

impl Asked {
    fn tell(&self) -> String {
        let words = self.command.words();
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let reply = self.reply.as_ref().map_or("no answer".into(), |reply| format!("{reply:?}"));
        format!("{} -> {}", shown(&words), cut(&reply))
    }
}

/// What a family is after a request that was answered so, or without an answer is served; `None`:
/// it would not be answered so.
fn after(before: &Oracle, command: &Command, reply: Option<&Value>) -> Option<Oracle> {
    let code = reply.and_then(code_of);
    if code == Some("FULL") {
        return Some(before.clone());
    }
    let fate = Fate::Served(reply.filter(|_| code.is_none()).and_then(Value::as_u64));
    let mut after = before.clone();
    after.tell(0, &command.key, &command.op, fate);
    let fits = after.answers().iter().all(|(_, answer)| reply.is_none_or(|reply| answer.is(reply)));
    fits.then_some(after)
}

/// An agent that a shard lost is said to be so until it is made anew or the node ends.
fn note_absent(beginnings: &mut [Beginning], seen: &[Seen]) {
    for seen in seen {
        let code = code_of(&seen.info);
        let lived = |(_, state): &Beginning| {
            state.agent(&seen.key).is_some() || state.lost().any(|key| key == seen.key)
        };
        let known = code != Some("LOST") || beginnings.iter().any(lived);
        if !known || !matches!(code, Some("LOST" | "NOAGENT")) {
            continue;
        }
        for (_, state) in beginnings.iter_mut() {
            if state.agent(&seen.key).is_none() {
                state.forget(&seen.key, code == Some("LOST"));
            }
        }
    }
}

impl Seen {
    /// Whether an agent of this state is seen so.
    fn fits(&self, state: &Oracle) -> bool {
        self.differs(state).is_none()
    }

    /// The first of what was seen that an agent of this state does not show, and what it shows.
    fn differs(&self, state: &Oracle) -> Option<(&Value, Answer)> {
        let mut state = state.clone();
        let ops = [Op::Info, Op::Versions, Op::Read { offset: 0, len: u64::from(u32::MAX) }];
        ops.into_iter().zip([&self.info, &self.versions, &self.bytes]).find_map(|(op, value)| {
            state.tell(0, &self.key, &op, Fate::Served(None));
            let answers = state.answers().into_iter().map(|(_, answer)| any_pages(answer));
            answers.into_iter().find(|answer| !answer.is(value)).map(|answer| (value, answer))
        })
    }

    fn tell(&self) -> String {
        if let Some(code) = code_of(&self.info) {
            return code.to_owned();
        }
        let field = |name| self.info.field(name);
        let rows = self.versions.as_slice().unwrap_or_default();
        let rows = rows.iter().map(|row| {
            let label = row.field("label").and_then(Value::as_str);
            let id = row.field("version").and_then(Value::as_u64).unwrap_or(0);
            label.map_or_else(|| id.to_string(), |label| format!("{id}@{label}"))
        });
        let head = field("version").and_then(Value::as_u64);
        let state = field("state").and_then(Value::as_str).unwrap_or("");
        let bytes = self.bytes.as_bytes().unwrap_or_default();
        let versions = rows.collect::<Vec<_>>().join(" ");
        let branches = field("branch_count").and_then(Value::as_u64);
        format!("{state} at {head:?} of [{versions}] {branches:?} branches, {}", digest(bytes))
    }
}

/// An image from the log may have a page of zeros where it had none.
fn any_pages(mut answer: Answer) -> Answer {
    if let Answer::Info(about) = &mut answer
        && about.page_bytes_max > 0
    {
        about.page_bytes_max = u64::MAX;
    }
    answer
}

fn tell(agent: Option<&Agent>) -> String {
    let Some(agent) = agent else { return "absent".to_owned() };
    format!(
        "{:?} at {} of {:?} labels {:?} parent {:?}, {}",
        agent.state(),
        agent.head(),
        agent.version_ids(),
        agent.labels(),
        agent.parent(),
        digest(agent.memory().bytes())
    )
}

/// An image for people: its length, its first number, a hash.
fn digest(bytes: &[u8]) -> String {
    let first = bytes.first_chunk().map(|first| i64::from_le_bytes(*first));
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold);
    format!("{} bytes, first number {first:?}, hash {hash:016x}", bytes.len())
}
