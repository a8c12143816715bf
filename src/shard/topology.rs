//! The place of this shard among the shards and nodes of the broker: its number, which shard is the
//! home of a name, and the numbers that tell its requests apart.

use super::placement::{self, home_of};
use crate::ids::{ClientKey, ShardId, ShardSet};
use crate::limits::CLUSTER_PEERS;
use crate::mesh::Shared;
use crate::time::Instant;
use crate::topic::TopicHash;
use std::sync::Arc;

/// Bits of the tickets of one millisecond.
const TICKETS: u32 = 10;

/// A shard's place among the others.
pub(super) struct Topology {
    pub(super) id: ShardId,
    /// How many shards there are.
    pub(super) shards: u8,
    /// How many receivers of mail there are: the shards, and on a node of a cluster also the thread
    /// of the cluster and the places of other nodes.
    pub(super) receivers: u8,
    pub(super) shared: Arc<Shared>,
    /// The last ticket that was given out.
    pub(super) tickets: u64,
}

impl Topology {
    pub(super) fn new(id: ShardId, shards: u8, shared: Arc<Shared>) -> Self {
        let others = if shared.is_clustered { 1 + CLUSTER_PEERS as u8 } else { 0 };
        Topology { id, shards, receivers: shards + others, shared, tickets: 0 }
    }

    /// True when there is no other receiver of mail.
    #[inline]
    pub(super) fn is_alone(&self) -> bool {
        self.receivers == 1
    }

    /// How many senders of mail there are: the shards, and the cluster.
    pub(super) fn senders(&self) -> u8 {
        self.shards + u8::from(self.receivers > self.shards)
    }

    /// The receiver of mail for the cluster, on a node of one.
    pub(super) fn cluster(&self) -> Option<ShardId> {
        (self.receivers > self.shards).then_some(ShardId(self.shards))
    }

    /// The receivers that stand for the other nodes which are present.
    pub(super) fn nodes(&self) -> ShardSet {
        match self.cluster() {
            Some(cluster) => ShardSet(u128::from(self.shared.nodes.used()) << (cluster.0 + 1)),
            None => ShardSet::EMPTY,
        }
    }

    /// The receiver of mail for the node with that number.
    pub(super) fn place_of(&self, node: u8) -> ShardId {
        ShardId(self.shards + 1 + node)
    }

    /// The home shard of a ClientId or share group.
    pub(super) fn home(&self, name: &str) -> ShardId {
        home_of(&self.shared.seeds, name, self.shards)
    }

    /// The shard that keeps a topic's retained message.
    pub(super) fn retained_home(&self, hash: &TopicHash<'_>) -> ShardId {
        placement::retained_home(hash, self.shards)
    }

    /// The key of a ClientId.
    pub(super) fn client_key(&self, name: &str) -> ClientKey {
        ClientKey::new(self.shared.seeds.place(name.as_bytes()))
    }

    /// Gives out tickets from now on that no earlier process of this node has given out: other
    /// nodes know claims by them. No shard gives out a thousand in a millisecond.
    pub(super) fn go_on_with_tickets(&mut self, now: Instant) {
        self.tickets = self.tickets.max(now.0 << TICKETS);
    }

    /// A number that no other request of this shard has. The answer to the request carries it.
    pub(super) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}
