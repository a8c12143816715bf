//! Connections and sessions: keep-alive, QoS 2, expiry, takeover, redelivery.

use super::*;

/// [MQTT-3.1.2-22]: one and a half times Keep Alive, not less, and not much more.
pub fn silence(world: &mut World, settings: &Settings) {
    let mut connect = hello("e-silent", true, 0);
    connect.keep_alive = 10;
    let mut peer = join(world, &connect);
    let allowed = (10_000.0 * settings.keep_alive_multiplier) as u64;
    wait(world, allowed - 200);
    assert!(!peer.is_closed(world), "closed within Keep Alive");
    wait(world, 400);
    let got = peer.take(world);
    assert_eq!(got, [Got::Disconnect(ReasonCode::KeepAliveTimeout)], "after Keep Alive");
    peer.end(world, End::Fin);
    world.settle();
}

/// [MQTT-3.1.2-22]: Control Packets count, not bytes; a large one that makes progress is honest.
pub fn unfinished(world: &mut World, settings: &Settings) {
    let allowed = (10_000.0 * settings.keep_alive_multiplier) as u64;
    let whole = {
        let mut bytes = vec![0x30, 0x80, 0x40, 0, 3];
        bytes.extend(b"e/p\0");
        bytes.resize(3 + (0x40 << 7), b'x');
        bytes
    };
    let mut connect = hello("e-drip", true, 0);
    connect.keep_alive = 10;
    let mut drip = join(world, &connect);
    let mut slow = join(world, &Connect { client_id: "e-slow", ..connect });
    let (mut dripped, mut sent) = (whole.iter(), &whole[..]);
    for second in 0..allowed / 1000 - 1 {
        drip.raw(world, &[*dripped.next().unwrap()]);
        if second % 10 == 0 {
            slow.raw(world, &sent[..1100]);
            sent = &sent[1100..];
        }
        wait(world, 1000);
    }
    assert!(!drip.is_closed(world), "closed within Keep Alive");
    // Not much later; a shard that is never done with listening gives it as long again.
    for _ in 0..3 + allowed / 1000 {
        drip.raw(world, &[*dripped.next().unwrap()]);
        wait(world, 1000);
        if drip.is_closed(world) {
            break;
        }
    }
    let got = drip.take(world);
    assert_eq!(got, [Got::Disconnect(ReasonCode::KeepAliveTimeout)], "kept by single bytes");
    drip.end(world, End::Fin);
    while !sent.is_empty() {
        assert!(!slow.is_closed(world), "a large packet on its way");
        let some = sent.len().min(1100);
        slow.raw(world, &sent[..some]);
        sent = &sent[some..];
        wait(world, 10_000);
    }
    slow.raw(world, &[0xC0, 0]);
    assert_eq!(slow.take(world), [Got::Pong], "after a large packet");
    part(world, [slow]);
}

/// A shard that was held up reads what its clients have sent before it judges their silence; one
/// that is always behind does not put that off for ever.
pub fn unheard(world: &mut World) {
    let limit = std::mem::replace(&mut world.limit, 1);
    let mut peers: Vec<Peer> = ["u", "v", "w"]
        .map(|tag| {
            let name = on(world, 0, |number| format!("e-{tag}{number}"));
            let mut connect = hello(&name, true, 0);
            connect.keep_alive = 10;
            join(world, &connect)
        })
        .into();
    world.advance(60_000);
    peers.iter_mut().for_each(|peer| peer.raw(world, &[0xC0, 0]));
    for peer in &mut peers {
        assert_eq!(peer.take(world), [Got::Pong], "sent while the shard was held up");
    }
    let before = world.counters().keepalive_timeouts;
    for _ in 0..12 {
        world.advance(5000);
        peers[1..].iter_mut().for_each(|peer| peer.raw(world, &[0xC0, 0].repeat(2)));
        world.step(0);
    }
    assert_eq!(world.counters().keepalive_timeouts - before, 1, "silent while the shard is behind");
    world.limit = limit;
    assert_eq!(peers[0].take(world), [Got::Disconnect(ReasonCode::KeepAliveTimeout)]);
    peers[0].end(world, End::Fin);
    world.settle();
    part(world, peers.drain(1..));
}

/// A client that is held up by a full mailbox is not silent, however long that takes.
pub fn held(world: &mut World, settings: &Settings) {
    let reader = on(world, 1, |n| format!("e-reader-{n}"));
    let other = on(world, 0, |n| format!("e-publisher-{n}"));
    let mut subscriber = join(world, &hello(&reader, true, 0));
    subscribe(world, &mut subscriber, Wish::new("e/h", 0));
    let mut publisher = join(world, &Connect { keep_alive: 10, ..hello(&other, true, 0) });
    for _ in 0..60 {
        publisher.publish(world, "e/h", &[0; 9000], 0, 0);
    }
    publisher.raw(world, &[0xC0, 0]);
    let allowed = (10_000.0 * settings.keep_alive_multiplier) as u64;
    for _ in 0..allowed / 100 + 20 {
        (0..3).for_each(|_| world.step(0));
        world.advance(100);
    }
    let held = world.nodes[0].shard.audit().waiting_for_mail;
    assert_eq!(held, 1, "a publisher that waits for a mailbox");
    assert!(!publisher.is_closed(world), "silent while it is held up");
    assert_eq!(publisher.take(world), [Got::Pong], "after it was held up");
    subscriber.read_all(world);
    part(world, [publisher, subscriber]);
}

/// [MQTT-4.3.3-10 to 12]: between PUBLISH and PUBREL an identifier stands for one message, before
/// and after for another; every PUBREL gets its PUBCOMP.
pub fn exactly_once(world: &mut World) {
    let mut subscriber = guest(world, "e-reader");
    subscribe(world, &mut subscriber, Wish::new("e/2", 2));
    let mut publisher = guest(world, "e-publisher");
    let unknown = ReasonCode::PacketIdentifierNotFound;
    for payload in [b"1", b"2"] {
        publisher.publish(world, "e/2", payload, 2, 5);
        publisher.publish(world, "e/2", payload, 2, 5);
        publisher.ack(world, AckKind::PubRel, 5);
        publisher.ack(world, AckKind::PubRel, 5);
        let expected = [
            Got::Ack(AckKind::PubRec, 5, ReasonCode::Success),
            Got::Ack(AckKind::PubRec, 5, ReasonCode::Success),
            Got::Ack(AckKind::PubComp, 5, ReasonCode::Success),
            Got::Ack(AckKind::PubComp, 5, unknown),
        ];
        assert_eq!(publisher.take(world), expected, "the publisher's side of QoS 2");
    }
    assert_eq!(payloads(&subscriber.read_all(world)), [b"1", b"2"], "exactly once");
    part(world, [subscriber, publisher]);
}

/// Section 3.1.2.11.2: a session lasts as long as was agreed, not less, and not much more.
pub fn session_end(world: &mut World) {
    for (left, expected) in [(39_700, true), (40_300, false)] {
        let mut peer = join(world, &hello("e-absent", true, 40));
        peer.end(world, End::Reset);
        world.settle();
        wait(world, left);
        let mut peer = Peer::connect(world, 0, &hello("e-absent", false, 0));
        let got = peer.take(world);
        let [Got::ConnAck { present, .. }] = got[..] else { panic!("{got:?}") };
        assert_eq!(present, expected, "Session Present {left} ms into a session of 40 s");
        part(world, [peer]);
    }
    // Section 3.14.2.2.2: DISCONNECT may change its mind.
    let peer = join(world, &hello("e-absent", true, 40));
    part_for_good(world, peer);
    let mut peer = Peer::connect(world, 0, &hello("e-absent", false, 0));
    let got = peer.take(world);
    assert!(matches!(got[..], [Got::ConnAck { present: false, .. }]), "ended by DISCONNECT");
    part(world, [peer]);
}

/// [MQTT-4.7.1-1]: a filter that is wrong ends the connection, be it the last of so many that they
/// are looked at in several steps; nothing was done for the others.
pub fn malformed_rest(world: &mut World) {
    let filters = (0..1500).map(|n| format!("e/long/{n}")).chain(["e/#/long".to_owned()]);
    let mut lists = [Vec::new(), Vec::new()];
    for filter in filters {
        let entry = SubscribeFilter { filter: &filter, options: SubscribeOptions::default() };
        entry.write(Version::V5, &mut lists[0]).unwrap();
        UnsubscribeFilters::write(&filter, &mut lists[1]).unwrap();
    }
    for unsubscribes in [false, true] {
        let mut peer = Peer::connect(world, 0, &hello("e-long", false, 60));
        assert!(matches!(peer.take(world)[..], [Got::ConnAck { .. }]));
        let before: u64 = world.nodes.iter().map(|node| node.shard.counters.subscriptions).sum();
        peer.write(world, |out, version| {
            let (id, user) = (id(902), UserProperties::default());
            if unsubscribes {
                let filters = UnsubscribeFilters::parse(&lists[1]).unwrap();
                let unsubscribe = Unsubscribe { id, user, filters };
                return packet::encode_unsubscribe(out, version, &unsubscribe).unwrap();
            }
            let filters = SubscribeFilters::parse(version, &lists[0]).unwrap();
            let subscribe = Subscribe { id, subscription_id: None, user, filters };
            packet::encode_subscribe(out, version, &subscribe).unwrap();
        });
        let got = peer.take(world);
        assert_eq!(got, [Got::Disconnect(ReasonCode::TopicFilterInvalid)], "a malformed filter");
        assert!(peer.is_closed(world), "who sent a malformed filter is open");
        peer.end(world, End::Fin);
        world.settle();
        let after: u64 = world.nodes.iter().map(|node| node.shard.counters.subscriptions).sum();
        assert_eq!(after, before, "filters before the malformed one");
    }
    let mut peer = Peer::connect(world, 0, &hello("e-long", true, 0));
    assert!(matches!(peer.take(world)[..], [Got::ConnAck { .. }]));
    part(world, [peer]);
}

/// [MQTT-3.1.4-3]: the old connection is told and closed, the new one has the session.
pub fn takeover(world: &mut World) {
    let mut first = join(world, &hello("e-twin", true, 60));
    subscribe(world, &mut first, Wish::new("e/t", 1));
    let mut second = Peer::connect(world, 0, &hello("e-twin", false, 0));
    let got = second.take(world);
    assert!(matches!(got[..], [Got::ConnAck { present: true, .. }]), "{got:?}");
    let got = first.take(world);
    assert_eq!(got, [Got::Disconnect(ReasonCode::SessionTakenOver)], "the one taken over");
    assert!(first.is_closed(world), "the one taken over is open");
    first.end(world, End::Fin);
    let mut publisher = guest(world, "e-publisher");
    publish(world, &mut publisher, "e/t", b"m", Said { qos: 1, ..Said::default() });
    assert_eq!(payloads(&second.read_all(world)), [b"m"], "the one that took over");
    part(world, [second, publisher]);
}

/// [MQTT-3.3.4-9, MQTT-4.4.0-1, MQTT-3.3.1-1]: the window is never wider than Receive Maximum, and
/// what was not acknowledged comes again, in order, with DUP.
pub fn narrow_window(world: &mut World, settings: &Settings) {
    let connect = |clean| {
        let mut connect = hello("e-window", clean, 60);
        connect.properties.receive_maximum = Some(2);
        connect
    };
    let mut subscriber = join(world, &connect(true));
    subscribe(world, &mut subscriber, Wish::new("e/w", 1));
    let mut publisher = guest(world, "e-publisher");
    for payload in [b"1", b"2", b"3"] {
        publish(world, &mut publisher, "e/w", payload, Said { qos: 1, ..Said::default() });
    }
    let width = usize::from(settings.max_inflight.min(2));
    let first = subscriber.take(world);
    assert_eq!(first.len(), width, "Receive Maximum: {first:?}");
    subscriber.end(world, End::Reset);
    world.settle();
    let mut subscriber = Peer::connect(world, 0, &connect(false));
    let mut again = subscriber.take(world);
    let connack = again.remove(0);
    assert!(matches!(connack, Got::ConnAck { present: true, .. }), "{connack:?}");
    assert_eq!(payloads(&again), payloads(&first), "sent again");
    for got in &again {
        let Got::Publish { dup, id, .. } = got else { panic!("{got:?}") };
        assert!(dup, "sent again without DUP");
        subscriber.ack(world, AckKind::PubAck, *id);
    }
    let rest = payloads(&subscriber.read_all(world));
    assert_eq!(rest, [b"1", b"2", b"3"][width..], "after what was sent again");
    part_for_good(world, subscriber);
    part(world, [publisher]);
}

/// Where messages are repeated on a connection, the answer to a repetition does not complete
/// another message, however late it comes.
pub fn late_answer(world: &mut World, settings: &Settings) {
    reload(world, Settings { retry_interval: 1000, ..settings.clone() });
    let connect = Connect { version: Version::V311, ..hello("e-late", true, 0) };
    let mut peer = join(world, &connect);
    subscribe(world, &mut peer, Wish::new("e/l", 1));
    let mut publisher = guest(world, "e-publisher");
    let before = world.counters().inflight;
    publish(world, &mut publisher, "e/l", b"1", Said { qos: 1, ..Said::default() });
    wait(world, 1500);
    let got = peer.take(world);
    let [Got::Publish { id, dup: false, .. }, Got::Publish { dup: true, .. }] = got[..] else {
        panic!("sent, and once more: {got:?}")
    };
    peer.ack(world, AckKind::PubAck, id);
    wait(world, 6000);
    publish(world, &mut publisher, "e/l", b"2", Said { qos: 1, ..Said::default() });
    assert_eq!(payloads(&peer.take(world)), [b"2"]);
    peer.ack(world, AckKind::PubAck, id);
    world.settle();
    assert_eq!(world.counters().inflight - before, 1, "the answer to a repetition");
    part(world, [peer, publisher]);
    reload(world, settings.clone());
}
