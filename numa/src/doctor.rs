//! Whether this machine is fit for Heronry: what was found, what it costs, how to fix it.
//!
//! Owns: the findings and their order.  Not: changing anything on the machine.
//! D1  every probe gives exactly one finding, on any machine; none panics or waits long.
//! D2  a finding that is not good says what it costs and the command that fixes it.
//! D3  probes judge texts and numbers handed to them, so each verdict can be tested anywhere.

mod cpu;
mod dirty;
mod kernel;
mod limits;
mod memory;
mod ring;

use crate::cgroup::{self, CgroupLimits};
use crate::sys;
use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Good,
    /// Works, and costs something.
    Warn,
    /// Something of Heronry does not work.
    Bad,
}

impl Status {
    /// The name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Good => "good",
            Status::Warn => "warn",
            Status::Bad => "bad",
        }
    }
}

/// What one probe found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// The verdict.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What it costs, in plain words; empty when good.
    pub cost: String,
    /// The command that fixes it, or where there is none what would help; empty when good.
    pub fix: String,
}

impl Finding {
    fn good(name: &'static str, found: impl Into<String>) -> Finding {
        let (cost, fix) = (String::new(), String::new());
        Finding { name, status: Status::Good, found: found.into(), cost, fix }
    }

    fn warn(
        name: &'static str,
        found: impl Into<String>,
        cost: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        let (found, cost, fix) = (found.into(), cost.into(), fix.into());
        Finding { name, status: Status::Warn, found, cost, fix }
    }

    fn bad(
        name: &'static str,
        found: impl Into<String>,
        cost: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding { status: Status::Bad, ..Finding::warn(name, found, cost, fix) }
    }
}

/// What probes may look at.
struct Eyes<'a> {
    /// Text of a file of the kernel.
    read: &'a dyn Fn(&str) -> Option<String>,
    /// A resource limit.
    limit: &'a dyn Fn(libc::__rlimit_resource_t) -> Option<sys::Limit>,
    /// Our control groups' limits.
    cgroup: CgroupLimits,
    /// CPUs that we may use.
    cpus: Vec<u32>,
}

impl Eyes<'_> {
    /// A file's text, trimmed.
    fn text(&self, path: &str) -> Option<String> {
        (self.read)(path).map(|text| text.trim().to_owned())
    }

    /// A number alone in a file.
    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// A row of /proc/meminfo in bytes.
    fn memory_bytes(&self, row: &str) -> Option<u64> {
        crate::arena::meminfo_bytes(&(self.read)("/proc/meminfo")?, row)
    }
}

/// Examines the machine (D1). Cost: some milliseconds; makes a small ring, a socket pair and a
/// mapping, and removes them.
pub fn run() -> Vec<Finding> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let limit = |resource| sys::limit(resource).ok();
    let cpus = sys::affinity().unwrap_or_default();
    let eyes = Eyes { read: &read, limit: &limit, cgroup: cgroup::limits(), cpus };
    let mut findings = judge(&eyes);
    findings.extend(ring::probe(&eyes));
    findings.extend(dirty::probe());
    findings
}

/// The worst status among findings.
pub fn worst(findings: &[Finding]) -> Status {
    findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Good)
}

/// The probes that only read (D3).
fn judge(eyes: &Eyes<'_>) -> Vec<Finding> {
    let probes: [fn(&Eyes<'_>) -> Finding; 16] = [
        kernel::version,
        kernel::io_uring_disabled,
        limits::memlock,
        limits::open_files,
        limits::max_map_count,
        memory::transparent_huge_pages,
        memory::explicit_huge_pages,
        memory::overcommit,
        memory::swap,
        memory::cgroup_memory,
        cpu::allowed,
        cpu::cgroup_quota,
        cpu::governor,
        cpu::tsc,
        cpu::nodes,
        cpu::numa_balancing,
    ];
    probes.iter().map(|probe| probe(eyes)).collect()
}

/// Bytes for people.
fn humane_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} B"),
    }
}

/// A limit for people.
fn humane_limit(limit: u64) -> String {
    if limit == libc::RLIM_INFINITY { "unlimited".to_owned() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The findings on a machine with these files and limits.
    fn findings_with(
        files: &[(&str, &str)],
        limits: &[(libc::__rlimit_resource_t, u64, u64)],
        cgroup: CgroupLimits,
        cpus: &[u32],
    ) -> BTreeMap<&'static str, Finding> {
        let read = |path: &str| {
            files.iter().find(|(name, _)| *name == path).map(|(_, text)| text.to_string())
        };
        let limit = |resource| {
            limits
                .iter()
                .find(|(which, ..)| *which == resource)
                .map(|(_, soft, hard)| sys::Limit { soft: *soft, hard: *hard })
        };
        let eyes = Eyes { read: &read, limit: &limit, cgroup, cpus: cpus.to_vec() };
        judge(&eyes).into_iter().map(|finding| (finding.name, finding)).collect()
    }

    fn check_form(findings: &[Finding]) {
        for finding in findings {
            assert!(!finding.name.is_empty() && !finding.found.is_empty(), "{finding:?}");
            let good = finding.status == Status::Good;
            assert_eq!(finding.cost.is_empty(), good, "D2: {finding:?}");
            assert_eq!(finding.fix.is_empty(), good, "D2: {finding:?}");
        }
    }

    #[test]
    fn d1_this_machine_is_examined_without_panic() {
        let findings = run();
        check_form(&findings);
        let mut names: Vec<_> = findings.iter().map(|finding| finding.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), findings.len(), "D1: one finding per probe");
        let asked = ["io_uring accept multishot", "io_uring receive multishot", "io_uring futex"];
        for name in asked.into_iter().chain(["userfaultfd", "pagemap_scan", "memlock"]) {
            assert!(names.contains(&name), "{name} is missing");
        }
    }

    #[test]
    fn d1_a_machine_of_which_nothing_can_be_read_gets_every_finding() {
        let findings = findings_with(&[], &[], CgroupLimits::default(), &[]);
        assert_eq!(findings.len(), 16);
        check_form(&findings.into_values().collect::<Vec<_>>());
    }

    #[test]
    fn d2_a_poor_machine_is_told_what_it_costs_and_the_fix() {
        let files = [
            ("/proc/sys/kernel/osrelease", "5.10.0-9-amd64"),
            ("/proc/sys/kernel/io_uring_disabled", "2"),
            ("/proc/sys/vm/max_map_count", "1000"),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]"),
            ("/proc/sys/vm/nr_hugepages", "512"),
            ("/proc/sys/vm/overcommit_memory", "2"),
            ("/proc/meminfo", "MemTotal: 1000 kB\nSwapTotal: 10 kB\nHugepagesize: 2048 kB\n"),
            ("/sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave"),
            ("/sys/devices/system/node/online", "0-1"),
            ("/proc/sys/kernel/numa_balancing", "1"),
        ];
        let limits =
            [(libc::RLIMIT_MEMLOCK, 64 << 10, 64 << 10), (libc::RLIMIT_NOFILE, 256, 1 << 20)];
        let cgroup = CgroupLimits { cpu_millis: Some(1500), memory_bytes: Some(1 << 28) };
        let findings = findings_with(&files, &limits, cgroup, &[3, 4]);
        let expected = [
            ("kernel", Status::Bad, "6.1"),
            ("io_uring_disabled", Status::Bad, "sysctl -w kernel.io_uring_disabled=0"),
            ("memlock", Status::Bad, "ulimit -l"),
            ("open_files", Status::Bad, "ulimit -n 1048576"),
            ("max_map_count", Status::Warn, "sysctl -w vm.max_map_count=262144"),
            ("transparent_huge_pages", Status::Warn, "echo madvise"),
            ("explicit_huge_pages", Status::Warn, "sysctl -w vm.nr_hugepages=0"),
            ("overcommit", Status::Bad, "sysctl -w vm.overcommit_memory=0"),
            ("swap", Status::Warn, "swapoff -a"),
            ("cgroup_memory", Status::Warn, "MemoryMax"),
            ("cgroup_cpu", Status::Warn, "CPUQuota"),
            ("cpu_governor", Status::Warn, "performance"),
            ("numa_balancing", Status::Warn, "sysctl -w kernel.numa_balancing=0"),
        ];
        for (name, status, fix) in expected {
            let finding = &findings[name];
            assert_eq!(finding.status, status, "{finding:?}");
            assert!(finding.fix.contains(fix), "{finding:?} should say {fix}");
        }
        check_form(&findings.into_values().collect::<Vec<_>>());
    }

    #[test]
    fn d2_a_good_machine_is_left_alone() {
        let files = [
            ("/proc/sys/kernel/osrelease", "6.12.4"),
            ("/proc/sys/kernel/io_uring_disabled", "0"),
            ("/proc/sys/vm/max_map_count", "262144"),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
            ("/proc/sys/vm/nr_hugepages", "0"),
            ("/proc/sys/vm/overcommit_memory", "0"),
            ("/proc/meminfo", "MemTotal: 64000000 kB\nSwapTotal: 0 kB\nHugepagesize: 2048 kB\n"),
            ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance"),
            ("/sys/devices/system/node/online", "0"),
            ("/proc/sys/kernel/numa_balancing", "0"),
        ];
        let limits = [
            (libc::RLIMIT_MEMLOCK, libc::RLIM_INFINITY, libc::RLIM_INFINITY),
            (libc::RLIMIT_NOFILE, 1 << 20, 1 << 20),
        ];
        let findings = findings_with(&files, &limits, CgroupLimits::default(), &[0, 1]);
        for finding in findings.values().filter(|finding| finding.name != "tsc") {
            assert_eq!(finding.status, Status::Good, "{finding:?}");
        }
    }
}
