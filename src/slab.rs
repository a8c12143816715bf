//! A slab in chunks. Its indices are dense and stable, growing never copies a million entries or
//! doubles their memory, and chunks without entries are freed.

/// The largest size of a chunk in bytes. The allocator has a class of exactly this size, so that
/// rounding loses nothing, and it keeps such blocks on small pages, which become free sooner than
/// large ones.
const CHUNK_BYTES: usize = 8192;

/// Releases most of the spare capacity of a list when three quarters of it are unused. Otherwise
/// one surviving list could keep a whole page of the allocator, together with the blocks of other
/// lists that are gone.
pub fn trim<T>(list: &mut Vec<T>) {
    if list.capacity() > 64 && list.len() < list.capacity() / 4 {
        list.shrink_to(list.len() * 2);
    }
}

/// The number of outdated chunk numbers that a list of a [`Slab`] may contain before it is cleaned
/// up.
const STALE: usize = 16;

/// The places whose entries were added, removed or lent to be changed, each listed once.
#[derive(Default)]
struct ChangedPlaces {
    listed: Vec<u64>,
    list: Vec<u32>,
}

impl ChangedPlaces {
    #[cold]
    fn note(&mut self, index: u32) {
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        if word >= self.listed.len() {
            self.listed.resize(word + 1, 0);
        }
        if let Some(listed) = self.listed.get_mut(word).filter(|listed| **listed & bit == 0) {
            *listed |= bit;
            self.list.push(index);
        }
    }

    fn take(&mut self) -> Vec<u32> {
        for &index in &self.list {
            if let Some(listed) = self.listed.get_mut(index as usize / 64) {
                *listed = 0;
            }
        }
        std::mem::take(&mut self.list)
    }
}

/// Entries by dense index. Each place has a generation, which tells a reused place apart.
pub struct Slab<T> {
    chunks: Vec<SlabChunk<T>>,
    /// The chunks that have a free place, each listed once. The last one is used first. Some of
    /// them may have been freed since and are skipped.
    roomy: Vec<u32>,
    /// The chunk that has memory but no entry, if there is one.
    empty: Option<u32>,
    /// The chunks without memory. The last chunk is never among them: it is removed instead, and
    /// its number is skipped here.
    vacant: Vec<u32>,
    /// A generation that no place of a removed chunk has had.
    generation: u32,
    len: usize,
    /// Where changes are noted while that is asked for.
    changed: Option<Box<ChangedPlaces>>,
}

struct SlabEntry<T> {
    generation: u32,
    value: Option<T>,
}

/// A chunk of places. Its memory is freed when all of them are free. What remains is a generation
/// that none of them has had.
struct SlabChunk<T> {
    entries: Box<[SlabEntry<T>]>,
    /// One bit for each place that is free.
    free: u64,
    generation: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab {
            chunks: Vec::new(),
            roomy: Vec::new(),
            empty: None,
            vacant: Vec::new(),
            generation: 0,
            len: 0,
            changed: None,
        }
    }
}

impl<T> Slab<T> {
    /// Entries per chunk.
    const PLACES: usize = {
        let fit = CHUNK_BYTES / size_of::<SlabEntry<T>>();
        assert!(fit > 0, "an entry fits into a chunk");
        if fit > u64::BITS as usize { u64::BITS as usize } else { fit }
    };
    const ALL_FREE: u64 = u64::MAX >> (u64::BITS as usize - Self::PLACES);

    /// Entries in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when none is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores `value` in a free place and returns its index.
    pub fn insert(&mut self, value: T) -> u32 {
        let number = self.roomy_chunk();
        let chunk = &mut self.chunks[number as usize];
        let place = chunk.free.trailing_zeros();
        if chunk.free == Self::ALL_FREE {
            self.empty = None;
        }
        chunk.entries[place as usize].value = Some(value);
        chunk.free &= chunk.free - 1;
        if chunk.free == 0 {
            self.roomy.pop();
        }
        self.len += 1;
        let index = number * Self::PLACES as u32 + place;
        self.note(index);
        index
    }

    /// Begins to note the places that change, or ceases.
    pub fn watch_changes(&mut self, watch: bool) {
        self.changed = watch.then(Box::default);
    }

    /// The places that have changed since the last call.
    pub fn take_changed(&mut self) -> Vec<u32> {
        self.changed.as_mut().map_or_else(Vec::new, |changed| changed.take())
    }

    /// The places that have changed since the last call of [`Self::take_changed`].
    pub fn changed(&self) -> &[u32] {
        self.changed.as_ref().map_or(&[], |changed| &changed.list)
    }

    #[inline]
    fn note(&mut self, index: u32) {
        if let Some(changed) = &mut self.changed {
            changed.note(index);
        }
    }

    /// A chunk with a free place: the last in `roomy`.
    #[inline]
    fn roomy_chunk(&mut self) -> u32 {
        while let Some(&number) = self.roomy.last() {
            // A chunk that was freed has no free place.
            if self.chunks.get(number as usize).is_some_and(|chunk| chunk.free != 0) {
                return number;
            }
            self.roomy.pop();
        }
        self.grow()
    }

    /// Removes and returns the entry. Its index may be used again, with the next generation.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let (number, place) = Self::split(index);
        let chunk = self.chunks.get_mut(number)?;
        let entry = chunk.entries.get_mut(place)?;
        let value = entry.value.take()?;
        if let Some(changed) = &mut self.changed {
            changed.note(index);
        }
        entry.generation = entry.generation.wrapping_add(1);
        if chunk.free == 0 {
            self.roomy.push(number as u32);
        }
        chunk.free |= 1 << place;
        self.len -= 1;
        if chunk.free == Self::ALL_FREE {
            // One empty chunk is kept, so that an entry that is added and removed repeatedly costs
            // no allocation. It is the one with the lower number, so that the list of chunks can
            // become short.
            let number = number as u32;
            match self.empty.replace(number) {
                None => {}
                Some(kept) => {
                    self.empty = Some(kept.min(number));
                    self.give_back(kept.max(number));
                }
            }
        }
        Some(value)
    }

    /// Frees the memory of a chunk without entries. If it is the last chunk, its number is removed
    /// too.
    fn give_back(&mut self, number: u32) {
        let chunk = &mut self.chunks[number as usize];
        chunk.generation = chunk.entries.iter().map(|e| e.generation).max().unwrap_or(0);
        chunk.entries = Box::default();
        chunk.free = 0;
        self.vacant.push(number);
        while self.chunks.last().is_some_and(|chunk| chunk.entries.is_empty()) {
            let dropped = self.chunks.pop().map_or(0, |chunk| chunk.generation);
            self.generation = self.generation.max(dropped);
        }
        trim(&mut self.chunks);
        // This looks at the whole list, so it is done rarely: only once enough chunks have been
        // removed since the last time.
        let left = self.chunks.len();
        for list in [&mut self.vacant, &mut self.roomy] {
            if list.len() > left + STALE {
                list.retain(|&number| (number as usize) < left);
                trim(list);
            }
        }
    }

    /// A chunk whose places are all free: one whose memory was freed before, or a new one.
    fn grow(&mut self) -> u32 {
        let number = loop {
            match self.vacant.pop() {
                Some(number) if (number as usize) < self.chunks.len() => break number,
                Some(_) => {}
                None => {
                    let generation = self.generation;
                    self.chunks.push(SlabChunk { entries: Box::default(), free: 0, generation });
                    break u32::try_from(self.chunks.len() - 1)
                        .expect("memory runs out before indices do");
                }
            }
        };
        let chunk = &mut self.chunks[number as usize];
        let generation = chunk.generation;
        chunk.entries = (0..Self::PLACES).map(|_| SlabEntry { generation, value: None }).collect();
        chunk.free = Self::ALL_FREE;
        self.roomy.push(number);
        number
    }

    #[inline]
    fn split(index: u32) -> (usize, usize) {
        (index as usize / Self::PLACES, index as usize % Self::PLACES)
    }

    /// The entry, when in use.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        let (number, place) = Self::split(index);
        self.chunks.get(number)?.entries.get(place)?.value.as_ref()
    }

    /// The entry, when in use.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.note(index);
        let (number, place) = Self::split(index);
        self.chunks.get_mut(number)?.entries.get_mut(place)?.value.as_mut()
    }

    /// The generation of a place: that of its entry if it is in use, that of its next entry
    /// otherwise.
    pub fn generation(&self, index: u32) -> u32 {
        let (number, place) = Self::split(index);
        self.chunks.get(number).map_or(self.generation, |chunk| {
            chunk.entries.get(place).map_or(chunk.generation, |entry| entry.generation)
        })
    }

    /// The entry, when in use and of that generation.
    pub fn get_of(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        if self.generation(index) != generation {
            return None;
        }
        self.get_mut(index)
    }

    /// One more than the highest index that may be in use.
    pub fn bound(&self) -> u32 {
        (self.chunks.len() * Self::PLACES) as u32
    }
}

/// Values by an index that another owner allocates densely, such as a driver's
/// [`crate::ids::SocketId`].
pub struct Table<T> {
    chunks: Vec<TableChunk<T>>,
    len: usize,
    /// Where changes are noted while that is asked for.
    changed: Option<Box<ChangedPlaces>>,
}

struct TableChunk<T> {
    /// Empty while the chunk has no value.
    values: Box<[Option<T>]>,
    used: u32,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { chunks: Vec::new(), len: 0, changed: None }
    }
}

impl<T> Table<T> {
    /// Values per chunk.
    const PLACES: usize = {
        let fit = CHUNK_BYTES / size_of::<Option<T>>();
        assert!(fit > 0, "a value fits into a chunk");
        fit
    };

    /// Values held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the value at `index`; returns the one that was there.
    pub fn insert(&mut self, index: u32, value: T) -> Option<T> {
        self.note(index);
        let (number, place) = Self::split(index);
        if number >= self.chunks.len() {
            self.chunks.resize_with(number + 1, || TableChunk { values: Box::default(), used: 0 });
        }
        let chunk = &mut self.chunks[number];
        if chunk.values.is_empty() {
            chunk.values = (0..Self::PLACES).map(|_| None).collect();
        }
        let old = chunk.values[place].replace(value);
        if old.is_none() {
            chunk.used += 1;
            self.len += 1;
        }
        old
    }

    /// Removes and returns the value. The memory of an empty chunk is freed, except for the first
    /// chunk's.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        self.note(index);
        let (number, place) = Self::split(index);
        let chunk = self.chunks.get_mut(number)?;
        let value = chunk.values.get_mut(place)?.take()?;
        chunk.used -= 1;
        self.len -= 1;
        if chunk.used == 0 && number > 0 {
            chunk.values = Box::default();
            while self.chunks.last().is_some_and(|chunk| chunk.values.is_empty()) {
                self.chunks.pop();
            }
            trim(&mut self.chunks);
        }
        Some(value)
    }

    #[inline]
    fn split(index: u32) -> (usize, usize) {
        (index as usize / Self::PLACES, index as usize % Self::PLACES)
    }

    /// The value at `index`.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        let (number, place) = Self::split(index);
        self.chunks.get(number)?.values.get(place)?.as_ref()
    }

    /// The value at `index`.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.note(index);
        let (number, place) = Self::split(index);
        self.chunks.get_mut(number)?.values.get_mut(place)?.as_mut()
    }

    /// Begins to note the places that change, or ceases.
    pub fn watch_changes(&mut self, watch: bool) {
        self.changed = watch.then(Box::default);
    }

    /// The places that have changed since the last call.
    pub fn take_changed(&mut self) -> Vec<u32> {
        self.changed.as_mut().map_or_else(Vec::new, |changed| changed.take())
    }

    #[inline]
    fn note(&mut self, index: u32) {
        if let Some(changed) = &mut self.changed {
            changed.note(index);
        }
    }

    /// One more than the highest index that it can hold now.
    pub fn bound(&self) -> u32 {
        (self.chunks.len() * Self::PLACES) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_place_has_another_generation() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        let generation = slab.generation(first);
        assert_eq!(slab.remove(first), Some('a'));
        assert_eq!(slab.remove(first), None);
        let second = slab.insert('b');
        assert_eq!(first, second);
        assert_eq!(slab.get_of(second, generation), None);
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn a_chunk_that_was_given_back_comes_again_with_new_generations() {
        let count = 10 * Slab::<u32>::PLACES as u32;
        let mut slab = Slab::default();
        let all: Vec<u32> = (0..count).map(|value| slab.insert(value)).collect();
        assert_eq!(all, (0..count).collect::<Vec<_>>(), "indices are dense");
        let before: Vec<u32> = all.iter().map(|&index| slab.generation(index)).collect();
        for &index in &all {
            assert_eq!(slab.remove(index), Some(index));
        }
        let with_memory = slab.chunks.iter().filter(|chunk| !chunk.entries.is_empty()).count();
        assert_eq!(with_memory, 1);
        assert_eq!(slab.get(all[0]), None);
        let mut again: Vec<u32> = (0..count).map(|value| slab.insert(value)).collect();
        again.sort_unstable();
        assert_eq!(again, all);
        for (&index, &old) in all.iter().zip(&before) {
            assert_ne!(slab.generation(index), old);
        }
    }

    #[test]
    fn of_a_crowd_that_has_gone_not_even_the_list_of_chunks_is_left() {
        let count = 500 * Slab::<u32>::PLACES as u32;
        let (mut slab, mut table) = (Slab::default(), Table::default());
        for order in [|at: usize, _| at, |at, all| all - 1 - at, |at, all| at * 7919 % all] {
            let all: Vec<u32> = (0..count).map(|value| slab.insert(value)).collect();
            all.iter().for_each(|&index| assert_eq!(table.insert(index, index), None));
            for at in 0..all.len() {
                let index = all[order(at, all.len())];
                assert!(slab.remove(index).is_some() && table.remove(index).is_some());
                assert!(slab.get(index).is_none() && table.get(index).is_none());
            }
            let lists = [slab.chunks.capacity(), slab.vacant.capacity(), slab.roomy.capacity()];
            assert!(lists.iter().all(|&room| room <= 64), "{lists:?}");
            assert!(table.chunks.capacity() <= 64, "{}", table.chunks.capacity());
        }
    }

    #[test]
    fn places_are_used_again_whatever_order_they_come_free_in() {
        let mut slab = Slab::default();
        let mut held: Vec<u32> = (0..500u32).map(|value| slab.insert(value)).collect();
        for round in 0..5000u32 {
            let at = round.wrapping_mul(2_654_435_761) as usize % held.len();
            let index = held.swap_remove(at);
            assert!(slab.remove(index).is_some());
            if round % 3 > 0 || held.len() < 10 {
                held.push(slab.insert(round));
            }
            assert_eq!(slab.len(), held.len());
            assert!(held.iter().all(|&index| slab.get(index).is_some()));
        }
        assert!(slab.bound() <= 512);
    }

    #[test]
    fn changes_are_noted_once_while_that_is_asked_for() {
        let (mut slab, mut table) = (Slab::default(), Table::default());
        let all: Vec<u32> = (0..200).map(|value| slab.insert(value)).collect();
        all.iter().for_each(|&index| assert_eq!(table.insert(index, index), None));
        assert!(slab.take_changed().is_empty() && table.take_changed().is_empty());
        slab.watch_changes(true);
        table.watch_changes(true);
        assert!(slab.get(all[3]).is_some() && table.get(all[3]).is_some());
        for _ in 0..2 {
            assert!(slab.get_mut(all[70]).is_some() && table.get_mut(all[70]).is_some());
            assert!(slab.remove(all[5]).is_some() && table.remove(all[5]).is_some());
            let again = slab.insert(0);
            assert_eq!((again, table.insert(again, 0)), (all[5], None));
            assert_eq!(slab.take_changed(), [70, 5]);
            assert_eq!(table.take_changed(), [70, 5]);
            assert!(slab.take_changed().is_empty() && table.take_changed().is_empty());
        }
        slab.watch_changes(false);
        assert!(slab.get_mut(all[70]).is_some());
        assert!(slab.take_changed().is_empty());
    }

    #[test]
    fn a_table_counts_what_it_holds() {
        let mut table = Table::default();
        for index in 0..1000 {
            assert_eq!(table.insert(index, index), None);
        }
        assert_eq!(table.insert(5, 6), Some(5));
        assert_eq!((table.len(), table.get(5), table.get(999)), (1000, Some(&6), Some(&999)));
        for index in 0..1000 {
            assert!(table.remove(index).is_some());
        }
        assert_eq!((table.len(), table.get(5)), (0, None));
    }
}
