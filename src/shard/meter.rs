//! What a step costs: work in units of about 100 ns, and time.
//!
//! Every kind of work charges its cost and ends when the charges have reached a limit. Charges are
//! estimates, so the clock is read from time to time as well: work whose time is over is charged up
//! to the limit. The meter decides nothing else. How the time is used is up to the shard.

use super::Clock;
use crate::limits::Budget;
use crate::limits::{LOOK, SHARE_MICROS, STEP_MICROS};

/// The work and the time of the step that goes on.
pub(super) struct Meter {
    /// When the step began, in microseconds on the clock of [`super::Shard::begin`].
    begun: u64,
    /// What the step has cost so far, in units of about 100 ns ([`crate::limits::cost`]).
    work: u32,
    /// How much of it nothing was done for: the time was over.
    skipped: u32,
    /// When the work comes to this, the clock is read.
    look_at: u32,
    /// When the time is over for what is done now, in microseconds on the same clock; 0: its time
    /// is counted from when the clock is read next.
    until: u64,
    /// `until` is no earlier than this.
    least_until: u64,
    /// Microseconds from that reading of the clock to `until`.
    time_share: u64,
    /// Without a clock, only the charges count.
    clock: Option<Clock>,
}

impl Meter {
    /// A meter without a clock, at `micros`.
    pub(super) fn new(micros: u64) -> Self {
        Meter {
            begun: micros,
            work: 0,
            skipped: 0,
            look_at: 0,
            until: 0,
            least_until: 0,
            time_share: SHARE_MICROS,
            clock: None,
        }
    }

    pub(super) fn set_clock(&mut self, clock: Clock) {
        self.clock = Some(clock);
    }

    /// A step begins at `micros`.
    pub(super) fn begin_step(&mut self, micros: u64) {
        self.begun = micros;
        (self.work, self.skipped) = (0, 0);
        self.give_step();
    }

    /// When the step began, in microseconds on the clock of [`super::Shard::begin`].
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    /// What the step has cost so far, in units of about 100 ns.
    #[inline]
    pub(super) fn work(&self) -> u32 {
        self.work
    }

    /// What was charged, whatever the work has come to because the time was over, and without what
    /// was shared. Between two of these on one account lies what was done for what came between.
    #[inline]
    pub(super) fn charged(&self) -> u32 {
        self.work.wrapping_sub(self.skipped)
    }

    /// Something was done that costs so many units of about 100 ns.
    #[inline]
    pub(super) fn charge(&mut self, units: u32) {
        self.work += units;
    }

    /// The same for what many messages pay for together and one of them happens to do: the step
    /// has done it, but what that message costs is not said by it ([`Meter::charged`]).
    pub(super) fn charge_shared(&mut self, units: u32) {
        self.work += units;
        self.skipped = self.skipped.wrapping_add(units);
    }

    /// True when so much was charged since the clock was read that it is to be read again: see
    /// [`Meter::look_at_clock`].
    #[inline]
    pub(super) fn wants_look(&self) -> bool {
        self.work >= self.look_at
    }

    /// Reads the clock. When the time is over for what is done now, the work is taken as having
    /// come to `limit`, and to that of the `step`. What has no limit ([`u32::MAX`]) is not ended.
    pub(super) fn look_at_clock(&mut self, limit: u32, step: u32) {
        self.look_at = self.work + LOOK;
        let now = self.read_clock();
        if self.until == 0 {
            self.until = self.least_until.max(now + self.time_share);
        }
        if now > self.until {
            // What has no limit goes on; the work stays a number that can be added to.
            let limit = if limit == u32::MAX { step } else { limit };
            let work = self.work.max(limit).max(step);
            self.skipped = self.skipped.wrapping_add(work - self.work);
            self.work = work;
        }
    }

    /// What the clock says now, in microseconds; `None` without a clock.
    pub(super) fn time(&self) -> Option<u64> {
        self.clock.as_ref().map(|clock| clock())
    }

    /// True when the step's time is over.
    pub(super) fn is_late(&self) -> bool {
        self.read_clock() > self.begun + STEP_MICROS
    }

    /// How far the step's work may come for a kind of work that goes on over several steps: to what
    /// nothing else has used, and a share of its own in any case; the same of the step's time.
    pub(super) fn allowance(&mut self, budget: Budget) -> u32 {
        self.give_time(self.begun + STEP_MICROS, SHARE_MICROS);
        budget.step.max(self.work + budget.share())
    }

    /// What is done from now on goes on an account of its own, on which `spent` was charged before,
    /// and has `micros` microseconds. Returns the work of the step's account, for
    /// [`Meter::end_account`].
    pub(super) fn begin_account(&mut self, spent: u32, micros: u64) -> u32 {
        let step = std::mem::replace(&mut self.work, spent);
        self.give_time(0, micros);
        step
    }

    /// Goes on with the step's account, on which `step` was charged. Returns what the other one has
    /// come to.
    pub(super) fn end_account(&mut self, step: u32) -> u32 {
        let spent = std::mem::replace(&mut self.work, step);
        self.give_step();
        spent
    }

    /// What comes now has until the end of the step.
    fn give_step(&mut self) {
        self.look_at = self.work + LOOK;
        self.until = self.begun + STEP_MICROS;
    }

    /// What comes now has until `least` in any case, and `share` microseconds from when it has done
    /// a little.
    fn give_time(&mut self, least: u64, share: u64) {
        self.look_at = self.work + LOOK;
        (self.until, self.least_until, self.time_share) = (0, least, share);
    }

    fn read_clock(&self) -> u64 {
        self.time().unwrap_or(0)
    }
}

#[cfg(test)]
#[path = "meter_tests.rs"]
mod tests;
