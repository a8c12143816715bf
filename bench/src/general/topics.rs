//! `--topics-payload`: emqtt-bench's JSON file with several topics per publisher, each with its own
//! interval and payload.

use super::options::TOPIC;
use super::payload::Body;
use super::plan::Publication;
use crate::pattern::Pattern;
use serde_json::{Map, Value};

/// Fields that a topic of the file may have.
const FIELDS: [&str; 10] = [
    "name",
    "retain",
    "interval_ms",
    "inject_timestamp",
    "QoS",
    "payload_encoding",
    "payload",
    "stream",
    "stream_priority",
    "render",
];
/// `%pN` stands for N times this many letters.
const PAGE: usize = 4096;
/// Bytes of the longest rendered field.
const LONGEST: usize = 16 << 20;

/// Reads the file's text.
pub fn read(text: &str) -> Result<Vec<Publication>, String> {
    let file: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let topics = file["topics"].as_array().filter(|topics| !topics.is_empty());
    let topics = topics.ok_or("there is no list `topics` in it")?;
    let one = |(index, topic): (usize, &Value)| {
        let fields = topic.as_object().ok_or_else(|| format!("topics[{index}] is no object"))?;
        publication(fields).map_err(|(field, why)| format!("topics[{index}].{field}: {why}"))
    };
    topics.iter().enumerate().map(one).collect()
}

type WrongTopic = (String, String);

fn wrong(field: &str, why: &str) -> WrongTopic {
    (field.to_string(), why.to_string())
}

fn publication(fields: &Map<String, Value>) -> Result<Publication, WrongTopic> {
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        return Err(wrong(unknown, &format!("this is none of {}", FIELDS.join(", "))));
    }
    let field = |name: &str| fields.get(name).unwrap_or(&Value::Null);
    let name = field("name").as_str().ok_or_else(|| wrong("name", "a topic is needed"))?;
    let topic = Pattern::parse(name, &TOPIC).map_err(|why| wrong("name", &why))?;
    let interval = match field("interval_ms") {
        Value::String(text) => text.parse().ok(),
        number => number.as_u64(),
    };
    let interval: u64 = interval.ok_or_else(|| wrong("interval_ms", "milliseconds are needed"))?;
    let interval = interval.checked_mul(1_000_000).filter(|nanos| *nanos < 1 << 54);
    let interval =
        interval.ok_or_else(|| wrong("interval_ms", "this is longer than half a year"))?;
    let qos = field("QoS").as_u64().filter(|qos| *qos <= 2);
    let qos = qos.ok_or_else(|| wrong("QoS", "0, 1 or 2 is needed"))? as u8;
    let retain = match field("retain") {
        Value::Null => false,
        value => value.as_bool().ok_or_else(|| wrong("retain", "true or false is needed"))?,
    };
    match field("payload_encoding").as_str() {
        Some("json") | None => {}
        Some(_) => return Err(wrong("payload_encoding", "only json is spoken here")),
    }
    if !matches!(field("stream"), Value::Null) && field("stream").as_u64() != Some(0) {
        return Err(wrong("stream", "streams are QUIC's; it must be 0"));
    }
    let body = body(field("payload"), field("inject_timestamp"), field("render"))?;
    Ok(Publication { topic, qos, retain, interval, body })
}

fn body(payload: &Value, timestamp: &Value, render: &Value) -> Result<Body, WrongTopic> {
    let mut value = payload.clone();
    if !value.is_object() {
        return Err(wrong("payload", "an object is needed"));
    }
    if let Some(field) = render.as_str() {
        let text = value[field]
            .as_str()
            .ok_or_else(|| wrong("render", &format!("the payload has no text {field}")))?;
        value[field] = rendered(text)?.into();
    }
    let unit = match timestamp {
        Value::Null | Value::Bool(false) => None,
        Value::Bool(true) => Some(1_000_000),
        Value::String(unit) => match unit.as_str() {
            "s" => Some(1_000_000_000),
            "ms" => Some(1_000_000),
            "us" => Some(1000),
            "ns" => Some(1),
            _ => return Err(wrong("inject_timestamp", "the units are s, ms, us and ns")),
        },
        _ => return Err(wrong("inject_timestamp", "true, false or a unit is needed")),
    };
    match unit {
        Some(unit) => Ok(Body::Json { value, unit }),
        None => Ok(Body::Fixed(value.to_string().into_bytes())),
    }
}

/// Replaces `%pN` by N times 4 KiB. emqtt-bench's variables for a client's number and ClientId are
/// not supported, as each client would need a payload of its own.
fn rendered(text: &str) -> Result<String, WrongTopic> {
    let Some(at) = text.find('%') else { return Ok(text.to_string()) };
    let pages = text[at..].strip_prefix("%p").and_then(|number| number.parse::<usize>().ok());
    let pages = pages.ok_or_else(|| wrong("render", "of variables there is %pN, at the end"))?;
    let bytes = pages.saturating_mul(PAGE);
    if bytes > LONGEST {
        return Err(wrong("render", "%pN has at most 4096 pages"));
    }
    Ok(text[..at].to_string() + &"x".repeat(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_have_their_own_intervals_and_payloads() {
        let text = r#"{"topics": [
            {"name": "Topic1/%i", "retain": true, "interval_ms": "100", "inject_timestamp": true,
             "QoS": 1, "payload_encoding": "json", "stream": 0, "stream_priority": 8,
             "payload": {"foo": "bar", "timestamp": "0", "Data": "%p2"}, "render": "Data"},
            {"name": "b", "interval_ms": 5, "inject_timestamp": false, "QoS": 0,
             "payload": {"x": 1}}]}"#;
        let topics = read(text).unwrap();
        assert_eq!(topics.len(), 2);
        assert_eq!((topics[0].interval, topics[0].qos, topics[0].retain), (100_000_000, 1, true));
        let Body::Json { value, unit } = &topics[0].body else { panic!("with a time") };
        assert_eq!((value["Data"].as_str().unwrap().len(), *unit), (8192, 1_000_000));
        let Body::Fixed(bytes) = &topics[1].body else { panic!("always the same") };
        assert_eq!((&bytes[..], topics[1].interval), (&br#"{"x":1}"#[..], 5_000_000));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let topic = |more: &str| {
            format!(r#"{{"topics": [{{"name": "a", "interval_ms": 1, "QoS": 0, {more}}}]}}"#)
        };
        for (text, place) in [
            ("{}".to_string(), "topics"),
            ("[".to_string(), "line 1"),
            (topic(r#""payload": 1"#), "topics[0].payload:"),
            (topic(r#""payload": {}, "retian": true"#), "topics[0].retian:"),
            (topic(r#""payload": {}, "payload_encoding": "eterm""#), "payload_encoding: only json"),
            (topic(r#""payload": {}, "stream": 1"#), "topics[0].stream:"),
            (topic(r#""payload": {"a": "%p9999999"}, "render": "a""#), "topics[0].render:"),
            (topic(r#""payload": {"a": "%c"}, "render": "a""#), "topics[0].render:"),
            (topic(r#""payload": {}, "inject_timestamp": "min""#), "inject_timestamp:"),
        ] {
            let error = read(&text).err().unwrap_or_default();
            assert!(error.contains(place), "{text}: {error}");
        }
    }
}
