//! Questions of shards that depend on what other shards have told the cluster: whether the other
//! nodes know the filters of a SUBSCRIBE ([`super::announced`]).
//!
//! A share group has its home at one shard, which tells the cluster of the group. The member may be
//! at another shard, which asks once it was told that the member is in the group. Mail of one shard
//! arrives in order, but mail of two shards does not. Therefore a question waits until all mail
//! that was in any mailbox when the question was found has been taken out.

use crate::ids::{SessionRef, ShardId};
use std::collections::VecDeque;

/// The asking shard, the session, and the ticket.
pub type PendingAsk = (ShardId, SessionRef, u64);

/// The questions that wait for earlier mail.
pub struct PendingAsks {
    /// The number of mails that have been taken out, by shard.
    taken: Vec<u64>,
    fresh: Vec<PendingAsk>,
    /// Questions, and the value that `taken` has to reach for each shard.
    waiting: VecDeque<(Vec<u64>, Vec<PendingAsk>)>,
}

impl PendingAsks {
    /// For `shards` shards.
    pub fn new(shards: u8) -> PendingAsks {
        let taken = vec![0; usize::from(shards)];
        PendingAsks { taken, fresh: Vec::new(), waiting: VecDeque::new() }
    }

    /// Notes that a mail of `shard` was taken out.
    pub fn took(&mut self, shard: ShardId) {
        if let Some(taken) = self.taken.get_mut(usize::from(shard.0)) {
            *taken += 1;
        }
    }

    /// Notes that the last mail taken out was a question.
    pub fn ask(&mut self, ask: PendingAsk) {
        self.fresh.push(ask);
    }

    /// Notes how many mails of each shard are waiting now, behind which the new questions go.
    pub fn see(&mut self, waiting: impl Fn(ShardId) -> usize) {
        if self.fresh.is_empty() {
            return;
        }
        let until = |(at, taken): (usize, &u64)| taken + waiting(ShardId(at as u8)) as u64;
        let until = self.taken.iter().enumerate().map(until).collect();
        self.waiting.push_back((until, std::mem::take(&mut self.fresh)));
    }

    /// Whether questions wait.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The questions before which no mail is left.
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
        // Meanwhile shard 0 has told of a group, behind two other mails.
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
