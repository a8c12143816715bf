//! Peers that stop reading at the worst moment. Nobody else notices, memory stays within bounds,
//! and when they read again everything promised comes, in order.

use std::time::Duration;

use crate::lasting;
use crate::probe::{beside, figure, memory};
use crate::support::*;

/// What a handful of peers may cost while they do not read: their windows, their queues and their
/// input held, a few MiB each.
const GROWTH: u64 = 96 << 10;

/// Runs one case beside probes and looks at the memory.
fn watched(broker: &Broker, what: &str, work: impl FnOnce()) {
    let before = memory(broker);
    let (_, trips) = beside(broker, what, work);
    let after = memory(broker);
    figure(what, &format!("memory {before} KiB, afterwards {after} KiB"));
    assert!(after < before + GROWTH, "grew from {before} to {after} KiB");
    assert!(trips.percentile(99) < Duration::from_millis(500), "bystanders waited");
}

fn pause() {
    std::thread::sleep(lasting(2, 60));
}

#[test]
fn in_the_middle_of_a_large_message() {
    let _alone = machine();
    let broker = Broker::start(&["mqtt.max_packet_size=8MiB", "mqtt.pending.max_bytes=64MiB"]);
    watched(&broker, "half of a 6 MiB PUBLISH read", || {
        let topic = unique("large");
        let mut sub = Client::subscriber(&broker, V5, &unique("s"), &topic, 1);
        let mut c = Client::connect(&broker, V5, &unique("p"));
        // The socket's buffers do not take one of these whole.
        for n in 0..3_u8 {
            c.publish(&Publish::new(&topic, 1, vec![n; 6 << 20]));
        }
        pause();
        for n in 0..3_u8 {
            let publish = sub.message();
            assert_eq!(publish.payload.len(), 6 << 20);
            assert!(publish.payload.iter().all(|&byte| byte == n), "message {n}");
        }
        sub.expect_nothing();
    });
}

#[test]
fn while_subscribing_without_end() {
    let _alone = machine();
    let broker = Broker::start(&[]);
    watched(&broker, "60,000 SUBSCRIBE, no SUBACK read", || {
        let mut c = Client::connect(&broker, V5, &unique("c"));
        let mut writer = c.stream().try_clone().expect("a second handle");
        std::thread::scope(|scope| {
            let flood = scope.spawn(move || {
                let base = unique("flood");
                writer.set_write_timeout(None).expect("no timeout");
                for n in 0..60_000_u32 {
                    let mut subscribe = Subscribe::to(format!("{base}/{}", n % 50), 1);
                    subscribe.id = n as u16 % 60_000 + 1;
                    std::io::Write::write_all(&mut writer, &subscribe.encode(V5))
                        .expect("the broker waits, it does not hang up");
                }
            });
            pause();
            for n in 0..60_000_u32 {
                match c.next() {
                    Packet::SubAck { id, codes, .. } => {
                        assert_eq!((u32::from(id), codes), (n % 60_000 + 1, vec![1]));
                    }
                    other => panic!("instead of SUBACK {n}: {other:?}"),
                }
            }
            flood.join().expect("everything was taken in");
        });
        c.expect_nothing();
    });
}

#[test]
fn while_retained_messages_are_replayed() {
    let _alone = machine();
    const COUNT: usize = 3000;
    let broker = Broker::start(&["mqtt.pending.max_messages=100000"]);
    let topic = unique("kept");
    let mut c = Client::connect(&broker, V5, &unique("p"));
    for n in 0..COUNT {
        c.send_publish(&Publish::new(format!("{topic}/{n}"), 0, vec![b'r'; 4000]).retain());
    }
    c.ping();
    settle();
    watched(&broker, "3,000 retained messages of 4 kB unread", || {
        let mut subs: Vec<_> = (0..4)
            .map(|_| {
                let mut sub = Client::connect(&broker, V311, &unique("s"));
                let mut subscribe = Subscribe::to(format!("{topic}/#"), 1);
                subscribe.id = 9;
                sub.send(&subscribe.encode(V311));
                sub
            })
            .collect();
        pause();
        for sub in &mut subs {
            let mut seen = vec![false; COUNT];
            let mut got = 0;
            while got < COUNT {
                if let Packet::Publish(publish) = sub.next() {
                    sub.acknowledge(&publish);
                    let number = publish.topic.rsplit('/').next().expect("a level");
                    let seen = &mut seen[number.parse::<usize>().expect("a number")];
                    assert!(!std::mem::replace(seen, true), "{number} came twice");
                    got += 1;
                }
            }
            sub.expect_nothing();
        }
    });
}

#[test]
fn in_the_middle_of_the_handshakes_of_qos_2() {
    let _alone = machine();
    const COUNT: u16 = 20_000;
    // The queue of its subscriber drops nothing, however slow the test is.
    let queue = ["mqtt.pending.max_messages=100000", "mqtt.pending.max_bytes=1GiB"];
    let broker = Broker::start(&[&queue[..], &["mqtt.receive_maximum=65535"]].concat());
    watched(&broker, "20,000 PUBLISH of QoS 2, no PUBREC read", || {
        let topic = unique("two");
        let mut sub = Client::subscriber(&broker, V5, &unique("s"), &topic, 2);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                for n in 1..=COUNT {
                    sub.expect(&n.to_string());
                }
                sub.expect_nothing();
            });
            let mut c = Client::connect(&broker, V311, &unique("p"));
            let mut writer = c.stream().try_clone().expect("a second handle");
            let text = topic.clone();
            let flood = scope.spawn(move || {
                writer.set_write_timeout(None).expect("no timeout");
                for n in 1..=COUNT {
                    let publish = Publish::new(&text, 2, n.to_string()).id(n);
                    std::io::Write::write_all(&mut writer, &publish.encode(V311))
                        .expect("the broker waits, it does not hang up");
                }
            });
            pause();
            for n in 1..=COUNT {
                assert_eq!(c.ack(AckKind::PubRec, n).reason, 0);
            }
            flood.join().expect("everything was taken in");
            // And the second half unread as well.
            let mut writer = c.stream().try_clone().expect("a second handle");
            scope.spawn(move || {
                for n in 1..=COUNT {
                    let release = Ack::new(AckKind::PubRel, n).encode();
                    std::io::Write::write_all(&mut writer, &release).expect("still there");
                }
            });
            for n in 1..=COUNT {
                assert_eq!(c.ack(AckKind::PubComp, n).reason, 0);
            }
            c.expect_nothing();
            reader.join().expect("exactly once, in order");
        });
    });
}

#[test]
fn for_good_with_keep_alive() {
    let _alone = machine();
    let broker = Broker::start(&["mqtt.pending.max_bytes=256KiB"]);
    watched(&broker, "eight subscribers that never read again", || {
        let topic = unique("never");
        let watch = unique("gone");
        let mut witness = Client::subscriber(&broker, V5, &unique("w"), &watch, 1);
        let deaf: Vec<_> = (0..8)
            .map(|n| {
                let will = Publish::new(&watch, 1, n.to_string());
                let connect = Connect::new(V311, unique("deaf")).keep_alive(1).will(will);
                let mut c = connect.open(&broker);
                c.granted(&topic, 0);
                c
            })
            .collect();
        let mut c = Client::connect(&broker, V5, &unique("p"));
        for _ in 0..400 {
            c.send_publish(&Publish::new(&topic, 0, vec![0; 100_000]));
        }
        c.ping();
        // [MQTT-3.1.2-22]: they neither read nor send; 1.5 s after the last progress they are
        // parted with, and the will tells.
        let mut told: Vec<_> = deaf.iter().map(|_| witness.message().text()).collect();
        told.sort();
        told.dedup();
        assert_eq!(told.len(), deaf.len(), "each will once");
    });
}
