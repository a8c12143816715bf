//! SUBSCRIBE and UNSUBSCRIBE: what matches, and how subscriptions replace and overlap.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::packet::*;
use crate::support::reason::*;
use crate::support::*;

#[test]
fn suback_has_a_code_for_each_filter_in_order() {
    for v in both() {
        let mut c = Client::connect(Broker::plain(), v, &unique("c"));
        let prefix = unique("order");
        let mut subscribe = Subscribe::default();
        let wanted: Vec<u8> = (0..200).map(|n| (n * 7 % 3) as u8).collect();
        for (n, qos) in wanted.iter().enumerate() {
            subscribe = subscribe.and(format!("{prefix}/{n}"), *qos);
        }
        assert_eq!(c.subscribe(subscribe), wanted);
        let unsubscribed = ["a", "b", "c"].map(|name| format!("{prefix}/{name}"));
        c.granted(&unsubscribed[1], 0);
        let codes = c.unsubscribe(&unsubscribed.each_ref().map(String::as_str));
        if v.is_v5() {
            assert_eq!(codes, [NO_SUBSCRIPTION_EXISTED, SUCCESS, NO_SUBSCRIPTION_EXISTED]);
        }
    }
}

#[test]
fn filters_match_names_as_the_specification_says() {
    let names = [
        "", "/", "a", "/a", "a/", "a/b", "a/b/c", "a//c", "b", "A", "a/b/c/d", "/a/b", "ab", "a b",
        "$a", "a/$b",
    ];
    let filters: [(&str, &[&str]); 17] = [
        ("#", &names),
        ("+", &["", "a", "b", "A", "ab", "a b", "$a"]),
        ("/+", &["/", "/a"]),
        ("+/+", &["/", "/a", "a/", "a/b", "a/$b"]),
        ("a", &["a"]),
        ("a/", &["a/"]),
        ("a/#", &["a", "a/", "a/b", "a/b/c", "a//c", "a/b/c/d", "a/$b"]),
        ("a/+", &["a/", "a/b", "a/$b"]),
        ("a/+/c", &["a/b/c", "a//c"]),
        ("a/+/#", &["a/", "a/b", "a/b/c", "a//c", "a/b/c/d", "a/$b"]),
        ("+/b", &["a/b"]),
        ("+/b/#", &["a/b", "a/b/c", "a/b/c/d"]),
        ("+/+/+", &["a/b/c", "a//c", "/a/b"]),
        ("/#", &["/", "/a", "/a/b", ""]),
        ("+/#", &names),
        ("a/b/c/d/#", &["a/b/c/d"]),
        ("A", &["A"]),
    ];
    for v in both() {
        for (filter, expected) in filters {
            // One level before everything, so that tests do not meet and `$a` is not special.
            let prefix = unique("match");
            let filter = format!("{prefix}/{filter}");
            let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &filter, 0);
            let mut c = Client::connect(Broker::plain(), v, &unique("p"));
            for name in names {
                c.send_publish(&Publish::new(format!("{prefix}/{name}"), 0, name));
            }
            // `x/#` matches `x` as well [MQTT-4.7.1-1].
            c.publish(&Publish::new(&prefix, 0, "parent"));
            sub.granted(&format!("{prefix}-end"), 0);
            c.publish(&Publish::new(format!("{prefix}-end"), 0, "end"));
            let mut got = BTreeSet::new();
            loop {
                let publish = sub.message();
                if publish.topic.ends_with("-end") {
                    break;
                }
                assert!(got.insert(publish.text()), "twice: {publish:?}");
            }
            let mut expected: BTreeSet<_> = expected.iter().map(|name| name.to_string()).collect();
            if filter == format!("{prefix}/#") {
                expected.insert("parent".into());
            }
            assert_eq!(got, expected, "{filter}");
        }
    }
}

#[test]
fn a_wildcard_at_the_start_does_not_match_dollar_topics() {
    // `#` sees everything, so this test has a broker of its own.
    let broker = Broker::start(&["sys.interval=1s"]);
    for v in both() {
        for filter in ["#", "+/x", "+/#", "/#"] {
            let mut sub = Client::subscriber(&broker, v, &unique("s"), filter, 0);
            let mut own = Client::subscriber(&broker, v, &unique("o"), "$own/x", 0);
            let mut c = Client::connect(&broker, v, &unique("p"));
            c.publish(&Publish::new("$own/x", 1, "hidden"));
            own.expect("hidden");
            c.publish(&Publish::new(if filter == "/#" { "/own/x" } else { "own/x" }, 1, "seen"));
            sub.expect("seen");
            sub.expect_nothing();
        }
        for filter in ["$own/+", "$own/#", "$own/x"] {
            let mut sub = Client::subscriber(&broker, v, &unique("s"), filter, 0);
            Client::connect(&broker, v, &unique("p")).publish(&Publish::new("$own/x", 1, "found"));
            sub.expect("found");
        }
    }
}

#[test]
fn sys_topics_are_there() {
    let broker = Broker::shared(&["sys.interval=1s"]);
    for v in both() {
        let mut sub = Client::subscriber(broker, v, &unique("s"), "$SYS/#", 0);
        let mut missing: BTreeSet<_> = [
            "$SYS/broker/clients/connected",
            "$SYS/broker/clients/total",
            "$SYS/broker/messages/received",
            "$SYS/broker/messages/sent",
            "$SYS/broker/uptime",
            "$SYS/broker/version",
        ]
        .into();
        while !missing.is_empty() {
            let got = sub.message();
            assert!(got.topic.starts_with("$SYS/"), "{got:?}");
            missing.remove(got.topic.as_str());
        }
    }
}

#[test]
fn clients_connected_counts_on_every_shard() {
    let broker = Broker::start(&["sys.interval=1s"]);
    let _clients: Vec<_> = (0..20).map(|_| Client::connect(&broker, V5, &unique("c"))).collect();
    let mut sub = Client::subscriber(&broker, V5, &unique("s"), "$SYS/broker/clients/connected", 0);
    eventually("21 clients are counted", || sub.message().text() == "21");
}

#[test]
fn overlapping_subscriptions_deliver_once_with_the_highest_qos() {
    for v in both() {
        let topic = unique("overlap");
        let mut sub = Client::connect(Broker::plain(), v, &unique("s"));
        sub.granted(&format!("{topic}/#"), 0);
        sub.granted(&format!("{topic}/a/+"), 2);
        sub.granted(&format!("{topic}/a/b"), 1);
        sub.granted(&format!("{topic}/+/b"), 0);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for qos in 0..=2 {
            c.publish(&Publish::new(format!("{topic}/a/b"), qos, "once"));
            assert_eq!(sub.expect("once").qos, qos);
            sub.expect_nothing();
        }
    }
}

#[test]
fn subscription_identifiers_come_with_the_message() {
    let topic = unique("number");
    let mut sub = Client::connect(Broker::plain(), V5, &unique("s"));
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    for id in [1, 127, 128, 16_384, 268_435_455] {
        sub.subscribe(Subscribe::to(&topic, 1).numbered(id));
        c.publish(&Publish::new(&topic, 1, "x"));
        assert_eq!(sub.expect("x").subscription_ids(), [id]);
    }
    // Replaced by a subscription without one.
    sub.granted(&topic, 1);
    c.publish(&Publish::new(&topic, 1, "x"));
    assert_eq!(sub.expect("x").subscription_ids(), []);
}

#[test]
fn all_identifiers_of_overlapping_subscriptions_come() {
    let topic = unique("numbers");
    let mut sub = Client::connect(Broker::plain(), V5, &unique("s"));
    let both_of_five = Subscribe::to(format!("{topic}/#"), 0).and(format!("{topic}/+"), 2);
    sub.subscribe(both_of_five.numbered(5));
    sub.subscribe(Subscribe::to(format!("{topic}/a"), 1).numbered(7));
    sub.granted(&format!("+/{topic}"), 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(format!("{topic}/a"), 2, "x"));
    // One copy, or one for each subscription [MQTT-3.3.4-4], [MQTT-3.3.4-5]; ours is one copy.
    let got = sub.expect("x");
    let mut ids = got.subscription_ids();
    ids.dedup();
    assert_eq!((ids, got.qos), (vec![5, 7], 2));
    sub.expect_nothing();
    let mut other = Client::subscriber(Broker::plain(), V5, &unique("o"), &format!("{topic}/a"), 0);
    c.publish(&Publish::new(format!("{topic}/a"), 0, "y"));
    assert_eq!(other.expect("y").subscription_ids(), [], "identifiers are each client's own");
}

#[test]
fn subscription_identifiers_survive_reconnection() {
    let topic = unique("number");
    let connect = Connect::durable(V5, unique("s"));
    let mut sub = connect.open(Broker::plain());
    sub.subscribe(Subscribe::to(&topic, 1).numbered(42));
    sub.disconnect();
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 1, "away"));
    let mut sub = connect.open(Broker::plain());
    assert_eq!(sub.expect("away").subscription_ids(), [42]);
    c.publish(&Publish::new(&topic, 1, "back"));
    assert_eq!(sub.expect("back").subscription_ids(), [42]);
}

#[test]
fn subscribing_again_replaces_the_subscription() {
    for v in both() {
        let topic = unique("replace");
        let mut sub = Client::connect(Broker::plain(), v, &unique("s"));
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for qos in [2, 0, 1, 2] {
            sub.granted(&topic, qos);
            c.publish(&Publish::new(&topic, 2, "x"));
            assert_eq!(sub.expect("x").qos, qos);
            sub.expect_nothing();
        }
        // One UNSUBSCRIBE is enough.
        sub.unsubscribe(&[&topic]);
        c.publish(&Publish::new(&topic, 2, "x"));
        sub.expect_nothing();
    }
}

#[test]
fn no_message_is_lost_while_a_subscription_is_replaced() {
    let topic = unique("replace");
    let mut sub = Client::subscriber(Broker::plain(), V5, &unique("s"), &topic, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
            for n in 0..500 {
                c.publish(&Publish::new(&topic, 1, n.to_string()));
            }
        });
        for n in 0..500 {
            if n % 10 == 0 {
                // Not with QoS 0 in between: what comes so may be dropped by right.
                sub.granted(&topic, 1 + (n / 10 % 2) as u8);
            }
            sub.expect(&n.to_string());
        }
    });
    sub.expect_nothing();
}

#[test]
fn no_local_keeps_a_clients_own_messages_away() {
    let topic = unique("local");
    let mut c = Client::connect(Broker::plain(), V5, &unique("c"));
    c.granted(&topic, 1 | NO_LOCAL);
    c.publish(&Publish::new(&topic, 1, "own"));
    let mut other = Client::connect(Broker::plain(), V5, &unique("o"));
    other.publish(&Publish::new(&topic, 1, "other's"));
    c.expect("other's");
    c.expect_nothing();
    c.granted(&topic, 1);
    c.publish(&Publish::new(&topic, 1, "own"));
    c.expect("own");
    // One of two overlapping subscriptions without No Local is enough.
    c.granted(&topic, 1 | NO_LOCAL);
    c.granted(&format!("{topic}/#"), 0);
    c.publish(&Publish::new(&topic, 1, "overlap"));
    c.expect("overlap");
    c.expect_nothing();
}

#[test]
fn no_local_holds_for_what_an_earlier_session_published() {
    // Several nodes do not promise it: No Local holds within a node.
    let broker = Broker::single(&[]);
    let topic = unique("earlier");
    let (kept, will) = (format!("{topic}/kept"), format!("{topic}/will"));
    let connect = Connect::new(V5, unique("c"));
    let with_will = connect.clone().will(Publish::new(&will, 1, "own").retain());
    let mut c = with_will.open(broker);
    c.publish(&Publish::new(&kept, 1, "own").retain());
    c.cut();
    let mut watcher = Client::connect(broker, V5, &unique("w"));
    watcher.granted(&format!("{topic}/+"), 1 | NO_LOCAL);
    let mut got = [watcher.message().topic, watcher.message().topic];
    got.sort_unstable();
    assert_eq!(got, [kept, will]);
    let mut c = connect.open(broker);
    c.granted(&format!("{topic}/+"), 1 | NO_LOCAL);
    settle();
    c.expect_nothing();
    c.granted(&format!("{topic}/+"), 1);
    c.expect("own");
    c.expect("own");
}

/// A connection of a mosquitto bridge: bit 0x80 of the protocol level is set.
fn bridge(broker: &Broker, v: Version, id: &str) -> Client {
    let mut bytes = Connect::durable(v, id).encode();
    let level = bytes.iter().position(|&byte| byte == v.level()).expect("a level");
    let level = level.max(4 + v.name().len());
    assert_eq!(bytes[level], v.level());
    bytes[level] |= 0x80;
    let mut c = Client::raw(broker, v);
    c.send(&bytes);
    assert_eq!(c.connack().code, 0);
    c
}

#[test]
fn a_bridge_of_mqtt_3_gets_no_echo_and_keeps_retain() {
    // Several nodes do not promise it: No Local holds within a node.
    let broker = Broker::single(&[]);
    for v in [V31, V311] {
        let (topic, id) = (unique("bridge"), unique("b"));
        let mut c = bridge(broker, v, &id);
        c.granted(&format!("{topic}/#"), 1);
        // What is retained while the shards are still asked for retained messages may come twice.
        c.expect_silence(Duration::from_millis(300));
        c.publish(&Publish::new(format!("{topic}/own"), 1, "own").retain());
        let mut other = Client::connect(broker, V311, &unique("o"));
        other.publish(&Publish::new(format!("{topic}/kept"), 1, "kept").retain());
        other.publish(&Publish::new(format!("{topic}/live"), 1, "live"));
        assert!(c.expect("kept").retain, "{v:?}");
        assert!(!c.expect("live").retain, "{v:?}");
        c.expect_nothing();
        c.cut();
        // What it sent in an earlier connection, or is replayed, is its own all the same.
        other.publish(&Publish::new(format!("{topic}/live"), 1, "away"));
        let mut c = bridge(broker, v, &id);
        c.expect("away");
        c.granted(&format!("{topic}/#"), 1);
        assert!(c.expect("kept").retain, "{v:?}");
        c.expect_nothing();
        // Share groups have no No Local [MQTT-3.8.3-4].
        let share = unique("share");
        c.granted(&format!("$share/g/{share}"), 1);
        c.publish(&Publish::new(&share, 1, "shared"));
        c.expect("shared");
        // Without the bit it is a client like any other.
        let mut plain = Client::subscriber(broker, v, &unique("c"), &topic, 1);
        plain.publish(&Publish::new(&topic, 1, "mine"));
        plain.expect("mine");
    }
}

#[test]
fn unsubscribing_stops_new_messages() {
    for v in both() {
        let topic = unique("stop");
        let mut sub = Client::connect(Broker::plain(), v, &unique("s"));
        sub.granted(&format!("{topic}/+"), 1);
        sub.granted(&format!("{topic}/a"), 1);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        let publish = Publish::new(format!("{topic}/a"), 1, "x");
        // Filters are compared letter by letter: this one names neither subscription.
        sub.unsubscribe(&[&format!("{topic}/#"), &format!("{topic}/A"), &format!("{topic}/a/")]);
        c.publish(&publish);
        sub.expect("x");
        sub.unsubscribe(&[&format!("{topic}/+")]);
        c.publish(&publish);
        sub.expect("x");
        sub.unsubscribe(&[&format!("{topic}/a")]);
        c.publish(&publish);
        sub.expect_nothing();
    }
}

#[test]
fn several_filters_can_be_unsubscribed_at_once() {
    for v in both() {
        let topic = unique("several");
        let names = [1, 2, 3].map(|n| format!("{topic}/{n}"));
        let mut sub = Client::connect(Broker::plain(), v, &unique("s"));
        let all = names.iter().fold(Subscribe::default(), |all, name| all.and(name, 1));
        assert_eq!(sub.subscribe(all), [1, 1, 1]);
        sub.unsubscribe(&[&names[0], &names[2]]);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        for name in &names {
            c.publish(&Publish::new(name, 1, name));
        }
        sub.expect(&names[1]);
        sub.expect_nothing();
    }
}

#[test]
fn deliveries_that_began_are_completed_after_unsubscribing() {
    for v in both() {
        let topic = unique("begun");
        let connect = Connect::durable(v, unique("s"));
        let mut sub = connect.open(Broker::plain());
        sub.granted(&topic, 2);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 2, "two"));
        c.publish(&Publish::new(&topic, 1, "one"));
        let two = sub.delivery();
        let one = sub.delivery();
        sub.unsubscribe(&[&topic]);
        sub.acknowledge(&two);
        sub.ping();
        sub.cut();
        let mut sub = connect.open(Broker::plain());
        let again = sub.expect("one");
        assert_eq!((again.dup, again.id), (true, one.id));
        sub.expect_nothing();
    }
}

#[test]
fn subscriptions_of_a_closed_session_are_gone() {
    for v in both() {
        let (topic, id) = (unique("gone"), unique("s"));
        let mut sub = Client::subscriber(Broker::plain(), v, &id, &topic, 1);
        sub.ping();
        sub.disconnect();
        let mut sub = Client::connect(Broker::plain(), v, &id);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        c.publish(&Publish::new(&topic, 1, "x"));
        sub.expect_nothing();
    }
}

#[test]
fn a_subscription_is_effective_once_it_is_acknowledged() {
    // SUBACK may not come before every shard would route to the subscriber.
    let mut publishers: Vec<_> =
        (0..8).map(|_| Client::connect(Broker::plain(), V5, &unique("p"))).collect();
    let mut sub = Client::connect(Broker::plain(), V5, &unique("s"));
    for round in 0..50 {
        let topic = unique("effective");
        let filter = match round % 3 {
            0 => topic.clone(),
            1 => format!("{topic}/#"),
            _ => format!("{topic}/+/x"),
        };
        let name = if round % 3 == 2 { format!("{topic}/a/x") } else { topic.clone() };
        sub.granted(&filter, 0);
        for (n, publisher) in publishers.iter_mut().enumerate() {
            publisher.publish(&Publish::new(&name, 0, n.to_string()));
            sub.expect(&n.to_string());
        }
        sub.unsubscribe(&[&filter]);
        for publisher in &mut publishers {
            publisher.publish(&Publish::new(&name, 1, "late"));
        }
        sub.expect_nothing();
    }
}

#[test]
fn many_filters_of_many_shapes_still_match() {
    // More shapes (levels and places of wildcards) than an index by shape would hold.
    let prefix = unique("shapes");
    let mut sub = Client::connect(Broker::plain(), V5, &unique("s"));
    let mut subscribe = Subscribe::default();
    let levels = ["l0", "l1", "l2", "l3", "l4", "l5", "l6", "l7"];
    for mask in 0..256_u32 {
        let filter = levels.iter().enumerate().fold(prefix.clone(), |filter, (n, level)| {
            let level = if mask >> n & 1 == 1 { "+" } else { level };
            format!("{filter}/{level}")
        });
        subscribe = subscribe.and(filter, 0);
    }
    assert_eq!(sub.subscribe(subscribe).len(), 256);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(format!("{prefix}/{}", levels.join("/")), 1, "all"));
    sub.expect("all");
    c.publish(&Publish::new(format!("{prefix}/{}", ["x"; 8].join("/")), 1, "one"));
    sub.expect("one");
    c.publish(&Publish::new(format!("{prefix}/{}", ["x"; 7].join("/")), 1, "none"));
    sub.expect_nothing();
}

#[test]
fn the_fifty_thousandth_filter_is_as_quick_as_the_first() {
    // Their replays wait for other shards, once there is a retained message anywhere.
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(unique("kept"), 1, "kept").retain());
    // With several names, so that some session is at home where the replays do not begin.
    for _ in 0..3 {
        let mut sub = Client::connect(Broker::plain(), V5, &unique("s"));
        let prefix = unique("many");
        let took: Vec<Duration> = (0..50)
            .map(|part| {
                let filters = (0..1000).map(|n| (format!("{prefix}/{part}/+/{n}/#"), 0));
                let began = Instant::now();
                sub.subscribe(Subscribe { filters: filters.collect(), ..Subscribe::default() });
                began.elapsed()
            })
            .collect();
        // The quickest of ten: whatever else the machine does, one is left alone.
        let quickest = |part: &[Duration]| part.iter().min().copied().expect("ten parts");
        let (first, last) = (quickest(&took[..10]), quickest(&took[40..]));
        assert!(last < first * 8 + Duration::from_millis(10), "{first:?}, at last {last:?}");
    }
}
