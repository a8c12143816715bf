//! Overload, limits of clients and addresses, and bans: what is not done any more at each level,
//! who is told, that QoS 1 goes on at all of them, and that each limit is neither more nor less.

use super::*;
use ringmq::overload::bans::{BanFile, Trigger};
use ringmq::overload::limits::{Excess, LimitSet, LimitWanted, UserEntry};
use ringmq::overload::{OverloadLevel, Policy, Thresholds};
use ringmq::packet::ConnectProperties;
use ringmq::shard::LoopSignals;

/// What begins level 1, microseconds.
const LAG: u64 = 50_000;

/// Holds every dialogue.
pub fn hold(world: &mut World, settings: &Settings) {
    let mut settings = settings.clone();
    settings.pending = PendingBounds { messages: 1000, bytes: 1 << 26, on_full: OnFull::DropNew };
    (settings.outgoing_max_bytes, settings.max_packet_size) = (1 << 20, 1 << 20);
    (settings.receive_maximum, settings.max_inflight) = (100, 100);
    slow_subscriber(world, &settings);
    levels(world, &settings);
    no_flapping(world, &settings);
    pace(world, &settings);
    rates(world, &settings);
    users(world, &settings);
    // The address that everybody comes from is no proxy's.
    settings.trusted_proxies = Default::default();
    addresses(world, &settings);
    bans(world, &settings);
    measure(world, 0);
}

pub(super) fn with(world: &mut World, settings: &Settings, policy: Policy) {
    reload(world, Settings { policy: Arc::new(policy), ..settings.clone() });
    world.settle();
}

fn overload() -> Policy {
    let overload =
        Thresholds { enabled: true, lag: LAG, crowd: 200, slowest: 50, ..Thresholds::default() };
    Policy { overload, server_reference: "other:1883".into(), ..Policy::default() }
}

/// From now on steps take so long, microseconds.
fn measure(world: &mut World, longest_step: u64) {
    let signals = LoopSignals { longest_step, longest_ran: longest_step, ..LoopSignals::default() };
    world.nodes.iter_mut().for_each(|node| node.signals = signals);
}

/// Every shard looks at its signals so many times.
fn look(world: &mut World, times: usize) {
    for _ in 0..times {
        // A little more than the shards ask for: each step takes a microsecond.
        world.advance(101);
        (0..world.nodes.len()).for_each(|at| world.wake(at));
        world.settle();
    }
}

fn overload_levels(world: &World) -> Vec<OverloadLevel> {
    world.nodes.iter().map(|node| node.shard.overload_level()).collect()
}

#[track_caller]
fn all_at(world: &World, level: OverloadLevel) {
    assert_eq!(overload_levels(world), vec![level; world.nodes.len()], "the level of overload");
}

fn refused(reason: ReasonCode) -> [Got; 1] {
    [Got::ConnAck { present: false, reason }]
}

#[track_caller]
fn turned_away(world: &mut World, connect: &Connect<'_>, reason: ReasonCode) {
    let mut peer = Peer::connect(world, 0, connect);
    assert_eq!(peer.take(world), refused(reason), "{}", connect.client_id);
    assert!(peer.is_closed(world), "nothing follows a refusal");
    peer.end(world, End::Fin);
    world.settle();
}

/// A message of QoS 1 or 2 is acknowledged and comes, whatever the level.
fn steady(world: &mut World, pair: &mut [Peer; 2], qos: u8) {
    let [publisher, subscriber] = pair;
    let said = Said { qos, ..Said::default() };
    publish(world, publisher, "e/steady", b"on", said);
    let got = subscriber.take(world);
    let [Got::Publish { id, qos: 1, .. }] = got[..] else { panic!("acknowledged, lost: {got:?}") };
    subscriber.ack(world, AckKind::PubAck, id);
    world.settle();
}

fn levels(world: &mut World, settings: &Settings) {
    with(world, settings, overload());
    let mut pair = [guest(world, "e-steady-p"), guest(world, "e-steady-s")];
    subscribe(world, &mut pair[1], Wish::new("e/steady", 1));
    measure(world, 10 * LAG);
    look(world, 1);
    all_at(world, OverloadLevel::None);
    look(world, 1);
    all_at(world, OverloadLevel::Connects);
    let before = world.counters().refused_overload;
    turned_away(world, &hello("e-late", true, 0), ReasonCode::UseAnotherServer);
    let properties = ConnectProperties::default();
    let old = Connect { version: Version::V311, properties, ..hello("e-late", true, 0) };
    turned_away(world, &old, ReasonCode::ServerUnavailable);
    assert_eq!(world.counters().refused_overload, before + 2);
    steady(world, &mut pair, 1);
    for (times, level) in [(40, OverloadLevel::Qos0), (80, OverloadLevel::Stored)] {
        measure(world, times * LAG);
        look(world, 2);
        all_at(world, level);
        let before = world.counters().dropped_overload;
        publish(world, &mut pair[0], "e/steady", b"shed", Said::default());
        assert_eq!(pair[1].take(world), [], "QoS 0 at {level:?}");
        assert_eq!(world.counters().dropped_overload, before + 1, "QoS 0 at {level:?}");
        steady(world, &mut pair, 1);
        steady(world, &mut pair, 2);
    }
    let [publisher, subscriber] = &mut pair;
    subscriber.subscribe(world, 7, "e/more", 1);
    let full = ReasonCode::QuotaExceeded;
    assert_eq!(subscriber.take(world), [Got::SubAck(7, vec![full as u8])]);
    publisher.publish_as(world, "e/kept", b"value", 1, 7, true);
    assert_eq!(publisher.take(world), [Got::Ack(AckKind::PubAck, 7, full)], "to be retained");
    measure(world, 0);
    look(world, 9);
    all_at(world, OverloadLevel::Stored);
    for level in [OverloadLevel::Qos0, OverloadLevel::Slow, OverloadLevel::Connects] {
        look(world, 11);
        all_at(world, level);
    }
    look(world, 24);
    all_at(world, OverloadLevel::None);
    subscribe(world, &mut pair[1], Wish::new("e/more", 1));
    part(world, pair);
    with(world, settings, Policy::default());
}

/// Who does not read loses what is oldest of QoS 0, and nothing else.
fn slow_subscriber(world: &mut World, settings: &Settings) {
    let small = Settings { outgoing_max_bytes: 16_384, send_timeout: 0, ..settings.clone() };
    reload(world, small);
    let mut subscriber = Peer::silent(world, 0, 1000);
    subscriber.begin(world, &hello("e-slow", true, 0));
    subscriber.take(world);
    subscribe(world, &mut subscriber, Wish::new("e/slow", 0));
    subscribe(world, &mut subscriber, Wish::new("e/sure", 1));
    let mut publisher = guest(world, "e-slow-p");
    let before = world.counters().dropped_outgoing_full;
    for number in 0..60u8 {
        let topic = if number % 20 == 0 { "e/sure" } else { "e/slow" };
        publisher.publish(world, topic, &[number; 2000], 1, u16::from(number) + 1);
        wait(world, 100);
    }
    let mut got = payloads(&subscriber.read_all(world));
    wait(world, 2000);
    got.extend(payloads(&subscriber.read_all(world)));
    let numbers: Vec<u8> = got.iter().map(|payload| payload[0]).collect();
    let shed = world.counters().dropped_outgoing_full - before;
    assert_eq!(numbers.len() as u64 + shed, 60, "delivered and shed");
    assert!(shed > 0, "nothing was shed");
    assert_eq!(numbers.last(), Some(&59), "the newest: {numbers:?}");
    for sure in [0, 20, 40] {
        assert!(numbers.contains(&sure), "QoS 1: {numbers:?}");
    }
    part(world, [subscriber, publisher]);
    reload(world, settings.clone());
}

/// A signal that moves around what begins a level changes it once.
fn no_flapping(world: &mut World, settings: &Settings) {
    with(world, settings, overload());
    measure(world, LAG);
    look(world, 2);
    let before = world.counters().overload_changes;
    for turn in 0..20 {
        measure(world, if turn % 2 == 0 { LAG * 85 / 100 } else { LAG });
        look(world, 2);
    }
    all_at(world, OverloadLevel::Accepts);
    assert_eq!(world.counters().overload_changes, before, "changes of the level");
    measure(world, 0);
    look(world, 12);
    with(world, settings, Policy::default());
}

/// A crowd that makes steps long is let in at a pace, and all of it in the end.
fn pace(world: &mut World, settings: &Settings) {
    with(world, settings, overload());
    look(world, 1);
    let come = |world: &mut World, tag: &str, count: usize| {
        let name = |n| format!("e-{tag}-{n}");
        let crowd = (0..count).map(|n| Peer::connect(world, 0, &hello(&name(n), true, 0)));
        crowd.collect::<Vec<_>>()
    };
    measure(world, LAG / 3);
    look(world, 1);
    let first = come(world, "first", 60);
    look(world, 1);
    let pace = world.counters().overload_pace;
    assert!((430..=450).contains(&pace), "three quarters of 60 in 101 ms: {pace}");
    measure(world, 0);
    let before = world.counters().connections_accepted;
    let second = come(world, "second", 90);
    let at_once = world.counters().connections_accepted - before;
    assert!((40..=50).contains(&at_once), "{at_once} at once, a tenth of a second's worth is 45");
    wait(world, 1000);
    assert_eq!(world.counters().connections_accepted - before, 90, "all of them in time");
    for peer in first.into_iter().chain(second) {
        part(world, [peer]);
    }
    look(world, 60);
    assert_eq!(world.counters().overload_pace, 0, "no limit when nobody waits");
    with(world, settings, Policy::default());
}

pub(super) fn limited(set: LimitSet) -> Policy {
    let mut policy = Policy::default();
    policy.limits.client = set;
    policy
}

/// PUBACKs of QoS 1 that have come, with their reasons.
fn acks(world: &mut World, peer: &mut Peer) -> Vec<ReasonCode> {
    let reason = |got| match got {
        Got::Ack(AckKind::PubAck, _, reason) => reason,
        other => panic!("{other:?}"),
    };
    peer.take(world).into_iter().map(reason).collect()
}

fn rates(world: &mut World, settings: &Settings) {
    let ten = LimitSet { messages: LimitWanted::At(10), ..LimitSet::default() };
    with(world, settings, limited(ten));
    let mut peer = guest(world, "e-rate-park");
    for number in 1..=30 {
        peer.publish(world, "e/rate", b".", 1, number);
    }
    let mut seen = acks(world, &mut peer).len();
    assert!((10..=11).contains(&seen), "{seen} at once");
    for tenth in 1..=19 {
        wait(world, 100);
        seen += acks(world, &mut peer).len();
        assert!(seen <= 11 + tenth, "{seen} after {tenth} tenths of a second");
    }
    wait(world, 200);
    seen += acks(world, &mut peer).len();
    assert_eq!(seen, 30, "what waited for its rate");
    part(world, [peer]);

    let excess = Some(Excess::Drop);
    with(world, settings, limited(LimitSet { excess, ..ten }));
    let mut peer = guest(world, "e-rate-drop");
    peer.publish(world, "e/rate", b".", 2, 99);
    let received = |got: &[Got]| match got {
        [Got::Ack(AckKind::PubRec, 99, reason)] => (*reason as u8) < 0x80,
        _ => false,
    };
    assert!(received(&peer.take(world)));
    for number in 1..=12 {
        peer.publish(world, "e/rate", b".", 1, number);
    }
    let seen = acks(world, &mut peer);
    // What was accepted within the rate is not refused when it is sent again.
    peer.publish(world, "e/rate", b".", 2, 99);
    assert!(received(&peer.take(world)), "refused when it was sent again");
    assert_eq!(seen[11], ReasonCode::QuotaExceeded, "beyond the rate: {seen:?}");
    let before = world.counters().dropped_rate;
    // One may be within the rate again by now.
    (0..3).for_each(|_| peer.publish(world, "e/rate", b".", 0, 0));
    assert_eq!(peer.take(world), []);
    let dropped = world.counters().dropped_rate - before;
    assert!((2..=3).contains(&dropped), "QoS 0 beyond the rate: {dropped} of 3");
    part(world, [peer]);

    let bytes = LimitWanted::At(1000);
    let excess = Some(Excess::Disconnect);
    with(world, settings, limited(LimitSet { bytes, excess, ..LimitSet::default() }));
    let mut peer = guest(world, "e-rate-end");
    publish(world, &mut peer, "e/rate", &[b'.'; 2000], Said { qos: 1, ..Said::default() });
    peer.publish(world, "e/rate", b".", 1, 2);
    assert_eq!(peer.take(world), [Got::Disconnect(ReasonCode::MessageRateTooHigh)]);
    assert!(peer.is_closed(world));
    peer.end(world, End::Fin);
    world.settle();

    let few = LimitSet {
        subscriptions: LimitWanted::At(1),
        topic_levels: LimitWanted::At(2),
        pending_messages: LimitWanted::At(2),
        ..LimitSet::default()
    };
    with(world, settings, limited(few));
    let mut away = join(world, &hello("e-few", true, 600));
    subscribe(world, &mut away, Wish::new("e/few", 1));
    away.subscribe(world, 8, "e/other", 1);
    assert_eq!(away.take(world), [Got::SubAck(8, vec![ReasonCode::QuotaExceeded as u8])]);
    away.subscribe(world, 9, "e/too/deep", 1);
    assert_eq!(away.take(world), [Got::SubAck(9, vec![ReasonCode::TopicFilterInvalid as u8])]);
    part(world, [away]);
    let mut publisher = guest(world, "e-few-p");
    let before = world.counters().dropped_queue_full;
    for text in [b"1", b"2", b"3"] {
        publish(world, &mut publisher, "e/few", text, Said { qos: 1, ..Said::default() });
    }
    assert_eq!(world.counters().dropped_queue_full, before + 1, "a queue of two");
    part(world, [publisher]);
    let mut back = Peer::connect(world, 0, &hello("e-few", false, 0));
    let got = back.take(world);
    assert_eq!(got.len(), 3, "CONNACK and what had waited: {got:?}");
    part_for_good(world, back);
    with(world, settings, Policy::default());
}

fn users(world: &mut World, settings: &Settings) {
    let mut policy = Policy::default();
    policy.limits.users.push(UserEntry {
        username: None,
        client_id: Some(ringmq::access::pattern::Glob::new("e-user-*")),
        place: LimitSet::default(),
        connections: Some(2),
        connects_per_second: None,
        account: 0,
        group: Arc::default(),
    });
    let group = Arc::clone(&policy.limits.users[0].group);
    with(world, settings, policy);
    let one = guest(world, "e-user-1");
    let two = guest(world, "e-user-2");
    let other = guest(world, "e-other");
    turned_away(world, &hello("e-user-3", true, 0), ReasonCode::QuotaExceeded);
    // Its old connection is one of the two.
    let mut again = Peer::connect(world, 0, &hello("e-user-2", true, 0));
    assert_eq!(again.take(world), refused(ReasonCode::Success), "a takeover");
    let mut two = two;
    two.end(world, End::Fin);
    world.settle();
    part(world, [one]);
    let three = guest(world, "e-user-3");
    part(world, [again, three, other]);
    assert_eq!(group.connections.used(), 0, "connections of the user when all have gone");
    with(world, settings, Policy::default());
}

fn addresses(world: &mut World, settings: &Settings) {
    let mut policy = Policy::default();
    policy.limits.address.connections = Some(2);
    with(world, settings, policy.clone());
    let one = guest(world, "e-address-1");
    let two = guest(world, "e-address-2");
    let before = world.counters().refused_address_limit;
    turned_away(world, &hello("e-address-3", true, 0), ReasonCode::QuotaExceeded);
    assert_eq!(world.counters().refused_address_limit, before + 1);
    part(world, [one]);
    let three = guest(world, "e-address-3");
    part(world, [two, three]);
    assert_eq!(world.shared.sources.known(), 0, "addresses that are known when all have gone");
    policy.limits.address.connections = None;
    policy.limits.address.connects_per_second = Some(2);
    with(world, settings, policy);
    let few = [guest(world, "e-address-1"), guest(world, "e-address-2")];
    let more = guest(world, "e-address-3");
    turned_away(world, &hello("e-address-4", true, 0), ReasonCode::ConnectionRateExceeded);
    wait(world, 1000);
    let last = guest(world, "e-address-4");
    part(world, few);
    part(world, [more, last]);
    let one = Policy::default();
    let limits = ringmq::overload::LimitRules { max_connect_rate: Some(1), ..one.limits.clone() };
    with(world, settings, Policy { limits, ..one });
    wait(world, 1000);
    let only = guest(world, "e-broker-1");
    turned_away(world, &hello("e-broker-2", true, 0), ReasonCode::ConnectionRateExceeded);
    part(world, [only]);
    with(world, settings, Policy::default());
}

fn bans(world: &mut World, settings: &Settings) {
    let mut policy = Policy::default();
    policy.bans.flapping = Trigger { count: 3, window: 1000, ban: 3000 };
    policy.banned = Arc::new(BanFile::parse("client_id e-bad-*\nuser eve\n").unwrap());
    with(world, settings, policy);
    turned_away(world, &hello("e-bad-1", true, 0), ReasonCode::Banned);
    let eve = Connect { username: Some("eve"), ..hello("e-good", true, 0) };
    turned_away(world, &eve, ReasonCode::Banned);
    let visit = |world: &mut World, times: usize| {
        for _ in 0..times {
            let peer = guest(world, "e-flapper");
            part(world, [peer]);
        }
    };
    visit(world, 2);
    wait(world, 1000);
    visit(world, 2);
    wait(world, 1000);
    visit(world, 3);
    turned_away(world, &hello("e-flapper", true, 0), ReasonCode::Banned);
    let other = guest(world, "e-steady");
    part(world, [other]);
    wait(world, 3000);
    visit(world, 1);
    assert!(world.counters().bans_client > 0);
    with(world, settings, Policy::default());
}
