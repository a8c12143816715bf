//! What a step costs: work in units of about 100 ns, and time.
//!
//! Every kind of work charges its cost and ends when the charges have reached a limit. Charges are
//! estimates, so the clock is read from time to time as well. When the time for some work is over,
//! the meter raises the work to its limit, which ends it. The meter decides nothing else: the shard
//! decides how work and time are used.

use super::MicrosecondClock;
use crate::limits::Budget;
use crate::limits::{LOOK, SHARE_MICROS, STEP_MICROS};

/// The work and the time of the current step.
pub(super) struct Meter {
    /// When the step began, in microseconds on the clock of [`super::Shard::begin`].
    begun: u64,
    /// What the step has cost so far, in units of about 100 ns ([`crate::limits::cost`]).
    work: u32,
    /// The part of `work` that stands for no work of the current message: what was skipped because
    /// the time was over, and what was charged as shared.
    skipped: u32,
    /// The clock is read when `work` reaches this.
    look_at: u32,
    /// When the time for the current kind of work ends, in microseconds on the same clock. 0: the
    /// time begins with the next reading of the clock.
    until: u64,
    /// The earliest value that `until` gets then.
    least_until: u64,
    /// Microseconds from that reading of the clock to `until`.
    time_share: u64,
    /// Without a clock, only the charges count.
    clock: Option<MicrosecondClock>,
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

    pub(super) fn set_clock(&mut self, clock: MicrosecondClock) {
        self.clock = Some(clock);
    }

    /// Begins a step at `micros`.
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

    /// What was charged, without what was skipped because the time was over and without shared
    /// work. The difference of two values on the same account is the cost of what was done between
    /// them.
    #[inline]
    pub(super) fn charged(&self) -> u32 {
        self.work.wrapping_sub(self.skipped)
    }

    /// Charges work of so many units of about 100 ns.
    #[inline]
    pub(super) fn charge(&mut self, units: u32) {
        self.work += units;
    }

    /// Charges work that many messages pay for together and one of them happens to cause. The work
    /// counts for the step, but not for the cost of that message ([`Meter::charged`]).
    pub(super) fn charge_shared(&mut self, units: u32) {
        self.work += units;
        self.skipped = self.skipped.wrapping_add(units);
    }

    /// True when so much was charged since the last reading that the clock is to be read again: see
    /// [`Meter::look_at_clock`].
    #[inline]
    pub(super) fn wants_look(&self) -> bool {
        self.work >= self.look_at
    }

    /// Reads the clock. When the time for the current kind of work is over, raises the work to
    /// `limit` and to the limit of the `step`. Work without a limit ([`u32::MAX`]) is not ended.
    pub(super) fn look_at_clock(&mut self, limit: u32, step: u32) {
        self.look_at = self.work + LOOK;
        let now = self.read_clock();
        if self.until == 0 {
            self.until = self.least_until.max(now + self.time_share);
        }
        if now > self.until {
            // `u32::MAX` cannot be reached, and raising the work to it would make later charges
            // overflow.
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

    /// The limit for a kind of work that goes on over several steps: what is left of the step's
    /// work, and at least a share of its own. The same holds for the step's time.
    pub(super) fn allowance(&mut self, budget: Budget) -> u32 {
        self.give_time(self.begun + STEP_MICROS, SHARE_MICROS);
        budget.step.max(self.work + budget.share())
    }

    /// Charges what is done from now on to another account, on which `spent` was charged before and
    /// which has `micros` microseconds. Returns the work of the step's account, for
    /// [`Meter::end_account`].
    pub(super) fn begin_account(&mut self, spent: u32, micros: u64) -> u32 {
        let step = std::mem::replace(&mut self.work, spent);
        self.give_time(0, micros);
        step
    }

    /// Goes back to the step's account, on which `step` was charged. Returns the work of the other
    /// account.
    pub(super) fn end_account(&mut self, step: u32) -> u32 {
        let spent = std::mem::replace(&mut self.work, step);
        self.give_step();
        spent
    }

    /// Gives the work that follows the time until the end of the step.
    fn give_step(&mut self) {
        self.look_at = self.work + LOOK;
        self.until = self.begun + STEP_MICROS;
    }

    /// Gives the work that follows the time until `least` in any case, and `share` microseconds
    /// from the next reading of the clock.
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
