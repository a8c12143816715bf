//! Clients are copied to another process while this one serves them, and go on meanwhile: they
//! subscribe and unsubscribe, go, come back with another connection, and others come. Then the
//! other process takes over, or fails. Who is there has what it has subscribed to, and who has gone
//! is gone.

use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello};
use crate::rng::Rng;
use crate::upgrade::{Pair, finish, patient, plan};
use crate::world::World;
use ringmq::packet::AckKind;
use ringmq::transport::Stack;
use std::collections::BTreeSet;

const TOPICS: usize = 4;

/// A client that comes and goes. Its session ends with its connection.
struct Guest {
    name: String,
    peer: Option<Peer>,
    wants: BTreeSet<usize>,
    packets: u16,
}

impl Guest {
    fn come(&mut self, world: &mut World, rng: &mut Rng) {
        let entry = rng.below(world.nodes.len());
        let mut peer = Peer::connect(world, entry, &hello(&self.name, false, 0));
        let got = peer.take(world);
        let fresh = matches!(got[..], [Got::ConnAck { present: false, .. }]);
        // Who takes its own session over may go on with it.
        assert!(fresh || self.peer.is_some(), "{}: {got:?}", self.name);
        if fresh {
            self.wants.clear();
        }
        if let Some(mut before) = self.peer.replace(peer) {
            before.end(world, End::Fin);
            world.settle();
        }
    }

    fn act(&mut self, world: &mut World, rng: &mut Rng) {
        self.packets = self.packets % 1000 + 1;
        let topic = rng.below(TOPICS);
        let filter = format!("n/{topic}");
        let Some(peer) = &mut self.peer else { return self.come(world, rng) };
        match rng.below(10) {
            0..=3 => {
                peer.subscribe(world, self.packets, &filter, 1);
                self.wants.insert(topic);
            }
            4..=5 => {
                peer.unsubscribe(world, self.packets, &filter);
                self.wants.remove(&topic);
            }
            6 => self.come(world, rng),
            _ => {
                match rng.chance(500) {
                    true => peer.goodbye(world),
                    false => peer.end(world, End::Reset),
                }
                world.settle();
                self.peer = None;
                self.wants.clear();
            }
        }
        world.settle();
    }

    /// The topics of what has come, acknowledged.
    fn told(&mut self, world: &mut World) -> BTreeSet<usize> {
        let Some(peer) = &mut self.peer else { return BTreeSet::new() };
        let mut topics = BTreeSet::new();
        for got in peer.read_all(world) {
            if let Got::Publish { topic, id, .. } = got {
                peer.ack(world, AckKind::PubAck, id);
                let number = topic.trim_start_matches("n/").parse().expect("one of ours");
                assert!(topics.insert(number), "{}: {topic} came twice", self.name);
            }
        }
        topics
    }
}

/// Each topic is published to once: who wants it has it.
fn check(world: &mut World, guests: &mut [Guest], publisher: &mut Peer, number: &mut u16) {
    world.settle();
    guests.iter_mut().for_each(|guest| drop(guest.told(world)));
    for topic in 0..TOPICS {
        *number += 1;
        publisher.publish(world, &format!("n/{topic}"), b"new", 1, *number);
    }
    publisher.take(world);
    for guest in guests {
        let told = guest.told(world);
        assert_eq!(told, guest.wants, "{}", guest.name);
        assert!(guest.peer.as_ref().is_none_or(|peer| !peer.is_closed(world)), "{}", guest.name);
    }
}

/// One run; how many upgrades there were, and how many that failed.
pub fn simulate(seed: u64) -> (usize, usize) {
    let (mut done, mut failed) = (0, 0);
    let mut rng = Rng::new(seed);
    let shards = rng.range(1, 4);
    let faults = Faults { receive: 4096, late: 200, split: 300, ..Faults::default() };
    let plan = |shards| plan(seed, shards, patient(), faults, Stack::default());
    let mut world = World::new(plan(shards));
    let mut pairs: Vec<Pair> = (0..3).map(|qos| Pair::new(&mut world, qos, qos as u8)).collect();
    let mut publisher = Peer::connect(&mut world, 0, &hello("publisher", true, 0));
    let guest = |number| Guest {
        name: format!("guest-{number}"),
        peer: None,
        wants: BTreeSet::new(),
        packets: 0,
    };
    let mut guests: Vec<Guest> = (0..6).map(guest).collect();
    let mut number = 0;
    for _ in 0..4 {
        for _ in 0..rng.range(4, 20) {
            let guest = rng.below(guests.len());
            guests[guest].act(&mut world, &mut rng);
        }
        let mut successor = world.start_successor(plan(rng.range(1, 4)));
        for _ in 0..rng.range(1, 4) {
            world.copy_to(&mut successor, rng.range(1, 8));
            for _ in 0..rng.below(8) {
                let (guest, pair) = (rng.below(guests.len()), rng.below(pairs.len()));
                guests[guest].act(&mut world, &mut rng);
                pairs[pair].say(&mut world);
                if rng.chance(500) {
                    pairs[pair].hear(&mut world);
                }
            }
        }
        pairs.iter_mut().for_each(|pair| pair.say(&mut world));
        match world.hand_over_to(successor, rng.chance(300), &mut |_| {}, |_| {}) {
            true => done += 1,
            false => failed += 1,
        }
        check(&mut world, &mut guests, &mut publisher, &mut number);
        let here = guests.iter().filter(|guest| guest.peer.is_some()).count();
        let sessions: u64 = world.nodes.iter().map(|node| node.shard.counters.sessions).sum();
        assert_eq!(sessions as usize, here + 2 * pairs.len() + 1, "seed {seed}");
    }
    finish(&mut world, &mut pairs, seed);
    (done, failed)
}

#[test]
fn clients_that_are_copied_go_on_as_if_they_were_not() {
    let (done, failed) = (1..=60).map(simulate).fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    println!("{done} upgrades, {failed} that failed");
    assert!(done > 100 && failed > 30, "{done} upgrades, {failed} that failed");
}
