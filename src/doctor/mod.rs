//! The doctor: how many clients this host can hold with a configuration, which limit is met first,
//! and how to change each limit.
//!
//! [`Facts::read`] reads `/proc` and `/sys` below a root, and [`judge`] turns facts and
//! configuration into findings. Neither reads anything else, so that tests can judge hosts that do
//! not exist. Two parts ask the kernel: `trial` opens a ring as the broker does, and
//! `judge_storage` times a few syncs where the store is to be, in a file that it removes. Nothing
//! is changed, and no privilege is needed.

mod cgroup;
mod facts;
mod finding;
#[cfg(feature = "runtime")]
mod judge_access;
#[cfg(feature = "runtime")]
mod judge_admin;
#[cfg(feature = "runtime")]
mod judge_bridges;
#[cfg(feature = "runtime")]
mod judge_listeners;
mod judge_machine;
mod judge_network;
mod judge_process;
#[cfg(feature = "runtime")]
mod judge_storage;
mod need;
#[cfg(feature = "runtime")]
mod ping;
mod place;
mod report;
#[cfg(feature = "runtime")]
mod trial;
mod worst;

use crate::config::Config;
#[cfg(feature = "runtime")]
use std::os::unix::fs::MetadataExt;

pub use cgroup::{Cgroup, MemoryLimit};
pub use facts::{Conntrack, Facts, Sysctl};
pub use finding::{Finding, Fix, Severity};
pub use judge_process::RingTrial;
pub use need::{Bound, Need};
#[cfg(feature = "runtime")]
pub use ping::{PingFailure, PingTarget, Pong, ping, target};
pub use place::{ContainerEngine, Environment, NetworkView};
pub use report::Report;
pub use worst::Worst;

/// Examines this host, which takes a few milliseconds, or some seconds if a receiver of spans does
/// not answer. `connections` replaces the number of clients that the configuration allows.
#[cfg(feature = "runtime")]
pub fn examine(config: &Config, connections: Option<u64>) -> Report {
    look(config, connections, Some(&judge_admin::reach))
}

/// Examines it before the broker starts, which nothing on the network is to delay.
#[cfg(feature = "runtime")]
pub fn examine_at_start(config: &Config) -> Report {
    look(config, None, None)
}

#[cfg(feature = "runtime")]
fn look(
    config: &Config,
    connections: Option<u64>,
    reach: Option<&judge_admin::Reach<'_>>,
) -> Report {
    let facts = Facts::read(std::path::Path::new("/"));
    let mut report = judge(facts, config, connections, &trial::open_ring());
    let mut store = None;
    if !config.storage.path.is_empty() {
        let disk = judge_storage::look(std::path::Path::new(&*config.storage.path));
        report.findings.push(judge_storage::judge(&disk, report.need.shards));
        let wanted = judge_storage::wanted(&disk, report.need.shards);
        store = Some(judge_bridges::DiskDemand::of(&disk, wanted));
    }
    let left = report.facts.memory_left();
    report.findings.extend(judge_bridges::judge(config, left, store, &|path| {
        (judge_storage::look(path), judge_storage::bytes_in(path))
    }));
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    report.findings.extend(judge_access::judge(config));
    let files = judge_listeners::FileAccess {
        read: &|path| std::fs::read(path),
        mode: &|path| Ok(std::fs::metadata(path)?.mode()),
        now: since.unwrap_or_default().as_secs(),
    };
    report.findings.extend(judge_listeners::judge(config, &files));
    report.findings.extend(judge_admin::judge(config, &files, reach));
    report
}

/// Judges facts of this or another host.
pub fn judge(facts: Facts, config: &Config, connections: Option<u64>, trial: &RingTrial) -> Report {
    let need = Need::of(config, connections, &facts);
    let bounds = need::bounds(&facts, &need);
    let in_memory = bounds.iter().find(|bound| bound.check == "memory").map(|bound| bound.clients);
    let fit = bounds.first().map_or(0, |bound| bound.clients);
    let clients = need.clients.unwrap_or(fit);
    let (f, n) = (&facts, &need);
    let findings = vec![
        judge_process::kernel(f, n),
        judge_process::upgrade(f),
        judge_process::proc(f, n),
        judge_process::io_uring(f, trial),
        judge_process::nofile(f, n),
        judge_process::memlock(f, n),
        judge_process::nr_open(f, n),
        judge_process::file_max(f, n),
        judge_machine::memory(f, n, in_memory),
        judge_machine::cpu(f, n),
        judge_machine::cpuset(f, n),
        judge_machine::numa(f, n),
        judge_machine::swap(f, n),
        judge_machine::huge_pages(f, n),
        judge_network::network(f, n),
        judge_network::conntrack(f, n, in_memory.unwrap_or(0)),
        judge_network::somaxconn(f, n),
        judge_network::syn_backlog(f, n),
        judge_network::tcp_mem(f, n),
        judge_network::buffers(f, n),
        judge_network::ports(f, n),
        judge_machine::max_connections(f, n),
        worst::memory_budget(f, config, clients),
    ];
    let connect_rate = need::connect_rate(&facts, &need);
    let worst = worst::worst(config, clients);
    Report { facts, need, findings, bounds, connect_rate, worst }
}

#[cfg(test)]
mod tests;
