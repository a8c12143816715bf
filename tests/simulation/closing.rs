//! The end of connections: many at once, with last words, or broken while they close.

use crate::net::End;
use crate::peer::{Got, Peer, hello};
use crate::scripted::{fine, world};
use crate::settings::roomy;

#[test]
fn a_crowd_that_drops_at_once_keeps_nobody_waiting() {
    let mut world = world(1, roomy());
    let mut probe = Peer::connect(&mut world, 0, &hello("probe", true, 60));
    probe.subscribe(&mut world, 1, "t", 0);
    let mut crowd: Vec<Peer> = (0..400)
        .map(|n| Peer::connect(&mut world, 0, &hello(&format!("c{n}"), true, 60)))
        .collect();
    world.settle();
    probe.take(&mut world);
    for (number, peer) in crowd.iter_mut().enumerate() {
        peer.end(&mut world, if number % 2 == 0 { End::Reset } else { End::Fin });
    }
    probe.publish(&mut world, "t", b"m", 0, 0);
    world.limit = 1000;
    for _ in 0..1000 {
        world.step(0);
        if !world.conns[probe.conn].down.is_empty() {
            break;
        }
    }
    let left = world.nodes[0].shard.audit().connections;
    assert!(left > 200, "{left} connections are left: their ends come in shares");
    assert_eq!(probe.payloads(&mut world), ["m"]);
    world.settle();
    assert_eq!(world.nodes[0].shard.audit().connections, 1);
    fine(&world);
}

#[test]
fn last_words_have_their_time_whatever_timer_was_running() {
    let mut world = world(1, roomy());
    let mut first = Peer::silent(&mut world, 0, 16);
    first.begin(&mut world, &hello("c", true, 60));
    world.settle();
    world.advance(4900);
    let mut watcher = Peer::connect(&mut world, 0, &hello("c", true, 60));
    watcher.take(&mut world);
    world.advance(300);
    world.settle();
    assert!(!first.is_closed(&world), "closed 0.3 s after DISCONNECT was written");
    let got = first.take(&mut world);
    assert!(matches!(got[..], [Got::ConnAck { .. }, Got::Disconnect(_)]), "{got:?}");
    world.advance(10_000);
    world.settle();
    assert_eq!(world.nodes[0].shard.audit().connections, 1);
}

#[test]
fn a_closing_connection_that_breaks_is_closed_at_once() {
    let mut world = world(1, roomy());
    let mut first = Peer::silent(&mut world, 0, 16);
    first.begin(&mut world, &hello("c", true, 60));
    world.settle();
    let mut second = Peer::connect(&mut world, 0, &hello("c", true, 60));
    second.take(&mut world);
    first.end(&mut world, End::Reset);
    world.settle();
    assert_eq!(world.nodes[0].shard.audit().connections, 1);
}
