//! The replays of retained messages that a session waits for. There may be 100,000 of them, one for
//! each filter of a client that reads slowly. Adding one, taking the oldest one, and removing those
//! of a filter cost the same whatever their number.

use crate::ids::ShardId;
use crate::topic::FilterId;
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;

/// A replay of retained messages to a new subscription. It proceeds in slices, one shard after the
/// other.
pub struct Replay {
    /// The subscription. A replay is abandoned when its subscription is removed.
    pub filter: FilterId,
    /// Identifies the replay, because a slice for an earlier one may still be on its way.
    pub ticket: u64,
    /// The shard whose retained messages are being replayed now.
    pub shard: ShardId,
    /// Where the next slice starts on that shard.
    pub cursor: Option<Box<str>>,
    /// A slice was requested and has not arrived.
    pub waiting: bool,
    /// It was requested on an earlier connection. Subscribing again restarts it.
    pub inherited: bool,
}

struct QueuedReplay {
    replay: Replay,
    /// It was removed. It leaves the queue when its turn comes.
    gone: bool,
    /// The ticket of the previous replay of the same filter; 0 for none, or when there is no index.
    before: u64,
}

/// If there are more replays than this, they are found through an index instead of by linear
/// search.
const FEW: usize = 16;

/// Replays in the order in which they were requested, which is the order of their tickets.
#[derive(Default)]
pub struct Replays {
    queue: VecDeque<QueuedReplay>,
    gone: usize,
    /// Replays up to this ticket are from earlier connections.
    inherited_to: u64,
    /// The ticket of each filter's newest replay, once there are more than a few.
    newest: Option<Box<HashMap<u32, u64, foldhash::fast::FixedState>>>,
}

impl Replays {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len() - self.gone
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() // Its first place is never one that is gone.
    }

    /// The oldest.
    pub fn front(&self) -> Option<&Replay> {
        self.queue.front().map(|place| &place.replay)
    }

    /// The oldest.
    pub fn front_mut(&mut self) -> Option<&mut Replay> {
        self.queue.front_mut().map(|place| &mut place.replay)
    }

    /// The filters of those that wait, oldest first. A filter may come more than once while the
    /// connection lasts that asked for them.
    pub fn filters(&self) -> impl Iterator<Item = FilterId> {
        self.queue.iter().filter(|place| !place.gone).map(|place| place.replay.filter)
    }

    /// Adds a replay whose ticket is newer than all others. It restarts what an earlier connection
    /// has left of the same filter's replay.
    pub fn push(&mut self, replay: Replay) {
        debug_assert!(self.queue.back().is_none_or(|last| last.replay.ticket < replay.ticket));
        let (filter, ticket) = (replay.filter, replay.ticket);
        // There is at most one such replay, and while it exists it is the newest one of its filter.
        if let Some(at) = self.newest_of(filter)
            && self.queue[at].replay.inherited
        {
            self.take_out(at);
            if let Some(newest) = &mut self.newest {
                newest.remove(&filter.0);
            }
        }
        self.queue.push_back(QueuedReplay { replay, gone: false, before: 0 });
        self.tidy();
        if self.newest.is_some() {
            self.index(filter, ticket, self.queue.len() - 1);
        } else if self.queue.len() > FEW {
            self.index_all();
        }
    }

    fn newest_of(&self, filter: FilterId) -> Option<usize> {
        match &self.newest {
            Some(newest) => {
                let ticket = newest.get(&filter.0)?;
                self.queue.binary_search_by_key(ticket, |place| place.replay.ticket).ok()
            }
            None => self.queue.iter().rposition(|p| p.replay.filter == filter && !p.gone),
        }
    }

    fn take_out(&mut self, at: usize) {
        self.queue[at].gone = true;
        self.gone += 1;
    }

    fn index_all(&mut self) {
        self.newest = Some(Box::default());
        for at in 0..self.queue.len() {
            let Replay { filter, ticket, .. } = self.queue[at].replay;
            if !self.queue[at].gone {
                self.index(filter, ticket, at);
            }
        }
    }

    fn index(&mut self, filter: FilterId, ticket: u64, at: usize) {
        if let Some(newest) = &mut self.newest {
            self.queue[at].before = newest.insert(filter.0, ticket).unwrap_or(0);
        }
    }

    /// Removes and returns the oldest one.
    pub fn pop(&mut self) -> Option<Replay> {
        let place = self.queue.pop_front()?;
        let Replay { filter, ticket, .. } = place.replay;
        if let Some(newest) = &mut self.newest
            && newest.get(&filter.0) == Some(&ticket)
        {
            newest.remove(&filter.0);
        }
        self.tidy();
        Some(place.replay)
    }

    /// Removes the replays of a filter.
    pub fn remove(&mut self, filter: FilterId) {
        let Some(newest) = &mut self.newest else {
            for at in 0..self.queue.len() {
                if self.queue[at].replay.filter == filter && !self.queue[at].gone {
                    self.take_out(at);
                }
            }
            return self.tidy();
        };
        let mut ticket = newest.remove(&filter.0).unwrap_or(0);
        while ticket != 0 {
            // A replay that has had its turn is not in the queue any more, and neither are those
            // before it.
            let found = self.queue.binary_search_by_key(&ticket, |place| place.replay.ticket);
            let Ok(at) = found else { break };
            if !self.queue[at].gone {
                self.take_out(at);
            }
            ticket = self.queue[at].before;
        }
        self.tidy();
    }

    /// To be called when the connection has ended. Keeps, of the replays that it requested, the
    /// newest one of each filter that is `owed`. Looks only at those, not at what was kept before.
    pub fn inherit(&mut self, owed: impl Fn(FilterId) -> bool) {
        let old = |place: &QueuedReplay| place.replay.ticket <= self.inherited_to;
        let first = self.queue.partition_point(old);
        let mut seen = HashSet::new();
        for at in (first..self.queue.len()).rev() {
            let place = &mut self.queue[at];
            let filter = place.replay.filter;
            place.replay.inherited = true;
            if place.gone {
                continue;
            }
            let owed = owed(filter);
            if owed && seen.insert(filter.0) {
                // The earlier ones are removed next.
                place.before = 0;
            } else {
                self.take_out(at);
                if let Some(newest) = self.newest.as_mut().filter(|_| !owed) {
                    newest.remove(&filter.0);
                }
            }
        }
        if let Some(last) = self.queue.back() {
            self.inherited_to = last.replay.ticket;
        }
        self.tidy();
    }

    /// Restores the invariants: the first entry is never a removed one, and at most half of all
    /// are.
    fn tidy(&mut self) {
        while self.queue.front().is_some_and(|place| place.gone) {
            self.queue.pop_front();
            self.gone -= 1;
        }
        if self.gone > FEW && self.gone > self.queue.len() / 2 {
            self.queue.retain(|place| !place.gone);
            self.gone = 0;
        }
        if self.queue.is_empty() {
            self.newest = None;
        }
        if self.queue.len() < self.queue.capacity() / 4 && self.queue.capacity() > 64 {
            self.queue.shrink_to(self.queue.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(filter: u32, ticket: u64) -> Replay {
        Replay {
            filter: FilterId(filter),
            ticket,
            shard: ShardId(0),
            cursor: None,
            waiting: false,
            inherited: false,
        }
    }

    proptest::proptest! {
        #[test]
        fn they_behave_like_a_list(
            filters in 1u32..40,
            steps in proptest::collection::vec((0u8..20, 0u32..1000), 0..400)
        ) {
            let (mut replays, mut ticket) = (Replays::default(), 0);
            let mut list: Vec<(u32, u64, bool)> = Vec::new();
            for (step, pick) in steps {
                let filter = pick % filters;
                match step {
                    0..12 => {
                        ticket += 1;
                        replays.push(replay(filter, ticket));
                        list.retain(|&(known, _, old)| known != filter || !old);
                        list.push((filter, ticket, false));
                    }
                    12..15 => {
                        let first = (!list.is_empty()).then(|| list.remove(0));
                        let popped = replays.pop();
                        proptest::prop_assert_eq!(
                            popped.map(|r| (r.filter.0, r.ticket, r.inherited)), first);
                    }
                    15..19 => {
                        replays.remove(FilterId(filter));
                        list.retain(|&(known, ..)| known != filter);
                    }
                    _ => {
                        let owed = |filter: u32| filter % 3 != pick % 3;
                        replays.inherit(|filter| owed(filter.0));
                        let last = |f| list.iter().rev().find(|row| row.0 == f);
                        let newest: Vec<_> = list
                            .iter()
                            .filter(|&&(filter, ticket, old)| {
                                old || owed(filter) && last(filter).is_some_and(|l| l.1 == ticket)
                            })
                            .map(|&(filter, ticket, _)| (filter, ticket, true))
                            .collect();
                        list = newest;
                    }
                }
                let front = replays.front().map(|r| (r.filter.0, r.ticket, r.inherited));
                proptest::prop_assert_eq!(front, list.first().copied());
                proptest::prop_assert_eq!(replays.len(), list.len());
                let filters = replays.filters().map(|filter| filter.0);
                proptest::prop_assert!(filters.eq(list.iter().map(|&(filter, ..)| filter)));
                proptest::prop_assert_eq!(replays.is_empty(), list.is_empty());
                proptest::prop_assert!(replays.queue.len() <= 2 * list.len() + 2 * FEW + 2);
            }
        }
    }
}
