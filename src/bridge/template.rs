//! Templates: texts with placeholders that values of a message replace, for topics, keys, headers
//! and bodies of what a bridge sends. The notation is that of `access` ([`Template`]). The
//! placeholders are:
//!
//! - `${client_id}`, `${username}`, `${cert_cn}`: the publisher's ClientId, user name, and common
//!   name in its certificate;
//! - `${topic}`, `${topic.2}`: the topic name; its second level, counted from 1;
//! - `${payload}`, `${payload.a.b}`: the payload; the value in its JSON at `a`, then `b` (a number
//!   counts an array's elements from 0);
//! - `${qos}`, `${retain}`, `${timestamp}`: 0 to 2; true or false; when the message was accepted,
//!   in milliseconds since 1970;
//! - `${user_property.x}`: the value of the first user property with that name.
//!
//! Templates are compiled at the start; an unknown placeholder is an error in the configuration. A
//! missing value is replaced by nothing, and the caller is told. Filling in takes time in
//! proportion to the template, and to the payload if its JSON is read.

use crate::access::template::Template;
use crate::link_record::LinkRecord;
use crate::packet::PublishProperties;
use serde_json::Value;
use std::cell::OnceCell;

/// The most bytes of a template.
pub const MAX_TEMPLATE: usize = 4096;

/// The value that a placeholder stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum PlaceholderValue {
    ClientId,
    Username,
    Certificate,
    Topic,
    Level(usize),
    Payload,
    Field(Vec<Box<str>>),
    Qos,
    Retain,
    Timestamp,
    UserProperty(Box<str>),
}

impl PlaceholderValue {
    fn read(name: &str) -> Option<PlaceholderValue> {
        Some(match name {
            "client_id" => PlaceholderValue::ClientId,
            "username" => PlaceholderValue::Username,
            "cert_cn" => PlaceholderValue::Certificate,
            "topic" => PlaceholderValue::Topic,
            "payload" => PlaceholderValue::Payload,
            "qos" => PlaceholderValue::Qos,
            "retain" => PlaceholderValue::Retain,
            "timestamp" => PlaceholderValue::Timestamp,
            _ => match name.split_once('.')? {
                ("topic", level) => {
                    PlaceholderValue::Level(level.parse().ok().filter(|&level| level > 0)?)
                }
                ("payload", path) => {
                    let steps: Vec<Box<str>> = path.split('.').map(Box::from).collect();
                    PlaceholderValue::Field(steps).filter_empty()?
                }
                ("user_property", name) if !name.is_empty() => {
                    PlaceholderValue::UserProperty(name.into())
                }
                _ => return None,
            },
        })
    }

    fn read_of_record(name: &str) -> Option<PlaceholderValue> {
        if name == "key" {
            return Some(PlaceholderValue::ClientId);
        }
        match name.split_once('.') {
            Some(("header", name)) if !name.is_empty() => {
                Some(PlaceholderValue::UserProperty(name.into()))
            }
            Some(("user_property", _)) => None,
            _ => PlaceholderValue::read(name).filter(|source| {
                !source.is_name()
                    && !matches!(source, PlaceholderValue::Qos | PlaceholderValue::Retain)
            }),
        }
    }

    fn filter_empty(self) -> Option<PlaceholderValue> {
        match &self {
            PlaceholderValue::Field(steps) if steps.iter().any(|step| step.is_empty()) => None,
            _ => Some(self),
        }
    }

    /// Whether the value tells who published the message.
    fn is_name(&self) -> bool {
        matches!(
            self,
            PlaceholderValue::ClientId | PlaceholderValue::Username | PlaceholderValue::Certificate
        )
    }
}

/// A compiled template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageTemplate {
    /// Each text, and the placeholder that follows it.
    parts: Vec<(Box<str>, Option<PlaceholderValue>)>,
}

/// The values of a message. The JSON of its payload is parsed at most once, when it is needed.
pub struct Values<'a> {
    record: LinkRecord<'a>,
    json: OnceCell<Option<Value>>,
}

impl<'a> Values<'a> {
    /// The values of `record`.
    pub fn new(record: LinkRecord<'a>) -> Values<'a> {
        Values { record, json: OnceCell::new() }
    }

    /// The message.
    pub fn record(&self) -> &LinkRecord<'a> {
        &self.record
    }

    fn field(&self, path: &[Box<str>]) -> Option<&Value> {
        let json = self.json.get_or_init(|| serde_json::from_slice(self.record.payload).ok());
        path.iter().try_fold(json.as_ref()?, |value, step| match value {
            Value::Object(fields) => fields.get(&**step),
            Value::Array(elements) => elements.get(step.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// Calls `take` with the value as bytes. Returns false when the message has no such value.
    fn with(&self, source: &PlaceholderValue, take: &mut dyn FnMut(&[u8])) -> bool {
        let record = &self.record;
        let mut named = |name: &str| {
            take(name.as_bytes());
            !name.is_empty()
        };
        match source {
            PlaceholderValue::ClientId => named(record.client_id),
            PlaceholderValue::Username => named(record.username),
            PlaceholderValue::Certificate => named(record.certificate),
            PlaceholderValue::Topic => named(record.topic),
            PlaceholderValue::Level(level) => {
                let level = record.topic.split('/').nth(level - 1);
                level.inspect(|level| take(level.as_bytes())).is_some()
            }
            PlaceholderValue::Payload => {
                take(record.payload);
                true
            }
            PlaceholderValue::Field(path) => match self.field(path) {
                None | Some(Value::Null) => false,
                Some(Value::String(text)) => {
                    take(text.as_bytes());
                    true
                }
                Some(other) => {
                    take(other.to_string().as_bytes());
                    true
                }
            },
            PlaceholderValue::Qos => named(&(record.qos as u8).to_string()),
            PlaceholderValue::Retain => named(if record.retain { "true" } else { "false" }),
            PlaceholderValue::Timestamp => named(&record.accepted.to_string()),
            PlaceholderValue::UserProperty(name) => {
                let properties = PublishProperties::parse(record.properties).unwrap_or_default();
                let mut found = properties.user.iter().filter(|(known, _)| *known == &**name);
                let value = found.next().map(|(_, value)| value);
                value.inspect(|value| take(value.as_bytes())).is_some()
            }
        }
    }
}

impl MessageTemplate {
    /// Compiles a template for messages.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub fn new(text: &str) -> Result<MessageTemplate, String> {
        MessageTemplate::compile(text, PlaceholderValue::read)
    }

    /// Compiles a template for Kafka records: `${key}`, `${header.x}`, `${topic}`, `${payload}` and
    /// its fields, `${timestamp}`. It is filled in from a `LinkRecord` whose ClientId is the
    /// record's key and whose user properties are the record's headers.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub fn of_record(text: &str) -> Result<MessageTemplate, String> {
        MessageTemplate::compile(text, PlaceholderValue::read_of_record)
    }

    fn compile(
        text: &str,
        read: impl Fn(&str) -> Option<PlaceholderValue>,
    ) -> Result<MessageTemplate, String> {
        if text.len() > MAX_TEMPLATE {
            return Err(format!("a template has at most {MAX_TEMPLATE} bytes"));
        }
        let mut parts = Vec::new();
        for (before, name) in Template::new(text).parts() {
            if before.contains("${") {
                return Err("a placeholder is not closed with }".to_owned());
            }
            let source = match name {
                None => None,
                Some(name) => {
                    Some(read(name).ok_or_else(|| format!("there is no placeholder ${{{name}}}"))?)
                }
            };
            parts.push((before.into(), source));
        }
        Ok(MessageTemplate { parts })
    }

    /// Whether a placeholder asks who published a message.
    pub fn asks_for_names(&self) -> bool {
        self.parts.iter().flat_map(|(_, source)| source).any(PlaceholderValue::is_name)
    }

    /// Appends the text for a message. Returns false when a value was missing.
    pub fn fill(&self, values: &Values<'_>, out: &mut Vec<u8>) -> bool {
        self.fill_with(values, out, |value, out| out.extend_from_slice(value))
    }

    /// Like [`MessageTemplate::fill`], for a URL: the values are percent-encoded.
    pub fn fill_url(&self, values: &Values<'_>, out: &mut Vec<u8>) -> bool {
        self.fill_with(values, out, |value, out| {
            for &byte in value {
                match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        out.push(byte);
                    }
                    _ => {
                        out.extend_from_slice(format!("%{byte:02X}").as_bytes());
                    }
                }
            }
        })
    }

    fn fill_with(
        &self,
        values: &Values<'_>,
        out: &mut Vec<u8>,
        append: impl Fn(&[u8], &mut Vec<u8>),
    ) -> bool {
        let mut whole = true;
        for (before, source) in &self.parts {
            out.extend_from_slice(before.as_bytes());
            if let Some(source) = source {
                whole &= values.with(source, &mut |value| append(value, out));
            }
        }
        whole
    }

    /// The value for a JSON document. For a template that is a single placeholder, this is the
    /// message's value: a number as a number, JSON as JSON. For any other template it is the text.
    /// `None` when a value was missing.
    pub fn json(&self, values: &Values<'_>) -> Option<Value> {
        if let [(before, Some(source)), (after, None)] = &self.parts[..]
            && before.is_empty()
            && after.is_empty()
        {
            match source {
                PlaceholderValue::Field(path) => return values.field(path).cloned(),
                PlaceholderValue::Qos => return Some((values.record.qos as u8).into()),
                PlaceholderValue::Retain => return Some(values.record.retain.into()),
                PlaceholderValue::Timestamp => return Some(values.record.accepted.into()),
                PlaceholderValue::Payload => {
                    let payload = values.record.payload;
                    if let Ok(value) = serde_json::from_slice(payload) {
                        return Some(value);
                    }
                }
                _ => {}
            }
        }
        let mut text = Vec::new();
        let whole = self.fill(values, &mut text);
        whole.then(|| Value::String(String::from_utf8_lossy(&text).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{self, Qos};
    use proptest::prelude::*;
    use serde_json::json;

    fn record<'a>(payload: &'a [u8], properties: &'a [u8]) -> LinkRecord<'a> {
        LinkRecord {
            topic: "plant/7/temp",
            properties,
            payload,
            client_id: "meter 7",
            certificate: "cn",
            accepted: 1234,
            qos: Qos::AtLeastOnce,
            ..LinkRecord::default()
        }
    }

    fn filled(template: &str, payload: &str) -> (String, bool) {
        let mut properties = Vec::new();
        packet::append_user_property(&mut properties, "unit", "°C").unwrap();
        let values = Values::new(record(payload.as_bytes(), &properties));
        let mut out = Vec::new();
        let whole = MessageTemplate::new(template).unwrap().fill(&values, &mut out);
        (String::from_utf8(out).unwrap(), whole)
    }

    #[test]
    fn values_are_filled_in() {
        let payload = r#"{"t": 21.5, "a": [1, {"b": "x"}], "n": null}"#;
        for (template, expected, whole) in [
            ("${client_id}@${topic.2}", "meter 7@7", true),
            ("${topic.1}${topic.3}", "planttemp", true),
            ("${topic.4}", "", false),
            ("${payload.t} ${payload.a.1.b}", "21.5 x", true),
            ("${payload.a}", r#"[1,{"b":"x"}]"#, true),
            ("<${payload.n}>", "<>", false),
            ("<${payload.zz.y}>", "<>", false),
            ("${qos} ${retain} ${timestamp}", "1 false 1234", true),
            ("${user_property.unit}${user_property.none}", "°C", false),
            ("${username}", "", false),
            ("${cert_cn}", "cn", true),
            ("plain } $ {", "plain } $ {", true),
        ] {
            assert_eq!(filled(template, payload), (expected.to_owned(), whole), "{template}");
        }
        assert_eq!(filled("${payload.t}", "no json"), (String::new(), false));
        assert_eq!(filled("${payload}", "no json"), ("no json".to_owned(), true));
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in [
            "${",
            "a${topic",
            "${nothing}",
            "${topic.0}",
            "${payload.}",
            "${user_property.}",
            "${}",
        ] {
            assert!(MessageTemplate::new(text).is_err(), "{text}");
        }
        assert!(MessageTemplate::new("${username}").unwrap().asks_for_names());
        assert!(!MessageTemplate::new("${topic}").unwrap().asks_for_names());
    }

    #[test]
    fn urls_are_escaped_and_json_keeps_its_types() {
        let values = Values::new(record(br#"{"t": 21.5}"#, &[]));
        let mut out = Vec::new();
        MessageTemplate::new("http://h/${client_id}?t=${topic}")
            .unwrap()
            .fill_url(&values, &mut out);
        assert_eq!(out, b"http://h/meter%207?t=plant%2F7%2Ftemp");
        for (template, expected) in [
            ("${payload.t}", Some(json!(21.5))),
            ("${payload}", Some(json!({"t": 21.5}))),
            ("${qos}", Some(json!(1))),
            ("t ${payload.t}", Some(json!("t 21.5"))),
            ("${payload.no}", None),
        ] {
            assert_eq!(
                MessageTemplate::new(template).unwrap().json(&values),
                expected,
                "{template}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_template_or_is_refused(text in ".{0,60}", payload in ".{0,60}") {
            if let Ok(template) = MessageTemplate::new(&text) {
                let values = Values::new(record(payload.as_bytes(), &[]));
                let mut out = Vec::new();
                template.fill(&values, &mut out);
                let placeholders = template.parts.len() > 1;
                prop_assert!(placeholders || !text.contains("${"), "{:?}", text);
                let _ = template.json(&values);
            }
        }
    }
}
