//! Properties of librdkafka, made from the configuration. Pure.

use crate::config::{
    Get, KafkaBridgeConfig, KafkaCompression, KafkaFrom, KafkaMechanism, KafkaPartition, KafkaTls,
};

/// Properties for which the configuration has a key of its own, with that key.
const OWN: [(&str, &str); 23] = [
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
    ("enable.sasl.oauthbearer.unsecure.jwt", "sasl.token_file"),
    ("ssl.ca.location", "tls.ca"),
    ("ssl.certificate.location", "tls.certificate"),
    ("ssl.key.location", "tls.private_key"),
    ("ssl.endpoint.identification.algorithm", "tls.verify_name"),
    ("enable.ssl.certificate.verification", "tls.ca"),
    ("group.id", "group"),
    ("security.protocol", "tls, or sasl"),
];

/// How the names of properties begin that have to do with tokens. The program gets tokens itself.
const TOKENS: &str = "sasl.oauthbearer.";

/// Properties that the bridge needs for its guarantees.
const KEPT: [&str; 7] = [
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
    "statistics.interval.ms",
    "log.queue",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "transactional.id",
];

/// Why the configuration may not set a property directly.
pub enum NotYours {
    /// The configuration has this key for it.
    Key(&'static str),
    /// The bridge sets it itself.
    Kept,
}

/// Whether the configuration may set the property `name` directly; `None` when it may.
pub fn of_others(name: &str) -> Option<NotYours> {
    if let Some((_, key)) = OWN.iter().find(|(own, _)| *own == name) {
        return Some(NotYours::Key(key));
    }
    if name.starts_with(TOKENS) {
        return Some(NotYours::Key("sasl.token_endpoint"));
    }
    KEPT.contains(&name).then_some(NotYours::Kept)
}

/// Names and values of properties.
pub type KafkaProperties = Vec<(String, String)>;

/// Properties of clients of either kind.
pub fn of_client(kafka: &KafkaBridgeConfig) -> KafkaProperties {
    let mut all = KafkaProperties::new();
    let mut set = |name: &str, value: String| all.push((name.to_owned(), value));
    set("bootstrap.servers", kafka.servers.join(","));
    set("client.id", "ringmq".to_owned());
    // The statistics tell whether there is a connection.
    set("statistics.interval.ms", "2000".to_owned());
    // The longest time between two attempts to reach a cluster that is away.
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
            KafkaMechanism::OauthBearer => "OAUTHBEARER",
        };
        set("sasl.mechanisms", mechanism.to_owned());
        if sasl.mechanism != KafkaMechanism::OauthBearer {
            set("sasl.username", sasl.username.to_string());
            set("sasl.password", sasl.password.to_string());
        }
    }
    if let Some(tls) = &*kafka.tls {
        all.extend(of_tls(tls));
    }
    all
}

fn of_tls(tls: &KafkaTls) -> KafkaProperties {
    let texts = [
        ("ssl.ca.location", &tls.ca),
        ("ssl.certificate.location", &tls.certificate),
        ("ssl.key.location", &tls.private_key),
    ];
    let texts = texts.iter().filter(|(_, path)| !path.is_empty());
    let mut all: KafkaProperties =
        texts.map(|(name, path)| ((*name).to_owned(), path.to_string())).collect();
    let checked = if tls.verify_name { "https" } else { "none" };
    all.push(("ssl.endpoint.identification.algorithm".to_owned(), checked.to_owned()));
    all
}

/// Properties of the client that sends.
pub fn of_producer(kafka: &KafkaBridgeConfig) -> KafkaProperties {
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
    // Records never time out: a record that cannot be sent waits, in order, and the bridge bounds
    // their bytes.
    set("message.timeout.ms", "0".to_owned());
    // The bridge bounds bytes, not records.
    set("queue.buffering.max.messages", "0".to_owned());
    set("queue.buffering.max.kbytes", i32::MAX.to_string());
    all.extend(kafka.properties.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    all
}

/// Properties of the client that receives.
pub fn of_consumer(kafka: &KafkaBridgeConfig) -> KafkaProperties {
    let mut all = of_client(kafka);
    let mut set = |name: &str, value: &str| all.push((name.to_owned(), value.to_owned()));
    set("group.id", &kafka.group);
    set("auto.offset.reset", if kafka.from == KafkaFrom::Latest { "latest" } else { "earliest" });
    // The bridge stores the offsets of settled records, and the library commits them.
    set("enable.auto.offset.store", "false");
    set("enable.auto.commit", "true");
    set("auto.commit.interval.ms", "1000");
    // Bytes and records that the library fetches ahead.
    set("queued.max.messages.kbytes", "4096");
    set("queued.min.messages", "1000");
    all.extend(kafka.properties.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    all
}
