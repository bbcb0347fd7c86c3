//! The machine as hwloc sees it: allowed CPUs, physical cores, NUMA nodes; and which shard goes
//! where.
//!
//! Owns: discovery, synthetic and XML machines for tests, the placement of shards on CPUs.
//! Not: doing it (`pin.rs`, `arena.rs`), agents and where they are.
//! T1  a plan uses allowed CPUs only, none twice; every physical core before any SMT sibling.
//! T2  with more shards than allowed CPUs nothing is pinned and nothing spins.
//! T3  only the machine we run on is ever bound to; on any other, binding is refused.

use crate::cgroup::{self, CgroupLimits};
use crate::sys;
use hwlocality::Topology;
use hwlocality::errors::RawHwlocError;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::ObjectType;
use serde::Serialize;
use std::collections::BTreeMap;

/// Most shards that a default count gives.
const SHARD_COUNT_MAX: usize = 1024;

/// Why the machine could not be described.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// hwloc gave up.
    #[error("hwloc cannot describe this machine ({0}); is /sys mounted and readable?")]
    Discover(#[from] RawHwlocError),
    /// The synthetic description or XML is wrong.
    #[error("{kind} topology is not valid: {text:?}; a synthetic one reads \"node:2 core:4 pu:1\"")]
    Description {
        /// `synthetic` or `XML`.
        kind: &'static str,
        /// Its first 80 characters.
        text: String,
    },
    /// The affinity mask could not be read.
    #[error("the affinity mask of this thread cannot be read: {0}")]
    Affinity(#[source] std::io::Error),
    /// Nothing to run on.
    #[error("none of the machine's CPUs is allowed; see taskset -p and the cpuset of the cgroup")]
    NoCpu,
}

/// One CPU (a hardware thread) that this process may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Cpu {
    /// The kernel's number.
    pub cpu: u32,
    /// Its physical core, counted over the machine.
    pub core: u32,
    /// Position among the allowed hardware threads of its core; 0 comes first.
    pub sibling: u32,
    /// Its NUMA node, where the machine has nodes.
    pub node: Option<u32>,
}

/// One NUMA node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Node {
    /// The kernel's number.
    pub node: u32,
    /// Allowed CPUs of this node, ascending; none where it is memory only.
    pub cpus: Vec<u32>,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// Where one shard lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ShardPlace {
    /// The shard, counted from 0.
    pub shard: u16,
    /// The CPU to pin it to.
    pub cpu: Option<u32>,
    /// The node to bind its memory to.
    pub node: Option<u32>,
}

/// The machine, or a made-up one.
#[derive(Debug)]
pub struct Host {
    topology: Topology,
    cpus: Vec<Cpu>,
    nodes: Vec<Node>,
    limits: CgroupLimits,
}

impl Host {
    /// The machine we run on, restricted to what this thread may use. Cost: some milliseconds.
    pub fn discover() -> Result<Host, TopologyError> {
        let allowed = sys::affinity().map_err(TopologyError::Affinity)?;
        // What it would ask every CPU, the kernel has said already; a guest pays for each question.
        // An hwloc that has no such component asks nothing of the kind anyway.
        let builder = Topology::builder().without_component("x86");
        let builder = builder.unwrap_or_else(|_| Topology::builder());
        Host::describe(builder.build()?, Some(&allowed), cgroup::limits())
    }

    /// A made-up machine, such as `"node:2 core:4 pu:2"`; nothing can be bound on it (T3).
    pub fn synthetic(description: &str) -> Result<Host, TopologyError> {
        let topology = Topology::builder()
            .from_synthetic(description)
            .map_err(|_| bad_description("synthetic", description))?
            .build()
            .map_err(|_| bad_description("synthetic", description))?;
        Host::describe(topology, None, CgroupLimits::default())
    }

    /// Another machine, as `lstopo --of xml` wrote it; nothing can be bound on it (T3).
    pub fn from_xml(xml: &str) -> Result<Host, TopologyError> {
        let topology = Topology::builder()
            .from_xml(xml)
            .map_err(|_| bad_description("XML", xml))?
            .build()
            .map_err(|_| bad_description("XML", xml))?;
        Host::describe(topology, None, CgroupLimits::default())
    }

    /// This machine restricted further, to see what a plan would be under other limits.
    pub fn restricted(
        mut self,
        allowed: &[u32],
        limits: CgroupLimits,
    ) -> Result<Host, TopologyError> {
        let kept: Vec<u32> =
            self.cpus.iter().map(|c| c.cpu).filter(|cpu| allowed.contains(cpu)).collect();
        self.limits = limits;
        Host::describe(self.topology, Some(&kept), self.limits)
    }

    fn describe(
        topology: Topology,
        allowed: Option<&[u32]>,
        limits: CgroupLimits,
    ) -> Result<Host, TopologyError> {
        let mut nodes: Vec<Node> =
            topology.objects_with_type(ObjectType::NUMANode).map(node_of).collect();
        let mut cpus = Vec::new();
        let mut siblings: BTreeMap<u32, u32> = BTreeMap::new();
        for (idx, pu) in topology.objects_with_type(ObjectType::PU).enumerate() {
            let cpu = os_index(pu);
            if allowed.is_some_and(|allowed| !allowed.contains(&cpu)) {
                continue;
            }
            // A machine whose cores hwloc cannot see: each CPU counts as a core of its own.
            let core = pu
                .first_ancestor_with_type(ObjectType::Core)
                .map_or(idx, TopologyObject::logical_index) as u32;
            let sibling = siblings.entry(core).or_default();
            let node = nodes.iter().find(|node| node.cpus.contains(&cpu)).map(|node| node.node);
            cpus.push(Cpu { cpu, core, sibling: *sibling, node });
            *sibling += 1;
        }
        for node in &mut nodes {
            node.cpus.retain(|cpu| cpus.iter().any(|allowed| allowed.cpu == *cpu));
        }
        if cpus.is_empty() {
            return Err(TopologyError::NoCpu);
        }
        Ok(Host { topology, cpus, nodes, limits })
    }

    /// The allowed CPUs, in hwloc's order: neighbours are close.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// The NUMA nodes, ascending.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The limits of our control groups.
    pub fn limits(&self) -> CgroupLimits {
        self.limits
    }

    /// Number of physical cores with at least one allowed CPU.
    pub fn core_count(&self) -> usize {
        self.cpus.iter().filter(|cpu| cpu.sibling == 0).count()
    }

    /// Memory that this process may use: the machine's, or less by its control group.
    pub fn memory_bytes(&self) -> u64 {
        let machine = self.nodes.iter().map(|node| node.memory_bytes).sum();
        self.limits.memory_bytes.map_or(machine, |limit| limit.min(machine))
    }

    /// Whether this is the machine that we run on (T3).
    pub fn is_this_system(&self) -> bool {
        self.topology.is_this_system()
    }

    /// CPUs' worth of time that is ours alone: allowed CPUs, or less by the quota; at least 1.
    pub fn dedicated_cpu_count(&self) -> usize {
        let quota = self.limits.cpu_millis.map_or(usize::MAX, |millis| millis as usize / 1000);
        self.cpus.len().min(quota).max(1)
    }

    /// The number of shards when the config gives none: one per dedicated CPU.
    pub fn shard_count_default(&self) -> u16 {
        self.dedicated_cpu_count().min(SHARD_COUNT_MAX) as u16
    }

    /// Whether so many shards may spin while idle without stealing from each other (T2).
    pub fn spin_allowed(&self, shard_count: u16) -> bool {
        usize::from(shard_count) <= self.dedicated_cpu_count()
    }

    /// A place for each of `count` shards (T1, T2): node by node over the first hardware threads
    /// of all cores, then over their siblings. Not pinned, a shard has no CPU and no node.
    pub fn plan_shards(&self, count: u16, pin: bool) -> Vec<ShardPlace> {
        let mut order: Vec<&Cpu> = self.cpus.iter().collect();
        order.sort_by_key(|cpu| (cpu.sibling, cpu.node));
        let pin = pin && usize::from(count) <= order.len();
        (0..count)
            .map(|shard| match order.get(usize::from(shard)) {
                Some(cpu) if pin => ShardPlace { shard, cpu: Some(cpu.cpu), node: cpu.node },
                _ => ShardPlace { shard, cpu: None, node: None },
            })
            .collect()
    }

    /// hwloc's own view, for binding.
    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }
}

fn bad_description(kind: &'static str, text: &str) -> TopologyError {
    TopologyError::Description { kind, text: text.chars().take(80).collect() }
}

fn os_index(object: &TopologyObject) -> u32 {
    object.os_index().unwrap_or_else(|| object.logical_index()) as u32
}

fn node_of(object: &TopologyObject) -> Node {
    let cpus = object
        .cpuset()
        .map(|set| set.iter_set().map(|idx| usize::from(idx) as u32).collect())
        .unwrap_or_default();
    let memory_bytes = match object.attributes() {
        Some(ObjectAttributes::NUMANode(node)) => {
            node.local_memory().map_or(0, std::num::NonZeroU64::get)
        }
        _ => 0,
    };
    Node { node: os_index(object), cpus, memory_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus_of(places: &[ShardPlace]) -> Vec<Option<u32>> {
        places.iter().map(|place| place.cpu).collect()
    }

    #[test]
    fn t1_cores_come_before_siblings_and_nodes_in_order() {
        let host = Host::synthetic("node:2 core:4 pu:1").expect("a good description");
        assert_eq!((host.cpus().len(), host.nodes().len(), host.core_count()), (8, 2, 8));
        let places = host.plan_shards(8, true);
        let nodes: Vec<_> = places.iter().filter_map(|place| place.node).collect();
        assert_eq!(nodes, [0, 0, 0, 0, 1, 1, 1, 1]);

        let host = Host::synthetic("node:2 core:2 pu:2").expect("a good description");
        let places = host.plan_shards(8, true);
        // hwloc numbers the threads of a core consecutively: 0 and 1 share the first core.
        let expected = [0, 2, 4, 6, 1, 3, 5, 7].map(Some);
        assert_eq!(cpus_of(&places), expected);
        assert_eq!(places[4].node, Some(0));
        assert_eq!(places[7].node, Some(1));
    }

    #[test]
    fn t1_plans_use_allowed_cpus_once() {
        let none = CgroupLimits::default();
        for description in ["node:1 core:2 pu:1", "node:2 core:4 pu:2", "core:3 pu:2", "pu:5"] {
            let all = Host::synthetic(description).expect("a good description");
            let odd: Vec<u32> = all.cpus().iter().map(|c| c.cpu).filter(|c| c % 2 == 1).collect();
            let host = all.restricted(&odd, none).expect("an allowed CPU");
            for count in 1..=odd.len() as u16 {
                let mut used: Vec<_> =
                    host.plan_shards(count, true).iter().filter_map(|place| place.cpu).collect();
                used.sort_unstable();
                used.dedup();
                assert_eq!(used.len(), usize::from(count), "{description}");
                assert!(used.iter().all(|cpu| odd.contains(cpu)), "{description}: {used:?}");
            }
            assert!(host.nodes().iter().flat_map(|node| &node.cpus).all(|cpu| odd.contains(cpu)));
        }
    }

    #[test]
    fn t2_too_many_shards_are_neither_pinned_nor_spinning() {
        let host = Host::synthetic("node:2 core:2 pu:1").expect("a good description");
        assert!(host.spin_allowed(4) && !host.spin_allowed(5));
        let places = host.plan_shards(5, true);
        assert_eq!(places.len(), 5);
        assert!(places.iter().all(|place| place.cpu.is_none() && place.node.is_none()));
        assert!(host.plan_shards(2, false).iter().all(|place| place.cpu.is_none()));
    }

    #[test]
    fn t2_a_quota_bounds_the_default_count_and_the_spinning() {
        let all: Vec<u32> = (0..8).collect();
        for (cpu_millis, expected) in
            [(None, 8), (Some(2500), 2), (Some(800), 1), (Some(0), 1), (Some(64_000), 8)]
        {
            let limits = CgroupLimits { cpu_millis, memory_bytes: None };
            let host = Host::synthetic("node:2 core:4 pu:1")
                .and_then(|host| host.restricted(&all, limits))
                .expect("allowed CPUs");
            assert_eq!(host.shard_count_default(), expected, "{cpu_millis:?}");
            assert!(host.spin_allowed(expected) && !host.spin_allowed(expected + 1));
        }
    }

    #[test]
    fn t3_only_the_real_machine_is_this_system() {
        let synthetic = Host::synthetic("node:2 core:4 pu:1").expect("a good description");
        assert!(!synthetic.is_this_system());
        let real = Host::discover().expect("this machine");
        assert!(real.is_this_system());
        assert!(real.shard_count_default() >= 1);
        assert!(real.memory_bytes() > 0);
        assert_eq!(real.cpus().len(), sys::affinity().expect("a mask").len());
    }

    #[test]
    fn machines_load_from_xml() {
        use hwlocality::topology::export::xml::XMLExportFlags;
        let made = Host::synthetic("node:2 core:4 pu:2").expect("a good description");
        let xml = made.topology().export_xml(XMLExportFlags::empty()).expect("an export");
        let read = Host::from_xml(xml.as_ref()).expect("the same machine");
        assert_eq!((read.cpus(), read.nodes()), (made.cpus(), made.nodes()));
        assert!(!read.is_this_system());
    }

    #[test]
    fn bad_descriptions_and_masks_are_errors() {
        for bad in ["", "node:", "pony:3", "node:2 core:0"] {
            assert!(Host::synthetic(bad).is_err(), "{bad:?}");
        }
        assert!(Host::from_xml("<topology").is_err());
        let host = Host::synthetic("node:1 core:2 pu:1").expect("a good description");
        let error = host.restricted(&[77], CgroupLimits::default()).expect_err("no CPU is left");
        assert!(error.to_string().contains("taskset"));
    }
}
