//! Which stored values are alive, and where each is. What is alive of a segment shows when it is
//! read: a record is alive when the index has its position.

use super::record::Key;
use hashbrown::HashMap;

/// Bits of a [`Position`] that say where in a batch.
const OFFSET_BITS: u32 = 28;

/// Where a record is: its batch, and the byte of the batch's payload that it begins at. Not where
/// in which file: a batch that cannot be written where it was meant to go is written elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position(u64);

impl Position {
    /// The record at that byte of that batch's payload.
    pub fn new(batch: u64, offset: usize) -> Position {
        Position(batch << OFFSET_BITS | offset as u64)
    }

    /// The batch.
    pub fn batch(self) -> u64 {
        self.0 >> OFFSET_BITS
    }
}

const _: () = assert!(super::frame::BATCH_PAYLOAD < 1 << OFFSET_BITS);

/// The newest value of a key: where it is, and its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Value {
    /// Where.
    pub position: Position,
    /// Bytes of the record.
    pub length: u32,
}

/// The values that are alive.
#[derive(Default)]
pub struct Index {
    values: HashMap<Key, Value, foldhash::fast::RandomState>,
    live: u64,
}

// What each stored value costs in memory, besides what a hash table leaves empty.
const _: () = assert!(size_of::<(Key, Value)>() <= 32);

impl Index {
    /// Bytes of all records that are alive.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.values.capacity() * (size_of::<(Key, Value)>() + 1)
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The newest value of a key.
    pub fn get(&self, key: Key) -> Option<Value> {
        self.values.get(&key).copied()
    }

    /// A newer value.
    pub fn put(&mut self, key: Key, value: Value) {
        self.live += u64::from(value.length);
        if let Some(old) = self.values.insert(key, value) {
            self.live -= u64::from(old.length);
        }
    }

    /// No value any more; true when there was one.
    pub fn take(&mut self, key: Key) -> bool {
        let Some(old) = self.values.remove(&key) else { return false };
        self.live -= u64::from(old.length);
        if self.values.len() < self.values.capacity() / 8 {
            self.values.shrink_to(self.values.len() * 2);
        }
        true
    }
}
