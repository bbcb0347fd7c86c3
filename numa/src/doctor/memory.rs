//! Probes of memory: huge pages, overcommit, swap, the control group's limit.
//!
//! Owns: those findings.  Not: limits per process (`limits.rs`), NUMA (`cpu.rs`).
//! Each is a judgement of texts and numbers that the caller hands over.

use super::{Eyes, Finding, humane_bytes};

/// Less than this is little for one shard with its arena.
const MEMORY_BYTES_GOOD: u64 = 1 << 30;

pub(super) fn transparent_huge_pages(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "transparent_huge_pages";
    const PATH: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    let fix = format!("echo madvise > {PATH}");
    match eyes.text(PATH) {
        Some(text) if text.contains("[never]") => Finding::warn(
            NAME,
            text,
            "arenas use 4 KiB pages: more page faults while they fill, more TLB misses",
            fix,
        ),
        Some(text) => Finding::good(NAME, text),
        None => Finding::warn(
            NAME,
            "not in this kernel",
            "arenas use 4 KiB pages: more page faults while they fill, more TLB misses",
            "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
        ),
    }
}

pub(super) fn explicit_huge_pages(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "explicit_huge_pages";
    let count = eyes.number("/proc/sys/vm/nr_hugepages").unwrap_or(0);
    if count == 0 {
        return Finding::good(NAME, "none reserved; none needed");
    }
    let each = eyes.memory_bytes("Hugepagesize").unwrap_or(2 << 20);
    let total = humane_bytes(count.saturating_mul(each));
    Finding::warn(
        NAME,
        format!("{count} reserved, {total}"),
        format!("{total} of memory lie idle: arenas use transparent huge pages"),
        "sysctl -w vm.nr_hugepages=0, unless another program uses them",
    )
}

pub(super) fn overcommit(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "overcommit";
    const FIX: &str = "sysctl -w vm.overcommit_memory=0";
    match eyes.number("/proc/sys/vm/overcommit_memory") {
        Some(mode @ (0 | 1)) => Finding::good(NAME, mode.to_string()),
        Some(mode) => Finding::bad(
            NAME,
            mode.to_string(),
            "arenas and sandboxes count in full when reserved, not when used: few fit",
            FIX,
        ),
        None => Finding::warn(NAME, "unreadable", "arenas may be smaller than asked", FIX),
    }
}

pub(super) fn swap(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "swap";
    match eyes.memory_bytes("SwapTotal") {
        Some(0) => Finding::good(NAME, "none"),
        None => Finding::good(NAME, "none to be seen"),
        Some(bytes) => Finding::warn(
            NAME,
            humane_bytes(bytes),
            "a turn that touches a swapped page takes milliseconds instead of microseconds",
            "swapoff -a, or sysctl -w vm.swappiness=0",
        ),
    }
}

pub(super) fn cgroup_memory(eyes: &Eyes<'_>) -> Finding {
    const NAME: &str = "cgroup_memory";
    let Some(limit) = eyes.cgroup.memory_bytes else {
        return Finding::good(NAME, "not limited");
    };
    let found = humane_bytes(limit);
    if limit >= MEMORY_BYTES_GOOD {
        return Finding::good(NAME, format!("{found}; arenas are sized to it"));
    }
    Finding::warn(
        NAME,
        found,
        "arenas are small, and a process past the limit is killed",
        "systemctl set-property UNIT MemoryMax=4G, or docker run --memory 4g",
    )
}
