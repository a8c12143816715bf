//! Order and completeness under load, across shards.

use std::time::Duration;

use crate::support::*;

/// Room for everything, so that no policy drops what a slow machine delays.
const ROOMY: &[&str] = &[
    "mqtt.pending.max_messages=1000000",
    "mqtt.pending.max_bytes=1GiB",
    "mqtt.outgoing_max_bytes=1GiB",
];

const PUBLISHERS: usize = 4;
const MESSAGES: usize = 1000;

/// Publishes numbered messages, up to 50 in flight.
fn produce(broker: &Broker, v: Version, topic: &str, qos: u8, publisher: usize) {
    let mut c = Client::connect(broker, v, &unique("p"));
    for batch in (0..MESSAGES).step_by(50) {
        let mut bytes = Vec::new();
        for n in batch..batch + 50 {
            let id = (n % 50 + 1) as u16;
            let publish = Publish::new(topic, qos, format!("{publisher} {n}")).id(id);
            bytes.extend(publish.encode(v));
        }
        c.send(&bytes);
        for id in 1..=50 {
            match qos {
                0 => {}
                1 => drop(c.ack(AckKind::PubAck, id)),
                _ => {
                    c.ack(AckKind::PubRec, id);
                    c.send(&Ack::new(AckKind::PubRel, id).encode());
                }
            }
        }
        if qos == 2 {
            (1..=50).for_each(|id| drop(c.ack(AckKind::PubComp, id)));
        }
    }
    c.ping();
}

/// Every publisher's messages, each once and in its order.
fn consume(mut c: Client) {
    let mut next = [0; PUBLISHERS];
    for _ in 0..PUBLISHERS * MESSAGES {
        let text = c.message().text();
        let (publisher, n) = text.split_once(' ').expect("two numbers");
        let publisher: usize = publisher.parse().expect("a number");
        assert_eq!(n, next[publisher].to_string(), "publisher {publisher}");
        next[publisher] += 1;
    }
    c.expect_nothing();
}

fn load(qos: u8) {
    let _alone = machine();
    let broker = Broker::shared(ROOMY);
    let topic = unique("order");
    let subscribers: Vec<_> = (0..6_u8)
        .map(|n| {
            let v = if n % 2 == 0 { V5 } else { V311 };
            let filter = if n < 3 { topic.clone() } else { format!("{topic}/#") };
            Client::subscriber(broker, v, &unique("s"), &filter, n % 3)
        })
        .collect();
    std::thread::scope(|scope| {
        for subscriber in subscribers {
            scope.spawn(move || consume(subscriber));
        }
        for publisher in 0..PUBLISHERS {
            let v = if publisher % 2 == 0 { V311 } else { V5 };
            let topic = &topic;
            scope.spawn(move || produce(broker, v, topic, qos, publisher));
        }
    });
}

#[test]
fn qos_0_keeps_its_order_under_load() {
    load(0);
}

#[test]
fn qos_1_keeps_its_order_under_load() {
    load(1);
}

#[test]
fn qos_2_keeps_its_order_under_load() {
    load(2);
}

#[test]
fn order_holds_across_reconnections() {
    // Several nodes do not promise it: what is published while a session moves may come twice.
    let _alone = machine();
    let broker = Broker::single(ROOMY);
    let topic = unique("order");
    let connect = Connect::durable(V5, unique("s"));
    let mut sub = connect.open(broker);
    sub.granted(&topic, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| produce(broker, V5, &topic, 1, 0));
        let mut next = 0;
        let mut since = 0;
        while next < MESSAGES {
            let publish = sub.delivery();
            since += 1;
            let n: usize = publish.text()["0 ".len()..].parse().expect("a number");
            // Sent again after a cut, or the next one; never one too far.
            assert!(n == next || (n < next && publish.dup), "{n} instead of {next}");
            next = next.max(n + 1);
            sub.acknowledge(&publish);
            if since == 97 {
                since = 0;
                sub.cut();
                sub = connect.open(broker);
            }
        }
    });
}

#[test]
fn takeovers_lose_nothing() {
    let _alone = machine();
    // Connection after connection takes the session over while messages flow.
    let broker = Broker::shared(ROOMY);
    let topic = unique("takeover");
    let connect = Connect::durable(V5, unique("s"));
    let mut sub = connect.open(broker);
    sub.granted(&topic, 2);
    let mut seen = vec![0; MESSAGES];
    std::thread::scope(|scope| {
        scope.spawn(|| produce(broker, V5, &topic, 1, 0));
        let mut count = 0;
        while seen.contains(&0) {
            let publish = sub.delivery();
            let n: usize = publish.text()["0 ".len()..].parse().expect("a number");
            seen[n] += 1;
            sub.acknowledge(&publish);
            count += 1;
            assert!(count < 3 * MESSAGES, "the same messages come again and again");
            if count % 50 == 0 {
                let next = connect.open(broker);
                sub.expect_closed_after_anything();
                sub = next;
            }
        }
    });
    sub.ping();
}

#[test]
fn fan_in_and_fan_out_lose_nothing() {
    let _alone = machine();
    // Fifty publishers, fifty subscribers, all on one filter.
    let broker = Broker::shared(ROOMY);
    let topic = unique("fan");
    let mut subs: Vec<_> = (0..50)
        .map(|_| Client::subscriber(broker, V5, &unique("s"), &format!("{topic}/+"), 1))
        .collect();
    let mut publishers: Vec<_> =
        (0..50).map(|_| Client::connect(broker, V311, &unique("p"))).collect();
    for (n, c) in publishers.iter_mut().enumerate() {
        for m in 0..4 {
            c.send_publish(&Publish::new(format!("{topic}/{n}"), 1, m.to_string()));
        }
    }
    for sub in &mut subs {
        let mut next = [0; 50];
        for _ in 0..200 {
            let publish = sub.message();
            let n: usize = publish.topic[topic.len() + 1..].parse().expect("a number");
            assert_eq!(publish.text(), next[n].to_string());
            next[n] += 1;
        }
    }
    std::thread::sleep(Duration::from_millis(50));
    subs.iter_mut().for_each(Client::expect_nothing);
}

/// What was acknowledged to one client comes before what another one sends after that, wherever
/// the two, the subscribers and the retained messages live: live, retained, and cleared.
#[test]
fn what_was_acknowledged_to_one_client_is_before_what_any_other_sends_then() {
    let _alone = machine();
    for shards in [2, 3] {
        let broker = Broker::start_with(ROOMY, shards);
        // More clients than shards of each kind: some pairs of them are on different ones.
        let mut publishers: Vec<_> =
            (0..6).map(|_| Client::connect(&broker, V5, &unique("p"))).collect();
        let mut readers: Vec<_> =
            (0..6).map(|_| Client::subscriber(&broker, V5, &unique("s"), "q/#", 1)).collect();
        let rounds = 150;
        for round in 0..rounds {
            let topic = format!("q/{round}");
            for number in 0..3 {
                let clears = number == 2 && round % 2 == 0;
                let payload = if clears { String::new() } else { number.to_string() };
                let publish = Publish::new(&topic, 1, payload).retain();
                publishers[(round + number) % 6].publish(&publish);
            }
            // Acknowledged to the last one: whoever subscribes now finds it, or nothing.
            let late = &mut publishers[(round + 3) % 6];
            late.granted(&topic, 1);
            if round % 2 == 1 {
                late.expect("2");
            }
            late.unsubscribe(&[&topic]);
        }
        for reader in &mut readers {
            for round in 0..rounds {
                for number in 0..3 {
                    let clears = number == 2 && round % 2 == 0;
                    let message = reader.message();
                    assert_eq!(message.topic, format!("q/{round}"), "{shards} shards");
                    let payload = if clears { String::new() } else { number.to_string() };
                    assert_eq!(message.text(), payload, "{shards} shards, {}", message.topic);
                }
            }
        }
        for publisher in &mut publishers {
            publisher.expect_nothing();
        }
    }
}
