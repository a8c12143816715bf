//! Flow control: windows, packet sizes and topic aliases, as each side asked for them.

use std::collections::HashMap;

use crate::support::reason::*;
use crate::support::*;

/// Publishes `count` numbered messages.
#[track_caller]
fn numbered(c: &mut Client, topic: &str, qos: u8, count: usize) {
    for n in 0..count {
        c.publish(&Publish::new(topic, qos, n.to_string()));
    }
}

#[test]
fn the_server_never_exceeds_the_clients_receive_maximum() {
    for qos in 1..=2 {
        let topic = unique("window");
        let mut sub =
            Connect::new(V5, unique("s")).with(Property::ReceiveMaximum(3)).open(Broker::plain());
        sub.granted(&topic, qos);
        let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
        numbered(&mut c, &topic, qos, 10);
        let mut window: Vec<_> = (0..3).map(|_| sub.delivery()).collect();
        for n in 3..10 {
            // PINGRESP, and messages of QoS 0, are not held up by a full window.
            sub.expect_nothing();
            let first = window.remove(0);
            sub.acknowledge(&first);
            let next = sub.delivery();
            assert_eq!(next.text(), n.to_string());
            window.push(next);
        }
        let open = Publish::new(&topic, 0, "QoS 0");
        c.publish(&open);
        assert_eq!(sub.delivery().qos, 0);
        sub.expect_nothing();
    }
}

#[test]
fn mqtt_3_clients_have_a_window_too() {
    let broker = Broker::shared(&["mqtt.max_inflight=2"]);
    for v in both() {
        let topic = unique("window");
        let mut sub = Client::subscriber(broker, v, &unique("s"), &topic, 1);
        let mut c = Client::connect(broker, v, &unique("p"));
        numbered(&mut c, &topic, 1, 6);
        let mut window = vec![sub.delivery(), sub.delivery()];
        for n in 2..6 {
            sub.expect_nothing();
            let first = window.remove(0);
            sub.acknowledge(&first);
            let next = sub.delivery();
            assert_eq!(next.text(), n.to_string());
            window.push(next);
        }
    }
}

#[test]
fn only_pubcomp_frees_a_place_in_the_window() {
    let topic = unique("window");
    let mut sub =
        Connect::new(V5, unique("s")).with(Property::ReceiveMaximum(1)).open(Broker::plain());
    sub.granted(&topic, 2);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    numbered(&mut c, &topic, 2, 2);
    let first = sub.delivery();
    sub.expect_nothing();
    sub.send(&Ack::new(AckKind::PubRec, first.id).encode());
    sub.ack(AckKind::PubRel, first.id);
    sub.expect_nothing();
    sub.send(&Ack::new(AckKind::PubComp, first.id).encode());
    assert_eq!(sub.delivery().text(), "1");
}

#[test]
fn other_packets_are_processed_while_the_window_is_full() {
    let topic = unique("window");
    let mut c =
        Connect::new(V5, unique("c")).with(Property::ReceiveMaximum(1)).open(Broker::plain());
    c.granted(&topic, 2);
    c.publish(&Publish::new(&topic, 2, "fills"));
    let held = c.delivery();
    // [MQTT-3.3.4-10], [MQTT-4.9.0-3]
    c.granted(&unique("other"), 2);
    c.publish(&Publish::new(unique("other"), 2, "x"));
    assert_eq!(c.unsubscribe(&[&topic]), [0]);
    c.expect_nothing();
    c.acknowledge(&held);
}

const FIVE: &[&str] = &["mqtt.receive_maximum=5"];

#[test]
fn a_client_that_exceeds_the_receive_maximum_is_cut_off() {
    let broker = Broker::shared(FIVE);
    let (mut c, answer) = Connect::new(V5, unique("c")).open_with(broker);
    assert_eq!(answer.property(33), Some(&Property::ReceiveMaximum(5)));
    let topic = unique("flood");
    for id in 1..=5 {
        c.send_publish(&Publish::new(&topic, 2, "x").id(id));
        c.ack(AckKind::PubRec, id);
    }
    // Five are in flight until PUBCOMP; QoS 0 does not count; a repetition does not either.
    c.send_publish(&Publish::new(&topic, 0, "x"));
    c.ping();
    c.send(&Ack::new(AckKind::PubRel, 1).encode());
    c.ack(AckKind::PubComp, 1);
    c.send_publish(&Publish::new(&topic, 2, "x").id(6));
    c.ack(AckKind::PubRec, 6);
    c.send_publish(&Publish::new(&topic, 2, "x").id(7));
    c.expect_disconnect(&[RECEIVE_MAXIMUM_EXCEEDED]);
}

#[test]
fn a_client_of_mqtt_3_may_have_as_many_in_flight_as_there_are_identifiers() {
    // It is told no Receive Maximum; MQTT.js sends what it has without waiting.
    let broker = Broker::shared(FIVE);
    for v in [V31, V311] {
        let topic = unique("many");
        let mut sub = Client::subscriber(broker, V5, &unique("s"), &topic, 0);
        let mut c = Client::connect(broker, v, &unique("c"));
        let ids = (1..=300).chain([65_535]);
        for id in ids.clone() {
            c.send_publish(&Publish::new(&topic, 2, id.to_string()).id(id));
        }
        for id in ids.clone() {
            c.ack(AckKind::PubRec, id);
        }
        // A repetition of any is still one [MQTT-4.3.3-2].
        c.send_publish(&Publish::new(&topic, 2, "7").id(7).dup());
        c.ack(AckKind::PubRec, 7);
        for id in ids.clone() {
            c.send(&Ack::new(AckKind::PubRel, id).encode());
            c.ack(AckKind::PubComp, id);
        }
        for id in ids {
            sub.expect(&id.to_string());
        }
        sub.expect_nothing();
    }
}

#[test]
fn qos_1_frees_its_place_with_puback() {
    let broker = Broker::shared(FIVE);
    let mut c = Client::connect(broker, V5, &unique("c"));
    numbered(&mut c, &unique("many"), 1, 50);
    c.expect_nothing();
}

#[test]
fn a_packet_too_large_for_the_client_is_not_sent() {
    for qos in 0..=2 {
        let topic = unique("small");
        let mut small = Connect::new(V5, unique("small"))
            .with(Property::MaximumPacketSize(100))
            .with(Property::ReceiveMaximum(1))
            .open(Broker::plain());
        small.granted(&topic, qos);
        let mut large = Client::subscriber(Broker::plain(), V5, &unique("l"), &topic, qos);
        let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
        let fits = Publish::new(&topic, qos, "");
        let room = 100 - fits.clone().id(1).encode(V5).len();
        c.publish(&Publish::new(&topic, qos, vec![b'x'; room]));
        assert_eq!(small.message().payload.len(), room, "exactly the limit is sent");
        c.publish(&Publish::new(&topic, qos, vec![b'x'; room + 1]));
        c.publish(&Publish::new(&topic, qos, "next"));
        // [MQTT-3.1.2-25]: as if it had been delivered, so the window of one is not stuck.
        small.expect("next");
        large.message();
        assert_eq!(large.message().payload.len(), room + 1, "others get it");
        large.expect("next");
        small.expect_nothing();
    }
}

#[test]
fn a_retained_message_too_large_for_the_client_is_not_sent() {
    let topic = unique("small");
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(format!("{topic}/a"), 1, vec![b'x'; 200]).retain());
    c.publish(&Publish::new(format!("{topic}/b"), 1, "fits").retain());
    let mut small = Connect::new(V5, unique("small"))
        .with(Property::MaximumPacketSize(120))
        .open(Broker::plain());
    small.granted(&format!("{topic}/+"), 1);
    small.expect("fits");
    small.expect_nothing();
}

#[test]
fn a_topic_alias_stands_for_its_topic() {
    let (one, two) = (unique("one"), unique("two"));
    let mut sub = Client::subscriber(Broker::plain(), V311, &unique("s"), &one, 1);
    sub.granted(&two, 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    let publish = |topic: &str, alias: u16, payload: &str| {
        Publish::new(topic, 1, payload).with(Property::TopicAlias(alias))
    };
    for alias in 1..=16 {
        c.publish(&publish(&one, alias, "set"));
        assert_eq!(sub.expect("set").topic, one);
    }
    for alias in 1..=16 {
        c.publish(&publish("", alias, "used"));
        assert_eq!(sub.expect("used").topic, one);
    }
    c.publish(&publish(&two, 3, "moved"));
    assert_eq!(sub.expect("moved").topic, two);
    c.publish(&publish("", 3, "moved"));
    assert_eq!(sub.expect("moved").topic, two);
    c.publish(&publish("", 4, "kept"));
    assert_eq!(sub.expect("kept").topic, one);
    sub.expect_nothing();
}

#[test]
fn an_inbound_alias_is_not_passed_on() {
    let topic = unique("alias");
    let mut sub =
        Connect::new(V5, unique("s")).with(Property::TopicAliasMaximum(0)).open(Broker::plain());
    sub.granted(&topic, 0);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 0, "x").with(Property::TopicAlias(1)));
    let got = sub.message();
    assert_eq!((got.topic, got.properties), (topic, vec![]));
}

#[test]
fn topic_aliases_end_with_their_connection() {
    let topic = unique("alias");
    let connect = Connect::durable(V5, unique("p"));
    let mut c = connect.open(Broker::plain());
    c.publish(&Publish::new(&topic, 1, "x").with(Property::TopicAlias(1)));
    c.disconnect();
    let mut c = connect.open(Broker::plain());
    c.send_publish(&Publish::new("", 0, "y").with(Property::TopicAlias(1)));
    c.expect_disconnect(&[PROTOCOL_ERROR, TOPIC_ALIAS_INVALID]);
}

#[test]
fn a_repeated_publish_sets_its_alias_all_the_same() {
    let topic = unique("alias");
    let connect = Connect::durable(V5, unique("p"));
    let mut sub = Client::subscriber(Broker::plain(), V5, &unique("s"), &topic, 2);
    let mut c = connect.open(Broker::plain());
    let publish = Publish::new(&topic, 2, "once").id(5);
    c.send_publish(&publish);
    c.ack(AckKind::PubRec, 5);
    c.cut();
    let mut c = connect.open(Broker::plain());
    // The message is known, the alias is not: it belongs to this connection.
    c.send_publish(&publish.clone().dup().with(Property::TopicAlias(3)));
    assert!(c.ack(AckKind::PubRec, 5).reason < 0x80);
    c.publish(&Publish::new("", 1, "by alias").with(Property::TopicAlias(3)));
    sub.expect("once");
    sub.expect("by alias");
    sub.expect_nothing();
    // Nor does being known excuse a wrong one.
    for alias in [0, u16::MAX] {
        let mut c = connect.open(Broker::plain());
        c.send_publish(&publish.clone().dup().with(Property::TopicAlias(alias)));
        c.expect_violation(&[TOPIC_ALIAS_INVALID, PROTOCOL_ERROR, MALFORMED]);
    }
}

#[test]
fn topic_aliases_can_be_switched_off() {
    let broker = Broker::shared(&["mqtt.max_topic_alias=0"]);
    let (mut c, answer) = Connect::new(V5, unique("p")).open_with(broker);
    let told = answer.property(34);
    assert!(told.is_none_or(|told| *told == Property::TopicAliasMaximum(0)), "{told:?}");
    c.send_publish(&Publish::new(unique("a"), 0, "y").with(Property::TopicAlias(1)));
    c.expect_disconnect(&[TOPIC_ALIAS_INVALID]);
}

/// Receives `count` messages and returns their topics with aliases resolved, and how many came
/// without a topic.
#[track_caller]
fn resolve(sub: &mut Client, count: usize, maximum: u16) -> (Vec<String>, usize) {
    let (mut known, mut topics, mut short) = (HashMap::new(), Vec::new(), 0);
    for _ in 0..count {
        let got = sub.message();
        let topic = match (got.topic.is_empty(), got.topic_alias()) {
            (false, None) => got.topic,
            (false, Some(alias)) => {
                assert!(alias <= maximum, "alias {alias} of {maximum}");
                known.insert(alias, got.topic.clone());
                got.topic
            }
            (true, alias) => {
                short += 1;
                known[&alias.expect("the decoder checked it")].clone()
            }
        };
        topics.push(topic);
    }
    (topics, short)
}

const OUTBOUND: &[&str] = &["mqtt.topic_alias_outbound=10"];

#[test]
fn outbound_aliases_stay_within_the_clients_maximum() {
    let broker = Broker::shared(OUTBOUND);
    for maximum in [1, 2, 100] {
        let prefix = unique("alias");
        let mut sub =
            Connect::new(V5, unique("s")).with(Property::TopicAliasMaximum(maximum)).open(broker);
        sub.granted(&format!("{prefix}/#"), 1);
        let mut c = Client::connect(broker, V5, &unique("p"));
        let names: Vec<_> = (0..60).map(|n| format!("{prefix}/{}", n / 2 % 3)).collect();
        for name in &names {
            c.publish(&Publish::new(name, 1, "x"));
        }
        let (topics, short) = resolve(&mut sub, 60, maximum.min(10));
        assert_eq!(topics, names);
        assert!(short > 0, "no alias was used");
    }
}

#[test]
fn no_alias_is_sent_to_a_client_that_did_not_ask() {
    let broker = Broker::shared(OUTBOUND);
    for v in both() {
        let topic = unique("alias");
        let mut sub = Client::subscriber(broker, v, &unique("s"), &topic, 0);
        let mut c = Client::connect(broker, V5, &unique("p"));
        for _ in 0..5 {
            c.publish(&Publish::new(&topic, 0, "x"));
            let got = sub.message();
            assert_eq!((got.topic_alias(), got.topic), (None, topic.clone()));
        }
    }
}

#[test]
fn redelivery_does_not_depend_on_an_old_alias() {
    let broker = Broker::shared(OUTBOUND);
    let topic = unique("alias");
    let connect = Connect::durable(V5, unique("s")).with(Property::TopicAliasMaximum(5));
    let mut sub = connect.open(broker);
    sub.granted(&topic, 1);
    let mut c = Client::connect(broker, V5, &unique("p"));
    for _ in 0..3 {
        c.publish(&Publish::new(&topic, 1, "x"));
        sub.delivery();
    }
    sub.cut();
    let mut sub = connect.open(broker);
    let (topics, _) = resolve(&mut sub, 3, 5);
    assert_eq!(topics, vec![topic; 3]);
}

/// Everything until the answer to a PINGREQ.
fn properties_of_errors(c: &mut Client) -> Vec<Property> {
    c.send(&Ack::new(AckKind::PubRel, 7).encode());
    c.ack(AckKind::PubComp, 7).properties
}

#[test]
fn reason_strings_are_kept_back_when_asked() {
    let mut c = Connect::new(V5, unique("c"))
        .with(Property::RequestProblemInformation(0))
        .open(Broker::plain());
    assert_eq!(properties_of_errors(&mut c), []);
    let mut subscribe = Subscribe::to("$share/g/", 0);
    subscribe.id = 3;
    c.send(&subscribe.encode(V5));
    // A SUBACK without properties, or the DISCONNECT that may always carry a reason string.
    match c.next() {
        Packet::SubAck { properties, .. } => assert_eq!(properties, []),
        Packet::Disconnect { .. } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_small_maximum_packet_size_holds_for_every_packet() {
    // The smallest useful size: acknowledgements fit, reason strings do not.
    let mut c =
        Connect::new(V5, unique("c")).with(Property::MaximumPacketSize(20)).open(Broker::plain());
    for property in properties_of_errors(&mut c) {
        let size = 5 + property.write(Writer::new()).0.len() + 1;
        assert!(size <= 20, "{property:?} makes PUBCOMP {size} bytes long");
    }
    c.granted("a", 0);
    c.unsubscribe(&["a"]);
    c.send(&[0x36, 6, 0, 1, b'a', 0, 1, 0]);
    let bytes = c.read_to_end();
    assert!(bytes.len() <= 20, "DISCONNECT of {} bytes: {bytes:x?}", bytes.len());
}
