//! What a session holds only while something is in flight. Given back when idle.

use super::{Inbound, Pending, Window};
use crate::ids::ShardId;
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::topic::FilterId;
use std::collections::VecDeque;

/// Topics remembered as overtaken while replays wait; then live messages win no more.
const OVERTAKEN: usize = 4096;

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
    /// Hashes of topics on which a newer retained message went out live while replays wait, each
    /// with the newest ticket given by then: for replays up to it, what is kept on the topic is
    /// older than what the client has. One list for all of them, since they may be 100,000.
    overtaken: Vec<(u64, u64)>,
    /// Since when the pending queue has been above its high-water mark while connected.
    pub crowded: Option<Instant>,
    /// In the shard's list of flow states to give back when idle.
    pub listed: bool,
    /// The pending queue is to be looked through for messages of share groups that were left.
    pub to_sift: bool,
    /// That is under way.
    pub sifting: bool,
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

    /// A newer message than the retained one went out live on the topic with this hash. `now` is
    /// the newest ticket that was given.
    pub fn overtake(&mut self, hash: u64, now: u64) {
        if let Some((_, ticket)) = self.overtaken.iter_mut().find(|(known, _)| *known == hash) {
            *ticket = now;
            return;
        }
        if self.overtaken.len() >= OVERTAKEN {
            let oldest = self.replays.front().map_or(now, |replay| replay.ticket);
            self.overtaken.retain(|&(_, ticket)| ticket >= oldest);
        }
        if self.overtaken.len() < OVERTAKEN {
            self.overtaken.push((hash, now));
        }
    }

    /// Hashes of the topics whose retained message is stale for the replay with this ticket.
    pub fn overtaken_since(&self, ticket: u64) -> Vec<u64> {
        let stale = self.overtaken.iter().filter(|&&(_, newest)| newest >= ticket);
        stale.map(|&(hash, _)| hash).collect()
    }

    /// Gives the list back when no replay needs it.
    pub fn forget_overtaken(&mut self) {
        if self.replays.is_empty() {
            self.overtaken = Vec::new();
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(ticket: u64) -> Replay {
        Replay {
            filter: FilterId(ticket as u32),
            ticket,
            shard: ShardId(0),
            cursor: None,
            waiting: false,
            inherited: false,
        }
    }

    #[test]
    fn what_is_overtaken_is_kept_once_for_all_replays_and_bounded() {
        let mut flow = Flow::default();
        flow.replays.extend((1..=100_000).map(replay));
        (0..10_000).for_each(|hash| flow.overtake(hash, 100_000));
        assert_eq!(flow.overtaken.len(), OVERTAKEN);
        assert!(flow.overtaken.capacity() <= 2 * OVERTAKEN);
        assert_eq!(flow.overtaken_since(100_000).len(), OVERTAKEN);
        // A replay that began later is sent what is kept by then.
        flow.replays.push_back(replay(100_001));
        assert!(flow.overtaken_since(100_001).is_empty());
        flow.overtake(7, 100_001);
        assert_eq!(flow.overtaken_since(100_001), [7]);
        // What only replays that are over needed makes room.
        flow.replays.drain(..100_000);
        flow.overtake(99_999, 100_001);
        assert_eq!(flow.overtaken, [(7, 100_001), (99_999, 100_001)]);
        flow.replays.clear();
        flow.forget_overtaken();
        assert_eq!(flow.overtaken.capacity(), 0);
    }
}
