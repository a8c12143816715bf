//! A scripted client: says what it is told to and keeps every packet that it is sent. For the tests
//! of one behaviour each; the random runs have clients with a protocol state of their own.

use crate::net::{ConnId, End};
use crate::world::World;
use ringmq::packet::{
    self, Ack, AckKind, Connect, ConnectProperties, Disconnect, Framing, OutPublish, Packet,
    PacketId, Qos, ReasonCode, Subscribe, SubscribeFilter, SubscribeFilters, SubscribeOptions,
    Unsubscribe, UnsubscribeFilters, UserProperties, Version, Will,
};

/// A packet from the broker, owned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Got {
    ConnAck {
        present: bool,
        reason: ReasonCode,
    },
    Publish {
        topic: String,
        payload: Vec<u8>,
        qos: u8,
        id: u16,
        dup: bool,
        retain: bool,
        ids: Vec<u32>,
        expiry: Option<u32>,
    },
    Ack(AckKind, u16, ReasonCode),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16),
    Pong,
    Disconnect(ReasonCode),
}

pub struct Peer {
    pub conn: ConnId,
    pub version: Version,
    input: Vec<u8>,
}

/// A CONNECT of MQTT 5 with a session of that many seconds.
pub fn hello(name: &str, clean: bool, expiry: u32) -> Connect<'_> {
    Connect {
        version: Version::V5,
        clean_start: clean,
        keep_alive: 0,
        client_id: name,
        username: None,
        password: None,
        will: None,
        bridge: false,
        properties: ConnectProperties { session_expiry: Some(expiry), ..Default::default() },
    }
}

/// A CONNECT as it is sent.
pub fn hello_bytes(connect: &Connect<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet::encode_connect(&mut bytes, connect).unwrap();
    bytes
}

/// A will.
pub fn will<'a>(topic: &'a str, delay: u32) -> Will<'a> {
    let properties = Default::default();
    Will { topic, payload: b"gone", qos: Qos::AtLeastOnce, retain: false, delay, properties }
}

pub fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

impl Peer {
    /// A connection to `shard` on which nothing was said, with kernel buffers of that size.
    pub fn silent(world: &mut World, shard: usize, buffer: usize) -> Peer {
        let conn = world.connect(shard, 1 << 20, buffer);
        Peer { conn, version: Version::V5, input: Vec::new() }
    }

    /// Connects and waits for the CONNACK.
    pub fn connect(world: &mut World, shard: usize, connect: &Connect<'_>) -> Peer {
        let mut peer = Peer::silent(world, shard, 1 << 20);
        peer.begin(world, connect);
        world.settle();
        peer
    }

    /// The same at another listener than the first.
    pub fn connect_to(world: &mut World, listener: u16, connect: &Connect<'_>) -> Peer {
        let conn = world.connect_to(listener, 0, 1 << 20, 1 << 20);
        let mut peer = Peer { conn, version: Version::V5, input: Vec::new() };
        peer.begin(world, connect);
        world.settle();
        peer
    }

    /// Only sends the CONNECT.
    pub fn begin(&mut self, world: &mut World, connect: &Connect<'_>) {
        self.version = connect.version;
        self.raw(world, &hello_bytes(connect));
    }

    pub fn write(&mut self, world: &mut World, encode: impl FnOnce(&mut Vec<u8>, Version)) {
        let mut bytes = Vec::new();
        encode(&mut bytes, self.version);
        self.raw(world, &bytes);
    }

    pub fn raw(&mut self, world: &mut World, bytes: &[u8]) {
        world.conns[self.conn].up.extend(bytes);
    }

    pub fn publish(
        &mut self,
        world: &mut World,
        topic: &str,
        payload: &[u8],
        qos: u8,
        number: u16,
    ) {
        self.publish_as(world, topic, payload, qos, number, false);
    }

    pub fn publish_as(
        &mut self,
        world: &mut World,
        topic: &str,
        payload: &[u8],
        qos: u8,
        number: u16,
        retain: bool,
    ) {
        self.write(world, |out, version| {
            let publish = OutPublish {
                dup: false,
                qos: Qos::from_u8(qos).unwrap(),
                retain,
                topic,
                id: PacketId::new(number).filter(|_| qos > 0),
                message_expiry: None,
                topic_alias: None,
                subscription_ids: &[],
                forwarded: &[],
                payload,
            };
            packet::encode_publish(out, version, &publish).unwrap();
        });
    }

    /// A PUBLISH with topic alias 1.
    pub fn alias(
        &mut self,
        world: &mut World,
        topic: &str,
        payload: &[u8],
        qos: u8,
        number: u16,
        dup: bool,
    ) {
        self.write(world, |out, version| {
            let publish = OutPublish {
                dup,
                qos: Qos::from_u8(qos).unwrap(),
                retain: false,
                topic,
                id: PacketId::new(number),
                message_expiry: None,
                topic_alias: Some(1),
                subscription_ids: &[],
                forwarded: &[],
                payload,
            };
            packet::encode_publish(out, version, &publish).unwrap();
        });
    }

    /// Takes every PUBLISH, acknowledging each, until there are no more. Other packets are lost.
    pub fn read_all(&mut self, world: &mut World) -> Vec<Got> {
        let mut all = Vec::new();
        loop {
            let got = self.take(world);
            if got.is_empty() {
                return all;
            }
            for packet in got {
                match packet {
                    Got::Publish { qos: 1, id, .. } => self.ack(world, AckKind::PubAck, id),
                    Got::Publish { qos: 2, id, .. } => self.ack(world, AckKind::PubRec, id),
                    Got::Ack(AckKind::PubRel, id, _) => self.ack(world, AckKind::PubComp, id),
                    _ => {}
                }
                if matches!(packet, Got::Publish { .. }) {
                    all.push(packet);
                }
            }
        }
    }

    pub fn subscribe(&mut self, world: &mut World, number: u16, filter: &str, qos: u8) {
        self.subscribe_as(world, number, filter, qos, None);
    }

    /// One packet of many filters.
    pub fn subscribe_all(&mut self, world: &mut World, number: u16, filters: &[String], qos: u8) {
        let options = SubscribeOptions { qos: Qos::from_u8(qos).unwrap(), ..Default::default() };
        self.write(world, |out, version| {
            let mut raw = Vec::new();
            for filter in filters {
                SubscribeFilter { filter, options }.write(version, &mut raw).unwrap();
            }
            let filters = SubscribeFilters::parse(version, &raw).unwrap();
            let user = UserProperties::default();
            let subscribe = Subscribe { id: id(number), subscription_id: None, user, filters };
            packet::encode_subscribe(out, version, &subscribe).unwrap();
        });
    }

    pub fn subscribe_as(
        &mut self,
        world: &mut World,
        number: u16,
        filter: &str,
        qos: u8,
        subscription_id: Option<u32>,
    ) {
        let options = SubscribeOptions { qos: Qos::from_u8(qos).unwrap(), ..Default::default() };
        self.subscribe_with(world, number, filter, options, subscription_id);
    }

    pub fn subscribe_with(
        &mut self,
        world: &mut World,
        number: u16,
        filter: &str,
        options: SubscribeOptions,
        subscription_id: Option<u32>,
    ) {
        self.write(world, |out, version| {
            let mut raw = Vec::new();
            SubscribeFilter { filter, options }.write(version, &mut raw).unwrap();
            let filters = SubscribeFilters::parse(version, &raw).unwrap();
            let user = UserProperties::default();
            let subscribe = Subscribe { id: id(number), subscription_id, user, filters };
            packet::encode_subscribe(out, version, &subscribe).unwrap();
        });
    }

    pub fn unsubscribe(&mut self, world: &mut World, number: u16, filter: &str) {
        self.write(world, |out, version| {
            let mut raw = Vec::new();
            UnsubscribeFilters::write(filter, &mut raw).unwrap();
            let filters = UnsubscribeFilters::parse(&raw).unwrap();
            let unsubscribe =
                Unsubscribe { id: id(number), user: UserProperties::default(), filters };
            packet::encode_unsubscribe(out, version, &unsubscribe).unwrap();
        });
    }

    pub fn ack(&mut self, world: &mut World, kind: AckKind, number: u16) {
        self.write(world, |out, version| {
            packet::encode_ack(out, version, kind, &Ack::new(id(number), ReasonCode::Success))
                .unwrap();
        });
    }

    /// DISCONNECT.
    pub fn say_goodbye(&mut self, world: &mut World) {
        self.write(world, |out, version| {
            packet::encode_disconnect(out, version, &Disconnect::new(ReasonCode::Success)).unwrap();
        });
    }

    pub fn goodbye(&mut self, world: &mut World) {
        self.say_goodbye(world);
        world.settle();
        self.end(world, End::Fin);
        world.settle();
    }

    /// Ends the connection without a packet.
    pub fn end(&mut self, world: &mut World, how: End) {
        world.conns[self.conn].client = how;
    }

    /// Lets the broker work and returns what has come since the last call.
    pub fn take(&mut self, world: &mut World) -> Vec<Got> {
        let mut all = Vec::new();
        loop {
            world.settle();
            if world.conns[self.conn].down.is_empty() {
                return all;
            }
            all.extend(self.hear(world));
        }
    }

    /// What has come by now.
    pub fn hear(&mut self, world: &mut World) -> Vec<Got> {
        self.input.extend(world.conns[self.conn].down.drain(..));
        let mut all = Vec::new();
        let mut at = 0;
        while let Ok(Framing::Complete { total, .. }) = packet::frame(&self.input[at..], u32::MAX) {
            all.push(own(packet::decode(self.version, &self.input[at..at + total]).unwrap()));
            at += total;
        }
        self.input.drain(..at);
        all
    }

    /// Payloads of the PUBLISH packets among what has come.
    pub fn payloads(&mut self, world: &mut World) -> Vec<String> {
        let text = |got| match got {
            Got::Publish { payload, .. } => Some(String::from_utf8(payload).unwrap()),
            _ => None,
        };
        self.take(world).into_iter().filter_map(text).collect()
    }

    /// Whether the broker has closed the connection.
    pub fn is_closed(&self, world: &World) -> bool {
        world.conns[self.conn].server != End::Open
    }
}

fn own(packet: Packet<'_>) -> Got {
    match packet {
        Packet::ConnAck(ack) => Got::ConnAck { present: ack.session_present, reason: ack.reason },
        Packet::Publish(publish) => Got::Publish {
            topic: publish.topic.into(),
            payload: publish.payload.into(),
            qos: publish.qos as u8,
            id: publish.id.map_or(0, |id| id.get()),
            dup: publish.dup,
            retain: publish.retain,
            ids: publish.properties.subscription_ids.iter().collect(),
            expiry: publish.properties.message_expiry,
        },
        Packet::PubAck(ack) => Got::Ack(AckKind::PubAck, ack.id.get(), ack.reason),
        Packet::PubRec(ack) => Got::Ack(AckKind::PubRec, ack.id.get(), ack.reason),
        Packet::PubRel(ack) => Got::Ack(AckKind::PubRel, ack.id.get(), ack.reason),
        Packet::PubComp(ack) => Got::Ack(AckKind::PubComp, ack.id.get(), ack.reason),
        Packet::SubAck(ack) => Got::SubAck(ack.id.get(), ack.codes.into()),
        Packet::UnsubAck(ack) => Got::UnsubAck(ack.id.get()),
        Packet::PingResp => Got::Pong,
        Packet::Disconnect(disconnect) => Got::Disconnect(disconnect.reason),
        other => panic!("a client's packet from the broker: {other:?}"),
    }
}
