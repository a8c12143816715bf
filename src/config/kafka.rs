//! The keys of `bridges.N.kafka`. Like `sections`, of which it is a part, this file has
//! declarations and no behaviour.

use super::super::notation::{DAY, HOUR, KIB, MIB, SECOND};
use super::super::quantity::{Count, Size, Time, Unit};
use super::super::texts::{TextTable, Texts};
use super::super::value::{self, List, Maybe, Or, Section, Text, Word};
use super::{FilePath, MAX_ROUTES, OnMissing, QosLevel};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess};
use serde::{Deserialize, Serialize, Serializer};

markers! { Word: All "all" }
markers! { Unit: Acknowledgements "acknowledgements" Partitions "partition" }

choice! {
    /// What the value of a Kafka record is.
    KafkaValue {
        /// The payload as it is.
        Payload,
        /// A JSON object with topic, payload, qos, retain, timestamp, client_id, username and
        /// user_properties.
        Json,
    }
}

choice! {
    /// What the timestamp of a Kafka record says.
    KafkaTimestamp {
        /// When the message was accepted here.
        Accepted,
        /// When it was handed to the Kafka client.
        Sent,
    }
}

choice! {
    /// Which partition a Kafka record goes to.
    KafkaPartition {
        /// The one that the key's hash names (murmur2, as Java clients have it); a record without
        /// a key goes to any.
        Key,
        /// Any: the records of a client are in no order.
        Random,
    }
}

choice! {
    /// How batches of Kafka records are compressed.
    KafkaCompression {
        /// Not at all.
        None,
        /// gzip.
        Gzip,
        /// Snappy.
        Snappy,
        /// LZ4.
        Lz4,
        /// Zstandard, in a program that was built with it.
        Zstd,
    }
}

choice! {
    /// Where the records of a Kafka topic are begun with.
    KafkaFrom {
        /// With the oldest that is there.
        Earliest,
        /// With the next that comes.
        Latest,
    }
}

choice! {
    /// What happens to a message that Kafka refuses for good: its topic does not exist, or may not
    /// be written to.
    KafkaRefused {
        /// wait where the topic of the route is a fixed text, which the operator can make; drop
        /// where messages choose it.
        Auto,
        /// It is dropped and counted.
        Drop,
        /// It is tried again after a pause. What comes after it waits.
        Wait,
    }
}

choice! {
    /// How a Kafka client proves who it is.
    KafkaMechanism {
        /// User name and password as they are: not without TLS.
        Plain,
        /// SCRAM with SHA-256, in a program that was built with kafka-tls.
        ScramSha256,
        /// SCRAM with SHA-512, in a program that was built with kafka-tls.
        ScramSha512,
        /// A token (OAUTHBEARER, RFC 7628), in a program that was built with kafka-tls.
        OauthBearer,
    }
}

section! {
    /// Records in a Kafka cluster. Delivery is at least once; the records of one key are in order.
    KafkaBridgeConfig {
        /// HOST:PORT of some of its brokers, which name the others.
        servers: Texts = Texts::default(),
        /// Which messages become which records. A message that several routes match becomes a
        /// record of each.
        routes: List<KafkaRoute, MAX_ROUTES> = List(Vec::new()),
        /// Kafka topics whose records become messages here. They are brought at least once.
        topics: List<KafkaTopic, MAX_ROUTES> = List(Vec::new()),
        /// With topics: the consumer group. Its members share the partitions, and it remembers
        /// which records have been accepted here.
        group: Text<0, 255> = Text::of(""),
        /// With topics: where to begin while the group remembers nothing.
        from: KafkaFrom = KafkaFrom::Latest,
        /// How many replicas have a record before it has arrived: all that are in sync, or 1 or 0.
        acks: Or<All, Count<u8, Acknowledgements, 0, 1>> = Or::NONE,
        /// With acks: all: a record that is sent again is not there twice, and none overtakes
        /// another. With fewer acks there is no such thing.
        idempotence: bool = true,
        /// How batches are compressed.
        compression: KafkaCompression = KafkaCompression::Lz4,
        /// Longest time that a record waits for others of its batch.
        linger: Time<0, { 60 * SECOND }> = Time::of(10 * SECOND / 1000),
        /// Bytes of a batch, beyond its first record.
        max_batch_bytes: Size<u64, { KIB }, { 256 * MIB }> = Size::of(MIB),
        /// Bytes of records that have been handed to the client and have not arrived. The others
        /// wait in the buffer.
        max_inflight_bytes: Size<u64, { 64 * KIB }, { 1024 * MIB }> = Size::of(16 * MIB),
        /// Which partition a record goes to.
        partition: KafkaPartition = KafkaPartition::Key,
        /// What happens to a message that is refused for good. One that is too large is dropped.
        on_refused: KafkaRefused = KafkaRefused::Auto,
        /// What happens to a message that lacks a value for a placeholder.
        on_missing: OnMissing = OnMissing::Empty,
        /// The pause before the client is started again: twice as long after each failure.
        retry: KafkaRetry = KafkaRetry::default(),
        /// TLS to the brokers, in a program that was built with kafka-tls.
        tls: Maybe<KafkaTls> = Maybe(None),
        /// Who this client is: user name and password, or a token.
        sasl: Maybe<KafkaSasl> = Maybe(None),
        /// Further properties of librdkafka, by their names there.
        #[schemars(extend("x-secret" = true))]
        properties: TextTable = TextTable::default(),
    }
}

section! {
    /// Messages of some topics, and the Kafka records they become. Texts may use the placeholders
    /// of bridges.N.http.url.
    KafkaRoute {
        /// Topic filter.
        filter: Text<0, 65_535> = Text::of(""),
        /// The Kafka topic. A / that is filled in becomes a dot; a message whose topic has other
        /// characters than letters, digits, . _ and - is refused for good.
        topic: Text<0, 4096> = Text::of(""),
        /// The key: records of one key are in order. Empty: there is none.
        key: Text<0, 4096> = Text::of("${client_id}"),
        /// What the value is.
        value: KafkaValue = KafkaValue::Payload,
        /// Headers of the record.
        headers: TextTable = TextTable::default(),
        /// The MQTT 5 user properties become headers too.
        user_properties: bool = true,
        /// What the timestamp says.
        timestamp: KafkaTimestamp = KafkaTimestamp::Accepted,
    }
}

section! {
    /// A Kafka topic, and the messages that its records become. All topics of a bridge have
    /// partitions, or none.
    KafkaTopic {
        /// The Kafka topic.
        topic: Text<0, 249> = Text::of(""),
        /// Its partitions that are read, by this broker alone. Empty: those that the group gives
        /// it.
        partitions: List<Count<u32, Partitions, 0, 100_000>, 1024> = List(Vec::new()),
        /// The topic here. It may use ${key} ${topic} ${header.NAME} ${payload} ${payload.a.b} and
        /// ${timestamp}. A record that lacks one, or whose topic is none, is dropped and counted.
        to: Text<0, 4096> = Text::of(""),
        /// QoS of the messages.
        qos: Count<u8, QosLevel, 0, 2> = Count::of(1),
        /// The messages are retained.
        retain: bool = false,
        /// The record's headers become MQTT 5 user properties.
        headers: bool = true,
    }
}

section! {
    /// The pause before a Kafka client that has given up is started again.
    KafkaRetry {
        /// Shortest.
        min: Time<{ SECOND / 100 }, HOUR> = Time::of(SECOND),
        /// Longest.
        max: Time<{ SECOND / 100 }, DAY> = Time::of(30 * SECOND),
    }
}

section! {
    /// TLS to the brokers of a Kafka cluster, by OpenSSL.
    KafkaTls {
        /// File with the authorities of their certificates in PEM; empty: those of the host.
        ca: FilePath = Text::of(""),
        /// Certificate chain to show them, PEM; empty for none.
        certificate: FilePath = Text::of(""),
        /// Private key of that, PEM, not encrypted.
        private_key: FilePath = Text::of(""),
        /// Their certificates must have the names under which they are reached.
        verify_name: bool = true,
    }
}

section! {
    /// How this client proves to a Kafka cluster who it is.
    KafkaSasl {
        /// How that is done.
        mechanism: KafkaMechanism = KafkaMechanism::Plain,
        /// User name; with oauth_bearer the token names the user.
        username: Text<0, 65_535> = Text::of(""),
        /// Password.
        #[schemars(extend("x-secret" = true))]
        password: Text<0, 65_535> = Text::of(""),
        /// With oauth_bearer: a file with the token, which somebody else renews. It is read when
        /// four fifths of the token's time are over (its claim exp; without one each minute), and
        /// when the cluster has refused the token.
        token_file: FilePath = Text::of(""),
        /// With oauth_bearer, instead of token_file: a service that gives tokens.
        token_endpoint: Maybe<KafkaTokenEndpoint> = Maybe(None),
    }
}

section! {
    /// A service that gives tokens by OAuth 2.0 (client credentials, RFC 6749 section 4.4), as the
    /// issuers of OpenID Connect do. It is asked when four fifths of a token's time are over.
    KafkaTokenEndpoint {
        /// Its address; http only at this host.
        url: Text<0, 65_535> = Text::of(""),
        /// This client's name there.
        client_id: Text<0, 65_535> = Text::of(""),
        /// What proves that name.
        #[schemars(extend("x-secret" = true))]
        client_secret: Text<0, 65_535> = Text::of(""),
        /// The scope that is asked for; empty for none.
        scope: Text<0, 65_535> = Text::of(""),
        /// File with the authorities of its certificate in PEM; empty: those of the host.
        ca: FilePath = Text::of(""),
    }
}
