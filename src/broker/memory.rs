//! Returns memory to the system. The allocator keeps what clients and messages have used until it
//! is told to release it.
//!
//! mimalloc returns pages without any block in use by itself, but only as allocations continue.
//! Where a million clients have disconnected, or a hundred megabytes of messages have passed
//! through, and nothing happens afterwards, it would keep most of that memory. Where thousands have
//! come, it would keep the tables that they have outgrown.
#![allow(unsafe_code)]

use crate::shard::Footprint;

/// Fewer clients than this leave nothing worth collecting when they disconnect.
const CROWD: usize = 4096;
/// Fewer allocated and freed bytes than this leave nothing worth collecting.
const BYTES: u64 = 4 << 20;
/// About what a client allocates and frees again while it comes: packets, and its share of tables
/// that are outgrown. It counts twice, as a connection and as a session.
const ARRIVAL: u64 = 1024;
/// The number of turns after which memory is collected once more, because timers, tables and other
/// cores release theirs a little later.
const AGAIN: u32 = 5;

/// Watches what a core holds and moves, and lets its thread's allocator collect when a crowd of
/// clients has come or gone, or a large amount of bytes has gone. It does not collect while as much
/// traffic continues, since memory that is needed again at once is not worth returning.
#[derive(Default)]
pub(super) struct Reclaim {
    /// The largest number of clients since memory was last returned, and the number at the last
    /// turn.
    high: usize,
    last: usize,
    before: Footprint,
    /// Bytes allocated and freed since memory was last returned, and the most in one turn.
    moved: u64,
    most: u64,
    again: u32,
}

impl Reclaim {
    /// To be called every few seconds, with what the core holds now.
    pub(super) fn turn(&mut self, now: Footprint) {
        let clients = self.is_crowd_gone(now.clients);
        let bytes = self.are_bytes_gone(now);
        if clients || bytes {
            self.again = AGAIN;
            collect();
        } else if self.again > 0 {
            self.again -= 1;
            if self.again == 0 {
                collect();
            }
        }
    }

    fn is_crowd_gone(&mut self, now: usize) -> bool {
        let falling = now < self.last;
        self.last = now;
        if now > self.high {
            self.high = now;
            return false;
        }
        let gone = !falling && self.high - now > CROWD && now <= self.high / 4 * 3;
        if gone {
            self.high = now;
        }
        gone
    }

    /// True when many bytes were allocated and freed, and this turn had far fewer than the busiest
    /// one.
    fn are_bytes_gone(&mut self, now: Footprint) -> bool {
        let since = |now: u64, before: u64| now.saturating_sub(before);
        let turn = since(now.moved, self.before.moved)
            + since(now.released, self.before.released)
            + since(self.before.held, now.held)
            + since(now.clients as u64, self.before.clients as u64) * ARRIVAL;
        self.before = now;
        self.moved += turn;
        self.most = self.most.max(turn);
        let gone = self.moved >= BYTES && turn <= self.most / 4;
        if gone {
            (self.moved, self.most) = (0, 0);
        }
        gone
    }
}

fn collect() {
    // SAFETY: no arguments to get wrong; it works on this thread's own heap.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which turns give memory back, of turns with these footprints.
    fn turns(footprints: &[Footprint]) -> Vec<usize> {
        let mut reclaim = Reclaim::default();
        let gone = |(at, &now): (usize, &Footprint)| {
            let (clients, bytes) =
                (reclaim.is_crowd_gone(now.clients), reclaim.are_bytes_gone(now));
            (clients || bytes).then_some(at)
        };
        footprints.iter().enumerate().filter_map(gone).collect()
    }

    fn moved(megabytes: &[u64]) -> Vec<Footprint> {
        let sum = |sum: &mut u64, more: &u64| {
            *sum += more << 20;
            Some(Footprint { moved: *sum, ..Footprint::default() })
        };
        megabytes.iter().scan(0, sum).collect()
    }

    #[test]
    fn memory_is_given_back_when_a_burst_of_bytes_is_over() {
        assert_eq!(turns(&moved(&[0, 200, 0, 0, 0])), [2]);
        assert_eq!(turns(&moved(&[1, 2, 1, 0, 0])), [3], "few, but in all enough");
        assert_eq!(turns(&moved(&[1, 1, 0, 0, 0])), Vec::<usize>::new());
        assert_eq!(turns(&moved(&[50, 60, 40, 50, 55])), Vec::<usize>::new(), "it goes on");
        assert_eq!(turns(&moved(&[10, 200, 10, 10, 10])), [2], "what goes on is little");
    }

    #[test]
    fn memory_is_given_back_when_what_was_held_is_let_go() {
        let held = |held: u64| Footprint { held: held << 20, ..Footprint::default() };
        assert_eq!(turns(&[held(0), held(500), held(500), held(0), held(0)]), [4]);
        let released = |bytes: u64| Footprint { released: bytes << 20, ..Footprint::default() };
        assert_eq!(turns(&[released(0), released(100), released(100)]), [2]);
    }

    #[test]
    fn memory_is_given_back_when_a_crowd_has_come() {
        let clients = |clients: usize| Footprint { clients, ..Footprint::default() };
        assert_eq!(turns(&[clients(0), clients(30_000), clients(30_000), clients(30_000)]), [2]);
        assert_eq!(turns(&[10, 20, 30, 40].map(|all| clients(all * 1000))), Vec::<usize>::new());
        assert_eq!(turns(&[clients(0), clients(500), clients(500)]), Vec::<usize>::new());
    }

    #[test]
    fn memory_is_given_back_when_a_crowd_has_left() {
        let clients = |clients: usize| Footprint { clients, ..Footprint::default() };
        let gone = [100_000, 100_000, 50_000, 50_000].map(clients);
        assert_eq!(turns(&gone), [1, 3], "when they have come, and when they have left");
        assert_eq!(turns(&[5000, 5000, 2000, 2000].map(clients)), [1], "so few left little");
    }
}
