//! A histogram of durations: one `u64` per bucket, with bounds that double. Each shard owns its
//! histograms. Recording costs an integer division by a constant, a count of leading zeros and two
//! additions.

use super::trace_context::TraceId;
use std::time::Duration;

/// The number of buckets with a bound. One more bucket holds what is longer.
const BOUNDED: usize = 21;
/// Nanoseconds per unit of the bounds, which are 1, 2, 4, ... microseconds, up to 1.048576 s.
const MICRO: u64 = 1000;

/// A sampled message, and the duration of the step that handled it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exemplar {
    /// The trace of the message.
    pub trace: TraceId,
    /// The duration of the step in nanoseconds.
    pub nanos: u64,
    /// When the step ended, in milliseconds since 1970.
    pub at: u64,
}

/// The newest exemplar of each bucket of a histogram.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Exemplars(Vec<Option<Exemplar>>);

impl Exemplars {
    /// Adds an exemplar. `at` is the time since 1970.
    pub fn add(&mut self, trace: TraceId, nanos: u64, at: Duration) {
        self.0.resize(BOUNDED + 1, None);
        if let Some(place) = self.0.get_mut(bucket_of(nanos)) {
            *place = Some(Exemplar { trace, nanos, at: at.as_millis() as u64 });
        }
    }

    /// The exemplar of a bucket. The last bucket is that of durations above every bound.
    pub fn of(&self, bucket: usize) -> Option<&Exemplar> {
        self.0.get(bucket)?.as_ref()
    }
}

/// The bucket of a duration. Bounds are inclusive, as in Prometheus: 2000 ns count as "2 µs or
/// less".
#[inline]
fn bucket_of(nanos: u64) -> usize {
    let above = nanos.saturating_sub(1) / MICRO;
    let bucket = (u64::BITS - above.leading_zeros()) as usize;
    bucket.min(BOUNDED)
}

/// How many durations were in which range.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Histogram {
    buckets: [u64; BOUNDED + 1],
    nanos: u64,
}

impl Histogram {
    /// Counts one duration, in nanoseconds.
    #[inline]
    pub fn record(&mut self, nanos: u64) {
        self.buckets[bucket_of(nanos)] += 1;
        self.nanos = self.nanos.wrapping_add(nanos);
    }

    /// For each bound in seconds, in ascending order: the number of durations that were not longer.
    /// Durations above the last bound are only in [`Histogram::count`].
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut sum = 0;
        self.buckets[..BOUNDED].iter().enumerate().map(move |(bucket, count)| {
            sum += count;
            ((1u64 << bucket) as f64 / 1e6, sum)
        })
    }

    /// The number of recorded durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all durations, in nanoseconds.
    pub fn nanos(&self) -> u64 {
        self.nanos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket_of(nanos: u64) -> Option<f64> {
        let mut histogram = Histogram::default();
        histogram.record(nanos);
        histogram.cumulative().find(|(_, count)| *count == 1).map(|(bound, _)| bound)
    }

    #[test]
    fn a_duration_counts_below_every_bound_that_it_does_not_exceed() {
        for (nanos, bound) in [
            (0, Some(0.000_001)),
            (1_000, Some(0.000_001)),
            (1_001, Some(0.000_002)),
            (2_000, Some(0.000_002)),
            (2_001, Some(0.000_004)),
            (4_000, Some(0.000_004)),
            (999_999, Some(0.001_024)),
            (1_048_576_000, Some(1.048_576)),
            (1_048_576_001, None),
            (u64::MAX, None),
        ] {
            assert_eq!(bucket_of(nanos), bound, "{nanos} ns");
        }
    }

    #[test]
    fn every_bucket_is_the_one_a_search_through_the_bounds_finds() {
        for exponent in 0..40 {
            for nanos in [(1u64 << exponent) - 1, 1 << exponent, (1 << exponent) + 1] {
                let bounds: Vec<f64> =
                    Histogram::default().cumulative().map(|(bound, _)| bound).collect();
                let wanted = bounds.iter().copied().find(|bound| nanos as f64 / 1e9 <= *bound);
                assert_eq!(bucket_of(nanos), wanted, "{nanos} ns");
            }
        }
    }

    #[test]
    fn count_and_sum_hold_what_exceeds_every_bound() {
        let mut histogram = Histogram::default();
        [10, 5_000, 3_000_000_000].iter().for_each(|nanos| histogram.record(*nanos));
        assert_eq!((histogram.count(), histogram.nanos()), (3, 3_000_005_010));
        assert_eq!(histogram.cumulative().last(), Some((1.048_576, 2)));
        assert!(histogram.cumulative().is_sorted());
    }
}
