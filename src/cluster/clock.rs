//! Clocks of two nodes: the conversion of the other node's times to this node's clock.
//!
//! Each frame carries its sender's time. The smallest difference to this node's time at arrival is
//! the difference of the clocks plus the shortest delay of a frame, usually some hundred
//! microseconds. So a message expires at the other node at most that delay later, however long the
//! message has waited on its way. Clocks drift apart, so the smallest difference is determined anew
//! in each [`PERIOD`].
//!
//! [`Apart`] tells how far the two nodes' times since 1970 differ, from which stamps are made.

use crate::time::Instant;

/// Milliseconds after which a difference is forgotten unless it occurred again.
const PERIOD: u64 = 60_000;

/// The difference between this node's and another node's clock, in milliseconds.
#[derive(Clone, Copy, Default)]
pub struct Offset {
    /// The smallest difference in the previous period, and in this one.
    before: Option<i64>,
    smallest: Option<i64>,
    began: Instant,
}

impl Offset {
    /// Notes that a frame that was sent at `theirs` arrived at `now`.
    pub fn see(&mut self, theirs: u64, now: Instant) {
        let difference = now.0.wrapping_sub(theirs) as i64;
        if now.millis_since(self.began) >= PERIOD {
            (self.before, self.smallest, self.began) = (self.smallest, None, now);
        }
        self.smallest = Some(self.smallest.map_or(difference, |known| known.min(difference)));
    }

    /// The difference that is known, for the process that takes this one's place: it has the same
    /// clock.
    pub fn known(&self) -> Option<u64> {
        [self.before, self.smallest].into_iter().flatten().min().map(|known| known as u64)
    }

    /// With a difference that is known.
    pub fn with(known: Option<u64>, now: Instant) -> Offset {
        Offset { before: None, smallest: known.map(|known| known as i64), began: now }
    }

    /// The other node's time `theirs` on this node's clock, never before its zero.
    pub fn ours(&self, theirs: Instant) -> Instant {
        let known = [self.before, self.smallest].into_iter().flatten().min().unwrap_or(0);
        // `Instant::END` means the end of time on every clock.
        if theirs == Instant::END { theirs } else { Instant(theirs.0.saturating_add_signed(known)) }
    }
}

/// Milliseconds during which the smallest difference of two nodes' times is looked for.
const LOOK: u64 = 2000;

/// How far another node's time since 1970 is from this node's, in milliseconds.
#[derive(Clone, Copy, Default)]
pub struct Apart {
    smallest: Option<i64>,
    began: Instant,
    known: i64,
}

impl Apart {
    /// Notes that a frame arrived at `now`: the sender's time was `theirs` when it was sent, and
    /// this node's time is `ours`.
    pub fn see(&mut self, theirs: u64, ours: u64, now: Instant) {
        if now.millis_since(self.began) >= LOOK {
            self.began = now;
            self.known = self.smallest.take().unwrap_or(self.known);
        }
        // A frame's delay can only increase the difference.
        let difference = ours.wrapping_sub(theirs) as i64;
        self.smallest = Some(self.smallest.map_or(difference, |known| known.min(difference)));
    }

    /// The milliseconds by which this node's time is ahead.
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
