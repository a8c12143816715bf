//! The level of overload of one shard, from what is measured on that shard.
//!
//! Each signal has a value in thousandths of the value that begins level 1, and a scale of the
//! values that begin the higher levels. The level rises at once to the highest level that any
//! signal asks for. It falls by one when, for [`CALM`] milliseconds, every signal was below
//! `recover` thousandths of the value that begins the present level. So at least a second is
//! between a rise and the next fall, and a value that moves around a threshold changes nothing.

use crate::mutant::Mutant;

/// Milliseconds between two assessments.
pub const LOOK: u64 = 100;
/// Milliseconds for which every signal has to be low before the level falls by one.
pub const CALM: u64 = 1000;
/// A signal that is just high enough for level 1.
pub const FULL: u64 = 1000;

/// A level of overload: the work that is left out. Each level includes those below it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
#[repr(u8)]
pub enum OverloadLevel {
    /// Everything is done.
    #[default]
    None,
    /// New connections are accepted at the pace that the shard bears ([`super::pace`]).
    Accepts,
    /// CONNECT is refused with 0x89 (3 for MQTT 3 clients), or with 0x9C and a server reference; on
    /// a TLS listener the connection is refused before its handshake.
    Connects,
    /// QoS 0 goes only to clients that read.
    Slow,
    /// QoS 0 messages from clients are dropped.
    Qos0,
    /// No new subscriptions and no new retained messages: 0x97.
    Stored,
}

impl OverloadLevel {
    /// All levels, the lowest first.
    pub const ALL: [OverloadLevel; 6] = [
        OverloadLevel::None,
        OverloadLevel::Accepts,
        OverloadLevel::Connects,
        OverloadLevel::Slow,
        OverloadLevel::Qos0,
        OverloadLevel::Stored,
    ];

    /// The level's name, for logs and `$SYS`.
    pub fn word(self) -> &'static str {
        match self {
            OverloadLevel::None => "none",
            OverloadLevel::Accepts => "accepts",
            OverloadLevel::Connects => "connects",
            OverloadLevel::Slow => "slow",
            OverloadLevel::Qos0 => "qos0",
            OverloadLevel::Stored => "stored",
        }
    }

    fn below(self) -> OverloadLevel {
        OverloadLevel::ALL[(self as usize).saturating_sub(1)]
    }

    fn of(number: usize) -> OverloadLevel {
        OverloadLevel::ALL[number.min(OverloadLevel::ALL.len() - 1)]
    }
}

/// A measured quantity that can ask for a level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OverloadSignal {
    /// How long a step of the shard's thread runs.
    Lag,
    /// Memory of the control group, or of the host.
    HostMemory,
    /// The pressure by `limits.memory`.
    Memory,
    /// How full the mailboxes are.
    Mail,
    /// Receive buffers in use.
    Buffers,
    /// TLS handshakes and authentications that wait.
    Admissions,
    /// How long the oldest change waits for the disk.
    Storage,
}

impl OverloadSignal {
    /// All of them, in the order of [`SignalReadings`].
    pub const ALL: [OverloadSignal; 7] = [
        OverloadSignal::Lag,
        OverloadSignal::HostMemory,
        OverloadSignal::Memory,
        OverloadSignal::Mail,
        OverloadSignal::Buffers,
        OverloadSignal::Admissions,
        OverloadSignal::Storage,
    ];

    /// The signal's name, for logs.
    pub fn word(self) -> &'static str {
        match self {
            OverloadSignal::Lag => "lag",
            OverloadSignal::HostMemory => "host_memory",
            OverloadSignal::Memory => "memory",
            OverloadSignal::Mail => "mailboxes",
            OverloadSignal::Buffers => "buffers",
            OverloadSignal::Admissions => "admissions",
            OverloadSignal::Storage => "storage",
        }
    }

    /// The values that begin the levels from 1 on, in thousandths of the value that begins level 1.
    /// The scale of a signal that has nothing to do with messages ends before the levels that drop
    /// messages.
    fn scale(self) -> &'static [u64] {
        match self {
            // With the default of `overload.lag`, level 2 begins at half a second.
            OverloadSignal::Lag => &[1000, 10_000, 20_000, 40_000, 80_000],
            OverloadSignal::HostMemory => &[1000, 2000, 3000, 4000, 5000],
            OverloadSignal::Memory => &[1000, 2000, 3000],
            // Level 2 begins when the disk has stood still for ten seconds, in which nothing was
            // acknowledged.
            OverloadSignal::Storage => &[1000, 5000],
            OverloadSignal::Mail | OverloadSignal::Buffers | OverloadSignal::Admissions => &[1000],
        }
    }

    /// The level that `value` asks for, when each level begins at `share` thousandths of its scale.
    fn level(self, value: u64, share: u64) -> OverloadLevel {
        let reached = |&&begins: &&u64| value.saturating_mul(1000) >= begins * share;
        OverloadLevel::of(self.scale().iter().take_while(reached).count())
    }
}

/// One value per signal, in thousandths of what begins level 1.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SignalReadings(pub [u64; OverloadSignal::ALL.len()]);

impl SignalReadings {
    /// Sets the value of one signal.
    pub fn set(&mut self, signal: OverloadSignal, value: u64) {
        self.0[signal as usize] = value;
    }

    /// The value of one signal.
    pub fn get(&self, signal: OverloadSignal) -> u64 {
        self.0[signal as usize]
    }
}

/// The section `overload:`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Thresholds {
    /// Whether overload has any effect.
    pub enabled: bool,
    /// Steps of this many microseconds begin level 1; those 10, 20, 40 and 80 times as long begin
    /// the others.
    pub lag: u64,
    /// Thousandths of the control group's memory that begin level 1.
    pub memory: u64,
    /// Thousandths of the host's memory that begin level 1 where the group has no limit.
    pub host_memory: u64,
    /// A level ends below this many thousandths of the value that began it.
    pub recover: u64,
    /// Fewer connections per second than this to one shard are not paced. Not configurable.
    pub crowd: u64,
    /// The slowest pace, in connections per second of one shard: where steps are long because
    /// another process has the CPU, clients can still connect. Not configurable.
    pub slowest: u64,
}

impl Default for Thresholds {
    /// Overload has no effect.
    fn default() -> Self {
        Thresholds {
            enabled: false,
            lag: 50_000,
            memory: 850,
            host_memory: 950,
            recover: 800,
            crowd: 2000,
            slowest: 1000,
        }
    }
}

impl Thresholds {
    /// The reading of [`OverloadSignal::Lag`] for steps of this many microseconds.
    pub fn lag_reading(&self, micros: u64) -> u64 {
        micros.saturating_mul(FULL) / self.lag.max(1)
    }

    /// The reading for memory in use, `used` in thousandths of the total. The levels above the
    /// first begin at fifths of what is left above the threshold.
    pub fn memory_reading(&self, used: u64) -> u64 {
        let step = (1000u64.saturating_sub(self.memory) / 5).max(1);
        match used.checked_sub(self.memory) {
            Some(above) => FULL + above * FULL / step,
            None => used * FULL / self.memory.max(1),
        }
    }
}

/// A change of the level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LevelChange {
    /// What it was.
    pub from: OverloadLevel,
    /// What it is.
    pub to: OverloadLevel,
    /// The signal that asks for the highest level.
    pub signal: OverloadSignal,
    /// Its value, in thousandths of what begins level 1.
    pub value: u64,
}

/// The level of one shard.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Assessor {
    level: OverloadLevel,
    /// The time, in milliseconds, since which every signal was low enough for the level to fall.
    calm_since: Option<u64>,
}

impl Assessor {
    /// The level now.
    #[inline]
    pub fn level(&self) -> OverloadLevel {
        self.level
    }

    /// Follows the readings at `now` milliseconds; returns a change of the level, if there is one.
    pub fn assess(
        &mut self,
        now: u64,
        readings: &SignalReadings,
        by: &Thresholds,
    ) -> Option<LevelChange> {
        let from = self.level;
        if !by.enabled {
            *self = Assessor::default();
        } else {
            self.follow(now, readings, by);
        }
        let (signal, value) = highest(readings);
        (from != self.level).then_some(LevelChange { from, to: self.level, signal, value })
    }

    fn follow(&mut self, now: u64, readings: &SignalReadings, by: &Thresholds) {
        let asked = |share: u64| {
            let each = OverloadSignal::ALL.iter().map(|&s| s.level(readings.get(s), share));
            each.max().unwrap_or_default()
        };
        let wanted = asked(1000);
        if wanted > self.level {
            self.level = wanted;
            self.calm_since = None;
            return;
        }
        let recover = if Mutant::OverloadHysteresisMissing.is_on() { 1000 } else { by.recover };
        if self.level == OverloadLevel::None || asked(recover) >= self.level {
            self.calm_since = None;
            return;
        }
        let since = *self.calm_since.get_or_insert(now);
        let calm = if Mutant::OverloadHysteresisMissing.is_on() { 0 } else { CALM };
        if now.saturating_sub(since) >= calm {
            self.level = self.level.below();
            self.calm_since = None;
        }
    }
}

/// The signal that asks for the highest level; of several, the one with the highest value.
fn highest(readings: &SignalReadings) -> (OverloadSignal, u64) {
    let each = OverloadSignal::ALL.into_iter().map(|signal| (signal, readings.get(signal)));
    let rank = |&(signal, value): &(OverloadSignal, u64)| (signal.level(value, 1000), value);
    each.max_by_key(rank).unwrap_or((OverloadSignal::Lag, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ON: Thresholds = Thresholds {
        enabled: true,
        lag: 50_000,
        memory: 850,
        host_memory: 950,
        recover: 800,
        crowd: 2000,
        slowest: 1000,
    };

    fn lag(micros: u64) -> SignalReadings {
        let mut readings = SignalReadings::default();
        readings.set(OverloadSignal::Lag, ON.lag_reading(micros));
        readings
    }

    #[test]
    fn the_lag_begins_each_level() {
        for (millis, level) in
            [(49, 0), (50, 1), (499, 1), (500, 2), (1000, 3), (2000, 4), (4000, 5)]
        {
            let mut assessor = Assessor::default();
            assessor.assess(0, &lag(millis * 1000), &ON);
            assert_eq!(assessor.level() as usize, level, "{millis} ms");
        }
    }

    #[test]
    fn memory_rises_in_fifths_of_what_is_left() {
        for (used, level) in [(849, 0), (850, 1), (879, 1), (880, 2), (910, 3), (940, 4), (970, 5)]
        {
            let mut readings = SignalReadings::default();
            readings.set(OverloadSignal::HostMemory, ON.memory_reading(used));
            let mut assessor = Assessor::default();
            assessor.assess(0, &readings, &ON);
            assert_eq!(assessor.level() as usize, level, "{used} thousandths");
        }
    }

    #[test]
    fn signals_about_connections_never_shed_messages() {
        for signal in [
            OverloadSignal::Mail,
            OverloadSignal::Buffers,
            OverloadSignal::Admissions,
            OverloadSignal::Storage,
        ] {
            let mut readings = SignalReadings::default();
            readings.set(signal, u64::MAX);
            let mut assessor = Assessor::default();
            assessor.assess(0, &readings, &ON);
            assert!(assessor.level() <= OverloadLevel::Connects, "{signal:?}");
        }
    }

    #[test]
    fn it_falls_one_by_one_after_a_calm_second_each() {
        let mut assessor = Assessor::default();
        let change = assessor.assess(0, &lag(1_000_000), &ON).expect("it rises");
        assert_eq!(
            (change.to, change.signal, change.value),
            (OverloadLevel::Slow, OverloadSignal::Lag, 20_000)
        );
        let mut falls = Vec::new();
        for now in (100..5000).step_by(100) {
            if let Some(change) = assessor.assess(now, &lag(0), &ON) {
                falls.push((now, change.to));
            }
        }
        let expected = [
            (1100, OverloadLevel::Connects),
            (2200, OverloadLevel::Accepts),
            (3300, OverloadLevel::None),
        ];
        assert_eq!(falls, expected);
    }

    #[test]
    fn switched_off_it_is_none() {
        let mut assessor = Assessor::default();
        assessor.assess(0, &lag(1_000_000), &ON);
        let change = assessor.assess(100, &lag(1_000_000), &Thresholds::default());
        assert_eq!(change.map(|change| change.to), Some(OverloadLevel::None));
    }

    proptest! {
        #[test]
        fn no_fall_within_a_second_of_a_rise(
            values in prop::collection::vec(0u64..100_000, 1..200),
        ) {
            let mut assessor = Assessor::default();
            let mut rose = None;
            for (at, value) in values.into_iter().enumerate() {
                let now = at as u64 * LOOK;
                let mut readings = SignalReadings::default();
                readings.set(OverloadSignal::Lag, value);
                let Some(change) = assessor.assess(now, &readings, &ON) else { continue };
                if change.to > change.from {
                    rose = Some(now);
                } else {
                    prop_assert_eq!(change.to as u8, change.from as u8 - 1);
                    prop_assert!(rose.is_none_or(|rose| now >= rose + CALM));
                }
            }
        }
    }
}
