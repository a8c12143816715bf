//! The keys of `bridges`. Like `sections`, of which it is a part, this file has declarations and no
//! behaviour.
//!
//! Each bridge has exactly one key that says what is at its other end. `bridges_check` reports a
//! bridge that has none or several.

use super::super::notation::{DAY, HOUR, KIB, MIB, SECOND, TIB};
use super::super::quantity::{Count, Size, Time, Unit};
use super::super::texts::{TextTable, Texts};
use super::super::value::{self, List, Maybe, Or, Section, Text};
use super::{
    Auto, Connections, FilePath, KafkaBridgeConfig, MANY, Messages, Never, QosLevel, Unlimited,
};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess};
use serde::{Deserialize, Serialize, Serializer};

/// The largest number of bridges.
pub const MAX_BRIDGES: usize = 64;
/// The largest number of topics or routes of one bridge.
pub const MAX_ROUTES: usize = 256;

markers! { Unit: WaitingMessages "waiting messages" }

choice! {
    /// What happens to a message for which a bridge's buffer has no room.
    OnBufferFull {
        /// The oldest that wait are dropped for it.
        DropOldest,
        /// It is dropped.
        DropNew,
        /// None is dropped: publishers of what the bridge takes wait until there is room, be it for
        /// as long as the other end is away. Messages that have nobody who could wait (wills, and
        /// what the broker publishes itself) have some room of their own, and are dropped without.
        Pause,
    }
}

choice! {
    /// When the publisher of a message of QoS 1 or 2 that a bridge takes gets its PUBACK or PUBREC.
    BridgePuback {
        /// When this broker has accepted it.
        Accepted,
        /// When the other end has confirmed it: a broker by PUBACK or PUBCOMP (a topic with qos: 0
        /// counts as confirmed when it is written to the connection), a service by an answer with
        /// 2xx, Kafka as acks says. What the client publishes afterwards is answered behind it; its
        /// other packets, and what it subscribes to, do not wait. A message that is dropped for
        /// want of room, or because the bridge is removed, is answered with 0x97, one that the
        /// other end refuses or that expires with 0x83. To MQTT 3, which has no reason codes: the
        /// connection ends for the first, so that the client sends it again [MQTT-3.3.5-2], and
        /// the second is acknowledged. A client that comes back and sends a message again that is
        /// still under way waits for the same acknowledgement. A client with 1024 messages without
        /// an answer is read no further. QoS 0, wills and what a bridge brings do not wait.
        Delivered,
    }
}

choice! {
    /// Where messages wait for the other end of a bridge.
    BufferMode {
        /// In memory: a restart loses them.
        Memory,
        /// On disk: they survive the process, however it ends. What a core has not handed over yet
        /// is lost with it.
        Disk,
        /// In memory while they are few, at most 32 MiB, then on disk; at the end of the process on
        /// disk. When it is killed, what was in memory is lost.
        Hybrid,
    }
}

choice! {
    /// Which way messages of a topic go.
    Direction {
        /// From the other broker to this one.
        In,
        /// From this broker to the other one.
        Out,
        /// Both ways.
        Both,
    }
}

choice! {
    /// What happens to a message that the other broker refuses with a reason code (MQTT 5).
    BridgeRefused {
        /// With Quota exceeded (0x97) it is sent again, until it is taken. With Unspecified error
        /// (0x80), Implementation specific error (0x83) and Packet identifier in use (0x91), which
        /// may be for now or for good, it is sent six times. With the others, such as Not
        /// authorized (0x87), it is dropped and counted.
        Auto,
        /// It is dropped and counted.
        Drop,
        /// It is sent again, until it is taken, whatever the reason is.
        Wait,
    }
}

choice! {
    /// When a bridge connects.
    BridgeStart {
        /// At the start, and again whenever the connection has ended.
        Automatic,
        /// When enough messages wait for it; it disconnects when there was nothing to do for a
        /// while.
        Lazy,
        /// At the start, and not again once a connection has ended.
        Once,
    }
}

choice! {
    /// The version of MQTT that a bridge speaks.
    BridgeVersion {
        /// MQTT 5.0.
        V5,
        /// MQTT 3.1.1.
        V311,
    }
}

section! {
    /// One bridge; exactly one of the keys mqtt, http and kafka. After a reload, one that is as it
    /// was goes on untouched; one that has changed goes on with what waited, by what the new
    /// configuration says; one that is gone sends what waits for at most shutdown.grace, and what
    /// is left on disk stays there for when it comes back.
    Bridge {
        /// Its name: in the log, in metrics, and in $SYS/broker/connection/NAME/state. A bridge
        /// with another name, or another kind of other end, is another bridge.
        name: Text<0, 64> = Text::of(""),
        /// Another MQTT broker.
        mqtt: Maybe<MqttBridgeConfig> = Maybe(None),
        /// An HTTP service.
        http: Maybe<HttpBridgeConfig> = Maybe(None),
        /// A Kafka cluster, in a program that was built with kafka.
        kafka: Maybe<KafkaBridgeConfig> = Maybe(None),
        /// When publishers of what it takes get their PUBACK or PUBREC. When several bridges take a
        /// message, all of them that say delivered have to confirm it.
        puback: BridgePuback = BridgePuback::Accepted,
        /// For puback: delivered. How long a publisher waits at most: then a client of MQTT 5 is
        /// answered with 0x80, though the message still waits for the other end. One of MQTT 3,
        /// which cannot be told, waits on.
        puback_timeout: Or<Never, Time<SECOND, DAY>> = Or::NONE,
        /// What waits for the other end.
        buffer: BufferConfig = BufferConfig::default(),
    }
}

section! {
    /// What waits for the other end of a bridge: it may be slow, or gone for a while.
    BufferConfig {
        /// Where they wait.
        mode: BufferMode = BufferMode::Memory,
        /// Directory of what waits on disk, of this bridge alone. Empty: bridges/NAME below
        /// storage.path. A reload does not change it, nor the mode from disk to memory, while the
        /// bridge is there: that is done by a restart, which finds nothing in the new place.
        path: FilePath = Text::of(""),
        /// Bytes of a file of messages on disk.
        segment: Size<u64, { 256 * KIB }, { 1024 * MIB }> = Size::of(10 * MIB),
        /// Most bytes of messages that wait; on disk, with what aligns them.
        max_bytes: Size<u64, { 64 * KIB }, TIB> = Size::of(256 * MIB),
        /// What happens to a message for which there is no room. Each is counted.
        on_full: OnBufferFull = OnBufferFull::DropOldest,
    }
}

section! {
    /// A bridge to another MQTT broker, as Mosquitto's users know it.
    MqttBridgeConfig {
        /// HOST:PORT of the other broker, or a list: the next one is tried when one cannot be
        /// reached.
        addresses: Texts = Texts::default(),
        /// After a connection has ended the next address is tried first. Otherwise the first one:
        /// the others are for when it is away.
        round_robin: bool = false,
        /// Which messages go over the bridge, and which way.
        topics: List<BridgeTopic, MAX_ROUTES> = List(Vec::new()),
        /// When it connects.
        start: BridgeStart = BridgeStart::Automatic,
        /// For start: lazy.
        lazy: LazyStart = LazyStart::default(),
        /// Connections to the other broker at a time, each with a thread of its own: more messages
        /// go over them than one can carry. Those of one topic all go over one, in order. Entries
        /// with direction both, and what comes in, have the first connection. ClientIds of the
        /// others have a hyphen and their number behind them. buffer.max_bytes is divided among
        /// them; on disk each has a directory of its own. The bridge is up while all of them are.
        /// While it is there, another number needs a restart, which hands over what waits on disk.
        connections: Count<u16, Connections, 1, 64> = Count::of(1),
        /// MQTT version. With v311 the other broker is told by a bit of the CONNECT packet that
        /// this is a bridge (try_private).
        protocol_version: BridgeVersion = BridgeVersion::V5,
        /// With protocol_version v311: say in CONNECT that this is a bridge, as Mosquitto does. A
        /// broker that does not know the bit refuses it; the next attempt is made without.
        try_private: bool = true,
        /// ClientId at the other broker. auto: the host's name and the bridge's, with a dot.
        client_id: Or<Auto, Text<1, 65_535>> = Or::NONE,
        /// User name at the other broker; empty for none.
        username: Text<0, 65_535> = Text::of(""),
        /// Password at the other broker.
        #[schemars(extend("x-secret" = true))]
        password: Text<0, 65_535> = Text::of(""),
        /// The other broker forgets the session when the connection ends: what it would have sent
        /// meanwhile is lost.
        clean_start: bool = false,
        /// With protocol_version v5: how long the other broker keeps the session after a
        /// connection.
        session_expiry: Time<0, { 365 * DAY }> = Time::of(DAY),
        /// The other broker, or this end, is taken for gone after one and a half of this without a
        /// packet.
        keep_alive: Time<{ 5 * SECOND }, { 18 * HOUR }> = Time::of(60 * SECOND),
        /// Longest time for the connection with its TLS handshake, and for each answer to CONNECT
        /// and SUBSCRIBE.
        timeout: Time<SECOND, { 120 * SECOND }> = Time::of(10 * SECOND),
        /// The pause before the next attempt.
        retry: BridgeRetry = BridgeRetry::default(),
        /// QoS 1 and 2 messages that are sent and not yet acknowledged.
        max_inflight: Count<u16, Messages, 1, 65_535> = Count::of(100),
        /// What happens to a message that the other broker refuses. One that is sent again holds
        /// up all behind it: when everything that is under way has been answered, there is a pause
        /// of 100 ms, twice as long after each further refusal and at most retry.max, and then one
        /// message at a time is sent; each one that is taken lets one more be under way. What was
        /// under way beside the first one that is refused may be taken before it: with
        /// max_inflight: 1 nothing is.
        on_refused: BridgeRefused = BridgeRefused::Auto,
        /// Messages brought from the other broker that are acknowledged only when they have been
        /// accepted here; it sends no more meanwhile (v5).
        receive_maximum: Count<u16, Messages, 1, 65_535> = Count::of(256),
        /// Publish 1 or 0, retained, to $SYS/broker/connection/CLIENT_ID/state at the other broker:
        /// whether the bridge is connected.
        notifications: bool = true,
        /// The topic of that message; empty for the usual one.
        notification_topic: Text<0, 1024> = Text::of(""),
        /// Most brokers that a message may have come over: each bridge with v5 adds its
        /// instance to the user property bridge-path, and a message that has this broker's in it,
        /// or so many, is dropped and counted.
        max_hops: Count<u8, Hops, 1, 32> = Count::of(8),
        /// TLS to the other broker.
        tls: Maybe<BridgeTls> = Maybe(None),
    }
}

markers! { Unit: Hops "brokers" }

choice! {
    /// How messages are sent to an HTTP service.
    WebhookMethod {
        /// POST.
        Post,
        /// PUT.
        Put,
    }
}

choice! {
    /// What the body of a request is.
    WebhookFormat {
        /// A JSON object; with a batch above 1 an array of them.
        Json,
        /// The payload as it is; for a batch of 1.
        Payload,
    }
}

choice! {
    /// What happens to a message that lacks a value for a placeholder.
    OnMissing {
        /// Nothing stands in its place; in JSON null.
        Empty,
        /// The message is dropped and counted.
        Drop,
    }
}

markers! { Unit: Lanes "lanes" WebhookTries "tries" }

section! {
    /// Requests to an HTTP service. Messages of one client are sent in order, one request after the
    /// other. A request that cannot be made, or is answered with 408, 429 or 5xx, is made again;
    /// with another 4xx or 3xx its messages are dropped and counted.
    HttpBridgeConfig {
        /// Where; an http or https URL. Placeholders in its path and query are percent-encoded:
        /// ${client_id} ${username} ${cert_cn} ${topic} ${topic.2} (its second level) ${payload}
        /// ${payload.a.b} (from its JSON) ${qos} ${retain} ${timestamp} (milliseconds since 1970)
        /// ${user_property.NAME}.
        url: Text<0, 4096> = Text::of(""),
        /// The method.
        method: WebhookMethod = WebhookMethod::Post,
        /// Topic filters of the messages that are sent.
        filters: Texts = Texts::default(),
        /// Headers; their values may use the placeholders.
        #[schemars(extend("x-secret" = true))]
        headers: TextTable = TextTable::default(),
        /// What the body is.
        format: WebhookFormat = WebhookFormat::Json,
        /// Fields of the JSON object; their values may use the placeholders. A value that is one
        /// placeholder alone keeps its type. Empty: topic, payload, qos, retain, timestamp,
        /// client_id and username.
        body: TextTable = TextTable::default(),
        /// What happens to a message that lacks a value.
        on_missing: OnMissing = OnMissing::Empty,
        /// Most messages of one request; above 1 the body is an array. Only messages with the same
        /// URL and headers are in one.
        batch: Count<u32, Messages, 1, 10_000> = Count::of(1),
        /// Requests that are under way at a time. A client's messages are all in one lane.
        lanes: Count<u32, Lanes, 1, 256> = Count::of(8),
        /// Longest time for an answer.
        timeout: Time<{ SECOND / 10 }, { 120 * SECOND }> = Time::of(5 * SECOND),
        /// The pause before a request is made again, unless Retry-After says more.
        retry: WebhookRetry = WebhookRetry::default(),
        /// A request is given up after so many tries; its messages are dropped and counted.
        tries: Or<Unlimited, Count<u32, WebhookTries, 1, MANY>> = Or::NONE,
        /// Key of a signature: the header X-RingMQ-Signature is sha256= and the HMAC of the body in
        /// hexadecimal. Empty: there is none.
        #[schemars(extend("x-secret" = true))]
        secret: Text<0, 1024> = Text::of(""),
        /// TLS to the service.
        tls: Maybe<BridgeTls> = Maybe(None),
    }
}

section! {
    /// The pause before a request is made again: twice as long after each try.
    WebhookRetry {
        /// Shortest.
        min: Time<{ SECOND / 100 }, HOUR> = Time::of(SECOND / 2),
        /// Longest.
        max: Time<{ SECOND / 100 }, DAY> = Time::of(30 * SECOND),
    }
}

section! {
    /// Messages of a topic, and which way they go. A message that several entries match goes over
    /// the bridge once, by the first.
    BridgeTopic {
        /// Topic filter, to which the prefixes are added. Empty: the prefixes are the topic.
        filter: Text<0, 65_535> = Text::of(""),
        /// Which way.
        direction: Direction = Direction::Out,
        /// Highest QoS at which they go.
        qos: Count<u8, QosLevel, 0, 2> = Count::of(0),
        /// What stands before the filter here, and is not there.
        local_prefix: Text<0, 65_535> = Text::of(""),
        /// What stands before the filter at the other broker, and is not here.
        remote_prefix: Text<0, 65_535> = Text::of(""),
    }
}

section! {
    /// For a bridge with start: lazy.
    LazyStart {
        /// It connects when so many messages wait.
        threshold: Count<u32, WaitingMessages, 1, MANY> = Count::of(10),
        /// It disconnects when it had nothing to do for so long.
        idle: Time<SECOND, DAY> = Time::of(60 * SECOND),
    }
}

section! {
    /// The pause before the next attempt to connect: a random time, up to twice as long after each
    /// failure.
    BridgeRetry {
        /// Shortest.
        min: Time<{ SECOND / 10 }, HOUR> = Time::of(5 * SECOND),
        /// Longest.
        max: Time<{ SECOND / 10 }, DAY> = Time::of(30 * SECOND),
    }
}

section! {
    /// TLS to the other end of a bridge, versions 1.2 and 1.3.
    BridgeTls {
        /// File with the authorities of its certificate in PEM; empty: those of the host.
        ca: FilePath = Text::of(""),
        /// Certificate chain to show it, PEM; empty for none.
        certificate: FilePath = Text::of(""),
        /// Private key of that, PEM, not encrypted.
        private_key: FilePath = Text::of(""),
        /// The name that its certificate must have; empty: the host of its address.
        server_name: Text<0, 253> = Text::of(""),
    }
}
