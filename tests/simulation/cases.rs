//! One behaviour each: regressions that the random runs or a hostile reading have found.

use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello};
use crate::settings::roomy;
use crate::world::{Plan, World, entrance};
use ringmq::config::OnFull;
use ringmq::packet::{AckKind, Connect, Version};
use ringmq::session::pending::Bounds;
use ringmq::shard::{Settings, home_of};
use ringmq::topic::Seeds;

/// The seed of every scripted world, which decides where clients live.
pub const SEED: u64 = 1;

pub fn world(shards: usize, settings: Settings) -> World {
    mounted_world(shards, settings, "")
}

pub fn mounted_world(shards: usize, settings: Settings, mountpoint: &str) -> World {
    World::new(Plan {
        seed: SEED,
        shards,
        data: 8,
        control: 8,
        settings,
        faults: Faults { receive: 65_536, ..Faults::default() },
        entrances: vec![entrance(mountpoint)],
    })
}

/// A ClientId that lives on `shard`.
pub fn name_on(shard: u8, shards: u8, tag: &str) -> String {
    find_on(shard, shards, |n| format!("{tag}-{n}"))
}

/// A share group's filter that lives on `shard`.
pub fn group_on(shard: u8, shards: u8, filter: &str) -> String {
    find_on(shard, shards, |n| format!("$share/g{n}/{filter}"))
}

fn find_on(shard: u8, shards: u8, make: impl Fn(u32) -> String) -> String {
    let seeds = Seeds::fixed(SEED);
    (0..).map(make).find(|name| home_of(&seeds, name, shards).0 == shard).unwrap()
}

pub fn fine(world: &World) {
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
fn a_session_under_another_mountpoint_is_another_session() {
    let mut world = mounted_world(1, roomy(), "${username}/");
    let long = Connect { username: Some("a-long-tenant"), ..hello("c", false, 60) };
    let short = Connect { username: Some("b"), ..hello("c", false, 60) };
    let mut first = Peer::connect(&mut world, 0, &short);
    first.subscribe(&mut world, 1, "t", 1);
    first.take(&mut world);
    first.goodbye(&mut world);
    let publisher = Connect { username: Some("b"), ..hello("p", true, 0) };
    let mut publisher = Peer::connect(&mut world, 0, &publisher);
    publisher.publish(&mut world, "t", b"for b", 1, 1);
    world.settle();
    let mut second = Peer::connect(&mut world, 0, &long);
    publisher.publish(&mut world, "t", b"for b too", 1, 2);
    let got = second.take(&mut world);
    assert!(matches!(got[..], [Got::ConnAck { present: false, .. }]), "{got:?}");
    fine(&world);
}

#[test]
fn messages_that_cannot_be_sent_do_not_stall_those_behind_them() {
    let mut world = world(1, roomy());
    let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
    peer.subscribe(&mut world, 1, "t", 1);
    peer.take(&mut world);
    peer.goodbye(&mut world);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for number in 1..=2000 {
        publisher.publish(&mut world, "t", &[b'x'; 300], 1, number);
    }
    publisher.publish(&mut world, "t", b"small", 1, 3000);
    world.settle();
    let mut small = hello("c", false, 60);
    small.properties.maximum_packet_size = Some(100);
    let mut peer = Peer::connect(&mut world, 0, &small);
    assert_eq!(peer.payloads(&mut world), ["small"]);
    assert_eq!(world.counters().dropped_packet_too_large, 2000);
    fine(&world);
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
fn a_suback_does_not_come_on_a_later_connection() {
    let mut world = world(2, roomy());
    let name = name_on(0, 2, "c");
    let group = group_on(1, 2, "t");
    let mut first = Peer::connect(&mut world, 0, &hello(&name, false, 60));
    first.take(&mut world);
    first.subscribe(&mut world, 7, &group, 1);
    (0..10).for_each(|_| world.step(0));
    let mut second = Peer::silent(&mut world, 0, 1 << 20);
    second.begin(&mut world, &hello(&name, false, 60));
    for _ in 0..20 {
        world.step(0);
    }
    let got = second.take(&mut world);
    assert!(matches!(got[..], [Got::ConnAck { present: true, .. }]), "{got:?}");
    fine(&world);
}

#[test]
fn a_replay_of_an_earlier_connection_does_not_shorten_the_next_one() {
    let mut world = world(2, roomy());
    let name = name_on(0, 2, "c");
    let mut publisher = Peer::connect(&mut world, 1, &hello("p", true, 0));
    for number in 1..=600 {
        let topic = format!("r/{number}");
        publisher.publish_as(&mut world, &topic, topic.as_bytes(), 1, number, true);
    }
    publisher.take(&mut world);
    for rounds in 0..60 {
        let mut first = Peer::connect(&mut world, 0, &hello(&name, false, 60));
        first.take(&mut world);
        first.subscribe(&mut world, 7, "r/#", 0);
        // Both shards go on for a while, then the home of the session alone.
        for _ in 0..rounds / 2 {
            world.step(0);
            world.step(1);
        }
        if rounds % 2 == 1 {
            world.step(0);
        }
        let mut second = Peer::silent(&mut world, 0, 1 << 20);
        second.begin(&mut world, &hello(&name, false, 60));
        (0..6).for_each(|_| world.step(0));
        second.subscribe(&mut world, 8, "r/#", 0);
        (0..6).for_each(|_| world.step(0));
        let mut got = second.payloads(&mut world);
        got.sort();
        let all = got.len();
        got.dedup();
        assert_eq!((got.len(), all), (600, 600), "after {rounds} rounds");
        second.goodbye(&mut world);
    }
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

#[test]
fn redelivery_keeps_to_the_receive_maximum_of_the_new_connection() {
    let mut world = world(1, roomy());
    let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
    peer.subscribe(&mut world, 1, "t", 2);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    for number in 1..=8 {
        publisher.publish(&mut world, "t", &[b'0' + number as u8], 1 + number as u8 % 2, number);
    }
    assert_eq!(peer.payloads(&mut world).len(), 8);
    peer.end(&mut world, End::Reset);
    world.settle();
    let mut narrow = hello("c", false, 60);
    narrow.properties.receive_maximum = Some(2);
    let mut peer = Peer::connect(&mut world, 0, &narrow);
    let mut all = Vec::new();
    for _ in 0..20 {
        let got = peer.take(&mut world);
        let publishes = got.iter().filter(|got| matches!(got, Got::Publish { .. })).count();
        assert!(publishes <= 2, "{got:?}");
        for got in got {
            match got {
                Got::Publish { payload, qos, id, dup, .. } => {
                    assert!(dup, "it was sent before");
                    all.push(payload[0] - b'0');
                    let kind = if qos == 1 { AckKind::PubAck } else { AckKind::PubRec };
                    peer.ack(&mut world, kind, id);
                }
                Got::Ack(AckKind::PubRel, id, _) => peer.ack(&mut world, AckKind::PubComp, id),
                _ => {}
            }
        }
    }
    assert_eq!(all, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(world.counters().inflight, 0);
    fine(&world);
}

#[test]
fn a_qos_2_message_that_was_sent_does_not_expire() {
    let mut world = world(1, Settings { message_expiry_max: Some(1), ..roomy() });
    let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
    peer.subscribe(&mut world, 1, "t", 2);
    let mut publisher = Peer::connect(&mut world, 0, &hello("p", true, 0));
    publisher.publish(&mut world, "t", b"m", 2, 1);
    assert_eq!(peer.payloads(&mut world), ["m"]);
    peer.end(&mut world, End::Reset);
    world.settle();
    world.advance(5000);
    let mut peer = Peer::connect(&mut world, 0, &hello("c", false, 60));
    // [MQTT-4.3.3-7]: the client may hold it under that identifier and wait for PUBREL.
    assert_eq!(peer.payloads(&mut world), ["m"]);
    fine(&world);
}

#[test]
fn overlapping_subscriptions_with_one_identifier_send_it_twice() {
    let mut world = world(1, roomy());
    let mut peer = Peer::connect(&mut world, 0, &hello("c", true, 0));
    peer.subscribe_as(&mut world, 1, "t/#", 0, Some(5));
    peer.subscribe_as(&mut world, 2, "t/+", 0, Some(5));
    peer.take(&mut world);
    peer.publish(&mut world, "t/1", b"m", 0, 0);
    let got = peer.take(&mut world);
    assert!(matches!(&got[..], [Got::Publish { ids, .. }] if *ids == [5, 5]), "{got:?}");
}

#[test]
fn a_crowd_that_drops_at_once_keeps_nobody_waiting() {
    let mut world = world(1, roomy());
    let mut probe = Peer::connect(&mut world, 0, &hello("probe", true, 60));
    probe.subscribe(&mut world, 1, "t", 0);
    let mut crowd: Vec<Peer> = (0..400)
        .map(|n| Peer::connect(&mut world, 0, &hello(&format!("c{n}"), true, 60)))
        .collect();
    world.settle();
    probe.take(&mut world);
    for (number, peer) in crowd.iter_mut().enumerate() {
        peer.end(&mut world, if number % 2 == 0 { End::Reset } else { End::Fin });
    }
    probe.publish(&mut world, "t", b"m", 0, 0);
    world.limit = 1000;
    for _ in 0..1000 {
        world.step(0);
        if !world.conns[probe.conn].down.is_empty() {
            break;
        }
    }
    let left = world.nodes[0].shard.audit().connections;
    assert!(left > 200, "{left} connections are left: their ends come in shares");
    assert_eq!(probe.payloads(&mut world), ["m"]);
    world.settle();
    assert_eq!(world.nodes[0].shard.audit().connections, 1);
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
fn a_shard_that_was_held_up_hears_its_clients_before_it_judges_their_silence() {
    let mut world = world(1, roomy());
    let mut peers: Vec<_> = (0..20)
        .map(|n| {
            let name = format!("c{n}");
            let mut connect = hello(&name, true, 0);
            connect.keep_alive = 2;
            Peer::connect(&mut world, 0, &connect)
        })
        .collect();
    // The process is stopped; all but the first go on sending PINGREQ.
    world.settle();
    world.advance(60_000);
    for peer in &mut peers[1..] {
        peer.raw(&mut world, &[0xC0, 0]);
    }
    // A step takes in less than what has piled up.
    world.limit = 1;
    world.settle();
    assert_eq!(world.counters().connections_open, 20);
    for _ in 0..24 {
        world.advance(100);
        world.settle();
    }
    assert_eq!(world.counters().connections_open, 19, "silence is still noticed");
    assert_eq!(world.counters().keepalive_timeouts, 1);
    fine(&world);
}

/// The shard is always late, and takes in all there is each time, or never.
#[test]
fn silence_is_noticed_however_late_the_shard_is() {
    for limit in [64, 2] {
        let mut world = world(1, roomy());
        let mut peers: Vec<_> = (0..10)
            .map(|n| {
                let name = format!("c{n}");
                let mut connect = hello(&name, true, 0);
                connect.keep_alive = if n == 0 { 2 } else { 60 };
                Peer::connect(&mut world, 0, &connect)
            })
            .collect();
        world.settle();
        world.limit = limit;
        for late in 1..=10 {
            world.advance(1500);
            for peer in &mut peers[1..] {
                peer.raw(&mut world, &[0xC0, 0]);
            }
            world.step(0);
            let open = world.counters().connections_open;
            assert!(late >= 2 || open == 10, "closed before its time");
            assert!(late < 6 || open == 9, "never closed");
        }
        assert_eq!(world.counters().keepalive_timeouts, 1);
        fine(&world);
    }
}
