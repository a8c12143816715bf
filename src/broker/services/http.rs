//! HTTP services: a pool of connections that are kept open, and a bound on requests under way for
//! each service.

use super::ServiceContext;
use crate::access::chain::Proof;
use crate::access::http::{HttpAuthRequest, HttpAuthService, MAX_ANSWER};
use crate::access::{Deed, Said, Verdict};
use crate::broker::core::time_of_day;
use crate::broker::questions::AccessJob;
use crate::client_tls::{HttpClient, without_authorities};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Connections without a request are kept this long.
const IDLE: Duration = Duration::from_secs(60);
/// Before the next attempt.
const PAUSE: Duration = Duration::from_millis(100);
/// Clients with authorities of their own that are kept; reloads may bring others.
const CLIENTS: usize = 16;

/// Services that are asked.
#[derive(Default)]
pub(super) struct HttpCaller {
    /// Each made with the first question: reading the host's authorities takes a while, and memory.
    clients: HashMap<Option<Arc<str>>, HttpClient>,
    bounds: HashMap<usize, (Arc<HttpAuthService>, Arc<Semaphore>)>,
}

impl HttpCaller {
    /// The client for services of these authorities.
    pub(super) fn client(&mut self, ca: Option<&Arc<str>>) -> HttpClient {
        if self.clients.len() > CLIENTS {
            self.clients.clear();
        }
        let client = self.clients.entry(ca.cloned());
        client.or_insert_with(|| new_client(ca.map(|ca| &**ca))).clone()
    }

    /// A client for a service, and its bound on requests under way.
    fn of(&mut self, service: &Arc<HttpAuthService>) -> (HttpClient, Arc<Semaphore>) {
        // A reload makes new services; the old ones' requests end within their time.
        self.bounds.retain(|_, (known, _)| Arc::strong_count(known) > 1);
        let bound = self
            .bounds
            .entry(Arc::as_ptr(service) as usize)
            .or_insert_with(|| (Arc::clone(service), Arc::new(Semaphore::new(service.pool))));
        let bound = Arc::clone(&bound.1);
        (self.client(service.ca.as_ref()), bound)
    }

    /// Asks who a client is.
    pub(super) fn ask(
        &mut self,
        service: &Arc<HttpAuthService>,
        job: AccessJob,
        around: &ServiceContext,
    ) {
        let (client, bound) = self.of(service);
        let (service, around) = (Arc::clone(service), around.clone());
        let Some(request) = service.request(&job.question.proof) else {
            return around.verdict(job, Verdict::Refuse("its name would be a path"));
        };
        tokio::task::spawn(async move {
            let verdict = match answer(&client, &bound, &service, request).await {
                Ok((status, body)) => service.judge(status, &body, time_of_day().as_secs()),
                Err(why) => service.failed(why),
            };
            around.verdict(job, verdict);
        });
    }
}

impl HttpCaller {
    /// Asks what a client may do: about each deed at once.
    pub(super) fn ask_about_deeds(
        &mut self,
        service: &Arc<HttpAuthService>,
        job: AccessJob,
        around: &ServiceContext,
    ) {
        let (client, bound) = self.of(service);
        let (service, around) = (Arc::clone(service), around.clone());
        tokio::task::spawn(async move {
            let asked = job.question.deeds.iter().map(|(deed, topic)| {
                let request = service.request_for(&job.question.proof, *deed, topic);
                let (client, bound) = (client.clone(), Arc::clone(&bound));
                let service = Arc::clone(&service);
                tokio::task::spawn(async move { said(&client, &bound, &service, request).await })
            });
            let asked: Vec<_> = asked.collect();
            let mut said = Vec::with_capacity(asked.len());
            for task in asked {
                said.push(task.await.unwrap_or_else(|_| service.silent("it was not asked")));
            }
            around.said(job, said);
        });
    }
}

impl HttpCaller {
    /// What the service says of one deed.
    pub(super) async fn ask_once(
        &mut self,
        service: &Arc<HttpAuthService>,
        proof: &Proof,
        (deed, topic): (Deed, Box<str>),
    ) -> Said {
        let (client, bound) = self.of(service);
        said(&client, &bound, service, service.request_for(proof, deed, &topic)).await
    }
}

/// What a service says of a deed.
async fn said(
    client: &HttpClient,
    bound: &Semaphore,
    service: &HttpAuthService,
    request: Option<HttpAuthRequest>,
) -> Said {
    let Some(request) = request else { return Said::Deny };
    match answer(client, bound, service, request).await {
        Ok((status, body)) => service.judge_deed(status, &body),
        Err(why) => service.silent(why),
    }
}

fn new_client(ca: Option<&str>) -> HttpClient {
    // Without authorities every https service fails, each with its reason; http goes on.
    let config = super::tls(ca).unwrap_or_else(|error| {
        tracing::warn!(%error, "https services cannot be asked");
        without_authorities()
    });
    let connector = HttpsConnectorBuilder::new().with_tls_config(config);
    let connector = connector.https_or_http().enable_http1().build();
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(connector)
}

/// An answer within the service's time, attempts and waiting for one's turn included.
async fn answer(
    client: &HttpClient,
    bound: &Semaphore,
    service: &HttpAuthService,
    request: HttpAuthRequest,
) -> Result<(u16, Bytes), &'static str> {
    let asked = async {
        // Closed only with the program.
        let _permit = bound.acquire().await;
        attempt(client, service.retries, &request).await
    };
    let answer = tokio::time::timeout(service.timeout, asked).await;
    answer.unwrap_or(Err("the service does not answer in time"))
}

/// Asks until there is an answer, or attempts are used up.
async fn attempt(
    client: &HttpClient,
    retries: u32,
    request: &HttpAuthRequest,
) -> Result<(u16, Bytes), &'static str> {
    let mut left = retries;
    loop {
        let answer = once(client, request).await;
        let good = answer.as_ref().is_ok_and(|(status, _)| *status < 500);
        if good || left == 0 {
            return answer;
        }
        left -= 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// One request and its answer.
pub(super) async fn once(
    client: &HttpClient,
    request: &HttpAuthRequest,
) -> Result<(u16, Bytes), &'static str> {
    let mut builder = hyper::Request::builder().method(request.method).uri(&request.url);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let body = Full::new(request.body.clone());
    let wanted = builder.body(body).map_err(|_| "the request cannot be written")?;
    let answer = client.request(wanted).await.map_err(|_| "the service cannot be reached")?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|_| "the service's answer breaks off or is too large")?;
    Ok((status, body.to_bytes()))
}
