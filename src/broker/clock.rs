//! The clocks that cores and helper threads go by.

use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since the broker started; the same on every core.
#[derive(Clone, Copy)]
pub(super) struct Clock(std::time::Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Clock(std::time::Instant::now())
    }

    /// A clock that has begun at `zero` nanoseconds of CLOCK_MONOTONIC, in another process: both
    /// tell the same time.
    pub(super) fn continued(zero: u64) -> Self {
        let passed = Duration::from_nanos(monotonic().saturating_sub(zero));
        let now = std::time::Instant::now();
        Clock(now.checked_sub(passed).unwrap_or(now))
    }

    /// Nanoseconds of CLOCK_MONOTONIC when it began.
    pub(super) fn zero(&self) -> u64 {
        monotonic().saturating_sub(self.nanos())
    }

    pub(super) fn nanos(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, which all processes read.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| Duration::from(now).as_nanos() as u64)
}

/// The time since 1970, as the host has it.
pub(super) fn time_of_day() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
