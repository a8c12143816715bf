//! What a shard does so that a shortage of memory ends.
//!
//! Publishers wait at first when memory is full: for at most [`PATIENCE`] after it became full on
//! this shard, so that a burst costs them time and loses nothing. Only when it stays full for
//! longer are their messages dropped or refused ([`super::memory::Pressure::Full`]).
//!
//! Meanwhile, from [`Pressure::High`] on, the shard ends the connections of clients that have
//! unsent output and do not read: without that the output of a few such clients could fill the
//! memory for as long as they like. All connections are looked at ten times a second, in slices.

use super::Shard;
use super::close::Cause;
use super::connection::{Connection, Holds, Stage};
use super::memory::Pressure;
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::time::Instant;

/// Milliseconds for which publishers wait when memory is full, before messages are lost.
const PATIENCE: u64 = 1000;
/// Milliseconds between looks at whether publishers can go on, or at who does not read.
const LOOK: u64 = 10;
/// Milliseconds from one look at all connections to the next one.
const ROUND: u64 = 100;
/// Connections looked at per step.
const SLICE: u32 = 1024;
/// A client with fewer unsent bytes than this is not ended for them.
const SPARED: usize = 16 * 1024;
/// Milliseconds without a completed send after which a client does not read, when memory is full.
const STALLED_FULL: u64 = 300;
/// The same while it is not.
const STALLED_HIGH: u64 = 1000;

/// Whether publishers wait for memory, and how far connections have been looked at.
#[derive(Default)]
pub(super) struct Relief {
    /// When memory became full.
    full_since: Instant,
    /// The next connection to look at; 0 between two rounds.
    next: u32,
    /// When the next round begins.
    round_at: Instant,
}

impl Relief {
    /// Memory became full just now.
    pub(super) fn became_full(&mut self, now: Instant) {
        self.full_since = now;
    }
}

impl Shard {
    /// True when a publisher may wait for memory instead of losing its message.
    pub(super) fn waits_until_memory(&self) -> bool {
        let until = self.budgeting.relief.full_since.plus_millis(PATIENCE);
        self.is_short(Pressure::Full) && self.now < until && !Mutant::MemoryFullAtOnce.is_on()
    }

    /// Goes on with publishers that wait for memory, if there is some, or no more patience.
    pub(super) fn retry_memory(&mut self) {
        if self.waits_until_memory() {
            return;
        }
        let all = self.parked.memory.bound(0);
        for turn in 0..all {
            if turn > 0 && self.is_spent(self.settings.budget.step) {
                break;
            }
            let Some(socket) = self.parked.memory.pop(0) else { break };
            if !Mutant::MemoryWaitersForgotten.is_on() {
                self.release(socket, Holds::MEMORY);
            }
        }
    }

    /// When the shard has to look again although nothing else happens.
    pub(super) fn relief_deadline(&self) -> Option<Instant> {
        let waits = !self.parked.memory.is_empty();
        let short = self.is_short(Pressure::High);
        let round = short.then_some(self.budgeting.relief.round_at);
        let look = waits.then(|| self.now.plus_millis(LOOK));
        [round, look].into_iter().flatten().min()
    }

    /// Ends clients that do not read while memory is short, a slice at a time; true when the round
    /// goes on at once.
    pub(super) fn end_stalled(&mut self) -> bool {
        let relief = &self.budgeting.relief;
        if !self.is_short(Pressure::High) || relief.next == 0 && self.now < relief.round_at {
            return false;
        }
        let bound = self.connections.bound();
        let end = bound.min(relief.next.saturating_add(SLICE));
        let full = self.is_short(Pressure::Full);
        let patience = if full { STALLED_FULL } else { STALLED_HIGH };
        self.meter.charge(cost::VISIT * (end - relief.next));
        for index in relief.next..end {
            let stalled = |c: &Connection| is_stalled(c, self.now, patience);
            if self.connections.get(index).is_some_and(stalled)
                && !Mutant::MemoryStalledKept.is_on()
            {
                self.disconnect(SocketId(index), Cause::Memory);
                // At once: its output would be held until it had had time for its last packet.
                self.broken(SocketId(index));
            }
        }
        let over = end == bound;
        let relief = &mut self.budgeting.relief;
        relief.next = if over { 0 } else { end };
        if over {
            relief.round_at = self.now.plus_millis(ROUND);
        }
        !over
    }
}

/// True when the client has much unsent output of which nothing went out for so many milliseconds.
fn is_stalled(connection: &Connection, now: Instant, patience: u64) -> bool {
    let output = connection.output.as_ref().filter(|output| output.is_sending());
    matches!(connection.stage, Stage::Open(_))
        && output.is_some_and(|output| {
            output.unsent() >= SPARED && now.millis_since(output.progressed) >= patience
        })
}
