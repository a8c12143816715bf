//! Queues of which only the head is in memory: two clients that are away wait for the same
//! messages, the power fails or does not, one comes back and the other begins anew. And short
//! queues, of more clients than there is memory for.

use super::broker::{GATHER, House};
use super::crashes::leave_session;
use crate::net::End;
use crate::peer::{Got, Peer, hello};
use ringmq::packet::AckKind;
use std::collections::BTreeMap;

const MESSAGES: u64 = 150;
/// Clients with short queues, and the messages of each.
const CLIENTS: usize = 40;
const EACH: u64 = 3;

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
        Between::Upgrades => assert!(house.upgrade_while(false, House::turn)),
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
            house.upgrade_while(seed.is_multiple_of(3), House::turn);
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

/// Many clients that are away have a few messages each: most of these are on disk only, and come
/// nevertheless, when all clients return at once.
pub fn simulate_short_queues(seed: u64) {
    let mut house = House::new(seed, GATHER);
    let names: Vec<String> = (0..CLIENTS).map(|number| format!("short-{number}")).collect();
    names.iter().for_each(|name| leave_session(&mut house, name));
    let mut publisher = Peer::connect(&mut house.world, 0, &hello("publisher", true, 0));
    let texts: Vec<String> = (0..EACH).map(|at| format!("{at} {}", "y".repeat(100))).collect();
    for (text, id) in texts.iter().zip(1..) {
        publisher.publish(&mut house.world, "far/x", text.as_bytes(), 1, id);
        house.pass(50);
        house.settle();
        let heard = publisher.hear(&mut house.world);
        let acks = heard.iter().filter(|got| matches!(got, Got::Ack(AckKind::PubAck, ..))).count();
        assert_eq!(acks, 1, "{heard:?}");
    }
    publisher.end(&mut house.world, End::Fin);
    let charged = 64 + "far/x".len() + texts[0].len();
    for node in &house.world.nodes {
        let counters = &node.shard.counters;
        let here = counters.pending_bytes - counters.pending_away_bytes;
        assert!(here < GATHER.heads + charged as u64, "{here} bytes of queues are in memory");
    }
    if seed.is_multiple_of(2) {
        house.crash();
    }
    let back = |name: &String| Peer::connect(&mut house.world, 0, &hello(name, false, 5000));
    let mut peers: Vec<Peer> = names.iter().map(back).collect();
    let mut received: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
    for _ in 0..3000 {
        house.creep();
        for (at, peer) in peers.iter_mut().enumerate() {
            for got in peer.hear(&mut house.world) {
                let Got::Publish { payload, id, .. } = got else { continue };
                received.entry(at).or_default().push(payload);
                peer.ack(&mut house.world, AckKind::PubAck, id);
            }
        }
        if received.values().map(Vec::len).sum::<usize>() == CLIENTS * EACH as usize {
            break;
        }
    }
    let here = sum(&house, |counters| counters.pending_messages - counters.pending_away_messages);
    let away = sum(&house, |counters| counters.pending_away_messages);
    for (at, name) in names.iter().enumerate() {
        let got = received.get(&at).map_or(&[][..], |got| got);
        let all = got.iter().eq(texts.iter().map(String::as_bytes));
        assert!(all, "{name} has {} messages; {here} wait in memory, {away} on disk", got.len());
    }
    house.pass(50);
    house.settle();
    let waiting =
        sum(&house, |counters| counters.pending_messages + counters.pending_away_messages);
    assert_eq!(waiting, 0, "messages that wait");
}

fn sum(house: &House, figure: impl Fn(&ringmq::telemetry::Counters) -> u64) -> u64 {
    house.world.nodes.iter().map(|node| figure(&node.shard.counters)).sum()
}

#[test]
fn what_waits_on_disk_comes_in_order_and_goes_with_its_session() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(40);
    (1..=seeds).for_each(simulate_long_queues);
    (1..=seeds).for_each(simulate_upgraded);
    (1..=seeds / 4).for_each(simulate_short_queues);
}
