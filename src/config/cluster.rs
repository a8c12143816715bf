//! The keys of `cluster`. Like `sections`, of which it is a part, this file has declarations and no
//! behaviour.

use super::super::notation::{KIB, MIB, SECOND};
use super::super::quantity::{Size, Time};
use super::super::texts::Texts;
use super::super::value::{self, Maybe, Or, Section, Text};
use super::{Auto, FilePath};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess};
use serde::{Deserialize, Serialize, Serializer};

choice! {
    /// What happens to messages of QoS 1 and 2 for a node that cannot be reached.
    OnPartition {
        /// Their publishers wait until it can, or is given up.
        Park,
        /// They are dropped, and counted.
        Drop,
    }
}

section! {
    /// Several nodes that are one broker, joined by NATS.
    ClusterConfig {
        /// The cluster's name, the same on all of its nodes; empty: this broker is alone.
        name: Text<0, 64> = Text::of(""),
        /// This node's name, which no other one has. auto: that of the host, without its domain.
        node: Or<Auto, Text<1, 64>> = Or::NONE,
        /// What carries frames between the nodes.
        nats: NatsConfig = NatsConfig::default(),
        /// Sessions survive the loss of a node. Not in this build.
        durable: bool = false,
        /// What happens to messages of QoS 1 and 2 for a node that cannot be reached, once what may
        /// wait for it does (window). Those of QoS 0 are dropped then, and counted.
        on_partition: OnPartition = OnPartition::Park,
        /// Most bytes of messages for one other node that it has not acknowledged.
        window: Size<u64, { 256 * KIB }, { 64 * MIB }> = Size::of(8 * MIB),
        /// Most bytes of wills of other nodes' clients that this node keeps, to publish them when
        /// their node dies. Further ones are not kept, and counted.
        wills_max_bytes: Size<u64, 0, { 4096 * MIB }> = Size::of(64 * MIB),
        /// A node that cannot be reached for so long is given up: what waits for it is dropped and
        /// counted. A node that reaches no NATS server for so long gives up all others, and is a
        /// broker by itself until it does.
        give_up_after: Time<{ 3 * SECOND }, { 3600 * SECOND }> = Time::of(30 * SECOND),
    }
}

section! {
    /// The NATS servers, and who this node is to them.
    NatsConfig {
        /// URLs of servers of one NATS cluster: nats://HOST:PORT, or tls://HOST:PORT. One is
        /// connected to; the others are for when it is away.
        servers: Texts = Texts(vec!["nats://127.0.0.1:4222".into()]),
        /// User name; empty: none.
        username: Text<0, 256> = Text::of(""),
        /// Its password.
        #[schemars(extend("x-secret" = true))]
        password: Text<0, 1024> = Text::of(""),
        /// A file of credentials, as `nsc` writes it; empty: none.
        credentials: FilePath = Text::of(""),
        /// A file with the seed of an NKEY; empty: none.
        nkey: FilePath = Text::of(""),
        /// TLS to the servers; without it only as the URL or a server asks for it.
        tls: Maybe<NatsTls> = Maybe(None),
    }
}

section! {
    /// TLS to the NATS servers, whose certificates must have the hosts of their URLs.
    NatsTls {
        /// File with the authorities of their certificates in PEM; empty: those of the host.
        ca: FilePath = Text::of(""),
        /// Certificate chain to show them, PEM; empty for none.
        certificate: FilePath = Text::of(""),
        /// Private key of that, PEM, not encrypted.
        private_key: FilePath = Text::of(""),
    }
}
