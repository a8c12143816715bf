//! Peers that attack by what they are allowed to do: many filters, wide fan-outs, identifiers that
//! are never released, replays that nobody reads, names that everybody claims. Each kind is a
//! generator; a run has some of them beside the honest clients, and what those are promised is
//! checked as in any other run.

use crate::client::HOSTILE;
use crate::net::{ConnId, End};
use crate::peer::{hello, hello_bytes};
use crate::rng::Rng;
use crate::world::World;
use ringmq::packet::{
    self, Ack, AckKind, Connect, ConnectProperties, Framing, OutPublish, Packet, PacketId, Qos,
    ReasonCode, Subscribe, SubscribeFilter, SubscribeFilters, SubscribeOptions, Unsubscribe,
    UnsubscribeFilters, UserProperties, Version,
};

/// What the peers of one assault are after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Aim {
    /// Many subscribers of what everybody publishes.
    Crowd,
    /// Packets of hundreds of filters, taken back in any order, by sessions that end in between.
    Filters,
    /// The same in share groups.
    Shares,
    /// Every filter of so many levels, each a name or `+`, and messages that match all.
    Wildcards,
    /// Every packet identifier in use, each message repeated.
    Identifiers,
    /// Retained messages asked for again and again, and not read.
    Replays,
    /// A CONNECT without an end.
    HalfConnects,
    /// A few names that all of them claim.
    Names,
    /// Members of a share group that acknowledge nothing and die.
    Members,
    /// Everything at QoS 1, acknowledged in bursts.
    SlowAcknowledger,
    /// Topic aliases set to other topics all the time, and messages of kilobytes.
    Aliases,
}

const AIMS: [Aim; 11] = [
    Aim::Crowd,
    Aim::Filters,
    Aim::Shares,
    Aim::Wildcards,
    Aim::Identifiers,
    Aim::Replays,
    Aim::HalfConnects,
    Aim::Names,
    Aim::Members,
    Aim::SlowAcknowledger,
    Aim::Aliases,
];

/// One attack: so many peers of one kind.
pub struct Assault {
    aim: Aim,
    /// Most peers at a time.
    peers: usize,
    /// Filters, levels, messages: whatever the kind counts.
    size: usize,
    crowd: Vec<Attacker>,
    made: usize,
}

struct Attacker {
    conn: ConnId,
    version: Version,
    output: Vec<u8>,
    input: Vec<u8>,
    reads: bool,
    acknowledges: bool,
    /// Identifiers of QoS 1 messages that it has not acknowledged.
    unacked: Vec<u16>,
    /// Packets said so far.
    said: usize,
}

impl Assault {
    pub fn new(rng: &mut Rng, shards: usize) -> Assault {
        let aim = AIMS[rng.below(AIMS.len())];
        let (peers, size) = match aim {
            // More than may be served at once, on one shard.
            Aim::Crowd => (if shards < 3 { rng.range(100, 300) } else { rng.range(10, 100) }, 1),
            Aim::Filters | Aim::Shares => (rng.range(1, 4), rng.range(20, 800)),
            Aim::Wildcards => (rng.range(1, 3), rng.range(3, 8)),
            Aim::Identifiers => (rng.range(1, 3), rng.range(10, 400)),
            Aim::Replays => (rng.range(1, 6), rng.range(10, 150)),
            Aim::HalfConnects => (rng.range(5, 30), rng.range(100, 40_000)),
            Aim::Names => (rng.range(2, 12), rng.range(1, 3)),
            Aim::Members | Aim::SlowAcknowledger => (rng.range(1, 6), 1),
            Aim::Aliases => (rng.range(1, 3), rng.range(10, 3000)),
        };
        Assault { aim, peers, size, crowd: Vec::new(), made: 0 }
    }

    /// True when it retains many messages.
    pub fn crowds_replays(&self) -> bool {
        self.aim == Aim::Replays
    }

    /// True when its filters have more wildcard shapes than are hashed.
    pub fn crowds_shapes(&self) -> bool {
        self.aim == Aim::Wildcards
    }

    /// Somebody does something.
    pub fn turn(&mut self, world: &mut World, rng: &mut Rng) {
        self.crowd.retain(|peer| {
            let wire = &mut world.conns[peer.conn];
            if wire.server != End::Open {
                wire.client = End::Fin;
            }
            wire.client == End::Open
        });
        // The latest is the next to say something: that is its CONNECT.
        let mut at = rng.below(self.crowd.len());
        if self.crowd.len() < self.peers && (self.crowd.is_empty() || rng.chance(500)) {
            let peer = self.recruit(world, rng);
            self.crowd.push(peer);
            at = self.crowd.len() - 1;
        }
        let (aim, size) = (self.aim, self.size);
        let peer = &mut self.crowd[at];
        peer.read(world, rng, aim);
        if peer.output.is_empty() && (peer.said == 0 || rng.chance(600)) {
            peer.say(aim, size, rng);
            peer.said += 1;
        }
        let wire = &mut world.conns[peer.conn];
        let room = wire.up_limit.saturating_sub(wire.up.len()).min(peer.output.len());
        wire.up.extend(peer.output.drain(..room));
        let restless = match aim {
            Aim::Names | Aim::Members | Aim::Filters | Aim::Shares => 60,
            Aim::Crowd => 2,
            _ => 10,
        };
        if rng.chance(restless) {
            wire.client = [End::Fin, End::Reset][rng.below(2)];
        }
    }

    /// Everybody is gone from one moment to the next.
    pub fn end(self, world: &mut World) {
        for peer in self.crowd {
            world.conns[peer.conn].client = End::Reset;
        }
    }

    fn recruit(&mut self, world: &mut World, rng: &mut Rng) -> Attacker {
        let shard = rng.below(world.nodes.len());
        let buffer = [200, 65_536, 65_536][rng.below(3)];
        let conn = world.connect(shard, 64 * 1024, buffer);
        let version = [Version::V311, Version::V5][rng.below(2)];
        self.made += 1;
        let name = match self.aim {
            Aim::Names => format!("{HOSTILE}-name-{}", rng.below(self.size)),
            _ => format!("{HOSTILE}-{:?}-{}", self.aim, self.made % (2 * self.peers)),
        };
        let any = hello(&name, rng.chance(600), 0);
        let properties = ConnectProperties {
            session_expiry: version.is_v5().then(|| rng.below(10) as u32),
            ..Default::default()
        };
        let output = hello_bytes(&Connect { version, properties, ..any });
        let reads = !matches!(self.aim, Aim::Replays) && rng.chance(900);
        let acknowledges = !matches!(self.aim, Aim::Members | Aim::SlowAcknowledger);
        let (input, unacked) = (Vec::new(), Vec::new());
        Attacker { conn, version, output, input, reads, acknowledges, unacked, said: 0 }
    }
}

impl Attacker {
    fn read(&mut self, world: &mut World, rng: &mut Rng, aim: Aim) {
        if !self.reads {
            return;
        }
        self.input.extend(world.conns[self.conn].down.drain(..));
        while let Ok(Framing::Complete { total, .. }) = packet::frame(&self.input, u32::MAX) {
            if let Ok(Packet::Publish(publish)) = packet::decode(self.version, &self.input[..total])
                && publish.qos == Qos::AtLeastOnce
            {
                self.unacked.extend(publish.id.map(PacketId::get));
            }
            self.input.drain(..total);
        }
        if self.acknowledges || aim == Aim::SlowAcknowledger && rng.chance(30) {
            for id in self.unacked.drain(..) {
                let ack = Ack::new(PacketId::new(id).unwrap(), ReasonCode::Success);
                packet::encode_ack(&mut self.output, self.version, AckKind::PubAck, &ack).unwrap();
            }
        }
    }

    fn say(&mut self, aim: Aim, size: usize, rng: &mut Rng) {
        match aim {
            Aim::Crowd if self.said == 0 => {
                let filters = ["t/#", "t/+/+", "t/1/+", "hostile/all", "#", "s/#"];
                let filter = filters[rng.below(filters.len())];
                self.subscribe(&[filter.into()], u8::from(rng.chance(300)));
            }
            Aim::Crowd if rng.chance(20) => self.publish("hostile/all", 0, 1, false, 40),
            Aim::Crowd => self.output.extend([0xC0, 0]),
            Aim::Filters => self.many(size, rng, |n| format!("hostile/f/{n}")),
            Aim::Shares => {
                let groups = [1, 5, size][rng.below(3)];
                self.many(size, rng, move |n| format!("$share/e{}/hostile/f/{n}", n % groups));
            }
            Aim::Wildcards if self.said == 0 => {
                let level = |n: usize, at| if n >> at & 1 == 1 { "+" } else { "a" };
                let filter = |n| {
                    let levels: Vec<_> = (0..size).map(|at| level(n, at)).collect();
                    format!("hostile/{}", levels.join("/"))
                };
                let filters: Vec<_> = (0..1 << size).map(filter).collect();
                self.subscribe(&filters, 0);
            }
            Aim::Wildcards => {
                let topic = format!("hostile{}", "/a".repeat(size));
                for _ in 0..rng.range(1, 20) {
                    self.publish(&topic, 0, 1, false, 8);
                }
            }
            Aim::Identifiers => {
                for n in 0..rng.range(1, 20) {
                    let id = (self.said * 7 + n) % size.min(65_000) + 1;
                    self.publish("hostile/two", 2, id as u16, rng.chance(300), 8);
                }
            }
            Aim::Replays if rng.chance(300) => {
                for n in 0..rng.range(1, 20) {
                    let topic = format!("hostile/k/{}", (self.said + n) % size);
                    self.retain(&topic, rng.range(1, 500));
                }
            }
            Aim::Replays => {
                let filters = ["hostile/k/#", "hostile/k/+", "hostile/#", "+/k/1", "r/#"];
                let all: Vec<_> = filters.iter().map(|filter| filter.to_string()).collect();
                self.subscribe(&all[..rng.range(1, all.len())], rng.below(2) as u8);
                if rng.chance(500) {
                    self.unsubscribe(&all);
                }
            }
            Aim::HalfConnects if self.said == 0 => {
                // Longer than what will ever come.
                let connect = std::mem::take(&mut self.output);
                self.output.extend([0x10, 0xFF, 0xFF, 0x3F]);
                self.output.extend(connect.iter().skip(2).take(12));
                self.output.extend(std::iter::repeat_n(b'h', size));
            }
            Aim::HalfConnects => {}
            Aim::Names | Aim::Members | Aim::SlowAcknowledger if self.said == 0 => {
                let filter = match aim {
                    Aim::Names => "t/#",
                    Aim::Members => ["$share/evil/t/#", "$share/evil/hostile/j"][rng.below(2)],
                    _ => "#",
                };
                self.subscribe(&[filter.into()], 1);
            }
            Aim::Members => {
                for n in 0..rng.range(1, 10) {
                    self.publish("hostile/j", 1, (self.said + n) as u16 % 1000 + 1, false, 8);
                }
            }
            Aim::Names | Aim::SlowAcknowledger => self.output.extend([0xC0, 0]),
            Aim::Aliases => {
                for n in 0..rng.range(1, 10) {
                    let topic = format!("hostile/{}", "a".repeat((self.said + n) % 200 + 1));
                    self.publish(&topic, 0, 1, false, size);
                }
            }
        }
    }

    /// A packet of many filters, or one that takes them back, forwards or backwards.
    fn many(&mut self, size: usize, rng: &mut Rng, filter: impl Fn(usize) -> String) {
        let mut filters: Vec<_> = (0..rng.range(1, size)).map(filter).collect();
        if rng.chance(500) {
            filters.reverse();
        }
        if self.said == 0 || rng.chance(500) {
            self.subscribe(&filters, rng.below(3) as u8);
        } else {
            self.unsubscribe(&filters);
        }
        if rng.chance(200) {
            self.publish("hostile/f/1", rng.below(2) as u8, 3, false, 8);
        }
        if rng.chance(100) {
            self.output.extend([0xE0, 0]);
        }
    }

    fn subscribe(&mut self, filters: &[String], qos: u8) {
        let mut raw = Vec::new();
        for filter in filters {
            let options =
                SubscribeOptions { qos: Qos::from_u8(qos).unwrap(), ..Default::default() };
            SubscribeFilter { filter, options }.write(self.version, &mut raw).unwrap();
        }
        let filters = SubscribeFilters::parse(self.version, &raw).unwrap();
        let user = UserProperties::default();
        let id = PacketId::new(9).unwrap();
        let subscribe = Subscribe { id, subscription_id: None, user, filters };
        packet::encode_subscribe(&mut self.output, self.version, &subscribe).unwrap();
    }

    fn unsubscribe(&mut self, filters: &[String]) {
        let mut raw = Vec::new();
        filters.iter().for_each(|filter| UnsubscribeFilters::write(filter, &mut raw).unwrap());
        let filters = UnsubscribeFilters::parse(&raw).unwrap();
        let user = UserProperties::default();
        let unsubscribe = Unsubscribe { id: PacketId::new(9).unwrap(), user, filters };
        packet::encode_unsubscribe(&mut self.output, self.version, &unsubscribe).unwrap();
    }

    fn retain(&mut self, topic: &str, length: usize) {
        self.put(topic, 0, 1, false, true, length);
    }

    fn publish(&mut self, topic: &str, qos: u8, id: u16, dup: bool, length: usize) {
        self.put(topic, qos, id, dup, false, length);
    }

    fn put(&mut self, topic: &str, qos: u8, id: u16, dup: bool, retain: bool, length: usize) {
        let aliases = self.version.is_v5() && length > 40;
        let publish = OutPublish {
            dup: dup && qos > 0,
            qos: Qos::from_u8(qos).unwrap(),
            retain,
            topic,
            id: PacketId::new(id).filter(|_| qos > 0),
            message_expiry: None,
            topic_alias: aliases.then_some(id % 8 + 1),
            subscription_ids: &[],
            forwarded: &[],
            payload: &vec![b'h'; length],
        };
        packet::encode_publish(&mut self.output, self.version, &publish).unwrap();
    }
}
