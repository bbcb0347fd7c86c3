//! `scaling`: seal and fork cycles on one core, and on all cores as processes and as threads.
//!
//! Owns: starting the workers together and summing their rates.  Not: the cycle (`cycle.rs`).
//! A1  all workers of a run begin and end at the same wall-clock times, each pinned to its CPU.
//! A2  the ratio is against cores x the rate of one core, taken in the same round.

use crate::context::{self, Context};
use crate::cycle::{Cycle, Shape};
use crate::report::{Better, Report, ratios};
use crate::sys;
use anyhow::Context as _;
use clap::Args;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time that workers get to build their images before the clock starts.
const LEAD: Duration = Duration::from_millis(400);

/// Arguments of `scaling`.
#[derive(Clone, Debug, Args)]
pub struct ScalingArgs {
    /// Pages of each image
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub pages: u32,
    /// Pages dirtied before each seal and fork
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub dirty: u32,
}

/// Arguments of the hidden worker.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    shape: ScalingArgs,
    /// CPU to pin to
    #[arg(long)]
    cpu: usize,
    /// When to begin, in milliseconds since 1970
    #[arg(long)]
    begin_unix_ms: u64,
    /// How long to work
    #[arg(long)]
    work_ms: u64,
}

/// Runs `scaling`.
pub fn run(context: &Context, args: &ScalingArgs) -> anyhow::Result<Report> {
    anyhow::ensure!(args.dirty <= args.pages, "--dirty is {}; allowed: 1 to --pages", args.dirty);
    let mut report = Report::new("scaling");
    let all = &context.cores.all;
    report.note(format!(
        "cycle: dirty {} of {} pages, seal, fork, end the branch; CPUs {all:?}",
        args.dirty, args.pages
    ));
    let (mut one, mut processes, mut threads) = (Vec::new(), Vec::new(), Vec::new());
    let bar = context.progress("scaling", 3 * context.repeat as u64);
    for _ in 0..context.repeat {
        one.push(by_processes(context, args, &all[..1])?);
        bar.inc(1);
        processes.push(by_processes(context, args, all)?);
        bar.inc(1);
        threads.push(by_threads(context, args, all)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let ideal: Vec<f64> = one.iter().map(|rate| rate * all.len() as f64).collect();
    report.figure("one-core/rate", "cycles/s", Better::Higher, one);
    report.figure("processes/rate", "cycles/s", Better::Higher, processes.clone());
    report.figure("threads/rate", "cycles/s", Better::Higher, threads.clone());
    report.figure("processes:ideal", "x", Better::Higher, ratios(&processes, &ideal));
    report.figure("threads:ideal", "x", Better::Higher, ratios(&threads, &ideal));
    Ok(report)
}

/// The hidden worker: waits for its time, works, prints cycles per second.
pub fn run_worker(args: &WorkerArgs) -> anyhow::Result<()> {
    sys::CpuMask::of(&[args.cpu]).apply()?;
    let begin_at = UNIX_EPOCH + Duration::from_millis(args.begin_unix_ms);
    let rate = work(&args.shape, begin_at, Duration::from_millis(args.work_ms))?;
    println!("{rate}");
    Ok(())
}

fn work(args: &ScalingArgs, begin_at: SystemTime, length: Duration) -> anyhow::Result<f64> {
    let mut cycle = Cycle::new(Shape { page_count: args.pages, dirty_count: args.dirty })?;
    for _ in 0..100 {
        cycle.turn_over()?;
    }
    std::thread::sleep(begin_at.duration_since(SystemTime::now()).unwrap_or_default());
    let started_at = Instant::now();
    let mut count = 0;
    while started_at.elapsed() < length {
        for _ in 0..16 {
            count += cycle.turn_over()?;
        }
    }
    Ok(count as f64 / started_at.elapsed().as_secs_f64())
}

/// Workers as processes, one per CPU; ended and reaped however this returns.
fn by_processes(context: &Context, args: &ScalingArgs, cpus: &[usize]) -> anyhow::Result<f64> {
    context::check_interrupt()?;
    let begin_ms = begin_at().duration_since(UNIX_EPOCH)?.as_millis().to_string();
    let work_ms = ((context.seconds * 1000.0) as u64).to_string();
    let mut workers = Workers(Vec::new());
    for cpu in cpus {
        let mut command = Command::new(&context.node_exe);
        command.args(["bench", "scaling-worker", "--cpu", &cpu.to_string()]);
        command.args(["--begin-unix-ms", &begin_ms, "--work-ms", &work_ms]);
        command.args(["--pages", &args.pages.to_string(), "--dirty", &args.dirty.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        sys::confine(&mut command, &[*cpu], libc::SIGKILL);
        workers.0.push(Some(command.spawn().context("cannot start a worker")?));
    }
    let mut sum = 0.0;
    for worker in &mut workers.0 {
        let Some(worker) = worker.take() else { continue };
        let output = worker.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        sum += text.trim().parse::<f64>().context("a worker gave no rate")?;
    }
    Ok(sum)
}

fn by_threads(context: &Context, args: &ScalingArgs, cpus: &[usize]) -> anyhow::Result<f64> {
    context::check_interrupt()?;
    let begin_at = begin_at();
    let length = Duration::from_secs_f64(context.seconds);
    let worker = |cpu: usize| -> anyhow::Result<f64> {
        sys::CpuMask::of(&[cpu]).apply()?;
        work(args, begin_at, length)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = cpus.iter().map(|cpu| scope.spawn(move || worker(*cpu))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|rate| rate.map_err(|_| anyhow::anyhow!("a worker panicked"))?).sum()
    })
}

fn begin_at() -> SystemTime {
    SystemTime::now() + LEAD
}

struct Workers(Vec<Option<Child>>);

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in self.0.iter_mut().flatten() {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}
