//! The lock-free map of the interest table: papaya's, in segments, each of which can be replaced by
//! a smaller one.
//!
//! A segment doubles in one go, a 64th of all at a time. (papaya's incremental mode halts between
//! writes, and every lookup meanwhile probes the old table to its limit; and in one large table
//! that is nearly full, misses take long.) papaya hardly ever shrinks, so when few of a crowd's
//! filters are left, [`Map::tidy`] copies them into a new segment.
//!
//! Why nothing is lost then. Writers count themselves into their segment and wait while it is being
//! copied, as they do while papaya doubles it; it is copied only when no writer is in it; the
//! pointer is changed before writers go on. A reader that still has the old segment reads what was
//! true when it looked up the pointer; its guard keeps the segment's memory.
#![allow(unsafe_code)]

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use seize::{Collector, Guard, LocalGuard};

/// Keys are hashes already.
#[derive(Default)]
pub(super) struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

pub(super) type BuildReady = BuildHasherDefault<Ready>;
type Table<V> = papaya::HashMap<u64, V, BuildReady>;

const SEGMENTS: usize = 64;
/// In `Segment::writers`: the segment is being copied.
const COPYING: u32 = 1 << 31;
/// A segment that never had more entries than this is not worth copying.
const FEW: usize = 64;
/// Entries copied by one call of [`Map::tidy`], one segment's more at most.
const COPIES: usize = 4096;

struct Segment<V> {
    table: AtomicPtr<Table<V>>,
    /// Writers inside, and [`COPYING`].
    writers: AtomicU32,
    /// The most entries seen since the table was made.
    peak: AtomicUsize,
}

/// From 64-bit hashes to small values.
pub(super) struct Map<V> {
    /// One for all segments, so that one guard serves all lookups of a publish.
    collector: Arc<Collector>,
    segments: Box<[Segment<V>]>,
}

impl<V: Copy + Send + Sync + 'static> Map<V> {
    pub(super) fn new() -> Self {
        let collector = Arc::new(Collector::new());
        let segment = |_| Segment {
            table: AtomicPtr::new(Box::into_raw(Box::new(table(&collector)))),
            writers: AtomicU32::new(0),
            peak: AtomicUsize::new(0),
        };
        let segments = (0..SEGMENTS).map(segment).collect();
        Map { collector, segments }
    }

    /// What every access needs; cheap, and one is enough for many.
    #[inline]
    pub(super) fn enter(&self) -> LocalGuard<'_> {
        self.collector.enter()
    }

    #[inline]
    pub(super) fn get(&self, key: u64, guard: &LocalGuard<'_>) -> Option<V> {
        self.segment(key).table(guard).get(&key, guard).copied()
    }

    /// Changes the entry of `key`: `change` gets what is there. It may be called repeatedly. False
    /// when it aborted.
    pub(super) fn change(
        &self,
        key: u64,
        change: impl FnMut(Option<(&u64, &V)>) -> papaya::Operation<V, ()>,
    ) -> bool {
        let guard = self.enter();
        let segment = self.segment(key);
        segment.begin_writing();
        let outcome = segment.table(&guard).compute(key, change, &guard);
        segment.writers.fetch_sub(1, Ordering::Release);
        !matches!(outcome, papaya::Compute::Aborted(()))
    }

    pub(super) fn len(&self) -> usize {
        let guard = self.enter();
        self.segments.iter().map(|segment| segment.table(&guard).len()).sum()
    }

    /// Gives back the room of crowds that have left, some of it per call. For one thread, every
    /// second or so.
    pub(super) fn tidy(&self) {
        let mut copied = 0;
        for segment in &self.segments {
            let guard = self.enter();
            let len = segment.table(&guard).len();
            let peak = segment.peak.fetch_max(len, Ordering::Relaxed).max(len);
            if peak > FEW && len < peak / 8 && copied < COPIES {
                copied += self.shrink(segment, &guard);
            }
        }
    }

    /// Copies a segment into a new table, unless somebody writes to it; returns how many entries.
    fn shrink(&self, segment: &Segment<V>, guard: &LocalGuard<'_>) -> usize {
        let free =
            segment.writers.compare_exchange(0, COPYING, Ordering::Acquire, Ordering::Relaxed);
        if free.is_err() {
            return 0;
        }
        let new = table(&self.collector);
        for (&key, &value) in segment.table(guard).iter(guard) {
            new.insert(key, value, guard);
        }
        let len = new.len();
        let old = segment.table.swap(Box::into_raw(Box::new(new)), Ordering::AcqRel);
        segment.peak.store(len, Ordering::Relaxed);
        segment.writers.fetch_and(!COPYING, Ordering::Release);
        // SAFETY: made by Box::into_raw, no longer reachable by who enters from now on, and retired
        // once: only the thread that set COPYING gets here.
        unsafe { self.collector.retire(old, seize::reclaim::boxed) };
        len
    }

    /// Picks by bits that papaya uses neither for the place (the lowest) nor for its tag (the
    /// highest).
    #[inline]
    fn segment(&self, key: u64) -> &Segment<V> {
        &self.segments[(key >> 48) as usize % SEGMENTS]
    }
}

fn table<V: Send + 'static>(collector: &Arc<Collector>) -> Table<V> {
    papaya::HashMap::builder()
        .hasher(BuildReady::default())
        .shared_collector(Arc::clone(collector))
        .resize_mode(papaya::ResizeMode::Blocking)
        .build()
}

impl<V> Segment<V> {
    #[inline]
    fn table<'g>(&self, guard: &'g LocalGuard<'_>) -> &'g Table<V> {
        let table = guard.protect(&self.table, Ordering::Acquire);
        // SAFETY: never null; retired through the guard's collector, so it lives while the guard
        // does.
        unsafe { &*table }
    }

    /// Waits while the segment is being copied: about as long as papaya takes to double it.
    fn begin_writing(&self) {
        while self.writers.fetch_add(1, Ordering::Acquire) & COPYING != 0 {
            self.writers.fetch_sub(1, Ordering::Relaxed);
            while self.writers.load(Ordering::Relaxed) & COPYING != 0 {
                std::thread::yield_now();
            }
        }
    }
}

impl<V> Drop for Segment<V> {
    fn drop(&mut self) {
        // SAFETY: made by Box::into_raw; the map is being dropped, so nobody else has it.
        drop(unsafe { Box::from_raw(*self.table.get_mut()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use papaya::Operation;

    /// Spread like hashes.
    fn key(number: u64) -> u64 {
        number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn put(map: &Map<u64>, number: u64) {
        assert!(map.change(key(number), |_| Operation::Insert(number)));
    }

    fn take(map: &Map<u64>, number: u64) {
        assert!(map.change(key(number), |entry| match entry {
            Some(_) => Operation::Remove,
            None => Operation::Abort(()),
        }));
    }

    #[test]
    fn what_is_left_of_a_crowd_is_there_after_its_room_was_given_back() {
        let map = Map::new();
        (0..50_000).for_each(|number| put(&map, number));
        map.tidy();
        (100..50_000).for_each(|number| take(&map, number));
        let tables =
            || -> Vec<_> { map.segments.iter().map(|s| s.table.load(Ordering::Relaxed)).collect() };
        let before = tables();
        map.tidy();
        assert!(tables().iter().zip(&before).all(|(new, old)| new != old));
        assert_eq!(map.len(), 100);
        let guard = map.enter();
        assert!((0..100).all(|number| map.get(key(number), &guard) == Some(number)));
        let after = tables();
        map.tidy();
        assert_eq!(tables(), after, "there is nothing to give back any more");
    }

    #[test]
    fn writers_and_readers_lose_nothing_while_segments_are_replaced() {
        let map = Map::new();
        let done = std::sync::atomic::AtomicBool::new(false);
        (0..1000).for_each(|number| put(&map, number));
        std::thread::scope(|scope| {
            let writer = |from: u64| {
                let map = &map;
                move || {
                    for _ in 0..20 {
                        (from..from + 10_000).for_each(|number| put(map, number));
                        (from..from + 10_000).for_each(|number| take(map, number));
                    }
                }
            };
            let writers = [scope.spawn(writer(1_000_000)), scope.spawn(writer(2_000_000))];
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    map.tidy();
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let guard = map.enter();
                    assert!((0..1000).all(|n| map.get(key(n), &guard) == Some(n)));
                }
            });
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(map.len(), 1000);
    }
}
