//! The state of the broker in a few lines of the log, for an operator who sends SIGUSR1. Owns the
//! last figures of each shard, which come with its answers to pings.

use std::time::{Duration, Instant};

use super::log::ASKED_FOR;
use crate::ids::ShardId;
use crate::limits::DATA_MAILBOX;
use crate::telemetry::Counters;
use crate::telemetry::alarms::AlarmReadings;
use crate::telemetry::prometheus::Snapshot;

/// Rates are told over at least so much time.
const SPAN: Duration = Duration::from_secs(1);

/// The figures of all shards as they last told them.
#[derive(Default)]
pub(super) struct SummaryFigures(Vec<Option<ShardSummary>>);

struct ShardSummary {
    at: Instant,
    snapshot: Box<Snapshot>,
    /// The totals at an earlier moment, to tell rates by.
    before: Option<(Instant, RateTotals)>,
}

/// What rates are told of.
#[derive(Clone, Copy, Default)]
struct RateTotals {
    received: u64,
    sent: u64,
    dropped: u64,
    busy_nanos: u64,
}

impl RateTotals {
    fn of(counters: &Counters) -> RateTotals {
        RateTotals {
            received: counters.messages_received(),
            sent: counters.messages_sent(),
            dropped: counters.messages_dropped(),
            busy_nanos: counters.step_busy_nanos,
        }
    }
}

/// Events per second.
#[derive(Clone, Copy, Default)]
struct Rates {
    received: f64,
    sent: f64,
    dropped: f64,
    /// Seconds of work per second.
    busy: f64,
}

impl ShardSummary {
    fn rates(&self) -> Rates {
        let Some((at, before)) = self.before else { return Rates::default() };
        let seconds = self.at.duration_since(at).as_secs_f64();
        let now = RateTotals::of(&self.snapshot.counters);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Rates {
            received: rate(now.received, before.received),
            sent: rate(now.sent, before.sent),
            dropped: rate(now.dropped, before.dropped),
            busy: rate(now.busy_nanos, before.busy_nanos) / 1e9,
        }
    }
}

impl SummaryFigures {
    /// A shard has told its figures.
    pub(super) fn heard(&mut self, shard: ShardId, now: Instant, snapshot: Box<Snapshot>) {
        let at = usize::from(shard.0);
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        let before = self.0[at].take().and_then(|last| {
            let old = now.duration_since(last.at) >= SPAN;
            if old { Some((last.at, RateTotals::of(&last.snapshot.counters))) } else { last.before }
        });
        self.0[at] = Some(ShardSummary { at: now, snapshot, before });
    }

    /// What alarms are about, as far as shards have told it.
    pub(super) fn readings(&self) -> AlarmReadings {
        let mut readings = AlarmReadings::default();
        for ShardSummary { snapshot, .. } in self.0.iter().flatten() {
            let counters = &snapshot.counters;
            readings.lag = readings.lag.max(snapshot.lag);
            readings.overload = readings.overload.max(counters.overload_level);
            let fullest = snapshot.mailboxes.iter().copied().max().unwrap_or(0);
            readings.mailbox = (readings.mailbox.0.max(fullest), DATA_MAILBOX as u64);
            // A shard that keeps in memory what should be stored still serves.
            let down = counters.storage_down > 0 && counters.storage_degraded == 0;
            readings.storage.0 += u64::from(down);
            readings.storage.1 += u64::from(counters.storage_degraded > 0);
            let age = Duration::from_nanos(counters.storage_age_nanos);
            readings.storage_age = readings.storage_age.max(age);
        }
        readings
    }

    /// Sessions of all shards, if each has told of them since.
    pub(super) fn sessions_since(&self, since: Instant) -> Option<u64> {
        let fresh = self.0.iter().flatten().all(|known| known.at > since);
        fresh.then(|| self.total().sessions)
    }

    /// The sum of all shards' figures.
    pub(super) fn total(&self) -> Counters {
        let mut total = Counters::default();
        self.0.iter().flatten().for_each(|known| total.add(&known.snapshot.counters));
        total
    }

    /// Writes the summary: a line for the broker and one for each shard. `late` says of each shard
    /// for how long it has been late; its figures are its last ones.
    pub(super) fn write(
        &self,
        now: Instant,
        uptime: Duration,
        resident: Option<u64>,
        memory_limit: Option<u64>,
        lost: u64,
        late: &[(ShardId, Instant)],
    ) {
        let mut total = Counters::default();
        let mut rates = Rates::default();
        let mut pressure = 0;
        for known in self.0.iter().flatten() {
            total.add(&known.snapshot.counters);
            let of_shard = known.rates();
            rates.received += of_shard.received;
            rates.sent += of_shard.sent;
            rates.dropped += of_shard.dropped;
            pressure = pressure.max(known.snapshot.counters.memory_pressure);
        }
        tracing::info!(
            target: ASKED_FOR,
            connections = total.connections_open,
            sessions = total.sessions,
            subscriptions = total.subscriptions,
            retained = total.retained_messages,
            received_per_second = rounded(rates.received),
            sent_per_second = rounded(rates.sent),
            dropped_per_second = rounded(rates.dropped),
            dropped = total.messages_dropped(),
            inflight = total.inflight,
            pending_messages = total.pending_messages,
            pending_bytes = total.pending_bytes,
            memory_held = total.memory_held(),
            memory_limit,
            memory_pressure = pressure,
            resident_bytes = resident,
            log_lines_lost = lost,
            late_shards = late.len(),
            uptime_seconds = uptime.as_secs(),
            "summary"
        );
        for (number, known) in self.0.iter().enumerate() {
            let Some(known) = known else { continue };
            let (counters, rates) = (&known.snapshot.counters, known.rates());
            let late = late.iter().find(|(shard, _)| usize::from(shard.0) == number);
            let late = late.map(|(_, since)| now.duration_since(*since).as_secs());
            tracing::info!(
                target: ASKED_FOR,
                shard = number,
                connections = counters.connections_open,
                sessions = counters.sessions,
                received_per_second = rounded(rates.received),
                sent_per_second = rounded(rates.sent),
                busy_percent = rounded(rates.busy * 100.0),
                mailbox = known.snapshot.mailboxes.iter().sum::<u64>(),
                control_mail = counters.control_mail,
                inflight = counters.inflight,
                pending_messages = counters.pending_messages,
                sends_in_flight = counters.sends_in_flight,
                receive_buffers_free = counters.receive_buffers_free,
                lag_micros = known.snapshot.lag.as_micros() as u64,
                age_millis = now.duration_since(known.at).as_millis() as u64,
                late_seconds = late,
                "summary of a shard"
            );
        }
    }
}

/// To one tenth.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_told_over_a_second_at_least() {
        let start = Instant::now();
        let mut figures = SummaryFigures::default();
        let mut heard = |millis: u64, received: u64| {
            let mut snapshot = Box::<Snapshot>::default();
            snapshot.counters.messages_received_qos1 = received;
            figures.heard(ShardId(1), start + Duration::from_millis(millis), snapshot);
            figures.0[1].as_ref().unwrap().rates().received
        };
        assert_eq!(heard(0, 100), 0.0, "nothing is known of the time before");
        assert_eq!(heard(2000, 500), 200.0);
        // Asked again at once: over the same two seconds and a bit, not over a moment.
        assert_eq!(heard(2500, 1350), 500.0);
        assert_eq!(heard(4500, 1350), 0.0);
    }
}
