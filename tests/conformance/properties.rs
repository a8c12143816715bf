//! Properties of messages: forwarded unaltered, counted down, or kept from those who cannot read
//! them.

use std::time::Duration;

use crate::support::reason::*;
use crate::support::*;

fn everything() -> Vec<Property> {
    vec![
        Property::PayloadFormat(1),
        Property::ContentType("text/plain; charset=é".into()),
        Property::ResponseTopic("answers/here".into()),
        Property::CorrelationData((0..=255).collect()),
        user("b", "1"),
        user("a", ""),
        user("", "empty name"),
        user("b", "1"),
        user("b", "2"),
        user("é\u{feff}", "日本"),
    ]
}

#[test]
fn all_properties_are_forwarded_unaltered_and_in_order() {
    for qos in 0..=2 {
        let topic = unique("all");
        let mut sub = Client::subscriber(Broker::plain(), V5, &unique("s"), &topic, qos);
        let mut old = Client::subscriber(Broker::plain(), V311, &unique("o"), &topic, qos);
        let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
        let publish = Publish { properties: everything(), ..Publish::new(&topic, qos, "x") };
        c.publish(&publish);
        assert_eq!(sub.expect("x").properties, everything());
        old.expect("x");
    }
}

#[test]
fn properties_in_any_order_are_forwarded() {
    let topic = unique("order");
    let mut sub = Client::subscriber(Broker::plain(), V5, &unique("s"), &topic, 0);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    // What the server changes in between must not disturb the rest.
    let list = [
        user("1", "1"),
        Property::TopicAlias(1),
        user("2", "2"),
        Property::MessageExpiry(1000),
        user("3", "3"),
        Property::CorrelationData(vec![]),
        user("4", "4"),
        Property::PayloadFormat(0),
    ];
    let publish = Publish { properties: list.to_vec(), ..Publish::new(&topic, 0, "x") };
    c.publish(&publish);
    let got = sub.expect("x");
    let users: Vec<_> = got.properties.iter().filter(|p| matches!(p, Property::User(..))).collect();
    assert_eq!(users, [&list[0], &list[2], &list[4], &list[6]]);
    let mut ids: Vec<_> = got.properties.iter().map(Property::id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 9, 38, 38, 38, 38]);
}

#[test]
fn properties_wait_with_their_message() {
    let topic = unique("wait");
    let connect = Connect::durable(V5, unique("s"));
    let mut sub = connect.open(Broker::plain());
    sub.granted(&topic, 1);
    sub.disconnect();
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish { properties: everything(), ..Publish::new(&topic, 1, "x") });
    assert_eq!(connect.open(Broker::plain()).expect("x").properties, everything());
}

#[test]
fn many_and_long_properties_are_forwarded() {
    let topic = unique("many");
    let mut sub = Client::subscriber(Broker::plain(), V5, &unique("s"), &topic, 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    let mut list: Vec<_> = (0..1000).map(|n| user(&format!("name {n}"), "value")).collect();
    list.push(user("long", &"x".repeat(65_535)));
    list.push(Property::CorrelationData(vec![7; 65_535]));
    c.publish(&Publish { properties: list.clone(), ..Publish::new(&topic, 1, "x") });
    let mut got = sub.expect("x").properties;
    got.sort_by_key(|property| property.id() != 38);
    assert_eq!(got, list);
}

#[test]
fn a_payload_is_not_judged_by_its_format() {
    // The server may check the payload against the indicator, but need not; it forwards either.
    let topic = unique("format");
    let mut sub = Client::subscriber(Broker::plain(), V5, &unique("s"), &topic, 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    let bytes: Vec<u8> = (0..=255).collect();
    c.publish(&Publish::new(&topic, 1, &bytes).with(Property::PayloadFormat(0)));
    let got = sub.message();
    assert_eq!((got.payload, got.properties), (bytes, vec![Property::PayloadFormat(0)]));
}

#[test]
fn request_and_response() {
    let (requests, answers) = (unique("requests"), unique("answers"));
    let mut server = Client::subscriber(Broker::plain(), V5, &unique("server"), &requests, 1);
    let mut client = Client::subscriber(Broker::plain(), V5, &unique("client"), &answers, 1);
    let question = Publish::new(&requests, 1, "?")
        .with(Property::ResponseTopic(answers.clone()))
        .with(Property::CorrelationData(b"42".to_vec()));
    client.publish(&question);
    let got = server.expect("?");
    let Some(Property::ResponseTopic(to)) = got.properties.iter().find(|p| p.id() == 8) else {
        panic!("no response topic: {got:?}")
    };
    let data = got.properties.iter().find(|p| p.id() == 9).expect("correlation data").clone();
    server.publish(&Publish::new(to, 1, "!").with(data.clone()));
    assert_eq!(client.expect("!").properties, [data]);
}

#[test]
fn message_expiry_is_counted_down() {
    let topic = unique("expiry");
    let connect = Connect::durable(V5, unique("s"));
    let mut sub = connect.open(Broker::plain());
    sub.granted(&topic, 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    let publish = |payload: &str, seconds| {
        Publish::new(&topic, 1, payload).with(Property::MessageExpiry(seconds))
    };
    c.publish(&publish("at once", 100));
    assert_eq!(sub.expect("at once").message_expiry(), Some(100));
    sub.disconnect();
    c.publish(&publish("expires", 1));
    c.publish(&publish("lasts", 100));
    c.publish(&Publish::new(&topic, 1, "for ever"));
    std::thread::sleep(Duration::from_millis(2300));
    let mut sub = connect.open(Broker::plain());
    // [MQTT-3.3.2-5], [MQTT-3.3.2-6]
    let left = sub.expect("lasts").message_expiry().expect("it has one");
    assert!((90..=98).contains(&left), "{left} s of 100 are left after two");
    assert_eq!(sub.expect("for ever").message_expiry(), None);
    sub.expect_nothing();
}

#[test]
fn an_expired_message_is_not_sent_to_mqtt_3_clients_either() {
    let topic = unique("expiry");
    let connect = Connect::durable(V311, unique("s"));
    let mut sub = connect.open(Broker::plain());
    sub.granted(&topic, 1);
    sub.disconnect();
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 1, "expires").with(Property::MessageExpiry(1)));
    c.publish(&Publish::new(&topic, 1, "lasts").with(Property::MessageExpiry(100)));
    std::thread::sleep(Duration::from_millis(2300));
    let mut sub = connect.open(Broker::plain());
    sub.expect("lasts");
    sub.expect_nothing();
}

#[test]
fn a_message_waiting_behind_a_full_window_expires() {
    let topic = unique("expiry");
    let mut sub =
        Connect::new(V5, unique("s")).with(Property::ReceiveMaximum(1)).open(Broker::plain());
    sub.granted(&topic, 2);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    // The first was sent, so it does not expire any more [MQTT-4.3.3-7]; the second waits.
    c.publish(&Publish::new(&topic, 2, "sent").with(Property::MessageExpiry(1)));
    c.publish(&Publish::new(&topic, 1, "expires").with(Property::MessageExpiry(1)));
    c.publish(&Publish::new(&topic, 1, "lasts"));
    let sent = sub.delivery();
    assert_eq!(sent.text(), "sent");
    std::thread::sleep(Duration::from_millis(2300));
    sub.acknowledge(&sent);
    sub.expect("lasts");
    sub.expect_nothing();
}

#[test]
fn a_qos_1_message_that_expired_in_flight_is_not_sent_again() {
    // A deviation from [MQTT-4.4.0-1]; the README gives the reason.
    let topic = unique("expiry");
    let connect = Connect::durable(V5, unique("s"));
    let mut sub = connect.open(Broker::plain());
    sub.granted(&topic, 1);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 1, "dies").with(Property::MessageExpiry(1)));
    c.publish(&Publish::new(&topic, 1, "lasts"));
    assert_eq!([sub.delivery().text(), sub.delivery().text()], ["dies", "lasts"]);
    sub.cut();
    std::thread::sleep(Duration::from_millis(1100));
    let mut sub = connect.open(Broker::plain());
    assert!(sub.expect("lasts").dup);
    sub.expect_nothing();
}

#[test]
fn a_delivery_that_began_goes_on_after_expiry() {
    let topic = unique("expiry");
    let connect = Connect::durable(V5, unique("s"));
    let mut sub = connect.open(Broker::plain());
    sub.granted(&topic, 2);
    let mut c = Client::connect(Broker::plain(), V5, &unique("p"));
    c.publish(&Publish::new(&topic, 2, "begun").with(Property::MessageExpiry(1)));
    let begun = sub.delivery();
    sub.send(&Ack::new(AckKind::PubRec, begun.id).encode());
    sub.ack(AckKind::PubRel, begun.id);
    sub.cut();
    std::thread::sleep(Duration::from_millis(2300));
    let mut sub = connect.open(Broker::plain());
    sub.ack(AckKind::PubRel, begun.id);
    sub.send(&Ack::new(AckKind::PubComp, begun.id).encode());
    sub.expect_nothing();
}

#[test]
fn a_payload_that_breaks_its_format_is_refused_and_the_connection_stays() {
    // Section 3.3.2.3.2: 0x99 in the acknowledgement. Cut off, a QoS 1 client would come back with
    // the same message for ever.
    let broker = Broker::start(&["sys.interval=1s"]);
    let topic = unique("format");
    let mut sub = Client::subscriber(&broker, V5, &unique("s"), &topic, 2);
    let mut c = Client::connect(&broker, V5, &unique("p"));
    let wrong = |qos| Publish::new(&topic, qos, b"\xff").with(Property::PayloadFormat(1)).retain();
    for qos in [1, 2] {
        assert_eq!(c.publish_code(&wrong(qos)), PAYLOAD_FORMAT_INVALID);
    }
    c.publish(&wrong(0));
    // It sets the topic alias all the same [MQTT-3.3.2-12].
    c.publish_code(&wrong(1).with(Property::TopicAlias(1)));
    let aliased = Publish::new("", 1, "x").with(Property::TopicAlias(1));
    c.publish(&aliased.with(Property::PayloadFormat(1)));
    sub.expect("x");
    sub.expect_nothing();
    Client::subscriber(&broker, V5, &unique("r"), &topic, 1).expect_nothing();
    let dropped = "$SYS/broker/publish/messages/dropped";
    let mut sys = Client::subscriber(&broker, V5, &unique("y"), dropped, 0);
    eventually("four dropped messages are counted", || sys.message().text() == "4");
}

#[test]
fn a_will_that_breaks_its_format_is_refused() {
    // Section 3.1.3.2.3.
    let will = Publish::new(unique("will"), 1, b"\xff").with(Property::PayloadFormat(1));
    let connect = Connect::new(V5, unique("c")).will(will);
    connect.refused(Broker::plain(), PAYLOAD_FORMAT_INVALID);
}
