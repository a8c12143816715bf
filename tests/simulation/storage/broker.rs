//! Whole brokers with stores on such disks: clients publish, subscribe, acknowledge and leave, the
//! power fails in the middle of anything, and the brokers come back. What clients were told holds:
//! sessions and subscriptions are there, or gone; every message that was acknowledged comes, in
//! order, and exactly once at QoS 2; retained messages are no older than what was acknowledged.

use super::disk::Disk;
use super::{BOUNDS, SECRET};
use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello};
use crate::rng::Rng;
use crate::settings::roomy;
use crate::world::{Plan, World, listener_state};
use ringmq::limits::Budget;
use ringmq::packet::AckKind;
use ringmq::session::pending::PendingBounds;
use ringmq::shard::{Settings, Shard, Storing, Whole};
use ringmq::storage::image::Image;
use ringmq::storage::log::{Log, LogBounds};
use ringmq::storage::recovery::{self, Recovered};
use ringmq::storage::{StorageAnswer, StorageCommand};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Clients that are there to stay: at QoS 1, at QoS 2, with a filter for all, and as the member of
/// a share group, which may be at home on another shard.
pub(super) const STAYING: [(&str, &str, u8); 4] =
    [("one", "m/1/#", 1), ("two", "m/2/#", 2), ("all", "m/+/x", 2), ("shared", SHARED, 1)];
const SHARED: &str = "$share/g/m/3/x";
pub(super) const GATHER: LogBounds = LogBounds { gather: 2000, segment: 256 << 10, ..BOUNDS };
pub(super) const ASYNC: LogBounds = LogBounds { gather: 0, interval: Some(20_000), ..GATHER };
const DEGRADE: LogBounds = LogBounds { degraded: 64 << 20, ..GATHER };

/// A shard's disk and what is on its way to it.
pub struct Store {
    pub disk: Disk,
    commands: VecDeque<StorageCommand>,
    answers: VecDeque<StorageAnswer>,
}

impl Store {
    pub fn new(seed: u64) -> Store {
        let (commands, answers) = (VecDeque::new(), VecDeque::new());
        Store { disk: Disk::new(seed), commands, answers }
    }

    /// The disk goes on with about `share` of a thousand parts of what it may do for that shard;
    /// true when it has answered.
    pub fn go_on(&mut self, shard: &mut Shard, rng: &mut Rng, share: usize) -> bool {
        self.commands.extend(shard.storage_commands());
        if rng.chance(share)
            && let Some(command) = self.commands.pop_front()
        {
            self.answers.extend(self.disk.obey(command));
        }
        if rng.chance(200) {
            self.answers.extend(self.disk.finish_sync());
        }
        let answer = if rng.chance(share) { self.answers.pop_front() } else { None };
        let answered = answer.is_some();
        answer.into_iter().for_each(|answer| shard.storage_answered(answer));
        answered
    }

    /// The process is killed.
    pub fn kill(&mut self) {
        let half_done = self.commands.pop_front();
        (self.commands, self.answers) = Default::default();
        self.disk.kill(half_done);
    }

    /// Nobody waits for an answer any more.
    pub fn forget(&mut self) {
        assert!(self.commands.is_empty() && self.answers.is_empty(), "it was at rest");
    }
}

/// What a client that stays knows.
#[derive(Default)]
pub(super) struct Staying {
    pub(super) peer: Option<Peer>,
    /// It was told that its subscription is there.
    subscribed: bool,
    /// Numbers, at their first delivery.
    received: Vec<u64>,
    /// Those before the last power cut.
    cut: Vec<u64>,
    /// Messages of QoS 2 that it has, by identifier, until PUBREL.
    open: BTreeSet<u16>,
}

pub(super) struct House {
    pub(super) seed: u64,
    pub(super) bounds: LogBounds,
    pub(super) world: World,
    pub(super) stores: Vec<Store>,
    pub(super) rng: Rng,
    pub(super) staying: Vec<Staying>,
    publisher: Option<Peer>,
    /// By packet identifier: number, topic, QoS.
    waiting: BTreeMap<u16, (u64, u8, u8)>,
    /// Number, topic (1 to 3), QoS of the publication.
    acknowledged: Vec<(u64, u8, u8)>,
    next: u64,
    /// The last retained number that was acknowledged, and the last that was sent.
    retained: (u64, u64),
    retaining: BTreeMap<u16, u64>,
    /// How often it was started.
    starts: u64,
    /// Clients publish from the moment on in which it listens after a power cut.
    pub(super) knocks: bool,
    /// What happens in the moment in which it is told to listen after a power cut, and who did it.
    pub(super) at_open: Option<fn(&mut House)>,
    pub(super) early: Vec<Peer>,
}

pub(super) fn settings(seed: u64) -> Settings {
    let pending = PendingBounds { messages: 100_000, bytes: 1 << 30, ..roomy().pending };
    // In some runs two subscribers are many, and are served over several steps.
    let budget = match seed % 3 {
        0 => Budget { step: 60, turn: 20, subscribers_at_once: 1, filters_at_once: 1, ahead: 60 },
        _ => roomy().budget,
    };
    let (session_expiry_max, max_subscriptions) = (100_000, 200_000);
    Settings { pending, budget, session_expiry_max, max_subscriptions, ..roomy() }
}

fn world(seed: u64, shards: usize) -> World {
    World::unopened(Plan {
        seed,
        shards,
        data: 8,
        control: 8,
        settings: settings(seed),
        faults: Faults { receive: 4096, ..Faults::default() },
        listener_states: vec![listener_state("")],
    })
}

pub fn read(disk: &Disk, log: u64) -> (Recovered, Image) {
    // On one of two shards bodies are left where they are.
    let room = (log % 2 == 1).then_some(2000);
    let mut image = Image::within(room);
    let recovered =
        recovery::recover(log, &disk.segments(), &mut disk.reader(), &mut |record, value| {
            image.take(record, value, SECRET);
        });
    (recovered.unwrap_or_else(|trouble| panic!("a crash is no damage: {trouble}")), image)
}

impl House {
    pub(super) fn new(seed: u64, bounds: LogBounds) -> House {
        let mut rng = Rng::new(seed ^ 0xb0a4d);
        let shards = rng.range(1, 3);
        let store = |at| Store::new(seed ^ (at as u64) << 32);
        let mut house = House {
            seed,
            bounds,
            world: world(seed, shards),
            stores: (0..shards).map(store).collect(),
            rng,
            staying: STAYING.iter().map(|_| Staying::default()).collect(),
            publisher: None,
            waiting: BTreeMap::new(),
            acknowledged: Vec::new(),
            next: 1,
            retained: (0, 0),
            retaining: BTreeMap::new(),
            starts: 0,
            knocks: false,
            at_open: None,
            early: Vec::new(),
        };
        house.begin();
        house
    }

    /// Every shard goes on with what its disk has. They have read it at different times, in any
    /// order; meanwhile the others go on, and nobody listens ([`Whole`]).
    fn begin(&mut self) {
        // What is drawn here changes nothing of what comes later.
        let mut rng = Rng::new(self.seed ^ 0x57a6e ^ self.starts << 40);
        let later = self.world.rng.clone();
        self.starts += 1;
        let mut whole = Whole::new(self.stores.len() as u8);
        let mut left: Vec<usize> = (0..self.stores.len()).collect();
        // Its core is busy with something else.
        let slow = rng.below(self.stores.len());
        let (mut rounds, mut open, mut rounds_open) = (0, false, 0);
        while !left.is_empty() || rounds_open < 5 {
            rounds += 1;
            assert!(rounds < 10_000, "it never listens");
            if !left.is_empty() && rng.chance(100) {
                self.restore(left.swap_remove(rng.below(left.len())));
            }
            self.go_on_beside(&mut rng, slow);
            for at in self.world.awake_since_reading() {
                let shard = &self.world.nodes[at].shard;
                if shard.is_whole() {
                    whole.told(shard.id());
                }
            }
            if !open && whole.may_listen() {
                self.world.open();
                open = true;
                if let Some(early) = self.at_open {
                    early(self);
                }
            }
            if open {
                rounds_open += 1;
                self.knock();
            }
        }
        self.world.rng = later;
        // Segments are made before anybody can store anything.
        for _ in 0..60 {
            self.turn();
            self.knock();
        }
    }

    /// Somebody has waited for a listener.
    fn knock(&mut self) {
        if self.knocks {
            self.publish();
            self.listen();
        }
    }

    /// Those shards go on that do not read any more, each for a few steps at most, and their disks.
    fn go_on_beside(&mut self, rng: &mut Rng, slow: usize) {
        for at in self.world.awake_since_reading() {
            if at == slow && rng.chance(900) {
                continue;
            }
            for _ in 0..rng.below(4) {
                if self.world.is_runnable(at) {
                    self.world.step(at);
                }
            }
            if self.stores[at].go_on(&mut self.world.nodes[at].shard, rng, 600) {
                self.world.wake(at);
            }
        }
        // Timers fire that have nothing to wait for.
        let millis = if rng.chance(100) { rng.range(0, 1500) } else { 0 };
        self.world.advance(millis as u64);
    }

    /// A shard has read what its disk has.
    fn restore(&mut self, at: usize) {
        let shards = self.stores.len() as u8;
        let store = &mut self.stores[at];
        let log = 0xb0 + at as u64;
        let (recovered, mut image) = read(&store.disk, log);
        let segments = &recovered.found.segments;
        let wanted = segments.iter().map(|segment| segment.number).collect();
        store.disk.keep_only(&wanted);
        let mut log = Log::new(log, SECRET, self.bounds, recovered.found);
        log.adopt(image.finish(SECRET));
        let disk = &store.disk;
        recovery::fill(&log, &mut image, &mut disk.reader()).expect("a disk that works");
        let node = &mut self.world.nodes[at];
        let own = (node.shard.id(), shards);
        node.shard.store_with(Storing::new(log, SECRET, own, 1_000_000, image.last));
        node.shard.restore(image);
        node.reading = false;
    }

    /// Brokers and disks go on for a little.
    pub(super) fn turn(&mut self) {
        self.world.settle();
        self.disks(600);
        let millis = self.rng.range(0, 2) as u64;
        self.world.advance(millis);
        self.world.settle();
    }

    /// One shard goes on for a step, and its disks for more than that.
    pub(super) fn creep(&mut self) {
        self.step();
        self.disks(900);
    }

    /// One shard goes on for a step.
    pub(super) fn step(&mut self) {
        if let Some(at) = self.world.pick_awake() {
            self.world.step(at);
        }
        let millis = self.rng.range(0, 1) as u64;
        self.world.advance(millis);
    }

    /// Disks go on, each with about `share` of a thousand parts of what they may do.
    pub(super) fn disks(&mut self, share: usize) {
        for (at, store) in self.stores.iter_mut().enumerate() {
            if store.go_on(&mut self.world.nodes[at].shard, &mut self.rng, share) {
                self.world.wake(at);
            }
        }
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..5000 {
            let settled = |at: usize| self.world.nodes[at].shard.is_stored();
            if (0..self.stores.len()).all(settled) && self.is_quiet() {
                return;
            }
            self.turn();
            self.listen();
        }
        panic!("it does not settle: {} wait", self.waiting.len());
    }

    pub(super) fn pass(&mut self, turns: usize) {
        for _ in 0..turns {
            self.turn();
        }
    }

    /// How many messages were acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.retaining.is_empty()
    }

    pub(super) fn join(&mut self, at: usize) {
        let (name, filter, qos) = STAYING[at];
        let entry = self.rng.below(self.stores.len());
        let mut peer = Peer::connect(&mut self.world, entry, &hello(name, false, 5000));
        let staying = &mut self.staying[at];
        if !staying.subscribed {
            peer.subscribe(&mut self.world, 1, filter, qos);
        }
        staying.peer = Some(peer);
    }

    pub(super) fn publish(&mut self) {
        let House { world, rng, .. } = self;
        if self.publisher.as_ref().is_none_or(|peer| peer.is_closed(world)) {
            let entry = rng.below(self.stores.len());
            self.publisher = Some(Peer::connect(world, entry, &hello("publisher", true, 0)));
            self.waiting.clear();
            self.retaining.clear();
        }
        let Some(peer) = &mut self.publisher else { return };
        if self.waiting.len() + self.retaining.len() > 12 {
            return;
        }
        let number = self.next;
        self.next += 1;
        let id = (number % 60_000 + 1) as u16;
        if self.rng.chance(150) {
            let payload = number.to_string();
            peer.publish_as(&mut self.world, "kept/here", payload.as_bytes(), 1, id, true);
            self.retaining.insert(id, number);
            self.retained.1 = number;
            return;
        }
        let (topic, qos) = (self.rng.range(1, 3) as u8, self.rng.range(1, 2) as u8);
        let text = format!("{number} {}", "x".repeat(self.rng.below(300)));
        peer.publish(&mut self.world, &format!("m/{topic}/x"), text.as_bytes(), qos, id);
        self.waiting.insert(id, (number, topic, qos));
    }

    /// Everybody looks at what has come.
    pub(super) fn listen(&mut self) {
        if let Some(peer) = &mut self.publisher {
            for got in peer.hear(&mut self.world) {
                let Got::Ack(kind, id, reason) = got else { continue };
                if kind == AckKind::PubComp {
                    continue;
                }
                if reason as u8 >= 0x80 {
                    // Refused, as a store does that is down: nothing is owed.
                    assert_eq!(self.bounds.degraded, 0, "refused, and is to be degraded");
                    self.waiting.remove(&id);
                    self.retaining.remove(&id);
                    continue;
                }
                if let Some(number) = self.retaining.remove(&id) {
                    self.retained.0 = number;
                }
                self.acknowledged.extend(self.waiting.remove(&id));
                if kind == AckKind::PubRec {
                    peer.ack(&mut self.world, AckKind::PubRel, id);
                }
            }
        }
        for at in 0..STAYING.len() {
            self.hear(at);
        }
    }

    fn hear(&mut self, at: usize) {
        let staying = &mut self.staying[at];
        let Some(peer) = &mut staying.peer else { return };
        for got in peer.hear(&mut self.world) {
            match got {
                Got::ConnAck { present, .. } => {
                    assert!(present || !staying.subscribed, "{}: no session", STAYING[at].0);
                }
                Got::SubAck(..) => staying.subscribed = true,
                Got::Publish { payload, qos, id, dup, .. } => {
                    let text = String::from_utf8(payload).unwrap();
                    let (number, rest) = text.split_once(' ').unwrap_or((&text, ""));
                    assert!(rest.bytes().all(|byte| byte == b'x'), "not as it was sent: {text}");
                    let number = number.parse().unwrap();
                    let known = staying.received.contains(&number);
                    if qos == 2 {
                        let again = !staying.open.insert(id);
                        assert!(again || !known, "{}: {number} came twice", STAYING[at].0);
                    }
                    // A power cut may take with it that a message of QoS 1 was sent.
                    let cut = staying.cut.contains(&number);
                    let right = !known || dup || qos == 2 || cut;
                    assert!(right, "{}: {number} without DUP", STAYING[at].0);
                    if !known {
                        staying.received.push(number);
                    }
                    let kind = if qos == 2 { AckKind::PubRec } else { AckKind::PubAck };
                    peer.ack(&mut self.world, kind, id);
                }
                Got::Ack(AckKind::PubRel, id, _) => {
                    staying.open.remove(&id);
                    peer.ack(&mut self.world, AckKind::PubComp, id);
                }
                _ => {}
            }
        }
    }

    /// The power fails and comes back, or the broker is killed and started again.
    pub(super) fn crash(&mut self) {
        let killed = self.bounds.interval.is_some();
        for (at, store) in self.stores.iter_mut().enumerate() {
            store.commands.extend(self.world.nodes[at].shard.storage_commands());
            let half_done = store.commands.pop_front().filter(|_| self.rng.chance(500));
            match killed {
                true => store.disk.kill(half_done),
                false => store.disk.cut(half_done),
            }
            store.commands.clear();
            store.answers.clear();
        }
        self.world = world(self.seed, self.stores.len());
        self.publisher = None;
        self.waiting.clear();
        self.retaining.clear();
        for staying in &mut self.staying {
            staying.peer = None;
            staying.cut.clone_from(&staying.received);
        }
        self.begin();
    }

    /// A session that was ended by its client stays so.
    fn gone_stays_gone(&mut self, round: usize) {
        let name = format!("gone-{round}");
        let mut peer = Peer::connect(&mut self.world, 0, &hello(&name, false, 5000));
        peer.subscribe(&mut self.world, 1, "m/#", 1);
        self.settle();
        let told = peer.hear(&mut self.world);
        assert!(told.iter().any(|got| matches!(got, Got::SubAck(..))), "{told:?}");
        let mut again = Peer::connect(&mut self.world, 0, &hello(&name, true, 0));
        for _ in 0..self.rng.below(20) {
            self.turn();
        }
        let ended = again.hear(&mut self.world);
        self.crash();
        let mut after = Peer::connect(&mut self.world, 0, &hello(&name, false, 0));
        self.settle();
        let back = after.hear(&mut self.world);
        let Some(&Got::ConnAck { present, .. }) = back.first() else { panic!("{back:?}") };
        assert!(!present || ended.is_empty(), "the session came back after its end was told");
        after.end(&mut self.world, End::Fin);
        self.settle();
    }

    pub(super) fn check(&mut self) {
        for at in 0..STAYING.len() {
            self.join(at);
        }
        for _ in 0..400 {
            self.turn();
            self.listen();
        }
        for (at, staying) in self.staying.iter().enumerate() {
            let (name, _, qos) = STAYING[at];
            let topics: [&[u8]; 4] = [&[1], &[2], &[1, 2, 3], &[3]];
            let topics = topics[at];
            let wanted = |&&(_, topic, _): &&(u64, u8, u8)| topics.contains(&topic);
            let lost: Vec<_> = self
                .acknowledged
                .iter()
                .filter(wanted)
                .filter(|(number, ..)| !staying.received.contains(number))
                .collect();
            assert!(lost.is_empty(), "{name} at QoS {qos}: acknowledged and lost: {lost:?}");
            // What a member could not take at once comes back to its group, and later.
            let sorted = staying.received.is_sorted() || name == "shared";
            assert!(sorted, "{name}: out of order: {:?}", staying.received);
        }
        let mut reader = Peer::connect(&mut self.world, 0, &hello("reader", true, 0));
        reader.subscribe(&mut self.world, 1, "kept/#", 0);
        self.settle();
        let kept: Vec<u64> = reader
            .payloads(&mut self.world)
            .iter()
            .map(|payload| payload.parse().unwrap())
            .collect();
        let (least, most) = self.retained;
        let right = kept.iter().all(|kept| (least..=most).contains(kept));
        assert!(right && (least == 0 || kept.len() == 1), "{kept:?} of {least} to {most} is kept");
    }
}

/// A random run; returns how many messages were acknowledged.
pub fn simulate(seed: u64) -> usize {
    let mut house = House::new(seed, if seed % 4 == 1 { ASYNC } else { GATHER });
    // Subscribed before anything is published that is to come.
    for at in 0..STAYING.len() {
        house.join(at);
    }
    house.settle();
    for round in 0..house.rng.range(2, 5) {
        for _ in 0..house.rng.range(5, 120) {
            let at = house.rng.below(STAYING.len());
            if house.staying[at].peer.is_none() && house.rng.chance(100) {
                house.join(at);
            } else if house.rng.chance(30)
                && let Some(mut peer) = house.staying[at].peer.take()
            {
                peer.end(&mut house.world, End::Fin);
            }
            if house.rng.chance(700) {
                house.publish();
            }
            house.turn();
            if house.rng.chance(800) {
                house.listen();
            }
        }
        if house.rng.chance(300) {
            house.gone_stays_gone(round);
        } else {
            house.crash();
        }
    }
    house.check();
    house.acknowledged.len()
}

/// How a client with a will is before the power fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Connected,
    Gone,
    SaidGoodbye,
}

/// Wills survive power cuts, and are sent once; returns how many were.
pub fn simulate_wills(seed: u64) -> usize {
    let mut house = House::new(seed, GATHER);
    let mut watcher = Peer::connect(&mut house.world, 0, &hello("watcher", false, 5000));
    watcher.subscribe(&mut house.world, 1, "wills/#", 1);
    house.settle();
    watcher.hear(&mut house.world);
    let delay = [0, 20][house.rng.below(2)];
    let fates = [Fate::Connected, Fate::Gone, Fate::SaidGoodbye];
    let fate = fates[house.rng.below(3)];
    let mut connect = hello("mortal", false, 5000);
    connect.will = Some(crate::peer::will("wills/mortal", delay));
    let entry = house.rng.below(house.stores.len());
    let mut mortal = Peer::connect(&mut house.world, entry, &connect);
    house.settle();
    match fate {
        Fate::Connected => {}
        Fate::Gone => mortal.end(&mut house.world, End::Fin),
        Fate::SaidGoodbye => mortal.say_goodbye(&mut house.world),
    }
    house.pass(50);
    house.settle();
    let mut sent = wills(&mut house, &mut watcher);
    house.pass(50);
    house.settle();
    for _ in 0..2 {
        house.crash();
        watcher = Peer::connect(&mut house.world, 0, &hello("watcher", false, 5000));
        for _ in 0..60 {
            house.turn();
            house.world.advance(500);
            sent += wills(&mut house, &mut watcher);
        }
        house.pass(50);
        house.settle();
    }
    let expected = usize::from(fate != Fate::SaidGoodbye);
    assert_eq!(sent, expected, "wills of a client that was {fate:?}, with a delay of {delay} s");
    sent
}

/// A disk that fails: what would have to be stored is refused, and taken again when the disk works;
/// returns how many were refused.
pub fn simulate_failure(seed: u64) -> usize {
    let mut house = House::new(seed, GATHER);
    house.join(0);
    house.pass(50);
    house.settle();
    house.listen();
    let mut first = Peer::connect(&mut house.world, 0, &hello("first", true, 0));
    for store in &mut house.stores {
        store.disk.fails_at = Some((0, 60));
    }
    first.publish(&mut house.world, "m/1/x", b"1", 1, 1);
    house.pass(100);
    let told = first.hear(&mut house.world);
    let acknowledged = |got: &Got| matches!(got, Got::Ack(..));
    assert!(!told.iter().any(acknowledged), "it is told of what is not durable: {told:?}");
    let mut refused = 0;
    // The failure shows on the shard whose log has something to store: that of the subscriber.
    for entry in 0..house.stores.len() {
        if !house.world.nodes[entry].shard.is_storage_down() {
            continue;
        }
        let name = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"]
            .into_iter()
            .find(|name| house.world.nodes[entry].shard.is_home_of(name));
        let Some(name) = name else { continue };
        let mut peer = Peer::connect(&mut house.world, entry, &hello(name, true, 0));
        peer.publish(&mut house.world, "m/1/x", b"2", 1, 1);
        house.pass(20);
        let told = peer.hear(&mut house.world);
        let Some(Got::Ack(AckKind::PubAck, 1, reason)) = told.last() else { panic!("{told:?}") };
        assert_eq!(*reason as u8, 0x97, "{told:?}");
        peer.publish(&mut house.world, "m/1/x", b"3", 0, 0);
        peer.end(&mut house.world, End::Fin);
        refused += 1;
    }
    for store in &mut house.stores {
        store.disk.fails_at = None;
    }
    house.pass(2000);
    house.settle();
    let told = first.hear(&mut house.world);
    assert!(told.iter().any(acknowledged), "the disk works again: {told:?}");
    refused
}

/// A disk that fails while messages are acknowledged from memory: nothing is lost when it works
/// again before the power fails; returns how many were acknowledged meanwhile.
pub fn simulate_degraded(seed: u64) -> usize {
    let mut house = House::new(seed, DEGRADE);
    (0..STAYING.len()).for_each(|at| house.join(at));
    house.pass(50);
    house.settle();
    for staying in &mut house.staying {
        if let Some(mut peer) = staying.peer.take() {
            peer.end(&mut house.world, End::Fin);
        }
    }
    house.pass(50);
    house.settle();
    for store in &mut house.stores {
        store.disk.fails_at = Some((0, 100_000));
    }
    let before = house.acknowledged.len();
    for _ in 0..40 {
        house.publish();
        house.pass(3);
        house.listen();
    }
    // Past the second after which what hangs counts as failed, too.
    house.pass(1500);
    house.listen();
    let acknowledged = house.acknowledged.len() - before;
    assert!(acknowledged > 0, "nothing is acknowledged while the disk fails");
    for store in &mut house.stores {
        store.disk.fails_at = None;
    }
    house.pass(2000);
    house.settle();
    house.crash();
    house.check();
    acknowledged
}

#[test]
fn a_disk_that_fails_may_be_degraded_to_memory() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(20);
    let acknowledged: usize = (1..=seeds).map(simulate_degraded).sum();
    assert!(acknowledged as u64 > 5 * seeds, "{acknowledged} messages in {seeds} runs");
}

#[test]
fn a_disk_that_fails_refuses_what_would_have_to_be_stored() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(20);
    let refused: usize = (1..=seeds).map(simulate_failure).sum();
    assert!(refused as u64 > seeds / 3, "{refused} messages refused in {seeds} runs");
}

/// Takes the wills that have come.
fn wills(house: &mut House, watcher: &mut Peer) -> usize {
    let mut count = 0;
    for got in watcher.hear(&mut house.world) {
        if let Got::Publish { payload, id, .. } = got {
            assert_eq!(payload, b"gone");
            watcher.ack(&mut house.world, AckKind::PubAck, id);
            count += 1;
        }
    }
    count
}

#[test]
fn wills_survive_power_cuts_and_are_sent_once() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(60);
    let sent: usize = (1..=seeds).map(simulate_wills).sum();
    assert!(sent as u64 > seeds / 3, "{sent} wills in {seeds} runs");
}

#[test]
fn what_clients_were_told_survives_power_cuts() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(60);
    let messages: usize = (1..=seeds).map(simulate).sum();
    assert!(messages as u64 > 20 * seeds, "{messages} messages in {seeds} runs");
}
