//! Nodes of a cluster, one of which is replaced by another process under load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::fleet::Nodes;
use crate::support::broker::Broker;
use crate::support::{
    Client, Connect, Next, Packet, Publish, Subscribe, V5, V311, eventually, unique,
};

/// Upgrades a node, and waits until the new process can be asked for its figures.
pub fn upgrade(node: &mut Broker) {
    let before = node.log().matches(" ready ").count();
    let report = node.ask_to_upgrade(&[]).expect("it is upgraded");
    println!("{report}");
    node.follow(&report);
    eventually("the new process has its admin server", || {
        node.log().matches(" ready ").count() > before
    });
}

/// Publishes numbers, each when the one before it was acknowledged, until it is told to stop.
fn publish(mut client: Client, topic: &str, stop: &AtomicBool) -> u32 {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        client.publish(&Publish::new(topic, 1, number.to_string()));
        number += 1;
    }
    client.ping();
    number
}

/// Load of QoS 1 goes both ways while each node is upgraded in turn: nothing is lost or doubled, no
/// client is disconnected, no node says that the other is down, and no will is sent. Afterwards
/// sessions and share groups go between the nodes as before.
#[test]
fn nodes_are_upgraded_under_load_and_nobody_notices() {
    let mut nodes = Nodes::start(2, "");
    let mut readers = [nodes.subscriber(1, "to/1", 1), nodes.subscriber(0, "to/0", 1)];
    let mut wills = nodes.subscriber(1, "will/#", 1);
    let dying = Connect::new(V5, unique("will")).will(Publish::new("will/a", 1, "gone"));
    let (with_will, _) = dying.open_with(&nodes.nodes[0]);
    let stop = AtomicBool::new(false);
    let sent: Vec<u32> = std::thread::scope(|scope| {
        let writer = |at: usize, topic| {
            let client = Client::connect(&nodes.nodes[at], V311, &unique("writer"));
            let stop = &stop;
            scope.spawn(move || publish(client, topic, stop))
        };
        let writers = [writer(0, "to/1"), writer(1, "to/0")];
        for round in 0..4 {
            std::thread::sleep(Duration::from_millis(400));
            upgrade(&mut nodes.nodes[round % 2]);
        }
        std::thread::sleep(Duration::from_millis(400));
        stop.store(true, Ordering::Relaxed);
        writers.map(|writer| writer.join().expect("each PUBLISH is acknowledged")).into()
    });
    println!("{sent:?} messages");
    for (reader, &count) in readers.iter_mut().zip(&sent) {
        assert!(count > 100, "{count} messages");
        for number in 0..count {
            reader.expect(&number.to_string());
        }
        reader.expect_nothing();
    }
    assert_eq!(nodes.divisions(), 0, "a node was said to be down");
    let anew = |node: &Broker| node.log().matches("started anew").count();
    assert_eq!(nodes.nodes.iter().map(anew).sum::<usize>(), 0, "a node was said to be another one");
    wills.expect_nothing();
    drop(with_will);
    wills.expect("gone");
    shares(&nodes);
    takes_over(&mut nodes);
}

/// A session that was handed from process to process goes to the other node.
fn takes_over(nodes: &mut Nodes) {
    let durable = Connect::durable(V5, unique("moves"));
    let (mut client, _) = durable.open_with(&nodes.nodes[0]);
    client.subscribe(Subscribe::to("moves", 1));
    drop(client);
    let mut writer = Client::connect(&nodes.nodes[1], V311, &unique("writer"));
    writer.publish(&Publish::new("moves", 1, "before"));
    upgrade(&mut nodes.nodes[0]);
    writer.publish(&Publish::new("moves", 1, "after"));
    let (mut client, answer) = durable.open_with(&nodes.nodes[1]);
    assert!(answer.session_present, "{answer:?}");
    client.expect("before");
    client.expect("after");
    client.expect_nothing();
}

/// One member in the whole cluster gets each message.
fn shares(nodes: &Nodes) {
    let mut members = [0, 1].map(|at| nodes.subscriber(at, "$share/g/s", 1));
    let mut writer = Client::connect(&nodes.nodes[0], V311, &unique("writer"));
    for number in 0..40 {
        writer.publish(&Publish::new("s", 1, number.to_string()));
    }
    let mut came = Vec::new();
    for member in &mut members {
        while let Next::Packet(Packet::Publish(publish)) = member.read(Duration::from_millis(500)) {
            member.acknowledge(&publish);
            came.push(publish.text());
        }
    }
    assert_eq!(came.len(), 40, "{came:?}");
}
