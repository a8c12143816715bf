//! The sections of the configuration: a struct each, with serde derive. The doc comment of a field
//! is its meaning in `ringmq config reference`. The type of a field has the unit and the bounds,
//! and the value after it is the default. Owns no behaviour.
//!
//! `x-later` names keys and words of later capabilities. They are refused by name, rather than read
//! and ignored. `x-restart` marks what a reload cannot change.

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess};
use serde::{Deserialize, Serialize, Serializer};

use super::access::AccessConfig;
use super::host::{Bind, Cores, FileMode, Mountpoint, Proxy, UrlPath, WebOrigin};
use super::notation::{DAY, HOUR, KIB, MIB, SECOND, TIB};
use super::quantity::{Count, Ratio, Seconds, ShortTime, Size, Time, Unit};
use super::value::{self, List, Or, Section, Several, Text, Word};
use crate::limits;

/// The largest value of a 32-bit count.
const MANY: u64 = u32::MAX as u64;
/// The longest interval that the protocol can carry, other than "for ever", in microseconds.
const LONGEST: u64 = (u32::MAX as u64 - 1) * SECOND;
/// The size of the largest packet that the protocol can carry, in bytes: fixed header and Remaining
/// Length.
const LARGEST_PACKET: u64 = limits::MAX_REMAINING_LENGTH as u64 + 5;

/// Declares markers for the types of keys: the units of counts, and the words for "no value".
macro_rules! markers {
    ($kind:ident: $($name:ident $text:literal)*) => {$(
        #[doc = $text]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name {}

        impl $kind for $name {
            const NAME: &'static str = $text;
        }
    )*};
}

markers! { Word: Any "any" Auto "auto" Never "never" Off "off" Unlimited "unlimited" }
markers! { Unit:
    Aliases "aliases" Bytes "bytes" Connections "connections"
    ConnectsPerSecond "connections per second" Levels "levels" Messages "messages"
    QosLevel "QoS level" Sockets "sockets" Subscriptions "subscriptions"
}

/// The unit of receive buffers, which are a power of two because the kernel's buffer rings are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Buffers {}

impl Unit for Buffers {
    const NAME: &'static str = "buffers";
    const POWER_OF_TWO: bool = true;
}

/// Declares a choice: one of a few words.
macro_rules! choice {
    ($(#[$attribute:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
        // The traits below are ours: serde's own would take a mapping for a word too.
        #[serde(rename_all = "snake_case", remote = "Self")]
        $(#[$attribute])*
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                $name::deserialize(String::deserialize(from)?.into_deserializer())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, to)
            }
        }
    };
}

pub(super) use choice;

choice! {
    /// What carries MQTT on a listener.
    ListenerType {
        /// Plain TCP.
        Tcp,
        /// TLS over TCP.
        Tls,
        /// WebSocket over plain TCP.
        Ws,
        /// WebSocket over TLS.
        Wss,
        /// A unix stream socket.
        Unix,
    }
}

choice! {
    /// Whether connections begin with a PROXY protocol header.
    ProxyProtocol {
        /// They do not.
        Off,
        /// With one of version 1.
        V1,
        /// With one of version 2.
        V2,
        /// With one of either version.
        Any,
    }
}

choice! {
    /// What of the client's certificate, as a proxy tells it, is its user name.
    ProxyUsername {
        /// Nothing.
        Off,
        /// The common name.
        Cn,
    }
}

choice! {
    /// What happens to a message that finds a session's pending queue full.
    OnFull {
        /// The oldest pending message is dropped for it.
        DropOldest,
        /// It is dropped.
        DropNew,
        /// The client is disconnected.
        Disconnect,
    }
}

choice! {
    /// How a share group picks the member for a message.
    SharedStrategy {
        /// Each member in turn.
        RoundRobin,
        /// Any member.
        Random,
        /// The same member until it leaves.
        Sticky,
        /// By hash of the topic name.
        HashTopic,
        /// By hash of the publisher's ClientId.
        HashClient,
    }
}

choice! {
    /// How much is logged.
    LogLevel {
        /// Someone must act.
        Error,
        /// A peer broke a rule, or a limit was met.
        Warn,
        /// Lifecycle.
        Info,
        /// Per connection.
        Debug,
        /// Per packet.
        Trace,
    }
}

choice! {
    /// How log lines are written.
    LogFormat {
        /// Text for people.
        Text,
        /// One JSON object per line.
        Json,
    }
}

/// Declares a section: a struct with public fields, each with its default.
macro_rules! section {
    (
        $(#[$attribute:meta])*
        $name:ident { $($(#[$of_field:meta])* $field:ident: $ty:ty = $default:expr,)* }
    ) => {
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
        // The traits below are ours: serde's own would take a list of values for a section too.
        #[serde(default, remote = "Self")]
        $(#[$attribute])*
        pub struct $name { $($(#[$of_field])* pub $field: $ty,)* }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)* }
            }
        }

        impl Section for $name {
            fn of_keys<'de, A: MapAccess<'de>>(keys: A) -> Result<$name, A::Error> {
                $name::deserialize(MapAccessDeserializer::new(keys))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                value::read_section(from)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, to)
            }
        }
    };
}

#[path = "admin.rs"]
mod admin;
#[path = "limits.rs"]
mod bounds;
#[path = "bridges.rs"]
mod bridges;
#[path = "cluster.rs"]
mod cluster;
#[path = "kafka.rs"]
mod kafka;
#[path = "telemetry.rs"]
mod telemetry;
#[path = "tls.rs"]
mod tls;
pub use admin::*;
pub use bounds::*;
pub use bridges::*;
pub use cluster::*;
pub use kafka::*;
pub(super) use section;
pub use telemetry::*;
pub use tls::*;

section! {
    /// The whole configuration, checked.
    Config {
        /// Cores that run a shard, one shard per entry: a list such as [0, 2, 4-7]; a core listed
        /// twice runs two shards. auto: the process's affinity and cgroup quota.
        #[schemars(extend("x-restart" = true))]
        cores: Cores = Cores::Auto,
        /// How the shards run.
        runtime: Runtime = Runtime::default(),
        /// Where clients connect.
        listeners: List<ListenerConfig, { limits::MAX_LISTENERS }> =
            List(vec![ListenerConfig::default()]),
        /// Proxies and load balancers in front of the broker: from these alone a PROXY header is
        /// accepted (listeners.N.proxy_protocol), and X-Forwarded-For believed. The peers of a unix
        /// socket count as such.
        trusted_proxies: Several<Proxy, { limits::MAX_TRUSTED_PROXIES }> = Several(Vec::new()),
        /// What the protocol allows; the same for all listeners.
        mqtt: Mqtt = Mqtt::default(),
        /// Retained messages.
        retained: RetainedConfig = RetainedConfig::default(),
        /// Who may connect, publish and subscribe.
        access: AccessConfig = AccessConfig::default(),
        /// What clients may use.
        limits: Limits = Limits::default(),
        /// What is not done any more when a core cannot keep up.
        overload: OverloadConfig = OverloadConfig::default(),
        /// Who may not connect.
        bans: Bans = Bans::default(),
        /// What survives a restart.
        #[schemars(extend("x-restart" = true))]
        storage: Storage = Storage::default(),
        /// Where messages go besides clients, and come from.
        bridges: List<Bridge, MAX_BRIDGES> = List(Vec::new()),
        /// Several nodes that are one broker.
        #[schemars(extend("x-restart" = true))]
        cluster: ClusterConfig = ClusterConfig::default(),
        /// The $SYS topics.
        sys: SysConfig = SysConfig::default(),
        /// What is told of clients besides metrics and the log.
        telemetry: Telemetry = Telemetry::default(),
        /// The admin HTTP server: the dashboard, the management API below /api/v1, and the pages
        /// /metrics (Prometheus), /healthz and /readyz.
        admin: AdminConfig = AdminConfig::default(),
        /// Stopping.
        shutdown: Shutdown = Shutdown::default(),
        /// The log, on standard error.
        log: LogConfig = LogConfig::default(),
    }
}

section! {
    /// How the shards run.
    Runtime {
        /// Look for work this long before parking a shard; 0 parks at once.
        #[schemars(extend("x-restart" = true))]
        spin: ShortTime<0, SECOND> = ShortTime::of(20),
        /// Whether a core that sleeps lets events gather before it wakes: less CPU under steady
        /// light traffic for as much more latency (Linux 6.12). auto: 300us, while that saves
        /// wake-ups and slows no client down that waits for answers, which is tried now and then;
        /// off on an older kernel. A time: always. off, 0: never.
        #[schemars(extend("x-restart" = true))]
        coalesce: Or<Auto, Or<Off, ShortTime<0, { SECOND / 1000 }>>> = Or::NONE,
        /// Sockets one io_uring holds; further rings are opened as needed. auto: the nofile limit,
        /// at most 1048576.
        #[schemars(extend("x-restart" = true))]
        sockets_per_ring: Or<Auto, Count<u32, Sockets, 4, 1_048_576>> = Or::NONE,
        /// Buffers shared by all connections of one core.
        #[schemars(extend("x-restart" = true))]
        receive_buffers: ReceiveBuffers = ReceiveBuffers::default(),
        /// Most connections in the whole broker; further ones are refused with 0x97 (MQTT 3: 3).
        max_connections: Or<Unlimited, Count<u32, Connections, 1, MANY>> = Or::NONE,
    }
}

section! {
    /// Receive buffers of one core.
    ReceiveBuffers {
        /// Most buffers per core; memory is touched only when traffic needs it.
        count: Count<u32, Buffers, 16, 32_768> = Count::of(4096),
        /// Size of one buffer.
        size: Size<u32, 256, MIB> = Size::of(2 * KIB),
    }
}

section! {
    /// One place where clients connect.
    ListenerConfig {
        /// Its name, in logs and metrics.
        name: Text<1, 64> = Text::of("default"),
        /// What carries MQTT.
        #[serde(rename = "type")]
        kind: ListenerType = ListenerType::Tcp,
        /// Address and port ("[::1]:1883" for IPv6; port 0 lets the kernel choose), or the path of
        /// a unix socket. A port alone, and "[::]:1883", are every address of both families, or of
        /// IPv4 where the host has no IPv6.
        bind: Bind = Bind::Tcp(Bind::USUAL),
        /// "[::]" takes IPv6 clients only, so that another listener can have 0.0.0.0.
        v6only: bool = false,
        /// Rights of a unix socket's file: who may write to it may connect. auto: as the umask has
        /// it.
        mode: Or<Auto, FileMode> = Or::NONE,
        /// User that owns a unix socket's file, by name or number. auto: the broker's.
        owner: Or<Auto, Text<1, 64>> = Or::NONE,
        /// Group of a unix socket's file, by name or number. auto: the broker's.
        group: Or<Auto, Text<1, 64>> = Or::NONE,
        /// Most connections of this listener; further ones are refused with 0x97 (MQTT 3: 3), and
        /// with TLS closed before their handshake.
        max_connections: Or<Unlimited, Count<u32, Connections, 1, MANY>> = Or::NONE,
        /// Most new connections per second; further ones are refused with 0x9F (MQTT 3: 3), and
        /// with TLS closed before their handshake.
        max_connect_rate: Or<Unlimited, Count<u32, ConnectsPerSecond, 1, MANY>> = Or::NONE,
        /// Most retained messages of its clients: what they published while there was such a bound
        /// and is still kept, whoever is connected. Further ones are delivered and not kept.
        max_retained_messages: Or<Unlimited, Count<u32, Messages, 0, MANY>> = Or::NONE,
        /// Most bytes of them, topics included.
        max_retained_bytes: Or<Unlimited, Size<u64, 0, TIB>> = Or::NONE,
        /// Limits of each of its clients, in place of those of limits.client.
        limits: ClientLimits = ClientLimits::default(),
        /// Connections the kernel holds until they are accepted, per core (net.core.somaxconn also
        /// limits it).
        backlog: Count<u32, Connections, 1, 65_535> = Count::of(4096),
        /// What the kernel holds of what a client sends until it is read (SO_RCVBUF, which
        /// net.core.rmem_max also limits). The more it is, the longer a flood waits there, and the
        /// faster may one client far away send: about this much per round trip. auto: as tcp_rmem
        /// has it, up to some megabytes. Not for unix sockets.
        receive_buffer: Or<Auto, Size<u32, { 4 * KIB }, { 64 * MIB }>> =
            Or::of(Size::of(128 * KIB)),
        /// PROXY protocol header at the start of a connection: it tells the client's address, which
        /// then stands in the log and counts for limits, and the name in its certificate. Only
        /// trusted_proxies may connect. The header has to come within mqtt.connect_timeout, and has
        /// at most 4 KiB.
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off,
        /// Which part of the client's certificate, as the proxy tells it in a header of version 2,
        /// is its user name, in place of what CONNECT says. A client that the proxy has verified no
        /// certificate of keeps its own.
        proxy_username: ProxyUsername = ProxyUsername::Off,
        /// Accept clients without user name. auto: only while access.authentication is empty and
        /// every listener is on loopback or a unix socket, and none has proxy_protocol.
        allow_anonymous: Or<Auto, bool> = Or::NONE,
        /// Prefix of every topic of this listener's clients, ends with /; may use ${client_id} and
        /// ${username}, in which / + and # become _. A client whose prefix would leave no room for
        /// a topic is refused.
        mountpoint: Mountpoint = Mountpoint::default(),
        /// Path of the WebSocket; requests for another one get 404.
        path: UrlPath = UrlPath::usual(),
        /// Pages that may open the WebSocket, by the Origin that browsers send; others get 403. A
        /// client that sends no Origin is no browser, and is let in.
        origins: Or<Any, Several<WebOrigin, { limits::MAX_ORIGINS }>> = Or::NONE,
        /// Certificates and keys of a listener of the type tls or wss.
        tls: TlsConfig = TlsConfig::default(),
    }
}

section! {
    /// What the protocol allows.
    Mqtt {
        /// Largest packet a client may send, in bytes with its fixed header. The worst case in
        /// memory is one unfinished packet of this size per connection.
        max_packet_size: Size<u32, 128, LARGEST_PACKET> = Size::of(MIB),
        /// Highest QoS clients may publish.
        max_qos: Count<u8, QosLevel, 0, 2> = Count::of(2),
        /// Accept retained messages.
        retain: bool = true,
        /// Accept + and # in topic filters.
        wildcard_subscriptions: bool = true,
        /// Accept $share/group/filter subscriptions.
        shared_subscriptions: bool = true,
        /// Accept subscription identifiers.
        subscription_identifiers: bool = true,
        /// Send reason strings to MQTT 5 clients that want problem information.
        reason_strings: bool = true,
        /// Send CONNACK properties beyond those the specification makes mandatory.
        connack_properties: bool = true,
        /// Prefix of the Response Information given to MQTT 5 clients that ask for it; the
        /// ClientId follows. Empty: none is given.
        response_information: Text<0, 1024> = Text::of(""),
        /// Longest ClientId in bytes. One of more than 65,000 bytes does not fit in a CONNECT of
        /// limits.before_connect's default: raise that too, if clients have such names.
        max_client_id_length: Count<u32, Bytes, 1, 65_535> = Count::of(65535),
        /// Assign a ClientId to clients that send none.
        empty_client_id: bool = true,
        /// Most levels of a topic name or filter.
        max_topic_levels: Count<u32, Levels, 1, { limits::MAX_TOPIC_LEVELS as u64 }> =
            Count::of(128),
        /// Topic aliases one client may set; 0 turns them off. At worst each has 64 KiB, and all
        /// names of one client 1 MiB, however many there are: past that the client is ended with
        /// 0x97.
        max_topic_alias: Count<u16, Aliases, 0, 65_535> = Count::of(16),
        /// Topic aliases used towards one client, at most what the client allows, and 1 MiB of
        /// names: the worst case in memory for every connection.
        topic_alias_outbound: Count<u16, Aliases, 0, 65_535> = Count::of(0),
        /// QoS 1 and 2 messages one MQTT 5 client may have in flight to the broker; MQTT 3 has no
        /// way to tell a client. The worst case in memory is 24 bytes for each, and for the 65,535
        /// of an MQTT 3 client.
        receive_maximum: Count<u16, Messages, 1, 65_535> = Count::of(256),
        /// QoS 1 and 2 messages in flight to one client, at most its Receive Maximum. The worst
        /// case in memory is so many packets of max_packet_size for every session.
        max_inflight: Count<u16, Messages, 1, 65_535> = Count::of(32),
        /// Send unacknowledged messages again to MQTT 3 clients after this time; MQTT 5 forbids
        /// it.
        retry_interval: Or<Off, Time<SECOND, DAY>> = Or::NONE,
        /// Time without any progress of what is being sent to a client after which it is
        /// disconnected: it does not read, and its Keep Alive may be off. A send that goes on is up
        /// to 256 KiB, of which the kernel has to take the last byte.
        send_timeout: Or<Off, Time<SECOND, DAY>> = Or::of(Time::of(300 * SECOND)),
        /// Time a new connection has to send its CONNECT packet, and then to reach the core that
        /// the client lives on if that is busy.
        connect_timeout: Time<{ SECOND / 10 }, { 3600 * SECOND }> = Time::of(10 * SECOND),
        /// Detection of dead clients.
        keep_alive: KeepAlive = KeepAlive::default(),
        /// How long sessions outlive their connection.
        session_expiry: SessionExpiry = SessionExpiry::default(),
        /// Longest message expiry; also given to messages that carry none.
        message_expiry_max: Or<Unlimited, Seconds<SECOND, LONGEST>> = Or::NONE,
        /// Most subscriptions of one client. The worst case in memory is so many of 100 bytes and
        /// their filters for every session. Past it SUBACK says 0x97 (Quota exceeded), to MQTT 3
        /// clients 0x80.
        max_subscriptions: Or<Unlimited, Count<u32, Subscriptions, 1, MANY>> =
            Or::of(Count::of(100000)),
        /// Most subscriptions of one client whose filter is not found by hash: those with a
        /// wildcard whose shape (how many levels, which of them are +, whether it ends in #) is
        /// not among the first 48 in use on the shard. Only these make a publish dearer. SUBACK as
        /// for max_subscriptions, also when the broker has no room for more of them.
        max_unhashed_subscriptions: Count<u32, Subscriptions, 0, MANY> = Count::of(512),
        /// Messages that wait for one client: offline, or its inflight window is full. With
        /// storage.path all but the first 16 of a session that is kept wait on disk and take about
        /// 100 bytes of memory each.
        pending: PendingConfig = PendingConfig::default(),
        /// Unsent bytes to one slow client before QoS 0 messages to it are dropped; eight times as
        /// much to one that keeps reading. The worst case in memory is that for every connection.
        outgoing_max_bytes: Size<u64, KIB, TIB> = Size::of(MIB),
        /// How a share group picks the member for a message, among those that can take it.
        shared_strategy: SharedStrategy = SharedStrategy::RoundRobin,
    }
}

section! {
    /// Detection of dead clients.
    KeepAlive {
        /// Longest keep alive; clients that ask for more, or for none, get this one if they speak
        /// MQTT 5. 65535 leaves keep alive to the client.
        max: Seconds<SECOND, { 65_535 * SECOND }> = Seconds::of(65_535 * SECOND),
        /// A client is dead after this many keep alive intervals without a packet; the
        /// specification says 1.5.
        multiplier: Ratio<1, 100> = Ratio::of(1.5),
    }
}

section! {
    /// How long sessions outlive their connection.
    SessionExpiry {
        /// For MQTT 3 clients with clean_session=0; MQTT 5 clients say it themselves.
        default: Or<Unlimited, Seconds<0, LONGEST>> = Or::of(Seconds::of(2 * HOUR)),
        /// Longest session expiry; MQTT 5 clients that ask for more are told this one.
        max: Or<Unlimited, Seconds<0, LONGEST>> = Or::NONE,
    }
}

section! {
    /// Messages that wait for one client.
    PendingConfig {
        /// Most messages that wait.
        max_messages: Count<u32, Messages, 0, MANY> = Count::of(1000),
        /// Most bytes that wait. The worst case in memory is this for every session.
        max_bytes: Size<u64, 0, TIB> = Size::of(MIB),
        /// Keep QoS 0 messages for offline clients too.
        qos0: bool = false,
        /// What happens to the next message when either bound is met.
        on_full: OnFull = OnFull::DropOldest,
    }
}

section! {
    /// Retained messages.
    RetainedConfig {
        /// Most retained messages.
        max_messages: Or<Unlimited, Count<u64, Messages, 0, MANY>> = Or::NONE,
        /// Largest payload that is retained.
        max_payload: Size<u64, 1, LARGEST_PACKET> = Size::of(MIB),
        /// Forget retained messages without message expiry of their own after this time.
        expiry: Or<Never, Seconds<SECOND, LONGEST>> = Or::NONE,
        /// Most bytes of retained messages, topics included. In memory each has its topic once
        /// more, and 112 bytes.
        max_bytes: Or<Unlimited, Size<u64, 0, TIB>> = Or::NONE,
    }
}

choice! {
    /// When what is stored is acknowledged.
    Durability {
        /// After the commit that holds it.
        Sync,
        /// When it is written, before it is synced.
        Async,
    }
}

choice! {
    /// What becomes of messages that would have to be stored while the disk is full or fails.
    StorageFailure {
        /// They are refused.
        Refuse,
        /// They are acknowledged from memory.
        Degrade,
    }
}

section! {
    /// What survives a restart: sessions with an expiry, their subscriptions and messages of QoS 1
    /// and 2, and retained messages.
    Storage {
        /// Directory of the store, made when it is not there. One broker uses it at a time, with as
        /// many shards as it was made for. Empty: nothing survives a restart.
        path: Text<0, 4096> = Text::of(""),
        /// sync: nothing is acknowledged to a client before what it says is on the disk, so that
        /// neither kill -9 nor a power cut loses it. async: it is acknowledged when it is written,
        /// and synced within interval: kill -9 loses nothing, a power cut or a crash of the kernel
        /// at most what was acknowledged in the last interval and while the last sync took; damage
        /// to what no sync had reached yet is taken for that, other damage is told.
        durability: Durability = Durability::Sync,
        /// With async: the longest that something may be written and not synced.
        interval: Time<{ SECOND / 100 }, { 60 * SECOND }> = Time::of(SECOND / 10),
        /// With sync: what is stored gathers at most this long before it is written and synced.
        gather: ShortTime<0, SECOND> = ShortTime::of(2000),
        /// Most bytes on the disk, at least 640 MiB per shard. auto: all but 64 MiB of what the
        /// file system has. When they are used up, on_failure says what becomes of messages that
        /// would have to be stored, until something is acknowledged, ends or is cleared.
        max_bytes: Or<Auto, Size<u64, { 640 * MIB }, { 1024 * TIB }>> = Or::NONE,
        /// refuse: while the disk is full or fails, messages of QoS 1 and 2 are answered with 0x97
        /// (MQTT 3: not at all, so that their publishers keep them), retained messages of QoS 0
        /// wait, and who connects with a session that is to last is told 0x88 (MQTT 3: 3) while
        /// not even that can be written; everything else goes on. degrade: while the disk fails or
        /// hangs, up to 256 MiB per shard are acknowledged from memory and written when it works
        /// again; ending the broker before that loses them. A full disk refuses all the same.
        on_failure: StorageFailure = StorageFailure::Refuse,
    }
}

section! {
    /// Stopping.
    Shutdown {
        /// Time to drain after SIGTERM; then connections are closed.
        grace: Time<0, { 3600 * SECOND }> = Time::of(10 * SECOND),
    }
}

section! {
    /// The log.
    LogConfig {
        /// How much is logged.
        level: LogLevel = LogLevel::Info,
        /// How lines are written.
        #[schemars(extend("x-restart" = true))]
        format: LogFormat = LogFormat::Text,
        /// Lines about clients that connect, disconnect or are refused, at level info. Of each
        /// kind at most 50 at once and 10 per second are written by a shard; how many were left
        /// out is said every 10 seconds and counted. At level debug all are written.
        connections: bool = true,
    }
}
