//! What TLS must do on a whole broker that random runs seldom come to: dialogues of a few clients,
//! with splits and delays by a seed.

use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello};
use crate::rng::Rng;
use crate::scripted::name_on;
use crate::secure::{client, server};
use crate::settings::roomy;
use crate::world::{Order, Plan, TLS, World, layered_entrance};
use ringmq::packet::{AckKind, ReasonCode};
use ringmq::transport::Stack;
use rustls::HandshakeKind;

const WELCOME: Got = Got::ConnAck { present: false, reason: ReasonCode::Success };
/// Milliseconds that a handshake may stand still while others wait.
const STILL: u64 = 1000;
const HANDSHAKE_TIMEOUT: u64 = 10_000;

/// Two shards behind TLS, and a network as it is with this seed.
fn world(seed: u64) -> World {
    let mut rng = Rng::new(seed);
    let faults = Faults {
        split: [0, 500][rng.below(2)],
        receive: [7, 100, 65_536, 65_536][rng.below(4)],
        late: [0, 300][rng.below(2)],
        ..Faults::default()
    };
    let stack = Stack { tls: true, ..Stack::default() };
    World::new(Plan {
        seed,
        shards: 2,
        data: 8,
        control: 8,
        settings: roomy(),
        faults,
        listener_states: vec![layered_entrance("", stack)],
    })
}

/// All of them.
pub fn simulate(seed: u64) {
    from_entry_to_home(seed);
    tickets(seed);
    revoked(seed);
    stalled(seed);
}

/// CONNECT and more come glued to the end of the handshake, at the home shard and at the other one,
/// where what TLS has still to send moves with the socket.
fn from_entry_to_home(seed: u64) {
    let mut world = world(seed);
    for home in 0..2 {
        for round in 0..3 {
            let name = name_on(home, 2, &format!("tls-{seed}-{round}"));
            let mut peer = Peer::silent(&mut world, 0, 1 << 20);
            peer.begin(&mut world, &hello(&name, true, 0));
            peer.subscribe(&mut world, 1, &format!("d/{name}"), 1);
            peer.publish(&mut world, &format!("d/{name}"), &[7; 300], 1, 2);
            let got = peer.take(&mut world);
            assert_eq!(got.first(), Some(&WELCOME), "{got:?}");
            let acked = |got: &Got| matches!(got, Got::Ack(AckKind::PubAck, 2, _));
            assert!(got.iter().any(acked), "PUBLISH is acknowledged: {got:?}");
            let came =
                |got: &Got| matches!(got, Got::Publish { payload, .. } if payload.len() == 300);
            assert!(got.iter().any(came), "what it published comes back: {got:?}");
            peer.goodbye(&mut world);
        }
    }
}

/// How a client's handshake is made now.
fn kind(world: &mut World, name: &str) -> HandshakeKind {
    let mut peer = Peer::connect(world, 0, &hello(name, true, 0));
    assert_eq!(peer.take(world).first(), Some(&WELCOME));
    let kind = world.conns[peer.conn].secure.as_ref().and_then(|secure| secure.kind());
    peer.goodbye(world);
    kind.expect("a handshake that is over")
}

/// A ticket is good for as long as what the listener trusts does not change.
fn tickets(seed: u64) {
    let mut world = world(seed);
    world.tls = vec![client(Some(0))];
    let expect = |world: &mut World, expected: HandshakeKind, when: &str| {
        assert_eq!(kind(world, "ticket"), expected, "{when}");
    };
    expect(&mut world, HandshakeKind::Full, "the first time");
    expect(&mut world, HandshakeKind::Resumed, "with a ticket");
    for (section, when) in [
        ("client_ca: both.crt, client_certificate: optional", "another set of authorities"),
        ("client_ca: both.crt, client_certificate: required", "certificates are required"),
        ("client_ca: both.crt, crl: [none.crl]", "a CRL"),
    ] {
        world.order(&Order::Secure(server(section, Some(world.tickets.clone()))));
        world.settle();
        expect(&mut world, HandshakeKind::Full, when);
        expect(&mut world, HandshakeKind::Resumed, when);
    }
}

/// Live clients whose certificates are revoked are ended where the listener says so, others stay.
fn revoked(seed: u64) {
    let mut world = world(seed);
    let all = world.tls.len();
    let mut peers: Vec<_> = (0..all)
        .map(|number| {
            world.tls = vec![client(Some(number))];
            let name = name_on(number as u8 % 2, 2, &format!("revoked-{number}"));
            let mut peer = Peer::connect(&mut world, 0, &hello(&name, true, 0));
            assert_eq!(peer.take(&mut world), [WELCOME]);
            peer
        })
        .collect();
    let section = "client_ca: ca.crt, crl: [revoked.crl], on_revoked: disconnect";
    world.order(&Order::Secure(server(section, Some(world.tickets.clone()))));
    world.settle();
    let open: Vec<bool> = peers.iter().map(|peer| !peer.is_closed(&world)).collect();
    assert_eq!(open, (0..all).map(|number| number + 1 < all).collect::<Vec<_>>(), "who stays");
    peers[0].raw(&mut world, &[0xC0, 0]);
    assert_eq!(peers[0].take(&mut world), [Got::Pong]);
}

/// Handshakes that stand still are bounded in number, and make room for who comes.
fn stalled(seed: u64) {
    const MOST: u64 = 3;
    let mut world = world(seed);
    let section = format!("{TLS}, max_handshakes: {MOST}");
    world.order(&Order::Secure(server(&section, Some(world.tickets.clone()))));
    world.settle();
    let stalled: Vec<_> = (0..8)
        .map(|_| {
            let peer = Peer::silent(&mut world, 0, 1 << 20);
            if let Some(secure) = &mut world.conns[peer.conn].secure {
                secure.stalls = true;
            }
            peer
        })
        .collect();
    world.settle();
    let under_way = |world: &World| world.nodes[0].shard.counters.tls_under_way;
    assert_eq!(under_way(&world), MOST, "handshakes under way");
    let mut honest = Peer::silent(&mut world, 0, 1 << 20);
    honest.begin(&mut world, &hello("honest", true, 0));
    let end = world.now + 4 * STILL;
    while world.now < end {
        world.advance(20);
        world.settle();
        assert!(under_way(&world) <= MOST, "handshakes under way");
    }
    assert_eq!(honest.take(&mut world), [WELCOME], "behind those that stand still");
    world.advance(HANDSHAKE_TIMEOUT);
    world.settle();
    let left = stalled.iter().filter(|peer| !peer.is_closed(&world)).count();
    assert_eq!(left, 0, "handshakes that are not made in time");
    for peer in stalled {
        world.conns[peer.conn].client = End::Fin;
    }
}

#[test]
fn tls_on_whole_brokers_holds_its_promises() {
    for seed in 1..=12 {
        simulate(seed);
    }
}
