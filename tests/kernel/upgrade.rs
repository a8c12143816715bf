//! `ringmq upgrade` with real sockets: clients notice a pause and nothing else, and a new process
//! that fails leaves the old one serving.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::probe::figure;
use crate::storage::Place;
use crate::support::broker::Launch;
use crate::support::*;

/// Publishes in order at that QoS and reads everything back, until told to stop; how many messages
/// went there, and the longest wait for one.
pub fn load(broker: &Broker, qos: u8, stop: &AtomicBool) -> (usize, Duration) {
    let topic = unique("load");
    let mut sub = Client::connect(broker, V5, &unique("s"));
    sub.granted(&topic, qos);
    let mut c = Client::connect(broker, V311, &unique("p"));
    let (mut sent, mut worst) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        c.publish(&Publish::new(&topic, qos, sent.to_string()));
        let got = sub.expect(&sent.to_string());
        assert!(!got.dup, "{sent} came with DUP");
        sent += 1;
        worst = worst.max(start.elapsed());
    }
    sub.expect_nothing();
    c.ping();
    (sent, worst)
}

/// A program that does this in place of the new broker; `$RINGMQ` is the real one.
pub fn program(name: &str, does: &str) -> Temporary {
    Temporary::program(name, &format!("RINGMQ='{}'\n{does}", env!("CARGO_BIN_EXE_ringmq")))
}

#[test]
fn clients_under_load_walk_over_without_loss_repetition_or_disorder() {
    let _alone = machine();
    let mut broker = Broker::start(&["mqtt.outgoing_max_bytes=64MiB"]);
    // It reads nothing before the last upgrade: its messages wait in sockets and in the broker.
    let big = unique("big");
    let mut slow = Client::subscriber(&broker, V311, &unique("slow"), &big, 0);
    let mut c = Client::connect(&broker, V5, &unique("p"));
    let payload = |n: usize| format!("{n}:{}", "x".repeat(16 * 1024));
    (0..400).for_each(|n| c.publish(&Publish::new(&big, 1, payload(n))));
    let stop = AtomicBool::new(false);
    for round in 0..3 {
        stop.store(false, Ordering::Relaxed);
        let (report, loads) = std::thread::scope(|scope| {
            let (stop, running) = (&stop, &broker);
            let loads = [0, 1, 2, 1].map(|qos| scope.spawn(move || load(running, qos, stop)));
            std::thread::sleep(Duration::from_millis(300));
            let report = running.ask_to_upgrade(&[]);
            std::thread::sleep(Duration::from_millis(200));
            stop.store(true, Ordering::Relaxed);
            (report, loads.map(|load| load.join().expect("nothing was lost")))
        });
        let report = report.expect("it is upgraded");
        broker.follow(&report);
        figure("upgrade", &format!("round {round}: {report}; messages and worst: {loads:?}"));
    }
    c.ping();
    (0..400).for_each(|n| drop(slow.expect(&payload(n))));
    slow.ping();
    Client::connect(&broker, V5, &unique("late")).ping();
}

#[test]
fn what_a_client_has_begun_goes_on_in_the_new_process_with_another_number_of_shards() {
    let mut broker = Broker::start_with(&[], 2);
    let topic = unique("t");
    let retained = unique("kept");
    let offline = Connect::durable(V5, unique("offline"));
    let mut away = offline.open(&broker);
    away.granted(&topic, 2);
    away.disconnect();
    let mut c = Client::connect(&broker, V5, &unique("p"));
    c.publish(&Publish::new(&retained, 1, "kept").retain());
    c.publish(&Publish::new(&topic, 2, "for who is away"));
    // Half of a QoS 2 handshake in each direction, a message unacknowledged, an alias, a will.
    let mut sub = Connect::durable(V5, unique("s")).open(&broker);
    sub.granted(&topic, 2);
    let id = c.send_publish(&Publish::new(&topic, 2, "half"));
    c.ack(AckKind::PubRec, id);
    let half = sub.delivery();
    assert_eq!((half.text().as_str(), half.qos), ("half", 2));
    let aliased = Publish::new(&topic, 1, "by alias").with(Property::TopicAlias(3));
    c.publish(&aliased);
    let unacknowledged = sub.delivery();
    assert_eq!(unacknowledged.text(), "by alias");
    let watch = unique("gone");
    let mut witness = Client::subscriber(&broker, V5, &unique("w"), &watch, 1);
    let doomed = Connect::new(V5, unique("d")).will(Publish::new(&watch, 1, "gone")).open(&broker);
    let shared = format!("$share/g/{topic}/shared");
    let mut members = [0, 1].map(|_| Client::subscriber(&broker, V5, &unique("m"), &shared, 1));

    let one = program("one-shard", "exec \"$RINGMQ\" \"$@\" --set cores=[0]");
    let report = broker.ask_to_upgrade(&["--binary", &one.display().to_string()]);
    broker.follow(&report.expect("it is upgraded"));
    assert!(broker.log().contains("shards=1"), "{}", broker.log());

    c.send(&Ack::new(AckKind::PubRel, id).encode());
    c.ack(AckKind::PubComp, id);
    sub.send(&Ack::new(AckKind::PubRec, half.id).encode());
    sub.ack(AckKind::PubRel, half.id);
    sub.send(&Ack::new(AckKind::PubComp, half.id).encode());
    sub.acknowledge(&unacknowledged);
    c.publish(&Publish::new("", 1, "by the same alias").with(Property::TopicAlias(3)));
    sub.expect("by the same alias");
    sub.expect_nothing();
    doomed.cut();
    witness.expect("gone");
    witness.expect_nothing();
    c.publish(&Publish::new(format!("{topic}/shared"), 1, "for one"));
    c.publish(&Publish::new(format!("{topic}/shared"), 1, "for the other"));
    let mut got: Vec<String> = members.iter_mut().map(|m| m.message().text()).collect();
    got.sort();
    assert_eq!(got, ["for one", "for the other"]);
    let (mut away, connack) = offline.open_with(&broker);
    assert!(connack.session_present);
    for text in ["for who is away", "half", "by alias", "by the same alias"] {
        away.expect(text);
    }
    let mut late = Client::subscriber(&broker, V311, &unique("late"), &retained, 1);
    late.expect("kept");
}

#[test]
fn a_new_process_that_fails_at_any_point_leaves_the_old_one_serving() {
    let _alone = machine();
    let broker = Broker::start_with(&[], 2);
    let mut idle: Vec<Client> =
        (0..200).map(|_| Client::connect(&broker, V311, &unique("idle"))).collect();
    let stop = AtomicBool::new(false);
    // That it has started, with two shards; then so many bytes are read, and that was its life.
    let ready = r"printf '\001\000\000\000\003\002' >&0";
    let mut programs = vec![
        ("exit 1".to_owned(), "ended"),
        (r"printf '\377\377\377\377\001' >&0; cat".to_owned(), "not understood"),
        (format!("{ready}; {ready}; cat >/dev/null"), "protocol"),
        ("exec \"$RINGMQ\" --take-over --set listeners.0.name=other".to_owned(), "other"),
        ("exec \"$RINGMQ\" --test-config --nonsense".to_owned(), "ended"),
    ];
    for bytes in [0, 200, 4_000, 16_000] {
        programs.push((format!("{ready}; head -c {bytes} <&0 >/dev/null"), "ended"));
    }
    std::thread::scope(|scope| {
        let (running, stop) = (&broker, &stop);
        let loads = [1, 2].map(|qos| scope.spawn(move || load(running, qos, stop)));
        for (does, _) in &programs {
            let path = program("failing", does);
            let answer = broker.ask_to_upgrade(&["--binary", &path.display().to_string()]);
            println!("{does}: {answer:?}");
            let why = answer.expect_err("it cannot be upgraded");
            assert!(why.starts_with("no upgrade"), "{does}: {why}");
        }
        stop.store(true, Ordering::Relaxed);
        for load in loads {
            let (sent, worst) = load.join().expect("nothing was lost");
            figure("upgrade that fails", &format!("{sent} messages, the worst took {worst:?}"));
        }
    });
    assert!(broker.alive());
    idle.iter_mut().for_each(|client| client.ping());
    let said = broker.ask_to_upgrade(&["--dry-run"]).expect("it could be");
    assert!(said.contains("200 connections, 200 sessions"), "{said}");
    assert!(broker.alive());
}

#[test]
fn what_cannot_move_is_refused_by_name() {
    let place = Place::new();
    let path = place.setting();
    let broker = Launch { shards: 2, ..Launch::new(&[&path]) }.start();
    let mut client = Connect::durable(V5, "stays").open(&broker);
    for (setting, says) in [
        ("storage.path=/nowhere", "/nowhere"),
        ("'storage.path=\"\"'", "storage.path"),
        ("cores=[0]", "number of shards"),
    ] {
        let other = program("other-store", &format!("exec \"$RINGMQ\" \"$@\" --set {setting}"));
        let asked = broker.ask_to_upgrade(&["--binary", &other.display().to_string()]);
        let why = asked.expect_err("the store is another one");
        assert!(why.contains(says), "{setting}: {why}");
        client.ping();
    }
    // No server has to answer for a node to run.
    let lonely = ["cluster.name=plant", "cluster.nats.servers=[\"nats://127.0.0.1:1\"]"];
    let broker = Launch::new(&lonely).start();
    let why = broker.ask_to_upgrade(&[]).expect_err("it has no server");
    assert!(why.contains("cluster.nats.servers"), "{why}");
    let broker = Broker::start(&[]);
    let mut client = Connect::new(V5, "stays").open(&broker);
    let why = broker.ask_to_upgrade(&["--binary", "/nowhere/ringmq"]).expect_err("no program");
    assert!(why.contains("/nowhere/ringmq"), "{why}");
    // A dry run finds out as much as an upgrade does before clients wait.
    let other = program("other-listener", "exec \"$RINGMQ\" \"$@\" --set listeners.0.name=other");
    let other = other.display().to_string();
    for words in [&["--dry-run", "--binary", &other][..], &["--binary", &other]] {
        let why = broker.ask_to_upgrade(words).expect_err("its clients would be lost");
        assert!(why.contains("listener") && why.contains("not in the new"), "{words:?}: {why}");
        client.ping();
    }
}

/// Clients come, subscribe and go, while others are copied to the new process and after.
fn churn(broker: &Broker, stop: &AtomicBool) -> usize {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let topic = unique("churn");
        // Whichever process answers: the first one may have ended.
        let mut client = Connect::new(V5, &topic).open_at(broker, false);
        client.granted(&topic, 1);
        client.publish(&Publish::new(&topic, 1, "to itself"));
        client.expect("to itself");
        client.disconnect();
        rounds += 1;
    }
    rounds
}

#[test]
fn clients_come_and_go_while_others_are_copied() {
    let _alone = machine();
    let mut broker = Broker::start_with(&[], 2);
    let mut idle: Vec<Client> =
        (0..600).map(|_| Client::connect(&broker, V311, &unique("idle"))).collect();
    for _ in 0..3 {
        let stop = AtomicBool::new(false);
        let (report, rounds) = std::thread::scope(|scope| {
            let (stop, running) = (&stop, &broker);
            let churns = [(); 3].map(|()| scope.spawn(move || churn(running, stop)));
            let report = running.ask_to_upgrade(&[]);
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
            (report, churns.map(|churn| churn.join().expect("each is served")))
        });
        let report = report.expect("it is upgraded");
        broker.follow(&report);
        figure("upgrade", &format!("{report}; clients that came and went: {rounds:?}"));
        idle.iter_mut().for_each(|client| client.ping());
        let said = broker.ask_to_upgrade(&["--dry-run"]).expect("it could be");
        assert!(said.contains("600 connections, 600 sessions"), "{said}");
    }
}
