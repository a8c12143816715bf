//! A broker that is short of memory: what it does not do any more, who is told, and that it goes on
//! with everything else and takes it all up again.

use super::*;
use ringmq::packet::{ConnectProperties, encode_connect};
use ringmq::shard::memory::Pressure;

/// Bytes of one message of what fills the memory.
const BALLAST: usize = 100_000;

/// Sixteenths of the limit that are held, and a half: in the middle of each pressure.
const TIGHT: u64 = 29;
const HIGH: u64 = 31;
const FULL: u64 = 33;

/// Holds every dialogue.
pub fn hold(world: &mut World, settings: &Settings) {
    let mut settings = settings.clone();
    settings.pending = PendingBounds { messages: 1000, bytes: 1 << 26, on_full: OnFull::DropNew };
    (settings.outgoing_max_bytes, settings.max_packet_size) = (1 << 20, 1 << 20);
    (settings.max_inflight, settings.queue_qos0, settings.max_topic_alias) = (10, false, 64);
    reload(world, settings.clone());
    long_aliases(world);
    let ballast = fill(world);
    tight_queues(world, &settings);
    tight_store(world, &settings);
    tight_connects(world, &settings);
    high(world, &settings);
    full_at_first(world, &settings);
    full(world, &settings);
    stalled(world, &settings, false);
    stalled(world, &settings, true);
    hysteresis(world, &settings);
    tight_output(world, &settings);
    let mut ballast_back = Peer::connect(world, 0, &hello(&ballast, false, 0));
    let all = ballast_back.read_all(world).len();
    assert_eq!(all, 40, "what was kept while memory was short");
    part(world, [ballast_back]);
    assert_eq!(pressures(world), vec![Pressure::None; world.nodes.len()]);
}

/// A queue of 4 MB for a client that is away; its name.
fn fill(world: &mut World) -> String {
    let name = on(world, 0, |n| format!("e-ballast-{n}"));
    let mut subscriber = join(world, &hello(&name, true, 600));
    subscribe(world, &mut subscriber, Wish::new("e/ballast", 1));
    part(world, [subscriber]);
    let mut publisher = guest(world, "e-filler");
    for _ in 0..40 {
        let said = Said { qos: 1, ..Said::default() };
        publish(world, &mut publisher, "e/ballast", &vec![b'.'; BALLAST], said);
    }
    part(world, [publisher]);
    name
}

fn pressures(world: &World) -> Vec<Pressure> {
    world.nodes.iter().map(|node| node.shard.pressure()).collect()
}

/// The limit is such that what is held by now is so many halves of sixteenths of it.
fn squeeze(world: &mut World, settings: &Settings, halves: u64) {
    // What a shard holds is told once a second at the latest.
    wait(world, 1200);
    let memory = world.shared.memory.used() * 32 / halves;
    reload(world, Settings { memory, ..settings.clone() });
    world.settle();
    let expected = match halves {
        TIGHT => Pressure::Tight,
        HIGH => Pressure::High,
        _ => Pressure::Full,
    };
    assert_eq!(pressures(world), vec![expected; world.nodes.len()], "how short memory is");
}

fn relax(world: &mut World, settings: &Settings) {
    reload(world, settings.clone());
    world.settle();
    assert_eq!(pressures(world), vec![Pressure::None; world.nodes.len()], "memory without a limit");
}

/// A client of version 5, and one of version 3, whose sessions are on shard 0 and end with them.
fn publishers(world: &mut World) -> [Peer; 2] {
    let name = on(world, 0, |n| format!("e-new-{n}"));
    let new = join(world, &hello(&name, true, 0));
    let name = on(world, 0, |n| format!("e-old-{n}"));
    let properties = ConnectProperties::default();
    let old = Connect { version: Version::V311, properties, ..hello(&name, true, 0) };
    [new, join(world, &old)]
}

/// The answer to a PUBLISH of QoS 1.
fn answer(world: &mut World, peer: &mut Peer, topic: &str, payload: &[u8], retain: bool) -> Got {
    peer.publish_as(world, topic, payload, 1, 7, retain);
    let got = peer.take(world);
    assert_eq!(got.len(), 1, "{topic}: {got:?}");
    got[0].clone()
}

fn acked(reason: ReasonCode) -> Got {
    Got::Ack(AckKind::PubAck, 7, reason)
}

/// Queues get no longer, by their policy; who published for nobody else is told.
fn tight_queues(world: &mut World, settings: &Settings) {
    for on_full in [OnFull::DropNew, OnFull::DropOldest] {
        let pending = PendingBounds { on_full, ..settings.pending };
        let settings = Settings { pending, ..settings.clone() };
        let name = on(world, 0, |n| format!("e-away-{n}"));
        let mut subscriber = join(world, &hello(&name, true, 600));
        subscribe(world, &mut subscriber, Wish::new("e/m/q", 1));
        part(world, [subscriber]);
        let [mut new, old] = publishers(world);
        let mut say =
            |world: &mut World, text: &[u8]| answer(world, &mut new, "e/m/q", text, false);
        assert_eq!(say(world, b"1"), acked(ReasonCode::Success));
        squeeze(world, &settings, TIGHT);
        let before = world.counters().dropped_memory;
        let (reason, left) = match on_full {
            OnFull::DropOldest => (ReasonCode::Success, b"2"),
            _ => (ReasonCode::QuotaExceeded, b"1"),
        };
        assert_eq!(say(world, b"2"), acked(reason), "{on_full:?}: a queue that may not grow");
        assert_eq!(world.counters().dropped_memory - before, 1, "{on_full:?}: dropped_memory");
        relax(world, &settings);
        let mut subscriber = Peer::connect(world, 0, &hello(&name, false, 0));
        assert_eq!(payloads(&subscriber.read_all(world)), [left.to_vec()], "{on_full:?}");
        part(world, [subscriber, new, old]);
    }
}

/// QoS 0 goes to who reads, and no further than the low-water mark to who does not.
fn tight_output(world: &mut World, settings: &Settings) {
    let mut slow = Peer::silent(world, 0, 64);
    let name = on(world, 0, |n| format!("e-blocked-{n}"));
    slow.begin(world, &hello(&name, true, 0));
    slow.take(world);
    subscribe(world, &mut slow, Wish::new("e/m/o", 0));
    let mut reader = guest(world, "e-reading");
    subscribe(world, &mut reader, Wish::new("e/m/o", 0));
    let [mut new, old] = publishers(world);
    squeeze(world, settings, TIGHT);
    let before = world.counters();
    for _ in 0..150 {
        new.publish(world, "e/m/o", &[b'.'; 1000], 0, 0);
        assert_eq!(reader.take(world).len(), 1, "to a client that reads");
    }
    let unsent = world.nodes.iter().map(|node| node.shard.audit().most_unsent).max().unwrap();
    let low = settings.low_water();
    assert!(unsent <= low + 2000, "{unsent} bytes unsent, {low} are allowed");
    let after = world.counters();
    assert!(after.dropped_memory - before.dropped_memory > 50, "counted as dropped for memory");
    assert_eq!(after.dropped_outgoing_full, before.dropped_outgoing_full, "and for nothing else");
    slow.end(world, End::Reset);
    relax(world, settings);
    part(world, [reader, new, old]);
}

/// No more is retained: who can be told is; a value that is no larger replaces the old one.
fn tight_store(world: &mut World, settings: &Settings) {
    let [mut new, mut old] = publishers(world);
    let success = acked(ReasonCode::Success);
    let nobody = acked(ReasonCode::NoMatchingSubscribers);
    let got = answer(world, &mut new, "e/m/r/1", b"first", true);
    assert!(got == nobody || got == success, "{got:?}");
    squeeze(world, settings, TIGHT);
    let before = world.counters();
    let refused = acked(ReasonCode::QuotaExceeded);
    assert_eq!(answer(world, &mut new, "e/m/r/2", b"more", true), refused, "one more retained");
    assert_eq!(answer(world, &mut old, "e/m/r/3", b"more", true), success, "version 3");
    assert_eq!(answer(world, &mut old, "e/m/r/1", b"other", true), success, "no larger");
    let after = world.counters();
    assert_eq!(after.retained_messages, before.retained_messages, "retained messages");
    assert_eq!(after.dropped_memory - before.dropped_memory, 2, "dropped_memory");
    let got = subscribe(world, &mut new, Wish::new("e/m/r/#", 0));
    let got = [got, new.take(world)].concat();
    assert_eq!(payloads(&got), [b"other"], "what is retained");
    // Whoever gives something back is always heard.
    for peer in [&mut new, &mut old] {
        peer.publish_as(world, "e/m/r/1", b"", 1, 7, true);
        peer.take(world);
    }
    new.take(world);
    let cleared = before.retained_messages - world.counters().retained_messages;
    assert_eq!(cleared, 1, "a cleared message");
    relax(world, settings);
    part(world, [new, old]);
}

/// The parts of a CONNECT that are there are given back, and no others are waited for.
fn tight_connects(world: &mut World, settings: &Settings) {
    let mut bytes = Vec::new();
    encode_connect(&mut bytes, &hello("e-in-parts", true, 0)).unwrap();
    let part_of = &bytes[..bytes.len() - 3];
    let mut before = Peer::silent(world, 0, 1000);
    before.raw(world, part_of);
    world.settle();
    squeeze(world, settings, TIGHT);
    // A shard without work looks once a second.
    wait(world, 1100);
    let busy = Got::ConnAck { present: false, reason: ReasonCode::ServerBusy };
    assert_eq!(before.take(world), std::slice::from_ref(&busy), "a CONNECT in parts from before");
    let mut after = Peer::silent(world, 0, 1000);
    after.raw(world, part_of);
    assert_eq!(after.take(world), [busy], "a CONNECT in parts");
    assert!(before.is_closed(world) && after.is_closed(world), "nothing follows a refusal");
    before.end(world, End::Fin);
    after.end(world, End::Fin);
    // A whole one is taken.
    let whole = guest(world, "e-whole");
    relax(world, settings);
    part(world, [whole]);
}

/// No new clients, no new subscriptions, no large packets in parts.
fn high(world: &mut World, settings: &Settings) {
    let [mut new, mut old] = publishers(world);
    subscribe(world, &mut new, Wish::new("e/m/known", 1));
    let name = on(world, 0, |n| format!("e-large-{n}"));
    let mut large = join(world, &hello(&name, true, 0));
    squeeze(world, settings, HIGH);
    for (version, reason) in
        [(Version::V5, ReasonCode::ServerBusy), (Version::V311, ReasonCode::ServerUnavailable)]
    {
        let properties = ConnectProperties::default();
        let connect = Connect { version, properties, ..hello("e-newcomer", true, 0) };
        let mut peer = Peer::connect(world, 0, &connect);
        let refused = Got::ConnAck { present: false, reason };
        assert_eq!(peer.take(world), [refused], "a new client");
        assert!(peer.is_closed(world), "nothing follows a refusal");
        peer.end(world, End::Fin);
    }
    subscribe(world, &mut new, Wish::new("e/m/known", 1));
    for (peer, code) in [
        (&mut new, ReasonCode::QuotaExceeded as u8),
        (&mut old, ReasonCode::UnspecifiedError as u8),
    ] {
        peer.subscribe(world, 8, "e/m/unknown", 1);
        assert_eq!(peer.take(world), [Got::SubAck(8, vec![code])], "a new subscription");
    }
    let sent = answer(world, &mut old, "e/m/known", b"heard", false);
    assert_eq!(sent, acked(ReasonCode::Success));
    assert_eq!(new.read_all(world).len(), 1, "who is connected is served");
    // PUBLISH with a remaining length of 200,000.
    large.raw(world, &[0x30, 0xC0, 0x9A, 0x0C]);
    large.raw(world, &[0; 40_000]);
    assert_eq!(large.take(world), [], "a large packet of which little has come");
    large.raw(world, &[0; 40_000]);
    let ended = [Got::Disconnect(ReasonCode::QuotaExceeded)];
    assert_eq!(large.take(world), ended, "a large packet in parts");
    large.end(world, End::Fin);
    relax(world, settings);
    part(world, [new, old]);
}

/// Publishers wait when memory becomes full, and lose nothing when there is some again soon.
fn full_at_first(world: &mut World, settings: &Settings) {
    let [mut new, mut old] = publishers(world);
    subscribe(world, &mut new, Wish::new("e/m/w", 1));
    squeeze(world, settings, FULL);
    let before = world.counters().dropped_memory;
    old.publish_as(world, "e/m/w", b"waits", 1, 7, false);
    assert_eq!(old.take(world), [], "no answer while its publisher waits for memory");
    relax(world, settings);
    wait(world, 50);
    assert_eq!(old.take(world), [acked(ReasonCode::Success)], "there is memory again");
    assert_eq!(payloads(&new.read_all(world)), [b"waits"], "a message that waited");
    assert_eq!(world.counters().dropped_memory, before, "nothing was lost");
    part(world, [new, old]);
}

/// Who does not read what it is sent is ended, and nobody else is: soon while memory is short,
/// otherwise after `mqtt.send_timeout`.
fn stalled(world: &mut World, settings: &Settings, enough: bool) {
    let mut slow = Peer::silent(world, 0, 64);
    let name = on(world, 0, |n| format!("e-stalled-{n}"));
    slow.begin(world, &hello(&name, true, 0));
    slow.take(world);
    subscribe(world, &mut slow, Wish::new("e/m/s", 0));
    let mut reader = guest(world, "e-reads");
    subscribe(world, &mut reader, Wish::new("e/m/s", 0));
    let [mut new, old] = publishers(world);
    for _ in 0..30 {
        new.publish(world, "e/m/s", &[b'.'; 1000], 0, 0);
        assert_eq!(reader.take(world).len(), 1, "to a client that reads");
    }
    let ended = |world: &World| {
        let counters = world.counters();
        if enough { counters.send_timeouts } else { counters.memory_ended }
    };
    let before = ended(world);
    if enough {
        reload(world, Settings { send_timeout: 3000, ..settings.clone() });
        wait(world, 2000);
        assert_eq!(ended(world), before, "ended too early");
        wait(world, 1500);
    } else {
        squeeze(world, settings, HIGH);
        wait(world, 1300);
    }
    assert_eq!(ended(world) - before, 1, "a client that does not read");
    slow.end(world, End::Reset);
    relax(world, settings);
    new.publish(world, "e/m/s", b"on", 0, 0);
    assert_eq!(reader.take(world).len(), 1, "a client that reads stays");
    part(world, [reader, new, old]);
}

/// No messages, but for those that give something back, when memory is full for longer.
fn full(world: &mut World, settings: &Settings) {
    let [mut new, mut old] = publishers(world);
    subscribe(world, &mut new, Wish::new("e/m/f", 1));
    let sent = answer(world, &mut old, "e/m/f", b"in flight", false);
    assert_eq!(sent, acked(ReasonCode::Success));
    squeeze(world, settings, FULL);
    wait(world, 1100);
    let before = world.counters().dropped_memory;
    assert_eq!(answer(world, &mut old, "e/m/f", b"lost", false), acked(ReasonCode::Success));
    old.write(world, |out, _| packet::encode_pingreq(out));
    assert_eq!(old.take(world), [Got::Pong], "a PINGREQ");
    let got = payloads(&new.read_all(world));
    assert_eq!(got, [b"in flight"], "what was in flight, and nothing else");
    let refused = acked(ReasonCode::QuotaExceeded);
    assert_eq!(answer(world, &mut new, "e/m/f", b"lost", false), refused, "a message");
    new.publish(world, "e/m/f", b"lost", 2, 9);
    let refused = Got::Ack(AckKind::PubRec, 9, ReasonCode::QuotaExceeded);
    assert_eq!(new.take(world), [refused], "a message of QoS 2");
    assert_eq!(world.counters().dropped_memory - before, 3, "dropped_memory");
    relax(world, settings);
    assert_eq!(answer(world, &mut old, "e/m/f", b"again", false), acked(ReasonCode::Success));
    assert_eq!(payloads(&new.read_all(world)), [b"again"], "all is well again");
    part(world, [new, old]);
}

/// What ends a shortage is less than what begins it.
fn hysteresis(world: &mut World, settings: &Settings) {
    squeeze(world, settings, TIGHT);
    let shards = world.nodes.len();
    let used = world.shared.memory.used();
    for (hundredths, expected) in [(1380, Pressure::Tight), (1340, Pressure::None)] {
        // So many hundredths of a sixteenth of the limit are held.
        let memory = used * 1600 / hundredths;
        reload(world, Settings { memory, ..settings.clone() });
        world.settle();
        assert_eq!(pressures(world), vec![expected; shards], "at {hundredths} of 1600");
    }
    relax(world, settings);
}

/// Topic aliases may not take any memory, however many there may be.
fn long_aliases(world: &mut World) {
    let mut peer = guest(world, "e-aliases");
    let names: Vec<String> = (0..17).map(|n| format!("{n:0>65535}")).collect();
    for (at, name) in names.iter().enumerate() {
        let said = |topic| {
            let alias = Some(at as u16 + 1);
            move |out: &mut Vec<u8>, version| {
                let publish = OutPublish {
                    dup: false,
                    qos: Qos::AtMostOnce,
                    retain: false,
                    topic,
                    id: None,
                    message_expiry: None,
                    topic_alias: alias,
                    subscription_ids: &[],
                    forwarded: &[],
                    payload: b"",
                };
                packet::encode_publish(out, version, &publish).unwrap();
            }
        };
        peer.write(world, said(name));
        let got = peer.take(world);
        if at < 16 {
            assert_eq!(got, [], "alias {at}");
            // The same again takes nothing.
            peer.write(world, said(name));
            assert_eq!(peer.take(world), [], "alias {at} again");
        } else {
            assert_eq!(got, [Got::Disconnect(ReasonCode::QuotaExceeded)], "aliases of 1 MiB");
        }
    }
    peer.end(world, End::Fin);
    world.settle();
}
