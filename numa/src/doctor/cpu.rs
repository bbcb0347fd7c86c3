//! Probes of the CPUs: how many are ours, how fast they run, their clock, their nodes.
//!
//! Owns: those findings, reading and writing the kernel's lists of numbers (`0-3,8`).
//! Not: placing shards (`topology.rs`).

use super::{Eyes, Finding};
use crate::clock;

pub(super) fn allowed(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "cpus";
    match eyes.cpus.len() {
        0 => Finding::warn(
            NAME,
            "the affinity mask is unreadable",
            "shards are not pinned, and their number must be set",
            "set shards.count in the config",
        ),
        count => Finding::good(NAME, format!("{count} allowed: {}", ranges(&eyes.cpus))),
    }
}

pub(super) fn cgroup_quota(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "cgroup_cpu";
    let allowed_millis = eyes.cpus.len() as u64 * 1000;
    match eyes.cgroup.cpu_millis {
        None => Finding::good(NAME, "no quota"),
        Some(millis) if u64::from(millis) >= allowed_millis => {
            Finding::good(NAME, format!("{}.{:03} CPUs", millis / 1000, millis % 1000))
        }
        Some(millis) => Finding::warn(
            NAME,
            format!("{}.{:03} of {} CPUs", millis / 1000, millis % 1000, eyes.cpus.len()),
            "fewer shards; past the quota all of them stand still for up to 100 ms",
            "systemctl set-property UNIT CPUQuota=, or a cpuset of whole CPUs instead",
        ),
    }
}

pub(super) fn governor(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "cpu_governor";
    let mut slow = Vec::new();
    let mut seen = false;
    for cpu in &eyes.cpus {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        if let Some(governor) = eyes.text(&path) {
            seen = true;
            if governor != "performance" {
                slow.push((*cpu, governor));
            }
        }
    }
    match slow.first() {
        None if seen => Finding::good(NAME, "performance"),
        None => Finding::good(NAME, "not ours to choose (a virtual machine, or fixed)"),
        Some((_, governor)) => Finding::warn(
            NAME,
            format!("{governor} on {} of {} CPUs", slow.len(), eyes.cpus.len()),
            "a parked shard wakes at a low frequency: the first turns take longer",
            "cpupower frequency-set -g performance",
        ),
    }
}

pub(super) fn tsc(_: &Eyes<'_>) -> Finding {
    const NAME: &str = "tsc";
    if clock::tsc_is_trusted() {
        return Finding::good(NAME, "invariant, and trusted by the kernel");
    }
    Finding::warn(
        NAME,
        "not invariant, or found unstable by the kernel",
        "each reading of the clock asks the kernel: 20 ns to 1 us instead of 10 ns",
        "dmesg | grep -i clocksource says why; qemu: -cpu host,+invtsc",
    )
}

pub(super) fn nodes(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "numa";
    match node_count(eyes) {
        Some(1) => Finding::good(NAME, "1 node"),
        Some(count) => Finding::good(NAME, format!("{count} nodes; arenas are bound to them")),
        None => Finding::good(NAME, "no nodes to be seen; memory is taken as uniform"),
    }
}

pub(super) fn numa_balancing(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "numa_balancing";
    let on = eyes.number("/proc/sys/kernel/numa_balancing").unwrap_or(0) != 0;
    if on && node_count(eyes).is_some_and(|count| count > 1) {
        return Finding::warn(
            NAME,
            "on",
            "the kernel takes page faults to look for memory to move; arenas are bound already",
            "sysctl -w kernel.numa_balancing=0",
        );
    }
    Finding::good(NAME, if on { "on, with one node: no effect" } else { "off" })
}

/// Number of online nodes, from a list such as `0-1,4`.
fn node_count(eyes: &Eyes<'_>) -> Option<u32> {
    let text = eyes.text("/sys/devices/system/node/online")?;
    let count_of = |part: &str| -> Option<u32> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    text.split(',').map(count_of).try_fold(0u32, |sum, count| sum.checked_add(count?))
}

/// Ascending numbers as `0-3,8`.
fn ranges(numbers: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let text = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_lists_of_cpus_read_well() {
        assert_eq!(ranges(&[0, 1, 2, 3, 8, 10, 11]), "0-3,8,10-11");
        assert_eq!(ranges(&[]), "");
    }
}
