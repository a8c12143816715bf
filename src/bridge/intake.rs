//! What every bridge's thread has: the cores' rings, what waits, figures, and the order to end.
#![allow(clippy::disallowed_methods, reason = "on the bridge's own thread, never on a core's")]

use super::buffer::Buffer;
use super::feed::Feed;
use super::figures::{Figures, Lost};
use super::numbers::Numbers;
use super::orders::Orders;
use crate::link_record::{LinkOutcome, LinkRecord, Waiter};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// The near side of a bridge.
pub struct Intake {
    /// What waits.
    pub buffer: Buffer,
    /// The cores' rings.
    pub feeds: Vec<Feed>,
    /// What the bridge counts.
    pub figures: Arc<Figures>,
    /// By which its thread is woken.
    pub bell: Arc<Notify>,
    /// Whether it is to end.
    pub orders: Arc<Orders>,
    /// What is done when there is no room.
    pub waiting: Waiting,
    /// Which filters records name.
    pub numbers: Numbers,
}

/// A buffer without room, whose publishers wait.
#[derive(Default)]
pub struct Waiting {
    /// The bytes that were in it when something last found no room.
    full: Option<usize>,
    /// The core whose messages are taken first.
    first: usize,
    /// When a disk that could not be written or read is tried again.
    again: Option<Instant>,
}

/// A disk that cannot be written or read is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// The time since 1970 in milliseconds, in which messages that wait say when they expire.
pub fn wall_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

impl Intake {
    /// Takes in what the cores have, as far as there is room, in turn first from each.
    pub fn take(&mut self) {
        if self.orders.is_ending() && !self.orders.hands_over() {
            self.buffer.unbind();
        }
        let mut all = true;
        let first = self.waiting.first.min(self.feeds.len());
        let (late, early) = self.feeds.split_at_mut(first);
        for feed in early.iter_mut().chain(late) {
            all &= feed.drain(&mut self.buffer);
        }
        self.waiting.full = None;
        if !all {
            self.waiting.first = (first + 1) % self.feeds.len().max(1);
            self.waiting.full = Some(self.buffer.bytes());
            self.try_disk_again();
        }
        self.figures.full.set(u64::from(!all));
        self.show();
    }

    /// The next message that is not done, and its number; none for a thread that only hands over.
    pub fn read(&mut self) -> Option<(u64, LinkRecord<'_>)> {
        if self.orders.hands_over() { None } else { self.buffer.read() }
    }

    /// Whether [`Intake::read`] would find a message.
    pub fn has_unread(&self) -> bool {
        !self.orders.hands_over() && self.buffer.has_unread()
    }

    /// A buffer whose disk cannot be written or read is looked at again after a while.
    fn try_disk_again(&mut self) {
        let now = Instant::now();
        let fails = self.buffer.is_failing() || self.buffer.is_unreadable();
        if fails && self.waiting.again.is_none_or(|at| at <= now) {
            self.waiting.again = Some(now + RETRY);
            let bell = Arc::clone(&self.bell);
            tokio::spawn(async move {
                tokio::time::sleep(RETRY).await;
                bell.notify_one();
            });
        }
    }

    /// Shows what waits; takes in more soon when there is room again. Comes before the thread
    /// sleeps.
    pub fn show(&mut self) {
        if self.waiting.full.is_some_and(|bytes| self.buffer.bytes() < bytes) {
            self.waiting.full = None;
            self.bell.notify_one();
        }
        if self.buffer.is_unreadable() {
            self.try_disk_again();
        }
        let failures = self.buffer.failures();
        self.figures.unread.set(failures.reads);
        self.figures.unwritten.set(failures.writes);
        self.figures.waiting_bytes.set(self.buffer.bytes() as u64);
        self.figures.waiting.set(self.buffer.len() as u64);
        self.figures.queue_dropped.set(self.buffer.dropped());
        self.figures.damaged.set(self.buffer.damaged());
        for waiter in self.buffer.take_lost() {
            self.tell(Some(waiter), LinkOutcome::Dropped);
        }
        self.feeds.iter_mut().for_each(Feed::tell_outcomes);
    }

    /// Has the publisher that waits for a message told what became of it, before the thread sleeps.
    fn tell(&mut self, waiter: Option<Waiter>, outcome: LinkOutcome) {
        // There may have been more shards when it was written to the disk.
        let waits = waiter.and_then(|w| Some((self.feeds.get_mut(usize::from(w.shard.0))?, w)));
        if let Some((feed, waiter)) = waits {
            feed.note_outcome(waiter.number, outcome);
        }
    }

    /// Who waits for a message is told that it is lost, though it goes on waiting here: nobody
    /// knows how long.
    pub fn release(&mut self) {
        for waiter in self.buffer.waiters() {
            self.tell(Some(waiter), LinkOutcome::Dropped);
        }
        self.show();
    }

    /// The message of that number has arrived.
    pub fn delivered(&mut self, number: u64) {
        self.figures.delivered.add(1);
        let waiter = self.buffer.done(number);
        self.tell(waiter, LinkOutcome::Delivered);
    }

    /// The message of that number is dropped.
    pub fn lose(&mut self, number: u64, why: Lost) {
        self.figures.lose(why);
        let waiter = self.buffer.done(number);
        let there = why == Lost::Loop;
        self.tell(waiter, if there { LinkOutcome::Delivered } else { LinkOutcome::Refused });
    }

    /// The bridge ends: what waits is put away, where there is a place for it.
    pub fn close(&mut self) {
        self.take();
        self.buffer.close();
        let left = self.buffer.len();
        if left > 0 && !self.buffer.survives() {
            let bridge = &*self.figures.name;
            tracing::warn!(bridge, left, "messages that waited for the other end are lost");
        }
    }
}
