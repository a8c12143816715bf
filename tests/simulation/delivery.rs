//! What one client is sent: order, repetition, packet identifiers, aliases, limits of the
//! connection.

use crate::net::End;
use crate::peer::{Got, Peer, hello};
use crate::scripted::{fine, name_on, world};
use crate::settings::roomy;
use ringmq::packet::{self, AckKind, Connect, OutPublish, Qos, Version};
use ringmq::shard::Settings;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn messages_that_cannot_be_sent_do_not_stall_those_behind_them() {
    let mut world = world(1, roomy());
    let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
    peer.subscribe(&mut world, 1, "t", 1);
    peer.take(&mut world);
    peer.goodbye(&mut world);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for number in 1..=2000 {
        publisher.publish(&mut world, "t", &[b'x'; 300], 1, number);
    }
    publisher.publish(&mut world, "t", b"small", 1, 3000);
    world.settle();
    let mut small = hello("c", false, 60);
    small.properties.maximum_packet_size = Some(100);
    let mut peer = Peer::connect(&mut world, 0, &small);
    assert_eq!(peer.payloads(&mut world), ["small"]);
    assert_eq!(world.counters().dropped_packet_too_large, 2000);
    fine(&world);
}

#[test]
fn redelivery_keeps_to_the_receive_maximum_of_the_new_connection() {
    let mut world = world(1, roomy());
    let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
    peer.subscribe(&mut world, 1, "t", 2);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for number in 1..=8 {
        publisher.publish(&mut world, "t", &[b'0' + number as u8], 1 + number as u8 % 2, number);
    }
    assert_eq!(peer.payloads(&mut world).len(), 8);
    peer.end(&mut world, End::Reset);
    world.settle();
    let mut narrow = hello("c", false, 60);
    narrow.properties.receive_maximum = Some(2);
    let mut peer = Peer::connect(&mut world, 0, &narrow);
    let mut all = Vec::new();
    for _ in 0..20 {
        let got = peer.take(&mut world);
        let publishes = got.iter().filter(|got| matches!(got, Got::Publish { .. })).count();
        assert!(publishes <= 2, "{got:?}");
        for got in got {
            match got {
                Got::Publish { payload, qos, id, dup, .. } => {
                    assert!(dup, "it was sent before");
                    all.push(payload[0] - b'0');
                    let kind = if qos == 1 { AckKind::PubAck } else { AckKind::PubRec };
                    peer.ack(&mut world, kind, id);
                }
                Got::Ack(AckKind::PubRel, id, _) => peer.ack(&mut world, AckKind::PubComp, id),
                _ => {}
            }
        }
    }
    assert_eq!(all, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(world.counters().inflight, 0);
    fine(&world);
}

#[test]
fn a_qos_2_message_that_was_sent_does_not_expire() {
    let mut world = world(1, Settings { message_expiry_max: Some(1), ..roomy() });
    let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
    peer.subscribe(&mut world, 1, "t", 2);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    publisher.publish(&mut world, "t", b"m", 2, 1);
    assert_eq!(peer.payloads(&mut world), ["m"]);
    peer.end(&mut world, End::Reset);
    world.settle();
    world.advance(5000);
    let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
    // [MQTT-4.3.3-7]: the client may hold it under that identifier and wait for PUBREL.
    assert_eq!(peer.payloads(&mut world), ["m"]);
    fine(&world);
}

#[test]
fn overlapping_subscriptions_with_one_identifier_send_it_twice() {
    let mut world = world(1, roomy());
    let mut peer = Peer::connect(&mut world, 0, &hello("c", true, 0));
    peer.subscribe_as(&mut world, 1, "t/#", 0, Some(5));
    peer.subscribe_as(&mut world, 2, "t/+", 0, Some(5));
    peer.take(&mut world);
    peer.publish(&mut world, "t/1", b"m", 0, 0);
    let got = peer.take(&mut world);
    assert!(matches!(&got[..], [Got::Publish { ids, .. }] if *ids == [5, 5]), "{got:?}");
}

#[test]
fn qos_0_does_not_overtake_the_qos_0_that_was_queued_while_offline() {
    let mut world = world(1, Settings { queue_qos0: true, max_inflight: 1, ..roomy() });
    let mut subscriber = Peer::connect(&mut world, 0, &hello("s", false, 60));
    subscriber.subscribe(&mut world, 1, "t", 0);
    subscriber.subscribe(&mut world, 1, "u", 1);
    subscriber.take(&mut world);
    subscriber.goodbye(&mut world);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for (number, topic) in ["u", "u", "t"].into_iter().enumerate() {
        publisher.publish(&mut world, topic, &[b'1' + number as u8], 1, number as u16 + 1);
    }
    world.settle();
    let mut subscriber = Peer::connect(&mut world, 0, &hello("s", false, 60));
    publisher.publish(&mut world, "t", b"4", 1, 4);
    assert_eq!(subscriber.payloads(&mut world), ["1"]);
    subscriber.ack(&mut world, AckKind::PubAck, 1);
    assert_eq!(subscriber.payloads(&mut world), ["2", "3", "4"]);
    fine(&world);
}

#[test]
fn where_messages_are_repeated_an_identifier_is_not_used_again_at_once() {
    let mut world = world(1, Settings { retry_interval: 1000, ..roomy() });
    let connect = Connect { version: Version::V311, ..hello("c", true, 0) };
    let mut peer = Peer::connect(&mut world, 0, &connect);
    peer.subscribe(&mut world, 1, "t", 1);
    peer.take(&mut world);
    for expected in 1..5 {
        peer.publish(&mut world, "t", b"m", 0, 0);
        peer.publish(&mut world, "t", b"m", 1, 1);
        let got = peer.take(&mut world);
        let id = got.iter().find_map(|got| match got {
            Got::Publish { qos: 1, id, .. } => Some(*id),
            _ => None,
        });
        assert_eq!(id, Some(expected));
        peer.ack(&mut world, AckKind::PubAck, expected);
        for _ in 0..10 {
            world.settle();
            world.advance(500);
        }
    }
    fine(&world);
}

/// Seed 3 of the random runs with topic aliases.
#[test]
fn a_repeated_qos_2_publish_sets_its_topic_alias_all_the_same() {
    let mut world = world(1, roomy());
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", false, 60));
    publisher.publish(&mut world, "t", b"1", 2, 1);
    publisher.take(&mut world);
    publisher.end(&mut world, End::Reset);
    world.settle();
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", false, 60));
    publisher.alias(&mut world, "t", b"1", 2, 1, true);
    publisher.alias(&mut world, "", b"2", 1, 2, false);
    let got = publisher.take(&mut world);
    assert!(
        matches!(
            got[..],
            [
                Got::ConnAck { present: true, .. },
                Got::Ack(AckKind::PubRec, 1, _),
                Got::Ack(AckKind::PubAck, 2, _),
            ]
        ),
        "{got:?}"
    );
    fine(&world);
}

/// [MQTT-3.3.2-6]: a shard whose step began before the message came, because it was held up in
/// between, does not say more seconds than were received.
#[test]
fn a_shard_that_is_held_up_within_a_step_adds_no_second_to_what_a_message_has_left() {
    let mut world = world(2, roomy());
    let clock = Arc::new(AtomicU64::new(world.now));
    let own = Arc::clone(&clock);
    world.nodes[0].shard.set_clock(Box::new(move || own.load(Ordering::Relaxed) * 1000));
    let mut subscriber = Peer::connect(&mut world, 0, &hello(&name_on(0, 2, "s"), true, 0));
    subscriber.subscribe(&mut world, 1, "t", 0);
    subscriber.take(&mut world);
    let mut publisher = Peer::connect(&mut world, 1, &hello(&name_on(1, 2, "p"), true, 0));
    publisher.take(&mut world);
    world.nodes[0].driver.faults.torn = 1000;
    world.step(0);
    assert!(world.is_mid_step(0), "its step has begun");
    world.now += 700;
    clock.store(world.now, Ordering::Relaxed);
    publisher.write(&mut world, |out, version| {
        let publish = OutPublish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic: "t",
            id: None,
            message_expiry: Some(7),
            topic_alias: None,
            subscription_ids: &[],
            forwarded: &[],
            payload: b"m",
        };
        packet::encode_publish(out, version, &publish).unwrap();
    });
    world.step(1);
    world.nodes[0].driver.faults.torn = 0;
    world.step(0);
    let got = subscriber.hear(&mut world);
    let got = if got.is_empty() { subscriber.take(&mut world) } else { got };
    assert!(matches!(&got[..], [Got::Publish { expiry: Some(7), .. }]), "{got:?}");
    fine(&world);
}
