//! Who may come in, and what for: verdicts that come at once, late or for somebody who has gone;
//! rules, and rules that change under live clients.

use super::*;
use crate::world::Order;
use ringmq::access::{Access, load};
use ringmq::config::Sources;

/// `apple`, as `mosquitto_passwd -H sha512` hashes it.
const USERS: &str = "ann:$6$AAAAAAAAAAAAAAAA$HASH\n";

/// What `access:` says, as JSON, which is YAML too; `closed`: topics that nobody may use.
fn rules(closed: &str) -> Arc<Access> {
    from(&format!("[{{rules: {{list: [{{deny: all, topics: [{closed}]}}]}}}}]"), "apple")
}

/// With these sources of rules, and this password of ann's.
fn from(sources: &str, password: &str) -> Arc<Access> {
    chained(sources, password, "0")
}

/// With logins that are remembered for so long.
fn chained(sources: &str, password: &str, remember: &str) -> Arc<Access> {
    let chain = format!(
        "[{{password_file: {{path: users, remember: {remember}}}}}, {{jwt: {{secret: s3cret}}}}]"
    );
    let set = vec![
        format!("access.authentication={chain}"),
        format!("access.authorization={sources}"),
        "access.no_match=allow".to_owned(),
    ];
    let config = Sources { set, ..Sources::default() }.load().unwrap();
    let users = USERS.replace("HASH", &hash_of(password));
    Arc::new(load::load(&config, &|_| Ok(users.clone())).unwrap())
}

fn hash_of(password: &str) -> String {
    use aws_lc_rs::digest;
    use base64::Engine;
    let salted = [password.as_bytes(), &[0; 12]].concat();
    base64::prelude::BASE64_STANDARD.encode(digest::digest(&digest::SHA512, &salted))
}

fn with(settings: &Settings, access: Arc<Access>) -> Settings {
    Settings { admissions: 2, ..settings.clone().with_access(access) }
}

/// New settings as the control thread gives them, and all that follows from them.
fn order(world: &mut World, settings: Settings) {
    world.order(&Order::Reload(Arc::new(settings)));
    world.settle();
}

fn login<'a>(name: &'a str, user: &'a str, password: &'a str) -> Connect<'a> {
    let password = Some(password.as_bytes());
    Connect { username: Some(user), password, ..hello(name, true, 0) }
}

/// CONNECT, and what CONNACK says.
fn try_to(world: &mut World, connect: &Connect<'_>) -> (Peer, ReasonCode) {
    let shard = world.rng.below(world.nodes.len());
    let mut peer = Peer::connect(world, shard, connect);
    let reason = answer(world, &mut peer);
    (peer, reason)
}

fn answer(world: &mut World, peer: &mut Peer) -> ReasonCode {
    match peer.take(world)[..] {
        [Got::ConnAck { reason, .. }] => reason,
        ref other => panic!("{other:?}"),
    }
}

fn refused(world: &mut World, connect: &Connect<'_>, expected: ReasonCode, why: &str) {
    let (mut peer, reason) = try_to(world, connect);
    assert_eq!(reason, expected, "{why}");
    peer.end(world, End::Fin);
    world.settle();
}

pub fn hold(world: &mut World, settings: &Settings) {
    let mut watcher = guest(world, "e-watcher");
    subscribe(world, &mut watcher, Wish::new("e/x/#", 0));
    order(world, with(settings, rules("none")));
    proofs(world);
    may_not(world, settings, &mut watcher);
    asked(world, settings, &mut watcher);
    changed_user(world, settings);
    read_at_delivery(world, settings);
    remembered(world, settings);
    order(world, with(settings, rules("none")));
    expiry(world);
    late(world);
    too_many(world);
    order(world, settings.clone());
    part(world, [watcher]);
}

fn proofs(world: &mut World) {
    let (peer, reason) = try_to(world, &login("e-a", "ann", "apple"));
    assert_eq!(reason, ReasonCode::Success, "a right password");
    part(world, [peer]);
    let wrong = ReasonCode::BadUserNameOrPassword;
    refused(world, &login("e-a", "ann", "pear"), wrong, "a wrong password");
    refused(world, &login("e-a", "eve", "apple"), wrong, "an unknown user");
    // A verdict that refuses is no takeover.
    let (mut live, _) = try_to(world, &login("e-a", "ann", "apple"));
    refused(world, &login("e-a", "ann", "pear"), wrong, "a wrong password for a live client");
    live.raw(world, &[0xC0, 0]);
    assert_eq!(live.take(world), [Got::Pong], "taken over with a wrong password");
    // What comes behind a CONNECT that waits is not lost.
    let mut eager = Peer::silent(world, 0, 1 << 20);
    eager.begin(world, &login("e-eager", "ann", "apple"));
    eager.raw(world, &[0xC0, 0]);
    let got = eager.take(world);
    assert!(matches!(got[..], [Got::ConnAck { .. }, Got::Pong]), "{got:?}");
    part(world, [live, eager]);
}

fn may_not(world: &mut World, settings: &Settings, watcher: &mut Peer) {
    let mut client = guest(world, "e-client");
    publish(world, &mut client, "e/x/t", b"1", Said { qos: 1, ..Said::default() });
    assert_eq!(watcher.payloads(world), ["1"]);
    let revoked = world.counters().subscriptions_revoked;
    order(world, with(settings, rules("e/x/t, e/x/closed/#")));
    let revoked = world.counters().subscriptions_revoked - revoked;
    // Sessions of the random clients may have others.
    assert!(revoked >= 1, "a subscription that the new rules do not allow");
    let mut second = guest(world, "e-second");
    subscribe(world, &mut second, Wish::new("e/x/open", 0));
    for topic in ["e/x/t", "e/x/closed/a"] {
        client.publish(world, topic, b"2", 1, 7);
        let got = client.take(world);
        let denied = Got::Ack(AckKind::PubAck, 7, ReasonCode::NotAuthorized);
        assert_eq!(got, [denied], "{topic} after other rules");
    }
    client.publish(world, "e/x/open", b"3", 0, 0);
    assert_eq!(second.payloads(world), ["3"]);
    assert_eq!(watcher.payloads(world), Vec::<String>::new(), "a subscription that ended");
    for filter in ["e/x/closed/b", "e/x/#", "$share/g/e/x/+"] {
        client.subscribe(world, 8, filter, 1);
        let got = client.take(world);
        assert_eq!(got, [Got::SubAck(8, vec![ReasonCode::NotAuthorized as u8])], "{filter}");
    }
    let gone = peer_will("e/x/closed/w");
    let refusal = ReasonCode::NotAuthorized;
    refused(world, &Connect { will: Some(gone), ..hello("e-will", true, 0) }, refusal, "a will");
    part(world, [client, second]);
}

/// A service is asked what a client may do: its packets wait, nobody else's do, and what the
/// service said is remembered.
fn asked(world: &mut World, settings: &Settings, watcher: &mut Peer) {
    order(world, with(settings, from("[{http: {url: 'http://service/'}}]", "apple")));
    let mut client = guest(world, "e-asks");
    let mut other = guest(world, "e-asks-too");
    subscribe(world, watcher, Wish::new("e/x/asked/#", 0));
    world.think = 500;
    client.publish(world, "e/x/asked/yes", b"1", 1, 1);
    client.publish(world, "e/x/asked/no", b"2", 1, 2);
    client.raw(world, &[0xC0, 0]);
    other.raw(world, &[0xC0, 0]);
    assert_eq!(client.take(world), [], "before the service has said anything");
    assert_eq!(other.take(world), [Got::Pong], "somebody else's packet");
    wait(world, 600);
    let ack = |id, reason| Got::Ack(AckKind::PubAck, id, reason);
    assert_eq!(client.take(world), [ack(1, ReasonCode::Success)]);
    assert_eq!(watcher.payloads(world), ["1"]);
    wait(world, 600);
    assert_eq!(client.take(world), [ack(2, ReasonCode::NotAuthorized), Got::Pong]);
    client.publish(world, "e/x/asked/no", b"3", 1, 3);
    assert_eq!(client.take(world), [ack(3, ReasonCode::NotAuthorized)], "what is remembered");
    assert_eq!(watcher.payloads(world), Vec::<String>::new());
    // Who waits asks again when the rules change.
    client.publish(world, "e/x/asked/later", b"4", 1, 4);
    order(world, with(settings, rules("e/x/asked/later")));
    assert_eq!(client.take(world), [ack(4, ReasonCode::NotAuthorized)], "under other rules");
    world.think = 0;
    wait(world, 1000);
    order(world, with(settings, from("[{http: {url: 'http://service/'}}]", "apple")));
    client.subscribe(world, 8, "e/x/asked/no/+", 1);
    assert_eq!(client.take(world), [Got::SubAck(8, vec![ReasonCode::NotAuthorized as u8])]);
    client.subscribe(world, 9, "e/x/asked/may/+", 1);
    assert_eq!(client.take(world), [Got::SubAck(9, vec![1])]);
    long_subscribe(world);
    let refusal = ReasonCode::NotAuthorized;
    let gone = peer_will("e/x/asked/no");
    let connect = Connect { will: Some(gone), ..hello("e-asked-will", true, 0) };
    refused(world, &connect, refusal, "a will that the service does not allow");
    let gone = peer_will("e/x/asked/will");
    let connect = Connect { will: Some(gone), ..hello("e-asked-will", true, 0) };
    let (peer, reason) = try_to(world, &connect);
    assert_eq!(reason, ReasonCode::Success, "a will that it does");
    // Gone while the service is asked: its answer is nobody's.
    world.think = 500;
    let mut left = guest(world, "e-asks-left");
    left.publish(world, "e/x/asked/left", b"5", 1, 5);
    left.end(world, End::Reset);
    wait(world, 600);
    world.think = 0;
    world.settle();
    part(world, [client, other, peer]);
}

/// A SUBSCRIBE of many filters asks on its way, goes on when it has been told, and ends with its
/// connection.
fn long_subscribe(world: &mut World) {
    let name = |n| match n % 8 {
        3 => format!("e/x/asked/no/{n}"),
        _ => format!("e/x/asked/may/{n}"),
    };
    let filters: Vec<String> = (0..100).map(name).collect();
    let code = |filter: &String| match filter.contains("/no/") {
        true => ReasonCode::NotAuthorized as u8,
        false => 1,
    };
    let expected: Vec<u8> = filters.iter().map(code).collect();
    world.think = 100;
    let mut long = guest(world, "e-asks-long");
    let mut left = guest(world, "e-asks-long-left");
    long.subscribe_all(world, 10, &filters, 1);
    left.subscribe_all(world, 10, &filters, 1);
    assert_eq!(long.take(world), [], "before the service has said anything");
    wait(world, 150);
    left.end(world, End::Reset);
    wait(world, 900);
    assert_eq!(long.take(world), [Got::SubAck(10, expected)], "a long SUBSCRIBE");
    world.think = 0;
    world.settle();
    part(world, [long]);
}

/// A reload that changes a user's password ends the connection that came in with the old one.
fn changed_user(world: &mut World, settings: &Settings) {
    order(world, with(settings, rules("none")));
    let (mut peer, _) = try_to(world, &login("e-changed", "ann", "apple"));
    let mut bystander = guest(world, "e-unchanged");
    order(world, with(settings, rules("none, e/none")));
    peer.raw(world, &[0xC0, 0]);
    assert_eq!(peer.take(world), [Got::Pong], "after a reload with the same password");
    let none = "[{rules: {list: [{deny: all, topics: [none]}]}}]";
    order(world, with(settings, from(none, "pear")));
    let ended = [Got::Disconnect(ReasonCode::NotAuthorized)];
    assert_eq!(peer.take(world), ended, "a user with another password");
    bystander.raw(world, &[0xC0, 0]);
    assert_eq!(bystander.take(world), [Got::Pong]);
    peer.end(world, End::Fin);
    world.settle();
    part(world, [bystander]);
}

/// Where reading is checked at delivery, any filter may be subscribed to, and what the rules do not
/// allow is left out: live, and retained.
fn read_at_delivery(world: &mut World, settings: &Settings) {
    let mut early = guest(world, "e-early");
    subscribe(world, &mut early, Wish::new("e/r/#", 1));
    let rules = "[{rules: {list: [{deny: subscribe, topics: [e/r/secret/#]}]}}]";
    let set = vec![
        format!("access.authorization={rules}"),
        "access.no_match=allow".to_owned(),
        "access.read_check=delivery".to_owned(),
    ];
    let config = Sources { set, ..Sources::default() }.load().unwrap();
    let access = load::load(&config, &|_| Ok(String::new())).unwrap();
    order(world, with(settings, Arc::new(access)));
    let mut reader = guest(world, "e-reader");
    let mut writer = guest(world, "e-writer");
    subscribe(world, &mut reader, Wish::new("e/r/#", 1));
    let denied = world.counters().dropped_read_denied;
    for (topic, qos) in [("e/r/secret/1", 0), ("e/r/open", 1), ("e/r/secret/2", 1)] {
        publish(world, &mut writer, topic, b"r", Said { qos, ..Said::default() });
    }
    assert_eq!(reader.payloads(world), ["r"], "what a client may not read");
    assert_eq!(early.payloads(world), ["r"], "who came before the rules");
    // Random clients may have subscribed as well.
    assert!(world.counters().dropped_read_denied - denied >= 4);
    if !settings.retain {
        part(world, [early, reader, writer]);
        return;
    }
    let kept = || Said { qos: 1, retain: true, ..Said::default() };
    publish(world, &mut writer, "e/r/secret/kept", b"k", kept());
    let mut late = guest(world, "e-late-reader");
    subscribe(world, &mut late, Wish::new("e/r/secret/+", 1));
    assert_eq!(late.payloads(world), Vec::<String>::new(), "retained");
    publish(world, &mut writer, "e/r/secret/kept", b"", kept());
    part(world, [early, reader, writer, late]);
}

/// Who has shown a right password lately is not kept waiting for another hash; who shows another
/// is, and so is everybody after a reload.
fn remembered(world: &mut World, settings: &Settings) {
    let none = "[{rules: {list: [{deny: all, topics: [none]}]}}]";
    order(world, with(settings, chained(none, "apple", "10s")));
    let name = on(world, 0, |n| format!("e-remembered-{n}"));
    let (peer, _) = try_to(world, &login(&name, "ann", "apple"));
    part(world, [peer]);
    world.think = 1000;
    let (peer, reason) = try_to(world, &login(&name, "ann", "apple"));
    assert_eq!(reason, ReasonCode::Success, "a login that is remembered");
    part(world, [peer]);
    let mut peer = Peer::connect(world, 0, &login(&name, "ann", "pear"));
    assert_eq!(peer.take(world), [], "another password is remembered");
    wait(world, 1500);
    assert_eq!(answer(world, &mut peer), ReasonCode::BadUserNameOrPassword);
    peer.end(world, End::Fin);
    world.settle();
    wait(world, 9000);
    let mut peer = Peer::connect(world, 0, &login(&name, "ann", "apple"));
    assert_eq!(peer.take(world), [], "a login from long ago");
    wait(world, 1500);
    assert_eq!(answer(world, &mut peer), ReasonCode::Success);
    part(world, [peer]);
    order(world, with(settings, chained(none, "pear", "10s")));
    let mut peer = Peer::connect(world, 0, &login(&name, "ann", "apple"));
    assert_eq!(peer.take(world), [], "a login from before a reload");
    wait(world, 1500);
    assert_eq!(answer(world, &mut peer), ReasonCode::BadUserNameOrPassword);
    peer.end(world, End::Fin);
    world.think = 0;
    world.settle();
}

fn peer_will(topic: &str) -> packet::Will<'_> {
    crate::peer::will(topic, 0)
}

/// A token's end is the connection's.
fn expiry(world: &mut World) {
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let claims = serde_json::json!({"exp": world.now / 1000 + 10});
    let key = jsonwebtoken::EncodingKey::from_secret(b"s3cret");
    let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    let (mut peer, reason) = try_to(world, &login("e-token", "tom", &token));
    assert_eq!(reason, ReasonCode::Success, "a token");
    wait(world, 8000);
    assert!(!peer.is_closed(world), "closed before its token expired");
    wait(world, 4000);
    assert_eq!(peer.take(world), [Got::Disconnect(ReasonCode::NotAuthorized)], "an expired token");
    peer.end(world, End::Fin);
    world.settle();
}

/// Who waits for longer than CONNECT may take is told; the verdict is not another client's.
fn late(world: &mut World) {
    world.think = 7000;
    let name = on(world, 0, |n| format!("e-late-{n}"));
    let mut slow = Peer::connect(world, 0, &login(&name, "ann", "apple"));
    wait(world, 5500);
    let given_up = answer(world, &mut slow);
    assert_eq!(given_up, ReasonCode::ServerUnavailable, "a verdict that does not come");
    slow.end(world, End::Fin);
    world.settle();
    world.think = 3000;
    let mut next = Peer::connect(world, 0, &login(&name, "ann", "pear"));
    wait(world, 3500);
    let reason = answer(world, &mut next);
    assert_eq!(reason, ReasonCode::BadUserNameOrPassword, "a verdict of its own");
    next.end(world, End::Fin);
    world.settle();
    world.think = 0;
    wait(world, 1000);
}

/// So many prove themselves at a time; one who gives up makes room.
fn too_many(world: &mut World) {
    world.think = 1000;
    let names: Vec<String> =
        (0..3).map(|at| on(world, 0, |n| format!("e-many-{at}-{n}"))).collect();
    let mut peers: Vec<Peer> =
        names.iter().map(|name| Peer::connect(world, 0, &login(name, "ann", "apple"))).collect();
    let mut last = peers.pop().unwrap();
    assert_eq!(answer(world, &mut last), ReasonCode::ServerBusy, "one too many");
    last.end(world, End::Fin);
    let mut gone = peers.pop().unwrap();
    gone.end(world, End::Reset);
    world.settle();
    let mut another = Peer::connect(world, 0, &login(&names[2], "ann", "apple"));
    wait(world, 1500);
    for peer in [&mut peers[0], &mut another] {
        assert_eq!(answer(world, peer), ReasonCode::Success, "who waited");
    }
    world.think = 0;
    part(world, peers.into_iter().chain([another]));
}
