//! A writer that adds to counters through relays, which call or send across shards.
//!
//! Owns: relays, their targets, what each was told to add.  Not: whole agents (`scribe`).
//! D1  what a relay has answered for a call is on its target's disk, whatever was promised.
//! D2  a request that is asked again under its id counts once, whether it ran before or not.
//! D3  a relay remembers the ids of its tail: it is shorter than the window of ids.
//! D4  once every request is answered and asked again, each counter is their exact sum.

use super::failure::Failure;
use super::link::{Link, cut, shown, words};
use super::{Kill, Tally, Writer};
use crate::node::PATIENCE;
use crate::oracle::answer::code_of;
use fastrand::Rng;
use heronry_net::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Relays that are told.
const RELAY_COUNT: usize = 3;
/// Counters that stay for the whole run.
const OLD_COUNT: usize = 4;
/// Counters that are made anew in each cycle.
const NEW_COUNT: usize = 3;
/// Longest tail of a relay (D3); the window is 256.
const TAIL_MAX: usize = 60;
const AMOUNTS: std::ops::Range<i64> = 1..1 << 40;
/// Pause between two looks at a counter.
const PAUSE: Duration = Duration::from_millis(3);

/// A request to a relay.
#[derive(Clone, Debug)]
struct Asked {
    payload: String,
    id: String,
    target: usize,
    amount: i64,
    /// Whether the answer says that the target has it.
    awaits: bool,
    answered: bool,
}

/// A relay, and what it was asked since its last durable answer.
struct Relay {
    key: String,
    tail: Vec<Asked>,
}

/// A counter.
struct Target {
    key: String,
    /// Sum of what is counted for sure.
    least: i64,
    /// Sum of all that was asked.
    most: i64,
    recent: Vec<String>,
}

/// A writer to relays.
pub struct Desk {
    rng: Rng,
    id_last: u64,
    cycle: u64,
    relays: Vec<Relay>,
    targets: Vec<Target>,
    tally: Tally,
}

impl Desk {
    /// The one desk of a run.
    pub fn new(seed: u64) -> Desk {
        let named = |n| Relay { key: format!("relay/d{n}"), tail: Vec::new() };
        let relays = (0..RELAY_COUNT).map(named).collect();
        let targets = (0..OLD_COUNT).map(|n| Target::new(format!("counter/d{n}"))).collect();
        let (rng, tally) = (Rng::with_seed(seed), Tally::default());
        Desk { rng, id_last: 0, cycle: 0, relays, targets, tally }
    }

    fn next(&mut self) -> Asked {
        self.id_last += 1;
        let id = format!("d-{}", self.id_last);
        let target = self.rng.usize(..self.targets.len());
        let amount = self.rng.i64(AMOUNTS);
        let key = &self.targets[target].key;
        // The inner relay hears from relays only, so that its window of ids is theirs.
        let (payload, awaits) = match self.rng.u8(..8) {
            0..=2 => (format!("{key} {amount}"), true),
            3..=4 => (format!("!{key} {amount}"), false),
            5 => (format!("relay/inner {key} {amount}"), true),
            6 => (format!("!relay/inner {key} {amount}"), false),
            _ => (format!("relay/inner !{key} {amount}"), false),
        };
        Asked { payload, id, target, amount, awaits, answered: false }
    }

    fn work_once(&mut self, link: &mut Link, percent: u8) -> Result<bool, Failure> {
        let asked = self.next();
        let relay = self.rng.usize(..self.relays.len());
        let full = self.relays[relay].tail.len() >= TAIL_MAX;
        let durable = full || self.rng.u8(..100) < percent;
        let key = self.relays[relay].key.clone();
        let target = &mut self.targets[asked.target];
        target.most += asked.amount;
        target.recent.push(format!("{key} {} {} {durable}", asked.id, asked.payload));
        let words = message(&key, &asked, durable);
        self.relays[relay].tail.push(asked);
        let Some(value) = link.ask(&words)? else {
            self.tally.unanswered += 1;
            return Ok(false);
        };
        self.take(relay, self.relays[relay].tail.len() - 1, &words, &value)?;
        if durable {
            self.tally.durable += 1;
            self.all_durable(relay);
        } else {
            self.tally.sealed += 1;
        }
        Ok(true)
    }

    /// Takes in an answer to a request of a relay's tail.
    fn take(
        &mut self,
        relay: usize,
        at: usize,
        words: &[Vec<u8>],
        value: &Value,
    ) -> Result<(), Failure> {
        let asked = &mut self.relays[relay].tail[at];
        let target = &mut self.targets[asked.target];
        let text = value.as_bytes().map(String::from_utf8_lossy).unwrap_or_default();
        let number: Option<i64> = text.parse().ok();
        let range = asked.amount..=target.most;
        let is_good = match number {
            Some(number) => asked.awaits && range.contains(&number),
            None => !asked.awaits && text == "sent",
        };
        if code_of(value).is_some() || !is_good {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            return Err(Failure::Answer {
                key: target.key.clone(),
                request: shown(&words),
                got: cut(&format!("{value:?}")),
                known: format!("{range:?} or \"sent\""),
            });
        }
        // D1: nothing that comes later takes it back.
        if !std::mem::replace(&mut asked.answered, true) && asked.awaits {
            target.least += asked.amount;
        }
        Ok(())
    }

    /// The relay has all of its tail on disk, so all of it comes to be.
    fn all_durable(&mut self, relay: usize) {
        for asked in self.relays[relay].tail.drain(..).filter(|asked| !asked.awaits) {
            self.targets[asked.target].least += asked.amount;
        }
    }

    /// Asks all of the tails again (D2).
    fn ask_again(&mut self, link: &mut Link) -> Result<(), Failure> {
        for relay in 0..self.relays.len() {
            let key = self.relays[relay].key.clone();
            for at in 0..self.relays[relay].tail.len() {
                let words = message(&key, &self.relays[relay].tail[at], true);
                let value = link.insist(&words)?;
                self.tally.retries += 1;
                self.take(relay, at, &words, &value)?;
            }
            self.all_durable(relay);
        }
        Ok(())
    }
}

impl Target {
    fn new(key: String) -> Target {
        Target { key, least: 0, most: 0, recent: Vec::new() }
    }

    fn value(&self, link: &mut Link) -> Result<i64, Failure> {
        let value = link.insist(&words(&["AGENT.READ", &self.key, "0", "8"]))?;
        let bytes = value.as_bytes().and_then(|bytes| bytes.first_chunk());
        Ok(bytes.map_or(0, |bytes| i64::from_le_bytes(*bytes)))
    }

    /// It is `least` at least, now or, where messages are under way, soon; and never above `most`.
    fn check(&self, link: &mut Link, least: i64, soon: bool, when: &str) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            let value = self.value(link)?;
            let why = if value > self.most {
                format!("at most {} were asked for, {when}", self.most)
            } else if value >= least {
                return Ok(());
            } else if !soon || began.elapsed() > PATIENCE {
                format!("at least {least} are sure, {when}")
            } else {
                thread::sleep(PAUSE);
                continue;
            };
            let asked = self.recent.join("; ");
            return Err(Failure::Count { key: self.key.clone(), value, why, asked });
        }
    }
}

impl Writer for Desk {
    fn work(&mut self, socket: &Path, stop: &AtomicBool) -> Result<(), Failure> {
        self.cycle += 1;
        self.targets.truncate(OLD_COUNT);
        let cycle = self.cycle;
        let new = (0..NEW_COUNT).map(|n| Target::new(format!("counter/d{cycle}-{n}")));
        self.targets.extend(new);
        self.targets.iter_mut().for_each(|target| target.recent.clear());
        let mut link = Link::new(socket);
        let percent = [2, 20, 70][self.rng.usize(..3)];
        while !stop.load(Ordering::Relaxed) && self.work_once(&mut link, percent)? {}
        Ok(())
    }

    fn compare(&mut self, socket: &Path, _kill: Kill) -> Result<(), Failure> {
        let mut link = Link::new(socket);
        for target in &self.targets {
            // What was sent and not awaited may still be under way.
            target.check(&mut link, target.least, true, "after the start")?;
        }
        self.ask_again(&mut link)?;
        for target in &self.targets {
            assert_eq!(target.least, target.most, "D4: {} was asked again", target.key);
            target.check(&mut link, target.most, true, "when all was asked again")?;
            self.tally.checks += 1;
        }
        // One that comes twice may come late: it has had the time of all the others.
        for target in &self.targets {
            target.check(&mut link, target.most, false, "a while later")?;
        }
        Ok(())
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}

fn message(key: &str, asked: &Asked, durable: bool) -> Vec<Vec<u8>> {
    let ack = if durable { "durable" } else { "sealed" };
    words(&["AGENT.SEND", key, &asked.payload, "ID", &asked.id, "ACK", ack])
}
