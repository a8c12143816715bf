//! A broker at rest: it wakes at once for work, from the network and from another shard, and costs
//! nothing until then.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::*;

/// Rounds of twenty that took longer than 200 ms: a machine under load may delay one or two, but a
/// doorbell that is lost shows in many.
#[track_caller]
fn few_are_slow(what: &str, times: &[Duration]) {
    let slow = times.iter().filter(|time| **time > Duration::from_millis(200)).count();
    assert!(slow <= times.len() / 10, "{what}: {slow} of {} were slow: {times:?}", times.len());
}

#[test]
fn a_parked_shard_wakes_for_mail() {
    let _alone = machine();
    let broker = Broker::start(&[]);
    let topic = unique("parked");
    let mut subs: Vec<_> =
        (0..16).map(|_| Client::subscriber(&broker, V5, &unique("s"), &topic, 1)).collect();
    let mut c = Client::connect(&broker, V5, &unique("p"));
    let (mut messages, mut replays, mut connects) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..20 {
        std::thread::sleep(Duration::from_millis(150));
        let start = Instant::now();
        c.publish(&Publish::new(&topic, 1, "x"));
        for sub in &mut subs {
            sub.expect("x");
        }
        messages.push(start.elapsed());
        // A retained message lives on one shard, is published from another, read from a third.
        let kept = unique("kept");
        c.publish(&Publish::new(&kept, 1, "kept").retain());
        std::thread::sleep(Duration::from_millis(150));
        let start = Instant::now();
        let sub = &mut subs[round % 16];
        sub.granted(&kept, 1);
        sub.expect("kept");
        replays.push(start.elapsed());
        // A connection is handed over to the shard of its client.
        std::thread::sleep(Duration::from_millis(150));
        let start = Instant::now();
        Client::connect(&broker, V311, &unique("c")).ping();
        connects.push(start.elapsed());
    }
    few_are_slow("messages", &messages);
    few_are_slow("retained messages", &replays);
    few_are_slow("connections", &connects);
}

/// CPU time of the process so far, in clock ticks of 10 ms.
fn ticks(broker: &Broker) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", broker.pid())).expect("it runs");
    let fields = stat.rsplit(')').next().expect("the name is in parentheses").split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}

#[test]
fn an_idle_broker_costs_next_to_nothing() {
    let _alone = machine();
    let broker = Broker::start(&[]);
    let _clients: Vec<_> = (0..50).map(|_| Client::connect(&broker, V5, &unique("idle"))).collect();
    std::thread::sleep(Duration::from_secs(1));
    let before = ticks(&broker);
    std::thread::sleep(Duration::from_secs(2));
    let spent = ticks(&broker) - before;
    // 2 s are 200 ticks. The budget is half a percent of a core; this much more is a busy loop.
    let limit = 5 + broker::shards() as u64;
    assert!(spent <= limit, "{spent} ticks of 10 ms in 2 s");
}

#[test]
fn a_core_that_lets_events_gather_answers_all_the_same() {
    let broker = Broker::start(&["runtime.coalesce=500us"]);
    let topic = unique("gather");
    let mut sub = Client::subscriber(&broker, V5, &unique("s"), &topic, 1);
    let mut c = Client::connect(&broker, V5, &unique("p"));
    for n in 0..300 {
        c.publish(&Publish::new(&topic, 1, n.to_string()));
        sub.expect(&n.to_string());
    }
    // Nothing gathers with this one: it must not wait for company.
    std::thread::sleep(Duration::from_millis(50));
    c.ping();
}
