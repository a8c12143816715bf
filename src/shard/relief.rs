//! What a shard does in order to end a shortage of memory.
//!
//! When memory becomes full, publishers wait at first: for at most a second after memory became
//! full on this shard ([`Shard::waits_until_memory`]), so that a burst costs time and loses
//! nothing. Only if memory stays full for longer, their messages are dropped or refused
//! ([`super::memory::Pressure::Full`]).
//!
//! Meanwhile, from [`Pressure::High`] on, the shard closes the connections of clients that have
//! unsent output and read nothing. Otherwise the output of a few such clients could fill the memory
//! for as long as they like. All connections are examined ten times a second, in slices. While
//! memory is not short, the same happens to clients that have read nothing for `mqtt.send_timeout`,
//! and they are examined at intervals of a tenth of that time. A client that disappeared while its
//! socket's buffers were full shows no other sign, because its end of stream is behind input that
//! is not read any more.

use super::Shard;
use super::close::Cause;
use super::connection::{Connection, Stage};
use super::memory::Pressure;
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::time::Instant;

/// Milliseconds between two looks at whether publishers can go on.
const LOOK: u64 = 10;
/// Milliseconds from the begin of one round of looks at all connections to the next, at least and
/// at most.
const ROUND: u64 = 100;
const LONGEST_ROUND: u64 = 10_000;
/// How many connections are looked at per step.
const SLICE: u32 = 1024;
/// A client with fewer unsent bytes than this is not disconnected for them.
const SPARED: usize = 16 * 1024;
/// After this many milliseconds without a completed send, a client does not read, when memory is
/// full.
const STALLED_FULL: u64 = 300;
/// The same, when memory is short but not full.
const STALLED_HIGH: u64 = 1000;

/// When memory became full, and how far the connections have been looked at.
#[derive(Default)]
pub(super) struct Relief {
    /// When memory became full.
    pub(super) full_since: Instant,
    /// The next connection to look at; 0 between two rounds.
    next: u32,
    /// When the next round begins.
    round_at: Instant,
}

impl Relief {
    /// Notes that memory became full just now.
    pub(super) fn became_full(&mut self, now: Instant) {
        self.full_since = now;
    }

    /// Begins the next round of looks at once: memory became short, or shorter.
    pub(super) fn look_now(&mut self, now: Instant) {
        self.round_at = self.round_at.min(now);
    }
}

impl Shard {
    /// When the shard has to look again although nothing else happens.
    pub(super) fn relief_deadline(&self) -> Option<Instant> {
        let waits = !self.parked.memory.is_empty();
        let round = self.may_stall().is_some().then_some(self.memory.budgeting.relief.round_at);
        let look = waits.then(|| self.now.plus_millis(LOOK));
        [round, look].into_iter().flatten().min()
    }

    /// Which clients with unsent output are disconnected at present, if any.
    fn may_stall(&self) -> Option<Stall> {
        let timeout = self.settings.send_timeout;
        match self.pressure() {
            Pressure::Full => {
                Some(Stall { millis: STALLED_FULL, bytes: SPARED, cause: Cause::Memory })
            }
            Pressure::High => {
                Some(Stall { millis: STALLED_HIGH, bytes: SPARED, cause: Cause::Memory })
            }
            _ if timeout > 0 && self.outputs.pool.held() > 0 => {
                Some(Stall { millis: timeout, bytes: 0, cause: Cause::Unread })
            }
            _ => None,
        }
    }

    /// Disconnects clients that do not read. Looks at a slice of the connections; true when the
    /// round goes on at once.
    #[inline]
    pub(super) fn end_stalled(&mut self) -> bool {
        self.now >= self.memory.budgeting.relief.round_at && self.look_for_stalled()
    }

    #[inline(never)]
    fn look_for_stalled(&mut self) -> bool {
        let Some(stall) = self.may_stall() else {
            self.memory.budgeting.relief.next = 0;
            self.memory.budgeting.relief.round_at = self.now.plus_millis(ROUND);
            return false;
        };
        let bound = self.connections.bound();
        let next = self.memory.budgeting.relief.next.min(bound);
        // Not more than the step's share, however small the steps are.
        let slice = SLICE.min(self.settings.budget.share()).max(1);
        let end = bound.min(next + slice);
        self.meter.charge(cost::VISIT * (end - next));
        for index in next..end {
            let stalled = |c: &Connection| stall.applies(c, self.now);
            if self.connections.get(index).is_some_and(stalled)
                && !Mutant::MemoryStalledKept.is_on()
            {
                self.disconnect(SocketId(index), stall.cause);
                // Without this the output would be kept for as long as the client has for its last
                // packet.
                self.broken(SocketId(index));
            }
        }
        let over = end == bound;
        let relief = &mut self.memory.budgeting.relief;
        relief.next = if over { 0 } else { end };
        if over {
            relief.round_at = self.now.plus_millis((stall.millis / 10).clamp(ROUND, LONGEST_ROUND));
        }
        !over
    }
}

/// When a client that does not read is disconnected.
struct Stall {
    /// No send was completed for this many milliseconds.
    millis: u64,
    /// At least this many bytes are unsent.
    bytes: usize,
    cause: Cause,
}

impl Stall {
    fn applies(&self, connection: &Connection, now: Instant) -> bool {
        let output = connection.output.as_ref().filter(|output| output.is_sending());
        matches!(connection.stage, Stage::Open(_))
            && output.is_some_and(|output| {
                let silent = now.millis_since(output.progressed);
                output.unsent() >= self.bytes && silent >= self.millis
            })
    }
}
