//! What the broker did in the last hour: one sample per second, in a ring of fixed size. Owned by
//! the server that has the API. A sample costs each shard a copy of its figures.

use super::figures::{FiguresAnswer, ShardFigures};
use super::process;
use crate::telemetry::Counters;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::time::{MissedTickBehavior, interval};
use utoipa::ToSchema;

/// The number of samples that are kept: one hour.
const KEPT: usize = 3600;
/// The time between two samples.
const EACH: Duration = Duration::from_secs(1);
/// A shard that has not answered within this time is missing from the sample.
const PATIENCE: Duration = Duration::from_millis(900);

/// What a second was like. Rates are per second.
#[derive(Clone, Serialize, ToSchema)]
pub(super) struct Sample {
    /// Milliseconds since 1970.
    pub(super) time_stamp: u64,
    /// Sessions.
    connections: u64,
    /// Connected clients.
    live_connections: u64,
    /// Subscriptions.
    subscriptions: u64,
    /// Messages from clients per second.
    received: f64,
    /// Messages to clients per second.
    sent: f64,
    /// Messages dropped per second.
    dropped: f64,
    /// Bytes from clients per second.
    received_bytes: f64,
    /// Bytes to clients per second.
    sent_bytes: f64,
    /// Bytes of memory in use.
    memory: Option<u64>,
    /// Each shard.
    shards: Vec<ShardSample>,
}

/// What a second was like for one shard.
#[derive(Clone, Serialize, ToSchema)]
struct ShardSample {
    /// The share of the time that it worked, 0 to 1.
    busy: f32,
    /// The share of a CPU that its core's thread used, 0 to 1.
    cpu: f32,
    /// Bytes that its clients make the broker hold.
    memory: u64,
    /// How long a question waited for its loop, milliseconds.
    lag_ms: f32,
}

/// The samples of the last hour.
#[derive(Clone, Default)]
pub(super) struct SampleHistory(Arc<Mutex<VecDeque<Sample>>>);

impl SampleHistory {
    /// The samples later than `since` (milliseconds since 1970), the oldest first.
    pub(super) fn since(&self, since: u64) -> Vec<Sample> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let later = samples.iter().rev().take_while(|sample| sample.time_stamp > since);
        let mut later: Vec<Sample> = later.cloned().collect();
        later.reverse();
        later
    }

    /// The same samples, for another thread than that which has panicked. None if that one has kept
    /// the lock.
    pub(super) fn rescued(&self) -> SampleHistory {
        let samples = self.0.try_lock().map(|mut samples| std::mem::take(&mut *samples));
        SampleHistory(Arc::new(Mutex::new(samples.unwrap_or_default())))
    }

    fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() >= KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// Takes samples for ever.
    pub(super) async fn watch(self, shards: Arc<ShardFigures>) {
        let mut beat = interval(EACH);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last: Option<(Instant, Vec<FiguresAnswer>)> = None;
        loop {
            beat.tick().await;
            let figures = shards.ask(PATIENCE).await;
            let now = Instant::now();
            if let Some((before, old)) = &last {
                self.add(sample(now.duration_since(*before), old, &figures));
            }
            last = Some((now, figures));
        }
    }
}

/// The sum of all figures of a name.
fn of_name(name: &str, values: &[u64]) -> u64 {
    let named = Counters::DESCRIPTORS.iter().zip(values).filter(|(figure, _)| figure.name == name);
    named.map(|(_, value)| value).sum()
}

fn sample(passed: Duration, old: &[FiguresAnswer], new: &[FiguresAnswer]) -> Sample {
    let seconds = passed.as_secs_f64().max(0.001);
    // Growth is counted for the shards that answered both times, because the counts of the others
    // are not known.
    let (mut now, mut before) = (Counters::default(), Counters::default());
    let mut shards = Vec::with_capacity(new.len());
    for (old, new) in old.iter().zip(new) {
        let (Some(old), Some(new)) = (old.figures(), new.figures()) else {
            let lag_ms = PATIENCE.as_millis() as f32;
            shards.push(ShardSample { busy: 0.0, cpu: 0.0, memory: 0, lag_ms });
            continue;
        };
        now.add(&new.counters);
        before.add(&old.counters);
        let share = |of: fn(&Counters) -> u64| {
            let nanos = of(&new.counters).saturating_sub(of(&old.counters));
            (nanos as f64 / 1e9 / seconds).min(1.0) as f32
        };
        shards.push(ShardSample {
            busy: share(|counters| counters.step_busy_nanos),
            cpu: share(|counters| counters.cpu_nanos),
            memory: new.counters.memory_held(),
            lag_ms: new.lag.as_secs_f32() * 1000.0,
        });
    }
    let (values, olds) = (now.values(), before.values());
    let rate =
        |name: &str| of_name(name, &values).saturating_sub(of_name(name, &olds)) as f64 / seconds;
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Sample {
        time_stamp: since_1970.as_millis() as u64,
        connections: now.sessions,
        live_connections: now.connections_open,
        subscriptions: now.subscriptions,
        received: rate("ringmq_messages_received_total"),
        sent: rate("ringmq_messages_sent_total"),
        dropped: rate("ringmq_messages_dropped_total"),
        received_bytes: rate("ringmq_received_bytes_total"),
        sent_bytes: rate("ringmq_sent_bytes_total"),
        memory: process::measure().resident_bytes,
        shards,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::MetricKind;
    use crate::telemetry::prometheus::Snapshot;

    #[test]
    fn the_names_that_are_sampled_are_counters() {
        for name in ["messages_received", "messages_sent", "messages_dropped", "sent_bytes"] {
            let name = format!("ringmq_{name}_total");
            let known = Counters::DESCRIPTORS.iter().find(|figure| figure.name == name);
            assert_eq!(known.expect(&name).kind, MetricKind::Counter);
        }
        assert!(Counters::DESCRIPTORS.iter().any(|f| f.name == "ringmq_received_bytes_total"));
    }

    #[test]
    fn rates_are_of_shards_that_answered_twice() {
        let shard = |messages, nanos| {
            let mut snapshot = Snapshot::default();
            snapshot.counters.messages_sent_qos1 = messages;
            snapshot.counters.step_busy_nanos = nanos;
            snapshot.counters.cpu_nanos = nanos / 2;
            snapshot.counters.memory_pending = messages;
            FiguresAnswer::Figures(Arc::new(snapshot))
        };
        let (old, new) =
            ([shard(10, 0), shard(7, 0)], [shard(110, 1_000_000_000), FiguresAnswer::Silence]);
        let sample = sample(Duration::from_secs(2), &old, &new);
        assert_eq!(sample.sent, 50.0);
        let shard = &sample.shards[0];
        assert_eq!((shard.busy, shard.cpu, shard.memory), (0.5, 0.25, 110));
    }

    #[test]
    fn an_hour_is_kept() {
        let history = SampleHistory::default();
        for second in 0..KEPT as u64 + 10 {
            let mut one = sample(EACH, &[], &[]);
            one.time_stamp = second;
            history.add(one);
        }
        assert_eq!(history.since(0).len(), KEPT);
        assert_eq!(history.since(KEPT as u64).len(), 9);
    }
}
