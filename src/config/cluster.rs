//! The keys of `cluster`. Like `sections`, of which it is a part, this file has declarations and no
//! behaviour.

use super::super::notation::{KIB, MIB, SECOND};
use super::super::quantity::{Count, Size, Time, Unit};
use super::super::texts::Texts;
use super::super::value::{self, Maybe, Or, Section, Text};
use super::{Auto, FilePath};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess};
use serde::{Deserialize, Serialize, Serializer};

/// NATS servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NatsServers {}

impl Unit for NatsServers {
    const NAME: &'static str = "servers";
}

choice! {
    /// What happens to messages of QoS 1 and 2 for a node that cannot be reached.
    OnPartition {
        /// Their publishers wait until it can, or is given up.
        Park,
        /// They are dropped, and counted.
        Drop,
    }
}

choice! {
    /// What is acknowledged while the stream of a durable cluster takes nothing.
    WithoutStreamPolicy {
        /// What is durable at this node is acknowledged, and is lost when the node is lost before
        /// the stream has it.
        Local,
        /// Nothing that has to be stored is acknowledged: clients of sessions that are stored, and
        /// those who publish to them at QoS 1 and 2, wait.
        Wait,
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
        /// Sessions survive the loss of a node: what is stored goes into a stream of NATS JetStream
        /// too, and when a node is lost another one takes its sessions over. Needs storage.path
        /// with durability sync and on_failure refuse. The same on all nodes.
        durable: bool = false,
        /// With durable: on how many NATS servers each entry is stored, if the stream does not
        /// exist yet.
        replicas: Count<u8, NatsServers, 1, 5> = Count::of(3),
        /// With durable: what happens while the stream does not take what is stored for 2 seconds.
        without_stream: WithoutStreamPolicy = WithoutStreamPolicy::Local,
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
