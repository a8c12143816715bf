//! A client that is silent for too long is dropped; one that was merely heard late is not.

use crate::peer::{Got, Peer, hello};
use crate::scripted::{fine, world};
use crate::settings::roomy;
use ringmq::limits::Budget;
use ringmq::packet::Connect;
use ringmq::shard::Settings;

#[test]
fn a_shard_that_was_held_up_hears_its_clients_before_it_judges_their_silence() {
    let mut world = world(1, roomy());
    let mut peers: Vec<_> = (0..20)
        .map(|n| {
            let name = format!("c{n}");
            let mut connect = hello(&name, true, 0);
            connect.keep_alive = 2;
            Peer::connect(&mut world, 0, &connect)
        })
        .collect();
    // The process is stopped; all but the first go on sending PINGREQ.
    world.settle();
    world.advance(60_000);
    for peer in &mut peers[1..] {
        peer.raw(&mut world, &[0xC0, 0]);
    }
    // A step takes in less than what has piled up.
    world.limit = 1;
    world.settle();
    assert_eq!(world.counters().connections_open, 20);
    for _ in 0..24 {
        world.advance(100);
        world.settle();
    }
    assert_eq!(world.counters().connections_open, 19, "silence is still noticed");
    assert_eq!(world.counters().keepalive_timeouts, 1);
    fine(&world);
}

/// The shard is always late, and takes in all there is each time, or never.
#[test]
fn silence_is_noticed_however_late_the_shard_is() {
    for limit in [64, 2] {
        let mut world = world(1, roomy());
        let mut peers: Vec<_> = (0..10)
            .map(|n| {
                let name = format!("c{n}");
                let mut connect = hello(&name, true, 0);
                connect.keep_alive = if n == 0 { 2 } else { 60 };
                Peer::connect(&mut world, 0, &connect)
            })
            .collect();
        world.settle();
        world.limit = limit;
        for late in 1..=10 {
            world.advance(1500);
            for peer in &mut peers[1..] {
                peer.raw(&mut world, &[0xC0, 0]);
            }
            world.step(0);
            let open = world.counters().connections_open;
            assert!(late >= 2 || open == 10, "closed before its time");
            assert!(late < 6 || open == 9, "never closed");
        }
        assert_eq!(world.counters().keepalive_timeouts, 1);
        fine(&world);
    }
}

#[test]
fn who_was_heard_late_and_waits_for_the_next_step_is_not_silent() {
    // One packet uses up a step.
    let budget = Budget { step: 1, turn: 1, ..Budget::BROKER };
    let mut world = world(1, Settings { budget, ..roomy() });
    let names: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
    let hellos = names.iter().map(|name| Connect { keep_alive: 5, ..hello(name, true, 0) });
    let mut peers: Vec<Peer> = hellos.map(|hello| Peer::connect(&mut world, 0, &hello)).collect();
    peers.iter_mut().for_each(|peer| drop(peer.take(&mut world)));
    world.advance(1000);
    world.settle();
    for peer in &mut peers {
        peer.raw(&mut world, &[0xc0, 0]);
    }
    world.advance(20_000);
    for peer in &mut peers {
        assert_eq!(peer.take(&mut world), [Got::Pong]);
    }
    fine(&world);
}

#[test]
fn a_silent_client_is_dropped_after_its_keep_alive_even_while_it_is_not_read() {
    let mut world = world(1, Settings { outgoing_max_bytes: 4096, ..roomy() });
    let mut peer = Peer::silent(&mut world, 0, 64);
    let mut connect = hello("c", true, 0);
    connect.keep_alive = 10;
    peer.begin(&mut world, &connect);
    world.settle();
    peer.raw(&mut world, &[0xC0, 0].repeat(20_000));
    for _ in 0..140 {
        world.settle();
        world.advance(100);
    }
    assert_eq!(world.counters().connections_open, 1, "14 s of silence are allowed");
    for _ in 0..30 {
        world.settle();
        world.advance(100);
    }
    assert_eq!(world.counters().connections_open, 0);
    assert_eq!(world.counters().keepalive_timeouts, 1);
}

/// [MQTT-3.1.2-22] is about packets that were received, not about those that were acted on.
#[test]
fn a_packet_that_waits_for_its_client_to_read_is_heard_when_it_comes() {
    let mut world = world(1, Settings { outgoing_max_bytes: 4096, ..roomy() });
    let mut peer = Peer::silent(&mut world, 0, 64);
    let mut connect = hello("c", true, 0);
    connect.keep_alive = 10;
    peer.begin(&mut world, &connect);
    peer.subscribe(&mut world, 1, "t", 1);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for id in 1..=10 {
        publisher.publish(&mut world, "t", &[7; 1000], 1, id);
    }
    let mut open_after = |millis: u64| {
        for _ in 0..millis / 100 {
            world.settle();
            world.advance(100);
        }
        world.settle();
        let open = world.counters().connections_open;
        peer.raw(&mut world, &[0xC0, 0]);
        world.settle();
        open
    };
    assert_eq!(open_after(12_000), 2);
    assert_eq!(open_after(14_000), 2, "it pinged 14 s ago");
    // Since the last one nothing is read of it.
    assert_eq!(open_after(16_000), 1);
    assert_eq!(world.counters().keepalive_timeouts, 1);
}
