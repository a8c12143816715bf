//! The management API below `/api/v1`: what operators ask of a running broker and have it do.
//!
//! Names of paths, parameters and fields follow EMQX's version 5 where the thing is the same, so
//! that a script only needs another prefix. The OpenAPI document (`/api/v1/openapi.json`) is made
//! from the handlers, so no route can lack its description.
//!
//! A handler runs on the admin thread. It asks the shards for what they know in slices
//! ([`crate::shard::inquiry`]). Each slice is a bounded part of one step, and a shard is asked for
//! at most one in each [`GAP`], however many requests there are. At most [`AT_ONCE`] requests ask
//! at the same time, and a request that takes longer than [`REQUEST_TIME`] ends with 503.
//!
//! [`super::guard`] decides who may call what: a handler is registered for the lowest role that may
//! use it ([`router`]).

mod banned;
mod bridges;
mod broker;
mod clients;
mod cluster;
mod document;
mod explain;
mod groups;
mod messages;
mod monitor;
mod page;
mod problem;
mod retained;
mod subscriptions;
mod top;
mod trace;
mod when;

use super::asking;
use super::figures::ShardFigures;
use super::guard::{self, Guard};
use super::history::SampleHistory;
use super::page_source::PageSource;
use super::traces::TraceStore;
use super::{Placement, ROLES};
use crate::admin::guard::Role;
pub use crate::bridge::inward::{Inquiry, Submit, Tell};
use crate::config::LogLevel;
use crate::shard::Shard;
use crate::shard::inquiry::Slice;
pub use crate::telemetry::ListenerRow;
use crate::telemetry::{BridgeRow, ClusterRow};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use page::{ListPosition, ListSlice};
pub(super) use problem::ApiProblem;
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The largest body of a request in bytes.
pub const BODY: usize = 4 << 20;
/// The longest time of a request.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// The largest number of rows in a slice. A shard takes about 50 microseconds to build them.
const SLICE: usize = 64;
/// The shortest time between two questions to one shard: they take a twentieth of its time at most,
/// and hardly any message has to wait for two of them.
const GAP: Duration = Duration::from_millis(1);
/// The number of requests that ask shards at the same time. Further ones wait for their turn.
const AT_ONCE: usize = 4;

/// What the control thread is to do for an operator. If it fails, it answers with sentences.
#[derive(Debug)]
pub enum Order {
    /// Look at the host, as `ringmq doctor --json` does.
    Doctor,
    /// Read the configuration again, as SIGHUP does.
    Reload,
    /// Log at this level, and these modules at levels of their own, until the next reload. What is
    /// `None` stays as it is.
    SetLevels(Option<LogLevel>, Option<Vec<(String, LogLevel)>>),
    /// Return what is logged now, as JSON.
    Levels,
    /// Close the listener of that name. Its clients stay connected.
    StopListener(String),
    /// Open that listener again.
    StartListener(String),
    /// Close all listeners, so that no new client gets in, and `/readyz` says so.
    Drain,
    /// Open the listeners that are closed.
    Resume,
    /// Leave the cluster: send the clients to other nodes at a certain rate, and stop when their
    /// sessions are there, or a certain time after the last client was sent.
    LeaveCluster {
        /// The number of clients per second, for the whole node.
        per_second: u32,
        /// How long sessions may take to be claimed by other nodes.
        patience: Duration,
    },
    /// Return the configuration that is in force, as YAML with the origin of each value; or what is
    /// wrong with it.
    Show,
}

/// The channel for the outcome of an order.
pub type OrderReply = oneshot::Sender<Result<String, Vec<String>>>;
/// An order, and the channel for its outcome.
pub type Ordered = (Order, OrderReply);

/// What the API needs from the broker.
pub struct Api {
    /// For each shard, in order: gives it an inquiry.
    pub tell: Vec<Tell>,
    /// For each shard, in order: gives it something to publish.
    pub submit: Vec<Submit>,
    /// The wall-clock time at the zero of the shards' clock.
    pub zero: SystemTime,
    /// The name of this node.
    pub node: String,
    /// Gives an order to the control thread.
    pub order: Box<dyn Fn(Ordered) + Send + Sync>,
    /// Returns the bridges.
    pub bridges: Box<dyn Fn() -> Vec<BridgeRow> + Send + Sync>,
    /// Returns the cluster, if this broker is a node of one.
    pub cluster: Box<dyn Fn() -> Option<ClusterRow> + Send + Sync>,
    /// Returns the listeners, open or stopped.
    pub listeners: Box<dyn Fn() -> Vec<ListenerRow> + Send + Sync>,
}

/// What outlives a panic of the admin thread.
#[derive(Clone, Default)]
pub(super) struct AdminMemory {
    history: SampleHistory,
    traces: Arc<TraceStore>,
}

impl AdminMemory {
    /// What it has, for another thread, if the one that has panicked did not keep a lock of it.
    pub(super) fn rescued(&self) -> AdminMemory {
        let traces = Arc::new(self.traces.rescued());
        AdminMemory { history: self.history.rescued(), traces }
    }
}

/// What every handler can use.
pub(super) struct ApiContext {
    api: Arc<Api>,
    figures: Arc<ShardFigures>,
    placement: Placement,
    turns: Semaphore,
    /// When each shard may be asked next.
    next: Vec<Mutex<Instant>>,
    history: SampleHistory,
    traces: Arc<TraceStore>,
    broker: watch::Receiver<super::BrokerState>,
    /// Decides who may call.
    pub(super) guard: Arc<Guard>,
}

type ApiState = axum::extract::State<Arc<ApiContext>>;
type JsonResult<T> = Result<Json<T>, ApiProblem>;

impl ApiContext {
    fn shards(&self) -> usize {
        self.api.tell.len()
    }

    fn home(&self, client_id: &str) -> usize {
        usize::from((self.placement)(client_id))
    }

    /// Has a shard do something within a step, and waits for the result.
    async fn ask<T: Send + 'static>(
        &self,
        shard: usize,
        question: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> Result<T, ApiProblem> {
        let _turn = self.turns.acquire().await.map_err(|_| ApiProblem::late(shard))?;
        let tell = self.api.tell.get(shard).ok_or_else(|| ApiProblem::late(shard))?;
        self.pause_before(shard).await;
        asking::ask(tell, question).await.ok_or_else(|| ApiProblem::late(shard))
    }

    /// Waits until the shard may be asked again, and notes that it is asked then.
    async fn pause_before(&self, shard: usize) {
        let Some(next) = self.next.get(shard) else { return };
        let at = {
            let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = (*next).max(Instant::now());
            *next = at + GAP;
            at
        };
        sleep_until(at).await;
    }

    /// Has a shard publish something, and waits for the result.
    async fn submit<T: Send + 'static>(
        &self,
        shard: usize,
        publish: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> Result<T, ApiProblem> {
        let _turn = self.turns.acquire().await.map_err(|_| ApiProblem::late(shard))?;
        let submit = self.api.submit.get(shard).ok_or_else(|| ApiProblem::late(shard))?;
        asking::submit(submit, publish).await.ok_or_else(|| ApiProblem::late(shard))
    }

    /// A page of a list that extends over all shards. `question` asks one shard for a slice: from a
    /// position on, and at most so many rows.
    async fn collect<T, C>(
        &self,
        wanted: &ListSlice<C>,
        question: impl Fn(&mut Shard, &C, usize) -> Slice<T, C> + Clone + Send + 'static,
    ) -> Result<(Vec<T>, Option<ListPosition<C>>), ApiProblem>
    where
        T: Send + 'static,
        C: Clone + Default + Send + 'static,
    {
        let (mut rows, mut skip) = (Vec::new(), wanted.skip);
        let mut at = wanted.from.at.clone();
        for shard in wanted.from.shard..self.shards() {
            loop {
                let most = (wanted.limit - rows.len() + skip).min(SLICE);
                let (question, from) = (question.clone(), at.clone());
                let slice = self.ask(shard, move |shard| question(shard, &from, most)).await?;
                let passed = skip.min(slice.rows.len());
                skip -= passed;
                rows.extend(slice.rows.into_iter().skip(passed));
                let Some(next) = slice.next else { break };
                if rows.len() >= wanted.limit {
                    return Ok((rows, Some(ListPosition { shard, at: next })));
                }
                at = next;
            }
            at = C::default();
            if rows.len() >= wanted.limit {
                let more = shard + 1 < self.shards();
                return Ok((rows, more.then_some(ListPosition { shard: shard + 1, at })));
            }
        }
        Ok((rows, None))
    }

    /// Has the control thread carry out an order, and waits for the outcome.
    async fn order(&self, order: Order) -> Result<String, ApiProblem> {
        let (reply, answer) = oneshot::channel();
        (self.api.order)((order, reply));
        match timeout(REQUEST_TIME / 2, answer).await {
            Ok(Ok(Ok(done))) => Ok(done),
            Ok(Ok(Err(problems))) => Err(ApiProblem::refused(problems)),
            Ok(Err(_)) | Err(_) => Err(ApiProblem::busy("the control thread does not answer")),
        }
    }
}

fn viewers() -> OpenApiRouter<Arc<ApiContext>> {
    OpenApiRouter::new()
        .routes(routes!(broker::nodes))
        .routes(routes!(broker::node))
        .routes(routes!(broker::stats))
        .routes(routes!(broker::metrics))
        .routes(routes!(broker::listeners))
        .routes(routes!(bridges::list))
        .routes(routes!(cluster::status))
        .routes(routes!(monitor::samples))
        .routes(routes!(monitor::doctor))
        .routes(routes!(monitor::alarms))
        .routes(routes!(banned::list))
        .routes(routes!(clients::list))
        .routes(routes!(clients::one))
        .routes(routes!(subscriptions::of_client))
        .routes(routes!(subscriptions::list))
        .routes(routes!(subscriptions::topics))
        .routes(routes!(groups::list))
        .routes(routes!(groups::members))
        .routes(routes!(retained::list))
        .routes(routes!(retained::one))
        .routes(routes!(explain::explain))
        .routes(routes!(top::top))
        .routes(routes!(top::slow))
        .routes(routes!(guard::whoami))
        .routes(routes!(guard::logout))
}

fn operators() -> OpenApiRouter<Arc<ApiContext>> {
    OpenApiRouter::new()
        .routes(routes!(clients::kick))
        .routes(routes!(clients::disconnect))
        .routes(routes!(clients::kick_many))
        .routes(routes!(banned::add))
        .routes(routes!(banned::lift))
        .routes(routes!(retained::clear))
        .routes(routes!(messages::publish))
        .routes(routes!(messages::publish_many))
        .routes(routes!(trace::list, trace::begin, trace::remove_all))
        .routes(routes!(broker::stop_listener))
        .routes(routes!(broker::start_listener))
        .routes(routes!(broker::drain))
        .routes(routes!(broker::resume))
        .routes(routes!(trace::stop))
        .routes(routes!(trace::remove))
        .routes(routes!(trace::log))
        .routes(routes!(trace::download))
        .routes(routes!(trace::follow))
}

fn administrators() -> OpenApiRouter<Arc<ApiContext>> {
    OpenApiRouter::new()
        .routes(routes!(broker::config))
        .routes(routes!(broker::validate))
        .routes(routes!(broker::reload))
        .routes(routes!(broker::levels, broker::set_levels))
        .routes(routes!(cluster::leave))
}

/// All routes, each behind the guard, and the document that describes them. Must be called within
/// the server's loop, where it starts two tasks.
pub(super) fn router(
    api: Arc<Api>,
    memory: AdminMemory,
    source: &PageSource,
    guard: Arc<Guard>,
) -> Router {
    let (AdminMemory { history, traces }, figures) = (memory, source.figures());
    tokio::task::spawn_local(history.clone().watch(Arc::clone(&figures)));
    tokio::task::spawn_local(Arc::clone(&traces).tend(api.tell.clone(), api.zero));
    let broker = source.state();
    let (turns, placement) = (Semaphore::new(AT_ONCE), source.placement());
    let next = api.tell.iter().map(|_| Mutex::new(Instant::now())).collect();
    let context = Arc::new(ApiContext {
        api,
        figures,
        placement,
        turns,
        next,
        history,
        traces,
        broker,
        guard,
    });
    let for_role = |routes: OpenApiRouter<Arc<ApiContext>>, least: Role| {
        let door = (Arc::clone(&context), least);
        routes.route_layer(middleware::from_fn_with_state(door, guard::pass))
    };
    let [viewer, operator, admin] = ROLES;
    let version_1 = OpenApiRouter::new()
        .merge(for_role(viewers(), viewer))
        .merge(for_role(operators(), operator))
        .merge(for_role(administrators(), admin))
        .merge(
            OpenApiRouter::new()
                .routes(routes!(guard::login))
                .layer(DefaultBodyLimit::max(guard::LOGIN_BODY)),
        );
    let (router, document) =
        OpenApiRouter::with_openapi(document::head()).nest("/api/v1", version_1).split_for_parts();
    let document = Arc::new(document::completed(document));
    router
        .route("/api/v1/openapi.json", get(move || async move { Json(&*document).into_response() }))
        .fallback(|| async {
            ApiProblem::unknown("there is no such path; see /api/v1/openapi.json")
        })
        .method_not_allowed_fallback(|| async { ApiProblem::method() })
        .layer(DefaultBodyLimit::max(BODY))
        .layer(middleware::from_fn(bounded))
        .with_state(context)
}

/// Ends requests that take too long, and adds the headers that every answer has.
async fn bounded(request: Request, next: middleware::Next) -> Response {
    let length = request.headers().get("content-length").and_then(|value| value.to_str().ok());
    let announced = length.and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
    let mut answer = if announced > BODY {
        ApiProblem::of_body(StatusCode::PAYLOAD_TOO_LARGE, "").into_response()
    } else {
        match timeout(REQUEST_TIME, next.run(request)).await {
            Ok(answer) => answer,
            Err(_) => ApiProblem::busy("the request took too long").into_response(),
        }
    };
    let headers = answer.headers_mut();
    headers.insert("cache-control", super::NO_STORE);
    super::secure_headers(headers);
    answer
}

/// The query of a request. Unknown parameters are refused.
struct Query<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiProblem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Query(query)),
            Err(rejection) => Err(ApiProblem::bad(plain(&rejection.body_text()))),
        }
    }
}

/// The message of the framework without its introduction.
fn plain(text: &str) -> &str {
    let behind = |head: &str| text.strip_prefix(head);
    let plain = behind("Failed to deserialize query string: ")
        .or_else(|| behind("Failed to deserialize the JSON body into the target type: "))
        .or_else(|| behind("Failed to parse the request body as JSON: "));
    plain.unwrap_or(text)
}

/// The parameters in the path of a request, percent-decoded.
struct Path<T>(T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiProblem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(path)) => Ok(Path(path)),
            Err(rejection) => Err(ApiProblem::bad(rejection.body_text())),
        }
    }
}

/// The body of a request, parsed as JSON.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiProblem;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiProblem> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(JsonBody(body)),
            Err(rejection) => {
                let (status, text) = (rejection.status(), rejection.body_text());
                Err(ApiProblem::of_body(status, plain(&text)))
            }
        }
    }
}
