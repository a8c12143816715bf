//! Power cuts at one moment each: as soon as a client was told something that takes several steps,
//! or several shards.

use super::broker::House;
use crate::net::End;
use crate::peer::{Got, Peer, hello};
use ringmq::packet::{AckKind, ReasonCode};
use ringmq::storage::log::LogBounds;
use std::collections::BTreeSet;

/// Subscribers of a fan-out: with one for each step, they take longer than a commit.
const MANY: usize = 150;

/// A client subscribes to `far/#` and goes; its session stays.
pub(super) fn leave_session(house: &mut House, name: &str) {
    let mut peer = Peer::connect(&mut house.world, 0, &hello(name, false, 5000));
    peer.subscribe(&mut house.world, 1, "far/#", 1);
    house.settle();
    peer.end(&mut house.world, End::Fin);
    house.settle();
}

/// A message for many sessions that are away, delivered over many steps: acknowledged, all have it.
pub fn simulate_fan_out(seed: u64) {
    // Seeds of small steps.
    let bounds = LogBounds { gather: 0, ..super::broker::GATHER };
    let mut house = House::new(3 * seed, bounds);
    let names: Vec<String> = (0..MANY).map(|number| format!("far-{number}")).collect();
    for name in &names {
        leave_session(&mut house, name);
    }
    let mut publisher = Peer::connect(&mut house.world, 0, &hello("publisher", true, 0));
    publisher.publish(&mut house.world, "far/x", b"all", 1, 1);
    let told = |got: &Got| matches!(got, Got::Ack(AckKind::PubAck, 1, _));
    let told = (0..5000).any(|_| {
        house.step();
        let now = publisher.hear(&mut house.world).iter().any(told);
        if !now {
            house.disks(900);
        }
        now
    });
    assert!(told, "a message for many is never acknowledged");
    house.crash();
    for name in &names {
        let mut peer = Peer::connect(&mut house.world, 0, &hello(name, false, 5000));
        // It is settled already before the client was heard.
        house.pass(20);
        house.settle();
        let got = peer.payloads(&mut house.world);
        assert_eq!(got, ["all"], "{name}: acknowledged and lost");
        peer.end(&mut house.world, End::Fin);
    }
}

/// A publisher never pauses, so that there is always something of it that is not durable: it is
/// answered all the same, and then the power fails. What was acknowledged is there.
pub fn simulate_pauseless(seed: u64) {
    const WINDOW: usize = 12;
    let mut house = House::new(seed, super::broker::GATHER);
    leave_session(&mut house, "away");
    let entry = house.rng.below(house.stores.len());
    let mut publisher = Peer::connect(&mut house.world, entry, &hello("publisher", true, 0));
    // Numbers that are not answered, the answered ones, and how often some were answered while
    // others waited.
    let (mut open, mut answered, mut between) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut next = 1;
    for _ in 0..2000 {
        if open.len() < WINDOW {
            let payload = next.to_string();
            publisher.publish(&mut house.world, "far/x", payload.as_bytes(), 1, next);
            open.insert(next);
            next += 1;
        }
        house.turn();
        let before = answered.len();
        for got in publisher.hear(&mut house.world) {
            let Got::Ack(AckKind::PubAck, number, _) = got else { continue };
            assert!(open.remove(&number), "{number} is answered twice");
            answered.insert(number);
        }
        between += u64::from(answered.len() > before && !open.is_empty());
        if between > 30 && answered.len() > before && house.rng.chance(300) {
            break;
        }
    }
    assert!(between > 30, "answered {between} times while it said more, {} in all", answered.len());
    house.crash();
    let mut away = Peer::connect(&mut house.world, 0, &hello("away", false, 5000));
    let mut received = BTreeSet::new();
    for _ in 0..400 {
        house.turn();
        for got in away.hear(&mut house.world) {
            let Got::Publish { payload, id, .. } = got else { continue };
            received.insert(String::from_utf8(payload).unwrap().parse::<u16>().unwrap());
            away.ack(&mut house.world, AckKind::PubAck, id);
        }
    }
    let lost: Vec<_> = answered.difference(&received).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    house.settle();
}

/// How a member of a share group gives back what it has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// It begins anew.
    Session,
    /// It unsubscribes; what it was sent it keeps.
    Group,
}

/// What a member gives back to its group as it goes comes to another member, whenever the power
/// fails after the member was told that it has gone.
pub fn simulate_returns(seed: u64) {
    const GROUP: &str = "$share/g/back/x";
    let mut house = House::new(seed, super::broker::GATHER);
    let entry = house.rng.below(house.stores.len());
    let mut stays = Peer::connect(&mut house.world, entry, &hello("stays", false, 5000));
    stays.subscribe(&mut house.world, 1, GROUP, 1);
    let mut connect = hello("leaves", false, 5000);
    connect.properties.receive_maximum = Some(3);
    let mut leaves = Peer::connect(&mut house.world, entry, &connect);
    leaves.subscribe(&mut house.world, 1, GROUP, 1);
    house.settle();
    stays.end(&mut house.world, End::Fin);
    house.settle();
    let mut publisher = Peer::connect(&mut house.world, 0, &hello("publisher", true, 0));
    let sent: BTreeSet<String> = (1..=6u16).map(|number| number.to_string()).collect();
    for number in 1..=6 {
        let payload = number.to_string();
        publisher.publish(&mut house.world, "back/x", payload.as_bytes(), 1, number);
    }
    house.pass(50);
    house.settle();
    let acknowledged = |got: &Got| matches!(got, Got::Ack(_, _, ReasonCode::Success));
    let acknowledged =
        publisher.hear(&mut house.world).iter().filter(|&got| acknowledged(got)).count();
    assert_eq!(acknowledged, 6);
    let mut received = payloads(&leaves.hear(&mut house.world));
    let how = [Leaves::Session, Leaves::Group][house.rng.below(2)];
    let mut again = match how {
        Leaves::Session => Peer::connect(&mut house.world, entry, &hello("leaves", true, 0)),
        Leaves::Group => {
            leaves.unsubscribe(&mut house.world, 2, GROUP);
            leaves
        }
    };
    let told = |got: &Got| matches!(got, Got::ConnAck { .. } | Got::UnsubAck(_));
    let told = (0..3000).any(|_| {
        house.creep();
        again.hear(&mut house.world).iter().any(told)
    });
    assert!(told, "it is never told that it has gone");
    for _ in 0..house.rng.below(12) {
        house.creep();
    }
    house.crash();
    if how == Leaves::Session {
        // What it was sent and has not acknowledged is another's now.
        received.clear();
    }
    // Whatever is on its way has time.
    for _ in 0..5 {
        house.world.advance(500);
        house.pass(20);
    }
    let mut stays = Peer::connect(&mut house.world, 0, &hello("stays", false, 5000));
    house.pass(100);
    received.extend(payloads(&stays.hear(&mut house.world)));
    assert_eq!(received, sent, "acknowledged, and lost on its way to another member");
    house.settle();
}

fn payloads(got: &[Got]) -> BTreeSet<String> {
    let payload = |got: &Got| match got {
        Got::Publish { payload, .. } => Some(String::from_utf8(payload.clone()).unwrap()),
        _ => None,
    };
    got.iter().filter_map(payload).collect()
}

#[test]
fn a_message_for_many_is_stored_for_all_before_it_is_acknowledged() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(10);
    (1..=seeds).for_each(simulate_fan_out);
}

#[test]
fn a_publisher_that_never_pauses_is_answered() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(20);
    (1..=seeds).for_each(simulate_pauseless);
}

#[test]
fn what_goes_back_to_a_share_group_survives_power_cuts() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(60);
    (1..=seeds).for_each(simulate_returns);
}
