//! Judgement of the machine: memory, CPU time, cores, memory nodes, swap, huge pages, and the limit
//! in the configuration itself.

use super::facts::Facts;
use super::finding::{Finding, Fix, Severity};
use super::need::{Need, hard_nofile};
use super::report::{bytes, count, counted};

pub(super) fn memory(facts: &Facts, need: &Need, holds: Option<u64>) -> Finding {
    let (Some(room), Some(holds)) = (need.room(facts), holds) else {
        return Finding::new("memory", Severity::Note, "unreadable", "about 4.5 KiB per client");
    };
    let (left, group) = (room.left, room.group);
    let found = match (group, facts.memory) {
        (Some(group), _) => format!("{} left of the cgroup's {}", bytes(left), bytes(group.limit)),
        (None, Some((all, _))) => format!("{} left of {}", bytes(left), bytes(all)),
        (None, None) => bytes(left),
    };
    let nofile = hard_nofile(facts);
    let fix = |bytes_needed: u64| match group {
        Some(_) => {
            let mib = bytes_needed.div_ceil(1 << 20);
            Fix::either(
                format!("MemoryMax={mib}M in the unit"),
                format!(
                    "{} run --memory {mib}m; Kubernetes: resources.limits.memory {mib}Mi",
                    facts.place.program()
                ),
            )
        }
        None => Fix::host("add memory, stop what else runs here, or spread clients over hosts"),
    };
    let wanted = need.memory(need.clients.unwrap_or(1), nofile, room.socket_bytes);
    if holds == 0 || need.clients.is_some_and(|clients| clients > holds) {
        let clients = count(need.clients.unwrap_or(1));
        let needed = format!("{} for {clients} clients", bytes(wanted));
        // The memory that other processes of the group use comes on top.
        let used = group.map_or(0, |group| group.limit - group.left);
        return Finding::new("memory", Severity::Blocker, found, needed)
            .fixed_by(fix(wanted.saturating_add(used) / 4 * 5));
    }
    let needed = match need.clients {
        Some(clients) => format!("{} for {} clients", bytes(wanted), count(clients)),
        None => format!("room for {} idle clients", count(holds)),
    };
    Finding::new("memory", Severity::Fine, found, needed)
}

pub(super) fn cpu(facts: &Facts, need: &Need) -> Finding {
    if facts.cpus.is_empty() {
        let needed = "a CPU per shard, no quota";
        return Finding::new("cpu", Severity::Note, "unreadable", needed);
    }
    let cpus = counted(facts.cpus.len() as u64, "CPU");
    let shards = counted(need.shards, "shard");
    let Some(quota) = facts.cgroup.cpu_quota else {
        return Finding::new("cpu", Severity::Fine, cpus, format!("{shards}, no quota"));
    };
    let found = format!("{cpus}, a quota of {quota:.2}");
    if quota + 0.005 >= need.shards as f64 {
        let needed = format!("{shards} within the quota");
        return Finding::new("cpu", Severity::Fine, found, needed);
    }
    let needed = format!(
        "a quota of {} for {shards}: a shard that is throttled stalls all its clients",
        need.shards
    );
    // Names CPUs that this process has, because the first CPUs of the host may belong to another
    // container.
    let first = &facts.cpus[..facts.cpus.len().min(need.shards as usize)];
    let fewer = if need.shards > 1 { "; or `cores` with fewer entries" } else { "" };
    Finding::new("cpu", Severity::Warning, found, needed).fixed_by(Fix::either(
        format!("CPUQuota={}% in the unit, or none", need.shards * 100),
        format!(
            "{} run --cpuset-cpus {} instead of --cpus; Kubernetes: a whole number in \
             resources.limits.cpu with the static CPU manager{fewer}",
            facts.place.program(),
            ranges(first)
        ),
    ))
}

pub(super) fn cpuset(facts: &Facts, need: &Need) -> Finding {
    let cpus = &facts.cpus;
    if cpus.is_empty() {
        return Finding::new("cpuset", Severity::Note, "unreadable", "the configured cores");
    }
    let found = format!("CPUs {}", ranges(cpus));
    let Some(cores) = &need.cores else {
        return Finding::new("cpuset", Severity::Fine, found, "cores: auto takes these");
    };
    if let Some(missing) = cores.iter().find(|core| !cpus.contains(core)) {
        let needed = format!("core {missing}, which `cores` names");
        return Finding::new("cpuset", Severity::Blocker, found, needed).fixed_by(Fix::either(
            "AllowedCPUs= in the unit, or `cores` in the configuration",
            format!(
                "{} run --cpuset-cpus {}, or `cores` in the configuration",
                facts.place.program(),
                ranges(cores)
            ),
        ));
    }
    Finding::new("cpuset", Severity::Fine, found, format!("cores: {}", ranges(cores)))
}

pub(super) fn numa(facts: &Facts, need: &Need) -> Finding {
    let nodes = facts.numa_nodes;
    if nodes < 2 || need.shards < 2 {
        return Finding::new("numa", Severity::Fine, format!("{nodes} node"), "one node is used");
    }
    let found = format!("{nodes} nodes");
    let needed = "shards on the network card's node: other nodes' memory is slower";
    Finding::new("numa", Severity::Note, found, needed).fixed_by(Fix::configuration(
        "`cores` with the CPUs in /sys/class/net/<card>/device/local_cpulist; see tuning/cores.md",
    ))
}

pub(super) fn swap(facts: &Facts, _: &Need) -> Finding {
    let Some((all, used)) = facts.swap else {
        return Finding::new("swap", Severity::Note, "unreadable", "none");
    };
    if all == 0 {
        return Finding::new("swap", Severity::Fine, "none", "none");
    }
    let swappiness = facts.sysctl.swappiness.unwrap_or(60);
    let found = format!("{} of {} in use, swappiness {swappiness}", bytes(used), bytes(all));
    let needed = "none, or swappiness 1: idle sessions swapped out stall their whole shard";
    let severity = if swappiness <= 1 { Severity::Fine } else { Severity::Note };
    let finding = Finding::new("swap", severity, found, needed);
    if severity == Severity::Fine {
        return finding;
    }
    finding.fixed_by(Fix::either(
        "sysctl -w vm.swappiness=1 (lasting: tuning/sysctl.conf), or MemorySwapMax=0 in the unit",
        format!("{} run --memory-swap equal to --memory", facts.place.program()),
    ))
}

pub(super) fn huge_pages(facts: &Facts, _: &Need) -> Finding {
    let check = "transparent_hugepage";
    match facts.huge_pages.as_deref() {
        Some("always") => Finding::new(
            check,
            Severity::Note,
            "always",
            "madvise: `always` keeps whole 2 MiB pages for memory that was given back",
        )
        .fixed_by(Fix::host("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")),
        Some(word) => Finding::new(check, Severity::Fine, word, "madvise or never"),
        None => Finding::new(check, Severity::Fine, "not in this kernel", "madvise or never"),
    }
}

pub(super) fn max_connections(_: &Facts, need: &Need) -> Finding {
    let check = "max_connections";
    let Some(most) = need.configured_clients else {
        return Finding::new(check, Severity::Fine, "unlimited", "the configuration sets no limit");
    };
    match need.clients {
        Some(clients) if clients > most => {
            Finding::new(check, Severity::Blocker, count(most), count(clients)).fixed_by(
                Fix::configuration(
                    "raise runtime.max_connections and the listeners' max_connections",
                ),
            )
        }
        _ => Finding::new(check, Severity::Fine, count(most), "the configured limit"),
    }
}

/// Writes a list of CPUs as `0-3,8`.
fn ranges(cpus: &[u16]) -> String {
    let mut cpus = cpus.to_vec();
    cpus.sort_unstable();
    cpus.dedup();
    let mut text = String::new();
    let mut at = 0;
    while at < cpus.len() {
        let mut end = at;
        while end + 1 < cpus.len() && cpus[end + 1] == cpus[end] + 1 {
            end += 1;
        }
        let comma = if at == 0 { "" } else { "," };
        text += &match end - at {
            0 => format!("{comma}{}", cpus[at]),
            _ => format!("{comma}{}-{}", cpus[at], cpus[end]),
        };
        at = end + 1;
    }
    text
}
