//! A node's process is replaced by another one in the middle of traffic ([`crate::upgrade`]), with
//! another number of shards, or the other one fails and the old one goes on. Neither clients nor
//! other nodes notice: every message comes once and in order, also those of share groups, retained
//! messages stay the same at all nodes, sessions go where their clients go, and no will is
//! published before its client is gone.

use super::engine::{Faults, Wire};
use super::whole::{Bells, Broker, Cluster, Guest, NODES, Replaced};
use crate::net::End;
use crate::peer::{Got, hello, will};
use crate::rng::Rng;
use crate::scripted::fine;
use crate::storage::broker::Store;
use crate::upgrade::patient;
use crate::world::World;
use ringmq::cluster::frame::Abilities;
use ringmq::cluster::junction::Junction;
use ringmq::cluster::node::PeerStatus;
use ringmq::packet::{AckKind, Connect, Will};
use ringmq::time::Instant;
use std::collections::BTreeMap;

const WINDOW: usize = 64 << 10;
const GROUP: &str = "$share/workers/s/+";
/// Messages of each publisher.
const COUNT: u64 = 240;

/// How an upgrade ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UpgradeEnd {
    /// The new process serves.
    Serves,
    /// The new process dies before it serves.
    Fails,
    /// The old process dies when it has sent so many pieces.
    Dies(usize),
}

impl Cluster {
    /// Another process with so many shards takes a node's place. Others go on. True when the other
    /// process serves.
    fn upgrade(&mut self, at: usize, shards: usize, end: UpgradeEnd) -> bool {
        // It can do all, whatever the former one can.
        let run = (shards, WINDOW, 2);
        let new = Broker::new(self.seed, at, run, Abilities::OWN, patient());
        self.replace(at, new, end, |_, _| {}).expect("it comes to rest")
    }

    /// The process of a new broker takes a node's place, with what `prepare` gives it of the disks
    /// of its shards. True when that process serves.
    ///
    /// # Errors
    /// What the node still has under way after a while: it goes on.
    pub(super) fn replace(
        &mut self,
        at: usize,
        new: Broker,
        end: UpgradeEnd,
        prepare: impl FnOnce(&[Store], &mut World),
    ) -> Result<bool, &'static str> {
        let vacant = Broker::new(self.seed, at, (1, WINDOW, 0), Abilities::LEAST, patient());
        let mut old = std::mem::replace(&mut self.brokers[at], vacant);
        self.replaced = Some(Replaced { at, frames: Vec::new(), answers: Vec::new() });
        let (mut junction, mut world) = (new.junction, new.world);
        junction.wait();
        world.junction = Some(junction);
        let mut successor = old.world.successor_in(world);
        if old.world.steps.is_multiple_of(2) {
            old.world.copy_to(&mut successor, usize::MAX);
        }
        if let Err(why) = self.bring_to_rest(at, &mut old) {
            old.world.go_on_resting();
            old.junction.serve(self.now());
            self.replaced = None;
            self.brokers[at] = old;
            return Err(why);
        }
        let before = figures(&old.junction);
        successor.node = Some(Box::new(old.junction.pack()));
        let (cluster, junction) = (&mut *self, &mut old.junction);
        // Others go on all the time; the old one says that it is there.
        let beside = &mut |world: &mut World| {
            cluster.go(20);
            world.advance(20);
            let wire = &mut Wire { network: &mut cluster.network, from: at, now: world.now };
            junction.step(Instant(world.now), wire, &mut Bells(world));
        };
        let done = match end {
            UpgradeEnd::Dies(pieces) => old.world.die_handing_over(successor, pieces),
            _ => {
                let (fails, stores) = (end == UpgradeEnd::Fails, &old.stores);
                let prepare = |world: &mut World| prepare(stores, world);
                old.world.hand_over_to(successor, fails, beside, prepare)
            }
        };
        assert_eq!(done, end != UpgradeEnd::Fails);
        if done {
            old.junction = old.world.junction.take().expect("that of the new process");
            old.stores.iter_mut().for_each(Store::forget);
        }
        let after = figures(&old.junction);
        assert!(after.iter().zip(before).all(|(after, before)| *after >= before), "{after:?}");
        old.junction.serve(self.now());
        self.replaced = None;
        self.brokers[at] = old;
        Ok(done)
    }

    /// A node's shards and its cluster's thread finish what is under way, while others go on.
    fn bring_to_rest(&mut self, at: usize, old: &mut Broker) -> Result<(), &'static str> {
        let Broker { world, junction, stores } = old;
        junction.rest();
        let mut busy = None;
        for _ in 0..400 {
            let cluster = &mut *self;
            let beside = &mut |world: &mut World| {
                cluster.go(1);
                world.advance(1);
                let replaced = cluster.replaced.as_mut().expect("it is being replaced");
                let frames = std::mem::take(&mut replaced.frames);
                let answers = std::mem::take(&mut replaced.answers);
                for frame in frames {
                    junction.received(&frame, cluster.now());
                }
                for (asker, reply) in answers {
                    junction.kept(asker, reply, cluster.now());
                }
                cluster.turn_disks(world, stores);
                let wire = &mut Wire { network: &mut cluster.network, from: at, now: world.now };
                junction.step(Instant(world.now), wire, &mut Bells(world));
                busy = junction.resting().under_way;
            };
            if !world.rest(beside) {
                return Err(world.under_way().unwrap_or("mail between shards"));
            }
            if busy.is_none() {
                return Ok(());
            }
        }
        Err(busy.unwrap_or_default())
    }

    /// The others have never seen a node go, and nothing was lost or told wrongly.
    fn nobody_has_noticed(&self) {
        for (at, broker) in self.brokers.iter().enumerate() {
            let (counts, peers) = broker.junction.node().status(self.now());
            assert_eq!(peers.len(), NODES - 1, "nodes that node {at} knows");
            for PeerStatus { name, incarnation, up, counts, .. } in &peers {
                assert!(*up && *incarnation == 1, "{name} as node {at} sees it");
                assert_eq!((counts.lost, counts.disagreements, counts.malformed), (0, 0, 0));
            }
            assert_eq!(counts.wills.published, 0, "wills of clients that are there");
        }
    }
}

/// What a node has counted that only grows.
fn figures(junction: &Junction) -> [u64; 6] {
    let (counts, _) = junction.node().status(Instant(0));
    let (claims, _) = junction.node().claims();
    [
        counts.frames_sent,
        counts.frames_received,
        counts.peers.sent,
        counts.peers.received,
        claims.claims,
        claims.went,
    ]
}

/// What one client has had.
#[derive(Default)]
struct Heard {
    /// The numbers of each publisher's messages of each QoS: the order of the two is not owed.
    numbers: BTreeMap<(u64, u8), Vec<u64>>,
    wills: Vec<String>,
}

impl Heard {
    fn hear(&mut self, cluster: &mut Cluster, guest: &mut Guest) {
        let world = &mut cluster.brokers[guest.at].world;
        for got in guest.peer.hear(world) {
            let Got::Publish { topic, payload, id, qos, dup, .. } = got else { continue };
            assert!(!dup, "no connection broke");
            if qos > 0 {
                guest.peer.ack(world, AckKind::PubAck, id);
            }
            if topic.starts_with("will/") {
                self.wills.push(topic);
                continue;
            }
            let word = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
            self.numbers.entry((word(0), qos)).or_default().push(word(8));
        }
    }
}

fn payload(publisher: u64, number: u64, rng: &mut Rng) -> Vec<u8> {
    let length = 16 + if rng.chance(60) { 20_000 } else { rng.below(300) };
    let mut payload = vec![0; length];
    payload[..8].copy_from_slice(&publisher.to_le_bytes());
    payload[8..16].copy_from_slice(&number.to_le_bytes());
    payload
}

pub fn simulate(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x0b9_6ade);
    let faults = Faults {
        lost: if seed.is_multiple_of(3) { rng.below(60) } else { 0 },
        doubled: rng.below(60),
        delayed: rng.below(200),
        delay: rng.range(1, 20),
        usual: 1,
        changed: 0,
    };
    let mut cluster = Cluster::with(seed, faults, WINDOW, patient());
    cluster.go(1500);
    // At each node a reader, a member of a share group and a publisher, each of them with a will.
    let mut guests: Vec<Guest> = Vec::new();
    for role in ["reader", "member", "writer"] {
        for at in 0..NODES {
            let name = format!("{role}-{at}");
            let topic = format!("will/{name}");
            let will = Will { retain: false, ..will(&topic, 0) };
            let connect = Connect { will: Some(will), ..hello(&name, true, 0) };
            guests.push(cluster.greet(at, &connect));
        }
    }
    for guest in &mut guests[..2 * NODES] {
        let world = &mut cluster.brokers[guest.at].world;
        guest.peer.subscribe(world, 1, "m/+", 1);
    }
    for (number, guest) in guests[..2 * NODES].iter_mut().enumerate() {
        let world = &mut cluster.brokers[guest.at].world;
        let filter = if number < NODES { "will/#" } else { GROUP };
        guest.peer.subscribe(world, 2, filter, 1);
    }
    // A session that waits, and collects.
    let away = rng.below(NODES);
    let mut waits = cluster.greet(away, &hello("waits", false, 3600));
    waits.peer.subscribe(&mut cluster.brokers[away].world, 1, "m/waits", 1);
    cluster.go(1500);
    waits.peer.end(&mut cluster.brokers[away].world, End::Fin);
    let mut heard: Vec<Heard> = guests.iter().map(|_| Heard::default()).collect();
    let mut sent: Vec<BTreeMap<String, u64>> = vec![BTreeMap::new(); NODES];
    let (mut upgrades, mut failed) = (0, 0);
    for number in 0..COUNT {
        for at in 0..NODES {
            let topic = match rng.below(8) {
                0..=3 => "m/a".to_owned(),
                4 | 5 => format!("s/{}", rng.below(3)),
                6 => "m/waits".to_owned(),
                _ => format!("kept/{}", rng.below(6)),
            };
            let qos = if topic.starts_with("m/a") { rng.below(2) as u8 } else { 1 };
            let retain = topic.starts_with("kept/");
            let body = payload(at as u64, number, &mut rng);
            let body = if retain && rng.chance(300) { &[][..] } else { &body };
            let world = &mut cluster.brokers[at].world;
            let peer = &mut guests[2 * NODES + at].peer;
            let id = number as u16 + 1;
            peer.publish_as(world, &topic, body, qos, id, retain);
            let name = if topic.starts_with("s/") { "s".to_owned() } else { topic };
            *sent[at].entry(name).or_default() += 1;
        }
        cluster.go(rng.below(8) as u64);
        if number % 40 == 20 {
            let (at, shards, fails) = (rng.below(NODES), rng.range(1, 4), rng.chance(250));
            let end = if fails { UpgradeEnd::Fails } else { UpgradeEnd::Serves };
            match cluster.upgrade(at, shards, end) {
                true => upgrades += 1,
                false => failed += 1,
            }
            cluster.nobody_has_noticed();
        }
        for (guest, heard) in guests.iter_mut().zip(&mut heard) {
            heard.hear(&mut cluster, guest);
        }
    }
    cluster.network.faults = Faults::default();
    for _ in 0..40 {
        cluster.go(100);
        for (guest, heard) in guests.iter_mut().zip(&mut heard) {
            heard.hear(&mut cluster, guest);
        }
    }
    assert!(upgrades > 0, "{upgrades} upgrades, {failed} that failed");
    check(&mut cluster, &mut guests, &heard, &sent);
    moves_afterwards(&mut cluster, away, &sent, &mut rng);
    node_dies_afterwards(&mut cluster, &mut guests, &mut heard, &mut rng);
}

/// The old process dies while it hands over: the new one is the node all the same. The clients that
/// have come with it miss nothing, and those that have not connect again.
pub fn the_old_process_dies(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xd1e5);
    let faults = Faults { delayed: 100, delay: 10, usual: 1, ..Faults::default() };
    let mut cluster = Cluster::with(seed, faults, WINDOW, patient());
    cluster.go(1500);
    let at = rng.below(NODES);
    let other = (at + rng.range(1, NODES - 1)) % NODES;
    let mut readers = Vec::new();
    for number in 0..8 {
        let mut guest = cluster.greet(at, &hello(&format!("reader-{number}"), true, 0));
        guest.peer.subscribe(&mut cluster.brokers[at].world, 1, "m/+", 1);
        readers.push((guest, Vec::new(), 0));
    }
    let mut writer = cluster.client(other, "writer");
    cluster.go(500);
    let mut killed = 0;
    for number in 0..COUNT {
        let body = payload(0, number, &mut rng);
        let world = &mut cluster.brokers[other].world;
        writer.peer.publish_as(world, "m/a", &body, 1, number as u16 + 1, false);
        cluster.go(rng.below(8) as u64);
        if number % 60 == 30 {
            let (shards, pieces) = (rng.range(1, 4), rng.below(24));
            assert!(cluster.upgrade(at, shards, UpgradeEnd::Dies(pieces)));
            cluster.nobody_has_noticed();
            for (place, (guest, got, from)) in readers.iter_mut().enumerate() {
                if guest.peer.is_closed(&cluster.brokers[at].world) {
                    killed += 1;
                    *guest = cluster.greet(at, &hello(&format!("again-{number}-{place}"), true, 0));
                    guest.peer.subscribe(&mut cluster.brokers[at].world, 1, "m/+", 1);
                    cluster.go(500);
                    numbers(&mut cluster, guest);
                    (*got, *from) = (Vec::new(), number + 1);
                }
            }
        }
        for (guest, got, _) in &mut readers {
            got.extend(numbers(&mut cluster, guest));
        }
    }
    for _ in 0..40 {
        cluster.go(100);
        for (guest, got, _) in &mut readers {
            got.extend(numbers(&mut cluster, guest));
        }
    }
    cluster.nobody_has_noticed();
    for (place, (_, got, from)) in readers.iter().enumerate() {
        // What was on its way when a client came again may have come to it.
        let first = got.first().map_or(COUNT, |&first| first.min(*from));
        assert_eq!(*got, (first..COUNT).collect::<Vec<_>>(), "reader {place} of {killed} killed");
    }
    cluster.brokers.iter().for_each(|broker| fine(&broker.world));
}

/// The numbers that have come, which are acknowledged.
fn numbers(cluster: &mut Cluster, guest: &mut Guest) -> Vec<u64> {
    let mut heard = Heard::default();
    heard.hear(cluster, guest);
    heard.numbers.remove(&(0, 1)).unwrap_or_default()
}

/// What the brokers have dropped, and what their nodes have not sent.
fn dropped(cluster: &Cluster) -> (Vec<u64>, Vec<Vec<u64>>) {
    let all = cluster.brokers.iter();
    let unsent = |broker: &Broker| broker.junction.node().status(cluster.now()).0.unsent.to_vec();
    let dropped = all.clone().map(|broker| broker.world.counters().messages_dropped()).collect();
    (dropped, all.map(unsent).collect())
}

/// Everything has come as often as it should.
fn check(
    cluster: &mut Cluster,
    guests: &mut [Guest],
    heard: &[Heard],
    sent: &[BTreeMap<String, u64>],
) {
    cluster.nobody_has_noticed();
    let count = |at: usize, topic: &str| sent[at].get(topic).copied().unwrap_or(0);
    let mut members = [0; NODES];
    for (number, (guest, heard)) in guests.iter().zip(heard).enumerate().take(2 * NODES) {
        assert!(!guest.peer.is_closed(&cluster.brokers[guest.at].world), "client {number}");
        assert_eq!(heard.wills, Vec::<String>::new(), "wills of clients that are there");
        for (from, member) in members.iter_mut().enumerate() {
            let mut came = Vec::new();
            for qos in 0..2 {
                let of = heard.numbers.get(&(from as u64, qos)).cloned().unwrap_or_default();
                let wrong = of.windows(2).filter(|two| two[0] >= two[1]);
                let wrong: Vec<_> = wrong.filter(|_| number < NODES).collect();
                assert!(wrong.is_empty(), "of node {from} to {number}, in this order: {wrong:?}");
                came.extend(of);
            }
            let plain = count(from, "m/a") + count(from, "m/waits");
            if number < NODES {
                let (dropped, unsent) = dropped(cluster);
                let what = format!("of node {from} to reader {number}: {came:?}");
                assert_eq!(came.len() as u64, plain, "{what}, dropped {dropped:?} {unsent:?}");
            } else {
                *member += came.len() as u64 - plain;
            }
        }
    }
    for (from, &came) in members.iter().enumerate() {
        assert_eq!(came, count(from, "s"), "messages of node {from} for the share group");
    }
    let digests: Vec<u64> =
        cluster.brokers.iter().map(|broker| broker.world.shared.retained_digest.used()).collect();
    assert!(digests.windows(2).all(|two| two[0] == two[1]), "retained messages: {digests:?}");
    let differ = |broker: &Broker| broker.junction.node().status(Instant(0)).0.retained_differ;
    assert_eq!(cluster.brokers.iter().map(differ).sum::<u64>(), 0, "it was never in doubt");
    for (at, guest) in guests[2 * NODES..].iter().enumerate() {
        assert!(!guest.peer.is_closed(&cluster.brokers[at].world), "the publisher of node {at}");
    }
    cluster.brokers.iter().for_each(|broker| fine(&broker.world));
}

/// A session that the upgraded node has goes to another one with its client, with all its messages.
fn moves_afterwards(
    cluster: &mut Cluster,
    away: usize,
    sent: &[BTreeMap<String, u64>],
    rng: &mut Rng,
) {
    let to = (away + rng.range(1, NODES)) % NODES;
    let mut guest = cluster.begin(to, &hello("waits", false, 3600));
    cluster.go(600);
    let mut came = 0;
    for _ in 0..200 {
        let world = &mut cluster.brokers[to].world;
        for got in guest.peer.hear(world) {
            match got {
                Got::ConnAck { present, .. } => assert!(present, "its session has come"),
                Got::Publish { id, .. } => {
                    came += 1;
                    guest.peer.ack(world, AckKind::PubAck, id);
                }
                other => panic!("{other:?}"),
            }
        }
        cluster.go(20);
    }
    let all: u64 = sent.iter().map(|sent| sent.get("m/waits").copied().unwrap_or(0)).sum();
    assert_eq!(came, all, "messages of a session that waited");
}

/// When the node dies in the end, the wills of its clients are published once.
fn node_dies_afterwards(
    cluster: &mut Cluster,
    guests: &mut [Guest],
    heard: &mut [Heard],
    rng: &mut Rng,
) {
    let dies = rng.below(NODES);
    cluster.dead.insert(dies);
    cluster.go(8_000);
    let mut wills: Vec<String> =
        ["member", "reader", "writer"].map(|role| format!("will/{role}-{dies}")).into();
    wills.sort();
    for at in (0..NODES).filter(|&at| at != dies) {
        heard[at].hear(cluster, &mut guests[at]);
        heard[at].wills.sort();
        assert_eq!(heard[at].wills, wills, "as node {at} has them");
    }
}
