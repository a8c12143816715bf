//! The broker is replaced by another process in the middle of everything, with another number of
//! shards, or the other process fails and the old one goes on. Clients must not notice: the order
//! of messages, exactly once for QoS 2 and, as no connection breaks, for QoS 1 as well.

use crate::net::Faults;
use crate::peer::{Got, Peer, hello};
use crate::rng::Rng;
use crate::scripted::fine;
use crate::settings::roomy;
use crate::world::{Node, Plan, World, layered_entrance};
use ringmq::ids::ListenerId;
use ringmq::packet::AckKind;
use ringmq::shard::{PackCursor, Packed, Settings, home_of, retained_home};
use ringmq::topic::TopicHash;
use ringmq::transport::Stack;
use ringmq::upgrade::Frame;

/// What is handed over, through the bytes of the protocol.
fn through_bytes(frame: &Frame) -> Frame {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).expect("it is not too long");
    let (frame, length) = Frame::read(&bytes).expect("a frame").expect("a whole one");
    assert_eq!(length, bytes.len());
    frame
}

impl World {
    /// Suspends all shards and lets them finish what is under way, while `beside` goes on; false
    /// when they do not.
    fn rest(&mut self, beside: &mut impl FnMut(&mut World)) -> bool {
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
            beside(self);
            if self.nodes.iter().all(Node::rests) {
                return true;
            }
        }
        false
    }

    fn go_on_resting(&mut self) {
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
    /// what `prepare` gives it.
    pub fn upgrade_beside(
        &mut self,
        plan: Plan,
        fails: bool,
        beside: &mut impl FnMut(&mut World),
        prepare: impl FnOnce(&mut World),
    ) -> bool {
        if !self.rest(beside) {
            self.go_on_resting();
            return false;
        }
        let shards = plan.shards;
        let mut new = World::new(plan);
        new.take_time_of(self);
        new.rest(&mut |_| {});
        prepare(&mut new);
        for node in &mut self.nodes {
            for (socket, outgoing, rest) in node.driver.withdraw() {
                node.shard.withdrawn(socket, outgoing, rest);
            }
        }
        for at in 0..self.nodes.len() {
            let mut cursor = PackCursor::default();
            while let Some(packed) = self.nodes[at].shard.pack_next(&mut cursor) {
                let conn = match &packed {
                    Packed::Online(socket, _) => Some(self.nodes[at].driver.conn(*socket)),
                    _ => None,
                };
                new.adopt(packed, conn);
            }
        }
        // The members of share groups are told of.
        std::mem::swap(&mut self.conns, &mut new.conns);
        assert!(new.rest(&mut |_| {}), "the new shards come to rest");
        std::mem::swap(&mut self.conns, &mut new.conns);
        for node in self.nodes.iter_mut().chain(&mut new.nodes) {
            assert_eq!(node.shard.check_stored(), Ok(()));
            let changed = node.shard.storage_commands().count();
            assert_eq!(changed, 0, "the disk is changed while two have it");
        }
        if fails {
            self.go_on_resting();
            return false;
        }
        for node in &mut new.nodes {
            node.driver.suspended = false;
            node.shard.serve_adopted();
        }
        let accepts: Vec<_> =
            self.nodes.iter_mut().flat_map(|node| node.driver.accepts.drain(..)).collect();
        for (at, accept) in accepts.into_iter().enumerate() {
            new.nodes[at % shards].driver.accepts.push_back(accept);
        }
        self.nodes = new.nodes;
        self.shared = new.shared;
        self.listener_states = new.listener_states;
        self.tickets = new.tickets;
        (0..self.nodes.len()).for_each(|at| self.wake(at));
        true
    }

    fn adopt(&mut self, packed: Packed, conn: Option<usize>) {
        let shards = self.nodes.len() as u8;
        let seeds = self.shared.seeds.clone();
        let frame = match packed {
            Packed::Online(_, client) | Packed::Offline(client) => Frame::Client(client),
            Packed::Retained(messages) => Frame::Retained(messages),
            Packed::Bans(bans) => Frame::Bans(bans),
        };
        match through_bytes(&frame) {
            Frame::Client(client) => {
                let name = client.session.as_ref().map_or("", |session| &*session.client_id);
                let home = home_of(&seeds, name, shards);
                let node = &mut self.nodes[usize::from(home.0)];
                let connection = conn.map(|conn| (node.driver.adopt(conn), ListenerId(0)));
                node.shard.adopt(*client, connection).expect("it has room");
            }
            Frame::Retained(messages) => {
                for message in messages {
                    let hash = TopicHash::new(&seeds, message.view().topic);
                    let home = retained_home(&hash, shards);
                    self.nodes[usize::from(home.0)].shard.adopt_retained(message);
                }
            }
            Frame::Bans(bans) => self.nodes[0].shard.adopt_bans(bans),
            _ => panic!("another frame"),
        }
    }
}

/// A process with so many shards, whose clients come through those layers.
pub fn plan(seed: u64, shards: usize, settings: Settings, faults: Faults, stack: Stack) -> Plan {
    let listener_states = vec![layered_entrance("", stack)];
    Plan { seed, shards, data: 8, control: 8, settings, faults, listener_states }
}

/// One publisher of a topic at each QoS, and who reads it.
struct Pair {
    publisher: Peer,
    subscriber: Peer,
    topic: String,
    qos: u8,
    sent: u16,
    got: Vec<u16>,
}

impl Pair {
    fn new(world: &mut World, number: usize, qos: u8) -> Pair {
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

    /// Answers what has come, as a client does.
    fn hear(&mut self, world: &mut World) {
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
fn patient() -> Settings {
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
            0..=4 => {
                pair.sent += 1;
                let payload = pair.sent.to_be_bytes();
                let topic = pair.topic.clone();
                pair.publisher.publish(&mut world, &topic, &payload, pair.qos, pair.sent);
            }
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
    for _ in 0..200 {
        world.settle();
        pairs.iter_mut().for_each(|pair| pair.hear(&mut world));
    }
    for pair in &pairs {
        let all: Vec<u16> = (1..=pair.sent).collect();
        assert_eq!(pair.got, all, "seed {seed}, QoS {}", pair.qos);
        assert!(!pair.publisher.is_closed(&world) && !pair.subscriber.is_closed(&world));
    }
    fine(&world);
    (done, failed)
}

#[test]
fn clients_do_not_notice_that_the_broker_is_replaced_in_the_middle_of_their_messages() {
    let runs = (1..=60).map(simulate);
    let (done, failed) = runs.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    println!("{done} upgrades, {failed} that failed");
    assert!(done > 200 && failed > 50, "{done} upgrades, {failed} that failed");
}
