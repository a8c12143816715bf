//! Receive buffers: fewer than senders.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::lasting;
use crate::probe::{Sys, beside, figure};
use crate::support::*;

const SENDERS: usize = 64;
const EACH: usize = 60;

/// The least that the configuration allows, and small ones.
const FEW: [&str; 2] = ["runtime.receive_buffers.count=16", "runtime.receive_buffers.size=256"];

#[test]
fn with_sixteen_buffers_for_sixty_four_senders_nothing_is_lost() {
    let _alone = machine();
    // No queue drops what a slow reader of the test leaves behind.
    let queue = ["mqtt.pending.max_messages=100000", "mqtt.pending.max_bytes=1GiB"];
    let broker = Broker::start(&[&FEW[..], &queue].concat());
    let topic = unique("few");
    beside(&broker, "16 buffers of 256 bytes", || {
        std::thread::scope(|scope| {
            let sub = Client::subscriber(&broker, V5, &unique("s"), &format!("{topic}/+"), 1);
            let reader = scope.spawn(|| read_all(sub));
            for sender in 0..SENDERS {
                let (broker, topic) = (&broker, &topic);
                scope.spawn(move || {
                    let mut c = Client::connect(broker, V311, &unique("p"));
                    // All at once, each message several buffers long.
                    let mut ids = Vec::new();
                    for n in 0..EACH {
                        let mut payload = n.to_string().into_bytes();
                        payload.resize(2000, b'.');
                        let name = format!("{topic}/{sender}");
                        ids.push(c.send_publish(&Publish::new(name, 1, payload)));
                    }
                    ids.into_iter().for_each(|id| drop(c.ack(AckKind::PubAck, id)));
                });
            }
            reader.join().expect("all arrived, in order");
        });
    });
}

/// Everything, of each sender in order.
fn read_all(mut sub: Client) {
    let mut next = [0; SENDERS];
    for _ in 0..SENDERS * EACH {
        let publish = sub.message();
        let sender = publish.topic.rsplit('/').next().expect("a level");
        let sender: usize = sender.parse().expect("a number");
        let text = publish.text();
        assert_eq!(text.trim_end_matches('.'), next[sender].to_string(), "sender {sender}");
        assert_eq!(publish.payload.len(), 2000);
        next[sender] += 1;
    }
    assert_eq!(next, [EACH; SENDERS]);
    sub.expect_nothing();
}

#[test]
fn with_sixteen_buffers_every_sender_gets_its_share() {
    let _alone = machine();
    let broker = Broker::start_with(&[&FEW[..], &["sys.interval=1s"]].concat(), 1);
    let counts: Vec<_> = (0..32).map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    beside(&broker, "32 busy senders, 16 buffers", || {
        std::thread::scope(|scope| {
            for count in &counts {
                scope.spawn(|| {
                    let mut c = Client::connect(&broker, V5, &unique("p"));
                    let topic = unique("nobody");
                    while !stop.load(Ordering::Relaxed) {
                        let ids: Vec<_> = (0..8)
                            .map(|_| c.send_publish(&Publish::new(&topic, 1, [7; 1000])))
                            .collect();
                        ids.into_iter().for_each(|id| drop(c.ack(AckKind::PubAck, id)));
                        count.fetch_add(8, Ordering::Relaxed);
                    }
                });
            }
            std::thread::sleep(lasting(3, 60));
            stop.store(true, Ordering::Relaxed);
        });
    });
    let mut counts: Vec<_> = counts.into_iter().map(AtomicU64::into_inner).collect();
    counts.sort_unstable();
    let (least, most) = (counts[0], counts[counts.len() - 1]);
    figure("32 busy senders, 16 buffers", &format!("messages each: {least} to {most}"));
    let mut sys = Sys::of(&broker);
    sys.wait("shards/0/buffers/exhausted", |times| times > 0);
    // Threads of the test share the machine with the broker; starved is something else.
    assert!(least * 4 > most, "unfair: {counts:?}");
}

#[test]
fn buffers_come_back_after_they_ran_out() {
    let _alone = machine();
    let broker = Broker::start(&FEW);
    for _ in 0..3 {
        let mut clients: Vec<_> =
            (0..200).map(|_| Client::connect(&broker, V5, &unique("c"))).collect();
        // Everybody talks before anybody listens, then silence, and half of them are cut.
        for c in &mut clients {
            for _ in 0..20 {
                c.send_publish(&Publish::new("x", 1, [7; 900]));
            }
        }
        for c in clients.drain(..100) {
            c.cut();
        }
        clients.iter_mut().for_each(Client::ping);
        std::thread::sleep(Duration::from_millis(100));
        clients.iter_mut().for_each(Client::ping);
    }
}
