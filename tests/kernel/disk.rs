//! Disks that fail, hang and fill up below a store: a library before the C library makes calls fail
//! on the log's files. What was acknowledged holds, what cannot be stored is refused or waits,
//! and everybody else goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::line::Line;
use crate::storage::{Place, come_back, subscribe};
use crate::support::broker::Launch;
use crate::support::http::{Http, admin};
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing is taken for no answer.
const QUIET: Duration = Duration::from_millis(400);
const REFUSED: u8 = 0x97;

/// Makes a library of a file of this directory.
pub fn compiled(source: &str, library: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel").join(source);
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([library, &source])
        .arg("-ldl")
        .status();
    assert!(built.expect("a C compiler, which linking needs, too").success());
}

/// A broker of one shard on a disk that fails as it is told.
struct Bed {
    place: Place,
    faults: PathBuf,
    library: PathBuf,
    broker: Broker,
}

impl Bed {
    fn new(settings: &[&str]) -> Bed {
        let place = Place::new();
        let (faults, library) = faults_in(&place);
        let broker = start(&place, &faults, &library, settings);
        Bed { place, faults, library, broker }
    }

    fn say(&self, what: &str) {
        say(&self.faults, what);
    }

    fn kill_and_start(&mut self, settings: &[&str]) {
        self.broker.signal("-9");
        self.broker.wait(PATIENCE);
        self.say("");
        self.broker = start(&self.place, &self.faults, &self.library, settings);
    }

    /// A session that stays away, subscribed to `stored/#`.
    fn away(&self) {
        let (mut line, _) = come_back(self.broker.address(), "away").expect("it accepts");
        subscribe(&mut line, "stored/#", 1);
    }

    fn publisher(&self) -> Publisher {
        let connect = Connect::new(V5, unique("p"));
        let line = Line::open(self.broker.address(), &connect, PATIENCE).expect("it accepts");
        Publisher { line, id: 0 }
    }

    /// What waits for the session, in order.
    fn waiting(&self) -> Vec<String> {
        let (mut line, present) = come_back(self.broker.address(), "away").expect("it accepts");
        assert!(present, "the session is gone");
        let mut payloads = Vec::new();
        while let Some(packet) = line.next(QUIET).expect("it stays") {
            if let Packet::Publish(publish) = packet {
                payloads.push(publish.text().to_owned());
                line.acknowledge(&publish).expect("it takes it");
            }
        }
        payloads
    }
}

/// The file that says what fails, and the library that does as it says.
fn faults_in(place: &Place) -> (PathBuf, PathBuf) {
    fs::create_dir_all(&place.0).expect("a scratch directory");
    let (faults, library) = (place.0.join("faults"), place.0.join("faults.so"));
    compiled("disk_faults.c", &library);
    fs::write(&faults, "").expect("writable");
    (faults, library)
}

fn say(faults: &Path, what: &str) {
    // At once: the broker reads it at any moment.
    let fresh = faults.with_extension("new");
    fs::write(&fresh, what).expect("writable");
    fs::rename(&fresh, faults).expect("it can be replaced");
}

fn start(place: &Place, faults: &Path, library: &Path, settings: &[&str]) -> Broker {
    let path = format!("storage.path={}", place.0.join("store").display());
    let settings: Vec<&str> = settings.iter().copied().chain([&*path]).collect();
    let environment = vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("DISK_FAULTS", faults.display().to_string()),
    ];
    Launch { environment, shards: 1, ..Launch::new(&settings) }.start()
}

struct Publisher {
    line: Line,
    id: u16,
}

impl Publisher {
    fn send(&mut self, topic: &str, payload: &str) {
        self.id += 1;
        let publish = Publish::new(topic, 1, payload).id(self.id);
        self.line.send(&publish.encode(V5)).expect("it takes it");
    }

    /// The reason in the next PUBACK, if one comes in time.
    fn answer(&mut self, patience: Duration) -> Option<u8> {
        match self.line.next(patience).expect("it stays") {
            Some(Packet::Ack(ack)) => Some(ack.reason),
            Some(other) => panic!("instead of a PUBACK: {other:?}"),
            None => None,
        }
    }

    fn publish(&mut self, topic: &str, payload: &str) -> Option<u8> {
        self.send(topic, payload);
        self.answer(PATIENCE)
    }
}

#[test]
fn while_syncs_or_writes_fail_messages_are_refused_and_nothing_acknowledged_is_lost() {
    for fault in ["sync EIO", "write ENOSPC"] {
        let mut bed = Bed::new(&[]);
        bed.away();
        let mut early = bed.publisher();
        assert_eq!(early.publish("stored/a", "before"), Some(0));
        let mut reader = Client::connect(&bed.broker, V5, "reader");
        reader.granted("live/#", 1);
        bed.say(fault);
        early.send("stored/a", "during");
        assert_eq!(early.answer(QUIET), None, "{fault}: acknowledged, and not stored");
        let mut late = bed.publisher();
        assert_eq!(late.publish("stored/a", "refused"), Some(REFUSED), "{fault}");
        // What need not be stored is not concerned.
        assert_eq!(late.publish("live/a", "alive"), Some(0), "{fault}");
        reader.expect("alive");
        bed.say("");
        assert_eq!(early.answer(PATIENCE), Some(0), "{fault}: it works again");
        eventually("it is taken again", || late.publish("stored/a", "after") == Some(0));
        bed.kill_and_start(&[]);
        let waiting = bed.waiting();
        let known = ["before", "during", "after"];
        assert_eq!(waiting, known, "{fault}");
    }
}

/// How a client that is away for an hour at most, or leaves nothing behind, is let in.
fn comes_in(bed: &Bed, version: Version, id: &str, stays: bool) -> u8 {
    let connect = if stays { Connect::durable(version, id) } else { Connect::new(version, id) };
    let mut line = Line::begin(bed.broker.address(), &connect).expect("it listens");
    match line.next(PATIENCE).expect("it is answered") {
        Some(Packet::ConnAck(connack)) => connack.code,
        other => panic!("instead of a CONNACK: {other:?}"),
    }
}

#[test]
fn while_storage_is_down_sessions_that_last_are_refused_and_others_come_in() {
    let bed = Bed::new(&[]);
    bed.away();
    let mut publisher = bed.publisher();
    bed.say("write EIO");
    publisher.send("stored/a", "during");
    eventually("it says so", || {
        let mut late = bed.publisher();
        late.send("stored/a", "x");
        late.answer(QUIET) == Some(REFUSED)
    });
    for (version, unavailable) in [(V5, 0x88), (V311, 3)] {
        for id in ["away", "new"] {
            assert_eq!(comes_in(&bed, version, id, true), unavailable, "{id}");
        }
        assert_eq!(comes_in(&bed, version, "passing", false), 0);
    }
    bed.say("");
    eventually("it works again", || comes_in(&bed, V5, "new", true) == 0);
    assert_eq!(publisher.answer(PATIENCE), Some(0));
    assert_eq!(bed.waiting().first().map(String::as_str), Some("during"));
}

#[test]
fn while_a_sync_hangs_only_publishers_of_what_is_stored_wait() {
    let bed = Bed::new(&[]);
    bed.away();
    let mut reader = Client::connect(&bed.broker, V5, "reader");
    reader.granted("live/#", 1);
    let (mut one, mut two) = (bed.publisher(), bed.publisher());
    assert_eq!(one.publish("stored/a", "1"), Some(0));
    bed.say("sync hang");
    one.send("stored/a", "2");
    std::thread::sleep(Duration::from_millis(1200));
    two.send("stored/a", "3");
    assert_eq!(two.answer(QUIET), None);
    let mut live = bed.publisher();
    for round in 0..20 {
        let began = Instant::now();
        assert_eq!(live.publish("live/a", &round.to_string()), Some(0));
        reader.expect(&round.to_string());
        assert!(began.elapsed() < Duration::from_secs(1), "live traffic waits for the disk");
    }
    bed.say("");
    assert_eq!((one.answer(PATIENCE), two.answer(PATIENCE)), (Some(0), Some(0)));
    assert_eq!(bed.waiting(), ["1", "2", "3"]);
}

#[test]
fn a_store_that_is_degraded_acknowledges_and_writes_when_the_disk_works_again() {
    let settings = ["storage.on_failure=degrade"];
    let mut bed = Bed::new(&settings);
    bed.away();
    let mut publisher = bed.publisher();
    assert_eq!(publisher.publish("stored/a", "1"), Some(0));
    bed.say("sync EIO");
    // The first waits until the failure is known.
    for number in 2..10 {
        assert_eq!(publisher.publish("stored/a", &number.to_string()), Some(0));
    }
    eventually("it says so", || bed.broker.log().contains("degraded"));
    bed.say("");
    eventually("it is written", || bed.broker.log().contains("keeps up again"));
    bed.kill_and_start(&settings);
    let expected: Vec<String> = (1..10).map(|number| number.to_string()).collect();
    assert_eq!(bed.waiting(), expected);
}

#[test]
fn with_async_a_failed_sync_loses_nothing_either() {
    let settings =
        ["storage.durability=async", "storage.interval=10ms", "storage.on_failure=degrade"];
    let mut bed = Bed::new(&settings);
    bed.away();
    let mut publisher = bed.publisher();
    let mut expected = Vec::new();
    for number in 0..40 {
        // The sync that is under way fails, the next ones go to another file.
        bed.say(if number % 10 == 5 { "sync EIO" } else { "" });
        assert_eq!(publisher.publish("stored/a", &number.to_string()), Some(0));
        expected.push(number.to_string());
        std::thread::sleep(Duration::from_millis(15));
    }
    bed.say("");
    assert_eq!(publisher.publish("stored/a", "last"), Some(0));
    expected.push("last".to_owned());
    eventually("it is written", || bed.broker.log().contains("keeps up again"));
    bed.kill_and_start(&settings);
    assert_eq!(bed.waiting(), expected);
}

/// What `/readyz` says.
fn ready(bed: &Bed) -> (u16, String) {
    let page = Http::open(admin(&bed.broker)).get("/readyz");
    (page.status, page.body)
}

#[test]
fn segments_that_cannot_be_made_are_a_full_disk() {
    let bed = Bed::new(&["admin.bind=127.0.0.1:0", "mqtt.pending.max_bytes=1GiB"]);
    bed.away();
    let mut publisher = bed.publisher();
    assert_eq!(publisher.publish("stored/a", "1"), Some(0));
    assert_eq!(ready(&bed), (200, "ready\n".into()));
    bed.say("make ENOSPC");
    let large = "2".repeat(1_000_000);
    let mut taken = 0;
    while publisher.publish("stored/a", &large) == Some(0) {
        taken += 1;
        assert!(taken < 400, "more than the segments that there were have room for");
    }
    eventually("it says that there is no room", || ready(&bed).0 == 503);
    assert!(ready(&bed).1.starts_with("no room for what is to be stored on shard 0"));
    // The reserve goes on taking what ends sessions and acknowledges.
    assert_eq!(bed.waiting().len(), 1 + taken);
    bed.say("");
    eventually("there is room again", || ready(&bed).0 == 200);
    assert_eq!(publisher.publish("stored/a", "3"), Some(0));
}

/// What waits for the other end of a bridge is on a disk that cannot be read when the broker
/// starts: it starts, serves, says so, and sends what waited, and then what came, when the disk can
/// be read.
#[test]
fn a_broker_starts_before_the_disk_of_its_bridge_can_be_read() {
    let place = Place::new();
    let (faults, library) = faults_in(&place);
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let far = free.local_addr().expect("it is bound");
    drop(free);
    let text = format!(
        "listeners: [{{bind: '127.0.0.1:0'}}]\nadmin: {{bind: '127.0.0.1:0'}}\nbridges:\n  \
         - name: up\n    mqtt: {{addresses: ['{far}'], retry: {{min: 100ms, max: 200ms}}, \
         topics: [{{filter: 'dev/#', qos: 1}}]}}\n    buffer: {{mode: disk, path: '{}', \
         on_full: pause}}\n",
        place.0.join("waits").display()
    );
    let file = place.0.join("near.yaml");
    fs::write(&file, text).expect("writable");
    let start = || {
        let environment = vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("DISK_FAULTS", faults.display().to_string()),
        ];
        Launch { environment, shards: 1, file: Some(file.clone()), ..Launch::new(&[]) }.start()
    };
    let figure = |broker: &Broker, name: &str| {
        broker.metric(&format!("ringmq_bridge_{name}"), "bridge=\"up\"")
    };
    let publish = |broker: &Broker, numbers: std::ops::Range<u32>| {
        let mut client = Client::connect(broker, V5, &unique("p"));
        numbers.for_each(|n| client.publish(&Publish::new("dev/x", 1, n.to_string())));
    };
    let near = start();
    publish(&near, 0..20);
    eventually("they wait", || figure(&near, "waiting_messages") == 20.0);
    near.signal("-9");
    near.wait(PATIENCE);
    say(&faults, "read EIO");
    let near = start();
    publish(&near, 20..40);
    let mut reader = Client::connect(&near, V5, &unique("r"));
    reader.granted("live", 1);
    publish(&near, 40..41);
    reader.publish(&Publish::new("live", 1, "alive"));
    reader.expect("alive");
    eventually("what came waits", || figure(&near, "waiting_messages") == 21.0);
    assert_eq!(figure(&near, "unreadable"), 1.0);
    assert!(near.log().contains("a bridge's buffer cannot be used: it is tried again"));
    say(&faults, "");
    eventually("it can be read", || figure(&near, "unreadable") == 0.0);
    assert_eq!(figure(&near, "waiting_messages"), 41.0);
    let other = Launch { bind: far, ..Launch::new(&[]) }.start();
    eventually("all arrive", || figure(&near, "delivered_total") == 41.0);
    assert_eq!((figure(&near, "damaged_total"), figure(&near, "waiting_messages")), (0.0, 0.0));
    drop(other);
}
