//! What every figure is called and means.

/// Whether a figure only grows, or also falls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// It only grows, from the start of the process.
    Counter,
    /// It is the current value.
    Gauge,
}

/// The name and the meaning of one figure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// The name of the field of [`Counters`].
    pub field: &'static str,
    /// The Prometheus name; several figures share one and differ in `labels`.
    pub name: &'static str,
    /// The Prometheus label that tells figures of one name apart, besides `shard`.
    pub labels: &'static [(&'static str, &'static str)],
    /// Whether it is a counter or a gauge.
    pub kind: MetricKind,
    /// The unit: messages, bytes, ...
    pub unit: &'static str,
    /// One sentence; the same for all figures of one name.
    pub help: &'static str,
}

impl Descriptor {
    /// What a value is divided by to be in the base unit that `name` promises (seconds, bytes).
    pub fn divisor(&self) -> u64 {
        if self.unit == "nanoseconds" { 1_000_000_000 } else { 1 }
    }
}
