//! One message to one subscriber: what of it is sent, and with which properties.

use super::*;

/// [MQTT-3.3.2-5, MQTT-3.3.2-6]: what has expired is not sent; the rest says how long it has.
pub fn expiry(world: &mut World) {
    let mut subscriber = join(world, &hello("e-offline", true, 60));
    assert_eq!(subscribe(world, &mut subscriber, Wish::new("e/x", 1)), []);
    part(world, [subscriber]);
    let mut publisher = guest(world, "e-publisher");
    let before = world.counters().dropped_expired;
    for (payload, expiry) in [(b"long", 20), (b"soon", 5)] {
        let said = Said { qos: 1, expiry: Some(expiry), ..Said::default() };
        publish(world, &mut publisher, "e/x", payload, said);
    }
    wait(world, 8000);
    let mut subscriber = Peer::connect(world, 0, &hello("e-offline", false, 0));
    let got = subscriber.read_all(world);
    assert!(
        matches!(&got[..], [Got::Publish { payload, expiry: Some(12), .. }] if payload == b"long"),
        "12 of 20 s are left of one message, the other has expired: {got:?}"
    );
    assert_eq!(world.counters().dropped_expired - before, 1, "dropped_expired");
    part(world, [subscriber, publisher]);
}

/// [MQTT-3.1.2-24, MQTT-3.1.2-25]: too large a message is dropped as if it had been sent.
pub fn too_large(world: &mut World) {
    let mut subscriber = join(world, &hello("e-narrow", true, 60));
    subscribe(world, &mut subscriber, Wish::new("e/s", 1));
    part(world, [subscriber]);
    let mut publisher = guest(world, "e-publisher");
    let before = world.counters().dropped_packet_too_large;
    let said = || Said { qos: 1, ..Said::default() };
    publish(world, &mut publisher, "e/s", &[b'x'; 200], said());
    publish(world, &mut publisher, "e/s", b"small", said());
    let mut narrow = hello("e-narrow", false, 0);
    narrow.properties.maximum_packet_size = Some(60);
    let mut subscriber = Peer::connect(world, 0, &narrow);
    let got = subscriber.read_all(world);
    assert_eq!(payloads(&got), [b"small"], "Maximum Packet Size");
    let dropped = world.counters().dropped_packet_too_large - before;
    assert_eq!(dropped, 1, "dropped_packet_too_large");
    part(world, [subscriber, publisher]);
}

/// [MQTT-3.3.2-12] and section 3.3.2.3.4: an alias means what it was last set to.
pub fn aliases(world: &mut World) {
    let mut subscriber = guest(world, "e-reader");
    subscribe(world, &mut subscriber, Wish::new("e/a/#", 0));
    let mut publisher = guest(world, "e-publisher");
    for topic in ["e/a/1", "e/a/2", ""] {
        let said = Said { alias: Some(1), ..Said::default() };
        publish(world, &mut publisher, topic, b"m", said);
    }
    let topics: Vec<String> = subscriber
        .read_all(world)
        .into_iter()
        .map(|got| match got {
            Got::Publish { topic, .. } => topic,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(topics, ["e/a/1", "e/a/2", "e/a/2"], "Topic Alias");
    part(world, [subscriber, publisher]);
}

/// [MQTT-3.3.5-1, MQTT-3.3.4-3]: once, at the highest QoS, with every identifier; and what the
/// client publishes itself, only by the subscriptions without No Local [MQTT-3.8.3-3].
pub fn overlap(world: &mut World) {
    let mut subscriber = guest(world, "e-overlap");
    for (filter, qos, id, no_local) in
        [("e/o/+", 2, 7, true), ("e/o/#", 1, 8, false), ("e/o/1", 0, 9, false)]
    {
        let options = SubscribeOptions { no_local, ..SubscribeOptions::default() };
        subscribe(world, &mut subscriber, Wish { filter, qos, id: Some(id), options });
    }
    let mut publisher = guest(world, "e-publisher");
    let said = || Said { qos: 2, ..Said::default() };
    publish(world, &mut publisher, "e/o/1", b"m", said());
    let said_by = |got: Vec<Got>| {
        let [Got::Publish { qos, ids, .. }] = &got[..] else { panic!("{got:?}") };
        let mut ids = ids.clone();
        ids.sort_unstable();
        (*qos, ids)
    };
    let got = said_by(subscriber.read_all(world));
    assert_eq!(got, (2, vec![7, 8, 9]), "QoS and identifiers of overlapping filters");
    subscriber.publish(world, "e/o/1", b"own", 1, 1);
    let got = said_by(subscriber.read_all(world));
    assert_eq!(got, (1, vec![8, 9]), "No Local among overlapping filters");
    part(world, [subscriber, publisher]);
}

/// [MQTT-3.3.1-12, MQTT-3.3.1-13, MQTT-3.3.1-8]: RETAIN of live and of replayed messages.
pub fn as_published(world: &mut World) {
    let mut publisher = guest(world, "e-publisher");
    let mut peers = Vec::new();
    for (name, filter, retain_as_published) in
        [("e-plain", "e/r/+", false), ("e-as-published", "e/r/#", true)]
    {
        let mut peer = guest(world, name);
        let options = SubscribeOptions { retain_as_published, ..SubscribeOptions::default() };
        subscribe(world, &mut peer, Wish { filter, qos: 0, id: None, options });
        peers.push(peer);
    }
    let said = || Said { qos: 1, retain: true, ..Said::default() };
    publish(world, &mut publisher, "e/r/1", b"m", said());
    for (peer, expected) in peers.iter_mut().zip([false, true]) {
        let got = peer.read_all(world);
        let [Got::Publish { retain, .. }] = got[..] else { panic!("{got:?}") };
        assert_eq!(retain, expected, "Retain As Published");
    }
    let mut late = guest(world, "e-late");
    let got = subscribe(world, &mut late, Wish::new("e/r/#", 0));
    assert!(matches!(got[..], [Got::Publish { retain: true, .. }]), "a replay: {got:?}");
    publish(world, &mut publisher, "e/r/1", b"", said());
    part(world, peers.into_iter().chain([late, publisher]));
}

/// [MQTT-3.3.1-10, MQTT-3.8.4-3]: a repeated SUBSCRIBE replaces the subscription; with Retain
/// Handling 1 it brings no retained message.
pub fn handling(world: &mut World) {
    let mut publisher = guest(world, "e-publisher");
    let said = |retain| Said { qos: 1, retain, ..Said::default() };
    publish(world, &mut publisher, "e/h", b"kept", said(true));
    let mut peer = guest(world, "e-again");
    let options = SubscribeOptions {
        retain_handling: RetainHandling::SendIfNew,
        ..SubscribeOptions::default()
    };
    let wish = |qos, number| Wish { filter: "e/h", qos, id: Some(number), options };
    let got = subscribe(world, &mut peer, wish(0, 5));
    assert_eq!(payloads(&got), [b"kept"], "Retain Handling 1, a new subscription");
    let got = subscribe(world, &mut peer, wish(1, 6));
    assert_eq!(got, [], "Retain Handling 1, a known subscription");
    publish(world, &mut publisher, "e/h", b"live", said(false));
    let got = peer.read_all(world);
    assert!(
        matches!(&got[..], [Got::Publish { qos: 1, ids, .. }] if *ids == [6]),
        "the new subscription's QoS and identifier: {got:?}"
    );
    publish(world, &mut publisher, "e/h", b"", said(true));
    part(world, [peer, publisher]);
}

/// A mosquitto bridge of version 3: every subscription is No Local and Retain As Published.
pub fn bridge(world: &mut World) {
    let connect = Connect { version: Version::V311, bridge: true, ..hello("e-bridge", true, 0) };
    let mut bridge = join(world, &connect);
    subscribe(world, &mut bridge, Wish::new("e/b/#", 1));
    let mut other = guest(world, "e-publisher");
    let said = || Said { qos: 1, retain: true, ..Said::default() };
    publish(world, &mut other, "e/b/kept", b"kept", said());
    bridge.publish_as(world, "e/b/own", b"own", 1, 902, true);
    let got = bridge.take(world);
    let flags: Vec<_> = got
        .iter()
        .filter_map(|got| match got {
            Got::Publish { topic, retain, .. } => Some((topic.as_str(), *retain)),
            _ => None,
        })
        .collect();
    assert_eq!(flags, [("e/b/kept", true)], "what a bridge gets");
    for topic in ["e/b/kept", "e/b/own"] {
        publish(world, &mut other, topic, b"", said());
    }
    part(world, [bridge, other]);
}

/// Retained messages that a SUBSCRIBE is owed are owed to the session: what a connection that broke
/// did not get, the next one gets, at QoS 0 as well what was not on its way.
pub fn replay_resumed(world: &mut World) {
    let topics: Vec<String> = (0..200).map(|number| format!("e/y/{number}")).collect();
    let mut publisher = guest(world, "e-publisher");
    for topic in &topics {
        let said = Said { qos: 1, retain: true, ..Said::default() };
        publish(world, &mut publisher, topic, b"m", said);
    }
    let name = |got: &Got| match got {
        Got::Publish { topic, .. } => Some(topic.clone()),
        _ => None,
    };
    for qos in [0, 1, 2] {
        let before = world.counters();
        let mut first = join(world, &hello("e-resumed", true, 60));
        first.subscribe(world, 1, "e/y/#", qos);
        // The SUBACK and some of it at most.
        (0..3).for_each(|_| (0..world.nodes.len()).for_each(|shard| world.step(shard)));
        first.end(world, End::Reset);
        world.settle();
        let mut second = Peer::connect(world, 0, &hello("e-resumed", false, 0));
        let mut got: Vec<_> = second.read_all(world).iter().filter_map(name).collect();
        got.sort_unstable();
        got.dedup();
        let mut expected = topics.clone();
        expected.sort_unstable();
        if qos > 0 {
            assert_eq!(got, expected, "QoS {qos}: the rest of a replay");
        } else {
            let now = world.counters();
            let sent = now.messages_sent_qos0 - before.messages_sent_qos0;
            let dropped = now.dropped_offline_qos0 - before.dropped_offline_qos0;
            assert_eq!(
                sent + dropped,
                topics.len() as u64,
                "QoS 0: {sent} sent, {dropped} dropped"
            );
        }
        part(world, [second]);
    }
    for topic in &topics {
        publisher.publish_as(world, topic, b"", 0, 0, true);
    }
    world.settle();
    part(world, [publisher]);
}
