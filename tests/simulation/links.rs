//! Links: what a subscriber that is no client sees is what clients publish, in order, wherever they
//! are; and its bounds hold.

use crate::peer::{Peer, hello};
use crate::scripted::{fine, name_on, world};
use crate::settings::roomy;
use crate::world::World;
use ringmq::shard::{LinkBounds, LinkCounts, LinkId, WhenFull};
use std::collections::HashMap;

const SHARDS: u8 = 2;
const HERE: usize = 1;
const MESSAGES: usize = 400;

fn bounds(messages: usize, when_full: WhenFull) -> LinkBounds {
    LinkBounds { messages, bytes: 1 << 20, when_full }
}

/// All that waits: the topic, and the number that is the payload.
fn take(world: &mut World, link: LinkId) -> Vec<(String, usize)> {
    let shard = &mut world.nodes[HERE].shard;
    let messages = std::iter::from_fn(|| shard.take_from_link(link));
    let read = |message: ringmq::message::Message| {
        let view = message.view();
        (view.topic.to_owned(), str::from_utf8(view.payload).unwrap().parse().unwrap())
    };
    messages.map(read).collect()
}

/// A client on each shard publishes its share of the messages, each to topics of its own.
fn publish(world: &mut World, tag: &str, mut between: impl FnMut(&mut World)) {
    let mut peers: Vec<Peer> = (0..SHARDS)
        .map(|shard| Peer::connect(world, 0, &hello(&name_on(shard, SHARDS, tag), true, 0)))
        .collect();
    for number in 0..MESSAGES {
        for (at, peer) in peers.iter_mut().enumerate() {
            let topic = format!("fleet/{at}/{}", number % 3);
            peer.publish(world, &topic, number.to_string().as_bytes(), 0, 0);
        }
        if number % 50 == 49 {
            world.settle();
            between(world);
        }
    }
    world.settle();
}

#[test]
fn a_link_gets_what_clients_of_every_shard_publish_in_order() {
    let mut world = world(usize::from(SHARDS), roomy());
    let big = bounds(100_000, WhenFull::DropNew);
    let link = world.nodes[HERE].shard.open_link(&["fleet/#", "other/+"], big).unwrap();
    let mut seen: HashMap<String, Vec<usize>> = HashMap::new();
    publish(&mut world, "a", |world| {
        for (topic, number) in take(world, link) {
            seen.entry(topic).or_default().push(number);
        }
        fine(world);
    });
    assert_eq!(seen.len(), 3 * usize::from(SHARDS));
    for (topic, numbers) in &seen {
        let kind: usize = topic.rsplit('/').next().unwrap().parse().unwrap();
        assert!(numbers.iter().copied().eq((kind..MESSAGES).step_by(3)), "{topic}: {numbers:?}");
    }
    let all = (MESSAGES * usize::from(SHARDS)) as u64;
    let counts = LinkCounts { matched: all, taken: all, dropped: 0 };
    assert_eq!(world.nodes[HERE].shard.link_counts(link), counts);

    world.nodes[HERE].shard.close_link(link);
    let before = world.counters().mail_sent;
    publish(&mut world, "b", |world| fine(world));
    // Connecting takes mail; 400 messages from the other shard would be much more.
    assert!(world.counters().mail_sent - before < 10, "still routed to a link that is closed");
    fine(&world);
}

#[test]
fn a_full_link_drops_and_counts_and_holds_nobody_up() {
    for (when_full, first) in [(WhenFull::DropNew, 0), (WhenFull::DropOldest, MESSAGES - 5)] {
        let mut world = world(usize::from(SHARDS), roomy());
        let link = world.nodes[HERE].shard.open_link(&["fleet/1/#"], bounds(5, when_full)).unwrap();
        publish(&mut world, "a", |world| fine(world));
        let numbers: Vec<usize> = take(&mut world, link).into_iter().map(|(_, n)| n).collect();
        assert_eq!(numbers, Vec::from_iter(first..first + 5));
        let (matched, dropped) = (MESSAGES as u64, MESSAGES as u64 - 5);
        let counts = LinkCounts { matched, taken: 5, dropped };
        assert_eq!(world.nodes[HERE].shard.link_counts(link), counts);
        assert_eq!(world.counters().parks_publisher, 0);
    }
}

#[test]
fn a_link_takes_plain_filters_only() {
    let mut world = world(1, roomy());
    let shard = &mut world.nodes[0].shard;
    for filters in [&["a/#/b"][..], &["a", "$share/g/a"], &[""]] {
        assert!(shard.open_link(filters, bounds(1, WhenFull::DropNew)).is_none());
    }
    let link = shard.open_link(&["a", "a", "a/+"], bounds(10, WhenFull::DropNew)).unwrap();
    shard.close_link(link);
    fine(&world);
}
