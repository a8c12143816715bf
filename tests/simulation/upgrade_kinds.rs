//! One of each kind of thing that a broker keeps for its clients, begun before an upgrade and ended
//! after it, over each kind of transport: whatever is left behind is missed here.

use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello, id, will};
use crate::rng::Rng;
use crate::scripted::fine;
use crate::settings::roomy;
use crate::upgrade::plan;
use crate::world::{World, web};
use ringmq::access::load;
use ringmq::config::Sources;
use ringmq::overload::sources::Banned;
use ringmq::packet::{self, AckKind, Connect, OutPublish, Qos, ReasonCode, SubscribeOptions};
use ringmq::shard::Settings;
use ringmq::transport::Stack;
use std::sync::Arc;

/// Clients may show tokens; who shows none may do everything. Who connects three times is banned.
fn settings() -> Settings {
    let chain = "access.authentication=[{jwt: {secret: s3cret}}]".to_owned();
    let flapping = "bans.flapping={connects: 3, window: 10m, ban: 10m}".to_owned();
    let config = Sources { set: vec![chain, flapping], ..Sources::default() }.load().unwrap();
    let access = load::load(&config, &|_| Ok(String::new())).unwrap();
    let settings = roomy().with_access(Arc::new(access));
    Settings { policy: Arc::new(config.policy()), ..settings }
}

/// With rules of its own.
fn token() -> String {
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let acl = serde_json::json!([
        {"permission": "deny", "action": "publish", "topic": "c/${clientid}/closed"},
        {"permission": "allow", "action": "all", "topic": "c/#"},
    ]);
    let claims = serde_json::json!({ "acl": acl });
    let key = jsonwebtoken::EncodingKey::from_secret(b"s3cret");
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

/// Plain, WebSocket, TLS, both.
fn stack(seed: u64) -> Stack {
    let (tls, layered) = (seed % 4 >= 2, seed % 2 == 1);
    Stack { tls, web: layered.then(web), ..Stack::default() }
}

/// A PUBLISH of QoS 2 that may be a repetition.
fn exactly_once(world: &mut World, peer: &mut Peer, dup: bool) {
    peer.write(world, |out, version| {
        let publish = OutPublish {
            dup,
            qos: Qos::ExactlyOnce,
            retain: false,
            topic: "q/once",
            id: Some(id(9)),
            message_expiry: None,
            topic_alias: None,
            subscription_ids: &[],
            forwarded: &[],
            payload: b"once",
        };
        packet::encode_publish(out, version, &publish).unwrap();
    });
}

/// Topics and payloads of what has come, acknowledged.
fn told(world: &mut World, peer: &mut Peer) -> Vec<(String, String)> {
    let text = |got| match got {
        Got::Publish { topic, payload, .. } => Some((topic, String::from_utf8(payload).unwrap())),
        _ => None,
    };
    peer.read_all(world).into_iter().filter_map(text).collect()
}

fn topics(world: &mut World, peer: &mut Peer) -> Vec<String> {
    told(world, peer).into_iter().map(|(topic, _)| topic).collect()
}

/// A client that connects again and again; what it is told.
fn visit(world: &mut World) -> ReasonCode {
    let mut restless = Peer::connect(world, 0, &hello("restless", true, 0));
    let got = restless.take(world);
    restless.end(world, End::Reset);
    world.settle();
    match got[..] {
        [Got::ConnAck { reason, .. }] => reason,
        _ => panic!("{got:?}"),
    }
}

/// The clients, each with something begun.
struct Household {
    watcher: Peer,
    publisher: Peer,
    reader: Peer,
    doomed: Peer,
    quiet: Peer,
    twice: Peer,
    forgetful: Peer,
    ruled: Peer,
    members: [Peer; 2],
}

const AWAY: &str = "away";
const BRIEF: &str = "brief";
/// Where another broker's bridge tells that it is up. It is below `$SYS`, but its client's.
const LINK: &str = "$SYS/broker/connection/far.uplink/state";

impl Household {
    fn new(world: &mut World) -> Household {
        let shards = world.nodes.len();
        let mut watcher = Peer::connect(world, 0, &hello("watcher", true, 0));
        watcher.subscribe(world, 1, "w/#", 1);
        let mut reader = Peer::connect(world, shards - 1, &hello("reader", true, 0));
        let options = SubscribeOptions {
            qos: Qos::ExactlyOnce,
            retain_as_published: true,
            ..Default::default()
        };
        for (number, filter) in [(1, "a/+"), (2, "q/#")] {
            reader.subscribe_with(world, number, filter, options, Some(7));
        }
        reader.take(world);
        let with = |name, topic| Connect { will: Some(will(topic, 0)), ..hello(name, true, 0) };
        let doomed = Peer::connect(world, 0, &with("doomed", "w/doomed"));
        let quiet = Connect { keep_alive: 10, ..with("quiet", "w/quiet") };
        let quiet = Peer::connect(world, 0, &quiet);
        let twice = Peer::connect(world, 0, &hello("twice", false, 60));
        let mut forgetful = Peer::connect(world, 0, &hello("forgetful", false, 60));
        forgetful.subscribe(world, 1, "f/#", 1);
        let token = token();
        let shown = Connect {
            username: Some("tom"),
            password: Some(token.as_bytes()),
            ..hello("ruled", true, 0)
        };
        let mut ruled = Peer::connect(world, 0, &shown);
        let got = ruled.take(world);
        assert!(matches!(got[..], [Got::ConnAck { reason: ReasonCode::Success, .. }]), "{got:?}");
        let members = ["one", "two"].map(|name| {
            let mut member = Peer::connect(world, 0, &hello(name, true, 0));
            member.subscribe(world, 1, "$share/g/s/#", 1);
            member.take(world);
            member
        });
        let publisher = Peer::connect(world, shards - 1, &hello("publisher", true, 0));
        Household { watcher, publisher, reader, doomed, quiet, twice, forgetful, ruled, members }
    }

    fn begin(&mut self, world: &mut World) {
        let delayed = Connect { will: Some(will("w/late", 30)), ..hello("late", false, 60) };
        let mut late = Peer::connect(world, 0, &delayed);
        late.end(world, End::Reset);
        for (name, expiry) in [(AWAY, 100), (BRIEF, 20)] {
            let mut away = Peer::connect(world, 0, &hello(name, false, expiry));
            away.subscribe(world, 1, "o/#", 1);
            away.take(world);
            away.goodbye(world);
        }
        let visits = [visit(world), visit(world)];
        assert_eq!(visits, [ReasonCode::Success; 2]);
        let publisher = &mut self.publisher;
        for (number, text) in [(1, "1"), (2, "2")] {
            publisher.publish(world, "o/t", text.as_bytes(), 1, number);
        }
        publisher.publish_as(world, "r/a", b"kept", 1, 3, true);
        publisher.publish_as(world, "r/b", b"kept", 1, 4, true);
        publisher.publish_as(world, "r/b", b"", 1, 5, true);
        publisher.publish_as(world, LINK, b"1", 1, 8, true);
        publisher.alias(world, "a/x", b"by name", 1, 6, false);
        publisher.publish(world, "f/t", b"unacknowledged", 1, 7);
        exactly_once(world, publisher, false);
        world.settle();
        assert_eq!(topics(world, &mut self.reader), ["a/x", "q/once"]);
        let forgotten = self.forgetful.payloads(world);
        assert_eq!(forgotten, ["unacknowledged"]);
        let got = self.publisher.take(world);
        assert!(got.iter().any(|got| matches!(got, Got::Ack(AckKind::PubRec, 9, _))), "{got:?}");
        let until = world.now + 1_000_000;
        assert!(world.shared.sources.ban(Banned::Client("evil".into()), world.now, until));
        self.doomed.take(world);
        self.quiet.take(world);
        self.twice.take(world);
    }

    /// What is between clients that stay.
    fn go_on(&mut self, world: &mut World) {
        let publisher = &mut self.publisher;
        exactly_once(world, publisher, true);
        publisher.alias(world, "", b"by alias", 1, 6, false);
        publisher.publish_as(world, "a/y", b"retained", 1, 7, true);
        world.settle();
        let got = self.publisher.take(world);
        assert!(got.iter().any(|got| matches!(got, Got::Ack(AckKind::PubRec, 9, _))), "{got:?}");
        self.publisher.ack(world, AckKind::PubRel, 9);
        let got = self.publisher.take(world);
        assert!(matches!(got[..], [Got::Ack(AckKind::PubComp, 9, _)]), "{got:?}");
        let got = self.reader.read_all(world);
        let seen: Vec<_> = got
            .iter()
            .map(|got| match got {
                Got::Publish { topic, retain, ids, .. } => (&**topic, *retain, &**ids),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(seen, [("a/x", false, &[7][..]), ("a/y", true, &[7])]);
        for number in 10..16u16 {
            self.publisher.publish(world, "s/t", number.to_string().as_bytes(), 1, number);
            world.settle();
        }
        let shared = self.members.each_mut().map(|member| told(world, member).len());
        assert_eq!(shared, [3, 3], "each member has its turn, and each message one member");
        self.publisher.take(world);
    }

    /// What a client may do by rules of its own.
    fn obey(&mut self, world: &mut World) {
        let denied = ReasonCode::NotAuthorized;
        // Nobody has subscribed to the one that is allowed.
        let expected = [
            ("c/ruled/closed", denied),
            ("c/ruled/open", ReasonCode::NoMatchingSubscribers),
            ("d", denied),
        ];
        for (number, (topic, reason)) in (1..).zip(expected) {
            self.ruled.publish(world, topic, b"by rules of its own", 1, number);
            let got = self.ruled.take(world);
            assert_eq!(got, [Got::Ack(AckKind::PubAck, number, reason)], "{topic}");
        }
    }

    /// Who comes anew, or back.
    fn come(&mut self, world: &mut World) {
        let mut late = Peer::connect(world, 0, &hello("new", true, 0));
        late.subscribe(world, 1, "r/#", 1);
        assert_eq!(told(world, &mut late), [("r/a".into(), "kept".into())]);
        late.subscribe(world, 2, LINK, 1);
        assert_eq!(told(world, &mut late), [(LINK.into(), "1".into())]);
        let mut evil = Peer::connect(world, 0, &hello("evil", true, 0));
        let got = evil.take(world);
        assert!(matches!(got[..], [Got::ConnAck { reason: ReasonCode::Banned, .. }]), "{got:?}");
        let restless = [visit(world), visit(world)];
        assert_eq!(
            restless,
            [ReasonCode::Success, ReasonCode::Banned],
            "the third one was too much"
        );
        self.publisher.publish(world, "o/t", b"3", 1, 20);
        world.settle();
        let mut back = |name: &str| {
            let mut back = Peer::connect(world, 0, &hello(name, false, 60));
            let got = back.hear(world);
            let present = matches!(got.first(), Some(Got::ConnAck { present: true, .. }));
            assert!(present, "{name}: {got:?}");
            let mut texts = Vec::new();
            for got in got.into_iter().chain(back.take(world)) {
                let Got::Publish { payload, id, dup, .. } = got else { continue };
                texts.push((String::from_utf8(payload).unwrap(), dup));
                back.ack(world, AckKind::PubAck, id);
            }
            texts
        };
        let fresh = |text: &str| (text.to_owned(), false);
        assert_eq!(back(AWAY), [fresh("1"), fresh("2"), fresh("3")]);
        assert_eq!(back("twice"), []);
        assert_eq!(back("forgetful"), [("unacknowledged".to_owned(), true)]);
        for old in [&mut self.twice, &mut self.forgetful] {
            let got = old.take(world);
            let over = Got::Disconnect(ReasonCode::SessionTakenOver);
            assert_eq!(got, [over], "one live connection per ClientId");
            assert!(old.is_closed(world));
        }
    }

    /// What time brings.
    fn end(&mut self, world: &mut World) {
        assert_eq!(told(world, &mut self.watcher), []);
        self.doomed.end(world, End::Reset);
        world.settle();
        assert_eq!(topics(world, &mut self.watcher), ["w/doomed"]);
        assert!(!self.quiet.is_closed(world));
        world.advance(16_000);
        assert_eq!(topics(world, &mut self.watcher), ["w/quiet"]);
        assert!(self.quiet.is_closed(world));
        world.advance(13_000);
        assert_eq!(told(world, &mut self.watcher), []);
        world.advance(2000);
        assert_eq!(topics(world, &mut self.watcher), ["w/late"]);
        let mut brief = Peer::connect(world, 0, &hello(BRIEF, false, 60));
        let got = brief.take(world);
        assert!(matches!(got[..], [Got::ConnAck { present: false, .. }]), "{got:?}");
    }
}

/// One run.
pub fn simulate(seed: u64) {
    let mut rng = Rng::new(seed);
    let faults = Faults { split: 300, late: 200, ..Faults::default() };
    let plan = |shards| plan(seed, shards, settings(), faults, stack(seed));
    let mut world = World::new(plan(rng.range(1, 3)));
    let mut household = Household::new(&mut world);
    household.begin(&mut world);
    household.obey(&mut world);
    // One that fails does no harm, and two in a row are as good as one.
    for fails in [rng.chance(500), false, rng.chance(500)] {
        let done = world.upgrade(plan(rng.range(1, 3)), fails);
        assert_eq!(done, !fails, "nothing is under way");
    }
    household.go_on(&mut world);
    household.obey(&mut world);
    household.come(&mut world);
    household.end(&mut world);
    fine(&world);
}

#[test]
fn nothing_that_a_broker_keeps_for_its_clients_is_left_behind() {
    (1..=40).for_each(simulate);
}
