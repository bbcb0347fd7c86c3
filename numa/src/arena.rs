//! Arenas: large memory, reserved at once and committed page by page on first touch.
//!
//! Owns: the reservation, its binding to a NUMA node, the advice for huge pages, and finding out
//! beforehand which limit it would break.  Not: what is kept in it.
//! A1  an arena's length is within the range asked, in whole units of `ARENA_ALIGN_BYTES`; a range
//!     that holds no whole unit is rounded up to one.
//! A2  reserving touches no page: an arena costs memory only where it is written.
//! A3  a binding or an advice that the kernel refuses is written into the grant; it is no error.

use crate::cgroup;
use crate::sys;
use crate::topology::Host;
use hwlocality::memory::binding::{MemoryBindingFlags, MemoryBindingPolicy};
use hwlocality::memory::nodeset::NodeSet;
use hwlocality::object::types::ObjectType;
use memmap2::{Advice, MmapMut, MmapOptions};
use serde::Serialize;
use std::fmt;
use std::ops::RangeInclusive;

/// Arenas start at, and are multiples of, this: a huge page on x86_64, and 512 small ones.
pub const ARENA_ALIGN_BYTES: u64 = 2 << 20;

/// What is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArenaPlan {
    /// Least and most bytes; as much as the limits allow is reserved.
    pub bytes: RangeInclusive<u64>,
    /// The node to bind to.
    pub node: Option<u32>,
    /// Whether to ask for transparent huge pages.
    pub huge_pages: bool,
}

/// Memory for the rest of the process's life, and how it came to be.
#[derive(Debug)]
pub struct Arena {
    /// The memory, zeroed, aligned to `ARENA_ALIGN_BYTES`.
    pub bytes: &'static mut [u8],
    /// What was granted.
    pub grant: Grant,
}

/// What was granted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Grant {
    /// Length in bytes.
    pub bytes: u64,
    /// The limit that made it shorter than the most asked.
    pub cut_by: Option<LimitName>,
    /// The node it is bound to, verified.
    pub node: Option<u32>,
    /// Why it is not bound though a node was asked for.
    pub unbound_because: Option<&'static str>,
    /// Whether the kernel took the advice for huge pages.
    pub huge_pages: bool,
}

/// What bounds an arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum LimitName {
    /// Address space of the process.
    AddressSpace,
    /// Strict overcommit.
    Overcommit,
    /// Memory of the control group.
    Cgroup,
    /// Memory of the machine, or of the node.
    Machine,
    /// The kernel said no without a limit that we know.
    Kernel,
}

impl LimitName {
    fn remedy(self) -> &'static str {
        match self {
            LimitName::AddressSpace => "raise it: ulimit -v unlimited",
            LimitName::Overcommit => "allow lazy memory: sysctl vm.overcommit_memory=0",
            LimitName::Cgroup => {
                "raise memory.max of the control group, e.g. systemctl set-property UNIT MemoryMax="
            }
            LimitName::Machine => "ask for less, or run fewer shards",
            LimitName::Kernel => "see dmesg, and vm.max_map_count",
        }
    }
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitName::AddressSpace => "the address space limit (RLIMIT_AS)",
            LimitName::Overcommit => "strict overcommit (vm.overcommit_memory=2)",
            LimitName::Cgroup => "the memory limit of the control group",
            LimitName::Machine => "the memory there is",
            LimitName::Kernel => "the kernel",
        })
    }
}

/// Why there is no arena; nothing was reserved.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// Even the least does not fit.
    #[error(
        "an arena of {least_bytes} bytes does not fit: {limit} leaves {limit_bytes}; {}",
        limit.remedy()
    )]
    TooLarge {
        /// The least asked.
        least_bytes: u64,
        /// The limit.
        limit: LimitName,
        /// What it leaves.
        limit_bytes: u64,
    },
    /// The range is empty, or smaller than one unit.
    #[error(
        "an arena of {least_bytes} to {most_bytes} bytes; it takes at least {ARENA_ALIGN_BYTES}"
    )]
    BadRange {
        /// The least asked.
        least_bytes: u64,
        /// The most asked.
        most_bytes: u64,
    },
    /// The mapping failed.
    #[error(
        "an arena of {bytes} bytes could not be mapped ({source}); {}",
        LimitName::Kernel.remedy()
    )]
    Map {
        /// The length tried last.
        bytes: u64,
        /// The kernel's word.
        source: std::io::Error,
    },
}

impl Arena {
    /// Reserves as the plan says (A1-A3). `host` is needed for binding to a node. Cost: a few
    /// system calls, independent of the length.
    pub fn reserve(plan: &ArenaPlan, host: Option<&Host>) -> Result<Arena, ArenaError> {
        Arena::reserve_within(plan, host, &Ceilings::now(plan.node, host))
    }

    fn reserve_within(
        plan: &ArenaPlan,
        host: Option<&Host>,
        ceilings: &Ceilings,
    ) -> Result<Arena, ArenaError> {
        let (wanted_bytes, mut cut_by) = ceilings.fit(&plan.bytes)?;
        let least_bytes = round_up(*plan.bytes.start()).max(ARENA_ALIGN_BYTES);
        let mut len_bytes = wanted_bytes;
        let map = loop {
            match map(len_bytes) {
                Ok(map) => break map,
                // A limit that we do not know: try less, down to the least.
                Err(_) if len_bytes > least_bytes => {
                    len_bytes = round_down(len_bytes / 2).max(least_bytes);
                    cut_by = Some(LimitName::Kernel);
                }
                Err(source) => return Err(ArenaError::Map { bytes: len_bytes, source }),
            }
        };
        let advised = plan.huge_pages && map.advise(Advice::HugePage).is_ok();
        let all: &'static mut [u8] = &mut Box::leak(Box::new(map))[..];
        let skip_bytes = all.as_ptr().align_offset(ARENA_ALIGN_BYTES as usize);
        let bytes = &mut all[skip_bytes..][..len_bytes as usize];
        let (node, unbound_because) = match plan.node {
            None => (None, None),
            Some(node) => match bind(bytes, node, host) {
                Ok(()) => (Some(node), None),
                Err(why) => (None, Some(why)),
            },
        };
        let grant = Grant {
            bytes: len_bytes,
            cut_by,
            node,
            unbound_because,
            huge_pages: advised && huge_pages_are_on(),
        };
        Ok(Arena { bytes, grant })
    }
}

/// What each limit leaves, in bytes.
struct Ceilings(Vec<(LimitName, u64)>);

impl Ceilings {
    fn now(node: Option<u32>, host: Option<&Host>) -> Ceilings {
        let mut found = Vec::new();
        if let Ok(limit) = sys::limit(libc::RLIMIT_AS)
            && limit.soft != libc::RLIM_INFINITY
        {
            // The alignment may cost one unit more than the arena itself.
            let used = address_space_bytes().saturating_add(ARENA_ALIGN_BYTES);
            found.push((LimitName::AddressSpace, limit.soft.saturating_sub(used)));
        }
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        if read_number("/proc/sys/vm/overcommit_memory") == Some(2) {
            let limit = meminfo_bytes(&memory, "CommitLimit").unwrap_or(0);
            let used = meminfo_bytes(&memory, "Committed_AS").unwrap_or(0);
            let left = limit.saturating_sub(used).saturating_sub(ARENA_ALIGN_BYTES);
            found.push((LimitName::Overcommit, left));
        }
        if let Some(bytes) = cgroup::limits().memory_bytes {
            found.push((LimitName::Cgroup, bytes));
        }
        let of_node = host
            .filter(|host| host.is_this_system())
            .and_then(|host| host.nodes().iter().find(|n| Some(n.node) == node))
            .map(|node| node.memory_bytes)
            .filter(|bytes| *bytes > 0);
        if let Some(bytes) = of_node.or_else(|| meminfo_bytes(&memory, "MemTotal")) {
            found.push((LimitName::Machine, bytes));
        }
        Ceilings(found)
    }

    /// The most bytes of the range that fit, and the limit that cut it.
    fn fit(&self, range: &RangeInclusive<u64>) -> Result<(u64, Option<LimitName>), ArenaError> {
        let (least_bytes, most_bytes) = (*range.start(), *range.end());
        if range.is_empty() || most_bytes < ARENA_ALIGN_BYTES || most_bytes > usize::MAX as u64 / 2
        {
            return Err(ArenaError::BadRange { least_bytes, most_bytes });
        }
        let tightest = self.0.iter().min_by_key(|(_, bytes)| *bytes).copied();
        match tightest {
            Some((limit, limit_bytes)) if limit_bytes < most_bytes => {
                if round_down(limit_bytes) < round_up(least_bytes).max(ARENA_ALIGN_BYTES) {
                    return Err(ArenaError::TooLarge { least_bytes, limit, limit_bytes });
                }
                Ok((round_down(limit_bytes), Some(limit)))
            }
            // Rounding down must not fall below the least asked (A1).
            _ => Ok((round_down(most_bytes).max(round_up(least_bytes)), None)),
        }
    }
}

fn round_down(bytes: u64) -> u64 {
    bytes - bytes % ARENA_ALIGN_BYTES
}

fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(ARENA_ALIGN_BYTES) * ARENA_ALIGN_BYTES
}

/// Anonymous, private, not counted against swap; one unit longer, so that it can be aligned.
fn map(len_bytes: u64) -> std::io::Result<MmapMut> {
    let len = (len_bytes + ARENA_ALIGN_BYTES) as usize;
    MmapOptions::new().len(len).no_reserve_swap().map_anon()
}

/// Binds `bytes` to `node` and checks that the kernel remembers it.
fn bind(bytes: &[u8], node: u32, host: Option<&Host>) -> Result<(), &'static str> {
    let host = host.ok_or("no topology was given")?;
    if !host.is_this_system() {
        return Err("the topology is not this machine's");
    }
    let topology = host.topology();
    let object = topology
        .objects_with_type(ObjectType::NUMANode)
        .find(|object| object.os_index() == Some(node as usize))
        .ok_or("the machine has no such node")?;
    let wanted = object.nodeset().ok_or("the node has no set")?;
    topology
        .bind_memory_area(bytes, wanted, MemoryBindingPolicy::Bind, MemoryBindingFlags::STRICT)
        .map_err(|_| "the kernel refused (a container may lack mbind: CAP_SYS_NICE)")?;
    // hwloc asks the kernel about every page of an area, so only both ends are looked at.
    let page_bytes = sys::page_bytes().min(bytes.len());
    for end in [&bytes[..page_bytes], &bytes[bytes.len() - page_bytes..]] {
        let (bound, _): (NodeSet, _) = topology
            .area_memory_binding(end, MemoryBindingFlags::empty())
            .map_err(|_| "the kernel does not say where the memory is bound")?;
        if bound != wanted {
            return Err("the kernel bound the memory elsewhere");
        }
    }
    Ok(())
}

fn huge_pages_are_on() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|text| !text.contains("[never]"))
}

/// Address space that this process uses.
fn address_space_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * sys::page_bytes() as u64
}

/// A number alone in a file of the kernel.
pub(crate) fn read_number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A row of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo_bytes(text: &str, row: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(bytes: RangeInclusive<u64>) -> ArenaPlan {
        ArenaPlan { bytes, node: None, huge_pages: false }
    }

    fn resident_bytes() -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
        let pages: u64 = text.split(' ').nth(1).expect("a column").parse().expect("a number");
        pages * sys::page_bytes() as u64
    }

    #[test]
    fn a1_a2_an_arena_is_writable_at_both_ends_and_lazily_committed() {
        let most = 1 << 30;
        let before = resident_bytes();
        let arena = Arena::reserve(&plan(ARENA_ALIGN_BYTES..=most), None).expect("an arena");
        assert_eq!(arena.bytes.len() as u64, arena.grant.bytes);
        assert!(arena.grant.bytes <= most);
        assert_eq!(arena.bytes.as_ptr() as u64 % ARENA_ALIGN_BYTES, 0);
        let last = arena.bytes.len() - 1;
        assert_eq!((arena.bytes[0], arena.bytes[last / 2], arena.bytes[last]), (0, 0, 0));
        arena.bytes[0] = 1;
        arena.bytes[last] = 2;
        assert_eq!((arena.bytes[0], arena.bytes[last]), (1, 2));
        // Other tests of this process allocate too; a quarter of the arena is far above them.
        assert!(resident_bytes().saturating_sub(before) < arena.grant.bytes / 4);
    }

    #[test]
    fn a1_the_least_is_kept_and_the_breaking_limit_named() {
        let mib = 1 << 20;
        let ceilings =
            Ceilings(vec![(LimitName::Machine, 900 * mib), (LimitName::Cgroup, 101 * mib)]);
        let (bytes, cut_by) = ceilings.fit(&(64 * mib..=512 * mib)).expect("it fits");
        assert_eq!((bytes, cut_by), (100 * mib, Some(LimitName::Cgroup)));
        assert_eq!(ceilings.fit(&(mib..=64 * mib)).expect("it fits"), (64 * mib, None));
        assert_eq!(ceilings.fit(&(5 * mib..=5 * mib)).expect("it fits"), (6 * mib, None));
        let error = ceilings.fit(&(200 * mib..=512 * mib)).expect_err("too large").to_string();
        for part in ["209715200", "105906176", "control group", "MemoryMax"] {
            assert!(error.contains(part), "{error} should name {part}");
        }
        let (most, least) = (10 * mib, 20 * mib);
        for range in [least..=most, 0..=4096, 0..=u64::MAX] {
            assert!(matches!(ceilings.fit(&range), Err(ArenaError::BadRange { .. })), "{range:?}");
        }
    }

    #[test]
    fn a1_more_than_the_machine_has_is_refused_with_its_size() {
        let error = Arena::reserve(&plan(1 << 50..=1 << 50), None).expect_err("a petabyte");
        assert!(matches!(error, ArenaError::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains(&(1u64 << 50).to_string()));
    }

    #[test]
    fn a3_bindings_are_verified_or_explained() {
        let real = Host::discover().expect("this machine");
        for node in real.nodes() {
            let plan =
                ArenaPlan { bytes: 4 << 20..=4 << 20, node: Some(node.node), huge_pages: true };
            let arena = Arena::reserve(&plan, Some(&real)).expect("4 MiB");
            match arena.grant.unbound_because {
                None => assert_eq!(arena.grant.node, Some(node.node)),
                Some(why) => println!("skipped: node {} is not bound: {why}", node.node),
            }
            arena.bytes.fill(7);
        }
        let synthetic = Host::synthetic("node:2 core:4 pu:1").expect("a good description");
        for (host, node) in [(Some(&synthetic), 0), (Some(&real), 999), (None, 0)] {
            let plan = ArenaPlan { bytes: 2 << 20..=2 << 20, node: Some(node), huge_pages: false };
            let grant = Arena::reserve(&plan, host).expect("2 MiB").grant;
            assert!(grant.node.is_none() && grant.unbound_because.is_some(), "{grant:?}");
        }
    }
}
