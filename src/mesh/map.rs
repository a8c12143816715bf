//! The map under the interest table, from 64-bit hashes to sets of shards. Readers take no locks.
//!
//! It is our own because its size is multiplied by every filter: 16 bytes per slot, which is 24 to
//! 32 per entry, found in one or two cache lines and returned when filters are removed. Beside
//! `scc::HashIndex` (`scripts/maps`, means over sizes around 1,300,000 entries) it takes 27.6 bytes
//! instead of 29.8 for each; what a PUBLISH asks with three wildcard shapes in use takes 290
//! instructions instead of 299, and an entry that comes and goes 393 instead of 465. papaya's map,
//! which was tried first, takes 35 bytes.
//!
//! It uses open addressing in 64 segments. An entry is in the first slot that was free from its
//! key's own slot on, so the search for a key goes on while the slot it looks at was passed by some
//! entry, which a bit of the slot says. An entry whose set is empty counts as absent; its slot is
//! free again at once unless other entries passed it, and otherwise with the next table. The
//! writers of a segment take turns with a lock, which only subscribing and unsubscribing need. They
//! write the set of a new slot before its key, and mark the slots that it passes before that, so
//! that a reader who sees the key also sees the set. When a table is full, or nearly empty, the
//! writer fills another one and replaces the pointer. A reader who still uses the old table reads
//! what was true when it loaded the pointer; its guard keeps the old table's memory alive. Checked
//! by `tests/loom`.
#![allow(clippy::disallowed_types, reason = "read by all shards, written by those that subscribe")]
#![allow(unsafe_code)]

use std::sync::PoisonError;

use crate::atomic::{AtomicPtr, AtomicU64, Mutex, MutexGuard, Ordering, OwnLine};
use crate::mutant::Mutant;
use seize::{Collector, Guard, LocalGuard};

/// The number of segments. With a million entries, the table of one segment fits into the cache and
/// is copied in some 100 µs.
pub(super) const SEGMENTS: usize = 64;
/// The number of slots of the smallest table.
pub(super) const LEAST: usize = 8;
/// A table is replaced by a larger one when more than this part of the keys' own slots is taken.
const FULL: (usize, usize) = (2, 3);
/// The key of a slot without an entry.
const FREE: u64 = 0;
/// The bit of a slot's key that says that the entries of some keys are behind this slot, which was
/// taken when they came. The last slot of a table never has it. No key of an entry has it.
const PASSED: u64 = 1 << 16;

pub(super) struct MapSlot {
    /// The key, and [`PASSED`].
    key: AtomicU64,
    /// Shards 0 to 63.
    low: AtomicU64,
}

// One slot exists for every distinct filter of the process, so its size matters.
const _: () = assert!(size_of::<MapSlot>() == 2 * size_of::<AtomicU64>());

pub(super) struct MapTable {
    /// The keys' own slots, and some more behind them for the entries that the last ones pass on.
    pub(super) slots: Box<[MapSlot]>,
    /// The number of the keys' own slots.
    own: usize,
    /// Shards 64 to 127 of each slot. Allocated only where there are that many shards.
    high: Option<Box<[AtomicU64]>>,
}

/// What the writers of a segment know about its table.
#[derive(Default)]
pub(super) struct SegmentRoom {
    /// The number of slots that are taken.
    taken: usize,
    /// How many of those have a set that is not empty.
    live: usize,
}

pub(super) struct MapSegment {
    table: AtomicPtr<MapTable>,
    /// Readers only want the pointer, which hardly ever changes, so the lock is elsewhere.
    room: OwnLine<Mutex<SegmentRoom>>,
}

/// A map from keys to sets of shards, in `S` segments whose smallest table has `L` slots.
pub(super) struct Map<const S: usize = SEGMENTS, const L: usize = LEAST> {
    pub(super) segments: Box<[MapSegment; S]>,
    collector: Collector,
}

impl<const S: usize, const L: usize> Map<S, L> {
    pub(super) fn new() -> Self {
        let segment = |_| MapSegment {
            table: AtomicPtr::new(MapTable::boxed(L, false)),
            room: OwnLine(Mutex::default()),
        };
        // Tables are large and rarely replaced, so each is freed on its own and not in batches.
        let collector = Collector::new().batch_size(1);
        Map { segments: Box::new(std::array::from_fn(segment)), collector }
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
        let table = segment.locked(&room);
        let mut found = table.find(key);
        let old = found.map_or(0, |at| table.set(at));
        if old & bit != 0 {
            return false;
        }
        let wide = bit > u128::from(u64::MAX) && table.high.is_none();
        let full = found.is_none() && (room.taken + 1) * FULL.1 > table.own * FULL.0;
        room.live += usize::from(old == 0);
        if wide || full {
            self.replace(segment, &mut room, wide, 0);
            found = segment.locked(&room).find(key);
        }
        if let Some(at) = found {
            segment.locked(&room).write(at, old | bit);
            return true;
        }
        let mut behind = LEAST;
        while !segment.locked(&room).add(key, bit) {
            // Too many keys share the last slots, which hashes never do.
            behind *= 2;
            self.replace(segment, &mut room, wide, behind);
        }
        room.taken += 1;
        true
    }

    /// Removes the shard in `bit` from the set of `key`. False when it was not in the set.
    pub(super) fn clear(&self, key: u64, bit: u128) -> bool {
        let key = usable(key);
        let segment = self.segment(key);
        let mut room = segment.lock();
        let table = segment.locked(&room);
        let Some(at) = table.find(key) else { return false };
        let old = table.set(at);
        if old & bit == 0 {
            return false;
        }
        let rest = if Mutant::InterestClearsOthers.is_on() { 0 } else { old & !bit };
        table.write(at, rest);
        if rest != 0 {
            return true;
        }
        let (freed, own) = (table.free(at), table.own);
        room.live -= 1;
        room.taken -= usize::from(freed);
        if own > L && room.live * 8 < own {
            self.replace(segment, &mut room, false, 0);
        }
        true
    }

    /// The number of keys whose set is not empty.
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.lock().live).sum()
    }

    /// Replaces the table of a segment by one with room for as many entries again, and `behind`
    /// slots or more behind the keys' own.
    fn replace(
        &self,
        segment: &MapSegment,
        room: &mut MutexGuard<'_, SegmentRoom>,
        wide: bool,
        behind: usize,
    ) {
        let (new, taken) = {
            let old = segment.locked(room);
            let wide = wide || old.high.is_some();
            let own = (room.live * 2).max(L);
            let mut behind = behind.max(usual(own));
            loop {
                let new = MapTable::new(own, behind, wide);
                if let Some(taken) = new.take_over(old) {
                    break (new, taken);
                }
                behind *= 2;
            }
        };
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

/// The key without the bit that slots need for themselves. Key 0 marks free slots, so it is
/// replaced by 1. A collision of two keys names one shard too many, as any other collision does.
#[inline]
fn usable(key: u64) -> u64 {
    (key & !PASSED).max(1)
}

/// How many slots are usually behind so many own ones: hashes hardly ever need more.
fn usual(own: usize) -> usize {
    (own / 4).clamp(1, 32)
}

impl MapTable {
    fn new(own: usize, behind: usize, wide: bool) -> Self {
        let slots = own + behind;
        let slot = |_| MapSlot { key: AtomicU64::new(FREE), low: AtomicU64::new(0) };
        MapTable {
            slots: (0..slots).map(slot).collect(),
            own,
            high: wide.then(|| (0..slots).map(|_| AtomicU64::new(0)).collect()),
        }
    }

    fn boxed(own: usize, wide: bool) -> *mut MapTable {
        Box::into_raw(Box::new(MapTable::new(own, usual(own), wide)))
    }

    /// The slot of `key`.
    #[inline]
    fn find(&self, key: u64) -> Option<usize> {
        let from = self.first(key);
        for (at, slot) in self.slots.get(from..)?.iter().enumerate() {
            let found = slot.key.load(Ordering::Acquire);
            if found == key | PASSED {
                return Some(from + at);
            }
            if found & PASSED == 0 {
                return (found == key).then_some(from + at);
            }
        }
        None
    }

    /// Adds an entry, whose key has none. False when the slots behind its own are taken to the end
    /// of the table. Only for the writer that holds the lock.
    fn add(&self, key: u64, set: u128) -> bool {
        let first = self.first(key);
        let from = self.slots.get(first..).unwrap_or_default();
        let is_free = |slot: &MapSlot| slot.key.load(Ordering::Relaxed) == FREE;
        let Some(behind) = from.iter().position(is_free) else { return false };
        let (passed, rest) = from.split_at(behind);
        for slot in passed {
            let found = slot.key.load(Ordering::Relaxed);
            slot.key.store(found | PASSED, Ordering::Release);
        }
        self.write(first + behind, set);
        if let Some(slot) = rest.first() {
            slot.key.store(key, Ordering::Release);
        }
        true
    }

    /// Frees a slot whose set is empty, unless entries are behind it, which are found by way of it.
    /// A reader who has seen the key, and reads the set only when the slot has another entry, names
    /// shards too many for a key that was absent meanwhile. Only for the writer that holds the
    /// lock.
    fn free(&self, at: usize) -> bool {
        let slot = &self.slots[at];
        let passed = slot.key.load(Ordering::Relaxed) & PASSED != 0;
        if !passed {
            slot.key.store(FREE, Ordering::Release);
        }
        !passed
    }

    /// Adds the entries of another table whose sets are not empty; returns how many. `None` when
    /// one finds no slot.
    fn take_over(&self, old: &MapTable) -> Option<usize> {
        let mut taken = 0;
        for (at, slot) in old.slots.iter().enumerate() {
            let (key, set) = (slot.key.load(Ordering::Relaxed) & !PASSED, old.set(at));
            if key == FREE || set == 0 {
                continue;
            }
            if !self.add(key, set) {
                return None;
            }
            taken += 1;
        }
        Some(taken)
    }

    /// The own slot of a key.
    #[inline]
    fn first(&self, key: u64) -> usize {
        ((u128::from(key) * self.own as u128) >> 64) as usize
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
    pub(super) fn table<'g>(&self, guard: &'g LocalGuard<'_>) -> &'g MapTable {
        let table = guard.protect(&self.table, Ordering::Acquire);
        // SAFETY: never null; retired through the collector of the guard, so it lives while the
        // guard does.
        unsafe { &*table }
    }

    /// The table, for the writer that holds the segment's lock.
    fn locked<'g>(&self, _room: &'g MutexGuard<'_, SegmentRoom>) -> &'g MapTable {
        let table = self.table.load(Ordering::Acquire);
        // SAFETY: never null; retired only by the writer that holds the lock, which needs `room` as
        // mutable for that, so no reference from here is left then.
        unsafe { &*table }
    }

    fn lock(&self) -> MutexGuard<'_, SegmentRoom> {
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
