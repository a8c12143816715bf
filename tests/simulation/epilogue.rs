//! The end of every random run: dialogues with the same shards and settings of which every packet
//! is known beforehand. The random clients cannot know what came of each message; these do, and
//! check what the specification says to the second, the byte and the count.

use crate::net::End;
use crate::peer::{Got, Peer, hello, id};
use crate::world::World;
use ringmq::config::OnFull;
use ringmq::packet::{
    self, AckKind, Connect, OutPublish, Qos, ReasonCode, RetainHandling, Subscribe,
    SubscribeFilter, SubscribeFilters, SubscribeOptions, UserProperties,
};
use ringmq::session::pending::Bounds;
use ringmq::shard::{Settings, home_of};
use std::sync::Arc;

/// Holds every dialogue; panics on the first packet that is not the expected one.
pub fn hold(world: &mut World, settings: &Settings) {
    silence(world, settings);
    expiry(world);
    too_large(world);
    aliases(world);
    overlap(world);
    as_published(world);
    handling(world);
    full_queues(world, settings);
    exactly_once(world);
    session_end(world);
    takeover(world);
    harsh_queue(world, settings);
    offline_qos_0(world, settings);
    narrow_window(world, settings);
    if world.nodes.len() > 1 {
        group_from_its_suback(world);
        group_with_a_leaver(world);
        replay_after_puback(world);
        replay_and_live(world);
        full_mailbox(world);
        crowd(world, settings);
    }
    assert_eq!(world.problems(), Vec::<String>::new());
}

/// A connection to some shard, CONNACK taken.
fn join(world: &mut World, connect: &Connect<'_>) -> Peer {
    let shard = world.rng.below(world.nodes.len());
    join_at(world, shard, connect)
}

fn join_at(world: &mut World, shard: usize, connect: &Connect<'_>) -> Peer {
    let mut peer = Peer::connect(world, shard, connect);
    let got = peer.take(world);
    assert!(matches!(got[..], [Got::ConnAck { reason: ReasonCode::Success, .. }]), "{got:?}");
    peer
}

/// A client that leaves nothing behind.
fn guest(world: &mut World, name: &str) -> Peer {
    join(world, &hello(name, true, 0))
}

fn part(world: &mut World, peers: impl IntoIterator<Item = Peer>) {
    for mut peer in peers {
        peer.goodbye(world);
    }
}

fn wait(world: &mut World, millis: u64) {
    let mut left = millis;
    while left > 0 {
        let some = left.min(500);
        world.advance(some);
        world.settle();
        left -= some;
    }
}

/// A ClientId or share name that lives on `shard`.
fn on(world: &World, shard: u8, make: impl Fn(u32) -> String) -> String {
    let shards = world.nodes.len() as u8;
    (0..).map(make).find(|name| home_of(name, shards).0 == shard).unwrap()
}

struct Wish<'a> {
    filter: &'a str,
    qos: u8,
    id: Option<u32>,
    options: SubscribeOptions,
}

impl<'a> Wish<'a> {
    fn new(filter: &'a str, qos: u8) -> Self {
        Wish { filter, qos, id: None, options: SubscribeOptions::default() }
    }
}

/// SUBSCRIBE and its SUBACK; returns what came after it.
fn subscribe(world: &mut World, peer: &mut Peer, wish: Wish<'_>) -> Vec<Got> {
    peer.write(world, |out, version| {
        let Wish { filter, qos, id: subscription_id, options } = wish;
        let options = SubscribeOptions { qos: Qos::from_u8(qos).unwrap(), ..options };
        let mut raw = Vec::new();
        SubscribeFilter { filter, options }.write(version, &mut raw);
        let filters = SubscribeFilters::parse(version, &raw).unwrap();
        let user = UserProperties::default();
        let subscribe = Subscribe { id: id(900), subscription_id, user, filters };
        packet::encode_subscribe(out, version, &subscribe);
    });
    let mut got = peer.take(world);
    assert_eq!(got.remove(0), Got::SubAck(900, vec![wish.qos]), "{}", wish.filter);
    got
}

/// What a PUBLISH says, besides its payload.
#[derive(Default)]
struct Said {
    qos: u8,
    retain: bool,
    expiry: Option<u32>,
    alias: Option<u16>,
}

/// Publishes and waits for the acknowledgement.
fn publish(world: &mut World, peer: &mut Peer, topic: &str, payload: &[u8], said: Said) {
    peer.write(world, |out, version| {
        let publish = OutPublish {
            dup: false,
            qos: Qos::from_u8(said.qos).unwrap(),
            retain: said.retain,
            topic,
            id: Some(id(901)).filter(|_| said.qos > 0),
            message_expiry: said.expiry,
            topic_alias: said.alias,
            subscription_ids: &[],
            forwarded: &[],
            payload,
        };
        packet::encode_publish(out, version, &publish);
    });
    let acks = match peer.take(world)[..] {
        [] => 0,
        [Got::Ack(AckKind::PubAck, 901, reason)] if (reason as u8) < 0x80 => 1,
        [Got::Ack(AckKind::PubRec, 901, reason)] if (reason as u8) < 0x80 => 2,
        ref other => panic!("{topic}: {other:?}"),
    };
    assert_eq!(acks, said.qos, "{topic}: the acknowledgement");
    if said.qos == 2 {
        peer.ack(world, AckKind::PubRel, 901);
        let got = peer.take(world);
        assert_eq!(got, [Got::Ack(AckKind::PubComp, 901, ReasonCode::Success)]);
    }
}

/// Takes every PUBLISH, acknowledging each, until there are no more.
fn read_all(world: &mut World, peer: &mut Peer) -> Vec<Got> {
    let mut all = Vec::new();
    loop {
        let got = peer.take(world);
        if got.is_empty() {
            return all;
        }
        for packet in got {
            match packet {
                Got::Publish { qos: 1, id, .. } => peer.ack(world, AckKind::PubAck, id),
                Got::Publish { qos: 2, id, .. } => peer.ack(world, AckKind::PubRec, id),
                Got::Ack(AckKind::PubRel, id, _) => peer.ack(world, AckKind::PubComp, id),
                _ => {}
            }
            if matches!(packet, Got::Publish { .. }) {
                all.push(packet);
            }
        }
    }
}

fn payloads(got: &[Got]) -> Vec<Vec<u8>> {
    let payload = |got: &Got| match got {
        Got::Publish { payload, .. } => payload.clone(),
        other => panic!("{other:?}"),
    };
    got.iter().map(payload).collect()
}

/// [MQTT-3.1.2-22]: one and a half times Keep Alive, not less, and not much more.
fn silence(world: &mut World, settings: &Settings) {
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

/// [MQTT-3.3.2-5, MQTT-3.3.2-6]: what has expired is not sent; the rest says how long it has.
fn expiry(world: &mut World) {
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
    let got = read_all(world, &mut subscriber);
    assert!(
        matches!(&got[..], [Got::Publish { payload, expiry: Some(12), .. }] if payload == b"long"),
        "12 of 20 s are left of one message, the other has expired: {got:?}"
    );
    assert_eq!(world.counters().dropped_expired - before, 1, "dropped_expired");
    part(world, [subscriber, publisher]);
}

/// [MQTT-3.1.2-24, MQTT-3.1.2-25]: too large a message is dropped as if it had been sent.
fn too_large(world: &mut World) {
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
    let got = read_all(world, &mut subscriber);
    assert_eq!(payloads(&got), [b"small"], "Maximum Packet Size");
    let dropped = world.counters().dropped_packet_too_large - before;
    assert_eq!(dropped, 1, "dropped_packet_too_large");
    part(world, [subscriber, publisher]);
}

/// [MQTT-3.3.2-12] and section 3.3.2.3.4: an alias means what it was last set to.
fn aliases(world: &mut World) {
    let mut subscriber = guest(world, "e-reader");
    subscribe(world, &mut subscriber, Wish::new("e/a/#", 0));
    let mut publisher = guest(world, "e-publisher");
    for topic in ["e/a/1", "e/a/2", ""] {
        let said = Said { alias: Some(1), ..Said::default() };
        publish(world, &mut publisher, topic, b"m", said);
    }
    let topics: Vec<String> = read_all(world, &mut subscriber)
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
fn overlap(world: &mut World) {
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
    let got = said_by(read_all(world, &mut subscriber));
    assert_eq!(got, (2, vec![7, 8, 9]), "QoS and identifiers of overlapping filters");
    subscriber.publish(world, "e/o/1", b"own", 1, 1);
    let got = said_by(read_all(world, &mut subscriber));
    assert_eq!(got, (1, vec![8, 9]), "No Local among overlapping filters");
    part(world, [subscriber, publisher]);
}

/// [MQTT-3.3.1-12, MQTT-3.3.1-13, MQTT-3.3.1-8]: RETAIN of live and of replayed messages.
fn as_published(world: &mut World) {
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
        let got = read_all(world, peer);
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
fn handling(world: &mut World) {
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
    let got = read_all(world, &mut peer);
    assert!(
        matches!(&got[..], [Got::Publish { qos: 1, ids, .. }] if *ids == [6]),
        "the new subscription's QoS and identifier: {got:?}"
    );
    publish(world, &mut publisher, "e/h", b"", said(true));
    part(world, [peer, publisher]);
}

/// A full pending queue keeps what its policy says, within its bounds, and counts the rest.
fn full_queues(world: &mut World, settings: &Settings) {
    // Topic, payload and 64 bytes of overhead.
    let cost = "e/q".len() + 20 + 64;
    for on_full in [OnFull::DropOldest, OnFull::DropNew, OnFull::Disconnect] {
        full_queue(world, settings, Bounds { messages: 5, bytes: 1 << 20, on_full }, 5);
        full_queue(world, settings, Bounds { messages: 100, bytes: 4 * cost + 1, on_full }, 4);
    }
    reload(world, settings.clone());
}

fn reload(world: &mut World, settings: Settings) {
    let settings = Arc::new(settings);
    for node in &mut world.nodes {
        node.shard.reload(Arc::clone(&settings));
    }
}

fn full_queue(world: &mut World, settings: &Settings, pending: Bounds, kept: usize) {
    reload(world, Settings { pending, ..settings.clone() });
    let mut subscriber = join(world, &hello("e-offline", true, 60));
    subscribe(world, &mut subscriber, Wish::new("e/q", 1));
    part(world, [subscriber]);
    let all: Vec<Vec<u8>> = (0..kept + 3).map(|n| format!("{n:020}").into_bytes()).collect();
    let before = world.counters().dropped_queue_full;
    let mut publisher = guest(world, "e-publisher");
    for payload in &all {
        publish(world, &mut publisher, "e/q", payload, Said { qos: 1, ..Said::default() });
    }
    assert_eq!(world.counters().dropped_queue_full - before, 3, "dropped_queue_full");
    let mut subscriber = Peer::connect(world, 0, &hello("e-offline", false, 0));
    let expected = match pending.on_full {
        OnFull::DropOldest => &all[3..],
        OnFull::DropNew | OnFull::Disconnect => &all[..kept],
    };
    assert_eq!(payloads(&read_all(world, &mut subscriber)), expected, "{:?}", pending.on_full);
    part(world, [subscriber, publisher]);
}

/// [MQTT-4.3.3-10 to 12]: between PUBLISH and PUBREL an identifier stands for one message, before
/// and after for another; every PUBREL gets its PUBCOMP.
fn exactly_once(world: &mut World) {
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
    assert_eq!(payloads(&read_all(world, &mut subscriber)), [b"1", b"2"], "exactly once");
    part(world, [subscriber, publisher]);
}

/// Section 3.1.2.11.2: a session lasts as long as was agreed, not less, and not much more.
fn session_end(world: &mut World) {
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

/// DISCONNECT that ends the session as well.
fn part_for_good(world: &mut World, mut peer: Peer) {
    peer.write(world, |out, version| {
        let mut packet = packet::Disconnect::new(ReasonCode::Success);
        packet.session_expiry = Some(0);
        packet::encode_disconnect(out, version, &packet);
    });
    world.settle();
    peer.end(world, End::Fin);
    world.settle();
}

/// [MQTT-3.1.4-3]: the old connection is told and closed, the new one has the session.
fn takeover(world: &mut World) {
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
    assert_eq!(payloads(&read_all(world, &mut second)), [b"m"], "the one that took over");
    part(world, [second, publisher]);
}

/// With the policy `disconnect` a connected client whose queue is full is told and closed.
fn harsh_queue(world: &mut World, settings: &Settings) {
    let pending = Bounds { messages: 5, bytes: 1 << 20, on_full: OnFull::Disconnect };
    reload(world, Settings { pending, ..settings.clone() });
    let mut connect = hello("e-slow", true, 0);
    connect.properties.receive_maximum = Some(1);
    let mut slow = join(world, &connect);
    subscribe(world, &mut slow, Wish::new("e/d", 1));
    let mut publisher = guest(world, "e-publisher");
    for number in 1..=7 {
        publisher.publish(world, "e/d", b"m", 1, number);
    }
    // For a while it holds up its publisher.
    world.settle();
    wait(world, 3000);
    let got = slow.take(world);
    assert!(
        matches!(got[..], [Got::Publish { .. }, Got::Disconnect(ReasonCode::QuotaExceeded)]),
        "one in flight, five pending, one too many: {got:?}"
    );
    slow.end(world, End::Fin);
    assert_eq!(publisher.take(world).len(), 7, "acknowledgements");
    part(world, [publisher]);
    reload(world, settings.clone());
}

/// QoS 0 for a client that is away is kept or counted as dropped, as `mqtt.queue_qos0` says.
fn offline_qos_0(world: &mut World, settings: &Settings) {
    for queue_qos0 in [false, true] {
        reload(world, Settings { queue_qos0, ..settings.clone() });
        let mut subscriber = join(world, &hello("e-offline", true, 60));
        subscribe(world, &mut subscriber, Wish::new("e/0", 0));
        part(world, [subscriber]);
        let before = world.counters().dropped_offline_qos0;
        let mut publisher = guest(world, "e-publisher");
        publish(world, &mut publisher, "e/0", b"m", Said { qos: 1, ..Said::default() });
        let dropped = world.counters().dropped_offline_qos0 - before;
        assert_eq!(dropped, u64::from(!queue_qos0), "dropped_offline_qos0");
        let mut subscriber = Peer::connect(world, 0, &hello("e-offline", false, 0));
        let got = read_all(world, &mut subscriber).len();
        assert_eq!(got, usize::from(queue_qos0), "QoS 0 kept for a client that was away");
        part(world, [subscriber, publisher]);
    }
    reload(world, settings.clone());
}

/// A retained message that is on its way to a new subscriber does not come after a newer one of
/// its topic that went out live.
fn replay_and_live(world: &mut World) {
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

/// A publisher that is parked for a subscriber on another shard goes on when that has caught up:
/// `World::check_sleep` says whether somebody was forgotten.
fn crowd(world: &mut World, settings: &Settings) {
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
    }
    world.settle();
    let parks = world.counters().parks_publisher - before.parks_publisher;
    assert!(parks > 0, "nobody is parked for a subscriber that does not read");
    let mut got = payloads(&read_all(world, &mut subscriber));
    wait(world, 2000);
    got.extend(payloads(&read_all(world, &mut subscriber)));
    let shed = world.counters().dropped_outgoing_full - before.dropped_outgoing_full;
    assert_eq!(got.len() as u64 + shed, 40, "delivered and shed");
    part(world, [subscriber, publisher]);
    reload(world, settings.clone());
}

/// Publishers towards a mailbox that fills up wait and lose nothing: what a subscriber did not get
/// was shed and counted, and what it got is in order [MQTT-4.6.0-6].
fn full_mailbox(world: &mut World) {
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
        got.extend(payloads(&read_all(world, &mut subscriber)));
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

/// [MQTT-3.3.4-9, MQTT-4.4.0-1, MQTT-3.3.1-1]: the window is never wider than Receive Maximum, and
/// what was not acknowledged comes again, in order, with DUP.
fn narrow_window(world: &mut World, settings: &Settings) {
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
    let rest = payloads(&read_all(world, &mut subscriber));
    assert_eq!(rest, [b"1", b"2", b"3"][width..], "after what was sent again");
    part_for_good(world, subscriber);
    part(world, [publisher]);
}

/// A share group is routed to from the moment of its first member's SUBACK.
fn group_from_its_suback(world: &mut World) {
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
fn group_with_a_leaver(world: &mut World) {
    let name = on(world, 0, |n| format!("e-member-{n}"));
    let group = on(world, 1, |n| format!("$share/e{n}/e/l"));
    let other = on(world, 1, |n| format!("e-publisher-{n}"));
    let mut member = join_at(world, 0, &hello(&name, true, 60));
    subscribe(world, &mut member, Wish::new(&group, 1));
    let mut publisher = join_at(world, 1, &hello(&other, true, 0));
    subscribe(world, &mut publisher, Wish::new(&group, 1));
    for number in 1..=6 {
        publisher.publish(world, "e/l", &[b'0' + number as u8], 1, number);
    }
    for _ in 0..5 {
        world.step(1);
    }
    member.unsubscribe(world, 9, &group);
    let got = member.take(world);
    assert_eq!(got, [Got::UnsubAck(9)], "a message after UNSUBACK");
    let mut got = payloads(&read_all(world, &mut publisher));
    got.sort();
    let expected: Vec<Vec<u8>> = (b'1'..=b'6').map(|n| vec![n]).collect();
    assert_eq!(got, expected, "each message goes to one member");
    part(world, [publisher]);
    member.end(world, End::Reset);
    world.settle();
}

/// A retained message whose PUBACK has come is found by whoever subscribes then, wherever it is
/// kept and whatever is still on its way there.
fn replay_after_puback(world: &mut World) {
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
