//! One behaviour each, continued: wills, parking, repetition, reload.

use crate::cases::{fine, mounted_world, name_on, world};
use crate::net::End;
use crate::peer::{Got, Peer, hello, will};
use crate::settings::roomy;
use crate::world::Order;
use ringmq::limits::Budget;
use ringmq::packet::{AckKind, Connect, ReasonCode, Version};
use ringmq::shard::Settings;
use std::sync::Arc;

#[test]
fn a_will_fires_once_however_the_connection_ends() {
    let mut world = world(2, roomy());
    let mut watcher = Peer::connect(&mut world, 0, &hello("w", true, 0));
    watcher.subscribe(&mut world, 1, "w/#", 1);
    watcher.take(&mut world);
    let name = name_on(1, 2, "c");
    let with = |delay| Connect { will: Some(will("w/c", delay)), ..hello(&name, false, 60) };
    // Takeover without a delay.
    let mut first = Peer::connect(&mut world, 0, &with(0));
    let second = Peer::connect(&mut world, 1, &with(10));
    assert!(matches!(first.take(&mut world)[..], [Got::ConnAck { .. }, Got::Disconnect(_)]));
    assert!(first.is_closed(&world));
    assert_eq!(watcher.payloads(&mut world).len(), 1);
    // A delay, and the client is back in time.
    world.conns[second.conn].client = End::Reset;
    world.settle();
    world.advance(9000);
    let mut third = Peer::connect(&mut world, 1, &with(10));
    world.advance(20_000);
    world.settle();
    assert_eq!(watcher.payloads(&mut world).len(), 0);
    // A delay that passes.
    third.end(&mut world, End::Reset);
    world.settle();
    world.advance(9000);
    world.settle();
    assert_eq!(watcher.payloads(&mut world).len(), 0);
    world.advance(2000);
    assert_eq!(watcher.payloads(&mut world).len(), 1);
    // DISCONNECT deletes it; the session's end does not bring it back.
    let mut last = Peer::connect(&mut world, 0, &with(10));
    last.goodbye(&mut world);
    world.advance(100_000);
    assert_eq!(watcher.payloads(&mut world).len(), 0);
    fine(&world);
}

#[test]
fn the_first_retained_message_is_replayed_as_soon_as_it_is_acknowledged() {
    for topic in ["r/1", "r/2", "r/3", "r/4", "r/5", "r/6"] {
        let mut world = world(2, roomy());
        let (near, far) = (name_on(0, 2, "p"), name_on(0, 2, "s"));
        let mut publisher = Peer::connect(&mut world, 0, &hello(&near, true, 0));
        let mut subscriber = Peer::connect(&mut world, 0, &hello(&far, true, 0));
        publisher.take(&mut world);
        subscriber.take(&mut world);
        publisher.publish_as(&mut world, topic, b"m", 1, 1, true);
        while world.conns[publisher.conn].down.is_empty() {
            world.step(0);
        }
        subscriber.subscribe(&mut world, 1, topic, 1);
        (0..5).for_each(|_| world.step(0));
        assert_eq!(subscriber.payloads(&mut world).len(), 1, "{topic}");
        fine(&world);
    }
}

#[test]
fn a_replay_does_not_overtake_a_message_that_is_still_being_handed_out() {
    // Nothing of a fan-out fits into the step in which its message comes.
    let budget = Budget { step: 1, turn: 1, subscribers_at_once: 0, ..Budget::BROKER };
    for topic in ["r/1", "r/2", "r/3", "r/4", "r/5", "r/6"] {
        let mut world = world(2, Settings { budget, ..roomy() });
        let mut publisher = Peer::connect(&mut world, 1, &hello(&name_on(1, 2, "p"), true, 0));
        let mut subscriber = Peer::connect(&mut world, 0, &hello(&name_on(0, 2, "s"), true, 0));
        publisher.publish_as(&mut world, topic, b"old", 1, 1, true);
        publisher.take(&mut world);
        subscriber.take(&mut world);
        subscriber.subscribe(&mut world, 1, topic, 1);
        (0..5).for_each(|_| world.step(0));
        // If shard 1 keeps the topic, the old message and the new one leave it in one step.
        publisher.publish_as(&mut world, topic, b"new", 1, 2, true);
        world.step(1);
        let got = subscriber.payloads(&mut world);
        assert!(got == ["new"] || got == ["old", "new"], "{topic}: {got:?}");
        fine(&world);
    }
}

#[test]
fn who_was_heard_late_and_waits_for_the_next_step_is_not_silent() {
    // One packet uses up a step.
    let budget = Budget { step: 1, turn: 1, ..Budget::BROKER };
    let mut world = world(1, Settings { budget, ..roomy() });
    let names: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
    let hellos = names.iter().map(|name| Connect { keep_alive: 5, ..hello(name, true, 0) });
    let mut peers: Vec<Peer> = hellos.map(|hello| Peer::connect(&mut world, 0, &hello)).collect();
    peers.iter_mut().for_each(|peer| drop(peer.take(&mut world)));
    world.advance(1000);
    world.settle();
    for peer in &mut peers {
        peer.raw(&mut world, &[0xc0, 0]);
    }
    world.advance(20_000);
    for peer in &mut peers {
        assert_eq!(peer.take(&mut world), [Got::Pong]);
    }
    fine(&world);
}

#[test]
fn a_publisher_that_is_parked_again_as_it_goes_on_is_not_forgotten() {
    let mut world = world(1, Settings { outgoing_max_bytes: 65_536, ..roomy() });
    let mut subscriber = Peer::silent(&mut world, 0, 1000);
    subscriber.begin(&mut world, &hello("s", true, 0));
    subscriber.subscribe(&mut world, 1, "t", 0);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for number in 1..=40 {
        publisher.publish(&mut world, "t", &[0; 4000], 1, number);
    }
    world.settle();
    for _ in 0..10 {
        // The moment at which it goes on anyhow, and the subscriber does not count as slow yet.
        world.advance(300);
        world.settle();
    }
    assert_eq!(publisher.take(&mut world).len(), 41, "the publisher waits for ever");
    assert_eq!(world.nodes[0].shard.audit().held, []);
}

#[test]
fn nobody_waits_for_a_subscriber_that_has_gone() {
    let mut world = world(1, Settings { outgoing_max_bytes: 65_536, ..roomy() });
    let mut subscriber = Peer::silent(&mut world, 0, 1000);
    subscriber.begin(&mut world, &hello("s", true, 60));
    subscriber.subscribe(&mut world, 1, "t", 0);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for number in 1..=100 {
        publisher.publish(&mut world, "t", &[0; 4000], 1, number);
    }
    world.settle();
    assert_eq!(world.nodes[0].shard.audit().parked, [1, 1, 0]);
    subscriber.end(&mut world, End::Reset);
    assert_eq!(publisher.take(&mut world).len(), 101);
    world.advance(1000);
    world.settle();
    assert_eq!(world.nodes[0].shard.audit().parked, [0, 0, 0]);
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
fn last_words_have_their_time_whatever_timer_was_running() {
    let mut world = world(1, roomy());
    let mut first = Peer::silent(&mut world, 0, 16);
    first.begin(&mut world, &hello("c", true, 60));
    world.settle();
    world.advance(4900);
    let mut watcher = Peer::connect(&mut world, 0, &hello("c", true, 60));
    watcher.take(&mut world);
    world.advance(300);
    world.settle();
    assert!(!first.is_closed(&world), "closed 0.3 s after DISCONNECT was written");
    let got = first.take(&mut world);
    assert!(matches!(got[..], [Got::ConnAck { .. }, Got::Disconnect(_)]), "{got:?}");
    world.advance(10_000);
    world.settle();
    assert_eq!(world.nodes[0].shard.audit().connections, 1);
}

#[test]
fn a_closing_connection_that_breaks_is_closed_at_once() {
    let mut world = world(1, roomy());
    let mut first = Peer::silent(&mut world, 0, 16);
    first.begin(&mut world, &hello("c", true, 60));
    world.settle();
    let mut second = Peer::connect(&mut world, 0, &hello("c", true, 60));
    second.take(&mut world);
    first.end(&mut world, End::Reset);
    world.settle();
    assert_eq!(world.nodes[0].shard.audit().connections, 1);
}

#[test]
fn a_silent_client_is_dropped_after_its_keep_alive_even_while_it_is_not_read() {
    let mut world = world(1, Settings { outgoing_max_bytes: 4096, ..roomy() });
    let mut peer = Peer::silent(&mut world, 0, 64);
    let mut connect = hello("c", true, 0);
    connect.keep_alive = 10;
    peer.begin(&mut world, &connect);
    world.settle();
    peer.raw(&mut world, &[0xC0, 0].repeat(20_000));
    for _ in 0..140 {
        world.settle();
        world.advance(100);
    }
    assert_eq!(world.counters().connections_open, 1, "14 s of silence are allowed");
    for _ in 0..30 {
        world.settle();
        world.advance(100);
    }
    assert_eq!(world.counters().connections_open, 0);
    assert_eq!(world.counters().keepalive_timeouts, 1);
}

/// [MQTT-3.1.2-22] is about packets that were received, not about those that were acted on.
#[test]
fn a_packet_that_waits_for_its_client_to_read_is_heard_when_it_comes() {
    let mut world = world(1, Settings { outgoing_max_bytes: 4096, ..roomy() });
    let mut peer = Peer::silent(&mut world, 0, 64);
    let mut connect = hello("c", true, 0);
    connect.keep_alive = 10;
    peer.begin(&mut world, &connect);
    peer.subscribe(&mut world, 1, "t", 1);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for id in 1..=10 {
        publisher.publish(&mut world, "t", &[7; 1000], 1, id);
    }
    let mut open_after = |millis: u64| {
        for _ in 0..millis / 100 {
            world.settle();
            world.advance(100);
        }
        world.settle();
        let open = world.counters().connections_open;
        peer.raw(&mut world, &[0xC0, 0]);
        world.settle();
        open
    };
    assert_eq!(open_after(12_000), 2);
    assert_eq!(open_after(14_000), 2, "it pinged 14 s ago");
    // Since the last one nothing is read of it.
    assert_eq!(open_after(16_000), 1);
    assert_eq!(world.counters().keepalive_timeouts, 1);
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

#[test]
fn a_will_whose_delay_is_over_is_sent_even_if_its_timer_has_not_fired() {
    for (delay, expiry, wills, present) in
        [(10, 60, 1, true), (10, 10, 1, false), (20, 60, 0, true)]
    {
        let mut world = world(1, roomy());
        let mut watcher = Peer::connect(&mut world, 0, &hello("w", true, 0));
        watcher.subscribe(&mut world, 1, "w/#", 1);
        watcher.take(&mut world);
        let with = Connect { will: Some(will("w/c", delay)), ..hello("c", false, expiry) };
        let mut first = Peer::connect(&mut world, 0, &with);
        first.end(&mut world, End::Reset);
        world.settle();
        // The clock jumps, and the client is there before any timer.
        world.advance(12_000);
        let mut second = Peer::connect(&mut world, 0, &with);
        let got = second.take(&mut world);
        assert!(matches!(got[..], [Got::ConnAck { present: is, .. }] if is == present), "{got:?}");
        assert_eq!(watcher.payloads(&mut world).len(), wills, "delay {delay} expiry {expiry}");
        fine(&world);
    }
}

/// Seed 145 of the random runs: the second filter got the first one's number.
#[test]
fn a_replay_ends_with_its_subscription() {
    for steps in 0..40 {
        let mut world = world(2, roomy());
        let name = name_on(0, 2, "c");
        let mut publisher = Peer::connect(&mut world, 1, &hello("p", true, 0));
        for number in 1..=300 {
            publisher.publish_as(&mut world, &format!("r/{number}"), b"m", 1, number, true);
        }
        publisher.take(&mut world);
        let mut peer = Peer::connect(&mut world, 0, &hello(&name, true, 0));
        peer.take(&mut world);
        peer.subscribe_as(&mut world, 1, "r/#", 0, Some(1));
        (0..steps).for_each(|step| world.step(step % 2));
        peer.unsubscribe(&mut world, 2, "r/#");
        peer.subscribe_as(&mut world, 3, "r/1/+", 0, Some(2));
        peer.subscribe_as(&mut world, 4, "r/5", 0, Some(3));
        let mut got = peer.take(&mut world);
        let end = got.iter().position(|got| matches!(got, Got::UnsubAck(2))).unwrap();
        let late = got.split_off(end);
        let late: Vec<_> = late.iter().filter(|got| matches!(got, Got::Publish { .. })).collect();
        assert!(
            matches!(&late[..], [Got::Publish { topic, ids, .. }] if topic == "r/5" && *ids == [3]),
            "after {steps} steps: {late:?}"
        );
        fine(&world);
    }
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

#[test]
fn a_reload_that_ends_aliases_leaves_room_for_those_in_use() {
    let mut world = world(1, Settings { topic_alias_outbound: 4, ..roomy() });
    let mut narrow = hello("c", true, 0);
    narrow.properties.topic_alias_maximum = Some(4);
    narrow.properties.maximum_packet_size = Some(40);
    let mut peer = Peer::connect(&mut world, 0, &narrow);
    peer.subscribe(&mut world, 1, "t", 0);
    peer.take(&mut world);
    world.order(&Order::Reload(Arc::new(Settings { topic_alias_outbound: 0, ..roomy() })));
    for length in 30..40 {
        peer.publish(&mut world, "t", &vec![b'x'; length], 0, 0);
    }
    world.settle();
    let bytes = world.conns[peer.conn].down.len();
    let longest = peer.payloads(&mut world).iter().map(String::len).max();
    // Fixed header 2, topic 2 + 1, property length 1, alias 3: 31 bytes are left.
    assert_eq!(longest, Some(31), "{bytes} bytes");
    fine(&world);
}

#[test]
fn a_reload_takes_nothing_back_that_a_client_was_promised() {
    let mut world = world(2, roomy());
    let mut old = Peer::connect(&mut world, 0, &hello("old", true, 0));
    let mut reader = Peer::connect(&mut world, 1, &hello("reader", true, 0));
    reader.subscribe(&mut world, 1, "t", 0);
    old.take(&mut world);
    reader.take(&mut world);
    let less =
        Settings { max_packet_size: 100, max_qos: 0, retain: false, receive_maximum: 1, ..roomy() };
    // Twice: what was promised before the first still holds after the second.
    world.order(&Order::Reload(Arc::new(less.clone())));
    world.order(&Order::Reload(Arc::new(less)));
    old.publish(&mut world, "t", &[b'a'; 500], 2, 1);
    old.publish(&mut world, "t", &[b'b'; 500], 2, 2);
    old.publish_as(&mut world, "t", b"c", 0, 0, true);
    assert_eq!(old.take(&mut world).len(), 2, "two PUBREC");
    assert_eq!(reader.payloads(&mut world).len(), 3);
    for (payload, qos, retain, reason) in [
        (vec![b'a'; 500], 0, false, ReasonCode::PacketTooLarge),
        (vec![b'a'], 1, false, ReasonCode::QosNotSupported),
        (vec![b'a'], 0, true, ReasonCode::RetainNotSupported),
    ] {
        let mut new = Peer::connect(&mut world, 0, &hello("new", true, 0));
        new.take(&mut world);
        new.publish_as(&mut world, "t", &payload, qos, 1, retain);
        assert_eq!(new.take(&mut world), [Got::Disconnect(reason)]);
        new.end(&mut world, End::Fin);
        world.settle();
    }
    fine(&world);
}
