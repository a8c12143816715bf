//! Whose turn it is: every publisher of a publication at the same interval, each from its own start
//! on.
//!
//! Turns are taken in the order in which they are due, and each puts the next one an interval
//! later, so those wait in a queue that is in order by itself; only starts need a heap.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Turns of one publication.
#[derive(Debug)]
pub struct Schedule {
    interval: u64,
    turns: VecDeque<(u64, u32)>,
    starts: BinaryHeap<Reverse<(u64, u32)>>,
}

impl Schedule {
    /// Nobody's turn comes yet. `interval` in nanoseconds.
    pub fn new(interval: u64) -> Schedule {
        Schedule { interval, turns: VecDeque::new(), starts: BinaryHeap::new() }
    }

    /// The first turn of `client` is at `start`.
    pub fn begin(&mut self, client: u32, start: u64) {
        self.starts.push(Reverse((start, client)));
    }

    /// When the next turn is due; `u64::MAX`: never.
    pub fn due(&self) -> u64 {
        let turn = self.turns.front().map_or(u64::MAX, |turn| turn.0);
        let start = self.starts.peek().map_or(u64::MAX, |start| start.0.0);
        turn.min(start)
    }

    /// The next turn that is due by `now`: whose, and since when. It comes back when
    /// [`Self::again`] is called before the next call of this.
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

    /// `client`, whose turn was due at `due`, has another one an interval later.
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
        // In two steps: the second late, so that much is due at once.
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
