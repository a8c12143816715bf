//! Share groups at sizes that the random runs do not reach: what is worked off is worked off some
//! per step, and a client in many groups costs no more than it must.

use crate::net::End;
use crate::peer::{Got, Peer, hello};
use crate::scripted::{fine, group_on, name_on, world};
use crate::settings::roomy;
use crate::world::World;
use ringmq::packet::AckKind;
use ringmq::shard::Settings;

/// Steps the shards until this one would sleep; the most control mail by which what it has staged
/// grew in one step. The mailboxes here are so small that most of it is staged.
fn most_mail(world: &mut World, shard: usize) -> usize {
    let staged = |world: &World| world.nodes[shard].shard.audit().staged;
    let mut most = 0;
    for _ in 0..10_000 {
        let before = staged(world);
        world.step(shard);
        most = most.max(staged(world).saturating_sub(before));
        if !world.is_runnable(shard) {
            return most;
        }
        for other in (0..world.nodes.len()).filter(|&other| other != shard) {
            world.step(other);
        }
    }
    panic!("the shard never sleeps");
}

#[test]
fn what_a_large_session_leaves_goes_back_some_per_step_and_in_order() {
    let mut world = world(2, Settings { max_inflight: 3000, ..roomy() });
    let names = ["dies", "stays"].map(|tag| name_on(0, 2, tag));
    let group = group_on(1, 2, "t");
    let mut dies = Peer::connect(&mut world, 0, &hello(&names[0], true, 0));
    let mut stays = Peer::connect(&mut world, 0, &hello(&names[1], true, 0));
    let mut publisher = Peer::connect(&mut world, 1, &hello(&name_on(1, 2, "p"), true, 0));
    dies.subscribe(&mut world, 1, &group, 1);
    dies.take(&mut world);
    for number in 0..5000u16 {
        publisher.publish(&mut world, "t", &number.to_be_bytes(), 1, 1 + number);
        if number % 100 == 99 {
            publisher.take(&mut world);
            dies.take(&mut world);
        }
    }
    let audit = world.nodes[0].shard.audit();
    assert_eq!(audit.most_pending.0, 2000, "a window and a queue");
    stays.subscribe(&mut world, 1, &group, 1);
    stays.take(&mut world);
    dies.end(&mut world, End::Reset);
    let most = most_mail(&mut world, 0);
    assert!((100..=300).contains(&most), "{most} mails in one step");
    let got: Vec<u16> = stays
        .read_all(&mut world)
        .iter()
        .map(|got| match got {
            Got::Publish { payload, dup: false, .. } => {
                u16::from_be_bytes([payload[0], payload[1]])
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(got, (0..5000).collect::<Vec<_>>());
    assert_eq!(world.counters().messages_dropped(), 0);
    fine(&world);
}

#[test]
fn a_large_session_without_groups_is_dropped_some_per_step_and_counted() {
    let mut world = world(1, roomy());
    let mut away = Peer::connect(&mut world, 0, &hello("away", true, 60));
    away.subscribe(&mut world, 1, "t", 1);
    away.take(&mut world);
    away.goodbye(&mut world);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for number in 1..=3000 {
        publisher.publish(&mut world, "t", b"x", 1, number);
    }
    publisher.take(&mut world);
    Peer::silent(&mut world, 0, 1 << 20).begin(&mut world, &hello("away", true, 0));
    let mut steps = 0;
    while world.is_runnable(0) {
        let before = world.counters().dropped_session_gone;
        world.step(0);
        assert!(world.counters().dropped_session_gone - before <= 256);
        steps += 1;
    }
    assert_eq!(world.counters().dropped_session_gone, 3000);
    assert!(steps > 10);
    fine(&world);
}

#[test]
fn a_client_in_many_groups_comes_and_goes_with_one_mail_per_shard() {
    let mut world = world(3, roomy());
    let name = name_on(0, 3, "many");
    let mut many = Peer::connect(&mut world, 0, &hello(&name, true, 60));
    for number in 0..600 {
        many.subscribe(&mut world, 1 + number, &format!("$share/g/m/{number}"), 1);
        many.take(&mut world);
    }
    let before = world.counters().mail_received;
    many.end(&mut world, End::Reset);
    world.settle();
    assert_eq!(world.counters().mail_received - before, 2, "disconnecting");
    let mut many = Peer::connect(&mut world, 0, &hello(&name, false, 60));
    assert_eq!(world.counters().mail_received - before, 4, "connecting");
    fine(&world);
    // Each group knows that it is back.
    let mut other = Peer::connect(&mut world, 1, &hello("other", true, 0));
    many.take(&mut world);
    other.take(&mut world);
    for number in [0, 300, 599] {
        other.publish(&mut world, &format!("m/{number}"), b"x", 1, 1);
        assert_eq!(other.take(&mut world).len(), 1);
        let got = many.take(&mut world);
        let [Got::Publish { id, .. }] = got[..] else { panic!("{got:?}") };
        many.ack(&mut world, AckKind::PubAck, id);
    }
    many.goodbye(&mut world);
    fine(&world);
}

#[test]
fn who_leaves_one_group_still_counts_as_connected_in_the_others() {
    let mut world = world(2, roomy());
    let (one, other) = (group_on(1, 2, "t"), group_on(1, 2, "u"));
    let mut member = Peer::connect(&mut world, 0, &hello(&name_on(0, 2, "c"), true, 60));
    let mut publisher = Peer::connect(&mut world, 1, &hello(&name_on(1, 2, "p"), true, 0));
    member.subscribe(&mut world, 1, &one, 1);
    member.subscribe(&mut world, 2, &other, 1);
    member.take(&mut world);
    publisher.subscribe(&mut world, 9, &one, 1);
    publisher.take(&mut world);
    // Shard 1 picks it for a message of the group that it is leaving.
    publisher.publish(&mut world, "t", b"x", 1, 1);
    publisher.publish(&mut world, "t", b"x", 1, 2);
    world.step_to_input(1);
    member.unsubscribe(&mut world, 3, &one);
    (0..5).for_each(|_| world.step(0));
    assert_eq!(member.take(&mut world), [Got::UnsubAck(3)]);
    assert_eq!(publisher.payloads(&mut world), ["x", "x"]);
    assert_eq!(world.counters().share_refused, 1, "it was asked and had left");
    assert!(world.nodes[1].shard.presences().all(|(_, online)| online));
    // QoS 0 goes to nobody who is away.
    publisher.publish(&mut world, "u", b"y", 0, 0);
    publisher.take(&mut world);
    assert_eq!(member.payloads(&mut world), ["y"]);
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

#[test]
fn a_message_picked_for_a_member_that_left_goes_to_another() {
    let mut world = world(2, roomy());
    let name = name_on(0, 2, "c");
    let other = name_on(1, 2, "d");
    let group = group_on(1, 2, "t");
    let mut member = Peer::connect(&mut world, 0, &hello(&name, true, 60));
    member.subscribe(&mut world, 7, &group, 1);
    let mut publisher = Peer::connect(&mut world, 1, &hello(&other, true, 0));
    member.take(&mut world);
    publisher.subscribe(&mut world, 1, &group, 1);
    publisher.take(&mut world);
    for number in 1..=4 {
        publisher.publish(&mut world, "t", &[b'0' + number as u8], 1, number);
    }
    // Shard 1 picks the member before it has heard that the member leaves.
    world.step_to_input(1);
    member.unsubscribe(&mut world, 9, &group);
    (0..5).for_each(|_| world.step(0));
    let got = member.take(&mut world);
    assert_eq!(got, [Got::UnsubAck(9)]);
    assert_eq!(publisher.payloads(&mut world).len(), 4);
    fine(&world);
}
