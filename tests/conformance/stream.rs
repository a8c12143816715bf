//! The stream of bytes: packets split and joined anywhere, large ones, and the size limit.

use std::time::Duration;

use crate::support::reason::*;
use crate::support::*;

#[test]
fn packets_may_come_one_byte_at_a_time() {
    for v in all() {
        let topic = unique("slow");
        let mut c = Client::raw(Broker::plain(), v);
        let mut subscribe = Subscribe::to(&topic, 2);
        subscribe.id = 1;
        let mut bytes = Connect::new(v, unique("slow")).encode();
        bytes.extend(subscribe.encode(v));
        bytes.extend(Publish::new(&topic, 2, "drop by drop").id(2).encode(v));
        bytes.extend(Ack::new(AckKind::PubRel, 2).encode());
        bytes.extend([0xc0, 0]);
        for byte in bytes {
            c.send(&[byte]);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(c.connack().code, 0);
        c.ack(AckKind::PubComp, 2);
        c.expect("drop by drop");
        c.ping();
    }
}

#[test]
fn packets_may_be_split_anywhere() {
    for v in both() {
        let topic = unique("split");
        let mut c = Client::subscriber(Broker::plain(), v, &unique("split"), &topic, 0);
        let packet = Publish::new(&topic, 0, "0123456789").encode(v);
        for at in 1..packet.len() {
            let (head, tail) = packet.split_at(at);
            c.send(head);
            c.send(&[tail, &packet].concat());
            c.expect("0123456789");
            c.expect("0123456789");
        }
    }
}

#[test]
fn many_packets_may_come_in_one_write() {
    for v in both() {
        let topic = unique("burst");
        let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, 0);
        let mut c = Client::connect(Broker::plain(), v, &unique("p"));
        let mut bytes = Vec::new();
        for n in 0..5000 {
            bytes.extend(Publish::new(&topic, 0, n.to_string()).encode(v));
            if n % 100 == 0 {
                bytes.extend([0xc0, 0]);
            }
        }
        c.send(&bytes);
        for n in 0..5000 {
            sub.expect(&n.to_string());
        }
        c.ping();
    }
}

/// Bytes in which a lost, doubled or moved part shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 + n / 251 + n / 65_521) as u8).collect()
}

#[test]
fn large_packets_arrive_whole() {
    let _alone = machine();
    for v in both() {
        for qos in 0..=2 {
            let topic = unique("large");
            let mut sub = Client::subscriber(Broker::plain(), v, &unique("s"), &topic, qos);
            let mut c = Client::connect(Broker::plain(), v, &unique("p"));
            for length in [127, 128, 2047, 2048, 16_383, 65_536, 300_001, (1 << 20) - 200] {
                let payload = pattern(length);
                c.publish(&Publish::new(&topic, qos, &payload));
                let got = sub.message();
                assert_eq!(got.payload.len(), length);
                assert!(got.payload == payload, "the payload of {length} bytes was changed");
            }
        }
    }
}

#[test]
fn one_large_packet_reaches_many_subscribers() {
    let topic = unique("wide");
    let mut subs: Vec<_> = (0..10)
        .map(|n| {
            let v = if n % 2 == 0 { V5 } else { V311 };
            Client::subscriber(Broker::plain(), v, &unique("s"), &topic, (n % 3) as u8)
        })
        .collect();
    let payload = pattern(500_000);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 2, &payload));
    for sub in &mut subs {
        assert!(sub.message().payload == payload);
    }
}

const SMALL: &[&str] = &["mqtt.max_packet_size=1024"];

#[test]
fn a_packet_over_the_limit_ends_the_connection() {
    let broker = Broker::shared(SMALL);
    for v in all() {
        let topic = unique("limit");
        let mut c = Client::subscriber(broker, v, &unique("c"), &topic, 0);
        let packet = |total: usize| {
            let empty = Publish::new(&topic, 0, vec![0; 500]).encode(v).len() - 500;
            Publish::new(&topic, 0, vec![b'x'; total - empty]).encode(v)
        };
        assert_eq!(packet(1024).len(), 1024);
        c.send(&packet(1024));
        c.message();
        c.send(&packet(1025));
        c.expect_violation(&[PACKET_TOO_LARGE]);
    }
}

#[test]
fn a_length_over_the_limit_is_noticed_before_the_packet_arrives() {
    for v in both() {
        let mut c = Client::connect(Broker::shared(SMALL), v, &unique("c"));
        c.send(&[0x30, 0xff, 0xff, 0x7f, 0, 1]);
        c.expect_violation(&[PACKET_TOO_LARGE]);
    }
}

#[test]
fn a_connect_over_the_limit_is_refused() {
    let mut c = Client::raw(Broker::shared(SMALL), V5);
    c.send(&Connect::new(V5, "x".repeat(2000)).encode());
    let bytes = c.read_to_end();
    let told = bytes.len() >= 4 && bytes[0] == 0x20 && bytes[3] == PACKET_TOO_LARGE;
    assert!(bytes.is_empty() || told, "{bytes:x?}");
}

#[test]
fn connack_names_the_limit() {
    let (_c, answer) = Connect::new(V5, unique("c")).open_with(Broker::shared(SMALL));
    assert_eq!(answer.property(39), Some(&Property::MaximumPacketSize(1024)));
}

#[test]
fn a_half_packet_does_not_hold_up_others() {
    let topic = unique("half");
    let mut sub = Client::subscriber(Broker::plain(), V5, &unique("s"), &topic, 1);
    let mut stuck = Client::connect(Broker::plain(), V5, &unique("stuck"));
    let whole = Publish::new(&topic, 0, vec![b'x'; 10_000]).encode(V5);
    stuck.send(&whole[..5000]);
    let mut other = Client::connect(Broker::plain(), V5, &unique("p"));
    for n in 0..20 {
        other.publish(&Publish::new(&topic, 1, n.to_string()));
        sub.expect(&n.to_string());
    }
    stuck.send(&whole[5000..]);
    assert_eq!(sub.message().payload.len(), 10_000);
}
