//! `/trace`: every packet and decision of one client, user, address or topic, live or to be read
//! later.

use super::problem::{ApiProblem, Details};
use super::{ApiContext, ApiState, JsonBody, JsonResult, Path, Query};
use crate::admin::asking::ask_all;
use crate::admin::traces::{NotBegun, Trace, TraceStore, WantedTrace};
use crate::shard::TraceSubject;
use crate::topic;
use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use futures_lite::stream::{Stream, unfold};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::{IntoParams, ToSchema};

/// The duration of a trace in seconds, unless the request says another.
const USUAL: u64 = 600;
/// The longest trace in seconds.
const LONGEST: u64 = 24 * 3600;
/// The largest number of bytes of lines in one answer.
const MOST: usize = 1 << 20;
/// The largest number of bytes of a name.
const NAME: usize = 64;

/// What a trace follows.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum TraceKind {
    /// A client.
    Clientid,
    /// Clients with a user name.
    Username,
    /// Clients at an address.
    IpAddress,
    /// Messages with a topic.
    Topic,
}

/// Whether payloads are in it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Payload {
    /// No.
    #[default]
    Hidden,
    /// Their first KiB.
    Text,
}

/// A trace that is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Asked)]
pub(super) struct TraceRequest {
    /// Its name: letters, digits, - and _.
    name: String,
    /// What it follows; the field of the same name says which.
    r#type: TraceKind,
    /// Exactly this ClientId.
    #[serde(default)]
    clientid: Option<String>,
    /// Exactly this user name.
    #[serde(default)]
    username: Option<String>,
    /// This address.
    #[serde(default)]
    ip_address: Option<String>,
    /// A topic filter, mountpoints included.
    #[serde(default)]
    topic: Option<String>,
    /// Whether payloads are in it.
    #[serde(default)]
    payload_encode: Payload,
    /// How long it lasts.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86400, default = 600)]
    seconds: Option<u64>,
}

/// A trace.
#[derive(Serialize, ToSchema)]
pub(super) struct TraceInfo {
    /// Its name.
    name: String,
    /// What it follows.
    r#type: TraceKind,
    /// Which.
    of: String,
    /// Whether payloads are in it.
    payload_encode: Payload,
    /// running or stopped.
    status: &'static str,
    /// When it began.
    start_at: Option<String>,
    /// When it ends by itself.
    end_at: Option<String>,
    /// Lines so far; the newest 4 MiB are kept.
    lines: u64,
    /// Their bytes: the position where the next line begins.
    log_size: u64,
    /// Lines of all traces at the time that there was no room for.
    lost: u64,
}

impl TraceRequest {
    fn subject(&self) -> Result<TraceSubject, ApiProblem> {
        let given = [&self.clientid, &self.username, &self.ip_address, &self.topic];
        let (name, value) = match self.r#type {
            TraceKind::Clientid => ("clientid", &self.clientid),
            TraceKind::Username => ("username", &self.username),
            TraceKind::IpAddress => ("ip_address", &self.ip_address),
            TraceKind::Topic => ("topic", &self.topic),
        };
        let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else {
            return Err(ApiProblem::bad(format!("{name}: it must be given, as type says")));
        };
        if given.into_iter().flatten().count() > 1 {
            return Err(ApiProblem::bad(format!("type: only {name} can be given")));
        }
        match self.r#type {
            TraceKind::Clientid => Ok(TraceSubject::Client(value.into())),
            TraceKind::Username => Ok(TraceSubject::User(value.into())),
            TraceKind::Topic if topic::valid_filter(value) => Ok(TraceSubject::Topic(value.into())),
            TraceKind::Topic => Err(ApiProblem::bad("topic: it is no topic filter")),
            TraceKind::IpAddress => value
                .parse::<IpAddr>()
                .map(TraceSubject::Address)
                .map_err(|_| ApiProblem::bad(format!("ip_address: `{value}` is no address"))),
        }
    }
}

fn time(at: SystemTime) -> Option<String> {
    OffsetDateTime::from(at).replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}

fn shown(trace: &Trace) -> TraceInfo {
    let (kind, of) = match &trace.rule.subject {
        TraceSubject::Client(name) => (TraceKind::Clientid, name.to_string()),
        TraceSubject::User(name) => (TraceKind::Username, name.to_string()),
        TraceSubject::Address(address) => (TraceKind::IpAddress, address.to_string()),
        TraceSubject::Topic(filter) => (TraceKind::Topic, filter.to_string()),
    };
    TraceInfo {
        name: trace.name.clone(),
        r#type: kind,
        of,
        payload_encode: if trace.rule.payload { Payload::Text } else { Payload::Hidden },
        status: if trace.running { "running" } else { "stopped" },
        start_at: time(trace.began),
        end_at: time(trace.ends),
        lines: trace.count,
        log_size: trace.position(),
        lost: trace.lost,
    }
}

fn unknown(name: &str) -> ApiProblem {
    ApiProblem::unknown(format!("there is no trace `{name}`"))
}

fn one(traces: &TraceStore, name: &str) -> Result<TraceInfo, ApiProblem> {
    let all = traces.all();
    all.iter().find(|trace| trace.name == name).map(shown).ok_or_else(|| unknown(name))
}

/// Has every shard trace what the running traces want.
async fn apply(context: &ApiContext) -> Result<(), ApiProblem> {
    let _turn = context.turns.acquire().await.map_err(|_| ApiProblem::late(0))?;
    let rules = context.traces.rules();
    let answers = ask_all(&context.api.tell, move |shard| shard.trace(rules)).await;
    match answers.iter().position(Option::is_none) {
        Some(late) => Err(ApiProblem::late(late)),
        None => Ok(()),
    }
}

/// The traces.
#[utoipa::path(get, path = "/trace", tag = "trace",
    responses((status = 200, body = Vec<TraceInfo>)))]
pub(super) async fn list(axum::extract::State(context): ApiState) -> Json<Vec<TraceInfo>> {
    Json(context.traces.all().iter().map(shown).collect())
}

/// Begins a trace. It has every packet from the answer on.
#[utoipa::path(post, path = "/trace", tag = "trace", request_body = TraceRequest,
    responses((status = 200, body = TraceInfo), (status = 400, body = Details),
        (status = 409, body = Details, description = "There is one with that name")))]
pub(super) async fn begin(
    axum::extract::State(context): ApiState,
    JsonBody(asked): JsonBody<TraceRequest>,
) -> JsonResult<TraceInfo> {
    let fine = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    if asked.name.is_empty() || asked.name.len() > NAME || !asked.name.chars().all(fine) {
        let what = format!("name: 1 to {NAME} letters, digits, - and _");
        return Err(ApiProblem::bad(what));
    }
    let seconds = asked.seconds.unwrap_or(USUAL);
    if seconds == 0 || seconds > LONGEST {
        return Err(ApiProblem::bad(format!("seconds: it must be 1 to {LONGEST}")));
    }
    let (subject, name) = (asked.subject()?, asked.name);
    let (payload, lasts) = (asked.payload_encode == Payload::Text, Duration::from_secs(seconds));
    // The lines that shards still have may be of a trace that was removed, whose number this one
    // gets. From here on they are nobody's.
    if let Some(late) = context.traces.fetch(&context.api.tell, context.api.zero).await {
        return Err(ApiProblem::late(late));
    }
    match context.traces.begin(WantedTrace { name: name.clone(), subject, payload, lasts }) {
        Ok(()) => {}
        Err(NotBegun::Known) => {
            return Err(ApiProblem::conflict(format!("there is a trace `{name}`")));
        }
        Err(NotBegun::TooMany) => return Err(ApiProblem::busy("there are 8 traces; remove one")),
    }
    if let Err(late) = apply(&context).await {
        // The caller is told that there is none.
        context.traces.remove(|trace| trace.name == name);
        context.traces.tell(&context.api.tell);
        return Err(late);
    }
    Ok(Json(one(&context.traces, &name)?))
}

/// Ends a trace. It can be read until it is removed.
#[utoipa::path(put, path = "/trace/{name}/stop", tag = "trace",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, body = TraceInfo), (status = 404, body = Details)))]
pub(super) async fn stop(
    axum::extract::State(context): ApiState,
    Path(name): Path<String>,
) -> JsonResult<TraceInfo> {
    // The lines up to now belong to the trace, so they are fetched before it stops.
    context.traces.fetch(&context.api.tell, context.api.zero).await;
    context.traces.stop(|trace| trace.name == name);
    apply(&context).await?;
    Ok(Json(one(&context.traces, &name)?))
}

/// Ends and removes a trace.
#[utoipa::path(delete, path = "/trace/{name}", tag = "trace",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 204, description = "Done"), (status = 404, body = Details)))]
pub(super) async fn remove(
    axum::extract::State(context): ApiState,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiProblem> {
    if !context.traces.remove(|trace| trace.name == name) {
        return Err(unknown(&name));
    }
    // At once: another trace may get the number.
    context.traces.tell(&context.api.tell);
    apply(&context).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends and removes all traces.
#[utoipa::path(delete, path = "/trace", tag = "trace",
    responses((status = 204, description = "Done")))]
pub(super) async fn remove_all(
    axum::extract::State(context): ApiState,
) -> Result<StatusCode, ApiProblem> {
    context.traces.remove(|_| true);
    context.traces.tell(&context.api.tell);
    apply(&context).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which lines.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LineRange {
    /// Where the last answer ended (`meta.position`).
    position: u64,
    /// Most bytes; at least one line comes if there is one.
    #[param(minimum = 1, maximum = 1048576, default = 1048576)]
    bytes: Option<usize>,
}

/// Lines of a trace.
#[derive(Serialize, ToSchema)]
#[schema(as = Lines)]
pub(super) struct TraceLines {
    /// Whole lines, a JSON object each.
    items: String,
    /// Where they are.
    meta: LinePosition,
}

/// Where lines are.
#[derive(Serialize, ToSchema)]
#[schema(as = Place)]
struct LinePosition {
    /// Where the next line begins.
    position: u64,
    /// The bytes here.
    bytes: usize,
    /// No more lines will come.
    ended: bool,
}

/// Lines of a trace, from a position on.
#[utoipa::path(get, path = "/trace/{name}/log", tag = "trace",
    params(("name" = String, Path, description = "Its name"), LineRange),
    responses((status = 200, body = TraceLines), (status = 400, body = Details),
        (status = 404, body = Details)))]
pub(super) async fn log(
    axum::extract::State(context): ApiState,
    Path(name): Path<String>,
    Query(part): Query<LineRange>,
) -> JsonResult<TraceLines> {
    let most = part.bytes.unwrap_or(MOST);
    if most == 0 || most > MOST {
        return Err(ApiProblem::bad(format!("bytes: it must be 1 to {MOST}")));
    }
    let all = context.traces.all();
    let trace = all.iter().find(|trace| trace.name == name).ok_or_else(|| unknown(&name))?;
    let (items, position) = trace.read(part.position, most);
    let ended = !trace.running && position == trace.position();
    let meta = LinePosition { position, bytes: items.len(), ended };
    Ok(Json(TraceLines { items, meta }))
}

/// All lines of a trace that are kept, a JSON object each.
#[utoipa::path(get, path = "/trace/{name}/download", tag = "trace",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, body = String, content_type = "application/x-ndjson"),
        (status = 404, body = Details)))]
pub(super) async fn download(
    axum::extract::State(context): ApiState,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, ApiProblem> {
    let all = context.traces.all();
    let trace = all.iter().find(|trace| trace.name == name).ok_or_else(|| unknown(&name))?;
    let (text, _) = trace.read(0, usize::MAX);
    let file = format!("attachment; filename=\"{name}.ndjson\"");
    let kind = "application/x-ndjson".to_owned();
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, file)], text))
}

/// The lines of a trace as they come: server-sent events, each with the position behind it as its
/// id, from `Last-Event-ID` on. It ends with the trace, and after five minutes: go on with the id.
#[utoipa::path(get, path = "/trace/{name}/events", tag = "trace",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, body = String, content_type = "text/event-stream"),
        (status = 404, body = Details)))]
pub(super) async fn follow(
    axum::extract::State(context): ApiState,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiProblem> {
    one(&context.traces, &name)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let follower = Follower { context, name, at: last.unwrap_or(0) };
    Ok(Sse::new(unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    })))
}

struct Follower {
    context: Arc<ApiContext>,
    name: String,
    at: u64,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        loop {
            let news = self.context.traces.news();
            let (line, ended) = {
                let all = self.context.traces.all();
                let trace = all.iter().find(|trace| trace.name == self.name)?;
                let (line, next) = trace.read(self.at, 1);
                self.at = next;
                (line, !trace.running)
            };
            if !line.is_empty() {
                return Some(Event::default().id(self.at.to_string()).data(line.trim_end()));
            }
            if ended {
                return None;
            }
            // Lines may have come after the trace was read and before this waits, so the wait is
            // short.
            let _ = tokio::time::timeout(Duration::from_millis(200), news).await;
        }
    }
}
