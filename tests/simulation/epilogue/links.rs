//! Links: what clients publish on any shard is taken there once, in order, named and counted, and
//! within its bound; nobody is held up.

use super::*;
use ringmq::ids::ClientKey;
use ringmq::link_record::LinkBatch;
use ringmq::message::MessageRef;
use ringmq::shard::inquiry::PublishOutcome;
use ringmq::shard::{Answering, LinkCounts, LinkId, LinkPart, LinkPlan, WhenFull};
use std::collections::BTreeMap;

const MESSAGES: usize = 60;

pub fn hold(world: &mut World) {
    in_order(world);
    for when_full in [WhenFull::DropOldest, WhenFull::DropNew] {
        full(world, when_full);
    }
    not_its_own(world);
    changed(world);
    shared(world);
}

fn open(world: &mut World, bytes: usize, when_full: WhenFull) -> Vec<LinkId> {
    let plan = LinkPlan {
        filters: vec!["l/#".into(), "l/+/odd".into()],
        numbers: Vec::new(),
        once: false,
        part: None,
        bytes,
        when_full,
        names: true,
        own: Some(ClientKey::new(77)),
        zero: 1000,
        answering: Answering::Accepted,
    };
    let all = 0..world.nodes.len();
    all.map(|shard| world.inquire(shard, |s| s.open_link(plan.clone())).unwrap()).collect()
}

fn close(world: &mut World, links: &[LinkId]) {
    for (shard, &link) in links.iter().enumerate() {
        world.inquire(shard, |s| s.close_link(link));
    }
}

/// Everything that waits on that shard: topic, payload, ClientId, filter.
fn take(world: &mut World, shard: usize, link: LinkId) -> Vec<(String, String, String, u16)> {
    let mut all = Vec::new();
    let mut batches: Vec<LinkBatch> = Vec::new();
    world.inquire(shard, |s| batches.extend(std::iter::from_fn(|| s.take_from_link(link))));
    for batch in batches {
        let mut at = 0;
        while let Some((record, next)) = batch.read(at) {
            let payload = String::from_utf8(record.payload.to_vec()).unwrap();
            all.push((record.topic.into(), payload, record.client_id.into(), record.filter));
            at = next;
        }
    }
    all
}

/// On each shard a client publishes, and on the next one somebody subscribes besides.
fn in_order(world: &mut World) {
    let links = open(world, 1 << 20, WhenFull::DropNew);
    let shards = world.nodes.len();
    let name = on(world, (shards - 1) as u8, |n| format!("l-reader-{n}"));
    let mut reader = guest(world, &name);
    subscribe(world, &mut reader, Wish::new("l/#", 0));
    let mut read = 0;
    for shard in 0..shards {
        let name = on(world, shard as u8, |n| format!("l-client-{n}"));
        let mut client = guest(world, &name);
        for number in 0..MESSAGES {
            let topic = if number % 2 == 0 { "l/a/even" } else { "l/a/odd" };
            let said = Said { qos: 1, ..Said::default() };
            publish(world, &mut client, topic, number.to_string().as_bytes(), said);
            read += payloads(&reader.read_all(world)).len();
        }
        for (at, &link) in links.iter().enumerate() {
            let taken = take(world, at, link);
            if at != shard {
                assert_eq!(taken, [], "shard {at} takes what shard {shard} accepts");
                continue;
            }
            let mut expected = Vec::new();
            for number in 0..MESSAGES {
                let topic = if number % 2 == 0 { "l/a/even" } else { "l/a/odd" };
                expected.push((topic.to_owned(), number.to_string(), name.clone(), 0));
                if number % 2 == 1 {
                    expected.push((topic.to_owned(), number.to_string(), name.clone(), 1));
                }
            }
            assert_eq!(taken, expected, "what a link takes");
            let matched = (MESSAGES + MESSAGES / 2) as u64;
            let counts = world.inquire(at, |s| s.link_counts(link));
            assert_eq!(counts, LinkCounts { matched, taken: matched, dropped: 0 });
        }
        part(world, [client]);
    }
    assert_eq!(read, MESSAGES * shards, "subscribers beside it");
    close(world, &links);
    part(world, [reader]);
}

/// A link that nobody reads stays within its bound, and says what it lost.
fn full(world: &mut World, when_full: WhenFull) {
    const BOUND: usize = 2000;
    let links = open(world, BOUND, when_full);
    let mut client = guest(world, "l-busy");
    let shard = usize::from(home_of(&world.shared.seeds, "l-busy", world.nodes.len() as u8).0);
    let link = links[shard];
    for number in 0..MESSAGES {
        publish(world, &mut client, "l/x", number.to_string().as_bytes(), Said::default());
        let bytes = world.inquire(shard, |s| s.link_bytes(link));
        assert!(bytes <= BOUND, "a link of {BOUND} bytes holds {bytes}");
    }
    let numbers: Vec<usize> =
        take(world, shard, link).iter().map(|(_, payload, ..)| payload.parse().unwrap()).collect();
    let counts = world.inquire(shard, |s| s.link_counts(link));
    assert_eq!(counts.matched, MESSAGES as u64);
    assert_eq!(counts.dropped, (MESSAGES - numbers.len()) as u64, "what a full link has lost");
    assert!(!numbers.is_empty() && numbers.len() < MESSAGES);
    let first = if when_full == WhenFull::DropNew { 0 } else { MESSAGES - numbers.len() };
    assert!(numbers.iter().copied().eq(first..first + numbers.len()), "a full link: {numbers:?}");
    close(world, &links);
    part(world, [client]);
}

/// What a bridge brings goes to everybody but its own link.
fn not_its_own(world: &mut World) {
    let links = open(world, 1 << 20, WhenFull::DropNew);
    let mut reader = guest(world, "l-reader");
    subscribe(world, &mut reader, Wish::new("l/#", 0));
    for (own, mine) in [(77, true), (78, false)] {
        let message = MessageRef {
            topic: "l/in",
            properties: &[],
            payload: b"brought",
            qos: Qos::AtMostOnce,
            retain: false,
            expires: None,
            publisher: None,
        };
        let own = ClientKey::new(own);
        let outcome = world.inquire(0, |s| s.publish_as_bridge(&message, None, (own, "b")));
        assert_eq!(outcome, PublishOutcome::Accepted { matched: true });
        world.settle();
        assert_eq!(payloads(&reader.read_all(world)), [b"brought"]);
        let taken = take(world, 0, links[0]).len();
        assert_eq!(taken, usize::from(!mine), "what the link's own bridge has brought");
    }
    close(world, &links);
    part(world, [reader]);
}

/// A link that is changed takes what it is to take from then on, behind what waits in it.
fn changed(world: &mut World) {
    let links = open(world, 1 << 20, WhenFull::DropNew);
    let mut client = guest(world, "l-changed");
    let shard = usize::from(home_of(&world.shared.seeds, "l-changed", world.nodes.len() as u8).0);
    let link = links[shard];
    publish(world, &mut client, "l/a/odd", b"before", Said::default());
    let plan = LinkPlan {
        filters: vec!["k/#".into(), "k/+/odd".into(), "j/#".into()],
        numbers: vec![7, 8, 3],
        once: true,
        part: None,
        bytes: 1 << 20,
        when_full: WhenFull::DropNew,
        names: true,
        own: None,
        zero: 1000,
        answering: Answering::Accepted,
    };
    let wrong = LinkPlan { filters: vec!["k/#/x".into()], ..plan.clone() };
    assert!(!world.inquire(shard, |s| s.change_link(link, wrong)));
    assert!(world.inquire(shard, |s| s.change_link(link, plan.clone())));
    for topic in ["l/a/odd", "k/a/odd", "j/a", "k/a"] {
        publish(world, &mut client, topic, b"after", Said::default());
    }
    let taken = take(world, shard, link);
    let taken: Vec<(&str, &str, u16)> =
        taken.iter().map(|(topic, payload, _, number)| (&**topic, &**payload, *number)).collect();
    let before = [("l/a/odd", "before", 0), ("l/a/odd", "before", 1)];
    let after = [("k/a/odd", "after", 7), ("j/a", "after", 3), ("k/a", "after", 7)];
    assert_eq!(taken, [&before[..], &after[..]].concat(), "a link that was changed");
    world.inquire(shard, |s| s.mute_link(link));
    publish(world, &mut client, "k/a", b"muted", Said::default());
    assert_eq!(take(world, shard, link), [], "a link that takes nothing more");
    close(world, &links);
    part(world, [client]);
}

/// Links that share what they take: each topic is in one of them, in order, and what is for the
/// first is there.
fn shared(world: &mut World) {
    const LINKS: u16 = 3;
    let mut client = guest(world, "l-shared");
    let shard = usize::from(home_of(&world.shared.seeds, "l-shared", world.nodes.len() as u8).0);
    let share = |number| LinkPart { number, of: LINKS, first: vec![true, false, false] };
    let plan = |number| LinkPlan {
        filters: vec!["l/first/#".into(), "l/+/#".into(), "l/#".into()],
        numbers: Vec::new(),
        once: true,
        part: Some(share(number)),
        bytes: 1 << 20,
        when_full: WhenFull::DropNew,
        names: false,
        own: None,
        zero: 0,
        answering: Answering::Accepted,
    };
    let opened = (0..LINKS).map(|number| world.inquire(shard, |s| s.open_link(plan(number))));
    let links: Vec<LinkId> = opened.map(Option::unwrap).collect();
    let topics: Vec<String> = (0..20)
        .map(|number| format!("l/{}/{number}", if number < 5 { "first" } else { "any" }))
        .collect();
    for round in 0..3 {
        for topic in &topics {
            publish(world, &mut client, topic, &[b'0' + round], Said::default());
        }
    }
    let mut used = [0; LINKS as usize];
    let mut all: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (at, &link) in links.iter().enumerate() {
        for (topic, payload, ..) in take(world, shard, link) {
            used[at] += 1;
            let (place, said) = all.entry(topic).or_insert((at, String::new()));
            assert_eq!(*place, at, "a topic of links that share");
            said.push_str(&payload);
        }
        world.inquire(shard, |s| s.close_link(link));
    }
    assert_eq!(all.len(), topics.len(), "topics of links that share: {all:?}");
    assert!(all.values().all(|(_, said)| said == "012"), "links that share: {all:?}");
    assert!(all.iter().all(|(t, (at, _))| *at == 0 || !t.contains("first")), "{all:?}");
    assert!(used.into_iter().all(|used| used > 0), "{used:?}");
    part(world, [client]);
}
