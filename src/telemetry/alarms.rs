//! Alarms: states that an operator has to look at, each raised once and cleared once; one that is
//! about certain bridges, shards or listeners is told again when another joins them. Pure: the
//! control thread passes the readings every two seconds, and publishes what changes.
//!
//! Each alarm has a value at which it is raised and another at which it is cleared, so that a
//! reading that wavers between the two changes nothing. Alarms that follow load are raised only
//! after two readings in a row.

use super::{BridgeRow, NodeRow};
use crate::ids::ShardId;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// The number of alarms that are over and still listed.
const PAST: usize = 100;
/// An alarm is raised for a certificate that is valid for less than this many seconds: 14 days.
const CERTIFICATE: u64 = 14 * 24 * 3600;

/// An alarm is raised when the times of two nodes differ by more than this many milliseconds.
const APART: u64 = 5000;

/// For how many seconds after a panic of a thread the alarm stays.
const REMEMBERED: u64 = 300;

/// What an alarm is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AlarmKind {
    /// What clients make the broker hold comes near `limits.memory`: from 85 %, until below 75 %.
    Memory,
    /// A shard takes long to answer: from 250 ms, until below 100 ms.
    LoopLag,
    /// A shard does not answer.
    ShardLate,
    /// The mail to a shard comes near its bound: from three quarters, until below a half.
    Mailbox,
    /// The mail to a shard comes near the bound of a mailbox: from three quarters, until below a
    /// half.
    Overload,
    /// A shard cannot store.
    StorageDown,
    /// A shard keeps in memory only what should be stored on disk.
    StorageDegraded,
    /// Something waits long until it is durable: from half a second, until below 100 ms.
    StorageSlow,
    /// A listener's certificate expires within 14 days.
    Certificate,
    /// Connections come near `runtime.max_connections`: from 90 %, until below 80 %.
    Connections,
    /// The log has lost lines since the reading before.
    LogLost,
    /// A bridge that wants a connection has had none for some seconds.
    BridgeDown,
    /// The buffer of a bridge comes near its bound: from 75 %, until below 50 %. Also when it has
    /// no room and publishers wait.
    BridgeQueue,
    /// The thread of a bridge has failed, and will start again.
    BridgeFailed,
    /// The times of two nodes differ: by more than 5 s, until less than 2.5 s.
    Clocks,
    /// A thread beside the shards has panicked, and is replaced: until none has for five minutes.
    ThreadFailed,
}

impl AlarmKind {
    /// All of them.
    pub const ALL: [AlarmKind; 16] = [
        AlarmKind::Memory,
        AlarmKind::LoopLag,
        AlarmKind::ShardLate,
        AlarmKind::Mailbox,
        AlarmKind::Overload,
        AlarmKind::StorageDown,
        AlarmKind::StorageDegraded,
        AlarmKind::StorageSlow,
        AlarmKind::Certificate,
        AlarmKind::Connections,
        AlarmKind::LogLost,
        AlarmKind::BridgeDown,
        AlarmKind::BridgeQueue,
        AlarmKind::BridgeFailed,
        AlarmKind::Clocks,
        AlarmKind::ThreadFailed,
    ];

    /// Its name in the API, in metrics and below `$SYS/broker/alarms/`.
    pub fn name(self) -> &'static str {
        match self {
            AlarmKind::Memory => "memory_high",
            AlarmKind::LoopLag => "loop_lag",
            AlarmKind::ShardLate => "shard_late",
            AlarmKind::Mailbox => "mailbox_full",
            AlarmKind::Overload => "overload",
            AlarmKind::StorageDown => "storage_down",
            AlarmKind::StorageDegraded => "storage_degraded",
            AlarmKind::StorageSlow => "storage_slow",
            AlarmKind::Certificate => "certificate_expiring",
            AlarmKind::Connections => "connections_high",
            AlarmKind::LogLost => "log_lost",
            AlarmKind::BridgeDown => "bridge_down",
            AlarmKind::BridgeQueue => "bridge_queue",
            AlarmKind::BridgeFailed => "bridge_failed",
            AlarmKind::Clocks => "clocks_apart",
            AlarmKind::ThreadFailed => "thread_failed",
        }
    }

    /// The number of readings in a row that raise the alarm.
    fn needs(self) -> u8 {
        match self {
            AlarmKind::LoopLag | AlarmKind::Mailbox | AlarmKind::StorageSlow => 2,
            // The bridge may just be connecting.
            AlarmKind::BridgeDown => 3,
            _ => 1,
        }
    }
}

/// What the control thread has read.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct AlarmReadings {
    /// Bytes that clients make the broker hold, and their bound; `None` without a bound.
    pub memory: Option<(u64, u64)>,
    /// The longest time that a shard took to answer.
    pub lag: Duration,
    /// The shards that do not answer.
    pub late: Vec<ShardId>,
    /// The number of mails in the fullest mailbox, and its bound.
    pub mailbox: (u64, u64),
    /// The highest level of overload.
    pub overload: u64,
    /// The number of shards that cannot store, and of those that keep in memory what should be
    /// stored.
    pub storage: (u64, u64),
    /// The longest time that something has waited to be durable.
    pub storage_age: Duration,
    /// The listeners, and until when their certificates are valid, in seconds since 1970.
    pub certificates: Vec<(String, u64)>,
    /// The number of connections, and its bound; `None` without a bound.
    pub connections: Option<(u64, u64)>,
    /// The number of lines that the log has lost since the start.
    pub lost_lines: u64,
    /// The bridges.
    pub bridges: Vec<BridgeRow>,
    /// The other nodes of the cluster.
    pub nodes: Vec<NodeRow>,
    /// How often threads beside the shards have panicked since the start, by kind.
    pub panics: Vec<(&'static str, u64)>,
}

/// What a reading says about one alarm.
enum Says {
    Raise(String),
    /// What is the matter, and with whom: for each a name that stays the same, and the words for
    /// it.
    RaiseFor(&'static str, Vec<(String, String)>),
    Nothing,
    Clear,
}

/// Compares a part of `what` with its bound, in percent: raises from `high` on, clears below `low`.
fn share(part: (u64, u64), high: u64, low: u64, what: &str) -> Says {
    let (used, bound) = part;
    let percent = used.saturating_mul(100) / bound.max(1);
    match percent {
        percent if percent >= high => Says::Raise(format!("{percent} % of {what} ({used})")),
        percent if percent < low => Says::Clear,
        _ => Says::Nothing,
    }
}

fn time(reading: Duration, high: u64, low: u64, what: &str) -> Says {
    let millis = reading.as_millis() as u64;
    match millis {
        millis if millis >= high => Says::Raise(format!("{what} {millis} ms")),
        millis if millis < low => Says::Clear,
        _ => Says::Nothing,
    }
}

fn whether(raised: bool, what: impl FnOnce() -> String) -> Says {
    if raised { Says::Raise(what()) } else { Says::Clear }
}

fn with(what: &'static str, names: Vec<String>) -> Says {
    let about: Vec<_> = names.into_iter().map(|name| (name.clone(), name)).collect();
    if about.is_empty() { Says::Clear } else { Says::RaiseFor(what, about) }
}

impl AlarmReadings {
    /// Says whether any bridge is in one of these states.
    fn bridges_in(&self, states: &[&str], what: &'static str) -> Says {
        let is = |row: &&BridgeRow| states.contains(&row.state);
        with(what, self.bridges.iter().filter(is).map(|row| row.name.clone()).collect())
    }

    /// The listeners whose certificates expire soon or have expired.
    fn certificates(&self, now: u64) -> Says {
        let soon = |(_, until): &&(String, u64)| *until < now.saturating_add(CERTIFICATE);
        let mut soon: Vec<_> = self.certificates.iter().filter(soon).collect();
        soon.sort_by_key(|(_, until)| *until);
        let is_over = soon.iter().any(|(_, until)| *until <= now);
        let what = match is_over {
            true => "a certificate has expired",
            false => "a certificate expires within 14 days",
        };
        let told = |(listener, until): &(String, u64)| match until.checked_sub(now) {
            None | Some(0) => (format!("{listener} expired"), format!("{listener} (expired)")),
            Some(left) => (listener.clone(), format!("{listener} ({} days)", left / (24 * 3600))),
        };
        let about: Vec<_> = soon.into_iter().map(told).collect();
        if about.is_empty() { Says::Clear } else { Says::RaiseFor(what, about) }
    }

    /// Compares the clocks of the other nodes that are up with this node's clock.
    fn clocks(&self) -> Says {
        let apart = |node: &&NodeRow| node.ahead.unsigned_abs();
        let farthest = self.nodes.iter().filter(|node| node.up).max_by_key(apart);
        let Some(node) = farthest else { return Says::Clear };
        match node.ahead.unsigned_abs() {
            millis if millis > APART => {
                let way = if node.ahead > 0 { "behind" } else { "ahead" };
                let name = &node.name;
                Says::Raise(format!("the clock of node {name} is {millis} ms {way}; set NTP up"))
            }
            millis if millis < APART / 2 => Says::Clear,
            _ => Says::Nothing,
        }
    }

    fn of(&self, kind: AlarmKind, now: u64, before: &ReadingsBefore) -> Says {
        match kind {
            AlarmKind::Memory => match self.memory {
                Some(memory) => share(memory, 85, 75, "limits.memory"),
                None => Says::Clear,
            },
            AlarmKind::LoopLag => time(self.lag, 250, 100, "a shard takes to answer"),
            AlarmKind::ShardLate => {
                with("no answer from shard", self.late.iter().map(|id| id.0.to_string()).collect())
            }
            AlarmKind::Mailbox => share(self.mailbox, 75, 50, "a mailbox"),
            AlarmKind::Overload => match self.overload {
                0 => Says::Clear,
                1 => Says::Nothing,
                level => Says::Raise(format!("overload level {level}")),
            },
            AlarmKind::StorageDown => whether(self.storage.0 > 0, || {
                format!("{} shards cannot store; see the log", self.storage.0)
            }),
            AlarmKind::StorageDegraded => whether(self.storage.1 > 0, || {
                format!("{} shards keep in memory what should be stored", self.storage.1)
            }),
            AlarmKind::StorageSlow => {
                time(self.storage_age, 500, 100, "what is to be stored waits")
            }
            AlarmKind::Certificate => self.certificates(now),
            AlarmKind::Connections => match self.connections {
                Some(connections) => share(connections, 90, 80, "runtime.max_connections"),
                None => Says::Clear,
            },
            AlarmKind::LogLost => {
                let lost = self.lost_lines.saturating_sub(before.lost_lines);
                whether(lost > 0, || format!("{lost} lines lost; nobody reads the log fast enough"))
            }
            AlarmKind::BridgeDown => self.bridges_in(&["connecting", "waiting"], "not connected"),
            AlarmKind::BridgeFailed => self.bridges_in(&["failed"], "failed, see the log"),
            AlarmKind::Clocks => self.clocks(),
            AlarmKind::ThreadFailed => {
                let recent = before.panics.iter();
                let recent = recent.filter(|(.., at)| now < at.saturating_add(REMEMBERED));
                let what = "a thread has panicked within five minutes, see the log";
                with(what, recent.map(|(kind, ..)| (*kind).to_owned()).collect())
            }
            AlarmKind::BridgeQueue => {
                if let Some(row) = self.bridges.iter().find(|row| row.full) {
                    let why = "is full, and publishers of what it takes wait";
                    return Says::Raise(format!("the buffer of bridge {} {why}", row.name));
                }
                if let Some(row) = self.bridges.iter().find(|row| row.unreadable) {
                    let why = "cannot be read, and what is in it waits";
                    return Says::Raise(format!("the buffer of bridge {} {why}", row.name));
                }
                let filled = |row: &BridgeRow| row.waiting_bytes * 100 / row.waiting_limit.max(1);
                match self.bridges.iter().max_by_key(|row| filled(row)) {
                    Some(row) => {
                        let what = format!("the buffer of bridge {}", row.name);
                        share((row.waiting_bytes, row.waiting_limit), 75, 50, &what)
                    }
                    None => Says::Clear,
                }
            }
        }
    }
}

/// An alarm.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Alarm {
    /// The name of the alarm.
    pub name: &'static str,
    /// What was read when it was raised, or when it was told again.
    pub message: String,
    /// When it was raised, milliseconds since 1970.
    pub activate_at: u64,
    /// When it was cleared, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deactivate_at: Option<u64>,
}

/// The alarms that are raised now, and the last ones that were.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AlarmList {
    /// The alarms that are raised now, the oldest first.
    pub active: Vec<Alarm>,
    /// The alarms that are over, the newest first; at most 100.
    pub past: VecDeque<Alarm>,
}

/// Raises and clears the alarms. Owned by the control thread.
#[derive(Default)]
pub struct Alarms {
    list: AlarmList,
    /// For each alarm, the number of readings in a row that would raise it.
    in_a_row: [u8; AlarmKind::ALL.len()],
    /// For each alarm that is raised, whom it is about, and in how many readings in a row.
    about: [Vec<(String, u8)>; AlarmKind::ALL.len()],
    before: ReadingsBefore,
}

/// What earlier readings said.
#[derive(Default)]
struct ReadingsBefore {
    lost_lines: u64,
    /// Kinds of threads that have panicked: how often, and when that was seen for the last time, in
    /// seconds since 1970.
    panics: Vec<(&'static str, u64, u64)>,
}

impl ReadingsBefore {
    fn note_panics(&mut self, panics: &[(&'static str, u64)], now: u64) {
        for &(kind, count) in panics.iter().filter(|(_, count)| *count > 0) {
            match self.panics.iter_mut().find(|known| known.0 == kind) {
                Some(known) if known.1 == count => {}
                Some(known) => *known = (kind, count, now),
                None => self.panics.push((kind, count, now)),
            }
        }
    }
}

impl Alarms {
    /// The alarms.
    pub fn list(&self) -> &AlarmList {
        &self.list
    }

    /// Evaluates new readings at `now`, in milliseconds since 1970. Returns the alarms that were
    /// raised, and those that were cleared, which have the time of it in `deactivate_at`.
    pub fn look(&mut self, readings: &AlarmReadings, now: u64) -> Vec<Alarm> {
        let mut changed = Vec::new();
        self.before.note_panics(&readings.panics, now / 1000);
        for kind in AlarmKind::ALL {
            let says = readings.of(kind, now / 1000, &self.before);
            let at = self.list.active.iter().position(|alarm| alarm.name == kind.name());
            let row = &mut self.in_a_row[kind as usize];
            let about = &mut self.about[kind as usize];
            let (says, news) = match says {
                Says::RaiseFor(what, names) => {
                    let (names, words): (Vec<_>, Vec<_>) = names.into_iter().unzip();
                    let message = format!("{what}: {}", words.join(", "));
                    (Says::Raise(message), news(about, &names, kind.needs()))
                }
                says => (says, false),
            };
            match (says, at) {
                (Says::Raise(message), None) => {
                    *row += 1;
                    if *row >= kind.needs() {
                        *row = 0;
                        about.iter_mut().for_each(|(_, times)| *times = kind.needs());
                        let (name, deactivate_at) = (kind.name(), None);
                        let alarm = Alarm { name, message, activate_at: now, deactivate_at };
                        self.list.active.push(alarm.clone());
                        changed.push(alarm);
                    }
                }
                (Says::Clear, Some(at)) => {
                    about.clear();
                    let mut alarm = self.list.active.remove(at);
                    alarm.deactivate_at = Some(now);
                    self.list.past.push_front(alarm.clone());
                    self.list.past.truncate(PAST);
                    changed.push(alarm);
                }
                (Says::Raise(message), Some(at)) => {
                    if news && let Some(alarm) = self.list.active.get_mut(at) {
                        alarm.message = message;
                        changed.push(alarm.clone());
                    }
                }
                (Says::Nothing | Says::Clear, _) => {
                    *row = 0;
                    about.clear();
                }
                (Says::RaiseFor(..), _) => {}
            }
        }
        self.before.lost_lines = readings.lost_lines;
        changed
    }
}

/// Notes whom an alarm is about now. True when somebody is among them for the `needs`th time in a
/// row, and was not told of since the alarm was raised.
fn news(about: &mut Vec<(String, u8)>, names: &[String], needs: u8) -> bool {
    let mut any = false;
    // Whoever was told of stays, so that one that comes and goes is told of once.
    about.retain(|(name, times)| *times >= needs || names.contains(name));
    for name in names {
        match about.iter_mut().find(|(known, _)| known == name) {
            None => {
                about.push((name.clone(), 1));
                any |= needs <= 1;
            }
            Some((_, times)) if *times < needs => {
                *times += 1;
                any |= *times == needs;
            }
            Some(_) => {}
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(changed: &[Alarm]) -> Vec<(&'static str, bool)> {
        changed.iter().map(|alarm| (alarm.name, alarm.deactivate_at.is_none())).collect()
    }

    #[test]
    fn an_alarm_is_raised_once_and_cleared_once_however_the_reading_wavers() {
        let mut alarms = Alarms::default();
        let mut seen = Vec::new();
        for (second, used) in [50, 84, 85, 80, 90, 76, 84, 74, 84, 86].into_iter().enumerate() {
            let readings = AlarmReadings { memory: Some((used, 100)), ..AlarmReadings::default() };
            let changed = alarms.look(&readings, second as u64 * 1000);
            seen.extend(names(&changed).into_iter().map(|(name, raised)| (second, name, raised)));
        }
        let name = "memory_high";
        assert_eq!(seen, [(2, name, true), (7, name, false), (9, name, true)]);
        let list = alarms.list();
        assert_eq!((list.active[0].activate_at, list.past[0].deactivate_at), (9000, Some(7000)));
    }

    #[test]
    fn a_panic_is_remembered_for_five_minutes_after_the_last_one() {
        let mut alarms = Alarms::default();
        let mut look = |second: u64, admin| {
            let panics = vec![("admin", admin), ("bridge", 0)];
            names(
                &alarms.look(&AlarmReadings { panics, ..AlarmReadings::default() }, second * 1000),
            )
        };
        assert_eq!(look(0, 0), []);
        assert_eq!(look(2, 1), [("thread_failed", true)]);
        assert_eq!(look(200, 2), [], "raised once");
        assert_eq!(look(499, 2), []);
        assert_eq!(look(500, 2), [("thread_failed", false)]);
    }

    #[test]
    fn one_slow_answer_is_no_alarm() {
        let mut alarms = Alarms::default();
        let mut look = |millis| {
            let lag = Duration::from_millis(millis);
            names(&alarms.look(&AlarmReadings { lag, ..AlarmReadings::default() }, 1))
        };
        assert_eq!(look(400), []);
        assert_eq!(look(200), []);
        assert_eq!(look(400), []);
        assert_eq!(look(300), [("loop_lag", true)]);
        assert_eq!(look(150), []);
        assert_eq!(look(99), [("loop_lag", false)]);
    }

    #[test]
    fn every_alarm_can_be_raised_and_cleared() {
        let now = 1_000_000_000;
        let bad = AlarmReadings {
            memory: Some((99, 100)),
            lag: Duration::from_secs(1),
            late: vec![ShardId(1)],
            mailbox: (31, 32),
            overload: 3,
            storage: (1, 1),
            storage_age: Duration::from_secs(2),
            certificates: vec![("b".into(), u64::MAX), ("a".into(), now / 1000 + 60)],
            connections: Some((95, 100)),
            lost_lines: 7,
            bridges: vec![
                BridgeRow { name: "off".into(), state: "idle", ..BridgeRow::default() },
                BridgeRow { name: "c".into(), state: "failed", ..BridgeRow::default() },
                BridgeRow {
                    name: "b".into(),
                    state: "waiting",
                    waiting_bytes: 80,
                    waiting_limit: 100,
                    ..BridgeRow::default()
                },
            ],
            panics: vec![("admin", 1)],
            nodes: vec![
                NodeRow { name: "gone".into(), ahead: -90_000, ..NodeRow::default() },
                NodeRow { name: "n".into(), up: true, ahead: -5001, ..NodeRow::default() },
            ],
        };
        let mut alarms = Alarms::default();
        let mut raised = names(&alarms.look(&bad, now));
        raised.extend(names(&alarms.look(&bad, now)));
        raised.extend(names(&alarms.look(&bad, now)));
        let told = |name: &str| {
            let list = alarms.list();
            list.active.iter().find(|alarm| alarm.name == name).map(|alarm| alarm.message.clone())
        };
        assert_eq!(told("bridge_down").as_deref(), Some("not connected: b"));
        assert_eq!(told("bridge_failed").as_deref(), Some("failed, see the log: c"));
        assert_eq!(told("bridge_queue").as_deref(), Some("80 % of the buffer of bridge b (80)"));
        let what = "the clock of node n is 5001 ms ahead; set NTP up";
        assert_eq!(told("clocks_apart").as_deref(), Some(what));
        assert_eq!(raised.len(), AlarmKind::ALL.len() + 1, "{raised:?}");
        assert!(raised.contains(&("log_lost", false)), "no further lines were lost");
        let good = AlarmReadings { lost_lines: 7, ..AlarmReadings::default() };
        let later = now + REMEMBERED * 1000;
        assert_eq!(alarms.look(&good, later).len(), AlarmKind::ALL.len() - 1);
        assert!(alarms.list().active.is_empty());
        let mut all: Vec<_> = AlarmKind::ALL.map(AlarmKind::name).to_vec();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), AlarmKind::ALL.len());
    }

    #[test]
    fn another_bridge_or_shard_is_told_while_the_alarm_is_up() {
        let mut alarms = Alarms::default();
        let mut look = |failed: &[&str], waiting: &[&str]| -> Vec<String> {
            let row = |name: &str, state| BridgeRow {
                name: name.to_owned(),
                state,
                ..BridgeRow::default()
            };
            let mut bridges: Vec<_> = failed.iter().map(|name| row(name, "failed")).collect();
            bridges.extend(waiting.iter().map(|name| row(name, "waiting")));
            let changed = alarms.look(&AlarmReadings { bridges, ..AlarmReadings::default() }, 1);
            changed.into_iter().filter(|a| a.deactivate_at.is_none()).map(|a| a.message).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(look(&["a"], &[]), ["failed, see the log: a"]);
        assert_eq!(look(&["a"], &[]), none);
        assert_eq!(look(&["a", "b"], &[]), ["failed, see the log: a, b"]);
        assert_eq!(look(&["a"], &[]), none);
        assert_eq!(look(&["a", "b"], &[]), none, "one that comes and goes is told of once");
        assert_eq!(look(&[], &[]), none);
        assert_eq!(look(&["b"], &[]), ["failed, see the log: b"], "raised anew");
        // One that is just connecting is not told of.
        assert_eq!((look(&["b"], &["c"]), look(&["b"], &["c"])), (vec![], vec![]));
        assert_eq!(look(&["b"], &["c"]), ["not connected: c"]);
        assert_eq!((look(&["b"], &["c", "d"]), look(&["b"], &["c"])), (vec![], vec![]));
        assert_eq!((look(&["b"], &["c", "d"]), look(&["b"], &["c", "d"])), (vec![], vec![]));
        assert_eq!(look(&["b"], &["c", "d"]), ["not connected: c, d"]);
    }

    #[test]
    fn a_certificate_that_has_expired_is_told_as_expired() {
        let day = 24 * 3600;
        let mut alarms = Alarms::default();
        let mut look = |now: u64| -> Vec<String> {
            let certificates = vec![("a".to_owned(), 100 * day), ("b".to_owned(), 110 * day)];
            let readings = AlarmReadings { certificates, ..AlarmReadings::default() };
            alarms.look(&readings, now * day * 1000).into_iter().map(|a| a.message).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(look(80), none);
        assert_eq!(look(90), ["a certificate expires within 14 days: a (10 days)"]);
        assert_eq!(look(90), none);
        let both = "a certificate expires within 14 days: a (2 days), b (12 days)";
        assert_eq!((look(98), look(99)), (vec![both.to_owned()], vec![]));
        let over = "a certificate has expired: a (expired), b (10 days)";
        assert_eq!(look(100), [over]);
        assert_eq!(look(100), none);
    }

    #[test]
    fn past_alarms_are_bounded() {
        let mut alarms = Alarms::default();
        for round in 0..2 * PAST as u64 {
            let late = if round % 2 == 0 { vec![ShardId(0)] } else { Vec::new() };
            alarms.look(&AlarmReadings { late, ..AlarmReadings::default() }, round);
        }
        assert_eq!(alarms.list().past.len(), PAST);
    }
}
