//! How many new connections per second a shard accepts while it is busy.
//!
//! There is no limit until steps get long while clients connect. Then the limit is set to a part of
//! the rate at which connections were last accepted. From then on it moves as a congestion window
//! does: down by a quarter for each tenth of a second with long steps, up by a tenth for each tenth
//! without long steps in which the limit was reached. After some seconds in which no client had to
//! wait, the limit is lifted.

use super::bucket::Bucket;
use super::level::Thresholds;
use crate::mutant::Mutant;

/// Connecting clients may make steps last up to `overload.lag` divided by this: the other clients
/// are served meanwhile.
const TARGET: u64 = 4;
/// The bucket's clock runs faster by this factor, which makes its burst a tenth of a second's
/// worth.
const FASTER: u64 = 10;
/// The number of looks in a row without a waiting client after which the limit is lifted.
const IDLE: u32 = 50;

/// The pace of one shard.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AcceptPace {
    /// Connections per second; 0 while there is no limit.
    rate: u64,
    bucket: Bucket,
    /// Connections accepted since the last look.
    accepted: u64,
    /// True when a client had to wait since the last look.
    waited: bool,
    /// Looks in a row without a waiting client.
    idle: u32,
}

impl AcceptPace {
    /// Connections per second, if there is a limit.
    pub fn rate(&self) -> Option<u64> {
        (self.rate > 0).then_some(self.rate)
    }

    /// Counts a connection that was accepted at `now` nanoseconds.
    #[inline]
    pub fn accepted(&mut self, now: u64) {
        self.accepted += 1;
        if self.rate > 0 {
            self.bucket.charge(now * FASTER, FASTER, self.rate);
        }
    }

    /// Whether one more connection may be accepted at `now` nanoseconds.
    ///
    /// # Errors
    /// When it may not: after how many nanoseconds it may.
    #[inline]
    pub fn ready(&mut self, now: u64) -> Result<(), u64> {
        if self.rate == 0 || Mutant::OverloadPaceIgnored.is_on() {
            return Ok(());
        }
        let ready = self.bucket.ready(now * FASTER);
        self.waited |= ready.is_err();
        ready.map_err(|wait| (wait / FASTER).max(1))
    }

    /// Adjusts the limit. Called every tenth of a second: steps took `lag` microseconds, and
    /// `elapsed` milliseconds have passed since the last call. `pressed`: the shard is overloaded,
    /// for whatever reason.
    pub fn look(&mut self, lag: u64, by: &Thresholds, elapsed: u64, pressed: bool) {
        let recent = self.accepted.saturating_mul(1000) / elapsed.max(1);
        self.accepted = 0;
        let waited = std::mem::take(&mut self.waited);
        let slower = lag > by.lag / TARGET || pressed;
        self.idle = if waited { 0 } else { self.idle + 1 };
        if self.rate == 0 {
            if slower && recent >= by.crowd {
                self.rate = (recent * 3 / 4).max(by.slowest);
                self.idle = 0;
            }
        } else if slower {
            self.rate = (self.rate * 3 / 4).max(by.slowest);
        } else if waited {
            self.rate += (self.rate / 10).max(10);
        } else if self.idle >= IDLE {
            *self = AcceptPace::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: Thresholds = Thresholds {
        enabled: true,
        lag: 50_000,
        memory: 850,
        host_memory: 950,
        recover: 800,
        crowd: 2000,
        slowest: 1000,
    };

    /// Accepts as many connections as `pace` allows within a second in which steps take `lag`;
    /// returns how many.
    fn second(pace: &mut AcceptPace, from: u64, crowd: u64, lag: impl Fn(u64) -> u64) -> u64 {
        let mut taken = 0;
        for tenth in 0..10 {
            let mut now = from + tenth * 100_000_000;
            let mut here = 0;
            for _ in 0..crowd / 10 {
                match pace.ready(now) {
                    Ok(()) => {
                        pace.accepted(now);
                        here += 1;
                    }
                    Err(_) => now += 100_000_000 / (crowd / 10),
                }
            }
            taken += here;
            pace.look(lag(here), &BY, 100, false);
        }
        taken
    }

    #[test]
    fn a_calm_shard_has_no_limit() {
        let mut pace = AcceptPace::default();
        assert_eq!(second(&mut pace, 0, 10_000, |_| 2000), 10_000);
        assert_eq!(pace.rate(), None);
        assert_eq!(second(&mut pace, 1_000_000_000, 100, |_| 60_000), 100, "no crowd is to blame");
    }

    #[test]
    fn it_finds_the_pace_that_the_shard_bears() {
        let mut pace = AcceptPace::default();
        // Steps are long in a tenth of a second in which more than 500 clients connect.
        let mut taken = Vec::new();
        for at in 0..40 {
            let lag = |here| if here > 500 { 20_000 } else { 4000 };
            taken.push(second(&mut pace, at * 1_000_000_000, 20_000, lag));
        }
        let late = &taken[10..];
        let mean = late.iter().sum::<u64>() / late.len() as u64;
        assert!((3500..=6000).contains(&mean), "{taken:?}");
    }

    #[test]
    fn it_ends_when_nobody_waits_any_more() {
        let mut pace = AcceptPace::default();
        second(&mut pace, 0, 20_000, |_| 60_000);
        assert!(pace.rate().is_some_and(|rate| rate >= BY.slowest));
        for at in 1..8 {
            second(&mut pace, at * 1_000_000_000, 10, |_| 1000);
        }
        assert_eq!(pace.rate(), None);
    }
}
