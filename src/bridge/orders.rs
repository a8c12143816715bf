//! The order to a bridge's thread to end: given by the control thread, looked at by the bridge's.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "shared with the control thread, and with no core"
)]

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Whether a bridge is to end, and until when it may send what waits.
#[derive(Default)]
pub struct Orders(Mutex<Option<Instant>>);

impl Orders {
    /// Until when, if the bridge is to end.
    pub fn deadline(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the bridge is to end.
    pub fn is_ending(&self) -> bool {
        self.deadline().is_some()
    }

    /// Whether it should have ended.
    pub fn is_late(&self) -> bool {
        self.deadline().is_some_and(|until| until <= Instant::now())
    }

    /// The bridge is to end, at most then.
    pub fn end(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

/// Waits until a thread has ended, at most until then.
pub fn wait_for_end(thread: &JoinHandle<()>, until: Instant) {
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}
