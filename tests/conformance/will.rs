//! Will messages: when they are published, when not, and how.

use std::time::{Duration, Instant};

use crate::support::packet::RETAIN_AS_PUBLISHED;
use crate::support::reason::*;
use crate::support::*;

/// A topic, someone who listens to it, and a CONNECT with a will on it.
fn setup(v: Version) -> (String, Client, Connect) {
    let topic = unique("will");
    let watcher = Client::subscriber(Broker::plain(), v, &unique("w"), &topic, 2);
    let connect = Connect::new(v, unique("c")).will(Publish::new(&topic, 1, "gone"));
    (topic, watcher, connect)
}

/// Publishes to the topic and expects that to be the next thing the watcher gets.
#[track_caller]
fn nothing_before(watcher: &mut Client, topic: &str) {
    let mut c = Client::connect(Broker::plain(), V5, &unique("end"));
    c.publish(&Publish::new(topic, 2, "end"));
    watcher.expect("end");
    watcher.expect_nothing();
}

#[test]
fn a_cut_connection_publishes_the_will() {
    for v in all() {
        for qos in 0..=2 {
            let (topic, mut watcher, connect) = setup(v);
            let connect = connect.will(Publish::new(&topic, qos, "gone"));
            let c = connect.open(Broker::plain());
            watcher.expect_nothing();
            c.cut();
            let got = watcher.expect("gone");
            assert_eq!((got.qos, got.retain, got.dup), (qos, false, false));
            nothing_before(&mut watcher, &topic);
            // It was for that one connection.
            Connect::new(v, &connect.id).open(Broker::plain()).cut();
            nothing_before(&mut watcher, &topic);
        }
    }
}

#[test]
fn a_normal_disconnect_clears_the_will() {
    for v in all() {
        let (topic, mut watcher, connect) = setup(v);
        connect.open(Broker::plain()).disconnect();
        nothing_before(&mut watcher, &topic);
    }
    let (topic, mut watcher, connect) = setup(V5);
    connect.open(Broker::plain()).disconnect_with(0, &[]);
    nothing_before(&mut watcher, &topic);
}

#[test]
fn a_disconnect_with_will_publishes_it() {
    // 0x04, and any other code of a client that does not leave normally.
    for code in [WITH_WILL, UNSPECIFIED, IMPLEMENTATION_SPECIFIC] {
        let (topic, mut watcher, connect) = setup(V5);
        connect.open(Broker::plain()).disconnect_with(code, &[]);
        watcher.expect("gone");
        nothing_before(&mut watcher, &topic);
    }
}

#[test]
fn a_violation_publishes_the_will() {
    for v in both() {
        let (_, mut watcher, connect) = setup(v);
        let mut c = connect.open(Broker::plain());
        c.send(&[0xc1, 0]);
        c.expect_closed_after_anything();
        watcher.expect("gone");
    }
}

#[test]
fn a_keep_alive_timeout_publishes_the_will() {
    for v in both() {
        let (_, mut watcher, connect) = setup(v);
        let _c = connect.keep_alive(1).open(Broker::plain());
        watcher.expect("gone");
    }
}

#[test]
fn a_takeover_publishes_the_will_of_the_old_connection() {
    for v in both() {
        let (topic, mut watcher, connect) = setup(v);
        let mut old = connect.open(Broker::plain());
        let new = Connect::new(v, &connect.id).open(Broker::plain());
        old.expect_taken_over();
        watcher.expect("gone");
        // The new one brought none.
        new.cut();
        nothing_before(&mut watcher, &topic);
    }
}

#[test]
fn a_takeover_brings_its_own_will() {
    for v in both() {
        let (topic, mut watcher, connect) = setup(v);
        let mut old = connect.open(Broker::plain());
        let new = connect.clone().will(Publish::new(&topic, 1, "new")).open(Broker::plain());
        old.expect_taken_over();
        watcher.expect("gone");
        new.cut();
        watcher.expect("new");
        nothing_before(&mut watcher, &topic);
    }
}

#[test]
fn a_retained_will_is_retained() {
    for v in both() {
        let (topic, mut watcher, connect) = setup(v);
        let will = Publish::new(&topic, 1, "gone").retain();
        connect.will(will).open(Broker::plain()).cut();
        assert!(!watcher.expect("gone").retain);
        assert!(late_subscriber(v, &topic, true).expect("gone").retain);
    }
    // And one that is not, is not.
    let (topic, mut watcher, connect) = setup(V5);
    watcher.granted(&topic, 1 | RETAIN_AS_PUBLISHED);
    connect.open(Broker::plain()).cut();
    assert!(!watcher.expect("gone").retain);
    Client::subscriber(Broker::plain(), V5, &unique("l"), &topic, 1).expect_nothing();
}

#[test]
fn an_empty_retained_will_clears_the_retained_message() {
    let (topic, mut watcher, connect) = setup(V5);
    Client::connect(Broker::plain(), V5, &unique("p"))
        .publish(&Publish::new(&topic, 1, "here").retain());
    watcher.expect("here");
    connect.will(Publish::new(&topic, 1, "").retain()).open(Broker::plain()).cut();
    watcher.expect("");
    late_subscriber(V5, &topic, false);
}

/// A late subscriber that has, or has not, been sent a retained message. A will is acknowledged to
/// nobody: with several shards it may reach other subscribers before it reaches the shard that
/// keeps the retained message.
fn late_subscriber(v: Version, topic: &str, is_kept: bool) -> Client {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut late = Client::subscriber(Broker::plain(), v, &unique("l"), topic, 1);
        late.ping();
        if late.has_unread() == is_kept {
            return late;
        }
        assert!(Instant::now() < deadline, "the retained message is still as it was");
    }
}

#[test]
fn the_properties_of_a_will_are_published() {
    let (topic, mut watcher, connect) = setup(V5);
    let list = vec![
        Property::PayloadFormat(1),
        Property::ContentType("text/plain".into()),
        Property::ResponseTopic("answer".into()),
        Property::CorrelationData(vec![0, 1, 255]),
        user("z", "1"),
        user("a", "2"),
        user("z", "1"),
    ];
    let mut will = Publish { properties: list.clone(), ..Publish::new(&topic, 1, "gone") };
    will.properties.push(Property::WillDelay(0));
    connect.will(will).open(Broker::plain()).cut();
    assert_eq!(watcher.expect("gone").properties, list);
}

#[test]
fn the_expiry_of_a_will_begins_when_it_is_published() {
    let (topic, mut watcher, connect) = setup(V5);
    let will = Publish::new(&topic, 1, "gone").with(Property::MessageExpiry(100));
    let c = connect.will(will).open(Broker::plain());
    std::thread::sleep(Duration::from_millis(1200));
    c.cut();
    let left = watcher.expect("gone").message_expiry().expect("it has one");
    assert!((99..=100).contains(&left), "{left}");
}

/// A will with a delay, in a session that lasts.
fn delayed(connect: Connect, topic: &str, delay: u32, expiry: u32) -> Connect {
    let will = Publish::new(topic, 1, "gone").with(Property::WillDelay(delay));
    connect.will(will).with(Property::SessionExpiry(expiry))
}

#[test]
fn a_delayed_will_waits() {
    let _alone = machine();
    let (topic, mut watcher, connect) = setup(V5);
    delayed(connect, &topic, 2, 60).open(Broker::plain()).cut();
    let cut = Instant::now();
    nothing_before(&mut watcher, &topic);
    watcher.expect("gone");
    let waited = cut.elapsed();
    assert!(waited > Duration::from_millis(1800), "too early: {waited:?}");
    assert!(waited < Duration::from_secs(6), "too late: {waited:?}");
}

#[test]
fn a_delayed_will_is_cancelled_by_coming_back() {
    for clean in [false, true] {
        let (topic, mut watcher, connect) = setup(V5);
        let connect = delayed(connect, &topic, 1, 60);
        connect.open(Broker::plain()).cut();
        let back = Connect::new(V5, &connect.id)
            .clean(clean)
            .with(Property::SessionExpiry(60))
            .open(Broker::plain());
        if clean {
            // The session ended, and with it the delay [MQTT-3.1.2-8].
            watcher.expect("gone");
        }
        std::thread::sleep(Duration::from_millis(2000));
        nothing_before(&mut watcher, &topic);
        back.cut();
        nothing_before(&mut watcher, &topic);
    }
}

#[test]
fn a_delayed_will_is_not_published_by_a_takeover() {
    let (topic, mut watcher, connect) = setup(V5);
    let connect = delayed(connect, &topic, 1, 60);
    let mut old = connect.open(Broker::plain());
    let _new = Connect::new(V5, &connect.id)
        .clean(false)
        .with(Property::SessionExpiry(60))
        .open(Broker::plain());
    old.expect_taken_over();
    std::thread::sleep(Duration::from_millis(2000));
    nothing_before(&mut watcher, &topic);
}

#[test]
fn the_end_of_the_session_ends_the_delay() {
    // Expiry 0: at once. Expiry 1: after a second, whatever the delay says.
    let (topic, mut watcher, connect) = setup(V5);
    delayed(connect, &topic, 60, 0).open(Broker::plain()).cut();
    watcher.expect("gone");
    nothing_before(&mut watcher, &topic);
    let (topic, mut watcher, connect) = setup(V5);
    delayed(connect, &topic, 60, 1).open(Broker::plain()).cut();
    let cut = Instant::now();
    nothing_before(&mut watcher, &topic);
    watcher.expect("gone");
    assert!(cut.elapsed() > Duration::from_millis(800), "too early: {:?}", cut.elapsed());
}

#[test]
fn a_will_reaches_a_client_that_is_away() {
    for v in both() {
        let (topic, _watcher, connect) = setup(v);
        let away = Connect::durable(v, unique("a"));
        let mut c = away.open(Broker::plain());
        c.granted(&topic, 1);
        c.disconnect();
        let mut live = Client::subscriber(Broker::plain(), v, &unique("l"), &topic, 1);
        connect.open(Broker::plain()).cut();
        live.expect("gone");
        away.open(Broker::plain()).expect("gone");
    }
}

#[test]
fn a_client_does_not_receive_its_own_will_after_coming_back_clean() {
    // No Local is about the client identifier, and the will is the client's own message.
    let topic = unique("will");
    let connect = Connect::durable(V5, unique("c")).will(Publish::new(&topic, 1, "gone"));
    let mut c = connect.open(Broker::plain());
    c.granted(&topic, 1 | packet::NO_LOCAL);
    let mut watcher = Client::subscriber(Broker::plain(), V5, &unique("w"), &topic, 1);
    c.cut();
    watcher.expect("gone");
    connect.open(Broker::plain()).expect_nothing();
}

#[test]
fn many_wills_are_all_published() {
    let topic = unique("wills");
    let mut watcher =
        Client::subscriber(Broker::plain(), V5, &unique("w"), &format!("{topic}/+"), 1);
    let clients: Vec<_> = (0..200)
        .map(|n| {
            let v = if n % 2 == 0 { V5 } else { V311 };
            let will = Publish::new(format!("{topic}/{n}"), 1, n.to_string());
            Connect::new(v, unique("c")).will(will).open(Broker::plain())
        })
        .collect();
    clients.into_iter().for_each(Client::cut);
    let mut got: Vec<usize> =
        (0..200).map(|_| watcher.message().text().parse().expect("a number")).collect();
    got.sort_unstable();
    assert_eq!(got, (0..200).collect::<Vec<_>>());
    watcher.expect_nothing();
}
