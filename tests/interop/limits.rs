//! Limits, overload and bans, each with what a client sees and the counter that tells of it: the
//! table of the README, row by row, and mosquitto's clients.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::reason::*;
use crate::support::{Broker, Client, Connect, Publish, Subscribe, Version, eventually, unique};

const V5: Version = Version::V5;
const V311: Version = Version::V311;
/// Connection rate exceeded, message rate too high, use another server, banned, server busy.
const CONNECT_RATE: u8 = 0x9f;
const MESSAGE_RATE: u8 = 0x96;
const ELSEWHERE: u8 = 0x9c;
const BANNED: u8 = 0x8a;
const BUSY: u8 = 0x89;

pub fn start(settings: &[&str]) -> Broker {
    let admin = ["admin.bind=127.0.0.1:0"];
    Broker::start(&[&admin[..], settings].concat())
}

/// The sum over shards of one figure, by the beginning of its lines and a label.
pub fn labelled(broker: &Broker, name: &str, label: &str) -> u64 {
    let log = broker.log();
    let (_, rest) = log.split_once("admin=").expect("`ready` names the admin server");
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
    let address = &rest[..end.unwrap_or(rest.len())];
    let mut stream = TcpStream::connect(address).expect("the admin server");
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("a request");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("the metrics");
    let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

pub fn figure(broker: &Broker, name: &str) -> u64 {
    labelled(broker, name, "")
}

fn refusals(broker: &Broker, reason: &str) -> u64 {
    let label = format!("reason=\"{reason}\"");
    labelled(broker, "ringmq_connections_refused_total{", &label)
}

fn v5(name: &str) -> Connect {
    Connect::new(V5, unique(name))
}

#[test]
fn connections_and_their_pace_are_limited_everywhere() {
    for (settings, free, code, counter) in [
        (&["runtime.max_connections=2"][..], 2, QUOTA_EXCEEDED, "broker_limit"),
        (&["listeners.0.max_connections=2"], 2, QUOTA_EXCEEDED, "listener_limit"),
        (&["limits.address.connections=2"], 2, QUOTA_EXCEEDED, "address_limit"),
        (&["limits.max_connect_rate=1"], 1, CONNECT_RATE, "broker_connect_rate"),
        (&["listeners.0.max_connect_rate=1"], 1, CONNECT_RATE, "connect_rate"),
        (
            &["limits.users=[{match: {client_id: \"*\"}, connections: 2}]"],
            2,
            QUOTA_EXCEEDED,
            "user_limit",
        ),
        (
            &["limits.users=[{match: {client_id: \"*\"}, connects_per_second: 1}]"],
            1,
            CONNECT_RATE,
            "user_connect_rate",
        ),
    ] {
        let broker = start(settings);
        let mut inside: Vec<Client> = (0..free).map(|_| v5("in").open(&broker)).collect();
        v5("out").refused(&broker, code);
        Connect::new(V311, unique("old")).refused(&broker, 3);
        assert_eq!(refusals(&broker, counter), 2, "{counter}");
        inside.iter_mut().for_each(Client::ping);
        inside.into_iter().for_each(Client::disconnect);
        let again = || {
            let mut client = Client::raw(&broker, V5);
            client.send(&v5("again").encode());
            client.connack().code == 0
        };
        eventually(counter, again);
    }
    // One second's burst of an address: two, and one more of the next part of a second.
    let broker = start(&["limits.address.connects_per_second=2"]);
    let codes: Vec<u8> = (0..6)
        .map(|_| {
            let mut client = Client::raw(&broker, V5);
            client.send(&v5("a").encode());
            client.connack().code
        })
        .collect();
    assert!(codes[..2] == [0, 0] && codes.contains(&CONNECT_RATE), "{codes:x?}");
    assert!(refusals(&broker, "address_connect_rate") > 0);
}

#[test]
fn a_rate_parks_drops_or_disconnects() {
    let rate = "limits.client.messages_per_second=10";
    let broker = start(&[rate]);
    let mut client = v5("park").open(&broker);
    let began = Instant::now();
    for _ in 0..25 {
        client.publish(&Publish::new("t", 1, "x"));
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1300) && took < Duration::from_secs(5), "{took:?}");
    assert!(labelled(&broker, "ringmq_publisher_parks_total{", "reason=\"rate\"") > 0);
    assert_eq!(figure(&broker, "ringmq_clients_limited{"), 1);
    // Others have their own bucket.
    v5("other").open(&broker).publish(&Publish::new("t", 1, "x"));

    let broker = start(&[rate, "limits.client.on_exceed=drop"]);
    let mut client = v5("drop").open(&broker);
    let codes: Vec<u8> = (0..15).map(|_| client.publish_code(&Publish::new("t", 1, "x"))).collect();
    assert!(codes[..10].iter().all(|&code| code != QUOTA_EXCEEDED), "{codes:x?}");
    assert!(codes.contains(&QUOTA_EXCEEDED), "{codes:x?}");
    for _ in 0..3 {
        client.send_publish(&Publish::new("t", 0, "x"));
    }
    client.ping();
    let dropped = labelled(&broker, "ringmq_messages_dropped_total{", "reason=\"rate\"");
    assert!(dropped >= 5, "{dropped}");

    // MQTT 3 has no such answer: the client is not read for a while.
    let mut old = Connect::new(V311, unique("old")).open(&broker);
    let began = Instant::now();
    (0..25).for_each(|_| old.publish(&Publish::new("t", 1, "x")));
    assert!(began.elapsed() >= Duration::from_millis(1300), "{:?}", began.elapsed());

    let settings = ["limits.client.bytes_per_second=1KiB", "limits.client.on_exceed=disconnect"];
    let broker = start(&settings);
    let mut client = v5("end").open(&broker);
    client.publish(&Publish::new("t", 1, "x".repeat(3000)));
    client.send_publish(&Publish::new("t", 1, "x"));
    client.expect_disconnect(&[MESSAGE_RATE]);
    assert_eq!(figure(&broker, "ringmq_rate_disconnects_total{"), 1);
}

#[test]
fn what_one_client_may_have_is_its_own() {
    let broker = start(&[
        "limits.client={max_subscriptions: 2, max_packet_size: 1KiB, max_topic_levels: 3}",
        "limits.users=[{match: {client_id: \"big-*\"}, max_subscriptions: unlimited, \
         max_packet_size: unlimited, max_topic_levels: unlimited}]",
    ]);
    let ask = |client: &mut Client, filter: &str| client.subscribe(Subscribe::to(filter, 1))[0];
    let (mut client, connack) = v5("small").open_with(&broker);
    assert!(format!("{connack:?}").contains("MaximumPacketSize(1024)"), "{connack:?}");
    assert_eq!((ask(&mut client, "a"), ask(&mut client, "b")), (1, 1));
    assert_eq!(ask(&mut client, "c"), QUOTA_EXCEEDED);
    assert_eq!(ask(&mut client, "a/b/c/d"), FILTER_INVALID);
    client.send_publish(&Publish::new("t", 1, "x".repeat(2000)));
    client.expect_disconnect(&[PACKET_TOO_LARGE]);
    let mut client = v5("small").open(&broker);
    client.send_publish(&Publish::new("a/b/c/d", 1, "x"));
    client.expect_disconnect(&[TOPIC_NAME_INVALID]);
    let mut old = Connect::new(V311, unique("old")).open(&broker);
    assert_eq!((ask(&mut old, "a"), ask(&mut old, "b"), ask(&mut old, "c")), (1, 1, 0x80));
    assert_eq!(figure(&broker, "ringmq_subscriptions_over_limit_total{"), 2);
    assert_eq!(figure(&broker, "ringmq_violations_total{"), 2);
    let mut big = v5("big-").open(&broker);
    for filter in ["a", "b", "c", "a/b/c/d"] {
        assert_eq!(ask(&mut big, filter), 1);
    }
    big.publish(&Publish::new("a/b/c/d", 1, "x".repeat(2000)));
}

#[test]
fn a_queue_is_as_long_as_its_client_may_have_it() {
    let broker = start(&[
        "limits.client.max_pending_messages=3",
        "limits.users=[{match: {client_id: \"big-*\"}, max_pending_messages: unlimited}, \
         {match: {client_id: \"bytes*\"}, max_pending_messages: unlimited, \
         max_pending_bytes: 900}]",
    ]);
    for (tag, left) in [("few", 3), ("bytes", 3), ("big-", 8)] {
        let topic = unique("q");
        let connect = Connect::durable(V5, unique(tag));
        let mut sub = connect.open(&broker);
        sub.granted(&topic, 1);
        sub.disconnect();
        let mut publisher = v5("p").open(&broker);
        // Three of 180 bytes, with topic and 64 bytes each, fit into 900; four do not.
        (0..8).for_each(|n| publisher.publish(&Publish::new(&topic, 1, format!("{n:180}"))));
        let mut sub = connect.open(&broker);
        let text = |sub: &mut Client| sub.message().text().trim().to_owned();
        let got: Vec<String> = (0..left).map(|_| text(&mut sub)).collect();
        let expected: Vec<String> = (8 - left..8).map(|n| n.to_string()).collect();
        assert_eq!(got, expected, "{tag}");
    }
    assert_eq!(labelled(&broker, "ringmq_messages_dropped_total{", "reason=\"queue_full\""), 10);
}

#[test]
fn retained_messages_are_limited_for_all() {
    for limit in ["retained.max_messages=1", "retained.max_bytes=400"] {
        let broker = start(&[limit, "sys.interval=off"]);
        let mut client = v5("r").open(&broker);
        client.granted("#", 1);
        // The second one is delivered, and not kept.
        for topic in ["a", "b"] {
            let message = Publish::new(topic, 1, "x".repeat(200));
            client.publish(&Publish { retain: true, ..message });
            assert_eq!(client.message().topic, topic, "{limit}");
            // They may be at home on different shards.
            eventually("one is kept", || broker.metric("ringmq_retained_messages", "") == 1.0);
        }
        let dropped = "reason=\"retained_limit\"";
        eventually("it is counted", || {
            labelled(&broker, "ringmq_messages_dropped_total{", dropped) == 1
        });
        let mut late = v5("late").open(&broker);
        late.granted("#", 1);
        assert_eq!(late.message().topic, "a", "{limit}");
        late.ping();
        assert!(late.stashed().is_none(), "{limit}");
    }
}

/// Messages and bytes that are retained for a listener's clients, or for some of all: bounded for
/// as long as they are kept, also by the process that comes after a restart.
#[test]
fn retained_messages_are_limited_by_listener_and_by_client() {
    let some = "limits.users=[{match: {client_id: 'few-*'}, retained_messages: 2}]";
    let listener = "listeners.0.max_retained_bytes=1000";
    let store = std::env::temp_dir().join(unique("ringmq-accounts"));
    let path = format!("storage.path={}", store.display());
    let settings = [some, listener, &path, "sys.interval=off", "mqtt.topic_alias_outbound=0"];
    let retained = |topic: &str, size: usize| {
        let message = Publish::new(topic, 1, "x".repeat(size));
        Publish { retain: true, ..message }
    };
    let dropped = |broker: &Broker, number: u64| {
        eventually("it is counted", || {
            let label = "reason=\"retained_account\"";
            labelled(broker, "ringmq_messages_dropped_total{", label) == number
        });
    };
    let kept = |broker: &Broker, expected: &[&str]| {
        let mut late = v5("late").open(broker);
        late.granted("#", 0);
        let mut topics: Vec<String> = expected.iter().map(|_| late.message().topic).collect();
        topics.sort_unstable();
        assert_eq!(topics, expected);
        late.ping();
        assert!(late.stashed().is_none());
    };
    let broker = start(&settings);
    let mut few = v5("few-").open(&broker);
    ["a", "b", "c"].iter().for_each(|topic| few.publish(&retained(topic, 50)));
    dropped(&broker, 1);
    kept(&broker, &["a", "b"]);
    let figure = |account: &str| labelled(&broker, "ringmq_retained_account_messages{", account);
    eventually("it is shown", || figure("account=\"client_id few-*\"") == 2);
    let mut other = v5("other").open(&broker);
    other.publish(&retained("d", 2000));
    dropped(&broker, 2);
    // It was there already, and is somebody else's now.
    other.publish(&retained("a", 400));
    few.publish(&retained("c", 50));
    kept(&broker, &["a", "b", "c"]);
    drop(broker);
    let broker = start(&settings);
    kept(&broker, &["a", "b", "c"]);
    let mut few = v5("few-").open(&broker);
    few.publish(&retained("e", 50));
    dropped(&broker, 1);
    few.publish(&retained("b", 0));
    few.publish(&retained("e", 50));
    kept(&broker, &["a", "c", "e"]);
    let mut other = v5("other").open(&broker);
    other.publish(&retained("f", 600));
    dropped(&broker, 2);
    drop(broker);
    let _ = fs::remove_dir_all(&store);
}

/// A client that is connected and does not acknowledge: its queue is as long as it may be, and the
/// oldest messages go.
#[test]
fn what_waits_for_a_client_that_does_not_acknowledge_is_bounded() {
    let broker = start(&["mqtt.pending={max_messages: 5}", "mqtt.max_inflight=2"]);
    let topic = unique("q");
    let mut sub = v5("silent").open(&broker);
    sub.granted(&topic, 1);
    let mut publisher = v5("p").open(&broker);
    (0..20).for_each(|n| publisher.publish(&Publish::new(&topic, 1, n.to_string())));
    eventually("it is counted", || {
        labelled(&broker, "ringmq_messages_dropped_total{", "reason=\"queue_full\"") == 13
    });
    let got: Vec<String> = (0..7).map(|_| sub.message().text()).collect();
    assert_eq!(got, ["0", "1", "15", "16", "17", "18", "19"]);
}

#[test]
fn who_connects_too_often_is_banned_for_a_while() {
    let broker = start(&["bans.flapping={connects: 3, window: 1m, ban: 2s}"]);
    let connect = v5("flapper");
    (0..3).for_each(|_| connect.open(&broker).disconnect());
    connect.refused(&broker, BANNED);
    let old = Connect::new(V311, unique("old-flapper"));
    (0..3).for_each(|_| old.open(&broker).disconnect());
    old.refused(&broker, 5);
    v5("other").open(&broker).ping();
    assert_eq!(refusals(&broker, "banned"), 2);
    assert_eq!(figure(&broker, "ringmq_bans_total{"), 2);
    assert!(broker.log().contains("banned (bans)"), "{}", broker.log());
    eventually("the ban is over", || {
        let mut client = Client::raw(&broker, V5);
        client.send(&connect.encode());
        client.connack().code == 0
    });
}

fn mosquitto_pub(broker: &Broker, arguments: &[&str]) -> (i32, String) {
    let address = broker.address();
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    let output = command.args(["-V", "5", "-t", "t", "-m", "x"]).args(arguments).output();
    let output = output.expect("mosquitto_pub is installed");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// Wrong passwords of one address, the ban file and its reload, with mosquitto's client.
#[test]
fn guessers_and_the_banned_are_turned_away() {
    let directory = std::env::temp_dir().join(unique("ringmq-bans"));
    fs::create_dir_all(&directory).expect("a temporary directory");
    let (users, bans) = (directory.join("users"), directory.join("bans"));
    let mut command = Command::new("mosquitto_passwd");
    let made = command.args(["-c", "-b"]).arg(&users).args(["ann", "apple"]).status();
    assert!(made.expect("mosquitto_passwd is installed").success());
    fs::write(&bans, "# nobody\n").expect("a file");
    let broker = start(&[
        &format!("access.authentication=[{{password_file: {{path: {}}}}}]", users.display()),
        &format!("bans.file={}", bans.display()),
        "bans.bad_credentials={tries: 3, window: 1m, ban: 2s}",
    ]);
    let ann = ["-u", "ann", "-P", "apple"];
    assert_eq!(mosquitto_pub(&broker, &ann).0, 0);
    for _ in 0..3 {
        let (_, text) = mosquitto_pub(&broker, &["-u", "ann", "-P", "pear"]);
        assert!(text.contains("Bad User Name or Password"), "{text}");
    }
    let (code, text) = mosquitto_pub(&broker, &ann);
    assert!(code != 0 && text.contains("Banned"), "{text}");
    eventually("the ban is over", || mosquitto_pub(&broker, &ann).0 == 0);
    fs::write(&bans, "user ann\n").expect("a file");
    broker.signal("-HUP");
    eventually("the file is read again", || mosquitto_pub(&broker, &ann).1.contains("Banned"));
    fs::write(&bans, "usr ann\n").expect("a file");
    broker.signal("-HUP");
    eventually("the mistake is told", || broker.log().contains("bans:1: a line begins with"));
    assert!(mosquitto_pub(&broker, &ann).1.contains("Banned"), "the old file is in force");
    let _ = fs::remove_dir_all(&directory);
}

/// Sends as fast as its messages are taken in, until told to stop.
fn keep_busy(broker: &Broker, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let mut client = v5("busy").open(broker);
    let burst = Publish::new("busy", 0, "x".repeat(200)).encode(V5).repeat(500);
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        while !stop.load(Relaxed) {
            client.send(&burst);
            client.ping();
        }
    })
}

/// Steps of 100 µs begin level 2 here; a burst of messages takes longer.
#[test]
fn an_overloaded_broker_says_so_and_serves_who_is_in() {
    let broker = start(&["sys.interval=1s", "cores=[0]"]);
    let mut inside = v5("in").open(&broker);
    let mut watcher = v5("w").open(&broker);
    watcher.granted("$SYS/broker/overload/#", 0);
    let stop = Arc::default();
    let busy = keep_busy(&broker, &stop);
    let file = broker.config_file();
    let text = fs::read_to_string(&file).expect("the configuration");
    let overload = "overload: {lag: 10us, server_reference: \"other:1883\"}\n";
    fs::write(&file, format!("{text}\n{overload}")).expect("the configuration");
    broker.signal("-HUP");
    eventually("it is overloaded", || figure(&broker, "ringmq_overload_level{") >= 2);
    let told = watcher.message();
    assert!(told.topic.starts_with("$SYS/broker/overload/"), "{told:?}");
    let elsewhere = v5("out").refused(&broker, ELSEWHERE);
    assert!(format!("{elsewhere:?}").contains("other:1883"), "{elsewhere:?}");
    Connect::new(V311, unique("old")).refused(&broker, 3);
    assert!(refusals(&broker, "overload") >= 2);
    let topic = unique("t");
    inside.publish(&Publish::new(&topic, 1, "x"));
    inside.ping();
    let lines = broker.log().lines().filter(|line| line.contains("overloaded (overload)")).count();
    assert!((1..=10).contains(&lines), "each change once: {}", broker.log());
    fs::write(&file, format!("{text}\noverload: {{lag: 10us}}\n")).expect("the configuration");
    broker.signal("-HUP");
    eventually("there is no other server any more", || {
        let mut client = Client::raw(&broker, V5);
        client.send(&v5("again").encode());
        client.connack().code == BUSY
    });
    stop.store(true, Relaxed);
    busy.join().expect("the client that sends");
    fs::write(&file, &text).expect("the configuration");
    broker.signal("-HUP");
    eventually("it is over", || figure(&broker, "ringmq_overload_level{") == 0);
    v5("late").open(&broker).ping();
}
