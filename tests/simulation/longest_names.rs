//! Names and packets as long as they can be, below mountpoints and with settings at their limits:
//! whatever has no encoding is refused or dropped with a reason, and counted.

use crate::net::Faults;
use crate::peer::{Got, Peer, hello, will};
use crate::scripted::{fine, mounted_world, world};
use crate::settings::roomy;
use crate::world::{Plan, World, listener_state};
use ringmq::packet::{AckKind, Connect, ConnectProperties, ReasonCode, Version};
use ringmq::shard::Settings;

/// The longest string that there is, in bytes.
const LONGEST: usize = 65_535;

/// Every limit on names is at its largest.
fn widest() -> Settings {
    let before_connect = 1 << 20;
    Settings { max_client_id_length: LONGEST, max_topic_levels: 1024, before_connect, ..roomy() }
}

/// Listener 0 has the mountpoint, listener 1 has none.
fn two_listeners(shards: usize, mountpoint: &str) -> World {
    World::new(Plan {
        seed: 1,
        shards,
        data: 8,
        control: 8,
        settings: widest(),
        faults: Faults { receive: 65_536, ..Faults::default() },
        listener_states: vec![listener_state(mountpoint), listener_state("")],
    })
}

fn v3<'a>(connect: Connect<'a>) -> Connect<'a> {
    let properties = ConnectProperties::default();
    Connect { version: Version::V311, properties, ..connect }
}

#[track_caller]
fn refused(world: &mut World, mut peer: Peer, reason: ReasonCode) {
    let got = peer.take(world);
    assert_eq!(got, [Got::ConnAck { present: false, reason }]);
    assert!(peer.is_closed(world));
    fine(world);
}

#[test]
fn response_information_that_is_too_long_refuses_the_client_that_asks_for_it() {
    let prefix = "response/";
    let settings = Settings { response_information: prefix.into(), ..widest() };
    let mut world = world(1, settings);
    let fits = "x".repeat(LONGEST - prefix.len() - 1);
    for (name, fits) in [(fits.clone(), true), (fits + "x", false), ("x".repeat(LONGEST), false)] {
        let plain = hello(&name, true, 0);
        let mut asks = plain;
        asks.properties.request_response_information = true;
        let mut peer = Peer::connect(&mut world, 0, &asks);
        if fits {
            assert!(matches!(peer.take(&mut world)[..], [Got::ConnAck { .. }]));
        } else {
            refused(&mut world, peer, ReasonCode::ClientIdentifierNotValid);
        }
        let mut peer = Peer::connect(&mut world, 0, &plain);
        let reason = ReasonCode::Success;
        assert_eq!(peer.take(&mut world), [Got::ConnAck { present: false, reason }]);
    }
    fine(&world);
}

#[test]
fn a_topic_that_is_too_long_below_the_mountpoint_is_refused_and_counted() {
    for shards in [1, 2] {
        let mut world = two_listeners(shards, "dev/");
        let mut backend = Peer::connect_to(&mut world, 1, &hello("backend", true, 0));
        backend.subscribe(&mut world, 1, "#", 1);
        backend.take(&mut world);
        let mut device = Peer::connect_to(&mut world, 0, &hello("device", true, 0));
        device.take(&mut world);
        let fits = "t".repeat(LONGEST - 4);
        let long = "t".repeat(LONGEST - 3);
        device.publish(&mut world, &fits, b"fits", 1, 1);
        assert!(matches!(
            device.take(&mut world)[..],
            [Got::Ack(AckKind::PubAck, 1, ReasonCode::Success)]
        ));
        for (qos, kind) in [(1, AckKind::PubAck), (2, AckKind::PubRec)] {
            device.publish(&mut world, &long, b"long", qos, 2);
            let refused = Got::Ack(kind, 2, ReasonCode::TopicNameInvalid);
            assert_eq!(device.take(&mut world), [refused]);
        }
        device.publish(&mut world, &long, b"long", 0, 0);
        device.alias(&mut world, &long, b"long", 1, 3, false);
        let refused = Got::Ack(AckKind::PubAck, 3, ReasonCode::TopicNameInvalid);
        assert_eq!(device.take(&mut world), [refused]);
        // MQTT 3 cannot say so; sending it again would not help.
        let old = v3(hello("old", true, 0));
        let mut old = Peer::connect_to(&mut world, 0, &old);
        old.take(&mut world);
        old.publish(&mut world, &long, b"long", 1, 4);
        let accepted = Got::Ack(AckKind::PubAck, 4, ReasonCode::Success);
        assert_eq!(old.take(&mut world), [accepted]);
        assert_eq!(backend.payloads(&mut world), ["fits"]);
        let total = world.counters();
        assert_eq!((total.dropped_not_encodable, total.violations), (5, 0));
        fine(&world);
    }
}

#[test]
fn a_filter_that_is_too_long_below_the_mountpoint_is_refused() {
    let mut world = two_listeners(2, "dev/");
    let (fits, long) = ("t".repeat(LONGEST - 4), "t".repeat(LONGEST - 3));
    let shared = format!("$share/g/{}", "t".repeat(LONGEST - 9));
    let shared_fits = format!("$share/g/{}", "t".repeat(LONGEST - 9 - 4));
    for connect in [hello("c", true, 0), v3(hello("d", true, 0))] {
        let mut peer = Peer::connect_to(&mut world, 0, &connect);
        peer.take(&mut world);
        let v5 = connect.version.is_v5();
        let code = if v5 { ReasonCode::TopicFilterInvalid } else { ReasonCode::UnspecifiedError };
        for (number, filter, code) in
            [(1, &fits, 1), (2, &long, code as u8), (3, &shared_fits, 1), (4, &shared, 1)]
        {
            peer.subscribe(&mut world, number, filter, 1);
            assert_eq!(peer.take(&mut world), [Got::SubAck(number, vec![code])], "{number}");
            peer.unsubscribe(&mut world, number, filter);
            assert_eq!(peer.take(&mut world), [Got::UnsubAck(number)]);
        }
        peer.goodbye(&mut world);
    }
    fine(&world);
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn a_client_whose_mountpoint_or_will_would_be_too_long_is_refused() {
    let mut world = mounted_world(1, widest(), "${client_id}/");
    let (name, short) = ("n".repeat(LONGEST), "n".repeat(LONGEST - 2));
    let too_long = [hello(&name, true, 0), v3(hello(&name, true, 0))];
    for connect in too_long {
        let peer = Peer::connect(&mut world, 0, &connect);
        refused(&mut world, peer, ReasonCode::ClientIdentifierNotValid);
    }
    // One byte is left for topics.
    let mut peer = Peer::connect(&mut world, 0, &hello(&short, true, 0));
    peer.subscribe(&mut world, 1, "t", 1);
    peer.publish(&mut world, "t", b"one", 0, 0);
    peer.publish(&mut world, "tt", b"two", 0, 0);
    assert_eq!(peer.payloads(&mut world), ["one"]);
    let will_of =
        |topic: &'static str| Connect { will: Some(will(topic, 0)), ..peer_hello(&short) };
    let peer = Peer::connect(&mut world, 0, &will_of("tt"));
    refused(&mut world, peer, ReasonCode::TopicNameInvalid);
    let mut peer = Peer::connect(&mut world, 0, &will_of("t"));
    let reason = ReasonCode::Success;
    assert_eq!(peer.take(&mut world), [Got::ConnAck { present: false, reason }]);
    fine(&world);
}

fn peer_hello(name: &str) -> Connect<'_> {
    hello(name, true, 0)
}

#[test]
fn what_lies_beside_the_mountpoint_is_nobodys_below_it() {
    for shards in [1, 3] {
        let mut world = two_listeners(shards, "dev/");
        let mut device = Peer::connect_to(&mut world, 0, &hello("device", true, 0));
        device.subscribe(&mut world, 1, "#", 1);
        device.take(&mut world);
        let mut backend = Peer::connect_to(&mut world, 1, &hello("backend", true, 0));
        // `dev/#` matches `dev`, which has no name below `dev/`.
        backend.publish(&mut world, "dev", b"parent", 1, 1);
        backend.publish(&mut world, "dev/", b"empty", 1, 2);
        backend.publish_as(&mut world, "dev", b"kept", 1, 3, true);
        backend.publish(&mut world, "dev/a", b"below", 1, 4);
        backend.take(&mut world);
        let topics = |got: Vec<Got>| {
            let topic = |got| match got {
                Got::Publish { topic, .. } => Some(topic),
                _ => None,
            };
            got.into_iter().filter_map(topic).collect::<Vec<_>>()
        };
        // A topic of no levels cannot be sent: `dev/` alone is the mountpoint itself.
        assert_eq!(topics(device.read_all(&mut world)), ["a"]);
        let mut late = Peer::connect_to(&mut world, 0, &hello("late", true, 0));
        late.subscribe(&mut world, 1, "#", 1);
        assert_eq!(topics(late.read_all(&mut world)), Vec::<String>::new());
        fine(&world);
    }
}

#[test]
fn a_client_cannot_choose_itself_a_mountpoint_of_the_servers() {
    let mut world = mounted_world(1, widest(), "${client_id}/");
    for (name, topic) in [("$SYS", "_SYS/x"), ("${username}", "_{username}/x")] {
        let connect = Connect { username: Some("other"), ..hello(name, true, 0) };
        let mut peer = Peer::connect(&mut world, 0, &connect);
        peer.take(&mut world);
        peer.publish_as(&mut world, "x", b"kept", 1, 1, true);
        peer.take(&mut world);
        let kept: Vec<String> = world.nodes[0].shard.retained_topics();
        assert!(kept.iter().any(|known| known == topic), "{kept:?}");
    }
    fine(&world);
}

#[test]
fn an_answer_and_names_of_the_greatest_length_go_through_every_shard() {
    for shards in [1, 2, 3] {
        let mut world = World::new(Plan {
            seed: 1,
            shards,
            data: 4,
            control: 1,
            settings: widest(),
            faults: Faults { receive: 1000, split: 300, ..Faults::default() },
            listener_states: vec![listener_state("")],
        });
        let (name, topic) = ("n".repeat(LONGEST), "t".repeat(LONGEST));
        let mut peer = Peer::connect(&mut world, 0, &hello(&name, true, 60));
        peer.subscribe(&mut world, 1, &topic, 2);
        peer.publish_as(&mut world, &topic, b"long", 2, 2, true);
        let got = peer.take(&mut world);
        let long = |got: &Got| matches!(got, Got::Publish { topic, .. } if topic.len() == LONGEST);
        assert_eq!(got.iter().filter(|got| long(got)).count(), 1, "{shards}");
        fine(&world);
    }
}
