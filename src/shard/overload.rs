//! Overload control: what the shard measures of its own load, and what it refuses at each of the
//! levels of [`crate::overload::level`]. This module owns the shard's level and the rate at which
//! it accepts connections.
//!
//! `limits.memory` is one of the signals. What is refused only because memory is short is in
//! [`super::memory`]; connections wait or are refused for it as for any other overload.

use super::memory::Pressure;
use super::{Action, Shard};
use crate::mutant::Mutant;
use crate::overload::level::{Assessor, FULL, LOOK, LevelChange};
use crate::overload::pace::AcceptPace;
use crate::overload::{OverloadLevel, OverloadSignal, SignalReadings};
use crate::packet::Qos;
use crate::time::Instant;

/// Level 1 begins when the oldest change has waited this many milliseconds for the disk.
const STORAGE: u64 = 2000;
/// Level 1 begins when this much of the mailboxes' room, or of the receive buffers, is in use, in
/// thousandths.
const CROWDED: u64 = 950;

/// What the loop around the shard measures.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LoopSignals {
    /// The longest step since the last look, in microseconds.
    pub longest_step: u64,
    /// How much of that step the core's thread can have run, in microseconds. The rest is time of
    /// other processes.
    pub longest_ran: u64,
    /// Receive buffers in use, in thousandths of all.
    pub buffers: u64,
    /// Room of the mailboxes in use, in thousandths.
    pub mailboxes: u64,
}

/// The duration of the longest of some steps, in microseconds.
#[derive(Clone, Copy, Default)]
struct LongSteps {
    /// As clients see it. The rate of accepting follows this duration.
    took: u64,
    /// While the core's thread ran. The level follows this duration, so that a host on which other
    /// processes have the CPU does not count as overloaded.
    ran: u64,
}

/// The level of a shard, and the rate at which it accepts.
#[derive(Default)]
pub(super) struct Overload {
    assessor: Assessor,
    pace: AcceptPace,
    /// When the shard looks at its load again, and when it looked last, in microseconds.
    next: u64,
    looked: u64,
    /// The longest step before the last look. Only two long ones in a row count.
    before: LongSteps,
    /// Accepting is stopped until then.
    held: Option<Instant>,
    /// True when a change of the level is still to be published.
    pub(super) untold: bool,
}

impl Overload {
    /// True while accepting is stopped, or a change of the level is to be published.
    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        self.held.is_some() || self.untold
    }

    /// When accepting goes on, or when the shard has to look at its load although nothing else
    /// happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let looks = self.level() > OverloadLevel::None || self.pace.rate().is_some();
        let look = looks.then(|| Instant(self.next.div_ceil(1000)));
        [self.held, look].into_iter().flatten().min()
    }

    /// The present level.
    #[inline]
    pub(super) fn level(&self) -> OverloadLevel {
        self.assessor.level()
    }
}

impl Shard {
    /// Whether the loop around the shard is to report its signals at `micros`.
    #[inline]
    pub fn asks_for_signals(&self, micros: u64) -> bool {
        micros >= self.entrance.overload.next
    }

    /// The present level of overload.
    pub fn overload_level(&self) -> OverloadLevel {
        self.entrance.overload.level()
    }

    /// True at that level and at those above it.
    #[inline]
    pub(super) fn is_at(&self, level: OverloadLevel) -> bool {
        self.entrance.overload.level() >= level
    }

    /// Takes in what the loop has measured until `micros`, and changes level and rate accordingly.
    pub fn assess(&mut self, micros: u64, signals: &LoopSignals) {
        let elapsed = micros.saturating_sub(self.entrance.overload.looked) / 1000;
        self.entrance.overload.looked = micros;
        self.entrance.overload.next = micros + LOOK * 1000;
        let thresholds = self.settings.policy.overload;
        let now = LongSteps { took: signals.longest_step, ran: signals.longest_ran };
        let before = std::mem::replace(&mut self.entrance.overload.before, now);
        let sustained = now.took.min(before.took);
        let mut readings = SignalReadings::default();
        readings.set(OverloadSignal::Lag, thresholds.lag_reading(now.ran.min(before.ran)));
        readings.set(OverloadSignal::HostMemory, self.topology.shared.host_memory.used());
        readings.set(OverloadSignal::Memory, self.pressure() as u64 * FULL);
        readings.set(OverloadSignal::Mail, signals.mailboxes * FULL / CROWDED);
        readings.set(OverloadSignal::Buffers, signals.buffers * FULL / CROWDED);
        readings.set(OverloadSignal::Admissions, self.admissions_reading());
        readings.set(OverloadSignal::Storage, self.storage_age() * FULL / STORAGE);
        let change = self.entrance.overload.assessor.assess(micros / 1000, &readings, &thresholds);
        if let Some(change) = change {
            self.level_changed(&change);
        }
        if thresholds.enabled {
            let pressed = self.is_at(OverloadLevel::Accepts);
            self.entrance.overload.pace.look(sustained, &thresholds, elapsed, pressed);
        } else {
            self.entrance.overload.pace = AcceptPace::default();
        }
        let counters = &mut self.counters;
        counters.overload_lag_nanos = sustained * 1000;
        counters.overload_pace = self.entrance.overload.pace.rate().unwrap_or(0);
        for (counter, value) in [
            &mut counters.signal_lag,
            &mut counters.signal_host_memory,
            &mut counters.signal_memory,
            &mut counters.signal_mail,
            &mut counters.signal_buffers,
            &mut counters.signal_admissions,
            &mut counters.signal_storage,
        ]
        .into_iter()
        .zip(readings.0)
        {
            *counter = value;
        }
    }

    /// How much of the permitted waiting TLS handshakes and authentications there are, in
    /// thousandths.
    fn admissions_reading(&self) -> u64 {
        let proving = self.access.admissions.len() as u64 * FULL * 2;
        let proving = proving.checked_div(self.settings.admissions as u64).unwrap_or(0);
        let shaking = self.layered.handshakes.len() as u64 * FULL / 1000;
        proving.max(shaking)
    }

    fn level_changed(&mut self, change: &LevelChange) {
        let LevelChange { from, to, signal, value } = *change;
        self.counters.overload_level = to as u64;
        self.counters.overload_changes += 1;
        self.entrance.overload.untold = true;
        let (shard, level, from) = (self.topology.id.0, to.word(), from.word());
        let (signal, percent) = (signal.word(), value / 10);
        if change.to > change.from {
            tracing::warn!(shard, level, from, signal, percent, "overloaded (overload)");
        } else {
            tracing::info!(shard, level, from, signal, percent, "less overloaded");
        }
    }

    /// Counts an accepted connection. The next ones may have to wait.
    #[inline]
    pub(super) fn pace_accepts(&mut self) {
        let now = self.meter.begun() * 1000;
        self.entrance.overload.pace.accepted(now);
        if self.entrance.overload.pace.rate().is_some() {
            self.hold_accepts(now);
        }
    }

    fn hold_accepts(&mut self, now: u64) {
        let Err(wait) = self.entrance.overload.pace.ready(now) else { return };
        if self.entrance.overload.held.is_none() {
            self.counters.accepts_held += 1;
            self.outputs.actions.push(Action::HoldAccepts(true));
        }
        self.entrance.overload.held = Some(self.now.plus_millis(wait.div_ceil(1_000_000).max(1)));
    }

    /// Goes on accepting when it is time.
    pub(super) fn run_overload(&mut self) {
        if self.entrance.overload.held.is_some_and(|until| until <= self.now) {
            let now = self.meter.begun() * 1000;
            match self.entrance.overload.pace.ready(now) {
                Ok(()) => {
                    self.entrance.overload.held = None;
                    if !Mutant::OverloadAcceptsHeld.is_on() {
                        self.outputs.actions.push(Action::HoldAccepts(false));
                    }
                }
                Err(_) => self.hold_accepts(now),
            }
        }
    }

    /// True while no new clients are accepted because of overload.
    pub(super) fn refuses_connects(&self) -> bool {
        self.is_at(OverloadLevel::Connects) && !Mutant::OverloadConnectTaken.is_on()
    }

    /// True while QoS 0 messages go only to clients that keep reading.
    #[inline]
    pub(super) fn sheds_to_slow(&self) -> bool {
        self.memory.is_short(Pressure::Tight) || self.is_at(OverloadLevel::Slow)
    }

    /// True while a client's message of that QoS is not accepted.
    pub(super) fn sheds_published(&self, qos: Qos) -> bool {
        let most = if Mutant::OverloadShedsAcknowledged.is_on() {
            Qos::AtLeastOnce
        } else {
            Qos::AtMostOnce
        };
        self.is_at(OverloadLevel::Qos0) && qos <= most
    }

    /// True while nothing more is stored for clients because of overload.
    pub(super) fn stores_nothing(&self) -> bool {
        self.is_at(OverloadLevel::Stored) && !Mutant::OverloadStores.is_on()
    }
}
