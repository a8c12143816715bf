use super::*;
use crate::config::Sources;
use crate::packet::Qos;

fn plan(route: &str, more: &str) -> RecordPlan {
    let text =
        format!("bridges: [{{name: b, kafka: {{servers: ['h:1'], routes: [{route}]{more}}}}}]");
    let config = Sources::default().load_from("t.yaml", text.as_bytes()).unwrap();
    let kafka = config.bridges[0].kafka.as_ref().unwrap();
    let numbers = Numbers::new(kafka.routes.iter().map(|route| &*route.filter));
    RecordPlan::new(kafka, &numbers).unwrap()
}

/// Encoded properties with two user properties.
const PROPERTIES: &[u8] = &[0x26, 0, 1, b'u', 0, 2, b'v', b'w', 0x26, 0, 1, b'u', 0, 1, b'x'];

fn message(payload: &[u8]) -> LinkRecord<'_> {
    LinkRecord {
        topic: "dev/7/temp",
        properties: PROPERTIES,
        payload,
        client_id: "c1",
        accepted: 5,
        qos: Qos::AtLeastOnce,
        ..LinkRecord::default()
    }
}

#[test]
fn a_message_becomes_a_record() {
    let plan = plan("{filter: '#', topic: t, headers: {from: '${topic.2}'}}", "");
    let mut record = KafkaRecord::default();
    assert_eq!(plan.fill(&message(b"21"), &mut record), Ok(0));
    assert_eq!(record.value(&message(b"21")), b"21");
    assert_eq!((&*record.topic, &record.key[..], record.timestamp), ("t", &b"c1"[..], Some(5)));
    let headers: Vec<(&str, &[u8])> =
        record.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(headers, [("from", &b"7"[..]), ("u", b"vw"), ("u", b"x")]);
    assert!(record.cost(2) > OVERHEAD && plan.waits(0));
}

#[test]
fn a_value_can_be_an_object_and_a_topic_be_made_of_levels() {
    let route = "{filter: '#', topic: 'x.${topic}', key: '', value: json, user_properties: false, \
         timestamp: sent}";
    let plan = plan(route, "");
    let mut record = KafkaRecord::default();
    plan.fill(&message(b"{\"t\":1}"), &mut record).unwrap();
    assert_eq!(
        str::from_utf8(record.value(&message(b""))).unwrap(),
        "{\"topic\":\"dev/7/temp\",\"payload\":{\"t\":1},\"qos\":1,\"retain\":false,\
         \"timestamp\":5,\"client_id\":\"c1\",\"username\":null,\
         \"user_properties\":{\"u\":\"vw\"}}"
    );
    assert_eq!((&*record.topic, record.timestamp), ("x.dev.7.temp", None));
    assert!(record.key.is_empty() && record.headers.is_empty() && !plan.waits(0));
}

#[test]
fn what_can_be_no_record_is_said() {
    let mut record = KafkaRecord::default();
    let by_payload = plan("{filter: '#', topic: '${payload}'}", "");
    for payload in ["", ".", "..", "a b", "a\0", "ä", &"x".repeat(250)] {
        let filled = by_payload.fill(&message(payload.as_bytes()), &mut record);
        assert_eq!(filled, Err(NoKafkaRecord::Topic), "{payload:?}");
    }
    assert!(by_payload.fill(&message(b"a/b"), &mut record).is_ok());
    let whole = plan("{filter: '#', topic: 't.${payload.v}'}", ", on_missing: drop");
    assert_eq!(whole.fill(&message(b"{}"), &mut record), Err(NoKafkaRecord::Missing));
    assert!(whole.fill(&message(b"{\"v\":1}"), &mut record).is_ok());
    let waits = plan("{filter: '#', topic: '${topic}'}", ", on_refused: wait");
    let drops = plan("{filter: '#', topic: t}", ", on_refused: drop");
    assert!(waits.waits(0) && !drops.waits(0) && !drops.waits(1));
}
