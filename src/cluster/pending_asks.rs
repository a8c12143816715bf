//! Questions of shards about what other shards have told: whether the other nodes know the
//! filters of a SUBSCRIBE ([`super::announced`]).
//!
//! A share group has its home at one shard, which tells the cluster of it, and its member at
//! another, which asks when it was told that the member is in the group. The mail of each shard
//! comes in order, but that of two shards does not: so a question waits until what was in all
//! mailboxes when it was found there has been taken out.

use crate::ids::{SessionRef, ShardId};
use std::collections::VecDeque;

/// The shard that asks, for whom, and its ticket.
pub type PendingAsk = (ShardId, SessionRef, u64);

/// The questions that wait.
pub struct PendingAsks {
    /// How many mails of each shard have been taken out.
    taken: Vec<u64>,
    fresh: Vec<PendingAsk>,
    /// How many are to be taken out first, for each shard.
    waiting: VecDeque<(Vec<u64>, Vec<PendingAsk>)>,
}

impl PendingAsks {
    /// Of so many shards.
    pub fn new(shards: u8) -> PendingAsks {
        let taken = vec![0; usize::from(shards)];
        PendingAsks { taken, fresh: Vec::new(), waiting: VecDeque::new() }
    }

    /// A mail of that shard was taken out.
    pub fn took(&mut self, shard: ShardId) {
        if let Some(taken) = self.taken.get_mut(usize::from(shard.0)) {
            *taken += 1;
        }
    }

    /// It was a question.
    pub fn ask(&mut self, ask: PendingAsk) {
        self.fresh.push(ask);
    }

    /// So many mails of each shard wait now.
    pub fn see(&mut self, waiting: impl Fn(ShardId) -> usize) {
        if self.fresh.is_empty() {
            return;
        }
        let until = |(at, taken): (usize, &u64)| taken + waiting(ShardId(at as u8)) as u64;
        let until = self.taken.iter().enumerate().map(until).collect();
        self.waiting.push_back((until, std::mem::take(&mut self.fresh)));
    }

    /// True when some wait.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Those whose turn it is.
    pub fn due(&mut self) -> Vec<PendingAsk> {
        let mut due = Vec::new();
        let taken = &self.taken;
        let is_past = |until: &[u64]| until.iter().zip(taken).all(|(until, taken)| until <= taken);
        while let Some((_, asks)) = self.waiting.pop_front_if(|(until, _)| is_past(until)) {
            due.extend(asks);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_waits_for_what_the_other_shards_had_said() {
        let asked = |ticket| {
            let session = SessionRef { shard: ShardId(1), index: 7, generation: 1 };
            (ShardId(1), session, ticket)
        };
        let mut asks = PendingAsks::new(2);
        asks.see(|_| 9);
        assert!(!asks.is_waiting() && asks.due().is_empty());
        asks.took(ShardId(1));
        asks.ask(asked(1));
        // Shard 0 has told of a group meanwhile, behind two other mails.
        asks.see(|shard| if shard == ShardId(0) { 3 } else { 0 });
        asks.took(ShardId(0));
        asks.took(ShardId(0));
        assert!(asks.due().is_empty() && asks.is_waiting());
        asks.took(ShardId(1));
        asks.ask(asked(2));
        asks.see(|shard| if shard == ShardId(0) { 2 } else { 0 });
        asks.took(ShardId(0));
        assert_eq!(asks.due(), [asked(1)]);
        asks.took(ShardId(0));
        assert_eq!(asks.due(), [asked(2)]);
        assert!(!asks.is_waiting());
    }
}
