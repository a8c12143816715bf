//! One operation of the pure core, so often as asked, for a tool that counts instructions:
//! `ringmq-instructions OPERATION COUNT`. Plays driver, mailboxes and clock; knows no kernel.
//!
//! Counting two runs of different COUNT and taking the difference leaves out what is done once.
//! Uses only what the shard offers to its driver, so that other revisions build it.

use ringmq::config::{Config, Or};
use ringmq::ids::{ListenerId, Peer, ShardId, SocketId};
use ringmq::limits::MAIL_WORK;
use ringmq::mesh::mail::{Control, Stamped};
use ringmq::mesh::mailbox::{MailEnds, mailboxes};
use ringmq::mesh::quota::{Quota, Rate};
use ringmq::mesh::{ListenerState, Shared};
use ringmq::packet::{self, Connect, OutPublish, PacketId, Qos, Subscribe, Version};
use ringmq::outgoing::Outgoing;
use ringmq::shard::step::{StepBounds, Step, Surroundings};
use ringmq::shard::{Action, Settings, Shard};
use ringmq::time::Instant;
use ringmq::topic::Seeds;
use std::process::exit;
use std::sync::Arc;

/// Name, what one operation is.
const OPERATIONS: [(&str, &str); 8] = [
    ("publish-qos0", "a QoS 0 message to one subscriber, a step each"),
    ("publish-qos0-busy", "the same, 32 messages per step"),
    ("publish-qos1", "a QoS 1 message to one subscriber, acknowledged by both, two steps"),
    ("publish-10", "a QoS 0 message to ten subscribers, a step each"),
    ("publish-across", "a QoS 0 message to a subscriber on another shard, a step of each"),
    ("publish-across-busy", "the same, 32 messages per step"),
    ("subscribe", "SUBSCRIBE and UNSUBSCRIBE of one filter, two steps"),
    ("connect", "CONNECT and DISCONNECT of a clean session, three steps"),
];

/// Messages per step of the busy operations.
const BUSY: usize = 32;
const PUBLISHER: SocketId = SocketId(0);

struct Node {
    shard: Shard,
    ends: MailEnds<Stamped, Control>,
    /// Sends that the driver has completed since the last step.
    sent: Vec<(SocketId, Outgoing)>,
    /// Sockets that it has closed since the last step.
    closed: Vec<SocketId>,
    /// Packet identifiers of the QoS 1 messages among what was sent.
    ids: Vec<u16>,
    written: usize,
    /// Clients that asked to go elsewhere.
    strangers: usize,
}

struct World {
    nodes: Vec<Node>,
    stamp: u64,
}

/// What is around a shard in one step: the completions of its driver, and what it asks for.
struct Around<'a> {
    input: &'a [(SocketId, &'a [u8])],
    visited: bool,
    sent: &'a mut Vec<(SocketId, Outgoing)>,
    closed: &'a mut Vec<SocketId>,
    ids: &'a mut Vec<u16>,
    written: &'a mut usize,
    strangers: &'a mut usize,
    stamp: &'a mut u64,
}

impl Surroundings for Around<'_> {
    fn harvest(&mut self) {}

    fn visit(&mut self, shard: &mut Shard, _limit: usize) -> usize {
        if std::mem::replace(&mut self.visited, true) {
            return 0;
        }
        let visited = self.sent.len() + self.closed.len() + self.input.len();
        for (socket, outgoing) in self.sent.drain(..) {
            shard.sent(socket, outgoing, true);
        }
        for socket in self.closed.drain(..) {
            shard.closed(socket);
        }
        for &(socket, bytes) in self.input {
            shard.received(socket, bytes);
        }
        visited
    }

    fn has_more(&mut self) -> bool {
        false
    }

    fn has_heard_everyone(&mut self) -> bool {
        true
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send(socket, outgoing) => {
                if let Outgoing::One(bytes) = &outgoing {
                    *self.written += bytes.len();
                    self.ids.extend(identifier(bytes));
                }
                self.sent.push((socket, outgoing));
            }
            Action::Close(socket) | Action::Finish(socket) => self.closed.push(socket),
            Action::HandOver(..) => *self.strangers += 1,
            // Nobody has to prove who he is here.
            Action::Ask(_) => {}
            _ => {}
        }
    }

    fn stamp(&mut self) -> u64 {
        *self.stamp += 1;
        *self.stamp
    }

    fn ring(&mut self, _shard: ShardId) {}
}

impl World {
    fn new(shards: u8) -> World {
        // `$SYS` would publish by itself now and then.
        let mut config = Config::default();
        config.sys.interval = Or::NONE;
        let settings = Arc::new(Settings::new(&config));
        let shared = Shared::new(Seeds::fixed(1));
        let listener_state = Arc::new(ListenerState {
            name: "count".into(),
            allow_anonymous: true,
            mountpoint: String::new(),
            max_connections: u64::MAX,
            max_connect_rate: None,
            stack: Default::default(),
            connections: Quota::default(),
            rate: Rate::default(),
        });
        let nodes = mailboxes(usize::from(shards), 256, 1024).into_iter().enumerate();
        let nodes = nodes.map(|(id, ends)| {
            let id = ShardId(id as u8);
            let (settings, shared) = (Arc::clone(&settings), Arc::clone(&shared));
            let mut shard = Shard::new(id, shards, settings, shared, Instant(1));
            shard.open_listener(ListenerId(0), Arc::clone(&listener_state));
            let (sent, closed, ids) = (Vec::new(), Vec::new(), Vec::new());
            Node { shard, ends, sent, closed, ids, written: 0, strangers: 0 }
        });
        World { nodes: nodes.collect(), stamp: 0 }
    }

    /// One step of one shard, with that input. The clock stands still: what a shard does once a
    /// second is no part of any operation.
    fn step(&mut self, at: usize, input: &[(SocketId, &[u8])]) {
        let Node { shard, ends, sent, closed, ids, written, strangers } = &mut self.nodes[at];
        shard.begin(Instant(1), 1000);
        let visited = false;
        let mut around = Around {
            input,
            visited,
            sent,
            closed,
            ids,
            written,
            strangers,
            stamp: &mut self.stamp,
        };
        Step::new(StepBounds { completions: 512, mail: MAIL_WORK }).run(shard, ends, &mut around);
    }

    /// Every shard takes in what the others have told it.
    fn settle(&mut self) {
        for _ in 0..20 {
            (0..self.nodes.len()).for_each(|at| self.step(at, &[]));
        }
    }

    fn written(&self) -> usize {
        self.nodes.iter().map(|node| node.written).sum()
    }

    /// A client whose home is that shard, whatever places ClientIds.
    fn client(&mut self, at: usize, socket: SocketId, name: &str) {
        for attempt in 0..1000 {
            let socket = if attempt == 0 { socket } else { SocketId(socket.0 + 100_000) };
            let connect = hello(&format!("{name}-{attempt}"));
            let node = &mut self.nodes[at];
            let strangers = node.strangers;
            node.shard.accepted(socket, ListenerId(0), Peer::Unix);
            self.step(at, &[(socket, &connect)]);
            self.step(at, &[]);
            if self.nodes[at].strangers == strangers {
                if attempt > 0 {
                    // It is known now whose home this is: connect again with the right socket.
                    self.nodes[at].closed.push(socket);
                    self.step(at, &[]);
                    return self.enter(at, SocketId(socket.0 - 100_000), &connect);
                }
                return;
            }
            self.nodes[at].shard.closed(socket);
            self.step(at, &[]);
        }
        panic!("no name for a client of shard {at}");
    }

    fn enter(&mut self, at: usize, socket: SocketId, connect: &[u8]) {
        self.nodes[at].shard.accepted(socket, ListenerId(0), Peer::Unix);
        self.step(at, &[(socket, connect)]);
        self.step(at, &[]);
    }

    fn subscriber(&mut self, at: usize, socket: SocketId, filter: &str, qos: Qos) {
        self.client(at, socket, &format!("subscriber-{}", socket.0));
        self.step(at, &[(socket, &subscribe(1, filter, qos))]);
        self.settle();
    }
}

/// The packet identifier of a QoS 1 PUBLISH at the start of these bytes.
fn identifier(bytes: &[u8]) -> Option<u16> {
    let publish = bytes[0] & 0xF6 == 0x32 && bytes[1] < 0x80;
    let length = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
    let id = bytes.get(4 + length..6 + length).filter(|_| publish)?;
    Some(u16::from_be_bytes([id[0], id[1]]))
}

fn hello(name: &str) -> Vec<u8> {
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 0,
        client_id: name,
        username: None,
        password: None,
        will: None,
        bridge: false,
        properties: Default::default(),
    };
    let mut bytes = Vec::new();
    packet::encode_connect(&mut bytes, &connect).expect("it is small");
    bytes
}

fn subscribe(id: u16, filter: &str, qos: Qos) -> Vec<u8> {
    let options = packet::SubscribeOptions { qos, ..Default::default() };
    let mut raw = Vec::new();
    packet::SubscribeFilter { filter, options }.write(Version::V5, &mut raw).expect("it is small");
    let subscribe = Subscribe {
        id: PacketId::new(id).expect("not zero"),
        subscription_id: None,
        user: Default::default(),
        filters: packet::SubscribeFilters::parse(Version::V5, &raw).expect("valid"),
    };
    let mut bytes = Vec::new();
    packet::encode_subscribe(&mut bytes, Version::V5, &subscribe).expect("it is small");
    bytes
}

fn unsubscribe(id: u16, filter: &str) -> Vec<u8> {
    let mut raw = Vec::new();
    packet::UnsubscribeFilters::write(filter, &mut raw).expect("it is small");
    let unsubscribe = packet::Unsubscribe {
        id: PacketId::new(id).expect("not zero"),
        user: Default::default(),
        filters: packet::UnsubscribeFilters::parse(&raw).expect("valid"),
    };
    let mut bytes = Vec::new();
    packet::encode_unsubscribe(&mut bytes, Version::V5, &unsubscribe).expect("it is small");
    bytes
}

fn publish(topic: &str, qos: Qos, id: u16, count: usize) -> Vec<u8> {
    let publish = OutPublish {
        dup: false,
        qos,
        retain: false,
        topic,
        id: PacketId::new(id),
        message_expiry: None,
        topic_alias: None,
        subscription_ids: &[],
        forwarded: &[],
        payload: &[b'x'; 64],
    };
    let mut bytes = Vec::new();
    for _ in 0..count {
        packet::encode_publish(&mut bytes, Version::V5, &publish).expect("it is small");
    }
    bytes
}

const TOPIC: &str = "plant/7/line/3/speed";

/// Publishing at QoS 0 on shard 0 to `subscribers` on the last of `shards`.
fn publishing(shards: u8, subscribers: u32, each: usize, count: usize) {
    let mut world = World::new(shards);
    world.client(0, PUBLISHER, "publisher");
    let last = usize::from(shards) - 1;
    for number in 1..=subscribers {
        world.subscriber(last, SocketId(number), TOPIC, Qos::AtMostOnce);
    }
    let bytes = publish(TOPIC, Qos::AtMostOnce, 0, each);
    let before = world.written();
    for _ in 0..count / each {
        world.step(0, &[(PUBLISHER, &bytes)]);
        if last > 0 {
            world.step(last, &[]);
        }
    }
    world.settle();
    let least = count / each * each * subscribers as usize * 64;
    assert!(world.written() - before > least, "the messages did not go out");
}

fn acknowledged(count: usize) {
    let mut world = World::new(1);
    world.client(0, PUBLISHER, "publisher");
    let subscriber = SocketId(1);
    world.subscriber(0, subscriber, TOPIC, Qos::AtLeastOnce);
    let bytes = publish(TOPIC, Qos::AtLeastOnce, 7, 1);
    for _ in 0..count {
        world.nodes[0].ids.clear();
        world.step(0, &[(PUBLISHER, &bytes)]);
        let id = *world.nodes[0].ids.first().expect("the message goes out at once");
        let [high, low] = id.to_be_bytes();
        world.step(0, &[(subscriber, &[0x40, 2, high, low])]);
    }
}

fn subscribing(count: usize) {
    let mut world = World::new(1);
    world.client(0, PUBLISHER, "client");
    // Neither always the same filter, nor an index that is otherwise empty.
    let filter = |n: usize| format!("plant/{n}/line/3/speed");
    for n in 0..1000 {
        world.step(0, &[(PUBLISHER, &subscribe(1, &filter(n), Qos::AtLeastOnce))]);
    }
    let pair = |n| (subscribe(2, &filter(n), Qos::AtLeastOnce), unsubscribe(3, &filter(n)));
    let pairs: Vec<_> = (1000..1100).map(pair).collect();
    let before = world.written();
    for n in 0..count {
        let (subscribe, unsubscribe) = &pairs[n % pairs.len()];
        world.step(0, &[(PUBLISHER, subscribe)]);
        world.step(0, &[(PUBLISHER, unsubscribe)]);
    }
    world.settle();
    assert!(world.written() - before >= count * 12, "SUBACK and UNSUBACK for each");
}

fn connecting(count: usize) {
    let mut world = World::new(1);
    for number in 1..=1000 {
        world.client(0, SocketId(number), &format!("resident-{number}"));
    }
    let names: Vec<_> = (0..100).map(|n| hello(&format!("visitor-{n}"))).collect();
    let before = world.written();
    for n in 0..count {
        world.nodes[0].shard.accepted(PUBLISHER, ListenerId(0), Peer::Unix);
        world.step(0, &[(PUBLISHER, &names[n % names.len()])]);
        world.step(0, &[(PUBLISHER, &[0xE0, 0])]);
        world.step(0, &[]);
        assert!(world.nodes[0].closed.is_empty(), "a step closes, the next forgets");
    }
    assert!(world.written() - before >= count * 4, "a CONNACK for each");
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let count = arguments.get(1).and_then(|count| count.parse().ok());
    let (Some(operation), Some(count)) = (arguments.first(), count) else {
        OPERATIONS.iter().for_each(|(name, what)| println!("{name}\t{what}"));
        exit(if arguments.is_empty() { 0 } else { 2 });
    };
    match operation.as_str() {
        "publish-qos0" => publishing(1, 1, 1, count),
        "publish-qos0-busy" => publishing(1, 1, BUSY, count),
        "publish-qos1" => acknowledged(count),
        "publish-10" => publishing(1, 10, 1, count),
        "publish-across" => publishing(2, 1, 1, count),
        "publish-across-busy" => publishing(2, 1, BUSY, count),
        "subscribe" => subscribing(count),
        "connect" => connecting(count),
        unknown => {
            eprintln!("no operation {unknown}");
            exit(2);
        }
    }
}
