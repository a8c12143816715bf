//! Requests made from messages, and the meaning of the service's answers. Pure.

use crate::bridge::template::{MessageTemplate, Values};
use crate::config::{Get, HttpBridgeConfig, OnMissing, WebhookFormat, WebhookMethod};
use crate::link_record::LinkRecord;
use aws_lc_rs::{digest, hmac};
use serde_json::{Map, Value};
use std::hash::BuildHasher;
use std::time::Duration;

/// The fields of a JSON body when the configuration gives none.
const USUAL: [(&str, &str); 7] = [
    ("topic", "${topic}"),
    ("payload", "${payload}"),
    ("qos", "${qos}"),
    ("retain", "${retain}"),
    ("timestamp", "${timestamp}"),
    ("client_id", "${client_id}"),
    ("username", "${username}"),
];

/// Bytes of the digest that an Idempotency-Key consists of.
const KEY: usize = 16;

/// The parts of requests, compiled from the configuration.
pub struct RequestPlan {
    method: &'static str,
    url: MessageTemplate,
    headers: Vec<(String, MessageTemplate)>,
    /// The fields of a JSON body; `None` when the payload itself is the body.
    body: Option<Vec<(String, MessageTemplate)>>,
    many: bool,
    missing: OnMissing,
    key: Option<hmac::Key>,
    lanes: usize,
    seed: foldhash::fast::FixedState,
}

/// A message in the form in which it is sent.
#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    /// The message's number in the buffer.
    pub number: u64,
    /// The address of the request.
    pub url: String,
    /// The headers of the request.
    pub headers: Vec<(String, String)>,
    /// The body, or its element of the body.
    body: Vec<u8>,
}

impl Item {
    /// Whether both messages may be in the same request.
    pub fn goes_with(&self, other: &Item) -> bool {
        self.url == other.url && self.headers == other.headers
    }

    /// Bytes of the body.
    pub fn size(&self) -> usize {
        self.body.len()
    }
}

/// A request.
#[derive(Clone, PartialEq, Debug)]
pub struct WebhookRequest {
    /// The HTTP method.
    pub method: &'static str,
    /// The address.
    pub url: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What the bridge does after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WebhookVerdict {
    /// The messages are delivered.
    Done,
    /// The request is sent again, after at least this pause.
    Again(Duration),
    /// The messages are dropped, as the service does not accept them.
    Drop,
}

/// The verdict on a status; `retry_after` is the value of the header Retry-After in seconds.
pub fn judge(status: u16, retry_after: Option<u64>) -> WebhookVerdict {
    match status {
        200..300 => WebhookVerdict::Done,
        408 | 429 | 500.. => {
            WebhookVerdict::Again(Duration::from_secs(retry_after.unwrap_or(0).min(3600)))
        }
        _ => WebhookVerdict::Drop,
    }
}

impl RequestPlan {
    /// Compiles the configuration.
    ///
    /// # Errors
    /// What is wrong with a template. `config` has checked the templates already.
    pub fn new(http: &HttpBridgeConfig) -> Result<RequestPlan, String> {
        let table = |name: &str, text: &str| -> Result<(String, MessageTemplate), String> {
            Ok((name.to_owned(), MessageTemplate::new(text)?))
        };
        let headers: Result<Vec<_>, String> =
            http.headers.iter().map(|(name, text)| table(name, text)).collect();
        let fields: Result<Vec<_>, String> = if http.body.is_empty() {
            USUAL.iter().map(|(name, text)| table(name, text)).collect()
        } else {
            http.body.iter().map(|(name, text)| table(name, text)).collect()
        };
        let signed = !http.secret.is_empty();
        Ok(RequestPlan {
            method: if http.method == WebhookMethod::Put { "PUT" } else { "POST" },
            url: MessageTemplate::new(&http.url)?,
            headers: headers?,
            body: Some(fields?).filter(|_| http.format == WebhookFormat::Json),
            many: http.batch.get() > 1,
            missing: http.on_missing,
            key: signed.then(|| hmac::Key::new(hmac::HMAC_SHA256, http.secret.as_bytes())),
            lanes: http.lanes.get() as usize,
            seed: foldhash::fast::FixedState::default(),
        })
    }

    /// The lane of a message: all messages of one client share a lane; without a ClientId, all of
    /// one topic.
    pub fn lane(&self, record: &LinkRecord<'_>) -> usize {
        let name = if record.client_id.is_empty() { record.topic } else { record.client_id };
        (self.seed.hash_one(name) % self.lanes as u64) as usize
    }

    /// The item for a message; `None` when the message lacks a value and is dropped because of
    /// that.
    pub fn item(&self, number: u64, record: LinkRecord<'_>) -> Option<Item> {
        let values = Values::new(record);
        let (mut url, mut whole) = (Vec::new(), true);
        whole &= self.url.fill_url(&values, &mut url);
        let headers = self.headers.iter().map(|(name, template)| {
            let mut value = Vec::new();
            whole &= template.fill(&values, &mut value);
            // A header value has no control characters.
            let value: Vec<u8> =
                value.into_iter().map(|byte| if byte < b' ' { b' ' } else { byte }).collect();
            (name.clone(), String::from_utf8_lossy(&value).into_owned())
        });
        let headers = headers.collect();
        let body = match &self.body {
            None => values.record().payload.to_vec(),
            Some(fields) => {
                let mut object = Map::new();
                for (name, template) in fields {
                    let value = template.json(&values);
                    whole &= value.is_some() || self.usual(name);
                    object.insert(name.clone(), value.unwrap_or(Value::Null));
                }
                Value::Object(object).to_string().into_bytes()
            }
        };
        if !whole && self.missing == OnMissing::Drop {
            return None;
        }
        let url = String::from_utf8_lossy(&url).into_owned();
        Some(Item { number, url, headers, body })
    }

    /// Whether a missing value is usual in this field: a client need not have a user name, and a
    /// message of the broker itself has no client.
    fn usual(&self, name: &str) -> bool {
        matches!(name, "username" | "client_id")
    }

    /// The request for messages that go together. `buffer` is the identity of the buffer that
    /// their numbers come from.
    pub fn request(&self, items: &[Item], buffer: u128) -> Option<WebhookRequest> {
        let first = items.first()?;
        let mut body = Vec::new();
        if self.many {
            body.push(b'[');
        }
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&item.body);
        }
        if self.many {
            body.push(b']');
        }
        let mut headers = first.headers.clone();
        let has = |name: &str| first.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        if !has("content-type") {
            let kind =
                if self.body.is_some() { "application/json" } else { "application/octet-stream" };
            headers.push(("content-type".to_owned(), kind.to_owned()));
        }
        if !has("idempotency-key") {
            headers.push(("idempotency-key".to_owned(), self.key_of(items, buffer, &body)));
        }
        if let Some(key) = &self.key {
            let tag = hmac::sign(key, &body);
            let tag = format!("sha256={}", digits(tag.as_ref()));
            headers.push(("x-ringmq-signature".to_owned(), tag));
        }
        Some(WebhookRequest { method: self.method, url: first.url.clone(), headers, body })
    }

    /// The value of Idempotency-Key: the same for each try of a request, also after a change of
    /// the configuration that leaves the request as it is, and another one for any other request.
    /// So it is a digest of all that makes a request: which messages it carries, each named by its
    /// number and its buffer, and what is asked with them. The first and the last number would not
    /// do, as the messages between them are those of one lane only. Headers do not count: a token
    /// in them may be renewed between two tries.
    fn key_of(&self, items: &[Item], buffer: u128, body: &[u8]) -> String {
        let mut sum = digest::Context::new(&digest::SHA256);
        sum.update(&buffer.to_le_bytes());
        sum.update(&(items.len() as u64).to_le_bytes());
        items.iter().for_each(|item| sum.update(&item.number.to_le_bytes()));
        let url = items.first().map_or("", |item| &*item.url);
        for part in [self.method.as_bytes(), url.as_bytes()] {
            sum.update(&(part.len() as u64).to_le_bytes());
            sum.update(part);
        }
        sum.update(body);
        digits(sum.finish().as_ref().get(..KEY).unwrap_or_default())
    }
}

/// Bytes in hexadecimal digits.
fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::packet::Qos;

    fn plan(more: &str) -> RequestPlan {
        let text = format!(
            "bridges: [{{name: b, http: {{url: 'http://h/${{topic.1}}', filters: '#'{more}}}}}]"
        );
        let config = Sources::default().load_from("t.yaml", text.as_bytes()).unwrap();
        RequestPlan::new(config.bridges[0].http.as_ref().unwrap()).unwrap()
    }

    fn record(payload: &[u8]) -> LinkRecord<'_> {
        LinkRecord {
            topic: "a b/c",
            payload,
            client_id: "c1",
            accepted: 5,
            qos: Qos::AtLeastOnce,
            ..LinkRecord::default()
        }
    }

    #[test]
    fn a_message_becomes_an_object_and_several_an_array() {
        let plan = plan(", batch: 2, headers: {x-a: '${client_id}'}");
        let items = [plan.item(7, record(b"{\"t\":1}")), plan.item(8, record(b"x"))];
        let items: Vec<Item> = items.into_iter().flatten().collect();
        assert!(items[0].goes_with(&items[1]));
        let request = plan.request(&items, 1).unwrap();
        assert_eq!((request.method, request.url.as_str()), ("POST", "http://h/a%20b"));
        let body = str::from_utf8(&request.body).unwrap();
        assert_eq!(
            body,
            "[{\"topic\":\"a b/c\",\"payload\":{\"t\":1},\"qos\":1,\"retain\":false,\
             \"timestamp\":5,\"client_id\":\"c1\",\"username\":null},\
             {\"topic\":\"a b/c\",\"payload\":\"x\",\"qos\":1,\"retain\":false,\
             \"timestamp\":5,\"client_id\":\"c1\",\"username\":null}]"
        );
        let header = |name: &str| request.headers.iter().find(|h| h.0 == name).unwrap().1.as_str();
        assert_eq!(header("x-a"), "c1");
        assert_eq!(header("idempotency-key").len(), 2 * KEY);
        assert_eq!(header("content-type"), "application/json");
    }

    #[test]
    fn a_key_is_the_same_for_each_try_and_another_one_for_any_other_request() {
        let plan = plan(", batch: 9");
        let numbered = |numbers: &[u64]| -> Vec<Item> {
            numbers.iter().filter_map(|&number| plan.item(number, record(b"x"))).collect()
        };
        let key = |plan: &RequestPlan, items: &[Item], buffer: u128| {
            let request = plan.request(items, buffer).unwrap();
            request.headers.into_iter().find(|(name, _)| name == "idempotency-key").unwrap().1
        };
        let first = key(&plan, &numbered(&[7, 8, 9]), 1);
        assert_eq!(first, key(&plan, &numbered(&[7, 8, 9]), 1));
        // A renewed token in a header makes no other request.
        let renewed = self::plan(", batch: 9, headers: {authorization: new}");
        let items: Vec<Item> =
            [7, 8, 9].iter().filter_map(|&number| renewed.item(number, record(b"x"))).collect();
        assert_eq!(first, key(&renewed, &items, 1));
        let mut other = numbered(&[7, 8, 9]);
        other.iter_mut().for_each(|item| item.url.push('?'));
        let put = self::plan(", batch: 9, method: put");
        let changed = self::plan(", batch: 9, body: {v: x}");
        let items: Vec<Item> =
            [7, 8, 9].iter().filter_map(|&number| changed.item(number, record(b"x"))).collect();
        let keys = [
            first,
            key(&plan, &numbered(&[7, 8, 9]), 2),
            key(&plan, &numbered(&[7, 9]), 1),
            key(&plan, &numbered(&[7, 8]), 1),
            key(&plan, &numbered(&[7, 10, 9]), 1),
            key(&plan, &other, 1),
            key(&put, &numbered(&[7, 8, 9]), 1),
            key(&changed, &items, 1),
        ];
        let different: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len(), "{keys:?}");
    }

    #[test]
    fn a_body_is_signed() {
        let plan = plan(", format: payload, secret: Jefe");
        let item = plan.item(1, record(b"what do ya want for nothing?")).unwrap();
        let request = plan.request(&[item], 1).unwrap();
        // RFC 4231, test case 2.
        let expected =
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843".to_owned();
        assert!(request.headers.contains(&("x-ringmq-signature".to_owned(), expected)));
    }

    #[test]
    fn a_message_that_lacks_a_value_is_dropped_if_that_is_the_policy() {
        let drops = plan(", on_missing: drop, body: {v: '${payload.v}'}");
        assert!(drops.item(1, record(b"{}")).is_none());
        assert!(drops.item(1, record(b"{\"v\":1}")).is_some());
        let empty = plan(", body: {v: '${payload.v}'}");
        assert_eq!(empty.item(1, record(b"{}")).unwrap().body, b"{\"v\":null}");
    }

    #[test]
    fn answers_are_judged() {
        for (status, after, expected) in [
            (200, None, WebhookVerdict::Done),
            (204, None, WebhookVerdict::Done),
            (301, None, WebhookVerdict::Drop),
            (400, None, WebhookVerdict::Drop),
            (408, None, WebhookVerdict::Again(Duration::ZERO)),
            (429, Some(7), WebhookVerdict::Again(Duration::from_secs(7))),
            (503, Some(1 << 40), WebhookVerdict::Again(Duration::from_secs(3600))),
        ] {
            assert_eq!(judge(status, after), expected, "{status}");
        }
    }
}
