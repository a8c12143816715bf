//! Links in worlds of their own: filters that they refuse, and what a link that is gone costs. What
//! they take is in the epilogue of every random run.

use crate::peer::{Peer, hello};
use crate::scripted::{fine, name_on, world};
use crate::settings::roomy;
use ringmq::shard::{LinkPlan, WhenFull};

fn plan(filters: &[&str]) -> LinkPlan {
    LinkPlan {
        filters: filters.iter().map(|&filter| filter.into()).collect(),
        bytes: 1 << 20,
        when_full: WhenFull::DropNew,
        names: false,
        own: None,
        zero: 0,
    }
}

#[test]
fn a_link_takes_plain_filters_only() {
    let mut world = world(1, roomy());
    let shard = &mut world.nodes[0].shard;
    for filters in [&["a/#/b"][..], &["a", "$share/g/a"], &[""]] {
        assert!(shard.open_link(plan(filters)).is_none());
    }
    let link = shard.open_link(plan(&["a", "a", "a/+"])).unwrap();
    shard.close_link(link);
    fine(&world);
}

/// A link does not make a message cross to another shard, and one that is closed takes nothing.
#[test]
fn a_link_costs_no_mail() {
    let mut world = world(2, roomy());
    let link = world.nodes[1].shard.open_link(plan(&["fleet/#"])).unwrap();
    let mut peer = Peer::connect(&mut world, 0, &hello(&name_on(0, 2, "a"), true, 0));
    let before = world.counters().mail_sent;
    for number in 0..100 {
        peer.publish(&mut world, "fleet/1", &[number], 0, 0);
    }
    world.settle();
    assert_eq!(world.counters().mail_sent, before);
    assert!(world.nodes[1].shard.take_from_link(link).is_none(), "accepted on the other shard");
    let here = world.nodes[0].shard.open_link(plan(&["fleet/#"])).unwrap();
    peer.publish(&mut world, "fleet/1", b"x", 0, 0);
    world.settle();
    assert_eq!(world.nodes[0].shard.link_counts(here).matched, 1);
    world.nodes[0].shard.close_link(here);
    peer.publish(&mut world, "fleet/1", b"x", 0, 0);
    world.settle();
    assert!(world.nodes[0].shard.take_from_link(here).is_none());
    fine(&world);
}
