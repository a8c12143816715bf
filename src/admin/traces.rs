//! The traces that operators have asked for, and their lines. A task of the server fetches the
//! lines from the shards while a trace runs. Owned by the server that has the API; the traces end
//! with it.
//!
//! Bounds: at most [`TRACES`] traces, each with its newest [`KEPT`] bytes, and each ends by itself.
//! A shard keeps at most 4,096 lines or 1 MiB between two fetches, and counts the lines it has to
//! drop.

use super::api::Tell;
use super::asking::ShardQuestions;
use crate::shard::{Shard, TRACES, TraceLine, TraceRule, TraceSubject};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::sleep;

/// The bytes of lines that a trace keeps.
const KEPT: usize = 4 << 20;
/// The time between two fetches.
const EACH: Duration = Duration::from_millis(100);

/// A trace.
pub(super) struct Trace {
    pub name: String,
    pub rule: TraceRule,
    pub began: SystemTime,
    pub ends: SystemTime,
    pub running: bool,
    /// The number of lines for which there was no room on a shard. A shard cannot tell to which
    /// trace they belonged.
    pub lost: u64,
    /// The number of lines so far.
    pub count: u64,
    /// The lines that are kept, each with the position where it begins.
    lines: VecDeque<(u64, Box<str>)>,
    /// The number of bytes so far, including those that are no longer kept.
    position: u64,
}

impl Trace {
    /// The number of bytes so far, including those that are no longer kept.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    fn add(&mut self, line: Box<str>) {
        self.count += 1;
        let begins = self.position;
        self.position += line.len() as u64;
        self.lines.push_back((begins, line));
        while self.lines.front().is_some_and(|(at, _)| self.position - at > KEPT as u64) {
            self.lines.pop_front();
        }
    }

    /// Whole lines from a position on, and the position after them. There is at least one line if
    /// there is any, and no further line that would exceed `most` bytes. Lines that are no longer
    /// kept are passed over.
    pub(super) fn read(&self, from: u64, most: usize) -> (String, u64) {
        let first = self.lines.partition_point(|(at, _)| *at < from);
        let mut text = String::new();
        for (at, line) in self.lines.range(first..) {
            if !text.is_empty() && text.len() + line.len() > most {
                return (text, *at);
            }
            text.push_str(line);
        }
        (text, self.position)
    }
}

/// A trace that an operator wants.
pub(super) struct WantedTrace {
    pub name: String,
    pub subject: TraceSubject,
    pub payload: bool,
    pub lasts: Duration,
}

/// Why a trace was not begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotBegun {
    /// There is a trace of that name already.
    Known,
    /// There are [`TRACES`] traces already.
    TooMany,
}

/// All traces.
#[derive(Default)]
pub(super) struct TraceStore {
    all: Mutex<Vec<Trace>>,
    changed: Notify,
    /// Notified when lines have come or a trace has ended.
    news: Notify,
    /// The fetch that is under way. It is one at a time, so that no lines come twice or are lost.
    fetching: AsyncMutex<ShardQuestions<FetchedLines>>,
}

/// The lines of a shard, and how many it had to drop.
type FetchedLines = (VecDeque<TraceLine>, u64);

impl TraceStore {
    /// All traces, for reading.
    pub(super) fn all(&self) -> MutexGuard<'_, Vec<Trace>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same traces, for another thread than that which has panicked. None if that one has kept
    /// the lock.
    pub(super) fn rescued(&self) -> TraceStore {
        let all = self.all.try_lock().map(|mut all| std::mem::take(&mut *all));
        TraceStore { all: Mutex::new(all.unwrap_or_default()), ..TraceStore::default() }
    }

    /// Waits until lines have come or a trace has ended.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Begins a trace. The caller has to tell the shards ([`TraceStore::rules`]).
    pub(super) fn begin(&self, wanted: WantedTrace) -> Result<(), NotBegun> {
        let mut all = self.all();
        if all.iter().any(|trace| trace.name == wanted.name) {
            return Err(NotBegun::Known);
        }
        let free = |number: &u8| all.iter().all(|trace| trace.rule.number != *number);
        let number = (0..TRACES as u8).find(free).ok_or(NotBegun::TooMany)?;
        let began = SystemTime::now();
        all.push(Trace {
            name: wanted.name,
            rule: TraceRule { number, subject: wanted.subject, payload: wanted.payload },
            began,
            ends: began + wanted.lasts,
            running: true,
            lost: 0,
            count: 0,
            lines: VecDeque::new(),
            position: 0,
        });
        drop(all);
        self.changed.notify_one();
        Ok(())
    }

    /// Ends traces. They can be read until they are removed. False when none of them ran.
    pub(super) fn stop(&self, which: impl Fn(&Trace) -> bool) -> bool {
        let mut any = false;
        for trace in self.all().iter_mut().filter(|trace| trace.running && which(trace)) {
            (trace.running, any) = (false, true);
        }
        self.news.notify_waiters();
        any
    }

    /// Removes traces. False when there was none of them.
    pub(super) fn remove(&self, which: impl Fn(&Trace) -> bool) -> bool {
        let mut all = self.all();
        let before = all.len();
        all.retain(|trace| !which(trace));
        let gone = all.len() < before;
        drop(all);
        self.news.notify_waiters();
        gone
    }

    /// What the shards are to trace.
    pub(super) fn rules(&self) -> Vec<TraceRule> {
        self.all().iter().filter(|trace| trace.running).map(|trace| trace.rule.clone()).collect()
    }

    /// Fetches lines for ever, whenever a trace runs. `zero` is the wall-clock time at the zero of
    /// the shards' clock.
    pub(super) async fn tend(self: Arc<Self>, shards: Vec<Tell>, zero: SystemTime) {
        // The shards may still trace for a server that ran before this one.
        self.tell(&shards);
        loop {
            while self.all().iter().any(|trace| trace.running) {
                sleep(EACH).await;
                self.fetch(&shards, zero).await;
                let now = SystemTime::now();
                if self.stop(|trace| trace.ends <= now) {
                    self.tell(&shards);
                }
            }
            self.changed.notified().await;
        }
    }

    /// Has the shards trace what the running traces want.
    pub(super) fn tell(&self, shards: &[Tell]) {
        for tell in shards {
            let rules = self.rules();
            tell(Box::new(move |shard: &mut Shard| shard.trace(rules)));
        }
    }

    /// Fetches the lines that have come since the last fetch. Returns the first shard that is late,
    /// if any is. Its lines come with the next fetch.
    pub(super) async fn fetch(&self, shards: &[Tell], zero: SystemTime) -> Option<usize> {
        let (mut lines, mut lost, mut late) = (Vec::new(), 0, None);
        let mut fetching = self.fetching.lock().await;
        let answers = fetching.ask(shards, Shard::take_traced).await;
        for (shard, answer) in answers.into_iter().enumerate() {
            match answer {
                Some((more, gone)) => {
                    lines.extend(more.into_iter().map(|line| (line.micros, shard, line)));
                    lost += gone;
                }
                None => late = late.or(Some(shard)),
            }
        }
        // Sorts by time; the lines of one shard are in order already.
        lines.sort_by_key(|(micros, ..)| *micros);
        if lines.is_empty() && lost == 0 {
            return late;
        }
        let mut all = self.all();
        for trace in all.iter_mut().filter(|trace| trace.running) {
            trace.lost += lost;
        }
        for (_, shard, line) in &lines {
            let Some(text) = shown(zero, *shard, line) else { continue };
            let of = |trace: &&mut Trace| line.traces & 1 << trace.rule.number != 0;
            all.iter_mut().filter(of).for_each(|trace| trace.add(text.clone()));
        }
        drop(all);
        self.news.notify_waiters();
        late
    }
}

/// Writes a line as JSON, with a line feed.
fn shown(zero: SystemTime, shard: usize, line: &TraceLine) -> Option<Box<str>> {
    #[derive(Serialize)]
    struct ShownLine<'a> {
        time: String,
        shard: usize,
        #[serde(flatten)]
        line: &'a TraceLine,
    }
    let at = OffsetDateTime::from(zero.checked_add(Duration::from_micros(line.micros))?);
    let time = at.format(&Rfc3339).ok()?;
    let mut text = serde_json::to_string(&ShownLine { time, shard, line }).ok()?;
    text.push('\n');
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str) -> WantedTrace {
        let subject = TraceSubject::Client("c".into());
        let lasts = Duration::from_secs(60);
        WantedTrace { name: name.into(), subject, payload: false, lasts }
    }

    #[test]
    fn traces_have_names_and_numbers_of_their_own_up_to_a_bound() {
        let traces = TraceStore::default();
        for at in 0..TRACES {
            assert_eq!(traces.begin(wanted(&at.to_string())), Ok(()));
        }
        assert_eq!(traces.begin(wanted("more")), Err(NotBegun::TooMany));
        assert_eq!(traces.begin(wanted("3")), Err(NotBegun::Known));
        assert!(traces.remove(|trace| trace.name == "3"));
        assert_eq!(traces.begin(wanted("new")), Ok(()));
        let mut numbers: Vec<u8> = traces.rules().iter().map(|rule| rule.number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(traces.stop(|trace| trace.name == "0") && !traces.stop(|t| t.name == "0"));
        assert_eq!(traces.rules().len(), TRACES - 1);
        assert_eq!(traces.all().len(), TRACES);
    }

    #[test]
    fn the_newest_lines_are_kept_and_read_by_position() {
        let traces = TraceStore::default();
        traces.begin(wanted("t")).unwrap();
        let mut all = traces.all();
        let trace = &mut all[0];
        let line = |n: usize| format!("{n:099}\n").into_boxed_str();
        (0..10).for_each(|n| trace.add(line(n)));
        let (text, next) = trace.read(0, 250);
        assert_eq!((text.len(), next), (200, 200));
        assert_eq!(trace.read(next, 1).0, &*line(2), "at least one");
        assert_eq!(trace.read(900, 5000), (line(9).into_string(), 1000));
        assert_eq!(trace.read(1000, 5000), (String::new(), 1000));
        (10..50_000).for_each(|n| trace.add(line(n)));
        assert_eq!((trace.count, trace.position()), (50_000, 5_000_000));
        let (text, _) = trace.read(0, 100);
        assert_eq!(text, &*line((5_000_000 - KEPT).div_ceil(100)), "what is gone is passed over");
    }

    #[test]
    fn a_line_is_json_with_the_time_of_day() {
        let line = TraceLine {
            traces: 1,
            micros: 1_500_000,
            event: "received",
            clientid: "c".into(),
            peer: None,
            what: crate::shard::Detail { packet: Some("PINGREQ"), ..Default::default() },
        };
        let text = shown(SystemTime::UNIX_EPOCH, 3, &line).unwrap();
        let wanted = "{\"time\":\"1970-01-01T00:00:01.5Z\",\"shard\":3,\"event\":\"received\",\
                      \"clientid\":\"c\",\"packet\":\"PINGREQ\"}\n";
        assert_eq!(&*text, wanted);
    }
}
