//! Batches that are written and not synced yet, with `durability: async`. They survive the end of
//! the process, so their records are acknowledged to clients, but a power cut may lose them. Their
//! records stay in memory until a sync has succeeded. After a sync that failed they are written
//! elsewhere.
//!
//! Each batch records how many batches before it were not synced when it was written. By that,
//! recovery tells damage from what a power cut has torn. When the log comes to rest, no later batch
//! would record that the last ones are durable. So a *mark* follows, a batch without content, which
//! does not have to be synced itself.

use super::StorageCommand;
use super::failing::Health;
use super::log::{Flight, Log, WaitingBatch};
use super::record::Record;
use crate::mutant::Mutant;
use std::collections::VecDeque;

/// A batch that is written and not synced.
struct UnsyncedBatch {
    batch: u64,
    payload: Vec<u8>,
    /// Its segment, and its first byte there.
    segment: u32,
    offset: u64,
    /// When it was written, in microseconds.
    since: u64,
}

/// The unsynced batches of a log, in order.
#[derive(Default)]
pub(super) struct Unsynced {
    batches: VecDeque<UnsyncedBatch>,
    bytes: usize,
    /// The batch up to which a sync is under way.
    syncing: Option<u64>,
    /// The number of the newest mark; 0 for none.
    mark: u64,
    /// The last batch that a later written batch records as durable.
    told: u64,
}

impl Unsynced {
    /// No unsynced batch, after those up to `found` that recovery has found.
    pub(super) fn after(found: u64) -> Unsynced {
        Unsynced { told: found, ..Unsynced::default() }
    }

    /// True when everything that is written is synced.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// True when everything that is written is synced, except perhaps a mark.
    pub(super) fn is_at_rest(&self) -> bool {
        self.since().is_none()
    }

    /// Notes that a written batch records those up to `durable` as durable.
    pub(super) fn tell(&mut self, durable: u64) {
        self.told = self.told.max(durable);
    }

    /// Bytes of records in unsynced batches.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest unsynced batch other than a mark was written, in microseconds.
    pub(super) fn since(&self) -> Option<u64> {
        let first = self.batches.iter().find(|written| written.batch != self.mark);
        first.map(|first| first.since)
    }

    /// The segment of the oldest unsynced batch.
    pub(super) fn first_segment(&self) -> Option<u32> {
        self.batches.front().map(|first| first.segment)
    }

    /// True while a sync is under way.
    pub(super) fn is_syncing(&self) -> bool {
        self.syncing.is_some()
    }

    /// Notes that everything is synced.
    pub(super) fn clear(&mut self) {
        let (mark, told) = (self.mark, self.told);
        *self = Unsynced { mark, told, ..Unsynced::default() };
    }

    /// Notes that everything up to this batch is synced.
    fn take_up_to(&mut self, batch: u64) {
        while let Some(first) = self.batches.pop_front_if(|first| first.batch <= batch) {
            self.bytes -= first.payload.len();
        }
    }
}

impl Log {
    /// Whether a mark is due: the log is at rest, and no batch records yet that its last one is
    /// durable.
    pub(super) fn wants_mark(&self) -> bool {
        let Unsynced { batches, mark, told, .. } = &self.unsynced;
        let rests = self.filling.is_empty() && self.waiting.is_empty() && self.in_flight.is_none();
        let asked = self.bounds.interval.is_some() && !Mutant::StorageMarkForgotten.is_on();
        // A mark needs no other mark after it, and any later batch records more.
        asked && rests && batches.is_empty() && self.durable > *told && self.durable != *mark
    }

    /// Begins the batch that becomes the next mark.
    pub(super) fn begin_mark(&mut self, now: u64) {
        self.unsynced.mark = self.append(&Record::Nothing, now);
    }

    /// Issues the command to sync the written batches when that is due.
    pub(super) fn sync(&mut self, now: u64) {
        let Some(last) = self.unsynced.batches.back() else { return };
        let waits = self.unsynced.is_syncing()
            || self.health != Health::Up
            || !self.waiting.is_empty()
            || self.in_flight.as_ref().is_some_and(|flight| flight.sync);
        let batch = last.batch;
        let much = self.unsynced.bytes >= self.bounds.backlog / 4;
        let due = self.sync_due().is_some_and(|due| now >= due);
        // The copies that cleaning has made must be durable before it can drop their segment.
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
            self.put_in_front(WaitingBatch { batch, payload, since });
            return;
        }
        let offset = self.count_written(&flight);
        self.written = self.written.max(batch);
        self.unsynced.bytes += payload.len();
        let segment = stamp.segment;
        self.unsynced.batches.push_back(UnsyncedBatch {
            batch,
            payload,
            segment,
            offset,
            since: now,
        });
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
                self.put_in_front(WaitingBatch { batch: stamp.batch, payload, since });
            }
            flight => self.in_flight = flight.map(|flight| Flight { doomed: true, ..flight }),
        }
        self.write_again();
        self.worsen(now);
    }

    /// Has the unsynced batches written again, from a fresh segment on: a failed sync may have lost
    /// any of them, and another sync could not tell.
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
        while let Some(UnsyncedBatch { batch, payload, since, .. }) = batches.pop_back() {
            self.put_in_front(WaitingBatch { batch, payload, since });
        }
    }

    /// Inserts a batch in its place among those that wait.
    pub(super) fn put_in_front(&mut self, waiting: WaitingBatch) {
        let at = self.waiting.partition_point(|other| other.batch < waiting.batch);
        self.waiting.insert(at, waiting);
    }
}
