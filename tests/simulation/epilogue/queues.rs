//! Pending queues: order, bounds, policies, counts.

use super::*;

/// A full pending queue keeps what its policy says, within its bounds, and counts the rest.
pub fn full_queues(world: &mut World, settings: &Settings) {
    // Topic, payload and 64 bytes of overhead.
    let cost = "e/q".len() + 20 + 64;
    for on_full in [OnFull::DropOldest, OnFull::DropNew, OnFull::Disconnect] {
        full_queue(world, settings, PendingBounds { messages: 5, bytes: 1 << 20, on_full }, 5);
        full_queue(
            world,
            settings,
            PendingBounds { messages: 100, bytes: 4 * cost + 1, on_full },
            4,
        );
    }
    reload(world, settings.clone());
}

fn full_queue(world: &mut World, settings: &Settings, pending: PendingBounds, kept: usize) {
    reload(world, Settings { pending, ..settings.clone() });
    let mut subscriber = join(world, &hello("e-offline", true, 60));
    subscribe(world, &mut subscriber, Wish::new("e/q", 1));
    part(world, [subscriber]);
    let all: Vec<Vec<u8>> = (0..kept + 3).map(|n| format!("{n:020}").into_bytes()).collect();
    let before = world.counters().dropped_queue_full;
    let mut publisher = guest(world, "e-publisher");
    for payload in &all {
        publish(world, &mut publisher, "e/q", payload, Said { qos: 1, ..Said::default() });
    }
    assert_eq!(world.counters().dropped_queue_full - before, 3, "dropped_queue_full");
    let mut subscriber = Peer::connect(world, 0, &hello("e-offline", false, 0));
    let expected = match pending.on_full {
        OnFull::DropOldest => &all[3..],
        OnFull::DropNew | OnFull::Disconnect => &all[..kept],
    };
    assert_eq!(payloads(&subscriber.read_all(world)), expected, "{:?}", pending.on_full);
    part(world, [subscriber, publisher]);
}

/// With the policy `disconnect` a connected client whose queue is full is told and closed.
pub fn harsh_queue(world: &mut World, settings: &Settings) {
    let pending = PendingBounds { messages: 5, bytes: 1 << 20, on_full: OnFull::Disconnect };
    reload(world, Settings { pending, ..settings.clone() });
    let mut connect = hello("e-slow", true, 0);
    connect.properties.receive_maximum = Some(1);
    let mut slow = join(world, &connect);
    subscribe(world, &mut slow, Wish::new("e/d", 1));
    let mut publisher = guest(world, "e-publisher");
    for number in 1..=7 {
        publisher.publish(world, "e/d", b"m", 1, number);
    }
    // For a while it holds up its publisher.
    world.settle();
    wait(world, 3000);
    let got = slow.take(world);
    assert!(
        matches!(got[..], [Got::Publish { .. }, Got::Disconnect(ReasonCode::QuotaExceeded)]),
        "one in flight, five pending, one too many: {got:?}"
    );
    slow.end(world, End::Fin);
    assert_eq!(publisher.take(world).len(), 7, "acknowledgements");
    part(world, [publisher]);
    reload(world, settings.clone());
}

/// A client that publishes to itself is held up by its own queue, and what empties that is read.
pub fn own_queue(world: &mut World, settings: &Settings) {
    let pending = PendingBounds { messages: 5, bytes: 1 << 20, on_full: OnFull::DropNew };
    reload(world, Settings { pending, ..settings.clone() });
    let mut connect = hello("e-echo", true, 0);
    connect.properties.receive_maximum = Some(1);
    let mut echo = join(world, &connect);
    subscribe(world, &mut echo, Wish::new("e/o", 1));
    let all: Vec<Vec<u8>> = (1..=20).map(|n| vec![n]).collect();
    for payload in &all {
        echo.publish(world, "e/o", payload, 1, u16::from(payload[0]));
    }
    assert_eq!(payloads(&echo.read_all(world)), all, "without a time-out");
    part(world, [echo]);
    reload(world, settings.clone());
}

/// QoS 0 for a client that is away is kept or counted as dropped, as `mqtt.queue_qos0` says.
pub fn offline_qos_0(world: &mut World, settings: &Settings) {
    for queue_qos0 in [false, true] {
        reload(world, Settings { queue_qos0, ..settings.clone() });
        let mut subscriber = join(world, &hello("e-offline", true, 60));
        subscribe(world, &mut subscriber, Wish::new("e/0", 0));
        part(world, [subscriber]);
        let before = world.counters().dropped_offline_qos0;
        let mut publisher = guest(world, "e-publisher");
        publish(world, &mut publisher, "e/0", b"m", Said { qos: 1, ..Said::default() });
        let dropped = world.counters().dropped_offline_qos0 - before;
        assert_eq!(dropped, u64::from(!queue_qos0), "dropped_offline_qos0");
        let mut subscriber = Peer::connect(world, 0, &hello("e-offline", false, 0));
        let got = subscriber.read_all(world).len();
        assert_eq!(got, usize::from(queue_qos0), "QoS 0 kept for a client that was away");
        part(world, [subscriber, publisher]);
    }
    reload(world, settings.clone());
}

/// QoS 0 that was queued while the client was away comes before what is published now
/// [MQTT-4.6.0-6].
pub fn qos_0_in_line(world: &mut World, settings: &Settings) {
    reload(world, Settings { queue_qos0: true, max_inflight: 1, ..settings.clone() });
    let mut subscriber = join(world, &hello("e-offline", true, 60));
    subscribe(world, &mut subscriber, Wish::new("e/i/0", 0));
    subscribe(world, &mut subscriber, Wish::new("e/i/1", 1));
    part(world, [subscriber]);
    let mut publisher = guest(world, "e-publisher");
    let said = || Said { qos: 1, ..Said::default() };
    for (topic, payload) in [("e/i/1", b"1"), ("e/i/1", b"2"), ("e/i/0", b"3")] {
        publish(world, &mut publisher, topic, payload, said());
    }
    let mut subscriber = Peer::connect(world, 0, &hello("e-offline", false, 0));
    publish(world, &mut publisher, "e/i/0", b"4", said());
    let got = payloads(&subscriber.read_all(world));
    assert_eq!(got, [b"1", b"2", b"3", b"4"], "the order of QoS 0");
    part(world, [subscriber, publisher]);
    reload(world, settings.clone());
}

/// Expired messages make room before the policy of a full queue looks, and go by themselves while
/// nobody publishes.
pub fn expired_places(world: &mut World, settings: &Settings) {
    for on_full in [OnFull::DropOldest, OnFull::DropNew] {
        let pending = PendingBounds { messages: 10, bytes: 1 << 20, on_full };
        reload(world, Settings { pending, ..settings.clone() });
        let mut subscriber = join(world, &hello("e-offline", true, 600));
        subscribe(world, &mut subscriber, Wish::new("e/x", 1));
        part(world, [subscriber]);
        let mut publisher = guest(world, "e-publisher");
        let before = world.counters();
        let mut say = |world: &mut World, number: u8, expiry| {
            let said = Said { qos: 1, expiry, ..Said::default() };
            publish(world, &mut publisher, "e/x", &[number], said);
        };
        (0..3).for_each(|number| say(world, number, None));
        (3..10).for_each(|number| say(world, number, Some(2)));
        wait(world, 2100);
        (10..15).for_each(|number| say(world, number, None));
        let counts = |world: &World| {
            let now = world.counters();
            let full = now.dropped_queue_full - before.dropped_queue_full;
            (full, now.dropped_expired - before.dropped_expired)
        };
        assert_eq!(counts(world), (0, 5), "{on_full:?}: dropped for a message that is alive");
        wait(world, 2000);
        assert_eq!(counts(world), (0, 7), "{on_full:?}: dropped while nobody publishes");
        let waiting = world.counters().pending_messages - before.pending_messages;
        assert_eq!(waiting, 8, "{on_full:?}: what waits");
        let mut subscriber = Peer::connect(world, 0, &hello("e-offline", false, 0));
        let expected: Vec<Vec<u8>> = (0..3).chain(10..15).map(|number| vec![number]).collect();
        assert_eq!(payloads(&subscriber.read_all(world)), expected, "{on_full:?}");
        part(world, [subscriber, publisher]);
    }
    reload(world, settings.clone());
}
