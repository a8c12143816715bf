//! An arena of entries of one type, in chunks. Numbers stay valid until their entry is removed,
//! growth never copies entries, and the memory of a chunk is freed with its last entry. Pure; the
//! indexes that use an arena own it, such as the index of a shard's subscriptions.
//!
//! This is not [`crate::slab::Slab`]: nothing outside such an index keeps a number for longer than
//! its entry exists, so there are no generations, which would cost bytes for each filter and node.
//! A wrong number here is a mistake of the broker itself, not a client that has gone.

use crate::slab::trim;

/// Entries per chunk.
const CHUNK: usize = 256;
/// The number that stands for no slot, at the end of a free list.
const NONE: u32 = u32::MAX;

enum ArenaSlot<T> {
    /// Free, with the next free slot of the same chunk.
    Free(u32),
    Used(T),
}

struct ArenaChunk<T> {
    slots: Vec<ArenaSlot<T>>,
    free: u32,
    used: u32,
}

impl<T> ArenaChunk<T> {
    fn has_room(&self) -> bool {
        (self.used as usize) < CHUNK
    }
}

/// Numbered entries. The number of a removed entry is used again.
pub(crate) struct NodeArena<T> {
    chunks: Vec<ArenaChunk<T>>,
    /// The chunks that have a free slot, each listed once.
    roomy: Vec<u32>,
    len: usize,
}

impl<T> NodeArena<T> {
    /// An empty arena without memory.
    pub fn new() -> Self {
        NodeArena { chunks: Vec::new(), roomy: Vec::new(), len: 0 }
    }

    /// How many entries are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds an entry and returns its number.
    pub fn insert(&mut self, entry: T) -> u32 {
        // The numbers of chunks that were dropped since are skipped.
        while self.roomy.last().is_some_and(|&at| at as usize >= self.chunks.len()) {
            self.roomy.pop();
        }
        let at = match self.roomy.last() {
            Some(&at) => at,
            None => {
                let at = u32::try_from(self.chunks.len()).expect("ids run out after memory does");
                assert!(
                    (at as usize) < NONE as usize / CHUNK,
                    "a shard holds 2^32 entries at most"
                );
                self.chunks.push(ArenaChunk { slots: Vec::new(), free: NONE, used: 0 });
                self.roomy.push(at);
                at
            }
        };
        let chunk = &mut self.chunks[at as usize];
        let slot = if chunk.free == NONE {
            if chunk.slots.is_empty() {
                chunk.slots.reserve_exact(CHUNK);
            }
            chunk.slots.push(ArenaSlot::Used(entry));
            chunk.slots.len() - 1
        } else {
            let slot = chunk.free as usize;
            match std::mem::replace(&mut chunk.slots[slot], ArenaSlot::Used(entry)) {
                ArenaSlot::Free(next) => chunk.free = next,
                ArenaSlot::Used(_) => unreachable!("the free list names a used slot"),
            }
            slot
        };
        chunk.used += 1;
        if !chunk.has_room() {
            self.roomy.pop();
        }
        self.len += 1;
        at * CHUNK as u32 + slot as u32
    }

    /// Removes and returns an entry. Panics when there is none with that number, which would be our
    /// own mistake.
    pub fn remove(&mut self, id: u32) -> T {
        let (at, slot) = split(id);
        let chunk = &mut self.chunks[at];
        let had_room = chunk.has_room();
        let entry = match std::mem::replace(&mut chunk.slots[slot], ArenaSlot::Free(chunk.free)) {
            ArenaSlot::Used(entry) => entry,
            ArenaSlot::Free(_) => panic!("removed an entry twice"),
        };
        chunk.free = slot as u32;
        chunk.used -= 1;
        let emptied = chunk.used == 0;
        if emptied {
            chunk.slots = Vec::new();
            chunk.free = NONE;
        }
        if !had_room {
            self.roomy.push(at as u32);
        }
        if emptied && at + 1 == self.chunks.len() {
            self.drop_last();
        }
        self.len -= 1;
        entry
    }

    /// Drops empty chunks from the end of the list. The first chunk stays.
    fn drop_last(&mut self) {
        while self.chunks.len() > 1 && self.chunks.last().is_some_and(|chunk| chunk.used == 0) {
            self.chunks.pop();
        }
        let left = self.chunks.len();
        // This looks at the whole list, so it is done rarely: only once enough chunks have been
        // dropped since the last time.
        if self.roomy.len() > left + 16 {
            self.roomy.retain(|&at| (at as usize) < left);
            trim(&mut self.roomy);
        }
        trim(&mut self.chunks);
    }

    /// Every entry.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| &chunk.slots).filter_map(|slot| match slot {
            ArenaSlot::Used(entry) => Some(entry),
            ArenaSlot::Free(_) => None,
        })
    }

    /// The first entry from number `from` on, and how many numbers were examined: at most `most`
    /// and one chunk more. When the search ends early, the number is that of the place where the
    /// next search continues. `None` when there is no further entry.
    pub fn next_used(&self, from: u32, most: usize) -> Option<(u32, usize)> {
        let (first, start) = split(from);
        let mut looked = 0;
        for (at, chunk) in self.chunks.iter().enumerate().skip(first) {
            let begin = if at == first { start } else { 0 };
            if looked >= most {
                return Some(((at * CHUNK + begin) as u32, looked));
            }
            if chunk.used == 0 {
                looked += 1;
                continue;
            }
            for (slot, entry) in chunk.slots.iter().enumerate().skip(begin) {
                looked += 1;
                if matches!(entry, ArenaSlot::Used(_)) {
                    return Some(((at * CHUNK + slot) as u32, looked));
                }
            }
        }
        None
    }

    /// The entry of that number, if there is one.
    pub fn find(&self, id: u32) -> Option<&T> {
        let (at, slot) = split(id);
        match self.chunks.get(at)?.slots.get(slot)? {
            ArenaSlot::Used(entry) => Some(entry),
            ArenaSlot::Free(_) => None,
        }
    }

    /// The entry of that number. Panics when there is none, which would be our own mistake.
    #[inline]
    pub fn get(&self, id: u32) -> &T {
        let (at, slot) = split(id);
        match &self.chunks[at].slots[slot] {
            ArenaSlot::Used(entry) => entry,
            ArenaSlot::Free(_) => panic!("looked up a removed entry"),
        }
    }

    /// The entry of that number. Panics when there is none, which would be our own mistake.
    #[inline]
    pub fn get_mut(&mut self, id: u32) -> &mut T {
        let (at, slot) = split(id);
        match &mut self.chunks[at].slots[slot] {
            ArenaSlot::Used(entry) => entry,
            ArenaSlot::Free(_) => panic!("looked up a removed entry"),
        }
    }
}

#[inline]
fn split(id: u32) -> (usize, usize) {
    (id as usize / CHUNK, id as usize % CHUNK)
}

/// The size of one entry in an arena, for assertions about sizes.
pub(crate) const fn slot_size<T>() -> usize {
    size_of::<ArenaSlot<T>>()
}

#[cfg(test)]
#[path = "arena_tests.rs"]
mod tests;
