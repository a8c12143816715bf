//! One 16-byte slot per open socket, in chunks, so that a million of them never means one big copy.
use crate::ids::SocketId;

/// Operation bits: while any is set, the kernel may still complete something for this socket.
pub(super) const RECEIVING: u32 = 1 << 0;
pub(super) const SENDING: u32 = 1 << 1;
pub(super) const SHUTTING: u32 = 1 << 2;
pub(super) const CLOSE_SENT: u32 = 1 << 3;
pub(super) const HANDING: u32 = 1 << 4;
pub(super) const IN_FLIGHT: u32 = RECEIVING | SENDING | SHUTTING | CLOSE_SENT | HANDING;
/// What the shard wants.
pub(super) const WANT_ONCE: u32 = 1 << 8;
pub(super) const WANT_STREAM: u32 = 1 << 9;
pub(super) const WANT: u32 = WANT_ONCE | WANT_STREAM;
pub(super) const PAUSED: u32 = 1 << 10;
/// A cancel of the receive is on its way.
pub(super) const CANCELLING: u32 = 1 << 11;
/// Waits in the list of sockets that found no buffer.
pub(super) const STARVED: u32 = 1 << 12;
/// Nothing more will be received: end of stream, or an error was reported.
pub(super) const ENDED: u32 = 1 << 13;
/// Orderly close under way: input is discarded.
pub(super) const LINGER: u32 = 1 << 14;
/// The direct descriptor is being closed; `Closed` follows.
pub(super) const CLOSING: u32 = 1 << 15;
pub(super) const OPEN: u32 = 1 << 31;

/// All that the driver keeps per socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Direct descriptor: the index in the ring's table. While free: the next free slot.
    pub(super) table: u32,
    /// The send or hand-over record in use.
    pub(super) record: u32,
    pub(super) ring: u16,
    /// Tells completions of an earlier socket with the same id apart.
    pub(super) generation: u16,
    pub(super) flags: u32,
}

const _: () = assert!(size_of::<Slot>() == 16);

const CHUNK: usize = 1024;
const NONE: u32 = u32::MAX;

pub(super) struct Slots {
    chunks: Vec<Box<[Slot; CHUNK]>>,
    free: u32,
    pub(super) open: u32,
}

impl Slots {
    pub(super) fn new() -> Self {
        Slots { chunks: Vec::new(), free: NONE, open: 0 }
    }

    pub(super) fn allocated(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    /// A slot for a socket that is at `table` of ring `ring`; the last one freed is used first.
    pub(super) fn open(&mut self, ring: usize, table: u32) -> SocketId {
        if self.free == NONE {
            self.grow();
        }
        let id = SocketId(self.free);
        let slot = self.at(id);
        let next = slot.table;
        let generation = slot.generation;
        *slot = Slot { table, record: NONE, ring: ring as u16, generation, flags: OPEN };
        self.free = next;
        self.open += 1;
        id
    }

    pub(super) fn release(&mut self, id: SocketId) {
        let next = self.free;
        let slot = self.at(id);
        assert!(slot.flags & OPEN != 0, "a slot is released once");
        slot.flags = 0;
        slot.generation = slot.generation.wrapping_add(1);
        slot.table = next;
        self.free = id.0;
        self.open -= 1;
    }

    /// The slot of an open socket.
    pub(super) fn get(&mut self, id: SocketId) -> Option<&mut Slot> {
        let chunk = self.chunks.get_mut(id.0 as usize / CHUNK)?;
        Some(&mut chunk[id.0 as usize % CHUNK]).filter(|slot| slot.flags & OPEN != 0)
    }

    /// The slot of an open socket, if a completion with this generation belongs to it.
    pub(super) fn get_current(&mut self, id: SocketId, generation: u16) -> Option<&mut Slot> {
        self.get(id).filter(|slot| slot.generation == generation)
    }

    fn at(&mut self, id: SocketId) -> &mut Slot {
        &mut self.chunks[id.0 as usize / CHUNK][id.0 as usize % CHUNK]
    }

    fn grow(&mut self) {
        let base = self.allocated();
        let mut chunk =
            Box::new([Slot { table: NONE, record: NONE, ring: 0, generation: 0, flags: 0 }; CHUNK]);
        for (offset, slot) in chunk.iter_mut().enumerate().take(CHUNK - 1) {
            slot.table = base + offset as u32 + 1;
        }
        self.free = base;
        self.chunks.push(chunk);
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
        assert_eq!((slots.open, slots.allocated()), (3000, 3072));
        assert!(slots.get(SocketId(9999)).is_none());
    }
}
