//! `heronry up`: a node put together from config, host, shared memory and shards.
//!
//! Owns: the choices that a zero in the config leaves open (shards, arenas, descriptors), the
//! data folder's lock, the lines that tell the operator what happens.
//! Not: what a shard runs (`serve.rs`), watching shards (`shards`' supervisor), what is done beside
//! turns (`control.rs`).
//! O1  a port, a socket or a data folder that somebody else uses is refused before any shard
//!     starts, and nothing is left behind.

mod control;
mod serve;

use crate::cli::{Global, UpOptions};
use crate::log::rehome::{Rehomed, rehome};
use crate::output::Output;
use crate::{config, demo};
use anyhow::{Context, Result, bail};
use control::Control;
use crossbeam_channel::{Receiver, Sender, bounded};
use heronry_engine::Native;
use heronry_engine::config::{Config, Isolation};
use heronry_engine::{ShardId, template};
use heronry_net::listen::{self, ListenError};
use heronry_numa::clock::Watch;
use heronry_numa::{Calibration, Host};
use heronry_shards::seat::{Seat, SeatPlan};
use heronry_shards::supervisor::{self, NodePlan, Notice};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Part of memory that all arenas together may use when the config does not say.
const ARENAS_PERCENT: u64 = 60;
/// Part of memory that the live sandboxes of all shards together may use.
const LIVE_PERCENT: u64 = 25;
/// Descriptors of a shard that are no connections.
const OWN_FILES: u64 = 128;
/// How long a start waits for an address that somebody listens on, and between two looks.
const SOCKET_WAIT: Duration = Duration::from_secs(2);
const SOCKET_PAUSE: Duration = Duration::from_millis(50);
/// A shard without a heartbeat for this long is taken for hung.
const HANG: Duration = Duration::from_secs(10);

/// Templates beside the built-in ones.
static EXTRA_TEMPLATES: OnceLock<&'static [Native]> = OnceLock::new();

/// Adds native templates to every node of this program; for programs that embed Heronry. Call
/// once, before [`crate::run`], in every process: a shard process is the same program.
pub fn add_templates(templates: &'static [Native]) {
    assert!(EXTRA_TEMPLATES.set(templates).is_ok(), "templates are added once");
}

/// All templates of this program.
fn templates() -> Vec<Native> {
    let extra = EXTRA_TEMPLATES.get().copied().unwrap_or_default();
    template::built_in().into_iter().chain(extra.iter().copied()).collect()
}

/// Runs a node until Ctrl-C; with `--demo` until the demo is over.
pub fn up(options: UpOptions, global: &Global, output: Output) -> Result<()> {
    // What takes its time goes on side by side: the clocks are watched, templates are read.
    let watch = Calibration::begin();
    let config = config::of_node(&options)?;
    let ground = Ground::take(&config)?;
    let site = Site::take(&config, &ground)?;
    let (tcp, shard_count) = (site.tcp, site.shard_count);
    let control = Control::start(&config, &config::data_dir(&config), shard_count)?;
    let mut plan = plan(&config, &site, watch)?;
    control.await_templates()?;
    plan.links = Some(control.links());
    let (stop, stopped) = bounded(1);
    let ready =
        format!("ready: tcp {tcp} unix {} shards {shard_count}", ground.unix_socket.display());
    let mut demo = options.demo.then(|| Demo::new(global, &ground, output, stop.clone()));
    let outcome = supervisor::supervise(plan, serve::run_boxed, stopped, &mut |_, notice| {
        if matches!(notice, Notice::Ready) {
            match &mut demo {
                Some(demo) => demo.begin(),
                None => greet(&ready, tcp, &ground, &config),
            }
        } else {
            eprintln!("heronry: {}", line(&notice));
        }
    });
    control.end();
    // A demo that was cut off by Ctrl-C is no failure of the demo.
    let shown = demo.map_or(Ok(()), Demo::end);
    outcome?;
    if !options.demo {
        eprintln!("heronry: stopped");
    }
    shown
}

/// The role of a shard process: takes the seat that the supervisor left, and serves.
pub fn shard() -> Result<()> {
    let seat = Seat::inherit()?;
    let shard = seat.plan.shard;
    serve::run(seat).with_context(|| format!("shard {}", shard.0))
}

fn greet(ready: &str, tcp: SocketAddr, ground: &Ground, config: &Config) {
    println!("{ready}");
    let program = std::env::args().next().unwrap_or_else(|| "heronry".into());
    let (host, port) = (tcp.ip(), tcp.port());
    let secret = if config.node.password.is_empty() { "" } else { " -a PASSWORD" };
    eprintln!("heronry: talk to it with: redis-cli -p {port}{secret} AGENT.CREATE notebook/a");
    eprintln!("heronry: or:              redis-cli -s {} PING", ground.unix_socket.display());
    let secret = if config.node.password.is_empty() { "" } else { " --password PASSWORD" };
    eprintln!("heronry: watch it with:   {program} --connect {host}:{port}{secret} top");
    eprintln!("heronry: stop it with Ctrl-C");
    // A reader of the pipe may be gone; the node serves all the same.
    let _ = std::io::stdout().flush();
}

fn line(notice: &Notice) -> String {
    let ms = |span: &Duration| span.as_millis();
    match notice {
        Notice::Ready => "ready".into(),
        Notice::Ended { shard, how, pause } => format!(
            "shard {} ended ({how}); starting it again in {} ms, with the agents that its log has",
            shard.0,
            ms(pause)
        ),
        Notice::GivenUp { shard, count, window, how } => format!(
            "shard {} ended {count} times within {} s ({how}) and stays down, as \
             shards.restart_max says; its agents answer TRYAGAIN until the node is restarted",
            shard.0,
            window.as_secs()
        ),
        Notice::Back { shard, after } => format!("shard {} is up after {} ms", shard.0, ms(after)),
        Notice::Stalled { shard, key, running } => {
            format!("shard {}: a turn of {key} has been running for {} ms", shard.0, ms(running))
        }
        Notice::Hung { shard, silent } => {
            format!("shard {} has been silent for {} ms; killing it", shard.0, ms(silent))
        }
        Notice::Stopping { by } => format!("stopping ({by})"),
    }
}

/// What a node takes on the host before it starts; given back when dropped (O1).
struct Ground {
    unix_socket: PathBuf,
    _lock: File,
}

impl Ground {
    fn take(config: &Config) -> Result<Ground> {
        let data_dir = config::data_dir(config);
        std::fs::create_dir_all(&data_dir).with_context(|| {
            format!("{} cannot be the data folder; choose another with --data", data_dir.display())
        })?;
        let lock = lock(&data_dir)?;
        Ok(Ground { unix_socket: config::unix_socket(config), _lock: lock })
    }
}

/// The file of our Unix socket, removed when dropped. Made only once the socket is ours (O1).
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Whether a node holds the lock of the data folder; nothing is made there.
pub(crate) fn is_running(data_dir: &Path) -> bool {
    let lock = File::open(data_dir.join("lock"));
    lock.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// One node per data folder.
pub(crate) fn lock(data_dir: &Path) -> Result<File> {
    let path = data_dir.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "the data folder {} belongs to a running node (process {}); stop that one, or \
                 choose another folder with --data",
                data_dir.display(),
                pid.trim()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    noted.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

/// What a node has on its host once nothing stands in its way (O1).
struct Site {
    host: Host,
    shard_count: u16,
    tcp: SocketAddr,
    unix_listener: OwnedFd,
    _socket: SocketFile,
}

impl Site {
    fn take(config: &Config, ground: &Ground) -> Result<Site> {
        let host = Host::discover().context("cannot read the host's topology")?;
        let shard_count = match config.shards.count {
            0 => host.shard_count_default(),
            count => count,
        };
        take_agents_in(&config::data_dir(config), config, shard_count)?;
        raise_open_files();
        let ip: IpAddr = config.node.bind.parse().context("node.bind")?;
        let tcp = patiently(|| listen::probe_free(SocketAddr::new(ip, config.node.port)))?;
        let unix_listener = patiently(|| listen::listen_unix(&ground.unix_socket))?;
        let _socket = SocketFile(ground.unix_socket.clone());
        Ok(Site { host, shard_count, tcp, unix_listener, _socket })
    }
}

/// The plan of the node.
fn plan(config: &Config, site: &Site, watch: Watch) -> Result<NodePlan> {
    let Site { host, shard_count, tcp, unix_listener, .. } = site;
    let (shard_count, tcp) = (*shard_count, *tcp);
    // What the log says of times is to hold after the machine was started again.
    let calibration = watch.end().since_1970();
    let places = host.plan_shards(shard_count, config.shards.pin);
    let arena_bytes = match config.shards.arena_bytes {
        0 => host.memory_bytes() / 100 * ARENAS_PERCENT / u64::from(shard_count),
        bytes => bytes,
    };
    let live_bytes = host.memory_bytes() / 100 * LIVE_PERCENT / u64::from(shard_count);
    let compiled = config.to_bytes();
    let seats = places.iter().map(|place| SeatPlan {
        shard: ShardId(place.shard),
        shard_count,
        cpu: place.cpu,
        numa_node: place.node.filter(|_| host.nodes().len() > 1),
        tcp: Some(tcp),
        unix: true,
        arena_bytes,
        live_bytes,
        calibration,
        config: compiled.clone(),
    });
    Ok(NodePlan {
        seats: seats.collect(),
        isolation: match config.shards.isolation {
            Isolation::Process => supervisor::Isolation::Process,
            Isolation::Thread => supervisor::Isolation::Thread,
        },
        ring_bytes: usize::try_from(config.shards.ring_bytes)?,
        unix_listener: Some(unix_listener.try_clone()?),
        stall: Duration::from_millis(u64::from(config.shards.stall_ms)),
        restart_max: config.shards.restart_max,
        restart_window: Duration::from_millis(u64::from(config.shards.restart_window_ms)),
        hang: HANG,
        links: None,
    })
}

/// Asks for an address for a while: the kernel may close the listeners of a killed node a moment
/// after its supervisor is gone.
fn patiently<T>(listen: impl Fn() -> Result<T, ListenError>) -> Result<T> {
    let deadline = Instant::now() + SOCKET_WAIT;
    loop {
        match listen() {
            Err(ListenError::UnixInUse { .. } | ListenError::InUse { .. })
                if Instant::now() < deadline =>
            {
                std::thread::sleep(SOCKET_PAUSE);
            }
            listening => return Ok(listening?),
        }
    }
}

/// Has the logs of the data folder made those of as many shards as this node has.
fn take_agents_in(data_dir: &Path, config: &Config, shard_count: u16) -> Result<()> {
    if !config.log.enabled {
        return Ok(());
    }
    let started = Instant::now();
    let begun = |before| {
        eprintln!(
            "heronry: the data folder was written with {before} shards, and this node has \
             {shard_count}: its agents are moved, which takes room for a copy of their records"
        );
    };
    let segment_bytes = config.log.segment_bytes;
    let rehomed = rehome(data_dir, shard_count, segment_bytes, serve::entropy, begun);
    let rehomed = rehomed.with_context(|| {
        format!("the logs in the data folder {} cannot be used", data_dir.display())
    })?;
    if let Some(Rehomed { shards_before, agents, bytes }) = rehomed {
        eprintln!(
            "heronry: {agents} agents with {bytes} bytes of records moved from {shards_before} \
             to {shard_count} shards in {} ms",
            started.elapsed().as_millis()
        );
    }
    Ok(())
}

/// Raises the soft limit on open files to the hard one; shards inherit it.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Not being allowed to is no error: the connections that fit are served.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Most connections of one shard: what the config says, or what open files allow.
fn connections_max(config: &Config) -> u32 {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::from(u32::MAX));
    let room = u32::try_from(files.saturating_sub(OWN_FILES).max(1)).unwrap_or(u32::MAX);
    match config.net.connections_max {
        0 => room,
        count => count.min(room),
    }
}

/// The demo beside a running node: a client thread of the supervisor's process.
struct Demo {
    global: Global,
    output: Output,
    stop: Sender<()>,
    outcome: (Sender<Result<()>>, Receiver<Result<()>>),
    begun: bool,
}

impl Demo {
    fn new(global: &Global, ground: &Ground, output: Output, stop: Sender<()>) -> Demo {
        let mut global = global.clone();
        global.connect = Some(crate::address::Address::Unix(ground.unix_socket.clone()));
        Demo { global, output, stop, outcome: bounded(1), begun: false }
    }

    fn begin(&mut self) {
        self.begun = true;
        let (global, output, stop) = (self.global.clone(), self.output, self.stop.clone());
        let tell = self.outcome.0.clone();
        std::thread::spawn(move || {
            let outcome = demo::run(&global, output);
            // Nobody waits any more after Ctrl-C.
            let _ = tell.try_send(outcome);
            let _ = stop.try_send(());
        });
    }

    fn end(self) -> Result<()> {
        match self.outcome.1.try_recv() {
            Ok(outcome) => outcome,
            Err(_) if self.begun => bail!("the demo was interrupted"),
            Err(_) => Ok(()),
        }
    }
}
