//! The flag between one core that may sleep and all threads that may have work for it: one atomic
//! word and two fences. How the core sleeps is in `idle`. Checked by `tests/loom`.
//!
//! Why no wake-up is lost: a waker first publishes its work (for example mail), then executes a
//! full fence, and then reads the flag. A sleeper first raises the flag, then executes a full
//! fence, and then looks for work once more. The two fences have a single total order. If the
//! waker's fence comes first, the sleeper sees the work and stays awake. If the sleeper's fence
//! comes first, the waker sees the flag and wakes the sleeper.
#![allow(clippy::disallowed_types, reason = "the flag of a sleeping core")]
use crate::atomic::{AtomicU32, Ordering, fence};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

/// The protocol between one sleeper and any number of wakers. The module's documentation proves it.
#[derive(Debug, Default)]
pub struct SleepFlag {
    state: AtomicU32,
}

impl SleepFlag {
    /// For the sleeper, which is about to sleep. It must look for work once more *after* this
    /// returns.
    pub fn fall_asleep(&self) {
        // A plain store would be enough, since nothing comes between the two halves of a waker's
        // swap. Loom cannot know that, but it keeps all swaps in one order. Next to the system call
        // that follows, a swap costs nothing.
        self.state.swap(ASLEEP, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// For the sleeper, when it is awake again or did not go to sleep.
    pub fn wake_up(&self) {
        self.state.store(AWAKE, Ordering::Relaxed);
    }

    /// For a waker, *after* it has published its work. True when it must wake the sleeper. Exactly
    /// one of the wakers of each sleep gets true.
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        // Reading before swapping keeps the cache line shared between cores while the sleeper is
        // awake.
        self.state.load(Ordering::Relaxed) == ASLEEP
            && self.state.swap(AWAKE, Ordering::Relaxed) == ASLEEP
    }
}
