//! Clients that come back at another node: their sessions follow them, whatever frames suffer.

use super::engine::Faults;
use super::whole::{Broker, Cluster, Guest, NODES};
use crate::net;
use crate::peer::{Got, Peer, hello};
use crate::rng::Rng;
use crate::scripted::fine;
use crate::settings::roomy;
use ringmq::packet::{AckKind, Connect, ConnectProperties, ReasonCode};
use ringmq::session::pending::PendingBounds;
use ringmq::shard::Settings;
use std::collections::BTreeSet;

/// Seconds of a session.
const EXPIRY: u32 = 100;

pub fn simulate(seed: u64) {
    until_answered(seed, a_queue_follows_its_client);
    the_newest_of_several_stays(seed);
    match seed % 3 {
        0 => of_two_at_once_one_stays(seed),
        1 => until_answered(seed, nothing_under_way_is_lost),
        _ => until_answered(seed, what_is_owed_follows_its_client),
    }
}

fn faults(rng: &mut Rng) -> Faults {
    Faults {
        lost: rng.below(120),
        doubled: rng.below(120),
        delayed: rng.below(300),
        delay: rng.range(1, 30),
        usual: 1,
        changed: 0,
    }
}

/// Claims that some node did not answer in time, because of a lost frame: it may have kept a
/// session.
fn unanswered(cluster: &Cluster) -> u64 {
    let of = |broker: &Broker| broker.junction.node().claims().0.unanswered;
    cluster.brokers.iter().map(of).sum()
}

/// Runs what is promised if nodes answer in time: several times, until they do. Which of them are
/// of an earlier release stays the same.
fn until_answered(seed: u64, run: impl Fn(u64) -> bool) {
    let _ = (0..4).any(|attempt| run(seed + ((attempt * 9) << 20)));
}

/// Sessions at all nodes.
fn sessions(cluster: &Cluster) -> u64 {
    cluster.brokers.iter().map(|broker| broker.world.counters().sessions).sum()
}

/// Everybody has what is to have come, and nothing is left under way.
fn check_rest(cluster: &mut Cluster, expected: u64) {
    cluster.network.faults = Faults::default();
    cluster.go(10_000);
    assert_eq!(sessions(cluster), expected, "sessions at all nodes");
    for broker in &mut cluster.brokers {
        let (_, moving) = broker.junction.node().claims();
        assert_eq!(moving, 0, "sessions that move for ever");
        broker.world.settle();
        fine(&broker.world);
    }
}

/// A client that was connected, or had been, has its session at the node where it comes back: each
/// message once and in order. The old connection is told, and the old node has nothing left.
fn a_queue_follows_its_client(seed: u64) -> bool {
    let mut rng = Rng::new(seed ^ 0x7a3e);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    let (from, to) = (rng.below(NODES), rng.below(NODES));
    let online = rng.chance(500);
    let mut writer = cluster.client(rng.below(NODES), "writer");
    let at = writer.at;
    let mut old = cluster.greet(from, &hello("reader", true, EXPIRY));
    old.peer.subscribe(&mut cluster.brokers[from].world, 1, "m/+", 1);
    cluster.go(2000);
    old.peer.hear(&mut cluster.brokers[from].world);
    if !online {
        old.peer.end(&mut cluster.brokers[from].world, net::End::Fin);
        cluster.go(100);
    }
    cluster.network.faults = faults(&mut rng);
    let count = 60;
    for number in 0..count {
        let size = 8 + if rng.chance(200) { 20_000 } else { rng.below(200) };
        let mut payload = vec![0; size];
        payload[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let world = &mut cluster.brokers[at].world;
        writer.peer.publish(world, "m/a", &payload, 1, number as u16 + 1);
    }
    cluster.go(5000);
    assert_eq!(writer.peer.hear(&mut cluster.brokers[at].world).len(), count, "PUBACKs");
    let mut new = cluster.begin(to, &hello("reader", false, EXPIRY));
    cluster.go(8000);
    let got = new.peer.hear(&mut cluster.brokers[to].world);
    if cluster.brokers[to].junction.node().claims().0.unanswered > 0 {
        return false; // a frame was lost: nobody waits longer than that for an answer
    }
    let connack = Got::ConnAck { present: true, reason: ReasonCode::Success };
    assert_eq!(got.first(), Some(&connack), "from node {from} to node {to}");
    let mut numbers = Vec::new();
    for packet in &got {
        note(&mut cluster, &mut new, packet, &mut numbers);
    }
    for _ in 0..20 {
        cluster.go(200);
        numbers.extend(cluster.numbers(to, &mut new.peer));
    }
    assert_eq!(numbers, (0..count as u64).collect::<Vec<_>>(), "what came");
    if online {
        let world = &mut cluster.brokers[from].world;
        let last = old.peer.hear(world).pop();
        assert_eq!(last, Some(Got::Disconnect(ReasonCode::SessionTakenOver)));
        assert!(old.peer.is_closed(world));
    }
    check_rest(&mut cluster, 2);
    // One that begins anew has nothing, and leaves nothing elsewhere.
    let at = rng.below(NODES);
    let mut newer = cluster.begin(at, &hello("reader", true, 0));
    cluster.go(1000);
    let got = newer.peer.hear(&mut cluster.brokers[at].world);
    assert_eq!(got, [Got::ConnAck { present: false, reason: ReasonCode::Success }]);
    check_rest(&mut cluster, 2);
    true
}

fn note(cluster: &mut Cluster, guest: &mut super::whole::Guest, got: &Got, to: &mut Vec<u64>) {
    if let Got::Publish { payload, id, .. } = got {
        to.push(u64::from_le_bytes(payload[..8].try_into().unwrap()));
        guest.peer.ack(&mut cluster.brokers[guest.at].world, AckKind::PubAck, *id);
    }
}

/// A client goes from node to node while messages for it are published at all of them: each comes,
/// and for the first time in order.
fn nothing_under_way_is_lost(seed: u64) -> bool {
    let mut rng = Rng::new(seed ^ 0x10e5);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    let mut writers: Vec<_> =
        (0..NODES).map(|at| cluster.client(at, &format!("writer-{at}"))).collect();
    let mut reader = cluster.greet(0, &hello("reader", true, EXPIRY));
    reader.peer.subscribe(&mut cluster.brokers[0].world, 1, "m/+", 1);
    cluster.go(2000);
    cluster.network.faults = faults(&mut rng);
    let mut came: Vec<u64> = Vec::new();
    let mut published = [0u64; NODES];
    for _ in 0..5 {
        let at = rng.below(NODES);
        let next = cluster.begin(at, &hello("reader", false, EXPIRY));
        let mut old = std::mem::replace(&mut reader, next);
        for _ in 0..rng.range(20, 60) {
            for from in 0..NODES {
                if rng.chance(400) {
                    publish(&mut cluster, &mut writers[from].peer, from, &mut published[from]);
                }
            }
            cluster.go(rng.range(1, 4) as u64);
            for guest in [&mut old, &mut reader] {
                let (at, peer) = (guest.at, &mut guest.peer);
                came.extend(cluster.numbers(at, peer));
            }
        }
        cluster.go(600);
        came.extend(cluster.numbers(old.at, &mut old.peer));
        old.peer.end(&mut cluster.brokers[old.at].world, net::End::Fin);
        if unanswered(&cluster) > 0 {
            return false;
        }
    }
    cluster.network.faults = Faults::default();
    for _ in 0..100 {
        cluster.go(100);
        let at = reader.at;
        came.extend(cluster.numbers(at, &mut reader.peer));
    }
    let mut seen = BTreeSet::new();
    came.retain(|&number| seen.insert(number));
    for from in 0..NODES as u64 {
        let of: Vec<u64> = came.iter().filter(|n| *n & 0xff == from).map(|n| n >> 8).collect();
        let all: Vec<u64> = (0..published[from as usize]).collect();
        assert_eq!(of, all, "of node {from}");
    }
    check_rest(&mut cluster, NODES as u64 + 1);
    true
}

fn publish(cluster: &mut Cluster, writer: &mut Peer, from: usize, published: &mut u64) {
    let mut payload = vec![0; 40];
    payload[..8].copy_from_slice(&(*published << 8 | from as u64).to_le_bytes());
    *published += 1;
    let world = &mut cluster.brokers[from].world;
    writer.publish(world, "m/a", &payload, 1, (*published % 60_000) as u16 + 1);
}

/// A client that takes in retained messages slowly goes from node to node: all of them come, and of
/// each topic last what is kept, also of those that change meanwhile.
fn what_is_owed_follows_its_client(seed: u64) -> bool {
    const TOPICS: usize = 120;
    let mut rng = Rng::new(seed ^ 0x0ed);
    let pending = PendingBounds { messages: 40, ..roomy().pending };
    let settings = Settings { pending, ..roomy() };
    let mut cluster = Cluster::with(seed, Faults::default(), 1 << 20, settings);
    let mut writers: Vec<Guest> =
        (0..NODES).map(|at| cluster.client(at, &format!("writer-{at}"))).collect();
    cluster.go(1000);
    let (mut kept, mut had, mut number) = (vec![0; TOPICS], vec![0; TOPICS], 0);
    let mut keep = |cluster: &mut Cluster, from: usize, topic: usize, kept: &mut Vec<u64>| {
        number += 1;
        kept[topic] = number;
        let world = &mut cluster.brokers[from].world;
        let (name, payload) = (format!("kept/{topic}"), number.to_le_bytes());
        writers[from].peer.publish_as(world, &name, &payload, 1, number as u16, true);
    };
    (0..TOPICS).for_each(|topic| keep(&mut cluster, topic % NODES, topic, &mut kept));
    cluster.go(1000);
    let hello = |clean| {
        let hello = hello("reader", clean, EXPIRY);
        let properties = ConnectProperties { receive_maximum: Some(4), ..hello.properties };
        Connect { properties, ..hello }
    };
    let mut reader = cluster.greet(0, &hello(true));
    reader.peer.subscribe(&mut cluster.brokers[0].world, 1, "kept/+", 1);
    cluster.network.faults = Faults { delayed: 300, delay: 20, usual: 1, ..Faults::default() };
    for _ in 0..4 {
        for _ in 0..rng.range(1, 6) {
            cluster.go(rng.range(1, 30) as u64);
            take_kept(&mut cluster, &mut reader, &mut had);
            keep(&mut cluster, rng.below(NODES), rng.below(TOPICS), &mut kept);
        }
        if rng.chance(500) {
            reader.peer.end(&mut cluster.brokers[reader.at].world, net::End::Fin);
            cluster.go(rng.below(20) as u64);
        }
        let at = (reader.at + 1 + rng.below(NODES - 1)) % NODES;
        reader = cluster.begin(at, &hello(false));
        cluster.go(400);
        if unanswered(&cluster) > 0 {
            return false;
        }
    }
    for _ in 0..100 {
        cluster.go(20);
        take_kept(&mut cluster, &mut reader, &mut had);
    }
    assert_eq!(had, kept, "the last of each topic");
    check_rest(&mut cluster, NODES as u64 + 1);
    true
}

/// Takes in and acknowledges what has come to a client, and notes the last of each topic.
fn take_kept(cluster: &mut Cluster, reader: &mut Guest, had: &mut [u64]) {
    let world = &mut cluster.brokers[reader.at].world;
    for got in reader.peer.hear(world) {
        let Got::Publish { topic, payload, id, .. } = got else { continue };
        let topic = topic.strip_prefix("kept/").and_then(|topic| topic.parse::<usize>().ok());
        had[topic.unwrap()] = u64::from_le_bytes(payload[..8].try_into().unwrap());
        reader.peer.ack(world, AckKind::PubAck, id);
    }
}

/// Two clients with one ClientId connect at two nodes in the same moment: one of them stays.
fn of_two_at_once_one_stays(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x2222);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    cluster.go(2000);
    // Within the time that CONNACK waits; what is lost may come later than that.
    let mild = Faults { doubled: 100, delayed: 400, delay: 30, ..Faults::default() };
    cluster.network.faults = mild;
    for round in 0..4 {
        let first = rng.below(NODES);
        let second = (first + 1 + rng.below(NODES - 1)) % NODES;
        let clean = rng.chance(300);
        let mut guests = vec![cluster.begin(first, &hello("client", clean, EXPIRY))];
        if rng.chance(500) {
            cluster.go(rng.below(40) as u64);
        }
        guests.push(cluster.begin(second, &hello("client", clean, EXPIRY)));
        cluster.go(3000);
        let mut open = 0;
        for guest in &mut guests {
            let world = &mut cluster.brokers[guest.at].world;
            open += usize::from(!guest.peer.is_closed(world));
        }
        assert_eq!(open, 1, "connections of one ClientId in round {round}");
    }
    check_rest(&mut cluster, 1);
}

/// Clients with one ClientId connect one after the other, some at the same node again: the newest
/// stays, whoever else was about to come in, and it has the session.
fn the_newest_of_several_stays(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x3e57);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    cluster.go(2000);
    let mut had = false;
    for round in 0..4 {
        // Within the time that CONNACK waits. Where each frame takes long, most clients connect
        // while an earlier claim is open.
        cluster.network.faults = match round % 2 {
            0 => Faults { usual: 25, ..Faults::default() },
            _ => Faults { doubled: 100, delayed: 400, delay: 20, ..Faults::default() },
        };
        let first = rng.below(NODES);
        let second = (first + 1 + rng.below(NODES - 1)) % NODES;
        let mut guests = Vec::new();
        for number in 0..rng.range(3, 6) {
            let at = match number {
                0 => first,
                1 => second,
                _ if rng.chance(600) => first,
                _ => rng.below(NODES),
            };
            guests.push(cluster.begin(at, &hello("client", false, EXPIRY)));
            cluster.go(rng.range(2, 30) as u64);
        }
        let places: Vec<usize> = guests.iter().map(|guest| guest.at).collect();
        cluster.go(3000);
        let mut open = Vec::new();
        for (number, guest) in guests.iter_mut().enumerate() {
            let world = &mut cluster.brokers[guest.at].world;
            if !guest.peer.is_closed(world) {
                open.push(number);
            }
        }
        assert_eq!(open, [guests.len() - 1], "who stays of {places:?} in round {round}");
        let newest = guests.last_mut().expect("there are some");
        let got = newest.peer.hear(&mut cluster.brokers[newest.at].world);
        let present = match got.first() {
            Some(&Got::ConnAck { present, reason: ReasonCode::Success }) => present,
            other => panic!("{other:?} at {places:?} in round {round}"),
        };
        if unanswered(&cluster) > 0 {
            return;
        }
        assert!(present || !had, "the session is gone at {places:?} in round {round}");
        had = true;
        newest.peer.end(&mut cluster.brokers[newest.at].world, net::End::Fin);
        cluster.network.faults = Faults::default();
        cluster.go(500);
    }
    check_rest(&mut cluster, 1);
}

/// A node stops: its clients are to go to others while there are any.
pub fn a_node_that_stops_refers_its_clients(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x5709);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    let mut left: Vec<usize> = (0..NODES).collect();
    let mut guests: Vec<Guest> =
        (0..NODES).map(|at| cluster.client(at, &format!("client-{at}"))).collect();
    cluster.go(1000);
    while !left.is_empty() {
        let stops = left.remove(rng.below(left.len()));
        for node in &mut cluster.brokers[stops].world.nodes {
            node.shard.drain();
            node.shard.dismiss();
        }
        (0..2).for_each(|shard| cluster.brokers[stops].world.wake(shard));
        cluster.go(200);
        let got = guests[stops].peer.hear(&mut cluster.brokers[stops].world);
        let expected = match left.is_empty() {
            true => ReasonCode::ServerShuttingDown,
            false => ReasonCode::UseAnotherServer,
        };
        assert_eq!(got, [Got::Disconnect(expected)], "node {stops}, and {left:?} are left");
        cluster.dead.insert(stops);
        cluster.go(4000);
    }
}

/// A node leaves: its clients are referred to others some at a time, nobody new is let in, and what
/// was published for their sessions meanwhile comes where they connect.
pub fn a_node_that_leaves_loses_nothing(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x1ea7e);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    let leaves = rng.below(NODES);
    let mut writer = cluster.client((leaves + 1) % NODES, "writer");
    let names: Vec<String> = (0..12).map(|number| format!("reader-{number}")).collect();
    let mut readers: Vec<_> =
        names.iter().map(|name| cluster.begin(leaves, &hello(name, true, EXPIRY))).collect();
    cluster.go(300);
    for reader in &mut readers {
        reader.peer.hear(&mut cluster.brokers[leaves].world);
        reader.peer.subscribe(&mut cluster.brokers[leaves].world, 1, "m/+", 1);
    }
    cluster.go(1000);
    let mut had: Vec<Vec<u64>> = vec![Vec::new(); names.len()];
    let mut number = 0_u64;
    let mut publish = |cluster: &mut Cluster| {
        let world = &mut cluster.brokers[writer.at].world;
        let payload = &number.to_le_bytes();
        writer.peer.publish(world, "m/a", payload, 1, number as u16 + 1);
        number += 1;
    };
    let mut rounds = 0;
    while cluster.brokers[leaves].world.counters().connections_open > 0 {
        let before = cluster.brokers[leaves].world.counters().connections_open;
        for node in &mut cluster.brokers[leaves].world.nodes {
            node.shard.refer(1);
        }
        (0..2).for_each(|shard| cluster.brokers[leaves].world.wake(shard));
        publish(&mut cluster);
        cluster.go(rng.range(5, 60) as u64);
        let gone = before - cluster.brokers[leaves].world.counters().connections_open;
        assert!(gone <= 2, "{gone} clients were referred at once");
        for ((reader, had), name) in readers.iter_mut().zip(&mut had).zip(&names) {
            let world = &mut cluster.brokers[reader.at].world;
            let got = reader.peer.hear(world);
            let last = got.last().cloned();
            for packet in &got {
                note(&mut cluster, reader, packet, had);
            }
            if last == Some(Got::Disconnect(ReasonCode::UseAnotherServer)) {
                let to = (leaves + rng.range(1, NODES - 1)) % NODES;
                *reader = cluster.begin(to, &hello(name, false, EXPIRY));
            }
        }
        rounds += 1;
        assert!(rounds < 100, "clients stay");
    }
    // Nobody new.
    let mut late = cluster.begin(leaves, &hello("late", true, 0));
    cluster.go(300);
    let got = late.peer.hear(&mut cluster.brokers[leaves].world);
    let refused = Got::ConnAck { present: false, reason: ReasonCode::UseAnotherServer };
    assert_eq!(got, [refused]);
    publish(&mut cluster);
    for _ in 0..20 {
        cluster.go(200);
        for (reader, had) in readers.iter_mut().zip(&mut had) {
            let got = reader.peer.hear(&mut cluster.brokers[reader.at].world);
            got.iter().for_each(|packet| note(&mut cluster, reader, packet, had));
        }
    }
    let all: BTreeSet<u64> = (0..number).collect();
    for (had, name) in had.into_iter().zip(&names) {
        assert_eq!(had.into_iter().collect::<BTreeSet<_>>(), all, "of {name}");
    }
    assert_eq!(cluster.brokers[leaves].world.counters().sessions, 0, "sessions that stay");
    check_rest(&mut cluster, names.len() as u64 + 1);
}
