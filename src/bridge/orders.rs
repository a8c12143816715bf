//! The order to a bridge's thread to end: given by the control thread, looked at by the bridge's.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "shared with the control thread, and with no core"
)]

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What becomes of what waits when a bridge ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It is sent, as far as there is time, and then put away.
    Send,
    /// Another thread goes on with it.
    HandOver,
}

/// Whether a bridge is to end, and until when it may send what waits.
#[derive(Default)]
pub struct Orders(Mutex<Option<(End, Instant)>>);

impl Orders {
    fn given(&self) -> Option<(End, Instant)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when, if the bridge is to end.
    pub fn deadline(&self) -> Option<Instant> {
        self.given().map(|(_, until)| until)
    }

    /// Whether the bridge is to end.
    pub fn is_ending(&self) -> bool {
        self.given().is_some()
    }

    /// Whether it is to end so that another thread goes on: nothing more is begun.
    pub fn hands_over(&self) -> bool {
        self.given().is_some_and(|(end, _)| end == End::HandOver)
    }

    /// Whether it should have ended.
    pub fn is_late(&self) -> bool {
        self.deadline().is_some_and(|until| until <= Instant::now())
    }

    /// The bridge is to end, at most then.
    pub fn end(&self, until: Instant) {
        self.give(Some((End::Send, until)));
    }

    /// The bridge is to end, at most then; what has been sent by then and is not confirmed is sent
    /// again by who goes on.
    pub fn hand_over(&self, until: Instant) {
        self.give(Some((End::HandOver, until)));
    }

    /// Another thread goes on.
    pub fn go_on(&self) {
        self.give(None);
    }

    fn give(&self, order: Option<(End, Instant)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = order;
    }
}

/// Waits until a thread has ended, at most until then.
pub fn wait_for_end<T>(thread: &JoinHandle<T>, until: Instant) {
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}
