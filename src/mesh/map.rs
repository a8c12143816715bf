//! The map under the interest table, from 64-bit hashes to sets of shards. Readers take no locks.
//!
//! It is our own because its size is multiplied by every filter: 16 bytes per slot, which is 21 to
//! 32 per entry, found in one or two cache lines and returned when filters are removed. With a
//! million entries it takes 25 bytes each where `scc::HashIndex` takes 38. The price is
//! instructions: what a PUBLISH asks with three wildcard shapes in use takes 395 here and 303
//! there, because a table this full has to look at more slots to know that a key is absent
//! (`scripts/maps`). papaya's map, which was tried first, takes 35 bytes.
//!
//! It uses open addressing in 64 segments. A slot, once taken, keeps its key until its segment gets
//! a new table. An entry whose set is empty counts as absent. The writers of a segment take turns
//! with a lock, which only subscribing and unsubscribing need. They write the set of a new slot
//! before its key, so that a reader who sees the key also sees the set. When a table is full, or
//! nearly empty, the writer fills another one and replaces the pointer. A reader who still uses the
//! old table reads what was true when it loaded the pointer; its guard keeps the old table's memory
//! alive. Checked by `tests/loom`.
#![allow(clippy::disallowed_types, reason = "read by all shards, written by those that subscribe")]
#![allow(unsafe_code)]

use std::sync::PoisonError;

use crate::atomic::{AtomicPtr, AtomicU64, Mutex, MutexGuard, Ordering};
use crate::mutant::Mutant;
use seize::{Collector, Guard, LocalGuard};

/// The number of segments. With a million entries, the table of one segment fits into the cache and
/// is copied in some 100 µs.
pub(super) const SEGMENTS: usize = 64;
/// The number of slots of the smallest table.
pub(super) const LEAST: usize = 8;
/// The key of a slot that has never been taken.
const FREE: u64 = 0;

pub(super) struct Slot {
    key: AtomicU64,
    /// Shards 0 to 63.
    low: AtomicU64,
}

// One slot exists for every distinct filter of the process, so its size matters.
const _: () = assert!(size_of::<Slot>() == 2 * size_of::<AtomicU64>());

pub(super) struct Table {
    pub(super) slots: Box<[Slot]>,
    /// Shards 64 to 127 of each slot. Allocated only where there are that many shards.
    high: Option<Box<[AtomicU64]>>,
}

/// What the writers of a segment know about its table.
#[derive(Default)]
pub(super) struct Room {
    /// The number of slots that are taken.
    taken: usize,
    /// How many of those have a set that is not empty.
    live: usize,
}

pub(super) struct MapSegment {
    table: AtomicPtr<Table>,
    room: Mutex<Room>,
}

/// A map from keys to sets of shards, in `S` segments whose smallest table has `L` slots.
pub(super) struct Map<const S: usize = SEGMENTS, const L: usize = LEAST> {
    pub(super) segments: Box<[MapSegment]>,
    collector: Collector,
}

impl<const S: usize, const L: usize> Map<S, L> {
    pub(super) fn new() -> Self {
        let segment = |_| MapSegment {
            table: AtomicPtr::new(Table::boxed(L, false)),
            room: Mutex::default(),
        };
        // Tables are large and rarely replaced, so each is freed on its own and not in batches.
        let collector = Collector::new().batch_size(1);
        Map { segments: (0..S).map(segment).collect(), collector }
    }

    /// The guard that every look-up needs. It is cheap, and one guard can serve many look-ups.
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

    /// Adds the shard in `bit` to the set of `key`. False when it was in the set already.
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

    /// Removes the shard in `bit` from the set of `key`. False when it was not in the set.
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

    /// The number of keys whose set is not empty.
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.lock().live).sum()
    }

    /// Replaces the table of a segment by one with room for as many entries again.
    fn replace(&self, segment: &MapSegment, room: &mut Room, old: &Table, wide: bool) {
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

    /// The segment of a key, chosen by the key's lowest bits. The position within the table uses
    /// the highest bits.
    #[inline]
    fn segment(&self, key: u64) -> &MapSegment {
        &self.segments[key as usize % S]
    }
}

/// Key 0 marks free slots, so it is replaced by 1. A collision with a real key 1 names one shard
/// too many, as any other collision does.
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

    /// The slot of `key`. The search ends at the first free slot, and at least a quarter of the
    /// slots are free. Two loops, from the key's first slot to the end and from the start, need
    /// neither a bounds check nor a test for the end at each slot.
    #[inline]
    fn find(&self, key: u64) -> Option<usize> {
        let first = self.first(key);
        let (before, from) = self.slots.split_at(first);
        for (at, slot) in from.iter().enumerate() {
            match slot.key.load(Ordering::Acquire) {
                found if found == key => return Some(first + at),
                FREE => return None,
                _ => {}
            }
        }
        for (at, slot) in before.iter().enumerate() {
            match slot.key.load(Ordering::Acquire) {
                found if found == key => return Some(at),
                FREE => return None,
                _ => {}
            }
        }
        None
    }

    /// The slot for a new `key`. Only for the writer that holds the lock.
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

    /// The set of a slot. If the set is being changed at the same moment, each shard in it is read
    /// independently of the others.
    #[inline]
    fn set(&self, at: usize) -> u128 {
        let high = self.high.as_ref().map_or(0, |high| high[at].load(Ordering::Acquire));
        u128::from(self.slots[at].low.load(Ordering::Acquire)) | u128::from(high) << 64
    }

    /// Only for the writer that holds the lock.
    fn write(&self, at: usize, set: u128) {
        self.slots[at].low.store(set as u64, Ordering::Release);
        if let Some(high) = &self.high {
            high[at].store((set >> 64) as u64, Ordering::Release);
        }
    }
}

impl MapSegment {
    #[inline]
    pub(super) fn table<'g>(&self, guard: &'g LocalGuard<'_>) -> &'g Table {
        let table = guard.protect(&self.table, Ordering::Acquire);
        // SAFETY: never null; retired through the collector of the guard, so it lives while the
        // guard does.
        unsafe { &*table }
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        // A panic ends the process, so poisoning does not matter.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MapSegment {
    fn drop(&mut self) {
        // SAFETY: made by Box::into_raw; the map is being dropped, so nobody else has it.
        drop(unsafe { Box::from_raw(self.table.load(Ordering::Acquire)) });
    }
}
