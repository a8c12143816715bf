//! A token bucket in eight bytes.

/// Nanoseconds of its rate that a bucket holds: a burst of one second's worth.
const BURST: u64 = 1_000_000_000;

/// A token bucket with a burst of one second's worth. In any time `T` at most `rate × (T + 1 s)`
/// passes, plus the last amount, which may take more than the bucket holds: an amount larger than a
/// second's worth passes too, and what follows waits until it is paid for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Bucket {
    /// The time at which everything that was used is paid for, in nanoseconds.
    paid: u64,
}

impl Bucket {
    /// Takes `amount` at `now` nanoseconds, at a rate of `rate` per second.
    ///
    /// # Errors
    /// When the bucket is empty: after how many nanoseconds it is not.
    pub fn take(&mut self, now: u64, amount: u64, rate: u64) -> Result<(), u64> {
        self.ready(now)?;
        self.charge(now, amount, rate);
        Ok(())
    }

    /// Whether the bucket has anything left.
    ///
    /// # Errors
    /// When the bucket is empty: after how many nanoseconds it is not.
    #[inline]
    pub fn ready(&self, now: u64) -> Result<(), u64> {
        let ahead = self.paid.saturating_sub(now);
        if ahead < BURST { Ok(()) } else { Err(ahead - BURST + 1) }
    }

    /// Takes `amount`, even if the bucket is empty.
    #[inline]
    pub fn charge(&mut self, now: u64, amount: u64, rate: u64) {
        let cost = u128::from(amount) * 1_000_000_000;
        let cost = cost.div_ceil(u128::from(rate.max(1)));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        self.paid = self.paid.max(now).saturating_add(cost);
    }

    /// True when nothing is left to be paid for: the bucket is then like a new one.
    pub fn is_full(&self, now: u64) -> bool {
        self.paid <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_second_of_burst_goes_at_once_and_then_one_after_the_other() {
        let mut bucket = Bucket::default();
        let now = 5_000_000_000;
        let burst = (0..100).filter(|_| bucket.take(now, 1, 10).is_ok()).count();
        assert_eq!(burst, 10);
        let wait = bucket.take(now, 1, 10).expect_err("it is empty");
        assert_eq!(wait, 1);
        assert!(bucket.take(now + 1, 1, 10).is_ok(), "one more is a debt");
        assert_eq!(bucket.take(now + 1, 1, 10), Err(100_000_000));
    }

    #[test]
    fn what_is_larger_than_the_bucket_goes_through_and_is_paid_for() {
        let mut bucket = Bucket::default();
        assert!(bucket.take(0, 10_000, 1000).is_ok());
        assert_eq!(bucket.take(0, 1, 1000), Err(9_000_000_001));
        assert!(bucket.take(9_000_000_001, 1, 1000).is_ok());
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_a_burst(
            rate in 1u64..100_000,
            uses in prop::collection::vec((0u64..200_000_000, 1u64..5000), 1..300),
        ) {
            let mut bucket = Bucket::default();
            let mut now = 3_000_000_000;
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (wait, amount) in uses {
                now += wait;
                if bucket.take(now, amount, rate).is_ok() {
                    taken.push((now, amount));
                }
            }
            for from in 0..taken.len() {
                let mut sum = 0u128;
                let mut largest = 0;
                for (at, amount) in &taken[from..] {
                    sum += u128::from(*amount);
                    largest = largest.max(*amount);
                    let nanos = u128::from(at - taken[from].0) + u128::from(BURST);
                    let most = nanos * u128::from(rate) / 1_000_000_000 + u128::from(largest) + 1;
                    prop_assert!(sum <= most, "{sum} > {most}");
                }
            }
        }
    }
}
