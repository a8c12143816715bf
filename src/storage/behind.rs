//! How far a log is behind: the bytes that wait to be durable, and for how long the oldest of them
//! have waited.

use super::log::Log;

impl Log {
    /// True when as many bytes as may wait to be durable do, or have waited for as long as they
    /// may.
    pub fn is_behind(&self, now: u64) -> bool {
        self.backlog() >= self.bounds.backlog || self.age(now) >= self.bounds.age
    }

    /// True when half as many bytes wait to be durable, or have waited for half as long.
    pub fn is_half_behind(&self, now: u64) -> bool {
        self.backlog() >= self.bounds.backlog / 2 || self.age(now) >= self.bounds.age / 2
    }

    /// Bytes that wait to be durable.
    pub fn backlog(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(|waiting| waiting.payload.len()).sum();
        let flying = self.in_flight.as_ref().map_or(0, |flight| flight.bytes);
        self.filling.len() + flying + waiting + self.unsynced.bytes()
    }

    /// Microseconds that the oldest of these bytes have waited. Bytes that may be synced later
    /// count from the time their sync is due.
    pub fn age(&self, now: u64) -> u64 {
        // Asked for each message that is to be stored.
        let mut since = if self.filling.is_empty() { now } else { self.filling_since };
        if let Some(flight) = &self.in_flight {
            since = since.min(flight.since);
        }
        if let Some(waiting) = self.waiting.front() {
            since = since.min(waiting.since);
        }
        if let Some(written) = self.unsynced.since() {
            since = since.min(written.saturating_add(self.bounds.interval.unwrap_or(0)));
        }
        now.saturating_sub(since)
    }
}
