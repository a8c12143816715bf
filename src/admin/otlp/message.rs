//! Spans in the form of the OpenTelemetry protocol: the messages of `trace/v1`, as far as the
//! broker uses them, in protocol buffers. prost encodes them. The numbers are those of the
//! protocol.

use crate::shard::{Span, SpanKind, Via};
use prost::Message;
use std::time::Duration;

/// The values of `SpanKind` in the protocol that are used.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;
/// The value of `StatusCode` for an error.
const ERROR: i32 = 2;
/// Flags of a span: the trace is recorded; it is known whether the parent is in another process;
/// the parent is in another process.
const RECORDED: u32 = 1;
const KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTraceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<InstrumentationScope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct InstrumentationScope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<SpanStatus>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct SpanStatus {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "AttributeValue", tags = "1, 3")]
    value: Option<AttributeValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum AttributeValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// The answer of a receiver.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// The part of a request that the receiver has not accepted.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
}

fn text(key: &str, text: &str) -> KeyValue {
    value(key, AttributeValue::Text(text.to_owned()))
}

fn number(key: &str, number: u64) -> KeyValue {
    value(key, AttributeValue::Number(i64::try_from(number).unwrap_or(i64::MAX)))
}

fn value(key: &str, value: AttributeValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

/// The sender of the spans.
#[derive(Clone, Debug)]
pub(super) struct SpanOrigin {
    /// `service.name`.
    pub service: String,
    /// `host.name`.
    pub host: String,
    /// The wall-clock time at the zero of the shards' clock, as time since 1970.
    pub zero: Duration,
}

impl SpanOrigin {
    /// Encodes a request with these spans.
    pub(super) fn request<'a>(&self, spans: impl Iterator<Item = &'a Span>) -> Vec<u8> {
        let version = env!("CARGO_PKG_VERSION");
        let resource = Resource {
            attributes: vec![
                text("service.name", &self.service),
                text("service.version", version),
                text("host.name", &self.host),
            ],
        };
        let spans = spans.map(|span| self.message(span)).collect();
        let scope = InstrumentationScope { name: "ringmq".to_owned(), version: version.to_owned() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        let spans = ResourceSpans { resource: Some(resource), scope_spans };
        ExportTraceRequest { resource_spans: vec![spans] }.encode_to_vec()
    }

    fn message(&self, span: &Span) -> SpanMessage {
        let nanos = |micros: u64| (self.zero + Duration::from_micros(micros)).as_nanos() as u64;
        let (name, kind, remote) = match span.kind {
            // The parent, if there is one, is a span of the publisher or of another node.
            SpanKind::Receive => ("receive", receipt(span.via.as_ref()), REMOTE),
            SpanKind::Route => ("route", INTERNAL, 0),
            SpanKind::Deliver => ("deliver", PRODUCER, 0),
        };
        let parent = span.parent.map_or_else(Vec::new, |id| id.0.to_be_bytes().to_vec());
        let error = |why: &str| SpanStatus { message: why.to_owned(), code: ERROR };
        SpanMessage {
            trace_id: span.trace.0.to_be_bytes().to_vec(),
            span_id: span.id.0.to_be_bytes().to_vec(),
            flags: RECORDED | if parent.is_empty() { 0 } else { KNOWN | remote },
            parent_span_id: parent,
            name: name.to_owned(),
            kind,
            start_time_unix_nano: nanos(span.began),
            end_time_unix_nano: nanos(span.ended),
            attributes: attributes(span),
            status: span.error.map(error),
        }
    }
}

/// The kind of a receipt.
fn receipt(via: Option<&Via>) -> i32 {
    match via {
        None | Some(Via::Api | Via::Node(_)) => SERVER,
        Some(Via::Bridge(_)) => CONSUMER,
        Some(Via::Will) => INTERNAL,
    }
}

/// How a message was received that no client has sent.
fn came_by(via: &Via) -> [KeyValue; 2] {
    let (word, key, name) = match via {
        Via::Api => ("api", "", ""),
        Via::Bridge(name) => ("bridge", "ringmq.bridge", &**name),
        Via::Node(name) => ("node", "ringmq.node", &**name),
        Via::Will => ("will", "", ""),
    };
    [text("ringmq.via", word), text(key, name)]
}

/// The attributes of a span, named by OpenTelemetry's conventions for messaging where those have a
/// name.
fn attributes(span: &Span) -> Vec<KeyValue> {
    let mut all = vec![
        text("messaging.system", "mqtt"),
        text("messaging.destination.name", &span.topic),
        number("messaging.message.body.size", span.payload as u64),
        number("mqtt.qos", span.qos.into()),
    ];
    if let Some(via) = &span.via {
        all.extend(came_by(via).into_iter().filter(|one| !one.key.is_empty()));
    } else if span.kind != SpanKind::Route {
        all.push(text("messaging.client.id", &span.client_id));
    }
    if let Some(peer) = &span.peer {
        all.push(text("network.peer.address", peer));
    }
    let shards: Vec<String> = span.shards.iter().map(|shard| shard.0.to_string()).collect();
    if span.kind != SpanKind::Receive {
        all.push(text("ringmq.shards", &shards.join(",")));
    }
    all
}
