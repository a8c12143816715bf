//! Sessions that survive the loss of their node (`cluster.durable`), with a real NATS server with
//! JetStream: a node is killed, and another one has its sessions, with what waits for them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cluster_upgrade::upgrade;
use crate::fleet::Server;
use crate::support::broker::program;
use crate::support::{
    Broker, Client, Connect, Packet, Property, Publish, Subscribe, V5, eventually, reason, unique,
};

/// Messages of 50,000 bytes that wait for a session.
const HEAVY: u32 = 120;

/// Nodes of one cluster, with stores, in a directory of their own.
struct Fleet {
    server: Server,
    nodes: Vec<Broker>,
    directory: PathBuf,
}

impl Fleet {
    /// So many, with further keys of `cluster`.
    fn start(count: usize, more: &str) -> Fleet {
        let directory = std::env::temp_dir().join(unique("ringmq-durable"));
        fs::create_dir(&directory).expect("a directory");
        let file = directory.join("nats.conf");
        let kept = directory.join("nats");
        let text = format!("jetstream {{ store_dir: \"{}\" }}\n", kept.display());
        fs::write(&file, text).expect("its file");
        let server = Server::start_with(Some(file.to_str().expect("a plain path").into()));
        let cluster = unique("fleet");
        for number in 0..count {
            let store = directory.join(format!("store-{number}"));
            let text = format!(
                "listeners: [{{bind: '127.0.0.1:0'}}]\nadmin: {{bind: '127.0.0.1:0'}}\n\
                 cores: [0]\nstorage: {{path: '{}'}}\n\
                 mqtt: {{pending: {{max_messages: 100000, max_bytes: 64MiB}}}}\n\
                 cluster: {{name: {cluster}, node: node-{number}, durable: true, replicas: 1, \
                 nats: {{servers: ['nats://{}']}}{more}}}\n",
                store.display(),
                server.address
            );
            fs::write(directory.join(format!("{number}.yaml")), text).expect("its file");
        }
        let mut fleet = Fleet { server, nodes: Vec::new(), directory };
        for number in 0..count {
            let node = fleet.run(number);
            fleet.nodes.push(node);
        }
        for at in 0..count {
            eventually("the nodes know each other", || fleet.settled(at, count));
            eventually("it is a member", || fleet.figure(at, "durable_member") == 1.0);
        }
        fleet
    }

    fn run(&self, number: usize) -> Broker {
        let file = self.directory.join(format!("{number}.yaml"));
        Broker::of_file(file.to_str().expect("a plain path"))
    }

    fn settled(&self, at: usize, count: usize) -> bool {
        let others = (0..count).filter(|&other| other != at);
        others.map(|other| format!("node=\"node-{other}\"")).all(|label| {
            self.nodes[at].find_metric("ringmq_cluster_node_settled", &label) == Ok(1.0)
        })
    }

    fn figure(&self, at: usize, name: &str) -> f64 {
        self.nodes[at].metric(&format!("ringmq_cluster_{name}"), "")
    }

    fn kill(&self, at: usize) {
        self.nodes[at].signal("-KILL");
        // Until it is gone the files are its own.
        self.nodes[at].wait(Duration::from_secs(60));
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A session that lasts, which its client goes on with.
fn session(name: &str) -> Connect {
    Connect::new(V5, name).clean(false).with(Property::SessionExpiry(600))
}

/// The numbers from `first` on, up to the one before `end`, in order.
fn expect_all(client: &mut Client, first: u32, end: u32) {
    for number in first..end {
        client.expect(&number.to_string());
    }
}

/// A node is killed; its clients connect to the other one at once, and have their sessions there:
/// what was acknowledged before comes, in order and once. When the node is back, it has none.
#[test]
fn sessions_of_a_node_that_is_killed_are_adopted() {
    let mut fleet = Fleet::start(2, "");
    let (away, there) = (unique("away"), unique("there"));
    for name in [&away, &there] {
        let (mut client, _) = session(name).open_with(&fleet.nodes[0]);
        client.subscribe(Subscribe::to("m", 1));
        if *name == away {
            client.disconnect();
        } else {
            // It acknowledges nothing, and is connected when its node dies.
            std::mem::forget(client);
        }
    }
    // Much waits for another one: more than is read of a journal at a time.
    let heavy = unique("heavy");
    let (mut client, _) = session(&heavy).open_with(&fleet.nodes[0]);
    client.subscribe(Subscribe::to("heavy", 1));
    client.disconnect();
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&fleet.nodes[0]);
    let large = |number: u32| format!("{number:050000}");
    (0..HEAVY).for_each(|number| writer.publish(&Publish::new("heavy", 1, large(number))));
    (0..200).for_each(|number| writer.publish(&Publish::new("m", 1, number.to_string())));
    assert!(fleet.nodes[0].metric("ringmq_cluster_durable_batches_total", "") > 0.0);
    fleet.kill(0);
    let killed = Instant::now();
    for (round, name) in [&there, &away].into_iter().enumerate() {
        let (mut client, connack) = session(name).open_with(&fleet.nodes[1]);
        assert!(connack.session_present, "{name} has its session after {:?}", killed.elapsed());
        // What was published since it was adopted has come to it, too.
        expect_all(&mut client, 0, 200 + round as u32);
        client.expect_nothing();
        let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&fleet.nodes[1]);
        writer.publish(&Publish::new("m", 1, (200 + round).to_string()));
        client.expect(&(200 + round).to_string());
        client.disconnect();
    }
    let (mut client, connack) = session(&heavy).open_with(&fleet.nodes[1]);
    assert!(connack.session_present, "it has its session");
    (0..HEAVY).for_each(|number| _ = client.expect(&large(number)));
    client.disconnect();
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    eventually("it is counted", || fleet.figure(1, "durable_adoptions_total") == 1.0);
    fleet.nodes[0] = fleet.run(0);
    assert_eq!(fleet.nodes[0].metric("ringmq_sessions", ""), 0.0, "they are elsewhere");
    let ended = fleet.nodes[0].metric("ringmq_cluster_durable_sessions_total", "way=\"taken\"");
    assert_eq!(ended, 3.0);
    // It goes on as before, and can be lost again once the other one knows it.
    eventually("the nodes know each other", || fleet.settled(1, 2));
    let later = unique("later");
    let (mut client, _) = session(&later).open_with(&fleet.nodes[0]);
    client.subscribe(Subscribe::to("later", 1));
    client.disconnect();
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&fleet.nodes[0]);
    (0..20).for_each(|number| writer.publish(&Publish::new("later", 1, number.to_string())));
    fleet.kill(0);
    let (mut client, connack) = session(&later).open_with(&fleet.nodes[1]);
    assert!(connack.session_present, "it has its session");
    expect_all(&mut client, 0, 20);
}

/// A node that hangs is adopted; when it goes on, it acknowledges nothing, ends its sessions, and
/// says so to its clients.
#[test]
fn a_node_that_hangs_ends_its_sessions_when_it_goes_on() {
    let fleet = Fleet::start(2, ", without_stream: wait");
    let name = unique("twice");
    let (mut old, _) = session(&name).open_with(&fleet.nodes[0]);
    old.subscribe(Subscribe::to("m", 1));
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&fleet.nodes[0]);
    (0..10).for_each(|number| writer.publish(&Publish::new("m", 1, number.to_string())));
    fleet.nodes[0].signal("-STOP");
    let (mut new, connack) = session(&name).open_with(&fleet.nodes[1]);
    assert!(connack.session_present, "it has its session");
    expect_all(&mut new, 0, 10);
    fleet.nodes[0].signal("-CONT");
    let code = old.wait_for("DISCONNECT", |packet| match packet {
        Packet::Disconnect { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(code, reason::TAKEN_OVER);
    new.ping();
    // The writer, if that is left.
    eventually("its session has ended", || fleet.nodes[0].metric("ringmq_sessions", "") <= 1.0);
}

/// Each node is upgraded under load: nothing is adopted, figures go on to grow, and when a node is
/// killed afterwards, the other one has everything that was acknowledged, in order and once.
#[test]
fn nodes_with_sessions_that_survive_them_are_upgraded_under_load() {
    let mut fleet = Fleet::start(2, ", without_stream: wait");
    let name = unique("away");
    let (mut client, _) = session(&name).open_with(&fleet.nodes[0]);
    client.subscribe(Subscribe::to("m", 1));
    client.disconnect();
    let stop = AtomicBool::new(false);
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&fleet.nodes[0]);
    let mut figures = Vec::new();
    let count = std::thread::scope(|scope| {
        let stop = &stop;
        let writes = scope.spawn(move || {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                writer.publish(&Publish::new("m", 1, number.to_string()));
                number += 1;
            }
            writer.ping();
            number
        });
        for at in [0, 1, 0] {
            std::thread::sleep(Duration::from_millis(300));
            let batches = fleet.nodes[at].metric("ringmq_cluster_durable_batches_total", "");
            figures.push((at, batches, fleet.figure(at, "frames_sent_total")));
            upgrade(&mut fleet.nodes[at]);
        }
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        writes.join().expect("each PUBLISH is acknowledged")
    });
    println!("{count} messages");
    assert!(count > 20, "{count} messages");
    for (at, batches, frames) in figures {
        let now = fleet.nodes[at].metric("ringmq_cluster_durable_batches_total", "");
        // The session that lasts is at the first one.
        let stores = at == 0;
        assert_eq!(batches > 0.0, stores, "batches of node {at}");
        assert!(now >= batches, "batches of node {at}: {batches}, then {now}");
        let now = fleet.figure(at, "frames_sent_total");
        assert!(now >= frames && frames > 0.0, "frames of node {at}: {frames}, then {now}");
    }
    for at in 0..2 {
        eventually("it is a member", || fleet.figure(at, "durable_member") == 1.0);
        assert_eq!(fleet.figure(at, "durable_adoptions_total"), 0.0);
    }
    fleet.kill(0);
    let (mut client, connack) = session(&name).open_with(&fleet.nodes[1]);
    assert!(connack.session_present, "it has its session");
    expect_all(&mut client, 0, count);
    client.expect_nothing();
    eventually("it is counted", || fleet.figure(1, "durable_adoptions_total") == 1.0);
}

/// An upgrade does not change whether sessions survive their node.
#[test]
fn an_upgrade_keeps_durable_as_it_is() {
    let fleet = Fleet::start(1, "");
    let file = fleet.directory.join("0.yaml");
    let text = fs::read_to_string(&file).expect("its file");
    fs::write(&file, text.replace("durable: true, replicas: 1, ", "")).expect("its file");
    let why = fleet.nodes[0].ask_to_upgrade(&[]).expect_err("it is refused");
    assert!(why.contains("cluster.durable: it is true and would be false"), "{why}");
    assert!(fleet.nodes[0].alive());
}

/// Every figure of a cluster that an alert is about exists at a node.
#[test]
fn figures_of_alerts_exist_at_a_node() {
    let fleet = Fleet::start(1, "");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/alerts.yaml");
    let rules = fs::read_to_string(file).expect("the alerts");
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: BTreeSet<&str> = words.filter(|word| word.starts_with("ringmq_cluster_")).collect();
    assert!(names.len() >= 2, "{names:?}");
    for name in names {
        fleet.nodes[0].metric(name, "");
    }
}

/// While the server is away, what is stored here is acknowledged after two seconds with `local`,
/// and clients come in; the node says that it is degraded, and the stream gets all of it later.
#[test]
fn without_a_server_what_is_local_is_acknowledged() {
    let mut fleet = Fleet::start(1, "");
    let name = unique("alone");
    let (mut client, _) = session(&name).open_with(&fleet.nodes[0]);
    client.subscribe(Subscribe::to("m", 1));
    client.disconnect();
    let (mut writer, _) = Connect::new(V5, unique("writer")).open_with(&fleet.nodes[0]);
    writer.publish(&Publish::new("m", 1, "0"));
    fleet.server.kill();
    let began = Instant::now();
    writer.publish(&Publish::new("m", 1, "1"));
    assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
    let out = || fleet.nodes[0].metric("ringmq_cluster_durable_out", "");
    eventually("it says so", || out() == 1.0 && fleet.figure(0, "degraded") == 1.0);
    let began = Instant::now();
    writer.publish(&Publish::new("m", 1, "2"));
    let (mut client, connack) = session(&name).open_with(&fleet.nodes[0]);
    assert!(connack.session_present);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    expect_all(&mut client, 0, 3);
    fleet.server.run();
    let behind = || fleet.nodes[0].metric("ringmq_cluster_durable_behind_batches", "");
    eventually("the stream has everything", || {
        behind() == 0.0 && fleet.nodes[0].metric("ringmq_cluster_durable_out", "") == 0.0
    });
}

/// What `durable` needs is asked for, each with its fix.
#[test]
fn durable_says_what_it_needs() {
    let text = "cluster: {name: a, durable: true}\nstorage: {durability: async}\n";
    let file = std::env::temp_dir().join(unique("ringmq-durable.yaml"));
    fs::write(&file, text).expect("its file");
    let output = program().args(["--test-config", "--config"]).arg(&file).output();
    let output = output.expect("it runs");
    let _ = fs::remove_file(&file);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in ["set storage.path, too", "set storage.durability to sync"] {
        assert!(said.contains(part), "{said}");
    }
}
