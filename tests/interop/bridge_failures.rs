//! Bridges to a real mosquitto while it fails, and while the broker is killed: what a publisher was
//! told is done arrives, in order.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::bridging::{Far, Near, numbers};
use crate::support::{
    Ack, AckKind, Client, Connect, Next, Packet, Publish, V5, V311, eventually, patience, unique,
};

/// A directory for what waits, which goes with the test.
struct Spool(PathBuf);

impl Spool {
    fn new() -> Spool {
        Spool(std::env::temp_dir().join(unique("ringmq-spool")))
    }

    /// Keys of a bridge that keeps what waits there.
    fn buffer(&self) -> String {
        format!(
            "    buffer: {{mode: disk, path: '{}', segment: 256KiB, on_full: pause}}\n",
            self.0.display()
        )
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The broker is killed while the other end holds twenty messages of it, as many as it takes at
/// once (its Receive Maximum), and with QoS 2 for ever, if they are not released. With 3.1.1, which
/// has no such maximum, this mosquitto ends the connection of who has more under way.
#[test]
fn nothing_is_lost_when_the_broker_is_killed_with_messages_under_way() {
    for (qos, version) in [(1, "v5"), (2, "v5"), (2, "v311")] {
        let far = Far::with("max_inflight_messages 20\n");
        let spool = Spool::new();
        let bridges = format!(
            "  - name: uplink\n    puback: delivered\n    mqtt: {{addresses: ['{}'], retry: {{min: \
             100ms, max: 300ms}}, protocol_version: {version}, max_inflight: 20, topics: \
             [{{filter: 'k/#', qos: {qos}}}], client_id: {}}}\n{}",
            far.address,
            unique("bridge"),
            spool.buffer()
        );
        let mut reader = far.connect(&Connect::durable(V311, unique("durable")));
        reader.granted("k/#", qos);
        let near = Near::start(&bridges);
        eventually("the bridge is up", || near.is_up());
        let mut publisher = Client::connect(&near.broker, V5, &unique("p"));
        let publish = |number: usize| Publish::new("k/x", qos, number.to_string());
        for number in 0..50 {
            publisher.publish(&publish(number));
        }
        far.signal("-STOP");
        for number in 50..90 {
            publisher.send_publish(&publish(number));
        }
        eventually("they are on disk, and twenty under way", || {
            near.broker.metric("ringmq_bridge_waiting_messages", "") == 40.0
        });
        near.broker.signal("-KILL");
        near.broker.wait(Duration::from_secs(20));
        drop(near);
        far.signal("-CONT");
        let near = Near::start(&bridges);
        eventually("the bridge is up again", || near.is_up());
        // None of these was acknowledged.
        let mut publisher = Client::connect(&near.broker, V5, &unique("p"));
        for number in 50..130 {
            publisher.publish(&publish(number));
        }
        let mut got = numbers(&mut reader, 129);
        let mut seen = HashSet::new();
        got.retain(|&number| seen.insert(number));
        assert!(got.iter().copied().eq(0..130), "{qos} {version}: {got:?}");
        let refused = near.broker.metric("ringmq_bridge_dropped_total", "reason=\"rejected\"");
        assert_eq!(refused, 0.0, "{qos} {version}");
    }
}

/// Without room at a bridge whose publishers wait, MQTT 3, which has no reason codes, has no
/// PUBACK for what was dropped: the connection ends, and what the client then sends again arrives.
#[test]
fn what_was_dropped_has_no_puback_with_mqtt_3() {
    for on_full in ["drop_oldest", "drop_new"] {
        let far = Far::start();
        let near = Near::start(&format!(
            "  - name: uplink\n    puback: delivered\n    mqtt: {{addresses: ['{}'], topics: \
             [{{filter: 'd/#', qos: 1}}], client_id: {}}}\n    buffer: {{max_bytes: 64KiB, \
             on_full: {on_full}}}\n",
            far.address,
            unique("bridge")
        ));
        let mut reader = far.client("reader");
        reader.granted("d/#", 1);
        eventually("the bridge is up", || near.is_up());
        let durable = Connect::durable(V311, unique("durable"));
        let mut publisher = durable.open(&near.broker);
        far.signal("-STOP");
        let publish = |id: u16| Publish::new("d/x", 1, format!("{id:>8000}")).id(id);
        for id in 1..=40 {
            publisher.send_publish(&publish(id));
        }
        eventually("some find no room", || {
            near.broker.metric("ringmq_bridge_dropped_total", "reason=\"full\"") > 0.0
        });
        far.signal("-CONT");
        // Those before the first that was dropped, which have arrived.
        let mut answered = 0;
        loop {
            match publisher.read(patience()) {
                Next::Packet(Packet::Ack(Ack { kind: AckKind::PubAck, id, .. })) => {
                    answered += 1;
                    assert_eq!(id, answered, "{on_full}");
                }
                Next::Closed => break,
                other => panic!("{on_full}, {answered}: {other:?}"),
            }
        }
        assert!(answered < 40, "{on_full}");
        eventually("it is counted", || {
            near.broker.metric("ringmq_bridge_acks_failed_total", "reason=\"dropped\"") > 0.0
        });
        let mut publisher = durable.open(&near.broker);
        for id in answered + 1..=40 {
            publisher.publish(&publish(id).dup());
        }
        let mut arrived = HashSet::new();
        while arrived.len() < 40 {
            arrived.insert(reader.message().text().trim().to_owned());
        }
    }
}

/// What becomes of the other end while messages are on their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failure {
    /// It ends, and comes back.
    Down,
    /// It does nothing for a while, with its connections open.
    Hung,
    /// It comes back and lets nobody in for a while.
    Refuses,
    /// It takes less than comes, all the time.
    Slow,
}

/// An address from which bytes go to that one, so many a second.
fn throttled(to: SocketAddr, rate: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(to) else { continue };
            let again = |stream: &TcpStream| stream.try_clone().expect("a second handle");
            let (back, there) = (again(&near), again(&far));
            std::thread::spawn(move || copy(near, far, rate));
            std::thread::spawn(move || copy(there, back, usize::MAX));
        }
    });
    address
}

/// Until one of them is closed; then both are.
fn copy(mut from: TcpStream, mut to: TcpStream, rate: usize) {
    let mut bytes = [0; 8192];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        std::thread::sleep(Duration::from_secs_f64(read as f64 / rate as f64));
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
}

const TOPICS: usize = 4;

fn publish_all(publisher: &mut Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        for topic in 0..TOPICS {
            let payload = format!("{number:0>1000}");
            publisher.publish(&Publish::new(format!("f/{topic}"), 1, payload));
        }
    }
}

/// The numbers of each topic up to that one, each as it came first.
fn firsts(reader: &mut Client, last: usize) -> BTreeMap<String, Vec<usize>> {
    let (mut all, mut seen) = (BTreeMap::<String, Vec<usize>>::new(), HashSet::new());
    let mut ended = 0;
    while ended < TOPICS {
        let message = reader.message();
        let number = message.text().parse().expect("a number");
        if seen.insert((message.topic.clone(), number)) {
            ended += usize::from(number == last);
            all.entry(message.topic).or_default().push(number);
        }
    }
    all
}

/// What was acknowledged arrives, each topic in order; who has nothing to do with it goes on.
#[test]
fn nothing_is_lost_whatever_becomes_of_the_other_end() {
    for failure in [Failure::Down, Failure::Hung, Failure::Refuses, Failure::Slow] {
        let (mut far, spool) = (Far::start(), Spool::new());
        let slow = failure == Failure::Slow;
        let way = if slow { throttled(far.address, 200_000) } else { far.address };
        let near = Near::start(&format!(
            "  - name: uplink\n    mqtt: {{addresses: ['{way}'], retry: {{min: 100ms, max: \
             300ms}}, topics: [{{filter: 'f/#', qos: 1}}], client_id: {}}}\n{}",
            unique("bridge"),
            spool.buffer()
        ));
        let durable = Connect::durable(V311, unique("durable"));
        far.connect(&durable).granted("f/#", 1);
        eventually("the bridge is up", || near.is_up());
        let mut publisher = Client::connect(&near.broker, V5, &unique("p"));
        publish_all(&mut publisher, 0..20);
        match failure {
            Failure::Down => far.stop(),
            Failure::Hung => far.signal("-STOP"),
            Failure::Refuses => {
                far.stop();
                far.allow(false);
                far.run();
            }
            Failure::Slow => {}
        }
        publish_all(&mut publisher, 20..70);
        let mut steady = Client::subscriber(&near.broker, V311, &unique("s"), "steady", 1);
        for number in 0..20 {
            publisher.publish(&Publish::new("steady", 1, number.to_string()));
            steady.expect(&number.to_string());
        }
        let figure = |name: &str| near.broker.metric(&format!("ringmq_bridge_{name}"), "");
        eventually("many wait", || slow || figure("waiting_messages") > 100.0);
        match failure {
            Failure::Down => far.run(),
            Failure::Hung => far.signal("-CONT"),
            Failure::Refuses => {
                let refused = "it refuses the connection";
                eventually("it is turned away", || near.broker.log().contains(refused));
                far.stop();
                far.allow(true);
                far.run();
            }
            Failure::Slow => {}
        }
        publish_all(&mut publisher, 70..80);
        let all = firsts(&mut far.connect(&durable), 79);
        assert_eq!(all.len(), TOPICS, "{failure:?}");
        for (topic, got) in all {
            assert!(got.iter().copied().eq(0..80), "{failure:?}, {topic}: {got:?}");
        }
        eventually("nothing waits", || figure("waiting_messages") == 0.0);
        assert_eq!(figure("delivered_total"), (80 * TOPICS) as f64, "{failure:?}");
    }
}
