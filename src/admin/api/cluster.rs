//! `/cluster`: the other nodes, as this one sees them.

use super::problem::{ApiProblem, Details};
use super::{ApiState, JsonBody, Order};
use crate::telemetry::ClusterRow;
use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;

/// The number of clients per second that are sent away, unless the request says another.
const PER_SECOND: u32 = 1000;
/// The seconds that sessions may stay after the last client was sent away, unless the request says
/// another; and the largest value that it may say.
const PATIENCE: u32 = 60;
const LONGEST: u32 = 86_400;

/// A cluster, as one of its nodes sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Cluster)]
pub(super) struct ClusterInfo {
    /// Its name.
    cluster: String,
    /// The node that answers.
    node: String,
    /// The connection to a NATS server stands, and carries frames.
    connected: bool,
    /// Filters that the other nodes are told of.
    filters: u64,
    /// Messages sent to other nodes, once for each.
    messages_sent: u64,
    /// Messages of other nodes that were taken in.
    messages_received: u64,
    /// Messages for other nodes that were dropped, by reason.
    dropped: BTreeMap<&'static str, u64>,
    /// SUBACKs that went out though some node had not said that it knows the filters.
    subacks_unanswered: u64,
    /// Retained messages that other nodes were told of because they might lack them.
    retained_told: u64,
    /// Times that another node's retained messages were not those of this one.
    retained_differ: u64,
    /// Messages of share groups that a node which was lost had not acknowledged, and that went to
    /// another member.
    share_returned: u64,
    /// ClientIds that clients of this node claimed from the others.
    claims: u64,
    /// Claims that some node did not answer in time, or that were lost to a newer one.
    claims_failed: BTreeMap<&'static str, u64>,
    /// Sessions that came from other nodes, went there, and did not arrive.
    sessions_moved: BTreeMap<&'static str, u64>,
    /// Sessions on their way now.
    sessions_moving: u64,
    /// Wills of this node's clients, which the other nodes are told of.
    wills_told: u64,
    /// Wills of other nodes' clients that are kept here.
    wills_kept: u64,
    /// Bytes of both.
    wills_bytes: u64,
    /// Wills of clients of nodes that are gone, which this node has published.
    wills_published: u64,
    /// Wills of other nodes' clients that were forgotten, by reason.
    wills_dropped: BTreeMap<&'static str, u64>,
    /// The other nodes.
    nodes: Vec<OtherNode>,
}

/// Another node.
#[derive(Serialize, ToSchema)]
pub(super) struct OtherNode {
    /// Its name.
    node: String,
    /// It is heard.
    up: bool,
    /// Each of the two knows the filters of the other, and it was told of all retained messages.
    settled: bool,
    /// Milliseconds since it was heard.
    silent_millis: u64,
    /// The format of frames to it.
    format: u8,
    /// What both of the two can do: nodes of an earlier release have a lower level.
    level: u8,
    /// By how many milliseconds the time of the node that answers is ahead of its.
    clock_ahead_millis: i64,
    /// Filters that it has told of.
    filters: u64,
    /// Bytes of messages that it has not acknowledged.
    window_bytes: u64,
    /// Bytes of its messages that wait for a shard here.
    waiting_bytes: u64,
    /// Messages sent to it.
    messages_sent: u64,
    /// Messages received of it.
    messages_received: u64,
}

fn shown(row: ClusterRow) -> ClusterInfo {
    let node = |node: crate::telemetry::NodeRow| OtherNode {
        node: node.name,
        up: node.up,
        settled: node.settled,
        silent_millis: node.silent,
        format: node.format,
        level: node.level,
        clock_ahead_millis: node.ahead,
        filters: node.filters,
        window_bytes: node.window,
        waiting_bytes: node.waiting,
        messages_sent: node.messages.0,
        messages_received: node.messages.1,
    };
    ClusterInfo {
        cluster: row.name,
        node: row.node,
        connected: row.connected,
        filters: row.filters,
        messages_sent: row.sent,
        messages_received: row.received,
        dropped: row.dropped.into_iter().collect(),
        subacks_unanswered: row.unanswered,
        retained_told: row.retold,
        retained_differ: row.retained_differ,
        share_returned: row.unpassed,
        claims: row.claims,
        claims_failed: row.claims_failed.into_iter().collect(),
        sessions_moved: row.sessions.into_iter().collect(),
        sessions_moving: row.moving,
        wills_told: row.wills.told,
        wills_kept: row.wills.kept,
        wills_bytes: row.wills.bytes,
        wills_published: row.wills.published,
        wills_dropped: row.wills.dropped.into_iter().collect(),
        nodes: row.nodes.into_iter().map(node).collect(),
    }
}

/// The cluster that this broker is a node of; 404 when it is alone.
#[utoipa::path(get, path = "/cluster", tag = "nodes",
    responses((status = 200, body = ClusterInfo), (status = 404, body = super::problem::Details)))]
pub(super) async fn status(
    axum::extract::State(context): ApiState,
) -> Result<Json<ClusterInfo>, ApiProblem> {
    let row = (context.api.cluster)();
    row.map(|row| Json(shown(row))).ok_or_else(|| ApiProblem::unknown("this broker is alone"))
}

/// How a node leaves its cluster.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WantedLeave {
    /// Clients a second that are sent to other nodes.
    #[schema(minimum = 1)]
    per_second: u32,
    /// Seconds that sessions may take to be claimed by other nodes after the last client was sent
    /// away.
    #[schema(maximum = 86400)]
    patience: u32,
}

impl Default for WantedLeave {
    fn default() -> Self {
        WantedLeave { per_second: PER_SECOND, patience: PATIENCE }
    }
}

/// A node that leaves.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Leaves {
    /// Clients that it has.
    clients: u64,
}

/// Has this node leave its cluster, and stop: nobody new is let in, clients are sent to other nodes
/// (MQTT 5: with 0x9C, and the server reference of `overload.server_reference`), and their sessions
/// go to the nodes where they connect.
#[utoipa::path(post, path = "/cluster/leave", tag = "nodes", request_body = WantedLeave,
    responses((status = 202, body = Leaves, description = "It has begun"),
        (status = 400, body = Details),
        (status = 422, body = Details, description = "It cannot leave")))]
pub(super) async fn leave(
    axum::extract::State(context): ApiState,
    JsonBody(wanted): JsonBody<WantedLeave>,
) -> Result<(StatusCode, Json<Leaves>), ApiProblem> {
    let WantedLeave { per_second, patience } = wanted;
    if per_second == 0 || patience > LONGEST {
        return Err(ApiProblem::bad("body: per_second is at least 1, patience at most 86400"));
    }
    let patience = Duration::from_secs(patience.into());
    let answer = context.order(Order::LeaveCluster { per_second, patience }).await?;
    let leaves = serde_json::from_str(&answer);
    let leaves = leaves.map_err(|_| ApiProblem::busy("the control thread says something else"))?;
    Ok((StatusCode::ACCEPTED, Json(leaves)))
}
