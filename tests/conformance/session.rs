//! Sessions: how long they live, what they keep, and what is sent again.

use std::time::Duration;

use crate::support::reason::*;
use crate::support::*;

/// A session with a subscription, disconnected.
#[track_caller]
fn away(connect: &Connect, topic: &str, qos: u8) {
    let mut c = connect.open(Broker::plain());
    c.granted(topic, qos);
    c.disconnect();
}

#[track_caller]
fn present(connect: &Connect) -> bool {
    let (c, answer) = connect.open_with(Broker::plain());
    c.disconnect();
    answer.session_present
}

#[test]
fn session_present_tells_whether_a_session_was_found() {
    for v in both() {
        let id = unique("present");
        let durable = Connect::durable(v, &id);
        let clean = Connect::new(v, &id);
        assert!(!present(&durable), "there was none");
        assert!(present(&durable));
        assert!(!present(&clean), "[MQTT-3.2.2-2] clean start");
        assert!(!present(&durable), "the clean one ended with its connection");
        assert!(present(&durable));
    }
}

#[test]
fn a_clean_start_discards_the_session() {
    for v in both() {
        let (id, topic) = (unique("clean"), unique("clean"));
        away(&Connect::durable(v, &id), &topic, 1);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 1, "lost"));
        let mut again = Connect::new(v, &id).open(Broker::plain());
        c.publish(&Publish::new(&topic, 1, "lost too"));
        again.expect_nothing();
    }
}

#[test]
fn a_clean_start_with_expiry_begins_a_session_that_lasts() {
    let id = unique("clean");
    let connect = Connect::durable(V5, &id);
    assert!(!present(&connect.clone().clean(true)));
    assert!(present(&connect));
}

#[test]
fn messages_wait_for_a_client_that_is_away() {
    for v in both() {
        let topic = unique("wait");
        let connect = Connect::durable(v, unique("s"));
        away(&connect, &topic, 2);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for n in 0..30 {
            c.publish(&Publish::new(&topic, 1 + n % 2, n.to_string()));
        }
        let (mut sub, answer) = connect.open_with(Broker::plain());
        assert!(answer.session_present);
        for n in 0..30 {
            let got = sub.expect(&n.to_string());
            assert_eq!((got.qos, got.dup, got.retain), (1 + n % 2, false, false));
        }
        c.publish(&Publish::new(&topic, 1, "live"));
        sub.expect("live");
        sub.expect_nothing();
    }
}

#[test]
fn qos_0_does_not_wait() {
    for v in both() {
        let topic = unique("wait");
        let connect = Connect::durable(v, unique("s"));
        away(&connect, &topic, 2);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 0, "lost"));
        c.publish(&Publish::new(&topic, 1, "kept"));
        settle();
        let mut sub = connect.open(Broker::plain());
        sub.expect("kept");
        sub.expect_nothing();
    }
}

#[test]
fn unacknowledged_messages_are_sent_again_in_order() {
    for v in both() {
        let topic = unique("again");
        let connect = Connect::durable(v, unique("s"));
        let mut sub = connect.open(Broker::plain());
        sub.granted(&topic, 2);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for n in 0..10 {
            c.publish(&Publish::new(&topic, 1 + n % 2, n.to_string()));
        }
        let first: Vec<_> = (0..10).map(|_| sub.delivery()).collect();
        assert!(first.iter().all(|publish| !publish.dup));
        sub.cut();
        for round in 0..2 {
            let mut sub = connect.open(Broker::plain());
            for earlier in &first {
                let again = sub.delivery();
                assert_eq!(again, earlier.clone().dup(), "round {round}");
                if round == 1 {
                    sub.acknowledge(&again);
                }
            }
            sub.expect_nothing();
            sub.cut();
        }
        connect.open(Broker::plain()).expect_nothing();
    }
}

#[test]
fn acknowledged_messages_are_not_sent_again() {
    for v in both() {
        let topic = unique("again");
        let connect = Connect::durable(v, unique("s"));
        let mut sub = connect.open(Broker::plain());
        sub.granted(&topic, 2);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for n in 0..6 {
            c.publish(&Publish::new(&topic, 1 + n % 2, n.to_string()));
        }
        let all: Vec<_> = (0..6).map(|_| sub.delivery()).collect();
        // Out of order, the middle ones only.
        for n in [3, 2] {
            sub.acknowledge(&all[n]);
        }
        sub.ping();
        sub.cut();
        let mut sub = connect.open(Broker::plain());
        for n in [0, 1, 4, 5] {
            let again = sub.message();
            assert_eq!((again.text(), again.dup, again.id), (n.to_string(), true, all[n].id));
        }
        sub.expect_nothing();
    }
}

#[test]
fn a_pubrel_is_sent_again_and_not_the_publish() {
    for v in both() {
        let topic = unique("release");
        let connect = Connect::durable(v, unique("s"));
        let mut sub = connect.open(Broker::plain());
        sub.granted(&topic, 2);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 2, "two"));
        let publish = sub.delivery();
        sub.send(&Ack::new(AckKind::PubRec, publish.id).encode());
        sub.ack(AckKind::PubRel, publish.id);
        sub.cut();
        let mut sub = connect.open(Broker::plain());
        // [MQTT-4.3.3-6], [MQTT-4.4.0-1]
        assert_eq!(sub.ack(AckKind::PubRel, publish.id).reason, 0);
        sub.expect_nothing();
        sub.send(&Ack::new(AckKind::PubComp, publish.id).encode());
        sub.ping();
        sub.cut();
        connect.open(Broker::plain()).expect_nothing();
    }
}

#[test]
fn nothing_is_sent_again_on_an_open_connection() {
    for v in both() {
        let topic = unique("no-retry");
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 1);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 1, "once"));
        sub.delivery();
        sub.expect_silence(Duration::from_millis(1500));
        sub.expect_nothing();
    }
}

#[test]
fn new_messages_come_after_those_sent_again() {
    for v in both() {
        let topic = unique("order");
        let connect = Connect::durable(v, unique("s"));
        let mut sub = connect.open(Broker::plain());
        sub.granted(&topic, 1);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        // More than a window: some sent, some waiting; then some while away.
        for n in 0..50 {
            c.publish(&Publish::new(&topic, 1, n.to_string()));
        }
        let sent = sub.delivery();
        assert_eq!(sent.text(), "0");
        sub.cut();
        for n in 50..70 {
            c.publish(&Publish::new(&topic, 1, n.to_string()));
        }
        let mut sub = connect.open(Broker::plain());
        for n in 0..70 {
            sub.expect(&n.to_string());
        }
        sub.expect_nothing();
    }
}

#[test]
fn qos_2_is_deduplicated_across_reconnection() {
    for v in both() {
        let topic = unique("dedup");
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 2);
        let connect = Connect::durable(v, unique("p"));
        let mut c = connect.open(Broker::plain());
        let publish = Publish::new(&topic, 2, "once").id(11);
        c.send_publish(&publish);
        c.ack(AckKind::PubRec, 11);
        c.cut();
        let mut c = connect.open(Broker::plain());
        c.send_publish(&publish.clone().dup());
        assert!(c.ack(AckKind::PubRec, 11).reason < 0x80);
        c.cut();
        let mut c = connect.open(Broker::plain());
        c.send(&Ack::new(AckKind::PubRel, 11).encode());
        assert_eq!(c.ack(AckKind::PubComp, 11).reason, 0);
        // The identifier is free: this is a new message.
        c.publish(&Publish::new(&topic, 2, "new").id(11));
        sub.expect("once");
        sub.expect("new");
        sub.expect_nothing();
    }
}

#[test]
fn a_new_session_forgets_inbound_identifiers() {
    for v in both() {
        let topic = unique("forget");
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 2);
        let id = unique("p");
        let publish = Publish::new(&topic, 2, "x").id(11);
        for _ in 0..2 {
            let mut c = Client::connect(Broker::plain(), v, &id);
            c.send_publish(&publish);
            c.ack(AckKind::PubRec, 11);
            c.cut();
        }
        // A PUBREL never came; whether the message is passed on at PUBLISH or PUBREL is free.
        let mut c = Client::connect(Broker::plain(), v, &id);
        c.publish(&publish);
        c.publish(&Publish::new(&topic, 2, "end"));
        let mut times = 0;
        while sub.message().text() != "end" {
            times += 1;
        }
        assert!(times == 3 || times == 1, "{times}");
    }
}

#[test]
fn a_session_without_expiry_ends_with_its_connection() {
    for expiry in [None, Some(0)] {
        let mut connect = Connect::new(V5, unique("zero")).clean(false);
        connect.properties.extend(expiry.map(Property::SessionExpiry));
        assert!(!present(&connect));
        assert!(!present(&connect));
        connect.open(Broker::plain()).cut();
        eventually("the session is gone", || !present(&connect));
    }
}

#[test]
fn a_session_lives_as_long_as_its_expiry_says() {
    let short = Connect::new(V5, unique("short")).clean(false).with(Property::SessionExpiry(1));
    let long = Connect::new(V5, unique("long")).clean(false).with(Property::SessionExpiry(60));
    let forever =
        Connect::new(V5, unique("ever")).clean(false).with(Property::SessionExpiry(u32::MAX));
    let topic = unique("expiry");
    for connect in [&short, &long, &forever] {
        away(connect, &topic, 1);
        // Coming back in time restarts the interval.
        assert!(present(connect));
    }
    Client::connect(Broker::plain(), V5, &unique("p")).publish(&Publish::new(&topic, 1, "kept"));
    std::thread::sleep(Duration::from_millis(2500));
    let (mut c, answer) = short.open_with(Broker::plain());
    assert!(!answer.session_present, "[MQTT-4.1.0-2] it outlived its expiry");
    c.expect_nothing();
    for connect in [&long, &forever] {
        let (mut c, answer) = connect.open_with(Broker::plain());
        assert!(answer.session_present);
        c.expect("kept");
    }
}

#[test]
fn an_open_session_does_not_expire() {
    let connect = Connect::new(V5, unique("open")).clean(false).with(Property::SessionExpiry(1));
    let topic = unique("open");
    let mut c = connect.open(Broker::plain());
    c.granted(&topic, 1);
    std::thread::sleep(Duration::from_millis(2500));
    let mut p = Client::connect(Broker::plain(), V5, &unique("p"));
    p.publish(&Publish::new(&topic, 1, "still"));
    c.expect("still");
    c.disconnect();
    assert!(present(&connect));
}

#[test]
fn an_open_mqtt_3_session_does_not_expire() {
    let broker = Broker::shared(&["mqtt.session_expiry.default=1s"]);
    for v in [V31, V311] {
        let topic = unique("open");
        let connect = Connect::durable(v, unique("open"));
        let mut c = connect.open(broker);
        c.granted(&topic, 1);
        std::thread::sleep(Duration::from_millis(2500));
        let mut p = Client::connect(broker, V5, &unique("p"));
        p.publish(&Publish::new(&topic, 1, "still"));
        c.expect("still");
    }
}

#[test]
fn the_expiry_can_be_changed_in_disconnect() {
    let connect = |seconds| {
        Connect::new(V5, unique("change")).clean(false).with(Property::SessionExpiry(seconds))
    };
    let ended = connect(3600);
    ended.open(Broker::plain()).disconnect_with(0, &[Property::SessionExpiry(0)]);
    assert!(!present(&ended));
    let shortened = connect(3600);
    shortened.open(Broker::plain()).disconnect_with(0, &[Property::SessionExpiry(1)]);
    let lengthened = connect(1);
    lengthened.open(Broker::plain()).disconnect_with(0, &[Property::SessionExpiry(3600)]);
    std::thread::sleep(Duration::from_millis(2500));
    assert!(!present(&shortened));
    assert!(present(&lengthened));
}

#[test]
fn an_expiry_of_zero_cannot_be_raised_in_disconnect() {
    let connect = Connect::new(V5, unique("raise")).clean(false);
    let mut c = connect.open(Broker::plain());
    c.send(&packet::encode_disconnect(0, &[Property::SessionExpiry(60)]));
    c.expect_violation(&[PROTOCOL_ERROR]);
    assert!(!present(&connect));
}

#[test]
fn a_longer_expiry_than_the_limit_is_answered_with_the_limit() {
    let broker = Broker::shared(&["mqtt.session_expiry.max=1h"]);
    let answer = |seconds| {
        let connect = Connect::new(V5, unique("max")).with(Property::SessionExpiry(seconds));
        connect.open_with(broker).1.property(17).cloned()
    };
    assert_eq!(answer(u32::MAX), Some(Property::SessionExpiry(3600)));
    assert_eq!(answer(3601), Some(Property::SessionExpiry(3600)));
    assert_eq!(answer(60), None);
}

#[test]
fn a_session_passes_between_versions() {
    let (id, topic) = (unique("versions"), unique("versions"));
    away(&Connect::durable(V311, &id), &topic, 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 1, "one").with(user("a", "b")));
    let (mut sub, answer) = Connect::durable(V5, &id).open_with(Broker::plain());
    assert!(answer.session_present);
    sub.expect("one");
    sub.disconnect();
    c.publish(&Publish::new(&topic, 1, "two").with(user("a", "b")));
    let (mut sub, answer) = Connect::durable(V311, &id).open_with(Broker::plain());
    assert!(answer.session_present);
    sub.expect("two");
}

#[test]
fn many_sessions_come_and_go_with_their_messages() {
    let topic = unique("crowd");
    let connects: Vec<_> = (0..50)
        .map(|n| Connect::durable(if n % 2 == 0 { V5 } else { V311 }, unique("s")))
        .collect();
    for connect in &connects {
        away(connect, &topic, 1);
    }
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    for n in 0..10 {
        c.publish(&Publish::new(&topic, 1, n.to_string()));
    }
    for connect in &connects {
        let mut sub = connect.open(Broker::plain());
        for n in 0..10 {
            sub.expect(&n.to_string());
        }
        sub.expect_nothing();
        sub.disconnect();
        assert!(!present(&Connect::new(connect.version, &connect.id)));
    }
}
