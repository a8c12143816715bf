//! Compares the interest table's map (`src/mesh/map.rs`, compiled from there) with
//! `scc::HashIndex`. Both map a 64-bit key to a set of at most 64 shards.
//!
//! - `ringmq-maps bytes MAP COUNT` prints the bytes that the map takes per entry and, after nine
//!   tenths of the entries are removed, per remaining entry.
//! - `ringmq-maps OPERATION MAP COUNT` performs `OPERATION` COUNT times on a map of 100,000
//!   entries, for a tool that counts instructions. The difference between two runs with different
//!   COUNT leaves out what is done once. `publish` is the work for a topic name when three wildcard
//!   shapes are in use: four look-ups under one guard, one of which finds something. `change` is a
//!   filter that gets its first subscriber on a shard and loses it again.

#[path = "../../../src/atomic.rs"]
#[allow(unused_imports)]
mod atomic;
mod mesh;
#[path = "../../../src/mutant/mod.rs"]
#[allow(dead_code)]
mod mutant;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes that are allocated and not freed.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls are passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the promises of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the promises of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A hasher that returns the key, as keys are hashes already.
#[derive(Default)]
pub struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers")
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

type Build = BuildHasherDefault<Same>;

/// The operations that the interest table needs of its map.
trait Interest {
    /// The union of the sets of some keys.
    fn get(&self, keys: [u64; 4]) -> u64;
    fn add(&self, key: u64, bit: u64);
    /// Removes a bit from the set of a key that has it.
    fn remove(&self, key: u64, bit: u64);
}

impl Interest for scc::HashIndex<u64, u64, Build> {
    fn get(&self, keys: [u64; 4]) -> u64 {
        let guard = scc::Guard::new();
        keys.iter().filter_map(|key| self.peek(key, &guard)).fold(0, |all, set| all | set)
    }
    fn add(&self, key: u64, bit: u64) {
        match self.entry_sync(key) {
            scc::hash_index::Entry::Occupied(mut entry) => {
                let set = *entry.get() | bit;
                entry.update(set);
            }
            scc::hash_index::Entry::Vacant(entry) => drop(entry.insert_entry(bit)),
        }
    }
    fn remove(&self, key: u64, bit: u64) {
        if let scc::hash_index::Entry::Occupied(mut entry) = self.entry_sync(key) {
            match *entry.get() & !bit {
                0 => entry.remove_entry(),
                set => entry.update(set),
            }
        }
    }
}

/// A key for a number, spread like a hash by the last step of SplitMix64.
fn key(number: u64) -> u64 {
    let mut key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ (key >> 31)
}

/// Entries of the maps on which the operations work, about.
const ENTRIES: u64 = 100_000;

/// Four sizes that differ by the fourth root of 2. What a map costs depends on how long ago it
/// grew, so one size alone says little.
fn sizes(least: u64) -> [u64; 4] {
    [100, 119, 141, 168].map(|percent| least * percent / 100)
}

/// Bytes of an entry, and of an entry that is left when nine of ten were removed; means of four
/// sizes.
fn bytes(map: impl Fn() -> Box<dyn Interest>, least: u64) {
    let (mut all, mut tenth) = (0.0, 0.0);
    for count in sizes(least) {
        let before = LIVE.load(Ordering::Relaxed);
        let map = map();
        (0..count).for_each(|number| map.add(key(number), 1));
        let full = LIVE.load(Ordering::Relaxed) - before;
        (count / 10..count).for_each(|number| map.remove(key(number), 1));
        // Later operations free the entries that were removed before.
        (0..count / 10).for_each(|number| map.add(key(number), 2));
        let left = LIVE.load(Ordering::Relaxed) - before;
        all += full as f64 / count as f64 / 4.0;
        tenth += left as f64 / (count / 10) as f64 / 4.0;
    }
    println!("{all:.1} {tenth:.1}");
}

/// A quarter of the operations on a map of each size.
fn run(make: impl Fn() -> Box<dyn Interest>, operation: &str, count: u64) {
    for entries in sizes(ENTRIES) {
        let map = make();
        (0..entries).for_each(|number| map.add(key(number), 1));
        for round in 0..count / 4 {
            let found = key(round * 7 % entries);
            match operation {
                "publish" => {
                    let keys = [found, !found, found.rotate_left(20), found.rotate_left(40)];
                    black_box(map.get(black_box(keys)));
                }
                "change" => {
                    map.add(!found, 1);
                    map.remove(!found, 1);
                }
                _ => panic!("no operation {operation}"),
            }
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [operation, name, count] = &words[..] else { panic!("OPERATION MAP COUNT") };
    let make = |name: &str| -> Box<dyn Interest> {
        match name {
            "ours" => Box::new(mesh::Ours::new()),
            "scc" => Box::new(scc::HashIndex::<u64, u64, Build>::default()),
            _ => panic!("no map {name}"),
        }
    };
    let count = count.parse().expect("a number");
    match operation.as_str() {
        "bytes" => bytes(|| make(name), count),
        _ => run(|| make(name), operation, count),
    }
}
