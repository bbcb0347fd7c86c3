//! `sandbox`: what one Python and one JavaScript agent costs, step by step, in this process.
//!
//! Owns: the steps that are timed.  Not: the partition they run on (`sandbox/world.rs`).
//! X1  each figure is the median over many cycles on fresh or warm agents, as it says; a step's
//!     time is the whole turn: message in, guest code, capture, seal, answer out.
//! X2  the parts of a turn (capture, bringing an instance to its image) are read from the shard's
//!     own books of that turn.

pub mod density;
pub mod speculate;
pub mod world;

use crate::context::{self, Context};
use crate::report::{Better, Latency, Report};
use crate::sys;
use clap::Args;
use heronry_engine::verb::{Language, Verb, VersionRef};
use std::time::Duration;
use world::{Folders, World};

/// Arena of the scenario.
const ARENA_BYTES: u64 = 2 << 30;

/// Arguments of `sandbox`.
#[derive(Clone, Debug, Args)]
pub struct SandboxArgs {
    /// Cycles per figure
    #[arg(long, default_value_t = 1000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub cycles: u32,
}

/// One language's words.
struct Speech {
    name: &'static str,
    language: Language,
    set: &'static str,
    set_other: &'static str,
    read: &'static str,
    spin: &'static str,
}

const SPEECHES: [Speech; 2] = [
    Speech {
        name: "python",
        language: Language::Python,
        set: "x = 1",
        set_other: "x = 2",
        read: "x",
        spin: "while True: pass",
    },
    Speech {
        name: "javascript",
        language: Language::JavaScript,
        set: "globalThis.x = 1; undefined",
        set_other: "globalThis.x = 2; undefined",
        read: "x",
        spin: "for (;;);",
    },
];

/// Runs the scenario.
pub fn run(context: &Context, args: &SandboxArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("sandbox");
    let Some(folders) = Folders::of_user() else {
        report.note("skipped: no guests were built; tools/guests/build makes them");
        return Ok(report);
    };
    let _pinned = sys::Pinned::to(context.cores.server)?;
    report.note("in process: one partition on one core, every turn captured and sealed");
    let bar = context.progress("sandbox", (SPEECHES.len() * context.repeat) as u64);
    for speech in &SPEECHES {
        let mut figures = Figures::default();
        for _ in 0..context.repeat {
            context::check_interrupt()?;
            cycle(speech, &folders, args.cycles, &mut figures, &mut report)?;
            bar.inc(1);
        }
        figures.tell(speech.name, &mut report);
    }
    bar.finish_and_clear();
    Ok(report)
}

/// Figures by name: a value for each repeat.
#[derive(Default)]
struct Figures(Vec<(String, &'static str, Vec<f64>)>);

impl Figures {
    fn add(&mut self, name: String, unit: &'static str, value: f64) {
        match self.0.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, _, values)) => values.push(value),
            None => self.0.push((name, unit, vec![value])),
        }
    }

    fn latency(&mut self, name: &str, latency: &Latency) {
        self.add(format!("{name}/p50"), "us", latency.us_at(50.0));
        self.add(format!("{name}/p99"), "us", latency.us_at(99.0));
    }

    fn tell(self, language: &str, report: &mut Report) {
        for (name, unit, values) in self.0 {
            report.figure(&format!("{language}/{name}"), unit, Better::Lower, values);
        }
    }
}

fn cycle(
    speech: &Speech,
    folders: &Folders,
    cycles: u32,
    figures: &mut Figures,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut world = World::new(folders.clone(), ARENA_BYTES, 0)?;
    let name = speech.name;
    let seconds = world.deploy(name, speech.language, None, None)?;
    figures.add("deploy".to_owned(), "s", seconds);
    let birth = create(&mut world, speech, cycles.min(500), figures)?;
    report.curves.push(birth.curve(format!("{name}/create-to-first-reply")));
    steps(&mut world, speech, cycles, figures)?;
    rollbacks(&mut world, speech, cycles, figures)?;
    forks(&mut world, speech, cycles.min(500), figures)?;
    neighbour(&mut world, speech, cycles.min(500), figures)?;
    revives(speech, folders, cycles.min(500), figures)
}

/// From a key that no agent has to its first answer.
fn create(
    world: &mut World,
    speech: &Speech,
    count: u32,
    figures: &mut Figures,
) -> anyhow::Result<Latency> {
    let mut latency = Latency::new();
    for idx in 0..count {
        let key = format!("{}/created-{idx}", speech.name);
        latency.record(world.exec(&key, speech.set)?.1);
        world.ask(&key, Verb::Terminate)?;
    }
    figures.latency("create-to-first-reply", &latency);
    Ok(latency)
}

/// The same small step again and again on a warm agent.
fn steps(
    world: &mut World,
    speech: &Speech,
    cycles: u32,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let key = format!("{}/stepped", speech.name);
    for _ in 0..40 {
        world.exec(&key, speech.set)?;
    }
    let (mut step, mut seal) = (Latency::new(), Latency::new());
    let (mut compared, mut changed) = (Vec::new(), Vec::new());
    for idx in 0..cycles {
        let code = if idx % 2 == 0 { speech.set_other } else { speech.set };
        step.record(world.exec(&key, code)?.1);
        let last = world.live().last_turn();
        seal.record_ns(last.capture_ns);
        compared.push(f64::from(last.compared_count));
        changed.push(f64::from(last.changed_count));
    }
    figures.latency("step-and-seal", &step);
    figures.latency("seal", &seal);
    figures.add("step/pages-written".to_owned(), "pages", median(&mut compared));
    figures.add("step/pages-changed".to_owned(), "pages", median(&mut changed));
    Ok(())
}

fn rollbacks(
    world: &mut World,
    speech: &Speech,
    cycles: u32,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let key = format!("{}/rolled", speech.name);
    world.exec(&key, speech.set)?;
    let label = bytes::Bytes::from_static(b"here");
    world.ask(&key, Verb::Checkpoint { label: Some(label.clone()) })?;
    let mut latency = Latency::new();
    for _ in 0..cycles {
        world.exec(&key, speech.set_other)?;
        let to = Some(VersionRef::Label(label.clone()));
        let (_, verb) = world.ask(&key, Verb::Rollback { to })?;
        let (read, _) = world.exec(&key, speech.read)?;
        anyhow::ensure!(read == "1", "X1: after the rollback x is {read}");
        let bring = Duration::from_nanos(world.live().last_turn().bring_ns);
        latency.record(verb + bring);
    }
    figures.latency("rollback", &latency);
    Ok(())
}

fn forks(
    world: &mut World,
    speech: &Speech,
    cycles: u32,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let key = format!("{}/forked", speech.name);
    world.exec(&key, speech.set)?;
    let (mut fork, mut first) = (Latency::new(), Latency::new());
    for idx in 1..=cycles {
        world.exec(&key, speech.set_other)?;
        let verb = Verb::Fork { count: 1, at: None, suffix: None, keep_timers: false };
        fork.record(world.ask(&key, verb)?.1);
        let branch = format!("{key}~{idx}");
        let (read, took) = world.exec(&branch, speech.read)?;
        anyhow::ensure!(read == "2", "X1: in the branch x is {read}");
        first.record(took);
        world.ask(&branch, Verb::Terminate)?;
    }
    figures.latency("fork", &fork);
    figures.latency("fork/first-reply-of-branch", &first);
    Ok(())
}

/// Milliseconds that an agent in an endless loop adds to the others' p99 on its shard.
fn neighbour(
    world: &mut World,
    speech: &Speech,
    cycles: u32,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let key = format!("{}/beside", speech.name);
    let p99 = |world: &mut World| -> anyhow::Result<f64> {
        let mut latency = Latency::new();
        for _ in 0..cycles {
            latency.record(world.exec(&key, speech.set)?.1);
        }
        Ok(latency.us_at(99.0))
    };
    let alone = p99(world)?;
    let code = bytes::Bytes::from_static(speech.spin.as_bytes());
    world.post(&format!("{}/busy", speech.name), Verb::Exec { code })?;
    let beside = p99(world)?;
    figures.add("neighbour/p99-added".to_owned(), "ms", (beside - alone) / 1e3);
    Ok(())
}

/// Two agents that have one slot between them: each turn evicts one and revives the other.
fn revives(
    speech: &Speech,
    folders: &Folders,
    cycles: u32,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let mut world = World::new(folders.clone(), ARENA_BYTES, 1)?;
    world.deploy(speech.name, speech.language, None, None)?;
    let keys = [format!("{}/one", speech.name), format!("{}/two", speech.name)];
    for _ in 0..20 {
        for key in &keys {
            world.exec(key, speech.set)?;
        }
    }
    let (mut bring, mut whole) = (Latency::new(), Latency::new());
    for idx in 0..cycles as usize {
        whole.record(world.exec(&keys[idx % 2], speech.set_other)?.1);
        bring.record_ns(world.live().last_turn().bring_ns);
    }
    figures.latency("evict-and-revive", &bring);
    figures.latency("evict-and-revive/whole-turn", &whole);
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
