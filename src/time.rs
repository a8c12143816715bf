//! A constructible instant, and the timing wheel. Pure: neither reads a clock. Each shard owns one
//! wheel.
//!
//! The wheel gives out no handles, so entries cannot be cancelled. When an entry fires, its owner
//! looks at its own state, and arms a new entry if this one is out of date.

use crate::mutant::Mutant;
use crate::slab::trim;

/// Milliseconds of a monotonic clock, counted from an origin that the process chooses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The largest instant, which stands for "never".
    pub const END: Instant = Instant(u64::MAX);

    /// The instant this many milliseconds later, saturating at [`Instant::END`].
    #[inline]
    pub fn plus_millis(self, millis: u64) -> Instant {
        Instant(self.0.saturating_add(millis))
    }

    /// The instant this many seconds later, saturating at [`Instant::END`].
    #[inline]
    pub fn plus_seconds(self, seconds: u32) -> Instant {
        self.plus_millis(u64::from(seconds) * 1000)
    }

    /// Milliseconds since `earlier`, or 0 when that is later.
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
/// The number of levels, enough for every 64-bit number of milliseconds.
const LEVELS: usize = (u64::BITS - TICK_BITS).div_ceil(LEVEL_BITS) as usize;
/// The number of entries per allocation of a slot. Chunks bound the unused memory after a burst of
/// timers to less than one of them per slot.
const CHUNK: usize = 256;
/// A slot that has become empty keeps an allocation of up to this many entries for its next use.
const KEPT: usize = 16;
/// How many entries may be moved down a level for each entry that may fire, because moving one is
/// that much cheaper.
const MOVES_PER_DUE: usize = 16;

/// Milliseconds per tick, which is how late an entry may fire.
pub const GRANULARITY_MILLIS: u64 = 1 << TICK_BITS;

// The levels cover all bits of a tick number, so no deadline is out of range.
const _: () = assert!(LEVELS as u32 * LEVEL_BITS + TICK_BITS >= u64::BITS);
const _: () = assert!(size_of::<TimerEntry<u64>>() <= 24);

#[derive(Clone, Copy)]
struct TimerEntry<T> {
    /// The first tick at whose start the deadline has passed.
    tick: u64,
    item: T,
}

/// The entries of a slot, in chunks: a full slot is never moved as a whole, and a chunk is freed
/// when it is empty.
struct WheelSlot<T> {
    chunks: Vec<Vec<TimerEntry<T>>>,
}

impl<T: Copy> WheelSlot<T> {
    #[inline]
    fn push(&mut self, entry: TimerEntry<T>) {
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(entry),
            last => {
                // A slot that needs a second chunk is a busy one.
                let capacity = if last.is_some() { CHUNK } else { 4 };
                let mut chunk = Vec::with_capacity(capacity);
                chunk.push(entry);
                self.chunks.push(chunk);
            }
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<TimerEntry<T>> {
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

    /// Removes the entries of one chunk that `keep` refuses. Returns how many were removed, and
    /// whether the chunk went as well, because it was empty or fitted into the one before; then the
    /// last chunk takes its position.
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

/// A hierarchical timing wheel.
///
/// Entries cannot be cancelled, but entries that nobody waits for can be swept out, a few at a
/// time. Entries fire up to [`GRANULARITY_MILLIS`] late and never early, in the order of their
/// ticks. Insertion is O(1), and each entry moves down at most once per level. Empty slots are
/// skipped with a bitmap, so that a clock that jumps costs no more than one that advances steadily.
/// An entry of type `u64` takes about 16 bytes, and memory is returned as entries fire.
pub struct Wheel<T: Copy> {
    /// Ticks up to this one have been visited. Entries of exactly this tick may still be in level
    /// 0.
    elapsed: u64,
    len: usize,
    /// The level whose first slot has been moved down only in part, or 0.
    moving: usize,
    /// Where [`Wheel::sweep`] continues: slot and chunk.
    swept: (usize, usize),
    /// One bit for each slot that has entries.
    occupied: [u64; LEVELS],
    slots: Box<[WheelSlot<T>]>,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel.
    pub fn new(now: Instant) -> Self {
        let slots = (0..LEVELS * SLOTS).map(|_| WheelSlot { chunks: Vec::new() }).collect();
        Wheel {
            elapsed: now.0 >> TICK_BITS,
            len: 0,
            moving: 0,
            swept: (0, 0),
            occupied: [0; LEVELS],
            slots,
        }
    }

    /// Adds an entry. If its deadline has passed, it is due at the next [`expire`](Self::expire).
    #[inline]
    pub fn insert(&mut self, deadline: Instant, item: T) {
        let early = if Mutant::WheelEarly.is_on() { GRANULARITY_MILLIS - 1 } else { 0 };
        let tick = (deadline.0 - early.min(deadline.0)).div_ceil(GRANULARITY_MILLIS);
        let tick = tick.max(self.elapsed);
        self.place(TimerEntry { tick, item });
        self.len += 1;
    }

    /// Moves at most `limit` items that are due into `due`. Returns true when it must be called
    /// again before the work of this moment is done, because more items are due or entries are
    /// still being moved down.
    ///
    /// Visits at most 16 entries per unit of `limit` in addition to those that are due.
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
        // No entry lies between the two ticks, so the position of every entry stays correct when we
        // skip them.
        self.elapsed = self.elapsed.max(now);
        false
    }

    /// When [`expire`](Self::expire) next has something to do, at the start of a tick. That is not
    /// later than the tick in which the earliest entry fires, hence less than
    /// [`GRANULARITY_MILLIS`] after the earliest deadline. It is earlier when entries have to be
    /// moved down first. A call at that time makes progress, so a caller that sleeps until then
    /// never spins. `None` when the wheel is empty.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (_, _, start) = self.next_slot()?;
        Some(Instant(start.saturating_mul(GRANULARITY_MILLIS)))
    }

    /// Removes the entries that `keep` refuses. `keep` gets the tick at which an entry fires, as an
    /// instant. Looks at up to `chunks` times 256 entries and continues from there at the next
    /// call; true when it has completed a round. The memory of removed entries is returned.
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

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Inserts an entry at the level at which its tick first differs from `elapsed`. At that level
    /// its slot lies strictly ahead, and all entries of lower levels come before it.
    #[inline]
    fn place(&mut self, entry: TimerEntry<T>) {
        let differing = (entry.tick ^ self.elapsed).checked_ilog2().unwrap_or(0);
        let level = (differing / LEVEL_BITS) as usize;
        let slot = (entry.tick >> (level as u32 * LEVEL_BITS)) as usize % SLOTS;
        self.occupied[level] |= 1 << slot;
        self.slots[level * SLOTS + slot].push(entry);
    }

    /// The slot to visit next, and the tick at which it starts. The slots of a level are in order
    /// of time, and none lies behind `elapsed`. Lower levels come before higher ones, except that a
    /// slot that has been moved down in part comes first, because otherwise its remaining entries
    /// would be overtaken.
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

    /// Moves the entries of a slot of level 0 into `due`. False when `left` was too small for all
    /// of them.
    fn fire(&mut self, slot: usize, left: &mut usize, due: &mut Vec<T>) -> bool {
        while *left > 0 {
            let Some(entry) = self.slots[slot].pop() else { break };
            due.push(entry.item);
            *left -= 1;
            self.len -= 1;
        }
        self.clear_if_empty(0, slot)
    }

    /// Distributes the entries of a slot over the levels below. False when `moves` was too small
    /// for all of them.
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
