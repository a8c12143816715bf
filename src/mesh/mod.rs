//! Everything that connects the shards: mail, mailboxes, the interest table, and the few bounds
//! that hold for the whole broker.

pub mod adopting;
pub mod interest;
pub mod mail;
pub mod mailbox;
mod map;
pub mod moves;
pub mod quota;
pub mod reading;
mod shapes;

use crate::atomic::OwnLine;
use crate::overload::SourceTable;
use crate::topic::Seeds;
use crate::transport::Stack;
use interest::Interest;
use quota::{Quota, Rate, RetainedEver, Total};
use std::sync::Arc;

/// Everything that shards share, apart from the payloads of messages. Listed in `lib.rs`.
///
/// What changes with clients and messages has cache lines of its own ([`OwnLine`]). The others are
/// read for each message, and change rarely.
pub struct Shared {
    /// Hash seeds, the same on every shard.
    pub seeds: Seeds,
    /// Which shards have subscribers for which topics.
    pub interest: Arc<Interest>,
    /// Connections of the whole broker.
    pub connections: OwnLine<Quota>,
    /// Retained messages of the whole broker.
    pub retained_messages: OwnLine<Quota>,
    /// Bytes of retained messages of the whole broker.
    pub retained_bytes: OwnLine<Quota>,
    /// Bytes of memory that the shards use on behalf of clients; see `shard::memory`.
    pub memory: OwnLine<Quota>,
    /// Of these, what the cluster's thread holds: wills. It alone changes this.
    pub cluster_memory: Quota,
    /// `limits.memory` in bytes, or 0 for no limit. Only for display.
    pub memory_limit: Quota,
    /// How much of the memory of the host or the control group is in use, as a reading of
    /// `overload::level`; the control thread measures it.
    pub host_memory: Quota,
    /// Pace of new connections of the whole broker.
    pub connect_rate: OwnLine<Rate>,
    /// Connections and bans of addresses, bans of clients.
    pub sources: OwnLine<SourceTable>,
    /// Whether any shard has ever accepted a message to be retained.
    pub retained_ever: RetainedEver,
    /// This broker's name on the paths of messages that go over bridges, another one after each
    /// start; 0 when it has none.
    pub instance: Quota,
    /// Which other nodes of the cluster are there, as bits by their numbers.
    pub nodes: Quota,
    /// The newest stamp of a retained message that this node has seen, of any node's.
    pub stamps: OwnLine<Quota>,
    /// The time in microseconds that stamps had when the clock of the shards was at 0.
    pub stamp_origin: Quota,
    /// What all retained messages of this node add up to, but those that expire: the sums of
    /// nodes that have the same are the same.
    pub retained_digest: OwnLine<Quota>,
    /// 1 while spans of sampled messages are recorded.
    pub recording: Quota,
    /// This is a node of a cluster: the shards have mailboxes for other nodes.
    pub is_clustered: bool,
}

impl Shared {
    /// Creates the shared state of one broker.
    pub fn new(seeds: Seeds) -> Arc<Self> {
        Shared::of(seeds, false)
    }

    /// Creates the shared state of one node of a cluster.
    pub fn clustered(seeds: Seeds) -> Arc<Self> {
        Shared::of(seeds, true)
    }

    fn of(seeds: Seeds, is_clustered: bool) -> Arc<Self> {
        Arc::new(Shared {
            interest: Interest::new(&seeds),
            seeds,
            connections: OwnLine::default(),
            retained_messages: OwnLine::default(),
            retained_bytes: OwnLine::default(),
            memory: OwnLine::default(),
            cluster_memory: Quota::default(),
            memory_limit: Quota::default(),
            host_memory: Quota::default(),
            connect_rate: OwnLine::default(),
            sources: OwnLine::default(),
            retained_ever: RetainedEver::default(),
            instance: Quota::default(),
            nodes: Quota::default(),
            stamps: OwnLine::default(),
            stamp_origin: Quota::default(),
            retained_digest: OwnLine::default(),
            recording: Quota::default(),
            is_clustered,
        })
    }
}

/// What the shards know about one listener. It is shared because two of its bounds hold for the
/// whole broker.
pub struct ListenerState {
    /// Its name, for logs.
    pub name: String,
    /// Whether clients without a user name may connect.
    pub allow_anonymous: bool,
    /// The prefix of all topics, with placeholders.
    pub mountpoint: String,
    /// The largest number of connections.
    pub max_connections: u64,
    /// The largest number of new connections per second.
    pub max_connect_rate: Option<u32>,
    /// The protocol layers below MQTT.
    pub stack: Stack,
    /// The current number of connections.
    pub connections: Quota,
    /// The rate of new connections.
    pub rate: Rate,
    /// Connections that came.
    pub accepted: Total,
    /// Of these, those that were refused, at accept or at CONNECT.
    pub refused: Total,
}

#[cfg(test)]
mod mailbox_tests;
#[cfg(test)]
mod map_tests;
#[cfg(test)]
mod reading_tests;
