//! Statistics of received messages: order, loss and duplication per stream, and latency.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde_json::{Value, json};

/// The messages of one publisher as one subscriber receives them. Sequence numbers count from 0.
#[derive(Clone, Copy, Default)]
pub struct Stream {
    next: u64,
    /// Bit n: message `next - 1 - n` has come.
    seen: u64,
}

/// Counts over all streams, of messages published after the warm-up.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Order {
    /// Messages that never came.
    pub lost: u64,
    /// Messages that came after a later one.
    pub reordered: u64,
    /// Messages that came again.
    pub duplicated: u64,
}

impl Stream {
    /// A stream whose next message has the number `next`; earlier ones are not expected.
    pub fn from(next: u64) -> Self {
        Self { next, seen: 0 }
    }

    /// Takes in message `seq`; messages before `mark` belong to the warm-up and are not counted.
    /// Returns false when it has come before.
    #[inline]
    pub fn take(&mut self, seq: u64, mark: u64, order: &mut Order) -> bool {
        if seq == self.next {
            self.next += 1;
            self.seen = self.seen << 1 | 1;
            true
        } else if seq > self.next {
            self.jump(seq, mark, order);
            true
        } else {
            self.late(seq, mark, order)
        }
    }

    #[cold]
    fn jump(&mut self, seq: u64, mark: u64, order: &mut Order) {
        order.lost += seq.saturating_sub(self.next.max(mark));
        let shift = seq - self.next + 1;
        self.seen = if shift < 64 { self.seen << shift | 1 } else { 1 };
        self.next = seq + 1;
    }

    #[cold]
    fn late(&mut self, seq: u64, mark: u64, order: &mut Order) -> bool {
        let back = self.next - 1 - seq;
        let known = back < 64 && self.seen >> back & 1 == 1;
        if back < 64 {
            self.seen |= 1 << back;
        }
        if seq < mark {
            return !known;
        }
        if known {
            order.duplicated += 1;
            return false;
        }
        order.reordered += 1;
        order.lost = order.lost.saturating_sub(1);
        true
    }

    /// Ends the stream, whose publisher has sent `sent` messages: those still missing are lost.
    pub fn finish(&self, sent: u64, mark: u64, order: &mut Order) {
        order.lost += sent.saturating_sub(self.next.max(mark));
    }
}

/// A histogram of latencies from 1 µs to a minute, with three significant digits.
pub struct Latency(Histogram<u32>);

impl Latency {
    /// An empty histogram.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1_000, 60_000_000_000, 3);
        Self(histogram.expect("constant bounds are valid"))
    }

    /// Records `nanos` nanoseconds, clipped to the bounds.
    #[inline]
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// Median and 99th percentile in milliseconds; zeros when nothing was recorded.
    pub fn middle_and_tail(&self) -> (f64, f64) {
        let ms = |quantile: f64| self.0.value_at_quantile(quantile) as f64 / 1e6;
        if self.0.is_empty() { (0.0, 0.0) } else { (ms(0.5), ms(0.99)) }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// Calls `each` with every recorded value in nanoseconds, in ascending order, and its count.
    pub fn each(&self, mut each: impl FnMut(u64, u64)) {
        for step in self.0.iter_recorded() {
            each(step.value_iterated_to(), u64::from(step.count_at_value()));
        }
    }

    /// Adds everything that `other` has recorded.
    pub fn add(&mut self, other: &Latency) -> Result<(), String> {
        self.0.add(&other.0).map_err(|error| error.to_string())
    }

    /// The histogram in nanoseconds, in HdrHistogram's own encoding (V2, deflated, base64).
    fn encoded(&self) -> Option<String> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&self.0, &mut bytes).ok()?;
        Some(STANDARD.encode(bytes))
    }

    /// Decodes the field `histogram` of a report, whose text may come from an untrusted file.
    pub fn decoded(text: &str) -> Result<Latency, String> {
        /// Bytes of the longest accepted text; this program's own histograms take a few kilobytes.
        const MOST: usize = 1 << 20;
        if text.len() > MOST {
            return Err("the histogram is longer than any of ours".into());
        }
        let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
        let histogram = Deserializer::new().deserialize(&mut &bytes[..]);
        let histogram: Histogram<u32> = histogram.map_err(|error| error.to_string())?;
        let mut latency = Latency::new();
        latency.add(&Latency(histogram))?;
        Ok(latency)
    }

    /// Percentiles in milliseconds, null when nothing was recorded, and the histogram, which
    /// merging the results of several machines needs.
    pub fn report(&self) -> Value {
        let ms = |nanos: u64| (!self.0.is_empty()).then(|| (nanos as f64 / 1e3).round() / 1e3);
        json!({
            "p50": ms(self.0.value_at_quantile(0.5)),
            "p90": ms(self.0.value_at_quantile(0.9)),
            "p99": ms(self.0.value_at_quantile(0.99)),
            "p99.9": ms(self.0.value_at_quantile(0.999)),
            "max": ms(self.0.max()),
            "count": self.0.len(),
            "histogram": self.encoded(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(sequence: &[u64], sent: u64, mark: u64) -> (u64, u64, u64) {
        let (mut stream, mut order) = (Stream::default(), Order::default());
        for &seq in sequence {
            stream.take(seq, mark, &mut order);
        }
        stream.finish(sent, mark, &mut order);
        (order.lost, order.reordered, order.duplicated)
    }

    #[test]
    fn each_fault_is_counted_as_what_it_is() {
        assert_eq!(count(&[0, 1, 2, 3], 4, 0), (0, 0, 0));
        assert_eq!(count(&[0, 2, 3], 4, 0), (1, 0, 0));
        assert_eq!(count(&[0, 2, 1, 3], 4, 0), (0, 1, 0));
        assert_eq!(count(&[0, 1, 1, 2, 3], 4, 0), (0, 0, 1));
        assert_eq!(count(&[0, 2, 1, 1, 3], 4, 0), (0, 1, 1));
        assert_eq!(count(&[0, 1], 4, 0), (2, 0, 0));
        assert_eq!(count(&[], 4, 0), (4, 0, 0));
        assert_eq!(count(&[0, 100, 1, 2], 101, 0), (97, 2, 0));
    }

    #[test]
    fn the_warm_up_is_not_counted() {
        assert_eq!(count(&[0, 5, 6], 7, 4), (1, 0, 0));
        assert_eq!(count(&[0, 5, 6, 2, 2], 7, 5), (0, 0, 0));
        assert_eq!(count(&[0, 1], 3, 3), (0, 0, 0));
    }

    #[test]
    fn histograms_of_two_are_the_histogram_of_both() {
        let (mut left, mut right, mut both) = (Latency::new(), Latency::new(), Latency::new());
        for step in 0..20_000u64 {
            // From a microsecond to over the upper bound, unevenly.
            let nanos = 1_000 + step * step * step / 100;
            if step % 3 == 0 {
                left.record(nanos)
            } else {
                right.record(nanos)
            }
            both.record(nanos);
        }
        let decoded = |latency: &Latency| {
            let report = latency.report();
            Latency::decoded(report["histogram"].as_str().unwrap()).unwrap()
        };
        let mut merged = decoded(&left);
        merged.add(&decoded(&right)).unwrap();
        assert_eq!(merged.report(), both.report());
        assert_ne!(left.report(), both.report());
    }

    #[test]
    fn an_empty_histogram_has_no_percentiles() {
        let report = Latency::new().report();
        assert_eq!((&report["p99"], &report["count"]), (&Value::Null, &json!(0)));
        assert!(Latency::decoded(report["histogram"].as_str().unwrap()).is_ok());
    }

    #[test]
    fn what_is_no_histogram_is_refused() {
        for text in ["", "x", "AAAA", "SElTVEZBQUE=", &"A".repeat(2 << 20)] {
            assert!(Latency::decoded(text).is_err());
        }
        let mut coarse = Histogram::<u32>::new_with_bounds(1, 1000, 1).unwrap();
        coarse.record(5).unwrap();
        let text = Latency(coarse).encoded().unwrap();
        // Other bounds are taken as far as the values fit into ours.
        assert!(Latency::decoded(&text).is_ok());
    }
}
