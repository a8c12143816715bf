//! The time up to which this shard has read all input of its clients. Keep-alive timers need this
//! time to tell a silent client from a client whose packets are still unread in the kernel.

use super::Shard;
use crate::mutant::Mutant;
use crate::time::{GRANULARITY_MILLIS, Instant};

/// How many stalled steps are remembered.
const STALLS: usize = 4;

/// How far the shard has come with reading what its clients send.
pub(super) struct InputProgress {
    /// Everything that clients had sent before this time has been read.
    heard_at: Instant,
    /// The first step after `heard_at` that ended before it had read all that clients had sent.
    unheard_since: Option<Instant>,
    /// The last steps that stalled, newest first: the begin and the end of each.
    stalls: [(Instant, Instant); STALLS],
}

impl InputProgress {
    /// The state of a shard that has read everything that was sent before `now`.
    pub(super) fn new(now: Instant) -> Self {
        InputProgress {
            heard_at: now,
            unheard_since: None,
            stalls: [(Instant::END, Instant::END); STALLS],
        }
    }

    /// Whether `heard_at` is at least [`GRANULARITY_MILLIS`] ago, so that a timer could notice the
    /// gap.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        now.millis_since(self.heard_at) >= GRANULARITY_MILLIS
    }

    /// Notes that everything that clients had sent before `now` has been read.
    pub(super) fn heard_everyone(&mut self, now: Instant) {
        self.heard_at = now;
        self.unheard_since = None;
    }

    /// Notes that a step at `now` ends its input, perhaps before it has read all that clients had
    /// sent.
    pub(super) fn input_ended(&mut self, now: Instant) {
        if self.is_old(now) {
            self.unheard_since.get_or_insert(now);
        }
    }

    /// Notes that the step that began at `from` lasted until `until`, much longer than its work
    /// took.
    pub(super) fn was_stalled(&mut self, from: Instant, until: Instant) {
        self.stalls.rotate_right(1);
        self.stalls[0] = (from, until);
    }

    /// The latest time at which the input of the step at `seen` may have arrived: `seen` itself, or
    /// the end of that step if the step stalled.
    pub(super) fn latest(&self, seen: Instant) -> Instant {
        let stall = self.stalls.iter().find(|(from, _)| *from == seen);
        stall.map_or(seen, |(_, until)| *until)
    }

    /// Whether a packet that a client sent before `deadline` may still lie unread in the kernel at
    /// `now`, because the shard was held up (the process was stopped, or lost its core) or because
    /// more input arrives than the shard takes in. [MQTT-3.1.2-22] is about clients that were not
    /// heard although the server listened. If the shard never reaches the end of its input, a
    /// client's silence counts all the same once another `allowed` milliseconds (the time that the
    /// client may be silent) have passed.
    pub(super) fn may_be_unheard(&self, now: Instant, deadline: Instant, allowed: u64) -> bool {
        // Count from when the shard listened again, not from when it was held up.
        let since = self.unheard_since.unwrap_or(now);
        let judged = deadline.max(since).plus_millis(allowed);
        deadline > self.heard_at
            && (now < judged || Mutant::UnheardForEver.is_on())
            && !Mutant::UnheardJudged.is_on()
    }
}

impl Shard {
    /// Notes that the step that just ended lasted until `until`, much longer than its work, for
    /// example because the process was stopped. The input of that step may have arrived at any time
    /// up to `until`, and not only before the step began.
    pub fn was_stalled(&mut self, until: Instant) {
        self.timers.input_progress.was_stalled(self.now, until);
    }

    /// Whether the last [`Shard::heard_everyone`] is so long ago that a timer could notice the gap.
    /// The driver has to look at every ring to find out, so the shard asks for it only then.
    pub fn asks_who_was_heard(&self) -> bool {
        self.timers.input_progress.is_old(self.now)
    }

    /// Notes that in this step the driver has reported everything that clients had sent before it.
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
