//! Retained messages for a new subscription: when they are sent, in which order, and to which
//! connection. A subscription's answer, too, belongs to the connection that asked.

use crate::peer::{Got, Peer, hello};
use crate::scripted::{fine, group_on, name_on, world};
use crate::settings::roomy;
use ringmq::limits::Budget;
use ringmq::shard::Settings;

#[test]
fn a_suback_does_not_come_on_a_later_connection() {
    let mut world = world(2, roomy());
    let name = name_on(0, 2, "c");
    let group = group_on(1, 2, "t");
    let mut first = Peer::connect(&mut world, 0, &hello(&name, false, 60));
    first.take(&mut world);
    first.subscribe(&mut world, 7, &group, 1);
    (0..10).for_each(|_| world.step(0));
    let mut second = Peer::silent(&mut world, 0, 1 << 20);
    second.begin(&mut world, &hello(&name, false, 60));
    for _ in 0..20 {
        world.step(0);
    }
    let got = second.take(&mut world);
    assert!(matches!(got[..], [Got::ConnAck { present: true, .. }]), "{got:?}");
    fine(&world);
}

#[test]
fn a_replay_of_an_earlier_connection_does_not_shorten_the_next_one() {
    let mut world = world(2, roomy());
    let name = name_on(0, 2, "c");
    let mut publisher = Peer::connect(&mut world, 1, &hello("p", true, 0));
    for number in 1..=600 {
        let topic = format!("r/{number}");
        publisher.publish_as(&mut world, &topic, topic.as_bytes(), 1, number, true);
    }
    publisher.take(&mut world);
    for rounds in 0..60 {
        let mut first = Peer::connect(&mut world, 0, &hello(&name, false, 60));
        first.take(&mut world);
        first.subscribe(&mut world, 7, "r/#", 0);
        // Both shards go on for a while, then the home of the session alone.
        for _ in 0..rounds / 2 {
            world.step(0);
            world.step(1);
        }
        if rounds % 2 == 1 {
            world.step(0);
        }
        let mut second = Peer::silent(&mut world, 0, 1 << 20);
        second.begin(&mut world, &hello(&name, false, 60));
        (0..6).for_each(|_| world.step(0));
        second.subscribe(&mut world, 8, "r/#", 0);
        (0..6).for_each(|_| world.step(0));
        let mut got = second.payloads(&mut world);
        got.sort();
        let all = got.len();
        got.dedup();
        assert_eq!((got.len(), all), (600, 600), "after {rounds} rounds");
        second.goodbye(&mut world);
    }
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
