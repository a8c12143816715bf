//! PUBLISH and its acknowledgements, in and out, and what is forwarded.

use crate::support::reason::*;
use crate::support::*;

#[test]
fn every_version_reaches_every_version_at_every_qos() {
    for from in all() {
        for to in all() {
            let topic = unique("pair");
            let mut sub = Client::subscriber(Broker::plain(), to, &unique("s"), &topic, 2);
            let mut c = Client::connect(Broker::plain(), from, &unique("p"));
            for qos in 0..=2 {
                c.publish(&Publish::new(&topic, qos, "hello"));
                let got = sub.expect("hello");
                assert_eq!(
                    (got.qos, got.dup, got.retain, got.topic),
                    (qos, false, false, topic.clone())
                );
                assert_eq!(got.properties, []);
            }
            c.expect_nothing();
            sub.expect_nothing();
        }
    }
}

#[test]
fn the_lower_qos_of_message_and_subscription_is_used() {
    for v in both() {
        for granted in 0..=2 {
            let topic = unique("lower");
            let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, granted);
            let mut c = Client::connect(Broker::plain(), v, &unique("p"));
            for qos in 0..=2 {
                c.publish(&Publish::new(&topic, qos, "x"));
                assert_eq!(sub.message().qos, qos.min(granted));
            }
        }
    }
}

#[test]
fn a_client_receives_what_it_publishes() {
    for v in both() {
        let topic = unique("self");
        let mut c = Client::subscriber(Broker::plain(), v, &unique("c"), &topic, 2);
        for qos in 0..=2 {
            c.publish(&Publish::new(&topic, qos, "mine"));
            c.expect("mine");
        }
        c.expect_nothing();
    }
}

#[test]
fn empty_payloads_are_forwarded() {
    for v in both() {
        let topic = unique("empty");
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 2);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for qos in 0..=2 {
            c.publish(&Publish::new(&topic, qos, ""));
            assert_eq!(sub.message().payload, b"");
        }
    }
}

#[test]
fn dup_is_not_passed_on() {
    for v in both() {
        let topic = unique("dup");
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 2);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for qos in 1..=2 {
            c.publish(&Publish::new(&topic, qos, "again").dup());
            assert!(!sub.expect("again").dup);
        }
    }
}

#[test]
fn a_packet_identifier_is_new_again_after_puback() {
    for v in both() {
        let topic = unique("reuse");
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 1);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for payload in ["one", "two", "three"] {
            // [MQTT-4.3.2-5]: whatever DUP says.
            c.publish(&Publish::new(&topic, 1, payload).id(7).dup());
            sub.expect(payload);
        }
    }
}

#[test]
fn a_repeated_qos_2_publish_is_delivered_once() {
    for v in both() {
        let topic = unique("twice");
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 2);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        let publish = Publish::new(&topic, 2, "once").id(9);
        c.send_publish(&publish);
        c.ack(AckKind::PubRec, 9);
        for _ in 0..3 {
            c.send_publish(&publish.clone().dup());
            assert!(c.ack(AckKind::PubRec, 9).reason < 0x80);
        }
        for _ in 0..2 {
            // A repeated PUBREL is answered as well; that its identifier is gone may be said.
            c.send(&Ack::new(AckKind::PubRel, 9).encode());
            c.ack(AckKind::PubComp, 9);
        }
        c.publish(&Publish::new(&topic, 2, "new").id(9));
        sub.expect("once");
        sub.expect("new");
        sub.expect_nothing();
    }
}

#[test]
fn pubrel_for_an_unknown_identifier_is_completed() {
    for v in both() {
        let mut c = Client::connect(Broker::plain(), v, &unique("c"));
        c.send(&Ack::new(AckKind::PubRel, 77).encode());
        let expected = if v.is_v5() { PACKET_ID_NOT_FOUND } else { 0 };
        assert_eq!(c.ack(AckKind::PubComp, 77).reason, expected);
        c.ping();
    }
}

#[test]
fn pubrec_for_an_unknown_identifier_is_told_so() {
    let mut c = Client::connect(Broker::plain(), V5, &unique("c"));
    c.send(&Ack::new(AckKind::PubRec, 78).encode());
    assert_eq!(c.ack(AckKind::PubRel, 78).reason, PACKET_ID_NOT_FOUND);
    c.ping();
}

#[test]
fn a_publish_nobody_wants_is_accepted() {
    for v in both() {
        let mut c = Client::connect(Broker::plain(), v, &unique("c"));
        for qos in 0..=2 {
            let code = c.publish_code(&Publish::new(unique("nobody"), qos, "x"));
            assert!([SUCCESS, NO_MATCHING_SUBSCRIBERS].contains(&code), "{code:#x}");
        }
        c.expect_nothing();
    }
}

#[test]
fn a_publish_that_is_not_authorized_is_acknowledged_and_goes_nowhere() {
    for v in all() {
        let name = format!("$SYS/{}", unique("forged"));
        let mut sub = Client::subscriber(Broker::plain(), V5, &unique("s"), &name, 2);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for qos in 0..=2 {
            let code = c.publish_code(&Publish::new(&name, qos, "forged"));
            let expected = if v.is_v5() && qos > 0 { NOT_AUTHORIZED } else { SUCCESS };
            assert_eq!(code, expected);
        }
        c.ping();
        settle();
        sub.expect_nothing();
    }
}

#[test]
fn the_state_of_a_bridge_may_be_published_below_sys() {
    // Several nodes do not promise it: `$SYS` is each node's own.
    let broker = Broker::single(&[]);
    // A mosquitto bridge does, and has a will there (section 4.7.2 leaves it to the server).
    for v in both() {
        let name = format!("$SYS/broker/connection/{}/state", unique("host"));
        let mut sub = Client::subscriber(broker, V5, &unique("s"), &name, 1);
        let connect = Connect::new(v, unique("b")).will(Publish::new(&name, 1, "0").retain());
        let mut c = connect.open(broker);
        c.publish(&Publish::new(&name, 1, "1").retain());
        sub.expect("1");
        c.cut();
        sub.expect("0");
    }
}

#[test]
fn after_a_refusing_pubrec_the_identifier_is_new() {
    let topic = unique("new");
    let mut sub = Client::subscriber(Broker::plain(), V5, &unique("s"), &topic, 2);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    let refused = Publish::new(format!("$SYS/{topic}"), 2, "refused").id(4);
    for publish in [&refused, &refused.clone().dup()] {
        c.send_publish(publish);
        assert_eq!(c.ack(AckKind::PubRec, 4).reason, NOT_AUTHORIZED);
    }
    // Marked as a repetition, and yet another message.
    c.publish(&Publish::new(&topic, 2, "another").id(4).dup());
    sub.expect("another");
    sub.expect_nothing();
}

#[test]
fn many_publishes_at_once_are_all_acknowledged() {
    for v in both() {
        for qos in 1..=2 {
            let topic = unique("pipeline");
            let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, qos);
            let mut c = Client::connect(Broker::plain(), v, &unique("p"));
            let bytes: Vec<u8> = (1..=200)
                .flat_map(|id| Publish::new(&topic, qos, id.to_string()).id(id).encode(v))
                .collect();
            c.send(&bytes);
            for id in 1..=200 {
                if qos == 1 {
                    c.ack(AckKind::PubAck, id);
                } else {
                    c.ack(AckKind::PubRec, id);
                    c.send(&Ack::new(AckKind::PubRel, id).encode());
                    c.ack(AckKind::PubComp, id);
                }
            }
            for id in 1..=200 {
                sub.expect(&id.to_string());
            }
        }
    }
}

#[test]
fn packet_identifiers_in_flight_differ() {
    for v in both() {
        let topic = unique("ids");
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 2);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        let mut ids = Vec::new();
        for n in 0..20 {
            c.publish(&Publish::new(&topic, 1 + n % 2, "x"));
            ids.push(sub.delivery().id);
        }
        assert!(!ids.contains(&0));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 20, "{ids:?}");
    }
}

#[test]
fn packet_identifiers_are_per_direction_and_client() {
    // The server's identifiers are its own: the same number may be in flight both ways.
    for v in both() {
        let topic = unique("ways");
        let mut c = Client::subscriber(Broker::plain(), v, &unique("c"), &topic, 2);
        let mut other = Client::connect(Broker::plain(), v, &unique("p"));
        other.publish(&Publish::new(&topic, 2, "theirs"));
        let theirs = c.delivery();
        let mine = c.send_publish(&Publish::new(unique("ways"), 2, "mine").id(theirs.id));
        c.ack(AckKind::PubRec, mine);
        c.acknowledge(&theirs);
        c.send(&Ack::new(AckKind::PubRel, mine).encode());
        assert_eq!(c.ack(AckKind::PubComp, mine).reason, 0);
        c.expect_nothing();
    }
}

#[test]
fn a_pubrec_with_an_error_ends_the_flow() {
    let (topic, id) = (unique("error"), unique("s"));
    let connect = Connect::durable(V5, &id).with(Property::ReceiveMaximum(1));
    let mut sub = connect.open(Broker::plain());
    sub.granted(&topic, 2);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 2, "refused"));
    c.publish(&Publish::new(&topic, 2, "next"));
    let refused = sub.delivery();
    assert_eq!(refused.text(), "refused");
    sub.send(&Ack::new(AckKind::PubRec, refused.id).reason(QUOTA_EXCEEDED).encode());
    // Its place in the window of one is free, and no PUBREL comes for it.
    let next = sub.delivery();
    assert_eq!(next.text(), "next");
    sub.expect_nothing();
    sub.acknowledge(&next);
    sub.ping();
    sub.cut();
    let (mut sub, answer) = connect.open_with(Broker::plain());
    assert!(answer.session_present);
    sub.expect_nothing();
}

#[test]
fn a_puback_with_an_error_ends_the_flow() {
    let (topic, id) = (unique("error"), unique("s"));
    let connect = Connect::durable(V5, &id).with(Property::ReceiveMaximum(1));
    let mut sub = connect.open(Broker::plain());
    sub.granted(&topic, 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 1, "refused"));
    c.publish(&Publish::new(&topic, 1, "next"));
    let refused = sub.delivery();
    sub.send(&Ack::new(AckKind::PubAck, refused.id).reason(UNSPECIFIED).encode());
    sub.expect("next");
    sub.ping();
    sub.cut();
    let (mut sub, answer) = connect.open_with(Broker::plain());
    assert!(answer.session_present);
    sub.expect_nothing();
}

#[test]
fn topic_names_are_taken_as_they_are() {
    let topics = [
        "/",
        "//",
        "/a",
        "a/",
        "a//b",
        " ",
        "a b",
        "é",
        "e\u{301}",
        "\u{feff}a",
        "日本/語",
        "A",
        "a",
        "a/./b",
        "a/../b",
        "%41",
        "\u{10fffd}",
        "😀/😀",
        "a$",
        "a/$b",
    ];
    for v in both() {
        let prefix = unique("as-is");
        let mut sub = Client::connect(Broker::plain(), v, &unique("s"));
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for topic in topics {
            sub.granted(&format!("{prefix}{topic}"), 0);
        }
        for topic in topics {
            let name = format!("{prefix}{topic}");
            c.publish(&Publish::new(&name, 0, topic));
            let got = sub.expect(topic);
            assert_eq!(got.topic, name);
        }
        sub.expect_nothing();
    }
}

#[test]
fn the_longest_topic_name_works() {
    for v in both() {
        let topic = format!("{}{}", unique("long"), "x".repeat(65_500));
        let topic = &topic[..65_535.min(topic.len())];
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), topic, 1);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(topic, 1, "far"));
        assert_eq!(sub.expect("far").topic, topic);
    }
}

#[test]
fn unknown_acknowledgements_do_no_harm() {
    for v in both() {
        let topic = unique("stray");
        let mut c = Client::subscriber(Broker::plain(), v, &unique("c"), &topic, 1);
        c.send(&Ack::new(AckKind::PubAck, 5).encode());
        c.send(&Ack::new(AckKind::PubComp, 6).encode());
        // A server may treat it as an error, but only in this connection.
        let mut other = Client::subscriber(Broker::plain(), v, &unique("o"), &topic, 1);
        other.publish(&Publish::new(&topic, 1, "fine"));
        other.expect("fine");
    }
}

#[test]
fn a_message_is_acknowledged_once_it_is_in_the_session_of_each_subscriber() {
    // [MQTT-4.5.0-1]: what was acknowledged reaches a subscriber that was away all the time.
    for v in both() {
        let topic = unique("owned");
        let connects: Vec<_> = (0..8).map(|_| Connect::durable(v, unique("s"))).collect();
        for connect in &connects {
            let mut c = connect.open(Broker::plain());
            c.granted(&topic, 2);
            c.disconnect();
        }
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 1, "one"));
        c.publish(&Publish::new(&topic, 2, "two"));
        for connect in &connects {
            let mut c = connect.open(Broker::plain());
            c.expect("one");
            c.expect("two");
            c.expect_nothing();
        }
    }
}
