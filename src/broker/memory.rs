//! Giving memory back: the allocator keeps what a crowd of clients used until it is told.
#![allow(unsafe_code)]

/// Fewer clients than this leave nothing worth collecting.
const CROWD: usize = 4096;
/// Turns after which it is done once more: timers, tables and other cores let go a little later.
const AGAIN: u32 = 5;

/// Watches how many clients a core has, and has its thread's allocator collect when a crowd left.
/// mimalloc returns wholly free pages by itself, but only as allocations go on: where a million
/// clients have gone and silence follows, it would keep half of their memory.
#[derive(Default)]
pub(super) struct Tide {
    high: usize,
    last: usize,
    again: u32,
}

impl Tide {
    /// Every few seconds, with the connections and sessions of the core.
    pub(super) fn turn(&mut self, now: usize) {
        let falling = now < self.last;
        self.last = now;
        if now > self.high {
            self.high = now;
        } else if !falling && self.high - now > CROWD && now <= self.high / 4 * 3 {
            self.high = now;
            self.again = AGAIN;
            collect();
        } else if self.again > 0 {
            self.again -= 1;
            if self.again == 0 {
                collect();
            }
        }
    }
}

fn collect() {
    // SAFETY: no arguments to get wrong; it works on this thread's own heap.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
