//! Retained messages at several nodes: whatever frames suffer, and however the nodes were divided,
//! all end with what was accepted last.

use super::engine::Faults;
use super::whole::{Cluster, Guest, NODES};
use crate::net;
use crate::peer::Got;
use crate::rng::Rng;
use crate::scripted::fine;
use std::collections::BTreeMap;

const TOPICS: usize = 8;

pub fn simulate(seed: u64) {
    match seed % 3 {
        0 => a_node_that_joins_is_told(seed),
        1 => divided_nodes_agree_again(seed),
        _ => what_is_wrong_is_found(seed),
    }
}

/// What should be kept.
#[derive(Default)]
struct Kept {
    messages: BTreeMap<String, Vec<u8>>,
    number: u16,
}

impl Kept {
    /// A message, or nothing, for a topic; goes on when it was acknowledged.
    fn publish(&mut self, cluster: &mut Cluster, writer: &mut Guest, topic: &str, clear: bool) {
        self.number += 1;
        let mut payload = format!("{}: {}", writer.at, self.number).into_bytes();
        if self.number.is_multiple_of(9) {
            payload.resize(20_000, b'.');
        }
        if clear {
            payload.clear();
        }
        send(cluster, writer, topic, &payload, self.number);
        for round in 0.. {
            cluster.go(1);
            if !writer.peer.hear(&mut cluster.brokers[writer.at].world).is_empty() {
                break;
            }
            assert!(round < 5000, "no PUBACK");
        }
        if clear {
            self.messages.remove(topic);
        } else {
            self.messages.insert(topic.to_owned(), payload);
        }
    }

    /// Some messages at some of the nodes.
    fn publish_some(&mut self, cluster: &mut Cluster, writers: &mut [Guest], rng: &mut Rng) {
        for _ in 0..rng.range(20, 40) {
            let topic = format!("retained/{}", rng.below(TOPICS));
            let writer = &mut writers[rng.below(writers.len())];
            self.publish(cluster, writer, &topic, rng.chance(250));
        }
    }

    /// A new subscriber at each node is sent all of that, and nothing else.
    fn check(&self, cluster: &mut Cluster, when: &str) {
        for at in 0..NODES {
            let found = kept_at(cluster, at, "retained/#", when);
            assert_eq!(found, self.messages, "at node {at} {when}");
        }
        let sums: Vec<u64> = cluster
            .brokers
            .iter()
            .map(|broker| broker.world.shared.retained_digest.used())
            .collect();
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?} {when}");
    }

    /// Nothing is left when all topics are cleared.
    fn end(mut self, cluster: &mut Cluster, writer: &mut Guest) {
        let topics: Vec<String> = self.messages.keys().cloned().collect();
        topics.iter().for_each(|topic| self.publish(cluster, writer, topic, true));
        cluster.go(1000);
        for broker in &mut cluster.brokers {
            broker.world.settle();
            fine(&broker.world);
            assert_eq!(broker.world.shared.retained_digest.used(), 0, "of nothing");
            assert_eq!(broker.world.counters().retained_messages, 0);
        }
    }
}

fn send(cluster: &mut Cluster, writer: &mut Guest, topic: &str, payload: &[u8], number: u16) {
    let world = &mut cluster.brokers[writer.at].world;
    writer.peer.publish_as(world, topic, payload, 1, number, true);
}

fn kept_at(
    cluster: &mut Cluster,
    at: usize,
    filter: &str,
    when: &str,
) -> BTreeMap<String, Vec<u8>> {
    let mut reader = cluster.client(at, &format!("reader {when}"));
    reader.peer.subscribe(&mut cluster.brokers[at].world, 1, filter, 0);
    cluster.go(200);
    let world = &mut cluster.brokers[at].world;
    let mut found = BTreeMap::new();
    for got in reader.peer.hear(world) {
        if let Got::Publish { topic, payload, retain, .. } = got {
            assert!(retain, "{topic} is a live message");
            assert!(found.insert(topic, payload).is_none(), "a topic came twice");
        }
    }
    reader.peer.end(world, net::End::Fin);
    cluster.go(10);
    found
}

fn writers(cluster: &mut Cluster, nodes: usize) -> Vec<Guest> {
    (0..nodes).map(|at| cluster.client(at, &format!("writer-{at}"))).collect()
}

fn faults(rng: &mut Rng) -> Faults {
    Faults {
        lost: rng.below(100),
        doubled: rng.below(100),
        delayed: rng.below(300),
        delay: rng.range(1, 30),
        usual: 1,
        changed: 0,
    }
}

/// A node that was not there has all that was kept and cleared before it came, and what is
/// published while it is told; and live subscribers have each message once.
fn a_node_that_joins_is_told(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x7e7a);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    cluster.dead.insert(NODES - 1);
    let mut kept = Kept::default();
    let mut some = writers(&mut cluster, NODES - 1);
    cluster.go(1500);
    cluster.network.faults = faults(&mut rng);
    for topic in 0..100 {
        // More than one slice for each shard.
        kept.publish(&mut cluster, &mut some[topic % 2], &format!("retained/many/{topic}"), false);
    }
    kept.publish_some(&mut cluster, &mut some, &mut rng);
    cluster.dead.remove(&(NODES - 1));
    kept.publish_some(&mut cluster, &mut some, &mut rng);
    cluster.network.faults = Faults::default();
    cluster.go(3000);
    kept.check(&mut cluster, "after a node has joined");
    let mut reader = cluster.client(2, "live");
    reader.peer.subscribe(&mut cluster.brokers[2].world, 1, "retained/+", 0);
    cluster.go(500);
    reader.peer.hear(&mut cluster.brokers[2].world);
    let before = kept.number;
    kept.publish_some(&mut cluster, &mut some, &mut rng);
    cluster.go(1000);
    let world = &mut cluster.brokers[2].world;
    let live = reader.peer.hear(world).into_iter().filter(|got| matches!(got, Got::Publish { .. }));
    assert_eq!(live.count(), usize::from(kept.number - before), "live messages");
    reader.peer.end(&mut cluster.brokers[2].world, net::End::Fin);
    // Two at the same moment: all nodes keep the same one.
    for writer in &mut some {
        let payload = format!("of {}", writer.at);
        send(&mut cluster, writer, "retained-at-once", payload.as_bytes(), 1000);
    }
    cluster.go(500);
    some.iter_mut().for_each(|writer| {
        writer.peer.hear(&mut cluster.brokers[writer.at].world);
    });
    let first = kept_at(&mut cluster, 0, "retained-at-once", "of two");
    assert_eq!(first.len(), 1);
    for at in 1..NODES {
        assert_eq!(kept_at(&mut cluster, at, "retained-at-once", "of two"), first, "at node {at}");
    }
    kept.publish(&mut cluster, &mut some[0], "retained-at-once", true);
    kept.end(&mut cluster, &mut some[1]);
}

/// Both sides of a division keep and clear; afterwards all nodes have what was accepted last.
fn divided_nodes_agree_again(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xd171);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    let mut kept = Kept::default();
    let mut all = writers(&mut cluster, NODES);
    cluster.go(1500);
    for topic in 0..TOPICS {
        kept.publish(&mut cluster, &mut all[0], &format!("retained/{topic}"), false);
    }
    for side in ["retained/side/alone", "retained/side/others"] {
        kept.publish(&mut cluster, &mut all[1], side, false);
    }
    cluster.go(500);
    kept.check(&mut cluster, "before");
    let alone = rng.below(NODES);
    cluster.network.apart[alone] = true;
    // They are down by then, and at the longer time given up.
    cluster.go(if rng.chance(500) { 3000 } else { 8000 });
    let other = (alone + 1) % NODES;
    kept.publish(&mut cluster, &mut all[alone], "retained/side/alone", true);
    kept.publish(&mut cluster, &mut all[other], "retained/side/others", true);
    kept.publish(&mut cluster, &mut all[alone], "retained/side/both", false);
    kept.publish(&mut cluster, &mut all[other], "retained/side/both", false);
    kept.publish_some(&mut cluster, &mut all, &mut rng);
    cluster.network.apart[alone] = false;
    cluster.network.faults = faults(&mut rng);
    kept.publish_some(&mut cluster, &mut all, &mut rng);
    cluster.network.faults = Faults::default();
    cluster.go(5000);
    kept.check(&mut cluster, "after a division");
    kept.end(&mut cluster, &mut all[rng.below(NODES)]);
}

/// A message that one node has under another topic, as no engine should bring it: both nodes have
/// both after a while.
fn what_is_wrong_is_found(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xbad0);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    let mut kept = Kept::default();
    let mut all = writers(&mut cluster, NODES);
    cluster.go(1500);
    cluster.network.faults.changed = 1;
    for topic in 0..20 {
        let writer = &mut all[rng.below(NODES)];
        kept.publish(&mut cluster, writer, &format!("retained/of/{topic}"), false);
    }
    cluster.network.faults.changed = 0;
    cluster.go(40_000);
    let found = kept_at(&mut cluster, 0, "retained/#", "wrong");
    assert!(kept.messages.iter().all(|(topic, _)| found.contains_key(topic)), "{found:?}");
    kept.messages = found;
    kept.check(&mut cluster, "after they were compared");
    kept.end(&mut cluster, &mut all[0]);
}
