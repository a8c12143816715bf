//! What every bridge's thread has: the cores' rings, what waits, figures, and the order to end.

use super::buffer::Buffer;
use super::feed::Feed;
use super::figures::{Figures, Lost};
use super::orders::Orders;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
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
}

/// The time since 1970 in milliseconds, in which messages that wait say when they expire.
#[allow(clippy::disallowed_methods, reason = "on bridges' own threads, never on a core's")]
pub fn wall_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

impl Intake {
    /// Takes in what the cores have.
    pub fn take(&mut self) {
        for feed in &mut self.feeds {
            feed.drain(&mut self.buffer);
        }
        self.show();
    }

    /// Shows what waits.
    pub fn show(&self) {
        self.figures.waiting_bytes.set(self.buffer.bytes() as u64);
        self.figures.waiting.set(self.buffer.len() as u64);
        self.figures.queue_dropped.set(self.buffer.dropped());
        self.figures.damaged.set(self.buffer.damaged());
    }

    /// The message of that number has arrived.
    pub fn delivered(&mut self, number: u64) {
        self.figures.delivered.add(1);
        self.buffer.done(number);
    }

    /// The message of that number is dropped.
    pub fn lose(&mut self, number: u64, why: Lost) {
        self.figures.lose(why);
        self.buffer.done(number);
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
