//! When each publisher of one publication publishes: all at the same interval, each from its own
//! start on.
//!
//! Turns are taken in the order in which they are due, and the next turn of a client is one
//! interval later, so a queue of turns is sorted without effort. Only starts need a heap.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// The turns of one publication.
#[derive(Debug)]
pub struct Schedule {
    interval: u64,
    turns: VecDeque<(u64, u32)>,
    starts: BinaryHeap<Reverse<(u64, u32)>>,
}

impl Schedule {
    /// A schedule without turns; `interval` in nanoseconds.
    pub fn new(interval: u64) -> Schedule {
        Schedule { interval, turns: VecDeque::new(), starts: BinaryHeap::new() }
    }

    /// The first turn of `client` is at `start`.
    pub fn begin(&mut self, client: u32, start: u64) {
        self.starts.push(Reverse((start, client)));
    }

    /// When the next turn is due; `u64::MAX` when there is none.
    pub fn due(&self) -> u64 {
        let turn = self.turns.front().map_or(u64::MAX, |turn| turn.0);
        let start = self.starts.peek().map_or(u64::MAX, |start| start.0.0);
        turn.min(start)
    }

    /// Takes the next turn that is due by `now`: its client and when it was due. The client has
    /// further turns only if the caller calls [`Self::again`] before the next call of this
    /// function.
    pub fn next(&mut self, now: u64) -> Option<(u32, u64)> {
        let due = self.due();
        if due > now {
            return None;
        }
        let (due, client) = match self.turns.front() {
            Some(turn) if turn.0 == due => self.turns.pop_front()?,
            _ => self.starts.pop()?.0,
        };
        Some((client, due))
    }

    /// Schedules another turn for `client`, one interval after `due`.
    pub fn again(&mut self, client: u32, due: u64) {
        self.turns.push_back((due + self.interval, client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_order_and_at_the_interval_whenever_somebody_began() {
        let mut schedule = Schedule::new(100);
        for (client, start) in [(1, 50), (2, 10), (3, 130), (4, 129)] {
            schedule.begin(client, start);
        }
        assert_eq!(schedule.next(9), None);
        let mut seen = Vec::new();
        // In two steps, the second of them late, so that several turns are due at once.
        for now in [60, 260] {
            while let Some((client, due)) = schedule.next(now) {
                seen.push((due, client));
                schedule.again(client, due);
            }
        }
        let want = [
            (10, 2),
            (50, 1),
            (110, 2),
            (129, 4),
            (130, 3),
            (150, 1),
            (210, 2),
            (229, 4),
            (230, 3),
            (250, 1),
        ];
        assert_eq!(seen, want);
        assert_eq!(schedule.due(), 310);
    }

    #[test]
    fn who_is_not_put_back_has_no_turn() {
        let mut schedule = Schedule::new(5);
        schedule.begin(1, 0);
        assert_eq!(schedule.next(0), Some((1, 0)));
        assert_eq!((schedule.next(1000), schedule.due()), (None, u64::MAX));
    }
}
