//! The requests of a bridge to an HTTP service, on the bridge's thread. Each message goes into the
//! lane of its client, and each lane has at most one request under way.
#![allow(clippy::disallowed_methods, reason = "on the bridge's own thread, never on a core's")]

use super::request::{Item, RequestPlan, WebhookVerdict, judge};
use crate::bridge::figures::{BridgeDropReason, BridgeState};
use crate::bridge::intake::{Intake, wall_millis};
use crate::client_tls::HttpClient;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The most messages of a lane that are ready, unless two full requests need more.
const AHEAD: usize = 64;
/// Bytes of the messages of one request at most, except that one message may be larger.
const REQUEST: usize = 1 << 20;
/// The most bytes of an answer's body that are read; their content is ignored.
const ANSWER: usize = 64 * 1024;
/// How long connections without a request are kept.
const IDLE: Duration = Duration::from_secs(60);
/// The least interval between two log lines about a failing service.
const COMPLAINT: Duration = Duration::from_secs(10);

/// A bridge to an HTTP service.
pub struct HttpBridge<'a> {
    /// The side of the bridge towards this broker.
    pub intake: &'a mut Intake,
    /// How requests are made.
    pub plan: Arc<RequestPlan>,
    /// The most messages of one request.
    pub batch: usize,
    /// The number of lanes, which bounds the concurrent requests.
    pub lanes: usize,
    /// The longest time for an answer.
    pub timeout: Duration,
    /// The shortest and the longest pause before a request is sent again.
    pub retry: (Duration, Duration),
    /// The most tries of a request; `None` for no limit.
    pub tries: Option<u32>,
    /// The TLS configuration.
    pub tls: Arc<rustls::ClientConfig>,
}

/// The messages of a lane that are on their way to the service, oldest first.
#[derive(Default)]
struct RequestLane {
    items: VecDeque<Item>,
    /// How many of the first messages form the request that is under way or to be repeated.
    sent: usize,
    busy: bool,
    tries: u32,
    again: Option<Instant>,
}

/// The result of a lane's request.
struct LaneResult {
    lane: usize,
    verdict: WebhookVerdict,
    why: String,
}

struct RunningHttpBridge<'a> {
    service: HttpBridge<'a>,
    client: HttpClient,
    lanes: Vec<RequestLane>,
    answers: mpsc::UnboundedReceiver<LaneResult>,
    answer: mpsc::UnboundedSender<LaneResult>,
    complained: Option<Instant>,
}

impl HttpBridge<'_> {
    /// Sends messages until the bridge is to end.
    pub async fn run(self) {
        let connector = HttpsConnectorBuilder::new().with_tls_config((*self.tls).clone());
        let connector = connector.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        let (answer, answers) = mpsc::unbounded_channel();
        let lanes = (0..self.lanes).map(|_| RequestLane::default()).collect();
        let mut running =
            RunningHttpBridge { service: self, client, lanes, answers, answer, complained: None };
        running.serve().await;
    }
}

impl RunningHttpBridge<'_> {
    async fn serve(&mut self) {
        let bell = Arc::clone(&self.service.intake.bell);
        let mut rung = pin!(bell.notified());
        let mut sleep = pin!(tokio::time::sleep(IDLE));
        self.service.intake.take();
        std::future::poll_fn(|context| {
            loop {
                while rung.as_mut().poll(context).is_ready() {
                    rung.set(bell.notified());
                    self.service.intake.take();
                }
                while let Poll::Ready(Some(answer)) = self.answers.poll_recv(context) {
                    self.judge(&answer);
                }
                self.fill_lanes();
                self.send(Instant::now());
                let orders = &self.service.intake.orders;
                let idle = self.lanes.iter().all(|lane| lane.items.is_empty());
                let finished = idle && !self.service.intake.has_unread();
                if orders.is_ending() && (finished || orders.is_late()) {
                    return Poll::Ready(());
                }
                let again = self.lanes.iter().filter_map(|lane| lane.again);
                let next = again.chain(orders.deadline()).min();
                let next = next.unwrap_or_else(|| Instant::now() + IDLE);
                sleep.as_mut().reset(next.max(Instant::now() + Duration::from_millis(1)).into());
                if sleep.as_mut().poll(context).is_pending() {
                    self.service.intake.show();
                    return Poll::Pending;
                }
            }
        })
        .await;
    }

    /// Reads messages into their lanes until one lane is full.
    fn fill_lanes(&mut self) {
        let most = AHEAD.max(2 * self.service.batch);
        let (mut moment, mut any_full) = (None, false);
        while !any_full && self.lanes.iter().all(|lane| lane.items.len() < most) {
            let intake = &mut self.service.intake;
            let Some((number, record)) = intake.read() else { return };
            let now = *moment.get_or_insert_with(wall_millis);
            if record.expires.is_some_and(|at| at <= now) {
                intake.lose(number, BridgeDropReason::Expired);
                continue;
            }
            let lane = self.service.plan.lane(&record);
            let Some(item) = self.service.plan.item(number, record) else {
                intake.lose(number, BridgeDropReason::Unwanted);
                continue;
            };
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.items.push_back(item);
                any_full = lane.items.len() >= most;
            }
        }
    }

    /// Sends the next request of each lane that has none under way.
    fn send(&mut self, now: Instant) {
        let buffer = self.service.intake.buffer.identity();
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            if lane.busy || lane.items.is_empty() || lane.again.is_some_and(|at| at > now) {
                continue;
            }
            lane.again = None;
            if lane.sent == 0 {
                lane.sent = together(&lane.items, self.service.batch);
            }
            lane.items.make_contiguous();
            let items = lane.items.as_slices().0.get(..lane.sent).unwrap_or_default();
            let Some(request) = self.service.plan.request(items, buffer) else { continue };
            lane.busy = true;
            let (client, answer) = (self.client.clone(), self.answer.clone());
            let timeout = self.service.timeout;
            tokio::task::spawn(async move {
                let asked = tokio::time::timeout(timeout, ask(&client, request)).await;
                let (verdict, why) = match asked {
                    Ok(Ok((status, after))) => (judge(status, after), status.to_string()),
                    Ok(Err(why)) => (WebhookVerdict::Again(Duration::ZERO), why),
                    Err(_) => {
                        let why = "it does not answer in time".to_owned();
                        (WebhookVerdict::Again(Duration::ZERO), why)
                    }
                };
                // The receiver is gone if the bridge has ended.
                let _ = answer.send(LaneResult { lane: number, verdict, why });
            });
        }
    }

    fn judge(&mut self, answer: &LaneResult) {
        let Some(lane) = self.lanes.get_mut(answer.lane) else { return };
        let figures = &self.service.intake.figures;
        lane.busy = false;
        lane.tries += 1;
        let given_up = self.service.tries.is_some_and(|most| lane.tries >= most);
        let verdict = match answer.verdict {
            WebhookVerdict::Again(_) if given_up => WebhookVerdict::Drop,
            verdict => verdict,
        };
        if let WebhookVerdict::Again(after) = verdict {
            figures.retries.add(lane.sent as u64);
            figures.failures.add(1);
            figures.set_state(BridgeState::Waiting);
            let (min, max) = self.service.retry;
            let pause = min.saturating_mul(1 << (lane.tries - 1).min(20)).min(max).max(after);
            lane.again = Some(Instant::now() + pause);
        } else {
            figures.set_state(BridgeState::Up);
            lane.tries = 0;
            for _ in 0..std::mem::take(&mut lane.sent) {
                let Some(item) = lane.items.pop_front() else { break };
                match verdict {
                    WebhookVerdict::Done => self.service.intake.delivered(item.number),
                    _ => self.service.intake.lose(item.number, BridgeDropReason::Rejected),
                }
            }
        }
        if verdict != WebhookVerdict::Done
            && self.complained.is_none_or(|then| then.elapsed() > COMPLAINT)
        {
            self.complained = Some(Instant::now());
            let (bridge, why) = (&*self.service.intake.figures.name, &*answer.why);
            tracing::warn!(bridge, why, ?verdict, "the service does not take messages");
        }
    }
}

/// How many of the first messages form one request.
fn together(items: &VecDeque<Item>, most: usize) -> usize {
    let mut bytes = 0;
    let Some(first) = items.front() else { return 0 };
    let fits = items.iter().take(most).take_while(|item| {
        bytes += item.size();
        item.goes_with(first) && (bytes <= REQUEST || std::ptr::eq(*item, first))
    });
    fits.count()
}

/// Sends one request. Returns its status, and the seconds of Retry-After.
async fn ask(
    client: &HttpClient,
    request: super::request::WebhookRequest,
) -> Result<(u16, Option<u64>), String> {
    let mut builder = hyper::Request::builder().method(request.method).uri(&request.url);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let body = Full::new(Bytes::from(request.body));
    let wanted = builder.body(body).map_err(|error| error.to_string())?;
    let answer = client.request(wanted).await.map_err(|error| chain(&error))?;
    let status = answer.status().as_u16();
    let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let after = after.and_then(|text| text.trim().parse().ok());
    // The body is read to its end so that the connection can be used again.
    let _ = Limited::new(answer.into_body(), ANSWER).collect().await;
    Ok((status, after))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
