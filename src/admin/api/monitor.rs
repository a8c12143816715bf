//! `/monitor`, `/alarms` and `/doctor`: the last hour, the alarms, and what the host lacks.

use super::problem::{ApiProblem, Details};
use super::{ApiState, JsonResult, Order, Query};
use crate::admin::history::Sample;
use crate::telemetry::alarms::Alarm;
use axum::Json;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// Which samples.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub(super) struct MonitorQuery {
    /// Only later ones: milliseconds since 1970.
    since: u64,
}

/// A sample for each second of the last hour, the oldest first.
#[utoipa::path(get, path = "/monitor", tag = "nodes", params(MonitorQuery),
    responses((status = 200, body = Vec<Sample>), (status = 400, body = Details)))]
pub(super) async fn samples(
    axum::extract::State(context): ApiState,
    Query(wanted): Query<MonitorQuery>,
) -> Json<Vec<Sample>> {
    Json(context.history.since(wanted.since))
}

/// Which alarms.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WhichAlarms {
    /// Those that are raised, as without this, or the last 100 that are over.
    #[param(default = true)]
    activated: Option<bool>,
}

/// An alarm.
#[derive(Serialize, ToSchema)]
pub(super) struct ShownAlarm {
    /// Its name.
    name: &'static str,
    /// The node.
    node: String,
    /// What was read when it was raised.
    message: String,
    /// When it was raised, milliseconds since 1970.
    activate_at: u64,
    /// When it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    deactivate_at: Option<u64>,
}

/// Alarms: what somebody has to look at.
#[utoipa::path(get, path = "/alarms", tag = "alarms", params(WhichAlarms),
    responses((status = 200, body = Vec<ShownAlarm>), (status = 400, body = Details)))]
pub(super) async fn alarms(
    axum::extract::State(context): ApiState,
    Query(which): Query<WhichAlarms>,
) -> Json<Vec<ShownAlarm>> {
    let list = context.broker.borrow().alarms.clone();
    let shown = |alarm: &Alarm| ShownAlarm {
        name: alarm.name,
        node: context.api.node.clone(),
        message: alarm.message.clone(),
        activate_at: alarm.activate_at,
        deactivate_at: alarm.deactivate_at,
    };
    Json(match which.activated {
        Some(false) => list.past.iter().map(shown).collect(),
        Some(true) | None => list.active.iter().map(shown).collect(),
    })
}

/// What `ringmq doctor` says of this host and the configuration in force.
#[utoipa::path(get, path = "/doctor", tag = "nodes",
    responses((status = 200, body = Object), (status = 503, body = Details)))]
pub(super) async fn doctor(axum::extract::State(context): ApiState) -> JsonResult<Value> {
    let text = context.order(Order::Doctor).await?;
    let report = serde_json::from_str(&text);
    report.map(Json).map_err(|_| ApiProblem::busy("doctor's report cannot be read"))
}
