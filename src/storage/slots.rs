//! The positions of what is stored of messages that wait for sessions: of the reference to the
//! message, and of the state of its delivery once it was sent. Part of a shard's
//! [`super::index::LogIndex`].
//!
//! Such values come and go with every message, in an order that no cache helps with. So both are in
//! one entry, and the entries are in the table itself: each step costs one look-up, and no more
//! memory is touched than the look-up needs.

use super::index::{IndexValue, RecordPosition};
use super::record::STATE_LENGTH;
use crate::split::SplitTable;
use std::hash::BuildHasher;

/// Bytes of memory of an entry, with what the table leaves empty, on average.
const ENTRY: usize = 44;

/// A session's number, and the number of the message within the session.
pub(super) type Slot = (u64, u32);

/// The values of a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotValue {
    /// The reference to the message.
    Fan,
    /// The state of its delivery.
    State,
}

/// What is stored for a slot.
#[derive(Clone, Copy)]
struct SlotEntry {
    /// The number of the session, 48 bits.
    session: [u16; 3],
    slot: [u16; 2],
    /// Bytes of the reference's record; 0 when there is none.
    length: u16,
    /// The position of the reference.
    fan: [u32; 2],
    /// The position of the state, whose record has [`STATE_LENGTH`] bytes; 0 when there is none: no
    /// batch has the number 0.
    state: [u32; 2],
}

// A million messages may wait for clients that are not connected.
const _: () = assert!(size_of::<SlotEntry>() == 28);

impl SlotEntry {
    fn new((session, slot): Slot) -> SlotEntry {
        let session = [0, 16, 32].map(|bits| (session >> bits) as u16);
        let slot = [0, 16].map(|bits| (slot >> bits) as u16);
        SlotEntry { session, slot, length: 0, fan: [0; 2], state: [0; 2] }
    }

    fn key(&self) -> Slot {
        let [low, middle, high] = self.session.map(u64::from);
        let [lower, upper] = self.slot.map(u32::from);
        (low | middle << 16 | high << 32, lower | upper << 16)
    }

    fn is_empty(&self) -> bool {
        self.length == 0 && self.state == [0; 2]
    }

    fn get(&self, which: SlotValue) -> Option<IndexValue> {
        let (position, length) = match which {
            SlotValue::Fan => (self.fan, u32::from(self.length)),
            SlotValue::State if self.state == [0; 2] => return None,
            SlotValue::State => (self.state, STATE_LENGTH),
        };
        let position = RecordPosition::of_halves(position);
        (length > 0).then_some(IndexValue { position, length })
    }

    fn put(&mut self, which: SlotValue, value: IndexValue) -> Option<u32> {
        let before = self.get(which);
        match which {
            SlotValue::Fan => {
                (self.fan, self.length) = (value.position.halves(), value.length as u16);
            }
            SlotValue::State => self.state = value.position.halves(),
        }
        before.map(|before| before.length)
    }

    fn take(&mut self, which: SlotValue) -> Option<u32> {
        let before = self.get(which);
        match which {
            SlotValue::Fan => self.length = 0,
            SlotValue::State => self.state = [0; 2],
        }
        before.map(|before| before.length)
    }
}

/// The slots of which something is stored.
#[derive(Default)]
pub(super) struct SlotTable {
    hasher: foldhash::fast::RandomState,
    table: SplitTable<SlotEntry>,
}

impl SlotTable {
    /// Whether a value of that length can be in the table. Every reference can but one with more
    /// than 16,000 Subscription Identifiers.
    pub(super) fn fits(which: SlotValue, length: u32) -> bool {
        match which {
            SlotValue::Fan => length > 0 && length <= u32::from(u16::MAX),
            SlotValue::State => length == STATE_LENGTH,
        }
    }

    /// A value of a slot.
    pub(super) fn get(&self, slot: Slot, which: SlotValue) -> Option<IndexValue> {
        let hash = self.hasher.hash_one(slot);
        self.table.find(hash, |entry| entry.key() == slot)?.get(which)
    }

    /// Replaces a value, which fits, or adds it; returns the length of the one before.
    pub(super) fn put(&mut self, slot: Slot, which: SlotValue, value: IndexValue) -> Option<u32> {
        let SlotTable { hasher, table } = self;
        let rehash = |entry: &SlotEntry| hasher.hash_one(entry.key());
        match table.look_up(hasher.hash_one(slot), |entry| entry.key() == slot, rehash) {
            Ok(entry) => entry.put(which, value),
            Err(place) => {
                let mut entry = SlotEntry::new(slot);
                entry.put(which, value);
                place.fill(entry);
                None
            }
        }
    }

    /// Removes a value; returns its length.
    pub(super) fn take(&mut self, slot: Slot, which: SlotValue) -> Option<u32> {
        let hash = self.hasher.hash_one(slot);
        let entry = self.table.find_mut(hash, |entry| entry.key() == slot)?;
        let taken = entry.take(which);
        if entry.is_empty() {
            self.take_all(slot);
        }
        taken
    }

    /// Removes all values of a slot; returns their lengths.
    pub(super) fn take_all(&mut self, slot: Slot) -> [Option<u32>; 2] {
        let SlotTable { hasher, table } = self;
        let rehash = |entry: &SlotEntry| hasher.hash_one(entry.key());
        let entry = table.remove(hasher.hash_one(slot), |entry| entry.key() == slot, rehash);
        let length = |which| Some(entry?.get(which)?.length);
        [SlotValue::Fan, SlotValue::State].map(length)
    }

    /// How many slots there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes of memory, about.
    pub(super) fn memory(&self) -> usize {
        self.table.len() * ENTRY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_waits_takes_about_40_bytes_and_no_more_when_it_was_sent() {
        let value = |at, length| IndexValue { position: RecordPosition::new(at, 7), length };
        let mut slots = SlotTable::default();
        for session in 1..=50_000 {
            slots.put((session, 1), SlotValue::Fan, value(session, 32));
        }
        let waiting = slots.table.allocated();
        assert!(waiting <= 50_000 * 40, "{waiting} bytes");
        assert!(slots.memory().abs_diff(waiting) < 50_000 * 8, "{waiting} bytes");
        for session in 1..=50_000 {
            slots.put((session, 1), SlotValue::State, value(session, STATE_LENGTH));
        }
        assert_eq!((slots.table.allocated(), slots.len()), (waiting, 50_000));
        let lengths = [Some(32), Some(STATE_LENGTH)];
        assert!((1..=50_000).all(|session| slots.take_all((session, 1)) == lengths));
        assert!(slots.len() == 0 && slots.table.allocated() < 64 << 10);
    }
}
