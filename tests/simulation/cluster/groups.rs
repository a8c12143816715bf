//! Share groups with members at several nodes: each message goes to one member in the whole
//! cluster, and to another one when that is gone.

use super::engine::Faults;
use super::whole::{Cluster, GIVE_UP, Guest, NODES};
use crate::net;
use crate::peer::{Got, hello};
use crate::rng::Rng;
use crate::scripted::fine;
use std::collections::BTreeMap;

const FILTER: &str = "$share/workers/m/+";

pub fn simulate(seed: u64) {
    match seed % 5 {
        0 | 1 => one_member_gets_each(seed),
        2 => who_is_away_is_passed_over(seed),
        3 => what_is_left_goes_to_another_node(seed),
        _ => what_a_dead_node_has_not_had_goes_elsewhere(seed),
    }
}

/// Who has had which number, how often.
#[derive(Default)]
struct Had(BTreeMap<u64, u32>);

impl Had {
    fn take(&mut self, numbers: Vec<u64>) {
        numbers.into_iter().for_each(|number| *self.0.entry(number).or_default() += 1);
    }

    fn check(&self, count: u64, what: &str) {
        let often = |number| self.0.get(&number).copied().unwrap_or(0);
        let wrong: Vec<_> = (0..count).filter(|&n| often(n) != 1).map(|n| (n, often(n))).collect();
        assert!(wrong.is_empty(), "{what}, which number how often: {wrong:?}");
    }
}

fn publish(cluster: &mut Cluster, writer: &mut Guest, topic: &str, number: u64, qos: u8) {
    let mut payload = vec![0; 8 + if number % 17 == 3 { 20_000 } else { 100 }];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    let world = &mut cluster.brokers[writer.at].world;
    writer.peer.publish(world, topic, &payload, qos, number as u16 + 1);
}

fn subscribe(cluster: &mut Cluster, guest: &mut Guest, filter: &str) {
    guest.peer.subscribe(&mut cluster.brokers[guest.at].world, 1, filter, 1);
}

/// What has come, acknowledged.
fn hear(cluster: &mut Cluster, guest: &mut Guest) -> Vec<u64> {
    cluster.numbers(guest.at, &mut guest.peer)
}

/// What has come, not acknowledged.
fn hear_silently(cluster: &mut Cluster, guest: &mut Guest) -> Vec<u64> {
    let number = |got| match got {
        Got::Publish { payload, .. } => Some(u64::from_le_bytes(payload[..8].try_into().unwrap())),
        _ => None,
    };
    let got = guest.peer.hear(&mut cluster.brokers[guest.at].world);
    got.into_iter().filter_map(number).collect()
}

/// All clients end: nothing is left of any group at any node.
fn end(cluster: &mut Cluster, guests: Vec<Guest>) {
    for mut guest in guests {
        guest.peer.end(&mut cluster.brokers[guest.at].world, net::End::Fin);
    }
    cluster.go(1000);
    for (at, broker) in cluster.brokers.iter_mut().enumerate() {
        if !cluster.dead.contains(&at) {
            broker.world.settle();
            fine(&broker.world);
            assert!(broker.world.shared.interest.is_empty(), "interest keys are left at {at}");
        }
    }
}

fn dropped(cluster: &Cluster) -> u64 {
    cluster.brokers.iter().map(|broker| broker.world.counters().messages_dropped()).sum()
}

/// One member at any node gets each message, and every other subscriber gets it too, whatever
/// frames suffer; so does a second group.
fn one_member_gets_each(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x6c0);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    let mut members: Vec<Guest> = (0..rng.range(2, 5))
        .map(|number| cluster.client(rng.below(NODES), &format!("member-{number}")))
        .collect();
    let mut others = vec![cluster.client(rng.below(NODES), "second group")];
    subscribe(&mut cluster, &mut others[0], "$share/others/#");
    for at in 0..NODES {
        let mut plain = cluster.client(at, &format!("plain-{at}"));
        subscribe(&mut cluster, &mut plain, ["m/#", "m/+", "#"][rng.below(3)]);
        others.push(plain);
    }
    let mut writers: Vec<Guest> =
        (0..NODES).map(|at| cluster.client(at, &format!("writer-{at}"))).collect();
    members.iter_mut().for_each(|member| subscribe(&mut cluster, member, FILTER));
    cluster.go(1000);
    cluster.network.faults = Faults {
        lost: rng.below(120),
        doubled: rng.below(120),
        delayed: rng.below(300),
        delay: rng.range(1, 30),
        usual: 1,
        changed: 0,
    };
    let count = 90;
    let mut had = Had::default();
    let mut each: Vec<Had> = others.iter().map(|_| Had::default()).collect();
    for number in 0..count {
        let writer = &mut writers[rng.below(NODES)];
        publish(&mut cluster, writer, "m/a", number, u8::from(rng.chance(700)));
        cluster.go(rng.below(10) as u64);
        for member in &mut members {
            had.take(hear(&mut cluster, member));
        }
    }
    cluster.network.faults = Faults::default();
    cluster.go(4000);
    for member in &mut members {
        had.take(hear(&mut cluster, member));
    }
    for _ in 0..4 {
        for (other, had) in others.iter_mut().zip(&mut each) {
            had.take(hear(&mut cluster, other));
        }
        cluster.go(200);
    }
    had.check(count, "members");
    each.iter().for_each(|had| had.check(count, "another subscriber"));
    assert_eq!(dropped(&cluster), 0);
    end(&mut cluster, members.into_iter().chain(others).chain(writers).collect());
}

/// A member that is not connected gets nothing while another node has one that is; and everything
/// when it is the only one.
fn who_is_away_is_passed_over(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x6c2);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    let away_at = rng.below(NODES);
    let mut away = cluster.greet(away_at, &hello("away", true, 600));
    let mut here = cluster.client((away_at + 1) % NODES, "here");
    subscribe(&mut cluster, &mut away, FILTER);
    subscribe(&mut cluster, &mut here, FILTER);
    cluster.go(1000);
    away.peer.goodbye(&mut cluster.brokers[away_at].world);
    cluster.go(100);
    let mut writers: Vec<Guest> =
        (0..NODES).map(|at| cluster.client(at, &format!("writer-{at}"))).collect();
    let mut had = Had::default();
    for number in 0..40 {
        publish(&mut cluster, &mut writers[rng.below(NODES)], "m/a", number, 1);
        cluster.go(if number % 10 == 0 { 1100 } else { 20 });
        had.take(hear(&mut cluster, &mut here));
    }
    cluster.go(500);
    had.take(hear(&mut cluster, &mut here));
    had.check(40, "who is connected");
    here.peer.end(&mut cluster.brokers[here.at].world, net::End::Fin);
    cluster.go(1500);
    for number in 40..60 {
        publish(&mut cluster, &mut writers[rng.below(NODES)], "m/b", number, 1);
    }
    cluster.go(1500);
    // A DISCONNECT left the session: it has collected them.
    let mut back = cluster.begin(away_at, &hello("away", false, 0));
    cluster.go(500);
    had.take(hear(&mut cluster, &mut back));
    for _ in 0..4 {
        cluster.go(200);
        had.take(hear(&mut cluster, &mut back));
    }
    had.check(60, "both");
    assert_eq!(dropped(&cluster), 0);
    end(&mut cluster, writers.into_iter().chain([back]).collect());
}

/// What a member has had and not acknowledged goes to a member at another node when its session
/// ends, and so does what waited for it.
fn what_is_left_goes_to_another_node(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x6c3);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    let at = rng.below(NODES);
    let mut silent = cluster.client(at, "silent");
    let mut writer = cluster.client(rng.below(NODES), "writer");
    subscribe(&mut cluster, &mut silent, FILTER);
    cluster.go(1000);
    let count = 150;
    for number in 0..count {
        publish(&mut cluster, &mut writer, "m/a", number, 1);
    }
    cluster.go(1000);
    let acknowledged = writer.peer.hear(&mut cluster.brokers[writer.at].world).len() as u64;
    assert_eq!(acknowledged, count, "PUBACKs");
    assert!(!hear_silently(&mut cluster, &mut silent).is_empty());
    let mut other = cluster.client((at + 1) % NODES, "other");
    subscribe(&mut cluster, &mut other, FILTER);
    cluster.go(500);
    cluster.network.faults = Faults { lost: 80, doubled: 80, ..Faults::default() };
    silent.peer.end(&mut cluster.brokers[at].world, net::End::Reset);
    let mut had = Had::default();
    for _ in 0..40 {
        cluster.go(100);
        had.take(hear(&mut cluster, &mut other));
    }
    had.check(count, "who is left");
    assert_eq!(dropped(&cluster), 0);
    end(&mut cluster, vec![other, writer]);
}

/// What was on its way to a node that dies goes to a member elsewhere when the node is given up.
fn what_a_dead_node_has_not_had_goes_elsewhere(seed: u64) {
    let mut rng = Rng::new(seed ^ 0x6c4);
    let mut cluster = Cluster::new(seed, Faults::default(), 1 << 20);
    let dies = rng.range(1, NODES - 1);
    let mut members: Vec<Guest> =
        (1..NODES).map(|at| cluster.client(at, &format!("member-{at}"))).collect();
    let mut writer = cluster.client(0, "writer");
    members.iter_mut().for_each(|member| subscribe(&mut cluster, member, FILTER));
    cluster.go(1000);
    cluster.dead.insert(dies);
    let count = 60;
    let mut had = Had::default();
    for number in 0..count {
        publish(&mut cluster, &mut writer, "m/a", number, 1);
        cluster.go(rng.below(100) as u64);
        had.take(hear(&mut cluster, &mut members[NODES - 1 - dies]));
    }
    assert!(had.0.len() < count as usize, "nothing was on its way to the node");
    for _ in 0..40 {
        cluster.go(GIVE_UP / 20);
        had.take(hear(&mut cluster, &mut members[NODES - 1 - dies]));
    }
    had.check(count, "who is left");
    assert_eq!(dropped(&cluster), 0);
    let status = cluster.brokers[0].junction.node().status(cluster.now()).0;
    assert!(status.unpassed > 0 && status.peers.lost == 0, "{status:?}");
    let left = members.swap_remove(NODES - 1 - dies);
    end(&mut cluster, vec![left, writer]);
}
