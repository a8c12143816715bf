//! The values that are alive, and the position of each. A record that is read from a segment is
//! alive when the index has its position.
//!
//! Memory: a session's own record and one of its subscriptions share an entry of 40 bytes, and
//! eight messages with consecutive numbers one of 108 bytes; what is stored of a message that waits
//! for a session is in a table of its own ([`super::slots`]), and every other value has an entry of
//! 28 bytes. Messages come in the order of their numbers, so what a new one needs was just used for
//! the one before it. Each entry takes another 6 to 12 bytes in a table of entry numbers. Entries
//! are allocated in chunks and tables in segments, so growth never moves more than a 256th of them.

use super::key::{RecordKey, slot_keys};
use super::kind::{FAN, PUT, SESSION, STATE, SUBSCRIBED};
use super::slots::{Slot, SlotTable, SlotValue};
use crate::arena::{self, NodeArena};
use crate::split::SplitTable;
use std::hash::{BuildHasher, Hash};
use std::num::{NonZeroU16, NonZeroU32};

/// Bits of a [`RecordPosition`] that hold the offset in a batch.
const OFFSET_BITS: u32 = 28;
/// Messages of a block.
const BLOCK: u64 = 8;
/// Bytes of an entry's number in a table, on average.
const NUMBER: usize = 9;

/// The position of a record: its batch, and the byte of the batch's payload that it begins at. It
/// names no file, because a batch that cannot be written in one segment is written in another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RecordPosition(u64);

impl RecordPosition {
    /// The record at that byte of that batch's payload.
    pub fn new(batch: u64, offset: usize) -> RecordPosition {
        RecordPosition(batch << OFFSET_BITS | offset as u64)
    }

    /// The batch.
    pub fn batch(self) -> u64 {
        self.0 >> OFFSET_BITS
    }

    /// The same in two halves, for entries that are to be small.
    pub(super) fn halves(self) -> [u32; 2] {
        halves(self.0)
    }

    /// The reverse of [`RecordPosition::halves`].
    pub(super) fn of_halves(position: [u32; 2]) -> RecordPosition {
        RecordPosition(whole(position))
    }

    /// The byte of the batch's payload.
    pub fn offset(self) -> usize {
        (self.0 & ((1 << OFFSET_BITS) - 1)) as usize
    }
}

const _: () = assert!(super::frame::BATCH_PAYLOAD < 1 << OFFSET_BITS);

/// The newest value of a key: the position and the length of its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexValue {
    /// Its position.
    pub position: RecordPosition,
    /// Bytes of its record.
    pub length: u32,
}

/// The values that are alive.
#[derive(Default)]
pub struct LogIndex {
    hasher: foldhash::fast::RandomState,
    /// Sessions' own records, each with one subscription.
    pairs: Entries<SubscriptionEntry>,
    /// Messages that wait for sessions.
    messages: Entries<MessageBlock>,
    /// References to messages, with the states of their deliveries.
    slots: SlotTable,
    /// How many such values are among the singles, because their length does not fit.
    odd: usize,
    /// All other values.
    singles: Entries<Single>,
    len: usize,
    live: u64,
}

/// A [`IndexValue`] in less space.
#[derive(Clone, Copy)]
struct CompactValue {
    position: [u32; 2],
    /// No record has 0 bytes.
    length: NonZeroU32,
}

impl CompactValue {
    fn of(value: IndexValue) -> CompactValue {
        let RecordPosition(position) = value.position;
        let length = NonZeroU32::new(value.length).unwrap_or(NonZeroU32::MIN);
        CompactValue { position: halves(position), length }
    }

    fn value(self) -> IndexValue {
        IndexValue { position: RecordPosition(whole(self.position)), length: self.length.get() }
    }
}

fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

fn whole([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

struct Single {
    key: [[u32; 2]; 2],
    place: CompactValue,
}

struct SubscriptionEntry {
    session: SessionNumber,
    /// The hash of the subscription's filter, as in its key.
    filter: [u16; 5],
    own: Option<CompactValue>,
    subscription: Option<CompactValue>,
}

/// Messages with consecutive numbers.
struct MessageBlock {
    /// That of the block.
    number: [u32; 2],
    /// How many of the values are there.
    count: NonZeroU32,
    values: [Option<CompactValue>; BLOCK as usize],
}

/// The 44 bits of a session's number that are in keys.
#[derive(Clone, Copy)]
struct SessionNumber {
    low: [u16; 2],
    /// The highest bits, and one more. What this never is tells an entry from a free place.
    high: NonZeroU16,
}

impl SessionNumber {
    fn of(number: u64) -> SessionNumber {
        let high = NonZeroU16::MIN.saturating_add((number >> 32) as u16);
        SessionNumber { low: [number as u16, (number >> 16) as u16], high }
    }

    fn number(self) -> u64 {
        let [first, second] = self.low.map(u64::from);
        first | second << 16 | u64::from(self.high.get() - 1) << 32
    }
}

// The memory of each stored value, besides what tables leave empty.
const _: () = assert!(arena::slot_size::<Single>() == 28);
const _: () = assert!(arena::slot_size::<SubscriptionEntry>() == 40);
const _: () = assert!(arena::slot_size::<MessageBlock>() == 108);

/// An entry that is found by its key.
trait IndexEntry {
    type Key: Copy + PartialEq + Hash;
    fn key(&self) -> Self::Key;
}

impl IndexEntry for Single {
    type Key = RecordKey;

    fn key(&self) -> RecordKey {
        let [high, low] = self.key;
        RecordKey(whole(high), whole(low))
    }
}

impl IndexEntry for SubscriptionEntry {
    type Key = u64;

    fn key(&self) -> u64 {
        self.session.number()
    }
}

impl IndexEntry for MessageBlock {
    type Key = u64;

    fn key(&self) -> u64 {
        whole(self.number)
    }
}

/// Entries of one kind.
struct Entries<E> {
    entries: NodeArena<E>,
    /// The numbers of the entries, by the hash of their key.
    numbers: SplitTable<u32>,
}

impl<E> Default for Entries<E> {
    fn default() -> Self {
        Entries { entries: NodeArena::new(), numbers: SplitTable::default() }
    }
}

type Hasher = foldhash::fast::RandomState;

impl<E: IndexEntry> Entries<E> {
    fn find(&self, hasher: &Hasher, key: E::Key) -> Option<u32> {
        let hash = hasher.hash_one(key);
        self.numbers.find(hash, |&id| self.entries.get(id).key() == key).copied()
    }

    /// The number of the entry with that key, and whether it was there. If it was not, `make` makes
    /// it.
    fn find_or_make(
        &mut self,
        hasher: &Hasher,
        key: E::Key,
        make: impl FnOnce() -> E,
    ) -> (u32, bool) {
        let Entries { entries, numbers } = self;
        let is_it = |&id: &u32| entries.get(id).key() == key;
        let rehash = |&id: &u32| hasher.hash_one(entries.get(id).key());
        match numbers.look_up(hasher.hash_one(key), is_it, rehash) {
            Ok(&mut id) => (id, true),
            Err(place) => {
                let id = entries.insert(make());
                place.fill(id);
                (id, false)
            }
        }
    }

    fn remove(&mut self, hasher: &Hasher, key: E::Key) -> Option<E> {
        let hash = hasher.hash_one(key);
        let Entries { entries, numbers } = self;
        let is_it = |&id: &u32| entries.get(id).key() == key;
        let rehash = |&id: &u32| hasher.hash_one(entries.get(id).key());
        let id = numbers.remove(hash, is_it, rehash)?;
        Some(entries.remove(id))
    }

    fn memory(&self) -> usize {
        self.entries.len() * (arena::slot_size::<E>() + NUMBER)
    }
}

/// The place where a key is looked up.
enum Where {
    /// In the pair of this session, as its own record.
    Own(u64),
    /// In the pair of this session, as its subscription with this hash; otherwise among the
    /// singles.
    Subscription(u64, [u16; 5]),
    /// In this block of messages, at that place.
    Message(u64, usize),
    /// In the entry of this slot of this session; among the singles if its length does not fit.
    Slot(Slot, SlotValue),
    /// Among the singles.
    Single,
}

fn where_is(key: RecordKey) -> Where {
    let RecordKey(_, low) = key;
    match key.kind() {
        SESSION => Where::Own(key.session()),
        SUBSCRIBED => {
            let part = |at: u32| (low >> (16 * at)) as u16;
            Where::Subscription(key.session(), [key.high(), part(0), part(1), part(2), part(3)])
        }
        PUT => Where::Message(low / BLOCK, (low % BLOCK) as usize),
        FAN => Where::Slot((key.session(), low as u32), SlotValue::Fan),
        STATE => Where::Slot((key.session(), low as u32), SlotValue::State),
        _ => Where::Single,
    }
}

impl LogIndex {
    /// Bytes of all records that are alive.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.pairs.memory() + self.messages.memory() + self.slots.memory() + self.singles.memory()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The newest value of a key.
    pub fn get(&self, key: RecordKey) -> Option<IndexValue> {
        let pair =
            |session| self.pairs.find(&self.hasher, session).map(|id| self.pairs.entries.get(id));
        let found = match where_is(key) {
            Where::Own(session) => return pair(session)?.own.map(CompactValue::value),
            Where::Subscription(session, filter) => pair(session)
                .filter(|pair| pair.filter == filter)
                .and_then(|pair| pair.subscription),
            Where::Message(block, at) => {
                let id = self.messages.find(&self.hasher, block)?;
                let value = self.messages.entries.get(id).values.get(at)?;
                return value.map(CompactValue::value);
            }
            Where::Slot(slot, which) => {
                return self.slots.get(slot, which).or_else(|| self.odd(key));
            }
            Where::Single => None,
        };
        found.map(CompactValue::value).or_else(|| self.single(key))
    }

    fn single(&self, key: RecordKey) -> Option<IndexValue> {
        let id = self.singles.find(&self.hasher, key)?;
        Some(self.singles.entries.get(id).place.value())
    }

    /// The value of a slot whose length does not fit.
    fn odd(&self, key: RecordKey) -> Option<IndexValue> {
        if self.odd == 0 { None } else { self.single(key) }
    }

    /// Replaces the value of a key, or adds it.
    pub fn put(&mut self, key: RecordKey, value: IndexValue) {
        let place = CompactValue::of(value);
        let length = |old: CompactValue| old.length.get();
        let old = match where_is(key) {
            Where::Own(session) => self.pair(session).own.replace(place).map(length),
            Where::Subscription(session, filter) => {
                let known = self.singles.find(&self.hasher, key).is_some();
                let pair = self.pair(session);
                if !known && (pair.subscription.is_none() || pair.filter == filter) {
                    pair.filter = filter;
                    pair.subscription.replace(place).map(length)
                } else {
                    self.put_single(key, place).map(length)
                }
            }
            Where::Message(block, at) => self.put_message(block, at, place).map(length),
            Where::Slot(slot, which) => self.put_slot(slot, which, key, value),
            Where::Single => self.put_single(key, place).map(length),
        };
        self.live += u64::from(value.length);
        match old {
            Some(old) => self.live -= u64::from(old),
            None => self.len += 1,
        }
    }

    /// Replaces a value of a slot, or adds it; returns the length of the one before.
    fn put_slot(
        &mut self,
        slot: Slot,
        which: SlotValue,
        key: RecordKey,
        value: IndexValue,
    ) -> Option<u32> {
        if SlotTable::fits(which, value.length) {
            let odd = self.take_odd(key);
            return self.slots.put(slot, which, value).or(odd);
        }
        let before = self.slots.take(slot, which).or_else(|| self.take_odd(key));
        self.put_single(key, CompactValue::of(value));
        self.odd += 1;
        before
    }

    /// Removes a value of a slot whose length does not fit; returns its length.
    fn take_odd(&mut self, key: RecordKey) -> Option<u32> {
        if self.odd == 0 {
            return None;
        }
        let taken = self.take_single(key)?;
        self.odd -= 1;
        Some(taken.length.get())
    }

    /// Removes both values of a slot: the reference to the message and the state of its delivery.
    pub fn take_slot(&mut self, session: u64, slot: u32) {
        let keys @ [fan, _] = slot_keys(session, slot);
        for length in self.slots.take_all((fan.session(), slot)).into_iter().flatten() {
            self.live -= u64::from(length);
            self.len -= 1;
        }
        if self.odd > 0 {
            keys.into_iter().for_each(|key| _ = self.take(key));
        }
    }

    fn put_message(&mut self, block: u64, at: usize, place: CompactValue) -> Option<CompactValue> {
        let (number, count, values) = (halves(block), NonZeroU32::MIN, [None; BLOCK as usize]);
        let make = || MessageBlock { number, count, values };
        let (id, known) = self.messages.find_or_make(&self.hasher, block, make);
        let MessageBlock { count, values, .. } = self.messages.entries.get_mut(id);
        let old = values.get_mut(at)?.replace(place);
        *count = count.saturating_add(u32::from(known && old.is_none()));
        old
    }

    fn take_message(&mut self, block: u64, at: usize) -> Option<CompactValue> {
        let id = self.messages.find(&self.hasher, block)?;
        let MessageBlock { count, values, .. } = self.messages.entries.get_mut(id);
        let taken = values.get_mut(at)?.take()?;
        match NonZeroU32::new(count.get() - 1) {
            Some(left) => *count = left,
            None => drop(self.messages.remove(&self.hasher, block)),
        }
        Some(taken)
    }

    fn put_single(&mut self, key: RecordKey, place: CompactValue) -> Option<CompactValue> {
        let RecordKey(high, low) = key;
        let make = || Single { key: [halves(high), halves(low)], place };
        let (id, known) = self.singles.find_or_make(&self.hasher, key, make);
        let single = self.singles.entries.get_mut(id);
        known.then(|| std::mem::replace(&mut single.place, place))
    }

    /// The pair of this session, made if there is none.
    fn pair(&mut self, session: u64) -> &mut SubscriptionEntry {
        let make = || {
            let (session, filter) = (SessionNumber::of(session), [0; 5]);
            SubscriptionEntry { session, filter, own: None, subscription: None }
        };
        let (id, _) = self.pairs.find_or_make(&self.hasher, session, make);
        self.pairs.entries.get_mut(id)
    }

    /// Removes the value of a key; true when there was one.
    pub fn take(&mut self, key: RecordKey) -> bool {
        let length = |taken: CompactValue| taken.length.get();
        let taken = match where_is(key) {
            Where::Own(session) => self.take_of_pair(session, |pair| pair.own.take()).map(length),
            Where::Subscription(session, filter) => {
                let taken = self.take_of_pair(session, |pair| {
                    pair.subscription.take_if(|_| pair.filter == filter)
                });
                taken.or_else(|| self.take_single(key)).map(length)
            }
            Where::Message(block, at) => self.take_message(block, at).map(length),
            Where::Slot(slot, which) => self.slots.take(slot, which).or_else(|| self.take_odd(key)),
            Where::Single => self.take_single(key).map(length),
        };
        let Some(taken) = taken else { return false };
        self.live -= u64::from(taken);
        self.len -= 1;
        true
    }

    fn take_single(&mut self, key: RecordKey) -> Option<CompactValue> {
        self.singles.remove(&self.hasher, key).map(|single| single.place)
    }

    fn take_of_pair(
        &mut self,
        session: u64,
        take: impl FnOnce(&mut SubscriptionEntry) -> Option<CompactValue>,
    ) -> Option<CompactValue> {
        let id = self.pairs.find(&self.hasher, session)?;
        let pair = self.pairs.entries.get_mut(id);
        let taken = take(pair)?;
        if pair.own.is_none() && pair.subscription.is_none() {
            self.pairs.remove(&self.hasher, session);
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::{StoreSecret, inbound_key, message_key, session_key, subscription_key};
    use super::super::record::STATE_LENGTH;
    use super::*;
    use std::collections::BTreeMap;

    proptest::proptest! {
        #[test]
        fn it_knows_what_a_map_knows(
            steps in proptest::collection::vec(
                ((0u8..8, 0u8..8), 0u64..6, 0u8..4, 1u32..100), 0..400
            )
        ) {
            let (mut index, mut model) = (LogIndex::default(), BTreeMap::new());
            for (at, ((kind, step), session, which, length)) in steps.into_iter().enumerate() {
                let filter = ["a", "b/#", "c"].get(usize::from(which));
                let slot = slot_keys(session, u32::from(which / 2) << 20);
                let key = match (kind, filter) {
                    (4.., _) => slot[usize::from(which % 2)],
                    (0, _) => session_key(session),
                    (1, Some(filter)) => subscription_key(session, filter, StoreSecret([1, 2])),
                    (2, _) => inbound_key(session, u16::from(which) + 1),
                    _ => message_key(session * 3 + u64::from(which)),
                };
                // Of the values of slots some have lengths that fit in no entry.
                let length = match (kind, which % 2) {
                    (7, _) => length << 12,
                    (4.., 1) => STATE_LENGTH,
                    _ => length,
                };
                let value = IndexValue { position: RecordPosition::new(at as u64 + 1, at), length };
                if step == 7 && kind >= 4 {
                    index.take_slot(session, u32::from(which / 2) << 20);
                    slot.iter().for_each(|key| _ = model.remove(key));
                } else if step < 5 {
                    index.put(key, value);
                    model.insert(key, value);
                } else {
                    proptest::prop_assert_eq!(index.take(key), model.remove(&key).is_some());
                }
                proptest::prop_assert_eq!(index.get(key), model.get(&key).copied());
                proptest::prop_assert_eq!(index.len(), model.len());
                let live: u64 = model.values().map(|value| u64::from(value.length)).sum();
                proptest::prop_assert_eq!(index.live(), live);
            }
            for (&key, &value) in &model {
                proptest::prop_assert_eq!(index.get(key), Some(value));
            }
            for key in model.into_keys() {
                proptest::prop_assert!(index.take(key));
            }
            proptest::prop_assert_eq!((index.len(), index.live(), index.odd), (0, 0, 0));
            proptest::prop_assert_eq!(index.slots.len() + index.singles.entries.len(), 0);
        }
    }

    /// Bytes that the tables and the chunks of entries take.
    fn taken<E>(entries: &Entries<E>) -> usize {
        entries.numbers.allocated() + entries.entries.len() * arena::slot_size::<E>()
    }

    #[test]
    fn a_message_takes_about_15_bytes_and_gives_them_back() {
        let value = |at| IndexValue { position: RecordPosition::new(at, 7), length: 40 };
        let mut index = LogIndex::default();
        (1..=50_000).for_each(|message| index.put(message_key(message), value(message)));
        let taken_then = taken(&index.messages);
        assert!(taken_then <= 50_000 * 16, "{taken_then} bytes");
        assert!(index.memory().abs_diff(taken_then) < 50_000 * 2, "{}", index.memory());
        assert!((1..=50_000).all(|message| index.take(message_key(message))));
        assert!(index.is_empty() && taken(&index.messages) < 64 << 10);
    }

    #[test]
    fn a_session_with_one_subscription_takes_about_50_bytes_and_gives_them_back() {
        let secret = StoreSecret([1, 2]);
        let value = |at| IndexValue { position: RecordPosition::new(at, 7), length: 40 };
        let mut index = LogIndex::default();
        for session in 1..=50_000 {
            index.put(session_key(session), value(session));
            index.put(subscription_key(session, "a/b", secret), value(session));
        }
        let taken_then = taken(&index.pairs) + taken(&index.singles);
        assert!(taken_then <= 50_000 * 56, "{taken_then} bytes");
        assert!(index.memory().abs_diff(taken_then) < 50_000 * 8, "{}", index.memory());
        for session in 1..=50_000 {
            assert!(index.take(subscription_key(session, "a/b", secret)));
            assert!(index.take(session_key(session)));
        }
        assert!(index.is_empty() && taken(&index.pairs) < 64 << 10);
    }
}
