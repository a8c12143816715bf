//! The map under the interest table, from 64-bit hashes to sets of shards. Readers take no locks.
//!
//! It is our own because its size is multiplied by every filter: 8 bytes per slot, which is 12 to
//! 16 per entry, found in one or two cache lines and returned when filters are removed. A slot is
//! one word, with 47 bits of the key and with the shards 0 to 15. Shards from 16 on are in further
//! words, which exist only where there are so many: one per slot up to shard 79, two beyond.
//! `scripts/maps` puts the map beside `scc::HashIndex`. papaya's map, which was tried first, takes
//! 35 bytes per entry.
//!
//! It uses open addressing in 64 segments. An entry is in the first slot that was free from its
//! key's own slot on, so the search for a key goes on while the slot it looks at was passed by some
//! entry, which a bit of the slot says. An entry whose set is empty counts as absent; its slot is
//! free again at once unless other entries passed it, and otherwise with the next table. The
//! writers of a segment take turns with a lock, which only subscribing and unsubscribing need. They
//! write the further words of a new slot before its own, and mark the slots that it passes before
//! that, so that a reader who sees the key also sees the set. When a table is full, or nearly
//! empty, the writer fills another one and replaces the pointer. A reader who still uses the old
//! table reads what was true when it loaded the pointer; its guard keeps the old table's memory
//! alive. Checked by `tests/loom`.
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
/// The word of a slot without an entry.
const FREE: u64 = 0;
/// The bits of a slot's word that are the set of the shards 0 to 15.
const LOW: u64 = PASSED - 1;
/// The bit of a slot's word that says that the entries of some keys are behind this slot, which was
/// taken when they came. The last slot of a table never has it.
const PASSED: u64 = 1 << 16;
/// The first shards of a slot's further words.
const FURTHER: [u32; 2] = [16, 80];

pub(super) struct MapTable {
    /// The keys' own slots, and some more behind them for the entries that the last ones pass on.
    /// Each has a key, [`PASSED`] and [`LOW`].
    pub(super) slots: Box<[AtomicU64]>,
    /// The number of the keys' own slots.
    own: usize,
    /// Shards 16 to 79 of each slot, and the shards from 80 on. Each is allocated only where there
    /// are that many shards.
    further: [Option<Box<[AtomicU64]>>; 2],
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
            table: AtomicPtr::new(MapTable::boxed(L)),
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
        let table = self.segment(key).table(guard);
        table.find(usable(key)).map_or(0, |(at, word)| table.set(at, word))
    }

    /// Adds the shard in `bit` to the set of `key`. False when it was in the set already.
    pub(super) fn set(&self, key: u64, bit: u128) -> bool {
        let (segment, key) = (self.segment(key), usable(key));
        let mut room = segment.lock();
        let table = segment.locked(&room);
        let mut found = table.find(key);
        let old = found.map_or(0, |(at, word)| table.set(at, word));
        if old & bit != 0 {
            return false;
        }
        let width = further_words(bit);
        let wide = width > table.width();
        let full = found.is_none() && (room.taken + 1) * FULL.1 > table.own * FULL.0;
        room.live += usize::from(old == 0);
        if wide || full {
            self.replace(segment, &mut room, width, 0);
            found = segment.locked(&room).find(key);
        }
        if let Some((at, _)) = found {
            segment.locked(&room).write(at, old | bit);
            return true;
        }
        let mut behind = LEAST;
        while !segment.locked(&room).add(key, bit) {
            // Too many keys share the last slots, which hashes never do.
            behind *= 2;
            self.replace(segment, &mut room, width, behind);
        }
        room.taken += 1;
        true
    }

    /// Removes the shard in `bit` from the set of `key`. False when it was not in the set.
    pub(super) fn clear(&self, key: u64, bit: u128) -> bool {
        let (segment, key) = (self.segment(key), usable(key));
        let mut room = segment.lock();
        let table = segment.locked(&room);
        let Some((at, word)) = table.find(key) else { return false };
        let old = table.set(at, word);
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
            self.replace(segment, &mut room, 0, 0);
        }
        true
    }

    /// The number of keys whose set is not empty.
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.lock().live).sum()
    }

    /// Replaces the table of a segment by one with room for as many entries again, at least `width`
    /// further words per slot, and `behind` slots or more behind the keys' own.
    fn replace(
        &self,
        segment: &MapSegment,
        room: &mut MutexGuard<'_, SegmentRoom>,
        width: usize,
        behind: usize,
    ) {
        let (new, taken) = {
            let old = segment.locked(room);
            let width = width.max(old.width());
            let own = (room.live * 2).max(L);
            let mut behind = behind.max(usual(own));
            loop {
                let new = MapTable::new(own, behind, width);
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

/// The bits of a key that a slot has. All zero marks a free slot, so that is replaced. The lowest
/// bits choose the segment, so keys of one segment differ in 53 bits. A collision of two keys names
/// one shard too many, as any other collision does.
#[inline]
fn usable(key: u64) -> u64 {
    (key & !(LOW | PASSED)).max(PASSED << 1)
}

/// How many further words a slot needs for a set with the shard in `bit`.
fn further_words(bit: u128) -> usize {
    FURTHER.iter().filter(|&&first| bit >> first != 0).count()
}

/// How many slots are usually behind so many own ones: hashes hardly ever need more.
fn usual(own: usize) -> usize {
    (own / 4).clamp(1, 32)
}

impl MapTable {
    fn new(own: usize, behind: usize, width: usize) -> Self {
        let words = || (0..own + behind).map(|_| AtomicU64::new(FREE)).collect();
        let further = [1, 2].map(|word| (width >= word).then(words));
        MapTable { slots: words(), own, further }
    }

    fn boxed(own: usize) -> *mut MapTable {
        Box::into_raw(Box::new(MapTable::new(own, usual(own), 0)))
    }

    /// How many further words each slot has.
    fn width(&self) -> usize {
        self.further.iter().flatten().count()
    }

    /// The slot of `key`, and its word.
    #[inline]
    fn find(&self, key: u64) -> Option<(usize, u64)> {
        let from = self.first(key);
        for (at, slot) in self.slots.get(from..)?.iter().enumerate() {
            let word = slot.load(Ordering::Acquire);
            if word & !(LOW | PASSED) == key {
                return Some((from + at, word));
            }
            if word & PASSED == 0 {
                return None;
            }
        }
        None
    }

    /// Adds an entry, whose key has none. False when the slots behind its own are taken to the end
    /// of the table. Only for the writer that holds the lock.
    fn add(&self, key: u64, set: u128) -> bool {
        let first = self.first(key);
        let from = self.slots.get(first..).unwrap_or_default();
        let is_free = |slot: &AtomicU64| slot.load(Ordering::Relaxed) == FREE;
        let Some(behind) = from.iter().position(is_free) else { return false };
        let (passed, rest) = from.split_at(behind);
        for slot in passed {
            let word = slot.load(Ordering::Relaxed);
            slot.store(word | PASSED, Ordering::Release);
        }
        self.write_further(first + behind, set);
        if let Some(slot) = rest.first() {
            slot.store(key | set as u64 & LOW, Ordering::Release);
        }
        true
    }

    /// Frees a slot whose set is empty, unless entries are behind it, which are found by way of it.
    /// A reader who has seen the key, and reads the further words only when the slot has another
    /// entry, names shards too many for a key that was absent meanwhile. Only for the writer that
    /// holds the lock.
    fn free(&self, at: usize) -> bool {
        let slot = &self.slots[at];
        let passed = slot.load(Ordering::Relaxed) & PASSED != 0;
        if !passed {
            slot.store(FREE, Ordering::Release);
        }
        !passed
    }

    /// Adds the entries of another table whose sets are not empty; returns how many. `None` when
    /// one finds no slot.
    fn take_over(&self, old: &MapTable) -> Option<usize> {
        let mut taken = 0;
        for (at, slot) in old.slots.iter().enumerate() {
            let word = slot.load(Ordering::Relaxed);
            let (key, set) = (word & !(LOW | PASSED), old.set(at, word));
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

    /// The set of a slot with that word. If the set is being changed at the same moment, each shard
    /// in it is read independently of the others.
    #[inline]
    fn set(&self, at: usize, word: u64) -> u128 {
        let mut set = u128::from(word & LOW);
        for (further, first) in self.further.iter().zip(FURTHER) {
            let Some(word) = further.as_ref().and_then(|words| words.get(at)) else { break };
            set |= u128::from(word.load(Ordering::Acquire)) << first;
        }
        set
    }

    /// Changes the set of a slot. Only for the writer that holds the lock.
    fn write(&self, at: usize, set: u128) {
        self.write_further(at, set);
        let slot = &self.slots[at];
        let word = slot.load(Ordering::Relaxed);
        slot.store(word & !LOW | set as u64 & LOW, Ordering::Release);
    }

    fn write_further(&self, at: usize, set: u128) {
        for (further, first) in self.further.iter().zip(FURTHER) {
            if let Some(word) = further.as_ref().and_then(|words| words.get(at)) {
                word.store((set >> first) as u64, Ordering::Release);
            }
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
