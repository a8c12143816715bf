//! Filters that clients of the cluster want: those of this node ([`LocalFilters`]), how far another
//! node has been told of them ([`FilterTelling`]), and those that another node has told
//! ([`RemoteFilters`]). A share group with members counts as a filter, written as
//! `$share/GROUP/FILTER`.
//!
//! This node numbers its filters. Another node is told them in the order of their numbers, and
//! afterwards each one that changes. A digest checks the result: the sum of a hash of each filter
//! with its number, which changes with each filter and does not depend on their order.

use super::frame::FilterDigest;
use super::record::NodeRecord;
use crate::limits::CLUSTER_FILTERS;
use crate::mutant::Mutant;
use crate::topic::spread;
use crate::upgrade::cluster::MovedTelling;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::hash::BuildHasher;

/// The most changes that wait to be told to one node; with more, the node is told everything again.
const CHANGES: usize = 1 << 16;
/// The filter that replaces all filters beyond the number that is told one by one.
const EVERYTHING: &str = "#";

/// Whether `filter` is a share group.
pub fn is_group(filter: &str) -> bool {
    filter.starts_with("$share/")
}

/// The summand of a filter in the digest.
fn share(number: u32, filter: &str) -> u64 {
    let sum = u64::from(crc32c::crc32c(filter.as_bytes()));
    spread(sum | u64::from(number) << 32)
}

struct LocalFilter {
    text: Box<str>,
    /// The number of shards that have subscribers.
    shards: u32,
}

/// The filters of this node's clients.
pub struct LocalFilters {
    all: Vec<Option<LocalFilter>>,
    free: Vec<u32>,
    numbers: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    digest: u64,
    /// Filters that got no number.
    beyond: u64,
    /// Share groups that got no number.
    groups_beyond: u64,
    most: usize,
}

impl Default for LocalFilters {
    fn default() -> Self {
        LocalFilters::with_most(CLUSTER_FILTERS)
    }
}

impl LocalFilters {
    /// Filters with at most `most` numbers; if there are more, this node asks the others for
    /// everything.
    pub fn with_most(most: usize) -> Self {
        LocalFilters {
            all: Vec::new(),
            free: Vec::new(),
            numbers: HashTable::new(),
            hasher: foldhash::fast::RandomState::default(),
            digest: 0,
            beyond: 0,
            groups_beyond: 0,
            most,
        }
    }

    /// The number of filters that have a number.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether no filter has a number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Share groups that other nodes are not told, as there are too many filters.
    pub fn groups_beyond(&self) -> u64 {
        self.groups_beyond
    }

    fn find(&self, filter: &str) -> Option<u32> {
        let same = |number: &u32| self.text(*number) == Some(filter);
        self.numbers.find(self.hasher.hash_one(filter), same).copied()
    }

    /// The filter with the number `number`.
    pub fn text(&self, number: u32) -> Option<&str> {
        self.all.get(number as usize)?.as_ref().map(|filter| &*filter.text)
    }

    /// A shard has its first subscriber of the filter. Returns the filter's number if that is to be
    /// told.
    pub fn add(&mut self, filter: &str) -> Option<u32> {
        if let Some(number) = self.find(filter) {
            let known = self.all.get_mut(number as usize)?.as_mut()?;
            known.shards += 1;
            return None;
        }
        // The last number is reserved for `EVERYTHING`, which covers all filters without a number.
        if self.len() + 1 >= self.most && filter != EVERYTHING {
            if is_group(filter) {
                // No filter covers a share group: the other nodes do not know this one.
                self.groups_beyond += 1;
                return None;
            }
            self.beyond += 1;
            return if self.beyond == 1 { self.add(EVERYTHING) } else { None };
        }
        let number = self.free.pop().unwrap_or(self.all.len() as u32);
        let entry = Some(LocalFilter { text: filter.into(), shards: 1 });
        match self.all.get_mut(number as usize) {
            Some(place) => *place = entry,
            None => self.all.push(entry),
        }
        let (all, hasher) = (&self.all, &self.hasher);
        let rehash = |number: &u32| {
            let text = all.get(*number as usize).and_then(|place| place.as_ref());
            hasher.hash_one(text.map_or("", |filter| &*filter.text))
        };
        self.numbers.insert_unique(hasher.hash_one(filter), number, rehash);
        self.digest = self.digest.wrapping_add(share(number, filter));
        Some(number)
    }

    /// A shard has no subscriber of the filter any more. Returns the number that is to be told, if
    /// any.
    pub fn remove(&mut self, filter: &str) -> Option<u32> {
        let Some(number) = self.find(filter) else {
            if is_group(filter) {
                self.groups_beyond = self.groups_beyond.saturating_sub(1);
                return None;
            }
            let last = self.beyond == 1;
            self.beyond = self.beyond.saturating_sub(1);
            return if last { self.remove(EVERYTHING) } else { None };
        };
        let known = self.all.get_mut(number as usize)?;
        let shards = known.as_mut().map_or(0, |known| {
            known.shards -= 1;
            known.shards
        });
        if shards > 0 {
            return None;
        }
        let hash = self.hasher.hash_one(filter);
        if let Ok(entry) = self.numbers.find_entry(hash, |&other| other == number) {
            entry.remove();
        }
        if let Some(place) = self.all.get_mut(number as usize) {
            *place = None;
        }
        self.free.push(number);
        if self.numbers.is_empty() {
            (self.all, self.free) = (Vec::new(), Vec::new());
        }
        self.digest = self.digest.wrapping_sub(share(number, filter));
        Some(number)
    }

    /// All numbers are below this one.
    pub fn end(&self) -> u32 {
        self.all.len() as u32
    }

    /// All filters, by their numbers.
    pub fn texts(&self) -> Vec<Option<Box<str>>> {
        self.all.iter().map(|place| place.as_ref().map(|filter| filter.text.clone())).collect()
    }

    /// Goes on with the numbers that another process has given these filters and that other nodes
    /// know. Returns the numbers that mean something else now: of filters that come first, then of
    /// those that are gone.
    pub fn renumber(&mut self, former: &[Option<Box<str>>]) -> Vec<u32> {
        let mut all: Vec<Option<LocalFilter>> = Vec::with_capacity(former.len());
        for text in former {
            let number = text.as_ref().and_then(|text| self.find(text));
            all.push(number.and_then(|number| self.all.get_mut(number as usize)?.take()));
        }
        let places = (0..).zip(&all).filter(|(_, place)| place.is_none());
        let mut free: Vec<u32> = places.map(|(number, _)| number).collect();
        free.reverse();
        let mut changed = Vec::new();
        for filter in std::mem::take(&mut self.all).into_iter().flatten() {
            let number = free.pop().unwrap_or(all.len() as u32);
            match all.get_mut(number as usize) {
                Some(place) => *place = Some(filter),
                None => all.push(Some(filter)),
            }
            changed.push(number);
        }
        let gone = |&&number: &&u32| former.get(number as usize).is_some_and(Option::is_some);
        changed.extend(free.iter().filter(gone));
        (self.all, self.free) = (all, free);
        (self.numbers, self.digest) = (HashTable::new(), 0);
        let (all, hasher) = (&self.all, &self.hasher);
        let text = |number: u32| {
            let place = all.get(number as usize).and_then(|place| place.as_ref());
            place.map_or("", |filter| &*filter.text)
        };
        for number in (0..all.len() as u32).filter(|&number| !text(number).is_empty()) {
            self.digest = self.digest.wrapping_add(share(number, text(number)));
            let rehash = |number: &u32| hasher.hash_one(text(*number));
            self.numbers.insert_unique(hasher.hash_one(text(number)), number, rehash);
        }
        changed
    }
}

/// How far another node has been told this node's filters.
#[derive(Default)]
pub struct FilterTelling {
    /// Numbers below this have been told.
    next: u32,
    /// Whether the end of the snapshot has been told.
    ended: bool,
    /// The number of the snapshot, as the other node counts.
    snapshot: u32,
    /// Told numbers that have changed since.
    changes: VecDeque<u32>,
}

impl FilterTelling {
    /// Begins to tell everything again, as the snapshot with this number.
    pub fn begin(&mut self, snapshot: u32) {
        *self = FilterTelling { snapshot, ..FilterTelling::default() };
    }

    /// The number of the snapshot.
    pub fn snapshot(&self) -> u32 {
        self.snapshot
    }

    /// For the process that takes this one's place.
    pub fn pack(&self) -> MovedTelling {
        let FilterTelling { next, ended, snapshot, ref changes } = *self;
        MovedTelling { snapshot, next, ended, changes: changes.iter().copied().collect() }
    }

    /// As it was packed.
    pub fn unpack(told: MovedTelling) -> FilterTelling {
        let MovedTelling { snapshot, next, ended, changes } = told;
        FilterTelling { next, ended, snapshot, changes: changes.into() }
    }

    /// The filter with this number has changed.
    pub fn changed(&mut self, number: u32) {
        if number >= self.next && !self.ended || Mutant::ClusterChangeUntold.is_on() {
            return;
        }
        if self.changes.len() >= CHANGES {
            self.begin(self.snapshot);
            return;
        }
        self.changes.push_back(number);
    }

    /// The next record to send, if there is one.
    pub fn next<'a>(&mut self, filters: &'a LocalFilters) -> Option<NodeRecord<'a>> {
        let said = |number: u32| match filters.text(number) {
            Some(text) => NodeRecord::Filter(number, text),
            None => NodeRecord::NoFilter(number),
        };
        if let Some(number) = self.changes.pop_front() {
            return Some(said(number));
        }
        if self.ended {
            return None;
        }
        if self.next < filters.end() {
            self.next += 1;
            return Some(said(self.next - 1));
        }
        self.ended = true;
        Some(NodeRecord::AllFilters(self.next, self.snapshot))
    }

    /// Whether the snapshot has been told to its end; there may be changes since.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether everything has been told.
    pub fn is_done(&self) -> bool {
        self.ended && self.changes.is_empty()
    }

    /// Count and digest of all filters, once all have been told; `at` is the next segment's number.
    pub fn told(&self, filters: &LocalFilters, at: u64) -> Option<FilterDigest> {
        let (count, digest) = (filters.len() as u32, filters.digest);
        self.is_done().then_some(FilterDigest { at, filters: count, digest })
    }
}

/// The filters that another node has told.
#[derive(Default)]
pub struct RemoteFilters {
    all: Vec<Option<Box<str>>>,
    filters: u32,
    digest: u64,
}

impl RemoteFilters {
    /// The number of filters.
    pub fn len(&self) -> usize {
        self.filters as usize
    }

    /// Whether there is no filter.
    pub fn is_empty(&self) -> bool {
        self.filters == 0
    }

    /// All filters, by their numbers.
    pub fn texts(&self) -> Vec<Option<Box<str>>> {
        self.all.clone()
    }

    /// The number of places that [`RemoteFilters::sweep`] has to look at.
    pub fn places(&self) -> usize {
        self.all.len()
    }

    /// Takes in what a node says of a number, which is below [`CLUSTER_FILTERS`]. `change` is
    /// called with the filter that is wanted from now on (true) and with the one that is wanted no
    /// more (false).
    pub fn set(&mut self, number: u32, filter: Option<&str>, change: &mut dyn FnMut(&str, bool)) {
        let at = number as usize;
        if self.all.get(at).is_some_and(|known| known.as_deref() == filter) {
            return;
        }
        if at >= self.all.len() {
            if filter.is_none() {
                return;
            }
            self.all.resize_with(at + 1, || None);
        }
        // The new filter comes first: a shard may look at the interest table at any moment, and a
        // message must not miss both.
        if let Some(filter) = filter {
            change(filter, true);
            self.filters += 1;
            self.digest = self.digest.wrapping_add(share(number, filter));
        }
        let Some(place) = self.all.get_mut(at) else { return };
        if let Some(gone) = std::mem::replace(place, filter.map(Box::from)) {
            self.filters -= 1;
            self.digest = self.digest.wrapping_sub(share(number, &gone));
            change(&gone, false);
        }
    }

    /// Removes all filters from the number `end` on, looking at no more than `most` places. Returns
    /// true when that was all.
    pub fn sweep(&mut self, end: u32, most: usize, change: &mut dyn FnMut(&str, bool)) -> bool {
        for _ in 0..most {
            if self.all.len() <= end as usize {
                break;
            }
            let number = self.all.len() as u32 - 1;
            self.set(number, None, change);
            self.all.pop();
        }
        let done = self.all.len() <= end as usize;
        if done && self.all.is_empty() {
            self.all = Vec::new();
        }
        done
    }

    /// Whether these filters agree with the count and the digest in `told`.
    pub fn agrees(&self, told: &FilterDigest) -> bool {
        (self.filters, self.digest) == (told.filters, told.digest)
    }
}

#[cfg(test)]
#[path = "filters_tests.rs"]
mod tests;
