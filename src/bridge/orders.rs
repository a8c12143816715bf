//! Orders to a bridge's thread to end: given by the control thread, or the thread that changes
//! bridges, and read by the bridge's thread.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "shared with the control thread, and with no core"
)]

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What happens to waiting messages when a bridge ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EndPolicy {
    /// They are sent while there is time, and the rest is put away.
    Send,
    /// Another thread continues with them.
    HandOver,
}

/// Whether a bridge is to end, and until when it may send waiting messages.
#[derive(Default)]
pub struct Orders(Mutex<Option<(EndPolicy, Instant)>>);

impl Orders {
    fn given(&self) -> Option<(EndPolicy, Instant)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of [`Orders::end`] or [`Orders::hand_over`], if the bridge is to end.
    pub fn deadline(&self) -> Option<Instant> {
        self.given().map(|(_, until)| until)
    }

    /// Whether the bridge is to end.
    pub fn is_ending(&self) -> bool {
        self.given().is_some()
    }

    /// Whether the bridge is to end so that another thread continues: no further message is read.
    pub fn hands_over(&self) -> bool {
        self.given().is_some_and(|(end, _)| end == EndPolicy::HandOver)
    }

    /// Whether the time for ending is over.
    pub fn is_late(&self) -> bool {
        self.deadline().is_some_and(|until| until <= Instant::now())
    }

    /// Orders the bridge to end, at the latest at `until`.
    pub fn end(&self, until: Instant) {
        self.give(Some((EndPolicy::Send, until)));
    }

    /// Orders the bridge to end, at the latest at `until`. The thread that continues sends again
    /// what has been sent by then and is not confirmed.
    pub fn hand_over(&self, until: Instant) {
        self.give(Some((EndPolicy::HandOver, until)));
    }

    /// Withdraws the order: another thread continues.
    pub fn go_on(&self) {
        self.give(None);
    }

    fn give(&self, order: Option<(EndPolicy, Instant)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = order;
    }
}

/// Waits until a thread has ended, at most until `until`.
pub fn wait_for_end<T>(thread: &JoinHandle<T>, until: Instant) {
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}
