//! The plan of a run of `conn`, `pub` or `sub`, made from its options.

use super::payload::{Body, Header};
use crate::arguments::Outcome;
use crate::clients::join::ClientNames;
use crate::clients::{scram, tls};
use crate::exporter::Exporter;
use crate::mqtt::{Session, Version};
use crate::pattern::Pattern;
use crate::plot;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// A message that a publisher sends repeatedly.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The topic name.
    pub topic: Pattern,
    /// The QoS.
    pub qos: u8,
    /// Whether the messages are retained.
    pub retain: bool,
    /// Nanoseconds from one message to the next; 0 publishes as fast as possible.
    pub interval: u64,
    /// The payload.
    pub body: Body,
}

/// What publishers do.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// What each publisher sends.
    pub publications: Vec<Publication>,
    /// Headers before each payload.
    pub headers: Vec<Header>,
    /// Messages of all clients together, after which publishing ends.
    pub limit: Option<u64>,
    /// The most unacknowledged messages of a client; 0 leaves the bound to the broker's receive
    /// maximum.
    pub inflight: u16,
    /// Whether publishing begins only when all clients are connected.
    pub wait: bool,
    /// The least and the most nanoseconds, chosen at random, by which each client begins later.
    pub delay: (u64, u64),
}

/// What subscribers do.
#[derive(Clone, Debug)]
pub struct Subscribing {
    /// The topic filters of each client.
    pub filters: Vec<Pattern>,
    /// The maximum QoS of the subscriptions.
    pub qos: u8,
    /// Received messages of all clients together, after which the run ends.
    pub limit: Option<u64>,
    /// Headers that are expected before each payload.
    pub headers: Vec<Header>,
}

/// What clients do once they are connected.
#[derive(Clone, Debug)]
pub enum Role {
    /// They only ping.
    Connect,
    /// They publish.
    Publish(Publishing),
    /// They subscribe.
    Subscribe(Subscribing),
}

impl Role {
    /// The name of the command.
    pub fn name(&self) -> &'static str {
        match self {
            Role::Connect => "conn",
            Role::Publish(_) => "pub",
            Role::Subscribe(_) => "sub",
        }
    }
}

/// Everything that a run of `conn`, `pub` or `sub` needs.
#[derive(Debug)]
pub struct Plan {
    /// What clients do.
    pub role: Role,
    /// The brokers as they were given, for the headline.
    pub hosts: String,
    /// The brokers' addresses; clients use them in turn.
    pub targets: Vec<SocketAddr>,
    /// Addresses to connect from, in turn; empty lets the system choose.
    pub sources: Vec<IpAddr>,
    /// The range of local ports from which each client gets its own; see
    /// `socket::SocketOptions::ports`.
    pub ports: Option<(u16, u16)>,
    /// TLS below MQTT, if any.
    pub tls: Option<Arc<tls::TlsSettings>>,
    /// The path of WebSockets that carry MQTT, if any.
    pub web: Option<Arc<str>>,
    /// The protocol version of all clients.
    pub version: Version,
    /// The number of clients.
    pub clients: u32,
    /// How ClientIds and user names are made.
    pub names: ClientNames,
    /// The password of all clients.
    pub password: Option<String>,
    /// How clients prove that they know the password; `None` when they send it.
    pub scram: Option<scram::Mechanism>,
    /// Nanoseconds from one connection to the next; 0 connects as fast as possible.
    pub interval: u64,
    /// The most connections under way at once.
    pub joining: u32,
    /// How often a client tries again after a failed connection.
    pub retries: u16,
    /// How often a client reconnects after a lost connection.
    pub reconnects: u16,
    /// Keep Alive in seconds; 0 switches it off.
    pub keep_alive: u16,
    /// Whether the broker keeps the sessions.
    pub session: Session,
    /// The broker's process, whose CPU time and memory are measured.
    pub pid: Option<i32>,
    /// Nanoseconds of the run after all clients are connected; `None` sets no limit.
    pub duration: Option<u64>,
    /// Where the result goes and which conditions make the run fail.
    pub outcome: Outcome,
    /// Where the run's course is drawn.
    pub plot: Option<plot::Target>,
    /// Serves the figures while the run goes on.
    pub exporter: Option<Exporter>,
    /// A file that is created when all clients are connected.
    pub ready_file: Option<PathBuf>,
    /// A number that distinguishes this run's messages from other runs'.
    pub run: u32,
}
