//! Starts after a power cut with shards that need different times to read what they have: whoever
//! has waited for a listener publishes as soon as there is one, and nothing of that is lost.

use super::broker::{GATHER, House, STAYING};
use crate::net::End;
use crate::peer::{Got, Peer, hello};
use ringmq::packet::AckKind;
use std::collections::BTreeSet;

/// Sessions that wait, one for each topic.
const MEMBERS: usize = 24;
/// Publishers, and messages of each: no more than a client may have in flight.
const PUBLISHERS: usize = 2;
const EACH: usize = MEMBERS / PUBLISHERS;

/// What a session subscribes to: most are the only member of a share group, whose home may be
/// another shard.
fn filter(member: usize) -> String {
    match member % 4 {
        0 => format!("early/{member}"),
        _ => format!("$share/g{member}/early/{member}"),
    }
}

/// Clients connect and publish at once, to all topics.
fn publish_early(house: &mut House) {
    for number in 0..PUBLISHERS {
        let entry = number % house.stores.len();
        let mut peer = Peer::silent(&mut house.world, entry, 1 << 20);
        peer.begin(&mut house.world, &hello(&format!("early-{number}"), true, 0));
        for topic in number * EACH..(number + 1) * EACH {
            let name = format!("early/{topic}");
            peer.publish(&mut house.world, &name, b"x", 1, topic as u16 + 1);
        }
        house.early.push(peer);
    }
}

/// A message that is acknowledged at the start comes to the session that waits for it; returns how
/// many were.
fn simulate_early(seed: u64) -> usize {
    let mut house = House::new(seed, GATHER);
    for member in 0..MEMBERS {
        let name = format!("member-{member}");
        let mut peer = Peer::connect(&mut house.world, 0, &hello(&name, false, 5000));
        peer.subscribe(&mut house.world, 1, &filter(member), 1);
        house.pass(2);
        peer.end(&mut house.world, End::Fin);
    }
    house.settle();
    house.at_open = Some(publish_early);
    house.crash();
    house.pass(200);
    house.settle();
    let mut acknowledged = BTreeSet::new();
    for mut peer in std::mem::take(&mut house.early) {
        for got in peer.hear(&mut house.world) {
            if let Got::Ack(AckKind::PubAck, id, reason) = got
                && (reason as u8) < 0x80
            {
                acknowledged.insert(usize::from(id) - 1);
            }
        }
    }
    for &member in &acknowledged {
        let name = format!("member-{member}");
        let mut peer = Peer::connect(&mut house.world, 0, &hello(&name, false, 5000));
        house.settle();
        let got = peer.payloads(&mut house.world);
        assert_eq!(got, ["x"], "{}: acknowledged at the start, and lost", filter(member));
        peer.end(&mut house.world, End::Fin);
    }
    acknowledged.len()
}

/// The same with clients that go on publishing, over several starts; returns how many messages were
/// acknowledged.
pub fn simulate_starts(seed: u64) -> usize {
    let early = simulate_early(seed);
    let mut house = House::new(seed, GATHER);
    for at in 0..STAYING.len() {
        house.join(at);
    }
    house.settle();
    house.listen();
    house.knocks = true;
    for _ in 0..house.rng.range(1, 3) {
        house.crash();
        house.pass(5);
        house.listen();
    }
    house.check();
    early + house.acknowledged()
}

#[test]
fn nothing_is_lost_while_shards_become_whole_at_different_times() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(40);
    let messages: usize = (1..=seeds).map(simulate_starts).sum();
    assert!(messages as u64 > 40 * seeds, "{messages} messages in {seeds} runs");
}
