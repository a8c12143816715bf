//! The thread that asks services over HTTP for the shards: one event loop, a pool of connections
//! that are kept open, and a bound on requests under way for each service.

use super::core::time_of_day;
use super::questions::{Home, Job, reply};
use crate::access::Verdict;
use crate::access::http::{HttpService, MAX_ANSWER, Request};
use crossbeam_channel::Receiver;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Connections without a request are kept this long.
const IDLE: Duration = Duration::from_secs(60);
/// Before the next attempt.
const PAUSE: Duration = Duration::from_millis(100);

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Starts the thread, which ends with the questions' last sender.
///
/// # Errors
/// When it cannot be started.
pub(super) fn start(jobs: Receiver<Job>, homes: Vec<Home>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, receiver) = mpsc::unbounded_channel();
    // The loop below cannot wait for a channel of threads: what comes is passed on. As many can be
    // on their way as the shards may ask for.
    std::thread::Builder::new().name("ringmq-ask".to_owned()).spawn(move || {
        while let Ok(job) = jobs.recv() {
            if sender.send(job).is_err() {
                return;
            }
        }
    })?;
    std::thread::Builder::new()
        .name("ringmq-http".to_owned())
        .spawn(move || runtime.block_on(serve(receiver, Arc::new(homes))))?;
    Ok(())
}

async fn serve(mut jobs: mpsc::UnboundedReceiver<Job>, homes: Arc<Vec<Home>>) {
    // Made with the first question: reading the host's authorities takes a while, and memory.
    let mut client: Option<HttpClient> = None;
    let mut bounds: HashMap<usize, (Arc<HttpService>, Arc<Semaphore>)> = HashMap::new();
    while let Some(job) = jobs.recv().await {
        let Some(service) = job.question.access.service(job.question.method) else { continue };
        let service = Arc::clone(service);
        let client = client.get_or_insert_with(new_client).clone();
        // A reload makes new services; the old ones' requests end within their time.
        bounds.retain(|_, (known, _)| Arc::strong_count(known) > 1);
        let bound = bounds
            .entry(Arc::as_ptr(&service) as usize)
            .or_insert_with(|| (Arc::clone(&service), Arc::new(Semaphore::new(service.pool))));
        let bound = Arc::clone(&bound.1);
        let homes = Arc::clone(&homes);
        tokio::task::spawn(async move {
            let request = service.request(&job.question.proof);
            let asked = async {
                // Closed only with the program.
                let _permit = bound.acquire().await;
                ask(&client, &service, request).await
            };
            let verdict = match tokio::time::timeout(service.timeout, asked).await {
                Ok(verdict) => verdict,
                Err(_) => service.failed("the service does not answer in time"),
            };
            reply(&homes, job, verdict);
        });
    }
}

fn new_client() -> HttpClient {
    // Without authorities every https service fails, each with its reason; http goes on.
    let connector = HttpsConnectorBuilder::new().with_native_roots().unwrap_or_else(|error| {
        tracing::warn!(%error, "the host has no certificate authorities: https services fail");
        let none = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        HttpsConnectorBuilder::new().with_tls_config(none)
    });
    let connector = connector.https_or_http().enable_http1().build();
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(connector)
}

/// Asks until there is an answer, or attempts are used up.
async fn ask(client: &HttpClient, service: &HttpService, request: Request) -> Verdict {
    let mut attempts = service.retries;
    loop {
        match once(client, &request).await {
            Ok((status, body)) if status < 500 || attempts == 0 => {
                return service.judge(status, &body, time_of_day().as_secs());
            }
            Err(why) if attempts == 0 => return service.failed(why),
            Ok(_) | Err(_) => {}
        }
        attempts -= 1;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn once(client: &HttpClient, request: &Request) -> Result<(u16, Bytes), &'static str> {
    let mut builder = hyper::Request::builder().method(request.method).uri(&request.url);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let body = Full::new(Bytes::from(request.body.clone()));
    let wanted = builder.body(body).map_err(|_| "the request cannot be written")?;
    let answer = client.request(wanted).await.map_err(|_| "the service cannot be reached")?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|_| "the service's answer breaks off or is too large")?;
    Ok((status, body.to_bytes()))
}
