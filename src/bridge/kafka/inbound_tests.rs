use super::*;
use crate::config::Sources;
use crate::packet::PublishProperties;

fn plan(topics: &str) -> InboundPlan {
    let text = format!(
        "bridges: [{{name: b, kafka: {{servers: ['h:1'], group: g, topics: [{topics}]}}}}]"
    );
    let config = Sources::default().load_from("t.yaml", text.as_bytes()).unwrap();
    InboundPlan::new(config.bridges[0].kafka.as_ref().unwrap(), 100).unwrap()
}

fn record<'a>(key: &'a [u8], value: &'a [u8]) -> Brought<'a> {
    Brought { topic: "k", key, value, timestamp: 7 }
}

#[test]
fn a_record_becomes_a_message() {
    let plan = plan("{topic: k, to: 'x/${key}/${header.a}/${payload.n}', qos: 2, retain: true}");
    let headers = [("a", &b"1"[..]), ("binary", &[0xff]), ("b", b"2")];
    let made = plan.message(&record(b"me", b"{\"n\":3}"), headers.into_iter(), 9).unwrap();
    assert_eq!((&*made.topic, made.qos, made.retain), ("x/me/1/3", Qos::ExactlyOnce, true));
    assert_eq!((&made.payload[..], made.ticket), (&b"{\"n\":3}"[..], 9));
    let properties = PublishProperties::parse(&made.properties).unwrap();
    assert!(properties.user.iter().eq([("a", "1"), ("b", "2")]));
}

#[test]
fn a_record_without_a_topic_here_becomes_none() {
    let plan = plan("{topic: k, to: 'x/${key}', headers: false}");
    let none: [(&str, &[u8]); 0] = [];
    for key in [&b""[..], b"a+b", b"#", b"\0", b"\xff"] {
        let made = plan.message(&record(key, b"v"), none.into_iter(), 1);
        assert_eq!(made, Err(NoMessage::Topic), "{key:?}");
    }
    let other = Brought { topic: "other", ..record(b"a", b"v") };
    assert_eq!(plan.message(&other, none.into_iter(), 1), Err(NoMessage::Topic));
    let large = plan.message(&record(b"a", &[b'x'; 101]), none.into_iter(), 1);
    assert_eq!(large, Err(NoMessage::TooLarge));
    let made = plan.message(&record(b"a", b"v"), [("n", &b"v"[..])].into_iter(), 1).unwrap();
    assert!(made.properties.is_empty());
}

#[test]
fn placeholders_of_messages_are_none_of_records() {
    for text in ["${client_id}", "${username}", "${qos}", "${header.}", "${user_property.x}"] {
        assert!(MessageTemplate::of_record(text).is_err(), "{text}");
    }
    assert!(MessageTemplate::new("${key}").is_err());
}
