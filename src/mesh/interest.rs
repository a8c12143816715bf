//! Which shards want which topics: the one table that all shards read and write.
//!
//! A PUBLISH is mailed only to the shards in [`Interest::shards`]. A shard adds a filter's key when
//! the filter gets its first local subscriber and removes it with the last, so the table sees a
//! write per distinct filter and shard, not per subscription. When [`Interest::add`] returns, every
//! other thread sees the shard: a SUBACK needs no round trip.
//!
//! The table maps a filter's key (see `topic::FilterKey`) to a bitmap of shards; a topic name is
//! looked up once for itself and once per wildcard shape that any shard uses. Keys can collide by
//! chance (2^-64 a pair) and then name a shard too many, never one too few. The shapes in use are
//! words in a fixed array, each with its count of shards. When the array is full, or a filter has
//! too many levels for a shape, the shard registers a wider *coarse* filter instead: false
//! positives are confined to those.
//!
//! Shared state: the map (see `map`), the array of shapes (atomics), and a ledger per shard behind
//! a lock that only the shard itself takes, while subscribing; publishing never touches it.
//! Memory per distinct filter, whatever the number of shards: 21 to 32 bytes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::map::Map;
use super::shapes::Shapes;
use crate::atomic::{AtomicU64, Ordering, fence};
use crate::ids::{ShardId, ShardSet};
use crate::limits::{MAX_SHAPES, MAX_SHARDS};
use crate::topic::{COARSE_LEVELS, FilterKey, Seeds, Shape, TopicHash};

/// Coarse keys have 0..=7 literal levels; each count of shards has a byte of one word.
const COARSE_BITS: u32 = 8;
const COARSE_MASK: u64 = (1 << COARSE_BITS) - 1;
const _: () = assert!(MAX_SHARDS < 1 << COARSE_BITS);
const _: () = assert!((COARSE_LEVELS + 1) as u32 * COARSE_BITS <= u64::BITS);

/// Keys are hashes already.
#[derive(Default)]
struct Ready(u64);

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

type BuildReady = BuildHasherDefault<Ready>;

/// Where the filters of one shape of one shard are registered. Decided with the shard's first
/// filter of the shape and kept until its last is gone, so that removal finds what was added.
#[derive(Clone, Copy)]
enum Registration {
    /// Under its own key, which needs no slot.
    Own,
    /// Under its own key, found through this slot.
    Slot(usize),
    /// Under its coarse key.
    Coarse,
}

/// What one shard has registered, beyond the bits in the map.
#[derive(Default)]
struct Ledger {
    shapes: HashMap<u64, (Registration, u32), BuildReady>,
    /// How many coarse keys of each number of levels.
    coarse: [u32; COARSE_LEVELS + 1],
    /// Keys registered by more than one of the shard's filters, and how many more.
    repeats: HashMap<u64, u32, BuildReady>,
}

/// Which shards want which topics.
pub struct Interest {
    seeds: Seeds,
    map: Map,
    shapes: Shapes<MAX_SHAPES>,
    /// For each number of levels of coarse keys, how many shards have some: a byte each.
    coarse: AtomicU64,
    ledgers: Box<[Mutex<Ledger>]>,
}

impl Interest {
    /// An empty table, for all shards of a process; they hash with the same seeds.
    pub fn new(seeds: &Seeds) -> Arc<Self> {
        Arc::new(Interest {
            seeds: seeds.clone(),
            map: Map::new(),
            shapes: Shapes::new(),
            coarse: AtomicU64::new(0),
            ledgers: (0..MAX_SHARDS).map(|_| Mutex::default()).collect(),
        })
    }

    /// Registers a filter that `shard` has just got its first subscriber for. Seen by every thread
    /// when this returns. Once per filter and shard until [`Interest::remove`].
    pub fn add(&self, shard: ShardId, key: FilterKey, filter: &str) {
        let mut ledger = self.ledger(shard);
        let place = match key.shape {
            Some(shape) if !key.coarse => self.enter_shape(&mut ledger, shape),
            _ => Registration::Own,
        };
        let key = self.registered(place, key, filter);
        if key.coarse {
            self.enter_coarse(&mut ledger, key);
        }
        // The shape is in place before the key: whoever finds the one looks for the other.
        if !self.set(key.key, shard) {
            *ledger.repeats.entry(key.key).or_insert(0) += 1;
        }
        // The SUBACK that follows must not overtake what was written above.
        fence(Ordering::SeqCst);
    }

    /// Takes back what [`Interest::add`] registered, when the shard's last subscriber of the filter
    /// is gone. Same arguments; panics when there is nothing to take back: our own mistake.
    pub fn remove(&self, shard: ShardId, key: FilterKey, filter: &str) {
        let mut ledger = self.ledger(shard);
        let shape = key.shape.filter(|_| !key.coarse);
        let place = shape.map_or(Registration::Own, |shape| ledger.place(shape));
        let key = self.registered(place, key, filter);
        if !ledger.take_repeat(key.key) {
            self.clear(key.key, shard);
        }
        if key.coarse {
            self.leave_coarse(&mut ledger, key);
        }
        if let Some(shape) = shape {
            self.leave_shape(&mut ledger, shape);
        }
    }

    /// The shards that may have a matching subscription: all that have, rarely one more.
    pub fn shards(&self, topic: &TopicHash<'_>) -> ShardSet {
        let guard = self.map.enter();
        let look = |key: u64| self.map.get(key, &guard);
        let mut set = look(topic.exact());
        for shape in self.shapes.iter() {
            if let Some(key) = topic.shape_key(shape) {
                set |= look(key);
            }
        }
        let mut coarse = self.coarse.load(Ordering::Acquire);
        while coarse != 0 {
            let levels = coarse.trailing_zeros() / COARSE_BITS;
            coarse &= !(COARSE_MASK << (levels * COARSE_BITS));
            if let Some(key) = topic.shape_key(Shape::coarse(levels as usize)) {
                set |= look(key);
            }
        }
        ShardSet(set)
    }

    /// How many distinct keys are registered.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True when no shard wants anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn ledger(&self, shard: ShardId) -> MutexGuard<'_, Ledger> {
        // A panic ends the process; a poisoned ledger is as good as any.
        self.ledgers[shard.0 as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that a filter is registered under.
    fn registered(&self, place: Registration, key: FilterKey, filter: &str) -> FilterKey {
        match place {
            Registration::Own | Registration::Slot(_) => key,
            Registration::Coarse => FilterKey::coarse(&self.seeds, filter),
        }
    }

    /// Sets the shard's bit; false when it was set before.
    fn set(&self, key: u64, shard: ShardId) -> bool {
        self.map.set(key, ShardSet::only(shard).0)
    }

    /// Clears the shard's bit.
    fn clear(&self, key: u64, shard: ShardId) {
        let cleared = self.map.clear(key, ShardSet::only(shard).0);
        assert!(cleared, "removed an interest that was not added");
    }

    /// Counts one more filter of a shape; with the shard's first, finds the shape a place.
    fn enter_shape(&self, ledger: &mut Ledger, shape: Shape) -> Registration {
        let first =
            || (self.shapes.acquire(shape).map_or(Registration::Coarse, Registration::Slot), 0);
        let (place, filters) = ledger.shapes.entry(shape.0).or_insert_with(first);
        *filters += 1;
        *place
    }

    fn leave_shape(&self, ledger: &mut Ledger, shape: Shape) {
        let (place, filters) = ledger.shapes.get_mut(&shape.0).expect("the shape was entered");
        *filters -= 1;
        if *filters > 0 {
            return;
        }
        if let Registration::Slot(at) = *place {
            self.shapes.release(at, shape);
        }
        ledger.shapes.remove(&shape.0);
        ledger.shapes.shrink_to(ledger.shapes.len() * 2);
    }

    fn enter_coarse(&self, ledger: &mut Ledger, key: FilterKey) {
        let levels = coarse_levels(key);
        ledger.coarse[levels] += 1;
        if ledger.coarse[levels] == 1 {
            self.coarse.fetch_add(1 << (levels as u32 * COARSE_BITS), Ordering::SeqCst);
        }
    }

    fn leave_coarse(&self, ledger: &mut Ledger, key: FilterKey) {
        let levels = coarse_levels(key);
        ledger.coarse[levels] -= 1;
        if ledger.coarse[levels] == 0 {
            self.coarse.fetch_sub(1 << (levels as u32 * COARSE_BITS), Ordering::SeqCst);
        }
    }
}

impl Ledger {
    fn place(&self, shape: Shape) -> Registration {
        self.shapes.get(&shape.0).expect("the shape was entered").0
    }

    /// True when another filter of the shard was registered under the same key and keeps it.
    fn take_repeat(&mut self, key: u64) -> bool {
        let Some(more) = self.repeats.get_mut(&key) else { return false };
        *more -= 1;
        if *more == 0 {
            self.repeats.remove(&key);
            self.repeats.shrink_to(self.repeats.len() * 2);
        }
        true
    }
}

fn coarse_levels(key: FilterKey) -> usize {
    key.shape.expect("coarse keys have a shape").levels()
}

#[cfg(test)]
#[path = "interest_tests.rs"]
mod tests;
