//! Where this shard stands among the shards of the broker: which one it is, what is at home where,
//! and the numbers that tell its requests to others apart.

use super::placement::home_of;
use crate::ids::ShardId;
use crate::mesh::Shared;
use crate::topic::TopicHash;
use std::sync::Arc;

/// A shard's place among the others.
pub(super) struct Topology {
    pub(super) id: ShardId,
    /// How many shards there are.
    pub(super) shards: u8,
    pub(super) shared: Arc<Shared>,
    /// The last ticket that was given out.
    pub(super) tickets: u64,
}

impl Topology {
    pub(super) fn new(id: ShardId, shards: u8, shared: Arc<Shared>) -> Self {
        Topology { id, shards, shared, tickets: 0 }
    }

    /// The home shard of a ClientId or share group.
    pub(super) fn home(&self, name: &str) -> ShardId {
        home_of(&self.shared.seeds, name, self.shards)
    }

    /// The shard that keeps a topic's retained message.
    pub(super) fn retained_home(&self, hash: &TopicHash<'_>) -> ShardId {
        ShardId((hash.exact() % u64::from(self.shards)) as u8)
    }

    /// A number that no other request of this shard has: its answer carries it.
    pub(super) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}
