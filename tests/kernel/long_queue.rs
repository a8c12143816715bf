//! A long queue of one client that is away: it takes disk and hardly any memory, before and after a
//! restart, and all of it comes in order when the client is back.

use std::time::Duration;

use crate::lasting;
use crate::line::Line;
use crate::probe::{figure, memory};
use crate::storage::{Place, come_back, subscribe};
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(20);
/// Messages under way to the broker.
const WINDOW: u64 = 200;
/// Bytes of a message's payload.
const PAYLOAD: usize = 1000;
/// Bytes of memory that a message on disk may take.
const EACH: u64 = 200;

#[test]
fn a_long_queue_of_a_client_that_is_away_is_on_disk_and_comes_in_order() {
    let count = lasting(10_000, 1_000_000).as_secs();
    let _alone = machine();
    let place = Place::new();
    let path = place.setting();
    let queue = ["mqtt.pending.max_messages=2000000", "mqtt.pending.max_bytes=8GiB"];
    let settings: Vec<&str> = [&*path, "admin.bind=127.0.0.1:0"].into_iter().chain(queue).collect();
    let broker = Broker::start(&settings);
    let (mut line, _) = come_back(broker.address(), "far").expect("it accepts");
    subscribe(&mut line, "far/#", 1);
    drop(line);
    let before = memory(&broker) * 1024;
    publish(&broker, count);
    let grown = (memory(&broker) * 1024).saturating_sub(before);
    let away = broker.metric("ringmq_pending_on_disk_messages", "") as u64;
    assert!(away >= count - 64, "{away} of {count} messages are on disk only");
    // Batches under way and spare buffers besides.
    let most = count * EACH + (40 << 20);
    assert!(grown < most, "{grown} bytes of memory for {count} messages, more than {most}");
    broker.signal("-9");
    broker.wait(PATIENCE);
    let broker = Broker::start(&settings);
    let restarted = memory(&broker) * 1024;
    let (mut line, present) = come_back(broker.address(), "far").expect("it accepts");
    assert!(present, "the session is gone");
    for number in 0..count {
        let Ok(Some(Packet::Publish(publish))) = line.next(PATIENCE) else {
            panic!("message {number} does not come");
        };
        let text = publish.text();
        assert_eq!(text.split(' ').next(), Some(&*number.to_string()), "the order");
        assert_eq!(text.len(), PAYLOAD);
        line.acknowledge(&publish).expect("it takes it");
    }
    eventually("nothing waits", || broker.metric("ringmq_pending_messages", "") == 0.0);
    let each = grown / count;
    figure(
        "a long queue",
        &format!(
            "{count} messages of {PAYLOAD} bytes: {each} bytes of memory each; \
             {restarted} bytes resident after a restart"
        ),
    );
}

fn publish(broker: &Broker, count: u64) {
    let mut line =
        Line::open(broker.address(), &Connect::new(V5, unique("p")), PATIENCE).expect("it accepts");
    let (mut next, mut acknowledged) = (0, 0);
    while acknowledged < count {
        while next < count && next < acknowledged + WINDOW {
            let mut text = next.to_string();
            text.push(' ');
            text.extend(std::iter::repeat_n('x', PAYLOAD - text.len()));
            let id = (next % 60_000 + 1) as u16;
            let publish = Publish::new("far/away", 1, text).id(id);
            line.send(&publish.encode(V5)).expect("it takes it");
            next += 1;
        }
        match line.next(PATIENCE) {
            Ok(Some(Packet::Ack(_))) => acknowledged += 1,
            other => panic!("instead of a PUBACK: {other:?}"),
        }
    }
}
