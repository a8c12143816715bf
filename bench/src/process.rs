//! The broker as the kernel sees it: its processes, CPU time and memory.

use crate::clock;
use std::fs;

/// A process and its descendants, as of when they were looked up.
pub struct Tree {
    pids: Vec<i32>,
}

/// Memory of a process tree, in bytes.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    /// Resident set size.
    pub rss: u64,
    /// Proportional set size.
    pub pss: u64,
}

impl Tree {
    /// `root` and everything below it.
    pub fn of(root: i32) -> Self {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            if let Some(parent) = parent_of(pid) {
                parents.push((pid, parent));
            }
        }
        let mut pids = vec![root];
        let mut at = 0;
        while at < pids.len() {
            let parent = pids[at];
            pids.extend(parents.iter().filter(|p| p.1 == parent).map(|p| p.0));
            at += 1;
        }
        Self { pids }
    }

    /// The processes, parents first.
    pub fn pids(&self) -> &[i32] {
        &self.pids
    }

    /// CPU time so far in nanoseconds; `None` when the first process is gone.
    pub fn cpu(&self) -> Option<u64> {
        clock::cpu_of(*self.pids.first()?)?;
        Some(self.pids.iter().filter_map(|&pid| clock::cpu_of(pid)).sum())
    }

    /// Nanoseconds that its threads were ready to run and had no CPU: what a busy machine took from
    /// it. Threads that ended are not in it.
    pub fn waited(&self) -> u64 {
        let threads = |pid: &i32| fs::read_dir(format!("/proc/{pid}/task"));
        let threads = self.pids.iter().flat_map(threads).flatten().flatten();
        let wait = |thread: fs::DirEntry| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        threads.filter_map(wait).sum()
    }

    /// Memory now, from `smaps_rollup`.
    pub fn memory(&self) -> Memory {
        let mut sum = Memory::default();
        for pid in &self.pids {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            sum.rss += field(&text, "Rss:");
            sum.pss += field(&text, "Pss:");
        }
        sum
    }

    /// Resident set size now, in bytes, without the cost of [`Self::memory`].
    pub fn resident(&self) -> u64 {
        let status = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/status"));
        self.pids.iter().map(|pid| field(&status(pid).unwrap_or_default(), "VmRSS:")).sum()
    }

    /// Peak resident set size in bytes.
    pub fn peak(&self) -> u64 {
        let status = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/status"));
        self.pids.iter().map(|pid| field(&status(pid).unwrap_or_default(), "VmHWM:")).sum()
    }
}

/// Resident memory of this process alone, in bytes: brokers it started are its children.
pub fn own_resident() -> u64 {
    field(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmRSS:")
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the state and the parent follow the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A line `Name:   123 kB` as bytes; 0 when absent.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_can_read_ourselves() {
        let tree = Tree::of(std::process::id() as i32);
        assert!(tree.cpu().unwrap() > 0);
        tree.waited();
        assert!(tree.memory().rss > 100_000);
        assert!(tree.memory().pss > 10_000);
        assert!(tree.peak() >= tree.memory().rss / 2);
        assert_eq!(parent_of(1), Some(0));
    }
}
