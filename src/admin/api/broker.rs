//! `/nodes`, `/stats`, `/metrics`, `/listeners`, `/configs`: the broker itself.

use super::problem::{ApiProblem, Details};
use super::{ApiContext, ApiState, JsonBody, JsonResult, Order, Path, when};
use crate::admin::{asking, process};
use crate::config::{LogLevel, Sources};
use crate::telemetry::Counters;
use crate::time::Instant;
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A broker.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub(super) struct NodeInfo {
    /// Its name.
    node: String,
    /// running, or late while a shard does not answer.
    node_status: &'static str,
    /// Its version.
    version: &'static str,
    /// Milliseconds since its start.
    uptime: u64,
    /// When it started.
    started_at: Option<String>,
    /// Shards: one for each core in use.
    shards: usize,
    /// Sessions, connected or away.
    connections: u64,
    /// Open connections: those of clients, and those whose CONNECT has not been answered yet.
    live_connections: u64,
    /// Bytes of memory in use.
    memory_used: Option<u64>,
    /// Seconds of CPU time since its start.
    cpu_seconds: Option<f64>,
    /// Open descriptors.
    open_fds: Option<u64>,
    /// Most descriptors.
    max_fds: Option<u64>,
}

/// A listener, open or stopped.
#[derive(Serialize, ToSchema)]
#[schema(as = Listener)]
pub(super) struct ListenerInfo {
    /// type:name.
    id: String,
    /// Its name.
    name: String,
    /// tcp, tls, ws, wss or unix.
    r#type: String,
    /// Where it listens.
    bind: String,
    /// It accepts connections.
    running: bool,
    /// Connections now.
    current_connections: u64,
    /// Most connections; null for no bound.
    max_connections: Option<u64>,
    /// Connections that came.
    accepted: u64,
    /// Of these, those that were refused, at accept or at CONNECT.
    refused: u64,
}

/// Figures by name.
#[derive(Serialize, ToSchema)]
#[schema(as = Figures, value_type = Object)]
pub(super) struct FigureMap(Map<String, Value>);

impl ApiContext {
    /// The sum over all shards that answer, and whether all of them did.
    pub(super) async fn sum(&self) -> (Counters, bool) {
        let answers = self.figures.ask(asking::PATIENCE).await;
        let mut sum = Counters::default();
        let figures = answers.iter().filter_map(|answer| answer.figures());
        figures.for_each(|figures| sum.add(&figures.counters));
        (sum, answers.iter().all(|answer| answer.figures().is_some()))
    }

    async fn node(&self) -> NodeInfo {
        let (sum, all) = self.sum().await;
        let process = process::measure();
        let uptime = self.api.zero.elapsed().unwrap_or_default();
        NodeInfo {
            node: self.api.node.clone(),
            node_status: if all { "running" } else { "late" },
            version: env!("CARGO_PKG_VERSION"),
            uptime: uptime.as_millis() as u64,
            started_at: when::shown(self.api.zero, Instant(0)),
            shards: self.shards(),
            connections: sum.sessions,
            live_connections: sum.connections_open,
            memory_used: process.resident_bytes,
            cpu_seconds: process.cpu.map(|cpu| cpu.as_secs_f64()),
            open_fds: process.open_fds,
            max_fds: process.max_fds,
        }
    }
}

/// The brokers.
#[utoipa::path(get, path = "/nodes", tag = "nodes",
    responses((status = 200, body = Vec<NodeInfo>)))]
pub(super) async fn nodes(axum::extract::State(context): ApiState) -> Json<Vec<NodeInfo>> {
    Json(vec![context.node().await])
}

/// One broker.
#[utoipa::path(get, path = "/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "Its name")),
    responses((status = 200, body = NodeInfo), (status = 404, body = Details)))]
pub(super) async fn node(
    axum::extract::State(context): ApiState,
    Path(name): Path<String>,
) -> JsonResult<NodeInfo> {
    if name != context.api.node {
        return Err(ApiProblem::unknown(format!("there is no node `{name}`")));
    }
    Ok(Json(context.node().await))
}

/// How much there is of everything, as EMQX names it.
#[utoipa::path(get, path = "/stats", tag = "nodes",
    responses((status = 200, body = Vec<FigureMap>)))]
pub(super) async fn stats(axum::extract::State(context): ApiState) -> Json<Vec<FigureMap>> {
    let (sum, _) = context.sum().await;
    let figures = json!({
        "node": context.api.node,
        "connections.count": sum.sessions,
        "live_connections.count": sum.connections_open,
        "sessions.count": sum.sessions,
        "sessions.offline.count": sum.sessions_persistent,
        "subscriptions.count": sum.subscriptions,
        "subscriptions.shared.count": sum.shared_subscriptions,
        "retained.count": sum.retained_messages,
        "retained.bytes": sum.retained_bytes,
        "pending.count": sum.pending_messages,
        "pending.bytes": sum.pending_bytes,
        "inflight.count": sum.inflight,
    });
    Json(figures.as_object().cloned().map(FigureMap).into_iter().collect())
}

/// Every figure of a shard, added up over all shards: the names and labels of `/metrics`.
#[utoipa::path(get, path = "/metrics", tag = "nodes",
    responses((status = 200, body = Vec<FigureMap>)))]
pub(super) async fn metrics(axum::extract::State(context): ApiState) -> Json<Vec<FigureMap>> {
    let (sum, _) = context.sum().await;
    let mut figures = Map::new();
    figures.insert("node".to_owned(), context.api.node.clone().into());
    for (figure, value) in Counters::DESCRIPTORS.iter().zip(sum.values()) {
        let labels: Vec<String> =
            figure.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let name = match labels.is_empty() {
            true => figure.name.to_owned(),
            false => format!("{}{{{}}}", figure.name, labels.join(",")),
        };
        let value = match figure.divisor() {
            1 => json!(value),
            divisor => json!(value as f64 / divisor as f64),
        };
        figures.insert(name, value);
    }
    Json(vec![FigureMap(figures)])
}

/// The listeners.
#[utoipa::path(get, path = "/listeners", tag = "listeners",
    responses((status = 200, body = Vec<ListenerInfo>)))]
pub(super) async fn listeners(axum::extract::State(context): ApiState) -> Json<Vec<ListenerInfo>> {
    let shown = |row: super::ListenerRow| ListenerInfo {
        id: format!("{}:{}", row.kind, row.name),
        name: row.name,
        r#type: row.kind,
        bind: row.bind,
        running: row.running,
        current_connections: row.connections,
        max_connections: row.max_connections,
        accepted: row.accepted,
        refused: row.refused,
    };
    Json((context.api.listeners)().into_iter().map(shown).collect())
}

/// The name of the listener whose id (`type:name`) or name is `id`.
fn listener_name(context: &ApiContext, id: &str) -> Result<String, ApiProblem> {
    let all = (context.api.listeners)();
    let known =
        all.into_iter().find(|row| id == row.name || *id == format!("{}:{}", row.kind, row.name));
    known
        .map(|row| row.name)
        .ok_or_else(|| ApiProblem::unknown(format!("there is no listener `{id}`")))
}

/// Closes a listener until it is started or the configuration is read again. Who is connected
/// stays.
#[utoipa::path(post, path = "/listeners/{id}/stop", tag = "listeners",
    params(("id" = String, Path, description = "Its id, or its name")),
    responses((status = 204, description = "Closed"), (status = 404, body = Details),
        (status = 422, body = Details, description = "It is not open")))]
pub(super) async fn stop_listener(
    axum::extract::State(context): ApiState,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiProblem> {
    context.order(Order::StopListener(listener_name(&context, &id)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Opens a listener that was stopped.
#[utoipa::path(post, path = "/listeners/{id}/start", tag = "listeners",
    params(("id" = String, Path, description = "Its id, or its name")),
    responses((status = 204, description = "Open"), (status = 404, body = Details),
        (status = 422, body = Details, description = "It is not stopped, or cannot be opened")))]
pub(super) async fn start_listener(
    axum::extract::State(context): ApiState,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiProblem> {
    context.order(Order::StartListener(listener_name(&context, &id)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets nobody new in: all listeners close, and `/readyz` says so, until `/resume` or the
/// configuration is read again. Who is connected stays.
#[utoipa::path(post, path = "/drain", tag = "nodes",
    responses((status = 204, description = "All listeners are closed")))]
pub(super) async fn drain(
    axum::extract::State(context): ApiState,
) -> Result<StatusCode, ApiProblem> {
    context.order(Order::Drain).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Opens the listeners that were stopped.
#[utoipa::path(post, path = "/resume", tag = "nodes",
    responses((status = 204, description = "Open again"),
        (status = 422, body = Details, description = "A listener cannot be opened")))]
pub(super) async fn resume(
    axum::extract::State(context): ApiState,
) -> Result<StatusCode, ApiProblem> {
    context.order(Order::Resume).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The configuration that is in force, as YAML, each value with where it comes from. Values that
/// may be secrets are left out.
#[utoipa::path(get, path = "/configs", tag = "configs",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn config(
    axum::extract::State(context): ApiState,
) -> Result<impl IntoResponse, ApiProblem> {
    let text = context.order(Order::Show).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text))
}

/// What is wrong with a configuration.
#[derive(Serialize, ToSchema)]
#[schema(as = Verdict)]
pub(super) struct ConfigVerdict {
    /// It could be used.
    valid: bool,
    /// Each problem, with line and key.
    problems: Vec<String>,
}

/// Says whether a configuration (YAML) is valid. Files that it names are not read, and nothing is
/// changed.
#[utoipa::path(post, path = "/configs/validate", tag = "configs",
    request_body(content = String, content_type = "application/yaml"),
    responses((status = 200, body = ConfigVerdict)))]
pub(super) async fn validate(text: String) -> Json<ConfigVerdict> {
    let problems = match Sources::default().load_from("request", text.as_bytes()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
    };
    Json(ConfigVerdict { valid: problems.is_empty(), problems })
}

/// Reads the configuration again, as SIGHUP does. Refused as a whole when something is wrong.
#[utoipa::path(post, path = "/configs/reload", tag = "configs",
    responses((status = 204, description = "Read; the new settings are on their way"),
        (status = 422, body = Details, description = "Nothing has changed")))]
pub(super) async fn reload(
    axum::extract::State(context): ApiState,
) -> Result<StatusCode, ApiProblem> {
    context.order(Order::Reload).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is logged. What is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedLevels {
    /// error, warn, info, debug or trace.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    level: Option<LogLevel>,
    /// Modules with a level of their own, and no others: `shard`, `ringmq::shard::publish`, or a
    /// library such as `rustls`.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    modules: Option<BTreeMap<String, LogLevel>>,
}

/// What is logged.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct ShownLevels {
    /// error, warn, info, debug or trace.
    level: String,
    /// Modules with a level of their own.
    modules: BTreeMap<String, String>,
}

async fn answered(context: &ApiContext, order: Order) -> JsonResult<ShownLevels> {
    let text = context.order(order).await?;
    let levels = serde_json::from_str(&text);
    levels.map(Json).map_err(|_| ApiProblem::busy("the levels cannot be shown"))
}

/// What is logged now.
#[utoipa::path(get, path = "/log", tag = "configs",
    responses((status = 200, body = ShownLevels)))]
pub(super) async fn levels(axum::extract::State(context): ApiState) -> JsonResult<ShownLevels> {
    answered(&context, Order::Levels).await
}

/// Logs at these levels until the next reload.
#[utoipa::path(put, path = "/log", tag = "configs", request_body = WantedLevels,
    responses((status = 200, body = ShownLevels), (status = 400, body = Details),
        (status = 422, body = Details, description = "There is no such module")))]
pub(super) async fn set_levels(
    axum::extract::State(context): ApiState,
    JsonBody(wanted): JsonBody<WantedLevels>,
) -> JsonResult<ShownLevels> {
    let modules = wanted.modules.map(|modules| modules.into_iter().collect());
    answered(&context, Order::SetLevels(wanted.level, modules)).await
}
