//! Links in worlds of their own: filters that they refuse, what a link that is gone costs, and
//! random runs of publishers that wait for full ones. What others take is in the epilogue of every
//! random run.

use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello, will};
use crate::rng::Rng;
use crate::scripted::{fine, name_on, world};
use crate::settings::roomy;
use crate::world::{Plan, World, listener_state};
use ringmq::ids::ClientKey;
use ringmq::message::MessageRef;
use ringmq::packet::{Connect, Qos};
use ringmq::shard::inquiry::PublishOutcome;
use ringmq::shard::{Answering, LinkId, LinkPlan, WhenFull};
use std::collections::BTreeMap;

fn plan_of(filters: &[&str]) -> LinkPlan {
    LinkPlan {
        filters: filters.iter().map(|&filter| filter.into()).collect(),
        numbers: Vec::new(),
        once: false,
        part: None,
        bytes: 1 << 20,
        when_full: WhenFull::DropNew,
        names: false,
        own: None,
        zero: 0,
        answering: Answering::Accepted,
    }
}

#[test]
fn a_link_takes_plain_filters_only() {
    let mut world = world(1, roomy());
    let shard = &mut world.nodes[0].shard;
    for filters in [&["a/#/b"][..], &["a", "$share/g/a"], &[""]] {
        assert!(shard.open_link(plan_of(filters)).is_none());
    }
    let link = shard.open_link(plan_of(&["a", "a", "a/+"])).unwrap();
    shard.close_link(link);
    fine(&world);
}

/// A link does not make a message cross to another shard, and one that is closed takes nothing.
#[test]
fn a_link_costs_no_mail() {
    let mut world = world(2, roomy());
    let link = world.nodes[1].shard.open_link(plan_of(&["fleet/#"])).unwrap();
    let mut peer = Peer::connect(&mut world, 0, &hello(&name_on(0, 2, "a"), true, 0));
    let before = world.counters().mail_sent;
    for number in 0..100 {
        peer.publish(&mut world, "fleet/1", &[number], 0, 0);
    }
    world.settle();
    assert_eq!(world.counters().mail_sent, before);
    assert!(world.nodes[1].shard.take_from_link(link).is_none(), "accepted on the other shard");
    let here = world.nodes[0].shard.open_link(plan_of(&["fleet/#"])).unwrap();
    peer.publish(&mut world, "fleet/1", b"x", 0, 0);
    world.settle();
    assert_eq!(world.nodes[0].shard.link_counts(here).matched, 1);
    world.nodes[0].shard.close_link(here);
    peer.publish(&mut world, "fleet/1", b"x", 0, 0);
    world.settle();
    assert!(world.nodes[0].shard.take_from_link(here).is_none());
    fine(&world);
}

/// The bound of a link whose publishers wait, and the longest record of these runs.
const BOUND: usize = 1600;
const LONGEST: usize = 140;
const ROUNDS: usize = 40;

/// A client of a random run.
struct Busy {
    name: String,
    peer: Peer,
    sent: u32,
    unacknowledged: usize,
}

/// A world with a link on each shard that takes what is below `l/`, and has its publishers wait.
struct Pausing {
    world: World,
    rng: Rng,
    links: Vec<LinkId>,
    busy: Vec<Busy>,
    parted: Vec<Busy>,
    /// What the bridge has taken, by topic.
    taken: BTreeMap<String, Vec<u32>>,
    named: u32,
    wills: u64,
}

/// Publishers that wait for a link are in order and lose nothing, whatever its bridge takes and
/// when; the link stays within its bound; and whoever has nothing to do with it goes on.
pub fn simulate(seed: u64) {
    let mut run = Pausing::new(seed);
    let (mut reader, mut other) = (run.connect("reader"), run.connect("other"));
    reader.subscribe(&mut run.world, 1, "m/free", 0);
    reader.subscribe(&mut run.world, 2, "l/will", 0);
    reader.take(&mut run.world);
    other.take(&mut run.world);
    for round in 0..ROUNDS {
        run.publish();
        run.world.settle();
        run.look_at_bounds();
        run.leave_wills(round);
        run.part();
        other.publish(&mut run.world, "m/free", b"free", 1, round as u16 + 1);
        assert_eq!(
            other.take(&mut run.world).len(),
            1,
            "a PUBACK to who has nothing to do with it"
        );
        let heard = reader.payloads(&mut run.world);
        assert!(heard.contains(&"free".to_owned()), "what is not for the link: {heard:?}");
        run.look_at_bounds();
        for shard in 0..run.links.len() {
            let most = run.rng.below(4);
            run.take(shard, most);
        }
        run.world.settle();
        run.look_at_bounds();
        run.hear();
        run.world.advance(5);
    }
    run.end();
}

impl Pausing {
    fn new(seed: u64) -> Pausing {
        let mut rng = Rng::new(seed ^ 0x11_4b5);
        let shards = 1 + rng.below(3);
        let faults = Faults { receive: 65_536, ..Faults::default() };
        let listener_states = vec![listener_state("")];
        let settings = roomy();
        let plan = Plan { seed, shards, data: 8, control: 8, settings, faults, listener_states };
        let mut world = World::new(plan);
        let plan = LinkPlan { bytes: BOUND, when_full: WhenFull::Pause, ..plan_of(&["l/#"]) };
        let opened = (0..shards).map(|at| world.inquire(at, |s| s.open_link(plan.clone())));
        let links = opened.map(|link| link.expect("a plain filter")).collect();
        let (busy, parted, taken) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut run = Pausing { world, rng, links, busy, parted, taken, named: 0, wills: 0 };
        (0..6).for_each(|_| run.join());
        run
    }

    fn connect(&mut self, name: &str) -> Peer {
        let shard = self.rng.below(self.links.len());
        Peer::connect(&mut self.world, shard, &hello(name, true, 0))
    }

    /// One more publisher.
    fn join(&mut self) {
        self.named += 1;
        let name = format!("p{}", self.named);
        let mut peer = self.connect(&name);
        peer.take(&mut self.world);
        self.busy.push(Busy { name, peer, sent: 0, unacknowledged: 0 });
    }

    /// Each publisher that likes to says some numbers, to a topic of its own.
    fn publish(&mut self) {
        for busy in &mut self.busy {
            for _ in 0..self.rng.below(5) {
                let qos = self.rng.below(2) as u8;
                let text = format!("{:>40}", busy.sent);
                busy.sent += 1;
                busy.unacknowledged += usize::from(qos);
                let (topic, id) = (format!("l/{}", busy.name), busy.sent as u16);
                busy.peer.publish(&mut self.world, &topic, text.as_bytes(), qos, id);
            }
        }
    }

    /// Sometimes one says goodbye behind what it has said, and another one comes.
    fn part(&mut self) {
        if self.rng.below(6) == 0 {
            let at = self.rng.below(self.busy.len());
            let mut busy = self.busy.swap_remove(at);
            busy.peer.say_goodbye(&mut self.world);
            self.parted.push(busy);
            self.join();
        }
    }

    /// Sometimes a client dies whose will is for the link, too, and now and then more of them than
    /// there is room for.
    fn leave_wills(&mut self, round: usize) {
        let many = round % 10 == 9;
        let count = if many { 8 } else { usize::from(self.rng.below(2) == 0) };
        for _ in 0..count {
            self.wills += 1;
            let name = format!("w{}", self.wills);
            let mortal = Connect { will: Some(will("l/will", 0)), ..hello(&name, true, 0) };
            let shard = self.rng.below(self.links.len());
            let mut peer = Peer::connect(&mut self.world, shard, &mortal);
            let before = self.bytes();
            peer.end(&mut self.world, End::Reset);
            self.world.settle();
            for (before, after) in before.into_iter().zip(self.bytes()) {
                assert!(after == before || after <= BOUND, "a will beyond the bound: {after}");
            }
        }
    }

    /// What the links hold.
    fn bytes(&mut self) -> Vec<usize> {
        let links = self.links.clone().into_iter().enumerate();
        links.map(|(shard, link)| self.world.inquire(shard, |s| s.link_bytes(link))).collect()
    }

    /// The bridge takes some batches, at most so many.
    fn take(&mut self, shard: usize, most: usize) {
        let link = self.links[shard];
        for _ in 0..most {
            let Some(batch) = self.world.inquire(shard, |s| s.take_from_link(link)) else { return };
            let mut at = 0;
            while let Some((record, next)) = batch.read(at) {
                let text = String::from_utf8(record.payload.to_vec()).unwrap();
                let number = text.trim().parse().unwrap_or(u32::MAX);
                self.taken.entry(record.topic.to_owned()).or_default().push(number);
                at = next;
            }
        }
    }

    fn look_at_bounds(&mut self) {
        for (shard, &link) in self.links.iter().enumerate() {
            let bytes = self.world.inquire(shard, |s| s.link_bytes(link));
            assert!(bytes <= BOUND + LONGEST, "a link of {BOUND} bytes holds {bytes}");
            // A bridge waits like any other publisher.
            let message = MessageRef {
                topic: "l/bridge",
                properties: &[],
                payload: b"0",
                qos: Qos::AtMostOnce,
                retain: false,
                expires: None,
                publisher: None,
            };
            let own = ClientKey::new(77);
            let said =
                self.world.inquire(shard, |s| s.publish_as_bridge(&message, None, (own, "b")));
            let full = bytes >= BOUND - BOUND / 8;
            assert_eq!(
                said == PublishOutcome::Busy,
                full,
                "a bridge's message, with {bytes} bytes"
            );
        }
    }

    fn hear(&mut self) {
        for busy in self.busy.iter_mut().chain(&mut self.parted) {
            for got in busy.peer.hear(&mut self.world) {
                assert!(matches!(got, Got::Ack(..)), "{}: {got:?}", busy.name);
                busy.unacknowledged -= 1;
            }
        }
    }

    /// Everything is taken: all is there, and in order.
    fn end(mut self) {
        for _ in 0..2000 {
            for shard in 0..self.links.len() {
                self.take(shard, 1);
            }
            self.world.settle();
        }
        self.hear();
        let mut dropped = 0;
        for (shard, &link) in self.links.iter().enumerate() {
            let counts = self.world.inquire(shard, |s| s.link_counts(link));
            assert_eq!(counts.matched, counts.taken + counts.dropped, "what is left in a link");
            dropped += counts.dropped;
        }
        for busy in self.busy.iter().chain(&self.parted) {
            let taken = self.taken.remove(&format!("l/{}", busy.name)).unwrap_or_default();
            assert!(taken.iter().copied().eq(0..busy.sent), "{}: {taken:?}", busy.name);
            assert_eq!(busy.unacknowledged, 0, "{} waits for PUBACKs", busy.name);
        }
        let wills = self.taken.remove("l/will").map_or(0, |taken| taken.len() as u64);
        assert_eq!(wills + dropped, self.wills, "wills, of which {dropped} were dropped");
        assert!(self.world.counters().parks_bridge > 0, "nobody has waited");
        self.turn_away();
        fine(&self.world);
    }

    /// Publishers wait for links that are to take something else from then on: they go on, and the
    /// links lose nothing.
    fn turn_away(&mut self) {
        for busy in &mut self.busy {
            for _ in 0..20 {
                let text = format!("{:>40}", busy.sent);
                busy.sent += 1;
                busy.unacknowledged += 1;
                let (topic, id) = (format!("l/{}", busy.name), busy.sent as u16);
                busy.peer.publish(&mut self.world, &topic, text.as_bytes(), 1, id);
            }
        }
        self.world.settle();
        self.hear();
        let unacknowledged =
            |run: &Pausing| -> usize { run.busy.iter().map(|busy| busy.unacknowledged).sum() };
        assert!(unacknowledged(self) > 0, "nobody waits for a link");
        let before = self.bytes();
        let plan = LinkPlan { bytes: BOUND, when_full: WhenFull::Pause, ..plan_of(&["m/#"]) };
        for (shard, link) in self.links.clone().into_iter().enumerate() {
            assert!(self.world.inquire(shard, |s| s.change_link(link, plan.clone())));
        }
        self.world.settle();
        self.hear();
        assert_eq!(unacknowledged(self), 0, "wait for a link that does not take what they say");
        assert_eq!(self.bytes(), before, "what waits in a link that is changed");
    }
}

#[test]
fn publishers_wait_for_a_full_link_and_nobody_else_does() {
    (1..=20).for_each(simulate);
}
