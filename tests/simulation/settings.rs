//! Settings of a broker with nothing restricted; tests narrow what they are about.

use ringmq::access::Access;
use ringmq::config::{OnFull, SharedStrategy};
use ringmq::limits::{ADMISSIONS, Budget};
use ringmq::session::pending::PendingBounds;
use ringmq::shard::Settings;
use std::sync::Arc;

pub fn roomy() -> Settings {
    Settings {
        max_packet_size: 1 << 20,
        max_qos: 2,
        retain: true,
        wildcard_subscriptions: true,
        shared_subscriptions: true,
        subscription_identifiers: true,
        max_client_id_length: 64,
        empty_client_id: true,
        max_topic_levels: 32,
        max_topic_alias: 8,
        topic_alias_outbound: 8,
        receive_maximum: 16,
        max_inflight: 32,
        retry_interval: 0,
        connect_timeout: 5000,
        send_timeout: 0,
        keep_alive_max: u16::MAX,
        keep_alive_multiplier: 1.5,
        session_expiry_default: 120,
        session_expiry_max: 120,
        message_expiry_max: None,
        max_subscriptions: 1000,
        pending: PendingBounds { messages: 100_000, bytes: 1 << 26, on_full: OnFull::DropOldest },
        queue_qos0: false,
        outgoing_max_bytes: 1 << 20,
        shared_strategy: SharedStrategy::RoundRobin,
        reason_strings: true,
        connack_properties: true,
        response_information: String::new(),
        retained_max_messages: u64::MAX,
        retained_max_payload: 1 << 20,
        retained_max_bytes: u64::MAX,
        retained_expiry: 0,
        events: 0,
        spans: None,
        sys_interval: 0,
        // Some clients come from other addresses, behind PROXY headers.
        sys_for_all: true,
        max_connections: u64::MAX,
        log_connections: true,
        before_connect: 64 * 1024,
        max_unhashed_subscriptions: 1000,
        memory: u64::MAX,
        trusted_proxies: Default::default(),
        access: Arc::new(Access::open()),
        restricts: false,
        asks: false,
        policy: Default::default(),
        admissions: ADMISSIONS,
        budget: Budget::BROKER,
    }
}
