//! The subscriptions of a client that has many of them. They are found by filter and removed one by
//! one from the end, each at a cost that does not depend on their number.

use super::SubscriptionSlot;
use crate::split::SplitTable;
use crate::topic::FilterId;
use std::hash::BuildHasher;

/// The slots of a client's subscriptions by filter. A hash map alone would not be enough: finding
/// any one entry in it means searching from its start.
#[derive(Default)]
pub struct SubscriptionSlots {
    places: Vec<SubscriptionSlot>,
    /// For each filter, the index of its slot in `places`.
    by_filter: SplitTable<u32>,
}

fn hash(filter: FilterId) -> u64 {
    foldhash::fast::FixedState::default().hash_one(filter.0)
}

impl SubscriptionSlots {
    /// How many.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn find(&self, filter: FilterId) -> Option<usize> {
        let is_it = |&at: &u32| self.places[at as usize].filter == filter;
        self.by_filter.find(hash(filter), is_it).map(|&at| at as usize)
    }

    /// The position of the client's entry in the filter's list.
    pub fn position(&self, filter: FilterId) -> Option<u32> {
        self.find(filter).map(|at| self.places[at].position)
    }

    /// Adds a slot, or changes the position of an existing one.
    pub fn set(&mut self, place: SubscriptionSlot) {
        if let Some(at) = self.find(place.filter) {
            self.places[at] = place;
            return;
        }
        let at = u32::try_from(self.places.len()).expect("filters have 32-bit numbers");
        self.places.push(place);
        let places = &self.places;
        let rehash = |&at: &u32| hash(places[at as usize].filter);
        self.by_filter.insert(hash(place.filter), at, rehash);
    }

    /// Removes a slot and returns its position. The last slot takes its index.
    pub fn remove(&mut self, filter: FilterId) -> Option<u32> {
        let places = &self.places;
        let is_it = |&at: &u32| places[at as usize].filter == filter;
        let rehash = |&at: &u32| hash(places[at as usize].filter);
        let at = self.by_filter.remove(hash(filter), is_it, rehash)?;
        let last = self.places.len() as u32 - 1;
        if at != last {
            let moved = hash(self.places[last as usize].filter);
            if let Some(known) = self.by_filter.find_mut(moved, |&known| known == last) {
                *known = at;
            }
        }
        let removed = self.places.swap_remove(at as usize);
        if self.places.len() < self.places.capacity() / 4 {
            self.places.shrink_to(self.places.len() * 2);
        }
        Some(removed.position)
    }

    /// All slots, in no particular order.
    pub fn all(&self) -> &[SubscriptionSlot] {
        &self.places
    }
}
