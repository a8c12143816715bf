//! A list whose entries are found by a key: by linear search while there are few, by hash beyond.
//! It owns its entries and nothing else. Adding, finding and removing an entry cost the same
//! whatever the length of the list.

use crate::slab::trim;
use crate::split::SplitTable;
use std::hash::{BuildHasher, Hash};

/// Up to this many entries are found by linear search, without a hash table.
const FEW: usize = 12;

/// An entry with a key.
pub trait Keyed {
    /// The type of the key.
    type Key: ?Sized + Eq + Hash;
    /// The entry's key. It must not change while the entry is in a list.
    fn key(&self) -> &Self::Key;
}

/// The list. It contains each key at most once.
pub struct KeyedList<T> {
    list: Vec<T>,
    /// Positions by key; `None` while there are few.
    places: Option<Box<ListIndex>>,
}

#[derive(Default)]
struct ListIndex {
    table: SplitTable<u32>,
    hasher: foldhash::fast::RandomState,
}

impl<T> Default for KeyedList<T> {
    fn default() -> Self {
        KeyedList { list: Vec::new(), places: None }
    }
}

impl<T: Keyed> KeyedList<T> {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All entries, in no particular order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.list.iter()
    }

    /// The entry at a position below [`Self::len`].
    pub fn at(&self, position: usize) -> Option<&T> {
        self.list.get(position)
    }

    /// The entry with this key.
    pub fn get(&self, key: &T::Key) -> Option<&T> {
        self.position(key).map(|at| &self.list[at])
    }

    /// The entry with this key. The caller must not change the key.
    pub fn get_mut(&mut self, key: &T::Key) -> Option<&mut T> {
        self.position(key).map(|at| &mut self.list[at])
    }

    fn position(&self, key: &T::Key) -> Option<usize> {
        let Some(ListIndex { table, hasher }) = self.places.as_deref() else {
            return self.list.iter().position(|entry| entry.key() == key);
        };
        let is_it = |&at: &u32| self.list[at as usize].key() == key;
        table.find(hasher.hash_one(key), is_it).map(|&at| at as usize)
    }

    /// Adds an entry whose key is not in the list.
    pub fn push(&mut self, entry: T) {
        debug_assert!(self.position(entry.key()).is_none(), "each key once");
        self.list.push(entry);
        let from = if self.places.is_some() { self.list.len() - 1 } else { 0 };
        if self.places.is_none() && self.list.len() <= FEW {
            return;
        }
        let ListIndex { table, hasher } = &mut **self.places.get_or_insert_default();
        let hash = |at: u32| hasher.hash_one(self.list[at as usize].key());
        for at in from as u32..self.list.len() as u32 {
            table.insert(hash(at), at, |&at| hash(at));
        }
    }

    /// Removes the entry with this key. The last entry takes its position.
    pub fn remove(&mut self, key: &T::Key) -> Option<T> {
        let at = self.position(key)?;
        if let Some(ListIndex { table, hasher }) = self.places.as_deref_mut() {
            let last = self.list.len() - 1;
            let hash = |&at: &u32| hasher.hash_one(self.list[at as usize].key());
            table.remove(hasher.hash_one(key), |&known| known == at as u32, hash);
            if at < last {
                let hash = hasher.hash_one(self.list[last].key());
                if let Some(moved) = table.find_mut(hash, |&known| known == last as u32) {
                    *moved = at as u32;
                }
            }
        }
        let entry = self.list.swap_remove(at);
        self.shrink();
        Some(entry)
    }

    /// Removes and returns the last entry.
    pub fn pop(&mut self) -> Option<T> {
        let entry = self.list.pop()?;
        if let Some(ListIndex { table, hasher }) = self.places.as_deref_mut() {
            let (at, list) = (self.list.len() as u32, &self.list);
            let hash = |&at: &u32| hasher.hash_one(list[at as usize].key());
            table.remove(hasher.hash_one(entry.key()), |&known| known == at, hash);
        }
        self.shrink();
        Some(entry)
    }

    fn shrink(&mut self) {
        trim(&mut self.list);
        if self.list.len() <= FEW / 2 {
            self.places = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(u16, u32);

    impl Keyed for Named {
        type Key = u16;
        fn key(&self) -> &u16 {
            &self.0
        }
    }

    proptest::proptest! {
        #[test]
        fn a_list_is_a_map(steps in proptest::collection::vec((0u8..8, 0u16..60), 0..600)) {
            let mut list = KeyedList::default();
            let mut model = std::collections::BTreeMap::new();
            for (number, (step, key)) in (0u32..).zip(steps) {
                match step {
                    0..=3 if !model.contains_key(&key) => {
                        list.push(Named(key, number));
                        model.insert(key, number);
                    }
                    0..=4 => {
                        let known = list.get_mut(&key).map(|entry| {
                            entry.1 = number;
                            number
                        });
                        proptest::prop_assert_eq!(known, model.get_mut(&key).map(|value| {
                            *value = number;
                            number
                        }));
                    }
                    5 => {
                        let gone = list.pop().map(|entry| (entry.0, entry.1));
                        if let Some((key, value)) = gone {
                            proptest::prop_assert_eq!(model.remove(&key), Some(value));
                        }
                    }
                    _ => {
                        let gone = list.remove(&key).map(|entry| entry.1);
                        proptest::prop_assert_eq!(gone, model.remove(&key));
                    }
                }
                proptest::prop_assert_eq!(list.len(), model.len());
                for key in 0..60 {
                    let found = list.get(&key).map(|entry| entry.1);
                    proptest::prop_assert_eq!(found, model.get(&key).copied());
                }
            }
        }
    }

    #[test]
    fn what_has_left_leaves_no_memory() {
        let mut list = KeyedList::default();
        (0..60_000).for_each(|number| list.push(Named(number, 0)));
        (0..59_990).for_each(|number| assert!(list.remove(&number).is_some()));
        assert!(list.list.capacity() <= 128);
        assert!(list.places.as_ref().is_none_or(|places| places.table.allocated() <= 1024));
        while list.pop().is_some() {}
        assert!(list.places.is_none());
    }
}
