//! Bridges that are added, changed and removed while the broker runs, with real mosquittos at their
//! other ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::bridging::{Far, Near, numbers};
use crate::support::{Client, Connect, Publish, V5, V311, eventually, unique};

/// A bridge of a list; `more`: keys beside `mqtt`.
fn bridge(name: &str, far: SocketAddr, topics: &str, more: &str) -> String {
    format!(
        "  - name: {name}\n    mqtt: {{addresses: ['{far}'], retry: {{min: 100ms, max: 300ms}}, \
         topics: [{topics}], client_id: {name}-{}}}\n{more}",
        unique("bridge")
    )
}

fn topic(filter: &str, prefix: &str) -> String {
    format!("{{filter: '{filter}', qos: 1, remote_prefix: '{prefix}'}}")
}

impl Near {
    /// Reads that list, and waits until its bridges are there.
    fn reload(&self, bridges: &str) {
        let told = |near: &Near| {
            near.broker.log().matches("bridges are as the configuration says").count()
        };
        let before = told(self);
        self.write(bridges);
        self.broker.signal("-HUP");
        eventually("the bridges are changed", || told(self) > before);
    }

    fn figure(&self, name: &str, bridge: &str) -> f64 {
        self.broker.metric(&format!("ringmq_bridge_{name}"), &format!("bridge=\"{bridge}\""))
    }

    /// Whether there is a bridge of that name.
    fn has(&self, bridge: &str) -> bool {
        let label = format!("bridge=\"{bridge}\"");
        self.broker.find_metric("ringmq_bridge_up", &label).is_ok()
    }
}

/// One bridge is as it was, one comes, one is changed while a publisher goes on, and one goes.
#[test]
fn bridges_are_added_changed_and_removed_while_running() {
    let (first, second) = (Far::start(), Far::start());
    let steady = bridge("steady", first.address, &topic("s/#", ""), "");
    let old = bridge("moving", first.address, &topic("m/#", ""), "");
    let near = Near::start(&format!("{steady}{old}"));
    eventually("both are up", || {
        near.figure("up", "steady") > 0.0 && near.figure("up", "moving") > 0.0
    });
    let mut reader = second.connect(&Connect::durable(V311, unique("reader")));
    reader.granted("moved/#", 1);
    let mut before = first.connect(&Connect::durable(V311, unique("before")));
    before.granted("m/#", 1);
    let (going, mut publisher) =
        (Arc::new(AtomicBool::new(true)), Client::connect(&near.broker, V311, &unique("p")));
    let goes = Arc::clone(&going);
    let publisher = std::thread::spawn(move || {
        let mut number = 0;
        while goes.load(Ordering::Relaxed) {
            publisher.publish(&Publish::new("m/x", 1, number.to_string()));
            number += 1;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        publisher.publish(&Publish::new("m/x", 1, number.to_string()));
        number
    });
    before.expect("0");
    let added = bridge("added", first.address, &topic("a/#", ""), "");
    let new = bridge("moving", second.address, &topic("m/#", "moved/"), "");
    near.reload(&format!("{added}{steady}{new}"));
    eventually("all are up", || {
        ["steady", "moving", "added"].iter().all(|name| near.figure("up", name) > 0.0)
    });
    going.store(false, Ordering::Relaxed);
    let last = publisher.join().expect("it publishes");
    let after = numbers(&mut reader, last);
    let begin = after[0];
    assert!(begin > 0 && after.iter().copied().eq(begin..=last), "{after:?}");
    // What the first had got; some may have come to both, but none to neither.
    let mut there = vec![0];
    while there.last().is_some_and(|&number| number + 1 < begin) {
        there.push(before.message().text().parse().expect("a number"));
    }
    assert!(there.iter().copied().eq(0..there.len()), "{there:?}");
    assert_eq!(near.figure("connects_total", "steady"), 1.0, "it is not touched");
    let mut others = first.client("others");
    others.granted("a/#", 1);
    others.granted("s/#", 1);
    let mut publisher = Client::connect(&near.broker, V5, &unique("p"));
    publisher.publish(&Publish::new("a/1", 1, "added"));
    others.expect("added");
    publisher.publish(&Publish::new("s/1", 1, "steady"));
    others.expect("steady");
    let mut state = Client::connect(&near.broker, V311, &unique("state"));
    state.granted("$SYS/broker/connection/steady/state", 1);
    state.expect("1");
    near.reload(&added);
    assert!(near.has("added") && !near.has("steady") && !near.has("moving"));
    publisher.publish(&Publish::new("s/1", 1, "gone"));
    publisher.publish(&Publish::new("a/1", 1, "still"));
    others.expect("still");
    state.expect("0");
    state.expect("");
    assert_eq!(near.figure("connects_total", "added"), 1.0, "it is not touched");
}

/// What waits for a bridge that is changed goes by the new configuration, in order; what waits on
/// disk for one that is removed stays there, and is named; a wrong configuration changes nothing.
#[test]
fn what_waits_for_a_bridge_outlives_a_reload() {
    let (mut away, there) = (Far::start(), Far::start());
    let near = Near::start("    []\n");
    let spool = near.spool();
    let disk = |far: SocketAddr, prefix: &str| {
        let buffer = format!(
            "    buffer: {{mode: hybrid, path: '{}', segment: 256KiB, max_bytes: 1MiB}}\n",
            spool.display()
        );
        let topics = format!("{}, {}", topic("w/#", prefix), topic("w/+/#", prefix));
        format!("{}shutdown: {{grace: 1s}}\n", bridge("waits", far, &topics, &buffer))
    };
    near.reload(&disk(away.address, ""));
    eventually("it is up", || near.figure("up", "waits") > 0.0);
    away.stop();
    let mut reader = there.connect(&Connect::durable(V311, unique("reader")));
    reader.granted("#", 1);
    let mut publisher = Client::connect(&near.broker, V5, &unique("p"));
    for number in 0..100 {
        publisher.publish(&Publish::new("w/x", 1, number.to_string()));
    }
    // Wrong: named with its place, and nothing has changed.
    near.write(&disk(there.address, "b/").replace("segment", "segmant"));
    near.broker.signal("-HUP");
    eventually("it is refused", || {
        let log = near.broker.log();
        log.contains("near.yaml:6")
            && log.contains("bridges.0.buffer.segmant")
            && log.contains("reload refused, nothing changed")
    });
    assert_eq!(near.figure("waiting_messages", "waits"), 100.0);
    // Removed: on disk.
    near.reload("    []\n");
    assert!(!near.has("waits"));
    let log = near.broker.log();
    assert!(log.contains("stays on disk") && log.contains("left=100"), "{log}");
    publisher.publish(&Publish::new("w/x", 1, "nobody takes it"));
    // Back, and changed while it waits.
    near.reload(&disk(away.address, ""));
    for number in 100..200 {
        publisher.publish(&Publish::new("w/x", 1, number.to_string()));
    }
    eventually("all wait", || near.figure("waiting_messages", "waits") == 200.0);
    near.reload(&disk(there.address, "b/"));
    publisher.publish(&Publish::new("w/x", 1, "200"));
    let mut got = Vec::new();
    while got.last() != Some(&200) {
        let message = reader.message();
        assert_eq!(message.topic, "b/w/x");
        got.push(message.text().parse::<usize>().expect("a number"));
    }
    assert!(got.iter().copied().eq(0..=200), "{got:?}");
    eventually("all have arrived", || near.figure("waiting_messages", "waits") == 0.0);
    assert_eq!(near.figure("dropped_total", "waits"), 0.0);
}
