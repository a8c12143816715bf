//! SUBACK waits until the other nodes know the filters: what is published there after that comes.
//!
//! When a SUBSCRIBE is done at this node, its shard asks for that. All that were asked for within a
//! step make a round: one record to each node that is there ([`Record::Ask`]), behind the filters
//! that it is told, which it answers when it has them in its interest table ([`Record::Known`]).
//! A round ends when all have answered or are gone, and no later than after [`PATIENCE`].
//!
//! [`Record::Ask`]: super::record::Record::Ask
//! [`Record::Known`]: super::record::Record::Known

use super::claims::{Nodes, Whom};
use crate::ids::{SessionRef, ShardId};
use crate::mesh::moves::ToShard;
use crate::time::Instant;
use std::collections::VecDeque;

/// Milliseconds that a SUBACK waits for other nodes: a frame may be lost once.
pub const PATIENCE: u64 = 400;

/// A SUBSCRIBE whose answer waits.
type Waiter = (ShardId, SessionRef, u64);

struct Round {
    number: u64,
    due: Instant,
    /// Who has not answered.
    awaited: Nodes,
    waiters: Vec<Waiter>,
}

/// The answers that wait. Each client has one at most.
#[derive(Default)]
pub struct Announced {
    next: Vec<Waiter>,
    rounds: VecDeque<Round>,
    number: u64,
    /// Answers that went out though some node had not said that it knows the filters.
    pub unanswered: u64,
}

impl Announced {
    /// A shard asks.
    pub fn ask(&mut self, shard: ShardId, session: SessionRef, ticket: u64) {
        self.next.push((shard, session, ticket));
    }

    /// Begins a round, if there is something to ask; its number, by which the nodes `up` are to be
    /// asked. `reaches`: the engine carries frames.
    pub fn begin(&mut self, up: Nodes, reaches: bool, now: Instant) -> Option<u64> {
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
        self.rounds.push_back(Round { number: self.number, due, awaited, waiters });
        Some(self.number).filter(|_| reaches)
    }

    /// A node knows all filters that it was told before it was asked with that number.
    pub fn known(&mut self, node: u8, number: u64) {
        // What was asked earlier it knows as well.
        for round in self.rounds.iter_mut().take_while(|round| round.number <= number) {
            round.awaited &= !(1 << node);
        }
    }

    /// Ends the rounds that are over. `up`: who is there.
    pub fn run(&mut self, up: Nodes, now: Instant, mail: &mut Vec<(Whom, ToShard)>) {
        self.rounds.iter_mut().for_each(|round| round.awaited &= up);
        while let Some(round) =
            self.rounds.pop_front_if(|round| round.awaited == 0 || round.due <= now)
        {
            if round.awaited != 0 {
                self.unanswered += round.waiters.len() as u64;
            }
            for (shard, session, ticket) in round.waiters {
                mail.push((Whom::Shard(shard), ToShard::Known(session, ticket)));
            }
        }
    }

    /// When something is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.rounds.front().map(|round| round.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionRef = SessionRef { shard: ShardId(1), index: 7, generation: 1 };

    fn run(announced: &mut Announced, up: Nodes, now: u64) -> usize {
        let mut mail = Vec::new();
        announced.run(up, Instant(now), &mut mail);
        mail.len()
    }

    #[test]
    fn an_answer_waits_for_every_node_that_is_there_but_not_for_ever() {
        let mut announced = Announced::default();
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
