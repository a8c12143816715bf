//! The broker's processes as the kernel describes them: their CPU time and memory.

use crate::clock;
use std::fs;

/// A process and its descendants at the time of [`Tree::of`]; later ones are not in it.
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
    /// Finds `root` and all its descendants.
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

    /// CPU time of all the processes so far, in nanoseconds; `None` when the first one has ended.
    pub fn cpu(&self) -> Option<u64> {
        clock::cpu_of(*self.pids.first()?)?;
        Some(self.pids.iter().filter_map(|&pid| clock::cpu_of(pid)).sum())
    }

    /// Nanoseconds in which the broker's threads were ready to run but had no CPU, which is what a
    /// busy machine took from them. Threads that have ended are not included.
    pub fn waited(&self) -> u64 {
        let threads = |pid: &i32| fs::read_dir(format!("/proc/{pid}/task"));
        let threads = self.pids.iter().flat_map(threads).flatten().flatten();
        let wait = |thread: fs::DirEntry| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        threads.filter_map(wait).sum()
    }

    /// The memory now, from `smaps_rollup`.
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

    /// The sum of the processes' peak resident set sizes, in bytes.
    pub fn peak(&self) -> u64 {
        let status = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/status"));
        self.pids.iter().map(|pid| field(&status(pid).unwrap_or_default(), "VmHWM:")).sum()
    }
}

/// Resident memory of this process alone, in bytes; brokers that it has started are not in it.
pub fn own_resident() -> u64 {
    field(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmRSS:")
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may contain any character; the state and the parent follow
    // the last closing parenthesis.
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
