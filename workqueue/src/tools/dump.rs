// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wq-dump`: how the CPUs, pools and queues of a process hang together.
//!
//! Kernel counterpart: `wq_dump`, with the same sections.

use super::{print, table, wanted as is_wanted, Address, Failure, AFTER_HELP};
use crate::observe::control_socket::{Reply, Request};
use crate::{CpuSet, NodeSnapshot, PoolSnapshot, QueueSnapshot, ScopeSnapshot, Snapshot};
use clap::Parser;
use std::collections::BTreeSet;

const SECTIONS: &str = "\
Sections:
  Unbound mask      the CPUs that unbound queues may use
  Affinity scopes   how CPUs are grouped into pods, for each scope
  Pools             flags 0x1: BH, 0x2: a worker is being made, 0x4: the pool's CPU has left
  Queues and pools  the pool that serves each CPU; dfl is the pool for where no other can
  Rescuers          threads that make progress when no worker can be made
  Nodes             active items and their limit by NUMA node; dfl for pools that span nodes";

/// Shows how the CPUs, worker pools and workqueues of a running process hang together.
#[derive(Debug, Parser)]
#[command(name = "wq-dump", version, after_help = AFTER_HELP, after_long_help = format!("{SECTIONS}\n\n{AFTER_HELP}"))]
pub struct Args {
    #[command(flatten)]
    address: Address,
    /// Print JSON
    #[arg(short, long)]
    json: bool,
    /// Which queues
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
}

/// Prints the snapshot.
pub fn run(args: &Args) -> Result<(), Failure> {
    let Reply::Snapshot(mut snapshot) = args.address.ask(Request::Snapshot)? else {
        return Err(args.address.nonsense());
    };
    let wanted = |name: &str| is_wanted(name, &args.patterns);
    snapshot.workqueues.retain(|q| wanted(&q.name));
    snapshot.rescuers.retain(|r| wanted(&r.name));
    let text = if args.json {
        serde_json::to_string_pretty(&snapshot).map_err(Failure::lost)? + "\n"
    } else {
        as_text(&snapshot)
    };
    print(&text).map(drop)
}

fn as_text(snapshot: &Snapshot) -> String {
    let mask = format!("{}\n", snapshot.unbound_cpumask.to_list());
    let scopes: String = snapshot.scopes.iter().map(scope).collect();
    let pools: String = snapshot.pools.iter().map(pool).collect();
    let rescuers = snapshot.rescuers.iter().map(|r| {
        let cells = [r.name.clone(), r.tid.to_string(), r.cpus.to_list()];
        cells.to_vec()
    });
    let sections = [
        ("Unbound mask", mask),
        ("Affinity scopes", scopes),
        ("Pools", pools),
        ("Queues and pools", queues(snapshot)),
        ("Rescuers", table(["", "tid", "cpus"], rescuers)),
        ("Nodes", nodes(&snapshot.workqueues)),
    ];
    let section = |(title, body): (&str, String)| {
        let line = "=".repeat(title.len());
        format!("{title}\n{line}\n{body}")
    };
    sections.map(section).join("\n")
}

/// `[0]=a [1]=b`
fn numbered<K: ToString, V: ToString>(values: impl Iterator<Item = (K, V)>) -> String {
    let one = |(k, v): (K, V)| format!("[{}]={}", k.to_string(), v.to_string());
    values.map(one).collect::<Vec<_>>().join(" ")
}

fn scope(scope: &ScopeSnapshot) -> String {
    let mark = if scope.default { " (default)" } else { "" };
    let node = |n: &Option<usize>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    format!(
        "{}{mark}\n  nr_pods  {}\n  pod_cpus {}\n  pod_node {}\n  cpu_pod  {}\n",
        scope.name,
        scope.nr_pods,
        numbered(scope.pod_cpus.iter().map(CpuSet::to_list).enumerate()),
        numbered(scope.pod_node.iter().map(node).enumerate()),
        numbered(scope.cpu_pod.iter())
    )
}

fn pool(p: &PoolSnapshot) -> String {
    let mut line = format!(
        "pool[{:02}] flags={:#x} ref={} nice={} idle/workers={}/{}",
        p.id, p.flags, p.refs, p.nice, p.idle, p.workers
    );
    if let Some(cpu) = p.cpu {
        line += &format!(" cpu={cpu}");
    }
    for (key, cpus) in [("cpus", &p.cpus), ("pod_cpus", &p.pod_cpus)] {
        if let Some(cpus) = cpus {
            line += &format!(" {key}={}", cpus.to_list());
        }
    }
    for (mark, is) in [("strict", p.strict), ("bh", p.bh)] {
        if is {
            line += &format!(" {mark}");
        }
    }
    line + "\n"
}

fn queues(snapshot: &Snapshot) -> String {
    let queues = &snapshot.workqueues;
    let cpus: BTreeSet<usize> = queues
        .iter()
        .flat_map(|q| q.pools.keys().copied())
        .collect();
    let mut titles = vec!["CPU".to_owned(), "type".to_owned()];
    titles.extend(cpus.iter().map(usize::to_string));
    titles.push("dfl".to_owned());
    let row = |q: &QueueSnapshot| {
        let id = |id: Option<&u32>| id.map_or_else(|| "-".to_owned(), u32::to_string);
        let mut row = vec![q.name.clone(), q.kind.clone()];
        row.extend(cpus.iter().map(|cpu| id(q.pools.get(cpu))));
        row.push(id(q.dfl.as_ref()));
        row
    };
    table(titles, queues.iter().map(row))
}

fn nodes(queues: &[QueueSnapshot]) -> String {
    let unbound: Vec<_> = queues.iter().filter(|q| !q.nodes.is_empty()).collect();
    let title = |n: &NodeSnapshot| n.node.map_or_else(|| "dfl".to_owned(), |n| n.to_string());
    let mut titles = vec![String::new()];
    titles.extend(
        unbound
            .first()
            .into_iter()
            .flat_map(|q| q.nodes.iter().map(title)),
    );
    let row = |q: &&QueueSnapshot| {
        let cells = q.nodes.iter().map(|n| format!("{}/{}", n.nr, n.max));
        std::iter::once(q.name.clone()).chain(cells).collect()
    };
    table(titles, unbound.iter().map(row))
}
