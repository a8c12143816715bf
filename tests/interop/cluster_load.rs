//! What a cluster loses, doubles or reorders of what clients publish while something fails: a node,
//! NATS servers, the way between nodes; and while nodes leave and join. `scripts/cluster failures`
//! has the long forms.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::fleet::Nodes;
use crate::support::broker::program;
use crate::support::client::Next;
use crate::support::{
    Ack, AckKind, Broker, Client, Connect, Packet, Property, Publish, V5, eventually, unique,
};

/// Publishers of a [`Talk`], and the time between two messages of one.
const PUBLISHERS: usize = 8;
const PAUSE: Duration = Duration::from_millis(3);
/// How long a client waits for an answer before it goes elsewhere.
const ANSWER: Duration = Duration::from_secs(20);

/// Where clients may connect at present.
#[derive(Clone)]
struct Places(Arc<Mutex<Vec<SocketAddr>>>);

impl Places {
    fn of<'a>(nodes: impl IntoIterator<Item = &'a Broker>) -> Places {
        let places = Places(Arc::default());
        places.set(nodes);
        places
    }

    fn set<'a>(&self, nodes: impl IntoIterator<Item = &'a Broker>) {
        let addresses = nodes.into_iter().map(Broker::address).collect();
        *self.0.lock().expect("nobody panics with it") = addresses;
    }

    /// The client with this CONNECT at the place with that number, if it is let in there.
    fn come(&self, number: usize, connect: &Connect) -> Option<(Client, bool)> {
        let places = self.0.lock().expect("nobody panics with it").clone();
        let mut client = Client::try_at(places[number % places.len()], V5)?;
        client.send(&connect.encode());
        match client.read(ANSWER) {
            Next::Packet(Packet::ConnAck(answer)) if answer.code == 0 => {
                Some((client, answer.session_present))
            }
            _ => None,
        }
    }
}

/// Clients that publish numbers, QoS 1, each to a topic of its own. One whose connection ends goes
/// to another place, and publishes again what was not acknowledged.
struct Talk {
    topic: String,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u32>>,
    /// The longest that a publisher has waited for an answer.
    waited: Arc<Mutex<Duration>>,
}

impl Talk {
    fn at(places: &Places, topic: &str) -> Talk {
        let (over, waited) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Duration>>::default());
        let publisher = |number: usize| {
            let (places, over, waited) = (places.clone(), over.clone(), waited.clone());
            let topic = format!("{topic}/{number}");
            std::thread::spawn(move || publish(&places, &topic, number, &over, &waited))
        };
        let threads = (0..PUBLISHERS).map(publisher).collect();
        Talk { topic: topic.to_owned(), over, threads, waited }
    }

    /// Ends it; how many messages of each topic were acknowledged.
    fn stop(self) -> BTreeMap<String, u32> {
        self.over.store(true, Ordering::Relaxed);
        let topic = |number| format!("{}/{number}", self.topic);
        let threads = self.threads.into_iter().enumerate();
        threads.map(|(n, thread)| (topic(n), thread.join().expect("it only publishes"))).collect()
    }

    fn waited(&self) -> Duration {
        std::mem::take(&mut *self.waited.lock().expect("nobody panics with it"))
    }
}

/// One of the publishers; how many were acknowledged.
fn publish(
    places: &Places,
    topic: &str,
    first: usize,
    over: &AtomicBool,
    waited: &Mutex<Duration>,
) -> u32 {
    let (mut number, mut place, mut client) = (0, first, None);
    let connect = Connect::new(V5, unique("publisher"));
    while !over.load(Ordering::Relaxed) {
        let Some(mut open) = client.take().or_else(|| Some(places.come(place, &connect)?.0)) else {
            place += 1;
            sleep(Duration::from_millis(20));
            continue;
        };
        let began = Instant::now();
        let id = open.send_publish(&Publish::new(topic, 1, number.to_string()));
        if is_acknowledged(&mut open, id) {
            client = Some(open);
            number += 1;
            let mut waited = waited.lock().expect("nobody panics with it");
            *waited = (*waited).max(began.elapsed());
        } else {
            place += 1;
        }
        sleep(PAUSE);
    }
    number
}

fn is_acknowledged(client: &mut Client, id: u16) -> bool {
    loop {
        match client.read(ANSWER) {
            Next::Packet(Packet::Ack(Ack { kind: AckKind::PubAck, id: of, .. })) if of == id => {
                return true;
            }
            Next::Packet(Packet::Disconnect { .. }) | Next::Closed | Next::Nothing => return false,
            Next::Packet(_) => {}
        }
    }
}

/// What has come to a reader.
#[derive(Default)]
struct Got {
    numbers: BTreeMap<String, Vec<u32>>,
    /// How often it went to another place, and how often its session was not there.
    moves: u32,
    gone: u32,
}

/// A client with a session that lasts; when its connection ends it goes on elsewhere.
struct Reader {
    got: Arc<Mutex<Got>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn at(places: &Places, place: usize, filter: &str) -> Reader {
        let (got, over) = (Arc::<Mutex<Got>>::default(), Arc::<AtomicBool>::default());
        let connect =
            Connect::new(V5, unique("reader")).clean(false).with(Property::SessionExpiry(600));
        let (mut client, _) = places.come(place, &connect).expect("it is let in");
        client.granted(filter, 1);
        let (places, filter) = (places.clone(), filter.to_owned());
        let (to, until) = (got.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let mut place = place;
            while !until.load(Ordering::Relaxed) {
                if read_on(&mut client, &to) {
                    continue;
                }
                place += 1;
                let Some((next, present)) = places.come(place, &connect) else {
                    sleep(Duration::from_millis(20));
                    continue;
                };
                client = next;
                let mut got = to.lock().expect("nobody panics with it");
                got.moves += 1;
                if !present {
                    got.gone += 1;
                    client.granted(&filter, 1);
                }
            }
        });
        Reader { got, over, thread: Some(thread) }
    }

    /// How many messages were lost, came twice, and came in another order.
    fn judge(&self, said: &BTreeMap<String, u32>) -> (usize, usize, usize) {
        let got = self.got.lock().expect("nobody panics with it");
        let (mut lost, mut doubled, mut reordered) = (0, 0, 0);
        for (topic, &count) in said {
            let came = got.numbers.get(topic).map(Vec::as_slice).unwrap_or_default();
            let mut seen = BTreeSet::new();
            let mut newest: Option<&u32> = None;
            for number in came {
                if !seen.insert(number) {
                    doubled += 1;
                    continue;
                }
                reordered += usize::from(newest.is_some_and(|newest| number < newest));
                newest = Some(number);
            }
            lost += (0..count).filter(|number| !seen.contains(number)).count();
        }
        (lost, doubled, reordered)
    }

    /// Waits for all, and no longer than for an answer.
    fn wait_for_all(&self, said: &BTreeMap<String, u32>) {
        let until = Instant::now() + ANSWER;
        while self.judge(said).0 > 0 && Instant::now() < until {
            sleep(Duration::from_millis(50));
        }
    }

    /// The number that came last of each topic.
    fn last(&self) -> BTreeMap<String, u32> {
        let got = self.got.lock().expect("nobody panics with it");
        let last = |(topic, numbers): (&String, &Vec<u32>)| Some((topic.clone(), *numbers.last()?));
        got.numbers.iter().filter_map(last).collect()
    }

    /// All has come, and in order; how many came twice.
    #[track_caller]
    fn expect_all(&self, said: &BTreeMap<String, u32>) -> usize {
        assert!(said.values().all(|&count| count > 20), "{said:?}");
        self.wait_for_all(said);
        let (lost, doubled, reordered) = self.judge(said);
        let published: u32 = said.values().sum();
        assert_eq!((lost, reordered), (0, 0), "lost and reordered of {published}");
        doubled
    }

    fn moves(&self) -> (u32, u32) {
        let got = self.got.lock().expect("nobody panics with it");
        (got.moves, got.gone)
    }
}

/// Takes what comes; false when the connection has ended.
fn read_on(client: &mut Client, to: &Mutex<Got>) -> bool {
    match client.read(Duration::from_millis(100)) {
        Next::Packet(Packet::Publish(publish)) => {
            client.acknowledge(&publish);
            let number = publish.text().parse().expect("a number");
            let mut got = to.lock().expect("nobody panics with it");
            got.numbers.entry(publish.topic).or_default().push(number);
            true
        }
        Next::Packet(Packet::Disconnect { .. }) | Next::Closed => false,
        Next::Packet(_) | Next::Nothing => true,
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of it has been shown.
            let _ = thread.join();
        }
    }
}

/// Messages from node `from` to node `to` until it is stopped.
fn across(nodes: &Nodes, from: usize, to: usize) -> (Talk, Reader) {
    let topic = unique("across");
    let known = nodes.of_node(from, "filters", to).max(0.0) + 1.0;
    let reader = Reader::at(&Places::of([&nodes.nodes[to]]), 0, &format!("{topic}/#"));
    eventually("the filter is known", || nodes.of_node(from, "filters", to) >= known);
    (Talk::at(&Places::of([&nodes.nodes[from]]), &topic), reader)
}

/// Tries a scenario until no node has missed another one for seconds that the scenario keeps them
/// apart by itself. On a busy machine a node may be silent for that long; then the cluster is
/// divided, and what is published meanwhile is lost by its rules: nothing can be said of that run.
/// A scenario returns whether the nodes were divided, and fails by itself otherwise.
fn undivided(scenario: fn() -> bool) {
    assert!((0..5).any(|_| !scenario()), "the nodes were divided in each of five runs");
}

fn pause(millis: u64) {
    sleep(Duration::from_millis(millis));
}

/// How long CONNACK takes at each node, at most.
fn longest_connack(nodes: &Nodes) -> Duration {
    let connect = |node: &Broker| {
        let began = Instant::now();
        Client::connect(node, V5, &unique("comes"));
        began.elapsed()
    };
    nodes.nodes.iter().map(connect).max().expect("there are some")
}

/// One server after the other dies, and then hangs: what is published meanwhile comes, once and in
/// order.
#[test]
fn servers_that_die_and_hang_lose_nothing_under_load() {
    undivided(|| {
        let mut nodes = Nodes::start_with_three(2);
        let ways = [across(&nodes, 0, 1), across(&nodes, 1, 0)];
        for at in 0..3 {
            pause(300);
            nodes.servers[at].kill();
            pause(500);
            nodes.servers[at].run();
        }
        for at in 0..2 {
            nodes.servers[at].signal("-STOP");
            pause(1800);
            nodes.servers[at].signal("-CONT");
        }
        is_divided(&nodes, ways)
    });
}

/// Two of three servers are away: all goes on. Then the third one is, too: each node serves its own
/// clients, and what was published for the other one comes when there is a server again.
#[test]
fn without_a_quorum_and_without_any_server_clients_are_served() {
    undivided(|| {
        let mut nodes = Nodes::start_with_three(2);
        let ways = [across(&nodes, 0, 1), across(&nodes, 1, 0)];
        let here = Places::of([&nodes.nodes[0]]);
        let reader = Reader::at(&here, 0, "inner/#");
        let inner = (Talk::at(&here, "inner"), reader);
        nodes.servers[0].kill();
        nodes.servers[1].kill();
        pause(1500);
        assert!(nodes.settled(0) == 1 && nodes.settled(1) == 1, "the third server carries all");
        let took = longest_connack(&nodes);
        assert!(took < Duration::from_millis(400), "CONNACK after {took:?}");
        nodes.servers[2].kill();
        eventually("it is noticed", || (0..2).all(|at| nodes.figure(at, "degraded") == 1.0));
        inner.0.waited();
        let took = longest_connack(&nodes);
        assert!(took < Duration::from_millis(400), "CONNACK after {took:?}");
        pause(1000);
        let waited = inner.0.waited();
        assert!(waited < Duration::from_millis(500), "PUBACK after {waited:?}");
        nodes.servers.iter_mut().for_each(|server| server.run());
        nodes.meet();
        is_divided(&nodes, ways.into_iter().chain([inner]))
    });
}

/// With `on_partition: drop` publishers do not wait, and what is dropped is counted.
#[test]
fn what_has_no_room_while_no_server_is_there_is_counted() {
    let mut nodes = Nodes::start_with(2, ", on_partition: drop, window: 256KiB");
    let (talk, reader) = across(&nodes, 0, 1);
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&nodes.nodes[0]);
    let large = Reader::at(&Places::of([&nodes.nodes[1]]), 0, "large/#");
    eventually("the filter is known", || nodes.of_node(0, "filters", 1) == 2.0);
    nodes.servers[0].kill();
    eventually("it is noticed", || nodes.figure(0, "degraded") == 1.0);
    // More than the window holds.
    let count = 100;
    for number in 0..count {
        writer.publish(&Publish::new("large/x", 1, format!("{number:010000}")));
    }
    pause(500);
    nodes.servers[0].run();
    nodes.meet();
    let said = talk.stop();
    let of_large = BTreeMap::from([("large/x".to_owned(), count)]);
    let dropped = || {
        let label = "reason=\"window_full\"";
        nodes.nodes[0].metric("ringmq_cluster_dropped_total", label) as usize
    };
    let lost = || reader.judge(&said).0 + large.judge(&of_large).0;
    eventually("what was lost is counted", || lost() == dropped() && dropped() > 20);
    for (_, doubled, reordered) in [reader.judge(&said), large.judge(&of_large)] {
        assert_eq!((doubled, reordered), (0, 0));
    }
}

/// Two nodes and their servers are divided: each serves its own clients, what is published until it
/// is noticed comes afterwards, and nothing is lost once the nodes know each other again.
#[test]
fn nodes_that_are_divided_serve_their_clients_and_meet_again() {
    undivided(|| {
        let (nodes, relay) = Nodes::start_apart();
        let ways = [across(&nodes, 0, 1), across(&nodes, 1, 0)];
        let inner = [0, 1].map(|at| {
            let (here, topic) = (Places::of([&nodes.nodes[at]]), unique("inner"));
            let reader = Reader::at(&here, 0, &format!("{topic}/#"));
            (Talk::at(&here, &topic), reader)
        });
        pause(500);
        relay.shut(true);
        for at in 0..2 {
            eventually("the division is noticed", || nodes.of_node(at, "up", 1 - at) == 0.0);
        }
        inner.iter().for_each(|(talk, _)| _ = talk.waited());
        let took = longest_connack(&nodes);
        assert!(took < Duration::from_millis(400), "CONNACK after {took:?}");
        pause(500);
        for (talk, _) in &inner {
            let waited = talk.waited();
            assert!(waited < Duration::from_millis(500), "PUBACK after {waited:?}");
        }
        relay.shut(false);
        nodes.meet();
        // Each has said once that the other one is down.
        if nodes.divisions() > 2 {
            return true;
        }
        pause(500);
        for (talk, reader) in inner {
            let said = talk.stop();
            assert_eq!(reader.expect_all(&said), 0, "messages that came twice");
        }
        ways.into_iter().any(|(talk, reader)| is_divided_once_more(&nodes, talk.stop(), &reader))
    });
}

/// Judges what came: all of it, once and in order. True, and nothing is judged, if the nodes were
/// divided.
fn is_divided(nodes: &Nodes, ways: impl IntoIterator<Item = (Talk, Reader)>) -> bool {
    ways.into_iter().any(|(talk, reader)| {
        let said = talk.stop();
        reader.wait_for_all(&said);
        if nodes.divisions() > 0 {
            return true;
        }
        assert_eq!(reader.expect_all(&said), 0, "messages that came twice");
        false
    })
}

/// Judges what came from the other side: all but the messages of one gap. True, and nothing is
/// judged, if the nodes were divided another time.
fn is_divided_once_more(nodes: &Nodes, said: BTreeMap<String, u32>, reader: &Reader) -> bool {
    let newest: BTreeMap<_, _> =
        said.iter().map(|(topic, &count)| (topic.clone(), count - 1)).collect();
    let until = Instant::now() + ANSWER;
    while reader.last() != newest && Instant::now() < until {
        pause(50);
    }
    if nodes.divisions() > 2 {
        return true;
    }
    assert_eq!(reader.last(), newest, "what was published last");
    let (_, doubled, reordered) = reader.judge(&said);
    assert_eq!((doubled, reordered), (0, 0));
    let got = reader.got.lock().expect("nobody panics with it");
    for came in got.numbers.values() {
        let gaps: Vec<_> = came.windows(2).filter(|two| two[1] != two[0] + 1).collect();
        assert!(gaps.len() <= 1, "{gaps:?}: more is lost than while they were divided");
    }
    false
}

/// A node is killed: between the others nothing is lost, and publishers that were at it go on.
#[test]
fn a_node_that_is_killed_disturbs_no_others_under_load() {
    let nodes = Nodes::start(3, "");
    let (talk, reader) = across(&nodes, 0, 1);
    let there = Reader::at(&Places::of([&nodes.nodes[1]]), 0, "there/#");
    eventually("the filter is known", || nodes.of_node(2, "filters", 1) == 2.0);
    let places = Places::of(&nodes.nodes[2..]);
    let moving = Talk::at(&places, "there");
    pause(1000);
    places.set(&nodes.nodes[..2]);
    nodes.nodes[2].signal("-KILL");
    let died = Instant::now();
    eventually("the node is down", || nodes.of_node(0, "up", 2) == 0.0);
    // It is shown twice a second.
    assert!(died.elapsed() < Duration::from_millis(3600), "{:?}", died.elapsed());
    eventually("its filters are gone", || nodes.of_node(0, "filters", 2) == 0.0);
    pause(500);
    let said = talk.stop();
    assert_eq!(reader.expect_all(&said), 0, "messages that came twice");
    // What was in the window of the node that died is lost: at most what was under way.
    let said = moving.stop();
    pause(500);
    let (lost, _, reordered) = there.judge(&said);
    assert!(lost <= 2 * PUBLISHERS, "{lost} lost of {said:?}");
    assert_eq!(reordered, 0);
    assert!(said.values().all(|&count| count > 20), "{said:?}");
}

/// A node joins and clients with their sessions go there, and then each node leaves and is started
/// again: nothing is lost, and all sessions follow their clients.
#[test]
fn a_rolling_restart_loses_nothing_under_load() {
    let mut nodes = Nodes::start(2, "");
    let places = Places::of(&nodes.nodes);
    let readers: Vec<Reader> =
        (0..4).map(|number| Reader::at(&places, number, "rolling/#")).collect();
    let talk = Talk::at(&places, "rolling");
    pause(500);
    nodes.join();
    nodes.meet();
    places.set(&nodes.nodes);
    for at in 0..3 {
        let api = format!("http://{}", nodes.nodes[at].bound("admin"));
        let left = program().args(["cluster", "leave", "--api", &api]).output();
        let left = left.expect("it runs");
        assert!(left.status.success(), "{left:?}");
        assert_eq!(nodes.nodes[at].wait(Duration::from_secs(60)), Some(0), "it ends");
        nodes.restart(at);
        nodes.meet();
        places.set(&nodes.nodes);
        pause(300);
    }
    let said = talk.stop();
    for reader in &readers {
        reader.expect_all(&said);
        let (moves, gone) = reader.moves();
        assert!(moves > 0, "it stayed at a node that left");
        assert_eq!(gone, 0, "sessions that did not come along");
    }
}
