//! Clients that publish to themselves, or to each other, with queues that are soon crowded. Time
//! stands still: whoever waits for a time-out waits for ever.

use crate::peer::{Got, Peer, hello};
use crate::scripted::{fine, group_on, name_on, world};
use crate::settings::roomy;
use crate::world::World;
use ringmq::config::OnFull;
use ringmq::limits::HELD_INPUT;
use ringmq::packet::{AckKind, Connect, Version};
use ringmq::session::pending::PendingBounds;
use ringmq::shard::Settings;

/// Publishes with so many on the way, and takes what comes.
struct Echo {
    peer: Peer,
    to: &'static str,
    qos: u8,
    window: u32,
    sent: u32,
    open: u32,
    got: Vec<u32>,
}

const TOTAL: u32 = 1200;

impl Echo {
    fn new(world: &mut World, shard: usize, connect: &Connect<'_>, filter: &str, qos: u8) -> Echo {
        let mut peer = Peer::connect(world, shard, connect);
        peer.subscribe(world, 1, filter, qos);
        let got = peer.take(world);
        assert!(matches!(got[..], [Got::ConnAck { .. }, Got::SubAck(..)]), "{got:?}");
        Echo { peer, to: "a", qos, window: 0, sent: 0, open: 0, got: Vec::new() }
    }

    /// Writes what it may, then answers what has come: the answers are behind what it writes.
    fn turn(&mut self, world: &mut World) -> bool {
        let before = self.sent;
        while self.sent < TOTAL && self.open < self.window {
            let number = (self.sent % 60_000) as u16 + 1;
            self.peer.publish(world, self.to, self.sent.to_string().as_bytes(), self.qos, number);
            self.sent += 1;
            self.open += 1;
        }
        let all = self.peer.take(world);
        for got in &all {
            match got {
                Got::Publish { payload, qos, id, .. } => {
                    self.got.push(str::from_utf8(payload).unwrap().parse().unwrap());
                    let kind = if *qos == 1 { AckKind::PubAck } else { AckKind::PubRec };
                    self.peer.ack(world, kind, *id);
                }
                Got::Ack(AckKind::PubRec, id, _) => self.peer.ack(world, AckKind::PubRel, *id),
                Got::Ack(AckKind::PubRel, id, _) => self.peer.ack(world, AckKind::PubComp, *id),
                Got::Ack(..) => self.open -= 1,
                other => panic!("{other:?}"),
            }
        }
        self.sent > before || !all.is_empty()
    }

    fn is_done(&self) -> bool {
        self.sent == TOTAL && self.open == 0
    }
}

fn run(world: &mut World, echoes: &mut [Echo], lossless: bool) {
    let mut moved = true;
    while moved {
        moved = false;
        for echo in &mut *echoes {
            moved |= echo.turn(world);
        }
    }
    let counters = world.counters();
    let dropped = counters.dropped_queue_full + counters.dropped_share_full;
    let got: usize = echoes.iter().map(|echo| echo.got.len()).sum();
    for echo in &*echoes {
        assert!(echo.is_done(), "stands still: {} sent, {} open", echo.sent, echo.open);
        assert!(echo.got.is_sorted(), "order");
    }
    assert_eq!(got as u64 + dropped, u64::from(TOTAL) * echoes.len() as u64);
    assert!(!lossless || dropped == 0, "{dropped} dropped");
    assert!(world.counters().parks_publisher > 0, "nobody was parked");
    assert_eq!(world.counters().inflight, 0);
    fine(world);
}

fn short(pending: usize) -> Settings {
    let pending = PendingBounds { messages: pending, bytes: 1 << 20, on_full: OnFull::DropOldest };
    Settings { pending, max_inflight: 4, receive_maximum: 1000, ..roomy() }
}

fn all() -> impl Iterator<Item = (Version, u8, usize, u32)> {
    let sizes = [(10, 20), (100, 100), (1000, 700)];
    let kinds = [(Version::V311, 1), (Version::V311, 2), (Version::V5, 1), (Version::V5, 2)];
    kinds.into_iter().flat_map(move |(v, qos)| sizes.map(|(pending, open)| (v, qos, pending, open)))
}

#[test]
fn who_publishes_to_itself_does_not_wait_for_itself() {
    for (version, qos, pending, window) in all() {
        let mut world = world(1, short(pending));
        let connect = Connect { version, ..hello("a", true, 0) };
        let mut echo = Echo::new(&mut world, 0, &connect, "a", qos);
        echo.window = window;
        run(&mut world, &mut [echo], true);
    }
}

#[test]
fn who_publishes_to_itself_through_a_group_elsewhere_does_not_wait_for_itself() {
    for (version, qos, pending, window) in all() {
        let mut world = world(2, short(pending));
        let group = group_on(1, 2, "a");
        let name = name_on(0, 2, "a");
        let connect = Connect { version, ..hello(&name, true, 0) };
        let mut echo = Echo::new(&mut world, 0, &connect, &group, qos);
        echo.window = window;
        // What is on the way between shards when it is parked may find a short queue full.
        run(&mut world, &mut [echo], pending > 2 * window as usize);
    }
}

#[test]
fn two_that_publish_to_each_other_do_not_wait_for_each_other() {
    for (version, qos, pending, window) in all() {
        for shards in [1, 2] {
            let mut world = world(shards, short(pending));
            let names =
                [name_on(0, shards as u8, "a"), name_on(shards as u8 - 1, shards as u8, "b")];
            let [a, b] = [0, 1].map(|at| Connect { version, ..hello(&names[at], true, 0) });
            let mut a = Echo::new(&mut world, 0, &a, "a", qos);
            let mut b = Echo::new(&mut world, 0, &b, "b", qos);
            (a.to, b.to, a.window, b.window) = ("b", "a", window, window);
            run(&mut world, &mut [a, b], shards == 1);
        }
    }
}

/// A client that is parked for itself, with one message in flight to it and more pending.
fn parked(world: &mut World, name: &str) -> Peer {
    let mut narrow = hello(name, true, 0);
    narrow.properties.receive_maximum = Some(1);
    let mut peer = Peer::connect(world, 0, &narrow);
    peer.subscribe(world, 1, name, 1);
    peer.take(world);
    for number in 1..=7 {
        peer.publish(world, name, number.to_string().as_bytes(), 1, number);
    }
    let got = peer.take(world);
    assert!(matches!(got[0], Got::Publish { id: 1, .. }) && got.len() == 8, "{got:?}");
    assert_eq!(world.nodes[0].shard.audit().crowded, 1);
    peer
}

#[test]
fn only_answers_overtake_what_is_held() {
    let mut world = world(1, short(10));
    let mut peer = parked(&mut world, "a");
    let mut reader = Peer::connect(&mut world, 0, &hello("reader", true, 0));
    reader.subscribe(&mut world, 1, "b", 2);
    reader.take(&mut world);
    peer.publish(&mut world, "b", b"m", 2, 9);
    peer.publish(&mut world, "b", b"m", 2, 9);
    peer.ack(&mut world, AckKind::PubRel, 9);
    peer.raw(&mut world, &[0xC0, 0]);
    assert_eq!(peer.take(&mut world), []);
    // One answer makes room for one message; the queue is not below its mark yet.
    peer.ack(&mut world, AckKind::PubAck, 1);
    let got = peer.take(&mut world);
    assert!(matches!(got[..], [Got::Publish { id: 2, .. }]), "{got:?}");
    assert_eq!(reader.take(&mut world), [], "the PUBLISH is held");
    peer.unsubscribe(&mut world, 3, "a");
    for number in 2..=4 {
        peer.ack(&mut world, AckKind::PubAck, number);
    }
    peer.publish(&mut world, "b", b"n", 0, 0);
    let got = peer.take(&mut world);
    let publishes = got.iter().filter(|got| matches!(got, Got::Publish { .. })).count();
    let said: Vec<_> = got.iter().filter(|got| !matches!(got, Got::Publish { .. })).collect();
    assert!(
        matches!(
            said[..],
            [
                Got::Ack(AckKind::PubRec, 9, _),
                Got::Ack(AckKind::PubRec, 9, _),
                Got::Ack(AckKind::PubComp, 9, _),
                Got::Pong,
                Got::UnsubAck(3)
            ]
        ),
        "{got:?}"
    );
    assert_eq!(publishes, 3);
    assert_eq!(reader.payloads(&mut world), ["m", "n"]);
    assert_eq!(world.nodes[0].shard.audit().inbound, 0);
    fine(&world);
}

#[test]
fn what_is_held_of_one_client_has_a_bound() {
    let mut world = world(1, short(10));
    let mut peer = parked(&mut world, "a");
    for _ in 0..100 {
        peer.publish(&mut world, "b", &[0; 40_000], 0, 0);
    }
    peer.ack(&mut world, AckKind::PubAck, 1);
    let all = world.conns[peer.conn].up.len();
    world.settle();
    let held = all - world.conns[peer.conn].up.len();
    assert!((HELD_INPUT..HELD_INPUT + 70_000).contains(&held), "{held} bytes are held");
    // Its patience is over: it goes on, and nothing was lost or mixed up.
    for _ in 0..20 {
        world.advance(100);
        world.settle();
    }
    assert_eq!(world.counters().messages_received_qos0, 100);
    assert_eq!(world.nodes[0].shard.audit().held, []);
    fine(&world);
}

#[test]
fn what_is_held_counts_although_its_client_has_parted() {
    let mut world = world(1, short(10));
    let mut peer = parked(&mut world, "a");
    let mut reader = Peer::connect(&mut world, 0, &hello("reader", true, 0));
    reader.subscribe(&mut world, 1, "b", 1);
    reader.take(&mut world);
    for number in 1..=3 {
        peer.publish(&mut world, "b", number.to_string().as_bytes(), 1, number);
    }
    peer.end(&mut world, crate::net::End::Fin);
    world.settle();
    assert_eq!(reader.payloads(&mut world), [""; 0]);
    for _ in 0..20 {
        world.advance(100);
        world.settle();
    }
    assert_eq!(reader.payloads(&mut world), ["1", "2", "3"]);
    assert_eq!(world.counters().connections_open, 1);
    fine(&world);
}

/// Each waits for the one before it, and has said what lets the next one go on: one step after
/// another, not one inside the other.
#[test]
fn a_long_row_of_parked_clients_goes_on_without_a_deep_stack() {
    let mut world = world(1, short(4));
    let count = 3000;
    let mut narrow = hello("", true, 0);
    narrow.properties.receive_maximum = Some(1);
    let names: Vec<_> = (0..count).map(|n| format!("c{n}")).collect();
    let mut peers: Vec<Peer> = names
        .iter()
        .map(|name| {
            let mut peer = Peer::connect(&mut world, 0, &Connect { client_id: name, ..narrow });
            peer.subscribe(&mut world, 1, name, 1);
            peer.take(&mut world);
            peer
        })
        .collect();
    let mut last = Peer::connect(&mut world, 0, &hello("last", true, 0));
    // From the end of the row: each fills the queue of the one before it, until it is parked.
    for at in (1..=count).rev() {
        let publisher = if at == count { &mut last } else { &mut peers[at] };
        for number in 1..=4 {
            publisher.publish(&mut world, &names[at - 1], b"m", 1, number);
        }
        world.settle();
        assert_eq!(world.nodes[0].shard.audit().crowded, count + 1 - at);
    }
    fine(&world);
    for peer in &mut peers {
        (1..=4).for_each(|number| peer.ack(&mut world, AckKind::PubAck, number));
    }
    world.settle();
    assert_eq!(world.nodes[0].shard.audit().crowded, 0);
    fine(&world);
}
