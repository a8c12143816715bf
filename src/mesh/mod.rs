//! What connects the shards: mail, mailboxes, the interest table and the few broker-wide bounds.

pub mod interest;
pub mod mail;
pub mod mailbox;
mod map;
pub mod quota;
pub mod reading;
mod shapes;

use crate::topic::Seeds;
use crate::transport::Stack;
use interest::Interest;
use quota::{Quota, Rate};
use std::sync::Arc;

/// Everything that shards share, besides the payloads of messages. Listed in `lib.rs`.
pub struct Shared {
    /// Hash seeds, the same on every shard.
    pub seeds: Seeds,
    /// Which shards care about which topics.
    pub interest: Arc<Interest>,
    /// Connections of the whole broker.
    pub connections: Quota,
    /// Retained messages of the whole broker.
    pub retained_messages: Quota,
    /// Bytes of retained messages of the whole broker.
    pub retained_bytes: Quota,
    /// Bytes that clients make the shards hold; see `shard::memory`.
    pub memory: Quota,
    /// `limits.memory` in bytes; 0 for no bound. For those who show it.
    pub memory_limit: Quota,
    /// 1 once a message to retain has been accepted anywhere: it may still be on its way.
    pub retained_ever: Quota,
}

impl Shared {
    /// For one broker.
    pub fn new(seeds: Seeds) -> Arc<Self> {
        Arc::new(Shared {
            interest: Interest::new(&seeds),
            seeds,
            connections: Quota::default(),
            retained_messages: Quota::default(),
            retained_bytes: Quota::default(),
            memory: Quota::default(),
            memory_limit: Quota::default(),
            retained_ever: Quota::default(),
        })
    }
}

/// What the shards know of one listener. Shared, for its two broker-wide bounds.
pub struct ListenerState {
    /// Its name, for logs.
    pub name: String,
    /// Clients without user name may connect.
    pub allow_anonymous: bool,
    /// Topic prefix, with placeholders.
    pub mountpoint: String,
    /// Most connections.
    pub max_connections: u64,
    /// Most new connections per second.
    pub max_connect_rate: Option<u32>,
    /// What carries MQTT.
    pub stack: Stack,
    /// Connections now.
    pub connections: Quota,
    /// Pace of new connections.
    pub rate: Rate,
}

#[cfg(test)]
mod mailbox_tests;
#[cfg(test)]
mod map_tests;
#[cfg(test)]
mod reading_tests;
