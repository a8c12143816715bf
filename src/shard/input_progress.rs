//! The time up to which all input of clients has been read. Timers need it to tell a silent client
//! from one whose packets are still unread in the kernel.

use super::Shard;
use crate::mutant::Mutant;
use crate::time::{GRANULARITY_MILLIS, Instant};

/// Stalled steps that are remembered.
const STALLS: usize = 4;

/// How far the shard has come with what clients send.
pub(super) struct InputProgress {
    /// All that clients had sent before this was read.
    heard_at: Instant,
    /// The first step after that which did not get to the end of what they had sent.
    unheard_since: Option<Instant>,
    /// The last steps that stalled: from when, until when.
    stalls: [(Instant, Instant); STALLS],
}

impl InputProgress {
    /// Everybody was heard until `now`.
    pub(super) fn new(now: Instant) -> Self {
        InputProgress {
            heard_at: now,
            unheard_since: None,
            stalls: [(Instant::END, Instant::END); STALLS],
        }
    }

    /// Whether it is so long ago that everyone was heard that a timer could miss it.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        now.millis_since(self.heard_at) >= GRANULARITY_MILLIS
    }

    /// All that clients had sent before `now` was read.
    pub(super) fn heard_everyone(&mut self, now: Instant) {
        self.heard_at = now;
        self.unheard_since = None;
    }

    /// A step at `now` ends its input; it may not have come to the end of what clients had sent.
    pub(super) fn input_ended(&mut self, now: Instant) {
        if self.is_old(now) {
            self.unheard_since.get_or_insert(now);
        }
    }

    /// The step from `from` lasted until `until`, much longer than its work.
    pub(super) fn was_stalled(&mut self, from: Instant, until: Instant) {
        self.stalls.rotate_right(1);
        self.stalls[0] = (from, until);
    }

    /// When what the step at `seen` took in may have come at the latest: at `seen`
    /// itself, or at the end of that step if it stalled.
    pub(super) fn latest(&self, seen: Instant) -> Instant {
        let stall = self.stalls.iter().find(|(from, _)| *from == seen);
        stall.map_or(seen, |(_, until)| *until)
    }

    /// Whether what a client sent before `deadline` may lie in the kernel, unread, at `now`: the
    /// shard was held up (the process stopped, the core taken away), or more comes than it takes
    /// in. [MQTT-3.1.2-22] is about clients that were not heard although we listened. When we never
    /// get to the end of what there is, a client's silence counts all the same after as long again
    /// as it was `allowed`, in milliseconds.
    pub(super) fn may_be_unheard(&self, now: Instant, deadline: Instant, allowed: u64) -> bool {
        // From when we listened again, not from when we were held up.
        let since = self.unheard_since.unwrap_or(now);
        let judged = deadline.max(since).plus_millis(allowed);
        deadline > self.heard_at
            && (now < judged || Mutant::UnheardForEver.is_on())
            && !Mutant::UnheardJudged.is_on()
    }
}

impl Shard {
    /// The step that just ended lasted until `until`, much longer than its work: the process was
    /// stopped in it, say. What it took in may have come as late as that, and not at its beginning.
    pub fn was_stalled(&mut self, until: Instant) {
        self.timers.input_progress.was_stalled(self.now, until);
    }

    /// Whether the time of the last [`Shard::heard_everyone`] is so long ago that a timer could
    /// miss it: finding out means a look at every ring.
    pub fn asks_who_was_heard(&self) -> bool {
        self.timers.input_progress.is_old(self.now)
    }

    /// In this step the driver has reported everything that clients had sent before it.
    pub fn heard_everyone(&mut self) {
        self.timers.input_progress.heard_everyone(self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(1_000_000);

    fn at(millis: u64) -> Instant {
        START.plus_millis(millis)
    }

    #[test]
    fn who_was_to_be_heard_before_everyone_was_is_judged() {
        let mut input_progress = InputProgress::new(START);
        assert!(input_progress.may_be_unheard(at(500), at(400), 1000));
        input_progress.heard_everyone(at(500));
        assert!(!input_progress.may_be_unheard(at(500), at(400), 1000));
        assert!(!input_progress.may_be_unheard(at(500), at(500), 1000));
        assert!(input_progress.may_be_unheard(at(501), at(501), 1000));
    }

    #[test]
    fn who_may_be_unheard_is_judged_after_as_long_again_as_it_was_allowed() {
        let mut input_progress = InputProgress::new(START);
        // The process was stopped for a minute, and then never comes to the end of the input.
        input_progress.input_ended(at(60_000));
        input_progress.input_ended(at(60_100));
        assert!(input_progress.may_be_unheard(at(60_999), at(10_000), 1000));
        assert!(!input_progress.may_be_unheard(at(61_000), at(10_000), 1000));
        // A deadline after that is counted from itself.
        assert!(input_progress.may_be_unheard(at(62_999), at(62_000), 1000));
        assert!(!input_progress.may_be_unheard(at(63_000), at(62_000), 1000));
        input_progress.heard_everyone(at(63_000));
        assert!(input_progress.may_be_unheard(at(70_000), at(69_500), 1000));
    }

    #[test]
    fn a_step_soon_after_everyone_was_heard_counts_as_listening() {
        let mut input_progress = InputProgress::new(START);
        let soon = at(GRANULARITY_MILLIS - 1);
        assert!(!input_progress.is_old(soon));
        input_progress.input_ended(soon);
        let late = at(GRANULARITY_MILLIS);
        assert!(input_progress.is_old(late));
        input_progress.input_ended(late);
        assert!(input_progress.may_be_unheard(late.plus_millis(99), soon, 100));
        assert!(!input_progress.may_be_unheard(late.plus_millis(100), soon, 100));
    }

    #[test]
    fn what_a_stalled_step_took_in_may_have_come_at_its_end() {
        let mut input_progress = InputProgress::new(START);
        assert_eq!(input_progress.latest(at(10)), at(10));
        for step in 0..=STALLS as u64 {
            input_progress.was_stalled(at(step * 1000), at(step * 1000 + 300));
        }
        assert_eq!(input_progress.latest(at(1000)), at(1300));
        assert_eq!(input_progress.latest(at(STALLS as u64 * 1000)), at(STALLS as u64 * 1000 + 300));
        assert_eq!(input_progress.latest(at(1001)), at(1001), "another step");
        assert_eq!(input_progress.latest(START), START, "too long ago to be remembered");
    }
}
