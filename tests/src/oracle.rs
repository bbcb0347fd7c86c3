//! The oracle: what every reply must be, from a map of agents that live nowhere else.
//!
//! Owns: the verbs' meaning, in the plainest way: one operation after the other, at once.
//! Not: shards, queues, delays.  What a reply alone can tell (a full queue, a full arena) comes in
//! as the operation's [`Fate`].
//! O1  operations on one agent are told in the order in which their client sent them.

pub mod agent;
pub mod answer;
mod behaviour;
pub mod memory;

use crate::op::{At, Op};
use agent::{Agent, Queued, State};
use answer::Answer;
use memory::Memory;
use std::collections::{BTreeMap, BTreeSet};

/// Settings that decide what is right.
#[derive(Clone, Debug)]
pub struct Rules {
    /// As `PartitionConfig` has it.
    pub seal_every: u32,
    /// As `PartitionConfig` has it.
    pub history_max: u32,
    /// As `PartitionConfig` has it.
    pub checkpoints_max: u32,
    /// As `PartitionConfig` has it.
    pub mailbox_max: u32,
    /// As `PartitionConfig` has it.
    pub dedupe_max: u32,
    /// As `PartitionConfig` has it; the window is longer than any run.
    pub quarantine_failures: u32,
    /// As `PartitionConfig` has it.
    pub image_bytes_max: u64,
    /// As `PartitionConfig` has it.
    pub payload_bytes_max: u64,
    /// As `PartitionConfig` has it.
    pub create_on_send: bool,
    /// Whether agents outlive their shard; what only counts turns may then be older.
    pub log: bool,
}

/// What became of an operation, as far as only its reply could tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It was served. The number that it replied, if it did.
    Served(Option<u64>),
    /// Refused before anything happened, with this code.
    Turned(&'static str),
    /// Its turn found the arena full.
    Full,
}

/// All agents of one client, by key.
#[derive(Clone, Debug)]
pub struct Oracle {
    rules: Rules,
    agents: BTreeMap<String, Agent>,
    lost: BTreeSet<String>,
    root_last: u64,
    answers: Vec<(usize, Answer)>,
}

/// The ticket of an operation whose answer reaches nobody.
const NOBODY: usize = usize::MAX;
const ABSENT: Answer = Answer::Refused("NOAGENT");

impl Oracle {
    /// No agents.
    pub fn new(rules: Rules) -> Oracle {
        let (agents, lost) = (BTreeMap::new(), BTreeSet::new());
        Oracle { rules, agents, lost, root_last: 0, answers: Vec::new() }
    }

    /// The settings.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// An agent, if it lives.
    pub fn agent(&self, key: &str) -> Option<&Agent> {
        self.agents.get(key)
    }

    /// Keys of the living.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(String::as_str)
    }

    /// Keys of the lost.
    pub fn lost(&self) -> impl Iterator<Item = &str> {
        self.lost.iter().map(String::as_str)
    }

    /// Agents whose key begins with `family`, itself or its branches.
    pub fn family<'o>(&'o self, family: &'o str) -> impl Iterator<Item = (&'o str, &'o Agent)> {
        let agents = self.agents.iter().filter(move |(key, _)| family_of(key) == family);
        agents.map(|(key, agent)| (key.as_str(), agent))
    }

    /// The shard of a family died: its agents are lost.
    pub fn lose(&mut self, family: &str) {
        let keys: Vec<String> = self.family(family).map(|(key, _)| key.to_owned()).collect();
        for key in keys {
            self.agents.remove(&key);
            self.lost.insert(key);
        }
    }

    /// Forgets that an agent is or was; what it is now was found out otherwise.
    pub fn forget(&mut self, key: &str, lost: bool) {
        self.agents.remove(key);
        self.lost.remove(key);
        if lost {
            self.lost.insert(key.to_owned());
        }
    }

    /// Tickets of operations on a family that wait.
    pub fn waiting(&self, family: &str) -> Vec<usize> {
        let queues = self.family(family).flat_map(|(_, agent)| &agent.queue);
        queues.map(|queued| queued.ticket).collect()
    }

    /// Whether all that comes later of a family is the same here and there.
    pub fn is_alike(&self, other: &Oracle, family: &str) -> bool {
        let (own, others) = (self.family(family), other.family(family));
        own.map(|(key, agent)| (key, agent.hidden()))
            .eq(others.map(|(key, agent)| (key, agent.hidden())))
    }

    /// Takes over what another oracle says of a family. Nobody hears of what waits there any more.
    pub fn adopt(&mut self, family: &str, other: &Oracle) {
        self.agents.retain(|key, _| family_of(key) != family);
        self.lost.retain(|key| family_of(key) != family);
        self.lost.extend(other.lost.iter().filter(|key| family_of(key) == family).cloned());
        let adopted = other.agents.iter().filter(|(key, _)| family_of(key) == family);
        self.agents.extend(adopted.map(|(key, agent)| (key.clone(), agent.clone())));
        for (key, agent) in &mut self.agents {
            if family_of(key) == family {
                agent.queue.iter_mut().for_each(|queued| queued.ticket = NOBODY);
            }
        }
        self.root_last = self.root_last.max(other.root_last);
    }

    /// Tells an operation (O1). Its answer, and those of operations that waited for it, are to be
    /// had from [`Oracle::answers`] under their tickets.
    pub fn tell(&mut self, ticket: usize, key: &str, op: &Op, fate: Fate) {
        if let Some(answer) = self.admit(ticket, key, op, fate) {
            self.answers.push((ticket, answer));
        }
    }

    /// Answers since the last call, with their tickets.
    pub fn answers(&mut self) -> Vec<(usize, Answer)> {
        let mut answers = std::mem::take(&mut self.answers);
        answers.retain(|(ticket, _)| *ticket != NOBODY);
        answers
    }

    /// `None`: it waits.
    fn admit(&mut self, ticket: usize, key: &str, op: &Op, fate: Fate) -> Option<Answer> {
        if let Op::Raw { refused, .. } = op {
            let answer = refused.map_or(Answer::Good, Answer::Refused);
            return Some(if let Fate::Turned(code) = fate {
                Answer::Refused(code)
            } else {
                answer
            });
        }
        if let Some(refused) = self.check(op) {
            return Some(refused);
        }
        let held = self.agents.get(key).map(|agent| (agent.state, agent.queue.len()));
        let full = self.rules.mailbox_max as usize;
        match (held, fate) {
            (Some((State::Suspended, count)), _) if op.runs_turn() && count >= full => {
                return Some(Answer::Refused("BUSY"));
            }
            (Some((State::Quarantined, _)), Fate::Served(_)) if op.runs_turn() => {
                return Some(Answer::Refused("QUARANTINED"));
            }
            // A deadline is looked at when its turn comes; all else is refused at the door.
            (
                Some((State::Suspended, _)),
                Fate::Served(_) | Fate::Full | Fate::Turned("TIMEOUT"),
            ) if op.runs_turn() => {
                let queued = Queued { ticket, op: op.clone(), fate };
                self.agent_mut(key).queue.push_back(queued);
                return None;
            }
            (Some(_), Fate::Turned("DROPPED")) => {
                // It was open for a while, and had a place among the ids.
                let ids_max = self.rules.dedupe_max as usize;
                if matches!(op, Op::Send { id: Some(_), .. }) {
                    self.agent_mut(key).make_room(ids_max.saturating_sub(1));
                }
                return Some(Answer::Refused("DROPPED"));
            }
            (_, Fate::Turned(code)) => return Some(Answer::Refused(code)),
            (None, _) => {
                if let Some(answer) = self.admit_absent(key, op) {
                    return Some(answer);
                }
            }
            _ => {}
        }
        Some(self.serve(key, op, fate))
    }

    /// What can be known of an operation without its agent.
    fn check(&self, op: &Op) -> Option<Answer> {
        let image_bytes_max = self.rules.image_bytes_max;
        let too_long = match op {
            Op::Create { image_bytes } => *image_bytes > image_bytes_max,
            Op::Write { offset, bytes } => offset + bytes.len() as u64 > image_bytes_max,
            _ => false,
        };
        too_long.then_some(Answer::Refused("LIMIT"))
    }

    /// `None`: the agent lives now.
    fn admit_absent(&mut self, key: &str, op: &Op) -> Option<Answer> {
        let branch = key.contains('~');
        let known = ["notebook", "counter", "echo", "relay", "mischief"].contains(&template(key));
        match op {
            Op::Create { .. } | Op::Send { .. } if branch => Some(ABSENT),
            Op::Create { .. } if !known => Some(Answer::Refused("NOTEMPLATE")),
            Op::Create { image_bytes } => {
                self.create(key, *image_bytes as usize);
                Some(Answer::Number(1))
            }
            _ if self.lost.contains(key) => Some(Answer::Refused("LOST")),
            Op::Send { .. } if self.rules.create_on_send && !known => {
                Some(Answer::Refused("NOTEMPLATE"))
            }
            Op::Send { .. } if self.rules.create_on_send => {
                self.create(key, 0);
                None
            }
            _ => Some(ABSENT),
        }
    }

    fn create(&mut self, key: &str, image_bytes: usize) {
        self.agents.insert(key.to_owned(), Agent::new(Memory::zeros(image_bytes), None));
        self.lost.remove(key);
    }

    fn agent_mut(&mut self, key: &str) -> &mut Agent {
        self.agents.get_mut(key).expect("the agent was found before")
    }

    fn serve(&mut self, key: &str, op: &Op, fate: Fate) -> Answer {
        let rules = self.rules.clone();
        let agent = self.agents.get_mut(key).expect("the agent was found before");
        match op {
            Op::Create { .. } => Answer::Refused("EXISTS"),
            Op::Send { payload, id, .. } => self.message(key, payload, id.as_deref(), fate),
            Op::Write { offset, bytes } => {
                agent.turn_count += 1;
                if fate == Fate::Full {
                    return Answer::Refused("FULL");
                }
                let before = agent.memory.clone();
                self.root_last += 1;
                agent.memory.write(*offset, bytes, self.root_last);
                agent.seal_by_policy(&rules, !agent.memory.same(&before));
                Answer::Number(agent.head)
            }
            Op::Read { offset, len } => Answer::Bytes(agent.memory.read(*offset, *len).to_vec()),
            Op::Checkpoint { label } => agent.checkpoint(&rules, label.as_deref()),
            Op::Fork { count, suffix, at } => {
                self.fork(key, count.unwrap_or(1), suffix.as_deref(), at.as_ref())
            }
            Op::Rollback { to } => agent.rollback(to.as_ref()),
            Op::Versions => Answer::Versions(agent.rows()),
            Op::Diff { from, to } => agent.diff(from, to.as_ref()),
            Op::Info => self.info(key),
            Op::Commit => self.commit(key, fate),
            Op::Suspend if agent.state == State::Quarantined => Answer::Refused("WRONGSTATE"),
            Op::Suspend => {
                agent.state = State::Suspended;
                Answer::Done
            }
            Op::Resume => {
                if agent.state != State::Active {
                    agent.state = State::Active;
                    agent.recent_failures = 0;
                    self.drain(key);
                }
                Answer::Done
            }
            Op::Terminate => {
                self.end(key);
                Answer::Done
            }
            Op::Raw { .. } => unreachable!("it has no agent"),
        }
    }

    /// Serves what waited.
    fn drain(&mut self, key: &str) {
        let queue = std::mem::take(&mut self.agent_mut(key).queue);
        self.tell_again(key, queue);
    }

    fn tell_again(&mut self, key: &str, queue: impl IntoIterator<Item = Queued>) {
        for Queued { ticket, op, fate } in queue {
            self.tell(ticket, key, &op, fate);
        }
    }

    fn message(&mut self, key: &str, payload: &[u8], id: Option<&str>, fate: Fate) -> Answer {
        let rules = self.rules.clone();
        let id = id.filter(|_| rules.dedupe_max > 0);
        let agent = self.agent_mut(key);
        if let Some(first) = id.and_then(|id| agent.first_reply(id)) {
            return first;
        }
        agent.turn_count += 1;
        if fate == Fate::Full && template(key) != "relay" {
            agent.failure_count += 1;
            return Answer::Refused("FULL");
        }
        let answer = match template(key) {
            "relay" => self.relay(key, payload, fate),
            _ => self.turn(key, payload),
        };
        if let (Some(id), false) = (id, matches!(answer, Answer::Refused(_))) {
            self.agent_mut(key).remember(id, &answer, &rules);
        }
        answer
    }

    fn turn(&mut self, key: &str, payload: &[u8]) -> Answer {
        self.root_last += 1;
        let Oracle { rules, agents, root_last, .. } = self;
        let agent = agents.get_mut(key).expect("the agent was found before");
        let mut memory = agent.memory.clone();
        let replied = behaviour::handle(template(key), rules, &mut memory, payload, *root_last);
        if replied.is_ok() {
            let changed = !memory.same(&agent.memory);
            agent.memory = memory;
            agent.seal_by_policy(rules, changed);
        } else {
            self.fail(key, replied == Err(behaviour::PANIC));
        }
        behaviour::answer(replied)
    }

    fn fail(&mut self, key: &str, panicked: bool) {
        let failures = self.rules.quarantine_failures;
        let agent = self.agent_mut(key);
        agent.failure_count += 1;
        agent.recent_failures += u32::from(panicked);
        if failures > 0 && agent.recent_failures >= failures {
            agent.state = State::Quarantined;
        }
    }

    /// A relay has no image; its call is as if its client had sent the message.
    fn relay(&mut self, key: &str, payload: &[u8], fate: Fate) -> Answer {
        let text = String::from_utf8_lossy(payload).into_owned();
        let (to, message) = text.split_once(' ').unwrap_or((&text, ""));
        let only_sends = to.starts_with('!');
        let to = to.trim_start_matches('!');
        if !is_key(to) {
            self.fail(key, false);
            return Answer::Refused("FAULT");
        }
        if only_sends {
            // Whether it gets there is for a count at the end to tell.
            return Answer::Bytes(b"sent".to_vec());
        }
        let called = self.admit(NOBODY, to, &Op::send(message), fate);
        called.expect("workloads let no relay call a suspended agent")
    }

    fn fork(&mut self, key: &str, count: u32, suffix: Option<&str>, at: Option<&At>) -> Answer {
        let rules = self.rules.clone();
        let agent = &self.agents[key];
        let found = at.map(|at| agent.find(at));
        if found == Some(None) {
            return Answer::Refused("NOVERSION");
        }
        let mut keys = Vec::new();
        let mut number = agent.suffix_last;
        match suffix {
            Some(suffix) => {
                let branch = format!("{key}~{suffix}");
                if self.agents.contains_key(&branch) {
                    return Answer::Refused("EXISTS");
                }
                keys.push(branch);
            }
            None => {
                while keys.len() < count as usize {
                    number += 1;
                    let branch = format!("{key}~{number}");
                    if !self.agents.contains_key(&branch) {
                        keys.push(branch);
                    }
                }
            }
        }
        let agent = self.agent_mut(key);
        agent.suffix_last = number;
        let at = found.flatten().unwrap_or_else(|| {
            agent.seal(&rules);
            agent.head
        });
        let memory = agent.versions[&at].memory.clone();
        for branch in &keys {
            self.agents.insert(branch.clone(), Agent::new(memory.clone(), Some(key.to_owned())));
            self.lost.remove(branch);
        }
        Answer::Keys(keys)
    }

    fn commit(&mut self, key: &str, fate: Fate) -> Answer {
        let rules = self.rules.clone();
        let branch = self.agent_mut(key);
        let Some(parent) = branch.parent.clone() else { return Answer::Refused("WRONGSTATE") };
        let memory = branch.memory.clone();
        let handed = std::mem::take(&mut branch.queue);
        let agent = self.agent_mut(&parent);
        agent.memory = memory;
        // The same bytes after a cut: only the engine knows whether the pages are the same too.
        let head = &agent.versions[&agent.head].memory;
        if fate == Fate::Served(Some(agent.head)) && head.looks_like(&agent.memory) {
            agent.memory = head.clone();
        }
        agent.seal(&rules);
        let answer = Answer::Number(agent.head);
        agent.queue.extend(handed);
        self.end(key);
        let siblings = self.agents.iter().filter(|(_, a)| a.parent.as_ref() == Some(&parent));
        let siblings: Vec<String> = siblings.map(|(key, _)| key.clone()).collect();
        siblings.iter().for_each(|sibling| self.end(sibling));
        if self.agents[&parent].state != State::Suspended {
            self.drain(&parent);
        }
        answer
    }

    /// What waited comes back as if sent just after.
    fn end(&mut self, key: &str) {
        let Some(ended) = self.agents.remove(key) else { return };
        for agent in self.agents.values_mut() {
            if agent.parent.as_deref() == Some(key) {
                agent.parent = None;
            }
        }
        self.tell_again(key, ended.queue);
    }

    fn info(&self, key: &str) -> Answer {
        let agent = &self.agents[key];
        let branches = self.agents.values().filter(|a| a.parent.as_deref() == Some(key)).count();
        let state = match agent.state {
            State::Active => "active",
            State::Suspended => "suspended",
            State::Quarantined => "quarantined",
        };
        let mut numbers = vec![
            ("version", agent.head),
            ("version_count", agent.versions.len() as u64),
            ("image_bytes", agent.memory.len() as u64),
            ("branch_count", branches as u64),
        ];
        if !self.rules.log {
            numbers.push(("failure_count", agent.failure_count));
        }
        // A relay's turns are more than its messages, and it may drop calls that take turns.
        if !self.rules.log && !["relay", "echo"].contains(&template(key)) {
            numbers.push(("turn_count", agent.turn_count));
        }
        Answer::Info(Box::new(answer::About {
            texts: vec![
                ("key", Some(key.to_owned())),
                ("state", Some(state.to_owned())),
                ("parent", agent.parent.clone()),
            ],
            numbers,
            // What was sent after it may be there already.
            waiting_count_min: agent.queue.len() as u64,
            page_bytes_min: u64::from(!self.rules.log && agent.memory.page_count() > 0),
            page_bytes_max: agent.memory.page_count() as u64 * 4096,
        }))
    }
}

/// What comes before the first `/`.
pub fn template(key: &str) -> &str {
    key.split_once('/').map_or(key, |(template, _)| template)
}

/// What comes before the first `~`.
pub fn family_of(key: &str) -> &str {
    key.split_once('~').map_or(key, |(family, _)| family)
}

fn is_key(text: &str) -> bool {
    text.parse::<heronry_engine::AgentKey>().is_ok()
}
