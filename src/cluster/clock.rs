//! Two nodes' clocks: where a time of the other one's is on ours.
//!
//! Each frame carries its sender's time. The smallest difference to ours at arrival is that of the
//! clocks, and the shortest delay of a frame, usually some hundred microseconds. So a message
//! expires at the other node later by that delay at most, however long it has waited on the way.
//! Clocks drift apart: the smallest difference is looked for anew in each [`PERIOD`].
//!
//! And how far the times are apart that two nodes have ([`Apart`]): stamps are told by them.

use crate::time::Instant;

/// Milliseconds after which a difference is not trusted any more unless it was met again.
const PERIOD: u64 = 60_000;

/// The difference of two clocks in milliseconds.
#[derive(Clone, Copy, Default)]
pub struct Offset {
    /// The smallest of the period before, and of this one.
    before: Option<i64>,
    smallest: Option<i64>,
    began: Instant,
}

impl Offset {
    /// A frame that was sent at `theirs` is here at `now`.
    pub fn see(&mut self, theirs: u64, now: Instant) {
        let difference = now.0.wrapping_sub(theirs) as i64;
        if now.millis_since(self.began) >= PERIOD {
            (self.before, self.smallest, self.began) = (self.smallest, None, now);
        }
        self.smallest = Some(self.smallest.map_or(difference, |known| known.min(difference)));
    }

    /// Their time on our clock; never before its zero.
    pub fn ours(&self, theirs: Instant) -> Instant {
        let known = [self.before, self.smallest].into_iter().flatten().min().unwrap_or(0);
        // The end of time is one on each clock.
        if theirs == Instant::END { theirs } else { Instant(theirs.0.saturating_add_signed(known)) }
    }
}

/// Milliseconds for which the smallest difference of two nodes' times is looked for.
const LOOK: u64 = 2000;

/// How far the time of another node is from this one's.
#[derive(Clone, Copy, Default)]
pub struct Apart {
    smallest: Option<i64>,
    began: Instant,
    known: i64,
}

impl Apart {
    /// A frame that was sent when it was `theirs` there is here at `now`, when it is `ours`.
    pub fn see(&mut self, theirs: u64, ours: u64, now: Instant) {
        if now.millis_since(self.began) >= LOOK {
            self.began = now;
            self.known = self.smallest.take().unwrap_or(self.known);
        }
        // The way of a frame only adds to it.
        let difference = ours.wrapping_sub(theirs) as i64;
        self.smallest = Some(self.smallest.map_or(difference, |known| known.min(difference)));
    }

    /// By how many milliseconds this node's time is ahead.
    pub fn millis(&self) -> i64 {
        self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_way_tells_how_clocks_differ() {
        for (ahead, now) in [(1_000_000, 500u64), (500, 1_000_000)] {
            let mut offset = Offset::default();
            for (sent, delay) in [(0, 30), (100, 2), (200, 90)] {
                offset.see(ahead + sent, Instant(now + sent + delay));
            }
            assert_eq!(offset.ours(Instant(ahead + 1000)), Instant(now + 1002));
        }
    }

    #[test]
    fn a_difference_is_forgotten_when_it_is_not_met_again() {
        let mut offset = Offset::default();
        offset.see(1000, Instant(1000));
        offset.see(1000 + PERIOD, Instant(1010 + PERIOD));
        assert_eq!(offset.ours(Instant(5)), Instant(5));
        offset.see(1000 + 2 * PERIOD, Instant(1010 + 2 * PERIOD));
        assert_eq!(offset.ours(Instant(5)), Instant(15));
        assert_eq!(offset.ours(Instant::END), Instant::END);
    }

    #[test]
    fn how_far_times_are_apart_is_known_within_seconds_whatever_is_late() {
        let mut apart = Apart::default();
        let mut look = |behind: u64, delays: [u64; 4]| {
            let start = apart.began.0;
            for (at, delay) in delays.into_iter().enumerate() {
                let now = start + LOOK + at as u64 * 500;
                apart.see(1_000_000 + now - delay - behind, 1_000_000 + now, Instant(now));
            }
            apart.see(1_000_000 - behind, 1_000_000, Instant(start + 2 * LOOK));
            apart.millis()
        };
        assert_eq!(look(7000, [300, 2, 9000, 60]), 7002);
        assert_eq!(look(0, [300, 90, 9000, 60]), 60);
        assert_eq!(look(0, [30, 20, 40, 60]), 20);
    }

    #[test]
    fn hostile_times_do_no_harm() {
        let mut offset = Offset::default();
        for theirs in [u64::MAX, 0, 1 << 63] {
            Apart::default().see(theirs, 7, Instant(7));
            offset.see(theirs, Instant(7));
            offset.ours(Instant(u64::MAX - 1));
            offset.ours(Instant(0));
        }
    }
}
