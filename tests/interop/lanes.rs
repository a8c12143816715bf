//! Bridges with several connections, with a real mosquitto at the other end.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::bridging::{Far, Near, numbers};
use crate::support::{Client, Connect, Publish, V5, V311, eventually, unique};

const TOPICS: usize = 20;

/// A bridge called `wide` with so many connections; `more`: keys beside `mqtt`.
fn wide(far: SocketAddr, connections: usize, client_id: &str, more: &str) -> String {
    format!(
        "  - name: wide\n    mqtt: {{addresses: ['{far}'], retry: {{min: 300ms, max: 300ms}}, \
         topics: [{{filter: 'o/#', qos: 1}}, {{filter: 'b/#', direction: both, qos: 1}}, \
         {{filter: 'i/#', direction: in, qos: 1}}], connections: {connections}, \
         client_id: {client_id}}}\n{more}"
    )
}

fn figure(near: &Near, name: &str) -> f64 {
    near.broker.metric(&format!("ringmq_bridge_{name}"), "bridge=\"wide\"")
}

/// Numbers of each topic, of so many messages.
fn by_topic(client: &mut Client, messages: usize) -> BTreeMap<String, Vec<usize>> {
    let mut all: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for _ in 0..messages {
        let message = client.message();
        let number = message.text().parse().expect("a number");
        all.entry(message.topic).or_default().push(number);
    }
    all
}

fn in_order(all: &BTreeMap<String, Vec<usize>>, numbers: std::ops::Range<usize>) {
    assert_eq!(all.len(), TOPICS, "{all:?}");
    for (topic, got) in all {
        assert!(got.iter().copied().eq(numbers.clone()), "{topic}: {got:?}");
    }
}

/// Each topic goes over one connection; what comes in comes once, and nothing comes back; the
/// bridge is up while all connections are.
#[test]
fn a_bridge_with_several_connections_keeps_each_topic_in_order() {
    let far = Far::start();
    let id = unique("wide");
    let near = Near::start(&wide(far.address, 4, &id, ""));
    eventually("all are up", || figure(&near, "up") > 0.0 && figure(&near, "connections") == 4.0);
    let mut state = Client::connect(&near.broker, V311, &unique("state"));
    state.granted("$SYS/broker/connection/wide/state", 1);
    state.expect("1");
    let mut there = far.client("there");
    there.granted("o/#", 1);
    there.granted("b/#", 1);
    let mut publisher = Client::connect(&near.broker, V5, &unique("p"));
    for number in 0..30 {
        for topic in 0..TOPICS {
            publisher.publish(&Publish::new(format!("o/{topic}"), 1, number.to_string()));
        }
    }
    in_order(&by_topic(&mut there, 30 * TOPICS), 0..30);
    let mut here = Client::subscriber(&near.broker, V311, &unique("here"), "i/#", 1);
    here.granted("b/#", 1);
    let mut distant = far.client("distant");
    for number in 0..20 {
        distant.publish(&Publish::new("i/x", 1, number.to_string()));
    }
    assert!(numbers(&mut here, 19).into_iter().eq(0..20), "what comes in comes once");
    for number in 0..20 {
        publisher.publish(&Publish::new(format!("b/{number}"), 1, number.to_string()));
        here.expect(&number.to_string());
        there.expect(&number.to_string());
    }
    distant.publish(&Publish::new("i/x", 1, "end"));
    here.expect("end");
    assert_eq!(figure(&near, "dropped_total"), 0.0, "nothing comes back");
    // One of four is away, because another client has taken its name over.
    let other = far.connect(&Connect::new(V311, format!("{id}-3")));
    state.expect("0");
    state.expect("1");
    drop(other);
    assert_eq!(figure(&near, "connects_total"), 5.0);
    for topic in 0..TOPICS {
        publisher.publish(&Publish::new(format!("o/{topic}"), 1, "30"));
    }
    in_order(&by_topic(&mut there, TOPICS), 30..31);
}

/// What waits on disk goes with the topics to the connections that there are after a restart.
#[test]
fn what_waits_on_disk_is_shared_by_another_number_of_connections() {
    let mut far = Far::start();
    let id = unique("wide");
    let spool = std::env::temp_dir().join(unique("ringmq-lanes"));
    let more = format!(
        "    buffer: {{mode: disk, path: '{}', segment: 256KiB, max_bytes: 4MiB}}\n\
         shutdown: {{grace: 1s}}\n",
        spool.display()
    );
    let mut said = 0;
    let mut near = Near::start(&wide(far.address, 1, &id, &more));
    eventually("it is up", || figure(&near, "up") > 0.0);
    let durable = Connect::durable(V311, unique("reader"));
    far.connect(&durable).granted("o/#", 1);
    far.stop();
    for connections in [3, 4, 1] {
        let mut publisher = Client::connect(&near.broker, V5, &unique("p"));
        for _ in 0..10 {
            for topic in 0..TOPICS {
                publisher.publish(&Publish::new(format!("o/{topic}"), 1, said.to_string()));
            }
            said += 1;
        }
        eventually("all wait", || figure(&near, "waiting_messages") == (said * TOPICS) as f64);
        // A reload says that it needs a restart, and changes nothing.
        near.write(&wide(far.address, connections, &id, &more));
        near.broker.signal("-HUP");
        eventually("it is said", || near.broker.log().contains("another number needs a restart"));
        drop(near);
        near = Near::start(&wide(far.address, connections, &id, &more));
        eventually("they are there", || {
            figure(&near, "waiting_messages") == (said * TOPICS) as f64
        });
    }
    far.run();
    let mut reader = far.connect(&durable);
    in_order(&by_topic(&mut reader, said * TOPICS), 0..said);
    drop(near);
    let _ = std::fs::remove_dir_all(spool);
}
