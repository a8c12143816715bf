//! What a session holds only while something is in flight. Given back when idle.

use super::{Inbound, Pending, Replays, Window};
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::topic::FilterId;
use hashbrown::HashMap;

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
    pub replays: Replays,
    /// In the shard's list of sessions whose replay may go on.
    pub replay_listed: bool,
    /// Hashes of topics on which a newer retained message went out live while replays wait, each
    /// with the newest ticket given by then: for replays up to it, what is kept on the topic is
    /// older than what the client has. One list for all of them, since they may be 100,000.
    overtaken: HashMap<u64, u64, foldhash::fast::FixedState>,
    /// The oldest replay when the list was last full and looked through for what nobody needs.
    overtaken_kept: u64,
    /// Since when the pending queue has been above its high-water mark while connected.
    pub crowded: Option<Instant>,
    /// In the shard's list of flow states to give back when idle.
    pub listed: bool,
    /// When unacknowledged messages are sent again (MQTT 3 with a retry interval).
    pub retry: Option<Instant>,
}

impl Flow {
    /// The connection has ended. Of what it asked for, keeps the newest replay of each filter that
    /// is `owed` for the next one: it sends all that an older one still owes. So a session that
    /// goes from connection to connection never holds more than it has filters.
    pub fn inherit_replays(&mut self, owed: impl Fn(FilterId) -> bool) {
        self.replays.inherit(owed);
    }

    /// A newer message than the retained one went out live on the topic with this hash. `now` is
    /// the newest ticket that was given.
    pub fn overtake(&mut self, hash: u64, now: u64) {
        if let Some(ticket) = self.overtaken.get_mut(&hash) {
            *ticket = now;
            return;
        }
        let oldest = self.replays.front().map_or(now, |replay| replay.ticket);
        // Nothing more is found to be of no use before another replay is the oldest.
        if self.overtaken.len() >= OVERTAKEN && self.overtaken_kept != oldest {
            self.overtaken_kept = oldest;
            self.overtaken.retain(|_, ticket| *ticket >= oldest);
        }
        if self.overtaken.len() < OVERTAKEN {
            self.overtaken.insert(hash, now);
        }
    }

    /// True when what is kept on the topic with that hash is stale for the replay with that ticket.
    pub fn is_overtaken(&self, hash: u64, ticket: u64) -> bool {
        self.overtaken.get(&hash).is_some_and(|&newest| newest >= ticket)
    }

    /// True when live messages have overtaken any retained one.
    pub fn has_overtaken(&self) -> bool {
        !self.overtaken.is_empty()
    }

    /// Gives the list back when no replay needs it.
    pub fn forget_overtaken(&mut self) {
        if self.replays.is_empty() {
            (self.overtaken, self.overtaken_kept) = (HashMap::default(), 0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;
    use crate::session::Replay;

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
        (1..=100_000).for_each(|ticket| flow.replays.push(replay(ticket)));
        (0..10_000).for_each(|hash| flow.overtake(hash, 100_000));
        assert_eq!(flow.overtaken.len(), OVERTAKEN);
        assert!(flow.overtaken.capacity() <= 2 * OVERTAKEN);
        assert!(flow.is_overtaken(4095, 100_000) && !flow.is_overtaken(4096, 100_000));
        // A replay that began later is sent what is kept by then.
        flow.replays.push(replay(100_001));
        assert!(!flow.is_overtaken(7, 100_001));
        flow.overtake(7, 100_001);
        assert!(flow.is_overtaken(7, 100_001) && !flow.is_overtaken(8, 100_001));
        // What only replays that are over needed makes room.
        (0..100_000).for_each(|_| drop(flow.replays.pop()));
        flow.overtake(99_999, 100_001);
        assert_eq!(flow.overtaken.len(), 2);
        assert!(flow.is_overtaken(99_999, 100_001));
        assert!(flow.replays.pop().is_some());
        flow.forget_overtaken();
        assert_eq!(flow.overtaken.capacity(), 0);
    }
}
