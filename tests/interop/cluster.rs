//! Nodes of a cluster with a real NATS server: clients of one are served by another, while the
//! server is killed, hangs or is away, and when a node dies.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ringmq::cluster::frame::{Abilities, FrameContent, FrameSender, NEWEST, NodeFrame};

use crate::fleet::Nodes;
use crate::support::broker::program;
use crate::support::{
    Client, Connect, Packet, Property, Publish, Subscribe, V5, V311, eventually, reason, unique,
};

/// Publishes the numbers from `first` on, each when the one before it was acknowledged, until
/// `over` says so; returns the number after the last.
fn publish_until(client: &mut Client, first: u32, mut over: impl FnMut() -> bool) -> u32 {
    let mut number = first;
    while !over() {
        client.publish(&Publish::new("m", 1, number.to_string()));
        number += 1;
    }
    number
}

/// The numbers up to the one before `end`, which come in order, each once.
fn expect_all(client: &mut Client, end: u32) {
    for number in 0..end {
        client.expect(&number.to_string());
    }
}

#[test]
fn mosquitto_clients_of_two_nodes_reach_each_other() {
    let nodes = Nodes::start(2, "");
    let reader = Command::new("mosquitto_sub")
        .args(nodes.address(1))
        .args(["-V", "5", "-t", "fleet/+/state", "-q", "1", "-C", "3", "-W", "20", "-v"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("mosquitto_sub is installed: run scripts/test");
    eventually("the filter is known", || nodes.of_node(0, "filters", 1) == 1.0);
    let sent = nodes.figure(0, "messages_sent_total");
    for (topic, text) in [
        ("fleet/1/state", "on"),
        ("fleet/1/other", "-"),
        ("fleet/2/state", "off"),
        ("fleet//state", "x"),
    ] {
        let status = Command::new("mosquitto_pub")
            .args(nodes.address(0))
            .args(["-V", "5", "-t", topic, "-m", text, "-q", "1"])
            .status();
        assert!(status.expect("mosquitto_pub is installed").success());
    }
    let output = reader.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, "fleet/1/state on\nfleet/2/state off\nfleet//state x\n");
    eventually("it is counted", || nodes.figure(0, "messages_sent_total") == sent + 3.0);
    eventually("the filter is gone", || nodes.of_node(0, "filters", 1) == 0.0);
}

/// What is acknowledged arrives, once and in order, whatever happens to the server.
#[test]
fn a_server_that_dies_or_hangs_loses_nothing() {
    let mut nodes = Nodes::start(3, "");
    let mut readers = [nodes.subscriber(1, "m", 1), nodes.subscriber(2, "#", 1)];
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&nodes.nodes[0]);
    let some = |count: u32| {
        let mut left = count;
        move || {
            left -= 1;
            left == 0
        }
    };
    let mut number = publish_until(&mut writer, 0, some(200));
    nodes.servers[0].kill();
    number = publish_until(&mut writer, number, some(200));
    nodes.servers[0].run();
    number = publish_until(&mut writer, number, some(200));
    nodes.servers[0].signal("-STOP");
    let hangs = Instant::now();
    number = publish_until(&mut writer, number, || hangs.elapsed() > Duration::from_millis(2500));
    nodes.servers[0].signal("-CONT");
    number = publish_until(&mut writer, number, some(200));
    readers.iter_mut().for_each(|reader| expect_all(reader, number));
    readers.iter_mut().for_each(Client::expect_nothing);
    let dropped: f64 = ["window_full", "node_down", "expired", "given_up"]
        .iter()
        .map(|reason| {
            let label = format!("reason=\"{reason}\"");
            nodes.nodes[0].metric("ringmq_cluster_dropped_total", &label)
        })
        .sum();
    assert_eq!(dropped, 0.0);
}

/// Nothing is sent to a node that is gone three seconds after its death.
#[test]
fn a_node_that_dies_is_swept_and_comes_back() {
    let mut nodes = Nodes::start(2, "");
    let reader = nodes.subscriber(1, "m", 1);
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&nodes.nodes[0]);
    nodes.nodes[1].signal("-KILL");
    let died = Instant::now();
    eventually("the node is down", || nodes.of_node(0, "up", 1) == 0.0);
    // It is shown twice a second.
    assert!(died.elapsed() < Duration::from_millis(3600), "{:?}", died.elapsed());
    assert_eq!(nodes.figure(0, "degraded"), 1.0);
    eventually("its filters are gone", || nodes.of_node(0, "filters", 1) == 0.0);
    drop(reader);
    assert_eq!(writer.publish_code(&Publish::new("m", 1, "x")), 0x10, "no matching subscribers");
    nodes.restart(1);
    let mut reader = nodes.subscriber(1, "m", 1);
    writer.publish(&Publish::new("m", 1, "again"));
    reader.expect("again");
    eventually("all is well", || nodes.figure(0, "degraded") == 0.0);
}

/// A member of a share group: mosquitto_sub, and the lines that it has written.
struct Member {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Member {
    fn start(nodes: &Nodes, at: usize) -> Member {
        let mut child = Command::new("mosquitto_sub")
            .args(nodes.address(at))
            .args(["-V", "5", "-q", "1", "-t", "$share/workers/job/+", "-F", "%p"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub is installed: run scripts/test");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                to.lock().expect("nobody panics with it").push(line);
            }
        });
        Member { child, lines }
    }

    fn had(&self) -> Vec<String> {
        self.lines.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each message goes to one member of a share group in the whole cluster; what a member leaves goes
/// to one at another node.
#[test]
fn a_share_group_is_one_group_at_all_nodes() {
    let nodes = Nodes::start(3, "");
    let members = [Member::start(&nodes, 1), Member::start(&nodes, 2)];
    eventually("the group is known", || {
        nodes.of_node(0, "filters", 1) == 1.0 && nodes.of_node(0, "filters", 2) == 1.0
    });
    let mut plain = nodes.subscriber(2, "job/#", 1);
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&nodes.nodes[0]);
    let count = 300;
    for number in 0..count {
        writer.publish(&Publish::new("job/a", 1, number.to_string()));
    }
    let all = || members.iter().flat_map(Member::had).collect::<Vec<_>>();
    eventually("all has come", || all().len() >= count);
    expect_all(&mut plain, count as u32);
    let mut numbers: Vec<usize> = all().iter().map(|line| line.parse().expect("one")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "each at one member");
    assert!(members.iter().all(|member| member.had().len() >= count / 4), "both have a part");
    // Where it is published there is a member: that one gets it.
    let (mut local, _) = Connect::new(V5, unique("writer")).open_with(&nodes.nodes[1]);
    local.publish(&Publish::new("job/b", 1, "local"));
    eventually("it has come", || members[0].had().last().is_some_and(|line| line == "local"));
    // A client that acknowledges nothing, and ends: its messages go to the other members.
    drop(members);
    eventually("they have left", || {
        nodes.of_node(0, "filters", 1) == 0.0 && nodes.of_node(1, "filters", 2) == 1.0
    });
    let (mut silent, _) = Connect::new(V5, unique("silent")).open_with(&nodes.nodes[1]);
    silent.subscribe(Subscribe::to("$share/workers/job/+", 1));
    for number in 0..100 {
        writer.publish(&Publish::new("job/c", 1, format!("left {number}")));
    }
    let pending = || nodes.nodes[1].metric("ringmq_pending_messages", "");
    eventually("they have come", || pending() >= 68.0);
    let last = Member::start(&nodes, 2);
    eventually("the group is known", || nodes.of_node(1, "filters", 2) == 2.0);
    drop(silent);
    eventually("all has come", || last.had().len() >= 100);
    let expected: Vec<String> = (0..100).map(|number| format!("left {number}")).collect();
    assert_eq!(last.had(), expected);
    drop(last);
    eventually("nobody is in the group", || {
        writer.publish_code(&Publish::new("job/c", 1, "x")) == 0x00
            && nodes.of_node(0, "filters", 1) == 0.0
            && nodes.of_node(0, "filters", 2) == 1.0
    });
}

/// A session that lasts, which its client goes on with.
fn session(name: &str) -> Connect {
    Connect::new(V5, name).clean(false).with(Property::SessionExpiry(600))
}

/// A client comes back at another node while it is still connected to the first, which has 100
/// messages for it: the old connection is told, and all messages come, in order.
#[test]
fn a_client_and_its_queue_go_to_another_node() {
    let nodes = Nodes::start(3, "");
    let name = unique("traveller");
    let (mut old, connack) = session(&name).open_with(&nodes.nodes[1]);
    assert!(!connack.session_present);
    old.subscribe(Subscribe::to("m", 1));
    eventually("the filter is known", || nodes.of_node(0, "filters", 1) == 1.0);
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&nodes.nodes[0]);
    // It acknowledges none of them: 32 are in its window, the others wait.
    (0..100).for_each(|number| writer.publish(&Publish::new("m", 1, number.to_string())));
    eventually("they have come", || nodes.nodes[1].metric("ringmq_pending_messages", "") >= 68.0);
    let (mut new, connack) = session(&name).open_with(&nodes.nodes[2]);
    assert!(connack.session_present, "its session is there");
    let code = old.wait_for("DISCONNECT", |packet| match packet {
        Packet::Disconnect { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(code, reason::TAKEN_OVER);
    expect_all(&mut new, 100);
    new.expect_nothing();
    eventually("the first node has nothing left", || {
        nodes.nodes[1].metric("ringmq_sessions", "") == 0.0
    });
    eventually("nor its filter", || nodes.of_node(0, "filters", 1) == 0.0);
    writer.publish(&Publish::new("m", 1, "more"));
    new.expect("more");
    // Its acknowledgement has come, too.
    new.ping();
    // Without a connection, and with one of MQTT 3.1.1, the same.
    drop(new);
    writer.publish(&Publish::new("m", 1, "later"));
    let connect = Connect { version: V311, ..session(&name) };
    let connect = Connect { properties: Vec::new(), ..connect };
    let (mut third, connack) = connect.open_with(&nodes.nodes[0]);
    assert!(connack.session_present);
    third.expect("later");
    eventually("it is counted", || {
        let went = |at: usize| {
            nodes.nodes[at].metric("ringmq_cluster_sessions_moved_total", "reason=\"went\"")
        };
        went(1) == 1.0 && went(2) == 1.0
    });
    // One that begins anew ends what there is elsewhere.
    let (_fresh, connack) = Connect::new(V5, &name).open_with(&nodes.nodes[1]);
    assert!(!connack.session_present);
    third.expect_closed();
    eventually("nobody has a session of it", || {
        nodes.nodes[0].metric("ringmq_sessions", "") == 1.0
    });
}

/// A node leaves: its clients are told where to go, what waits for them goes along, the process
/// ends in order, and the other node knows at once.
#[test]
fn a_node_leaves_and_its_clients_go_on_elsewhere() {
    let nodes = Nodes::start(2, "overload: {server_reference: 'other.example:1883'}\n");
    let (new, old) = (unique("new"), unique("old"));
    let connect_old = || {
        let connect = Connect { version: V311, ..session(&old) };
        Connect { properties: Vec::new(), ..connect }
    };
    let mut clients =
        [session(&new).open_with(&nodes.nodes[0]).0, connect_old().open_with(&nodes.nodes[0]).0];
    for client in &mut clients {
        client.subscribe(Subscribe::to("m", 1));
    }
    eventually("the filter is known", || nodes.of_node(1, "filters", 0) == 1.0);
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&nodes.nodes[1]);
    // They acknowledge none of them.
    (0..60).for_each(|number| writer.publish(&Publish::new("m", 1, number.to_string())));
    let pending = || nodes.nodes[0].metric("ringmq_pending_messages", "");
    eventually("they have come", || pending() >= 2.0 * 28.0);
    let api = format!("http://{}", nodes.nodes[0].bound("admin"));
    let left = program().args(["cluster", "leave", "--api", &api]).output().expect("it runs");
    assert!(left.status.success(), "{left:?}");
    let [mut first, mut second] = clients;
    let told = first.wait_for("DISCONNECT", |packet| match packet {
        Packet::Disconnect { reason, properties } => Some((*reason, properties.clone())),
        _ => None,
    });
    assert_eq!(told.0, 0x9c, "{told:?}");
    assert!(told.1.contains(&Property::ServerReference("other.example:1883".into())), "{told:?}");
    second.expect_closed_after_anything();
    let again = program().args(["cluster", "leave", "--api", &api]).output().expect("it runs");
    assert!(!again.status.success(), "it leaves already");
    writer.publish(&Publish::new("m", 1, "60"));
    let (mut first, connack) = session(&new).open_with(&nodes.nodes[1]);
    assert!(connack.session_present, "its session came along");
    let (mut second, connack) = connect_old().open_with(&nodes.nodes[1]);
    assert!(connack.session_present, "its session came along");
    expect_all(&mut first, 61);
    expect_all(&mut second, 61);
    assert_eq!(nodes.nodes[0].wait(Duration::from_secs(60)), Some(0), "it ends");
    let ended = Instant::now();
    eventually("the other node knows", || nodes.of_node(1, "up", 0) == 0.0);
    assert!(ended.elapsed() < Duration::from_millis(2000), "{:?}", ended.elapsed());
    writer.publish(&Publish::new("m", 1, "last"));
    first.expect("last");
    second.expect("last");
}

/// A node that is stopped says to its clients that they should go elsewhere, while there is an
/// elsewhere.
#[test]
fn a_node_that_stops_refers_its_clients_while_others_are_there() {
    let nodes = Nodes::start(2, "overload: {server_reference: 'other.example:1883'}\n");
    let told = |at: usize| {
        let (mut client, _) = Connect::new(V5, unique("client")).open_with(&nodes.nodes[at]);
        nodes.nodes[at].signal("-TERM");
        client.wait_for("DISCONNECT", |packet| match packet {
            Packet::Disconnect { reason, properties } => Some((*reason, properties.clone())),
            _ => None,
        })
    };
    let (reason, properties) = told(0);
    assert_eq!(reason, 0x9c, "{properties:?}");
    let elsewhere = Property::ServerReference("other.example:1883".into());
    assert!(properties.contains(&elsewhere), "{properties:?}");
    eventually("it is alone", || nodes.of_node(1, "up", 0) == 0.0);
    let (reason, properties) = told(1);
    assert_eq!(reason, 0x8b, "{properties:?}");
    assert!(!properties.contains(&elsewhere), "{properties:?}");
}

/// While no server carries frames, clients come in at once; a client that came in twice is at one
/// node again when there is one.
#[test]
fn a_client_that_is_connected_twice_is_so_until_the_nodes_hear_each_other() {
    let mut nodes = Nodes::start(2, "");
    let name = unique("twice");
    let (mut old, _) = session(&name).open_with(&nodes.nodes[0]);
    nodes.servers[0].kill();
    eventually("it is noticed", || (0..2).all(|at| nodes.figure(at, "degraded") == 1.0));
    let (mut new, connack) = session(&name).open_with(&nodes.nodes[1]);
    assert!(!connack.session_present, "nobody could be asked");
    old.ping();
    new.ping();
    nodes.servers[0].run();
    old.expect_taken_over();
    new.ping();
    eventually("one has it", || nodes.nodes[0].metric("ringmq_sessions", "") == 0.0);
}

/// The retained message that a new subscriber at a node is sent.
fn retained(nodes: &Nodes, at: usize, topic: &str) -> Option<String> {
    let (mut reader, _) = Connect::new(V5, unique("late")).open_with(&nodes.nodes[at]);
    reader.subscribe(Subscribe::to(topic, 1));
    // It may come from another core.
    (0..3).for_each(|_| reader.ping());
    // What is published meanwhile comes, too.
    let kept = std::iter::from_fn(|| reader.stashed()).find(|message| message.retain)?;
    Some(kept.text())
}

/// What is retained at one node is sent to new subscribers at every node, also at one that was
/// started later; what is published while no server runs, at both, is the same at both afterwards.
#[test]
fn retained_messages_are_at_every_node() {
    let mut nodes = Nodes::start(2, "");
    for (topic, text) in [("site/1", "old"), ("site/2", "two"), ("site/1", "one")] {
        let status = Command::new("mosquitto_pub")
            .args(nodes.address(0))
            .args(["-V", "5", "-r", "-q", "1", "-t", topic, "-m", text])
            .status();
        assert!(status.expect("mosquitto_pub is installed").success());
    }
    eventually("it is there", || retained(&nodes, 1, "site/1").as_deref() == Some("one"));
    let reader = Command::new("mosquitto_sub")
        .args(nodes.address(1))
        .args(["-V", "5", "-t", "site/+", "-q", "1", "-C", "2", "-W", "20", "-F", "%t %p %r"])
        .output();
    let output = reader.expect("mosquitto_sub is installed: run scripts/test").stdout;
    let mut lines: Vec<_> = std::str::from_utf8(&output).expect("text").lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["site/1 one 1", "site/2 two 1"]);
    nodes.nodes[1].signal("-KILL");
    eventually("the node is down", || nodes.of_node(0, "up", 1) == 0.0);
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&nodes.nodes[0]);
    writer.publish(&Publish { retain: true, ..Publish::new("site/2", 1, "") });
    writer.publish(&Publish { retain: true, ..Publish::new("site/3", 1, "three") });
    nodes.restart(1);
    eventually("the node is told", || retained(&nodes, 1, "site/3").as_deref() == Some("three"));
    assert_eq!(retained(&nodes, 1, "site/1").as_deref(), Some("one"));
    assert_eq!(retained(&nodes, 1, "site/2"), None);
    nodes.servers[0].kill();
    eventually("it is noticed", || (0..2).all(|at| nodes.figure(at, "degraded") == 1.0));
    writer.publish(&Publish { retain: true, ..Publish::new("site/1", 1, "earlier") });
    writer.publish(&Publish { retain: true, ..Publish::new("site/3", 1, "") });
    let (mut other, _) = Connect::new(V5, unique("writer")).open_with(&nodes.nodes[1]);
    other.publish(&Publish { retain: true, ..Publish::new("site/1", 1, "later") });
    nodes.servers[0].run();
    for at in 0..2 {
        let kept = |topic: &str| retained(&nodes, at, topic);
        eventually("the later one is there", || kept("site/1").as_deref() == Some("later"));
        eventually("it is cleared", || kept("site/3").is_none());
    }
}

/// A node is killed: the wills of its clients come once at clients of the nodes that are left, but
/// for those of clients that have left before, or are back.
#[test]
fn wills_of_a_node_that_is_killed_come_once() {
    let nodes = Nodes::start(3, "");
    let mut readers = [nodes.subscriber(0, "will/#", 1), nodes.subscriber(2, "will/#", 1)];
    let with_will = |name: &str, delay: u32| {
        let will = Publish::new(format!("will/{name}"), 1, name).with(Property::WillDelay(delay));
        Connect::new(V5, name).with(Property::SessionExpiry(delay)).will(will)
    };
    let mosquitto = Command::new("mosquitto_sub")
        .args(nodes.address(1))
        .args(["--will-topic", "will/real", "--will-payload", "real", "--will-qos", "1"])
        .args(["--will-retain", "-t", "other", "-i", &unique("real")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto_sub is installed: run scripts/test");
    let mosquitto = Running(mosquitto);
    let (back, left) = (unique("back"), unique("left"));
    let _later = with_will(&unique("later"), 3600).open_with(&nodes.nodes[1]);
    let _back = with_will(&back, 0).open_with(&nodes.nodes[1]);
    with_will(&left, 0).open_with(&nodes.nodes[1]).0.disconnect();
    for at in [0, 2] {
        eventually("they are known", || nodes.figure(at, "wills_kept") == 3.0);
    }
    nodes.nodes[1].signal("-KILL");
    let _again = Connect::new(V5, &back).open_with(&nodes.nodes[2]);
    for reader in &mut readers {
        assert_eq!(reader.expect("real").topic, "will/real");
    }
    let published =
        || [0, 2].iter().map(|at| nodes.figure(*at, "wills_published_total")).sum::<f64>();
    // The figures are shown twice a second.
    eventually("it is counted", || published() == 1.0);
    for at in [0, 2] {
        eventually("others have been told", || nodes.figure(at, "wills_kept") == 1.0);
    }
    // Another one would have come with it.
    readers.iter_mut().for_each(Client::expect_nothing);
    assert_eq!(published(), 1.0);
    eventually("it is retained", || retained(&nodes, 0, "will/real").as_deref() == Some("real"));
    drop(mosquitto);
}

/// A process that is killed when it is not needed any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node that says nothing but that it is there, as the broker's own frames do, and what time it
/// has: of `late` milliseconds ago.
struct Clock {
    stream: TcpStream,
    cluster: String,
}

impl Clock {
    fn connect(nodes: &Nodes) -> Clock {
        let mut stream =
            TcpStream::connect(nodes.servers[0].address).expect("the NATS server listens");
        stream.write_all(b"CONNECT {\"verbose\":false}\r\n").expect("it takes it");
        Clock { stream, cluster: nodes.name.clone() }
    }

    fn say(&mut self, late: u64) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let time = since.expect("after 1970").as_millis() as u64 - late;
        let sender = FrameSender { name: "clock", incarnation: 1, clock: 1, time };
        let said = FrameContent::Hello(Abilities::OWN);
        let frame = NodeFrame { format: NEWEST, sender, said }.write();
        let head = format!("PUB ringmq.{}.all {}\r\n", self.cluster, frame.len());
        let bytes = [head.as_bytes(), &frame, b"\r\n"].concat();
        self.stream.write_all(&bytes).expect("it takes it");
    }
}

/// A node whose clock is more than five seconds away is an alarm, until it is right.
#[test]
fn clocks_that_are_apart_are_an_alarm() {
    let nodes = Nodes::start(1, "");
    let mut clock = Clock::connect(&nodes);
    let active = || nodes.nodes[0].metric("ringmq_alarm_active", "alarm=\"clocks_apart\"");
    assert_eq!(active(), 0.0);
    eventually("the alarm is raised", || {
        clock.say(8000);
        active() == 1.0
    });
    let ahead = nodes.nodes[0].metric("ringmq_cluster_node_clock_ahead_seconds", "node=\"clock\"");
    assert!((7.5..9.0).contains(&ahead), "{ahead}");
    eventually("the alarm is cleared", || {
        clock.say(0);
        active() == 0.0
    });
}

/// A message that only a node with a store has, which was killed before it could tell the others,
/// is the newest one when that node is back.
#[test]
fn what_is_stored_is_not_the_oldest_after_a_restart() {
    let mut nodes = Nodes::start(2, "");
    let file = nodes.directory.join("0.yaml");
    let store = nodes.directory.join("store");
    let text = fs::read_to_string(&file).expect("its file");
    let text = format!("{text}storage: {{path: '{}'}}\n", store.display());
    fs::write(&file, text).expect("its file");
    let again = |nodes: &mut Nodes| {
        nodes.nodes[0].signal("-KILL");
        // Until it is gone the files are its own.
        nodes.nodes[0].wait(Duration::from_secs(60));
        nodes.restart(0);
    };
    again(&mut nodes);
    eventually("the nodes know each other", || nodes.settled(0) == 1 && nodes.settled(1) == 1);
    let set = |nodes: &Nodes, text: &str| {
        let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&nodes.nodes[0]);
        writer.publish(&Publish::new("state", 1, text).retain());
    };
    set(&nodes, "old");
    eventually("it is there", || retained(&nodes, 1, "state").as_deref() == Some("old"));
    nodes.servers[0].kill();
    eventually("it is noticed", || (0..2).all(|at| nodes.figure(at, "degraded") == 1.0));
    set(&nodes, "new");
    again(&mut nodes);
    nodes.servers[0].run();
    for at in 0..2 {
        eventually("all have the newest", || {
            retained(&nodes, at, "state").as_deref() == Some("new")
        });
    }
}
