//! What the configuration demands of a host, and how many clients each of the host's limits allows.
//! The figures of RingMQ itself (bytes per client, descriptors per core) are here.

use crate::config::{Bind, Config, Cores, Get};
use crate::limits::MAX_SHARDS;

use super::cgroup::MemoryLimit;
use super::facts::{CAP_SYS_ADMIN, Facts};

/// Process memory of an idle client with one subscription, in bytes. This is the budget of the
/// design.
pub const CLIENT_BYTES: u64 = 512;
/// Kernel memory of an idle accepted TCP socket, in bytes. Measured on a 6.18 kernel with 17,000
/// clients: 1,507 charged to the broker's memory cgroup (socket inode, file, dentry, the armed
/// receive), and the slab object of the TCP socket itself, 2,520.
pub const SOCKET_BYTES: u64 = 4096;
/// The part of it that a memory cgroup of version 1 is charged, which does not include the slab
/// object of the TCP socket. A limit of 96 MiB held 45,207 idle clients in this way.
const SOCKET_BYTES_V1: u64 = 1536;
/// Memory of a process without shards, in bytes (measured: 7 MiB, and what the allocator keeps).
const PROCESS_BYTES: u64 = 12 << 20;
/// Memory of a shard without clients and receive buffers: executor, queues, tables, in bytes
/// (measured: 1 MiB empty; queues and mailboxes grow with the traffic).
const SHARD_BYTES: u64 = 4 << 20;
/// Memory for the queues and buffers of one further ring, in bytes.
const RING_BYTES: u64 = 256 << 10;
/// Descriptors of the process without those of shards: standard streams, signals, logs, checks at
/// start.
const PROCESS_FILES: u64 = 12;
/// Descriptors of one shard without those of listeners and of rings for sockets: the executor's
/// three rings and its eventfds.
const SHARD_FILES: u64 = 8;
/// The largest number of rings that one shard opens, which is the driver's own bound.
const SHARD_RINGS: u64 = 1024;
/// Places of a ring's table that are reserved for pending accepts, per listener.
const ACCEPTS_WAITING: u64 = 64;
/// The largest table of direct descriptors in the kernel (IORING_MAX_FIXED_FILES).
const RING_SOCKETS: u64 = 1 << 20;
/// New connections a second that one CPU takes: half of what a prototype accepted (1,000,000 in
/// 57 s, its clients on the same two CPUs). An assumption about this host, not a measurement.
pub const ACCEPT_RATE: u64 = 10_000;

/// More clients than any host can hold. A larger number that is asked for is replaced by this one.
const CLIENTS: u64 = 1 << 40;

/// What is demanded of the host.
#[derive(Clone, PartialEq, Debug)]
pub struct Need {
    /// The number of clients to hold: the number asked for, otherwise the configured maximum.
    /// `None` stands for as many as possible.
    pub clients: Option<u64>,
    /// The configured maximum of clients, if there is one.
    pub configured_clients: Option<u64>,
    /// The number of shards that will run.
    pub shards: u64,
    /// The number of listeners.
    pub listeners: u64,
    /// The cores that the configuration names; `None` stands for auto.
    pub cores: Option<Vec<u16>>,
    /// The configured number of sockets per ring; `None` stands for auto.
    pub sockets_per_ring: Option<u64>,
    /// The largest size of a shard's receive buffers in bytes.
    pub buffer_bytes: u64,
    /// The largest backlog of a TCP listener, if there is one.
    pub backlog: Option<u64>,
    /// The largest receive buffer in bytes that a TCP listener asks the kernel for, if any does.
    pub receive_buffer: Option<u64>,
    /// The TCP ports of the listeners.
    pub ports: Vec<u16>,
    /// Whether other hosts can reach a TCP listener.
    pub remote: bool,
    /// The number of new connections per second that all listeners together allow.
    pub connect_rate: Option<u64>,
    /// The largest number of bytes that wait in process memory for one slow client.
    pub outgoing_bytes: u64,
}

impl Need {
    /// The demands of a configuration. `connections` is the number asked for on the command line.
    pub fn of(config: &Config, connections: Option<u64>, facts: &Facts) -> Need {
        let auto = (facts.cpu_time() as usize).clamp(1, MAX_SHARDS) as u64;
        let (cores, shards) = match &config.cores {
            Cores::Auto => (None, auto),
            Cores::List(list) => (Some(list.clone()), list.len() as u64),
        };
        let addresses = config.listeners.iter().filter_map(|listener| match &listener.bind {
            Bind::Tcp(address) => Some((*address, listener.backlog)),
            Bind::Unix(_) => None,
        });
        let addresses: Vec<_> = addresses.collect();
        let sum = |values: Vec<Option<u32>>| -> Option<u64> {
            values.into_iter().map(|value| value.map(u64::from)).sum()
        };
        let listeners = sum(config.listeners.iter().map(|l| l.max_connections.get()).collect());
        let whole = config.runtime.max_connections.get().map(u64::from);
        let configured_clients = listeners.into_iter().chain(whole).min();
        let buffers = config.runtime.receive_buffers.clone();
        Need {
            clients: connections.map(|asked| asked.min(CLIENTS)).or(configured_clients),
            configured_clients,
            shards,
            listeners: config.listeners.len() as u64,
            cores,
            sockets_per_ring: config.runtime.sockets_per_ring.get().map(u64::from),
            buffer_bytes: u64::from(buffers.count.get()) * u64::from(buffers.size.get()),
            backlog: addresses.iter().map(|(_, backlog)| u64::from(backlog.get())).max(),
            receive_buffer: config
                .listeners
                .iter()
                .filter(|listener| matches!(listener.bind, Bind::Tcp(_)))
                .filter_map(|listener| listener.receive_buffer.get().map(u64::from))
                .max(),
            ports: addresses.iter().map(|(address, _)| address.port()).collect(),
            remote: addresses.iter().any(|(address, _)| !address.ip().is_loopback()),
            connect_rate: sum(config.listeners.iter().map(|l| l.max_connect_rate.get()).collect()),
            outgoing_bytes: config.mqtt.outgoing_max_bytes.get(),
        }
    }

    /// The number of descriptors without which the broker does not start: all but those of further
    /// rings.
    pub fn files_at_start(&self) -> u64 {
        PROCESS_FILES + self.shards * (SHARD_FILES + 1 + self.listeners)
    }

    /// The number of places for clients in one ring, and the number of rings that the whole broker
    /// may open, with this descriptor limit. A place is not a descriptor, but a table may not be
    /// longer than the limit.
    pub fn rings(&self, nofile: u64) -> (u64, u64) {
        let table = self.sockets_per_ring.unwrap_or(RING_SOCKETS).min(nofile).min(RING_SOCKETS);
        let spare = nofile.saturating_sub(self.files_at_start());
        let rings = self.shards.saturating_add(spare).min(self.shards * SHARD_RINGS);
        (table, if nofile < self.files_at_start() { 0 } else { rings })
    }

    /// The number of clients that fit in the rings.
    pub fn clients_in_rings(&self, nofile: u64) -> u64 {
        let (table, rings) = self.rings(nofile);
        let waiting = self.shards * self.listeners * ACCEPTS_WAITING.min(table / 2);
        (table * rings).saturating_sub(waiting)
    }

    /// The bytes of memory that `clients` take in the kernel and the process together, where each
    /// socket is charged `socket_bytes`.
    pub fn memory(&self, clients: u64, nofile: u64, socket_bytes: u64) -> u64 {
        let base = PROCESS_BYTES + self.shards * (SHARD_BYTES + self.buffer_bytes);
        let rings = clients.div_ceil(self.rings(nofile).0.max(1));
        let each = CLIENT_BYTES + socket_bytes;
        base.saturating_add(clients.saturating_mul(each))
            .saturating_add(rings.saturating_mul(RING_BYTES))
    }

    /// The number of clients that fit in this memory.
    pub fn clients_in(&self, room: &ClientMemory, nofile: u64) -> u64 {
        let spare = room.left.saturating_sub(self.memory(0, nofile, room.socket_bytes));
        let table = self.rings(nofile).0.max(1);
        // This is exact enough: it adds to each client its share of a ring, rounded up.
        spare / (CLIENT_BYTES + room.socket_bytes + RING_BYTES.div_ceil(table))
    }

    /// The memory that holds fewer clients: that of the host, or that of the control group.
    pub fn room(&self, facts: &Facts) -> Option<ClientMemory> {
        let nofile = hard_nofile(facts);
        let host = facts.memory.map(|(_, left)| ClientMemory {
            left,
            socket_bytes: SOCKET_BYTES,
            group: None,
        });
        let group = facts.cgroup.memory.map(|group| {
            let socket_bytes = if group.unified { SOCKET_BYTES } else { SOCKET_BYTES_V1 };
            ClientMemory { left: group.left, socket_bytes, group: Some(group) }
        });
        group.into_iter().chain(host).min_by_key(|room| self.clients_in(room, nofile))
    }
}

/// Memory that clients can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientMemory {
    /// The number of bytes that are not used yet.
    pub left: u64,
    /// The number of bytes that are charged here for an idle client's socket.
    pub socket_bytes: u64,
    /// The control group whose limit this is; `None` for the memory of the host.
    pub group: Option<MemoryLimit>,
}

/// The descriptor limit to which the broker raises itself.
pub(super) fn hard_nofile(facts: &Facts) -> u64 {
    facts.nofile.map_or(RING_SOCKETS, |(_, hard)| hard)
}

/// The number of clients that one limit allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bound {
    /// The check that has the details and the fix.
    pub check: &'static str,
    /// The number of clients.
    pub clients: u64,
    /// How the number comes about.
    pub because: String,
}

/// The limits and the number of clients that each allows, the tightest limit first.
pub fn bounds(facts: &Facts, need: &Need) -> Vec<Bound> {
    let nofile = hard_nofile(facts);
    let (table, rings) = need.rings(nofile);
    let mut bounds = vec![Bound {
        check: "nofile",
        clients: need.clients_in_rings(nofile),
        because: format!("{rings} rings of {table} sockets"),
    }];
    if let Some(room) = need.room(facts) {
        bounds.push(Bound {
            check: "memory",
            clients: need.clients_in(&room, nofile),
            because: format!(
                "{} left, {CLIENT_BYTES} B of the process and {} B of the kernel each",
                super::report::bytes(room.left),
                room.socket_bytes
            ),
        });
    }
    // The kernel does not apply this limit to a privileged process.
    let files = facts.sysctl.file_max.zip(facts.files_open);
    if let Some((max, open)) = files.filter(|_| !facts.capable(CAP_SYS_ADMIN)) {
        bounds.push(Bound {
            check: "file-max",
            clients: max.saturating_sub(open),
            because: format!("every socket is an open file of the host; {open} of {max} are open"),
        });
    }
    if let Some(conntrack) = facts.conntrack.filter(|_| follows_connections(facts)) {
        bounds.push(Bound {
            check: "conntrack",
            clients: conntrack.max.saturating_sub(conntrack.count),
            because: format!("one entry each; {} of {} in use", conntrack.count, conntrack.max),
        });
    }
    if let Some(clients) = need.configured_clients {
        let because = "runtime.max_connections or the listeners' max_connections".to_owned();
        bounds.push(Bound { check: "max_connections", clients, because });
    }
    bounds.sort_by_key(|bound| bound.clients);
    bounds
}

/// Whether conntrack sees connections: it is loaded and has entries, so a firewall rule uses it.
pub(super) fn follows_connections(facts: &Facts) -> bool {
    facts.conntrack.is_some_and(|conntrack| conntrack.count > 0)
}

/// New connections per second until the first limit is met, and whether the configuration sets
/// them.
pub fn connect_rate(facts: &Facts, need: &Need) -> (u64, bool) {
    match need.connect_rate {
        Some(rate) => (rate.max(1), true),
        None => (((ACCEPT_RATE as f64) * facts.cpu_time()).max(1.0) as u64, false),
    }
}
