//! Share groups lose nothing that some member can take (section 4.8.2): members that end, that are
//! full, that leave and that come back, on one shard or on two.

use super::*;
use ringmq::config::SharedStrategy;

/// Every dialogue, with settings that say which member gets what.
pub fn hold(world: &mut World, settings: &Settings) {
    let pending = PendingBounds { messages: 1000, bytes: 1 << 20, on_full: OnFull::DropNew };
    let shared_strategy = SharedStrategy::RoundRobin;
    let outgoing_max_bytes = 1 << 20;
    let settings = Settings {
        pending,
        shared_strategy,
        outgoing_max_bytes,
        max_inflight: 3,
        ..settings.clone()
    };
    reload(world, settings.clone());
    ended(world);
    ended_with_qos_2(world);
    left(world);
    back(world);
    let pending = PendingBounds { messages: 4, ..pending };
    reload(world, Settings { pending, max_inflight: 2, ..settings.clone() });
    one_full(world);
    all_full(world);
    pushed_out(world, &settings);
    if world.nodes.len() > 1 {
        qos_0_for_a_leaver(world);
    }
    reload(world, settings);
}

/// Two members, on the first and on the last shard, and a group at home on any.
fn pair(world: &mut World, topic: &str, qos: u8, expiry: u32) -> (String, Peer, Peer) {
    let last = world.nodes.len() as u8 - 1;
    let home = world.rng.below(world.nodes.len()) as u8;
    let group = on(world, home, |n| format!("$share/e{n}/{topic}"));
    let names = [0, last].map(|shard| on(world, shard, |n| format!("e-{topic}-{shard}-{n}")));
    // Not one name for both, where there is one shard.
    let mut a = join(world, &hello(&format!("{}-a", names[0]), true, expiry));
    let mut b = join(world, &hello(&names[1], true, 0));
    subscribe(world, &mut a, Wish::new(&group, qos));
    subscribe(world, &mut b, Wish::new(&group, qos));
    (group, a, b)
}

/// Publishes one message per number and waits for each acknowledgement.
fn publish_all(world: &mut World, topic: &str, qos: u8, numbers: std::ops::Range<u8>) {
    let mut publisher = guest(world, "e-publisher");
    for number in numbers {
        publish(world, &mut publisher, topic, &[number], Said { qos, ..Said::default() });
    }
    part(world, [publisher]);
}

/// The numbers of PUBLISH packets.
fn numbers(got: &[Got]) -> Vec<u8> {
    let number = |got: &Got| match got {
        Got::Publish { payload, dup: false, .. } => payload[0],
        other => panic!("{other:?}"),
    };
    got.iter().map(number).collect()
}

fn sorted(mut numbers: Vec<u8>) -> Vec<u8> {
    numbers.sort_unstable();
    numbers
}

/// A session ends: what it had not acknowledged and what waited for it goes to the other member, in
/// its order and before newer work, and is no repetition [MQTT-3.3.1-3].
fn ended(world: &mut World) {
    let (_, mut a, mut b) = pair(world, "e/h/1", 1, 0);
    publish_all(world, "e/h/1", 1, 0..20);
    let (sent, own) = (numbers(&a.take(world)), numbers(&b.take(world)));
    assert_eq!((sent.len(), own.len()), (3, 3), "a window each");
    let before = world.counters();
    a.end(world, End::Reset);
    world.settle();
    let after = world.counters();
    assert_eq!(after.share_ended - before.share_ended, 10, "share_ended");
    (1..=3).for_each(|number| b.ack(world, AckKind::PubAck, number));
    let rest = numbers(&b.read_all(world));
    let theirs: Vec<u8> = rest.iter().copied().filter(|n| n % 2 == sent[0] % 2).collect();
    assert_eq!(theirs, (0..20).filter(|n| n % 2 == sent[0] % 2).collect::<Vec<_>>(), "in order");
    let newest = rest.iter().position(|n| n % 2 != sent[0] % 2).unwrap();
    assert_eq!(newest, 10, "before newer work: {rest:?}");
    assert_eq!(sorted([own, rest].concat()), (0..20).collect::<Vec<_>>());
    part(world, [b]);
}

/// With QoS 2 only what was never sent goes to another member [MQTT-4.8.2-5].
fn ended_with_qos_2(world: &mut World) {
    let (_, mut a, mut b) = pair(world, "e/h/2", 2, 0);
    publish_all(world, "e/h/2", 2, 0..20);
    let sent = numbers(&a.take(world));
    assert_eq!(sent.len(), 3);
    let before = world.counters();
    a.end(world, End::Reset);
    world.settle();
    let after = world.counters();
    assert_eq!(after.dropped_session_gone - before.dropped_session_gone, 3, "session_gone");
    let mut got = b.take(world);
    for number in 1..=3 {
        b.ack(world, AckKind::PubRec, number);
        assert_eq!(b.take(world), [Got::Ack(AckKind::PubRel, number, ReasonCode::Success)]);
        b.ack(world, AckKind::PubComp, number);
        got.extend(b.read_all(world));
    }
    let got = sorted(numbers(&got));
    assert_eq!(got, (0..20).filter(|n| !sent.contains(n)).collect::<Vec<_>>());
    part(world, [b]);
}

/// A member leaves: what it was sent it finishes [MQTT-3.10.4-3], what waited for it goes to the
/// other one.
fn left(world: &mut World) {
    let (group, mut a, mut b) = pair(world, "e/h/3", 1, 60);
    publish_all(world, "e/h/3", 1, 0..16);
    let sent = numbers(&a.take(world));
    a.unsubscribe(world, 9, &group);
    assert_eq!(a.take(world), [Got::UnsubAck(9)]);
    let got = numbers(&b.read_all(world));
    assert_eq!(sorted([&sent[..], &got[..]].concat()), (0..16).collect::<Vec<_>>());
    (1..=3).for_each(|number| a.ack(world, AckKind::PubAck, number));
    assert_eq!(a.take(world), []);
    part(world, [b]);
    part_for_good(world, a);
}

/// A member that only disconnects keeps what it has; what is new goes to who is connected; back, it
/// has its share again.
fn back(world: &mut World) {
    let (_, mut a, mut b) = pair(world, "e/h/4", 1, 60);
    let name = on(world, 0, |n| format!("e-e/h/4-0-{n}")) + "-a";
    publish_all(world, "e/h/4", 1, 0..10);
    let sent = numbers(&a.take(world));
    a.end(world, End::Reset);
    world.settle();
    let mut got = numbers(&b.read_all(world));
    assert_eq!(got.len(), 5);
    publish_all(world, "e/h/4", 1, 10..14);
    got.extend(numbers(&b.read_all(world)));
    assert_eq!(got[5..], [10, 11, 12, 13]);
    let mut again = Peer::connect(world, 0, &hello(&name, false, 60));
    let packets = again.read_all(world);
    let kept: Vec<(u8, bool)> = packets
        .iter()
        .filter_map(|got| match got {
            Got::Publish { payload, dup, .. } => Some((payload[0], *dup)),
            _ => None,
        })
        .collect();
    let first = sent[0];
    let expected: Vec<(u8, bool)> = (0..5u8).map(|n| (first + 2 * n, n < 3)).collect();
    assert_eq!(kept, expected, "in flight, then waiting");
    publish_all(world, "e/h/4", 1, 14..18);
    let (own, others) = (numbers(&again.read_all(world)), numbers(&b.read_all(world)));
    assert_eq!((own.len(), others.len()), (2, 2), "a share each");
    part(world, [b]);
    part_for_good(world, again);
}

/// One member takes nothing more, the other reads on: nothing is lost.
fn one_full(world: &mut World) {
    let (_, mut a, mut b) = pair(world, "e/h/5", 1, 0);
    let before = world.counters();
    let mut got = Vec::new();
    for number in 0..40 {
        publish_all(world, "e/h/5", 1, number..number + 1);
        got.extend(numbers(&b.read_all(world)));
    }
    let stuck = numbers(&a.take(world));
    assert_eq!(stuck.len(), 2, "a window");
    (1..=2).for_each(|number| a.ack(world, AckKind::PubAck, number));
    let rest = numbers(&a.read_all(world));
    assert_eq!(rest.len(), 4, "a queue");
    assert_eq!(sorted([got, stuck, rest].concat()), (0..40).collect::<Vec<_>>());
    let after = world.counters();
    assert_eq!(after.dropped_share_full, before.dropped_share_full, "share_full");
    // It has room again, and its share.
    publish_all(world, "e/h/5", 1, 40..44);
    assert_eq!(numbers(&a.read_all(world)).len(), 2, "its share of what came later");
    b.read_all(world);
    part(world, [a, b]);
}

/// Nobody takes more: the policy of a member decides, and what it drops has a reason of its own.
fn all_full(world: &mut World) {
    let (_, mut a, mut b) = pair(world, "e/h/6", 1, 0);
    let before = world.counters();
    let mut publisher = guest(world, "e-publisher");
    for number in 0..17 {
        publisher.publish(world, "e/h/6", &[number], 1, 1 + u16::from(number));
    }
    world.settle();
    wait(world, 6000);
    let after = world.counters();
    assert_eq!(after.dropped_share_full - before.dropped_share_full, 5, "share_full");
    assert_eq!(publisher.take(world).len(), 17, "acknowledgements");
    let got = [numbers(&a.read_all(world)), numbers(&b.read_all(world))].concat();
    assert_eq!(sorted(got), (0..12).collect::<Vec<_>>(), "what came first");
    part(world, [a, b, publisher]);
}

/// What a plain subscription pushes out of a member's queue goes to another member.
fn pushed_out(world: &mut World, settings: &Settings) {
    let pending = PendingBounds { messages: 4, bytes: 1 << 20, on_full: OnFull::DropOldest };
    reload(world, Settings { pending, max_inflight: 1, ..settings.clone() });
    let (_, mut a, mut b) = pair(world, "e/h/7", 1, 0);
    subscribe(world, &mut a, Wish::new("e/h/plain", 1));
    publish_all(world, "e/h/7", 1, 0..6);
    let mut got = numbers(&b.read_all(world));
    let first = numbers(&a.take(world));
    assert_eq!((got.len(), first.len()), (3, 1));
    let before = world.counters();
    let mut publisher = guest(world, "e-publisher");
    for number in 0..4 {
        publisher.publish(world, "e/h/plain", &[100 + number], 1, 1 + u16::from(number));
    }
    world.settle();
    wait(world, 3000);
    let after = world.counters();
    assert_eq!(after.messages_dropped(), before.messages_dropped(), "nothing is dropped");
    got.extend(numbers(&b.read_all(world)));
    got.extend(&first);
    assert_eq!(sorted(got), (0..6).collect::<Vec<_>>());
    a.ack(world, AckKind::PubAck, 1);
    assert_eq!(numbers(&a.read_all(world)), [100, 101, 102, 103]);
    part(world, [a, b, publisher]);
}

/// QoS 0 that was picked for a member just before it disconnects goes to one that is connected.
fn qos_0_for_a_leaver(world: &mut World) {
    for expiry in [0, 60] {
        let name = on(world, 0, |n| format!("e-member-{n}"));
        let group = on(world, 1, |n| format!("$share/e{n}/e/h/0"));
        let other = on(world, 1, |n| format!("e-publisher-{n}"));
        let mut member = join_at(world, 0, &hello(&name, true, expiry));
        subscribe(world, &mut member, Wish::new(&group, 0));
        let mut publisher = join_at(world, 1, &hello(&other, true, 0));
        subscribe(world, &mut publisher, Wish::new(&group, 0));
        for number in 0..4 {
            publisher.publish(world, "e/h/0", &[number], 0, 0);
        }
        // Shard 1 picks the member before it has heard that the member leaves.
        world.step_to_input(1);
        member.say_goodbye(world);
        (0..50).for_each(|_| world.step(0));
        member.end(world, End::Fin);
        let got = numbers(&publisher.take(world));
        assert_eq!(sorted(got), [0, 1, 2, 3], "each to a member that is connected");
        if expiry > 0 {
            let again = Peer::connect(world, 0, &hello(&name, false, 60));
            part_for_good(world, again);
        }
        part(world, [publisher]);
    }
}
