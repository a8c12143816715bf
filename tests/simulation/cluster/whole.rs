//! Whole brokers of two shards each that are nodes of one cluster: clients publish at each and
//! subscribe at others.

use super::engine::{Faults, Network, Wire};
use crate::net;
use crate::peer::{Got, Peer, hello};
use crate::rng::Rng;
use crate::scripted::fine;
use crate::settings::roomy;
use crate::storage::broker::Store;
use crate::world::{Plan, World, listener_state};
use ringmq::cluster::frame::Abilities;
use ringmq::cluster::junction::{Junction, JunctionEnvironment};
use ringmq::cluster::keeping::{KeepAsker, KeepReply};
use ringmq::cluster::node::{Node, NodePlan, WhenCutOff};
use ringmq::ids::ShardId;
use ringmq::packet::{AckKind, Connect};
use ringmq::shard::{Settings, Span, SpanKind, Via};
use ringmq::time::Instant;
use std::collections::BTreeSet;

pub const SHARDS: usize = 2;
pub const NODES: usize = 3;
pub const GIVE_UP: u64 = 4000;

/// What nodes can do: in every third run, one is of the release before formats and levels.
pub fn abilities(seed: u64, at: usize) -> Abilities {
    let old = seed.is_multiple_of(3) && (seed / 3) as usize % NODES == at;
    if old { Abilities::LEAST } else { Abilities::OWN }
}

pub struct Bells<'a>(pub &'a mut World);

impl JunctionEnvironment for Bells<'_> {
    fn stamp(&mut self) -> u64 {
        self.0.stamp()
    }

    fn ring(&mut self, shard: ShardId) {
        self.0.wake(usize::from(shard.0));
    }
}

pub struct Broker {
    pub world: World,
    pub junction: Junction,
    /// The disks of its shards, if it stores anything.
    pub stores: Vec<Store>,
}

impl Broker {
    /// The broker of one of the nodes, with so many shards, that window, and that incarnation.
    pub fn new(
        seed: u64,
        at: usize,
        (shards, window, incarnation): (usize, usize, u64),
        abilities: Abilities,
        settings: Settings,
    ) -> Broker {
        let (world, ends) = World::clustered(Plan {
            seed: seed * 16 + at as u64,
            shards,
            data: 8,
            control: 8,
            settings,
            faults: net::Faults { receive: 65_536, ..net::Faults::default() },
            listener_states: vec![listener_state("")],
        });
        let plan = NodePlan {
            name: format!("node-{at}"),
            incarnation,
            shards: shards as u8,
            window,
            give_up: GIVE_UP,
            when_cut_off: WhenCutOff::Park,
            wills: 1 << 20,
            durable: false,
            abilities,
        };
        let node = Node::new(plan, Instant(world.now));
        let shared = std::sync::Arc::clone(&world.shared);
        let junction = Junction::new(node, shared, shards as u8, ends);
        Broker { junction, world, stores: Vec::new() }
    }
}

/// A client, and the node that it is connected to.
pub struct Guest {
    pub at: usize,
    pub peer: Peer,
}

pub struct Cluster {
    pub brokers: Vec<Broker>,
    pub network: Network,
    now: u64,
    pub seed: u64,
    disks: Rng,
    /// Nodes that do nothing: any more, or yet.
    pub dead: BTreeSet<usize>,
    /// The node whose place another process takes.
    pub replaced: Option<Replaced>,
}

/// A node whose place another process takes, and what has come for it.
pub struct Replaced {
    pub at: usize,
    pub frames: Vec<Vec<u8>>,
    pub answers: Vec<(KeepAsker, KeepReply)>,
}

impl Cluster {
    pub fn new(seed: u64, faults: Faults, window: usize) -> Cluster {
        Cluster::with(seed, faults, window, roomy())
    }

    /// The same with these settings at each node.
    pub fn with(seed: u64, faults: Faults, window: usize, settings: Settings) -> Cluster {
        let names: Vec<String> = (0..NODES).map(|at| format!("node-{at}")).collect();
        let broker = |at| {
            let (run, can) = ((SHARDS, window, 1), abilities(seed, at));
            Broker::new(seed, at, run, can, settings.clone())
        };
        let brokers: Vec<Broker> = (0..NODES).map(broker).collect();
        let network = Network::new(seed, names, faults);
        Cluster::of(seed, brokers, network)
    }

    pub fn of(seed: u64, brokers: Vec<Broker>, network: Network) -> Cluster {
        let disks = Rng::new(seed ^ 0xd15c5);
        let (now, dead) = (brokers[0].world.now, BTreeSet::new());
        Cluster { now, seed, brokers, network, disks, dead, replaced: None }
    }

    pub fn now(&self) -> Instant {
        Instant(self.now)
    }

    /// Lets everybody act for so long.
    pub fn go(&mut self, millis: u64) {
        let until = self.now + millis;
        while self.now < until {
            for (at, frame) in self.network.arrived(self.now) {
                match &mut self.replaced {
                    Some(replaced) if replaced.at == at => replaced.frames.push(frame),
                    _ if self.dead.contains(&at) => {}
                    _ => self.brokers[at].junction.received(&frame, Instant(self.now)),
                }
            }
            for (at, asker, reply) in self.network.keeper.answers(self.now) {
                match &mut self.replaced {
                    Some(replaced) if replaced.at == at => replaced.answers.push((asker, reply)),
                    _ if self.dead.contains(&at) => {}
                    _ => self.brokers[at].junction.kept(asker, reply, Instant(self.now)),
                }
            }
            for at in 0..NODES {
                let replaced = self.replaced.as_ref().is_some_and(|node| node.at == at);
                if !self.dead.contains(&at) && !replaced {
                    self.turn(at);
                }
            }
            self.now += 1;
            self.brokers.iter_mut().for_each(|broker| broker.world.advance(1));
        }
    }

    /// The disks of a broker's shards go on.
    pub fn turn_disks(&mut self, world: &mut World, stores: &mut [Store]) {
        for (shard, store) in stores.iter_mut().enumerate() {
            if store.go_on(&mut world.nodes[shard].shard, &mut self.disks, 900) {
                world.wake(shard);
            }
        }
    }

    fn turn(&mut self, at: usize) {
        let Broker { world, junction, stores } = &mut self.brokers[at];
        for (shard, store) in stores.iter_mut().enumerate() {
            if store.go_on(&mut world.nodes[shard].shard, &mut self.disks, 900) {
                world.wake(shard);
            }
        }
        for _ in 0..2 {
            // Shards that wait for a window look again and again.
            for _ in 0..12 {
                let Some(pick) = world.pick_awake() else { break };
                world.step(pick);
            }
            let wire = &mut Wire { network: &mut self.network, from: at, now: self.now };
            junction.step(Instant(self.now), wire, &mut Bells(world));
        }
    }

    /// A client of that node.
    pub fn client(&mut self, at: usize, name: &str) -> Guest {
        self.greet(at, &hello(name, true, 0))
    }

    /// A client that connects to that node, and has its CONNACK.
    pub fn greet(&mut self, at: usize, connect: &Connect<'_>) -> Guest {
        let mut guest = self.begin(at, connect);
        // As long as claims may take, and a little more.
        self.go(200);
        let got = guest.peer.hear(&mut self.brokers[at].world);
        assert!(matches!(got[..], [Got::ConnAck { .. }]), "{got:?}");
        guest
    }

    /// A client that has sent its CONNECT to that node.
    pub fn begin(&mut self, at: usize, connect: &Connect<'_>) -> Guest {
        let world = &mut self.brokers[at].world;
        let mut peer = Peer::silent(world, at % world.nodes.len(), 1 << 20);
        peer.begin(world, connect);
        Guest { at, peer }
    }

    /// The spans that a node has recorded since they were last taken.
    fn spans(&mut self, at: usize) -> Vec<Span> {
        let world = &mut self.brokers[at].world;
        (0..world.nodes.len())
            .flat_map(|shard| world.inquire(shard, |s| s.take_spans()).0)
            .collect()
    }

    /// The numbers that a client was sent, each of which it acknowledges.
    pub fn numbers(&mut self, at: usize, peer: &mut Peer) -> Vec<u64> {
        let world = &mut self.brokers[at].world;
        let mut numbers = Vec::new();
        for got in peer.hear(world) {
            let Got::Publish { payload, id, qos, .. } = got else { continue };
            numbers.push(u64::from_le_bytes(payload[..8].try_into().unwrap()));
            if qos > 0 {
                peer.ack(world, AckKind::PubAck, id);
            }
        }
        numbers
    }
}

pub fn simulate(seed: u64) {
    messages_cross_once(seed);
    what_crosses_is_received_at_each_node(seed);
    what_is_published_after_suback_comes(seed);
    a_node_under_load_is_settled(seed);
    if seed % 3 == 1 {
        a_full_window_makes_publishers_wait(seed);
        a_node_that_dies_is_swept(seed);
    }
}

/// That a node has been told everything shows while messages and changes of filters are under way.
fn a_node_under_load_is_settled(seed: u64) {
    let mut cluster = Cluster::new(seed, Faults { usual: 25, ..Faults::default() }, 1 << 20);
    let mut reader = cluster.client(1, "reader");
    let mut writer = cluster.client(0, "writer");
    reader.peer.subscribe(&mut cluster.brokers[1].world, 1, "m/+", 1);
    cluster.go(2000);
    let mut busy = 0;
    for number in 0..60_u16 {
        writer.peer.publish(&mut cluster.brokers[0].world, "m/a", &[0; 8], 1, number + 1);
        let filter = format!("other/{number}");
        reader.peer.subscribe(&mut cluster.brokers[1].world, number + 2, &filter, 1);
        cluster.go(5);
        for broker in &cluster.brokers {
            let (_, peers) = broker.junction.node().status(cluster.now());
            busy += peers.iter().filter(|peer| peer.window > 0).count();
            assert!(peers.iter().all(|peer| peer.settled), "{peers:?}");
        }
        cluster.numbers(1, &mut reader.peer);
    }
    assert!(busy > 30, "messages were under way {busy} times");
}

/// Every subscriber at every node gets each message once, in order, whatever frames suffer.
fn messages_cross_once(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xb20);
    let faults = Faults {
        lost: rng.below(120),
        doubled: rng.below(120),
        delayed: rng.below(300),
        delay: rng.range(1, 30),
        usual: 1,
        changed: 0,
    };
    let mut cluster = Cluster::new(seed, faults, 1 << 20);
    let mut peers: Vec<Peer> =
        (0..NODES).map(|at| cluster.client(at, &format!("client-{at}")).peer).collect();
    for (at, peer) in peers.iter_mut().enumerate() {
        // The third wants what two filters match, at both QoS.
        let filters = [&["m/+"][..], &["m/a", "m/b"], &["#", "m/#"]][at];
        for (number, filter) in filters.iter().enumerate() {
            let world = &mut cluster.brokers[at].world;
            peer.subscribe(world, number as u16 + 1, filter, 1);
        }
    }
    cluster.go(2000);
    let count = 60;
    let mut came = vec![Vec::new(); NODES];
    for number in 0..count {
        let at = rng.below(NODES);
        let topic = if rng.chance(500) { "m/a" } else { "m/b" };
        let mut payload = vec![0; 8 + if rng.chance(100) { 20_000 } else { rng.below(200) }];
        payload[..8].copy_from_slice(&((number as u64) << 8 | at as u64).to_le_bytes());
        let qos = u8::from(rng.chance(700));
        let world = &mut cluster.brokers[at].world;
        peers[at].publish(world, topic, &payload, qos, number as u16 + 1);
        cluster.go(rng.below(20) as u64);
        for at in 0..NODES {
            let numbers = cluster.numbers(at, &mut peers[at]);
            came[at].extend(numbers);
        }
    }
    cluster.network.faults = Faults::default();
    cluster.go(3000);
    for at in 0..NODES {
        let numbers = cluster.numbers(at, &mut peers[at]);
        came[at].extend(numbers);
        for from in 0..NODES as u64 {
            let of: Vec<u64> = came[at].iter().copied().filter(|n| n & 0xff == from).collect();
            assert!(of.is_sorted_by(|a, b| a < b), "of node {from} at node {at}: {of:?}");
        }
        assert_eq!(came[at].len(), count, "messages at node {at}");
    }
    // Nobody wants anything any more: nothing crosses.
    for (at, peer) in peers.iter_mut().enumerate() {
        peer.end(&mut cluster.brokers[at].world, net::End::Fin);
    }
    cluster.go(1000);
    for broker in &mut cluster.brokers {
        broker.world.settle();
        fine(&broker.world);
        assert!(broker.world.shared.interest.is_empty(), "interest keys are left");
    }
}

/// A sampled message has a receipt at its own node and at each other one that it comes to: a part
/// of its routing, with the name of the node that it comes from. Nodes that want nothing have none.
fn what_crosses_is_received_at_each_node(seed: u64) {
    let settings = Settings { spans: Some(1.0), ..roomy() };
    let mut cluster = Cluster::with(seed, Faults::default(), 1 << 20, settings);
    let mut readers: Vec<Guest> =
        [0, 1].map(|at| cluster.client(at, &format!("reader-{at}"))).into_iter().collect();
    for Guest { at, peer } in &mut readers {
        peer.subscribe(&mut cluster.brokers[*at].world, 1, "m/+", 1);
    }
    let mut writer = cluster.client(0, "writer").peer;
    cluster.go(1000);
    let mut spans: Vec<Vec<Span>> = (0..NODES).map(|at| cluster.spans(at)).collect();
    assert!(spans.iter().all(Vec::is_empty), "{spans:?}");
    writer.publish(&mut cluster.brokers[0].world, "m/a", &[0; 8], 1, 1);
    cluster.go(300);
    spans = (0..NODES).map(|at| cluster.spans(at)).collect();
    let of = |at: usize, kind: SpanKind| {
        let all: Vec<&Span> = spans[at].iter().filter(|span| span.kind == kind).collect();
        assert!(all.len() <= 1, "node {at}: {all:?}");
        all.first().copied()
    };
    let (first, route) = (of(0, SpanKind::Receive).unwrap(), of(0, SpanKind::Route).unwrap());
    assert_eq!((first.via.clone(), &*first.client_id), (None, "writer"));
    let second = of(1, SpanKind::Receive).expect("a receipt at the other node");
    assert_eq!(second.via, Some(Via::Node("node-0".into())));
    assert_eq!((second.trace, second.parent), (first.trace, Some(route.id)));
    assert_eq!((&*second.topic, second.qos, second.payload), ("m/a", 1, 8));
    for at in [0, 1] {
        assert_eq!(of(at, SpanKind::Deliver).unwrap().parent, Some(route.id));
    }
    assert_eq!(spans[2], [], "it wants nothing");
}

/// A message that is published anywhere after SUBACK comes, however long frames are under way; and
/// a node that does not answer makes nobody wait for ever.
fn what_is_published_after_suback_comes(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x5ac);
    let slow = Faults { delayed: 1000, delay: 25, ..Faults::default() };
    let mut cluster = Cluster::new(seed, slow, 1 << 20);
    let mut writers: Vec<Guest> =
        (0..NODES).map(|at| cluster.client(at, &format!("writer-{at}"))).collect();
    let mut readers: Vec<Guest> =
        (0..NODES).map(|at| cluster.client(at, &format!("reader-{at}"))).collect();
    cluster.go(2000);
    for number in 1..30u16 {
        let (at, from) = (rng.below(NODES), rng.below(NODES));
        let topic = format!("m/{number}");
        let reader = &mut readers[at].peer;
        let filters = vec![topic.clone(); if rng.chance(300) { 200 } else { 1 }];
        reader.subscribe_all(&mut cluster.brokers[at].world, number, &filters, 1);
        for round in 0.. {
            cluster.go(1);
            if !reader.hear(&mut cluster.brokers[at].world).is_empty() {
                break;
            }
            assert!(round < 1000, "no SUBACK");
        }
        let world = &mut cluster.brokers[from].world;
        writers[from].peer.publish(world, &topic, &[0; 8], 1, number);
        cluster.go(200);
        assert_eq!(cluster.numbers(at, reader), [0], "from node {from} to node {at}");
    }
    let unanswered = |broker: &Broker| broker.junction.node().status(Instant(0)).0.unanswered;
    assert_eq!(cluster.brokers.iter().map(unanswered).sum::<u64>(), 0);
    cluster.dead.insert(2);
    readers[0].peer.subscribe(&mut cluster.brokers[0].world, 100, "n", 1);
    cluster.go(300);
    assert!(readers[0].peer.hear(&mut cluster.brokers[0].world).is_empty(), "an early SUBACK");
    cluster.go(200);
    assert_eq!(readers[0].peer.hear(&mut cluster.brokers[0].world).len(), 1);
    assert_eq!(unanswered(&cluster.brokers[0]), 1);
}

/// PUBACK is not sent before the window has the message; when it has room again, it is.
fn a_full_window_makes_publishers_wait(seed: u64) {
    let mut cluster = Cluster::new(seed, Faults::default(), 64 << 10);
    let mut reader = cluster.client(1, "reader").peer;
    reader.subscribe(&mut cluster.brokers[1].world, 1, "m", 1);
    let mut writer = cluster.client(0, "writer").peer;
    cluster.go(2000);
    reader.hear(&mut cluster.brokers[1].world);
    cluster.network.hangs = true;
    let count: u16 = 400;
    for number in 1..=count {
        let mut payload = vec![0; 4000];
        payload[..8].copy_from_slice(&u64::from(number).to_le_bytes());
        writer.publish(&mut cluster.brokers[0].world, "m", &payload, 1, number);
    }
    cluster.go(3000);
    let world = &mut cluster.brokers[0].world;
    let acknowledged = writer.hear(world).len();
    assert!((10..count.into()).contains(&acknowledged), "{acknowledged} acknowledged");
    let window = cluster.brokers[0].junction.node().status(Instant(cluster.now)).1[0].window;
    assert!((60 << 10..90 << 10).contains(&window), "a window of {window} bytes");
    cluster.network.hangs = false;
    let mut came = Vec::new();
    for _ in 0..60 {
        cluster.go(100);
        came.extend(cluster.numbers(1, &mut reader));
    }
    assert_eq!(came, (1..=u64::from(count)).collect::<Vec<_>>());
    let acknowledged = acknowledged + writer.hear(&mut cluster.brokers[0].world).len();
    assert_eq!(acknowledged, usize::from(count));
}

/// What a node wanted that is gone is wanted no more within three seconds, and its messages are
/// counted.
fn a_node_that_dies_is_swept(seed: u64) {
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    let mut reader = cluster.client(2, "reader").peer;
    let filters: Vec<String> = (0..300).map(|n| format!("m/{n}/#")).collect();
    reader.subscribe_all(&mut cluster.brokers[2].world, 1, &filters, 1);
    let mut writer = cluster.client(0, "writer").peer;
    cluster.go(2000);
    assert_eq!(cluster.brokers[0].world.shared.interest.len(), filters.len());
    cluster.dead.insert(2);
    writer.publish(&mut cluster.brokers[0].world, "m/7/x", b"lost", 1, 1);
    cluster.go(3000);
    assert_eq!(cluster.brokers[0].world.shared.interest.len(), 0);
    assert_eq!(writer.hear(&mut cluster.brokers[0].world).len(), 1, "PUBACK");
    cluster.go(GIVE_UP + 1000);
    let (counts, peers) = cluster.brokers[0].junction.node().status(Instant(cluster.now));
    assert_eq!((counts.peers.lost, peers.len()), (1, 1));
}
