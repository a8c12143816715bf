//! Queues of which only the head is in memory: two clients that are away wait for the same
//! messages, the power fails or does not, one comes back and the other begins anew.

use super::broker::{GATHER, House};
use super::crashes::leave_session;
use crate::net::End;
use crate::peer::{Got, Peer, hello};
use ringmq::packet::AckKind;

const MESSAGES: u64 = 150;

/// Nobody waits for anything any more, and a client is connected: its session and its subscription.
const LEFT: u64 = 4;

/// What comes in between.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    /// In every second run, that the power fails.
    Crash,
    /// Other processes that take over: before anybody is back, and in the middle of it.
    Upgrades,
}

pub fn simulate_long_queues(seed: u64) {
    run(seed, Between::Crash);
}

/// The same, and the broker is upgraded meanwhile.
pub fn simulate_upgraded(seed: u64) {
    run(seed, Between::Upgrades);
}

fn run(seed: u64, mut between: Between) {
    let mut house = House::new(seed, GATHER);
    for name in ["back", "anew"] {
        leave_session(&mut house, name);
    }
    let mut publisher = Peer::connect(&mut house.world, 0, &hello("publisher", true, 0));
    for number in 0..MESSAGES {
        let text = format!("{number} {}", "x".repeat(house.rng.below(100)));
        publisher.publish(&mut house.world, "far/x", text.as_bytes(), 1, number as u16 + 1);
        if number % 10 == 9 {
            house.pass(3);
        }
    }
    house.settle();
    let acks = publisher.hear(&mut house.world);
    let acks = acks.iter().filter(|got| matches!(got, Got::Ack(AckKind::PubAck, ..))).count();
    assert_eq!(acks as u64, MESSAGES);
    publisher.end(&mut house.world, End::Fin);
    match between {
        Between::Crash if seed.is_multiple_of(2) => house.crash(),
        Between::Crash => {}
        Between::Upgrades => assert!(house.upgrade(false)),
    }
    let away = sum(&house, |counters| counters.pending_away_messages);
    assert!(away >= 2 * (MESSAGES - 6), "{away} messages are on disk only");
    // One begins anew while the other takes its messages.
    let mut back = Peer::connect(&mut house.world, 0, &hello("back", false, 5000));
    let mut anew = None;
    let mut received = 0;
    for _ in 0..6000 {
        house.creep();
        if anew.is_none() && received >= 4 {
            anew = Some(Peer::connect(&mut house.world, 0, &hello("anew", true, 5000)));
        }
        for got in back.hear(&mut house.world) {
            let Got::Publish { payload, id, .. } = got else { continue };
            let text = String::from_utf8(payload).unwrap();
            let (number, rest) = text.split_once(' ').expect("a number and more");
            assert_eq!(number, received.to_string(), "the order");
            assert!(rest.bytes().all(|byte| byte == b'x'), "not as it was sent: {text}");
            received += 1;
            back.ack(&mut house.world, AckKind::PubAck, id);
        }
        if between == Between::Upgrades && received >= 40 {
            between = Between::Crash;
            house.upgrade(seed.is_multiple_of(3));
        }
        if received == MESSAGES {
            break;
        }
    }
    assert_eq!(received, MESSAGES, "messages that waited on disk do not come");
    assert!(anew.is_some());
    house.pass(50);
    house.settle();
    let waiting = sum(&house, |counters| counters.pending_messages);
    let away = sum(&house, |counters| counters.pending_away_messages);
    assert_eq!((waiting, away), (0, 0), "messages that wait");
    let mut values = 0;
    for node in &mut house.world.nodes {
        node.shard.measure_storage();
        values += node.shard.counters.storage_values;
    }
    assert!(values <= LEFT, "{values} values are alive, and nobody waits");
}

fn sum(house: &House, figure: impl Fn(&ringmq::telemetry::Counters) -> u64) -> u64 {
    house.world.nodes.iter().map(|node| figure(&node.shard.counters)).sum()
}

#[test]
fn what_waits_on_disk_comes_in_order_and_goes_with_its_session() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(40);
    (1..=seeds).for_each(simulate_long_queues);
    (1..=seeds).for_each(simulate_upgraded);
}
