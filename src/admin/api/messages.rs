//! `/publish`: messages of the operator's own.

use super::problem::{ApiProblem, Details};
use super::{ApiContext, ApiState, JsonBody};
use crate::message::MessageRef;
use crate::packet::{PublishProperties, Qos, UserProperties, append_user_property};
use crate::shard::inquiry::PublishOutcome;
use crate::topic;
use axum::Json;
use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// The largest number of messages in one request.
const MANY: usize = 1000;
/// The pause before a full mailbox is tried again.
pub(super) const REST: Duration = Duration::from_millis(5);
/// How often a full mailbox is tried before the caller is told that the broker is busy.
pub(super) const TRIES: usize = 200;
/// The reason code that EMQX reports when there is no subscriber (MQTT 5.0 section 3.4.2.1).
const NO_SUBSCRIBERS: u8 = 0x10;

/// A message.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Message)]
pub(super) struct PublishRequest {
    /// The topic name.
    topic: String,
    /// The payload, as `payload_encoding` says.
    #[serde(default)]
    payload: String,
    /// How the payload is written here.
    #[serde(default)]
    payload_encoding: Encoding,
    /// 0, 1 or 2.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2)]
    qos: u8,
    /// It becomes the topic's retained message; an empty payload takes that away.
    #[serde(default)]
    retain: bool,
    /// What MQTT 5 subscribers get besides.
    #[serde(default)]
    properties: Properties,
}

/// How a payload is written.
#[derive(Clone, Copy, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    /// As text.
    #[default]
    Plain,
    /// In base64.
    Base64,
}

/// Properties of a message.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct Properties {
    /// 1: the payload is UTF-8.
    #[schema(minimum = 0, maximum = 1)]
    payload_format_indicator: Option<u8>,
    /// Seconds that it lives.
    message_expiry_interval: Option<u32>,
    /// Where an answer goes.
    response_topic: Option<String>,
    /// What the answer carries, in base64.
    correlation_data: Option<String>,
    /// What kind of payload it is.
    content_type: Option<String>,
    /// Names and values.
    user_properties: BTreeMap<String, String>,
}

/// What became of a message.
#[derive(Serialize, ToSchema)]
#[schema(as = Published)]
pub(super) struct PublishResult {
    /// Some subscription matches it.
    matched: bool,
    /// 0, or 16 when nobody subscribes.
    reason_code: u8,
    /// The same in words.
    message: &'static str,
}

/// A message whose bytes are ready to be published.
struct ReadyMessage {
    topic: String,
    payload: Vec<u8>,
    properties: Vec<u8>,
    qos: Qos,
    retain: bool,
    expiry: Option<u32>,
}

fn bad(name: &str) -> impl Fn(&'static str) -> ApiProblem {
    let name = name.to_owned();
    move |what| ApiProblem::bad(format!("{name}: {what}"))
}

fn base64(name: &str, text: &str) -> Result<Vec<u8>, ApiProblem> {
    BASE64_STANDARD.decode(text).map_err(|_| bad(name)("it is not base64"))
}

impl PublishRequest {
    /// # Errors
    /// The reason for which the broker would refuse such a message of an MQTT client.
    fn ready(self) -> Result<ReadyMessage, ApiProblem> {
        if !topic::valid_name(&self.topic) {
            return Err(bad("topic")("it is no topic name (MQTT section 4.7)"));
        }
        let payload = match self.payload_encoding {
            Encoding::Plain => self.payload.into_bytes(),
            Encoding::Base64 => base64("payload", &self.payload)?,
        };
        let qos = Qos::from_u8(self.qos).ok_or_else(|| bad("qos")("it must be 0, 1 or 2"))?;
        let own = self.properties;
        let mut user = Vec::new();
        for (name, value) in &own.user_properties {
            let added = append_user_property(&mut user, name, value);
            added.map_err(|_| bad("properties.user_properties")("longer than 65,535 bytes"))?;
        }
        let correlation = own.correlation_data.as_deref();
        let correlation =
            correlation.map(|text| base64("properties.correlation_data", text)).transpose()?;
        let wrong = |violation: crate::packet::Violation| bad("properties")(violation.what);
        let mut given = PublishProperties::default();
        given.payload_format = own.payload_format_indicator;
        given.response_topic = own.response_topic.as_deref();
        given.correlation_data = correlation.as_deref();
        given.content_type = own.content_type.as_deref();
        given.user = UserProperties::parse(&user).map_err(wrong)?;
        let mut properties = Vec::new();
        let written = given.put_forwardable(&mut properties);
        written.map_err(|_| bad("properties")("a text is longer than 65,535 bytes"))?;
        // The properties are read as those of a client would be, so that the same rules apply.
        let read = PublishProperties::parse(&properties).map_err(wrong)?;
        if read.payload_format == Some(1) && str::from_utf8(&payload).is_err() {
            return Err(bad("payload")("it is not UTF-8, as payload_format_indicator says"));
        }
        let expiry = own.message_expiry_interval;
        Ok(ReadyMessage {
            topic: self.topic,
            payload,
            properties,
            qos,
            retain: self.retain,
            expiry,
        })
    }
}

impl ApiContext {
    async fn publish(&self, message: ReadyMessage) -> Result<PublishResult, ApiProblem> {
        // The shard is chosen by the topic, so that the messages of one topic keep their order.
        let home = self.home(&message.topic);
        let message = Arc::new(message);
        for _ in 0..TRIES {
            let message = Arc::clone(&message);
            let publish = move |shard: &mut crate::shard::Shard| {
                let view = MessageRef {
                    topic: &message.topic,
                    properties: &message.properties,
                    payload: &message.payload,
                    qos: message.qos,
                    retain: message.retain,
                    expires: None,
                    publisher: None,
                };
                shard.publish_as_operator(&view, message.expiry)
            };
            match self.submit(home, publish).await? {
                PublishOutcome::Accepted { matched } => {
                    let (reason_code, message) = if matched {
                        (0, "accepted")
                    } else {
                        (NO_SUBSCRIBERS, "no_matching_subscribers")
                    };
                    return Ok(PublishResult { matched, reason_code, message });
                }
                PublishOutcome::Denied(what) => return Err(bad("topic")(what)),
                PublishOutcome::ShortOfMemory => {
                    return Err(ApiProblem::busy("the broker is short of memory"));
                }
                PublishOutcome::Busy => tokio::time::sleep(REST).await,
            }
        }
        Err(ApiProblem::busy("a mailbox on the way is full"))
    }
}

fn status(published: &PublishResult) -> StatusCode {
    if published.matched { StatusCode::OK } else { StatusCode::ACCEPTED }
}

/// Publishes a message. The answer comes when every shard on its way has accepted it, as a
/// client's PUBACK without a store would.
#[utoipa::path(post, path = "/publish", tag = "publish", request_body = PublishRequest,
    responses((status = 200, body = PublishResult, description = "Accepted"),
        (status = 202, body = PublishResult, description = "Accepted; nobody subscribes"),
        (status = 400, body = Details)))]
pub(super) async fn publish(
    axum::extract::State(context): ApiState,
    JsonBody(message): JsonBody<PublishRequest>,
) -> Result<(StatusCode, Json<PublishResult>), ApiProblem> {
    let published = context.publish(message.ready()?).await?;
    Ok((status(&published), Json(published)))
}

/// Publishes many messages in their order. Nothing is published when one of them is wrong. When the
/// broker is too busy for one of them, those before it have been published: `detail` says how many.
#[utoipa::path(post, path = "/publish/bulk", tag = "publish",
    request_body(content = Vec<PublishRequest>, description = "At most 1,000"),
    responses((status = 200, body = Vec<PublishResult>, description = "Accepted"),
        (status = 202, body = Vec<PublishResult>,
            description = "Accepted; some have no subscriber"),
        (status = 400, body = Details),
        (status = 503, body = Details, description = "Busy; `detail` says how many went out")))]
pub(super) async fn publish_many(
    axum::extract::State(context): ApiState,
    JsonBody(messages): JsonBody<Vec<PublishRequest>>,
) -> Result<(StatusCode, Json<Vec<PublishResult>>), ApiProblem> {
    if messages.len() > MANY {
        return Err(ApiProblem::bad(format!("body: more than {MANY} messages")));
    }
    let ready: Result<Vec<ReadyMessage>, ApiProblem> =
        messages.into_iter().map(PublishRequest::ready).collect();
    let ready = ready?;
    let all: Vec<(String, usize)> =
        ready.iter().map(|one| (one.topic.clone(), one.payload.len())).collect();
    // The shards have the same settings, so any of them can say what none would publish.
    let ask = move |shard: &mut crate::shard::Shard| {
        let mut denied = all.iter().map(|(topic, length)| shard.never_published(topic, *length));
        denied.by_ref().enumerate().find_map(|(at, what)| Some((at, what?)))
    };
    if let Some((at, what)) = context.ask(0, ask).await? {
        return Err(bad(&format!("body[{at}].topic"))(what));
    }
    let mut published = Vec::new();
    for message in ready {
        match context.publish(message).await {
            Ok(one) => published.push(one),
            Err(problem) => return Err(problem.after(published.len())),
        }
    }
    let all = published.iter().all(|one| one.matched);
    Ok((if all { StatusCode::OK } else { StatusCode::ACCEPTED }, Json(published)))
}
