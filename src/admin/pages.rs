//! The pages: the answer for each path, with its status.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HOST, HeaderValue, VARY};
use hyper::{Method, Request, Response, StatusCode, Version};
use tower_service::Service;

use super::figures::FiguresAnswer;
use super::guard::From;
use super::page_source::PageSource;
use super::{AdminSite, BrokerStage, dashboard};
use crate::config::OpenPage;
use crate::telemetry::Counters;
use crate::telemetry::prometheus::{PageFormat, Snapshot};

/// How long a scrape waits for the shards.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(1);
/// A shard whose loop does not answer within this time is not alive.
const ALIVE: Duration = Duration::from_secs(2);

type PageResponse = Response<Full<Bytes>>;

/// The answer to one request: that of the API, of the dashboard or of a page.
pub(super) async fn answer(
    site: &AdminSite,
    mut request: Request<Incoming>,
    from: From,
) -> Response<Body> {
    // RFC 9112, section 3.2: 400 to a request without Host.
    if request.version() == Version::HTTP_11 && !request.headers().contains_key(HOST) {
        return line(StatusCode::BAD_REQUEST, "a Host header is required").map(Body::new);
    }
    let path = request.uri().path();
    if let Some(router) = site.router.as_ref().filter(|_| path.starts_with("/api/")) {
        request.extensions_mut().insert(from);
        return match router.clone().call(request.map(Body::new)).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
    }
    if site.router.is_some()
        && let Some(answer) = dashboard::answer(&request)
    {
        return answer;
    }
    if let Some(page) = OpenPage::of_path(path)
        && !site.guard.opens(page)
        && let Err(refusal) = site.guard.admit(request.headers(), from).await
    {
        return refusal.into_response();
    }
    let local = from.peer.ip().to_canonical().is_loopback();
    self::page(&site.page_source, &request, local).await.map(Body::new)
}

/// The answer of a page. `local` is true when the request comes from this host. The body of the
/// request is ignored.
async fn page<B>(page_source: &PageSource, request: &Request<B>, local: bool) -> PageResponse {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut page = line(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed");
        page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return page;
    }
    match request.uri().path() {
        "/metrics" => {
            let answers = page_source.ask(SCRAPE_PATIENCE).await;
            let accept = request.headers().get_all(ACCEPT).iter();
            let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
            let format = PageFormat::accepted(&accept.join(","));
            let body = page_source.page(&answers, format).await;
            let mut page = respond(StatusCode::OK, format.content_type(), body);
            page.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
            page
        }
        // A shard that is known to be late need not be asked.
        "/healthz" if !page_source.late().is_empty() => late(page_source),
        "/healthz" => health(page_source, &page_source.ask(ALIVE).await),
        "/readyz" => match page_source.stage() {
            BrokerStage::Starting => line(StatusCode::SERVICE_UNAVAILABLE, "starting"),
            // New clients whose home is a late shard would wait.
            BrokerStage::Ready if !page_source.late().is_empty() => late(page_source),
            BrokerStage::Ready => readiness(&page_source.ask(ALIVE).await),
            BrokerStage::Draining => line(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        },
        "/placement" if !local => line(StatusCode::FORBIDDEN, "only for this host itself"),
        "/placement" => placement(page_source, request.uri().query().unwrap_or_default()),
        _ => line(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz"),
    }
}

fn late(page_source: &PageSource) -> PageResponse {
    let late: Vec<String> = page_source
        .late()
        .iter()
        .map(|(shard, time)| format!("shard {} for {} s", shard.0, time.as_secs()))
        .collect();
    line(StatusCode::SERVICE_UNAVAILABLE, &format!("no answer from {}", late.join(", ")))
}

/// Whether every shard answers. A thread that has failed beside them is named, but the broker is
/// not to be ended for it.
fn health(page_source: &PageSource, answers: &[FiguresAnswer]) -> PageResponse {
    let stage = page_source.stage();
    let which = |wanted: fn(&FiguresAnswer) -> bool| -> String {
        let matching = answers.iter().enumerate().filter(|(_, answer)| wanted(answer));
        let numbers: Vec<String> = matching.map(|(shard, _)| shard.to_string()).collect();
        numbers.join(", ")
    };
    let silent = which(|answer| matches!(answer, FiguresAnswer::Silence));
    let ended = which(|answer| matches!(answer, FiguresAnswer::Ended));
    if !silent.is_empty() {
        let text = format!("no answer in {} s from shard {silent}", ALIVE.as_secs());
        line(StatusCode::SERVICE_UNAVAILABLE, &text)
    } else if !ended.is_empty() && stage != BrokerStage::Draining {
        line(StatusCode::SERVICE_UNAVAILABLE, &format!("ended: shard {ended}"))
    } else {
        let threads = page_source.failed_threads();
        line(StatusCode::OK, &[vec!["ok".to_owned()], threads].concat().join("; "))
    }
}

/// Whether a shard cannot store what it should, and does not keep it in memory either.
fn is_down(counters: &Counters) -> bool {
    counters.storage_degraded == 0 && counters.storage_down > 0
}

/// Whether a shard has no room for what is to be stored.
fn is_full(counters: &Counters) -> bool {
    counters.storage_degraded == 0 && counters.storage_full > 0
}

/// Whether the shards of these answers let new clients be served.
pub(super) fn can_serve(answers: &[FiguresAnswer]) -> bool {
    let unable = |figures: &Arc<Snapshot>| is_down(&figures.counters) || is_full(&figures.counters);
    !answers.iter().filter_map(FiguresAnswer::figures).any(unable)
}

/// Whether new clients can be served. They cannot while a shard is unable to store what it should.
fn readiness(answers: &[FiguresAnswer]) -> PageResponse {
    let which = |wanted: fn(&Counters) -> bool| -> String {
        let wanted = |answer: &FiguresAnswer| {
            answer.figures().is_some_and(|figures| wanted(&figures.counters))
        };
        let matching = answers.iter().enumerate().filter(|(_, answer)| wanted(answer));
        matching.map(|(shard, _)| shard.to_string()).collect::<Vec<_>>().join(", ")
    };
    let down = which(is_down);
    let full = which(is_full);
    if !down.is_empty() {
        let text = format!("storage is down on shard {down}: see the log");
        line(StatusCode::SERVICE_UNAVAILABLE, &text)
    } else if !full.is_empty() {
        let text = format!("no room for what is to be stored on shard {full}: see the log");
        line(StatusCode::SERVICE_UNAVAILABLE, &text)
    } else {
        line(StatusCode::OK, "ready")
    }
}

/// The number of the shard on which a ClientId lives.
fn placement(page_source: &PageSource, query: &str) -> PageResponse {
    match query.strip_prefix("client_id=").and_then(decoded) {
        Some(client_id) => line(StatusCode::OK, &page_source.home(&client_id).to_string()),
        None => line(StatusCode::BAD_REQUEST, "ask for /placement?client_id=NAME"),
    }
}

/// Decodes a percent-encoded value of a query (RFC 3986, section 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

fn line(status: StatusCode, text: &str) -> PageResponse {
    let body = Full::new(Bytes::from(format!("{text}\n")));
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: Full<Bytes>) -> PageResponse {
    let mut page = Response::new(body);
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    page
}
