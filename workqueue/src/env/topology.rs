// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's CPUs, grouped into pods for each affinity scope.
//!
//! Read from sysfs, or made up by a test or a simulation; used by [`crate::pool::registry`] to find
//! pools. Kernel counterpart: `struct wq_pod_type` and the pod set-up at boot, `enum
//! wq_affn_scope`.

use crate::sys::cpu;
use crate::sys::cpuset::{CpuSet, MAX_CPUS};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// How CPUs are grouped into pods; the items of a pod's CPUs are served by one pool.
///
/// The smaller the pods, the fewer threads share a pool's lock: an unbound queue of many small items is
/// several times faster by [`Scope::Cpu`]. In a larger pod a free CPU takes what waits behind a busy one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Each CPU for itself.
    Cpu,
    /// The hardware threads of one core.
    Smt,
    /// The CPUs that share the last-level cache.
    Cache,
    /// About eight cores of one last-level cache.
    CacheShard,
    /// The CPUs of one NUMA node.
    Numa,
    /// All CPUs.
    System,
}

impl Scope {
    /// All scopes, from the narrowest to the widest.
    pub const ALL: [Self; 6] = [
        Self::Cpu,
        Self::Smt,
        Self::Cache,
        Self::CacheShard,
        Self::Numa,
        Self::System,
    ];

    /// The name as the control registry shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Smt => "smt",
            Self::Cache => "cache",
            Self::CacheShard => "cache_shard",
            Self::Numa => "numa",
            Self::System => "system",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many cores a cache shard should have.
const CACHE_SHARD_SIZE: usize = 8;

/// Where one CPU stands in the machine. CPUs with equal numbers share that part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuPlace {
    /// The CPU's number.
    pub cpu: usize,
    /// Its core; CPUs of one core are hardware siblings.
    pub core: usize,
    /// Its last-level cache.
    pub cache: usize,
    /// Its NUMA node.
    pub node: usize,
}

/// The CPUs of a runtime and how they are grouped.
#[derive(Clone, Debug)]
pub struct Topology {
    possible: CpuSet,
    places: BTreeMap<usize, CpuPlace>,
    shards: BTreeMap<usize, usize>,
    /// The nodes of the whole machine, also those without a CPU here.
    nr_nodes: usize,
    simulated: bool,
    /// The first place that cannot be used.
    bad_place: Option<CpuPlace>,
}

/// One group of CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its CPUs.
    pub cpus: CpuSet,
    /// The NUMA node all of them are on, if it is one.
    pub node: Option<usize>,
}

impl Topology {
    /// The machine's CPUs within `mask`, from sysfs. Defaults for what sysfs does not tell: no
    /// siblings, one cache per package or else for all, node 0.
    pub fn detect(mask: &CpuSet) -> Self {
        let sys = Path::new("/sys/devices/system");
        let nodes = node_map(&sys.join("node"));
        let places = mask.iter().map(|cpu| {
            let dir = sys.join(format!("cpu/cpu{cpu}"));
            let lowest = |file: &str| read_list(&dir.join(file)).and_then(|set| set.lowest());
            let core = lowest("topology/thread_siblings_list").unwrap_or(cpu);
            let cache = last_level_cache(&dir)
                .or_else(|| lowest("topology/package_cpus_list"))
                .or_else(|| lowest("topology/core_siblings_list"))
                .unwrap_or(0);
            CpuPlace {
                cpu,
                core,
                cache,
                node: nodes.get(&cpu).copied().unwrap_or(0),
            }
        });
        let nr_nodes = nodes.values().max().map_or(1, |highest| highest + 1);
        Self::build(places.collect(), nr_nodes, false)
    }

    /// A made-up machine, for tests and simulations. Threads are not bound to CPUs then, and a
    /// caller that is no worker counts as running on CPU `sched_getcpu() % number of CPUs`.
    ///
    /// A runtime does not start on a machine without CPUs, or with a CPU or node above 8191: see
    /// [`crate::StartError::Topology`].
    pub fn simulated(places: Vec<CpuPlace>) -> Self {
        Self::build(places, 1, true)
    }

    /// A machine of one CPU.
    #[cfg(test)]
    pub(crate) fn one_cpu() -> Self {
        Self::simulated_nodes(1, 1)
    }

    /// A made-up machine as [`Topology::simulated`] makes it, of `cpus` CPUs spread over `nodes` NUMA
    /// nodes, at least one. Each CPU is a core of its own, and the CPUs of a node share a cache.
    pub fn simulated_nodes(cpus: usize, nodes: usize) -> Self {
        let per_node = cpus.div_ceil(nodes.max(1));
        let place = |cpu| CpuPlace {
            cpu,
            core: cpu,
            cache: cpu / per_node,
            node: cpu / per_node,
        };
        // One CPU too many is enough to be refused.
        Self::simulated((0..cpus.min(MAX_CPUS + 1)).map(place).collect())
    }

    /// The part of the topology within `cpus`.
    pub(crate) fn within(&self, cpus: &CpuSet) -> Self {
        let places = self.places.values().filter(|p| cpus.contains(p.cpu));
        Self::build(places.copied().collect(), self.nr_nodes, self.simulated)
    }

    /// The same with `nr_nodes` nodes; CPUs on a later node count as on node 0.
    pub(crate) fn with_nodes(&self, nr_nodes: usize) -> Self {
        let places = self.places.values().map(|p| CpuPlace {
            node: if p.node < nr_nodes { p.node } else { 0 },
            ..*p
        });
        Self::build(places.collect(), nr_nodes, self.simulated)
    }

    fn build(mut places: Vec<CpuPlace>, nr_nodes: usize, simulated: bool) -> Self {
        let is_bad = |p: &CpuPlace| p.cpu >= MAX_CPUS || p.node >= MAX_CPUS;
        let bad_place = places.iter().copied().find(is_bad);
        places.retain(|place| !is_bad(place));
        let places: BTreeMap<usize, CpuPlace> = places.into_iter().map(|p| (p.cpu, p)).collect();
        let highest = places.values().map(|p| p.node + 1).max();
        let shards = shard_map(&places);
        Self {
            possible: places.keys().copied().collect(),
            places,
            shards,
            nr_nodes: highest.unwrap_or(1).max(nr_nodes),
            simulated,
            bad_place,
        }
    }

    /// All CPUs.
    pub fn possible(&self) -> &CpuSet {
        &self.possible
    }

    /// True for a made-up machine.
    pub fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// Why a runtime cannot use this machine.
    pub(crate) fn fault(&self) -> Option<String> {
        if let Some(CpuPlace { cpu, node, .. }) = self.bad_place {
            return Some(format!(
                "CPU {cpu} on node {node}: both must be below {MAX_CPUS}"
            ));
        }
        self.places.is_empty().then(|| "it has no CPU".to_owned())
    }

    /// The pods of a scope, in the order of their lowest CPU.
    pub fn pods(&self, scope: Scope) -> Vec<Pod> {
        let mut groups: BTreeMap<usize, CpuSet> = BTreeMap::new();
        for place in self.places.values() {
            groups
                .entry(self.group(place, scope))
                .or_default()
                .insert(place.cpu);
        }
        let mut pods: Vec<Pod> = groups
            .into_values()
            .map(|cpus| Pod {
                node: self.node_of_all(&cpus),
                cpus,
            })
            .collect();
        pods.sort_by_key(|p| p.cpus.lowest());
        pods
    }

    /// The pod a CPU belongs to.
    pub fn pod_of(&self, cpu: usize, scope: Scope) -> CpuSet {
        let Some(own) = self.places.get(&cpu).map(|p| self.group(p, scope)) else {
            return CpuSet::new();
        };
        self.places
            .values()
            .filter(|p| self.group(p, scope) == own)
            .map(|p| p.cpu)
            .collect()
    }

    /// The NUMA node of a CPU.
    pub fn node_of(&self, cpu: usize) -> Option<usize> {
        self.places.get(&cpu).map(|p| p.node)
    }

    /// The CPUs of a node.
    pub fn node_cpus(&self, node: usize) -> CpuSet {
        self.places
            .values()
            .filter(|p| p.node == node)
            .map(|p| p.cpu)
            .collect()
    }

    /// One more than the highest node number.
    pub fn nr_nodes(&self) -> usize {
        self.nr_nodes
    }

    /// The node that all of `cpus` are on.
    pub(crate) fn node_of_all(&self, cpus: &CpuSet) -> Option<usize> {
        let mut nodes = cpus.iter().map(|c| self.node_of(c));
        let first = nodes.next()??;
        nodes.all(|n| n == Some(first)).then_some(first)
    }

    /// The CPU the caller counts as running on.
    pub(crate) fn current_cpu(&self) -> usize {
        let cpu = cpu::current_cpu();
        if self.simulated {
            let nth = cpu % self.possible.len().max(1);
            self.possible.iter().nth(nth).unwrap_or(0)
        } else {
            cpu
        }
    }

    fn group(&self, place: &CpuPlace, scope: Scope) -> usize {
        match scope {
            Scope::Cpu => place.cpu,
            Scope::Smt => place.core,
            Scope::Cache => place.cache,
            Scope::CacheShard => self.shards.get(&place.cpu).copied().unwrap_or(0),
            Scope::Numa => place.node,
            Scope::System => 0,
        }
    }
}

/// Splits the cores of each cache into shards of nearly equal size, larger ones first.
fn shard_map(places: &BTreeMap<usize, CpuPlace>) -> BTreeMap<usize, usize> {
    let mut caches: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
    for p in places.values() {
        caches
            .entry(p.cache)
            .or_default()
            .entry(p.core)
            .or_default()
            .push(p.cpu);
    }
    let mut out = BTreeMap::new();
    let mut next_shard = 0;
    for cores in caches.into_values() {
        let shards = ((cores.len() + CACHE_SHARD_SIZE / 2) / CACHE_SHARD_SIZE).max(1);
        let (size, larger) = (cores.len() / shards, cores.len() % shards);
        let mut cores = cores.into_values();
        for shard in 0..shards {
            let take = size + usize::from(shard < larger);
            for cpu in cores.by_ref().take(take).flatten() {
                out.insert(cpu, next_shard + shard);
            }
        }
        next_shard += shards;
    }
    out
}

fn read_list(path: &Path) -> Option<CpuSet> {
    CpuSet::parse_list(&fs::read_to_string(path).ok()?)
}

fn last_level_cache(cpu_dir: &Path) -> Option<usize> {
    let levels = fs::read_dir(cpu_dir.join("cache"))
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let level: u32 = fs::read_to_string(entry.path().join("level"))
                .ok()?
                .trim()
                .parse()
                .ok()?;
            let shared = read_list(&entry.path().join("shared_cpu_list"))?;
            Some((level, shared.lowest()?))
        });
    levels
        .max_by_key(|(level, _)| *level)
        .map(|(_, lowest)| lowest)
}

fn node_map(dir: &Path) -> BTreeMap<usize, usize> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(node) = name
            .to_str()
            .and_then(|n| n.strip_prefix("node"))
            .and_then(|n| n.parse().ok())
        else {
            continue;
        };
        if let Some(cpus) = read_list(&entry.path().join("cpulist")) {
            out.extend(cpus.iter().map(|cpu| (cpu, node)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_cache(cores: usize, threads: usize) -> Topology {
        let cpus = (0..cores * threads).map(|cpu| CpuPlace {
            cpu,
            core: cpu % cores,
            cache: 0,
            node: 0,
        });
        Topology::simulated(cpus.collect())
    }

    fn shard_cores(t: &Topology, threads: usize) -> Vec<usize> {
        let mut sizes: Vec<_> = t
            .pods(Scope::CacheShard)
            .iter()
            .map(|p| p.cpus.len() / threads)
            .collect();
        sizes.sort_by_key(|n| std::cmp::Reverse(*n));
        sizes
    }

    #[test]
    fn s04_09_cores_of_a_cache_are_split_into_even_shards() {
        for (cores, expected) in [
            (8, vec![8]),
            (11, vec![11]),
            (12, vec![6, 6]),
            (20, vec![7, 7, 6]),
            (16, vec![8, 8]),
        ] {
            assert_eq!(
                shard_cores(&one_cache(cores, 1), 1),
                expected,
                "{cores} cores"
            );
            assert_eq!(
                shard_cores(&one_cache(cores, 2), 2),
                expected,
                "{cores} cores of two threads"
            );
        }
        let pods = one_cache(20, 1).pods(Scope::CacheShard);
        assert_eq!(
            pods.iter().map(|p| p.cpus.len()).collect::<Vec<_>>(),
            [7, 7, 6]
        );
    }

    #[test]
    fn s04_08_every_cpu_is_in_exactly_one_pod_of_each_scope() {
        let cpus = (0..16).map(|cpu| CpuPlace {
            cpu,
            core: cpu / 2,
            cache: cpu / 8,
            node: cpu / 8,
        });
        let t = Topology::simulated(cpus.collect());
        for scope in Scope::ALL {
            let pods = t.pods(scope);
            for cpu in 0..16 {
                assert_eq!(
                    pods.iter().filter(|p| p.cpus.contains(cpu)).count(),
                    1,
                    "{scope} {cpu}"
                );
                assert!(pods.iter().any(|p| p.cpus == t.pod_of(cpu, scope)));
            }
        }
        assert_eq!(t.pods(Scope::Numa)[1].node, Some(1));
        assert_eq!(t.pods(Scope::System)[0].node, None);
        assert_eq!(t.pods(Scope::Smt).len(), 8);
    }

    #[test]
    fn s04_10_the_real_machine_is_read_without_gaps() {
        let allowed = cpu::allowed_cpus().expect("a thread may read its own mask");
        let t = Topology::detect(&allowed);
        assert_eq!(t.possible(), &allowed);
        for scope in Scope::ALL {
            assert_eq!(
                t.pods(scope).iter().map(|p| p.cpus.len()).sum::<usize>(),
                allowed.len()
            );
        }
    }
}
