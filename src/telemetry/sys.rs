//! The `$SYS/broker/...` topics: their names, as in Mosquitto's tree, and their values, made from
//! summed figures. [`SysHistory`] keeps what has to be remembered between two updates: moving
//! averages, and the largest number of clients. One shard owns it. Publishing the topics is not
//! done here.

use std::time::Duration;

use super::Counters;

/// The beginning of all topics.
const ROOT: &str = "$SYS/broker";

/// The spans of the averages: name and seconds.
const SPANS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// Reads one figure, or the sum of several.
type ReadCounters = fn(&Counters) -> u64;

/// What is averaged: the topic below `load/`, and the counter.
const RATES: [(&str, ReadCounters); 9] = [
    ("messages/received", |c| c.packets_received),
    ("messages/sent", |c| c.packets_sent),
    ("publish/received", Counters::messages_received),
    ("publish/sent", Counters::messages_sent),
    ("publish/dropped", Counters::messages_dropped),
    ("bytes/received", |c| c.bytes_received),
    ("bytes/sent", |c| c.bytes_sent),
    ("sockets", |c| c.connections_accepted),
    ("connections", |c| c.connects),
];

impl Counters {
    /// PUBLISH packets received, all QoS.
    pub fn messages_received(&self) -> u64 {
        self.messages_received_qos0 + self.messages_received_qos1 + self.messages_received_qos2
    }

    /// PUBLISH packets sent, all QoS.
    pub fn messages_sent(&self) -> u64 {
        self.messages_sent_qos0 + self.messages_sent_qos1 + self.messages_sent_qos2
    }

    /// Payload bytes of PUBLISH packets received, all QoS.
    pub fn publish_bytes_received(&self) -> u64 {
        self.publish_bytes_received_qos0
            + self.publish_bytes_received_qos1
            + self.publish_bytes_received_qos2
    }

    /// Payload bytes of PUBLISH packets sent, all QoS.
    pub fn publish_bytes_sent(&self) -> u64 {
        self.publish_bytes_sent_qos0 + self.publish_bytes_sent_qos1 + self.publish_bytes_sent_qos2
    }

    /// Messages dropped, all reasons.
    pub fn messages_dropped(&self) -> u64 {
        let dropped = |(figure, _): &(&super::Descriptor, u64)| {
            figure.name == "ringmq_messages_dropped_total"
        };
        self.iter().filter(dropped).map(|(_, value)| value).sum()
    }

    /// Connections turned away, for any reason.
    pub fn connections_refused(&self) -> u64 {
        let refused = |(figure, _): &(&super::Descriptor, u64)| {
            figure.name == "ringmq_connections_refused_total"
        };
        self.iter().filter(refused).map(|(_, value)| value).sum()
    }

    /// Bytes that clients make the broker hold, all kinds.
    pub fn memory_held(&self) -> u64 {
        let held = |(figure, _): &(&super::Descriptor, u64)| figure.name == "ringmq_memory_bytes";
        self.iter().filter(held).map(|(_, value)| value).sum()
    }

    /// Clients connected now: sessions with a connection.
    pub fn clients_connected(&self) -> u64 {
        self.sessions.saturating_sub(self.sessions_persistent)
    }
}

/// What has to be remembered between two updates.
#[derive(Clone, Debug, Default)]
pub struct SysHistory {
    /// The counters at the last update, in the order of [`RATES`].
    last: [u64; RATES.len()],
    /// Averages per minute, for each rate and span.
    averages: [[f64; SPANS.len()]; RATES.len()],
    clients_maximum: u64,
}

impl SysHistory {
    /// The state at the start, with all averages at 0.
    pub fn new() -> SysHistory {
        SysHistory::default()
    }

    /// Takes in the sum over all shards, `elapsed` after the last update. Averages move
    /// exponentially towards the rate per minute since then, as Mosquitto's do. With an `elapsed`
    /// of zero only the maximum changes.
    pub fn update(&mut self, total: &Counters, elapsed: Duration) {
        self.clients_maximum = self.clients_maximum.max(total.clients_connected());
        let seconds = elapsed.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        for (rate, (_, counter)) in RATES.iter().enumerate() {
            let now = counter(total);
            let per_minute = now.saturating_sub(self.last[rate]) as f64 * 60.0 / seconds;
            self.last[rate] = now;
            for (span, (_, length)) in SPANS.iter().enumerate() {
                let weight = (-seconds / length).exp();
                let average = &mut self.averages[rate][span];
                *average = per_minute + weight * (*average - per_minute);
            }
        }
    }
}

/// All topics with their values. `total` is the sum of `shards`; `uptime` is in whole seconds.
pub fn topics(
    total: &Counters,
    shards: &[Counters],
    history: &SysHistory,
    uptime: u64,
    version: &str,
) -> Vec<(String, String)> {
    let mut list = SysTopics(Vec::with_capacity(64 + 17 * shards.len()));
    list.add("version", format!("ringmq version {version}"));
    list.add("uptime", format!("{uptime} seconds"));
    let connected = total.clients_connected();
    let stored = total.retained_messages + total.pending_messages;
    let figures = [
        ("clients/total", total.sessions),
        ("clients/connected", connected),
        ("clients/disconnected", total.sessions_persistent),
        ("clients/maximum", history.clients_maximum.max(connected)),
        // These are Mosquitto's older names of connected and disconnected, which dashboards still
        // use.
        ("clients/active", connected),
        ("clients/inactive", total.sessions_persistent),
        ("clients/expired", total.sessions_expired),
        // As in Mosquitto, `messages` are packets of any type; PUBLISH packets are below `publish`.
        ("messages/received", total.packets_received),
        ("messages/sent", total.packets_sent),
        ("messages/stored", stored),
        ("publish/messages/received", total.messages_received()),
        ("publish/messages/sent", total.messages_sent()),
        ("publish/messages/dropped", total.messages_dropped()),
        ("publish/bytes/received", total.publish_bytes_received()),
        ("publish/bytes/sent", total.publish_bytes_sent()),
        ("bytes/received", total.bytes_received),
        ("bytes/sent", total.bytes_sent),
        ("subscriptions/count", total.subscriptions),
        ("shared_subscriptions/count", total.shared_subscriptions),
        ("retained messages/count", total.retained_messages),
        ("store/messages/count", stored),
        ("store/messages/bytes", total.retained_bytes + total.pending_bytes),
        ("heap/held", total.memory_held()),
    ];
    for (topic, value) in figures {
        list.add(topic, value.to_string());
    }
    for (rate, (topic, _)) in RATES.iter().enumerate() {
        for (span, (name, _)) in SPANS.iter().enumerate() {
            let value = history.averages[rate][span];
            list.add(&format!("load/{topic}/{name}"), format!("{value:.2}"));
        }
    }
    for (number, shard) in shards.iter().enumerate() {
        for (topic, value) in shard_figures(shard) {
            list.add(&format!("shards/{number}/{topic}"), value.to_string());
        }
    }
    list.0
}

fn shard_figures(shard: &Counters) -> [(&'static str, u64); 20] {
    [
        ("connections", shard.connections_open),
        ("sessions", shard.sessions),
        ("subscriptions", shard.subscriptions),
        ("messages/received", shard.messages_received()),
        ("messages/sent", shard.messages_sent()),
        ("messages/dropped", shard.messages_dropped()),
        ("messages/pending", shard.pending_messages),
        ("messages/inflight", shard.inflight),
        ("mail/received", shard.mail_received),
        ("mail/sent", shard.mail_sent),
        ("mail/doorbells", shard.doorbells),
        ("parks/subscriber", shard.parks_publisher),
        ("parks/mailbox", shard.parks_mailbox),
        ("parks/memory", shard.parks_memory),
        ("parks/storage", shard.parks_storage),
        ("parks/bridge", shard.parks_bridge),
        ("buffers/exhausted", shard.buffer_exhaustions),
        ("connections/refused", shard.connections_refused()),
        ("handovers/failed", shard.handover_failures),
        ("steps", shard.steps),
    ]
}

struct SysTopics(Vec<(String, String)>);

impl SysTopics {
    fn add(&mut self, topic: &str, value: String) {
        self.0.push((format!("{ROOT}/{topic}"), value));
    }
}

#[cfg(test)]
#[path = "sys_tests.rs"]
mod tests;
