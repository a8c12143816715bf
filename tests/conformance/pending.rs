//! The pending queue: how much waits for a client, and what happens when that is full.

use std::time::Duration;

use crate::support::reason::*;
use crate::support::*;

/// What is left of `count` messages of `size` bytes published while the subscriber was away.
fn left(broker: &Broker, qos: u8, count: usize, size: usize) -> Vec<usize> {
    let topic = unique("pending");
    let connect = Connect::durable(V5, unique("s"));
    let mut sub = connect.open(broker);
    sub.granted(&topic, 1);
    sub.disconnect();
    let mut c = Client::connect(broker, V5, &unique("p"));
    for n in 0..count {
        let code = c.publish_code(&Publish::new(&topic, qos, format!("{n:size$}")));
        // A publisher may be told, but not with any odd code.
        assert!([SUCCESS, NO_MATCHING_SUBSCRIBERS, QUOTA_EXCEEDED].contains(&code), "{code:#x}");
    }
    c.ping();
    settle();
    let mut sub = connect.open(broker);
    c.publish(&Publish::new(&topic, 0, "end"));
    let mut got = Vec::new();
    loop {
        let publish = sub.message();
        if publish.text() == "end" {
            // QoS 0 does not wait behind a window that is full: this one is not.
            sub.expect_nothing();
            return got;
        }
        got.push(publish.text().trim().parse().expect("a number"));
    }
}

#[test]
fn the_oldest_is_dropped() {
    let broker = Broker::shared(&["mqtt.pending.max_messages=5"]);
    assert_eq!(left(broker, 1, 5, 1), [0, 1, 2, 3, 4]);
    assert_eq!(left(broker, 1, 12, 1), [7, 8, 9, 10, 11]);
}

#[test]
fn the_newest_is_dropped() {
    let settings = ["mqtt.pending.max_messages=5", "mqtt.pending.on_full=drop_new"];
    let broker = Broker::shared(&settings);
    assert_eq!(left(broker, 1, 12, 1), [0, 1, 2, 3, 4]);
}

#[test]
fn the_queue_is_bounded_in_bytes() {
    let broker = Broker::shared(&["mqtt.pending.max_bytes=10000"]);
    let got = left(broker, 1, 30, 1000);
    assert!((5..=10).contains(&got.len()), "{got:?}");
    assert_eq!(got.last(), Some(&29));
    let expected: Vec<_> = (30 - got.len()..30).collect();
    assert_eq!(got, expected);
}

#[test]
fn qos_0_waits_only_when_asked_for() {
    assert_eq!(left(Broker::plain(), 0, 3, 1), [0; 0]);
    assert_eq!(left(Broker::shared(&["mqtt.pending.qos0=true"]), 0, 3, 1), [0, 1, 2]);
}

#[test]
fn a_slow_client_can_be_disconnected() {
    let broker = Broker::shared(&[
        "mqtt.pending.max_messages=5",
        "mqtt.pending.on_full=disconnect",
        "mqtt.max_inflight=2",
    ]);
    let topic = unique("pending");
    let mut sub = Client::subscriber(broker, V5, &unique("s"), &topic, 1);
    let mut quick = Client::subscriber(broker, V5, &unique("q"), &topic, 1);
    let mut c = Client::connect(broker, V5, &unique("p"));
    for n in 0..7 {
        c.publish(&Publish::new(&topic, 1, n.to_string()));
        quick.expect(&n.to_string());
    }
    assert_eq!([sub.delivery().text(), sub.delivery().text()], ["0", "1"]);
    settle();
    sub.expect_nothing();
    c.publish(&Publish::new(&topic, 1, "7"));
    sub.expect_disconnect(&[QUOTA_EXCEEDED, IMPLEMENTATION_SPECIFIC]);
    quick.expect("7");
}

#[test]
fn a_slow_client_loses_by_policy_and_others_do_not() {
    let broker = Broker::shared(&["mqtt.pending.max_messages=5", "mqtt.max_inflight=2"]);
    let topic = unique("pending");
    let mut slow = Client::subscriber(broker, V311, &unique("s"), &topic, 1);
    let mut quick = Client::subscriber(broker, V311, &unique("q"), &topic, 1);
    let mut c = Client::connect(broker, V5, &unique("p"));
    for n in 0..20 {
        c.publish(&Publish::new(&topic, 1, n.to_string()));
        quick.expect(&n.to_string());
    }
    settle();
    // Two in flight are kept; of the eighteen that waited, the newest five.
    let got: Vec<_> = (0..7).map(|_| slow.message().text()).collect();
    assert_eq!(got, ["0", "1", "15", "16", "17", "18", "19"]);
    slow.expect_nothing();
}

#[test]
fn what_is_dropped_is_counted() {
    let broker = Broker::start(&["mqtt.pending.max_messages=5", "sys.interval=1s"]);
    assert_eq!(left(&broker, 1, 12, 1).len(), 5);
    let topic = "$SYS/broker/publish/messages/dropped";
    let mut sub = Client::subscriber(&broker, V5, &unique("s"), topic, 0);
    eventually("seven dropped messages are counted", || sub.message().text() == "7");
}

#[test]
fn a_client_that_does_not_read_is_bounded_and_harms_nobody() {
    let _alone = machine();
    let broker = Broker::start(&["mqtt.outgoing_max_bytes=65536", "sys.interval=1s"]);
    let topic = unique("stuck");
    let _stuck = Client::subscriber(&broker, V5, &unique("stuck"), &topic, 0);
    let mut quick = Client::subscriber(&broker, V5, &unique("q"), &topic, 0);
    let mut c = Client::connect(&broker, V5, &unique("p"));
    // Far more than socket buffers hold.
    for n in 0..3000 {
        c.send_publish(&Publish::new(&topic, 0, format!("{n:20000}")));
        assert_eq!(quick.message().text().trim(), n.to_string());
    }
    c.ping();
    let mut sub =
        Client::subscriber(&broker, V5, &unique("s"), "$SYS/broker/publish/messages/dropped", 0);
    eventually("what was shed is counted", || {
        sub.message().text().parse::<u64>().expect("a number") > 0
    });
}

#[test]
fn expired_messages_do_not_hold_places() {
    // [MQTT-3.3.2-5]: they will not be delivered; before the policy looks, they go.
    let _alone = machine();
    for policy in ["drop_new", "drop_oldest", "disconnect"] {
        let on_full = format!("mqtt.pending.on_full={policy}");
        let broker = Broker::start(&["mqtt.pending.max_messages=10", &on_full, "sys.interval=1s"]);
        let topic = unique("dead");
        let connect = Connect::durable(V5, unique("s"));
        let mut sub = connect.open(&broker);
        sub.granted(&topic, 1);
        sub.disconnect();
        let mut c = Client::connect(&broker, V5, &unique("p"));
        for n in 0..10 {
            let publish = Publish::new(&topic, 1, n.to_string());
            let dying = publish.clone().with(Property::MessageExpiry(1));
            c.publish(if n < 3 { &publish } else { &dying });
        }
        std::thread::sleep(Duration::from_millis(1100));
        for n in 10..15 {
            c.publish(&Publish::new(&topic, 1, n.to_string()));
        }
        // Nobody publishes any more; what has expired goes all the same, and is counted.
        let dropped = "$SYS/broker/publish/messages/dropped";
        let mut sys = Client::subscriber(&broker, V5, &unique("y"), dropped, 0);
        eventually("the seven are gone", || sys.message().text() == "7");
        let mut sub = connect.open(&broker);
        for n in [0, 1, 2, 10, 11, 12, 13, 14] {
            sub.expect(&n.to_string());
        }
        sub.expect_nothing();
    }
}
