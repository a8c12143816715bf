//! Keep alive: one and a half times the interval, and any packet counts.

use std::time::{Duration, Instant};

use crate::support::reason::*;
use crate::support::*;

#[test]
fn a_silent_client_is_cut_off_after_one_and_a_half_intervals() {
    let _alone = machine();
    for v in all() {
        let mut c = Connect::new(v, unique("silent")).keep_alive(2).open(Broker::plain());
        let start = Instant::now();
        // A reason may be given to MQTT 5 clients.
        match c.read(patience()) {
            Next::Packet(Packet::Disconnect { reason, .. }) => {
                assert_eq!(reason, KEEP_ALIVE_TIMEOUT);
                c.expect_closed();
            }
            other => assert_eq!(other, Next::Closed),
        }
        let waited = start.elapsed();
        assert!(waited > Duration::from_millis(2900), "too early: {waited:?}");
        assert!(waited < Duration::from_millis(5500), "too late: {waited:?}");
    }
}

#[test]
fn any_packet_keeps_the_connection() {
    let _alone = machine();
    for v in both() {
        let mut pings = Connect::new(v, unique("c")).keep_alive(2).open(Broker::plain());
        let mut publishes = Connect::new(v, unique("c")).keep_alive(2).open(Broker::plain());
        let mut subscribes = Connect::new(v, unique("c")).keep_alive(2).open(Broker::plain());
        let publish = Publish::new(unique("t"), 0, "x");
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(1300));
            pings.ping();
            publishes.send_publish(&publish);
            subscribes.granted("keep/alive", 0);
        }
        for c in [&mut pings, &mut publishes, &mut subscribes] {
            c.ping();
        }
    }
}

#[test]
fn receiving_does_not_keep_the_connection() {
    // [MQTT-3.1.2-22]: it is what the client sends that counts.
    let topic = unique("t");
    let mut sub = Connect::new(V311, unique("s")).keep_alive(1).open(Broker::plain());
    sub.granted(&topic, 0);
    let mut c = Client::connect(Broker::plain(), V311, &unique("p"));
    let start = Instant::now();
    loop {
        c.publish(&Publish::new(&topic, 0, "x"));
        match sub.read(Duration::from_millis(100)) {
            Next::Closed => break,
            _ => assert!(start.elapsed() < patience(), "still connected"),
        }
    }
    assert!(start.elapsed() > Duration::from_millis(1400), "too early: {:?}", start.elapsed());
}

#[test]
fn keep_alive_zero_is_no_limit() {
    for v in both() {
        let mut c = Connect::new(v, unique("c")).keep_alive(0).open(Broker::plain());
        std::thread::sleep(Duration::from_secs(3));
        c.ping();
    }
}

#[test]
fn a_session_outlives_a_keep_alive_timeout() {
    for v in both() {
        let connect = Connect::durable(v, unique("c")).keep_alive(1);
        let topic = unique("t");
        let mut c = connect.open(Broker::plain());
        c.granted(&topic, 1);
        c.expect_closed_after_anything();
        Client::connect(Broker::plain(), v, &unique("p")).publish(&Publish::new(&topic, 1, "x"));
        let (mut c, answer) = connect.open_with(Broker::plain());
        assert!(answer.session_present);
        c.expect("x");
    }
}

#[test]
fn the_servers_keep_alive_is_the_one_that_counts() {
    let _alone = machine();
    let broker = Broker::shared(&["mqtt.keep_alive.max=1"]);
    let connect = Connect::new(V5, unique("c")).keep_alive(60);
    let (mut c, answer) = connect.open_with(broker);
    assert_eq!(answer.property(19), Some(&Property::ServerKeepAlive(1)));
    let start = Instant::now();
    c.expect_closed_after_anything();
    assert!(start.elapsed() > Duration::from_millis(1400), "too early: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "too late: {:?}", start.elapsed());
}

/// The beginning of a PUBLISH of QoS 0 whose payload has so many bytes, without the payload.
fn beginning(v: Version, topic: &str, payload: usize) -> Vec<u8> {
    let whole = Publish::new(topic, 0, vec![b'x'; payload]).encode(v);
    whole[..whole.len() - payload].to_vec()
}

#[test]
fn single_bytes_of_an_unfinished_packet_do_not_keep_the_connection() {
    // [MQTT-3.1.2-22], [MQTT-3.1.2-24] of 3.1.1: Control Packets count.
    let _alone = machine();
    for v in all() {
        let mut c = Connect::new(v, unique("drip")).keep_alive(2).open(Broker::plain());
        let start = Instant::now();
        c.send(&beginning(v, "drip", 10_000));
        let closed = loop {
            match c.read(Duration::from_millis(200)) {
                Next::Closed => break start.elapsed(),
                Next::Packet(Packet::Disconnect { reason, .. }) => {
                    assert_eq!(reason, KEEP_ALIVE_TIMEOUT);
                    break start.elapsed();
                }
                _ => c.send(b"x"),
            }
            assert!(start.elapsed() < Duration::from_secs(8), "kept by single bytes");
        };
        assert!(closed > Duration::from_millis(2900), "too early: {closed:?}");
    }
}

#[test]
fn a_large_packet_over_a_slow_link_keeps_the_connection() {
    // 1 KiB in one and a half Keep Alives is enough.
    let _alone = machine();
    for v in both() {
        let topic = unique("slow");
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 0);
        let mut c = Connect::new(v, unique("p")).keep_alive(1).open(Broker::plain());
        c.send(&beginning(v, &topic, 10 * 600));
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(500));
            c.send(&[b'x'; 600]);
        }
        assert_eq!(sub.message().payload.len(), 6000);
        c.ping();
    }
}
