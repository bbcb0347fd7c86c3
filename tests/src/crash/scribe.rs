//! A writer that keeps families of counters and notebooks, and knows each byte of them.
//!
//! Owns: its families, one request at a time, what is tried again after a kill.
//! Not: what may be left of one family (`family`), what is asked (`author`).
//! S1  it has at most one request open, and stops at the first without an answer.
//! S2  a durable answer of a shard stands for all that was asked of that shard before (J2 of the
//!     engine).
//! S3  agents that are listed are those that live.

use super::author::Author;
use super::failure::Failure;
use super::family::{Family, Left};
use super::link::{Link, cut, words};
use super::{Kill, Tally, Writer};
use crate::op::{Command, Op};
use crate::oracle::Oracle;
use crate::oracle::agent::State;
use crate::oracle::answer::code_of;
use heronry_net::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const COUNTERS: u64 = 5;
const NOTEBOOKS: u64 = 6;
/// Percent of requests that ask for a durable answer, one of them for each cycle.
const DURABLE_PERCENTS: [u8; 4] = [0, 1, 20, 80];

/// A writer of families.
pub struct Scribe {
    pattern: String,
    author: Author,
    families: Vec<Family>,
    tally: Tally,
}

impl Scribe {
    /// The scribe of this number.
    pub fn new(number: u64, seed: u64) -> Scribe {
        let named = |template: &str, count| {
            let template = template.to_owned();
            (0..count).map(move |n| Family::new(format!("{template}/w{number}-{n}")))
        };
        let families = named("counter", COUNTERS).chain(named("notebook", NOTEBOOKS)).collect();
        let author = Author::new(format!("w{number}"), seed);
        Scribe { pattern: format!("*/w{number}-*"), author, families, tally: Tally::default() }
    }

    /// Asks once; whether an answer came.
    fn ask(
        &mut self,
        link: &mut Link,
        idx: usize,
        command: Command,
        durable: bool,
    ) -> Result<bool, Failure> {
        let Some(value) = link.ask(&with_ack(&command, durable))? else {
            self.tally.unanswered += 1;
            self.families[idx].left_open(command);
            return Ok(false);
        };
        self.take(idx, command, value, durable)?;
        Ok(true)
    }

    fn take(
        &mut self,
        idx: usize,
        command: Command,
        value: Value,
        durable: bool,
    ) -> Result<(), Failure> {
        let refused = code_of(&value).is_some();
        let by = cut(&format!("{command:?} -> {value:?}"));
        self.families[idx].answered(command, value, durable)?;
        if !durable || refused {
            self.tally.sealed += 1;
            return Ok(());
        }
        self.tally.durable += 1;
        if let Some(shard) = self.families[idx].shard() {
            // S2.
            let beside = self.families.iter_mut().filter(|family| family.shard() == Some(shard));
            beside.for_each(|family| family.all_durable(&by));
        }
        Ok(())
    }

    /// Asks a message once more, under its id, until it is answered as durable.
    fn again(&mut self, link: &mut Link, idx: usize, command: Command) -> Result<(), Failure> {
        let value = link.insist(&with_ack(&command, true))?;
        self.tally.retries += 1;
        self.take(idx, command, value, true)
    }

    /// C3 of the run, for what had no answer and for what had a durable one.
    fn retry(
        &mut self,
        link: &mut Link,
        idx: usize,
        left: Left,
        open: Option<Command>,
    ) -> Result<(), Failure> {
        let family = &self.families[idx];
        let last = family.durable_last().filter(|_| self.author.rng().bool());
        let retries = [open, last.cloned()];
        let now = family.now().clone();
        let held = now.family(family.key()).find(|(_, agent)| agent.state() == State::Suspended);
        if let Some((key, _)) = held {
            let resume = Command::new(key, Op::Resume);
            self.must(link, idx, resume)?;
        }
        for command in retries.into_iter().flatten() {
            self.again(link, idx, command)?;
        }
        if left == Left::Memory && !self.families[idx].is_durable() {
            let command = self.fence(idx);
            self.must(link, idx, command)?;
        }
        Ok(())
    }

    /// Asks what nothing prevents from being answered.
    fn must(&mut self, link: &mut Link, idx: usize, command: Command) -> Result<(), Failure> {
        let request = cut(&format!("{command:?}"));
        match self.ask(link, idx, command, true)? {
            true => Ok(()),
            false => Err(Failure::Silent { request, waited_ms: 0 }),
        }
    }

    /// A change whose answer says that all before it is on disk.
    fn fence(&mut self, idx: usize) -> Command {
        let family = &self.families[idx];
        let now: &Oracle = family.now();
        let key = family.key().to_owned();
        let living = now.family(&key).map(|(key, _)| key.to_owned()).next();
        match living {
            Some(living) => self.author.message(&living),
            None if now.lost().any(|lost| lost == key) => {
                Command::new(key, Op::Create { image_bytes: 0 })
            }
            None => self.author.message(&key),
        }
    }

    /// S3.
    fn check_list(&mut self, link: &mut Link) -> Result<(), Failure> {
        let mut listed = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let page = ["AGENT.LIST", "CURSOR", &cursor, "MATCH", &self.pattern, "COUNT", "100"];
            let value = link.insist(&words(&page))?;
            let parts = value.as_slice().unwrap_or_default();
            let keys = parts.get(1).and_then(Value::as_slice).unwrap_or_default();
            listed.extend(keys.iter().filter_map(Value::as_str).map(str::to_owned));
            match parts.first().and_then(Value::as_str) {
                Some(next) if next != "0" => cursor = next.to_owned(),
                _ => break,
            }
        }
        let living = self.families.iter().flat_map(|family| family.now().keys());
        let living: BTreeSet<String> = living.map(str::to_owned).collect();
        let extra: Vec<String> = listed.difference(&living).cloned().collect();
        let missing: Vec<String> = living.difference(&listed).cloned().collect();
        self.tally.checks += 1;
        match extra.is_empty() && missing.is_empty() {
            true => Ok(()),
            false => Err(Failure::Listed { pattern: self.pattern.clone(), extra, missing }),
        }
    }
}

impl Writer for Scribe {
    fn work(&mut self, socket: &Path, stop: &AtomicBool) -> Result<(), Failure> {
        let mut link = Link::new(socket);
        let percent = DURABLE_PERCENTS[self.author.rng().usize(..DURABLE_PERCENTS.len())];
        while !stop.load(Ordering::Relaxed) {
            let idx = self.author.rng().usize(..self.families.len());
            let family = &self.families[idx];
            let command = self.author.next(family.now(), family.key());
            let durable = self.author.rng().u8(..100) < percent;
            if !self.ask(&mut link, idx, command, durable)? {
                break;
            }
        }
        Ok(())
    }

    fn compare(&mut self, socket: &Path, kill: Kill) -> Result<(), Failure> {
        let mut link = Link::new(socket);
        let mut open = Vec::new();
        // All of them first: an answer to one speaks for all (S2), of what is there now.
        for family in &mut self.families {
            let left = left_of(family, kill);
            open.push((left, family.unanswered().cloned()));
            let found = family.compare(&mut link, left)?;
            self.tally.checks += found.agent_count;
            self.tally.sealed_lost += found.lost_count;
        }
        for (idx, (left, open)) in open.into_iter().enumerate() {
            self.retry(&mut link, idx, left, open)?;
        }
        self.check_list(&mut link)
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}

fn left_of(family: &Family, kill: Kill) -> Left {
    match kill {
        Kill::Stop => Left::Disk,
        Kill::Shard(shard) if family.shard().is_some_and(|of| of != shard as u64) => Left::Memory,
        Kill::Node | Kill::Shard(_) => Left::Promised,
    }
}

fn with_ack(command: &Command, durable: bool) -> Vec<Vec<u8>> {
    let mut words = command.words();
    words.extend([b"ACK".to_vec(), if durable { b"durable".to_vec() } else { b"sealed".to_vec() }]);
    words
}
