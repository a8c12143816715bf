//! The admin server: `/metrics` for Prometheus, `/healthz`, `/readyz`; the management API
//! ([`api`]); the dashboard. It belongs to the control plane: one thread with a loop of its own,
//! started only when `admin.bind` is set, so no data core carries it. A shard spends a copy of its
//! figures per scrape, and a bounded part of a step per slice of a list.
//!
//! Owns the listening socket and its connections. Every bound on what a peer may cost is here: the
//! number of connections, and the size, the number of headers and the time of a request. [`guard`]
//! decides who may call the API. Everybody who reaches the address gets the three pages, unless
//! `admin.open` leaves one out. Only this host itself is told on which shard a client lives
//! (`/placement?client_id=…`), because with that knowledge one could put many clients on one shard.
//!
//! It knows nothing of cores and rings: the broker passes the means to [`AskShard`] and
//! [`api::Tell`] each shard, and reports its own progress ([`BrokerStage`]).

pub mod api;
mod asking;
mod dashboard;
mod figures;
pub mod guard;
mod history;
pub mod otlp;
mod page_source;
mod pages;
mod process;
mod thread;
mod top_clients;
mod traces;
pub mod users;

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use guard::{Guard, ROLES, Users};
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::config::OpenPage;
use crate::contained::{Replacements, ThreadCare};
use crate::ids::ShardId;
use crate::telemetry::alarms::AlarmList;
use crate::telemetry::prometheus::Snapshot;
use crate::telemetry::{AccountRow, BridgeRow, ClusterRow, ListenerRow, SpanRow};
use page_source::PageSource;
use thread::{AdminParts, AdminSockets, AdminThread};
pub use top_clients::TopClients;

/// The largest number of connections. A further one replaces the oldest that is not being answered,
/// or the oldest of all if each is being answered.
const CONNECTIONS: usize = 64;
/// The largest size in bytes of a request line with its headers.
const REQUEST_BYTES: usize = 8 << 10;
/// The largest number of headers of a request.
const HEADERS: usize = 64;
/// The time from the beginning of a connection, or the end of an answer, to the end of the next
/// request's headers.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// After this time a connection takes no further requests.
const LIFE: Duration = Duration::from_secs(300);
/// How long the answer that is then under way may take to be read.
const FAREWELL: Duration = Duration::from_secs(5);
/// The pause after a failed accept, which means that descriptors are short.
const REST: Duration = Duration::from_millis(100);

/// Puts a question to one shard and wakes it. When the question is dropped, the shard has ended.
pub type AskShard = Arc<dyn Fn(FiguresRequest) + Send + Sync>;

/// Returns the number of the shard on which a ClientId lives.
pub type Placement = Arc<dyn Fn(&str) -> u8 + Send + Sync>;

/// A request for one shard's figures.
#[derive(Debug)]
pub struct FiguresRequest {
    asked: Instant,
    reply: oneshot::Sender<Snapshot>,
}

impl FiguresRequest {
    /// How long the request has waited for its shard.
    pub fn waited(&self) -> Duration {
        self.asked.elapsed()
    }

    /// Answers the request. Never waits.
    pub fn answer(self, snapshot: Snapshot) {
        // The caller may have given up.
        let _ = self.reply.send(snapshot);
    }
}

/// What the broker reports about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
struct BrokerState {
    stage: BrokerStage,
    /// The shards that are late, and since when.
    late: Vec<(ShardId, Instant)>,
    /// The number of lines that the log has lost.
    lost_lines: u64,
    /// The configuration keys of servers that pause after a panic.
    paused: Vec<&'static str>,
    /// The listeners, and until when their certificates are valid, in seconds since 1970.
    certificates: Vec<(String, u64)>,
    /// The accounts that bound what is retained, and what is retained on each.
    accounts: Vec<AccountRow>,
    alarms: Arc<AlarmList>,
}

impl BrokerState {
    fn of(stage: BrokerStage) -> BrokerState {
        BrokerState {
            stage,
            late: Vec::new(),
            lost_lines: 0,
            paused: Vec::new(),
            certificates: Vec::new(),
            accounts: Vec::new(),
            alarms: Arc::default(),
        }
    }
}

/// Resident memory of this process in bytes, if the system reports it.
pub fn resident_bytes() -> Option<u64> {
    process::measure().resident_bytes
}

/// How far the start or the end of the broker has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BrokerStage {
    /// Listeners are being opened.
    Starting,
    /// All listeners are open.
    Ready,
    /// The broker was told to stop.
    Draining,
}

/// Where the server reads its data.
pub struct AdminSources {
    /// For each shard, in order: asks it for its figures.
    pub shards: Vec<AskShard>,
    /// Returns the number of filters in the interest table.
    pub interest: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Returns the bridges.
    pub bridges: Box<dyn Fn() -> Vec<BridgeRow> + Send + Sync>,
    /// Returns the cluster, if this broker is a node of one.
    pub cluster: Box<dyn Fn() -> Option<ClusterRow> + Send + Sync>,
    /// Returns the figures of the exporter of spans, if there is one.
    pub spans: Box<dyn Fn() -> Option<SpanRow> + Send + Sync>,
    /// Returns the listeners.
    pub listeners: Box<dyn Fn() -> Vec<ListenerRow> + Send + Sync>,
    /// Returns `limits.memory` in bytes, if there is a bound.
    pub memory_limit: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    /// The clients that weigh most.
    pub top: TopClients,
    /// Returns the home shard of a ClientId.
    pub placement: Placement,
    /// When the process started.
    pub started: SystemTime,
    /// What the management API needs; `None` for a server that only has the pages.
    pub api: Option<Arc<api::Api>>,
}

/// Where the server listens, and whom it serves.
pub struct AdminEndpoint {
    /// The address.
    pub bind: SocketAddr,
    /// The configuration key that sets the address.
    pub key: &'static str,
    /// The name of the server's thread.
    pub name: &'static str,
    /// Whom it serves.
    pub terms: ServerTerms,
}

/// Whom a server serves. The terms can be changed while the server runs.
#[derive(Clone)]
pub struct ServerTerms {
    /// The TLS settings; `None` for plain TCP.
    pub tls: Option<Arc<ServerConfig>>,
    /// Who may use the API; `None` for only this host itself.
    pub users: Option<Users>,
    /// The longest time for which a token is valid.
    pub session: Duration,
    /// The pages that need no credential.
    pub open: Vec<OpenPage>,
}

impl ServerTerms {
    /// The terms of a server that has only the three pages, for everybody.
    pub fn of_pages() -> ServerTerms {
        let (session, open) = (Duration::ZERO, OpenPage::ALL.to_vec());
        ServerTerms { tls: None, users: None, session, open }
    }
}

/// The header of every answer that has data of the broker.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Adds the headers that keep browsers from doing more with an answer than showing it.
fn secure_headers(headers: &mut HeaderMap) {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The server cannot listen on its address.
#[derive(Debug)]
pub struct AdminFailure {
    key: &'static str,
    bind: SocketAddr,
    error: io::Error,
}

impl fmt::Display for AdminFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fix = match self.error.raw_os_error().unwrap_or(0) {
            libc::EADDRINUSE => "stop the process that listens there, or change it",
            libc::EACCES | libc::EPERM => "use a port of 1024 or more",
            libc::EADDRNOTAVAIL => "use an address of this host",
            libc::EMFILE | libc::ENFILE => "raise the nofile limit",
            _ => "change it, or set it to off",
        };
        write!(f, "{}: cannot listen on {}: {}; {fix}", self.key, self.bind, self.error)
    }
}

impl std::error::Error for AdminFailure {}

/// The running server. Dropping it closes its socket and connections and ends its thread. When the
/// thread has panicked, its connections are closed and it is replaced ([`Admin::look_after`]).
/// Meanwhile the socket takes connections, which wait.
pub struct Admin {
    address: SocketAddr,
    key: &'static str,
    name: &'static str,
    listener: TcpListener,
    sources: Arc<AdminSources>,
    terms: ServerTerms,
    memory: api::AdminMemory,
    guard: Arc<Guard>,
    state: Option<watch::Sender<BrokerState>>,
    thread: AdminThread,
    replacements: Replacements,
}

impl Admin {
    /// Listens on `bind` and answers from `sources`.
    ///
    /// # Errors
    /// When the address is taken or not allowed, or no thread can be made.
    pub fn start(
        door: AdminEndpoint,
        stage: BrokerStage,
        sources: AdminSources,
    ) -> Result<Admin, AdminFailure> {
        let AdminEndpoint { bind, key, name, terms } = door;
        let failed = |error| AdminFailure { key, bind, error };
        let listener = TcpListener::bind(bind).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let (sender, receiver) = watch::channel(BrokerState::of(stage));
        let guard = Arc::new(Guard::new(terms.clone()));
        let (sources, memory) = (Arc::new(sources), api::AdminMemory::default());
        let parts = AdminParts { guard: &guard, sources: &sources, memory: &memory };
        let thread = parts.launch(name, &listener, receiver).map_err(failed)?;
        Ok(Admin {
            address,
            key,
            name,
            listener,
            sources,
            terms,
            memory,
            guard,
            state: Some(sender),
            thread,
            replacements: Replacements::default(),
        })
    }

    /// Replaces the thread after a panic, when it is time. The new one has the old one's history
    /// and traces; users log in again.
    pub fn look_after(&mut self, now: Instant) {
        let key = self.key;
        match self.replacements.look(self.thread.is_dead(), now) {
            ThreadCare::Works | ThreadCare::Waits => {}
            ThreadCare::Died(pause) => {
                self.thread.sockets.close();
                let seconds = pause.map(|pause| pause.as_secs());
                match seconds {
                    Some(seconds) => tracing::error!(key, seconds, "admin server begins again"),
                    None => tracing::error!(key, "admin server has failed for good: restart"),
                }
            }
            ThreadCare::Replace => {
                let Some(state) = &self.state else { return };
                // What it has locked, or taken from a semaphore, is not given back.
                self.guard = Arc::new(Guard::new(self.terms.clone()));
                self.memory = self.memory.rescued();
                let (guard, sources, memory) = (&self.guard, &self.sources, &self.memory);
                let parts = AdminParts { guard, sources, memory };
                match parts.launch(self.name, &self.listener, state.subscribe()) {
                    Ok(thread) => self.thread = thread,
                    // It is found dead again.
                    Err(error) => tracing::error!(key, %error, "no thread for the admin server"),
                }
            }
        }
    }

    /// The configuration key that sets the server's address, while its thread is dead.
    pub fn paused(&self) -> Option<&'static str> {
        self.replacements.is_waiting().then_some(self.key)
    }

    /// The address on which the server listens. Its port is known even if the kernel chose it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes whom the server serves. Tokens of users who have not changed stay valid.
    pub fn renew(&mut self, terms: ServerTerms) {
        self.guard.renew(terms.clone());
        self.terms = terms;
    }

    /// Reports how far the broker has come.
    pub fn enter(&self, stage: BrokerStage) {
        self.change(|state| state.stage = stage);
    }

    /// Reports which shards are late, and since when.
    pub fn late(&self, late: Vec<(ShardId, Instant)>) {
        self.change(|state| state.late = late);
    }

    /// Reports how many lines the log has lost.
    pub fn lost_lines(&self, count: u64) {
        self.change(|state| state.lost_lines = count);
    }

    /// Reports which servers pause after a panic, by configuration key.
    pub fn others_paused(&self, keys: &[&'static str]) {
        if self.state.as_ref().is_some_and(|state| state.borrow().paused != keys) {
            self.change(|state| state.paused = keys.to_vec());
        }
    }

    /// Reports until when the certificates of listeners are valid, in seconds since 1970.
    pub fn certificates(&self, until: Vec<(String, u64)>) {
        if self.state.as_ref().is_some_and(|state| state.borrow().certificates != until) {
            self.change(|state| state.certificates = until);
        }
    }

    /// Reports how much is retained on each account.
    pub fn accounts(&self, rows: Vec<AccountRow>) {
        if self.state.as_ref().is_some_and(|state| state.borrow().accounts != rows) {
            self.change(|state| state.accounts = rows);
        }
    }

    /// Reports which alarms are raised, and which were.
    pub fn alarms(&self, list: Arc<AlarmList>) {
        self.change(|state| state.alarms = list);
    }

    fn change(&self, change: impl FnOnce(&mut BrokerState)) {
        if let Some(sender) = &self.state {
            sender.send_modify(change);
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // The server ends when this channel ends.
        self.state = None;
        while !self.thread.is_dead() {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.thread.sockets.close();
    }
}

/// Serves until the broker drops its end of `state`.
async fn serve(
    listener: TcpListener,
    sockets: AdminSockets,
    parts: AdminParts<'_>,
    mut state: watch::Receiver<BrokerState>,
) {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => {
            let site = Rc::new(AdminSite::open(parts, state.clone()));
            tokio::task::spawn_local(accept(listener, sockets, site));
        }
        Err(error) => tracing::error!(%error, "the admin server cannot serve"),
    }
    while state.changed().await.is_ok() {}
}

/// What every connection needs.
struct AdminSite {
    page_source: PageSource,
    guard: Arc<Guard>,
    router: Option<Router>,
}

impl AdminSite {
    fn open(parts: AdminParts<'_>, state: watch::Receiver<BrokerState>) -> AdminSite {
        let AdminParts { guard, sources, memory } = parts;
        let mut page_source = PageSource::open(Arc::clone(sources), state);
        if sources.api.is_some() {
            page_source = page_source.with_api(Arc::clone(guard));
        }
        let router = sources.api.as_ref().map(|api| {
            api::router(Arc::clone(api), memory.clone(), &page_source, Arc::clone(guard))
        });
        AdminSite { router, page_source, guard: Arc::clone(guard) }
    }
}

/// A connection: how to end it, and how many requests of it are being answered.
struct OpenConnection {
    task: AbortHandle,
    answering: Rc<Cell<u32>>,
}

/// Counts a request as being answered for as long as it lives.
struct RequestInProgress(Rc<Cell<u32>>);

impl RequestInProgress {
    fn begin(count: Rc<Cell<u32>>) -> RequestInProgress {
        count.set(count.get() + 1);
        RequestInProgress(count)
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The body of an answer. Events that somebody follows are an answer until they end.
struct Streamed {
    body: axum::body::Body,
    _answering: Option<RequestInProgress>,
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn accept(listener: tokio::net::TcpListener, sockets: AdminSockets, site: Rc<AdminSite>) {
    let mut open: VecDeque<OpenConnection> = VecDeque::new();
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        open.retain(|one| !one.task.is_finished());
        if open.len() >= CONNECTIONS {
            // The new connection has just shown that its peer is active, so peers that keep idle
            // connections cannot lock it out.
            let quiet = open.iter().position(|one| one.answering.get() == 0).unwrap_or(0);
            if let Some(oldest) = open.remove(quiet) {
                oldest.task.abort();
            }
        }
        let answering = Rc::new(Cell::new(0));
        let socket = sockets.note(&stream);
        let connection = begin(stream, peer, Rc::clone(&site), Rc::clone(&answering));
        let connection = async move {
            connection.await;
            drop(socket);
        };
        let task = tokio::task::spawn_local(connection).abort_handle();
        open.push_back(OpenConnection { task, answering });
    }
}

/// Serves one connection to its end.
async fn begin(stream: TcpStream, peer: SocketAddr, site: Rc<AdminSite>, answering: Rc<Cell<u32>>) {
    let Some(tls) = site.guard.tls() else {
        return converse(stream, peer, site, answering).await;
    };
    // A failed handshake needs no report: the connection ends, and nothing else happens.
    if let Ok(Ok(stream)) =
        tokio::time::timeout(REQUEST_TIME, TlsAcceptor::from(tls).accept(stream)).await
    {
        converse(stream, peer, site, answering).await;
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: SocketAddr,
    site: Rc<AdminSite>,
    answering: Rc<Cell<u32>>,
) {
    let service = service_fn(|request| {
        let (site, answering) = (Rc::clone(&site), Rc::clone(&answering));
        async move {
            let answering = RequestInProgress::begin(answering);
            let answer = pages::answer(&site, request, guard::From { peer }).await;
            // Of the others only the beginning counts, or peers that do not read would not be
            // replaced.
            let kind = answer.headers().get(header::CONTENT_TYPE);
            let goes_on = kind.is_some_and(|kind| kind == "text/event-stream");
            let answering = goes_on.then_some(answering);
            Ok::<_, Infallible>(answer.map(|body| Streamed { body, _answering: answering }))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIME)
            .max_headers(HEADERS)
            .max_buf_size(REQUEST_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    if tokio::time::timeout(LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(FAREWELL, connection).await;
    }
}

#[cfg(test)]
mod tests;
