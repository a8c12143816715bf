//! `/top` and `/slow_subscriptions`: the clients with the most load.

use super::problem::{ApiProblem, Details};
use super::{ApiContext, ApiState, JsonResult, Query};
use crate::shard::Measure;
use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The number of clients that are named, unless the request says another.
const USUAL: usize = 10;
/// The largest number of clients that are named.
const MOST: usize = 100;

/// By what clients are compared.
#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum By {
    /// Bytes from them.
    BytesReceived,
    /// Bytes of messages to them.
    BytesSent,
    /// Messages from them.
    #[default]
    MessagesReceived,
    /// Messages to them.
    MessagesSent,
    /// Messages for them that were dropped.
    Drops,
    /// Milliseconds that their hosts took to accept what was sent, of sends that took 10 or more.
    SlowSends,
}

/// Which clients.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TopQuery {
    /// By what they are compared.
    #[param(inline)]
    by: By,
    /// Most of them.
    #[param(minimum = 1, maximum = 100, default = 10)]
    limit: Option<usize>,
}

/// A client, and how much it weighs.
#[derive(Serialize, ToSchema)]
#[schema(as = Heavy)]
pub(super) struct HeavyClient {
    /// Its ClientId.
    clientid: String,
    /// Its shard.
    shard: usize,
    /// How much in that time; traffic is estimated from samples.
    total: u64,
    /// At most so much of it may be another client's.
    error: u64,
    /// The same for each second.
    per_second: f64,
}

/// The clients that weigh most.
#[derive(Serialize, ToSchema)]
pub(super) struct Top {
    /// The heaviest first.
    data: Vec<HeavyClient>,
    /// Of how many seconds, up to now: one to two minutes.
    seconds: f64,
}

async fn heaviest(context: &ApiContext, measure: Measure, limit: usize) -> Result<Top, ApiProblem> {
    let (mut data, mut longest) = (Vec::new(), 0.0_f64);
    for shard in 0..context.shards() {
        let found = context.ask(shard, move |shard| shard.heaviest(measure)).await?;
        let seconds = (found.millis as f64 / 1000.0).max(1.0);
        longest = longest.max(seconds);
        data.extend(found.rows.into_iter().map(|(clientid, total, error)| HeavyClient {
            clientid: clientid.into(),
            shard,
            total,
            error,
            per_second: total as f64 / seconds,
        }));
    }
    data.sort_by(|one, other| other.total.cmp(&one.total).then(one.clientid.cmp(&other.clientid)));
    data.truncate(limit);
    Ok(Top { data, seconds: longest })
}

/// The clients that weigh most in the last minute or two, by traffic, drops or slowness. Nobody is
/// visited for it: each shard keeps small sketches.
#[utoipa::path(get, path = "/top", tag = "clients", params(TopQuery),
    responses((status = 200, body = Top), (status = 400, body = Details)))]
pub(super) async fn top(
    axum::extract::State(context): ApiState,
    Query(wanted): Query<TopQuery>,
) -> JsonResult<Top> {
    let limit = wanted.limit.unwrap_or(USUAL);
    if limit == 0 || limit > MOST {
        return Err(ApiProblem::bad(format!("limit: it must be 1 to {MOST}")));
    }
    let measure = match wanted.by {
        By::BytesReceived => Measure::BytesReceived,
        By::BytesSent => Measure::BytesSent,
        By::MessagesReceived => Measure::MessagesReceived,
        By::MessagesSent => Measure::MessagesSent,
        By::Drops => Measure::Drops,
        By::SlowSends => Measure::SlowSends,
    };
    heaviest(&context, measure, limit).await.map(Json)
}

/// The clients that were slowest to take what was sent to them: `/top?by=slow_sends`.
#[utoipa::path(get, path = "/slow_subscriptions", tag = "clients",
    responses((status = 200, body = Top), (status = 503, body = Details)))]
pub(super) async fn slow(axum::extract::State(context): ApiState) -> JsonResult<Top> {
    heaviest(&context, Measure::SlowSends, MOST).await.map(Json)
}
