//! The map under the interest table: from 64-bit hashes to sets of shards, read without locks.
//!
//! Ours, because it is on the way of every publish and its entries are multiplied by every filter:
//! 16 bytes a slot, 21 to 32 an entry, found in one or two cache lines, given back when filters go.
//! (papaya's map, tried first, takes 44 and more, three look-ups in memory, and keeps the room of
//! the largest crowd it ever had.)
//!
//! Open addressing in 64 segments. A slot is taken once and keeps its key until its segment gets a
//! new table; an entry whose set is empty is as good as none. Writers of a segment take turns
//! behind its lock, which only subscribing and unsubscribing need. They write a new slot's set
//! before its key, so that a reader who sees the key sees the set; when the table is full, or
//! nearly empty, they fill another one and replace the pointer. A reader who still has the old one
//! reads what was true when he looked the pointer up; his guard keeps its memory. Checked by
//! `tests/loom`.
#![allow(unsafe_code)]

use std::sync::PoisonError;

use crate::atomic::{AtomicPtr, AtomicU64, Mutex, MutexGuard, Ordering};
use crate::mutant::Mutant;
use seize::{Collector, Guard, LocalGuard};

/// A new table fits into the cache; a full one is copied in some 100 µs with a million entries.
pub(super) const SEGMENTS: usize = 64;
/// Slots of the smallest table.
pub(super) const LEAST: usize = 8;
/// The key of a slot that was never taken.
const FREE: u64 = 0;

pub(super) struct Slot {
    key: AtomicU64,
    /// Shards 0 to 63.
    low: AtomicU64,
}

// Multiplied by every distinct filter of the process.
const _: () = assert!(size_of::<Slot>() == 2 * size_of::<AtomicU64>());

pub(super) struct Table {
    pub(super) slots: Box<[Slot]>,
    /// Shards 64 to 127 of each slot; only where there are such.
    high: Option<Box<[AtomicU64]>>,
}

/// What the writers of a segment know of its table.
#[derive(Default)]
pub(super) struct Room {
    /// Slots that are taken.
    taken: usize,
    /// Of these, with a set that is not empty.
    live: usize,
}

pub(super) struct Segment {
    table: AtomicPtr<Table>,
    room: Mutex<Room>,
}

/// From keys to sets of shards. In `S` segments, whose smallest table has `L` slots.
pub(super) struct Map<const S: usize = SEGMENTS, const L: usize = LEAST> {
    pub(super) segments: Box<[Segment]>,
    collector: Collector,
}

impl<const S: usize, const L: usize> Map<S, L> {
    pub(super) fn new() -> Self {
        let segment =
            |_| Segment { table: AtomicPtr::new(Table::boxed(L, false)), room: Mutex::default() };
        // Tables are replaced rarely and are large: each is given back by itself.
        let collector = Collector::new().batch_size(1);
        Map { segments: (0..S).map(segment).collect(), collector }
    }

    /// What every look-up needs; cheap, and one is enough for many.
    #[inline]
    pub(super) fn enter(&self) -> LocalGuard<'_> {
        self.collector.enter()
    }

    /// The set of `key`.
    #[inline]
    pub(super) fn get(&self, key: u64, guard: &LocalGuard<'_>) -> u128 {
        let key = usable(key);
        let table = self.segment(key).table(guard);
        table.find(key).map_or(0, |at| table.set(at))
    }

    /// Adds the one shard in `bit` to the set of `key`; false when it was there.
    pub(super) fn set(&self, key: u64, bit: u128) -> bool {
        let key = usable(key);
        let segment = self.segment(key);
        let mut room = segment.lock();
        let guard = self.enter();
        let mut table = segment.table(&guard);
        let found = table.find(key);
        let old = found.map_or(0, |at| table.set(at));
        if old & bit != 0 {
            return false;
        }
        room.live += usize::from(old == 0);
        let wide = bit > u128::from(u64::MAX) && table.high.is_none();
        let full = found.is_none() && (room.taken + 1) * 4 > table.slots.len() * 3;
        if wide || full {
            self.replace(segment, &mut room, table, wide);
            table = segment.table(&guard);
        }
        let at = table.find(key).unwrap_or_else(|| {
            room.taken += 1;
            table.free_slot(key)
        });
        table.write(at, old | bit);
        table.slots[at].key.store(key, Ordering::Release);
        true
    }

    /// Takes the one shard in `bit` out of the set of `key`; false when it was not there.
    pub(super) fn clear(&self, key: u64, bit: u128) -> bool {
        let key = usable(key);
        let segment = self.segment(key);
        let mut room = segment.lock();
        let guard = self.enter();
        let table = segment.table(&guard);
        let Some(at) = table.find(key) else { return false };
        let old = table.set(at);
        if old & bit == 0 {
            return false;
        }
        let rest = if Mutant::InterestClearsOthers.is_on() { 0 } else { old & !bit };
        table.write(at, rest);
        room.live -= usize::from(rest == 0);
        if table.slots.len() > L && room.live * 8 < table.slots.len() {
            self.replace(segment, &mut room, table, false);
        }
        true
    }

    /// How many keys have a set that is not empty.
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.lock().live).sum()
    }

    /// Gives a segment a new table with room for as many entries again.
    fn replace(&self, segment: &Segment, room: &mut Room, old: &Table, wide: bool) {
        let new = Table::new((room.live * 2).max(L), wide || old.high.is_some());
        let mut taken = 0;
        for (at, slot) in old.slots.iter().enumerate() {
            let (key, set) = (slot.key.load(Ordering::Relaxed), old.set(at));
            if key != FREE && set != 0 {
                let at = new.free_slot(key);
                new.write(at, set);
                new.slots[at].key.store(key, Ordering::Relaxed);
                taken += 1;
            }
        }
        room.taken = taken;
        let old = segment.table.swap(Box::into_raw(Box::new(new)), Ordering::AcqRel);
        // SAFETY: made by Box::into_raw, out of reach of whoever enters from now on, and retired
        // once, since the segment's lock is held.
        unsafe { self.collector.retire(old, seize::reclaim::boxed) };
    }

    /// Picks by the lowest bits; the place in the table goes by the highest.
    #[inline]
    fn segment(&self, key: u64) -> &Segment {
        &self.segments[key as usize % S]
    }
}

/// 0 marks free slots. A collision with 1 names a shard too many, as any other one does.
#[inline]
fn usable(key: u64) -> u64 {
    key.max(1)
}

impl Table {
    fn new(slots: usize, wide: bool) -> Self {
        let slot = |_| Slot { key: AtomicU64::new(FREE), low: AtomicU64::new(0) };
        Table {
            slots: (0..slots).map(slot).collect(),
            high: wide.then(|| (0..slots).map(|_| AtomicU64::new(0)).collect()),
        }
    }

    fn boxed(slots: usize, wide: bool) -> *mut Table {
        Box::into_raw(Box::new(Table::new(slots, wide)))
    }

    /// The slot of `key`. There is always a free one to end the search: a quarter of them are.
    #[inline]
    fn find(&self, key: u64) -> Option<usize> {
        let mut at = self.first(key);
        loop {
            match self.slots[at].key.load(Ordering::Acquire) {
                found if found == key => return Some(at),
                FREE => return None,
                _ => at = self.next(at),
            }
        }
    }

    /// The slot that a new `key` takes. For the one writer.
    fn free_slot(&self, key: u64) -> usize {
        let mut at = self.first(key);
        while self.slots[at].key.load(Ordering::Relaxed) != FREE {
            at = self.next(at);
        }
        at
    }

    #[inline]
    fn first(&self, key: u64) -> usize {
        ((u128::from(key) * self.slots.len() as u128) >> 64) as usize
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    /// The set of a slot. Of a set that is just being changed each shard counts for itself.
    #[inline]
    fn set(&self, at: usize) -> u128 {
        let high = self.high.as_ref().map_or(0, |high| high[at].load(Ordering::Acquire));
        u128::from(self.slots[at].low.load(Ordering::Acquire)) | u128::from(high) << 64
    }

    /// For the one writer.
    fn write(&self, at: usize, set: u128) {
        self.slots[at].low.store(set as u64, Ordering::Release);
        if let Some(high) = &self.high {
            high[at].store((set >> 64) as u64, Ordering::Release);
        }
    }
}

impl Segment {
    #[inline]
    pub(super) fn table<'g>(&self, guard: &'g LocalGuard<'_>) -> &'g Table {
        let table = guard.protect(&self.table, Ordering::Acquire);
        // SAFETY: never null; retired through the collector of the guard, so it lives while the
        // guard does.
        unsafe { &*table }
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        // A panic ends the process; poisoned or not does not matter.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: made by Box::into_raw; the map is being dropped, so nobody else has it.
        drop(unsafe { Box::from_raw(self.table.load(Ordering::Acquire)) });
    }
}
