//! How long a publisher waits for whom: not at all for a reader beside others, and for its main
//! reader no longer in vain than its budget says.

use super::*;
use crate::net::Faults;
use ringmq::limits::Budget;

/// Milliseconds that may be waited in vain at once, and a look at the clock more.
const BUDGET: u64 = 300 + 40;

fn short(settings: &Settings) -> Settings {
    let pending = PendingBounds { messages: 20, bytes: 1 << 20, on_full: OnFull::DropOldest };
    Settings { pending, max_inflight: 1, receive_maximum: 1000, ..settings.clone() }
}

/// Readers of everything that acknowledge nothing are not noticed by anybody else.
pub fn bystanders(world: &mut World, settings: &Settings) {
    reload(world, short(settings));
    let shards = world.nodes.len() as u8;
    let mut slow = Vec::new();
    for number in 0..4 {
        let name = on(world, number % shards, |n| format!("e-slow-{number}-{n}"));
        let mut peer = join(world, &hello(&name, true, 0));
        subscribe(world, &mut peer, Wish::new("e/#", 1));
        slow.push(peer);
    }
    let reader = on(world, shards - 1, |n| format!("e-reader-{n}"));
    let mut reader = join(world, &hello(&reader, true, 0));
    subscribe(world, &mut reader, Wish::new("e/own", 1));
    let mut publisher = guest(world, "e-publisher");
    for number in 0..60 {
        publish(world, &mut publisher, "e/own", &[number], Said { qos: 1, ..Said::default() });
        let got = payloads(&reader.read_all(world));
        assert_eq!(got, [vec![number]], "with slow readers of everything beside it");
        if number % 10 == 9 {
            wait(world, 100);
        }
    }
    part(world, slow.into_iter().chain([reader, publisher]));
    reload(world, settings.clone());
}

/// A main reader that acknowledges nothing is waited for no longer than the budget, also when it
/// connects again.
pub fn slow_main_reader(world: &mut World, settings: &Settings) {
    reload(world, short(settings));
    let shards = world.nodes.len() as u8;
    let name = on(world, shards - 1, |n| format!("e-main-{n}"));
    let mut publisher = guest(world, "e-publisher");
    let (mut held, mut acks, rounds, each) = (0, 0, 3, 80);
    for _ in 0..rounds {
        let mut reader = join(world, &hello(&name, true, 0));
        subscribe(world, &mut reader, Wish::new("e/main", 1));
        for number in 1..=each {
            publisher.publish(world, "e/main", b"m", 1, number);
            acks += publisher.take(world).len();
            let crowded: usize = world.nodes.iter().map(|node| node.shard.audit().crowded).sum();
            held += if crowded > 0 { 10 } else { 0 };
            wait(world, 10);
        }
        part(world, [reader]);
    }
    wait(world, 500);
    acks += publisher.take(world).len();
    assert_eq!(acks, usize::from(rounds * each), "the publisher waits for ever");
    let most = BUDGET + 10 * u64::from(rounds * each) / 20;
    assert!(held > 0 && held <= most, "held for {held} ms by a reader that reads nothing");
    part(world, [publisher]);
    reload(world, settings.clone());
}

/// One whole step of a shard.
fn one_step(world: &mut World, at: usize) {
    world.step(at);
    while !world.is_between_steps(at) {
        world.step(at);
    }
}

/// Steps of the shard until `is_done` says so, after each of which `between` acts; at most `most`.
fn steps_until(
    world: &mut World,
    at: usize,
    most: usize,
    mut is_done: impl FnMut(&mut World) -> bool,
) -> usize {
    (0..most)
        .find(|_| {
            one_step(world, at);
            is_done(world)
        })
        .map_or(most, |steps| steps + 1)
}

/// Forty clients that each send as much as several turns hold, one that asks for little, and one
/// that asks for much among many who ask for little: nobody waits for a multiple of the others'
/// work.
pub fn turns(world: &mut World, settings: &Settings) {
    let budget = Budget { step: 40, turn: 40, ..settings.budget };
    let limit = std::mem::replace(&mut world.limit, 256);
    let peer = |world: &mut World, number: usize| {
        let name = on(world, 0, |n| format!("e-turn-{number}-{n}"));
        guest(world, &name)
    };
    let mut busy: Vec<Peer> = (0..40).map(|number| peer(world, number)).collect();
    let mut modest = peer(world, 40);
    reload(world, Settings { budget, ..settings.clone() });
    for one in &mut busy {
        for _ in 0..40 {
            one.publish(world, "e/nobody", b"m", 0, 0);
        }
    }
    // All of them have had a turn, or wait for it.
    (0..60).for_each(|_| one_step(world, 0));
    world.advance(20);
    modest.write(world, packet_ping);
    let waited = steps_until(world, 0, 100, |world| !modest.hear(world).is_empty());
    assert!(waited <= 8, "a PINGREQ among busy clients waits for {waited} steps");
    world.settle();

    for _ in 0..60 {
        modest.publish(world, "e/nobody", b"m", 0, 0);
    }
    modest.write(world, packet_ping);
    let waited = steps_until(world, 0, 75, |world| {
        world.advance(1);
        for one in &mut busy {
            while world.conns[one.conn].up.len() < 100 {
                one.publish(world, "e/nobody", b"m", 0, 0);
            }
        }
        !modest.hear(world).is_empty()
    });
    assert!(waited < 75, "who has had a turn waits while others come for their first");
    world.settle();
    part(world, busy.into_iter().chain([modest]));
    world.limit = limit;
    reload(world, settings.clone());
}

/// While a request goes on over many steps, others' answers do not wait for the end of theirs.
pub fn answers_first(world: &mut World, settings: &Settings) {
    let [busy, modest] = ["busy", "modest"].map(|name| on(world, 0, |n| format!("e-{name}-{n}")));
    let [mut busy, mut modest] = [busy, modest].map(|name| guest(world, &name));
    let budget = Budget { step: 400, turn: 400, filters_at_once: 16, ..settings.budget };
    reload(world, Settings { budget, ..settings.clone() });
    let mut filters = Vec::new();
    for number in 0..1500 {
        let filter = format!("e/first/{number}");
        let entry = SubscribeFilter { filter: &filter, options: SubscribeOptions::default() };
        entry.write(Version::V5, &mut filters).unwrap();
    }
    busy.write(world, |out, version| {
        let filters = SubscribeFilters::parse(version, &filters).unwrap();
        let (user, subscription_id) = (UserProperties::default(), None);
        let subscribe = Subscribe { id: id(903), subscription_id, user, filters };
        packet::encode_subscribe(out, version, &subscribe).unwrap();
    });
    (0..4).for_each(|_| one_step(world, 0));
    modest.write(world, packet_ping);
    let answered = |world: &mut World| {
        let down = &world.conns[modest.conn].down;
        !down.is_empty() || world.nodes[0].driver.is_sending(modest.conn)
    };
    let mut under_way = false;
    for _ in 0..8 {
        world.step_until(0, answered);
        under_way = !world.is_between_steps(0);
        world.finish(0);
        if answered(world) {
            break;
        }
    }
    assert!(under_way, "answered with the end of a step");
    assert!(busy.hear(world).is_empty(), "there is nothing to wait for");
    assert!(matches!(busy.take(world)[..], [Got::SubAck(903, _)]), "granted or refused");
    modest.take(world);
    part(world, [busy, modest]);
    reload(world, settings.clone());
}

/// Mail has one share of a step, however many looks at it the step has: here one for each PINGREQ
/// that the kernel reports.
pub fn mail(world: &mut World) {
    const SHARE: u32 = 12;
    // One message to one subscriber, with its send, comes on top, in either kind of mail.
    const ONE: u32 = 60;
    let reader = on(world, 0, |n| format!("e-reader-{n}"));
    let busy = on(world, 0, |n| format!("e-busy-{n}"));
    let other = on(world, 1, |n| format!("e-publisher-{n}"));
    let [mut reader, mut busy, mut publisher] =
        [&reader, &busy, &other].map(|name| guest(world, name));
    subscribe(world, &mut reader, Wish::new("e/y", 0));
    for _ in 0..1000 {
        publisher.publish(world, "e/y", b"m", 0, 0);
    }
    world.step(1);
    busy.raw(world, &[0xC0, 0].repeat(100));
    let (limit, share) = (world.limit, world.mail);
    let faults = world.nodes[0].driver.faults;
    (world.limit, world.mail) = (512, SHARE);
    world.nodes[0].driver.faults = Faults { receive: 2, torn: 1000, ..faults };
    one_step(world, 0);
    let cost = world.nodes[0].mail_work;
    assert!(cost >= SHARE, "there is no mail");
    assert!(cost <= 2 * (SHARE + ONE), "{cost} units of work for mail in a step");
    world.nodes[0].driver.faults = faults;
    (world.limit, world.mail) = (limit, share);
    assert_eq!(busy.take(world).len(), 100, "PINGRESP");
    assert_eq!(reader.take(world).len(), 1000, "each message");
    part(world, [reader, busy, publisher]);
}

fn packet_ping(out: &mut Vec<u8>, _: Version) {
    packet::encode_pingreq(out);
}
