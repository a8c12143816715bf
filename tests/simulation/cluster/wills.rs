//! Wills of clients whose node dies, or is divided from the others: one of the nodes that are left
//! publishes each once, when it is due.

use super::durable::Fleet;
use super::engine::Faults;
use super::whole::{Cluster, Guest, NODES, abilities};
use crate::net::End;
use crate::peer::{Got, hello, will};
use crate::rng::Rng;
use crate::scripted::fine;
use ringmq::cluster::frame::Abilities;
use ringmq::packet::{AckKind, Connect, Will};
use std::collections::BTreeMap;

pub fn simulate(seed: u64) {
    a_node_with_stored_sessions_dies(seed);
    a_node_dies(seed);
    a_node_is_divided_from_the_others(seed);
}

/// A client with a will of that delay and a session of so many seconds.
fn client(cluster: &mut Cluster, at: usize, name: &str, delay: u32, expiry: u32) -> Guest {
    let topic = format!("will/{name}");
    let will = Will { retain: name == "kept", ..will(&topic, delay) };
    cluster.greet(at, &Connect { will: Some(will), ..hello(name, true, expiry) })
}

/// A client of each of those nodes that is sent all wills.
fn watchers(cluster: &mut Cluster, nodes: &[usize]) -> Vec<Guest> {
    let mut all = Vec::new();
    for &at in nodes {
        let mut guest = cluster.client(at, &format!("watcher-{at}"));
        guest.peer.subscribe(&mut cluster.brokers[at].world, 1, "will/#", 1);
        all.push(guest);
    }
    cluster.go(1500);
    for guest in &mut all {
        heard(cluster, guest);
    }
    all
}

/// The wills that a client was sent since the last time, and how often.
fn heard(cluster: &mut Cluster, guest: &mut Guest) -> BTreeMap<String, u32> {
    let world = &mut cluster.brokers[guest.at].world;
    let mut topics = BTreeMap::new();
    for got in guest.peer.hear(world) {
        if let Got::Publish { topic, id, .. } = got {
            guest.peer.ack(world, AckKind::PubAck, id);
            *topics.entry(topic).or_default() += 1;
        }
    }
    topics
}

/// Each of them has been sent those wills, once each.
fn expect(cluster: &mut Cluster, watchers: &mut [Guest], names: &[&str], when: &str) {
    let expected: BTreeMap<String, u32> =
        names.iter().map(|name| (format!("will/{name}"), 1)).collect();
    for guest in watchers {
        assert_eq!(heard(cluster, guest), expected, "at node {} {when}", guest.at);
    }
}

fn faults(rng: &mut Rng) -> Faults {
    Faults {
        lost: rng.below(40),
        doubled: rng.below(100),
        delayed: rng.below(300),
        delay: rng.range(1, 30),
        usual: 1,
        changed: 0,
    }
}

fn published(cluster: &Cluster) -> u64 {
    let counts = |at: usize| cluster.brokers[at].junction.node().status(cluster.now()).0;
    (0..NODES).map(|at| counts(at).wills.published).sum()
}

fn kept(cluster: &Cluster, at: usize) -> u64 {
    cluster.brokers[at].junction.node().status(cluster.now()).0.wills_kept
}

/// Those of clients that have left, were taken over, or are back somewhere are not published.
fn a_node_dies(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x3177);
    let mut cluster = Cluster::new(seed, faults(&mut rng), 1 << 20);
    let dies = rng.below(NODES);
    let left: Vec<usize> = (0..NODES).filter(|&at| at != dies).collect();
    cluster.go(1000);
    let mut watchers = watchers(&mut cluster, &left);
    let _stay = [
        client(&mut cluster, dies, "plain", 0, 0),
        client(&mut cluster, dies, "kept", 0, 0),
        client(&mut cluster, dies, "later", 3, 100),
        client(&mut cluster, dies, "back", 4, 100),
        client(&mut cluster, dies, "quick", 0, 0),
    ];
    let mut leaves = client(&mut cluster, dies, "leaves", 0, 0);
    leaves.peer.say_goodbye(&mut cluster.brokers[dies].world);
    let _old = client(&mut cluster, dies, "moved", 0, 100);
    let _moved = cluster.greet(left[rng.below(2)], &hello("moved", true, 0));
    // Without a connection, a delay runs already.
    let mut waits = client(&mut cluster, dies, "waits", 3, 100);
    waits.peer.end(&mut cluster.brokers[dies].world, End::Reset);
    cluster.go(1000);
    expect(&mut cluster, &mut watchers, &["moved"], "after a takeover");
    assert_eq!(kept(&cluster, left[0]), 6, "wills that are kept");
    cluster.network.faults = Faults::default();
    cluster.dead.insert(dies);
    cluster.go(700);
    let _quick = cluster.greet(left[rng.below(2)], &hello("quick", true, 0));
    cluster.go(500);
    expect(&mut cluster, &mut watchers, &[], "before the node is down");
    cluster.go(1800);
    // The delay of `waits` was over first.
    expect(&mut cluster, &mut watchers, &["kept", "plain", "waits"], "when the node is down");
    let _back = cluster.greet(left[rng.below(2)], &hello("back", true, 0));
    cluster.go(1000);
    expect(&mut cluster, &mut watchers, &[], "before the delay is over");
    // By then whoever has not heard of it would publish it, too.
    cluster.go(6000);
    expect(&mut cluster, &mut watchers, &["later"], "after the delay");
    assert_eq!(published(&cluster), 4);
    for &at in &left {
        assert_eq!(kept(&cluster, at), 0, "wills that are kept for ever");
        let mut reader = cluster.client(at, "reader");
        reader.peer.subscribe(&mut cluster.brokers[at].world, 1, "will/#", 1);
        cluster.go(500);
        expect(&mut cluster, std::slice::from_mut(&mut reader), &["kept"], "as it is retained");
        let world = &mut cluster.brokers[at].world;
        world.settle();
        fine(world);
    }
}

/// Wills of stored sessions are published once: by another node while theirs is away, by theirs
/// when it is back before they are due, and not when the client is elsewhere meanwhile. Another
/// node may be of a release that does not know of them.
fn a_node_with_stored_sessions_dies(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x5707);
    let mut fleet = Fleet::with(seed, None);
    let old = |at: &usize| abilities(seed, *at) == Abilities::LEAST;
    let dies = rng.below(NODES);
    let dies = if old(&dies) { (dies + 1) % NODES } else { dies };
    let left: Vec<usize> = (0..NODES).filter(|&at| at != dies).collect();
    let cluster = &mut fleet.cluster;
    let mut watchers = watchers(cluster, &left);
    let _stay = [
        client(cluster, dies, "plain", 0, 0),
        client(cluster, dies, "sent", 0, 1000),
        client(cluster, dies, "later", 20, 1000),
        client(cluster, dies, "back", 20, 1000),
        client(cluster, dies, "moved", 5, 1000),
    ];
    let mut waits = client(cluster, dies, "waits", 3, 1000);
    waits.peer.end(&mut cluster.brokers[dies].world, End::Reset);
    cluster.go(1000);
    expect(cluster, &mut watchers, &[], "before it dies");
    fleet.kill(dies);
    let cluster = &mut fleet.cluster;
    cluster.go(1000);
    let _moved = cluster.greet(left[rng.below(2)], &hello("moved", true, 1000));
    // A node that does not know of them has its turn first, and says nothing.
    cluster.go(7000);
    expect(cluster, &mut watchers, &["plain", "sent", "waits"], "while their node is away");
    fleet.restart(dies);
    let mut there = fleet.greet(dies, &hello("watcher", true, 0));
    let cluster = &mut fleet.cluster;
    there.peer.subscribe(&mut cluster.brokers[dies].world, 1, "will/#", 1);
    watchers.push(there);
    let _back = cluster.greet(dies, &hello("back", false, 1000));
    cluster.go(12_000);
    expect(cluster, &mut watchers, &[], "when their node is back");
    let sent = cluster.brokers[dies].world.counters().wills_sent;
    assert_eq!(sent, 0, "wills that the node that is back has sent again");
    cluster.go(12_000);
    expect(cluster, &mut watchers, &["later"], "of the node that is back");
    // One that is back before the others have missed it: they leave its wills to it at once.
    let _soon = client(cluster, dies, "soon", 11, 1000);
    watchers.retain(|watcher| watcher.at != dies);
    cluster.go(500);
    fleet.kill(dies);
    fleet.cluster.go(300);
    fleet.restart(dies);
    let cluster = &mut fleet.cluster;
    cluster.go(20_000);
    expect(cluster, &mut watchers, &["soon"], "of a node that is back soon");
    for &at in &left {
        assert_eq!(kept(cluster, at), 0, "wills that node {at} keeps");
    }
}

/// The side with more nodes publishes the wills of the others' clients, and the other side none.
/// Afterwards all is as it was before.
fn a_node_is_divided_from_the_others(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xd1f1);
    let mut cluster = Cluster::new(seed, faults(&mut rng), 1 << 20);
    cluster.go(1000);
    let mut watchers = watchers(&mut cluster, &(0..NODES).collect::<Vec<_>>());
    let names: Vec<String> = (0..NODES).map(|at| format!("of-{at}")).collect();
    let mut clients: Vec<Guest> =
        (0..NODES).map(|at| client(&mut cluster, at, &names[at], 0, 0)).collect();
    cluster.go(1000);
    cluster.network.faults = Faults::default();
    let alone = rng.below(NODES);
    let mut watcher = watchers.remove(alone);
    cluster.network.apart[alone] = true;
    // At the longer time the others are given up.
    cluster.go(if rng.chance(500) { 3500 } else { 9000 });
    expect(&mut cluster, &mut watchers, &[&names[alone]], "at the side of more nodes");
    expect(&mut cluster, std::slice::from_mut(&mut watcher), &[], "at the side of one node");
    cluster.network.apart[alone] = false;
    cluster.go(5000);
    watchers.push(watcher);
    expect(&mut cluster, &mut watchers, &[], "after the division");
    for at in 0..NODES {
        assert_eq!(kept(&cluster, at), NODES as u64 - 1, "wills that node {at} keeps");
    }
    // A client that goes now: its own node sends its will.
    clients[alone].peer.end(&mut cluster.brokers[alone].world, End::Reset);
    cluster.go(1000);
    expect(&mut cluster, &mut watchers, &[&names[alone]], "of its client");
    let dies = (alone + 1) % NODES;
    cluster.dead.insert(dies);
    watchers.retain(|guest| guest.at != dies);
    cluster.go(4000);
    expect(&mut cluster, &mut watchers, &[&names[dies]], "of the node that dies");
}
