//! Hash tables that a client can make large. An ordinary table moves all its entries when it grows,
//! which takes milliseconds with tens of thousands of entries. The tables here are divided into
//! segments that grow and shrink one by one, so that no insertion moves more than a small part of
//! the whole. Pure; a table belongs to whatever owns it.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;
use hashbrown::hash_table::{Entry, VacantEntry};

/// Segments of a large table; a power of two.
const SEGMENTS: usize = 256;
/// With this many entries a table changes from one segment to [`SEGMENTS`].
const SPLIT: usize = 1024;
/// With fewer entries than this a table changes back to one segment.
const FEW: usize = SPLIT / 16;
/// A segment with more capacity than this gives it back when it is nearly empty.
const ROOM: usize = 16;

/// A table of values by hash. The caller says with each call which value is meant and what the hash
/// of a value is. The hash of a value must not change while it is in the table.
pub struct SplitTable<T> {
    /// The segments: 1 or [`SEGMENTS`] of them.
    segments: Vec<HashTable<T>>,
    len: usize,
}

/// The place of a value that is not in a table yet.
pub struct FreePlace<'a, T> {
    entry: VacantEntry<'a, T>,
    len: &'a mut usize,
}

impl<T> FreePlace<'_, T> {
    /// Adds the value.
    pub fn fill(self, value: T) {
        self.entry.insert(value);
        *self.len += 1;
    }
}

impl<T> Default for SplitTable<T> {
    fn default() -> Self {
        SplitTable { segments: vec![HashTable::new()], len: 0 }
    }
}

impl<T> SplitTable<T> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// All values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flatten()
    }

    /// The segment of a hash. It is chosen by bits that hashbrown uses neither for the bucket (the
    /// lowest) nor for its tag (the highest seven).
    #[inline]
    fn at(&self, hash: u64) -> usize {
        (hash >> 48) as usize & (self.segments.len() - 1)
    }

    /// The value with this hash for which `is_it` is true.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.segments[self.at(hash)].find(hash, is_it)
    }

    /// The value with this hash for which `is_it` is true, to be changed.
    pub fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let at = self.at(hash);
        self.segments[at].find_mut(hash, is_it)
    }

    /// Adds a value that is not in the table yet.
    pub fn insert(&mut self, hash: u64, value: T, hash_of: impl Fn(&T) -> u64) {
        self.divide_if_due(&hash_of);
        self.place(hash, value, &hash_of);
        self.len += 1;
    }

    /// The value with this hash for which `is_it` is true, or the place for it.
    pub fn look_up(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        hash_of: impl Fn(&T) -> u64,
    ) -> Result<&mut T, FreePlace<'_, T>> {
        self.divide_if_due(&hash_of);
        let at = self.at(hash);
        match self.segments[at].entry(hash, is_it, hash_of) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(entry) => Err(FreePlace { entry, len: &mut self.len }),
        }
    }

    fn divide_if_due(&mut self, hash_of: &impl Fn(&T) -> u64) {
        if self.len == SPLIT && self.segments.len() == 1 {
            let whole = std::mem::take(&mut self.segments);
            self.segments.resize_with(SEGMENTS, HashTable::new);
            for value in whole.into_iter().flatten() {
                self.place(hash_of(&value), value, hash_of);
            }
        }
    }

    fn place(&mut self, hash: u64, value: T, hash_of: &impl Fn(&T) -> u64) {
        let at = self.at(hash);
        self.segments[at].insert_unique(hash, value, hash_of);
    }

    /// Removes and returns the value with this hash for which `is_it` is true.
    pub fn remove(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        hash_of: impl Fn(&T) -> u64,
    ) -> Option<T> {
        let at = self.at(hash);
        let segment = &mut self.segments[at];
        let (value, _) = segment.find_entry(hash, is_it).ok()?.remove();
        let (len, room) = (segment.len(), segment.capacity());
        if room > ROOM && len < room / 8 {
            segment.shrink_to(len * 2, &hash_of);
        }
        self.len -= 1;
        if self.len < FEW && self.segments.len() > 1 {
            let many = std::mem::replace(&mut self.segments, vec![HashTable::new()]);
            for value in many.into_iter().flatten() {
                self.place(hash_of(&value), value, &hash_of);
            }
        }
        Some(value)
    }

    /// Bytes that the table has allocated.
    #[cfg(test)]
    pub fn allocated(&self) -> usize {
        let segments = self.segments.capacity() * size_of::<HashTable<T>>();
        segments + self.segments.iter().map(HashTable::allocation_size).sum::<usize>()
    }
}

/// A map that is built on [`SplitTable`].
pub struct SplitMap<K, V> {
    table: SplitTable<(K, V)>,
    hasher: foldhash::fast::RandomState,
}

impl<K, V> Default for SplitMap<K, V> {
    fn default() -> Self {
        SplitMap { table: SplitTable::default(), hasher: Default::default() }
    }
}

impl<K: Hash + Eq, V> SplitMap<K, V> {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// All keys with their values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.table.iter().map(|(key, value)| (key, value))
    }

    /// All values, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.table.iter().map(|(_, value)| value)
    }

    /// The value of a key.
    #[inline]
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let found = self.table.find(self.hasher.hash_one(key), |(known, _)| known.borrow() == key);
        found.map(|(_, value)| value)
    }

    /// The value of a key, to be changed.
    #[inline]
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        self.table.find_mut(hash, |(known, _)| known.borrow() == key).map(|(_, value)| value)
    }

    /// Sets the value of a key, and returns the value that it had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let SplitMap { table, hasher } = self;
        let hash = hasher.hash_one(&key);
        if let Some((_, known)) = table.find_mut(hash, |(known, _)| *known == key) {
            return Some(std::mem::replace(known, value));
        }
        table.insert(hash, (key, value), |(key, _)| hasher.hash_one(key));
        None
    }

    /// The value of a key. If the key has none, `make` makes it.
    pub fn or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V
    where
        K: Clone,
    {
        let SplitMap { table, hasher } = self;
        let hash = hasher.hash_one(&key);
        if table.find(hash, |(known, _)| *known == key).is_none() {
            table.insert(hash, (key.clone(), make()), |(key, _)| hasher.hash_one(key));
        }
        let found = table.find_mut(hash, |(known, _)| *known == key);
        &mut found.expect("it was inserted just now").1
    }

    /// Removes a key, and returns its value.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let hasher = &self.hasher;
        let is_it = |(known, _): &(K, V)| known.borrow() == key;
        let hash_of = |(key, _): &(K, V)| hasher.hash_one(key);
        self.table.remove(hasher.hash_one(key), is_it, hash_of).map(|(_, value)| value)
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
