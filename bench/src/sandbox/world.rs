//! A partition with sandboxes in this process: no sockets, no other shards, no control thread.
//!
//! Owns: its templates, its loop, its time.  Not: what is measured.
//! W1  a request that fails ends the scenario with the node's words.
//! W2  templates are built by a process of their own, as a node's are: what a build leaves in its
//!     memory is not the shard's.

use anyhow::{Context as _, bail};
use heronry_engine::template::built_in;
use heronry_engine::verb::{Event, Language, Target};
use heronry_engine::{
    Ack, Nanos, Origin, PAGE_BYTES, PageStore, Partition, PartitionConfig, Refusal, Reply, Request,
    TenantId, Verb,
};
use heronry_numa::{Arena, ArenaPlan};
use heronry_shards::errand::{BaseRef, TemplateRef, Workshop};
use heronry_shards::sandbox::live::{Live, LiveLimits, World as Outside};
use heronry_shards::sandbox::seen::Seen;
use heronry_shards::sandbox::slot::BaseImage;
use heronry_shards::sandbox::template::TemplateFile;
use heronry_shards::sandbox::workshop::{SandboxWorkshop, WorkshopPlan};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Largest memory of one agent.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// One shard's agents.
pub struct World {
    /// The agents.
    pub partition: Partition,
    workshop: SandboxWorkshop,
    folders: Folders,
    scratch: tempfile::TempDir,
    bases: Vec<BaseImage>,
    started: Instant,
    asked: u64,
    answer: Option<Result<Reply, Refusal>>,
}

/// Where guests and compiled modules are.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The interpreters.
    pub guests: PathBuf,
    /// Compiled modules.
    pub modules: PathBuf,
}

impl Folders {
    /// The user's cache; `None` when no guests were built.
    pub fn of_user() -> Option<Folders> {
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home)?;
        let cache = cache.join("heronry");
        let guests = cache.join("guests/current");
        let found = guests.join("python.wasm").is_file();
        found.then(|| Folders { guests, modules: cache.join("modules") })
    }
}

impl World {
    /// A partition with an arena of `arena_bytes` and at most `live_max` live agents.
    pub fn new(folders: Folders, arena_bytes: u64, live_max: u32) -> anyhow::Result<World> {
        let limits = LiveLimits {
            live_max: (live_max > 0).then_some(live_max),
            live_bytes: None,
            memory_bytes_max: MEMORY_BYTES_MAX,
            turn_cpu_max: Duration::from_secs(60),
        };
        let world = Outside { unix_ns, entropy, report: |line| eprintln!("{line}") };
        let plan = WorkshopPlan {
            cache_dir: folders.modules.clone(),
            limits,
            world,
            payload_bytes_max: 8 << 20,
        };
        let wanted = ArenaPlan { bytes: arena_bytes..=arena_bytes, node: None, huge_pages: false };
        let arena = Arena::reserve(&wanted, None).context("no arena")?;
        let config = PartitionConfig { image_bytes_max: 2 << 30, ..PartitionConfig::default() };
        Ok(World {
            partition: Partition::new(config, PageStore::new(arena.bytes), built_in()),
            workshop: SandboxWorkshop::new(plan),
            folders,
            scratch: tempfile::tempdir()?,
            bases: Vec::new(),
            started: Instant::now(),
            asked: 0,
            answer: None,
        })
    }

    /// Builds a template and deploys it; seconds that it took.
    pub fn deploy(
        &mut self,
        name: &str,
        language: Language,
        source: Option<&str>,
        warm: Option<&str>,
    ) -> anyhow::Result<f64> {
        let began = Instant::now();
        let write = |end: &str, text: Option<&str>| -> anyhow::Result<Option<PathBuf>> {
            let Some(text) = text else { return Ok(None) };
            let path = self.scratch.path().join(format!("{name}.{}", end.trim_start_matches('-')));
            std::fs::write(&path, text)?;
            Ok(Some(path))
        };
        let out = self.scratch.path().join(format!("{name}.template"));
        let mut builder = Command::new(std::env::current_exe()?);
        builder.args(["template-build", "--language", language.name()]);
        builder.arg("--guests").arg(&self.folders.guests);
        builder.arg("--cache").arg(&self.folders.modules);
        builder.args(["--memory-bytes-max", &MEMORY_BYTES_MAX.to_string()]);
        builder.arg("--out").arg(&out);
        for (option, text) in [("--source", source), ("--warm", warm)] {
            if let Some(path) = write(option, text)? {
                builder.arg(option).arg(path);
            }
        }
        let built = builder.stdin(Stdio::null()).output()?;
        let words = || String::from_utf8_lossy(&built.stderr).trim_end().to_owned();
        anyhow::ensure!(built.status.success(), "building template {name}: {}", words());
        let file = TemplateFile::open(&out, &Seen::nothing())?;
        let base = BaseImage::from_bytes(file.memory())?;
        let base_ref = BaseRef {
            pid: std::process::id(),
            fd: base.fd().as_raw_fd(),
            len_bytes: base.len_bytes() as u64,
        };
        let header = file.header.clone();
        let template =
            TemplateRef { name: name.to_owned(), number: 1, header, needs: None, base: base_ref };
        let behaviour = self.workshop.load(&template).map_err(anyhow::Error::msg)?;
        self.bases.push(base);
        self.partition.deploy(behaviour, true)?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// The shard's live agents. Panics before the first deploy.
    pub fn live(&self) -> &Rc<Live> {
        self.workshop.live().expect("W1: a template was deployed")
    }

    /// Asks an agent and does not wait; nobody hears the answer.
    pub fn post(&mut self, key: &str, verb: Verb) -> anyhow::Result<()> {
        let (ack, deadline, origin) = (Ack::Sealed, None, Origin::Nobody);
        let target = Target::agent(TenantId(0), key.parse()?);
        let now = self.now();
        self.partition.accept(now, Request { target, verb, ack, deadline, origin });
        Ok(())
    }

    /// Asks an agent and serves until it has answered; the time from asking to the answer.
    pub fn ask(&mut self, key: &str, verb: Verb) -> anyhow::Result<(Reply, Duration)> {
        self.asked += 1;
        let target = Target::agent(TenantId(0), key.parse()?);
        let origin =
            Origin::Connection { conn: 0, generation: 0, seq: self.asked, ack: Ack::Sealed };
        let request = Request { target, verb, ack: Ack::Sealed, deadline: None, origin };
        let began = Instant::now();
        let now = self.now();
        self.partition.accept(now, request);
        let took = loop {
            self.serve_events()?;
            if self.answer.is_some() {
                break began.elapsed();
            }
            let now = self.now();
            if self.partition.run_turn(now).is_none() && self.partition.events().is_empty() {
                self.partition.expire(now);
            }
        };
        match self.answer.take() {
            Some(Ok(reply)) => Ok((reply, took)),
            Some(Err(refusal)) => bail!("{key}: {} {refusal}", refusal.code()),
            None => bail!("{key} did not answer"),
        }
    }

    /// Runs code in an agent's interpreter; its reply and the time it took.
    pub fn exec(&mut self, key: &str, code: &str) -> anyhow::Result<(String, Duration)> {
        let verb = Verb::Exec { code: code.as_bytes().to_vec().into() };
        let (reply, took) = self.ask(key, verb)?;
        let text = match reply {
            Reply::Payload(Some(text)) => String::from_utf8_lossy(&text).trim_end().to_owned(),
            _ => String::new(),
        };
        Ok((text, took))
    }

    /// Bytes of the arena in use.
    pub fn arena_used_bytes(&self) -> u64 {
        let counters = self.partition.counters();
        counters.frames_used * PAGE_BYTES as u64 + counters.patch_bytes
    }

    fn now(&self) -> Nanos {
        Nanos(1 + self.started.elapsed().as_nanos() as u64)
    }

    fn serve_events(&mut self) -> anyhow::Result<()> {
        while !self.partition.events().is_empty() {
            for event in std::mem::take(self.partition.events()) {
                let now = self.now();
                match event {
                    Event::Answer { to: Origin::Agent { id, call }, result } => {
                        self.partition.answer(now, id, call, result);
                    }
                    Event::Answer { to: Origin::Connection { seq, .. }, result }
                        if seq == self.asked =>
                    {
                        self.answer = Some(result);
                    }
                    Event::Answer { .. } => {}
                    Event::Load { agent, .. } => unreachable!("no log has {agent:?}"),
                    Event::Deliver(request) => self.partition.accept(now, request),
                    Event::Errand { .. } => bail!("no control thread in this scenario"),
                }
            }
        }
        Ok(())
    }
}

fn unix_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}

fn entropy() -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.fill_with(|| fastrand::u8(..));
    bytes
}
