//! Tests of the `$SYS` topics.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::{Counters, SysHistory, topics};

fn tree(
    total: &Counters,
    shards: &[Counters],
    history: &SysHistory,
    uptime: u64,
) -> BTreeMap<String, String> {
    let list = topics(total, shards, history, uptime, "0.1.0");
    let names: HashSet<&String> = list.iter().map(|(topic, _)| topic).collect();
    assert_eq!(names.len(), list.len(), "a topic is listed twice");
    list.into_iter().collect()
}

#[test]
fn figures_are_told_under_mosquittos_names() {
    let total = Counters {
        sessions: 10,
        sessions_persistent: 4,
        sessions_expired: 1,
        packets_received: 100,
        messages_received_qos0: 1,
        messages_received_qos1: 2,
        messages_received_qos2: 3,
        dropped_expired: 4,
        dropped_queue_full: 5,
        retained_messages: 7,
        pending_messages: 8,
        retained_bytes: 70,
        pending_bytes: 80,
        subscriptions: 11,
        publish_bytes_received_qos0: 1,
        publish_bytes_received_qos2: 20,
        publish_bytes_sent_qos1: 3,
        publish_bytes_sent_qos2: 40,
        ..Counters::default()
    };
    let tree = tree(&total, &[], &SysHistory::new(), 61);
    let cases = [
        ("version", "ringmq version 0.1.0"),
        ("uptime", "61 seconds"),
        ("clients/total", "10"),
        ("clients/connected", "6"),
        ("clients/active", "6"),
        ("clients/disconnected", "4"),
        ("clients/inactive", "4"),
        ("clients/maximum", "6"),
        ("clients/expired", "1"),
        ("messages/received", "100"),
        ("messages/stored", "15"),
        ("publish/messages/received", "6"),
        ("publish/messages/dropped", "9"),
        ("publish/bytes/received", "21"),
        ("publish/bytes/sent", "43"),
        ("subscriptions/count", "11"),
        ("shared_subscriptions/count", "0"),
        ("retained messages/count", "7"),
        ("store/messages/count", "15"),
        ("store/messages/bytes", "150"),
        ("load/messages/received/1min", "0.00"),
        ("load/publish/sent/5min", "0.00"),
        ("load/bytes/sent/15min", "0.00"),
        ("load/sockets/1min", "0.00"),
        ("load/connections/1min", "0.00"),
    ];
    for (topic, expected) in cases {
        assert_eq!(tree.get(&format!("$SYS/broker/{topic}")).unwrap(), expected, "{topic}");
    }
}

#[test]
fn each_shard_tells_its_own_figures() {
    let shards = [
        Counters { connections_open: 3, mail_sent: 1, ..Counters::default() },
        Counters { connections_open: 5, messages_sent_qos2: 9, ..Counters::default() },
    ];
    let tree = tree(&Counters::default(), &shards, &SysHistory::new(), 0);
    assert_eq!(tree["$SYS/broker/shards/0/connections"], "3");
    assert_eq!(tree["$SYS/broker/shards/0/mail/sent"], "1");
    assert_eq!(tree["$SYS/broker/shards/1/connections"], "5");
    assert_eq!(tree["$SYS/broker/shards/1/messages/sent"], "9");
}

#[test]
fn averages_approach_a_steady_rate_the_short_one_first() {
    let mut history = SysHistory::new();
    let mut total = Counters::default();
    for _ in 0..30 {
        total.packets_received += 100; // 600 a minute
        history.update(&total, Duration::from_secs(10));
    }
    let averages = history.averages[0];
    assert!((averages[0] - 600.0).abs() < 5.0, "{averages:?}");
    assert!(averages[0] > averages[1] && averages[1] > averages[2], "{averages:?}");
    // Five minutes of a five minute average: 1 - 1/e of the rate.
    assert!((averages[1] - 600.0 * (1.0 - (-1f64).exp())).abs() < 0.01, "{averages:?}");
    let quiet = total;
    for _ in 0..600 {
        history.update(&quiet, Duration::from_secs(10));
    }
    assert!(history.averages[0][0] < 0.01);
}

#[test]
fn an_average_does_not_depend_on_how_often_it_is_updated() {
    let (mut often, mut seldom) = (SysHistory::new(), SysHistory::new());
    let mut total = Counters::default();
    for second in 1..=60 {
        total.bytes_sent += 7;
        often.update(&total, Duration::from_secs(1));
        if second % 20 == 0 {
            seldom.update(&total, Duration::from_secs(20));
        }
    }
    let (often, seldom) = (often.averages[6][0], seldom.averages[6][0]);
    assert!((often - seldom).abs() < 0.01, "{often} {seldom}");
}

#[test]
fn the_maximum_of_clients_stays_and_a_standing_clock_changes_no_average() {
    let mut history = SysHistory::new();
    history.update(&Counters { sessions: 9, ..Counters::default() }, Duration::from_secs(1));
    let now = Counters { sessions: 2, packets_sent: 5, ..Counters::default() };
    history.update(&now, Duration::ZERO);
    let tree = tree(&now, &[], &history, 0);
    assert_eq!(tree["$SYS/broker/clients/maximum"], "9");
    assert_eq!(tree["$SYS/broker/load/messages/sent/1min"], "0.00");
}
