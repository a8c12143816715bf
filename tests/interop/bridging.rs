//! Bridges of the broker's own, with a real mosquitto at the other end: both ways, in each version,
//! and while the other end is restarted, hung or gone.

use std::collections::HashSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::{
    AckKind, Broker, Client, Connect, Next, Packet, Publish, V5, V311, eventually, patience, unique,
};

/// A mosquitto that can be stopped and started again on its port.
pub struct Far {
    child: Option<Child>,
    pub address: SocketAddr,
    directory: PathBuf,
}

impl Far {
    pub fn start() -> Far {
        Far::with("max_inflight_messages 0\n")
    }

    /// `more`: further lines of its file.
    pub fn with(more: &str) -> Far {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("it has an address");
        drop(free);
        let directory = std::env::temp_dir().join(unique("ringmq-far"));
        fs::create_dir(&directory).expect("a directory");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
             persistence_location {}/\nmax_queued_messages 0\n{more}",
            address.port(),
            directory.display()
        );
        fs::write(directory.join("mosquitto.conf"), text).expect("its file");
        let mut far = Far { child: None, address, directory };
        far.run();
        far
    }

    pub fn run(&mut self) {
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let child = Command::new("mosquitto")
            .env("PATH", path)
            .arg("-c")
            .arg(self.directory.join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed: run scripts/test, or apt install mosquitto");
        self.child = Some(child);
        let address = self.address;
        eventually("mosquitto listens", || std::net::TcpStream::connect(address).is_ok());
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    }

    /// In order: sessions and what they have queued are saved.
    pub fn stop(&mut self) {
        self.signal("-TERM");
        self.child.take().expect("it runs").wait().expect("it ends");
    }

    /// Whether it lets anybody in, from when it runs again.
    pub fn allow(&self, anybody: bool) {
        let file = self.directory.join("mosquitto.conf");
        let text = fs::read_to_string(&file).expect("its file");
        let (old, new) = (!anybody, anybody);
        let key = "allow_anonymous";
        let text = text.replace(&format!("{key} {old}"), &format!("{key} {new}"));
        fs::write(file, text).expect("its file");
    }

    pub fn client(&self, name: &str) -> Client {
        self.connect(&Connect::new(V311, unique(name)))
    }

    pub fn connect(&self, connect: &Connect) -> Client {
        let mut client = Client::at(self.address, V311);
        client.send(&connect.encode());
        assert_eq!(client.connack().code, 0);
        client
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A broker with bridges, in a directory of its own.
pub struct Near {
    pub broker: Broker,
    directory: PathBuf,
}

impl Near {
    /// `bridges`: the list of that key.
    pub fn start(bridges: &str) -> Near {
        let directory = std::env::temp_dir().join(unique("ringmq-near"));
        fs::create_dir(&directory).expect("a directory");
        write(&directory, bridges);
        let broker = Broker::of_file(path(&directory.join("near.yaml")));
        Near { broker, directory }
    }

    /// Other bridges, from when it reads its file again.
    pub fn write(&self, bridges: &str) {
        write(&self.directory, bridges);
    }

    /// Where it may put what waits.
    pub fn spool(&self) -> PathBuf {
        self.directory.join("spool")
    }

    /// A bridge called `uplink` to that address; `more`: further keys of `mqtt`.
    pub fn uplink(far: SocketAddr, topics: &str, more: &str) -> Near {
        Near::start(&format!(
            "  - name: uplink\n    mqtt: {{addresses: ['{far}'], \
             retry: {{min: 100ms, max: 300ms}}, topics: [{topics}], client_id: {}{more}}}\n",
            unique("bridge")
        ))
    }

    pub fn is_up(&self) -> bool {
        self.broker.metric("ringmq_bridge_up", "") > 0.0
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn write(directory: &Path, bridges: &str) {
    let text = format!(
        "listeners: [{{bind: '127.0.0.1:0'}}]\nadmin: {{bind: '127.0.0.1:0'}}\n\
         bridges:\n{bridges}"
    );
    fs::write(directory.join("near.yaml"), text).expect("its file");
}

fn path(file: &Path) -> &str {
    file.to_str().expect("a plain path")
}

/// Numbers of the messages up to that one, in the order in which they come.
pub fn numbers(client: &mut Client, last: usize) -> Vec<usize> {
    let mut numbers = Vec::new();
    loop {
        let number = client.message().text().parse().expect("a number");
        numbers.push(number);
        if number == last {
            return numbers;
        }
    }
}

fn both_ways(more: &str) {
    let far = Far::start();
    let topic = unique("plant");
    let topics = format!(
        "{{filter: '{topic}/#', direction: both, qos: 1}}, \
         {{filter: 'up/#', direction: out, qos: 2, remote_prefix: '{topic}-r/'}}"
    );
    let near = Near::uplink(far.address, &topics, more);
    let broker = &near.broker;
    eventually("the bridge is up", || near.is_up());
    let mut here = Client::subscriber(broker, V311, &unique("here"), &format!("{topic}/#"), 1);
    let mut there = far.client("there");
    there.granted(&format!("{topic}/#"), 1);
    there.granted(&format!("{topic}-r/#"), 2);
    let mut publisher = Client::connect(broker, V311, &unique("p"));
    let mut distant = far.client("distant");
    for number in 0..20 {
        publisher.publish(&Publish::new(format!("{topic}/a"), 1, number.to_string()));
        distant.publish(&Publish::new(format!("{topic}/b"), 1, (100 + number).to_string()));
        publisher.publish(&Publish::new("up/c", 2, (200 + number).to_string()));
    }
    let kept = format!("{topic}/kept");
    publisher.publish(&Publish::new(&kept, 1, "300").retain());
    let mut all = numbers(&mut here, 300);
    distant.publish(&Publish::new(format!("{topic}/b"), 1, "301"));
    // An echo would come before the last.
    all.extend(numbers(&mut here, 301));
    all.sort_unstable();
    let expected = (0..20).chain(100..120).chain(300..302);
    assert!(all.iter().copied().eq(expected), "{more}: here {all:?}");
    publisher.publish(&Publish::new("up/c", 2, "302"));
    let mut all = numbers(&mut there, 302);
    all.sort_unstable();
    let expected = (0..20).chain(100..120).chain(200..220).chain(300..303);
    assert!(all.iter().copied().eq(expected), "{more}: there {all:?}");
    let mut late = far.client("late");
    late.granted(&kept, 1);
    assert!(late.expect("300").retain, "{more}: what is retained here is there");
    let mut state = Client::connect(broker, V311, &unique("state"));
    state.granted("$SYS/broker/connection/uplink/state", 1);
    state.expect("1");
    drop(far);
    state.expect("0");
    assert!(broker.metric("ringmq_bridge_dropped_total", "reason=\"full\"") == 0.0);
}

#[test]
fn messages_go_both_ways_without_echo() {
    for version in ["v5", "v311"] {
        both_ways(&format!(", protocol_version: {version}"));
    }
}

/// Everything that was accepted while the other end was away arrives, in order.
#[test]
fn what_is_published_while_the_other_end_is_away_arrives_in_order() {
    let mut far = Far::start();
    let near = Near::uplink(far.address, "{filter: 'q/#', direction: both, qos: 1}", "");
    eventually("the bridge is up", || near.is_up());
    let durable = Connect::durable(V311, unique("durable"));
    let mut reader = far.connect(&durable);
    reader.granted("q/out", 1);
    let mut publisher = Client::connect(&near.broker, V311, &unique("p"));
    let mut here = Client::subscriber(&near.broker, V311, &unique("here"), "q/in", 1);
    let mut number = 0;
    for _round in 0..3 {
        for _ in 0..100 {
            publisher.publish(&Publish::new("q/out", 1, number.to_string()));
            number += 1;
        }
        drop(reader);
        far.stop();
        for _ in 0..200 {
            publisher.publish(&Publish::new("q/out", 1, number.to_string()));
            number += 1;
        }
        far.run();
        reader = far.connect(&durable);
        far.client("distant").publish(&Publish::new("q/in", 1, number.to_string()));
    }
    publisher.publish(&Publish::new("q/out", 1, number.to_string()));
    let mut got = numbers(&mut reader, number);
    let copies = got.len();
    got.dedup();
    assert!(got.iter().copied().eq(0..=number), "lost, or out of order: {got:?}");
    assert!(copies - got.len() <= 300, "{copies} messages for {number}");
    // Whoever is stopped before PUBACK has come sends its message again.
    let mut got = numbers(&mut here, 900);
    got.dedup();
    assert_eq!(got, [300, 600, 900]);
}

/// A hung other end holds nobody up, and what waits for it is bounded and counted.
#[test]
fn a_hung_other_end_holds_nobody_up() {
    let far = Far::start();
    let near = Near::start(&format!(
        "  - name: uplink\n    mqtt: {{addresses: ['{}'], topics: [{{filter: 'q/#', qos: 1}}], \
         client_id: {}}}\n    buffer: {{max_bytes: 64KiB, on_full: drop_new}}\n",
        far.address,
        unique("bridge")
    ));
    eventually("the bridge is up", || near.is_up());
    far.signal("-STOP");
    let mut publisher = Client::connect(&near.broker, V311, &unique("p"));
    let mut worst = Duration::ZERO;
    for number in 0..400 {
        let began = Instant::now();
        publisher.publish(&Publish::new("q/x", 1, format!("{number:01000}")));
        worst = worst.max(began.elapsed());
    }
    assert!(worst < Duration::from_secs(1), "a PUBACK took {worst:?}");
    eventually("what found no room is counted", || {
        let matched = near.broker.metric("ringmq_bridge_matched_total", "");
        let dropped = near.broker.metric("ringmq_bridge_dropped_total", "reason=\"full\"");
        matched == 400.0 && dropped > 200.0 && dropped < 400.0
    });
    assert!(near.broker.metric("ringmq_bridge_waiting_bytes", "") <= 3.0 * 65536.0);
    far.signal("-CONT");
    eventually("what was kept arrives", || {
        let figure = |name: &str| near.broker.metric(name, "");
        let dropped = near.broker.metric("ringmq_bridge_dropped_total", "reason=\"full\"");
        figure("ringmq_bridge_delivered_total") + dropped == 400.0
    });
}

/// Publishes numbers on a thread of its own, one after the other has been acknowledged; gives how
/// many were, at the end or when the connection is closed.
fn flood(mut client: Client, numbers: std::ops::Range<usize>) -> JoinHandle<usize> {
    std::thread::spawn(move || {
        for number in numbers.clone() {
            client.send_publish(&Publish::new("q/x", 1, format!("{number:0>8000}")));
            match client.read(2 * patience()) {
                Next::Packet(Packet::Ack(_)) => {}
                Next::Closed => return number,
                other => panic!("{other:?}"),
            }
        }
        numbers.end
    })
}

/// Publishers of what a full bridge takes wait, and nobody else; nothing that was acknowledged is
/// lost, be it that the broker is stopped meanwhile.
#[test]
fn a_full_bridge_has_its_publishers_wait() {
    let far = Far::start();
    let directory = std::env::temp_dir().join(unique("ringmq-spool"));
    let bridges = format!(
        "  - name: uplink\n    mqtt: {{addresses: ['{}'], topics: [{{filter: 'q/#', qos: 1}}], \
         client_id: {}, retry: {{min: 100ms, max: 300ms}}}}\n    buffer: {{mode: disk, path: \
         '{}', segment: 256KiB, max_bytes: 512KiB, on_full: pause}}\nshutdown: {{grace: 1s}}\n",
        far.address,
        unique("bridge"),
        directory.display()
    );
    let mut near = Near::start(&bridges);
    let mut reader = far.connect(&Connect::durable(V311, unique("durable")));
    reader.granted("q/#", 1);
    // More than the buffer, and what is on its way there, can hold: some 6 MB.
    let mut said = 0;
    for stopped in [false, true] {
        eventually("the bridge is up", || near.is_up());
        far.signal("-STOP");
        let publisher = Client::connect(&near.broker, V311, &unique("p"));
        let publisher = flood(publisher, said..said + 1500);
        eventually("it waits", || {
            near.broker.metric("ringmq_publisher_parks_total", "reason=\"bridge\"") > 0.0
                && near.broker.metric("ringmq_bridge_full", "") > 0.0
        });
        let mut other = Client::connect(&near.broker, V311, &unique("o"));
        let mut there = Client::subscriber(&near.broker, V311, &unique("s"), "other", 1);
        for number in 0..20 {
            other.publish(&Publish::new("other", 1, number.to_string()));
            there.expect(&number.to_string());
        }
        if stopped {
            near.broker.signal("-TERM");
            near.broker.wait(patience());
        }
        far.signal("-CONT");
        let first = said;
        said = publisher.join().expect("it publishes");
        assert!(said > first + 60 && stopped == (said < first + 1500), "{said} from {first}");
        if stopped {
            near = Near::start(&bridges);
        }
        let mut got = numbers(&mut reader, said - 1);
        // Some are there twice: the other end had got them, and could not say so.
        let mut seen = HashSet::new();
        got.retain(|&number| seen.insert(number));
        assert!(got.iter().copied().eq(first..said), "{stopped}: {first}..{said}, {got:?}");
        assert_eq!(near.broker.metric("ringmq_bridge_dropped_total", "reason=\"full\""), 0.0);
        eventually("there is room", || near.broker.metric("ringmq_bridge_full", "") == 0.0);
    }
    let _ = fs::remove_dir_all(directory);
}

/// Publishers wait for the other broker (`puback: delivered`), over a connection of their own, and
/// with MQTT 5 as long as they may.
#[test]
fn publishers_wait_until_the_other_broker_has_their_messages() {
    let far = Far::start();
    let near = Near::start(&format!(
        "  - name: uplink\n    puback: delivered\n    puback_timeout: 1s\n    mqtt: {{addresses: \
         ['{}'], topics: [{{filter: 'd/#', qos: 1}}], client_id: {}}}\n",
        far.address,
        unique("bridge")
    ));
    let mut reader = far.client("reader");
    reader.granted("d/#", 1);
    eventually("the bridge is up", || near.is_up());
    let patient = Connect::durable(V311, unique("patient"));
    let mut three = patient.open(&near.broker);
    three.publish(&Publish::new("d/a", 1, "0"));
    far.signal("-STOP");
    let mut publish = Publish::new("d/a", 1, "1");
    publish.id = three.send_publish(&publish);
    eventually("it waits", || near.broker.metric("ringmq_bridge_acks_waiting", "") == 1.0);
    three.expect_nothing();
    three.cut();
    // The same publication again is not another one.
    let mut three = patient.open(&near.broker);
    let waits = publish.id;
    three.send_publish(&publish.dup());
    three.expect_nothing();
    let mut five = Client::connect(&near.broker, V5, &unique("five"));
    assert_eq!(five.publish_code(&Publish::new("d/b", 1, "2")), 0x80);
    three.expect_nothing();
    far.signal("-CONT");
    three.ack(AckKind::PubAck, waits);
    five.publish(&Publish::new("d/b", 1, "3"));
    assert_eq!(numbers(&mut reader, 3), [0, 1, 2, 3]);
    assert_eq!(near.broker.metric("ringmq_bridge_acks_failed_total", "reason=\"timeout\""), 1.0);
}

/// Three brokers in a ring, either way round: a message comes to each once.
#[test]
fn a_message_goes_round_a_ring_of_brokers_once() {
    ring("out");
    ring("in");
}

fn ring(direction: &str) {
    let free = || TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address");
    let ports: Vec<SocketAddr> = (0..3).map(|_| free()).collect();
    let ring: Vec<Near> = (0..3)
        .map(|at| {
            let directory = std::env::temp_dir().join(unique("ringmq-ring"));
            fs::create_dir(&directory).expect("a directory");
            let file = directory.join("ring.yaml");
            let text = format!(
                "listeners: [{{bind: '{}'}}]\nadmin: {{bind: '127.0.0.1:0'}}\nbridges:\n  - name: \
                 next\n    mqtt: {{addresses: ['{}'], retry: {{min: 100ms, max: 300ms}}, \
                 topics: [{{filter: 'r/#', direction: {direction}, qos: 1}}]}}\n",
                ports[at],
                ports[(at + 1) % 3]
            );
            fs::write(&file, text).expect("its file");
            Near { broker: Broker::of_file(path(&file)), directory }
        })
        .collect();
    for near in &ring {
        eventually("the ring is closed", || near.is_up());
    }
    let mut readers: Vec<Client> = ring
        .iter()
        .map(|near| Client::subscriber(&near.broker, V311, &unique("r"), "r/#", 1))
        .collect();
    for (at, near) in ring.iter().enumerate() {
        let mut publisher = Client::connect(&near.broker, V311, &unique("p"));
        publisher.publish(&Publish::new("r/x", 1, at.to_string()));
        publisher.publish(&Publish::new("r/x", 1, format!("end {at}")));
    }
    for reader in &mut readers {
        let mut got: Vec<String> = Vec::new();
        while got.iter().filter(|text| text.starts_with("end")).count() < 3 {
            got.push(reader.message().text());
        }
        got.sort_unstable();
        assert_eq!(got, ["0", "1", "2", "end 0", "end 1", "end 2"]);
    }
}

/// What waits on disk survives kill -9, and an orderly end, in order.
#[test]
fn what_waits_on_disk_survives_the_process() {
    for (mode, kill) in [("disk", true), ("disk", false), ("hybrid", false)] {
        let mut far = Far::start();
        let durable = Connect::durable(V311, unique("durable"));
        far.connect(&durable).granted("q/#", 1);
        far.stop();
        let directory = std::env::temp_dir().join(unique("ringmq-spool"));
        let bridges = format!(
            "  - name: uplink\n    mqtt: {{addresses: ['{}'], retry: {{min: 100ms, max: 300ms}}, \
             topics: [{{filter: 'q/#', qos: 1}}], client_id: {}}}\n    buffer: {{mode: {mode}, \
             path: '{}', segment: 256KiB}}\n",
            far.address,
            unique("bridge"),
            directory.display()
        );
        let near = Near::start(&bridges);
        let mut publisher = Client::connect(&near.broker, V311, &unique("p"));
        for number in 0..300 {
            publisher.publish(&Publish::new("q/x", 1, number.to_string()));
        }
        eventually("everything waits", || {
            near.broker.metric("ringmq_bridge_waiting_messages", "") == 300.0
        });
        near.broker.signal(if kill { "-KILL" } else { "-TERM" });
        near.broker.wait(Duration::from_secs(20));
        drop(near);
        let near = Near::start(&bridges);
        let mut publisher = Client::connect(&near.broker, V311, &unique("p"));
        publisher.publish(&Publish::new("q/x", 1, "300"));
        far.run();
        let mut reader = far.connect(&durable);
        let got = numbers(&mut reader, 300);
        assert!(got.iter().copied().eq(0..=300), "{mode}: {got:?}");
        drop(near);
        let _ = fs::remove_dir_all(directory);
    }
}

/// A lazy bridge connects when enough waits, stays while messages come, be they of QoS 1, and goes
/// when there was nothing to do for a while.
#[test]
fn a_lazy_bridge_comes_and_goes() {
    const IDLE: Duration = Duration::from_secs(2);
    let far = Far::start();
    let more = ", start: lazy, lazy: {threshold: 5, idle: 2s}";
    let near = Near::uplink(far.address, "{filter: 'q/#', qos: 1}", more);
    let connects = || near.broker.metric("ringmq_bridge_connects_total", "");
    let mut reader = far.client("reader");
    reader.granted("q/#", 1);
    let mut publisher = Client::connect(&near.broker, V311, &unique("p"));
    let mut number = 0;
    let mut publish = |reader: &mut Client, read: bool| {
        publisher.publish(&Publish::new("q/x", 1, number.to_string()));
        if read {
            reader.expect(&number.to_string());
        }
        number += 1;
    };
    (0..4).for_each(|_| publish(&mut reader, false));
    eventually("they wait", || near.broker.metric("ringmq_bridge_waiting_messages", "") == 4.0);
    assert_eq!((connects(), near.is_up()), (0.0, false));
    publish(&mut reader, false);
    for number in 0..5 {
        reader.expect(&number.to_string());
    }
    // For longer than it would wait without any.
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < IDLE + IDLE / 4 {
        let before = Instant::now();
        publish(&mut reader, true);
        std::thread::sleep(Duration::from_millis(20));
        longest = longest.max(before.elapsed());
    }
    assert!(connects() == 1.0 || longest > IDLE / 2, "it went, with gaps of {longest:?}");
    eventually("it goes", || !near.is_up());
    let before = connects();
    (0..4).for_each(|_| publish(&mut reader, false));
    assert_eq!(connects(), before);
    publish(&mut reader, false);
    (0..5).for_each(|_| drop(reader.message()));
    assert_eq!(connects(), before + 1.0);
}

/// A bridge that starts once is not back when its connection has ended.
#[test]
fn a_bridge_that_starts_once_ends_with_its_connection() {
    let mut far = Far::start();
    let near = Near::uplink(far.address, "{filter: 'q/#', qos: 1}", ", start: once");
    eventually("the bridge is up", || near.is_up());
    far.stop();
    eventually("it is down", || !near.is_up());
    far.run();
    // Much longer than another attempt would take.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(near.broker.metric("ringmq_bridge_connects_total", ""), 1.0);
    assert!(!near.is_up());
}
