//! What is copied to another process while this one serves, and changes after that: sessions with
//! and without a connection, their queues, and retained messages. Then the other process takes
//! over, or fails, or this one dies when it has sent a part: who is still connected then has lost
//! nothing.

use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello};
use crate::rng::Rng;
use crate::upgrade::{finish, patient, plan};
use crate::world::World;
use ringmq::packet::AckKind;
use ringmq::transport::Stack;
use std::collections::BTreeMap;

const TOPICS: usize = 6;

/// A client whose session stays. It has a topic of its own.
struct Stayer {
    name: String,
    peer: Option<Peer>,
    sent: u16,
    got: Vec<u16>,
}

impl Stayer {
    fn new(world: &mut World, number: usize) -> Stayer {
        let name = format!("stayer-{number}");
        let mut stayer = Stayer { name, peer: None, sent: 0, got: Vec::new() };
        stayer.begin(world);
        stayer
    }

    fn topic(&self) -> String {
        format!("s/{}", self.name)
    }

    /// A session anew.
    fn begin(&mut self, world: &mut World) {
        let mut peer = Peer::connect(world, 0, &hello(&self.name, true, 600));
        peer.subscribe(world, 1, &self.topic(), 1);
        peer.take(world);
        (self.sent, self.got, self.peer) = (0, Vec::new(), Some(peer));
    }

    /// Goes on with its session; false when there is none.
    fn come(&mut self, world: &mut World, entry: usize) -> bool {
        let mut peer = Peer::connect(world, entry, &hello(&self.name, false, 600));
        let mut present = false;
        for got in peer.take(world) {
            match got {
                Got::ConnAck { present: is_present, .. } => present = is_present,
                Got::Publish { payload, id, .. } => {
                    peer.ack(world, AckKind::PubAck, id);
                    self.note(&payload);
                }
                other => panic!("{other:?}"),
            }
        }
        self.peer = Some(peer);
        present
    }

    fn note(&mut self, payload: &[u8]) {
        self.got.push(number_of(payload));
    }

    fn hear(&mut self, world: &mut World) {
        let Some(peer) = &mut self.peer else { return };
        for got in peer.read_all(world) {
            let Got::Publish { payload, dup, .. } = got else { panic!("{got:?}") };
            assert!(!dup, "no connection broke");
            self.got.push(number_of(&payload));
        }
    }

    fn go(&mut self, world: &mut World) {
        self.hear(world);
        if let Some(mut peer) = self.peer.take() {
            peer.end(world, End::Fin);
            world.settle();
        }
    }
}

fn number_of(payload: &[u8]) -> u16 {
    u16::from_be_bytes([payload[0], payload[1]])
}

struct Household {
    publisher: Peer,
    packets: u16,
    stayers: Vec<Stayer>,
    /// What is retained.
    kept: BTreeMap<String, u8>,
}

impl Household {
    fn new(world: &mut World) -> Household {
        Household {
            publisher: Peer::connect(world, 0, &hello("publisher", true, 0)),
            packets: 0,
            stayers: (0..5).map(|number| Stayer::new(world, number)).collect(),
            kept: BTreeMap::new(),
        }
    }

    fn publish(&mut self, world: &mut World, topic: &str, payload: &[u8], retain: bool) {
        self.packets += 1;
        let number = self.packets;
        self.publisher.publish_as(world, topic, payload, 1, number, retain);
        self.publisher.take(world);
    }

    fn act(&mut self, world: &mut World, rng: &mut Rng) {
        let at = rng.below(self.stayers.len());
        match rng.below(10) {
            0..=3 => {
                let stayer = &mut self.stayers[at];
                stayer.sent += 1;
                let (topic, payload) = (stayer.topic(), stayer.sent.to_be_bytes());
                self.publish(world, &topic, &payload, false);
            }
            4 => self.stayers[at].hear(world),
            5..=6 => match self.stayers[at].peer.is_some() {
                true => self.stayers[at].go(world),
                false => {
                    let entry = rng.below(world.nodes.len());
                    let present = self.stayers[at].come(world, entry);
                    assert!(present, "{} has its session", self.stayers[at].name);
                }
            },
            _ => {
                let (topic, value) = (format!("r/{}", rng.below(TOPICS)), rng.below(4) as u8);
                match value {
                    0 => drop(self.kept.remove(&topic)),
                    value => drop(self.kept.insert(topic.clone(), value)),
                }
                let payload = if value == 0 { &[][..] } else { &[value] };
                self.publish(world, &topic, payload, true);
            }
        }
    }

    /// What is retained, as who comes now is told.
    fn retained(&mut self, world: &mut World) -> BTreeMap<String, u8> {
        let mut late = Peer::connect(world, 0, &hello("late", true, 0));
        late.subscribe(world, 1, "r/#", 0);
        let told = late.read_all(world).into_iter().filter_map(|got| match got {
            Got::Publish { topic, payload, .. } => Some((topic, payload[0])),
            _ => None,
        });
        let told = told.collect();
        late.goodbye(world);
        told
    }

    /// Everybody has what is theirs.
    fn check(&mut self, world: &mut World, seed: u64) {
        assert!(!self.publisher.is_closed(world), "seed {seed}");
        for at in 0..self.stayers.len() {
            let stayer = &mut self.stayers[at];
            match &stayer.peer {
                Some(peer) => assert!(!peer.is_closed(world), "seed {seed}: {}", stayer.name),
                None => assert!(stayer.come(world, 0), "seed {seed}: {}", stayer.name),
            }
            stayer.hear(world);
            let all: Vec<u16> = (1..=stayer.sent).collect();
            assert_eq!(stayer.got, all, "seed {seed}: {}", stayer.name);
        }
        assert_eq!(self.retained(world), self.kept, "seed {seed}");
    }

    /// The old process has died. Whose connection it ended, or whose session it had, begins anew;
    /// what is retained is true.
    fn begin_again(&mut self, world: &mut World) {
        world.settle();
        if self.publisher.is_closed(world) {
            self.publisher = Peer::connect(world, 0, &hello("publisher", true, 0));
            self.publisher.take(world);
            self.packets = 0;
        }
        for stayer in &mut self.stayers {
            let gone = stayer.peer.as_ref().is_some_and(|peer| peer.is_closed(world));
            if gone || stayer.peer.is_none() && !stayer.come(world, 0) {
                stayer.begin(world);
            }
        }
        let told = self.retained(world);
        for (topic, value) in &told {
            assert_eq!(self.kept.get(topic), Some(value), "{topic} is not outdated");
        }
        self.kept = told;
    }
}

/// One run; how many upgrades there were, how many that failed, and how often old died.
pub fn simulate(seed: u64) -> [usize; 3] {
    let mut ends = [0; 3];
    let mut rng = Rng::new(seed);
    let shards = rng.range(1, 4);
    let faults = Faults { receive: 4096, late: 200, split: 300, ..Faults::default() };
    let plan = |shards| plan(seed, shards, patient(), faults, Stack::default());
    let mut world = World::new(plan(shards));
    let mut household = Household::new(&mut world);
    for _ in 0..5 {
        for _ in 0..rng.range(4, 20) {
            household.act(&mut world, &mut rng);
        }
        let mut successor = world.start_successor(plan(rng.range(1, 4)));
        for _ in 0..rng.range(1, 4) {
            let most = if rng.chance(500) { usize::MAX } else { rng.range(1, 8) };
            world.copy_to(&mut successor, most);
            for _ in 0..rng.below(8) {
                household.act(&mut world, &mut rng);
            }
        }
        match rng.below(10) {
            0..=2 => {
                if world.die_handing_over(successor, rng.range(1, 40)) {
                    ends[2] += 1;
                    household.begin_again(&mut world);
                }
            }
            fate => match world.hand_over_to(successor, fate < 5, &mut |_| {}, |_| {}) {
                true => ends[0] += 1,
                false => ends[1] += 1,
            },
        }
        household.check(&mut world, seed);
    }
    finish(&mut world, &mut [], seed);
    ends
}

#[test]
fn what_changes_after_it_was_copied_is_what_it_is() {
    let mut ends = [0; 3];
    for seed in 1..=60 {
        ends.iter_mut().zip(simulate(seed)).for_each(|(sum, more)| *sum += more);
    }
    println!(
        "{} upgrades, {} that failed, {} times the old process died",
        ends[0], ends[1], ends[2]
    );
    assert!(ends[0] > 100 && ends[1] > 30 && ends[2] > 50, "{ends:?}");
}
