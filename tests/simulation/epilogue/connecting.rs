//! CONNECT where the home shard cannot be reached, and such as are not taken.

use super::*;

fn fails(world: &mut World, per_mille: usize) {
    world.nodes.iter_mut().for_each(|node| node.driver.faults.hand_over_fails = per_mille);
}

/// A client whose socket does not get to its home is told so within the time for connecting.
pub fn unreachable_home(world: &mut World, settings: &Settings) {
    let name = on(world, 1, |n| format!("e-far-{n}"));
    fails(world, 1000);
    let mut peer = Peer::connect(world, 0, &hello(&name, true, 0));
    wait(world, settings.connect_timeout - 200);
    assert_eq!(peer.take(world), [], "it is tried for longer");
    assert!(!peer.is_closed(world), "it is tried for longer");
    wait(world, 400);
    let busy = Got::ConnAck { present: false, reason: ReasonCode::ServerBusy };
    assert_eq!(peer.take(world), [busy], "the answer to a client that waited in vain");
    assert!(peer.is_closed(world), "nothing follows a refusal");
    peer.end(world, End::Fin);
    // Another one's home is reached in time.
    let mut peer = Peer::connect(world, 0, &hello(&name, true, 0));
    wait(world, 1000);
    fails(world, 0);
    wait(world, 200);
    let welcome = Got::ConnAck { present: false, reason: ReasonCode::Success };
    assert_eq!(peer.take(world), [welcome], "the answer to a client that waited");
    part(world, [peer]);
}

/// A client that gave up waiting for its home has no part in what its next connection does.
pub fn left_while_waiting(world: &mut World) {
    let name = on(world, 1, |n| format!("e-left-{n}"));
    fails(world, 1000);
    let mut first = Peer::connect(world, 0, &hello(&name, true, 0));
    wait(world, 100);
    first.end(world, End::Fin);
    wait(world, 100);
    let mut second = join_at(world, 1, &hello(&name, true, 0));
    fails(world, 0);
    wait(world, 1000);
    assert_eq!(second.take(world), [], "taken over by a client that has left");
    part(world, [second]);
}

/// A client whose socket gets lost on its way is given up, and counted.
pub fn lost_on_its_way(world: &mut World, settings: &Settings) {
    let name = on(world, 1, |n| format!("e-lost-{n}"));
    let before = (world.counters().handovers_lost, world.shared.connections.used());
    let mut peer = Peer::silent(world, 0, 1000);
    peer.begin(world, &hello(&name, true, 0));
    for _ in 0..10 {
        world.step(0);
        world.nodes[1].driver.lose_arrivals();
    }
    wait(world, settings.connect_timeout - 1000);
    assert_eq!(world.nodes[1].shard.audit().arrivals, 1, "it is waited for");
    wait(world, 4000);
    assert_eq!(world.nodes[1].shard.audit().arrivals, 0, "waits for a socket that is lost");
    let after = (world.counters().handovers_lost, world.shared.connections.used());
    assert_eq!(after, (before.0 + 1, before.1), "lost on its way, connections");
    peer.end(world, End::Fin);
}

/// A CONNECT larger than may be held before it is known who sends it.
pub fn oversized(world: &mut World) {
    let mut peer = Peer::silent(world, 0, 1000);
    peer.raw(world, &[0x10, 0xFF, 0xFF, 0x04, 0, 4, b'M', b'Q', b'T', b'T', 5]);
    let refused = Got::ConnAck { present: false, reason: ReasonCode::PacketTooLarge };
    assert_eq!(peer.take(world), [refused], "a CONNECT of 80 KB");
    peer.end(world, End::Fin);
    world.settle();
}
