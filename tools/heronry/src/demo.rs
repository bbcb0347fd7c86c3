//! `heronry up --demo`: 850 live agents driven through real steps, forked and rolled back.
//!
//! Owns: the steps of the demo, what each must answer, and the table at its end. It is a client
//! like any other: what it knows of the node comes over the wire, and its memory from the kernel.
//! Not: benchmarks; one connection asks one thing at a time, so each latency is a round trip.
//! M1  every reply is compared with what the agent's own history makes of it, so a step that an
//!     agent lost, or that another's rollback took away, fails the demo.

use crate::cli::Global;
use crate::link::{Link, Words};
use crate::output::{Output, table};
use crate::template::DEPLOY_WAIT_MAX;
use anyhow::{Context, Result, bail, ensure};
use heronry_net::resp::Value;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Agents that the demo makes; each is forked once.
const AGENT_COUNT: usize = 850;
/// Messages to each agent before its checkpoint.
const STEPS: usize = 20;
/// Label of the checkpoint.
const LABEL: &str = "planned";
/// The agents' file.
const TRIP: &str = include_str!("../../guests/examples/trip.py");

/// Which agents are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cast {
    /// `trip.py`: reads offers with a regular expression, keeps the cheapest of each city.
    Python,
    /// `notebook`, where no interpreter was built: appends a line.
    Native,
}

/// One agent or branch, and the messages that its memory holds.
#[derive(Clone)]
struct Actor {
    key: String,
    history: Vec<String>,
}

/// One kind of operation and how long each took.
struct Lap {
    name: &'static str,
    nanos: Vec<u64>,
}

/// Memory of all shard processes at one time, in bytes, and the interpreters that live in them.
struct Memory {
    when: &'static str,
    resident: u64,
    unique: u64,
    live: usize,
}

/// The demo's connection and its clock.
struct Demo {
    link: Link,
    cast: Cast,
    laps: Vec<Lap>,
    memory: Vec<Memory>,
}

/// Runs the demo on the node that `global` names and prints its table.
pub fn run(global: &Global, output: Output) -> Result<()> {
    let mut link = Link::open_for(global, DEPLOY_WAIT_MAX)?;
    let cast = Cast::choose(&mut link, output)?;
    let mut demo = Demo { link, cast, laps: Vec::new(), memory: Vec::new() };
    demo.clear()?;
    demo.note_memory("before the first agent")?;
    let started = Instant::now();
    let mut agents = demo.create_and_drive()?;
    demo.note_memory("850 agents after 20 steps")?;
    let mut branches = demo.branch(&mut agents)?;
    demo.note_memory("with 850 branches")?;
    demo.roll_back(&mut agents, &mut branches)?;
    for actor in branches.iter().chain(&agents) {
        demo.timed("terminate", &Words::new("AGENT.TERMINATE").arg(&actor.key))?;
    }
    let elapsed = started.elapsed();
    if output.json {
        return Ok(output.json(&demo.json(elapsed))?);
    }
    Ok(output.text(&demo.text(elapsed))?)
}

impl Cast {
    /// Python where the node has its interpreter, and says so where not.
    fn choose(link: &mut Link, output: Output) -> Result<Cast> {
        let templates = link.ask(&Words::new("TEMPLATE.LIST"))?;
        let rows = templates.as_slice().context("TEMPLATE.LIST gave no list")?;
        let named = |row: &Value| row.field("name").and_then(Value::as_str) == Some("python");
        if !rows.iter().any(named) {
            output.note(
                "no Python interpreter here: the demo shows native agents. tools/guests/build \
                 makes one in some minutes",
            );
            return Ok(Cast::Native);
        }
        let deploy = Words::new("TEMPLATE.DEPLOY").arg("trip").option("LANGUAGE", Some("python"));
        link.ask(&deploy.option("SOURCE", Some(TRIP)))?;
        Ok(Cast::Python)
    }

    fn key(self, agent: usize) -> String {
        match self {
            Cast::Python => format!("trip/demo-{agent:03}"),
            Cast::Native => format!("notebook/demo-{agent:03}"),
        }
    }

    /// The message of step `nth`, different for every agent.
    fn message(self, agent: usize, nth: usize) -> String {
        let city = ["Berlin", "Lisbon", "Oslo", "Prague", "Rome", "Turin", "Vienna"][nth % 7];
        let way = ["train", "plane", "bus"][(agent + nth) % 3];
        let price = 20 + (agent * 31 + nth * 17) % 400;
        match self {
            Cast::Python => format!("{city} by {way} for {price}"),
            Cast::Native => format!("append {city} by {way} for {price};"),
        }
    }

    /// What an agent answers to the last message of its history (M1).
    fn answer(self, history: &[String]) -> String {
        if self == Cast::Native {
            let text = |message: &String| message.len() - "append ".len();
            return history.iter().map(text).sum::<usize>().to_string();
        }
        let mut best = BTreeMap::new();
        for message in history {
            let city = message.split(' ').next().unwrap_or_default();
            let price = message.rsplit(' ').next().and_then(|price| price.parse().ok());
            let cheapest = best.entry(city).or_insert(u64::MAX);
            *cheapest = price.unwrap_or(u64::MAX).min(*cheapest);
        }
        format!("{} cities for {}", best.len(), best.values().sum::<u64>())
    }
}

impl Demo {
    /// Ends what a demo that was cut off has left in the data folder.
    fn clear(&mut self) -> Result<()> {
        let of_demo = format!("{}*", self.cast.key(0).trim_end_matches(|c: char| c.is_numeric()));
        let mut cursor = "0".to_owned();
        loop {
            let list = Words::new("AGENT.LIST").option("CURSOR", Some(&cursor));
            let reply = self.link.ask(&list.option("MATCH", Some(&of_demo)))?;
            let Some([next, keys]) = reply.as_slice() else { bail!("AGENT.LIST gave no keys") };
            for key in keys.as_slice().unwrap_or_default().iter().filter_map(Value::as_str) {
                self.link.ask(&Words::new("AGENT.TERMINATE").arg(key))?;
            }
            cursor = next.as_str().context("AGENT.LIST gave no cursor")?.to_owned();
            if cursor == "0" {
                return Ok(());
            }
        }
    }

    fn create_and_drive(&mut self) -> Result<Vec<Actor>> {
        let actor = |n| Actor { key: self.cast.key(n), history: Vec::new() };
        let mut agents: Vec<Actor> = (0..AGENT_COUNT).map(actor).collect();
        for (n, agent) in agents.iter_mut().enumerate() {
            self.step("create and first step", agent, n, 0)?;
        }
        for nth in 1..STEPS {
            for (n, agent) in agents.iter_mut().enumerate() {
                self.step("step", agent, n, nth)?;
            }
        }
        for agent in &agents {
            let words = Words::new("AGENT.CHECKPOINT").arg(&agent.key);
            self.timed("checkpoint", &words.option("LABEL", Some(LABEL)))?;
        }
        Ok(agents)
    }

    /// Forks each agent, lets the branch and the parent go different ways.
    fn branch(&mut self, agents: &mut [Actor]) -> Result<Vec<Actor>> {
        let mut branches = Vec::new();
        for agent in agents.iter() {
            let reply = self.timed("fork", &Words::new("AGENT.FORK").arg(&agent.key))?;
            let first = reply.as_slice().and_then(<[Value]>::first).and_then(Value::as_str);
            let key = first.context("FORK gave no key")?.to_owned();
            branches.push(Actor { key, history: agent.history.clone() });
        }
        for (n, branch) in branches.iter_mut().enumerate() {
            self.step("first step of a branch", branch, n, STEPS)?;
        }
        for (n, agent) in agents.iter_mut().enumerate() {
            self.step("step", agent, n, STEPS + 1)?;
        }
        Ok(branches)
    }

    /// Rolls agents back to their checkpoint; the branches must not notice.
    fn roll_back(&mut self, agents: &mut [Actor], branches: &mut [Actor]) -> Result<()> {
        for agent in agents.iter_mut() {
            let words = Words::new("AGENT.ROLLBACK").arg(&agent.key);
            self.timed("rollback", &words.option("TO", Some(format!("@{LABEL}"))))?;
            agent.history.truncate(STEPS);
        }
        for (n, agent) in agents.iter_mut().enumerate() {
            self.step("first step after a rollback", agent, n, STEPS + 2)?;
        }
        for (n, branch) in branches.iter_mut().enumerate() {
            self.step("step", branch, n, STEPS + 3)?;
        }
        Ok(())
    }

    /// One message and its answer (M1).
    fn step(&mut self, lap: &'static str, actor: &mut Actor, n: usize, nth: usize) -> Result<()> {
        let message = self.cast.message(n, nth);
        let reply = self.timed(lap, &Words::new("AGENT.SEND").arg(&actor.key).arg(&message))?;
        actor.history.push(message);
        let (found, expected) =
            (reply.as_str().unwrap_or_default(), self.cast.answer(&actor.history));
        ensure!(found == expected, "M1: {} says {found:?}, expected {expected:?}", actor.key);
        Ok(())
    }

    fn timed(&mut self, name: &'static str, words: &Words) -> Result<Value> {
        let started = Instant::now();
        let reply = self.link.ask(words)?;
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        match self.laps.iter_mut().find(|lap| lap.name == name) {
            Some(lap) => lap.nanos.push(nanos),
            None => self.laps.push(Lap { name, nanos: vec![nanos] }),
        }
        Ok(reply)
    }

    /// What the kernel says of the shards' processes, each counted once.
    fn note_memory(&mut self, when: &'static str) -> Result<()> {
        let reply = self.link.ask(&Words::new("SHARD.LIST"))?;
        let rows = reply.as_slice().context("SHARD.LIST gave no list")?;
        let pid = |row: &Value| row.field("pid").and_then(Value::as_u64);
        let pids: BTreeSet<u64> = rows.iter().filter_map(pid).collect();
        let mut memory = Memory { when, resident: 0, unique: 0, live: 0 };
        for pid in pids {
            let read = |name: &str| {
                let path = format!("/proc/{pid}/{name}");
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
            };
            let rollup = read("smaps_rollup")?;
            memory.resident += kibibytes(&rollup, "Rss:") << 10;
            memory.unique += kibibytes(&rollup, "Private_") << 10;
            memory.live += read("maps")?.lines().filter(|line| is_live(line)).count();
        }
        self.memory.push(memory);
        Ok(())
    }

    fn text(&mut self, elapsed: Duration) -> String {
        let head = ["operation", "count", "p50 us", "p99 us", "longest us"].map(str::to_owned);
        let row = |lap: &mut Lap| {
            let times = [0.5, 0.99, 1.0].map(|q| format!("{:.1}", lap.us(q)));
            [vec![lap.name.to_owned(), lap.nanos.len().to_string()], times.to_vec()].concat()
        };
        let rows: Vec<Vec<String>> = self.laps.iter_mut().map(row).collect();
        let total: usize = self.laps.iter().map(|lap| lap.nanos.len()).sum();
        let memory_head = ["memory of all shards", "interpreters", "resident", "unique", "shared"];
        let memory: Vec<Vec<String>> = self.memory.iter().map(Memory::row).collect();
        let kind = if self.cast == Cast::Python { "Python" } else { "native" };
        format!(
            "{}\n{}\n{AGENT_COUNT} live {kind} agents and {AGENT_COUNT} branches, {total} \
             operations one after the other in {:.2} s;\nevery answer verified\n",
            table(&head, &rows),
            table(&memory_head.map(str::to_owned), &memory),
            elapsed.as_secs_f64(),
        )
    }

    fn json(&mut self, elapsed: Duration) -> serde_json::Value {
        let row = |lap: &mut Lap| {
            json!({"operation": lap.name, "count": lap.nanos.len(), "p50_us": lap.us(0.5),
                   "p99_us": lap.us(0.99), "max_us": lap.us(1.0)})
        };
        let rows: Vec<serde_json::Value> = self.laps.iter_mut().map(row).collect();
        let memory = |at: &Memory| {
            json!({"when": at.when, "interpreters": at.live, "resident_bytes": at.resident,
                   "unique_bytes": at.unique, "shared_bytes": at.resident - at.unique})
        };
        json!({"agents": AGENT_COUNT, "branches": AGENT_COUNT, "verified": true,
               "python": self.cast == Cast::Python, "elapsed_s": elapsed.as_secs_f64(),
               "memory": self.memory.iter().map(memory).collect::<Vec<_>>(),
               "operations": rows})
    }
}

impl Memory {
    fn row(&self) -> Vec<String> {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let sizes = [self.resident, self.unique, self.resident - self.unique].map(mib);
        [vec![self.when.to_owned(), self.live.to_string()], sizes.to_vec()].concat()
    }
}

impl Lap {
    /// The latency that the share `q` of operations did not exceed, in microseconds.
    fn us(&mut self, q: f64) -> f64 {
        self.nanos.sort_unstable();
        let rank = (q * self.nanos.len() as f64).ceil() as usize;
        let nanos = self.nanos.get(rank.max(1) - 1).copied().unwrap_or(0);
        (nanos as f64 / 100.0).round() / 10.0
    }
}

/// The sum of the lines whose name starts so, in KiB.
fn kibibytes(rollup: &str, name: &str) -> u64 {
    let of = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    rollup.lines().filter(|line| line.starts_with(name)).filter_map(of).sum()
}

/// Whether a line of a process's mappings is the start of a live interpreter's memory.
fn is_live(line: &str) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let (rights, start) = (fields.next(), fields.next());
    rights == Some("rw-p") && start == Some("00000000") && line.contains("/memfd:heronry-base")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut lap = Lap { name: "x", nanos: (1..=100).rev().map(|n| n * 1000).collect() };
        assert_eq!([lap.us(0.5), lap.us(0.99), lap.us(1.0)], [50.0, 99.0, 100.0]);
        let mut one = Lap { name: "x", nanos: vec![1500] };
        assert_eq!([one.us(0.5), one.us(1.0)], [1.5, 1.5]);
    }

    #[test]
    fn m1_an_answer_follows_from_the_history() {
        let history = ["Oslo by bus for 30", "Rome by train for 50", "Oslo by train for 20"];
        let history = history.map(str::to_owned);
        assert_eq!(Cast::Python.answer(&history), "2 cities for 70");
        assert_eq!(Cast::Native.answer(&["append ab;".to_owned()]), "3");
    }

    #[test]
    fn the_kernels_words_are_read() {
        let rollup =
            "0-1 ---p 0 0:0 0 [rollup]\nRss:  12 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 2 kB\n";
        assert_eq!((kibibytes(rollup, "Rss:"), kibibytes(rollup, "Private_")), (12, 3));
        let base = "7f0-7f1 rw-p 00000000 00:01 5 /memfd:heronry-base (deleted)";
        assert!(is_live(base));
        assert!(!is_live(&base.replace("rw-p", "r--s")));
        assert!(!is_live(&base.replace("00000000", "00010000")));
    }
}
