//! Order across publishers: what was acknowledged to one client comes before whatever any client
//! sends after that.
//!
//! Some clients publish numbers, and only whoever has the baton does: the next number is sent when
//! the acknowledgement of the last has been read, by another client on another shard. Others
//! subscribe and unsubscribe meanwhile. All that they are sent must be what this order allows: live
//! messages in rising numbers, none from before the SUBSCRIBE or after the UNSUBACK, all from in
//! between; no retained message that an acknowledged one has replaced or cleared.

use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello};
use crate::rng::Rng;
use crate::settings::roomy;
use crate::world::{Plan, World, listener_state};
use ringmq::limits::MAIL_WORK;
use ringmq::packet::AckKind;
use ringmq::shard::home_of;
use ringmq::topic::Seeds;
use std::collections::{BTreeMap, BTreeSet};

const PUBLISHERS: usize = 3;
const READERS: usize = 4;

pub struct Batons {
    publishers: Vec<Publisher>,
    readers: Vec<Reader>,
    history: History,
    /// Nothing new is begun.
    pub quiet: bool,
}

/// What has been published, in its order.
#[derive(Default)]
struct History {
    /// The last number that was sent, and the last of which the acknowledgement was read.
    sent: u64,
    acked: u64,
    /// The number that is on its way, and whose it is.
    pending: Option<(u64, usize)>,
    /// Numbers whose fate nobody knows: their connection was lost.
    void: BTreeSet<u64>,
    /// By topic, what was to be retained: the number, and whether it cleared.
    retained: BTreeMap<String, Vec<(u64, bool)>>,
    /// Topics with such a number: what is retained there is not known.
    unsure: BTreeSet<String>,
    topics: u64,
}

struct Link {
    name: String,
    peer: Option<Peer>,
    up: bool,
    next_id: u16,
}

struct Publisher {
    link: Link,
    id: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Out,
    Subscribing,
    In,
    Leaving,
}

struct Reader {
    link: Link,
    stage: Stage,
    qos: u8,
    filter: String,
    /// Of the subscription: its Subscription Identifier.
    number: u32,
    /// What was acknowledged before SUBSCRIBE was sent.
    floor: u64,
    /// What was sent before UNSUBACK was read.
    ceiling: u64,
    /// Must still come.
    due: BTreeSet<u64>,
    /// The last number that came live.
    last: u64,
    /// By topic, the last number, live or retained.
    seen: BTreeMap<String, u64>,
    /// Messages to acknowledge.
    owed: Vec<(u8, u16)>,
}

impl History {
    fn topic(&mut self, rng: &mut Rng) -> String {
        format!("b/{}", self.topics + rng.below(2) as u64)
    }

    /// The connection that the pending number was sent on is gone.
    fn lose_pending(&mut self) {
        let Some((number, _)) = self.pending.take() else { return };
        self.void.insert(number);
        self.acked = number;
        let of = |ops: &Vec<(u64, bool)>| ops.last().is_some_and(|&(last, _)| last == number);
        if let Some((topic, _)) = self.retained.iter().find(|(_, ops)| of(ops)) {
            self.unsure.insert(topic.clone());
            self.topics += 2;
        }
    }
}

impl Link {
    fn new(name: String) -> Link {
        Link { name, peer: None, up: false, next_id: 0 }
    }

    /// Connects if need be, and returns what has come; `None` when the connection is lost.
    fn hear(&mut self, world: &mut World, rng: &mut Rng) -> Option<Vec<Got>> {
        let Some(peer) = &mut self.peer else {
            let shard = rng.below(world.nodes.len());
            let mut peer = Peer::silent(world, shard, 1 << 20);
            peer.begin(world, &hello(&self.name, true, 0));
            (self.peer, self.up) = (Some(peer), false);
            return Some(Vec::new());
        };
        let mut got = peer.hear(world);
        if peer.is_closed(world) {
            peer.end(world, End::Reset);
            (self.peer, self.up) = (None, false);
            return None;
        }
        if let Some(Got::ConnAck { .. }) = got.first() {
            got.remove(0);
            self.up = true;
        }
        Some(got)
    }

    fn id(&mut self) -> u16 {
        self.next_id = self.next_id % 1000 + 1;
        self.next_id
    }
}

impl Publisher {
    /// True when something came.
    fn turn(&mut self, me: usize, world: &mut World, history: &mut History, rng: &mut Rng) -> bool {
        let mine = history.pending.is_some_and(|(_, at)| at == me);
        let Some(got) = self.link.hear(world, rng) else {
            if mine {
                history.lose_pending();
            }
            return true;
        };
        let Some(peer) = &mut self.link.peer else { return true };
        for packet in &got {
            let &Got::Ack(kind, id, _) = packet else {
                assert!(matches!(packet, Got::Disconnect(_)), "{}: {packet:?}", self.link.name);
                continue;
            };
            if kind == AckKind::PubRec {
                peer.ack(world, AckKind::PubRel, id);
            }
            if kind != AckKind::PubComp && mine && id == self.id {
                history.acked = history.sent;
                history.pending = None;
            }
        }
        !got.is_empty()
    }

    fn publish(
        &mut self,
        me: usize,
        world: &mut World,
        history: &mut History,
        rng: &mut Rng,
    ) -> Said {
        let topic = history.topic(rng);
        let (retain, clear) = (rng.chance(600), rng.chance(200));
        history.sent += 1;
        let number = history.sent;
        history.pending = Some((number, me));
        if retain {
            history.retained.entry(topic.clone()).or_default().push((number, clear));
        }
        self.id = self.link.id();
        let long = if rng.chance(100) { 9000 } else { 0 };
        let payload = if retain && clear { String::new() } else { format!("{number:>long$}") };
        let qos = 1 + rng.below(2) as u8;
        let peer = self.link.peer.as_mut().expect("it is up");
        peer.publish_as(world, &topic, payload.as_bytes(), qos, self.id, retain);
        Said { topic, number, empty: payload.is_empty() }
    }
}

/// A number on its way.
struct Said {
    topic: String,
    number: u64,
    empty: bool,
}

impl Reader {
    /// True when something came.
    fn turn(&mut self, world: &mut World, history: &History, rng: &mut Rng) -> bool {
        let Some(got) = self.link.hear(world, rng) else {
            *self = Reader::new(self.link.name.clone(), self.qos);
            return true;
        };
        let moved = !got.is_empty();
        for packet in got {
            match packet {
                Got::SubAck(..) => self.stage = Stage::In,
                Got::UnsubAck(_) => {
                    self.stage = Stage::Out;
                    self.ceiling = history.sent;
                }
                Got::Ack(AckKind::PubRel, id, _) => self.owed.push((3, id)),
                Got::Publish { topic, payload, qos, id, dup, retain, ids, .. } => {
                    if qos > 0 {
                        self.owed.push((qos, id));
                    }
                    let number = String::from_utf8(payload).unwrap().trim().parse().ok();
                    // Messages of a subscription that was ended may still have waited.
                    let current = ids == [self.number];
                    match number {
                        Some(number) if retain && current => {
                            self.replayed(&topic, number, history);
                        }
                        Some(number) if !retain && !dup => {
                            self.came(&topic, number, current, history);
                        }
                        _ => {}
                    }
                }
                Got::Disconnect(_) => {}
                other => panic!("{}: {other:?}", self.link.name),
            }
        }
        moved
    }

    fn came(&mut self, topic: &str, number: u64, current: bool, history: &History) {
        let name = &self.link.name;
        self.due.remove(&number);
        if history.void.contains(&number) {
            return;
        }
        assert!(number > self.last, "{name}: live {number} after {}", self.last);
        self.last = number;
        if !current {
            return;
        }
        let seen = self.seen.get(topic).copied().unwrap_or(0);
        assert!(number >= seen, "{name}: live {number} after the retained {seen} of {topic}");
        // A message that is not retained does not make one stale that is.
        let ops = history.retained.get(topic);
        if ops.is_some_and(|ops| ops.iter().any(|&(at, _)| at == number)) {
            self.seen.insert(topic.to_owned(), number);
        }
        assert!(
            number > self.floor,
            "{name}: {number}, and {} was acknowledged before SUBSCRIBE",
            self.floor
        );
        let over = self.stage == Stage::Out && number > self.ceiling;
        assert!(!over, "{name}: {number}, sent after UNSUBACK at {}", self.ceiling);
    }

    fn replayed(&mut self, topic: &str, number: u64, history: &History) {
        let name = &self.link.name;
        if history.unsure.contains(topic) {
            return;
        }
        let ops = history.retained.get(topic).expect("something was retained there");
        let last = ops.iter().rev().find(|&&(at, _)| at <= self.floor);
        let &(since, clear) = last.unwrap_or(&(0, false));
        let current = number > since || number == since && !clear;
        assert!(current, "{name}: retained {number} of {topic} after {since}, cleared: {clear}");
        let seen = self.seen.insert(topic.to_owned(), number).unwrap_or(0);
        assert!(number >= seen, "{name}: retained {number} after {seen} of {topic}");
    }

    fn answer(&mut self, world: &mut World) -> bool {
        let Some(peer) = &mut self.link.peer else { return false };
        let any = !self.owed.is_empty();
        for (qos, id) in self.owed.drain(..) {
            let kind = [AckKind::PubAck, AckKind::PubRec, AckKind::PubComp][usize::from(qos) - 1];
            peer.ack(world, kind, id);
        }
        any
    }

    fn new(name: String, qos: u8) -> Reader {
        Reader {
            link: Link::new(name),
            stage: Stage::Out,
            qos,
            filter: String::new(),
            number: 0,
            floor: 0,
            ceiling: 0,
            due: BTreeSet::new(),
            last: 0,
            seen: BTreeMap::new(),
            owed: Vec::new(),
        }
    }

    fn subscribe(&mut self, world: &mut World, history: &History, filter: String) {
        let id = self.link.id();
        let peer = self.link.peer.as_mut().expect("it is up");
        self.number += 1;
        peer.subscribe_as(world, id, &filter, self.qos, Some(self.number));
        self.filter = filter;
        self.stage = Stage::Subscribing;
        self.floor = history.acked;
        // What had been seen of a subscription before says nothing about this one's replay.
        self.seen.clear();
    }

    fn unsubscribe(&mut self, world: &mut World, history: &History) {
        let id = self.link.id();
        let peer = self.link.peer.as_mut().expect("it is up");
        peer.unsubscribe(world, id, &self.filter);
        self.stage = Stage::Leaving;
        self.due.retain(|&number| number <= history.acked);
    }

    /// What is sent from now on must come.
    fn expect(&mut self, said: &Said) {
        let matches = self.filter == "b/#" || self.filter == said.topic;
        if self.stage == Stage::In && self.qos > 0 && matches && !said.empty {
            self.due.insert(said.number);
        }
    }
}

impl Batons {
    /// Clients spread over the shards.
    pub fn new(seeds: &Seeds, shards: usize) -> Batons {
        let on = |kind: &str, at: usize| {
            let home =
                |name: &String| usize::from(home_of(seeds, name, shards as u8).0) == at % shards;
            (0..).map(|n| format!("baton-{kind}-{at}-{n}")).find(home).expect("some name")
        };
        let publisher = |at| Publisher { link: Link::new(on("p", at)), id: 0 };
        let reader = |at| Reader::new(on("r", at), [1, 2, 0, 1][at % 4]);
        Batons {
            publishers: (0..PUBLISHERS).map(publisher).collect(),
            readers: (0..READERS).map(reader).collect(),
            history: History::default(),
            quiet: true,
        }
    }

    /// Some client does something; true when anything came or went.
    pub fn turn(&mut self, world: &mut World, rng: &mut Rng) -> bool {
        let count = self.publishers.len() + self.readers.len();
        if count == 0 {
            return false;
        }
        // Whoever waits for an acknowledgement looks often: passed on early, the baton races most.
        let waits = self.history.pending.map(|(_, at)| at).filter(|_| rng.chance(600));
        self.turn_of(waits.unwrap_or_else(|| rng.below(count)), world, rng)
    }

    /// Everybody reads and answers.
    pub fn turn_all(&mut self, world: &mut World, rng: &mut Rng) -> bool {
        let count = self.publishers.len() + self.readers.len();
        (0..count).fold(false, |moved, at| self.turn_of(at, world, rng) | moved)
    }

    fn turn_of(&mut self, at: usize, world: &mut World, rng: &mut Rng) -> bool {
        let history = &mut self.history;
        if at < PUBLISHERS {
            let moved = self.publishers[at].turn(at, world, history, rng);
            // The next one at once: what is late then has the least time to come all the same.
            let next = rng.below(PUBLISHERS);
            let publisher = &mut self.publishers[next];
            if self.quiet || !publisher.link.up || history.pending.is_some() {
                return moved;
            }
            let said = publisher.publish(next, world, history, rng);
            self.readers.iter_mut().for_each(|reader| reader.expect(&said));
            return true;
        }
        let reader = &mut self.readers[at - PUBLISHERS];
        let mut moved = reader.turn(world, history, rng);
        reader.due.retain(|number| !history.void.contains(number));
        if self.quiet || rng.chance(700) {
            moved |= reader.answer(world);
        }
        if self.quiet || !reader.link.up {
            return moved;
        }
        match reader.stage {
            Stage::Out if rng.chance(300) => {
                let filter = if rng.chance(500) { "b/#".into() } else { history.topic(rng) };
                reader.subscribe(world, history, filter);
                true
            }
            Stage::In if rng.chance(80) => {
                reader.unsubscribe(world, history);
                true
            }
            _ => moved,
        }
    }

    /// True while something is on its way.
    pub fn is_busy(&self) -> bool {
        let waits = |stage| matches!(stage, Stage::Subscribing | Stage::Leaving);
        self.history.pending.is_some()
            || self.publishers.iter().any(|publisher| !publisher.link.up)
            || self.readers.iter().any(|reader| !reader.link.up || waits(reader.stage))
    }

    /// When all is quiet: whatever had to come has come.
    pub fn check_due(&self, world: &World) {
        let total = world.counters();
        let dropped = total.dropped_queue_full + total.dropped_outgoing_full;
        for reader in &self.readers {
            let due = &reader.due;
            let name = &reader.link.name;
            assert!(dropped > 0 || due.is_empty(), "{name}: {due:?} acknowledged and not received");
        }
    }

    /// What the last of the history has left, as a new subscriber must find it; and then nothing.
    pub fn check_retained(&mut self, world: &mut World) {
        let mut probe = Peer::connect(world, 0, &hello("baton-probe", true, 0));
        probe.subscribe(world, 1, "b/#", 1);
        let mut found = BTreeMap::new();
        for got in probe.read_all(world) {
            let Got::Publish { topic, payload, .. } = got else { continue };
            let number: u64 = String::from_utf8(payload).unwrap().trim().parse().unwrap();
            assert_eq!(found.insert(topic, number), None, "two retained messages of a topic");
        }
        let limited = world.counters().dropped_retained_limit > 0;
        for (topic, ops) in &self.history.retained {
            let &(number, clear) = ops.last().expect("it is made with one");
            let expected = (!clear).then_some(number);
            let got = found.get(topic).copied();
            let fine = got == expected || limited && got.is_none();
            let unsure = self.history.unsure.contains(topic);
            assert!(fine || unsure, "retained {got:?} of {topic}, the last was {expected:?}");
            probe.publish_as(world, topic, b"", 0, 0, true);
        }
        probe.read_all(world);
        probe.goodbye(world);
    }

    /// Everybody leaves.
    pub fn leave(&mut self, world: &mut World) {
        let publishers = self.publishers.drain(..).map(|publisher| publisher.link);
        for link in publishers.chain(self.readers.drain(..).map(|reader| reader.link)) {
            if let Some(mut peer) = link.peer {
                peer.goodbye(world);
            }
        }
    }
}

/// Nothing but those, on shards of which each may be anywhere in its step.
fn relay(seed: u64, shards: usize) -> u64 {
    let mut rng = Rng::new(seed);
    let faults = Faults {
        hand_over_fails: 0,
        late: [0, 200, 600][rng.below(3)],
        split: [0, 300][rng.below(2)],
        receive: 65_536,
        torn: 400,
        eager: 300,
    };
    let (settings, listener_states) = (roomy(), vec![listener_state("")]);
    let plan = Plan { seed, shards, data: 16, control: 16, settings, faults, listener_states };
    let mut world = World::new(plan);
    world.mail = [1, 12, 60, MAIL_WORK][rng.below(4)];
    let mut batons = Batons::new(&world.shared.seeds, shards);
    batons.quiet = false;
    for _ in 0..1000 * (shards + 2) {
        let at = rng.below(shards);
        if world.is_runnable(at) && !world.dawdles(at) && rng.chance(700) {
            world.step(at);
        } else {
            batons.turn(&mut world, &mut rng);
        }
    }
    batons.quiet = true;
    while batons.turn_all(&mut world, &mut rng) || batons.is_busy() {
        world.settle();
    }
    batons.check_due(&world);
    batons.check_retained(&mut world);
    batons.leave(&mut world);
    assert_eq!(world.problems(), Vec::<String>::new());
    batons.history.acked
}

#[test]
fn what_was_acknowledged_comes_before_whatever_is_sent_after_that() {
    for (shards, seeds) in [(1, 5), (2, 30), (3, 30), (16, 10)] {
        let passed: u64 = (1..=seeds).map(|seed| relay(seed, shards)).sum();
        assert!(passed > seeds * 4, "{passed} numbers in {seeds} runs on {shards} shards");
    }
}
