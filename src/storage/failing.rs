//! A disk that fails: what the log tries then, and what clients may be told meanwhile.

use super::log::{Log, Waiting};
use crate::mutant::Mutant;

/// The most microseconds between tries while storage is down: each takes a fresh segment.
const LONGEST_RETRY: u64 = 30_000_000;

/// Whether batches become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Health {
    Up,
    /// The last try failed, and the next has its own fresh segment.
    Failed,
    /// Two tries failed one after the other; the next one comes then.
    Down(u64),
}

impl Log {
    /// True while batches do not become durable.
    pub fn is_down(&self) -> bool {
        matches!(self.health, Health::Down(_))
    }

    /// Whether new values are refused, and not only late: the disk fails or has no room.
    pub fn refuses(&self, now: u64) -> bool {
        // Whether it fails for good, and is degraded then, shows at once.
        let open = self.health == Health::Failed && self.may_degrade();
        !self.degraded && !open && (self.is_down() || self.has_no_room(now))
    }

    /// Whether clients may be told of what is in memory only, should the disk fail.
    fn may_degrade(&self) -> bool {
        self.backlog() < self.bounds.degraded && !Mutant::StorageNeverDegraded.is_on()
    }

    /// Whether they are told of it from `now` on.
    pub(super) fn judge(&mut self, now: u64) {
        self.degraded =
            self.may_degrade() && (self.is_down() || self.is_behind(now) && !self.has_no_room(now));
    }

    /// True while clients are told of what is in memory only, because the disk fails or hangs.
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
            self.put_in_front(Waiting { batch, payload, since });
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
        // A fresh segment that took nothing is of no use any more.
        if let Some(last) = self.segments.pop_back_if(|last| last.first == batch) {
            self.junk.push(last.number);
        }
        self.trouble = Some(format!("a commit to segment {segment} failed: {why}"));
        if !self.unsynced.is_empty()
            && let Some(mut flight) = self.in_flight.take()
            && let Some(payload) = flight.payload.take()
        {
            self.put_in_front(Waiting { batch, payload, since });
            self.write_again();
        }
        self.worsen(now);
    }

    /// A try to write has failed: the next one comes at once, or when some time has passed.
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
