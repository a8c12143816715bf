//! The table of every key: name, type, unit, default, bounds and meaning, once. Parsing, bounds,
//! the default file and the reference are all made from it, and so are the structs the broker
//! reads. Owns no behaviour.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::section::{choice_enum, section_struct};
use super::spec::{
    DAY, KIB, MIB, SECOND, TIB, address, bind, choice, cores, count, duration, list, ratio,
    section, short_duration, size, switch, text,
};
use crate::limits;

/// The most of anything that a 32-bit count can hold.
const MANY: u64 = u32::MAX as u64;
/// The longest interval the protocol can carry short of "for ever", in microseconds.
const LONGEST: u64 = (u32::MAX as u64 - 1) * SECOND;
/// The largest packet the protocol can carry: fixed header and Remaining Length, in bytes.
const LARGEST_PACKET: u64 = limits::MAX_REMAINING_LENGTH as u64 + 5;

/// Which cores run a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cores {
    /// Every core the process may use: affinity and cgroup quota.
    Auto,
    /// One shard per entry, pinned there. A core may be listed twice (two shards share it).
    List(Vec<u16>),
}

/// Where a listener listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Bind {
    /// An IP address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// How much clients may make the broker hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryBudget {
    /// A share of what the host had free at the start.
    Auto,
    /// No bound.
    Unlimited,
    /// So many bytes.
    Bytes(u64),
}

impl MemoryBudget {
    /// In bytes, `u64::MAX` for no bound. `auto`: what [`MemoryBudget::Auto`] stands for, if it is
    /// known.
    pub fn bytes(self, auto: Option<u64>) -> u64 {
        match self {
            MemoryBudget::Auto => auto.unwrap_or(u64::MAX),
            MemoryBudget::Unlimited => u64::MAX,
            MemoryBudget::Bytes(bytes) => bytes,
        }
    }
}

choice_enum! {
    /// What carries MQTT on a listener.
    pub enum ListenerType {
        /// Plain TCP.
        Tcp = "tcp",
        /// A unix stream socket.
        Unix = "unix",
    }
}

choice_enum! {
    /// Whether connections begin with a PROXY protocol header.
    pub enum ProxyProtocol {
        /// They do not.
        Off = "off",
    }
}

choice_enum! {
    /// What happens to a message that finds a session's pending queue full.
    pub enum OnFull {
        /// The oldest pending message is dropped for it.
        DropOldest = "drop_oldest",
        /// It is dropped.
        DropNew = "drop_new",
        /// The client is disconnected.
        Disconnect = "disconnect",
    }
}

choice_enum! {
    /// How a share group picks the member for a message.
    pub enum SharedStrategy {
        /// Each member in turn.
        RoundRobin = "round_robin",
        /// Any member.
        Random = "random",
        /// The same member until it leaves.
        Sticky = "sticky",
        /// By hash of the topic name.
        HashTopic = "hash_topic",
        /// By hash of the publisher's ClientId.
        HashClient = "hash_client",
    }
}

choice_enum! {
    /// How much is logged.
    pub enum Level {
        /// Someone must act.
        Error = "error",
        /// A peer broke a rule, or a limit was met.
        Warn = "warn",
        /// Lifecycle.
        Info = "info",
        /// Per connection.
        Debug = "debug",
        /// Per packet.
        Trace = "trace",
    }
}

choice_enum! {
    /// How log lines are written.
    pub enum Format {
        /// Text for people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

section_struct! {
    /// The whole configuration, checked.
    pub struct Config later ["access", "overload", "storage", "bridges", "cluster"] {
        cores "cores": Cores = "auto", cores(),
            "Cores that run a shard, one shard per entry: a list such as [0, 2, 4-7]; a core \
             listed twice runs two shards. auto: the process's affinity and cgroup quota.";
        runtime "runtime": Runtime = "", section(), "How the shards run.";
        listeners "listeners": Vec<Listener> = "", list(), "Where clients connect.";
        mqtt "mqtt": Mqtt = "", section(), "What the protocol allows; the same for all listeners.";
        retained "retained": Retained = "", section(), "Retained messages.";
        limits "limits": Limits = "", section(), "What clients may use.";
        sys "sys": Sys = "", section(), "The $SYS topics.";
        admin "admin": Admin = "", section(),
            "The admin HTTP server: /metrics (Prometheus), /healthz and /readyz.";
        shutdown "shutdown": Shutdown = "", section(), "Stopping.";
        log "log": Log = "", section(), "The log, on standard error.";
    }
}

section_struct! {
    /// How the shards run.
    pub struct Runtime later [] {
        spin "spin": Duration = "20us", short_duration(0, SECOND),
            "Look for work this long before parking a shard; 0 parks at once.";
        coalesce "coalesce": Duration = "0", short_duration(0, SECOND / 1000),
            "A core that sleeps lets events gather this long before it wakes: less CPU under \
             steady light traffic for that much more latency (Linux 6.12). 0 wakes for each.";
        sockets_per_ring "sockets_per_ring": Option<u32> = "auto",
            count(4, 1_048_576, "sockets").or("auto"),
            "Sockets one io_uring holds; further rings are opened as needed. auto: the nofile \
             limit, at most 1048576.";
        receive_buffers "receive_buffers": ReceiveBuffers = "", section(),
            "Buffers shared by all connections of one core.";
        max_connections "max_connections": Option<u32> = "unlimited",
            count(1, MANY, "connections").or("unlimited"),
            "Most connections in the whole broker; further ones are refused with 0x97 (MQTT 3: 3).";
    }
}

section_struct! {
    /// Receive buffers of one core.
    pub struct ReceiveBuffers later [] {
        count "count": u32 = "4096", count(16, 32_768, "buffers").power_of_two(),
            "Most buffers per core; memory is touched only when traffic needs it.";
        size "size": u32 = "2KiB", size(256, MIB), "Size of one buffer.";
    }
}

section_struct! {
    /// One place where clients connect.
    pub struct Listener later ["path", "tls"] {
        name "name": String = "default", text(1, 64), "Its name, in logs and metrics.";
        kind "type": ListenerType = "tcp",
            choice(ListenerType::WORDS).later("listener type", &["tls", "ws", "wss"]),
            "What carries MQTT.";
        bind "bind": Bind = "127.0.0.1:1883", bind(),
            "Address and port (\"[::1]:1883\" for IPv6; port 0 lets the kernel choose), or the \
             path of a unix socket. An IPv6 address takes IPv6 clients only, \"[::]:1883\" too: \
             for both families, add a listener on 0.0.0.0:1883.";
        max_connections "max_connections": Option<u32> = "unlimited",
            count(1, MANY, "connections").or("unlimited"),
            "Most connections of this listener; further ones are refused with 0x97 (MQTT 3: 3).";
        max_connect_rate "max_connect_rate": Option<u32> = "unlimited",
            count(1, MANY, "connections per second").or("unlimited"),
            "Most new connections per second; further ones are refused with 0x9F (MQTT 3: 3).";
        backlog "backlog": u32 = "4096", count(1, 65_535, "connections"),
            "Connections the kernel holds until they are accepted, per core (net.core.somaxconn \
             also limits it).";
        proxy_protocol "proxy_protocol": ProxyProtocol = "off",
            choice(ProxyProtocol::WORDS).later("proxy_protocol", &["v1", "v2", "any"]),
            "PROXY protocol header at the start of a connection.";
        allow_anonymous "allow_anonymous": Option<bool> = "auto", switch().or("auto"),
            "Accept clients without user name. auto: only while every listener is on loopback or \
             a unix socket.";
        mountpoint "mountpoint": String = "\"\"", text(0, 1024),
            "Prefix of every topic of this listener's clients, ends with /; may use ${client_id} \
             and ${username}, in which / + and # become _. A client whose prefix would leave no \
             room for a topic is refused.";
    }
}

section_struct! {
    /// What the protocol allows.
    pub struct Mqtt later [] {
        max_packet_size "max_packet_size": u32 = "1MiB", size(128, LARGEST_PACKET),
            "Largest packet a client may send, in bytes with its fixed header. The worst case in \
             memory is one unfinished packet of this size per connection.";
        max_qos "max_qos": u8 = "2", count(0, 2, "QoS level"), "Highest QoS clients may publish.";
        retain "retain": bool = "true", switch(), "Accept retained messages.";
        wildcard_subscriptions "wildcard_subscriptions": bool = "true", switch(),
            "Accept + and # in topic filters.";
        shared_subscriptions "shared_subscriptions": bool = "true", switch(),
            "Accept $share/group/filter subscriptions.";
        subscription_identifiers "subscription_identifiers": bool = "true", switch(),
            "Accept subscription identifiers.";
        reason_strings "reason_strings": bool = "true", switch(),
            "Send reason strings to MQTT 5 clients that want problem information.";
        connack_properties "connack_properties": bool = "true", switch(),
            "Send CONNACK properties beyond those the specification makes mandatory.";
        response_information "response_information": String = "\"\"", text(0, 1024),
            "Prefix of the Response Information given to MQTT 5 clients that ask for it; the \
             ClientId follows. Empty: none is given.";
        max_client_id_length "max_client_id_length": u32 = "65535", count(1, 65_535, "bytes"),
            "Longest ClientId in bytes. One of more than 65,000 bytes does not fit in a CONNECT \
             of limits.before_connect's default: raise that too, if clients have such names.";
        empty_client_id "empty_client_id": bool = "true", switch(),
            "Assign a ClientId to clients that send none.";
        max_topic_levels "max_topic_levels": u32 = "128",
            count(1, limits::MAX_TOPIC_LEVELS as u64, "levels"),
            "Most levels of a topic name or filter.";
        max_topic_alias "max_topic_alias": u16 = "16", count(0, 65_535, "aliases"),
            "Topic aliases one client may set; 0 turns them off. At worst each has 64 KiB, and \
             all names of one client 1 MiB, however many there are: past that the client is ended \
             with 0x97.";
        topic_alias_outbound "topic_alias_outbound": u16 = "0", count(0, 65_535, "aliases"),
            "Topic aliases used towards one client, at most what the client allows, and 1 MiB of \
             names: the worst case in memory for every connection.";
        receive_maximum "receive_maximum": u16 = "256", count(1, 65_535, "messages"),
            "QoS 1 and 2 messages one MQTT 5 client may have in flight to the broker; MQTT 3 has \
             no way to tell a client. The worst case in memory is 24 bytes for each, and for the \
             65,535 of an MQTT 3 client.";
        max_inflight "max_inflight": u16 = "32", count(1, 65_535, "messages"),
            "QoS 1 and 2 messages in flight to one client, at most its Receive Maximum. The worst \
             case in memory is so many packets of max_packet_size for every session.";
        retry_interval "retry_interval": Option<Duration> = "off",
            duration(SECOND, DAY).or("off"),
            "Send unacknowledged messages again to MQTT 3 clients after this time; MQTT 5 \
             forbids it.";
        connect_timeout "connect_timeout": Duration = "10s", duration(SECOND / 10, 3600 * SECOND),
            "Time a new connection has to send its CONNECT packet, and then to reach the core \
             that the client lives on if that is busy.";
        keep_alive "keep_alive": KeepAlive = "", section(), "Detection of dead clients.";
        session_expiry "session_expiry": SessionExpiry = "", section(),
            "How long sessions outlive their connection.";
        message_expiry_max "message_expiry_max": Option<Duration> = "unlimited",
            duration(SECOND, LONGEST).or("unlimited").whole_seconds(),
            "Longest message expiry; also given to messages that carry none.";
        max_subscriptions "max_subscriptions": Option<u32> = "100000",
            count(1, MANY, "subscriptions").or("unlimited"),
            "Most subscriptions of one client. The worst case in memory is so many of 100 bytes \
             and their filters for every session. Past it SUBACK says \
             0x97 (Quota exceeded), to MQTT 3 clients 0x80.";
        max_unhashed_subscriptions "max_unhashed_subscriptions": u32 = "512",
            count(0, MANY, "subscriptions"),
            "Most subscriptions of one client whose filter is not found by hash: those with a \
             wildcard whose shape (how many levels, which of them are +, whether it ends in #) is \
             not among the first 48 in use on the shard. Only these make a publish dearer. SUBACK \
             as for max_subscriptions, also when the broker has no room for more of them.";
        pending "pending": Pending = "", section(),
            "Messages that wait for one client: offline, or its inflight window is full.";
        outgoing_max_bytes "outgoing_max_bytes": u64 = "1MiB", size(KIB, TIB),
            "Unsent bytes to one slow client before QoS 0 messages to it are dropped; eight \
             times as much to one that keeps reading. The worst case in memory is that for every \
             connection.";
        shared_strategy "shared_strategy": SharedStrategy = "round_robin",
            choice(SharedStrategy::WORDS),
            "How a share group picks the member for a message, among those that can take it.";
    }
}

section_struct! {
    /// Detection of dead clients.
    pub struct KeepAlive later [] {
        max "max": Duration = "65535", duration(SECOND, 65_535 * SECOND).whole_seconds(),
            "Longest keep alive; clients that ask for more, or for none, get this one if they \
             speak MQTT 5. 65535 leaves keep alive to the client.";
        multiplier "multiplier": f64 = "1.5", ratio(1, 100),
            "A client is dead after this many keep alive intervals without a packet; the \
             specification says 1.5.";
    }
}

section_struct! {
    /// How long sessions outlive their connection.
    pub struct SessionExpiry later [] {
        default "default": Option<Duration> = "2h",
            duration(0, LONGEST).or("unlimited").whole_seconds(),
            "For MQTT 3 clients with clean_session=0; MQTT 5 clients say it themselves.";
        max "max": Option<Duration> = "unlimited",
            duration(0, LONGEST).or("unlimited").whole_seconds(),
            "Longest session expiry; MQTT 5 clients that ask for more are told this one.";
    }
}

section_struct! {
    /// Messages that wait for one client.
    pub struct Pending later [] {
        max_messages "max_messages": u32 = "1000", count(0, MANY, "messages"),
            "Most messages that wait.";
        max_bytes "max_bytes": u64 = "1MiB", size(0, TIB),
            "Most bytes that wait. The worst case in memory is this for every session.";
        qos0 "qos0": bool = "false", switch(), "Keep QoS 0 messages for offline clients too.";
        on_full "on_full": OnFull = "drop_oldest", choice(OnFull::WORDS),
            "What happens to the next message when either bound is met.";
    }
}

section_struct! {
    /// Retained messages.
    pub struct Retained later [] {
        max_messages "max_messages": Option<u64> = "unlimited",
            count(0, MANY, "messages").or("unlimited"), "Most retained messages.";
        max_payload "max_payload": u64 = "1MiB", size(1, LARGEST_PACKET),
            "Largest payload that is retained.";
        expiry "expiry": Option<Duration> = "never",
            duration(SECOND, LONGEST).or("never").whole_seconds(),
            "Forget retained messages without message expiry of their own after this time.";
        max_bytes "max_bytes": Option<u64> = "unlimited", size(0, TIB).or("unlimited"),
            "Most bytes of retained messages, topics included. In memory each has its topic once \
             more, and 112 bytes.";
    }
}

section_struct! {
    /// What clients may use.
    pub struct Limits later ["client", "address", "users"] {
        memory "memory": MemoryBudget = "auto", size(16 * MIB, TIB).or("auto"),
            "Bytes that all clients together may make the broker hold (ringmq_memory_bytes); or \
             unlimited. auto: three quarters of the memory that was free at the start, or of what \
             the control group had left. From 14 sixteenths on nothing more is stored: pending \
             queues get no longer (pending.on_full decides), QoS 0 goes only to clients that read, \
             no message is retained, unfinished CONNECTs are closed. From 15 on CONNECT gets 0x89 \
             (MQTT 3: 3), SUBSCRIBE 0x97. From 16 on PUBLISH gets 0x97 (MQTT 3 and QoS 0: dropped \
             and counted). What is in flight is never dropped for it. A step of each core may come \
             on top.";
        before_connect "before_connect": u32 = "64KiB", size(128, LARGEST_PACKET),
            "Largest CONNECT packet, its will message included, at most mqtt.max_packet_size: what \
             a connection may make the broker hold before it is known who it is. The worst case in \
             memory is this for every connection, and nothing while memory is short (memory).";
    }
}

section_struct! {
    /// The $SYS topics.
    pub struct Sys later [] {
        interval "interval": Option<Duration> = "10s", duration(SECOND, DAY).or("off"),
            "Time between updates; off publishes none.";
    }
}

section_struct! {
    /// The admin HTTP server.
    pub struct Admin later [] {
        bind "bind": Option<SocketAddr> = "off", address().or("off"),
            "Address and port, usually 127.0.0.1:18083 (port 0 lets the kernel choose). It asks \
             for no password: keep it on loopback or a private network. off: none.";
    }
}

section_struct! {
    /// Stopping.
    pub struct Shutdown later [] {
        grace "grace": Duration = "10s", duration(0, 3600 * SECOND),
            "Time to drain after SIGTERM; then connections are closed.";
    }
}

section_struct! {
    /// The log.
    pub struct Log later [] {
        level "level": Level = "info", choice(Level::WORDS), "How much is logged.";
        format "format": Format = "text", choice(Format::WORDS), "How lines are written.";
        connections "connections": bool = "true", switch(),
            "Lines about clients that connect, disconnect or are refused, at level info. Of each \
             kind at most 50 at once and 10 per second are written by a shard; how many were left \
             out is said every 10 seconds and counted. At level debug all are written.";
    }
}
