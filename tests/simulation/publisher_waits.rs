//! Who waits for whom, and how long, in virtual time: floods from one to one and from many to one
//! lose nothing, and no reader makes others' publishers wait.

use crate::net::End;
use crate::peer::{Got, Peer, hello};
use crate::scripted::{fine, name_on, world};
use crate::settings::roomy;
use crate::world::World;
use ringmq::config::OnFull;
use ringmq::packet::AckKind;
use ringmq::session::pending::PendingBounds;
use ringmq::shard::Settings;

fn crowded(world: &World) -> usize {
    world.nodes.iter().map(|node| node.shard.audit().crowded).sum()
}

fn short() -> Settings {
    let pending = PendingBounds { messages: 20, bytes: 1 << 20, on_full: OnFull::DropOldest };
    Settings { pending, max_inflight: 4, receive_maximum: 1000, ..roomy() }
}

fn member(world: &mut World, shard: u8, tag: &str, filter: &str, qos: u8) -> Peer {
    let shards = world.nodes.len() as u8;
    let mut peer =
        Peer::connect(world, usize::from(shard), &hello(&name_on(shard, shards, tag), true, 0));
    if !filter.is_empty() {
        peer.subscribe(world, 1, filter, qos);
    }
    peer.take(world);
    peer
}

#[test]
fn a_flood_of_qos_0_from_one_to_one_loses_nothing() {
    for shards in [1, 2] {
        let settings = Settings { outgoing_max_bytes: 65_536, ..roomy() };
        let mut world = world(shards, settings);
        let mut reader = Peer::silent(&mut world, 0, 4000);
        let name = name_on(shards as u8 - 1, shards as u8, "reader");
        reader.begin(&mut world, &hello(&name, true, 0));
        reader.subscribe(&mut world, 1, "t", 0);
        reader.take(&mut world);
        let mut publisher = member(&mut world, 0, "publisher", "", 0);
        let (mut sent, mut got) = (0, 0);
        // The reader takes some 400 KB/s; the publisher sends whatever is read of it.
        for _ in 0..2000 {
            while sent < 3000 && world.conns[publisher.conn].up.len() < 16_000 {
                publisher.publish(&mut world, "t", &[7; 1000], 0, 0);
                sent += 1;
            }
            world.settle();
            let before = world.conns[reader.conn].down.len();
            got += before;
            world.conns[reader.conn].down.clear();
            world.settle();
            world.advance(10);
        }
        while !world.conns[reader.conn].down.is_empty() {
            got += world.conns[reader.conn].down.len();
            world.conns[reader.conn].down.clear();
            world.settle();
        }
        let counters = world.counters();
        assert_eq!((sent, counters.dropped_outgoing_full), (3000, 0), "{shards} shards");
        assert!(got >= 3000 * 1000 && counters.parks_publisher > 10, "{got} bytes");
        publisher.end(&mut world, End::Reset);
        fine(&world);
    }
}

/// However far the bounds are, what waits for a reader is a part of a second's worth.
#[test]
pub fn a_flood_makes_no_long_queue() {
    for (shards, qos) in [(1, 0), (2, 0), (1, 1), (2, 1)] {
        let pending =
            PendingBounds { messages: 100_000, bytes: 1 << 30, on_full: OnFull::DropOldest };
        let settings = Settings { pending, outgoing_max_bytes: 1 << 30, ..short() };
        let mut world = world(shards, settings);
        let mut reader = member(&mut world, shards as u8 - 1, "reader", "t", qos);
        let mut publisher = member(&mut world, 0, "publisher", "", 0);
        let (mut sent, mut bytes, mut longest) = (0u16, 0, 0);
        for _ in 0..4000 {
            // As many as are read, and acknowledged, but not more at once than it takes to hold it.
            if sent < 6000 && world.conns[publisher.conn].up.is_empty() {
                for _ in 0..40 {
                    sent += 1;
                    publisher.publish(&mut world, "t", &[7; 5000], qos, sent);
                }
            }
            publisher.take(&mut world);
            // Of QoS 0 it takes 20 messages each millisecond, of QoS 1 four.
            if qos == 0 {
                let down = &mut world.conns[reader.conn].down;
                bytes += down.drain(..down.len().min(100_000)).len();
            } else {
                for packet in reader.take(&mut world) {
                    if let Got::Publish { id, .. } = packet {
                        bytes += 5000;
                        reader.ack(&mut world, AckKind::PubAck, id);
                    }
                }
            }
            world.settle();
            longest = longest.max(usize::from(sent).saturating_sub(bytes / 5000));
            world.advance(1);
        }
        // 10 milliseconds' worth of publications, and what waits for their publisher.
        assert!(longest < 1000, "{longest} of QoS {qos} on {shards} shards");
        assert!(bytes >= 6000 * 5000, "{bytes} bytes of QoS {qos} on {shards} shards");
        assert_eq!(world.counters().dropped_queue_full + world.counters().dropped_outgoing_full, 0);
        fine(&world);
    }
}

#[test]
fn a_flood_of_many_to_one_loses_nothing() {
    for shards in [1, 2] {
        let pending = PendingBounds { messages: 200, bytes: 1 << 20, on_full: OnFull::DropOldest };
        let mut world = world(shards, Settings { pending, ..short() });
        let mut reader = member(&mut world, shards as u8 - 1, "reader", "t/#", 1);
        let mut publishers: Vec<Peer> = (0..20)
            .map(|n| {
                let shard = n % shards as u8;
                member(&mut world, shard, &format!("p{n}"), "", 0)
            })
            .collect();
        let (mut sent, mut acked, mut got) = (0u16, 0, 0);
        for _ in 0..1500 {
            for (at, publisher) in publishers.iter_mut().enumerate() {
                while sent < 6000 && sent - acked < 20 * 4 {
                    sent += 1;
                    publisher.publish(&mut world, &format!("t/{at}"), b"m", 1, sent);
                }
                acked += publisher.take(&mut world).len() as u16;
            }
            // Four acknowledgements each 10 ms.
            for packet in reader.take(&mut world) {
                if let Got::Publish { id, .. } = packet {
                    got += 1;
                    reader.ack(&mut world, AckKind::PubAck, id);
                }
            }
            world.settle();
            world.advance(10);
        }
        let counters = world.counters();
        assert_eq!((sent, acked, got), (6000, 6000, 6000), "{shards} shards");
        assert_eq!(counters.dropped_queue_full, 0);
        fine(&world);
    }
}

#[test]
fn readers_of_everything_hold_up_nobody_however_many_they_are() {
    for shards in [1u8, 3] {
        let mut world = world(usize::from(shards), short());
        let slow: Vec<Peer> = (0..100u8)
            .map(|n| member(&mut world, n % shards, &format!("slow{n}"), "#", 1))
            .collect();
        let mut reader = member(&mut world, shards - 1, "reader", "own", 1);
        let mut publisher = member(&mut world, 0, "publisher", "", 0);
        for number in 1..=200 {
            publisher.publish(&mut world, "own", b"m", 1, number);
            assert_eq!(publisher.take(&mut world).len(), 1, "PUBACK {number} at once");
            assert_eq!(reader.read_all(&mut world).len(), 1, "message {number} at once");
            world.advance(7);
        }
        assert_eq!(world.counters().parks_publisher, 0);
        assert_eq!(slow.len(), 100);
        fine(&world);
    }
}

/// Publishes to `slow`, which only a reader gets that never acknowledges, and to `own`, in turn,
/// for ten seconds; returns for how many milliseconds it was held.
fn mixed(shards: u8, slow_shard: u8, own_shard: u8) -> u64 {
    let mut world = world(usize::from(shards), short());
    let _slow = member(&mut world, slow_shard, "slow", "#", 1);
    let mut reader = member(&mut world, own_shard, "reader", "own", 1);
    let mut publisher = member(&mut world, 0, "publisher", "", 0);
    let (mut held, mut number) = (0, 0u16);
    for millis in 0..10_000 {
        if millis % 5 == 0 {
            number += 1;
            let topic = if number % 2 == 0 { "own" } else { "slow" };
            publisher.publish(&mut world, topic, b"m", 1, number);
        }
        world.settle();
        held += u64::from(crowded(&world) > 0);
        reader.read_all(&mut world);
        world.advance(1);
    }
    fine(&world);
    held
}

#[test]
fn who_gets_half_of_a_publishers_messages_is_not_its_main_reader() {
    for (shards, slow, own) in [(1, 0, 0), (2, 0, 1), (2, 1, 0), (2, 1, 1), (3, 1, 2)] {
        let held = mixed(shards, slow, own);
        assert!(held <= 340, "{held} ms held with the slow reader on {slow}, the other on {own}");
    }
}

#[test]
fn one_reader_after_another_does_not_hold_up_a_publisher_for_longer() {
    for shards in [1u8, 2] {
        for same in [true, false] {
            let mut world = world(usize::from(shards), short());
            let mut publisher = member(&mut world, 0, "publisher", "", 0);
            let (mut held, mut number, mut reader) = (0, 0u16, None::<Peer>);
            for millis in 0..20_000u64 {
                if millis % 400 == 0 {
                    if let Some(mut gone) = reader.take() {
                        gone.end(&mut world, End::Reset);
                    }
                    let tag = if same { "slow".into() } else { format!("slow{millis}") };
                    reader = Some(member(&mut world, shards - 1, &tag, "t", 1));
                }
                if millis % 2 == 0 {
                    number += 1;
                    publisher.publish(&mut world, "t", b"m", 1, number);
                }
                world.settle();
                held += u64::from(crowded(&world) > 0);
                world.advance(1);
            }
            // What is left of a budget is looked at when a wait begins: the last one may be longer.
            let most = 300 + 300 + 20_000 * 35 / 1000;
            assert!(held > 0 && held <= most, "{held} ms of 20,000, the same: {same}");
            fine(&world);
        }
    }
}

#[test]
fn what_is_remembered_of_waiting_is_forgotten() {
    let mut world = world(2, short());
    let mut publishers: Vec<Peer> =
        (0..10).map(|n| member(&mut world, n % 2, &format!("p{n}"), "", 0)).collect();
    let mut slow: Vec<Peer> = (0..10)
        .map(|n| member(&mut world, n / 2 % 2, &format!("s{n}"), &format!("t/{n}"), 1))
        .collect();
    for numbers in [1..=20, 21..=30] {
        for (at, publisher) in publishers.iter_mut().enumerate() {
            for number in numbers.clone() {
                publisher.publish(&mut world, &format!("t/{at}"), b"m", 1, number);
            }
        }
        world.settle();
    }
    let remembered =
        |world: &World| world.nodes.iter().map(|n| n.shard.audit().remembered).sum::<usize>();
    assert!(crowded(&world) == 10 && remembered(&world) >= 10);
    for peer in &mut slow {
        peer.end(&mut world, End::Reset);
    }
    for _ in 0..300 {
        world.settle();
        world.advance(100);
    }
    assert_eq!((crowded(&world), remembered(&world)), (0, 0));
    fine(&world);
}
