//! The table from ClientIds to sessions, by hash. It consists of segments that grow and shrink one
//! by one, so that no CONNECT has to wait until all of a million names have been moved.

use hashbrown::HashTable;

/// Segments; a power of two.
const SEGMENTS: usize = 256;

/// Numbers of sessions by the hash of their ClientId. What a number means is the owner's affair: it
/// is asked whether one is wanted, and for its hash when a segment grows.
pub(super) struct Names {
    segments: Vec<HashTable<u32>>,
    /// The next segment whose room is looked at.
    next: usize,
}

impl Names {
    pub(super) fn new() -> Self {
        let segments = (0..SEGMENTS).map(|_| HashTable::new()).collect();
        Names { segments, next: 0 }
    }

    /// By bits that hashbrown uses neither for the bucket (the lowest) nor for its tag (the highest
    /// seven).
    #[inline]
    fn at(hash: u64) -> usize {
        (hash >> 40) as usize % SEGMENTS
    }

    /// The number with this hash that `is_it`.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.segments[Self::at(hash)].find(hash, |&index| is_it(index)).copied()
    }

    /// Adds a number that is not there.
    pub(super) fn insert(&mut self, hash: u64, index: u32, hash_of: impl Fn(u32) -> u64) {
        self.segments[Self::at(hash)].insert_unique(hash, index, |&index| hash_of(index));
    }

    /// Takes a number out.
    pub(super) fn remove(&mut self, hash: u64, index: u32) {
        let segment = &mut self.segments[Self::at(hash)];
        if let Ok(entry) = segment.find_entry(hash, |&known| known == index) {
            entry.remove();
        }
    }

    /// After a crowd has left: gives back the room of a part of the segments, in turn.
    pub(super) fn shrink(&mut self, hash_of: impl Fn(u32) -> u64) {
        for _ in 0..SEGMENTS / 16 {
            let segment = &mut self.segments[self.next];
            self.next = (self.next + 1) % SEGMENTS;
            let (len, room) = (segment.len(), segment.capacity());
            if room > 16 && len < room / 8 {
                segment.shrink_to(len * 2, |&index| hash_of(index));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(index: u32) -> u64 {
        u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn names_are_found_until_they_are_removed_and_their_room_is_given_back() {
        let mut names = Names::new();
        (0..100_000).for_each(|index| names.insert(hash(index), index, hash));
        assert_eq!(names.find(hash(77_777), |index| index == 77_777), Some(77_777));
        assert_eq!(names.find(hash(77_777), |_| false), None);
        (1..100_000).for_each(|index| names.remove(hash(index), index));
        assert_eq!(names.find(hash(77_777), |index| index == 77_777), None);
        (0..16).for_each(|_| names.shrink(hash));
        assert_eq!(names.find(hash(0), |index| index == 0), Some(0));
        assert!(names.segments.iter().all(|segment| segment.capacity() <= 16));
    }
}
