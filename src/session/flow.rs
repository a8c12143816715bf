//! The part of a session that exists only while something is in flight. It is freed when the
//! session is idle.

use super::{Backlog, Inbound, Pending, Replays, Window};
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::topic::FilterId;
use hashbrown::HashMap;

/// The number of topics that are remembered as overtaken while replays wait. Beyond it, a client
/// may get a retained message after a newer live one.
const OVERTAKEN: usize = 4096;

/// Windows, queues and replays of one session.
#[derive(Default)]
pub struct Flow {
    /// Messages that were sent and are not acknowledged.
    pub window: Window,
    /// Messages that were accepted and have not been sent.
    pub pending: Pending,
    /// QoS 2 messages that were received and not yet released.
    pub inbound: Inbound,
    /// The replays of retained messages that subscriptions asked for, oldest first.
    pub replays: Replays,
    /// Whether the session is in the shard's list of sessions whose replay may continue.
    pub replay_listed: bool,
    /// What was delivered live while replays wait; `None` while that is nothing.
    overtaken: Option<Box<Overtaken>>,
    /// How long the pending queue has been too long, while connected.
    pub backlog: Backlog,
    /// Whether it is in the shard's list of flow states that are freed when they are idle.
    pub listed: bool,
    /// The pending queue has to be searched for messages of share groups that the session has left.
    pub to_sift: bool,
    /// That search is in progress.
    pub sifting: bool,
    /// When unacknowledged messages are sent again (only for MQTT 3 with a retry interval).
    pub retry: Option<Instant>,
}

/// The topics on which a newer message to be retained was delivered live while replays wait. All
/// replays share one list, since there may be 100,000 of them.
#[derive(Default)]
struct Overtaken {
    /// The hashes of the topics, each with the newest ticket that existed then. For replays up to
    /// that ticket, the stored message of the topic is older than what the client already has.
    topics: HashMap<u64, u64, foldhash::fast::FixedState>,
    /// The oldest replay at the time when the list was last full and searched for entries that
    /// nobody needs.
    kept: u64,
}

// What every client costs for whom messages wait.
const _: () = assert!(size_of::<Flow>() <= 384);

impl Flow {
    /// To be called when the connection has ended. Keeps, of the replays that it asked for, the
    /// newest one of each filter that is `owed` to the next connection, because that one sends
    /// everything an older one would still have to send. A session that goes from connection to
    /// connection therefore never holds more replays than it has filters.
    pub fn inherit_replays(&mut self, owed: impl Fn(FilterId) -> bool) {
        self.replays.inherit(owed);
    }

    /// Records that a newer message than the stored one was delivered live on the topic with this
    /// hash. `now` is the newest ticket that exists.
    pub fn overtake(&mut self, hash: u64, now: u64) {
        let Overtaken { topics, kept } = &mut **self.overtaken.get_or_insert_default();
        if let Some(ticket) = topics.get_mut(&hash) {
            *ticket = now;
            return;
        }
        let oldest = self.replays.front().map_or(now, |replay| replay.ticket);
        // Another search would find nothing before another replay is the oldest one.
        if topics.len() >= OVERTAKEN && *kept != oldest {
            *kept = oldest;
            topics.retain(|_, ticket| *ticket >= oldest);
        }
        if topics.len() < OVERTAKEN {
            topics.insert(hash, now);
        }
    }

    /// True when the stored message of the topic with that hash is stale for the replay with that
    /// ticket.
    pub fn is_overtaken(&self, hash: u64, ticket: u64) -> bool {
        let newest = self.overtaken.as_ref().and_then(|overtaken| overtaken.topics.get(&hash));
        newest.is_some_and(|&newest| newest >= ticket)
    }

    /// True when live messages have overtaken any retained one.
    pub fn has_overtaken(&self) -> bool {
        self.overtaken.as_ref().is_some_and(|overtaken| !overtaken.topics.is_empty())
    }

    /// Frees the list when no replay needs it.
    pub fn forget_overtaken(&mut self) {
        if self.replays.is_empty() {
            self.overtaken = None;
        }
    }

    /// True when nothing is in flight or waiting, so that the state may be freed.
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
        let topics = &flow.overtaken.as_ref().unwrap().topics;
        assert_eq!(topics.len(), OVERTAKEN);
        assert!(topics.capacity() <= 2 * OVERTAKEN);
        assert!(flow.is_overtaken(4095, 100_000) && !flow.is_overtaken(4096, 100_000));
        // A replay that began later is sent what is kept by then.
        flow.replays.push(replay(100_001));
        assert!(!flow.is_overtaken(7, 100_001));
        flow.overtake(7, 100_001);
        assert!(flow.is_overtaken(7, 100_001) && !flow.is_overtaken(8, 100_001));
        // What only replays that are over needed makes room.
        (0..100_000).for_each(|_| drop(flow.replays.pop()));
        flow.overtake(99_999, 100_001);
        assert_eq!(flow.overtaken.as_ref().unwrap().topics.len(), 2);
        assert!(flow.is_overtaken(99_999, 100_001));
        assert!(flow.replays.pop().is_some());
        flow.forget_overtaken();
        assert!(flow.overtaken.is_none());
    }
}
