//! Retained messages.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::packet::*;
use crate::support::*;

#[test]
fn a_new_subscription_gets_the_last_retained_message() {
    for v in all() {
        let topic = unique("retained");
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 1, "first").retain());
        c.publish(&Publish::new(&topic, 2, "last").retain());
        for to in all() {
            let mut sub = Client::subscriber(Broker::plain(), to, &unique("s"), &topic, 1);
            let got = sub.expect("last");
            assert_eq!((got.retain, got.dup, got.qos), (true, false, 1));
            sub.expect_nothing();
        }
    }
}

#[test]
fn a_retained_message_has_its_own_qos() {
    for v in both() {
        for qos in 0..=2 {
            let topic = unique("qos");
            let mut c = Client::connect(Broker::plain(), v, &unique("p"));
            c.publish(&Publish::new(&topic, qos, "x").retain());
            c.ping();
            settle();
            for granted in 0..=2 {
                let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, granted);
                assert_eq!(sub.expect("x").qos, qos.min(granted));
            }
        }
    }
}

#[test]
fn an_empty_payload_clears_the_retained_message() {
    for v in both() {
        let topic = unique("clear");
        let mut live = Client::subscriber(Broker::plain(), v, &unique("l"), &topic, 1);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 1, "x").retain());
        c.publish(&Publish::new(&topic, 1, "").retain());
        // To those who listen already it is a message like any other.
        assert!(!live.expect("x").retain);
        assert!(!live.expect("").retain);
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 1);
        sub.expect_nothing();
        c.publish(&Publish::new(&topic, 1, "").retain());
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 1);
        sub.expect_nothing();
    }
}

#[test]
fn a_qos_0_message_replaces_the_retained_one() {
    for v in both() {
        let topic = unique("replaced");
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 2, "first").retain());
        c.publish(&Publish::new(&topic, 0, "last").retain());
        c.ping();
        settle();
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 2);
        assert_eq!(sub.expect("last").qos, 0);
        sub.expect_nothing();
    }
}

#[test]
fn an_ordinary_message_does_not_touch_the_retained_one() {
    for v in both() {
        let topic = unique("kept");
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 1, "not stored"));
        Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 1).expect_nothing();
        c.publish(&Publish::new(&topic, 1, "stored").retain());
        c.publish(&Publish::new(&topic, 1, "not stored"));
        c.publish(&Publish::new(&topic, 1, ""));
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 1);
        sub.expect("stored");
        sub.expect_nothing();
    }
}

#[test]
fn live_messages_are_not_flagged_as_retained() {
    for v in both() {
        let topic = unique("live");
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 1);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 1, "live").retain());
        assert!(!sub.expect("live").retain);
        sub.expect_nothing();
    }
}

#[test]
fn retain_as_published_keeps_the_flag() {
    let topic = unique("as-published");
    let mut sub = Client::connect(Broker::plain(), V5, &unique("s"));
    sub.granted(&topic, 1 | RETAIN_AS_PUBLISHED);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 1, "with").retain());
    assert!(sub.expect("with").retain);
    c.publish(&Publish::new(&topic, 1, "without"));
    assert!(!sub.expect("without").retain);
    // From MQTT 3 publishers just so.
    let mut old = Client::connect(Broker::plain(), V311, &unique("o"));
    old.publish(&Publish::new(&topic, 1, "old").retain());
    assert!(sub.expect("old").retain);
}

#[test]
fn retain_handling_decides_when_retained_messages_are_sent() {
    let topic = unique("handling");
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 1, "x").retain());
    let mut sub = Client::connect(Broker::plain(), V5, &unique("s"));
    sub.granted(&topic, 1 | RETAIN_IF_NEW);
    assert!(sub.expect("x").retain);
    sub.granted(&topic, 1 | RETAIN_IF_NEW);
    sub.expect_nothing();
    sub.granted(&topic, 1);
    assert!(sub.expect("x").retain);
    sub.granted(&topic, 1);
    assert!(sub.expect("x").retain);
    sub.granted(&topic, 1 | RETAIN_NEVER);
    sub.expect_nothing();
    sub.unsubscribe(&[&topic]);
    sub.granted(&topic, 1 | RETAIN_NEVER);
    sub.expect_nothing();
    sub.unsubscribe(&[&topic]);
    sub.granted(&topic, 1 | RETAIN_IF_NEW);
    assert!(sub.expect("x").retain);
    sub.expect_nothing();
}

#[test]
fn an_existing_subscription_of_a_resumed_session_is_not_new() {
    let topic = unique("handling");
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 1, "x").retain());
    let connect = Connect::durable(V5, unique("s"));
    let mut sub = connect.open(Broker::plain());
    sub.granted(&topic, 1 | RETAIN_IF_NEW);
    sub.expect("x");
    sub.disconnect();
    let mut sub = connect.open(Broker::plain());
    sub.expect_nothing();
    sub.granted(&topic, 1 | RETAIN_IF_NEW);
    sub.expect_nothing();
}

#[test]
fn an_mqtt_3_client_gets_them_again_when_it_subscribes_again() {
    let topic = unique("again");
    let mut c = Client::connect(Broker::plain(), V311, &unique("p"));
    c.publish(&Publish::new(&topic, 1, "x").retain());
    let mut sub = Client::subscriber(Broker::plain(), V311, &unique("s"), &topic, 0);
    assert!(sub.expect("x").retain);
    sub.granted(&topic, 1);
    let got = sub.expect("x");
    assert_eq!((got.retain, got.qos), (true, 1));
}

#[test]
fn wildcards_find_retained_messages() {
    for v in both() {
        let p = unique("tree");
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for topic in ["", "/a", "/a/x", "/a/y", "/b/x", "/b/x/z", "/$c/x", "//x"] {
            c.publish(&Publish::new(format!("{p}{topic}"), 1, format!("={topic}")).retain());
        }
        let cases: [(&str, &[&str]); 7] = [
            ("/#", &["", "/a", "/a/x", "/a/y", "/b/x", "/b/x/z", "/$c/x", "//x"]),
            ("/+", &["/a"]),
            ("/+/x", &["/a/x", "/b/x", "/$c/x", "//x"]),
            ("/a/#", &["/a", "/a/x", "/a/y"]),
            ("/a/+", &["/a/x", "/a/y"]),
            ("/+/+/+", &["/b/x/z"]),
            ("/+/x/#", &["/a/x", "/b/x", "/b/x/z", "/$c/x", "//x"]),
        ];
        for (filter, expected) in cases {
            let mut sub = Client::connect(Broker::plain(), v, &unique("s"));
            sub.granted(&format!("{p}{filter}"), 1);
            let got: BTreeSet<_> = expected.iter().map(|_| sub.message().text()).collect();
            let expected: BTreeSet<_> = expected.iter().map(|topic| format!("={topic}")).collect();
            assert_eq!(got, expected, "{filter}");
            sub.expect_nothing();
        }
    }
}

#[test]
fn a_wildcard_at_the_start_does_not_find_retained_dollar_topics() {
    let broker = Broker::start(&[]);
    let name = unique("x");
    let mut c = Client::connect(&broker, V5, &unique("p"));
    c.publish(&Publish::new(format!("$own/{name}"), 1, "hidden").retain());
    c.publish(&Publish::new(format!("own/{name}"), 1, "seen").retain());
    for (filter, expected) in [("#", "seen"), ("+/+", "seen"), ("$own/#", "hidden")] {
        let mut sub = Client::subscriber(&broker, V5, &unique("s"), filter, 1);
        sub.expect(expected);
        sub.expect_nothing();
    }
}

#[test]
fn thousands_of_retained_messages_are_replayed_whole() {
    let _alone = machine();
    // More than any queue or window holds: a replay is streamed, never cut short.
    const COUNT: usize = 3000;
    let prefix = unique("many");
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    for n in 0..COUNT {
        c.send_publish(&Publish::new(format!("{prefix}/{}/{n}", n % 7), 0, n.to_string()).retain());
    }
    c.publish(&Publish::new(format!("{prefix}/end/0"), 1, "end").retain());
    settle();
    for (v, qos) in [(V311, 0), (V5, 1), (V311, 2)] {
        let mut sub =
            Client::subscriber(Broker::plain(), v, &unique("s"), &format!("{prefix}/+/+"), qos);
        let mut got = BTreeSet::new();
        while got.len() < COUNT + 1 {
            let publish = sub.message();
            assert!(publish.retain);
            assert!(got.insert(publish.text()), "twice: {publish:?}");
        }
        sub.expect_nothing();
    }
}

#[test]
fn a_retained_message_is_there_once_it_is_acknowledged() {
    // Several nodes do not promise it: it is under way to the other nodes when it is acknowledged.
    let broker = Broker::single(&[]);
    // Publisher, subscriber and the retained message may each live on another shard.
    let mut c = Client::connect(broker, V5, &unique("p"));
    let mut subs: Vec<_> = (0..8).map(|_| Client::connect(broker, V5, &unique("s"))).collect();
    for round in 0..100 {
        let topic = unique("there");
        c.publish(&Publish::new(&topic, 1 + (round % 2) as u8, "x").retain());
        let sub = &mut subs[round % 8];
        sub.granted(&topic, 0);
        sub.expect("x");
        c.publish(&Publish::new(&topic, 1, "").retain());
        sub.expect("");
        let sub = &mut subs[(round + 3) % 8];
        sub.granted(&topic, 0);
        sub.expect_nothing();
    }
}

#[test]
fn a_retained_message_outlives_its_publisher() {
    for v in both() {
        let topic = unique("outlives");
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 1, "x").retain());
        c.disconnect();
        Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 1).expect("x");
    }
}

#[test]
fn a_retained_message_keeps_its_properties() {
    let topic = unique("properties");
    let list = vec![
        Property::PayloadFormat(1),
        Property::ContentType("text/plain".into()),
        Property::ResponseTopic("answer".into()),
        Property::CorrelationData(vec![0, 255]),
        user("b", "1"),
        user("a", "2"),
        user("b", "1"),
    ];
    let publish = Publish { properties: list.clone(), ..Publish::new(&topic, 1, "x").retain() };
    Client::connect(Broker::plain(), V5, &unique("p")).publish(&publish);
    let mut sub = Client::connect(Broker::plain(), V5, &unique("s"));
    sub.subscribe(Subscribe::to(&topic, 1).numbered(99));
    let got = sub.expect("x");
    assert_eq!(got.forwarded(), list);
    assert_eq!(got.subscription_ids(), [99]);
    Client::subscriber(Broker::plain(), V311, &unique("s"), &topic, 1).expect("x");
}

#[test]
fn an_expired_retained_message_is_gone() {
    let topic = unique("expires");
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    let publish = |topic: &str, seconds| {
        Publish::new(topic, 1, "x").retain().with(Property::MessageExpiry(seconds))
    };
    c.publish(&publish(&topic, 1));
    let lasting = unique("lasts");
    c.publish(&publish(&lasting, 100));
    assert_eq!(
        Client::subscriber(Broker::plain(), V5, &unique("s"), &topic, 1).message().text(),
        "x"
    );
    std::thread::sleep(Duration::from_millis(2100));
    Client::subscriber(Broker::plain(), V5, &unique("s"), &topic, 1).expect_nothing();
    Client::subscriber(Broker::plain(), V311, &unique("s"), &topic, 1).expect_nothing();
    let got = Client::subscriber(Broker::plain(), V5, &unique("s"), &lasting, 1).message();
    let left = got.message_expiry().expect("it has one");
    assert!((90..=98).contains(&left), "{left} s of 100 are left after two");
}

#[test]
fn retained_messages_that_are_owed_come_after_a_reconnection() {
    // Several nodes do not promise it: what is owed stays behind when a session moves.
    let broker = Broker::single(&[]);
    for v in both() {
        let topic = unique("owed");
        let mut c = Client::connect(broker, v, &unique("p"));
        for n in 0..500 {
            c.publish(&Publish::new(format!("{topic}/{n}"), 1, n.to_string()).retain());
        }
        let connect = Connect::durable(v, unique("s"));
        let mut sub = connect.open(broker);
        sub.granted(&format!("{topic}/+"), 1);
        // More than a window's worth is not read, let alone acknowledged.
        sub.delivery();
        sub.cut();
        let mut sub = connect.open(broker);
        let mut got = BTreeSet::new();
        while got.len() < 500 {
            got.insert(sub.message().text());
        }
        sub.expect_nothing();
    }
}
