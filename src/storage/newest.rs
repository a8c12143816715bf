//! The newest value of each key, gathered from records in the order in which they were written.
//!
//! Most keys come once, in ascending order. So values are only appended, which takes neither a
//! search nor memory besides the values. Keys that come again, or were taken out, are settled once
//! there are as many of them as there are others, and when everything has been read.

/// Entries that even a small collection may have before it is settled.
const SPARE: usize = 16;

/// The newest value of each key. What is asked for is right after [`Newest::settle`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Newest<K, V> {
    /// `None` says that the key was taken out.
    entries: Vec<(K, Option<V>)>,
    /// How many entries there were after they were settled.
    settled: usize,
    /// Keys are not in order, come twice, or were taken out.
    unsettled: bool,
}

impl<K, V> Default for Newest<K, V> {
    fn default() -> Self {
        Newest { entries: Vec::new(), settled: 0, unsettled: false }
    }
}

impl<K: Ord, V> Newest<K, V> {
    /// Replaces the value of a key, or adds it.
    pub fn put(&mut self, key: K, value: V) {
        self.unsettled |= self.entries.last().is_some_and(|(last, _)| *last >= key);
        self.add(key, Some(value));
    }

    /// Takes the value of a key out, if there is one.
    pub fn take(&mut self, key: K) {
        if !self.entries.is_empty() {
            self.unsettled = true;
            self.add(key, None);
        }
    }

    fn add(&mut self, key: K, value: Option<V>) {
        if self.unsettled && self.entries.len() >= 2 * self.settled + SPARE {
            self.settle();
            self.unsettled = self.entries.last().is_some_and(|(last, _)| *last >= key);
            self.unsettled |= value.is_none();
        }
        self.entries.push((key, value));
    }

    /// Puts the keys in order, each with its newest value.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            // Entries of the same key stay in the order in which they came.
            self.entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            self.entries.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    std::mem::swap(later, earlier);
                }
                same
            });
            self.entries.retain(|(_, value)| value.is_some());
        }
        self.settled = self.entries.len();
    }

    /// How many keys have a value.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when no key has a value.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let at = self.entries.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
        self.entries.get(at)?.1.as_ref()
    }

    /// The keys and their values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)))
    }

    /// The last key.
    pub fn last(&self) -> Option<&K> {
        self.entries.last().map(|(key, _)| key)
    }

    /// Removes the values for which `keep` is false, which may change them.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain_mut(|(key, value)| value.as_mut().is_some_and(|v| keep(key, v)));
    }
}

impl<K, V> IntoIterator for Newest<K, V> {
    type Item = (K, V);
    type IntoIter = std::iter::FilterMap<
        std::vec::IntoIter<(K, Option<V>)>,
        fn((K, Option<V>)) -> Option<(K, V)>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    proptest::proptest! {
        #[test]
        fn it_has_what_a_map_has(
            steps in proptest::collection::vec((0u8..4, 0u32..40), 0..300),
            settles in proptest::collection::vec(0usize..300, 0..4),
        ) {
            let (mut newest, mut model) = (Newest::default(), BTreeMap::new());
            for (at, (step, key)) in steps.into_iter().enumerate() {
                if step == 0 {
                    newest.take(key);
                    model.remove(&key);
                } else {
                    newest.put(key, at);
                    model.insert(key, at);
                }
                if settles.contains(&at) {
                    newest.settle();
                    proptest::prop_assert_eq!(newest.len(), model.len());
                }
            }
            newest.settle();
            let seen: Vec<_> = newest.iter().map(|(&key, &value)| (key, value)).collect();
            let expected: Vec<_> = model.iter().map(|(&key, &value)| (key, value)).collect();
            proptest::prop_assert_eq!(seen, expected);
            for key in 0..40 {
                proptest::prop_assert_eq!(newest.get(&key), model.get(&key));
            }
            proptest::prop_assert_eq!(newest.last(), model.last_key_value().map(|(key, _)| key));
            newest.retain(|key, _| key % 2 == 0);
            model.retain(|key, _| key % 2 == 0);
            proptest::prop_assert_eq!(newest.into_iter().collect::<BTreeMap<_, _>>(), model);
        }
    }

    #[test]
    fn what_came_and_went_takes_no_room() {
        let mut newest = Newest::default();
        for key in 0..100_000u32 {
            newest.put(key, key);
            newest.take(key);
            assert!(newest.len() <= 2 * SPARE, "{key}: {}", newest.len());
        }
        for key in 0..1000u32 {
            (0..10).for_each(|value| newest.put(key % 100, value));
            assert!(newest.len() <= 300 + SPARE, "{key}: {}", newest.len());
        }
    }
}
