//! How long more has waited for a connected client than it should. Says when its publishers wait
//! for it; which of them do is decided by the shard (`shard/pace.rs`).
//!
//! A queue that is short soon again does no harm. One that stands, however small a part of its
//! bounds it takes, is latency for every message that goes through it: at full speed a queue of a
//! few megabytes is hundreds of milliseconds. Therefore there are two marks. Past the high-water
//! mark publishers wait at once; past the lower one they wait when the queue has not been short for
//! [`STANDS`].

use crate::mutant::Mutant;
use crate::time::Instant;

/// Milliseconds after which a queue that has not been short since stands.
const STANDS: u64 = 10;
/// Milliseconds above either mark after which a client counts as slow: no publisher waits any more.
pub const SLOW: u64 = 1000;

/// Since when too much has been waiting.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Backlog {
    /// Since when the queue has not been short.
    long: Option<Instant>,
    /// Since when it has been above its high-water mark.
    high: Option<Instant>,
}

impl Backlog {
    /// Whether the lower mark has been passed, and the queue has not been short since.
    #[inline]
    pub fn is_some(&self) -> bool {
        self.long.is_some()
    }

    /// Since when the queue has been above its high-water mark.
    #[inline]
    pub fn high(&self) -> Option<Instant> {
        self.high
    }

    /// The queue has grown, and is above the lower mark; `high` when it is above the high-water
    /// mark. True when publishers are to wait.
    pub fn grew(&mut self, now: Instant, high: bool) -> bool {
        let long = *self.long.get_or_insert(now);
        if high {
            let high = *self.high.get_or_insert(now);
            return now.millis_since(high) < SLOW;
        }
        (STANDS..SLOW).contains(&now.millis_since(long)) && !Mutant::StandingIgnored.is_on()
    }

    /// The queue has shrunk: it is `low` after its high-water mark, or `short`, which is lower.
    /// True when that is why publishers need not wait any more; whether any did is not known here.
    pub fn shrank(&mut self, now: Instant, low: bool, short: bool) -> bool {
        let was_low = low && self.high.take().is_some();
        let was_short = short && self.long.take().is_some();
        (was_low || was_short) && !self.is_waited_for(now)
    }

    /// Whether publishers have a reason to wait.
    pub fn is_waited_for(&self, now: Instant) -> bool {
        let young = |since: Instant| now.millis_since(since) < SLOW;
        self.high.is_some_and(young) || self.long.is_some_and(young)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_queue_is_waited_for_when_it_stands() {
        let mut backlog = Backlog::default();
        assert!(!backlog.grew(Instant(100), false));
        assert!(!backlog.grew(Instant(100 + STANDS - 1), false));
        assert!(backlog.shrank(Instant(105), false, true), "it was short in between");
        assert!(!backlog.grew(Instant(106), false));
        assert!(backlog.grew(Instant(106 + STANDS), false));
        assert!(!backlog.shrank(Instant(120), true, false), "it is not short yet");
        assert!(backlog.shrank(Instant(121), true, true));
        assert_eq!(backlog, Backlog::default());
    }

    #[test]
    fn past_the_high_water_mark_nobody_waits_for_it_to_stand() {
        let mut backlog = Backlog::default();
        assert!(backlog.grew(Instant(100), true));
        assert!(!backlog.shrank(Instant(101), true, false), "it is low, and stands");
        assert_eq!(backlog.high(), None);
        assert!(backlog.is_waited_for(Instant(101)));
        assert!(backlog.shrank(Instant(102), true, true));
    }

    #[test]
    fn who_is_slow_is_not_waited_for() {
        let mut backlog = Backlog::default();
        backlog.grew(Instant(0), false);
        assert!(!backlog.grew(Instant(SLOW), false));
        assert!(!backlog.is_waited_for(Instant(SLOW)));
        // Above the high-water mark it is once more, until it is low.
        assert!(backlog.grew(Instant(SLOW), true));
        assert!(backlog.shrank(Instant(SLOW + 10), true, false));
        assert!(!backlog.shrank(Instant(SLOW + 20), true, false), "nothing has changed");
        assert!(backlog.is_some());
        assert!(backlog.shrank(Instant(SLOW + 30), true, true));
        assert!(!backlog.is_some());
    }
}
