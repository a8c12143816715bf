//! SUBACK waits until the other nodes know the filters of the SUBSCRIBE: a message that is
//! published at another node after the SUBACK then reaches the subscriber.
//!
//! When a SUBSCRIBE is done at this node, its shard asks the cluster. All questions of one step
//! form a round: one record to each node that is there ([`NodeRecord::Ask`]), sent behind the
//! filters that the node is told. The node answers ([`NodeRecord::Known`]) when those filters are
//! in its interest table. A round ends when all nodes have answered or are gone, at the latest
//! after [`PATIENCE`].
//!
//! [`NodeRecord::Ask`]: super::record::NodeRecord::Ask
//! [`NodeRecord::Known`]: super::record::NodeRecord::Known

use super::claims::{ClaimMail, NodeSet, Whom};
use crate::ids::{SessionRef, ShardId};
use crate::mesh::moves::ToShard;
use crate::time::Instant;
use std::collections::VecDeque;

/// Milliseconds that a SUBACK waits for other nodes: enough for one lost frame to be sent again.
pub const PATIENCE: u64 = 400;

/// The shard, the session and the ticket of a SUBSCRIBE whose SUBACK waits.
type SubackWaiter = (ShardId, SessionRef, u64);

struct SubackRound {
    number: u64,
    due: Instant,
    /// Nodes that have not answered.
    awaited: NodeSet,
    waiters: Vec<SubackWaiter>,
}

/// SUBACKs that wait. Each client has at most one.
#[derive(Default)]
pub struct PendingSubacks {
    next: Vec<SubackWaiter>,
    rounds: VecDeque<SubackRound>,
    number: u64,
    /// SUBACKs that went out although some node had not confirmed that it knows the filters.
    pub unanswered: u64,
}

impl PendingSubacks {
    /// A shard asks for the SUBSCRIBE with this ticket.
    pub fn ask(&mut self, shard: ShardId, session: SessionRef, ticket: u64) {
        self.next.push((shard, session, ticket));
    }

    /// Begins a round if there are questions. Returns the number with which the nodes `up` are to
    /// be asked. `reaches` tells whether the engine carries frames.
    pub fn begin(&mut self, up: NodeSet, reaches: bool, now: Instant) -> Option<u64> {
        if self.next.is_empty() {
            return None;
        }
        self.number += 1;
        let waiters = std::mem::take(&mut self.next);
        let awaited = if reaches { up } else { 0 };
        if awaited != up {
            self.unanswered += waiters.len() as u64;
        }
        let due = now.plus_millis(PATIENCE);
        self.rounds.push_back(SubackRound { number: self.number, due, awaited, waiters });
        Some(self.number).filter(|_| reaches)
    }

    /// A node knows all filters that it had been told before it was asked with `number`.
    pub fn known(&mut self, node: u8, number: u64) {
        // The node then also knows what earlier rounds asked for.
        for round in self.rounds.iter_mut().take_while(|round| round.number <= number) {
            round.awaited &= !(1 << node);
        }
    }

    /// Ends the rounds that are over; `up` are the nodes that are there.
    pub fn run(&mut self, up: NodeSet, now: Instant, mail: &mut Vec<ClaimMail>) {
        self.rounds.iter_mut().for_each(|round| round.awaited &= up);
        while let Some(round) =
            self.rounds.pop_front_if(|round| round.awaited == 0 || round.due <= now)
        {
            if round.awaited != 0 {
                self.unanswered += round.waiters.len() as u64;
            }
            for (shard, session, ticket) in round.waiters {
                mail.push(ClaimMail::One(Whom::Shard(shard), ToShard::Known(session, ticket)));
            }
        }
    }

    /// Whether SUBACKs wait.
    pub fn is_waiting(&self) -> bool {
        !self.next.is_empty() || !self.rounds.is_empty()
    }

    /// The number of the last round.
    pub fn last(&self) -> u64 {
        self.number
    }

    /// Goes on behind a round of the process that had this one's place.
    pub fn go_on_behind(&mut self, number: u64) {
        self.number = self.number.max(number);
    }

    /// When the oldest round ends at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.rounds.front().map(|round| round.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionRef = SessionRef { shard: ShardId(1), index: 7, generation: 1 };

    fn run(announced: &mut PendingSubacks, up: NodeSet, now: u64) -> usize {
        let mut mail = Vec::new();
        announced.run(up, Instant(now), &mut mail);
        mail.len()
    }

    #[test]
    fn an_answer_waits_for_every_node_that_is_there_but_not_for_ever() {
        let mut announced = PendingSubacks::default();
        assert_eq!(announced.begin(3, true, Instant(0)), None);
        announced.ask(ShardId(1), SESSION, 1);
        announced.ask(ShardId(1), SESSION, 2);
        assert_eq!(announced.begin(3, true, Instant(0)), Some(1));
        announced.ask(ShardId(0), SESSION, 3);
        assert_eq!(announced.begin(3, true, Instant(1)), Some(2));
        announced.known(0, 2);
        assert_eq!(run(&mut announced, 3, 2), 0);
        announced.known(1, 1);
        assert_eq!(run(&mut announced, 3, 2), 2);
        assert_eq!(run(&mut announced, 1, 3), 1, "the other one is gone");
        announced.ask(ShardId(1), SESSION, 4);
        announced.begin(3, true, Instant(10));
        assert_eq!(announced.deadline(), Some(Instant(10 + PATIENCE)));
        assert_eq!((run(&mut announced, 3, 9 + PATIENCE), announced.unanswered), (0, 0));
        assert_eq!((run(&mut announced, 3, 10 + PATIENCE), announced.unanswered), (1, 1));
        announced.ask(ShardId(1), SESSION, 5);
        assert_eq!(announced.begin(3, false, Instant(0)), None);
        assert_eq!((run(&mut announced, 3, 0), announced.unanswered), (1, 2));
    }
}
