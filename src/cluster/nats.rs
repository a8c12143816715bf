//! NATS as the engine of a cluster. There are two subjects per node: one of its own, and one that
//! all nodes share. No filter of a client becomes a subject.
//!
//! The client library reconnects by itself, to the next server of its list. Frames without a
//! connection are dropped here instead of queued: the lanes send them again ([`super::lane`]), so a
//! queue would deliver them twice. Frames that find the library's queue full are dropped in the
//! same way.
#![allow(
    clippy::disallowed_types,
    reason = "TLS settings by the library's own handle, and what its tasks have said"
)]

pub use super::jetstream::Replies;
use super::jetstream::StreamKeeper;
use super::keeping::{KeepAsker, KeepRequest, KeptAt};
use super::node::{Engine, To};
use crate::client_tls::{Authorities, OwnCertificate, client_config};
use crate::config::ClusterConfig;
use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, Server, ServerAddr, Subject, Subscriber};
use bytes::Bytes;
use futures_lite::future::poll_once;
use std::future::ready;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The interval between pings of a server. A server that hangs is left after two pings without an
/// answer, before the other nodes consider this node dead ([`super::node`]).
const PING: Duration = Duration::from_millis(500);
/// The longest time for opening a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// The most frames that wait for the library: as many as all windows may hold.
const QUEUE: usize = 8192;
/// The longest time between two attempts to connect.
const RETRY: Duration = Duration::from_secs(2);

/// The subjects of a cluster.
struct Subjects {
    all: Subject,
    node: String,
}

/// The connection to the servers.
pub struct Nats {
    client: Client,
    subjects: Subjects,
    /// Frames that [`Nats::flush`] sends after the step.
    frames: Vec<(Subject, Bytes)>,
    /// Frames that could not be sent.
    pub unsent: u64,
    /// Bytes of frames that were sent.
    pub bytes: u64,
    keeper: StreamKeeper,
    replies: Replies,
}

impl Engine for Nats {
    fn ask(&mut self, asker: KeepAsker, place: KeptAt, request: KeepRequest) {
        self.keeper.ask(asker, place, request);
    }

    fn send(&mut self, to: To<'_>, frame: Bytes) {
        let subject = match to {
            To::All => self.subjects.all.clone(),
            To::Node(name) => Subject::from(format!("{}{name}", self.subjects.node)),
        };
        self.frames.push((subject, frame));
    }
}

impl Nats {
    /// Begins to connect, and subscribes to the subjects for the node `name`.
    ///
    /// # Errors
    /// The file or the address that cannot be used.
    pub async fn connect(
        config: &ClusterConfig,
        name: &str,
    ) -> Result<(Nats, [Subscriber; 2]), String> {
        let mut servers = Vec::new();
        for server in config.nats.servers.iter() {
            let parsed = server.parse::<ServerAddr>();
            servers.push(parsed.map_err(|error| format!("nats: {server}: {error}"))?);
        }
        let options = options(config, name).await?;
        let client = options.connect(servers).await.map_err(|error| format!("nats: {error}"))?;
        let (keeper, replies) = StreamKeeper::new(&client, config);
        let cluster = &*config.name;
        let subjects = Subjects {
            all: Subject::from(format!("ringmq.{cluster}.all")),
            node: format!("ringmq.{cluster}.node."),
        };
        let mut subscribers = Vec::with_capacity(2);
        for subject in [subjects.all.clone(), Subject::from(format!("{}{name}", subjects.node))] {
            let subscriber = client.subscribe(subject).await;
            subscribers.push(subscriber.map_err(|error| format!("nats: {error}"))?);
        }
        let subscribers: [Subscriber; 2] =
            subscribers.try_into().map_err(|_| "nats: two subjects were asked for".to_owned())?;
        let frames = Vec::new();
        let nats = Nats { client, subjects, frames, unsent: 0, bytes: 0, keeper, replies };
        Ok((nats, subscribers))
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The answers to [`Engine::ask`].
    pub fn replies(&mut self) -> &mut Replies {
        &mut self.replies
    }

    /// Hands the frames of a step to the library.
    pub async fn flush(&mut self) {
        let connected = self.is_connected();
        for (subject, frame) in self.frames.drain(..) {
            let bytes = frame.len() as u64;
            let sent = connected
                && matches!(poll_once(self.client.publish(subject, frame)).await, Some(Ok(())));
            if sent {
                self.bytes += bytes;
            } else {
                self.unsent += 1;
            }
        }
    }

    /// Waits until everything that was sent is on its way, at most for `patience`.
    pub async fn finish(&self, patience: Duration) {
        // On a timeout there is nothing left to do: the process ends.
        let _ = tokio::time::timeout(patience, self.client.flush()).await;
    }
}

async fn options(config: &ClusterConfig, name: &str) -> Result<ConnectOptions, String> {
    let nats = &config.nats;
    let mut options = ConnectOptions::new();
    if !nats.credentials.is_empty() {
        let loaded = options.credentials_file(Path::new(&*nats.credentials)).await;
        options = loaded.map_err(|error| format!("nats.credentials: {error}"))?;
    } else if !nats.nkey.is_empty() {
        let path = &*nats.nkey;
        let seed = std::fs::read_to_string(path);
        let seed = seed.map_err(|error| format!("nats.nkey: {path}: {error}"))?;
        options = options.nkey(seed.trim().to_owned());
    } else if !nats.username.is_empty() {
        let (username, password) = (nats.username.to_string(), nats.password.to_string());
        options = options.user_and_password(username, password);
    }
    if let Some(given) = &*nats.tls {
        let own = OwnCertificate::at(&given.certificate, &given.private_key);
        let client = client_config(Authorities::at(&given.ca), own);
        let client = client.map_err(|error| format!("nats.tls.{error}"))?;
        options = options.require_tls(true).tls_client_config(client);
    }
    let node = name.to_owned();
    let told = Mutex::new(String::new());
    Ok(options
        .name(format!("ringmq {node}"))
        .ping_interval(PING)
        .connection_timeout(CONNECT)
        .retry_on_initial_connect()
        .client_capacity(QUEUE)
        .subscription_capacity(QUEUE)
        .reconnect_delay_callback(|attempts| {
            let doubled = Duration::from_millis(10 << attempts.min(10));
            if attempts <= 1 { Duration::ZERO } else { doubled.min(RETRY) }
        })
        .reconnect_to_server_callback(move |servers, _| {
            complain(&servers, &told);
            ready(None)
        })
        .event_callback(|event| async move { tell(&event) }))
}

/// Logs why no server accepts this node before the next attempt, and again only when the reasons
/// change.
fn complain(servers: &[Server], told: &Mutex<String>) {
    let mut reasons = String::new();
    for Server { addr, last_error, .. } in servers {
        if let Some(error) = last_error {
            let between = if reasons.is_empty() { "" } else { "; " };
            reasons += &format!("{between}{}:{}: {error}", addr.host(), addr.port());
        }
    }
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    if *told != reasons {
        if !reasons.is_empty() {
            tracing::warn!(reasons, "cluster: no NATS server takes this node");
        }
        *told = reasons;
    }
}

/// Logs an event of the connection.
fn tell(event: &Event) {
    match event {
        Event::Connected => tracing::info!("cluster: connected to a NATS server"),
        Event::Disconnected => tracing::warn!("cluster: the connection to NATS is lost"),
        // Each failed attempt; the missing connection has been logged as a warning already.
        Event::ClientError(error) => tracing::debug!(%error, "cluster: NATS"),
        Event::SlowConsumer(_) => tracing::debug!("cluster: frames were dropped on arrival"),
        event => tracing::warn!(%event, "cluster: NATS"),
    }
}
