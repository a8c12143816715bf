//! Kafka records made from messages. Pure.

use crate::bridge::figures::BridgeDropReason;
use crate::bridge::numbers::Numbers;
use crate::bridge::template::{MessageTemplate, Values};
use crate::config::{KafkaBridgeConfig, KafkaRefused, KafkaTimestamp, KafkaValue, OnMissing};
use crate::link_record::LinkRecord;
use crate::packet::PublishProperties;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// The most bytes of a Kafka topic's name.
const MAX_TOPIC: usize = 249;
/// An upper estimate of the client library's own bytes for a record.
const OVERHEAD: usize = 256;

/// The rules by which messages become records.
pub struct RecordPlan {
    routes: Vec<RecordRoute>,
    /// The index of the route for each number in messages; `None` when the route has been removed.
    by_number: Vec<Option<u16>>,
    missing: OnMissing,
}

/// One route of the configuration.
struct RecordRoute {
    topic: MessageTemplate,
    /// The template of the key; `None` when records have no key.
    key: Option<MessageTemplate>,
    json: bool,
    headers: Vec<(String, MessageTemplate)>,
    user_properties: bool,
    accepted: bool,
    waits: bool,
}

/// A record. It is filled in again for each message.
#[derive(Default, Debug)]
pub struct KafkaRecord {
    /// The topic.
    pub topic: String,
    /// The key; empty for none.
    pub key: Vec<u8>,
    /// The value, if it is a JSON object and not the payload.
    object: Vec<u8>,
    is_object: bool,
    /// Headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970; `None` for the time of sending.
    pub timestamp: Option<i64>,
}

/// Why a message becomes no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoKafkaRecord {
    /// The route for which it was taken has been removed.
    Route,
    /// It lacks a value.
    Missing,
    /// Its topic has a name that Kafka does not allow.
    Topic,
}

impl NoKafkaRecord {
    /// The reason under which the message is dropped.
    pub fn as_loss(self) -> BridgeDropReason {
        match self {
            NoKafkaRecord::Route | NoKafkaRecord::Missing => BridgeDropReason::Unwanted,
            NoKafkaRecord::Topic => BridgeDropReason::Rejected,
        }
    }
}

/// Whether Kafka allows topics with this name.
pub fn is_topic(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !matches!(name, "" | "." | "..") && name.len() <= MAX_TOPIC && name.bytes().all(plain)
}

impl RecordPlan {
    /// Compiles the configuration; `numbers` tells which filters messages name.
    ///
    /// # Errors
    /// What is wrong with a template. `config` has checked the templates already.
    pub fn new(kafka: &KafkaBridgeConfig, numbers: &Numbers) -> Result<RecordPlan, String> {
        let mut routes = Vec::new();
        for route in &kafka.routes {
            let mut headers = Vec::new();
            for (name, text) in route.headers.iter() {
                headers.push((name.to_string(), MessageTemplate::new(text)?));
            }
            let key = Some(&*route.key).filter(|key| !key.is_empty());
            routes.push(RecordRoute {
                topic: MessageTemplate::new(&route.topic)?,
                key: key.map(MessageTemplate::new).transpose()?,
                json: route.value == KafkaValue::Json,
                headers,
                user_properties: route.user_properties,
                accepted: route.timestamp == KafkaTimestamp::Accepted,
                waits: match kafka.on_refused {
                    KafkaRefused::Auto => !route.topic.contains("${"),
                    KafkaRefused::Wait => true,
                    KafkaRefused::Drop => false,
                },
            });
        }
        let by_number = numbers.places();
        Ok(RecordPlan { routes, by_number, missing: kafka.on_missing })
    }

    /// Whether a message for this route that was refused permanently is tried again.
    pub fn waits(&self, route: u16) -> bool {
        self.routes.get(usize::from(route)).is_some_and(|route| route.waits)
    }

    /// Fills in the record for a message. Returns the index of its route.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn fill(
        &self,
        message: &LinkRecord<'_>,
        record: &mut KafkaRecord,
    ) -> Result<u16, NoKafkaRecord> {
        let place = self.by_number.get(usize::from(message.filter)).copied().flatten();
        let place = place.ok_or(NoKafkaRecord::Route)?;
        let route = self.routes.get(usize::from(place)).ok_or(NoKafkaRecord::Route)?;
        let KafkaRecord { topic, key, object, is_object, headers, timestamp } = record;
        let values = Values::new(*message);
        let mut whole = true;
        let mut name = std::mem::take(topic).into_bytes();
        name.clear();
        whole &= route.topic.fill(&values, &mut name);
        name.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'.');
        key.clear();
        if let Some(template) = &route.key {
            // A message of the broker itself has no client, and its record may lack a key.
            template.fill(&values, key);
        }
        headers.clear();
        for (name, template) in &route.headers {
            let mut value = Vec::new();
            whole &= template.fill(&values, &mut value);
            headers.push((name.clone(), value));
        }
        let user_properties = route.user_properties || route.json;
        let properties = Some(message.properties).filter(|_| user_properties);
        let properties = properties.and_then(|raw| PublishProperties::parse(raw).ok());
        let properties = properties.unwrap_or_default();
        if route.user_properties {
            for (name, value) in properties.user.iter() {
                headers.push((name.to_owned(), value.as_bytes().to_vec()));
            }
        }
        if !whole && self.missing == OnMissing::Drop {
            return Err(NoKafkaRecord::Missing);
        }
        *topic = String::from_utf8(name).unwrap_or_default();
        if !is_topic(topic) {
            return Err(NoKafkaRecord::Topic);
        }
        *timestamp = Some(message.accepted as i64).filter(|_| route.accepted);
        *is_object = route.json;
        if route.json {
            object.clear();
            // Writing to a Vec does not fail.
            let _ = serde_json::to_writer(&mut *object, &object_of(message, &properties));
        }
        Ok(place)
    }
}

impl KafkaRecord {
    /// The record's value, for the message from which it was filled in.
    pub fn value<'a>(&'a self, message: &LinkRecord<'a>) -> &'a [u8] {
        if self.is_object { &self.object } else { message.payload }
    }

    /// Bytes that the record takes in the client library, with a value of `value` bytes.
    pub fn cost(&self, value: usize) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len() + 32);
        OVERHEAD + self.topic.len() + self.key.len() + value + headers.sum::<usize>()
    }
}

/// A message as JSON. A payload that is JSON is put in as such, any other payload as text.
fn object_of(message: &LinkRecord<'_>, properties: &PublishProperties<'_>) -> Value {
    let payload = serde_json::from_slice(message.payload).unwrap_or_else(|_| {
        let text: Cow<'_, str> = String::from_utf8_lossy(message.payload);
        Value::String(text.into_owned())
    });
    let name = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    let mut user = Map::new();
    for (name, value) in properties.user.iter() {
        user.entry(name).or_insert_with(|| value.into());
    }
    serde_json::json!({
        "topic": message.topic,
        "payload": payload,
        "qos": message.qos as u8,
        "retain": message.retain,
        "timestamp": message.accepted,
        "client_id": name(message.client_id),
        "username": name(message.username),
        "user_properties": user,
    })
}

#[cfg(all(test, feature = "kafka"))]
#[path = "record_tests.rs"]
mod tests;
