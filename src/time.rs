//! An instant we can construct, and the timing wheel. Pure; each shard owns one wheel.
//!
//! The wheel holds no handles: owners look at their own state when an entry fires and arm again if
//! it fired too soon for them. It does not read a clock.

use crate::mutant::Mutant;
use crate::slab::trim;

/// Milliseconds on a monotonic clock since the process's own zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The end of time: never.
    pub const END: Instant = Instant(u64::MAX);

    /// This many milliseconds later, at most the end of time.
    #[inline]
    pub fn plus_millis(self, millis: u64) -> Instant {
        Instant(self.0.saturating_add(millis))
    }

    /// This many seconds later, at most the end of time.
    #[inline]
    pub fn plus_seconds(self, seconds: u32) -> Instant {
        self.plus_millis(u64::from(seconds) * 1000)
    }

    /// Milliseconds since `earlier`; 0 when that is later.
    #[inline]
    pub fn millis_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Milliseconds per tick, as a power of two.
const TICK_BITS: u32 = 6;
/// Slots per level, as a power of two.
const LEVEL_BITS: u32 = 6;
const SLOTS: usize = 1 << LEVEL_BITS;
/// Enough for every 64-bit millisecond.
const LEVELS: usize = (u64::BITS - TICK_BITS).div_ceil(LEVEL_BITS) as usize;
/// Entries per allocation of a slot: what one storm costs beyond its entries, and no more.
const CHUNK: usize = 256;
/// A slot that has emptied keeps an allocation up to this many entries for the next round.
const KEPT: usize = 16;
/// How many entries may move down a level per entry that may fire: moving one is that much cheaper.
const MOVES_PER_DUE: usize = 16;

/// Milliseconds per tick: how late an entry may fire.
pub const GRANULARITY_MILLIS: u64 = 1 << TICK_BITS;

// A tick number fits the levels exactly, so no deadline is out of range.
const _: () = assert!(LEVELS as u32 * LEVEL_BITS + TICK_BITS >= u64::BITS);
const _: () = assert!(size_of::<Entry<u64>>() <= 24);

#[derive(Clone, Copy)]
struct Entry<T> {
    /// The first tick at whose start the deadline has passed.
    tick: u64,
    item: T,
}

/// The entries of a slot, in chunks so that a full slot never moves and a drained one is freed.
struct Slot<T> {
    chunks: Vec<Vec<Entry<T>>>,
}

impl<T: Copy> Slot<T> {
    #[inline]
    fn push(&mut self, entry: Entry<T>) {
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(entry),
            last => {
                // A slot past its first chunk is a busy one.
                let capacity = if last.is_some() { CHUNK } else { 4 };
                let mut chunk = Vec::with_capacity(capacity);
                chunk.push(entry);
                self.chunks.push(chunk);
            }
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<Entry<T>> {
        let alone = self.chunks.len() == 1;
        let chunk = self.chunks.last_mut()?;
        let entry = chunk.pop();
        if chunk.is_empty() && !(alone && chunk.capacity() <= KEPT) {
            self.chunks.pop();
            if alone {
                self.chunks = Vec::new();
            }
            trim(&mut self.chunks);
        }
        entry
    }

    /// Filters one chunk; how many entries went, and whether the chunk did: when it is empty, or
    /// fits into the one before. The last one takes its place.
    fn sweep(&mut self, at: usize, keep: &mut impl FnMut(Instant, T) -> bool) -> (usize, bool) {
        let before = self.chunks[at].len();
        self.chunks[at].retain(|entry| keep(Instant(entry.tick << TICK_BITS), entry.item));
        let after = self.chunks[at].len();
        let joins = at > 0 && self.chunks[at - 1].len() + after <= CHUNK;
        if after == before || after > 0 && !joins {
            return (before - after, false);
        }
        let rest = self.chunks.swap_remove(at);
        if after > 0 {
            let joined = &mut self.chunks[at - 1];
            joined.reserve_exact(CHUNK - joined.len());
            joined.extend(rest);
        }
        if self.chunks.is_empty() {
            self.chunks = Vec::new();
        }
        trim(&mut self.chunks);
        (before - after, true)
    }

    fn is_empty(&self) -> bool {
        self.chunks.first().is_none_or(Vec::is_empty)
    }
}

/// A hierarchical timing wheel: deadlines in, due items out.
///
/// Entries cannot be cancelled, but those that nobody waits for any more can be swept out, a few
/// at a time. They fire up to [`GRANULARITY_MILLIS`] late and never early, in
/// the order of their ticks. Insertion is O(1); each entry moves down at most once per level;
/// empty slots are skipped by bitmap, so a clock that jumps costs no more than one that walks.
/// Holds about 16 bytes per `u64` entry, and gives memory back as entries fire.
pub struct Wheel<T: Copy> {
    /// Ticks up to here have been visited. Entries of this very tick may still wait in level 0.
    elapsed: u64,
    len: usize,
    /// The level whose foremost slot is half moved down, or 0.
    moving: usize,
    /// Where [`Wheel::sweep`] goes on: slot and chunk.
    swept: (usize, usize),
    /// One bit per slot that has entries.
    occupied: [u64; LEVELS],
    slots: Box<[Slot<T>]>,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel.
    pub fn new(now: Instant) -> Self {
        let slots = (0..LEVELS * SLOTS).map(|_| Slot { chunks: Vec::new() }).collect();
        Wheel {
            elapsed: now.0 >> TICK_BITS,
            len: 0,
            moving: 0,
            swept: (0, 0),
            occupied: [0; LEVELS],
            slots,
        }
    }

    /// Adds an entry. A deadline that has passed is due at the next [`expire`](Self::expire).
    #[inline]
    pub fn insert(&mut self, deadline: Instant, item: T) {
        let early = if Mutant::WheelEarly.is_on() { GRANULARITY_MILLIS - 1 } else { 0 };
        let tick = (deadline.0 - early.min(deadline.0)).div_ceil(GRANULARITY_MILLIS);
        let tick = tick.max(self.elapsed);
        self.place(Entry { tick, item });
        self.len += 1;
    }

    /// Moves items that are due into `due`, at most `limit`. True when it must be called again
    /// before this moment's work is done: more are due, or entries are still being moved down.
    ///
    /// Visits at most 16 entries per unit of `limit` besides the due ones.
    pub fn expire(&mut self, now: Instant, limit: usize, due: &mut Vec<T>) -> bool {
        let now = now.0 >> TICK_BITS;
        let mut left = limit;
        let mut moves = limit.saturating_mul(MOVES_PER_DUE);
        while let Some((level, slot, start)) = self.next_slot() {
            if start > now {
                break;
            }
            self.elapsed = start;
            let done = if level == 0 {
                self.fire(slot, &mut left, due)
            } else {
                self.move_down(level, slot, &mut moves)
            };
            if !done {
                return true;
            }
        }
        // Nothing lies between, so no entry's place depends on where in between we stand.
        self.elapsed = self.elapsed.max(now);
        false
    }

    /// When [`expire`](Self::expire) has something to do next, at the start of a tick: not later
    /// than that in which the earliest entry fires, so less than [`GRANULARITY_MILLIS`] after the
    /// earliest deadline; earlier when entries have to move down first. A call at that time makes
    /// progress: a caller who sleeps until then never spins. `None` when empty.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (_, _, start) = self.next_slot()?;
        Some(Instant(start.saturating_mul(GRANULARITY_MILLIS)))
    }

    /// Removes entries that `keep` refuses; it is told the tick at which an entry fires, as a time.
    /// Looks at `chunks` times 256 entries at most and goes on from there the next time; true when
    /// it has come round. Memory of what is removed is given back.
    pub fn sweep(&mut self, chunks: usize, mut keep: impl FnMut(Instant, T) -> bool) -> bool {
        let mut left = chunks;
        while left > 0 {
            let (at, chunk) = self.swept;
            if chunk >= self.slots[at].chunks.len() {
                self.swept = ((at + 1) % self.slots.len(), 0);
                if self.swept.0 == 0 {
                    return true;
                }
                continue;
            }
            left -= 1;
            let (removed, gone) = self.slots[at].sweep(chunk, &mut keep);
            self.len -= removed;
            self.swept.1 += usize::from(!gone);
            if removed > 0 && self.slots[at].is_empty() {
                let (level, slot) = (at / SLOTS, at % SLOTS);
                let foremost = self.occupied[level].trailing_zeros() as usize == slot;
                if self.moving == level && foremost {
                    self.moving = 0; // This was the slot half moved down.
                }
                self.clear_if_empty(level, slot);
            }
        }
        false
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts an entry where its tick first differs from `elapsed`: at that level its slot lies
    /// strictly ahead, and everything in lower levels comes before it.
    #[inline]
    fn place(&mut self, entry: Entry<T>) {
        let differing = (entry.tick ^ self.elapsed).checked_ilog2().unwrap_or(0);
        let level = (differing / LEVEL_BITS) as usize;
        let slot = (entry.tick >> (level as u32 * LEVEL_BITS)) as usize % SLOTS;
        self.occupied[level] |= 1 << slot;
        self.slots[level * SLOTS + slot].push(entry);
    }

    /// The slot to visit next and the tick at which it starts. Slots of one level are in order of
    /// time and none lies behind `elapsed`; lower levels come before higher ones, except that a
    /// slot half moved down comes first, or its entries would be overtaken.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = match self.moving {
            0 => self.occupied.iter().position(|slots| *slots != 0)?,
            level => level,
        };
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = level as u32 * LEVEL_BITS;
        let before = self.elapsed >> (shift + LEVEL_BITS) << (shift + LEVEL_BITS);
        Some((level, slot, before | (slot as u64) << shift))
    }

    /// Empties a slot of level 0 into `due`; false when `left` did not suffice.
    fn fire(&mut self, slot: usize, left: &mut usize, due: &mut Vec<T>) -> bool {
        while *left > 0 {
            let Some(entry) = self.slots[slot].pop() else { break };
            due.push(entry.item);
            *left -= 1;
            self.len -= 1;
        }
        self.clear_if_empty(0, slot)
    }

    /// Spreads a slot over the levels below; false when `moves` did not suffice.
    fn move_down(&mut self, level: usize, slot: usize, moves: &mut usize) -> bool {
        while *moves > 0 {
            let Some(entry) = self.slots[level * SLOTS + slot].pop() else { break };
            self.place(entry);
            *moves -= 1;
        }
        let done = self.clear_if_empty(level, slot);
        self.moving = if done { 0 } else { level };
        done
    }

    fn clear_if_empty(&mut self, level: usize, slot: usize) -> bool {
        let empty = self.slots[level * SLOTS + slot].is_empty();
        if empty {
            self.occupied[level] &= !(1 << slot);
        }
        empty
    }
}

#[cfg(test)]
mod tests;
