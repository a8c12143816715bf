//! `/clients`: who is connected, what a client does, and how an operator ends it.

use super::explain::Drops;
use super::page::{Page, paged};
use super::problem::{ApiProblem, Details};
use super::{ApiContext, ApiState, JsonBody, JsonResult, Path, Query, when};
use crate::ids::Peer;
use crate::packet::Version;
use crate::shard::Shard;
use crate::shard::inquiry::{ClientDetails, ClientQuery, ClientTraffic};
use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// The largest number of clients that one request may disconnect.
const MANY: usize = 1000;

/// A client, connected or away.
#[derive(Serialize, ToSchema)]
#[schema(as = Client)]
pub(super) struct ClientInfo {
    /// Its ClientId.
    clientid: String,
    /// Its user name; null where nobody checks these.
    username: Option<String>,
    /// The common name of its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    cn: Option<String>,
    /// The node that it is at home on.
    node: String,
    /// The shard that it is at home on.
    shard: u8,
    /// It is connected.
    connected: bool,
    /// Since when the last connection is or was, to within four seconds.
    connected_at: Option<String>,
    /// While it is away: when its session ends, if ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_ends_at: Option<String>,
    /// Its address.
    ip_address: Option<String>,
    /// Its port.
    port: Option<u16>,
    /// The listener that it is connected to.
    listener: Option<String>,
    /// Always MQTT.
    proto_name: &'static str,
    /// 3 for MQTT 3.1, 4 for 3.1.1, 5 for 5.0.
    proto_ver: u8,
    /// Milliseconds of silence after which it is disconnected; 0 for any.
    silence_allowed: u32,
    /// Its session ends with its connection.
    clean_start: bool,
    /// Session Expiry Interval in seconds; 4294967295 for never.
    expiry_interval: u32,
    /// The prefix of its topics.
    mountpoint: String,
    /// No rule of the configuration holds for it.
    is_superuser: bool,
    /// It is a bridge.
    is_bridge: bool,
    /// It has left a will.
    has_will: bool,
    /// Subscriptions, those in share groups included.
    subscriptions_cnt: usize,
    /// QoS 1 and 2 messages that it has not acknowledged.
    inflight_cnt: u16,
    /// Most of these.
    inflight_max: u16,
    /// Messages that wait for it.
    mqueue_len: usize,
    /// Their bytes.
    mqueue_bytes: usize,
    /// Most messages that may wait.
    mqueue_max: usize,
    /// QoS 2 messages from it that it has not released.
    awaiting_rel_cnt: usize,
    /// Bytes sent to it that its host has not taken yet.
    unsent_bytes: usize,
    /// What it sends is not taken at present: backpressure.
    held: bool,
}

/// A client by itself: with what is known of its past.
#[derive(Serialize, ToSchema)]
pub(super) struct OneClient {
    #[serde(flatten)]
    client: ClientInfo,
    /// How its last connection before this one ended, or its last one while it is away. Null when
    /// there was none, or over 1,024 connections of other clients have ended on its shard since.
    last_disconnect: Option<LastDisconnect>,
    /// Its traffic in the last one to two minutes.
    recent_traffic: Option<Traffic>,
    /// What has been dropped for it.
    drops: Option<Drops>,
}

/// How a connection ended.
#[derive(Serialize, ToSchema)]
struct LastDisconnect {
    /// When.
    at: Option<String>,
    /// Why.
    reason: &'static str,
    /// The reason code of the DISCONNECT from or to the client; null when there was none.
    reason_code: Option<u8>,
}

/// The traffic of a client. Each message is counted among its shard's first 1,024 in each direction
/// of each minute, with its bytes, and everything else is sampled: what is surely this client's,
/// which may be 0 if it has less than about 1/128 of its shard's traffic.
#[derive(Serialize, ToSchema)]
struct Traffic {
    /// How many seconds it covers.
    seconds: f64,
    /// PUBLISH packets from it.
    recv_msg: u64,
    /// Bytes of packets from it.
    recv_oct: u64,
    /// PUBLISH packets to it.
    send_msg: u64,
    /// Their bytes.
    send_oct: u64,
}

impl From<ClientTraffic> for Traffic {
    fn from(of: ClientTraffic) -> Traffic {
        let ((recv_msg, recv_oct), (send_msg, send_oct)) = (of.received, of.sent);
        Traffic { seconds: of.millis as f64 / 1000.0, recv_msg, recv_oct, send_msg, send_oct }
    }
}

paged! {
    /// Which clients.
    pub(super) struct ClientFilter {
        /// Exactly this ClientId.
        clientid: Option<String>,
        /// The ClientId begins with it.
        prefix_clientid: Option<String>,
        /// The ClientId contains it.
        like_clientid: Option<String>,
        /// Exactly this user name.
        username: Option<String>,
        /// The user name contains it.
        like_username: Option<String>,
        /// The address, without port.
        #[param(value_type = Option<String>)]
        ip_address: Option<std::net::IpAddr>,
        /// connected or disconnected.
        #[param(inline)]
        conn_state: Option<ConnState>,
        /// Whether messages wait for it, or what it sends is held back.
        busy: Option<bool>,
        /// 3, 4 or 5.
        #[param(minimum = 3, maximum = 5)]
        proto_ver: Option<u8>,
        /// The name of the listener.
        listener: Option<String>,
        /// Connected at this time or later: RFC 3339, or milliseconds since 1970.
        gte_connected_at: Option<String>,
        /// Connected at this time or earlier.
        lte_connected_at: Option<String>,
    }
}

/// Whether a client is connected.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ConnState {
    Connected,
    Disconnected,
}

impl ClientFilter {
    /// Whether every client passes the filter.
    fn is_open(&self) -> bool {
        let texts = [
            &self.prefix_clientid,
            &self.like_clientid,
            &self.username,
            &self.like_username,
            &self.listener,
            &self.gte_connected_at,
            &self.lte_connected_at,
        ];
        texts.iter().all(|text| text.is_none())
            && self.ip_address.is_none()
            && self.conn_state.is_none()
            && self.busy.is_none()
            && self.proto_ver.is_none()
    }

    fn query(self, context: &ApiContext) -> Result<ClientQuery, ApiProblem> {
        let time = |name: &str, text: Option<String>| {
            let read = text.map(|text| when::read(context.api.zero, &text)).transpose();
            read.map_err(|what| ApiProblem::bad(format!("{name}: {what}")))
        };
        let version = match self.proto_ver {
            None => None,
            Some(3) => Some(Version::V31),
            Some(4) => Some(Version::V311),
            Some(5) => Some(Version::V5),
            Some(_) => return Err(ApiProblem::bad("proto_ver: it must be 3, 4 or 5")),
        };
        Ok(ClientQuery {
            prefix: self.prefix_clientid.unwrap_or_default().into(),
            contains: self.like_clientid.unwrap_or_default().into(),
            username: self.username.map(Into::into),
            username_contains: self.like_username.unwrap_or_default().into(),
            address: self.ip_address,
            listener: self.listener.map(Into::into),
            version,
            connected: self.conn_state.map(|state| matches!(state, ConnState::Connected)),
            busy: self.busy,
            connected_from: time("gte_connected_at", self.gte_connected_at)?,
            connected_to: time("lte_connected_at", self.lte_connected_at)?,
        })
    }
}

fn shown(context: &ApiContext, of: ClientDetails) -> ClientInfo {
    let (address, port) = match of.peer {
        Some(Peer::Tcp(address, port)) => (Some(address.to_string()), Some(port)),
        Some(Peer::Unix) | None => (None, None),
    };
    let time = |at| when::shown(context.api.zero, at);
    ClientInfo {
        clientid: of.client_id.into(),
        username: of.username.map(Into::into),
        cn: of.common_name.map(Into::into),
        node: context.api.node.clone(),
        shard: of.shard,
        connected: of.connected,
        connected_at: of.since.and_then(time),
        session_ends_at: of.ends.and_then(time),
        ip_address: address,
        port,
        listener: of.listener.map(Into::into),
        proto_name: "MQTT",
        proto_ver: match of.version {
            Version::V31 => 3,
            Version::V311 => 4,
            Version::V5 => 5,
        },
        silence_allowed: of.patience,
        clean_start: of.expiry == 0,
        expiry_interval: of.expiry,
        mountpoint: of.mountpoint.into(),
        is_superuser: of.superuser,
        is_bridge: of.bridge,
        has_will: of.has_will,
        subscriptions_cnt: of.subscriptions,
        inflight_cnt: of.inflight,
        inflight_max: of.inflight_max,
        mqueue_len: of.pending,
        mqueue_bytes: of.pending_bytes,
        mqueue_max: of.pending_max,
        awaiting_rel_cnt: of.unreleased,
        unsent_bytes: of.unsent,
        held: of.held,
    }
}

/// Clients, connected or away, in no particular order.
#[utoipa::path(get, path = "/clients", tag = "clients", params(ClientFilter),
    responses((status = 200, body = Page<ClientInfo>), (status = 400, body = Details)))]
pub(super) async fn list(
    axum::extract::State(context): ApiState,
    Query(filter): Query<ClientFilter>,
) -> JsonResult<Page<ClientInfo>> {
    let wanted = filter.paging().checked::<u32>()?;
    if let Some(client_id) = filter.clientid.clone() {
        let query = filter.query(&context)?;
        let home = context.home(&client_id);
        let ask = move |shard: &mut Shard| shard.client_that_fits(&client_id, &query);
        let found = context.ask(home, ask).await?;
        let all = found.into_iter().map(|one| shown(&context, one)).collect();
        return Ok(Json(wanted.page_of(all)));
    }
    let open = filter.is_open();
    let query = Arc::new(filter.query(&context)?);
    let ask = move |shard: &mut Shard, from: &u32, most| shard.clients(*from, &query, most);
    let (rows, next) = context.collect(&wanted, ask).await?;
    let count = if open { Some(context.sum().await.0.sessions) } else { None };
    let data = rows.into_iter().map(|one| shown(&context, one)).collect();
    Ok(Json(wanted.page(data, count, next)))
}

fn unknown(client_id: &str) -> ApiProblem {
    ApiProblem::unknown(format!("there is no client `{client_id}`"))
}

/// One client.
#[utoipa::path(get, path = "/clients/{clientid}", tag = "clients",
    params(("clientid" = String, Path, description = "Its ClientId")),
    responses((status = 200, body = OneClient),
        (status = 404, body = Details, description = "Also says how its last connection ended")))]
pub(super) async fn one(
    axum::extract::State(context): ApiState,
    Path(client_id): Path<String>,
) -> JsonResult<OneClient> {
    let name = client_id.clone();
    let look = move |shard: &mut Shard| {
        let past = (shard.traffic_of(&name), shard.dropped_for(&name));
        (shard.client(&name), shard.departure_of(&name), past)
    };
    let (found, departure, past) = context.ask(context.home(&client_id), look).await?;
    let last_disconnect = departure.map(|end| LastDisconnect {
        at: when::shown(context.api.zero, end.at),
        reason: end.reason,
        reason_code: end.code,
    });
    let Some(found) = found else {
        return Err(match last_disconnect {
            None => unknown(&client_id),
            Some(end) => ApiProblem::unknown(format!(
                "there is no client `{client_id}`: its last connection ended at {}: {}",
                end.at.as_deref().unwrap_or("an unknown time"),
                end.reason
            )),
        });
    };
    let (traffic, drops) = past;
    Ok(Json(OneClient {
        client: shown(&context, found),
        last_disconnect,
        recent_traffic: traffic.map(Traffic::from),
        drops: drops.map(Drops::from),
    }))
}

async fn end(context: &ApiContext, client_id: &str, and_session: bool) -> Result<bool, ApiProblem> {
    let name = client_id.to_owned();
    context.ask(context.home(client_id), move |shard| shard.kick(&name, and_session)).await
}

/// Disconnects a client (reason 0x98) and ends its session.
#[utoipa::path(delete, path = "/clients/{clientid}", tag = "clients",
    params(("clientid" = String, Path, description = "Its ClientId")),
    responses((status = 204, description = "Done"), (status = 404, body = Details)))]
pub(super) async fn kick(
    axum::extract::State(context): ApiState,
    Path(client_id): Path<String>,
) -> Result<StatusCode, ApiProblem> {
    match end(&context, &client_id, true).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(unknown(&client_id)),
    }
}

/// Disconnects a client (reason 0x98); its session stays if it has an expiry.
#[utoipa::path(post, path = "/clients/{clientid}/disconnect", tag = "clients",
    params(("clientid" = String, Path, description = "Its ClientId")),
    responses((status = 204, description = "Done"), (status = 404, body = Details)))]
pub(super) async fn disconnect(
    axum::extract::State(context): ApiState,
    Path(client_id): Path<String>,
) -> Result<StatusCode, ApiProblem> {
    match end(&context, &client_id, false).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiProblem::unknown(format!("`{client_id}` is not connected"))),
    }
}

/// Disconnects many clients and ends their sessions; unknown ones are passed over.
#[utoipa::path(post, path = "/clients/kickout/bulk", tag = "clients",
    request_body(content = Vec<String>, description = "ClientIds, at most 1,000"),
    responses((status = 204, description = "Done"), (status = 400, body = Details)))]
pub(super) async fn kick_many(
    axum::extract::State(context): ApiState,
    JsonBody(client_ids): JsonBody<Vec<String>>,
) -> Result<StatusCode, ApiProblem> {
    if client_ids.len() > MANY {
        return Err(ApiProblem::bad(format!("body: more than {MANY} ClientIds")));
    }
    for client_id in &client_ids {
        end(&context, client_id, true).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
