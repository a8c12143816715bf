//! The limits of the control groups this process is in, versions 1 and 2, with or without a cgroup
//! namespace. Owns the walk from the process's own group up to the root, of which the tightest
//! limit holds.

use super::facts::Tree;

/// What the control groups allow.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Cgroup {
    /// The tightest memory limit, if there is one.
    pub memory: Option<MemoryLimit>,
    /// The quota of CPU time in units of one CPU, if there is a quota.
    pub cpu_quota: Option<f64>,
    /// True when processes are grouped by version 2 (the unified hierarchy).
    pub unified: bool,
}

/// The memory limit of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryLimit {
    /// The limit in bytes.
    pub limit: u64,
    /// The bytes that are not used yet. File cache that can be dropped counts as not used.
    pub left: u64,
    /// True for version 2, which charges more of a socket than version 1 does.
    pub unified: bool,
}

/// Version 1 writes "no limit" as the largest multiple of the page size. No real limit is as large
/// as this.
const UNLIMITED_V1: u64 = 1 << 60;

pub(super) fn read(tree: &Tree<'_>) -> Cgroup {
    let membership = tree.text("proc/self/cgroup").unwrap_or_default();
    let mounts = tree.text("proc/self/mountinfo").unwrap_or_default();
    let mut found = Cgroup::default();
    for mount in mounts.lines().filter_map(Mount::parse) {
        let Some(path) = mount.group_of(&membership) else { continue };
        let below = path.strip_prefix(mount.root.trim_end_matches('/')).unwrap_or("");
        let below = if below.contains("..") { "" } else { below };
        let mut directory = format!("{}{}", mount.point, below.trim_end_matches('/'));
        loop {
            found.tighten(tree, &mount, &directory);
            if directory.len() <= mount.point.len() {
                break;
            }
            match directory.rfind('/') {
                Some(at) => directory.truncate(at),
                None => break,
            }
        }
    }
    found
}

impl Cgroup {
    fn tighten(&mut self, tree: &Tree<'_>, mount: &Mount<'_>, directory: &str) {
        let memory = match mount.version {
            CgroupVersion::Two => {
                self.unified |= tree.exists(&format!("{directory}/cgroup.controllers"));
                let names = ["memory.max", "memory.current", "inactive_file"];
                memory(tree, directory, names, true)
            }
            CgroupVersion::One => {
                let names = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
                memory(tree, directory, [names[0], names[1], "total_inactive_file"], false)
            }
        };
        let tighter = |new: &MemoryLimit| self.memory.is_none_or(|old| new.left < old.left);
        if let Some(memory) = memory.filter(tighter) {
            self.memory = Some(memory);
        }
        let quota = match mount.version {
            CgroupVersion::Two => match tree.numbers(&format!("{directory}/cpu.max"))[..] {
                [quota, period] if period > 0 => Some(quota as f64 / period as f64),
                _ => None,
            },
            CgroupVersion::One => {
                // -1 stands for no quota. It is not parsed as a number here.
                let quota = tree.number(&format!("{directory}/cpu.cfs_quota_us"));
                let period = tree.number(&format!("{directory}/cpu.cfs_period_us"));
                quota.zip(period.filter(|p| *p > 0)).map(|(q, p)| q as f64 / p as f64)
            }
        };
        if let Some(quota) = quota.filter(|new| self.cpu_quota.is_none_or(|old| *new < old)) {
            self.cpu_quota = Some(quota);
        }
    }
}

fn memory(
    tree: &Tree<'_>,
    directory: &str,
    names: [&str; 3],
    unified: bool,
) -> Option<MemoryLimit> {
    let [limit, usage, cache] = names;
    let limit = tree.number(&format!("{directory}/{limit}")).filter(|l| *l < UNLIMITED_V1)?;
    let used = tree.number(&format!("{directory}/{usage}")).unwrap_or(0);
    let stat = tree.text(&format!("{directory}/memory.stat")).unwrap_or_default();
    let cache = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok());
    let used = used.saturating_sub(cache.unwrap_or(0));
    Some(MemoryLimit { limit, left: limit.saturating_sub(used), unified })
}

#[derive(PartialEq, Eq)]
enum CgroupVersion {
    One,
    Two,
}

/// A mounted hierarchy of control groups.
struct Mount<'a> {
    version: CgroupVersion,
    /// The group that is visible at the mount point.
    root: &'a str,
    point: &'a str,
    /// The controllers of a hierarchy of version 1, separated by commas.
    controllers: &'a str,
}

impl<'a> Mount<'a> {
    /// Parses one line of mountinfo: `36 35 0:30 ROOT POINT OPTIONS - TYPE SOURCE CONTROLLERS`.
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        let version = match after.next()? {
            "cgroup" => CgroupVersion::One,
            "cgroup2" => CgroupVersion::Two,
            _ => return None,
        };
        let (root, point) = (before.next()?, before.next()?);
        Some(Mount { version, root, point, controllers: after.nth(1).unwrap_or("") })
    }

    /// The group of this process in the hierarchy, from a line `ID:CONTROLLERS:PATH` of
    /// /proc/self/cgroup.
    fn group_of<'m>(&self, membership: &'m str) -> Option<&'m str> {
        membership.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (id, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            let ours = match self.version {
                CgroupVersion::Two => id == "0" && names.is_empty(),
                CgroupVersion::One => {
                    let relevant = |name: &&str| ["memory", "cpu"].contains(name);
                    let mounted = |name: &str| self.controllers.split(',').any(|c| c == name);
                    names.split(',').filter(relevant).any(mounted)
                }
            };
            ours.then_some(path)
        })
    }
}
