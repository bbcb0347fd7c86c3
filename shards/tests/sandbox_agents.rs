//! Python and JavaScript agents on a partition: what `docs/user.md` promises of sandboxes.
//!
//! Owns: one partition, its loop, and templates built from the guests of `tools/guests/build`.
//! Not: the wire, several shards, the control thread. Skips where no guests were built.

use bytes::Bytes;
use heronry_engine::template::built_in;
use heronry_engine::verb::{Language, Target};
use heronry_engine::*;
use heronry_shards::errand::{BaseRef, TemplateRef, Workshop};
use heronry_shards::sandbox::build::{BuildPlan, build};
use heronry_shards::sandbox::live::{LiveLimits, World as Outside};
use heronry_shards::sandbox::slot::BaseImage;
use heronry_shards::sandbox::template::TemplateFile;
use heronry_shards::sandbox::workshop::{SandboxWorkshop, WorkshopPlan};
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Frames of the test's arena.
const FRAME_COUNT: usize = 1 << 14;
const TIMEOUT: Nanos = Nanos::from_ms(30_000);

/// A shard's partition with sandboxes, and its loop.
struct World {
    partition: Partition,
    workshop: SandboxWorkshop,
    folder: tempfile::TempDir,
    bases: Vec<BaseImage>,
    now: Nanos,
    asked: u64,
    answers: BTreeMap<u64, Result<Reply, Refusal>>,
}

fn cache_dir() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    cache.unwrap_or_else(|| home.join(".cache")).join("heronry")
}

fn guests_dir() -> Option<PathBuf> {
    let folder = cache_dir().join("guests/current");
    if folder.join("python.wasm").is_file() {
        return Some(folder);
    }
    println!("skipped: no guests at {}; tools/guests/build makes them", folder.display());
    None
}

fn entropy() -> [u8; 32] {
    let mut bytes = [0; 32];
    for byte in &mut bytes {
        *byte = fastrand::u8(..);
    }
    bytes
}

impl World {
    fn new(live_max: u32) -> World {
        let limits = LiveLimits {
            live_max: Some(live_max),
            memory_bytes_max: 64 << 20,
            turn_cpu_max: Duration::from_secs(20),
        };
        let world = Outside {
            unix_ns: || 1_700_000_000_000_000_000,
            entropy,
            report: |line| println!("{line}"),
        };
        let cache_dir = cache_dir().join("modules");
        let plan = WorkshopPlan { cache_dir, limits, world, payload_bytes_max: 8 << 20 };
        let frames = vec![0u8; FRAME_COUNT * PAGE_BYTES].into_boxed_slice();
        let store = PageStore::new(Box::leak(frames));
        let config = PartitionConfig { call_timeout: TIMEOUT, ..PartitionConfig::default() };
        World {
            partition: Partition::new(config, store, built_in()),
            workshop: SandboxWorkshop::new(plan),
            folder: tempfile::tempdir().expect("a folder"),
            bases: Vec::new(),
            now: Nanos(1_000_000_000),
            asked: 0,
            answers: BTreeMap::new(),
        }
    }

    fn deploy(&mut self, name: &str, number: u32, language: Language, source: Option<&str>) {
        let deployed = self.try_deploy(name, number, language, source, None);
        deployed.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    fn try_deploy(
        &mut self,
        name: &str,
        number: u32,
        language: Language,
        source: Option<&str>,
        warm: Option<&str>,
    ) -> Result<(), String> {
        let write = |suffix: &str, text: Option<&str>| {
            text.map(|text| {
                let path = self.folder.path().join(format!("{name}-{number}-{suffix}"));
                std::fs::write(&path, text).expect("a source file");
                path
            })
        };
        let out = self.folder.path().join(format!("{name}-{number}.template"));
        let plan = BuildPlan {
            language,
            source: write("source", source),
            warm: write("warm", warm),
            guests_dir: guests_dir().expect("checked by the test"),
            cache_dir: cache_dir().join("modules"),
            memory_bytes_max: 64 << 20,
            out: out.clone(),
        };
        build(&plan).map_err(|error| error.to_string())?;
        self.load(name, number, language, &out)
    }

    fn load(
        &mut self,
        name: &str,
        number: u32,
        language: Language,
        file: &Path,
    ) -> Result<(), String> {
        let template = TemplateFile::open(file).map_err(|e| e.to_string())?;
        let base = BaseImage::from_bytes(template.memory()).map_err(|e| e.to_string())?;
        let reference = BaseRef {
            pid: std::process::id(),
            fd: base.fd().as_raw_fd(),
            len_bytes: base.len_bytes() as u64,
        };
        let template = TemplateRef {
            name: name.to_owned(),
            number,
            language,
            summary: template.header.summary.clone(),
            file: file.to_owned(),
            base: reference,
        };
        let behaviour = self.workshop.load(&template)?;
        self.bases.push(base);
        self.partition.deploy(behaviour, true).map_err(|e| e.to_string())
    }

    fn ask(&mut self, key: &str, verb: Verb) -> u64 {
        self.asked += 1;
        let origin = Origin::Connection { conn: 0, generation: 0, seq: self.asked };
        let target = Target::agent(TenantId(0), key.parse().expect("a key"));
        let (ack, deadline) = (Ack::Sealed, None);
        self.partition.accept(self.now, Request { target, verb, ack, deadline, origin });
        self.asked
    }

    /// Serves until nothing is left to serve.
    fn run(&mut self) {
        loop {
            let events = std::mem::take(self.partition.events());
            for event in events {
                match event {
                    Event::Answer { to: Origin::Connection { seq, .. }, result } => {
                        let earlier = self.answers.insert(seq, result);
                        assert!(earlier.is_none(), "V1: request {seq} was answered twice");
                    }
                    Event::Answer { to: Origin::Agent { id, call }, result } => {
                        self.partition.answer(self.now, id, call, result);
                    }
                    Event::Answer { to, .. } => panic!("nobody asked as {to:?}"),
                    Event::Deliver(request) => self.partition.accept(self.now, request),
                    Event::Errand { to, errand } => panic!("{errand:?} for {to:?}"),
                }
            }
            self.now = self.now.after(Nanos::from_us(10));
            if self.partition.run_turn(self.now).is_none() && self.partition.events().is_empty() {
                return;
            }
        }
    }

    /// Lets time pass.
    fn wait(&mut self, ms: u64) {
        self.now = self.now.after(Nanos::from_ms(ms));
        self.partition.expire(self.now);
        self.run();
    }

    fn does(&mut self, key: &str, verb: Verb) -> Result<Reply, Refusal> {
        let number = self.ask(key, verb);
        self.run();
        self.answer(number).unwrap_or_else(|| panic!("{key} has not answered"))
    }

    fn answer(&mut self, number: u64) -> Option<Result<Reply, Refusal>> {
        self.answers.remove(&number)
    }

    /// The text of a reply, or the code and text of a refusal.
    fn says(&mut self, key: &str, message: &str) -> String {
        text(self.does(key, send(message)))
    }

    fn exec(&mut self, key: &str, code: &str) -> String {
        text(self.does(key, exec(code)))
    }

    fn fork(&mut self, key: &str, count: u32, keep_timers: bool) {
        let verb = Verb::Fork { count, at: None, suffix: None, keep_timers };
        self.does(key, verb).expect("forked");
    }
}

fn send(message: &str) -> Verb {
    Verb::Send { payload: Bytes::copy_from_slice(message.as_bytes()), request_id: None }
}

fn exec(code: &str) -> Verb {
    Verb::Exec { code: Bytes::copy_from_slice(code.as_bytes()) }
}

fn rollback(label: &'static str) -> Verb {
    Verb::Rollback { to: Some(VersionRef::Label(Bytes::from_static(label.as_bytes()))) }
}

fn checkpoint(label: &'static str) -> Verb {
    Verb::Checkpoint { label: Some(Bytes::from_static(label.as_bytes())) }
}

fn text(answer: Result<Reply, Refusal>) -> String {
    match answer {
        Ok(Reply::Payload(Some(bytes))) => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        Ok(Reply::Payload(None)) => "-".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(refusal) => format!("{} {refusal}", refusal.code()),
    }
}

#[test]
fn b1_a_rolled_back_interpreter_has_its_old_variables() {
    if guests_dir().is_none() {
        return;
    }
    let mut world = World::new(8);
    world.deploy("python", 1, Language::Python, None);
    assert_eq!(world.exec("python/a", "x = 1"), "");
    world.does("python/a", checkpoint("one")).expect("a checkpoint");
    assert_eq!(world.exec("python/a", "x = 2"), "");
    assert_eq!(world.exec("python/a", "x"), "2");
    world.does("python/a", rollback("one")).expect("rolled back");
    assert_eq!(world.exec("python/a", "print(x)"), "1");
}

const SLEEPER: &str = "
async def on_message(ctx, message):
    if message == 'state':
        return ctx.state
    try:
        await ctx.sleep(5)
        return f'{ctx.key} woke'
    except Exception as error:
        ctx.send('notebook/log', f'append {ctx.key} {type(error).__name__};')
        raise
";

#[test]
fn b1_a_fork_in_the_middle_of_a_sleep_wakes_in_both() {
    if guests_dir().is_none() {
        return;
    }
    let mut world = World::new(8);
    world.deploy("sleeper", 1, Language::Python, Some(SLEEPER));
    let slept = world.ask("sleeper/a", send("go"));
    world.run();
    world.fork("sleeper/a", 1, false);
    assert!(world.says("notebook/log", "read").starts_with("sleeper/a~1 Forked;"));
    assert!(world.answer(slept).is_none());
    world.wait(5_000);
    let answer = world.answer(slept).expect("the sleep is over");
    assert_eq!(text(answer), "sleeper/a woke");
}
