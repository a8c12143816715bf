//! What a store promises, with real files and a broker that is killed: nothing that was
//! acknowledged is lost, order is kept, and what ended stays ended.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::lasting;
use crate::line::Line;
use crate::probe::figure;
use crate::support::broker::{Launch, run, shards};
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(5);
const WINDOW: u64 = 16;

/// A directory that is gone with the test.
pub struct Place(pub std::path::PathBuf);

impl Place {
    pub fn new() -> Place {
        Place(std::env::temp_dir().join(unique("ringmq-storage")))
    }

    pub fn setting(&self) -> String {
        format!("storage.path={}", self.0.display())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Numbered messages at QoS 1, which go to three topics in turn.
#[derive(Default)]
struct Sent {
    /// All below were acknowledged.
    acknowledged: Mutex<u64>,
}

impl Sent {
    fn acknowledged(&self) -> u64 {
        *self.acknowledged.lock().expect("nobody panics with it")
    }

    /// On one connection, until it ends or `stop` says so. What was not acknowledged is sent again.
    fn publish(&self, at: SocketAddr, stop: &AtomicBool) -> io::Result<()> {
        let mut line = Line::open(at, &Connect::new(V5, unique("p")), PATIENCE)?;
        let mut next = self.acknowledged();
        while !stop.load(Ordering::Relaxed) {
            while next < self.acknowledged() + WINDOW {
                let topic = format!("stored/{}", next % 3);
                let id = (next % 60_000 + 1) as u16;
                line.send(&Publish::new(&topic, 1, next.to_string()).id(id).encode(V5))?;
                next += 1;
            }
            match line.next(PATIENCE)? {
                Some(Packet::Ack(ack)) => {
                    let mut acknowledged = self.acknowledged.lock().expect("nobody panics");
                    assert_eq!(ack.id, (*acknowledged % 60_000 + 1) as u16, "the order of PUBACK");
                    assert_eq!(ack.reason, 0, "there is a subscriber, and it is accepted");
                    *acknowledged += 1;
                }
                Some(other) => panic!("instead of a PUBACK: {other:?}"),
                None => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        Ok(())
    }
}

/// What a subscriber was sent for the first time, in order.
#[derive(Default)]
struct Received {
    numbers: Vec<u64>,
    known: BTreeSet<u64>,
    /// How often a message came again.
    again: u64,
}

impl Received {
    fn take(&mut self, number: u64) {
        match self.known.insert(number) {
            true => self.numbers.push(number),
            false => self.again += 1,
        }
    }

    /// Takes messages on one connection until none comes for `quiet` or it ends.
    fn read(&mut self, line: &mut Line, quiet: Duration) -> io::Result<()> {
        while let Some(packet) = line.next(quiet)? {
            if let Packet::Publish(publish) = packet {
                self.take(publish.text().parse().expect("a number"));
                line.acknowledge(&publish)?;
            }
        }
        Ok(())
    }

    fn check(&self, who: &str, topic: u64, acknowledged: u64) {
        let missing = (0..acknowledged)
            .filter(|number| number % 3 == topic && !self.known.contains(number))
            .collect::<Vec<_>>();
        assert!(missing.is_empty(), "{who}: acknowledged and lost: {missing:?}");
        let ordered = self.numbers.is_sorted();
        assert!(ordered, "{who}: out of order: {:?}", self.numbers);
    }
}

/// A session that is there to stay; whether it was there before. An error when it is refused, as by
/// a shard that does not know of the listener yet.
pub fn come_back(at: SocketAddr, id: &str) -> io::Result<(Line, bool)> {
    let mut line = Line::begin(at, &Connect::durable(V5, id))?;
    match line.next(PATIENCE)? {
        Some(Packet::ConnAck(connack)) if connack.code == 0 => Ok((line, connack.session_present)),
        Some(Packet::ConnAck(_)) => Err(io::ErrorKind::ConnectionRefused.into()),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}

pub fn subscribe(line: &mut Line, filter: &str, qos: u8) {
    let mut subscribe = Subscribe::to(filter, qos);
    subscribe.id = 1;
    line.send(&subscribe.encode(V5)).expect("it takes it");
    let answer = line.next(PATIENCE).expect("it answers");
    assert!(matches!(answer, Some(Packet::SubAck { .. })), "{answer:?}");
}

#[test]
fn a_broker_with_a_store_that_is_killed_loses_nothing_it_acknowledged() {
    survives(&[], |_| shards(), Ends::Killed, lasting(10, 200).as_secs());
}

#[test]
fn with_async_and_another_number_of_shards_at_each_start_neither() {
    let shards = |round| [2, 1, 3][round as usize % 3];
    survives(&["storage.durability=async"], shards, Ends::Killed, lasting(4, 100).as_secs());
}

#[test]
fn a_store_is_taken_over_by_an_upgrade_and_what_is_acknowledged_then_survives_a_kill() {
    survives(&[], |_| 2, Ends::UpgradedAndKilled, lasting(3, 60).as_secs());
    let settings = ["storage.durability=async"];
    survives(&settings, |_| 2, Ends::UpgradedAndKilled, lasting(2, 60).as_secs());
}

/// What becomes of each broker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Killed,
    /// It is upgraded twice before, without dropping a connection.
    UpgradedAndKilled,
}

fn survives(settings: &[&str], shards: impl Fn(u64) -> usize, ends: Ends, rounds: u64) {
    let _alone = machine();
    let place = Place::new();
    let path = place.setting();
    let queue = ["mqtt.pending.max_messages=1000000", "mqtt.pending.max_bytes=1GiB"];
    let settings: Vec<&str> = settings.iter().copied().chain([&*path]).chain(queue).collect();
    let first = Launch { shards: shards(rounds), ..Launch::new(&settings) };
    let mut broker = Some(first.start());
    let at = broker.as_ref().expect("just started").address();
    // Two stay away, one comes and goes with the broker.
    for (topic, name) in ["away", "steady", "other"].into_iter().enumerate() {
        let (mut line, present) = come_back(at, name).expect("it accepts");
        assert!(!present);
        subscribe(&mut line, &format!("stored/{topic}"), 1);
    }
    let (stop, sent) = (AtomicBool::new(false), Sent::default());
    let returns = AtomicU64::new(0);
    let mut received: [Received; 3] = Default::default();
    let [away, steady, other] = &mut received;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = sent.publish(at, &stop);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if let Ok((mut line, present)) = come_back(at, "steady") {
                    assert!(present, "the session is gone");
                    returns.fetch_add(1, Ordering::Relaxed);
                    let mut open = true;
                    while open && !stop.load(Ordering::Relaxed) {
                        open = steady.read(&mut line, Duration::from_millis(50)).is_ok();
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let test = std::panic::AssertUnwindSafe(|| {
            for round in 0..rounds {
                let before = sent.acknowledged();
                eventually("messages are acknowledged", || sent.acknowledged() > before + 20);
                // At another moment of the commits each time.
                std::thread::sleep(Duration::from_micros(round * 1777 % 20_000));
                let mut killed = broker.take().expect("one runs");
                if ends == Ends::UpgradedAndKilled {
                    for _ in 0..2 {
                        let report = killed.ask_to_upgrade(&[]).expect("it is upgraded");
                        killed.follow(&report);
                        let before = sent.acknowledged();
                        eventually("new acknowledges", || sent.acknowledged() > before + 20);
                    }
                }
                killed.signal("-9");
                killed.wait_for_kill(PATIENCE);
                let shards = shards(round);
                broker = Some(Launch { bind: at, shards, ..Launch::new(&settings) }.start());
            }
        });
        let outcome = std::panic::catch_unwind(test);
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    let acknowledged = sent.acknowledged();
    for (name, received) in [("away", away), ("steady", steady), ("other", other)] {
        let (mut line, present) = come_back(at, name).expect("it accepts");
        assert!(present, "the session of {name} is gone");
        received.read(&mut line, Duration::from_millis(500)).expect("it stays");
    }
    for (topic, (name, received)) in ["away", "steady", "other"].iter().zip(&received).enumerate() {
        received.check(name, topic as u64, acknowledged);
    }
    let returns = returns.into_inner();
    assert!(returns <= rounds + 1, "an upgrade has dropped a connection: {returns} returns");
    let again: u64 = received.iter().map(|received| received.again).sum();
    figure(
        "store",
        &format!(
            "{acknowledged} messages acknowledged over {rounds} kills, none lost, \
             {again} deliveries came again"
        ),
    );
}

/// One shard has much to put back and the other nothing: it does not serve before, nor before the
/// other knows all members of the share groups that are at home there.
#[test]
fn nothing_is_published_before_all_subscriptions_are_back() {
    const FILTERS: usize = 60_000;
    let _alone = machine();
    let place = Place::new();
    let path = place.setting();
    let settings = [&*path, "mqtt.max_subscriptions=unlimited"];
    let first = Launch { shards: 2, ..Launch::new(&settings) }.start();
    let at = first.address();
    let (mut line, _) = come_back(at, "many").expect("it accepts");
    let mut made = 0;
    while made < FILTERS {
        let mut subscribe = Subscribe { id: 1, ..Subscribe::default() };
        for number in made..made + 1000 {
            let share = if number % 2 == 0 { "$share/g/" } else { "" };
            subscribe = subscribe.and(format!("{share}many/{number}"), 1);
        }
        made += 1000;
        line.send(&subscribe.encode(V5)).expect("it takes it");
        let answer = line.next(lasting(30, 60)).expect("it answers");
        assert!(matches!(answer, Some(Packet::SubAck { .. })), "{answer:?}");
    }
    first.signal("-9");
    first.wait_for_kill(PATIENCE);
    let starts = Mutex::new(());
    let held = starts.lock().expect("nobody panics");
    std::thread::scope(|scope| {
        // Some of them are at home on the shard that is ready at once.
        let early = (0..16).map(|number| {
            let starts = &starts;
            scope.spawn(move || {
                let connect = Connect::new(V5, format!("early-{number}"));
                drop(starts.lock());
                let mut line = persist(|| Line::open(at, &connect, PATIENCE));
                let topic = format!("many/{}", FILTERS - 1 - number);
                let publish = Publish::new(&topic, 1, "x").id(1).encode(V5);
                line.send(&publish).expect("it takes it");
                line.next(lasting(30, 60)).expect("it answers")
            })
        });
        let early: Vec<_> = early.collect();
        drop(held);
        let again = Launch { bind: at, shards: 2, ..Launch::new(&settings) }.start();
        for answer in early.into_iter().map(|thread| thread.join().expect("it is answered")) {
            let Some(Packet::Ack(ack)) = answer else { panic!("{answer:?}:\n{}", again.log()) };
            assert_eq!(ack.reason, 0, "0x10 says that nobody has subscribed:\n{}", again.log());
        }
    });
}

/// Tries until it is let in.
fn persist(mut open: impl FnMut() -> io::Result<Line>) -> Line {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        match open() {
            Ok(line) => return line,
            Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_stored_session_ends_while_the_broker_is_down_and_retained_messages_stay() {
    let _alone = machine();
    let place = Place::new();
    let path = place.setting();
    let broker = Broker::start(&[&path]);
    for (id, expiry) in [("short", 1), ("long", 600)] {
        let connect = Connect::new(V5, id).clean(false).with(Property::SessionExpiry(expiry));
        let mut client = connect.open(&broker);
        client.granted("kept/#", 1);
        client.disconnect();
    }
    let mut publisher = Client::connect(&broker, V5, "publisher");
    for (topic, payload) in [("kept/a", "one"), ("kept/b", "two"), ("kept/b", "three")] {
        publisher.publish(&Publish::new(topic, 1, payload).retain());
    }
    publisher.publish(&Publish::new("kept/a", 1, "").retain());
    broker.signal("-9");
    broker.wait(PATIENCE);
    std::thread::sleep(Duration::from_millis(1500));
    let broker = Broker::start(&[&path]);
    for (id, expected) in [("short", false), ("long", true)] {
        let connect = Connect::new(V5, id).clean(false).with(Property::SessionExpiry(600));
        let (_client, connack) = connect.open_with(&broker);
        assert_eq!(connack.session_present, expected, "{id}");
    }
    let mut reader = Client::connect(&broker, V5, "reader");
    reader.granted("kept/#", 1);
    assert!(reader.expect("three").retain);
    reader.expect_nothing();
}

#[test]
fn a_store_is_used_by_one_process_at_a_time_and_can_be_looked_at() {
    let place = Place::new();
    let path = place.setting();
    let broker = Broker::start(&[&path]);
    let mut client = Connect::durable(V5, "looked-at").open(&broker);
    client.granted("a/+/b", 1);
    client.disconnect();
    let store = place.0.to_str().expect("UTF-8").to_owned();
    let busy = run(&["storage", "check", &store]);
    assert_eq!(busy.code, Some(1));
    assert!(busy.stderr.contains("another process"), "{}", busy.stderr);
    broker.signal("-TERM");
    assert_eq!(broker.wait(Duration::from_secs(20)), Some(0));
    let checked = run(&["storage", "check", &store]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(checked.stdout.contains("1 sessions"), "{}", checked.stdout);
    let shown = run(&["storage", "show", &store]);
    assert!(shown.stdout.contains(r#""client_id":"looked-at""#), "{}", shown.stdout);
    assert!(shown.stdout.contains("a/+/b"), "{}", shown.stdout);
}
