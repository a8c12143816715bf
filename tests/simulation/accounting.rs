//! Figures and tables stay right: what is counted is there, and what has gone leaves nothing
//! behind.

use crate::net::End;
use crate::peer::{Peer, hello};
use crate::scripted::{fine, world};
use crate::settings::roomy;
use ringmq::config::OnFull;
use ringmq::session::pending::PendingBounds;
use ringmq::shard::Settings;

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
    let pending = PendingBounds { messages: 2, bytes: 1 << 20, on_full: OnFull::DropOldest };
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
fn reconnecting_over_and_over_leaves_no_timers_or_lists_behind() {
    let mut world = world(2, roomy());
    for round in 0..2000 {
        let name = format!("c{}", round % 4);
        let mut connect = hello(&name, true, 100);
        connect.keep_alive = 600;
        let mut peer = Peer::connect(&mut world, 0, &connect);
        peer.subscribe(&mut world, 1, "t", 1);
        peer.publish(&mut world, "t", b"m", 1, 1);
        world.settle();
        peer.end(&mut world, End::Reset);
        world.settle();
        world.conns.last_mut().unwrap().down.clear();
        world.advance(30);
    }
    for node in &world.nodes {
        let audit = node.shard.audit();
        assert!(audit.timers < 600, "{} timers for 4 clients", audit.timers);
        assert!(audit.idle_flows < 200, "{} entries for 4 clients", audit.idle_flows);
    }
    fine(&world);
}
