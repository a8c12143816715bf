//! Nodes whose sessions survive their loss, in the middle of whose life another process takes their
//! place ([`ringmq::upgrade`]): what was acknowledged before, meanwhile and afterwards is there
//! when the node is lost, once, and what the node knew of other lost nodes holds.

use super::durable::{EXPIRY, Fleet, adopter, reader};
use super::upgrades::UpgradeEnd;
use super::whole::NODES;
use crate::peer::hello;
use crate::rng::Rng;
use ringmq::storage::journal::WithoutStream;

pub fn simulate(seed: u64) {
    match seed % 6 {
        0..=2 => a_node_is_replaced_and_lost(seed),
        3 => who_began_anew_has_nothing_of_before(seed),
        4 => what_is_to_be_adopted_is_awaited(seed),
        _ => a_node_that_was_adopted_once_is_adopted_again(seed),
    }
}

/// The node is upgraded under load, some times, and dies soon after it.
fn a_node_is_replaced_and_lost(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xdb1);
    let mut fleet = Fleet::new(seed, WithoutStream::Wait);
    fleet.cluster.network.keeper.failing = rng.below(60);
    fleet.cluster.network.keeper.delay = rng.range(1, 30);
    let dies = rng.below(NODES);
    let to = adopter(dies);
    let _reader = reader(&mut fleet, dies, &hello("reader", true, EXPIRY));
    let mut writer = fleet.cluster.client(dies, "writer");
    let mut upgrades = 0;
    for round in 0..3 {
        for _ in 0..rng.range(5, 30) {
            let size = if rng.chance(100) { 30_000 } else { rng.below(300) };
            fleet.publish(&mut writer, size);
            fleet.cluster.go(rng.below(12) as u64);
            fleet.note(&mut writer);
        }
        let fails = round < 2 && rng.chance(300);
        let end = if fails { UpgradeEnd::Fails } else { UpgradeEnd::Serves };
        upgrades += u32::from(fleet.upgrade(dies, end) == Ok(true));
        assert!(!writer.peer.is_closed(&fleet.cluster.brokers[dies].world));
    }
    assert!(upgrades > 0, "it was never upgraded");
    for _ in 0..rng.range(1, 10) {
        fleet.publish(&mut writer, rng.below(300));
        fleet.cluster.go(rng.range(1, 9) as u64);
        fleet.note(&mut writer);
    }
    assert_eq!((0..NODES).map(|at| fleet.counts(at).done).sum::<u64>(), 0, "adoptions");
    fleet.kill(dies);
    fleet.cluster.go(rng.range(3000, 8000) as u64);
    let (_reader, numbers) = fleet.resume(to, "reader");
    fleet.check(&numbers);
    assert_eq!((fleet.counts(to).damaged, fleet.counts(to).done), (0, 1));
    assert_eq!(fleet.sessions().iter().sum::<u64>(), 1, "sessions after node {dies} has died");
    fleet.restart(dies);
    fleet.cluster.go(5000);
    let world = &fleet.cluster.brokers[dies].world;
    assert_eq!(world.counters().sessions, 0, "sessions at the node that is back");
    fleet.end();
}

/// A client begins anew at another node while its own is lost. The node that adopts knows of it,
/// although its process is replaced in between.
fn who_began_anew_has_nothing_of_before(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xdb2);
    let mut fleet = Fleet::new(seed, WithoutStream::Wait);
    fleet.cluster.network.keeper.delay = rng.range(1, 6);
    let dies = rng.below(NODES);
    let to = adopter(dies);
    let other = 3 - dies - to;
    drop(fleet.greet(dies, &hello("anew", true, EXPIRY)));
    fleet.cluster.go(500);
    fleet.kill(dies);
    fleet.cluster.go(rng.below(500) as u64);
    let _anew = fleet.greet(other, &hello("anew", true, EXPIRY));
    assert_eq!(fleet.upgrade(to, UpgradeEnd::Serves), Ok(true));
    fleet.cluster.go(12_000);
    assert_eq!((fleet.counts(to).done, fleet.counts(to).superseded), (1, 1));
    assert_eq!(fleet.sessions().iter().sum::<u64>(), 1, "sessions of one client");
    fleet.end();
}

/// The node that would adopt the sessions of a lost one is upgraded as soon as that one is gone: a
/// client of the lost node that connects there waits until it has its session.
fn what_is_to_be_adopted_is_awaited(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xdb3);
    let mut fleet = Fleet::new(seed, WithoutStream::Wait);
    fleet.cluster.network.keeper.delay = 3;
    let dies = rng.below(NODES);
    let to = adopter(dies);
    drop(reader(&mut fleet, dies, &hello("reader", true, EXPIRY)));
    let mut writer = fleet.cluster.client(dies, "writer");
    for _ in 0..40 {
        fleet.publish(&mut writer, rng.below(300));
        fleet.cluster.go(8);
        fleet.note(&mut writer);
    }
    fleet.kill(dies);
    let name = format!("node-{dies}");
    let is_seen = |fleet: &Fleet| {
        let node = fleet.cluster.brokers[to].junction.node();
        node.status(fleet.cluster.now()).1.iter().any(|peer| peer.name == name && peer.up)
    };
    // The members are read for longer than the shards need to come to rest.
    fleet.cluster.network.keeper.delay = 25;
    while is_seen(&fleet) {
        fleet.cluster.go(1);
    }
    let outcome = fleet.upgrade(to, UpgradeEnd::Serves);
    fleet.cluster.network.keeper.delay = 3;
    assert!(matches!(outcome, Ok(true) | Err("sessions of a lost node that are being adopted")));
    let (_reader, numbers) = fleet.resume(to, "reader");
    fleet.check(&numbers);
    assert_eq!(fleet.counts(to).done, 1);
    fleet.end();
}

/// A node that was cut off, adopted, and is back goes on under another incarnation, by which its
/// sessions can be adopted again; also when its process is replaced meanwhile.
fn a_node_that_was_adopted_once_is_adopted_again(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xdb4);
    let mut fleet = Fleet::new(seed, WithoutStream::Wait);
    let cut = rng.below(NODES);
    let to = adopter(cut);
    drop(fleet.greet(cut, &hello("before", true, EXPIRY)));
    fleet.cluster.go(500);
    fleet.cluster.network.apart[cut] = true;
    fleet.cluster.network.keeper.unreached.push(cut);
    fleet.cluster.go(8000);
    fleet.cluster.network.apart[cut] = false;
    fleet.cluster.network.keeper.unreached.clear();
    fleet.cluster.go(8000);
    assert_eq!(fleet.counts(to).done, 1);
    let mut old = reader(&mut fleet, cut, &hello("reader", true, EXPIRY));
    assert_eq!(fleet.upgrade(cut, UpgradeEnd::Serves), Ok(true));
    let mut writer = fleet.cluster.client(cut, "writer");
    for _ in 0..20 {
        fleet.publish(&mut writer, rng.below(300));
        fleet.cluster.go(rng.below(20) as u64);
        fleet.note(&mut writer);
    }
    old.peer.hear(&mut fleet.cluster.brokers[cut].world);
    fleet.cluster.go(2000);
    fleet.kill(cut);
    let (_reader, numbers) = fleet.resume(to, "reader");
    fleet.check(&numbers);
    fleet.end();
}
