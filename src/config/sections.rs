//! The sections of the configuration: a struct each, with serde derive. The doc comment of a field
//! is its meaning in `ringmq config reference`, its type has the unit and the bounds, `Default` the
//! default. Owns no behaviour.
//!
//! `x-later` names keys and words of later capabilities, which are refused by name and never read
//! and ignored; `x-restart` marks what a reload cannot change.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bounded::{Count, List, Or, Ratio, Seconds, ShortTime, Size, Text, Time, Unit, Word};
use super::host::{Address, Bind, Cores, Mountpoint};
use super::notation::{DAY, HOUR, KIB, MIB, SECOND, TIB};
use crate::limits;

/// The most of anything that a 32-bit count can hold.
const MANY: u64 = u32::MAX as u64;
/// The longest interval the protocol can carry short of "for ever", in microseconds.
const LONGEST: u64 = (u32::MAX as u64 - 1) * SECOND;
/// The largest packet the protocol can carry: fixed header and Remaining Length, in bytes.
const LARGEST_PACKET: u64 = limits::MAX_REMAINING_LENGTH as u64 + 5;

/// Markers for the types of keys: what a count counts, and words that stand for "no value".
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

markers! { Word: Auto "auto" Never "never" Off "off" Unlimited "unlimited" }
markers! { Unit:
    Aliases "aliases" Bytes "bytes" Connections "connections"
    ConnectsPerSecond "connections per second" Levels "levels" Messages "messages"
    QosLevel "QoS level" Sockets "sockets" Subscriptions "subscriptions"
}

/// Receive buffers: the kernel's buffer rings take powers of two.
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
        #[serde(rename_all = "snake_case")]
        $(#[$attribute])*
        pub enum $name { $($(#[$doc])* $variant,)* }
    };
}

choice! {
    /// What carries MQTT on a listener.
    #[schemars(extend("x-later" = ["tls", "ws", "wss"], "x-noun" = "listener type"))]
    ListenerType {
        /// Plain TCP.
        Tcp,
        /// A unix stream socket.
        Unix,
    }
}

choice! {
    /// Whether connections begin with a PROXY protocol header.
    #[schemars(extend("x-later" = ["v1", "v2", "any"], "x-noun" = "proxy_protocol"))]
    ProxyProtocol {
        /// They do not.
        Off,
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
    Level {
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
    Format {
        /// Text for people.
        Text,
        /// One JSON object per line.
        Json,
    }
}

/// The whole configuration, checked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-later" = ["access", "overload", "storage", "bridges", "cluster"]))]
pub struct Config {
    /// Cores that run a shard, one shard per entry: a list such as [0, 2, 4-7]; a core listed twice
    /// runs two shards. auto: the process's affinity and cgroup quota.
    #[schemars(extend("x-restart" = true))]
    pub cores: Cores,
    /// How the shards run.
    pub runtime: Runtime,
    /// Where clients connect.
    pub listeners: List<Listener, { limits::MAX_LISTENERS }>,
    /// What the protocol allows; the same for all listeners.
    pub mqtt: Mqtt,
    /// Retained messages.
    pub retained: Retained,
    /// What clients may use.
    pub limits: Limits,
    /// The $SYS topics.
    pub sys: Sys,
    /// The admin HTTP server: /metrics (Prometheus), /healthz and /readyz.
    pub admin: Admin,
    /// Stopping.
    pub shutdown: Shutdown,
    /// The log, on standard error.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            cores: Cores::Auto,
            runtime: Runtime::default(),
            listeners: List(vec![Listener::default()]),
            mqtt: Mqtt::default(),
            retained: Retained::default(),
            limits: Limits::default(),
            sys: Sys::default(),
            admin: Admin::default(),
            shutdown: Shutdown::default(),
            log: Log::default(),
        }
    }
}

/// How the shards run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Runtime {
    /// Look for work this long before parking a shard; 0 parks at once.
    #[schemars(extend("x-restart" = true))]
    pub spin: ShortTime<0, SECOND>,
    /// A core that sleeps lets events gather this long before it wakes: less CPU under steady light
    /// traffic for that much more latency (Linux 6.12). 0 wakes for each.
    #[schemars(extend("x-restart" = true))]
    pub coalesce: ShortTime<0, { SECOND / 1000 }>,
    /// Sockets one io_uring holds; further rings are opened as needed. auto: the nofile limit, at
    /// most 1048576.
    #[schemars(extend("x-restart" = true))]
    pub sockets_per_ring: Or<Auto, Count<u32, Sockets, 4, 1_048_576>>,
    /// Buffers shared by all connections of one core.
    #[schemars(extend("x-restart" = true))]
    pub receive_buffers: ReceiveBuffers,
    /// Most connections in the whole broker; further ones are refused with 0x97 (MQTT 3: 3).
    pub max_connections: Or<Unlimited, Count<u32, Connections, 1, MANY>>,
}

impl Default for Runtime {
    fn default() -> Runtime {
        Runtime {
            spin: ShortTime::of(20),
            coalesce: ShortTime::of(0),
            sockets_per_ring: Or::NONE,
            receive_buffers: ReceiveBuffers::default(),
            max_connections: Or::NONE,
        }
    }
}

/// Receive buffers of one core.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ReceiveBuffers {
    /// Most buffers per core; memory is touched only when traffic needs it.
    pub count: Count<u32, Buffers, 16, 32_768>,
    /// Size of one buffer.
    pub size: Size<u32, 256, MIB>,
}

impl Default for ReceiveBuffers {
    fn default() -> ReceiveBuffers {
        ReceiveBuffers { count: Count::of(4096), size: Size::of(2 << 10) }
    }
}

/// One place where clients connect.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-later" = ["path", "tls"]))]
pub struct Listener {
    /// Its name, in logs and metrics.
    pub name: Text<1, 64>,
    /// What carries MQTT.
    #[serde(rename = "type")]
    pub kind: ListenerType,
    /// Address and port ("[::1]:1883" for IPv6; port 0 lets the kernel choose), or the path of a
    /// unix socket. An IPv6 address takes IPv6 clients only, "[::]:1883" too: for both families,
    /// add a listener on 0.0.0.0:1883.
    pub bind: Bind,
    /// Most connections of this listener; further ones are refused with 0x97 (MQTT 3: 3).
    pub max_connections: Or<Unlimited, Count<u32, Connections, 1, MANY>>,
    /// Most new connections per second; further ones are refused with 0x9F (MQTT 3: 3).
    pub max_connect_rate: Or<Unlimited, Count<u32, ConnectsPerSecond, 1, MANY>>,
    /// Connections the kernel holds until they are accepted, per core (net.core.somaxconn also
    /// limits it).
    pub backlog: Count<u32, Connections, 1, 65_535>,
    /// PROXY protocol header at the start of a connection.
    pub proxy_protocol: ProxyProtocol,
    /// Accept clients without user name. auto: only while every listener is on loopback or a unix
    /// socket.
    pub allow_anonymous: Or<Auto, bool>,
    /// Prefix of every topic of this listener's clients, ends with /; may use ${client_id} and
    /// ${username}, in which / + and # become _. A client whose prefix would leave no room for a
    /// topic is refused.
    pub mountpoint: Mountpoint,
}

impl Default for Listener {
    fn default() -> Listener {
        Listener {
            name: Text::of("default"),
            kind: ListenerType::Tcp,
            bind: Bind::Tcp(Bind::USUAL),
            max_connections: Or::NONE,
            max_connect_rate: Or::NONE,
            backlog: Count::of(4096),
            proxy_protocol: ProxyProtocol::Off,
            allow_anonymous: Or::NONE,
            mountpoint: Mountpoint::default(),
        }
    }
}

/// What the protocol allows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Mqtt {
    /// Largest packet a client may send, in bytes with its fixed header. The worst case in memory
    /// is one unfinished packet of this size per connection.
    pub max_packet_size: Size<u32, 128, LARGEST_PACKET>,
    /// Highest QoS clients may publish.
    pub max_qos: Count<u8, QosLevel, 0, 2>,
    /// Accept retained messages.
    pub retain: bool,
    /// Accept + and # in topic filters.
    pub wildcard_subscriptions: bool,
    /// Accept $share/group/filter subscriptions.
    pub shared_subscriptions: bool,
    /// Accept subscription identifiers.
    pub subscription_identifiers: bool,
    /// Send reason strings to MQTT 5 clients that want problem information.
    pub reason_strings: bool,
    /// Send CONNACK properties beyond those the specification makes mandatory.
    pub connack_properties: bool,
    /// Prefix of the Response Information given to MQTT 5 clients that ask for it; the ClientId
    /// follows. Empty: none is given.
    pub response_information: Text<0, 1024>,
    /// Longest ClientId in bytes.
    pub max_client_id_length: Count<u32, Bytes, 1, 65_535>,
    /// Assign a ClientId to clients that send none.
    pub empty_client_id: bool,
    /// Most levels of a topic name or filter.
    pub max_topic_levels: Count<u32, Levels, 1, { limits::MAX_TOPIC_LEVELS as u64 }>,
    /// Topic aliases one client may set; 0 turns them off.
    pub max_topic_alias: Count<u16, Aliases, 0, 65_535>,
    /// Topic aliases used towards one client, at most what the client allows.
    pub topic_alias_outbound: Count<u16, Aliases, 0, 65_535>,
    /// QoS 1 and 2 messages one MQTT 5 client may have in flight to the broker; MQTT 3 has no way
    /// to tell a client.
    pub receive_maximum: Count<u16, Messages, 1, 65_535>,
    /// QoS 1 and 2 messages in flight to one client, at most its Receive Maximum.
    pub max_inflight: Count<u16, Messages, 1, 65_535>,
    /// Send unacknowledged messages again to MQTT 3 clients after this time; MQTT 5 forbids it.
    pub retry_interval: Or<Off, Time<SECOND, DAY>>,
    /// Time a new connection has to send its CONNECT packet, and then to reach the core that the
    /// client lives on if that is busy.
    pub connect_timeout: Time<{ SECOND / 10 }, { 3600 * SECOND }>,
    /// Detection of dead clients.
    pub keep_alive: KeepAlive,
    /// How long sessions outlive their connection.
    pub session_expiry: SessionExpiry,
    /// Longest message expiry; also given to messages that carry none.
    pub message_expiry_max: Or<Unlimited, Seconds<SECOND, LONGEST>>,
    /// Most subscriptions of one client; each costs some 100 bytes. Past it SUBACK says 0x97 (Quota
    /// exceeded), to MQTT 3 clients 0x80.
    pub max_subscriptions: Or<Unlimited, Count<u32, Subscriptions, 1, MANY>>,
    /// Most subscriptions of one client whose filter is not found by hash: those with a wildcard
    /// whose shape (how many levels, which of them are +, whether it ends in #) is not among the
    /// first 48 in use on the shard. Only these make a publish dearer. SUBACK as for
    /// max_subscriptions, also when the broker has no room for more of them.
    pub max_unhashed_subscriptions: Count<u32, Subscriptions, 0, MANY>,
    /// Messages that wait for one client: offline, or its inflight window is full.
    pub pending: Pending,
    /// Unsent bytes to one slow client before QoS 0 messages to it are dropped; eight times as much
    /// to one that keeps reading. The worst case in memory is that for every connection.
    pub outgoing_max_bytes: Size<u64, KIB, TIB>,
    /// How a share group picks the member for a message, among those that can take it.
    pub shared_strategy: SharedStrategy,
}

impl Default for Mqtt {
    fn default() -> Mqtt {
        Mqtt {
            max_packet_size: Size::of(1 << 20),
            max_qos: Count::of(2),
            retain: true,
            wildcard_subscriptions: true,
            shared_subscriptions: true,
            subscription_identifiers: true,
            reason_strings: true,
            connack_properties: true,
            response_information: Text::of(""),
            max_client_id_length: Count::of(65535),
            empty_client_id: true,
            max_topic_levels: Count::of(128),
            max_topic_alias: Count::of(16),
            topic_alias_outbound: Count::of(0),
            receive_maximum: Count::of(256),
            max_inflight: Count::of(32),
            retry_interval: Or::NONE,
            connect_timeout: Time::of(10 * SECOND),
            keep_alive: KeepAlive::default(),
            session_expiry: SessionExpiry::default(),
            message_expiry_max: Or::NONE,
            max_subscriptions: Or::of(Count::of(100000)),
            max_unhashed_subscriptions: Count::of(512),
            pending: Pending::default(),
            outgoing_max_bytes: Size::of(MIB),
            shared_strategy: SharedStrategy::RoundRobin,
        }
    }
}

/// Detection of dead clients.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KeepAlive {
    /// Longest keep alive; clients that ask for more, or for none, get this one if they speak MQTT
    /// 5. 65535 leaves keep alive to the client.
    pub max: Seconds<SECOND, { 65_535 * SECOND }>,
    /// A client is dead after this many keep alive intervals without a packet; the specification
    /// says 1.5.
    pub multiplier: Ratio<1, 100>,
}

impl Default for KeepAlive {
    fn default() -> KeepAlive {
        KeepAlive { max: Seconds::of(65_535 * SECOND), multiplier: Ratio::of(1.5) }
    }
}

/// How long sessions outlive their connection.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SessionExpiry {
    /// For MQTT 3 clients with clean_session=0; MQTT 5 clients say it themselves.
    pub default: Or<Unlimited, Seconds<0, LONGEST>>,
    /// Longest session expiry; MQTT 5 clients that ask for more are told this one.
    pub max: Or<Unlimited, Seconds<0, LONGEST>>,
}

impl Default for SessionExpiry {
    fn default() -> SessionExpiry {
        SessionExpiry { default: Or::of(Seconds::of(2 * HOUR)), max: Or::NONE }
    }
}

/// Messages that wait for one client.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Pending {
    /// Most messages that wait.
    pub max_messages: Count<u32, Messages, 0, MANY>,
    /// Most bytes that wait. The worst case in memory is this for every session.
    pub max_bytes: Size<u64, 0, TIB>,
    /// Keep QoS 0 messages for offline clients too.
    pub qos0: bool,
    /// What happens to the next message when either bound is met.
    pub on_full: OnFull,
}

impl Default for Pending {
    fn default() -> Pending {
        Pending {
            max_messages: Count::of(1000),
            max_bytes: Size::of(MIB),
            qos0: false,
            on_full: OnFull::DropOldest,
        }
    }
}

/// Retained messages.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Retained {
    /// Most retained messages.
    pub max_messages: Or<Unlimited, Count<u64, Messages, 0, MANY>>,
    /// Largest payload that is retained.
    pub max_payload: Size<u64, 1, LARGEST_PACKET>,
    /// Forget retained messages without message expiry of their own after this time.
    pub expiry: Or<Never, Seconds<SECOND, LONGEST>>,
    /// Most bytes of retained messages, topics included.
    pub max_bytes: Or<Unlimited, Size<u64, 0, TIB>>,
}

impl Default for Retained {
    fn default() -> Retained {
        Retained {
            max_messages: Or::NONE,
            max_payload: Size::of(MIB),
            expiry: Or::NONE,
            max_bytes: Or::NONE,
        }
    }
}

/// What clients may use.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-later" = ["memory", "client", "address", "users"]))]
pub struct Limits {
    /// Largest CONNECT packet, its will message included, at most mqtt.max_packet_size: what a
    /// connection may make the broker hold before it is known who it is. The worst case in memory
    /// is this for every connection.
    pub before_connect: Size<u32, 128, LARGEST_PACKET>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { before_connect: Size::of(64 << 10) }
    }
}

/// The $SYS topics.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Sys {
    /// Time between updates; off publishes none.
    pub interval: Or<Off, Time<SECOND, DAY>>,
}

impl Default for Sys {
    fn default() -> Sys {
        Sys { interval: Or::of(Time::of(10 * SECOND)) }
    }
}

/// The admin HTTP server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Admin {
    /// Address and port, usually 127.0.0.1:18083 (port 0 lets the kernel choose). It asks for no
    /// password: keep it on loopback or a private network. off: none.
    pub bind: Or<Off, Address>,
}

impl Default for Admin {
    fn default() -> Admin {
        Admin { bind: Or::NONE }
    }
}

/// Stopping.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Shutdown {
    /// Time to drain after SIGTERM; then connections are closed.
    pub grace: Time<0, { 3600 * SECOND }>,
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown { grace: Time::of(10 * SECOND) }
    }
}

/// The log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Log {
    /// How much is logged.
    pub level: Level,
    /// How lines are written.
    #[schemars(extend("x-restart" = true))]
    pub format: Format,
    /// Lines about clients that connect, disconnect or are refused, at level info. Of each kind at
    /// most 50 at once and 10 per second are written by a shard; how many were left out is said
    /// every 10 seconds and counted. At level debug all are written.
    pub connections: bool,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: Level::Info, format: Format::Text, connections: true }
    }
}
