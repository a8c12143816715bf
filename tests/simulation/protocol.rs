//! What the specification says of a client, and not of one of its sessions or connections.

use crate::net::End;
use crate::peer::{Got, Peer, hello, will};
use crate::scripted::{fine, name_on, world};
use crate::settings::roomy;
use crate::world::World;
use ringmq::config::{OnFull, SharedStrategy};
use ringmq::packet::{AckKind, Connect, Qos, RetainHandling, SubscribeOptions, Will};
use ringmq::session::pending::PendingBounds;
use ringmq::shard::Settings;
use std::collections::{BTreeMap, BTreeSet};

const LOCAL: SubscribeOptions = SubscribeOptions {
    qos: Qos::AtLeastOnce,
    no_local: true,
    retain_as_published: false,
    retain_handling: RetainHandling::Send,
};

/// Acknowledges everything until nothing more comes; the payloads, repetitions included.
fn texts(world: &mut World, peer: &mut Peer) -> Vec<String> {
    let text = |packet| match packet {
        Got::Publish { payload, .. } => String::from_utf8(payload).unwrap(),
        other => panic!("{other:?} is no PUBLISH"),
    };
    peer.read_all(world).into_iter().map(text).collect()
}

/// A client that has published `count` retained messages `a/0`… and said goodbye.
fn retain(world: &mut World, count: u16) {
    let mut publisher = Peer::connect(world, 0, &hello("p", true, 0));
    for n in 0..count {
        let text = n.to_string();
        publisher.publish_as(world, &format!("a/{n}"), text.as_bytes(), 1, n + 1, true);
    }
    publisher.take(world);
    publisher.goodbye(world);
}

/// Small windows and queues: a replay takes many slices and stops when nobody acknowledges.
fn slow() -> Settings {
    let pending = PendingBounds { messages: 32, bytes: 1 << 20, on_full: OnFull::DropOldest };
    Settings { pending, max_inflight: 4, ..roomy() }
}

#[test]
fn no_local_knows_the_publisher_by_its_client_id() {
    for shards in 1..=3 {
        let mut world = world(shards, roomy());
        let testament = Will { retain: true, ..will("t/will", 0) };
        let connect = Connect { will: Some(testament), ..hello("c", true, 0) };
        let mut first = Peer::connect(&mut world, 0, &connect);
        first.publish_as(&mut world, "t/retained", b"kept", 1, 1, true);
        first.take(&mut world);
        first.end(&mut world, End::Reset);
        world.settle();
        // Another client may have the place of the session that has ended.
        let mut other = Peer::connect(&mut world, 0, &hello("d", true, 0));
        let mut again = Peer::connect(&mut world, shards - 1, &hello("c", true, 0));
        again.subscribe_with(&mut world, 1, "t/+", LOCAL, None);
        assert_eq!(texts(&mut world, &mut again), [""; 0], "{shards} shards");
        other.subscribe_with(&mut world, 1, "t/+", LOCAL, None);
        let got: BTreeSet<_> = texts(&mut world, &mut other).into_iter().collect();
        assert_eq!(got, BTreeSet::from(["gone".into(), "kept".into()]));
        fine(&world);
    }
}

#[test]
fn a_delayed_will_of_an_earlier_session_is_local_too() {
    let mut world = world(2, roomy());
    let connect = Connect { will: Some(will("t", 30)), ..hello("c", true, 60) };
    let mut first = Peer::connect(&mut world, 0, &connect);
    first.subscribe_with(&mut world, 1, "t", LOCAL, None);
    first.take(&mut world);
    first.end(&mut world, End::Reset);
    world.settle();
    // Offline, its own will passes its queue by.
    for _ in 0..40 {
        world.advance(1000);
        world.settle();
    }
    assert_eq!(world.counters().wills_sent, 1);
    let mut again = Peer::connect(&mut world, 1, &hello("c", false, 60));
    assert_eq!(texts(&mut world, &mut again), [""; 0]);
}

#[test]
fn a_share_by_client_picks_one_member_for_all_sessions_of_a_publisher() {
    let settings = Settings { shared_strategy: SharedStrategy::HashClient, ..roomy() };
    let mut world = world(3, settings);
    let mut members: Vec<Peer> = (0..4)
        .map(|n| {
            let name = name_on(n % 3, 3, &format!("m{n}"));
            let mut peer = Peer::connect(&mut world, 0, &hello(&name, true, 0));
            peer.subscribe(&mut world, 1, "$share/g/t", 1);
            peer.take(&mut world);
            peer
        })
        .collect();
    let mut chosen: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for session in 0..4 {
        // In another order and beside others each time, so that places differ.
        let mut open = Vec::new();
        for n in 0..12 {
            let name = format!("p-{}", (n * 5 + session) % 12);
            let entry = (n + session) % 3;
            let mut peer = Peer::connect(&mut world, entry, &hello(&name, true, 0));
            peer.publish(&mut world, "t", name.as_bytes(), 1, 1);
            world.settle();
            open.push(peer);
        }
        for mut peer in open {
            peer.goodbye(&mut world);
        }
        for (at, member) in members.iter_mut().enumerate() {
            for payload in texts(&mut world, member) {
                chosen.entry(payload).or_default().insert(at);
            }
        }
    }
    assert_eq!(chosen.len(), 12);
    assert!(chosen.values().all(|members| members.len() == 1), "{chosen:?}");
    let used: BTreeSet<_> = chosen.values().flatten().collect();
    assert!(used.len() > 1, "one member for everybody: {chosen:?}");
    fine(&world);
}

#[test]
fn a_retained_replay_goes_on_with_the_next_connection() {
    for shards in 1..=3 {
        for steps in 0..40 {
            let mut world = world(shards, slow());
            retain(&mut world, 200);
            let mut peer = Peer::connect(&mut world, 0, &hello("c", true, 60));
            peer.take(&mut world);
            peer.subscribe(&mut world, 1, "a/+", 1);
            // Cut anywhere: before the first slice, while one is on its way, in the middle.
            for step in 0..steps {
                world.step(step % shards);
            }
            let bytes = world.conns[peer.conn].down.len();
            peer.end(&mut world, End::Reset);
            world.settle();
            let mut again = Peer::connect(&mut world, 0, &hello("c", false, 60));
            let got: BTreeSet<_> = texts(&mut world, &mut again).into_iter().collect();
            let subscribed = world.counters().subscriptions == 1;
            let expected = if subscribed { 200 } else { 0 };
            assert_eq!(got.len(), expected, "{shards} shards, {steps} steps, {bytes} bytes");
            fine(&world);
        }
    }
}

#[test]
fn what_is_lost_offline_does_not_hide_the_retained_message() {
    let mut world = world(1, slow());
    retain(&mut world, 100);
    let mut peer = Peer::connect(&mut world, 0, &hello("c", true, 60));
    peer.subscribe(&mut world, 1, "a/+", 1);
    peer.take(&mut world);
    peer.end(&mut world, End::Reset);
    world.settle();
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    publisher.publish_as(&mut world, "a/99", b"new", 0, 0, true);
    world.settle();
    assert_eq!(world.counters().dropped_offline_qos0, 1);
    let mut again = Peer::connect(&mut world, 0, &hello("c", false, 60));
    let got = texts(&mut world, &mut again);
    assert!(got.contains(&"new".into()) && !got.contains(&"99".into()), "{got:?}");
}

#[test]
fn replays_of_one_filter_do_not_pile_up_over_connections() {
    let mut world = world(2, slow());
    retain(&mut world, 100);
    for _ in 0..20 {
        let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
        peer.subscribe(&mut world, 1, "a/+", 1);
        peer.subscribe(&mut world, 2, "a/+", 1);
        peer.take(&mut world);
        peer.end(&mut world, End::Reset);
        world.settle();
    }
    let replaying: usize = world.nodes.iter().map(|node| node.shard.audit().replaying).sum();
    assert_eq!(replaying, 1);
    let mut again = Peer::connect(&mut world, 0, &hello("c", false, 60));
    let got: BTreeSet<_> = texts(&mut world, &mut again).into_iter().collect();
    assert_eq!(got.len(), 100);
    fine(&world);
}

#[test]
fn the_replay_of_a_filter_that_was_unsubscribed_does_not_serve_another() {
    let mut world = world(1, slow());
    retain(&mut world, 100);
    let mut peer = Peer::connect(&mut world, 0, &hello("c", true, 0));
    peer.subscribe(&mut world, 1, "a/#", 1);
    let first = peer.take(&mut world);
    peer.unsubscribe(&mut world, 2, "a/#");
    let never = SubscribeOptions { retain_handling: RetainHandling::DoNotSend, ..LOCAL };
    peer.subscribe_with(&mut world, 3, "a/+", never, None);
    for packet in first {
        if let Got::Publish { id, .. } = packet {
            peer.ack(&mut world, AckKind::PubAck, id);
        }
    }
    // What was queued for the first filter comes: two slices of a quarter of the queue each.
    let got = texts(&mut world, &mut peer);
    assert!((1..=16).contains(&got.len()), "{} retained messages after the window", got.len());
    fine(&world);
}
