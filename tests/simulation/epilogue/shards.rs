//! What takes more than one shard: share groups, replays, mailboxes. Some of these step the shards
//! by hand, to put mail in the order that matters.

use super::*;

/// A share group is routed to from the moment of its first member's SUBACK.
pub fn group_from_its_suback(world: &mut World) {
    let name = on(world, 0, |n| format!("e-member-{n}"));
    let group = on(world, 1, |n| format!("$share/e{n}/e/g"));
    let other = on(world, 1, |n| format!("e-publisher-{n}"));
    let mut member = join_at(world, 0, &hello(&name, true, 0));
    let mut publisher = join_at(world, 1, &hello(&other, true, 0));
    member.subscribe(world, 1, &group, 1);
    for _ in 0..1000 {
        world.step(0);
        if !world.conns[member.conn].down.is_empty() {
            break;
        }
        // Only as much as it takes.
        if !world.is_runnable(0) {
            world.step(1);
        }
    }
    publisher.publish(world, "e/g", b"m", 1, 1);
    world.step(1);
    let got = member.take(world);
    assert!(
        matches!(&got[..], [Got::SubAck(1, _), Got::Publish { id, .. }] if *id > 0),
        "published after SUBACK: {got:?}"
    );
    part(world, [member, publisher]);
}

/// What was picked for a member that has left goes to another [MQTT-3.10.4-2, section 4.8.2].
pub fn group_with_a_leaver(world: &mut World) {
    let name = on(world, 0, |n| format!("e-member-{n}"));
    let group = on(world, 1, |n| format!("$share/e{n}/e/l"));
    let other = on(world, 1, |n| format!("e-publisher-{n}"));
    let mut member = join_at(world, 0, &hello(&name, true, 60));
    subscribe(world, &mut member, Wish::new(&group, 1));
    let mut publisher = join_at(world, 1, &hello(&other, true, 0));
    subscribe(world, &mut publisher, Wish::new(&group, 1));
    // No more than the shortest queue holds.
    for number in 1..=4 {
        publisher.publish(world, "e/l", &[b'0' + number as u8], 1, number);
    }
    for _ in 0..5 {
        world.step(1);
    }
    member.unsubscribe(world, 9, &group);
    let got = member.take(world);
    assert_eq!(got, [Got::UnsubAck(9)], "a message after UNSUBACK");
    let mut got = payloads(&publisher.read_all(world));
    // With a short queue it holds up its own publisher, itself, for a while now and then.
    for _ in 0..10 {
        wait(world, 400);
        got.extend(payloads(&publisher.read_all(world)));
    }
    got.sort();
    let expected: Vec<Vec<u8>> = (b'1'..=b'4').map(|n| vec![n]).collect();
    assert_eq!(got, expected, "each message goes to one member");
    part(world, [publisher]);
    member.end(world, End::Reset);
    world.settle();
}

/// A retained message whose PUBACK has come is found by whoever subscribes then, wherever it is
/// kept and whatever is still on its way there.
pub fn replay_after_puback(world: &mut World) {
    let name = on(world, 0, |n| format!("e-late-{n}"));
    let other = on(world, 0, |n| format!("e-publisher-{n}"));
    let mut publisher = join_at(world, 0, &hello(&other, true, 0));
    let mut late = join_at(world, 0, &hello(&name, true, 0));
    let count = 40;
    for number in 1..=count {
        let topic = format!("e/k/{number}");
        publisher.publish_as(world, &topic, b"m", 1, number, true);
    }
    (0..20).for_each(|_| world.step(0));
    late.subscribe(world, 1, "e/k/#", 0);
    (0..20).for_each(|_| world.step(0));
    let got = late.take(world);
    assert_eq!(got.len(), 1 + usize::from(count), "retained messages acknowledged before");
    assert_eq!(publisher.take(world).len(), usize::from(count));
    for number in 1..=count {
        let topic = format!("e/k/{number}");
        publish(world, &mut publisher, &topic, b"", Said { retain: true, ..Said::default() });
    }
    part(world, [late, publisher]);
}

/// A retained message that is on its way to a new subscriber does not come after a newer one of
/// its topic that went out live.
pub fn replay_and_live(world: &mut World) {
    let name = on(world, 0, |n| format!("e-late-{n}"));
    let other = on(world, 0, |n| format!("e-publisher-{n}"));
    let mut publisher = join_at(world, 0, &hello(&other, true, 0));
    let mut late = join_at(world, 0, &hello(&name, true, 0));
    let topics: Vec<String> = (0..40).map(|number| format!("e/v/{number}")).collect();
    let all = |world: &mut World, publisher: &mut Peer, payload: &[u8]| {
        for topic in &topics {
            publisher.publish_as(world, topic, payload, 0, 0, true);
        }
    };
    all(world, &mut publisher, b"old");
    world.settle();
    late.subscribe(world, 1, "e/v/#", 0);
    // Shard 1 has cut its slice, and shard 0 has not taken it in.
    (0..20).for_each(|_| world.step(0));
    world.step(1);
    all(world, &mut publisher, b"new");
    let mut got = late.take(world);
    assert_eq!(got.remove(0), Got::SubAck(1, vec![0]));
    for topic in &topics {
        let last = got.iter().rev().find_map(|got| match got {
            Got::Publish { topic: name, payload, .. } if name == topic => Some(&payload[..]),
            _ => None,
        });
        assert_eq!(last, Some(&b"new"[..]), "the last message of {topic}");
    }
    all(world, &mut publisher, b"");
    part(world, [late, publisher]);
}

/// Publishers towards a mailbox that fills up wait and lose nothing: what a subscriber did not get
/// was shed and counted, and what it got is in order [MQTT-4.6.0-6].
pub fn full_mailbox(world: &mut World) {
    let reader = on(world, 1, |n| format!("e-reader-{n}"));
    let mut subscriber = join_at(world, 1, &hello(&reader, true, 0));
    subscribe(world, &mut subscriber, Wish::new("e/f/#", 0));
    let mut publishers = Vec::new();
    for number in 0..3 {
        let name = on(world, 0, |n| format!("e-publisher-{number}-{n}"));
        publishers.push(join_at(world, 0, &hello(&name, true, 0)));
    }
    let before = world.counters().dropped_outgoing_full;
    let each = 24;
    for (at, publisher) in publishers.iter_mut().enumerate() {
        for number in 0..each {
            // Small ones are copied into a batch, large ones travel on their own.
            let mut payload = vec![at as u8, number];
            payload.resize(if number % 2 == 0 { 20 } else { 9000 }, b'.');
            publisher.publish(world, &format!("e/f/{at}"), &payload, 0, 0);
        }
    }
    (0..300).for_each(|_| world.step(0));
    let mut got = Vec::new();
    for _ in 0..20 {
        got.extend(payloads(&subscriber.read_all(world)));
        wait(world, 400);
    }
    let shed = world.counters().dropped_outgoing_full - before;
    assert_eq!(got.len() as u64 + shed, 3 * u64::from(each), "delivered and shed");
    for at in 0..3 {
        let numbers: Vec<u8> =
            got.iter().filter(|p| p[0] == at).map(|payload| payload[1]).collect();
        assert!(numbers.is_sorted(), "the order of one publisher's messages: {numbers:?}");
    }
    part(world, publishers.into_iter().chain([subscriber]));
}

/// A publisher that is parked for a subscriber on another shard goes on when that has caught up:
/// `World::check_sleep` says whether somebody was forgotten.
pub fn crowd(world: &mut World, settings: &Settings) {
    reload(world, Settings { outgoing_max_bytes: 16_384, ..settings.clone() });
    let reader = on(world, 1, |n| format!("e-reader-{n}"));
    let other = on(world, 0, |n| format!("e-publisher-{n}"));
    let mut subscriber = Peer::silent(world, 1, 1000);
    subscriber.begin(world, &hello(&reader, true, 0));
    subscriber.take(world);
    subscribe(world, &mut subscriber, Wish::new("e/c", 0));
    let mut publisher = join_at(world, 0, &hello(&other, true, 0));
    let before = world.counters();
    for number in 0..40 {
        publisher.publish(world, "e/c", &[number; 2000], 0, 0);
        world.settle();
    }
    let parks = world.counters().parks_publisher - before.parks_publisher;
    assert!(parks > 0, "nobody is parked for a subscriber that does not read");
    let mut got = payloads(&subscriber.read_all(world));
    wait(world, 2000);
    got.extend(payloads(&subscriber.read_all(world)));
    let shed = world.counters().dropped_outgoing_full - before.dropped_outgoing_full;
    assert_eq!(got.len() as u64 + shed, 40, "delivered and shed");
    part(world, [subscriber, publisher]);
    reload(world, settings.clone());
}

/// A share group's home that answers an earlier connection does not complete the SUBACK of a later
/// one, whose own group's home has not answered.
pub fn suback_of_its_own(world: &mut World) {
    let name = on(world, 0, |n| format!("e-member-{n}"));
    let groups = [1, 2].map(|home| on(world, home, |n| format!("$share/e{n}/e/j")));
    let mut first = join_at(world, 0, &hello(&name, true, 60));
    first.subscribe(world, 7, &groups[0], 1);
    (0..10).for_each(|_| world.step(0));
    let mut second = Peer::silent(world, 0, 1 << 20);
    second.begin(world, &hello(&name, false, 60));
    (0..10).for_each(|_| world.step(0));
    second.subscribe(world, 8, &groups[1], 1);
    (0..10).for_each(|_| world.step(0));
    world.step(1);
    (0..10).for_each(|_| world.step(0));
    let early = world.conns[second.conn].down.len();
    let connack = 2 + usize::from(world.conns[second.conn].down[1]);
    assert_eq!(early, connack, "SUBACK before the group's home has answered");
    let got = second.take(world);
    assert!(matches!(got[..], [Got::ConnAck { .. }, Got::SubAck(8, _)]), "{got:?}");
    first.end(world, End::Fin);
    part_for_good(world, second);
}

/// A slice that an earlier connection asked for is not taken for the next part of a later one's
/// replay.
pub fn replay_of_its_own(world: &mut World) {
    let name = on(world, 0, |n| format!("e-again-{n}"));
    let mut publisher = guest(world, "e-publisher");
    let topics: Vec<String> = (0..40).map(|number| format!("e/u/{number}")).collect();
    for topic in &topics {
        publisher.publish_as(world, topic, b"m", 0, 0, true);
    }
    world.settle();
    let mut first = join_at(world, 0, &hello(&name, true, 60));
    for (number, topic) in (1..).zip(&topics[..8]) {
        first.subscribe(world, number, topic, 0);
    }
    (0..10).for_each(|_| world.step(0));
    let mut second = Peer::silent(world, 0, 1 << 20);
    second.begin(world, &hello(&name, false, 60));
    (0..10).for_each(|_| world.step(0));
    second.subscribe(world, 9, "e/u/#", 0);
    (0..10).for_each(|_| world.step(0));
    let mut got = payloads_by_topic(&second.take(world));
    got.sort();
    // What the first connection's own subscriptions brought may have waited for the client.
    got.dedup_by(|a, b| a == b && topics[..8].contains(a));
    let mut expected = topics.clone();
    expected.sort();
    assert_eq!(got, expected, "retained messages after a replay that was cut off");
    for topic in &topics {
        publisher.publish_as(world, topic, b"", 0, 0, true);
    }
    world.settle();
    first.end(world, End::Fin);
    part_for_good(world, second);
    part(world, [publisher]);
}

fn payloads_by_topic(got: &[Got]) -> Vec<String> {
    let topic = |got: &Got| match got {
        Got::Publish { topic, .. } => Some(topic.clone()),
        _ => None,
    };
    got.iter().filter_map(topic).collect()
}

/// A connection that ended while a mailbox held it up does not end the next one on its socket.
pub fn next_on_its_socket(world: &mut World) {
    let reader = on(world, 1, |n| format!("e-reader-{n}"));
    let other = on(world, 0, |n| format!("e-publisher-{n}"));
    let third = on(world, 0, |n| format!("e-third-{n}"));
    let mut subscriber = join_at(world, 1, &hello(&reader, true, 0));
    subscribe(world, &mut subscriber, Wish::new("e/n", 0));
    let mut publisher = join_at(world, 0, &hello(&other, true, 60));
    // Its end of stream is reported although the mailbox holds it up: a late completion.
    world.nodes[0].driver.faults.late = 1;
    publisher.end(world, End::Fin);
    for _ in 0..200 {
        publisher.publish(world, "e/n", &[0; 9000], 0, 0);
        world.step(0);
        if world.nodes[0].shard.audit().waiting_for_mail > 0 {
            break;
        }
    }
    world.nodes[0].driver.faults.late = 0;
    world.step(0);
    let held = world.nodes[0].shard.audit().waiting_for_mail;
    assert_eq!(held, 1, "a connection to end when it goes on");
    let mut second = Peer::silent(world, 0, 1 << 20);
    second.begin(world, &hello(&other, false, 60));
    let mut guests = Vec::new();
    for number in 0..10 {
        let mut peer = Peer::silent(world, 0, 1 << 20);
        peer.begin(world, &hello(&format!("{third}-{number}"), true, 0));
        guests.push(peer);
        world.step(0);
    }
    let got = second.take(world);
    assert!(matches!(got[..], [Got::ConnAck { present: true, .. }]), "{got:?}");
    for peer in [&mut second].into_iter().chain(&mut guests) {
        peer.take(world);
        assert!(!peer.is_closed(world), "closed with the one before it on its socket");
    }
    part(world, guests.into_iter().chain([subscriber]));
    part_for_good(world, second);
}
