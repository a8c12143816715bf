//! What a run of `conn`, `pub` or `sub` does, made from its options.

use super::payload::{Body, Header};
use crate::arguments::Outcome;
use crate::clients::join::Made;
use crate::clients::tls;
use crate::exporter::Exporter;
use crate::mqtt::{Session, Version};
use crate::pattern::Pattern;
use crate::plot;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// What a publisher says again and again.
#[derive(Clone, Debug)]
pub struct Publication {
    /// To which topic.
    pub topic: Pattern,
    /// With which QoS.
    pub qos: u8,
    /// As a retained message.
    pub retain: bool,
    /// Nanoseconds from one message to the next; 0: as fast as they go.
    pub interval: u64,
    /// Its payload.
    pub body: Body,
}

/// What publishers do.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// Each of them.
    pub publications: Vec<Publication>,
    /// Before each payload.
    pub headers: Vec<Header>,
    /// Messages, all clients together.
    pub limit: Option<u64>,
    /// Unacknowledged messages of a client.
    pub inflight: u16,
    /// Nobody begins before all are in.
    pub wait: bool,
    /// Each client begins so many nanoseconds later, at random.
    pub delay: (u64, u64),
}

/// What subscribers do.
#[derive(Clone, Debug)]
pub struct Subscribing {
    /// Of each client.
    pub filters: Vec<Pattern>,
    /// That is asked for.
    pub qos: u8,
    /// Messages, all clients together.
    pub limit: Option<u64>,
    /// Before each payload.
    pub headers: Vec<Header>,
}

/// What clients do once they are in.
#[derive(Clone, Debug)]
pub enum Role {
    /// Ping.
    Connect,
    /// Publish.
    Publish(Publishing),
    /// Subscribe.
    Subscribe(Subscribing),
}

impl Role {
    /// As the command is called.
    pub fn name(&self) -> &'static str {
        match self {
            Role::Connect => "conn",
            Role::Publish(_) => "pub",
            Role::Subscribe(_) => "sub",
        }
    }
}

/// Everything that a run needs to know.
#[derive(Debug)]
pub struct Plan {
    /// What clients do.
    pub role: Role,
    /// Brokers as they were given, for the headline.
    pub hosts: String,
    /// Brokers.
    pub targets: Vec<SocketAddr>,
    /// Addresses to connect from.
    pub sources: Vec<IpAddr>,
    /// Ports that clients are given, when they are too many for the kernel to search.
    pub ports: Option<(u16, u16)>,
    /// Below MQTT.
    pub tls: Option<Arc<tls::Settings>>,
    /// MQTT is carried by WebSockets at this path.
    pub web: Option<Arc<str>>,
    /// Spoken by all clients.
    pub version: Version,
    /// Clients.
    pub clients: u32,
    /// ClientIds and user names.
    pub names: Made,
    /// Of all clients.
    pub password: Option<String>,
    /// Nanoseconds from one connection to the next; 0: as fast as they go.
    pub interval: u64,
    /// Connections under way at once.
    pub joining: u32,
    /// Tries again when a connection fails.
    pub retries: u16,
    /// Times that a client comes back.
    pub reconnects: u16,
    /// In seconds; 0: none.
    pub keep_alive: u16,
    /// What becomes of sessions.
    pub session: Session,
    /// The broker's process.
    pub pid: Option<i32>,
    /// Nanoseconds after all are in.
    pub duration: Option<u64>,
    /// What becomes of the result.
    pub outcome: Outcome,
    /// Where a drawing goes.
    pub plot: Option<plot::Target>,
    /// Shown the figures while the run goes on.
    pub exporter: Option<Exporter>,
    /// Made when all are in.
    pub ready_file: Option<PathBuf>,
    /// Tells this run from others.
    pub run: u32,
}
