//! Connecting while the broker cannot take everybody at once: every legal CONNECT is answered.

use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello};
use crate::scripted::{SEED, name_on};
use crate::settings::roomy;
use crate::world::{Order, Plan, World, listener_state};
use ringmq::limits::{HAND_OVER_BYTES, REFUSED_WAITING};
use ringmq::mesh::ListenerState;
use ringmq::packet::{self, Connect, Qos, ReasonCode, Version, Will};
use ringmq::shard::Settings;

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn world(settings: Settings, listener_state: ListenerState, hand_over_fails: usize) -> World {
    World::new(Plan {
        seed: SEED,
        shards: 2,
        data: 8,
        control: 8,
        settings,
        faults: Faults { receive: 65_536, hand_over_fails, ..Faults::default() },
        listener_states: vec![listener_state],
    })
}

/// A broker whose sockets do not get from one shard to the other.
fn stuck() -> World {
    world(roomy(), listener_state(""), 1000)
}

fn fails(world: &mut World, per_mille: usize) {
    world.nodes.iter_mut().for_each(|node| node.driver.faults.hand_over_fails = per_mille);
}

/// Lets time pass in small steps, with work in each.
fn wait(world: &mut World, millis: u64) {
    let end = world.now + millis;
    while world.now < end {
        world.advance(5);
        world.settle();
    }
}

/// What a client is told that is not let in.
fn told(version: Version, reason: ReasonCode) -> Vec<Got> {
    let reason = if version.is_v5() { reason } else { ReasonCode::ServerUnavailable };
    vec![Got::ConnAck { present: false, reason }]
}

const WELCOME: Got = Got::ConnAck { present: false, reason: ReasonCode::Success };

fn is_over(world: &mut World, peer: &mut Peer) -> bool {
    world.settle();
    let over = peer.is_closed(world);
    peer.end(world, End::Fin);
    world.settle();
    over
}

#[test]
fn a_client_whose_home_cannot_be_reached_waits_and_is_let_in_when_it_can() {
    let mut world = stuck();
    let mut peers = Vec::new();
    for (at, version) in VERSIONS.into_iter().enumerate() {
        let name = name_on(1, 2, &format!("far{at}"));
        let connect = Connect { version, ..hello(&name, true, 0) };
        let connect = match version {
            Version::V5 => connect,
            _ => Connect { properties: Default::default(), ..connect },
        };
        let mut peer = Peer::connect(&mut world, 0, &connect);
        assert_eq!(peer.take(&mut world), []);
        peers.push(peer);
    }
    // It goes with what was sent behind CONNECT.
    peers[2].subscribe(&mut world, 1, "t", 0);
    wait(&mut world, 4000);
    assert_eq!(world.nodes[0].shard.audit().departing.0, 3);
    assert!(world.counters().handover_failures < 1000, "there is a back-off");
    fails(&mut world, 0);
    wait(&mut world, 60);
    for (at, peer) in peers.iter_mut().enumerate() {
        let got = peer.take(&mut world);
        assert_eq!(got[0], WELCOME);
        assert_eq!(got.len(), 1 + usize::from(at == 2), "{got:?}");
        peer.goodbye(&mut world);
    }
    assert_eq!(world.counters().connections_refused(), 0);
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn a_client_whose_home_stays_out_of_reach_is_told_that_the_server_is_busy() {
    let mut world = stuck();
    for version in VERSIONS {
        let far = name_on(1, 2, "f");
        let near = name_on(0, 2, "n");
        let near = Connect { version, properties: Default::default(), ..hello(&near, true, 0) };
        let mut fine = Peer::connect(&mut world, 0, &near);
        assert_eq!(fine.take(&mut world), [WELCOME]);
        let connect = Connect { version, properties: Default::default(), ..hello(&far, true, 0) };
        let mut lost = Peer::connect(&mut world, 0, &connect);
        wait(&mut world, 4900);
        assert!(!lost.is_closed(&world));
        wait(&mut world, 300);
        assert_eq!(lost.take(&mut world), told(version, ReasonCode::ServerBusy));
        assert!(is_over(&mut world, &mut lost));
        assert!(!fine.is_closed(&world));
        fine.goodbye(&mut world);
    }
    assert_eq!(world.counters().refused_busy, 3);
    wait(&mut world, 3000);
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn who_leaves_while_it_waits_takes_nothing_over() {
    for how in [End::Fin, End::Reset] {
        let mut world = stuck();
        let name = name_on(1, 2, "c");
        let mut first = Peer::connect(&mut world, 0, &hello(&name, true, 0));
        wait(&mut world, 50);
        first.end(&mut world, how);
        wait(&mut world, 50);
        assert_eq!(world.nodes[0].shard.audit().departing.0, 0, "it is gone");
        let mut second = Peer::connect(&mut world, 1, &hello(&name, true, 0));
        assert_eq!(second.take(&mut world), [WELCOME]);
        fails(&mut world, 0);
        wait(&mut world, 200);
        assert_eq!(second.take(&mut world), []);
        assert!(!second.is_closed(&world));
        second.goodbye(&mut world);
        wait(&mut world, 3000);
        assert_eq!(world.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn what_a_waiting_client_sent_before_it_closed_is_not_lost() {
    let mut world = stuck();
    let mut reader = Peer::connect(&mut world, 0, &hello(&name_on(0, 2, "r"), true, 0));
    reader.subscribe(&mut world, 1, "t", 0);
    reader.take(&mut world);
    let mut hasty = Peer::silent(&mut world, 0, 1 << 20);
    hasty.begin(&mut world, &hello(&name_on(1, 2, "h"), true, 0));
    hasty.publish(&mut world, "t", b"last", 0, 0);
    hasty.end(&mut world, End::Fin);
    wait(&mut world, 500);
    fails(&mut world, 0);
    wait(&mut world, 200);
    assert_eq!(reader.payloads(&mut world), ["last"]);
    reader.goodbye(&mut world);
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn a_broker_that_stops_tells_those_who_wait_and_those_who_come() {
    for version in VERSIONS {
        let mut world = stuck();
        let name = name_on(1, 2, "c");
        let connect = Connect { version, properties: Default::default(), ..hello(&name, true, 0) };
        let mut waits = Peer::connect(&mut world, 0, &connect);
        let mut late = Peer::silent(&mut world, 0, 1 << 20);
        world.settle();
        world.order(&Order::Drain);
        world.settle();
        late.begin(&mut world, &connect);
        for peer in [&mut waits, &mut late] {
            assert_eq!(peer.take(&mut world), told(version, ReasonCode::ServerUnavailable));
            assert!(is_over(&mut world, peer));
        }
        world.order(&Order::Dismiss);
        world.settle();
        assert!(world.nodes.iter().all(|node| node.shard.is_drained()));
        assert_eq!(world.counters().refused_draining, 2);
    }
}

#[test]
fn who_is_on_the_way_when_the_broker_stops_is_told_by_its_home() {
    let mut world = world(roomy(), listener_state(""), 0);
    let mut peer = Peer::silent(&mut world, 0, 1 << 20);
    peer.begin(&mut world, &hello(&name_on(1, 2, "c"), true, 0));
    // Accepted; read and handed over; moved; told.
    (0..4).for_each(|_| world.step(0));
    assert_eq!(world.counters().handovers_out, 1);
    world.order(&Order::Drain);
    assert_eq!(peer.take(&mut world), told(Version::V5, ReasonCode::ServerUnavailable));
    assert!(is_over(&mut world, &mut peer));
    assert_eq!(world.shared.connections.used(), 0);
}

#[test]
fn whoever_meets_a_limit_is_told_which() {
    let two = Settings { max_connections: 2, ..roomy() };
    let few = ListenerState { max_connections: 2, ..listener_state("") };
    let slow = ListenerState { max_connect_rate: Some(2), ..listener_state("") };
    for (settings, listener_state, reason) in [
        (two, listener_state(""), ReasonCode::QuotaExceeded),
        (roomy(), few, ReasonCode::QuotaExceeded),
        (roomy(), slow, ReasonCode::ConnectionRateExceeded),
    ] {
        let mut world = world(settings, listener_state, 0);
        let mut inside: Vec<_> = (0..2)
            .map(|n| Peer::connect(&mut world, n, &hello(&format!("in{n}"), true, 0)))
            .collect();
        inside.iter_mut().for_each(|peer| assert_eq!(peer.take(&mut world), [WELCOME]));
        for version in VERSIONS {
            let connect =
                Connect { version, properties: Default::default(), ..hello("out", true, 0) };
            let mut peer = Peer::connect(&mut world, 0, &connect);
            assert_eq!(peer.take(&mut world), told(version, reason));
            assert!(is_over(&mut world, &mut peer));
        }
        assert_eq!(world.counters().connections_refused(), 3);
        // One that says nothing is not waited for long, nor one that breaks a rule answered.
        let mut silent = Peer::silent(&mut world, 0, 1 << 20);
        let mut wrong = Peer::silent(&mut world, 1, 1 << 20);
        wrong.raw(&mut world, &[0xC0, 0]);
        wait(&mut world, 2500);
        for peer in [&mut silent, &mut wrong] {
            assert_eq!(peer.take(&mut world), []);
            assert!(is_over(&mut world, peer));
        }
        inside.iter_mut().for_each(|peer| peer.goodbye(&mut world));
        wait(&mut world, 3000);
        assert_eq!(world.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn only_so_many_refused_connections_are_waited_for() {
    let mut world = world(Settings { max_connections: 0, ..roomy() }, listener_state(""), 0);
    let peers: Vec<_> =
        (0..REFUSED_WAITING + 5).map(|_| Peer::silent(&mut world, 0, 1000)).collect();
    world.settle();
    assert_eq!(peers.iter().filter(|peer| peer.is_closed(&world)).count(), 5);
    assert_eq!(world.counters().refused_unanswered, 5);
    wait(&mut world, 2500);
    // And those, when they have been given their time, make place for others.
    let mut peer = Peer::connect(&mut world, 0, &hello("c", true, 0));
    assert_eq!(peer.take(&mut world), told(Version::V5, ReasonCode::QuotaExceeded));
}

#[test]
fn what_waiting_clients_hold_is_bounded() {
    let mut world = stuck();
    let name = name_on(1, 2, "c");
    let payload = vec![b'x'; 60_000];
    let mut peers: Vec<_> = (0..HAND_OVER_BYTES / payload.len() + 3)
        .map(|_| {
            let properties = Default::default();
            let qos = Qos::AtMostOnce;
            let topic = "t";
            let will = Will { topic, payload: &payload, qos, retain: false, delay: 0, properties };
            Peer::connect(&mut world, 0, &Connect { will: Some(will), ..hello(&name, true, 0) })
        })
        .collect();
    let held = world.nodes[0].shard.audit().departing;
    assert!(held.1 <= HAND_OVER_BYTES && held.1 > HAND_OVER_BYTES - 100_000, "{held:?}");
    let mut refused = 0;
    for peer in &mut peers {
        let got = peer.take(&mut world);
        refused += got.len();
        assert!(got.is_empty() || got == told(Version::V5, ReasonCode::ServerBusy));
    }
    assert_eq!(refused, peers.len() - held.0);
    assert_eq!(world.counters().refused_busy, refused as u64);
}

#[test]
fn a_connect_that_is_too_large_is_refused_at_its_header() {
    let settings = Settings { before_connect: 1000, ..roomy() };
    let mut world = world(settings, listener_state(""), 0);
    for version in VERSIONS {
        let name = "n".repeat(2000);
        let connect = Connect { version, properties: Default::default(), ..hello(&name, true, 0) };
        let mut bytes = Vec::new();
        packet::encode_connect(&mut bytes, &connect).unwrap();
        let mut peer = Peer::silent(&mut world, 0, 1 << 20);
        peer.version = version;
        // Byte by byte: answered as soon as the version is there.
        let mut sent = 0;
        while !peer.is_closed(&world) && world.conns[peer.conn].told == 0 {
            peer.raw(&mut world, &bytes[sent..=sent]);
            sent += 1;
            world.settle();
        }
        assert!(sent <= 12, "{sent} bytes");
        assert_eq!(peer.take(&mut world), told(version, ReasonCode::PacketTooLarge));
        assert!(is_over(&mut world, &mut peer));
    }
    // No version, no answer.
    let mut peer = Peer::silent(&mut world, 0, 1 << 20);
    peer.raw(&mut world, &[0x10, 0xFF, 0xFF, 0x03, 0, 4, b'H', b'T', b'T', b'P', 4, 0]);
    assert_eq!(peer.take(&mut world), []);
    assert!(is_over(&mut world, &mut peer));
    assert_eq!(world.counters().refused_too_large, 4);
}
