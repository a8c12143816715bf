//! What a host says about itself, read from `/proc` and `/sys` below a root directory. Needs no
//! privilege and changes nothing. A fact is `None` when its file is missing or unreadable. Nothing
//! is judged here. Control groups are read in `cgroup`, and the kind of network in `place`.

use std::path::{Path, PathBuf};

use super::cgroup::{self, Cgroup};
use super::place::{self, Environment};

/// The capability that exempts a process from `RLIMIT_MEMLOCK`.
pub(super) const CAP_IPC_LOCK: u32 = 14;
/// The capability that exempts a process from `kernel.io_uring_disabled` = 1 and from
/// `fs.file-max`.
pub(super) const CAP_SYS_ADMIN: u32 = 21;

/// Everything that is known about this host, as this process sees it.
#[derive(Clone, Default, Debug)]
pub struct Facts {
    /// Whether `/proc` is there. Without it most other facts are unknown.
    pub proc: bool,
    /// The kernel's release as the kernel writes it, and its first two numbers.
    pub kernel: Option<(String, (u32, u32))>,
    /// `RLIMIT_NOFILE`, soft and hard; `u64::MAX` stands for unlimited.
    pub nofile: Option<(u64, u64)>,
    /// `RLIMIT_MEMLOCK` in bytes, soft and hard.
    pub memlock: Option<(u64, u64)>,
    /// Seccomp mode of this process: 0 none, 1 strict, 2 filter.
    pub seccomp: Option<u64>,
    /// The effective capabilities as a bit mask.
    pub capabilities: u64,
    /// The CPUs on which this process may run, by affinity and cpuset.
    pub cpus: Vec<u16>,
    /// The number of memory nodes that have CPUs.
    pub numa_nodes: u32,
    /// Bytes of memory, and how many of them can be had without swapping.
    pub memory: Option<(u64, u64)>,
    /// Bytes of swap, and how many of them are in use.
    pub swap: Option<(u64, u64)>,
    /// The word that is chosen in `transparent_hugepage/enabled`.
    pub huge_pages: Option<String>,
    /// The kernel's settings.
    pub sysctl: Sysctl,
    /// The number of open files of the whole host, which `fs.file-max` limits.
    pub files_open: Option<u64>,
    /// The connections that conntrack follows; `None` when conntrack is not loaded.
    pub conntrack: Option<Conntrack>,
    /// The number of TCP sockets of this network namespace.
    pub tcp_sockets: u64,
    /// The limits of the control group of this process and of all groups above it.
    pub cgroup: Cgroup,
    /// The container engine and the kind of network.
    pub place: Environment,
}

/// Values below `/proc/sys`; `None` where this kernel (or namespace) has no such setting.
#[derive(Clone, Default, Debug)]
pub struct Sysctl {
    /// `kernel.io_uring_disabled`. 0: io_uring is allowed. 1: for one group only. 2: for nobody.
    pub io_uring_disabled: Option<u64>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub syn_backlog: Option<u64>,
    /// `net.ipv4.tcp_syncookies`.
    pub syncookies: Option<u64>,
    /// `net.ipv4.tcp_mem` in pages: low, pressure, most.
    pub tcp_mem: Option<[u64; 3]>,
    /// `net.ipv4.tcp_rmem` in bytes: least, default, most.
    pub tcp_rmem: Option<[u64; 3]>,
    /// `net.ipv4.tcp_wmem` in bytes: least, default, most.
    pub tcp_wmem: Option<[u64; 3]>,
    /// `net.core.rmem_max` and `net.core.wmem_max` in bytes.
    pub core_mem_max: Option<(u64, u64)>,
    /// `net.ipv4.ip_local_port_range`.
    pub port_range: Option<(u64, u64)>,
    /// `fs.nr_open`: the most that `RLIMIT_NOFILE` can be.
    pub nr_open: Option<u64>,
    /// `fs.file-max`: the largest number of open files of the whole host.
    pub file_max: Option<u64>,
    /// `vm.swappiness`.
    pub swappiness: Option<u64>,
}

/// The state of connection tracking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conntrack {
    /// `net.netfilter.nf_conntrack_max`.
    pub max: u64,
    /// The number of entries in use.
    pub count: u64,
}

impl Facts {
    /// Reads the facts below `root`, which is `/` except in tests.
    pub fn read(root: &Path) -> Facts {
        let tree = Tree { root };
        let meminfo = tree.text("proc/meminfo").unwrap_or_default();
        let kib = |name: &str| Some(number(field(&meminfo, name)?)? * 1024);
        let status = tree.text("proc/self/status").unwrap_or_default();
        let limits = tree.text("proc/self/limits").unwrap_or_default();
        Facts {
            proc: !status.is_empty(),
            kernel: kernel(&tree),
            nofile: limit(&limits, "Max open files"),
            memlock: limit(&limits, "Max locked memory"),
            seccomp: field(&status, "Seccomp:").and_then(number),
            capabilities: field(&status, "CapEff:")
                .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
                .unwrap_or(0),
            cpus: field(&status, "Cpus_allowed_list:").map(list).unwrap_or_default(),
            numa_nodes: tree
                .text("sys/devices/system/node/has_cpu")
                .map_or(1, |text| list(&text).len().max(1) as u32),
            memory: kib("MemTotal:")
                .map(|all| (all, kib("MemAvailable:").or(kib("MemFree:")).unwrap_or(all))),
            swap: kib("SwapTotal:")
                .map(|all| (all, all.saturating_sub(kib("SwapFree:").unwrap_or(all)))),
            huge_pages: tree
                .text("sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())),
            sysctl: sysctl(&tree),
            files_open: tree.numbers("proc/sys/fs/file-nr").first().copied(),
            conntrack: tree.sysctl("net/netfilter/nf_conntrack_max").map(|max| Conntrack {
                max,
                count: tree.sysctl("net/netfilter/nf_conntrack_count").unwrap_or(0),
            }),
            tcp_sockets: tcp_sockets(&tree),
            cgroup: cgroup::read(&tree),
            place: place::read(&tree),
        }
    }

    /// The bytes that this process may still take: the free memory of the host or what is left of
    /// the control group's limit, whichever is less.
    pub fn memory_left(&self) -> Option<u64> {
        let host = self.memory.map(|(_, available)| available);
        host.into_iter().chain(self.cgroup.memory.map(|memory| memory.left)).min()
    }

    /// The value of `limits.memory: auto`: three quarters of [`Facts::memory_left`]. The rest is
    /// for memory that is not counted: the sockets in the kernel, the process itself, and the parts
    /// of pages that the allocator cannot use.
    pub fn memory_budget(&self) -> Option<u64> {
        self.memory_left().map(|left| left / 4 * 3)
    }

    /// How much memory is in use, how much there is, and whether these are figures of a control
    /// group: those of the group if it has a limit, otherwise those of the host. Reads only a few
    /// files.
    pub fn memory_in_use(root: &Path) -> Option<(u64, u64, bool)> {
        let tree = Tree { root };
        if let Some(memory) = cgroup::read(&tree).memory {
            return Some((memory.limit - memory.left.min(memory.limit), memory.limit, true));
        }
        let meminfo = tree.text("proc/meminfo")?;
        let kib = |name: &str| Some(number(field(&meminfo, name)?)? * 1024);
        let (all, left) = (kib("MemTotal:")?, kib("MemAvailable:")?);
        Some((all - left.min(all), all, false))
    }

    /// The CPU time of this process in units of one CPU: the number of its CPUs, or a quota if that
    /// is less.
    pub fn cpu_time(&self) -> f64 {
        let cpus = self.cpus.len().max(1) as f64;
        self.cgroup.cpu_quota.map_or(cpus, |quota| quota.min(cpus))
    }

    /// Whether this process has a capability, which exempts it from a limit.
    pub fn capable(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }
}

/// Reads files below a root.
pub(super) struct Tree<'a> {
    pub(super) root: &'a Path,
}

impl Tree<'_> {
    /// The full path of `path`, which begins at the root, with or without the leading slash.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn text(&self, path: &str) -> Option<String> {
        let bytes = std::fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    pub(super) fn numbers(&self, path: &str) -> Vec<u64> {
        let text = self.text(path).unwrap_or_default();
        text.split_whitespace().map_while(|word| word.parse().ok()).collect()
    }

    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.numbers(path).first().copied()
    }

    fn sysctl(&self, name: &str) -> Option<u64> {
        self.number(&format!("proc/sys/{name}"))
    }

    fn triple(&self, name: &str) -> Option<[u64; 3]> {
        self.numbers(&format!("proc/sys/{name}")).try_into().ok()
    }
}

fn kernel(tree: &Tree<'_>) -> Option<(String, (u32, u32))> {
    let release = tree.text("proc/sys/kernel/osrelease")?.trim().to_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let version = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some((release, version))
}

fn sysctl(tree: &Tree<'_>) -> Sysctl {
    let ports = tree.numbers("proc/sys/net/ipv4/ip_local_port_range");
    let rmem = tree.sysctl("net/core/rmem_max");
    Sysctl {
        io_uring_disabled: tree.sysctl("kernel/io_uring_disabled"),
        somaxconn: tree.sysctl("net/core/somaxconn"),
        syn_backlog: tree.sysctl("net/ipv4/tcp_max_syn_backlog"),
        syncookies: tree.sysctl("net/ipv4/tcp_syncookies"),
        tcp_mem: tree.triple("net/ipv4/tcp_mem"),
        tcp_rmem: tree.triple("net/ipv4/tcp_rmem"),
        tcp_wmem: tree.triple("net/ipv4/tcp_wmem"),
        core_mem_max: rmem.zip(tree.sysctl("net/core/wmem_max")),
        port_range: ports.first().copied().zip(ports.get(1).copied()),
        nr_open: tree.sysctl("fs/nr_open"),
        file_max: tree.sysctl("fs/file-max"),
        swappiness: tree.sysctl("vm/swappiness"),
    }
}

/// The numbers in `TCP: inuse N ...` of both address families.
fn tcp_sockets(tree: &Tree<'_>) -> u64 {
    let in_use = |file: &str, name: &str| {
        let text = tree.text(file).unwrap_or_default();
        let line = field(&text, name).unwrap_or_default();
        line.split_once("inuse").and_then(|(_, rest)| number(rest)).unwrap_or(0)
    };
    in_use("proc/net/sockstat", "TCP:") + in_use("proc/net/sockstat6", "TCP6:")
}

/// What follows `name` in the line that begins with it.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// The first word, parsed as a number.
fn number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The soft and the hard value in one line of `/proc/self/limits`.
fn limit(limits: &str, name: &str) -> Option<(u64, u64)> {
    let mut words = field(limits, name)?.split_whitespace().map(|word| match word {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    });
    Some((words.next()??, words.next()??))
}

/// Parses the kernel's list format, such as `0-3,8,10-11`.
fn list(text: &str) -> Vec<u16> {
    let mut all = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            all.extend(first..=last);
        }
    }
    all
}
