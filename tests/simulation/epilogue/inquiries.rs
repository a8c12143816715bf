//! What operators ask and have done: a client's end, a message of their own, and what is explained
//! is what happens.

use super::*;
use ringmq::message::MessageRef;
use ringmq::shard::inquiry::{
    Addressee, ClearOutcome, ExplainCursor, Fate, Hypothesis, PublishOutcome,
};

pub fn hold(world: &mut World, settings: &Settings) {
    kicked(world);
    published(world);
    explained(world, settings);
}

/// Who is disconnected is told, and keeps its session; who is ended has none any more, connected or
/// not, and its will is sent once.
fn kicked(world: &mut World) {
    let mut watcher = guest(world, "i-watcher");
    subscribe(world, &mut watcher, Wish::new("i/will", 1));
    for and_session in [false, true, true] {
        let mut connect = hello("i-kicked", false, 600);
        let last = crate::peer::will("i/will", 0);
        connect.will = Some(last);
        let mut peer = join(world, &connect);
        subscribe(world, &mut peer, Wish::new("i/kicked", 1));
        let shard = home(world, "i-kicked");
        assert!(world.inquire(shard, |shard| shard.kick("i-kicked", and_session)));
        world.settle();
        assert_eq!(peer.take(world), [Got::Disconnect(ReasonCode::AdministrativeAction)]);
        peer.end(world, End::Fin);
        world.settle();
        let left = world.inquire(shard, |shard| shard.client("i-kicked"));
        assert_eq!(left.is_some(), !and_session, "the session");
        let wills = watcher.read_all(world);
        assert_eq!(payloads(&wills).len(), 1, "its will: {wills:?}");
    }
    // Away.
    let mut peer = join(world, &hello("i-kicked", true, 600));
    subscribe(world, &mut peer, Wish::new("i/kicked", 1));
    part(world, [peer]);
    let shard = home(world, "i-kicked");
    assert!(!world.inquire(shard, |shard| shard.kick("i-kicked", false)), "it is not connected");
    assert!(world.inquire(shard, |shard| shard.kick("i-kicked", true)));
    assert!(!world.inquire(shard, |shard| shard.kick("i-kicked", true)), "it is gone");
    world.settle();
    part(world, [watcher]);
}

/// A message of an operator's reaches subscribers of every shard, and is retained.
fn published(world: &mut World) {
    let mut readers: Vec<Peer> = (0..world.nodes.len())
        .map(|shard| {
            let name = on(world, shard as u8, |n| format!("i-reader-{n}"));
            let mut reader = guest(world, &name);
            subscribe(world, &mut reader, Wish::new("i/+", 1));
            reader
        })
        .collect();
    let message = MessageRef {
        topic: "i/said",
        properties: &[],
        payload: b"by an operator",
        qos: Qos::AtLeastOnce,
        retain: true,
        expires: None,
        publisher: None,
    };
    let said = world.inquire(0, |shard| shard.publish_as_operator(&message, Some(100)));
    assert_eq!(said, PublishOutcome::Accepted { matched: true });
    world.settle();
    for reader in &mut readers {
        assert_eq!(payloads(&reader.read_all(world)), [b"by an operator"]);
    }
    let denied = MessageRef { topic: "$SYS/said", ..message };
    let said = world.inquire(0, |shard| shard.publish_as_operator(&denied, None));
    assert!(matches!(said, PublishOutcome::Denied(_)), "{said:?}");
    let mut cleared = 0;
    for at in 0..world.nodes.len() {
        let outcome = world.inquire(at, |shard| shard.clear_retained("i/said"));
        cleared += usize::from(outcome == ClearOutcome::Cleared);
    }
    assert_eq!(cleared, 1, "shards that kept it");
    world.settle();
    part(world, readers);
}

/// What would become of a message for each client, by name.
fn fates(world: &mut World, what: &Hypothesis) -> Vec<(String, Fate)> {
    let mut all: Vec<(String, Fate)> = Vec::new();
    for at in 0..world.nodes.len() {
        let mut from = ExplainCursor::default();
        loop {
            let slice = world.inquire(at, |shard| shard.explain(what, from, 1));
            for row in slice.rows {
                if let Addressee::Client { client_id, fate, .. } = row {
                    all.push((client_id.into(), fate));
                }
            }
            let Some(next) = slice.next else { break };
            from = next;
        }
    }
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

/// Clients in every state that decides about a message; what is explained is what comes.
fn explained(world: &mut World, settings: &Settings) {
    let pending = PendingBounds { messages: 2, bytes: 1 << 20, on_full: OnFull::DropNew };
    reload(world, Settings { pending, queue_qos0: false, ..settings.clone() });
    let mut online = guest(world, "i-online");
    subscribe(world, &mut online, Wish::new("i/x", 1));
    subscribe(world, &mut online, Wish::new("i/+", 0));
    let mut away = join(world, &hello("i-away", true, 600));
    subscribe(world, &mut away, Wish::new("i/x", 1));
    part(world, [away]);
    let mut connect = hello("i-small", true, 0);
    connect.properties.maximum_packet_size = Some(40);
    let mut small = join(world, &connect);
    subscribe(world, &mut small, Wish::new("i/x", 0));
    let mut publisher = guest(world, "i-publisher");
    let options = SubscribeOptions { no_local: true, ..SubscribeOptions::default() };
    subscribe(world, &mut publisher, Wish { options, ..Wish::new("i/#", 1) });
    let shard = home(world, "i-publisher");
    let own = world.inquire(shard, |shard| shard.publisher_of("i-publisher"));
    let queued = |world: &mut World| {
        let shard = home(world, "i-away");
        world.inquire(shard, |shard| shard.client("i-away")).map_or(0, |away| away.pending)
    };
    for (round, (qos, length)) in [(1, 5), (0, 5), (0, 100), (1, 5), (1, 5)].into_iter().enumerate()
    {
        let payload = vec![b'p'; length];
        let what = Hypothesis {
            topic: "i/x".into(),
            payload: payload.clone().into(),
            qos: Qos::from_u8(qos).unwrap(),
            retain: false,
            publisher: own,
        };
        let before = queued(world);
        let told = fates(world, &what);
        publish(world, &mut publisher, "i/x", &payload, Said { qos, ..Said::default() });
        let came = [
            !payloads(&online.read_all(world)).is_empty(),
            !payloads(&small.read_all(world)).is_empty(),
            !payloads(&publisher.read_all(world)).is_empty(),
        ];
        let waits = queued(world) > before;
        let fate = |name: &str| told.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!(told.len(), 4, "each client once: {told:?}");
        for (name, came) in ["i-online", "i-small", "i-publisher"].into_iter().zip(came) {
            assert_eq!(fate(name) == Fate::Sent, came, "round {round}, {name}: {told:?}");
        }
        assert_eq!(fate("i-away") == Fate::Queued, waits, "round {round}: {told:?}");
        assert_eq!(fate("i-publisher"), Fate::Dropped("no_local"));
        if length == 100 {
            assert_eq!(fate("i-small"), Fate::Dropped("packet_too_large"));
        }
    }
    let shard = home(world, "i-away");
    assert!(world.inquire(shard, |shard| shard.kick("i-away", true)));
    world.settle();
    part(world, [online, small, publisher]);
    reload(world, settings.clone());
}
