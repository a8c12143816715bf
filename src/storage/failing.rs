//! The log on a disk that fails: what it tries, and whether clients get acknowledgements meanwhile.

use super::log::{Log, WaitingBatch};
use crate::mutant::Mutant;

/// Most microseconds between two tries while storage is down. Each try takes a fresh segment.
const LONGEST_RETRY: u64 = 30_000_000;

/// Whether batches become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Health {
    Up,
    /// The last try failed, and the next one, in a fresh segment, is under way.
    Failed,
    /// Two tries in a row have failed; the next one is made at this time, in microseconds.
    Down(u64),
}

impl Log {
    /// True while batches cannot become durable.
    pub fn is_down(&self) -> bool {
        matches!(self.health, Health::Down(_))
    }

    /// Whether new values are refused, rather than delayed: the disk fails or has no room.
    pub fn refuses(&self, now: u64) -> bool {
        // After a first failure the second try shows soon whether the disk fails for good. If so,
        // the log is degraded instead of refusing.
        let open = self.health == Health::Failed && self.may_degrade();
        !self.degraded && !open && (self.is_down() || self.has_no_room(now))
    }

    /// Whether records that are only in memory may be acknowledged, should the disk fail.
    fn may_degrade(&self) -> bool {
        self.backlog() < self.bounds.degraded && !Mutant::StorageNeverDegraded.is_on()
    }

    /// Decides whether records that are only in memory are acknowledged from `now` on.
    pub(super) fn judge(&mut self, now: u64) {
        self.degraded =
            self.may_degrade() && (self.is_down() || self.is_behind(now) && !self.has_no_room(now));
    }

    /// True while records that are only in memory are acknowledged, because the disk fails or
    /// hangs.
    pub fn is_degraded(&self) -> bool {
        self.degraded
    }

    pub(super) fn failed(&mut self, batch: u64, payload: Vec<u8>, why: &str, now: u64) {
        let Some(flight) = self.in_flight.as_mut().filter(|f| f.stamp.batch == batch) else {
            return;
        };
        let (segment, since) = (flight.stamp.segment, flight.since);
        if flight.doomed {
            self.in_flight = None;
            self.put_in_front(WaitingBatch { batch, payload, since });
            return;
        }
        flight.payload = Some(payload);
        self.figures.failures += 1;
        self.failed.push(segment);
        if Mutant::StorageSyncsAgain.is_on() {
            self.launch();
            return;
        }
        self.sealed = true;
        // A fresh segment without a batch is of no use any more.
        if let Some(last) = self.segments.pop_back_if(|last| last.first == batch) {
            self.junk.push(last.number);
        }
        self.trouble = Some(format!("a commit to segment {segment} failed: {why}"));
        if !self.unsynced.is_empty()
            && let Some(mut flight) = self.in_flight.take()
            && let Some(payload) = flight.payload.take()
        {
            self.put_in_front(WaitingBatch { batch, payload, since });
            self.write_again();
        }
        self.worsen(now);
    }

    /// Notes that a try to write has failed. After the first failure the next try comes at once,
    /// after further ones when some time has passed.
    pub(super) fn worsen(&mut self, now: u64) {
        if self.health == Health::Up {
            self.health = Health::Failed;
            self.launch();
        } else {
            self.health = Health::Down(now + self.patience);
            self.patience = (self.patience * 2).min(LONGEST_RETRY);
        }
    }
}
