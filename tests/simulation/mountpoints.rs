//! Clients below different mountpoints share neither sessions nor topics.

use crate::net::Faults;
use crate::peer::{Got, Peer, hello};
use crate::scripted::{SEED, fine, mounted_world};
use crate::settings::roomy;
use crate::world::{Plan, World, listener_state};
use ringmq::packet::{AckKind, Connect, ReasonCode};

#[test]
fn a_session_under_another_mountpoint_is_another_session() {
    let mut world = mounted_world(1, roomy(), "${username}/");
    let long = Connect { username: Some("a-long-tenant"), ..hello("c", false, 60) };
    let short = Connect { username: Some("b"), ..hello("c", false, 60) };
    let mut first = Peer::connect(&mut world, 0, &short);
    first.subscribe(&mut world, 1, "t", 1);
    first.take(&mut world);
    first.goodbye(&mut world);
    let publisher = Connect { username: Some("b"), ..hello("p", true, 0) };
    let mut publisher = Peer::connect(&mut world, 0, &publisher);
    publisher.publish(&mut world, "t", b"for b", 1, 1);
    world.settle();
    let mut second = Peer::connect(&mut world, 0, &long);
    publisher.publish(&mut world, "t", b"for b too", 1, 2);
    let got = second.take(&mut world);
    assert!(matches!(got[..], [Got::ConnAck { present: false, .. }]), "{got:?}");
    fine(&world);
}

#[test]
fn sys_topics_are_the_brokers_under_a_mountpoint_too() {
    let mut world = mounted_world(1, roomy(), "tenant/");
    let mut peer = Peer::connect(&mut world, 0, &hello("c", true, 0));
    peer.subscribe(&mut world, 1, "$SYS/#", 0);
    peer.take(&mut world);
    peer.publish(&mut world, "$SYS/broker/uptime", b"fake", 1, 1);
    let got = peer.take(&mut world);
    assert_eq!(got, [Got::Ack(AckKind::PubAck, 1, ReasonCode::NotAuthorized)]);
    assert_eq!(world.counters().dropped_not_authorized, 1);
    fine(&world);
}

/// `dev/#` matches `dev`, which is nothing below the mountpoint `dev/`.
#[test]
fn a_group_of_two_mountpoints_gives_each_message_to_whom_it_is_for() {
    let mut world = World::new(Plan {
        seed: SEED,
        shards: 1,
        data: 8,
        control: 8,
        settings: roomy(),
        faults: Faults { receive: 65_536, ..Faults::default() },
        listener_states: vec![listener_state("dev/"), listener_state("")],
    });
    let mut below = Peer::connect_to(&mut world, 0, &hello("below", true, 0));
    below.subscribe(&mut world, 1, "$share/g/#", 0);
    let mut plain = Peer::connect_to(&mut world, 1, &hello("plain", true, 0));
    plain.subscribe(&mut world, 1, "$share/g/dev/#", 0);
    let mut publisher = Peer::connect_to(&mut world, 1, &hello("p", true, 0));
    (0..10).for_each(|_| publisher.publish(&mut world, "dev", b"m", 0, 0));
    assert_eq!(plain.payloads(&mut world).len(), 10);
    assert_eq!(below.payloads(&mut world).len(), 0);
    assert_eq!(world.counters().messages_dropped(), 0);
    // Nobody is left whom it is for.
    plain.goodbye(&mut world);
    (0..10).for_each(|_| publisher.publish(&mut world, "dev", b"m", 0, 0));
    assert_eq!(below.payloads(&mut world).len(), 0);
    assert_eq!(world.counters().dropped_share_full, 10);
    publisher.publish(&mut world, "dev/t", b"m", 0, 0);
    assert_eq!(below.payloads(&mut world).len(), 1);
    fine(&world);
}
