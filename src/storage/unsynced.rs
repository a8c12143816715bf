//! Batches that are written and not synced yet, with `durability: async`. They survive the end of
//! the process, so clients are told of them; a power cut may take them. Their records stay in
//! memory until a sync has succeeded: after one that failed they are written elsewhere.
//!
//! Each batch says how many before it were not synced when it was written, so that recovery knows
//! damage from what a power cut has torn. When the log comes to rest, nothing would say that of the
//! last ones: then a *mark* follows, a batch without content, which need not be synced.

use super::StorageCommand;
use super::failing::Health;
use super::log::{Flight, Log, Waiting};
use super::record::Record;
use crate::mutant::Mutant;
use std::collections::VecDeque;

/// A batch that is written.
struct Written {
    batch: u64,
    payload: Vec<u8>,
    /// Where: in that segment, from that byte on.
    segment: u32,
    offset: u64,
    /// When, in microseconds.
    since: u64,
}

/// Those of a log, in order.
#[derive(Default)]
pub(super) struct Unsynced {
    batches: VecDeque<Written>,
    bytes: usize,
    /// A sync up to that batch is under way.
    syncing: Option<u64>,
    /// The batch that is the newest mark; 0 for none.
    mark: u64,
    /// The last batch of which a later one that is written says that it is durable.
    told: u64,
}

impl Unsynced {
    /// With what recovery found, up to that batch.
    pub(super) fn after(found: u64) -> Unsynced {
        Unsynced { told: found, ..Unsynced::default() }
    }

    /// True when everything that is written is synced.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// True when everything that is written is synced, but maybe a mark.
    pub(super) fn is_at_rest(&self) -> bool {
        self.since().is_none()
    }

    /// A batch is written that says that those up to `durable` are durable.
    pub(super) fn tell(&mut self, durable: u64) {
        self.told = self.told.max(durable);
    }

    /// Bytes of records.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest was written, in microseconds; but for marks.
    pub(super) fn since(&self) -> Option<u64> {
        let first = self.batches.iter().find(|written| written.batch != self.mark);
        first.map(|first| first.since)
    }

    /// The segment of the oldest.
    pub(super) fn first_segment(&self) -> Option<u32> {
        self.batches.front().map(|first| first.segment)
    }

    /// True while a sync is under way.
    pub(super) fn is_syncing(&self) -> bool {
        self.syncing.is_some()
    }

    /// Everything is synced.
    pub(super) fn clear(&mut self) {
        let (mark, told) = (self.mark, self.told);
        *self = Unsynced { mark, told, ..Unsynced::default() };
    }

    /// Everything up to that batch is synced.
    fn take_up_to(&mut self, batch: u64) {
        while let Some(first) = self.batches.pop_front_if(|first| first.batch <= batch) {
            self.bytes -= first.payload.len();
        }
    }
}

impl Log {
    /// Whether a mark is due: the log is at rest, and nothing says yet that its last batch is
    /// durable.
    pub(super) fn wants_mark(&self) -> bool {
        let Unsynced { batches, mark, told, .. } = &self.unsynced;
        let rests = self.filling.is_empty() && self.waiting.is_empty() && self.in_flight.is_none();
        let asked = self.bounds.interval.is_some() && !Mutant::StorageMarkForgotten.is_on();
        // A mark needs none, and what comes after it would say more.
        asked && rests && batches.is_empty() && self.durable > *told && self.durable != *mark
    }

    /// Begins the batch that is the next mark.
    pub(super) fn begin_mark(&mut self, now: u64) {
        self.unsynced.mark = self.append(&Record::Nothing, now);
    }

    /// Has what is written synced when that is due.
    pub(super) fn sync(&mut self, now: u64) {
        let Some(last) = self.unsynced.batches.back() else { return };
        let waits = self.unsynced.is_syncing()
            || self.health != Health::Up
            || !self.waiting.is_empty()
            || self.in_flight.as_ref().is_some_and(|flight| flight.sync);
        let batch = last.batch;
        let much = self.unsynced.bytes >= self.bounds.backlog / 4;
        let due = self.sync_due().is_some_and(|due| now >= due);
        // What makes room must be durable first.
        let retires = self.retiring.is_some();
        if !waits && (due || much || retires) && !Mutant::StorageNeverSynced.is_on() {
            self.unsynced.syncing = Some(batch);
            self.commands.push(StorageCommand::Sync { batch });
        }
    }

    /// When the next sync is due.
    pub(super) fn sync_due(&self) -> Option<u64> {
        let since = self.unsynced.since().filter(|_| !self.unsynced.is_syncing())?;
        Some(since.saturating_add(self.bounds.interval?))
    }

    pub(super) fn is_written(&mut self, batch: u64, payload: Vec<u8>, now: u64) {
        let Some(flight) = self.in_flight.take_if(|flight| flight.stamp.batch == batch) else {
            return;
        };
        let Flight { stamp, since, doomed, .. } = flight;
        if doomed {
            self.put_in_front(Waiting { batch, payload, since });
            return;
        }
        let offset = self.count_written(&flight);
        self.written = self.written.max(batch);
        self.unsynced.bytes += payload.len();
        let segment = stamp.segment;
        self.unsynced.batches.push_back(Written { batch, payload, segment, offset, since: now });
    }

    pub(super) fn is_synced(&mut self, batch: u64) {
        if self.unsynced.syncing.take_if(|syncing| *syncing == batch).is_some() {
            self.unsynced.take_up_to(batch);
            self.durable = self.durable.max(batch);
        }
    }

    pub(super) fn is_unsynced(&mut self, batch: u64, why: &str, now: u64) {
        if self.unsynced.syncing.take_if(|syncing| *syncing == batch).is_none() {
            return;
        }
        self.figures.failures += 1;
        let segment = self.segments.back().map_or(0, |last| last.number);
        self.trouble(format!("a sync of segment {segment} failed: {why}"));
        match self.in_flight.take() {
            Some(Flight { stamp, payload: Some(payload), since, .. }) => {
                self.put_in_front(Waiting { batch: stamp.batch, payload, since });
            }
            flight => self.in_flight = flight.map(|flight| Flight { doomed: true, ..flight }),
        }
        self.write_again();
        self.worsen(now);
    }

    /// What is not synced is written again, from a fresh segment on: a failed sync may have lost
    /// any of it, and another one could not tell.
    pub(super) fn write_again(&mut self) {
        self.sealed = true;
        let mut batches = std::mem::take(&mut self.unsynced.batches);
        self.unsynced.clear();
        let Some(first) = batches.front() else { return };
        let (batch, segment, offset) = (first.batch, first.segment, first.offset);
        self.places.cut(batch);
        while let Some(last) = self.segments.pop_back_if(|last| last.first >= batch) {
            self.failed.push(last.number);
            self.junk.push(last.number);
        }
        if let Some(last) = self.segments.back_mut().filter(|last| last.number == segment) {
            last.end = offset;
            self.failed.push(segment);
        }
        if Mutant::StorageUnsyncedLost.is_on() {
            return;
        }
        while let Some(Written { batch, payload, since, .. }) = batches.pop_back() {
            self.put_in_front(Waiting { batch, payload, since });
        }
    }

    /// Puts a batch where it belongs among those that wait.
    pub(super) fn put_in_front(&mut self, waiting: Waiting) {
        let at = self.waiting.partition_point(|other| other.batch < waiting.batch);
        self.waiting.insert(at, waiting);
    }
}
