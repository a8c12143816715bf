//! What librdkafka is told: its properties, from the configuration. Pure.

use crate::config::{
    Get, KafkaBridge, KafkaCompression, KafkaFrom, KafkaMechanism, KafkaPartition, KafkaTls,
};

/// Properties that have a key of their own, and that key.
const OWN: [(&str, &str); 17] = [
    ("bootstrap.servers", "servers"),
    ("metadata.broker.list", "servers"),
    ("acks", "acks"),
    ("request.required.acks", "acks"),
    ("enable.idempotence", "idempotence"),
    ("compression.codec", "compression"),
    ("compression.type", "compression"),
    ("linger.ms", "linger"),
    ("queue.buffering.max.ms", "linger"),
    ("batch.size", "max_batch_bytes"),
    ("partitioner", "partition"),
    ("sasl.mechanism", "sasl.mechanism"),
    ("sasl.mechanisms", "sasl.mechanism"),
    ("sasl.username", "sasl.username"),
    ("sasl.password", "sasl.password"),
    ("group.id", "group"),
    ("security.protocol", "tls, or sasl"),
];

/// Properties by which the bridge keeps its promises.
const KEPT: [&str; 7] = [
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
    "statistics.interval.ms",
    "log.queue",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "transactional.id",
];

/// Why a property may not be set as such.
pub enum NotYours {
    /// It has that key.
    Key(&'static str),
    /// The bridge sets it.
    Kept,
}

/// Whether a property of that name may be set.
pub fn of_others(name: &str) -> Option<NotYours> {
    if let Some((_, key)) = OWN.iter().find(|(own, _)| *own == name) {
        return Some(NotYours::Key(key));
    }
    KEPT.contains(&name).then_some(NotYours::Kept)
}

/// Names and values.
pub type Properties = Vec<(String, String)>;

/// What clients of either kind are told.
pub fn of_client(kafka: &KafkaBridge) -> Properties {
    let mut all = Properties::new();
    let mut set = |name: &str, value: String| all.push((name.to_owned(), value));
    set("bootstrap.servers", kafka.servers.join(","));
    set("client.id", "ringmq".to_owned());
    // Whether there is a connection is found out from them.
    set("statistics.interval.ms", "2000".to_owned());
    // A cluster that is away is tried again so soon.
    set("reconnect.backoff.max.ms", "2000".to_owned());
    let encrypted = kafka.tls.is_some();
    set(
        "security.protocol",
        match (encrypted, kafka.sasl.is_some()) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        }
        .to_owned(),
    );
    if let Some(sasl) = &*kafka.sasl {
        let mechanism = match sasl.mechanism {
            KafkaMechanism::Plain => "PLAIN",
            KafkaMechanism::ScramSha256 => "SCRAM-SHA-256",
            KafkaMechanism::ScramSha512 => "SCRAM-SHA-512",
        };
        set("sasl.mechanisms", mechanism.to_owned());
        set("sasl.username", sasl.username.to_string());
        set("sasl.password", sasl.password.to_string());
    }
    if let Some(tls) = &*kafka.tls {
        all.extend(of_tls(tls));
    }
    all
}

fn of_tls(tls: &KafkaTls) -> Properties {
    let texts = [
        ("ssl.ca.location", &tls.ca),
        ("ssl.certificate.location", &tls.certificate),
        ("ssl.key.location", &tls.private_key),
    ];
    let texts = texts.iter().filter(|(_, path)| !path.is_empty());
    let mut all: Properties =
        texts.map(|(name, path)| ((*name).to_owned(), path.to_string())).collect();
    let checked = if tls.verify_name { "https" } else { "none" };
    all.push(("ssl.endpoint.identification.algorithm".to_owned(), checked.to_owned()));
    all
}

/// What the client that sends is told.
pub fn of_producer(kafka: &KafkaBridge) -> Properties {
    let mut all = of_client(kafka);
    let mut set = |name: &str, value: String| all.push((name.to_owned(), value));
    let acks = kafka.acks.get();
    set("acks", acks.map_or("all".to_owned(), |acks| acks.to_string()));
    set("enable.idempotence", (kafka.idempotence && acks.is_none()).to_string());
    let codec = match kafka.compression {
        KafkaCompression::None => "none",
        KafkaCompression::Gzip => "gzip",
        KafkaCompression::Snappy => "snappy",
        KafkaCompression::Lz4 => "lz4",
        KafkaCompression::Zstd => "zstd",
    };
    set("compression.codec", codec.to_owned());
    set("linger.ms", (kafka.linger.get().as_micros() as f64 / 1000.0).to_string());
    set("batch.size", kafka.max_batch_bytes.get().to_string());
    let partitioner = match kafka.partition {
        KafkaPartition::Key => "murmur2_random",
        KafkaPartition::Random => "random",
    };
    set("partitioner", partitioner.to_owned());
    // For ever: what cannot be sent waits, in order, and what waits is bounded by the bridge.
    set("message.timeout.ms", "0".to_owned());
    // The bridge's bound is one of bytes.
    set("queue.buffering.max.messages", "0".to_owned());
    set("queue.buffering.max.kbytes", i32::MAX.to_string());
    all.extend(kafka.properties.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    all
}

/// What the client that receives is told.
pub fn of_consumer(kafka: &KafkaBridge) -> Properties {
    let mut all = of_client(kafka);
    let mut set = |name: &str, value: &str| all.push((name.to_owned(), value.to_owned()));
    set("group.id", &kafka.group);
    set("auto.offset.reset", if kafka.from == KafkaFrom::Latest { "latest" } else { "earliest" });
    // What has been accepted here is stored by the bridge, and committed by the library.
    set("enable.auto.offset.store", "false");
    set("enable.auto.commit", "true");
    set("auto.commit.interval.ms", "1000");
    // Bytes and records that are fetched ahead.
    set("queued.max.messages.kbytes", "4096");
    set("queued.min.messages", "1000");
    all.extend(kafka.properties.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    all
}
