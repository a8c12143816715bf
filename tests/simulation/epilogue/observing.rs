//! What operators watch: a trace has every packet of its client and of its topic and nobody else's,
//! events tell what happened in its order and not of themselves, drops are counted by client.

use super::*;
use ringmq::shard::{Measure, TraceLine, TraceRule, TraceSubject};

pub fn hold(world: &mut World, settings: &Settings) {
    traced(world);
    told(world, settings);
}

fn trace(world: &mut World, rules: &[TraceRule]) {
    for at in 0..world.nodes.len() {
        let rules = rules.to_vec();
        world.inquire(at, |shard| shard.trace(rules));
    }
}

/// The lines of all traces so far.
fn taken(world: &mut World) -> Vec<TraceLine> {
    let mut all = Vec::new();
    for at in 0..world.nodes.len() {
        let (lines, lost) = world.inquire(at, |shard| shard.take_traced());
        assert_eq!(lost, 0, "lines of a trace");
        all.extend(lines);
    }
    all
}

fn count(lines: &[TraceLine], event: &str, packet: Option<&str>) -> usize {
    lines.iter().filter(|line| line.event == event && line.what.packet == packet).count()
}

fn traced(world: &mut World) {
    let rule = |number, subject| TraceRule { number, subject, payload: number == 1 };
    let client = rule(0, TraceSubject::Client("o-one".into()));
    let topic = rule(1, TraceSubject::Topic("o/+".into()));
    trace(world, &[client, topic]);
    // Many subscribers: they share what is encoded once.
    let mut readers: Vec<Peer> = (0..6)
        .map(|n| {
            let mut reader = guest(world, &format!("o-reader-{n}"));
            subscribe(world, &mut reader, Wish::new("o/#", 1));
            reader
        })
        .collect();
    let mut one = guest(world, "o-one");
    subscribe(world, &mut one, Wish::new("o/a", 1));
    let mut two = guest(world, "o-two");
    publish(world, &mut two, "o/a", b"seen", Said { qos: 1, ..Said::default() });
    assert_eq!(payloads(&one.read_all(world)), [b"seen"]);
    publish(world, &mut one, "o/b", b"seen", Said { qos: 1, ..Said::default() });
    publish(world, &mut one, "o/a/b", b"other", Said::default());
    for reader in &mut readers {
        assert_eq!(payloads(&reader.read_all(world)).len(), 3);
    }
    part(world, [one, two]);
    let lines = taken(world);
    for number in [0, 1] {
        let of: Vec<TraceLine> =
            lines.iter().filter(|line| line.traces & 1 << number != 0).cloned().collect();
        if number == 0 {
            assert!(of.iter().all(|line| &*line.clientid == "o-one"), "{of:?}");
            assert_eq!(count(&of, "received", Some("PUBLISH")), 2, "from the client: {of:?}");
            assert_eq!(count(&of, "sent", Some("PUBLISH")), 1, "to the client: {of:?}");
            for (event, packet) in [
                ("sent", Some("CONNACK")),
                ("connected", None),
                ("received", Some("SUBSCRIBE")),
                ("subscribed", None),
                ("sent", Some("SUBACK")),
                ("sent", Some("PUBACK")),
                ("disconnected", None),
            ] {
                assert_eq!(count(&of, event, packet), 1, "{event} {packet:?} in {of:?}");
            }
        } else {
            assert_eq!(count(&of, "received", Some("PUBLISH")), 2, "of the topic: {of:?}");
            assert_eq!(count(&of, "sent", Some("PUBLISH")), 13, "to each subscriber: {of:?}");
            let payload = |line: &TraceLine| line.what.payload.as_deref() == Some("seen");
            assert!(of.iter().filter(|line| line.what.packet.is_some()).all(payload), "{of:?}");
        }
    }
    trace(world, &[]);
    assert_eq!(taken(world), [], "nothing is traced");
    part(world, readers);
}

fn told(world: &mut World, settings: &Settings) {
    reload(world, Settings { events: u8::MAX, queue_qos0: false, ..settings.clone() });
    // On one shard with the client that it watches: events have the order of what happened.
    let name = on(world, 0, |n| format!("o-seen-{n}"));
    let mut watcher = guest(world, &on(world, 0, |n| format!("o-watcher-{n}")));
    subscribe(world, &mut watcher, Wish::new("$SYS/broker/events/+/+", 0));
    // Events are messages too: this one is away and gets none, which is no event.
    let mut away = join(world, &hello("o-away", true, 600));
    subscribe(world, &mut away, Wish::new("$SYS/broker/events/#", 0));
    part(world, [away]);
    world.settle();
    watcher.read_all(world);
    // Its connection and its session end in one step.
    let brief = join(world, &hello(&name, true, 0));
    part(world, [brief]);
    let mut client = join(world, &hello(&name, true, 600));
    subscribe(world, &mut client, Wish::new("o/b", 0));
    part(world, [client]);
    let mut publisher = guest(world, "o-publisher");
    for _ in 0..3 {
        publish(world, &mut publisher, "o/b", b"dropped", Said::default());
    }
    let shard = home(world, &name);
    assert!(world.inquire(shard, |shard| shard.kick(&name, true)));
    world.settle();
    let got = watcher.read_all(world);
    let of_client = |got: &Got| match got {
        Got::Publish { topic, payload, .. } => {
            let said = String::from_utf8(payload.clone()).unwrap();
            let about = said.contains(&format!("\"clientid\":\"{name}\""));
            let topic = topic.strip_prefix("$SYS/broker/events/").unwrap().to_owned();
            about.then_some(topic)
        }
        other => panic!("no event: {other:?}"),
    };
    let topics: Vec<String> = got.iter().filter_map(of_client).collect();
    let dropped = "message/dropped";
    assert_eq!(
        topics,
        [
            "client/connected",
            "client/disconnected",
            "session/ended",
            "client/connected",
            "session/subscribed",
            "client/disconnected",
            dropped,
            dropped,
            dropped,
            "session/ended",
        ],
        "events of a client"
    );
    let found = world.inquire(home(world, "o-away"), |shard| shard.heaviest(Measure::Drops));
    let away = found.rows.iter().find(|(known, ..)| &**known == "o-away");
    assert!(away.is_some_and(|(_, total, _)| *total >= 7), "events that nobody got: {found:?}");
    assert!(world.inquire(home(world, "o-away"), |shard| shard.kick("o-away", true)));
    world.settle();
    part(world, [watcher, publisher]);
    reload(world, settings.clone());
}
