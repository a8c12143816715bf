//! The broker is replaced by another process in the middle of everything, with another number of
//! shards, or the other process fails and the old one goes on. Clients must not notice: the order
//! of messages, exactly once for QoS 2 and, as no connection breaks, for QoS 1 as well.

use crate::cluster::whole::Bells;
use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello};
use crate::rng::Rng;
use crate::scripted::fine;
use crate::settings::roomy;
use crate::world::{Node, Plan, World, layered_entrance};
use bytes::Bytes;
use ringmq::cluster::node::{Engine, To};
use ringmq::ids::{ListenerId, ShardId};
use ringmq::packet::AckKind;
use ringmq::shard::{
    Action, ComingRetained, DueCopies, Inventory, PackCursor, Packed, Settings, home_of,
    retained_home,
};
use ringmq::telemetry::{Counters, Descriptor, MetricKind};
use ringmq::time::Instant;
use ringmq::topic::TopicHash;
use ringmq::transport::Stack;
use ringmq::upgrade::UpgradeFrame;
use ringmq::upgrade::cluster::MovedNode;
use ringmq::upgrade::frame::UpgradeTotals;
use ringmq::upgrade::homes::CopiedHomes;

/// What is handed over, through the bytes of the protocol.
fn through_bytes(frame: &UpgradeFrame) -> UpgradeFrame {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).expect("it is not too long");
    let (frame, length) = UpgradeFrame::read(&bytes).expect("a frame").expect("a whole one");
    assert_eq!(length, bytes.len());
    frame
}

impl World {
    /// Suspends all shards and lets them finish what is under way, while `beside` goes on; false
    /// when they do not.
    pub fn rest(&mut self, beside: &mut impl FnMut(&mut World)) -> bool {
        for at in 0..self.nodes.len() {
            self.finish(at);
            self.nodes[at].shard.suspend();
            self.nodes[at].driver.suspended = true;
        }
        for _ in 0..2000 {
            for at in 0..self.nodes.len() {
                self.step(at);
                self.finish(at);
            }
            self.step_waiting();
            beside(self);
            if self.nodes.iter().all(Node::rests) {
                return true;
            }
        }
        false
    }

    /// What the shards have under way.
    pub fn under_way(&self) -> Option<&'static str> {
        self.nodes.iter().find_map(|node| node.shard.under_way())
    }

    /// What waits for a node's place listens to its shards.
    fn step_waiting(&mut self) {
        if let Some(mut junction) = self.junction.take() {
            junction.step(Instant(self.now), &mut Nowhere, &mut Bells(self));
            self.junction = Some(junction);
        }
    }

    pub fn go_on_resting(&mut self) {
        self.forget_copies();
        for node in &mut self.nodes {
            node.driver.suspended = false;
            node.shard.go_on_after_suspension();
        }
        (0..self.nodes.len()).for_each(|at| self.wake(at));
    }

    /// Hands everything over to a new process of that plan; `fails`: and then it dies. False when
    /// this one goes on.
    pub fn upgrade(&mut self, plan: Plan, fails: bool) -> bool {
        self.upgrade_beside(plan, fails, &mut |_| {}, |_| {})
    }

    /// The same, where `beside` has to go on for the shards to come to rest, and new begins with
    /// what `prepare` gives it. Every second time, all clients are copied before.
    pub fn upgrade_beside(
        &mut self,
        plan: Plan,
        fails: bool,
        beside: &mut impl FnMut(&mut World),
        prepare: impl FnOnce(&mut World),
    ) -> bool {
        let mut successor = self.start_successor(plan);
        if self.steps.is_multiple_of(2) {
            self.copy_to(&mut successor, usize::MAX);
        }
        self.hand_over_to(successor, fails, beside, prepare)
    }

    /// A new process, which has nothing yet.
    pub fn start_successor(&mut self, plan: Plan) -> Successor {
        self.successor_in(World::new(plan))
    }

    /// The same, in that world.
    pub fn successor_in(&mut self, mut world: World) -> Successor {
        world.take_time_of(self);
        world.rest(&mut |_| {});
        Successor {
            world,
            homes: CopiedHomes::default(),
            told: Vec::new(),
            begun: false,
            node: None,
        }
    }

    /// Copies up to about so many clients of each shard that were not copied yet, or have changed.
    pub fn copy_to(&mut self, successor: &mut Successor, most: usize) {
        let begun = std::mem::replace(&mut successor.begun, true);
        for at in 0..self.nodes.len() {
            self.finish(at);
            let node = &mut self.nodes[at];
            match begun {
                true => drop(node.shard.look_for_changes()),
                false => node.shard.begin_copies(),
            }
            let mut copied = 0;
            while let Some(due) = node.shard.next_copies(most.min(8)) {
                let DueCopies { sockets, packed, .. } = due;
                copied += sockets.len() + packed.len();
                for packed in packed {
                    successor.adopt(packed, None);
                }
                for socket in sockets {
                    let conn = node.driver.conn(socket);
                    let Some(early) = node.shard.pack_early(socket) else { continue };
                    successor.adopt(Packed::Early(Box::new(early)), Some(conn));
                }
                if copied >= most {
                    break;
                }
            }
        }
        self.let_rest(successor);
    }

    /// The new process has failed: what was copied is of no use.
    fn forget_copies(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.shard.forget_all_early());
    }

    /// The new process goes by the time of this one, and its shards tell each other what they have
    /// to.
    fn let_rest(&mut self, successor: &mut Successor) {
        successor.world.take_time_of(self);
        std::mem::swap(&mut self.conns, &mut successor.world.conns);
        assert!(successor.world.rest(&mut |_| {}), "the new shards come to rest");
        std::mem::swap(&mut self.conns, &mut successor.world.conns);
    }

    /// How many sessions, connections and retained messages there are to be handed over.
    fn inventory(&self) -> UpgradeTotals {
        let mut all = UpgradeTotals::default();
        for node in &self.nodes {
            let Inventory { sessions, connections, retained, .. } = node.shard.inventory();
            all.add(&UpgradeTotals { sessions, connections, retained });
        }
        all
    }

    /// Hands everything over to a new process, to which clients may have been copied.
    pub fn hand_over_to(
        &mut self,
        mut successor: Successor,
        fails: bool,
        beside: &mut impl FnMut(&mut World),
        prepare: impl FnOnce(&mut World),
    ) -> bool {
        if !self.rest(beside) {
            self.go_on_resting();
            return false;
        }
        self.let_rest(&mut successor);
        prepare(&mut successor.world);
        for node in &mut self.nodes {
            for (socket, outgoing, rest) in node.driver.withdraw() {
                node.shard.withdrawn(socket, outgoing, rest);
            }
        }
        let mut sent = UpgradeTotals::default();
        for node in &mut self.nodes {
            let mut cursor = PackCursor::default();
            while let Some(packed) = node.shard.pack_next(&mut cursor) {
                sent.add(&packed.adds());
                let conn = match &packed {
                    Packed::Online(socket, _) => Some(node.driver.conn(*socket)),
                    _ => None,
                };
                successor.adopt(packed, conn);
            }
            sent.add(&node.shard.copies());
        }
        for node in &self.nodes {
            assert_eq!(node.shard.unnoticed_changes(), Vec::<u32>::new(), "changes go unnoticed");
        }
        assert_eq!(sent, self.inventory(), "what is sent is what there is");
        successor.end_stale(sent);
        // The members of share groups are told of.
        self.let_rest(&mut successor);
        self.take_node(&mut successor);
        let mut new = successor.world;
        for node in self.nodes.iter_mut().chain(&mut new.nodes) {
            assert_eq!(node.shard.check_stored(), Ok(()));
            let changed = node.shard.storage_commands().count();
            assert_eq!(changed, 0, "the disk is changed while two have it");
        }
        if fails {
            self.go_on_resting();
            return false;
        }
        let before = self.counted();
        self.become_successor(new);
        let counted = self.counted().into_iter().zip(before);
        assert!(counted.into_iter().all(|(after, before)| after >= before), "counters fall");
        true
    }

    /// The new process takes the place of a node.
    fn take_node(&mut self, successor: &mut Successor) {
        let Some(node) = successor.node.take() else { return };
        let UpgradeFrame::Node(node) = through_bytes(&UpgradeFrame::Node(node)) else { panic!() };
        let junction = successor.world.junction.as_mut().expect("it waits");
        junction.unpack(*node, Instant(self.now)).expect("a place for it");
        self.let_rest(successor);
    }

    /// What all shards have counted that only grows.
    fn counted(&self) -> Vec<u64> {
        let mut all = Counters::default();
        self.nodes.iter().for_each(|node| all.add(&node.shard.figures()));
        let grows = |about: &Descriptor| about.kind == MetricKind::Counter;
        all.iter().filter(|(about, _)| grows(about)).map(|(_, value)| value).collect()
    }

    /// The new process serves from now on. Connections that it was not given end with this one.
    fn become_successor(&mut self, mut new: World) {
        let kept: Vec<usize> = new.nodes.iter().flat_map(|node| node.driver.conns()).collect();
        for conn in self.nodes.iter().flat_map(|node| node.driver.conns()) {
            if !kept.contains(&conn) {
                self.conns[conn].end(End::Reset, Instant(self.now));
                self.conns[conn].clear_up();
            }
        }
        for node in &mut new.nodes {
            node.driver.suspended = false;
            node.shard.serve_adopted();
        }
        let accepts: Vec<_> =
            self.nodes.iter_mut().flat_map(|node| node.driver.accepts.drain(..)).collect();
        let shards = new.nodes.len();
        for (at, accept) in accepts.into_iter().enumerate() {
            new.nodes[at % shards].driver.accepts.push_back(accept);
        }
        self.nodes = new.nodes;
        self.shared = new.shared;
        self.listener_states = new.listener_states;
        self.tickets = new.tickets;
        self.junction = new.junction;
        (0..self.nodes.len()).for_each(|at| self.wake(at));
    }

    /// This process suspends its shards and dies when it has sent so many pieces, at least one. The
    /// new one serves what has come, and all other connections end. False when the shards did not
    /// come to rest, and this process goes on.
    pub fn die_handing_over(&mut self, successor: Successor, pieces: usize) -> bool {
        let end = self.die_beside(successor, Sent::First(pieces.max(1)), &mut |_| {}, |_| {});
        assert_ne!(end, DeathOfOld::NobodyServes, "there is no store that could have more");
        matches!(end, DeathOfOld::NewServes { .. })
    }

    /// The same, where `beside` has to go on for the shards to come to rest, and new begins with
    /// what `prepare` gives it: it does not serve if it lacks something of that.
    pub fn die_beside(
        &mut self,
        mut successor: Successor,
        sent: Sent,
        beside: &mut impl FnMut(&mut World),
        prepare: impl FnOnce(&mut World),
    ) -> DeathOfOld {
        if !self.rest(beside) {
            self.go_on_resting();
            return DeathOfOld::Survives;
        }
        self.let_rest(&mut successor);
        prepare(&mut successor.world);
        for node in &mut self.nodes {
            for (socket, outgoing, rest) in node.driver.withdraw() {
                node.shard.withdrawn(socket, outgoing, rest);
            }
        }
        self.send_some(&mut successor, sent);
        let (told, shards) = (std::mem::take(&mut successor.told), self.nodes.len() as u8);
        for node in &mut successor.world.nodes {
            node.shard.end_stale(&told, shards);
        }
        successor.discard_closed();
        self.let_rest(&mut successor);
        self.take_node(&mut successor);
        let mut nodes = successor.world.nodes.iter();
        if nodes.any(|node| node.shard.check_stored().is_err()) {
            return DeathOfOld::NobodyServes;
        }
        let lacks = self.inventory().retained - successor.world.inventory().retained;
        self.become_successor(successor.world);
        DeathOfOld::NewServes { lacks }
    }

    /// Sends a part of the pieces.
    fn send_some(&mut self, successor: &mut Successor, sent: Sent) {
        let mut pieces = Vec::new();
        for node in &mut self.nodes {
            let mut cursor = PackCursor::default();
            while sent != Sent::First(pieces.len())
                && let Some(packed) = node.shard.pack_next(&mut cursor)
            {
                let conn = match &packed {
                    Packed::Online(socket, _) => Some(node.driver.conn(*socket)),
                    _ => None,
                };
                pieces.push((packed, conn));
            }
        }
        if let Sent::AllBut(missing) = sent {
            pieces.truncate(pieces.len().saturating_sub(missing).max(1));
        }
        for (packed, conn) in pieces {
            successor.adopt(packed, conn);
        }
    }
}

/// What of its pieces a process has sent that dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    First(usize),
    AllBut(usize),
}

/// What has become of an upgrade whose old process dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeathOfOld {
    /// It did not come to rest, and goes on.
    Survives,
    /// The new process serves, and lacks so many retained messages.
    NewServes { lacks: u64 },
    /// The new process lacks something that is stored: the next start has it.
    NobodyServes,
}

/// Another process that is to take over, and what was copied to it.
pub struct Successor {
    world: World,
    /// Which of its shards has a client, by what it was copied as.
    homes: CopiedHomes,
    /// The shards that have said which of their copies are not right.
    told: Vec<ShardId>,
    /// Copying has begun.
    begun: bool,
    /// What the old process has packed of a node.
    pub node: Option<Box<MovedNode>>,
}

/// Nothing is sent by a process that waits for a node's place.
struct Nowhere;

impl Engine for Nowhere {
    fn send(&mut self, _: To<'_>, _: Bytes) {
        panic!("two processes speak as one node");
    }
}

impl Successor {
    fn home(&self, name: &str) -> usize {
        let shards = self.world.nodes.len() as u8;
        usize::from(home_of(&self.world.shared.seeds, name, shards).0)
    }

    /// The shard that has a copy, and its number there.
    fn copy(&self, from: ShardId, number: u32) -> (usize, u32) {
        let (home, number) = self.homes.find(from, number).expect("it was copied");
        (usize::from(home.0), number)
    }

    fn adopt(&mut self, packed: Packed, conn: Option<usize>) {
        let mut known = None;
        let frame = match packed {
            Packed::Online(_, client) | Packed::Offline(client) => UpgradeFrame::Client(client),
            Packed::Known(from, number, client) => {
                known = Some((from, number));
                UpgradeFrame::Client(client)
            }
            Packed::Rest(rest) => UpgradeFrame::Rest(rest),
            Packed::Early(early) => UpgradeFrame::Early(early),
            Packed::Gone(from, numbers) => UpgradeFrame::Gone(from, numbers),
            Packed::Stale(from, numbers, retained) => UpgradeFrame::Stale(from, numbers, retained),
            Packed::Retained(messages) => UpgradeFrame::Retained(messages),
            Packed::Unretained(topics) => UpgradeFrame::Unretained(topics),
            Packed::Counters(from, counted) => UpgradeFrame::Counters(from, counted),
            Packed::Offences(clients, networks) => UpgradeFrame::Offences(clients, networks),
            Packed::Bans(bans) => UpgradeFrame::Bans(bans),
        };
        self.take(through_bytes(&frame), known, conn);
        self.discard_closed();
    }

    fn take(&mut self, frame: UpgradeFrame, known: Option<(ShardId, u32)>, conn: Option<usize>) {
        match frame {
            UpgradeFrame::Client(client) => {
                let name = client.session.as_ref().map_or("", |session| &*session.client_id);
                let known = known.map(|(from, number)| (from, self.copy(from, number)));
                let at = known.map_or_else(|| self.home(name), |(_, (at, _))| at);
                let node = &mut self.world.nodes[at];
                if let Some((from, (_, number))) = known {
                    let listener = client.connection.as_ref().map(|_| ListenerId(0));
                    let again = node.shard.adopt_again(from, number, *client, listener);
                    return again.expect("it was copied");
                }
                let connection = conn.map(|conn| (node.driver.adopt(conn), ListenerId(0)));
                node.shard.adopt(*client, connection).expect("it has room");
            }
            UpgradeFrame::Early(mut early) => {
                let at = self.home(&early.client_id);
                let number = self.homes.add(early.from, early.number, ShardId(at as u8));
                early.number = number.expect("copies come in order");
                let node = &mut self.world.nodes[at];
                let connection = conn.map(|conn| (node.driver.adopt(conn), ListenerId(0)));
                node.shard.adopt_early(*early, connection).expect("it has room");
            }
            UpgradeFrame::Rest(mut rest) => {
                let (at, number) = self.copy(rest.from, rest.number);
                rest.number = number;
                let shard = &mut self.world.nodes[at].shard;
                shard.adopt_rest(*rest, ListenerId(0)).expect("it was copied");
            }
            UpgradeFrame::Gone(from, numbers) => {
                for number in numbers {
                    let (at, number) = self.copy(from, number);
                    let shard = &mut self.world.nodes[at].shard;
                    shard.end_early(from, number).expect("it was copied");
                }
            }
            UpgradeFrame::Stale(from, numbers, _) => {
                self.told.push(from);
                for number in numbers {
                    let (at, number) = self.copy(from, number);
                    let shard = &mut self.world.nodes[at].shard;
                    shard.mark_stale(from, number).expect("it was copied");
                }
            }
            UpgradeFrame::Retained(messages) => {
                for (counts, message) in messages {
                    let topic: Box<str> = message.view().topic.into();
                    self.retained(&topic, ComingRetained::Set(counts, message));
                }
            }
            UpgradeFrame::Unretained(topics) => {
                for topic in topics {
                    self.retained(&topic.clone(), ComingRetained::Gone(topic));
                }
            }
            UpgradeFrame::Counters(from, counted) => {
                let at = usize::from(from.0) % self.world.nodes.len();
                self.world.nodes[at].shard.adopt_counters(counted);
            }
            UpgradeFrame::Offences(clients, networks) => {
                for node in &mut self.world.nodes {
                    node.shard.adopt_offences(clients.clone(), Vec::new());
                }
                self.world.nodes[0].shard.adopt_offences(Vec::new(), networks);
            }
            UpgradeFrame::Bans(bans) => self.world.nodes[0].shard.adopt_bans(bans),
            _ => panic!("another frame"),
        }
    }

    fn retained(&mut self, topic: &str, coming: ComingRetained) {
        let hash = TopicHash::new(&self.world.shared.seeds, topic);
        let home = retained_home(&hash, self.world.nodes.len() as u8);
        self.world.nodes[usize::from(home.0)].shard.adopt_retained(coming);
    }

    /// Everything has come.
    fn end_stale(&mut self, sent: UpgradeTotals) {
        for node in &mut self.world.nodes {
            let shards = self.told.len() as u8;
            assert_eq!(node.shard.end_stale(&self.told, shards), 0, "a change has not come");
        }
        self.discard_closed();
        let mut held = UpgradeTotals::default();
        self.world.nodes.iter().for_each(|node| held.add(&node.shard.taken_in()));
        assert_eq!(held, sent, "everything has come");
    }

    /// What has gone is the old process's to end.
    fn discard_closed(&mut self) {
        for node in &mut self.world.nodes {
            let all: Vec<Action> = node.shard.actions().drain(..).collect();
            for action in all {
                match action {
                    Action::Close(socket) => node.driver.discard(socket),
                    action => node.shard.actions().push(action),
                }
            }
        }
    }
}

/// A process with so many shards, whose clients come through those layers.
pub fn plan(seed: u64, shards: usize, settings: Settings, faults: Faults, stack: Stack) -> Plan {
    let listener_states = vec![layered_entrance("", stack)];
    Plan { seed, shards, data: 8, control: 8, settings, faults, listener_states }
}

/// One publisher of a topic at each QoS, and who reads it.
pub struct Pair {
    publisher: Peer,
    subscriber: Peer,
    topic: String,
    qos: u8,
    sent: u16,
    got: Vec<u16>,
}

impl Pair {
    pub fn new(world: &mut World, number: usize, qos: u8) -> Pair {
        let topic = format!("t/{number}");
        let shards = world.nodes.len();
        let names = [format!("p{number}"), format!("s{number}")];
        let publisher = Peer::connect(world, number % shards, &hello(&names[0], true, 0));
        let expiry = if number.is_multiple_of(2) { 60 } else { 0 };
        let mut subscriber = Peer::connect(world, 0, &hello(&names[1], false, expiry));
        subscriber.subscribe(world, 1, &topic, qos);
        subscriber.take(world);
        Pair { publisher, subscriber, topic, qos, sent: 0, got: Vec::new() }
    }

    /// Publishes the next number.
    pub fn say(&mut self, world: &mut World) {
        self.sent += 1;
        let (payload, topic) = (self.sent.to_be_bytes(), self.topic.clone());
        self.publisher.publish(world, &topic, &payload, self.qos, self.sent);
    }

    /// Everything has come, once and in order.
    pub fn check(&self, world: &World, seed: u64) {
        let all: Vec<u16> = (1..=self.sent).collect();
        assert_eq!(self.got, all, "seed {seed}, QoS {}", self.qos);
        assert!(!self.publisher.is_closed(world) && !self.subscriber.is_closed(world));
    }

    /// Answers what has come, as a client does.
    pub fn hear(&mut self, world: &mut World) {
        for got in self.subscriber.hear(world) {
            match got {
                Got::Publish { payload, dup, qos, id, .. } => {
                    assert!(!dup, "no connection broke");
                    self.got.push(u16::from_be_bytes([payload[0], payload[1]]));
                    match qos {
                        0 => {}
                        1 => self.subscriber.ack(world, AckKind::PubAck, id),
                        _ => self.subscriber.ack(world, AckKind::PubRec, id),
                    }
                }
                Got::Ack(AckKind::PubRel, id, _) => {
                    self.subscriber.ack(world, AckKind::PubComp, id);
                }
                other => panic!("{other:?}"),
            }
        }
        for got in self.publisher.hear(world) {
            if let Got::Ack(AckKind::PubRec, id, _) = got {
                self.publisher.ack(world, AckKind::PubRel, id);
            }
        }
    }
}

/// A publisher may have all that it sends in flight.
pub fn patient() -> Settings {
    Settings { receive_maximum: 1000, ..roomy() }
}

/// One run; how many upgrades there were, and how many that failed.
pub fn simulate(seed: u64) -> (usize, usize) {
    let (mut done, mut failed) = (0, 0);
    let mut rng = Rng::new(seed);
    let shards = rng.range(1, 4);
    let faults = Faults { receive: 64, late: 200, split: 300, torn: 200, ..Faults::default() };
    let plan = |shards| plan(seed, shards, patient(), faults, Stack::default());
    let mut world = World::new(plan(shards));
    let mut pairs: Vec<Pair> =
        (0..6).map(|number| Pair::new(&mut world, number, (number % 3) as u8)).collect();
    for _ in 0..400 {
        let pair = rng.below(pairs.len());
        let pair = &mut pairs[pair];
        match rng.below(10) {
            0..=4 => pair.say(&mut world),
            5..=6 => pair.hear(&mut world),
            7..=8 => {
                for _ in 0..rng.below(8) {
                    let at = rng.below(world.nodes.len());
                    world.step(at);
                }
            }
            _ if rng.chance(300) => {
                let (shards, fails) = (rng.range(1, 4), rng.chance(300));
                match world.upgrade(plan(shards), fails) {
                    true => done += 1,
                    false => failed += 1,
                }
            }
            _ => {}
        }
    }
    finish(&mut world, &mut pairs, seed);
    (done, failed)
}

/// All that was sent has come, once and in order, and the shards are in order.
pub fn finish(world: &mut World, pairs: &mut [Pair], seed: u64) {
    for _ in 0..200 {
        world.settle();
        pairs.iter_mut().for_each(|pair| pair.hear(world));
    }
    pairs.iter().for_each(|pair| pair.check(world, seed));
    fine(world);
}

#[test]
fn clients_do_not_notice_that_the_broker_is_replaced_in_the_middle_of_their_messages() {
    let runs = (1..=60).map(simulate);
    let (done, failed) = runs.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    println!("{done} upgrades, {failed} that failed");
    assert!(done > 200 && failed > 50, "{done} upgrades, {failed} that failed");
}

/// Timers that do not fire are no reason to stay awake: the other process needs the core.
#[test]
pub fn a_suspended_shard_sleeps() {
    let mut world = World::new(plan(1, 2, patient(), Faults::default(), Stack::default()));
    let _pair = Pair::new(&mut world, 0, 1);
    let due = |world: &World| {
        let now = Instant(world.now);
        world.nodes.iter().any(|node| node.shard.deadline().is_some_and(|at| at <= now))
    };
    assert!(world.rest(&mut |_| {}));
    world.advance(3_600_000);
    assert!(!due(&world));
    world.go_on_resting();
    assert!(due(&world));
}
