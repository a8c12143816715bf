//! `/bridges`: the links to other brokers and services, and their figures.

use super::ApiState;
use crate::telemetry::BridgeRow;
use axum::Json;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A bridge.
#[derive(Serialize, ToSchema)]
#[schema(as = Bridge)]
pub(super) struct BridgeInfo {
    /// Its name.
    name: String,
    /// What is at its other end: mqtt, http or kafka.
    r#type: &'static str,
    /// idle, connecting, up, waiting or failed.
    status: &'static str,
    /// Connections that are up.
    connections: u64,
    /// Messages that wait, or are under way.
    waiting: u64,
    /// Bytes of them.
    waiting_bytes: u64,
    /// Most bytes that may wait.
    waiting_limit: u64,
    /// Messages that matched one of its filters.
    matched: u64,
    /// Messages that have arrived at the other end.
    delivered: u64,
    /// Messages that were brought from the other end and accepted.
    brought: u64,
    /// Connections that were made.
    connects: u64,
    /// Attempts that failed, and connections that ended otherwise than in order.
    failures: u64,
    /// Messages that were tried again.
    retries: u64,
    /// Batches on disk that were broken, and left out.
    damaged: u64,
    /// Reads and writes of the disk of its buffer that failed.
    disk_failures: BTreeMap<&'static str, u64>,
    /// There is no room for more, and publishers of what it takes wait (on_full: pause).
    full: bool,
    /// What waits on disk cannot be read now; it is tried again, and what comes waits behind it.
    unreadable: bool,
    /// Messages that were dropped, by reason.
    dropped: BTreeMap<&'static str, u64>,
    /// How often another MQTT broker has not taken a message, by its reason code.
    refused: BTreeMap<&'static str, u64>,
}

fn shown(row: BridgeRow) -> BridgeInfo {
    BridgeInfo {
        name: row.name,
        r#type: row.kind,
        status: row.state,
        connections: row.connections,
        waiting: row.waiting,
        waiting_bytes: row.waiting_bytes,
        waiting_limit: row.waiting_limit,
        matched: row.matched,
        delivered: row.delivered,
        brought: row.brought,
        connects: row.connects,
        failures: row.failures,
        retries: row.retries,
        damaged: row.damaged,
        disk_failures: row.disk_failures.into_iter().collect(),
        full: row.full,
        unreadable: row.unreadable,
        dropped: row.dropped.into_iter().collect(),
        refused: row.refused.into_iter().collect(),
    }
}

/// The bridges, in the order of the configuration.
#[utoipa::path(get, path = "/bridges", tag = "broker",
    responses((status = 200, body = Vec<BridgeInfo>)))]
pub(super) async fn list(axum::extract::State(context): ApiState) -> Json<Vec<BridgeInfo>> {
    Json((context.api.bridges)().into_iter().map(shown).collect())
}
