//! `/explain`: where a message would go if it were published now, and why not elsewhere.

use super::problem::{ApiProblem, Details};
use super::{ApiContext, ApiState, JsonResult, Query, subscriptions};
use crate::packet::Qos;
use crate::shard::inquiry::{Addressee, ExplainCursor, ExplainedAccess, Fate, Hypothesis};
use crate::shard::{ClientDrops, Shard};
use crate::topic;
use axum::Json;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// The largest number of subscribers that are named.
const MOST: usize = 1000;
/// The largest payload in bytes that a request may ask about.
const PAYLOAD: usize = 16 << 20;

/// Which message.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainQuery {
    /// The topic name as the publisher writes it.
    topic: String,
    /// The ClientId of the publisher, whose rules and mountpoint hold then.
    #[serde(default)]
    publisher: Option<String>,
    /// Only what would become of it for this client.
    #[serde(default)]
    client: Option<String>,
    /// 0, 1 or 2.
    #[serde(default)]
    #[param(minimum = 0, maximum = 2)]
    qos: u8,
    /// Whether it is to be retained.
    #[serde(default)]
    retain: bool,
    /// Bytes of the payload.
    #[serde(default)]
    payload_size: usize,
}

/// What would happen to a message.
#[derive(Serialize, ToSchema)]
pub(super) struct Explanation {
    /// The whole topic name, mountpoint included.
    topic: String,
    /// What the rules say of the publisher; null when none was named.
    publisher: Option<Judged>,
    /// Who subscribes; empty when the rules deny it.
    subscribers: Vec<ExplainedSubscriber>,
    /// There are more than are named here.
    more: bool,
    /// What has been dropped for the client that was named; null when none was, or when it is
    /// unknown.
    client_drops: Option<Drops>,
    /// In a few words.
    summary: String,
}

/// What has been dropped for a client.
#[derive(Serialize, ToSchema)]
pub(super) struct Drops {
    /// How many messages, by reason: those of `ringmq_messages_dropped_total`.
    by_reason: BTreeMap<&'static str, u64>,
    /// For how many seconds it has been counted: since the first drop, or since the broker has
    /// last made room for other clients' drops.
    seconds: u64,
}

impl From<ClientDrops> for Drops {
    fn from(known: ClientDrops) -> Drops {
        Drops { by_reason: known.counts.into_iter().collect(), seconds: known.millis / 1000 }
    }
}

/// What the rules say.
#[derive(Serialize, ToSchema)]
struct Judged {
    /// It may publish; null when that is not known.
    allowed: Option<bool>,
    /// The rule with its file and line, or why.
    by: String,
}

/// A subscriber of the message.
#[derive(Serialize, ToSchema)]
#[schema(as = Subscriber)]
struct ExplainedSubscriber {
    /// Its ClientId.
    #[serde(skip_serializing_if = "Option::is_none")]
    clientid: Option<String>,
    /// The share group, of which one member gets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_group: Option<String>,
    /// Members of the group at this node: 0 when only other nodes of the cluster have some.
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<usize>,
    /// The shard.
    shard: usize,
    /// It is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    connected: Option<bool>,
    /// Its filters that match.
    filters: Vec<String>,
    /// The QoS it would get it with.
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
    /// sent, queued, queued_for_oldest, disconnected, dropped; one_member for a share group; or
    /// link for a bridge or another subscriber that is no client.
    fate: &'static str,
    /// Why it would be dropped: the `reason` of `ringmq_messages_dropped_total`, `no_local` or
    /// `outside_mountpoint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

fn shown(shard: usize, addressee: Addressee) -> ExplainedSubscriber {
    let empty = ExplainedSubscriber {
        clientid: None,
        share_group: None,
        members: None,
        shard,
        connected: None,
        filters: Vec::new(),
        qos: None,
        fate: "sent",
        reason: None,
    };
    match addressee {
        Addressee::Client { client_id, connected, filters, qos, fate } => {
            let (fate, reason) = match fate {
                Fate::Sent => ("sent", None),
                Fate::Queued => ("queued", None),
                Fate::QueuedForOldest => ("queued_for_oldest", Some("queue_full")),
                Fate::Disconnects => ("disconnected", Some("queue_full")),
                Fate::Dropped(reason) => ("dropped", Some(reason)),
            };
            ExplainedSubscriber {
                clientid: Some(client_id.into()),
                connected: Some(connected),
                filters: filters.into_iter().map(String::from).collect(),
                qos: Some(qos),
                fate,
                reason,
                ..empty
            }
        }
        Addressee::Group { name, members } => ExplainedSubscriber {
            filters: topic::parse_share(&name)
                .and_then(Result::ok)
                .map(|share| share.filter.to_owned())
                .into_iter()
                .collect(),
            share_group: Some(name.into()),
            members: Some(members),
            fate: "one_member",
            ..empty
        },
        Addressee::Link => ExplainedSubscriber { fate: "link", ..empty },
    }
}

impl ApiContext {
    async fn judge(&self, asked: &ExplainQuery, qos: Qos) -> Result<Option<Judged>, ApiProblem> {
        let Some(client_id) = asked.publisher.clone() else { return Ok(None) };
        let (topic, retain, name) = (asked.topic.clone(), asked.retain, client_id.clone());
        let ask = move |shard: &mut Shard| shard.explain_publisher(&client_id, &topic, qos, retain);
        let (allowed, by) = match self.ask(self.home(&name), ask).await? {
            ExplainedAccess::UnknownClient => {
                return Err(ApiProblem::bad(format!("publisher: there is no client `{name}`")));
            }
            ExplainedAccess::Allowed(by) => (Some(true), by),
            ExplainedAccess::Denied(by) => (Some(false), by),
            ExplainedAccess::Asks => (None, "a service is asked when it publishes".to_owned()),
        };
        Ok(Some(Judged { allowed, by }))
    }

    async fn drops(&self, client: Option<&str>) -> Result<Option<Drops>, ApiProblem> {
        let Some(client) = client.map(str::to_owned) else { return Ok(None) };
        let home = self.home(&client);
        let known = self.ask(home, move |shard: &mut Shard| shard.dropped_for(&client)).await?;
        Ok(known.map(Drops::from))
    }

    /// The share groups of a client to which a message would go. Each may be at home on any shard.
    async fn groups_of(
        &self,
        client: &str,
        topic: &str,
    ) -> Result<Vec<ExplainedSubscriber>, ApiProblem> {
        let mut groups = Vec::new();
        for row in subscriptions::all_of(self, client).await?.unwrap_or_default() {
            let share = topic::parse_share(&row.filter).and_then(Result::ok);
            if !share.is_some_and(|share| topic::matches(share.filter, topic)) {
                continue;
            }
            let (home, name) = (self.home(&row.filter), row.filter.clone());
            let ask = move |shard: &mut Shard| shard.group_size(&name);
            // None: the client has just left it.
            if let Some(members) = self.ask(home, ask).await? {
                groups.push(shown(home, Addressee::Group { name: row.filter, members }));
            }
        }
        Ok(groups)
    }

    async fn subscribers(
        &self,
        what: &Arc<Hypothesis>,
        client: Option<&str>,
    ) -> Result<(Vec<ExplainedSubscriber>, bool), ApiProblem> {
        let shards = match client {
            Some(client) => self.home(client)..self.home(client) + 1,
            None => 0..self.shards(),
        };
        let wanted =
            |one: &ExplainedSubscriber| client.is_none() || one.clientid.as_deref() == client;
        let mut all = match client {
            Some(client) => self.groups_of(client, &what.topic).await?,
            None => Vec::new(),
        };
        for shard in shards {
            let mut from = ExplainCursor::default();
            loop {
                let what = Arc::clone(what);
                let ask = move |shard: &mut Shard| shard.explain(&what, from, super::SLICE);
                let slice = self.ask(shard, ask).await?;
                all.extend(slice.rows.into_iter().map(|one| shown(shard, one)).filter(wanted));
                let Some(next) = slice.next else { break };
                if all.len() >= MOST {
                    return Ok((all, true));
                }
                from = next;
            }
        }
        Ok((all, false))
    }
}

fn summary(
    judged: Option<&Judged>,
    subscribers: &[ExplainedSubscriber],
    asked: &ExplainQuery,
) -> String {
    if judged.is_some_and(|judged| judged.allowed == Some(false)) {
        return "the publisher may not publish there: nobody gets it".to_owned();
    }
    let count = |fate: &str| subscribers.iter().filter(|one| one.fate == fate).count();
    let dropped = count("dropped");
    if let (Some(client), []) = (&asked.client, subscribers) {
        return format!("`{client}` has no subscription that matches");
    }
    if subscribers.is_empty() {
        return "no subscription matches".to_owned();
    }
    let bridges = match count("link") {
        0 => String::new(),
        links => format!(", {links} bridges"),
    };
    format!(
        "{} subscribers: sent to {}, queued for {}, dropped for {dropped}, {} share groups\
         {bridges}",
        subscribers.len(),
        count("sent"),
        count("queued") + count("queued_for_oldest"),
        count("one_member"),
    )
}

/// What would happen to a message if it were published now. Nothing is published.
#[utoipa::path(get, path = "/explain", tag = "explain", params(ExplainQuery),
    responses((status = 200, body = Explanation), (status = 400, body = Details)))]
pub(super) async fn explain(
    axum::extract::State(context): ApiState,
    Query(asked): Query<ExplainQuery>,
) -> JsonResult<Explanation> {
    if !topic::valid_name(&asked.topic) {
        return Err(ApiProblem::bad("topic: it is no topic name (MQTT section 4.7)"));
    }
    let qos = Qos::from_u8(asked.qos);
    let qos = qos.ok_or_else(|| ApiProblem::bad("qos: it must be 0, 1 or 2"))?;
    if asked.payload_size > PAYLOAD {
        return Err(ApiProblem::bad(format!("payload_size: it must be at most {PAYLOAD}")));
    }
    let judged = context.judge(&asked, qos).await?;
    let (mut whole, mut publisher) = (asked.topic.clone(), None);
    if let Some(client_id) = asked.publisher.clone() {
        let home = context.home(&client_id);
        let ask = move |shard: &mut Shard| {
            let mountpoint = shard.client(&client_id).map(|client| client.mountpoint);
            (mountpoint.unwrap_or_default(), shard.publisher_of(&client_id))
        };
        let (mountpoint, known) = context.ask(home, ask).await?;
        whole.insert_str(0, &mountpoint);
        publisher = known;
    }
    let what = Arc::new(Hypothesis {
        topic: whole.as_str().into(),
        payload: vec![0; asked.payload_size].into(),
        qos,
        retain: asked.retain,
        publisher,
    });
    let denied = judged.as_ref().is_some_and(|judged| judged.allowed == Some(false));
    let (subscribers, more) = match denied {
        true => (Vec::new(), false),
        false => context.subscribers(&what, asked.client.as_deref()).await?,
    };
    let client_drops = context.drops(asked.client.as_deref()).await?;
    let (summary, publisher) = (summary(judged.as_ref(), &subscribers, &asked), judged);
    Ok(Json(Explanation { topic: whole, publisher, subscribers, more, client_drops, summary }))
}
