//! A publisher and a subscriber that go on as if nothing happened, and lose nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::*;

/// Exchanges messages at this QoS, one every `pace`, until `stop`; each from the publisher to the
/// subscriber, and the acknowledgement back. `report` gets the time of each.
pub fn exchange(
    broker: &Broker,
    qos: u8,
    pace: Duration,
    stop: &AtomicBool,
    report: impl Fn(Duration),
) {
    let topic = unique("steady");
    let mut sub = Client::subscriber(broker, V5, &unique("steady-sub"), &topic, qos);
    let mut publisher = Client::connect(broker, V311, &unique("steady-pub"));
    let mut count = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let text = count.to_string();
        let began = Instant::now();
        let id = publisher.send_publish(&Publish::new(&topic, qos, &text));
        let publish = sub.delivery();
        // Exactly this one: none lost before it, none twice, and in order.
        assert_eq!((publish.text(), publish.qos), (text, qos), "message {count} of {topic}");
        report(began.elapsed());
        sub.acknowledge(&publish);
        match qos {
            0 => {}
            1 => assert!(publisher.ack(AckKind::PubAck, id).reason < 0x80),
            _ => {
                assert!(publisher.ack(AckKind::PubRec, id).reason < 0x80);
                publisher.send(&Ack::new(AckKind::PubRel, id).encode());
                publisher.ack(AckKind::PubComp, id);
            }
        }
        count += 1;
        std::thread::sleep(pace.saturating_sub(began.elapsed()));
    }
    sub.expect_nothing();
}
