//! One slot of 16 bytes per open socket. Slots are allocated in chunks, so that even a table of a
//! million of them is never copied as a whole.
use crate::ids::SocketId;
use crate::slab::trim;

/// The operation bits. While any of them is set, the kernel may still post a completion for this
/// socket.
pub(super) const RECEIVING: u32 = 1 << 0;
pub(super) const SENDING: u32 = 1 << 1;
pub(super) const SHUTTING: u32 = 1 << 2;
pub(super) const CLOSE_SENT: u32 = 1 << 3;
pub(super) const HANDING: u32 = 1 << 4;
pub(super) const EXPORTING: u32 = 1 << 5;
/// It is being exported as a copy.
pub(super) const COPYING: u32 = 1 << 6;
/// The kernel is to tell when there is something to read.
pub(super) const POLLING: u32 = 1 << 7;
pub(super) const IN_FLIGHT: u32 =
    RECEIVING | SENDING | SHUTTING | CLOSE_SENT | HANDING | EXPORTING | COPYING | POLLING;
/// How the shard wants the socket to be read.
pub(super) const WANT_ONCE: u32 = 1 << 8;
pub(super) const WANT_STREAM: u32 = 1 << 9;
pub(super) const WANT: u32 = WANT_ONCE | WANT_STREAM;
pub(super) const PAUSED: u32 = 1 << 10;
/// A cancel of the receive is in flight.
pub(super) const CANCELLING: u32 = 1 << 11;
/// The socket waits in the list of those whose receive found no buffer.
pub(super) const STARVED: u32 = 1 << 12;
/// Nothing more will be received: the end of the stream or an error has been reported.
pub(super) const ENDED: u32 = 1 << 13;
/// An orderly close is in progress, and input is discarded.
pub(super) const LINGER: u32 = 1 << 14;
/// The direct descriptor is being closed; `Closed` follows.
pub(super) const CLOSING: u32 = 1 << 15;
/// The send in flight is being withdrawn.
pub(super) const WITHDRAWING: u32 = 1 << 16;
/// Another process may have the socket, too: closing it here ends no connection.
pub(super) const COPIED: u32 = 1 << 17;
/// Before the socket is read, the kernel is to tell that there is something to read.
pub(super) const WATCHED: u32 = 1 << 18;
pub(super) const OPEN: u32 = 1 << 31;

/// All state that the driver keeps per socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketSlot {
    /// The direct descriptor, which is an index in the ring's table. In a free slot it is the index
    /// of the next free slot.
    pub(super) table: u32,
    /// The index of the send or hand-over record in use.
    pub(super) record: u32,
    pub(super) ring: u16,
    /// Distinguishes completions of an earlier socket with the same id. The number wraps around,
    /// which only records outside the kernel could notice: a slot is released after the last
    /// completion of its socket, and the completion of a failed cancel comes before that of the
    /// close that is queued behind it.
    pub(super) generation: u16,
    pub(super) flags: u32,
}

const _: () = assert!(size_of::<SocketSlot>() == 16);

/// A chunk has 8 KiB, a size that the allocator keeps on small pages, which become free sooner.
const CHUNK: usize = 512;
const NONE: u32 = u32::MAX;

/// A chunk of consecutive slots. Its memory is freed when none of them is in use.
struct SlotChunk {
    slots: Option<Box<[SocketSlot; CHUNK]>>,
    /// The first free slot of this chunk, linked through `table`.
    free: u32,
    open: u32,
    /// The generation of slots that are used for the first time: one that none of them has had
    /// recently.
    generation: u16,
}

pub(super) struct Slots {
    chunks: Vec<SlotChunk>,
    /// The chunks that have a free slot, each listed once. The last one is used first.
    roomy: Vec<u32>,
    /// The chunk that has memory but no open slot. At most one such chunk is kept.
    empty: Option<u32>,
    /// The generation for chunks that are allocated again: none of their slots has had it recently.
    generation: u16,
    pub(super) open: u32,
    allocated: u32,
}

impl Slots {
    pub(super) fn new() -> Self {
        Slots {
            chunks: Vec::new(),
            roomy: Vec::new(),
            empty: None,
            generation: 0,
            open: 0,
            allocated: 0,
        }
    }

    pub(super) fn allocated(&self) -> u32 {
        self.allocated
    }

    /// Opens a slot for the socket with descriptor `table` in ring `ring`. The slot that was freed
    /// last is used first.
    pub(super) fn open(&mut self, ring: usize, table: u32) -> SocketId {
        let number = self.roomy_chunk();
        let chunk = &mut self.chunks[number as usize];
        let id = SocketId(chunk.free);
        let slots = chunk.slots.as_deref_mut().expect("a roomy chunk has memory");
        let slot = &mut slots[id.0 as usize % CHUNK];
        let next = slot.table;
        let generation = slot.generation;
        *slot = SocketSlot { table, record: NONE, ring: ring as u16, generation, flags: OPEN };
        chunk.free = next;
        if chunk.open == 0 && self.empty == Some(number) {
            self.empty = None;
        }
        chunk.open += 1;
        if next == NONE {
            self.roomy.pop();
        }
        self.open += 1;
        id
    }

    pub(super) fn release(&mut self, id: SocketId) {
        let number = id.0 as usize / CHUNK;
        let chunk = &mut self.chunks[number];
        let next = chunk.free;
        let slots = chunk.slots.as_deref_mut().expect("a slot is released once");
        let slot = &mut slots[id.0 as usize % CHUNK];
        assert!(slot.flags & OPEN != 0, "a slot is released once");
        slot.flags = 0;
        slot.generation = slot.generation.wrapping_add(1);
        slot.table = next;
        chunk.free = id.0;
        chunk.open -= 1;
        self.open -= 1;
        if next == NONE {
            self.roomy.push(number as u32);
        }
        if chunk.open > 0 {
            return;
        }
        match self.empty {
            None => self.empty = Some(number as u32),
            // The chunk with the lower number is kept, so that tables that are indexed by socket
            // number can stay short.
            Some(kept) => {
                self.empty = Some(kept.min(number as u32));
                self.give_back(kept.max(number as u32) as usize);
            }
        }
    }

    /// Frees the memory of a chunk without open slots. If it is the last chunk, its number is
    /// removed too.
    fn give_back(&mut self, number: usize) {
        let chunk = &mut self.chunks[number];
        // Generations are compared by their distance from the chunk's first one, which finds the
        // latest although the numbers wrap around.
        let first = chunk.generation;
        let slots = chunk.slots.take();
        let ages = slots.iter().flat_map(|slots| slots.iter());
        let age = ages.map(|slot| slot.generation.wrapping_sub(first)).max().unwrap_or(0);
        chunk.generation = first.wrapping_add(age);
        chunk.free = NONE;
        self.allocated -= CHUNK as u32;
        // This is rare, and the list has only one entry per chunk.
        self.roomy.retain(|&roomy| roomy as usize != number);
        trim(&mut self.roomy);
        while let Some(last) = self.chunks.pop_if(|chunk| chunk.slots.is_none()) {
            if last.generation.wrapping_sub(self.generation) < 1 << 15 {
                self.generation = last.generation;
            }
        }
        trim(&mut self.chunks);
    }

    /// All open sockets of a ring. Looks at every slot, so it is only for rare events.
    pub(super) fn of_ring(&self, ring: usize) -> Vec<SocketId> {
        let chunks = (0u32..).step_by(CHUNK).zip(&self.chunks);
        let slots = chunks
            .flat_map(|(first, chunk)| (first..).zip(chunk.slots.iter().flat_map(|s| s.iter())));
        let here = slots.filter(|(_, slot)| slot.flags & OPEN != 0 && slot.ring as usize == ring);
        here.map(|(id, _)| SocketId(id)).collect()
    }

    /// All open sockets that `wanted` says are wanted; it may change their slots. Looks at every
    /// slot, some milliseconds for a million.
    pub(super) fn select(
        &mut self,
        mut wanted: impl FnMut(&mut SocketSlot) -> bool,
    ) -> Vec<SocketId> {
        let chunks = (0u32..).step_by(CHUNK).zip(&mut self.chunks);
        let slots = chunks.flat_map(|(first, chunk)| {
            (first..).zip(chunk.slots.iter_mut().flat_map(|slots| slots.iter_mut()))
        });
        let found = slots.filter_map(|(id, slot)| {
            (slot.flags & OPEN != 0 && wanted(slot)).then_some(SocketId(id))
        });
        found.collect()
    }

    /// The slot of an open socket.
    #[inline]
    pub(super) fn get(&mut self, id: SocketId) -> Option<&mut SocketSlot> {
        let chunk = self.chunks.get_mut(id.0 as usize / CHUNK)?.slots.as_deref_mut()?;
        Some(&mut chunk[id.0 as usize % CHUNK]).filter(|slot| slot.flags & OPEN != 0)
    }

    /// The slot of an open socket, if a completion with this generation belongs to it.
    #[inline]
    pub(super) fn get_current(&mut self, id: SocketId, generation: u16) -> Option<&mut SocketSlot> {
        self.get(id).filter(|slot| slot.generation == generation)
    }

    /// A chunk that has a free slot: the one used last, or a new one with the lowest free number.
    fn roomy_chunk(&mut self) -> u32 {
        if let Some(&number) = self.roomy.last() {
            return number;
        }
        // This runs once for each chunk that is filled.
        let given_back = self.chunks.iter().position(|chunk| chunk.slots.is_none());
        let number = given_back.unwrap_or(self.chunks.len());
        if number == self.chunks.len() {
            let generation = self.generation;
            self.chunks.push(SlotChunk { slots: None, free: NONE, open: 0, generation });
        }
        let chunk = &mut self.chunks[number];
        let free = SocketSlot {
            table: NONE,
            record: NONE,
            ring: 0,
            generation: chunk.generation,
            flags: 0,
        };
        let mut slots = Box::new([free; CHUNK]);
        let base = (number * CHUNK) as u32;
        for (offset, slot) in slots.iter_mut().enumerate().take(CHUNK - 1) {
            slot.table = base + offset as u32 + 1;
        }
        chunk.free = base;
        chunk.slots = Some(slots);
        self.allocated += CHUNK as u32;
        self.roomy.push(number as u32);
        number as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dense_reused_last_in_first_out_and_told_apart_by_generation() {
        let mut slots = Slots::new();
        let ids: Vec<_> = (0..3000).map(|n| slots.open(0, n)).collect();
        assert_eq!(ids.iter().map(|id| id.0).collect::<Vec<_>>(), (0..3000).collect::<Vec<_>>());
        let before = slots.get(ids[7]).unwrap().generation;
        slots.release(ids[9]);
        slots.release(ids[7]);
        assert!(slots.get(ids[7]).is_none());
        assert_eq!(slots.open(1, 5), ids[7]);
        assert_eq!(slots.open(1, 6), ids[9]);
        assert!(slots.get_current(ids[7], before).is_none());
        assert!(slots.get_current(ids[7], before + 1).is_some());
        assert_eq!((slots.open, slots.allocated()), (3000, 6 * CHUNK as u32));
        assert!(slots.get(SocketId(9999)).is_none());
    }

    #[test]
    fn a_chunk_without_open_sockets_is_given_back_and_comes_again_with_new_generations() {
        let mut slots = Slots::new();
        let all: Vec<_> = (0..5000).map(|n| slots.open(0, n)).collect();
        let before: Vec<u16> = all.iter().map(|id| slots.get(*id).unwrap().generation).collect();
        all.iter().for_each(|id| slots.release(*id));
        assert_eq!((slots.open, slots.allocated()), (0, CHUNK as u32));
        let mut again: Vec<_> = (0..5000).map(|n| slots.open(0, n)).collect();
        for (id, old) in all.iter().zip(&before) {
            assert!(slots.get_current(*id, *old).is_none());
            assert_eq!(slots.get(*id).unwrap().generation, old + 1);
        }
        again.sort_by_key(|id| id.0);
        assert_eq!(again, all);
        again[1..].iter().for_each(|id| slots.release(*id));
        assert_eq!(slots.allocated(), 2 * CHUNK as u32);
    }
}
