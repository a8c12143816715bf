//! Moves a socket to a ring of another shard, and receives sockets that other shards send.
use super::driver::{Deferred, Driver};
use super::event::{Event, MAX_COOKIE};
use super::port::{Permit, RingPort};
use super::slots::{CLOSING, HANDING, IN_FLIGHT, LINGER, RECEIVING, WANT};
use super::tag::{self, OperationKind};
use crate::ids::SocketId;
use io_uring::{opcode, types};
use std::collections::HashMap;

/// The largest number of permits that may be outstanding for one ring, which bounds how many
/// sockets can arrive between two passes.
const MOST_PERMITS: u32 = 1024;

/// The hand-overs in flight, and what has to be reported or returned when they end.
pub(super) struct HandOvers {
    records: Vec<Option<(u64, Permit)>>,
    free: Vec<u32>,
    /// Hand-overs that start as soon as the receive in flight on their socket has ended.
    after_receive: HashMap<SocketId, (RingPort, u64)>,
}

impl HandOvers {
    pub(super) fn new() -> Self {
        HandOvers { records: Vec::new(), free: Vec::new(), after_receive: HashMap::new() }
    }

    pub(super) fn in_flight(&self) -> u32 {
        (self.records.len() - self.free.len()) as u32
    }

    fn put(&mut self, cookie: u64, permit: Permit) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.records.push(None);
            self.records.len() as u32 - 1
        });
        self.records[index as usize] = Some((cookie, permit));
        index
    }

    pub(super) fn take(&mut self, index: u32) -> (u64, Permit) {
        self.free.push(index);
        self.records[index as usize].take().expect("a hand-over completes once")
    }
}

impl Driver {
    /// The handle through which other shards send sockets to this one. From the first call on, some
    /// table entries are kept free for sockets that arrive.
    pub fn port(&mut self) -> RingPort {
        self.ported = true;
        self.grant_permits();
        self.port.clone()
    }

    /// Moves the socket to a ring of another shard, which reports it as `Arrived` with `cookie` (at
    /// most [`MAX_COOKIE`]). Here the hand-over ends with `HandedOver`. A receive in flight is
    /// cancelled first, and the bytes that it has taken are reported before. After a failed
    /// hand-over nothing is received until `receive`. No other operation may be in flight on the
    /// socket.
    pub fn hand_over(&mut self, socket: SocketId, to: &RingPort, cookie: u64) {
        let Some(slot) = self.slots.get(socket) else { return };
        let errno = match slot.flags & IN_FLIGHT {
            _ if slot.flags & (CLOSING | LINGER) != 0 => libc::EBADF,
            _ if cookie > MAX_COOKIE || to.is_same(&self.port) => libc::EINVAL,
            0 => match to.take() {
                Some(permit) => return self.send_away(socket, permit, cookie),
                None => libc::ENFILE,
            },
            RECEIVING if !self.hand_overs.after_receive.contains_key(&socket) => {
                slot.flags &= !WANT;
                self.hand_overs.after_receive.insert(socket, (to.clone(), cookie));
                return self.cancel_receive(socket);
            }
            _ => libc::EBUSY,
        };
        self.deferred.push_back(Deferred::HandedOver(socket, cookie, errno));
    }

    /// Starts the hand-over that waited for the receive in flight to end.
    #[inline]
    pub(super) fn begin_hand_over(&mut self, socket: SocketId) {
        if !self.hand_overs.after_receive.is_empty()
            && let Some((to, cookie)) = self.hand_overs.after_receive.remove(&socket)
        {
            self.hand_over(socket, &to, cookie);
        }
    }

    fn send_away(&mut self, socket: SocketId, permit: Permit, cookie: u64) {
        let target = types::Fd(permit.fd);
        let record = self.hand_overs.put(cookie, permit);
        let Some(slot) = self.slots.get(socket) else { return };
        slot.record = record;
        slot.flags |= HANDING;
        let entry = opcode::MsgRingSendFd::new(
            target,
            types::Fixed(slot.table),
            types::DestinationSlot::auto_target(),
            tag::arrival(cookie),
        )
        .build()
        .user_data(tag::tag(OperationKind::HandOver, slot.generation, socket.0));
        self.rings[slot.ring as usize].push(entry);
    }

    pub(super) fn handed_over(
        &mut self,
        socket: SocketId,
        generation: u16,
        result: i32,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let Some(slot) = self.slots.get_current(socket, generation) else { return };
        slot.flags &= !HANDING;
        let (record, closing) = (slot.record, slot.flags & CLOSING != 0);
        let (cookie, permit) = self.hand_overs.take(record);
        if closing {
            self.close_descriptor(socket);
        }
        if result < 0 {
            permit.give_back();
            handler(self, Event::HandedOver { socket, cookie, result: Err(-result) });
        } else {
            self.close(socket);
            handler(self, Event::HandedOver { socket, cookie, result: Ok(()) });
        }
        self.finish_if_done(socket, handler);
    }

    pub(super) fn arrived(
        &mut self,
        ring: usize,
        result: i32,
        cookie: u64,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        // The permit is used up even if the kernel, contrary to our accounting, found no free
        // entry.
        self.rings[ring].promised = self.rings[ring].promised.saturating_sub(1);
        if result < 0 {
            return;
        }
        self.rings[ring].used += 1;
        self.rings[ring].sockets += 1;
        self.counts.arrived += 1;
        let socket = self.slots.open(ring, result as u32);
        self.grant_permits();
        handler(self, Event::Arrived { socket, cookie });
    }

    /// Reserves a batch of table entries for arriving sockets, in a ring that has room.
    pub(super) fn grant_permits(&mut self) {
        if !self.ported {
            return;
        }
        let most = (self.rings[self.granting].capacity / 4).clamp(1, MOST_PERMITS);
        let out = self.port.permits(self.granting);
        // The permits are renewed when half of them are used. Renewing them at each arrival would
        // cost an atomic operation each time.
        if out > most / 2 {
            return;
        }
        if self.rings[self.granting].room() < most - out {
            let Some(ring) = self.roomiest_ring(most) else { return };
            if ring != self.granting {
                return self.grant_from(ring);
            }
        }
        self.grant(most);
    }

    /// Directs arriving sockets to `ring` from now on. The permits of the new ring are granted
    /// before those of the old one are withdrawn, because a sender that finds no permit closes the
    /// connection.
    pub(super) fn grant_from(&mut self, ring: usize) {
        let before = std::mem::replace(&mut self.granting, ring);
        self.grant((self.rings[ring].capacity / 4).clamp(1, MOST_PERMITS));
        let unused = self.port.withdraw(before);
        self.rings[before].promised -= unused;
    }

    /// Raises the number of permits to `most`, as far as the table has room.
    fn grant(&mut self, most: u32) {
        let ring = &mut self.rings[self.granting];
        let more = (most - self.port.permits(self.granting).min(most)).min(ring.room());
        ring.promised += more;
        self.port.grant(self.granting, more);
    }
}
