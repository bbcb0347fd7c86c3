//! A partition with sandboxes and everything around it that a shard's loop does, for tests.
//!
//! Owns: the loop, virtual time, templates built from the guests of `tools/guests/build`, and the
//! check that every request is answered exactly once (V1).  Not: what the answers should be, the
//! wire, several shards, the control thread.

use bytes::Bytes;
use heronry_engine::template::built_in;
use heronry_engine::verb::{AgentInfo, Errand, Language, Target, VersionInfo};
use heronry_engine::*;
use heronry_shards::errand::{BaseRef, TemplateRef, Workshop};
use heronry_shards::sandbox::build::{BuildPlan, build};
use heronry_shards::sandbox::live::{LastTurn, LiveCounts, LiveLimits, World as Outside};
use heronry_shards::sandbox::seen::Seen;
use heronry_shards::sandbox::slot::BaseImage;
use heronry_shards::sandbox::template::TemplateFile;
use heronry_shards::sandbox::workshop::{SandboxWorkshop, WorkshopPlan};
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Builds of one process are one after the other, as a node's are: the first compiles the module,
/// the others find it.
static BUILDS: Mutex<()> = Mutex::new(());

/// What a request came to.
pub type Answer = Result<Reply, Refusal>;

/// How long an agent awaits a call.
pub const TIMEOUT: Nanos = Nanos::from_ms(30_000);

/// What a world is made by.
#[derive(Clone)]
pub struct Settings {
    /// Most live instances.
    pub live_max: u32,
    /// Frames of the arena.
    pub frame_count: usize,
    /// Largest linear memory.
    pub memory_bytes_max: u64,
    /// CPU time of one call into a guest.
    pub turn_cpu_max: Duration,
    /// Largest payload.
    pub payload_bytes_max: usize,
    /// Where the interpreters are; those of this machine by default.
    pub guests_dir: PathBuf,
    /// Where compiled modules are kept.
    pub modules_dir: PathBuf,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            live_max: 8,
            frame_count: 1 << 14,
            memory_bytes_max: 64 << 20,
            turn_cpu_max: Duration::from_secs(20),
            payload_bytes_max: 8 << 20,
            guests_dir: cache_dir().join("guests/current"),
            modules_dir: cache_dir().join("modules"),
        }
    }
}

/// A shard's partition with sandboxes, and its loop.
pub struct World {
    /// The partition under test.
    pub partition: Partition,
    /// The time that it is told.
    pub now: Nanos,
    /// What it wants the control thread to do.
    pub errands: Vec<(Origin, Errand)>,
    /// Sources and templates.
    pub folder: tempfile::TempDir,
    settings: Settings,
    workshop: SandboxWorkshop,
    bases: Vec<BaseImage>,
    asked: u64,
    answers: BTreeMap<u64, Answer>,
}

/// Where guests and compiled modules are kept.
pub fn cache_dir() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    cache.unwrap_or_else(|| home.join(".cache")).join("heronry")
}

/// Whether the interpreters were built; says so when they were not.
pub fn has_guests() -> bool {
    let folder = cache_dir().join("guests/current");
    let has = ["python.wasm", "python.tar", "javascript.wasm"];
    let has = has.iter().all(|name| folder.join(name).is_file());
    if !has {
        println!("skipped: no guests at {}; tools/guests/build makes them", folder.display());
    }
    has
}

fn entropy() -> [u8; 32] {
    let mut bytes = [0; 32];
    for byte in &mut bytes {
        *byte = fastrand::u8(..);
    }
    bytes
}

/// Templates.
impl World {
    /// A world with room for so many live instances.
    pub fn new(live_max: u32) -> World {
        World::with(Settings { live_max, ..Settings::default() })
    }

    /// A world of these settings.
    pub fn with(settings: Settings) -> World {
        let limits = LiveLimits {
            live_max: Some(settings.live_max),
            live_bytes: None,
            memory_bytes_max: settings.memory_bytes_max,
            turn_cpu_max: settings.turn_cpu_max,
        };
        let world = Outside {
            unix_ns: || 1_700_000_000_000_000_000,
            entropy,
            report: |line| println!("{line}"),
        };
        let payload_bytes_max = settings.payload_bytes_max;
        let cache_dir = settings.modules_dir.clone();
        let plan = WorkshopPlan { cache_dir, limits, world, payload_bytes_max };
        let frames = vec![0u8; settings.frame_count * PAGE_BYTES].into_boxed_slice();
        let store = PageStore::new(Box::leak(frames));
        let config = PartitionConfig {
            call_timeout: TIMEOUT,
            payload_bytes_max,
            ..PartitionConfig::default()
        };
        World {
            partition: Partition::new(config, store, built_in()),
            now: Nanos(1_000_000_000),
            errands: Vec::new(),
            folder: tempfile::tempdir().expect("a folder"),
            settings,
            workshop: SandboxWorkshop::new(plan),
            bases: Vec::new(),
            asked: 0,
            answers: BTreeMap::new(),
        }
    }

    /// Builds and loads the first number of a template, which must succeed.
    pub fn deploy(&mut self, name: &str, language: Language, source: Option<&str>) {
        let deployed = self.try_deploy(name, 1, language, source.map(str::as_bytes), None);
        deployed.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Builds and loads a template, and makes it the active number of its name.
    pub fn try_deploy(
        &mut self,
        name: &str,
        number: u32,
        language: Language,
        source: Option<&[u8]>,
        warm: Option<&str>,
    ) -> Result<(), String> {
        let file = self.build(name, number, language, source, warm)?;
        let behaviour = self.load(name, number, &file)?;
        self.partition.deploy(behaviour, true).map_err(|e| e.to_string())
    }

    /// Builds a template's file.
    pub fn build(
        &mut self,
        name: &str,
        number: u32,
        language: Language,
        source: Option<&[u8]>,
        warm: Option<&str>,
    ) -> Result<PathBuf, String> {
        let write = |suffix: &str, text: Option<&[u8]>| {
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
            warm: write("warm", warm.map(str::as_bytes)),
            guests_dir: self.settings.guests_dir.clone(),
            cache_dir: self.settings.modules_dir.clone(),
            memory_bytes_max: self.settings.memory_bytes_max,
            out: out.clone(),
        };
        let _alone = BUILDS.lock().unwrap_or_else(PoisonError::into_inner);
        build(&plan).map_err(|error| error.to_string())?;
        Ok(out)
    }

    /// Loads a template's file, as a shard does.
    pub fn load(
        &mut self,
        name: &str,
        number: u32,
        file: &Path,
    ) -> Result<Rc<dyn Behaviour>, String> {
        let template = TemplateFile::open(file, &Seen::nothing()).map_err(|e| e.to_string())?;
        let base = BaseImage::from_bytes(template.memory()).map_err(|e| e.to_string())?;
        let reference = BaseRef {
            pid: std::process::id(),
            fd: base.fd().as_raw_fd(),
            len_bytes: base.len_bytes() as u64,
        };
        let template = TemplateRef {
            name: name.to_owned(),
            number,
            header: template.header.clone(),
            needs: None,
            base: reference,
        };
        let behaviour = self.workshop.load(&template)?;
        self.bases.push(base);
        Ok(behaviour)
    }

    /// What the cache of live instances did so far.
    pub fn live(&self) -> LiveCounts {
        self.workshop.live().expect("a template was loaded").counts()
    }

    /// What the last turn changed.
    pub fn last_turn(&self) -> LastTurn {
        self.workshop.live().expect("a template was loaded").last_turn()
    }
}

/// The loop.
impl World {
    /// Sends a request in without serving it; its number.
    pub fn ask(&mut self, key: &str, verb: Verb) -> u64 {
        let target = Target::agent(TenantId(0), key.parse().expect("a key"));
        self.ask_target(target, verb)
    }

    fn ask_target(&mut self, target: Target, verb: Verb) -> u64 {
        self.asked += 1;
        let origin =
            Origin::Connection { conn: 0, generation: 0, seq: self.asked, ack: Ack::Sealed };
        let (ack, deadline) = (Ack::Sealed, None);
        self.partition.accept(self.now, Request { target, verb, ack, deadline, origin });
        self.asked
    }

    fn pump(&mut self) {
        loop {
            let events = std::mem::take(self.partition.events());
            if events.is_empty() {
                return;
            }
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
                    Event::Load { agent, .. } => unreachable!("no log has {agent:?}"),
                    Event::Deliver(request) => self.partition.accept(self.now, request),
                    Event::Errand { to, errand } => self.errands.push((to, errand)),
                }
            }
        }
    }

    /// One slice of a turn and its events; `None` when there is nothing to serve.
    pub fn step(&mut self) -> Option<TurnReport> {
        self.pump();
        self.now = self.now.after(Nanos::from_us(10));
        let report = self.partition.run_turn(self.now);
        self.pump();
        report
    }

    /// Serves until nothing is left to serve; the slices it took.
    pub fn run(&mut self) -> usize {
        std::iter::from_fn(|| self.step()).count()
    }

    /// Lets time pass.
    pub fn wait(&mut self, ms: u64) {
        self.now = self.now.after(Nanos::from_ms(ms));
        self.partition.expire(self.now);
        self.run();
    }

    /// Answers the oldest errand.
    pub fn answer_errand(&mut self, result: Answer) {
        let (to, _) = self.errands.remove(0);
        let Origin::Agent { id, call } = to else { panic!("an errand of {to:?}") };
        self.partition.answer(self.now, id, call, result);
        self.run();
    }

    /// The answer to a request, if it is there.
    pub fn answer(&mut self, number: u64) -> Option<Answer> {
        self.answers.remove(&number)
    }

    /// The answer to a request, as text; it must be there.
    pub fn answered(&mut self, number: u64) -> String {
        text(self.answer(number).unwrap_or_else(|| panic!("V1: request {number} is open")))
    }

    /// Whether a request has no answer yet.
    pub fn is_open(&self, number: u64) -> bool {
        !self.answers.contains_key(&number)
    }
}

/// Verbs.
impl World {
    /// Asks, serves, and returns the answer.
    pub fn does(&mut self, key: &str, verb: Verb) -> Answer {
        let number = self.ask(key, verb);
        self.run();
        self.answer(number).unwrap_or_else(|| panic!("{key} has not answered"))
    }

    /// The text of a reply to a message, or the code and text of a refusal.
    pub fn says(&mut self, key: &str, message: &str) -> String {
        text(self.does(key, send(message)))
    }

    /// Runs code in an agent's interpreter.
    pub fn exec(&mut self, key: &str, code: &str) -> String {
        text(self.does(key, exec(code)))
    }

    /// Forks an agent; the branches' keys.
    pub fn fork(&mut self, key: &str, count: u32, keep_timers: bool) -> Vec<String> {
        match self.does(key, Verb::Fork { count, at: None, suffix: None, keep_timers }) {
            Ok(Reply::Forked(keys)) => keys.iter().map(ToString::to_string).collect(),
            other => panic!("FORK {key} gave {}", text(other)),
        }
    }

    /// INFO.
    pub fn info(&mut self, key: &str) -> AgentInfo {
        match self.does(key, Verb::Info) {
            Ok(Reply::Info(info)) => *info,
            other => panic!("INFO {key} gave {}", text(other)),
        }
    }

    /// VERSIONS.
    pub fn versions(&mut self, key: &str) -> Vec<VersionInfo> {
        match self.does(key, Verb::Versions) {
            Ok(Reply::Versions(versions)) => versions,
            other => panic!("VERSIONS {key} gave {}", text(other)),
        }
    }

    /// All bytes of an agent's image: host state and memory.
    pub fn image(&mut self, key: &str) -> Vec<u8> {
        const READ_BYTES: u32 = 1 << 20;
        let mut image = Vec::new();
        loop {
            let read = Verb::Read { offset: image.len() as u64, len_bytes: READ_BYTES };
            let Ok(Reply::Payload(Some(bytes))) = self.does(key, read) else {
                panic!("READ {key} failed");
            };
            image.extend_from_slice(&bytes);
            if bytes.len() < READ_BYTES as usize {
                return image;
            }
        }
    }

    /// Ends all agents and checks that no frame is left.
    pub fn end(mut self) {
        self.run();
        let mut cursor = 0;
        let mut keys = Vec::new();
        loop {
            let list = Verb::List { cursor, count: 100, pattern: None, lost: false };
            let number = self.ask_target(Target::Shard(ShardId(0)), list);
            self.run();
            let Some(Ok(Reply::List { cursor: next, keys: page })) = self.answer(number) else {
                panic!("no listing");
            };
            keys.extend(page);
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        for key in keys {
            self.does(key.as_str(), Verb::Terminate).expect("a listed agent lives");
        }
        self.run();
        let counters = *self.partition.counters();
        assert_eq!((counters.agents, counters.mail, counters.frames_used), (0, 0, 0));
        if let Some(live) = self.workshop.live() {
            assert_eq!(live.counts().live, 0, "an instance outlived its agent");
        }
        self.partition.debug_check();
    }
}

/// SEND.
pub fn send(message: &str) -> Verb {
    send_bytes(message.as_bytes())
}

/// SEND of any bytes.
pub fn send_bytes(message: &[u8]) -> Verb {
    Verb::Send { payload: Bytes::copy_from_slice(message), request_id: None }
}

/// EXEC.
pub fn exec(code: &str) -> Verb {
    Verb::Exec { code: Bytes::copy_from_slice(code.as_bytes()) }
}

/// ROLLBACK to a label.
pub fn rollback(label: &'static str) -> Verb {
    Verb::Rollback { to: Some(VersionRef::Label(Bytes::from_static(label.as_bytes()))) }
}

/// CHECKPOINT with a label.
pub fn checkpoint(label: &'static str) -> Verb {
    Verb::Checkpoint { label: Some(Bytes::from_static(label.as_bytes())) }
}

/// A reply's text, `-` for none, or a refusal's code and text.
pub fn text(answer: Answer) -> String {
    match answer {
        Ok(Reply::Payload(Some(bytes))) => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        Ok(Reply::Payload(None)) => "-".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(refusal) => format!("{} {refusal}", refusal.code()),
    }
}
