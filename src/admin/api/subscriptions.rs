//! `/subscriptions` and `/topics`: who subscribes to what.

use super::page::{Page, paged};
use super::problem::{ApiProblem, Details};
use super::{ApiContext, ApiState, JsonResult, Path, Query};
use crate::shard::Shard;
use crate::shard::inquiry::{Slice, SubscriptionCursor, SubscriptionRow, TopicRow};
use crate::topic;
use axum::Json;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// The largest number of subscriptions of one client that are listed.
const OF_ONE: usize = 100_000;

/// One subscription.
#[derive(Serialize, ToSchema)]
#[schema(as = Subscription)]
pub(super) struct SubscriptionInfo {
    /// Whose it is.
    clientid: String,
    /// The filter, mountpoint included; of a share group with `$share/group/`.
    topic: String,
    /// Granted.
    qos: u8,
    /// 1: No Local.
    nl: u8,
    /// 1: Retain As Published.
    rap: u8,
    /// Subscription Identifier, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    subid: Option<u32>,
    /// The node.
    node: String,
}

paged! {
    /// Which subscriptions.
    pub(super) struct SubscriptionFilter {
        /// Of this client.
        clientid: Option<String>,
        /// Exactly this filter.
        topic: Option<String>,
        /// A topic name that the filter matches.
        match_topic: Option<String>,
        /// Granted QoS.
        #[param(minimum = 0, maximum = 2)]
        qos: Option<u8>,
        /// The name of the share group.
        share_group: Option<String>,
    }
}

impl SubscriptionFilter {
    fn fits(&self, row: &SubscriptionRow) -> bool {
        let share = topic::parse_share(&row.filter).and_then(Result::ok);
        let filter = share.as_ref().map_or(&*row.filter, |share| share.filter);
        let group = share.as_ref().map(|share| share.group);
        self.qos.is_none_or(|qos| qos == row.qos)
            && self.topic.as_deref().is_none_or(|wanted| wanted == &*row.filter)
            && self.match_topic.as_deref().is_none_or(|name| topic::matches(filter, name))
            && self.share_group.as_deref().is_none_or(|wanted| group == Some(wanted))
    }
}

fn shown(context: &ApiContext, row: SubscriptionRow) -> SubscriptionInfo {
    SubscriptionInfo {
        clientid: row.client_id.into(),
        topic: row.filter.into(),
        qos: row.qos,
        nl: row.no_local.into(),
        rap: row.retain_as_published.into(),
        subid: Some(row.subscription_id).filter(|&id| id != 0),
        node: context.api.node.clone(),
    }
}

/// Subscriptions of all clients, in no particular order.
#[utoipa::path(get, path = "/subscriptions", tag = "subscriptions", params(SubscriptionFilter),
    responses((status = 200, body = Page<SubscriptionInfo>), (status = 400, body = Details)))]
pub(super) async fn list(
    axum::extract::State(context): ApiState,
    Query(filter): Query<SubscriptionFilter>,
) -> JsonResult<Page<SubscriptionInfo>> {
    if filter.match_topic.as_deref().is_some_and(|name| !topic::valid_name(name)) {
        return Err(ApiProblem::bad("match_topic: it is no topic name"));
    }
    if filter.qos.is_some_and(|qos| qos > 2) {
        return Err(ApiProblem::bad("qos: it must be 0, 1 or 2"));
    }
    if let Some(client_id) = &filter.clientid {
        let wanted = filter.paging().checked::<u32>()?;
        let rows = all_of(&context, client_id).await?.unwrap_or_default();
        let fitting = rows.into_iter().filter(|row| filter.fits(row));
        let all = fitting.map(|row| shown(&context, row)).collect();
        return Ok(Json(wanted.page_of(all)));
    }
    let wanted = filter.paging().checked::<SubscriptionCursor>()?;
    let filter = Arc::new(filter);
    let ask = move |shard: &mut Shard, from: &SubscriptionCursor, most| {
        shard.client_subscriptions(*from, most, |row| filter.fits(row))
    };
    let (rows, next) = context.collect(&wanted, ask).await?;
    let data = rows.into_iter().map(|row| shown(&context, row)).collect();
    Ok(Json(wanted.page(data, None, next)))
}

/// All subscriptions of a client, at most [`OF_ONE`] and a slice; `None` when there is no such
/// client.
pub(super) async fn all_of(
    context: &ApiContext,
    client_id: &str,
) -> Result<Option<Vec<SubscriptionRow>>, ApiProblem> {
    let (home, mut rows, mut from) = (context.home(client_id), Vec::new(), 0);
    loop {
        let name = client_id.to_owned();
        let ask = move |shard: &mut Shard| shard.subscriptions_of_client(&name, from, super::SLICE);
        let Some(Slice { rows: more, next }) = context.ask(home, ask).await? else {
            return Ok(None);
        };
        rows.extend(more);
        match next {
            Some(next) if rows.len() < OF_ONE => from = next,
            _ => return Ok(Some(rows)),
        }
    }
}

/// The subscriptions of one client.
#[utoipa::path(get, path = "/clients/{clientid}/subscriptions", tag = "clients",
    params(("clientid" = String, Path, description = "Its ClientId")),
    responses((status = 200, body = Vec<SubscriptionInfo>), (status = 404, body = Details)))]
pub(super) async fn of_client(
    axum::extract::State(context): ApiState,
    Path(client_id): Path<String>,
) -> JsonResult<Vec<SubscriptionInfo>> {
    match all_of(&context, &client_id).await? {
        Some(rows) => Ok(Json(rows.into_iter().map(|row| shown(&context, row)).collect())),
        None => Err(ApiProblem::unknown(format!("there is no client `{client_id}`"))),
    }
}

/// A filter with subscribers.
#[derive(Serialize, ToSchema)]
#[schema(as = Topic)]
pub(super) struct TopicInfo {
    /// The filter, mountpoint included.
    topic: String,
    /// The node.
    node: String,
    /// The shard whose clients subscribe.
    shard: usize,
    /// Clients of this shard with it, and share groups at home there with it.
    subscribers: usize,
}

paged! {
    /// Which filters.
    pub(super) struct TopicFilter {
        /// Exactly this filter.
        topic: Option<String>,
        /// The filter contains it.
        like_topic: Option<String>,
        /// A topic name that the filter matches.
        match_topic: Option<String>,
    }
}

/// Filters with subscribers: one entry for each shard whose clients have it.
#[utoipa::path(get, path = "/topics", tag = "subscriptions", params(TopicFilter),
    responses((status = 200, body = Page<TopicInfo>), (status = 400, body = Details)))]
pub(super) async fn topics(
    axum::extract::State(context): ApiState,
    Query(filter): Query<TopicFilter>,
) -> JsonResult<Page<TopicInfo>> {
    let wanted = filter.paging().checked::<u32>()?;
    if filter.match_topic.as_deref().is_some_and(|name| !topic::valid_name(name)) {
        return Err(ApiProblem::bad("match_topic: it is no topic name"));
    }
    let filter = Arc::new(filter);
    let fits = move |text: &str| {
        filter.topic.as_deref().is_none_or(|wanted| wanted == text)
            && filter.like_topic.as_deref().is_none_or(|part| text.contains(part))
            && filter.match_topic.as_deref().is_none_or(|name| topic::matches(text, name))
    };
    let ask = move |shard: &mut Shard, from: &u32, most| {
        let Slice { rows, next } = shard.topics(*from, most, &fits);
        let number = usize::from(shard.id().0);
        Slice { rows: rows.into_iter().map(|row| (number, row)).collect(), next }
    };
    let (rows, next): (Vec<(usize, TopicRow)>, _) = context.collect(&wanted, ask).await?;
    let shown = |(shard, row): (usize, TopicRow)| TopicInfo {
        topic: row.filter.into(),
        node: context.api.node.clone(),
        shard,
        subscribers: row.subscribers,
    };
    Ok(Json(wanted.page(rows.into_iter().map(shown).collect(), None, next)))
}
