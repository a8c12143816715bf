//! Peers that keep to no rule, beside the honest ones: they break packets, send what only servers
//! may send, ask for more than they may have, and do not read. Their topics and ClientIds are their
//! own, so whatever they do must not be noticed by anybody else.

use crate::client::HOSTILE;
use crate::net::{ConnId, End};
use crate::peer::{hello, hello_bytes};
use crate::random::Sim;
use crate::rng::Rng;
use crate::world::World;
use ringmq::packet::{
    self, Ack, AckKind, Connect, ConnectProperties, Framing, OutPublish, PacketId, Qos, ReasonCode,
    Subscribe, SubscribeFilter, SubscribeFilters, SubscribeOptions, UserProperties, Version, Will,
};

/// One connection of such a peer.
pub struct Hostile {
    pub conn: ConnId,
    version: Version,
    output: Vec<u8>,
    reads: bool,
    /// Which listener it came to.
    listener: u16,
    /// Its CONNECT was not spoiled: what it is sent must be legal, whatever it does.
    judges: bool,
    input: Vec<u8>,
    /// Largest packet that the broker takes.
    largest: usize,
}

/// Bytes of the longest string there is.
const LONGEST: usize = 65_535;

/// Most of them at a time.
const CROWD: usize = 8;

impl Sim {
    /// Some hostile peer does something.
    pub fn harass(&mut self) {
        let (world, rng) = (&mut self.world, &mut self.run.rng);
        self.hostile.retain(|peer| {
            let wire = &mut world.conns[peer.conn];
            if wire.server != End::Open {
                wire.client = End::Fin;
            }
            wire.client == End::Open
        });
        if self.hostile.len() < CROWD && rng.chance(300) {
            self.hostile.push(Hostile::new(world, rng, self.settings.max_packet_size));
        }
        let at = rng.below(self.hostile.len());
        if let Some(peer) = self.hostile.get_mut(at) {
            peer.turn(world, rng);
        }
    }
}

impl Hostile {
    fn new(world: &mut World, rng: &mut Rng, largest: u32) -> Hostile {
        let shard = rng.below(world.nodes.len());
        let buffer = [64, 65_536][rng.below(2)];
        let listener = [0, 0, 1, 2][rng.below(4)];
        let conn = world.connect_to(listener, shard, 64 * 1024, buffer);
        let version = [Version::V31, Version::V311, Version::V5, Version::V5][rng.below(4)];
        let mut peer = Hostile {
            conn,
            version,
            output: Vec::new(),
            reads: rng.chance(500),
            listener,
            judges: true,
            input: Vec::new(),
            largest: largest.min(64 * 1024) as usize,
        };
        let mut hello = peer.hello(rng);
        if rng.chance(300) {
            spoil(&mut hello, rng);
            peer.judges = false;
        }
        peer.output = hello;
        peer
    }

    fn hello(&self, rng: &mut Rng) -> Vec<u8> {
        let mut name = format!("{HOSTILE}-{}", rng.below(5));
        let mut topic = format!("{HOSTILE}/w");
        if rng.chance(30) {
            name += &"x".repeat(LONGEST - name.len());
        }
        if rng.chance(30) {
            topic += &"x".repeat(LONGEST - topic.len());
        }
        let v5 = self.version.is_v5();
        let will = Will {
            topic: &topic,
            payload: b"gone",
            qos: Qos::from_u8(rng.below(3) as u8).unwrap(),
            retain: rng.chance(300),
            delay: if v5 { rng.below(3) as u32 } else { 0 },
            properties: Default::default(),
        };
        let any = hello(&name, rng.chance(500), 0);
        hello_bytes(&Connect {
            version: self.version,
            keep_alive: rng.below(4) as u16,
            will: rng.chance(300).then_some(will),
            properties: ConnectProperties {
                session_expiry: v5.then(|| rng.below(20) as u32),
                request_response_information: v5 && rng.chance(300),
                ..Default::default()
            },
            ..any
        })
    }

    fn turn(&mut self, world: &mut World, rng: &mut Rng) {
        if self.output.is_empty() && rng.chance(700) {
            let mut packet = self.packet(rng);
            if rng.chance(250) {
                spoil(&mut packet, rng);
            }
            self.output.extend(packet);
        }
        let wire = &mut world.conns[self.conn];
        if self.reads {
            self.input.extend(wire.down.drain(..));
            self.judge();
        }
        let wire = &mut world.conns[self.conn];
        let room = wire.up_limit.saturating_sub(wire.up.len()).min(self.output.len());
        let part = rng.range(0, room);
        wire.up.extend(self.output.drain(..part));
        if rng.chance(30) {
            wire.client = [End::Fin, End::Reset][rng.below(2)];
        }
    }

    /// Whatever is said to it, it is sent whole packets of its version.
    fn judge(&mut self) {
        if !self.judges {
            self.input.clear();
            return;
        }
        while let Ok(Framing::Complete { total, .. }) = packet::frame(&self.input, u32::MAX) {
            let bytes = &self.input[..total];
            if let Err(violation) = packet::decode(self.version, bytes) {
                let start = &bytes[..total.min(40)];
                panic!("a hostile peer is sent {start:?}, {total} bytes: {violation:?}");
            }
            self.input.drain(..total);
        }
    }

    /// Something that may be all right, or break a rule that no decoder sees.
    fn packet(&self, rng: &mut Rng) -> Vec<u8> {
        let mut out = Vec::new();
        let id = PacketId::new(rng.range(1, 20) as u16).unwrap();
        match rng.below(12) {
            0 => return self.hello(rng),
            1 => out.extend([0xC0, 0]),
            2 => self.subscribe(&mut out, rng, id),
            3 => {
                let kinds = [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp];
                let ack = Ack::new(id, ReasonCode::Success);
                packet::encode_ack(&mut out, self.version, kinds[rng.below(4)], &ack).unwrap();
            }
            // SUBACK, CONNACK, PINGRESP, AUTH: a server's, or nobody's.
            4 => out.extend([[0x90, 3, 0, 1, 0].as_slice(), &[0xD0, 0], &[0xF0, 0]][rng.below(3)]),
            // A packet larger than any that is allowed.
            5 => out.extend([0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1, b'h']),
            // UTF-8 that is none, in a topic name; a topic name with a wildcard.
            6 => out.extend([0x30, 4, 0, 2, 0xC3, 0x28]),
            7 => out.extend([0x30, 4, 0, 2, b'h', b'#']),
            _ => self.publish(&mut out, rng, id),
        }
        out
    }

    fn subscribe(&self, out: &mut Vec<u8>, rng: &mut Rng, id: PacketId) {
        let filters = ["t/#", "hostile/#", "hostile/+", "$SYS/#", "$share/evil/hostile/#", "r/+/0"];
        let mut filter = filters[rng.below(filters.len())].to_owned();
        if self.listener > 0 && rng.chance(400) {
            filter = ["#", "+/#", "$share/evil/#"][rng.below(3)].into();
        }
        if rng.chance(30) {
            filter = format!("{}{filter}", "x/".repeat((LONGEST - filter.len()) / 2));
        }
        let filter = &filter;
        let qos = Qos::from_u8(rng.below(3) as u8).unwrap();
        let options = SubscribeOptions { qos, ..Default::default() };
        let mut raw = Vec::new();
        SubscribeFilter { filter, options }.write(self.version, &mut raw).unwrap();
        let filters = SubscribeFilters::parse(self.version, &raw).unwrap();
        let user = UserProperties::default();
        let subscribe = Subscribe { id, subscription_id: None, user, filters };
        packet::encode_subscribe(out, self.version, &subscribe).unwrap();
    }

    fn publish(&self, out: &mut Vec<u8>, rng: &mut Rng, id: PacketId) {
        let qos = rng.below(3) as u8;
        let topics = ["hostile/1", "hostile/2", "$SYS/broker/uptime"];
        let mut topic = format!("{}{}", topics[rng.below(3)], "/deeper".repeat(rng.below(9) * 5));
        if self.listener == 2 && rng.chance(300) {
            // Beside the mountpoints of others, and at their very beginning.
            topic = format!("{HOSTILE}/{HOSTILE}-{}{}", rng.below(5), ["", "/"][rng.below(2)]);
        } else if rng.chance(30) || self.listener == 1 && rng.chance(200) {
            topic = format!("{HOSTILE}/1");
            topic += &"x".repeat(LONGEST - topic.len());
        }
        // Aliases beyond the limit and such that were never set.
        let alias = (self.version.is_v5() && rng.chance(100)).then(|| rng.range(1, 12) as u16);
        let publish = OutPublish {
            dup: qos > 0 && rng.chance(200),
            qos: Qos::from_u8(qos).unwrap(),
            retain: rng.chance(200),
            topic: if alias.is_some() && rng.chance(500) { "" } else { &topic },
            id: Some(id).filter(|_| qos > 0),
            message_expiry: None,
            topic_alias: alias,
            subscription_ids: &[],
            forwarded: &[],
            payload: &b"hostile payload "[..rng.below(16)].repeat(rng.range(1, 200)),
        };
        let size = packet::publish_size(self.version, &publish).unwrap();
        // As large as it may be, or a byte more.
        let most = self.largest + usize::from(rng.chance(300));
        let padding = vec![b'.'; most.saturating_sub(size + 3) + publish.payload.len()];
        let mut publish = publish;
        if rng.chance(20) {
            publish.payload = &padding;
        }
        packet::encode_publish(out, self.version, &publish).unwrap();
    }
}

/// Flips, cuts or adds bytes, beyond the length or within it.
fn spoil(packet: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..rng.range(1, 3) {
        let at = rng.below(packet.len());
        match rng.below(4) {
            0 | 1 => packet[at] ^= 1 << rng.below(8),
            2 => packet.truncate(at.max(1)),
            _ => packet.insert(at, rng.next() as u8),
        }
    }
}
