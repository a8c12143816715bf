//! Shared subscriptions.

use std::collections::BTreeMap;

use crate::support::packet::NO_LOCAL;
use crate::support::reason::*;
use crate::support::*;

struct Group {
    topic: String,
    filter: String,
    members: Vec<Client>,
}

/// A group of clean sessions that share one filter.
fn group(broker: &Broker, members: usize, qos: u8) -> Group {
    let topic = unique("shared");
    let filter = format!("$share/{}/{topic}/#", unique("g"));
    let members =
        (0..members).map(|_| Client::subscriber(broker, V5, &unique("m"), &filter, qos)).collect();
    Group { topic, filter, members }
}

/// Everything that has reached each member, acknowledged, in payloads.
fn collect(members: &mut [Client], count: usize) -> Vec<Vec<String>> {
    let mut got = vec![Vec::new(); members.len()];
    eventually("every message has reached a member", || {
        for (member, got) in members.iter_mut().zip(&mut got) {
            member.ping();
            while let Some(publish) = member.stashed() {
                member.acknowledge(&publish);
                got.push(publish.text());
            }
        }
        got.iter().map(Vec::len).sum::<usize>() >= count
    });
    for member in members {
        member.expect_nothing();
    }
    got
}

/// Each payload exactly once over all members.
fn check_once(got: &[Vec<String>], count: usize) {
    let mut times = BTreeMap::new();
    for payload in got.iter().flatten() {
        *times.entry(payload.clone()).or_insert(0) += 1;
    }
    let expected: BTreeMap<_, _> = (0..count).map(|n| (n.to_string(), 1)).collect();
    assert_eq!(times, expected);
}

#[track_caller]
fn publish(c: &mut Client, topic: &str, qos: u8, count: usize) {
    for n in 0..count {
        c.publish(&Publish::new(topic, qos, n.to_string()));
    }
}

#[test]
fn each_message_goes_to_one_member_in_turn() {
    // Several nodes do not promise it: a strategy's choice holds within a node.
    let broker = Broker::single(&[]);
    for qos in 0..=2 {
        let mut group = group(broker, 3, qos);
        let mut c = Client::connect(broker, V5, &unique("p"));
        publish(&mut c, &group.topic, qos, 30);
        let got = collect(&mut group.members, 30);
        check_once(&got, 30);
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 10]);
    }
}

#[test]
fn publishers_on_all_shards_share_one_turn() {
    // Several nodes do not promise it: a strategy's choice holds within a node.
    let broker = Broker::single(&[]);
    let mut group = group(broker, 4, 1);
    let mut count = 0;
    for _ in 0..8 {
        let mut c = Client::connect(broker, V5, &unique("p"));
        for _ in 0..5 {
            c.publish(&Publish::new(&group.topic, 1, count.to_string()));
            count += 1;
        }
    }
    let got = collect(&mut group.members, count);
    check_once(&got, count);
    for got in &got {
        assert!((8..=12).contains(&got.len()), "uneven: {got:?}");
    }
}

#[test]
fn each_group_and_each_ordinary_subscriber_gets_every_message() {
    let mut one = group(Broker::plain(), 2, 1);
    let filter = format!("$share/{}/{}/#", unique("g"), one.topic);
    let mut two: Vec<_> =
        (0..2).map(|_| Client::subscriber(Broker::plain(), V5, &unique("m"), &filter, 1)).collect();
    let mut plain = Client::subscriber(Broker::plain(), V5, &unique("s"), &one.topic, 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    publish(&mut c, &one.topic, 1, 20);
    for n in 0..20 {
        plain.expect(&n.to_string());
    }
    plain.expect_nothing();
    check_once(&collect(&mut one.members, 20), 20);
    check_once(&collect(&mut two, 20), 20);
}

#[test]
fn a_client_may_hold_a_shared_and_an_ordinary_subscription() {
    let mut group = group(Broker::plain(), 1, 1);
    let c = &mut group.members[0];
    c.subscribe(Subscribe::to(&group.filter, 1).numbered(1));
    c.subscribe(Subscribe::to(&group.topic, 1).numbered(2));
    let mut p = Client::connect(Broker::plain(), V5, &unique("p"));
    p.publish(&Publish::new(&group.topic, 1, "x"));
    // Two subscriptions, two messages; each with its own identifier.
    let mut ids = [c.expect("x").subscription_ids(), c.expect("x").subscription_ids()];
    ids.sort();
    assert_eq!(ids, [vec![1], vec![2]]);
    c.expect_nothing();
}

#[test]
fn the_granted_qos_of_the_chosen_member_is_respected() {
    // Several nodes do not promise it: a strategy's choice holds within a node.
    let broker = Broker::single(&[]);
    let topic = unique("shared");
    let filter = format!("$share/{}/{topic}", unique("g"));
    let mut members: Vec<_> =
        (0..3).map(|qos| Client::subscriber(broker, V5, &unique("m"), &filter, qos)).collect();
    let mut c = Client::connect(broker, V5, &unique("p"));
    for _ in 0..9 {
        c.publish(&Publish::new(&topic, 2, "x"));
    }
    for (qos, member) in members.iter_mut().enumerate() {
        for _ in 0..3 {
            assert_eq!(usize::from(member.message().qos), qos);
        }
        member.expect_nothing();
    }
}

#[test]
fn members_online_are_preferred() {
    let topic = unique("shared");
    let filter = format!("$share/{}/{topic}", unique("g"));
    let away = Connect::durable(V5, unique("m"));
    let mut c = away.open(Broker::plain());
    c.granted(&filter, 1);
    c.disconnect();
    settle();
    let mut online = [Client::subscriber(Broker::plain(), V5, &unique("m"), &filter, 1)];
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    publish(&mut c, &topic, 1, 10);
    check_once(&collect(&mut online, 10), 10);
    away.open(Broker::plain()).expect_nothing();
}

#[test]
fn with_all_members_away_messages_wait() {
    let topic = unique("shared");
    let filter = format!("$share/{}/{topic}", unique("g"));
    let connects = [0, 1].map(|_| Connect::durable(V5, unique("m")));
    for connect in &connects {
        let mut c = connect.open(Broker::plain());
        c.granted(&filter, 1);
        c.disconnect();
    }
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    publish(&mut c, &topic, 1, 10);
    let mut members = connects.map(|connect| connect.open(Broker::plain()));
    check_once(&collect(&mut members, 10), 10);
}

#[test]
fn who_leaves_gets_nothing_more() {
    let mut group = group(Broker::plain(), 3, 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    assert_eq!(group.members[0].unsubscribe(&[&group.filter]), [SUCCESS]);
    assert_eq!(group.members[0].unsubscribe(&[&group.filter]), [NO_SUBSCRIPTION_EXISTED]);
    publish(&mut c, &group.topic, 1, 10);
    group.members[0].expect_nothing();
    check_once(&collect(&mut group.members, 10), 10);
    group.members.remove(1).disconnect();
    publish(&mut c, &group.topic, 1, 10);
    let got = collect(&mut group.members, 10);
    check_once(&got, 10);
    assert_eq!(got[1].len(), 10);
    group.members.remove(1).disconnect();
    publish(&mut c, &group.topic, 1, 1);
    group.members[0].expect_nothing();
}

#[test]
fn who_joins_gets_a_share_at_once() {
    let mut group = group(Broker::plain(), 1, 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    publish(&mut c, &group.topic, 1, 4);
    check_once(&collect(&mut group.members, 4), 4);
    group.members.push(Client::subscriber(Broker::plain(), V5, &unique("m"), &group.filter, 1));
    publish(&mut c, &group.topic, 1, 10);
    let got = collect(&mut group.members, 10);
    check_once(&got, 10);
    assert_eq!(got[0].len(), 5);
}

#[test]
fn subscribing_again_does_not_double_the_share() {
    // Several nodes do not promise it: a strategy's choice holds within a node.
    let broker = Broker::single(&[]);
    let mut group = group(broker, 2, 1);
    for _ in 0..3 {
        let filter = group.filter.clone();
        group.members[0].granted(&filter, 1);
    }
    let mut c = Client::connect(broker, V5, &unique("p"));
    publish(&mut c, &group.topic, 1, 20);
    let got = collect(&mut group.members, 20);
    check_once(&got, 20);
    assert_eq!(got[0].len(), 10);
}

#[test]
fn no_local_on_a_share_is_a_protocol_error() {
    let mut c = Client::connect(Broker::plain(), V5, &unique("c"));
    let mut subscribe = Subscribe::to(format!("$share/g/{}", unique("t")), 1 | NO_LOCAL);
    subscribe.id = 1;
    c.send(&subscribe.encode(V5));
    c.expect_violation(&[PROTOCOL_ERROR]);
}

#[test]
fn a_share_gets_no_retained_messages() {
    let topic = unique("shared");
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 1, "retained").retain());
    let mut member = Client::connect(Broker::plain(), V5, &unique("m"));
    member.granted(&format!("$share/{}/{topic}", unique("g")), 1);
    member.expect_nothing();
    c.publish(&Publish::new(&topic, 1, "live"));
    member.expect("live");
}

#[test]
fn a_rejected_message_goes_to_no_other_member() {
    for (qos, kind) in [(1, AckKind::PubAck), (2, AckKind::PubRec)] {
        let mut group = group(Broker::plain(), 2, qos);
        let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
        c.publish(&Publish::new(&group.topic, qos, "rejected"));
        let mut taken = None;
        eventually("a member has it", || {
            for (n, member) in group.members.iter_mut().enumerate() {
                member.ping();
                if let Some(publish) = member.stashed() {
                    member.send(&Ack::new(kind, publish.id).reason(UNSPECIFIED).encode());
                    taken = Some(n);
                }
            }
            taken.is_some()
        });
        publish(&mut c, &group.topic, qos, 4);
        check_once(&collect(&mut group.members, 4), 4);
    }
}

#[test]
fn a_delivery_that_began_is_finished_with_its_member() {
    let topic = unique("shared");
    let filter = format!("$share/{}/{topic}", unique("g"));
    let connect = Connect::durable(V5, unique("m"));
    let mut member = connect.open(Broker::plain());
    member.granted(&filter, 2);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 2, "begun"));
    assert_eq!(member.delivery().text(), "begun");
    let mut other = Client::subscriber(Broker::plain(), V5, &unique("m"), &filter, 2);
    member.cut();
    // [MQTT-4.8.2-4]: to the same client, when it is back.
    let mut member = connect.open(Broker::plain());
    assert!(member.expect("begun").dup);
    other.expect_nothing();
}

#[test]
fn a_qos_2_delivery_that_began_dies_with_its_session() {
    let topic = unique("shared");
    let filter = format!("$share/{}/{topic}", unique("g"));
    let mut member = Client::subscriber(Broker::plain(), V5, &unique("m"), &filter, 2);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 2, "begun"));
    member.delivery();
    let mut other = Client::subscriber(Broker::plain(), V5, &unique("m"), &filter, 2);
    // [MQTT-4.8.2-5]
    member.disconnect();
    c.publish(&Publish::new(&topic, 2, "next"));
    other.expect("next");
    other.expect_nothing();
}

/// Section 4.8.2: "if the Client's Session terminates before the Client reconnects, the Server
/// SHOULD send the Application Message to another Client". It is no repetition for that one
/// [MQTT-3.3.1-3].
#[test]
fn what_a_member_had_not_acknowledged_when_its_session_ended_goes_to_another() {
    // Several nodes do not promise it: a strategy's choice holds within a node.
    let broker = Broker::single(&[]);
    for clean_start in [false, true] {
        let topic = unique("shared");
        let filter = format!("$share/{}/{topic}", unique("g"));
        let name = unique("m");
        let connect = match clean_start {
            // Ends when another connection starts anew, or with its own.
            true => Connect::durable(V5, &name),
            false => Connect::new(V5, &name),
        };
        let mut first = connect.open(broker);
        first.granted(&filter, 1);
        let mut second = Client::subscriber(broker, V5, &unique("m"), &filter, 1);
        let mut c = Client::connect(broker, V5, &unique("p"));
        publish(&mut c, &topic, 1, 20);
        let own: Vec<Publish> = (0..10).map(|_| first.delivery()).collect();
        let mut got: Vec<String> = (0..10).map(|_| second.message().text()).collect();
        second.expect_nothing();
        first.cut();
        if clean_start {
            second.expect_nothing();
            Connect::new(V5, &name).open(broker).disconnect();
        }
        for publish in &own {
            let again = second.message();
            assert!(!again.dup && again.text() == publish.text(), "{again:?}");
            got.push(again.text());
        }
        second.expect_nothing();
        check_once(&[got], 20);
    }
}

/// Section 4.8.2 and [MQTT-3.10.4-3]: who leaves finishes what it was sent; the others get what
/// only waited for it.
#[test]
fn a_member_that_leaves_finishes_what_it_was_sent_and_no_more() {
    for qos in 1..=2 {
        let topic = unique("shared");
        let filter = format!("$share/{}/{topic}", unique("g"));
        let connect = Connect::new(V5, unique("m")).with(Property::ReceiveMaximum(3));
        let mut first = connect.open(Broker::plain());
        first.granted(&filter, qos);
        let mut second = Client::subscriber(Broker::plain(), V5, &unique("m"), &filter, qos);
        let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
        publish(&mut c, &topic, qos, 20);
        let begun: Vec<Publish> = (0..3).map(|_| first.delivery()).collect();
        assert_eq!(first.unsubscribe(&[&filter]), [SUCCESS]);
        let mut members = [second];
        let mut got = collect(&mut members, 17);
        got.push(begun.iter().map(Publish::text).collect());
        check_once(&got, 20);
        begun.iter().for_each(|publish| first.acknowledge(publish));
        first.expect_nothing();
        [second] = members;
        second.disconnect();
    }
}

#[test]
fn a_member_that_takes_nothing_more_costs_no_message() {
    // More than a full mailbox holds: a shard that is late brings as many at once.
    let broker = Broker::shared(&["mqtt.pending.max_messages=400"]);
    let topic = unique("shared");
    let filter = format!("$share/{}/{topic}", unique("g"));
    let mut stuck = Client::subscriber(broker, V5, &unique("m"), &filter, 1);
    let mut members = [Client::subscriber(broker, V5, &unique("m"), &filter, 1)];
    let mut c = Client::connect(broker, V5, &unique("p"));
    let (count, kept) = (1200, 32 + 400);
    let mut got = Vec::new();
    for n in 0..count {
        c.publish(&Publish::new(&topic, 1, n.to_string()));
        members[0].ping();
        while let Some(publish) = members[0].stashed() {
            members[0].acknowledge(&publish);
            got.push(publish.text());
        }
    }
    let left = count - kept - got.len();
    got.extend(collect(&mut members, left).remove(0));
    let rest: Vec<String> = (0..kept).map(|_| stuck.message().text()).collect();
    check_once(&[got, rest], count);
}

#[test]
fn groups_with_the_same_filter_and_another_name_are_apart() {
    let topic = unique("shared");
    let names = [unique("g"), unique("g")];
    let mut members: Vec<_> = names
        .iter()
        .map(|name| {
            let filter = format!("$share/{name}/{topic}");
            Client::subscriber(Broker::plain(), V5, &unique("m"), &filter, 1)
        })
        .collect();
    Client::connect(Broker::plain(), V5, &unique("p")).publish(&Publish::new(&topic, 1, "x"));
    for member in &mut members {
        member.expect("x");
        member.expect_nothing();
    }
}

#[test]
fn one_group_name_may_share_several_filters() {
    let (name, one, two) = (unique("g"), unique("one"), unique("two"));
    let mut a = Client::connect(Broker::plain(), V5, &unique("m"));
    let mut b = Client::connect(Broker::plain(), V5, &unique("m"));
    a.granted(&format!("$share/{name}/{one}"), 1);
    b.granted(&format!("$share/{name}/{two}"), 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    for _ in 0..3 {
        c.publish(&Publish::new(&one, 1, "one"));
        c.publish(&Publish::new(&two, 1, "two"));
        a.expect("one");
        b.expect("two");
    }
    a.expect_nothing();
    b.expect_nothing();
}

#[test]
fn every_strategy_delivers_each_message_once() {
    // Several nodes do not promise it: a strategy's choice holds within a node.
    for strategy in ["round_robin", "random", "sticky", "hash_topic", "hash_client"] {
        println!("strategy: {strategy}");
        let broker = Broker::single(&[&format!("mqtt.shared_strategy={strategy}")]);
        let mut group = group(broker, 3, 1);
        let mut c = Client::connect(broker, V5, &unique("p"));
        publish(&mut c, &group.topic, 1, 60);
        let got = collect(&mut group.members, 60);
        check_once(&got, 60);
        let mut shares: Vec<_> = got.iter().map(Vec::len).collect();
        shares.sort_unstable();
        match strategy {
            "round_robin" => assert_eq!(shares, [20, 20, 20]),
            // 60 throws: a member without any has a chance of 1 in 10^10.
            "random" => assert!(shares[0] > 0, "{shares:?}"),
            // One topic, one publisher: always the same member.
            _ => assert_eq!(shares, [0, 0, 60]),
        }
        if strategy == "hash_topic" {
            for n in 0..60 {
                let topic = format!("{}/{n}", group.topic);
                c.publish(&Publish::new(topic, 1, n.to_string()));
            }
            let got = collect(&mut group.members, 60);
            check_once(&got, 60);
            assert!(got.iter().all(|got| !got.is_empty()), "one member got every topic");
        }
    }
}
