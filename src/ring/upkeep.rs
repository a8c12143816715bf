//! Returns resources after a crowd has left: rings that hold no socket any more, and the pages of
//! receive buffers.
use super::driver::Driver;

/// The number of consecutive calls with almost no traffic after which the pages of the buffers are
/// returned.
const QUIET_CALLS: u32 = 2;
/// Up to this many completions between two calls do not count as traffic. They are mostly
/// doorbells.
const NEXT_TO_NOTHING: u64 = 16;

/// What [`Driver::run_upkeep`] remembers from its last call.
#[derive(Default)]
pub(super) struct RingUpkeep {
    /// The number of rings at the end of the list that held nothing.
    spare: usize,
    quiet: u32,
    completions: u64,
}

impl Driver {
    /// To be called every few seconds. Directs new sockets to the first rings and closes rings at
    /// the end of the list that have been empty since the last call; each of them costs the process
    /// about 300 KiB. After two calls with almost no traffic it returns the pages of the receive
    /// buffers.
    pub fn run_upkeep(&mut self) {
        self.prefer_first_rings();
        self.close_spare_rings();
        let completions = std::mem::replace(&mut self.upkeep.completions, self.counts.completions);
        match self.counts.completions - completions <= NEXT_TO_NOTHING {
            true => self.upkeep.quiet += 1,
            false => self.upkeep.quiet = 0,
        }
        // The kernel writes to buffers only while this thread is in the kernel, so all buffers are
        // empty when no completion is unvisited now.
        if self.upkeep.quiet >= QUIET_CALLS && !self.anything_ready() {
            self.upkeep.quiet = 0;
            for ring in &mut self.rings {
                ring.buffers.shrink();
            }
            self.pool.forget();
        }
    }

    /// Makes accepts and arrivals use the first ring that has enough room, so that the later rings
    /// become empty as their clients leave.
    fn prefer_first_rings(&mut self) {
        let fair = |ring: &super::uring::Ring| ring.room() >= (ring.capacity / 4).max(1);
        let Some(first) = self.rings.iter().position(fair) else { return };
        self.accepting = self.accepting.min(first);
        // Accepts that are in flight in later rings would still bring sockets there.
        for ring in self.accepting + 1..self.rings.len() {
            self.cancel_accepts(ring);
        }
        if self.ported && first < self.granting {
            self.grant_from(first);
        }
    }

    fn close_spare_rings(&mut self) {
        let needed = self.accepting.max(self.granting);
        let behind = &self.rings[needed + 1..];
        let spare = behind.iter().rev().take_while(|ring| ring.sockets == 0).count();
        let before = std::mem::replace(&mut self.upkeep.spare, spare);
        let closed = (0..spare.min(before)).take_while(|_| self.close_last_ring()).count();
        if closed > 0 {
            self.upkeep.spare -= closed;
            self.pool.give_pages_back();
        }
    }

    /// False when the last ring is still in use, or not yet free of everything.
    fn close_last_ring(&mut self) -> bool {
        let last = self.rings.len() - 1;
        // Permits that remain after this are held by a sender: a socket may still arrive.
        let unused = self.port.withdraw(last);
        let ring = &mut self.rings[last];
        ring.promised -= unused;
        let idle = ring.sockets + ring.accepts + ring.promised == 0;
        if !idle || ring.has_queued() || ring.ready() {
            return false;
        }
        let Some(mut ring) = self.rings.pop() else { return false };
        self.counts.enters += ring.enters;
        self.counts.overflows += ring.overflows;
        // All completions have come, so the kernel uses no buffer of this ring any more.
        ring.buffers.dissolve(&mut self.pool);
        true
    }
}
