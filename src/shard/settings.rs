//! The configuration in the form that the shard's hot paths need: plain numbers in fixed units, and
//! a value for nearly everything that the configuration may leave out.

use crate::access::Access;
use crate::config::{Config, Get, SharedStrategy, SysVisible};
use crate::limits::{ADMISSIONS, Budget};
use crate::overload::Policy;
use crate::session::NEVER;
use crate::session::pending::PendingBounds;
use crate::transport::network::Networks;
use std::sync::Arc;
use std::time::Duration;

/// When this many bytes to one client stay unsent for some time, its publishers wait; fewer with a
/// low high-water mark.
const LONG_OUTPUT: usize = 64 * 1024;

/// The settings that a shard needs, from `mqtt:`, `retained:`, `sys:`, `limits:`, `telemetry:` and
/// others. One copy per shard, replaced whole on reload.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest packet accepted, bytes.
    pub max_packet_size: u32,
    /// Highest QoS accepted, 0 to 2.
    pub max_qos: u8,
    /// Whether retained messages are available.
    pub retain: bool,
    /// Whether wildcard subscriptions are available.
    pub wildcard_subscriptions: bool,
    /// Whether shared subscriptions are available.
    pub shared_subscriptions: bool,
    /// Whether subscription identifiers are available.
    pub subscription_identifiers: bool,
    /// Longest ClientId, bytes.
    pub max_client_id_length: usize,
    /// Whether the server assigns a ClientId to a client that sends an empty one.
    pub empty_client_id: bool,
    /// Most levels of a topic name or filter.
    pub max_topic_levels: usize,
    /// Highest topic alias that a client may use.
    pub max_topic_alias: u16,
    /// Highest topic alias used towards a client, at most the client's own maximum.
    pub topic_alias_outbound: u16,
    /// Most QoS 2 messages of a client that may await PUBREL.
    pub receive_maximum: u16,
    /// Most QoS 1/2 messages in flight to a client.
    pub max_inflight: u16,
    /// Milliseconds between repeats to MQTT 3 clients; 0 for none.
    pub retry_interval: u64,
    /// Milliseconds a connection may take to send CONNECT.
    pub connect_timeout: u64,
    /// `mqtt.send_timeout`, milliseconds; 0 for none.
    pub send_timeout: u64,
    /// Largest Keep Alive accepted, seconds.
    pub keep_alive_max: u16,
    /// After how many Keep Alive intervals of silence a client is disconnected.
    pub keep_alive_multiplier: f64,
    /// Session expiry of MQTT 3 clients with clean_session=0, seconds.
    pub session_expiry_default: u32,
    /// Largest session expiry granted, seconds.
    pub session_expiry_max: u32,
    /// Largest message expiry, seconds; `None` for no bound.
    pub message_expiry_max: Option<u32>,
    /// Most subscriptions of one client.
    pub max_subscriptions: usize,
    /// Bounds of a pending queue.
    pub pending: PendingBounds,
    /// Whether QoS 0 messages for offline clients are queued.
    pub queue_qos0: bool,
    /// Unsent bytes to a client at which QoS 0 is shed when the client does not keep reading.
    pub outgoing_max_bytes: usize,
    /// How a share group picks its member.
    pub shared_strategy: SharedStrategy,
    /// Whether reason strings are sent.
    pub reason_strings: bool,
    /// Whether optional CONNACK properties are sent.
    pub connack_properties: bool,
    /// Prefix of the Response Information; empty for none.
    pub response_information: String,
    /// Most retained messages in the broker.
    pub retained_max_messages: u64,
    /// Largest retained payload, bytes.
    pub retained_max_payload: usize,
    /// Most bytes of retained messages in the broker.
    pub retained_max_bytes: u64,
    /// Retained messages end after this many milliseconds; 0 for never.
    pub retained_expiry: u64,
    /// The events that are published, a bit for each [`crate::config::EventKind`].
    pub events: u8,
    /// The share of messages for which spans are recorded, in addition to those that carry a
    /// context; `None` records none.
    pub spans: Option<f64>,
    /// Milliseconds between `$SYS` updates; 0 for none.
    pub sys_interval: u64,
    /// Whether all clients may subscribe to `$SYS` topics where no rule decides it.
    pub sys_for_all: bool,
    /// Most connections of the whole broker.
    pub max_connections: u64,
    /// Whether clients that connect, disconnect or are refused are logged.
    pub log_connections: bool,
    /// Largest CONNECT packet, bytes.
    pub before_connect: u32,
    /// Most subscriptions of one client that only the trie can find.
    pub max_unhashed_subscriptions: usize,
    /// Most bytes that the clients of the whole broker may make it hold; `u64::MAX` for no bound.
    pub memory: u64,
    /// The networks of proxies whose PROXY headers and `X-Forwarded-For` are believed.
    pub trusted_proxies: Networks,
    /// The rules about who may connect, publish and subscribe.
    pub access: Arc<Access>,
    /// [`Access::restricts`], where the publish path has it at hand.
    pub restricts: bool,
    /// [`Access::asks`].
    pub asks: bool,
    /// Limits of clients and addresses, overload, bans.
    pub policy: Arc<Policy>,
    /// Most clients that may be authenticated at a time; not configured.
    pub admissions: usize,
    /// How steps are divided; not configured.
    pub budget: Budget,
}

impl Settings {
    /// These settings, with `auto` as the bytes that `limits.memory: auto` stands for, or `None`
    /// when that number is not known.
    pub fn with_memory(self, config: &Config, auto: Option<u64>) -> Self {
        Settings { memory: config.limits.budget().bytes(auto), ..self }
    }

    /// These settings, with other access rules.
    pub fn with_access(self, access: Arc<Access>) -> Self {
        Settings { restricts: access.restricts(), asks: access.asks(), access, ..self }
    }

    /// Unsent bytes at which the publishers of a client that keeps reading are parked.
    pub fn high_water(&self) -> usize {
        (self.outgoing_max_bytes / 4).max(16 * 1024)
    }

    /// Unsent bytes at which these publishers are unparked.
    pub fn low_water(&self) -> usize {
        self.high_water() / 4
    }

    /// Unsent bytes at which publishers are parked when the output stays that long.
    #[inline]
    pub fn long_output(&self) -> usize {
        self.high_water().min(LONG_OUTPUT)
    }

    /// Unsent bytes at which the output counts as short again.
    pub fn short_output(&self) -> usize {
        self.long_output() / 4
    }

    /// Makes settings of a validated configuration. The files of `access` are added by
    /// [`Self::with_access`]. `limits.memory: auto` means no bound until [`Self::with_memory`]
    /// gives its value.
    pub fn new(config: &Config) -> Self {
        let mqtt = &config.mqtt;
        let millis = |duration: Option<Duration>| duration.map_or(0, |d| d.as_millis() as u64);
        let expiry = |duration: Option<Duration>| {
            duration.map_or(NEVER, |d| d.as_secs().min(u64::from(NEVER)) as u32)
        };
        Settings {
            max_packet_size: mqtt.max_packet_size.get(),
            max_qos: mqtt.max_qos.get(),
            retain: mqtt.retain,
            wildcard_subscriptions: mqtt.wildcard_subscriptions,
            shared_subscriptions: mqtt.shared_subscriptions,
            subscription_identifiers: mqtt.subscription_identifiers,
            max_client_id_length: mqtt.max_client_id_length.get() as usize,
            empty_client_id: mqtt.empty_client_id,
            max_topic_levels: mqtt.max_topic_levels.get() as usize,
            max_topic_alias: mqtt.max_topic_alias.get(),
            topic_alias_outbound: mqtt.topic_alias_outbound.get(),
            receive_maximum: mqtt.receive_maximum.get(),
            max_inflight: mqtt.max_inflight.get(),
            retry_interval: millis(mqtt.retry_interval.get()),
            send_timeout: millis(mqtt.send_timeout.get()),
            connect_timeout: mqtt.connect_timeout.get().as_millis() as u64,
            keep_alive_max: mqtt.keep_alive.max.get().as_secs().min(65_535) as u16,
            keep_alive_multiplier: mqtt.keep_alive.multiplier.get(),
            session_expiry_default: expiry(mqtt.session_expiry.default.get()),
            session_expiry_max: expiry(mqtt.session_expiry.max.get()),
            message_expiry_max: mqtt
                .message_expiry_max
                .get()
                .map(|d| d.as_secs().min(u64::from(u32::MAX)) as u32),
            max_subscriptions: mqtt.max_subscriptions.get().map_or(usize::MAX, |n| n as usize),
            pending: PendingBounds {
                messages: mqtt.pending.max_messages.get() as usize,
                bytes: mqtt.pending.max_bytes.get() as usize,
                on_full: mqtt.pending.on_full,
            },
            queue_qos0: mqtt.pending.qos0,
            outgoing_max_bytes: mqtt.outgoing_max_bytes.get() as usize,
            shared_strategy: mqtt.shared_strategy,
            reason_strings: mqtt.reason_strings,
            connack_properties: mqtt.connack_properties,
            response_information: mqtt.response_information.to_string(),
            retained_max_messages: config.retained.max_messages.get().unwrap_or(u64::MAX),
            retained_max_payload: config.retained.max_payload.get() as usize,
            retained_max_bytes: config.retained.max_bytes.get().unwrap_or(u64::MAX),
            retained_expiry: millis(config.retained.expiry.get()),
            events: config.telemetry.bits(),
            spans: config.telemetry.otlp.share(),
            sys_interval: millis(config.sys.interval.get()),
            sys_for_all: config.sys.visible == SysVisible::All,
            max_connections: config.runtime.max_connections.get().map_or(u64::MAX, u64::from),
            log_connections: config.log.connections,
            before_connect: config.limits.before_connect.get(),
            max_unhashed_subscriptions: mqtt.max_unhashed_subscriptions.get() as usize,
            memory: config.limits.budget().bytes(None),
            trusted_proxies: config.trusted_networks(),
            access: Arc::new(Access::open()),
            restricts: false,
            asks: false,
            policy: Arc::new(config.policy()),
            admissions: ADMISSIONS,
            budget: Budget::BROKER,
        }
    }
}
