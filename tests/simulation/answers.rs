//! Random runs of publishers that wait until the other end of a bridge has their messages
//! (`puback: delivered`): nobody is acknowledged early, in another order, or never, and no message
//! is taken again while its acknowledgement waits.

use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello};
use crate::rng::Rng;
use crate::scripted::{fine, name_on, world};
use crate::settings::roomy;
use crate::world::{Plan, World, listener_state};
use ringmq::ids::ClientKey;
use ringmq::link_record::LinkOutcome;
use ringmq::message::MessageRef;
use ringmq::packet::{self, AckKind, Connect, OutPublish, PacketId, Qos, ReasonCode, Version};
use ringmq::shard::inquiry::PublishOutcome;
use ringmq::shard::{Answering, LinkId, LinkPlan, WhenFull};
use std::collections::{BTreeMap, VecDeque};

const ROUNDS: usize = 30;
/// Publications of one client that are under way.
const WINDOW: usize = 8;
/// Milliseconds after which a client of MQTT 5 does not wait any longer, in some runs.
const PATIENCE: u64 = 3000;

/// A publication that its client has no answer to.
struct Said {
    topic: String,
    payload: String,
    qos: u8,
    id: u16,
}

struct Author {
    name: String,
    version: Version,
    peer: Peer,
    said: u32,
    waiting: VecDeque<Said>,
}

/// What is known of a message.
#[derive(Default, Debug)]
struct Known {
    /// Copies that links are to take of it, each time.
    copies: usize,
    /// Copies that may be taken.
    allowed: usize,
    seen: usize,
    delivered: usize,
    refused: usize,
    dropped: usize,
}

struct Run {
    world: World,
    rng: Rng,
    links: Vec<LinkId>,
    plan: LinkPlan,
    patient: bool,
    open: bool,
    authors: Vec<Author>,
    known: BTreeMap<String, Known>,
    /// Of each shard what the bridge has and has said nothing of.
    held: Vec<Vec<(String, u64)>>,
    /// Numbers that this process has assigned, and those of earlier ones, which may still come from
    /// the bridge's disk.
    numbers: [Vec<u64>; 2],
}

pub fn simulate(seed: u64) {
    let mut run = Run::new(seed);
    let mut other = Peer::connect(&mut run.world, 0, &hello("other", true, 0));
    let mut reader = Peer::connect(&mut run.world, 0, &hello("reader", true, 0));
    reader.subscribe(&mut run.world, 1, "l/#", 0);
    reader.take(&mut run.world);
    other.take(&mut run.world);
    let mut all = 0;
    for round in 0..ROUNDS {
        all += run.publish() + run.bring();
        run.world.settle();
        other.publish(&mut run.world, "m/free", b"free", 1, round as u16 + 1);
        assert_eq!(other.take(&mut run.world).len(), 1, "a PUBACK to who does not wait");
        for shard in 0..run.links.len() {
            let most = run.rng.below(4);
            run.take(shard, most);
            run.confirm(shard, false);
        }
        run.world.settle();
        run.hear();
        run.part();
        if round == ROUNDS / 2 {
            run.change();
        }
        if round % 10 == 7 {
            run.upgrade(seed);
        }
        run.world.advance(300);
        run.world.settle();
        run.hear();
    }
    let heard = reader.payloads(&mut run.world).len();
    assert!(heard >= all, "subscribers do not wait: {heard} of {all}");
    run.end(seed);
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut rng = Rng::new(seed ^ 0xac_4b5);
        let shards = 1 + rng.below(3);
        let mut world = World::new(plan(seed, shards));
        let patient = rng.below(3) > 0;
        let plan = LinkPlan {
            filters: vec!["l/#".into(), "l/+/odd".into()],
            numbers: Vec::new(),
            once: false,
            part: None,
            bytes: if rng.below(2) == 0 { 2400 } else { 1 << 20 },
            when_full: if rng.below(2) == 0 { WhenFull::DropOldest } else { WhenFull::DropNew },
            names: false,
            own: None,
            zero: 1_800_000_000_000,
            answering: Answering::Delivered((!patient).then_some(PATIENCE)),
        };
        let links = open_links(&mut world, &plan);
        let (authors, known, held) = (Vec::new(), BTreeMap::new(), vec![Vec::new(); shards]);
        let (open, numbers) = (true, [const { Vec::new() }; 2]);
        let mut run = Run { world, rng, links, plan, patient, open, authors, known, held, numbers };
        for number in 0..6 {
            let version = if number % 2 == 0 { Version::V5 } else { Version::V311 };
            let name = format!("p{number}");
            let peer = run.connect(&name, version, false);
            let (said, waiting) = (0, VecDeque::new());
            run.authors.push(Author { name, version, peer, said, waiting });
        }
        run
    }

    fn connect(&mut self, name: &str, version: Version, known: bool) -> Peer {
        let shard = self.rng.below(self.links.len());
        let connect = Connect { version, ..hello(name, false, 3600) };
        let mut peer = Peer::connect(&mut self.world, shard, &connect);
        let got = peer.take(&mut self.world);
        let reason = ReasonCode::Success;
        assert_eq!(got, [Got::ConnAck { present: known, reason }], "{name}");
        peer
    }

    /// Each publisher that likes to says some numbers; how many are below `l/`.
    fn publish(&mut self) -> usize {
        let mut all = 0;
        for at in 0..self.authors.len() {
            for _ in 0..self.rng.below(4) {
                let author = &mut self.authors[at];
                if author.waiting.len() >= WINDOW {
                    break;
                }
                author.said += 1;
                let name = &author.name;
                let (topic, copies) = match self.rng.below(5) {
                    0 => (format!("m/{name}"), 0),
                    1 | 2 => (format!("l/{name}/even"), 1),
                    _ => (format!("l/{name}/odd"), 2),
                };
                let qos = self.rng.below(3) as u8;
                let payload = format!("{name}-{:>20}", author.said);
                let id = author.said as u16;
                let known = Known { copies, allowed: copies, ..Known::default() };
                self.known.insert(payload.clone(), known);
                all += usize::from(copies > 0);
                let said = Said { topic, payload, qos, id };
                say(&mut self.world, &mut author.peer, &said, false);
                if qos > 0 {
                    author.waiting.push_back(said);
                }
            }
        }
        all
    }

    /// A bridge brings a message, and waits for no answer to it.
    fn bring(&mut self) -> usize {
        let message = MessageRef {
            topic: "l/bridge",
            properties: &[],
            payload: b"brought",
            qos: Qos::AtLeastOnce,
            retain: false,
            expires: None,
            publisher: None,
        };
        let own = ClientKey::new(77);
        let said = self.world.inquire(0, |s| s.publish_as_bridge(&message, None, (own, "b")));
        usize::from(matches!(said, PublishOutcome::Accepted { .. }))
    }

    /// The bridge takes some batches, at most so many.
    fn take(&mut self, shard: usize, most: usize) {
        let link = self.links[shard];
        for _ in 0..most {
            let Some(batch) = self.world.inquire(shard, |s| s.take_from_link(link)) else { return };
            let mut at = 0;
            while let Some((record, next)) = batch.read(at) {
                if record.topic == "l/bridge" {
                    assert_eq!(record.waiter, None);
                    at = next;
                    continue;
                }
                let payload = String::from_utf8(record.payload.to_vec()).unwrap();
                let known = self.known.get_mut(&payload).unwrap();
                known.seen += 1;
                let early = known.seen <= known.allowed;
                assert!(early, "taken again while its answer waits: {payload} {known:?}");
                assert_eq!(record.waiter.is_some(), record.qos > Qos::AtMostOnce);
                if let Some(waiter) = record.waiter {
                    assert_eq!(usize::from(waiter.shard.0), shard);
                    self.held[shard].push((payload, waiter.number));
                }
                at = next;
            }
        }
    }

    /// The configuration is read again: who waits goes on waiting.
    fn change(&mut self) {
        self.plan.filters.push("n/#".into());
        for (shard, link) in self.links.clone().into_iter().enumerate() {
            let plan = self.plan.clone();
            assert!(self.world.inquire(shard, |s| s.change_link(link, plan)));
        }
        self.world.settle();
    }

    /// Another process takes over, with another number of shards. The shards come to rest only when
    /// nobody waits for the bridge any more.
    fn upgrade(&mut self, seed: u64) {
        let shards = 1 + self.rng.below(3);
        let mut world = std::mem::replace(&mut self.world, World::new(plan(seed, 1)));
        let (link, mut links) = (self.plan.clone(), Vec::new());
        let mut steps = 0;
        let beside = &mut |world: &mut World| {
            // The other end takes its time.
            steps += 1;
            if steps % 8 == 0 {
                std::mem::swap(&mut self.world, world);
                for shard in 0..self.links.len() {
                    self.take(shard, usize::MAX);
                    self.confirm(shard, true);
                }
                std::mem::swap(&mut self.world, world);
            }
        };
        let prepare = |new: &mut World| links = open_links(new, &link);
        assert!(world.upgrade_beside(plan(seed, shards), false, beside, prepare));
        (self.world, self.links, self.held) = (world, links, vec![Vec::new(); shards]);
        let [here, earlier] = &mut self.numbers;
        earlier.append(here);
    }

    /// The bridge says what became of some of its messages, in any order; at the end of all.
    fn confirm(&mut self, shard: usize, all: bool) {
        let held = &mut self.held[shard];
        let most = if all { held.len() } else { self.rng.below(held.len() + 1) };
        let mut outcomes = Vec::new();
        for _ in 0..most {
            let (payload, number) = held.swap_remove(self.rng.below(held.len()));
            self.numbers[0].push(number);
            let known = self.known.get_mut(&payload).unwrap();
            let (outcome, count) = match self.rng.below(if all { 1 } else { 16 }) {
                15 => (LinkOutcome::Dropped, &mut known.dropped),
                13 | 14 => (LinkOutcome::Refused, &mut known.refused),
                _ => (LinkOutcome::Delivered, &mut known.delivered),
            };
            *count += 1;
            // What nobody waits for is ignored.
            outcomes.extend([(number, outcome), (number, LinkOutcome::Dropped), (7, outcome)]);
        }
        outcomes.extend(self.numbers[1].iter().map(|&number| (number, LinkOutcome::Delivered)));
        self.world.inquire(shard, |s| s.confirm(&outcomes));
    }

    /// Answers come in order, and none too early.
    fn hear(&mut self) {
        for at in 0..self.authors.len() {
            let author = &mut self.authors[at];
            for got in author.peer.hear(&mut self.world) {
                let (kind, id, reason) = match got {
                    Got::Ack(AckKind::PubComp, ..) => continue,
                    Got::Ack(kind, id, reason) => (kind, id, reason),
                    other => panic!("{}: {other:?}", author.name),
                };
                let said = author.waiting.pop_front().expect("something waits");
                let expected = if said.qos == 1 { AckKind::PubAck } else { AckKind::PubRec };
                assert_eq!((kind, id), (expected, said.id), "{}: answers in order", author.name);
                let known = &self.known[&said.payload];
                judge(author.version, reason, known, &said.payload, self.patient, self.open);
                if kind == AckKind::PubRec && (reason as u8) < 0x80 {
                    author.peer.ack(&mut self.world, AckKind::PubRel, id);
                }
            }
            if self.authors[at].peer.is_closed(&self.world) {
                let author = &self.authors[at];
                assert_eq!(author.version, Version::V311, "whose connection ends");
                // Something that waits was lost. The answers before it may have ended with the
                // connection, in an upgrade.
                let lost = author.waiting.iter().any(|said| {
                    let known = &self.known[&said.payload];
                    known.dropped > 0 || known.seen < known.allowed || !self.open
                });
                assert!(lost, "{}: its connection ends", author.name);
                self.come_back(at);
            }
        }
    }

    /// Sometimes a connection breaks.
    fn part(&mut self) {
        for at in 0..self.authors.len() {
            if self.rng.below(12) == 0 {
                self.authors[at].peer.end(&mut self.world, End::Reset);
                self.world.settle();
                // What the bridge says meanwhile nobody is told.
                for shard in 0..self.links.len() {
                    self.take(shard, usize::MAX);
                    self.confirm(shard, false);
                }
                self.world.settle();
                self.come_back(at);
            }
        }
    }

    /// A client comes back, and sends again what it has no answer to [MQTT-4.4.0-1].
    fn come_back(&mut self, at: usize) {
        self.authors[at].peer.end(&mut self.world, End::Fin);
        self.world.settle();
        (0..self.links.len()).for_each(|shard| self.take(shard, usize::MAX));
        let (name, version) = (self.authors[at].name.clone(), self.authors[at].version);
        let mut peer = self.connect(&name, version, true);
        let mut waits = false;
        for said in &self.authors[at].waiting {
            let held = self.held.iter().flatten().any(|(payload, _)| *payload == said.payload);
            waits |= held;
            if !waits || !self.patient {
                // It had been answered, and nobody had heard it.
                let known = self.known.get_mut(&said.payload).unwrap();
                known.allowed += known.copies;
            }
            say(&mut self.world, &mut peer, said, true);
        }
        self.authors[at].peer = peer;
        self.world.settle();
    }

    /// Everything is delivered, or the bridge is closed: everybody has an answer.
    fn end(mut self, seed: u64) {
        if seed.is_multiple_of(3) {
            for (shard, link) in self.links.clone().into_iter().enumerate() {
                self.take(shard, usize::MAX);
                self.world.inquire(shard, |s| s.close_link(link));
            }
            self.open = false;
        }
        for _ in 0..60 {
            for shard in 0..self.links.len() {
                self.take(shard, usize::MAX);
                self.confirm(shard, true);
            }
            self.world.settle();
            self.hear();
            self.world.settle();
        }
        for author in &self.authors {
            let waiting: Vec<_> = author.waiting.iter().map(|said| &said.payload).collect();
            assert!(waiting.is_empty(), "{} has no answer to {waiting:?}", author.name);
        }
        for shard in 0..self.links.len() {
            assert_eq!(self.world.inquire(shard, |s| s.unanswered()), 0, "answers that are left");
        }
        assert_eq!(self.world.counters().bridge_acks_waiting, 0);
        fine(&self.world);
    }
}

fn plan(seed: u64, shards: usize) -> Plan {
    let faults = Faults { receive: 65_536, ..Faults::default() };
    let (settings, listener_states) = (roomy(), vec![listener_state("")]);
    Plan { seed, shards, data: 8, control: 8, settings, faults, listener_states }
}

/// A link on each shard.
fn open_links(world: &mut World, plan: &LinkPlan) -> Vec<LinkId> {
    let shards = world.nodes.len();
    let mut open = |at| world.inquire(at, |s| s.open_link(plan.clone()));
    (0..shards).map(|at| open(at).expect("plain filters")).collect()
}

/// Whether that answer is true.
fn judge(
    version: Version,
    reason: ReasonCode,
    known: &Known,
    payload: &str,
    patient: bool,
    open: bool,
) {
    let lost = known.dropped > 0 || known.seen < known.allowed || !open;
    let told = match reason {
        ReasonCode::QuotaExceeded => lost,
        ReasonCode::ImplementationSpecificError => known.refused > 0,
        ReasonCode::UnspecifiedError => !patient && known.copies > 0,
        _ if version.is_v5() => known.delivered >= known.copies || !open,
        // MQTT 3 has no reason codes.
        _ => known.delivered + known.refused >= known.copies || !open,
    };
    assert!(told, "acknowledged by {reason:?}: {payload} {known:?}");
}

fn say(world: &mut World, peer: &mut Peer, said: &Said, dup: bool) {
    peer.write(world, |out, version| {
        let publish = OutPublish {
            dup,
            qos: Qos::from_u8(said.qos).unwrap(),
            retain: false,
            topic: &said.topic,
            id: PacketId::new(said.id).filter(|_| said.qos > 0),
            message_expiry: None,
            topic_alias: None,
            subscription_ids: &[],
            forwarded: &[],
            payload: said.payload.as_bytes(),
        };
        packet::encode_publish(out, version, &publish).unwrap();
    });
}

#[test]
fn publishers_wait_until_the_other_end_has_their_messages() {
    (1..=20).for_each(simulate);
}

#[test]
fn answers_that_wait_are_bounded() {
    bounded();
}

/// A client that is never answered is read no further when it has 1024 messages under way, but for
/// its pings, and goes on when some are answered.
pub fn bounded() {
    let mut world = world(1, roomy());
    let plan = LinkPlan {
        filters: vec!["l/#".into()],
        numbers: Vec::new(),
        once: false,
        part: None,
        bytes: 1 << 20,
        when_full: WhenFull::DropNew,
        names: false,
        own: None,
        zero: 0,
        answering: Answering::Delivered(None),
    };
    let link = world.nodes[0].shard.open_link(plan).unwrap();
    let connect = Connect { version: Version::V311, ..hello("a", true, 0) };
    let mut peer = Peer::connect(&mut world, 0, &connect);
    peer.take(&mut world);
    for id in 1..=1200 {
        peer.publish(&mut world, "l/a", b"x", 1, id);
    }
    world.settle();
    assert_eq!(world.inquire(0, |s| s.unanswered()), 1024);
    for _ in 0..3 {
        peer.write(&mut world, |out, _| packet::encode_pingreq(out));
        let heard = peer.take(&mut world);
        assert_eq!(heard, [Got::Pong], "pings of a client that has no answers");
        peer.publish(&mut world, "l/b", b"behind", 0, 0);
    }
    let mut answered = Vec::new();
    for _ in 0..20 {
        let mut outcomes = Vec::new();
        while let Some(batch) = world.inquire(0, |s| s.take_from_link(link)) {
            let waiters = batch.waiters().into_iter();
            outcomes.extend(waiters.map(|waiter| (waiter.number, LinkOutcome::Delivered)));
        }
        world.inquire(0, |s| s.confirm(&outcomes));
        for got in peer.take(&mut world) {
            let Got::Ack(AckKind::PubAck, id, _) = got else { panic!("{got:?}") };
            answered.push(id);
        }
    }
    assert!(answered.into_iter().eq(1..=1200));
    assert_eq!(world.inquire(0, |s| s.unanswered()), 0);
    fine(&world);
}

#[test]
fn answers_outlive_a_reload_after_which_nobody_waits() {
    silenced();
}

/// After a reload by which publishers of a link do not wait any more, those who do are told what
/// becomes of their messages all the same: when the link drops them, and when it is closed.
pub fn silenced() {
    let mut world = world(1, roomy());
    let waits = LinkPlan {
        filters: vec!["l/#".into()],
        numbers: Vec::new(),
        once: false,
        part: None,
        bytes: 1200,
        when_full: WhenFull::DropOldest,
        names: false,
        own: None,
        zero: 0,
        answering: Answering::Delivered(None),
    };
    let silent = LinkPlan { answering: Answering::Accepted, ..waits.clone() };
    let v3 = Connect { version: Version::V311, ..hello("three", true, 0) };
    let mut five = Peer::connect(&mut world, 0, &hello("five", true, 0));
    let mut three = Peer::connect(&mut world, 0, &v3);
    let mut other = Peer::connect(&mut world, 0, &hello("other", true, 0));
    for peer in [&mut five, &mut three, &mut other] {
        peer.take(&mut world);
    }
    for closed in [false, true] {
        let link = world.inquire(0, |s| s.open_link(waits.clone())).unwrap();
        (1..=3).for_each(|id| five.publish(&mut world, "l/five", b"waits", 1, id));
        if !closed {
            three.publish(&mut world, "l/three", b"waits", 1, 1);
        }
        assert_eq!(five.take(&mut world), []);
        assert!(world.inquire(0, |s| s.change_link(link, silent.clone())));
        if closed {
            world.inquire(0, |s| s.close_link(link));
        } else {
            for id in 1..=40 {
                other.publish(&mut world, "l/other", &[b'x'; 40], 1, id);
            }
            let acks = other.take(&mut world);
            assert_eq!(acks.len(), 40, "PUBACKs of who does not wait");
            assert!(three.is_closed(&world), "a lost message of MQTT 3");
        }
        let lost = ReasonCode::QuotaExceeded;
        let told = (1..=3).map(|id| Got::Ack(AckKind::PubAck, id, lost));
        let heard = five.take(&mut world);
        assert!(told.eq(heard.iter().cloned()), "told after a reload: {heard:?}");
        assert_eq!(world.inquire(0, |s| s.unanswered()), 0, "answers that are left");
        if !closed {
            world.inquire(0, |s| s.close_link(link));
        }
    }
    fine(&world);
}

/// A client of MQTT 5 that has more under way than it was allowed is told so [MQTT-3.3.4-7].
#[test]
fn who_exceeds_the_receive_maximum_while_it_waits_is_told() {
    let settings = ringmq::shard::Settings { receive_maximum: 8, ..roomy() };
    let mut world = world(1, settings);
    let plan = LinkPlan {
        filters: vec!["l/#".into()],
        numbers: Vec::new(),
        once: false,
        part: None,
        bytes: 1 << 20,
        when_full: WhenFull::DropNew,
        names: false,
        own: None,
        zero: 0,
        answering: Answering::Delivered(None),
    };
    world.nodes[0].shard.open_link(plan).unwrap();
    let mut peer = Peer::connect(&mut world, 0, &hello(&name_on(0, 1, "a"), true, 0));
    peer.take(&mut world);
    (1..=8).for_each(|id| peer.publish(&mut world, "l/a", b"x", 1, id));
    assert_eq!(peer.take(&mut world), []);
    peer.publish(&mut world, "l/a", b"x", 1, 9);
    let told = [Got::Disconnect(ReasonCode::ReceiveMaximumExceeded)];
    assert_eq!(peer.take(&mut world), told);
    fine(&world);
}
