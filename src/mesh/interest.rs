//! The interest table: which shards have subscribers for which topics. It is the one table that all
//! shards read and write.
//!
//! A PUBLISH is mailed only to the shards in [`Interest::shards`]. A shard adds the key of a filter
//! when the filter gets its first local subscriber, and removes it with the last one, so the table
//! is written once per distinct filter and shard and not once per subscription. When
//! [`Interest::add`] returns, every other thread sees the shard's interest; therefore a SUBACK
//! needs no round trip to the other shards.
//!
//! The table maps a filter's key (see `topic::FilterKey`) to a bitmap of shards. A topic name is
//! looked up once for itself and once for each wildcard shape that any shard uses. Keys can collide
//! by chance (with probability 2^-64 per pair) and then name one shard too many, but never one too
//! few. The shapes in use are words in a fixed array, each with the number of shards that use it.
//! When the array is full, or a filter has too many levels to have a shape, the shard registers a
//! wider *coarse* filter instead. False positives are limited to those.
//!
//! Shared state: the map (see `map`), the array of shapes (atomics), and one ledger per shard
//! behind a lock. Only the shard itself takes that lock, while subscribing; publishing never
//! touches it. Memory per distinct filter, with up to 16 shards: 12 to 16 bytes.
#![allow(
    clippy::disallowed_types,
    reason = "the table that all shards read, and a ledger per shard"
)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::map::Map;
use super::shapes::Shapes;
use crate::atomic::{AtomicU64, Ordering, OwnLine, fence};
use crate::ids::{ShardId, ShardSet};
use crate::limits::{MAX_SHAPES, MAX_SHARDS};
use crate::topic::{COARSE_LEVELS, FilterKey, Seeds, Shape, TopicHash};

/// Coarse keys have 0..=7 literal levels. For each number of levels, one byte of a word counts the
/// shards that use such keys.
const COARSE_BITS: u32 = 8;
const COARSE_MASK: u64 = (1 << COARSE_BITS) - 1;
const _: () = assert!(MAX_SHARDS < 1 << COARSE_BITS);
const _: () = assert!((COARSE_LEVELS + 1) as u32 * COARSE_BITS <= u64::BITS);

/// A hasher that returns its input: the keys are hashes already.
#[derive(Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
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

type BuildReady = BuildHasherDefault<IdentityHasher>;

/// How the filters of one shape are registered for one shard. This is decided with the shard's
/// first filter of the shape and kept until its last one is removed, so that removal finds what was
/// added.
#[derive(Clone, Copy)]
enum Registration {
    /// Under its own key. The shape needs no slot.
    Own,
    /// Under its own key, which readers find through this slot of the shapes.
    Slot(usize),
    /// Under its coarse key.
    Coarse,
}

/// The registrations of one shard, in addition to its bits in the map.
#[derive(Default)]
struct Ledger {
    shapes: HashMap<u64, (Registration, u32), BuildReady>,
    /// For each number of levels, how many coarse keys the shard has.
    coarse: [u32; COARSE_LEVELS + 1],
    /// Keys that are registered by more than one of the shard's filters, with the number of further
    /// filters.
    repeats: HashMap<u64, u32, BuildReady>,
}

/// The table of which shards want which topics.
pub struct Interest {
    seeds: Seeds,
    map: Map,
    shapes: Shapes<MAX_SHAPES>,
    /// For each number of levels, how many shards have coarse keys with it; one byte each.
    coarse: AtomicU64,
    ledgers: Box<[OwnLine<Mutex<Ledger>>]>,
}

/// Hands out the keys of the coarse filters that match the topic, for the numbers of levels in
/// `coarse` ([`Interest::coarse`]).
fn coarse_keys(mut coarse: u64, topic: &TopicHash<'_>, mut take: impl FnMut(u64)) {
    while coarse != 0 {
        let levels = coarse.trailing_zeros() / COARSE_BITS;
        coarse &= !(COARSE_MASK << (levels * COARSE_BITS));
        if let Some(key) = topic.shape_key(Shape::coarse(levels as usize)) {
            take(key);
        }
    }
}

impl Interest {
    /// Creates an empty table for all shards of a process, which hash with the same seeds.
    pub fn new(seeds: &Seeds) -> Arc<Self> {
        Arc::new(Interest {
            seeds: seeds.clone(),
            map: Map::new(),
            shapes: Shapes::new(),
            coarse: AtomicU64::new(0),
            ledgers: (0..MAX_SHARDS).map(|_| OwnLine::default()).collect(),
        })
    }

    /// Registers a filter for which `shard` has just got its first subscriber. Every thread sees
    /// the registration when this returns. To be called once per filter and shard until
    /// [`Interest::remove`].
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
        // The shape is registered before the key, so that whoever could find the key also looks for
        // its shape.
        if !self.set(key.key, shard) {
            *ledger.repeats.entry(key.key).or_insert(0) += 1;
        }
        // The SUBACK that follows must not become visible before the registration above.
        fence(Ordering::SeqCst);
    }

    /// Reverts [`Interest::add`], with the same arguments, when the shard's last subscriber of the
    /// filter is gone. Panics when there is no such registration, which would be a mistake of the
    /// caller.
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

    /// The shards that may have a matching subscription: all shards that have one, and rarely
    /// another.
    pub fn shards(&self, topic: &TopicHash<'_>) -> ShardSet {
        let mut set = 0;
        self.each_entry(topic, |_, shards, _| set |= shards);
        ShardSet(set)
    }

    /// Which filters of that shard match, as one number: topics of the same number have the same
    /// subscribers there. `None` when that is not known, for a coarse filter stands for more than
    /// the shard has.
    pub fn matched(&self, topic: &TopicHash<'_>, shard: ShardId) -> Option<u64> {
        let mut sum = Some(0u64);
        self.each_entry(topic, |key, shards, coarse| {
            if ShardSet(shards).contains(shard) {
                sum = sum.filter(|_| !coarse).map(|sum| sum.wrapping_add(key));
            }
        });
        sum
    }

    /// Hands out each key that a filter which matches the topic is registered under, with the
    /// shards that have it, and whether it is a coarse one.
    #[inline]
    fn each_entry(&self, topic: &TopicHash<'_>, mut take: impl FnMut(u64, u128, bool)) {
        let guard = self.map.enter();
        take(topic.exact(), self.map.get(topic.exact(), &guard), false);
        for shape in self.shapes.iter() {
            if let Some(key) = topic.shape_key(shape) {
                take(key, self.map.get(key, &guard), false);
            }
        }
        let coarse = self.coarse.load(Ordering::Acquire);
        if coarse != 0 {
            coarse_keys(coarse, topic, |key| take(key, self.map.get(key, &guard), true));
        }
    }

    /// Whether a coarse filter of that shard matches: the shard has wildcards in very many places,
    /// and may have to look at very many filters.
    #[inline]
    pub fn is_coarse(&self, topic: &TopicHash<'_>, shard: ShardId) -> bool {
        let coarse = self.coarse.load(Ordering::Acquire);
        coarse != 0 && self.is_coarse_at(coarse, topic, shard)
    }

    #[inline(never)]
    fn is_coarse_at(&self, coarse: u64, topic: &TopicHash<'_>, shard: ShardId) -> bool {
        let guard = self.map.enter();
        let mut is_coarse = false;
        coarse_keys(coarse, topic, |key| {
            is_coarse |= ShardSet(self.map.get(key, &guard)).contains(shard);
        });
        is_coarse
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
        // A panic ends the process, so nobody can meet a poisoned lock with half-written data.
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

    /// Counts one more filter of a shape. For the shard's first filter of this shape, also decides
    /// how the shape is registered.
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
