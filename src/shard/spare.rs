//! The buffers that a shard keeps for reuse, and how they shrink when they are not used. Otherwise
//! every buffer would stay as large as the largest content that it ever had.

use super::Shard;
use std::collections::VecDeque;

/// A list or a text may keep this many unused entries or bytes.
pub(super) const KEPT: usize = 1024;

/// What a shard holds and moves, for the code that gives memory back to the system.
#[derive(Clone, Copy, Default, Debug)]
pub struct Footprint {
    /// The number of connections and sessions, which most of the shard's memory is for.
    pub clients: usize,
    /// Bytes of messages that wait for clients or are retained.
    pub held: u64,
    /// Bytes received and sent since the start.
    pub moved: u64,
    /// Bytes of buffers that were too large or too many to be kept, since the start.
    pub released: u64,
}

impl Shard {
    /// What this shard holds and moves.
    pub fn footprint(&self) -> Footprint {
        let counters = &self.counters;
        Footprint {
            clients: self.connections.len() + self.sessions.len(),
            held: counters.pending_bytes.saturating_add(counters.retained_bytes),
            moved: counters.bytes_received.wrapping_add(counters.bytes_sent),
            released: self.outputs.pool.released(),
        }
    }

    /// Frees half of what was not needed since the last call.
    pub(super) fn give_back_spare(&mut self) {
        self.outputs.shrink();
        self.mail.outbox.shrink();
        self.delivery.shrink();
        self.work.endings.shrink();
        self.timers.shrink();
        self.layered.shrink();
        self.work.wills.shrink();
        self.retained.shrink();
        self.entrance.arrivals.shrink(KEPT);
    }
}

/// Gives back half of a list's capacity, as far as it is unused.
pub(super) fn halve<T>(list: &mut Vec<T>) {
    if list.capacity() > KEPT {
        list.shrink_to((list.capacity() / 2).max(KEPT));
    }
}

/// The same for a queue.
pub(super) fn halve_queue<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > KEPT {
        queue.shrink_to((queue.capacity() / 2).max(KEPT));
    }
}

/// Drops half of the entries that were not needed since the last call. `least`: the fewest entries
/// that there were at any time since then.
pub(super) fn halve_spare<T>(spare: &mut Vec<T>, least: &mut usize) {
    let keep = spare.len().saturating_sub(least.div_ceil(2));
    spare.truncate(keep);
    crate::slab::trim(spare);
    *least = spare.len();
}
