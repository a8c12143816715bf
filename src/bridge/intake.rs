//! The part that all kinds of bridges share, on the bridge's thread: the cores' rings, the buffer,
//! the figures, and the orders to end.
#![allow(clippy::disallowed_methods, reason = "on the bridge's own thread, never on a core's")]

use super::buffer::Buffer;
use super::feed::Feed;
use super::figures::{BridgeDropReason, BridgeFigures};
use super::numbers::Numbers;
use super::orders::Orders;
use crate::link_record::{LinkOutcome, LinkRecord, Waiter};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// The side of a bridge towards this broker.
pub struct Intake {
    /// Messages that wait for the other end.
    pub buffer: Buffer,
    /// The cores' rings.
    pub feeds: Vec<Feed>,
    /// The bridge's figures.
    pub figures: Arc<BridgeFigures>,
    /// Wakes the bridge's thread.
    pub bell: Arc<Notify>,
    /// Tells whether the bridge is to end.
    pub orders: Arc<Orders>,
    /// The state of a buffer without room.
    pub waiting: WaitingPublishers,
    /// The filters that the numbers in records mean.
    pub numbers: Numbers,
}

/// The state of a buffer without room, whose publishers wait.
#[derive(Default)]
pub struct WaitingPublishers {
    /// The bytes in the buffer when a batch last found no room.
    full: Option<usize>,
    /// The index of the core whose batches are taken first.
    first: usize,
    /// When a failing disk is tried again.
    again: Option<Instant>,
}

/// The pause before a failing disk is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The time since 1970 in milliseconds, in which the expiry of waiting messages is given.
pub fn wall_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

impl Intake {
    /// Takes in the cores' batches while there is room; a different core comes first after each
    /// failure.
    pub fn take(&mut self) {
        if self.orders.is_ending() && !self.orders.hands_over() {
            self.buffer.unbind();
        }
        self.buffer.open_again();
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

    /// The next message that is not done, and its number; `None` once the bridge is handing over.
    pub fn read(&mut self) -> Option<(u64, LinkRecord<'_>)> {
        if self.orders.hands_over() { None } else { self.buffer.read() }
    }

    /// Whether [`Intake::read`] would find a message.
    pub fn has_unread(&self) -> bool {
        !self.orders.hands_over() && self.buffer.has_unread()
    }

    /// Schedules another look at a buffer whose disk cannot be written or read.
    fn try_disk_again(&mut self) {
        let now = Instant::now();
        let fails = self.buffer.is_failing() || self.buffer.is_unreadable();
        if fails && self.waiting.again.is_none_or(|at| at <= now) {
            self.waiting.again = Some(now + RETRY);
            let bell = Arc::clone(&self.bell);
            // Without a thread of the bridge there is no runtime, and nobody to be woken.
            let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
            runtime.spawn(async move {
                tokio::time::sleep(RETRY).await;
                bell.notify_one();
            });
        }
    }

    /// Updates the figures, and wakes the thread when there is room again. Called before the thread
    /// sleeps.
    pub fn show(&mut self) {
        if self.waiting.full.is_some_and(|bytes| self.buffer.bytes() < bytes) {
            self.waiting.full = None;
            self.bell.notify_one();
        }
        if self.buffer.is_unreadable() {
            self.try_disk_again();
        }
        self.figures.unreadable.set(u64::from(self.buffer.is_unreadable()));
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

    /// Tells the publisher that waits for a message, if there is one, the message's outcome.
    fn tell(&mut self, waiter: Option<Waiter>, outcome: LinkOutcome) {
        // A record from the disk may name a shard of an earlier process with more shards.
        let waits = waiter.and_then(|w| Some((self.feeds.get_mut(usize::from(w.shard.0))?, w)));
        if let Some((feed, waiter)) = waits {
            feed.note_outcome(waiter.number, outcome);
        }
    }

    /// Tells all waiting publishers that their messages are dropped, although these go on waiting
    /// here: how long is unknown.
    pub fn release(&mut self) {
        for waiter in self.buffer.waiters() {
            self.tell(Some(waiter), LinkOutcome::Dropped);
        }
        self.show();
    }

    /// The message with this number has been delivered.
    pub fn delivered(&mut self, number: u64) {
        self.figures.delivered.add(1);
        let waiter = self.buffer.done(number);
        self.tell(waiter, LinkOutcome::Delivered);
    }

    /// The message with this number is dropped.
    pub fn lose(&mut self, number: u64, why: BridgeDropReason) {
        self.figures.lose(why);
        let waiter = self.buffer.done(number);
        let there = why == BridgeDropReason::Loop;
        self.tell(waiter, if there { LinkOutcome::Delivered } else { LinkOutcome::Refused });
    }

    /// Ends the bridge: waiting messages are put away, if there is a disk.
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
