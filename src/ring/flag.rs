//! The flag between one core that may sleep and all that may have work for it. Two fences and a
//! word; how the core sleeps is in `park`. Checked by `tests/loom`.
//!
//! Why no wake-up is lost. A ringer first publishes its work (mail, say), then rings: a full fence,
//! then it looks at the flag. A sleeper first raises the flag, then a full fence, then looks for
//! work once more. Whichever fence comes first in their single order, either the ringer sees the
//! flag, and wakes the sleeper, or the sleeper sees the work, and stays up.
use crate::atomic::{AtomicU32, Ordering, fence};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

/// The protocol between one sleeper and any number of ringers; see the module's argument.
#[derive(Debug, Default)]
pub struct SleepFlag {
    state: AtomicU32,
}

impl SleepFlag {
    /// Sleeper: about to sleep. Look for work once more *after* this returns.
    pub fn fall_asleep(&self) {
        // A store would do: nothing comes between the halves of a ringer's swap. Loom does not know
        // that, but keeps all swaps in one order; beside a system call this one costs nothing.
        self.state.swap(ASLEEP, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Sleeper: up again, or stayed up.
    pub fn wake_up(&self) {
        self.state.store(AWAKE, Ordering::Relaxed);
    }

    /// Ringer: *after* publishing work. True when the sleeper must be woken, for exactly one of
    /// the ringers of one sleep.
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        // The plain look first keeps the line shared while the sleeper is awake.
        self.state.load(Ordering::Relaxed) == ASLEEP
            && self.state.swap(AWAKE, Ordering::Relaxed) == ASLEEP
    }
}
