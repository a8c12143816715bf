//! Bridges while the broker is replaced by another process.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::bridging::{Far, Near, numbers};
use crate::support::*;

/// Another process takes over.
fn upgrade(near: &mut Near) {
    let ready = |near: &Near| near.broker.log().matches(" ready ").count();
    let before = ready(near);
    let report = near.broker.ask_to_upgrade(&[]).expect("it is upgraded");
    near.broker.follow(&report);
    eventually("the new process has its admin server", || ready(near) > before);
}

/// Messages go on in both directions while the broker is replaced by another process, in order;
/// what waits goes to the other end first, or to the new process by the disk.
#[test]
fn a_bridge_goes_on_in_the_process_that_takes_the_broker_over() {
    let spool = std::env::temp_dir().join(unique("ringmq-spool"));
    for mode in ["memory".to_owned(), format!("disk, path: '{}'", spool.display())] {
        let mut far = Far::start();
        let mut near = Near::start(&format!(
            "  - name: uplink\n    mqtt: {{addresses: ['{}'], client_id: {}, retry: {{min: 100ms, \
             max: 300ms}}, topics: [{{filter: 'q/#', direction: both, qos: 1}}]}}\n    \
             buffer: {{mode: {mode}}}\n",
            far.address,
            unique("bridge")
        ));
        eventually("the bridge is up", || near.is_up());
        let durable = Connect::durable(V311, unique("durable"));
        let mut reader = far.connect(&durable);
        reader.granted("q/out", 1);
        let mut publisher = Client::connect(&near.broker, V311, &unique("p"));
        let mut here = Client::subscriber(&near.broker, V311, &unique("here"), "q/in", 1);
        let mut publish = |numbers: std::ops::Range<usize>| {
            let out = |number: usize| Publish::new("q/out", 1, number.to_string());
            numbers.for_each(|number| publisher.publish(&out(number)));
        };
        for round in 0..2 {
            let first = round * 1000;
            publish(first..first + 300);
            upgrade(&mut near);
            // Before the bridge is up again.
            publish(first + 300..first + 999);
            far.client("distant").publish(&Publish::new("q/in", 1, first.to_string()));
            publish(first + 999..first + 1000);
            here.expect(&first.to_string());
        }
        if mode != "memory" {
            // What waits for an end that is away is on the disk.
            drop(reader);
            far.stop();
            eventually("it is down", || !near.is_up());
            publish(2000..2100);
            upgrade(&mut near);
            far.run();
            reader = far.connect(&durable);
        } else {
            publish(2000..2100);
        }
        let mut got = numbers(&mut reader, 2099);
        let copies = got.len();
        got.dedup();
        assert!(got.iter().copied().eq(0..2100), "{mode}: lost, or out of order: {got:?}");
        assert!(copies - got.len() <= 60, "{mode}: {copies} messages for 2100");
    }
    let _ = fs::remove_dir_all(spool);
}

/// With `puback: delivered` the pause lasts until publishers have their answers; while the other
/// end is away, the old process goes on.
#[test]
fn publishers_that_wait_for_the_other_end_are_answered_over_an_upgrade() {
    let spool = std::env::temp_dir().join(unique("ringmq-spool"));
    let mut far = Far::start();
    let mut near = Near::start(&format!(
        "  - name: uplink\n    puback: delivered\n    mqtt: {{addresses: ['{}'], client_id: {}, \
         retry: {{min: 100ms, max: 300ms}}, topics: [{{filter: 'q/#', direction: out, qos: 1}}]}}\n\
         \x20   buffer: {{mode: disk, path: '{}'}}\n",
        far.address,
        unique("bridge"),
        spool.display()
    ));
    eventually("the bridge is up", || near.is_up());
    let durable = Connect::durable(V311, unique("durable"));
    let mut reader = far.connect(&durable);
    reader.granted("q/out", 1);
    let mut publisher = Client::connect(&near.broker, V311, &unique("p"));
    let stop = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut said = 0;
            while !stop.load(Ordering::Relaxed) {
                // Returns with the PUBACK.
                publisher.publish(&Publish::new("q/out", 1, said.to_string()));
                said += 1;
            }
            said
        });
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            upgrade(&mut near);
        }
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        publisher.join().expect("each PUBLISH is answered")
    });
    assert!(said > 100, "{said}");
    let mut got = numbers(&mut reader, said - 1);
    got.dedup();
    assert!(got.iter().copied().eq(0..said), "lost, or out of order: {got:?}");
    // The other end is away.
    drop(reader);
    far.stop();
    eventually("it is down", || !near.is_up());
    let mut publisher = Client::connect(&near.broker, V311, &unique("p"));
    let id = publisher.send_publish(&Publish::new("q/out", 1, "waits"));
    eventually("it waits", || near.broker.metric("ringmq_bridge_waiting_messages", "") > 0.0);
    let why = near.broker.ask_to_upgrade(&[]).expect_err("nobody would answer");
    assert!(why.contains("uplink") && why.contains("puback: delivered"), "{why}");
    far.run();
    publisher.ack(AckKind::PubAck, id);
    upgrade(&mut near);
    publisher.ping();
    let _ = fs::remove_dir_all(spool);
}

/// What a bridge has in memory for an end that is away would be lost: that is said before.
#[test]
fn an_upgrade_is_refused_while_a_bridge_has_something_in_memory_that_it_cannot_send() {
    let mut far = Far::start();
    let mut near = Near::uplink(far.address, "{filter: 'q/#', qos: 1}", "");
    eventually("the bridge is up", || near.is_up());
    far.stop();
    eventually("it is down", || !near.is_up());
    let mut publisher = Client::connect(&near.broker, V311, &unique("p"));
    publisher.publish(&Publish::new("q/x", 1, "waits"));
    eventually("it waits", || near.broker.metric("ringmq_bridge_waiting_messages", "") > 0.0);
    let why = near.broker.ask_to_upgrade(&[]).expect_err("it would be lost");
    assert!(why.contains("uplink") && why.contains("buffer.mode"), "{why}");
    publisher.ping();
    far.run();
    eventually("it is sent", || near.broker.metric("ringmq_bridge_waiting_messages", "") == 0.0);
    upgrade(&mut near);
    publisher.ping();
}
