//! Spans on their way to a receiver of the OpenTelemetry protocol. They are fetched from the shards
//! and sent over HTTP, on a thread of their own for which no core waits. The thread runs while
//! `telemetry.otlp` has an endpoint, whether or not there is an admin server.
//!
//! Bounds: at most [`QUEUE`] spans wait here, and at most `limits::SPANS` on each shard between two
//! fetches. One request at a time is under way, with at most [`BATCH`] spans. A request that fails
//! is made at most [`TRIES`] times, while other spans wait. Spans that are not sent are counted by
//! reason.
//!
//! The protocol's messages are written here, with prost, and not by `opentelemetry-otlp`. That
//! crate exports spans that its SDK has made: shards would have to make them through it, with
//! allocations and a channel of its own, or each of ours would be copied into one of its. Its queue
//! and its thread would stand behind ours, and drop spans without a count by reason. And it brings
//! eight crates that are not here otherwise, HTTP/2 among them (0.33 with `http-proto` and
//! `hyper-client`). What is left to do without it are 236 lines of messages, and tests hold them
//! against a real collector (`tests/interop/otlp.rs`).

mod message;

use super::api::Tell;
use super::asking::ShardQuestions;
use crate::bridge::figures::Figure;
use crate::client_tls::{Authorities, HttpClient, client_config, without_authorities};
use crate::config::{self, Get};
use crate::contained::{self, ContainedThread, PanicFlag};
use crate::shard::{Shard, Span};
use crate::telemetry::SpanRow;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use message::SpanOrigin;
use prost::Message;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Mutex as AsyncMutex, Notify, oneshot};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

/// The largest number of spans that wait to be sent.
const QUEUE: usize = 16_384;
/// The largest number of spans in one request.
const BATCH: usize = 1024;
/// The time between two fetches.
const EACH: Duration = Duration::from_millis(200);
/// How often a request is made at most.
const TRIES: u32 = 6;
/// The shortest and the longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The shortest time between two log lines about a receiver that fails.
const COMPLAINT: Duration = Duration::from_secs(30);
/// The largest answer in bytes that is read.
const ANSWER: usize = 64 << 10;
/// How long a connection without a request is kept.
const IDLE: Duration = Duration::from_secs(60);
/// How long the end waits until the remaining spans are sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// The figures of the exporter.
#[derive(Default, Debug)]
pub struct SpanFigures {
    exported: Figure,
    shard_full: Figure,
    queue_full: Figure,
    refused: Figure,
    unreachable: Figure,
    up: Figure,
}

impl SpanFigures {
    /// A copy of the figures.
    pub fn row(&self) -> SpanRow {
        SpanRow {
            up: self.up.get() != 0,
            exported: self.exported.get(),
            dropped: vec![
                ("shard_full", self.shard_full.get()),
                ("queue_full", self.queue_full.get()),
                ("refused", self.refused.get()),
                ("unreachable", self.unreachable.get()),
            ],
        }
    }
}

/// Where spans are sent, and how.
struct ExportTarget {
    url: Uri,
    headers: HeaderMap,
    timeout: Duration,
    client: HttpClient,
    sender: SpanOrigin,
}

/// The running exporter. Dropping it sends what is left, for at most a second, and ends its thread.
/// If the thread has panicked, what waited is lost, and the exporter is to be replaced.
pub struct Exporter {
    panicked: PanicFlag,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    figures: Arc<SpanFigures>,
}

impl Exporter {
    /// Sends spans of these shards as the configuration says; `None` when it names no endpoint.
    /// `zero` is the wall-clock time at the zero of the shards' clock.
    ///
    /// # Errors
    /// Which part of the configuration cannot be used, and why.
    pub fn start(
        config: &config::Otlp,
        shards: Vec<Tell>,
        host: String,
        zero: SystemTime,
    ) -> Result<Option<Exporter>, String> {
        let Some(endpoint) = config.endpoint.0.as_ref() else { return Ok(None) };
        let failed = |what: &dyn std::fmt::Display| format!("telemetry.otlp: {what}");
        let zero = zero.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let sender = SpanOrigin { service: config.service_name.to_string(), host, zero };
        let tls = match endpoint.starts_with("https:") {
            true => client_config(Authorities::at(&config.ca), None).map_err(|why| failed(&why))?,
            false => without_authorities(),
        };
        let (url, headers) = (url(endpoint)?, headers(config)?);
        let timeout = config.timeout.get();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| failed(&error))?;
        let figures = Arc::new(SpanFigures::default());
        let (stop, stopped) = oneshot::channel();
        let counted = Arc::clone(&figures);
        let panicked = PanicFlag::default();
        let flag = panicked.clone();
        let work = move || {
            contained::contain(ContainedThread::Otlp, flag);
            let connector = HttpsConnectorBuilder::new().with_tls_config(tls);
            let connector = connector.https_or_http().enable_http1().build();
            let client = Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .build(connector);
            let target = ExportTarget { url, headers, timeout, client, sender };
            LocalSet::new().block_on(&runtime, run(target, shards, counted, stopped));
        };
        let thread = std::thread::Builder::new().name("otlp".to_owned()).spawn(work);
        let thread = Some(thread.map_err(|error| failed(&error))?);
        Ok(Some(Exporter { panicked, stop: Some(stop), thread, figures }))
    }

    /// True when the thread has panicked.
    pub fn is_dead(&self) -> bool {
        self.panicked.is_raised() || self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// The figures of the exporter.
    pub fn figures(&self) -> Arc<SpanFigures> {
        Arc::clone(&self.figures)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop = None;
        while !self.is_dead() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The endpoint as a URI. Without a path it gets that of the protocol.
fn url(endpoint: &str) -> Result<Uri, String> {
    let behind = endpoint.split_once("://").map_or("", |(_, rest)| rest);
    let bare = behind.split_once('/').is_none_or(|(_, path)| path.is_empty());
    let whole = match bare {
        true => format!("{}/v1/traces", endpoint.trim_end_matches('/')),
        false => endpoint.to_owned(),
    };
    whole.parse().map_err(|error| format!("telemetry.otlp.endpoint: {error}"))
}

fn headers(config: &config::Otlp) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    for (name, value) in config.headers.iter() {
        let wrong = |what| format!("telemetry.otlp.headers.{name}: {what}");
        let known: HeaderName = name.parse().map_err(|_| wrong("this is no name of a header"))?;
        let mut value =
            HeaderValue::from_str(value).map_err(|_| wrong("this is no value of a header"))?;
        value.set_sensitive(true);
        headers.insert(known, value);
    }
    Ok(headers)
}

/// Spans that wait to be sent.
struct WaitingSpans {
    spans: RefCell<VecDeque<Span>>,
    /// True while a request is under way.
    sending: Cell<bool>,
    news: Notify,
    figures: Arc<SpanFigures>,
    /// The fetch that is under way.
    fetching: AsyncMutex<ShardQuestions<(Vec<Span>, u64)>>,
}

impl WaitingSpans {
    fn new(figures: Arc<SpanFigures>) -> WaitingSpans {
        let (spans, sending) = (RefCell::default(), Cell::new(false));
        let (news, fetching) = (Notify::new(), AsyncMutex::default());
        WaitingSpans { spans, sending, news, figures, fetching }
    }

    fn is_done(&self) -> bool {
        self.spans.borrow().is_empty() && !self.sending.get()
    }

    fn take_in(&self, spans: Vec<Span>) {
        let mut waiting = self.spans.borrow_mut();
        let room = QUEUE.saturating_sub(waiting.len());
        let lost = spans.len().saturating_sub(room);
        self.figures.queue_full.add(lost as u64);
        waiting.extend(spans.into_iter().take(room));
        if !waiting.is_empty() {
            self.news.notify_one();
        }
    }

    fn next_batch(&self) -> Vec<Span> {
        let mut waiting = self.spans.borrow_mut();
        let some = waiting.len().min(BATCH);
        waiting.drain(..some).collect()
    }
}

async fn run(
    target: ExportTarget,
    shards: Vec<Tell>,
    figures: Arc<SpanFigures>,
    stopped: oneshot::Receiver<()>,
) {
    let waiting = Rc::new(WaitingSpans::new(figures));
    let target = Rc::new(target);
    let fetching = tokio::task::spawn_local(fetch_all(Rc::clone(&waiting), shards.clone()));
    let sending = tokio::task::spawn_local(send_all(Rc::clone(&waiting), Rc::clone(&target)));
    // The end of the channel is a signal to stop, too.
    let _ = stopped.await;
    fetching.abort();
    let last = async {
        fetch(&waiting, &shards).await;
        while !waiting.is_done() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = timeout(FAREWELL, last).await;
    sending.abort();
}

async fn fetch_all(waiting: Rc<WaitingSpans>, shards: Vec<Tell>) {
    loop {
        sleep(EACH).await;
        fetch(&waiting, &shards).await;
    }
}

/// Fetches the spans that shards have recorded since the last fetch. Those of a shard that is late
/// come with the next fetch.
async fn fetch(waiting: &WaitingSpans, shards: &[Tell]) {
    let mut fetching = waiting.fetching.lock().await;
    for answer in fetching.ask(shards, Shard::take_spans).await {
        let Some((spans, lost)) = answer else { continue };
        waiting.figures.shard_full.add(lost);
        waiting.take_in(spans);
    }
}

async fn send_all(waiting: Rc<WaitingSpans>, target: Rc<ExportTarget>) {
    let mut complained: Option<Instant> = None;
    loop {
        let batch = waiting.next_batch();
        waiting.sending.set(!batch.is_empty());
        if batch.is_empty() {
            waiting.news.notified().await;
            continue;
        }
        let body = Bytes::from(target.sender.request(batch.iter()));
        let outcome = deliver(&target, &waiting.figures, body).await;
        let (count, figures) = (batch.len() as u64, &waiting.figures);
        let why = match outcome {
            Ok((0, _)) => {
                figures.exported.add(count);
                continue;
            }
            Ok((rejected, why)) => {
                let rejected = rejected.min(count);
                figures.exported.add(count - rejected);
                figures.refused.add(rejected);
                why
            }
            Err(ExportFailure::Refused(why)) => {
                figures.refused.add(count);
                why
            }
            Err(ExportFailure::Unreachable(why)) => {
                figures.unreachable.add(count);
                why
            }
        };
        if complained.is_none_or(|then| then.elapsed() >= COMPLAINT) {
            complained = Some(Instant::now());
            let endpoint = &target.url;
            tracing::warn!(%endpoint, spans = count, why, "spans were not taken (telemetry.otlp)");
        }
    }
}

/// Why spans were not sent.
enum ExportFailure {
    /// The receiver refuses them.
    Refused(String),
    /// The receiver could not be reached, or cannot accept them now.
    Unreachable(String),
}

/// Makes a request until it is answered for good. Returns how many of its spans were not accepted,
/// and why.
async fn deliver(
    target: &ExportTarget,
    figures: &SpanFigures,
    body: Bytes,
) -> Result<(u64, String), ExportFailure> {
    let mut pause = PAUSES.0;
    for again in (0..TRIES).rev() {
        let tried = timeout(target.timeout, once(target, body.clone())).await;
        let tried = tried.unwrap_or_else(|_| Err((None, "it does not answer in time".to_owned())));
        let (after, why) = match tried {
            Ok((status, answer)) if status.is_success() => {
                figures.up.set(1);
                let answer = message::Response::decode(answer).unwrap_or_default();
                let partial = answer.partial_success.unwrap_or_default();
                let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
                return Ok((rejected, partial.error_message));
            }
            Ok((status, _)) => {
                figures.up.set(0);
                return Err(ExportFailure::Refused(status.to_string()));
            }
            Err(failed) => failed,
        };
        figures.up.set(0);
        if again == 0 {
            return Err(ExportFailure::Unreachable(why));
        }
        sleep(after.unwrap_or(pause).min(PAUSES.1)).await;
        pause = (pause * 2).min(PAUSES.1);
    }
    Err(ExportFailure::Unreachable("it was not tried".to_owned()))
}

/// Makes a request once. Fails when it should be made again; the error has the time after which the
/// receiver wants that, if it says so.
async fn once(
    target: &ExportTarget,
    body: Bytes,
) -> Result<(StatusCode, Bytes), (Option<Duration>, String)> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.url.clone();
    *request.headers_mut() = target.headers.clone();
    let answer = target.client.request(request).await;
    let answer = answer.map_err(|error| (None, format!("it cannot be reached: {error}")))?;
    let status = answer.status();
    if matches!(status.as_u16(), 429 | 502 | 503 | 504) {
        let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok());
        let after = after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        return Err((after, status.to_string()));
    }
    let body = Limited::new(answer.into_body(), ANSWER).collect().await;
    let body = body.map_err(|_| (None, "its answer breaks off or is too large".to_owned()))?;
    Ok((status, body.to_bytes()))
}

/// What is wrong with the configuration of the exporter, if anything.
pub fn problem(config: &config::Otlp) -> Option<String> {
    let endpoint = config.endpoint.0.as_ref()?;
    url(endpoint).err().or_else(|| headers(config).err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_path_is_given_the_protocols() {
        for (endpoint, whole) in [
            ("http://h:4318", "http://h:4318/v1/traces"),
            ("http://h:4318/", "http://h:4318/v1/traces"),
            ("https://h/otlp/v1/traces", "https://h/otlp/v1/traces"),
            ("https://h/x", "https://h/x"),
        ] {
            assert_eq!(url(endpoint).unwrap().to_string(), whole);
        }
        assert!(url("http://a b").is_err());
    }

    #[test]
    fn spans_beyond_the_bound_are_counted() {
        let figures = Arc::new(SpanFigures::default());
        let waiting = WaitingSpans::new(Arc::clone(&figures));
        let span = Span {
            trace: Default::default(),
            id: Default::default(),
            parent: None,
            kind: crate::shard::SpanKind::Route,
            began: 0,
            ended: 0,
            topic: "t".into(),
            client_id: "".into(),
            via: None,
            peer: None,
            qos: 0,
            payload: 0,
            shards: crate::ids::ShardSet::EMPTY,
            error: None,
        };
        waiting.take_in(vec![span.clone(); QUEUE - 1]);
        waiting.take_in(vec![span; 5]);
        assert_eq!(waiting.spans.borrow().len(), QUEUE);
        assert_eq!(figures.row().dropped[1], ("queue_full", 4));
        assert_eq!(waiting.next_batch().len(), BATCH);
        assert_eq!(waiting.spans.borrow().len(), QUEUE - BATCH);
    }
}
