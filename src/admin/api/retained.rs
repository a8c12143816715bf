//! `/mqtt/retainer`: retained messages, listed, shown and cleared.

use super::messages::{REST, TRIES};
use super::page::{Page, paged};
use super::problem::{ApiProblem, Details};
use super::{ApiContext, ApiState, JsonResult, Path, Query};
use crate::packet::PublishProperties;
use crate::shard::Shard;
use crate::shard::inquiry::{ClearOutcome, RetainedRow, Slice};
use crate::topic;
use axum::Json;
use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A retained message in a list.
#[derive(Serialize, ToSchema)]
pub(super) struct Listed {
    /// Its topic name.
    topic: String,
    /// It was published with this QoS.
    qos: u8,
    /// Bytes of its payload.
    payload_bytes: usize,
    /// Seconds until it expires; null for never.
    expires_in: Option<u32>,
    /// The node.
    node: String,
}

/// A retained message.
#[derive(Serialize, ToSchema)]
#[schema(as = Retained)]
pub(super) struct RetainedInfo {
    /// What a list says of it.
    #[serde(flatten)]
    listed: Listed,
    /// The payload in base64, as in EMQX.
    payload: String,
    /// Its properties.
    properties: RetainedProperties,
}

/// Properties of a message.
#[derive(Serialize, ToSchema)]
struct RetainedProperties {
    /// 1: the payload is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_format_indicator: Option<u8>,
    /// What kind of payload it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// Where an answer goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<String>,
    /// What the answer carries, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data: Option<String>,
    /// Names and values; of a name that comes several times the last.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    user_properties: BTreeMap<String, String>,
}

paged! {
    /// Which messages.
    pub(super) struct RetainedFilter {
        /// A topic filter; # for all but those that begin with $.
        topic: Option<String>,
    }
}

fn listed(context: &ApiContext, row: &RetainedRow) -> Listed {
    let view = row.message.view();
    Listed {
        topic: view.topic.to_owned(),
        qos: view.qos as u8,
        payload_bytes: view.payload.len(),
        expires_in: row.seconds_left,
        node: context.api.node.clone(),
    }
}

/// Retained messages, by shard and there in the order of topics.
#[utoipa::path(get, path = "/mqtt/retainer/messages", tag = "retainer", params(RetainedFilter),
    responses((status = 200, body = Page<Listed>), (status = 400, body = Details)))]
pub(super) async fn list(
    axum::extract::State(context): ApiState,
    Query(filter): Query<RetainedFilter>,
) -> JsonResult<Page<Listed>> {
    let wanted = filter.paging().checked::<String>()?;
    let open = filter.topic.is_none();
    let filter = filter.topic.unwrap_or_else(|| "#".to_owned());
    if !topic::valid_filter(&filter) {
        return Err(ApiProblem::bad("topic: it is no topic filter"));
    }
    let ask = move |shard: &mut Shard, from: &String, most| {
        let cursor = Some(from.as_str()).filter(|from| !from.is_empty());
        let Slice { rows, next } = shard.retained(cursor, &filter, most);
        Slice { rows, next: next.map(String::from) }
    };
    let (rows, next) = context.collect(&wanted, ask).await?;
    let count = if open { Some(context.sum().await.0.retained_messages) } else { None };
    let data = rows.iter().map(|row| listed(&context, row)).collect();
    Ok(Json(wanted.page(data, count, next)))
}

fn unknown(topic: &str) -> ApiProblem {
    ApiProblem::unknown(format!("`{topic}` has no retained message"))
}

/// The retained message of a topic.
#[utoipa::path(get, path = "/mqtt/retainer/message/{topic}", tag = "retainer",
    params(("topic" = String, Path, description = "The topic name, percent-encoded")),
    responses((status = 200, body = RetainedInfo), (status = 404, body = Details)))]
pub(super) async fn one(
    axum::extract::State(context): ApiState,
    Path(name): Path<String>,
) -> JsonResult<RetainedInfo> {
    for shard in 0..context.shards() {
        let topic = name.clone();
        let found = context.ask(shard, move |shard| shard.retained_message(&topic)).await?;
        let Some(row) = found else { continue };
        let view = row.message.view();
        let properties = PublishProperties::parse(view.properties).unwrap_or_default();
        let text = |text: Option<&str>| text.map(str::to_owned);
        let user = properties.user.iter();
        return Ok(Json(RetainedInfo {
            listed: listed(&context, &row),
            payload: BASE64_STANDARD.encode(view.payload),
            properties: RetainedProperties {
                payload_format_indicator: properties.payload_format,
                content_type: text(properties.content_type),
                response_topic: text(properties.response_topic),
                correlation_data: properties.correlation_data.map(|d| BASE64_STANDARD.encode(d)),
                user_properties: user.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            },
        }));
    }
    Err(unknown(&name))
}

/// Clears the retained message of a topic. Subscribers are not told.
#[utoipa::path(delete, path = "/mqtt/retainer/message/{topic}", tag = "retainer",
    params(("topic" = String, Path, description = "The topic name, percent-encoded")),
    responses((status = 204, description = "Done"), (status = 404, body = Details)))]
pub(super) async fn clear(
    axum::extract::State(context): ApiState,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiProblem> {
    for shard in 0..context.shards() {
        for tries in 1.. {
            let topic = name.clone();
            match context.ask(shard, move |shard| shard.clear_retained(&topic)).await? {
                ClearOutcome::Cleared => return Ok(StatusCode::NO_CONTENT),
                ClearOutcome::Unknown => break,
                ClearOutcome::Busy if tries < TRIES => tokio::time::sleep(REST).await,
                ClearOutcome::Busy => return Err(ApiProblem::busy("a mailbox on the way is full")),
            }
        }
    }
    Err(unknown(&name))
}
