//! One shard of a node, from its seat to its last answer.
//!
//! Owns: pinning, the arena, which driver and gateway a shard gets, its words to the operator.
//! Not: the loop (`shards`), what agents do (`engine`).

use super::{connections_max, templates};
use anyhow::{Context, Result};
use heronry_engine::config::{Config, Isolation, Promise, Runtime, promises};
use heronry_engine::{Ack, Nanos, PageStore, Partition, PartitionConfig};
use heronry_net::{Resp, RespConfig, listen};
use heronry_numa::{Arena, ArenaPlan, Clock, Host, pin};
use heronry_shards::Driver;
use heronry_shards::gateway::TemplateRow;
use heronry_shards::glommio::{Glommio, run_on_glommio};
use heronry_shards::log::LogPlan;
use heronry_shards::log::folder::Folder;
use heronry_shards::roster::Roster;
use heronry_shards::sandbox::live::{LiveLimits, World};
use heronry_shards::sandbox::workshop::{SandboxWorkshop, WorkshopPlan};
use heronry_shards::seat::{Seat, SeatPlan};
use heronry_shards::shared::Shared;
use heronry_shards::supervisor::ShardError;
use heronry_shards::turn::{LoopPlan, Parts, Shard};
use heronry_shards::uring::{Uring, UringConfig, block_on};
use heronry_shards::view::NodeFacts;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Least bytes of an arena that a shard starts with.
const ARENA_BYTES_MIN: u64 = 16 << 20;

/// As [`run`], with the error in the supervisor's type.
pub(super) fn run_boxed(seat: Seat) -> Result<(), ShardError> {
    run(seat).map_err(|error| ShardError(error.into()))
}

/// Serves on a seat until the node stops.
pub(super) fn run(seat: Seat) -> Result<()> {
    let Seat { plan, shared, doorbells, roster, unix_listener, link } = seat;
    let config = Config::from_bytes(&plan.config).context("the compiled config")?;
    let clock = Clock::new(plan.calibration);
    let cpu = place(&plan, &shared);
    quiet_turns(&config);
    let listeners = listeners(&plan, unix_listener)?;
    let outfit = Outfit { listeners, plan, config, shared, roster, link };
    match outfit.config.shards.runtime {
        Runtime::Uring => {
            let spin = outfit.config.shards.spin_us > 0;
            let driver =
                Uring::new(UringConfig { cpu, spin, ..UringConfig::new(doorbells) }, clock)?;
            let mut shard = outfit.shard(driver)?;
            Ok(block_on(shard.run())?)
        }
        Runtime::Glommio => run_on_glommio(cpu, move || async move {
            let driver = Glommio::new(doorbells, clock)?;
            Ok(outfit.shard(driver)?.run().await?)
        })?,
    }
}

/// Everything of a shard but its driver.
struct Outfit {
    plan: SeatPlan,
    config: Config,
    shared: Arc<Shared>,
    roster: OwnedFd,
    listeners: Vec<OwnedFd>,
    link: Option<OwnedFd>,
}

impl Outfit {
    fn shard<D: Driver>(self, mut driver: D) -> Result<Shard<D, Resp>> {
        let Outfit { plan, config, shared, roster, listeners, link } = self;
        let (roster, reading) = Roster::attach(roster).context("the roster")?;
        let partition =
            Partition::new(settings(&plan, &config)?, arena(&plan, &config)?, templates());
        let log = config.log.enabled.then(|| log(&plan, &config)).transpose()?;
        let handles = listeners.into_iter().map(|listener| driver.adopt(listener)).collect();
        let link = link.map(|link| driver.adopt(link));
        let facts = facts(&config, driver.name());
        Ok(Shard::new(
            plan.shard,
            Parts {
                gateway: gateway(&plan, &config)?,
                driver,
                partition,
                shared,
                log,
                past: reading.living,
                roster,
                listeners: handles,
                link,
                workshop: Box::new(workshop(&plan, &config)?),
                facts,
                plan: LoopPlan {
                    spin: Nanos::from_us(u64::from(config.shards.spin_us)),
                    stall: Nanos::from_ms(u64::from(config.shards.stall_ms)),
                    connections_max: connections_max(&config),
                    report,
                },
            },
        ))
    }
}

/// Pins the shard and says so in its block; unpinned is slower, not wrong.
fn place(plan: &SeatPlan, shared: &Shared) -> Option<usize> {
    let block = shared.block(plan.shard);
    block.set_pid(std::process::id());
    let cpu = plan.cpu.and_then(|cpu| match pin::pin(cpu) {
        Ok(pinned) => Some(pinned.cpu()),
        Err(error) => {
            report(format_args!("shard {} runs unpinned: {error}", plan.shard.0));
            None
        }
    });
    block.set_cpu(cpu);
    cpu.map(|cpu| cpu as usize)
}

fn listeners(plan: &SeatPlan, unix: Option<OwnedFd>) -> Result<Vec<OwnedFd>> {
    let tcp = plan.tcp.map(listen::listen_tcp).transpose()?;
    Ok(tcp.into_iter().chain(unix).collect())
}

fn arena(plan: &SeatPlan, config: &Config) -> Result<PageStore> {
    let host = plan.numa_node.map(|_| Host::discover()).transpose()?;
    let bytes = match config.shards.arena_bytes {
        // A chosen size is meant; one that we chose may be cut to what the limits allow.
        0 => ARENA_BYTES_MIN..=plan.arena_bytes.max(ARENA_BYTES_MIN),
        bytes => bytes..=bytes,
    };
    let wanted = ArenaPlan { bytes, node: plan.numa_node, huge_pages: config.shards.huge_pages };
    Ok(PageStore::new(Arena::reserve(&wanted, host.as_ref())?.bytes))
}

fn settings(plan: &SeatPlan, config: &Config) -> Result<PartitionConfig> {
    let agents = &config.agents;
    Ok(PartitionConfig {
        shard: plan.shard,
        shard_count: plan.shard_count,
        seal_every: agents.seal_every,
        history_max: agents.history,
        checkpoints_max: agents.checkpoints_max,
        mailbox_max: agents.mailbox_max,
        agents_max: agents.agents_max,
        payload_bytes_max: usize::try_from(config.net.payload_bytes_max)?,
        dedupe_max: agents.dedupe_max,
        call_timeout: Nanos::from_ms(u64::from(agents.call_timeout_ms)),
        quarantine_failures: agents.quarantine_failures,
        quarantine_window: Nanos::from_ms(u64::from(agents.quarantine_window_ms)),
        create_on_send: agents.create_on_send,
        image_bytes_max: agents.image_bytes_max,
        log: config.log.enabled,
        ack: ack(config.log.ack),
        ack_by_template: promises(&config.log.ack_by_template)
            .context("log.ack_by_template")?
            .into_iter()
            .map(|(name, promise)| (name.to_owned(), ack(promise)))
            .collect(),
    })
}

fn ack(promise: Promise) -> Ack {
    match promise {
        Promise::Durable => Ack::Durable,
        Promise::Sealed => Ack::Sealed,
    }
}

/// The shard's log, in a folder of its own.
fn log(plan: &SeatPlan, config: &Config) -> Result<LogPlan> {
    let path = crate::config::log_dir(config, plan.shard.0);
    let opened = Folder::open(&path, entropy);
    let (folder, key) =
        opened.with_context(|| format!("the log's folder {} cannot be used", path.display()))?;
    Ok(LogPlan {
        files: Box::new(folder),
        key,
        segment_bytes: u32::try_from(config.log.segment_bytes)?,
        delay: Nanos::from_ms(u64::from(config.log.delay_ms)),
        index_bytes: config.log.index_bytes,
    })
}

fn gateway(plan: &SeatPlan, config: &Config) -> Result<Resp> {
    Ok(Resp::new(RespConfig {
        shard: plan.shard,
        password: config.node.password.clone(),
        payload_bytes_max: usize::try_from(config.net.payload_bytes_max)?,
        pipeline_max: config.net.pipeline_max as usize,
        output_bytes_max: usize::try_from(config.net.output_bytes_max)?,
    }))
}

/// What makes sandboxes of the node's templates.
fn workshop(plan: &SeatPlan, config: &Config) -> Result<SandboxWorkshop> {
    let sandbox = &config.sandbox;
    Ok(SandboxWorkshop::new(WorkshopPlan {
        cache_dir: crate::config::cache_dir(config),
        limits: LiveLimits {
            live_max: (sandbox.live_max > 0).then_some(sandbox.live_max),
            live_bytes: Some(plan.live_bytes),
            memory_bytes_max: sandbox.memory_bytes_max,
            turn_cpu_max: Duration::from_millis(u64::from(sandbox.turn_ms_max)),
        },
        world: World { unix_ns, entropy, report },
        payload_bytes_max: usize::try_from(config.net.payload_bytes_max)?,
    }))
}

fn unix_ns() -> u64 {
    // A clock before 1970 is set wrongly; the agent's own clock never goes back.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn entropy() -> [u8; 32] {
    let mut bytes = [0; 32];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    // Reads of up to 256 bytes are never short once the kernel's pool is ready.
    assert_eq!(filled, Ok(bytes.len()), "the kernel gives no random bytes");
    bytes
}

fn facts(config: &Config, driver: &str) -> NodeFacts {
    NodeFacts {
        templates: templates().iter().map(|native| TemplateRow::native(*native)).collect(),
        facts: vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("runtime", driver.to_owned()),
            ("isolation", config.shards.isolation.name().to_owned()),
            ("config_hash", crate::config::hex(&config.hash()[..8])),
            ("tcp_port", config.node.port.to_string()),
        ],
    }
}

/// A behaviour's panic is an answer to its sender; the log gets one line instead of a backtrace.
fn quiet_turns(config: &Config) {
    if config.shards.isolation == Isolation::Process {
        std::panic::set_hook(Box::new(|panic| {
            report(format_args!("{panic}"));
        }));
    }
}

/// One line for the operator.
fn report(line: std::fmt::Arguments<'_>) {
    eprintln!("heronry: {line}");
}
