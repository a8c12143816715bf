//! What a session holds only while something is in flight. Given back when idle.

use super::{Inbound, Pending, Window};
use crate::ids::ShardId;
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::topic::FilterId;
use std::collections::VecDeque;

/// Windows, queues and replays of one session.
#[derive(Default)]
pub struct Flow {
    /// Sent and unacknowledged.
    pub window: Window,
    /// Accepted and not yet sent.
    pub pending: Pending,
    /// QoS 2 received and not yet released.
    pub inbound: Inbound,
    /// Retained replays that subscriptions asked for, oldest first.
    pub replays: VecDeque<Replay>,
    /// Since when the pending queue has been above its high-water mark while connected.
    pub crowded: Option<Instant>,
    /// In the shard's list of flow states to give back when idle.
    pub listed: bool,
    /// When unacknowledged messages are sent again (MQTT 3 with a retry interval).
    pub retry: Option<Instant>,
}

impl Flow {
    /// The connection has ended. Keeps the newest replay of each filter that is `owed` for the next
    /// one: it sends all that an older one still owes. So a session that goes from connection to
    /// connection never holds more than it has filters.
    pub fn inherit_replays(&mut self, owed: impl Fn(FilterId) -> bool) {
        self.replays.retain(|replay| owed(replay.filter));
        let mut seen = hashbrown::HashSet::new();
        let newest: Vec<u64> = self
            .replays
            .iter()
            .rev()
            .filter(|replay| seen.insert(replay.filter.0))
            .map(|replay| replay.ticket)
            .collect();
        if newest.len() < self.replays.len() {
            let newest: hashbrown::HashSet<u64> = newest.into_iter().collect();
            self.replays.retain(|replay| newest.contains(&replay.ticket));
        }
        self.replays.iter_mut().for_each(|replay| replay.inherited = true);
    }

    /// True when it may be given back.
    pub fn is_idle(&self) -> bool {
        self.window.is_empty()
            && self.pending.is_empty()
            && (self.inbound.is_empty() || Mutant::FlowForgetsInbound.is_on())
            && self.replays.is_empty()
    }
}

/// A replay of retained messages to a new subscription, in slices, shard after shard.
pub struct Replay {
    /// The subscription; a replay whose subscription has gone is given up.
    pub filter: FilterId,
    /// Tells it from every other replay: a slice for an earlier one may still be on its way.
    pub ticket: u64,
    /// The shard whose retained messages are being replayed now.
    pub shard: ShardId,
    /// Where the next slice begins on that shard.
    pub cursor: Option<Box<str>>,
    /// A slice was asked for and has not come.
    pub waiting: bool,
    /// From an earlier connection: subscribing again begins it anew.
    pub inherited: bool,
    /// Hashes of topics on which a newer message went out live meanwhile: their retained message
    /// would arrive as if it were newer.
    pub overtaken: Vec<u64>,
}
