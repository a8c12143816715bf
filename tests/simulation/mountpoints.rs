//! Clients below different mountpoints share neither sessions nor topics.

use crate::peer::{Got, Peer, hello};
use crate::scripted::{fine, mounted_world};
use crate::settings::roomy;
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
