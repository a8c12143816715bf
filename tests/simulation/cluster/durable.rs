//! Nodes whose sessions survive their loss: what was acknowledged is there when another node has
//! adopted them, once, and not at the node that was lost when that is back.

use super::engine::{Faults, Network};
use super::upgrades::UpgradeEnd;
use super::whole::{Broker, Cluster, GIVE_UP, Guest, NODES, SHARDS, abilities};
use crate::net;
use crate::peer::{Got, hello, will};
use crate::rng::Rng;
use crate::scripted::fine;
use crate::settings::roomy;
use crate::storage::broker::{Store, read};
use crate::storage::{BOUNDS, SECRET};
use crate::world::{Plan, World, listener_state};
use ringmq::cluster::frame::Abilities;
use ringmq::cluster::junction::Junction;
use ringmq::cluster::node::{Node, NodePlan, WhenCutOff};
use ringmq::packet::{AckKind, Connect, ReasonCode};
use ringmq::session::pending::PendingBounds;
use ringmq::shard::{Settings, Storing};
use ringmq::storage::journal::WithoutStream;
use ringmq::storage::log::{Log, LogBounds};
use ringmq::storage::recovery;
use ringmq::time::Instant;
use std::collections::BTreeSet;

/// Seconds of a session.
pub(super) const EXPIRY: u32 = 1000;
/// Milliseconds since 1970 at the zero of all clocks.
const WALL: u64 = 1_000_000;
const GATHER: LogBounds = LogBounds { gather: 2000, segment: 128 << 10, ..BOUNDS };

pub fn simulate(seed: u64) {
    match seed % 6 {
        0 | 1 => a_lost_node_is_adopted(seed),
        2 => a_node_that_is_cut_off_is_adopted(seed),
        3 => an_adopter_dies(seed),
        4 => a_journal_is_bounded(seed),
        _ => without_the_stream_what_is_local_is_acknowledged(seed),
    }
}

/// Nodes with stores.
pub(super) struct Fleet {
    pub(super) cluster: Cluster,
    seed: u64,
    /// What nodes promise without the stream; `None` without `durable`.
    policy: Option<WithoutStream>,
    /// Numbers by which messages are told apart.
    next: u64,
    acknowledged: Vec<u64>,
    waiting: Vec<(u16, u64)>,
}

fn settings() -> Settings {
    let pending = PendingBounds { messages: 100_000, bytes: 1 << 30, ..roomy().pending };
    Settings { pending, session_expiry_max: 100_000, ..roomy() }
}

/// A node that goes on with these disks at that time.
fn broker(
    seed: u64,
    at: usize,
    stores: Vec<Store>,
    now: u64,
    policy: Option<WithoutStream>,
) -> Broker {
    let mut broker = without_stores(seed, at, now, policy);
    broker.stores = stores;
    for shard in 0..SHARDS {
        restore(&mut broker, at, shard, policy);
    }
    broker
}

/// A node that begins at that time, and has no disks yet.
fn without_stores(seed: u64, at: usize, now: u64, policy: Option<WithoutStream>) -> Broker {
    let (mut world, ends) = World::clustered(Plan {
        seed: seed * 16 + at as u64,
        shards: SHARDS,
        data: 8,
        control: 8,
        settings: settings(),
        faults: net::Faults { receive: 65_536, ..net::Faults::default() },
        listener_states: Vec::new(),
    });
    world.listener_states = vec![std::sync::Arc::new(listener_state(""))];
    world.advance(now - world.now);
    let plan = NodePlan {
        name: format!("node-{at}"),
        incarnation: (WALL + now) * 1000,
        shards: SHARDS as u8,
        window: 1 << 20,
        give_up: GIVE_UP,
        when_cut_off: WhenCutOff::Park,
        wills: 1 << 20,
        durable: policy.is_some(),
        // A node of before `durable` begins with sessions of its own.
        abilities: if policy.is_some() { Abilities::OWN } else { abilities(seed, at) },
    };
    let node = Node::new(plan, Instant(now));
    let shared = std::sync::Arc::clone(&world.shared);
    let junction = Junction::new(node, shared, SHARDS as u8, ends);
    Broker { world, junction, stores: Vec::new() }
}

/// The number of a shard's log.
fn log_of(at: usize, shard: usize) -> u64 {
    0xd0 + (at * SHARDS + shard) as u64 * 2
}

/// Gives the shards of a process that is to take a node's place its logs as they are.
fn take_stores(at: usize, stores: &[Store], new: &mut World, policy: Option<WithoutStream>) {
    for (shard, store) in stores.iter().enumerate() {
        let number = log_of(at, shard);
        let (recovered, mut image) = read(&store.disk, number);
        assert!(recovered.torn.is_none(), "everything is written");
        let mut log = Log::new(number, SECRET, GATHER, recovered.found);
        log.adopt(image.finish(SECRET));
        log.leave(recovered.unused);
        log.hold();
        let shard = &mut new.nodes[shard].shard;
        let own = (shard.id(), SHARDS as u8);
        let storing = Storing::new(log, SECRET, own, WALL, image.last);
        let storing = match policy {
            Some(policy) => storing.with_journal(policy),
            None => storing,
        };
        shard.store_with(storing.expecting(&image));
    }
}

fn restore(broker: &mut Broker, at: usize, shard: usize, policy: Option<WithoutStream>) {
    let store = &mut broker.stores[shard];
    let log = log_of(at, shard);
    let (recovered, mut image) = read(&store.disk, log);
    let wanted = recovered.found.segments.iter().map(|segment| segment.number).collect();
    store.disk.keep_only(&wanted);
    let mut log = Log::new(log, SECRET, GATHER, recovered.found);
    log.adopt(image.finish(SECRET));
    let disk = &store.disk;
    recovery::fill(&log, &mut image, &mut disk.reader()).expect("a disk that works");
    let now = broker.world.now;
    let node = &mut broker.world.nodes[shard];
    // What is restored counts from the start.
    node.shard.begin(Instant(now), now * 1000);
    node.listening = false;
    let own = (node.shard.id(), SHARDS as u8);
    let storing = Storing::new(log, SECRET, own, WALL, image.last);
    node.shard.store_with(match policy {
        Some(policy) => storing.with_journal(policy),
        None => storing,
    });
    node.shard.restore(image);
}

impl Fleet {
    pub(super) fn new(seed: u64, policy: WithoutStream) -> Fleet {
        Fleet::with(seed, Some(policy))
    }

    pub(super) fn with(seed: u64, policy: Option<WithoutStream>) -> Fleet {
        let names: Vec<String> = (0..NODES).map(|at| format!("node-{at}")).collect();
        let make = |at: usize| {
            let store = |shard: usize| Store::new(seed ^ ((at * SHARDS + shard) as u64 * 77));
            broker(seed, at, (0..SHARDS).map(store).collect(), 1000, policy)
        };
        let brokers = (0..NODES).map(make).collect();
        let cluster = Cluster::of(seed, brokers, Network::new(seed, names, Faults::default()));
        let (acknowledged, waiting) = (Vec::new(), Vec::new());
        let mut fleet = Fleet { cluster, seed, policy, next: 1, acknowledged, waiting };
        (0..NODES).for_each(|at| fleet.open(at));
        fleet
    }

    /// A node listens when it knows what is its own.
    fn open(&mut self, at: usize) {
        for _ in 0..60 {
            let world = &mut self.cluster.brokers[at].world;
            if world.nodes.iter().all(|node| node.shard.is_whole()) {
                world.open();
                return self.cluster.go(600);
            }
            self.cluster.go(200);
        }
        panic!("node {at} never listens");
    }

    pub(super) fn kill(&mut self, at: usize) {
        self.cluster.dead.insert(at);
        self.cluster.brokers[at].stores.iter_mut().for_each(Store::kill);
    }

    pub(super) fn restart(&mut self, at: usize) {
        let stores = std::mem::take(&mut self.cluster.brokers[at].stores);
        let now = self.cluster.now().0;
        self.cluster.brokers[at] = broker(self.seed, at, stores, now, self.policy);
        self.cluster.dead.remove(&at);
        self.open(at);
    }

    /// Another process takes a node's place, or fails. True when it serves.
    ///
    /// # Errors
    /// What the node still has under way after a while: it goes on.
    pub(super) fn upgrade(&mut self, at: usize, end: UpgradeEnd) -> Result<bool, &'static str> {
        let policy = self.policy;
        let mut new = without_stores(self.seed, at, self.cluster.now().0, policy);
        // It knows its listeners before clients come.
        new.world.open();
        let prepare = |stores: &[Store], world: &mut World| take_stores(at, stores, world, policy);
        self.cluster.replace(at, new, end, prepare)
    }

    /// A client that connects to that node, and has its CONNACK.
    pub(super) fn greet(&mut self, at: usize, connect: &Connect<'_>) -> Guest {
        let mut guest = self.cluster.begin(at, connect);
        let got = self.hear(&mut guest);
        assert!(matches!(got[..], [Got::ConnAck { .. }]), "{got:?}");
        guest
    }

    /// What a client is told next, which it waits for.
    pub(super) fn hear(&mut self, guest: &mut Guest) -> Vec<Got> {
        for _ in 0..100 {
            self.cluster.go(100);
            let got = guest.peer.hear(&mut self.cluster.brokers[guest.at].world);
            if !got.is_empty() {
                return got;
            }
        }
        panic!("no answer at node {}", guest.at);
    }

    pub(super) fn publish(&mut self, writer: &mut Guest, size: usize) {
        let mut payload = vec![0; 8 + size];
        payload[..8].copy_from_slice(&self.next.to_le_bytes());
        let id = (self.next % 60_000) as u16 + 1;
        writer.peer.publish(&mut self.cluster.brokers[writer.at].world, "m/a", &payload, 1, id);
        self.waiting.push((id, self.next));
        self.next += 1;
    }

    /// Notes which messages of the writer were acknowledged.
    pub(super) fn note(&mut self, writer: &mut Guest) {
        let world = &mut self.cluster.brokers[writer.at].world;
        for got in writer.peer.hear(world) {
            if let Got::Ack(_, id, _) = got
                && let Some(at) = self.waiting.iter().position(|waiting| waiting.0 == id)
            {
                self.acknowledged.push(self.waiting.remove(at).1);
            }
        }
    }

    /// A client comes back at a node, and has its session there.
    pub(super) fn resume(&mut self, at: usize, name: &str) -> (Guest, Vec<u64>) {
        let mut guest = self.cluster.begin(at, &hello(name, false, EXPIRY));
        let mut numbers = Vec::new();
        let mut present = None;
        for _ in 0..150 {
            self.cluster.go(100);
            let world = &mut self.cluster.brokers[at].world;
            for got in guest.peer.hear(world) {
                match got {
                    Got::ConnAck { present: known, reason } => {
                        assert_eq!(reason, ReasonCode::Success);
                        present = Some(known);
                    }
                    Got::Publish { payload, id, qos, .. } => {
                        numbers.push(u64::from_le_bytes(payload[..8].try_into().unwrap()));
                        if qos > 0 {
                            guest.peer.ack(world, AckKind::PubAck, id);
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(present, Some(true), "a session of {name} at node {at}");
        (guest, numbers)
    }

    /// Everything that was acknowledged has come, in order, and nothing twice.
    pub(super) fn check(&self, numbers: &[u64]) {
        let sorted = numbers.is_sorted_by(|a, b| a < b);
        assert!(sorted, "out of order, or twice: {numbers:?}");
        let came: BTreeSet<u64> = numbers.iter().copied().collect();
        let lost: Vec<_> = self.acknowledged.iter().filter(|n| !came.contains(n)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }

    /// Sessions that outlive their connections, at each node that is there.
    pub(super) fn sessions(&self) -> Vec<u64> {
        let there = (0..NODES).filter(|at| !self.cluster.dead.contains(at));
        let count = |at: usize| self.cluster.brokers[at].world.counters().sessions;
        there.map(count).collect()
    }

    pub(super) fn counts(&self, at: usize) -> ringmq::cluster::adoption::AdoptionCounts {
        self.cluster.brokers[at]
            .junction
            .node()
            .adoption(self.cluster.now())
            .expect("it is durable")
            .counts
    }

    /// Everything is at rest and accounted for.
    pub(super) fn end(&mut self) {
        self.cluster.network.faults = Faults::default();
        self.cluster.network.keeper.failing = 0;
        self.cluster.go(3000);
        for at in 0..NODES {
            if !self.cluster.dead.contains(&at) {
                let world = &mut self.cluster.brokers[at].world;
                world.settle();
                fine(world);
            }
        }
    }
}

/// A client with a session at that node, which wants what is published there.
pub(super) fn reader(fleet: &mut Fleet, at: usize, connect: &Connect<'_>) -> Guest {
    let mut reader = fleet.greet(at, connect);
    reader.peer.subscribe(&mut fleet.cluster.brokers[at].world, 1, "m/+", 1);
    let got = fleet.hear(&mut reader);
    assert!(matches!(got[..], [Got::SubAck(..)]), "{got:?}");
    reader
}

/// The node that adopts first.
pub(super) fn adopter(lost: usize) -> usize {
    usize::from(lost == 0)
}

/// A node dies in the middle of something. Its clients find their sessions at the node that adopts
/// them, with all that was acknowledged, wills are published once, and who began anew has nothing
/// of before. When the node is back it has no sessions.
fn a_lost_node_is_adopted(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xd0a);
    let mut fleet = Fleet::new(seed, WithoutStream::Wait);
    fleet.cluster.network.keeper.failing = rng.below(100);
    fleet.cluster.network.keeper.delay = rng.range(1, 20);
    let dies = rng.below(NODES);
    let to = adopter(dies);
    let other = 3 - dies - to;
    let mut watcher = fleet.cluster.client(to, "watcher");
    watcher.peer.subscribe(&mut fleet.cluster.brokers[to].world, 1, "will/#", 1);
    let connect = hello("reader", true, EXPIRY);
    let mut reader =
        reader(&mut fleet, dies, &Connect { will: Some(will("will/r", 0)), ..connect });
    if rng.chance(500) {
        reader.peer.goodbye(&mut fleet.cluster.brokers[dies].world);
    }
    let online = !reader.peer.is_closed(&fleet.cluster.brokers[dies].world);
    let anew = fleet.greet(dies, &hello("anew", true, EXPIRY));
    let mut writer = fleet.cluster.client(dies, "writer");
    for _ in 0..rng.range(20, 80) {
        let size = if rng.chance(100) { 30_000 } else { rng.below(300) };
        fleet.publish(&mut writer, size);
        fleet.cluster.go(rng.below(20) as u64);
        fleet.note(&mut writer);
    }
    fleet.kill(dies);
    drop(anew);
    fleet.cluster.go(rng.below(3000) as u64);
    // That node is not asked, or does not answer: nobody knows of its session.
    let _anew = fleet.greet(other, &hello("anew", true, EXPIRY));
    fleet.cluster.go(rng.below(3000) as u64);
    let (_reader, numbers) = fleet.resume(to, "reader");
    fleet.check(&numbers);
    assert_eq!(fleet.counts(to).damaged, 0);
    let heard = watcher.peer.hear(&mut fleet.cluster.brokers[to].world);
    let wills = heard.iter().filter(|got| matches!(got, Got::Publish { .. })).count();
    // A client that is back before the adoption is over is not gone.
    assert!(wills <= usize::from(online), "{wills} wills");
    let mut expected = [0, 0];
    expected[usize::from(to > other)] = 2; // the watcher and the reader
    expected[usize::from(to < other)] = 1; // the one that began anew
    assert_eq!(fleet.sessions(), expected, "sessions after node {dies} has died");
    fleet.restart(dies);
    fleet.cluster.go(5000);
    let world = &fleet.cluster.brokers[dies].world;
    assert_eq!(world.counters().sessions, 0, "sessions at the node that is back");
    let lock = fleet.cluster.network.keeper.key(&format!("adopt.node-{dies}"));
    assert!(lock.contains(&format!("node-{to}")) && lock.ends_with("done"), "{lock}");
    fleet.end();
}

/// A node that lives, but reaches neither the others nor the stream, acknowledges nothing that an
/// adopter does not have, and its sessions end when it is back.
fn a_node_that_is_cut_off_is_adopted(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xd0b);
    let mut fleet = Fleet::new(seed, WithoutStream::Wait);
    let cut = rng.below(NODES);
    let to = adopter(cut);
    let mut old = reader(&mut fleet, cut, &hello("reader", true, EXPIRY));
    let mut writer = fleet.cluster.client(cut, "writer");
    for _ in 0..20 {
        fleet.publish(&mut writer, rng.below(300));
        fleet.cluster.go(rng.below(20) as u64);
        fleet.note(&mut writer);
    }
    fleet.cluster.network.apart[cut] = true;
    // In some runs it reaches the stream for longer than the others, but not until it is lost.
    let later = if rng.chance(500) { rng.below(2000) as u64 } else { 0 };
    for at in 0..100 {
        if at * 50 >= later && fleet.cluster.network.keeper.unreached.is_empty() {
            fleet.cluster.network.keeper.unreached.push(cut);
        }
        fleet.publish(&mut writer, rng.below(300));
        fleet.cluster.go(50);
        fleet.note(&mut writer);
    }
    let (_reader, numbers) = fleet.resume(to, "reader");
    fleet.check(&numbers);
    fleet.cluster.network.apart[cut] = false;
    fleet.cluster.network.keeper.unreached.clear();
    fleet.cluster.go(8000);
    let world = &mut fleet.cluster.brokers[cut].world;
    let last = old.peer.hear(world).pop();
    assert_eq!(last, Some(Got::Disconnect(ReasonCode::SessionTakenOver)));
    // The writer, if that is left.
    assert!(world.counters().sessions <= 1, "sessions at the node that was cut off");
    // What waited for the stream is not acknowledged later.
    fleet.note(&mut writer);
    fleet.check(&numbers);
    fleet.end();
}

/// The adopter dies in the middle of it: the next one goes on, and has the sessions of both.
fn an_adopter_dies(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xd0c);
    let mut fleet = Fleet::new(seed, WithoutStream::Wait);
    fleet.cluster.network.keeper.delay = rng.range(1, 12);
    let mut readers = Vec::new();
    for (at, name) in [(0, "first"), (0, "second"), (1, "third")] {
        readers.push(reader(&mut fleet, at, &hello(name, true, EXPIRY)));
    }
    let mut writer = fleet.cluster.client(0, "writer");
    for _ in 0..60 {
        fleet.publish(&mut writer, rng.below(3000));
        fleet.cluster.go(rng.below(10) as u64);
        fleet.note(&mut writer);
    }
    fleet.cluster.go(1000);
    fleet.kill(0);
    fleet.cluster.go(2500 + rng.below(1500) as u64);
    fleet.kill(1);
    let (_first, numbers) = fleet.resume(2, "first");
    fleet.check(&numbers);
    let (_second, numbers) = fleet.resume(2, "second");
    fleet.check(&numbers);
    let _third = fleet.resume(2, "third");
    assert_eq!(fleet.sessions(), [3], "sessions at the last node");
    fleet.restart(0);
    fleet.restart(1);
    fleet.cluster.go(8000);
    assert_eq!(fleet.sessions(), [0, 0, 3], "sessions when all are back");
    fleet.end();
}

/// What is stored comes and goes: the journal keeps about as much as the log, and what it keeps is
/// enough.
fn a_journal_is_bounded(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xd0d);
    let mut fleet = Fleet::new(seed, WithoutStream::Wait);
    let _old = reader(&mut fleet, 0, &hello("reader", true, EXPIRY));
    let mut busy = reader(&mut fleet, 0, &hello("busy", true, EXPIRY));
    let mut writer = fleet.cluster.client(0, "writer");
    for _ in 0..20 {
        fleet.publish(&mut writer, 2000);
        fleet.cluster.go(5);
    }
    let restarts = rng.chance(500);
    // What the first one waits for stays; the second one has its messages at once.
    let mut most = 0;
    for round in 0..300 {
        let world = &mut fleet.cluster.brokers[0].world;
        writer.peer.publish(world, "busy/a", &[1; 9000], 1, 60_001);
        if round == 0 {
            busy.peer.subscribe(world, 2, "busy/+", 1);
        }
        fleet.cluster.go(20);
        fleet.note(&mut writer);
        fleet.cluster.numbers(0, &mut busy.peer);
        most = most.max(fleet.cluster.network.keeper.bytes("node-0"));
    }
    assert!(most < 1_600_000, "{most} bytes are kept of a log that is smaller");
    if restarts {
        fleet.kill(0);
        fleet.restart(0);
    }
    fleet.kill(0);
    let (_reader, numbers) = fleet.resume(1, "reader");
    assert_eq!(fleet.counts(1).damaged, 0);
    fleet.check(&numbers);
    fleet.end();
}

/// With `local`, what is durable at the node is acknowledged when the stream has been out for a
/// while; CONNECT goes on; and when the stream is back it gets everything.
fn without_the_stream_what_is_local_is_acknowledged(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xd0e);
    let mut fleet = Fleet::new(seed, WithoutStream::Local);
    let _old = reader(&mut fleet, 0, &hello("reader", true, EXPIRY));
    let mut writer = fleet.cluster.client(0, "writer");
    fleet.cluster.network.keeper.hangs = true;
    for _ in 0..20 {
        fleet.publish(&mut writer, rng.below(300));
    }
    fleet.cluster.go(1000);
    fleet.note(&mut writer);
    assert_eq!(fleet.acknowledged.len(), 0, "acknowledged at once");
    fleet.cluster.go(2000);
    fleet.note(&mut writer);
    assert_eq!(fleet.acknowledged.len(), 20, "acknowledged without the stream");
    let _new = fleet.greet(0, &hello("new", true, EXPIRY));
    fleet.cluster.network.keeper.hangs = false;
    fleet.cluster.go(8000);
    fleet.kill(0);
    let (_reader, numbers) = fleet.resume(1, "reader");
    fleet.check(&numbers);
    fleet.end();
}
