//! A slab in fixed chunks: stable dense indices, no reallocation that copies a million entries or
//! doubles their memory, and chunks that are wholly free are given back.

/// Entries per chunk.
const CHUNK: usize = 256;

/// Entries by dense index, with a generation per place that tells a reused place apart.
pub struct Slab<T> {
    chunks: Vec<Places<T>>,
    free: Vec<u32>,
    len: usize,
}

struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// A chunk of places. Its memory goes when all of them are free; what stays is a generation that
/// none of them has had.
struct Places<T> {
    entries: Vec<Entry<T>>,
    used: usize,
    generation: u32,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { chunks: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// Entries in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when none is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts `value` in a free place and returns its index.
    pub fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            let chunk = &mut self.chunks[index as usize / CHUNK];
            if chunk.entries.is_empty() {
                let generation = chunk.generation;
                chunk.entries.reserve_exact(CHUNK);
                chunk.entries.resize_with(CHUNK, || Entry { generation, value: None });
            }
            chunk.used += 1;
            chunk.entries[index as usize % CHUNK].value = Some(value);
            return index;
        }
        // No place is free, so the last chunk's memory is there.
        if self.chunks.last().is_none_or(|chunk| chunk.entries.len() == CHUNK) {
            let entries = Vec::with_capacity(CHUNK);
            self.chunks.push(Places { entries, used: 0, generation: 0 });
        }
        let base = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("pushed above");
        chunk.entries.push(Entry { generation: 0, value: Some(value) });
        chunk.used += 1;
        (base + chunk.entries.len() - 1) as u32
    }

    /// Takes the entry out; its index may be handed out again with the next generation.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let chunk = self.chunks.get_mut(index as usize / CHUNK)?;
        let entry = chunk.entries.get_mut(index as usize % CHUNK)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        chunk.used -= 1;
        self.free.push(index);
        self.len -= 1;
        // Some free places are kept, so that one that comes and goes costs nothing.
        if chunk.used == 0 && chunk.entries.len() == CHUNK && self.free.len() > 4 * CHUNK {
            chunk.generation = chunk.entries.iter().map(|e| e.generation).max().unwrap_or(0);
            chunk.entries = Vec::new();
        }
        Some(value)
    }

    /// The entry, when in use.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        let chunk = self.chunks.get(index as usize / CHUNK)?;
        chunk.entries.get(index as usize % CHUNK)?.value.as_ref()
    }

    /// The entry, when in use.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(index as usize / CHUNK)?;
        chunk.entries.get_mut(index as usize % CHUNK)?.value.as_mut()
    }

    /// The generation of a place: of its entry when in use, of its next one otherwise.
    pub fn generation(&self, index: u32) -> u32 {
        self.chunks.get(index as usize / CHUNK).map_or(0, |chunk| {
            let entry = chunk.entries.get(index as usize % CHUNK);
            entry.map_or(chunk.generation, |entry| entry.generation)
        })
    }

    /// The entry, when in use and of that generation.
    pub fn get_of(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        if self.generation(index) != generation {
            return None;
        }
        self.get_mut(index)
    }

    /// One past the highest index ever used.
    pub fn bound(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }
}

/// Values by an index that someone else allots densely (a driver's [`crate::ids::SocketId`]).
pub struct Table<T> {
    chunks: Vec<Option<Box<Chunk<T>>>>,
    len: usize,
}

struct Chunk<T> {
    used: usize,
    values: [Option<T>; CHUNK],
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Table<T> {
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
        let (chunk, place) = (index as usize / CHUNK, index as usize % CHUNK);
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = self.chunks[chunk]
            .get_or_insert_with(|| Box::new(Chunk { used: 0, values: [const { None }; CHUNK] }));
        let old = chunk.values[place].replace(value);
        if old.is_none() {
            chunk.used += 1;
            self.len += 1;
        }
        old
    }

    /// Takes the value out; an empty chunk's memory is given back.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.chunks.get_mut(index as usize / CHUNK)?;
        let chunk = slot.as_mut()?;
        let value = chunk.values[index as usize % CHUNK].take()?;
        chunk.used -= 1;
        self.len -= 1;
        if chunk.used == 0 && index as usize >= CHUNK {
            *slot = None;
        }
        Some(value)
    }

    /// The value at `index`.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get(index as usize / CHUNK)?.as_ref()?.values[index as usize % CHUNK].as_ref()
    }

    /// The value at `index`.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(index as usize / CHUNK)?.as_mut()?;
        chunk.values[index as usize % CHUNK].as_mut()
    }

    /// One past the highest index it can hold now.
    pub fn bound(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
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
        let mut slab = Slab::default();
        let all: Vec<u32> = (0..10 * CHUNK as u32).map(|value| slab.insert(value)).collect();
        let before: Vec<u32> = all.iter().map(|&index| slab.generation(index)).collect();
        for &index in &all {
            assert_eq!(slab.remove(index), Some(index));
        }
        assert!(slab.chunks.iter().filter(|chunk| chunk.entries.is_empty()).count() >= 5);
        assert_eq!(slab.get(all[0]), None);
        let mut again: Vec<u32> = (0..10 * CHUNK as u32).map(|value| slab.insert(value)).collect();
        again.sort_unstable();
        assert_eq!(again, all);
        for (&index, &old) in all.iter().zip(&before) {
            assert_ne!(slab.generation(index), old);
        }
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
