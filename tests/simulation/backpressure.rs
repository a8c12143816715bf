//! Who is held back while a mailbox is full or a client does not read, for how long, and what
//! happens when one of them goes meanwhile.

use crate::net::End;
use crate::peer::{Got, Peer, hello};
use crate::scripted::{fine, name_on, world};
use crate::settings::roomy;
use ringmq::packet::{Connect, Version};
use ringmq::shard::Settings;

#[test]
fn a_shard_whose_mail_does_not_fit_stays_awake() {
    let mut world = world(2, roomy());
    let (near, far) = (name_on(0, 2, "p"), name_on(1, 2, "s"));
    let mut subscriber = Peer::connect(&mut world, 1, &hello(&far, true, 0));
    subscriber.subscribe(&mut world, 1, "t", 0);
    let mut publisher = Peer::connect(&mut world, 0, &hello(&near, true, 0));
    subscriber.take(&mut world);
    let payload = vec![0; 40_000];
    for _ in 0..20 {
        publisher.publish(&mut world, "t", &payload, 0, 0);
    }
    let before = world.nodes[0].busy;
    for _ in 0..1000 {
        world.step(0);
    }
    let busy = world.nodes[0].busy - before;
    assert!(busy < 20, "{busy} steps without a rest while it can do nothing");
    assert!(world.is_runnable(0), "nobody rings when the other mailbox has room again");
    assert_eq!(subscriber.take(&mut world).len(), 20);
}

#[test]
fn a_client_that_does_not_read_its_answers_is_not_read_any_more() {
    let mut world = world(1, Settings { outgoing_max_bytes: 8192, ..roomy() });
    let mut peer = Peer::silent(&mut world, 0, 64);
    peer.begin(&mut world, &hello("c", true, 0));
    world.settle();
    for _ in 0..100 {
        peer.raw(&mut world, &[0xC0, 0].repeat(1000));
        world.settle();
    }
    let unsent = world.nodes[0].shard.audit().most_unsent;
    assert!(unsent < 32 * 1024, "{unsent} bytes wait for a client that does not read");
    let pongs = peer.take(&mut world).iter().filter(|got| **got == Got::Pong).count();
    assert_eq!(pongs, 100_000);
    fine(&world);
}

#[test]
fn a_retry_adds_nothing_to_what_the_client_has_not_read() {
    let mut world = world(1, Settings { retry_interval: 1000, ..roomy() });
    let mut peer = Peer::silent(&mut world, 0, 100);
    peer.begin(&mut world, &Connect { version: Version::V311, ..hello("c", true, 0) });
    peer.subscribe(&mut world, 1, "t", 1);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for number in 1..=10 {
        publisher.publish(&mut world, "t", &[0; 1000], 1, number);
    }
    for _ in 0..60 {
        world.settle();
        world.advance(1000);
    }
    let unsent = world.nodes[0].shard.audit().most_unsent;
    assert!(unsent < 20_000, "{unsent} bytes");
}

#[test]
fn a_held_connection_that_ended_does_not_end_the_next_one_on_its_socket() {
    let mut world = world(2, roomy());
    let (near, far) = (name_on(0, 2, "p"), name_on(1, 2, "s"));
    let mut subscriber = Peer::connect(&mut world, 1, &hello(&far, true, 0));
    subscriber.subscribe(&mut world, 1, "t", 0);
    let mut publisher = Peer::connect(&mut world, 0, &hello(&near, true, 60));
    subscriber.take(&mut world);
    for _ in 0..30 {
        publisher.publish(&mut world, "t", &[0; 40_000], 0, 0);
    }
    publisher.end(&mut world, End::Fin);
    for _ in 0..1000 {
        world.step(0);
    }
    // The publisher is held for a mailbox; another connection takes its session over.
    let mut second = Peer::silent(&mut world, 0, 1 << 20);
    second.begin(&mut world, &hello(&near, false, 60));
    for _ in 0..20 {
        let mut third = Peer::silent(&mut world, 0, 1 << 20);
        third.begin(&mut world, &hello(&name_on(0, 2, "x"), true, 0));
        world.step(0);
    }
    second.publish(&mut world, "u", b"m", 1, 1);
    let got = second.take(&mut world);
    assert!(matches!(got[..], [Got::ConnAck { .. }, Got::Ack(..)]), "{got:?}");
    fine(&world);
}

#[test]
fn a_publisher_that_is_parked_again_as_it_goes_on_is_not_forgotten() {
    let mut world = world(1, Settings { outgoing_max_bytes: 65_536, ..roomy() });
    let mut subscriber = Peer::silent(&mut world, 0, 1000);
    subscriber.begin(&mut world, &hello("s", true, 0));
    subscriber.subscribe(&mut world, 1, "t", 0);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for number in 1..=40 {
        publisher.publish(&mut world, "t", &[0; 4000], 1, number);
    }
    world.settle();
    for _ in 0..10 {
        // The moment at which it goes on anyhow, and the subscriber does not count as slow yet.
        world.advance(300);
        world.settle();
    }
    assert_eq!(publisher.take(&mut world).len(), 41, "the publisher waits for ever");
    assert_eq!(world.nodes[0].shard.audit().held, []);
}

#[test]
fn nobody_waits_for_a_subscriber_that_has_gone() {
    let mut world = world(1, Settings { outgoing_max_bytes: 65_536, ..roomy() });
    let mut subscriber = Peer::silent(&mut world, 0, 1000);
    subscriber.begin(&mut world, &hello("s", true, 60));
    subscriber.subscribe(&mut world, 1, "t", 0);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for number in 1..=100 {
        publisher.publish(&mut world, "t", &[0; 4000], 1, number);
    }
    world.settle();
    assert_eq!(world.nodes[0].shard.audit().parked, [1, 1, 0]);
    subscriber.end(&mut world, End::Reset);
    assert_eq!(publisher.take(&mut world).len(), 101);
    world.advance(1000);
    world.settle();
    assert_eq!(world.nodes[0].shard.audit().parked, [0, 0, 0]);
}
