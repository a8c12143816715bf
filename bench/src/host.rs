//! The host's memory and sockets: what connections cost outside of any process.

use serde_json::{Value, json};
use std::fs;

/// Memory and sockets of the whole host at one moment. On loopback, both ends of a connection
/// count.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Host {
    /// `MemAvailable` in bytes.
    pub available: u64,
    /// `Slab` in bytes: sockets, files and connection requests are in it.
    pub slab: u64,
    /// `KernelStack` and `PageTables` in bytes.
    pub tables: u64,
    /// TCP sockets in use on the host, at both ends of connections.
    pub sockets: u64,
    /// Memory of all TCP buffers, in bytes.
    pub buffers: u64,
}

impl Host {
    /// Reads `/proc`; a value that is missing there counts as 0.
    pub fn now() -> Self {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        Self::parse(&memory, &sockets)
    }

    fn parse(memory: &str, sockets: &str) -> Self {
        let kib = |name: &str| {
            let line = memory.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        let tcp = |name: &str| {
            let line = sockets.lines().find_map(|l| l.strip_prefix("TCP:")).unwrap_or_default();
            let mut words = line.split_whitespace();
            words.find(|w| *w == name);
            words.next().and_then(|w| w.parse::<u64>().ok()).unwrap_or(0)
        };
        Self {
            available: kib("MemAvailable"),
            slab: kib("Slab"),
            tables: kib("PageTables") + kib("KernelStack"),
            sockets: tcp("inuse"),
            buffers: tcp("mem") * 4096,
        }
    }

    /// What the host has used up since `before`, other programs' use included.
    pub fn since(&self, before: &Host) -> Value {
        let grown = |now: u64, then: u64| now as i64 - then as i64;
        json!({
            "memory": grown(before.available, self.available),
            "slab": grown(self.slab, before.slab),
            "tables": grown(self.tables, before.tables),
            "sockets": grown(self.sockets, before.sockets),
            "tcp_buffers": grown(self.buffers, before.buffers),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_understood() {
        let memory = "MemTotal: 100 kB\nMemAvailable:   64 kB\nSlab: 3 kB\nPageTables: 1 kB\n\
                      KernelStack: 1 kB\n";
        let sockets = "sockets: used 9\nTCP: inuse 7 orphan 0 tw 0 alloc 8 mem 2\nUDP: inuse 1\n";
        let host = Host::parse(memory, sockets);
        let want =
            Host { available: 64 << 10, slab: 3 << 10, tables: 2 << 10, sockets: 7, buffers: 8192 };
        assert_eq!(host, want);
        assert_eq!(Host::parse("", ""), Host::default());
        assert_eq!(Host::default().since(&host)["memory"], 64 << 10);
        assert!(Host::now().available > 0);
    }
}
