//! One behaviour each: regressions that the random runs or a hostile reading have found.

use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello, will};
use crate::settings::roomy;
use crate::world::{Plan, World, entrance};
use ringmq::config::OnFull;
use ringmq::packet::{AckKind, Connect, ConnectProperties};
use ringmq::session::pending::Bounds;
use ringmq::shard::{Settings, home_of};

fn world(shards: usize, settings: Settings) -> World {
    World::new(Plan {
        seed: 1,
        shards,
        data: 8,
        control: 8,
        settings,
        faults: Faults { receive: 4096, ..Faults::default() },
        entrances: vec![entrance("")],
    })
}

/// A ClientId that lives on `shard`.
fn name_on(shard: u8, shards: u8, tag: &str) -> String {
    (0..).map(|n| format!("{tag}-{n}")).find(|name| home_of(name, shards).0 == shard).unwrap()
}

fn fine(world: &World) {
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn a_clean_start_over_an_offline_session_leaves_no_offline_session_counted() {
    let mut world = world(1, roomy());
    let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
    peer.goodbye(&mut world);
    assert_eq!(world.counters().sessions_persistent, 1);
    Peer::connect(&mut world, 0, &hello("c", true, 60));
    assert_eq!(world.counters().sessions_persistent, 0);
    fine(&world);
}

#[test]
fn a_queue_that_drops_a_large_message_for_a_small_one_counts_right() {
    let pending = Bounds { messages: 2, bytes: 1 << 20, on_full: OnFull::DropOldest };
    let mut world = world(1, Settings { pending, ..roomy() });
    let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
    peer.subscribe(&mut world, 1, "t", 1);
    peer.take(&mut world);
    peer.goodbye(&mut world);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    publisher.publish(&mut world, "t", &[0; 1000], 1, 1);
    publisher.publish(&mut world, "t", b"2", 1, 2);
    publisher.publish(&mut world, "t", b"3", 1, 3);
    world.settle();
    assert_eq!(world.counters().dropped_queue_full, 1);
    fine(&world);
}

#[test]
fn a_group_on_its_members_own_shard_is_told_without_mail() {
    let mut world = world(1, roomy());
    let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
    peer.subscribe(&mut world, 1, "$share/g/t", 1);
    peer.take(&mut world);
    peer.goodbye(&mut world);
    assert_eq!((world.counters().mail_sent, world.counters().mail_received), (0, 0));
    fine(&world);
}
