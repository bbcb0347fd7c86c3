//! What was measured where: CPU, memory, kernel, commit; and which CPU is for whom.
//!
//! Owns: reading `/proc` about the host and about processes of a scenario.  Not: pinning itself.
//! M1  server and client get different CPUs whenever there are two; the report says which.

use crate::sys;
use serde::{Deserialize, Serialize};
use std::fs;
use std::process::Command;

/// The host, as a report carries it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// CPU model as the kernel names it.
    pub cpu: String,
    /// CPUs this process may use.
    pub cpu_count: usize,
    /// Total memory in bytes.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
}

impl Machine {
    /// Reads the host. What cannot be read is `unknown` or 0.
    pub fn read() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            cpu: field("model name").unwrap_or_else(|| "unknown".into()),
            cpu_count: sys::allowed_cpus().len(),
            memory_bytes: kib_field(&meminfo, "MemTotal:") * 1024,
            kernel: if kernel.is_empty() { "unknown".into() } else { kernel.trim().into() },
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gib = self.memory_bytes as f64 / f64::from(1 << 30);
        write!(f, "{} x {}, {gib:.1} GiB, Linux {}", self.cpu_count, self.cpu, self.kernel)
    }
}

/// The commit measured: fixed at build time by `HERONRY_COMMIT`, else asked of git.
pub fn commit() -> String {
    if let Some(commit) = option_env!("HERONRY_COMMIT") {
        return commit.to_owned();
    }
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        None => "unknown".into(),
        Some(head) => match git(&["status", "--porcelain", "--untracked-files=no"]) {
            Some(changes) if !changes.is_empty() => format!("{head}+changes"),
            _ => head,
        },
    }
}

/// CPUs for the two sides of a measurement (M1).
#[derive(Clone, Debug, PartialEq)]
pub struct Cores {
    /// All CPUs there are.
    pub all: Vec<usize>,
    /// The server's.
    pub server: usize,
    /// The load generator's.
    pub client: usize,
}

impl Cores {
    /// First allowed CPU to the server, last to the client.
    pub fn read() -> Cores {
        Cores::of(sys::allowed_cpus())
    }

    fn of(all: Vec<usize>) -> Cores {
        let server = all.first().copied().unwrap_or(0);
        let client = all.last().copied().unwrap_or(0);
        Cores { all, server, client }
    }

    /// Whether server and client have a CPU each.
    pub fn apart(&self) -> bool {
        self.server != self.client
    }
}

/// Resident bytes of a process; 0 when it is gone.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kib_field(&status, "VmRSS:") * 1024
}

/// Resident bytes of a process without file and shared mappings; 0 when it is gone.
pub fn private_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kib_field(&status, "RssAnon:") * 1024
}

/// CPU seconds that a process has used, all threads; 0 when it is gone.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat_ticks(&stat) as f64 / sys::page_bytes_and_ticks().1 as f64
}

/// Whether a process lives; one that has ended and is not reaped yet does not.
pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    state.is_some_and(|state| !matches!(state, "Z" | "X"))
}

/// A process and all its living descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut next = 0;
    while next < pids.len() {
        let tasks = fs::read_dir(format!("/proc/{}/task", pids[next]));
        for task in tasks.into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        next += 1;
    }
    pids
}

/// `utime + stime` out of a `/proc/PID/stat` line; the name in parentheses may hold anything.
fn stat_ticks(stat: &str) -> u64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    ticks() + ticks()
}

fn kib_field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m1_two_cpus_are_split_and_one_is_shared() {
        assert!(Cores::of(vec![2, 5]).apart());
        assert_eq!(Cores::of(vec![2, 5]).server, 2);
        assert!(!Cores::of(vec![3]).apart());
    }

    #[test]
    fn stat_line_with_spaces_and_parentheses_in_the_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 31 11 0 0 20 0 1 0 9 1 1";
        assert_eq!(stat_ticks(stat), 42);
    }

    #[test]
    fn this_process_is_resident_and_of_its_own_family() {
        assert!(resident_bytes(std::process::id()) > 0);
        assert!(family(std::process::id()).contains(&std::process::id()));
        assert!(Machine::read().memory_bytes > 0);
        assert!(is_running(std::process::id()) && !is_running(u32::MAX));
    }
}
