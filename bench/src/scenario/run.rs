//! What all runs share: snapshots of clocks and counts at both ends of the measured interval.

use crate::clock;
use crate::process::Tree;
use serde_json::{Value, json};

/// All clocks and counts at one moment.
#[derive(Clone, Copy)]
pub struct Snapshot {
    /// The time of [`clock::now`].
    pub time: u64,
    /// CPU time of the broker in nanoseconds; `None` when its process is unknown or has ended.
    pub broker: Option<u64>,
    /// CPU time of the generator in nanoseconds.
    pub own: u64,
    /// Messages delivered so far.
    pub delivered: u64,
    /// Messages published so far.
    pub sent: u64,
}

impl Snapshot {
    /// Reads the clocks now; the counts are the caller's.
    pub fn take(broker: Option<&Tree>, delivered: u64, sent: u64) -> Self {
        let broker = broker.and_then(Tree::cpu);
        Self { time: clock::now(), broker, own: clock::own_cpu(), delivered, sent }
    }

    /// The interval from `self` to `end` in the terms of a report: rates per second, CPU time in µs
    /// per delivered message and in percent of one core.
    pub fn until(&self, end: &Snapshot) -> Value {
        let seconds = (end.time - self.time) as f64 / 1e9;
        let delivered = (end.delivered - self.delivered) as f64;
        let broker = match (self.broker, end.broker) {
            (Some(from), Some(to)) => Some(to.saturating_sub(from) as f64),
            _ => None,
        };
        let own = (end.own - self.own) as f64;
        let each = |nanos: f64| if delivered > 0.0 { Some(nanos / 1e3 / delivered) } else { None };
        json!({
            "seconds": seconds,
            "delivered_per_s": delivered / seconds,
            "published_per_s": (end.sent - self.sent) as f64 / seconds,
            "cpu_us": broker.and_then(each),
            "cpu_percent": broker.map(|b| b / 1e7 / seconds),
            "generator_cpu_us": each(own),
            "generator_percent": own / 1e7 / seconds,
        })
    }
}
